//! One ICMP echo request, and whatever comes back for it: the reply, or a router's error. `ping`, `traceroute` and
//! `tracepath` are not everywhere, and their words differ.

use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use etherparse::IpNumber;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::{Netns, NetnsError};

/// What to send.
#[derive(Debug, Clone)]
pub struct Ping {
    /// Bytes of the whole IP packet (84, of which IPv4 takes 28 for headers and IPv6 48).
    pub size: usize,
    /// TTL or hop limit (64).
    pub ttl: u8,
    /// How long to wait (3 s).
    pub timeout: Duration,
}

impl Default for Ping {
    fn default() -> Self {
        Self { size: 84, ttl: 64, timeout: Duration::from_secs(3) }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The echo.
    Reply {
        /// Who sent it.
        from: IpAddr,
    },
    /// "Fragmentation needed" (RFC 1191), "packet too big" (RFC 4443).
    TooBig {
        /// Who sent it.
        from: IpAddr,
        /// The MTU that it names.
        mtu: u32,
    },
    /// The TTL or hop limit ran out there.
    Expired {
        /// Who sent it.
        from: IpAddr,
    },
    /// Any other destination unreachable.
    Unreachable {
        /// Who sent it.
        from: IpAddr,
        /// The code of the message.
        code: u8,
    },
    /// Nothing in time.
    Silence,
}

/// Why no request could be sent.
#[derive(Debug, thiserror::Error)]
pub enum PingError {
    /// The machine refused.
    #[error(transparent)]
    Machine(#[from] NetnsError),
    /// The socket did; `EMSGSIZE` means that the packet is too big for the machine's own interface.
    #[error("ping {to}: {source}")]
    Socket {
        /// The destination.
        to: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Sends one echo request from `machine`, never to be fragmented, whatever has been learned about the path before, and
/// waits for what comes back.
///
/// # Errors
/// When it cannot be sent.
pub fn ping(machine: &Netns, to: IpAddr, ping: &Ping) -> Result<Answer, PingError> {
    let socket = |source| PingError::Socket { to, source };
    machine.run(|| Echo::open(to, ping.ttl))?.and_then(|echo| echo.ask(ping)).map_err(socket)
}

struct Echo {
    socket: OwnedFd,
    to: IpAddr,
    id: [u8; 4],
}

// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const ECHO_REQUEST: u8 = 8;
const EXPIRED: u8 = 11;
const UNREACHABLE6: u8 = 1;
const TOO_BIG6: u8 = 2;
const EXPIRED6: u8 = 3;
const ECHO_REQUEST6: u8 = 128;
const ECHO_REPLY6: u8 = 129;

impl Echo {
    fn open(to: IpAddr, ttl: u8) -> io::Result<Self> {
        let (family, protocol) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
            IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        let (level, discover, probe) = match to {
            IpAddr::V4(_) => {
                setsockopt(&socket, sockopt::Ipv4Ttl, &i32::from(ttl))?;
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            }
            IpAddr::V6(_) => {
                setsockopt(&socket, sockopt::Ipv6Ttl, &i32::from(ttl))?;
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            }
        };
        let length = size_of_val(&probe) as libc::socklen_t;
        // SAFETY: the kernel reads an int that lives here.
        let set = unsafe {
            libc::setsockopt(socket.as_raw_fd(), level, discover, (&raw const probe).cast(), length)
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
        // Distinct for each call; replies to others are not ours.
        let id = (crate::client::monotonic_us() as u32).to_be_bytes();
        Ok(Self { socket, to, id })
    }

    fn ask(&self, ping: &Ping) -> io::Result<Answer> {
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        let mut message = vec![if self.to.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST6 }, 0, 0, 0];
        message.extend(self.id);
        message.resize(8 + ping.size.saturating_sub(headers), 0x5a);
        if self.to.is_ipv4() {
            let sum = etherparse::checksum::Sum16BitWords::new().add_slice(&message).ones_complement();
            message[2..4].copy_from_slice(&sum.to_ne_bytes());
        }
        let fd = self.socket.as_raw_fd();
        let sent = match self.to {
            IpAddr::V4(to) => {
                sendto(fd, &message, &SockaddrIn::from(SocketAddrV4::new(to, 0)), MsgFlags::empty())
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(fd, &message, &to, MsgFlags::empty())
            }
        };
        sent?;
        let end = Instant::now() + ping.timeout;
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < end {
            match recvfrom::<SockaddrStorage>(fd, &mut buffer) {
                Ok((count, Some(from))) => {
                    let Some(from) = address(&from) else { continue };
                    if let Some(answer) = self.read(from, &buffer[..count]) {
                        return Ok(answer);
                    }
                }
                Ok((_, None)) | Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Answer::Silence)
    }

    /// What a received message says about our request, if it is about that.
    fn read(&self, from: IpAddr, packet: &[u8]) -> Option<Answer> {
        let v4 = self.to.is_ipv4();
        // A raw socket of IPv4 shows the IP header, too.
        let message = if v4 { after_ipv4(packet)? } else { packet };
        let (kind, code) = (*message.first()?, *message.get(1)?);
        let rest: [u8; 4] = message.get(4..8)?.try_into().ok()?;
        if kind == if v4 { ECHO_REPLY } else { ECHO_REPLY6 } {
            return (rest == self.id).then_some(Answer::Reply { from });
        }
        let inner = message.get(8..)?;
        let echo = if v4 { after_ipv4(inner)? } else { after_ipv6(inner)? };
        let asked = if v4 { ECHO_REQUEST } else { ECHO_REQUEST6 };
        if *echo.first()? != asked || echo.get(4..8)? != self.id {
            return None;
        }
        match (v4, kind, code) {
            (true, UNREACHABLE, FRAGMENTATION_NEEDED) => {
                Some(Answer::TooBig { from, mtu: u32::from(u16::from_be_bytes([rest[2], rest[3]])) })
            }
            (false, TOO_BIG6, _) => Some(Answer::TooBig { from, mtu: u32::from_be_bytes(rest) }),
            (true, EXPIRED, 0) | (false, EXPIRED6, 0) => Some(Answer::Expired { from }),
            (true, UNREACHABLE, code) | (false, UNREACHABLE6, code) => {
                Some(Answer::Unreachable { from, code })
            }
            _ => None,
        }
    }
}

fn after_ipv4(packet: &[u8]) -> Option<&[u8]> {
    packet.get(usize::from(packet.first()? & 0x0f) * 4..)
}

fn after_ipv6(packet: &[u8]) -> Option<&[u8]> {
    if *packet.get(6)? != IpNumber::IPV6_ICMP.0 {
        return None;
    }
    packet.get(40..)
}

fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| from.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}
