//! What xvip replaces, as the customers run it: HAProxy, and keepalived with a script that asks whether HAProxy lives.
//!
//! The two configuration files are a customer's own, word for word but for these: host numbers are the lab's, the second
//! node has the same files with its own addresses and a priority of 99, the statistics socket is in the machine's own
//! `/run`, and HAProxy serves the plain port ([`crate::plain`]) as it serves the API servers'. keepalived's default
//! version is 2.

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addresses::Family;
use crate::daemon::{Daemon, DaemonError, last_lines};
use crate::master::Master;
use crate::netns::Netns;
use crate::topology::{API_PORT, Lab, LabError, PLAIN_PORT, PREFIX_LENGTH, VIP, host};

const END_LIMIT: Duration = Duration::from_secs(60);
/// Of each machine's own `/run`.
const STATISTICS: &str = "/run/haproxy-stats";
const START_LIMIT: Duration = Duration::from_secs(60);
/// The host number of the first node and its priority; the second's are one more and one less.
const FIRST: (u8, u8) = (2, 100);

/// A machine with HAProxy and keepalived.
#[derive(Debug)]
pub struct IncumbentNode {
    // Before the machine, which waits for its processes when it is dropped.
    keepalived: Option<Daemon>,
    haproxy: Option<Daemon>,
    /// HAProxys that a reload has replaced. They end when their last connection has.
    former: Vec<Daemon>,
    machine: Arc<Netns>,
    families: Vec<Family>,
    dir: PathBuf,
}

/// A server of HAProxy's backends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where it is; the ports are those of the services.
    pub address: IpAddr,
    /// Its weight, where it is not the default one.
    pub weight: Option<u32>,
}

impl Server {
    /// One of the lab's, with the default weight.
    #[must_use]
    pub fn of(master: &Master) -> Self {
        Self { name: master.name().to_owned(), address: master.address_of(Family::V4), weight: None }
    }
}

impl IncumbentNode {
    /// Makes node `lb1` (`index` 0) or `lb2` (1) in a lab that has no LB nodes of xvip's. Nothing runs on it yet.
    ///
    /// # Errors
    /// When the machine cannot be made, or its files cannot be written.
    pub fn create(lab: &Lab, index: u8) -> Result<Self, LabError> {
        let machine = lab.add_machine(&format!("lb{}", index + 1), FIRST.0 + index, false)?;
        Self::on(lab, Arc::new(machine), index, &[Family::V4])
    }

    /// The same on the machine of one of xvip's nodes, whose daemon may run or not. HAProxy listens on addresses of these
    /// families; of keepalived's there is IPv4 alone.
    ///
    /// # Errors
    /// When its files cannot be written, or there is no such node.
    pub fn beside(lab: &Lab, index: u8, families: &[Family]) -> Result<Self, LabError> {
        Self::on(lab, lab.lb(index.into()).shared_machine().0, index, families)
    }

    fn on(lab: &Lab, machine: Arc<Netns>, index: u8, families: &[Family]) -> Result<Self, LabError> {
        let (dir, families) = (lab.dir().to_owned(), families.to_vec());
        let node = Self { keepalived: None, haproxy: None, former: vec![], machine, families, dir };
        node.configure(&lab.masters().iter().map(Server::of).collect::<Vec<_>>())?;
        fs::write(node.file("keepalived.conf"), keepalived_conf(index))?;
        Ok(node)
    }

