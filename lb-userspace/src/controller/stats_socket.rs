//! Whether somebody listens where HAProxy did, if that is configured.

use super::{Controller, set_problem};

impl Controller {
    /// Says what is wrong with the socket, where that is news.
    pub(super) fn look_at_stats_socket(&mut self) {
        let problem = self.stats_socket.problem();
        set_problem(&mut self.problems.stats_socket, problem);
    }
}
