use super::bounds::{limits, sell};
use super::*;

#[tokio::test]
async fn unchanged_inventory_is_a_304() {
    let server = TestServer::start().await;
    sell(&server, 0..3).await;
    let first = server.get("/inventory").await;
    let tag = first.header("etag").unwrap();
    assert!(tag.starts_with('"'), "a strong ETag: {tag}");
    assert!(first.header("cache-control").unwrap().ends_with("max-age=1"));
    let mut client = server.connect().await;
    let mut ask = async |method: &str, tags: &str| {
        let head = format!("{method} /inventory HTTP/1.1\r\nIf-None-Match: {tags}\r\n\r\n");
        client.send(head).await;
        let head = client.reply(true).await.unwrap();
        if head.status == 200 && method == "GET" {
            client = server.connect().await;
        }
        (head.status, head.header("etag") == Some(tag))
    };
    for tags in [tag, "*", &format!("\"x\", W/{tag}")] {
        assert_eq!(ask("GET", tags).await, (304, true), "{tags}");
        assert_eq!(ask("HEAD", tags).await, (304, true), "{tags}");
    }
    assert_eq!(ask("GET", "\"x\"").await, (200, true));

    sell(&server, 3..4).await;
    let begun = std::time::Instant::now();
    while ask("GET", tag).await == (304, true) {
        assert!(begun.elapsed() < PATIENCE, "the fourth item never appears");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.get("/inventory").await.json().as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn concurrent_polls_share_a_read() {
    // Memory for one page only: a second read of the ledger would be a 503.
    let server = TestServer::start_with(limits(100, 10_000, 1_000)).await;
    sell(&server, 0..500).await;
    for _ in 0..4 {
        let polls = (0..80).map(|_| server.get("/inventory"));
        let replies = futures_util::future::join_all(polls).await;
        assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == replies[0].body));
        // The cached page gives way to other lists.
        assert_eq!(server.get("/items").await.status, 200);
    }
}

#[tokio::test]
async fn long_inventory_has_linked_pages() {
    let server = TestServer::start().await;
    sell(&server, 0..1_001).await;
    let first = server.get("/inventory").await;
    assert_eq!(first.json().as_array().unwrap().len(), 1_000);
    let link = first.header("link").unwrap();
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let second = server.get(next).await;
    assert_eq!(second.json().as_array().unwrap().len(), 1);
    assert_eq!(second.header("link"), None);
}
