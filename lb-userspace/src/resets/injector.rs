//! Puts frames on the wire, by a packet socket: they leave as they are, past routes and packet filters, as XDP's own do.

use std::{io, thread, time::Duration};

use socket2::{Domain, Socket, Type};

use super::segments::OutFrame;
use crate::announce::link_address;

/// An interface's queue is full for so long at most, and then for as long again; after that a frame is given up. It is
/// said again later.
const PATIENCE: Duration = Duration::from_millis(1);

/// A packet socket, opened when it is first needed.
#[derive(Debug, Default)]
pub struct Injector {
    socket: Option<Socket>,
}

impl Injector {
    /// Sends one frame.
    ///
    /// # Errors
    /// No socket is to be had (`CAP_NET_RAW`), or the interface is down or gone.
    pub fn send(&mut self, frame: &OutFrame) -> io::Result<()> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            // Protocol 0: it receives nothing.
            none => none.insert(Socket::new(Domain::PACKET, Type::RAW, None)?),
        };
        let ethertype = frame.ethertype.get().to_be_bytes();
        let address = link_address(frame.if_index as usize, ethertype, frame.to);
        let mut patience = [PATIENCE; 2].into_iter();
        loop {
            match socket.send_to(&frame.bytes, &address) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match patience.next() {
                    Some(pause) if error.raw_os_error() == Some(libc::ENOBUFS) => thread::sleep(pause),
                    _ => return Err(error),
                },
            }
        }
    }
}
