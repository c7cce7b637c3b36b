//! The order of the changes, checked step by step on a model of the kernel.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{AllowedKey, Hop, MAX_MEMBERS, SERVICE_HAS_ALLOW_LIST, virtual_mac},
    wire::{Be16, Be32, Be128},
};
use proptest::{collection, prelude::*};

use super::*;

/// Applies one change to a model of the kernel, refusing what the kernel would refuse.
fn apply(model: &mut Observed, change: &Change) {
    let tables = &mut model.tables;
    match change.clone() {
        Change::StopAnnouncing(vip) => assert!(model.announced.remove(&vip).is_some(), "{change}"),
        Change::RemoveAddress(address) => assert!(model.addresses.remove(&address), "{change}"),
        Change::SetBackend(id, entry) => drop(tables.backends.insert(id, entry)),
        Change::SetRing(ring, slots) => drop(tables.rings.insert(ring, slots)),
        Change::SetMembers(service, members) => drop(tables.members.insert(service, *members)),
        Change::Allow(prefix) => assert!(tables.allowed.insert(prefix), "{change}"),
        Change::Disallow(prefix) => assert!(tables.allowed.remove(&prefix), "{change}"),
        Change::SetService(key, entry) => drop(tables.services.insert(key, entry)),
        Change::SetVip(vip, entry) => drop(tables.vips.insert(vip, entry)),
        Change::SetNode(node) => model.node = *node,
        Change::AddAddress(address) => assert!(model.addresses.insert(address), "{change}"),
        Change::StopAnswering(vip, entry) => {
            assert_eq!(entry.virtual_mac, MacWord::ZERO, "{change}");
            let had = tables.vips.insert(vip, entry);
            assert!(had.is_some_and(|had| had.virtual_mac != MacWord::ZERO), "{change}");
        }
        Change::Announce(vip, generation, _) => {
            assert!(
                model.addresses.iter().any(|(address, _)| *address == vip),
                "{change} without the address"
            );
            model.announced.insert(vip, generation);
        }
        Change::RemoveVip(vip) => assert!(tables.vips.remove(&vip).is_some(), "{change}"),
        Change::RemoveService(key) => assert!(tables.services.remove(&key).is_some(), "{change}"),
        Change::RemoveBackend(id) => assert!(tables.backends.remove(&id).is_some(), "{change}"),
    }
}

/// What no packet may ever meet.
fn check(model: &Observed, after: &dyn fmt::Display) {
    let tables = &model.tables;
    for (key, service) in tables.services.iter().filter(|(_, service)| service.usable > 0) {
        let ring = tables.rings.get(&service.index);
        let ring = ring.unwrap_or_else(|| panic!("{} has no Maglev table after: {after}", KeyText(*key)));
        // Tables repeat their members from the start.
        for id in &ring[..16] {
            assert!(tables.backends.contains_key(id), "a slot names backend {id}, unset after: {after}");
        }
        let members = tables.members.get(&service.index);
        let members = members.unwrap_or_else(|| panic!("{} has no members after: {after}", KeyText(*key)));
        for id in &members.ids[..members.count as usize] {
            assert!(tables.backends.contains_key(id), "member {id} is unset after: {after}");
        }
    }
    for (key, service) in &tables.services {
        let list = tables.allowed.iter().any(|(allowed, _)| allowed.service == Be32::new(service.index));
        if service.flags & SERVICE_HAS_ALLOW_LIST != 0 {
            assert!(list, "{} lets nobody in after: {after}", KeyText(*key));
        }
    }
    for (vip, entry) in tables.vips.iter().filter(|(_, entry)| entry.virtual_mac != MacWord::ZERO) {
        assert!(
            model.node.is_virtual_mac(entry.virtual_mac),
            "{vip} is said to be where no frame is taken for it after: {after}"
        );
    }
    for (vip, _) in &model.addresses {
        assert!(tables.vips.contains_key(vip), "{vip} is on the interface but no VIP after: {after}");
        assert!(is_in_filter(&model.node, *vip), "{vip} is not in the filter after: {after}");
    }
}

