//! Which connections there are, and what is written of them. Pure: flows as they are come in, with the time; records go out.
//!
//! A connection begins when its handshake is complete, and ends when both sides have closed it, one has reset it, we have, or
//! nothing came for long. What the data plane tells is only *that* something has changed; what, is looked up a moment later, so
//! each input is compared with what is known:
//!
//! ```text
//!            begins                ends               a second later            removed from the tables
//!   (none) ---------> Silent/Open ------> Ending(how) ---------------> Ended -------------------------> (none)
//!             start                 ^        |           end
//!                                   +--------+ a RST that nobody believed
//! ```
//!
//! A second after its end a connection's numbers are final; its record still has the time of the end. *Silent* is one that has
//! carried nothing yet where such are left out: its start waits for the first byte.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    net::{IpAddr, SocketAddr},
};

use super::{
    record::{Connection, End, Ended, Record, RecordKind, Via, time_text},
    snapshot::{FirstSeen, Snapshot},
};
use crate::{
    config::model::{Config, Service},
    resets::ResetReason,
    sync::record::FlowId,
};

/// After the end, so that the last packets count.
const SETTLES: u64 = 1000;
/// How long a silent connection waits for the next look, at first and at last.
const SILENT_LOOKS: (u64, u64) = (1000, 64_000);
/// A VIP that a predecessor had is waited for so long: a daemon that crashed may have it again soon.
const VIP_RETURNS: u64 = 60_000;
/// What is found so soon after a VIP came is what came with it.
const CAME_WITH_VIP: u64 = 10_000;
/// A handshake that has taken so long, in seconds, has had few packets; see [`via_of`].
const LONG_HANDSHAKE: (u32, u64) = (130, 16);

/// The moment of an input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Milliseconds of a clock that never jumps.
    pub mono: u64,
    /// The flow clock, in seconds.
    pub clock: u32,
}

/// A service whose connections are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedService {
    name: String,
    /// Whether VRRP decides which node has its VIP.
    moves: bool,
    /// Whether the flow table has flows that other nodes forward, and nothing that says which.
    is_shared: bool,
    backends: HashMap<SocketAddr, String>,
}

/// The services whose connections are logged, by VIP and port.
pub type LoggedServices = HashMap<SocketAddr, LoggedService>;

/// Those of a configuration. A node that observes has no connections.
pub fn logged_services(config: &Config) -> LoggedServices {
    let logged = |service: &&Service| service.connection_log && !config.node.observe;
    let services = config.services.iter().filter(logged).map(|service| {
        let backends = service.backends.iter().map(|backend| (backend.address, backend.name.clone()));
        let logged = LoggedService {
            name: service.name.clone(),
            moves: service.vrrp.is_some(),
            is_shared: service.vrrp.is_none() && config.sync.is_some(),
            backends: backends.collect(),
        };
        (SocketAddr::new(service.vip.address, service.port.get()), logged)
    });
    services.collect()
}

/// What is the same for many connections, once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Party {
    service: String,
    backend: String,
    backend_address: Option<SocketAddr>,
    nat_address: Option<IpAddr>,
}

/// A connection that is known.
#[derive(Clone, Debug)]
struct Entry {
    /// Of [`Book::parties`].
    party: u32,
    nat_port: Option<u16>,
    via: Via,
    /// When its start was, milliseconds since 1970.
    begun: u64,
    /// When it was opened.
    opened: u64,
    /// The same on the flow clock.
    tick: u32,
    first: Option<FirstSeen>,
    /// Its client's packets when it was last looked up.
    packets: u64,
    /// The walk that has seen it last.
    walk: u32,
    /// When it is looked at again, on the clock that never jumps; 0: not.
    due: u64,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    /// Nothing carried yet, and the start not written.
    Silent { waited: u64 },
    /// The start is written.
    Open,
    /// It has ended; whether the start is written, too.
    Ending(Box<Ending>),
    /// All is written.
    Ended,
}

#[derive(Clone, Debug)]
struct Ending {
    at: u64,
    ended: Ended,
    reason: Option<ResetReason>,
    last: Snapshot,
    is_started: bool,
    is_late: bool,
}

