//! ARP packets of IPv4 over Ethernet.

use std::net::Ipv4Addr;

use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacket, EtherType};

use super::{ETHERNET_MIN, Link, Mac};

/// An ARP packet in a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// What is in front of it.
    pub link: Link,
    /// Request, reply, or anything else.
    pub operation: u16,
    /// Sender's Ethernet address.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// Target's Ethernet address.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Ipv4Addr,
}

impl Arp {
    /// A broadcast request.
    pub const fn request(sender_mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Self {
        Self {
            link: Link { destination: [0xff; 6], source: sender_mac, tags: vec![] },
            operation: ArpOperation::REQUEST.0,
            sender_mac,
            sender,
            target_mac: [0; 6],
            target,
        }
    }

    /// The bytes on the wire, padded to Ethernet's minimum.
    pub fn bytes(&self) -> Vec<u8> {
        let arp = ArpPacket::from(ArpEthIpv4Packet {
            operation: ArpOperation(self.operation),
            sender_mac: self.sender_mac,
            sender_ipv4: self.sender.octets(),
            target_mac: self.target_mac,
            target_ipv4: self.target.octets(),
        });
        let mut bytes = self.link.bytes(EtherType::ARP);
        bytes.extend_from_slice(&arp.to_bytes());
        bytes.resize(bytes.len().max(ETHERNET_MIN), 0);
        bytes
    }

    /// Reads a frame; `None` where it holds none of IPv4 over Ethernet.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let (link, ether_type, rest) = Link::read(frame)?;
        let packet = etherparse::ArpPacketSlice::from_slice(rest).ok()?.to_packet();
        let arp = packet.try_eth_ipv4().ok().filter(|_| ether_type == EtherType::ARP)?;
        Some(Self {
            link,
            operation: arp.operation.0,
            sender_mac: arp.sender_mac,
            sender: arp.sender_ipv4.into(),
            target_mac: arp.target_mac,
            target: arp.target_ipv4.into(),
        })
    }

    /// What answers a request with that Ethernet address, in a frame from `source` with what followed the request.
    #[must_use]
    pub fn answered(&self, source: Mac, mac: Mac) -> Self {
        Self {
            link: Link { destination: self.sender_mac, source, tags: self.link.tags.clone() },
            operation: ArpOperation::REPLY.0,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }
}
