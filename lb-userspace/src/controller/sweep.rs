//! Counting flows and removing ended ones, beside the loop: a million of them take seconds.

use std::{future::pending, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tracing::{error, info, warn};

use super::Controller;
use crate::{
    dataplane::{Census, DataplaneError, FlowTables},
    flows,
};

/// A sweep that runs. It gives the tables back.
pub type Sweep = JoinHandle<Swept>;
/// The tables, what was found, and how long it took.
pub type Swept = (FlowTables, Result<Census, DataplaneError>, Duration);

/// Waits for a sweep, for ever where none runs. `None` where it did not come to its end.
pub async fn finished(sweeping: &mut Option<Sweep>) -> Option<Swept> {
    match sweeping {
        Some(task) => task.await.ok(),
        None => pending().await,
    }
}

impl Controller {
    /// Starts a sweep on another thread, where a million flows may take their time.
    pub(super) fn sweep(&mut self) {
        if self.sweeping.is_some() || !self.heartbeat.is_settled() || Instant::now() < self.sweep_not_before {
            return;
        }
        let Some(mut tables) = self.flow_tables.take() else { return };
        let (now, timeouts) = (self.flow_clock(), self.timeouts());
        let ids = self.ids.all().map(|(id, _)| id).collect();
        self.sweeping = Some(tokio::task::spawn_blocking(move || {
            let begin = std::time::Instant::now();
            let census = tables.sweep(now, &timeouts, &ids);
            (tables, census, begin.elapsed())
        }));
    }

    /// Takes what a sweep found: ids that no flow uses are free.
    pub(super) fn swept(&mut self, swept: Option<Swept>) {
        self.sweeping = None;
        let Some((tables, census, took)) = swept else {
            error!("the flow sweep ended without a result");
            let tables = self.dataplane.as_ref().and_then(|dataplane| dataplane.flow_tables().ok());
            self.flow_tables = tables.map(|tables| tables.told_to(self.connections.tap()));
            return;
        };
        self.sweep_not_before = Instant::now() + took * 40;
        self.flow_tables = Some(tables);
        match census {
            Ok(mut census) => {
                for (id, flows) in &mut census.by_backend {
                    if let Some(before) = self.census.by_backend.get(id) {
                        flows.figures = flows::at_least(&flows.figures, &before.figures);
                    }
                }
                let flows = census.by_backend.iter().map(|(&id, flows)| (id, flows.all())).collect();
                let grace = self.timeouts().half_open.saturating_add(1);
                let free = self.ids.release(&flows, self.flow_clock(), grace);
                if !free.is_empty() {
                    // Whoever has them next begins with nothing.
                    census.by_backend.retain(|id, _| !free.contains(id));
                    free.iter().for_each(|&id| self.forget_resets(id));
                    info!(?free, "backends that had left the configuration have no flow any more");
                    self.schedule(Duration::ZERO);
                }
                self.census = census;
                self.follow_sweep();
                self.follow_orders_after_sweep();
            }
            Err(error) => warn!("flows are not counted: {:#}", anyhow::Error::from(error)),
        }
    }
}
