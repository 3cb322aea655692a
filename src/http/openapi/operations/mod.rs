//! The operations of each route: parameters, bodies and responses.

mod dead_letters;

use serde_json::{Map, Value, json};

use super::schemas::Schemas;
use crate::core::model::{ItemId, OrderId, Quantity, UserId};
use crate::http::buy::BuyRequest;
use crate::http::inventory::SoldJson;
use crate::http::item_json::ItemJson;
use crate::http::items::{ChangeJson, ItemsJson};
use crate::http::orders::OrderJson;
use crate::http::problem::ProblemJson;
use crate::http::status::StatsJson;

pub(super) const TAGS: [(&str, &str); 4] = [
    ("Orders", "Buying, and the state of orders."),
    ("Items", "Items for sale, and the owners of sold ones."),
    ("Operation", "Health, counts, and dead letters."),
    ("Pages", "Pages for browsers."),
];

const JSON: &str = "application/json";
const WAIT: &str = "Maximum seconds to wait for the decision. While too many clients wait, the response \
                    is immediate and has a Retry-After.";
const EVENTS: &str = "text/event-stream";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const ORDER: &str = "0198f3c27a6e4d0bb1c2d3e4f5a6b7c8";

pub(super) struct Operation {
    pub path: &'static str,
    /// The method in lower case.
    pub method: &'static str,
    pub value: Value,
}

/// Who may use an operation.
enum For {
    Anybody,
    /// Everybody; if keys for buying are configured, holders of a key.
    Buyers,
    Admin,
}

struct Draft<'a> {
    schemas: &'a mut Schemas,
    done: Operation,
}

impl Draft<'_> {
    fn about(mut self, text: &str) -> Self {
        self.done.value["description"] = text.into();
        self
    }

    fn who(mut self, who: For) -> Self {
        self.done.value["security"] = match who {
            For::Anybody => json!([]),
            For::Buyers => json!([{}, {"key": []}]),
            For::Admin => json!([{"key": []}]),
        };
        self
    }

    fn takes(mut self, place: &str, name: &str, schema: Value, example: Value, text: &str) -> Self {
        let parameter = json!({
            "name": name, "in": place, "required": place == "path",
            "schema": schema, "example": example, "description": text,
        });
        match &mut self.done.value["parameters"] {
            Value::Array(parameters) => parameters.push(parameter),
            none => *none = json!([parameter]),
        }
        self
    }

    fn item(self, example: &str) -> Self {
        let schema = self.schemas.read::<ItemId>();
        self.takes("path", "id", schema, json!(example), "Id of the item.")
    }

    fn order(self) -> Self {
        let schema = self.schemas.read::<OrderId>();
        self.takes("path", "id", schema, json!(ORDER), "Id of the order.")
    }

    fn after(self, text: &str) -> Self {
        self.takes("query", "after", json!({"type": "string"}), json!("ticket_001"), text)
    }

    fn with_etag(self) -> Self {
        let schema = json!({"type": "string"});
        let text = "ETag of the client's copy; 304 if it is current.";
        let response = json!({"description": "The client's copy is current.", "headers": etag()});
        let mut draft = self.takes("header", "If-None-Match", schema, json!("\"...\""), text);
        draft.done.value["responses"]["304"] = response;
        draft.heads("200", etag())
    }

    fn body(mut self, schema: Value, example: Value) -> Self {
        let content = json!({JSON: {"schema": schema, "example": example}});
        self.done.value["requestBody"] = json!({"required": true, "content": content});
        self.problems(&[400, 408, 413, 415])
    }

    fn answers(
        mut self,
        status: u16,
        kind: &str,
        schema: Value,
        example: Value,
        text: &str,
    ) -> Self {
        let mut content = json!({"schema": schema});
        if !example.is_null() {
            content["example"] = example;
        }
        let response = json!({"description": text, "content": {kind: content}});
        self.done.value["responses"][status.to_string()] = response;
        self
    }

    fn answers_text(self, kind: &str, text: &str) -> Self {
        self.answers(200, kind, json!({"type": "string"}), Value::Null, text)
    }

    /// Adds headers to a response that was added before.
    fn heads(mut self, status: &str, headers: Value) -> Self {
        let response = &mut self.done.value["responses"][status];
        let mut all = response["headers"].as_object().cloned().unwrap_or_default();
        all.extend(headers.as_object().cloned().unwrap_or_default());
        response["headers"] = all.into();
        self
    }

    fn problems(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let schema = self.schemas.written::<ProblemJson<'static>>();
            let (text, headers) = problem(*status);
            let content = json!({"application/problem+json": {"schema": schema}});
            let mut response = json!({"description": text, "content": content});
            if let Some((name, about)) = headers {
                response["headers"] = header(name, about);
            }
            self.done.value["responses"][status.to_string()] = response;
        }
        self
    }
}

