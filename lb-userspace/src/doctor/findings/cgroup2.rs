//! `cgroup2`: where the hooks for clients on this node are attached.

use crate::{
    config::model::LocalClients,
    doctor::{Finding, facts::Facts},
};

const ID: &str = "cgroup2";

/// Needed unless `node.local_clients` is off.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let off = facts.config.node.local_clients == LocalClients::Off;
    vec![match &facts.host.cgroup2 {
        Ok(path) => Finding::fine(ID, format!("mounted at {}", path.display())),
        Err(_) if off => Finding::fine(ID, "not mounted, and not needed: local_clients is \"off\""),
        Err(why) => Finding::problem(
            ID,
            why.clone(),
            "connections of this node's own processes to the VIP cannot be sent to a backend; they meet the node itself \
             while it owns the VIP",
        )
        .remedy("mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified")
        .remedy("or write: local_clients = \"off\""),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, one},
    };

    #[test]
    fn it_is_missed_where_it_is_needed() {
        assert_eq!(
            one(judge, |facts| facts.host.cgroup2 = Err("no cgroup2".to_owned())).severity,
            Severity::Problem
        );
        fine(judge, |facts| {
            facts.host.cgroup2 = Err("no cgroup2".to_owned());
            facts.config.node.local_clients = LocalClients::Off;
        });
    }
}
