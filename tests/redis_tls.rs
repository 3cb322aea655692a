//! Redis and TLS: to whom a password is sent, and how.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flux::adapters::redis::client::{Redis, RedisSettings};
use flux::clear_text::Tls;
use flux::core::ports::usage::Calls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PASSWORD: &str = "open-sesame-redis";
const PATIENCE: Duration = Duration::from_secs(20);
/// Reaches this machine as the resolver reads it, and has the form of no private host.
const PUBLIC: &str = "127.1";

/// What came over each connection so far.
type Heard = Arc<Mutex<Vec<Vec<u8>>>>;

/// Answers each command like a Redis, and `CLUSTER SLOTS` with one node.
async fn listen(node: Option<SocketAddr>) -> (SocketAddr, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Heard::default();
    let all = heard.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let all = all.clone();
            let n = {
                let mut all = all.lock().unwrap();
                all.push(Vec::new());
                all.len() - 1
            };
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    all.lock().unwrap()[n].extend_from_slice(&bytes[..read]);
                    let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                    let answer = match node.filter(|_| text.contains("SLOTS")) {
                        Some(node) => format!(
                            "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n${}\r\n{PUBLIC}\r\n:{}\r\n$2\r\nid\r\n",
                            PUBLIC.len(),
                            node.port()
                        ),
                        None if text.contains("CLUSTER") => {
                            "$16\r\ncluster_state:ok\r\n".to_owned()
                        }
                        None => "+OK\r\n".to_owned(),
                    };
                    let _hung_up = stream.write_all(answer.as_bytes()).await;
                }
            });
        }
    });
    (address, heard)
}

async fn connect(url: String, tls: Tls) -> Redis {
    let password = Some(PASSWORD.to_owned());
    let settings = RedisSettings { url, password, tls, prefix: "tls".to_owned() };
    Redis::connect(settings, Arc::new(Calls::default())).await.unwrap()
}

/// Waits until one of the connections `fits`.
async fn until(heard: &Heard, what: &str, fits: impl Fn(&[u8]) -> bool) {
    until_all(heard, what, |all| all.iter().any(|bytes| fits(bytes))).await;
}

async fn until_all(heard: &Heard, what: &str, fit: impl Fn(&[Vec<u8>]) -> bool) {
    let begun = Instant::now();
    while !fit(&heard.lock().unwrap()) {
        assert!(begun.elapsed() < PATIENCE, "no {what}: {:?}", heard.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has_password(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains(PASSWORD)
}

fn assert_no_password(heard: &Heard) {
    let heard = heard.lock().unwrap();
    assert!(!heard.is_empty() && !heard.iter().any(|bytes| has_password(bytes)), "{heard:?}");
}

#[tokio::test]
async fn password_is_not_sent_in_clear_to_a_public_host() {
    let (address, heard) = listen(None).await;
    let port = address.port();
    for host in [PUBLIC, "2130706433", "0x7f000001"] {
        for url in
            [format!("redis://{host}:{port}"), format!("redis://ann:{PASSWORD}@{host}:{port}")]
        {
            let before = heard.lock().unwrap().len();
            let _redis = connect(url, Tls::Auto).await;
            until_all(&heard, "attempt", |all| all.len() > before).await;
        }
    }
    assert_no_password(&heard);

    // The same by demand, and to this machine by its address: there it is sent.
    let _redis = connect(format!("redis://{PUBLIC}:{port}"), Tls::Off).await;
    until(&heard, "password", has_password).await;
    let (address, heard) = listen(None).await;
    let _redis = connect(format!("redis://{address}"), Tls::Auto).await;
    until(&heard, "password", has_password).await;
}

#[tokio::test]
async fn tls_begins_before_the_password() {
    for (scheme, tls) in [("redis", Tls::On), ("rediss", Tls::Auto), ("rediss", Tls::Off)] {
        let (address, heard) = listen(None).await;
        let _redis = connect(format!("{scheme}://{address}"), tls).await;
        // A record of TLS that carries a handshake (RFC 8446, 5.1).
        until(&heard, "handshake", |bytes| bytes.starts_with(&[22, 3])).await;
        assert_no_password(&heard);
    }
}

#[tokio::test]
async fn cluster_cannot_lead_the_password_to_a_public_host() {
    let (public, told) = listen(None).await;
    let (private, asked) = listen(Some(public)).await;
    let redis = connect(format!("redis-cluster://{private}"), Tls::Auto).await;
    until(&asked, "password", has_password).await;
    until(&told, "attempt", |_| true).await;
    assert_no_password(&told);
    drop(redis);

    let (public, told) = listen(None).await;
    let (private, _) = listen(Some(public)).await;
    let _redis = connect(format!("redis-cluster://{private}"), Tls::Off).await;
    until(&told, "password", has_password).await;
}
