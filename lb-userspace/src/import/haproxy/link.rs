//! Frontends with the backends that they lead to: each such pair is a proxy of the model.

use std::collections::{BTreeMap, BTreeSet};

use super::{access::Condition, proxy::Proxy, roles::Role};
use crate::{
    config::model::Prefix,
    import::{
        incumbent::{self, Choice, Incumbent, Pool},
        ledger::{Fate, Ledger},
        source::{At, Place},
    },
};

/// As many servers in all proxies together, more than xvip has room for: a backend that many frontends use counts each time.
const MOST_SERVERS: usize = 1 << 13;

/// Where a frontend's connections go.
struct Target<'p> {
    pool: &'p Proxy,
    /// Whom a condition lets through, where it is one of networks.
    allow: Vec<At<Prefix>>,
}

/// What became of a section as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its lines are as they were noted.
    Taken,
    /// It is not imported, although it forwards.
    Refused,
    /// Nothing is lost without it.
    Idle,
}

/// Puts all that listens into the model, says of each section's first line what became of it, and hands on what its reader
/// has noted of the others.
pub fn link(proxies: &[(Proxy, Ledger)], into: &mut Incumbent, ledger: &mut Ledger) {
    let (mut fronts, mut backs) = (BTreeMap::new(), BTreeMap::new());
    let mut outcomes = vec![None; proxies.len()];
    for ((proxy, _), outcome) in proxies.iter().zip(&mut outcomes) {
        if let Some(why) = misnamed(proxy, &mut fronts, &mut backs) {
            ledger.note(proxy.name.place, Fate::SyntaxError, "", why);
            *outcome = Some(Outcome::Refused);
        } else if proxy.settings.disabled.is_some() {
            ledger.note(proxy.name.place, Fate::NotNeeded, "", "it is switched off");
            *outcome = Some(Outcome::Idle);
        }
    }
    let mut room = MOST_SERVERS;
    let mut used = BTreeSet::new();
    for ((proxy, _), outcome) in proxies.iter().zip(&mut outcomes) {
        if proxy.sides.front && outcome.is_none() {
            let pool = front(proxy, &backs, into, &mut room, ledger);
            let taken = pool.is_some() || proxy.role != Role::Forwards;
            *outcome = Some(if taken { Outcome::Taken } else { Outcome::Refused });
            used.extend(pool.map(|pool| pool.name.place));
        }
    }
    for ((proxy, notes), outcome) in proxies.iter().zip(outcomes) {
        let outcome = outcome.unwrap_or_else(|| back(proxy, used.contains(&proxy.name.place), ledger));
        if proxy.sides.front && !linked(proxy, &fronts) || proxy.settings.disabled.is_some() {
            skip(proxy, ledger);
        }
        hand_on(notes, outcome, proxy.name.place.line, ledger);
    }
}

/// Why HAProxy would refuse a section for its name.
fn misnamed<'p>(
    proxy: &'p Proxy,
    fronts: &mut BTreeMap<&'p str, &'p Proxy>,
    backs: &mut BTreeMap<&'p str, &'p Proxy>,
) -> Option<String> {
    let name = proxy.name.value.as_str();
    if name.is_empty() {
        return Some("the section has no name".to_owned());
    }
    let earlier = |named: &BTreeMap<&str, &Proxy>, has: bool| {
        named.get(name).filter(|_| has).map(|earlier| earlier.name.place.line)
    };
    if let Some(line) = earlier(fronts, proxy.sides.front).or_else(|| earlier(backs, proxy.sides.back)) {
        return Some(format!("HAProxy refuses two of this name: see line {line}"));
    }
    if proxy.sides.front {
        fronts.insert(name, proxy);
    }
    if proxy.sides.back {
        backs.insert(name, proxy);
    }
    None
}

fn linked(proxy: &Proxy, fronts: &BTreeMap<&str, &Proxy>) -> bool {
    fronts.get(proxy.name.value.as_str()).is_some_and(|linked| std::ptr::eq(*linked, proxy))
}

/// What is said of the lines of a frontend whose target was never looked for.
fn skip(proxy: &Proxy, ledger: &mut Ledger) {
    let section = proxy.name.place.line;
    let names = proxy.uses.iter().map(|(name, _)| name).chain(&proxy.settings.default_backend);
    for name in names.filter(|name| name.place.line > section) {
        ledger.note(
            name.place,
            Fate::NotNeeded,
            "",
            format!("its section is not imported: see line {section}"),
        );
    }
}

