//! The dead letters: the admin's alone.

use serde_json::{Value, json};

use super::{Draft, For, JSON, ORDER, Operation, draft};
use crate::http::dead_letters::{DoneJson, PageJson, WhichJson};
use crate::http::openapi::schemas::Schemas;

pub(super) fn letters(schemas: &mut Schemas) -> Vec<Operation> {
    let page = schemas.written::<PageJson<'static>>();
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 1000, "default": 100});
    let text = json!({"type": "string"});
    let place = json!({"type": "string", "pattern": "^[0-9]{1,19}-[0-9a-f]{32}$"});
    let first = format!("1795441740123-{ORDER}");
    let shown = json!({"dead_letters": [{
        "order_id": ORDER, "reason": "not an order: missing field `user_id`", "body": "{}",
        "at": "2026-11-23T13:49:00.000Z",
    }]});
    let list = draft(schemas, 2, ("get", "/dead-letters"), "deadLetters", "What was not decided")
        .about("Oldest first, as far as the queue knows.")
        .who(For::Admin)
        .takes("query", "reason", text, json!("not an order"), "What is to stand in the reason.")
        .takes("query", "after", place, json!(first), "`next` of the page before.")
        .takes("query", "limit", limit, json!(100), "Letters in a page.")
        .answers(200, JSON, page, shown, "A page of letters.")
        .problems(&[400, 401, 403])
        .done;
    let redrive = ("/dead-letters/redrive", "redrive", "Send orders again");
    let drop = ("/dead-letters/drop", "dropDeadLetters", "Drop letters for good");
    vec![list, deed(schemas, redrive, "sent_again"), deed(schemas, drop, "dropped")]
}

fn deed(
    schemas: &mut Schemas,
    (path, id, summary): (&'static str, &str, &str),
    became: &str,
) -> Operation {
    let which = schemas.read::<WhichJson>();
    let done = schemas.written::<DoneJson>();
    let example: Value = json!({
        "dry_run": false, "dead_letters": [{"order_id": ORDER, "became": became}], "more": false,
        "left": 0,
    });
    let draft: Draft<'_> = draft(schemas, 2, ("post", path), id, summary);
    draft
        .about(
            "Those named by `order_ids` (at most 1,000), or `all`, or all in whose reason `reason` \
             stands. `dry_run` only tells. An order keeps its id, and the letters of decided orders \
             go. An undecided order whose letter is dropped gets the status `dropped`, for good. \
             The same again goes on from where it was interrupted.",
        )
        .who(For::Admin)
        .body(which, json!({"order_ids": [ORDER]}))
        .answers(200, JSON, done, example, "What became of each letter.")
        .problems(&[401, 403])
        .done
}
