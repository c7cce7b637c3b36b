//! What is wrong or weak in keepalived's files, each alone and together.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    config::model::duration_text,
    import::{
        incumbent::{Authentication, Incumbent, RouterInstance, RouterNode},
        ledger::{Finding, Ledger, Severity},
        source::{At, Place},
    },
};

/// Passwords that stand in every guide.
const COPIED_PASSWORDS: [&str; 12] = [
    "1111", "1234", "12345", "123456", "12345678", "admin", "admin123", "password", "secret", "42", "k8s",
    "keepaliv",
];

/// Finds W5 (passwords), W6 (equal priorities), W7 (VRIDs that everybody copies), W9 (passwords in clear text) and W11 (files
/// of several nodes that disagree).
pub fn lint(incumbent: &Incumbent, ledger: &mut Ledger) {
    let instances: Vec<&RouterInstance> = incumbent.routers.iter().flat_map(|node| &node.instances).collect();
    passwords(&instances, ledger);
    copied_vrids(&instances, ledger);
    for virtual_router in virtual_routers(&incumbent.routers) {
        equal_priorities(&virtual_router, ledger);
        disagreements(&virtual_router, incumbent.routers.len(), ledger);
    }
}

/// The instances of several nodes that are one virtual router.
type VirtualRouter<'i> = Vec<(&'i RouterNode, &'i RouterInstance)>;

fn warning(id: &'static str, places: Vec<Place>, message: String, remedy: &str) -> Finding {
    Finding { id, severity: Severity::Warning, places, message, remedy: remedy.to_owned() }
}

fn passwords(instances: &[&RouterInstance], ledger: &mut Ledger) {
    let given: Vec<&At<String>> = instances
        .iter()
        .filter_map(|instance| match &instance.authentication {
            Authentication::Password(password) => Some(password),
            _ => None,
        })
        .collect();
    let weak: Vec<Place> = given
        .iter()
        .filter(|password| {
            password.value.len() < 8
                || COPIED_PASSWORDS.contains(&password.value.to_ascii_lowercase().as_str())
        })
        .map(|password| password.place)
        .collect();
    if !weak.is_empty() {
        ledger.find(warning(
            "W5",
            weak,
            "a password of VRRP that is shorter than 8 characters, or stands in every guide".to_owned(),
            "it is imported as it is, so that nodes with keepalived go on understanding: change it on all nodes together, or \
             better use [vrrp.auth_hmac]",
        ));
    }
    if !given.is_empty() {
        ledger.find(warning(
            "W9",
            given.iter().map(|password| password.place).collect(),
            "auth_type PASS sends the password in clear text in each advertisement: whoever is on the network reads it, and \
             can take the VIP"
                .to_owned(),
            "once all nodes run xvip (or keepalived 2.4.2 or later), replace auth_pass by [vrrp.auth_hmac]",
        ));
    }
}

fn copied_vrids(instances: &[&RouterInstance], ledger: &mut Ledger) {
    let copied: Vec<&At<u8>> = instances
        .iter()
        .map(|instance| &instance.virtual_router_id)
        .filter(|id| matches!(id.value, 50 | 51))
        .collect();
    if let Some(first) = copied.first() {
        let message = format!(
            "VRID {} stands in every guide: another cluster on this network may well have it, and the two then fight or ignore \
             each other",
            first.value
        );
        ledger.find(warning(
            "W7",
            copied.iter().map(|id| id.place).collect(),
            message,
            "`xvip doctor` listens for others with that VRID; change it once all nodes run xvip",
        ));
    }
}

