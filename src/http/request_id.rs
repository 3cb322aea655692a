//! Request ids: chosen by the client, or else generated. The response and the request's log lines
//! contain the id.

use std::future::Future;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

tokio::task_local! {
    static CURRENT: HeaderValue;
}

/// The client's `X-Request-Id`, if it is 1-128 visible ASCII characters; otherwise an id made of the
/// process number and the request number, which needs no random number per request.
pub(super) fn of(headers: &HeaderMap, process: u32, number: u64) -> HeaderValue {
    let is_valid = |id: &&HeaderValue| {
        (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    let given = headers.get(X_REQUEST_ID).filter(is_valid).cloned();
    given.unwrap_or_else(|| {
        let generated = HeaderValue::try_from(format!("{process:08x}-{number:x}"));
        generated.expect("hex digits are visible ASCII")
    })
}

/// Runs the handler of a request with this id as the current one.
pub(super) async fn scope<F: Future>(id: HeaderValue, answering: F) -> F::Output {
    CURRENT.scope(id, answering).await
}

/// The id of the request that this task is handling, for log lines; `None` outside of one.
pub(super) fn current() -> Option<String> {
    CURRENT.try_with(|id| id.to_str().unwrap_or_default().to_owned()).ok()
}
