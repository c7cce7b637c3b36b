//! The thread of the connection log: takes what is told, looks flows up, and writes.

use std::{
    collections::HashSet,
    io, mem,
    path::PathBuf,
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    book::{Book, LoggedServices, Memory, Now, logged_services},
    files::{LogFiles, Lost, Writer},
    past,
    record::{Record, RecordKind, milliseconds},
    snapshot::Snapshot,
    status::ConnectionLogStatus,
    tap::{News, Outlet, Told},
};
use crate::{
    config::model::{Config, ConnectionLog},
    dataplane::{ConnectionSource, ConnectionTables, DataplaneError},
};

/// So many news are taken at most before what they say is written.
const AT_ONCE: usize = 256;
/// Without news, the clock is looked at that often.
const IDLE: Duration = Duration::from_secs(1);
/// What could not be opened is tried again so much later.
const OPEN_AGAIN: Duration = Duration::from_millis(500);
/// From one walk through all flows to the next, if nothing asks for one.
const WALK: Duration = Duration::from_secs(5 * 60);
/// Walks are no closer together, and take no more than a twentieth of the time.
const BETWEEN_WALKS: (Duration, u32) = (Duration::from_secs(2), 20);
/// After a VIP has come, peers may still have a word on its flows.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// The status is published no more often.
const PUBLISH: Duration = Duration::from_millis(200);
/// The same complaint is not logged again so soon.
const QUIET: Duration = Duration::from_secs(60);

/// What the log is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    services: LoggedServices,
    log: ConnectionLog,
    pin_path: PathBuf,
}

impl Settings {
    /// What a configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            services: logged_services(config),
            log: config.connection_log.clone(),
            pin_path: config.node.pin_path.clone(),
        }
    }

    /// Whether there is a service to log.
    pub fn is_on(&self) -> bool {
        !self.services.is_empty()
    }
}

/// The thread, as the controller sees it.
#[derive(Debug)]
pub struct LogThread {
    status: watch::Receiver<ConnectionLogStatus>,
    ended: watch::Receiver<bool>,
}

impl LogThread {
    /// Starts it. It ends with [`News::Stop`], or when nobody can tell it anything any more.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn spawn(outlet: Outlet) -> io::Result<Self> {
        let (publish, status) = watch::channel(ConnectionLogStatus::default());
        let (end, ended) = watch::channel(false);
        thread::Builder::new().name("connections".to_owned()).spawn(move || {
            Work::new(outlet, publish).serve();
            end.send_replace(true);
        })?;
        Ok(Self { status, ended })
    }

    /// How it does, at most some moments old.
    pub fn status(&self) -> ConnectionLogStatus {
        self.status.borrow().clone()
    }

    /// Waits for its end, no longer than that: a disk that hangs holds nobody up.
    pub async fn ended(&mut self, within: Duration) {
        let _ = tokio::time::timeout(within, self.ended.wait_for(|ended| *ended)).await;
    }
}

/// The thread's own part.
struct Work {
    outlet: Outlet,
    publish: watch::Sender<ConnectionLogStatus>,
    published: Option<Instant>,
    begun: Instant,
    settings: Option<Settings>,
    /// Whether the controller has said which VIPs are ours.
    knows_vips: bool,
    book: Book,
    tables: Option<ConnectionTables>,
    open_at: Instant,
    /// Whether what a predecessor has written has been read.
    remembers: bool,
    walk_at: Instant,
    /// A walk sooner than that would be too much.
    walk_not_before: Instant,
    walk_once_more: Option<Instant>,
    writer: Option<Writer>,
    lost: u64,
    error: Option<String>,
    complained: Option<Instant>,
}

impl Work {
    fn new(outlet: Outlet, publish: watch::Sender<ConnectionLogStatus>) -> Self {
        let now = Instant::now();
        Self {
            outlet,
            publish,
            published: None,
            begun: now,
            settings: None,
            knows_vips: false,
            book: Book::default(),
            tables: None,
            open_at: now,
            remembers: false,
            walk_at: now,
            walk_not_before: now,
            walk_once_more: None,
            writer: None,
            lost: 0,
            error: None,
            complained: None,
        }
    }

