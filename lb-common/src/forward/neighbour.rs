//! The stage for neighbour solicitations and advertisements (RFC 4861 §4.3, §4.4; RFC 9568 §8.2.2).

use super::{
    INTERNAL, Step,
    claim::{self, Known},
    pass,
};
use crate::{
    checksum::{self, Sum},
    family::Address as _,
    frame::Frame,
    layout::{MacWord, NodeEntry, Scratch, VipEntry},
    link::{self, Tags},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment,
    tables::{Slot, Tables},
    wire::{
        Be16, Be32, Be128, ETHERTYPE_IPV6, Ethernet, ICMP_LEN, ICMPV6_NEIGHBOUR_ADVERTISEMENT,
        ICMPV6_NEIGHBOUR_SOLICITATION, IPV6_LEN, Icmp, Ipv6, Mac, NEIGHBOUR_LEN, NEIGHBOUR_OPTION_UNIT,
        NEIGHBOUR_OVERRIDE, NEIGHBOUR_SOLICITED, OPTION_SOURCE_ADDRESS, OPTION_TARGET_ADDRESS,
        PROTOCOL_ICMPV6,
    },
};

/// Anything less has passed a router (RFC 4861 §7.1).
const HOPS: u8 = 255;
/// Options that are looked at, in units of eight bytes. A message with more is the host's to judge.
const UNITS_AT_MOST: usize = 8;
/// An advertisement with its one option.
const REPLY_LEN: usize = NEIGHBOUR_LEN + NEIGHBOUR_OPTION_UNIT;
const ALL_NODES: Be128 = Be128::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
/// Where frames for all nodes go (RFC 2464 §7).
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Whether it is neighbour discovery about addresses.
#[inline(always)]
pub const fn is_neighbour_discovery(kind: u8) -> bool {
    kind == ICMPV6_NEIGHBOUR_SOLICITATION || kind == ICMPV6_NEIGHBOUR_ADVERTISEMENT
}

/// What a message says.
#[derive(Clone, Copy)]
struct Said {
    source: Be128,
    destination: Be128,
    target: Be128,
    /// The Ethernet address in the option that the message may have, or else of the frame.
    mac: MacWord,
}

/// What a message is about: whether it is a solicitation, its target, and the address that it claims.
#[inline(always)]
fn about<F: Frame>(frame: &F, scratch: Slot<Scratch>) -> Option<(bool, Be128, Be128)> {
    let (l3, l4) = segment::offsets(&scratch.reread());
    let solicits = frame.header::<Icmp>(l4)?.kind == ICMPV6_NEIGHBOUR_SOLICITATION;
    let target = *frame.header::<Be128>(l4 + ICMP_LEN)?;
    // A solicitation claims what it comes from, an advertisement what it is about.
    let claimed = if solicits { frame.header::<Ipv6>(l3)?.src } else { target };
    Some((solicits, target, claimed))
}

#[inline(always)]
const fn heard(solicits: bool) -> PassReason {
    if solicits { PassReason::NeighbourSolicitation } else { PassReason::NeighbourAdvertisement }
}

/// Notes who says that a VIP is its own, and answers solicitations for those with a virtual Ethernet address; silences them
/// as the stage for ARP does.
#[inline(always)]
pub fn neighbour<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let (_, l4) = segment::offsets(&scratch.read());
    let Some(icmp) = frame.header::<Icmp>(l4) else { return INTERNAL };
    let solicits = icmp.kind == ICMPV6_NEIGHBOUR_SOLICITATION;
    let Some((_, target, claimed)) = about(frame, scratch) else { return pass(heard(solicits)) };
    let is_vip = |address: Be128| node.may_be_vip(address) && tables.vip(address).is_some();
    if !is_vip(target) && !is_vip(claimed) {
        return pass(heard(solicits));
    }
    // Everything else is asked after this, once more: the verifier would look at all that a message says once for each
    // answer.
    let said = said(frame, scratch);
    let Some((solicits, target, claimed)) = about(frame, scratch) else { return INTERNAL };
    let asked = Known::of(tables, node, target);
    let is_fenced = solicits && asked.is_fenced(tables, node, target);
    let claim = Known::of(tables, node, claimed);
    if let Some(said) = said
        && let Some(ethernet) = frame.header::<Ethernet>(0)
        && claim.is_claimed(node, MacWord::new(ethernet.src), said.mac)
    {
        claim::note(tables, claimed, said.mac);
        return if is_fenced { super::drop(DropReason::Fenced) } else { pass(PassReason::ForeignClaim) };
    }
    if is_fenced {
        return super::drop(DropReason::Fenced);
    }
    let Some(said) = said else { return pass(PassReason::BadNeighbour) };
    let asks = solicits && !claim.is_vip && asked.entry.virtual_mac != MacWord::ZERO;
    if asks { answer(frame, node, scratch, &said, &asked.entry) } else { pass(heard(solicits)) }
}

