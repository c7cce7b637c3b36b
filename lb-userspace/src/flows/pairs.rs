//! The two directions of flows, put together as they come by: a walk through a table shows each by itself, in no order.

use std::collections::HashMap;

use lb_common::{
    family::Address,
    layout::{FlowEntry, FlowKey, Seen, TO_BACKEND, TO_CLIENT},
};

use super::has_reply;

/// Directions that wait for the other one: half as many as there are flows at most, some 50 bytes each with IPv4.
#[derive(Debug)]
pub struct Pairs<A> {
    waiting: HashMap<FlowKey<A>, Seen>,
}

impl<A> Default for Pairs<A> {
    fn default() -> Self {
        Self { waiting: HashMap::new() }
    }
}

impl<A: Address> Pairs<A> {
    /// Takes the next direction of a flow. `Some` where the flow is whole by it; there is no other one in it where the flow has one
    /// direction only. Of the other one only what it has seen, and which one it is, is as in its entry.
    pub fn meet(&mut self, key: &FlowKey<A>, entry: &FlowEntry<A>) -> Option<Option<FlowEntry<A>>> {
        if !has_reply(entry) {
            return Some(None);
        }
        let Some(seen) = self.waiting.remove(&entry.rewritten.reversed()) else {
            self.waiting.insert(*key, entry.seen);
            return None;
        };
        let direction = if entry.direction == TO_BACKEND { TO_CLIENT } else { TO_BACKEND };
        Some(Some(FlowEntry { seen, direction, ..*entry }))
    }

    /// The keys of those whose other direction has not come by.
    pub fn left(self) -> impl Iterator<Item = FlowKey<A>> {
        self.waiting.into_keys()
    }
}

#[cfg(test)]
mod tests {
    use lb_common::{
        checksum::Delta,
        layout::{Hop, MODE_DSR_L2, MODE_NAT, SEEN_FIN},
        wire::{Be16, Be32},
    };

    use super::*;
    use crate::flows::{Phase, carried, phase};

    type Direction = (FlowKey<Be32>, FlowEntry<Be32>);

    /// Both directions of the flow of a client's port.
    fn flow(port: u16) -> [Direction; 2] {
        let (client, vip, node, backend) =
            (Be32::new(0xac11_0001), Be32::new(0xac10_000a), Be32::new(0xac10_0002), Be32::new(0xac10_0004));
        let service = Be16::new(6443);
        let key = FlowKey::new(client, Be16::new(port), vip, service);
        let rewritten = FlowKey::new(node, Be16::new(port), backend, service);
        let entry = |rewritten, direction, packets| FlowEntry {
            rewritten,
            client: Hop::NONE,
            ip_delta: Delta::default(),
            tcp_delta: Delta::default(),
            backend: 3,
            direction,
            mode: MODE_NAT,
            opened: 0,
            attempt: 0,
            _pad: 0,
            seen: Seen { packets, ..Seen::default() },
        };
        [(key, entry(rewritten, TO_BACKEND, 7)), (rewritten.reversed(), entry(key.reversed(), TO_CLIENT, 5))]
    }

    #[test]
    fn a_flow_is_whole_by_its_second_direction_whichever_that_is() {
        for order in [[0, 1], [1, 0]] {
            let mut flow = flow(40_000);
            flow[1].1.seen.flags = SEEN_FIN;
            let mut pairs = Pairs::default();
            let [(first_key, first), (key, entry)] = order.map(|n| flow[n]);
            assert_eq!(pairs.meet(&first_key, &first), None);
            let other = pairs.meet(&key, &entry).flatten().expect("its other direction came by");
            assert_eq!((other.seen, other.direction), (first.seen, first.direction));
            assert_eq!(phase(&entry, Some(&other)), Phase::HalfClosed);
            let carried = carried(&entry, Some(&other));
            assert_eq!((carried.packets_in, carried.packets_out), (7, 5));
            assert_eq!(pairs.left().next(), None);
        }
    }

    #[test]
    fn who_has_no_other_direction_does_not_wait_for_one() {
        let [(key, entry), _] = flow(40_000);
        let one_way = FlowEntry { mode: MODE_DSR_L2, rewritten: key, ..entry };
        let mut pairs = Pairs::default();
        assert_eq!(pairs.meet(&key, &one_way), Some(None));
        assert_eq!(pairs.left().next(), None);
    }

    #[test]
    fn flows_do_not_meet_each_other_and_half_a_flow_is_left() {
        let mut pairs = Pairs::default();
        let flows = [flow(40_000), flow(40_001), flow(40_002)];
        for (key, entry) in [flows[0][0], flows[1][1], flows[2][0]] {
            assert_eq!(pairs.meet(&key, &entry), None);
        }
        let (key, entry) = flows[1][0];
        assert!(pairs.meet(&key, &entry).flatten().is_some());
        let mut left: Vec<_> = pairs.left().map(|key| key.src_port.get()).collect();
        left.sort_unstable();
        assert_eq!(left, [40_000, 40_002]);
    }
}
