//! The stage for what is not plain: tags, IPv4 options, IPv6 extension headers, fragments, ICMP, ARP.

use super::{
    Family, INTERNAL, Stage, Step, arp, flow_clock,
    fragment::{self, Fragment},
    neighbour, pass,
};
use crate::{
    checksum,
    family::Address,
    frame::Frame,
    layout::{FlowKey, MacWord, NODE_OBSERVES, NodeEntry, Scratch},
    link::{self, Tags},
    reason::{DropReason, PassReason},
    segment::{self, Segment},
    tables::{Slot, Tables},
    wire::{
        Arp, Be32, Be128, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, IPV4_MIN_LEN,
        IPV4_OFFSET_MASK, IPV6_FRAGMENT_LEN, IPV6_LEN, IPV6_MORE_FRAGMENTS, Icmp, Ipv4, Ipv6, Ipv6Extension,
        Ipv6Fragment, PROTOCOL_DESTINATION, PROTOCOL_FRAGMENT, PROTOCOL_HOP_BY_HOP, PROTOCOL_ICMPV6,
        PROTOCOL_ROUTING, PROTOCOL_TCP, PROTOCOL_VRRP, TCP_MIN_LEN, Tcp,
    },
};

/// IPv6 extension headers that are looked past. RFC 8200 §4.1 orders seven, each once; a TCP segment with more than four
/// of them is nobody's.
const EXTENSIONS_AT_MOST: usize = 6;
const TOO_SHORT: Step = pass(PassReason::TooShort);

/// Finds the TCP or ICMP header.
#[inline(always)]
pub fn parse<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let Some((l3, ethertype)) = link::network(frame) else { return TOO_SHORT };
    let tags = Tags::of(frame, l3);
    let ours = if tags.outer.is_some() { node.takes_vlan(tags.outer.vlan()) } else { node.untagged != 0 };
    // One path for the verifier from here, however many tags there are.
    scratch.update(|scratch| scratch.l3 = l3 as u32);
    let (l3, _) = segment::offsets(&scratch.reread());
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, tables, node, scratch, l3, ours),
        ETHERTYPE_IPV6 => ipv6(frame, tables, node, scratch, l3, ours),
        _ if !ours || link::is_tag(ethertype) => pass(PassReason::OtherVlan),
        ETHERTYPE_ARP => match frame.header::<Arp>(l3) {
            Some(arp) if arp::is_about_vip(node, arp) => Step::Next(Stage::Arp),
            _ => pass(PassReason::Arp),
        },
        _ => pass(PassReason::NotIp),
    }
}

/// Whether a packet to this address is for us at all; if not, what becomes of it.
#[inline(always)]
fn not_ours<A: Family, F: Frame>(
    frame: &mut F,
    node: &NodeEntry,
    destination: A,
    ours: bool,
) -> Option<Step> {
    if !node.may_be_vip(destination) {
        return Some(pass(PassReason::NotVip));
    }
    if !ours {
        return Some(pass(PassReason::OtherVlan));
    }
    let is_own = frame.header::<Ethernet>(0).is_some_and(|frame| node.is_own_mac(MacWord::new(frame.dst)));
    if is_own || link::is_for_virtual_router(frame, node) { None } else { Some(pass(PassReason::OtherHost)) }
}

/// Drops a packet that is for a VIP; passes one that only hashes like one, or is for an address of the node's own.
#[inline(always)]
fn refuse<A: Family, T: Tables>(tables: &T, destination: A, reason: DropReason) -> Step {
    match (tables.vip(destination.wide()), tables.node()) {
        (Some(_), Some(node)) if node.flags & NODE_OBSERVES != 0 => pass(PassReason::Observed),
        (Some(_), _) => super::drop(reason),
        (None, _) => pass(PassReason::NotVip),
    }
}

#[inline(always)]
fn ipv4<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    l3: usize,
    ours: bool,
) -> Step {
    let Some(ip) = frame.header::<Ipv4>(l3) else { return TOO_SHORT };
    let (destination, protocol) = (ip.dst, ip.protocol);
    if protocol == PROTOCOL_VRRP {
        return if ours { Step::Next(Stage::Vrrp4) } else { pass(PassReason::OtherVlan) };
    }
    if let Some(step) = not_ours(frame, node, destination, ours) {
        return step;
    }
    let Some(ip) = frame.header::<Ipv4>(l3) else { return TOO_SHORT };
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_length.get());
    if ip.version_ihl >> 4 != 4
        || header_len < IPV4_MIN_LEN
        || total_len < header_len
        || total_len > frame.len() - l3
    {
        return refuse(tables, ip.dst, DropReason::BadIpHeader);
    }
    let fragment = Fragment {
        offset: ip.fragment.get() & IPV4_OFFSET_MASK,
        more: ip.fragment.get() & 0x2000 != 0,
        id: u32::from(ip.id.get()),
    };
    if protocol != PROTOCOL_TCP && (protocol != Be32::ICMP || fragment.is_part()) {
        return pass(PassReason::NotTcp);
    }
    if !header_is_intact(frame, ip, l3, header_len) {
        return refuse(tables, ip.dst, DropReason::BadIpChecksum);
    }
    scratch.update(|scratch| scratch.l4 = (l3 + header_len) as u32);
    // One path from here, however many options there are.
    let (_, l4) = segment::offsets(&scratch.reread());
    if protocol != PROTOCOL_TCP {
        return Step::Next(Be32::ICMP_STAGE);
    }
    tcp::<Be32, F, T>(frame, tables, scratch, l3, l4, total_len, fragment)
}

