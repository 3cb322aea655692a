//! Passes each request to its handler.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::{Method, Request, StatusCode, Version};

use super::access::Access;
use super::body::RequestBody;
use super::client::{Client, Refusal};
use super::problem::Problem;
use super::query;
use super::raw;
use super::request_id;
use super::request_id::X_REQUEST_ID;
use super::response;
use super::response::Response;
use super::route::{Route, TABLE};
use super::state::AppState;
use super::{
    buy, dashboard, dead_letters, inventory, items, metrics, openapi, orders, pages, status,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Handles one request.
pub(super) async fn respond(
    state: &Arc<AppState>,
    request: Request<Incoming>,
    client: &Client,
) -> Response {
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let (mut head, incoming) = request.into_parts();
    let id = request_id::of(&head.headers, state.process, number);
    let mut body = RequestBody::new(incoming, &head, state.api.limits.read_timeout);
    let answering = async {
        if let Some(refusal) = client.refusal
            && !is_exempt(&state.access, refusal, &head)
        {
            return Err(refusal.problem());
        }
        state.access.identify(&mut head, client.peer).await?;
        dispatch(state, &head, client, &mut body).await
    };
    let answered = request_id::scope(id.clone(), answering).await;
    let mut response = answered.unwrap_or_else(Problem::into_response);
    let unread = match client.refusal {
        Some(_) => body.is_unread(),
        None => !body.drain().await,
    };
    if unread {
        client.leave_unread();
    }
    finish(&state.access, &head.headers, id, response.headers_mut());
    let headers = response.headers_mut();
    if unread || client.is_ending() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    } else if is_kept_alive(&head)
        && let Some(keep_alive) = state.keep_alive()
    {
        headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
        headers.insert(KEEP_ALIVE, keep_alive);
    }
    response
}

/// The bytes of the error response to a request whose head is incomplete or malformed. The
/// connection ends after it.
pub(super) fn respond_unread(state: &AppState, problem: Problem, head: &[u8]) -> Bytes {
    let number = state.requests.fetch_add(1, Ordering::Relaxed);
    let asked = raw::headers(head);
    let id = request_id::of(&asked, state.process, number);
    let mut response = problem.into_response();
    finish(&state.access, &asked, id, response.headers_mut());
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    raw::bytes(response, head)
}

/// Whether a request is answered even though its connection is refused. Without an answer to its
/// `OPTIONS`, a browser does not let the page read the refusal; and a full process is alive.
fn is_exempt(access: &Access, refusal: Refusal, head: &request::Parts) -> bool {
    let is_alive = refusal == Refusal::Full && access.path(head) == "/healthz";
    is_alive || head.method == Method::OPTIONS
}

/// Adds the headers that every response has.
fn finish(access: &Access, asked: &HeaderMap, id: HeaderValue, answered: &mut HeaderMap) {
    access.allow_origin(asked, answered);
    answered.insert(X_REQUEST_ID, id);
    answered.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

async fn dispatch(
    state: &Arc<AppState>,
    head: &request::Parts,
    client: &Client,
    body: &mut RequestBody,
) -> Result<Response, Problem> {
    if let Some(location) = state.access.base_without_slash(head) {
        return Ok(permanent_redirect(location));
    }
    let path = state.access.path(head);
    let not_found = || Problem::not_found("path not found; /docs lists the paths");
    let found = TABLE.at(path).map_err(|_| not_found())?;
    let id = found.params.get("id").unwrap_or_default();
    let id = query::decode(id).ok_or_else(not_found)?;
    let read = matches!(head.method, Method::GET | Method::HEAD);
    let post = head.method == Method::POST;
    if !found.value.is_health() {
        state.access.admit_host(head, client.peer, state.address)?;
    }
    match *found.value {
        Route::Buy if post => buy::buy(state, head, client.peer, body).await,
        Route::Item if head.method == Method::PUT => items::put(state, &id, head, body).await,
        Route::Item if head.method == Method::DELETE => items::remove(state, &id, head).await,
        Route::DashboardPage if read => Ok(pages::dashboard(head)),
        Route::BuyPage if read => pages::buy(&id, head),
        Route::Asset if read => pages::asset(&id, head),
        Route::Order if read => orders::get(state, &id, head, client).await,
        Route::OrderEvents if read => orders::events(state, &id, head, client).await,
        Route::Items if read => items::list(state, head).await,
        Route::Item if read => items::get(state, &id, head).await,
        Route::Inventory if read => inventory::get(state, head).await,
        Route::DeadLetters if read => dead_letters::list(state, head).await,
        Route::Redrive if post => dead_letters::redrive(state, head, body).await,
        Route::DropDeadLetters if post => dead_letters::discard(state, head, body).await,
        Route::Openapi if read => Ok(openapi::document(state, head)),
        Route::Docs if read => Ok(openapi::docs(head)),
        Route::Stats if read => Ok(status::stats(state).await),
        Route::Events if read => dashboard::events::subscribe(state, head, client),
        Route::Metrics if read => Ok(metrics::get(state)),
        Route::Healthz if read => Ok(status::healthz()),
        Route::Readyz if read => status::readyz(state).await,
        route if head.method == Method::OPTIONS => Ok(options(route)),
        route => Err(Problem::method_not_allowed(route.allow())),
    }
}

/// A redirect that keeps the method.
fn permanent_redirect(location: HeaderValue) -> Response {
    let mut response = response::empty(StatusCode::PERMANENT_REDIRECT);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// Whether the client keeps the connection open after this request (RFC 9112, 9.3).
fn is_kept_alive(head: &request::Parts) -> bool {
    let lines = head.headers.get_all(header::CONNECTION).iter();
    let options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut options = options.map(<[u8]>::trim_ascii);
    match head.version {
        Version::HTTP_11 => !options.any(|option| option.eq_ignore_ascii_case(b"close")),
        _ => options.any(|option| option.eq_ignore_ascii_case(b"keep-alive")),
    }
}

/// The methods of a path; [`Access::allow_origin`] adds what pages of other sites may send.
fn options(route: Route) -> Response {
    let mut response = response::empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    response
}
