//! Server-sent events, as the HTML standard frames them ("Server-sent events", 9.2.6).

/// The longest event that is read; the server's longest, a history, is far below it.
const EVENT_BYTES: usize = 4 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub name: String,
    pub data: String,
}

/// What has come of a stream, and is no whole event yet.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    name: String,
    data: String,
}

/// An event is longer than [`EVENT_BYTES`].
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl EventParser {
    /// The events that these bytes complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Event>, TooLong> {
        let mut events = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() + self.data.len() > EVENT_BYTES {
                return Err(TooLong);
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                // Nothing else of the line goes: its text may end in white space of any kind.
                events.extend(self.take_line(line.trim_end_matches(['\r', '\n'])));
            }
        }
        Ok(events)
    }

    fn take_line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let event = Event {
                name: std::mem::take(&mut self.name),
                data: std::mem::take(&mut self.data),
            };
            return (!event.data.is_empty()).then_some(event);
        }
        // Without a field's name it is a comment, which keeps the connection alive.
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
            let all: Vec<Event> = pieces.flat_map(|piece| parser.take(piece).unwrap()).collect();
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
        let taken: Vec<_> = (0..5).map(|_| parser.take(&piece)).collect();
        assert_eq!(taken.last(), Some(&Err(TooLong)));
    }
}
