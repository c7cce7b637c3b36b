//! The first stage: everything that is not for a VIP leaves here; what is for one goes on to [`super::established`].

use super::{
    Family, PARSE, Step,
    established::{Sound, established},
    pass,
};
use crate::{
    frame::Frame,
    layout::{MacWord, NodeEntry},
    link,
    reason::PassReason,
    tables::{FlowTables, Tables},
    wire::{
        Be32, Be128, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ethernet, Ipv4, Ipv6,
        PROTOCOL_ICMPV6, PROTOCOL_VRRP,
    },
};

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

/// What is looked at whoever it is for.
trait Overheard: Family {
    /// VRRP, or what may be neighbour discovery.
    fn is_overheard(header: &Self::Header) -> bool;
}

impl Overheard for Be32 {
    #[inline(always)]
    fn is_overheard(header: &Ipv4) -> bool {
        header.protocol == PROTOCOL_VRRP
    }
}

impl Overheard for Be128 {
    #[inline(always)]
    fn is_overheard(header: &Ipv6) -> bool {
        header.next_header == PROTOCOL_ICMPV6 || header.next_header == PROTOCOL_VRRP
    }
}

#[inline(always)]
fn plain<A: Overheard + Sound, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
) -> Step {
    const L3: usize = ETHERNET_LEN;
    let Some(ip) = frame.header::<A::Header>(L3) else { return pass(PassReason::TooShort) };
    let destination = A::destination(ip);
    if !node.may_be_vip(destination) {
        return if A::is_overheard(ip) { PARSE } else { pass(PassReason::NotVip) };
    }
    if node.untagged == 0 {
        return pass(PassReason::OtherVlan);
    }
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return pass(PassReason::TooShort) };
    if !node.is_own_mac(MacWord::read(&ethernet.dst)) && !link::is_for_virtual_router(frame, node) {
        return pass(PassReason::OtherHost);
    }
    established::<A, F, T>(frame, tables, node)
}
