mod inheritance;

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    num::{NonZeroU8, NonZeroU16},
};

use proptest::{collection, prelude::*};

use super::*;
use crate::{
    config::model::{
        Check, ConnectionLog, Flows, Health, LocalClients, Log, Node, OnDown, Rebalance, Vip, VrrpInstance,
        XdpMode,
    },
    reconcile::{Observed, diff},
};

const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
const NOBODY: [u8; 0] = [];
const NO_IDS: [BackendId; 0] = [];
const MAC: Mac = [2, 0, 0, 0, 0, 9];
/// Index of the usual link.
const LINK: u32 = 2;
const OWN: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const OWN6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 2);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 10);

fn address(host: u8) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, host), 6443)
}

fn address6(host: u8) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, host.into()).into(), 6443)
}

/// The last byte.
fn host(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    }
}

/// An ordinary interface with addresses of both families.
pub(crate) fn link(name: &str, index: u32) -> Link {
    Link {
        name: name.into(),
        index,
        mac: Some(MAC),
        up: true,
        running: true,
        mtu: 1500,
        parent: index,
        parent_name: name.into(),
        xdp_programs: Vec::new(),
        tags: Vec::new(),
        addresses: vec![OWN.into(), OWN6.into()],
    }
}

/// A VLAN sub-interface on `parent`, whose index is no other's.
pub(crate) fn vlan(name: &str, parent: u32, id: u16) -> Link {
    Link {
        parent,
        parent_name: format!("parent{parent}"),
        tags: vec![VlanTag { protocol: 0x8100, id }],
        ..link(name, 1000 + u32::from(id))
    }
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
        on_down: OnDown::Reset,
        reset_rate: 0,
        connection_log: false,
        rebalance: Rebalance::default(),
        health: Health {
            check: Check::Tcp,
            interval: Duration::from_secs(2),
            down_interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(200),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 2,
            slow_start: Duration::ZERO,
            slow_start_rate: 0,
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
            observe: false,
        },
        services,
        vrrp: vec![VrrpInstance { priority: NonZeroU8::MIN, ..VrrpInstance::new("main", NonZeroU8::MIN) }],
        flows: Flows {
            max: 1024,
            half_open_max: 1024,
            sources_max: 1024,
            idle_timeout: Duration::from_secs(3600),
            rebuild: Duration::ZERO,
        },
        connection_log: ConnectionLog::default(),
        sync: None,
        http: None,
        log: Log::default(),
        hooks: Vec::new(),
        stats_socket: None,
    }
}

/// A controller without I/O: what it remembers, and kernel tables that do what they are told.
struct World {
    config: Config,
    links: Vec<Link>,
    health: BTreeMap<PoolEntry, HealthState>,
    slow_starts: BTreeMap<PoolEntry, SlowStart>,
    steers: BTreeMap<PoolEntry, Steer>,
    now: Instant,
    active: BTreeMap<String, u64>,
    heirs: BTreeMap<String, Option<Mac>>,
    next_hops: BTreeMap<IpAddr, NextHop>,
    ids: BackendIds,
    rings: RingMemo,
    kernel: Tables,
}

impl World {
    fn new(config: Config) -> Self {
        let next_hops = (pool_entries(&config).iter())
            .map(|entry| (entry.address.ip(), by([2, 0, 0, 0, 1, host(entry.address.ip())])))
            .collect();
        Self {
            config,
            links: vec![link("eth0", LINK)],
            health: BTreeMap::new(),
            slow_starts: BTreeMap::new(),
            steers: BTreeMap::new(),
            now: Instant::now(),
            active: BTreeMap::new(),
            heirs: BTreeMap::new(),
            next_hops,
            ids: BackendIds::default(),
            rings: RingMemo::default(),
            kernel: Tables::default(),
        }
    }

    fn health(&mut self, state: HealthState, hosts: &[u8]) -> &mut Self {
        for entry in pool_entries(&self.config) {
            if hosts.contains(&host(entry.address.ip())) {
                self.health.insert(entry, state);
            }
        }
        self
    }

