//! Requests from pages of other sites to a server without keys.

use flux::http::{AccessRules, Keys, Origins, Proxies, PublicUrl};

use super::*;

const ANNS: &str = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
const JSON: &str = "Content-Type: application/json\r\n";

fn rules() -> AccessRules {
    AccessRules {
        origins: Origins::parse("https://listed.example").unwrap(),
        public_url: Some(PublicUrl::parse("https://public.example/flux").unwrap()),
        ..AccessRules::default()
    }
}

async fn server(access: AccessRules) -> TestServer {
    TestServer::start_with(Setup { access, ..Setup::default() }).await
}

/// The response to an order with exactly these headers.
async fn buys_with(server: &TestServer, headers: &str) -> Reply {
    let mut client = server.connect().await;
    let length = ANNS.len();
    let head = format!("POST /buy HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n");
    client.send(format!("{head}{ANNS}")).await;
    client.reply(false).await.expect("an answer")
}

#[tokio::test]
async fn foreign_site_cannot_buy_without_keys() {
    let server = server(rules()).await;
    let bought = async |headers: &str| {
        let reply = buys_with(&server, &format!("Host: localhost:5000\r\n{JSON}{headers}")).await;
        if reply.status != 202 {
            let detail = reply.problem(403);
            assert!(detail.contains("cors_origins") && detail.contains("public_url"), "{detail}");
        }
        reply.status == 202
    };
    for headers in [
        "",
        "Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost:5000\r\n",
        // A proxy may change scheme and host; `Sec-Fetch-Site` decides.
        "Sec-Fetch-Site: same-origin\r\nOrigin: https://shop.example\r\n",
        "Sec-Fetch-Site: none\r\n",
        "Origin: http://localhost:5000\r\n",
        "Origin: http://LOCALHOST:5000\r\n",
        "Origin: https://listed.example\r\n",
        "Sec-Fetch-Site: cross-site\r\nOrigin: https://listed.example\r\n",
        "Origin: https://public.example\r\n",
        "Sec-Fetch-Site: cross-site\r\nOrigin: https://public.example\r\n",
    ] {
        assert!(bought(headers).await, "{headers}");
    }
    for headers in [
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\n",
        "Sec-Fetch-Site: Same-Origin\r\n",
        "Sec-Fetch-Site:\r\n",
        "Sec-Fetch-Site: cross-site\r\nOrigin: null\r\n",
        "Sec-Fetch-Site: cross-site\r\nOrigin: https://evil.example\r\n",
        "Sec-Fetch-Site: same-site\r\nOrigin: http://localhost:3000\r\n",
        "Sec-Fetch-Site: cross-site\r\nOrigin: http://localhost:5000\r\n",
        "Origin: null\r\n",
        "Origin:\r\n",
        "Origin: localhost:5000\r\n",
        "Origin: http://localhost\r\n",
        "Origin: http://localhost:5001\r\n",
        "Origin: http://evil.example\r\n",
        "Origin: http://localhost.evil.example:5000\r\n",
        "Origin: http://localhost:5000@evil.example\r\n",
        "Origin: https://listed.example.evil\r\n",
        "Origin: https://public.example:444\r\n",
        // This client is not a trusted proxy, so its X-Forwarded-Host is ignored.
        "Origin: https://evil.example\r\nX-Forwarded-Host: evil.example\r\n",
    ] {
        assert!(!bought(headers).await, "{headers}");
    }
    assert_eq!(server.get("/stats").await.json()["accepted"], 10);
}

#[tokio::test]
async fn order_without_keys_needs_a_content_type() {
    let server = server(rules()).await;
    for kind in ["", "Content-Type:\r\n", "Content-Type: text/plain\r\n"] {
        let detail = buys_with(&server, kind).await.problem(415);
        assert!(detail.contains("Content-Type: application/json"), "{detail}");
    }
    for kind in [JSON, "content-type: Application/JSON; charset=utf-8\r\n"] {
        assert_eq!(buys_with(&server, kind).await.status, 202, "{kind}");
    }
}

#[tokio::test]
async fn trusted_proxy_forwards_the_host() {
    let trusted_proxies = Proxies::parse("127.0.0.1").unwrap();
    let server = server(AccessRules { trusted_proxies, ..AccessRules::default() }).await;
    let host = format!("Host: shop.example\r\n{JSON}");
    let ours = "Origin: https://shop.example\r\n";
    let rewritten = format!("Host: flux.internal:5000\r\n{JSON}");
    for headers in [
        format!("{host}{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example\r\n{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example:443, other.example\r\n{ours}"),
        rewritten.clone(),
    ] {
        assert_eq!(buys_with(&server, &headers).await.status, 202, "{headers}");
    }
    for headers in [
        format!("{rewritten}{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example\r\nOrigin: https://evil.example\r\n"),
    ] {
        buys_with(&server, &headers).await.problem(403);
    }
}

#[tokio::test]
async fn foreign_host_is_refused_on_loopback() {
    let listen_host = Some("flux.test".to_owned());
    let server = server(AccessRules { listen_host, ..rules() }).await;
    let page = "Sec-Fetch-Site: same-origin\r\n";
    for host in [
        "localhost",
        "localhost:8080",
        "LocalHost.",
        "sale.localhost:5000",
        "127.0.0.1:5000",
        "127.9.9.9",
        "[::1]:5000",
        "flux.test:5000",
        "public.example",
    ] {
        let headers = format!("Host: {host}\r\n{page}{JSON}");
        assert_eq!(buys_with(&server, &headers).await.status, 202, "{host}");
    }
    for host in
        ["evil.example", "evil.example:5000", "localhost.evil.example", "192.0.2.1", "", "a b"]
    {
        let detail =
            buys_with(&server, &format!("Host: {host}\r\n{page}{JSON}")).await.problem(403);
        assert!(detail.contains("public_url") && detail.contains("trusted_proxies"), "{detail}");
        // Other routes are refused as well, except health checks.
        for (path, status) in
            [("/inventory", 403), ("/events", 403), ("/", 403), ("/healthz", 200), ("/readyz", 200)]
        {
            let mut client = server.connect().await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(client.reply(true).await.unwrap().status, status, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn credential_passes_site_checks() {
    let other = "Host: other.example\r\nOrigin: https://other.example:1\r\n\
                 Sec-Fetch-Site: cross-site\r\n";
    let keyed = AccessRules { buy_keys: Keys::parse(&"the shop".into()), ..rules() };
    for (access, key) in [(keyed, "the shop"), (rules(), ADMIN_KEY)] {
        let server = server(access).await;
        let headers = format!("{other}Authorization: Bearer {key}\r\n");
        assert_eq!(buys_with(&server, &headers).await.status, 202, "{key}");
    }
}
