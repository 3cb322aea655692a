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
use super::sight::{Page, Sight, Wish};
use super::view::{Theme, draw};

/// How soon the reader of keys notices that it is no longer wanted.
const LOOK_UP_EVERY: Duration = Duration::from_millis(100);
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
    mut sight: Sight,
    mut feed: Feed,
    theme: Theme,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut screen = Screen::take()?;
    let mut keys = Keys::read();
    let mut tick = tokio::time::interval(DRAW_EVERY);
    loop {
        screen.0.draw(|frame| draw(frame, &sight, &theme))?;
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            news = feed.next() => sight.take(news),
            key = keys.next() => match key {
                // Nobody is there any more.
                None => return Ok(()),
                Some(Pressed::Resized) => {}
                Some(Pressed::Wish(wish)) => if !sight.wish(wish) { return Ok(()) },
            },
            _ = tick.tick() => {}
        }
    }
}

enum Pressed {
    Wish(Wish),
    Resized,
}

/// A thread that reads the terminal's events; it ends soon after this is dropped.
struct Keys {
    pressed: Receiver<Pressed>,
    unwanted: Arc<AtomicBool>,
}

impl Keys {
    fn read() -> Keys {
        let (sender, pressed) = channel(KEYS_WAITING);
        let unwanted = Arc::new(AtomicBool::new(false));
        let over = unwanted.clone();
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                match event::poll(LOOK_UP_EVERY) {
                    Ok(false) => continue,
                    Ok(true) => {}
                    Err(_) => return,
                }
                let pressed = match event::read() {
                    Ok(Event::Key(key)) => wish(key).map(Pressed::Wish),
                    Ok(Event::Resize(..)) => Some(Pressed::Resized),
                    Ok(_) => None,
                    Err(_) => return,
                };
                if pressed.is_some_and(|pressed| sender.blocking_send(pressed).is_err()) {
                    return;
                }
            }
        });
        Keys { pressed, unwanted }
    }

    async fn next(&mut self) -> Option<Pressed> {
        self.pressed.recv().await
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }
}

fn wish(key: KeyEvent) -> Option<Wish> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return (key.code == KeyCode::Char('c')).then_some(Wish::End);
    }
    Some(match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Wish::Leave,
        KeyCode::Char('?') | KeyCode::Char('h') => Wish::Help,
        KeyCode::Tab | KeyCode::Right | KeyCode::Char('l') => Wish::Turn(1),
        KeyCode::BackTab | KeyCode::Left => Wish::Turn(-1),
        KeyCode::Down | KeyCode::Char('j') => Wish::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Wish::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Wish::Scroll(10),
        KeyCode::PageUp => Wish::Scroll(-10),
        KeyCode::Home => Wish::Scroll(isize::MIN),
        KeyCode::End => Wish::Scroll(isize::MAX),
        KeyCode::Char(digit) => {
            let index = (digit.to_digit(10)? as usize).checked_sub(1)?;
            Wish::Page(*Page::ALL.get(index)?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_turn_pages_scroll_help_and_leave() {
        let key = |code| wish(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(key(KeyCode::Char('3')), Some(Wish::Page(Page::Workers)));
        assert_eq!(key(KeyCode::Char('9')), None);
        assert_eq!(key(KeyCode::Tab), Some(Wish::Turn(1)));
        assert_eq!(key(KeyCode::Char('?')), Some(Wish::Help));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(wish(interrupt), Some(Wish::End));
    }
}
