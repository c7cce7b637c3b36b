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

/// A 128-bit number in network byte order: an IPv6 address, or an IPv4 one in its mapped form (RFC 4291 §2.5.5.2) where
/// one field holds either family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be128 {
    // Halves, so that it is copied and compared by machine words rather than bytes.
    high: [u8; 8],
    low: [u8; 8],
}

impl Be128 {
    /// From the bytes as they are on the wire.
    #[inline(always)]
    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self { high: [a, b, c, d, e, f, g, h], low: [i, j, k, l, m, n, o, p] }
    }

    /// The bytes as they are on the wire.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (self.high, self.low);
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// The four 32-bit words, first to last.
    #[inline(always)]
    pub const fn words(self) -> [Be32; 4] {
        let (high, low) = (u64::from_be_bytes(self.high), u64::from_be_bytes(self.low));
        [
            Be32::new((high >> 32) as u32),
            Be32::new(high as u32),
            Be32::new((low >> 32) as u32),
            Be32::new(low as u32),
        ]
    }

    /// The two halves as words in the machine's own order; see [`Be16::word`].
    #[inline(always)]
    pub const fn halves(self) -> [u64; 2] {
        [u64::from_ne_bytes(self.high), u64::from_ne_bytes(self.low)]
    }

    /// The first 64 bits, followed by zeros: the network of an IPv6 address.
    #[inline(always)]
    pub const fn network64(self) -> Self {
        Self { high: self.high, low: [0; 8] }
    }

    /// An IPv4 address in its mapped form, `::ffff:a.b.c.d`.
    #[inline(always)]
    pub const fn mapped(address: Be32) -> Self {
        Self { high: [0; 8], low: (0xffff_0000_0000 | address.get() as u64).to_be_bytes() }
    }

    /// Whether it is an IPv4 address in its mapped form.
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        u64::from_ne_bytes(self.high) == 0 && u64::from_be_bytes(self.low) >> 32 == 0xffff
    }

    /// The IPv4 address of a mapped one.
    #[inline(always)]
    pub const fn low(self) -> Be32 {
        Be32::new(u64::from_be_bytes(self.low) as u32)
    }
}

impl From<core::net::IpAddr> for Be128 {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(address) => Self::mapped(address.into()),
            core::net::IpAddr::V6(address) => Self::from_octets(address.octets()),
        }
    }
}

impl From<core::net::Ipv6Addr> for Be128 {
    fn from(address: core::net::Ipv6Addr) -> Self {
        Self::from_octets(address.octets())
    }
}

impl From<Be128> for core::net::IpAddr {
    fn from(address: Be128) -> Self {
        if address.is_mapped() { Self::V4(address.low().into()) } else { Self::V6(address.octets().into()) }
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
/// IPv6 (RFC 2464).
pub const ETHERTYPE_IPV6: Be16 = Be16::new(0x86dd);
/// A customer VLAN tag (IEEE 802.1Q).
pub const ETHERTYPE_VLAN: Be16 = Be16::new(0x8100);
/// A service VLAN tag (IEEE 802.1ad).
pub const ETHERTYPE_SERVICE_VLAN: Be16 = Be16::new(0x88a8);
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
/// `Ipv4::fragment`: the offset, in units of 8 bytes.
pub const IPV4_OFFSET_MASK: u16 = 0x1fff;
/// TCP (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;
/// ICMP (RFC 792).
pub const PROTOCOL_ICMP: u8 = 1;
/// ICMPv6 (RFC 4443).
pub const PROTOCOL_ICMPV6: u8 = 58;
/// IPv4 in IP (RFC 2003).
pub const PROTOCOL_IPV4: u8 = 4;
/// IPv6 in IP (RFC 2473).
pub const PROTOCOL_IPV6: u8 = 41;
/// VRRP (RFC 9568 §5.1.1.4).
pub const PROTOCOL_VRRP: u8 = 112;
/// Hop-by-hop options (RFC 8200 §4.3).
pub const PROTOCOL_HOP_BY_HOP: u8 = 0;
/// Routing header (RFC 8200 §4.4).
pub const PROTOCOL_ROUTING: u8 = 43;
/// Fragment header (RFC 8200 §4.5).
pub const PROTOCOL_FRAGMENT: u8 = 44;
/// Destination options (RFC 8200 §4.6).
pub const PROTOCOL_DESTINATION: u8 = 60;

/// IPv6 header (RFC 8200 §3).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6 {
    /// Version in the high four bits, then traffic class and flow label.
    pub version_class_flow: Be32,
    /// Length of everything after this header, in bytes.
    pub payload_length: Be16,
    /// What follows.
    pub next_header: u8,
    /// Hops left.
    pub hop_limit: u8,
    /// Source address.
    pub src: Be128,
    /// Destination address.
    pub dst: Be128,
}

/// Length of an IPv6 header.
pub const IPV6_LEN: usize = size_of::<Ipv6>();

/// What all IPv6 extension headers but the fragment header begin with (RFC 8200 §4.2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Extension {
    /// What follows.
    pub next_header: u8,
    /// Length in units of 8 bytes, the first 8 not counted.
    pub length: u8,
}

/// Fragment header (RFC 8200 §4.5).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Fragment {
    /// What follows.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in units of 8 bytes in the high 13 bits; the lowest says that more follow.
    pub fragment: Be16,
    /// Identification of the fragmented packet.
    pub id: Be32,
}

