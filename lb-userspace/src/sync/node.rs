//! What the tasks of the service share: the peers, the flows, and what this node says of itself. All of them run on one thread,
//! and none keeps it borrowed while it waits.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::Notify;
use tracing::warn;

use super::{
    StoreFactory, SyncSettings, Wanted,
    codec::{Hello, MAX_NAME, VERSION},
    join::{Join, Seen},
    noise::Psk,
    peer::Peer,
    receiver::Receiver,
    record::{FlowId, FlowStore},
    sender::Ours,
    status::{PeerStatus, ReceivingStatus, Refused, SyncStatus},
};

/// The same complaint is logged again after that long.
const QUIET: Duration = Duration::from_secs(60);

/// The state, as each task holds it.
pub type Shared = Rc<RefCell<Node>>;

/// A connection on which a peer sends.
pub struct Incoming {
    /// Tells it from the one before and after it.
    pub session: u64,
    /// Wakes its task.
    pub changed: Rc<Notify>,
    /// What it has said.
    pub receiver: Receiver,
}

/// Which entry: a peer that is taken out of the file and put in again is another one.
pub type EntryId = u64;

/// One peer, both ways.
pub struct Entry {
    /// Its own.
    pub id: EntryId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The connection on which we send.
    pub peer: Peer,
    /// Wakes the task that dials it and sends.
    pub changed: Rc<Notify>,
    /// The connection on which it sends, if there is one.
    pub incoming: Option<Incoming>,
    /// What has come from it, over all connections.
    pub receiving: ReceivingStatus,
    since: Instant,
    /// The parts of the configuration that it has otherwise, as logged.
    drift: Vec<String>,
    /// Whether it has given all its flows since this node joins.
    complete: bool,
    refused: BTreeMap<Refused, u64>,
}

impl Entry {
    fn new(id: EntryId, address: SocketAddr, now: Instant) -> Self {
        Self {
            id,
            address,
            peer: Peer::new(now),
            changed: Rc::new(Notify::new()),
            incoming: None,
            receiving: ReceivingStatus::default(),
            since: now,
            drift: Vec::new(),
            complete: false,
            refused: BTreeMap::new(),
        }
    }

    fn wake(&self) {
        self.changed.notify_one();
        if let Some(incoming) = &self.incoming {
            incoming.changed.notify_one();
        }
    }
}

/// The state.
pub struct Node {
    /// What this node says of itself.
    pub ours: Ours,
    /// The first is the one that we call with.
    pub keys: Vec<Psk>,
    /// As configured.
    pub settings: SyncSettings,
    /// The flows.
    pub store: Box<dyn FlowStore>,
    /// Opens them once more, for a walk.
    pub factory: Box<dyn StoreFactory>,
    /// In the file's order.
    pub entries: Vec<Entry>,
    /// What is told of all this; the peers are written into it when it is asked for.
    status: SyncStatus,
    join: Join,
    rejoins: u64,
    resyncs: u64,
    /// The last id that was given, to an entry or a session.
    last_id: u64,
    complained: HashMap<(Option<SocketAddr>, Refused), Instant>,
}

impl Node {
    /// The service begins.
    pub fn new(
        wanted: &Wanted,
        store: Box<dyn FlowStore>,
        factory: Box<dyn StoreFactory>,
        join: Join,
    ) -> Self {
        let mut instance = [0; 16];
        if SystemRandom::new().fill(&mut instance).is_err() {
            warn!("the system has no randomness: a node that calls itself will not notice");
        }
        let settings = wanted.settings.clone();
        let mut node = Self {
            ours: Ours {
                hello: Hello { version: VERSION, instance, node: String::new(), listen: settings.listen },
                holdings: wanted.holdings.clone(),
                agreement: wanted.agreement.clone(),
                orders: Arc::clone(&wanted.orders),
                rate: 0,
                refresh: settings.refresh,
            },
            keys: Vec::new(),
            settings: settings.clone(),
            store,
            factory,
            entries: Vec::new(),
            status: SyncStatus::default(),
            join,
            rejoins: wanted.rejoins,
            resyncs: wanted.resyncs,
            last_id: 0,
            complained: HashMap::new(),
        };
        node.configure(settings, Instant::now());
        node
    }

