//! What becomes of long-lived streams, and of requests, in all that can happen to a pair of load balancers.
//!
//! One pair after the other is built in a lab of its own: client, two LB nodes, four API servers (one of them a spare) on
//! one switch. The client keeps streams open ([`crate::streams`]: one half bytes both ways, checked at both ends, the
//! other half watches over TLS) and begins a request each 10 ms ([`crate::probe`]). When all is well something happens
//! ([`Incident`]); what is looked at ends when the pair has settled and each stream either moves or has ended
//! ([`trial`]). Clients learn of a dead connection as those of Kubernetes do: keep-alive after 30 s of silence.

pub mod trial;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::facts::Facts;
use super::samples::Summary;
use super::stack::{Incident, Kind};
use super::table::{self, Progress, chosen, ms};
use crate::interrupt::Interrupt;
use crate::streams::Plan;
use crate::topology::find_program;
use trial::{INTERVAL, SLOW, Sample, TIMEOUT, Trial};

/// What takes longer than this is not repeated.
const LONG: Duration = Duration::from_secs(25);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// How often each incident; one whose clients notice after half a minute happens once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeats: u32,
    /// How many streams
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=500))]
    pub streams: u32,
    /// Also write every sample to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Only these pairs (without any: the incumbent and xvip with its defaults)
    #[arg(long, value_delimiter = ',', value_name = "PAIR,...")]
    pub stack: Vec<Kind>,
    /// Only these incidents
    #[arg(long, value_delimiter = ',', value_name = "INCIDENT,...")]
    pub incident: Vec<Incident>,
}

#[derive(Debug, Clone, Serialize)]
struct Measured {
    stack: Kind,
    repeat: u32,
    #[serde(flatten)]
    sample: Sample,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    facts: &'a Facts,
    repeats: u32,
    streams: u32,
    interval_us: u64,
    timeout_us: u64,
    samples: &'a [Measured],
    not_measured: &'a [String],
}

/// Measures and prints.
///
/// # Errors
/// When something could not be measured, after printing what could, or when interrupted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let facts = Facts::find(&find_program("xvip", "XVIP_BIN")?)?
        .and("haproxy", "-v")?
        .and("keepalived", "--version")?;
    let mut bench = Bench {
        options,
        interrupt: &interrupt,
        progress: Progress::new(),
        samples: vec![],
        not_measured: vec![],
    };
    let kinds =
        if options.stack.is_empty() { vec![Kind::Incumbent, Kind::Xvip] } else { options.stack.clone() };
    for kind in kinds {
        if let Err(error) = bench.stack(kind) {
            bench.give_up(kind, "", &error)?;
        }
    }
    let Bench { samples, not_measured, progress, .. } = bench;
    if let Some(file) = &options.json {
        let report = Report {
            facts: &facts,
            repeats: options.repeats,
            streams: options.streams,
            interval_us: INTERVAL.as_micros() as u64,
            timeout_us: TIMEOUT.as_micros() as u64,
            samples: &samples,
            not_measured: &not_measured,
        };
        let text = serde_json::to_string_pretty(&report)? + "\n";
        fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    // A reader that has gone away is no failure to measure.
    let _ = stdout().write_all(text(&samples, &facts, progress.elapsed()).as_bytes());
    ensure!(not_measured.is_empty(), "not everything could be measured: {}", not_measured.join("; "));
    Ok(())
}

/// How often tests let each incident happen: `XVIP_SURVIVE_REPEATS` times, or once.
///
/// # Errors
/// When that is no number.
pub fn repeats() -> anyhow::Result<u32> {
    match std::env::var("XVIP_SURVIVE_REPEATS") {
        Ok(text) => text.parse().with_context(|| format!("XVIP_SURVIVE_REPEATS={text} is no number")),
        Err(_) => Ok(1),
    }
}

struct Bench<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    progress: Progress,
    samples: Vec<Measured>,
    not_measured: Vec<String>,
}

