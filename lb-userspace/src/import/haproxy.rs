//! haproxy.cfg, as HAProxy 2.6 reads it, with what later versions and old files have besides.
//!
//! ```text
//! text -> words (quotes, escapes, variables) -> file (sections, .if) -> roles (what each section is for)
//!            |                                        |
//!            |   +------------------------------------+
//!            v   v
//!      global, proxy (server, check, access, page) -> link (frontend + backend) -> Incumbent
//! ```
//!
//! Each line is noted in the ledger where it is read; what nobody reads is in the tables of `keywords`. A line that HAProxy
//! would refuse is a syntax error, and the rest is read all the same.

mod access;
mod address;
mod check;
mod file;
mod global;
mod keywords;
mod link;
mod lint;
mod page;
mod proxy;
mod roles;
mod server;
mod socket;
mod units;
mod words;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use lint::lint;
pub use page::DEFAULT_PATH as DEFAULT_PAGE_PATH;

use self::{
    file::{Kind, Section},
    proxy::{Globals, Reader, Settings},
    roles::Scribe,
};
use super::{
    incumbent::Incumbent,
    ledger::{Fate, Ledger},
    source::{FileId, Source},
};

/// Reads a haproxy.cfg into the model, and notes what became of each of its lines.
pub fn read(source: &Source, file: FileId, into: &mut Incumbent, ledger: &mut Ledger) {
    let layout = file::layout(source, file, ledger);
    let roles = roles::roles(&layout.sections);
    let mut globals = Globals { variables: layout.variables, ..Globals::default() };
    let mut defaults = Defaults::default();
    let mut proxies = Vec::new();
    for (section, role) in layout.sections.iter().zip(roles) {
        match section.kind {
            Kind::Global => global::read(section, &mut globals, into, ledger),
            Kind::Defaults => {
                let inherited = defaults.of(section, true, ledger);
                ledger.note(section.head.place, Fate::Exact, "", "");
                let scribe = Scribe { ledger, role };
                let settings = Reader::new(&globals, scribe, None, &inherited).defaults(section);
                defaults.add(section, settings);
            }
            Kind::Proxy(sides) => {
                let inherited = defaults.of(section, false, ledger);
                let mut notes = Ledger::default();
                let scribe = Scribe { ledger: &mut notes, role };
                let proxy = Reader::new(&globals, scribe, Some(sides), &inherited).proxy(section);
                proxies.push((proxy, notes));
            }
            Kind::Other(kind) => other(section, kind, ledger),
        }
    }
    link::link(&proxies, into, ledger);
}

/// Whether a line says nothing: it is empty or a comment.
pub fn is_blank(line: &str) -> bool {
    matches!(words::split(line, &words::Variables::default()), Ok(words) if words.is_empty())
}

/// The `defaults` sections so far.
#[derive(Default)]
struct Defaults {
    last: Settings,
    named: BTreeMap<String, Settings>,
}

impl Defaults {
    /// What a section takes its settings from: what it names, or the last `defaults` before it; `defaults` itself nothing
    /// without a name.
    fn of(&self, section: &Section, is_defaults: bool, ledger: &mut Ledger) -> Settings {
        let head = &section.head;
        let Some(at) = (1..=2).find(|at| head.word(*at) == "from") else {
            return if is_defaults { Settings::default() } else { self.last.clone() };
        };
        match self.named.get(head.word(at + 1)) {
            Some(settings) => settings.clone(),
            None => {
                let note = "there is no `defaults` section of this name before it";
                ledger.note(head.place_of(at + 1), Fate::SyntaxError, "", note);
                Settings::default()
            }
        }
    }

    fn add(&mut self, section: &Section, settings: Settings) {
        if !matches!(section.head.word(1), "" | "from") {
            self.named.insert(section.head.word(1).to_owned(), settings.clone());
        }
        self.last = settings;
    }
}

/// A section that no proxy is made of.
fn other(section: &Section, kind: &keywords::sections::Kind, ledger: &mut Ledger) {
    ledger.note(section.head.place, kind.fate, "", kind.note);
    for line in &section.lines {
        let keyword = line.word(0);
        if kind.keywords.is_empty() || kind.keywords.contains(&keyword) {
            ledger.note(line.place, kind.fate, "", kind.note);
        } else {
            let note = proxy::unknown(keyword, keywords::nearest(kind.keywords.iter().copied(), keyword));
            ledger.note(line.place, Fate::Unknown, "", note);
        }
    }
}
