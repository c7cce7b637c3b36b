//! `kube-proxy-vip`: kube-proxy of this node has the VIP, too.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "kube-proxy-vip";
const INTERFACE: &str = "kube-ipvs0";

/// In IPVS mode it puts every service's addresses on an interface of its own; in the others it has rules for them.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for vip in facts.vips() {
        let why = "a Service of the cluster has the VIP as external or load balancer address";
        let find =
            format!("kubectl get services -A -o wide | grep -wF {vip}   # and take the address out there");
        if facts.has(vip).any(|own| own.interface == INTERFACE) {
            let length = if vip.is_ipv4() { 32 } else { 128 };
            found.push(
                Finding::problem(
                    ID,
                    format!("is an address of {INTERFACE}"),
                    format!(
                        "{why}: this node answers ARP for it and keeps its own connections to it, whoever owns the VIP"
                    ),
                )
                .remedy(find)
                .remedy(format!("or, in kube-proxy's configuration: ipvs: {{excludeCIDRs: [\"{vip}/{length}\"], strictARP: true}}"))
                .about(vip.to_string()),
            );
        } else if let Ok(rules) = &facts.firewall
            && let Some((_, rule)) = rules.kube_proxy.iter().find(|(address, _)| *address == vip)
        {
            found.push(
                Finding::problem(
                    ID,
                    format!("is in kube-proxy's rules ({rule})"),
                    format!("{why}: connections of this node's own processes and pods to it go where kube-proxy says"),
                )
                .remedy(find)
                .about(vip.to_string()),
            );
        }
    }
    if found.is_empty() {
        let there = facts.addresses.iter().any(|own| own.interface == INTERFACE);
        let seen = if there {
            "kube-ipvs0 has no VIP"
        } else {
            "no kube-ipvs0, and no rule of kube-proxy names a VIP"
        };
        found.push(Finding::fine(ID, seen));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::OwnAddress,
        findings::healthy::{address, fine, one},
    };

    #[test]
    fn kube_proxy_must_not_have_the_vip() {
        let own = |text: &str| OwnAddress {
            interface: INTERFACE.to_owned(),
            address: address(text),
            prefix_len: 32,
        };
        let found = one(judge, |facts| facts.addresses.push(own("172.16.0.10")));
        assert_eq!((found.severity, found.subject.as_deref()), (Severity::Problem, Some("172.16.0.10")));
        assert!(found.remedy[1].contains("excludeCIDRs: [\"172.16.0.10/32\"], strictARP: true"), "{found:?}");
        fine(judge, |facts| facts.addresses.push(own("10.96.0.1")));
        let found = one(judge, |facts| {
            let rules = facts.firewall.as_mut().expect("rules");
            rules.kube_proxy.push((address("172.16.0.10"), "chain KUBE-SERVICES of table ip nat".to_owned()));
        });
        assert_eq!(found.severity, Severity::Problem);
    }
}
