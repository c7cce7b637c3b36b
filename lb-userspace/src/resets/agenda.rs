//! Which flows are to be reset next: orders, what of them is left, and how fast. Pure; `K` names a flow.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use lb_common::layout::BackendId;

use super::{ResetOrder, ResetReason, ResetReport, What, pace::Pace};

/// An order's name.
pub type OrderKey = (BackendId, ResetReason);

/// Orders that have not ended, and the reports of those that have.
#[derive(Debug)]
pub struct Agenda<K> {
    orders: BTreeMap<OrderKey, Order<K>>,
    reports: BTreeMap<OrderKey, ResetReport>,
}

#[derive(Debug)]
struct Order<K> {
    what: What,
    rate: u32,
    pace: Pace,
    /// Nobody has looked yet which flows it is about.
    is_fresh: bool,
    pending: VecDeque<K>,
    done: u64,
    number: u64,
    given: Instant,
}

impl<K> Default for Agenda<K> {
    fn default() -> Self {
        Self { orders: BTreeMap::new(), reports: BTreeMap::new() }
    }
}

impl<K> Agenda<K> {
    /// Takes an order of that time. One with the same name that has not ended goes on at the new rate, and which flows are
    /// meant is looked up anew.
    pub fn submit(&mut self, order: ResetOrder, given: Instant) {
        let key = (order.backend, order.why);
        let number = self.reports.get(&key).map_or(0, |report| report.order) + 1;
        let running = self.orders.entry(key).or_insert_with(|| Order {
            what: What::All,
            rate: order.rate,
            pace: Pace::new(order.rate, given),
            is_fresh: true,
            pending: VecDeque::new(),
            done: 0,
            number,
            given,
        });
        if running.rate != order.rate {
            running.pace.set_rate(order.rate, given);
            running.rate = order.rate;
        }
        running.what = order.what;
        running.is_fresh = true;
        self.report(key, given, false);
    }

    /// Ends an order; what it has done stays in its report.
    pub fn cancel(&mut self, key: OrderKey, now: Instant) {
        if let Some(order) = self.orders.get_mut(&key) {
            order.pending.clear();
            self.report(key, now, true);
            self.orders.remove(&key);
        }
    }

    /// Ends all orders.
    pub fn cancel_all(&mut self, now: Instant) {
        let keys: Vec<OrderKey> = self.orders.keys().copied().collect();
        keys.into_iter().for_each(|key| self.cancel(key, now));
    }

    /// Ends a backend's orders and forgets their reports.
    pub fn forget(&mut self, backend: BackendId) {
        self.orders.retain(|(id, _), _| *id != backend);
        self.reports.retain(|(id, _), _| *id != backend);
    }

    /// The orders of which nobody has looked yet which flows they are about, with what they say, and whether they need not
    /// wait: all flows, at once.
    pub fn fresh(&self) -> Vec<(OrderKey, What, bool)> {
        let fresh = self.orders.iter().filter(|(_, order)| order.is_fresh);
        fresh
            .map(|(&key, order)| (key, order.what.clone(), order.rate == 0 && order.what == What::All))
            .collect()
    }

    /// These flows it is about, in that order; `done` of them have been reset already.
    pub fn found(&mut self, key: OrderKey, flows: impl IntoIterator<Item = K>, done: u64, now: Instant) {
        if let Some(order) = self.orders.get_mut(&key) {
            order.is_fresh = false;
            order.pending = flows.into_iter().collect();
            order.done += done;
            self.settle(key, now);
        }
    }

    /// Takes out what may be reset at `now`, at most `at_most` flows.
    pub fn due(&mut self, at_most: usize, now: Instant) -> Vec<(OrderKey, K)> {
        let mut due = Vec::new();
        for (&key, order) in self.orders.iter_mut().filter(|(_, order)| !order.is_fresh) {
            let wanted = order.pending.len().min(at_most - due.len());
            let taken = order.pace.take(wanted, now);
            due.extend(order.pending.drain(..taken).map(|flow| (key, flow)));
        }
        due
    }

    /// So many of an order's flows have just been reset.
    pub fn did(&mut self, key: OrderKey, flows: u64, now: Instant) {
        if let Some(order) = self.orders.get_mut(&key) {
            order.done += flows;
            self.settle(key, now);
        }
    }

