//! The `.env` file: `NAME=VALUE` lines, taken literally.
//!
//! A secret must come out as it was written, so nothing in a value is interpreted: no `$NAME`, no
//! backslash, no comment behind a value. One pair of quotes around the whole value is removed.

use std::path::Path;

use super::ConfigError;
use super::environment::{Variable, is_read_by_flux};

const QUOTES: [char; 2] = ['"', '\''];
const NOT_A_PAIR: &str = "is not NAME=VALUE";
const NOT_CLOSED: &str = "opens a quote that is not closed at its end: close it, or put the value \
                          into the other kind of quotes";
const COMMENT: &str = "has a # behind a space in its value: put the value into quotes if the # is \
                       part of it, else move the comment to a line of its own";
const CONTROL: &str = "contains a control character or a line separator, which no value can";

/// The variables of a `.env` file, in its order; none without a file. Blocking. Errors name the
/// line and quote nothing of it.
pub(super) fn read(file: &Path) -> Result<Vec<Variable>, ConfigError> {
    let wrong = |line, what| ConfigError(format!(".env, line {line}: the line {what}"));
    let Some(bytes) = read_if_there(file)
        .map_err(|e| ConfigError(format!("cannot read .env: {e}; mend or remove it")))?
    else {
        return Ok(Vec::new());
    };
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        wrong(line, "is not UTF-8: save the file as UTF-8")
    })?;
    parse(text).map_err(|(line, what)| wrong(line, what))
}

/// A file's content; `None` if nothing has its name. A link that leads nowhere is an error: what it
/// stands for was meant to be read.
pub(super) fn read_if_there(file: &Path) -> std::io::Result<Option<Vec<u8>>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !file.is_symlink() => Ok(None),
        Err(e) => Err(e),
    }
}

fn parse(text: &str) -> Result<Vec<Variable>, (usize, &'static str)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    let mut lines = (1..).zip(text.lines());
    while let Some((number, line)) = lines.next() {
        let wrong = |what| (number, what);
        if line.chars().any(breaks_a_line) {
            return Err(wrong(CONTROL));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = name_and_value(line).ok_or(wrong(NOT_A_PAIR))?;
        if is_read_by_flux(name) {
            variables.push((name.to_owned(), Some(literal(value).map_err(wrong)?.to_owned())));
        } else if let Some(quote) = open_quote(value) {
            // Somebody else's value of several lines, such as a certificate.
            let closed = lines
                .by_ref()
                .take_while(|(_, line)| {
                    !name_and_value(line).is_some_and(|(n, _)| is_read_by_flux(n))
                })
                .any(|(_, line)| line.trim_end().ends_with(quote));
            if !closed {
                return Err(wrong(NOT_CLOSED));
            }
        }
    }
    Ok(variables)
}

/// What `str::lines` does not split at, and an editor or another reader may.
fn breaks_a_line(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `NAME=VALUE`, spaces around both allowed, `export` before the name too.
fn name_and_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    (!name.is_empty() && name.chars().all(fits)).then_some((name, value))
}

/// The value without the spaces around it, and without one pair of quotes around that.
fn literal(value: &str) -> Result<&str, &'static str> {
    let trimmed = value.trim();
    if let Some(rest) = trimmed.strip_prefix(QUOTES) {
        let quote = &trimmed[..1];
        return rest.strip_suffix(quote).ok_or(NOT_CLOSED);
    }
    // python-dotenv and docker compose end the value here; a secret would lose its end.
    let mut before = value.chars();
    while let Some(c) = before.next() {
        if c.is_whitespace() && before.as_str().starts_with('#') {
            return Err(COMMENT);
        }
    }
    Ok(trimmed)
}

/// The quote that begins a value and does not occur again on its line.
fn open_quote(value: &str) -> Option<char> {
    let mut rest = value.trim_start().chars();
    let quote = rest.next().filter(|c| QUOTES.contains(c))?;
    (!rest.as_str().contains(quote)).then_some(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(line: &str) -> Result<String, &'static str> {
        let variables = parse(line).map_err(|(_, what)| what)?;
        Ok(variables.into_iter().next().unwrap().1.unwrap())
    }

    #[test]
    fn a_value_is_taken_literally() {
        for (written, read) in [
            ("$ecretOfTheShop", "$ecretOfTheShop"),
            ("pa$sw0rd", "pa$sw0rd"),
            ("${HOME}\\n\\\"", "${HOME}\\n\\\""),
            ("#begins-with-it", "#begins-with-it"),
            ("a#b", "a#b"),
            ("two words", "two words"),
            ("it's", "it's"),
            ("end\"", "end\""),
            (" \t spaces around \t ", "spaces around"),
            ("\" kept \"", " kept "),
            ("'a \"b\" # c'", "a \"b\" # c"),
            ("\"it's $5\"", "it's $5"),
            ("\"\"twice\"\"", "\"twice\""),
            ("a=b=", "a=b="),
            ("", ""),
            ("''", ""),
        ] {
            for line in
                [format!("FLUX_BUY_KEY={written}"), format!("export FLUX_BUY_KEY={written}\r\n")]
            {
                assert_eq!(value(&line).as_deref(), Ok(read), "{line:?}");
            }
        }
    }

    #[test]
    fn name_may_stand_apart_from_its_value() {
        assert_eq!(value("  export\tFLUX_BUY_KEY \t= a b ").as_deref(), Ok("a b"));
        assert_eq!(value("exported=1\nFLUX_BUY_KEY=export A=1").as_deref(), Ok("export A=1"));
    }

    #[test]
    fn what_could_be_shortened_is_refused_with_its_line() {
        for (line, what) in [
            ("FLUX_BUY_KEY=abc # the shop's", COMMENT),
            ("FLUX_BUY_KEY= # none", COMMENT),
            ("FLUX_BUY_KEY=\"abc\" # the shop's", NOT_CLOSED),
            ("FLUX_BUY_KEY=\"abc", NOT_CLOSED),
            ("FLUX_BUY_KEY='", NOT_CLOSED),
            ("FLUX_BUY_KEY='abc\"", NOT_CLOSED),
            ("FLUX_BUY_KEY=a\0b", CONTROL),
            ("A=1\rFLUX_BUY_KEY=abc", CONTROL),
            ("A=1\u{2028}FLUX_BUY_KEY=abc", CONTROL),
            ("FLUX_BUY_KEY", NOT_A_PAIR),
            ("FLUX_BUY_KEY: abc", NOT_A_PAIR),
            ("FLUX BUY_KEY=abc", NOT_A_PAIR),
            ("\u{200b}FLUX_BUY_KEY=abc", NOT_A_PAIR),
            ("=abc", NOT_A_PAIR),
        ] {
            assert_eq!(parse(&format!("# first\n\n{line}\nB=2")), Err((3, what)), "{line:?}");
        }
    }

    #[test]
    fn a_foreign_value_of_several_lines_hides_no_setting() {
        let pem = "\u{feff}KEY=\"-----BEGIN\nabc==\n-----END\"\nNOTE='x' # y\nFLUX_LOG=warn\r\n";
        let read = parse(pem).unwrap();
        assert_eq!(read, [("FLUX_LOG".to_owned(), Some("warn".to_owned()))]);
        let swallowed = "A=1\nNOTE=\"it is 5\nexport FLUX_BUY_KEY=abc\nB=\"x\"";
        assert_eq!(parse(swallowed), Err((2, NOT_CLOSED)));
        assert_eq!(parse("NOTE='it is 5\nB=2"), Err((1, NOT_CLOSED)));
    }
}
