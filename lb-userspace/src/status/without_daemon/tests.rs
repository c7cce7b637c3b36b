//! What is told of a node whose daemon is down.

use std::sync::Arc;

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{BackendEntry, Members, NodeEntry, PulseEntry, Removed, VipEntry},
    wire::Be16,
};

use super::*;
use crate::{
    dataplane::{AttachedMode, Tables},
    desired::tests::{config, service},
};

const VIP: [u8; 4] = [172, 16, 0, 10];
const SECOND: u64 = 1_000_000_000;

/// A node with one service and the backends m4 and m5: m4 has three of four new flows. Its daemon was last seen ten seconds
/// ago; other nodes wait for one.
fn facts() -> Facts {
    let config = config(vec![service("api", VIP.into(), &[4, 5])]);
    let key = service_key(&config.services[0]);
    let entry = |last: u8| BackendEntry {
        address: IpAddr::from([172, 16, 0, last]).into(),
        port: Be16::new(6443),
        weight: 100,
        ..BackendEntry::default()
    };
    let mut ring = [0; MAGLEV_SLOTS];
    ring.iter_mut().skip(MAGLEV_SLOTS / 4 * 3).for_each(|slot| *slot = 1);
    let mut members = Members { count: 2, ..Members::EMPTY };
    members.ids[1] = 1;
    let tables = Tables {
        vips: BTreeMap::from([(VIP.into(), VipEntry::new(true))]),
        services: BTreeMap::from([(key, ServiceEntry { usable: 2, ..ServiceEntry::default() })]),
        backends: BTreeMap::from([(0, entry(4)), (1, entry(5))]),
        rings: BTreeMap::from([(0, Arc::new(ring))]),
        members: BTreeMap::from([(0, members)]),
        ..Tables::default()
    };
    let counters = BackendCounters {
        opened: 7,
        removed: Removed { closed: 2, bytes_in: 1000, ..Removed::default() },
        ..BackendCounters::default()
    };
    let counted = CountedFlows {
        active: 3,
        closing: 1,
        carried: Carried { bytes_in: 24, ..Carried::default() },
        ..CountedFlows::default()
    };
    Facts {
        why: "nobody answers".to_owned(),
        config: Some(config),
        config_problem: None,
        config_path: "/etc/xvip/xvip.toml".into(),
        host_name: "lb1".to_owned(),
        now: humantime::parse_rfc3339("2026-01-02T03:04:15.000Z").expect("a time"),
        now_ns: 110 * SECOND,
        pinned: PinnedTables {
            node: NodeEntry { lease_ns: SECOND, ..NodeEntry::EMPTY },
            pulse: PulseEntry { heartbeat_ns: 100 * SECOND, ..PulseEntry::default() },
            tables,
            counters: (0..lb_common::reason::COUNTERS).map(u64::from).collect(),
            backend_counters: BTreeMap::from([(0, counters)]),
            local_counters: BTreeMap::new(),
            attached: vec![(2, AttachedMode::Native)],
        },
        flows: BTreeMap::from([(0, counted)]),
        interfaces: BTreeMap::from([(
            2,
            InterfaceFacts {
                name: "eth0".to_owned(),
                mac: [2, 0, 0, 0, 0, 1],
                addresses: BTreeSet::from([VIP.into()]),
            },
        )]),
        overrides: Overrides::default(),
    }
}

#[test]
fn what_a_dead_daemon_leaves_is_told() {
    let status = status(&facts());
    assert_eq!(status.daemon, DaemonState::Down);
    let without = status.without_daemon.expect("told");
    assert_eq!(without.since.as_deref(), Some("2026-01-02T03:04:05.000Z"));
    assert!(without.forwarding);
    let vip = VipWithoutDaemon {
        vip: "172.16.0.10".into(),
        vrrp: Some("main".into()),
        present: true,
        silenced: true,
    };
    assert_eq!(without.vips, [vip]);
    assert_eq!(status.problems, ["the daemon is down: nobody answers"]);
    assert_eq!((status.interface.name.as_str(), status.interface.xdp_mode.as_str()), ("eth0", "native"));
    assert_eq!(status.interface.mac, "02:00:00:00:00:01");
    assert_eq!((status.flows.established, status.flows.closing), (3, 1));
    let [service] = &status.services[..] else { panic!("one service") };
    assert_eq!((service.name.as_str(), service.usable), ("api", 2));
    let [m4, m5] = &service.backends[..] else { panic!("two backends") };
    assert_eq!((m4.name.as_str(), m4.state.as_str(), m5.name.as_str()), ("m4", "unknown", "m5"));
    assert!((m4.share - 0.75).abs() < 0.01 && (m5.share - 0.25).abs() < 0.01, "{} {}", m4.share, m5.share);
    let flows = &m4.flows;
    assert_eq!((flows.opened, flows.active, flows.closed, flows.closing), (7, 3, 2, 1));
    assert_eq!(flows.bytes_in, 1024, "what is over and what goes on");
}

