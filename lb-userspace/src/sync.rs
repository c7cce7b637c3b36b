//! Flow replication: each node tells the others its flows, so that whoever takes a VIP over carries on with its connections.
//!
//! ```text
//! data plane -> EventSource -> flow ids -> for each peer: queue -> batches -> codec -> noise -> TCP
//!                                                      FlowStore::walk (full sync) -^
//! TCP -> noise -> codec -> receiver -> FlowStore::apply, retire -> data plane
//! ```
//!
//! A node dials each peer and sends on that connection; on the one that the peer dials, it receives. Both are encrypted, and
//! only who has the key gets past the first message (Noise `NNpsk0`). Nothing that is said before the handshake is complete
//! changes anything.

pub mod agreement;
mod caller;
pub mod codec;
mod connection;
mod join;
mod listener;
#[cfg(test)]
mod memory;
mod node;
pub mod noise;
mod pace;
pub mod peer;
mod pulse;
mod queue;
pub mod receiver;
pub mod record;
pub mod sender;
mod service;
pub mod status;

use std::{
    collections::BTreeSet,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use self::{
    agreement::Agreement,
    record::{FlowId, FlowStore, StoreError},
    status::SyncStatus,
};
use crate::{
    config::model::{Config, SyncKeys},
    steering::words::Word,
};

/// What the service has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncSettings {
    /// This node's name.
    pub node: String,
    /// Where this node listens.
    pub listen: SocketAddr,
    /// Where the others do.
    pub peers: Vec<SocketAddr>,
    /// What all nodes share.
    pub keys: SyncKeys,
    /// What this node sends at most, to all peers together, in Mbit/s.
    pub bandwidth: u32,
    /// How often all flows are told again, so that peers know how long each has been silent.
    pub refresh: Duration,
}

impl SyncSettings {
    /// How often all flows are told again.
    pub const REFRESH: Duration = Duration::from_secs(5 * 60);

    /// What a configuration says; None without `[sync]`.
    pub fn of(config: &Config) -> Option<Self> {
        config.sync.as_ref().map(|sync| Self {
            node: config.node.name.clone(),
            listen: sync.listen,
            peers: sync.peers.clone(),
            keys: sync.keys.clone(),
            bandwidth: sync.bandwidth,
            refresh: Self::REFRESH,
        })
    }
}

/// Opens what the service reads and writes; called on the service's thread, inside its tokio runtime, and again after an
/// error. Each walk gets a store of its own.
pub trait StoreFactory: Send + Sync {
    /// The flows.
    ///
    /// # Errors
    /// They cannot be opened (yet).
    fn open(&self) -> Result<Box<dyn FlowStore>, StoreError>;

    /// What happens to them.
    ///
    /// # Errors
    /// It cannot be opened (yet).
    fn events(&self) -> Result<Box<dyn EventSource>, StoreError>;
}

/// Where flows that have changed come from: the ring buffer of the data plane.
pub trait EventSource {
    /// Waits until at least one flow has changed, and gives all that have, at most some thousands at once. Dropping the future
    /// loses nothing.
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Vec<FlowId>>> + '_>>;

    /// How many events could not be told, since ever; when it grows, a full sync follows.
    fn lost(&self) -> u64;
}

/// What the controller wants of the service: a level, not a list of commands.
#[derive(Clone, Debug)]
struct Wanted {
    settings: SyncSettings,
    holdings: BTreeSet<IpAddr>,
    agreement: Agreement,
    orders: Arc<Vec<Word>>,
    /// Grows with each [`SyncHandle::rejoin`].
    rejoins: u64,
    /// Grows with each [`SyncHandle::resync`].
    resyncs: u64,
    stop: bool,
}

/// The service, on a thread of its own.
pub struct SyncService;

impl SyncService {
    /// Starts it. It goes on trying where it cannot listen or cannot open the flows yet; its status says so.
    ///
    /// # Errors
    /// No thread or no runtime can be had.
    pub fn spawn(
        settings: SyncSettings,
        factory: Box<dyn StoreFactory>,
        agreement: Agreement,
    ) -> io::Result<SyncHandle> {
        let wanted = Wanted {
            settings,
            holdings: BTreeSet::new(),
            agreement,
            orders: Arc::default(),
            rejoins: 0,
            resyncs: 0,
            stop: false,
        };
        let (wanted_sender, wanted_receiver) = watch::channel(wanted);
        let (status_sender, status) = watch::channel(SyncStatus::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("xvip-sync".to_owned()).spawn(move || {
            runtime.block_on(service::run(wanted_receiver, factory, status_sender));
        })?;
        Ok(SyncHandle { wanted: wanted_sender, status, thread: Some(thread) })
    }
}

/// Leads the service. Dropping it ends the service, too.
pub struct SyncHandle {
    wanted: watch::Sender<Wanted>,
    status: watch::Receiver<SyncStatus>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SyncHandle {
    /// The VIPs that this node holds now: its word counts for their flows.
    pub fn set_holdings(&self, holdings: BTreeSet<IpAddr>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.holdings != holdings;
            wanted.holdings = holdings;
            changed
        });
    }

    /// What this node's configuration says now.
    pub fn set_agreement(&self, agreement: Agreement) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.agreement != agreement;
            wanted.agreement = agreement;
            changed
        });
    }

    /// What operators have told this node about backends, all of it. What peers were told is in [`PeerStatus::orders`].
    ///
    /// [`PeerStatus::orders`]: status::PeerStatus::orders
    pub fn set_orders(&self, orders: Vec<Word>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted.orders != orders;
            wanted.orders = Arc::new(orders);
            changed
        });
    }

    /// Other settings: connections to peers that stay, with keys that stay, go on.
    pub fn reconfigure(&self, settings: SyncSettings) {
        self.wanted.send_if_modified(|wanted| {
            let changed = wanted.settings != settings;
            wanted.settings = settings;
            changed
        });
    }

    /// Tells every peer all flows again.
    pub fn resync(&self) {
        self.wanted.send_modify(|wanted| wanted.resyncs += 1);
    }

    /// Asks every peer for all its flows again, as after a link that was cut: [`Self::synced`] is false until they are there.
    pub fn rejoin(&self) {
        self.wanted.send_modify(|wanted| wanted.rejoins += 1);
    }

    /// What it does, at most 200 ms old.
    pub fn status(&self) -> SyncStatus {
        self.status.borrow().clone()
    }

    /// The same as a channel that tells when it changes.
    pub fn watch(&self) -> watch::Receiver<SyncStatus> {
        self.status.clone()
    }

    /// Whether each peer that can be reached has given all its flows since the start or the last [`Self::rejoin`]. A peer that
    /// has not been reached for a second counts as unreachable; and after five seconds this is true in any case.
    pub fn synced(&self) -> bool {
        self.status.borrow().synced
    }

    /// Ends it, and waits until its thread has ended (some milliseconds).
    pub fn shutdown(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.wanted.send_modify(|wanted| wanted.stop = true);
        if let Some(thread) = self.thread.take() {
            // The thread has nobody to tell about a panic, and this one goes on in any case.
            let _ = thread.join();
        }
    }
}

impl Drop for SyncHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
