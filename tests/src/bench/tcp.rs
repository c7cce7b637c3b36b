//! What a balancer costs its clients and its machine: xvip beside HAProxy as the customers configure it, nftables, and no
//! balancer at all.
//!
//! All stacks are in one lab ([`stacks`]) on one machine, clients and servers included. In each round each figure is
//! measured with each stack, one right after the other, and beginning with another one each time. As many threads of
//! clients as there are processors ask, so the machine has nothing left to do: what a stack reaches is what is left of the
//! machine when it has had its part. The work of clients and servers is the same for all; "direct" is nothing else.
//!
//! What a stack costs is the time that all processors together were busy, for each thing that was done, less what the same
//! thing costs directly in the same round.

mod fixed_nat;
mod masquerade;
mod memory;
mod router;
mod stacks;

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use lb_load::client::Outcome;
use lb_load::message::{ANSWER, REQUEST};

use super::facts::Facts;
use super::report::{Goal, Report, Role, Wanted};
use super::series::{Spread, Unit};
use super::table::{Progress, chosen};
use crate::interrupt::Interrupt;
use crate::topology::find_program;
use stacks::{Cables, Crowd, Stack, Stacks, drive};

/// Above this share of failures among what was done a figure tells nothing.
const TOLERABLE: f64 = 0.001;
/// Of idle connections so many may be missing: each is counted by itself.
const MISSING: f64 = 0.01;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Figure {
    /// Connections that are opened, used once and closed: how many a second.
    Connections,
    /// Requests on connections that stay open: how many a second.
    Requests,
    /// How long a request takes, at a fixed rate.
    Latency,
    /// Bytes from the servers, as many as come.
    Bulk,
    /// Memory of idle connections.
    Memory,
}

impl Figure {
    const ALL: [Self; 5] = [Self::Connections, Self::Requests, Self::Latency, Self::Bulk, Self::Memory];

    /// For `xvip-lab client drive`.
    fn work(self) -> &'static str {
        match self {
            Self::Connections => "connect",
            Self::Requests => "request",
            Self::Latency => "paced",
            Self::Bulk => "bulk",
            Self::Memory => "hold",
        }
    }

    /// What the rate is called in the report, in what it is, and what one unit of its cost is called.
    fn names(self) -> (&'static str, Unit, &'static str) {
        match self {
            Self::Connections => ("new connections", Unit::PerSecond, "CPU per new connection"),
            Self::Requests => ("requests", Unit::PerSecond, "CPU per request"),
            Self::Latency => ("requests at a fixed rate", Unit::PerSecond, ""),
            Self::Bulk => ("bulk", Unit::BitsPerSecond, "CPU per GB"),
            Self::Memory => ("memory", Unit::Bytes, ""),
        }
    }
}

/// What to measure, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    wanted: Wanted,
    /// Only these figures
    #[arg(long, value_delimiter = ',', value_name = "FIGURE,...")]
    figure: Vec<Figure>,
    /// Only these stacks
    #[arg(long, value_delimiter = ',', value_name = "STACK,...")]
    stack: Vec<Stack>,
    /// Milliseconds that each stack is measured for each figure in each round
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..))]
    measure_ms: u32,
    /// Milliseconds before that
    #[arg(long, default_value_t = 250)]
    warm_up_ms: u32,
    /// Connections at a time, for new connections, requests and latency
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=500))]
    connections: u32,
    /// Connections of the bulk transfer
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    bulk_connections: u32,
    /// Requests a second, for the latency
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Join received frames at the client, the servers, HAProxy and nftables (GRO)
    #[arg(long)]
    gro: bool,
    /// Leave segmentation and checksums to whoever sends to a real network, as a veth does where nobody says otherwise;
    /// native XDP does not work with that
    #[arg(long, conflicts_with = "native")]
    offloads: bool,
    /// Attach XDP natively, as on a network card; on a veth the generic mode is the faster one
    #[arg(long)]
    native: bool,
    /// Idle connections, for the memory
    #[arg(long, default_values_t = [1000, 10_000, 100_000], value_delimiter = ',', value_name = "COUNT,...")]
    idle: Vec<usize>,
    /// Rounds of the memory: it is the same each time
    #[arg(long, default_value_t = 3)]
    idle_repeats: u32,
}