fn is_in_filter(node: &NodeEntry, vip: IpAddr) -> bool {
    match vip {
        IpAddr::V4(vip) => node.may_be_vip(Be32::from(vip)),
        IpAddr::V6(vip) => node.may_be_vip(Be128::from(vip)),
    }
}

fn add_to_filter(node: &mut NodeEntry, vip: IpAddr) {
    match vip {
        IpAddr::V4(vip) => node.add_vip(Be32::from(vip)),
        IpAddr::V6(vip) => node.add_vip(Be128::from(vip)),
    }
}

const VIPS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(172, 16, 0, 10)),
    IpAddr::V4(Ipv4Addr::new(172, 16, 0, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 10)),
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
];

fn list_of(members: &BTreeSet<BackendId>) -> Members {
    let mut ids = [0; MAX_MEMBERS];
    ids.iter_mut().zip(members).for_each(|(place, &id)| *place = id);
    Members { count: members.len() as u32, ids }
}

fn allowed(service: u32, network: u8) -> AllowedPrefix {
    let source = IpAddr::from([10, network, 0, 0]).into();
    (AllowedKey { service: Be32::new(service), source }, 32 + 96 + 16)
}

/// A table that repeats its members; each made once, since filling one takes longer than everything else here.
fn table_of(members: BTreeSet<BackendId>) -> Arc<MaglevSlots> {
    static TABLES: Mutex<BTreeMap<BTreeSet<BackendId>, Arc<MaglevSlots>>> = Mutex::new(BTreeMap::new());
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let table = tables.entry(members.clone()).or_insert_with(|| {
        let mut slots = [0; MAGLEV_SLOTS];
        slots.iter_mut().zip(members.iter().cycle()).for_each(|(slot, &id)| *slot = id);
        Arc::new(slots)
    });
    Arc::clone(table)
}

/// A consistent state: services with tables of backends that exist, addresses only of VIPs.
fn state() -> impl Strategy<Value = Desired> {
    let backends = collection::btree_map(0u16..12, 1u8..4, 1..8);
    // Per service: VIP, port, which backends, who may connect.
    let members = collection::vec(any::<prop::sample::Index>(), 0..4);
    let service = (0usize..4, 1u16..3, members, collection::btree_set(0u8..3, 0..3));
    let services = collection::vec(service, 0..5);
    let owned = collection::btree_map(0usize..4, (1u64..3, prop_oneof![Just(24u8), Just(32)]), 0..4);
    (backends, services, owned, 0u8..3).prop_map(|(backends, services, owned, mac)| {
        let mut desired = Desired {
            tables: Tables::default(),
            node: NodeEntry { macs: [MacWord::new([mac; 6]); 4], ..NodeEntry::EMPTY },
            addresses: BTreeSet::new(),
            announce: BTreeMap::new(),
            problems: Vec::new(),
        };
        let ids: Vec<BackendId> = backends.keys().copied().collect();
        for (id, mac) in backends {
            let hop = Hop { mac: MacWord::new([mac; 6]), ..Hop::NONE };
            let entry = BackendEntry {
                address: IpAddr::from([192, 168, 0, id as u8]).into(),
                port: Be16::new(6443),
                hop,
                ..BackendEntry::default()
            };
            desired.tables.backends.insert(id, entry);
        }
        for (index, (vip, port, members, networks)) in (0u32..).zip(services) {
            let vip = VIPS[vip];
            let key = ServiceKey::new(vip.into(), Be16::new(port));
            if desired.tables.services.contains_key(&key) {
                continue;
            }
            let members: BTreeSet<BackendId> = members.iter().map(|index| *index.get(&ids)).collect();
            let flags = if networks.is_empty() { 0 } else { SERVICE_HAS_ALLOW_LIST };
            let entry =
                ServiceEntry { index, usable: members.len() as u32, flags, ..ServiceEntry::default() };
            if !members.is_empty() {
                desired.tables.members.insert(index, list_of(&members));
                desired.tables.rings.insert(index, table_of(members));
            }
            desired.tables.allowed.extend(networks.into_iter().map(|network| allowed(index, network)));
            desired.tables.services.insert(key, entry);
            desired.tables.vips.insert(vip, VipEntry::new(true));
            add_to_filter(&mut desired.node, vip);
        }
        for (vip, (generation, prefix)) in owned {
            let vip = VIPS[vip];
            if desired.tables.vips.contains_key(&vip) {
                desired.addresses.insert((vip, prefix));
                desired.announce.insert(vip, generation);
                if prefix == 32 {
                    answer(&mut desired, vip, generation as u8);
                }
            }
        }
        desired
    })
}

