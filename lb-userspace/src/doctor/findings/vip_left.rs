//! `vip-left`: a VIP on an interface of this node that nobody here owns.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "vip-left";
/// kube-proxy's own interface has a finding of its own.
const KUBE_PROXY: &str = "kube-ipvs0";

/// For each VIP of a VRRP instance; what has none is put on the node by somebody else, on purpose.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let first = facts.config.node.interface();
    let owned: std::collections::BTreeSet<_> = facts
        .config
        .services
        .iter()
        .filter(|service| service.vrrp.is_some())
        .map(|service| service.vip.address)
        .collect();
    let mut found = Vec::new();
    for vip in owned {
        for own in facts.has(vip).filter(|own| own.interface != KUBE_PROXY) {
            let removal = format!("ip addr del {vip}/{} dev {}", own.prefix_len, own.interface);
            let is_first = own.interface == first;
            let finding = if !is_first {
                Finding::problem(
                    ID,
                    format!("is an address of {}", own.interface),
                    "this node answers the VIP itself, whoever owns it: connections of its own processes never reach a backend",
                )
                .remedy(removal)
            } else if facts.running().is_some() {
                continue;
            } else if let Some(keepalived) = facts.keepalived.first() {
                Finding::fine(ID, format!("is on {first}, as {} has it", keepalived.process))
            } else {
                Finding::problem(
                    ID,
                    format!("is on {first}, and neither xvip nor keepalived runs"),
                    "it was left behind: this node goes on answering for it while another one owns it",
                )
                .remedy("xvip cleanup")
                .remedy(removal)
            };
            found.push(finding.about(vip.to_string()));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(ID, "no VIP is where it should not be on this node"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::{Keepalived, OwnAddress, Process},
        findings::healthy::{address, fine, one},
    };

    fn vip_on(facts: &mut Facts, interface: &str) {
        facts.addresses.push(OwnAddress {
            interface: interface.to_owned(),
            address: address("172.16.0.10"),
            prefix_len: 24,
        });
    }

    #[test]
    fn a_vip_that_was_left_behind() {
        let found = one(judge, |facts| vip_on(facts, "eth0"));
        assert_eq!(found.severity, Severity::Problem);
        assert_eq!(found.remedy[1], "ip addr del 172.16.0.10/24 dev eth0");
        assert_eq!(one(judge, |facts| vip_on(facts, "lo")).severity, Severity::Problem);
        fine(judge, |_| ());
        fine(judge, |facts| vip_on(facts, KUBE_PROXY));
        fine(judge, |facts| {
            vip_on(facts, "eth0");
            facts.config.services[0].vrrp = None;
        });
        fine(judge, |facts| {
            vip_on(facts, "eth0");
            let process = Process { id: 5, name: "keepalived".to_owned() };
            facts.keepalived.push(Keepalived {
                process,
                file: "/k".into(),
                virtual_router_ids: Ok(std::collections::BTreeSet::new()),
            });
        });
    }
}
