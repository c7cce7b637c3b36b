//! A second Ethernet address at an interface.

use std::{io, os::fd::AsRawFd as _};

use lb_common::wire::Mac;
use socket2::{Domain, Socket, Type};

/// Makes the interface's hardware take frames for another Ethernet address than its own, for as long as this lives
/// (`PACKET_MR_UNICAST`, packet(7)). The kernel's stack ignores such frames still: the data plane readdresses them.
#[derive(Debug)]
pub(super) struct Membership {
    index: usize,
    _socket: Socket,
}

impl Membership {
    /// Joins at the interface with this index.
    ///
    /// # Errors
    /// Whatever the system calls say: no such interface, not root, or one whose driver knows no second address.
    pub(super) fn join(index: usize, mac: Mac) -> io::Result<Self> {
        // Protocol 0: it receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        let mut address = [0; 8];
        address[..mac.len()].copy_from_slice(&mac);
        let request = libc::packet_mreq {
            // The kernel's interface index is an int.
            mr_ifindex: index as libc::c_int,
            mr_type: libc::PACKET_MR_UNICAST as libc::c_ushort,
            mr_alen: mac.len() as libc::c_ushort,
            mr_address: address,
        };
        // SAFETY: the socket is open; option value and length are those of an initialised `packet_mreq`, which the kernel
        // only reads.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const request).cast(),
                size_of_val(&request) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { index, _socket: socket })
    }

    /// The interface's index.
    pub(super) const fn index(&self) -> usize {
        self.index
    }
}