    fn desired(&mut self) -> Desired {
        assert_eq!(self.ids.assign(&pool_entries(&self.config), 0), []);
        let inputs = Inputs {
            config: &self.config,
            links: &self.links,
            lease: Duration::from_secs(1),
            half_open_timeout: Duration::from_secs(30),
            health: &self.health,
            slow_starts: &self.slow_starts,
            now: self.now,
            steers: &self.steers,
            active: &self.active,
            heirs: &self.heirs,
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
        let key = service_key(&self.config.services[service]);
        let entry = self.kernel.services[&key];
        let ids = members_of(&self.kernel, key);
        assert_eq!(ids.len() as u32, entry.usable);
        if entry.usable > 0 {
            let in_ring: BTreeSet<BackendId> = self.kernel.rings[&entry.index].iter().copied().collect();
            assert_eq!(in_ring, ids, "the table and the list of members are of the same backends");
        }
        ids.iter().map(|id| host(self.kernel.backends[id].address.into())).collect()
    }

    /// The entry of the first service.
    fn service(&mut self) -> ServiceEntry {
        let key = service_key(&self.config.services[0]);
        self.desired().tables.services[&key]
    }

    /// The entry of the first service's backend.
    fn backend(&mut self, index: usize) -> BackendEntry {
        let desired = self.desired();
        let entry = pool_entries(&self.config)[index];
        desired.tables.backends[&self.ids.id(&entry).expect("assigned")]
    }
}

use HealthState::{Down, Unknown, Up};

fn by(mac: Mac) -> NextHop {
    NextHop::Mac { mac, link: 0, routed: false }
}

#[test]
fn the_backends_that_are_up_form_the_table() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    assert_eq!(world.reconcile(), NOBODY, "nothing is checked yet");
    assert_eq!(world.health(Up, &[4, 6]).health(Down, &[5]).reconcile(), [4, 6]);
    assert_eq!(world.health(Up, &[5]).reconcile(), [4, 5, 6]);
    assert_eq!(world.health(Down, &[4, 5, 6]).reconcile(), NOBODY);
    let backends: Vec<_> = world.kernel.backends.values().map(|entry| host(entry.address.into())).collect();
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
fn one_answer_that_is_late_takes_nobody_out_of_an_adopted_data_plane() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    world.health(Up, &[4, 5]).health(Down, &[6]).reconcile();
    let doubted: BTreeSet<PoolEntry> = pool_entries(&world.config).into_iter().collect();
    world.health(Down, &[4, 5, 6]);
    let sure = world.health.clone();
    keep_until_sure(&mut world.health, &doubted, &world.ids, &world.kernel);
    assert_eq!(world.reconcile(), [4, 5], "6 was no member, and is not made one by not being sure");
    assert_eq!(world.reconcile(), [4, 5], "for as long as it takes");
    world.health = sure;
    keep_until_sure(&mut world.health, &BTreeSet::new(), &world.ids, &world.kernel);
    assert_eq!(world.reconcile(), NOBODY);
    keep_until_sure(&mut world.health, &doubted, &world.ids, &world.kernel);
    assert_eq!(world.reconcile(), NOBODY, "who is out stays out");
}

#[test]
fn a_backend_is_used_once_its_next_hop_is_known_and_keeps_it() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    let host = IpAddr::V4(*address(5).ip());
    world.next_hops.insert(host, NextHop::Unresolved);
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [4]);
    world.next_hops.insert(host, by([2; 6]));
    assert_eq!(world.reconcile(), [4, 5]);
    world.next_hops.insert(host, NextHop::Unresolved);
    assert_eq!(world.reconcile(), [4, 5], "an old next hop is better than none");
    world.next_hops.insert(host, NextHop::OtherInterface);
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
    assert_eq!(backup.tables.vips[&VIP.into()], VipEntry::new(true));
    assert!(backup.node.may_be_vip(Be32::from(VIP)), "a backup forwards what reaches it");
    world.active.insert("main".into(), 3);
    let active = world.desired();
    assert_eq!(active.addresses, BTreeSet::from([(VIP.into(), 24)]));
    assert_eq!(active.announce, BTreeMap::from([(VIP.into(), 3)]));
}

