//! A control-plane node of the lab: a machine with a fake API server on it.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::apiserver;
use crate::certificates::ServerCertificate;
use crate::daemon::{Daemon, DaemonError, last_lines};
use crate::netns::Netns;

/// A machine with a fake API server.
#[derive(Debug)]
pub struct Master {
    // Before its machine, which waits for its processes when it is dropped.
    server: Mutex<Option<Daemon>>,
    machine: Netns,
    address: SocketAddr,
    certificate: ServerCertificate,
    run_dir: PathBuf,
    program: PathBuf,
}

impl Master {
    pub(crate) fn new(
        machine: Netns,
        address: SocketAddr,
        certificate: ServerCertificate,
        run_dir: &Path,
        program: &Path,
    ) -> Self {
        Self {
            machine,
            address,
            certificate,
            run_dir: run_dir.to_owned(),
            program: program.to_owned(),
            server: Mutex::new(None),
        }
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

    /// Its own address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address.ip()
    }

    /// Where its server listens, in the client's eyes.
    #[must_use]
    pub fn socket_address(&self) -> SocketAddr {
        self.address
    }

    /// The log of its server.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.run_dir.join(format!("{}.log", self.name()))
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
        let listen = SocketAddr::new(
            if self.address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) },
            self.address.port(),
        );
        let mut command = Command::new(&self.program);
        command
            .arg("apiserver")
            .args(["--name", self.name(), "--listen", &listen.to_string()])
            .arg("--certificate")
            .arg(&self.certificate.certificate)
            .arg("--key")
            .arg(&self.certificate.key)
            .arg("--control")
            .arg(&self.run_dir);
        let mut daemon = Daemon::start(&self.machine, self.name(), &mut command, &log)?;
        daemon.wait_ready("its port to be open", Duration::from_secs(10), || {
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
