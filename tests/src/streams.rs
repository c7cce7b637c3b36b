//! Long-lived TCP streams that tell exactly what became of each: did it break, when did its client notice, for how long
//! did nothing move.
//!
//! One client process keeps all of them on one thread. There are three kinds ([`Kind`]): plain ones with bytes both ways
//! that are checked at both ends ([`duplex`]), watch streams over TLS, where each line is checked (TLS checks the bytes),
//! and plain ones that are silent once they are open. All have keep-alive as `client-go` has it, 30 seconds.
//!
//! ```no_run
//! # use std::time::Duration;
//! # use lb_tests::{streams::Plan, topology::Lab};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let lab = Lab::builder().build()?;
//! let streams = lab.streams(&Plan { plain: 100, watch: 100, ..Plan::default() }, Duration::from_secs(20))?;
//! let mark = streams.mark();
//! lab.lb(0).kill();
//! streams.wait_flowing(Duration::from_secs(20))?;
//! let account = streams.since(mark);
//! assert_eq!(account.broken.len(), 0, "{account}");
//! # Ok(()) }
//! ```

mod client;
pub mod duplex;
mod tally;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::client_host::plain;
use crate::measure::ClientProcess;
use crate::netns::Netns;
use crate::topology::{Family, LabError};
use crate::wait::{self, TimedOut};

pub use client::{Options, run};
pub use tally::{Account, Break, Event, Hang, Kind, Stream, Tally};

/// What streams to open; see [`Lab::streams`](crate::topology::Lab::streams).
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many with bytes both ways (0).
    pub plain: u32,
    /// How many that are silent once they are open (0).
    pub idle: u32,
    /// How many watch streams over TLS (0).
    pub watch: u32,
    /// How far apart the bytes of plain ones are, each way (200 ms, as the lines of a watch stream).
    pub interval: Duration,
    /// Whether one that broke is opened again (no). Only its first break counts as broken.
    pub reopen: bool,
    /// Where the plain service is (the VIP's).
    pub address: SocketAddr,
    /// Where to watch; `None`: at the VIP.
    pub watch_url: Option<String>,
}

impl Plan {
    /// All of them.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.plain + self.idle + self.watch
    }
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            plain: 0,
            idle: 0,
            watch: 0,
            interval: Duration::from_millis(200),
            reopen: false,
            address: plain(Family::V4),
            watch_url: None,
        }
    }
}

/// Running streams. Dropping it ends them (a FIN each).
#[derive(Debug)]
pub struct Streams {
    process: ClientProcess<Tally>,
}

impl Streams {
    pub(crate) fn start(
        machine: &Netns,
        command: &mut Command,
        log: &Path,
        count: u32,
        limit: Duration,
    ) -> Result<Self, LabError> {
        let streams = Self { process: ClientProcess::start(machine, command, log)? };
        wait::until(&format!("{count} streams to be open"), limit, || {
            streams.read(|tally| tally.open() == count as usize)
        })?;
        Ok(streams)
    }

    /// Asks about everything that has been told so far.
    pub fn read<A>(&self, question: impl FnOnce(&Tally) -> A) -> A {
        self.process.read(question)
    }

    /// A moment to measure from, in microseconds of the monotonic clock.
    #[must_use]
    pub fn mark(&self) -> u64 {
        self.process.mark()
    }

    /// How many that are open now each server has.
    #[must_use]
    pub fn by_server(&self) -> BTreeMap<String, usize> {
        self.read(Tally::by_server)
    }

    /// What happened to them from `mark` on, up to what the client has last told (it does so every 100 ms).
    #[must_use]
    pub fn since(&self, mark: u64) -> Account {
        self.read(|tally| tally.since(mark))
    }

    /// Waits until each stream that is open, idle ones aside, has moved since this was called.
    ///
    /// # Errors
    /// When one has not within `limit`.
    pub fn wait_flowing(&self, limit: Duration) -> Result<(), TimedOut> {
        let mark = self.mark();
        wait::until("each stream to move", limit, || self.read(|tally| tally.silent_since(mark)) == 0)
    }

    /// Waits until none of the streams that this server had at `mark` is open any more; see [`Account::broken`] for when
    /// and how each learned of it.
    ///
    /// # Errors
    /// When one still is after `limit`.
    pub fn wait_told(&self, server: &str, mark: u64, limit: Duration) -> Result<(), TimedOut> {
        wait::until(&format!("each stream at {server} to end"), limit, || {
            self.read(|tally| tally.left_at(server, mark)) == 0
        })
    }
}
