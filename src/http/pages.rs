//! The pages and the files that they name, in the binary.

use std::sync::LazyLock;

use hyper::header::HeaderValue;
use hyper::http::request;

use super::etag;
use super::etag::tagged;
use super::page::{asset, page};
use super::problem::Problem;
use super::response::Answer;
use super::server::Server;
use crate::core::model::ItemId;

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

struct File {
    name: &'static str,
    kind: &'static str,
    content: &'static [u8],
    tag: LazyLock<HeaderValue>,
}

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File {
            name: $name,
            kind: $kind,
            content: include_bytes!(concat!("pages/", $name)),
            tag: LazyLock::new(|| etag::of(include_bytes!(concat!("pages/", $name)))),
        }
    };
}

static BUY: File = file!("buy.html", "text/html");

static BOARD: File = file!("board.html", "text/html");

static ASSETS: [File; 12] = [
    file!("look.css", CSS),
    file!("board.css", CSS),
    file!("board.js", JS),
    file!("desk.js", JS),
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

impl Server {
    /// `/`: the sale as it runs, for the organiser and for a wall.
    pub fn board_page(&self, head: &request::Parts) -> Answer {
        tagged(page(BOARD.content), BOARD.tag.clone(), head)
    }

    /// `/buy/ITEM`: buys, and follows the order. Whether the item is sold is for the order to find
    /// out.
    pub fn buy_page(&self, item: &str, head: &request::Parts) -> Result<Answer, Problem> {
        ItemId::parse(item).map_err(|e| Problem::not_found(e.0))?;
        Ok(tagged(page(BUY.content), BUY.tag.clone(), head))
    }

    pub fn asset(&self, name: &str, head: &request::Parts) -> Result<Answer, Problem> {
        let file = ASSETS.iter().find(|file| file.name == name);
        let file = file.ok_or_else(|| Problem::not_found("there is no such file"))?;
        Ok(tagged(asset(file.kind, file.content), file.tag.clone(), head))
    }
}
