//! Frames, built and read by `etherparse`, never by `lb_common`: the code under test does not mark its own homework.

use std::net::{Ipv4Addr, SocketAddrV4};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType, Ethernet2Header, IpNumber, Ipv4Header,
    PacketBuilder, TcpHeader, checksum::Sum16BitWords,
};

/// An Ethernet address.
pub type Mac = [u8; 6];

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

/// A TCP segment in IPv4 in Ethernet, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// IPv4 source and TCP source port.
    pub src: SocketAddrV4,
    /// IPv4 destination and TCP destination port.
    pub dst: SocketAddrV4,
    /// Hops left.
    pub ttl: u8,
    /// IPv4 options; a multiple of four bytes, up to 40.
    pub ip_options: Vec<u8>,
    /// Flags, the constants above.
    pub flags: u8,
    /// Sequence number of the first byte.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// TCP options; a multiple of four bytes, up to 40.
    pub tcp_options: Vec<u8>,
    /// TCP payload.
    pub payload: Vec<u8>,
    /// What follows the datagram within the frame.
    pub padding: Vec<u8>,
}

impl Segment {
    /// The bytes on the wire, all checksums right.
    ///
    /// # Panics
    ///
    /// Where `etherparse` cannot express the segment; a fault of the test.
    pub fn bytes(&self) -> Vec<u8> {
        let mut tcp = TcpHeader::new(self.src.port(), self.dst.port(), self.seq, 64_240);
        tcp.acknowledgment_number = self.ack;
        tcp.fin = self.flags & FIN != 0;
        tcp.syn = self.flags & SYN != 0;
        tcp.rst = self.flags & RST != 0;
        tcp.psh = self.flags & PSH != 0;
        tcp.ack = self.flags & ACK != 0;
        tcp.urg = self.flags & URG != 0;
        tcp.ece = self.flags & ECE != 0;
        tcp.cwr = self.flags & CWR != 0;
        tcp.set_options_raw(&self.tcp_options).expect("TCP options");
        let length = u16::try_from(tcp.header_len() + self.payload.len()).expect("a segment's length");
        let mut ip =
            Ipv4Header::new(length, self.ttl, IpNumber::TCP, self.src.ip().octets(), self.dst.ip().octets())
                .expect("an IPv4 header");
        ip.identification = 0x1234;
        ip.dont_fragment = true;
        ip.options = self.ip_options.as_slice().try_into().expect("IPv4 options");
        ip.set_payload_len(length.into()).expect("a datagram's length");
        let ethernet =
            Ethernet2Header { source: self.src_mac, destination: self.dst_mac, ether_type: EtherType::IPV4 };
        let mut packet =
            Packet { ethernet, ip, tcp, payload: self.payload.clone(), padding: self.padding.clone() };
        packet.set_checksums();
        packet.bytes()
    }
}

/// A frame with a TCP segment, as `etherparse` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The link-layer header.
    pub ethernet: Ethernet2Header,
    /// The IPv4 header with its options.
    pub ip: Ipv4Header,
    /// The TCP header with its options.
    pub tcp: TcpHeader,
    /// TCP payload.
    pub payload: Vec<u8>,
    /// What follows the datagram within the frame.
    pub padding: Vec<u8>,
}

impl Packet {
    /// Reads a frame; `None` where it is no whole TCP segment in IPv4 in Ethernet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (ethernet, rest) = Ethernet2Header::from_slice(frame).ok()?;
        let (ip, _) = Ipv4Header::from_slice(rest).ok()?;
        if ethernet.ether_type != EtherType::IPV4
            || ip.protocol != IpNumber::TCP
            || ip.is_fragmenting_payload()
        {
            return None;
        }
        let datagram = rest.get(..usize::from(ip.total_len))?;
        let (tcp, payload) = TcpHeader::from_slice(datagram.get(ip.header_len()..)?).ok()?;
        let padding = rest[datagram.len()..].to_vec();
        Some(Self { ethernet, ip, tcp, payload: payload.to_vec(), padding })
    }

    /// The bytes on the wire, checksums as they stand.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.ethernet.to_bytes().to_vec();
        bytes.extend_from_slice(&self.ip.to_bytes());
        bytes.extend_from_slice(&self.tcp.to_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&self.padding);
        bytes
    }

    /// IPv4 source and TCP source port.
    pub fn src(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.source.into(), self.tcp.source_port)
    }

    /// IPv4 destination and TCP destination port.
    pub fn dst(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.ip.destination.into(), self.tcp.destination_port)
    }

    /// Whether the checksum of the IPv4 header is what `etherparse` calculates.
    pub fn ip_checksum_is_right(&self) -> bool {
        self.ip.header_checksum == self.ip.calc_header_checksum()
    }

    /// Whether the checksum of the TCP segment is what `etherparse` calculates.
    pub fn tcp_checksum_is_right(&self) -> bool {
        self.tcp.checksum == self.tcp_checksum()
    }

    fn tcp_checksum(&self) -> u16 {
        self.tcp
            .calc_checksum_ipv4_raw(self.ip.source, self.ip.destination, &self.payload)
            .expect("the payload came out of a datagram")
    }

    fn set_checksums(&mut self) {
        self.ip.header_checksum = self.ip.calc_header_checksum();
        self.tcp.checksum = self.tcp_checksum();
    }
}

