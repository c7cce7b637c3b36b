//! Clients in great number. What they do is one of [`Work`]; each prints one line of JSON, an [`Outcome`].
//!
//! All but the paced ones are a closed loop: so many connections, each of which goes on as soon as it can. The paced ones
//! are an open loop: a request is due at a fixed time, whether the ones before it have been answered or not, and its
//! latency counts from when it was due, not from when a connection was free to send it. (A closed loop would ask less
//! while a stack is slow, and so see little of it: "coordinated omission".)

mod hold;
mod looped;
mod paced;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use mio::net::TcpStream;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use crate::latency::Latency;
use crate::message::ANSWER;
use crate::processors::Busy;
use crate::raise_descriptor_limit;

/// Ports of an address that connections come from, where addresses are given.
const PORTS: usize = 60_000;
const FIRST_PORT: u16 = 2048;

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Open a connection, ask once, close it, and again.
    Connect,
    /// Ask again and again on connections that stay open.
    Request,
    /// Ask at fixed times on connections that stay open.
    Paced,
    /// Receive as many bytes as come.
    Bulk,
    /// Open connections, ask once on each, and keep them until standard input ends.
    Hold,
}

/// What to do, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// What to do
    #[arg(long)]
    pub work: Work,
    /// Where to connect to; with several each connection goes to the next
    #[arg(long, required = true)]
    pub to: Vec<SocketAddr>,
    /// Connections at a time
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Threads that they are divided among
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Bytes of an answer
    #[arg(long, default_value_t = ANSWER)]
    pub answer: u32,
    /// Requests per second (paced)
    #[arg(long, default_value_t = 1000.0)]
    pub rate: f64,
    /// Milliseconds that are not measured at the beginning
    #[arg(long, default_value_t = 200)]
    pub warm_up_ms: u64,
    /// Milliseconds that are measured; for `hold`: within which all connections have to be open
    #[arg(long, default_value_t = 1000)]
    pub measure_ms: u64,
    /// Addresses to connect from, one after the other, with 60,000 ports of each; the system's choice without any
    #[arg(long)]
    pub from: Vec<std::net::IpAddr>,
    /// The number of the first connection: where several processes share the addresses
    #[arg(long, default_value_t = 0)]
    pub first: usize,
}

/// What came of it, within the time that is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// How long that time was.
    pub seconds: f64,
    /// Connections that were opened, answered and closed; requests that were answered; connections that are held.
    pub done: u64,
    /// What ended in an error or was not answered in time.
    pub failed: u64,
    /// The first of these errors.
    pub first_failure: Option<String>,
    /// Bytes of answers.
    pub bytes: u64,
    /// How long each took that was done: for `connect` from the first SYN to the answer, for `request` from the request
    /// to the answer, for `paced` from when the request was due to the answer.
    pub latency: Option<Latency>,
    /// Time that all processors of the machine together were busy, with whatever.
    pub busy_seconds: f64,
}

/// Does it.
///
/// # Errors
/// When nothing can be said because something that has nothing to do with the other end failed.
pub fn run(options: &Options) -> anyhow::Result<()> {
    raise_descriptor_limit();
    let print = |outcome: &Outcome| -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(outcome)?);
        Ok(())
    };
    match options.work {
        Work::Connect | Work::Request => print(&looped::run(options)?),
        Work::Paced => print(&paced::run(options)?),
        Work::Bulk => print(&stream::run(options)?),
        Work::Hold => hold::run(options, print),
    }
}

/// The time that is measured.
#[derive(Debug, Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

impl Window {
    /// It begins when the warm-up is over that begins now.
    fn from_now(options: &Options) -> Self {
        let begin = Instant::now() + Duration::from_millis(options.warm_up_ms);
        Self { begin, end: begin + Duration::from_millis(options.measure_ms) }
    }

    fn has(self, time: Instant) -> bool {
        self.begin <= time && time < self.end
    }

    /// Waits for both of its ends, and measures how busy the processors were. Returns how long it is, and for how much of
    /// that they were; where this thread was late for one end, as much as that comes to for the whole.
    fn watch(self) -> io::Result<(f64, f64)> {
        let at = |time: Instant| {
            std::thread::sleep(time.saturating_duration_since(Instant::now()));
            Busy::now().map(|busy| (Instant::now(), busy))
        };
        let (begin, before) = at(self.begin)?;
        let (end, after) = at(self.end)?;
        let seconds = self.end.duration_since(self.begin).as_secs_f64();
        let watched = end.duration_since(begin).as_secs_f64();
        let busy = if watched > 0.0 { after.seconds_since(before) * seconds / watched } else { 0.0 };
        Ok((seconds, busy))
    }
}

/// What one thread counts.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    failed: u64,
    first_failure: Option<String>,
    bytes: u64,
    times_ns: Vec<u64>,
}

impl Tally {
    fn fail(&mut self, what: &str, error: &io::Error) {
        self.failed += 1;
        self.first_failure.get_or_insert_with(|| format!("{what}: {error}"));
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.bytes += other.bytes;
        self.times_ns.extend(other.times_ns);
        if self.first_failure.is_none() {
            self.first_failure = other.first_failure;
        }
    }

    fn outcome(self, seconds: f64, busy_seconds: f64) -> Outcome {
        let Self { done, failed, first_failure, bytes, times_ns } = self;
        let latency = Latency::of(times_ns);
        Outcome { seconds, done, failed, first_failure, bytes, latency, busy_seconds }
    }
}