/// What a message says, where it is sound (RFC 4861 §7.1.1, §7.1.2).
#[inline(always)]
fn said<F: Frame>(frame: &F, scratch: Slot<Scratch>) -> Option<Said> {
    let (l3, l4) = segment::offsets(&scratch.reread());
    let ip = frame.header::<Ipv6>(l3)?;
    let (source, destination) = (ip.src, ip.dst);
    let len = usize::from(ip.payload_length.get());
    let begins = ip.version_class_flow.get() >> 28 == 6 && ip.hop_limit == HOPS && l4 == l3 + IPV6_LEN;
    let options = len.wrapping_sub(NEIGHBOUR_LEN);
    if !begins || len < NEIGHBOUR_LEN || options % NEIGHBOUR_OPTION_UNIT != 0 {
        return None;
    }
    if options > UNITS_AT_MOST * NEIGHBOUR_OPTION_UNIT || len + IPV6_LEN > frame.len() - l3 {
        return None;
    }
    let icmp = frame.header::<Icmp>(l4)?;
    let solicits = icmp.kind == ICMPV6_NEIGHBOUR_SOLICITATION;
    if icmp.code != 0 {
        return None;
    }
    let mut sum = checksum::icmp_header(icmp).plus(checksum::pseudo_header(
        source,
        destination,
        PROTOCOL_ICMPV6,
        len as u16,
    ));
    let target = *frame.header::<Be128>(l4 + ICMP_LEN)?;
    sum = sum.be128(target);
    let from = MacWord::new(frame.header::<Ethernet>(0)?.src);
    let wanted = if solicits { OPTION_SOURCE_ADDRESS } else { OPTION_TARGET_ADDRESS };
    // Both in a map: the verifier would follow the rest once for each way to either.
    let (mac, rest) =
        (scratch.field(|scratch| &mut scratch.other_node), scratch.field(|scratch| &mut scratch.rest));
    mac.update(|mac| *mac = from);
    rest.update(|rest| *rest = 0);
    for unit in 0..UNITS_AT_MOST {
        if unit * NEIGHBOUR_OPTION_UNIT >= options {
            break;
        }
        let &[a, b] = frame.header::<[Be32; 2]>(l4 + NEIGHBOUR_LEN + unit * NEIGHBOUR_OPTION_UNIT)?;
        sum = sum.be32(a).be32(b);
        let mut units_left = rest.reread();
        if units_left == 0 {
            let ([kind, units, c, d], [e, f, g, h]) = (a.octets(), b.octets());
            if units == 0 {
                return None;
            }
            if kind == wanted {
                mac.update(|mac| *mac = MacWord::new([c, d, e, f, g, h]));
                // Without an address a solicitation cannot have one on the link.
                if units != 1 || (solicits && source == Be128::ZERO) {
                    return None;
                }
            }
            units_left = u32::from(units);
        }
        rest.update(|rest| *rest = units_left.wrapping_sub(1));
    }
    let mac = mac.reread();
    let is_group = |address: Be128| address.octets()[0] == 0xff;
    let is_sound = rest.reread() == 0
        && sum.fold() == 0xffff
        && !is_group(target)
        && !is_group(source)
        && claim::is_somebodys(mac)
        && if solicits {
            source != Be128::ZERO || is_solicited_node(destination)
        } else {
            // An answer to one is not for a group.
            !(is_group(destination) && icmp.rest.get() & NEIGHBOUR_SOLICITED != 0)
        };
    is_sound.then_some(Said { source, destination, target, mac })
}

