//! Frames, built and read by `etherparse`, never by `lb_common`: the code under test does not mark its own homework.

mod arp;
mod fragments;
mod icmp;
mod segment;
mod vrrp;

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, checksum::Sum16BitWords,
};

pub use self::{
    arp::Arp,
    fragments::{FRAGMENT_ID, fragments, fragments_behind},
    icmp::{IcmpMessage, echo_request, error_about, neighbour_advertisement, neighbour_solicitation, quote},
    segment::{Extension, Packet, Segment},
    vrrp::{Advert, GROUP, GROUP6},
};

/// An Ethernet address.
pub type Mac = [u8; 6];
/// A VLAN tag as on the wire: EtherType, then tag control information.
pub type Tag = [u8; 4];

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;
/// The shortest frame on Ethernet, without its check sequence.
pub const ETHERNET_MIN: usize = 60;

/// TCP flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// TCP flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// TCP flag: reset the connection.
pub const RST: u8 = 0x04;
/// TCP flag: push.
pub const PSH: u8 = 0x08;
/// TCP flag: the acknowledgement number is meaningful.
pub const ACK: u8 = 0x10;
/// TCP flag: the urgent pointer is meaningful.
pub const URG: u8 = 0x20;
/// TCP flag: ECN echo.
pub const ECE: u8 = 0x40;
/// TCP flag: congestion window reduced.
pub const CWR: u8 = 0x80;

/// The tag of a customer VLAN, without priority.
pub const fn vlan(id: u16) -> Tag {
    let [high, low] = id.to_be_bytes();
    [0x81, 0x00, high, low]
}

/// The outer tag of two.
pub const fn service_vlan(id: u16) -> Tag {
    let [high, low] = id.to_be_bytes();
    [0x88, 0xa8, high, low]
}

/// The VLAN ids of tags, without their priorities.
pub fn vlan_ids(tags: &[Tag]) -> Vec<u16> {
    tags.iter().map(|tag| u16::from_be_bytes([tag[2] & 0x0f, tag[3]])).collect()
}

/// What a frame has in front of its network header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Ethernet destination.
    pub destination: Mac,
    /// Ethernet source.
    pub source: Mac,
    /// From the outside in.
    pub tags: Vec<Tag>,
}

impl Link {
    /// Reads it; returns the EtherType behind the tags and the rest, too. `None` where the frame ends before.
    pub fn read(frame: &[u8]) -> Option<(Self, EtherType, &[u8])> {
        let (ethernet, _) = Ethernet2Header::from_slice(frame).ok()?;
        let mut tags = vec![];
        let mut offset = 12;
        while let [0x81, 0x00] | [0x88, 0xa8] = frame.get(offset..offset + 2)? {
            tags.push(frame.get(offset..offset + 4)?.try_into().ok()?);
            offset += 4;
        }
        let ether_type = u16::from_be_bytes(frame.get(offset..offset + 2)?.try_into().ok()?);
        let link = Self { destination: ethernet.destination, source: ethernet.source, tags };
        Some((link, EtherType(ether_type), &frame[offset + 2..]))
    }

    /// The bytes on the wire, up to the network header.
    pub fn bytes(&self, ether_type: EtherType) -> Vec<u8> {
        let mut bytes = [self.destination, self.source].concat();
        bytes.extend(self.tags.iter().flatten());
        bytes.extend(ether_type.0.to_be_bytes());
        bytes
    }
}

/// An IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ip {
    /// With its options.
    V4(Ipv4Header),
    /// Without extension headers.
    V6(Ipv6Header),
}

