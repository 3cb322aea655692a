//! The binary on AWS: the order key, credentials, proxies, regions.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
};
use flux::adapters::aws::client::Aws;
use flux::adapters::aws::dynamodb::DynamoLedger;
use flux::adapters::aws::dynamodb::order_key::{OrderKeys, meta_table};
use flux::core::model::{OrderId, OrderIds, OrderKey};
use flux::core::ports::ledger::Ledger;

use super::story::provisioned;
use super::{PATIENCE, SESAME, Workdir, buy};
use crate::conformance::aws::stand_ins;
use crate::conformance::{address, clock, item};

/// Runs an async function with a client of the stand-ins, from a synchronous test.
fn on_stand_ins<T>(act: impl AsyncFnOnce(Aws) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { act(stand_ins().await).await })
}

fn table(workdir: &Workdir) -> String {
    let last = workdir.environment.iter().rfind(|(name, _)| name == "DYNAMODB_TABLE");
    last.unwrap().1.clone()
}

#[test]
fn ids_are_signed_with_the_stored_key() {
    let (workdir, _) = provisioned(Workdir::on_aws(), "");
    let table = table(&workdir);
    let stored = on_stand_ins(async |aws| OrderKeys::new(&aws, &table).read().await.unwrap());
    let (_serve, address) = workdir.serve("");
    let id = OrderId::parse(&buy(&address, "ann", "ticket")).unwrap();
    assert!(OrderIds::new(stored, 1).verify(id));
    assert!(!OrderIds::new(OrderKey::from_text(&table), 1).verify(id));
}

#[test]
fn key_derived_from_table_name_is_warned_about() {
    let (workdir, _) = provisioned(Workdir::on_aws(), "");
    let table = table(&workdir);
    on_stand_ins(async |aws| {
        aws.dynamodb().delete_table().table_name(meta_table(&table)).send().await.unwrap();
        let ledger = DynamoLedger::new(&aws, &table, OrderKey::from_text(&table), clock());
        ledger.set_stock(&item("ticket"), 1).await.unwrap();
    });
    let warned = |workdir: &Workdir| {
        let (serve, address) = workdir.serve("");
        assert!(serve.logged.iter().any(|line| line.contains("derived from its name")));
        let id = OrderId::parse(&buy(&address, "ann", "ticket")).unwrap();
        assert!(OrderIds::new(OrderKey::from_text(&table), 1).verify(id));
    };
    warned(&workdir);
    let printed = workdir.run("provision --backend aws");
    assert!(printed.contains("derived from its name"), "{printed}");
    warned(&workdir);
    let (quiet, _) = workdir.with("FLUX_ORDER_KEY", "a key of the whole fleet").serve("");
    assert!(!quiet.logged.iter().any(|line| line.contains("derived from its name")));
}

/// An environment whose endpoints are those of AWS itself; no test may reach them.
fn real_endpoints() -> Workdir {
    Workdir::new()
        .with("AWS_REGION", "eu-central-1")
        .with("AWS_ACCESS_KEY_ID", "local")
        .with("AWS_SECRET_ACCESS_KEY", SESAME)
}

/// A server that answers each request with 403. Returns its port and a channel with the first line
/// of each connection; if that is not text, with its first byte in hex.
fn refusing() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut first = [0; 1];
            if stream.read_exact(&mut first).is_err() {
                continue;
            }
            let mut line = format!("{:02x}", first[0]);
            if first[0].is_ascii_uppercase() {
                let mut head = BufReader::new(&stream).lines().map_while(Result::ok);
                line = format!("{}{}", first[0] as char, head.next().unwrap_or_default());
                head.find(|line| line.is_empty());
            }
            let _gone = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            let _ended = sender.send(line);
        }
    });
    (port, lines)
}

#[test]
fn https_proxy_is_used_except_for_no_proxy() {
    let (port, asked) = refusing();
    let proxy = format!("http://ann:{SESAME}@127.0.0.1:{port}");
    let line = real_endpoints().with("HTTPS_PROXY", &proxy).refused("provision --backend aws");
    assert!(line.contains("HTTPS_PROXY"), "{line}");
    let first = asked.recv_timeout(PATIENCE).unwrap();
    assert_eq!(first, "CONNECT sqs.eu-central-1.amazonaws.com:443 HTTP/1.1");
    while asked.try_recv().is_ok() {}

    // 0.0.0.0 is this machine, but not one of the names for which a proxy is never used.
    let (direct, hellos) = refusing();
    let endpoint = format!("https://0.0.0.0:{direct}");
    let workdir = real_endpoints().with("https_proxy", &format!("127.0.0.1:{port}"));
    let workdir = workdir.with("AWS_ENDPOINT_URL", &endpoint);
    workdir.refused("provision --backend aws");
    assert_eq!(asked.recv_timeout(PATIENCE).unwrap(), format!("CONNECT 0.0.0.0:{direct} HTTP/1.1"));
    while asked.try_recv().is_ok() {}
    assert!(hellos.try_recv().is_err());
    workdir.with("NO_PROXY", "shop.example, 0.0.0.0").refused("provision --backend aws");
    // The first byte of a TLS handshake.
    assert_eq!(hellos.recv_timeout(PATIENCE).unwrap(), "16");
    assert!(asked.try_recv().is_err());

    let line = real_endpoints()
        .with("HTTPS_PROXY", "socks5://127.0.0.1:1")
        .refused("provision --backend aws");
    assert!(line.contains("HTTPS_PROXY") && line.contains("http://HOST:PORT"), "{line}");
}

