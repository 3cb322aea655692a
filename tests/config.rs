mod reference;

use std::path::Path;

use flux::config::{Backend, Flags, Key, LogFormat, Settings};
use flux::load::Prices;
use secrecy::ExposeSecret;

/// A working directory with these files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("config")).unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

fn load(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Settings, String> {
    let environment = environment.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
    Settings::load_from(directory(files).path(), environment, &Flags::default())
        .map_err(|e| e.to_string())
}

/// The error of an invalid configuration.
fn refusal(files: &[(&str, &str)], environment: &[(&str, &str)]) -> String {
    let error = load(files, environment).unwrap_err();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn files_in_config_parse_and_example_has_all_defaults() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        if file.ends_with("prices.toml") {
            Prices::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
            continue;
        }
        let flags = Flags { config: Some(file), ..Flags::default() };
        Settings::load_from(directory(&[]).path(), vec![], &flags).unwrap();
    }
    let example = std::fs::read_to_string(folder.join("flux.toml")).unwrap();
    let lines: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
        .collect();
    let keys: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(keys, Settings::KEYS, "same keys, same order");
    // These are refused if they are empty.
    let guards: Vec<&str> =
        Settings::keys().iter().filter(|key| key.guards_access).map(|key| key.name).collect();
    let lines: Vec<&str> = lines
        .into_iter()
        .filter(|line| {
            !line.ends_with("\"\"") || !guards.contains(&line.split(' ').next().unwrap())
        })
        .collect();
    let settings = load(&[("config/flux.toml", &lines.join("\n"))], &[]).unwrap();
    assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
    load(&[("config/flux.toml", &example)], &[]).unwrap();
}

#[test]
fn later_source_wins() {
    let toml = ("config/flux.toml", "listen = \"a:1\"\nworkers = 1\nlease_ms = 1_000\nlog = \"a\"");
    let dotenv = (".env", "FLUX_LISTEN=b:2\nFLUX_WORKERS=2\nFLUX_LOG=b\nOTHER=x\n");
    let directory = directory(&[toml, dotenv]);
    let environment = vec![
        ("FLUX_LISTEN".to_owned(), "c:3".to_owned()),
        ("FLUX_WORKERS".to_owned(), "3".to_owned()),
        ("FLUX_LOG".to_owned(), String::new()),
    ];
    let flags = Flags { listen: Some("d:4".to_owned()), ..Flags::default() };
    let settings = Settings::load_from(directory.path(), environment, &flags).unwrap();
    assert_eq!((settings.listen.as_str(), settings.workers), ("d:4", 3));
    assert_eq!((settings.lease_ms, settings.log.as_str()), (1_000, "b"));
}

#[test]
fn shared_names_are_read() {
    let names = [
        ("SQS_QUEUE_URL", "http://q/1"),
        ("AWS_REGION", "eu-west-1"),
        ("AWS_ENDPOINT_URL_SQS", "http://localhost:1"),
        ("DYNAMODB_TABLE", "tickets"),
        ("REDIS_HOST", "r"),
        ("REDIS_PORT", "7"),
        ("REDIS_PASSWORD", "sesame"),
        ("FLUX_REDIS_HOST", "mine"),
    ];
    let settings = load(&[], &names).unwrap();
    assert_eq!(settings.backend(), Backend::Aws);
    assert_eq!(settings.aws_region.as_deref(), Some("eu-west-1"));
    assert_eq!(settings.aws_endpoint_url_sqs.as_deref(), Some("http://localhost:1"));
    assert_eq!((settings.dynamodb_table.as_str(), settings.redis_port), ("tickets", 7));
    assert_eq!(settings.redis_host.as_deref(), Some("mine"));
    assert_eq!(settings.redis_password.unwrap().expose_secret(), "sesame");
    assert_eq!(load(&[], &[]).unwrap().backend(), Backend::Embedded);
    let explicit = load(&[], &[("SQS_QUEUE_URL", "http://q"), ("FLUX_BACKEND", "embedded")]);
    assert_eq!(explicit.unwrap().backend(), Backend::Embedded);
    assert_eq!(load(&[], &[("FLUX_LOG_FORMAT", "json")]).unwrap().log_format, LogFormat::Json);
}

