//! Reads what a client prints, and answers the questions that tests and the live view have: who served how much,
//! for how long nothing was served, did a stream break.

use std::collections::{BTreeMap, VecDeque};
use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::{Event, monotonic_us};
use crate::daemon::DaemonError;
use crate::netns::Netns;
use crate::outage::{Attempt, longest_outage, longest_pause};
use crate::plain::Direction;
use crate::wait;

/// More answers than this are forgotten, oldest first.
const REMEMBERED: usize = 200_000;

/// An answered or failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// When it ended, in microseconds of the monotonic clock.
    pub at_us: u64,
    /// How long it took.
    pub took_us: u64,
    /// The server that answered, or why none did.
    pub result: Result<String, String>,
}

/// A bulk transfer that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// Who served it.
    pub server: String,
    /// Which way the bytes went.
    pub direction: Direction,
    /// How many.
    pub bytes: u64,
    /// From the first SYN to the last byte.
    pub took: Duration,
    /// The hash of what was sent (SHA-256, hexadecimal).
    pub sent: String,
    /// The hash of what was received.
    pub received: String,
}

impl Outcome {
    /// When it began, in microseconds of the monotonic clock.
    #[must_use]
    pub fn began_us(&self) -> u64 {
        self.at_us.saturating_sub(self.took_us)
    }
}

impl Moved {
    /// Whether what was received is what was sent.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.sent == self.received && self.sent.len() == 64
    }
}

/// A watch stream, or a connection that is held, as seen by its client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Lines received, each checked, over all its connections.
    pub lines: u64,
    /// The server of its last line.
    pub server: Option<String>,
    /// When the last line was there.
    pub last_line_us: Option<u64>,
    /// Each time that it broke: when, and why.
    pub broken: Vec<(u64, String)>,
}

/// Everything that a client has reported. Pure: the time is passed in.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    outcomes: VecDeque<Outcome>,
    streams: BTreeMap<u32, StreamState>,
    moved: Vec<Moved>,
    done: bool,
}

impl Tally {
    /// Takes in one more event.
    pub fn record(&mut self, event: Event) {
        match event {
            Event::Answered { at_us, took_us, server } => {
                self.push(Outcome { at_us, took_us, result: Ok(server) });
            }
            Event::Failed { at_us, took_us, error } => {
                self.push(Outcome { at_us, took_us, result: Err(error) });
            }
            Event::Line { at_us, stream, server, .. } => {
                let stream = self.streams.entry(stream).or_default();
                stream.lines += 1;
                stream.server = Some(server);
                stream.last_line_us = Some(at_us);
            }
            Event::Broken { at_us, stream, error } => {
                self.streams.entry(stream).or_default().broken.push((at_us, error));
            }
            Event::Moved { took_us, server, direction, bytes, sent, received, .. } => {
                let took = Duration::from_micros(took_us);
                self.moved.push(Moved { server, direction, bytes, took, sent, received });
            }
            Event::Done { .. } => self.done = true,
        }
    }

    fn push(&mut self, outcome: Outcome) {
        if self.outcomes.len() == REMEMBERED {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(outcome);
    }

    /// Whether the client has done all that it was asked for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The requests that ended at or after `since_us`, oldest first.
    pub fn since(&self, since_us: u64) -> impl DoubleEndedIterator<Item = &Outcome> {
        let begin = self.outcomes.partition_point(|outcome| outcome.at_us < since_us);
        self.outcomes.range(begin..)
    }

    /// How many requests were answered since then.
    #[must_use]
    pub fn answered(&self, since_us: u64) -> usize {
        self.since(since_us).filter(|outcome| outcome.result.is_ok()).count()
    }

    /// How many requests failed since then.
    #[must_use]
    pub fn failed(&self, since_us: u64) -> usize {
        self.since(since_us).filter(|outcome| outcome.result.is_err()).count()
    }

    /// How many requests have been answered in a row since then, without a failure after them.
    #[must_use]
    pub fn steady(&self, since_us: u64) -> usize {
        self.since(since_us).rev().take_while(|outcome| outcome.result.is_ok()).count()
    }

    /// How many requests each server answered since then.
    #[must_use]
    pub fn by_server(&self, since_us: u64) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for server in self.since(since_us).filter_map(|outcome| outcome.result.as_ref().ok()) {
            *servers.entry(server.clone()).or_default() += 1;
        }
        servers
    }

