//! `state-directory`: where what operators said outlives a restart.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "state-directory";

/// Whether it can be written to, or made.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let directory = &facts.host.state_directory;
    let path = directory.path.display();
    vec![if directory.writable {
        let seen = if directory.exists { "can be written to" } else { "is not there yet, and can be made" };
        Finding::fine(ID, format!("{path} {seen}"))
    } else {
        Finding::problem(
            ID,
            format!("{path} cannot be written to"),
            "what `xvip backend` was told is lost with the daemon",
        )
        .remedy(format!(
            "install -d -m 0750 {path}   # systemd: StateDirectory=xvip, as in packaging/xvip.service"
        ))
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
    fn it_must_be_writable() {
        let found = one(judge, |facts| facts.host.state_directory.writable = false);
        assert_eq!(found.severity, Severity::Problem);
        fine(judge, |facts| facts.host.state_directory.exists = false);
    }
}
