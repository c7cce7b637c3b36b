//! The form of a conversation (HAProxy 2.6, management.txt 9.3): what is a command, and what an answer ends with. Pure.
//!
//! A command ends with a line or a `;`, unless a `\` stands before that. Words are separated by blanks, and `\` takes a
//! character's meaning. Each answer ends with an empty line. The connection ends once everything that has come is answered;
//! after `prompt` it goes on until `quit`, and `> ` follows each answer. A line that ends with `<<` is followed by more lines,
//! up to an empty one, which no command of ours wants.

use std::time::Duration;

use crate::config::model::StatsLevel;

/// The longest command, in bytes, as in HAProxy (`tune.bufsize`).
pub(super) const LONGEST: usize = 16 * 1024;
/// More words are left out, as in HAProxy (`MAX_CLI_ARGS`).
const MOST_WORDS: usize = 64;
/// What ends a line that is followed by more.
const PAYLOAD: &[u8] = b"<<";

/// What follows from what was heard until now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: more has to come.
    More,
    /// The words of a command.
    Command(Vec<String>),
    /// A line was taken that is to be followed by others; see [`Conversation::prompt`].
    Payload,
    /// The end: a command that is too long.
    End,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Conversation {
    /// What may be done; only ever lowered.
    pub(super) level: StatsLevel,
    /// Who says nothing for so long is disconnected.
    pub(super) timeout: Duration,
    heard: Vec<u8>,
    /// How much of `heard` is known to have no end of a command.
    seen: usize,
    /// The command that waits for an empty line, and how many bytes have followed it.
    payload: Option<(Vec<String>, usize)>,
    is_interactive: bool,
}

impl Conversation {
    /// One that begins.
    pub(super) fn new(level: StatsLevel, timeout: Duration) -> Self {
        Self { level, timeout, heard: Vec::new(), seen: 0, payload: None, is_interactive: false }
    }

    /// Takes what has come. Never more than [`LONGEST`] is to be given at once.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        self.heard.extend_from_slice(bytes);
    }

    /// What follows from it; to be asked until it says [`Next::More`] or [`Next::End`].
    pub(super) fn next(&mut self) -> Next {
        let end = if self.payload.is_some() { self.line() } else { self.command() };
        let Some(end) = end else {
            let behind = self.payload.as_ref().map_or(0, |(_, bytes)| *bytes);
            return if self.heard.len() + behind >= LONGEST { Next::End } else { Next::More };
        };
        let mut line: Vec<u8> = self.heard.drain(..=end).collect();
        self.seen = 0;
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        match self.payload.take() {
            Some((words, _)) if line.is_empty() => Next::Command(words),
            Some((_, bytes)) if bytes + line.len() >= LONGEST => Next::End,
            Some((words, bytes)) => {
                self.payload = Some((words, bytes + line.len() + 1));
                Next::Payload
            }
            None => match line.strip_suffix(PAYLOAD) {
                Some(command) => {
                    self.payload = Some((words(command), line.len()));
                    Next::Payload
                }
                None => Next::Command(words(&line)),
            },
        }
    }

    /// Where the first line ends.
    fn line(&mut self) -> Option<usize> {
        let end = self.heard[self.seen..].iter().position(|byte| *byte == b'\n').map(|end| self.seen + end);
        self.seen = self.heard.len();
        end
    }

    /// Where the first command ends.
    fn command(&mut self) -> Option<usize> {
        while let Some(byte) = self.heard.get(self.seen) {
            match byte {
                b'\n' | b';' => return Some(self.seen),
                b'\\' if self.seen + 1 == self.heard.len() => return None,
                b'\\' => self.seen += 2,
                _ => self.seen += 1,
            }
        }
        None
    }

    /// `prompt`: begins or ends a conversation in which we wait for the next command.
    pub(super) fn toggle(&mut self) {
        self.is_interactive = !self.is_interactive;
    }

    /// What follows an answer, or a line that others are to follow.
    pub(super) fn prompt(&self) -> &'static str {
        match (self.is_interactive, self.payload.is_some()) {
            (true, true) => "+ ",
            (true, false) => "\n> ",
            (false, true) => "",
            (false, false) => "\n",
        }
    }

    /// Whether everything has been answered, and nobody has asked for more.
    pub(super) fn is_over(&self) -> bool {
        !self.is_interactive && self.payload.is_none() && self.heard.is_empty()
    }
}

