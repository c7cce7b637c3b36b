//! `unit`: whether systemd starts xvip with the machine.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "unit";

/// Where systemd runs the machine, it needs a unit.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    vec![match (&facts.host.unit, facts.host.systemd) {
        (Some(unit), _) => Finding::fine(ID, format!("{} is there", unit.display())),
        (None, false) => Finding::fine(ID, "systemd does not run this machine"),
        (None, true) => Finding::advice(
            ID,
            "there is no xvip.service",
            "nobody starts xvip with the machine, or again when it ends",
        )
        .remedy("cp packaging/xvip.service /etc/systemd/system/ && systemctl daemon-reload && systemctl enable xvip"),
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
    fn systemd_needs_a_unit() {
        assert_eq!(one(judge, |facts| facts.host.unit = None).severity, Severity::Advice);
        fine(judge, |facts| {
            facts.host.unit = None;
            facts.host.systemd = false;
        });
    }
}
