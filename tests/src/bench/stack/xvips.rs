//! Two nodes of xvip's.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;

use super::absence::Absence;
use super::{Incident, NAMES, SERVERS, Stack, befall_server, undo_server};
use crate::addresses::Family;
use crate::node::{LbNode, NodeConfig};
use crate::shared_flows;
use crate::topology::{API_PORT, Lab, Mode, PLAIN_PORT, find_program};
use crate::wait;

/// How long a daemon may take to end that leaves.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// Loading the programs and making the tables takes a busy machine long.
const START_LIMIT: Duration = Duration::from_secs(200);

/// What a pair is like.
#[derive(Debug, Clone)]
pub struct XvipSettings {
    /// How its services forward.
    pub mode: Mode,
    /// How often it advertises; `None`: the default.
    pub advert_interval: Option<&'static str>,
    /// For how long a backend that is back gets less than its share; `None`: the default.
    pub slow_start: Option<&'static str>,
    /// Whether the lab has one API server more than the pair knows of at first.
    pub spare: bool,
}

/// Two nodes, nothing configured that has a default but what the settings say. In nat mode they keep each other's flows.
pub struct XvipPair {
    // Before the lab, whose processes it thaws.
    absence: Absence,
    lab: Lab,
}

impl XvipPair {
    /// Builds the lab and starts them; see [`super::Kind::start`].
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub fn start(settings: &XvipSettings) -> anyhow::Result<Self> {
        let masters = SERVERS as u8 + u8::from(settings.spare);
        let lab = Lab::builder().mode(settings.mode).masters(masters).patience(10).build()?;
        let plain = lab.plain_service(Family::V4);
        let pair = Self { absence: Absence::of(NAMES[0]), lab };
        if settings.mode == Mode::Nat {
            // With direct server return the Maglev table does without.
            shared_flows::share(&pair.lab)?;
        }
        for lb in pair.lab.lbs() {
            lb.configure(|config| {
                config.services.push(plain.clone());
                for service in &mut config.services {
                    service.health.extend(settings.slow_start.map(|time| format!("slow_start = {time:?}")));
                }
                for vrrp in &mut config.vrrp {
                    vrrp.advert_interval = settings.advert_interval.map(str::to_owned);
                }
            })?;
        }
        pair.configure(None)?;
        pair.lab.start_lbs()?;
        Ok(pair)
    }

    fn first(&self) -> &LbNode {
        self.lab.lb(0)
    }

    /// Writes the configuration with the usual backends and, if there is a weight, the spare one.
    fn configure(&self, spare: Option<u32>) -> anyhow::Result<()> {
        self.configure_with(|config| {
            for (service, port) in config.services.iter_mut().zip([API_PORT, PLAIN_PORT]) {
                service.backends = self.lab.backends(Family::V4, port);
                service.backends.truncate(SERVERS + usize::from(spare.is_some()));
                if let Some(last) = service.backends.get_mut(SERVERS) {
                    last.weight = spare;
                }
            }
        })
    }

    fn configure_with(&self, change: impl Fn(&mut NodeConfig)) -> anyhow::Result<()> {
        Ok(self.lab.lbs().iter().try_for_each(|lb| lb.configure(&change))?)
    }

    fn reload(&self, spare: Option<u32>) -> anyhow::Result<()> {
        self.configure(spare)?;
        self.tell_to_reload()
    }

    fn tell_to_reload(&self) -> anyhow::Result<()> {
        self.lab.lbs().iter().try_for_each(|lb| run(lb, &["reload"]))
    }

    /// Whether connections move to a backend that is back.
    fn rebalance(&self, auto: bool) -> anyhow::Result<()> {
        let lines = ["\n[service.rebalance]", "mode = \"auto\""];
        self.configure_with(|config| {
            for service in &mut config.services {
                // The last table before the backends.
                service.health.retain(|line| !lines.contains(&line.as_str()));
                service.health.extend(lines.iter().filter(|_| auto).map(|&line| line.to_owned()));
            }
        })?;
        self.tell_to_reload()
    }

    /// A planned restart: the daemon leaves everything to the next one.
    fn restart(&self) -> anyhow::Result<()> {
        let node = self.first();
        node.signal(Signal::SIGUSR2)?;
        wait::until("xvip to leave", LEAVE_LIMIT, || !node.is_running())?;
        Ok(node.start_within(START_LIMIT)?)
    }
}

