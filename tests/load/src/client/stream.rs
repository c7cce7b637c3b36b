//! Bytes without end: a thread for each connection, as a reader that has nothing else to do.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::{Options, Outcome, Tally, Window, on_threads};
use crate::message::{ENDLESS, request};

/// Bytes of one read.
const BLOCK: usize = 256 * 1024;
/// A connection or a read that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(3);

pub(super) fn run(options: &Options) -> anyhow::Result<Outcome> {
    let window = Window::from_now(options);
    on_threads(options.connections, window, |number| {
        let mut tally = Tally::default();
        if let Err(error) = receive(options, number, window, &mut tally) {
            tally.fail("bulk", &error);
        }
        Ok(tally)
    })
}

fn receive(options: &Options, number: usize, window: Window, tally: &mut Tally) -> io::Result<()> {
    let mut socket = TcpStream::connect_timeout(&options.to[number % options.to.len()], LIMIT)?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.write_all(&request(ENDLESS))?;
    let mut buffer = vec![0; BLOCK];
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let now = Instant::now();
        if now >= window.end {
            break;
        }
        if window.has(now) {
            tally.bytes += count as u64;
        }
    }
    tally.done = 1;
    Ok(())
}