fn header(name: &str, about: &str) -> Value {
    json!({name: {"schema": {"type": "string"}, "description": about}})
}

fn etag() -> Value {
    header("ETag", "Entity tag of this content.")
}

/// The meaning of an error status, and its header.
fn problem(status: u16) -> (&'static str, Option<(&'static str, &'static str)>) {
    let retry = Some(("Retry-After", "Seconds to wait before the next request."));
    match status {
        400 => ("The request is malformed; the detail describes where.", None),
        401 => ("The key or token is missing or invalid.", Some(("WWW-Authenticate", "`Bearer`"))),
        403 => (
            "The key or token does not allow this; or no admin key is configured; or, without keys, \
             the request is from a page of another site, or for a foreign host on loopback.",
            None,
        ),
        404 => ("Not found, or not visible to this caller.", None),
        408 => ("The body did not arrive in time.", None),
        409 => ("The current state does not allow this; the detail describes why.", None),
        413 => ("The body is too long; the detail has the limit.", None),
        415 => ("The body is not application/json.", None),
        422 => ("This Idempotency-Key was used for another order.", None),
        429 => ("Too many orders, or too many invalid keys or tokens.", retry),
        _ => ("The server is full or stopping, or a service is unavailable.", retry),
    }
}

pub(super) fn all(schemas: &mut Schemas) -> Vec<Operation> {
    [orders, items, operation, dead_letters::letters, pages]
        .into_iter()
        .flat_map(|group| group(schemas))
        .collect()
}

/// Begins an operation that requires no key.
fn draft<'a>(
    schemas: &'a mut Schemas,
    tag: usize,
    (method, path): (&'static str, &'static str),
    id: &str,
    summary: &str,
) -> Draft<'a> {
    let mut value = Map::new();
    value.insert("operationId".to_owned(), id.into());
    value.insert("tags".to_owned(), json!([TAGS[tag].0]));
    value.insert("summary".to_owned(), summary.into());
    value.insert("responses".to_owned(), json!({}));
    let done = Operation { path, method, value: value.into() };
    Draft { schemas, done }.who(For::Anybody).problems(&[403, 429, 503])
}