/// Length of a fragment header.
pub const IPV6_FRAGMENT_LEN: usize = size_of::<Ipv6Fragment>();
/// `Ipv6Fragment::fragment`: More Fragments.
pub const IPV6_MORE_FRAGMENTS: u16 = 1;

/// What ICMP and ICMPv6 messages begin with (RFC 792, RFC 4443 §2.1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Icmp {
    /// What it says.
    pub kind: u8,
    /// In more detail.
    pub code: u8,
    /// One's complement sum over the message, for ICMPv6 with a pseudo-header.
    pub checksum: Be16,
    /// What depends on the kind; the MTU for "too big", in the low 16 bits for IPv4.
    pub rest: Be32,
}

/// Length of an ICMP header.
pub const ICMP_LEN: usize = size_of::<Icmp>();
/// `Icmp::kind`: destination unreachable (RFC 792).
pub const ICMP_UNREACHABLE: u8 = 3;
/// `Icmp::code` of it: fragmentation needed and DF set (RFC 1191 §4).
pub const ICMP_FRAGMENTATION_NEEDED: u8 = 4;
/// `Icmp::kind`: time exceeded.
pub const ICMP_TIME_EXCEEDED: u8 = 11;
/// `Icmp::kind`: parameter problem.
pub const ICMP_PARAMETER_PROBLEM: u8 = 12;
/// `Icmp::kind` of ICMPv6: destination unreachable (RFC 4443 §3.1), the first of the errors.
pub const ICMPV6_UNREACHABLE: u8 = 1;
/// `Icmp::kind` of ICMPv6: packet too big (RFC 4443 §3.2).
pub const ICMPV6_TOO_BIG: u8 = 2;
/// `Icmp::kind` of ICMPv6: time exceeded (RFC 4443 §3.3).
pub const ICMPV6_TIME_EXCEEDED: u8 = 3;
/// `Icmp::kind` of ICMPv6: parameter problem (RFC 4443 §3.4), the last of the errors.
pub const ICMPV6_PARAMETER_PROBLEM: u8 = 4;
/// `Icmp::kind` of ICMPv6: neighbour solicitation (RFC 4861 §4.3); its target follows the ICMP header.
pub const ICMPV6_NEIGHBOUR_SOLICITATION: u8 = 135;
/// `Icmp::kind` of ICMPv6: neighbour advertisement (RFC 4861 §4.4); its target follows the ICMP header.
pub const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// `Icmp::rest` of an advertisement: it answers a solicitation.
pub const NEIGHBOUR_SOLICITED: u32 = 0x4000_0000;
/// `Icmp::rest` of an advertisement: it replaces what is in a cache.
pub const NEIGHBOUR_OVERRIDE: u32 = 0x2000_0000;
/// A neighbour discovery message without its options: ICMP header and target.
pub const NEIGHBOUR_LEN: usize = ICMP_LEN + size_of::<Be128>();
/// Options of neighbour discovery come in units of that many bytes (RFC 4861 §4.6).
pub const NEIGHBOUR_OPTION_UNIT: usize = 8;
/// First byte of an option: the sender's Ethernet address (RFC 4861 §4.6.1).
pub const OPTION_SOURCE_ADDRESS: u8 = 1;
/// First byte of an option: the target's Ethernet address.
pub const OPTION_TARGET_ADDRESS: u8 = 2;

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

/// `Arp::operation`: who has the target address?
pub const ARP_REQUEST: Be16 = Be16::new(1);
/// `Arp::operation`: the sender has its address.
pub const ARP_REPLY: Be16 = Be16::new(2);

/// What VRRP advertisements of both versions begin with (RFC 9568 §5.2, RFC 3768 §5.3). The addresses follow, then with
/// version 2 eight bytes of authentication data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vrrp {
    /// Version in the high four bits, type in the low four; 1: advertisement.
    pub version_type: u8,
    /// The virtual router.
    pub vrid: u8,
    /// The sender's priority; 0: it gives up.
    pub priority: u8,
    /// How many addresses follow.
    pub count: u8,
    /// The interval, and with version 2 the kind of authentication.
    pub interval: Be16,
    /// One's complement sum over the message, with version 3 mostly with a pseudo-header.
    pub checksum: Be16,
}

/// Length of it.
pub const VRRP_LEN: usize = size_of::<Vrrp>();
/// Length of version 2's authentication data.
pub const VRRP_AUTH_LEN: usize = 8;

const _: () = {
    assert!(size_of::<Vrrp>() == 8 && align_of::<Vrrp>() == 1);
    assert!(size_of::<Ethernet>() == 14 && align_of::<Ethernet>() == 1);
    assert!(size_of::<Ipv4>() == 20 && align_of::<Ipv4>() == 1);
    assert!(size_of::<Tcp>() == 20 && align_of::<Tcp>() == 1);
    assert!(size_of::<Arp>() == 28 && align_of::<Arp>() == 1);
    assert!(size_of::<Ipv6>() == 40 && align_of::<Ipv6>() == 1);
    assert!(size_of::<Ipv6Extension>() == 2 && align_of::<Ipv6Extension>() == 1);
    assert!(size_of::<Ipv6Fragment>() == 8 && align_of::<Ipv6Fragment>() == 1);
    assert!(size_of::<Icmp>() == 8 && align_of::<Icmp>() == 1);
};
