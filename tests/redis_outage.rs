//! Redis that is not reachable, returns, and fails over.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flux::adapters::redis::client::Redis;
use flux::adapters::redis::lock::RedisLock;
use flux::adapters::redis::notifier::RedisNotifier;
use flux::core::ports::lock::{Acquired, Lock, Token};
use flux::core::ports::notifier::{Notifier, Subscribers};
use tokio_util::sync::CancellationToken;

use crate::conformance::redis::connect_to;
use crate::conformance::{fresh_name, item, names, now};
use crate::support::free_port;
use crate::torture::proxy::Proxy;

/// A Redis of the test's own; dropping it stops the server.
pub struct Server(pub Child);

impl Server {
    pub fn start(port: u16, directory: &std::path::Path) -> Self {
        let child = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--port", &port.to_string(), "--dir"])
            .arg(directory)
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("redis-server is installed: run scripts/test"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const LEASE: Duration = Duration::from_secs(30);

/// Retries until the lock is acquired.
async fn wait_until_acquired(lock: &RedisLock) {
    let begun = Instant::now();
    loop {
        let token = Token(uuid::Uuid::new_v4().as_u128());
        match lock.acquire(&item(&fresh_name("item")), token, LEASE).await {
            Ok(result) => return assert_eq!(result, Acquired::Yes),
            Err(_) => assert!(begun.elapsed() < Duration::from_secs(10), "no lock"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn assert_fails_at_once(lock: &RedisLock) {
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(lock.acquire(&item("x"), Token(1), LEASE).await.is_err());
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

fn listen(
    notifier: &Arc<RedisNotifier>,
    subscribers: &Arc<Subscribers>,
    stop: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    let notifier = notifier.clone();
    let subscribers = subscribers.clone();
    let stop = stop.clone();
    tokio::spawn(async move { notifier.listen(subscribers, stop).await })
}

#[tokio::test]
async fn process_starts_without_redis_and_reconnects() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let begun = Instant::now();
    let redis: Redis = connect_to(&format!("redis://127.0.0.1:{port}"), fresh_name("away")).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let lock = RedisLock::new(redis.clone());
    assert_fails_at_once(&lock).await;
    let error = lock.check().await.unwrap_err().to_string();
    assert!(error.contains(&port.to_string()), "{error}");

    let notifier = Arc::new(RedisNotifier::new(redis));
    let subscribers = Arc::new(Subscribers::default());
    let stop = CancellationToken::new();
    let listening = listen(&notifier, &subscribers, &stop);

    for _ in 0..2 {
        let server = Server::start(port, directory.path());
        wait_until_acquired(&lock).await;
        let order = names().generate(now());
        let wait = subscribers.subscribe(order);
        let notification = wait.notification();
        tokio::pin!(notification);
        let begun = Instant::now();
        loop {
            notifier.publish(&[order]).await;
            let woken =
                tokio::time::timeout(Duration::from_millis(100), notification.as_mut()).await;
            if woken.is_ok() {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "no notification");
        }
        drop(server);
        // The first call may still wait for a response of the stopped server.
        let _first = lock.acquire(&item("x"), Token(1), LEASE).await;
        assert_fails_at_once(&lock).await;
    }
    stop.cancel();
    listening.await.unwrap();
}

/// Runs one command once the server listens; returns the first line of its response.
fn command(port: u16, text: &str) -> String {
    let begun = Instant::now();
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(e) => assert!(begun.elapsed() < Duration::from_secs(10), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    write!(stream, "{text}\r\n").unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_leaves_a_demoted_node() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let ports = [free_port(), free_port()];
    let _servers: Vec<Server> =
        ports.iter().zip(&directories).map(|(port, at)| Server::start(*port, at.path())).collect();
    assert_eq!(command(ports[1], &format!("REPLICAOF 127.0.0.1 {}", ports[0])), "+OK\r\n");
    let proxy = Proxy::before(format!("127.0.0.1:{}", ports[0])).await;
    let redis = connect_to(&format!("redis://127.0.0.1:{}", proxy.port), fresh_name("sale")).await;
    let lock = RedisLock::new(redis.clone());
    wait_until_acquired(&lock).await;
    let notifier = Arc::new(RedisNotifier::new(redis));
    let subscribers = Arc::new(Subscribers::default());
    let stop = CancellationToken::new();
    let listening = listen(&notifier, &subscribers, &stop);

    command(ports[1], "REPLICAOF NO ONE");
    command(ports[0], &format!("REPLICAOF 127.0.0.1 {}", ports[1]));
    proxy.leads_to(format!("127.0.0.1:{}", ports[1]));
    let error = lock.check().await.unwrap_err().to_string();
    assert!(error.contains("READONLY"), "{error}");
    wait_until_acquired(&lock).await;
    lock.check().await.unwrap();
    let begun = Instant::now();
    let order = names().generate(now());
    let wait = subscribers.subscribe(order);
    let notification = wait.notification();
    tokio::pin!(notification);
    loop {
        notifier.publish(&[order]).await;
        if tokio::time::timeout(Duration::from_millis(100), notification.as_mut()).await.is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "no notification from the new master");
    }
    stop.cancel();
    listening.await.unwrap();
}
