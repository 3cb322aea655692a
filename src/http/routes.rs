//! Which request goes where.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request;
use hyper::{Method, Request, Response, StatusCode};

use super::answer::{Answer, AnswerBody};
use super::body::RequestBody;
use super::problem::Problem;
use super::query;
use super::request_id::{self, X_REQUEST_ID};
use super::server::Server;

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
            Route::Item => "GET, HEAD, PUT",
            _ => "GET, HEAD",
        }
    }

    /// Whether it only says how the process is, which health checks ask for under any `Host`.
    fn is_health(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }
}

impl Server {
    /// Answers one request. With the answer, whether the connection has to be closed because the
    /// rest of the request was not read.
    pub async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        peer: IpAddr,
    ) -> (Answer, bool) {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let (mut head, incoming) = request.into_parts();
        let id = request_id::of(&head.headers, self.process, number);
        let mut body = RequestBody::new(incoming, &head, self.api.limits.read_timeout);
        let answering = async {
            self.identify(&mut head, peer).await?;
            self.dispatch(&head, peer, &mut body).await
        };
        let answered = request_id::scope(id.clone(), answering).await;
        let mut answer = answered.unwrap_or_else(Problem::into_answer);
        self.allow_origin(&head, answer.headers_mut());
        answer.headers_mut().insert(X_REQUEST_ID, id);
        let unread = !body.drain().await;
        if unread {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        (answer, unread)
    }

    async fn dispatch(
        self: &Arc<Self>,
        head: &request::Parts,
        peer: IpAddr,
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
        let query = head.uri.query();
        if !found.value.is_health() {
            self.admit_host(head, peer)?;
        }
        match *found.value {
            Route::Buy if post => self.buy(head, peer, body).await,
            Route::Item if head.method == Method::PUT => self.put_item(&id, head, body).await,
            Route::BoardPage if read => Ok(self.board_page(head)),
            Route::BuyPage if read => self.buy_page(&id, head),
            Route::Asset if read => self.asset(&id, head),
            Route::Order if read => self.order(&id, head).await,
            Route::OrderEvents if read => self.order_events(&id, head).await,
            Route::Items if read => self.items(query).await,
            Route::Item if read => self.item(&id).await,
            Route::Inventory if read => self.inventory(head).await,
            Route::DeadLetters if read => self.list_letters(head).await,
            Route::Redrive if post => self.redrive_letters(head, body).await,
            Route::DropLetters if post => self.drop_letters(head, body).await,
            Route::Openapi if read => Ok(self.openapi(head)),
            Route::Docs if read => Ok(self.docs(head)),
            Route::Stats if read => Ok(self.stats().await),
            Route::Events if read => self.events(head),
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

/// What a path takes; [`Server::allow_origin`] adds what other sites' pages may do there.
fn options(route: Route) -> Answer {
    let mut answer = Response::new(AnswerBody::whole(""));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.allow()));
    answer
}
