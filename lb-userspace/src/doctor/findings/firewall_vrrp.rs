//! `firewall-vrrp`: a packet filter that drops advertisements (protocol 112).

use std::net::IpAddr;

use super::rp_filter;
use crate::{
    config::model::{Family, VrrpInstance, family_of},
    desired::vips_of,
    doctor::{
        Finding,
        adverts::Heard,
        facts::Facts,
        firewall::{Chain, Rules},
    },
};

const ID: &str = "firewall-vrrp";
const CAUSE: &str = "the daemon does not hear its peers and takes the VIP, too; XDP notes them before the packet filter, so that it keeps \
                     still, but it cannot follow";

/// Proved by listening where anybody is heard; else judged by the rules.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    facts.routers().map(|instance| of(facts, instance).about(instance.name.clone())).collect()
}

fn of(facts: &Facts, instance: &VrrpInstance) -> Finding {
    let vips: Vec<IpAddr> = vips_of(&facts.config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
    let family = family_of(&vips);
    let explained = rp_filter::dropped(facts);
    let is_for_us = |heard: &&Heard| {
        let destination = heard.envelope.destination;
        let wanted = if instance.unicast_peers.is_empty() {
            destination.is_multicast()
        } else {
            !destination.is_multicast() && instance.unicast_peers.contains(&heard.envelope.source)
        };
        !heard.outgoing
            && wanted
            && heard.is_of(instance, &facts.config)
            && !explained.iter().any(|(source, _)| *source == heard.envelope.source)
    };
    let heard: Vec<&Heard> = facts.wire.adverts.iter().filter(is_for_us).collect();
    if facts.wire.sockets.contains(&instance.name)
        // The last one may have come a moment before the end.
        && let Some(lost) = heard.iter().find(|heard| heard.seen >= 2 && heard.delivered == 0)
    {
        let seen = format!(
            "{} advertisements of {} came by {}, and none of them through the packet filter",
            lost.seen,
            lost.sender(),
            facts.config.node.interface()
        );
        return with_remedies(Finding::problem(ID, seen, CAUSE), facts.firewall.as_ref().ok(), family);
    }
    if let Some(through) = heard.iter().find(|heard| heard.delivered > 0) {
        return Finding::fine(ID, format!("lets the advertisements of {} through", through.envelope.source));
    }
    let rules = match &facts.firewall {
        Ok(rules) => rules,
        Err(why) => {
            return Finding::fine(ID, format!("nobody was heard, and the rules could not be read ({why})"));
        }
    };
    let drops = rules.drops.iter().any(|rule| rule.chain.sees(family));
    let opened = rules.accepts.iter().any(|rule| rule.chain.sees(family));
    let closed = rules.closed_chains.iter().find(|chain| chain.sees(family));
    if drops {
        let found = Finding::advice(ID, "nobody was heard, and a rule drops protocol 112", CAUSE);
        return with_remedies(found, Some(rules), family);
    }
    if let (Some(chain), false) = (closed, opened) {
        let seen =
            format!("nobody was heard, and {chain} drops what no rule accepts; none names protocol 112");
        return with_remedies(Finding::advice(ID, seen, CAUSE), Some(rules), family);
    }
    Finding::fine(ID, format!("no rule that drops protocol 112 (asked: {})", rules.sources.join(", ")))
}

/// The rules that are to go, or where one is to be put in.
fn with_remedies(mut found: Finding, rules: Option<&Rules>, family: Family) -> Finding {
    let before = found.remedy.len();
    if let Some(rules) = rules {
        for rule in rules.drops.iter().filter(|rule| rule.chain.sees(family)) {
            found = found.remedy(rule.deletion.clone());
        }
        let chains: Vec<&Chain> = rules.closed_chains.iter().filter(|chain| chain.sees(family)).collect();
        if chains.iter().any(|chain| chain.table == "firewalld") {
            found = found.remedy(
                "firewall-cmd --permanent --add-rich-rule='rule protocol value=\"vrrp\" accept' && firewall-cmd --reload",
            );
        } else if let (true, [chain, ..]) = (found.remedy.len() == before, &chains[..]) {
            found = found.remedy(chain.opening(family));
        }
    }
    if found.remedy.len() == before {
        found = found.remedy("nft list ruleset   # or iptables-save: let protocol 112 in on this interface");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::Way,
        findings::healthy::{address, fine, link, one},
        firewall::Rule,
    };

    fn chain() -> Chain {
        Chain { family: "inet".to_owned(), table: "t".to_owned(), name: "in".to_owned(), is_iptables: false }
    }

    fn drop_rule() -> Rule {
        Rule { chain: chain(), deletion: "nft delete rule inet t in handle 2".to_owned() }
    }

    #[test]
    fn advertisements_that_the_interface_has_and_the_socket_has_not() {
        let found = one(judge, |facts| {
            facts.wire.adverts[0].delivered = 0;
            facts.firewall.as_mut().expect("rules").drops = vec![drop_rule()];
        });
        assert_eq!(found.severity, Severity::Problem);
        assert_eq!(found.remedy, ["nft delete rule inet t in handle 2"]);
        let found = one(judge, |facts| {
            facts.wire.adverts[0].delivered = 0;
            facts.firewall.as_mut().expect("rules").closed_chains = vec![chain()];
        });
        assert_eq!(found.remedy, ["nft insert rule inet t in ip protocol 112 accept"]);
        let found = one(judge, |facts| {
            facts.wire.adverts[0].delivered = 0;
            let firewalld = Chain { table: "firewalld".to_owned(), ..chain() };
            facts.firewall.as_mut().expect("rules").closed_chains = vec![chain(), firewalld];
        });
        assert!(found.remedy[0].starts_with("firewall-cmd --permanent --add-rich-rule="), "{found:?}");
        fine(judge, |_| ());
        // A rule that is there and does not apply to what is heard.
        fine(judge, |facts| facts.firewall.as_mut().expect("rules").drops = vec![drop_rule()]);
    }

    #[test]
    fn what_has_another_reason_is_not_the_filter_s_fault() {
        let not_for_us = |change: fn(&mut Facts)| {
            fine(judge, |facts| {
                facts.wire.adverts[0].delivered = 0;
                change(facts);
            });
        };
        not_for_us(|facts| facts.wire.adverts[0].outgoing = true);
        not_for_us(|facts| facts.wire.adverts[0].envelope.destination = address("224.0.0.18"));
        not_for_us(|facts| facts.config.vrrp[0].unicast_peers.clear());
        not_for_us(|facts| facts.wire.adverts[0].seen = 1);
        not_for_us(|facts| facts.wire.sockets.clear());
        not_for_us(|facts| {
            link(facts).sysctls.insert("rp_filter".to_owned(), 1);
            facts.peers.insert(address("172.16.0.3"), Way::None);
        });
    }

    #[test]
    fn where_nobody_is_heard_the_rules_tell() {
        let silent = |change: fn(&mut Rules)| {
            one(judge, |facts| {
                facts.wire.adverts.clear();
                change(facts.firewall.as_mut().expect("rules"));
            })
        };
        assert_eq!(silent(|_| ()).severity, Severity::Fine);
        assert_eq!(silent(|rules| rules.drops = vec![drop_rule()]).severity, Severity::Advice);
        assert_eq!(silent(|rules| rules.closed_chains = vec![chain()]).severity, Severity::Advice);
        let opened = silent(|rules| {
            rules.closed_chains = vec![chain()];
            rules.accepts = vec![drop_rule()];
        });
        assert_eq!(opened.severity, Severity::Fine);
    }
}
