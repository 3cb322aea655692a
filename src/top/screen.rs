//! The terminal: its keys, and when it is drawn.

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

/// How soon the reader of keys notices that it is no longer wanted.
const KEY_POLL_PAUSE: Duration = Duration::from_millis(100);
/// The page is drawn so often at least, so that it says how old it is.
const DRAW_EVERY: Duration = Duration::from_secs(1);
const KEYS_WAITING: usize = 64;

/// The terminal as a program's own screen; as it was before when dropped. A panic brings it back
/// before its message is printed.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Screen> {
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
    let mut screen = Screen::take()?;
    let mut keys = KeyReader::read();
    let mut tick = tokio::time::interval(DRAW_EVERY);
    loop {
        screen.0.draw(|frame| draw(frame, &state, &theme))?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = feed.next() => state.update(event),
            key = keys.next() => match key {
                // Nobody is there any more.
                None => return Ok(()),
                Some(Pressed::Resized) => {}
                Some(Pressed::Command(command)) => if !state.apply(command) { return Ok(()) },
            },
            _ = tick.tick() => {}
        }
    }
}

enum Pressed {
    Command(UserCommand),
    Resized,
}

/// A thread that reads the terminal's events; it ends soon after this is dropped.
struct KeyReader {
    pressed: Receiver<Pressed>,
    unwanted: Arc<AtomicBool>,
}

impl KeyReader {
    fn read() -> KeyReader {
        let (sender, pressed) = channel(KEYS_WAITING);
        let unwanted = Arc::new(AtomicBool::new(false));
        let over = unwanted.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(KEY_POLL_PAUSE) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let pressed = match event::read() {
                    Ok(Event::Key(key)) => command(key).map(Pressed::Command),
                    Ok(Event::Resize(..)) => Some(Pressed::Resized),
                    Ok(_) => None,
                    Err(_) => return,
                };
                if pressed.is_some_and(|pressed| sender.blocking_send(pressed).is_err()) {
                    return;
                }
            }
        });
        KeyReader { pressed, unwanted }
    }

    async fn next(&mut self) -> Option<Pressed> {
        self.pressed.recv().await
    }
}

impl Drop for KeyReader {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
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
