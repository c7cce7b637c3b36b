//! A closed loop: each connection goes on as soon as it can.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Options, Outcome, Tally, Window, Work, on_threads};
use crate::message::{REQUEST, request};

/// Bytes of one read: more than an answer has in the default settings.
const BLOCK: usize = 64 * 1024;
/// After so many failures without a success nothing is to be expected.
const HOPELESS: u64 = 1000;

/// A connection, and what it waits for.
struct Place {
    number: usize,
    socket: TcpStream,
    connected: bool,
    /// Bytes of the answer that have not come.
    missing: usize,
    /// When it began: the connection, or the request.
    began: Instant,
}

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let window = Window::from_now(options);
    on_threads(options.threads, window, |thread| work(options, thread, window))
}

fn work(options: &Options, thread: usize, window: Window) -> io::Result<Tally> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(256);
    let mut tally = Tally::default();
    let mut buffer = vec![0; BLOCK];
    let mut places = Vec::new();
    let mut succeeded = false;
    let mut failures = 0;
    for number in options.connections_of(thread) {
        places.push(open(options, number, places.len(), &poll)?);
    }
    while Instant::now() < window.end {
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let Some(place) = places.get_mut(event.token().0) else { continue };
            let again = match place.go_on(options, &mut buffer) {
                Ok(false) => false,
                Ok(true) => {
                    succeeded = true;
                    let now = Instant::now();
                    if window.has(now) {
                        tally.done += 1;
                        tally.bytes += u64::from(options.answer);
                        tally.times_ns.push(now.duration_since(place.began).as_nanos() as u64);
                    }
                    options.work == Work::Connect || !place.ask_again(options, now, &mut tally)
                }
                Err(error) => {
                    tally.fail(if place.connected { "answer" } else { "connect" }, &error);
                    failures += 1;
                    true
                }
            };
            if failures > HOPELESS && !succeeded {
                return Ok(tally);
            }
            if again {
                let number = place.number;
                // The old one is closed only then: the kernel would give the new one its port at once.
                *place = open(options, number, event.token().0, &poll)?;
            }
        }
    }
    Ok(tally)
}

fn open(options: &Options, number: usize, token: usize, poll: &Poll) -> io::Result<Place> {
    let began = Instant::now();
    let mut socket = options.connect_polled(number)?;
    let both = Interest::READABLE | Interest::WRITABLE;
    poll.registry().register(&mut socket, Token(token), both)?;
    Ok(Place { number, socket, connected: false, missing: options.answer as usize, began })
}

impl Place {
    /// Does what can be done now; true when the answer is complete.
    fn go_on(&mut self, options: &Options, buffer: &mut [u8]) -> io::Result<bool> {
        if !self.connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            match self.socket.write(&request(options.answer)) {
                Ok(REQUEST) => self.connected = true,
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(error) => return Err(error),
            }
            return Ok(false);
        }
        loop {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            self.missing = self.missing.saturating_sub(count);
            if self.missing == 0 {
                return Ok(true);
            }
        }
    }

    /// Asks once more on the same connection; false when that failed.
    fn ask_again(&mut self, options: &Options, now: Instant, tally: &mut Tally) -> bool {
        self.missing = options.answer as usize;
        self.began = now;
        match self.socket.write(&request(options.answer)) {
            Ok(REQUEST) => true,
            Ok(_) => false,
            Err(error) => {
                tally.fail("request", &error);
                false
            }
        }
    }
}
