//! What each route takes and answers.

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
    ("Orders", "Buying, and what became of it."),
    ("Items", "What is for sale, and who has it."),
    ("Operation", "Whether the server is well, and what it does."),
    ("Pages", "For browsers."),
];

const JSON: &str = "application/json";
const WAIT: &str = "Seconds to wait for the decision; none while too many wait (Retry-After).";
const EVENTS: &str = "text/event-stream";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const ORDER: &str = "0198f3c27a6e4d0bb1c2d3e4f5a6b7c8";

pub(super) struct Operation {
    pub path: &'static str,
    /// In lower case.
    pub method: &'static str,
    pub value: Value,
}

/// Who gets an answer.
enum For {
    Anybody,
    /// Those with a key, where keys for buying are configured.
    Buyers,
    Admin,
}

/// An operation as it is written down.
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
        self.takes("path", "id", schema, json!(example), "The item.")
    }

    fn order(self) -> Self {
        let schema = self.schemas.read::<OrderId>();
        self.takes("path", "id", schema, json!(ORDER), "The order.")
    }

    fn after(self, text: &str) -> Self {
        self.takes("query", "after", json!({"type": "string"}), json!("ticket_001"), text)
    }

    fn unless_known(self) -> Self {
        let schema = json!({"type": "string"});
        let text = "An ETag that the client has: 304 while it is the current one.";
        let answer = json!({"description": "The client has it already.", "headers": tag()});
        let mut draft = self.takes("header", "If-None-Match", schema, json!("\"...\""), text);
        draft.done.value["responses"]["304"] = answer;
        draft.heads("200", tag())
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
        let answer = json!({"description": text, "content": {kind: content}});
        self.done.value["responses"][status.to_string()] = answer;
        self
    }

    fn answers_text(self, kind: &str, text: &str) -> Self {
        self.answers(200, kind, json!({"type": "string"}), Value::Null, text)
    }

    /// Headers of an answer that is there already.
    fn heads(mut self, status: &str, headers: Value) -> Self {
        let answer = &mut self.done.value["responses"][status];
        let mut all = answer["headers"].as_object().cloned().unwrap_or_default();
        all.extend(headers.as_object().cloned().unwrap_or_default());
        answer["headers"] = all.into();
        self
    }

    fn problems(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let schema = self.schemas.written::<ProblemJson<'static>>();
            let (text, headers) = problem(*status);
            let content = json!({"application/problem+json": {"schema": schema}});
            let mut answer = json!({"description": text, "content": content});
            if let Some((name, about)) = headers {
                answer["headers"] = header(name, about);
            }
            self.done.value["responses"][status.to_string()] = answer;
        }
        self
    }
}

fn header(name: &str, about: &str) -> Value {
    json!({name: {"schema": {"type": "string"}, "description": about}})
}

fn tag() -> Value {
    header("ETag", "Names this content.")
}

/// What a status means wherever it comes, and the header that comes with it.
fn problem(status: u16) -> (&'static str, Option<(&'static str, &'static str)>) {
    let retry = Some(("Retry-After", "Seconds after which to ask again."));
    match status {
        400 => ("The request is malformed; the detail says where.", None),
        401 => ("A key is needed, and this is none.", Some(("WWW-Authenticate", "`Bearer`"))),
        403 => (
            "This key or token does not open it; or no admin key is configured; or, without keys, a \
             page of another site sent it, or it asks a server on loopback for another host.",
            None,
        ),
        404 => ("There is no such thing.", None),
        408 => ("The body did not come in time.", None),
        409 => ("As things stand, that cannot be.", None),
        413 => ("The body is too long; the detail says how long it may be.", None),
        415 => ("The body must be application/json.", None),
        422 => ("This Idempotency-Key was used for another order.", None),
        429 => ("Too many orders, or too many keys that were no good.", retry),
        _ => ("Not now: something is full, stopping, or does not answer.", retry),
    }
}

pub(super) fn all(schemas: &mut Schemas) -> Vec<Operation> {
    [orders, items, operation, dead_letters::letters, pages]
        .into_iter()
        .flat_map(|group| group(schemas))
        .collect()
}

