//! `xvip explain`: what is so of one thing now, why, and how it came to that. Pure.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Event, Kind, Severity,
    event::{duration, milliseconds},
};
use crate::{
    config::model::{Backend, Config, Service, VrrpInstance},
    desired::vips_of,
    status::{BackendStatus, ServiceStatus, Status, VrrpStatus},
};

/// What there is to say about a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    /// What was asked about.
    pub name: String,
    /// `up`, or `down` where no daemon answers: then all this is what its last words were.
    pub daemon: String,
    /// What of that is to be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Whom the name means: a backend of each service that has it, a service, a VRRP instance with its VIPs.
    pub subjects: Vec<Subject>,
}

/// One thing that is explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subject {
    /// `backend`, `service`, `vrrp`, or `other`: what the configuration does not have, but had.
    pub kind: String,
    /// What it is, in words.
    pub title: String,
    /// What is so now, and why: sentences.
    pub now: Vec<String>,
    /// The time line, oldest first.
    pub events: Vec<Event>,
}

/// What is known.
#[derive(Clone, Copy, Debug)]
pub struct Knowledge<'a> {
    /// The configuration in the file.
    pub config: &'a Config,
    /// What the daemon says; `None` while there is none.
    pub status: Option<&'a Status>,
    /// All that has happened, oldest first.
    pub events: &'a [Event],
    /// Now.
    pub now: SystemTime,
    /// Nothing of the time line that is older.
    pub since: Option<Duration>,
}

/// A name of nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing is called {name:?}; there are {known}")]
pub struct UnknownName {
    /// The name.
    pub name: String,
    /// Those that there are.
    pub known: String,
}

/// Explains whatever `name` means.
///
/// # Errors
/// Nobody has that name, neither in the configuration nor in what is remembered.
pub fn explain(name: &str, known: &Knowledge<'_>) -> Result<Explanation, UnknownName> {
    let address = name.split('/').next().and_then(|address| address.parse::<IpAddr>().ok());
    // As events have it: without prefix length, in the usual form.
    let plain = address.map_or_else(|| name.to_owned(), |address| address.to_string());
    let mut subjects = Vec::new();
    for service in &known.config.services {
        for backend in &service.backends {
            let is_meant = backend.name == name
                || backend.address.to_string() == name
                || Some(backend.address.ip()) == address;
            if is_meant {
                subjects.push(known.backend(service, backend));
            }
        }
    }
    for instance in &known.config.vrrp {
        let has_vip = || vips_of(known.config, &instance.name).iter().any(|(vip, _)| Some(*vip) == address);
        if instance.name == name || has_vip() {
            subjects.push(known.instance(instance));
        }
    }
    for service in &known.config.services {
        let has_vip = service.vrrp.is_none() && Some(service.vip.address) == address;
        if service.name == name || has_vip {
            subjects.push(known.service(service));
        }
    }
    if subjects.is_empty() {
        let events = known.line(|event| event.concerns(&plain));
        if events.is_empty() {
            return Err(known.nobody(name));
        }
        subjects.push(Subject {
            kind: "other".to_owned(),
            title: name.to_owned(),
            now: vec!["The configuration has nothing of this name.".to_owned()],
            events,
        });
    }
    let daemon = if known.status.is_some() { "up" } else { "down" };
    let note = known.status.is_none().then(|| known.last_word());
    Ok(Explanation { name: name.to_owned(), daemon: daemon.to_owned(), note, subjects })
}

