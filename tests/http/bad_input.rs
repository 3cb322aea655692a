use super::*;

fn order_with(pairs: &str) -> String {
    format!(r#"{{"user_id":"ann","item_id":"ticket_001"{pairs}}}"#)
}

/// Bodies of `/buy`, and a text that the detail of the 400 must contain.
fn malformed() -> Vec<(Vec<u8>, &'static str)> {
    let long = "x".repeat(129);
    let deep = |n| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let mut table = vec![
        (String::new(), "EOF"),
        ("{".to_owned(), "EOF"),
        ("not json".to_owned(), "not an order"),
        ("[]".to_owned(), "user_id"),
        ("null".to_owned(), "user_id"),
        ("{}".to_owned(), "user_id"),
        (r#"{"user_id":"ann"}"#.to_owned(), "item_id"),
        (r#"{"item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":"","item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":null,"item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":7,"item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":"ann","item_id":["t"]}"#.to_owned(), "item_id"),
        (r#"{"user_id":"ann","item_id":"t t"}"#.to_owned(), "item_id"),
        (r#"{"user_id":"a\u0000b","item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":"a\nb","item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":"\ud800","item_id":"t"}"#.to_owned(), "user_id"),
        (r#"{"user_id":"a\u2028","item_id":"t"}"#.to_owned(), "invisible"),
        (r#"{"user_id":"\u202eann","item_id":"t"}"#.to_owned(), "invisible"),
        (r#"{"user_id":"an\u200bn","item_id":"t"}"#.to_owned(), "invisible"),
        (r#"{"user_id":" \u3000","item_id":"t"}"#.to_owned(), "blank"),
        (format!(r#"{{"user_id":"{long}","item_id":"t"}}"#), "user_id"),
        (format!(r#"{{"user_id":"ann","item_id":"{long}"}}"#), "item_id"),
        (order_with("} extra"), "trailing"),
        (order_with(r#","user_id":"bob""#), "duplicate"),
        (order_with(r#","item_id":"ticket_001""#), "duplicate"),
        (order_with(r#","quantity":1,"quantity":1"#), "duplicate"),
        (order_with(r#","\u0075ser_id":"bob""#), "duplicate"),
        (deep(1_000), "user_id"),
        (order_with(&format!(r#","note":{}"#, deep(1_000))), "recursion"),
    ];
    for quantity in ["0", "101", "1.5", "1.0", "1e1", "-1", r#""1""#, "null", "[1]", "true"] {
        table.push((order_with(&format!(r#","quantity":{quantity}"#)), "quantity"));
    }
    table.push((order_with(&format!(r#","quantity":{}"#, "9".repeat(40))), "quantity"));
    let mut table: Vec<_> =
        table.into_iter().map(|(body, says)| (body.into_bytes(), says)).collect();
    table.push((b"{\"user_id\":\"\xff\xfe\",\"item_id\":\"t\"}".to_vec(), "user_id"));
    table.push((b"\xef\xbb\xbf{\"user_id\":\"ann\",\"item_id\":\"t\"}".to_vec(), "not an order"));
    table
}

#[tokio::test]
async fn malformed_order_is_a_400_and_the_connection_continues() {
    let server = TestServer::start().await;
    // One connection for all, because buyers behind a proxy share connections.
    let mut client = server.connect().await;
    for (body, says) in malformed() {
        let reply = client.ask("POST", "/buy", "", &body).await;
        let detail = reply.problem(400);
        assert!(detail.contains(says), "{:?}: {detail}", String::from_utf8_lossy(&body));
        let good = client.ask("POST", "/buy", "", order_with("").as_bytes()).await;
        assert_eq!(good.status, 202);
    }
    let stats = server.get("/stats").await.json();
    assert_eq!(stats["accepted"], malformed().len());
    assert_eq!(stats["refused"], malformed().len());
}

#[tokio::test]
async fn unknown_keys_and_unusual_spellings_are_accepted() {
    let server = TestServer::start().await;
    for body in [
        order_with(r#","note":{"a":[1,null,"x",{"b":-1.5e3}]},"note":true"#),
        order_with(r#","quantity":100"#),
        " \r\n{\"item_id\" : \"t\" ,\n\"us\\u0065r_id\":\"\\u00e9\"}\n".to_owned(),
    ] {
        let reply = server.buy("", &body).await;
        assert_eq!(reply.status, 202, "{body}: {}", reply.text());
    }
}

#[tokio::test]
async fn large_body_is_a_413_that_the_client_can_read() {
    let server = TestServer::start().await;
    let mut client = server.connect().await;
    let padded = |length| order_with(&format!(r#","pad":"{}""#, "x".repeat(length)));
    assert_eq!(client.ask("POST", "/buy", "", padded(16_000).as_bytes()).await.status, 202);
    client.ask("POST", "/buy", "", padded(16_400).as_bytes()).await.problem(413);
    // Up to 2 MiB are read to the end, so that the connection can be reused.
    client.ask("POST", "/buy", "", padded(1_000_000).as_bytes()).await.problem(413);
    let good = client.ask("POST", "/buy", "", order_with("").as_bytes()).await;
    assert_eq!(good.status, 202);

    client.send("POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 3000000\r\n\r\n").await;
    let reply = client.reply(false).await.unwrap();
    reply.problem(413);
    assert_eq!(reply.header("connection"), Some("close"));
    // A client that continues to send is read from for a moment, not reset.
    for _ in 0..5 {
        let sent = client.stream.write_all(&[b'x'; 100_000]).await;
        sent.expect("the server continues to read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(client.is_closed().await);
    server.ask("POST", "/buy", "", padded(3_000_000)).await.problem(413);
    // The same for an unread body, here at an unknown path.
    let reply = server.ask("POST", "/nowhere", "", padded(1_000_000)).await;
    reply.problem(404);
    server.good_order().await;
}

#[tokio::test]
async fn chunked_body_is_bounded() {
    let server = TestServer::start().await;
    let head = "POST /buy HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = server.connect().await;
    let order = order_with("");
    let (first, second) = order.split_at(9);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    client.send(format!("{head}{}{}0\r\n\r\n", chunk(first), chunk(second))).await;
    assert_eq!(client.reply(false).await.unwrap().status, 202);

    let kilobyte = chunk(&"x".repeat(1_024));
    client.send(format!("{head}{}0\r\n\r\n", kilobyte.repeat(40))).await;
    client.reply(false).await.unwrap().problem(413);
    client.send(format!("{head}{}0\r\n\r\n", chunk(&order))).await;
    assert_eq!(client.reply(false).await.unwrap().status, 202);

    client.send(format!("{head}{}", kilobyte.repeat(3_000))).await;
    client.reply(false).await.unwrap().problem(413);
    assert!(client.is_closed().await);

    let mut client = server.connect().await;
    client.send(format!("{head}zz\r\nboo\r\n")).await;
    client.reply(false).await.unwrap().problem(400);
    assert!(client.is_closed().await);
    server.good_order().await;
}

#[tokio::test]
async fn body_of_another_type_is_refused() {
    let server = TestServer::start().await;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let reply = server.buy(&format!("Content-Type: {kind}\r\n"), &order_with("")).await;
        assert!(reply.problem(415).contains("application/json"), "{kind}");
    }
    for kind in ["application/json", "Application/JSON; charset=utf-8"] {
        let reply = server.buy(&format!("Content-Type: {kind}\r\n"), &order_with("")).await;
        assert_eq!(reply.status, 202, "{kind}");
    }
}

#[tokio::test]
async fn idempotency_key_is_visible_ascii_and_unique() {
    let server = TestServer::start().await;
    let long = "k".repeat(256);
    for key in ["", "two words", "k\u{e9}", &long] {
        let reply = server.buy(&format!("Idempotency-Key: {key}\r\n"), &order_with("")).await;
        assert!(reply.problem(400).contains("Idempotency-Key"), "{key}");
    }
    let twice = "Idempotency-Key: a\r\nidempotency-key: a\r\n";
    server.buy(twice, &order_with("")).await.problem(400);

    let key = "Idempotency-Key: \"k-1\"\r\n";
    let first = server.buy(key, &order_with("")).await;
    let again = server.buy(key, &order_with(r#","quantity":1"#)).await;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.json(), again.json());
    server.buy(key, &order_with(r#","quantity":2"#)).await.problem(422);
    let other = server.buy(key, r#"{"user_id":"bob","item_id":"ticket_001"}"#).await;
    assert_ne!(first.json()["order_id"], other.json()["order_id"]);
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused() {
    let server = TestServer::start().await;
    for path in ["/none", "/buy/", "/buys", "/orders", "/orders/a/b", "/items/", "/items/%zz"] {
        server.get(path).await.problem(404);
    }
    for (method, path, allow) in [
        ("GET", "/buy", "POST"),
        ("PUT", "/buy", "POST"),
        ("DELETE", "/orders/x", "GET, HEAD"),
        ("POST", "/items/x", "GET, HEAD, PUT, DELETE"),
        ("POST", "/inventory", "GET, HEAD"),
        ("BREW", "/stats", "GET, HEAD"),
    ] {
        let reply = server.ask(method, path, "", "").await;
        reply.problem(405);
        assert_eq!(reply.header("allow"), Some(allow));
    }
    for query in ["wait=31", "wait=-1", "wait=x", "wait=", "wait=1.5", "wait=%zz"] {
        server.get(&format!("/orders/x?{query}")).await.problem(400);
    }
    for path in ["/items?limit=0", "/items?limit=1001", "/items?after=%ff", "/inventory?after=%f"] {
        server.get(path).await.problem(400);
    }
}

#[tokio::test]
async fn malformed_http_is_refused_and_harmless() {
    let server = TestServer::start().await;
    for (garbage, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], 400),
        (b"hello?\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"POST /buy HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /buy HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    ] {
        let mut client = server.connect().await;
        client.send(garbage).await;
        client.reply(false).await.unwrap().problem(status);
        assert!(client.is_closed().await);
    }
    let mut client = server.connect().await;
    let head = format!("GET /stats HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    client.send(head).await;
    assert!(client.reply(false).await.unwrap().problem(431).contains("16 KiB"));
    server.good_order().await;
}
