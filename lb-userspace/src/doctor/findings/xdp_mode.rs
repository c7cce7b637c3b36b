//! `xdp-mode`: whether the driver runs the program itself, which is several times as fast.

use crate::{
    config::model::XdpMode,
    doctor::{
        Finding, Severity,
        drivers::{runs_natively, smaller_mtu, version},
        facts::{Attached, Facts, Link, Trial},
    },
    netlink::ethtool::XDP_BASIC,
};

const ID: &str = "xdp-mode";
const SLOWER: &str = "generic mode works with every driver, at a fraction of the speed: the kernel allocates a buffer for each packet \
                      first";

/// By what is attached, what was tried, what the driver says, and what is known of it, in this order.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    facts.attach_points().map(|link| of(facts, link).about(link.parent.clone())).collect()
}

fn of(facts: &Facts, link: &Link) -> Finding {
    let wanted = facts.config.node.xdp_mode;
    let ours = {
        let foreign: Vec<u32> = link.foreign(&facts.config.node.pin_path).map(|program| program.id).collect();
        link.programs.iter().find(|program| !foreign.contains(&program.id))
    };
    // Without native mode the daemon does not start, or goes on in generic mode.
    let without = |seen: String, cause: &str| {
        let severity = if wanted == XdpMode::Native { Severity::Problem } else { Severity::Advice };
        let cause = if wanted == XdpMode::Native {
            format!("{cause}; xdp_mode is \"native\": xvip does not start")
        } else {
            format!("{cause}; {SLOWER}")
        };
        Finding { severity, ..Finding::advice(ID, seen, cause) }
    };
    if let Some(program) = ours {
        return match program.mode {
            Attached::Native | Attached::Offloaded => Finding::fine(ID, "xvip is attached natively"),
            Attached::Generic if wanted == XdpMode::Generic => {
                Finding::fine(ID, "xvip is attached in generic mode, as configured")
            }
            Attached::Generic => without(
                "xvip is attached in generic mode".to_owned(),
                "the driver refused native mode, or lost what the program sent",
            )
            .remedy("xvip doctor --try-attach   # while xvip is stopped: says why")
            .remedy("journalctl -u xvip | grep -i xdp"),
        };
    }
    if wanted == XdpMode::Generic {
        return Finding::fine(ID, "generic, as configured");
    }
    let driver = link.driver.as_deref().unwrap_or("unknown");
    match &link.trial {
        Some(Trial::Accepted) => {
            return Finding::fine(ID, format!("driver {driver} takes a program natively (tried)"));
        }
        Some(Trial::Refused { error, message }) => {
            let words =
                message.as_ref().map_or_else(|| error.clone(), |message| format!("{error}, \"{message}\""));
            let found = without(
                format!("driver {driver} refuses a program in native mode: {words}"),
                "that is the kernel's own message",
            );
            let remedies = remedies(&link.parent, message.as_deref().unwrap_or(error));
            return remedies.into_iter().fold(found, Finding::remedy);
        }
        None => {}
    }
    if let Some(features) = link.xdp_features {
        return if features & XDP_BASIC != 0 {
            Finding::fine(ID, format!("driver {driver} says that it runs XDP natively"))
        } else {
            without(format!("driver {driver} says that it has no native XDP"), "nothing here can change that")
                .remedy("write: xdp_mode = \"generic\", or use another network card")
        };
    }
    match version(&facts.host.kernel).and_then(|kernel| runs_natively(driver, kernel)) {
        Some(true) => Finding::fine(ID, format!("driver {driver} is known to run XDP natively")),
        Some(false) => without(
            format!("driver {driver} learned native XDP later than Linux {}", facts.host.kernel),
            "the kernel is too old for that",
        )
        .remedy("install a newer kernel"),
        None => Finding::advice(
            ID,
            format!("whether driver {driver} runs XDP natively is not known"),
            "Linux before 6.3 does not tell, and the driver is not on the list",
        )
        .remedy("xvip doctor --try-attach   # its driver may restart its queues"),
    }
}

/// What to do about the kernel's own words (each driver has its own; these are the ones that occur).
fn remedies(interface: &str, message: &str) -> Vec<String> {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["mtu", "result not representable", "out of range", "single buffer", "frame size", "too large"])
    {
        vec![smaller_mtu(interface, &message)]
    } else if says(&["lro", "rsc"]) {
        vec![format!("ethtool -K {interface} lro off")]
    } else if says(&["gro_hw", "guest", "csum", "gro-hw"]) {
        // virtio_net: "Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first"
        vec![
            format!("ethtool -K {interface} rx-gro-hw off"),
            "or, on the host: guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,guest_csum=off"
                .to_owned(),
        ]
    } else if says(&["queue", "channel", "ring", "not enough"]) {
        vec![format!("ethtool -L {interface} combined 1   # or more, while it is accepted")]
    } else if says(&["already", "busy", "exist"]) {
        vec![format!("ip -d link show dev {interface}   # another program is there")]
    } else {
        vec!["write: xdp_mode = \"generic\"".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        facts::Program,
        findings::healthy::{fine, link, one},
    };

    fn refused(message: Option<&str>) -> Option<Trial> {
        Some(Trial::Refused {
            error: "Numerical result out of range (os error 34)".to_owned(),
            message: message.map(str::to_owned),
        })
    }

    #[test]
    fn the_kernel_s_words_are_told_with_a_remedy() {
        for (message, remedy) in [
            (Some("Peer MTU is too large to set XDP"), "ip link set dev PEER mtu 1500"),
            (Some("XDP is not supported with LRO"), "ethtool -K eth0 lro off"),
            (
                Some("Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first"),
                "ethtool -K eth0 rx-gro-hw off",
            ),
            (Some("Too few free TX rings available"), "ethtool -L eth0 combined 1"),
            (None, "ip link set dev eth0 mtu 3000"),
        ] {
            let found = one(judge, |facts| link(facts).trial = refused(message));
            assert_eq!(found.severity, Severity::Advice);
            assert!(found.remedy[0].starts_with(remedy), "{found:?}");
            assert!(message.is_none_or(|message| found.seen.contains(message)), "{found:?}");
        }
    }

    #[test]
    fn whoever_wants_native_mode_and_cannot_have_it_has_a_problem() {
        let found = one(judge, |facts| {
            facts.config.node.xdp_mode = XdpMode::Native;
            link(facts).trial = refused(None);
        });
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |facts| {
            facts.config.node.xdp_mode = XdpMode::Generic;
            link(facts).trial = refused(None);
        });
    }

    #[test]
    fn what_is_attached_counts_most_then_what_was_tried_then_what_is_known() {
        fine(judge, |_| ());
        fine(judge, |facts| link(facts).trial = Some(Trial::Accepted));
        fine(judge, |facts| link(facts).xdp_features = Some(XDP_BASIC));
        let found = one(judge, |facts| link(facts).xdp_features = Some(0));
        assert_eq!(found.severity, Severity::Advice);
        let found = one(judge, |facts| link(facts).driver = Some("e1000".to_owned()));
        assert!(found.remedy[0].contains("--try-attach"), "{found:?}");
        let attached = |facts: &mut Facts, mode| {
            let pins = vec![facts.config.node.pin_path.join("link-2-generic")];
            link(facts).programs = vec![Program { id: 5, mode, pins, ..Program::default() }];
        };
        fine(judge, |facts| attached(facts, Attached::Native));
        assert_eq!(one(judge, |facts| attached(facts, Attached::Generic)).severity, Severity::Advice);
    }
}
