//! The exchange of flows with the other nodes: when it runs, what it is told, and what waits for it.
//!
//! A node that (re)joins must have the flows of the present owner before it takes the VIP, or it would break them. So VRRP
//! waits for them at the start, after a link that was cut, and after a pause of this process in which another node took
//! over. The wait ends at once where no peer can be reached, and after some seconds in any case: a VIP that nobody has
//! breaks every connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future, pending},
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{error, info};

use super::{Controller, connections::Tapped, set_problem};
use crate::{
    config::model::Config,
    connections::Tap,
    dataplane::ReplicaSource,
    desired::{BackendIds, Desired},
    netlink::Link,
    replica::Landmarks,
    steering::words::Word,
    sync::{
        EventSource, StoreFactory, SyncHandle, SyncService, SyncSettings,
        agreement::Agreement,
        record::{FlowId, FlowStore, StoreError},
        status::{SendingState, SyncStatus},
    },
};

/// Another node has taken over by then, if it was a pause that mattered.
const PAUSE_MATTERS: Duration = Duration::from_secs(3);
/// After a pause the flows of the others are not waited for again so soon.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// How often it is looked whether the flows are there.
const LOOK: Duration = Duration::from_millis(50);
/// What the service says of itself is no older.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(300);
/// What is to be told yet when this node stops gets so much time.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Events that are passed on at once.
const BATCH: usize = 4096;

/// See the module.
pub(super) struct Replication {
    handle: Option<SyncHandle>,
    landmarks: watch::Sender<Arc<Landmarks>>,
    /// The VIPs that are ours, and since when.
    held: BTreeMap<IpAddr, Instant>,
    /// Since when this process has run without a pause, as far as that has been dealt with.
    running_since: Option<Instant>,
    /// When the flows of the others were last asked for again.
    rejoined: Option<Instant>,
    /// What operators have told the peers about backends.
    heard_orders: Vec<Word>,
}

impl Default for Replication {
    fn default() -> Self {
        Self {
            handle: None,
            landmarks: watch::Sender::new(Arc::default()),
            held: BTreeMap::new(),
            running_since: None,
            rejoined: None,
            heard_orders: Vec::new(),
        }
    }
}

impl Replication {
    /// Starts, changes or ends the exchange, as the configuration says.
    pub(super) fn configure(&mut self, config: &Config, tap: &Tap, orders: Vec<Word>) {
        let Some(settings) = settings(config) else {
            if let Some(handle) = self.handle.take() {
                info!("flows are not exchanged any more: there is no [sync]");
                handle.shutdown();
            }
            return;
        };
        let agreement = Agreement::of(config);
        match &self.handle {
            Some(handle) => {
                handle.reconfigure(settings);
                handle.set_agreement(agreement);
                handle.set_orders(orders);
            }
            None => {
                let maps = Maps {
                    source: ReplicaSource::at(&config.node.pin_path),
                    landmarks: self.landmarks.subscribe(),
                    tap: tap.clone(),
                };
                match SyncService::spawn(settings, Box::new(maps), agreement) {
                    Ok(handle) => {
                        handle.set_holdings(self.held.keys().copied().collect());
                        handle.set_orders(orders);
                        self.handle = Some(handle);
                    }
                    Err(error) => error!("flows are not exchanged: no thread for it: {error}"),
                }
            }
        }
    }

    /// What the maps say by now, and which VIPs are ours.
    pub(super) fn know(&mut self, desired: &Desired, ids: &BackendIds, links: &[Link], now: Instant) {
        let vips: BTreeSet<IpAddr> = desired.addresses.iter().map(|(vip, _)| *vip).collect();
        self.held.retain(|vip, _| vips.contains(vip));
        for vip in &vips {
            self.held.entry(*vip).or_insert(now);
        }
        let landmarks = Landmarks::new(&desired.tables, ids, links, self.held.clone());
        self.landmarks.send_if_modified(|known| {
            let is_news = **known != landmarks;
            if is_news {
                *known = Arc::new(landmarks);
            }
            is_news
        });
        if let Some(handle) = &self.handle {
            handle.set_holdings(vips);
        }
    }