/// How many of what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that have not ended.
    pub open: u64,
    /// `start` records.
    pub starts: u64,
    /// `end` records.
    pub ends: u64,
    /// Connections that were left out since they carried nothing.
    pub skipped: u64,
    /// Ends that could not be told.
    pub unknown: u64,
}

/// What a former daemon's files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Connections with a start and no end: the start.
    pub open: HashMap<FlowId, Connection>,
    /// Connections that have ended, as far as their flows may still be there: on which tick of the flow clock they were opened.
    pub ended: HashMap<FlowId, u32>,
}

/// How a flow is looked up.
pub type Look<'a> = &'a dyn Fn(&FlowId) -> Option<Snapshot>;

/// See the module.
#[derive(Debug, Default)]
pub struct Book {
    services: LoggedServices,
    skip_empty: bool,
    held: BTreeSet<IpAddr>,
    /// When VIPs came.
    came: HashMap<IpAddr, u64>,
    entries: HashMap<FlowId, Entry>,
    parties: Vec<Party>,
    numbers: HashMap<Party, u32>,
    due: BTreeSet<(u64, FlowId)>,
    /// Until then connections of VIPs that are not here wait for these.
    orphans_until: Option<u64>,
    walk: u32,
    counts: Counts,
    records: Vec<Record>,
}

impl Book {
    /// Another configuration. Connections of services that are not logged any more are forgotten with their last word.
    pub fn configure(&mut self, services: LoggedServices, skip_empty: bool, now: Now, look: Look<'_>) {
        (self.services, self.skip_empty) = (services, skip_empty);
        let dropped: Vec<FlowId> =
            self.entries.keys().filter(|id| !self.services.contains_key(&id.service)).copied().collect();
        for id in dropped {
            self.leave(now, id, (Ended::Unknown, false), look);
        }
    }

    /// The VIPs that are this node's now. Connections of those that left go on elsewhere.
    pub fn hold(&mut self, held: BTreeSet<IpAddr>, now: Now, look: Look<'_>) {
        for vip in held.difference(&self.held) {
            self.came.insert(*vip, now.mono);
        }
        let left: BTreeSet<IpAddr> = self.held.difference(&held).copied().collect();
        self.held = held;
        if left.is_empty() {
            return;
        }
        let moved: Vec<FlowId> = (self.entries.keys())
            .filter(|id| left.contains(&id.vip()) && !self.is_ours(id))
            .copied()
            .collect();
        for id in moved {
            self.leave(now, id, (Ended::Moved, false), look);
        }
    }

    /// What a predecessor has written, before anything else is told.
    pub fn remember(&mut self, memory: Memory, now: Now) {
        for (id, connection) in memory.open {
            if !self.services.contains_key(&id.service) {
                continue;
            }
            let party = self.number(Party {
                service: connection.service,
                backend: connection.backend,
                backend_address: connection.backend_address,
                nat_address: connection.nat_address,
            });
            let opened = super::record::time_of(&connection.opened).unwrap_or(now.wall);
            let entry = Entry {
                party,
                nat_port: connection.nat_port,
                via: connection.via,
                begun: opened,
                opened,
                tick: connection.flow_clock,
                first: None,
                packets: 0,
                walk: self.walk,
                due: 0,
                stage: Stage::Open,
            };
            self.entries.insert(id, entry);
        }
        for (id, tick) in memory.ended {
            if let Some(service) = self.services.get(&id.service) {
                let service = service.name.clone();
                let party =
                    Party { service, backend: String::new(), backend_address: None, nat_address: None };
                let party = self.number(party);
                let entry = Entry {
                    party,
                    nat_port: None,
                    via: Via::Found,
                    begun: now.wall,
                    opened: now.wall,
                    tick,
                    first: None,
                    packets: 0,
                    walk: self.walk,
                    due: 0,
                    stage: Stage::Ended,
                };
                self.entries.entry(id).or_insert(entry);
            }
        }
        self.orphans_until = Some(now.mono + VIP_RETURNS);
    }

    /// Something has changed about a flow; `flow` is what it is now, `None` where it is gone.
    pub fn changed(&mut self, now: Now, id: &FlowId, flow: Option<&Snapshot>) {
        if !self.is_logged(id) {
            return;
        }
        match flow {
            Some(flow) => self.looked_up(now, flow, false),
            None => self.gone(now, id),
        }
    }

