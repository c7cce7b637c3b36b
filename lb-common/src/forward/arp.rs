//! The stage for ARP about a VIP (RFC 826, RFC 9568 §8.1.2).

use super::{
    INTERNAL, Step,
    claim::{self, Known},
    pass,
};
use crate::{
    family::Address as _,
    frame::Frame,
    layout::{MacWord, NodeEntry, VipEntry},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment,
    tables::Tables,
    wire::{ARP_REPLY, ARP_REQUEST, Arp, Be16, ETHERTYPE_IPV4, Ethernet},
};

const ETHERNET_HARDWARE: Be16 = Be16::new(1);

/// Whether ARP may be about a VIP.
#[inline(always)]
pub fn is_about_vip(node: &NodeEntry, arp: &Arp) -> bool {
    node.may_be_vip(arp.target) || node.may_be_vip(arp.sender)
}

/// Notes who says that a VIP is its own, and answers requests for those with a virtual Ethernet address. While the
/// controller is not running, another node may have taken a VIP: then nobody answers here, neither we nor the kernel,
/// which still has the address.
#[inline(always)]
pub fn arp<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let (l3, _) = segment::offsets(&scratch.read());
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return INTERNAL };
    let (from, to) = (MacWord::new(ethernet.src), MacWord::new(ethernet.dst));
    let Some(arp) = frame.header::<Arp>(l3).copied() else { return INTERNAL };
    let sender_mac = MacWord::new(arp.sender_mac);
    let is_sound = arp.hardware == ETHERNET_HARDWARE
        && arp.protocol == ETHERTYPE_IPV4
        && arp.hardware_len == 6
        && arp.protocol_len == 4
        && (arp.operation == ARP_REQUEST || arp.operation == ARP_REPLY)
        && claim::is_somebodys(sender_mac);
    let (sender, target) = (Known::of(tables, node, arp.sender), Known::of(tables, node, arp.target));
    let is_claim = is_sound && sender.is_claimed(node, from, sender_mac);
    if is_claim {
        claim::note(tables, arp.sender.wide(), sender_mac);
    }
    if target.is_fenced(tables, node, arp.target) {
        return super::drop(DropReason::Fenced);
    }
    if is_claim {
        return pass(PassReason::ForeignClaim);
    }
    if !is_sound && (sender.is_vip || target.is_vip) {
        return pass(PassReason::BadArp);
    }
    let vip = target.entry;
    let asks = arp.operation == ARP_REQUEST && is_sound && target.is_vip && !sender.is_vip;
    if !asks || vip.virtual_mac == MacWord::ZERO || vip.if_index != frame.if_index() {
        return pass(PassReason::Arp);
    }
    let Some(own) = node.mac_of(vip.if_index) else { return pass(PassReason::Arp) };
    let for_us = to == BROADCAST || node.is_own_mac(to) || to == vip.virtual_mac;
    if !for_us {
        return pass(PassReason::OtherHost);
    }
    match reply(frame, l3, &arp, own, &vip) {
        Some(()) => Step::Done(Verdict::Transmit(TransmitReason::ArpReply)),
        None => INTERNAL,
    }
}

const BROADCAST: MacWord = MacWord::new([0xff; 6]);

/// Turns a request into its reply. The frame itself comes from the interface's own address (RFC 9568 §8.1.2): only
/// advertisements teach switches where the virtual one is.
#[inline(always)]
fn reply<F: Frame>(frame: &mut F, l3: usize, arp: &Arp, own: MacWord, vip: &VipEntry) -> Option<()> {
    let answer = frame.header_mut::<Arp>(l3)?;
    answer.operation = ARP_REPLY;
    answer.sender_mac = vip.virtual_mac.octets();
    answer.sender = arp.target;
    answer.target_mac = arp.sender_mac;
    answer.target = arp.sender;
    let ethernet = frame.header_mut::<Ethernet>(0)?;
    ethernet.dst = arp.sender_mac;
    ethernet.src = own.octets();
    Some(())
}
