//! A pair of load balancer nodes, whoever's, to which something happens.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;

use crate::addresses::Family;
use crate::incumbent::IncumbentNode;
use crate::node::LbNode;
use crate::topology::{Lab, find_program};

/// What happens to the first node, which owns the VIP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Incident {
    /// Its cable is cut at the switch, and then all its processes are killed: nothing of it is heard after the cut.
    NodeDeath,
    /// The daemon that owns the VIP gets SIGTERM, as from `systemctl stop`.
    Stop,
    /// `xvip vip release`.
    Release,
    /// The balancer's process is killed with -9: `haproxy`, or `xvip`.
    ProcessDeath,
}

impl Incident {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::NodeDeath, Self::Stop, Self::Release, Self::ProcessDeath];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::NodeDeath => "node death",
            Self::Stop => "graceful stop",
            Self::Release => "vip release",
            Self::ProcessDeath => "balancer killed",
        }
    }
}

/// Which pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// HAProxy and keepalived at the customers' settings.
    Incumbent,
    /// xvip, nothing configured that has a default.
    Xvip,
    /// xvip that advertises each 50 ms.
    XvipTuned,
}

impl Kind {
    /// All of them; the one that the others are compared to comes first.
    pub const ALL: [Self; 3] = [Self::Incumbent, Self::Xvip, Self::XvipTuned];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Incumbent => "HAProxy + keepalived",
            Self::Xvip => "xvip, defaults",
            Self::XvipTuned => "xvip, 50 ms",
        }
    }

    /// When, after the pair has settled, repeat number `repeat` lets the incident happen: spread evenly over the period
    /// of its slowest clock, so that the phase of an advertisement or of a check decides nothing.
    #[must_use]
    pub fn phase(self, repeat: u32) -> Duration {
        let period = match self {
            // The script that asks for HAProxy.
            Self::Incumbent => Duration::from_secs(2),
            // The checks of the backends.
            Self::Xvip | Self::XvipTuned => Duration::from_secs(1),
        };
        // Multiples of the golden ratio, modulo 1, lie evenly for any number of repeats (Weyl's theorem).
        period.mul_f64((f64::from(repeat) * 0.618_033_988_75).fract())
    }

    /// Builds the pair and starts it. It may not have settled yet.
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub fn start(self) -> anyhow::Result<Box<dyn Stack>> {
        Ok(match self {
            Self::Incumbent => Box::new(IncumbentPair::start()?),
            Self::Xvip => Box::new(XvipPair::start(None)?),
            Self::XvipTuned => Box::new(XvipPair::start(Some("50ms"))?),
        })
    }
}

/// A running pair. `lb1` is preferred, so it has the VIP whenever all is well.
pub trait Stack {
    /// The network that it is in.
    fn lab(&self) -> &Lab;

    /// Whether this can happen to it.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn knows(&self, incident: Incident) -> anyhow::Result<bool>;

    /// The name of the node that owns the VIP alone; a dead node owns nothing.
    fn owner(&self) -> Option<&str>;

    /// Makes it happen to the first node. Returns soon after it has happened.
    ///
    /// # Errors
    /// When it could not be done.
    fn befall(&mut self, incident: Incident) -> anyhow::Result<()>;

    /// Brings the first node back. Some time later it will own the VIP again.
    ///
    /// # Errors
    /// When it does not start.
    fn undo(&mut self, incident: Incident) -> anyhow::Result<()>;

    /// The ends of its logs.
    fn last_lines(&self) -> String;
}

const NAMES: [&str; 2] = ["lb1", "lb2"];

struct IncumbentPair {
    // Before the switch that they are plugged into.
    nodes: [IncumbentNode; 2],
    lab: Lab,
    dead: bool,
}

impl IncumbentPair {
    fn start() -> anyhow::Result<Self> {
        let lab = Lab::builder().lbs(0).build()?;
        let mut nodes = [IncumbentNode::create(&lab, 0)?, IncumbentNode::create(&lab, 1)?];
        for node in &mut nodes {
            node.start()?;
        }
        Ok(Self { nodes, lab, dead: false })
    }
}