    /// When [`due`](Self::due) has something next; `None` while nothing waits.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        let waiting = self.orders.values().filter(|order| !order.is_fresh && !order.pending.is_empty());
        waiting.map(|order| order.pace.next(now)).min()
    }

    /// The newest report of each order.
    pub fn reports(&self) -> &BTreeMap<OrderKey, ResetReport> {
        &self.reports
    }

    /// Reports on an order, and ends it where nothing is left.
    fn settle(&mut self, key: OrderKey, now: Instant) {
        let is_over = self.orders.get(&key).is_some_and(|order| !order.is_fresh && order.pending.is_empty());
        self.report(key, now, is_over);
        if is_over {
            self.orders.remove(&key);
        }
    }

    fn report(&mut self, key @ (backend, why): OrderKey, now: Instant, last: bool) {
        let Some(order) = self.orders.get(&key) else { return };
        let report = ResetReport {
            backend,
            why,
            order: order.number,
            done: order.done,
            left: order.pending.len() as u64,
            last,
            took: now.saturating_duration_since(order.given),
        };
        self.reports.insert(key, report);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEAD: OrderKey = (3, ResetReason::BackendDead);

    fn order(rate: u32) -> ResetOrder {
        ResetOrder { backend: DEAD.0, what: What::All, rate, why: DEAD.1 }
    }

    #[test]
    fn an_order_ends_when_all_that_was_found_has_been_reset() {
        let now = Instant::now();
        let mut agenda = Agenda::<u32>::default();
        agenda.submit(order(0), now);
        assert_eq!(agenda.fresh(), [(DEAD, What::All, true)]);
        assert_eq!(agenda.next(now), None, "nobody has looked yet");
        agenda.found(DEAD, [1, 2, 3], 5, now);
        assert_eq!(agenda.fresh(), []);
        assert_eq!(agenda.next(now), Some(now));
        assert_eq!(agenda.due(2, now), [(DEAD, 1), (DEAD, 2)]);
        agenda.did(DEAD, 2, now);
        let report = agenda.reports()[&DEAD];
        assert_eq!((report.done, report.left, report.last), (7, 1, false));
        assert_eq!(agenda.due(100, now), [(DEAD, 3)]);
        let later = now + Duration::from_millis(4);
        agenda.did(DEAD, 0, later);
        let report = agenda.reports()[&DEAD];
        assert_eq!((report.done, report.left, report.last), (7, 0, true), "the last one had ended by itself");
        assert_eq!(report.took, Duration::from_millis(4));
        assert_eq!(agenda.next(later), None);
    }

    #[test]
    fn an_order_about_nothing_ends_at_once_and_the_next_one_is_another() {
        let now = Instant::now();
        let mut agenda = Agenda::<u32>::default();
        for number in 1..=3 {
            agenda.submit(order(0), now);
            assert!(!agenda.reports()[&DEAD].last);
            agenda.found(DEAD, [], 0, now);
            let report = agenda.reports()[&DEAD];
            assert_eq!((report.order, report.done, report.last), (number, 0, true));
        }
    }

    #[test]
    fn given_again_it_keeps_its_pace_and_what_it_has_done() {
        let now = Instant::now();
        let mut agenda = Agenda::<u32>::default();
        agenda.submit(order(10), now);
        assert_eq!(agenda.fresh(), [(DEAD, What::All, false)]);
        agenda.found(DEAD, 0..100, 0, now);
        assert_eq!(agenda.due(100, now).len(), 1);
        agenda.did(DEAD, 1, now);
        agenda.submit(order(10), now);
        agenda.found(DEAD, 1..50, 0, now);
        assert_eq!(agenda.due(100, now), [], "not before a tenth of a second is over");
        assert_eq!(agenda.next(now), Some(now + Duration::from_millis(100)));
        let report = agenda.reports()[&DEAD];
        assert_eq!((report.order, report.done, report.left), (1, 1, 49));
    }

    #[test]
    fn a_cancelled_order_does_no_more() {
        let now = Instant::now();
        let mut agenda = Agenda::<u32>::default();
        agenda.submit(order(10), now);
        agenda.found(DEAD, 0..100, 0, now);
        agenda.due(100, now);
        agenda.did(DEAD, 1, now);
        agenda.cancel(DEAD, now);
        assert_eq!(agenda.next(now), None);
        let report = agenda.reports()[&DEAD];
        assert_eq!((report.done, report.left, report.last), (1, 0, true));
        agenda.did(DEAD, 1, now);
        assert_eq!(agenda.reports()[&DEAD], report, "too late to count");
        agenda.forget(DEAD.0);
        assert!(agenda.reports().is_empty());
        agenda.submit(order(10), now);
        agenda.cancel_all(now);
        assert!(agenda.reports()[&DEAD].last);
        assert_eq!(agenda.fresh(), []);
    }

    #[test]
    fn each_order_has_a_pace_of_its_own() {
        let now = Instant::now();
        let mut agenda = Agenda::<u32>::default();
        let other = (4, ResetReason::Rebalance);
        agenda.submit(order(1), now);
        agenda.submit(ResetOrder { backend: 4, what: What::Excess(9), rate: 0, why: other.1 }, now);
        agenda.found(DEAD, [1, 2], 0, now);
        agenda.found(other, [7, 8, 9], 0, now);
        assert_eq!(agenda.due(100, now), [(DEAD, 1), (other, 7), (other, 8), (other, 9)]);
        assert_eq!(agenda.next(now), Some(now + Duration::from_secs(1)));
    }
}
