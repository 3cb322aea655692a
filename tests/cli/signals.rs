//! SIGTERM and SIGINT.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{Process, Workdir, wait_for};

/// An idle process exits within a second; on a machine busy with tests it may take longer.
const AT_ONCE: Duration = Duration::from_secs(3);

fn assert_exits_at_once(mut process: Process) {
    let (status, took) = process.end();
    assert_eq!(status.code(), Some(0));
    assert!(took < AT_ONCE, "{took:?}");
}

#[test]
fn idle_process_exits_at_once() {
    for signal in ["TERM", "INT"] {
        for command in
            ["serve --listen 127.0.0.1:0", "serve --listen 127.0.0.1:0 --workers 5", "work"]
        {
            let workdir = Workdir::new();
            let mut process = workdir.start(command);
            process.log_line(if command == "work" { "working on" } else { "listening on" });
            assert!(process.logged[0].ends_with("backend embedded, data in ./flux.db"));
            // By now it waits in a receive.
            std::thread::sleep(Duration::from_millis(300));
            process.signal(signal);
            assert_exits_at_once(process);
        }
    }
}

/// A server with a client that has sent only a part of its request.
fn busy_server(workdir: &Workdir) -> (Process, TcpStream) {
    let (serve, address) = workdir.serve("");
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"POST /buy HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n").unwrap();
    client.write_all(b"Content-Type: application/json\r\n\r\n{\"user_id\"").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    (serve, client)
}

#[test]
fn second_signal_exits_at_once() {
    for second in ["TERM", "INT"] {
        let workdir = Workdir::new();
        let (mut serve, _client) = busy_server(&workdir);
        serve.signal("TERM");
        serve.log_line("a second signal exits at once");
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(serve.child.try_wait().unwrap(), None, "it waits for its client");
        serve.signal(second);
        assert_exits_at_once(serve);
    }
}

#[test]
fn simultaneous_signals_count_as_one() {
    let workdir = Workdir::new();
    let (mut serve, _client) = busy_server(&workdir);
    serve.signal("INT");
    serve.signal("TERM");
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(serve.child.try_wait().unwrap(), None, "it waits for its client");
    serve.signal("TERM");
    assert_exits_at_once(serve);
}

#[test]
fn hanging_call_does_not_delay_exit() {
    let file = "config/flux.toml";
    let workdir = Workdir::new().with_file(file, "log = \"info\"");
    let (mut serve, _) = workdir.serve("");
    std::fs::remove_file(workdir.path(file)).unwrap();
    // Opening a FIFO blocks until another process writes to it, and cannot be cancelled.
    assert!(Command::new("mkfifo").arg(workdir.path(file)).status().unwrap().success());
    serve.signal("HUP");
    std::thread::sleep(Duration::from_millis(300));
    serve.signal("TERM");
    serve.log_line("stopped");
    assert_exits_at_once(serve);
}

#[test]
fn unread_log_does_not_delay_exit() {
    let workdir = Workdir::new()
        .with("FLUX_LOG", "debug")
        .with("FLUX_GRACE_MS", "1000")
        .with("FLUX_RECEIVE_WAIT_MS", "100");
    let mut serve = workdir.command("serve --listen 127.0.0.1:0");
    let mut serve = serve.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(serve.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on http://") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
    }
    let address = line.trim_end().split_once("http://").unwrap().1;
    let body = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
    let request = format!(
        "POST /buy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // More log lines than fit into the pipe.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = TcpStream::connect(address).unwrap();
            client.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            let _stuck = client.write_all(request.repeat(1_000).as_bytes());
            client
        })
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    let killed = Command::new("kill").arg(serve.id().to_string()).status().unwrap();
    assert!(killed.success());
    assert_eq!(wait_for(&mut serve).and_then(|status| status.code()), Some(0));
    drop((clients, log));
}
