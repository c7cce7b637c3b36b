//! A flow as it was when it was looked at, as far as the connection log is concerned. Pure.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    family::Address,
    layout::{FlowEntry, FlowKey, SEEN_FIN, SEEN_REBUILT, SEEN_RST, SEEN_SEVERED},
    wire::Be16,
};

use super::record::Ended;
use crate::{
    flows::{self, Carried, Phase},
    sync::record::FlowId,
};

/// IP and TCP header without options, but with the time stamps that nearly every segment has (RFC 7323 §3.2).
const USUAL_HEADERS: u64 = 20 + 32;
/// The same of a SYN, which has more options.
const SYN_HEADERS: u64 = 20 + 40;
/// What IPv6 adds to either.
const IPV6_ADDS: u64 = 20;

/// A flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Which.
    pub id: FlowId,
    /// Its backend; `None` where the flow itself does not say, and nobody was asked.
    pub backend: Option<SocketAddr>,
    /// The source that the backend sees, where that is not the client.
    pub nat: Option<SocketAddr>,
    /// When it was opened, in seconds of the flow clock.
    pub opened: u32,
    /// What it has carried.
    pub carried: Carried,
    /// What the client's direction has seen.
    pub client: Way,
    /// What the backend's has, where it is seen.
    pub reply: Option<Way>,
    /// How it has ended, if it has.
    pub ended: Option<Ended>,
}

/// What one direction has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// `SEEN_` bits.
    pub flags: u32,
    /// The sequence number that follows the last segment.
    pub next_seq: u32,
}

/// The sequence numbers of a flow when it was first looked at: the client's, and the backend's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FirstSeen {
    client: Way,
    reply: Way,
}

