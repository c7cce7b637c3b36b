//! `stats socket` and `stats timeout` in `global`: HAProxy's runtime socket (HAProxy 2.6's manual, §3.1 and §5.1).

use super::{file::Line, units};
use crate::{
    config::{
        kinds,
        model::{StatsLevel, duration_text},
    },
    import::{
        incumbent::{Incumbent, StatsSocket},
        ledger::{Fate, Ledger},
        source::At,
    },
};

/// The longest path of a socket, in bytes (unix(7)).
const LONGEST_PATH: usize = 107;

/// Settings of the socket's listener that take a value, and mean nothing to xvip's.
const WITH_VALUE: [&str; 11] = [
    "user",
    "uid",
    "gid",
    "process",
    "thread",
    "nice",
    "backlog",
    "maxconn",
    "name",
    "id",
    "severity-output",
];

/// Reads a `stats socket` line: the first one at a path becomes xvip's.
pub fn read(line: &Line, into: &mut Incumbent, ledger: &mut Ledger) {
    let place = line.place;
    let address = line.word(2);
    if address.is_empty() {
        ledger.note(place, Fate::SyntaxError, "", "`stats socket` takes a path or an address");
        return;
    }
    let path = address.strip_prefix("unix@").unwrap_or(address);
    if !path.starts_with('/') {
        let note = "xvip takes HAProxy's commands at a path alone, not by TCP: whoever reached it there would need no password";
        ledger.note(place, Fate::NotPossible, "", note);
        return;
    }
    if !kinds::is_path(path) || path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
        ledger.note(place, Fate::NotPossible, "", "no socket can have this path");
        return;
    }
    if let Some(first) = &into.stats_socket {
        let note = format!("xvip has one such socket: that of line {}", first.path.place.line);
        ledger.note(place, Fate::NotPossible, "", note);
        return;
    }
    let mut socket =
        StatsSocket { path: At::new(path.to_owned(), place), mode: None, group: None, level: None };
    ledger.note(place, Fate::Exact, format!("stats_socket.path = {path:?}"), "");
    let mut index = 3;
    while index < line.words.len() {
        let (word, at) = (line.word(index), line.place_of(index));
        let value = line.words.get(index + 1).map(|value| value.text.as_str());
        let takes_value = matches!(word, "mode" | "group" | "level") || WITH_VALUE.contains(&word);
        let Some(value) = value.or((!takes_value).then_some("")) else {
            ledger.note(at, Fate::SyntaxError, "", format!("`{word}` has no value"));
            break;
        };
        index += 1 + usize::from(takes_value);
        let becomes = match word {
            "mode" => mode(value).map(|mode| {
                socket.mode = Some(mode);
                format!("stats_socket.mode = \"{mode:03o}\"")
            }),
            "group" => is_group(value).then(|| {
                socket.group = Some(value.to_owned());
                format!("stats_socket.group = {value:?}")
            }),
            "level" => level(value).map(|level| {
                socket.level = Some(level);
                format!("stats_socket.level = {:?}", level.as_str())
            }),
            "expose-fd" => {
                index += 1;
                let note =
                    "hands listeners to the next HAProxy: a restart of xvip needs nothing of that kind";
                ledger.note(at, Fate::NotNeeded, "", note);
                continue;
            }
            _ => {
                let note = "this socket of xvip belongs to the daemon's user, and needs no other setting";
                let known =
                    takes_value || matches!(word, "accept-proxy" | "interface" | "tfo" | "defer-accept");
                let (fate, note) = match known {
                    true => (Fate::NotNeeded, note.to_owned()),
                    false => {
                        (Fate::Unknown, format!("nothing is known of `{word}` on a `stats socket` line"))
                    }
                };
                ledger.note(at, fate, "", note);
                continue;
            }
        };
        match becomes {
            Some(becomes) => ledger.note(at, Fate::Exact, becomes, ""),
            None => ledger.note(at, Fate::SyntaxError, "", format!("`{word}` cannot be {value:?}")),
        }
    }
    into.stats_socket = Some(socket);
}

