//! What differs between IPv4 and IPv6, so that everything else is written once.

use crate::{
    checksum::{Delta, Sum, TTL_DECREMENT},
    frame::Header,
    wire::{
        Be16, Be32, Be128, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_MIN_LEN, IPV6_LEN, Ipv4, Ipv6, PROTOCOL_ICMP,
        PROTOCOL_ICMPV6,
    },
};

/// An address of one of the two families, and with it the family.
pub trait Address: Copy + Eq + Ord + core::hash::Hash + core::fmt::Debug + 'static {
    /// The IP header, options and extensions left out.
    type Header: Header;
    /// No address; what sums to nothing.
    const ZERO: Self;
    /// Whether this is IPv6.
    const IS_V6: bool;
    /// The EtherType.
    const ETHERTYPE: Be16;
    /// Length of [`Self::Header`].
    const HEADER_LEN: usize;
    /// The protocol number of the family's ICMP.
    const ICMP: u8;

    /// In the form that holds either family.
    fn wide(self) -> Be128;
    /// From the form that holds either family. Nonsense for an address of the other one.
    fn narrow(wide: Be128) -> Self;
    /// Adds the address to a one's complement sum.
    fn add_to(self, sum: Sum) -> Sum;
    /// Takes it away from one.
    fn take_from(self, sum: Sum) -> Sum;

    /// Source address of a header.
    fn source(header: &Self::Header) -> Self;
    /// Destination address of a header.
    fn destination(header: &Self::Header) -> Self;
    /// Hops left.
    fn hops(header: &Self::Header) -> u8;
    /// Length of the packet in bytes, this header included.
    fn packet_len(header: &Self::Header) -> usize;
    /// Takes one hop. `delta` is what that, and whatever else changes, adds to the header's checksum.
    fn take_hop(header: &mut Self::Header, delta: Delta);
    /// Writes the addresses.
    fn set_addresses(header: &mut Self::Header, source: Self, destination: Self);
    /// Writes the addresses and takes one hop. `delta` is what both add to the header's checksum.
    #[inline(always)]
    fn rewrite(header: &mut Self::Header, source: Self, destination: Self, delta: Delta) {
        Self::set_addresses(header, source, destination);
        Self::take_hop(header, delta);
    }
    /// A header without options, complete with its checksum.
    fn header(
        source: Self,
        destination: Self,
        protocol: u8,
        payload_len: u16,
        hops: u8,
        traffic_class: u8,
    ) -> Self::Header;
    /// The IPv4 DSCP and ECN, or the IPv6 traffic class.
    fn traffic_class(header: &Self::Header) -> u8;
}

impl Address for Be32 {
    type Header = Ipv4;
    const ZERO: Self = Self::new(0);
    const IS_V6: bool = false;
    const ETHERTYPE: Be16 = ETHERTYPE_IPV4;
    const HEADER_LEN: usize = IPV4_MIN_LEN;
    const ICMP: u8 = PROTOCOL_ICMP;

    #[inline(always)]
    fn wide(self) -> Be128 {
        Be128::mapped(self)
    }

    #[inline(always)]
    fn narrow(wide: Be128) -> Self {
        wide.low()
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.be32(self)
    }

    #[inline(always)]
    fn take_from(self, sum: Sum) -> Sum {
        sum.minus_be32(self)
    }

    #[inline(always)]
    fn source(header: &Ipv4) -> Self {
        header.src
    }

    #[inline(always)]
    fn destination(header: &Ipv4) -> Self {
        header.dst
    }

    #[inline(always)]
    fn hops(header: &Ipv4) -> u8 {
        header.ttl
    }

    #[inline(always)]
    fn packet_len(header: &Ipv4) -> usize {
        header.total_length.get() as usize
    }

    #[inline(always)]
    fn take_hop(header: &mut Ipv4, delta: Delta) {
        header.ttl -= 1;
        header.checksum = delta.apply(header.checksum);
    }

