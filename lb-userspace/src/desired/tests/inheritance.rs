//! Whose unknown flows may be somebody else's, and a node that only observes.

use super::*;

/// Two services of `main` on one VIP each, and one that no instance owns.
fn three() -> World {
    let mut services = Vec::new();
    for (name, last, vrrp) in [("api", 10, Some("main")), ("etcd", 11, Some("other")), ("anycast", 12, None)]
    {
        let mut service = service(name, Ipv4Addr::new(172, 16, 0, last), &[4, 5]);
        service.vrrp = vrrp.map(str::to_owned);
        services.push(service);
    }
    let mut config = config(services);
    config.vrrp.push(VrrpInstance::new("other", NonZeroU8::new(2).expect("not 0")));
    config.flows.rebuild = Duration::from_secs(300);
    let mut world = World::new(config);
    world.health(Up, &[4, 5]);
    world
}

/// By service: whether it rebuilds, and whether its VIP is marked.
fn inherits(world: &mut World) -> Vec<(bool, bool)> {
    let tables = world.desired().tables;
    let of = |service: &Service| {
        let rebuilds = tables.services[&service_key(service)].flags & SERVICE_REBUILDS != 0;
        (rebuilds, tables.vips[&service.vip.address].inherited == 1)
    };
    world.config.services.iter().map(of).collect()
}

#[test]
fn heirs_rebuild_flows_and_whoever_no_instance_owns_always_does() {
    let mut world = three();
    let (yes, no) = ((true, true), (false, false));
    assert_eq!(inherits(&mut world), [no, no, yes]);
    world.heirs.insert("main".into(), None);
    assert_eq!(inherits(&mut world), [yes, no, yes]);
    world.heirs = BTreeMap::from([("other".into(), None)]);
    assert_eq!(inherits(&mut world), [no, yes, yes]);
    world.config.flows.rebuild = Duration::ZERO;
    assert_eq!(inherits(&mut world), [no, no, no], "switched off");
}

#[test]
fn a_vip_is_inherited_where_one_of_its_services_is() {
    let mut world = three();
    world.config.services[1].vip = world.config.services[0].vip;
    world.config.services[1].port = NonZeroU16::new(2379).expect("not 0");
    world.heirs.insert("other".into(), None);
    let marks: Vec<_> = inherits(&mut world);
    assert_eq!(marks, [(false, true), (true, true), (true, true)]);
}

#[test]
fn the_former_owner_is_told_to_the_data_plane_while_the_vip_is_inherited_and_active() {
    let mut world = three();
    let former = [2, 0, 0, 0, 0, 3];
    let told = |world: &mut World| {
        let vips = world.desired().tables.vips;
        vips.values().map(|vip| vip.former.octets() == former).collect::<Vec<_>>()
    };
    world.active.insert("main".into(), 1);
    assert_eq!(told(&mut world), [false; 3]);
    world.heirs.insert("main".into(), Some(former));
    assert_eq!(told(&mut world), [true, false, false]);
    world.config.flows.rebuild = Duration::ZERO;
    assert_eq!(told(&mut world), [false; 3], "switched off");
}

#[test]
fn other_flags_of_a_service_stay() {
    let mut world = three();
    world.config.services[2].on_all_full = OnAllFull::Drop;
    world.config.services.rotate_left(2);
    assert_eq!(world.service().flags, SERVICE_DROPS_WHEN_FULL | SERVICE_REBUILDS);
}

#[test]
fn who_only_observes_says_so_to_the_data_plane_and_fences_nothing() {
    let mut world = three();
    let acting = world.desired();
    world.config.node.observe = true;
    let observing = world.desired();
    assert_eq!((acting.node.flags, observing.node.flags), (0, NODE_OBSERVES));
    let fenced = |desired: &Desired| desired.tables.vips.values().map(|vip| vip.fenced).collect::<Vec<_>>();
    assert_eq!((fenced(&acting), fenced(&observing)), (vec![1, 1, 0], vec![0, 0, 0]));
    assert_eq!(observing.tables.services, acting.tables.services, "what it would do is what it does");
    assert_eq!((observing.addresses.len(), observing.announce.len()), (0, 0));
}

#[test]
fn what_no_instance_owns_is_the_host_s_until_all_its_backends_are_checked() {
    let mut world = three();
    let vip = world.config.services[2].vip.address;
    let key = service_key(&world.config.services[2]);
    let is_there = |desired: &Desired| {
        assert_eq!(desired.tables.vips.contains_key(&vip), desired.tables.services.contains_key(&key));
        desired.tables.services.contains_key(&key)
    };
    world.health.clear();
    world.health(Up, &[4]);
    let first = world.desired();
    assert!(!is_there(&first), "of 5 nothing is known");
    assert_eq!(first.tables.services.len(), 2, "VRRP waits by itself");
    world.health(Unknown, &[5]);
    assert!(!is_there(&world.desired()));
    world.health(Down, &[5]);
    assert!(is_there(&world.desired()));
    world.health(Down, &[4]);
    let all_down = world.desired();
    assert_eq!(all_down.tables.services[&key].usable, 0, "also where all of them are down");

    world.kernel = all_down.tables;
    world.health.clear();
    assert!(is_there(&world.desired()), "what a predecessor has left goes on");
}
