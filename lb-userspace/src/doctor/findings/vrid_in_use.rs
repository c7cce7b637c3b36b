//! `vrid-in-use`: other routers on the link with our VRID.

use std::collections::BTreeSet;

use crate::{
    config::model::VrrpInstance,
    doctor::{Finding, Severity, adverts::Heard, facts::Facts},
    vrrp::advert::Discard,
};

const ID: &str = "vrid-in-use";

/// Whoever is heard with an instance's VRID and family is either one of its members or in the way.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.wire.listened {
        Some(Ok(_)) => {}
        Some(Err(why)) => return vec![Finding::unseen(ID, "the network", why)],
        None => return vec![Finding::unseen(ID, "the network", "there is no interface to listen on")],
    }
    for instance in facts.routers() {
        let heard: Vec<&Heard> = facts
            .wire
            .adverts
            .iter()
            .filter(|heard| !heard.outgoing && heard.is_of(instance, &facts.config))
            .collect();
        let mut alien = heard.iter().filter_map(|heard| alien(facts, instance, heard)).peekable();
        if alien.peek().is_some() {
            found.extend(alien);
            continue;
        }
        let vrid = instance.virtual_router_id;
        let seen = match &heard[..] {
            [] => format!("nobody else uses VRID {vrid}"),
            [first, ..] => format!(
                "VRID {vrid} is used by {}, priority {}, with our VIPs: one of ours",
                first.envelope.source, first.advertisement.priority
            ),
        };
        found.push(Finding::fine(ID, seen).about(instance.name.clone()));
    }
    found
}

fn alien(facts: &Facts, instance: &VrrpInstance, heard: &Heard) -> Option<Finding> {
    let why = heard.check(instance, &facts.config).err()?;
    let vrid = instance.virtual_router_id.get();
    let vips: Vec<String> = heard.advertisement.addresses.iter().map(ToString::to_string).collect();
    let seen = format!(
        "VRID {vrid} is also used by {}, priority {}, {}, for {}: {why}",
        heard.sender(),
        heard.advertisement.priority,
        heard.interval(),
        vips.join(", ")
    );
    let shares = heard.advertisement.addresses.iter().any(|address| facts.vips().contains(address));
    let (severity, cause) = match why {
        // The clock's own finding tells of it.
        Discard::AuthStale(_) => return None,
        Discard::NotAPeer(_) if !shares => {
            (Severity::Advice, "another group's; ours speaks unicast and does not listen to it")
        }
        Discard::NotAPeer(_) => (
            Severity::Problem,
            "it means to own our VIPs, and this node does not listen to it: both own them",
        ),
        _ if shares => (
            Severity::Problem,
            "it means to own our VIPs, and the two do not understand each other: both own them",
        ),
        _ => (
            Severity::Problem,
            "another group on this network has the same number: each refuses the other's advertisements, and with a \
             virtual MAC both have the same Ethernet address",
        ),
    };
    let found = Finding { severity, ..Finding::advice(ID, seen, cause) }.about(instance.name.clone());
    if shares {
        let what = match why {
            Discard::NotAPeer(source) => {
                format!("write: unicast_peers = [\"{source}\", ...], or stop that router")
            }
            Discard::Auth | Discard::AuthMissing | Discard::AuthHmac | Discard::AuthUnexpected => {
                "give both the same password or key".to_owned()
            }
            _ => "give both the same version, interval and VIPs, or stop that router".to_owned(),
        };
        return Some(found.remedy(what));
    }
    let used: BTreeSet<u8> =
        facts.wire.adverts.iter().map(|heard| heard.advertisement.vrid.0.get()).collect();
    let free = (1..=u8::MAX).map(|step| vrid.wrapping_add(step)).find(|id| *id != 0 && !used.contains(id));
    Some(match free {
        Some(free) => found.remedy(format!(
            "write: virtual_router_id = {free}   # nobody uses it here; on every node of the group"
        )),
        None => found.remedy("agree with the others: every VRID is in use here"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::findings::{
        clock::tests::signed,
        healthy::{address, facts, fine, one},
    };

    #[test]
    fn another_group_is_named_and_a_free_number_suggested() {
        let found = one(judge, |facts| {
            facts.config.vrrp[0].unicast_peers.clear();
            let heard = &mut facts.wire.adverts[0];
            heard.envelope.destination = address("224.0.0.18");
            heard.advertisement.addresses = vec![address("172.16.0.77")];
        });
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.seen.contains("172.16.0.3 (02:00:ac:10:00:03)"), "{found:?}");
        assert!(found.remedy[0].contains("virtual_router_id = 61"), "{found:?}");
        let found = one(judge, |facts| {
            let last = std::num::NonZeroU8::MAX;
            facts.config.vrrp[0].unicast_peers.clear();
            facts.config.vrrp[0].virtual_router_id = last;
            let heard = &mut facts.wire.adverts[0];
            heard.envelope.destination = address("224.0.0.18");
            heard.advertisement.vrid = crate::vrrp::advert::Vrid(last);
            heard.advertisement.addresses = vec![address("172.16.0.77")];
        });
        assert!(found.remedy[0].contains("virtual_router_id = 1 "), "0 is none: {found:?}");
    }

    #[test]
    fn one_of_ours_that_we_do_not_know_is_worse() {
        let stranger = |facts: &mut Facts| facts.wire.adverts[0].envelope.source = address("172.16.0.7");
        let found = one(judge, stranger);
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.remedy[0].contains("unicast_peers"), "{found:?}");
        let found = one(judge, |facts| {
            stranger(facts);
            facts.wire.adverts[0].advertisement.addresses = vec![address("172.16.0.77")];
        });
        assert_eq!(found.severity, Severity::Advice);
    }

    #[test]
    fn a_peer_with_a_wrong_clock_is_one_of_ours() {
        for (ahead, severity) in [(3600, Severity::Fine), (0, Severity::Problem)] {
            let mut facts = facts();
            signed(&mut facts, ahead);
            // In time its signature is looked at, which is none of ours.
            assert_eq!(judge(&facts)[0].severity, severity, "{ahead}");
        }
    }

    #[test]
    fn peers_and_other_numbers_are_no_finding() {
        fine(judge, |_| ());
        fine(judge, |facts| facts.wire.adverts.clear());
        assert_eq!(one(judge, |facts| facts.wire.listened = None).severity, Severity::Advice);
        fine(judge, |facts| {
            let heard = &mut facts.wire.adverts[0];
            (heard.outgoing, heard.envelope.source) = (true, address("172.16.0.7"));
        });
        fine(judge, |facts| facts.config.services[0].vrrp = None);
        fine(judge, |facts| {
            let other = crate::vrrp::advert::Vrid(std::num::NonZeroU8::new(61).expect("a VRID"));
            facts.wire.adverts[0].advertisement.vrid = other;
            facts.wire.adverts[0].advertisement.addresses = vec![address("172.16.0.77")];
        });
    }
}
