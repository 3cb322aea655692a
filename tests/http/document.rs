//! Compares `/openapi.json` with the responses of the server.

use serde_json::{Value, json};

use super::*;

pub struct Document(Value);

impl Document {
    pub async fn of(server: &TestServer) -> Document {
        let reply = server.get("/openapi.json").await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
        Document(reply.json())
    }

    /// The path of the document that matches this target.
    fn path(&self, target: &str) -> Option<&str> {
        let asked: Vec<&str> = target.split('?').next().unwrap().split('/').collect();
        let is_it = |path: &str| {
            let parts: Vec<&str> = path.split('/').collect();
            let mut pairs = parts.iter().zip(&asked);
            parts.len() == asked.len()
                && pairs.all(|(part, asked)| {
                    part == asked || part.starts_with('{') && !asked.is_empty()
                })
        };
        let paths = self.0["paths"].as_object().unwrap().keys().map(String::as_str);
        // A literal path has precedence over one with a parameter.
        paths.filter(|path| is_it(path)).min_by_key(|path| path.contains('{'))
    }

    /// Checks that the document describes the response: path, method, status, media type, body.
    #[track_caller]
    pub fn describes(&self, method: &str, target: &str, reply: &Reply) {
        if reply.body.is_empty() && [400, 414, 431].contains(&reply.status) {
            return; // Malformed HTTP: the path was not read.
        }
        let Some(path) = self.path(target) else {
            return assert_eq!(reply.status, 404, "{method} {target} is not in the document");
        };
        let operation = &self.0["paths"][path][method.to_lowercase()];
        if operation.is_null() {
            let found = if method == "OPTIONS" { [204, 404] } else { [405, 404] };
            let found = found.contains(&reply.status);
            return assert!(found, "{method} {path} is not in the document: {}", reply.head);
        }
        let answer = &operation["responses"][reply.status.to_string()];
        assert!(answer.is_object(), "{method} {path}: {} is not in the document", reply.status);
        for name in answer["headers"].as_object().into_iter().flat_map(|headers| headers.keys()) {
            let left_out = name == "Link" && reply.header("link").is_none();
            assert!(left_out || reply.header(name).is_some(), "{method} {path}: no {name}");
        }
        let kind = reply.header("content-type").unwrap_or_default();
        let content = answer["content"].as_object();
        let Some(content) = content else { return assert_eq!(reply.text(), "", "{method} {path}") };
        let described = content.get(kind).or_else(|| content.get("*/*"));
        let described = described.unwrap_or_else(|| panic!("{method} {path}: {kind:?}"));
        if kind.ends_with("json") {
            let body = reply.json();
            if let Err(wrong) = self.validator(&described["schema"]).validate(&body) {
                panic!("{method} {path}: {wrong} in {body}");
            }
        }
    }

    fn validator(&self, schema: &Value) -> jsonschema::Validator {
        let root = json!({"allOf": [schema], "components": self.0["components"]});
        jsonschema::validator_for(&root).expect("a valid schema")
    }
}

#[tokio::test]
async fn examples_match_their_schemas_and_work() {
    let server = TestServer::start().await;
    server.start_worker();
    let document = Document::of(&server).await;
    assert_eq!(server.put_stock("ticket_001", 1).await.status, 201);
    assert_eq!(server.put_stock("ticket_002", 1).await.status, 201);
    let order = server.good_order().await;
    for (path, methods) in document.0["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let mut target = path.clone();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let example = &parameter["example"];
                document.validator(&parameter["schema"]).validate(example).unwrap();
                let example = if path.starts_with("/orders") {
                    &order
                } else {
                    example.as_str().unwrap_or("")
                };
                target = target.replace(&format!("{{{name}}}"), example);
            }
            let body = &operation["requestBody"]["content"]["application/json"];
            let mut text = String::new();
            if body.is_object() {
                document.validator(&body["schema"]).validate(&body["example"]).unwrap();
                text = body["example"].to_string();
            }
            for answer in operation["responses"].as_object().unwrap().values() {
                for content in answer["content"].as_object().into_iter().flat_map(|c| c.values()) {
                    if let Some(example) = content.get("example") {
                        document.validator(&content["schema"]).validate(example).unwrap();
                    }
                }
            }
            let headers = format!("Authorization: Bearer {ADMIN_KEY}\r\n");
            let head = if operation["responses"]["200"]["content"]["text/event-stream"].is_object()
            {
                "HEAD"
            } else {
                method
            };
            let reply = server.ask(&head.to_uppercase(), &target, &headers, text).await;
            assert!((200..300).contains(&reply.status), "{method} {target}: {}", reply.text());
            if head != "HEAD" {
                document.describes(&method.to_uppercase(), &target, &reply);
            }
        }
    }
}

#[tokio::test]
async fn document_and_page_have_etags() {
    let server = TestServer::start().await;
    for path in ["/openapi.json", "/docs"] {
        let reply = server.get(path).await;
        let tag = reply.header("etag").unwrap().to_owned();
        let again = server.ask("GET", path, &format!("If-None-Match: {tag}\r\n"), "").await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{path}");
    }
    let page = server.get("/docs").await.text();
    let document = Document::of(&server).await;
    for path in document.0["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("<code>{path}</code>")), "{path}");
    }
    assert!(page.contains("\"assets/docs.css\"") && !page.contains("<script"));
    assert_eq!(server.get("/assets/docs.css").await.status, 200);
}
