//! What became of the streams, as their client tells it. Pure: times are passed in, microseconds of the machine's monotonic
//! clock.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::measure::Record;

/// A stream that did not move for longer than this hung.
pub const HANG: Duration = Duration::from_secs(1);

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Bytes both ways. It moves when the server tells that it has received more of them.
    Plain,
    /// Nothing, once it is open.
    Idle,
    /// A watch over TLS. It moves with each line; its client sends nothing.
    Watch,
}

/// What the client tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A stream is open, for the first time or again.
    Opened {
        /// When.
        at_us: u64,
        /// Which one.
        stream: u32,
        /// What it carries.
        kind: Kind,
        /// Who serves it.
        server: String,
    },
    /// A stream could not be opened. It will be tried again.
    Refused {
        /// When.
        at_us: u64,
        /// Which one.
        stream: u32,
        /// Why.
        error: String,
    },
    /// A stream moves again that had not moved for an unusual time.
    Hung {
        /// When.
        at_us: u64,
        /// Which one.
        stream: u32,
        /// When it had last moved.
        since_us: u64,
    },
    /// A stream has ended: its client knows.
    Broken {
        /// When.
        at_us: u64,
        /// Which one.
        stream: u32,
        /// Why: `reset`, `closed`, `timeout`, `wrong` (bytes), and more words.
        error: String,
        /// When it had last moved.
        moved_us: u64,
    },
    /// All is told that happened before this.
    Pulse {
        /// When.
        at_us: u64,
        /// Which have moved since the last time, and when last.
        moved: Vec<(u32, u64)>,
    },
}

/// One connection of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// Who serves it.
    pub server: String,
    /// Since when.
    pub opened_us: u64,
    /// When and why it ended.
    pub ended: Option<(u64, String)>,
}

/// A stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// What it carries.
    pub kind: Kind,
    /// When it last moved.
    pub moved_us: u64,
    /// Its connections, one after the other.
    pub lives: Vec<Life>,
    /// Unusual times without a move, from when to when.
    hangs: Vec<(u64, u64)>,
}

impl Stream {
    /// Its connection, while it is open.
    #[must_use]
    pub fn open(&self) -> Option<&Life> {
        self.lives.last().filter(|life| life.ended.is_none())
    }

    /// The connection that it had at this moment.
    fn at(&self, mark: u64) -> Option<&Life> {
        let ends = |life: &Life| life.ended.as_ref().map_or(u64::MAX, |(at, _)| *at);
        self.lives.iter().find(|life| life.opened_us <= mark && mark < ends(life))
    }
}

/// Everything that the client has told.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    streams: BTreeMap<u32, Stream>,
    refused: Vec<(u64, String)>,
    /// All is known up to here.
    told_us: u64,
}

impl Record for Tally {
    type Event = Event;

    fn record(&mut self, event: Event) {
        match event {
            Event::Opened { at_us, stream, kind, server } => {
                let fresh = || Stream { kind, moved_us: at_us, lives: vec![], hangs: vec![] };
                let stream = self.streams.entry(stream).or_insert_with(fresh);
                stream.moved_us = at_us;
                stream.lives.push(Life { server, opened_us: at_us, ended: None });
            }
            Event::Refused { at_us, error, .. } => self.refused.push((at_us, error)),
            Event::Hung { at_us, stream, since_us } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.hangs.push((since_us, at_us));
                    stream.moved_us = at_us;
                }
            }
            Event::Broken { at_us, stream, error, moved_us } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    if stream.kind != Kind::Idle {
                        stream.hangs.push((moved_us, at_us));
                    }
                    if let Some(life) = stream.lives.last_mut() {
                        life.ended = Some((at_us, error));
                    }
                }
            }
            Event::Pulse { at_us, moved } => {
                self.told_us = at_us;
                for (number, moved_us) in moved {
                    if let Some(stream) = self.streams.get_mut(&number) {
                        stream.moved_us = moved_us;
                    }
                }
            }
        }
    }
}