/// Instances with the same VRID and family, or else with a VIP or the name in common.
fn virtual_routers(nodes: &[RouterNode]) -> Vec<VirtualRouter<'_>> {
    let mut routers: Vec<VirtualRouter<'_>> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut taken = BTreeSet::new();
        // The surest first, over all of a node's instances, so that none takes the place of a better one.
        let mut left: Vec<&RouterInstance> = node.instances.iter().collect();
        for same in [same_vrid, same_vip, same_name] {
            left.retain(|instance| {
                if index == 0 {
                    return true;
                }
                let found = routers.iter().enumerate().position(|(at, router)| {
                    !taken.contains(&at) && router.first().is_some_and(|(_, first)| same(first, instance))
                });
                let Some(at) = found else { return true };
                taken.insert(at);
                routers[at].push((node, instance));
                false
            });
        }
        for instance in left {
            taken.insert(routers.len());
            routers.push(vec![(node, instance)]);
        }
    }
    routers
}

fn is_ipv6(instance: &RouterInstance) -> bool {
    instance.vips.iter().find(|vip| vip.value.advertised).is_some_and(|vip| vip.value.address.is_ipv6())
}

fn same_vrid(one: &RouterInstance, other: &RouterInstance) -> bool {
    one.virtual_router_id.value == other.virtual_router_id.value && is_ipv6(one) == is_ipv6(other)
}

fn same_vip(one: &RouterInstance, other: &RouterInstance) -> bool {
    let vips = vips(one);
    other.vips.iter().any(|vip| vips.contains(&vip.value.address))
}

fn same_name(one: &RouterInstance, other: &RouterInstance) -> bool {
    one.name.value == other.name.value && is_ipv6(one) == is_ipv6(other)
}

fn vips(instance: &RouterInstance) -> BTreeSet<IpAddr> {
    instance.vips.iter().filter(|vip| vip.value.advertised).map(|vip| vip.value.address).collect()
}

fn equal_priorities(router: &VirtualRouter<'_>, ledger: &mut Ledger) {
    let mut priorities: Vec<u8> = router.iter().map(|(_, instance)| instance.priority.value).collect();
    priorities.sort_unstable();
    for priority in
        priorities.chunk_by(|one, other| one == other).filter(|equal| equal.len() > 1).map(|equal| equal[0])
    {
        let places: Vec<Place> = router
            .iter()
            .filter(|(_, instance)| instance.priority.value == priority)
            .map(|(_, instance)| instance.priority.place)
            .collect();
        let message = format!(
            "{} nodes have priority {priority}: when both claim the VIP the higher address wins, and who has it keeps it",
            places.len()
        );
        ledger.find(warning(
            "W6",
            places,
            message,
            "imported as it is; give each node a priority of its own if it matters who owns the VIP",
        ));
    }
}

/// A difference that keeps nodes from understanding each other.
struct Difference {
    what: &'static str,
    follows: &'static str,
    places: Vec<Place>,
    values: Vec<String>,
}

