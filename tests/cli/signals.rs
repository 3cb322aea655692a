//! When told to stop.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use super::{Desk, Process};

/// An idle process leaves within a second; a machine full of tests may take longer.
const AT_ONCE: Duration = Duration::from_secs(3);

fn leaves_at_once(mut process: Process) {
    let (status, took) = process.end();
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn an_idle_process_leaves_at_once() {
    for signal in ["TERM", "INT"] {
        for command in
            ["serve --listen 127.0.0.1:0", "serve --listen 127.0.0.1:0 --workers 5", "work"]
        {
            let desk = Desk::new();
            let mut process = desk.start(command);
            process.log_line(if command == "work" { "working on" } else { "listening on" });
            assert!(process.logged[0].ends_with("backend embedded, data in ./flux.db"));
            // In the middle of a receive that waits.
            std::thread::sleep(Duration::from_millis(300));
            process.signal(signal);
            leaves_at_once(process);
        }
    }
}

/// A server with a client that is in the middle of its request.
fn busy_server(desk: &Desk) -> (Process, TcpStream) {
    let (serve, address) = desk.serve("");
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"POST /buy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n").unwrap();
    client.write_all(b"Content-Type: application/json\r\n\r\n{\"user_id\"").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    (serve, client)
}

#[test]
fn a_second_signal_leaves_at_once() {
    for second in ["TERM", "INT"] {
        let desk = Desk::new();
        let (mut serve, _client) = busy_server(&desk);
        serve.signal("TERM");
        serve.log_line("a second signal leaves at once");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(serve.child.try_wait().unwrap(), None, "it waits for its client");
        serve.signal(second);
        leaves_at_once(serve);
    }
}

#[test]
fn one_wish_to_stop_that_comes_twice_is_no_second_signal() {
    let desk = Desk::new();
    let (mut serve, _client) = busy_server(&desk);
    serve.signal("INT");
    serve.signal("TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(serve.child.try_wait().unwrap(), None, "it waits for its client");
    serve.signal("TERM");
    leaves_at_once(serve);
}