/// Whether the checksum of a header is right, its options included. A frame that ends within them is not.
#[inline(always)]
fn header_is_intact<F: Frame>(frame: &F, ip: &Ipv4, l3: usize, header_len: usize) -> bool {
    let mut sum = checksum::ipv4_header(ip);
    for word in 0..10 {
        let offset = IPV4_MIN_LEN + word * 4;
        if offset >= header_len {
            break;
        }
        let Some(option) = frame.header::<[u8; 4]>(l3 + offset) else { return false };
        sum = sum.be32(Be32::from_octets(*option));
    }
    sum.fold() == 0xffff
}

#[inline(always)]
fn ipv6<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    l3: usize,
    ours: bool,
) -> Step {
    let Some(ip) = frame.header::<Ipv6>(l3) else { return TOO_SHORT };
    let destination = ip.dst;
    // What is said about a VIP goes to groups and to other addresses, too.
    if ip.next_header == PROTOCOL_VRRP {
        return if ours { Step::Next(Stage::Vrrp6) } else { pass(PassReason::OtherVlan) };
    }
    if ip.next_header == PROTOCOL_ICMPV6
        && let Some(icmp) = frame.header::<Icmp>(l3 + IPV6_LEN)
        && neighbour::is_neighbour_discovery(icmp.kind)
    {
        scratch.update(|scratch| scratch.l4 = (l3 + IPV6_LEN) as u32);
        return if ours { Step::Next(Stage::Neighbour) } else { pass(PassReason::OtherVlan) };
    }
    if let Some(step) = not_ours(frame, node, destination, ours) {
        return step;
    }
    let Some(ip) = frame.header::<Ipv6>(l3) else { return TOO_SHORT };
    let total_len = usize::from(ip.payload_length.get()) + IPV6_LEN;
    if ip.version_class_flow.get() >> 28 != 6 || total_len > frame.len() - l3 {
        return refuse(tables, ip.dst, DropReason::BadIpHeader);
    }
    let mut protocol = ip.next_header;
    let mut l4 = l3 + IPV6_LEN;
    let mut fragment = Fragment { offset: 0, more: false, id: 0 };
    for _ in 0..EXTENSIONS_AT_MOST {
        if protocol == PROTOCOL_FRAGMENT {
            let Some(header) = frame.header::<Ipv6Fragment>(l4) else {
                return refuse(tables, destination, DropReason::BadExtension);
            };
            let bits = header.fragment.get();
            fragment =
                Fragment { offset: bits >> 3, more: bits & IPV6_MORE_FRAGMENTS != 0, id: header.id.get() };
            protocol = header.next_header;
            l4 += IPV6_FRAGMENT_LEN;
            if fragment.offset != 0 {
                break;
            }
        } else if protocol == PROTOCOL_HOP_BY_HOP
            || protocol == PROTOCOL_ROUTING
            || protocol == PROTOCOL_DESTINATION
        {
            let Some(header) = frame.header::<Ipv6Extension>(l4) else {
                return refuse(tables, destination, DropReason::BadExtension);
            };
            protocol = header.next_header;
            l4 += (usize::from(header.length) + 1) * 8;
        } else {
            break;
        }
    }
    if l4 - l3 > total_len {
        return refuse(tables, destination, DropReason::BadExtension);
    }
    // Such a fragment names what its first one begins with: where that is another extension, TCP comes behind it, if
    // anywhere (RFC 8200 §4.5). Which flow it is of, the first one has said.
    let hidden = matches!(protocol, PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION);
    if fragment.offset != 0 && hidden {
        protocol = PROTOCOL_TCP;
    }
    scratch.update(|scratch| scratch.l4 = l4 as u32);
    let (_, l4) = segment::offsets(&scratch.reread());
    match protocol {
        PROTOCOL_TCP => tcp::<Be128, F, T>(frame, tables, scratch, l3, l4, total_len, fragment),
        PROTOCOL_ICMPV6 if !fragment.is_part() => Step::Next(Be128::ICMP_STAGE),
        PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION | PROTOCOL_FRAGMENT => {
            refuse(tables, destination, DropReason::BadExtension)
        }
        _ => pass(PassReason::NotTcp),
    }
}

/// Checks the TCP header, and finds the ports of a fragment that has none.
#[inline(always)]
fn tcp<A: Family, F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    scratch: Slot<Scratch>,
    l3: usize,
    l4: usize,
    total_len: usize,
    fragment: Fragment,
) -> Step {
    let Some(ip) = frame.header::<A::Header>(l3) else { return TOO_SHORT };
    let (source, destination) = (A::source(ip), A::destination(ip));
    if fragment.offset != 0 {
        if fragment.offset == 1 {
            return refuse(tables, destination, DropReason::BadFragment);
        }
        let key = fragment.key(source, destination);
        return match fragment::recall(tables, &key, flow_clock(tables)) {
            Some(ports) => {
                fragment::leave_later(scratch, l3, l4, total_len, ports);
                Step::Next(A::SLOW)
            }
            None => refuse(tables, destination, DropReason::FragmentUnknown),
        };
    }
    // A first fragment without a whole TCP header hides it from us (RFC 1858 §3).
    let too_short = if fragment.more { DropReason::BadFragment } else { DropReason::BadTcpHeader };
    let Some(tcp) = frame.header::<Tcp>(l4) else { return refuse(tables, destination, too_short) };
    let tcp_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_len < TCP_MIN_LEN || l4 - l3 + tcp_len > total_len {
        return refuse(tables, destination, too_short);
    }
    let segment = Segment {
        key: FlowKey::new(source, tcp.src_port, destination, tcp.dst_port),
        l3,
        l4,
        payload: (total_len - (l4 - l3) - tcp_len) as u16,
        flags: tcp.flags,
        later_fragment: false,
    };
    segment.leave(scratch);
    if fragment.more {
        fragment::remember(tables, &fragment.key(source, destination), &segment.key, flow_clock(tables));
    }
    Step::Next(A::SLOW)
}
