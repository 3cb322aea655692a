//! Wrong arguments and settings: one line on stderr, exit code 2.

use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use rusqlite::Connection;

use super::{SESAME, Workdir};
#[cfg(all(feature = "aws", feature = "redis"))]
use crate::conformance::address;

/// Each command is refused with a line that contains all of these texts.
fn refuses(workdir: &Workdir, cases: &[(&str, &[&str])]) {
    for (arguments, parts) in cases {
        let line = workdir.refused(arguments);
        for part in *parts {
            assert!(line.contains(part), "flux {arguments}: no {part:?} in {line:?}");
        }
    }
}

#[test]
fn invalid_arguments() {
    let workdir = Workdir::new();
    refuses(
        &workdir,
        &[
            ("frobnicate", &["frobnicate", "--help"]),
            ("--frob serve", &["--frob"]),
            ("serv", &["'serv'", "'serve'"]),
            ("serve extra", &["extra"]),
            ("serve --workers many", &["'many'", "--workers", "from 0 to 10000"]),
            ("serve --listen 5000", &["HOST:PORT"]),
            ("serve --listen 192.0.2.1:0", &["cannot listen on 192.0.2.1:0", "--listen"]),
            ("work --concurrency 0", &["--concurrency", "from 1 to 10000"]),
            ("work --concurrency -1", &["--concurrency", "from 1 to 10000"]),
            ("work --concurrency", &["--concurrency"]),
            ("work --backend kafka", &["kafka", "embedded, aws"]),
            ("work --log-format xml", &["xml", "text, json"]),
            ("work --config nowhere.toml", &["nowhere.toml", "--config"]),
            ("provision --item ticket", &["--stock"]),
            ("provision --stock 5", &["--item"]),
            ("provision --item a/b --stock 5", &["--item", "1-128 characters"]),
            ("provision --item a --stock 1.5", &["--stock", "whole number"]),
            ("provision --item a --stock 1000000000001", &["--stock", "to 1000000000000"]),
            ("provision --item a --stock 1 --catalog b", &["--item", "--catalog"]),
            ("provision --catalog nowhere.json", &["nowhere.json", "--catalog"]),
            ("provision --queue a.b --backend aws", &["--queue", ".fifo"]),
            ("provision --queue orders", &["--backend aws"]),
            ("provision --print everything", &["everything", "iam"]),
            ("provision --destroy", &["--yes", "--dry-run"]),
            ("provision --yes", &["--destroy"]),
            ("stress", &["--item"]),
            ("stress --item a --users 0", &["--users", "from 1"]),
            ("stress --item a --duplicates 2", &["--duplicates", "from 0 to 1"]),
            ("stress --item a --rate 0", &["--rate", "above 0"]),
            ("stress --item a --without luck", &["luck", "ledger-condition"]),
            ("stress --item a --without lock --stock 9 --users 9", &["--users", "--stock"]),
            (
                "stress --item a --target http://127.0.0.1:1",
                &["real stock of a", "--yes-sell-real-stock"],
            ),
            ("stress --item stress-a --yes-sell-real-stock", &["--target"]),
            ("stress --item a --target localhost", &["http://HOST:PORT"]),
            ("stress --item stress-a --target http://127.0.0.1:1", &["flux serve", "--target"]),
            (
                "stress --item a --target http://ann:open-sesame-please@shop",
                &["--target", "password"],
            ),
            ("health --target http://ann:open-sesame-please@shop", &["--target", "password"]),
            ("stress --item a --report no/report.json", &["--report", "no/report.json"]),
            ("audit", &["there is no ./flux.db", "FLUX_DATA"]),
            ("dlq list", &["there is no ./flux.db", "FLUX_DATA"]),
            ("dlq redrive", &["--id", "--all"]),
            ("dlq drop", &["--id", "--all"]),
            ("dlq drop --id 17", &["--id", "32 lower-case hex digits"]),
            ("dlq redrive --all --body {}", &["--body", "--id"]),
        ],
    );
    assert!(!workdir.path("flux.db").exists(), "a refused command made a store");
}

#[test]
#[cfg(feature = "top")]
fn invalid_arguments_of_top() {
    let keys = [("empty.key", "\n"), ("two-lines.key", "open-sesame-please\nopen-sesame-please\n")];
    let workdir = keys
        .into_iter()
        .fold(Workdir::new(), |workdir, (name, keys)| workdir.with_file(name, keys));
    refuses(
        &workdir,
        &[
            ("top --once --target http://ann:open-sesame-please@shop", &["--target", "password"]),
            ("top --once --key-file empty.key", &["--key-file", "no key"]),
            ("top --once --key-file two-lines.key", &["--key-file", "one line"]),
            ("top http://ann:open-sesame-please@shop", &["unexpected argument"]),
        ],
    );
}

