//! A packet in words: one line as tcpdump would write it, and the fields for JSON. Pure.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
};

use etherparse::{
    LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, TcpSlice, TransportSlice,
    icmpv4::{TYPE_DEST_UNREACH, TYPE_PARAMETER_PROBLEM, TYPE_TIME_EXCEEDED},
};
use schemars::JsonSchema;
use serde::Serialize;

/// What a frame holds, as far as it could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Packet {
    /// Length of the frame in bytes, whether all of them were kept or not.
    pub length: u32,
    /// VLAN ids, outer one first.
    pub vlans: Vec<u16>,
    /// Source address, with the port where there is one.
    pub source: Option<String>,
    /// Destination likewise.
    pub destination: Option<String>,
    /// Hops left.
    pub ttl: Option<u8>,
    /// TCP only.
    pub tcp: Option<Tcp>,
    /// All of it in one line.
    pub summary: String,
}

/// What a TCP header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Tcp {
    /// As tcpdump writes them: `S`, `S.`, `.`, `P.`, `F.`, `R`.
    pub flags: String,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; `null` without ACK.
    pub ack: Option<u32>,
    /// Bytes of payload, as the IP header has it.
    pub payload: u32,
}

/// How many packets are shown of a packet in a packet.
const PACKETS_DEEP: usize = 3;

impl Packet {
    /// Reads the beginning `bytes` of a frame of `length` bytes.
    pub fn read(bytes: &[u8], length: u32) -> Self {
        let mut packet = Self { length, ..Self::default() };
        match LaxSlicedPacket::from_ethernet(bytes) {
            Ok(sliced) => packet.describe(&sliced, 0),
            Err(_) => packet.summary.push_str("too short for Ethernet"),
        }
        packet
    }

    fn describe(&mut self, sliced: &LaxSlicedPacket<'_>, depth: usize) {
        for extension in &sliced.link_exts {
            if let LaxLinkExtSlice::Vlan(vlan) = extension {
                let id = vlan.vlan_identifier().value();
                self.vlans.push(id);
                let _ = write!(self.summary, "vlan {id} ");
            }
        }
        let (source, destination, ttl, payload) = match &sliced.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let header = ip.header();
                let len = u32::from(header.total_len()).saturating_sub(header.slice().len() as u32);
                (
                    IpAddr::V4(header.source_addr()),
                    IpAddr::V4(header.destination_addr()),
                    header.ttl(),
                    (ip.payload(), len),
                )
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let header = ip.header();
                let extensions = ip.extensions().slice().len() as u32;
                let len = u32::from(header.payload_length()).saturating_sub(extensions);
                (
                    IpAddr::V6(header.source_addr()),
                    IpAddr::V6(header.destination_addr()),
                    header.hop_limit(),
                    (ip.payload(), len),
                )
            }
            Some(LaxNetSlice::Arp(arp)) => {
                let name = match arp.operation().0 {
                    1 => "arp who-has",
                    2 => "arp reply",
                    _ => "arp",
                };
                let address = |octets: &[u8]| {
                    <[u8; 4]>::try_from(octets)
                        .map_or_else(|_| "?".to_owned(), |octets| IpAddr::from(octets).to_string())
                };
                let (sender, target) =
                    (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
                let _ = write!(self.summary, "{name} {target} from {sender}");
                (self.source, self.destination) = (Some(sender), Some(target));
                return;
            }
            None => {
                match sliced
                    .link
                    .as_ref()
                    .and_then(etherparse::LinkSlice::to_header)
                    .and_then(etherparse::LinkHeader::ethernet2)
                {
                    Some(ethernet) if depth == 0 => {
                        let _ = write!(self.summary, "ethertype {:#06x}", ethernet.ether_type.0);
                    }
                    _ => self.summary.push_str("cut short"),
                }
                return;
            }
        };
        let (payload, len) = payload;
        let ports = match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        let (source, destination) = match ports {
            Some((from, to)) => {
                (SocketAddr::new(source, from).to_string(), SocketAddr::new(destination, to).to_string())
            }
            None => (source.to_string(), destination.to_string()),
        };
        let _ = write!(self.summary, "{source} > {destination}");
        let tcp = match &sliced.transport {
            Some(TransportSlice::Tcp(tcp)) => Some(read_tcp(tcp, len)),
            _ => None,
        };
        if let Some(tcp) = &tcp {
            let _ = write!(self.summary, " [{}] seq {}", tcp.flags, tcp.seq);
            if let Some(ack) = tcp.ack {
                let _ = write!(self.summary, " ack {ack}");
            }
            let _ = write!(self.summary, " len {}", tcp.payload);
        }
        if depth == 0 {
            (self.source, self.destination) = (Some(source), Some(destination));
            (self.ttl, self.tcp) = (Some(ttl), tcp);
        }
        let inner = match &sliced.transport {
            Some(TransportSlice::Tcp(_)) => None,
            Some(TransportSlice::Udp(_)) => {
                let _ = write!(self.summary, " udp len {}", len.saturating_sub(8));
                None
            }
            Some(TransportSlice::Icmpv4(icmp)) => {
                let _ = write!(self.summary, " icmp {}/{}", icmp.type_u8(), icmp.code_u8());
                let is_error =
                    [TYPE_DEST_UNREACH, TYPE_TIME_EXCEEDED, TYPE_PARAMETER_PROBLEM].contains(&icmp.type_u8());
                is_error.then(|| icmp.payload())
            }
            Some(TransportSlice::Icmpv6(icmp)) => {
                let _ = write!(self.summary, " icmp6 {}/{}", icmp.type_u8(), icmp.code_u8());
                (1..=4).contains(&icmp.type_u8()).then(|| icmp.payload())
            }
            _ if [4, 41].contains(&payload.ip_number.0) => Some(payload.payload),
            _ => {
                let part = if payload.fragmented { "fragment of " } else { "" };
                let _ = write!(self.summary, " {part}protocol {} len {len}", payload.ip_number.0);
                None
            }
        };
        if let Some(inner) = inner
            && depth + 1 < PACKETS_DEEP
            && let Ok(inner) = LaxSlicedPacket::from_ip(inner)
        {
            self.summary.push_str(" (");
            self.describe(&inner, depth + 1);
            self.summary.push(')');
        }
    }
}

fn read_tcp(tcp: &TcpSlice<'_>, len: u32) -> Tcp {
    let letters = [
        (tcp.syn(), 'S'),
        (tcp.fin(), 'F'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
        (tcp.ack(), '.'),
    ];
    let flags: String = letters.iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect();
    Tcp {
        flags: if flags.is_empty() { "none".to_owned() } else { flags },
        seq: tcp.sequence_number(),
        ack: tcp.ack().then(|| tcp.acknowledgment_number()),
        payload: len.saturating_sub(u32::from(tcp.data_offset()) * 4),
    }
}

#[cfg(test)]
mod tests;
