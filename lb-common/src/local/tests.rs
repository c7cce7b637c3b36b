use core::{
    cell::{Cell, RefCell},
    net::IpAddr,
};
use std::{collections::HashMap, vec, vec::Vec};

use super::*;
use crate::{hash::MAGLEV_SLOTS, layout::BALANCE_MAGLEV};

extern crate std;

const HERE: u64 = 4711;
const ELSEWHERE: u64 = 4712;

fn address(text: &str) -> Be128 {
    text.parse::<IpAddr>().expect("an address").into()
}

struct TestSocket {
    target: Option<(Be128, Be16)>,
    cookie: u64,
    namespace: u64,
    random: u32,
}

impl TestSocket {
    fn to(text: &str, port: u16) -> Self {
        Self { target: Some((address(text), Be16::new(port))), cookie: 1, namespace: HERE, random: 0 }
    }
}

impl Socket for TestSocket {
    fn target(&self) -> Option<(Be128, Be16)> {
        self.target
    }

    fn set_target(&mut self, address: Be128, port: Be16) {
        self.target = Some((address, port));
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn namespace(&self) -> u64 {
        self.namespace
    }

    fn random(&self) -> u32 {
        self.random
    }
}

/// One service on `172.16.0.10:6443` and one on `[fd10::10]:6443`, with the same backends.
struct TestTables {
    node: NodeEntry,
    pulse: PulseEntry,
    now: u64,
    fenced: u32,
    service: ServiceEntry,
    ring: Vec<BackendId>,
    members: Members,
    backends: Vec<BackendEntry>,
    turn: Cell<u32>,
    local: LocalEntry,
    peers: RefCell<HashMap<u64, LocalPeer>>,
    counted: RefCell<Vec<Outcome>>,
}

impl TestTables {
    fn with(backends: &[&str]) -> Self {
        let mut node = NodeEntry { lease_ns: 1_000_000_000, ..NodeEntry::EMPTY };
        node.add_vip(address("172.16.0.10").low());
        node.add_vip(address("fd10::10"));
        let mut members = Members::EMPTY;
        members.count = backends.len() as u32;
        for id in 0..backends.len() {
            members.ids[id] = id as BackendId;
        }
        let backend = |text: &&str| BackendEntry {
            address: address(text),
            port: Be16::new(7443),
            ..Default::default()
        };
        let usable = backends.len() as u32;
        Self {
            node,
            pulse: PulseEntry { heartbeat_ns: 100, ..Default::default() },
            now: 200,
            fenced: 1,
            service: ServiceEntry { usable, balance: BALANCE_MAGLEV, ..Default::default() },
            ring: (0..MAGLEV_SLOTS).map(|slot| (slot % backends.len().max(1)) as BackendId).collect(),
            members,
            backends: backends.iter().map(backend).collect(),
            turn: Cell::new(0),
            local: LocalEntry { namespace: HERE, scope: LOCAL_HOST, flags: 0 },
            peers: RefCell::default(),
            counted: RefCell::default(),
        }
    }
}

impl LocalTables for TestTables {
    fn node(&self) -> Option<&NodeEntry> {
        Some(&self.node)
    }

    fn pulse(&self) -> Option<PulseEntry> {
        Some(self.pulse)
    }

    fn monotonic_ns(&self) -> u64 {
        self.now
    }

    fn vip(&self, _: Be128) -> Option<VipEntry> {
        Some(VipEntry { fenced: self.fenced, ..VipEntry::default() })
    }

    fn service(&self, key: &ServiceKey) -> Option<ServiceEntry> {
        let is_ours = key.vip == address("172.16.0.10") || key.vip == address("fd10::10");
        (is_ours && key.port() == 6443).then_some(self.service)
    }

    fn ring(&self, _: u32, slot: usize) -> Option<BackendId> {
        self.ring.get(slot).copied()
    }