#[test]
fn dotenv_credentials_yield_to_the_environment() {
    let dotenv = (".env", "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY='s e'\n");
    let on_aws = ("FLUX_BACKEND", "aws");
    let credentials = load(&[dotenv], &[on_aws]).unwrap().aws_credentials.unwrap();
    assert_eq!(credentials.access_key_id, "id");
    assert_eq!(credentials.secret_access_key.expose_secret(), "s e");
    let environment = [on_aws, ("AWS_ACCESS_KEY_ID", "other")];
    assert!(load(&[dotenv], &environment).unwrap().aws_credentials.is_none());
    for half in ["AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=", "AWS_SECRET_ACCESS_KEY=id"] {
        let error = refusal(&[(".env", half)], &[on_aws]);
        assert!(error.contains("half a pair") && error.contains("add AWS_"), "{error}");
        assert!(load(&[(".env", half)], &[]).is_ok(), "the embedded backend needs none");
    }
}

#[test]
fn invalid_setting_is_named_in_one_line() {
    let toml = |text| refusal(&[("config/flux.toml", text)], &[]);
    let on_aws = |name, value| {
        refusal(&[], &[("SQS_QUEUE_URL", "http://q/1"), ("REDIS_HOST", "r"), (name, value)])
    };
    let cases = [
        (toml("\nlease = 5\n"), "flux.toml, line 2: `lease` is not a key"),
        (toml("[queue]\nx = 5"), "line 1: `queue` is not a key"),
        (toml("workers = 1\nworkers = 2"), "line 2"),
        (toml("workers = -1"), "line 1: `workers` must be a whole number"),
        (toml("workers = 1.5"), "line 1: `workers` must be"),
        (toml("data = \"\""), "`data` must not be empty"),
        (toml("workers ="), "line 1"),
        (toml("backend = \"kafka\""), "must be embedded or aws"),
        (refusal(&[], &[("FLUX_LEASE", "5")]), "FLUX_LEASE is not a setting"),
        (refusal(&[], &[("FLUX_lease_ms", "5")]), "FLUX_lease_ms is not a setting"),
        (refusal(&[], &[("flux_buy_key", "x")]), "flux_buy_key is not a setting"),
        (refusal(&[(".env", "FLUX_LEASE=5")], &[]), ".env: FLUX_LEASE is not a setting"),
        (on_aws("REDIS_PORT", "x"), "REDIS_PORT must be a port number"),
        (refusal(&[], &[("FLUX_REDIS_PORT", "x")]), "FLUX_REDIS_PORT must be a port number"),
        (refusal(&[], &[("FLUX_LEASE_MS", "30000")]), "must be below visibility_timeout_ms"),
        (
            refusal(&[], &[("FLUX_GRACE_MS", "4000")]),
            "receive_wait_ms (5000) must be below grace_ms",
        ),
        (refusal(&[], &[("FLUX_CONCURRENCY", "0")]), "from 1 to 10000"),
        (refusal(&[], &[("FLUX_RETENTION_DAYS", "14"), ("FLUX_DLQ_RETENTION_DAYS", "4")]), "lower"),
        (refusal(&[], &[("FLUX_LISTEN", "5000")]), "HOST:PORT"),
        (
            refusal(&[], &[("FLUX_JWT_SECRET", "31 bytes are not quite enough..")]),
            "at least 32 bytes",
        ),
        (refusal(&[], &[("FLUX_JWT_ISSUER", "x")]), "jwt_issuer and jwt_audience need jwt_secret"),
        (refusal(&[], &[("FLUX_LOG", "a=b=c")]), "use error, warn, info"),
        (on_aws("DYNAMODB_TABLE", "a b c"), "dynamodb_table must be 3-249"),
        (on_aws("REDIS_URL", "localhost:6379"), "must begin with redis://"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error:?} does not contain {part:?}");
    }
    let flags = Flags { config: Some("/nowhere/flux.toml".into()), ..Flags::default() };
    let error = Settings::load_from(Path::new("."), vec![], &flags).unwrap_err().to_string();
    assert!(error.contains("/nowhere/flux.toml"), "{error}");
}

