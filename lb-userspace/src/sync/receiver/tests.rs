use super::*;
use crate::sync::{
    codec::{VERSION, answer},
    memory::{Memory, SLICES, VIP, flow},
    record::Applied,
};

struct Node {
    receiver: Receiver,
    store: Memory,
    holdings: BTreeSet<IpAddr>,
    status: ReceivingStatus,
    now: Instant,
}

impl Node {
    fn new(numbers: impl IntoIterator<Item = u32>) -> Self {
        let now = Instant::now();
        let listen = "172.16.0.3:7946".parse().expect("an address");
        let hello = Hello { version: VERSION, instance: [1; 16], node: "lb2".to_owned(), listen };
        Self {
            receiver: Receiver::new(hello, now),
            store: Memory::with(numbers),
            holdings: BTreeSet::new(),
            status: ReceivingStatus::default(),
            now,
        }
    }

    /// With all that follows of it.
    fn hears(&mut self, said: &Telling) -> Result<(), Refused> {
        let heard = self.only_hears(said);
        while self.receiver.is_retiring() {
            self.works();
        }
        heard
    }

    fn only_hears(&mut self, said: &Telling) -> Result<(), Refused> {
        let Self { receiver, store, holdings, status, now } = self;
        receiver.received(*now, &encode(said), holdings, store, status)
    }

    fn works(&mut self) {
        let Self { receiver, store, holdings, status, .. } = self;
        receiver.retire_some(holdings, store, status);
    }

    fn says(&mut self) -> Vec<Answer> {
        let messages = std::iter::from_fn(|| self.receiver.next_message(self.now));
        messages.map(|message| answer(&message).expect("sound")).collect()
    }
}

fn holds() -> Telling {
    Telling::Holdings(BTreeSet::from([VIP]))
}

fn records(seq: u64, full: bool, numbers: std::ops::Range<u32>) -> Telling {
    Telling::Records { seq, full, records: numbers.map(flow).collect() }
}

fn end(seq: u64, records: u64) -> Telling {
    Telling::SyncEnd { seq, records, held: BTreeSet::from([VIP]) }
}

#[test]
fn a_full_sync_of_the_holder_replaces_adds_and_retires() {
    let mut node = Node::new(5..15);
    let mut other = flow(7);
    other.age = 1;
    node.store.put(other);
    let said = [holds(), Telling::SyncBegin, records(1, true, 0..6), records(2, true, 6..8), end(3, 8)];
    for said in &said {
        assert!(!node.receiver.is_complete());
        assert_eq!(node.hears(said), Ok(()), "{said:?}");
    }
    assert!(node.receiver.is_complete());
    assert_eq!(*node.store.lock(), *Memory::with(0..8).lock());
    let ReceivingStatus { received, full_syncs, retired, applied, .. } = &node.status;
    assert_eq!((*received, *full_syncs, *retired), (8, 1, 7));
    assert_eq!(*applied, [(Applied::Inserted, 5), (Applied::Updated, 3)].into());
    assert!(matches!(&node.says()[..], [Answer::Hello(_), Answer::Ack(3)]));
    assert_eq!(node.says(), []);
}

#[test]
fn what_happens_during_a_full_sync_is_mentioned_by_it() {
    let mut node = Node::new([]);
    for said in [holds(), Telling::SyncBegin, records(1, true, 0..1), records(2, false, 1..2), end(3, 1)] {
        assert_eq!(node.hears(&said), Ok(()), "{said:?}");
    }
    assert_eq!((node.store.len(), node.status.retired), (2, 0));
}

/// However long it takes to forget flows, the peer hears at once that all its flows have arrived, and signs of life after that.
#[test]
fn forgetting_many_flows_keeps_nobody_waiting() {
    let mut node = Node::new(0..40);
    for said in [holds(), Telling::SyncBegin, records(1, true, 0..4), end(2, 4)] {
        assert_eq!(node.only_hears(&said), Ok(()), "{said:?}");
    }
    assert!(node.receiver.is_complete());
    assert!(matches!(&node.says()[..], [Answer::Hello(_), Answer::Ack(2)]));
    assert_eq!((node.store.len(), node.status.retired), (40, 0));
    let mut slices = 0;
    while node.receiver.is_retiring() {
        let before = node.store.len();
        node.works();
        slices += 1;
        assert_eq!(node.store.len(), before - 9, "a slice and no more");
        // The machine is busy; meanwhile the peer is heard and answered.
        node.now += crate::sync::pulse::DEAD / 2;
        assert_eq!(node.says(), [Answer::Alive]);
        assert_eq!(node.only_hears(&Telling::Alive), Ok(()));
        assert!(!node.receiver.is_dead(node.now));
    }
    assert_eq!((slices, node.status.retired), (SLICES, 36));
    assert_eq!(*node.store.lock(), *Memory::with(0..4).lock());
}