    /// Takes what is wanted now; what is unchanged goes on. Gives the entries that are new.
    pub fn want(&mut self, wanted: &Wanted, now: Instant) -> Vec<EntryId> {
        let added = if wanted.settings == self.settings {
            Vec::new()
        } else {
            self.configure(wanted.settings.clone(), now)
        };
        self.ours.holdings.clone_from(&wanted.holdings);
        self.ours.orders = Arc::clone(&wanted.orders);
        if self.ours.agreement != wanted.agreement {
            self.ours.agreement.clone_from(&wanted.agreement);
            for index in 0..self.entries.len() {
                self.compare(index);
            }
        }
        if self.rejoins != wanted.rejoins {
            self.rejoins = wanted.rejoins;
            self.join = Join::new(now);
            for entry in &mut self.entries {
                entry.complete = false;
                entry.peer.nudge(now);
                if let Some(incoming) = &mut entry.incoming {
                    incoming.receiver.ask_again();
                }
            }
        }
        if self.resyncs != wanted.resyncs {
            self.resyncs = wanted.resyncs;
            self.resync(now);
        }
        self.entries.iter().for_each(Entry::wake);
        added
    }

    fn configure(&mut self, settings: SyncSettings, now: Instant) -> Vec<EntryId> {
        let mut name = settings.node.clone();
        while name.len() > MAX_NAME {
            name.pop();
        }
        self.ours.hello.node = name;
        self.ours.hello.listen = settings.listen;
        self.ours.rate = u64::from(settings.bandwidth) * 125_000 / settings.peers.len().max(1) as u64;
        self.ours.refresh = settings.refresh;
        self.keys = Psk::of(&settings.keys);
        let mut former = std::mem::take(&mut self.entries);
        let mut added = Vec::new();
        for address in &settings.peers {
            let known = former.iter().position(|entry| entry.address == *address);
            self.entries.push(match known {
                Some(index) => former.swap_remove(index),
                None => {
                    self.last_id += 1;
                    added.push(self.last_id);
                    Entry::new(self.last_id, *address, now)
                }
            });
        }
        // Their tasks find no entry any more, and end.
        former.iter().for_each(Entry::wake);
        self.settings = settings;
        added
    }

    /// The entry of a peer, and what is needed to talk to it; None if it is none (any more).
    pub fn entry(&mut self, id: EntryId) -> Option<(&mut Entry, &Ours, &mut dyn FlowStore)> {
        let entry = self.entries.iter_mut().find(|entry| entry.id == id)?;
        Some((entry, &self.ours, self.store.as_mut()))
    }

    /// The peer that says it listens there and calls from there.
    pub fn named(&self, listen: SocketAddr, from: IpAddr) -> Option<(EntryId, SocketAddr)> {
        let is_it = |entry: &&Entry| {
            if listen.ip().is_unspecified() {
                // It listens everywhere; where it calls from has to tell.
                entry.address.ip() == from && entry.address.port() == listen.port()
            } else {
                entry.address == listen
            }
        };
        self.entries.iter().find(is_it).map(|entry| (entry.id, entry.address))
    }

    /// A peer has greeted on a connection of its own; an earlier one of it is over.
    pub fn greeted(&mut self, id: EntryId, changed: Rc<Notify>, now: Instant) -> Option<u64> {
        self.last_id += 1;
        let session = self.last_id;
        let (entry, ours, _) = self.entry(id)?;
        let receiver = Receiver::new(ours.hello.clone(), now);
        if let Some(former) = entry.incoming.replace(Incoming { session, changed, receiver }) {
            former.changed.notify_one();
        } else {
            entry.since = now;
        }
        // Whoever calls can be called.
        entry.peer.nudge(now);
        entry.changed.notify_one();
        Some(session)
    }

    /// A message of a peer, on its own connection.
    ///
    /// # Errors
    /// The connection is to be closed; so it is where None comes back, since it is not the peer's last one.
    pub fn told(
        &mut self,
        id: EntryId,
        session: u64,
        message: &[u8],
        now: Instant,
    ) -> Option<Result<(), Refused>> {
        let index = self.entries.iter().position(|entry| entry.id == id)?;
        let entry = self.entries.get_mut(index)?;
        let incoming = entry.incoming.as_mut().filter(|incoming| incoming.session == session)?;
        let received = incoming.receiver.received(
            now,
            message,
            &self.ours.holdings,
            self.store.as_mut(),
            &mut entry.receiving,
        );
        entry.complete |= incoming.receiver.is_complete();
        self.compare(index);
        Some(received)
    }

