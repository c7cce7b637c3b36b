//! The web page: its configuration, and why it cannot be seen.

use super::{Controller, problems::set_problem};

impl Controller {
    /// Puts `[http]` in force.
    pub(super) fn configure_web(&self) {
        self.web.configure(self.config.http.as_ref());
    }

    /// What keeps the page from being seen is a problem like any other.
    pub(super) fn look_at_web(&mut self) {
        let problem = self.web.problem();
        set_problem(&mut self.problems.web, problem);
    }
}
