//! What a request is called: by its client, or else by us. The answer says it, and so do the log
//! lines of the request.

use std::future::Future;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The client's name for it, if it is 1-128 visible ASCII characters; else one made of the
/// process's name and the request's number, which costs no chance to draw.
pub(super) fn of(headers: &HeaderMap, process: u32, number: u64) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(X_REQUEST_ID).filter(sane).cloned();
    given.unwrap_or_else(|| {
        let made = HeaderValue::try_from(format!("{process:08x}-{number:x}"));
        made.expect("hex digits are visible ASCII")
    })
}

/// Runs what answers the request.
pub(super) async fn scope<F: Future>(id: HeaderValue, answering: F) -> F::Output {
    CURRENT.scope(id, answering).await
}

/// For log lines: the request that this task is answering, if it is.
pub(super) fn current() -> Option<String> {
    CURRENT.try_with(|id| id.to_str().unwrap_or_default().to_owned()).ok()
}
