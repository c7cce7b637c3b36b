//! The `global` section (HAProxy 2.6's manual, §3).

use super::{
    file::{Line, Section},
    keywords::{self, global},
    proxy::{self, Globals},
    socket, units,
};
use crate::import::{
    incumbent::Incumbent,
    ledger::{Fate, Ledger},
    source::At,
};

/// Keywords that are read here.
const READ: [&str; 7] = ["log", "maxconn", "ca-base", "crt-base", "stats", "setenv", "presetenv"];

/// Reads a `global` section.
pub fn read(section: &Section, globals: &mut Globals, into: &mut Incumbent, ledger: &mut Ledger) {
    ledger.note(section.head.place, Fate::Exact, "", "");
    for line in &section.lines {
        let at = usize::from(line.word(0) == "no" && line.words.len() > 1);
        directive(line, line.word(at), globals, into, ledger);
    }
}

fn directive(line: &Line, keyword: &str, globals: &mut Globals, into: &mut Incumbent, ledger: &mut Ledger) {
    let place = line.place;
    match keyword {
        "log" if line.words.len() < 3 => {
            ledger.note(place, Fate::SyntaxError, "", "`log` takes a target and a facility");
        }
        "log" => {
            let takes = proxy::takes_connections(line);
            if takes {
                globals.logs.get_or_insert(place);
            }
            let note = if takes {
                "xvip logs to the journal; connections have a log of their own, where a service asks for it"
            } else {
                "xvip logs to the journal; this log takes no connections, for its level is above theirs"
            };
            ledger.note(place, Fate::Approximate, "log.target = \"auto\"", note);
        }
        "maxconn" if line.words.len() < 2 => {
            ledger.note(place, Fate::SyntaxError, "", "`maxconn` takes a number");
        }
        "maxconn" => {
            into.max_connections.get_or_insert(At::new(units::leading_count(line.word(1)), place));
            let note = "the size of the flow table; HAProxy lets further connections wait, xvip has room for more than that";
            ledger.note(place, Fate::Approximate, "flows.max", note);
        }
        "ca-base" => {
            globals.ca_base = (!line.word(1).is_empty()).then(|| line.word(1).to_owned());
            ledger.note(place, Fate::Exact, "", "in front of each ca-file");
        }
        "crt-base" => {
            globals.crt_base = (!line.word(1).is_empty()).then(|| line.word(1).to_owned());
            ledger.note(place, Fate::Exact, "", "in front of each crt of the statistics page");
        }
        "stats" => match line.word(1) {
            "socket" => socket::read(line, into, ledger),
            "timeout" => socket::timeout(line, into, ledger),
            "maxconn" | "bind-process" => {
                ledger.note(place, Fate::NotNeeded, "", "xvip's sockets need no such setting");
            }
            other => ledger.note(place, Fate::Unknown, "", format!("nothing is known of `stats {other}`")),
        },
        "setenv" | "presetenv" => {
            ledger.note(place, Fate::Exact, "", "its value is put in where the variable is used");
        }
        _ => match keywords::find(global::KEYWORDS, keyword) {
            Some(group) => ledger.note(place, group.fate, group.becomes, group.note),
            None => {
                let words = global::KEYWORDS.iter().flat_map(|group| group.words).copied().chain(READ);
                let note = proxy::unknown(keyword, keywords::nearest(words, keyword));
                ledger.note(place, Fate::Unknown, "", note);
            }
        },
    }
}
