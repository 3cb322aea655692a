mod reference;

use std::path::Path;

use flux::config::{Backend, Flags, LogFormat, Settings};
use flux::load::Prices;
use secrecy::ExposeSecret;

/// A working directory with these files in it.
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

fn error(files: &[(&str, &str)], environment: &[(&str, &str)]) -> String {
    let error = load(files, environment).unwrap_err();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn every_file_in_config_parses_and_the_example_has_exactly_the_keys_with_their_defaults() {
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
    let settings = load(&[("config/flux.toml", &lines.join("\n"))], &[]).unwrap();
    assert_eq!(format!("{settings:?}"), format!("{:?}", Settings::default()));
}

#[test]
fn a_later_source_wins() {
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
fn names_that_other_tools_use_are_taken_as_they_are() {
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
    let told = load(&[], &[("SQS_QUEUE_URL", "http://q"), ("FLUX_BACKEND", "embedded")]);
    assert_eq!(told.unwrap().backend(), Backend::Embedded);
    assert_eq!(load(&[], &[("FLUX_LOG_FORMAT", "json")]).unwrap().log_format, LogFormat::Json);
}

#[test]
fn credentials_in_dotenv_are_for_the_sdk_unless_the_environment_has_some() {
    let dotenv = (".env", "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY='s e'\n");
    let credentials = load(&[dotenv], &[]).unwrap().aws_credentials.unwrap();
    assert_eq!(credentials.access_key_id, "id");
    assert_eq!(credentials.secret_access_key.expose_secret(), "s e");
    let environment = [("AWS_ACCESS_KEY_ID", "other")];
    assert!(load(&[dotenv], &environment).unwrap().aws_credentials.is_none());
    assert!(error(&[(".env", "AWS_ACCESS_KEY_ID=id")], &[]).contains("AWS_SECRET_ACCESS_KEY"));
}

#[test]
fn what_is_wrong_is_named_in_one_line() {
    let toml = |text| error(&[("config/flux.toml", text)], &[]);
    let cases = [
        (toml("\nlease = 5\n"), "flux.toml, line 2: `lease` is not a key"),
        (toml("[queue]\nx = 5"), "line 1: `queue` is not a key"),
        (toml("workers = 1\nworkers = 2"), "line 2"),
        (toml("workers = -1"), "line 1: `workers` must be a whole number"),
        (toml("workers = 1.5"), "line 1: `workers` must be"),
        (toml("data = \"\""), "`data` must not be empty"),
        (toml("workers ="), "line 1"),
        (toml("backend = \"kafka\""), "must be embedded or aws"),
        (error(&[], &[("FLUX_LEASE", "5")]), "FLUX_LEASE is not a setting"),
        (error(&[], &[("FLUX_lease_ms", "5")]), "FLUX_lease_ms is not a setting"),
        (error(&[(".env", "FLUX_LEASE=5")], &[]), ".env: FLUX_LEASE is not a setting"),
        (error(&[], &[("REDIS_PORT", "tcp://10.0.0.1:6379")]), "REDIS_PORT must be a port number"),
        (error(&[], &[("FLUX_LEASE_MS", "30000")]), "must be below visibility_timeout_ms"),
        (error(&[], &[("FLUX_GRACE_MS", "4000")]), "receive_wait_ms (5000) must be below grace_ms"),
        (error(&[], &[("FLUX_CONCURRENCY", "0")]), "from 1 to 10000"),
        (error(&[], &[("FLUX_RETENTION_DAYS", "14"), ("FLUX_DLQ_RETENTION_DAYS", "4")]), "lower"),
        (error(&[], &[("FLUX_LISTEN", "5000")]), "HOST:PORT"),
        (
            error(&[], &[("FLUX_JWT_SECRET", "31 bytes are not quite enough..")]),
            "at least 32 bytes",
        ),
        (error(&[], &[("FLUX_JWT_ISSUER", "x")]), "jwt_issuer and jwt_audience are of use with"),
        (error(&[], &[("FLUX_LOG", "a=b=c")]), "use error, warn, info"),
        (error(&[], &[("DYNAMODB_TABLE", "a b c")]), "dynamodb_table must be 3-249"),
        (error(&[], &[("REDIS_URL", "localhost:6379")]), "must begin with redis://"),
    ];
    for (error, part) in cases {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
    let flags = Flags { config: Some("/nowhere/flux.toml".into()), ..Flags::default() };
    let error = Settings::load_from(Path::new("."), vec![], &flags).unwrap_err().to_string();
    assert!(error.contains("/nowhere/flux.toml"), "{error}");
}

#[test]
fn no_secret_is_shown() {
    let sesame = "open-sesame";
    let names = [
        "FLUX_ORDER_KEY",
        "FLUX_ADMIN_KEY",
        "FLUX_BUY_KEY",
        "FLUX_JWT_SECRET",
        "REDIS_PASSWORD",
        "REDIS_URL",
    ];
    let url = format!("redis://:{sesame}@localhost");
    let long = sesame.repeat(3);
    let value = |name| match name {
        "REDIS_URL" => url.as_str(),
        "FLUX_JWT_SECRET" => long.as_str(),
        _ => sesame,
    };
    let environment = names.map(|name| (name, value(name)));
    let dotenv = (".env", "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY=open-sesame\n");
    let settings = load(&[dotenv], &environment).unwrap();
    assert!(!format!("{settings:?}").contains(sesame));
    for text in
        ["order_key = open-sesame", "order_key = [\"open-sesame\"]", "order_key = 'open-sesame"]
    {
        assert!(!error(&[("config/flux.toml", text)], &[]).contains(sesame), "{text}");
    }
    assert!(!error(&[], &[("REDIS_URL", "http://:open-sesame@localhost")]).contains(sesame));
    assert!(!error(&[(".env", "FLUX_ADMIN_KEY=open-sesame x y")], &[]).contains(sesame));
}
