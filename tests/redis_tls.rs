//! Redis and TLS: the hosts to which a password is sent, and its encryption.

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
/// A name that the resolver reads as this machine, but that does not have the form of a private host.
const PUBLIC: &str = "127.1";

/// The bytes received over each connection so far.
type Received = Arc<Mutex<Vec<Vec<u8>>>>;

/// Responds to each command like Redis, and to `CLUSTER SLOTS` with one node.
async fn listen(node: Option<SocketAddr>) -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Received::default();
    let all = received.clone();
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
    (address, received)
}

async fn connect(url: String, tls: Tls) -> Redis {
    let password = Some(PASSWORD.to_owned());
    let settings = RedisSettings { url, password, tls, prefix: "tls".to_owned() };
    Redis::connect(settings, Arc::new(Calls::default())).await.unwrap()
}

/// Waits until one of the connections matches.
async fn until(received: &Received, what: &str, matches: impl Fn(&[u8]) -> bool) {
    until_all(received, what, |all| all.iter().any(|bytes| matches(bytes))).await;
}

async fn until_all(received: &Received, what: &str, matches: impl Fn(&[Vec<u8>]) -> bool) {
    let begun = Instant::now();
    while !matches(&received.lock().unwrap()) {
        assert!(begun.elapsed() < PATIENCE, "no {what}: {:?}", received.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has_password(bytes: &[u8]) -> bool {
    String::from_utf8_lossy(bytes).contains(PASSWORD)
}

fn assert_no_password(received: &Received) {
    let received = received.lock().unwrap();
    assert!(
        !received.is_empty() && !received.iter().any(|bytes| has_password(bytes)),
        "{received:?}"
    );
}

#[tokio::test]
async fn password_is_not_sent_in_clear_to_a_public_host() {
    let (address, received) = listen(None).await;
    let port = address.port();
    for host in [PUBLIC, "2130706433", "0x7f000001"] {
        for url in
            [format!("redis://{host}:{port}"), format!("redis://ann:{PASSWORD}@{host}:{port}")]
        {
            let before = received.lock().unwrap().len();
            let _redis = connect(url, Tls::Auto).await;
            until_all(&received, "attempt", |all| all.len() > before).await;
        }
    }
    assert_no_password(&received);

    // With TLS off, or to this machine by its address, the password is sent.
    let _redis = connect(format!("redis://{PUBLIC}:{port}"), Tls::Off).await;
    until(&received, "password", has_password).await;
    let (address, received) = listen(None).await;
    let _redis = connect(format!("redis://{address}"), Tls::Auto).await;
    until(&received, "password", has_password).await;
}

#[tokio::test]
async fn tls_begins_before_the_password() {
    for (scheme, tls) in [("redis", Tls::On), ("rediss", Tls::Auto), ("rediss", Tls::Off)] {
        let (address, received) = listen(None).await;
        let _redis = connect(format!("{scheme}://{address}"), tls).await;
        // A TLS record with a handshake (RFC 8446, section 5.1).
        until(&received, "handshake", |bytes| bytes.starts_with(&[22, 3])).await;
        assert_no_password(&received);
    }
}

#[tokio::test]
async fn cluster_cannot_lead_the_password_to_a_public_host() {
    let (public, by_public) = listen(None).await;
    let (private, by_private) = listen(Some(public)).await;
    let redis = connect(format!("redis-cluster://{private}"), Tls::Auto).await;
    until(&by_private, "password", has_password).await;
    until(&by_public, "attempt", |_| true).await;
    assert_no_password(&by_public);
    drop(redis);

    let (public, by_public) = listen(None).await;
    let (private, _) = listen(Some(public)).await;
    let _redis = connect(format!("redis-cluster://{private}"), Tls::Off).await;
    until(&by_public, "password", has_password).await;
}
