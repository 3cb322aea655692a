use super::bounds::{limits, sell};
use super::*;

#[tokio::test]
async fn who_polls_the_inventory_is_told_304_until_it_is_another() {
    let shop = Shop::open().await;
    sell(&shop, 0..3).await;
    let first = shop.get("/inventory").await;
    let tag = first.header("etag").unwrap();
    assert!(tag.starts_with('"'), "a strong one: {tag}");
    assert!(first.header("cache-control").unwrap().ends_with("max-age=1"));
    let mut client = shop.connect().await;
    let mut ask = async |method: &str, tags: &str| {
        let head = format!("{method} /inventory HTTP/1.1\r\nIf-None-Match: {tags}\r\n\r\n");
        client.send(head).await;
        let head = client.reply(true).await.unwrap();
        if head.status == 200 && method == "GET" {
            client = shop.connect().await;
        }
        (head.status, head.header("etag") == Some(tag))
    };
    for tags in [tag, "*", &format!("\"x\", W/{tag}")] {
        assert_eq!(ask("GET", tags).await, (304, true), "{tags}");
        assert_eq!(ask("HEAD", tags).await, (304, true), "{tags}");
    }
    assert_eq!(ask("GET", "\"x\"").await, (200, true));

    sell(&shop, 3..4).await;
    let begun = std::time::Instant::now();
    while ask("GET", tag).await == (304, true) {
        assert!(begun.elapsed() < PATIENCE, "the fourth is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shop.get("/inventory").await.json().as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn everybody_may_poll_the_inventory_at_once() {
    // One place for a page in memory: a second reading of the ledger would be a 503.
    let shop = Shop::open_as(limits(100, 10_000, 1_000)).await;
    sell(&shop, 0..500).await;
    for _ in 0..4 {
        let polls = (0..80).map(|_| shop.get("/inventory"));
        let replies = futures_util::future::join_all(polls).await;
        assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == replies[0].body));
        // Other lists have the place when they need it.
        assert_eq!(shop.get("/items").await.status, 200);
    }
}

#[tokio::test]
async fn a_long_inventory_comes_in_linked_pages() {
    let shop = Shop::open().await;
    sell(&shop, 0..1_001).await;
    let first = shop.get("/inventory").await;
    assert_eq!(first.json().as_array().unwrap().len(), 1_000);
    let link = first.header("link").unwrap();
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    let second = shop.get(next).await;
    assert_eq!(second.json().as_array().unwrap().len(), 1);
    assert_eq!(second.header("link"), None);
}
