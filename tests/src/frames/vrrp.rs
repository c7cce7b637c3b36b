//! VRRP advertisements, as the RFCs draw them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, checksum::Sum16BitWords};

use super::{Datagram, Ip, Link, Mac};

const VRRP: IpNumber = IpNumber(112);
/// Where advertisements over IPv4 go.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where advertisements over IPv6 go.
pub const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// An advertisement in a frame, before it is bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// What is in front of the IP header.
    pub link: Link,
    /// Its sender.
    pub src: IpAddr,
    /// The group, or a peer.
    pub dst: IpAddr,
    /// Hops left.
    pub ttl: u8,
    /// 2 or 3.
    pub version: u8,
    /// The message type; 1.
    pub kind: u8,
    /// The virtual router.
    pub vrid: u8,
    /// The sender's priority.
    pub priority: u8,
    /// The addresses.
    pub vips: Vec<IpAddr>,
    /// Whether version 3 over IPv4 has a pseudo-header in its checksum.
    pub pseudo_header: bool,
    /// What follows for authentication; over IPv6 it is in the checksum, too.
    pub trailer: Vec<u8>,
    /// IPv4 options.
    pub ip_options: Vec<u8>,
}

impl Advert {
    /// Of version 3, to the group.
    pub fn new(src_mac: Mac, src: IpAddr, vips: &[IpAddr]) -> Self {
        let (dst, destination) = match src {
            IpAddr::V4(_) => (GROUP.into(), [0x01, 0, 0x5e, 0, 0, 0x12]),
            IpAddr::V6(_) => (GROUP6.into(), [0x33, 0x33, 0, 0, 0, 0x12]),
        };
        Self {
            link: Link { destination, source: src_mac, tags: vec![] },
            src,
            dst,
            ttl: 255,
            version: 3,
            kind: 1,
            vrid: 51,
            priority: 100,
            vips: vips.to_vec(),
            pseudo_header: true,
            trailer: vec![],
            ip_options: vec![],
        }
    }

    /// The message with a right checksum, its trailer not included.
    fn message(&self) -> Vec<u8> {
        // Version 2: no authentication, one second. Version 3: 100 centiseconds.
        let interval = if self.version == 2 { [0, 1] } else { [0, 100] };
        let count = self.vips.len() as u8;
        let mut bytes = vec![self.version << 4 | self.kind, self.vrid, self.priority, count];
        bytes.extend(interval);
        bytes.extend([0, 0]);
        for vip in &self.vips {
            match vip {
                IpAddr::V4(vip) => bytes.extend(vip.octets()),
                IpAddr::V6(vip) => bytes.extend(vip.octets()),
            }
        }
        if self.version == 2 {
            bytes.extend([0; 8]);
        }
        let covered = match self.src {
            IpAddr::V4(_) => bytes.clone(),
            IpAddr::V6(_) => [&bytes[..], &self.trailer].concat(),
        };
        let mut sum = Sum16BitWords::new().add_slice(&covered);
        if self.version != 2 && self.pseudo_header {
            let length = covered.len() as u16;
            sum = match (self.src, self.dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => sum.add_slice(&src.octets()).add_slice(&dst.octets()),
                (IpAddr::V6(src), IpAddr::V6(dst)) => sum.add_slice(&src.octets()).add_slice(&dst.octets()),
                _ => sum,
            };
            sum = sum.add_2bytes(length.to_be_bytes()).add_2bytes([0, VRRP.0]);
        }
        bytes[6..8].copy_from_slice(&sum.ones_complement().to_ne_bytes());
        bytes
    }

    /// The bytes on the wire.
    ///
    /// # Panics
    ///
    /// Where `etherparse` cannot express it; a fault of the test.
    pub fn bytes(&self) -> Vec<u8> {
        let payload = [self.message(), self.trailer.clone()].concat();
        let mut ip = Ip::new(self.src, self.dst, self.ttl, VRRP, payload.len());
        if let Ip::V4(ip) = &mut ip {
            ip.options = self.ip_options.as_slice().try_into().expect("IPv4 options");
        }
        ip.set_payload_len(payload.len());
        Datagram { link: self.link.clone(), ip, payload, padding: vec![] }.bytes()
    }
}
