//! Where events are told: the one place from which the log, the history and the hooks have them.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use tracing::{Level, warn};

use super::{Chronicle, Event, Severity, file};
use crate::hooks::Hooks;

/// The target of the log lines of events.
pub const TARGET: &str = "xvip::event";
/// So many events wait for the disk. When it is that late, further ones are not written to it.
const WAITING: usize = 1024;

/// Takes events from everywhere. Never waits for a disk, a program or another host.
#[derive(Clone, Debug, Default)]
pub struct Teller(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    chronicle: Mutex<Chronicle>,
    /// To the thread that writes; `None` where nothing is written, and at the end.
    disk: Mutex<Option<Disk>>,
    hooks: Mutex<Hooks>,
}

#[derive(Debug)]
struct Disk {
    events: SyncSender<Event>,
    /// Is closed when the thread ends.
    ended: Receiver<()>,
}

impl Teller {
    /// One that goes on where the daemon before has ended, whose events are in the file at `path`.
    pub fn begin(path: PathBuf) -> Self {
        let mut chronicle = Chronicle::default();
        match file::read(&path) {
            Ok(events) => events.into_iter().for_each(|event| chronicle.add(event)),
            Err(error) => {
                warn!("what happened before is not known: {} cannot be read: {error}", path.display());
            }
        }
        let (sender, events) = sync_channel::<Event>(WAITING);
        let (ending, ended) = channel();
        let write = move || {
            let _until_the_end = ending;
            let mut writer = file::Writer::new(path.clone());
            let mut fails = false;
            for event in events {
                match writer.add(&event) {
                    Ok(()) => fails = false,
                    Err(error) => {
                        if !fails {
                            warn!("events are not written to {}: {error}", path.display());
                        }
                        fails = true;
                    }
                }
            }
        };
        let disk = match thread::Builder::new().name("history".to_owned()).spawn(write) {
            Ok(_) => Some(Disk { events: sender, ended }),
            Err(error) => {
                warn!("events are not written to the disk: no thread for it: {error}");
                None
            }
        };
        Self(Arc::new(Inner {
            chronicle: Mutex::new(chronicle),
            disk: Mutex::new(disk),
            hooks: Mutex::default(),
        }))
    }

    /// Tells an event: to the log, the history and the hooks.
    pub fn tell(&self, event: Event) {
        log(&event);
        self.hooks().offer(&event);
        if let Some(disk) = &*lock(&self.0.disk) {
            // A disk that is so late gets less; what is in memory is whole.
            let _late = disk.events.try_send(event.clone());
        }
        lock(&self.0.chronicle).add(event);
    }

    /// The last `limit` events, in order; with a name, of those that concern it.
    pub fn find(&self, name: Option<&str>, limit: usize) -> Vec<Event> {
        lock(&self.0.chronicle).find(name, limit)
    }

    /// Waits until everything is on the disk, no longer than `within`. What is told later is not. Blocks.
    pub fn finish(&self, within: Duration) {
        let disk = lock(&self.0.disk).take();
        if let Some(Disk { events, ended }) = disk {
            drop(events);
            // An error is the end of the thread.
            let _ended = ended.recv_timeout(within);
        }
    }

    /// Who else is told.
    pub fn hooks(&self) -> MutexGuard<'_, Hooks> {
        lock(&self.0.hooks)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The line in the log: a sentence, and the same in fields, of which those that are `None` are left out.
fn log(event: &Event) {
    let vips = (!event.vips.is_empty()).then(|| event.vips.join(" "));
    let numbers =
        (!event.numbers.is_empty()).then(|| serde_json::to_string(&event.numbers).unwrap_or_default());
    macro_rules! line {
        ($level:expr) => {
            tracing::event!(
                target: TARGET,
                $level,
                event = event.kind.name(),
                name = event.name,
                service = event.service,
                instance = event.instance,
                address = event.address,
                vips,
                from = event.from,
                to = event.to,
                reason = event.reason,
                lasted_ms = event.lasted_ms,
                numbers,
                "{event}"
            )
        };
    }
    // The level of a line is part of what is made of it once, so that each has its own.
    match event.severity {
        Severity::Info => line!(Level::INFO),
        Severity::Warn => line!(Level::WARN),
        Severity::Error => line!(Level::ERROR),
    }
}
