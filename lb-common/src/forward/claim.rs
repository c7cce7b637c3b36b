//! Who may answer for a VIP, and who else says that it is its own.

use super::Family;
use crate::{
    layout::{ClaimEntry, MacWord, NodeEntry, VipEntry},
    tables::Tables,
    wire::Be128,
};

/// What is known of a VIP.
#[inline(always)]
pub fn vip<A: Family, T: Tables>(tables: &T, node: &NodeEntry, address: A) -> Option<VipEntry> {
    if node.may_be_vip(address) { tables.vip(address.wide()) } else { None }
}

/// Whether nobody on this node may answer for a VIP now.
#[inline(always)]
pub fn is_fenced<T: Tables>(tables: &T, node: &NodeEntry, vip: &VipEntry) -> bool {
    if vip.fenced == 0 {
        return false;
    }
    let Some(pulse) = tables.pulse() else { return false };
    tables.monotonic_ns().saturating_sub(pulse.heartbeat_ns) > node.lease_ns
}

/// Whether an Ethernet address is that of one interface of somebody.
#[inline(always)]
pub fn is_somebodys(mac: MacWord) -> bool {
    let [first, ..] = mac.octets();
    // The lowest bit of the first byte marks groups (IEEE 802.3 §3.2.3).
    mac != MacWord::ZERO && first & 1 == 0
}

/// Whether what comes from `sender` and says that a VIP is at `mac` is another node's word. Our own frames come back where
/// a switch reflects them.
#[inline(always)]
pub fn is_foreign(node: &NodeEntry, vip: &VipEntry, sender: MacWord, mac: MacWord) -> bool {
    let ours = |mac| node.is_own_mac(mac) || mac == vip.virtual_mac;
    !ours(sender) && !ours(mac)
}

/// Notes that somebody else has said that a VIP is at `mac`.
#[inline(always)]
pub fn note<T: Tables>(tables: &T, vip: Be128, mac: MacWord) {
    let at_ns = tables.monotonic_ns();
    match tables.claim(&vip) {
        Some(slot) => slot.update(|claim| {
            claim.at_ns = at_ns;
            claim.mac = mac;
            claim.count += 1;
        }),
        None => tables.remember_claim(&vip, &ClaimEntry { at_ns, mac, count: 1 }),
    }
}