/// What a frame has to become when it is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The new Ethernet source.
    pub src_mac: Mac,
    /// The new Ethernet destination.
    pub dst_mac: Mac,
    /// The new IPv4 source and TCP source port.
    pub src: SocketAddrV4,
    /// The new IPv4 destination and TCP destination port.
    pub dst: SocketAddrV4,
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
    packet.ethernet.source = rewrite.src_mac;
    packet.ethernet.destination = rewrite.dst_mac;
    packet.ip.source = rewrite.src.ip().octets();
    packet.ip.destination = rewrite.dst.ip().octets();
    packet.ip.time_to_live -= 1;
    packet.tcp.source_port = rewrite.src.port();
    packet.tcp.destination_port = rewrite.dst.port();
    packet.set_checksums();
    packet.bytes()
}

/// The RST that answers a segment (RFC 9293 §3.10.7.1): from its ACK where it has one, else acknowledging all of it.
/// Padded with zeros to Ethernet's minimum where the segment's frame was that long.
///
/// # Panics
///
/// Where `frame` holds no TCP segment.
pub fn reset_for(frame: &[u8]) -> Vec<u8> {
    let packet = Packet::read(frame).expect("a TCP segment");
    let (src, dst) = (packet.dst(), packet.src());
    let builder = PacketBuilder::ethernet2(packet.ethernet.destination, packet.ethernet.source)
        .ipv4(src.ip().octets(), dst.ip().octets(), 64)
        .tcp(src.port(), dst.port(), 0, 0);
    let builder = if packet.tcp.ack {
        let mut header = TcpHeader::new(src.port(), dst.port(), packet.tcp.acknowledgment_number, 0);
        header.rst = true;
        PacketBuilder::ethernet2(packet.ethernet.destination, packet.ethernet.source)
            .ipv4(src.ip().octets(), dst.ip().octets(), 64)
            .tcp_header(header)
    } else {
        let length = packet.payload.len() as u32 + u32::from(packet.tcp.syn) + u32::from(packet.tcp.fin);
        builder.rst().ack(packet.tcp.sequence_number.wrapping_add(length))
    };
    let mut bytes = Vec::new();
    builder.write(&mut bytes, &[]).expect("a RST can be written");
    if frame.len() >= ETHERNET_MIN {
        bytes.resize(ETHERNET_MIN, 0);
    }
    bytes
}

/// Writes a right checksum into an IPv4 header that was tampered with, over as many bytes as its length field says (the
/// frame's end permitting).
pub fn fix_ip_checksum(frame: &mut [u8]) {
    let end = (ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4).min(frame.len());
    frame[24..26].fill(0);
    let sum = Sum16BitWords::new().add_slice(&frame[ETHERNET..end]).ones_complement();
    // `ones_complement` gives the sum in the order that the words were read in.
    frame[24..26].copy_from_slice(&sum.to_ne_bytes());
}

/// Whether the words of the IPv4 header sum to all ones. Of the bytes, since `etherparse` has no place for the header's
/// reserved bit.
pub fn ip_checksum_is_right(frame: &[u8]) -> bool {
    let end = ETHERNET + usize::from(frame[ETHERNET] & 0x0f) * 4;
    frame
        .get(ETHERNET..end)
        .is_some_and(|header| Sum16BitWords::new().add_slice(header).ones_complement() == 0)
}

/// An ARP request of `sender` for `target`, broadcast.
pub fn arp_request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let arp = ArpPacket::from(ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac,
        sender_ipv4: sender.octets(),
        target_mac: [0; 6],
        target_ipv4: target.octets(),
    });
    let mut bytes =
        Ethernet2Header { source: sender_mac, destination: [0xff; 6], ether_type: EtherType::ARP }
            .to_bytes()
            .to_vec();
    bytes.extend_from_slice(&arp.to_bytes());
    bytes.resize(ETHERNET_MIN, 0);
    bytes
}

/// An ICMP echo request.
///
/// # Panics
///
/// Never: the sizes are fixed.
pub fn echo_request(src_mac: Mac, dst_mac: Mac, src: Ipv4Addr, dst: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(src_mac, dst_mac)
        .ipv4(src.octets(), dst.octets(), 64)
        .icmpv4_echo_request(1, 1)
        .write(&mut bytes, b"are you there?")
        .expect("an echo request can be written");
    bytes
}

/// A UDP datagram.
///
/// # Panics
///
/// Where the payload is too long for one.
pub fn udp(src_mac: Mac, dst_mac: Mac, src: SocketAddrV4, dst: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(src_mac, dst_mac)
        .ipv4(src.ip().octets(), dst.ip().octets(), 64)
        .udp(src.port(), dst.port())
        .write(&mut bytes, payload)
        .expect("a datagram can be written");
    bytes
}

/// An IPv6 TCP SYN.
///
/// # Panics
///
/// Never: the sizes are fixed.
pub fn ipv6_syn(src_mac: Mac, dst_mac: Mac) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(src_mac, dst_mac)
        .ipv6([0xfd; 16], [0xfe; 16], 64)
        .tcp(40_000, 6443, 1, 64_240)
        .syn()
        .write(&mut bytes, &[])
        .expect("a SYN can be written");
    bytes
}