#[test]
fn arp_is_answered_until_another_node_may_have_the_vip() {
    let silenced = |change: &dyn Fn(&mut Facts)| {
        let mut facts = facts();
        change(&mut facts);
        status(&facts).without_daemon.expect("told").vips[0].silenced
    };
    assert!(silenced(&|_| {}));
    assert!(!silenced(&|facts| facts.now_ns = 101 * SECOND), "not older than the lease");
    assert!(silenced(&|facts| facts.now_ns = 101 * SECOND + 1));
    let unfenced = |facts: &mut Facts| {
        facts.pinned.tables.vips.insert(VIP.into(), VipEntry::new(false));
    };
    assert!(!silenced(&unfenced), "nobody else would take it");
}

#[test]
fn without_a_program_on_every_interface_nothing_is_said_to_be_forwarded() {
    let mut facts = facts();
    facts.pinned.attached.clear();
    let told = status(&facts);
    assert!(!told.without_daemon.expect("told").forwarding);
    assert_eq!(told.interface.xdp_mode, "none");
}

#[test]
fn an_interface_without_a_program_does_not_take_another_s() {
    let mut facts = facts();
    facts.config.as_mut().expect("there").node.interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
    facts.interfaces.insert(5, InterfaceFacts { name: "eth1".to_owned(), ..InterfaceFacts::default() });
    let modes: Vec<String> = status(&facts).interfaces.into_iter().map(|one| one.xdp_mode).collect();
    assert_eq!(modes, ["native", "none"]);
}

#[test]
fn shares_are_those_of_the_slots_that_are_used() {
    let shares = |usable, turns| {
        let mut facts = facts();
        for entry in facts.pinned.tables.services.values_mut() {
            *entry = ServiceEntry { usable, turns, ..*entry };
        }
        let backends = &status(&facts).services[0].backends;
        [backends[0].share, backends[1].share]
    };
    assert_eq!(shares(2, 8), [1.0, 0.0], "round robin, whose first turns are all m4's here");
    assert_eq!(shares(0, 0), [0.0, 0.0], "what is left in the table of a service without backends");
}

#[test]
fn flows_are_counted_by_what_they_are() {
    let mut counted = CountedFlows::default();
    let carried = Carried { bytes_in: 5, ..Carried::default() };
    for state in [FlowState::HalfOpen, FlowState::Established, FlowState::Closing, FlowState::Reset] {
        counted.add(state, &carried);
    }
    assert_eq!((counted.half_open, counted.active, counted.closing), (1, 1, 2));
    assert_eq!(counted.carried.bytes_in, 15, "a handshake carries nothing");
}

#[test]
fn a_vlan_has_its_program_at_the_interface_below() {
    let mut facts = facts();
    facts.config.as_mut().expect("there").node.interfaces = vec!["eth0.100".to_owned()];
    facts.interfaces.insert(3, InterfaceFacts { name: "eth0.100".to_owned(), ..InterfaceFacts::default() });
    let interface = status(&facts).interface;
    assert_eq!(
        (interface.name.as_str(), interface.xdp_mode.as_str(), interface.attached_to.as_str()),
        ("eth0.100", "native", "eth0")
    );
}

#[test]
fn without_a_configuration_addresses_are_names() {
    let mut facts = facts();
    facts.config = None;
    facts.config_problem = Some("it cannot be read".to_owned());
    let status = status(&facts);
    assert_eq!(status.node, "lb1");
    assert_eq!(status.problems[1], "it cannot be read");
    assert_eq!(status.interface.name, "eth0");
    let [service] = &status.services[..] else { panic!("one service") };
    assert_eq!((service.name.as_str(), service.mode.as_str()), ("172.16.0.10:6443", "nat"));
    let names: Vec<_> = service.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["172.16.0.4:6443", "172.16.0.5:6443"]);
    assert_eq!(service.backends[0].flows.active, 3);
}

#[test]
fn a_daemon_that_never_lived_has_no_last_sign_of_life() {
    let mut facts = facts();
    facts.pinned.pulse.heartbeat_ns = 0;
    assert_eq!(status(&facts).without_daemon.expect("told").since, None);
}
