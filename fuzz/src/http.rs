//! What comes over a connection, into the whole server on a loopback socket.

use std::sync::LazyLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::shop::{Client, PATIENCE, Reply, Shop};

struct Street {
    runtime: Runtime,
    shop: Shop,
}

static STREET: LazyLock<Street> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let shop = runtime.block_on(Shop::open());
    Street { runtime, shop }
});

/// Whatever is sent, every answer keeps the contract, the server closes the connection once the
/// sender has, and the next buyer's order is taken.
pub fn any(bytes: &[u8]) {
    STREET.runtime.block_on(async {
        let mut client = STREET.shop.connect().await;
        let said = timeout(PATIENCE, exchange(&mut client, bytes)).await.expect("closed in time");
        for reply in replies(&said) {
            reply.keeps_the_contract();
        }
        STREET.shop.good_order().await;
    });
}

/// Everything that the server says to this.
async fn exchange(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    client.send(bytes).await;
    // A server that hung up already is no fault.
    let _closed = client.stream.shutdown().await;
    let mut said = Vec::new();
    let _reset = client.stream.read_to_end(&mut said).await;
    said
}

/// Cuts what was said into answers. Which of them had no body, because a HEAD asked for them, shows
/// in what follows: the next answer, or nothing.
fn replies(said: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut rest = said;
    while !rest.is_empty() {
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head") + 4;
        let head = String::from_utf8(rest[..end].to_vec()).expect("heads are ASCII");
        assert!(head.starts_with("HTTP/1."), "{head}");
        rest = &rest[end..];
        let status = head[9..12].parse().expect("a status");
        let mut reply = Reply { status, head, body: Vec::new() };
        if status == 100 {
            continue;
        }
        let length: usize =
            reply.header("content-length").expect("said").parse().expect("a number");
        let is_to_head = rest.is_empty() || rest.starts_with(b"HTTP/1.");
        if length > 0 && is_to_head {
            continue;
        }
        reply.body = rest[..length].to_vec();
        rest = &rest[length..];
        replies.push(reply);
    }
    replies
}
