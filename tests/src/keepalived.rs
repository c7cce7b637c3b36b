//! The real keepalived (2.2.7 or later) on a machine of the lab.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, DaemonError};
use crate::netns::Netns;

const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(60);

/// A `vrrp_instance` on `eth0`, as BACKUP at first.
#[derive(Debug, Clone)]
pub struct KeepalivedConfig {
    /// `version`.
    pub version: u8,
    /// `virtual_router_id`.
    pub virtual_router_id: u8,
    /// `priority`.
    pub priority: u8,
    /// `advert_int`; version 2 knows whole seconds only.
    pub interval: Duration,
    /// `nopreempt`.
    pub nopreempt: bool,
    /// `auth_pass`, of type PASS.
    pub password: Option<String>,
    /// `unicast_src_ip` and `unicast_peer`; without them multicast is used.
    pub unicast: Option<(IpAddr, IpAddr)>,
    /// `virtual_ipaddress`, each with its prefix length.
    pub vips: Vec<String>,
}

impl KeepalivedConfig {
    /// The configuration file.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "vrrp_instance main {{\n state BACKUP\n interface eth0\n version {}\n virtual_router_id {}\n priority {}\n \
             advert_int {}\n",
            self.version,
            self.virtual_router_id,
            self.priority,
            self.interval.as_secs_f32()
        );
        if self.nopreempt {
            text.push_str(" nopreempt\n");
        }
        if let Some(password) = &self.password {
            let _ = writeln!(text, " authentication {{\n  auth_type PASS\n  auth_pass {password}\n }}");
        }
        if let Some((source, peer)) = self.unicast {
            let _ = writeln!(text, " unicast_src_ip {source}\n unicast_peer {{\n  {peer}\n }}");
        }
        let _ = writeln!(text, " virtual_ipaddress {{\n  {}\n }}\n}}", self.vips.join("\n  "));
        text
    }
}

/// A running keepalived; killed when dropped.
#[derive(Debug)]
pub struct Keepalived {
    daemon: Daemon,
    log: PathBuf,
}

impl Keepalived {
    /// Starts it and waits until it takes part; its files are in `dir`, and its log grows from start to start.
    ///
    /// # Errors
    /// When it is not installed, does not like the configuration, or does not come up.
    pub fn start(machine: &Netns, dir: &Path, config: &KeepalivedConfig) -> Result<Self, DaemonError> {
        let file = |suffix: &str| dir.join(format!("{}-keepalived.{suffix}", machine.name()));
        let (path, log) = (file("conf"), file("log"));
        let io = |source| DaemonError::Io { name: "keepalived".to_owned(), source };
        fs::write(&path, config.text()).map_err(io)?;
        // A killed child stays a zombie of the machine's process 1, which reads nothing but its pipe; keepalived would
        // take it for a running one.
        machine.run(|| {
            for pid_file in ["keepalived", "vrrp", "keepalived/keepalived", "keepalived/vrrp"] {
                let _ = fs::remove_file(format!("/run/{pid_file}.pid"));
            }
        })?;
        let before = starts(&log);
        let mut command = Command::new("keepalived");
        // Its pid files are in the machine's own `/run`.
        command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]).arg(&path);
        let mut daemon = Daemon::start(machine, "keepalived", &mut command, &log)?;
        daemon.wait_ready("keepalived to come up", START_LIMIT, || starts(&log) > before)?;
        Ok(Self { daemon, log })
    }

    /// `SIGTERM`: as MASTER it sends priority 0. Its addresses are gone when this returns.
    ///
    /// # Errors
    /// When it has to be killed.
    pub fn stop(self) -> Result<(), DaemonError> {
        self.daemon.terminate(END_LIMIT).map(drop)
    }

    /// Ends it without a word, as a loss of power would: its addresses stay.
    pub fn kill(mut self) {
        // It consists of two processes. The child is told with SIGTERM when its parent ends, and says goodbye then; the
        // parent starts another when its child ends.
        let _ = self.daemon.signal(Signal::SIGSTOP);
        for child in self.children() {
            let _ = kill(child, Signal::SIGKILL);
        }
        self.daemon.kill();
    }

    /// Sends both of its processes a signal; `SIGSTOP` and `SIGCONT` make a hung router of it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<(), DaemonError> {
        self.daemon.signal(signal)?;
        for child in self.children() {
            let _ = kill(child, signal);
        }
        Ok(())
    }

    fn children(&self) -> Vec<Pid> {
        let id = self.daemon.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().filter_map(|child| child.parse().ok().map(Pid::from_raw)).collect()
    }

    /// Everything that it has said since its first start in this directory.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// How often a keepalived has come up that logs there.
fn starts(log: &Path) -> usize {
    fs::read_to_string(log).unwrap_or_default().matches("Startup complete").count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_says_what_was_asked_for() {
        let config = KeepalivedConfig {
            version: 3,
            virtual_router_id: 60,
            priority: 100,
            interval: Duration::from_millis(200),
            nopreempt: false,
            password: None,
            unicast: None,
            vips: vec!["172.16.0.10/24".to_owned()],
        };
        let expected = "vrrp_instance main {\n state BACKUP\n interface eth0\n version 3\n virtual_router_id 60\n \
                        priority 100\n advert_int 0.2\n virtual_ipaddress {\n  172.16.0.10/24\n }\n}\n";
        assert_eq!(config.text(), expected);
        let config = KeepalivedConfig {
            version: 2,
            interval: Duration::from_secs(1),
            nopreempt: true,
            password: Some("1111".to_owned()),
            unicast: Some(([172, 16, 0, 3].into(), [172, 16, 0, 2].into())),
            ..config
        };
        let text = config.text();
        for part in [
            " advert_int 1\n nopreempt\n",
            " authentication {\n  auth_type PASS\n  auth_pass 1111\n }\n",
            " unicast_src_ip 172.16.0.3\n unicast_peer {\n  172.16.0.2\n }\n",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
    }
}
