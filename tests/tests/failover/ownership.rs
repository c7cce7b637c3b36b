//! Who has the VIP on its interface, looked at often.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::topology::Lab;

const EVERY: Duration = Duration::from_millis(10);

/// For how long how many nodes had the VIP.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ownership {
    /// More than one.
    pub both: Duration,
    /// None.
    pub none: Duration,
    /// Exactly one.
    pub one: Duration,
}

impl Ownership {
    /// Watches all LB nodes while `work` runs.
    pub fn watch(
        lab: &Lab,
        work: impl FnOnce() -> Result<(), Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut ownership = Self::default();
                let mut last = Instant::now();
                while !done.load(Ordering::Relaxed) {
                    let owners = lab.lbs().iter().filter(|lb| lb.holds_vip()).count();
                    let now = Instant::now();
                    let time = match owners {
                        0 => &mut ownership.none,
                        1 => &mut ownership.one,
                        _ => &mut ownership.both,
                    };
                    *time += now - last;
                    last = now;
                    thread::sleep(EVERY);
                }
                ownership
            });
            // Also when `work` panics: the scope waits for the watcher.
            let _done = SetOnDrop(&done);
            let result = work();
            done.store(true, Ordering::Relaxed);
            let ownership = watcher.join().map_err(|_| "the watcher panicked")?;
            result.map(|()| ownership)
        })
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl fmt::Display for Ownership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "one node had the VIP for {:?}, both for {:?}, none for {:?}",
            self.one, self.both, self.none
        )
    }
}
