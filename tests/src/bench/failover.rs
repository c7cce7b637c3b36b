//! For how long a client is without service when the VIP has to move.
//!
//! One pair of nodes after the other is built in a lab of its own: client, two LB nodes, three API servers on one switch.
//! A probe in the client's machine begins a request each 5 ms ([`crate::probe`]). When `lb1` has the VIP and all requests
//! succeed, something happens to `lb1`; the time without service ([`crate::outage`]) is that of all requests that began
//! between then and half a second of success with `lb2` as the owner. Then `lb1` comes back and takes the VIP again. What
//! happens while it does is not measured. The client's neighbour table is the kernel's business, as on a real client.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::facts::Facts;
use super::samples::{Summary, ratio};
use super::stack::{Incident, Kind, Stack};
use super::table::{self, Progress, chosen, ms};
use crate::interrupt::Interrupt;
use crate::measure::ClientProcess;
use crate::topology::find_program;
use crate::wait;

/// From one request of the probe to the next.
const INTERVAL: Duration = Duration::from_millis(5);
/// After which a request has failed; see [`crate::probe::ProbeOptions::timeout_ms`].
const TIMEOUT: Duration = Duration::from_millis(300);
/// Half a second of success.
const STEADY: usize = 100;
/// Nothing waits for it unless something is wrong. A node that boots beside keepalived needs 10 s to settle.
const LIMIT: Duration = Duration::from_secs(40);
/// What moves the VIP, in the order of the table.
const INCIDENTS: [Incident; 4] =
    [Incident::NodeDeath, Incident::Stop, Incident::Release, Incident::ProcessDeath];

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How often each incident
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// Also write every sample to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only these pairs
    #[arg(long, value_delimiter = ',', value_name = "PAIR,...")]
    pub stack: Vec<Kind>,
    /// Only these incidents
    #[arg(long, value_delimiter = ',', value_name = "INCIDENT,...")]
    pub incident: Vec<Incident>,
}

/// One time that something happened.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    stack: Kind,
    incident: Incident,
    repeat: u32,
    /// The time without service.
    outage_us: u64,
    /// Requests that began in the time looked at.
    requests: usize,
    /// How many of them failed.
    failed: usize,
    /// The longest time that one took which succeeded.
    slowest_us: u64,
    /// The longest time from one request to the next: far more than 5 ms, and the probe was kept from running.
    pause_us: u64,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    facts: &'a Facts,
    repeats: u32,
    interval_us: u64,
    timeout_us: u64,
    samples: &'a [Sample],
    not_measured: &'a [String],
}

/// Measures and prints.
///
/// # Errors
/// When a pair could not be measured, after printing what could, or when interrupted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let other = options.incident.iter().find(|incident| !INCIDENTS.contains(incident));
    ensure!(other.is_none(), "{other:?} moves no VIP; `bench survive` knows it");
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let facts = Facts::find(&find_program("xvip", "XVIP_BIN")?)?
        .and("haproxy", "-v")?
        .and("keepalived", "--version")?;
    let mut bench = Bench { options, interrupt: &interrupt, progress: Progress::new(), samples: vec![] };
    let mut not_measured = vec![];
    for kind in chosen(&options.stack, &Kind::ALL) {
        if let Err(error) = bench.stack(kind) {
            if interrupt.asked() {
                return Err(error);
            }
            let error = format!("{}: {error:#}", kind.title());
            bench.progress.say(&error);
            not_measured.push(error);
        }
    }
    let samples = &bench.samples;
    let took = bench.progress.elapsed();
    if let Some(file) = &options.json {
        let report = Report {
            facts: &facts,
            repeats: options.repeats,
            interval_us: INTERVAL.as_micros() as u64,
            timeout_us: TIMEOUT.as_micros() as u64,
            samples,
            not_measured: &not_measured,
        };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    // A reader that has gone away is no failure to measure.
    let _ = stdout().write_all(text(samples, &facts, took).as_bytes());
    ensure!(not_measured.is_empty(), "not everything could be measured: {}", not_measured.join("; "));
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    progress: Progress,
    samples: Vec<Sample>,
}

