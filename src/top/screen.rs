//! The terminal: reads keys and redraws.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc::{Receiver, channel};
use tokio_util::sync::CancellationToken;

use super::feed::Feed;
use super::state::{AppState, Tab, UserCommand};
use super::view::{Theme, draw};

/// Longest time until the key reader notices that it was dropped.
const KEY_POLL_TIMEOUT: Duration = Duration::from_millis(100);
/// Longest time between two redraws, so that the age of stale data is updated.
const DRAW_INTERVAL: Duration = Duration::from_secs(1);
const KEY_BUFFER: usize = 64;

/// The terminal in alternate screen mode. Restored when dropped; after a panic, before its message
/// is printed.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> io::Result<Screen> {
        ratatui::try_init().map(Screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

pub async fn run(
    mut state: AppState,
    mut feed: Feed,
    theme: Theme,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut screen = Screen::enter()?;
    let mut keys = KeyReader::start();
    let mut redraw = tokio::time::interval(DRAW_INTERVAL);
    loop {
        screen.0.draw(|frame| draw(frame, &state, &theme))?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = feed.next() => state.update(event),
            key = keys.next() => match key {
                // The terminal is closed.
                None => return Ok(()),
                Some(TerminalEvent::Resized) => {}
                Some(TerminalEvent::Command(command)) => {
                    if !state.apply(command) { return Ok(()) }
                }
            },
            _ = redraw.tick() => {}
        }
    }
}

enum TerminalEvent {
    Command(UserCommand),
    Resized,
}

/// A thread that reads the terminal's events. It ends within [`KEY_POLL_TIMEOUT`] after this is
/// dropped.
struct KeyReader {
    events: Receiver<TerminalEvent>,
    stop: Arc<AtomicBool>,
}

impl KeyReader {
    fn start() -> KeyReader {
        let (sender, events) = channel(KEY_BUFFER);
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = stop.clone();
        std::thread::spawn(move || {
            while !is_stopped.load(Ordering::Relaxed) {
                match event::poll(KEY_POLL_TIMEOUT) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let event = match event::read() {
                    Ok(Event::Key(key)) => command(key).map(TerminalEvent::Command),
                    Ok(Event::Resize(..)) => Some(TerminalEvent::Resized),
                    Ok(_) => None,
                    Err(_) => return,
                };
                if event.is_some_and(|event| sender.blocking_send(event).is_err()) {
                    return;
                }
            }
        });
        KeyReader { events, stop }
    }

    async fn next(&mut self) -> Option<TerminalEvent> {
        self.events.recv().await
    }
}

impl Drop for KeyReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn command(key: KeyEvent) -> Option<UserCommand> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(UserCommand::Quit);
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => UserCommand::Back,
        KeyCode::Char('?') | KeyCode::Char('h') => UserCommand::Help,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => UserCommand::MoveTab(1),
        KeyCode::BackTab | KeyCode::Left => UserCommand::MoveTab(-1),
        KeyCode::Down | KeyCode::Char('j') => UserCommand::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => UserCommand::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => UserCommand::Scroll(10),
        KeyCode::PageUp => UserCommand::Scroll(-10),
        KeyCode::Home => UserCommand::Scroll(isize::MIN),
        KeyCode::End => UserCommand::Scroll(isize::MAX),
        KeyCode::Char(digit) => {
            let index = (digit.to_digit(10)? as usize).checked_sub(1)?;
            UserCommand::Tab(*Tab::ALL.get(index)?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_map_to_commands() {
        let key = |code| command(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('3')), Some(UserCommand::Tab(Tab::Workers)));
        assert_eq!(key(KeyCode::Char('9')), None);
        assert_eq!(key(KeyCode::Tab), Some(UserCommand::MoveTab(1)));
        assert_eq!(key(KeyCode::Char('?')), Some(UserCommand::Help));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(command(interrupt), Some(UserCommand::Quit));
    }
}
