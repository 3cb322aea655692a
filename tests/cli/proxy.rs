//! flux behind nginx, at the root of a host and at a path.

use std::collections::BTreeSet;

use super::Workdir;
use crate::nginx::Nginx;
use crate::support::http::{Response, request};

/// A request as a browser sends it from one of the server's own pages.
fn ask(address: &str, method_and_path: &str, body: &str) -> Response {
    ask_from(&format!("http://{address}"), address, method_and_path, body)
}

/// A request as a browser sends it from a page of this origin.
fn ask_from(origin: &str, address: &str, method_and_path: &str, body: &str) -> Response {
    request(address, method_and_path, &[("Origin", origin)], body)
}

/// The texts between each `before` and the next quotation mark.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

/// Resolves a relative reference (RFC 3986, 5.2) of the pages.
fn resolved(base: &str, reference: &str) -> String {
    if reference.starts_with('/') {
        return reference.to_owned();
    }
    let mut segments: Vec<&str> = base.split('/').collect();
    segments.pop();
    for segment in reference.split('/') {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    segments.join("/")
}

/// Loads a page and everything that it refers to, recursively.
fn load(address: &str, page: &str) {
    let mut pending = vec![page.to_owned()];
    let mut loaded = BTreeSet::new();
    while let Some(path) = pending.pop() {
        if !loaded.insert(path.clone()) {
            continue;
        }
        let answer = ask(address, &format!("GET {path}"), "");
        assert_eq!(answer.status, 200, "{path} of {page}");
        let text = answer.body;
        for before in ["src=\"", "href=\"", "from \"", "url(\""] {
            let named = quoted(&text, before).into_iter();
            let named = named.filter(|named| !named.starts_with(['#', '?']) && !named.is_empty());
            pending.extend(named.map(|named| resolved(&path, named)));
        }
    }
    assert!(loaded.len() >= 4, "{loaded:?}");
}

/// The runbook's `location` blocks for nginx: for a whole host, and for a path.
fn blocks() -> [String; 2] {
    let page = std::fs::read_to_string("docs/runbook.md").unwrap();
    let blocks = page.split("```nginx\n").skip(1).map(|block| block.split("```").next().unwrap());
    let blocks: Vec<String> = blocks.map(str::to_owned).collect();
    blocks.try_into().expect("two blocks")
}

/// Reads the pages and the OpenAPI document, and buys, behind nginx at `prefix` with the settings
/// of the runbook.
fn sell_behind_nginx(block: &str, prefix: &str) {
    let workdir = Workdir::new();
    let (mut serve, upstream) = workdir.serve("--workers 4");
    let nginx = Nginx::start(&block.replace("127.0.0.1:5000", &upstream));
    let address = nginx.address.as_str();
    let settings =
        format!("public_url = \"http://{address}{prefix}\"\ntrusted_proxies = \"127.0.0.1\"");
    let _desk = workdir.with_file("config/flux.toml", settings);
    serve.signal("HUP");
    serve.log_line("changed: trusted_proxies, public_url");

    for page in ["/", "/buy/ticket_001", "/docs"] {
        load(address, &format!("{prefix}{page}"));
    }
    let document = ask(address, &format!("GET {prefix}/openapi.json"), "").json();
    assert_eq!(document["servers"][0]["url"], format!("http://{address}{prefix}"));
    let order = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
    let bought = ask(address, &format!("POST {prefix}/buy"), order);
    assert_eq!(bought.status, 202, "{}", bought.body);
    let path = bought.header("location");
    assert!(path.starts_with(&format!("{prefix}/orders/")), "{path}");
    assert_eq!(ask(address, &format!("GET {path}?wait=20"), "").json()["status"], "sold");
    let events = ask(address, &format!("GET {path}/events"), "");
    assert!(events.body.contains("\"status\":\"sold\""), "{}", events.body);
    // The Location also works for clients that bypass the proxy.
    assert_eq!(ask(&upstream, &format!("GET {path}"), "").json()["status"], "sold");
    if !prefix.is_empty() {
        let base = ask(&upstream, &format!("GET {prefix}?wall"), "");
        assert_eq!((base.status, base.header("location")), (308, &*format!("{prefix}/?wall")));
    }
    let buy = format!("POST {prefix}/buy");
    let refused = ask_from("http://evil.example", address, &buy, order);
    assert_eq!(refused.status, 403, "{}", refused.body);
}

#[test]
fn runbook_nginx_config_works_at_host_and_path() {
    let [host, path] = blocks();
    let stripped = path.replace("127.0.0.1:5000;", "127.0.0.1:5000/;");
    assert_ne!(stripped, path);
    sell_behind_nginx(&host, "");
    sell_behind_nginx(&path, "/flux");
    sell_behind_nginx(&stripped, "/flux");
}

#[test]
fn browser_buys_through_default_nginx() {
    let workdir = Workdir::new();
    let (_serve, upstream) = workdir.serve("");
    let nginx = Nginx::start(&format!("location / {{ proxy_pass http://{upstream}; }}"));
    let order = r#"{"user_id":"ann","item_id":"ticket_001"}"#;
    // nginx sends `upstream` as Host, which differs from the browser's Origin.
    let refused = ask(&nginx.address, "POST /buy", order);
    assert!(refused.status == 403 && refused.body.contains("public_url"), "{}", refused.body);
    let origin = format!("http://{}", nginx.address);
    let headers = [("Sec-Fetch-Site", "same-origin"), ("Origin", &origin)];
    let bought = request(&nginx.address, "POST /buy", &headers, order);
    assert_eq!(bought.status, 202, "{}", bought.body);
}
