//! Answers every request of every connection, on one thread.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::net::TcpListener;

use mio::{Events, Interest, Poll, Registry, Token};
use socket2::{Domain, Socket, Type};

use crate::message::Requests;
use crate::raise_descriptor_limit;

const LISTENER: Token = Token(usize::MAX);
/// Connections that may wait to be accepted: more than the clients open at once.
const BACKLOG: i32 = 4096;
/// Bytes of one read or write.
const BLOCK: usize = 64 * 1024;
/// Blocks that one connection gets before the others have their turn.
const TURN: usize = 16;

/// Where to serve.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where to listen
    #[arg(long)]
    pub listen: SocketAddr,
}

struct Connection {
    socket: mio::net::TcpStream,
    requests: Requests,
    /// Bytes that it has asked for and not got.
    owed: u64,
    /// Whether it is told when the socket takes more.
    waits: bool,
}

/// What is known to have come on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Come {
    Nothing,
    Bytes,
    /// Perhaps bytes, and then the end.
    End,
}

/// What came of giving a connection its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It waits for the other end.
    Done,
    /// It could go on, but others have to have their turn.
    More,
    /// It has ended.
    Ended,
}

/// Serves until the process ends; prints `ready` when it listens.
///
/// # Errors
/// When it cannot listen, or the kernel refuses to tell what happens.
pub fn serve(options: &Options) -> io::Result<Infallible> {
    raise_descriptor_limit();
    let socket =
        Socket::new(Domain::for_address(options.listen), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    // Several of these share a port where one may not have descriptors enough.
    socket.set_reuse_port(true)?;
    socket.bind(&options.listen.into())?;
    socket.listen(BACKLOG)?;
    println!("ready");
    answer(TcpListener::from(socket))
}

fn answer(listener: TcpListener) -> io::Result<Infallible> {
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut connections: Vec<Option<Connection>> = vec![];
    let mut free: Vec<usize> = vec![];
    let mut unfinished: Vec<usize> = vec![];
    let mut buffer = vec![0; BLOCK];
    let zeros = vec![0; BLOCK];
    loop {
        let timeout = (!unfinished.is_empty()).then_some(std::time::Duration::ZERO);
        match poll.poll(&mut events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        let mut turns: Vec<(usize, Come)> =
            unfinished.drain(..).map(|number| (number, Come::Nothing)).collect();
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, poll.registry(), &mut connections, &mut free)?;
            } else {
                let come = match (event.is_read_closed(), event.is_readable()) {
                    (true, _) => Come::End,
                    (false, true) => Come::Bytes,
                    (false, false) => Come::Nothing,
                };
                turns.push((event.token().0, come));
            }
        }
        for (number, come) in turns {
            let Some(connection) = connections.get_mut(number).and_then(Option::as_mut) else { continue };
            // A connection that was reset is no news here: its other end says so.
            let turn = connection.turn(number, come, poll.registry(), &mut buffer, &zeros);
            match turn.unwrap_or(Turn::Ended) {
                Turn::Done => {}
                Turn::More => unfinished.push(number),
                Turn::Ended => {
                    connections[number] = None;
                    free.push(number);
                }
            }
        }
    }
}

fn accept(
    listener: &mio::net::TcpListener,
    registry: &Registry,
    connections: &mut Vec<Option<Connection>>,
    free: &mut Vec<usize>,
) -> io::Result<()> {
    loop {
        let mut socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The client has gone already.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let number = free.pop().unwrap_or(connections.len());
        registry.register(&mut socket, Token(number), Interest::READABLE)?;
        let connection = Connection { socket, requests: Requests::default(), owed: 0, waits: false };
        match connections.get_mut(number) {
            Some(place) => *place = Some(connection),
            None => connections.push(Some(connection)),
        }
    }
}

impl Connection {
    fn turn(
        &mut self,
        number: usize,
        come: Come,
        registry: &Registry,
        buffer: &mut [u8],
        zeros: &[u8],
    ) -> io::Result<Turn> {
        if come != Come::Nothing {
            loop {
                match self.socket.read(buffer) {
                    Ok(0) => return Ok(Turn::Ended),
                    Ok(count) => {
                        self.owed = self.owed.saturating_add(self.requests.take(&buffer[..count]));
                        // That was all: the kernel tells of more.
                        if come == Come::Bytes && count < buffer.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        for _ in 0..TURN {
            if self.owed == 0 {
                return Ok(Turn::Done);
            }
            let size = usize::try_from(self.owed).unwrap_or(usize::MAX).min(zeros.len());
            match self.socket.write(&zeros[..size]) {
                Ok(count) if self.owed == u64::MAX => debug_assert!(count > 0),
                Ok(count) => self.owed -= count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if !self.waits {
                        self.waits = true;
                        let both = Interest::READABLE | Interest::WRITABLE;
                        registry.reregister(&mut self.socket, Token(number), both)?;
                    }
                    return Ok(Turn::Done);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::More)
    }
}

/// One at an address of its own, until this process ends.
#[cfg(test)]
pub(crate) fn in_background() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || answer(listener));
    address
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{ENDLESS, REQUEST, request};
    use std::net::TcpStream;
    use std::thread;

    fn client() -> TcpStream {
        TcpStream::connect(in_background()).unwrap()
    }

    #[test]
    fn a_long_answer_is_complete() {
        let mut client = client();
        client.write_all(&request(3_000_000)).unwrap();
        let mut answer = vec![1; 3_000_000];
        client.read_exact(&mut answer).unwrap();
        assert!(answer.iter().all(|byte| *byte == 0));
        client.write_all(&request(1)).unwrap();
        client.read_exact(&mut answer[..1]).unwrap();
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.read(&mut answer).unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn an_endless_answer_lets_others_have_theirs() {
        let mut endless = client();
        endless.write_all(&request(ENDLESS)).unwrap();
        let reader = thread::spawn(move || {
            let mut buffer = vec![0; BLOCK];
            (0..200).map(|_| endless.read(&mut buffer).unwrap()).sum::<usize>()
        });
        assert!(reader.join().unwrap() > REQUEST);
    }
}
