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
