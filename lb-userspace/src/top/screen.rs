//! The terminal of `xvip top`: taken over for a while, and given back as it was, whatever happens.

use std::{io, thread};

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::DefaultTerminal;
use tokio::sync::mpsc;

use super::state::Key;

/// What the terminal tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// A key was pressed.
    Key(Key),
    /// It has another size.
    Resized,
}

/// The terminal while it is ours. It is given back when this is dropped, and where a thread panics.
#[derive(Debug)]
pub struct Screen {
    /// Where to draw.
    pub terminal: DefaultTerminal,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// It is none, or cannot be set up.
    pub fn take() -> io::Result<Self> {
        Ok(Self { terminal: ratatui::try_init()? })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = ratatui::try_restore();
    }
}

/// What is pressed from now on. The thread that reads ends with the process: it waits in a read that nothing interrupts.
///
/// # Errors
/// There is no thread to be had.
pub fn inputs() -> io::Result<mpsc::Receiver<Input>> {
    let (sender, receiver) = mpsc::channel(16);
    thread::Builder::new().name("keys".to_owned()).spawn(move || {
        while let Ok(event) = event::read() {
            let input = match event {
                Event::Key(event) => key(event).map(Input::Key),
                Event::Resize(..) => Some(Input::Resized),
                _ => None,
            };
            if let Some(input) = input
                && sender.blocking_send(input).is_err()
            {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// What a key means; `None`: nothing.
fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    Some(match event.code {
        KeyCode::Char('c') if event.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(_) if event.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => {
            return None;
        }
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::Read as _,
        os::fd::OwnedFd,
        process::{Command, Stdio},
    };

    use nix::{
        pty::{Winsize, openpty},
        sys::termios::tcgetattr,
    };

    use super::*;

    /// Says that this very test runs on a terminal.
    const ON_TERMINAL: &str = "XVIP_TEST_ON_TERMINAL";

    /// The test runs itself once more, as a program on a terminal, which it takes over and panics.
    #[test]
    fn a_panic_gives_the_terminal_back_before_it_is_told() {
        if std::env::var_os(ON_TERMINAL).is_some() {
            let mut screen = Screen::take().expect("a terminal");
            screen.terminal.draw(|frame| frame.render_widget("taken", frame.area())).expect("drawn");
            // As a thread of `xvip top` would; what it held is dropped after the message.
            panic!("on purpose");
        }
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let before = tcgetattr(&pair.slave).expect("its settings");
        let end = || Stdio::from(OwnedFd::try_clone(&pair.slave).expect("one more"));
        let name = "top::screen::tests::a_panic_gives_the_terminal_back_before_it_is_told";
        let mut again = Command::new("setsid");
        again.args(["--ctty", "--wait"]).arg(std::env::current_exe().expect("this program"));
        again.args(["--exact", name, "--nocapture"]).env(ON_TERMINAL, "1").env("TERM", "xterm-256color");
        let mut child = again.stdin(end()).stdout(end()).stderr(end()).spawn().expect("started");
        drop(again);
        let mut from = File::from(pair.master);
        let reader = thread::spawn(move || {
            let (mut written, mut piece) = (Vec::new(), [0; 4096]);
            // EIO is the end of a terminal.
            while let Ok(count @ 1..) = from.read(&mut piece) {
                written.extend_from_slice(&piece[..count]);
            }
            String::from_utf8_lossy(&written).into_owned()
        });
        assert!(!child.wait().expect("ended").success(), "it panicked");
        let after = tcgetattr(&pair.slave).expect("its settings");
        drop(pair.slave);
        let written = reader.join().expect("read");
        let at = |text: &str| written.find(text).unwrap_or_else(|| panic!("no {text:?} in {written:?}"));
        // The other screen and back.
        assert!(at("\u{1b}[?1049h") < at("taken") && at("taken") < at("\u{1b}[?1049l"), "{written:?}");
        assert!(at("\u{1b}[?1049l") < at("on purpose"), "the message would be gone: {written:?}");
        assert!(written.rfind("\u{1b}[?25h") > written.rfind("\u{1b}[?25l"), "the cursor: {written:?}");
        assert_eq!(after.local_flags, before.local_flags, "lines and echo");
        assert_eq!((after.input_flags, after.output_flags), (before.input_flags, before.output_flags));
    }

    #[test]
    fn keys_mean_what_they_say() {
        let plain = |code| key(KeyEvent::new(code, KeyModifiers::NONE));
        assert_eq!(plain(KeyCode::Char('d')), Some(Key::Char('d')));
        assert_eq!(plain(KeyCode::Esc), Some(Key::Escape));
        assert_eq!(plain(KeyCode::F(1)), None);
        let held = |code, modifiers| key(KeyEvent::new(code, modifiers));
        assert_eq!(held(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Interrupt));
        assert_eq!(held(KeyCode::Char('d'), KeyModifiers::CONTROL), None, "no drain by accident");
        assert_eq!(held(KeyCode::Char('D'), KeyModifiers::SHIFT), Some(Key::Char('D')));
    }
}
