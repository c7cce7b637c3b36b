//! Ending flows from here, so that nobody waits for a backend that is gone: both ends are told by a RST that they believe.
//!
//! ```text
//! controller --ResetOrder--> Resets (thread) --> SEEN_SEVERED in both directions (dataplane/sever.rs)
//!            <---Progress---                 --> frames by a packet socket (segments.rs, injector.rs)
//! ```
//!
//! A flow is marked first: from then on XDP answers whatever either side still sends with a RST that is exact by the
//! packet's own acknowledgement. Then both sides are told at once, since an idle one sends nothing: with the sequence
//! numbers that the flow's entries have, and with an old acknowledgement for whoever is further than these. What may have
//! been lost on its way is said twice more.
//!
//! A thread of its own does all that: orders come while the controller is busy with what has happened, and a walk through
//! a million flows takes its time. It waits for orders and for nothing else; the controller never waits for it.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use lb_common::layout::BackendId;
use tokio::sync::{Notify, watch};

pub use crate::sync::record::FlowId;

use crate::{connections::Tap, dataplane::SeverTables};

pub mod agenda;
mod injector;
pub mod pace;
pub mod segments;
mod work;

/// Some of a backend's flows are to be reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResetOrder {
    /// Whose.
    pub backend: BackendId,
    /// Which of them.
    pub what: What,
    /// How many in a second; 0 is no limit.
    pub rate: u32,
    /// Why. An order replaces the one with the same backend and reason.
    pub why: ResetReason,
}

/// Which flows of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// All that there are when the order is taken.
    All,
    /// So many of those that are open; the ones first that have been silent for the longest, which notice it least.
    Excess(u64),
    /// These, as far as they are the backend's.
    Flows(Vec<FlowId>),
}

/// Why flows are reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResetReason {
    /// The backend is dead.
    BackendDead,
    /// An operator has disabled it.
    Disabled,
    /// An operator has drained it, and its time is up.
    DrainDeadline,
    /// It has more than its share.
    Rebalance,
}

impl ResetReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::BackendDead, Self::Disabled, Self::DrainDeadline, Self::Rebalance];

    /// The word in `status` and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BackendDead => "backend-dead",
            Self::Disabled => "disabled",
            Self::DrainDeadline => "drain-deadline",
            Self::Rebalance => "rebalance",
        }
    }

    /// Whether handshakes that are not complete end with the flows: then the backend gets none any more.
    const fn ends_handshakes(self) -> bool {
        !matches!(self, Self::Rebalance)
    }
}

impl fmt::Display for ResetReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How far an order has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetReport {
    /// Whose flows.
    pub backend: BackendId,
    /// Why.
    pub why: ResetReason,
    /// Which order with this backend and reason it is, from 1 on: a later one begins with nothing done.
    pub order: u64,
    /// Flows reset.
    pub done: u64,
    /// Flows that wait for their turn.
    pub left: u64,
    /// Nothing is left: the order has ended.
    pub last: bool,
    /// From when the order was given until now, or until it ended.
    pub took: Duration,
}

/// All orders, as they stand; those that have ended stay until the next one with the same backend and reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The newest report of each.
    pub orders: BTreeMap<(BackendId, ResetReason), ResetReport>,
    /// Flows reset since this process began, by backend and reason.
    pub totals: BTreeMap<(BackendId, ResetReason), u64>,
    /// What stands in the way, if something does: flows are marked, and who sends is told, but nobody at once.
    pub problem: Option<String>,
}

/// The thread that ends flows; it ends when this is dropped.
#[derive(Debug)]
pub struct Resets {
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
}

enum Command {
    Tables(Option<Box<SeverTables>>),
    Submit(ResetOrder, std::time::Instant),
    Cancel(BackendId, ResetReason),
    Forget(BackendId),
    Tap(Tap),
}

impl Resets {
    /// Starts the thread, in the network namespace of the calling one. `changed` is notified of every progress.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn spawn(changed: Arc<Notify>) -> io::Result<Self> {
        let (commands, received) = mpsc::channel();
        let (publish, progress) = watch::channel(Progress::default());
        let publish = move |now: Progress| {
            let differs = publish.send_if_modified(|known| {
                let differs = *known != now;
                *known = now;
                differs
            });
            if differs {
                changed.notify_one();
            }
        };
        thread::Builder::new()
            .name("resets".to_owned())
            .spawn(move || work::Work::new(publish).serve(&received))?;
        Ok(Self { commands, progress })
    }

    /// The flow tables; without any, orders wait.
    pub fn use_tables(&self, tables: Option<SeverTables>) {
        self.tell(Command::Tables(tables.map(Box::new)));
    }

    /// The connection log, which is told of each flow that is ended.
    pub fn use_tap(&self, tap: Tap) {
        self.tell(Command::Tap(tap));
    }

    /// Gives an order. It replaces the one with the same backend and reason, if that has not ended. Never blocks.
    pub fn submit(&self, order: ResetOrder) {
        self.tell(Command::Submit(order, std::time::Instant::now()));
    }

    /// What an order has not done yet is not done any more.
    pub fn cancel(&self, backend: BackendId, why: ResetReason) {
        self.tell(Command::Cancel(backend, why));
    }

    /// An id is another backend's now: its orders end, and what was counted for it is forgotten.
    pub fn forget(&self, backend: BackendId) {
        self.tell(Command::Forget(backend));
    }

    /// How far all orders are; the channel tells of each change.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    fn tell(&self, command: Command) {
        // The thread lives as long as the channel does.
        let _ = self.commands.send(command);
    }
}
