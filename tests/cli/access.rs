//! Keys and limits of a server: the warning if there are none, and their change by SIGHUP.

use std::process::{Command, Stdio};

use super::{Process, SESAME, Workdir};
use crate::support::http::request;

/// `flux serve` on all addresses; in a network namespace of its own, if that is allowed.
fn serve_for_all(workdir: &Workdir) -> Process {
    let flux = workdir.command("serve --listen 0.0.0.0:0");
    let alone = Command::new("unshare").args(["-rn", "true"]).stderr(Stdio::null()).status();
    let mut command = match alone {
        Ok(status) if status.success() => {
            let mut command = Command::new("unshare");
            command.arg("-rn").arg(flux.get_program()).args(flux.get_args());
            command.current_dir(flux.get_current_dir().unwrap()).env_clear();
            command.envs(flux.get_envs().filter_map(|(name, value)| Some((name, value?))));
            command
        }
        _ => flux,
    };
    Process::new(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

#[test]
fn open_server_without_keys_warns_at_any_log_level() {
    for (log, part) in
        [("error", "!!! "), ("off", "WITHOUT KEYS"), ("info", "WARN no keys are configured")]
    {
        let workdir = Workdir::new().with("FLUX_LOG", log);
        serve_for_all(&workdir).log_line(part);
    }
    let with_key = Workdir::new().with("FLUX_BUY_KEY", SESAME);
    let mut for_all = serve_for_all(&with_key);
    for_all.log_line("listening on");
    let without_key = Workdir::new();
    let on_loopback = [with_key.serve("").0, without_key.serve("").0];
    for mut serve in std::iter::once(for_all).chain(on_loopback) {
        serve.signal("TERM");
        serve.log_line("stopped");
        let printed = serve.logged.join("\n");
        assert!(
            !printed.contains("WITHOUT") && !printed.contains("WARN") && !printed.contains(SESAME)
        );
    }
}

/// Sends an order with this key; returns the status.
pub fn buy(address: &str, key: &str) -> u16 {
    buy_item(address, key, "ticket_001")
}

fn buy_item(address: &str, key: &str, item: &str) -> u16 {
    let body = format!(r#"{{"user_id":"ann","item_id":"{item}"}}"#);
    let bearer = format!("Bearer {key}");
    request(address, "POST /buy", &[("Authorization", &bearer)], &body).status
}

#[test]
fn sighup_reloads_keys_and_limits_or_changes_nothing() {
    let file = "config/flux.toml";
    let one = "the first of the keys";
    let two = "the second of the keys";
    let three = "the third of the keys";
    let workdir = Workdir::new().with_file(file, format!("buy_key = \"{one}\""));
    workdir.run("provision --item ticket_001 --stock 500");
    let (mut serve, address) = workdir.serve("");
    assert_eq!((buy(&address, one), buy(&address, two)), (202, 401));

    let workdir = workdir.with_file(
        file,
        format!(
            "buy_key = \"{two}\"\nrate_per_user = 1\nrate_burst = 3\nlease_ms = 4000\nlog = \"warn\""
        ),
    );
    serve.signal("HUP");
    serve.log_line("changed: buy_key, rate_per_user, rate_burst, log");
    serve.log_line("need a restart: lease_ms");
    assert_eq!(buy(&address, one), 401);
    let answers: Vec<u16> = (0..200).map(|_| buy(&address, two)).collect();
    assert!(answers.contains(&202) && answers.contains(&429), "{answers:?}");

    let workdir = workdir.with_file(file, format!("buy_key = \"{three}\"\nrate_per_usr = 5"));
    serve.signal("HUP");
    let line = serve.log_line("settings unchanged");
    assert!(line.contains("rate_per_usr"), "{line}");
    assert_eq!(buy(&address, three), 401);
    let workdir = workdir.with_file(file, "");
    serve.signal("HUP");
    let line = serve.log_line("settings unchanged");
    assert!(line.contains("restart to sell without keys"), "{line}");
    assert_eq!(
        super::http(&address, "POST /buy", r#"{"user_id":"ann","item_id":"ticket_001"}"#).0,
        401
    );
    let _kept = workdir.with_file(file, format!("buy_key = \"{two}\""));
    serve.signal("HUP");
    serve.log_line("settings reloaded");
    assert_eq!(buy(&address, two), 202);
    assert!(!serve.logged.iter().any(|line| line.contains("INFO") && line.contains("settings")));
}

#[test]
fn untrusted_proxy_is_logged_once() {
    let trusting = Workdir::new().with("FLUX_TRUSTED_PROXIES", "127.0.0.0/8");
    for (workdir, named) in [(Workdir::new(), 1), (trusting, 0)] {
        let (mut serve, address) = workdir.serve("");
        for header in ["X-Forwarded-For", "Forwarded", "X-Forwarded-For"] {
            request(&address, "GET /healthz", &[(header, "192.0.2.1")], "");
        }
        serve.signal("TERM");
        serve.log_line("stopped");
        let lines = serve.logged.iter().filter(|line| line.contains("trusted_proxies"));
        let lines: Vec<_> = lines.collect();
        assert_eq!(lines.len(), named, "{lines:?}");
        assert!(lines.iter().all(|line| line.contains("127.0.0.1 is not in trusted_proxies")));
    }
}

#[test]
fn keys_set_by_sighup_end_unlisted_sales() {
    let workdir = Workdir::new();
    let (mut serve, address) = workdir.serve("");
    super::buy(&address, "ann", "invented");
    let workdir = workdir.with_file("config/flux.toml", "buy_key = \"a key of the shop\"");
    serve.signal("HUP");
    serve.log_line("changed: buy_key");
    assert_eq!(buy_item(&address, "a key of the shop", "invented"), 404);
    assert_eq!(buy_item(&address, "a key of the shop", "Hall_B"), 404);
    workdir.run("provision --item Hall_B --stock 1");
    assert_eq!(buy_item(&address, "a key of the shop", "Hall_B"), 202);
}

#[test]
fn stress_target_uses_buy_key() {
    let workdir = Workdir::new().with("FLUX_BUY_KEY", SESAME);
    workdir.run("provision --item stress-1 --stock 1");
    let (_serve, address) = workdir.serve("--workers 4");
    let race = format!("stress --item stress-1 --users 50 --target http://{address}");
    let report = workdir.run(&race);
    assert!(report.contains("PASS: sold 1 of 1") && !report.contains(SESAME), "{report}");

    for workdir in [Workdir::new(), Workdir::new().with("FLUX_BUY_KEY", "mistyped-mistyped")] {
        let line = workdir.refused(&race);
        assert!(line.contains("FLUX_BUY_KEY") && !line.contains("mistyped-mistyped"), "{line}");
    }
}
