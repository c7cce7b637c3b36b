//! The process that keeps the streams open, all on one thread, and prints an [`Event`] per line: not one per byte, which
//! would be most of the load of a lab, but what is unusual, and now and then when each has last moved.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::Uri;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::duplex::{Checker, Pattern};
use super::tally::{Event, Kind};
use crate::client::{Client, Target, keep_alive, monotonic_us, print};
use crate::plain::{self, failure, late};

/// What is longer than this without a move is told.
const UNUSUAL: Duration = Duration::from_millis(400);
/// From one [`Event::Pulse`] to the next.
const PULSE: Duration = Duration::from_millis(100);
/// How many may be in the middle of opening.
const OPENING: usize = 32;
/// After which opening has failed. It is tried again.
const OPEN_LIMIT: Duration = Duration::from_secs(3);
const RETRY: Duration = Duration::from_millis(200);
/// Whoever only listens waits for ever: [`keep_alive`] ends it.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// How many, of what kind, and where.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where the plain service is.
    #[arg(long)]
    pub address: SocketAddr,
    /// Streams with bytes both ways.
    #[arg(long, default_value_t = 0)]
    pub plain: u32,
    /// Streams that are silent.
    #[arg(long, default_value_t = 0)]
    pub idle: u32,
    /// Watch streams over TLS.
    #[arg(long, default_value_t = 0)]
    pub watch: u32,
    /// Where to watch, `https://ADDRESS:PORT/PATH`.
    #[arg(long)]
    pub watch_url: Uri,
    /// The certificate authority to trust (PEM).
    #[arg(long)]
    pub ca: PathBuf,
    /// Milliseconds from one record of a plain stream to the next, each way.
    #[arg(long, default_value_t = 200)]
    pub interval_ms: u64,
    /// Open one again that broke.
    #[arg(long)]
    pub reopen: bool,
}

/// Keeps the streams open until the process ends.
///
/// # Errors
/// When the authority's certificate cannot be used. A stream that cannot be opened is an event, and tried again.
pub async fn run(options: Options) -> anyhow::Result<()> {
    plain::raise_descriptor_limit();
    let target = Target { url: options.watch_url.clone(), ca: options.ca.clone(), http2: false };
    let shared = Rc::new(Shared {
        client: Client::new(target)?,
        opening: Semaphore::new(OPENING),
        count: options.plain + options.idle + options.watch,
        options,
    });
    let moved: Rc<[Cell<u64>]> = (0..shared.count).map(|_| Cell::new(0)).collect();
    let tasks = LocalSet::new();
    for number in 0..shared.count {
        let stream =
            Stream { number, shared: shared.clone(), moved: moved.clone(), opened: Cell::new(false) };
        tasks.spawn_local(stream.live());
    }
    tasks.spawn_local(pulse(moved));
    tasks.await;
    Ok(())
}

struct Shared {
    options: Options,
    client: Client,
    opening: Semaphore,
    count: u32,
}

/// One of them. It tells what becomes of it itself.
struct Stream {
    number: u32,
    shared: Rc<Shared>,
    /// When each stream last moved.
    moved: Rc<[Cell<u64>]>,
    opened: Cell<bool>,
}

impl Stream {
    fn kind(&self) -> Kind {
        let Options { plain, idle, .. } = self.shared.options;
        match self.number {
            number if number < plain => Kind::Plain,
            number if number < plain + idle => Kind::Idle,
            _ => Kind::Watch,
        }
    }

    async fn live(self) {
        loop {
            self.opened.set(false);
            // The kind of failure and why.
            let error = match self.kind() {
                Kind::Watch => self.watch().await,
                kind => self.plain(kind).await,
            };
            let (at_us, stream) = (monotonic_us(), self.number);
            if !self.opened.get() {
                print(&Event::Refused { at_us, stream, error });
                sleep(RETRY).await;
                continue;
            }
            print(&Event::Broken { at_us, stream, error, moved_us: self.cell().get() });
            if !self.shared.options.reopen {
                return;
            }
        }
    }

    fn cell(&self) -> &Cell<u64> {
        &self.moved[self.number as usize]
    }

    fn opened_at(&self, server: &str) {
        let at_us = monotonic_us();
        self.cell().set(at_us);
        self.opened.set(true);
        let (stream, kind) = (self.number, self.kind());
        print(&Event::Opened { at_us, stream, kind, server: server.to_owned() });
    }