    /// Writes HAProxy's configuration with these servers; a running one learns of it by [`IncumbentNode::reload`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn configure(&self, servers: &[Server]) -> io::Result<()> {
        fs::write(self.file("haproxy.cfg"), haproxy_cfg(servers, &self.families))
    }

    /// Changes the limits in the configuration that was written last, so that it can have so many connections at once. What
    /// the customers wrote ends at 750.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn raise_limits(&self, connections: usize) -> io::Result<()> {
        let file = self.file("haproxy.cfg");
        fs::write(&file, with_limits(&fs::read_to_string(&file)?, connections))
    }

    /// HAProxy's configuration file.
    #[must_use]
    pub fn configuration(&self) -> PathBuf {
        self.file("haproxy.cfg")
    }

    /// Whether HAProxy runs.
    pub fn is_running(&mut self) -> bool {
        self.haproxy.as_mut().is_some_and(Daemon::is_running)
    }

    /// Its machine.
    #[must_use]
    pub fn machine(&self) -> &Netns {
        &self.machine
    }

    /// Whether the VIP is on its interface. keepalived has it there exactly while it is MASTER.
    #[must_use]
    pub fn holds_vip(&self) -> bool {
        self.machine.addresses().is_ok_and(|addresses| addresses.contains(&IpAddr::V4(VIP)))
    }

    /// Starts what does not run.
    ///
    /// # Errors
    /// When a program is missing or ends at once.
    pub fn start(&mut self) -> Result<(), DaemonError> {
        self.start_haproxy()?;
        if self.keepalived.is_some() {
            return Ok(());
        }
        let mut command = Command::new("keepalived");
        // Its pid files are in the machine's own `/run`.
        command
            .args(["--dont-fork", "--log-console", "--vrrp", "--use-file"])
            .arg(self.file("keepalived.conf"));
        self.keepalived = Some(self.daemon("keepalived", &mut command)?);
        Ok(())
    }

    /// Starts HAProxy and waits until it listens, unless it runs.
    ///
    /// # Errors
    /// When it is missing or ends at once.
    pub fn start_haproxy(&mut self) -> Result<(), DaemonError> {
        if self.haproxy.is_some() {
            return Ok(());
        }
        self.haproxy = Some(self.new_haproxy(None)?);
        Ok(())
    }

    /// As `systemctl reload haproxy`: a new process takes the listeners over and tells the old one to finish (`-sf`).
    ///
    /// # Errors
    /// As [`IncumbentNode::start_haproxy`].
    pub fn reload(&mut self) -> Result<(), DaemonError> {
        let new = self.new_haproxy(self.haproxy.as_ref())?;
        self.former.extend(self.haproxy.replace(new));
        self.former.retain_mut(Daemon::is_running);
        Ok(())
    }

    /// As `systemctl restart haproxy`.
    ///
    /// # Errors
    /// When it does not end in time, or does not come up.
    pub fn restart_haproxy(&mut self) -> Result<(), DaemonError> {
        if let Some(haproxy) = self.haproxy.take() {
            haproxy.terminate(END_LIMIT)?;
        }
        self.end_former();
        self.start_haproxy()
    }

    /// The processes that run on it, as the host sees them.
    ///
    /// # Errors
    /// When keepalived's children cannot be told.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let mut all: Vec<u32> = self.haproxy.iter().chain(&self.former).map(Daemon::id).collect();
        if let Some(keepalived) = &self.keepalived {
            all.push(keepalived.id());
            all.extend(children(keepalived.id())?.into_iter().map(|child| child.as_raw().cast_unsigned()));
        }
        Ok(all)
    }

    fn end_former(&mut self) {
        self.former.drain(..).for_each(Daemon::kill);
    }

    fn new_haproxy(&self, former: Option<&Daemon>) -> Result<Daemon, DaemonError> {
        let mut command = Command::new("haproxy");
        // -db: in the foreground, whatever the file says.
        command.arg("-db").arg("-f").arg(self.file("haproxy.cfg"));
        if let Some(former) = former {
            command.args(["-sf", &self.own_id(former.id())?.to_string()]);
        }
        let mut daemon = self.daemon("haproxy", &mut command)?;
        let listens =
            || self.machine.run(|| std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, PLAIN_PORT)).is_ok());
        daemon.wait_ready("HAProxy to listen", START_LIMIT, || listens().unwrap_or(false))?;
        Ok(daemon)
    }

    /// The id that a process has on its machine.
    fn own_id(&self, id: u32) -> Result<u32, DaemonError> {
        let io = |source| DaemonError::Io { name: "haproxy".to_owned(), source };
        let status = fs::read_to_string(Path::new("/proc").join(format!("{id}/status"))).map_err(io)?;
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let own = ids.and_then(|ids| ids.split_whitespace().next_back()?.parse().ok());
        own.ok_or_else(|| io(io::ErrorKind::InvalidData.into()))
    }

    /// An orderly stop of keepalived, as by `systemctl stop`; HAProxy goes on.
    ///
    /// # Errors
    /// When it does not end in time, or did not run.
    pub fn stop_keepalived(&mut self) -> Result<(), DaemonError> {
        let not_running =
            || DaemonError::Io { name: "keepalived".to_owned(), source: io::ErrorKind::NotFound.into() };
        self.keepalived.take().ok_or_else(not_running)?.terminate(END_LIMIT).map(drop)
    }

    /// How many connections HAProxy has ever taken for a frontend, as its statistics socket says.
    ///
    /// # Errors
    /// When it does not run, or knows no such frontend.
    pub fn sessions(&self, frontend: &str) -> io::Result<u64> {
        let ask = || {
            let mut socket = UnixStream::connect(STATISTICS)?;
            socket.set_read_timeout(Some(END_LIMIT))?;
            socket.write_all(b"show stat\n")?;
            io::read_to_string(socket)
        };
        let text = self.machine.run(ask).map_err(io::Error::other)??;
        total_sessions(&text, frontend)
            .ok_or_else(|| io::Error::other(format!("no frontend {frontend:?} in\n{text}")))
    }

    /// An orderly stop of HAProxy, as by `systemctl stop`: what is still open ends with it.
    ///
    /// # Errors
    /// When it does not end in time, or did not run.
    pub fn stop_haproxy(&mut self) -> Result<(), DaemonError> {
        let not_running =
            || DaemonError::Io { name: "haproxy".to_owned(), source: io::ErrorKind::NotFound.into() };
        self.haproxy.take().ok_or_else(not_running)?.terminate(END_LIMIT).map(drop)
    }

    /// Kills HAProxy with `kill -9`.
    pub fn kill_haproxy(&mut self) {
        if let Some(haproxy) = self.haproxy.take() {
            haproxy.kill();
        }
        self.end_former();
    }

    /// Kills everything with `kill -9`, keepalived's children before it: a child would stop in good order when its
    /// parent is gone.
    ///
    /// # Errors
    /// When keepalived's children cannot be told.
    pub fn kill(&mut self) -> io::Result<()> {
        if let Some(keepalived) = &self.keepalived {
            for child in children(keepalived.id())? {
                match kill(child, Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if let Some(keepalived) = self.keepalived.take() {
            keepalived.kill();
        }
        self.kill_haproxy();
        Ok(())
    }

    /// After [`IncumbentNode::kill`]: takes away what a reboot would have taken away, which is the VIP and the pid files.
    ///
    /// # Errors
    /// When the interface or a file cannot be changed.
    pub fn forget(&self) -> Result<(), LabError> {
        if self.holds_vip() {
            self.machine.ip(&format!("address delete {VIP}/{PREFIX_LENGTH} dev eth0"))?;
        }
        // keepalived believes the file of a dead one when some process has its number by now.
        Ok(self.machine.run(|| remove_files(Path::new("/run")))??)
    }

    /// The ends of both logs.
    #[must_use]
    pub fn last_lines(&self) -> String {
        let of = |name| {
            format!(
                "{name} on {}:\n{}",
                self.machine.name(),
                last_lines(&self.file(&format!("{name}.log")), 10)
            )
        };
        of("haproxy") + &of("keepalived")
    }

    fn daemon(&self, name: &str, command: &mut Command) -> Result<Daemon, DaemonError> {
        Daemon::start(&self.machine, name, command, &self.file(&format!("{name}.log")))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{}-{name}", self.machine.name()))
    }
}

/// The version that a program tells of itself, in the first line it prints.
///
/// # Errors
/// When it is not there (the message has its name) or prints nothing.
pub fn version(program: &str, option: &str) -> io::Result<String> {
    let output = Command::new(program)
        .arg(option)
        .output()
        .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    // keepalived tells it on the other one.
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let first = text.lines().find(|line| !line.trim().is_empty());
    first
        .map(|line| line.trim().to_owned())
        .ok_or_else(|| io::Error::other(format!("{program} {option} prints nothing")))
}

/// The processes that this one has started.
fn children(parent: u32) -> io::Result<Vec<Pid>> {
    let list = fs::read_to_string(Path::new("/proc").join(format!("{parent}/task/{parent}/children")))?;
    Ok(list.split_whitespace().filter_map(|id| id.parse().ok()).map(Pid::from_raw).collect())
}

/// Removes what is in a directory.
fn remove_files(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// `stot` of a frontend, in the table that HAProxy prints with commas (management.txt, 9.1).
fn total_sessions(text: &str, frontend: &str) -> Option<u64> {
    let mut lines = text.lines();
    let columns = lines.next()?.trim_start_matches("# ").split(',');
    let stot = columns.collect::<Vec<_>>().iter().position(|column| *column == "stot")?;
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>());
    let mut of_it = rows.filter(|row| row.get(..2) == Some(&[frontend, "FRONTEND"]));
    of_it.next()?.get(stot)?.parse().ok()
}

fn haproxy_cfg(servers: &[Server], families: &[Family]) -> String {
    let mut text = String::from(
        "global
    log /dev/log  local0 warning
    chroot      /var/lib/haproxy
    pidfile     /var/run/haproxy.pid
    maxconn     4000
    user        haproxy
    group       haproxy
    daemon

   stats socket /run/haproxy-stats

defaults
  log global
  option  httplog
  option  dontlognull
        timeout connect 5000
        timeout client 50000
        timeout server 50000
",
    );
    for (name, port) in [("kube-apiserver", API_PORT), ("plain", PLAIN_PORT)] {
        let ipv6 =
            if families.contains(&Family::V6) { format!("  bind :::{port} v6only\n") } else { String::new() };
        text += &format!(
            "
frontend {name}
  bind *:{port}
{ipv6}  mode tcp
  option tcplog
  default_backend {name}

backend {name}
    mode tcp
    option tcplog
    option tcp-check
    balance roundrobin
    default-server inter 10s downinter 5s rise 2 fall 2 slowstart 60s maxconn 250 maxqueue 256 weight 100
"
        );
        for Server { name, address, weight } in servers {
            let weight = weight.map_or_else(String::new, |weight| format!(" weight {weight}"));
            text += &format!("    server {name} {address}:{port} check{weight}\n");
        }
    }
    text
}

/// The same configuration with limits for so many connections.
fn with_limits(text: &str, connections: usize) -> String {
    // One for the statistics, a few for whoever asks whether it listens.
    let all = connections + 100;
    text.lines()
        .map(|line| match line.trim_start().split_once(' ') {
            Some(("maxconn", _)) => format!("    maxconn {all}\n"),
            Some(("default-server", _)) => line.replace("maxconn 250", &format!("maxconn {all}")) + "\n",
            _ => format!("{line}\n"),
        })
        .collect()
}

fn keepalived_conf(index: u8) -> String {
    let (own, peer) = (host(FIRST.0 + index), host(FIRST.0 + 1 - index));
    let priority = FIRST.1 - index;
    format!(
        "global_defs {{
  notification_email {{
  }}
  router_id LVS_DEVEL
  vrrp_skip_check_adv_addr
  vrrp_garp_interval 0
  vrrp_gna_interval 0
}}

vrrp_script chk_haproxy {{
  script \"killall -0 haproxy\"
  interval 2
  weight 2
}}

vrrp_instance haproxy-vip {{
  state BACKUP
  priority {priority}
  interface eth0
  virtual_router_id 60
  advert_int 1
  authentication {{
    auth_type PASS
    auth_pass 1111
  }}
  unicast_src_ip {own}
  unicast_peer {{
    {peer}
  }}

  virtual_ipaddress {{
    {VIP}/{PREFIX_LENGTH}
  }}

  track_script {{
    chk_haproxy
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_has_its_own_side_of_the_pair() {
        let (first, second) = (keepalived_conf(0), keepalived_conf(1));
        assert!(first.contains("unicast_src_ip 172.16.0.2\n  unicast_peer {\n    172.16.0.3\n"), "{first}");
        assert!(second.contains("unicast_src_ip 172.16.0.3\n  unicast_peer {\n    172.16.0.2\n"), "{second}");
        // The script's weight decides as long as it is more than the difference.
        assert!(first.contains("priority 100\n") && second.contains("priority 99\n"));
        assert!(first.contains("    172.16.0.10/24\n"), "{first}");
    }

    #[test]
    fn the_plain_service_is_balanced_as_the_api_servers_are() {
        let server = Server { name: "master1".to_owned(), address: [172, 16, 0, 4].into(), weight: None };
        let text = haproxy_cfg(std::slice::from_ref(&server), &[Family::V4]);
        let heavy = haproxy_cfg(&[Server { weight: Some(7), ..server }], &[Family::V4]);
        assert!(heavy.contains("server master1 172.16.0.4:7000 check weight 7\n"), "{heavy}");
        let section = |name: &str| {
            let begin = text.find(&format!("\nfrontend {name}\n")).unwrap();
            let end = text[begin + 1..].find("\nfrontend ").map_or(text.len(), |at| begin + 1 + at);
            text[begin..end].to_owned()
        };
        let api = section("kube-apiserver");
        assert!(api.contains("server master1 172.16.0.4:6443 check\n"), "{api}");
        assert_eq!(api.replace("kube-apiserver", "plain").replace("6443", "7000"), section("plain"));
    }

    #[test]
    fn limits_are_raised_everywhere() {
        let text = haproxy_cfg(&[], &[Family::V4]);
        assert!(text.contains("maxconn     4000") && text.contains("maxconn 250 "), "{text}");
        let raised = with_limits(&text, 100_000);
        assert_eq!(raised.matches("maxconn 100100").count(), 3, "{raised}");
        assert_eq!(raised.matches("maxconn").count(), 3, "{raised}");
        assert_eq!(raised.lines().count(), text.lines().count());
    }

    #[test]
    fn connections_are_counted_by_frontend() {
        let text = "# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin\nplain,BACKEND,,,,,,9,1\n\
            plain,FRONTEND,,,1,2,4000,57,1024\n";
        assert_eq!(total_sessions(text, "plain"), Some(57));
        assert_eq!(total_sessions(text, "other"), None);
        assert_eq!(total_sessions("", "plain"), None);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = version("no-such-program-here", "-v").unwrap_err();
        assert!(error.to_string().contains("no-such-program-here"), "{error}");
        assert!(!version("sh", "--version").unwrap().is_empty());
    }
}
