//! What comes from a peer on one connection.
//!
//! No clock, no socket: `received` takes a message and applies it to the store, `next_message` gives what is to be said.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
    time::Instant,
};

use super::{
    agreement::Agreement,
    codec::{Answer, Hello, Telling, encode, telling},
    pulse::Pulse,
    record::{Authority, FlowId, FlowRecord, FlowStore, Place},
    status::{ReceivingStatus, Refused},
};
use crate::steering::words::Word;

/// Flows that are remembered as mentioned during a full sync. With more, nothing is retired after it.
const MENTIONED: usize = 2 << 20;

/// A full sync that comes in.
#[derive(Debug, Default)]
struct Incoming {
    mentioned: HashSet<FlowId>,
    too_many: bool,
    records: u64,
    /// It had begun before everything was asked for again.
    stale: bool,
}

/// What a full sync has left to do: flows are forgotten that the peer does not know any more. With a million flows that takes
/// longer than peers wait for a sign of life, so it is done in slices.
#[derive(Debug)]
struct Retiring {
    vips: BTreeSet<IpAddr>,
    /// During the full sync, and since.
    mentioned: HashSet<FlowId>,
    at: Place,
}

/// One connection from a peer, from its Hello to its end.
#[derive(Debug)]
pub struct Receiver {
    hello: Option<Hello>,
    pulse: Pulse,
    seq: u64,
    acked: u64,
    again: bool,
    holds: BTreeSet<IpAddr>,
    agreement: Option<Agreement>,
    orders: Vec<Word>,
    incoming: Option<Incoming>,
    retiring: Option<Retiring>,
    complete: bool,
}

impl Receiver {
    /// The peer has greeted, and is one of ours; `hello` is what it gets back.
    pub fn new(hello: Hello, now: Instant) -> Self {
        Self {
            hello: Some(hello),
            pulse: Pulse::new(now),
            seq: 0,
            acked: 0,
            again: false,
            holds: BTreeSet::new(),
            agreement: None,
            orders: Vec::new(),
            incoming: None,
            retiring: None,
            complete: false,
        }
    }

    /// Takes a message of the peer.
    ///
    /// # Errors
    /// The message is none, or not now: the connection is to be closed. Of a batch that is refused, nothing has been applied.
    pub fn received(
        &mut self,
        now: Instant,
        message: &[u8],
        holdings: &BTreeSet<IpAddr>,
        store: &mut dyn FlowStore,
        status: &mut ReceivingStatus,
    ) -> Result<(), Refused> {
        match telling(message)? {
            Telling::Hello(_) => return Err(Refused::Malformed),
            Telling::Agreement(agreement) => self.agreement = Some(agreement),
            Telling::Holdings(holds) => self.holds = holds,
            // One that has begun and not ended is given up: the sender has begun anew.
            Telling::SyncBegin => self.incoming = Some(Incoming::default()),
            Telling::Records { seq, full, records } => {
                if full && self.incoming.is_none() {
                    return Err(Refused::Malformed);
                }
                self.follows(seq)?;
                self.apply(full, &records, holdings, store, status);
            }
            Telling::SyncEnd { seq, records, held } => {
                let incoming = self.incoming.take().ok_or(Refused::Malformed)?;
                if incoming.records != records {
                    return Err(Refused::Malformed);
                }
                self.follows(seq)?;
                // One that is under way still knows less than this one.
                let mentioned = incoming.mentioned;
                self.retiring =
                    (!incoming.too_many).then_some(Retiring { vips: held, mentioned, at: Place::default() });
                status.full_syncs += 1;
                self.complete |= !incoming.stale;
            }
            Telling::Orders(orders) => self.orders = orders,
            Telling::Alive => {}
        }
        self.pulse.heard(now);
        Ok(())
    }

    fn follows(&mut self, seq: u64) -> Result<(), Refused> {
        if self.seq.checked_add(1) != Some(seq) {
            return Err(Refused::Malformed);
        }
        self.seq = seq;
        Ok(())
    }

    fn apply(
        &mut self,
        full: bool,
        records: &[FlowRecord],
        holdings: &BTreeSet<IpAddr>,
        store: &mut dyn FlowStore,
        status: &mut ReceivingStatus,
    ) {
        for record in records {
            let vip = record.id.vip();
            let held = self.holds.contains(&vip);
            if let Some(retiring) = &mut self.retiring
                && held
            {
                retiring.mentioned.insert(record.id);
                if retiring.mentioned.len() > MENTIONED {
                    self.retiring = None;
                }
            }
            if let Some(incoming) = &mut self.incoming
                && held
                && !incoming.too_many
            {
                incoming.mentioned.insert(record.id);
                if incoming.mentioned.len() > MENTIONED {
                    incoming.mentioned = HashSet::new();
                    incoming.too_many = true;
                }
            }
            let applied = store.apply(record, Authority::of(held, holdings.contains(&vip)));
            *status.applied.entry(applied).or_default() += 1;
        }
        status.received += records.len() as u64;
        if full && let Some(incoming) = &mut self.incoming {
            incoming.records += records.len() as u64;
        }
    }

    /// Whether [`Self::retire_some`] has something to do.
    pub const fn is_retiring(&self) -> bool {
        self.retiring.is_some()
    }

    /// After a full sync: forgets flows that the peer has not mentioned, a slice of them (milliseconds).
    pub fn retire_some(
        &mut self,
        holdings: &BTreeSet<IpAddr>,
        store: &mut dyn FlowStore,
        status: &mut ReceivingStatus,
    ) {
        let Some(retiring) = &mut self.retiring else { return };
        // Who holds a VIP may have changed since.
        retiring.vips.retain(|vip| self.holds.contains(vip) && !holdings.contains(vip));
        if retiring.vips.is_empty() {
            self.retiring = None;
            return;
        }
        let (retired, next) = store.retire(&retiring.vips, &retiring.mentioned, retiring.at);
        status.retired += retired as u64;
        match next {
            Some(at) => retiring.at = at,
            None => self.retiring = None,
        }
    }

    /// Asks for all flows once more, and is not complete until they are there.
    pub fn ask_again(&mut self) {
        self.again = true;
        self.complete = false;
        if let Some(incoming) = &mut self.incoming {
            incoming.stale = true;
        }
    }

    /// The next message to the peer; None while there is nothing to say.
    pub fn next_message(&mut self, now: Instant) -> Option<Vec<u8>> {
        let message = if let Some(hello) = self.hello.take() {
            Answer::Hello(hello)
        } else if self.acked != self.seq {
            self.acked = self.seq;
            Answer::Ack(self.seq)
        } else if std::mem::take(&mut self.again) {
            Answer::Again
        } else if self.pulse.is_due(now) {
            Answer::Alive
        } else {
            return None;
        };
        self.pulse.said(now);
        Some(encode(&message))
    }

    /// Whether the peer has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        self.pulse.is_dead(now)
    }

    /// When [`Self::next_message`] or [`Self::is_dead`] has something else to say, if nothing happens until then.
    pub fn wake_at(&self) -> Instant {
        self.pulse.wake_at()
    }

    /// Whether it has given all its flows.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// The VIPs that it says it holds.
    pub const fn holds(&self) -> &BTreeSet<IpAddr> {
        &self.holds
    }

    /// What its configuration says; None until it has told.
    pub const fn agreement(&self) -> Option<&Agreement> {
        self.agreement.as_ref()
    }

    /// What operators have told it about backends.
    pub fn orders(&self) -> &[Word] {
        &self.orders
    }
}

#[cfg(test)]
mod tests;
