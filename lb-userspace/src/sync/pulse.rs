//! Whether the other end of a connection is alive, and when it must hear from this one.

use std::time::{Duration, Instant};

/// Something is said at least that often.
pub const BEAT: Duration = Duration::from_millis(200);
/// Who has said nothing for so long is dead.
pub const DEAD: Duration = Duration::from_millis(1500);

/// When each side was heard last.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    heard: Instant,
    said: Instant,
}

impl Pulse {
    /// A connection that begins now.
    pub const fn new(now: Instant) -> Self {
        Self { heard: now, said: now }
    }

    /// A sound message has come.
    pub fn heard(&mut self, now: Instant) {
        self.heard = self.heard.max(now);
    }

    /// A message goes out.
    pub fn said(&mut self, now: Instant) {
        self.said = self.said.max(now);
    }

    /// Whether something must be said, even if there is nothing new.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.said + BEAT
    }

    /// Whether the other side is dead.
    pub fn is_dead(&self, now: Instant) -> bool {
        now >= self.dead_at()
    }

    /// When [`Self::is_dead`] will be true.
    pub fn dead_at(&self) -> Instant {
        self.heard + DEAD
    }

    /// When one of the two is true next.
    pub fn wake_at(&self) -> Instant {
        (self.said + BEAT).min(self.dead_at())
    }
}
