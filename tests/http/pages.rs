//! The responses with pages and their files. tests/browser tests them in a browser.

use super::*;

/// The texts between `before` and the next quotation mark.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

#[tokio::test]
async fn pages_use_only_files_of_this_server() {
    let server = TestServer::start().await;
    // URLs are relative, so that a proxy can serve the pages below a path.
    for (path, assets) in
        [("/", "assets/"), ("/docs", "assets/"), ("/buy/ticket_001", "../assets/")]
    {
        let page = server.get(path).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, Some("text/html; charset=utf-8"))
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let html = page.text();
        assert!(!html.contains(" style="));
        assert_eq!(html.matches("<script").count(), html.matches("<script src=").count());
        assert!(!html.contains("src=\"/") && !html.contains("href=\"/"), "{path}");
        let named = ["src", "href"].map(|name| quoted(&html, &format!("{name}=\"{assets}")));
        let mut files: Vec<String> = named.concat().into_iter().map(str::to_owned).collect();
        let mut seen = Vec::new();
        while let Some(file) = files.pop() {
            if seen.contains(&file) {
                continue;
            }
            let asset = server.get(&format!("/assets/{file}")).await;
            assert_eq!(asset.status, 200, "{file} of {path}");
            assert_eq!(asset.header("x-content-type-options"), Some("nosniff"));
            let text = asset.text().replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{file}");
            assert!(!text.contains("url(\"/") && !text.contains("from \"/"), "{file}");
            let named = ["url(\"", "from \"./"].map(|before| quoted(&text, before));
            files.extend(named.concat().into_iter().map(str::to_owned));
            seen.push(file);
        }
        assert!(seen.len() >= 4, "{seen:?}");
    }
}

#[tokio::test]
async fn unchanged_page_is_a_304() {
    let server = TestServer::start().await;
    for path in ["/", "/buy/ticket_001", "/assets/theme.css"] {
        let tag = server.get(path).await.header("etag").unwrap().to_owned();
        let mut client = server.connect().await;
        client.send(format!("GET {path} HTTP/1.1\r\nIf-None-Match: {tag}\r\n\r\n")).await;
        let same = client.reply(true).await.unwrap();
        assert_eq!((same.status, same.header("etag")), (304, Some(tag.as_str())));
    }
    for path in ["/buy/a%20b", "/assets/none", "/assets/..%2fbuy.html"] {
        server.get(path).await.problem(404);
    }
    assert_eq!(server.ask("POST", "/buy/a", "", "").await.header("allow"), Some("GET, HEAD"));
}
