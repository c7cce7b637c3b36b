//! How busy the machine's processors have been, all of them, with everybody's work: `/proc/stat`.

use std::fs;
use std::io;

/// Time that the processors have not been idle since the machine started, in ticks (all of them together).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    ticks: u64,
}

impl Busy {
    /// Asks the kernel.
    ///
    /// # Errors
    /// When it does not say, or not in the form that proc(5) describes.
    pub fn now() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        busy_ticks(&text).map(|ticks| Self { ticks }).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The seconds since an earlier time. What a hypervisor took away counts as not busy.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> f64 {
        self.ticks.saturating_sub(earlier.ticks) as f64 / f64::from(ticks_per_second())
    }
}

fn ticks_per_second() -> u32 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    // It has been 100 on Linux since 2.4, whatever the kernel's own clock.
    ticks.and_then(|ticks| u32::try_from(ticks).ok()).filter(|ticks| *ticks > 0).unwrap_or(100)
}

/// Of the first line, which adds up all processors: user, nice, system, idle, iowait, irq, softirq, steal (proc(5)). The
/// others are parts of the first two.
fn busy_ticks(text: &str) -> Option<u64> {
    let mut words = text.lines().next()?.split_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = numbers[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_not_busy() {
        let text = "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 10\ncpu0 5 5 5 5 5 5 5 5 5 5\n";
        assert_eq!(busy_ticks(text), Some(7_600_321));
        assert_eq!(busy_ticks("intr 5\n"), None);
        assert_eq!(busy_ticks("cpu 1 2 3\n"), None);
    }

    #[test]
    fn the_kernel_tells() {
        let before = Busy::now().unwrap();
        assert!(Busy::now().unwrap().seconds_since(before) >= 0.0);
    }
}