/// Measures and prints.
///
/// # Errors
/// When something could not be measured, after printing what could, or when interrupted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    // HAProxy takes what it inherits.
    let descriptors = usize::try_from(lb_load::raise_descriptor_limit()).unwrap_or(usize::MAX);
    let facts = Facts::find(&find_program("xvip", "XVIP_BIN")?)?.and("haproxy", "-v")?.and("nft", "-v")?;
    let progress = Progress::new();
    progress.say("building the lab");
    let stacks =
        Stacks::start(Cables { joined: options.gro, offloads: options.offloads, native: options.native })?;
    let mut report = Report::new("tcp", &about(options), facts);
    for (name, value) in [
        ("measure_ms", options.measure_ms),
        ("warm_up_ms", options.warm_up_ms),
        ("connections", options.connections),
        ("bulk_connections", options.bulk_connections),
        ("rate", options.rate),
        ("request_bytes", REQUEST as u32),
        ("answer_bytes", ANSWER),
    ] {
        report.parameter(name, value);
    }
    report.parameter("gro", options.gro);
    report.parameter("offloads", options.offloads);
    report.parameter("native", options.native);
    report.parameter("descriptors", descriptors);
    let directly = BTreeMap::new();
    let mut bench =
        Bench { options, interrupt: &interrupt, progress: &progress, stacks, report, descriptors, directly };
    let measured = bench.measure();
    if measured.is_err() && !interrupt.asked() {
        progress.say(&format!("the ends of the logs:\n{}", bench.stacks.last_lines()));
    }
    measured?;
    let Bench { mut report, stacks, .. } = bench;
    drop(stacks);
    compare(&mut report, options);
    report.finish(&options.wanted, &progress)
}

fn about(options: &Options) -> String {
    format!(
        "What a balancer costs its clients and its machine. All stacks in one lab on one machine, three servers behind each, \
         clients and servers included;\nplain TCP, requests of {REQUEST} bytes, answers of {ANSWER}, {} connections at a \
         time; {}{}; XDP {}. CPU: time that all \
         processors\nwere busy, of the whole lab, less what the same costs directly in the same round.",
        options.connections,
        if options.offloads {
            "offloads of segmentation and checksums"
        } else {
            "frames of at most 1,514 bytes, no offloads"
        },
        if options.gro { " but GRO where they are received" } else { "" },
        if options.native { "in native mode" } else { "in generic mode" },
    )
}

struct Bench<'a> {
    options: &'a Options,
    interrupt: &'a Interrupt,
    progress: &'a Progress,
    stacks: Stacks,
    report: Report,
    /// How many a process may have.
    descriptors: usize,
    /// What a round's figures are without a balancer: what is taken off.
    directly: BTreeMap<(usize, String), f64>,
}

