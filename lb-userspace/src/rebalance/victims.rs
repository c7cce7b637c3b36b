//! Which connections are reset: who loses least by it. Pure.
//!
//! - *Those that have been silent for longest first.* A reset in the middle of an answer costs the client a request; one that
//!   waits (a watch without events, a pooled connection) is just opened again. Of those whose client has gone without a word
//!   nobody notices anything.
//! - *Of equally silent ones the youngest first.* The longer a client has been there, the more it has built up: watches,
//!   caches on the API server's side. And who was moved by a rebalance is young then, which does not matter: it is where there
//!   was room.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::flows::Flow;

/// The best of many flows, however many are offered.
#[derive(Clone, Debug)]
pub struct Victims {
    most: usize,
    /// The worst of those that are kept is on top.
    kept: BinaryHeap<Reverse<(Worth, Flow)>>,
}

/// The larger, the better: silence, then youth.
type Worth = (u32, Reverse<u32>);

impl Victims {
    /// Keeps at most so many.
    pub fn new(most: usize) -> Self {
        Self { most, kept: BinaryHeap::new() }
    }

    /// One more that might be reset.
    pub fn offer(&mut self, flow: Flow) {
        self.kept.push(Reverse(((flow.idle, Reverse(flow.age)), flow)));
        if self.kept.len() > self.most {
            self.kept.pop();
        }
    }

    /// Those that are to be reset, the worst first: `pop` gives the next one.
    pub fn into_worst_first(self) -> Vec<Flow> {
        let mut kept = self.kept.into_vec();
        kept.sort_by_key(|Reverse(ranked)| *ranked);
        kept.into_iter().map(|Reverse((_, flow))| flow).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flows::{Carried, FlowState};

    fn flow(port: u16, idle: u32, age: u32) -> Flow {
        Flow {
            client: ([10, 0, 0, 1], port).into(),
            service: ([172, 16, 0, 10], 6443).into(),
            backend: 0,
            translated_to: None,
            nat_port: None,
            state: FlowState::Established,
            age,
            idle,
            carried: Carried::default(),
        }
    }

    #[test]
    fn silence_counts_first_then_youth() {
        let mut victims = Victims::new(3);
        for (port, idle, age) in [(1, 0, 5), (2, 9, 900), (3, 0, 700), (4, 9, 30), (5, 40, 40), (6, 0, 1)] {
            victims.offer(flow(port, idle, age));
        }
        let ports: Vec<u16> = victims.into_worst_first().iter().map(|flow| flow.client.port()).collect();
        assert_eq!(ports, [2, 4, 5], "the next one is the last");
        let mut victims = Victims::new(10);
        victims.offer(flow(1, 0, 5));
        victims.offer(flow(2, 0, 4));
        let ports: Vec<u16> = victims.into_worst_first().iter().map(|flow| flow.client.port()).collect();
        assert_eq!(ports, [1, 2]);
        let mut none = Victims::new(0);
        none.offer(flow(1, 0, 5));
        assert!(none.into_worst_first().is_empty());
    }
}