#[test]
fn no_secret_is_shown() {
    let sesame = "open-sesame";
    let secret = |name: &str| format!("{sesame} for {name} and for nothing else");
    let url = format!("redis://:{sesame}@localhost");
    let names =
        ["FLUX_ORDER_KEY", "FLUX_ADMIN_KEY", "FLUX_BUY_KEY", "FLUX_JWT_SECRET", "REDIS_PASSWORD"];
    let secrets = names.map(|name| (name, secret(name)));
    let mut environment: Vec<(&str, &str)> =
        secrets.iter().map(|(name, secret)| (*name, secret.as_str())).collect();
    environment.extend([("REDIS_URL", url.as_str()), ("FLUX_BACKEND", "aws")]);
    let dotenv = (".env", "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=open-sesame\n");
    let settings = load(&[dotenv], &environment).unwrap();
    assert_eq!(settings.redis_password.as_ref().unwrap().expose_secret(), secret("REDIS_PASSWORD"));
    assert!(!format!("{settings:?}").contains(sesame));
    for text in
        ["order_key = open-sesame", "order_key = [\"open-sesame\"]", "order_key = 'open-sesame"]
    {
        assert!(!refusal(&[("config/flux.toml", text)], &[]).contains(sesame), "{text}");
    }
    let http = [("FLUX_BACKEND", "aws"), ("REDIS_URL", "http://:open-sesame@localhost")];
    assert!(!refusal(&[], &http).contains(sesame));
    for line in ["FLUX_ADMIN_KEY=open-sesame", "FLUX_BUY_KEY='open-sesame", "A open-sesame"] {
        assert!(!refusal(&[(".env", line)], &[]).contains(sesame), "{line}");
    }
}

/// Loads `name` from each of the three sources.
fn in_each_source(name: &str, value: &str) -> [Result<Settings, String>; 3] {
    let key = name.strip_prefix("FLUX_").unwrap_or(name).to_ascii_lowercase();
    let toml = format!("{key} = {}", toml::Value::String(value.to_owned()));
    [
        load(&[("config/flux.toml", &toml)], &[]),
        load(&[(".env", &format!("{name}=\"{value}\""))], &[]),
        load(&[], &[(name, value)]),
    ]
}

#[test]
fn access_setting_without_a_value_is_refused_by_name() {
    let guards: Vec<Key> = Settings::keys().into_iter().filter(|key| key.guards_access).collect();
    assert!(guards.len() > 12);
    for key in guards {
        let name = format!("FLUX_{}", key.name.to_ascii_uppercase());
        for value in ["", " \t"] {
            for loaded in in_each_source(&name, value) {
                let error = loaded.unwrap_err();
                let named = error.contains(&name) || error.contains(&format!("`{}`", key.name));
                assert!(named && error.contains("is empty"), "{error}");
            }
        }
        // An empty value in a later source does not remove the earlier one.
        let both = refusal(&[(".env", &format!("{name}=5"))], &[(&name, "")]);
        assert!(both.contains("the environment: ") && both.contains(&name), "{both}");
    }
    let valued = "0123456789abcdef";
    for list in ["FLUX_ADMIN_KEY", "FLUX_BUY_KEY", "FLUX_TRUSTED_PROXIES", "FLUX_CORS_ORIGINS"] {
        for value in [",", " , ", &format!("{valued},"), &format!("{valued},,{valued}x")] {
            for loaded in in_each_source(list, value) {
                let error = loaded.unwrap_err();
                assert!(error.contains("has an empty entry"), "{list}={value:?}: {error}");
            }
        }
    }
    let aws = [("SQS_QUEUE_URL", "http://q"), ("REDIS_HOST", "r"), ("REDIS_PASSWORD", "")];
    assert!(refusal(&[], &aws).contains("REDIS_PASSWORD is empty"));
    assert!(load(&[], &[("FLUX_REDIS_HOST", ""), ("FLUX_JWT_JWKS", "f")]).is_ok());
    for number in ["buy_key = 12345678901234567890", "buy_key = 1234567890123456.10"] {
        let error = refusal(&[("config/flux.toml", number)], &[]);
        assert!(error.contains("`buy_key` must be a text in quotes"), "{error}");
    }
}

