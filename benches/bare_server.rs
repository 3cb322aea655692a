//! The lower bound for flux's HTTP figures: a hyper server that parses the same JSON, returns the
//! same 202, and does nothing else. It has the same allocator and build profile.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct BuyRequest {
    user_id: String,
    item_id: String,
    #[serde(default = "one")]
    quantity: u64,
}

fn one() -> u64 {
    1
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = |status| Response::builder().status(status);
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let response = match serde_json::from_slice::<BuyRequest>(&body) {
        Err(_) => status(StatusCode::BAD_REQUEST).body(Full::default()),
        Ok(BuyRequest { user_id, item_id, quantity }) => {
            let text = format!(
                r#"{{"message":"Order received","order_id":"0123456789abcdef0123456789abcdef","status":"queued","order":{{"user_id":"{user_id}","item_id":"{item_id}","quantity":{quantity}}}}}"#
            );
            status(StatusCode::ACCEPTED)
                .header("content-type", "application/json")
                .header("location", "/orders/0123456789abcdef0123456789abcdef")
                .body(Full::from(text))
        }
    };
    Ok(response.expect("status and headers are valid"))
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let serve = hyper::server::conn::http1::Builder::new();
            let _closed = serve.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}
