//! `vlan-offload`: VLAN tags that the card takes out of the frames before XDP sees these.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "vlan-offload";
const TAKES_OUT: &str = "rx-vlan-hw-parse";

/// Only where an interface is a VLAN's; xvip switches it off itself where that can be done.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let vlans = facts.links().filter(|(_, link)| !link.vlans.is_empty());
    let found = vlans.map(|(name, link)| {
        let found = match link.offloads.get(TAKES_OUT) {
            Some(offload) if offload.on && offload.fixed => Finding::problem(
                ID,
                format!("{} takes VLAN tags out of the frames, and that cannot be changed", link.parent),
                "XDP sees frames without a tag and takes them for another network's: nothing is forwarded",
            )
            .remedy(format!(
                "write: interface = \"{}\", with the VLAN set at the switch or the hypervisor",
                link.parent
            )),
            Some(offload) if offload.on => {
                Finding::fine(ID, "VLAN tags are taken out; xvip switches that off")
            }
            _ => Finding::fine(ID, "VLAN tags stay in the frames"),
        };
        found.about(name)
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::Offload,
        findings::healthy::{facts, fine, link, one},
    };

    #[test]
    fn tags_must_stay_in_the_frames() {
        let vlan = |facts: &mut Facts, fixed| {
            link(facts).vlans = vec![100];
            link(facts).offloads.insert(TAKES_OUT.to_owned(), Offload { on: true, fixed });
        };
        assert_eq!(one(judge, |facts| vlan(facts, true)).severity, Severity::Problem);
        fine(judge, |facts| vlan(facts, false));
        assert!(judge(&facts()).is_empty(), "an interface without VLANs");
    }
}
