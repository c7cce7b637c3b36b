//! Protocol headers as they are on the wire: byte arrays with names, valid at any address.
//!
//! Multi-byte fields are [`Be16`] and [`Be32`]; what is inside is network byte order, and only `get` and `new` cross
//! the border. All headers have alignment 1 and no padding, so that one may be laid over any part of a frame.

/// A 16-bit number in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16([u8; 2]);

impl Be16 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// The two bytes as one word in the machine's own order, for one's complement sums, which work in either order
    /// (RFC 1071 §2 (B)).
    #[inline(always)]
    pub const fn word(self) -> u16 {
        u16::from_ne_bytes(self.0)
    }

    /// The inverse of [`Be16::word`].
    #[inline(always)]
    pub const fn from_word(word: u16) -> Self {
        Self(word.to_ne_bytes())
    }
}

/// A 32-bit number, or an IPv4 address, in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be32([u8; 4]);

impl Be32 {
    /// From host byte order.
    #[inline(always)]
    pub const fn new(value: u32) -> Self {
        Self(value.to_be_bytes())
    }

    /// From the bytes as they are on the wire.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 4]) -> Self {
        Self(octets)
    }

    /// The bytes as they are on the wire.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0
    }

    /// In host byte order.
    #[inline(always)]
    pub const fn get(self) -> u32 {
        u32::from_be_bytes(self.0)
    }

    /// The four bytes as one word in the machine's own order; see [`Be16::word`].
    #[inline(always)]
    pub const fn word(self) -> u32 {
        u32::from_ne_bytes(self.0)
    }
}

impl From<core::net::Ipv4Addr> for Be32 {
    fn from(address: core::net::Ipv4Addr) -> Self {
        Self(address.octets())
    }
}

impl From<Be32> for core::net::Ipv4Addr {
    fn from(address: Be32) -> Self {
        Self::from(address.0)
    }
}

/// An Ethernet address.
pub type Mac = [u8; 6];

/// Ethernet II header (IEEE 802.3 §3.1.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination address.
    pub dst: Mac,
    /// Source address.
    pub src: Mac,
    /// What follows; one of the `ETHERTYPE_` constants for what we know.
    pub ethertype: Be16,
}

/// IPv4 (RFC 894).
pub const ETHERTYPE_IPV4: Be16 = Be16::new(0x0800);
/// ARP (RFC 826).
pub const ETHERTYPE_ARP: Be16 = Be16::new(0x0806);
/// Where what follows an untagged Ethernet header begins.
pub const ETHERNET_LEN: usize = size_of::<Ethernet>();

/// IPv4 header without options (RFC 791 §3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4 {
    /// Version in the high four bits, header length in 32-bit words in the low four.
    pub version_ihl: u8,
    /// DSCP and ECN (RFC 2474, RFC 3168).
    pub tos: u8,
    /// Length of header and payload in bytes.
    pub total_length: Be16,
    /// Identification of a fragmented datagram.
    pub id: Be16,
    /// Flags in the high three bits, fragment offset in units of 8 bytes below.
    pub fragment: Be16,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// One's complement sum over the header (RFC 1071).
    pub checksum: Be16,
    /// Source address.
    pub src: Be32,
    /// Destination address.
    pub dst: Be32,
}

/// Length of an IPv4 header without options.
pub const IPV4_MIN_LEN: usize = size_of::<Ipv4>();
/// `Ipv4::fragment`: Don't Fragment.
pub const IPV4_DONT_FRAGMENT: u16 = 0x4000;
/// `Ipv4::fragment`: More Fragments, and the offset; a datagram that is whole has none of these bits.
pub const IPV4_FRAGMENT_MASK: u16 = 0x3fff;
/// TCP (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;

/// TCP header without options (RFC 9293 §3.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub src_port: Be16,
    /// Destination port.
    pub dst_port: Be16,
    /// Sequence number of the first byte.
    pub seq: Be32,
    /// Acknowledgement number; meaningful with `TCP_ACK`.
    pub ack: Be32,
    /// Header length in 32-bit words in the high four bits.
    pub data_offset: u8,
    /// `TCP_` bits.
    pub flags: u8,
    /// Receive window, unscaled.
    pub window: Be16,
    /// One's complement sum over pseudo-header, header and payload.
    pub checksum: Be16,
    /// Urgent pointer.
    pub urgent: Be16,
}

/// Length of a TCP header without options.
pub const TCP_MIN_LEN: usize = size_of::<Tcp>();
/// No more data from the sender.
pub const TCP_FIN: u8 = 0x01;
/// Synchronise sequence numbers.
pub const TCP_SYN: u8 = 0x02;
/// Reset the connection.
pub const TCP_RST: u8 = 0x04;
/// The acknowledgement number is meaningful.
pub const TCP_ACK: u8 = 0x10;

/// ARP for IPv4 over Ethernet (RFC 826).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arp {
    /// 1: Ethernet.
    pub hardware: Be16,
    /// 0x0800: IPv4.
    pub protocol: Be16,
    /// 6.
    pub hardware_len: u8,
    /// 4.
    pub protocol_len: u8,
    /// 1: request, 2: reply.
    pub operation: Be16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's IPv4 address.
    pub sender: Be32,
    /// Target's Ethernet address.
    pub target_mac: Mac,
    /// Target's IPv4 address.
    pub target: Be32,
}

const _: () = {
    assert!(size_of::<Ethernet>() == 14 && align_of::<Ethernet>() == 1);
    assert!(size_of::<Ipv4>() == 20 && align_of::<Ipv4>() == 1);
    assert!(size_of::<Tcp>() == 20 && align_of::<Tcp>() == 1);
    assert!(size_of::<Arp>() == 28 && align_of::<Arp>() == 1);
};
