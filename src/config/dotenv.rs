//! The `.env` file: lines of `NAME=VALUE`, read literally.
//!
//! A secret must be read exactly as it was written, so `$NAME`, backslashes and comments after a value
//! are not interpreted. One pair of quotes around the whole value is removed.

use std::path::Path;

use super::ConfigError;
use super::environment::{Variable, is_read_by_flux};

const QUOTES: [char; 2] = ['"', '\''];
const NOT_A_PAIR: &str = "is not NAME=VALUE";
const NOT_CLOSED: &str = "opens a quote that is not closed at its end: close it, or put the value \
                          into the other kind of quotes";
const COMMENT: &str = "has a # after a space in its value: put the value into quotes if the # is part \
                       of it, otherwise move the comment to a line of its own";
const CONTROL: &str = "contains a control character or a line separator, which no value can";

/// Reads the variables of a `.env` file in their order; none if the file does not exist. Blocking. An
/// error names the line and does not quote it.
pub(super) fn read(file: &Path) -> Result<Vec<Variable>, ConfigError> {
    let wrong = |line, why| ConfigError(format!(".env, line {line}: the line {why}"));
    let Some(bytes) = read_if_there(file)
        .map_err(|e| ConfigError(format!("cannot read .env: {e}; repair or remove it")))?
    else {
        return Ok(Vec::new());
    };
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
        wrong(line, "is not UTF-8: save the file as UTF-8")
    })?;
    parse(text).map_err(|(line, why)| wrong(line, why))
}

/// A file's content; `None` if it does not exist. A dangling link is an error, because its target was
/// meant to be read.
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
        let wrong = |why| (number, why);
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
            // A value of several lines for another program, such as a certificate.
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

/// True for characters at which an editor or another program may end a line, but `str::lines` does not.
fn breaks_a_line(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Splits `NAME=VALUE`. Spaces around both and `export` before the name are allowed.
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
    // python-dotenv and docker compose end the value at ` #`, which would truncate a secret.
    let mut rest = value.chars();
    while let Some(c) = rest.next() {
        if c.is_whitespace() && rest.as_str().starts_with('#') {
            return Err(COMMENT);
        }
    }
    Ok(trimmed)
}

/// The quote at the start of a value that is not closed on the same line.
fn open_quote(value: &str) -> Option<char> {
    let mut rest = value.trim_start().chars();
    let quote = rest.next().filter(|c| QUOTES.contains(c))?;
    (!rest.as_str().contains(quote)).then_some(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(line: &str) -> Result<String, &'static str> {
        let variables = parse(line).map_err(|(_, why)| why)?;
        Ok(variables.into_iter().next().unwrap().1.unwrap())
    }

    #[test]
    fn value_is_read_literally() {
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
    fn spaces_around_the_equals_sign_are_allowed() {
        assert_eq!(value("  export\tFLUX_BUY_KEY \t= a b ").as_deref(), Ok("a b"));
        assert_eq!(value("exported=1\nFLUX_BUY_KEY=export A=1").as_deref(), Ok("export A=1"));
    }

    #[test]
    fn ambiguous_line_is_refused_by_number() {
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
    fn multi_line_value_hides_no_setting() {
        let pem = "\u{feff}KEY=\"-----BEGIN\nabc==\n-----END\"\nNOTE='x' # y\nFLUX_LOG=warn\r\n";
        let read = parse(pem).unwrap();
        assert_eq!(read, [("FLUX_LOG".to_owned(), Some("warn".to_owned()))]);
        let swallowed = "A=1\nNOTE=\"it is 5\nexport FLUX_BUY_KEY=abc\nB=\"x\"";
        assert_eq!(parse(swallowed), Err((2, NOT_CLOSED)));
        assert_eq!(parse("NOTE='it is 5\nB=2"), Err((1, NOT_CLOSED)));
    }
}
