//! HAProxy and keepalived as the customers run them.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::Context;

use super::absence::Absence;
use super::{Incident, NAMES, SERVERS, Stack, befall_server, undo_server};
use crate::incumbent::{IncumbentNode, Server};
use crate::topology::Lab;

/// Two nodes.
pub struct IncumbentPair {
    // Before the nodes, whose processes it thaws, and these before the switch that they are plugged into.
    absence: Absence,
    nodes: [IncumbentNode; 2],
    lab: Lab,
}

impl IncumbentPair {
    /// Builds the lab and starts them; see [`super::Kind::start`].
    ///
    /// # Errors
    /// When it cannot be built or does not start.
    pub fn start(spare: bool) -> anyhow::Result<Self> {
        let lab = Lab::builder().lbs(0).masters(SERVERS as u8 + u8::from(spare)).build()?;
        let nodes = [IncumbentNode::create(&lab, 0)?, IncumbentNode::create(&lab, 1)?];
        let mut pair = Self { absence: Absence::of(NAMES[0]), nodes, lab };
        pair.configure(None)?;
        for node in &mut pair.nodes {
            node.start()?;
        }
        Ok(pair)
    }

    /// Writes the configuration with the usual servers and, if there is a weight, the spare one.
    fn configure(&self, spare: Option<u32>) -> io::Result<()> {
        let usual = self.lab.masters().iter().take(SERVERS).map(Server::of);
        let last = self.lab.masters().get(SERVERS).zip(spare);
        let last = last.map(|(master, weight)| Server { weight: Some(weight), ..Server::of(master) });
        let servers: Vec<_> = usual.chain(last).collect();
        self.nodes.iter().try_for_each(|node| node.configure(&servers))
    }

    fn reload(&mut self, spare: Option<u32>) -> anyhow::Result<()> {
        self.configure(spare)?;
        for node in &mut self.nodes {
            node.reload()?;
        }
        Ok(())
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
        let has = [!self.absence.is_away() && self.nodes[0].holds_vip(), self.nodes[1].holds_vip()];
        match has {
            [true, false] => Some(NAMES[0]),
            [false, true] => Some(NAMES[1]),
            _ => None,
        }
    }

    fn is_whole(&self) -> bool {
        !self.absence.is_away()
            && self.nodes.iter().all(|node| {
                server_states(node).is_ok_and(|states| {
                    states.len() >= 2 * SERVERS && states.iter().all(|(_, state)| state == "UP")
                })
            })
    }

    fn has_given_up_server(&self) -> bool {
        let first = self.lab.master(0).name();
        let down = |(server, state): &(String, String)| server != first || state == "DOWN";
        self.nodes.iter().all(|node| server_states(node).is_ok_and(|states| states.iter().all(down)))
    }

    fn prepare(&mut self, incident: Incident) -> anyhow::Result<()> {
        match incident {
            Incident::FailBack => self.nodes[0].stop_keepalived()?,
            Incident::BackendWeighted | Incident::BackendRemoved => self.reload(Some(100))?,
            Incident::ServerBack => self.lab.master(0).kill(),
            _ => {}
        }
        Ok(())
    }

    fn befall(&mut self, incident: Incident) -> anyhow::Result<()> {
        if befall_server(&self.lab, incident)? {
            return Ok(());
        }
        let node = &mut self.nodes[0];
        match incident {
            Incident::NodeDeath => {
                self.absence.cut(&self.lab)?;
                node.kill().context("killing keepalived and HAProxy")?;
            }
            Incident::Cut => self.absence.cut(&self.lab)?,
            Incident::Freeze => self.absence.freeze(&node.processes()?)?,
            Incident::Stop => node.stop_keepalived()?,
            Incident::ProcessDeath => node.kill_haproxy(),
            Incident::Restart => node.restart_haproxy()?,
            Incident::Crash => {
                node.kill_haproxy();
                node.start_haproxy()?;
            }
            Incident::FailBack => node.start()?,
            Incident::BackendAdded => self.reload(Some(100))?,
            Incident::BackendWeighted => self.reload(Some(50))?,
            Incident::BackendRemoved => self.reload(None)?,
            Incident::Release
            | Incident::ServerKilled
            | Incident::ServerSilent
            | Incident::ServerUnready
            | Incident::ServerBack => {}
        }
        Ok(())
    }

    fn undo(&mut self, incident: Incident) -> anyhow::Result<()> {
        undo_server(&self.lab, incident)?;
        match incident {
            Incident::NodeDeath => self.nodes[0].forget()?,
            Incident::BackendAdded | Incident::BackendWeighted => self.reload(None)?,
            _ => {}
        }
        self.absence.end(&self.lab)?;
        Ok(self.nodes[0].start()?)
    }

    fn last_lines(&self) -> String {
        self.nodes.iter().map(IncumbentNode::last_lines).collect()
    }
}

/// Each server of each backend of a node's HAProxy, and whether it is UP.
fn server_states(node: &IncumbentNode) -> io::Result<Vec<(String, String)>> {
    let ask = || {
        let mut socket = UnixStream::connect("/run/haproxy-stats")?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.write_all(b"show stat\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        io::Result::Ok(answer)
    };
    Ok(states(&node.machine().run(ask).map_err(io::Error::other)??))
}

/// Reads what `show stat` answers (HAProxy Management Guide, 9.1): a server's name is column 2, its state column 18.
fn states(answer: &str) -> Vec<(String, String)> {
    let lines = answer.lines().filter(|line| !line.starts_with('#'));
    let columns = lines.map(|line| line.split(',').collect::<Vec<_>>());
    let of_server = |columns: Vec<&str>| {
        let (name, state) = (*columns.get(1)?, *columns.get(17)?);
        // A server that goes up or down is `UP 1/2`.
        let state = state.split(' ').next().unwrap_or_default();
        (!matches!(name, "FRONTEND" | "BACKEND")).then(|| (name.to_owned(), state.to_owned()))
    };
    columns.filter_map(of_server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_servers_are_read_and_those_of_nothing_else() {
        let answer = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight\n\
                      plain,FRONTEND,,,0,1,4000,1,0,0,0,0,0,,,,,OPEN,\n\
                      plain,master1,0,0,0,1,250,1,0,0,,0,,0,0,0,0,DOWN,100\n\
                      plain,master2,0,0,0,1,250,1,0,0,,0,,0,0,0,0,UP 1/2,100\n\
                      plain,BACKEND,0,0,0,1,400,1,0,0,0,0,,0,0,0,0,UP,200\n\n";
        let owned = |(name, state): (&str, &str)| (name.to_owned(), state.to_owned());
        assert_eq!(states(answer), [("master1", "DOWN"), ("master2", "UP")].map(owned));
    }
}
