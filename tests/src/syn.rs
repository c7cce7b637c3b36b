//! One TCP handshake with a limited number of hops, as `traceroute --tcp` makes it: does the SYN arrive, and if not,
//! who says so?
//!
//! The socket is the kernel's own. An ICMP error reaches it only if what the error quotes is this very SYN: its addresses,
//! ports and sequence number (`tcp_v4_err`, `tcp_v6_err`). So an answer here has been checked by an independent reader.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt,
    recvmsg, setsockopt, socket, sockopt,
};

use crate::netns::{Netns, NetnsError};

/// What became of a SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A SYN-ACK came back.
    Connected,
    /// A RST came back.
    Refused,
    /// Its TTL or hop limit ran out there.
    Expired {
        /// Who sent the error.
        from: IpAddr,
    },
    /// Another ICMP error.
    Unreachable {
        /// Who sent the error.
        from: IpAddr,
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Nothing in time, although the kernel sent it again where that was long enough.
    Silence,
}

/// Connects from `machine` with this TTL or hop limit.
///
/// # Errors
/// When the machine or its kernel refuses.
pub fn syn(machine: &Netns, to: SocketAddr, ttl: u8, timeout: Duration) -> Result<Answer, SynError> {
    Ok(machine.run(|| knock(to, ttl, timeout))??)
}

/// Why no SYN could be sent.
#[derive(Debug, thiserror::Error)]
pub enum SynError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// The socket did.
    #[error("a SYN with a limited TTL: {0}")]
    Socket(#[from] io::Error),
}

/// SO_EE_ORIGIN_ICMP and SO_EE_ORIGIN_ICMP6 (include/uapi/linux/errqueue.h).
const FROM_ICMP: [u8; 2] = [2, 3];
/// Time exceeded in ICMP (RFC 792) and in ICMPv6 (RFC 4443).
const EXPIRED: [u8; 2] = [11, 3];

fn knock(to: SocketAddr, ttl: u8, timeout: Duration) -> io::Result<Answer> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if to.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl))?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl))?;
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => return Ok(Answer::Connected),
        Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let end = Instant::now() + timeout;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        let left_ms = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, left_ms) {
            Ok(0) => return Ok(Answer::Silence),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Some(answer) = told(&socket)? {
            return Ok(answer);
        }
        return match getsockopt(&socket, sockopt::SocketError)? {
            0 => Ok(Answer::Connected),
            libc::ECONNREFUSED => Ok(Answer::Refused),
            other => Err(io::Error::from_raw_os_error(other)),
        };
    }
}

/// The ICMP error in the socket's error queue, if there is one.
fn told(socket: &OwnedFd) -> io::Result<Option<Answer>> {
    let mut quoted = [0; 512];
    let mut data = [IoSliceMut::new(&mut quoted)];
    // Room for either family's message.
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut data, Some(&mut space), flags) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for control in message.cmsgs()? {
        let (error, from) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                (error, IpAddr::from(Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                (error, IpAddr::from(Ipv6Addr::from(from.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        let Some(family) = FROM_ICMP.iter().position(|origin| *origin == error.ee_origin) else { continue };
        let (kind, code) = (error.ee_type, error.ee_code);
        return Ok(Some(if (kind, code) == (EXPIRED[family], 0) {
            Answer::Expired { from }
        } else {
            Answer::Unreachable { from, kind, code }
        }));
    }
    Ok(None)
}