    /// How many requests failed since then, by the kind of failure: what its text begins with (`refused`, `reset`,
    /// `timeout`, `unreachable`, `no-port`, `closed`, `wrong`, `other` for the plain service).
    #[must_use]
    pub fn failures(&self, since_us: u64) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for error in self.since(since_us).filter_map(|outcome| outcome.result.as_ref().err()) {
            let kind = error.split(':').next().unwrap_or_default();
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        kinds
    }

    /// How many of the streams that have not broken are at each server.
    #[must_use]
    pub fn held_by_server(&self) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for stream in self.streams.values().filter(|stream| stream.broken.is_empty()) {
            if let Some(server) = &stream.server {
                *servers.entry(server.clone()).or_default() += 1;
            }
        }
        servers
    }

    /// The bulk transfers that have ended, oldest first.
    #[must_use]
    pub fn moved(&self) -> &[Moved] {
        &self.moved
    }

    /// The longest time without an answer that reached into `since_us..=now_us`: from the last answer before
    /// `since_us` (or from `since_us` itself when there was none) over the answers since then to `now_us`.
    #[must_use]
    pub fn longest_gap(&self, since_us: u64, now_us: u64) -> Duration {
        let begin = self.outcomes.partition_point(|outcome| outcome.at_us < since_us);
        let mut last = (self.outcomes.range(..begin).rev())
            .find(|outcome| outcome.result.is_ok())
            .map_or(since_us, |outcome| outcome.at_us);
        let mut longest = 0;
        for outcome in self.outcomes.range(begin..).filter(|outcome| outcome.result.is_ok()) {
            longest = longest.max(outcome.at_us.saturating_sub(last));
            last = outcome.at_us;
        }
        Duration::from_micros(longest.max(now_us.saturating_sub(last)))
    }

    /// The requests that began in `since_us..until_us`, in the order of their ends.
    pub fn begun(&self, since_us: u64, until_us: u64) -> impl Iterator<Item = &Outcome> {
        self.since(since_us).filter(move |outcome| (since_us..until_us).contains(&outcome.began_us()))
    }

    /// The longest time without service ([`crate::outage`]) that the requests which began in `since_us..until_us` tell
    /// of. All of them must have ended. An outage reaches back to the last success before `since_us`.
    #[must_use]
    pub fn outage(&self, since_us: u64, until_us: u64) -> Duration {
        let attempt =
            |outcome: &Outcome| Attempt { began_us: outcome.began_us(), succeeded: outcome.result.is_ok() };
        let before = self.outcomes.iter().filter(|o| o.result.is_ok() && o.began_us() < since_us);
        let last_before = before.max_by_key(|outcome| outcome.began_us());
        longest_outage(
            last_before.into_iter().chain(self.begun(since_us, until_us)).map(attempt).collect(),
            until_us,
        )
    }

    /// The longest time from one request to the next among those that began in `since_us..until_us`.
    #[must_use]
    pub fn pause(&self, since_us: u64, until_us: u64) -> Duration {
        let attempt = |o: &Outcome| Attempt { began_us: o.began_us(), succeeded: o.result.is_ok() };
        longest_pause(&self.begun(since_us, until_us).map(attempt).collect::<Vec<_>>())
    }

    /// When the last request since then began that this server answered.
    #[must_use]
    pub fn last_answer_of(&self, server: &str, since_us: u64) -> Option<u64> {
        let answers = self.since(since_us).filter(|o| o.result.as_deref() == Ok(server));
        answers.map(Outcome::began_us).filter(|began| *began >= since_us).max()
    }

    /// The last failure, if there was one: when, and why.
    #[must_use]
    pub fn last_failure(&self) -> Option<(u64, &str)> {
        self.outcomes
            .iter()
            .rev()
            .find_map(|outcome| Some((outcome.at_us, outcome.result.as_ref().err()?.as_str())))
    }

    /// The median time that an answer took since then.
    #[must_use]
    pub fn median_latency(&self, since_us: u64) -> Option<Duration> {
        let mut times: Vec<u64> = self
            .since(since_us)
            .filter(|outcome| outcome.result.is_ok())
            .map(|outcome| outcome.took_us)
            .collect();
        let middle = times.len() / 2;
        (!times.is_empty()).then(|| Duration::from_micros(*times.select_nth_unstable(middle).1))
    }

    /// The watch streams by number.
    #[must_use]
    pub fn streams(&self) -> &BTreeMap<u32, StreamState> {
        &self.streams
    }

    /// How often a watch stream broke since then, all streams together.
    #[must_use]
    pub fn breaks(&self, since_us: u64) -> usize {
        self.streams.values().flat_map(|stream| &stream.broken).filter(|(at, _)| *at >= since_us).count()
    }
}

