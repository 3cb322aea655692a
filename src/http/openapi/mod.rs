//! The API described, as OpenAPI 3.1: `/openapi.json` for machines, `/docs` for people. The schema
//! of a body is made from the type that is read or written; what each route takes and answers
//! stands in [`operations`], and tests hold both against the router and the running server.

mod operations;
mod reference;
pub(super) mod schemas;

use std::sync::LazyLock;

use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use hyper::http::request;
use serde_json::{Map, Value, json};

use super::etag;
use super::etag::with_etag;
use super::page;
use super::problem::json_text;
use super::response::Response;
use super::state::AppState;
use operations::Operation;
use schemas::Schemas;

const ABOUT: &str = "Orders for scarce items are answered at once, queued, and decided one item at a \
    time: nothing is ever sold twice, and no order is lost.\n\n\
    Every answer but success is a problem as RFC 9457 has it, in one line. Whoever gets a 503 waits \
    for as long as Retry-After says and asks again: the same request under the same \
    Idempotency-Key is the same order. Each GET answers HEAD too; a method that a path does not \
    take is answered 405. The admin's key opens what says so, with `Authorization: Bearer KEY`; \
    where keys are configured for buying, that takes a shop's key, which buys for any user, or a \
    user's token (JWT), which buys for its subject only; to others an order is not there then, and \
    names are the admin's to see. Every answer has an X-Request-Id, the client's own if it sent one; \
    OPTIONS is answered 204 with what a path takes.";

const REQUEST_ID: &str = "X-Request-Id";

struct Rendered {
    text: Bytes,
    etag: HeaderValue,
}

impl Rendered {
    fn of(text: impl Into<Bytes>) -> Self {
        let text = text.into();
        Self { etag: etag::of(&text), text }
    }
}

static VALUE: LazyLock<Value> = LazyLock::new(describe);
static DOCUMENT: LazyLock<Rendered> = LazyLock::new(|| Rendered::of(VALUE.to_string() + "\n"));
static REFERENCE: LazyLock<Rendered> =
    LazyLock::new(|| Rendered::of(reference::page(&VALUE).into_string()));

/// The document. The same on every server of a version, but for where that is.
pub(super) fn document(state: &AppState, head: &request::Parts) -> Response {
    let Some(base) = state.access.public_base() else {
        let answer = json_text(StatusCode::OK, DOCUMENT.text.clone());
        return with_etag(answer, DOCUMENT.etag.clone(), head);
    };
    let mut document = VALUE.clone();
    document["servers"] = json!([{"url": base}]);
    let rendered = Rendered::of(document.to_string() + "\n");
    with_etag(json_text(StatusCode::OK, rendered.text), rendered.etag, head)
}

/// The document as a page to read.
pub(super) fn docs(head: &request::Parts) -> Response {
    with_etag(page::html(REFERENCE.text.clone()), REFERENCE.etag.clone(), head)
}

fn describe() -> Value {
    let mut schemas = Schemas::default();
    let mut paths = Map::new();
    for Operation { path, method, value } in operations::all(&mut schemas) {
        let path = paths.entry(path).or_insert_with(|| json!({}));
        path[method] = value;
        let answers = path[method]["responses"].as_object_mut();
        for answer in answers.into_iter().flat_map(Map::values_mut) {
            answer["headers"][REQUEST_ID] =
                json!({"$ref": format!("#/components/headers/{REQUEST_ID}")});
        }
    }
    let tags = operations::TAGS.map(|(name, about)| json!({"name": name, "description": about}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "flux",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A flash-sale order engine",
            "description": ABOUT,
        },
        "servers": [{"url": "/", "description": "the server that gave this document out"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_definitions(),
            "securitySchemes": {"key": {
                "type": "http",
                "scheme": "bearer",
                "description": "The admin's key, a shop's key for buying, or a user's token (JWT).",
            }},
            "headers": {REQUEST_ID: {
                "description": "What the request is called: by its client, or else by the server.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
            }},
        },
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::route::ROUTES;

    #[test]
    fn each_route_and_method_has_its_operation_and_no_other_has() {
        let mut routed = BTreeSet::new();
        for (path, route) in ROUTES {
            let methods = route.allow().split(", ").filter(|method| *method != "HEAD");
            routed.extend(methods.map(|method| format!("{method} {path}")));
        }
        let mut described = BTreeSet::new();
        for (path, methods) in describe()["paths"].as_object().unwrap() {
            let methods = methods.as_object().unwrap().keys();
            described.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
        }
        assert_eq!(described, routed, "describe a route in http/openapi/operations/mod.rs");
    }

    #[test]
    fn each_operation_has_a_name_of_its_own_and_describes_the_ids_in_its_path() {
        let document = describe();
        let mut names = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for operation in methods.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(names.insert(name.to_owned()), "{name} twice");
                let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
                let ids = parameters.iter().filter(|p| p["in"] == "path").count();
                assert_eq!(ids, path.matches('{').count(), "{name}");
                assert!(operation["responses"].as_object().unwrap().len() > 1, "{name}");
            }
        }
    }
}
