use std::num::{NonZeroU8, NonZeroU16};

use proptest::{collection, prelude::*};

use super::*;
use crate::{
    config::model::{
        Backend, Balance, Check, Flows, Health, LocalClients, Mode, Node, OnAllFull, Snat, Vip, VrrpChecksum,
        VrrpInstance, VrrpVersion, XdpMode,
    },
    reconcile::{Observed, diff},
};

const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
const NOBODY: [u8; 0] = [];
const NO_IDS: [BackendId; 0] = [];
const MAC: Mac = [2, 0, 0, 0, 0, 9];

fn address(host: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, host), 6443)
}

/// A service with a backend per host of 172.16.0.0/24, in the instance `main`.
pub(crate) fn service(name: &str, vip: Ipv4Addr, hosts: &[u8]) -> Service {
    Service {
        name: name.into(),
        vip: Vip { address: vip.into(), prefix_len: 24 },
        port: NonZeroU16::new(6443).expect("not 0"),
        mode: Mode::Nat,
        snat: Snat::Vip,
        balance: Balance::Maglev,
        vrrp: Some("main".into()),
        on_all_down: OnAllDown::Reset,
        on_all_full: OnAllFull::Reset,
        allow: Vec::new(),
        new_connections_per_source: 0,
        new_connections_burst: 1,
        health: Health {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            down_interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(200),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 2,
            slow_start: Duration::ZERO,
        },
        backends: (hosts.iter())
            .map(|&host| Backend {
                name: format!("m{host}"),
                address: address(host).into(),
                weight: 100,
                max_connections: 0,
            })
            .collect(),
    }
}

/// A configuration with the instance `main`.
pub(crate) fn config(services: Vec<Service>) -> Config {
    Config {
        node: Node {
            name: "lb1".into(),
            interfaces: vec!["eth0".into()],
            xdp_mode: XdpMode::Auto,
            local_clients: LocalClients::Off,
            pin_path: "/sys/fs/bpf/xvip".into(),
        },
        services,
        vrrp: vec![VrrpInstance {
            name: "main".into(),
            version: VrrpVersion::V3,
            virtual_router_id: NonZeroU8::MIN,
            priority: NonZeroU8::MIN,
            advert_interval: Duration::from_millis(200),
            preempt: true,
            preempt_delay: Duration::ZERO,
            unicast_source: None,
            unicast_peers: Vec::new(),
            auth_pass: None,
            checksum: VrrpChecksum::Keepalived,
        }],
        flows: Flows {
            max: 1024,
            half_open_max: 1024,
            sources_max: 1024,
            idle_timeout: Duration::from_secs(3600),
        },
    }
}

/// A controller without I/O: what it remembers, and kernel tables that do what they are told.
struct World {
    config: Config,
    health: BTreeMap<PoolEntry, HealthState>,
    active: BTreeMap<String, u64>,
    next_hops: BTreeMap<IpAddr, NextHop>,
    ids: BackendIds,
    rings: RingMemo,
    kernel: Tables,
}

impl World {
    fn new(config: Config) -> Self {
        let next_hops = (pool_entries(&config).iter())
            .map(|entry| ((*entry.address.ip()).into(), by([2, 0, 0, 0, 1, entry.address.ip().octets()[3]])))
            .collect();
        Self {
            config,
            health: BTreeMap::new(),
            active: BTreeMap::new(),
            next_hops,
            ids: BackendIds::default(),
            rings: RingMemo::default(),
            kernel: Tables::default(),
        }
    }

    fn health(&mut self, state: HealthState, hosts: &[u8]) -> &mut Self {
        for entry in pool_entries(&self.config) {
            if hosts.contains(&entry.address.ip().octets()[3]) {
                self.health.insert(entry, state);
            }
        }
        self
    }

    fn desired(&mut self) -> Desired {
        assert_eq!(self.ids.assign(&pool_entries(&self.config), 0), []);
        let inputs = Inputs {
            config: &self.config,
            mac: MAC,
            lease: Duration::from_secs(1),
            half_open_timeout: Duration::from_secs(30),
            health: &self.health,
            active: &self.active,
            next_hops: &self.next_hops,
            ids: &self.ids,
            observed: &self.kernel,
        };
        desired(&inputs, &mut self.rings)
    }

    /// Computes and takes it as done. Returns the hosts in the first service's Maglev table.
    fn reconcile(&mut self) -> Vec<u8> {
        let desired = self.desired();
        self.kernel = desired.tables.clone();
        self.hosts(0)
    }

    fn hosts(&self, service: usize) -> Vec<u8> {
        let key = service_key(&self.config.services[service]).expect("IPv4");
        let ids = ring_members(&self.kernel, key);
        assert_eq!(ids.len() as u32, self.kernel.services[&key].usable);
        ids.iter().map(|id| self.kernel.backends[id].address.octets()[3]).collect()
    }
}

use HealthState::{Down, Unknown, Up};

fn by(mac: Mac) -> NextHop {
    NextHop::Mac { mac, link: 0 }
}