    fn moves(&self) {
        let now = monotonic_us();
        let since_us = self.cell().replace(now);
        if now - since_us > UNUSUAL.as_micros() as u64 {
            print(&Event::Hung { at_us: now, stream: self.number, since_us });
        }
    }

    /// Returns why it ended.
    async fn watch(&self) -> String {
        let mut place = self.shared.opening.acquire().await.ok();
        let followed = self.shared.client.follow(FOR_EVER, |server, line| {
            if line == 0 {
                self.opened_at(server);
                place = None;
            } else {
                self.moves();
            }
        });
        tokio::pin!(followed);
        // Only its opening has a limit.
        let mut ended = timeout(OPEN_LIMIT, &mut followed).await;
        if ended.is_err() && self.opened.get() {
            ended = Ok(followed.await);
        }
        match ended {
            Ok(Ok(())) => "closed: watch".to_owned(),
            Ok(Err(error)) => in_words(&error),
            Err(_) => late("opening", OPEN_LIMIT),
        }
    }

    async fn plain(&self, kind: Kind) -> String {
        let opened = {
            let _place = self.shared.opening.acquire().await;
            timeout(OPEN_LIMIT, self.open(kind)).await
        };
        let Ok(opened) = opened else { return late("opening", OPEN_LIMIT) };
        let lived = match opened {
            Ok(connection) => self.exchange(connection, kind).await,
            Err(error) => Err(error),
        };
        lived.err().unwrap_or_else(|| "closed: by the server".to_owned())
    }

    async fn open(&self, kind: Kind) -> Result<BufReader<TcpStream>, String> {
        let Options { address, interval_ms, .. } = self.shared.options;
        let socket = TcpStream::connect(address).await.map_err(|e| failure("connect", &e))?;
        socket.set_nodelay(true).and_then(|()| keep_alive(&socket)).map_err(|e| failure("options", &e))?;
        let mut socket = BufReader::new(socket);
        let interval_ms = if kind == Kind::Idle { 0 } else { interval_ms };
        let command = format!("duplex {} {interval_ms}\n", self.number);
        socket.write_all(command.as_bytes()).await.map_err(|e| failure("request", &e))?;
        let server = plain::read_line(&mut socket).await.map_err(|e| failure("answer", &e))?;
        let server = server.ok_or_else(|| failure("answer", &io::ErrorKind::UnexpectedEof.into()))?;
        self.opened_at(&server);
        Ok(socket)
    }

    /// Moves bytes until it breaks; with no error when the server has ended it.
    async fn exchange(&self, mut socket: BufReader<TcpStream>, kind: Kind) -> Result<(), String> {
        use tokio::io::AsyncBufReadExt as _;
        let key = u64::from(self.number);
        let (mut ours, mut theirs, mut sent) = (Pattern::of_client(key), Checker::new(key), 0);
        let every = Duration::from_millis(self.shared.options.interval_ms.max(1));
        // All of them at the same moment would be a burst.
        sleep(every * self.number / self.shared.count).await;
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick(), if kind == Kind::Plain => {
                    let record = ours.next_record();
                    sent += record.len() as u64;
                    // Its few bytes have room while it waits for an acknowledgement.
                    socket.write_all(record).await.map_err(|e| failure("send", &e))?;
                }
                bytes = socket.fill_buf() => {
                    let bytes = bytes.map_err(|e| failure("receive", &e))?;
                    let count = bytes.len();
                    if count == 0 {
                        return Ok(());
                    }
                    if theirs.take(bytes, sent)? {
                        self.moves();
                    }
                    socket.consume(count);
                }
            }
        }
    }
}

/// Tells each time which have moved since the last time.
async fn pulse(moved: Rc<[Cell<u64>]>) {
    let mut ticks = interval(PULSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    loop {
        ticks.tick().await;
        let at_us = monotonic_us();
        let since = |(number, cell): (u32, &Cell<u64>)| (cell.get() > told).then_some((number, cell.get()));
        let moved = (0..).zip(moved.iter()).filter_map(since).collect();
        print(&Event::Pulse { at_us, moved });
        told = at_us;
    }
}

/// With the kind of failure in front, as [`failure`] has it.
fn in_words(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    if text.contains("expected ") || text.contains("not a line") {
        return format!("wrong: {text}");
    }
    match error.chain().find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(io) => failure(&format!("{error}"), io),
        None => format!("closed: {text}"),
    }
}
