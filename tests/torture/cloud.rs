//! Fault injection on the AWS backend: stand-ins of SQS and DynamoDB, and a Redis server for each test,
//! each behind a proxy.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::place::Place;
use super::proxy::{Proxy, Way};
use super::row::Row;
use super::sale::Sale;
use super::{PATIENCE, TestRng};
use crate::conformance::aws::stand_ins;
use crate::conformance::{address, fresh_name};
use crate::faults::control;
use crate::redis_outage::Server;
use crate::support::free_port;

const BUYERS: usize = 64;

/// The faults of a sale on AWS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Killed,
    Stopped,
    ToldToStop,
    RedisKilled,
    RedisFlushed,
    RedisSlow,
    RedisFull,
    RedisCut,
    DynamodbKilled,
    DynamodbLossy,
    SqsStuck,
    SqsCut,
    SqsLossy,
    Throttled,
    Conflicting,
}

impl Fault {
    pub const ALL: [(Fault, &str); 15] = [
        (Fault::Killed, "SIGKILL of serve or work"),
        (Fault::Stopped, "SIGSTOP of serve or work, past lease and visibility"),
        (Fault::ToldToStop, "SIGTERM of serve or work"),
        (Fault::RedisKilled, "Redis killed"),
        (Fault::RedisFlushed, "Redis flushed"),
        (Fault::RedisSlow, "Redis slow"),
        (Fault::RedisFull, "Redis refuses to write"),
        (Fault::RedisCut, "Redis cut off"),
        (Fault::DynamodbKilled, "DynamoDB killed, back on its file"),
        (Fault::DynamodbLossy, "DynamoDB loses 1 answer in 10"),
        (Fault::SqsStuck, "SQS silent"),
        (Fault::SqsCut, "SQS cut off"),
        (Fault::SqsLossy, "SQS loses 1 answer in 10"),
        (Fault::Throttled, "SQS and DynamoDB throttle 3 calls in 10"),
        (Fault::Conflicting, "3 transactions in 10 conflict"),
    ];

    /// How often the fault is injected in a run with this number of kills.
    pub fn times(self, kills: usize) -> usize {
        let share = match self {
            Fault::Killed => 1,
            Fault::ToldToStop | Fault::RedisFlushed => 4,
            Fault::SqsStuck => 40,
            _ => 20,
        };
        kills.div_ceil(share)
    }

    /// Injects the fault into a new sale, `times` times.
    pub async fn inject(self, times: usize, rng: &mut TestRng) -> Row {
        let mut cloud = Cloud::start(self).await;
        let crowd = cloud.sale.open_to(BUYERS, rng).await;
        for _ in 0..times {
            rng.pause_ms(20, 500).await;
            self.happens(&mut cloud, rng).await;
        }
        rng.pause_ms(300, 800).await;
        let row = cloud.sale.end(crowd).await;
        let redelivered = match self {
            Fault::ToldToStop => cloud.left_behind,
            _ => cloud.sale.place.redelivered(),
        };
        Row { times, redelivered: Some(redelivered), ..row }
    }

    async fn happens(self, cloud: &mut Cloud, rng: &mut TestRng) {
        let victim = rng.below(cloud.sale.processes.len() as u64) as usize;
        match self {
            Fault::Killed => {
                cloud.sale.processes[victim].kill();
                rng.pause_ms(1, 100).await;
                cloud.sale.restart(victim);
            }
            Fault::Stopped => {
                cloud.sale.processes[victim].signal(Signal::STOP);
                rng.pause_ms(2_500, 4_000).await;
                cloud.sale.processes[victim].signal(Signal::CONT);
            }
            Fault::ToldToStop => {
                rng.pause_ms(200, 1_000).await;
                cloud.sale.processes[victim].stop().await;
                cloud.left_behind += if victim == 0 { 0 } else { cloud.messages_in_flight().await };
                cloud.sale.restart(victim);
            }
            Fault::RedisKilled => {
                cloud.redis = None;
                rng.pause_ms(500, 2_000).await;
                cloud.redis = Some(cloud.start_redis());
            }
            Fault::RedisFlushed => cloud.tell_redis("FLUSHALL"),
            Fault::RedisSlow => {
                let way = Way::Slow(Duration::from_millis(50 + rng.below(500)));
                cloud.is_for_a_while(&cloud.to_redis, way, rng).await;
            }
            Fault::RedisFull => {
                cloud.tell_redis("CONFIG SET maxmemory 1");
                rng.pause_ms(500, 2_000).await;
                cloud.tell_redis("CONFIG SET maxmemory 0");
            }
            Fault::RedisCut => cloud.is_for_a_while(&cloud.to_redis, Way::Cut, rng).await,
            Fault::DynamodbKilled => {
                cloud.dynamodb = None;
                rng.pause_ms(100, 2_000).await;
                cloud.dynamodb = Some(cloud.start_dynamodb());
            }
            Fault::DynamodbLossy => {
                cloud.is_for_a_while(&cloud.to_dynamodb, Way::Lossy(10), rng).await;
            }
            // Longer than flux waits for a response.
            Fault::SqsStuck => {
                cloud.to_sqs.is(Way::Stuck);
                rng.pause_ms(4_500, 7_000).await;
                cloud.to_sqs.is(Way::Open);
            }
            Fault::SqsCut => cloud.is_for_a_while(&cloud.to_sqs, Way::Cut, rng).await,
            Fault::SqsLossy => cloud.is_for_a_while(&cloud.to_sqs, Way::Lossy(10), rng).await,
            Fault::Throttled => {
                let codes = ["ThrottlingException", "ProvisionedThroughputExceededException"];
                let table = codes.map(|code| json!({"error": {"code": code}}));
                let queue = json!({"error": {"code": "RequestThrottled"}});
                cloud.suffers(&[("DYNAMODB", &table), ("SQS", &[queue])], rng).await;
            }
            Fault::Conflicting => {
                let reasons = json!([{"Code": "TransactionConflict"}]);
                let conflict = json!({"operation": "TransactWriteItems", "error": {
                    "code": "TransactionCanceledException",
                    "fields": {"CancellationReasons": reasons}}});
                cloud.suffers(&[("DYNAMODB", &[conflict])], rng).await;
            }
        }
    }
}