    #[inline(always)]
    fn set_addresses(header: &mut Ipv4, source: Self, destination: Self) {
        header.src = source;
        header.dst = destination;
    }

    #[inline(always)]
    fn header(
        source: Self,
        destination: Self,
        protocol: u8,
        payload_len: u16,
        hops: u8,
        traffic_class: u8,
    ) -> Ipv4 {
        let mut header = Ipv4 {
            version_ihl: 0x45,
            tos: traffic_class,
            total_length: Be16::new(payload_len.wrapping_add(IPV4_MIN_LEN as u16)),
            id: Be16::new(0),
            fragment: Be16::new(crate::wire::IPV4_DONT_FRAGMENT),
            ttl: hops,
            protocol,
            checksum: Be16::new(0),
            src: source,
            dst: destination,
        };
        header.checksum = crate::checksum::ipv4_header(&header).checksum();
        header
    }

    #[inline(always)]
    fn traffic_class(header: &Ipv4) -> u8 {
        header.tos
    }
}

impl Address for Be128 {
    type Header = Ipv6;
    const ZERO: Self = Self::from_octets([0; 16]);
    const IS_V6: bool = true;
    const ETHERTYPE: Be16 = ETHERTYPE_IPV6;
    const HEADER_LEN: usize = IPV6_LEN;
    const ICMP: u8 = PROTOCOL_ICMPV6;

    #[inline(always)]
    fn wide(self) -> Be128 {
        self
    }

    #[inline(always)]
    fn narrow(wide: Be128) -> Self {
        wide
    }

    #[inline(always)]
    fn add_to(self, sum: Sum) -> Sum {
        sum.be128(self)
    }

    #[inline(always)]
    fn take_from(self, sum: Sum) -> Sum {
        sum.minus_be128(self)
    }

    #[inline(always)]
    fn source(header: &Ipv6) -> Self {
        header.src
    }

    #[inline(always)]
    fn destination(header: &Ipv6) -> Self {
        header.dst
    }

    #[inline(always)]
    fn hops(header: &Ipv6) -> u8 {
        header.hop_limit
    }

    #[inline(always)]
    fn packet_len(header: &Ipv6) -> usize {
        header.payload_length.get() as usize + IPV6_LEN
    }

    #[inline(always)]
    fn take_hop(header: &mut Ipv6, _delta: Delta) {
        header.hop_limit -= 1;
    }

    #[inline(always)]
    fn set_addresses(header: &mut Ipv6, source: Self, destination: Self) {
        header.src = source;
        header.dst = destination;
    }

    #[inline(always)]
    fn header(
        source: Self,
        destination: Self,
        protocol: u8,
        payload_len: u16,
        hops: u8,
        traffic_class: u8,
    ) -> Ipv6 {
        Ipv6 {
            version_class_flow: Be32::new(0x6000_0000 | u32::from(traffic_class) << 20),
            payload_length: Be16::new(payload_len),
            next_header: protocol,
            hop_limit: hops,
            src: source,
            dst: destination,
        }
    }

    #[inline(always)]
    fn traffic_class(header: &Ipv6) -> u8 {
        (header.version_class_flow.get() >> 20) as u8
    }
}

/// What a rewrite from one pair of addresses to another adds to a sum over either.
#[inline(always)]
pub fn address_sum<A: Address>(from: (A, A), to: (A, A)) -> Sum {
    to.1.add_to(to.0.add_to(from.1.take_from(from.0.take_from(Sum::ZERO))))
}

/// What the rewrite adds to the checksum of the IP header, one hop less included; nothing for IPv6, which has none.
#[inline(always)]
pub fn header_delta<A: Address>(addresses: Sum) -> Delta {
    if A::IS_V6 { Delta::new(Sum::ZERO) } else { Delta::new(addresses.plus(TTL_DECREMENT)) }
}