    fn serve(mut self) {
        loop {
            let mut goes_on = match self.outlet.next(self.pause()) {
                Ok(told) => self.take(told),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            for _ in 0..AT_ONCE {
                let Some(told) = goes_on.then(|| self.outlet.next(Duration::ZERO).ok()).flatten() else {
                    break;
                };
                goes_on = self.take(told);
            }
            self.look();
            self.write();
            self.tell(!goes_on);
            if !goes_on {
                return;
            }
        }
    }

    /// How long there is nothing to do but to wait for news.
    fn pause(&self) -> Duration {
        let now = Instant::now();
        let book = self.book.wake_at().map(|at| self.begun + Duration::from_millis(at));
        let book = book.filter(|_| self.tables.is_some());
        let next = [book, self.walk_once_more].into_iter().flatten().min();
        next.map_or(IDLE, |next| next.saturating_duration_since(now)).clamp(Duration::from_millis(1), IDLE)
    }

    fn now_at(&self, wall: SystemTime) -> Now {
        // Without it every age would be wrong by as much; an array is complete.
        let clock = self.tables.as_ref().and_then(|tables| tables.clock().ok()).unwrap_or_default();
        let mono = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { wall: milliseconds(wall), mono, clock }
    }

    /// Takes one piece of news. False: there will be no more.
    fn take(&mut self, told: Told) -> bool {
        let now = self.now_at(told.at);
        match told.news {
            News::Configure(settings) => self.configure(*settings, now),
            News::Held(held) => {
                let tables = self.tables.as_ref();
                self.book.hold(held, now, &|id| tables.and_then(|tables| tables.look(id)));
                self.knows_vips = true;
                self.walk_at = Instant::now();
                self.walk_once_more = Some(self.walk_at + LAST_WORDS);
            }
            News::Stop => return false,
            // Until the first walk has seen what there is, everything would look new.
            _ if !self.remembers => {}
            News::Changed(flows) => {
                let Some(tables) = &self.tables else { return true };
                for id in flows {
                    self.book.changed(now, &id, tables.look(&id).as_ref());
                }
            }
            News::Severed(flow, reason) => self.book.severed(now, &flow, reason),
            News::Removed(flows) => flows.iter().for_each(|flow| self.book.removed(now, flow)),
        }
        true
    }

    fn configure(&mut self, settings: Settings, now: Now) {
        let ConnectionLog { directory, skip_empty, max_size, files: keep, .. } = &settings.log;
        let files = LogFiles::of(directory, &settings.pin_path);
        match &mut self.writer {
            Some(writer) if *writer.files() == files => writer.limit(*max_size, *keep),
            _ => {
                self.flush();
                self.writer = Some(Writer::new(files, *max_size, *keep));
            }
        }
        let tables = self.tables.as_ref();
        let look = |id: &_| tables.and_then(|tables| tables.look(id));
        self.book.configure(settings.services.clone(), *skip_empty, now, &look);
        self.settings = Some(settings);
        self.walk_at = Instant::now();
    }

    /// Opens the tables, goes through all flows, and looks at single ones, each when its time has come.
    fn look(&mut self) {
        let Some(settings) = self.settings.clone().filter(Settings::is_on) else { return };
        if !self.knows_vips {
            return;
        }
        let time = Instant::now();
        if self.tables.is_none() && self.open_at <= time {
            self.open_at = time + OPEN_AGAIN;
            self.tables = ConnectionSource::at(&settings.pin_path).open().ok();
        }
        if self.tables.is_none() {
            return;
        }
        if self.outlet.take_missed() {
            self.walk_at = time;
        }
        if self.walk_once_more.is_some_and(|at| at <= time) {
            (self.walk_once_more, self.walk_at) = (None, time);
        }
        if self.walk_at <= time && self.walk_not_before <= time {
            match self.walk(&settings) {
                Ok(()) => {
                    let (least, part) = BETWEEN_WALKS;
                    self.walk_not_before = Instant::now() + least.max(time.elapsed() * part);
                    self.walk_at = Instant::now() + WALK;
                }
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    warn!("the connection log cannot read the flow tables: {error:#}");
                    self.tables = None;
                    return;
                }
            }
        }
        let now = self.now_at(SystemTime::now());
        if let Some(tables) = &self.tables {
            self.book.look_again(now, &|id| tables.look(id));
        }
    }

