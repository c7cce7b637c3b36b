//! Whether a node knows enough flows to take part in VRRP.

use std::time::{Duration, Instant};

/// Who has not been reached by then is not there.
const REACHED_WITHIN: Duration = Duration::from_secs(1);
/// Nobody is waited for any longer.
const LONGEST: Duration = Duration::from_secs(5);

/// What is known of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether there is a connection with it, either way.
    pub reached: bool,
    /// Whether it has given all its flows since the node joins.
    pub complete: bool,
}

/// A node that joins the others: at its start, and after its link was cut.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    began: Instant,
    done: bool,
}

impl Join {
    /// It begins now.
    pub const fn new(now: Instant) -> Self {
        Self { began: now, done: false }
    }

    /// Whether all who can be reached have given their flows. Once true it stays so.
    pub fn is_done(&mut self, now: Instant, peers: impl IntoIterator<Item = Seen>) -> bool {
        let waited = now.saturating_duration_since(self.began);
        let missing = |peer: Seen| !peer.complete && (peer.reached || waited < REACHED_WITHIN);
        self.done |= waited >= LONGEST || !peers.into_iter().any(missing);
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AWAY: Seen = Seen { reached: false, complete: false };
    const REACHED: Seen = Seen { reached: true, complete: false };
    const COMPLETE: Seen = Seen { reached: true, complete: true };

    #[test]
    fn the_reachable_ones_are_waited_for() {
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        for (at, peers, done) in [
            (0, vec![COMPLETE, COMPLETE], true),
            (0, vec![], true),
            (999, vec![AWAY], false),
            (1000, vec![AWAY], true),
            (999, vec![COMPLETE, AWAY], false),
            (1000, vec![COMPLETE, AWAY], true),
            (1000, vec![COMPLETE, REACHED], false),
            (4999, vec![REACHED], false),
            (5000, vec![REACHED], true),
        ] {
            assert_eq!(Join::new(start).is_done(after(at), peers.clone()), done, "{at} {peers:?}");
        }
    }

    #[test]
    fn what_was_complete_stays_so() {
        let start = Instant::now();
        let mut join = Join::new(start);
        assert!(join.is_done(start, [COMPLETE]));
        assert!(join.is_done(start, [REACHED]), "a peer that comes later changes nothing");
    }
}
