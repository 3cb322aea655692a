//! On the stand-ins of SQS and DynamoDB and a Redis of the test's own.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName;

use super::buyers::Crowd;
use super::sale::Sale;
use super::{Place, free_port, pause_ms};
use crate::conformance::aws::stand_ins;
use crate::conformance::{address, fresh_name};
use crate::redis_away::Server;

const BUYERS: usize = 64;

/// A place with resources of its own.
fn place(redis_port: u16, visibility_ms: u64) -> Place {
    let name = fresh_name("crash");
    let mut place = Place::new(&[
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "local"),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_ENDPOINT_URL_SQS", &address("FLUX_TEST_SQS")),
        ("AWS_ENDPOINT_URL_DYNAMODB", &address("FLUX_TEST_DYNAMODB")),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &redis_port.to_string()),
        ("DYNAMODB_TABLE", &name),
        ("FLUX_BACKEND", "aws"),
        ("FLUX_LEASE_MS", "500"),
        ("FLUX_VISIBILITY_TIMEOUT_MS", &visibility_ms.to_string()),
        ("FLUX_RECEIVE_WAIT_MS", "1000"),
    ]);
    let printed = place.provision(&["--queue", &name]);
    let url = printed.lines().find_map(|line| line.split_once("SQS_QUEUE_URL="));
    let (_, url) = url.unwrap_or_else(|| panic!("no queue: {printed}"));
    place.environment.insert("SQS_QUEUE_URL".to_owned(), url.trim().to_owned());
    place
}

fn signal(server: &Server, signal: i32) {
    // SAFETY: a plain system call on a child that is not waited for yet.
    unsafe { libc::kill(server.0.id() as libc::pid_t, signal) };
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_and_workers_die_and_come_back_in_the_middle_of_a_sale() {
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let redis = Server::start(port, directory.path());
    let mut sale = Sale::start(place(port, 2_000), 0, 4);
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    pause_ms(500, 1_000).await;

    signal(&redis, libc::SIGSTOP);
    sale.processes[1].kill();
    pause_ms(1_000, 1_500).await;
    signal(&redis, libc::SIGCONT);
    pause_ms(300, 800).await;
    sale.processes[2].signal(libc::SIGSTOP);
    let stopped = Instant::now();
    let mut flushing = TcpStream::connect(("127.0.0.1", port)).unwrap();
    flushing.write_all(b"FLUSHALL\r\n").unwrap();
    pause_ms(300, 800).await;
    drop(redis);
    sale.processes[1] = sale.process(1);
    pause_ms(1_000, 1_500).await;
    let _redis = Server::start(port, directory.path());
    let before = crowd.memory.accepted();
    // Longer than its leases and the visibility of what it has in hand.
    tokio::time::sleep(Duration::from_millis(3_500).saturating_sub(stopped.elapsed())).await;
    sale.processes[2].signal(libc::SIGCONT);
    assert!(crowd.memory.accepted() > before, "the sale stood still");
    pause_ms(300, 800).await;
    sale.processes[3].stop().await;
    sale.processes[3] = sale.process(3);
    sale.ends_well(crowd).await;
}

/// How many messages are in somebody's hands.
async fn in_hand(url: &str) -> u64 {
    let asked = stand_ins().await.sqs().get_queue_attributes().queue_url(url);
    let name = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
    let answer = asked.attribute_names(name.clone()).send().await.unwrap();
    answer.attributes.unwrap()[&name].parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_under_load_leaves_no_message_invisible() {
    let port = free_port();
    let directory = tempfile::tempdir().unwrap();
    let _redis = Server::start(port, directory.path());
    let mut sale = Sale::start(place(port, 60_000), 0, 1);
    let url = sale.place.environment["SQS_QUEUE_URL"].clone();
    sale.is_open().await;
    let crowd = Crowd::gather(sale.port, BUYERS);
    for _ in 0..3 {
        pause_ms(500, 1_500).await;
        sale.processes[1].stop().await;
        assert_eq!(in_hand(&url).await, 0);
        sale.processes[1] = sale.process(1);
    }
    sale.ends_well(crowd).await;
}
