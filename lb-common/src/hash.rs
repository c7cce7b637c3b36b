//! The hash of a flow, the same on every node and every machine: in the DSR modes a flow must reach the same backend
//! through any of the nodes.

use crate::{family::Address, layout::FlowKey};

/// Slots of a Maglev table: the prime that the paper calls its small size (Eisenbud et al., NSDI 2016, §3.4).
pub const MAGLEV_SLOTS: usize = 65_537;

/// A well-mixed 32-bit hash of the 5-tuple (the protocol is always TCP). The mixing steps are MurmurHash3's.
#[inline(always)]
pub fn flow<A: Address>(key: &FlowKey<A>) -> u32 {
    let ports = u32::from(key.src_port.get()) << 16 | u32::from(key.dst_port.get());
    let mut hash = address(0x7876_6970, key.src);
    hash = address(hash, key.dst);
    hash = mix(hash, ports);
    finish(hash)
}

#[inline(always)]
fn address<A: Address>(hash: u32, address: A) -> u32 {
    let [a, b, c, d] = address.wide().words();
    if A::IS_V6 { mix(mix(mix(mix(hash, a.get()), b.get()), c.get()), d.get()) } else { mix(hash, d.get()) }
}

/// Another hash from a hash, independent enough for a second choice.
#[inline(always)]
pub const fn again(hash: u32) -> u32 {
    finish(hash ^ 0x9e37_79b9)
}

/// The hash for a flow's `attempt`th choice of a backend; the 0th is the flow's own.
#[inline(always)]
pub const fn attempt(hash: u32, attempt: u32) -> u32 {
    if attempt == 0 { hash } else { again(hash.wrapping_add(attempt)) }
}

/// The Maglev slot of a hash: multiply and shift instead of a remainder, so that the verifier sees the bound.
#[inline(always)]
pub const fn slot(hash: u32) -> usize {
    ((hash as u64 * MAGLEV_SLOTS as u64) >> 32) as usize
}

#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[inline(always)]
const fn finish(mut hash: u32) -> u32 {
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Be16, Be32, Be128};

    fn key(src: u32, port: u16) -> FlowKey<Be32> {
        FlowKey::new(Be32::new(src), Be16::new(port), Be32::new(0xac10_000a), Be16::new(6443))
    }

    #[test]
    fn slots_cover_the_table_and_stay_inside() {
        assert_eq!(slot(0), 0);
        assert_eq!(slot(u32::MAX), MAGLEV_SLOTS - 1);
    }

    #[test]
    fn consecutive_ports_of_one_client_spread_evenly() {
        // A kubelet reconnects from consecutive ports; thirds of the table must see a third each, within 5 %.
        let mut thirds = [0u32; 3];
        for port in 32_768..60_999u16 {
            thirds[slot(flow(&key(0xac10_0064, port))) * 3 / MAGLEV_SLOTS] += 1;
        }
        let fair = (60_999 - 32_768) / 3;
        assert!(thirds.iter().all(|&n| n.abs_diff(fair) < fair / 20), "{thirds:?}");
    }

    #[test]
    fn the_hash_is_frozen() {
        // Nodes of different versions must agree; a change here is a change of protocol.
        assert_eq!(flow(&key(0xac10_0064, 40_000)), 2_565_273_331);
        let address = |last| Be128::from(core::net::Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, last));
        let key = FlowKey::new(address(0x64), Be16::new(40_000), address(10), Be16::new(6443));
        assert_eq!(flow(&key), 1_770_628_405);
    }
}
