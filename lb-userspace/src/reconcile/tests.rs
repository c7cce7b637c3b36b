//! The order of the changes, checked step by step on a model of the kernel.

use std::{
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use lb_common::{hash::MAGLEV_SLOTS, layout::MacWord, wire::Be16};
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
        Change::SetService(key, entry) => drop(tables.services.insert(key, entry)),
        Change::SetVip(vip, entry) => drop(tables.vips.insert(vip, entry)),
        Change::SetNode(node) => model.node = *node,
        Change::AddAddress(address) => assert!(model.addresses.insert(address), "{change}"),
        Change::Announce(vip, generation) => {
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
        let ring = tables.rings.get(&service.ring);
        let ring = ring.unwrap_or_else(|| panic!("{} has no Maglev table after: {after}", KeyText(*key)));
        // Tables repeat their members from the start.
        for id in &ring[..16] {
            assert!(tables.backends.contains_key(id), "a slot names backend {id}, unset after: {after}");
        }
    }
    for (vip, _) in &model.addresses {
        let IpAddr::V4(vip) = vip else { panic!("{vip} is of another family") };
        assert!(tables.vips.contains_key(vip), "{vip} is on the interface but no VIP after: {after}");
        assert!(model.node.may_be_vip((*vip).into()), "{vip} is not in the filter after: {after}");
    }
}

const VIPS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(172, 16, 0, 10),
    Ipv4Addr::new(172, 16, 0, 11),
    Ipv4Addr::new(172, 16, 0, 12),
    Ipv4Addr::new(10, 0, 0, 1),
];

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
    // Per service: VIP, port, which backends, fenced, owned with a generation, prefix.
    let service = (0usize..4, 1u16..3, collection::vec(any::<prop::sample::Index>(), 0..4));
    let services = collection::vec(service, 0..5);
    let owned = collection::btree_map(0usize..4, (1u64..3, prop_oneof![Just(24u8), Just(32)]), 0..4);
    (backends, services, owned, 0u8..3).prop_map(|(backends, services, owned, mac)| {
        let mut desired = Desired {
            tables: Tables::default(),
            node: NodeEntry { mac: MacWord::new([mac; 6]), ..NodeEntry::EMPTY },
            addresses: BTreeSet::new(),
            announce: BTreeMap::new(),
        };
        let ids: Vec<BackendId> = backends.keys().copied().collect();
        for (id, mac) in backends {
            let address = Ipv4Addr::new(192, 168, 0, id as u8).into();
            let entry =
                BackendEntry { address, port: Be16::new(6443), mac: MacWord::new([mac; 6]), _pad: [0; 2] };
            desired.tables.backends.insert(id, entry);
        }
        for (ring, (vip, port, members)) in (0u32..).zip(services) {
            let vip = VIPS[vip];
            let members: BTreeSet<BackendId> = members.iter().map(|index| *index.get(&ids)).collect();
            let entry = ServiceEntry { ring, usable: members.len() as u32 };
            if !members.is_empty() {
                desired.tables.rings.insert(ring, table_of(members));
            }
            desired.tables.services.insert(ServiceKey::new(vip.into(), Be16::new(port)), entry);
            desired.tables.vips.insert(vip, VipEntry { fenced: 1 });
            desired.node.add_vip(vip.into());
        }
        for (vip, (generation, prefix)) in owned {
            let vip = VIPS[vip];
            if desired.tables.vips.contains_key(&vip) {
                desired.addresses.insert((vip.into(), prefix));
                desired.announce.insert(vip, generation);
            }
        }
        desired
    })
}

fn as_observed(state: Desired) -> Observed {
    let Desired { tables, node, addresses, announce } = state;
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

/// Rings are equal as far as services use them.
fn assert_reached(model: &Observed, desired: &Desired) {
    let mut tables = model.tables.clone();
    tables.rings.retain(|ring, _| desired.tables.rings.contains_key(ring));
    assert!(tables == desired.tables, "the maps differ");
    assert_eq!(model.node, desired.node);
    assert_eq!(model.addresses, desired.addresses);
    assert_eq!(model.announced, desired.announce);
}

/// A wanted state whose services have the tables that the observed one gave them, as `desired::ring_indices` sees to.
fn with_stable_rings(mut desired: Desired, observed: &Desired) -> Desired {
    let mut taken: BTreeSet<u32> = observed.tables.services.values().map(|entry| entry.ring).collect();
    let mut rings = BTreeMap::new();
    for (key, entry) in &mut desired.tables.services {
        let ring = match observed.tables.services.get(key) {
            Some(known) => known.ring,
            None => (0..).find(|ring| !taken.contains(ring)).expect("few services"),
        };
        taken.insert(ring);
        if let Some(slots) = desired.tables.rings.get(&entry.ring) {
            rings.insert(ring, Arc::clone(slots));
        }
        entry.ring = ring;
    }
    desired.tables.rings = rings;
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
        let to = with_stable_rings(to, &from);
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
        };
        run(as_observed(to), &nothing);
    }

    #[test]
    fn stages_come_in_order(from in state(), to in state()) {
        let changes = diff(&to, &as_observed(from));
        prop_assert!(changes.is_sorted_by_key(Change::stage));
    }
}

fn vip_state(vips: &[(Ipv4Addr, u8, u64)]) -> Desired {
    let mut desired = Desired {
        tables: Tables::default(),
        node: NodeEntry::EMPTY,
        addresses: BTreeSet::new(),
        announce: BTreeMap::new(),
    };
    for &(vip, prefix, generation) in vips {
        desired.tables.vips.insert(vip, VipEntry { fenced: 1 });
        desired.node.add_vip(vip.into());
        desired.addresses.insert((vip.into(), prefix));
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
        [Change::AddAddress((VIPS[0].into(), 24)), Change::Announce(VIPS[0], 1)]
    );
}

#[test]
fn a_vip_that_comes_back_is_announced_again() {
    let observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    assert_eq!(diff(&vip_state(&[(VIPS[0], 24, 2)]), &observed), [Change::Announce(VIPS[0], 2)]);
}

#[test]
fn another_prefix_replaces_the_address() {
    let observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    assert_eq!(
        diff(&vip_state(&[(VIPS[0], 32, 1)]), &observed),
        [
            Change::RemoveAddress((VIPS[0].into(), 24)),
            Change::AddAddress((VIPS[0].into(), 32)),
            Change::Announce(VIPS[0], 1),
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
        [Change::StopAnnouncing(VIPS[0]), Change::RemoveAddress((VIPS[0].into(), 24))]
    );
}

#[test]
fn a_predecessor_s_leftovers_are_removed_from_the_top_down() {
    let mut observed = as_observed(vip_state(&[(VIPS[0], 24, 1)]));
    observed.announced.clear();
    let key = ServiceKey::new(VIPS[0].into(), Be16::new(6443));
    observed.tables.services.insert(key, ServiceEntry { ring: 0, usable: 1 });
    observed.tables.backends.insert(7, BackendEntry::default());
    observed.tables.rings.insert(0, Arc::new([7; MAGLEV_SLOTS]));
    assert_eq!(
        diff(&vip_state(&[]), &observed),
        [
            Change::RemoveAddress((VIPS[0].into(), 24)),
            Change::SetNode(Box::new(NodeEntry::EMPTY)),
            Change::RemoveVip(VIPS[0]),
            Change::RemoveService(key),
            Change::RemoveBackend(7),
        ]
    );
}
