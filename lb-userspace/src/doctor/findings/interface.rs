//! `interface`: whether the configured interfaces are there, up, and have what is needed.

use std::net::IpAddr;

use crate::doctor::{
    Finding,
    facts::{Facts, Link},
};

const ID: &str = "interface";

/// Each of `node.interfaces`.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let interfaces = facts.interfaces.iter().map(|interface| {
        let name = &interface.name;
        let found = match &interface.link {
            Ok(link) => there(facts, name, link),
            Err(why) => {
                Finding::problem(ID, why.clone(), "XDP has nothing to be attached to: xvip does not start")
                    .remedy("ip -br link   # then write: interface = \"...\"")
            }
        };
        found.about(name.clone())
    });
    interfaces.collect()
}

fn there(facts: &Facts, name: &str, link: &Link) -> Finding {
    if !link.up {
        return Finding::problem(ID, "is down", "no packet comes in or goes out")
            .remedy(format!("ip link set dev {name} up"));
    }
    if !link.carrier {
        return Finding::problem(ID, "has no carrier", "the cable, the switch port or the other end is off")
            .remedy(format!("ethtool {name}"));
    }
    if link.mac.is_none() {
        return Finding::problem(
            ID,
            "has no Ethernet address",
            "xvip writes Ethernet frames; this is another kind of link",
        )
        .remedy("ip -br link   # then write: interface = \"...\"");
    }
    let vips = facts.vips();
    let has_own = |is_v4: bool| {
        let own = facts.addresses.iter().filter(|own| own.interface == name && !vips.contains(&own.address));
        own.into_iter().any(|own| own.address.is_ipv4() == is_v4)
    };
    let is_first = facts.config.node.interface() == name;
    let lacking = vips.iter().find(|vip| is_first && !has_own(vip.is_ipv4()));
    match lacking {
        Some(vip) => {
            let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
            Finding::problem(
                ID,
                format!("has no {family} address of its own beside the VIP {vip}"),
                "checks and advertisements have nowhere to leave from while another node owns the VIP",
            )
            .remedy(format!("ip addr add {} dev {name}", example(*vip)))
        }
        None => Finding::fine(ID, format!("is up, {} MTU {}", kind(link), link.mtu)),
    }
}

fn example(vip: IpAddr) -> String {
    if vip.is_ipv4() { "ADDRESS/24".to_owned() } else { "ADDRESS/64".to_owned() }
}

fn kind(link: &Link) -> String {
    let driver = link.driver.as_ref().map(|driver| format!("driver {driver},")).unwrap_or_default();
    match &link.vlans[..] {
        [] => driver,
        vlans => format!("VLAN {vlans:?} on {}, {driver}", link.parent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, link, one},
    };

    #[test]
    fn an_interface_that_cannot_be_used_is_a_problem() {
        let words = [
            one(judge, |facts| facts.interfaces[0].link = Err("interface eth0 does not exist".to_owned())),
            one(judge, |facts| link(facts).up = false),
            one(judge, |facts| link(facts).carrier = false),
            one(judge, |facts| link(facts).mac = None),
            one(judge, |facts| facts.addresses.clear()),
        ];
        for (found, word) in
            words.iter().zip(["not exist", "down", "carrier", "Ethernet", "address of its own"])
        {
            assert_eq!(found.severity, Severity::Problem);
            assert!(found.seen.contains(word), "{found:?}");
        }
        fine(judge, |_| ());
    }
}