fn orders(schemas: &mut Schemas) -> Vec<Operation> {
    let request_body = schemas.read::<BuyRequest<'static>>();
    let order = schemas.written::<OrderJson<'static>>();
    let received = json!({
        "type": "object", "required": ["message", "order_id", "status", "order"],
        "properties": {
            "message": {"const": "Order received"},
            "order_id": schemas.written::<OrderId>(),
            "status": {"const": "queued"},
            "order": {
                "type": "object", "required": ["user_id", "item_id", "quantity"],
                "properties": {
                    "user_id": schemas.written::<UserId>(),
                    "item_id": schemas.written::<ItemId>(),
                    "quantity": schemas.written::<Quantity>(),
                },
            },
        },
    });
    let request = json!({"user_id": "ann", "item_id": "ticket_001"});
    let accepted = json!({
        "message": "Order received", "order_id": ORDER, "status": "queued",
        "order": {"user_id": "ann", "item_id": "ticket_001", "quantity": 1},
    });
    let sold = json!({
        "order_id": ORDER, "user_id": "ann", "item_id": "ticket_001", "quantity": 1,
        "status": "sold", "accepted_at": "2026-11-23T13:49:00.000Z",
        "decided_at": "2026-11-23T13:49:00.004Z",
    });
    let key = json!({"type": "string", "pattern": "^[!-~]{1,255}$"});
    let wait = json!({"type": "integer", "minimum": 0, "maximum": 30});
    vec![
        draft(schemas, 0, ("post", "/buy"), "buy", "Order units of an item")
            .about(
                "Accepts an order, which is durable before the response and decided soon after. If a \
                 503 has an `order_id`, the order may have been accepted: read it, or send the request \
                 again with the same Idempotency-Key. Unknown keys of the body are ignored.",
            )
            .who(For::Buyers)
            .takes(
                "header",
                "Idempotency-Key",
                key,
                json!("click-1"),
                "Unique per order of a user: the same user and key mean the same order.",
            )
            .takes(
                "header",
                "traceparent",
                json!({"type": "string"}),
                json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                "Trace of the order up to its decision (W3C Trace Context); ignored if malformed.",
            )
            .body(request_body, request)
            .answers(202, JSON, received, accepted, "The order is accepted and queued.")
            .heads("202", header("Location", "Path of the order: `/orders/ID`."))
            .problems(&[401, 403, 404, 422])
            .done,
        draft(schemas, 0, ("get", "/orders/{id}"), "order", "The state of an order")
            .about(
                "A queued order has its place in the queue where the backend reports it. The order \
                 of another user is a 404. On AWS an undecided order is only in the queue: every id \
                 generated by flux is then `queued`, without the other fields.",
            )
            .who(For::Buyers)
            .order()
            .takes("query", "wait", wait, json!(10), WAIT)
            .answers(200, JSON, order, sold, "The order.")
            .problems(&[400, 401, 404])
            .done,
        draft(schemas, 0, ("get", "/orders/{id}/events"), "followOrder", "Follow an order")
            .about(
                "Server-sent events `order` with the order as JSON, one at each change. The last \
                 event has the id `end`. The stream also ends if the caller's key is withdrawn or \
                 the token expires. While too many clients wait, the stream has one event, and the \
                 response a Retry-After.",
            )
            .who(For::Buyers)
            .order()
            .takes(
                "header",
                "Last-Event-ID",
                json!({"type": "string"}),
                json!("end"),
                "Id of the last received event.",
            )
            .answers_text(EVENTS, "The events, until the order is decided.")
            .answers_nothing(204, "The client has received the last event.")
            .problems(&[401, 404])
            .done,
    ]
}

impl Draft<'_> {
    fn answers_nothing(mut self, status: u16, text: &str) -> Self {
        self.done.value["responses"][status.to_string()] = json!({"description": text});
        self
    }
}

fn items(schemas: &mut Schemas) -> Vec<Operation> {
    let items = schemas.written::<ItemsJson<'static>>();
    let item = schemas.written::<ItemJson<'static>>();
    let change = schemas.read::<ChangeJson>();
    let sold = schemas.written::<SoldJson<'static>>();
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100});
    let shown = json!({"item_id": "ticket_001", "stock": 1, "free": 1, "held": 0, "sold": 0, "status": "open"});
    vec![
        draft(schemas, 1, ("get", "/items"), "items", "All items, in pages")
            .after("`next` of the previous page.")
            .takes("query", "limit", limit, json!(100), "Maximum items of the page.")
            .answers(
                200,
                JSON,
                items,
                json!({"items": [shown]}),
                "A page of items, listed ones first, sorted by id (on AWS not sorted).",
            )
            .problems(&[400])
            .done,
        draft(schemas, 1, ("get", "/items/{id}"), "item", "One item")
            .item("ticket_001")
            .answers(200, JSON, item.clone(), shown.clone(), "The item.")
            .problems(&[404])
            .done,
        draft(
            schemas,
            1,
            ("put", "/items/{id}"),
            "changeItem",
            "List, restock, close or reopen an item",
        )
        .about("Stock cannot be below the held and sold units.")
        .who(For::Admin)
        .item("ticket_001")
        .body(change, json!({"stock": 1}))
        .answers(200, JSON, item.clone(), shown.clone(), "The changed item.")
        .answers(201, JSON, item, shown, "The new item.")
        .problems(&[401, 403, 404, 409])
        .done,
        draft(schemas, 1, ("delete", "/items/{id}"), "removeItem", "Remove an item without orders")
            .about("Orders for it are rejected with `unknown_item` until it is listed again.")
            .who(For::Admin)
            .item("ticket_002")
            .answers_nothing(204, "The item is removed.")
            .problems(&[400, 401, 403, 404, 409])
            .done,
        draft(schemas, 1, ("get", "/inventory"), "inventory", "The owners of one-of-a-kind items")
            .about(
                "Sold items with a single unit, 1,000 per page, at most a second old. If keys for \
                 buying are configured, this requires the admin key.",
            )
            .who(For::Buyers)
            .after("Value from the Link header of the previous page.")
            .answers(
                200,
                JSON,
                json!({"type": "array", "items": sold}),
                json!([{"id": "ticket_001", "owner": "ann"}]),
                "A page of owners, sorted by id (on AWS not sorted).",
            )
            .heads(
                "200",
                header(
                    "Link",
                    "`</inventory?after=...>; rel=\"next\"`, unless it is the last page.",
                ),
            )
            .with_etag()
            .problems(&[400, 401, 403])
            .done,
    ]
}

