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

/// `GET /events`: the state of the sale as server-sent events, each with names for those who may
/// see them by then.
pub(in crate::http) fn subscribe(
    state: &AppState,
    head: &request::Parts,
    client: &Client,
) -> Result<Response, Problem> {
    if head.method == Method::HEAD {
        return Ok(event_stream::head_only());
    }
    let place = state.place_to_wait(head, client).ok_or_else(|| {
        Problem::unavailable("too many clients are waiting here; try again in a moment")
    })?;
    let (events, response) = EventStream::open(place, client);
    state.dashboard.subscribe(events, Session::of(head));
    Ok(response)
}