impl Bench<'_> {
    /// Measures one kind of pair. What fails in the middle of an incident is said, and the rest measured with a new
    /// pair.
    fn stack(&mut self, kind: Kind) -> anyhow::Result<()> {
        let incidents = chosen(&self.options.incident, &Incident::ALL);
        let each = |incident| (0..self.options.repeats).map(move |repeat| (incident, repeat));
        let mut left: VecDeque<_> = incidents.into_iter().flat_map(each).collect();
        while !left.is_empty() {
            self.progress.say(&format!("{}: building the lab", kind.title()));
            let mut stack = kind.start(true)?;
            let mut trial = Trial::new(stack.as_mut(), self.plan(), false, Some(self.interrupt))?;
            while let Some((incident, repeat)) = left.pop_front() {
                match self.once(kind, &mut trial, incident, repeat) {
                    Ok(took) if took > LONG => left.retain(|(next, _)| *next != incident),
                    Ok(_) => {}
                    Err(error) => {
                        if !self.interrupt.asked() {
                            self.progress.say(&format!("the ends of the logs:\n{}", trial.last_lines()));
                        }
                        self.give_up(kind, incident.title(), &error)?;
                        left.retain(|(next, _)| *next != incident);
                        break;
                    }
                }
                if incident.leaves_slow_start() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Returns how long it took.
    fn once(
        &mut self,
        kind: Kind,
        trial: &mut Trial<'_>,
        incident: Incident,
        repeat: u32,
    ) -> anyhow::Result<Duration> {
        if !trial.knows(incident)? {
            return Ok(Duration::ZERO);
        }
        let begin = Instant::now();
        let sample = trial.once(incident, kind.phase(repeat)).with_context(|| format!("repeat {repeat}"))?;
        self.progress.say(&format!(
            "{}, {}: {} of {} streams broken, {} hung, {} of {} requests failed ({:.1} s)",
            kind.title(),
            incident.title(),
            sample.broken,
            sample.streams,
            sample.hung,
            sample.failed,
            sample.requests,
            begin.elapsed().as_secs_f64()
        ));
        self.samples.push(Measured { stack: kind, repeat, sample });
        Ok(begin.elapsed())
    }

    fn plan(&self) -> Plan {
        let watch = self.options.streams / 2;
        Plan { plain: self.options.streams - watch, watch, ..Plan::default() }
    }

    /// Goes on without that, unless interrupted.
    fn give_up(&mut self, kind: Kind, what: &str, error: &anyhow::Error) -> anyhow::Result<()> {
        ensure!(!self.interrupt.asked(), "interrupted");
        let words = format!("{}, {what}: {error:#}", kind.title());
        self.progress.say(&words);
        self.not_measured.push(words);
        Ok(())
    }
}

/// The table and what belongs to it.
fn text(samples: &[Measured], facts: &Facts, took: Duration) -> String {
    let header = [
        "incident",
        "pair",
        "n",
        "streams broken",
        "noticed after",
        "hung",
        "for up to",
        "requests failed",
        "within",
        "no service",
        "",
    ];
    let mut table = table::with_header(&header, 2..header.len() - 1);
    for incident in Incident::ALL {
        for kind in Kind::ALL {
            let of = |one: &&Measured| one.stack == kind && one.sample.incident == incident;
            let samples: Vec<&Sample> = samples.iter().filter(of).map(|one| &one.sample).collect();
            if !samples.is_empty() {
                table.add_row(row(incident, kind, &samples));
            }
        }
    }
    format!(
        "What became of long-lived streams and of one request each {} when something happened.\n\
         {table}\n\
         streams broken: all repeats together; half had bytes both ways, half only listened (TLS), keep-alive after \
         30 s. noticed after: until half of\nthe clients of broken streams knew, until the last one did. hung: moved \
         no byte for more than 1 s, and for how long at most.\n\
         requests failed: refused, reset, or not answered within {}; of so many; (slow): answered after more than {}. \
         within: from the first that\nfailed to the last. no service: the longest time in which none succeeded. \
         Times are medians of the repeats, with the longest in brackets where it differs.\n\
         {}",
        ms(INTERVAL),
        ms(TIMEOUT),
        ms(SLOW),
        table::footer(facts, took)
    )
}

fn row(incident: Incident, kind: Kind, samples: &[&Sample]) -> Vec<String> {
    let sum = |count: fn(&Sample) -> usize| samples.iter().map(|sample| count(sample)).sum::<usize>();
    let times = |time: fn(&Sample) -> Option<u64>| {
        samples.iter().filter_map(|sample| time(sample)).map(Duration::from_micros).collect::<Vec<_>>()
    };
    let noticed =
        match (Summary::of(&times(|s| s.noticed_median_us)), times(|s| s.noticed_last_us).iter().max()) {
            (Some(median), Some(last)) => format!("{}, {}", seconds(median.median), seconds(*last)),
            _ => String::new(),
        };
    let hung = sum(|s| s.hung);
    let silent = sum(|s| s.silent_at_end);
    let longest = times(|s| Some(s.longest_hang_us)).into_iter().max().filter(|_| hung > 0);
    let longest = longest.map_or_else(String::new, |longest| {
        format!("{}{}", if silent > 0 { "> " } else { "" }, seconds(longest))
    });
    let slow = match sum(|s| s.slow) {
        0 => String::new(),
        slow => format!(" ({slow} slow)"),
    };
    let (broken, elsewhere) = (sum(|s| s.broken), sum(|s| s.broken_elsewhere));
    let there = if incident.harms_server() { format!("{elsewhere} elsewhere, ") } else { String::new() };
    vec![
        incident.title().to_owned(),
        kind.title().to_owned(),
        samples.len().to_string(),
        format!("{there}{broken} of {}", sum(|s| s.streams)),
        noticed,
        hung.to_string(),
        longest,
        format!("{} of {}{slow}", sum(|s| s.failed), sum(|s| s.requests)),
        spread_of(&times(|s| Some(s.failing_us))),
        spread_of(&times(|s| Some(s.outage_us))),
        note(incident, samples),
    ]
}

/// What only this incident has.
fn note(incident: Incident, samples: &[&Sample]) -> String {
    let Some(sample) = samples.last() else { return String::new() };
    match incident {
        Incident::ServerUnready => {
            let asked = samples.iter().filter_map(|sample| sample.unready_asked_us).max();
            format!("asked for {} more", seconds(Duration::from_micros(asked.unwrap_or(0))))
        }
        Incident::ServerBack => {
            let took = sample.spread_us.map_or_else(
                || "never even".to_owned(),
                |us| format!("even after {}", seconds(Duration::from_micros(us))),
            );
            format!("{} -> {}, {took}", spread(&sample.spread_before), spread(&sample.spread_after))
        }
        _ => String::new(),
    }
}

/// The streams of each API server, in the order of their names; one that has none is not there.
fn spread(servers: &BTreeMap<String, usize>) -> String {
    let all = ["master1", "master2", "master3"];
    let counts = all.map(|name| servers.get(name).copied().unwrap_or(0).to_string());
    counts.join("/")
}

fn spread_of(times: &[Duration]) -> String {
    match Summary::of(times) {
        None => String::new(),
        Some(sum) if sum.max.is_zero() => "0".to_owned(),
        Some(sum) if seconds(sum.max) == seconds(sum.median) => seconds(sum.median),
        Some(sum) => format!("{} ({})", seconds(sum.median), seconds(sum.max)),
    }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) { ms(time) } else { format!("{:.1} s", time.as_secs_f64()) }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{facts, row, tells};
    use super::*;

    fn sample(incident: Incident, broken: usize, noticed_s: u64) -> Sample {
        let noticed = (broken > 0).then_some(noticed_s * 1_000_000);
        Sample {
            incident,
            streams: 200,
            broken,
            broken_elsewhere: 0,
            broken_how: BTreeMap::new(),
            hung: broken,
            longest_hang_us: noticed_s * 1_000_000,
            noticed_median_us: noticed,
            noticed_last_us: noticed,
            silent_at_end: 0,
            requests: 500,
            failed: broken / 2,
            failed_how: BTreeMap::new(),
            slow: 1,
            outage_us: noticed_s * 100_000,
            failing_us: noticed_s * 100_000,
            pause_us: 11_000,
            spread_before: BTreeMap::from([("master2".to_owned(), 150), ("master3".to_owned(), 150)]),
            spread_after: BTreeMap::new(),
            spread_us: None,
            unready_asked_us: Some(2_500_000),
            undone: None,
        }
    }

    #[test]
    fn the_table_has_both_pairs_and_where_the_figures_come_from() {
        let facts = facts("cargo xtask bench survive");
        let measured = |stack, sample| Measured { stack, repeat: 0, sample };
        let samples = [
            measured(Kind::Incumbent, sample(Incident::Stop, 200, 29)),
            measured(Kind::Incumbent, sample(Incident::Stop, 200, 31)),
            measured(Kind::Xvip, sample(Incident::Stop, 0, 0)),
            measured(Kind::Xvip, sample(Incident::ServerKilled, 67, 1)),
            measured(Kind::Incumbent, sample(Incident::ServerBack, 0, 0)),
            measured(Kind::Incumbent, sample(Incident::ServerUnready, 0, 0)),
        ];
        let text = text(&samples, &facts, Duration::from_secs(9));
        let row = |one, other| row(&text, one, other);
        let theirs = row("graceful stop", "HAProxy + keepalived");
        assert_eq!(theirs[2..6], ["2", "400 of 400", "30.0 s, 31.0 s", "400"]);
        assert_eq!(theirs[6..10], ["31.0 s", "200 of 1000 (2 slow)", "3.0 s (3.1 s)", "3.0 s (3.1 s)"]);
        assert_eq!(
            row("graceful stop", "xvip, defaults")[3..],
            ["0 of 200", "0", "0 of 500 (1 slow)", "0", "0"]
        );
        assert_eq!(row("API server killed", "xvip")[3], "0 elsewhere, 67 of 200");
        assert_eq!(row("API server returns", "HAProxy").last().unwrap(), "0/150/150 -> 0/0/0, never even");
        assert_eq!(row("API server not ready", "HAProxy").last().unwrap(), "asked for 2.5 s more");
        assert!(tells(&text, &facts), "{text}");
    }
}