impl Knowledge<'_> {
    fn nobody(&self, name: &str) -> UnknownName {
        let mut known: Vec<String> = Vec::new();
        for service in &self.config.services {
            known.extend(service.backends.iter().map(|backend| format!("backend {}", backend.name)));
            known.push(format!("service {}", service.name));
            known.push(format!("VIP {}", service.vip.address));
        }
        known.extend(self.config.vrrp.iter().map(|instance| format!("VRRP instance {}", instance.name)));
        known.sort();
        known.dedup();
        UnknownName { name: name.to_owned(), known: known.join(", ") }
    }

    /// The events that are wanted, and with them when the daemon came and went, which explains gaps.
    fn line(&self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let oldest = self.since.and_then(|since| self.now.checked_sub(since));
        let is_recent = |event: &&Event| oldest.is_none_or(|oldest| event.at >= oldest);
        let mut events: Vec<Event> = (self.events.iter().filter(is_recent))
            .filter(|event| wanted(event) || matches!(event.kind, Kind::Daemon | Kind::Reload))
            .cloned()
            .collect();
        if !events.iter().any(wanted) {
            events.clear();
        }
        events.sort_by_key(|event| event.at);
        events
    }

    /// How the daemon ended, as far as it has told.
    fn last_word(&self) -> String {
        match self.events.last() {
            None => "The daemon does not run, and has left no history.".to_owned(),
            Some(last) => {
                let ended = match (last.kind, last.to.as_deref()) {
                    (Kind::Daemon, Some("stopped")) => "It was stopped",
                    (Kind::Daemon, Some("left")) => "It left to a successor, which has told nothing,",
                    _ => "It ended without a word; the last one before that was",
                };
                format!(
                    "The daemon does not run: what follows is what was so last. {ended} {}.",
                    self.when(last.at)
                )
            }
        }
    }

    /// `2026-11-22 14:03:11 UTC, 2 min 5 s ago`
    fn when(&self, at: SystemTime) -> String {
        let ago = self.now.duration_since(at).unwrap_or_default();
        let ago = match ago.as_secs() {
            seconds @ 0..10 => format!("{seconds} s"),
            _ => duration(milliseconds(ago)),
        };
        format!("{}, {ago} ago", date_and_time(at))
    }

    fn when_text(&self, text: &str) -> String {
        humantime::parse_rfc3339(text).map_or_else(|_| text.to_owned(), |at| self.when(at))
    }

    fn backend(&self, service: &Service, backend: &Backend) -> Subject {
        let is_its = |event: &Event| {
            event.service.as_ref() == Some(&service.name)
                && (event.name == backend.name
                    || event.address.as_deref() == Some(&backend.address.to_string()))
        };
        let status = self.status.and_then(|status| {
            let service = status.services.iter().find(|known| known.name == service.name)?;
            Some((service, service.backends.iter().find(|known| known.name == backend.name)?))
        });
        let now = match status {
            Some((of, status)) => self.backend_now(of, status),
            None => match self.events.iter().rfind(|event| is_its(event) && event.kind == Kind::Backend) {
                Some(last) => vec![format!(
                    "It was {} since {}{}.",
                    last.to.as_deref().unwrap_or("unknown"),
                    self.when(last.at),
                    because(last.reason.as_deref().unwrap_or_default())
                )],
                None => vec!["Nothing is known of it.".to_owned()],
            },
        };
        Subject {
            kind: "backend".to_owned(),
            title: format!("backend {} of {} ({})", backend.name, service.name, backend.address),
            now,
            events: self.line(is_its),
        }
    }

    fn backend_now(&self, service: &ServiceStatus, backend: &BackendStatus) -> Vec<String> {
        let mut now = Vec::new();
        let down =
            backend.down.as_ref().map_or_else(String::new, |down| format!(" ({})", down.replace('-', " ")));
        let since = self.when_text(&backend.since);
        now.push(format!("It is {}{down} since {since}{}.", backend.state, because(&backend.reason)));
        let mut why_none = Vec::new();
        if let Some(admin) = &backend.admin {
            let what = if admin.state == "drain" { "drained" } else { "disabled" };
            why_none.push(format!("{} has {what} it, {}", admin.by, self.when_text(&admin.at)));
        }
        if backend.state != "up" {
            why_none.push(format!("it is {}", backend.state));
        }
        if backend.effective_weight == 0 && backend.admin.is_none() {
            why_none.push("its weight is 0".to_owned());
        }
        if backend.next_hop.is_none() && !backend.local {
            why_none.push("its Ethernet address is not known".to_owned());
        }
        if backend.share > 0.0 {
            let mut gets = format!("It gets {:.1} % of the new connections", 100.0 * backend.share);
            if backend.state != "up" {
                gets.push_str(", since no backend is up and `on_all_down` says so");
            } else if backend.effective_weight < backend.weight {
                let (now, whole) = (backend.effective_weight, backend.weight);
                gets.push_str(&format!(": its weight is {now} of {whole} for now (slow start)"));
            }
            now.push(format!("{gets}."));
        } else if why_none.is_empty() {
            now.push("It gets no new connections.".to_owned());
        } else {
            now.push(format!("It gets no new connections: {}.", why_none.join(", and ")));
        }
        if let Some(said) = &backend.weight_override {
            now.push(format!(
                "{} has given it the weight {}, {}.",
                said.by,
                said.weight,
                self.when_text(&said.at)
            ));
        }
        let flows = &backend.flows;
        now.push(format!(
            "It has {} connections at {}:{}.",
            flows.active,
            bracketed(&service.vip),
            service.port
        ));
        let resets: Vec<String> = backend
            .resets
            .iter()
            .map(|(why, count)| format!("{count} ({})", why.replace('-', " ")))
            .collect();
        if !resets.is_empty() {
            now.push(format!("Reset since the daemon was started: {}.", resets.join(", ")));
        }
        now
    }

    fn service(&self, service: &Service) -> Subject {
        let status =
            self.status.and_then(|status| status.services.iter().find(|known| known.name == service.name));
        let mut now = Vec::new();
        if let Some(status) = status {
            let gets = |backend: &&BackendStatus| backend.share > 0.0;
            let all = status.backends.len();
            let names: Vec<&str> =
                status.backends.iter().filter(gets).map(|backend| backend.name.as_str()).collect();
            now.push(match names.as_slice() {
                [] => format!("None of its {all} backends gets new connections: clients get a RST."),
                some => {
                    format!("{} of its {all} backends get new connections: {}.", some.len(), some.join(", "))
                }
            });
            for backend in status.backends.iter().filter(|backend| backend.share == 0.0) {
                let why = match &backend.admin {
                    Some(admin) => format!("{} has taken it out ({})", admin.by, admin.state),
                    None if backend.state == "up" => {
                        "it is up, and weight or next hop keep it out".to_owned()
                    }
                    None => format!(
                        "{} since {}{}",
                        backend.state,
                        self.when_text(&backend.since),
                        because(&backend.reason)
                    ),
                };
                now.push(format!("{} gets none: {why}.", backend.name));
            }
        }
        if let Some(instance) = &service.vrrp {
            now.extend(self.whereabouts(instance).into_iter().take(1));
        }
        Subject {
            kind: "service".to_owned(),
            title: format!(
                "service {} at {}:{}",
                service.name,
                bracketed(&service.vip.address.to_string()),
                service.port
            ),
            now,
            events: self.line(|event| {
                event.service.as_ref() == Some(&service.name)
                    || (service.vrrp.is_some() && event.instance == service.vrrp)
            }),
        }
    }

    fn instance(&self, instance: &VrrpInstance) -> Subject {
        let vips = vips_of(self.config, &instance.name);
        let vips: Vec<String> = vips.iter().map(|(vip, prefix)| format!("{vip}/{prefix}")).collect();
        Subject {
            kind: "vrrp".to_owned(),
            title: format!("VIP {} of VRRP instance {}", vips.join(", "), instance.name),
            now: self.whereabouts(&instance.name),
            events: self.line(|event| {
                event.instance.as_ref() == Some(&instance.name)
                    || (event.kind == Kind::Problem && event.instance.is_none())
            }),
        }
    }

    /// Where the VIPs of an instance are, and why.
    fn whereabouts(&self, instance: &str) -> Vec<String> {
        let Some(status) = self.status else {
            let last = self
                .events
                .iter()
                .rfind(|event| event.kind == Kind::Vrrp && event.instance.as_deref() == Some(instance));
            return vec![match last {
                Some(last) => format!(
                    "VRRP instance {instance} was {} since {}{}.",
                    last.to.as_deref().unwrap_or("unknown"),
                    self.when(last.at),
                    because(last.reason.as_deref().unwrap_or_default())
                ),
                None => format!("Nothing is known of VRRP instance {instance}."),
            }];
        };
        let Some(vrrp) = status.vrrp.iter().find(|vrrp| vrrp.name == instance) else { return Vec::new() };
        let mut now = vec![self.owner(vrrp)];
        if vrrp.released {
            now.push(
                "It was released: any other node may have the VIP, until `xvip vip acquire`.".to_owned(),
            );
        }
        if let Some(blocked) = &vrrp.blocked {
            now.push(format!("It hears nobody, and yet does not take over: {blocked}."));
        }
        for track in vrrp.tracks.iter().filter(|track| track.state == "down") {
            now.push(format!(
                "{} is down since {}{}.",
                track.name,
                self.when_text(&track.since),
                because(&track.reason)
            ));
        }
        now.extend(status.problems.iter().map(|problem| format!("Problem: {problem}.")));
        now
    }

    fn owner(&self, vrrp: &VrrpStatus) -> String {
        let (vips, since, why) = (vrrp.vips.join(", "), self.when_text(&vrrp.since), because(&vrrp.reason));
        match (vrrp.state.as_str(), &vrrp.active_router) {
            ("active", _) => {
                format!(
                    "This node has {vips} (VRRP instance {}, priority {}) since {since}{why}.",
                    vrrp.name, vrrp.priority
                )
            }
            (state, Some(owner)) => format!(
                "{} (priority {}) has {vips}; this node is {state} (VRRP instance {}, priority {}) since {since}{why}.",
                owner.address, owner.priority, vrrp.name, vrrp.priority
            ),
            (state, None) => format!(
                "Nobody is known to have {vips}; this node is {state} (VRRP instance {}, priority {}) since {since}{why}.",
                vrrp.name, vrrp.priority
            ),
        }
    }
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(": {}", reason.trim_end_matches('.')) }
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// `2026-11-22 14:03:11 UTC`
fn date_and_time(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string().replace('T', " ").replace('Z', " UTC")
}

