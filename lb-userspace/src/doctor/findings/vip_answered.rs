//! `vip-answered`: who says that a VIP is its own, and whether it should.

use std::collections::BTreeSet;

use lb_common::wire::Mac;

use crate::{
    doctor::{Finding, adverts::Heard, facts::Facts},
    reconcile::MacText,
};

const ID: &str = "vip-answered";

/// For each VIP of a VRRP instance.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    // Where nobody could be asked, `vrid-in-use` says so.
    let Some(Ok(listened)) = &facts.wire.listened else { return found };
    let services = facts.config.services.iter();
    let owned: BTreeSet<_> =
        services.filter_map(|service| Some((service.vip.address, service.vrrp.as_deref()?))).collect();
    for (vip, name) in owned {
        let Some(instance) = facts.config.vrrp.iter().find(|instance| instance.name == name) else {
            continue;
        };
        let of_this: Vec<&Heard> = facts
            .wire
            .adverts
            .iter()
            .filter(|heard| {
                heard.is_of(instance, &facts.config) && heard.check(instance, &facts.config).is_ok()
            })
            .collect();
        let virtual_mac = |last: u8, v6: bool| -> Mac { [0, 0, 0x5e, 0, 1 + u8::from(v6), last] };
        let expected = |mac: Mac| {
            let vrid = instance.virtual_router_id.get();
            of_this.iter().any(|heard| heard.mac == mac)
                || [virtual_mac(vrid, false), virtual_mac(vrid, true)].contains(&mac)
        };
        let answers: Vec<Mac> =
            facts.wire.answers.iter().filter(|answer| answer.vip == vip).map(|answer| answer.mac).collect();
        let is_slow = *listened <= instance.advert_interval;
        let text = vip.to_string();
        let own = answers.iter().find_map(|mac| facts.macs.iter().find(|(_, own)| *own == mac));
        if let Some((name, mac)) = own {
            let finding = Finding::problem(
                ID,
                format!("is answered by {}, this node's own {name}", MacText(*mac)),
                "two interfaces of this node are in one network: packets for the VIP come in at the wrong one, where XDP is not",
            )
            .remedy(format!("sysctl -w net.ipv4.conf.{name}.arp_ignore=1 net.ipv4.conf.{name}.arp_announce=2"));
            found.push(finding.about(text));
            continue;
        }
        let finding = match &answers[..] {
            [] if facts.holds(vip) => Finding::fine(ID, "is this node's, and nobody else answers for it"),
            [] => Finding::fine(ID, "nobody answers for it"),
            all if facts.holds(vip) => Finding::problem(
                ID,
                format!("is this node's, and {} answers for it, too", list(all)),
                "two machines have the address: clients reach one or the other",
            )
            .remedy(taking_off(vip.is_ipv4(), &text)),
            [one] if expected(*one) => {
                Finding::fine(ID, format!("is answered by {}, who advertises it", MacText(*one)))
            }
            [one] if is_slow => Finding::advice(
                ID,
                format!("is answered by {}", MacText(*one)),
                "we listened no longer than one advert_interval: whether it advertises the VIP is not known",
            )
            .remedy(format!(
                "xvip doctor --listen {}",
                humantime::format_duration(instance.advert_interval * 3)
            )),
            [one] => Finding::problem(
                ID,
                format!("is answered by {}, and nobody there advertises it", MacText(*one)),
                "another machine has the address, or a router that this node does not hear; as soon as this node takes the VIP, \
                 two have it",
            )
            .remedy(taking_off(vip.is_ipv4(), &text)),
            all => Finding::problem(
                ID,
                format!("is answered by {}", list(all)),
                "two machines have the address: clients reach one or the other",
            )
            .remedy(taking_off(vip.is_ipv4(), &text)),
        };
        found.push(finding.about(text));
    }
    found
}

fn list(macs: &[Mac]) -> String {
    macs.iter().map(|mac| MacText(*mac).to_string()).collect::<Vec<_>>().join(" and ")
}

fn taking_off(v4: bool, vip: &str) -> String {
    let length = if v4 { 32 } else { 128 };
    format!(
        "ip addr del {vip}/{length} dev INTERFACE   # on the machine with that Ethernet address (`ip -br link`)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::VipAnswer,
        findings::healthy::{PEER_MAC, address, fine, one, running},
    };

    const OTHER: Mac = [2, 0, 0, 0, 0, 9];

    fn answered(facts: &mut Facts, macs: &[Mac]) {
        let vip = address("172.16.0.10");
        facts.wire.answers = macs.iter().map(|mac| VipAnswer { vip, mac: *mac }).collect();
    }

    #[test]
    fn whoever_advertises_it_may_answer() {
        fine(judge, |_| ());
        fine(judge, |facts| answered(facts, &[PEER_MAC]));
        fine(judge, |facts| answered(facts, &[[0, 0, 0x5e, 0, 1, 60]]));
    }

    #[test]
    fn nobody_else_may_answer_for_what_is_ours() {
        fine(judge, |facts| facts.daemon = Ok(Some(running(true, &[]))));
        let answered_by_the_peer = |facts: &mut Facts, holds| {
            facts.daemon = Ok(Some(running(holds, &[])));
            answered(facts, &[PEER_MAC]);
        };
        let found = one(judge, |facts| answered_by_the_peer(facts, true));
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |facts| answered_by_the_peer(facts, false));
    }

    #[test]
    fn another_interface_of_this_node_may_not_either() {
        let found = one(judge, |facts| {
            facts.macs.insert("eth1".to_owned(), OTHER);
            answered(facts, &[OTHER]);
        });
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.seen.contains("this node's own eth1"), "{found:?}");
    }

    #[test]
    fn anybody_else_may_not() {
        let found = one(judge, |facts| answered(facts, &[OTHER]));
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.seen.contains("02:00:00:00:00:09"), "{found:?}");
        assert_eq!(one(judge, |facts| answered(facts, &[PEER_MAC, OTHER])).severity, Severity::Problem);
        let found = one(judge, |facts| {
            answered(facts, &[PEER_MAC]);
            facts.wire.adverts.clear();
        });
        assert_eq!(found.severity, Severity::Problem);
        let slow = one(judge, |facts| {
            answered(facts, &[PEER_MAC]);
            facts.wire.adverts.clear();
            facts.config.vrrp[0].advert_interval = std::time::Duration::from_secs(4);
        });
        assert_eq!(
            (slow.severity, slow.remedy),
            (Severity::Advice, vec!["xvip doctor --listen 12s".to_owned()])
        );
    }
}