/// Begins an operation: anybody gets an answer, and sometimes a 503.
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
    let asked = json!({"user_id": "ann", "item_id": "ticket_001"});
    let took = json!({
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
                "The order is durable before the answer, and is decided soon after. A 503 with an \
                 `order_id` may have been taken all the same: ask for it, or send it again under \
                 the same Idempotency-Key. Keys of the body that are not known are ignored.",
            )
            .who(For::Buyers)
            .takes(
                "header",
                "Idempotency-Key",
                key,
                json!("click-1"),
                "What the user calls this \
                 request: the same user and key are the same order.",
            )
            .takes(
                "header",
                "traceparent",
                json!({"type": "string"}),
                json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                "The trace that the order belongs to (W3C Trace Context), to its decision; left \
                 aside where it is malformed.",
            )
            .body(request_body, asked)
            .answers(202, JSON, received, took, "Taken, and queued.")
            .heads("202", header("Location", "Where the order is: `/orders/ID`."))
            .problems(&[401, 403, 404, 422])
            .done,
        draft(schemas, 0, ("get", "/orders/{id}"), "order", "What became of an order")
            .about(
                "An order that waits shows its place in line where the queue can tell. The order of \
                 another user is 404. On AWS only the queue knows an order before its \
                 decision: an id that flux made is `queued` then, without the other fields.",
            )
            .who(For::Buyers)
            .order()
            .takes("query", "wait", wait, json!(10), WAIT)
            .answers(200, JSON, order, sold, "The order.")
            .problems(&[400, 401, 404])
            .done,
        draft(schemas, 0, ("get", "/orders/{id}/events"), "followOrder", "Follow an order")
            .about(
                "Server-sent events named `order`, each with the order as JSON, whenever it \
                 changes; the last has the id `end`. While too many wait, the stream ends after \
                 one event, with a Retry-After; and when the caller's key is withdrawn or the \
                 token expires.",
            )
            .who(For::Buyers)
            .order()
            .takes(
                "header",
                "Last-Event-ID",
                json!({"type": "string"}),
                json!("end"),
                "The last \
                 event that was seen.",
            )
            .answers_text(EVENTS, "The events, until the order is decided.")
            .answers_nothing(204, "The client has seen the last event.")
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
            .after("`next` of the page before.")
            .takes("query", "limit", limit, json!(100), "Items in a page.")
            .answers(
                200,
                JSON,
                items,
                json!({"items": [shown]}),
                "A page of items: by id (on AWS in no order), listed ones first.",
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
            "List, restock, close or open an item",
        )
        .about("Stock goes no lower than what is held and sold.")
        .who(For::Admin)
        .item("ticket_001")
        .body(change, json!({"stock": 1}))
        .answers(200, JSON, item.clone(), shown.clone(), "The item as it is now.")
        .answers(201, JSON, item, shown, "The item, which is new.")
        .problems(&[401, 403, 404, 409])
        .done,
        draft(schemas, 1, ("delete", "/items/{id}"), "removeItem", "Remove an item without orders")
            .about("Its orders are `unknown_item` until a stock lists it again.")
            .who(For::Admin)
            .item("ticket_002")
            .answers_nothing(204, "It is removed.")
            .problems(&[400, 401, 403, 404, 409])
            .done,
        draft(schemas, 1, ("get", "/inventory"), "inventory", "Who owns the one-of-a-kind items")
            .about(
                "Sold items of a single unit, 1,000 to a page, at most a second old. Where keys \
                 for buying are configured, this is the admin's to see.",
            )
            .who(For::Buyers)
            .after("As the Link header of the page before has it.")
            .answers(
                200,
                JSON,
                json!({"type": "array", "items": sold}),
                json!([{"id": "ticket_001", "owner": "ann"}]),
                "A page of items: by id (on AWS in no order), listed ones first.",
            )
            .heads(
                "200",
                header("Link", "`</inventory?after=...>; rel=\"next\"`, if there is a next page."),
            )
            .unless_known()
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
        draft(schemas, 2, ("get", "/healthz"), "alive", "Whether the process is alive")
            .answers(200, JSON, words.clone(), json!({"status": "ok"}), "It is.")
            .done,
        draft(schemas, 2, ("get", "/readyz"), "ready", "Whether orders can be taken")
            .about(
                "Ready when ledger and queue are; without the lock a sale is slower, but goes on.",
            )
            .answers(200, JSON, words, ready, "They can.")
            .done,
        draft(schemas, 2, ("get", "/events"), "events", "The sale as it runs")
            .about(
                "Server-sent events: `history` once, then `board` every second, with what the \
                 dashboard shows. Buyers' names are shown to who may see them.",
            )
            .who(For::Buyers)
            .answers_text(EVENTS, "The events, until the client leaves.")
            .done,
        draft(schemas, 2, ("get", "/metrics"), "metrics", "Figures for Prometheus")
            .answers_text(METRICS, "Prometheus' text format.")
            .done,
        draft(schemas, 2, ("get", "/openapi.json"), "openapi", "This document")
            .answers(200, JSON, json!({"type": "object"}), Value::Null, "OpenAPI 3.1.")
            .unless_known()
            .done,
    ]
}

fn pages(schemas: &mut Schemas) -> Vec<Operation> {
    let name = json!({"type": "string"});
    vec![
        draft(schemas, 3, ("get", "/"), "boardPage", "The sale as it runs")
            .answers_text(HTML, "The page.")
            .unless_known()
            .done,
        draft(schemas, 3, ("get", "/docs"), "docs", "This document, to be read")
            .answers_text(HTML, "The page.")
            .unless_known()
            .done,
        draft(schemas, 3, ("get", "/buy/{id}"), "buyPage", "Buy an item, and follow the order")
            .item("ticket_001")
            .answers_text(HTML, "The page.")
            .unless_known()
            .problems(&[404])
            .done,
        draft(schemas, 3, ("get", "/assets/{id}"), "asset", "A file that a page names")
            .takes("path", "id", name, json!("theme.css"), "The file's name.")
            .answers_text("*/*", "The file.")
            .unless_known()
            .problems(&[404])
            .done,
    ]
}