/// What was noted of a section's lines, in the light of what became of it as a whole.
fn hand_on(notes: &Ledger, outcome: Outcome, line: usize, ledger: &mut Ledger) {
    for entry in notes.entries() {
        let imported = matches!(entry.fate, Fate::Exact | Fate::Approximate | Fate::Improved);
        let fate = match outcome {
            Outcome::Refused if imported => Fate::NotPossible,
            Outcome::Idle if imported || entry.fate == Fate::NotPossible => Fate::NotNeeded,
            _ => {
                ledger.note(entry.place, entry.fate, entry.becomes.clone(), entry.note.clone());
                continue;
            }
        };
        ledger.note(entry.place, fate, "", format!("its section is not imported: see line {line}"));
    }
    if outcome == Outcome::Taken {
        notes.findings().iter().for_each(|finding| ledger.find(finding.clone()));
    }
}

fn back(proxy: &Proxy, used: bool, ledger: &mut Ledger) -> Outcome {
    let (outcome, fate, becomes, note) = match proxy.role {
        Role::Forwards if used => (Outcome::Taken, Fate::Exact, "service.backend", ""),
        Role::Forwards => {
            (Outcome::Idle, Fate::NotNeeded, "", "no frontend that is imported uses this backend")
        }
        Role::Unused => (Outcome::Idle, Fate::NotNeeded, "", "no frontend uses this backend"),
        Role::Http | Role::Page => (
            Outcome::Taken,
            Fate::NotPossible,
            "",
            "a backend of HTTP: xvip forwards TCP and does not look into it",
        ),
    };
    ledger.note(proxy.name.place, fate, becomes, note);
    outcome
}

/// Puts a frontend into the model; where its connections go, if it forwards any.
fn front<'p>(
    proxy: &'p Proxy,
    backs: &BTreeMap<&str, &'p Proxy>,
    into: &mut Incumbent,
    room: &mut usize,
    ledger: &mut Ledger,
) -> Option<&'p Proxy> {
    let place = proxy.name.place;
    if proxy.settings.http && proxy.settings.page.enabled {
        into.stats.push(incumbent::StatsPage {
            binds: proxy.binds.clone(),
            certificates: proxy.certificates.clone(),
            ..proxy.settings.page.of(proxy.name.clone())
        });
    }
    let target = target(proxy, backs, ledger);
    if proxy.role == Role::Page {
        ledger.note(place, Fate::Exact, "[http]", "");
        return None;
    }
    if proxy.role == Role::Http {
        let note = "a proxy of HTTP: xvip forwards TCP and does not look into it";
        ledger.note(place, Fate::NotPossible, "", note);
    }
    let why_not = match &target {
        _ if proxy.binds.is_empty() => Some("it listens nowhere that xvip can forward from"),
        None => Some("it leads to no backend that xvip can forward to"),
        Some(target) if target.pool.settings.disabled.is_some() => Some("its backend is switched off"),
        Some(target) if target.pool.servers.is_empty() => {
            Some("its backend has no server that xvip can forward to")
        }
        Some(target) if target.pool.servers.len() > *room => {
            Some("there are more servers in this file than can be imported")
        }
        Some(_) => None,
    };
    let (Some(target), None) = (target, why_not) else {
        if proxy.role != Role::Http {
            ledger.note(place, Fate::NotPossible, "", why_not.unwrap_or_default());
        }
        return None;
    };
    *room -= target.pool.servers.len();
    if proxy.role != Role::Http {
        ledger.note(place, Fate::Exact, format!("service.name = {:?}", proxy.name.value), "");
    }
    let settings = &proxy.settings;
    let mut allow = proxy.allow.clone();
    if allow.is_empty() {
        allow = target.allow;
    }
    into.proxies.push(incumbent::Proxy {
        name: proxy.name.clone(),
        binds: proxy.binds.clone(),
        http: settings.http,
        allow,
        max_connections: settings.max_connections.clone(),
        client_timeout: settings.client_timeout.clone(),
        logs_connections: settings.logs.map(|log| settings.log_form.unwrap_or(log)),
        skips_empty: settings.skips_empty,
        pool: pool(target.pool, proxy, ledger),
    });
    Some(target.pool)
}

