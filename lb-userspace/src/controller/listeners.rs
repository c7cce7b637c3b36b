//! Who else is listened to beside the control socket, if that is configured: the web page's visitors, and scripts that speak to
//! HAProxy's runtime socket.

use super::{Controller, set_problem};

impl Controller {
    /// Puts `[http]` and `[stats_socket]` in force.
    pub(super) fn configure_listeners(&mut self) {
        self.stats_socket.configure(self.config.stats_socket.as_ref());
        self.web.configure(self.config.http.as_ref());
    }

    /// What keeps either from being reached is a problem like any other.
    pub(super) fn look_at_listeners(&mut self) {
        let problem = self.stats_socket.problem();
        set_problem(&mut self.problems.stats_socket, problem);
        let problem = self.web.problem();
        set_problem(&mut self.problems.web, problem);
    }
}
