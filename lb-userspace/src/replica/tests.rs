use std::collections::BTreeSet;

use lb_common::{
    layout::{MODE_DSR_IPIP, MODE_DSR_L2, SEEN_REBUILT},
    wire::{Be32, Be128},
};
use proptest::prelude::*;

use super::*;
use crate::desired::{
    PoolEntry,
    tests::{link, vlan},
};

const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 0xc1];
/// The flow clocks of the two nodes.
const CLOCK: u32 = 5_000;
const OTHER_CLOCK: u32 = 7;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn vip(v6: bool) -> SocketAddr {
    socket(if v6 { "[fd10::10]:6443" } else { "172.16.0.10:6443" })
}

fn client(v6: bool) -> SocketAddr {
    socket(if v6 { "[fd20::7]:40000" } else { "10.0.0.7:40000" })
}

fn backend(v6: bool, n: u8) -> SocketAddr {
    let ip =
        if v6 { IpAddr::from([0xfd10, 0, 0, 0, 0, 0, 0, n.into()]) } else { IpAddr::from([172, 16, 0, n]) };
    SocketAddr::new(ip, 6443)
}

/// A node: its services in this mode, backends 4, 5 and 6, of which one may be itself; ids from `first` on.
struct Node {
    tables: Tables,
    ids: BackendIds,
    links: Vec<Link>,
}

impl Node {
    fn new(mode: u8, first: usize, links: Vec<Link>) -> Self {
        let services = [false, true].map(|v6| ServiceKey::new(vip(v6).ip().into(), Be16::new(6443)));
        let entries = |n: &[u8]| -> Vec<PoolEntry> {
            let of = |v6: bool| {
                n.iter()
                    .map(move |&n| PoolEntry { service: services[usize::from(v6)], address: backend(v6, n) })
            };
            of(false).chain(of(true)).collect()
        };
        let mut ids = BackendIds::default();
        // Ids that others have had first.
        let taken: Vec<u8> = (100..).take(first).collect();
        let mut all = entries(&taken);
        assert!(ids.assign(&all, 0).is_empty());
        all.extend(entries(&[4, 5, 6]));
        assert!(ids.assign(&all, 0).is_empty());
        let mut tables = Tables::default();
        for service in services {
            let entry = ServiceEntry { snat: service.vip, usable: 3, mode, ..ServiceEntry::default() };
            tables.services.insert(service, entry);
        }
        for (id, identity) in ids.all() {
            let (address, port) = (identity.address.ip().into(), Be16::new(identity.address.port()));
            tables.backends.insert(id, BackendEntry { address, port, ..BackendEntry::default() });
        }
        Self { tables, ids, links }
    }

    fn id(&self, v6: bool, n: u8) -> BackendId {
        let service = ServiceKey::new(vip(v6).ip().into(), Be16::new(6443));
        self.ids.id(&PoolEntry { service, address: backend(v6, n) }).expect("a backend")
    }

    fn is(mut self, n: u8) -> Self {
        for v6 in [false, true] {
            let id = self.id(v6, n);
            self.tables.backends.get_mut(&id).expect("it has an entry").local = 1;
        }
        self
    }

    fn landmarks(&self) -> Landmarks {
        Landmarks::new(&self.tables, &self.ids, &self.links, BTreeMap::new())
    }

    /// A flow to the backend `n` that was opened 100 s ago and last heard 3 s (client) and 2 s (backend) ago.
    fn flow<A: Address>(&self, v6: bool, n: u8) -> OwnFlow<A> {
        let key = FlowKey::new(
            narrow(client(v6).ip()),
            Be16::new(client(v6).port()),
            narrow(vip(v6).ip()),
            Be16::new(vip(v6).port()),
        );
        let id = self.id(v6, n);
        let mode =
            self.tables.backends[&id].mode_of_flows(self.tables.services.values().next().expect("one"));
        let link = &self.links[0];
        let mut tags = link.tags.iter().map(|tag| TagWord::new(Be16::new(tag.protocol), Be16::new(tag.id)));
        let hop = Hop {
            mac: MacWord::new(CLIENT_MAC),
            source: MacWord::new(link.mac.expect("an address")),
            if_index: link.parent,
            outer: tags.next().unwrap_or(TagWord::NONE),
            inner: tags.next().unwrap_or(TagWord::NONE),
            flags: 0,
        };
        let made = |key: &FlowKey<A>, rewritten: &FlowKey<A>, to, seen| FlowEntry {
            seen,
            ..flow_entry(key, rewritten, (to, mode), id, &hop, CLOCK - 100)
        };
        let to_backend =
            Seen { packets: 9, bytes: 900, next_seq: 17, ack: 23, flags: SEEN_SYN, at: CLOCK - 3 };
        let to_client =
            Seen { packets: 8, bytes: 8000, next_seq: 24, ack: 17, flags: SEEN_SYN, at: CLOCK - 2 };
        if mode != MODE_NAT {
            return OwnFlow { key, forward: made(&key, &key, TO_BACKEND, to_backend), reply: None };
        }
        let rewritten = FlowKey::new(
            key.dst,
            Be16::new(33_333),
            narrow(backend(v6, n).ip()),
            Be16::new(backend(v6, n).port()),
        );
        let forward = FlowEntry { attempt: 1, ..made(&key, &rewritten, TO_BACKEND, to_backend) };
        let reply = made(&rewritten.reversed(), &key.reversed(), TO_CLIENT, to_client);
        OwnFlow { key, forward, reply: Some(reply) }
    }

