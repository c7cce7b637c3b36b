//! The stage for ICMP and ICMPv6: errors about a flow go to the flow's backend or client, as if the packet that they
//! quote had been that one's own (RFC 5508 §4); errors about our tunnels become errors about what was in them.

use super::{
    Family, INTERNAL, Step,
    answer::Quote,
    flow::{self, port_sum},
    flow_clock, parse, tunnel,
};
use crate::{
    checksum::{Delta, Sum},
    family::{address_sum, header_delta},
    frame::Frame,
    hash,
    layout::{
        ANSWER_TOO_BIG, BALANCE_MAGLEV, FlowEntry, FlowKey, Hop, MODE_DSR_IPIP, MODE_LOCAL,
        MODE_NAT, NodeEntry, Scratch, ServiceKey, TO_BACKEND,
    },
    link::{self, Tags},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment::Segment,
    tables::{BackendCounter, FlowTables, Level, Slot, Tables},
    wire::{
        Be16, Be32, Be128, ICMP_FRAGMENTATION_NEEDED, ICMP_LEN, ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED,
        ICMP_UNREACHABLE, ICMPV6_NEIGHBOUR_SOLICITATION, ICMPV6_PARAMETER_PROBLEM, ICMPV6_TOO_BIG,
        ICMPV6_UNREACHABLE, IPV6_LEN, Icmp, Ipv4, Ipv6, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP,
        TCP_ACK,
    },
};

/// Where the checksum of a TCP header is.
const TCP_CHECKSUM_OFFSET: usize = 16;

/// What has to be known of a quoted packet.
pub trait Quoted: Quote {
    /// Whether this kind of message is an error, and quotes the packet that it is about.
    fn is_error(kind: u8) -> bool;
    /// The MTU that the message tells, if it says "too big".
    fn told_mtu(icmp: &Icmp) -> Option<u32>;
    /// What follows the header.
    fn protocol(header: &Self::Header) -> u8;
    /// Its length in bytes, options included.
    fn header_len(header: &Self::Header) -> usize;
    /// Other addresses. Returns what that adds to the sum of whatever contains the header.
    fn readdress(header: &mut Self::Header, source: Self, destination: Self) -> Sum;
}

impl Quoted for Be32 {
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER_PROBLEM)
    }

    #[inline(always)]
    fn told_mtu(icmp: &Icmp) -> Option<u32> {
        let says_so = icmp.kind == ICMP_UNREACHABLE && icmp.code == ICMP_FRAGMENTATION_NEEDED;
        says_so.then(|| icmp.rest.get() & 0xffff)
    }

    #[inline(always)]
    fn protocol(header: &Ipv4) -> u8 {
        header.protocol
    }

    #[inline(always)]
    fn header_len(header: &Ipv4) -> usize {
        usize::from(header.version_ihl & 0x0f) * 4
    }

    #[inline(always)]
    fn readdress(header: &mut Ipv4, source: Self, destination: Self) -> Sum {
        let addresses = address_sum((header.src, header.dst), (source, destination));
        let before = header.checksum;
        (header.src, header.dst) = (source, destination);
        header.checksum = Delta::new(addresses).apply(before);
        addresses.minus_be16(before).be16(header.checksum)
    }
}

impl Quoted for Be128 {
    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        (ICMPV6_UNREACHABLE..=ICMPV6_PARAMETER_PROBLEM).contains(&kind)
    }

    #[inline(always)]
    fn told_mtu(icmp: &Icmp) -> Option<u32> {
        (icmp.kind == ICMPV6_TOO_BIG).then(|| icmp.rest.get())
    }

    #[inline(always)]
    fn protocol(header: &Ipv6) -> u8 {
        header.next_header
    }

    #[inline(always)]
    fn header_len(_header: &Ipv6) -> usize {
        IPV6_LEN
    }

    #[inline(always)]
    fn readdress(header: &mut Ipv6, source: Self, destination: Self) -> Sum {
        let addresses = address_sum((header.src, header.dst), (source, destination));
        (header.src, header.dst) = (source, destination);
        addresses
    }
}

const fn pass(reason: PassReason) -> Step {
    Step::Done(Verdict::Pass(reason))
}

