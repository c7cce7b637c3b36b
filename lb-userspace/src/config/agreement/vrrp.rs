//! What the `[[vrrp]]` tables have to do with the services and with each other.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use super::{repeated, used};
use crate::config::{
    model::{Family, Tracked, Vip, VrrpChecksum, duration_text, family_of},
    nearest::nearest,
    reader::{At, Place, Reader},
    schema::{ServiceDraft, VrrpDraft},
};

pub(super) fn check(reader: &Reader<'_>, services: &[ServiceDraft], instances: &[VrrpDraft]) {
    references(reader, services, instances);
    names(reader, instances);
    ids(reader, services, instances);
    for instance in instances {
        one_family(reader, services, instance);
        no_vip(reader, services, instance);
        no_backend_tracked(reader, services, instance);
    }
    sync_groups(reader, instances);
}

fn references(reader: &Reader<'_>, services: &[ServiceDraft], instances: &[VrrpDraft]) {
    let names = || instances.iter().filter_map(|instance| Some(instance.name.as_ref()?.value.as_str()));
    for reference in services.iter().filter_map(|service| service.vrrp.as_ref()) {
        if names().any(|name| name == reference.value) {
            continue;
        }
        let remedy = match nearest(&reference.value, names()).or_else(|| names().next()) {
            Some(name) => format!("write: vrrp = {name:?}"),
            None => format!("write: [[vrrp]] with name = {:?} and virtual_router_id = 60", reference.value),
        };
        let message = format!("`vrrp` names {:?}, which is no [[vrrp]] of this file", reference.value);
        reader.error(&reference.place, message, remedy);
    }
    for instance in instances {
        let Some(name) = &instance.name else { continue };
        let mut references = services.iter().filter_map(|service| service.vrrp.as_ref());
        if !references.any(|reference| reference.value == name.value) {
            let message = "no service uses this VRRP instance, so it owns no address and does nothing";
            reader.warning(
                &instance.place,
                message,
                format!("write: vrrp = {:?} in a [[service]]", name.value),
            );
        }
    }
}

/// The VIPs of an instance; none where one of them could not be read.
fn vips<'s>(services: &'s [ServiceDraft], instance: &VrrpDraft) -> Option<Vec<&'s At<Vip>>> {
    let name = instance.name.as_ref()?;
    let owned = services
        .iter()
        .filter(|service| service.vrrp.as_ref().is_some_and(|reference| reference.value == name.value));
    owned.map(|service| service.vip.as_ref()).collect()
}

fn family(vips: &[&At<Vip>]) -> Family {
    family_of(&vips.iter().map(|vip| vip.value.address).collect::<Vec<_>>())
}

fn names(reader: &Reader<'_>, instances: &[VrrpDraft]) {
    for (first, place) in repeated(instances.iter().filter_map(|instance| used(instance.name.as_ref()))) {
        let message =
            format!("`name` is already the name of the VRRP instance on line {}", reader.line(first));
        reader.error(place, message, "write: name = a name of its own");
    }
}

/// The VIPs are on one interface, where a family's VRID is one virtual router whatever the version (RFC 9568 §5.2.3).
fn ids(reader: &Reader<'_>, services: &[ServiceDraft], instances: &[VrrpDraft]) {
    let with_family = instances.iter().filter_map(|instance| {
        let (id, place) = used(instance.virtual_router_id.as_ref())?;
        Some(((family(&vips(services, instance)?), id), place))
    });
    for (first, place) in repeated(with_family) {
        let message = format!("`virtual_router_id` is already used on line {}", reader.line(first));
        reader.error(place, message, "write: virtual_router_id = a number of its own, the same on all nodes");
    }
}

/// An instance speaks the family of its VIPs, or IPv4 if they are of both.
fn one_family(reader: &Reader<'_>, services: &[ServiceDraft], instance: &VrrpDraft) {
    let Some(vips) = vips(services, instance) else { return };
    let family = family(&vips);
    let Some(vip) = vips.iter().find(|vip| Family::of(vip.value.address) == family) else { return };
    let line = reader.line(&vip.place);
    if family == Family::Ipv6 {
        if let Some(version) = instance.version.as_ref().filter(|version| version.value == 2) {
            let message = format!("`version` 2 is for IPv4 VIPs only, and the VIP on line {line} is IPv6");
            reader.error(&version.place, message, "write: version = 3");
        }
        if instance.checksum.value == VrrpChecksum::Rfc9568 {
            let message = "`checksum` has no effect over IPv6, where it covers a pseudo-header in any case (RFC 9568 §5.2.8)";
            reader.warning(&instance.checksum.place, message, "remove it");
        }
    }
    let of_other = |address: &IpAddr| Family::of(*address) != family;
    let message = |key: &str, address: &IpAddr| {
        format!("`{key}` has {address}, but this instance speaks {family}: so is the VIP on line {line}")
    };
    if let Some(source) = instance.unicast_source.as_ref().filter(|source| of_other(&source.value)) {
        let remedy = format!("write: unicast_source = this node's {family} address");
        reader.error(&source.place, message("unicast_source", &source.value), remedy);
    }
    let peers = &instance.unicast_peers;
    for peer in peers.value.iter().filter(|peer| of_other(peer.get_ref())) {
        let remedy = format!("write: unicast_peers = the other nodes' {family} addresses");
        reader.error(&peers.place.part(peer.span()), message("unicast_peers", peer.get_ref()), remedy);
    }
}

