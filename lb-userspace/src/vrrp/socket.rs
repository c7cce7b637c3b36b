//! The raw socket that advertisements travel through, over IPv4 or IPv6.
//!
//! One socket a virtual router, bound to its interface. With unicast peers it is bound to our own address, without to
//! the group: in both cases the kernel hands over only what is meant for us, and no second socket is needed to send. Only
//! multicast advertisements from a virtual MAC address leave another way: as whole frames.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    cmsg_space,
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recv, recvmsg, sendmsg, setsockopt,
        sockopt,
    },
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};

use super::{
    advert::{
        Advertisement, Discard, Envelope, GROUP_V4, GROUP_V6, HOP_LIMIT, LONGEST_MESSAGE, PROTOCOL, Received,
        Trailer, group,
    },
    frame::{self, TOS},
};
use crate::{announce::link_address, config::model::Family};

/// The highest queueing priority that needs no privilege.
const QUEUE_PRIORITY: u32 = 6;

/// An IPv4 header with options, and the longest message.
const LONGEST_PACKET: usize = 60 + LONGEST_MESSAGE;

/// Bytes that may wait to be read, as the kernel counts them: some hundred short packets, which is seconds of
/// advertisements every 10 ms. More would only be older news.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No interface of that name.
    #[error("no interface {0}")]
    NoInterface(String),
    /// The interface has no address of its own to send from.
    #[error(
        "interface {interface} has no {family} address besides the virtual ones; set unicast_source or give it one"
    )]
    NoAddress {
        /// The interface.
        interface: String,
        /// What kind of address.
        family: Family,
    },
    /// The source is not an address of this machine.
    #[error("{address} is not an address of interface {interface}")]
    NotOurs {
        /// The configured source.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
    /// A peer cannot be reached from the source.
    #[error("{peer} is not an {family} address, as the source is")]
    OtherFamily {
        /// The configured peer.
        peer: IpAddr,
        /// The family of the source.
        family: Family,
    },
    /// A system call failed.
    #[error("{step} on interface {interface}")]
    System {
        /// What was being done.
        step: &'static str,
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Index of the interface, `None` if there is none of that name.
pub fn interface_index(interface: &str) -> Option<u32> {
    if_nametoindex(interface).ok()
}

/// The address of `family` that advertisements leave from where none is configured: the interface's first one that is not
/// one of the virtual ones (a killed predecessor may have left those).
///
/// Over IPv6 that is a link-local one for multicast (RFC 9568 §5.1.2.1) and any other one for unicast, if possible
/// neither deprecated nor temporary; never one that is not known to be unique yet.
pub fn primary_address(interface: &str, vips: &[IpAddr], family: Family, multicast: bool) -> Option<IpAddr> {
    let addresses = getifaddrs().ok()?.filter(|entry| entry.interface_name == interface);
    let candidates = addresses.filter_map(|entry| {
        let address = entry.address?;
        match family {
            Family::Ipv4 => address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip())),
            Family::Ipv6 => address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())),
        }
    });
    let mut candidates = candidates.filter(|candidate| !vips.contains(candidate));
    match family {
        Family::Ipv4 => candidates.next(),
        Family::Ipv6 => {
            let flags = ipv6_flags(interface);
            let flags_of = |address: &IpAddr| {
                flags.iter().find(|(known, _)| IpAddr::V6(*known) == *address).map_or(0, |(_, flags)| *flags)
            };
            let usable = candidates.filter(|candidate| match candidate {
                IpAddr::V6(address) => {
                    address.is_unicast_link_local() == multicast
                        && flags_of(candidate) & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) == 0
                }
                IpAddr::V4(_) => false,
            });
            // The first of the best: `min_by_key` keeps the order among equals.
            usable.min_by_key(|candidate| {
                flags_of(candidate) & (libc::IFA_F_DEPRECATED | libc::IFA_F_TEMPORARY) != 0
            })
        }
    }
}

