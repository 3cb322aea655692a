//! A TCP proxy that delays every request by a fixed time, as a network would. Requests on the same
//! connection overlap: a delayed one does not block the next.
//!
//! `delay_proxy UPSTREAM MILLISECONDS` listens on a free port of 127.0.0.1 and prints the address.
//! Threads sleep for the delay, because a runtime's timer has a resolution of whole milliseconds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use tokio::time::Instant;

const USAGE: &str = "usage: delay_proxy HOST:PORT MILLISECONDS";

/// Reads from `from` until its end, and sends each piece to `due` with the time to write it.
fn read(mut from: TcpStream, delay: Duration, due: mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || due.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

/// Writes each piece to `to` at its time. Returns at the end of the pieces, or if `to` is closed.
fn write(mut to: TcpStream, due: mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (at, piece) in due {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _closed_already = to.shutdown(Shutdown::Write);
}

/// Forwards one connection: requests with the delay, responses at once.
fn forward(client: TcpStream, upstream: &str, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (sender, pieces) = mpsc::channel();
    let from_client = client.try_clone()?;
    let to_server = server.try_clone()?;
    std::thread::spawn(move || read(from_client, delay, sender));
    std::thread::spawn(move || write(to_server, pieces));
    let mut from_server = server;
    let mut to_client = client;
    std::io::copy(&mut from_server, &mut to_client)?;
    to_client.shutdown(Shutdown::Both)
}

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let upstream = arguments.next().expect(USAGE);
    let delay: f64 = arguments.next().and_then(|ms| ms.parse().ok()).expect(USAGE);
    let delay = Duration::from_secs_f64(delay / 1000.0);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening on {}", listener.local_addr()?);
    for client in listener.incoming() {
        let client = client?;
        let upstream = upstream.clone();
        std::thread::spawn(move || {
            // The client and the server notice a broken connection by themselves.
            let _broken = forward(client, &upstream, delay);
        });
    }
    Ok(())
}
