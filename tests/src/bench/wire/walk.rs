//! Frames of many flows, each with right checksums, of which a generator has to change two words only. Pure.
//!
//! Flows differ in one port. The urgent pointer, which means nothing without URG, makes up for it: port and pointer have the
//! same sum in all flows, and so the checksum is the same.

use std::net::SocketAddr;

use crate::frames::{Mac, Segment};

/// Walks flows in an order that no prefetcher follows: the golden ratio (Knuth, TAOCP 3, §6.4).
pub const STEP: u32 = 0x9e37_79b1;
/// The most flows of a walk.
pub const MOST: u32 = 1 << 14;
/// The port of flow 0.
const FIRST_PORT: u16 = 1 << 14;
/// Port and urgent pointer together; the pointer is never negative.
const SUM: u16 = FIRST_PORT * 2 + (MOST - 1) as u16;
/// Lengths of Ethernet, IPv4, IPv6 and TCP headers.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;
/// Length of a frame, payload included, of IPv4 and IPv6: multiples of four.
const LENGTHS: [usize; 2] = [64, 80];

/// The port that flows differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Varies {
    /// The source port, of clients' packets.
    Source,
    /// The destination port, of backends' packets to NAT ports.
    Destination,
}

/// Frames of a number of flows.
#[derive(Debug, Clone)]
pub struct Walk {
    frame: Vec<u8>,
    port_at: usize,
    urgent_at: usize,
    flows: u32,
}

/// What a frame says beside where it is from and to.
#[derive(Debug, Clone, Copy)]
pub struct Says {
    /// TCP flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

impl Walk {
    /// `flows` frames, rounded up to a power of two, at most [`MOST`]. The port that varies is not looked at.
    #[must_use]
    pub fn new(
        macs: (Mac, Mac),
        (src, dst): (SocketAddr, SocketAddr),
        varies: Varies,
        says: Says,
        flows: u32,
    ) -> Self {
        let mut ends = (src, dst);
        match varies {
            Varies::Source => ends.0.set_port(FIRST_PORT),
            Varies::Destination => ends.1.set_port(FIRST_PORT),
        }
        let v6 = dst.is_ipv6();
        let l4 = ETHERNET + if v6 { IPV6 } else { IPV4 };
        let length = LENGTHS[usize::from(v6)];
        let mut frame = Segment {
            src_mac: macs.0,
            dst_mac: macs.1,
            tags: vec![],
            src: ends.0,
            dst: ends.1,
            ttl: 64,
            ip_options: vec![],
            extensions: vec![],
            flags: says.flags,
            seq: says.seq,
            ack: says.ack,
            tcp_options: vec![],
            payload: vec![0; length - l4 - TCP],
            padding: vec![],
        }
        .bytes();
        let (checksum_at, urgent_at) = (l4 + 16, l4 + 18);
        let urgent = SUM - FIRST_PORT;
        let checksum = u16::from_be_bytes([frame[checksum_at], frame[checksum_at + 1]]);
        frame[checksum_at..urgent_at].copy_from_slice(&less(checksum, urgent).to_be_bytes());
        frame[urgent_at..urgent_at + 2].copy_from_slice(&urgent.to_be_bytes());
        let port_at = l4 + if varies == Varies::Source { 0 } else { 2 };
        Self { frame, port_at, urgent_at, flows: flows.next_power_of_two().min(MOST) }
    }

    /// How many flows there are: a power of two.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// The port of a flow, as it stands where the ports vary.
    #[must_use]
    pub fn port(flow: u32) -> u16 {
        FIRST_PORT + flow as u16
    }

    /// The frame of a flow.
    #[must_use]
    pub fn frame(&self, flow: u32) -> Vec<u8> {
        let mut frame = self.frame.clone();
        let port = Self::port(flow);
        frame[self.port_at..self.port_at + 2].copy_from_slice(&port.to_be_bytes());
        frame[self.urgent_at..self.urgent_at + 2].copy_from_slice(&(SUM - port).to_be_bytes());
        frame
    }

    /// Where the port is, and what is added to a flow's number to have it.
    #[must_use]
    pub fn port_word(&self) -> (usize, u16) {
        (self.port_at, FIRST_PORT)
    }

    /// Where the urgent pointer is, and what a flow's number is taken from to have it.
    #[must_use]
    pub fn urgent_word(&self) -> (usize, u16) {
        (self.urgent_at, SUM - FIRST_PORT)
    }
}

/// The checksum of a segment with this word where there was zero (RFC 1624).
fn less(checksum: u16, word: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(word);
    !((sum >> 16) + (sum & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{ACK, Packet};

    #[test]
    fn each_frame_has_right_checksums_and_a_port_of_its_own() {
        let says = Says { flags: ACK, seq: 1, ack: 2 };
        for (src, dst) in [("100.64.0.1:1", "10.200.1.1:6443"), ("[fd20::1]:1", "[fd10::10]:6443")] {
            let ends = (src.parse().unwrap(), dst.parse().unwrap());
            for varies in [Varies::Source, Varies::Destination] {
                let walk = Walk::new(([2; 6], [4; 6]), ends, varies, says, MOST);
                assert_eq!(walk.flows(), MOST);
                for flow in [0, 1, 255, 256, MOST / 2, MOST - 1] {
                    let bytes = walk.frame(flow);
                    assert!(bytes.len().is_multiple_of(4) && bytes.len() >= 64);
                    let packet = Packet::read(&bytes).unwrap();
                    assert!(packet.ip_checksum_is_right() && packet.tcp_checksum_is_right(), "{flow}");
                    assert!(!packet.tcp.urg);
                    let (other, varying) = match varies {
                        Varies::Source => (packet.dst(), packet.src()),
                        Varies::Destination => (packet.src(), packet.dst()),
                    };
                    let fixed = if varies == Varies::Source { ends.1 } else { ends.0 };
                    assert_eq!((other, varying.port()), (fixed, Walk::port(flow)));
                }
            }
        }
    }

    #[test]
    fn flows_are_a_power_of_two() {
        let says = Says { flags: ACK, seq: 1, ack: 2 };
        let ends = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        for (asked, given) in [(1, 1), (3, 4), (64, 64), (u32::from(u16::MAX), MOST)] {
            assert_eq!(Walk::new(([2; 6], [4; 6]), ends, Varies::Source, says, asked).flows(), given);
        }
    }
}