#[test]
fn a_virtual_mac_is_the_vip_s_while_its_instance_is_active() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.config.vrrp[0].virtual_mac = true;
    let backup = world.desired();
    assert_eq!(backup.tables.vips[&VIP.into()], VipEntry::new(true), "nobody answers for a backup's VIP");
    assert!(!backup.node.is_virtual_mac(MacWord::new(virtual_mac(false, 1))));
    world.active.insert("main".into(), 3);
    let active = world.desired();
    let mac = MacWord::new(virtual_mac(false, 1));
    let entry = VipEntry { virtual_mac: mac, if_index: LINK, ..VipEntry::new(true) };
    assert_eq!(active.tables.vips[&VIP.into()], entry);
    assert!(active.node.is_virtual_mac(mac) && !active.node.is_own_mac(mac));
    assert!(!active.node.is_virtual_mac(MacWord::new(virtual_mac(true, 1))), "of its family alone");
    assert_eq!(active.node.mac_of(LINK), Some(MacWord::new(MAC)));
    world.config.vrrp[0].virtual_mac = false;
    assert_eq!(world.desired().tables.vips[&VIP.into()], VipEntry::new(true));
}

#[test]
fn a_vip_without_an_instance_is_never_ours() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.config.services[0].vrrp = None;
    world.health(Up, &[4]);
    world.active.insert("main".into(), 1);
    let desired = world.desired();
    assert!(desired.addresses.is_empty() && desired.announce.is_empty());
    assert_eq!(desired.tables.vips[&VIP.into()], VipEntry::new(false));
}

#[test]
fn the_node_s_entry_says_what_the_configuration_says() {
    let node = World::new(config(vec![service("api", VIP, &[4])])).desired().node;
    assert_eq!((node.macs[0], node.macs[1]), (MacWord::new(MAC), MacWord::ZERO));
    assert_eq!(node.lease_ns, 1_000_000_000);
    assert_eq!((node.v4, node.v6), (OWN.into(), OWN6.into()));
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
    let addresses: Vec<u8> = world.kernel.backends.values().map(|entry| host(entry.address.into())).collect();
    assert_eq!(addresses, [4, 5]);
}

#[test]
fn when_ids_run_out_the_rest_is_refused_by_name() {
    let key = ServiceKey::new(IpAddr::V4(VIP).into(), Be16::new(1));
    let entry = |n: u32| PoolEntry {
        service: key,
        address: SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + n).into(), 1),
    };
    let wanted: Vec<_> = (0..MAX_BACKENDS + 1).map(entry).collect();
    let mut ids = BackendIds::default();
    assert_eq!(ids.assign(&wanted, 0), [entry(MAX_BACKENDS)]);
    assert_eq!(ids.all().count(), MAX_BACKENDS as usize);
}

#[test]
fn both_families_side_by_side() {
    let mut api6 = service("api6", VIP, &[]);
    api6.vip = Vip { address: VIP6.into(), prefix_len: 64 };
    api6.backends = service("api", VIP, &[4, 5]).backends;
    (4..).zip(&mut api6.backends).for_each(|(host, backend)| backend.address = address6(host));
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5]), api6]));
    world.active.insert("main".into(), 1);
    world.health(Up, &[4, 5]).reconcile();
    assert_eq!((world.hosts(0), world.hosts(1)), (vec![4, 5], vec![4, 5]));
    let desired = world.desired();
    assert_eq!(desired.addresses, BTreeSet::from([(VIP.into(), 24), (VIP6.into(), 64)]));
    assert_eq!(desired.announce, BTreeMap::from([(VIP.into(), 1), (VIP6.into(), 1)]));
    assert!(desired.node.may_be_vip(Be32::from(VIP)) && desired.node.may_be_vip(Be128::from(VIP6)));
    let key = service_key(&world.config.services[1]);
    assert_eq!(desired.tables.services[&key].snat, VIP6.into(), "backends see the VIP");
    let backends: BTreeSet<IpAddr> =
        desired.tables.backends.values().map(|entry| entry.address.into()).collect();
    assert!(backends.contains(&address6(4).ip()) && backends.contains(&address(4).ip().to_owned().into()));
    // A successor finds them all again.
    let before = world.ids.assigned.clone();
    world.ids = BackendIds::adopt(&world.kernel, 0);
    world.reconcile();
    assert_eq!(world.ids.assigned, before);
}