#[test]
fn invalid_settings() {
    let cases = [
        (Workdir::new().with("FLUX_LEASE", "5"), "FLUX_LEASE is not a setting"),
        (Workdir::new().with("FLUX_WORKERS", "x"), "FLUX_WORKERS must be a whole number"),
        (Workdir::new().with("FLUX_BACKEND", "kafka"), "FLUX_BACKEND must be embedded or aws"),
        (Workdir::new().with("FLUX_LOG", "a=b=c"), "log is not a filter"),
        (Workdir::new().with("FLUX_REDIS_PORT", "x"), "FLUX_REDIS_PORT must be a port number"),
        (Workdir::new().with("FLUX_REDIS_URL", SESAME), "redis_url must begin with redis://"),
        (Workdir::new().with("FLUX_BUY_KEY", ""), "the environment: FLUX_BUY_KEY is empty"),
        (
            Workdir::new().with_file(".env", format!("A {SESAME} x")),
            ".env, line 1: the line is not",
        ),
        (Workdir::new().with_file(".env", "FLUX_LEASE=5"), ".env: FLUX_LEASE is not a setting"),
        (
            Workdir::new().with("FLUX_BACKEND", "aws").with_file(".env", "AWS_ACCESS_KEY_ID=a"),
            "add AWS_SECRET_ACCESS_KEY",
        ),
        (Workdir::new().with_file(".env/x", ""), "cannot read .env"),
        (Workdir::new().with_file("config/flux.toml", "\nleas = 5"), "flux.toml, line 2: `leas`"),
        (Workdir::new().with_file("config/flux.toml/x", ""), "cannot read ./config/flux.toml"),
    ];
    for (workdir, part) in cases {
        for command in ["serve", "work", "provision", "stress --item a", "audit", "dlq list"] {
            let line = workdir.refused(command);
            assert!(line.contains(part), "flux {command}: no {part:?} in {line:?}");
        }
    }
}

#[test]
fn non_utf8_variable_of_flux_is_refused() {
    let text = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let workdir = Workdir::new();
    let run = |name: &[u8], value: &[u8]| {
        let mut command = workdir.command("health --target http://127.0.0.1:1");
        command.env(text(name), text(value));
        command
    };
    for (name, value, part) in [
        (&b"FLUX_BUY_KEY"[..], &b"sec\xffret-sec\xffret"[..], "FLUX_BUY_KEY is not UTF-8"),
        (b"FLUX_BUY\xff_KEY", b"x", "is not a setting of flux"),
    ] {
        let output = run(name, value).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && printed.contains(part), "{printed}");
    }
    let mut foreign = run(b"OTHER\xff", b"\xff");
    foreign.env(text(b"REDIS_PASSWORD"), text(b"\xff"));
    assert_eq!(foreign.output().unwrap().status.code(), Some(1), "no server, but good settings");
}