/// An environment with a home directory, whose files have the only credentials.
fn with_home(config: &str) -> Workdir {
    let workdir = Workdir::new().with_file(".aws/config", config);
    let home = workdir.directory.path().to_str().unwrap().to_owned();
    workdir
        .with("HOME", &home)
        // The SDK logs a warning of its own about the same fault.
        .with("FLUX_LOG", "error")
        .with("AWS_REGION", "eu-central-1")
        .with("AWS_ENDPOINT_URL_SQS", &address("FLUX_TEST_SQS"))
        .with("AWS_ENDPOINT_URL_DYNAMODB", &address("FLUX_TEST_DYNAMODB"))
}

#[test]
fn unusable_credentials_are_named_with_the_fix() {
    let profile =
        |lines: &str| with_home(&format!("[profile shop]\n{lines}")).with("AWS_PROFILE", "shop");
    for (workdir, parts) in [
        (with_home(""), ["no AWS credentials", "AWS_PROFILE"]),
        (with_home("").with("AWS_PROFILE", "shop"), ["profile shop", "AWS_PROFILE"]),
        (
            with_home("[default]\nregion = x\n").with("AWS_PROFILE", "shop"),
            ["profile `shop` was not defined", "AWS_PROFILE"],
        ),
        (profile("nothing here\n"), ["cannot be used", ".aws/config"]),
        (profile("source_profile = nope\nrole_arn = x\n"), ["cannot be used", "`nope`"]),
        (profile("credential_process = false\n"), ["cannot be loaded", "AWS_PROFILE"]),
        (
            profile("login_session = arn:aws:iam::1:user/ann\n"),
            ["cannot be loaded", "log in again"],
        ),
    ] {
        let line = workdir.refused("provision --backend aws --dry-run");
        assert!(parts.iter().all(|part| line.contains(part)), "{parts:?}: {line}");
        assert!(!line.contains("check the network"), "{line}");
    }
}

#[test]
fn aws_login_profile_uses_the_aws_cli() {
    let answer = serde_json::json!({"Version": 1, "AccessKeyId": "local", "SecretAccessKey": SESAME,
        "SessionToken": "t", "Expiration": "2099-01-01T00:00:00Z"});
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *\"--profile shop@eu\"*) echo '{answer}';; *) exit 3;; esac\n"
    );
    let workdir = with_home("[profile shop@eu]\nlogin_session = arn:aws:iam::1:user/ann\n")
        .with_file("bin/aws", script)
        .with("AWS_PROFILE", "shop@eu");
    let file = workdir.path("bin/aws");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let bin = file.parent().unwrap().to_str().unwrap();
    let workdir = workdir.with("PATH", &format!("{bin}:/usr/bin:/bin"));
    assert!(workdir.run("provision --backend aws --dry-run").contains("would be created"));
}

#[test]
fn queue_of_another_region_is_refused() {
    let url = "https://sqs.us-east-1.amazonaws.com/123456789012/orders";
    let line = real_endpoints().with("SQS_QUEUE_URL", url).refused("work");
    assert!(line.contains("AWS_REGION=us-east-1") && line.contains("eu-central-1"), "{line}");
}

#[test]
fn provision_prints_steps_and_names_the_failed_table() {
    let workdir = Workdir::on_aws();
    let items = format!("{}_items", table(&workdir));
    on_stand_ins(async |aws| {
        let key = KeySchemaElement::builder().attribute_name("item_id").key_type(KeyType::Hash);
        let number = ScalarAttributeType::N;
        let attribute = AttributeDefinition::builder().attribute_name("item_id");
        let create = aws.dynamodb().create_table().table_name(&items);
        let create = create.key_schema(key.build().unwrap());
        let create =
            create.attribute_definitions(attribute.attribute_type(number).build().unwrap());
        create.billing_mode(BillingMode::PayPerRequest).send().await.unwrap();
    });
    let queue = crate::conformance::fresh_name("orders");
    let output =
        workdir.command(&format!("provision --backend aws --queue {queue}")).output().unwrap();
    let done = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(done.lines().filter(|line| line.ends_with(" created")).count(), 3, "{done}");
    assert!(stderr.contains(&format!("table {items} has the key item_id (N)")), "{stderr}");
}
