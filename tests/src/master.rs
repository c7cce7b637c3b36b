//! A control-plane node of the lab: a machine with a fake API server on it.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;

use crate::addresses::{Family, Subnet};
use crate::apiserver;
use crate::certificates::ServerCertificate;
use crate::daemon::{Daemon, DaemonError, last_lines};
use crate::decapsulator::Decapsulator;
use crate::netns::{Netns, NetnsError};
use crate::topology::{LabError, PLAIN_PORT};

/// A machine with a fake API server.
#[derive(Debug)]
pub struct Master {
    // Before its machine, which waits for its processes when it is dropped.
    server: Mutex<Option<Daemon>>,
    tunnels: Option<Tunnels>,
    machine: Arc<Netns>,
    place: Place,
    port: u16,
    log: PathBuf,
    certificate: ServerCertificate,
    run_dir: PathBuf,
    program: PathBuf,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Its network.
    pub subnet: Subnet,
    /// Its host number there.
    pub number: u8,
    /// Whether it has an IPv6 address, too.
    pub ipv6: bool,
}

impl Place {
    /// Its address.
    pub fn address(self, family: Family) -> IpAddr {
        self.subnet.host(family, self.number)
    }

    /// All its addresses.
    pub fn addresses(self) -> Vec<IpAddr> {
        let families: &[Family] = if self.ipv6 { &Family::BOTH } else { &[Family::V4] };
        families.iter().map(|family| self.address(*family)).collect()
    }
}

/// What takes the outer headers off in `dsr-ipip`.
#[derive(Debug)]
enum Tunnels {
    /// The kernel's tunnel devices.
    Devices,
    /// Our program, where the kernel has none.
    Program(Decapsulator),
}

impl Master {
    pub(crate) fn new(
        machine: Arc<Netns>,
        place: Place,
        port: u16,
        certificate: ServerCertificate,
        run_dir: &Path,
        program: &Path,
    ) -> Self {
        Self {
            log: run_dir.join(format!("{}.log", machine.name())),
            machine,
            place,
            port,
            certificate,
            run_dir: run_dir.to_owned(),
            program: program.to_owned(),
            tunnels: None,
            server: Mutex::new(None),
        }
    }

    /// On a machine that has a log of its own already.
    pub(crate) fn logging_to(self, log: PathBuf) -> Self {
        Self { log, ..self }
    }

    /// Its name, which is also the one that its server tells.
    #[must_use]
    pub fn name(&self) -> &str {
        self.machine.name()
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Netns {
        &self.machine
    }

    /// Its own address (IPv4).
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address_of(Family::V4)
    }

    /// Its own address of this family. In a lab without IPv6 nobody answers at the IPv6 one.
    #[must_use]
    pub fn address_of(&self, family: Family) -> IpAddr {
        self.place.address(family)
    }