    fn told<A: Address>(&self, flow: &OwnFlow<A>) -> Option<FlowRecord> {
        self.landmarks().record(&flow.key, &flow.forward, flow.reply.as_ref(), CLOCK)
    }
}

/// Another node than [`link`]'s, whose interface has another index and address.
fn other_link() -> Link {
    Link { mac: Some([2, 0, 0, 0, 0, 0x0b]), ..link("ens3", 7) }
}

fn here(mode: u8) -> Node {
    Node::new(mode, 0, vec![link("eth0", 2)])
}

fn there(mode: u8) -> Node {
    Node::new(mode, 5, vec![other_link()])
}

/// The flow is told and taken over: all is the same but for what is the other node's own.
fn goes_over<A: Address>(mode: u8, v6: bool) {
    let (sender, receiver) = (here(mode), there(mode));
    assert_ne!(sender.id(v6, 5), receiver.id(v6, 5));
    let flow = sender.flow::<A>(v6, 5);
    let record = sender.told(&flow).expect("it can be told");
    assert_eq!((record.id.client, record.id.service, record.backend), (client(v6), vip(v6), backend(v6, 5)));
    assert_eq!((record.age, record.to_backend.silence), (100, 3));
    let own: OwnFlow<A> = receiver.landmarks().own(&record, OTHER_CLOCK).expect("it can be here");
    let expected = |entry: &FlowEntry<A>, silence| {
        let link = other_link();
        let client =
            Hop { source: MacWord::new([2, 0, 0, 0, 0, 0x0b]), if_index: link.parent, ..entry.client };
        let seen = Seen { at: OTHER_CLOCK.wrapping_sub(silence), ..entry.seen };
        FlowEntry {
            backend: receiver.id(v6, 5),
            client,
            opened: OTHER_CLOCK.wrapping_sub(100),
            seen,
            ..*entry
        }
    };
    assert_eq!(own.key, flow.key);
    assert_eq!(own.forward, expected(&flow.forward, 3));
    assert_eq!(own.reply, flow.reply.map(|reply| expected(&reply, 2)));
    assert_eq!(own.forward.seen.silence(OTHER_CLOCK), 3);
}

#[test]
fn a_flow_goes_over_in_the_other_nodes_terms() {
    for mode in [MODE_NAT, MODE_DSR_L2, MODE_DSR_IPIP] {
        goes_over::<Be32>(mode, false);
        goes_over::<Be128>(mode, true);
    }
}

#[test]
fn flags_of_this_node_alone_are_not_told() {
    let sender = here(MODE_NAT);
    let mut flow = sender.flow::<Be32>(false, 4);
    flow.forward.seen.flags = SEEN_SYN | SEEN_FIN | SEEN_REBUILT;
    let record = sender.told(&flow).expect("it can be told");
    assert_eq!(record.to_backend.flags, SEEN_SYN | SEEN_FIN);
    flow.forward.seen.flags |= SEEN_SEVERED;
    assert_eq!(
        sender.told(&flow).map(|told| told.to_backend.flags),
        Some(SEEN_SYN | SEEN_FIN | SEEN_SEVERED)
    );
}

#[test]
fn what_is_bound_to_its_node_is_not_told() {
    let sender = here(MODE_NAT);
    let mut flow = sender.flow::<Be32>(false, 4);
    assert!(sender.told(&flow).is_some());
    assert_eq!(sender.told(&OwnFlow { reply: None, ..flow }), None, "half a flow");
    flow.forward.backend = 4000;
    assert_eq!(sender.told(&flow), None, "of no backend that there is");

    let local = here(MODE_NAT).is(4);
    let flow = local.flow::<Be32>(false, 4);
    assert_eq!(flow.forward.mode, MODE_LOCAL);
    assert_eq!(local.told(&flow), None, "the host has it");
    let direct = here(MODE_DSR_L2).is(4);
    let flow = direct.flow::<Be32>(false, 4);
    assert_eq!(flow.forward.mode, MODE_LOCAL);
    assert!(direct.told(&flow).is_some(), "another node would send it here");

    let mut own_address = here(MODE_NAT);
    for entry in own_address.tables.services.values_mut() {
        entry.flags |= SERVICE_SNAT_NODE;
    }
    let flow = own_address.flow::<Be32>(false, 4);
    assert_eq!(own_address.told(&flow), None, "its replies go to this node");
    let mut gone = here(MODE_NAT);
    let flow = gone.flow::<Be32>(false, 4);
    gone.tables.services.clear();
    assert_eq!(gone.told(&flow), None, "of no service any more");
}