/// What the lines of a client add up to.
pub trait Record: Default + Send + 'static {
    /// What one line says.
    type Event: DeserializeOwned;

    /// Takes in one more line.
    fn record(&mut self, event: Self::Event);
}

impl Record for Tally {
    type Event = Event;

    fn record(&mut self, event: Event) {
        Tally::record(self, event);
    }
}

/// A running client and what it has reported so far. Dropping it kills the client.
#[derive(Debug)]
pub struct ClientProcess<T = Tally> {
    child: Child,
    tally: Arc<Mutex<T>>,
    reader: Option<JoinHandle<()>>,
}

impl<T: Record> ClientProcess<T> {
    /// Starts `command` (an `xvip-lab client`) on `machine`; what it complains about goes to the file `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(machine: &Netns, command: &mut Command, log: &Path) -> Result<Self, DaemonError> {
        let io = |source| DaemonError::Io { name: "client".to_owned(), source };
        let log = OpenOptions::new().create(true).append(true).open(log).map_err(io)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = machine.spawn(command)?;
        let tally = Arc::new(Mutex::new(T::default()));
        let reader = child.stdout.take().map(|stdout| {
            let tally = tally.clone();
            thread::spawn(move || {
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    match serde_json::from_str(&line) {
                        Ok(event) => lock(&tally).record(event),
                        Err(error) => eprintln!("lab: the client printed {line:?}: {error}"),
                    }
                }
            })
        });
        Ok(Self { child, tally, reader })
    }

    /// Asks `question` about what it has reported so far; the reports wait for the answer.
    pub fn read<A>(&self, question: impl FnOnce(&T) -> A) -> A {
        // Not a guard: two of them in one statement would wait for each other.
        question(&lock(&self.tally))
    }

    /// A moment to measure from.
    #[must_use]
    pub fn mark(&self) -> u64 {
        monotonic_us()
    }
}

impl ClientProcess {
    /// How many requests were answered since `mark`.
    #[must_use]
    pub fn answered(&self, mark: u64) -> usize {
        self.read(|tally| tally.answered(mark))
    }

    /// How many requests failed since `mark`.
    #[must_use]
    pub fn failed(&self, mark: u64) -> usize {
        self.read(|tally| tally.failed(mark))
    }

    /// How many requests each server answered since `mark`.
    #[must_use]
    pub fn by_server(&self, mark: u64) -> BTreeMap<String, usize> {
        self.read(|tally| tally.by_server(mark))
    }

    /// How many requests failed since `mark`, by the kind of failure; see [`Tally::failures`].
    #[must_use]
    pub fn failures(&self, mark: u64) -> BTreeMap<String, usize> {
        self.read(|tally| tally.failures(mark))
    }

    /// How many of the streams or held connections that have not broken are at each server.
    #[must_use]
    pub fn held_by_server(&self) -> BTreeMap<String, usize> {
        self.read(Tally::held_by_server)
    }

    /// How often a watch stream broke since `mark`, all streams together.
    #[must_use]
    pub fn breaks(&self, mark: u64) -> usize {
        self.read(|tally| tally.breaks(mark))
    }

    /// The watch streams by number.
    #[must_use]
    pub fn streams(&self) -> BTreeMap<u32, StreamState> {
        self.read(|tally| tally.streams().clone())
    }

    /// The longest time without an answer from `mark` until now; see [`Tally::longest_gap`].
    #[must_use]
    pub fn longest_gap(&self, mark: u64) -> Duration {
        // Locked first: answers that are still in the pipe must not count as missing for longer than they are.
        self.read(|tally| tally.longest_gap(mark, monotonic_us()))
    }