impl Snapshot {
    /// From the client's direction and, with NAT, the backend's.
    pub fn new<A: Address>(key: &FlowKey<A>, forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Self {
        let at = |address: A, port: Be16| SocketAddr::new(IpAddr::from(address.wide()), port.get());
        let way = |entry: &FlowEntry<A>| Way { flags: entry.seen.flags, next_seq: entry.seen.next_seq };
        let carried = flows::carried(forward, reply);
        let rewritten = flows::has_reply(forward).then_some(&forward.rewritten);
        Self {
            id: FlowId { client: at(key.src, key.src_port), service: at(key.dst, key.dst_port) },
            backend: rewritten.map(|rewritten| at(rewritten.dst, rewritten.dst_port)),
            nat: rewritten.map(|rewritten| at(rewritten.src, rewritten.src_port)),
            opened: forward.opened,
            carried: Carried {
                packets_in: carried.packets_in,
                bytes_in: carried.bytes_in,
                packets_out: carried.packets_out,
                bytes_out: carried.bytes_out,
            },
            client: way(forward),
            reply: reply.map(way),
            ended: ended(forward, reply),
        }
    }

    /// Whether it was made anew from a packet in its middle.
    pub const fn is_rebuilt(&self) -> bool {
        self.client.flags & SEEN_REBUILT != 0
    }

    /// What [`Self::is_empty`] compares with later.
    pub fn first_seen(&self) -> FirstSeen {
        FirstSeen { client: self.client, reply: self.reply.unwrap_or_default() }
    }

    /// Whether it has carried no byte of payload, either way, as far as its numbers say: no sequence number has grown since it
    /// was first looked at, and its packets are no larger than their headers. Without time stamps in its headers a payload of a
    /// few bytes in the first moment can hide in what these leave free.
    pub fn is_empty(&self, first: Option<&FirstSeen>) -> bool {
        let ipv6 = if self.id.service.is_ipv4() { 0 } else { IPV6_ADDS };
        let fits = |packets: u64, bytes: u64| {
            let headers = SYN_HEADERS + ipv6 + packets.saturating_sub(1).saturating_mul(USUAL_HEADERS + ipv6);
            packets == 0 || bytes <= headers
        };
        let Carried { packets_in, bytes_in, packets_out, bytes_out } = self.carried;
        let has_grown = |now: &Way, then: &Way| {
            // A FIN takes a number, too (RFC 9293 §3.4).
            let fin = i32::from((now.flags & !then.flags) & SEEN_FIN != 0);
            now.next_seq.wrapping_sub(then.next_seq).cast_signed() > fin
        };
        let grown = first.is_some_and(|first| {
            has_grown(&self.client, &first.client)
                || self.reply.as_ref().is_some_and(|reply| has_grown(reply, &first.reply))
        });
        !grown && fits(packets_in, bytes_in) && fits(packets_out, bytes_out)
    }
}

fn ended<A>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Option<Ended> {
    let (client, backend) = (forward.seen.flags, reply.map_or(0, |reply| reply.seen.flags));
    let has = |flag: u32| (client & flag != 0, backend & flag != 0);
    match flows::phase(forward, reply) {
        Phase::Open => None,
        // A backend that has closed first is not seen; the client's FIN is the end then.
        Phase::HalfClosed => (!flows::has_reply(forward)).then_some(Ended::Closed),
        Phase::Closed => Some(Ended::Closed),
        Phase::Reset => Some(match (has(SEEN_SEVERED), has(SEEN_RST)) {
            ((true, _) | (_, true), _) => Ended::ResetByXvip,
            (_, (true, false)) => Ended::ResetByClient,
            (_, (false, true)) => Ended::ResetByBackend,
            // Both at once, or half of a flow, whose other half is gone.
            (_, (true, true) | (false, false)) => Ended::Unknown,
        }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use lb_common::{
        forward::flow_entry,
        layout::{Hop, MODE_DSR_L2, MODE_NAT, SEEN_SYN, TO_BACKEND, TO_CLIENT},
        wire::Be32,
    };

    use super::*;

    const fn be32(address: [u8; 4]) -> Be32 {
        Be32::from_octets(address)
    }

    /// A flow of 10.0.0.7:PORT through 172.16.0.10:6443 to 172.16.0.4:6443, with NAT from the same port.
    pub fn nat(port: u16) -> (FlowKey<Be32>, FlowEntry<Be32>, FlowEntry<Be32>) {
        let vip = be32([172, 16, 0, 10]);
        let key = FlowKey::new(be32([10, 0, 0, 7]), Be16::new(port), vip, Be16::new(6443));
        let rewritten = FlowKey::new(vip, Be16::new(port), be32([172, 16, 0, 4]), Be16::new(6443));
        let made = |key, rewritten, to| flow_entry(key, rewritten, (to, MODE_NAT), 3, &Hop::NONE, 100);
        let mut forward = made(&key, &rewritten, TO_BACKEND);
        let mut reply = made(&rewritten.reversed(), &key.reversed(), TO_CLIENT);
        (forward.seen.packets, forward.seen.bytes, forward.seen.flags) = (2, 60 + 52, SEEN_SYN);
        (reply.seen.packets, reply.seen.bytes, reply.seen.flags) = (1, 60, SEEN_SYN);
        (key, forward, reply)
    }

    #[test]
    fn what_a_flow_is() {
        let (key, forward, reply) = nat(40_000);
        let snapshot = Snapshot::new(&key, &forward, Some(&reply));
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        assert_eq!(snapshot.id, FlowId { client: at("10.0.0.7:40000"), service: at("172.16.0.10:6443") });
        assert_eq!(snapshot.backend, Some(at("172.16.0.4:6443")));
        assert_eq!(snapshot.nat, Some(at("172.16.0.10:40000")));
        assert_eq!((snapshot.opened, snapshot.ended), (100, None));
        assert_eq!(snapshot.carried, Carried { packets_in: 2, bytes_in: 112, packets_out: 1, bytes_out: 60 });
    }

    #[test]
    fn how_it_ended() {
        let (key, forward, reply) = nat(1);
        for (client, backend, expected) in [
            (0, 0, None),
            (SEEN_FIN, 0, None),
            (0, SEEN_FIN, None),
            (SEEN_FIN, SEEN_FIN, Some(Ended::Closed)),
            (SEEN_RST, 0, Some(Ended::ResetByClient)),
            (SEEN_RST, SEEN_FIN, Some(Ended::ResetByClient)),
            (SEEN_FIN, SEEN_RST, Some(Ended::ResetByBackend)),
            (SEEN_RST, SEEN_RST, Some(Ended::Unknown)),
            (SEEN_SEVERED | SEEN_RST, SEEN_SEVERED, Some(Ended::ResetByXvip)),
            (0, SEEN_SEVERED, Some(Ended::ResetByXvip)),
        ] {
            let (mut forward, mut reply) = (forward, reply);
            forward.seen.flags |= client;
            reply.seen.flags |= backend;
            let ended = Snapshot::new(&key, &forward, Some(&reply)).ended;
            assert_eq!(ended, expected, "client {client}, backend {backend}");
        }
        assert_eq!(Snapshot::new(&key, &forward, None).ended, Some(Ended::Unknown), "half a flow");
        let mut alone = FlowEntry { mode: MODE_DSR_L2, ..forward };
        assert_eq!(Snapshot::new(&key, &alone, None).ended, None);
        alone.seen.flags |= SEEN_FIN;
        assert_eq!(Snapshot::new(&key, &alone, None).ended, Some(Ended::Closed));
    }

    #[test]
    fn an_empty_one_is_told_from_one_with_a_single_byte() {
        let (key, mut forward, mut reply) = nat(1);
        let snapshot =
            |forward: &FlowEntry<Be32>, reply: &FlowEntry<Be32>| Snapshot::new(&key, forward, Some(reply));
        let first = snapshot(&forward, &reply).first_seen();
        // A FIN of each, and their acknowledgements.
        (forward.seen.packets, forward.seen.bytes) = (4, 60 + 3 * 52);
        (reply.seen.packets, reply.seen.bytes) = (3, 60 + 2 * 52);
        forward.seen.flags |= SEEN_FIN;
        reply.seen.flags |= SEEN_FIN;
        forward.seen.next_seq += 1;
        reply.seen.next_seq += 1;
        let empty = snapshot(&forward, &reply);
        assert!(empty.is_empty(Some(&first)) && empty.is_empty(None));
        for direction in [&mut forward, &mut reply] {
            direction.seen.bytes += 1;
        }
        assert!(!snapshot(&forward, &reply).is_empty(None), "a byte, with time stamps in all headers");
        // None have them: the byte is lost among 12 for each packet, but not in the sequence number.
        for direction in [&mut forward, &mut reply] {
            direction.seen.bytes -= 12 * direction.seen.packets;
        }
        assert!(snapshot(&forward, &reply).is_empty(Some(&first)));
        reply.seen.next_seq += 1;
        assert!(!snapshot(&forward, &reply).is_empty(Some(&first)));
        reply.seen.next_seq -= 1;
        forward.seen.next_seq = first.client.next_seq.wrapping_sub(1);
        assert!(snapshot(&forward, &reply).is_empty(Some(&first)), "a keep-alive is no payload");
    }
}
