//! The life of a flow: when its entries are removed from the table of established ones.
//!
//! Pure: the data plane notes what each direction has seen, and this says what follows from it. Times are in seconds
//! of the flow clock, which stands still while no controller runs.

use lb_common::layout::{FlowEntry, SEEN_FIN, SEEN_RST};

/// After how much silence a flow is forgotten, in seconds of the flow clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Open: `flows.idle_timeout`.
    pub idle: u32,
    /// One side has sent a FIN and the other still may send: an answer can take its time.
    pub half_closed: u32,
    /// Both have sent a FIN. The backend may hold the NAT port in TIME_WAIT for 60 s (`TCP_TIMEWAIT_LEN`), and a new
    /// client's SYN on it would be stalled by older time stamps (PAWS, RFC 7323 §5).
    pub closed: u32,
    /// A RST was seen: nothing is left on either side, but late packets may still come.
    pub reset: u32,
    /// Half-open: longer than any stack goes on retransmitting a SYN quickly.
    pub half_open: u32,
}

impl Timeouts {
    /// The defaults, with the configured idle time-out.
    pub const fn new(idle: u32) -> Self {
        Self { idle, half_closed: 600, closed: 60, reset: 10, half_open: 60 }
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Neither side has closed.
    Open,
    /// One side has.
    HalfClosed,
    /// Both have.
    Closed,
    /// A RST ended it.
    Reset,
}

/// The phase that both directions together show. A direction whose entry is gone counts as reset.
pub fn phase(forward: &FlowEntry, reply: Option<&FlowEntry>) -> Phase {
    let Some(reply) = reply else { return Phase::Reset };
    let (either, both) = (forward.seen.flags | reply.seen.flags, forward.seen.flags & reply.seen.flags);
    if either & SEEN_RST != 0 {
        Phase::Reset
    } else if both & SEEN_FIN != 0 {
        Phase::Closed
    } else if either & SEEN_FIN != 0 {
        Phase::HalfClosed
    } else {
        Phase::Open
    }
}

/// Whether a flow is to be forgotten at `now`.
pub fn is_over(forward: &FlowEntry, reply: Option<&FlowEntry>, now: u32, timeouts: &Timeouts) -> bool {
    let silence = forward.seen.silence(now);
    let silence = reply.map_or(silence, |reply| silence.min(reply.seen.silence(now)));
    silence
        > match phase(forward, reply) {
            Phase::Open => timeouts.idle,
            Phase::HalfClosed => timeouts.half_closed,
            Phase::Closed => timeouts.closed,
            Phase::Reset => timeouts.reset,
        }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        checksum::Delta,
        layout::{FlowKey, MacWord, Seen},
        wire::{Be16, Be32},
    };

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts::new(86_400);

    fn entry(flags: u32, at: u32) -> FlowEntry {
        FlowEntry {
            rewritten: FlowKey::new(Be32::new(0), Be16::new(0), Be32::new(0), Be16::new(0)),
            ip_delta: Delta::default(),
            tcp_delta: Delta::default(),
            backend: 0,
            client_mac: MacWord::ZERO,
            direction: 0,
            attempt: 0,
            opened: 0,
            seen: Seen { flags, at, ..Seen::default() },
        }
    }

    /// Forward flags, reply flags, seconds of silence that are survived, and one more that is not.
    #[test]
    fn each_phase_has_its_time_out() {
        for (forward, reply, phase_expected, lives_for) in [
            (0, 0, Phase::Open, 86_400),
            (SEEN_FIN, 0, Phase::HalfClosed, 600),
            (0, SEEN_FIN, Phase::HalfClosed, 600),
            (SEEN_FIN, SEEN_FIN, Phase::Closed, 60),
            (SEEN_RST, 0, Phase::Reset, 10),
            (0, SEEN_RST, Phase::Reset, 10),
            (SEEN_FIN, SEEN_FIN | SEEN_RST, Phase::Reset, 10),
        ] {
            let (forward, reply) = (entry(forward, 100), entry(reply, 100));
            assert_eq!(phase(&forward, Some(&reply)), phase_expected);
            assert!(!is_over(&forward, Some(&reply), 100 + lives_for, &TIMEOUTS), "{phase_expected:?}");
            assert!(is_over(&forward, Some(&reply), 101 + lives_for, &TIMEOUTS), "{phase_expected:?}");
        }
    }

    #[test]
    fn either_direction_keeps_a_flow_alive() {
        let (quiet, busy) = (entry(0, 0), entry(0, 200_000));
        assert!(!is_over(&quiet, Some(&busy), 200_001, &TIMEOUTS));
        assert!(!is_over(&busy, Some(&quiet), 200_001, &TIMEOUTS));
        assert!(is_over(&quiet, Some(&quiet), 200_001, &TIMEOUTS));
    }

    #[test]
    fn half_a_flow_goes_soon() {
        assert!(!is_over(&entry(0, 100), None, 110, &TIMEOUTS));
        assert!(is_over(&entry(0, 100), None, 111, &TIMEOUTS));
    }

    #[test]
    fn packets_after_the_sweep_began_do_not_make_a_flow_old() {
        // `now` is read once, and walking a large table takes seconds in which flows go on.
        let busy = entry(0, 103);
        assert!(!is_over(&busy, Some(&busy), 100, &TIMEOUTS));
        assert!(!is_over(&entry(SEEN_RST, 103), Some(&busy), 100, &TIMEOUTS));
    }

    #[test]
    fn the_clock_may_wrap() {
        let late = entry(0, u32::MAX - 1);
        assert!(!is_over(&late, Some(&late), 5, &TIMEOUTS));
    }
}
