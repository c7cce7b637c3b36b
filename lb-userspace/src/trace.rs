//! Watching the data plane at work: `xvip trace` and `xvip capture`. The programs send one record for each decision; here
//! they are switched on, read, and switched off.
//!
//! It needs the pinned maps only, so it works while the daemon is down. One tracer at a time: a lock on the directory of
//! the maps, which is gone with its process. A tracer that was killed leaves tracing on for [`LEASE`] at most, since the
//! programs switch it off when nobody has renewed it.

pub mod client;
pub mod packet;
pub mod record;

use std::{
    collections::BTreeMap,
    fs::File,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use lb_common::{
    layout::{BackendEntry, MAX_BACKENDS},
    trace::{HEADERS, Note, TraceEntry, WHOLE, Wanted},
    wire::Mac,
};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    time::{ClockId, clock_gettime},
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    time::{Instant, interval, sleep_until},
};

use self::record::Record;
use crate::dataplane::{maps_path, ring};

/// How long the programs go on for a tracer that does not say that it still lives.
const LEASE: Duration = Duration::from_secs(3);
/// How often it says so.
const RENEWAL: Duration = Duration::from_millis(500);

/// How much of each frame is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The headers.
    Headers,
    /// Everything.
    Whole,
}

/// When to stop, other than by a signal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// After so many decisions.
    pub count: Option<u64>,
    /// After that time.
    pub time: Option<Duration>,
}

/// What a tracer has seen in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Decisions that it was told of.
    pub decisions: u64,
    /// Decisions that it was not, since it did not keep up.
    pub lost: u64,
}

/// Why nothing can be traced.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// No data plane of this version.
    #[error("there is no data plane at {} that this xvip can trace: is node.pin_path right, and did the daemon start?", .0.display())]
    NoDataplane(PathBuf),
    /// Another tracer.
    #[error("xvip trace or xvip capture is running already (pid {0}); one at a time")]
    InUse(u32),
    /// The pinned maps cannot be opened, or not be locked.
    #[error("{}: {source} (only root may trace)", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A map cannot be read or written.
    #[error("map {map}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        #[source]
        source: MapError,
    },
    /// Records cannot be waited for.
    #[error("waiting for the data plane")]
    Wait(#[source] io::Error),
    /// What was seen cannot be written.
    #[error("writing")]
    Write(#[source] io::Error),
}

/// Tracing that is switched on; switched off when dropped.
pub struct Tracer {
    _lock: Flock<File>,
    entry: TraceEntry,
    trace: Array<MapData, TraceEntry>,
    notes: PerCpuArray<MapData, Note>,
    lost_before: u64,
    events: AsyncFd<RingBuf<MapData>>,
}

impl Tracer {
    /// Switches tracing on. Needs a Tokio runtime with I/O.
    ///
    /// # Errors
    ///
    /// Where another one traces, or the maps are not there or not accessible.
    pub fn start(pin_path: &Path, wanted: Wanted, depth: Depth) -> Result<Self, TraceError> {
        let maps = maps_path(pin_path);
        let at = |source| TraceError::Io { path: maps.clone(), source };
        let directory = File::open(&maps).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TraceError::NoDataplane(pin_path.to_owned()),
            _ => at(error),
        })?;
        if !maps.join("TRACE").try_exists().map_err(at)? {
            return Err(TraceError::NoDataplane(pin_path.to_owned()));
        }
        let mut trace: Array<MapData, TraceEntry> =
            Array::try_from(Map::Array(pinned(&maps, "TRACE")?)).map_err(in_map("TRACE"))?;
        let lock = match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => {
                let other = trace.get(&0, 0).map_err(in_map("TRACE"))?;
                return Err(TraceError::InUse(other.owner));
            }
            Err((_, error)) => return Err(at(error.into())),
        };
        let notes =
            PerCpuArray::try_from(Map::PerCpuArray(pinned(&maps, "NOTES")?)).map_err(in_map("NOTES"))?;
        let mut events =
            RingBuf::try_from(Map::RingBuf(pinned(&maps, "EVENTS")?)).map_err(in_map("EVENTS"))?;

        // In two steps: the programs must not see a part of the new entry while it says that somebody traces.
        let now = monotonic().map_err(TraceError::Wait)?;
        let entry = TraceEntry {
            until_ns: nanoseconds(now + LEASE),
            session: 0,
            owner: std::process::id(),
            depth: match depth {
                Depth::Headers => HEADERS,
                Depth::Whole => WHOLE,
            } as u32,
            _pad: 0,
            wanted,
        };
        trace.set(0, entry, 0).map_err(in_map("TRACE"))?;
        // What another one was not there to read any more.
        while events.next().is_some() {}
        let mut tracer = Self {
            _lock: lock,
            // Milliseconds since the machine started: no two tracers have the same.
            entry: TraceEntry { session: (now.as_millis() as u32).max(1), ..entry },
            trace,
            lost_before: lost(&notes)?,
            notes,
            events: ring::watched(events).map_err(TraceError::Wait)?,
        };
        tracer.renew()?;
        Ok(tracer)
    }

    /// Gives each decision to `sink`, until a limit, SIGINT, SIGTERM, or a broken pipe behind the sink.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be read or written, and what the sink says.
    pub async fn follow(
        &mut self,
        limits: Limits,
        mut sink: impl FnMut(&Record<'_>) -> io::Result<()>,
        mut flush: impl FnMut() -> io::Result<()>,
    ) -> Result<Seen, TraceError> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(TraceError::Wait)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(TraceError::Wait)?;
        let deadline = limits.time.map(|time| Instant::now() + time);
        let mut renewal = interval(RENEWAL);
        let mut decisions = 0;
        loop {
            let is_over = tokio::select! {
                biased;
                _ = renewal.tick() => { self.renew()?; false }
                ready = self.events.readable_mut() => {
                    let mut guard = ready.map_err(TraceError::Wait)?;
                    let mut wanted = limits.count.map_or(u64::MAX, |count| count.saturating_sub(decisions));
                    let mut written = Ok(());
                    // Not all at once: under a flood the lease must be renewed, too.
                    for _ in 0..1024 {
                        if wanted == 0 || written.is_err() {
                            break;
                        }
                        let Some(bytes) = guard.get_inner_mut().next() else {
                            guard.clear_ready();
                            break;
                        };
                        if let Some(record) = Record::parse(&bytes).filter(|record| record.event.session == self.entry.session) {
                            written = sink(&record);
                            decisions += 1;
                            wanted -= 1;
                        }
                    }
                    match written.and_then(|()| flush()) {
                        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => true,
                        Err(error) => return Err(TraceError::Write(error)),
                        Ok(()) => wanted == 0,
                    }
                }
                _ = interrupt.recv() => true,
                _ = terminate.recv() => true,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => true,
            };
            if is_over {
                break;
            }
        }
        Ok(Seen { decisions, lost: lost(&self.notes)?.saturating_sub(self.lost_before) })
    }

    /// Tells the programs, and a data plane that was loaded anew, that somebody still traces.
    fn renew(&mut self) -> Result<(), TraceError> {
        self.entry.until_ns = nanoseconds(monotonic().map_err(TraceError::Wait)? + LEASE);
        self.trace.set(0, self.entry, 0).map_err(in_map("TRACE"))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Where that fails, the lease ends.
        let _ = self.trace.set(0, TraceEntry { session: 0, ..self.entry }, 0);
    }
}