impl Tally {
    /// The streams that have ever been open, by number.
    #[must_use]
    pub fn streams(&self) -> &BTreeMap<u32, Stream> {
        &self.streams
    }

    /// When and why opening one failed, each time.
    #[must_use]
    pub fn refused(&self) -> &[(u64, String)] {
        &self.refused
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.streams.values().filter_map(Stream::open).count()
    }

    /// How many each server has.
    #[must_use]
    pub fn by_server(&self) -> BTreeMap<String, usize> {
        let mut servers = BTreeMap::new();
        for life in self.streams.values().filter_map(Stream::open) {
            *servers.entry(life.server.clone()).or_default() += 1;
        }
        servers
    }

    /// How many are open, not idle, and have not moved since then as far as is told.
    #[must_use]
    pub fn silent_since(&self, mark: u64) -> usize {
        let silent = |s: &&Stream| s.kind != Kind::Idle && s.open().is_some() && s.moved_us < mark;
        self.streams.values().filter(silent).count()
    }

    /// How many connections that this server had at `mark` are still open.
    #[must_use]
    pub fn left_at(&self, server: &str, mark: u64) -> usize {
        let left = |stream: &&Stream| {
            stream.at(mark).is_some_and(|life| life.server == server && life.ended.is_none())
        };
        self.streams.values().filter(left).count()
    }

    /// What happened from `mark` on to the streams that were open then.
    #[must_use]
    pub fn since(&self, mark: u64) -> Account {
        let mut account = Account { mark, streams: 0, broken: vec![], hung: vec![], longest: Duration::ZERO };
        for (&number, stream) in &self.streams {
            let Some(life) = stream.at(mark) else { continue };
            account.streams += 1;
            if let Some((at_us, error)) = &life.ended {
                account.broken.push(Break {
                    stream: number,
                    kind: stream.kind,
                    server: life.server.clone(),
                    at_us: *at_us,
                    error: error.clone(),
                });
            }
            let goes_on = stream.open().filter(|_| stream.kind != Kind::Idle);
            let goes_on = goes_on.map(|_| (stream.moved_us, self.told_us.max(stream.moved_us)));
            let reach = |(_, until): &(u64, u64)| *until > mark;
            let gaps = stream.hangs.iter().copied().chain(goes_on).filter(reach);
            let longest = gaps.map(|(since, until)| Duration::from_micros(until - since)).max();
            let longest = longest.unwrap_or_default();
            account.longest = account.longest.max(longest);
            if longest > HANG {
                let server = life.server.clone();
                account.hung.push(Hang { stream: number, kind: stream.kind, server, lasted: longest });
            }
        }
        account.broken.sort_by_key(|broken| broken.at_us);
        account
    }
}

/// A stream that broke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Break {
    /// Which one.
    pub stream: u32,
    /// What it carried.
    pub kind: Kind,
    /// Who served it.
    pub server: String,
    /// When its client knew.
    pub at_us: u64,
    /// Why: `reset`, `closed`, `timeout`, `wrong` (bytes), and more words.
    pub error: String,
}

/// A stream that did not move for longer than [`HANG`], whether or not it broke in the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hang {
    /// Which one.
    pub stream: u32,
    /// What it carries.
    pub kind: Kind,
    /// Who serves it.
    pub server: String,
    /// The longest time without a move.
    pub lasted: Duration,
}

/// What happened to the streams that were open at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// That moment.
    pub mark: u64,
    /// How many these are.
    pub streams: usize,
    /// Those that broke, in the order of their ends.
    pub broken: Vec<Break>,
    /// Those that hung.
    pub hung: Vec<Hang>,
    /// The longest that one of them did not move.
    pub longest: Duration,
}

impl Account {
    /// How long after the mark the client of each broken stream knew, shortest first.
    #[must_use]
    pub fn noticed(&self) -> Vec<Duration> {
        self.broken
            .iter()
            .map(|broken| Duration::from_micros(broken.at_us.saturating_sub(self.mark)))
            .collect()
    }

