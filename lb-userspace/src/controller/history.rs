//! What the controller tells of what happens: the events of routers, checks, tracks and peers, made of what these say.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use lb_common::layout::ServiceKey;
use tracing::warn;

use super::{Controller, problems};
use crate::{
    config::model::{Config, Service},
    desired::{BackendIdentity, PoolEntry, service_key, vips_of},
    health::{
        monitor::{self, News},
        rise_fall::Condition,
    },
    history::{Event, History, KEPT, Kind, Severity, Teller, event::milliseconds},
    hooks,
    status::{TrackStatus, WitnessStatus},
    sync::status::{PeerStatus, SendingState},
    vrrp::{advert::Discard, fsm::VrrpState, router, status::RouterStatus},
};

/// How long a daemon that stops waits for its hooks.
pub(super) const HOOKS_END_WITHIN: Duration = Duration::from_secs(2);
/// How long one that leaves does: its successor waits for its end, and the other nodes for the successor.
pub(super) const HOOKS_LEAVE_WITHIN: Duration = Duration::from_millis(200);
/// How long either waits for the disk.
const DISK_ENDS_WITHIN: Duration = Duration::from_millis(500);

/// The VIPs of each instance, as they are by now.
pub(super) type Vips = Arc<Mutex<BTreeMap<String, Vec<IpAddr>>>>;

/// Puts down the VIPs of each instance.
pub(super) fn note_vips(vips: &Vips, config: &Config) {
    let of = |name: &str| vips_of(config, name).into_iter().map(|(vip, _)| vip).collect();
    let all = config.vrrp.iter().map(|instance| (instance.name.clone(), of(&instance.name))).collect();
    *vips.lock().unwrap_or_else(PoisonError::into_inner) = all;
}

/// Tells what a router says that is news, from the thread that hears it first.
pub(super) fn router_observer(teller: Teller, vips: Vips) -> router::Observer {
    let mut entered: BTreeMap<String, Instant> = BTreeMap::new();
    Box::new(move |before, now| {
        // What it was before it was heard of has lasted for no time at all.
        let since = *entered.entry(now.name.clone()).or_insert(before.as_of);
        let lasted = now.as_of.saturating_duration_since(since);
        if before.transitions != now.transitions {
            entered.insert(now.name.clone(), now.as_of);
        }
        let all = vips.lock().unwrap_or_else(PoisonError::into_inner);
        let vips = all.get(&now.name).cloned().unwrap_or_default();
        drop(all);
        router_events(before, now, lasted, &vips, SystemTime::now())
            .into_iter()
            .for_each(|event| teller.tell(event));
        for (reason, count) in &now.discards {
            if !before.discards.contains_key(reason) && *reason != Discard::Own.name() {
                warn!(vrrp = now.name, reason, count, "discarding advertisements");
            }
        }
    })
}