#[test]
fn what_is_told_while_flows_are_forgotten_is_not_forgotten() {
    let mut node = Node::new(0..40);
    for said in [holds(), Telling::SyncBegin, end(1, 0)] {
        assert_eq!(node.only_hears(&said), Ok(()), "{said:?}");
    }
    node.works();
    // News of flows of every slice, and the beginning of another full sync, which ends nothing.
    for said in [records(2, false, 20..24), Telling::SyncBegin, records(3, true, 24..28)] {
        assert_eq!(node.only_hears(&said), Ok(()), "{said:?}");
    }
    while node.receiver.is_retiring() {
        node.works();
    }
    // The first slice went before.
    assert_eq!(*node.store.lock(), *Memory::with(20..28).lock());
}

#[test]
fn who_takes_a_vip_over_forgets_no_more_of_its_flows() {
    for ours in [true, false] {
        let mut node = Node::new(0..40);
        for said in [holds(), Telling::SyncBegin, end(1, 0)] {
            assert_eq!(node.only_hears(&said), Ok(()), "{said:?}");
        }
        node.works();
        if ours {
            node.holdings.insert(VIP);
        } else {
            assert_eq!(node.only_hears(&Telling::Holdings(BTreeSet::new())), Ok(()));
        }
        node.works();
        assert!(!node.receiver.is_retiring());
        assert_eq!(node.store.len(), 30);
    }
}

#[test]
fn the_holder_is_not_taught_and_retires_nothing() {
    for ours in [true, false] {
        let mut node = Node::new(0..3);
        if ours {
            node.holdings.insert(VIP);
        }
        let mut known = flow(0);
        known.age = 1;
        node.store.put(known);
        // Either this node holds the VIP, whatever the sender says; or nobody does.
        let held = if ours { holds() } else { Telling::Holdings(BTreeSet::new()) };
        for said in [held, Telling::SyncBegin, records(1, true, 0..1), records(2, true, 9..10), end(3, 2)] {
            assert_eq!(node.hears(&said), Ok(()), "{said:?}");
        }
        assert_eq!((node.store.len(), node.status.retired), (4, 0));
        assert_eq!(node.store.read(&known.id), Some(known));
    }
}

#[test]
fn what_does_not_follow_is_refused_and_not_applied() {
    let begun = [holds(), Telling::SyncBegin, records(1, true, 0..4)];
    for (before, said) in [
        (&begun[..], records(3, true, 4..5)),
        (&begun[..], records(1, true, 4..5)),
        (&begun[..], records(0, false, 4..5)),
        (&begun[..], records(u64::MAX, false, 4..5)),
        (&begun[..], end(2, 5)),
        (&begun[..], end(3, 4)),
        (&begun[..1], records(1, true, 4..5)),
        (&begun[..1], end(1, 0)),
    ] {
        let mut node = Node::new(10..12);
        for said in before {
            assert_eq!(node.hears(said), Ok(()));
        }
        let flows = node.store.len();
        assert_eq!(node.hears(&said), Err(Refused::Malformed), "{said:?}");
        assert_eq!((node.store.len(), node.status.retired), (flows, 0), "{said:?}");
    }
    let mut node = Node::new([]);
    let hello = node.receiver.hello.clone().expect("not said yet");
    assert_eq!(node.hears(&Telling::Hello(hello)), Err(Refused::Malformed), "a second one");
}

#[test]
fn a_full_sync_from_before_does_not_count() {
    let mut node = Node::new([]);
    for said in [holds(), Telling::SyncBegin, records(1, true, 0..4)] {
        assert_eq!(node.hears(&said), Ok(()));
    }
    node.receiver.ask_again();
    assert_eq!(node.hears(&end(2, 4)), Ok(()));
    assert!(!node.receiver.is_complete());
    assert!(node.says().contains(&Answer::Again));
    for said in [Telling::SyncBegin, end(3, 0)] {
        assert_eq!(node.hears(&said), Ok(()));
    }
    assert!(node.receiver.is_complete());
}

#[test]
fn it_beats_and_dies_without_being_heard() {
    let mut node = Node::new([]);
    assert_eq!(node.says().len(), 1);
    let start = node.now;
    while !node.receiver.is_dead(node.now) {
        let wake = node.receiver.wake_at();
        assert!(wake > node.now, "no spinning");
        node.now = wake;
        assert!(node.says().len() <= 1);
    }
    assert_eq!(node.now - start, crate::sync::pulse::DEAD);
    // Each message, even an empty one, keeps it alive.
    assert_eq!(node.hears(&Telling::Alive), Ok(()));
    assert!(!node.receiver.is_dead(node.now));
}