    /// Whether the flows of every peer that can be reached are here, or have had their time.
    pub(super) fn is_synced(&self) -> bool {
        let is_published = self.rejoined.is_none_or(|at| at.elapsed() >= PUBLISHED_WITHIN);
        self.handle.as_ref().is_none_or(|handle| is_published && handle.synced())
    }

    /// Asks for the flows of the others again; [`Self::is_synced`] says when they are here.
    pub(super) fn rejoin(&mut self) {
        if let Some(handle) = &self.handle {
            handle.rejoin();
            self.rejoined = Some(Instant::now());
        }
    }

    /// What there is to tell about it; `None` without `[sync]`.
    pub(super) fn status(&self) -> Option<SyncStatus> {
        self.handle.as_ref().map(SyncHandle::status)
    }

    /// What operators have told this node about backends, for its peers.
    pub(super) fn tell_orders(&self, orders: Vec<Word>) {
        if let Some(handle) = &self.handle {
            handle.set_orders(orders);
        }
    }

    /// What operators have told the peers, where that is not what it was when this was asked last.
    pub(super) fn new_orders(&mut self) -> Option<Vec<Word>> {
        let peers = self.handle.as_ref()?.status().peers;
        let orders: Vec<Word> = peers.into_iter().flat_map(|peer| peer.orders).collect();
        let is_news = orders != self.heard_orders;
        self.heard_orders.clone_from(&orders);
        is_news.then_some(orders)
    }

    /// The peers that hear of an order later, or not at all; `None` without `[sync]`.
    pub(super) fn who_is_away(&self) -> Option<Vec<String>> {
        let peers = self.status()?.peers.into_iter();
        let away =
            peers.filter(|peer| matches!(peer.sending.state, SendingState::Down | SendingState::Connecting));
        Some(away.map(|peer| peer.node.unwrap_or_else(|| peer.address.to_string())).collect())
    }

    /// What is wrong, in words for the operator.
    pub(super) fn problems(&self) -> Vec<String> {
        self.status().as_ref().map(problems).unwrap_or_default()
    }

    /// Whether some peer's flows are not here any more as they come, and have not been asked for of late: on a machine that
    /// has no time for us, VRRP must not wait for ever.
    fn has_lost_touch(&self, now: Instant) -> bool {
        let is_late = self.rejoined.is_none_or(|at| now.saturating_duration_since(at) >= ASK_AGAIN);
        is_late
            && self.status().is_some_and(|status| status.peers.iter().any(|peer| !peer.receiving.complete))
    }

    /// Whether this process was paused of late, and nobody has dealt with that.
    fn was_paused(&mut self, running_since: Option<Instant>, now: Instant) -> bool {
        let Some(since) = running_since.filter(|_| running_since != self.running_since) else { return false };
        let is_start = self.running_since.is_none();
        let is_old = now.saturating_duration_since(since) > PAUSE_MATTERS;
        if is_start || is_old {
            self.running_since = running_since;
        }
        !is_start && !is_old
    }

    /// Ends it, once what others do not know yet has been told, or has had its time.
    pub(super) async fn stop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        let until = tokio::time::Instant::now() + LAST_WORDS;
        // What the last packets did is passed on within two batches.
        tokio::time::sleep(LOOK).await;
        while tokio::time::Instant::now() < until && has_more_to_say(&handle.status()) {
            tokio::time::sleep(LOOK / 5).await;
        }
        if tokio::task::spawn_blocking(move || handle.shutdown()).await.is_err() {
            error!("the exchange of flows could not be shut down in order");
        }
    }
}

/// The settings of the exchange, where there is one.
fn settings(config: &Config) -> Option<SyncSettings> {
    // Who only observes has no flows.
    let settings = SyncSettings::of(config).filter(|_| !config.node.observe)?;
    // A flow that is only read of must not look idle to the next owner of its VIP.
    let refresh = settings.refresh.min(config.flows.idle_timeout / 3).max(Duration::from_secs(1));
    Some(SyncSettings { refresh, ..settings })
}