/// Runs `work` on so many threads, each with its number, watches the window meanwhile, and adds up what they counted.
fn on_threads(
    threads: usize,
    window: Window,
    work: impl Fn(usize) -> io::Result<Tally> + Sync,
) -> anyhow::Result<Outcome> {
    std::thread::scope(|scope| {
        let work = &work;
        let started: Vec<_> = (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
        let (seconds, busy_seconds) = window.watch()?;
        let mut all = Tally::default();
        for thread in started {
            all.add(thread.join().map_err(|_| anyhow::anyhow!("a thread of the clients panicked"))??);
        }
        Ok(all.outcome(seconds, busy_seconds))
    })
}

impl Options {
    /// Connections of this thread: their numbers among all.
    fn connections_of(&self, thread: usize) -> impl Iterator<Item = usize> {
        (thread..self.connections).step_by(self.threads.max(1))
    }

    /// Begins to open connection number `number`. It sends no small pieces late.
    fn connect(&self, number: usize) -> io::Result<Socket> {
        let to = self.to[number % self.to.len()];
        let socket = Socket::new(Domain::for_address(to), Type::STREAM.nonblocking().cloexec(), None)?;
        if let Some(from) = self.source(self.first + number) {
            socket.set_reuse_address(true)?;
            socket.bind(&from.into())?;
        }
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(socket),
        }
    }

    /// Where a connection comes from: to have the kernel look for a port takes long where most are taken.
    fn source(&self, number: usize) -> Option<SocketAddr> {
        let address = self.from.get((number / PORTS).checked_rem(self.from.len())?)?;
        Some(SocketAddr::new(*address, FIRST_PORT + (number % PORTS) as u16))
    }

    fn connect_polled(&self, number: usize) -> io::Result<TcpStream> {
        self.connect(number).map(|socket| TcpStream::from_std(socket.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server;

    fn options(work: Work, to: SocketAddr) -> Options {
        Options {
            work,
            to: vec![to],
            connections: 4,
            threads: 2,
            answer: ANSWER,
            rate: 200.0,
            warm_up_ms: 0,
            measure_ms: 100,
            from: vec![],
            first: 0,
        }
    }

    fn run_once(options: &Options) -> Outcome {
        match options.work {
            Work::Connect | Work::Request => looped::run(options).unwrap(),
            Work::Paced => paced::run(options).unwrap(),
            Work::Bulk => stream::run(options).unwrap(),
            Work::Hold => unreachable!("it waits for standard input"),
        }
    }

    #[test]
    fn each_kind_of_work_is_done_and_counted() {
        let to = server::in_background();
        for work in [Work::Connect, Work::Request, Work::Paced, Work::Bulk] {
            // A machine that is busy enough gives nobody a turn in a tenth of a second.
            let outcome = (0..50).map(|_| run_once(&options(work, to))).find(|outcome| outcome.bytes > 0);
            let outcome = outcome.unwrap_or_else(|| panic!("{work:?}: nothing"));
            assert_eq!((outcome.failed, outcome.first_failure.as_deref()), (0, None), "{work:?}");
            assert!((outcome.seconds - 0.1).abs() < 1e-9 && outcome.done > 0, "{outcome:?}");
            if work == Work::Bulk {
                assert_eq!(outcome.done, 4, "each connection");
            } else {
                assert_eq!(outcome.bytes, outcome.done * u64::from(ANSWER), "{work:?}");
                assert_eq!(outcome.latency.unwrap().count, outcome.done, "{work:?}");
            }
            if work == Work::Paced {
                assert!(outcome.done <= 21, "200 a second in a tenth of it: {outcome:?}");
            }
        }
    }

    #[test]
    fn no_two_connections_come_from_the_same_place() {
        let from = [[127, 0, 0, 1], [127, 0, 0, 2]].map(Into::into).to_vec();
        let options = Options { from, ..options(Work::Hold, ([127, 0, 0, 1], 1).into()) };
        let sources: std::collections::BTreeSet<_> =
            (0..120_000).map(|n| options.source(n).unwrap()).collect();
        assert_eq!(sources.len(), 120_000);
        assert_eq!(options.source(60_000), Some(([127, 0, 0, 2], FIRST_PORT).into()));
        assert_eq!(Options { from: vec![], ..options }.source(0), None);
    }

    #[test]
    fn where_nobody_listens_all_fails_and_it_ends() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        drop(listener);
        let outcome = run_once(&Options { measure_ms: 1000, ..options(Work::Connect, to) });
        assert_eq!(outcome.done, 0);
        assert!(outcome.failed > 0 && outcome.first_failure.unwrap().starts_with("connect: "));
    }

    #[test]
    fn an_answer_counts_from_when_its_request_was_due() {
        // It accepts, and answers once: whatever is asked after that waits for ever.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let mut socket = listener.accept().unwrap().0;
            socket.read_exact(&mut [0; crate::message::REQUEST]).unwrap();
            socket.write_all(&[0; ANSWER as usize]).unwrap();
            let _ = socket.read(&mut [0; 1 << 16]);
            std::thread::sleep(Duration::from_secs(60));
        });
        let outcome = run_once(&Options { connections: 1, ..options(Work::Paced, to) });
        assert_eq!(outcome.done, 0);
        assert!((18..=20).contains(&outcome.failed), "{outcome:?}");
        // The one that was due last has waited for as long as is waited at all.
        assert!(outcome.latency.unwrap().p50_ns > 1_900_000_000, "{outcome:?}");
    }
}
