//! Which request goes where.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::RequestBody;
use super::connection::{Client, Refusal};
use super::problem::Problem;
use super::query;
use super::raw;
use super::request_id;
use super::request_id::X_REQUEST_ID;
use super::response::{Answer, AnswerBody};
use super::server::Server;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    BoardPage,
    Buy,
    BuyPage,
    Asset,
    Order,
    OrderEvents,
    Items,
    Item,
    Inventory,
    DeadLetters,
    Redrive,
    DropLetters,
    Stats,
    Events,
    Metrics,
    Openapi,
    Docs,
    Healthz,
    Readyz,
}

impl Route {
    /// All of them, with their paths; each is described in `openapi/operations.rs`.
    pub fn each(mut see: impl FnMut(&'static str, Route)) {
        for (path, route) in [
            ("/", Route::BoardPage),
            ("/buy", Route::Buy),
            ("/buy/{id}", Route::BuyPage),
            ("/assets/{id}", Route::Asset),
            ("/orders/{id}", Route::Order),
            ("/orders/{id}/events", Route::OrderEvents),
            ("/items", Route::Items),
            ("/items/{id}", Route::Item),
            ("/inventory", Route::Inventory),
            ("/dead-letters", Route::DeadLetters),
            ("/dead-letters/redrive", Route::Redrive),
            ("/dead-letters/drop", Route::DropLetters),
            ("/stats", Route::Stats),
            ("/openapi.json", Route::Openapi),
            ("/docs", Route::Docs),
            ("/events", Route::Events),
            ("/metrics", Route::Metrics),
            ("/healthz", Route::Healthz),
            ("/readyz", Route::Readyz),
        ] {
            see(path, route);
        }
    }

    pub fn table() -> matchit::Router<Route> {
        let mut table = matchit::Router::new();
        Self::each(|path, route| table.insert(path, route).expect("no two paths are alike"));
        table
    }

    pub fn allow(self) -> &'static str {
        match self {
            Route::Buy | Route::Redrive | Route::DropLetters => "POST",
            Route::Item => "GET, HEAD, PUT, DELETE",
            _ => "GET, HEAD",
        }
    }

    /// Whether it only says how the process is, which health checks ask for under any `Host`.
    fn is_health(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }
}

impl Server {
    /// Answers one request.
    pub async fn answer(self: &Arc<Self>, request: Request<Incoming>, client: &Client) -> Answer {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let (mut head, incoming) = request.into_parts();
        let id = request_id::of(&head.headers, self.process, number);
        let mut body = RequestBody::new(incoming, &head, self.api.limits.read_timeout);
        let answering = async {
            if let Some(refusal) = client.refusal
                && !self.is_answered_always(refusal, &head)
            {
                return Err(refusal.problem());
            }
            self.identify(&mut head, client.peer).await?;
            self.dispatch(&head, client, &mut body).await
        };
        let answered = request_id::scope(id.clone(), answering).await;
        let mut answer = answered.unwrap_or_else(Problem::into_answer);
        let unread = match client.refusal {
            Some(_) => body.is_coming(),
            None => !body.drain().await,
        };
        if unread {
            client.leave_unread();
        }
        self.finish(&head.headers, id, answer.headers_mut());
        let headers = answer.headers_mut();
        if unread || client.is_ending() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else if is_kept_alive(&head)
            && let Some(keep_alive) = self.keep_alive()
        {
            headers.insert(header::CONNECTION, HeaderValue::from_static("keep-alive"));
            headers.insert(KEEP_ALIVE, keep_alive);
        }
        answer
    }

    /// An answer, as it goes over the wire, to a request of which only the beginning of the head is
    /// known. The connection ends after it.
    pub fn answer_unread(&self, problem: Problem, head: &[u8]) -> Bytes {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let asked = raw::headers(head);
        let id = request_id::of(&asked, self.process, number);
        let mut answer = problem.into_answer();
        self.finish(&asked, id, answer.headers_mut());
        answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        raw::bytes(answer, head)
    }

    /// Whether a connection that is refused gets this answer all the same: a browser asks first
    /// whether its page may read the refusal, and a full process is not a dead one.
    fn is_answered_always(&self, refusal: Refusal, head: &request::Parts) -> bool {
        let is_alive = refusal == Refusal::Full && self.path(head) == "/healthz";
        is_alive || head.method == Method::OPTIONS
    }

    /// What every answer carries.
    fn finish(&self, asked: &HeaderMap, id: HeaderValue, answered: &mut HeaderMap) {
        self.allow_origin(asked, answered);
        answered.insert(X_REQUEST_ID, id);
        answered.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }

    async fn dispatch(
        self: &Arc<Self>,
        head: &request::Parts,
        client: &Client,
        body: &mut RequestBody,
    ) -> Result<Answer, Problem> {
        if let Some(location) = self.base_without_slash(head) {
            return Ok(moved(location));
        }
        let path = self.path(head);
        let nothing = || Problem::not_found("there is nothing at this path");
        let found = self.routes.at(path).map_err(|_| nothing())?;
        let id = found.params.get("id").unwrap_or_default();
        let id = query::decode(id).ok_or_else(nothing)?;
        let read = matches!(head.method, Method::GET | Method::HEAD);
        let post = head.method == Method::POST;
        if !found.value.is_health() {
            self.admit_host(head, client.peer)?;
        }
        match *found.value {
            Route::Buy if post => self.buy(head, client.peer, body).await,
            Route::Item if head.method == Method::PUT => self.put_item(&id, head, body).await,
            Route::Item if head.method == Method::DELETE => self.remove_item(&id, head).await,
            Route::BoardPage if read => Ok(self.board_page(head)),
            Route::BuyPage if read => self.buy_page(&id, head),
            Route::Asset if read => self.asset(&id, head),
            Route::Order if read => self.order(&id, head, client).await,
            Route::OrderEvents if read => self.order_events(&id, head, client).await,
            Route::Items if read => self.items(head).await,
            Route::Item if read => self.item(&id, head).await,
            Route::Inventory if read => self.inventory(head).await,
            Route::DeadLetters if read => self.list_letters(head).await,
            Route::Redrive if post => self.redrive_letters(head, body).await,
            Route::DropLetters if post => self.drop_letters(head, body).await,
            Route::Openapi if read => Ok(self.openapi(head)),
            Route::Docs if read => Ok(self.docs(head)),
            Route::Stats if read => Ok(self.stats().await),
            Route::Events if read => self.events(head, client),
            Route::Metrics if read => Ok(self.metrics()),
            Route::Healthz if read => Ok(self.healthz()),
            Route::Readyz if read => self.readyz().await,
            route if head.method == Method::OPTIONS => Ok(options(route)),
            route => {
                let what = "this path does not take this method; Allow says which it takes";
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, what);
                Err(problem.with_header(header::ALLOW, route.allow()))
            }
        }
    }
}

/// For any method, which the client keeps.
fn moved(location: HeaderValue) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(""));
    *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
    answer.headers_mut().insert(header::LOCATION, location);
    answer
}

/// Whether the client wants the connection to go on after this request (RFC 9112, 9.3).
fn is_kept_alive(head: &request::Parts) -> bool {
    let lines = head.headers.get_all(header::CONNECTION).iter();
    let options = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let mut options = options.map(<[u8]>::trim_ascii);
    match head.version {
        Version::HTTP_11 => !options.any(|option| option.eq_ignore_ascii_case(b"close")),
        _ => options.any(|option| option.eq_ignore_ascii_case(b"keep-alive")),
    }
}

/// What a path takes; [`Server::allow_origin`] adds what other sites' pages may do there.
fn options(route: Route) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    answer
}