#[test]
fn short_or_reused_key_is_refused() {
    let long = "0123456789abcdef";
    for name in ["FLUX_ADMIN_KEY", "FLUX_BUY_KEY", "FLUX_ORDER_KEY"] {
        for good in in_each_source(name, long) {
            good.unwrap();
        }
        for loaded in in_each_source(name, "0123456789abcde") {
            let error = loaded.unwrap_err();
            assert!(
                error.contains("a key of 15 bytes") && error.contains("at least 16"),
                "{error}"
            );
        }
    }
    for short in [format!("{long},short"), "a-key,with-a-comma-in-it".to_owned()] {
        let error = refusal(&[], &[("FLUX_BUY_KEY", &short)]);
        assert!(error.starts_with("buy_key contains a key of 5 bytes") && error.contains("commas"));
    }
    let webhook = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let bare = webhook.strip_prefix("whsec_").unwrap();
    let shop = ("FLUX_WEBHOOK_URL", "https://shop.example/");
    let two_keys = format!("{bare}, {long}");
    let secret = format!("{long}{long}");
    for (one, other) in [
        (("FLUX_ADMIN_KEY", long), ("FLUX_BUY_KEY", long)),
        (("FLUX_ADMIN_KEY", long), ("FLUX_BUY_KEY", two_keys.as_str())),
        (("FLUX_BUY_KEY", long), ("FLUX_ORDER_KEY", long)),
        (("FLUX_ADMIN_KEY", secret.as_str()), ("FLUX_JWT_SECRET", secret.as_str())),
        (("FLUX_ADMIN_KEY", long), ("FLUX_REDIS_PASSWORD", long)),
        (("FLUX_BUY_KEY", two_keys.as_str()), ("FLUX_WEBHOOK_SECRET", webhook)),
    ] {
        let error = refusal(&[], &[shop, ("FLUX_WEBHOOK_SECRET", webhook), one, other]);
        assert!(error.contains("contain the same secret"), "{one:?} {other:?}: {error}");
        assert!(!error.contains(long) && !error.contains(bare), "{error}");
    }
    assert!(refusal(&[], &[("FLUX_BUY_KEY", "a key with a \u{7} in it")]).contains("control"));
}

