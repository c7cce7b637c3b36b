//! HAProxy with a crowd of servers: started, reloaded, asked.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::crowd::{Crowd, STATISTICS};
use super::process::{cpu_time, resident};
use crate::daemon::Daemon;
use crate::netns::Netns;
use crate::topology::Lab;
use crate::wait;

const START_LIMIT: Duration = Duration::from_secs(60);
/// The host number of its machine in the lab.
const HOST: u8 = 77;

/// One HAProxy on a machine of its own.
pub struct Haproxy {
    // Before the machine, which waits for its processes when it is dropped.
    running: Option<Daemon>,
    former: Vec<Daemon>,
    machine: Netns,
    address: IpAddr,
    file: PathBuf,
    log: PathBuf,
}

/// What a reload took.
#[derive(Debug, Clone, Copy)]
pub struct Reloaded {
    /// Until the new configuration was in force.
    pub wall: Duration,
    /// Processor time until then.
    pub cpu: Duration,
}

impl Haproxy {
    /// Makes the machine. Nothing runs on it yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(lab: &Lab) -> anyhow::Result<Self> {
        let machine = lab.add_machine("haproxy", HOST, false)?;
        let address = crate::topology::host(HOST).into();
        let (file, log) = (lab.dir().join("haproxy-crowd.cfg"), lab.dir().join("haproxy-crowd.log"));
        Ok(Self { running: None, former: vec![], machine, address, file, log })
    }

    /// Its machine.
    pub fn machine(&self) -> &Netns {
        &self.machine
    }

    /// Starts it, or reloads it as `systemctl reload` would: a new process reads the file, takes the listeners over and
    /// tells the old one to finish (`-sf`).
    ///
    /// # Errors
    /// When it ends, or does not answer in time.
    pub fn load(&mut self, crowd: &Crowd) -> anyhow::Result<Reloaded> {
        crowd.write_for_haproxy(&self.file, self.address)?;
        let before = self.own_id().ok();
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&self.file);
        if let Some(before) = &before {
            command.args(["-sf", before]);
        }
        let begin = Instant::now();
        let mut daemon = Daemon::start(&self.machine, "haproxy", &mut command, &self.log)?;
        daemon.wait_ready("HAProxy to answer", START_LIMIT, || {
            self.own_id().is_ok_and(|now| before.as_ref() != Some(&now))
        })?;
        let reloaded = Reloaded { wall: begin.elapsed(), cpu: cpu_time(daemon.id())? };
        self.former.extend(self.running.replace(daemon));
        self.former.retain_mut(Daemon::is_running);
        Ok(reloaded)
    }

    /// The former process ends when its last connection has; until then it takes processor time.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_alone(&mut self) -> anyhow::Result<()> {
        let former = &mut self.former;
        Ok(wait::until("the former HAProxy to end", START_LIMIT, || {
            former.retain_mut(Daemon::is_running);
            former.is_empty()
        })?)
    }

    /// How many servers are up.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn up(&self) -> io::Result<usize> {
        Ok(up_in(&self.ask("show stat -1 4 -1")?))
    }

    /// Everything that it tells of its servers.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn statistics(&self) -> io::Result<String> {
        self.ask("show stat")
    }

    /// Processor time until now.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.id()?)
    }

    /// Memory in bytes.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident(&self) -> anyhow::Result<u64> {
        Ok(resident(self.id()?)?)
    }

    /// Ends it.
    pub fn kill(&mut self) {
        self.running.take().into_iter().chain(self.former.drain(..)).for_each(Daemon::kill);
    }

    fn id(&self) -> anyhow::Result<u32> {
        self.running.as_ref().map(Daemon::id).context("HAProxy does not run")
    }

    /// The process id of whoever answers, as its machine has it.
    fn own_id(&self) -> io::Result<String> {
        let info = self.ask("show info")?;
        let id = info.lines().find_map(|line| line.strip_prefix("Pid: "));
        id.map(str::to_owned).ok_or_else(|| io::Error::other("no Pid"))
    }

    fn ask(&self, question: &str) -> io::Result<String> {
        let ask = || {
            let mut socket = UnixStream::connect(STATISTICS)?;
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
            socket.write_all(format!("{question}\n").as_bytes())?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer)?;
            Ok(answer)
        };
        self.machine.run(ask).map_err(io::Error::other)?
    }
}

/// How many lines of `show stat` say that they are up and checked: a server that has never been checked is `UP` too, and
/// its column 37 (`check_status`, HAProxy Management Guide, 9.1) says `INI` or nothing.
fn up_in(answer: &str) -> usize {
    let is_up = |line: &&str| {
        let columns: Vec<&str> = line.split(',').collect();
        columns.get(17).is_some_and(|state| state.starts_with("UP"))
            && columns.get(36).is_some_and(|check| check.starts_with('L'))
    };
    answer.lines().filter(|line| !line.starts_with('#')).filter(is_up).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_servers_that_have_been_checked_are_up() {
        let line = |state: &str, check: &str| {
            let mut columns = vec![""; 40];
            (columns[17], columns[36]) = (state, check);
            columns.join(",")
        };
        let lines = [line("UP", "L4OK"), line("UP", "INI"), line("DOWN", "L4CON"), line("UP 1/3", "L7OK")];
        assert_eq!(up_in(&format!("# pxname\n{}\n", lines.join("\n"))), 2);
    }
}