/// How lines with something to look at are marked.
pub type Paint<'a> = &'a dyn Fn(&str, Severity) -> String;

/// The explanation as text of at most so many columns, with a line end after the last line.
pub fn render(explanation: &Explanation, width: usize, paint: Paint<'_>) -> String {
    let mut out = String::new();
    let mut say = |line: &str| {
        out.push_str(line);
        out.push('\n');
    };
    if let Some(note) = &explanation.note {
        wrapped(note, width, 0).iter().for_each(|line| say(&paint(line, Severity::Warn)));
        say("");
    }
    for (index, subject) in explanation.subjects.iter().enumerate() {
        if index > 0 {
            say("");
        }
        say(&subject.title);
        wrapped(&subject.now.join(" "), width, 0).iter().for_each(|line| say(line));
        say("");
        if subject.events.is_empty() {
            say("Nothing has happened to it, as far back as is remembered.");
        }
        let mut day = String::new();
        for event in &subject.events {
            let at = humantime::format_rfc3339_millis(event.at).to_string();
            let (date, time) = at.trim_end_matches('Z').split_once('T').unwrap_or((&at, ""));
            if date != day {
                date.clone_into(&mut day);
                say(&format!("{day} (UTC)"));
            }
            let indent = time.len() + 4;
            let text = row(&subject.kind, event);
            for (number, line) in wrapped(&text, width.saturating_sub(indent), 0).iter().enumerate() {
                let margin = if number == 0 { format!("  {time}  ") } else { " ".repeat(indent) };
                say(&format!("{margin}{}", paint(line, event.severity)));
            }
        }
    }
    out
}

/// What an event is called in the time line of a subject, which need not be named again.
fn row(kind: &str, event: &Event) -> String {
    let is_its_own = match event.kind {
        Kind::Backend | Kind::Reset | Kind::Weight | Kind::Check => kind == "backend",
        Kind::Vrrp | Kind::Priority | Kind::Owner | Kind::Track => kind == "vrrp",
        Kind::Service => kind == "service",
        Kind::Order => kind != "service",
        _ => false,
    };
    if is_its_own { event.what() } else { event.to_string() }
}

/// Lines of at most so many characters, broken at blanks; a word that is longer has a line of its own.
fn wrapped(text: &str, width: usize, indent: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width.max(20) {
            lines.push(std::mem::replace(&mut line, " ".repeat(indent)));
        } else if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests;
