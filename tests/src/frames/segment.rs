//! TCP segments in IPv4 or IPv6 in Ethernet, and the RST that answers one.

use std::net::SocketAddr;

use etherparse::{IpNumber, TcpHeader};

use super::{ACK, CWR, Datagram, ECE, ETHERNET_MIN, FIN, Ip, Link, Mac, PSH, RST, SYN, Tag, URG};

/// An IPv6 extension header: its kind, and what follows the octet that says what comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Hop-by-hop 0, routing 43, fragment 44, destination 60.
    pub kind: u8,
    /// Seven bytes, or eight more for each unit of length.
    pub rest: Vec<u8>,
}

impl Extension {
    /// One that is `1 + units` times eight bytes long, of padding (RFC 8200 §4.2).
    pub fn padded(kind: u8, units: u8) -> Self {
        let mut rest = vec![0; 7 + usize::from(units) * 8];
        rest[0] = units;
        Self { kind, rest }
    }

    /// A fragment header around a whole packet (RFC 6946).
    pub fn atomic_fragment() -> Self {
        Self { kind: 44, rest: vec![0, 0, 0, 0, 0, 0, 9] }
    }
}

/// A TCP segment in IP in Ethernet, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Ethernet source.
    pub src_mac: Mac,
    /// Ethernet destination.
    pub dst_mac: Mac,
    /// VLAN tags.
    pub tags: Vec<Tag>,
    /// Source address and TCP source port.
    pub src: SocketAddr,
    /// Destination address and TCP destination port.
    pub dst: SocketAddr,
    /// Hops left.
    pub ttl: u8,
    /// IPv4 options; a multiple of four bytes, up to 40. IPv6 has none.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers. IPv4 has none.
    pub extensions: Vec<Extension>,
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
    /// What follows the packet within the frame.
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
        let (first, extensions) = self.chain();
        let length = extensions.len() + tcp.header_len() + self.payload.len();
        let mut ip = Ip::new(self.src.ip(), self.dst.ip(), self.ttl, IpNumber(first), length);
        match &mut ip {
            Ip::V4(ip) => {
                ip.identification = 0x1234;
                ip.dont_fragment = true;
                ip.options = self.ip_options.as_slice().try_into().expect("IPv4 options");
            }
            Ip::V6(ip) => ip.flow_label = 0x5_4321.try_into().expect("twenty bits"),
        }
        ip.set_payload_len(length);
        let link = Link { destination: self.dst_mac, source: self.src_mac, tags: self.tags.clone() };
        let payload = self.payload.clone();
        let mut packet = Packet { link, ip, extensions, tcp, payload, padding: self.padding.clone() };
        packet.set_checksums();
        packet.bytes()
    }

    /// The kind of the first extension header, or TCP, and all of their bytes.
    fn chain(&self) -> (u8, Vec<u8>) {
        assert!(self.extensions.is_empty() || self.dst.is_ipv6(), "IPv4 has no extension headers");
        let kinds = self.extensions.iter().map(|extension| extension.kind).chain([IpNumber::TCP.0]);
        let next = kinds.clone().skip(1);
        let bytes = self.extensions.iter().zip(next);
        let bytes = bytes.flat_map(|(extension, next)| [&[next][..], &extension.rest].concat()).collect();
        (kinds.clone().next().unwrap_or(IpNumber::TCP.0), bytes)
    }
}

/// A frame with a TCP segment, as `etherparse` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The link-layer header.
    pub link: Link,
    /// The IP header.
    pub ip: Ip,
    /// The bytes of IPv6 extension headers.
    pub extensions: Vec<u8>,
    /// The TCP header with its options.
    pub tcp: TcpHeader,
    /// TCP payload.
    pub payload: Vec<u8>,
    /// What follows the packet within the frame.
    pub padding: Vec<u8>,
}

