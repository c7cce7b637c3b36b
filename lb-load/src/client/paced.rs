//! An open loop: each request is due at a fixed time.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use anyhow::ensure;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::{Options, Outcome, Tally, Window};
use crate::message::{REQUEST, request};

const CLOCK: Token = Token(usize::MAX);
/// Bytes of one read.
const BLOCK: usize = 64 * 1024;
/// Connections are opened within this time, or those that are will have to do.
const OPENING: Duration = Duration::from_secs(5);
/// What was due in the time that is measured may be answered this much later; what is not has failed.
const GRACE: Duration = Duration::from_secs(2);

struct Place {
    socket: TcpStream,
    missing: usize,
    /// When the request was due whose answer it waits for.
    due: Option<Instant>,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    ensure!(options.rate > 0.0, "a rate of {} requests per second", options.rate);
    let mut poll = Poll::new()?;
    let mut places = open(options, &mut poll)?;
    let interval = Duration::from_secs_f64(1.0 / options.rate);
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    poll.registry().register(&mut SourceFd(&timer.as_fd().as_raw_fd()), CLOCK, Interest::READABLE)?;

    let window = Window::from_now(options);
    let start = Instant::now();
    timer.set(Expiration::Interval(TimeSpec::from_duration(interval)), TimerSetTimeFlags::empty())?;
    let watching = std::thread::spawn(move || window.watch());
    let tally = ask(options, &mut poll, &mut places, &timer, start, interval, window)?;
    let (seconds, busy) = watching.join().map_err(|_| anyhow::anyhow!("the clock panicked"))??;
    Ok(tally.outcome(seconds, busy))
}

/// Opens all connections and has the first answer on each.
fn open(options: &Options, poll: &mut Poll) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    let begin = Instant::now();
    for number in 0..options.connections {
        let mut socket =
            std::net::TcpStream::connect_timeout(&options.to[number % options.to.len()], OPENING)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(OPENING))?;
        socket.write_all(&request(options.answer))?;
        socket.read_exact(&mut vec![0; options.answer as usize])?;
        socket.set_nonblocking(true)?;
        let mut socket = TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(number), Interest::READABLE)?;
        places.push(Place { socket, missing: 0, due: None });
        ensure!(begin.elapsed() < OPENING, "only {} connections opened in {OPENING:?}", places.len());
    }
    Ok(places)
}

fn ask(
    options: &Options,
    poll: &mut Poll,
    places: &mut [Place],
    timer: &TimerFd,
    start: Instant,
    interval: Duration,
    window: Window,
) -> io::Result<Tally> {
    let mut events = Events::with_capacity(256);
    let mut buffer = vec![0; BLOCK];
    let mut tally = Tally::default();
    let mut idle: VecDeque<usize> = (0..places.len()).collect();
    let mut waiting: VecDeque<Instant> = VecDeque::new();
    let mut issued: u32 = 0;
    let mut outstanding = 0_u64;
    let mut now = Instant::now();
    while now < window.end || (outstanding > 0 && now < window.end + GRACE) {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        now = Instant::now();
        for event in &events {
            if event.token() == CLOCK {
                // It only wakes: what is due is told by the time.
                let mut expirations = [0; 8];
                let _ = nix::unistd::read(timer, &mut expirations);
                continue;
            }
            let Some(place) = places.get_mut(event.token().0) else { continue };
            match place.receive(&mut buffer) {
                Ok(false) => {}
                Ok(true) => {
                    let due = place.due.take();
                    if let Some(due) = due.filter(|due| window.has(*due)) {
                        outstanding -= 1;
                        tally.done += 1;
                        tally.bytes += u64::from(options.answer);
                        tally.times_ns.push(Instant::now().duration_since(due).as_nanos() as u64);
                    }
                    idle.push_back(event.token().0);
                }
                // It is not opened again: the request counts as unanswered at the end.
                Err(error) => {
                    place.due = None;
                    tally.first_failure.get_or_insert_with(|| format!("answer: {error}"));
                }
            }
        }
        loop {
            let due = start + interval * (issued + 1);
            if due > now || due >= window.end {
                break;
            }
            issued += 1;
            waiting.push_back(due);
            outstanding += u64::from(window.has(due));
        }
        while !waiting.is_empty() {
            let Some(number) = idle.pop_front() else { break };
            let Some(due) = waiting.pop_front() else { break };
            let place = &mut places[number];
            place.missing = options.answer as usize;
            place.due = Some(due);
            if !matches!(place.socket.write(&request(options.answer)), Ok(REQUEST)) {
                tally.first_failure.get_or_insert_with(|| "request: it could not be sent".to_owned());
            }
        }
    }
    // What was never answered took at least that long.
    tally.failed += outstanding;
    let late = |due: &Instant| now.duration_since(*due).as_nanos() as u64;
    let unanswered = places.iter().filter_map(|place| place.due).chain(waiting);
    tally.times_ns.extend(unanswered.filter(|due| window.has(*due)).map(|due| late(&due)));
    Ok(tally)
}

impl Place {
    /// Takes what has come; true when the answer is complete.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        loop {
            match self.socket.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.missing = self.missing.saturating_sub(count);
                    if self.missing == 0 {
                        return Ok(self.due.is_some());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}
