//! The document as a page: it needs no script, and says nothing that the document does not.

use maud::{DOCTYPE, Markup, html};
use serde_json::{Map, Value};

/// The page of a document that [`super::document`] made.
pub(super) fn page(document: &Value) -> Markup {
    let info = &document["info"];
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (text(&info["title"])) " API" }
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="assets/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="assets/theme.css";
                link rel="stylesheet" href="assets/docs.css";
            }
            body {
                (contents(document))
                main {
                    h1 { (text(&info["title"])) " API " small { (text(&info["version"])) } }
                    p.lead { (text(&info["summary"])) ". "
                        a href="openapi.json" { "openapi.json" } " is the same for machines." }
                    (prose(&info["description"]))
                    @for tag in list(&document["tags"]) {
                        section id=(text(&tag["name"])) {
                            h2 { (text(&tag["name"])) }
                            (prose(&tag["description"]))
                            @for (path, method, value) in operations(document, &tag["name"]) {
                                (operation(path, method, value))
                            }
                        }
                    }
                    section id="schemas" {
                        h2 { "Schemas" }
                        @for (name, schema) in map(&document["components"]["schemas"]) {
                            (definition(name, schema))
                        }
                    }
                }
            }
        }
    }
}

fn contents(document: &Value) -> Markup {
    html! {
        nav aria-label="Contents" {
            @for tag in list(&document["tags"]) {
                p { a href=(format!("#{}", text(&tag["name"]))) { (text(&tag["name"])) } }
                ul { @for (path, method, value) in operations(document, &tag["name"]) {
                    li { a href=(format!("#{}", text(&value["operationId"]))) {
                        span.method.(method) { (method.to_uppercase()) } " " code { (path) }
                    } }
                } }
            }
            p { a href="#schemas" { "Schemas" } }
            ul { @for name in map(&document["components"]["schemas"]).keys() {
                li { a href=(format!("#schema-{name}")) { (name) } }
            } }
        }
    }
}

/// The operations under a tag: path, method, and what is said of it.
fn operations<'a>(document: &'a Value, tag: &Value) -> Vec<(&'a str, &'a str, &'a Value)> {
    let mut found = Vec::new();
    for (path, methods) in map(&document["paths"]) {
        let methods = map(methods).iter().filter(|(_, value)| list(&value["tags"]).contains(tag));
        found.extend(methods.map(|(method, value)| (path.as_str(), method.as_str(), value)));
    }
    found
}

fn operation(path: &str, method: &str, value: &Value) -> Markup {
    let id = text(&value["operationId"]);
    let body = &value["requestBody"]["content"]["application/json"];
    html! {
        article id=(id) {
            h3 {
                span.method.(method) { (method.to_uppercase()) } " " code { (path) }
                " " a.anchor href=(format!("#{id}")) aria-label=(format!("Link to {id}")) { "#" }
            }
            p { strong { (text(&value["summary"])) "." } }
            (prose(&value["description"]))
            p.who { (who(&value["security"])) }
            pre.curl tabindex="0" { code { (curl(path, method, value)) } }
            @let parameters = list(&value["parameters"]);
            @if !parameters.is_empty() {
                h4 { "Parameters" }
                dl { @for parameter in parameters {
                    dt { code { (text(&parameter["name"])) } " " small { (text(&parameter["in"])) ", " (kind(&parameter["schema"])) } }
                    dd { (marked(text(&parameter["description"]))) " " (rules(&parameter["schema"])) }
                } }
            }
            @if !body.is_null() {
                h4 { "Body" }
                p { (kind(&body["schema"])) ", " code { "application/json" } }
            }
            h4 { "Answers" }
            dl.answers { @for (status, answer) in map(&value["responses"]) {
                dt { span.status.(format!("s{}", &status[..1])) { (status) } }
                dd { (said(answer)) }
            } }
        }
    }
}

fn said(answer: &Value) -> Markup {
    let headers = map(&answer["headers"]);
    html! {
        p { (text(&answer["description"])) }
        @for (media, content) in map(&answer["content"]) {
            p.media { code { (media) } ": " (kind(&content["schema"])) }
            @if let Some(example) = content.get("example") {
                pre tabindex="0" { code { (format!("{example:#}")) } }
            }
        }
        // One that is the same everywhere is told of once, at the top.
        @for (name, header) in headers.iter().filter(|(_, header)| header["$ref"].is_null()) {
            p.media { code { (name) } ": " (marked(text(&header["description"]))) }
        }
    }
}