impl Bench<'_> {
    fn stack(&mut self, kind: Kind) -> anyhow::Result<()> {
        self.progress.say(&format!("{}: building the lab", kind.title()));
        let mut stack = kind.start(false)?;
        let measured = self.incidents(kind, stack.as_mut());
        if measured.is_err() && !self.interrupt.asked() {
            self.progress.say(&format!("the ends of the logs:\n{}", stack.last_lines()));
        }
        measured
    }

    fn incidents(&mut self, kind: Kind, stack: &mut dyn Stack) -> anyhow::Result<()> {
        let probe = stack.lab().on(stack.lab().client()).probe(INTERVAL, TIMEOUT)?;
        for incident in chosen(&self.options.incident, &INCIDENTS) {
            if !stack.knows(incident)? {
                continue;
            }
            for repeat in 0..self.options.repeats {
                let what = || format!("{}, repeat {repeat}", incident.title());
                let sample = self.once(kind, stack, &probe, incident, repeat).with_context(what)?;
                self.progress.say(&format!(
                    "{}, {}: {} without service; {} of {} requests failed",
                    kind.title(),
                    incident.title(),
                    ms(Duration::from_micros(sample.outage_us)),
                    sample.failed,
                    sample.requests
                ));
                self.samples.push(sample);
            }
        }
        Ok(())
    }

    fn once(
        &self,
        kind: Kind,
        stack: &mut dyn Stack,
        probe: &ClientProcess,
        incident: Incident,
        repeat: u32,
    ) -> anyhow::Result<Sample> {
        self.settled(stack, probe, "lb1")?;
        let phase = Instant::now() + kind.phase(repeat);
        while Instant::now() < phase && !self.interrupt.asked() {
            thread::sleep(Duration::from_millis(1).min(phase.saturating_duration_since(Instant::now())));
        }
        let begin = probe.mark();
        stack.befall(incident)?;
        self.settled(stack, probe, "lb2")?;
        let end = probe.mark();
        // All that began before that have their answer by then, or have failed.
        thread::sleep(TIMEOUT * 2);
        let sample = probe.read(|tally| {
            let answered = tally.begun(begin, end).filter(|outcome| outcome.result.is_ok());
            Sample {
                stack: kind,
                incident,
                repeat,
                outage_us: tally.outage(begin, end).as_micros() as u64,
                requests: tally.begun(begin, end).count(),
                failed: tally.begun(begin, end).filter(|outcome| outcome.result.is_err()).count(),
                slowest_us: answered.map(|outcome| outcome.took_us).max().unwrap_or(0),
                pause_us: tally.pause(begin, end).as_micros() as u64,
            }
        });
        stack.undo(incident)?;
        Ok(sample)
    }

    /// Waits until this node owns the VIP and requests that begin after that succeed.
    fn settled(&self, stack: &dyn Stack, probe: &ClientProcess, owner: &str) -> anyhow::Result<()> {
        self.until(&format!("{owner} to own the VIP"), || stack.owner() == Some(owner))?;
        let mark = probe.mark();
        let steady = || probe.steady_since(mark) >= STEADY;
        self.until(&format!("{STEADY} answers in a row with {owner} as the owner"), steady)
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
        wait::until(what, LIMIT, || self.interrupt.asked() || condition())?;
        if self.interrupt.asked() {
            bail!("interrupted");
        }
        Ok(())
    }
}

/// The table and what belongs to it.
fn text(samples: &[Sample], facts: &Facts, took: Duration) -> String {
    let header = ["incident", "pair", "n", "median", "p90", "max", "min", "slowest", "keepalived / this"];
    let mut table = table::with_header(&header, 2..header.len());
    for incident in INCIDENTS {
        for kind in Kind::ALL {
            let Some(sum) = summary(samples, kind, incident) else { continue };
            // There is no command to release a VIP of keepalived's but to stop it.
            let theirs = if incident == Incident::Release { Incident::Stop } else { incident };
            let ratio = match summary(samples, Kind::Incumbent, theirs) {
                Some(theirs) if kind != Kind::Incumbent => ratio(theirs.median, sum.median, INTERVAL),
                _ => String::new(),
            };
            let slowest = of(samples, kind, incident).map(|sample| sample.slowest_us).max().unwrap_or(0);
            let times = [sum.median, sum.p90, sum.max, sum.min, Duration::from_micros(slowest)].map(ms);
            let cells = [incident.title().to_owned(), kind.title().to_owned(), sum.count.to_string()];
            table.add_row(cells.into_iter().chain(times).chain([ratio]));
        }
    }
    format!(
        "Time without service as a client sees it: from the last request that succeeded before a failure to the first \
         after it,\nby when they began; one request each {}, failed when not answered within {}. 0 ms: none failed.\n\
         slowest: the longest time that a request took which succeeded.\n\
         {table}\n\
         node death: cable cut at the switch, then all processes killed. graceful stop: SIGTERM to keepalived or xvip.\n\
         balancer killed: kill -9 of haproxy or xvip. The last column compares medians{}.\n\
         {}",
        ms(INTERVAL),
        ms(TIMEOUT),
        if summary(samples, Kind::Xvip, Incident::Release).is_some() {
            "; vip release with a stop of keepalived"
        } else {
            ""
        },
        table::footer(facts, took)
    )
}

fn summary(samples: &[Sample], kind: Kind, incident: Incident) -> Option<Summary> {
    let outages: Vec<_> =
        of(samples, kind, incident).map(|sample| Duration::from_micros(sample.outage_us)).collect();
    Summary::of(&outages)
}

fn of(samples: &[Sample], kind: Kind, incident: Incident) -> impl Iterator<Item = &Sample> {
    samples.iter().filter(move |sample| sample.stack == kind && sample.incident == incident)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{facts, row, tells};
    use super::*;

    fn sample(stack: Kind, incident: Incident, outage_ms: u64) -> Sample {
        Sample {
            stack,
            incident,
            repeat: 0,
            outage_us: outage_ms * 1000,
            requests: 9,
            failed: 1,
            slowest_us: 7,
            pause_us: 5,
        }
    }

    #[test]
    fn the_table_has_a_row_for_what_was_measured_and_compares_with_the_incumbent() {
        let facts = facts("cargo xtask bench failover");
        let samples = [
            sample(Kind::Incumbent, Incident::NodeDeath, 3000),
            sample(Kind::Incumbent, Incident::NodeDeath, 3200),
            sample(Kind::Incumbent, Incident::Stop, 640),
            sample(Kind::Xvip, Incident::NodeDeath, 620),
            sample(Kind::Xvip, Incident::Release, 20),
        ];
        let text = text(&samples, &facts, Duration::from_secs(9));
        let theirs =
            ["node death", "HAProxy + keepalived", "2", "3100 ms", "3200 ms", "3200 ms", "3000 ms", "0 ms"];
        assert_eq!(row(&text, "node death", "HAProxy + keepalived"), theirs);
        assert_eq!(row(&text, "node death", "xvip, defaults").last().unwrap(), "5.0x");
        assert_eq!(row(&text, "vip release", "xvip, defaults").last().unwrap(), "32x");
        assert!(!text.contains("xvip, 50 ms"), "{text}");
        assert!(tells(&text, &facts), "{text}");
    }
}