    fn walk(&mut self, settings: &Settings) -> Result<(), DataplaneError> {
        let now = self.now_at(SystemTime::now());
        let Some(tables) = &self.tables else { return Ok(()) };
        let mut flows: Vec<Snapshot> = Vec::new();
        tables.walk(&|service| settings.services.contains_key(&service), &mut |flow| flows.push(flow))?;
        if !mem::replace(&mut self.remembers, true) {
            let there: HashSet<_> = flows.iter().map(|flow| flow.id).collect();
            let files = LogFiles::of(&settings.log.directory, &settings.pin_path);
            let memory =
                files.open().and_then(|files| past::remember(files, &there)).unwrap_or_else(|error| {
                    warn!("what the connection log has of earlier connections cannot be read: {error}");
                    Memory::default()
                });
            let (open, directory) = (memory.open.len(), settings.log.directory.display());
            info!(directory = %directory, open, "connections are logged; so many are known from before");
            self.book.remember(memory, now);
        }
        self.book.walked(now, flows, &|id| tables.look(id));
        Ok(())
    }

    fn write(&mut self) {
        let records = self.book.records();
        if records.is_empty() {
            return;
        }
        let journal = self.settings.as_ref().is_some_and(|settings| settings.log.journal);
        let at = milliseconds(SystemTime::now());
        for record in &records {
            if journal {
                to_journal(record);
            }
            let Ok(mut line) = serde_json::to_vec(record) else { continue };
            line.push(b'\n');
            let written = self.writer.as_mut().map_or(Ok(()), |writer| writer.line(&line, at));
            self.wrote(written);
        }
        self.flush();
    }

    fn flush(&mut self) {
        let written = self.writer.as_mut().map_or(Ok(()), Writer::flush);
        if written.is_err() || self.writer.is_some() {
            self.wrote(written);
        }
    }

    fn wrote(&mut self, written: Result<(), Lost>) {
        match written {
            Ok(()) => self.error = None,
            Err(lost) => {
                self.lost += lost.lines;
                let file = self.writer.as_ref().map(|writer| writer.files().current()).unwrap_or_default();
                let error = format!("{} cannot be written: {lost}", file.display());
                if self.complained.is_none_or(|at| at.elapsed() >= QUIET) {
                    warn!("records of the connection log are lost: {error}");
                    self.complained = Some(Instant::now());
                }
                self.error = Some(error);
            }
        }
    }

    fn tell(&mut self, at_once: bool) {
        if !at_once && self.published.is_some_and(|at| at.elapsed() < PUBLISH) {
            return;
        }
        self.published = Some(Instant::now());
        let counts = self.book.counts();
        let is = ConnectionLogStatus {
            file: self.writer.as_ref().map(|writer| writer.files().current()).unwrap_or_default(),
            open: counts.open,
            starts: counts.starts,
            ends: counts.ends,
            skipped: counts.skipped,
            unknown: counts.unknown,
            dropped: self.outlet.dropped(),
            lost: self.lost,
            error: self.error.clone(),
        };
        self.publish.send_replace(is);
    }
}

/// The same as a line of the daemon's log.
fn to_journal(Record { record, connection, end, .. }: &Record) {
    let (client, vip, service) = (connection.client, connection.vip, connection.service.as_str());
    let (backend, nat_port) = (connection.backend.as_str(), connection.nat_port.unwrap_or_default());
    match (record, end) {
        (RecordKind::Start, _) | (RecordKind::End, None) => {
            info!(%client, %vip, service, backend, nat_port, "connection begins");
        }
        (RecordKind::End, Some(end)) => {
            let carried = end.carried.unwrap_or_default();
            info!(
                %client,
                %vip,
                service,
                backend,
                nat_port,
                ended = end.ended.name(),
                reason = end.reason.as_deref(),
                duration_ms = end.duration_ms,
                bytes_in = carried.bytes_in,
                bytes_out = carried.bytes_out,
                "connection ends"
            );
        }
    }
}
