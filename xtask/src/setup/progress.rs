//! What setup is doing: a spinner with the latest line on a terminal, every line otherwise.

use std::io::IsTerminal as _;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};

use crate::process::{self, End};

/// How many of a failed command's last lines to show again.
const LAST_WORDS: usize = 15;

/// Where progress is shown.
pub struct Progress {
    /// None where there is no terminal.
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Looks at what our error output is.
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>4} {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
    }

    /// Something begins, and stays on the screen.
    pub fn step(&self, text: &str) {
        self.print(&format!("  .. {text}"));
    }

    /// Something is there.
    pub fn done(&self, text: &str) {
        self.print(&format!("  ok {text}"));
    }

    /// Runs a command that takes long and shows that it goes on.
    ///
    /// # Errors
    /// It could not be started, or failed: its last lines are in the message, unless they were printed anyway.
    pub fn follow(&self, command: &mut Command) -> anyhow::Result<()> {
        let said = shown(command);
        self.step(&said);
        let mut last: Vec<String> = Vec::new();
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        let end = process::follow(command, None, |line| {
            let line = line.trim();
            match &self.bar {
                _ if line.is_empty() => {}
                Some(bar) => {
                    bar.set_message(line.to_owned());
                    last.push(line.to_owned());
                    if last.len() > LAST_WORDS {
                        last.remove(0);
                    }
                }
                None => eprintln!("     | {line}"),
            }
        });
        if let Some(bar) = &self.bar {
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
        match end? {
            end if end.success() => Ok(()),
            End::Exited(status) => bail!("`{said}` failed ({status})\n{}", last.join("\n")),
            End::TimedOut | End::Interrupted => bail!("`{said}` was interrupted"),
        }
    }

    fn print(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
