//! When the output is coloured, and with what.
//!
//! Colour only says again what a word says already: whoever sees none misses nothing.

use std::{
    env,
    io::{self, IsTerminal},
};

use comfy_table::{Attribute, Cell, Color};

/// What a colour means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// Someone should know.
    Warn,
    /// Less important than the rest.
    Dim,
    /// More important than the rest.
    Strong,
}

impl Tone {
    /// Parameters of SGR (ECMA-48 §8.3.117). Only the eight colours that every terminal has, so that the user's own
    /// palette holds.
    const fn sgr(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Bad => "1;31",
            Self::Warn => "33",
            Self::Dim => "2",
            Self::Strong => "1",
        }
    }
}

/// Whether to colour: a value, so that what makes a text can be told, and tested, without a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Colour it.
    On,
    /// Leave it plain.
    Off,
}

impl Colours {
    /// What suits this process's standard output.
    pub fn of_stdout() -> Self {
        Self::of(&io::stdout())
    }

    /// What suits this process's standard error.
    pub fn of_stderr() -> Self {
        Self::of(&io::stderr())
    }

    /// Colour, if it is a terminal that can (`TERM` is not `dumb`), and nobody has said no (`NO_COLOR` is unset or empty,
    /// <https://no-color.org>).
    fn of(stream: &impl IsTerminal) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let wanted = decide(stream.is_terminal(), refused, env::var("TERM").ok().as_deref());
        if wanted { Self::On } else { Self::Off }
    }

    /// A text in a tone.
    pub fn paint(self, text: &str, tone: Tone) -> String {
        match self {
            Self::On => format!("\x1b[{}m{text}\x1b[0m", tone.sgr()),
            Self::Off => text.to_owned(),
        }
    }

    /// A cell of a table in a tone. [`paint`](Self::paint) will not do there: the width of the cell would be wrong.
    pub fn cell(self, text: impl ToString, tone: Tone) -> Cell {
        let cell = Cell::new(text);
        match (self, tone) {
            (Self::Off, _) => cell,
            (Self::On, Tone::Good) => cell.fg(Color::DarkGreen),
            (Self::On, Tone::Bad) => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
            (Self::On, Tone::Warn) => cell.fg(Color::DarkYellow),
            (Self::On, Tone::Dim) => cell.add_attribute(Attribute::Dim),
            (Self::On, Tone::Strong) => cell.add_attribute(Attribute::Bold),
        }
    }
}

/// A text in a tone, where standard output is to be coloured; else the text.
pub fn paint(text: &str, tone: Tone) -> String {
    Colours::of_stdout().paint(text, tone)
}

fn decide(is_terminal: bool, refused: bool, term: Option<&str>) -> bool {
    is_terminal && !refused && term != Some("dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_that_can_and_nobody_against_it() {
        for (is_terminal, refused, term, expected) in [
            (true, false, Some("xterm"), true),
            (true, false, None, true),
            (false, false, Some("xterm"), false),
            (true, true, Some("xterm"), false),
            (true, false, Some("dumb"), false),
        ] {
            assert_eq!(decide(is_terminal, refused, term), expected, "{is_terminal} {refused} {term:?}");
        }
    }

    #[test]
    fn a_painted_text_ends_plain() {
        for tone in [Tone::Good, Tone::Bad, Tone::Warn, Tone::Dim, Tone::Strong] {
            let text = Colours::On.paint("up", tone);
            assert!(text.starts_with("\x1b[") && text.ends_with("mup\x1b[0m"), "{text:?}");
            assert_eq!(Colours::Off.paint("up", tone), "up");
        }
    }
}
