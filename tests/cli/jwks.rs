//! Public keys of users' tokens.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::Workdir;
use super::access::buy;
use crate::http::tokens::{Provider, now};

/// A server that answers each request with the returned text; while it is empty, with nothing.
fn publish(answer: String) -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let answer = Arc::new(Mutex::new(answer));
    let answers = answer.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let answer = answers.lock().unwrap().clone();
            if !answer.is_empty() {
                let _head = stream.read(&mut [0; 4096]).unwrap();
                let _hung_up = stream.write_all(answer.as_bytes());
            }
        }
    });
    (url, answer)
}

fn reply(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn failed_jwks_refresh_keeps_cached_keys() {
    let provider = Provider::new();
    let set = provider.set().to_string();
    let token = provider.token("ES256", "ec", &json!({ "sub": "ann", "exp": now() + 600 }));
    let (url, answer) = publish(reply("200 OK", &set));
    for place in [url.as_str(), "keys.json"] {
        let file = "config/flux.toml";
        let toml = format!("jwt_jwks = \"{place}\"\n");
        let workdir = desk_with(&toml, &set);
        workdir.run("provision --item ticket_001 --stock 1");
        let (mut serve, address) = workdir.serve("");
        assert!(serve.logged.concat().contains("jwt_audience is not set"), "{:?}", serve.logged);
        assert_eq!(buy(&address, &token), 202);

        answer.lock().unwrap().clear();
        std::fs::remove_file(workdir.path("keys.json")).unwrap();
        let workdir = workdir.with_file(file, format!("{toml}log = \"debug\""));
        serve.signal("HUP");
        serve.log_line("JWKS refresh failed; keeping 3 cached keys");
        serve.log_line("settings reloaded; changed: log");
        assert_eq!(buy(&address, &token), 202);

        let _other = workdir.with_file(file, "jwt_jwks = \"http://127.0.0.1:1/\"");
        serve.signal("HUP");
        serve.log_line("reload failed; settings unchanged: jwt_jwks");
        assert_eq!(buy(&address, &token), 202);
        *answer.lock().unwrap() = reply("200 OK", &set);
    }
}

fn desk_with(toml: &str, set: &str) -> Workdir {
    Workdir::new().with_file("config/flux.toml", toml).with_file("keys.json", set)
}

#[test]
fn jwks_url_is_https_or_loopback_without_redirects() {
    for (place, part) in [
        ("http://idp.example/keys", "jwt_jwks must be https://"),
        ("http://10.0.0.1/keys", "jwt_jwks must be https://"),
        ("HTTP://idp.example/keys", "jwt_jwks must be https://"),
        ("https://ann:open-sesame-please@idp.example/keys", "without a user and password"),
        ("file:///keys.json", "jwt_jwks must be"),
    ] {
        let line =
            Workdir::new().with("FLUX_JWT_JWKS", place).refused("serve --listen 127.0.0.1:0");
        assert!(line.contains(part), "{line:?} does not say {part:?}");
    }
    let provider = Provider::new();
    let (keys, _) = publish(reply("200 OK", &provider.set().to_string()));
    let (url, _) = publish(reply(&format!("302 Found\r\nLocation: {keys}"), ""));
    let workdir = Workdir::new().with("FLUX_JWT_JWKS", &url);
    let (serve, address) = workdir.serve("");
    assert!(serve.logged.concat().contains("redirects are not followed"), "{:?}", serve.logged);
    let token = provider.token("ES256", "ec", &json!({ "sub": "ann", "exp": now() + 600 }));
    assert_eq!(buy(&address, &token), 401);
}

#[test]
#[cfg(feature = "otel")]
fn trace_headers_need_tls_or_a_private_host() {
    let workdir = |endpoint: &str| {
        let workdir = Workdir::new().with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
        workdir.with("OTEL_EXPORTER_OTLP_HEADERS", "api-key=open-sesame-please")
    };
    let line = workdir("http://collector.example:4318").refused("work");
    assert!(line.contains("otlp_headers") && line.contains("https://"), "{line}");
    for endpoint in ["http://10.255.255.1:4318", "http://collector:4318", "https://c.example"] {
        let workdir = workdir(endpoint);
        let mut work = workdir.start("work");
        work.log_line("working on");
    }
}
