//! Health checks of many backends: what they cost, and how late they are. xvip and HAProxy check the same backends at the
//! same time, each at its own default interval of two seconds.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::crowd::{Checked, Crowd};
use super::haproxy::Haproxy;
use super::process::cpu_time;
use super::reload::id;
use super::{Bench, START_LIMIT};
use crate::bench::report::Role;
use crate::bench::series::Unit;
use crate::node::LbNode;
use crate::topology::Lab;
use crate::wait;

const XVIP: &str = "xvip";
const HAPROXY: &str = "HAProxy";
/// The default of both.
const INTERVAL: f64 = 2.0;
/// Services that the backends are shared out to.
const SERVICES: usize = 10;

/// Lets both check the same backends, first by TCP and then over TLS.
///
/// # Errors
/// When something could not be measured.
pub fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let each = (usize::from(bench.options.checked) / SERVICES).max(1);
    let window = Duration::from_secs(bench.options.window);
    bench.progress.say("checks: building the lab");
    let lab = Lab::builder().lbs(1).masters(1).patience(10).build()?;
    let mut haproxy = Haproxy::create(&lab)?;
    let node = lab.lb(0);
    Crowd::gather(&lab, &[node.machine(), haproxy.machine()])?;
    for checked in [Checked::Tcp, Checked::Https] {
        let crowd = Crowd { services: SERVICES, each, checked, interval: None, apart: true, first_weight: 1 };
        let all = SERVICES * each;
        crowd.start(node)?;
        haproxy.load(&crowd)?;
        wait::until("HAProxy's servers to be up", START_LIMIT, || haproxy.up().is_ok_and(|up| up == all))?;
        let name = checked.name();
        let figures = [
            format!("CPU for {all} {name} checks"),
            format!("{name} checks of {all} backends"),
            format!("time between {name} checks"),
        ];
        bench.rounds(&format!("{name} checks"), |report, round| {
            // What asking costs is not among what is measured.
            let (counted, before) =
                ((done(node)?, Instant::now()), (cpu_time(id(node)?)?, haproxy.cpu_time()?));
            let begin = Instant::now();
            sleep(window);
            let (ours, theirs) = (cpu_time(id(node)?)? - before.0, haproxy.cpu_time()? - before.1);
            let nominal = begin.elapsed().as_secs_f64() / INTERVAL;
            let (after, seconds) = (done(node)?, counted.1.elapsed().as_secs_f64());
            let checks = (after - counted.0) as f64;
            // A round of checks is what all backends together need once.
            let rounds = checks / all as f64;
            report.record(round, &figures[0], XVIP, Unit::Seconds, ours.as_secs_f64() / nominal);
            report.record(round, &figures[0], HAPROXY, Unit::Seconds, theirs.as_secs_f64() / nominal);
            report.record(round, &figures[1], XVIP, Unit::PerSecond, checks / seconds);
            report.record(round, &figures[2], XVIP, Unit::Seconds, seconds / rounds);
            Ok(())
        })?;
        bench.report.compare(&figures[0], XVIP, HAPROXY, Role::Peer, None);
        haproxy.kill();
        node.stop()?;
    }
    bench.report.note(
        "checks: of both at their default interval, 2 s; CPU is all that the process needs in 2 s, in which all \
         backends are checked once. HAProxy makes a new connection for each check; xvip keeps one for ten requests. Checks that are \
         on time are 2 s and the time of the check apart.",
    );
    Ok(())
}

/// Checks until now.
fn done(node: &LbNode) -> anyhow::Result<u64> {
    let status = node.status()?.raw;
    let backends =
        status["services"].as_array().into_iter().flatten().filter_map(|s| s["backends"].as_array());
    let each = backends.flatten().map(|backend| backend["checks"]["count"].as_u64().unwrap_or(0));
    Ok(each.sum())
}
