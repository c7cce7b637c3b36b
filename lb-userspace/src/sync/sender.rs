//! What goes to a peer on one connection: news in batches, and all flows when it joins, when too much was missed, and from time
//! to time.
//!
//! No clock, no socket: `received`, `events` and `walked` take input; `next_message` gives what is to be sent until there is
//! nothing; `wake_at` says when to ask again. Memory is bounded by the queue, by what may be under way without an answer, and
//! by two pieces of the walk.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    agreement::Agreement,
    codec::{Answer, Hello, MAX_RECORDS, Telling, answer, encode},
    pace::{Pace, Urgency},
    pulse::Pulse,
    queue::{MOST, Overflow, Queue},
    record::{FlowId, FlowRecord, FlowStore},
    status::{Refused, SendingStatus},
};
use crate::steering::words::Word;

/// News wait that long for more, so that a batch is worth its frame.
pub const LINGER: Duration = Duration::from_millis(5);
/// Bytes that may be under way without an answer; a full sync leaves half of them to news.
const WINDOW: usize = 512 * 1024;
/// Flows that are looked up for one batch: the heartbeat must not wait for thousands that are gone.
const MAX_READS: usize = 2 * MAX_RECORDS;
/// Pieces of the walk that wait here.
const PIECES: usize = 2;
/// The next try after a walk that failed.
const WALK_AGAIN: Duration = Duration::from_secs(1);
/// Batches whose lag is remembered for the median.
const LAGS: usize = 512;

/// What this node says of itself.
#[derive(Clone, Debug)]
pub struct Ours {
    /// The first message.
    pub hello: Hello,
    /// The VIPs that it holds.
    pub holdings: BTreeSet<IpAddr>,
    /// What its configuration says.
    pub agreement: Agreement,
    /// What operators have told it about backends.
    pub orders: Arc<Vec<Word>>,
    /// Bytes per second for this peer.
    pub rate: u64,
    /// From one full sync to the next.
    pub refresh: Duration,
}

/// How far the greeting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    Silent,
    Said,
    Answered,
}

/// A full sync that is under way.
#[derive(Debug)]
struct Walk {
    began: Instant,
    /// Whether the caller knows that it has to walk.
    started: bool,
    pieces: VecDeque<Vec<FlowRecord>>,
    /// Whether all flows are in `pieces` or have been sent.
    ended: bool,
    told: u64,
    /// What was told as news meanwhile: what the walk has of it may be older.
    fresh: HashSet<FlowId>,
    /// The VIPs held since it began; None where news were lost meanwhile.
    held: Option<BTreeSet<IpAddr>>,
}

#[derive(Debug)]
struct UnderWay {
    seq: u64,
    bytes: usize,
    /// When the oldest of its news happened.
    oldest: Option<Instant>,
    ends_sync: bool,
}

/// One connection to a peer, from the handshake to its end.
#[derive(Debug)]
pub struct Sender {
    greeting: Greeting,
    instance: [u8; 16],
    pulse: Pulse,
    pace: Pace,
    rate: u64,
    queue: Queue,
    seq: u64,
    under_way: VecDeque<UnderWay>,
    under_way_bytes: usize,
    told_holdings: Option<BTreeSet<IpAddr>>,
    told_agreement: Option<Agreement>,
    told_orders: Arc<Vec<Word>>,
    walk: Option<Walk>,
    /// When the next full sync is to begin.
    walk_at: Instant,
    joined: bool,
    lags: VecDeque<u64>,
}

impl Sender {
    /// The handshake is complete.
    pub fn new(ours: &Ours, now: Instant) -> Self {
        Self {
            greeting: Greeting::Silent,
            instance: ours.hello.instance,
            pulse: Pulse::new(now),
            pace: Pace::new(ours.rate, now),
            rate: ours.rate,
            queue: Queue::default(),
            seq: 0,
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            told_holdings: None,
            told_agreement: None,
            told_orders: Arc::default(),
            walk: None,
            walk_at: now,
            joined: false,
            lags: VecDeque::new(),
        }
    }

    /// Whether the peer has got all flows once.
    pub const fn has_joined(&self) -> bool {
        self.joined
    }

    /// Whether the peer has greeted back: it is one of ours.
    pub fn is_greeted(&self) -> bool {
        self.greeting == Greeting::Answered
    }