/// Has the data plane answer for a VIP with the address of that virtual router.
fn answer(desired: &mut Desired, vip: IpAddr, vrid: u8) {
    let entry = desired.tables.vips.get_mut(&vip).expect("a VIP");
    (entry.virtual_mac, entry.if_index) = (MacWord::new(virtual_mac(vip.is_ipv6(), vrid)), 1);
    desired.node.add_virtual_router(vip.is_ipv6(), vrid);
}

fn as_observed(state: Desired) -> Observed {
    let Desired { tables, node, addresses, announce, problems: _ } = state;
    Observed { tables, node, addresses, announced: announce }
}

fn empty() -> Observed {
    Observed {
        tables: Tables::default(),
        node: NodeEntry::EMPTY,
        addresses: BTreeSet::new(),
        announced: BTreeMap::new(),
    }
}

/// Tables and members are equal as far as services use them.
fn assert_reached(model: &Observed, desired: &Desired) {
    let mut tables = model.tables.clone();
    tables.rings.retain(|index, _| desired.tables.rings.contains_key(index));
    tables.members.retain(|index, _| desired.tables.members.contains_key(index));
    assert!(tables == desired.tables, "the maps differ");
    assert_eq!(model.node, desired.node);
    assert_eq!(model.addresses, desired.addresses);
    assert_eq!(model.announced, desired.announce);
}

/// A wanted state whose services have the indices that the observed one gave them, as `desired::service_indices` sees to.
fn with_stable_indices(mut desired: Desired, observed: &Desired) -> Desired {
    let mut taken: BTreeSet<u32> = observed.tables.services.values().map(|entry| entry.index).collect();
    let Tables { services, rings, members, allowed, .. } = &mut desired.tables;
    let (old_rings, old_members) = (std::mem::take(rings), std::mem::take(members));
    let old_allowed = std::mem::take(allowed);
    for (key, entry) in services {
        let index = match observed.tables.services.get(key) {
            Some(known) => known.index,
            None => (0..).find(|index| !taken.contains(index)).expect("few services"),
        };
        taken.insert(index);
        rings.extend(old_rings.get(&entry.index).map(|slots| (index, Arc::clone(slots))));
        members.extend(old_members.get(&entry.index).map(|list| (index, *list)));
        let own = old_allowed.iter().filter(|(key, _)| key.service == Be32::new(entry.index));
        allowed.extend(own.map(|&(key, len)| (AllowedKey { service: Be32::new(index), ..key }, len)));
        entry.index = index;
    }
    desired
}

