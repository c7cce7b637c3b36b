//! What the CPU counts beside the time: instructions, cycles, branches that it guessed wrong. Many virtual machines' CPUs
//! count nothing.

use std::io;

use perf_event::events::{Event, Hardware as Events};
use perf_event::{Builder, Counter};

/// Counters of the calling thread, the kernel's part of its work included.
pub struct Hardware {
    counters: Vec<(&'static str, Counter)>,
}

impl Hardware {
    /// Those that there are; none where the CPU or the kernel gives none.
    #[must_use]
    pub fn find() -> Option<Self> {
        Self::of(&[
            ("instructions", Events::INSTRUCTIONS),
            ("cycles", Events::CPU_CYCLES),
            ("branch misses", Events::BRANCH_MISSES),
        ])
    }

    fn of<E: Event + Clone>(events: &[(&'static str, E)]) -> Option<Self> {
        let open = |(name, event): &(&'static str, E)| {
            let counter = Builder::new(event.clone()).include_kernel().observe_self().any_cpu().build();
            Some((*name, counter.ok()?))
        };
        let counters: Vec<_> = events.iter().filter_map(open).collect();
        (!counters.is_empty()).then_some(Self { counters })
    }

    /// Does something, and returns how much each counter went on meanwhile.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn around<T>(
        &mut self,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(T, Vec<(&'static str, u64)>)> {
        for (_, counter) in &mut self.counters {
            counter.reset()?;
            counter.enable()?;
        }
        let done = work()?;
        for (_, counter) in &mut self.counters {
            counter.disable()?;
        }
        let read = |(name, counter): &mut (&'static str, Counter)| Ok((*name, counter.read()?));
        Ok((done, self.counters.iter_mut().map(read).collect::<io::Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use perf_event::events::Software;

    use super::*;

    #[test]
    fn a_counter_counts_what_happens_meanwhile_and_nothing_else() {
        // The kernel counts these itself, on any CPU; whether this user may ask is the machine's business.
        let Some(mut switches) = Hardware::of(&[("switches", Software::CONTEXT_SWITCHES)]) else { return };
        let sleep = || {
            (0..30).for_each(|_| thread::sleep(Duration::from_millis(1)));
            Ok(())
        };
        let ((), slept) = switches.around(sleep).unwrap();
        sleep().unwrap();
        let (done, not) = switches.around(|| Ok(7)).unwrap();
        assert_eq!((slept[0].0, done), ("switches", 7));
        assert!(slept[0].1 >= 30 && not[0].1 < 30, "{slept:?} {not:?}");
    }
}
