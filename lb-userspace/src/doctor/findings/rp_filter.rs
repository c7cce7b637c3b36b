//! `rp-filter`: the kernel drops packets whose way back would be another interface (RFC 3704).

use std::net::IpAddr;

use crate::doctor::{
    Finding,
    facts::{Facts, Way},
};

const ID: &str = "rp-filter";
const STRICT: i64 = 1;

/// IPv4 routers whose advertisements the kernel drops on the first interface because of that, with what is their way back.
pub(super) fn dropped(facts: &Facts) -> Vec<(IpAddr, Option<&str>)> {
    let interface = facts.config.node.interface();
    let strict =
        facts.links().any(|(name, link)| name == interface && link.sysctls.get("rp_filter") == Some(&STRICT));
    let dropped = facts.peers.iter().filter_map(|(peer, way)| match way {
        Way::Out { interface: out, .. } if out != interface => Some((*peer, Some(out.as_str()))),
        Way::None => Some((*peer, None)),
        Way::Out { .. } | Way::Local => None,
    });
    dropped.filter(|(peer, _)| strict && peer.is_ipv4()).collect()
}

/// XDP does not ask it, but advertisements and answers to checks pass it.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let dropped = dropped(facts);
    let interface = facts.config.node.interface();
    let found = dropped.iter().map(|(peer, out)| {
        let way =
            out.map_or_else(|| "there is no way back".to_owned(), |out| format!("its way back is {out}"));
        Finding::problem(
            ID,
            format!("strict (1), and drops what comes from the router {peer}: {way}"),
            "this node does not hear that router: both own the VIP at the same time",
        )
        .remedy(format!("sysctl -w net.ipv4.conf.{interface}.rp_filter=2   # loose; and in /etc/sysctl.d/"))
        .remedy(format!("or give {peer} a route by {interface}: ip route get {peer}"))
        .about(interface)
    });
    let found: Vec<Finding> = found.collect();
    if !found.is_empty() {
        return found;
    }
    let fine = facts.links().map(|(name, link)| {
        let seen = match link.sysctls.get("rp_filter") {
            Some(0) => "off".to_owned(),
            Some(1) => "strict (1); every router's way back is the interface that it is heard on".to_owned(),
            Some(2) => "loose (2)".to_owned(),
            _ => "not known".to_owned(),
        };
        Finding::fine(ID, seen).about(name)
    });
    fine.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{address, fine, link, one},
    };

    #[test]
    fn a_peer_whose_way_back_is_elsewhere_is_not_heard() {
        let strict = |facts: &mut Facts| {
            link(facts).sysctls.insert("rp_filter".to_owned(), 1);
        };
        fine(judge, strict);
        let elsewhere = Way::Out { interface: "eth1".to_owned(), neighbour: address("172.16.0.3") };
        let found = one(judge, |facts| {
            strict(facts);
            facts.peers.insert(address("172.16.0.3"), elsewhere.clone());
        });
        assert_eq!(found.severity, Severity::Problem);
        assert!(found.seen.contains("its way back is eth1"), "{found:?}");
        assert!(found.remedy[0].starts_with("sysctl -w net.ipv4.conf.eth0.rp_filter=2"), "{found:?}");
        fine(judge, |facts| {
            facts.peers.insert(address("172.16.0.3"), elsewhere.clone());
        });
        fine(judge, |facts| {
            strict(facts);
            facts.peers.insert(address("fd10::3"), elsewhere);
        });
    }
}
