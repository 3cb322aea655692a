use super::{assert_valid, number, read};

/// The assignments of a unit.
fn unit(name: &str) -> Vec<(String, String)> {
    let text = read(&format!("config/systemd/{name}"));
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[test]
fn units_are_sandboxed_and_leave_time_to_stop() {
    for name in ["flux-serve.service", "flux-work@.service"] {
        let unit = unit(name);
        let get = |key: &str| {
            let found = unit.iter().find(|(k, _)| k == key);
            found.map(|(_, value)| value.as_str()).unwrap_or_else(|| panic!("{name}: no {key}"))
        };
        let mut command = get("ExecStart").split(' ');
        assert_eq!(command.next(), Some("/usr/local/bin/flux"));
        assert_valid(command);
        assert_eq!(get("ExecReload"), "/bin/kill -HUP $MAINPID");
        let stop: u64 = get("TimeoutStopSec").parse().unwrap();
        assert!(stop * 1_000 > number("grace_ms"), "{name}: killed before it has drained");
        assert_eq!((get("Restart"), get("RestartPreventExitStatus")), ("on-failure", "2"));
        assert_eq!(get("User"), "flux");
        assert_eq!(get("WorkingDirectory"), format!("/var/lib/{}", get("StateDirectory")));
        for (key, value) in [
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("CapabilityBoundingSet", ""),
            ("MemoryDenyWriteExecute", "yes"),
        ] {
            assert_eq!(get(key), value, "{name}: {key}");
        }
        if name == "flux-serve.service" {
            let files: u64 = get("LimitNOFILE").parse().unwrap();
            assert!(files > number("connections_max") + 100, "connections need descriptors");
        }
    }
    assert!(read("config/systemd/flux.sysusers.conf").starts_with("u flux "));
}
