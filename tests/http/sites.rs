//! Pages of other sites, which a browser lets send requests: what they can do without keys.

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

async fn shop(access: AccessRules) -> Shop {
    Shop::open_as(Setup { access, ..Setup::default() }).await
}

/// The answer to an order with exactly these header lines.
async fn buys_with(shop: &Shop, headers: &str) -> Reply {
    let mut client = shop.connect().await;
    let length = ANNS.len();
    let head = format!("POST /buy HTTP/1.1\r\n{headers}Content-Length: {length}\r\n\r\n");
    client.send(format!("{head}{ANNS}")).await;
    client.reply(false).await.expect("an answer")
}

#[tokio::test]
async fn without_keys_a_page_of_another_site_cannot_buy() {
    let shop = shop(rules()).await;
    let bought = async |headers: &str| {
        let reply = buys_with(&shop, &format!("Host: localhost:5000\r\n{JSON}{headers}")).await;
        if reply.status != 202 {
            let detail = reply.problem(403);
            assert!(detail.contains("cors_origins") && detail.contains("public_url"), "{detail}");
        }
        reply.status == 202
    };
    for headers in [
        "",
        "Sec-Fetch-Site: same-origin\r\nOrigin: http://localhost:5000\r\n",
        // Where a proxy changes scheme and host, the browser knows better.
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
        // Nobody here may say that it was asked for another host.
        "Origin: https://evil.example\r\nX-Forwarded-Host: evil.example\r\n",
    ] {
        assert!(!bought(headers).await, "{headers}");
    }
    assert_eq!(shop.get("/stats").await.json()["accepted"], 10);
}

#[tokio::test]
async fn without_keys_an_order_says_that_it_is_json() {
    let shop = shop(rules()).await;
    for kind in ["", "Content-Type:\r\n", "Content-Type: text/plain\r\n"] {
        let detail = buys_with(&shop, kind).await.problem(415);
        assert!(detail.contains("Content-Type: application/json"), "{detail}");
    }
    for kind in [JSON, "content-type: Application/JSON; charset=utf-8\r\n"] {
        assert_eq!(buys_with(&shop, kind).await.status, 202, "{kind}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_which_host_was_asked() {
    let trusted_proxies = Proxies::parse("127.0.0.1").unwrap();
    let shop = shop(AccessRules { trusted_proxies, ..AccessRules::default() }).await;
    let host = format!("Host: shop.example\r\n{JSON}");
    let ours = "Origin: https://shop.example\r\n";
    let rewritten = format!("Host: flux.internal:5000\r\n{JSON}");
    for headers in [
        format!("{host}{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example\r\n{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example:443, other.example\r\n{ours}"),
        rewritten.clone(),
    ] {
        assert_eq!(buys_with(&shop, &headers).await.status, 202, "{headers}");
    }
    for headers in [
        format!("{rewritten}{ours}"),
        format!("{rewritten}X-Forwarded-Host: shop.example\r\nOrigin: https://evil.example\r\n"),
    ] {
        buys_with(&shop, &headers).await.problem(403);
    }
}

#[tokio::test]
async fn on_loopback_without_keys_a_foreign_host_is_not_answered() {
    let listen_host = Some("flux.test".to_owned());
    let shop = shop(AccessRules { listen_host, ..rules() }).await;
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
        assert_eq!(buys_with(&shop, &headers).await.status, 202, "{host}");
    }
    for host in
        ["evil.example", "evil.example:5000", "localhost.evil.example", "192.0.2.1", "", "a b"]
    {
        let detail = buys_with(&shop, &format!("Host: {host}\r\n{page}{JSON}")).await.problem(403);
        assert!(detail.contains("public_url") && detail.contains("trusted_proxies"), "{detail}");
        // Names and orders are not shown to such a page either; whether it is well is.
        for (path, status) in
            [("/inventory", 403), ("/events", 403), ("/", 403), ("/healthz", 200), ("/readyz", 200)]
        {
            let mut client = shop.connect().await;
            client.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
            assert_eq!(client.reply(true).await.unwrap().status, status, "{host} {path}");
        }
    }
}

#[tokio::test]
async fn a_credential_passes_from_any_site_and_to_any_host() {
    let other = "Host: other.example\r\nOrigin: https://other.example:1\r\n\
                 Sec-Fetch-Site: cross-site\r\n";
    let keyed = AccessRules { buy_keys: Keys::parse(&"the shop".into()), ..rules() };
    for (access, key) in [(keyed, "the shop"), (rules(), ADMIN_KEY)] {
        let shop = shop(access).await;
        let headers = format!("{other}Authorization: Bearer {key}\r\n");
        assert_eq!(buys_with(&shop, &headers).await.status, 202, "{key}");
    }
}
