//! Noticing a driver that takes an XDP program but does not send for it.
//!
//! Some drivers accept a program and then lose what it transmits: a veth whose peer has no program, a NIC without
//! transmit queues to spare. Nothing fails; packets are just gone, and only the driver's counters tell.

use std::time::Duration;

/// How often to look.
pub const PERIOD: Duration = Duration::from_millis(500);

/// What was counted when it was last looked.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransmitWatch {
    /// Frames that XDP said to send, and frames that the driver did not; `None` before the first look.
    last: Option<(u64, u64)>,
}

impl TransmitWatch {
    /// Takes the counts of now. True where at least half of what was to be sent since the last look was not: a full
    /// queue loses some, a driver that does not send loses all.
    pub fn is_losing(&mut self, transmitted: u64, failures: u64) -> bool {
        let Some((transmitted_before, failures_before)) = self.last.replace((transmitted, failures)) else {
            return false;
        };
        let lost = failures.saturating_sub(failures_before);
        lost > 0 && lost.saturating_mul(2) >= transmitted.saturating_sub(transmitted_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_too_much_and_old_losses_do_not_count() {
        let mut watch = TransmitWatch::default();
        assert!(!watch.is_losing(100, 100), "counts from before we came");
        assert!(!watch.is_losing(200, 100), "nothing was lost");
        assert!(!watch.is_losing(300, 149), "a full queue");
        assert!(watch.is_losing(400, 199), "half of them");
        assert!(watch.is_losing(401, 200), "the only one");
        assert!(!watch.is_losing(401, 200), "silence");
    }
}
