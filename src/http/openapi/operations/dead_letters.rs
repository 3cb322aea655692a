//! The operations on dead letters, for the admin only.

use serde_json::{Value, json};

use super::{Draft, For, JSON, ORDER, Operation, draft};
use crate::http::dead_letters::{FilterJson, PageJson, ResultsJson};
use crate::http::openapi::schemas::Schemas;

pub(super) fn letters(schemas: &mut Schemas) -> Vec<Operation> {
    let page = schemas.written::<PageJson<'static>>();
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100});
    let text = json!({"type": "string"});
    let position = json!({"type": "string", "pattern": "^[0-9]{1,19}-[0-9a-f]{32}$"});
    let first = format!("1795441740123-{ORDER}");
    let shown = json!({"dead_letters": [{
        "order_id": ORDER, "reason": "not an order: missing field `user_id`", "body": "{}",
        "at": "2026-11-23T13:49:00.000Z",
    }]});
    let list = draft(
        schemas,
        2,
        ("get", "/dead-letters"),
        "deadLetters",
        "List orders that could not be decided",
    )
    .about("Oldest first, as far as the queue can tell.")
    .who(For::Admin)
    .takes("query", "reason", text, json!("not an order"), "Text that the reason contains.")
    .takes("query", "after", position, json!(first), "`next` of the previous page.")
    .takes("query", "limit", limit, json!(100), "Letters in a page, at most.")
    .answers(200, JSON, page, shown, "A page of letters.")
    .problems(&[400, 401, 403])
    .done;
    let redrive = ("/dead-letters/redrive", "redrive", "Send orders again");
    let drop = ("/dead-letters/drop", "dropDeadLetters", "Drop letters for good");
    vec![list, resolve(schemas, redrive, "sent_again"), resolve(schemas, drop, "dropped")]
}

fn resolve(
    schemas: &mut Schemas,
    (path, id, summary): (&'static str, &str, &str),
    became: &str,
) -> Operation {
    let filter = schemas.read::<FilterJson>();
    let results = schemas.written::<ResultsJson>();
    let example: Value = json!({
        "dry_run": false, "dead_letters": [{"order_id": ORDER, "became": became}], "more": false,
        "left": 0,
    });
    let draft: Draft<'_> = draft(schemas, 2, ("post", path), id, summary);
    draft
        .about(
            "Selects letters by `order_ids` (at most 1,000), or `all`, or all whose reason contains \
             `reason`. `dry_run` changes nothing. A redriven order keeps its id; letters of decided \
             orders are deleted. An undecided order whose letter is dropped gets the status \
             `dropped`, for good. Safe to repeat: it continues with the letters that are left.",
        )
        .who(For::Admin)
        .body(filter, json!({"order_ids": [ORDER]}))
        .answers(200, JSON, results, example, "The result for each letter.")
        .problems(&[401, 403])
        .done
}
