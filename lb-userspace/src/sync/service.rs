//! The service's thread: starts the tasks, passes on what happens to flows, and publishes the status.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::{JoinHandle, LocalSet, spawn_local},
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::warn;

use super::{
    EventSource, StoreFactory, Wanted, caller,
    join::Join,
    listener,
    node::{EntryId, Node, Shared},
    record::StoreError,
    status::SyncStatus,
};

/// How often the status is published.
const TICK: Duration = Duration::from_millis(100);
/// The next try to open what could not be opened.
const OPEN_AGAIN: Duration = Duration::from_millis(500);

/// Runs until nobody wants it any more.
pub async fn run(
    wanted: watch::Receiver<Wanted>,
    factory: Box<dyn StoreFactory>,
    status: watch::Sender<SyncStatus>,
) {
    LocalSet::new().run_until(serve(wanted, factory, status)).await;
    // With the set, every task and connection is gone.
}

async fn serve(
    mut wanted: watch::Receiver<Wanted>,
    factory: Box<dyn StoreFactory>,
    status: watch::Sender<SyncStatus>,
) {
    let mut join = Join::new(Instant::now());
    let store = loop {
        match factory.open() {
            Ok(store) => break store,
            Err(StoreError(error)) => {
                let synced =
                    join.is_done(Instant::now(), [super::join::Seen { reached: true, complete: false }]);
                status.send_if_modified(|status| {
                    let said = status.store_error.as_ref() == Some(&error) && status.synced == synced;
                    (status.store_error, status.synced) = (Some(error), synced);
                    !said
                });
            }
        }
        tokio::select! {
            () = sleep(OPEN_AGAIN) => {}
            changed = wanted.changed() => if changed.is_err() || wanted.borrow().stop { return },
        }
    };
    let first = wanted.borrow_and_update().clone();
    let node = Rc::new(RefCell::new(Node::new(&first, store, factory, join)));
    let mut listening = Listening::start(&node, first.settings.listen);
    let ids: Vec<EntryId> = node.borrow().entries.iter().map(|entry| entry.id).collect();
    for id in ids {
        spawn_local(caller::run(node.clone(), id));
    }
    let mut events = None;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut open_at, mut published) = (Instant::now(), None);
    loop {
        if events.is_none() && open_at <= Instant::now() {
            events = open_events(&node);
            open_at = Instant::now() + OPEN_AGAIN;
        }
        tokio::select! {
            changed = wanted.changed() => {
                let now_wanted = wanted.borrow_and_update().clone();
                if changed.is_err() || now_wanted.stop {
                    return;
                }
                let added = node.borrow_mut().want(&now_wanted, Instant::now());
                published = None;
                for id in added {
                    spawn_local(caller::run(node.clone(), id));
                }
                if listening.address != now_wanted.settings.listen {
                    listening = Listening::start(&node, now_wanted.settings.listen);
                }
            }
            happened = next(&mut events) => match happened {
                Ok(ids) => node.borrow_mut().events(&ids, Instant::now()),
                Err(error) => {
                    warn!(%error, "what happens to flows cannot be read");
                    node.borrow_mut().store_error(Some(error.to_string()));
                    events = None;
                }
            },
            _ = tick.tick() => {}
        }
        let now = Instant::now();
        if published.is_none_or(|published| now.saturating_duration_since(published) >= TICK) {
            if let Some(events) = &events {
                node.borrow_mut().lost(events.lost(), now);
            }
            publish(&node, &status, now);
            published = Some(now);
        }
    }
}

fn publish(node: &Shared, status: &watch::Sender<SyncStatus>, now: Instant) {
    let is = node.borrow_mut().status(now);
    status.send_if_modified(|was| {
        let changed = *was != is;
        *was = is;
        changed
    });
}

/// What happened while nobody read it is not known: a full sync makes up for it.
fn open_events(node: &Shared) -> Option<Box<dyn EventSource>> {
    let mut node = node.borrow_mut();
    match node.factory.events() {
        Ok(events) => {
            node.store_error(None);
            node.resync(Instant::now());
            Some(events)
        }
        Err(StoreError(error)) => {
            node.store_error(Some(error));
            None
        }
    }
}

async fn next(events: &mut Option<Box<dyn EventSource>>) -> std::io::Result<Vec<super::record::FlowId>> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// The task that listens; it ends with this.
struct Listening {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Listening {
    fn start(node: &Shared, address: SocketAddr) -> Self {
        Self { address, task: spawn_local(listener::run(node.clone(), address)) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}
