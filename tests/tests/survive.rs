//! 200 long-lived streams, each byte checked, and a request every 10 ms, through all that can happen to a pair of xvip
//! nodes: none of the streams may break, and of the requests only those which a dead node or API server swallowed may
//! fail. Each incident happens `XVIP_SURVIVE_REPEATS` times (once without that variable). Needs root, for the network
//! namespaces.
//!
//! Runner: alone, threads 2, minutes 60

use std::error::Error;
use std::time::Duration;

use lb_tests::bench::stack::{Incident, XvipPair, XvipSettings};
use lb_tests::bench::survive::repeats;
use lb_tests::bench::survive::trial::{Sample, Trial};
use lb_tests::streams::Plan;
use lb_tests::topology::Mode;

type TestResult = Result<(), Box<dyn Error>>;

const STREAMS: u32 = 200;
/// A node that died, with the default configuration: as in `failover.rs`.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(2);
/// `fall` x (`fast_interval` + `timeout`) with the defaults, after which a dead API server is given up, and as much again
/// for a busy machine.
const DEAD_SERVER_LIMIT: Duration = Duration::from_millis(2 * 2 * (200 + 1000));
/// Within which an API server that is back has its share.
const SPREAD_LIMIT: Duration = Duration::from_secs(60);
/// An API server that is not ready is asked again after `interval`, and then `fall` times.
const UNREADY_LIMIT: Duration = Duration::from_secs(5);

/// The streams that the returning API server lacks of its fair share, a tenth more because those that come back are spread
/// by chance, and those that one second resets before anybody has counted again.
fn needed(sample: &Sample) -> usize {
    sample.streams / 3 * 11 / 10 + 10
}

/// What this incident must not have done.
fn complaint(sample: &Sample) -> Option<String> {
    let time = |us: u64| Duration::from_micros(us);
    let incident = sample.incident;
    let failing = time(sample.failing_us);
    let wrong = match incident {
        _ if sample.broken_how.contains_key("wrong") => Some("wrong bytes"),
        Incident::ServerBack if sample.spread_us.is_none_or(|us| time(us) > SPREAD_LIMIT) => {
            Some("streams did not spread")
        }
        Incident::ServerBack => {
            (sample.broken > needed(sample)).then_some("more streams were reset than needed")
        }
        _ if sample.broken_elsewhere > 0 => Some("streams broke"),
        _ if sample.silent_at_end > 0 => Some("streams hang"),
        _ if sample.undone.as_ref().is_some_and(|undone| undone.broken > 0) => Some("streams broke later"),
        Incident::ProcessDeath | Incident::NodeDeath | Incident::Cut | Incident::Freeze
            if failing > FAIL_OVER_LIMIT =>
        {
            Some("requests failed for too long")
        }
        Incident::ServerKilled | Incident::ServerSilent if failing > DEAD_SERVER_LIMIT => {
            Some("requests failed for too long")
        }
        Incident::ServerKilled | Incident::ServerSilent
            if sample.noticed_last_us.is_some_and(|last| time(last) > DEAD_SERVER_LIMIT) =>
        {
            Some("clients of the dead server were told too late")
        }
        Incident::ProcessDeath
        | Incident::NodeDeath
        | Incident::Cut
        | Incident::Freeze
        | Incident::ServerKilled
        | Incident::ServerSilent => None,
        _ if sample.failed > 0 => Some("requests failed"),
        Incident::ServerUnready if sample.unready_asked_us.is_some_and(|us| time(us) > UNREADY_LIMIT) => {
            Some("a server that is not ready is asked")
        }
        _ => None,
    };
    wrong.map(|wrong| format!("{incident:?}: {wrong}: {sample:#?}"))
}

fn endure(mode: Mode, incidents: &[Incident]) -> TestResult {
    let mut pair = XvipPair::start(&XvipSettings {
        mode,
        advert_interval: None,
        // The same API server dies several times.
        slow_start: Some("0s"),
        spare: true,
    })?;
    let plan = Plan { plain: STREAMS / 2, watch: STREAMS / 2, ..Plan::default() };
    let mut trial = Trial::new(&mut pair, plan, true, None)?;
    let mut complaints = vec![];
    for &incident in incidents {
        for repeat in 0..repeats()? {
            // At different moments of its checks and advertisements.
            let phase = Duration::from_millis(u64::from(repeat) * 173 % 1000);
            let sample = match trial.once(incident, phase) {
                Ok(sample) => sample,
                Err(error) => {
                    complaints.push(format!("{incident:?}: {error:#}"));
                    return Err(format!("{}\n{}", complaints.join("\n"), trial.last_lines()).into());
                }
            };
            let undone = sample.undone.as_ref();
            println!(
                "{mode:?}, {}: {} of {} streams broke, none moved for {:.1?} at most; {} of {} requests failed, no \
                 service for {:.0?}; undone: {} streams broke, {} requests failed",
                incident.title(),
                sample.broken,
                sample.streams,
                Duration::from_micros(sample.longest_hang_us),
                sample.failed,
                sample.requests,
                Duration::from_micros(sample.outage_us),
                undone.map_or(0, |undone| undone.broken),
                undone.map_or(0, |undone| undone.failed),
            );
            complaints.extend(complaint(&sample));
        }
    }
    if complaints.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n{}", complaints.join("\n"), trial.last_lines()).into())
}

#[test]
fn a_balancer_may_be_stopped_restarted_killed_cut_off_and_frozen() -> TestResult {
    endure(
        Mode::Nat,
        &[
            Incident::Stop,
            Incident::Release,
            Incident::Restart,
            Incident::Crash,
            Incident::ProcessDeath,
            Incident::NodeDeath,
            Incident::Cut,
            Incident::Freeze,
        ],
    )
}

#[test]
fn a_reload_touches_nothing_else() -> TestResult {
    endure(Mode::Nat, &[Incident::BackendAdded, Incident::BackendWeighted, Incident::BackendRemoved])
}

#[test]
fn a_dead_api_server_releases_its_streams_and_no_others() -> TestResult {
    endure(Mode::Nat, &[Incident::ServerKilled, Incident::ServerSilent, Incident::ServerUnready])
}

#[test]
fn a_server_that_is_back_gets_its_share() -> TestResult {
    endure(Mode::Nat, &[Incident::ServerBack])
}

#[test]
fn a_node_may_die_in_dsr_l2() -> TestResult {
    endure(Mode::DsrL2, &[Incident::NodeDeath, Incident::Freeze])
}

#[test]
fn a_node_may_die_in_dsr_ipip() -> TestResult {
    endure(Mode::DsrIpip, &[Incident::NodeDeath, Incident::Freeze])
}
