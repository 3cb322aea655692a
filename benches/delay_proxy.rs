//! A TCP proxy that brings every request later by a fixed time, as a network would, and holds
//! nothing back otherwise: what comes after is on its way meanwhile.
//!
//! `delay_proxy UPSTREAM MILLISECONDS`: listens on a free port of 127.0.0.1 and says which.
//! Threads that sleep in place of a runtime's timer, which counts in whole milliseconds.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: delay_proxy HOST:PORT MILLISECONDS";

/// Reads from `from` until it ends, and hands on each piece with the time it is due.
fn take(mut from: TcpStream, delay: Duration, due: mpsc::Sender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || due.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

/// Writes each piece to `to` when it is due; ends when there are no more or `to` is closed.
fn give(mut to: TcpStream, due: mpsc::Receiver<(Instant, Vec<u8>)>) {
    for (at, piece) in due {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _closed_already = to.shutdown(Shutdown::Write);
}

/// Carries one connection, requests late, answers at once.
fn carry(client: TcpStream, upstream: &str, delay: Duration) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (sender, pieces) = mpsc::channel();
    let (requests, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || take(requests, delay, sender));
    std::thread::spawn(move || give(to_server, pieces));
    let (mut answers, mut to_client) = (server, client);
    std::io::copy(&mut answers, &mut to_client)?;
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
        let (client, upstream) = (client?, upstream.clone());
        std::thread::spawn(move || {
            // A broken connection is the two parties' affair.
            let _broken = carry(client, &upstream, delay);
        });
    }
    Ok(())
}