#[test]
fn co_located_nodes_each_have_their_own_backend() {
    // The sender's own backend is a remote one here, and the other way round.
    let sender = here(MODE_DSR_IPIP).is(4);
    let receiver = there(MODE_DSR_IPIP).is(5);
    let own = |n| -> OwnFlow<Be32> {
        let record = sender.told(&sender.flow::<Be32>(false, n)).expect("it can be told");
        receiver.landmarks().own(&record, OTHER_CLOCK).expect("it can be here")
    };
    assert_eq!([4, 5, 6].map(|n| own(n).forward.mode), [MODE_DSR_IPIP, MODE_LOCAL, MODE_DSR_IPIP]);

    // With NAT the host would see packets from itself.
    let sender = here(MODE_NAT).is(4);
    let receiver = there(MODE_NAT).is(5).landmarks();
    let of = |n| sender.told(&sender.flow::<Be32>(false, n));
    assert_eq!(of(4), None);
    assert_eq!(receiver.own::<Be32>(&of(5).expect("told"), OTHER_CLOCK), Err(Applied::NotHere));
    assert!(receiver.own::<Be32>(&of(6).expect("told"), OTHER_CLOCK).is_ok());
}

#[test]
fn what_is_not_known_here_is_told_apart() {
    let sender = here(MODE_NAT);
    let record = sender.told(&sender.flow::<Be32>(false, 4)).expect("told");
    let receiver = there(MODE_NAT);
    let outcome = |change: &dyn Fn(&mut FlowRecord)| {
        let mut record = record;
        change(&mut record);
        receiver.landmarks().own::<Be32>(&record, OTHER_CLOCK).map(drop)
    };
    assert_eq!(outcome(&|_| ()), Ok(()));
    assert_eq!(
        outcome(&|record| record.id.service = socket("172.16.0.10:7000")),
        Err(Applied::UnknownService)
    );
    assert_eq!(outcome(&|record| record.backend = socket("172.16.0.9:6443")), Err(Applied::UnknownBackend));
    assert_eq!(outcome(&|record| record.nat = None), Err(Applied::NotHere));
    assert_eq!(outcome(&|record| record.to_client = None), Err(Applied::NotHere));
    assert_eq!(outcome(&|record| record.nat = Some(socket("172.16.0.2:40000"))), Err(Applied::NotHere));
    assert_eq!(outcome(&|record| record.nat = Some(socket("172.16.0.10:0"))), Err(Applied::NotHere));
    let direct = there(MODE_DSR_L2).landmarks();
    assert_eq!(direct.own::<Be32>(&record, OTHER_CLOCK).map(drop), Err(Applied::NotHere), "another mode");
}

#[test]
fn one_that_drains_is_found_until_it_comes_back() {
    let mut receiver = there(MODE_NAT);
    let old = receiver.id(false, 4);
    let keep: Vec<PoolEntry> = receiver
        .ids
        .all()
        .filter_map(|(id, identity)| {
            let service = identity.service.filter(|_| id != old)?;
            Some(PoolEntry { service, address: identity.address })
        })
        .collect();
    assert!(receiver.ids.assign(&keep, 9).is_empty());
    assert_eq!(receiver.ids.draining(), 1);
    let sender = here(MODE_NAT);
    let record = sender.told(&sender.flow::<Be32>(false, 4)).expect("told");
    let own: OwnFlow<Be32> = receiver.landmarks().own(&record, OTHER_CLOCK).expect("it drains");
    assert_eq!(own.forward.backend, old);
}