impl Ip {
    /// A header without options for that many bytes behind it.
    ///
    /// # Panics
    ///
    /// Where the families differ, or the length is none; a fault of the test.
    pub fn new(src: IpAddr, dst: IpAddr, hops: u8, protocol: IpNumber, length: usize) -> Self {
        let length = u16::try_from(length).expect("a packet's length");
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4Header::new(length, hops, protocol, src.octets(), dst.octets())
                    .expect("an IPv4 header");
                ip.header_checksum = ip.calc_header_checksum();
                Self::V4(ip)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => Self::V6(Ipv6Header {
                payload_length: length,
                next_header: protocol,
                hop_limit: hops,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            }),
            _ => panic!("{src} and {dst} are of two families"),
        }
    }

    /// Reads one; returns what it says is behind it, and what else there is.
    pub fn read(ether_type: EtherType, bytes: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let (ip, header_len, total_len) = match ether_type {
            EtherType::IPV4 => {
                let (ip, _) = Ipv4Header::from_slice(bytes).ok()?;
                let (header_len, total_len) = (ip.header_len(), usize::from(ip.total_len));
                (Self::V4(ip), header_len, total_len)
            }
            EtherType::IPV6 => {
                let (ip, _) = Ipv6Header::from_slice(bytes).ok()?;
                let total_len = Ipv6Header::LEN + usize::from(ip.payload_length);
                (Self::V6(ip), Ipv6Header::LEN, total_len)
            }
            _ => return None,
        };
        let packet = bytes.get(..total_len)?;
        Some((ip, packet.get(header_len..)?, &bytes[total_len..]))
    }

    /// The EtherType.
    pub const fn ether_type(&self) -> EtherType {
        match self {
            Self::V4(_) => EtherType::IPV4,
            Self::V6(_) => EtherType::IPV6,
        }
    }

    /// The bytes on the wire, the checksum as it stands.
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::V4(ip) => ip.to_bytes().to_vec(),
            Self::V6(ip) => ip.to_bytes().to_vec(),
        }
    }

    /// Source address.
    pub fn src(&self) -> IpAddr {
        match self {
            Self::V4(ip) => IpAddr::from(ip.source),
            Self::V6(ip) => IpAddr::from(ip.source),
        }
    }

    /// Destination address.
    pub fn dst(&self) -> IpAddr {
        match self {
            Self::V4(ip) => IpAddr::from(ip.destination),
            Self::V6(ip) => IpAddr::from(ip.destination),
        }
    }

    /// Hops left.
    pub const fn hops(&self) -> u8 {
        match self {
            Self::V4(ip) => ip.time_to_live,
            Self::V6(ip) => ip.hop_limit,
        }
    }

    /// What follows; of IPv6 the first extension header where there is one.
    pub const fn protocol(&self) -> IpNumber {
        match self {
            Self::V4(ip) => ip.protocol,
            Self::V6(ip) => ip.next_header,
        }
    }

    /// Whether the checksum is what `etherparse` calculates; IPv6 has none.
    pub fn checksum_is_right(&self) -> bool {
        match self {
            Self::V4(ip) => ip.header_checksum == ip.calc_header_checksum(),
            Self::V6(_) => true,
        }
    }

    /// Other addresses, so many hops less, and the checksum calculated from nothing.
    ///
    /// # Panics
    ///
    /// Where the families differ.
    pub fn readdress(&mut self, src: IpAddr, dst: IpAddr, hops: u8) {
        match (self, src, dst) {
            (Self::V4(ip), IpAddr::V4(src), IpAddr::V4(dst)) => {
                (ip.source, ip.destination) = (src.octets(), dst.octets());
                ip.time_to_live -= hops;
                ip.header_checksum = ip.calc_header_checksum();
            }
            (Self::V6(ip), IpAddr::V6(src), IpAddr::V6(dst)) => {
                (ip.source, ip.destination) = (src.octets(), dst.octets());
                ip.hop_limit -= hops;
            }
            _ => panic!("{src} and {dst} are not of this packet's family"),
        }
    }

    /// Another length of what follows, and the checksum calculated from nothing.
    ///
    /// # Panics
    ///
    /// Where it is too long.
    pub fn set_payload_len(&mut self, length: usize) {
        match self {
            Self::V4(ip) => {
                ip.set_payload_len(length).expect("a length");
                ip.header_checksum = ip.calc_header_checksum();
            }
            Self::V6(ip) => ip.set_payload_length(length).expect("a length"),
        }
    }
}

/// An IP packet in a frame, whatever is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What is in front of it.
    pub link: Link,
    /// Its header.
    pub ip: Ip,
    /// What follows the header; of IPv6 extension headers included.
    pub payload: Vec<u8>,
    /// What follows the packet within the frame.
    pub padding: Vec<u8>,
}

impl Datagram {
    /// Reads a frame; `None` where it holds no whole IP packet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (link, ether_type, rest) = Link::read(frame)?;
        let (ip, payload, padding) = Ip::read(ether_type, rest)?;
        Some(Self { link, ip, payload: payload.to_vec(), padding: padding.to_vec() })
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.link.bytes(self.ip.ether_type());
        bytes.extend(self.packet());
        bytes.extend(&self.padding);
        bytes
    }

    /// The IP packet alone.
    pub fn packet(&self) -> Vec<u8> {
        [self.ip.bytes(), self.payload.clone()].concat()
    }
}

/// What a frame has to become when it is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// What is in front of the network header.
    pub link: Link,
    /// The new addresses and ports; `None`: as they were.
    pub ends: Option<(SocketAddr, SocketAddr)>,
    /// The ends of the tunnel that it goes through.
    pub tunnel: Option<(IpAddr, IpAddr)>,
}