fn who(security: &Value) -> &'static str {
    let ways = list(security);
    match ways.iter().filter(|way| map(way).is_empty()).count() {
        _ if ways.is_empty() => "Open to anybody.",
        0 => "For the admin only.",
        _ => "Open to anybody, or to those with a key where keys for buying are configured.",
    }
}

/// A line that does it, with the document's own examples.
fn curl(path: &str, method: &str, value: &Value) -> String {
    let mut line = "curl".to_owned();
    if method == "put" {
        line += " -X PUT";
    }
    let mut path = path.to_owned();
    let mut query = Vec::new();
    for parameter in list(&value["parameters"]) {
        let name = text(&parameter["name"]);
        let example = match &parameter["example"] {
            Value::String(example) => example.clone(),
            other => other.to_string(),
        };
        match text(&parameter["in"]) {
            "path" => path = path.replace(&format!("{{{name}}}"), &example),
            "query" if name == "wait" => query.push(format!("{name}={example}")),
            "header" if name == "Idempotency-Key" => line += &format!(" -H '{name}: {example}'"),
            _ => {}
        }
    }
    if text(&value["responses"]["200"]["description"]).starts_with("The events") {
        line += " -N";
    }
    let ways = list(&value["security"]);
    if !ways.is_empty() && ways.iter().all(|way| !map(way).is_empty()) {
        line += " -H \"Authorization: Bearer $ADMIN_KEY\"";
    }
    if let Some(example) = value["requestBody"]["content"]["application/json"].get("example") {
        line += &format!(" --json '{example}'");
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{line} 'localhost:5000{path}{query}'")
}

fn definition(name: &str, schema: &Value) -> Markup {
    let required = list(&schema["required"]);
    html! {
        article id=(format!("schema-{name}")) {
            h3 { (name) " " small { (kind(schema)) } }
            (prose(&schema["description"]))
            @if schema["properties"].is_null() { p { (rules(schema)) } }
            dl { @for (property, of) in map(&schema["properties"]) {
                dt {
                    code { (property) } " " small { (kind(of)) }
                    @if !required.iter().any(|name| name == property) { " " small { "optional" } }
                }
                dd { (marked(text(&of["description"]))) " " (rules(of)) }
            } }
        }
    }
}

/// What a schema is, in a word or a link.
fn kind(schema: &Value) -> Markup {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return html! { a href=(format!("#schema-{name}")) { (name) } };
    }
    let any = list(&schema["anyOf"]);
    if !any.is_empty() && schema["type"].is_null() {
        return html! { @for (n, way) in any.iter().enumerate() { @if n > 0 { " or " } (kind(way)) } };
    }
    if !schema["items"].is_null() {
        return html! { "list of " (kind(&schema["items"])) };
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>().join(" or "),
        one => text(one).to_owned(),
    };
    html! { (types) }
}

/// What a value must keep to.
fn rules(schema: &Value) -> Markup {
    let words = [
        ("const", "always"),
        ("enum", "one of"),
        ("pattern", "matches"),
        ("minLength", "at least this long:"),
        ("maxLength", "at most this long:"),
        ("minimum", "at least"),
        ("maximum", "at most"),
        ("default", "by default"),
        ("format", "written as"),
    ];
    let found = words.iter().filter_map(|(key, word)| Some((*word, schema.get(*key)?)));
    html! { @for (word, value) in found {
        span.rule { (word) " " @match value {
            Value::Array(values) => { @for value in values { code { (plain(value)) } " " } }
            value => { code { (plain(value)) } }
        } }
        " "
    } }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Paragraphs.
fn prose(value: &Value) -> Markup {
    let paragraphs = text(value).split("\n\n").filter(|paragraph| !paragraph.is_empty());
    html! { @for paragraph in paragraphs {
        p { (marked(paragraph)) }
    } }
}

/// A text with what stands between backticks as code.
fn marked(text: &str) -> Markup {
    html! { @for (n, part) in text.split('`').enumerate() {
        @if n % 2 == 1 { code { (part) } } @else { (part) }
    } }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn map(value: &Value) -> &Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    value.as_object().unwrap_or(&NONE)
}
