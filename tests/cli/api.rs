//! The examples of docs/api.md and docs/access.md work as printed.

use std::path::Path;
use std::process::Command;

use super::Workdir;

/// A command of the page and its printed output.
struct Example {
    command: String,
    answer: String,
}

/// The commands in the page's `console` blocks, in order.
fn examples(page: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    for block in page.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        for line in block.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => {
                    examples.push(Example { command: command.to_owned(), answer: String::new() });
                }
                (None, Some(example)) => example.answer += &format!("{line}\n"),
                (None, None) => panic!("an answer before any command: {line}"),
            }
        }
    }
    examples
}

/// True if `actual` equals `expected`, in which `…` matches any text within a line.
fn matches(expected: &str, actual: &str) -> bool {
    let expected = expected.trim_end();
    let actual = actual.trim_end().replace('\r', "");
    let line_matches = |(expected, mut actual): (&str, &str)| {
        let parts: Vec<&str> = expected.split('…').collect();
        let Some((last, parts)) = parts.split_last() else { return false };
        for (n, part) in parts.iter().enumerate() {
            match actual.find(part) {
                Some(at) if n > 0 || at == 0 => actual = &actual[at + part.len()..],
                _ => return false,
            }
        }
        if parts.is_empty() { actual == *last } else { actual.ends_with(last) }
    };
    expected.lines().count() == actual.lines().count()
        && expected.lines().zip(actual.lines()).all(line_matches)
}

#[test]
fn api_page_examples_work_as_printed() {
    let page = std::fs::read_to_string("docs/api.md").unwrap();
    let open = Workdir::new();
    let keyed = Workdir::new()
        .with("FLUX_ADMIN_KEY", "open-admin-of-this-page")
        .with("FLUX_BUY_KEY", "open-shop-of-this-page");
    open.run("provision --item hall_A --stock 3");
    let (_open, open) = open.serve("--workers 50");
    let (_keyed, keyed) = keyed.serve("--workers 50");
    let full = Workdir::new().with("FLUX_BACKLOG_MAX", "1");
    let (_full, full) = full.serve("");

    // All commands run in one shell, because they use variables of earlier ones.
    let end = "-- end of an answer --";
    let examples = examples(&page);
    let commands =
        examples.iter().map(|example| format!("{}\necho\necho '{end}'\n", example.command));
    let commands: String = commands.collect();
    let commands = commands.replace("localhost:5000", &open).replace("localhost:5001", &keyed);
    let commands = commands.replace("localhost:5002", &full);
    let printed = Command::new("bash").args(["-c", &commands]).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();

    let answers: Vec<&str> = printed.split(&format!("{end}\n")).collect();
    assert!(examples.len() > 30 && answers.len() == examples.len() + 1, "{printed}");
    for (example, actual) in examples.iter().zip(answers) {
        let Example { command, answer } = example;
        assert!(matches(answer, actual), "$ {command}\nexpected:\n{answer}\nactual:\n{actual}");
    }
}

/// Runs a bash script with flux in the PATH and a server at `address`; returns its output.
fn bash(workdir: &Workdir, lines: &str, address: &str) -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_flux")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-ec", &lines.replace("localhost:5000", address)]);
    bash.current_dir(&workdir.directory).env_clear().env("PATH", path);
    workdir.run_command(bash)
}

#[test]
fn access_example_works_as_printed() {
    let page = std::fs::read_to_string("docs/access.md").unwrap();
    let mut blocks = page.split("\n```\n").filter(|block| block.contains("FLUX_BUY_KEY="));
    let block = blocks.next().unwrap();
    assert!(blocks.next().is_none(), "another example with keys");
    let (first, second) = block.split_once("flux serve ").unwrap();
    let (_comment, second) = second.split_once('\n').unwrap();
    let workdir = Workdir::new();
    bash(&workdir, first, "");
    let (_serve, address) = workdir.serve("");
    let printed = bash(&workdir, second, &address);
    assert!(printed.contains("order_id"), "{printed}");
    let without_key = second.replace("$FLUX_BUY_KEY", "another");
    assert!(bash(&workdir, &without_key, &address).contains("401"));
}