/// A process that is killed when the test ends.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A sale and the services that it uses.
struct Cloud {
    sale: Sale,
    /// The name of the table and the queue. The rules of the faulty proxies apply to this name.
    name: String,
    redis: Option<Server>,
    redis_port: u16,
    /// A separate process, if the fault is to kill it.
    dynamodb: Option<Service>,
    dynamodb_port: u16,
    to_redis: Proxy,
    to_dynamodb: Proxy,
    to_sqs: Proxy,
    directory: tempfile::TempDir,
    /// Messages left in flight by workers that have ended.
    left_behind: usize,
}

impl Cloud {
    async fn start(fault: Fault) -> Cloud {
        let directory = tempfile::tempdir().unwrap();
        let redis_port = free_port();
        let dynamodb_port = free_port();
        let own_dynamodb = fault == Fault::DynamodbKilled;
        let faulty = matches!(fault, Fault::Throttled | Fault::Conflicting);
        let service = |name: &str| {
            let faults = if faulty { "MICROBURST_" } else { "" };
            let address = address(&format!("FLUX_TEST_{faults}{name}"));
            address.trim_start_matches("http://").to_owned()
        };
        let dynamodb = match own_dynamodb {
            true => format!("127.0.0.1:{dynamodb_port}"),
            false => service("DYNAMODB"),
        };
        let to_redis = Proxy::before(format!("127.0.0.1:{redis_port}")).await;
        let to_dynamodb = Proxy::before(dynamodb).await;
        let to_sqs = Proxy::before(service("SQS")).await;
        let redis = Some(Server::start(redis_port, directory.path()));
        let dynamodb = own_dynamodb.then(|| start_dynamodb(dynamodb_port, directory.path()));
        let name = fresh_name("torture");
        // A message that a stopped worker leaves invisible would not be decided within the test.
        let visibility_ms = if fault == Fault::ToldToStop { "120000" } else { "2000" };
        let mut place = Place::new(&[
            ("AWS_REGION", "eu-central-1"),
            ("AWS_ACCESS_KEY_ID", "local"),
            ("AWS_SECRET_ACCESS_KEY", "local"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL_SQS", &format!("http://127.0.0.1:{}", to_sqs.port)),
            ("AWS_ENDPOINT_URL_DYNAMODB", &format!("http://127.0.0.1:{}", to_dynamodb.port)),
            ("REDIS_HOST", "127.0.0.1"),
            ("REDIS_PORT", &to_redis.port.to_string()),
            ("DYNAMODB_TABLE", &name),
            ("FLUX_BACKEND", "aws"),
            ("FLUX_LEASE_MS", "500"),
            ("FLUX_VISIBILITY_TIMEOUT_MS", visibility_ms),
            ("FLUX_RECEIVE_WAIT_MS", "1000"),
        ]);
        let printed = place.provision(&["--queue", &name]);
        let url = printed.lines().find_map(|line| line.split_once("SQS_QUEUE_URL="));
        let (_, url) = url.unwrap_or_else(|| panic!("no queue: {printed}"));
        place.environment.insert("SQS_QUEUE_URL".to_owned(), url.trim().to_owned());
        let (deciding, workers) = if fault == Fault::ToldToStop { (0, 1) } else { (2, 3) };
        Cloud {
            sale: Sale::start(place, deciding, workers),
            name,
            redis,
            redis_port,
            dynamodb,
            dynamodb_port,
            to_redis,
            to_dynamodb,
            to_sqs,
            directory,
            left_behind: 0,
        }
    }

    fn start_redis(&self) -> Server {
        Server::start(self.redis_port, self.directory.path())
    }

    fn start_dynamodb(&self) -> Service {
        start_dynamodb(self.dynamodb_port, self.directory.path())
    }

    fn tell_redis(&self, command: &str) {
        let stream = TcpStream::connect(("127.0.0.1", self.redis_port));
        stream.unwrap().write_all(format!("{command}\r\n").as_bytes()).unwrap();
    }

    async fn is_for_a_while(&self, proxy: &Proxy, way: Way, rng: &mut TestRng) {
        proxy.is(way);
        rng.pause_ms(500, 3_000).await;
        proxy.is(Way::Open);
    }

    /// Injects these faults into three of ten calls of each service, for a while.
    async fn suffers(&self, faults: &[(&str, &[Value])], rng: &mut TestRng) {
        let body = format!("contains(to_string(@), '{}')", self.name);
        let proxy = |service: &str| address(&format!("FLUX_TEST_MICROBURST_{service}"));
        for (service, rules) in faults {
            let rule = |rule: &Value| {
                let mut rule = rule.clone();
                rule["body"] = json!(body);
                rule["probability"] = json!(0.3 / rules.len() as f64);
                rule
            };
            let rules: Vec<Value> = rules.iter().map(rule).collect();
            control(&proxy(service), "PATCH", &json!(rules)).await;
        }
        rng.pause_ms(1_000, 3_000).await;
        for (service, _) in faults {
            control(&proxy(service), "DELETE", &json!([{"body": body}])).await;
        }
    }

    /// Number of messages in flight.
    async fn messages_in_flight(&self) -> usize {
        let url = &self.sale.place.environment["SQS_QUEUE_URL"];
        let asked = stand_ins().await.sqs().get_queue_attributes().queue_url(url);
        let name = QueueAttributeName::ApproximateNumberOfMessagesNotVisible;
        let answer = asked.attribute_names(name.clone()).send().await.unwrap();
        answer.attributes.unwrap()[&name].parse().unwrap()
    }
}

/// Starts a stand-in with its data in this directory. Returns when it listens.
fn start_dynamodb(port: u16, directory: &std::path::Path) -> Service {
    let child = Command::new(address("FLUX_TEST_DYNAMODB_PROGRAM"))
        .args(["serve", "--port", &port.to_string(), "--db-path"])
        .arg(directory.join("dynamodb"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let service = Service(child.unwrap());
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the stand-in of DynamoDB does not come back");
        std::thread::sleep(Duration::from_millis(10));
    }
    service
}

async fn survives(fault: Fault, times: usize) -> Row {
    let row = fault.inject(times, &mut TestRng::seeded()).await;
    println!("{row}");
    assert!(row.holds(), "{row}");
    row
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_worker_leaves_no_message_invisible() {
    assert_eq!(survives(Fault::ToldToStop, 4).await.redelivered, Some(0));
}

/// One sale with all faults that need no special settings.
#[tokio::test(flavor = "multi_thread")]
async fn failing_processes_and_services_lose_nothing() {
    let mut rng = TestRng::seeded();
    let mut cloud = Cloud::start(Fault::DynamodbKilled).await;
    let crowd = cloud.sale.open_to(BUYERS, &mut rng).await;
    let mut faults = Fault::ALL.map(|(fault, _)| fault).to_vec();
    let apart = [Fault::ToldToStop, Fault::Throttled, Fault::Conflicting];
    faults.retain(|fault| !apart.contains(fault));
    while !faults.is_empty() {
        let fault = faults.swap_remove(rng.below(faults.len() as u64) as usize);
        let before = crowd.memory.accepted();
        fault.happens(&mut cloud, &mut rng).await;
        rng.pause_ms(100, 300).await;
        println!("{fault:?}: {} orders", crowd.memory.accepted() - before);
    }
    let row = cloud.sale.end(crowd).await;
    println!("{row}, {} deliveries came again", cloud.sale.place.redelivered());
    assert!(row.holds(), "{row}");
}

/// A worker is restarted, or added, while a service is unavailable for a moment.
#[tokio::test(flavor = "multi_thread")]
async fn start_waits_for_unavailable_service() {
    let mut cloud = Cloud::start(Fault::SqsCut).await;
    cloud.sale.is_open().await;
    for (role, proxy) in [&cloud.to_sqs, &cloud.to_dynamodb].into_iter().enumerate() {
        cloud.sale.processes[role].kill();
        proxy.is(Way::Cut);
        let begun = cloud.sale.place.logged("backend aws").len();
        cloud.sale.restart(role);
        cloud.sale.place.logs("trying for", role + 1).await;
        proxy.is(Way::Open);
        cloud.sale.place.logs("backend aws", begun + 1).await;
    }
}
