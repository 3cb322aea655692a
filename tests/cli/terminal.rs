//! Foreign text is escaped in all output, and never starts a line.

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{Workdir, buy, decided};

/// A forged audit line, a sequence that clears the screen, a direction override, invisible
/// characters.
const HOSTILE: &str = "x\nPASS: sold\u{1b}[2J\u{9b}1m\u{202e}\u{2028}\u{200b}\u{feff}";
/// [`HOSTILE`] as it is printed.
const SHOWN: &str = "x\\u000aPASS: sold\\u001b[2J\\u009b1m\\u202e\\u2028\\u200b\\ufeff";
/// A name that older versions accepted.
const OLD_NAME: &str = "ann\u{2028}\u{202e}";

fn is_plain(printed: &str) {
    let hidden = |c: char| c != '\n' && flux::core::model::text::is_hidden(c);
    assert_eq!(printed.chars().find(|c| hidden(*c)), None, "{printed:?}");
}

#[test]
fn hostile_text_is_escaped_in_output() {
    let workdir = Workdir::new();
    workdir.run("provision --item ticket_001 --stock 1");
    let orders = {
        let (_serve, address) = workdir.serve("");
        ["ann", "bob", "cid"].map(|user| buy(&address, user, "ticket_001"))
    };
    let store = Connection::open(workdir.path("flux.db")).unwrap();
    store.execute("UPDATE orders SET user = ? WHERE user <> 'cid'", [OLD_NAME]).unwrap();
    store.execute("UPDATE orders SET user = ? WHERE user = 'cid'", [HOSTILE]).unwrap();
    let letter = "INSERT INTO dead_letters (order_id, reason, body, at)
         VALUES (zeroblob(16), ?1, ?1, 1)";
    store.execute(letter, [HOSTILE]).unwrap();
    drop(store);

    let (mut serve, address) = workdir.serve("--workers 1");
    assert_eq!(decided(&address, &orders[0])["status"], "sold");
    assert_eq!(decided(&address, &orders[1])["status"], "rejected");
    let told: Vec<String> = (0..4).map(|_| serve.stdout_line()).collect();
    let name = "ann\\u2028\\u202e";
    assert_eq!(told[1], format!("SELLING: item ticket_001 to {name}"));
    assert!(
        told.iter().any(|line| line.starts_with(&format!("REJECTED: {name} wants"))),
        "{told:?}"
    );
    is_plain(&serve.log_line("dead letter: "));

    let listed = workdir.run("dlq list");
    is_plain(&listed);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.contains(&format!(" {SHOWN}: {SHOWN}\n")), "{listed}");
    let listed = workdir.run("dlq list --json");
    is_plain(&listed);
    let letters: Vec<Value> =
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(letters.iter().any(|letter| letter["body"] == HOSTILE), "{listed}");
    let mut redrive = workdir.command("dlq redrive --id 00000000000000000000000000000000");
    redrive.args(["--body", &json!({"user_id": HOSTILE}).to_string()]);
    is_plain(&String::from_utf8(redrive.output().unwrap().stdout).unwrap());

    #[cfg(feature = "top")]
    is_plain(&workdir.run(&format!("top --once --target http://{address}")));
    let audit = workdir.command("audit").output().unwrap();
    is_plain(&String::from_utf8(audit.stdout).unwrap());
    let mut wrong = workdir.command("audit --item");
    let output = wrong.arg(HOSTILE).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    is_plain(&printed);
    assert_eq!((output.status.code(), printed.lines().count()), (Some(2), 1), "{printed}");
}