#[test]
fn unreadable_jwks_file() {
    for (name, content, part) in [
        ("other.json", "{}", "jwt_jwks: keys.json: No such file"),
        ("keys.json", "{}", "jwt_jwks: keys.json: no JSON Web Keys"),
        ("keys.json", r#"{"keys":[{"kty":"oct","k":"c2VzYW1l"}]}"#, "no key for RS256, ES256"),
    ] {
        let workdir = Workdir::new().with("FLUX_JWT_JWKS", "keys.json").with_file(name, content);
        let line = workdir.refused("serve --listen 127.0.0.1:0");
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
}

#[test]
fn unusable_store() {
    let foreign = Workdir::new();
    let database = Connection::open(foreign.path("flux.db")).unwrap();
    database.execute_batch("CREATE TABLE pets (name TEXT)").unwrap();
    let newer = Workdir::new();
    newer.run("provision");
    let database = Connection::open(newer.path("flux.db")).unwrap();
    database.pragma_update(None, "user_version", 999).unwrap();
    let corrupt = Workdir::new();
    corrupt.run("provision --item ticket_001 --stock 1");
    let database = Connection::open(corrupt.path("flux.db")).unwrap();
    database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(database);
    let mut bytes = std::fs::read(corrupt.path("flux.db")).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(corrupt.path("flux.db"), bytes).unwrap();
    let cases = [
        (
            Workdir::new().with_file("flux.db", "a shopping list"),
            ["not a store of flux", "FLUX_DATA"],
        ),
        (foreign, ["not a store of flux", "FLUX_DATA"]),
        (newer, ["another version of flux", "FLUX_DATA"]),
        (corrupt, ["damaged", "restore"]),
        (Workdir::new().with_file("flux.db/x", ""), ["./flux.db is a directory", "FLUX_DATA"]),
        // Read-only for root too.
        (Workdir::new().with("FLUX_DATA", "/proc/version"), ["cannot be written", "permissions"]),
    ];
    for (workdir, parts) in &cases {
        for command in ["serve --listen 127.0.0.1:0", "work", "provision", "audit", "dlq list"] {
            refuses(workdir, &[(command, parts)]);
        }
    }
    let nowhere = Workdir::new().with("FLUX_DATA", "a/b/flux.db");
    for command in ["serve --listen 127.0.0.1:0", "work", "provision"] {
        refuses(&nowhere, &[(command, &["there is no directory a/b", "FLUX_DATA"])]);
    }
}

#[test]
fn invalid_catalog() {
    for (catalog, part) in [
        ("ticket_001 5", "line 1"),
        (r#"{"item_id":"a","stock":5}"#, r#"[{"item_id":"hall_A","stock":500}]"#),
        (r#"[{"item_id":"a"}]"#, "missing field `stock`"),
        (r#"[{"item_id":"a","stock":-5}]"#, "-5"),
        (r#"[{"item_id":"a b","stock":5}]"#, "item_id must be 1-128"),
        (r#"[{"item_id":"a","stock":5,"price":1}]"#, "price"),
        (r#"[{"item_id":"a","stock":1},{"item_id":"a","stock":2}]"#, "listed twice"),
        (r#"[{"item_id":"a","stock":1000000000001}]"#, "at most 1000000000000"),
    ] {
        let workdir = Workdir::new().with_file("items.json", catalog);
        refuses(&workdir, &[("provision --catalog items.json", &["catalog items.json", part])]);
    }
}

#[test]
fn port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let line = Workdir::new().refused(&format!("serve --listen {address}"));
    assert!(line.contains(&address) && line.contains("in use"), "{line}");
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn incomplete_aws_setup() {
    let commands = ["serve --listen 127.0.0.1:0", "work", "audit", "dlq list"];
    let all = |workdir: &Workdir, parts: &[&str]| {
        commands.iter().for_each(|command| refuses(workdir, &[(command, parts)]));
    };
    let bare = Workdir::new().with("FLUX_BACKEND", "aws");
    all(&bare, &["AWS_REGION"]);
    refuses(&bare, &[("provision", &["AWS_REGION"]), ("provision --print iam", &["AWS_REGION"])]);
    let lonely = bare.with("AWS_REGION", "eu-central-1");
    all(&lonely, &["SQS_QUEUE_URL", "flux provision"]);
    refuses(&lonely, &[("provision", &["AWS_ACCESS_KEY_ID"])]);
    all(&lonely.with("SQS_QUEUE_URL", "http://127.0.0.1:1/0/q"), &["AWS_ACCESS_KEY_ID"]);

    let workdir = Workdir::on_aws();
    let nowhere = format!("{}/000000000000/nowhere", address("FLUX_TEST_SQS"));
    all(
        &workdir.with("SQS_QUEUE_URL", &nowhere),
        &["there is no queue", "nowhere", "flux provision"],
    );
    let away = "http://127.0.0.1:1";
    let away = Workdir::on_aws().with("AWS_ENDPOINT_URL_SQS", away).with("SQS_QUEUE_URL", away);
    all(&away, &["no connection (Connection refused", "AWS_ENDPOINT_URL"]);
    let provision = "provision --backend aws";
    refuses(&away, &[(provision, &["SQS", "no connection", "AWS_ENDPOINT_URL"])]);
    refuses(&away, &[("stress --item a", &["SQS", "no connection", "AWS_ENDPOINT_URL"])]);

    let (workdir, _) = super::story::provisioned(Workdir::on_aws(), "");
    let no_table = workdir.with("DYNAMODB_TABLE", "nowhere");
    all(&no_table, &["there is no table nowhere", "flux provision"]);
    let no_dynamodb = no_table.with("AWS_ENDPOINT_URL_DYNAMODB", "http://127.0.0.1:1");
    all(&no_dynamodb, &["the ledger did not answer: no connection", "AWS_ENDPOINT_URL"]);
}

#[test]
fn help_and_version_go_to_stdout() {
    let workdir = Workdir::new();
    let version = env!("CARGO_PKG_VERSION");
    let expected = match env!("COMMIT_OF_FLUX") {
        "unknown" => format!("flux {version}\n"),
        commit => format!("flux {version} ({commit})\n"),
    };
    assert_eq!(workdir.run("--version"), expected);
    for command in ["", "serve", "work", "provision", "stress", "audit", "dlq", "dlq redrive"] {
        let page = workdir.run(&format!("{command} --help"));
        assert!(page.contains("Usage: flux") && page.contains("--backend"), "{page}");
        assert!(page.lines().all(|line| line.len() <= 100), "{page}");
    }
}

#[test]
fn closed_stdout_is_no_error() {
    let workdir = Workdir::new();
    workdir.run("provision --item ticket_001 --stock 1");
    for command in [
        "audit --json --allow-empty",
        "provision --item ticket_002 --stock 1",
        "dlq drop --all --yes",
    ] {
        let mut child = workdir.command(command);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "flux {command}");
    }
}