/// Applies the changes one by one.
fn run(mut model: Observed, desired: &Desired) {
    for change in diff(desired, &model) {
        apply(&mut model, &change);
        check(&model, &change);
    }
    assert_reached(&model, desired);
    assert_eq!(diff(desired, &model), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_changes_lead_there_and_every_step_is_consistent(from in state(), to in state()) {
        let to = with_stable_indices(to, &from);
        run(as_observed(from), &to);
    }

    #[test]
    fn from_nothing_and_back_to_nothing(to in state()) {
        run(empty(), &to);
        let nothing = Desired {
            tables: Tables::default(),
            node: NodeEntry::EMPTY,
            addresses: BTreeSet::new(),
            announce: BTreeMap::new(),
            problems: Vec::new(),
        };
        run(as_observed(to), &nothing);
    }

    #[test]
    fn stages_come_in_order(from in state(), to in state()) {
        let changes = diff(&to, &as_observed(from));
        prop_assert!(changes.is_sorted_by_key(Change::stage));
    }
}

fn vip_state(vips: &[(IpAddr, u8, u64)]) -> Desired {
    let mut desired = Desired {
        tables: Tables::default(),
        node: NodeEntry::EMPTY,
        addresses: BTreeSet::new(),
        announce: BTreeMap::new(),
        problems: Vec::new(),
    };
    for &(vip, prefix, generation) in vips {
        desired.tables.vips.insert(vip, VipEntry::new(true));
        add_to_filter(&mut desired.node, vip);
        desired.addresses.insert((vip, prefix));
        desired.announce.insert(vip, generation);
    }
    desired
}

#[test]
fn an_address_that_went_missing_comes_back_and_is_announced_again() {
    let wanted = vip_state(&[(VIPS[0], 24, 1)]);
    let mut observed = as_observed(wanted.clone());
    observed.addresses.clear();
    assert_eq!(
        diff(&wanted, &observed),
        [Change::AddAddress((VIPS[0], 24)), Change::Announce(VIPS[0], 1, None)]
    );
}

#[test]
fn a_vip_that_comes_back_is_announced_again() {
    let observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    assert_eq!(diff(&vip_state(&[(VIPS[0], 24, 2)]), &observed), [Change::Announce(VIPS[0], 2, None)]);
}

#[test]
fn another_prefix_replaces_the_address() {
    let observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    assert_eq!(
        diff(&vip_state(&[(VIPS[0], 32, 1)]), &observed),
        [
            Change::RemoveAddress((VIPS[0], 24)),
            Change::AddAddress((VIPS[0], 32)),
            Change::Announce(VIPS[0], 1, None),
        ]
    );
}

#[test]
fn losing_the_vip_takes_the_address_off_and_leaves_the_maps_warm() {
    let observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    let mut wanted = vip_state(&[(VIPS[0], 24, 1)]);
    wanted.addresses.clear();
    wanted.announce.clear();
    assert_eq!(
        diff(&wanted, &observed),
        [Change::StopAnnouncing(VIPS[0]), Change::RemoveAddress((VIPS[0], 24))]
    );
}

#[test]
fn the_data_plane_answers_last_and_falls_silent_first() {
    let silent = vip_state(&[(VIPS[0], 24, 1)]);
    let mut backup = silent.clone();
    backup.addresses.clear();
    backup.announce.clear();
    let mut active = silent;
    answer(&mut active, VIPS[0], 51);
    let entry = active.tables.vips[&VIPS[0]];
    let mac = virtual_mac(false, 51);
    assert_eq!(
        diff(&active, &as_observed(backup.clone())),
        [
            Change::SetNode(Box::new(active.node)),
            Change::SetVip(VIPS[0], entry),
            Change::AddAddress((VIPS[0], 24)),
            Change::Announce(VIPS[0], 1, Some(mac)),
        ]
    );
    assert_eq!(
        diff(&backup, &as_observed(active.clone())),
        [
            Change::StopAnswering(VIPS[0], VipEntry::new(true)),
            Change::StopAnnouncing(VIPS[0]),
            Change::RemoveAddress((VIPS[0], 24)),
            Change::SetNode(Box::new(backup.node)),
        ]
    );
    // A VIP that nobody wants any more falls silent as early.
    let mut gone = backup;
    gone.tables.vips.clear();
    let changes = diff(&gone, &as_observed(active));
    assert_eq!(changes.first(), Some(&Change::StopAnswering(VIPS[0], VipEntry::new(true))));
    assert_eq!(changes.last(), Some(&Change::RemoveVip(VIPS[0])));
}

#[test]
fn another_virtual_router_s_address_is_announced() {
    let (mut before, mut after) = (vip_state(&[(VIPS[0], 24, 1)]), vip_state(&[(VIPS[0], 24, 1)]));
    answer(&mut before, VIPS[0], 51);
    answer(&mut after, VIPS[0], 52);
    assert_eq!(
        diff(&after, &as_observed(before)),
        [
            Change::StopAnswering(VIPS[0], VipEntry::new(true)),
            Change::SetNode(Box::new(after.node)),
            Change::SetVip(VIPS[0], after.tables.vips[&VIPS[0]]),
            Change::Announce(VIPS[0], 1, Some(virtual_mac(false, 52))),
        ]
    );
}

#[test]
fn a_predecessor_s_leftovers_are_removed_from_the_top_down() {
    let mut observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    observed.announced.clear();
    let key = ServiceKey::new(VIPS[0].into(), Be16::new(6443));
    observed.tables.services.insert(key, ServiceEntry { usable: 1, ..ServiceEntry::default() });
    observed.tables.allowed.insert(allowed(0, 1));
    observed.tables.members.insert(0, list_of(&BTreeSet::from([7])));
    observed.tables.backends.insert(7, BackendEntry::default());
    observed.tables.rings.insert(0, Arc::new([7; MAGLEV_SLOTS]));
    assert_eq!(
        diff(&vip_state(&[]), &observed),
        [
            Change::RemoveAddress((VIPS[0], 24)),
            Change::SetNode(Box::new(NodeEntry::EMPTY)),
            Change::RemoveVip(VIPS[0]),
            Change::RemoveService(key),
            Change::Disallow(allowed(0, 1)),
            Change::RemoveBackend(7),
        ]
    );
}

#[test]
fn who_may_connect_is_known_before_it_is_asked_and_until_it_is_not() {
    let key = ServiceKey::new(VIPS[0].into(), Be16::new(6443));
    let state = |flags, networks: &[u8]| {
        let mut state = vip_state(&[]);
        state.tables.services.insert(key, ServiceEntry { flags, ..ServiceEntry::default() });
        state.tables.allowed.extend(networks.iter().map(|&network| allowed(0, network)));
        state
    };
    let (open, closed) = (state(0, &[]), state(SERVICE_HAS_ALLOW_LIST, &[1]));
    let set = |state: &Desired| Change::SetService(key, state.tables.services[&key]);
    assert_eq!(diff(&closed, &as_observed(open.clone())), [Change::Allow(allowed(0, 1)), set(&closed)]);
    assert_eq!(diff(&open, &as_observed(closed.clone())), [set(&open), Change::Disallow(allowed(0, 1))]);
    let other = state(SERVICE_HAS_ALLOW_LIST, &[2]);
    assert_eq!(
        diff(&other, &as_observed(closed)),
        [Change::Allow(allowed(0, 2)), Change::Disallow(allowed(0, 1))]
    );
}

#[test]
fn changes_are_told_as_people_write_them() {
    let mapped = (AllowedKey { service: Be32::new(3), source: IpAddr::from([10, 0, 0, 0]).into() }, 32 + 104);
    assert_eq!(Change::Allow(mapped).to_string(), "allow 10.0.0.0/8 at service 3");
    let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0));
    let v6 = (AllowedKey { service: Be32::new(0), source: v6.into() }, 32 + 8);
    assert_eq!(Change::Disallow(v6).to_string(), "do not allow fd00::/8 at service 0");
    let key = ServiceKey::new(VIPS[2].into(), Be16::new(6443));
    assert_eq!(Change::RemoveService(key).to_string(), "remove service [fd10::a]:6443");
    let backend = BackendEntry {
        address: IpAddr::from([172, 16, 0, 4]).into(),
        port: Be16::new(6443),
        weight: 100,
        local: 1,
        ..BackendEntry::default()
    };
    assert_eq!(
        Change::SetBackend(1, backend).to_string(),
        "backend 1: 172.16.0.4:6443, weight 100, on this node"
    );
}