#[test]
fn the_entry_of_a_service_says_what_the_configuration_says() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    let plain = world.service();
    assert_eq!((plain.mode, plain.balance, plain.flags), (MODE_NAT, BALANCE_MAGLEV, 0));
    assert_eq!((plain.snat, plain.source_rate, plain.turns), (IpAddr::V4(VIP).into(), 0, 0));

    let service = &mut world.config.services[0];
    service.mode = Mode::DsrL2;
    service.balance = Balance::LeastConnections;
    service.on_all_full = OnAllFull::Drop;
    service.allow = vec![Prefix { address: [10, 0, 0, 0].into(), len: 8 }];
    (service.new_connections_per_source, service.new_connections_burst) = (20, 40);
    service.backends[1].max_connections = 500;
    let special = world.service();
    assert_eq!((special.mode, special.balance), (MODE_DSR_L2, BALANCE_LEAST_CONNECTIONS));
    assert_eq!(special.flags, SERVICE_DROPS_WHEN_FULL | SERVICE_HAS_ALLOW_LIST | SERVICE_HAS_LIMITS);
    assert_eq!((special.source_rate, special.source_burst), (20, 40));
    assert_eq!(special.snat, Be128::default(), "the backend sees the client");
    assert_eq!(world.backend(1).max_connections, 500);
    world.config.services[0].mode = Mode::DsrIpip;
    assert_eq!(world.service().mode, MODE_DSR_IPIP);
}

#[test]
fn the_allow_list_is_matched_after_the_service() {
    let mut world =
        World::new(config(vec![service("a", VIP, &[4]), service("b", [172, 16, 0, 11].into(), &[4])]));
    world.config.services[1].allow = vec![
        Prefix { address: [10, 0, 0, 0].into(), len: 8 },
        Prefix { address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into(), len: 8 },
    ];
    let key = |address: IpAddr| AllowedKey { service: Be32::new(1), source: address.into() };
    assert_eq!(
        world.desired().tables.allowed,
        BTreeSet::from([
            (key([10, 0, 0, 0].into()), 32 + 96 + 8),
            (key(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0).into()), 32 + 8),
        ])
    );
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.config.services[0].balance = Balance::RoundRobin;
    world.config.services[0].backends[0].weight = 200;
    world.health(Up, &[4, 5]).reconcile();
    let entry = world.service();
    assert_eq!(entry.balance, BALANCE_ROUND_ROBIN);
    assert!(entry.turns > 0 && entry.turns.is_multiple_of(3), "{}", entry.turns);
    let first: Vec<u8> = (world.kernel.rings[&entry.index].iter().take(3))
        .map(|id| host(world.kernel.backends[id].address.into()))
        .collect();
    assert_eq!(first.iter().filter(|host| **host == 4).count(), 2);
    // The same members in another balance are another table.
    world.config.services[0].balance = Balance::Maglev;
    assert_eq!(world.service().turns, 0);
}

#[test]
fn members_are_in_the_order_of_their_addresses_whatever_the_file_s() {
    let lists = [[4, 5, 6], [6, 4, 5]].map(|hosts| {
        let mut world = World::new(config(vec![service("api", VIP, &hosts)]));
        world.health(Up, &[4, 5, 6]).reconcile();
        let members = world.kernel.members[&0];
        let ids = members.ids[..members.count as usize].iter();
        ids.map(|id| host(world.kernel.backends[id].address.into())).collect::<Vec<_>>()
    });
    assert_eq!(lists, [[4, 5, 6], [4, 5, 6]]);
}

#[test]
fn of_too_many_backends_the_first_are_used_and_it_is_said() {
    let hosts: Vec<u8> = (0..=255).collect();
    let mut world = World::new(config(vec![service("api", VIP, &hosts)]));
    let mut more = service("api", VIP, &[1]).backends.remove(0);
    more.address = SocketAddr::new([172, 16, 1, 1].into(), 6443);
    world.next_hops.insert(more.address.ip(), by([2; 6]));
    world.config.services[0].backends.insert(0, more);
    world.health(Up, &hosts);
    let desired = world.desired();
    assert_eq!(world.service().usable as usize, MAX_MEMBERS);
    assert!(
        matches!(&desired.problems[..], [only] if only.contains("257 backends")),
        "{:?}",
        desired.problems
    );
    world.reconcile();
    assert_eq!(world.hosts(0).len(), MAX_MEMBERS);
}

