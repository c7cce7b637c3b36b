//! `neighbour`: whether frames for the backends have somewhere to go.

use crate::doctor::{
    Finding,
    facts::{Backend, Facts, Way},
};

const ID: &str = "neighbour";

/// Each backend; those whose frames have somewhere to go together.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<Finding> = facts.backends.iter().filter_map(|backend| of(facts, backend)).collect();
    let well = facts.backends.len() - found.len();
    if found.is_empty() {
        found.push(Finding::fine(ID, format!("the next hops of all backends ({well}) are known")));
    }
    found
}

fn of(facts: &Facts, backend: &Backend) -> Option<Finding> {
    let address = backend.address.ip();
    let found = match &backend.way {
        Err(why) => Finding::unseen(ID, &format!("the way to {address}"), why),
        Ok(Way::None) => {
            Finding::problem(ID, format!("there is no route to {address}"), "nothing can be sent there")
                .remedy(format!("ip route add {address} via GATEWAY   # ip route get {address}"))
        }
        Ok(Way::Out { interface, .. }) if !facts.config.node.interfaces.contains(interface) => {
            let mut all = facts.config.node.interfaces.clone();
            all.push(interface.clone());
            Finding::problem(
                ID,
                format!("the way to {address} is {interface}, which is none of node.interfaces"),
                "XDP sends out of the configured interfaces only",
            )
            .remedy(format!("write: interfaces = {all:?}"))
        }
        Ok(Way::Out { interface, neighbour }) if backend.neighbour == Some(false) => {
            let who = if *neighbour == address {
                format!("{address} does not answer on {interface}")
            } else {
                format!("{neighbour}, the router to {address}, does not answer on {interface}")
            };
            let how = if neighbour.is_ipv4() { "ARP" } else { "neighbour discovery" };
            Finding::problem(
                ID,
                who,
                format!("nobody answers to {how}: the machine is off, in another network, or something in between drops that"),
            )
            .remedy(match neighbour.is_ipv4() {
                true => format!("arping -c 3 -I {interface} {neighbour}; ip neigh show to {neighbour} dev {interface}"),
                false => format!("ndisc6 {neighbour} {interface}; ip neigh show to {neighbour} dev {interface}"),
            })
        }
        Ok(Way::Out { .. } | Way::Local) => return None,
    };
    Some(found.about(backend.names.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{address, fine, one},
    };

    #[test]
    fn frames_must_have_somewhere_to_go() {
        fine(judge, |_| ());
        fine(judge, |facts| {
            facts.backends[0].way = Ok(Way::Local);
            facts.backends[0].neighbour = None;
        });
        let silent = one(judge, |facts| facts.backends[0].neighbour = Some(false));
        assert_eq!(
            (silent.severity, silent.subject.as_deref()),
            (Severity::Problem, Some("kube-apiserver/master1"))
        );
        assert!(silent.remedy[0].starts_with("arping -c 3 -I eth0 172.16.0.4"), "{silent:?}");
        fine(judge, |facts| facts.backends[0].neighbour = None);
        let behind = one(judge, |facts| {
            let neighbour = address("172.16.0.1");
            facts.backends[0].way = Ok(Way::Out { interface: "eth0".to_owned(), neighbour });
            facts.backends[0].neighbour = Some(false);
        });
        assert_eq!(behind.seen, "172.16.0.1, the router to 172.16.0.4, does not answer on eth0");
        let elsewhere = one(judge, |facts| {
            let neighbour = address("172.16.0.4");
            facts.backends[0].way = Ok(Way::Out { interface: "eth1".to_owned(), neighbour });
        });
        assert_eq!(elsewhere.remedy, ["write: interfaces = [\"eth0\", \"eth1\"]"]);
        let nowhere = one(judge, |facts| facts.backends[0].way = Ok(Way::None));
        assert_eq!(nowhere.severity, Severity::Problem);
    }
}
