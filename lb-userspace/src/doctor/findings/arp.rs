//! `arp`: another interface of this node that answers for the VIP.

use std::net::IpAddr;

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "arp";

/// Linux answers ARP for any of its addresses on any of its interfaces, unless told otherwise: with two interfaces in the VIP's
/// network, clients may learn either.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let interface = facts.config.node.interface();
    let mut found = Vec::new();
    for service in facts.config.services.iter().filter(|service| service.vrrp.is_some()) {
        let IpAddr::V4(vip) = service.vip.address else { continue };
        let other = facts.addresses.iter().find(|own| match own.address {
            IpAddr::V4(address) => {
                let bits = 32u32.saturating_sub(u32::from(own.prefix_len));
                own.interface != interface
                    && own.prefix_len > 0
                    && own.prefix_len < 32
                    && (address.to_bits() ^ vip.to_bits()).checked_shr(bits).unwrap_or(0) == 0
            }
            IpAddr::V6(_) => false,
        });
        let Some(other) = other else { continue };
        let ignores = facts.links().any(|(name, link)| {
            name == other.interface && link.sysctls.get("arp_ignore").is_some_and(|value| *value > 0)
        });
        if ignores {
            continue;
        }
        let name = &other.interface;
        let finding = Finding::advice(
            ID,
            format!(
                "{name} is in the network of the VIP {vip}, too ({}/{})",
                other.address, other.prefix_len
            ),
            format!(
                "while this node owns the VIP, {name} answers ARP for it as well, and packets come in there"
            ),
        );
        found.push(
            finding
                .remedy(format!(
                    "sysctl -w net.ipv4.conf.{name}.arp_ignore=1 net.ipv4.conf.{name}.arp_announce=2"
                ))
                .about(vip.to_string()),
        );
    }
    if found.is_empty() {
        found.push(Finding::fine(ID, format!("only {interface} is in the network of a VIP")));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::doctor::{
        Severity,
        facts::{Interface, Link, OwnAddress},
        findings::healthy::{address, facts, fine, one},
    };

    #[test]
    fn a_second_interface_in_the_vip_s_network() {
        let own = |text: &str, prefix_len| OwnAddress {
            interface: "eth1".to_owned(),
            address: address(text),
            prefix_len,
        };
        let found = one(judge, |facts| facts.addresses.push(own("172.16.0.99", 24)));
        assert_eq!(found.severity, Severity::Advice);
        for (value, is_fine) in [(0, false), (1, true)] {
            let mut facts = facts();
            facts.addresses.push(own("172.16.0.99", 24));
            let sysctls = BTreeMap::from([("arp_ignore".to_owned(), value)]);
            let link = Ok(Link { sysctls, ..Link::default() });
            facts.interfaces.push(Interface { name: "eth1".to_owned(), link });
            assert_eq!(judge(&facts)[0].severity == Severity::Fine, is_fine, "arp_ignore {value}");
        }
        for other in [own("172.17.0.99", 24), own("172.16.0.10", 32), own("fd10::9", 64), own("0.0.0.0", 0)] {
            fine(judge, |facts| facts.addresses.push(other));
        }
    }
}
