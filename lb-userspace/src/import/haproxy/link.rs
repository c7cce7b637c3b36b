//! Frontends with the backends that they lead to: each such pair is a proxy of the model.

use std::collections::BTreeMap;

use super::{access::Condition, proxy::Proxy, roles::Role};
use crate::{
    config::model::Prefix,
    import::{
        incumbent::{self, Choice, Incumbent, Pool},
        ledger::{Fate, Ledger},
        source::{At, Place},
    },
};

/// As many servers in all proxies together: a backend that many frontends use counts each time.
const MOST_SERVERS: usize = 1 << 16;

/// Where a frontend's connections go.
struct Target<'p> {
    pool: &'p Proxy,
    /// Whom a condition lets through, where it is one of networks.
    allow: Vec<At<Prefix>>,
}

/// Puts all that listens into the model, and says of each section's first line what became of it.
pub fn link(proxies: &[Proxy], into: &mut Incumbent, ledger: &mut Ledger) {
    let (mut fronts, mut backs) = (BTreeMap::new(), BTreeMap::new());
    for proxy in proxies {
        let (name, place) = (proxy.name.value.as_str(), proxy.name.place);
        if name.is_empty() {
            ledger.note(place, Fate::SyntaxError, "", "the section has no name");
            continue;
        }
        let earlier = [(&mut fronts, proxy.sides.front), (&mut backs, proxy.sides.back)]
            .into_iter()
            .filter(|(_, has)| *has)
            .filter_map(|(named, _)| match named.get(name) {
                Some(earlier) => Some(*earlier),
                None => named.insert(name, proxy).and(None),
            })
            .map(|earlier: &Proxy| earlier.name.place.line)
            .next();
        if let Some(line) = earlier {
            ledger.note(
                place,
                Fate::SyntaxError,
                "",
                format!("HAProxy refuses two of this name: see line {line}"),
            );
        }
    }
    let mut room = MOST_SERVERS;
    for proxy in proxies {
        let first = |named: &BTreeMap<&str, &Proxy>| {
            named.get(proxy.name.value.as_str()).is_some_and(|first| std::ptr::eq(*first, proxy))
        };
        if proxy.sides.front && first(&fronts) {
            front(proxy, &backs, into, &mut room, ledger);
        } else if !proxy.sides.front && first(&backs) {
            back(proxy, ledger);
        }
    }
}

fn back(proxy: &Proxy, ledger: &mut Ledger) {
    let (fate, becomes, note) = match proxy.role {
        _ if proxy.settings.disabled.is_some() => (Fate::NotNeeded, "", "it is switched off"),
        Role::Forwards => (Fate::Exact, "service.backend", ""),
        Role::Unused => (Fate::NotNeeded, "", "no frontend uses this backend"),
        Role::Http | Role::Page => {
            (Fate::NotPossible, "", "a backend of HTTP: xvip forwards TCP and does not look into it")
        }
    };
    ledger.note(proxy.name.place, fate, becomes, note);
}

fn front(
    proxy: &Proxy,
    backs: &BTreeMap<&str, &Proxy>,
    into: &mut Incumbent,
    room: &mut usize,
    ledger: &mut Ledger,
) {
    let place = proxy.name.place;
    if proxy.settings.disabled.is_some() {
        ledger.note(place, Fate::NotNeeded, "", "it is switched off");
        return;
    }
    if proxy.settings.http && proxy.settings.page.enabled {
        into.stats.push(incumbent::StatsPage {
            binds: proxy.binds.clone(),
            ..proxy.settings.page.of(proxy.name.clone())
        });
    }
    if proxy.role == Role::Page {
        ledger.note(place, Fate::Exact, "[http]", "");
        return;
    }
    let target = target(proxy, backs, ledger);
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
        return;
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
}

/// Where the connections of a frontend go. A `use_backend` without a condition counts before `default_backend`, and a section
/// with servers of its own is its own backend where there is neither.
fn target<'p>(
    proxy: &'p Proxy,
    backs: &BTreeMap<&str, &'p Proxy>,
    ledger: &mut Ledger,
) -> Option<Target<'p>> {
    let forwards = proxy.role != Role::Http;
    let mut say = |place: Place, fate: Fate, note: &str| {
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
            Some(pool) => found = Some(Target { pool, allow: Vec::new() }),
            None if name.value.contains('%') => {
                say(name.place, Fate::NotPossible, "its name depends on what the client sends");
            }
            None => say(name.place, Fate::SyntaxError, "there is no backend of this name"),
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
            Condition::Always => say(name.place, Fate::Exact, ""),
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
