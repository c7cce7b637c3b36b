//! A machine of the lab as a place to ask from: clients as processes, and `curl`.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output};
use std::time::Duration;

use crate::measure::{ClientProcess, Moved};
use crate::netns::{Netns, NetnsError};
use crate::plain::Direction;
use crate::streams::{Plan, Streams};
use crate::topology::{Family, Lab, LabError, PLAIN_PORT, VIP};

/// How the request loop of [`ClientHost::load`] asks.
#[derive(Debug, Clone)]
pub struct Load {
    /// What to ask for; `None`: `/version` at the VIP.
    pub url: Option<String>,
    /// From one request to the next (20 ms).
    pub interval: Duration,
    /// After which a request has failed (1 s).
    pub timeout: Duration,
    /// Requests that may be open at once (100).
    pub in_flight: usize,
    /// Stop after so many; `None`: never.
    pub count: Option<u64>,
    /// Speak HTTP/2.
    pub http2: bool,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            url: None,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(1),
            in_flight: 100,
            count: None,
            http2: false,
        }
    }
}

/// What [`ClientHost::bulk`] moves: the plain service's bytes on one connection.
#[derive(Debug, Clone)]
pub struct Bulk {
    /// Where the plain service is (the VIP's [`PLAIN_PORT`]).
    pub address: SocketAddr,
    /// Which way (upload).
    pub direction: Direction,
    /// How many bytes (1 GB, that is 10^9).
    pub bytes: u64,
    /// What they are made from (1).
    pub seed: u64,
    /// After which it has failed (2 minutes).
    pub timeout: Duration,
}

impl Default for Bulk {
    fn default() -> Self {
        Self {
            address: plain(Family::V4),
            direction: Direction::Upload,
            bytes: 1_000_000_000,
            seed: 1,
            timeout: Duration::from_secs(120),
        }
    }
}

/// What [`ClientHost::short`] and [`ClientHost::hold`] open: connections to the plain service.
#[derive(Debug, Clone)]
pub struct Connections {
    /// Where the plain service is (the VIP's [`PLAIN_PORT`]).
    pub address: SocketAddr,
    /// How many (100).
    pub count: u32,
    /// How many at once may be waiting for their answer (32).
    pub parallel: usize,
    /// After which one has failed that is not answered (10 s).
    pub timeout: Duration,
    /// The client's addresses to use in turn; empty: the system's choice. Each has about 64,500 ports, and a port is
    /// free again a second after its connection.
    pub sources: Vec<IpAddr>,
    /// Whether one that is held and ends is opened again at once (no).
    pub reconnect: bool,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            address: plain(Family::V4),
            count: 100,
            parallel: 32,
            timeout: Duration::from_secs(10),
            sources: vec![],
            reconnect: false,
        }
    }
}

/// The plain service at the VIP of this family.
#[must_use]
pub fn plain(family: Family) -> SocketAddr {
    match family {
        Family::V4 => SocketAddr::new(VIP.into(), PLAIN_PORT),
        Family::V6 => SocketAddr::new(family.vip(), PLAIN_PORT),
    }
}

/// A machine to ask from; made by [`Lab::on`].
#[derive(Clone, Copy)]
pub struct ClientHost<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) machine: &'a Netns,
}

