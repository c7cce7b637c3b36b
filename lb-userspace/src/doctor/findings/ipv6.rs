//! `ipv6`: an IPv6 VIP on an interface without IPv6.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "ipv6";

/// Only where there is an IPv6 VIP.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let Some(vip) = facts.vips().into_iter().find(std::net::IpAddr::is_ipv6) else {
        return Vec::new();
    };
    let interface = facts.config.node.interface();
    let disabled = facts
        .links()
        .find(|(name, _)| *name == interface)
        .is_some_and(|(_, link)| link.sysctls.get("disable_ipv6") != Some(&0));
    vec![if disabled {
        Finding::problem(
            ID,
            format!("is switched off, and {vip} is a VIP"),
            "the VIP cannot be put on the interface, and no neighbour is found",
        )
        .remedy(format!("sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0"))
        .about(interface)
    } else {
        Finding::fine(ID, "is switched on").about(interface)
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{config, facts, fine, link, one},
    };

    #[test]
    fn an_ipv6_vip_needs_it() {
        let six = |facts: &mut Facts| {
            facts.config = config(|text| {
                let text = text
                    .replace("172.16.0.10/24", "fd10::10/64")
                    .replace("172.16.0.4:", "[fd10::4]:")
                    .replace("172.16.0.5:", "[fd10::5]:");
                text.replace("172.16.0.2", "fd10::2").replace("172.16.0.3", "fd10::3")
            });
        };
        fine(judge, six);
        let found = one(judge, |facts| {
            six(facts);
            link(facts).sysctls.insert("disable_ipv6".to_owned(), 1);
        });
        assert_eq!(found.severity, Severity::Problem);
        assert!(judge(&facts()).is_empty());
    }
}
