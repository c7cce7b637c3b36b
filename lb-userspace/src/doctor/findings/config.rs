//! `config`: what `xvip check` says of the file.

use crate::doctor::{Finding, facts::Facts};

/// The warnings; errors never get here, since there is nothing to look at without a configuration.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.warnings.is_empty() {
        return vec![Finding::fine("config", format!("{} is accepted", facts.file.display()))];
    }
    let warning = |warning: &crate::doctor::facts::Warning| {
        let cause =
            format!("`xvip check` warns of {}", if warning.key.is_empty() { "it" } else { &warning.key });
        Finding::advice("config", warning.message.clone(), cause).remedy(warning.remedy.clone())
    };
    facts.warnings.iter().map(warning).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::Warning,
        findings::healthy::{fine, one},
    };

    #[test]
    fn warnings_are_advice() {
        let found = one(judge, |facts| {
            facts.warnings = vec![Warning {
                key: "service[0].health.check".to_owned(),
                message: "is not given".to_owned(),
                remedy: "write: check = \"https\"".to_owned(),
            }];
        });
        assert_eq!((found.severity, found.seen.as_str()), (Severity::Advice, "is not given"));
        fine(judge, |_| ());
    }
}