/// The backends whose frames go to an Ethernet address: their own, or that of a router of many.
///
/// # Errors
///
/// Where the pinned map cannot be read.
pub fn next_hops(pin_path: &Path) -> Result<BTreeMap<Mac, Vec<IpAddr>>, TraceError> {
    let data = pinned(&maps_path(pin_path), "BACKENDS")?;
    let backends: Array<MapData, BackendEntry> =
        Array::try_from(Map::Array(data)).map_err(in_map("BACKENDS"))?;
    let mut hops: BTreeMap<Mac, Vec<IpAddr>> = BTreeMap::new();
    for id in 0..MAX_BACKENDS {
        let entry = backends.get(&id, 0).map_err(in_map("BACKENDS"))?;
        if entry.hop.is_resolved() {
            hops.entry(entry.hop.mac.octets()).or_default().push(entry.address.into());
        }
    }
    Ok(hops)
}

/// What must be added to a record's time to get the time since 1970.
///
/// # Errors
///
/// Where the clocks cannot be read.
pub fn monotonic_to_wall() -> io::Result<Duration> {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    Ok(wall.saturating_sub(monotonic()?))
}

fn monotonic() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_MONOTONIC)?.into())
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Records that found no room, since the data plane was loaded first.
fn lost(notes: &PerCpuArray<MapData, Note>) -> Result<u64, TraceError> {
    Ok(notes.get(&0, 0).map_err(in_map("NOTES"))?.iter().map(|note| note.lost).sum())
}

fn pinned(maps: &Path, name: &'static str) -> Result<MapData, TraceError> {
    MapData::from_pin(maps.join(name)).map_err(in_map(name))
}

fn in_map(map: &'static str) -> impl Fn(MapError) -> TraceError {
    move |source| TraceError::Map { map, source }
}