/// A VIP moves between nodes, so it cannot be what a node is known by, nor what tells that the network works.
fn no_vip(reader: &Reader<'_>, services: &[ServiceDraft], instance: &VrrpDraft) {
    let complain = |key: &str, address: IpAddr, place: &Place, what: &str| {
        let mut vips = services.iter().filter_map(|service| service.vip.as_ref());
        if let Some(vip) = vips.find(|vip| vip.value.address == address) {
            let line = reader.line(&vip.place);
            let message = format!("`{key}` has the VIP on line {line}, which moves between the nodes");
            reader.error(place, message, format!("write: {key} = {what}"));
        }
    };
    if let Some(source) = &instance.unicast_source {
        complain("unicast_source", source.value, &source.place, "this node's own address");
    }
    for (key, list, what) in [
        ("unicast_peers", &instance.unicast_peers, "the other nodes' own addresses"),
        ("witness", &instance.witnesses, "the gateway's address, or another that always answers"),
    ] {
        for address in &list.value {
            complain(key, *address.get_ref(), &list.place.part(address.span()), what);
        }
    }
}

/// Where an overloaded API server made the VIP move, it would be overloaded behind the other node, too, and the
/// connections would be gone.
fn no_backend_tracked(reader: &Reader<'_>, services: &[ServiceDraft], instance: &VrrpDraft) {
    let backends = services.iter().flat_map(|service| &service.backends);
    let hosts: Vec<IpAddr> =
        backends.filter_map(|backend| Some(backend.address.as_ref()?.value.ip())).collect();
    for what in instance.tracks.iter().filter_map(|track| track.what.as_ref()) {
        let Tracked::Script { command, .. } = &what.value else { continue };
        if command.iter().any(|word| names_api_server(word, &hosts)) {
            let message = "`command` seems to look at the API servers, which [service.health] does: where they fail, the VIP \
                           would move for nothing";
            let remedy = "remove it, or track something that only this node has";
            reader.warning(&what.place, message, remedy);
        }
    }
}

/// Whether a word of a command has a backend's address in it, or the port of API servers.
fn names_api_server(word: &str, hosts: &[IpAddr]) -> bool {
    let mut parts = word.split(|c: char| !c.is_ascii_hexdigit() && !matches!(c, '.' | ':'));
    parts.any(|part| {
        let host = part.parse().or(part.parse::<SocketAddr>().map(|address| address.ip()));
        host.is_ok_and(|host| hosts.contains(&host)) || part.rsplit(':').next() == Some("6443")
    })
}

/// Members of a group become Active and stop together, so that what decides about it must be the same for all.
fn sync_groups(reader: &Reader<'_>, instances: &[VrrpDraft]) {
    let mut groups: BTreeMap<&str, Vec<(&VrrpDraft, &Place)>> = BTreeMap::new();
    for instance in instances {
        if let Some(group) = &instance.sync_group {
            groups.entry(&group.value).or_default().push((instance, &group.place));
        }
    }
    for (name, members) in groups {
        let Some(((first, place), others)) = members.split_first() else { continue };
        if others.is_empty() {
            let message = format!("no other instance is in the sync group {name:?}, so it does nothing");
            let remedy = format!("write: sync_group = {name:?} in another [[vrrp]], or remove it");
            reader.warning(place, message, remedy);
        }
        for (other, _) in others {
            same(reader, "priority", &first.priority, &other.priority, u8::to_string);
            same(reader, "advert_interval", &first.advert_interval, &other.advert_interval, |interval| {
                format!("{:?}", duration_text(*interval))
            });
            same(reader, "preempt", &first.preempt, &other.preempt, bool::to_string);
            same(reader, "preempt_delay", &first.preempt_delay, &other.preempt_delay, |delay| {
                format!("{:?}", duration_text(*delay))
            });
        }
    }
}

/// Refuses a member's value that is not the first one's.
fn same<T: PartialEq>(
    reader: &Reader<'_>,
    key: &str,
    first: &Option<At<T>>,
    other: &Option<At<T>>,
    show: fn(&T) -> String,
) {
    if let (Some(first), Some(other)) = (first, other)
        && first.value != other.value
    {
        let (wanted, line) = (show(&first.value), reader.line(&first.place));
        let message = format!(
            "`{key}` is {}, and {wanted} in the instance of the same sync group on line {line}: a group elects as one",
            show(&other.value)
        );
        reader.error(&other.place, message, format!("write: {key} = {wanted}"));
    }
}