#[test]
fn the_backends_that_are_up_form_the_table() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    assert_eq!(world.reconcile(), NOBODY, "nothing is checked yet");
    assert_eq!(world.health(Up, &[4, 6]).health(Down, &[5]).reconcile(), [4, 6]);
    assert_eq!(world.health(Up, &[5]).reconcile(), [4, 5, 6]);
    assert_eq!(world.health(Down, &[4, 5, 6]).reconcile(), NOBODY);
    let backends: Vec<_> = world.kernel.backends.values().map(|entry| entry.address.octets()[3]).collect();
    assert_eq!(backends, [4, 5, 6], "those that are down still have flows");
}

#[test]
fn last_known_keeps_the_backends_that_were_up_last() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    world.config.services[0].on_all_down = OnAllDown::LastKnown;
    assert_eq!(world.health(Down, &[4, 5, 6]).reconcile(), NOBODY, "nothing was ever up");
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [4, 5]);
    assert_eq!(world.health(Down, &[4]).reconcile(), [5]);
    assert_eq!(world.health(Down, &[5]).reconcile(), [5]);
    assert_eq!(world.reconcile(), [5], "and still");
    assert_eq!(world.health(Up, &[6]).reconcile(), [6]);
}

#[test]
fn an_adopted_data_plane_goes_on_until_results_are_in() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    world.health(Up, &[4, 5]).health(Down, &[6]).reconcile();
    let ids = world.ids.clone();
    // A new controller: the kernel is all that is left.
    world.health.clear();
    world.rings = RingMemo::default();
    world.ids = BackendIds::adopt(&world.kernel, 0);
    assert_eq!(world.reconcile(), [4, 5], "6 was down, and is not used before it is checked");
    assert_eq!(world.ids.assigned, ids.assigned, "ids are what they were");
    assert_eq!(world.health(Down, &[4]).health(Unknown, &[5]).reconcile(), [5]);
}

#[test]
fn a_backend_is_used_once_its_next_hop_is_known_and_keeps_it() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    let host = (*address(5).ip()).into();
    world.next_hops.insert(host, NextHop::Unresolved);
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [4]);
    world.next_hops.insert(host, by([2; 6]));
    assert_eq!(world.reconcile(), [4, 5]);
    world.next_hops.insert(host, NextHop::Unresolved);
    assert_eq!(world.reconcile(), [4, 5], "an old next hop is better than none");
    world.next_hops.insert(host, NextHop::Local);
    assert_eq!(world.reconcile(), [4]);
}

#[test]
fn weight_zero_takes_no_new_flows() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.config.services[0].backends[0].weight = 0;
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [5]);
}

#[test]
fn the_address_follows_the_active_instance() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    let backup = world.desired();
    assert_eq!(backup.addresses, BTreeSet::new());
    assert_eq!(backup.tables.vips[&VIP], VipEntry { fenced: 1 });
    assert!(backup.node.may_be_vip(VIP.into()), "a backup forwards what reaches it");
    world.active.insert("main".into(), 3);
    let active = world.desired();
    assert_eq!(active.addresses, BTreeSet::from([(VIP.into(), 24)]));
    assert_eq!(active.announce, BTreeMap::from([(VIP, 3)]));
}

#[test]
fn a_vip_without_an_instance_is_never_ours() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.config.services[0].vrrp = None;
    world.active.insert("main".into(), 1);
    let desired = world.desired();
    assert!(desired.addresses.is_empty() && desired.announce.is_empty());
    assert_eq!(desired.tables.vips[&VIP], VipEntry { fenced: 0 });
}

#[test]
fn the_node_s_entry_says_what_the_configuration_says() {
    let node = World::new(config(vec![service("api", VIP, &[4])])).desired().node;
    assert_eq!((node.mac, node.lease_ns), (MacWord::new(MAC), 1_000_000_000));
    assert_eq!((node.idle_timeout, node.half_open_timeout), (3600, 30));
}

#[test]
fn a_removed_backend_drains_and_its_id_is_free_when_no_flow_is_on_it() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.health(Up, &[4, 5]).reconcile();
    let id = world.ids.id(&pool_entries(&world.config)[1]).expect("assigned");
    world.config.services[0].backends.remove(1);
    assert_eq!(world.reconcile(), [4]);
    assert!(world.kernel.backends.contains_key(&id), "its flows go on");
    assert_eq!(world.ids.release(&BTreeMap::from([(id, 1)]), 100, 30), NO_IDS);
    assert_eq!(world.ids.release(&BTreeMap::new(), 29, 30), NO_IDS, "a flow may just have been opened");
    assert_eq!(world.ids.release(&BTreeMap::new(), 30, 30), [id]);
    world.reconcile();
    assert!(!world.kernel.backends.contains_key(&id));
}

