//! `keepalived`: one on this very node that speaks for our virtual routers.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "keepalived";

/// By its file, and by the advertisements that leave this node while no xvip runs.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let cause = "two routers of one node with the same VRID: neither hears the other, and both own the VIP";
    let remedy = "systemctl disable --now keepalived   # once xvip is to own the VIP";
    let observes = facts.config.node.observe;
    let mut found = Vec::new();
    for keepalived in &facts.keepalived {
        let ids = match &keepalived.virtual_router_ids {
            Ok(ids) => ids,
            Err(why) => {
                found.push(Finding::unseen(ID, &keepalived.file.display().to_string(), why));
                continue;
            }
        };
        let shared = facts.routers().find(|vrrp| ids.contains(&vrrp.virtual_router_id.get()));
        found.push(match shared {
            Some(instance) if !observes => Finding::problem(
                ID,
                format!(
                    "{} has VRID {} in {}",
                    keepalived.process,
                    instance.virtual_router_id,
                    keepalived.file.display()
                ),
                cause,
            )
            .remedy(remedy)
            .about(instance.name.clone()),
            Some(instance) => Finding::fine(
                ID,
                format!("{} has VRID {}; xvip only observes", keepalived.process, instance.virtual_router_id),
            )
            .about(instance.name.clone()),
            None => Finding::fine(ID, format!("{} has other VRIDs than xvip", keepalived.process)),
        });
    }
    // Also one that is in a container, or no keepalived at all.
    for instance in facts.routers().filter(|_| facts.running().is_none() && !observes) {
        let told = found.iter().any(|finding| finding.subject.as_ref() == Some(&instance.name));
        let sent =
            facts.wire.adverts.iter().any(|heard| heard.outgoing && heard.is_of(instance, &facts.config));
        if sent && !told {
            found.push(
                Finding::problem(
                    ID,
                    format!(
                        "advertisements with VRID {} leave this node, and no xvip runs",
                        instance.virtual_router_id
                    ),
                    cause,
                )
                .remedy("ss -w -p -a   # who has a raw socket for protocol 112")
                .about(instance.name.clone()),
            );
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(ID, "none runs here"));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::doctor::{
        Severity,
        facts::{Keepalived, Process},
        findings::healthy::{fine, one},
    };

    fn running(facts: &mut Facts, ids: Result<BTreeSet<u8>, String>) {
        facts.keepalived = vec![Keepalived {
            process: Process { id: 5, name: "keepalived".to_owned() },
            file: "/etc/keepalived/keepalived.conf".into(),
            virtual_router_ids: ids,
        }];
    }

    #[test]
    fn the_same_vrid_on_the_same_node() {
        let found = one(judge, |facts| running(facts, Ok(BTreeSet::from([51, 60]))));
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.seen.contains("keepalived (pid 5) has VRID 60"), "{found:?}");
        let found = one(judge, |facts| running(facts, Err("permission denied".to_owned())));
        assert_eq!(found.severity, Severity::Advice);
        let found = one(judge, |facts| facts.wire.adverts[0].outgoing = true);
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |_| ());
        fine(judge, |facts| running(facts, Ok(BTreeSet::from([51]))));
        fine(judge, |facts| {
            running(facts, Ok(BTreeSet::from([60])));
            facts.config.node.observe = true;
        });
        // While keepalived keeps the VIP (README, Moving over).
        fine(judge, |facts| {
            running(facts, Ok(BTreeSet::from([60])));
            facts.config.services[0].vrrp = None;
        });
    }
}