    /// Where its server listens, in the client's eyes (IPv4).
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.socket_address_of(Family::V4)
    }

    /// Where its server listens, in the client's eyes.
    #[must_use]
    pub fn socket_address_of(&self, family: Family) -> SocketAddr {
        SocketAddr::new(self.address_of(family), self.port)
    }

    /// Makes it a backend that answers a client directly, for this VIP: the VIP is an address of its own, on the
    /// loopback interface, and it tells nobody that it has it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn answer_for(&self, vip: IpAddr) -> Result<(), NetnsError> {
        let length = Family::of(vip).host_length();
        match vip {
            IpAddr::V4(_) => {
                for scope in ["all", "default", "eth0"] {
                    self.machine.sysctl(&format!("net/ipv4/conf/{scope}/arp_ignore"), "1")?;
                    self.machine.sysctl(&format!("net/ipv4/conf/{scope}/arp_announce"), "2")?;
                }
                self.machine.ip(&format!("address add {vip}/{length} dev lo"))
            }
            // Neighbour discovery answers for addresses of the interface that was asked on, and for no others.
            IpAddr::V6(_) => self.machine.ip(&format!("-6 address add {vip}/{length} dev lo nodad")),
        }
    }

    /// Makes it accept IP in IP, each family in each: with tunnel devices, or with a [`Decapsulator`] where the
    /// kernel has none.
    pub(crate) fn accept_tunnels(&mut self) -> Result<(), LabError> {
        self.tunnels = Some(if self.has_tunnel_devices() {
            Tunnels::Devices
        } else {
            let attached = self.machine.run(|| {
                let mac = fs::read_to_string("/sys/class/net/eth0/address")?;
                let mac = parse_mac(&mac).ok_or(io::ErrorKind::InvalidData)?;
                Decapsulator::attach(if_nametoindex("eth0")?, mac)
            });
            Tunnels::Program(
                attached?.map_err(|source| LabError::Stub { machine: self.name().to_owned(), source })?,
            )
        });
        Ok(())
    }

    /// Makes the tunnel devices; false, and none is left, where the kernel cannot.
    fn has_tunnel_devices(&self) -> bool {
        let v4 = self.address_of(Family::V4);
        let mut devices = vec![
            ("lab4in4", format!("type ipip local {v4} remote any")),
            ("lab6in4", format!("type sit local {v4} remote any")),
        ];
        if self.place.ipv6 {
            let v6 = self.address_of(Family::V6);
            devices.push(("lab-in6", format!("type ip6tnl mode any local {v6} remote ::")));
        }
        let works = devices.iter().all(|(name, kind)| {
            self.machine.ip(&format!("link add {name} {kind}")).is_ok()
                && self.machine.ip(&format!("link set {name} up")).is_ok()
                && self.machine.sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0").is_ok()
        });
        if !works {
            for (name, _) in devices {
                // Most were never made.
                let _ = self.machine.ip(&format!("link delete {name}"));
            }
        }
        works
    }

    /// How many packets it has taken out of a tunnel header of the family `outer`; `None` where a tunnel device of
    /// the kernel does that, or nothing does.
    #[must_use]
    pub fn decapsulated(&self, outer: Family, inner: Family) -> Option<u64> {
        match &self.tunnels {
            Some(Tunnels::Program(program)) => program.taken_off(outer, inner).ok(),
            Some(Tunnels::Devices) | None => None,
        }
    }

    /// The log of its server.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Starts the server, unless it runs, and waits until it listens.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start(&self) -> Result<(), DaemonError> {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.as_mut().is_some_and(Daemon::is_running) {
            return Ok(());
        }
        let log = self.log();
        let begin = fs::metadata(&log).map_or(0, |m| m.len() as usize);
        // The IPv6 one takes IPv4 connections, too.
        let any = if self.place.ipv6 { IpAddr::from([0_u16; 8]) } else { IpAddr::from([0; 4]) };
        let (listen, plain) = (SocketAddr::new(any, self.port), SocketAddr::new(any, PLAIN_PORT));
        let mut command = Command::new(&self.program);
        command
            .arg("apiserver")
            .args(["--name", self.name(), "--listen", &listen.to_string()])
            .args(["--plain", &plain.to_string()])
            .arg("--certificate")
            .arg(&self.certificate.certificate)
            .arg("--key")
            .arg(&self.certificate.key)
            .arg("--control")
            .arg(&self.run_dir);
        let mut daemon = Daemon::start(&self.machine, self.name(), &mut command, &log)?;
        daemon.wait_ready("its port to be open", Duration::from_secs(60), || {
            fs::read(&log).is_ok_and(|text| {
                text.get(begin..).is_some_and(|new| String::from_utf8_lossy(new).contains(apiserver::READY))
            })
        })?;
        *server = Some(daemon);
        Ok(())
    }

    /// Kills the server with `kill -9`: the machine then answers with RST.
    pub fn kill(&self) {
        if let Some(server) = self.server.lock().unwrap_or_else(PoisonError::into_inner).take() {
            server.kill();
        }
    }

    /// Stops the server in its tracks (`SIGSTOP`): the machine still accepts connections, nobody answers on them.
    ///
    /// # Errors
    /// When it does not run.
    pub fn freeze(&self) -> Result<(), DaemonError> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen server go on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn thaw(&self) -> Result<(), DaemonError> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), DaemonError> {
        match self.server.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(server) => server.signal(signal),
            None => {
                Err(DaemonError::Io { name: self.name().to_owned(), source: io::ErrorKind::NotFound.into() })
            }
        }
    }

    /// Whether the server runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.server.lock().unwrap_or_else(PoisonError::into_inner).as_mut().is_some_and(Daemon::is_running)
    }

    /// Makes `/readyz` fail, or work again, from the next request on.
    ///
    /// # Errors
    /// When the file that says so cannot be written.
    pub fn set_ready(&self, ready: bool) -> io::Result<()> {
        let path = self.readyz_fail();
        if ready {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        } else {
            fs::write(path, "")
        }
    }

    /// Whether `/readyz` works, as far as [`Master::set_ready`] is concerned.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.readyz_fail().exists()
    }

    fn readyz_fail(&self) -> PathBuf {
        self.run_dir.join(format!("{}.readyz-fail", self.name()))
    }

    /// The end of its server's log.
    #[must_use]
    pub fn last_lines(&self) -> String {
        last_lines(&self.log(), 20)
    }
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}