#[test]
fn with_snat_node_the_node_s_own_address_is_waited_for() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.health(Up, &[4]);
    assert!(!world.desired().node.may_be_vip(Be32::from(OWN)), "nothing is for the node itself");
    world.config.services[0].snat = Snat::Node;
    let entry = world.service();
    assert_eq!((entry.snat, entry.flags, entry.usable), (IpAddr::V4(OWN).into(), SERVICE_SNAT_NODE, 1));
    assert!(world.desired().node.may_be_vip(Be32::from(OWN)));

    // A VIP that is on the interface is not the node's own.
    world.links[0].addresses = vec![VIP.into(), OWN6.into()];
    let desired = world.desired();
    let entry = desired.tables.services[&service_key(&world.config.services[0])];
    assert_eq!((entry.usable, entry.snat), (0, Be128::default()));
    assert!(matches!(&desired.problems[..], [only] if only.contains("IPv4 address of its own")));
    assert_eq!(desired.node.v4, Be32::new(0));
}

#[test]
fn with_snat_node_the_address_is_the_one_on_the_backends_interface() {
    let other = Ipv4Addr::new(10, 1, 0, 2);
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.health(Up, &[4, 5]);
    world.config.services[0].snat = Snat::Node;
    world.links.push(Link { addresses: vec![other.into()], ..link("eth1", 3) });
    assert_eq!(world.service().snat, IpAddr::V4(OWN).into(), "they are behind the first");
    let hop = |host| IpAddr::from(*address(host).ip());
    for host in [4, 5] {
        world.next_hops.insert(hop(host), NextHop::Mac { mac: [2; 6], link: 1, routed: false });
    }
    let desired = world.desired();
    assert_eq!(world.service().snat, IpAddr::V4(other).into());
    assert!(desired.node.may_be_vip(Be32::from(other)) && desired.node.may_be_vip(Be32::from(OWN)));
    // One that is not known for a moment changes nothing, nor do all of them.
    world.reconcile();
    for host in [4, 5] {
        world.next_hops.insert(hop(host), NextHop::Unresolved);
        assert_eq!(world.service().snat, IpAddr::V4(other).into());
    }
}

#[test]
fn tunnels_and_narrow_links_have_an_mtu() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    assert_eq!(world.backend(0).mtu, 0, "whatever came in fits");
    world.config.services[0].mode = Mode::DsrIpip;
    assert_eq!(world.backend(0).mtu, 1500);
    assert!(
        world.desired().node.may_be_vip(Be32::from(OWN)),
        "errors about tunnelled packets are for the node"
    );
    // Draining, its flows still go through the tunnel.
    world.reconcile();
    let id = world.ids.id(&pool_entries(&world.config)[0]).expect("assigned");
    world.config.services[0].backends.clear();
    assert_eq!(world.desired().tables.backends[&id].mtu, 1500);

    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.links.push(Link { mtu: 9000, ..link("eth1", 3) });
    assert_eq!(world.backend(0).mtu, 1500, "clients may come by the wider one");
}

#[test]
fn a_hop_leaves_by_its_link_with_the_link_s_tags() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    let hop = world.backend(0).hop;
    assert_eq!((hop.mac, hop.source), (MacWord::new([2, 0, 0, 0, 1, 4]), MacWord::new(MAC)));
    assert_eq!((hop.if_index, hop.outer, hop.flags), (LINK, TagWord::NONE, HOP_KEEPS_TAGS));
    let node = world.desired().node;
    assert!(node.untagged == 1 && node.takes_vlan(7) && node.takes_vlan(4094), "a trunk's tags are kept");

    // The second of two links, a VLAN in a VLAN.
    let other = [2, 0, 0, 0, 0, 8];
    let mut double = vlan("eth1.5.7", 3, 5);
    double.tags.push(VlanTag { protocol: 0x8100, id: 7 });
    double.tags[0].protocol = 0x88a8;
    double.mac = Some(other);
    world.links.push(double);
    world.next_hops.insert((*address(4).ip()).into(), NextHop::Mac { mac: [2; 6], link: 1, routed: false });
    let hop = world.backend(0).hop;
    assert_eq!((hop.mac, hop.source, hop.if_index), (MacWord::new([2; 6]), MacWord::new(other), 3));
    assert_eq!((hop.outer.octets(), hop.inner.octets()), ([0x88, 0xa8, 0, 5], [0x81, 0, 0, 7]));
    assert_eq!(hop.flags, 0);
    let node = world.desired().node;
    assert!(node.is_own_mac(MacWord::new(MAC)) && node.is_own_mac(MacWord::new(other)));
    assert!(node.untagged == 1 && node.takes_vlan(9), "the first link is no VLAN's parent");
}

