//! The way into the connection log: whoever has something to tell puts it into a bounded queue, and never waits.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    time::SystemTime,
};

use super::{snapshot::Snapshot, work::Settings};
use crate::{resets::ResetReason, sync::record::FlowId};

/// So many flows wait at most. More are dropped, and found by a walk.
const MOST: usize = 1 << 16;

/// What there is to tell.
#[derive(Clone, Debug)]
pub enum News {
    /// Something has changed about these flows.
    Changed(Vec<FlowId>),
    /// We have reset a flow, which was so before.
    Severed(Box<Snapshot>, ResetReason),
    /// These flows were over, and are removed.
    Removed(Vec<Snapshot>),
    /// The VIPs that are this node's.
    Held(BTreeSet<IpAddr>),
    /// What is to be done.
    Configure(Box<Settings>),
    /// Nothing more: write what there is, and end.
    Stop,
}

impl News {
    /// How many flows it is about. What is about none is few, and always taken.
    fn flows(&self) -> usize {
        match self {
            Self::Changed(flows) => flows.len(),
            Self::Severed(..) => 1,
            Self::Removed(flows) => flows.len(),
            Self::Held(_) | Self::Configure(_) | Self::Stop => 0,
        }
    }
}

/// News, and when they were told.
#[derive(Clone, Debug)]
pub struct Told {
    /// When.
    pub at: SystemTime,
    /// What.
    pub news: News,
}

#[derive(Debug, Default)]
struct Shared {
    is_open: AtomicBool,
    /// Flows in the queue.
    waiting: AtomicUsize,
    dropped: AtomicU64,
    missed: AtomicBool,
}

/// Where news are put in. While nobody wants them, they are not taken.
#[derive(Clone, Debug)]
pub struct Tap {
    queue: mpsc::Sender<Told>,
    shared: Arc<Shared>,
}

/// Where they come out.
#[derive(Debug)]
pub struct Outlet {
    queue: mpsc::Receiver<Told>,
    shared: Arc<Shared>,
}

/// A queue, closed.
pub fn tap() -> (Tap, Outlet) {
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::new(Shared::default());
    (Tap { queue: sender, shared: Arc::clone(&shared) }, Outlet { queue: receiver, shared })
}

impl Tap {
    /// Whether news about flows are wanted.
    pub fn is_open(&self) -> bool {
        self.shared.is_open.load(Ordering::Relaxed)
    }

    /// Begins or stops taking them.
    pub fn open(&self, is_open: bool) {
        self.shared.is_open.store(is_open, Ordering::Relaxed);
    }

    /// Takes news, unless nobody wants them or there are too many.
    pub fn tell(&self, news: News) {
        let flows = news.flows();
        if flows > 0 {
            if !self.is_open() {
                return;
            }
            if self.shared.waiting.fetch_add(flows, Ordering::Relaxed) + flows > MOST {
                self.shared.waiting.fetch_sub(flows, Ordering::Relaxed);
                self.shared.dropped.fetch_add(flows as u64, Ordering::Relaxed);
                self.missed();
                return;
            }
        }
        // Whoever has taken the other end away wants nothing any more.
        let _ = self.queue.send(Told { at: SystemTime::now(), news });
    }

    /// Something may have happened that nobody has told.
    pub fn missed(&self) {
        self.shared.missed.store(true, Ordering::Relaxed);
    }
}

impl Outlet {
    /// The next, within this time.
    ///
    /// # Errors
    /// There is none, or there will be none any more.
    pub fn next(&self, within: std::time::Duration) -> Result<Told, mpsc::RecvTimeoutError> {
        let told = self.queue.recv_timeout(within)?;
        self.shared.waiting.fetch_sub(told.news.flows(), Ordering::Relaxed);
        Ok(told)
    }

    /// Whether something was missed since this was last asked.
    pub fn take_missed(&self) -> bool {
        self.shared.missed.swap(false, Ordering::Relaxed)
    }

    /// How many found no room.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ids(count: usize) -> News {
        let id = FlowId { client: ([10, 0, 0, 1], 1).into(), service: ([10, 0, 0, 2], 2).into() };
        News::Changed(vec![id; count])
    }

    #[test]
    fn what_does_not_fit_is_counted_and_what_must_come_through_does() {
        let (tap, outlet) = tap();
        tap.tell(ids(3));
        assert!(outlet.next(Duration::ZERO).is_err(), "nobody wants it");
        tap.open(true);
        tap.tell(ids(MOST - 1));
        tap.tell(ids(2));
        tap.tell(ids(1));
        tap.tell(ids(1));
        tap.tell(News::Stop);
        assert_eq!(outlet.dropped(), 3);
        assert!(outlet.take_missed() && !outlet.take_missed());
        let mut flows = Vec::new();
        while let Ok(told) = outlet.next(Duration::ZERO) {
            flows.push(told.news.flows());
        }
        assert_eq!(flows, [MOST - 1, 1, 0]);
        tap.tell(ids(MOST));
        assert_eq!(
            outlet.next(Duration::ZERO).map(|told| told.news.flows()),
            Ok(MOST),
            "there is room again"
        );
    }
}
