//! Keys, rate limits, CORS and request ids.

use std::time::Instant;

use flux::http::{Access, AccessRules, Keys, Origins, Proxies, Rate};
use futures_util::future::join_all;
use serde_json::json;

use super::*;

const ANNS: &str = r#"{"user_id":"ann","item_id":"ticket_001"}"#;

fn keys(keys: &str) -> Keys {
    Keys::parse(&keys.into())
}

fn bearing(key: &str) -> String {
    format!("Authorization: Bearer {key}\r\n")
}

/// A server on which buying requires one of two keys.
async fn server_with_keys() -> TestServer {
    let access = AccessRules { buy_keys: keys("old key, new key"), ..AccessRules::default() };
    TestServer::start_with(Setup { access, ..Setup::default() }).await
}

#[tokio::test]
async fn buy_key_and_admin_key_buy_for_any_user() {
    let server = server_with_keys().await;
    for key in ["old key", "new key", ADMIN_KEY] {
        assert_eq!(server.buy(&bearing(key), ANNS).await.status, 202, "{key}");
    }
    for headers in ["", "Authorization: Basic b2xkIGtleQ==\r\n"] {
        let reply = server.buy(headers, ANNS).await;
        assert!(reply.problem(401).contains("Authorization: Bearer"));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
    }
    for wrong in ["old key, new key", "old kez", "old ke", "old key2", ","] {
        server.buy(&bearing(wrong), ANNS).await.problem(401);
    }
    assert_eq!(server.get("/stats").await.json()["accepted"], 3);
}

#[tokio::test]
async fn orders_require_a_credential_and_ids_are_not_revealed() {
    let server = server_with_keys().await;
    let order = server.buy(&bearing("new key"), ANNS).await.json();
    let there = format!("/orders/{}", order["order_id"].as_str().unwrap());
    for key in ["old key", ADMIN_KEY] {
        assert_eq!(server.ask("GET", &there, &bearing(key), "").await.json()["user_id"], "ann");
    }
    let missing = format!("/orders/{}", "0".repeat(32));
    for headers in [String::new(), bearing("wrong"), "Authorization: Basic YTpi\r\n".to_owned()] {
        for query in ["", "?wait=30", "?wait=x", "/events"] {
            let paths = [&*there, &*missing, "/orders/x"].map(|path| format!("{path}{query}"));
            let mut bodies = Vec::new();
            for path in &paths {
                // No worker runs, so a wait for the decision would exceed the client's timeout.
                let refused = server.ask("GET", path, &headers, "").await;
                refused.problem(401);
                assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
                bodies.push(refused.body);
            }
            assert!(bodies.iter().all(|body| *body == bodies[0]), "{query}");
        }
    }
}

#[tokio::test]
async fn withdrawn_key_ends_its_streams_and_waits() {
    let server = server_with_keys().await;
    let order = server.buy(&bearing("old key"), ANNS).await.json();
    let path = format!("/orders/{}", order["order_id"].as_str().unwrap());
    let mut withdrawn = server.events(&format!("{path}/events"), &bearing("old key")).await;
    let mut kept = server.events(&format!("{path}/events"), &bearing("new key")).await;
    for events in [&mut withdrawn, &mut kept] {
        assert_eq!(events.next().await.unwrap().1["user_id"], "ann");
    }
    let wait = format!("{path}?wait=30");
    let old_key = bearing("old key");
    let waiting = server.ask("GET", &wait, &old_key, "");
    let replacing = async {
        // The wait normally begins before the keys are replaced; otherwise it is refused as well.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let buy_keys = keys("new key");
        server.access.replace(AccessRules { buy_keys, ..AccessRules::default() });
    };
    let (waited, ()) = tokio::join!(waiting, replacing);
    waited.problem(401);
    assert_eq!(withdrawn.next().await, None, "no event after the key was withdrawn");
    server.start_worker();
    let mut last = None;
    while let Some((_, order)) = kept.next().await {
        last = Some(order);
    }
    assert_eq!(last.unwrap()["status"], "sold");
}

#[tokio::test]
async fn owners_require_the_admin_key_and_items_none() {
    let server = server_with_keys().await;
    let order = server.buy(&bearing("new key"), ANNS).await.json();
    server.start_worker();
    let path = format!("/orders/{}?wait=20", order["order_id"].as_str().unwrap());
    server.ask("GET", &path, &bearing("new key"), "").await;
    server.get("/inventory").await.problem(401);
    server.ask("GET", "/inventory", &bearing("new key"), "").await.problem(403);
    let owners = server.ask("GET", "/inventory", &bearing(ADMIN_KEY), "").await.json();
    assert_eq!(owners, json!([{ "id": "ticket_001", "owner": "ann" }]));
    assert_eq!(server.get("/items/ticket_001").await.json()["sold"], 1);
    assert_eq!(server.get("/items").await.status, 200);
    // A buy key does not allow admin requests.
    let stock = r#"{"stock":5}"#;
    server.ask("PUT", "/items/a", &bearing("new key"), stock).await.problem(403);
    assert_eq!(server.ask("PUT", "/items/a", &bearing(ADMIN_KEY), stock).await.status, 201);
}