/// Where the connections of a frontend go. A `use_backend` without a condition counts before `default_backend`, and a section
/// with servers of its own is its own backend where there is neither.
fn target<'p>(
    proxy: &'p Proxy,
    backs: &BTreeMap<&str, &'p Proxy>,
    ledger: &mut Ledger,
) -> Option<Target<'p>> {
    let forwards = proxy.role != Role::Http;
    let section = proxy.name.place.line;
    let mut say = |place: Place, fate: Fate, note: &str| {
        // What stands in `defaults` was noted there.
        if place.line < section && fate != Fate::SyntaxError {
            return;
        }
        let (fate, note) = match fate {
            Fate::Exact | Fate::Approximate if !forwards => {
                (Fate::NotPossible, "part of an HTTP proxy: xvip forwards TCP")
            }
            _ => (fate, note),
        };
        let becomes = if matches!(fate, Fate::Exact | Fate::Approximate) { "service.backend" } else { "" };
        ledger.note(place, fate, becomes, note);
    };
    let always = proxy.uses.iter().position(|(_, condition)| *condition == Condition::Always);
    let otherwise = match (always, &proxy.settings.default_backend) {
        (Some(index), _) => Some(&proxy.uses[index].0),
        (None, Some(name)) => Some(name),
        (None, None) => None,
    };
    let own = proxy.sides.back && !proxy.servers.is_empty();
    let mut found = None;
    if let Some(name) = otherwise {
        match backs.get(name.value.as_str()) {
            Some(pool) => {
                found = Some(Target { pool, allow: Vec::new() });
                say(name.place, Fate::Exact, "");
            }
            None if name.value.contains('%') => {
                say(name.place, Fate::NotPossible, "its name depends on what the client sends");
            }
            None => say(name.place, Fate::SyntaxError, "there is no backend of this name"),
        }
        if let (Some(index), Some(other)) = (always, &proxy.settings.default_backend) {
            let note = format!("the `use_backend` in line {} decides", proxy.uses[index].0.place.line);
            say(other.place, Fate::NotNeeded, &note);
        }
    } else if own {
        found = Some(Target { pool: proxy, allow: Vec::new() });
    }
    let first = proxy.uses.first().map(|(name, _)| name.value.as_str());
    let one_name = proxy.uses.iter().all(|(name, _)| Some(name.value.as_str()) == first);
    let has_other = otherwise.is_some() || own;
    for (index, (name, condition)) in proxy.uses.iter().enumerate() {
        match condition {
            _ if always.is_some_and(|always| index > always) => {
                say(name.place, Fate::NotNeeded, "a line before it has decided");
            }
            // What decides is noted above.
            Condition::Always => {}
            _ if has_other => {
                let note = "xvip does not look at what a connection asks for: all go where those go that meet no condition";
                say(name.place, Fate::NotPossible, note);
            }
            _ if !one_name || name.value.contains('%') => {
                let note = "xvip does not look at what a connection asks for; give each of these backends a VIP or a port of its own";
                say(name.place, Fate::NotPossible, note);
            }
            _ => {
                let Some(pool) = backs.get(name.value.as_str()) else {
                    say(name.place, Fate::SyntaxError, "there is no backend of this name");
                    continue;
                };
                let target = found.get_or_insert(Target { pool, allow: Vec::new() });
                match condition {
                    Condition::From(networks) if proxy.uses.len() == 1 => {
                        say(name.place, Fate::Exact, "who may connect goes to service.allow");
                        target.allow = networks.iter().map(|network| At::new(*network, name.place)).collect();
                    }
                    _ => {
                        let note =
                            "without the condition: all connections go there, which xvip does not look into";
                        say(name.place, Fate::Approximate, note);
                    }
                }
            }
        }
    }
    found
}

fn pool(back: &Proxy, front: &Proxy, ledger: &mut Ledger) -> Pool {
    let settings = &back.settings;
    let checked = back.servers.iter().find(|server| server.settings.checked.is_some());
    let listens = front.binds.first().map(|bind| bind.value.port);
    let mut servers = Vec::with_capacity(back.servers.len());
    for server in &back.servers {
        match server.behind(listens) {
            Some(server) => servers.push(server),
            None => {
                let note = format!("its port would be none, behind that of {}", front.name.value);
                ledger.note(server.place(), Fate::NotPossible, "", note);
            }
        }
    }
    Pool {
        name: back.name.clone(),
        http: settings.http,
        balance: settings.balance.clone().unwrap_or(At::new(Choice::RoundRobin, back.name.place)),
        check: settings.checks.outcome(checked.map(|server| &server.settings), back.name.place),
        connect_timeout: settings.connect_timeout.clone(),
        server_timeout: settings.server_timeout.clone(),
        tunnel_timeout: settings.tunnel_timeout.clone(),
        check_timeout: settings.check_timeout.clone(),
        resets_when_down: back.servers.iter().any(|server| server.settings.resets_when_down),
        servers,
    }
}
