//! `stats` in proxies: the statistics page (HAProxy 2.6's manual, §4.2).

use std::{rc::Rc, time::Duration};

use super::{file::Line, roles::Scribe, units};
use crate::{
    config::model::duration_text,
    import::{
        incumbent::StatsPage,
        ledger::Fate,
        source::{At, Place},
    },
};

/// As many users are imported.
const MOST_USERS: usize = 64;

/// What is said of a page. A section with `stats` lines of its own has nothing of those of its `defaults`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Whether there is one.
    pub enabled: bool,
    own: bool,
    path: Option<At<String>>,
    users: Rc<Vec<At<(String, String)>>>,
    admin: Option<Place>,
    refresh: Option<At<Duration>>,
    hides_version: Option<Place>,
}

/// HAProxy's own path of its page, without what follows the `?`.
pub const DEFAULT_PATH: &str = "/haproxy";

/// A path that xvip's page may have; what follows a `?` does not count.
fn path_of(uri: &str) -> Option<&str> {
    let path = uri.split(['?', ';']).next().unwrap_or_default();
    let path = if path.len() > 1 { path.strip_suffix('/').unwrap_or(path) } else { path };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..");
    let has_segments = path == "/" || path.split('/').skip(1).all(is_segment);
    let is_free = !matches!(path.split('/').nth(1), Some("metrics" | "healthz"));
    (path.starts_with('/') && path.len() <= 128 && path.chars().all(is_plain) && has_segments && is_free)
        .then_some(path)
}

impl Page {
    /// What a section takes from its `defaults`.
    pub fn inherited(&self) -> Self {
        Self { own: false, ..self.clone() }
    }

    /// Reads a `stats` line; `http` is whether its section speaks HTTP.
    pub fn read(&mut self, line: &Line, http: bool, scribe: &mut Scribe<'_>) {
        let place = line.place;
        if !http {
            let note = "without effect: a page needs mode http, and this is mode tcp";
            scribe.always(place, Fate::NotNeeded, "", note);
            return;
        }
        if !self.own {
            *self = Self { own: true, ..Self::default() };
        }
        self.enabled = true;
        match line.word(1) {
            "enable" => scribe.always(place, Fate::Exact, "[http]", ""),
            "uri" => {
                let uri = line.word(2);
                let Some(path) = path_of(uri) else {
                    let note = "xvip's page cannot have this path: letters, digits and / - _ . ~, and neither /metrics nor \
                                /healthz";
                    scribe.always(place, Fate::NotPossible, "", note);
                    return;
                };
                self.path = Some(At::new(path.to_owned(), place));
                let becomes = format!("http.path = {path:?}");
                let (fate, note) = match path == uri {
                    true => (Fate::Exact, ""),
                    false => (Fate::Approximate, "without what follows the path"),
                };
                scribe.always(place, fate, becomes, note);
            }
            "auth" if line.words.len() < 3 => scribe.wrong(place, "`stats auth` takes NAME:PASSWORD"),
            "auth" => {
                // Without a colon the password is empty.
                let (name, password) = line.word(2).split_once(':').unwrap_or((line.word(2), ""));
                let user = At::new((name.to_owned(), password.to_owned()), place);
                Rc::make_mut(&mut self.users).push(user);
                let becomes = format!("http.user.name = {name:?}; http.user.password_hash");
                scribe.always(place, Fate::Improved, becomes, "the password is kept as a hash");
            }
            "admin" => {
                self.admin = Some(place);
                let note =
                    "whoever has logged in may change things; a condition besides that is not imported";
                scribe.always(place, Fate::Approximate, "http.user.role = \"admin\"", note);
            }
            "refresh" => match units::duration(line.word(2)) {
                Some(refresh) => {
                    self.refresh = Some(At::new(refresh, place));
                    let note = format!(
                        "xvip's page follows what happens by itself, not each {}",
                        duration_text(refresh)
                    );
                    scribe.always(place, Fate::Improved, "", note);
                }
                None => scribe.wrong(place, "`stats refresh` takes a time"),
            },
            "hide-version" => {
                self.hides_version = Some(place);
                let note = "whoever has logged in sees the version";
                scribe.always(place, Fate::Approximate, "http.hide_version = true", note);
            }
            "realm" | "show-version" | "scope" | "show-desc" | "show-legends" | "show-node"
            | "show-modules" => {
                scribe.always(place, Fate::NotNeeded, "", "is about how HAProxy's page looks");
            }
            "http-request" => {
                let note = "xvip's page lets in by user and password alone: see [[http.user]]";
                scribe.always(place, Fate::NotPossible, "", note);
            }
            other => scribe.always(place, Fate::Unknown, "", format!("nothing is known of `stats {other}`")),
        }
    }

    /// The page of a section without its listeners.
    pub fn of(&self, name: At<String>) -> StatsPage {
        StatsPage {
            name,
            binds: Vec::new(),
            certificates: Vec::new(),
            path: self.path.clone(),
            users: self.users.iter().take(MOST_USERS).cloned().collect(),
            admin: self.admin,
            refresh: self.refresh.clone(),
            hides_version: self.hides_version,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::path_of;

    #[test]
    fn a_path_is_what_a_browser_and_xvip_agree_on() {
        for (uri, path) in [
            ("/", Some("/")),
            ("/haproxy?stats", Some("/haproxy")),
            ("/haproxy-status", Some("/haproxy-status")),
            ("/a/b/", Some("/a/b")),
            ("/?stats;csv", Some("/")),
            ("", None),
            ("stats", None),
            ("/a//b", None),
            ("/../a", None),
            ("/ä", None),
            ("/a b", None),
            ("/metrics", None),
            ("/healthz/x", None),
            ("/metrics2", Some("/metrics2")),
        ] {
            assert_eq!(path_of(uri), path, "{uri}");
        }
    }
}
