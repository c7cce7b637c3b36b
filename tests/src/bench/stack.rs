//! A pair of load balancer nodes, whoever's, to which something happens.

mod absence;
mod incumbents;
mod xvips;

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::topology::{Lab, LabError, Mode};

pub use incumbents::IncumbentPair;
pub use xvips::{XvipPair, XvipSettings};

/// What happens, most of it to the first node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Incident {
    /// The daemon that owns the VIP gets SIGTERM, as from `systemctl stop`.
    Stop,
    /// `xvip vip release`.
    Release,
    /// A planned restart of the balancer: `systemctl restart haproxy`, or xvip leaves and starts again.
    Restart,
    /// The balancer's process is killed with -9, and at once started again, as systemd does.
    Crash,
    /// The balancer's process is killed with -9: `haproxy`, or `xvip`. Nobody starts it again.
    ProcessDeath,
    /// Its cable is cut at the switch, and then all its processes are killed: nothing of it is heard after the cut.
    NodeDeath,
    /// Its cable is cut. It lives on, and later its cable is mended.
    Cut,
    /// All its processes are frozen. Its kernel is not.
    Freeze,
    /// It was stopped and comes back: the VIP moves from the second node to the first.
    FailBack,
    /// A reload that adds a backend.
    BackendAdded,
    /// A reload that changes the weight of a backend.
    BackendWeighted,
    /// A reload that removes a backend.
    BackendRemoved,
    /// The first API server's process is killed with -9.
    ServerKilled,
    /// The first API server's machine is heard no more.
    ServerSilent,
    /// The first API server serves on, but is not ready: it shuts down.
    ServerUnready,
    /// The first API server is back, and the other two have all connections.
    ServerBack,
}

impl Incident {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Stop,
        Self::Release,
        Self::Restart,
        Self::Crash,
        Self::ProcessDeath,
        Self::NodeDeath,
        Self::Cut,
        Self::Freeze,
        Self::FailBack,
        Self::BackendAdded,
        Self::BackendWeighted,
        Self::BackendRemoved,
        Self::ServerKilled,
        Self::ServerSilent,
        Self::ServerUnready,
        Self::ServerBack,
    ];

    /// In a table.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::NodeDeath => "node death",
            Self::Stop => "graceful stop",
            Self::Release => "vip release",
            Self::ProcessDeath => "balancer killed",
            Self::Restart => "balancer restarted",
            Self::Crash => "killed, started again",
            Self::Cut => "node cut off",
            Self::Freeze => "node frozen",
            Self::FailBack => "first node comes back",
            Self::BackendAdded => "reload: backend added",
            Self::BackendWeighted => "reload: other weight",
            Self::BackendRemoved => "reload: backend removed",
            Self::ServerKilled => "API server killed",
            Self::ServerSilent => "API server black-holed",
            Self::ServerUnready => "API server not ready",
            Self::ServerBack => "API server returns",
        }
    }

    /// Whether [`Stack::prepare`] has something to do for it.
    #[must_use]
    pub fn needs_preparation(self) -> bool {
        matches!(self, Self::FailBack | Self::BackendWeighted | Self::BackendRemoved | Self::ServerBack)
    }

    /// Which node owns the VIP before.
    #[must_use]
    pub fn owner_before(self) -> &'static str {
        if self == Self::FailBack { NAMES[1] } else { NAMES[0] }
    }

    /// Which node owns the VIP after.
    #[must_use]
    pub fn owner_after(self) -> &'static str {
        match self {
            Self::Stop | Self::Release | Self::ProcessDeath | Self::NodeDeath | Self::Cut | Self::Freeze => {
                NAMES[1]
            }
            _ => NAMES[0],
        }
    }

    /// Whether the pair has to be built anew after it: an API server that was away gets few connections for a minute
    /// (slow start), and what happens to it next would harm few.
    #[must_use]
    pub fn leaves_slow_start(self) -> bool {
        matches!(self, Self::ServerKilled | Self::ServerSilent | Self::ServerUnready | Self::ServerBack)
    }

    /// Whether it happens to the first API server: streams there may end.
    #[must_use]
    pub fn harms_server(self) -> bool {
        matches!(self, Self::ServerKilled | Self::ServerSilent)
    }
}

/// Makes something happen to an API server; false where the incident is none of these.
fn befall_server(lab: &Lab, incident: Incident) -> Result<bool, LabError> {
    let server = lab.master(0);
    match incident {
        Incident::ServerKilled => server.kill(),
        Incident::ServerSilent => lab.isolate(server.name())?,
        Incident::ServerUnready => server.set_ready(false)?,
        Incident::ServerBack => server.start()?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Undoes that.
fn undo_server(lab: &Lab, incident: Incident) -> Result<(), LabError> {
    let server = lab.master(0);
    match incident {
        Incident::ServerKilled => server.start()?,
        Incident::ServerSilent => lab.heal(server.name())?,
        Incident::ServerUnready => server.set_ready(true)?,
        _ => {}
    }
    Ok(())
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

    /// Builds the pair and starts it. It may not have settled yet. With `spare` the lab has one API server more than
    /// the pair knows of at first.
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub fn start(self, spare: bool) -> anyhow::Result<Box<dyn Stack>> {
        let settings = XvipSettings { mode: Mode::Nat, advert_interval: None, slow_start: None, spare };
        Ok(match self {
            Self::Incumbent => Box::new(IncumbentPair::start(spare)?),
            Self::Xvip => Box::new(XvipPair::start(&settings)?),
            Self::XvipTuned => {
                Box::new(XvipPair::start(&XvipSettings { advert_interval: Some("50ms"), ..settings })?)
            }
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

    /// Whether all nodes run and take all API servers that they know of for healthy.
    fn is_whole(&self) -> bool;

    /// Whether no running node takes the first API server for healthy.
    fn has_given_up_server(&self) -> bool;

    /// Does what has to be done before the incident can happen: it may take a while until that has had its effect.
    ///
    /// # Errors
    /// When it could not be done.
    fn prepare(&mut self, incident: Incident) -> anyhow::Result<()>;

    /// Makes it happen. Returns soon after it has happened.
    ///
    /// # Errors
    /// When it could not be done.
    fn befall(&mut self, incident: Incident) -> anyhow::Result<()>;

    /// Brings back what was before. Some time later the first node will own the VIP again.
    ///
    /// # Errors
    /// When it does not start.
    fn undo(&mut self, incident: Incident) -> anyhow::Result<()>;

    /// The ends of its logs.
    fn last_lines(&self) -> String;
}

const NAMES: [&str; 2] = ["lb1", "lb2"];
/// How many API servers a pair knows of when all is well.
const SERVERS: usize = 3;

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