/// RFC 4291 §2.7.1: ff02::1:ff00:0/104.
#[inline(always)]
fn is_solicited_node(address: Be128) -> bool {
    let [a, b, c, d] = address.words();
    a == Be32::new(0xff02_0000) && b.word() == 0 && c == Be32::new(1) && d.get() >> 24 == 0xff
}

/// Answers a sound solicitation for a VIP with a virtual Ethernet address, if it has that here.
#[inline(always)]
fn answer<F: Frame>(
    frame: &mut F,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    said: &Said,
    vip: &VipEntry,
) -> Step {
    const PASS: Step = pass(PassReason::NeighbourSolicitation);
    let own = node.mac_of(vip.if_index).filter(|_| vip.if_index == frame.if_index());
    let (Some(own), Some(ethernet)) = (own, frame.header::<Ethernet>(0)) else { return PASS };
    let to = MacWord::new(ethernet.dst);
    let for_us = node.is_own_mac(to) || to == vip.virtual_mac || is_solicited_node(said.destination);
    if !for_us {
        return pass(PassReason::OtherHost);
    }
    match reply(frame, scratch, said, own, vip.virtual_mac) {
        Some(()) => Step::Done(Verdict::Transmit(TransmitReason::NeighbourReply)),
        None => INTERNAL,
    }
}

/// Turns a solicitation into the advertisement that answers it. The frame itself comes from the interface's own address
/// (RFC 9568 §8.2.2).
#[inline(always)]
fn reply<F: Frame>(
    frame: &mut F,
    scratch: Slot<Scratch>,
    said: &Said,
    own: MacWord,
    virtual_mac: MacWord,
) -> Option<()> {
    // Who asks without an address of its own is told together with everybody (RFC 4861 §7.2.4).
    let is_probe = said.source == Be128::ZERO;
    let (destination, to, flags) = if is_probe {
        (ALL_NODES, MacWord::new(ALL_NODES_MAC), NEIGHBOUR_OVERRIDE)
    } else {
        (said.source, said.mac, NEIGHBOUR_SOLICITED | NEIGHBOUR_OVERRIDE)
    };
    let [a, b, c, d, e, f] = virtual_mac.octets();
    let option = [Be32::from_octets([OPTION_TARGET_ADDRESS, 1, a, b]), Be32::from_octets([c, d, e, f])];
    let mut icmp = Icmp {
        kind: ICMPV6_NEIGHBOUR_ADVERTISEMENT,
        code: 0,
        checksum: Be16::new(0),
        rest: Be32::new(flags),
    };
    let sum: Sum = checksum::icmp_header(&icmp).be128(said.target).be32(option[0]).be32(option[1]);
    icmp.checksum = sum
        .plus(checksum::pseudo_header(said.target, destination, PROTOCOL_ICMPV6, REPLY_LEN as u16))
        .checksum();

    let (l3, _) = segment::offsets(&scratch.reread());
    let mut way = link::way_back(frame, l3);
    let tags = Tags { outer: way.outer, inner: way.inner };
    (way.mac, way.source) = (to, own);
    // A solicitation may be shorter than what answers it.
    if !frame.truncate(l3 + IPV6_LEN + NEIGHBOUR_LEN) {
        return None;
    }
    let begin = link::write(frame, l3, &way, tags, ETHERTYPE_IPV6, NEIGHBOUR_OPTION_UNIT)?;
    *frame.header_mut::<Ipv6>(begin)? =
        Be128::header(said.target, destination, PROTOCOL_ICMPV6, REPLY_LEN as u16, HOPS, 0);
    *frame.header_mut::<Icmp>(begin + IPV6_LEN)? = icmp;
    *frame.header_mut::<Be128>(begin + IPV6_LEN + ICMP_LEN)? = said.target;
    *frame.header_mut::<[Be32; 2]>(begin + IPV6_LEN + NEIGHBOUR_LEN)? = option;
    Some(())
}