    /// Whether the peer has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.pulse.is_dead(now)
    }

    /// Takes a message of the peer; gives its name when it greets.
    ///
    /// # Errors
    /// The message is none, or not now: the connection is to be closed.
    pub fn received(
        &mut self,
        now: Instant,
        message: &[u8],
        status: &mut SendingStatus,
    ) -> Result<Option<String>, Refused> {
        let answer = answer(message)?;
        let mut name = None;
        match (answer, self.greeting) {
            (Answer::Hello(hello), Greeting::Said) => {
                if hello.instance == self.instance {
                    return Err(Refused::Ourselves);
                }
                self.greeting = Greeting::Answered;
                self.walk_at = now;
                name = Some(hello.node);
            }
            (Answer::Ack(seq), Greeting::Answered) => self.acknowledged(now, seq, status)?,
            (Answer::Again, Greeting::Answered) => self.walk_at = now,
            (Answer::Alive, Greeting::Answered) => {}
            _ => return Err(Refused::Malformed),
        }
        self.pulse.heard(now);
        Ok(name)
    }

    fn acknowledged(&mut self, now: Instant, seq: u64, status: &mut SendingStatus) -> Result<(), Refused> {
        let before = self.under_way.front().map_or(self.seq, |first| first.seq - 1);
        if !(before..=self.seq).contains(&seq) {
            return Err(Refused::Malformed);
        }
        while self.under_way.front().is_some_and(|batch| batch.seq <= seq)
            && let Some(batch) = self.under_way.pop_front()
        {
            self.under_way_bytes -= batch.bytes;
            if let Some(oldest) = batch.oldest {
                let lag = milliseconds(now.saturating_duration_since(oldest));
                status.lag_max_ms = status.lag_max_ms.max(lag);
                if self.lags.len() == LAGS {
                    self.lags.pop_front();
                }
                self.lags.push_back(lag);
            }
            if batch.ends_sync {
                self.joined = true;
                status.full_syncs += 1;
            }
        }
        Ok(())
    }

    /// Flows have changed.
    pub fn events(&mut self, now: Instant, ids: &[FlowId], status: &mut SendingStatus) {
        // A full sync that is still to begin will tell them.
        if !self.is_greeted() || (self.walk.is_none() && self.walk_at <= now) {
            return;
        }
        for id in ids {
            if self.queue.push(*id, now) == Err(Overflow) {
                status.overflows += 1;
                self.missed(now);
                return;
            }
        }
    }

    /// News were lost: all flows are told again.
    pub fn missed(&mut self, now: Instant) {
        self.walk_at = now;
        if let Some(walk) = &mut self.walk {
            walk.held = None;
            walk.fresh.clear();
        }
    }

    /// Whether the caller is to walk over all flows from now on; true once for each walk. What an earlier walk has still to say
    /// is of no use then.
    pub fn starts_walk(&mut self) -> bool {
        self.walk.as_mut().is_some_and(|walk| !std::mem::replace(&mut walk.started, true))
    }

    /// Whether [`Self::walked`] may be called.
    pub fn has_room(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| walk.started && !walk.ended && walk.pieces.len() < PIECES)
    }

    /// The next piece of the walk.
    pub fn walked(&mut self, mut records: Vec<FlowRecord>) {
        let Some(walk) = &mut self.walk else { return };
        while records.len() > MAX_RECORDS {
            walk.pieces.push_back(records.split_off(records.len() - MAX_RECORDS));
        }
        if !records.is_empty() {
            walk.pieces.push_back(records);
        }
    }

    /// The walk is at its end; or could not get there, and begins anew some time later.
    pub fn walk_ended(&mut self, whole: bool, now: Instant) {
        if whole {
            if let Some(walk) = &mut self.walk {
                walk.ended = true;
            }
        } else if self.walk.take().is_some() {
            self.walk_at = now + WALK_AGAIN;
        }
    }

    /// The next message to the peer; None while there is nothing to say.
    pub fn next_message(
        &mut self,
        now: Instant,
        ours: &Ours,
        store: &dyn FlowStore,
        status: &mut SendingStatus,
    ) -> Option<Vec<u8>> {
        let message = self.something(now, ours, store, status);
        let message = message
            .or_else(|| (self.is_greeted() && self.pulse.is_due(now)).then(|| encode(&Telling::Alive)))?;
        self.pulse.said(now);
        self.pace.spend(message.len());
        Some(message)
    }

    fn something(
        &mut self,
        now: Instant,
        ours: &Ours,
        store: &dyn FlowStore,
        status: &mut SendingStatus,
    ) -> Option<Vec<u8>> {
        match self.greeting {
            Greeting::Silent => {
                self.greeting = Greeting::Said;
                return Some(encode(&Telling::Hello(ours.hello.clone())));
            }
            Greeting::Said => return None,
            Greeting::Answered => {}
        }
        if self.rate != ours.rate {
            self.rate = ours.rate;
            self.pace.set_rate(ours.rate, now);
        }
        if self.told_agreement.as_ref() != Some(&ours.agreement) {
            self.told_agreement = Some(ours.agreement.clone());
            return Some(encode(&Telling::Agreement(ours.agreement.clone())));
        }
        if self.told_holdings.as_ref() != Some(&ours.holdings) {
            if let Some(held) = self.walk.as_mut().and_then(|walk| walk.held.as_mut()) {
                held.retain(|vip| ours.holdings.contains(vip));
            }
            self.told_holdings = Some(ours.holdings.clone());
            return Some(encode(&Telling::Holdings(ours.holdings.clone())));
        }
        if self.told_orders != ours.orders {
            self.told_orders = Arc::clone(&ours.orders);
            return Some(encode(&Telling::Orders(ours.orders.to_vec())));
        }
        self.news(now, store, status).or_else(|| self.full(now, ours, status))
    }

    fn news(&mut self, now: Instant, store: &dyn FlowStore, status: &mut SendingStatus) -> Option<Vec<u8>> {
        if self.under_way_bytes >= WINDOW || self.news_at().is_none_or(|due| due > now) {
            return None;
        }
        if !self.pace.allows(Urgency::News, now) {
            return None;
        }
        let oldest = self.queue.oldest();
        let mut records = Vec::new();
        for _ in 0..MAX_READS {
            if records.len() == MAX_RECORDS {
                break;
            }
            let Some((id, _)) = self.queue.pop() else { break };
            if let Some(walk) = &mut self.walk {
                walk.fresh.insert(id);
            }
            // One that is over and forgotten is for the peer to forget by itself, as it does with what has ended.
            records.extend(store.read(&id));
        }
        if self.walk.as_ref().is_some_and(|walk| walk.fresh.len() > MOST) {
            // Too much happens to remember: the next walk tells what this one tells wrong.
            self.missed(now);
        }
        (!records.is_empty()).then(|| self.batch(records, oldest, false, status))
    }

    /// When the oldest news have waited for long enough.
    fn news_at(&self) -> Option<Instant> {
        let oldest = self.queue.oldest()?;
        Some(if self.queue.len() >= MAX_RECORDS { oldest } else { oldest + LINGER })
    }

    fn full(&mut self, now: Instant, ours: &Ours, status: &mut SendingStatus) -> Option<Vec<u8>> {
        if self.under_way_bytes >= WINDOW / 2 {
            return None;
        }
        let Some(walk) = &mut self.walk else {
            if self.walk_at > now {
                return None;
            }
            self.walk_at = now + ours.refresh;
            self.walk = Some(Walk {
                began: now,
                started: false,
                pieces: VecDeque::new(),
                ended: false,
                told: 0,
                fresh: HashSet::new(),
                held: Some(ours.holdings.clone()),
            });
            // What has changed until now is part of it.
            self.queue.clear();
            return Some(encode(&Telling::SyncBegin));
        };
        if !self.pace.allows(Urgency::Full, now) {
            return None;
        }
        if let Some(mut records) = walk.pieces.pop_front() {
            records.retain(|record| !walk.fresh.contains(&record.id));
            walk.told += records.len() as u64;
            return Some(self.batch(records, None, true, status));
        }
        if !walk.ended {
            return None;
        }
        let records = walk.told;
        let held = walk.held.take().unwrap_or_default();
        self.walk = None;
        self.seq += 1;
        let message = encode(&Telling::SyncEnd { seq: self.seq, records, held });
        self.sent(message.len(), None, true);
        Some(message)
    }

    fn batch(
        &mut self,
        records: Vec<FlowRecord>,
        oldest: Option<Instant>,
        full: bool,
        status: &mut SendingStatus,
    ) -> Vec<u8> {
        self.seq += 1;
        status.sent += records.len() as u64;
        let message = encode(&Telling::Records { seq: self.seq, full, records });
        self.sent(message.len(), oldest, false);
        message
    }

    fn sent(&mut self, bytes: usize, oldest: Option<Instant>, ends_sync: bool) {
        self.under_way.push_back(UnderWay { seq: self.seq, bytes, oldest, ends_sync });
        self.under_way_bytes += bytes;
    }

    /// When [`Self::next_message`] or [`Self::is_dead`] may have something else to say than now, if nothing happens until then.
    pub fn wake_at(&self, now: Instant) -> Instant {
        if !self.is_greeted() {
            return self.pulse.dead_at();
        }
        let mut wake = self.pulse.wake_at();
        let mut sooner = |at: Instant| wake = wake.min(at.max(now));
        if self.under_way_bytes < WINDOW
            && let Some(due) = self.news_at()
        {
            sooner(if due > now { due } else { self.pace.ready_at(Urgency::News, now) });
        }
        if self.under_way_bytes < WINDOW / 2 {
            match &self.walk {
                None => sooner(self.walk_at),
                Some(walk) if walk.ended || !walk.pieces.is_empty() => {
                    sooner(self.pace.ready_at(Urgency::Full, now));
                }
                Some(_) => {}
            }
        }
        wake
    }

    /// Writes what is true now into the status.
    pub fn report(&self, now: Instant, status: &mut SendingStatus) {
        let under_way = self.under_way.iter().find_map(|batch| batch.oldest);
        let oldest = under_way.into_iter().chain(self.queue.oldest()).min();
        status.lag_ms = oldest.map_or(0, |oldest| milliseconds(now.saturating_duration_since(oldest)));
        let mut sorted: Vec<u64> = self.lags.iter().copied().collect();
        sorted.sort_unstable();
        status.lag_p50_ms = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
        status.queued = self.queue.len() as u64;
    }

    /// How long the full sync that is under way has taken; None if there is none.
    pub fn walking_for(&self, now: Instant) -> Option<Duration> {
        self.walk.as_ref().map(|walk| now.saturating_duration_since(walk.began))
    }
}

/// Whole milliseconds.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