    /// We have reset a flow; `flow` is what it was before.
    pub fn severed(&mut self, now: Now, flow: &Snapshot, reason: ResetReason) {
        if !self.is_logged(&flow.id) {
            return;
        }
        self.seen(now, flow, false);
        let Some(entry) = self.entries.get_mut(&flow.id) else { return };
        let is_started = !matches!(entry.stage, Stage::Silent { .. });
        match &mut entry.stage {
            Stage::Silent { .. } | Stage::Open => {
                let ending = Ending {
                    at: now.wall,
                    ended: Ended::ResetByXvip,
                    reason: Some(reason),
                    last: *flow,
                    is_started,
                    is_late: false,
                };
                entry.stage = Stage::Ending(Box::new(ending));
                self.look_at(flow.id, now.mono + SETTLES);
            }
            // XDP's answer to a packet was there first.
            Stage::Ending(ending) if ending.ended == Ended::ResetByXvip => ending.reason = Some(reason),
            Stage::Ending(_) | Stage::Ended => {}
        }
    }

    /// A flow was removed from the tables, since it was over; `flow` is what it was.
    pub fn removed(&mut self, now: Now, flow: &Snapshot) {
        if !self.is_logged(&flow.id) {
            return;
        }
        // A later one may have its client's port by now; or a walk has missed it already, and it has its end.
        if !self.entries.get(&flow.id).is_some_and(|entry| self.is_same(entry, flow)) {
            return;
        }
        let Some(entry) = self.entries.remove(&flow.id) else { return };
        match &entry.stage {
            Stage::Ended => {}
            Stage::Ending(_) => self.write_ending(&flow.id, &entry),
            Stage::Silent { .. } | Stage::Open => {
                let ending = Ending {
                    at: now.wall,
                    ended: flow.ended.unwrap_or(Ended::Expired),
                    reason: None,
                    last: *flow,
                    is_started: matches!(entry.stage, Stage::Open),
                    // An end that has been there for a while.
                    is_late: flow.ended.is_some(),
                };
                let entry = Entry { stage: Stage::Ending(Box::new(ending)), ..entry };
                self.write_ending(&flow.id, &entry);
            }
        }
    }

    /// All flows that there are. What is known and not among them is looked up once more: it may have come since.
    pub fn walked(&mut self, now: Now, flows: impl IntoIterator<Item = Snapshot>, look: Look<'_>) {
        self.walk = self.walk.wrapping_add(1);
        for flow in flows {
            if self.is_logged(&flow.id)
                && (self.entries.contains_key(&flow.id) || !self.may_be_anothers(&flow.id))
            {
                self.looked_up(now, &flow, true);
                if let Some(entry) = self.entries.get_mut(&flow.id) {
                    entry.walk = self.walk;
                }
            }
        }
        let walk = self.walk;
        let missing: Vec<FlowId> =
            self.entries.iter().filter(|(_, entry)| entry.walk != walk).map(|(id, _)| *id).collect();
        for id in missing {
            match look(&id) {
                Some(flow) if self.is_ours(&id) => self.looked_up(now, &flow, true),
                Some(_) => {}
                None => self.gone(now, &id),
            }
        }
    }

    /// When [`Self::look_again`] has something to do, on the clock that never jumps.
    pub fn wake_at(&self) -> Option<u64> {
        let first = self.due.first().map(|(at, _)| *at);
        [first, self.orphans_until].into_iter().flatten().min()
    }