/// The words of a line.
fn words(line: &[u8]) -> Vec<String> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\\' => word.get_or_insert_default().extend(bytes.next()),
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words.truncate(MOST_WORDS);
    words.into_iter().map(|word| String::from_utf8_lossy(&word).into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn conversation() -> Conversation {
        Conversation::new(StatsLevel::Admin, Duration::from_secs(10))
    }

    fn command(line: &str) -> Next {
        Next::Command(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn a_command_ends_with_a_line_or_a_semicolon() {
        let mut talk = conversation();
        talk.hear(b"show  info;show\tstat ;;\r\nget we");
        for line in ["show info", "show stat", "", ""] {
            assert!(!talk.is_over());
            assert_eq!(talk.next(), command(line));
        }
        assert_eq!((talk.next(), talk.is_over()), (Next::More, false));
        talk.hear(b"ight a/b\n");
        assert_eq!(talk.next(), command("get weight a/b"));
        assert_eq!((talk.next(), talk.is_over(), talk.prompt()), (Next::More, true, "\n"));
    }

    #[test]
    fn a_backslash_takes_the_meaning_of_what_follows() {
        for (line, expected) in [
            (&b"show a\\ b\\;c\n"[..], &["show", "a b;c"][..]),
            (b"a\\\\b \\n\n", &["a\\b", "n"]),
            (b"a\\\nb\n", &["a\nb"]),
            (b"\xff\xfe\n", &["\u{fffd}\u{fffd}"]),
        ] {
            let mut talk = conversation();
            talk.hear(line);
            assert_eq!(talk.next(), Next::Command(expected.iter().map(|&word| word.to_owned()).collect()));
        }
        let mut talk = conversation();
        talk.hear(b"quit\\");
        assert_eq!(talk.next(), Next::More);
        talk.hear(b"\n\n");
        assert_eq!(talk.next(), Next::Command(vec!["quit\n".to_owned()]));
    }

    #[test]
    fn it_goes_on_after_prompt() {
        let mut talk = conversation();
        talk.hear(b"prompt\n");
        assert_eq!(talk.next(), command("prompt"));
        talk.toggle();
        assert_eq!((talk.is_over(), talk.prompt()), (false, "\n> "));
        talk.toggle();
        assert!(talk.is_over());
    }

    #[test]
    fn what_follows_a_command_is_passed_over_up_to_an_empty_line() {
        let mut talk = conversation();
        talk.hear(b"set ssl cert a.pem <<\nsome;thing\nmore");
        assert_eq!((talk.next(), talk.prompt()), (Next::Payload, ""));
        assert_eq!((talk.next(), talk.next(), talk.is_over()), (Next::Payload, Next::More, false));
        talk.hear(b"\n\nshow info\n");
        assert_eq!((talk.next(), talk.next()), (Next::Payload, command("set ssl cert a.pem")));
        assert_eq!(talk.next(), command("show info"));
        // All that has come is taken, and the empty line has yet to come.
        talk.hear(b"y <<\n");
        assert_eq!((talk.next(), talk.next(), talk.is_over()), (Next::Payload, Next::More, false));
        talk.hear(b"\n");
        assert_eq!((talk.next(), talk.is_over()), (command("y"), true));
        talk.toggle();
        talk.hear(b"x <<\n");
        assert_eq!((talk.next(), talk.prompt()), (Next::Payload, "+ "));
    }

    #[test]
    fn a_command_without_end_ends_it() {
        let mut talk = conversation();
        talk.hear(&[b'a'; LONGEST - 1]);
        assert_eq!(talk.next(), Next::More);
        talk.hear(b"a");
        assert_eq!(talk.next(), Next::End);

        let mut talk = conversation();
        talk.hear(b"x <<\n");
        assert_eq!(talk.next(), Next::Payload);
        let ended = (0..LONGEST).any(|_| {
            talk.hear(b"line after line\n");
            talk.next() == Next::End
        });
        assert!(ended);
    }

    #[test]
    fn more_words_than_haproxy_takes_are_left_out() {
        assert_eq!(words("a ".repeat(1000).as_bytes()).len(), MOST_WORDS);
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_makes_no_difference(
            text in "[ab \\\\;<\n\r]{0,60}",
            cuts in prop::collection::vec(0..60_usize, 0..6),
        ) {
            let whole = everything(&mut conversation(), &[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut parts = Vec::new();
            let mut from = 0;
            for cut in cuts {
                parts.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            parts.push(&text.as_bytes()[from..]);
            prop_assert_eq!(everything(&mut conversation(), &parts), whole);
        }
    }

    fn everything(talk: &mut Conversation, parts: &[&[u8]]) -> Vec<Next> {
        let mut all = Vec::new();
        for part in parts {
            talk.hear(part);
            loop {
                match talk.next() {
                    Next::More => break,
                    next => all.push(next),
                }
            }
        }
        all
    }
}
