//! Shell completions, manual pages, and the health check.

use std::process::Command;

use flux::config::Settings;

use super::Workdir;

#[test]
fn bash_completes_subcommands_flags_and_words() {
    let workdir = Workdir::new();
    let script = workdir.run("completions bash");
    let workdir = workdir.with_file("flux.bash", script);
    let complete = |words: &[&str]| {
        let last = words[words.len() - 1];
        let before = words[words.len() - 2];
        let words = words.join("' '");
        let ask = format!(
            "source ./flux.bash; COMP_WORDS=('{words}'); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             $(complete -p flux | sed 's/.*-F \\([^ ]*\\) .*/\\1/') flux '{last}' '{before}'; \
             echo \"${{COMPREPLY[*]}}\""
        );
        let mut bash = Command::new("bash");
        let output = bash.args(["--norc", "-c", &ask]).current_dir(workdir.path(".")).output();
        let output = output.unwrap();
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(complete(&["flux", "pro"]), "provision");
    assert_eq!(complete(&["flux", "dlq", "re"]), "redrive");
    assert_eq!(complete(&["flux", "serve", "--work"]), "--workers");
    assert_eq!(complete(&["flux", "serve", "--backend", ""]), "embedded aws");
}

#[test]
fn zsh_and_fish_get_scripts_and_unknown_shell_is_refused() {
    let workdir = Workdir::new();
    assert!(workdir.run("completions zsh").starts_with("#compdef flux"));
    assert!(workdir.run("completions fish").contains("complete -c flux"));
    assert!(workdir.refused("completions tcsh").contains("bash"));
}

#[test]
fn manual_has_pages_for_commands_and_settings() {
    let workdir = Workdir::new();
    assert!(workdir.run("man").contains(".SH \"EXIT STATUS\""));
    workdir.run("man --out man");
    let page = |name: &str| std::fs::read_to_string(workdir.path("man").join(name)).unwrap();
    for name in ["flux.1", "flux-serve.1", "flux-work.1", "flux-dlq-redrive.1"] {
        assert!(page(name).contains(".SH NAME"), "{name}");
    }
    let settings = page("flux.toml.5").replace('\\', "");
    for key in Settings::KEYS {
        assert!(settings.contains(key), "{key} is not in flux.toml(5)");
    }
    let line = workdir.refused("man --out man/flux.1");
    assert!(line.contains("--out man/flux.1: "), "{line}");
}

#[test]
fn health_reports_live_and_unreachable_servers() {
    let workdir = Workdir::new();
    let (_serve, address) = workdir.serve("");
    for flag in ["", "--ready"] {
        workdir.run(&format!("health --target http://{address} {flag}"));
    }
    let away = workdir.command("health --target http://127.0.0.1:1").output().unwrap();
    assert_eq!(away.status.code(), Some(1), "{away:?}");
    assert!(String::from_utf8(away.stderr).unwrap().contains("no response from"));
}
