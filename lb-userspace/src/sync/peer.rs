//! The connection to a peer: when it is dialled, and what becomes of it.
//!
//! ```text
//!          due          connected          greeted            all flows told
//! Down ----------> Connecting ----------> Greeting ----------> Joining ----------> Up
//!   ^                  |                      |                   |                |
//!   +------------------+----------------------+-------------------+----------------+
//!        failed, refused, silent for too long: again after 50 ms, then twice as long each time, at most a second
//! ```
//!
//! No clock, no socket: the caller dials when [`Peer::dial`] says so, tells how it went, and asks again at [`Peer::wake_at`].

use std::time::{Duration, Instant};

use super::{
    record::{FlowId, FlowRecord, FlowStore},
    sender::{Ours, Sender},
    status::{Refused, SendingState, SendingStatus},
};

/// The pause after the first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

enum Link {
    Down { retry_at: Instant },
    Connecting,
    Connected(Box<Sender>),
}

/// What one node knows of the connection on which it sends to one other.
pub struct Peer {
    link: Link,
    pause: Duration,
    status: SendingStatus,
    since: Instant,
    node: Option<String>,
}

impl Peer {
    /// One that is to be dialled at once.
    pub fn new(now: Instant) -> Self {
        Self {
            link: Link::Down { retry_at: now },
            pause: FIRST_PAUSE,
            status: SendingStatus::default(),
            since: now,
            node: None,
        }
    }

    /// Whether to dial now; the caller says [`Self::connected`] or [`Self::closed`] once that has come to an end.
    pub fn dial(&mut self, now: Instant) -> bool {
        let due = matches!(self.link, Link::Down { retry_at } if retry_at <= now);
        if due {
            self.link = Link::Connecting;
            self.settle(now);
        }
        due
    }

    /// The handshake is complete.
    pub fn connected(&mut self, now: Instant, ours: &Ours) {
        self.link = Link::Connected(Box::new(Sender::new(ours, now)));
        self.status.lag_max_ms = 0;
        self.settle(now);
    }

    /// The connection has ended, or there was none. Everything that was queued is forgotten.
    pub fn closed(&mut self, now: Instant, why: String) {
        if matches!(self.link, Link::Down { .. }) {
            return;
        }
        self.link = Link::Down { retry_at: now + self.pause };
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.status.last_error = Some(why);
        self.settle(now);
    }

    /// The peer has just been heard of: it is dialled at once, if it is not connected.
    pub fn nudge(&mut self, now: Instant) {
        if let Link::Down { retry_at } = &mut self.link {
            *retry_at = now.min(*retry_at);
        }
    }

    /// Takes a message of the peer.
    ///
    /// # Errors
    /// The connection is to be closed.
    pub fn received(&mut self, now: Instant, message: &[u8]) -> Result<(), Refused> {
        let Link::Connected(sender) = &mut self.link else { return Ok(()) };
        if let Some(node) = sender.received(now, message, &mut self.status)? {
            self.node = Some(node);
            self.pause = FIRST_PAUSE;
        }
        self.settle(now);
        Ok(())
    }

    /// Bytes that have gone out, with everything.
    pub fn wrote(&mut self, bytes: usize) {
        self.status.bytes += bytes as u64;
    }

    /// Flows have changed. Nothing is kept for a peer that is not connected: it gets all flows when it is.
    pub fn events(&mut self, now: Instant, ids: &[FlowId]) {
        if let Link::Connected(sender) = &mut self.link {
            sender.events(now, ids, &mut self.status);
        }
    }

    /// All flows are to be told again, since some news were lost or somebody asked for it.
    pub fn resync(&mut self, now: Instant) {
        if let Link::Connected(sender) = &mut self.link {
            sender.missed(now);
        }
    }

    /// As [`Sender::starts_walk`].
    pub fn starts_walk(&mut self) -> bool {
        self.sender().is_some_and(Sender::starts_walk)
    }

    /// As [`Sender::has_room`].
    pub fn has_room(&self) -> bool {
        matches!(&self.link, Link::Connected(sender) if sender.has_room())
    }

    /// As [`Sender::walked`].
    pub fn walked(&mut self, records: Vec<FlowRecord>) {
        if let Some(sender) = self.sender() {
            sender.walked(records);
        }
    }

    /// As [`Sender::walk_ended`].
    pub fn walk_ended(&mut self, whole: bool, now: Instant) {
        if let Some(sender) = self.sender() {
            sender.walk_ended(whole, now);
        }
    }

    fn sender(&mut self) -> Option<&mut Sender> {
        match &mut self.link {
            Link::Connected(sender) => Some(sender),
            Link::Down { .. } | Link::Connecting => None,
        }
    }

    /// The next message to the peer; None while there is nothing to say.
    pub fn next_message(&mut self, now: Instant, ours: &Ours, store: &dyn FlowStore) -> Option<Vec<u8>> {
        match &mut self.link {
            Link::Connected(sender) => sender.next_message(now, ours, store, &mut self.status),
            Link::Down { .. } | Link::Connecting => None,
        }
    }

    /// Whether the connection is to be closed since the peer has been silent for too long.
    pub fn is_dead(&self, now: Instant) -> bool {
        matches!(&self.link, Link::Connected(sender) if sender.is_dead(now))
    }

    /// Whether the peer has greeted on the connection that there is.
    pub fn is_reached(&self) -> bool {
        matches!(&self.link, Link::Connected(sender) if sender.is_greeted())
    }

    /// Its name, once it has said so.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// When something is to be done, if nothing happens until then. None while the caller dials.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        match &self.link {
            Link::Down { retry_at } => Some(*retry_at),
            Link::Connecting => None,
            Link::Connected(sender) => Some(sender.wake_at(now)),
        }
    }

    fn state(&self) -> SendingState {
        match &self.link {
            Link::Down { .. } => SendingState::Down,
            Link::Connecting => SendingState::Connecting,
            Link::Connected(sender) if !sender.is_greeted() => SendingState::Connecting,
            Link::Connected(sender) if !sender.has_joined() => SendingState::Joining,
            Link::Connected(_) => SendingState::Up,
        }
    }

    fn settle(&mut self, now: Instant) {
        let state = self.state();
        if state != self.status.state {
            self.status.state = state;
            self.since = now;
        }
    }

    /// What is true now.
    pub fn status(&self, now: Instant) -> SendingStatus {
        let mut status = self.status.clone();
        status.since_ms =
            u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        match &self.link {
            Link::Connected(sender) => sender.report(now, &mut status),
            Link::Down { .. } | Link::Connecting => (status.lag_ms, status.queued) = (0, 0),
        }
        status
    }
}

#[cfg(test)]
mod tests;
