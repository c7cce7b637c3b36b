//! Pacemaker's floating addresses, as virtual routers.

use std::{net::IpAddr, time::Duration};

use super::{InstancePlan, Key, Notes, Options, Owned, names, side::Side};
use crate::{
    config::{
        kinds,
        model::{Vip, VrrpVersion},
    },
    import::{
        incumbent::{Cluster, ClusterVip},
        ledger::Fate,
        source::At,
    },
};

/// As long as Corosync's token together with three of them.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of the first node; each of the others has one less.
const PRIORITY: u8 = 100;

/// Adds what Pacemaker does to the nodes, or makes them.
pub(super) fn sides(cluster: &Cluster, options: &Options, nodes: &mut Vec<Side>, notes: &mut Notes<'_>) {
    let vips: Vec<(&At<ClusterVip>, Vip)> = cluster
        .vips
        .iter()
        .filter_map(|at| {
            let longest = if at.value.address.is_ipv4() { 32 } else { 128 };
            let vip = Vip { address: at.value.address, prefix_len: at.value.prefix_len.unwrap_or(longest) };
            if kinds::is_vip(vip) {
                return Some((at, vip));
            }
            notes.say(at.place, Fate::NotPossible, "", format!("{vip} is no address that a host can have"));
            None
        })
        .collect();
    if vips.is_empty() {
        return;
    }
    let is_own = |address: IpAddr| {
        kinds::is_node_address(address) && vips.iter().all(|(_, vip)| vip.address != address)
    };
    let members = cluster.nodes.iter().map(|node| {
        let address = node.value.address.filter(|address| is_own(*address));
        (node.value.name.as_deref(), address.map(|address| (address, node.place)))
    });
    let members: Vec<_> = members.collect();
    if nodes.is_empty() {
        let count = members.len().max(1);
        nodes.extend((0..count).map(|_| Side::nameless()));
    }
    for (index, side) in nodes.iter_mut().enumerate() {
        let (name, address) = members.get(index).copied().unwrap_or_default();
        if side.names.is_empty() {
            side.names.extend(name.map(str::to_owned));
            side.names.extend(address.map(|(address, _)| address.to_string()));
            side.name = name.map(|name| {
                Key::new(names::name(name, "xvip"), cluster.nodes.get(index).map(|node| node.place))
            });
        }
        let peers: Vec<Key<IpAddr>> = members
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .filter_map(|(_, (_, address))| address.map(|(address, place)| Key::new(address, Some(place))))
            .collect();
        let own = address.map(|(address, place)| Key::new(address, Some(place)));
        add(cluster, &vips, side, index, (own, peers), options);
    }
}

fn add(
    cluster: &Cluster,
    vips: &[(&At<ClusterVip>, Vip)],
    side: &mut Side,
    index: usize,
    (own, peers): (Option<Key<IpAddr>>, Vec<Key<IpAddr>>),
    options: &Options,
) {
    let Some((first, vip)) = vips.first() else { return };
    let interface =
        vips.iter().find_map(|(at, _)| Some(Key::new(at.value.interface.clone()?, Some(at.place))));
    if side.interface.is_none() {
        side.interface = options.interface.clone().map(|name| Key::new(name, None)).or(interface);
    }
    let mut name = names::name(&first.value.name, "main");
    while side.instances.iter().any(|instance| instance.name.value == name) {
        name.push('2');
    }
    let has_peers = !peers.is_empty();
    for (at, vip) in vips {
        if side.vips.iter().all(|owned| owned.vip.address != vip.address) {
            side.vips.push(Owned { vip: *vip, from: Some(at.place), instance: Some(name.clone()) });
        }
    }
    let advert_interval = Key::new(INTERVAL, None)
        .check("a dead node is noticed after 3 to 4 of these, in about the time of Corosync's token; \"200ms\" notices it in less than 1 s");
    let id = last_byte(vip.address);
    let priority = PRIORITY.saturating_sub(u8::try_from(index).unwrap_or(u8::MAX)).max(1);
    side.instances.push(InstancePlan {
        name: Key::new(name, Some(first.place)),
        version: Key::new(VrrpVersion::V3, None),
        virtual_router_id: Key::new(id, None).check(
            "chosen by the VIP's last byte: the same on all nodes, and of nothing else on this network; `xvip doctor` listens",
        ),
        priority: Key::new(priority, None).check("chosen: Pacemaker has none. Each node needs another one"),
        advert_interval,
        preempt: Key::new(cluster.sticky.is_none(), cluster.sticky),
        preempt_delay: Duration::ZERO,
        unicast_source: own.filter(|_| has_peers),
        unicast_peers: peers,
        auth_pass: None,
        auth_hmac: None,
        checksum_rfc9568: false,
        sync_group: None,
        virtual_mac: None,
        tracks: Vec::new(),
    });
}

fn last_byte(address: IpAddr) -> u8 {
    let byte = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    byte.max(1)
}