    /// The broken ones by what their error begins with.
    #[must_use]
    pub fn kinds(&self) -> BTreeMap<String, usize> {
        let mut kinds = BTreeMap::new();
        for broken in &self.broken {
            let kind = broken.error.split(':').next().unwrap_or_default();
            *kinds.entry(kind.to_owned()).or_default() += 1;
        }
        kinds
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { streams, broken, hung, longest, .. } = self;
        write!(
            f,
            "{} of {streams} streams broke, {} hung (longest {longest:.1?})",
            broken.len(),
            hung.len()
        )?;
        match (broken.first(), self.noticed().last()) {
            (Some(first), Some(last)) => {
                write!(f, "; {:?}, last noticed after {last:.1?}, first: {first:?}", self.kinds())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn opened(at_us: u64, stream: u32, kind: Kind, server: &str) -> Event {
        Event::Opened { at_us, stream, kind, server: server.to_owned() }
    }

    fn broken(at_us: u64, stream: u32, moved_us: u64) -> Event {
        Event::Broken { at_us, stream, error: "reset: receive".to_owned(), moved_us }
    }

    fn tally(events: impl IntoIterator<Item = Event>) -> Tally {
        let mut tally = Tally::default();
        events.into_iter().for_each(|event| tally.record(event));
        tally
    }

    #[test]
    fn only_what_was_open_at_the_mark_counts() {
        let tally = tally([
            opened(S, 0, Kind::Plain, "a"),
            opened(S, 1, Kind::Plain, "b"),
            opened(S, 2, Kind::Plain, "a"),
            broken(2 * S, 2, 2 * S),
            opened(2 * S + 1, 2, Kind::Plain, "b"),
            broken(4 * S, 0, 3 * S + S / 2),
            opened(5 * S, 3, Kind::Plain, "a"),
            broken(6 * S, 3, 6 * S),
            Event::Pulse { at_us: 6 * S, moved: vec![(1, 6 * S), (2, 6 * S)] },
        ]);
        let account = tally.since(3 * S);
        assert_eq!((account.streams, account.broken.len(), account.hung.len()), (3, 1, 0), "{account}");
        assert_eq!(account.noticed(), [Duration::from_secs(1)]);
        assert_eq!(account.kinds(), BTreeMap::from([("reset".to_owned(), 1)]));
        assert_eq!(tally.by_server(), BTreeMap::from([("b".to_owned(), 2)]));
        assert_eq!((tally.left_at("a", 3 * S), tally.left_at("b", 3 * S)), (0, 2));
        assert_eq!(tally.since(S).broken.len(), 2, "stream 2's first connection, too");
    }

    #[test]
    fn a_hang_counts_whether_it_ended_well_or_not_or_not_yet() {
        let tally = tally([
            opened(S, 0, Kind::Plain, "a"),
            opened(S, 1, Kind::Watch, "a"),
            opened(S, 2, Kind::Watch, "b"),
            opened(S, 3, Kind::Idle, "b"),
            opened(S, 4, Kind::Plain, "b"),
            Event::Hung { at_us: 6 * S, stream: 0, since_us: 3 * S },
            broken(9 * S, 1, 3 * S),
            Event::Pulse { at_us: 11 * S, moved: vec![(0, 11 * S), (4, 11 * S)] },
        ]);
        let account = tally.since(4 * S);
        let lasted: Vec<_> = account.hung.iter().map(|hang| (hang.stream, hang.lasted.as_secs())).collect();
        assert_eq!(lasted, [(0, 3), (1, 6), (2, 10)]);
        assert_eq!(account.longest, Duration::from_secs(10));
        assert_eq!(tally.since(7 * S).hung.len(), 2, "stream 0 moved again before");
        assert_eq!((tally.silent_since(10 * S), tally.silent_since(12 * S)), (1, 3));
    }
}