#[test]
fn a_sub_interface_s_frames_have_its_tag_alone() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    world.links = vec![vlan("bond0.100", 3, 100)];
    let node = world.desired().node;
    assert_eq!(node.untagged, 0);
    assert!(node.takes_vlan(100) && !node.takes_vlan(0) && !node.takes_vlan(101));
    assert_eq!(world.backend(0).hop.if_index, 3, "XDP is on the parent");

    world.links.push(link("bond0", 3));
    let node = world.desired().node;
    assert!(node.untagged == 1 && node.takes_vlan(100) && !node.takes_vlan(101), "tags say whose a frame is");
    world.next_hops.insert((*address(4).ip()).into(), NextHop::Mac { mac: [2; 6], link: 1, routed: false });
    assert_eq!(world.backend(0).hop.flags, 0, "so they are not kept either");
}

#[test]
fn an_old_next_hop_on_an_interface_that_is_gone_is_none() {
    let mut world = World::new(config(vec![service("api", VIP, &[4])]));
    assert_eq!(world.health(Up, &[4]).reconcile(), [4]);
    world.next_hops.clear();
    assert_eq!(world.reconcile(), [4]);
    world.links = vec![link("eth0", LINK + 1)];
    assert_eq!(world.reconcile(), NOBODY);
}

#[test]
fn this_very_node_is_a_backend_like_any_other() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.health(Up, &[4, 5]).reconcile();
    let remote = world.kernel.rings[&0].clone();
    let ip: IpAddr = (*address(5).ip()).into();
    world.next_hops.insert(ip, NextHop::Local);
    world.kernel.rings.clear();
    assert_eq!(world.reconcile(), [4, 5]);
    assert_eq!(world.kernel.rings[&0], remote, "every node has the same table");
    let entry = world.backend(1);
    assert_eq!((entry.local, entry.hop), (1, Hop::NONE));
    assert_eq!(unreachable_because(NextHop::Local, &pool_entries(&world.config)[1], Mode::Nat), None);

    // On another port the host would not know what to do with it.
    world.config.services[0].port = NonZeroU16::new(443).expect("not 0");
    world.ids = BackendIds::default();
    world.kernel = Tables::default();
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [4]);
    let reason = unreachable_because(NextHop::Local, &pool_entries(&world.config)[1], Mode::Nat);
    assert!(reason.is_some_and(|reason| reason.contains("same port")), "{reason:?}");
}

#[test]
fn a_backend_behind_a_router_is_out_of_reach_of_ethernet_addresses() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    let ip: IpAddr = (*address(5).ip()).into();
    let behind = NextHop::Mac { mac: [2; 6], link: 0, routed: true };
    world.next_hops.insert(ip, behind);
    assert_eq!(world.health(Up, &[4, 5]).reconcile(), [4, 5], "a router brings translated packets there");
    world.config.services[0].mode = Mode::DsrL2;
    assert_eq!(world.reconcile(), [4]);
    let entry = pool_entries(&world.config)[1];
    assert!(
        unreachable_because(behind, &entry, Mode::DsrL2).is_some_and(|reason| reason.contains("dsr-ipip"))
    );
    assert_eq!(unreachable_because(behind, &entry, Mode::DsrIpip), None);
}

#[test]
fn a_backend_that_has_recovered_grows_into_its_weight() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.health(Up, &[4, 5]).reconcile();
    let entry = pool_entries(&world.config)[1];
    let begin = world.now;
    let length = Duration::from_secs(90);
    let mut start = SlowStart::default();
    start.observe(Down, length, begin);
    start.observe(Up, length, begin);
    world.slow_starts.insert(entry, start);
    let mut tables = BTreeSet::new();
    let mut weights = Vec::new();
    for second in 0..=100 {
        world.now = begin + Duration::from_secs(second);
        world.reconcile();
        let id = world.ids.id(&entry).expect("assigned");
        tables.insert(world.kernel.rings[&0].iter().filter(|slot| **slot == id).count());
        weights.push(world.kernel.backends[&id].weight);
    }
    assert_eq!((weights[0], weights[100]), (10, 100));
    assert!(weights.is_sorted());
    assert_eq!(tables.len(), 10, "each step is a table");
    assert_eq!(world.backend(0).weight, 100, "nobody else is touched");
}