/// Addresses of the interface and their flags, as far as `/proc` says so.
fn ipv6_flags(interface: &str) -> Vec<(Ipv6Addr, u32)> {
    // Of the thread: it may be in another network namespace than the process.
    let table = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    let entry = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [address, _index, _prefix_len, _scope, flags, name] = columns[..] else { return None };
        let address = u128::from_str_radix(address, 16).ok()?;
        let flags = u32::from_str_radix(flags, 16).ok()?;
        (name == interface).then(|| (Ipv6Addr::from_bits(address), flags))
    };
    table.lines().filter_map(entry).collect()
}

/// Sends and receives the advertisements of one virtual router.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
    index: u32,
    source: IpAddr,
    peers: Vec<IpAddr>,
    frames: Option<FrameSocket>,
    buffer: Box<[u8; LONGEST_PACKET]>,
}

impl VrrpSocket {
    /// Opens the socket on `interface`. Advertisements leave from `source`, whose family is that of the virtual router,
    /// to the `peers` or, if there are none, to the group; then from the Ethernet address `virtual_mac`, if there is one
    /// (RFC 9568 §7.2).
    ///
    /// # Errors
    /// Needs `CAP_NET_RAW`; fails if the interface or the source address does not exist.
    pub fn open(
        interface: &str,
        source: IpAddr,
        peers: &[IpAddr],
        virtual_mac: Option<[u8; 6]>,
    ) -> Result<Self, SocketError> {
        let name = || interface.to_owned();
        let step = |step| move |source| SocketError::System { step, interface: interface.to_owned(), source };
        let family = Family::of(source);
        if let Some(peer) = peers.iter().find(|peer| Family::of(**peer) != family) {
            return Err(SocketError::OtherFamily { peer: *peer, family });
        }
        let index = interface_index(interface).ok_or_else(|| SocketError::NoInterface(name()))?;
        let domain = match family {
            Family::Ipv4 => Domain::IPV4,
            Family::Ipv6 => Domain::IPV6,
        };
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).map_err(step("opening a raw socket"))?;
        socket.set_nonblocking(true).map_err(step("making the socket non-blocking"))?;
        socket.bind_device(Some(interface.as_bytes())).map_err(step("binding the socket"))?;
        socket.set_priority(QUEUE_PRIORITY).map_err(step("setting the queueing priority"))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER).map_err(step("setting the receive buffer"))?;
        match family {
            Family::Ipv4 => {
                socket.set_tos_v4(TOS.into()).map_err(step("setting TOS"))?;
                socket.set_ttl_v4(HOP_LIMIT.into()).map_err(step("setting TTL"))?;
                socket.set_multicast_all_v4(false).map_err(step("restricting multicast to our group"))?;
            }
            Family::Ipv6 => {
                socket.set_tclass_v6(TOS.into()).map_err(step("setting the traffic class"))?;
                socket.set_unicast_hops_v6(HOP_LIMIT.into()).map_err(step("setting the hop limit"))?;
                socket.set_multicast_all_v6(false).map_err(step("restricting multicast to our group"))?;
                socket.set_recv_hoplimit_v6(true).map_err(step("asking for hop limits"))?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)
                    .map_err(io::Error::from)
                    .map_err(step("asking for destinations"))?;
            }
        }
        if peers.is_empty() {
            match source {
                IpAddr::V4(source) => {
                    let index_ref = InterfaceIndexOrAddress::Index(index);
                    socket.join_multicast_v4_n(&GROUP_V4, &index_ref).map_err(step("joining 224.0.0.18"))?;
                    socket
                        .set_multicast_if_v4(&source)
                        .map_err(|_| SocketError::NotOurs { address: source.into(), interface: name() })?;
                    socket.set_multicast_loop_v4(false).map_err(step("switching multicast loopback off"))?;
                    socket
                        .set_multicast_ttl_v4(HOP_LIMIT.into())
                        .map_err(step("setting the multicast TTL"))?;
                }
                IpAddr::V6(_) => {
                    socket.join_multicast_v6(&GROUP_V6, index).map_err(step("joining ff02::12"))?;
                    socket.set_multicast_if_v6(index).map_err(step("choosing the interface"))?;
                    socket.set_multicast_loop_v6(false).map_err(step("switching multicast loopback off"))?;
                    socket
                        .set_multicast_hops_v6(HOP_LIMIT.into())
                        .map_err(step("setting the multicast hop limit"))?;
                }
            }
        }
        let ours = |address: IpAddr| {
            move |error: io::Error| match error.kind() {
                io::ErrorKind::AddrNotAvailable => SocketError::NotOurs { address, interface: name() },
                _ => step("binding the address")(error),
            }
        };
        let local = if peers.is_empty() { group(family) } else { source };
        if peers.is_empty() && family == Family::Ipv6 {
            // Sending says whether the source is ours, but only then; a bound socket says it now.
            let probe =
                Socket::new(domain, Type::RAW, Some(protocol)).map_err(step("opening a raw socket"))?;
            probe.bind(&socket_address(source, index)).map_err(ours(source))?;
        }
        socket.bind(&socket_address(local, index)).map_err(ours(local))?;
        let frames = match virtual_mac {
            Some(mac) if peers.is_empty() => {
                Some(FrameSocket::open(index, mac).map_err(step("opening a packet socket"))?)
            }
            Some(_) | None => None,
        };
        let buffer = Box::new([0; LONGEST_PACKET]);
        Ok(Self { socket, index, source, peers: peers.to_vec(), frames, buffer })
    }

    /// The index that the interface had when the socket was opened; a socket does not move to a new one of that name.
    pub const fn interface_index(&self) -> u32 {
        self.index
    }

    /// Source address of what we send.
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// Sends to every peer or to the group, each copy with the same `trailer`. One that fails does not keep the others
    /// from theirs.
    ///
    /// # Errors
    /// The last failure. Never blocks: a full queue is a failure, too.
    pub fn send(&self, advertisement: &Advertisement, trailer: Option<&Trailer>) -> io::Result<()> {
        let mut buffer = [0; LONGEST_MESSAGE];
        let mut result = Ok(());
        let group = [group(Family::of(self.source))];
        for destination in if self.peers.is_empty() { &group[..] } else { &self.peers[..] } {
            let sent = advertisement
                .emit(self.source, *destination, trailer, &mut buffer)
                .map_err(io::Error::other)
                .and_then(|len| self.send_message(*destination, &buffer[..len]));
            if let Err(error) = sent {
                result = Err(error);
            }
        }
        result
    }

    fn send_message(&self, destination: IpAddr, message: &[u8]) -> io::Result<()> {
        if let Some(frames) = &self.frames {
            return frames.send(self.source, destination, message);
        }
        match (self.source, destination) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                // The socket of a group is bound to that: every packet has to say its source.
                let info = libc::in6_pktinfo {
                    ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                    ipi6_ifindex: self.index,
                };
                let to = SockaddrIn6::from(SocketAddrV6::new(destination, 0, 0, self.scope(destination)));
                let control = [ControlMessage::Ipv6PacketInfo(&info)];
                let message = [IoSlice::new(message)];
                sendmsg(self.socket.as_raw_fd(), &message, &control, MsgFlags::empty(), Some(&to))?;
            }
            _ => {
                self.socket.send_to(message, &socket_address(destination, self.index))?;
            }
        }
        Ok(())
    }

    fn scope(&self, address: Ipv6Addr) -> u32 {
        scope(address, self.index)
    }

    /// Takes one packet from the queue, the oldest: a parsed advertisement, of which
    /// [`check`](Advertisement::check) and [`auth::admit`](super::auth::admit) are still to be asked, or why it is none.
    /// `None` if the queue is empty.
    ///
    /// # Errors
    /// What the kernel says about the socket.
    pub fn receive(&mut self) -> io::Result<Option<Result<Received<'_>, Discard>>> {
        let read = match Family::of(self.source) {
            Family::Ipv4 => recv(self.socket.as_raw_fd(), &mut self.buffer[..], MsgFlags::empty())
                .map(|len| Envelope::open(&self.buffer[..len])),
            Family::Ipv6 => receive_v6(&self.socket, &mut self.buffer[..])
                .map(|(envelope, len)| envelope.map(|envelope| (envelope, &self.buffer[..len]))),
        };
        match read {
            Ok(opened) => Ok(Some(opened.and_then(|(envelope, message)| {
                check_envelope(&envelope, self.source, &self.peers)?;
                Advertisement::parse(&envelope, message)
            }))),
            Err(nix::errno::Errno::EWOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the address alone says: whether we should listen to that packet.
fn check_envelope(envelope: &Envelope, source: IpAddr, peers: &[IpAddr]) -> Result<(), Discard> {
    if envelope.source == source {
        return Err(Discard::Own);
    }
    if !peers.is_empty() && !peers.contains(&envelope.source) {
        return Err(Discard::NotAPeer(envelope.source));
    }
    let expected = if peers.is_empty() { group(Family::of(source)) } else { source };
    if envelope.destination != expected {
        return Err(Discard::Destination(envelope.destination));
    }
    Ok(())
}

/// A raw IPv6 socket gives the message without its header; what was in there comes as control messages.
fn receive_v6(socket: &Socket, buffer: &mut [u8]) -> nix::Result<(Result<Envelope, Discard>, usize)> {
    let mut control = cmsg_space!(libc::in6_pktinfo, libc::c_int);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let (mut destination, mut hop_limit) = (None, None);
    // Without room for them all there would be an error; they are of fixed number and size.
    for message in got.cmsgs()? {
        match message {
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                destination = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
            }
            ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = u8::try_from(limit).ok(),
            _ => {}
        }
    }
    let envelope = match (got.address, destination, hop_limit) {
        (Some(source), Some(destination), Some(hop_limit)) => {
            Ok(Envelope { source: source.ip().into(), destination: destination.into(), hop_limit })
        }
        _ => Err(Discard::IpHeader),
    };
    Ok((envelope, got.bytes))
}

fn socket_address(address: IpAddr, index: u32) -> SockAddr {
    match address {
        IpAddr::V4(address) => SocketAddrV4::new(address, 0).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, 0, 0, scope(address, index)).into(),
    }
}

