//! The connection log, as the controller has it: when it runs, and who reads for it what the programs tell of flows.
//!
//! There is one reader of `FLOW_EVENTS` at a time. With `[sync]` that is the exchange of flows, which passes everything on;
//! without, a thread of ours. It ends before the exchange begins, and begins after that has ended.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{sync::Notify, time::sleep};
use tracing::{error, warn};

use super::Controller;
use crate::{
    config::model::Config,
    connections::{
        LogThread, Settings, Tap,
        status::ConnectionLogStatus,
        tap::{News, Outlet, tap},
    },
    dataplane::{DataplaneError, FlowEvents, ReplicaSource},
    sync::record::FlowId,
};

/// What cannot be opened is tried again so much later.
const OPEN_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether events were lost.
const LOOK_FOR_LOST: Duration = Duration::from_millis(500);
/// Events that are passed on at once.
const BATCH: usize = 4096;
/// The last records get so much time.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Connections {
    tap: Tap,
    /// Until the thread has it.
    outlet: Option<Outlet>,
    thread: Option<LogThread>,
    reader: Option<Reader>,
    settings: Option<Settings>,
    held: Option<BTreeSet<IpAddr>>,
}

impl Default for Connections {
    fn default() -> Self {
        let (tap, outlet) = tap();
        Self { tap, outlet: Some(outlet), thread: None, reader: None, settings: None, held: None }
    }
}

impl Connections {
    /// Where others put in what they have to tell.
    pub(super) fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Ends our reader where another one is to begin, or nobody wants to know.
    fn make_room(&mut self, config: &Config) {
        if config.sync.is_some() || !Settings::of(config).is_on() {
            self.reader = None;
        }
    }

    /// Starts or changes the log, as the configuration says. The exchange of flows is as configured by now.
    fn configure(&mut self, config: &Config) {
        let settings = Settings::of(config);
        let is_on = settings.is_on();
        if is_on && let Some(outlet) = self.outlet.take() {
            match LogThread::spawn(outlet) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => error!("connections are not logged: no thread for it: {error}"),
            }
        }
        self.tap.open(is_on && self.thread.is_some());
        if self.thread.is_some() && self.settings.as_ref() != Some(&settings) {
            self.tap.tell(News::Configure(Box::new(settings.clone())));
            // To a thread that has just begun, this is news, too.
            if self.settings.replace(settings).is_none()
                && let Some(held) = self.held.clone()
            {
                self.tap.tell(News::Held(held));
            }
        }
        if self.tap.is_open() && config.sync.is_none() && self.reader.is_none() {
            let source = ReplicaSource::at(&config.node.pin_path);
            match Reader::spawn(source, self.tap.clone()) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => error!("what happens to connections is not read: no thread for it: {error}"),
            }
        }
    }

    /// Which VIPs are ours.
    pub(super) fn know(&mut self, vips: BTreeSet<IpAddr>) {
        if self.held.as_ref() != Some(&vips) {
            self.held = Some(vips.clone());
            if self.thread.is_some() {
                self.tap.tell(News::Held(vips));
            }
        }
    }

    /// What there is to tell about it; `None` where it does not run.
    pub(super) fn status(&self) -> Option<ConnectionLogStatus> {
        self.thread.as_ref().filter(|_| self.tap.is_open()).map(LogThread::status)
    }

    /// What is wrong, in words for the operator.
    pub(super) fn problem(&self) -> Option<String> {
        self.status()?.error.map(|error| format!("connections are not logged: {error}"))
    }

    /// Ends it, once what it knows has been written, or has had its time.
    pub(super) async fn stop(&mut self) {
        self.reader = None;
        self.tap.tell(News::Stop);
        if let Some(mut thread) = self.thread.take() {
            thread.ended(LAST_WORDS).await;
        }
    }
}

impl Controller {
    /// Starts, changes or ends what follows flows: their exchange with the other nodes, and the connection log.
    pub(super) fn configure_followers(&mut self) {
        self.connections.make_room(&self.config);
        let orders = self.steering.overrides.words();
        self.replication.configure(&self.config, &self.connections.tap(), orders);
        self.connections.configure(&self.config);
    }
}

/// The events on their way to somebody else: what passes is told to the connection log, too.
pub(super) struct Tapped {
    pub(super) events: FlowEvents,
    tap: Tap,
    lost: AtomicU64,
}

impl Tapped {
    /// Those that nobody has read until now are gone: the connection log looks for itself.
    pub(super) fn new(events: FlowEvents, tap: Tap) -> Self {
        tap.missed();
        Self { events, tap, lost: AtomicU64::new(0) }
    }

    /// Waits for some, as [`FlowEvents::next`] does.
    pub(super) async fn next(&mut self, batch: &mut Vec<FlowId>, limit: usize) -> io::Result<()> {
        self.events.next(batch, limit).await?;
        if self.tap.is_open() {
            self.tap.tell(News::Changed(batch.clone()));
        }
        Ok(())
    }

    /// How many were lost.
    pub(super) fn lost(&self) -> Result<u64, DataplaneError> {
        let lost = self.events.lost()?;
        if self.lost.swap(lost, Ordering::Relaxed) != lost {
            self.tap.missed();
        }
        Ok(lost)
    }
}

/// Our own reader. It ends when this is dropped, and has ended then.
struct Reader {
    stop: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn spawn(source: ReplicaSource, tap: Tap) -> io::Result<Self> {
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("flow-events".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.notified() => {}
                    () = read(&source, &tap) => {}
                }
            });
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.notify_one();
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but events and this.
            let _ = thread.join();
        }
    }
}

/// Reads for ever; what cannot be opened or read is opened again.
async fn read(source: &ReplicaSource, tap: &Tap) {
    loop {
        if let Ok(events) = source.events() {
            let mut events = Tapped::new(events, tap.clone());
            if let Err(error) = pass_on(&mut events).await {
                warn!(%error, "what happens to connections cannot be read");
            }
        }
        sleep(OPEN_AGAIN).await;
    }
}

async fn pass_on(events: &mut Tapped) -> io::Result<()> {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        // Being cut short by the time loses nothing.
        match tokio::time::timeout(LOOK_FOR_LOST, events.next(&mut batch, BATCH)).await {
            Ok(read) => read?,
            Err(_) => drop(events.lost().map_err(io::Error::other)?),
        }
    }
}