#[tokio::test]
async fn json_is_not_sniffed() {
    let server = TestServer::start().await;
    for reply in [server.get("/stats").await, server.buy("", ANNS).await, server.get("/none").await]
    {
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{}", reply.head);
    }
}

fn bought_by(user: &str) -> String {
    json!({ "user_id": user, "item_id": "ticket_001" }).to_string()
}

/// The number of accepted orders. The others must have a Retry-After.
fn accepted(replies: &[Reply]) -> u64 {
    for reply in replies.iter().filter(|reply| reply.status != 202) {
        reply.problem(429);
        let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert_eq!(wait, 1, "one per second, rounded up");
    }
    replies.iter().filter(|reply| reply.status == 202).count() as u64
}

#[tokio::test]
async fn user_rate_counts_repeats() {
    let access = AccessRules { user_rate: Rate::new(1, 3), ..AccessRules::default() };
    let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
    let begun = Instant::now();
    let repeats = (0..40).map(|_| server.buy("Idempotency-Key: again\r\n", ANNS));
    let count = accepted(&join_all(repeats).await);
    let max = 3 + begun.elapsed().as_secs() + 1;
    assert!((3..=max).contains(&count), "{count} of at most {max}");
    let others = (0..40).map(|n| {
        let body = bought_by(&format!("user {n}"));
        let server = &server;
        async move { server.buy("", &body).await }
    });
    assert_eq!(accepted(&join_all(others).await), 40, "each user has their own limit");
}

#[tokio::test]
async fn address_rate_exempts_keys() {
    let access = AccessRules {
        address_rate: Rate::new(1, 3),
        trusted_proxies: Proxies::parse("127.0.0.0/8").unwrap(),
        ..AccessRules::default()
    };
    let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
    let all = async |headers: &dyn Fn(usize) -> String| {
        let buys = (0..40).map(|n| {
            let headers = headers(n);
            let body = bought_by(&format!("user {n}"));
            let server = &server;
            async move { server.buy(&headers, &body).await }
        });
        accepted(&join_all(buys).await)
    };
    let begun = Instant::now();
    let most = |begun: Instant| 3 + begun.elapsed().as_secs() + 1;
    let taken = all(&|_| String::new()).await;
    assert!((3..=most(begun)).contains(&taken), "{taken}");
    let begun = Instant::now();
    let same_network = |n| format!("X-Forwarded-For: 1.2.3.{n}, 2001:db8::{n:x}\r\n");
    let taken = all(&same_network).await;
    assert!((3..=most(begun)).contains(&taken), "{taken}");
    assert_eq!(all(&|n| format!("X-Forwarded-For: 192.0.2.{n}\r\n")).await, 40);
    assert_eq!(all(&|_| bearing(ADMIN_KEY)).await, 40);
}

#[tokio::test]
async fn invalid_keys_are_limited_and_valid_ones_are_not() {
    let access = AccessRules { buy_keys: keys("sesame"), ..AccessRules::default() };
    let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
    let begun = Instant::now();
    let mut answered = 0;
    let mut client = server.connect().await;
    for n in 0..1_000 {
        let reply = client.ask("GET", "/items", &bearing(&format!("guess {n}")), b"").await;
        match reply.status {
            200 => answered += 1,
            status => {
                reply.problem(status);
                assert_eq!((status, reply.header("retry-after")), (429, Some("1")));
            }
        }
        if n % 50 == 0 {
            assert_eq!(server.buy(&bearing("sesame"), ANNS).await.status, 202, "after {n} guesses");
            assert_eq!(
                server.ask("GET", "/inventory", &bearing(ADMIN_KEY), "").await.status,
                200,
                "after {n} guesses"
            );
        }
    }
    let max = 100 + 10 * (begun.elapsed().as_secs() + 1);
    assert!((100..=max).contains(&answered), "{answered} of at most {max}");
    assert_eq!(server.get("/healthz").await.status, 200, "requests without a key are not limited");
}