#[test]
fn a_backend_that_returns_while_draining_gets_its_id_back() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.health(Up, &[4, 5]).reconcile();
    let before = world.ids.assigned.clone();
    let removed = world.config.services[0].backends.remove(0);
    world.reconcile();
    world.config.services[0].backends.push(removed);
    world.reconcile();
    assert_eq!(world.ids.assigned, before);
    assert_eq!(world.ids.draining(), 0);
}

#[test]
fn two_services_share_backends_and_find_their_own_ids_again() {
    let other = Ipv4Addr::new(172, 16, 0, 11);
    let mut world = World::new(config(vec![service("a", VIP, &[4, 5]), service("b", other, &[4, 5])]));
    world.health(Up, &[4, 5]).reconcile();
    assert_eq!(world.kernel.backends.len(), 4, "counted apart");
    let before = world.ids.assigned.clone();
    world.config.services.reverse();
    world.ids = BackendIds::adopt(&world.kernel, 0);
    world.reconcile();
    assert_eq!(world.ids.assigned, before);
}

#[test]
fn an_id_is_never_given_to_another_backend_while_it_drains() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.reconcile();
    world.config = config(vec![service("api", VIP, &[5])]);
    world.next_hops.insert((*address(5).ip()).into(), by([2; 6]));
    world.reconcile();
    let addresses: Vec<u8> = world.kernel.backends.values().map(|entry| entry.address.octets()[3]).collect();
    assert_eq!(addresses, [4, 5]);
}

#[test]
fn when_ids_run_out_the_rest_is_refused_by_name() {
    let key = ServiceKey::new(VIP.into(), Be16::new(1));
    let entry =
        |n: u32| PoolEntry { service: key, address: SocketAddrV4::new(Ipv4Addr::from(0x0a00_0000 + n), 1) };
    let wanted: Vec<_> = (0..MAX_BACKENDS + 1).map(entry).collect();
    let mut ids = BackendIds::default();
    assert_eq!(ids.assign(&wanted, 0), [entry(MAX_BACKENDS)]);
    assert_eq!(ids.all().count(), MAX_BACKENDS as usize);
}

/// A reload, a change of health, or flows that end.
#[derive(Clone, Debug)]
enum Step {
    Configure(Vec<(u8, Vec<u8>)>),
    Health(u8, HealthState),
    Resolve(u8, bool),
    FlowsEnd,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let hosts = collection::vec(4u8..9, 1..4).prop_map(|mut hosts| {
        hosts.sort_unstable();
        hosts.dedup();
        hosts
    });
    let services = collection::btree_map(10u8..13, hosts, 1..3);
    prop_oneof![
        services.prop_map(|services| Step::Configure(services.into_iter().collect())),
        (4u8..9, prop_oneof![Just(Up), Just(Down)]).prop_map(|(host, state)| Step::Health(host, state)),
        (4u8..9, any::<bool>()).prop_map(|(host, known)| Step::Resolve(host, known)),
        Just(Step::FlowsEnd),
        Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever happens: ids of different backends differ, tables name only backends of their own service, and one
    /// reconcile is enough.
    #[test]
    fn any_history_keeps_the_tables_consistent(steps in collection::vec(step(), 1..12)) {
        let mut world = World::new(config(vec![service("s10", VIP, &[4, 5])]));
        world.active.insert("main".into(), 1);
        let mut clock = 0;
        for step in steps {
            clock += 100;
            match step {
                Step::Configure(services) => {
                    world.config = config(
                        (services.iter())
                            .map(|(n, hosts)| service(&format!("s{n}"), Ipv4Addr::new(172, 16, 0, *n), hosts))
                            .collect(),
                    );
                }
                Step::Health(host, state) => drop(world.health(state, &[host])),
                Step::Resolve(host, known) => {
                    let next_hop = if known { by([2, 0, 0, 0, 1, host]) } else { NextHop::Unresolved };
                    world.next_hops.insert((*address(host).ip()).into(), next_hop);
                }
                Step::FlowsEnd => drop(world.ids.release(&BTreeMap::new(), clock, 30)),
                Step::Restart => {
                    world.health.clear();
                    world.rings = RingMemo::default();
                    world.ids = BackendIds::adopt(&world.kernel, clock);
                }
            }
            let before = world.kernel.clone();
            let wanted = world.desired();
            for (id, entry) in &wanted.tables.backends {
                // An id in use never changes its meaning.
                if let Some(known) = before.backends.get(id) {
                    prop_assert_eq!((known.address, known.port), (entry.address, entry.port));
                }
            }
            world.kernel = wanted.tables.clone();
            for service in &world.config.services {
                let key = service_key(service).expect("IPv4");
                let own: BTreeSet<BackendId> = pool(service).filter_map(|entry| world.ids.id(&entry)).collect();
                prop_assert!(ring_members(&world.kernel, key).is_subset(&own));
            }
            let observed = Observed {
                tables: world.kernel.clone(),
                node: wanted.node,
                addresses: wanted.addresses.clone(),
                announced: wanted.announce.clone(),
            };
            let again = world.desired();
            prop_assert_eq!(diff(&again, &observed), []);
        }
    }
}
