//! The pages and their files, compiled into the binary.

use std::sync::LazyLock;

use hyper::header::HeaderValue;
use hyper::http::request;

use super::etag;
use super::etag::with_etag;
use super::page;
use super::problem::Problem;
use super::response::Response;
use crate::core::model::ItemId;

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
    etag: LazyLock<HeaderValue>,
}

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            name: $name,
            kind: $kind,
            content: include_bytes!(concat!("pages/", $name)),
            etag: LazyLock::new(|| etag::of(include_bytes!(concat!("pages/", $name)))),
        }
    };
}

static BUY: File = file!("buy.html", "text/html");

static DASHBOARD: File = file!("dashboard.html", "text/html");

static ASSETS: [File; 12] = [
    file!("theme.css", CSS),
    file!("dashboard.css", CSS),
    file!("dashboard.js", JS),
    file!("admin.js", JS),
    file!("plots.js", JS),
    file!("words.js", JS),
    file!("buy.css", CSS),
    file!("docs.css", CSS),
    file!("buy.js", JS),
    file!("feed.js", JS),
    file!("icon.svg", "image/svg+xml"),
    // Inter, by its authors under the SIL Open Font License (pages/inter.LICENSE).
    file!("inter.woff2", "font/woff2"),
];

/// `/`: the dashboard.
pub(super) fn dashboard(head: &request::Parts) -> Response {
    with_etag(page::html(DASHBOARD.content), DASHBOARD.etag.clone(), head)
}

/// `/buy/ITEM`: the page for buyers. It is served for every valid item id; whether the item is for
/// sale is checked with the order.
pub(super) fn buy(item: &str, head: &request::Parts) -> Result<Response, Problem> {
    ItemId::parse(item).map_err(|e| Problem::not_found(e.0))?;
    Ok(with_etag(page::html(BUY.content), BUY.etag.clone(), head))
}

pub(super) fn asset(name: &str, head: &request::Parts) -> Result<Response, Problem> {
    let file = ASSETS.iter().find(|file| file.name == name);
    let file = file.ok_or_else(|| Problem::not_found("file not found"))?;
    Ok(with_etag(page::asset(file.kind, file.content), file.etag.clone(), head))
}