#[tokio::test]
async fn only_listed_origins_may_call() {
    let origins = Origins::parse("https://shop.example, http://localhost:3000").unwrap();
    let access = AccessRules { origins, buy_keys: keys("sesame"), ..AccessRules::default() };
    let server = TestServer::start_with(Setup { access, ..Setup::default() }).await;
    let allowed = |reply: &Reply| reply.header("access-control-allow-origin").map(str::to_owned);
    let from = |origin: &str| format!("Origin: {origin}\r\n");
    let asks = "Access-Control-Request-Method: POST\r\n\
                Access-Control-Request-Headers: authorization,idempotency-key\r\n";
    // A browser sends the preflight without a key.
    let first = server.ask("OPTIONS", "/buy", &(from("https://shop.example") + asks), "").await;
    assert_eq!((first.status, allowed(&first)), (204, Some("https://shop.example".to_owned())));
    let methods = first.header("access-control-allow-methods").unwrap();
    assert!(methods.contains("POST") && !methods.contains("PUT"), "{methods}");
    let headers = first.header("access-control-allow-headers").unwrap();
    for header in ["authorization", "idempotency-key", "content-type", "x-request-id"] {
        assert!(headers.contains(header), "{header}");
    }
    for reply in [
        server.buy(&(from("http://localhost:3000") + &bearing("sesame")), ANNS).await,
        server.buy(&from("http://localhost:3000"), ANNS).await,
    ] {
        assert_eq!(allowed(&reply), Some("http://localhost:3000".to_owned()));
        assert!(reply.header("access-control-expose-headers").unwrap().contains("location"));
        assert_eq!(reply.header("vary"), Some("Origin"));
    }
    for origin in ["https://shop.example.evil", "https://shop.example:444", "null", "https://SHOP"]
    {
        let first = server.ask("OPTIONS", "/buy", &(from(origin) + asks), "").await;
        assert_eq!((first.status, allowed(&first)), (204, None), "{origin}");
        assert_eq!(first.header("access-control-allow-methods"), None);
        assert_eq!(allowed(&server.ask("GET", "/items", &from(origin), "").await), None);
    }
    assert_eq!(server.get("/items").await.header("vary"), Some("Origin"));
    assert_eq!(
        allowed(&TestServer::start().await.ask("GET", "/items", &from("https://a"), "").await),
        None
    );
    for wrong in ["shop.example", "https://", "https://shop.example/", "https://Shop", "a,*"] {
        assert!(Origins::parse(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn paths_report_their_methods() {
    let server = TestServer::start().await;
    for (path, allow) in
        [("/buy", "POST"), ("/items/a", "GET, HEAD, PUT, DELETE"), ("/stats", "GET, HEAD")]
    {
        let reply = server.ask("OPTIONS", path, "", "").await;
        assert_eq!((reply.status, reply.header("allow")), (204, Some(allow)));
        let reply = server.ask("PATCH", path, "", "").await;
        reply.problem(405);
        assert_eq!(reply.header("allow"), Some(allow));
    }
    server.ask("OPTIONS", "/none", "", "").await.problem(404);
}

#[tokio::test]
async fn responses_have_the_request_id() {
    let server = TestServer::start().await;
    let named = server.buy("X-Request-Id: order-7/2\r\n", ANNS).await;
    assert_eq!(named.header("x-request-id"), Some("order-7/2"));
    let mut generated = Vec::new();
    for id in ["", "a b", "n\u{e9}e", &"x".repeat(129)] {
        let reply = server.ask("GET", "/none", &format!("X-Request-Id: {id}\r\n"), "").await;
        generated.push(reply.header("x-request-id").unwrap().to_owned());
    }
    generated.push(server.get("/healthz").await.header("x-request-id").unwrap().to_owned());
    generated.sort();
    generated.dedup();
    assert_eq!(generated.len(), 5, "the ids are unique: {generated:?}");
    assert!(generated.iter().all(|id| id.len() < 30 && id.contains('-')), "{generated:?}");
}

#[test]
fn reachable_server_without_keys_is_warned_of() {
    let warned = |access: &Access, address: &str| access.warning(address.parse().ok()).is_some();
    let open = Access::open();
    for (address, others) in [
        ("127.0.0.1:5000", false),
        ("[::1]:5000", false),
        ("[::ffff:127.0.0.1]:5000", false),
        ("0.0.0.0:5000", true),
        ("[::]:5000", true),
        ("192.168.0.7:5000", true),
    ] {
        assert_eq!(warned(&open, address), others, "{address}");
    }
    let rules = AccessRules { buy_keys: keys("sesame"), ..AccessRules::default() };
    assert!(!warned(&Access::new(rules), "0.0.0.0:5000"));
    let admin_alone = AccessRules { admin_keys: keys("sesame"), ..AccessRules::default() };
    assert!(warned(&Access::new(admin_alone), "0.0.0.0:5000"));
}