fn operation(schemas: &mut Schemas) -> Vec<Operation> {
    let stats = schemas.written::<StatsJson>();
    let words = json!({
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
        "additionalProperties": {"type": "string"},
    });
    let ready = json!({"status": "ready", "ledger": "ok", "queue": "ok", "lock": "ok"});
    let counted = json!({
        "backend": "embedded", "uptime_s": 3600, "requests": 22005, "accepted": 20000,
        "refused": 0, "sold": 500, "rejected": 19500, "expired": 0, "dropped": 0, "in_hand": 0,
        "backlog": {"waiting": 0, "dead_letters": 0}, "oldest_ms": null, "connections": 64,
    });
    vec![
        draft(schemas, 2, ("get", "/stats"), "stats", "Counts of this process")
            .answers(200, JSON, stats, counted, "The counts.")
            .done,
        draft(schemas, 2, ("get", "/healthz"), "alive", "Liveness")
            .answers(200, JSON, words.clone(), json!({"status": "ok"}), "The process is alive.")
            .done,
        draft(schemas, 2, ("get", "/readyz"), "ready", "Readiness")
            .about(
                "Ready if the ledger and the queue are. Without the lock sales continue, slower.",
            )
            .answers(200, JSON, words, ready, "The process can accept orders.")
            .done,
        draft(schemas, 2, ("get", "/events"), "events", "The live state of the sale")
            .about(
                "Server-sent events with the data of the dashboard: `history` once, then `board` \
                 every second. If keys for buying are configured, names require the admin key.",
            )
            .who(For::Buyers)
            .answers_text(EVENTS, "The events, until the client disconnects.")
            .done,
        draft(schemas, 2, ("get", "/metrics"), "metrics", "Metrics for Prometheus")
            .answers_text(METRICS, "The metrics in the text format of Prometheus.")
            .done,
        draft(schemas, 2, ("get", "/openapi.json"), "openapi", "This document")
            .answers(200, JSON, json!({"type": "object"}), Value::Null, "OpenAPI 3.1.")
            .with_etag()
            .done,
    ]
}

fn pages(schemas: &mut Schemas) -> Vec<Operation> {
    let name = json!({"type": "string"});
    vec![
        draft(schemas, 3, ("get", "/"), "boardPage", "The dashboard")
            .answers_text(HTML, "The page.")
            .with_etag()
            .done,
        draft(schemas, 3, ("get", "/docs"), "docs", "This document as a page")
            .answers_text(HTML, "The page.")
            .with_etag()
            .done,
        draft(schemas, 3, ("get", "/buy/{id}"), "buyPage", "The page that buys an item")
            .item("ticket_001")
            .answers_text(HTML, "The page.")
            .with_etag()
            .problems(&[404])
            .done,
        draft(schemas, 3, ("get", "/assets/{id}"), "asset", "A file of a page")
            .takes("path", "id", name, json!("theme.css"), "Name of the file.")
            .answers_text("*/*", "The file.")
            .with_etag()
            .problems(&[404])
            .done,
    ]
}