impl Stack for IncumbentPair {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn knows(&self, incident: Incident) -> anyhow::Result<bool> {
        Ok(incident != Incident::Release)
    }

    fn owner(&self) -> Option<&str> {
        let has = [!self.dead && self.nodes[0].holds_vip(), self.nodes[1].holds_vip()];
        match has {
            [true, false] => Some(NAMES[0]),
            [false, true] => Some(NAMES[1]),
            _ => None,
        }
    }

    fn befall(&mut self, incident: Incident) -> anyhow::Result<()> {
        let node = &mut self.nodes[0];
        match incident {
            Incident::NodeDeath => {
                self.lab.cut(NAMES[0])?;
                self.dead = true;
                node.kill().context("killing keepalived and HAProxy")?;
            }
            Incident::Stop | Incident::Release => node.stop_keepalived()?,
            Incident::ProcessDeath => node.kill_haproxy(),
        }
        Ok(())
    }

    fn undo(&mut self, incident: Incident) -> anyhow::Result<()> {
        if incident == Incident::NodeDeath {
            self.nodes[0].forget()?;
            self.lab.heal(NAMES[0])?;
            self.dead = false;
        }
        Ok(self.nodes[0].start()?)
    }

    fn last_lines(&self) -> String {
        self.nodes.iter().map(IncumbentNode::last_lines).collect()
    }
}

struct XvipPair {
    lab: Lab,
}

impl XvipPair {
    fn start(advert_interval: Option<&str>) -> anyhow::Result<Self> {
        let lab = Lab::builder().build()?;
        let plain = lab.plain_service(Family::V4);
        for lb in lab.lbs() {
            lb.configure(|config| {
                config.services.push(plain.clone());
                for vrrp in &mut config.vrrp {
                    vrrp.advert_interval = advert_interval.map(str::to_owned);
                }
            })?;
        }
        lab.start_lbs()?;
        Ok(Self { lab })
    }

    fn first(&self) -> &LbNode {
        self.lab.lb(0)
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
        self.lab.owner().map(LbNode::name)
    }

    fn befall(&mut self, incident: Incident) -> anyhow::Result<()> {
        let node = self.first();
        match incident {
            Incident::NodeDeath => {
                self.lab.cut(NAMES[0])?;
                node.kill();
            }
            Incident::Stop => {
                let (status, _) = node.stop()?;
                ensure!(status.success(), "xvip ended with {status} after SIGTERM");
            }
            Incident::Release => self.vip("release")?,
            Incident::ProcessDeath => node.kill(),
        }
        Ok(())
    }

    fn undo(&mut self, incident: Incident) -> anyhow::Result<()> {
        let node = self.first();
        match incident {
            Incident::NodeDeath => {
                // A node that boots has no programs, pins or addresses of xvip's.
                let output = node.machine().output(&mut node.tool(&["cleanup"]))?;
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "xvip cleanup: {}", said.trim());
                self.lab.heal(NAMES[0])?;
            }
            Incident::Release => return self.vip("acquire"),
            Incident::Stop | Incident::ProcessDeath => {}
        }
        Ok(node.start()?)
    }

    fn last_lines(&self) -> String {
        self.lab.last_lines()
    }
}

impl XvipPair {
    fn vip(&self, word: &str) -> anyhow::Result<()> {
        let output = self.first().xvip(&["vip", word])?;
        ensure!(
            output.status.success(),
            "xvip vip {word}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_lie_evenly_in_two_seconds() {
        let mut phases: Vec<_> = (0..20).map(|repeat| Kind::Incumbent.phase(repeat).as_millis()).collect();
        phases.sort_unstable();
        assert!(phases[0] < 200 && phases[19] > 1800, "{phases:?}");
        assert!(phases.windows(2).all(|pair| pair[1] - pair[0] < 200), "{phases:?}");
    }
}