impl Bench<'_> {
    fn measure(&mut self) -> anyhow::Result<()> {
        let figures = chosen(&self.options.figure, &Figure::ALL);
        for round in 0..self.options.wanted.rounds() {
            for figure in figures.iter().filter(|figure| **figure != Figure::Memory) {
                for stack in self.in_turn(round) {
                    let what = || format!("{}, {}", figure.names().0, stack.title());
                    self.once(round, *figure, stack).with_context(what)?;
                }
                self.costs(round, *figure);
            }
        }
        if figures.contains(&Figure::Memory) {
            for round in 0..self.options.idle_repeats as usize {
                // What was measured until then is worth its while.
                if let Err(error) = self.memory(round) {
                    ensure!(!self.interrupt.asked(), "interrupted");
                    self.report.fail(&format!("memory: {error:#}"));
                    break;
                }
            }
        }
        Ok(())
    }

    /// All stacks that are measured, beginning with another one each round.
    fn in_turn(&self, round: usize) -> Vec<Stack> {
        in_turn(chosen(&self.options.stack, &Stack::ALL), round)
    }

    fn once(&mut self, round: usize, figure: Figure, stack: Stack) -> anyhow::Result<()> {
        ensure!(!self.interrupt.asked(), "interrupted");
        ensure!(self.stacks.is_whole(), "somebody has ended");
        let outcome = drive(&self.stacks, &self.words(figure, stack))?;
        let Outcome { seconds, done, failed, bytes, busy_seconds, .. } = outcome;
        let (name, unit, _) = figure.names();
        let amount = if figure == Figure::Bulk { bytes as f64 * 8.0 } else { done as f64 };
        self.progress.say(&format!(
            "round {}: {name}, {}: {}, {:.2} processors busy{}",
            round + 1,
            stack.title(),
            unit.text(amount / seconds),
            busy_seconds / seconds,
            if failed > 0 { format!(", {failed} failed") } else { String::new() }
        ));
        if failed as f64 > done as f64 * TOLERABLE || amount == 0.0 {
            let why = outcome.first_failure.unwrap_or_default();
            self.report.fail(&format!("{name}, {}: {failed} failed beside {done} ({why})", stack.title()));
            return Ok(());
        }
        let subject = stack.title();
        if figure == Figure::Latency {
            let latency = outcome.latency.context("no latency")?;
            for (name, ns) in [("p50", latency.p50_ns), ("p99", latency.p99_ns), ("p99.9", latency.p999_ns)] {
                let name = self.latency_name(name);
                self.report.record(round, &name, subject, Unit::Seconds, ns as f64 / 1e9);
            }
        } else {
            self.report.record(round, name, subject, unit, amount / seconds);
        }
        // What ended in the warm-up and what did not end are about as much as began before and ended within.
        let each = if figure == Figure::Bulk { bytes as f64 / 1e9 } else { done as f64 };
        self.directly.insert((round, format!("{name}, {subject}")), busy_seconds / each);
        Ok(())
    }

    fn words(&self, figure: Figure, stack: Stack) -> Vec<String> {
        let options = self.options;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let connections = if figure == Figure::Bulk { options.bulk_connections } else { options.connections };
        let mut words = vec![
            "--work".to_owned(),
            figure.work().to_owned(),
            format!("--connections={connections}"),
            format!("--threads={threads}"),
            format!("--rate={}", options.rate),
            format!("--warm-up-ms={}", options.warm_up_ms),
            format!("--measure-ms={}", options.measure_ms),
        ];
        words.extend(self.stacks.addresses(stack).iter().map(|address| format!("--to={address}")));
        words
    }

    fn latency_name(&self, percentile: &str) -> String {
        format!("latency {percentile} at {}/s", self.options.rate)
    }

    /// What each stack needs more than nothing.
    fn costs(&mut self, round: usize, figure: Figure) {
        // At a fixed rate most of the time goes into waking somebody, and the machine's other work shows more than ours.
        if figure == Figure::Latency {
            return;
        }
        let (name, _, cost) = figure.names();
        let of = |stack: Stack| self.directly.get(&(round, format!("{name}, {}", stack.title()))).copied();
        let Some(direct) = of(Stack::Direct) else { return };
        for stack in Stack::ALL.into_iter().filter(|stack| *stack != Stack::Direct) {
            if let Some(each) = of(stack) {
                self.report.record(round, cost, stack.title(), Unit::Seconds, each - direct);
            }
        }
    }

    /// Those of the stacks that are measured which hold connections.
    fn holding(&self) -> Vec<Stack> {
        let wanted = chosen(&self.options.stack, &Stack::ALL);
        Stack::HOLDING.into_iter().filter(|stack| wanted.contains(stack)).collect()
    }

    fn memory(&mut self, round: usize) -> anyhow::Result<()> {
        for connections in self.options.idle.clone() {
            let crowd = Crowd { connections, descriptors: self.descriptors };
            self.stacks.serve(crowd)?;
            // What the kernel keeps when connections end, it has for those that come next: the first would pay for all.
            memory::hold(&self.stacks, Stack::Direct, crowd)?;
            let mut directly = None;
            for stack in self.holding() {
                ensure!(!self.interrupt.asked(), "interrupted");
                let what = || format!("{connections} idle connections, {}", stack.title());
                if stack == Stack::Haproxy {
                    self.stacks.restart_haproxy(Some(crowd))?;
                }
                let held = memory::hold(&self.stacks, stack, crowd).with_context(what)?;
                let count = held.connections as usize;
                self.progress.say(&format!(
                    "round {}: {connections} idle connections, {}: {count} held, {}",
                    round + 1,
                    stack.title(),
                    Unit::Bytes.text(held.bytes),
                ));
                if count == 0 || (count as f64) < connections as f64 * (1.0 - MISSING) {
                    let why = held.failure.unwrap_or_default();
                    self.report.fail(&format!("{}: only {count} ({why})", what()));
                    continue;
                }
                let each = held.bytes / count as f64;
                match (stack, directly) {
                    (Stack::Direct, _) => directly = Some(each),
                    (_, Some(directly)) => {
                        let each = each - directly;
                        let figure = idle_name(connections);
                        self.report.record(round, &figure, stack.title(), Unit::Bytes, each);
                    }
                    (_, None) => {}
                }
            }
        }
        if self.holding().contains(&Stack::Haproxy) {
            self.stacks.restart_haproxy(None)?;
            // As many as there are, of those that are fewer than the first number that customers ask for.
            let asked = self.options.idle.first().copied().unwrap_or(1000).max(1000);
            let crowd = Crowd { connections: asked, descriptors: self.descriptors };
            let held = memory::hold(&self.stacks, Stack::Haproxy, crowd)?;
            let figure = format!("connections held of {asked}");
            let subject = "HAProxy, limits as configured";
            self.report.record(round, &figure, subject, Unit::Count, held.connections as f64);
        }
        Ok(())
    }
}

