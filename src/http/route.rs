//! The paths of the API and their methods.

use std::sync::LazyLock;

/// All routes; each is described in `openapi/operations/`.
pub(super) static ROUTES: [(&str, Route); 19] = [
    ("/", Route::DashboardPage),
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
    ("/dead-letters/drop", Route::DropDeadLetters),
    ("/stats", Route::Stats),
    ("/openapi.json", Route::Openapi),
    ("/docs", Route::Docs),
    ("/events", Route::Events),
    ("/metrics", Route::Metrics),
    ("/healthz", Route::Healthz),
    ("/readyz", Route::Readyz),
];

/// Finds the route of a path.
pub(super) static TABLE: LazyLock<matchit::Router<Route>> = LazyLock::new(|| {
    let mut table = matchit::Router::new();
    for (path, route) in ROUTES {
        table.insert(path, route).expect("the paths are distinct");
    }
    table
});

#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    DashboardPage,
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
    DropDeadLetters,
    Stats,
    Events,
    Metrics,
    Openapi,
    Docs,
    Healthz,
    Readyz,
}

impl Route {
    pub fn allow(self) -> &'static str {
        match self {
            Route::Buy | Route::Redrive | Route::DropDeadLetters => "POST",
            Route::Item => "GET, HEAD, PUT, DELETE",
            _ => "GET, HEAD",
        }
    }

    /// Whether it only reports on the process. Health checks request these under any `Host`.
    pub fn is_health(self) -> bool {
        matches!(self, Route::Healthz | Route::Readyz | Route::Metrics)
    }
}