impl Packet {
    /// Reads a frame; `None` where it is no whole TCP segment in IP in Ethernet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let Datagram { link, ip, payload, padding } = Datagram::read(frame)?;
        let mut protocol = ip.protocol();
        let mut extensions = 0;
        match &ip {
            Ip::V4(ip) if ip.is_fragmenting_payload() => return None,
            Ip::V4(_) => {}
            Ip::V6(_) => {
                while let IpNumber(kind @ (0 | 43 | 44 | 60)) = protocol {
                    let extension = payload.get(extensions..extensions + 8)?;
                    if kind == 44 && extension[2..4] != [0, 0] {
                        return None;
                    }
                    protocol = IpNumber(extension[0]);
                    extensions += if kind == 44 { 8 } else { 8 + usize::from(extension[1]) * 8 };
                }
            }
        }
        if protocol != IpNumber::TCP {
            return None;
        }
        let (tcp, data) = TcpHeader::from_slice(payload.get(extensions..)?).ok()?;
        let extensions = payload[..extensions].to_vec();
        Some(Self { link, ip, extensions, tcp, payload: data.to_vec(), padding })
    }

    /// The bytes on the wire, checksums as they stand.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.link.bytes(self.ip.ether_type());
        bytes.extend_from_slice(&self.ip.bytes());
        bytes.extend_from_slice(&self.extensions);
        bytes.extend_from_slice(&self.tcp.to_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes.extend_from_slice(&self.padding);
        bytes
    }

    /// Source address and TCP source port.
    pub fn src(&self) -> SocketAddr {
        SocketAddr::new(self.ip.src(), self.tcp.source_port)
    }

    /// Destination address and TCP destination port.
    pub fn dst(&self) -> SocketAddr {
        SocketAddr::new(self.ip.dst(), self.tcp.destination_port)
    }

    /// Whether the checksum of the IPv4 header is what `etherparse` calculates.
    pub fn ip_checksum_is_right(&self) -> bool {
        self.ip.checksum_is_right()
    }

    /// Whether the checksum of the TCP segment is what `etherparse` calculates.
    pub fn tcp_checksum_is_right(&self) -> bool {
        self.tcp.checksum == self.tcp_checksum()
    }

    /// Other addresses and ports, so many hops less, checksums calculated from nothing.
    pub fn set_ends(&mut self, src: SocketAddr, dst: SocketAddr, hops: u8) {
        self.ip.readdress(src.ip(), dst.ip(), hops);
        self.tcp.source_port = src.port();
        self.tcp.destination_port = dst.port();
        self.set_checksums();
    }

    fn tcp_checksum(&self) -> u16 {
        match &self.ip {
            Ip::V4(ip) => self.tcp.calc_checksum_ipv4_raw(ip.source, ip.destination, &self.payload),
            Ip::V6(ip) => self.tcp.calc_checksum_ipv6_raw(ip.source, ip.destination, &self.payload),
        }
        .expect("the payload came out of a datagram")
    }

    fn set_checksums(&mut self) {
        if let Ip::V4(ip) = &mut self.ip {
            ip.header_checksum = ip.calc_header_checksum();
        }
        self.tcp.checksum = self.tcp_checksum();
    }

    /// The RST that answers a segment (RFC 9293 §3.10.7.1): from its ACK where it has one, else acknowledging all of it.
    /// Padded with zeros to Ethernet's minimum where the segment's frame was that long.
    ///
    /// # Panics
    ///
    /// Where `frame` holds no TCP segment.
    pub fn reset_for(frame: &[u8]) -> Vec<u8> {
        let packet = Self::read(frame).expect("a TCP segment");
        let (src, dst) = (packet.dst(), packet.src());
        let mut tcp = TcpHeader::new(src.port(), dst.port(), 0, 0);
        tcp.rst = true;
        if packet.tcp.ack {
            tcp.sequence_number = packet.tcp.acknowledgment_number;
        } else {
            let length = packet.payload.len() as u32 + u32::from(packet.tcp.syn) + u32::from(packet.tcp.fin);
            tcp.ack = true;
            tcp.acknowledgment_number = packet.tcp.sequence_number.wrapping_add(length);
        }
        let mut ip = Ip::new(src.ip(), dst.ip(), 64, IpNumber::TCP, tcp.header_len());
        if let Ip::V4(ip) = &mut ip {
            ip.dont_fragment = true;
        }
        let link =
            Link { destination: packet.link.source, source: packet.link.destination, tags: packet.link.tags };
        let mut reset = Self { link, ip, extensions: vec![], tcp, payload: vec![], padding: vec![] };
        reset.set_checksums();
        let mut bytes = reset.bytes();
        if frame.len() >= ETHERNET_MIN && bytes.len() < ETHERNET_MIN {
            bytes.resize(ETHERNET_MIN, 0);
        }
        bytes
    }
}
