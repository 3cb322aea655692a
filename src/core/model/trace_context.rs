//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>): two headers with the trace of a
//! request and the span of its caller.

use std::fmt;

/// The most bytes of an order's `tracestate`, counted as JSON text in the queue's message. Members
/// that do not fit are left out.
const STATE_MAX: usize = 320;
/// If the `tracestate` is too long, members longer than this are left out first, as the
/// specification recommends.
const LONG_MEMBER: usize = 128;
const MEMBERS_MAX: usize = 32;
const SAMPLED: u8 = 1;
/// The known flags: sampled, and random-trace-id of level 2. Others are not passed on.
const FLAGS: u8 = 3;

/// The trace of an order, and the span that is the parent of its next span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub span: u64,
    flags: u8,
    /// Valid `tracestate` of at most [`STATE_MAX`] bytes.
    state: Option<Box<str>>,
}

impl TraceContext {
    /// A new, sampled trace at its first span. `None` if an id is 0, which is invalid.
    pub fn begin(trace: u128, span: u64) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span, flags: SAMPLED, state: None })
    }

    /// Parses the headers. `None` if `traceparent` is invalid. An invalid `tracestate` is left out.
    pub fn parse(traceparent: &[u8], tracestate: Option<&str>) -> Option<Self> {
        let (known, rest) = traceparent.split_at_checked(55)?;
        let [v0, v1, b'-', trace @ .., b'-', f0, f1] = known else { return None };
        let (trace, span) = trace.split_at_checked(33)?;
        let trace = hex(trace.strip_suffix(b"-")?)?;
        let span = hex(span)?;
        match (hex(&[*v0, *v1])?, rest) {
            (0, []) => {}
            (0 | 0xff, _) => return None,
            // Later versions begin with the same four fields.
            (_, [] | [b'-', ..]) => {}
            _ => return None,
        }
        let flags = hex(&[*f0, *f1])? as u8 & FLAGS;
        if trace == 0 || span == 0 {
            return None;
        }
        let state = tracestate.and_then(bounded_state);
        Some(Self { trace, span: span as u64, flags, state })
    }

    /// True if the caller records this trace and asks the callee to record it too.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The same trace at another span. `span` must not be 0.
    pub fn at(&self, span: u64, sampled: bool) -> Self {
        let flags = self.flags & !SAMPLED | if sampled { SAMPLED } else { 0 };
        Self { span, flags, ..self.clone() }
    }

    /// A compact form for a row.
    pub fn to_bytes(&self) -> Vec<u8> {
        let state = self.state.as_deref().unwrap_or_default().as_bytes();
        let trace = self.trace.to_be_bytes();
        let span = self.span.to_be_bytes();
        [trace.as_slice(), &span, &[self.flags], state].concat()
    }

    /// Reads what [`TraceContext::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk()?;
        let (span, rest) = rest.split_first_chunk()?;
        let (flags, state) = rest.split_first()?;
        let context = Self::begin(u128::from_be_bytes(*trace), u64::from_be_bytes(*span))?;
        let state = std::str::from_utf8(state).ok().and_then(bounded_state);
        Some(Self { flags: flags & FLAGS, state, ..context })
    }
}

/// The `traceparent` header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// Parses lower-case hexadecimal digits.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// The members that fit into [`STATE_MAX`], from the left, where the newest are. `None` if there
/// are none, or if any is invalid.
fn bounded_state(state: &str) -> Option<Box<str>> {
    let members: Vec<&str> =
        state.split(',').map(|m| m.trim_matches([' ', '\t'])).filter(|m| !m.is_empty()).collect();
    let key = |member: &str| member.split_once('=').map(|(key, _)| key.to_owned());
    let is_twice = |n: usize| members[..n].iter().any(|before| key(before) == key(members[n]));
    let is_wrong = |n: usize| !is_member(members[n]) || is_twice(n);
    if members.len() > MEMBERS_MAX || (0..members.len()).any(is_wrong) {
        return None;
    }
    let escapes = |m: &str| m.bytes().filter(|b| matches!(b, b'"' | b'\\')).count();
    let cost = |m: &str| m.len() + escapes(m) + 1;
    let is_long = members.iter().map(|m| cost(m)).sum::<usize>() > STATE_MAX;
    let mut room = STATE_MAX;
    let kept = members.into_iter().filter(|m| !is_long || m.len() <= LONG_MEMBER);
    let kept: Vec<&str> = kept
        .take_while(|m| {
            let left = room.checked_sub(cost(m));
            room = left.unwrap_or(0);
            left.is_some()
        })
        .collect();
    (!kept.is_empty()).then(|| kept.join(",").into())
}

/// True for a valid `key=value` by level 2 of the specification.
fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let key_char = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-*/@".contains(&b);
    let value_char = |b: u8| (b' '..=b'~').contains(&b) && b != b'=';
    let begins_well = key.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let fits = key.len() <= 256 && (1..=256).contains(&value.len());
    fits && begins_well && key.bytes().all(key_char) && value.bytes().all(value_char)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(traceparent: &str) -> Option<TraceContext> {
        TraceContext::parse(traceparent.as_bytes(), None)
    }

    fn state(text: &str) -> Option<String> {
        let context = TraceContext::parse(PARENT.as_bytes(), Some(text)).unwrap();
        context.state().map(str::to_owned)
    }

    #[test]
    fn traceparent_round_trips_as_text_and_bytes() {
        let context = TraceContext::parse(PARENT.as_bytes(), Some("a=1, b@c=2")).unwrap();
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span, 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!((context.to_string().as_str(), context.state()), (PARENT, Some("a=1,b@c=2")));
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context.clone()));
        let child = context.at(7, false);
        assert!(child.to_string().ends_with("-0000000000000007-00") && !child.is_sampled());
        assert_eq!(parse(&PARENT.replace("-01", "-fe")).unwrap().to_string()[53..], *"02");
    }

    #[test]
    fn invalid_traceparent_is_none() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let wrong = ["", "00", zero_trace, zero_span, &PARENT[..54], &format!("{PARENT}-")];
        let wrong = wrong.map(str::to_owned).into_iter();
        let changed = [
            ("00-4b", "ff-4b"),
            ("00-4b", "0x-4b"),
            ("4bf9", "4BF9"),
            ("-00f0", "_00f0"),
            ("2b7-01", "2b7 01"),
            ("2b7-01", "2b7-0g"),
            ("4736-", "47361"),
        ];
        for wrong in wrong.chain(changed.map(|(from, to)| PARENT.replacen(from, to, 1))) {
            assert_eq!(parse(&wrong), None, "{wrong}");
        }
        let later = PARENT.replacen("00", "cc", 1);
        assert!(parse(&later).is_some() && parse(&format!("{later}-what-comes-later")).is_some());
        assert_eq!(parse(&format!("{later}.")), None);
    }

    #[test]
    fn tracestate_is_bounded_by_whole_members_and_invalid_ones_are_dropped() {
        let long = format!("a=1,b={},c=3", "x".repeat(200));
        assert_eq!(state(&long).as_ref(), Some(&long));
        let longer = format!("{long},d={},e=5", "y".repeat(120));
        assert_eq!(state(&longer), Some(format!("a=1,c=3,d={},e=5", "y".repeat(120))));
        let quotes = format!("a={},b=2", "\"".repeat(256));
        assert_eq!(state(&quotes).as_deref(), Some("b=2"));
        let many = (0..33).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        for wrong in ["", " , ", "a", "a=", "A=1", "a=1,a=2", "a=b=c", "a=\u{7f}", &many] {
            assert_eq!(state(wrong), None, "{wrong}");
        }
    }
}
