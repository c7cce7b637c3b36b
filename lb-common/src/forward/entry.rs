//! The first stage: everything that is not for a VIP, and plain packets of established flows.

use super::{Family, INTERNAL, Stage, Step, flow_clock, leave_to_slow, pass, send::send};
use crate::{
    checksum,
    frame::Frame,
    layout::{FlowKey, MacWord, NodeEntry, SEEN_RST, SEEN_SEVERED, TO_BACKEND},
    link,
    reason::PassReason,
    segment::Segment,
    tables::{FlowTables, Level, Tables},
    wire::{
        Be32, Be128, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet,
        IPV4_FRAGMENT_MASK, Ipv4, Ipv6, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_VRRP, TCP_FIN, TCP_MIN_LEN,
        TCP_RST, TCP_SYN, Tcp,
    },
};

const PARSE: Step = Step::Next(Stage::Parse);

/// Looks at a frame first.
#[inline(always)]
pub fn entry<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let Some(node) = tables.node() else { return pass(PassReason::NotConfigured) };
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return pass(PassReason::TooShort) };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => plain::<Be32, F, T>(frame, tables, node),
        ETHERTYPE_IPV6 => plain::<Be128, F, T>(frame, tables, node),
        ETHERTYPE_ARP => PARSE,
        other if link::is_tag(other) => PARSE,
        _ => pass(PassReason::NotIp),
    }
}

/// What tells whether a packet is as plain as nearly all are.
trait Plain: Family {
    /// A sound header without options, of a whole TCP segment.
    fn is_plain(header: &Self::Header) -> bool;
    /// VRRP, or what may be neighbour discovery: looked at whoever it is for.
    fn is_overheard(header: &Self::Header) -> bool;
}

impl Plain for Be32 {
    #[inline(always)]
    fn is_plain(header: &Ipv4) -> bool {
        header.version_ihl == 0x45
            && header.protocol == PROTOCOL_TCP
            && header.fragment.get() & IPV4_FRAGMENT_MASK == 0
            && checksum::ipv4_header(header).fold() == 0xffff
    }

    #[inline(always)]
    fn is_overheard(header: &Ipv4) -> bool {
        header.protocol == PROTOCOL_VRRP
    }
}

impl Plain for Be128 {
    #[inline(always)]
    fn is_plain(header: &Ipv6) -> bool {
        header.version_class_flow.get() >> 28 == 6 && header.next_header == PROTOCOL_TCP
    }

    #[inline(always)]
    fn is_overheard(header: &Ipv6) -> bool {
        header.next_header == PROTOCOL_ICMPV6 || header.next_header == PROTOCOL_VRRP
    }
}

#[inline(always)]
fn plain<A: Plain, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T, node: &NodeEntry) -> Step {
    const L3: usize = ETHERNET_LEN;
    let Some(mut ip) = frame.header::<A::Header>(L3) else { return pass(PassReason::TooShort) };
    let destination = A::destination(ip);
    if !node.may_be_vip(destination) {
        return if A::is_overheard(ip) { PARSE } else { pass(PassReason::NotVip) };
    }
    if node.untagged == 0 {
        return pass(PassReason::OtherVlan);
    }
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return pass(PassReason::TooShort) };
    let source_mac = MacWord::new(ethernet.src);
    if !node.is_own_mac(MacWord::new(ethernet.dst)) {
        if !link::is_for_virtual_router(frame, node) {
            return pass(PassReason::OtherHost);
        }
        let Some(again) = frame.header::<A::Header>(L3) else { return pass(PassReason::TooShort) };
        ip = again;
    }
    let packet_len = A::packet_len(ip);
    // What is not as it should be is judged where there is room for it.
    if !A::is_plain(ip) || packet_len > frame.len() - L3 {
        return PARSE;
    }
    let l4 = L3 + A::HEADER_LEN;
    let Some(tcp) = frame.header::<Tcp>(l4) else { return PARSE };
    let tcp_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_len < TCP_MIN_LEN || A::HEADER_LEN + tcp_len > packet_len {
        return PARSE;
    }
    let segment = Segment {
        key: FlowKey::new(A::source(ip), tcp.src_port, destination, tcp.dst_port),
        l3: L3,
        l4,
        payload: (packet_len - A::HEADER_LEN - tcp_len) as u16,
        flags: tcp.flags,
        later_fragment: false,
    };
    // What begins or ends a flow changes more than its entry.
    if !segment.has(TCP_SYN | TCP_FIN | TCP_RST)
        && let Some(slot) = tables.flow(Level::Established, &segment.key)
    {
        let entry = slot.read();
        let clock = flow_clock(tables);
        let moved = entry.direction == TO_BACKEND
            && (entry.client.mac != source_mac
                || entry.client.if_index != frame.if_index()
                || entry.client.outer.is_some());
        let ended = entry.seen.flags & (SEEN_RST | SEEN_SEVERED) != 0;
        if entry.seen.silence(clock) <= node.idle_timeout && !moved && !ended {
            return send::<true, A, F, T>(frame, tables, node, &segment, slot, clock);
        }
    }
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    leave_to_slow(scratch, &segment)
}