/// The scope that an address needs to be one.
fn scope(address: Ipv6Addr, index: u32) -> u32 {
    if address.is_unicast_link_local() || address.is_multicast() { index } else { 0 }
}

/// Sends whole Ethernet frames with a source address that is not the interface's. Receives nothing.
#[derive(Debug)]
struct FrameSocket {
    socket: Socket,
    index: u32,
    mac: [u8; 6],
}

impl FrameSocket {
    fn open(index: u32, mac: [u8; 6]) -> io::Result<Self> {
        // Protocol 0: no frame is ever queued for it.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.set_priority(QUEUE_PRIORITY)?;
        Ok(Self { socket, index, mac })
    }

    fn send(&self, source: IpAddr, group: IpAddr, message: &[u8]) -> io::Result<()> {
        let mut buffer = [0; frame::LONGEST];
        let len = frame::multicast(self.mac, source, group, message, &mut buffer)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let [a, b, c, d, e, f, _, _, _, _, _, _, high, low, ..] = buffer;
        let to = link_address(self.index as usize, [high, low], [a, b, c, d, e, f]);
        self.socket.send_to(&buffer[..len], &to)?;
        Ok(())
    }
}

/// Lets the calling thread run before every ordinary one, so that a busy machine does not make advertisements late.
/// Threads and processes that it starts do not inherit that.
///
/// # Errors
/// Needs `CAP_SYS_NICE` or a real-time limit.
pub fn run_before_others() -> io::Result<()> {
    // SAFETY: all-zero is a valid sched_param, which is plain integers.
    let mut parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    parameters.sched_priority = 1;
    // SAFETY: 0 is the calling thread; the pointer is to a live local that the kernel only reads.
    let result =
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
