//! What each section is for, which decides what is said of its lines.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Kind, Section};
use crate::import::{
    ledger::{Fate, Ledger},
    source::Place,
};

/// What a section is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It forwards TCP, or says how.
    #[default]
    Forwards,
    /// It forwards HTTP.
    Http,
    /// It is a statistics page.
    Page,
    /// A backend that no frontend leads to.
    Unused,
}

/// Notes what becomes of a section's lines.
pub struct Scribe<'l> {
    /// Where it is noted.
    pub ledger: &'l mut Ledger,
    /// What the section is for.
    pub role: Role,
}

impl Scribe<'_> {
    /// What becomes of a directive if its section forwards TCP; nothing of the sort, if not.
    pub fn note(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        let imported = matches!(fate, Fate::Exact | Fate::Approximate | Fate::Improved);
        match self.role {
            Role::Http if imported => {
                self.ledger.note(place, Fate::NotPossible, "", "part of an HTTP proxy: xvip forwards TCP");
            }
            Role::Unused if imported || fate == Fate::NotPossible => {
                self.ledger.note(place, Fate::NotNeeded, "", "part of a backend that no frontend uses");
            }
            Role::Page if imported => {
                self.ledger.note(
                    place,
                    Fate::NotNeeded,
                    "",
                    "the statistics page has no connections to forward",
                );
            }
            _ => self.ledger.note(place, fate, becomes, note),
        }
    }

    /// The same whatever the section is for.
    pub fn always(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        self.ledger.note(place, fate, becomes, note);
    }

    /// A line that HAProxy itself would refuse.
    pub fn wrong(&mut self, place: Place, why: impl Into<String>) {
        self.ledger.note(place, Fate::SyntaxError, "", why);
    }
}

/// What a section has, as far as roles depend on it.
#[derive(Clone, Default)]
struct Outline<'f> {
    http: bool,
    page: bool,
    default_target: Option<&'f str>,
    targets: Vec<&'f str>,
    servers: bool,
}

impl<'f> Outline<'f> {
    fn read(&mut self, section: &'f Section) {
        for line in &section.lines {
            match line.word(0) {
                "mode" => self.http = line.word(1) == "http",
                "stats" => self.page = true,
                "default_backend" => self.default_target = Some(line.word(1)),
                "use_backend" if matches!(section.kind, Kind::Proxy(_)) => self.targets.push(line.word(1)),
                "server" | "server-template" | "dispatch" => self.servers = true,
                _ => {}
            }
        }
    }
}

/// The role of each section, in their order.
pub fn roles(sections: &[Section]) -> Vec<Role> {
    let mut named: BTreeMap<&str, Outline<'_>> = BTreeMap::new();
    let mut last = Outline::default();
    let mut outlines = Vec::new();
    for section in sections {
        let from = |index| {
            if section.head.word(index) == "from" { Some(section.head.word(index + 1)) } else { None }
        };
        let parent = from(2).or_else(|| from(1)).and_then(|name| named.get(name));
        let mut outline = match section.kind {
            Kind::Defaults => parent.cloned().unwrap_or_default(),
            _ => parent.unwrap_or(&last).clone(),
        };
        outline.read(section);
        if matches!(section.kind, Kind::Defaults) {
            named.insert(section.head.word(1), outline.clone());
            last = outline.clone();
        }
        outlines.push(outline);
    }
    let mut by_tcp = BTreeSet::new();
    let mut by_http = BTreeSet::new();
    for (section, outline) in sections.iter().zip(&outlines) {
        if matches!(section.kind, Kind::Proxy(sides) if sides.front) {
            let reached = if outline.http { &mut by_http } else { &mut by_tcp };
            reached.extend(outline.default_target.iter().chain(&outline.targets).copied());
        }
    }
    let role = |(section, outline): (&Section, &Outline<'_>)| {
        let name = section.head.word(1);
        match section.kind {
            Kind::Proxy(sides) if sides.front => {
                let forwards = outline.servers && sides.back
                    || outline.default_target.is_some()
                    || !outline.targets.is_empty();
                match (outline.http, outline.page && !forwards) {
                    (true, true) => Role::Page,
                    (true, false) => Role::Http,
                    _ => Role::Forwards,
                }
            }
            Kind::Proxy(_) if by_tcp.contains(name) => Role::Forwards,
            Kind::Proxy(_) if by_http.contains(name) => Role::Http,
            Kind::Proxy(_) => Role::Unused,
            _ => Role::Forwards,
        }
    };
    sections.iter().zip(&outlines).map(role).collect()
}