#[test]
fn kubernetes_service_links_are_ignored() {
    let links = [
        ("FLUX_SERVICE_HOST", "10.0.0.1"),
        ("FLUX_SERVICE_PORT", "5000"),
        ("FLUX_SERVICE_PORT_HTTP", "5000"),
        ("FLUX_PORT", "tcp://10.0.0.1:5000"),
        ("FLUX_PORT_5000_TCP", "tcp://10.0.0.1:5000"),
        ("FLUX_PORT_5000_TCP_PROTO", "tcp"),
        ("FLUX_PORT_5000_TCP_PORT", "5000"),
        ("FLUX_PORT_5000_TCP_ADDR", "10.0.0.1"),
        ("FLUX_WORK_SERVICE_HOST", "fd00::1"),
        ("FLUX_WORK_PORT", "udp://[fd00::1]:53"),
        ("FLUX_WORK_PORT_53_UDP", "udp://[fd00::1]:53"),
        ("FLUX_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ("FLUX_REDIS_SERVICE_HOST", "10.0.0.2"),
        ("REDIS_SERVICE_HOST", "10.0.0.2"),
        ("REDIS_PORT", "tcp://10.0.0.2:6379"),
    ];
    let ours = [("SQS_QUEUE_URL", "http://q"), ("REDIS_HOST", "redis"), ("FLUX_WORKERS", "3")];
    let settings = load(&[], &[&links[..], &ours[..]].concat()).unwrap();
    assert_eq!((settings.workers, settings.redis_port), (3, 6379));
    assert_eq!(settings.redis_host.as_deref(), Some("redis"));
    let ignored = &settings.ignored;
    assert!(
        ignored.contains(&"FLUX_PORT".to_owned()) && ignored.contains(&"REDIS_PORT".to_owned())
    );
    for (name, value) in [
        ("FLUX_PORT", "5000"),
        ("FLUX_SERVICE_HOST", "flux.example"),
        ("FLUX_SERVICE_PORT", "tcp"),
        ("FLUX_PORT_5000_TCP", "5000"),
        ("FLUX_PORT_5000_TCP_HOST", "10.0.0.1"),
        ("FLUX_WORKER", "3"),
        ("FLUX_REDIS_PORT", "http://10.0.0.2:6379"),
    ] {
        assert!(refusal(&[], &[(name, value)]).contains(name), "{name}");
    }
    assert!(refusal(&[(".env", "FLUX_PORT=tcp://10.0.0.1:5000")], &[]).contains("FLUX_PORT"));
}

#[test]
fn shared_name_is_checked_only_if_used() {
    let foreign = [
        ("REDIS_PORT", "default"),
        ("REDIS_URL", "localhost:6379"),
        ("REDIS_PASSWORD", ""),
        ("DYNAMODB_TABLE", "a b c"),
        ("OTEL_SERVICE_NAME", "shop"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "?"),
    ];
    let settings = load(&[], &foreign).unwrap();
    assert_eq!(settings.service_name, "flux");
    assert!(settings.redis_url.is_none() && settings.ignored.len() == 6, "{settings:?}");

    let queue = ("SQS_QUEUE_URL", "http://q");
    let no_host = load(&[], &[queue, ("REDIS_PORT", "default"), ("REDIS_PASSWORD", "")]).unwrap();
    assert_eq!(no_host.redis_port, 6379);
    let url = [queue, ("REDIS_URL", "redis://r:1"), ("REDIS_PORT", "default")];
    assert!(load(&[], &url).is_ok(), "the URL names the port");
    let own = [queue, ("REDIS_HOST", "r"), ("REDIS_PORT", "default"), ("FLUX_REDIS_PORT", "7")];
    assert_eq!(load(&[], &own).unwrap().redis_port, 7);
    let used = [queue, ("REDIS_HOST", "r"), ("REDIS_PORT", "default")];
    assert!(refusal(&[], &used).contains("REDIS_PORT must be a port number"));
    let later = load(&[(".env", "FLUX_REDIS_HOST=one\nSQS_QUEUE_URL=q")], &[("REDIS_HOST", "two")]);
    assert_eq!(later.unwrap().redis_host.as_deref(), Some("two"));
}

#[test]
fn unreadable_file_is_an_error() {
    for name in [".env", "config/flux.toml"] {
        let directory = directory(&[]);
        let file = directory.path().join(name);
        let load = || {
            let read = Settings::load_from(directory.path(), vec![], &Flags::default());
            read.unwrap_err().to_string()
        };
        std::os::unix::fs::symlink("nowhere", &file).unwrap();
        assert!(load().contains("cannot read"), "{}", load());
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, b"log = \"a\"\n\xff\xfeF\0").unwrap();
        assert!(load().contains("not UTF-8"), "{}", load());
    }
    let marked = "\u{feff}FLUX_LOG=warn\r\n";
    assert_eq!(load(&[(".env", marked)], &[]).unwrap().log, "warn");
}