/// Looks at an ICMP message for a VIP, for an address of the node's own, or for a group.
#[inline(always)]
pub fn icmp<A: Quoted, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let place = scratch.read();
    let (l3, l4) = ((place.l3 & 0x1f) as usize, (place.l4 & 0x3fff) as usize);
    let Some(ip) = frame.header::<A::Header>(l3) else { return pass(PassReason::TooShort) };
    let Some(icmp) = frame.header::<Icmp>(l4) else { return pass(PassReason::NotTcp) };
    if A::IS_V6 && icmp.kind == ICMPV6_NEIGHBOUR_SOLICITATION {
        let Some(&target) = frame.header::<Be128>(l4 + ICMP_LEN) else { return pass(PassReason::NeighbourSolicitation) };
        return if parse::is_fenced(tables, node, target) {
            super::drop(DropReason::Fenced)
        } else {
            pass(PassReason::NeighbourSolicitation)
        };
    }
    if !A::is_error(icmp.kind) {
        return pass(PassReason::NotTcp);
    }
    let destination = A::destination(ip);
    let quoted = l4 + ICMP_LEN;
    let Some(inner) = frame.header::<A::Header>(quoted) else { return pass(PassReason::IcmpUnrelated) };
    // An error comes back to where its packet came from.
    if A::source(inner) != destination {
        return pass(PassReason::IcmpUnrelated);
    }
    let inner_l4 = quoted + A::header_len(inner);
    match A::protocol(inner) {
        PROTOCOL_TCP => about_flow::<A, F, T>(frame, tables, node, (l3, l4), inner_l4),
        PROTOCOL_IPV4 => match A::told_mtu(icmp) {
            Some(mtu) => about_tunnel::<A, Be32, F, T>(frame, tables, scratch, inner_l4, mtu),
            None => pass(PassReason::IcmpUnrelated),
        },
        PROTOCOL_IPV6 => match A::told_mtu(icmp) {
            Some(mtu) => about_tunnel::<A, Be128, F, T>(frame, tables, scratch, inner_l4, mtu),
            None => pass(PassReason::IcmpUnrelated),
        },
        _ => pass(PassReason::IcmpUnrelated),
    }
}

/// An error about a packet of a flow: rewritten as a packet of the opposite direction is.
#[inline(always)]
fn about_flow<A: Quoted, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    (l3, l4): (usize, usize),
    inner_l4: usize,
) -> Step {
    let quoted = l4 + ICMP_LEN;
    let Some(inner) = frame.header::<A::Header>(quoted) else { return INTERNAL };
    let Some(&[src_port, dst_port]) = frame.header::<[Be16; 2]>(inner_l4) else {
        return super::drop(DropReason::BadIcmp);
    };
    let key = FlowKey::new(A::destination(inner), dst_port, A::source(inner), src_port);
    let Some(entry) = entry_of(tables, &key) else { return pass(PassReason::IcmpUnrelated) };
    let mut hop = entry.client;
    let mut reason = TransmitReason::IcmpToClient;
    let mut tunnel = None;
    if entry.direction == TO_BACKEND {
        let Some(backend) = tables.backend(entry.backend) else { return INTERNAL };
        if entry.mode == MODE_LOCAL {
            return pass(PassReason::LocalBackend);
        }
        if !backend.hop.is_resolved() {
            tables.count(entry.backend, BackendCounter::Unresolved);
            return super::drop(DropReason::NextHopUnknown);
        }
        if entry.mode == MODE_DSR_IPIP {
            tunnel = Some(backend.address);
        }
        hop = backend.hop;
        reason = TransmitReason::IcmpToBackend;
    }
    let rewritten = entry.rewritten;

    let Some(ip) = frame.header_mut::<A::Header>(l3) else { return INTERNAL };
    // No error about an error.
    if A::hops(ip) <= 1 {
        return super::drop(DropReason::TtlExpired);
    }
    let (from, to) = (A::source(ip), A::destination(ip));
    // A router speaks for itself; the other end of the flow is hidden as in each of its packets.
    let source = if from == key.src { rewritten.src } else { from };
    let outer = address_sum((from, to), (source, rewritten.dst));
    A::rewrite(ip, source, rewritten.dst, header_delta::<A>(outer));

    let mut change = if A::IS_V6 { outer } else { Sum::ZERO };
    let Some(inner) = frame.header_mut::<A::Header>(quoted) else { return INTERNAL };
    let addresses = address_sum((A::source(inner), A::destination(inner)), (rewritten.dst, rewritten.src));
    change = change.plus(A::readdress(inner, rewritten.dst, rewritten.src));
    let ports = port_sum(&key, &rewritten);
    let Some(place) = frame.header_mut::<[Be16; 2]>(inner_l4) else { return INTERNAL };
    *place = [rewritten.dst_port, rewritten.src_port];
    change = change.plus(ports);
    // Routers need not quote so much (RFC 792).
    if let Some(place) = frame.header_mut::<Be16>(inner_l4 + TCP_CHECKSUM_OFFSET) {
        let before = *place;
        *place = Delta::new(addresses.plus(ports)).apply(before);
        change = change.minus_be16(before).be16(*place);
    }
    let Some(icmp) = frame.header_mut::<Icmp>(l4) else { return INTERNAL };
    icmp.checksum = Delta::new(change).apply(icmp.checksum);

    let sent = match tunnel {
        None => link::leave(frame, l3, &hop, A::ETHERTYPE, 0).is_some(),
        Some(backend) => tunnel::encapsulate::<A, F>(frame, node, l3, &hop, backend),
    };
    if sent { Step::Done(Verdict::Transmit(reason)) } else { INTERNAL }
}

