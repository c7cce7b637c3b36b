//! The raw socket that advertisements travel through.
//!
//! One socket a virtual router, bound to its interface. With unicast peers it is bound to our own address, without to
//! the group: in both cases the kernel hands over only what is meant for us, and no second socket is needed to send.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd},
};

use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::advert::{Advertisement, Discard, Envelope, GROUP, PROTOCOL, TTL};

/// Internetwork control (RFC 791), as keepalived marks its advertisements.
const TOS: u32 = 0xc0;

/// An IPv4 header with options, and the longest message: 255 addresses and authentication data.
const LONGEST_PACKET: usize = 60 + 8 + 255 * 4 + 8;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// No interface of that name.
    #[error("no interface {0}")]
    NoInterface(String),
    /// The interface has no IPv4 address of its own to send from.
    #[error("interface {0} has no IPv4 address besides the virtual ones; set unicast_source or give it one")]
    NoAddress(String),
    /// The source is not an address of this machine.
    #[error("{address} is not an address of interface {interface}")]
    NotOurs {
        /// The configured source.
        address: Ipv4Addr,
        /// The interface.
        interface: String,
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

/// The interface's first IPv4 address that is not one of the virtual ones (a killed predecessor may have left those).
pub fn primary_address(interface: &str, vips: &[Ipv4Addr]) -> Option<Ipv4Addr> {
    let addresses = getifaddrs().ok()?.filter(|entry| entry.interface_name == interface);
    let mut addresses = addresses.filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()));
    addresses.find(|address| !vips.contains(address))
}

/// Sends and receives the advertisements of one virtual router.
#[derive(Debug)]
pub struct VrrpSocket {
    socket: Socket,
    index: u32,
    source: Ipv4Addr,
    peers: Vec<Ipv4Addr>,
}

impl VrrpSocket {
    /// Opens the socket on `interface`. Advertisements leave from `source`, to the `peers` or, if there are none, to
    /// the group.
    ///
    /// # Errors
    /// Needs `CAP_NET_RAW`; fails if the interface or the source address does not exist.
    pub fn open(interface: &str, source: Ipv4Addr, peers: &[Ipv4Addr]) -> Result<Self, SocketError> {
        let name = || interface.to_owned();
        let step = |step| move |source| SocketError::System { step, interface: interface.to_owned(), source };
        let index = interface_index(interface).ok_or_else(|| SocketError::NoInterface(name()))?;
        let protocol = Protocol::from(i32::from(PROTOCOL));
        let socket =
            Socket::new(Domain::IPV4, Type::RAW, Some(protocol)).map_err(step("opening a raw socket"))?;
        socket.set_nonblocking(true).map_err(step("making the socket non-blocking"))?;
        socket.bind_device(Some(interface.as_bytes())).map_err(step("binding the socket"))?;
        socket.set_tos_v4(TOS).map_err(step("setting TOS"))?;
        // The highest priority that needs no privilege, for the queues of this machine.
        socket.set_priority(6).map_err(step("setting the queueing priority"))?;
        let local = if peers.is_empty() {
            let index_ref = InterfaceIndexOrAddress::Index(index);
            socket.join_multicast_v4_n(&GROUP, &index_ref).map_err(step("joining 224.0.0.18"))?;
            socket
                .set_multicast_if_v4(&source)
                .map_err(|_| SocketError::NotOurs { address: source, interface: name() })?;
            socket.set_multicast_loop_v4(false).map_err(step("switching multicast loopback off"))?;
            socket.set_multicast_all_v4(false).map_err(step("restricting multicast to our group"))?;
            socket.set_multicast_ttl_v4(TTL.into()).map_err(step("setting the multicast TTL"))?;
            GROUP
        } else {
            socket.set_ttl_v4(TTL.into()).map_err(step("setting TTL"))?;
            source
        };
        socket.bind(&SocketAddrV4::new(local, 0).into()).map_err(|error| match error.kind() {
            io::ErrorKind::AddrNotAvailable => SocketError::NotOurs { address: local, interface: name() },
            _ => step("binding the address")(error),
        })?;
        Ok(Self { socket, index, source, peers: peers.to_vec() })
    }

    /// The index that the interface had when the socket was opened; a socket does not move to a new one of that name.
    pub const fn interface_index(&self) -> u32 {
        self.index
    }

    /// Source address of what we send.
    pub const fn source(&self) -> Ipv4Addr {
        self.source
    }

    /// Sends to every peer or to the group. One that fails does not keep the others from theirs.
    ///
    /// # Errors
    /// The last failure. Never blocks: a full queue is a failure, too.
    pub fn send(&self, advertisement: &Advertisement) -> io::Result<()> {
        let mut buffer = [0; LONGEST_PACKET];
        let mut result = Ok(());
        let group = [GROUP];
        for destination in if self.peers.is_empty() { &group[..] } else { &self.peers[..] } {
            let sent = advertisement
                .emit(self.source, *destination, &mut buffer)
                .map_err(io::Error::other)
                .and_then(|len| {
                    self.socket.send_to(&buffer[..len], &SocketAddrV4::new(*destination, 0).into())
                });
            if let Err(error) = sent {
                result = Err(error);
            }
        }
        result
    }

    /// Takes one packet from the queue: a parsed advertisement and its sender, or why it is none. `None` if the queue
    /// is empty.
    ///
    /// # Errors
    /// What the kernel says about the socket.
    pub fn receive(&self) -> io::Result<Option<Result<(Ipv4Addr, Advertisement), Discard>>> {
        let mut buffer = [0; LONGEST_PACKET];
        match (&self.socket).read(&mut buffer) {
            Ok(len) => Ok(Some(self.read_packet(&buffer[..len]))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_packet(&self, packet: &[u8]) -> Result<(Ipv4Addr, Advertisement), Discard> {
        let (envelope, message) = Envelope::open(packet)?;
        if envelope.source == self.source {
            return Err(Discard::Own);
        }
        if !self.peers.is_empty() && !self.peers.contains(&envelope.source) {
            return Err(Discard::NotAPeer(envelope.source));
        }
        Ok((envelope.source, Advertisement::parse(&envelope, message)?))
    }
}

impl AsFd for VrrpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