impl ClientHost<'_> {
    /// Starts a request loop.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn load(self, load: &Load) -> Result<ClientProcess, LabError> {
        let mut command = self.https_command("load", load.url.as_deref(), "/version", load.http2);
        command
            .args(["--interval-ms", &load.interval.as_millis().to_string()])
            .args(["--timeout-ms", &load.timeout.as_millis().to_string()])
            .args(["--in-flight", &load.in_flight.to_string()])
            .args(["--count", &load.count.unwrap_or(0).to_string()]);
        self.start(&mut command)
    }

    /// Starts watch streams: at `url`, or at the VIP.
    ///
    /// # Errors
    /// When they cannot be started.
    pub fn watch(
        self,
        url: Option<&str>,
        streams: u32,
        silence: Duration,
    ) -> Result<ClientProcess, LabError> {
        let mut command = self.https_command("watch", url, "/api/v1/watch", false);
        command
            .args(["--streams", &streams.to_string()])
            .args(["--silence-ms", &silence.as_millis().to_string()]);
        self.start(&mut command)
    }

    /// Moves bytes over one connection and waits for the end of it. Whether they arrived intact is
    /// [`Moved::is_intact`].
    ///
    /// # Errors
    /// When the client cannot be started, or the connection failed: the error says how.
    pub fn bulk(self, bulk: &Bulk) -> Result<Moved, LabError> {
        let client = self.start_bulk(bulk)?;
        client.wait_done(bulk.timeout + Duration::from_secs(10))?;
        client.read(|tally| {
            let failure = || tally.last_failure().map_or("no result", |(_, why)| why).to_owned();
            tally.moved().last().cloned().ok_or_else(|| LabError::Bulk(failure()))
        })
    }

    /// As [`ClientHost::bulk`], without waiting: something else can happen meanwhile. [`ClientProcess::wait_done`],
    /// then `read(|tally| tally.moved())`.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn start_bulk(self, bulk: &Bulk) -> Result<ClientProcess, LabError> {
        let mut command = self.plain_command("bulk", bulk.address, bulk.timeout);
        command
            .args(["--direction", bulk.direction.word()])
            .args(["--bytes", &bulk.bytes.to_string()])
            .args(["--seed", &bulk.seed.to_string()]);
        self.start(&mut command)
    }

    /// Starts so many short connections: connect, request, answer, close. [`ClientProcess::wait_done`] waits for
    /// their end; then `answered(0)`, `failed(0)`, `by_server(0)` and `failures(0)` tell.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn short(self, connections: &Connections) -> Result<ClientProcess, LabError> {
        self.connections("short", connections)
    }

    /// Opens so many connections and keeps them until the client is dropped. [`ClientProcess::wait_done`] waits until
    /// all have been tried; then `held_by_server()`, `failed(0)` and, at any time, `breaks(0)` tell.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn hold(self, connections: &Connections) -> Result<ClientProcess, LabError> {
        self.connections("hold", connections)
    }

    fn connections(self, kind: &str, connections: &Connections) -> Result<ClientProcess, LabError> {
        // A closed connection keeps its port for a minute: many, and soon again.
        self.machine.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
        self.machine.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
        let mut command = self.plain_command(kind, connections.address, connections.timeout);
        command
            .args(["--count", &connections.count.to_string()])
            .args(["--parallel", &connections.parallel.to_string()]);
        for source in &connections.sources {
            command.args(["--source", &source.to_string()]);
        }
        if connections.reconnect {
            command.arg("--reconnect");
        }
        self.start(&mut command)
    }

    /// Starts a probe of the plain service at the VIP: a request each `interval`, each with `timeout` to be answered.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn probe(self, interval: Duration, timeout: Duration) -> Result<ClientProcess, LabError> {
        let mut command = self.plain_command("probe", plain(Family::V4), timeout);
        command.args(["--interval-us", &interval.as_micros().to_string()]);
        self.start(&mut command)
    }

    /// Opens long-lived streams and waits for `limit` at most until all are open.
    ///
    /// # Errors
    /// When they cannot be started, or are not all open in time.
    pub fn streams(self, plan: &Plan, limit: Duration) -> Result<Streams, LabError> {
        let mut command = Command::new(self.lab.program());
        let watch = plan.watch_url.clone().unwrap_or_else(|| self.lab.vip_url("/api/v1/watch"));
        command
            .args(["client", "streams", "--address", &plan.address.to_string()])
            .args(["--plain", &plan.plain.to_string(), "--idle", &plan.idle.to_string()])
            .args(["--watch", &plan.watch.to_string(), "--watch-url", &watch, "--ca"])
            .arg(self.lab.ca())
            .args(["--interval-ms", &plan.interval.as_millis().to_string()]);
        if plan.reopen {
            command.arg("--reopen");
        }
        let log = self.lab.dir().join(format!("{}-streams.log", self.machine.name()));
        Streams::start(self.machine, &mut command, &log, plan.count(), limit)
    }

    /// Runs `curl --silent --show-error --cacert CA WORDS`.
    ///
    /// # Errors
    /// When it cannot be started; a failure status is not an error here.
    pub fn curl(self, words: &[&str]) -> Result<Output, NetnsError> {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--cacert"]).arg(self.lab.ca()).args(words);
        self.machine.output(&mut command)
    }

    fn https_command(self, kind: &str, url: Option<&str>, path: &str, http2: bool) -> Command {
        let mut command = Command::new(self.lab.program());
        command.args(["client", kind, "--url"]);
        command.arg(url.map_or_else(|| self.lab.vip_url(path), str::to_owned));
        command.arg("--ca").arg(self.lab.ca());
        if http2 {
            command.arg("--http2");
        }
        command
    }

    fn plain_command(self, kind: &str, address: SocketAddr, timeout: Duration) -> Command {
        let mut command = Command::new(self.lab.program());
        command
            .args(["client", kind, "--address", &address.to_string()])
            .args(["--timeout-ms", &timeout.as_millis().to_string()]);
        command
    }

    fn start(self, command: &mut Command) -> Result<ClientProcess, LabError> {
        let log = self.lab.dir().join(format!("{}-client.log", self.machine.name()));
        Ok(ClientProcess::start(self.machine, command, &log)?)
    }
}