    /// How many requests that began at or after `mark` have been answered, without a failure among those which ended
    /// after that.
    #[must_use]
    pub fn steady_since(&self, mark: u64) -> usize {
        self.read(|tally| {
            let ended = tally.since(mark).rev();
            ended.take_while(|o| o.result.is_ok()).filter(|o| o.began_us() >= mark).count()
        })
    }

    /// Waits until `count` requests have been answered since `mark`, and returns how long nothing was answered
    /// in that time.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_answered(
        &self,
        mark: u64,
        count: usize,
        limit: Duration,
    ) -> Result<Duration, wait::TimedOut> {
        wait::until(&format!("{count} answers"), limit, || self.answered(mark) >= count)?;
        Ok(self.longest_gap(mark))
    }

    /// Waits until `count` requests in a row have been answered, the last of them just now, after `mark`.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_steady(&self, mark: u64, count: usize, limit: Duration) -> Result<(), wait::TimedOut> {
        wait::until(&format!("{count} answers in a row"), limit, || self.read(|t| t.steady(mark)) >= count)
    }

    /// Waits until a client with a limited number of requests is done.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub fn wait_done(&self, limit: Duration) -> Result<(), wait::TimedOut> {
        wait::until("the client's last answer", limit, || self.read(Tally::is_done))
    }
}

impl<T> Drop for ClientProcess<T> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn lock<T>(tally: &Mutex<T>) -> MutexGuard<'_, T> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(events: &[(u64, Option<&str>)]) -> Tally {
        let mut tally = Tally::default();
        for (at_us, server) in events {
            tally.record(match server {
                Some(server) => Event::Answered { at_us: *at_us, took_us: 5, server: (*server).to_owned() },
                None => Event::Failed { at_us: *at_us, took_us: 9, error: "refused".to_owned() },
            });
        }
        tally
    }

    #[test]
    fn gap_reaches_from_the_last_answer_before_to_the_first_after() {
        let tally =
            tally(&[(100, Some("a")), (200, Some("b")), (300, None), (900, Some("a")), (950, Some("a"))]);
        let us = Duration::from_micros;
        assert_eq!(tally.longest_gap(0, 960), us(700));
        assert_eq!(tally.longest_gap(250, 960), us(700), "the mark lies in the outage");
        assert_eq!(tally.longest_gap(920, 960), us(50));
        assert_eq!(tally.longest_gap(920, 2_000), us(1_050), "an outage that goes on counts up to now");
        assert_eq!(Tally::default().longest_gap(100, 400), us(300), "never an answer");
    }

    #[test]
    fn an_outage_reaches_back_to_the_last_success_before_the_mark() {
        let tally = tally(&[(105, Some("a")), (209, None), (309, None), (405, Some("b")), (505, Some("b"))]);
        assert_eq!(tally.outage(150, 600), Duration::from_micros(300));
        assert_eq!(tally.begun(150, 500).count(), 3);
        assert_eq!(tally.outage(400, 600), Duration::ZERO);
    }

    #[test]
    fn counts_per_server_from_the_mark_on() {
        let tally = tally(&[(100, Some("a")), (200, Some("b")), (300, None), (900, Some("b"))]);
        assert_eq!(tally.by_server(0), BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
        assert_eq!(tally.by_server(200), BTreeMap::from([("b".to_owned(), 2)]));
        assert_eq!((tally.answered(150), tally.failed(150)), (2, 1));
        assert_eq!((tally.steady(0), tally.steady(901)), (1, 0));
        assert_eq!(tally.last_failure(), Some((300, "refused")));
        assert_eq!((tally.last_answer_of("a", 0), tally.last_answer_of("a", 100)), (Some(95), None));
        assert_eq!(tally.median_latency(0), Some(Duration::from_micros(5)));
        assert_eq!(tally.median_latency(901), None);
    }

    #[test]
    fn a_stream_keeps_its_lines_and_its_breaks() {
        let mut tally = Tally::default();
        for seq in 0..3 {
            tally.record(Event::Line { at_us: seq, stream: 1, server: "a".to_owned(), seq });
        }
        tally.record(Event::Broken { at_us: 7, stream: 1, error: "reset".to_owned() });
        let stream = &tally.streams()[&1];
        assert_eq!((stream.lines, stream.server.as_deref(), stream.last_line_us), (3, Some("a"), Some(2)));
        assert_eq!((tally.breaks(0), tally.breaks(7), tally.breaks(8)), (1, 1, 0));
    }
}
