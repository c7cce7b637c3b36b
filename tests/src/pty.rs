//! A program on a terminal of our own: what it draws is a screen, and keys can be pressed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::{Netns, NetnsError};
use crate::wait;

/// Why a program could not be run on a terminal.
#[derive(Debug, thiserror::Error)]
pub enum PtyError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// The terminal could not be made, written to or waited for.
    #[error("a terminal: {0}")]
    Io(#[from] io::Error),
    /// Something did not happen in time.
    #[error("{timed_out}; the screen:\n{screen}")]
    TimedOut {
        /// What was waited for.
        timed_out: wait::TimedOut,
        /// What was to be seen instead.
        screen: String,
    },
}

/// What was written to the terminal.
struct Written {
    parser: vt100::Parser,
    bytes: Vec<u8>,
}

/// A program on its terminal. Dropping it kills and reaps it.
pub struct Pty {
    child: Child,
    keys: File,
    written: Arc<Mutex<Written>>,
    reader: Option<thread::JoinHandle<()>>,
}

impl Pty {
    /// Starts a command on a machine, on a terminal with so many columns and rows, which is the one that it controls.
    ///
    /// # Errors
    /// When there is no terminal to be had, or the program cannot be started.
    pub fn start(machine: &Netns, command: &Command, columns: u16, rows: u16) -> Result<Self, PtyError> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).map_err(io::Error::from)?;
        let end = |fd: &OwnedFd| fd.try_clone().map(Stdio::from);
        // A session of its own, with this terminal: whoever asks /dev/tty must not find that of the test.
        let mut on_terminal = Command::new("setsid");
        on_terminal.arg("--ctty").arg("--wait").arg(command.get_program()).args(command.get_args());
        on_terminal.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => on_terminal.env(name, value),
                None => on_terminal.env_remove(name),
            };
        }
        on_terminal.stdin(end(&pair.slave)?).stdout(end(&pair.slave)?).stderr(end(&pair.slave)?);
        let child = machine.spawn(&mut on_terminal)?;
        // The last ones on this side: the reader sees the end when the program has gone.
        drop(on_terminal);
        drop(pair.slave);
        let written = Written { parser: vt100::Parser::new(rows, columns, 1000), bytes: Vec::new() };
        let written = Arc::new(Mutex::new(written));
        let mut from = File::from(pair.master.try_clone()?);
        let to = Arc::clone(&written);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            // EIO is the end of a terminal.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let mut to = to.lock().unwrap_or_else(PoisonError::into_inner);
                to.parser.process(&buffer[..count]);
                to.bytes.extend_from_slice(&buffer[..count]);
            }
        });
        Ok(Self { child, keys: File::from(pair.master), written, reader: Some(reader) })
    }

    /// What is on the screen, without colours: its rows, without blanks at their ends.
    #[must_use]
    pub fn screen(&self) -> String {
        self.with(|written| written.parser.screen().contents())
    }

    /// Whether the program draws on a screen that goes when it goes.
    #[must_use]
    pub fn is_alternate(&self) -> bool {
        self.with(|written| written.parser.screen().alternate_screen())
    }

    /// Whether the cursor is to be seen.
    #[must_use]
    pub fn shows_cursor(&self) -> bool {
        self.with(|written| !written.parser.screen().hide_cursor())
    }

    /// Everything that was written until now, colours included.
    #[must_use]
    pub fn written(&self) -> String {
        self.with(|written| String::from_utf8_lossy(&written.bytes).into_owned())
    }

    fn with<T>(&self, look: impl FnOnce(&Written) -> T) -> T {
        look(&self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Presses keys: what a terminal sends for them.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn press(&mut self, keys: &str) -> Result<(), PtyError> {
        Ok(self.keys.write_all(keys.as_bytes())?)
    }

    /// Waits until the screen is as wanted.
    ///
    /// # Errors
    /// When the limit passes; the error has the screen.
    pub fn wait_screen(
        &self,
        what: &str,
        limit: Duration,
        is_so: impl Fn(&str) -> bool,
    ) -> Result<String, PtyError> {
        let found = wait::value(what, limit, || Some(self.screen()).filter(|screen| is_so(screen)));
        found.map_err(|timed_out| PtyError::TimedOut { timed_out, screen: self.screen() })
    }

    /// Sends a signal to the program.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<(), PtyError> {
        // setsid, which leads no process group, forks: the program is its child, in the session with its own id.
        let of = |id: u32| Pid::from_raw(id.cast_signed());
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let child = std::fs::read_to_string(children)
            .ok()
            .and_then(|ids| ids.split_whitespace().next()?.parse().ok());
        Ok(kill(of(child.unwrap_or(self.child.id())), signal).map_err(io::Error::from)?)
    }

    /// Waits for the end, and for all that was written.
    ///
    /// # Errors
    /// When the limit passes.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus, PtyError> {
        let ended = wait::value("the program to end", limit, || self.child.try_wait().ok().flatten());
        let status = ended.map_err(|timed_out| PtyError::TimedOut { timed_out, screen: self.screen() })?;
        if let Some(reader) = self.reader.take() {
            // It ends with the terminal, and that with the program.
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.signal(Signal::SIGKILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
