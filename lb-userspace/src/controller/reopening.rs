//! Opening the data plane anew, where it was lost or could not be had.
//!
//! Loading the programs takes seconds, and may fail for good: another program on the interface, a kernel that refuses. So it
//! is done beside the loop, which meanwhile does all else, feeds the service manager's watchdog, and says in `status` what
//! is wrong; VRRP is in Fault. To be restarted every few seconds would help nobody.

use std::{future::pending, io, thread, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{Controller, RESYNC, set_problem};
use crate::{
    config::model::Config,
    dataplane::{Dataplane, DataplaneError},
};

/// As much as a process begins with: tables of a quarter of a megabyte are on it for a moment.
const STACK: usize = 8 << 20;
/// Loading takes no more than this part of a processor's time...
const PART: u32 = 20;
/// ...but is tried that often.
const LATEST: Duration = Duration::from_secs(30);

/// What was loaded, or why nothing was.
pub(super) type Loaded = Result<Dataplane, DataplaneError>;

/// A thread that loads the programs.
pub(super) struct Loading {
    outcome: oneshot::Receiver<Loaded>,
    begun: Instant,
}

impl Loading {
    /// On a busy machine it takes seconds.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(super) fn begin(config: &Config) -> Result<Self, DataplaneError> {
        let (pin_path, flows) = (config.node.pin_path.clone(), config.flows.clone());
        let (told, outcome) = oneshot::channel();
        let load = move || drop(told.send(Dataplane::load(&pin_path, &flows)));
        let thread = thread::Builder::new().name("load".to_owned()).stack_size(STACK).spawn(load);
        thread.map_err(DataplaneError::Thread)?;
        Ok(Self { outcome, begun: Instant::now() })
    }

    /// Waits for it; may be given up and called again.
    pub(super) async fn outcome(&mut self) -> Loaded {
        let outcome = (&mut self.outcome).await;
        outcome.unwrap_or_else(|_| Err(DataplaneError::Thread(io::ErrorKind::Interrupted.into())))
    }
}

/// What of it is under way.
#[derive(Default)]
pub(super) struct Reopening {
    loading: Option<Loading>,
    /// `None`: at once.
    not_before: Option<Instant>,
}

impl Reopening {
    /// Waits for what is being loaded, for ever where nothing is.
    pub(super) async fn loaded(&mut self) -> Loaded {
        match &mut self.loading {
            Some(loading) => loading.outcome().await,
            None => pending().await,
        }
    }
}

/// How long to wait after an attempt that took so long and failed.
fn pause(took: Duration) -> Duration {
    (took * PART).clamp(RESYNC, LATEST)
}

impl Controller {
    /// Begins to load the programs, if there is no data plane, and if that was not tried just now. A level.
    pub(super) fn reopen_dataplane(&mut self) {
        let is_too_early = self.reopening.not_before.is_some_and(|not_before| Instant::now() < not_before);
        if self.dataplane.is_some() || self.reopening.loading.is_some() || is_too_early {
            return;
        }
        let problem = match Loading::begin(&self.config) {
            Ok(loading) => {
                self.reopening.loading = Some(loading);
                // What was wrong is so until it is known to be better.
                let known = (*self.problems.dataplane).clone();
                known.unwrap_or_else(|| "the programs are being loaded again".to_owned())
            }
            Err(error) => format!("{:#}", anyhow::Error::from(error)),
        };
        set_problem(&mut self.problems.dataplane, Some(problem));
        self.tell_routers();
    }

    /// Something has changed that may have been what was wrong: does not wait any longer.
    pub(super) fn reopen_dataplane_now(&mut self) {
        self.reopening.not_before = None;
        self.reopen_dataplane();
    }

    /// Goes on with what was loaded.
    pub(super) async fn loaded(&mut self, loaded: Loaded) {
        let took = self.reopening.loading.take().map(|loading| loading.begun.elapsed()).unwrap_or_default();
        if let Err(error) = self.open_dataplane(Some(loaded)) {
            set_problem(&mut self.problems.dataplane, Some(format!("{error:#}")));
            self.close_dataplane();
        }
        self.reopening.not_before = self.dataplane.is_none().then(|| Instant::now() + pause(took));
        self.reconcile().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_for_good_costs_little_and_is_tried_again() {
        for (took_ms, pause_s) in [(0, 5), (20, 5), (1000, 20), (2500, 30), (600_000, 30)] {
            assert_eq!(pause(Duration::from_millis(took_ms)), Duration::from_secs(pause_s), "{took_ms} ms");
        }
    }
}
