//! A reload that gives every service another table, what asking for the state costs, and memory; with many services.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::Bench;
use super::crowd::{Checked, Crowd};
use super::haproxy::Haproxy;
use super::process::{cpu_time, resident};
use crate::bench::report::{Report, Role};
use crate::bench::series::Unit;
use crate::node::LbNode;
use crate::topology::Lab;

const XVIP: &str = "xvip";
const HAPROXY: &str = "HAProxy";
/// Checks are to be rare: they are measured elsewhere.
const INTERVAL: u32 = 60;
/// Between measurements, so that what the last one left to do is done.
const REST: Duration = Duration::from_millis(700);

/// Reloads both, round by round, and asks both for their state.
///
/// # Errors
/// When something could not be measured.
pub fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let crowd = Crowd {
        services: bench.options.services.into(),
        each: bench.options.backends.into(),
        checked: Checked::Tcp,
        interval: Some(INTERVAL),
        apart: false,
        first_weight: 1,
    };
    bench.progress.say("reload: building the lab");
    let lab = Lab::builder().lbs(1).masters(1).patience(10).build()?;
    let mut haproxy = Haproxy::create(&lab)?;
    let node = lab.lb(0);
    Crowd::gather(&lab, &[node.machine(), haproxy.machine()])?;
    crowd.start(node)?;
    let all = crowd.services * crowd.each;
    haproxy.load(&crowd)?;

    let size = format!("{} x {}", crowd.services, crowd.each);
    let mut weight = 1;
    bench.rounds("reload", |report, round| {
        weight = 3 - weight;
        let changed = Crowd { first_weight: weight, ..crowd };
        let seconds = |report: &mut Report, figure: &str, subject: &str, time: Duration| {
            report.record(round, &format!("{figure}, {size}"), subject, Unit::Seconds, time.as_secs_f64());
        };
        node.configure(|config| config.services = changed.configured())?;
        let (wall, cpu) = timed(node, &["reload"])?;
        seconds(report, "reload", XVIP, wall);
        seconds(report, "reload, CPU", XVIP, cpu);
        std::thread::sleep(REST);

        let reloaded = haproxy.load(&changed)?;
        seconds(report, "reload", HAPROXY, reloaded.wall);
        seconds(report, "reload, CPU", HAPROXY, reloaded.cpu);
        haproxy.wait_alone()?;
        std::thread::sleep(REST);

        let (wall, cpu) = timed(node, &["status", "--json"])?;
        seconds(report, "status", XVIP, wall);
        seconds(report, "status, CPU", XVIP, cpu);
        let (begin, before) = (Instant::now(), haproxy.cpu_time()?);
        let told = haproxy.statistics()?;
        ensure!(told.lines().count() > all, "HAProxy told {} lines", told.lines().count());
        seconds(report, "status", HAPROXY, begin.elapsed());
        seconds(report, "status, CPU", HAPROXY, haproxy.cpu_time()? - before);

        let memory = [(XVIP, resident(id(node)?)?), (HAPROXY, haproxy.resident()?)];
        for (subject, bytes) in memory {
            report.record(round, &format!("memory, {size}"), subject, Unit::Bytes, bytes as f64);
        }
        Ok(())
    })?;
    for figure in ["reload", "reload, CPU", "status", "status, CPU", "memory"] {
        bench.report.compare(&format!("{figure}, {size}"), XVIP, HAPROXY, Role::Peer, None);
    }
    bench.report.note(
        "reload: each service gets another table (one weight changes in each); until all are in force. status: xvip's as \
         JSON, HAProxy's `show stat`; the time of xvip's has the start of the program in it that asks, CPU is the daemon's.",
    );
    haproxy.kill();
    node.stop()?;
    Ok(())
}

/// Runs `xvip WORDS`: how long that took, and how much processor time the daemon needed.
fn timed(node: &LbNode, words: &[&str]) -> anyhow::Result<(Duration, Duration)> {
    let daemon = id(node)?;
    let (begin, before) = (Instant::now(), cpu_time(daemon)?);
    let output = node.xvip(words)?;
    let taken = (begin.elapsed(), cpu_time(daemon)? - before);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "xvip {}: {}", words.join(" "), said.trim());
    Ok(taken)
}

/// The daemon's process id.
///
/// # Errors
/// When it does not run.
pub fn id(node: &LbNode) -> anyhow::Result<u32> {
    node.daemon_id().context("no daemon runs")
}