/// What is news about a router; its last state has lasted so long.
fn router_events(
    before: &RouterStatus,
    now: &RouterStatus,
    lasted: Duration,
    vips: &[IpAddr],
    at: SystemTime,
) -> Vec<Event> {
    let new = |kind| Event::new(kind, &now.name, at).of_instance(&now.name).with_vips(vips);
    let mut events = Vec::new();
    if before.priority != now.priority {
        let priority = |status: &RouterStatus| status.priority.to_string();
        events.push(new(Kind::Priority).changed(priority(before), priority(now)));
    }
    if (before.state, before.transitions) != (now.state, now.transitions) {
        let event = new(Kind::Vrrp).changed(before.state.to_string(), now.state.to_string());
        let mut event = event.because(state_reason(before, now)).with("own_priority", now.priority.into());
        event.at = now.since;
        // A router that has just been made has not been in any state.
        event = if before.transitions > 0 { event.after(lasted) } else { event };
        let is_grave = now.state == VrrpState::Fault || before.state == VrrpState::Active;
        events.push(event.grave(if is_grave { Severity::Warn } else { Severity::Info }));
    }
    let owner = |status: &RouterStatus| {
        let active = status.active_router.as_ref().filter(|_| status.state == VrrpState::Backup)?;
        Some(format!("{} (priority {})", active.address, active.priority))
    };
    let address = |status: &RouterStatus| Some(status.active_router.as_ref()?.address);
    if let Some(owner) = owner(now).filter(|_| address(before) != address(now) || before.state != now.state) {
        let mut event = new(Kind::Owner).became(owner);
        event.from = before
            .active_router
            .as_ref()
            .map(|active| format!("{} (priority {})", active.address, active.priority));
        if event.from != event.to {
            events.push(event);
        }
    }
    let problem = |before: Option<String>, now: Option<String>| {
        // Another age of the same problem is no news.
        if before.is_some() == now.is_some() {
            return None;
        }
        let event = problems::change("", before.as_deref(), now.as_deref(), Duration::ZERO, at)?;
        let known = new(Kind::Problem);
        Some(Event { lasted_ms: None, name: known.name, instance: known.instance, vips: known.vips, ..event })
    };
    let name = &now.name;
    let unsent = |status: &RouterStatus| {
        Some(format!("vrrp {name}: advertisements cannot be sent: {}", status.send_error.as_ref()?))
    };
    let blocked = |status: &RouterStatus| {
        let why = status.blocked.as_ref()?;
        Some(format!("vrrp {name}: nobody is heard, and yet this node does not take over: {why}"))
    };
    let deaf = |status: &RouterStatus| {
        status.deaf.map(|_| {
            format!(
                "vrrp {name}: advertisements reach the interface, but not xvip: a firewall drops IP protocol 112; let it pass"
            )
        })
    };
    events.extend(problem(unsent(before), unsent(now)));
    events.extend(problem(blocked(before), blocked(now)));
    events.extend(problem(deaf(before), deaf(now)));
    for (was, is, what) in [
        (before.address_mismatches, now.address_mismatches, "virtual addresses"),
        (before.interval_mismatches, now.interval_mismatches, "advert_interval"),
    ] {
        if was == 0 && is > 0 {
            let reason = format!("another router has another {what} in its configuration");
            events.push(new(Kind::Drift).because(reason).grave(Severity::Warn));
        }
    }
    events
}

/// Why a state was entered; and where an Active router has fallen silent, who that was.
fn state_reason(before: &RouterStatus, now: &RouterStatus) -> String {
    let reason = &now.reason;
    let lost = before
        .active_router
        .as_ref()
        .filter(|_| before.state == VrrpState::Backup && now.state == VrrpState::Active);
    match lost {
        Some(lost) if !reason.contains(&lost.address.to_string()) => {
            format!("{reason}; the last one heard was {} (priority {})", lost.address, lost.priority)
        }
        _ => reason.clone(),
    }
}

/// Whose checks they are: the backend's service and name. They may change with the configuration.
pub(super) type Subject = Arc<Mutex<(String, String)>>;

/// Tells what a row of checks adds up to, from the task that does them.
pub(super) fn check_observer(teller: Teller, subject: Subject, address: SocketAddr) -> monitor::Observer {
    Box::new(move |news| {
        let (service, name) = subject.lock().unwrap_or_else(PoisonError::into_inner).clone();
        teller.tell(check_event(&service, &name, address, news));
    })
}

fn check_event(service: &str, name: &str, address: SocketAddr, news: News) -> Event {
    let new =
        |kind| Event::new(kind, name, news.at).of_service(service).at_address(address).because(&news.reason);
    match news.change {
        None => new(Kind::Check).became("failed").with("took_ms", milliseconds(news.took)),
        Some(change) => {
            let is_well = change.to == Condition::Up;
            let mut event = new(Kind::Backend).changed(change.from.to_string(), change.to.to_string());
            event = event.with("checks", news.in_a_row.into());
            if news.in_a_row > 1 {
                event = event.with("decided_within_ms", milliseconds(news.row));
            }
            if change.from != Condition::Unknown {
                event = event.after(change.lasted);
            }
            event.grave(if is_well { Severity::Info } else { Severity::Warn })
        }
    }
}

/// What was known at the last look of what is looked at again and again.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// By instance and subject: whether all is well, and since when.
    tracks: BTreeMap<(String, String), (String, SystemTime)>,
    peers: BTreeMap<SocketAddr, PeerStatus>,
    active: BTreeMap<String, Instant>,
}

impl Controller {
    /// Tells an event: to the log, the history and the hooks. The one place for what the controller sees.
    pub(super) fn tell(&self, event: Event) {
        self.teller.tell(event);
    }

    /// `GET /v1/history`
    pub(super) fn history(&self, name: Option<&str>, limit: Option<u32>) -> History {
        let limit = limit.map_or(KEPT, |limit| limit as usize);
        History { events: self.teller.find(name, limit) }
    }