    fn members(&self, _: u32) -> Option<&Members> {
        Some(&self.members)
    }

    fn next_turn(&self, _: u32) -> u32 {
        self.turn.replace(self.turn.get() + 1)
    }

    fn backend(&self, id: BackendId) -> Option<BackendEntry> {
        self.backends.get(usize::from(id)).copied()
    }

    fn local(&self) -> Option<LocalEntry> {
        Some(self.local)
    }

    fn peer(&self, socket: u64) -> Option<LocalPeer> {
        self.peers.borrow().get(&socket).copied()
    }

    fn remember_peer(&self, socket: u64, peer: &LocalPeer) {
        self.peers.borrow_mut().insert(socket, *peer);
    }

    fn count(&self, _: u32, outcome: Outcome) {
        self.counted.borrow_mut().push(outcome);
    }
}

const THREE: [&str; 3] = ["172.16.0.4", "172.16.0.5", "172.16.0.6"];

/// Where a connect to an address and port ends.
fn connected(tables: &TestTables, to: &str, port: u16) -> (Option<Outcome>, IpAddr, u16) {
    let mut socket = TestSocket::to(to, port);
    let outcome = connect(&mut socket, tables);
    let (address, port) = socket.target.expect("a target");
    (outcome, address.into(), port.get())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn a_connect_to_the_vip_goes_to_a_backend_and_its_port() {
    let tables = TestTables::with(&THREE);
    assert_eq!(connected(&tables, "172.16.0.10", 6443), (Some(Outcome::Redirected), ip(THREE[0]), 7443));
    assert_eq!(*tables.counted.borrow(), [Outcome::Redirected]);
}

#[test]
fn other_addresses_ports_and_protocols_are_left_alone_and_not_counted() {
    let tables = TestTables::with(&THREE);
    assert_eq!(connected(&tables, "172.16.0.11", 6443), (None, ip("172.16.0.11"), 6443));
    assert_eq!(connected(&tables, "172.16.0.10", 22), (None, ip("172.16.0.10"), 22));
    assert_eq!(connected(&tables, "fd10::11", 6443), (None, ip("fd10::11"), 6443));
    let mut udp = TestSocket { target: None, ..TestSocket::to("172.16.0.10", 6443) };
    assert_eq!(connect(&mut udp, &tables), None);
    assert!(tables.counted.borrow().is_empty() && tables.peers.borrow().is_empty());
}

#[test]
fn chance_spreads_connects_as_the_table_is_shared_out() {
    let tables = TestTables::with(&THREE);
    let mut shares = HashMap::new();
    let mut random = 1u32;
    for cookie in 0..3000 {
        random = hash::again(random);
        let mut socket = TestSocket { cookie, random, ..TestSocket::to("172.16.0.10", 6443) };
        connect(&mut socket, &tables);
        *shares.entry(socket.target).or_insert(0) += 1;
    }
    assert_eq!(shares.len(), 3);
    assert!(shares.values().all(|share| (900..1100).contains(share)), "{shares:?}");
}

#[test]
fn with_round_robin_backends_take_turns() {
    let mut tables = TestTables::with(&THREE);
    (tables.service.balance, tables.service.turns) = (BALANCE_ROUND_ROBIN, 3);
    let order = [0; 6].map(|_| connected(&tables, "172.16.0.10", 6443).1);
    assert_eq!(order, [0, 1, 2, 0, 1, 2].map(|backend| ip(THREE[backend])));
}

#[test]
fn without_a_backend_the_connect_meets_whoever_has_the_vip() {
    let mut tables = TestTables::with(&THREE);
    tables.service.usable = 0;
    assert_eq!(connected(&tables, "172.16.0.10", 6443), (Some(Outcome::NoBackend), ip("172.16.0.10"), 6443));
    assert_eq!(*tables.counted.borrow(), [Outcome::NoBackend]);
}

#[test]
fn a_socket_gets_a_backend_of_its_family_or_none() {
    // Tunnels may join the families; a socket cannot.
    let mut backends = vec!["172.16.0.4"; 60];
    backends[41] = "fd10::4";
    let tables = TestTables::with(&backends);
    for random in (0..1000).map(hash::again) {
        let mut socket = TestSocket { random, ..TestSocket::to("fd10::10", 6443) };
        assert_eq!(connect(&mut socket, &tables), Some(Outcome::Redirected));
        assert_eq!(socket.target, Some((address("fd10::4"), Be16::new(7443))), "{random}");
    }
    let tables = TestTables::with(&THREE);
    assert_eq!(connected(&tables, "fd10::10", 6443), (Some(Outcome::NoBackend), ip("fd10::10"), 6443));
}

#[test]
fn only_the_nodes_own_namespace_is_served_unless_all_are() {
    let mut tables = TestTables::with(&THREE);
    let outcome = |tables: &TestTables| {
        let mut pod = TestSocket { namespace: ELSEWHERE, ..TestSocket::to("172.16.0.10", 6443) };
        (connect(&mut pod, tables), pod.target == Some((address("172.16.0.10"), Be16::new(6443))))
    };
    assert_eq!(outcome(&tables), (Some(Outcome::OtherNamespace), true));
    tables.local.scope = LOCAL_ALL;
    assert_eq!(outcome(&tables), (Some(Outcome::Redirected), false));
    tables.local.scope = 0;
    assert_eq!(outcome(&tables), (Some(Outcome::OtherNamespace), true));
}

#[test]
fn long_after_the_controller_died_a_standby_leaves_connects_to_the_vips_owner() {
    let outcome = |age: u64, fenced: u32, flags: u32| {
        let mut tables = TestTables::with(&THREE);
        (tables.now, tables.fenced, tables.local.flags) = (100 + age, fenced, flags);
        connected(&tables, "172.16.0.10", 6443).0
    };
    let limit = 1_000_000_000 + STALE_AFTER_NS;
    assert_eq!(outcome(limit, 1, 0), Some(Outcome::Redirected), "a restart is no reason");
    assert_eq!(outcome(limit + 1, 1, 0), Some(Outcome::Stale));
    assert_eq!(outcome(limit + 1, 0, 0), Some(Outcome::Redirected), "no other node has this VIP");
    assert_eq!(outcome(limit + 1, 1, LOCAL_HOLDS_VIP), Some(Outcome::Redirected), "the VIP would be refused");
    assert_eq!(outcome(u64::MAX - 100, 1, 0), Some(Outcome::Stale));
}

#[test]
fn a_redirected_socket_tells_the_vip_as_its_peer() {
    let tables = TestTables::with(&THREE);
    let mut socket = TestSocket::to("172.16.0.10", 6443);
    connect(&mut socket, &tables);
    assert_eq!(socket.target, Some((address(THREE[0]), Be16::new(7443))));
    peer_name(&mut socket, &tables);
    assert_eq!(socket.target, Some((address("172.16.0.10"), Be16::new(6443))));
}

#[test]
fn a_socket_that_connected_elsewhere_afterwards_tells_the_truth() {
    let tables = TestTables::with(&THREE);
    let mut socket = TestSocket::to("172.16.0.10", 6443);
    connect(&mut socket, &tables);
    for (peer, port) in [("172.16.0.99", 7443), (THREE[0], 7444), ("172.16.0.99", 80)] {
        let elsewhere = (address(peer), Be16::new(port));
        socket.target = Some(elsewhere);
        peer_name(&mut socket, &tables);
        assert_eq!(socket.target, Some(elsewhere));
    }
    let mut stranger = TestSocket { cookie: 2, ..TestSocket::to(THREE[0], 7443) };
    peer_name(&mut stranger, &tables);
    assert_eq!(stranger.target, Some((address(THREE[0]), Be16::new(7443))));
}