fn disagreements(router: &VirtualRouter<'_>, nodes: usize, ledger: &mut Ledger) {
    let Some((_, first)) = router.first() else { return };
    if router.len() < nodes {
        let message = format!(
            "the virtual router {:?} (VRID {}) is in {} of {nodes} files",
            first.name.value,
            first.virtual_router_id.value,
            router.len()
        );
        let places = router.iter().map(|(_, instance)| instance.name.place).collect();
        ledger.find(warning(
            "W11",
            places,
            message,
            "a node without it never takes its VIPs over: add it there, or leave the file out",
        ));
    }
    let both_masters = "each node ignores the others' advertisements, and all of them own the VIP";
    let show_vips = |instance: &RouterInstance| {
        vips(instance).iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let mut passwords: Vec<&str> = Vec::new();
    for (_, instance) in router {
        if let Authentication::Password(password) = &instance.authentication
            && !passwords.contains(&password.value.as_str())
        {
            passwords.push(&password.value);
        }
    }
    type Show<'s> = &'s dyn Fn(&RouterInstance) -> (String, Place);
    let aspects: [(&'static str, &'static str, Show<'_>); 6] = [
        ("virtual_router_id", both_masters, &|instance| {
            (instance.virtual_router_id.value.to_string(), instance.virtual_router_id.place)
        }),
        ("version", both_masters, &|instance| (u8::from(instance.version).to_string(), instance.name.place)),
        (
            "advert_int",
            "with version 2 each node ignores the others' advertisements; with version 3 it obeys the owner's",
            &|instance| (duration_text(instance.advert_interval), instance.name.place),
        ),
        ("authentication", both_masters, &|instance| authentication(instance, &passwords)),
        (
            "virtual_ipaddress",
            "keepalived ignores advertisements with other addresses than its own",
            &|instance| {
                let place = instance.vips.first().map_or(instance.name.place, |vip| vip.place);
                (show_vips(instance), place)
            },
        ),
        ("multicast or unicast", both_masters, &|instance| {
            let kind = if instance.unicast_peers.is_empty() { "multicast" } else { "unicast" };
            let place = instance.unicast_peers.first().map_or(instance.name.place, |peer| peer.place);
            (kind.to_owned(), place)
        }),
    ];
    for (what, follows, show) in aspects {
        let shown: Vec<(String, Place)> = router.iter().map(|(_, instance)| show(instance)).collect();
        let distinct: BTreeSet<&String> = shown.iter().map(|(value, _)| value).collect();
        if distinct.len() > 1 {
            let (values, places) = shown.into_iter().unzip();
            report(Difference { what, follows, places, values }, first, ledger);
        }
    }
    peers(router, ledger);
}

fn report(difference: Difference, first: &RouterInstance, ledger: &mut Ledger) {
    let Difference { what, follows, places, values } = difference;
    let message = format!(
        "the files disagree about {what} of {:?}: {}; {follows}",
        first.name.value,
        values
            .iter()
            .map(|value| if value.is_empty() { "nothing" } else { value })
            .collect::<Vec<_>>()
            .join(" / ")
    );
    ledger.find(warning(
        "W11",
        places,
        message,
        "each node's is imported as it is: make them the same first, on all nodes",
    ));
}

/// What of it goes over the wire: of passwords only which one it is, counted over all nodes.
fn authentication(instance: &RouterInstance, passwords: &[&str]) -> (String, Place) {
    match &instance.authentication {
        Authentication::None => ("none".to_owned(), instance.name.place),
        Authentication::Password(password) => {
            let number = passwords.iter().position(|known| *known == password.value).unwrap_or_default() + 1;
            (format!("password {number}"), password.place)
        }
        Authentication::Header(place) => ("AH".to_owned(), *place),
        Authentication::Hmac(hmac) => ("auth_hmac".to_owned(), hmac.place),
    }
}

/// Each node must be a peer of each other one, by the address that it sends from.
fn peers(router: &VirtualRouter<'_>, ledger: &mut Ledger) {
    for (node, instance) in router {
        let Some(source) = &instance.unicast_source else { continue };
        for (other_node, other) in router {
            if node.file == other_node.file && node.name == other_node.name {
                continue;
            }
            let knows_us = other.unicast_peers.is_empty()
                || other.unicast_peers.iter().any(|peer| peer.value == source.value);
            if !knows_us {
                let message = format!(
                    "{} is no unicast_peer in the file of another node ({:?}): that one does not tell it anything, and it takes \
                     the VIP as soon as it runs",
                    source.value, other.name.value
                );
                let places = vec![
                    source.place,
                    other.unicast_peers.first().map_or(other.name.place, |peer| peer.place),
                ];
                ledger.find(warning(
                    "W11",
                    places,
                    message,
                    "name every other node in unicast_peer, on all nodes",
                ));
            }
        }
        if instance.unicast_peers.iter().any(|peer| peer.value == source.value) {
            let message = format!("{} is its own unicast_peer", source.value);
            ledger.find(warning(
                "W11",
                vec![source.place],
                message,
                "xvip refuses that: leave it out of unicast_peer",
            ));
        }
    }
}

#[cfg(test)]
mod tests;
