//! The flows whose news a peer has still to get: each once, the oldest news first, and not more than fit.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use super::record::FlowId;

/// The most flows in a queue. With more, telling all flows is cheaper than remembering which have changed.
pub const MOST: usize = 65_536;

/// There is no room: everything was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    order: VecDeque<FlowId>,
    /// Since when each waits.
    since: HashMap<FlowId, Instant>,
}

impl Queue {
    /// A flow has changed. Where it waits already, it keeps its place: it is read when its turn comes.
    ///
    /// # Errors
    /// [`Overflow`]: the queue is empty now.
    pub fn push(&mut self, id: FlowId, now: Instant) -> Result<(), Overflow> {
        if self.since.contains_key(&id) {
            return Ok(());
        }
        if self.order.len() == MOST {
            self.clear();
            return Err(Overflow);
        }
        self.order.push_back(id);
        self.since.insert(id, now);
        Ok(())
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<(FlowId, Instant)> {
        let id = self.order.pop_front()?;
        self.since.remove(&id).map(|since| (id, since))
    }

    /// Since when the oldest waits.
    pub fn oldest(&self) -> Option<Instant> {
        self.order.front().and_then(|id| self.since.get(id)).copied()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets all, and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: u32) -> FlowId {
        let client = std::net::SocketAddr::from((number.to_be_bytes(), 4000));
        FlowId { client, service: "172.16.0.10:6443".parse().expect("an address") }
    }

    #[test]
    fn each_flow_waits_once_and_keeps_its_place() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut queue = Queue::default();
        for (at, number) in [(0, 1), (1, 2), (2, 1)] {
            queue.push(id(number), later(at)).expect("room");
        }
        assert_eq!((queue.len(), queue.oldest()), (2, Some(start)));
        assert_eq!(queue.pop(), Some((id(1), start)));
        // It has left, so it may come again.
        queue.push(id(1), later(3)).expect("room");
        assert_eq!(queue.pop(), Some((id(2), later(1))));
        assert_eq!(queue.pop(), Some((id(1), later(3))));
        assert_eq!((queue.pop(), queue.oldest(), queue.len()), (None, None, 0));
    }

    #[test]
    fn one_more_than_fits_empties_it() {
        let now = Instant::now();
        let mut queue = Queue::default();
        for number in 0..MOST as u32 {
            assert_eq!(queue.push(id(number), now), Ok(()));
        }
        assert_eq!(queue.push(id(5), now), Ok(()), "it waits already");
        assert_eq!(queue.push(id(MOST as u32), now), Err(Overflow));
        assert_eq!(queue.len(), 0);
        assert_eq!(queue.push(id(1), now), Ok(()));
    }
}
