//! Connections that are opened, used once, and kept.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::{Options, Outcome, Tally};
use crate::message::{REQUEST, request};
use crate::processors::Busy;

/// Connections that are being opened at a time.
const AT_A_TIME: usize = 256;

/// Opens them, prints an outcome, waits for the end of standard input, and resets them all: nobody has to remember them
/// after that.
pub(super) fn run(options: &Options, print: impl Fn(&Outcome) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let (began, before) = (Instant::now(), Busy::now()?);
    let (tally, held) = open(options)?;
    let busy = Busy::now()?.seconds_since(before);
    print(&tally.outcome(began.elapsed().as_secs_f64(), busy))?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(held);
    Ok(())
}

struct Opening {
    socket: TcpStream,
    asked: bool,
    missing: usize,
    began: Instant,
}

fn open(options: &Options) -> anyhow::Result<(Tally, Vec<TcpStream>)> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(AT_A_TIME);
    let mut tally = Tally::default();
    let mut held = Vec::with_capacity(options.connections);
    let mut opening: Vec<Option<Opening>> = Vec::new();
    let mut free: Vec<usize> = (0..AT_A_TIME).collect();
    opening.resize_with(AT_A_TIME, || None);
    let mut next = 0;
    let end = Instant::now() + Duration::from_millis(options.measure_ms);
    while Instant::now() < end && (next < options.connections || free.len() < AT_A_TIME) {
        while next < options.connections {
            let Some(place) = free.pop() else { break };
            let began = Instant::now();
            next += 1;
            let socket = match options.connect(next - 1) {
                Ok(socket) => socket,
                Err(error) => {
                    tally.fail("hold", &error);
                    free.push(place);
                    continue;
                }
            };
            socket.set_linger(Some(Duration::ZERO))?;
            let mut socket = TcpStream::from_std(socket.into());
            poll.registry().register(&mut socket, Token(place), Interest::READABLE | Interest::WRITABLE)?;
            let missing = options.answer as usize;
            opening[place] = Some(Opening { socket, asked: false, missing, began });
        }
        match poll.poll(&mut events, Some(Duration::from_millis(20))) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            let place = event.token().0;
            let Some(Some(one)) = opening.get_mut(place) else { continue };
            match one.go_on(options) {
                Ok(false) => continue,
                Ok(true) => {
                    tally.done += 1;
                    tally.times_ns.push(one.began.elapsed().as_nanos() as u64);
                    if let Some(mut one) = opening[place].take() {
                        poll.registry().deregister(&mut one.socket)?;
                        held.push(one.socket);
                    }
                }
                Err(error) => {
                    tally.fail("hold", &error);
                    opening[place] = None;
                }
            }
            free.push(place);
        }
    }
    // Those that nobody has answered yet.
    tally.failed = options.connections as u64 - tally.done;
    if tally.failed > 0 {
        tally.first_failure.get_or_insert_with(|| "hold: not answered in time".to_owned());
    }
    Ok((tally, held))
}

impl Opening {
    /// Does what can be done now; true when the answer is complete.
    fn go_on(&mut self, options: &Options) -> io::Result<bool> {
        if !self.asked {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            match self.socket.write(&request(options.answer)) {
                Ok(REQUEST) => self.asked = true,
                Ok(_) => return Err(ErrorKind::WriteZero.into()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {}
                Err(error) => return Err(error),
            }
            return Ok(false);
        }
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.missing = self.missing.saturating_sub(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            if self.missing == 0 {
                return Ok(true);
            }
        }
    }
}
