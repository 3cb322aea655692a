//! The handler of `GET /events`.

use hyper::Method;
use hyper::http::request;

use crate::http::access::Session;
use crate::http::client::Client;
use crate::http::event_stream;
use crate::http::event_stream::EventStream;
use crate::http::problem::Problem;
use crate::http::response::Response;
use crate::http::state::AppState;

/// Sends the state of the sale as server-sent events. Names are included only while the caller may
/// see them.
pub(in crate::http) fn subscribe(
    state: &AppState,
    head: &request::Parts,
    client: &Client,
) -> Result<Response, Problem> {
    if head.method == Method::HEAD {
        return Ok(event_stream::head_only());
    }
    let permit = state.wait_permit(head, client).ok_or_else(|| {
        Problem::unavailable("too many open streams and waits; try again in a moment")
    })?;
    let (events, response) = EventStream::open(permit, client);
    state.dashboard.subscribe(events, Session::of(head));
    Ok(response)
}