#[test]
fn who_is_out_gets_nothing_and_another_weight_counts() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5, 6])]));
    assert_eq!(world.health(Up, &[4, 5, 6]).reconcile(), [4, 5, 6]);
    let entries = pool_entries(&world.config);
    world.steers.insert(entries[1], Steer { is_out: true, weight: Some(50), share: 9 });
    assert_eq!(world.reconcile(), [4, 6], "up, and out");
    let out = world.backend(1);
    assert_eq!((out.weight, out.share, out.new_per_tick), (0, 0, 0));
    world.steers.insert(entries[1], Steer { weight: Some(50), ..Steer::default() });
    assert_eq!(world.reconcile(), [4, 5, 6]);
    assert_eq!((world.backend(0).weight, world.backend(1).weight), (100, 50));
    let id = world.ids.id(&entries[1]).expect("assigned");
    let slots = world.kernel.rings[&0].iter().filter(|slot| **slot == id).count();
    assert!(slots.abs_diff(65_537 / 5) <= 1, "{slots}");
    world.steers.insert(entries[1], Steer { weight: Some(0), ..Steer::default() });
    assert_eq!(world.reconcile(), [4, 6], "no weight");
    // What the file says is 0 may be told to get some.
    world.config.services[0].backends[0].weight = 0;
    world.steers = BTreeMap::from([(entries[0], Steer { weight: Some(1), ..Steer::default() })]);
    assert_eq!(world.reconcile(), [4, 5, 6]);
}

#[test]
fn who_is_out_does_not_keep_the_last_known_from_being_used() {
    let mut world = World::new(config(vec![service("api", VIP, &[4, 5])]));
    world.config.services[0].on_all_down = OnAllDown::LastKnown;
    world.health(Up, &[4, 5]).reconcile();
    let entry = pool_entries(&world.config)[0];
    world.steers.insert(entry, Steer { is_out: true, ..Steer::default() });
    assert_eq!(world.reconcile(), [5]);
    assert_eq!(world.health(Down, &[5]).reconcile(), [5], "of those that may be chosen all are down");
}

#[test]
fn shares_and_rates_are_there_only_while_they_lead_somebody() {
    let mut world =
        World::new(config(vec![service("api", VIP, &[4, 5]), service("web", [172, 16, 0, 11].into(), &[4])]));
    world.config.services[0].health.slow_start_rate = 70;
    world.health(Up, &[4, 5]).reconcile();
    let has_shares = |world: &mut World| world.service().flags & SERVICE_HAS_SHARES != 0;
    assert!(!has_shares(&mut world));
    let entries = pool_entries(&world.config);
    for (entry, share) in entries.iter().zip([100, 90]) {
        world.steers.insert(*entry, Steer { share, ..Steer::default() });
    }
    world.reconcile();
    assert_eq!((world.backend(0).share, world.backend(1).share), (100, 90));
    assert_eq!(world.backend(1).new_per_tick, 70);
    assert!(has_shares(&mut world));
    let web = service_key(&world.config.services[1]);
    assert_eq!(world.kernel.services[&web].flags & SERVICE_HAS_SHARES, 0, "another service");
    world.steers.clear();
    world.reconcile();
    assert!(!has_shares(&mut world));

    // The rate holds from a recovery until the weight is whole.
    let length = Duration::from_secs(90);
    let mut start = SlowStart::default();
    start.observe(Down, length, world.now);
    start.observe(Up, length, world.now);
    world.slow_starts.insert(entries[1], start);
    world.reconcile();
    let rates = |world: &mut World| (world.backend(0).new_per_tick, world.backend(1).new_per_tick);
    assert_eq!((rates(&mut world), world.backend(1).share), ((0, 70), 0));
    assert!(has_shares(&mut world));
    world.now += length;
    world.reconcile();
    assert_eq!(rates(&mut world), (0, 0));
    assert!(!has_shares(&mut world));
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
                let key = service_key(service);
                let own: BTreeSet<BackendId> = pool(service).filter_map(|entry| world.ids.id(&entry)).collect();
                prop_assert!(members_of(&world.kernel, key).is_subset(&own));
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