/// The frame after a rewrite and one hop, with checksums calculated from nothing.
///
/// # Panics
///
/// Where `frame` holds no TCP segment with right checksums, or `etherparse` cannot express it in full.
pub fn rewritten(frame: &[u8], rewrite: &Rewrite) -> Vec<u8> {
    let mut packet = Packet::read(frame).expect("a TCP segment");
    assert_eq!(packet.bytes(), frame, "etherparse keeps every bit of this frame");
    assert!(packet.ip_checksum_is_right() && packet.tcp_checksum_is_right(), "a frame that a sender makes");
    packet.link = rewrite.link.clone();
    let (src, dst) = rewrite.ends.unwrap_or((packet.src(), packet.dst()));
    packet.set_ends(src, dst, 1);
    through(&packet.bytes(), rewrite.tunnel)
}

/// The same for any IP packet, of which only addresses and hops change.
///
/// # Panics
///
/// Where `frame` holds none.
pub fn passed_on(frame: &[u8], rewrite: &Rewrite) -> Vec<u8> {
    let mut datagram = Datagram::read(frame).expect("an IP packet");
    datagram.link = rewrite.link.clone();
    let (src, dst) =
        rewrite.ends.map_or((datagram.ip.src(), datagram.ip.dst()), |(src, dst)| (src.ip(), dst.ip()));
    datagram.ip.readdress(src, dst, 1);
    through(&datagram.bytes(), rewrite.tunnel)
}

/// The frame with an outer IP header in front of its packet (RFC 2003, RFC 2473).
///
/// # Panics
///
/// Where it holds no IP packet.
pub fn through(frame: &[u8], tunnel: Option<(IpAddr, IpAddr)>) -> Vec<u8> {
    let Some((src, dst)) = tunnel else { return frame.to_vec() };
    let inner = Datagram::read(frame).expect("an IP packet");
    let (protocol, traffic_class) = match &inner.ip {
        Ip::V4(ip) => (IpNumber::IPV4, ip.dscp.value() << 2 | ip.ecn.value()),
        Ip::V6(ip) => (IpNumber::IPV6, ip.traffic_class),
    };
    let mut outer = Ip::new(src, dst, 64, protocol, inner.packet().len());
    match &mut outer {
        Ip::V4(ip) => {
            ip.dont_fragment = true;
            ip.dscp = (traffic_class >> 2).try_into().expect("six bits");
            ip.ecn = (traffic_class & 3).try_into().expect("two bits");
            ip.header_checksum = ip.calc_header_checksum();
        }
        Ip::V6(ip) => ip.traffic_class = traffic_class,
    }
    Datagram { link: inner.link.clone(), ip: outer, payload: inner.packet(), padding: inner.padding }.bytes()
}

/// The frame without its outer IP header.
///
/// # Panics
///
/// Where there is no IP packet in the IP packet.
pub fn decapsulated(frame: &[u8]) -> Vec<u8> {
    let outer = Datagram::read(frame).expect("an IP packet");
    let ether_type = match outer.ip.protocol() {
        IpNumber::IPV4 => EtherType::IPV4,
        IpNumber::IPV6 => EtherType::IPV6,
        other => panic!("{other:?} in a tunnel"),
    };
    [outer.link.bytes(ether_type), outer.payload, outer.padding].concat()
}

/// Writes a right checksum into an IPv4 header that was tampered with, over as many bytes as its length field says (the
/// frame's end permitting). Of frames without tags.
pub fn fix_ip_checksum(frame: &mut [u8]) {
    let end = (ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4).min(frame.len());
    frame[24..26].fill(0);
    let sum = checksum(&frame[ETHERNET..end]);
    frame[24..26].copy_from_slice(&sum);
}

/// The Internet checksum of bytes, as on the wire.
pub fn checksum(bytes: &[u8]) -> [u8; 2] {
    // `ones_complement` gives the sum in the order that the words were read in.
    Sum16BitWords::new().add_slice(bytes).ones_complement().to_ne_bytes()
}

/// Whether the words of the IPv4 header sum to all ones. Of the bytes, since `etherparse` has no place for the header's
/// reserved bit.
pub fn ip_checksum_is_right(header: &[u8]) -> bool {
    let end = header.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    header.get(..end).is_some_and(|header| checksum(header) == [0, 0])
}

/// A UDP datagram.
///
/// # Panics
///
/// Where the payload is too long for one, or the families differ.
pub fn udp(src_mac: Mac, dst_mac: Mac, src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac, dst_mac);
    let builder = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("{src} and {dst} are of two families"),
    };
    let mut bytes = Vec::new();
    builder.udp(src.port(), dst.port()).write(&mut bytes, payload).expect("a datagram can be written");
    bytes
}

/// The same frame with tags in front of its EtherType.
pub fn tagged(frame: &[u8], tags: &[Tag]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}
