//! A parser of server-sent events (HTML standard, "Server-sent events", 9.2.6).

/// Longest accepted event. The longest that a server sends, the history, is far below it.
const EVENT_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// Parses a stream piece by piece; keeps the incomplete event at its end.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    name: String,
    data: String,
}

/// The event is longer than [`EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl EventParser {
    /// Parses the next bytes of the stream and returns the events that they complete.
    pub fn parse(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() + self.data.len() > EVENT_BYTES_MAX {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                // Not `trim_end`: the data may end in other white space.
                events.extend(self.parse_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(events)
    }

    fn parse_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = Event {
                name: std::mem::take(&mut self.name),
                data: std::mem::take(&mut self.data),
            };
            return (!event.data.is_empty()).then_some(event);
        }
        // A line that begins with a colon is a comment; servers send them to keep connections open.
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_is_parsed_from_pieces_of_any_size() {
        let stream = ": hello\n\nevent: board\r\nid: 7\ndata: {\"a\":\ndata: 1}\n\ndata: x\u{2028}\n\nevent: cut";
        for size in 1..stream.len() {
            let mut parser = EventParser::default();
            let pieces = stream.as_bytes().chunks(size);
            let all: Vec<Event> = pieces.flat_map(|piece| parser.parse(piece).unwrap()).collect();
            let event =
                |name: &str, data: &str| Event { name: name.to_owned(), data: data.to_owned() };
            assert_eq!(
                all,
                [event("board", "{\"a\":\n1}"), event("", "x\u{2028}")],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn too_long_event_is_refused() {
        let mut parser = EventParser::default();
        let piece = vec![b'x'; 1 << 20];
        let parsed: Vec<_> = (0..5).map(|_| parser.parse(&piece)).collect();
        assert_eq!(parsed.last(), Some(&Err(TooLong)));
    }
}
