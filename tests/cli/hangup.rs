//! SIGHUP: reloads `serve` and `work`, ends other commands.

use std::process::Stdio;

use super::{Process, Workdir};

#[test]
fn worker_reloads_log_filter_on_sighup() {
    let file = "config/flux.toml";
    let workdir = Workdir::new().with_file(file, "log = \"info\"");
    let mut work = workdir.start("work");
    work.log_line("working on");
    let workdir = workdir.with_file(file, "log = \"debug\"\nlease_ms = 4000\nrate_per_user = 1");
    work.signal("HUP");
    work.log_line("settings reloaded; changed: log");
    let restart = work.log_line("need a restart: ");
    assert!(restart.ends_with("need a restart: lease_ms"), "{restart}");
    let _wrong = workdir.with_file(file, "buy_key = \"\"");
    work.signal("HUP");
    let line = work.log_line("reload failed; settings unchanged");
    assert!(line.contains("`buy_key` is empty"), "{line}");
    work.signal("TERM");
    work.log_line("stopped");
    assert_eq!(work.end().0.code(), Some(0));
}

#[test]
fn sighup_ends_stress_unless_ignored() {
    let race = "stress --item t --stock 9 --users 100000 --rate 50 --connections 4";
    let temporary = tempfile::tempdir().unwrap();
    let left = || std::fs::read_dir(temporary.path()).unwrap().count();
    for outlives in [false, true] {
        let workdir = Workdir::new().with("TMPDIR", temporary.path().to_str().unwrap());
        let flux = workdir.command(race);
        // The tests may have been started with nohup, which ignores SIGHUP.
        let mut command = std::process::Command::new("env");
        command.args(["--default-signal=HUP", "sh"]);
        let script = if outlives { "trap '' HUP; exec \"$@\"" } else { "exec \"$@\"" };
        command.args(["-c", script, "sh"]).arg(flux.get_program()).args(flux.get_args());
        command.current_dir(workdir.directory.path()).env_clear();
        command.envs(flux.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut race = Process::new(child);
        while left() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::thread::sleep(std::time::Duration::from_millis(300));
        race.signal("HUP");
        if outlives {
            std::thread::sleep(std::time::Duration::from_millis(500));
            assert_eq!(race.child.try_wait().unwrap(), None, "{:?}", race.logged);
            race.signal("INT");
        }
        race.log_line("stopping");
        assert_eq!(race.end().0.code(), Some(1));
        assert_eq!(left(), 0, "the temporary store is left over");
    }
}

#[cfg(all(feature = "aws", feature = "redis"))]
#[test]
fn sdk_log_lines_contain_no_credentials() {
    let id = "AKIAIOSFODNN7EXAMPLE";
    let profile = format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = x\n");
    let workdir = Workdir::on_aws().with_file("credentials", profile);
    let file = workdir.path("credentials");
    let mut workdir = workdir.with("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap());
    let chain = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    workdir.environment.retain(|(name, _)| !chain.contains(&name.as_str()));
    for (log, shows) in
        [("info", false), ("debug", false), ("trace", false), ("warn,aws_config=info", true)]
    {
        let workdir = Workdir { directory: tempfile::tempdir().unwrap(), ..clone(&workdir) };
        let output = workdir
            .with("FLUX_LOG", log)
            .command("provision --backend aws --dry-run")
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{printed}");
        assert_eq!(printed.contains(id), shows, "{log}: {printed}");
    }
}

fn clone(workdir: &Workdir) -> Workdir {
    Workdir { directory: tempfile::tempdir().unwrap(), environment: workdir.environment.clone() }
}