fn has_more_to_say(status: &SyncStatus) -> bool {
    status.peers.iter().any(|peer| {
        peer.sending.state == SendingState::Up && (peer.sending.queued > 0 || peer.sending.lag_ms > 0)
    })
}

fn problems(status: &SyncStatus) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(error) = &status.listen_error {
        problems.push(format!("sync: no flows are taken from peers: {error}"));
    }
    if let Some(error) = &status.store_error {
        problems.push(format!("sync: flows cannot be read or told: {error}"));
    }
    for peer in &status.peers {
        let name = peer.node.as_ref().map_or_else(|| peer.address.to_string(), Clone::clone);
        if !peer.drift.is_empty() {
            problems.push(format!(
                "sync: the configuration of {name} differs in {}: make them the same",
                peer.drift.join(", ")
            ));
        }
        if matches!(peer.sending.state, SendingState::Down | SendingState::Connecting) {
            let why = peer.sending.last_error.as_deref().unwrap_or("no connection yet");
            problems.push(format!("sync: {name} does not get our flows: {why}"));
        }
    }
    problems
}

/// Waits until it is worth looking whether the flows are here, for ever where nobody waits for them.
pub(super) async fn worth_a_look(waits: bool) {
    if waits { tokio::time::sleep(LOOK).await } else { pending().await }
}

impl Controller {
    /// Whether VRRP waits for flows.
    pub(super) fn waits_for_flows(&self) -> bool {
        (self.join_at.is_some() || self.recheck.is_some() || self.problems.flows.is_some())
            && self.replication.handle.is_some()
    }

    /// After a pause in which another node may have taken over, what there was of flows is out of date. VRRP takes no part
    /// until it is not.
    pub(super) fn look_at_pause(&mut self) {
        if self.replication.handle.is_none() || self.join_at.is_some() || self.config.vrrp.is_empty() {
            return;
        }
        let (since, now) = (self.heartbeat.running_since(), Instant::now());
        if self.replication.was_paused(since, now)
            && self.routers.active().is_empty()
            && self.replication.has_lost_touch(now)
        {
            self.replication.running_since = since;
            self.replication.rejoin();
            let problem = "this node was paused: the flows of the others are fetched first".to_owned();
            set_problem(&mut self.problems.flows, Some(problem));
            self.tell_routers();
        }
    }

    /// Goes on with VRRP where the flows are here.
    pub(super) fn look_at_flows(&mut self) {
        if self.problems.flows.is_some() && self.replication.is_synced() {
            set_problem(&mut self.problems.flows, None);
            self.tell_routers();
        }
    }
}

/// Where the flows are.
struct Maps {
    source: ReplicaSource,
    landmarks: watch::Receiver<Arc<Landmarks>>,
    tap: Tap,
}

impl StoreFactory for Maps {
    fn open(&self) -> Result<Box<dyn FlowStore>, StoreError> {
        let store = self.source.store(self.landmarks.clone());
        store.map(|store| Box::new(store) as Box<dyn FlowStore>).map_err(refused)
    }

    fn events(&self) -> Result<Box<dyn EventSource>, StoreError> {
        let events = self.source.events().map_err(refused)?;
        Ok(Box::new(Tapped::new(events, self.tap.clone())))
    }
}

impl EventSource for Tapped {
    fn next(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Vec<FlowId>>> + '_>> {
        Box::pin(async {
            let mut batch = Vec::new();
            Tapped::next(self, &mut batch, BATCH).await?;
            Ok(batch)
        })
    }

    fn lost(&self) -> u64 {
        // Where that cannot be read, no event can be, either.
        Tapped::lost(self).unwrap_or_default()
    }
}

fn refused(error: impl Into<anyhow::Error>) -> StoreError {
    StoreError(format!("{:#}", error.into()))
}
