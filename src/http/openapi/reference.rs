//! Renders the document as a page without scripts.

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
                        "For machines: " a href="openapi.json" { "openapi.json" } "." }
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

/// The operations with a tag: path, method and operation.
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
            p.who { (access(&value["security"])) }
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
                h4 { "Request body" }
                p { (kind(&body["schema"])) ", " code { "application/json" } }
            }
            h4 { "Responses" }
            dl.answers { @for (status, response) in map(&value["responses"]) {
                dt { span.status.(format!("s{}", &status[..1])) { (status) } }
                dd { (response_details(response)) }
            } }
        }
    }
}

fn response_details(response: &Value) -> Markup {
    let headers = map(&response["headers"]);
    html! {
        p { (text(&response["description"])) }
        @for (media, content) in map(&response["content"]) {
            p.media { code { (media) } ": " (kind(&content["schema"])) }
            @if let Some(example) = content.get("example") {
                pre tabindex="0" { code { (format!("{example:#}")) } }
            }
        }
        // Headers of every response are described once, at the top of the page.
        @for (name, header) in headers.iter().filter(|(_, header)| header["$ref"].is_null()) {
            p.media { code { (name) } ": " (marked(text(&header["description"]))) }
        }
    }
}

fn access(security: &Value) -> &'static str {
    let alternatives = list(security);
    match alternatives.iter().any(|alternative| map(alternative).is_empty()) {
        _ if alternatives.is_empty() => "Requires no key.",
        false => "Requires the admin key.",
        true => "Requires a key if keys for buying are configured.",
    }
}

/// A curl command for the operation, with the examples of the document.
fn curl(path: &str, method: &str, value: &Value) -> String {
    let mut command = "curl".to_owned();
    if method == "put" {
        command += " -X PUT";
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
            "header" if name == "Idempotency-Key" => {
                command += &format!(" -H '{name}: {example}'");
            }
            _ => {}
        }
    }
    if !value["responses"]["200"]["content"]["text/event-stream"].is_null() {
        command += " -N";
    }
    let alternatives = list(&value["security"]);
    if !alternatives.is_empty() && alternatives.iter().all(|way| !map(way).is_empty()) {
        command += " -H \"Authorization: Bearer $ADMIN_KEY\"";
    }
    if let Some(example) = value["requestBody"]["content"]["application/json"].get("example") {
        command += &format!(" --json '{example}'");
    }
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    format!("{command} 'localhost:5000{path}{query}'")
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

/// The type of a schema, as a word or a link.
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

/// The constraints of a schema.
fn rules(schema: &Value) -> Markup {
    let words = [
        ("const", "always"),
        ("enum", "one of"),
        ("pattern", "matches"),
        ("minLength", "minimum length"),
        ("maxLength", "maximum length"),
        ("minimum", "minimum"),
        ("maximum", "maximum"),
        ("default", "default"),
        ("format", "format"),
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

/// Paragraphs, which are separated by blank lines.
fn prose(value: &Value) -> Markup {
    let paragraphs = text(value).split("\n\n").filter(|paragraph| !paragraph.is_empty());
    html! { @for paragraph in paragraphs {
        p { (marked(paragraph)) }
    } }
}

/// Renders text between backticks as code.
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
