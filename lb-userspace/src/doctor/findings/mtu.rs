//! `mtu`: packets too large for native XDP, or for a tunnel.

use crate::{
    config::model::{Mode, XdpMode},
    doctor::{
        Finding, Severity,
        drivers::{ETHERNET_MTU, LARGEST_MTU, smaller_mtu},
        facts::{Facts, Link, Trial},
    },
};

const ID: &str = "mtu";
/// An IPv6 header; an IPv4 one is 20 bytes.
const TUNNEL: u32 = 40;

/// Each interface that XDP is attached to.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<Finding> =
        facts.attach_points().map(|link| xdp(facts, link).about(link.parent.clone())).collect();
    let tunnels = facts.config.services.iter().any(|service| service.mode == Mode::DsrIpip);
    for (name, link) in facts.links().filter(|(_, link)| tunnels && link.mtu < ETHERNET_MTU + TUNNEL) {
        let finding = Finding::advice(
            ID,
            format!("{} bytes, and dsr-ipip adds an IP header", link.mtu),
            "full packets of clients do not fit: each client is told to send smaller ones (ICMP), which some networks drop",
        );
        let remedy = format!(
            "ip link set dev {name} mtu {}   # and on the backends and the switches between",
            ETHERNET_MTU + TUNNEL
        );
        found.push(finding.remedy(remedy).about(name));
    }
    found
}

fn xdp(facts: &Facts, link: &Link) -> Finding {
    let mtu = link.parent_mtu;
    let wanted = facts.config.node.xdp_mode;
    let attached = !link.programs.is_empty();
    let refused = match &link.trial {
        Some(Trial::Refused { error, message }) => {
            let words = message.as_ref().unwrap_or(error);
            let is_mtu = words.to_ascii_lowercase().contains("mtu") || error.contains("out of range");
            is_mtu.then(|| words.clone())
        }
        _ => None,
    };
    let accepted = link.trial == Some(Trial::Accepted);
    if wanted == XdpMode::Generic || accepted || attached || (refused.is_none() && mtu <= LARGEST_MTU) {
        return Finding::fine(ID, format!("{mtu} bytes"));
    }
    let remedy = smaller_mtu(&link.parent, refused.as_deref().unwrap_or_default());
    let seen = match refused {
        Some(words) => format!("{mtu} bytes, and the kernel refuses native XDP: \"{words}\""),
        None => format!("{mtu} bytes, more than any driver takes for native XDP"),
    };
    let cause = "a packet must fit into one page of memory together with the program's headroom";
    let (severity, cause) = match wanted {
        XdpMode::Native => {
            (Severity::Problem, format!("{cause}; xdp_mode is \"native\": xvip does not start"))
        }
        _ => (Severity::Advice, format!("{cause}; xvip runs in generic mode")),
    };
    Finding { severity, ..Finding::advice(ID, seen, cause) }.remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::findings::healthy::{facts, fine, link, one, program};

    #[test]
    fn too_large_for_a_page() {
        fine(judge, |_| ());
        let found = one(judge, |facts| link(facts).parent_mtu = 9000);
        assert_eq!(found.severity, Severity::Advice);
        let found = one(judge, |facts| {
            facts.config.node.xdp_mode = XdpMode::Native;
            link(facts).parent_mtu = 9000;
        });
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |facts| link(facts).parent_mtu = LARGEST_MTU);
        let found = one(judge, |facts| link(facts).parent_mtu = LARGEST_MTU + 1);
        assert_eq!(found.severity, Severity::Advice);
        // It is there, so it was possible.
        fine(judge, |facts| {
            link(facts).parent_mtu = 9000;
            link(facts).programs.push(program());
        });
        for change in [(|facts| facts.config.node.xdp_mode = XdpMode::Generic) as fn(&mut Facts), |facts| {
            link(facts).trial = Some(Trial::Accepted);
        }] {
            fine(judge, |facts| {
                link(facts).parent_mtu = 9000;
                change(facts);
            });
        }
    }

    #[test]
    fn the_kernel_s_words_are_told() {
        let found = one(judge, |facts| {
            link(facts).trial = Some(Trial::Refused {
                error: "Numerical result out of range (os error 34)".to_owned(),
                message: Some("Peer MTU is too large to set XDP".to_owned()),
            });
        });
        assert!(found.seen.contains("\"Peer MTU is too large to set XDP\""), "{found:?}");
        fine(judge, |facts| {
            let (error, message) = ("Operation not supported".to_owned(), Some("no queues".to_owned()));
            link(facts).trial = Some(Trial::Refused { error, message });
        });
    }

    #[test]
    fn a_tunnel_needs_room() {
        let mut facts = facts();
        facts.config.services[0].mode = Mode::DsrIpip;
        let found = judge(&facts);
        assert_eq!(
            found.iter().map(|one| one.severity).collect::<Vec<_>>(),
            [Severity::Fine, Severity::Advice]
        );
        link(&mut facts).mtu = 1540;
        assert_eq!(judge(&facts).len(), 1);
    }
}
