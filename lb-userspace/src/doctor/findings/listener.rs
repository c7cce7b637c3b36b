//! `listener`: a proxy that listens at the VIP.

use crate::doctor::{Finding, Severity, facts::Facts};

const ID: &str = "listener";
const PROXIES: [&str; 6] = ["haproxy", "nginx", "envoy", "traefik", "gobetween", "kube-vip"];

/// XDP comes before every socket, so that nobody is in the way; but whoever waits for connections there gets none.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for listener in &facts.listeners {
        let name = listener.process.as_ref().map(|process| process.name.as_str()).unwrap_or_default();
        let whose = listener.process.as_ref().map_or_else(|| "a process".to_owned(), ToString::to_string);
        let seen = format!("{whose} listens there");
        let finding = if PROXIES.iter().any(|proxy| name.starts_with(proxy)) {
            Finding::advice(
                ID,
                seen,
                "its connections go on, and new ones go through XDP; while xvip only observes, or is not attached, it gets \
                 them all",
            )
            .remedy(format!("systemctl disable --now {name}   # when `xvip status` shows that it has no connections left"))
        } else {
            Finding::fine(ID, seen)
        };
        let seen_already = found.iter().any(|known: &Finding| known.seen == finding.seen);
        // Once for each process: it may have a socket for each of its threads.
        if !seen_already || finding.severity == Severity::Fine && listener.process.is_none() {
            found.push(finding.about(listener.address.to_string()));
        }
    }
    if found.is_empty() {
        found.push(Finding::fine(ID, "nobody listens at a service's port on this node"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        facts::{Listener, Process},
        findings::healthy::{fine, one},
    };

    #[test]
    fn a_proxy_is_told_once_and_an_api_server_is_none() {
        let listening = |facts: &mut Facts, name: &str, count: usize| {
            let process = Some(Process { id: 9, name: name.to_owned() });
            let listener = Listener { address: "0.0.0.0:6443".parse().expect("an address"), process };
            facts.listeners = vec![listener; count];
        };
        let found = one(judge, |facts| listening(facts, "haproxy", 4));
        assert_eq!((found.severity, found.subject.as_deref()), (Severity::Advice, Some("0.0.0.0:6443")));
        fine(judge, |facts| listening(facts, "kube-apiserver", 1));
        fine(judge, |_| ());
    }
}