/// The entry of the direction that has this key; where replies are not seen and nothing is remembered, the one that the
/// Maglev table makes of it.
#[inline(always)]
fn entry_of<A: Family, T: Tables + FlowTables<A>>(tables: &T, key: &FlowKey<A>) -> Option<FlowEntry<A>> {
    if let Some(slot) = tables.flow(Level::Established, key) {
        return Some(slot.read());
    }
    if let Some(slot) = tables.flow(Level::HalfOpen, key) {
        return Some(slot.read());
    }
    let service = tables.service(&ServiceKey::new(key.dst.wide(), key.dst_port))?;
    if service.mode == MODE_NAT || service.balance != BALANCE_MAGLEV || service.usable == 0 {
        return None;
    }
    let id = tables.ring(service.index, hash::slot(hash::flow(key)))?;
    let mode = if tables.backend(id)?.local != 0 { MODE_LOCAL } else { service.mode };
    Some(flow::entry(key, key, (TO_BACKEND, mode), id, Hop::NONE, flow_clock(tables)))
}

/// "Too big" about a packet in one of our tunnels: what was in it becomes the frame, as if its client had just sent it, and
/// is answered with the MTU that the tunnel leaves.
#[inline(always)]
fn about_tunnel<A: Quoted, I: Quoted, F: Frame, T: Tables + FlowTables<I>>(
    frame: &mut F,
    tables: &T,
    scratch: Slot<Scratch>,
    inner: usize,
    mtu: u32,
) -> Step {
    let Some(ip) = frame.header::<I::Header>(inner) else { return super::drop(DropReason::BadIcmp) };
    if I::protocol(ip) != PROTOCOL_TCP || I::header_len(ip) != I::HEADER_LEN {
        return pass(PassReason::IcmpUnrelated);
    }
    let Some(&[src_port, dst_port]) = frame.header::<[Be16; 2]>(inner + I::HEADER_LEN) else {
        return super::drop(DropReason::BadIcmp);
    };
    let key = FlowKey::new(I::source(ip), src_port, I::destination(ip), dst_port);
    let level = if tables.flow(Level::Established, &key).is_some() { Level::Established } else { Level::HalfOpen };
    let Some(slot) = tables.flow(level, &key) else { return pass(PassReason::IcmpUnrelated) };
    let client = slot.with(|entry| entry.client);
    let as_sent = Hop { mac: client.source, source: client.mac, ..client };
    let tags = Tags { outer: client.outer, inner: client.inner };
    let Some(l3) = link::write(frame, inner, &as_sent, tags, I::ETHERTYPE, 0) else { return INTERNAL };
    let segment = Segment {
        key,
        l3,
        l4: l3 + I::HEADER_LEN,
        payload: 0,
        flags: TCP_ACK,
        later_fragment: false,
    };
    segment.leave(scratch);
    scratch.update(|scratch| {
        scratch.answer = ANSWER_TOO_BIG;
        scratch.mtu = mtu.saturating_sub(A::HEADER_LEN as u32);
        scratch.if_index = client.if_index;
    });
    Step::Next(I::ANSWER)
}