fn in_turn(mut stacks: Vec<Stack>, round: usize) -> Vec<Stack> {
    let count = stacks.len().max(1);
    stacks.rotate_left(round % count);
    stacks
}

fn idle_name(connections: usize) -> String {
    format!("memory per idle connection, {}", Unit::Count.text(connections as f64))
}

/// Everything with what it is to be measured by.
fn compare(report: &mut Report, options: &Options) {
    let [direct, nat, haproxy, nftables] =
        [Stack::Direct, Stack::Nat, Stack::Haproxy, Stack::Nftables].map(Stack::title);
    let latency = |percentile: &str| format!("latency {percentile} at {}/s", options.rate);
    for (figure, goal) in [
        ("new connections".to_owned(), Some(Goal::AtLeast(0.88))),
        ("requests".to_owned(), Some(Goal::AtLeast(0.88))),
        (latency("p50"), Some(Goal::AtMost(1.15))),
        (latency("p99"), Some(Goal::AtMost(1.4))),
        (latency("p99.9"), None),
        ("bulk".to_owned(), Some(Goal::AtLeast(0.6))),
    ] {
        report.compare(&figure, nat, direct, Role::Floor, goal);
        report.compare_all(&figure, direct, Role::Floor);
        report.compare_all(&figure, haproxy, Role::Peer);
    }
    for figure in [Figure::Connections, Figure::Requests, Figure::Bulk].map(|figure| figure.names().2) {
        let goal = |limit| Some(Goal::AtMost(limit));
        report.compare(figure, nat, haproxy, Role::Peer, goal(0.2));
        report.compare_all(figure, haproxy, Role::Peer);
        beside(report, figure, nftables, goal(0.5));
    }
    for figure in [Figure::Connections, Figure::Requests, Figure::Bulk].map(|figure| figure.names().0) {
        for way in [Stack::FixedNat, Stack::FixedNatTcx, Stack::Forwarding] {
            beside(report, figure, way.title(), None);
        }
    }
    for connections in &options.idle {
        let figure = idle_name(*connections);
        report.compare(&figure, nat, haproxy, Role::Peer, Some(Goal::AtMost(0.05)));
        report.compare_all(&figure, haproxy, Role::Peer);
    }
    report.note(
        "HAProxy: the customers' configuration; for the memory with its limits raised. latency: each request is due at a \
         fixed time, and counts from then. Memory: of the kernel and of the balancer's process.",
    );
}