    /// Does a slice (milliseconds) of what the last full sync on a peer's own connection has left to do.
    pub fn retire_some(&mut self, id: EntryId, session: u64) {
        let Some(entry) = self.entries.iter_mut().find(|entry| entry.id == id) else { return };
        if let Some(incoming) = entry.incoming.as_mut().filter(|incoming| incoming.session == session) {
            let store = self.store.as_mut();
            incoming.receiver.retire_some(&self.ours.holdings, store, &mut entry.receiving);
        }
    }

    /// A peer's own connection has ended.
    pub fn hung_up(&mut self, id: EntryId, session: u64, now: Instant) {
        if let Some((entry, ..)) = self.entry(id)
            && entry.incoming.as_ref().is_some_and(|incoming| incoming.session == session)
        {
            entry.incoming = None;
            entry.since = now;
        }
    }

    /// Says once for each change where a peer's configuration differs.
    fn compare(&mut self, index: usize) {
        let Some(entry) = self.entries.get_mut(index) else { return };
        let Some(theirs) = entry.incoming.as_ref().and_then(|incoming| incoming.receiver.agreement()) else {
            return;
        };
        let drift = self.ours.agreement.drift(theirs);
        if drift == entry.drift {
            return;
        }
        entry.drift = drift;
    }

    /// Tells every peer all flows again.
    pub fn resync(&mut self, now: Instant) {
        for entry in &mut self.entries {
            entry.peer.resync(now);
            entry.changed.notify_one();
        }
    }

    /// Flows have changed.
    pub fn events(&mut self, ids: &[FlowId], now: Instant) {
        self.status.events += ids.len() as u64;
        for entry in &mut self.entries {
            entry.peer.events(now, ids);
            entry.changed.notify_one();
        }
    }

    /// The total of the events that were lost; more than before means a full sync.
    pub fn lost(&mut self, total: u64, now: Instant) {
        if total > self.status.lost_events {
            warn!(
                lost = total - self.status.lost_events,
                "the data plane had more to tell than fits: all flows are told again"
            );
            self.resync(now);
        }
        self.status.lost_events = total;
    }

    /// Counts what was refused, and complains, but not all the time.
    pub fn refuse(&mut self, peer: Option<EntryId>, from: SocketAddr, why: Refused, now: Instant) {
        let entry = peer.and_then(|id| self.entries.iter_mut().find(|entry| entry.id == id));
        let address = entry.as_ref().map(|entry| entry.address);
        let counts = entry.map_or(&mut self.status.refused, |entry| &mut entry.refused);
        *counts.entry(why).or_default() += 1;
        let last = self.complained.get(&(address, why));
        if last.is_none_or(|last| now.saturating_duration_since(*last) >= QUIET) {
            self.complained.insert((address, why), now);
            warn!(%from, reason = why.text(), "flow replication refused a connection");
        }
    }

    /// Whether it listens, or why not.
    pub fn listening(&mut self, result: Result<SocketAddr, String>) {
        (self.status.listening, self.status.listen_error) = match result {
            Ok(address) => (Some(address), None),
            Err(error) => (None, Some(error)),
        };
    }

    /// Why events or a walk do not work; None if they do.
    pub fn store_error(&mut self, error: Option<String>) {
        self.status.store_error = error;
    }

    /// Everything, as of now.
    pub fn status(&mut self, now: Instant) -> SyncStatus {
        let seen = self.entries.iter().map(|entry| Seen {
            reached: entry.peer.is_reached() || entry.incoming.is_some(),
            complete: entry.complete,
        });
        self.status.synced = self.join.is_done(now, seen);
        let mut status = self.status.clone();
        status.peers = self.entries.iter().map(|entry| peer_status(entry, now)).collect();
        status
    }
}

fn peer_status(entry: &Entry, now: Instant) -> PeerStatus {
    let receiver = entry.incoming.as_ref().map(|incoming| &incoming.receiver);
    let mut status = PeerStatus::new(entry.address);
    status.node = entry.peer.node().map(str::to_owned);
    status.sending = entry.peer.status(now);
    status.receiving = entry.receiving.clone();
    status.receiving.connected = receiver.is_some();
    status.receiving.complete = receiver.is_some_and(Receiver::is_complete);
    status.receiving.since_ms =
        u64::try_from(now.saturating_duration_since(entry.since).as_millis()).unwrap_or(u64::MAX);
    status.holds = receiver.map(|receiver| receiver.holds().clone()).unwrap_or_default();
    status.orders = receiver.map(|receiver| receiver.orders().to_vec()).unwrap_or_default();
    status.drift.clone_from(&entry.drift);
    status.refused.clone_from(&entry.refused);
    status
}