#[test]
fn the_way_back_is_by_the_same_interface_of_the_list() {
    let legs = |first: &str, parent: u32| {
        vec![link(first, parent), vlan("a", parent + 1, 100), vlan("b", parent + 1, 200)]
    };
    let sender = Node::new(MODE_NAT, 0, legs("eth0", 2)).landmarks();
    let receiver = Node::new(MODE_NAT, 0, legs("ens3", 11)).landmarks();
    let tag = |id: u16| TagWord::new(Be16::new(0x8100), Be16::new(id));
    let hop = |if_index, outer| Hop { mac: MacWord::new(CLIENT_MAC), if_index, outer, ..Hop::NONE };
    for (from, link, to) in [
        (hop(2, TagWord::NONE), 0, hop(11, TagWord::NONE)),
        (hop(3, tag(200)), 2, hop(12, tag(200))),
        // The client's frames have a priority beside their VLAN.
        (hop(3, tag(0x2064)), 1, hop(12, tag(100))),
        (hop(99, TagWord::NONE), 0, hop(11, TagWord::NONE)),
    ] {
        let told = sender.told_hop(&from);
        assert_eq!((told.mac, told.link), (CLIENT_MAC, link), "{from:?}");
        let own = receiver.own_hop(&told);
        assert_eq!((own.mac, own.if_index, own.outer), (to.mac, to.if_index, to.outer), "{from:?}");
        assert_ne!(own.source, MacWord::ZERO);
    }
    // A trunk, whose frames say their VLAN: as the client's first packet here will.
    let told = sender.told_hop(&hop(2, tag(7)));
    assert_eq!(receiver.own_hop(&told).outer, tag(7));
    let nowhere = ClientHop { link: 200, ..told };
    assert_eq!(receiver.own_hop(&nowhere).if_index, 11);
    assert_eq!(Landmarks::default().own_hop(&told), Hop::NONE);
}

#[test]
fn the_holders_word_counts_and_who_was_cut_off_has_none() {
    let now = Instant::now();
    let vip = vip(false).ip();
    let held_for = |seconds: u64| Landmarks {
        held: [(vip, now - Duration::from_millis(seconds * 1000))].into(),
        ..Landmarks::default()
    };
    let nobody = Landmarks::default();
    assert_eq!(nobody.standing(vip, Authority::Sender, 1000, now), Standing::Right);
    assert_eq!(nobody.standing(vip, Authority::Nobody, 1000, now), Standing::Welcome);
    // The former owner, just after a hand-over.
    assert_eq!(held_for(0).standing(vip, Authority::Receiver, 30, now), Standing::Addition);
    assert_eq!(held_for(1).standing(vip, Authority::Receiver, 30, now), Standing::Addition);
    // One that was cut off since we took over, and one that had clients meanwhile.
    assert_eq!(held_for(60).standing(vip, Authority::Receiver, 61, now), Standing::Stale);
    assert_eq!(held_for(60).standing(vip, Authority::Receiver, 60, now), Standing::Stale);
    assert_eq!(held_for(60).standing(vip, Authority::Receiver, 10, now), Standing::Addition);
    assert_eq!(held_for(60).standing(vip, Authority::Receiver, u32::MAX, now), Standing::Stale);
    assert!(held_for(0).holds(vip) && !nobody.holds(vip));
}

fn any_socket() -> impl Strategy<Value = SocketAddr> {
    let known: Vec<SocketAddr> = [false, true]
        .into_iter()
        .flat_map(|v6| [vip(v6), client(v6), backend(v6, 4), backend(v6, 5)])
        .collect();
    prop_oneof![
        proptest::sample::select(known),
        (any::<[u8; 4]>(), any::<u16>()).prop_map(SocketAddr::from),
        (any::<[u8; 16]>(), any::<u16>()).prop_map(SocketAddr::from),
    ]
}

fn any_direction() -> impl Strategy<Value = Direction> {
    (any::<u64>(), any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
        |(packets, next_seq, flags, silence)| Direction {
            packets,
            bytes: packets,
            next_seq,
            ack: next_seq,
            flags,
            silence,
        },
    )
}

proptest! {
    /// Whatever a peer says: a flow that is taken is whole, of a backend that there is, and not of the future.
    #[test]
    fn nothing_that_is_told_breaks_anything(
        (client, service, backend) in (any_socket(), any_socket(), any_socket()),
        nat in proptest::option::of(any_socket()),
        (mode, link, age, attempt) in any::<(u8, u8, u32, u32)>(),
        (to_backend, to_client) in (any_direction(), proptest::option::of(any_direction())),
        clock in any::<u32>(),
    ) {
        let record = FlowRecord {
            id: FlowId { client, service }, backend, mode, nat, age, attempt, to_backend, to_client,
            hop: ClientHop { mac: CLIENT_MAC, link, outer: [0; 4], inner: [0; 4] },
        };
        let receiver = there(MODE_NAT);
        let landmarks = receiver.landmarks();
        let ids: BTreeSet<BackendId> = receiver.ids.all().map(|(id, _)| id).collect();
        if let Ok(own) = landmarks.own::<Be128>(&record, clock) {
            let reply = own.reply.expect("NAT has both");
            prop_assert!(ids.contains(&own.forward.backend));
            prop_assert_eq!(reply.rewritten, own.key.reversed());
            prop_assert_eq!(own.forward.seen.silence(clock), to_backend.silence.min(LONGEST));
            prop_assert!(own.forward.seen.flags & !TOLD_FLAGS == 0);
        }
    }
}
