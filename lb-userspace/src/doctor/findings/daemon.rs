//! `daemon`: what a running daemon says is wrong.

use crate::doctor::{Finding, facts::Facts};

const ID: &str = "daemon";

/// Its problems, each as one.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let status = match &facts.daemon {
        Ok(Some(status)) => status,
        Ok(None) => return vec![Finding::fine(ID, "none runs with this control socket")],
        Err(why) => return vec![Finding::unseen(ID, "the running daemon", why)],
    };
    let mut found: Vec<Finding> = status
        .problems
        .iter()
        .map(|problem| {
            Finding::problem(ID, problem.clone(), "the running daemon says so of itself")
                .remedy("xvip status")
        })
        .collect();
    if let Some(error) = &status.config.last_reload_error {
        let cause = "the last reload changed nothing: the daemon runs with an older file";
        found.push(Finding::problem(ID, error.clone(), cause).remedy("xvip check && xvip reload"));
    }
    if found.is_empty() {
        let seen = format!("xvip {} runs (pid {}) and knows of no problem", status.version, status.pid);
        found.push(Finding::fine(ID, seen));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, one, running},
    };

    #[test]
    fn a_daemon_that_cannot_be_asked_is_said() {
        let found = one(judge, |facts| facts.daemon = Err("permission denied".to_owned()));
        assert_eq!((found.severity, found.cause.as_deref()), (Severity::Advice, Some("permission denied")));
        fine(judge, |_| ());
    }

    #[test]
    fn its_problems_are_problems() {
        fine(judge, |facts| facts.daemon = Ok(Some(running(true, &[]))));
        let found = one(judge, |facts| facts.daemon = Ok(Some(running(true, &["VRID 60 is also used"]))));
        assert_eq!((found.severity, found.seen.as_str()), (Severity::Problem, "VRID 60 is also used"));
    }
}
