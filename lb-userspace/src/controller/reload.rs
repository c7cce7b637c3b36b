//! Reading the configuration again: all of it is checked before anything is touched.

use std::time::SystemTime;

use sd_notify::NotifyState;
use tracing::{error, warn};

use super::{Controller, lease, notify};
use crate::{
    config::{self, Checked, LoadError, model::Config},
    control::protocol::ReloadAnswer,
    history::{Event, Kind, Severity},
};

impl Controller {
    /// Puts the file's present content in force, or changes nothing and says why.
    pub(super) async fn reload(&mut self) -> ReloadAnswer {
        let reloading = NotifyState::monotonic_usec_now();
        if let Ok(now) = reloading {
            notify(&[NotifyState::Reloading, now]);
        }
        let answer = self.try_reload().await;
        let event = Event::new(Kind::Reload, &self.config.node.name, SystemTime::now());
        match &answer.error {
            None => {
                self.tell(event.became("applied").because(self.options.config_path.display().to_string()));
            }
            Some(error) => {
                let event = event.became("refused").because(format!("nothing has changed: {error}"));
                self.tell(event.grave(Severity::Error));
                answer.findings.iter().for_each(|finding| error!("{finding}"));
            }
        }
        self.last_reload_error = answer.error.clone();
        self.last_reload_at = Some(SystemTime::now());
        notify(&[NotifyState::Ready]);
        answer
    }

    async fn try_reload(&mut self) -> ReloadAnswer {
        let path = self.options.config_path.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&path)).await;
        let Checked { config, warnings } = match loaded {
            Ok(Ok(checked)) => checked,
            Ok(Err(LoadError::Refused(problems))) => {
                let findings: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
                let text = problems.to_string();
                return refused(text.lines().last().unwrap_or_default().to_owned(), findings);
            }
            Ok(Err(error)) => return refused(error.to_string(), Vec::new()),
            Err(error) => return refused(format!("reading the file failed: {error}"), Vec::new()),
        };
        let fixed = needs_restart(&self.config, &config);
        if !fixed.is_empty() {
            let error = format!("{} cannot change while xvip runs", fixed.join(", "));
            return refused(error, vec!["restart instead: systemctl restart xvip".to_owned()]);
        }
        // Files may be fine for `config::load` and not for TLS.
        let plan = match self.checks.plan(&config) {
            Ok(plan) => plan,
            Err(error) => return refused(format!("{error:#}"), Vec::new()),
        };

        let findings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        findings.iter().for_each(|finding| warn!("{finding}"));
        self.checks.commit(plan);
        let local_clients_changed = self.config.node.local_clients != config.node.local_clients;
        self.config = config;
        self.heartbeat.set_lease(lease(&self.config));
        self.loaded_at = SystemTime::now();
        self.options.log.set(self.config.log.level);
        self.teller.hooks().configure(&self.config.node.name, &self.config.hooks);
        self.tracking.configure(&self.config);
        self.steering.look_for_unknown(&self.config);
        self.assign_ids();
        if local_clients_changed {
            self.serve_local_clients();
        }
        self.refresh_reserved_ports();
        self.configure_followers();
        self.configure_listeners();
        if self.join_at.is_none() {
            self.configure_routers().await;
        }
        self.look_at_neighbours = true;
        self.reopen_dataplane_now();
        self.reconcile().await;
        ReloadAnswer { applied: true, error: None, findings }
    }
}

fn refused(error: String, findings: Vec<String>) -> ReloadAnswer {
    ReloadAnswer { applied: false, error: Some(error), findings }
}

/// The keys that differ and are in force from start to end: the program is attached, and the maps are made, with them.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let mut keys = Vec::new();
    let mut compare = |key, same: bool| {
        if !same {
            keys.push(key);
        }
    };
    compare("node.interface", old.node.interface() == new.node.interface());
    compare("node.interfaces", old.node.interfaces.iter().skip(1).eq(new.node.interfaces.iter().skip(1)));
    compare("node.xdp_mode", old.node.xdp_mode == new.node.xdp_mode);
    compare("node.pin_path", old.node.pin_path == new.node.pin_path);
    compare("node.observe", old.node.observe == new.node.observe);
    compare("log.target", old.log.target == new.log.target);
    compare("log.format", old.log.format == new.log.format);
    compare("flows.max", old.flows.max == new.flows.max);
    compare("flows.half_open_max", old.flows.half_open_max == new.flows.half_open_max);
    compare("flows.sources_max", old.flows.sources_max == new.flows.sources_max);
    keys
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        config::model::{LocalClients, LogFormat, LogLevel, LogTarget, XdpMode},
        desired::tests::{config, service},
    };

    #[test]
    fn what_was_made_at_start_needs_a_restart_and_nothing_else_does() {
        let old = config(vec![service("api", [172, 16, 0, 10].into(), &[4])]);
        let mut new = config(vec![service("other", [172, 16, 0, 11].into(), &[5])]);
        new.node.name = "lb2".into();
        new.node.local_clients = LocalClients::All;
        new.flows.idle_timeout = Duration::from_secs(1);
        new.vrrp.clear();
        new.log.level = LogLevel::Debug;
        assert!(needs_restart(&old, &new).is_empty());
        new.node.interfaces = vec!["eth1".into(), "eth2".into()];
        new.node.xdp_mode = XdpMode::Generic;
        new.node.pin_path = "/sys/fs/bpf/other".into();
        new.node.observe = true;
        new.log.target = LogTarget::Stderr;
        new.log.format = LogFormat::Json;
        new.flows.max += 1;
        new.flows.half_open_max += 1;
        new.flows.sources_max += 1;
        assert_eq!(
            needs_restart(&old, &new),
            [
                "node.interface",
                "node.interfaces",
                "node.xdp_mode",
                "node.pin_path",
                "node.observe",
                "log.target",
                "log.format",
                "flows.max",
                "flows.half_open_max",
                "flows.sources_max"
            ]
        );
    }
}