/// xvip's `nat` beside another stack, below the table, which has room for one peer.
fn beside(report: &mut Report, figure: &str, other: &str, goal: Option<Goal>) {
    let nat = Stack::Nat.title();
    let both = report.series(figure, nat).zip(report.series(figure, other));
    if let Some(ratio) = both.and_then(|(nat, other)| nat.ratio(other)) {
        report.note(&beside_other(figure, other, &ratio, goal));
    }
}

fn beside_other(figure: &str, other: &str, ratio: &Spread, goal: Option<Goal>) -> String {
    let verdict = match goal {
        Some(goal @ (Goal::AtMost(limit) | Goal::AtLeast(limit))) => {
            format!(", goal {limit}: {}", if goal.is_met(ratio.median) { "met" } else { "missed" })
        }
        None => String::new(),
    };
    format!("{figure}, xvip nat / {other}: {}{verdict}.", Unit::Ratio.text(ratio.median))
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::facts;
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        options: Options,
    }

    fn options(words: &[&str]) -> Options {
        Program::try_parse_from(["bench"].iter().chain(words)).map(|program| program.options).unwrap()
    }

    #[test]
    fn what_customers_wait_for_is_compared_with_nothing_and_what_it_costs_with_the_others() {
        let options = options(&["--idle", "1000"]);
        let mut report = Report::new("tcp", "", facts("cargo xtask bench tcp"));
        let stacks = Stack::HOLDING.map(Stack::title);
        for (stack, speed) in stacks.into_iter().zip([10.0, 9.0, 9.5, 4.7, 7.1]) {
            report.record(0, "requests", stack, Unit::PerSecond, speed);
        }
        for (stack, cost) in stacks.into_iter().zip([0.0, 2e-6, 1e-6, 36e-6, 5e-6]).skip(1) {
            report.record(0, "CPU per request", stack, Unit::Seconds, cost);
        }
        for (stack, bytes) in stacks.into_iter().zip([0.0, 336.0, 200.0, 7500.0, 600.0]).skip(1) {
            report.record(0, &idle_name(1000), stack, Unit::Bytes, bytes);
        }
        compare(&mut report, &options);
        let ratio = |figure: &str, subject: &str, role: Role| {
            let found = report.comparison(figure, subject, role).unwrap();
            (Unit::Ratio.text(found.ratio.median), found.base.as_str(), found.goal)
        };
        let nat = "xvip, nat";
        assert_eq!(ratio("requests", nat, Role::Floor), ("0.90".into(), "direct", Some(Goal::AtLeast(0.88))));
        assert_eq!(ratio("requests", "HAProxy", Role::Floor), ("0.47".into(), "direct", None));
        assert_eq!(ratio("requests", "nftables", Role::Peer), ("1.51".into(), "HAProxy", None));
        let cost = ratio("CPU per request", nat, Role::Peer);
        assert_eq!(cost, ("0.06".into(), "HAProxy", Some(Goal::AtMost(0.2))));
        let memory = ratio("memory per idle connection, 1,000", nat, Role::Peer);
        assert_eq!(memory, ("0.04".into(), "HAProxy", Some(Goal::AtMost(0.05))));
    }

    #[test]
    fn the_second_peer_is_told_in_words() {
        let ratio = Spread::of([0.4]).unwrap();
        let said = beside_other("CPU per GB", "nftables", &ratio, Some(Goal::AtMost(0.5)));
        assert_eq!(said, "CPU per GB, xvip nat / nftables: 0.40, goal 0.5: met.");
        let ratio = Spread::of([0.6]).unwrap();
        assert!(
            beside_other("CPU per GB", "nftables", &ratio, Some(Goal::AtMost(0.5))).ends_with(": missed.")
        );
        assert_eq!(beside_other("CPU", "nftables", &ratio, None), "CPU, xvip nat / nftables: 0.60.");
    }

    #[test]
    fn no_stack_is_always_the_first() {
        let firsts: Vec<_> =
            (0..Stack::ALL.len()).map(|round| in_turn(Stack::ALL.to_vec(), round)[0]).collect();
        assert_eq!(firsts, Stack::ALL);
        assert_eq!(options(&[]).idle, [1000, 10_000, 100_000]);
        assert_eq!(options(&["--stack", "nat,dsr-l2"]).stack, [Stack::Nat, Stack::DsrL2]);
    }
}
