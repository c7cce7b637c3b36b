//! How fast connections come, for whoever watches: the counters are looked at once a second.

use std::time::SystemTime;

use tokio::time::Instant;

use super::Controller;
use crate::{desired::pool_entries, peaks::Count};

impl Controller {
    /// Takes what the counters say by now.
    pub(super) fn look_at_new_connections(&mut self) {
        let Some(dataplane) = &self.dataplane else { return };
        let entries = pool_entries(&self.config);
        let counts: Vec<Count> = (entries.iter())
            .filter_map(|entry| {
                let id = self.ids.id(entry)?;
                let opened = dataplane.backend_counters(id).ok()?.opened;
                let active = self.census.by_backend.get(&id).map_or(0, |flows| flows.active);
                Some(Count { entry: *entry, opened, active })
            })
            .collect();
        self.peaks.look(Instant::now().into_std(), SystemTime::now(), &counts);
    }
}
