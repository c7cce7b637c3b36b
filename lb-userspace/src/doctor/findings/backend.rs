//! `backend`: whether the configured check passes, once.

use crate::{
    config::model::Check,
    doctor::{
        Finding,
        facts::{Backend, Facts},
    },
};

const ID: &str = "backend";

/// Each address; those that answer together.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let failed = facts.backends.iter().filter_map(|backend| {
        let why = backend.check.as_ref().err()?;
        let cause = "the configured check failed: it gets no new connections";
        let found = Finding::problem(ID, format!("{}: {why}", backend.address), cause);
        Some(found.remedy(by_hand(facts, backend)).about(backend.names.join(", ")))
    });
    let mut found: Vec<Finding> = failed.collect();
    if found.is_empty() {
        found.push(Finding::fine(
            ID,
            format!("all backends ({}) answer as they should", facts.backends.len()),
        ));
    }
    found
}

/// The check as a command.
fn by_hand(facts: &Facts, backend: &Backend) -> String {
    let mut services = facts.config.services.iter();
    let check = services
        .find(|service| service.backends.iter().any(|known| known.address == backend.address))
        .map(|service| &service.health.check);
    let (address, ip) = (backend.address, backend.address.ip());
    match check {
        Some(Check::Https { path, .. }) => format!("curl -vk https://{address}{path}"),
        Some(Check::Http { path, .. }) => format!("curl -v http://{address}{path}"),
        Some(Check::Tls { .. }) => format!("openssl s_client -connect {address} </dev/null"),
        Some(Check::Tcp) | None => format!("nc -vz {ip} {}", address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, one},
    };

    #[test]
    fn a_failed_check_can_be_repeated_by_hand() {
        for (check, remedy) in
            [(None, "curl -vk https://172.16.0.4:6443/readyz"), (Some(Check::Tcp), "nc -vz 172.16.0.4 6443")]
        {
            let found = one(judge, |facts| {
                facts.backends[0].check = Err("connection refused".to_owned());
                if let Some(check) = check {
                    facts.config.services[0].health.check = check;
                }
            });
            assert_eq!((found.severity, found.remedy), (Severity::Problem, vec![remedy.to_owned()]));
        }
        fine(judge, |_| ());
    }
}