    /// Looks at those whose time has come.
    pub fn look_again(&mut self, now: Now, look: Look<'_>) {
        while let Some(&(at, id)) = self.due.first()
            && at <= now.mono
        {
            self.due.pop_first();
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.due == at) else { continue };
            entry.due = 0;
            match look(&id) {
                None => self.gone(now, &id),
                Some(flow) => self.settle(now, &flow),
            }
        }
        if self.orphans_until.is_some_and(|until| until <= now.mono) {
            self.orphans_until = None;
            let orphans: Vec<FlowId> = self.entries.keys().filter(|id| !self.is_ours(id)).copied().collect();
            for id in orphans {
                self.leave(now, id, (Ended::Moved, true), look);
            }
        }
    }

    /// What there is to write, in the order of what happened.
    pub fn records(&mut self) -> Vec<Record> {
        mem::take(&mut self.records)
    }

    /// How many of what, until now.
    pub fn counts(&self) -> Counts {
        let has_ended = |entry: &&Entry| matches!(entry.stage, Stage::Ending(_) | Stage::Ended);
        let ended = self.entries.values().filter(has_ended).count();
        Counts { open: (self.entries.len() - ended) as u64, ..self.counts }
    }

    fn is_logged(&self, id: &FlowId) -> bool {
        self.services.contains_key(&id.service) && self.is_ours(id)
    }

    /// Whether this node forwards the flow's packets: what a peer tells of its own is not ours to log.
    fn is_ours(&self, id: &FlowId) -> bool {
        self.services.get(&id.service).is_none_or(|service| !service.moves) || self.held.contains(&id.vip())
    }

    /// Whether a flow that is only found may be one that another node forwards.
    fn may_be_anothers(&self, id: &FlowId) -> bool {
        self.services.get(&id.service).is_some_and(|service| service.is_shared)
    }

    /// A flow as the tables have it now. Its numbers only grow, unless another one has begun within the second.
    fn looked_up(&mut self, now: Now, flow: &Snapshot, in_walk: bool) {
        if self.entries.get(&flow.id).is_some_and(|entry| flow.carried.packets_in < entry.packets) {
            self.gone(now, &flow.id);
        }
        self.seen(now, flow, in_walk);
        if let Some(entry) = self.entries.get_mut(&flow.id) {
            entry.packets = flow.carried.packets_in;
        }
    }

    /// A flow as it is now, or was a moment ago.
    fn seen(&mut self, now: Now, flow: &Snapshot, in_walk: bool) {
        match self.entries.get(&flow.id) {
            Some(entry) if self.is_same(entry, flow) => {
                // It was over, and goes on: somebody's RST was not believed.
                if matches!(entry.stage, Stage::Ended) && flow.ended.is_none() {
                    self.entries.remove(&flow.id);
                    self.begin(now, flow, true);
                }
            }
            // Its client has used the port again.
            Some(_) => {
                self.gone(now, &flow.id);
                self.begin(now, flow, in_walk);
            }
            None => self.begin(now, flow, in_walk),
        }
        let late = in_walk;
        let skip_empty = self.skip_empty;
        let Some(entry) = self.entries.get_mut(&flow.id) else { return };
        let is_started = !matches!(entry.stage, Stage::Silent { .. });
        match (&mut entry.stage, flow.ended) {
            (Stage::Silent { .. } | Stage::Open, Some(ended)) => {
                let ending =
                    Ending { at: now.wall, ended, reason: None, last: *flow, is_started, is_late: late };
                entry.stage = Stage::Ending(Box::new(ending));
                self.look_at(flow.id, now.mono + SETTLES);
            }
            (Stage::Ending(ending), Some(_)) => ending.last = *flow,
            (Stage::Ending(ending), None) if ending.ended != Ended::ResetByXvip => {
                let is_started = ending.is_started;
                entry.stage = if is_started { Stage::Open } else { Stage::Silent { waited: SILENT_LOOKS.0 } };
                if !is_started {
                    self.look_at(flow.id, now.mono + SILENT_LOOKS.0);
                }
            }
            (Stage::Silent { .. }, None) if !skip_empty || !flow.is_empty(entry.first.as_ref()) => {
                entry.stage = Stage::Open;
                self.write_start(&flow.id);
            }
            _ => {}
        }
    }

    /// A flow that is looked at again since its time has come.
    fn settle(&mut self, now: Now, flow: &Snapshot) {
        let has_gone_back = |entry: &Entry| flow.carried.packets_in < entry.packets;
        if self.entries.get(&flow.id).is_some_and(|entry| !self.is_same(entry, flow) || has_gone_back(entry))
        {
            self.looked_up(now, flow, true);
            return;
        }
        self.looked_up(now, flow, false);
        let Some(entry) = self.entries.get_mut(&flow.id) else { return };
        match &mut entry.stage {
            // Unless it has only just got there.
            Stage::Ending(_) if entry.due == 0 => {
                let ending = mem::replace(&mut entry.stage, Stage::Ended);
                let entry = Entry { stage: ending, ..entry.clone() };
                self.write_ending(&flow.id, &entry);
            }
            Stage::Silent { waited } => {
                *waited = (*waited * 2).min(SILENT_LOOKS.1);
                let after = *waited;
                self.look_at(flow.id, now.mono + after);
            }
            Stage::Ending(_) | Stage::Open | Stage::Ended => {}
        }
    }

    /// A flow is not in the tables any more, and nobody has said why.
    fn gone(&mut self, now: Now, id: &FlowId) {
        let Some(entry) = self.entries.remove(id) else { return };
        match &entry.stage {
            Stage::Ended => {}
            Stage::Ending(_) => self.write_ending(id, &entry),
            Stage::Open => self.write_end(id, &entry, now.wall, Ended::Unknown, None, None, true),
            // Whether it carried anything is not known.
            Stage::Silent { .. } => self.counts.skipped += 1,
        }
    }

    /// A connection that is not this log's any more; and whether it has not been for a while.
    fn leave(&mut self, now: Now, id: FlowId, (ended, late): (Ended, bool), look: Look<'_>) {
        let Some(entry) = self.entries.remove(&id) else { return };
        match &entry.stage {
            Stage::Ended => {}
            Stage::Ending(_) => self.write_ending(&id, &entry),
            Stage::Silent { .. } => self.counts.skipped += 1,
            Stage::Open => {
                let last = look(&id).filter(|flow| self.is_same(&entry, flow));
                self.write_end(&id, &entry, now.wall, ended, None, last.as_ref(), late);
            }
        }
    }

    fn begin(&mut self, now: Now, flow: &Snapshot, was_found: bool) {
        let Some(service) = self.services.get(&flow.id.service) else { return };
        let backend = flow.backend.map_or_else(
            || "?".to_owned(),
            |address| service.backends.get(&address).cloned().unwrap_or_else(|| address.to_string()),
        );
        let party = Party {
            service: service.name.clone(),
            backend,
            backend_address: flow.backend,
            nat_address: flow.nat.map(|nat| nat.ip()),
        };
        let came = self.came.get(&flow.id.vip()).filter(|_| service.moves);
        let since_vip = came.map(|came| now.mono.saturating_sub(*came));
        let party = self.number(party);
        let age = age(now.clock, flow.opened);
        let via = via_of(flow, age, was_found, since_vip);
        let opened = match via {
            Via::Handshake => now.wall,
            Via::TakenOver | Via::Rebuilt | Via::Found => now.wall.saturating_sub(u64::from(age) * 1000),
        };
        let entry = Entry {
            party,
            nat_port: flow.nat.map(|nat| nat.port()),
            via,
            begun: now.wall,
            opened,
            tick: flow.opened,
            first: Some(flow.first_seen()),
            packets: flow.carried.packets_in,
            walk: self.walk,
            due: 0,
            stage: Stage::Silent { waited: SILENT_LOOKS.0 },
        };
        self.entries.insert(flow.id, entry);
        if self.skip_empty {
            self.look_at(flow.id, now.mono + SILENT_LOOKS.0);
        } else if let Some(entry) = self.entries.get_mut(&flow.id) {
            entry.stage = Stage::Open;
            self.write_start(&flow.id);
        }
    }

    /// Whether an entry and a flow are one connection, and not two that a client has opened from one port.
    fn is_same(&self, entry: &Entry, flow: &Snapshot) -> bool {
        let known = self.parties.get(entry.party as usize).and_then(|party| party.backend_address);
        let agree = |one: Option<SocketAddr>, other: Option<SocketAddr>| {
            one.is_none() || other.is_none() || one == other
        };
        // Of another node's clock it may be one more, or one less.
        let apart = entry.tick.wrapping_sub(flow.opened);
        let apart = apart.min(apart.wrapping_neg());
        let nat_port = flow.nat.map(|nat| nat.port());
        apart <= 1
            && agree(known, flow.backend)
            && (entry.nat_port == nat_port || known.is_none())
            // Within a second one may have ended and another one begun.
            && match &entry.stage {
                Stage::Ended => flow.ended.is_some() || flow.carried.packets_in > 3,
                Stage::Ending(ending) => flow.carried.packets_in >= ending.last.carried.packets_in,
                Stage::Silent { .. } | Stage::Open => true,
            }
    }

    fn look_at(&mut self, id: FlowId, at: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            let at = at.max(1);
            entry.due = at;
            self.due.insert((at, id));
        }
    }

    fn number(&mut self, party: Party) -> u32 {
        if let Some(number) = self.numbers.get(&party) {
            return *number;
        }
        let number = u32::try_from(self.parties.len()).unwrap_or(u32::MAX);
        self.parties.push(party.clone());
        self.numbers.insert(party, number);
        number
    }

    fn connection(&self, id: &FlowId, entry: &Entry) -> Option<Connection> {
        let party = self.parties.get(entry.party as usize)?;
        Some(Connection {
            client: id.client,
            service: party.service.clone(),
            vip: id.service,
            backend: party.backend.clone(),
            backend_address: party.backend_address,
            nat_port: entry.nat_port,
            nat_address: party.nat_address,
            via: entry.via,
            opened: time_text(entry.opened),
            flow_clock: entry.tick,
        })
    }

    fn write_start(&mut self, id: &FlowId) {
        let Some(entry) = self.entries.get(id) else { return };
        let time = time_text(entry.begun);
        let Some(connection) = self.connection(id, entry) else { return };
        self.records.push(Record { time, record: RecordKind::Start, connection, end: None });
        self.counts.starts += 1;
    }

    /// What an ending has to say; with its start, where that still waits.
    fn write_ending(&mut self, id: &FlowId, entry: &Entry) {
        let Stage::Ending(ending) = &entry.stage else { return };
        if !ending.is_started {
            if ending.last.is_empty(entry.first.as_ref()) {
                self.counts.skipped += 1;
                return;
            }
            if let Some(connection) = self.connection(id, entry) {
                let time = time_text(entry.begun);
                self.records.push(Record { time, record: RecordKind::Start, connection, end: None });
                self.counts.starts += 1;
            }
        }
        let reason = ending.reason.filter(|_| ending.ended == Ended::ResetByXvip);
        self.write_end(id, entry, ending.at, ending.ended, reason, Some(&ending.last), ending.is_late);
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of one record, each given once")]
    fn write_end(
        &mut self,
        id: &FlowId,
        entry: &Entry,
        at: u64,
        ended: Ended,
        reason: Option<ResetReason>,
        last: Option<&Snapshot>,
        late: bool,
    ) {
        let Some(connection) = self.connection(id, entry) else { return };
        let end = End {
            ended,
            reason: reason.map(|reason| reason.name().to_owned()),
            duration_ms: at.saturating_sub(entry.opened),
            carried: last.map(|last| last.carried.into()),
            empty: last.is_some_and(|last| last.is_empty(entry.first.as_ref())),
            late,
        };
        self.records.push(Record {
            time: time_text(at),
            record: RecordKind::End,
            connection,
            end: Some(end),
        });
        self.counts.ends += 1;
        self.counts.unknown += u64::from(ended == Ended::Unknown);
    }
}

/// Seconds since `opened`; another node's clock may have said it is to come.
const fn age(clock: u32, opened: u32) -> u32 {
    let age = clock.wrapping_sub(opened);
    if age > i32::MAX as u32 { 0 } else { age }
}

/// How this node came by a connection that it has not known.
fn via_of(flow: &Snapshot, age: u32, was_found: bool, since_vip: Option<u64>) -> Via {
    let (long, few) = LONG_HANDSHAKE;
    let packets = flow.carried.packets_in.saturating_add(flow.carried.packets_out);
    // To a second, or two. Whose handshake was seen here is told at once; what a walk finds came along.
    let is_older_than_vip = since_vip.is_some_and(|since| u64::from(age) * 1000 > since + 2000);
    let vip_has_just_come = since_vip.is_some_and(|since| since < CAME_WITH_VIP);
    if flow.is_rebuilt() {
        Via::Rebuilt
    } else if vip_has_just_come && (was_found || is_older_than_vip) {
        Via::TakenOver
    } else if !was_found && (age <= 2 || (age <= long && packets <= few)) {
        Via::Handshake
    } else {
        Via::Found
    }
}

#[cfg(test)]
mod tests;
