//! Who may answer for a VIP, and who else says that it is its own.

use super::Family;
use crate::{
    layout::{ClaimEntry, MacWord, NodeEntry, VipEntry},
    tables::Tables,
    wire::Be128,
};

/// A heartbeat that old is not written by anybody: it comes four times a second, or more often; and no lease is shorter.
const AWAY_NS: u64 = 300_000_000;

/// What is known of an address. No `Option`: every word of this is written whatever it is, and the verifier reads them all.
#[derive(Clone, Copy)]
pub struct Known {
    /// Whether it is a VIP.
    pub is_vip: bool,
    /// Its entry; without meaning where it is none.
    pub entry: VipEntry,
}

impl Known {
    /// Looks it up.
    #[inline(always)]
    pub fn of<A: Family, T: Tables>(tables: &T, node: &NodeEntry, address: A) -> Self {
        let mut known = Self { is_vip: false, entry: VipEntry::new(false) };
        if node.may_be_vip(address)
            && let Some(entry) = tables.vip(address.wide())
        {
            known = Self { is_vip: true, entry };
        }
        known
    }

    /// Whether it, `address`, is a VIP that nobody on this node may answer for now: its lease is over; or nobody writes the
    /// heartbeat, and another node has said since that the VIP is its own. The lease is long during a planned restart,
    /// and not every node has heard that it is.
    #[inline(always)]
    pub fn is_fenced<A: Family, T: Tables>(&self, tables: &T, node: &NodeEntry, address: A) -> bool {
        if !self.is_vip || self.entry.fenced == 0 {
            return false;
        }
        let Some(pulse) = tables.pulse() else { return false };
        let silence = tables.monotonic_ns().saturating_sub(pulse.heartbeat_ns);
        silence > node.lease_ns
            || (silence > AWAY_NS
                && tables
                    .claim(&address.wide())
                    .is_some_and(|claim| claim.with(|claim| claim.at_ns) > pulse.heartbeat_ns))
    }

    /// Whether it is a VIP, and what comes from `sender` and says that it is at `mac` is another node's word. Our own frames
    /// come back where a switch reflects them.
    #[inline(always)]
    pub fn is_claimed(&self, node: &NodeEntry, sender: MacWord, mac: MacWord) -> bool {
        let ours = |mac| node.is_own_mac(mac) || mac == self.entry.virtual_mac;
        self.is_vip && !ours(sender) && !ours(mac)
    }
}

/// Whether an Ethernet address is that of one interface of somebody.
#[inline(always)]
pub fn is_somebodys(mac: MacWord) -> bool {
    let [first, ..] = mac.octets();
    // The lowest bit of the first byte marks groups (IEEE 802.3 §3.2.3).
    mac != MacWord::ZERO && first & 1 == 0
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