    /// About a backend.
    pub(super) fn backend_event(&self, kind: Kind, of: &BackendIdentity) -> Event {
        let now = SystemTime::now();
        let services = self.config.services.iter().filter(|service| Some(service_key(service)) == of.service);
        let mut known =
            services.flat_map(|service| service.backends.iter().map(move |backend| (service, backend)));
        let known = known.find(|(_, backend)| backend.address == of.address);
        let event = match known {
            Some((service, backend)) => Event::new(kind, &backend.name, now).of_service(&service.name),
            // It has left the configuration.
            None => Event::new(kind, of.address.to_string(), now),
        };
        event.at_address(of.address)
    }

    /// Tells of what is tracked and has changed since the last look.
    pub(super) fn follow_tracks(&mut self) {
        let mut now = BTreeMap::new();
        let mut events = Vec::new();
        for instance in &self.config.vrrp {
            let witness =
                self.tracking.witness_status(&instance.name).map(|witness| witness_as_track(&witness));
            for track in self.tracking.status(&instance.name).into_iter().chain(witness) {
                let key = (instance.name.clone(), track.name.clone());
                let known = self.known.tracks.remove(&key);
                let at = SystemTime::now();
                match known {
                    Some(known) if known.0 == track.state => now.insert(key, known),
                    known => {
                        events.extend(track_event(&instance.name, &track, known.as_ref(), at));
                        now.insert(key, (track.state, at))
                    }
                };
            }
        }
        self.known.tracks = now;
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Tells of peers of `[sync]` that came or went since the last look.
    pub(super) fn follow_peers(&mut self) {
        let peers = self.replication.status().map(|status| status.peers).unwrap_or_default();
        let now = SystemTime::now();
        let mut events = Vec::new();
        for peer in &peers {
            let new = PeerStatus::new(peer.address);
            events.extend(peer_events(self.known.peers.get(&peer.address).unwrap_or(&new), peer, now));
        }
        self.known.peers = peers.into_iter().map(|peer| (peer.address, peer)).collect();
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Tells which VIPs this node has and had not before, once all that belongs to it has been done.
    pub(super) fn follow_vips(&mut self) {
        let active = self.routers.active();
        let (now, at) = (Instant::now(), SystemTime::now());
        let mut events = Vec::new();
        for instance in active.keys().filter(|name| !self.known.active.contains_key(*name)) {
            let since = self.routers.status(instance).map_or(now, |status| status.holds_since);
            let within = milliseconds(now.saturating_duration_since(since));
            for (vip, _) in vips_of(&self.config, instance) {
                let announced = if vip.is_ipv4() { "gratuitous ARP" } else { "neighbour advertisements" };
                let event =
                    Event::new(Kind::Vip, vip.to_string(), at).of_instance(instance).with_vips(&[vip]);
                let event = event
                    .changed("not here", "here")
                    .because(format!("on {} and forwarding; {announced} sent", self.config.node.interface()));
                events.push(event.with("within_ms", within));
            }
        }
        for (instance, since) in self.known.active.iter().filter(|(name, _)| !active.contains_key(*name)) {
            for (vip, _) in vips_of(&self.config, instance) {
                let event =
                    Event::new(Kind::Vip, vip.to_string(), at).of_instance(instance).with_vips(&[vip]);
                let reason = format!("taken off {}", self.config.node.interface());
                events.push(
                    event
                        .changed("here", "not here")
                        .because(reason)
                        .after(now.saturating_duration_since(*since)),
                );
            }
        }
        let known = std::mem::take(&mut self.known.active);
        self.known.active = active
            .into_keys()
            .map(|name| {
                let since = known.get(&name).copied().unwrap_or(now);
                (name, since)
            })
            .collect();
        events.into_iter().for_each(|event| self.tell(event));
    }

    /// Gives hooks and disk the time to be told of the end.
    pub(super) async fn finish_telling(&self, hooks_within: Duration) {
        let teller = self.teller.clone();
        hooks::settle(|| teller.hooks().are_done(), hooks_within).await;
        // It blocks, and nothing else is left to do.
        self.teller.finish(DISK_ENDS_WITHIN);
    }

    /// Tells of the daemon itself.
    pub(super) fn tell_of_daemon(&self, to: &str, reason: &str) {
        let event = Event::new(Kind::Daemon, &self.config.node.name, SystemTime::now()).became(to);
        self.tell(event.because(reason));
    }

    /// Tells how many backends of a service get new connections.
    pub(super) fn tell_usable(&self, key: &ServiceKey, was: u32, now: u32) {
        let Some(service) = self.config.services.iter().find(|service| service_key(service) == *key) else {
            return;
        };
        let event = Event::new(Kind::Service, &service.name, SystemTime::now()).of_service(&service.name);
        let event =
            event.changed(was.to_string(), now.to_string()).with("configured", service.backends.len() as u64);
        self.tell(event.grave(if now == 0 { Severity::Error } else { Severity::Info }));
    }

    /// Tells of the service's backend that its weight that counts is another one.
    pub(super) fn tell_weight(&self, of: &BackendIdentity, from: u16, to: u16) {
        let entry = of.service.map(|service| PoolEntry { service, address: of.address });
        // What an operator has taken out or in again is told as his order.
        if from == 0 || entry.is_some_and(|entry| self.steers().get(&entry).is_some_and(|steer| steer.is_out))
        {
            return;
        }
        let start = entry.and_then(|entry| self.slow_starts.get(&entry));
        let is_rising = start.is_some_and(|start| start.next_step(Instant::now()).is_some());
        let reason = if is_rising { "slow start" } else { "" };
        let event =
            self.backend_event(Kind::Weight, of).changed(format!("weight {from}"), format!("weight {to}"));
        self.tell(event.because(reason));
    }
}

/// The names of a service's backends, for whoever checks them.
pub(super) fn subject_of(service: &Service, backend: &str) -> (String, String) {
    (service.name.clone(), backend.to_owned())
}

fn witness_as_track(witness: &WitnessStatus) -> TrackStatus {
    TrackStatus {
        name: format!("witness {}", witness.addresses.join(", ")),
        weight: 0,
        state: if witness.answers { "up" } else { "down" }.to_owned(),
        since: String::new(),
        reason: witness.problem.clone().unwrap_or_else(|| "answers".to_owned()),
    }
}

/// `None` while nothing is known of it.
fn track_event(
    instance: &str,
    track: &TrackStatus,
    known: Option<&(String, SystemTime)>,
    at: SystemTime,
) -> Option<Event> {
    if track.state == "unknown" {
        return None;
    }
    let is_well = track.state == "up";
    let mut event = Event::new(Kind::Track, instance, at).of_instance(instance).became(&track.state);
    if let Some((state, since)) = known.filter(|(state, _)| state != "unknown") {
        event.from = Some(state.clone());
        event = event.after(at.duration_since(*since).unwrap_or_default());
    }
    let event = event.because(format!("{}: {}", track.name, track.reason));
    Some(event.grave(if is_well { Severity::Info } else { Severity::Warn }))
}

fn peer_events(before: &PeerStatus, now: &PeerStatus, at: SystemTime) -> Vec<Event> {
    let node = now.node.as_ref().or(before.node.as_ref());
    let name = node.cloned().unwrap_or_else(|| now.address.to_string());
    let ago = |ms: u64| at.checked_sub(Duration::from_millis(ms)).unwrap_or(at);
    let new = |at| Event::new(Kind::Peer, &name, at).at_address(now.address);
    let gets = |peer: &PeerStatus| matches!(peer.sending.state, SendingState::Joining | SendingState::Up);
    let mut events = Vec::new();
    if gets(before) != gets(now) {
        let event = new(ago(now.sending.since_ms));
        events.push(if gets(now) {
            event.became("gets our flows")
        } else {
            let why = now.sending.last_error.clone().unwrap_or_default();
            event.became("does not get our flows any more").because(why).grave(Severity::Warn)
        });
    }
    if before.receiving.connected != now.receiving.connected {
        let event = new(ago(now.receiving.since_ms));
        events.push(if now.receiving.connected {
            event.became("sends its flows")
        } else {
            event.became("does not send its flows any more").grave(Severity::Warn)
        });
    }
    if before.drift != now.drift {
        let event = Event::new(Kind::Drift, &name, at).at_address(now.address);
        events.push(if now.drift.is_empty() {
            event.became("configured alike").because(format!("it differed in {}", before.drift.join(", ")))
        } else {
            let parts = now.drift.join(", ");
            let reason = format!("{parts}; some connections may not survive a move of the VIP");
            event.became("configured differently").because(reason).grave(Severity::Warn)
        });
    }
    events
}

#[cfg(test)]
mod tests;
