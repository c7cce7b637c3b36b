//! The stage for ICMP and ICMPv6: errors about a flow go to the flow's backend or client, as if the packet that they
//! quote had been that one's own (RFC 5508 §4); errors about our tunnels become errors about what was in them.

use super::{
    INTERNAL, Stage, Step,
    answer::Quote,
    flow::{self, port_sum},
    neighbour, pass, tunnel,
};
use crate::{
    checksum::{Delta, Sum},
    family::{address_sum, header_delta},
    frame::Frame,
    hash,
    layout::{
        ANSWER_TOO_BIG, BackendId, FlowEntry, FlowKey, Hop, MODE_DSR_IPIP, MODE_LOCAL, MODE_NAT, NodeEntry,
        Scratch, ServiceKey, TO_BACKEND,
    },
    link::{self, Tags},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment,
    tables::{BackendCounter, FlowTables, Slot, Tables},
    wire::{
        Be16, Be32, Be128, ICMP_FRAGMENTATION_NEEDED, ICMP_LEN, ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED,
        ICMP_UNREACHABLE, ICMPV6_PARAMETER_PROBLEM, ICMPV6_TOO_BIG, ICMPV6_UNREACHABLE, IPV4_MIN_LEN,
        IPV4_OFFSET_MASK, IPV6_LEN, Icmp, Ipv4, Ipv6, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, TCP_ACK,
        Tcp,
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
    /// Whether this is a header at all, and of a packet with its first bytes.
    fn has_ports(header: &Self::Header) -> bool;
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
    fn has_ports(header: &Ipv4) -> bool {
        let words = header.version_ihl;
        words >> 4 == 4
            && words & 0x0f >= (IPV4_MIN_LEN / 4) as u8
            && header.fragment.get() & IPV4_OFFSET_MASK == 0
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
    fn has_ports(header: &Ipv6) -> bool {
        header.version_class_flow.get() >> 28 == 6
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

/// Looks at an ICMP message for a VIP, for an address of the node's own, or for a group.
#[inline(always)]
pub fn icmp<A: Quoted, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let (l3, l4) = segment::offsets(&scratch.read());
    let Some(ip) = frame.header::<A::Header>(l3) else { return pass(PassReason::TooShort) };
    let Some(icmp) = frame.header::<Icmp>(l4) else { return pass(PassReason::NotTcp) };
    if A::IS_V6 && neighbour::is_neighbour_discovery(icmp.kind) {
        // Behind extension headers.
        return Step::Next(Stage::Neighbour);
    }
    if !A::is_error(icmp.kind) {
        return pass(PassReason::NotTcp);
    }
    let destination = A::destination(ip);
    let quoted = l4 + ICMP_LEN;
    let Some(inner) = frame.header::<A::Header>(quoted) else { return pass(PassReason::IcmpUnrelated) };
    // An error comes back to where its packet came from.
    if A::source(inner) != destination || !A::has_ports(inner) {
        return pass(PassReason::IcmpUnrelated);
    }
    let inner_l4 = quoted + A::header_len(inner);
    match A::protocol(inner) {
        PROTOCOL_TCP => about_flow::<A, F, T>(frame, tables, node, (l3, l4), inner_l4),
        PROTOCOL_IPV4 | PROTOCOL_IPV6 if A::told_mtu(icmp).is_some() => Step::Next(A::TUNNEL),
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
    let Some(ip) = frame.header::<A::Header>(l3) else { return INTERNAL };
    let end = l3 + A::packet_len(ip);
    let Some(inner) = frame.header::<A::Header>(quoted) else { return INTERNAL };
    let ports = frame.header::<[Be16; 2]>(inner_l4);
    let Some(&[src_port, dst_port]) = ports.filter(|_| inner_l4 + 4 <= end) else {
        return super::drop(DropReason::BadIcmp);
    };
    let key = FlowKey::new(A::destination(inner), dst_port, A::source(inner), src_port);
    let slot = flow::known(tables, &key);
    let (id, mode) = match slot {
        Some(slot) => slot.with(|entry| (entry.backend, entry.mode)),
        None => match by_maglev(tables, &key) {
            Some(choice) => choice,
            None => return pass(PassReason::IcmpUnrelated),
        },
    };
    if mode == MODE_LOCAL {
        return pass(PassReason::LocalBackend);
    }
    let Some(ip) = frame.header::<A::Header>(l3) else { return INTERNAL };
    // No error about an error.
    if A::hops(ip) <= 1 {
        return super::drop(DropReason::TtlExpired);
    }
    let to_client = slot.is_some_and(|slot| slot.with(|entry| entry.direction) != TO_BACKEND);
    let Some(backend) = tables.backend(id) else { return INTERNAL };
    if !to_client && !backend.hop.is_resolved() {
        tables.count(id, BackendCounter::Unresolved);
        return super::drop(DropReason::NextHopUnknown);
    }
    let rewritten = match slot {
        Some(slot) if mode == MODE_NAT => translate(frame, &key, slot, (l3, l4), inner_l4),
        _ => take_hop::<A, F>(frame, l3),
    };
    if rewritten.is_none() {
        return INTERNAL;
    }
    let sent = if mode == MODE_DSR_IPIP {
        tunnel::encapsulate::<A, F>(frame, node, l3, &backend.hop, backend.address)
    } else {
        match slot {
            Some(slot) if to_client => {
                slot.with(|entry| link::leave(frame, l3, &entry.client, A::ETHERTYPE, 0).is_some())
            }
            _ => link::leave(frame, l3, &backend.hop, A::ETHERTYPE, 0).is_some(),
        }
    };
    if !sent {
        return INTERNAL;
    }
    Step::Done(Verdict::Transmit(if to_client {
        TransmitReason::IcmpToClient
    } else {
        TransmitReason::IcmpToBackend
    }))
}

/// Rewrites an error as packets of the direction `slot` are, and what it quotes as the packet was before it was rewritten.
#[inline(always)]
fn translate<A: Quoted, F: Frame>(
    frame: &mut F,
    key: &FlowKey<A>,
    slot: Slot<FlowEntry<A>>,
    (l3, l4): (usize, usize),
    inner_l4: usize,
) -> Option<()> {
    let ip = frame.header_mut::<A::Header>(l3)?;
    let end = l3 + A::packet_len(ip);
    let (from, to) = (A::source(ip), A::destination(ip));
    // A router speaks for itself; the other end of the flow is hidden as in each of its packets.
    let (hidden, destination) = slot.with(|entry| (entry.rewritten.src, entry.rewritten.dst));
    let source = if from == key.src { hidden } else { from };
    let outer = address_sum((from, to), (source, destination));
    A::rewrite(ip, source, destination, header_delta::<A>(outer));

    let mut change = if A::IS_V6 { outer } else { Sum::ZERO };
    let inner = frame.header_mut::<A::Header>(l4 + ICMP_LEN)?;
    let addresses = address_sum((A::source(inner), A::destination(inner)), (destination, hidden));
    change = change.plus(A::readdress(inner, destination, hidden));
    let (src_port, dst_port) = slot.with(|entry| (entry.rewritten.src_port, entry.rewritten.dst_port));
    let ports = slot.with(|entry| port_sum(key, &entry.rewritten));
    *frame.header_mut::<[Be16; 2]>(inner_l4)? = [dst_port, src_port];
    change = change.plus(ports);
    // Routers need not quote so much (RFC 792); what follows in the frame is padding then.
    if inner_l4 + TCP_CHECKSUM_OFFSET + size_of::<Be16>() <= end
        && let Some(place) = frame.header_mut::<Be16>(inner_l4 + TCP_CHECKSUM_OFFSET)
    {
        let before = *place;
        *place = Delta::new(addresses.plus(ports)).apply(before);
        change = change.minus_be16(before).be16(*place);
    }
    let icmp = frame.header_mut::<Icmp>(l4)?;
    icmp.checksum = Delta::new(change).apply(icmp.checksum);
    Some(())
}

/// Nothing to rewrite but the hops.
#[inline(always)]
fn take_hop<A: Quoted, F: Frame>(frame: &mut F, l3: usize) -> Option<()> {
    let ip = frame.header_mut::<A::Header>(l3)?;
    let (from, to) = (A::source(ip), A::destination(ip));
    A::rewrite(ip, from, to, header_delta::<A>(Sum::ZERO));
    Some(())
}

/// The backend, and how it is reached, that the Maglev table has for a flow of which nothing is remembered; where replies
/// are not seen, that is as good.
#[inline(always)]
fn by_maglev<A: Quoted, T: Tables>(tables: &T, key: &FlowKey<A>) -> Option<(BackendId, u8)> {
    let service = tables.service(&ServiceKey::new(key.dst.wide(), key.dst_port))?;
    if !service.is_stateless() {
        return None;
    }
    let id = tables.ring(service.index, hash::slot(hash::flow(key)))?;
    Some((id, tables.backend(id)?.mode_of_flows(&service)))
}

/// "Too big" about a packet in one of our tunnels: what was in it becomes the frame, as if its client had just sent it, and
/// is answered with the MTU that the tunnel leaves.
#[inline(always)]
pub fn about_tunnel<A: Quoted, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    let (_, l4) = segment::offsets(&scratch.read());
    let Some(icmp) = frame.header::<Icmp>(l4) else { return INTERNAL };
    let Some(mtu) = A::told_mtu(icmp) else { return INTERNAL };
    let Some(outer) = frame.header::<A::Header>(l4 + ICMP_LEN) else { return INTERNAL };
    let inner = l4 + ICMP_LEN + A::header_len(outer);
    let mtu = mtu.saturating_sub(A::HEADER_LEN as u32);
    if A::protocol(outer) == PROTOCOL_IPV4 {
        about_tunnelled::<Be32, F, T>(frame, tables, scratch, inner, mtu)
    } else {
        about_tunnelled::<Be128, F, T>(frame, tables, scratch, inner, mtu)
    }
}

#[inline(always)]
fn about_tunnelled<A: Quoted, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    scratch: Slot<Scratch>,
    inner: usize,
    mtu: u32,
) -> Step {
    let Some(ip) = frame.header::<A::Header>(inner) else { return super::drop(DropReason::BadIcmp) };
    if A::protocol(ip) != PROTOCOL_TCP || A::header_len(ip) != A::HEADER_LEN {
        return pass(PassReason::IcmpUnrelated);
    }
    // The client is told no less than the answers quote.
    let Some(tcp) = frame.header::<Tcp>(inner + A::HEADER_LEN) else {
        return super::drop(DropReason::BadIcmp);
    };
    let key = FlowKey::new(A::source(ip), tcp.src_port, A::destination(ip), tcp.dst_port);
    let slot = flow::known(tables, &key);
    let Some(slot) = slot else { return pass(PassReason::IcmpUnrelated) };
    let client = slot.with(|entry| entry.client);
    let as_sent = Hop { mac: client.source, source: client.mac, ..client };
    let tags = Tags { outer: client.outer, inner: client.inner };
    let Some(l3) = link::write(frame, inner, &as_sent, tags, A::ETHERTYPE, 0) else { return INTERNAL };
    scratch.update(|scratch| {
        scratch.l3 = l3 as u32;
        scratch.l4 = (l3 + A::HEADER_LEN) as u32;
        scratch.payload = 0;
        scratch.flags = u32::from(TCP_ACK);
        scratch.answer = ANSWER_TOO_BIG;
        scratch.mtu = mtu;
        scratch.if_index = client.if_index;
    });
    Step::Next(A::ANSWER)
}
