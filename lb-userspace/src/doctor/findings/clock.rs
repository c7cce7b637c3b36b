//! `clock`: whether it is kept right, and how far the peers' are from it.

use crate::{
    config::model::{AntiReplay, VrrpInstance},
    doctor::{Finding, Severity, facts::Facts},
};

const ID: &str = "clock";
const REMEDY: &str = "systemctl enable --now chrony   # or: timedatectl set-ntp true";

fn by_time(instance: &VrrpInstance) -> bool {
    instance.auth_hmac.as_ref().is_some_and(|auth| auth.anti_replay == AntiReplay::Time)
}

/// Signed advertisements are refused when the clocks differ by more than `auth_hmac.time_window`.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let needed = facts.routers().any(by_time);
    let cause = if needed {
        "auth_hmac refuses advertisements whose time is not near this node's: both nodes would become active"
    } else {
        "times in the logs of two nodes cannot be compared, and certificates may look expired to the checks"
    };
    let mut found = vec![match &facts.host.clock {
        Ok(clock) if clock.synchronised => {
            Finding::fine(ID, format!("synchronised, wrong by at most {} ms", clock.error_us / 1000))
        }
        Ok(_) => {
            let severity = if needed { Severity::Problem } else { Severity::Advice };
            Finding { severity, ..Finding::advice(ID, "nobody synchronises it", cause).remedy(REMEDY) }
        }
        Err(why) => Finding::unseen(ID, "the clock", why),
    }];
    for instance in facts.routers().filter(|instance| by_time(instance)) {
        let Some(auth) = &instance.auth_hmac else { continue };
        let window = i64::try_from(auth.time_window.as_secs()).unwrap_or(i64::MAX);
        for heard in &facts.wire.adverts {
            let Some(ahead) = heard.clock_ahead() else { continue };
            if heard.outgoing || !heard.is_of(instance, &facts.config) {
                continue;
            }
            let relation = if ahead < 0 { "behind" } else { "ahead of" };
            let seen = format!("{}'s clock is {} s {relation} this node's", heard.sender(), ahead.abs());
            let finding = if ahead.abs() > window {
                let cause = format!(
                    "more than auth_hmac.time_window ({window} s): neither node believes the other, and both become active"
                );
                Finding::problem(ID, seen, cause).remedy(REMEDY)
            } else if ahead.abs() > window / 2 {
                let cause = format!("more than half of auth_hmac.time_window ({window} s)");
                Finding::advice(ID, seen, cause).remedy(REMEDY)
            } else {
                Finding::fine(ID, seen)
            };
            found.push(finding.about(instance.name.clone()));
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        doctor::findings::healthy::{config, facts, fine, one},
        vrrp::{advert::Trailer, auth::HMAC_SHA256},
    };

    /// The VRRP instance wants signatures, and its peer's clock is that many seconds ahead.
    pub(in super::super) fn signed(facts: &mut Facts, ahead: i64) {
        facts.config = config(|text| {
            format!(
                "{text}[vrrp.auth_hmac]\nactive_key = 1\n[[vrrp.auth_hmac.key]]\nid = 1\nvalue = \"{}\"\n",
                "k".repeat(32)
            )
        });
        let heard = &mut facts.wire.adverts[0];
        let ours = heard.at.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let theirs = (ours as i64 + ahead) as u32;
        let mut trailer = [0; Trailer::LEN];
        trailer[0] = HMAC_SHA256;
        trailer[4..8].copy_from_slice(&theirs.to_be_bytes());
        heard.trailer = Some(Trailer(trailer));
    }

    #[test]
    fn an_unsynchronised_clock_is_worse_where_it_is_needed() {
        let unsynchronised = |facts: &mut Facts| {
            facts.host.clock = Ok(crate::doctor::facts::Clock { synchronised: false, error_us: 0 });
        };
        assert_eq!(one(judge, unsynchronised).severity, Severity::Advice);
        let mut facts = facts();
        signed(&mut facts, 0);
        unsynchronised(&mut facts);
        let found = judge(&facts);
        assert_eq!(
            found.iter().map(|one| one.severity).collect::<Vec<_>>(),
            [Severity::Problem, Severity::Fine]
        );
        fine(judge, |_| ());
    }

    #[test]
    fn the_peers_clocks_are_compared_with_the_window() {
        // The default window at 200 ms is 5 s.
        for (ahead, severity) in [
            (0, Severity::Fine),
            (-2, Severity::Fine),
            (2, Severity::Fine),
            (-3, Severity::Advice),
            (5, Severity::Advice),
            (6, Severity::Problem),
            (-100, Severity::Problem),
        ] {
            let mut facts = facts();
            signed(&mut facts, ahead);
            assert_eq!(
                facts.config.vrrp[0].auth_hmac.as_ref().map(|auth| auth.time_window),
                Some(Duration::from_secs(5))
            );
            assert_eq!(judge(&facts)[1].severity, severity, "{ahead}");
            facts.wire.adverts[0].outgoing = true;
            assert_eq!(judge(&facts).len(), 1, "our own advertisements are no peer's");
        }
    }
}
