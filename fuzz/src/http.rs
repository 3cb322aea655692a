//! Bytes of a connection, sent to the whole server on a loopback socket.

use std::sync::LazyLock;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::test_server::{Client, PATIENCE, Reply, TestServer};

struct Server {
    runtime: Runtime,
    server: TestServer,
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let runtime = Runtime::new().expect("a runtime");
    let server = runtime.block_on(TestServer::start());
    Server { runtime, server }
});

/// Every response keeps the contract, the server closes the connection after the client has, and
/// the next buyer's order is accepted.
pub fn any(bytes: &[u8]) {
    SERVER.runtime.block_on(async {
        let mut client = SERVER.server.connect().await;
        let output = timeout(PATIENCE, exchange(&mut client, bytes)).await.expect("closed in time");
        for reply in replies(&output) {
            reply.keeps_the_contract();
        }
        SERVER.server.good_order().await;
    });
}

/// Sends the bytes and returns everything that the server sends back.
async fn exchange(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    client.send(bytes).await;
    // The server may have closed the connection already.
    let _closed = client.stream.shutdown().await;
    let mut output = Vec::new();
    let _reset = client.stream.read_to_end(&mut output).await;
    output
}

/// Splits the output into responses. A response to HEAD has no body: the next response, or nothing,
/// follows its head.
fn replies(output: &[u8]) -> Vec<Reply> {
    let mut replies = Vec::new();
    let mut rest = output;
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
            reply.header("content-length").expect("present").parse().expect("a number");
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
