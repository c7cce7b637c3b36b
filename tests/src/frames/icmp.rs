//! ICMP and ICMPv6 messages, errors with the packet that they are about.

use std::net::{IpAddr, Ipv6Addr};

use etherparse::{IpNumber, checksum::Sum16BitWords};

use super::{Datagram, Ip, Link, Mac};

/// An ICMP message in a frame, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpMessage {
    /// What is in front of the IP header.
    pub link: Link,
    /// Who says it.
    pub src: IpAddr,
    /// Whom it is told.
    pub dst: IpAddr,
    /// Hops left.
    pub ttl: u8,
    /// IPv4 options.
    pub ip_options: Vec<u8>,
    /// Whether routers may not fragment it.
    pub dont_fragment: bool,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum.
    pub rest: [u8; 4],
    /// What follows; of an error the packet that it is about.
    pub body: Vec<u8>,
    /// What follows the packet within the frame.
    pub padding: Vec<u8>,
}

impl IcmpMessage {
    /// The bytes on the wire, all checksums right.
    ///
    /// # Panics
    ///
    /// Where `etherparse` cannot express it; a fault of the test.
    pub fn bytes(&self) -> Vec<u8> {
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.rest);
        message.extend(&self.body);
        let protocol = if self.src.is_ipv4() { IpNumber::ICMP } else { IpNumber::IPV6_ICMP };
        let mut ip = Ip::new(self.src, self.dst, self.ttl, protocol, message.len());
        if let Ip::V4(ip) = &mut ip {
            ip.dont_fragment = self.dont_fragment;
            ip.options = self.ip_options.as_slice().try_into().expect("IPv4 options");
        }
        ip.set_payload_len(message.len());
        let sum = message_checksum(&ip, &message);
        message[2..4].copy_from_slice(&sum);
        Datagram { link: self.link.clone(), ip, payload: message, padding: self.padding.clone() }.bytes()
    }

    /// Reads a frame; `None` where it holds no ICMP message with right checksums.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let Datagram { link, ip, payload, padding } = Datagram::read(frame)?;
        let protocol = if matches!(ip, Ip::V4(_)) { IpNumber::ICMP } else { IpNumber::IPV6_ICMP };
        if ip.protocol() != protocol
            || !ip.checksum_is_right()
            || payload.len() < 8
            || message_checksum(&ip, &payload) != [0, 0]
        {
            return None;
        }
        let (ip_options, dont_fragment) = match &ip {
            Ip::V4(ip) => (ip.options.to_vec(), ip.dont_fragment),
            Ip::V6(_) => (vec![], false),
        };
        Some(Self {
            link,
            src: ip.src(),
            dst: ip.dst(),
            ttl: ip.hops(),
            ip_options,
            dont_fragment,
            kind: payload[0],
            code: payload[1],
            rest: payload[4..8].try_into().ok()?,
            body: payload[8..].to_vec(),
            padding,
        })
    }
}

/// The checksum over a message, and for IPv6 over the pseudo-header; zero where that is in it and right.
fn message_checksum(ip: &Ip, message: &[u8]) -> [u8; 2] {
    let mut sum = Sum16BitWords::new().add_slice(message);
    if let Ip::V6(ip) = ip {
        sum = sum
            .add_slice(&ip.source)
            .add_slice(&ip.destination)
            .add_slice(&(message.len() as u32).to_be_bytes())
            .add_slice(&[0, 0, 0, IpNumber::IPV6_ICMP.0]);
    }
    sum.ones_complement().to_ne_bytes()
}

/// The first bytes of a frame's IP packet, as an error quotes them.
///
/// # Panics
///
/// Where the frame holds no IP packet.
pub fn quote(frame: &[u8], length: usize) -> Vec<u8> {
    let (.., rest) = Link::read(frame).expect("a frame");
    let padding = Datagram::read(frame).expect("an IP packet").padding.len();
    // Of the bytes, since `etherparse` has no place for some reserved bits.
    rest[..length.min(rest.len() - padding)].to_vec()
}

/// The error that the node itself, with that address, has for a frame: back to where it came from, quoting the IP header
/// and the TCP header as far as it has no options.
///
/// # Panics
///
/// Where the frame holds no IP packet.
pub fn error_about(frame: &[u8], own: IpAddr, kind: u8, code: u8, rest: u32) -> IcmpMessage {
    let datagram = Datagram::read(frame).expect("an IP packet");
    let length = if own.is_ipv4() { 40 } else { 60 };
    IcmpMessage {
        link: Link {
            destination: datagram.link.source,
            source: datagram.link.destination,
            tags: datagram.link.tags.clone(),
        },
        src: own,
        dst: datagram.ip.src(),
        ttl: 64,
        ip_options: vec![],
        dont_fragment: own.is_ipv4(),
        kind,
        code,
        rest: rest.to_be_bytes(),
        body: quote(frame, length),
        padding: vec![],
    }
}

/// An echo request.
pub fn echo_request(src_mac: Mac, dst_mac: Mac, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let message = IcmpMessage {
        link: Link { destination: dst_mac, source: src_mac, tags: vec![] },
        src,
        dst,
        ttl: 64,
        ip_options: vec![],
        dont_fragment: false,
        kind: if src.is_ipv4() { 8 } else { 128 },
        code: 0,
        rest: [0, 1, 0, 1],
        body: b"are you there?".to_vec(),
        padding: vec![],
    };
    message.bytes()
}

/// A neighbour advertisement (RFC 4861 §4.4) from `src` that `target` is at `mac`, to all nodes, or as the answer to one.
pub fn neighbour_advertisement(
    mac: Mac,
    src: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<(Mac, Ipv6Addr)>,
) -> IcmpMessage {
    let everybody = ([0x33, 0x33, 0, 0, 0, 1], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    let (destination, dst) = to.unwrap_or(everybody);
    IcmpMessage {
        link: Link { destination, source: mac, tags: vec![] },
        src: src.into(),
        dst: dst.into(),
        ttl: 255,
        ip_options: vec![],
        dont_fragment: false,
        kind: 136,
        code: 0,
        rest: if to.is_some() { [0x60, 0, 0, 0] } else { [0x20, 0, 0, 0] },
        body: [&target.octets()[..], &[2, 1], &mac].concat(),
        padding: vec![],
    }
}

/// A neighbour solicitation (RFC 4861 §4.3) to the target's solicited-node group.
pub fn neighbour_solicitation(src_mac: Mac, src: Ipv6Addr, target: Ipv6Addr) -> IcmpMessage {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    IcmpMessage {
        link: Link { destination: [0x33, 0x33, 0xff, a, b, c], source: src_mac, tags: vec![] },
        src: src.into(),
        dst: group.into(),
        ttl: 255,
        ip_options: vec![],
        dont_fragment: false,
        kind: 135,
        code: 0,
        rest: [0; 4],
        body: [&target.octets()[..], &[1, 1], &src_mac].concat(),
        padding: vec![],
    }
}
