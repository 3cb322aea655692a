//! The lower bound for deciding on AWS: the transactions that a worker would write for one hot
//! item, and nothing else. Each writes 99 new orders, and the item on the condition that it has the
//! version of the previous transaction, so they run one after another.
//!
//! `replay HOST:PORT TABLE COUNT` writes COUNT transactions to a stand-in over one connection. The
//! bodies are built before the clock starts. Prints orders and seconds as JSON.

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

const ORDERS: u64 = 99;
const ITEM: &str = "replayed";
/// Stand-ins require credentials, but do not check them.
const CREDENTIALS: &str = "AWS4-HMAC-SHA256 \
    Credential=local/20260101/eu-central-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0";

fn put_item(table: &str, version: u64) -> Value {
    let sold = version * ORDERS;
    let row = json!({
        "item_id": {"S": ITEM}, "stock": {"N": "1000000000"},
        "free": {"N": (1_000_000_000 - sold).to_string()}, "held": {"N": "0"},
        "sold": {"N": sold.to_string()}, "version": {"N": version.to_string()},
    });
    let mut put = json!({ "TableName": format!("{table}_items"), "Item": row });
    if version == 1 {
        put["ConditionExpression"] = "attribute_not_exists(#item)".into();
        put["ExpressionAttributeNames"] = json!({"#item": "item_id"});
    } else {
        put["ConditionExpression"] = "#version = :read".into();
        put["ExpressionAttributeNames"] = json!({"#version": "version"});
        put["ExpressionAttributeValues"] = json!({":read": {"N": (version - 1).to_string()}});
    }
    json!({ "Put": put })
}

fn put_order(table: &str, number: u64) -> Value {
    let row = json!({
        "order_id": {"S": format!("{:016x}{number:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))},
        "item_id": {"S": ITEM}, "user_id": {"S": format!("buyer-{number}")},
        "quantity": {"N": "1"}, "accepted_at": {"N": "1795000000000"}, "status": {"S": "sold"},
        "decided_at": {"N": "1795000000100"}, "seal": {"S": format!("{number:016x}")},
        "expires_at": {"N": "1797700000"},
    });
    json!({ "Put": {
        "TableName": table, "Item": row,
        "ConditionExpression": "attribute_not_exists(#order)",
        "ExpressionAttributeNames": {"#order": "order_id"},
    } })
}

/// The body of the transaction that writes this version of the item.
fn transaction(table: &str, version: u64) -> Bytes {
    let first = (version - 1) * ORDERS;
    let orders = (first..first + ORDERS).map(|number| put_order(table, number));
    let actions: Vec<Value> = std::iter::once(put_item(table, version)).chain(orders).collect();
    let token = format!("{version:032x}");
    json!({ "TransactItems": actions, "ClientRequestToken": token }).to_string().into()
}

async fn write(connection: &mut SendRequest<Full<Bytes>>, host: &str, body: Bytes) -> Result<()> {
    let request = Request::post("/")
        .header("host", host)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", "DynamoDB_20120810.TransactWriteItems")
        .header("x-amz-date", "20260101T000000Z")
        .header("authorization", CREDENTIALS)
        .body(Full::new(body))?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, table, count] = arguments.as_slice() else {
        anyhow::bail!("usage: replay HOST:PORT TABLE COUNT");
    };
    let count: u64 = count.parse().context("COUNT must be a whole number")?;
    let bodies: Vec<Bytes> = (1..=count).map(|version| transaction(table, version)).collect();
    let stream = TcpStream::connect(host).await?;
    stream.set_nodelay(true)?;
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(driver);
    let begun = Instant::now();
    for body in bodies {
        write(&mut connection, host, body).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", json!({ "orders": count * ORDERS, "seconds": seconds }));
    Ok(())
}
