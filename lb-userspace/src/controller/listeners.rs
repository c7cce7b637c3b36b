//! Who else is listened to beside the control socket, if that is configured: the web page's visitors, and scripts that speak to
//! HAProxy's runtime socket.

use super::{Controller, set_problem};
use crate::{certificate::not_after, status::HttpStatus, steering::rfc3339};

impl Controller {
    /// Puts `[http]` and `[stats_socket]` in force.
    pub(super) fn configure_listeners(&mut self) {
        self.stats_socket.configure(self.config.stats_socket.as_ref());
        self.web.configure(self.config.http.as_ref());
    }

    /// Where the page is, and for how long its certificate is valid.
    pub(super) fn http_status(&self) -> Option<HttpStatus> {
        let http = self.config.http.as_ref()?;
        let certificate = http.tls.as_ref().and_then(|tls| not_after(tls.identity.chain().first()?));
        Some(HttpStatus {
            listen: http.listen.to_string(),
            path: http.path.clone(),
            certificate_not_after: certificate.map(rfc3339),
        })
    }

    /// What keeps either from being reached is a problem like any other.
    pub(super) fn look_at_listeners(&mut self) {
        let problem = self.stats_socket.problem();
        set_problem(&mut self.problems.stats_socket, problem);
        let problem = self.web.problem();
        set_problem(&mut self.problems.web, problem);
    }
}