impl Stack for XvipPair {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn knows(&self, incident: Incident) -> anyhow::Result<bool> {
        if incident != Incident::Release {
            return Ok(true);
        }
        let mut help = Command::new(find_program("xvip", "XVIP_BIN")?);
        Ok(help
            .args(["vip", "release", "--help"])
            .output()
            .context("xvip vip release --help")?
            .status
            .success())
    }

    fn owner(&self) -> Option<&str> {
        let present = self.lab.lbs().iter().skip(usize::from(self.absence.is_away()));
        let mut owners = present.filter(|lb| {
            lb.is_running()
                && lb.holds_vip()
                && lb.status().is_ok_and(|status| status.vrrp_state() == "active")
        });
        // Two of them at the same moment own nothing.
        owners.next().filter(|_| owners.next().is_none()).map(LbNode::name)
    }

    fn is_whole(&self) -> bool {
        !self.absence.is_away()
            && self.lab.lbs().iter().all(|lb| {
                lb.status().is_ok_and(|status| {
                    !status.services.is_empty()
                        && status
                            .services
                            .iter()
                            .all(|service| service.backends.iter().all(|backend| backend.state == "up"))
                })
            })
    }

    fn has_given_up_server(&self) -> bool {
        let first = self.lab.master(0).name();
        self.lab.lbs().iter().all(|lb| {
            lb.status().is_ok_and(|status| {
                let mut backends = status.services.iter().flat_map(|service| &service.backends);
                backends.all(|backend| backend.name != first || backend.state == "down")
            })
        })
    }

    fn prepare(&mut self, incident: Incident) -> anyhow::Result<()> {
        match incident {
            Incident::FailBack => stop(self.first())?,
            Incident::BackendWeighted | Incident::BackendRemoved => self.reload(Some(100))?,
            Incident::ServerBack => {
                self.rebalance(true)?;
                self.lab.master(0).kill();
            }
            _ => {}
        }
        Ok(())
    }

    fn befall(&mut self, incident: Incident) -> anyhow::Result<()> {
        if befall_server(&self.lab, incident)? {
            return Ok(());
        }
        let node = self.lab.lb(0);
        match incident {
            Incident::NodeDeath => {
                self.absence.cut(&self.lab)?;
                node.kill();
            }
            Incident::Cut => self.absence.cut(&self.lab)?,
            Incident::Freeze => self.absence.freeze(&[node.daemon_id().context("no daemon runs")?])?,
            Incident::Stop => stop(node)?,
            Incident::Release => run(node, &["vip", "release"])?,
            Incident::ProcessDeath => node.kill(),
            Incident::Restart => self.restart()?,
            Incident::Crash => {
                node.kill();
                node.start_within(START_LIMIT)?;
            }
            Incident::FailBack => node.start_within(START_LIMIT)?,
            Incident::BackendAdded => self.reload(Some(100))?,
            Incident::BackendWeighted => self.reload(Some(50))?,
            Incident::BackendRemoved => self.reload(None)?,
            Incident::ServerKilled
            | Incident::ServerSilent
            | Incident::ServerUnready
            | Incident::ServerBack => {}
        }
        Ok(())
    }

    fn undo(&mut self, incident: Incident) -> anyhow::Result<()> {
        undo_server(&self.lab, incident)?;
        match incident {
            Incident::NodeDeath => {
                let node = self.first();
                // A node that boots has no programs, pins or addresses of xvip's.
                let output = node.machine().output(&mut node.tool(&["cleanup"]))?;
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "xvip cleanup: {}", said.trim());
            }
            Incident::Release => run(self.first(), &["vip", "acquire"])?,
            Incident::BackendAdded | Incident::BackendWeighted => self.reload(None)?,
            Incident::ServerBack => self.rebalance(false)?,
            _ => {}
        }
        self.absence.end(&self.lab)?;
        Ok(self.first().start_within(START_LIMIT)?)
    }

    fn last_lines(&self) -> String {
        self.lab.last_lines()
    }
}

fn stop(node: &LbNode) -> anyhow::Result<()> {
    let (status, _) = node.stop()?;
    ensure!(status.success(), "xvip ended with {status} after SIGTERM");
    Ok(())
}

fn run(node: &LbNode, words: &[&str]) -> anyhow::Result<()> {
    let output = node.xvip(words)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "xvip {} on {}: {}", words.join(" "), node.name(), said.trim());
    Ok(())
}
