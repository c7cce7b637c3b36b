//! Counting flows and removing those that are over, in this process, on the real maps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_userspace::config::model::{Flows, default_half_open_max};
use lb_userspace::flows::Timeouts;

use super::Bench;
use super::process::own_cpu_time;
use crate::bench::series::Unit;
use crate::mass::{Mass, Service, VIP, client};

const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0));
/// Each NAT port leads to one flow at each of them.
const BACKENDS: u16 = 50;
const IDLE: u32 = 24 * 3600;
/// Long enough to be over, were they closed.
const SILENT: u32 = 120;

/// Opens flows, sweeps them round by round, and removes them in the end.
///
/// # Errors
/// When something could not be measured.
pub fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let count = bench.options.flows;
    let max = count.saturating_add(count / 8).max(1024);
    let flows = Flows {
        max,
        half_open_max: default_half_open_max(max),
        sources_max: 1024,
        idle_timeout: Duration::from_secs(IDLE.into()),
        rebuild: Duration::ZERO,
    };
    let service = SocketAddr::new(VIP.into(), 6443);
    let mut plane = Mass::load(&flows, &[Service::nat(service, 0..BACKENDS)])?;
    bench.progress.say(&format!("sweep: opening {count} flows"));
    open(&plane, service, count)?;
    let clock = plane.clock();
    let mut tables = plane.dataplane().flow_tables()?;
    let ids: BTreeSet<u16> = (0..BACKENDS).collect();
    bench.rounds("sweep", |report, round| {
        let (subject, seconds) = (format!("{count} flows"), Unit::Seconds);
        for (clock, name) in [(clock, "sweep, nothing is over"), (clock + SILENT, "sweep, all are silent")] {
            let (begin, before) = (Instant::now(), own_cpu_time()?);
            let census = tables.sweep(clock, &Timeouts::new(IDLE), &ids)?;
            let (took, cpu) = (begin.elapsed(), own_cpu_time()? - before);
            ensure!(census.established == u64::from(count), "{census:?}");
            report.record(round, name, &subject, seconds, took.as_secs_f64());
            report.record(round, &format!("{name}, CPU"), &subject, seconds, cpu.as_secs_f64());
        }
        Ok(())
    })?;
    // At the end all of them are over, once.
    let begin = Instant::now();
    let census = tables.sweep(clock + IDLE + 1, &Timeouts::new(IDLE), &ids)?;
    ensure!(census.removed == u64::from(count), "{census:?}");
    let subject = format!("{count} flows");
    bench.report.record(0, "sweep, all are over", &subject, Unit::Seconds, begin.elapsed().as_secs_f64());
    Ok(())
}

/// Opens flows by whole handshakes, on all processors.
fn open(plane: &Mass, service: SocketAddr, count: u32) -> anyhow::Result<()> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let share = count.div_ceil(threads);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn(move || {
                    let mut runner = plane.runner();
                    for n in n * share..((n + 1) * share).min(count) {
                        let opened = runner.open(client(CLIENTS, n), service)?;
                        opened.map_err(|action| anyhow::anyhow!("flow {n}: action {action}"))?;
                    }
                    anyhow::Ok(())
                })
            })
            .collect();
        let ended = workers.into_iter().map(|worker| worker.join().ok().context("a thread has panicked")?);
        ended.collect()
    })
}
