//! `lro`: received packets that the card or the hypervisor has merged.

use crate::{
    config::model::XdpMode,
    doctor::{Finding, facts::Facts},
};

const ID: &str = "lro";
/// The kernel's name of an offload, and the word for `ethtool -K`.
const MERGING: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];

/// A merged packet is no packet that was sent: it is larger than the MTU, and cannot be sent on as it is.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let links = facts.attach_points().map(|link| {
        let on: Vec<_> = MERGING.iter().filter(|(name, _)| link.has_on(name)).collect();
        let found = if on.is_empty() {
            Finding::fine(ID, "the card merges no packets")
        } else if !link.programs.is_empty() || facts.config.node.xdp_mode == XdpMode::Generic {
            Finding::fine(ID, "the card may merge packets; the kernel sees to it that XDP gets none of these")
        } else {
            let names: Vec<&str> = on.iter().map(|(name, _)| *name).collect();
            let cause = "many drivers refuse native XDP then, and some give it merged packets, which it cannot send on";
            let found = Finding::advice(ID, format!("{} is on", names.join(" and ")), cause);
            on.iter().fold(found, |found, (_, word)| {
                found.remedy(format!("ethtool -K {} {word} off", link.parent))
            })
        };
        found.about(link.parent.clone())
    });
    links.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::Offload,
        findings::healthy::{fine, link, one, program},
    };

    #[test]
    fn merging_is_to_be_switched_off() {
        let on = |facts: &mut Facts, name: &str| {
            link(facts).offloads.insert(name.to_owned(), Offload { on: true, fixed: false });
        };
        let found = one(judge, |facts| on(facts, "rx-lro"));
        assert_eq!(
            (found.severity, found.remedy),
            (Severity::Advice, vec!["ethtool -K eth0 lro off".to_owned()])
        );
        fine(judge, |facts| on(facts, "rx-gro"));
        fine(judge, |facts| {
            on(facts, "rx-gro-hw");
            link(facts).programs = vec![program()];
        });
    }
}