/// Reads a `stats timeout` line.
pub fn timeout(line: &Line, into: &mut Incumbent, ledger: &mut Ledger) {
    match units::duration(line.word(2)).filter(|time| !time.is_zero()) {
        Some(time) => {
            into.stats_timeout = Some(At::new(time, line.place));
            let becomes = format!("stats_socket.timeout = {:?}", duration_text(time));
            ledger.note(line.place, Fate::Exact, becomes, "");
        }
        None => ledger.note(line.place, Fate::SyntaxError, "", "`stats timeout` takes a time"),
    }
}

fn mode(text: &str) -> Option<u32> {
    let is_octal =
        !text.is_empty() && text.len() <= 8 && text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    is_octal.then(|| u32::from_str_radix(text, 8).ok()).flatten().filter(|mode| *mode <= 0o777)
}

fn is_group(text: &str) -> bool {
    (1..=64).contains(&text.len()) && !text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn level(text: &str) -> Option<StatsLevel> {
    [StatsLevel::User, StatsLevel::Operator, StatsLevel::Admin]
        .into_iter()
        .find(|level| level.as_str() == text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::import::source::{FileId, Source};

    use Fate::{Exact, NotNeeded};

    /// What a `global` section with these lines says, and the fates of its lines' words.
    fn read_lines(lines: &str) -> (Incumbent, Vec<(usize, Fate)>) {
        let source = Source::new("f", format!("global\n{lines}").as_bytes());
        let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
        super::super::read(&source, FileId(0), &mut incumbent, &mut ledger);
        let of_socket = ledger.entries().iter().filter(|entry| entry.place.line > 1);
        (incumbent, of_socket.map(|entry| (entry.place.line, entry.fate)).collect())
    }

    #[test]
    fn the_first_socket_at_a_path_is_xvip_s() {
        let (incumbent, fates) = read_lines(
            " stats socket ipv4@127.0.0.1:9999 level admin\n \
             stats socket unix@/run/haproxy/admin.sock mode 660 level admin expose-fd listeners group haproxy user haproxy\n \
             stats socket /run/other.sock\n stats timeout 2m\n",
        );
        let socket = incumbent.stats_socket.expect("one");
        assert_eq!((socket.path.value.as_str(), socket.path.place.line), ("/run/haproxy/admin.sock", 3));
        assert_eq!((socket.mode, socket.group.as_deref()), (Some(0o660), Some("haproxy")));
        assert_eq!(socket.level, Some(StatsLevel::Admin));
        assert_eq!(incumbent.stats_timeout.map(|timeout| timeout.value), Some(Duration::from_secs(120)));
        let of_line =
            |line| fates.iter().filter(|fate| fate.0 == line).map(|fate| fate.1).collect::<Vec<_>>();
        assert_eq!(of_line(2), [Fate::NotPossible]);
        // Path, mode, level and group; listeners and the user mean nothing.

        assert_eq!(of_line(3), [Exact, Exact, Exact, NotNeeded, Exact, NotNeeded]);
        assert_eq!(of_line(4), [Fate::NotPossible]);
        assert_eq!(of_line(5), [Exact]);
    }

    #[test]
    fn what_it_cannot_be_is_said_and_changes_nothing() {
        for (line, fate) in [
            ("stats socket", Fate::SyntaxError),
            ("stats socket abns@name", Fate::NotPossible),
            ("stats socket /run/../a", Fate::NotPossible),
            ("stats socket /run/a mode 888", Fate::SyntaxError),
            ("stats socket /run/a mode 1777", Fate::SyntaxError),
            ("stats socket /run/a level root", Fate::SyntaxError),
            ("stats socket /run/a mode", Fate::SyntaxError),
            ("stats socket /run/a flubber", Fate::Unknown),
            ("stats timeout soon", Fate::SyntaxError),
        ] {
            let (incumbent, fates) = read_lines(&format!(" {line}\n"));
            assert!(fates.contains(&(2, fate)), "{line}: {fates:?}");
            let socket = incumbent.stats_socket;
            assert_eq!(socket.is_some(), line.contains("/run/a "), "{line}");
            assert!(socket.is_none_or(|socket| socket.mode.is_none() && socket.level.is_none()), "{line}");
        }
        let long = format!(" stats socket /{}\n", "a".repeat(LONGEST_PATH));
        assert_eq!(read_lines(&long).1, [(2, Fate::NotPossible)]);
    }
}
