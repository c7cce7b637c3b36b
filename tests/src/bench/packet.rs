//! What a packet costs in the XDP programs, in nanoseconds above a program of two instructions: in each mode, for each kind
//! of packet, by how many flows, backends and services there are; and in Katran for the same packets, where somebody has
//! built it.
//!
//! The method is [`crate::rig`]'s. All programs stay loaded, with all flows in their tables, and each round runs through all
//! cases; before each the floor is measured anew. Most are run again and again on one buffer; some also as live frames. That each packet became what it should is seen by the programs' own
//! counters.

mod cases;
mod hardware;
mod katran;
mod plane;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use super::facts::Facts;
use super::plot::Curves;
use super::report::{Goal, Report, Role, Wanted};
use super::series::{Series, Spread, Unit};
use super::table::{self, Progress};
use crate::interrupt::Interrupt;
use crate::rig::{Form, Prepared, Rig};
use cases::{Case, FEW, FLOWS, KATRAN, Packets, Plane};
use hardware::Hardware;
use plane::{Loaded, NEW_FLOWS, Scale};

/// Packets of a measurement that begin a flow each: fewer than Katran takes in a second before it spares its table.
const NEW_AT_ONCE: u32 = 100_000;
/// Then it has forgotten them.
const KATRAN_FORGETS: Duration = Duration::from_millis(1100);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    wanted: Wanted,
    /// Packets of one measurement
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// No case with more flows than this
    #[arg(long, default_value_t = 1 << 20)]
    flows: u32,
    /// Entries that the tables of flows have room for; a flow in nat takes two
    #[arg(long, default_value_t = 1 << 22, value_parser = clap::value_parser!(u32).range(1024..))]
    table: u32,
    /// The CPU to measure on; the last one that this process may use if it is not given
    #[arg(long)]
    cpu: Option<u32>,
    /// Katran's balancer as you have built it (balancer.bpf.o), to measure beside; or in the variable XVIP_KATRAN
    #[arg(long, value_name = "FILE")]
    katran: Option<PathBuf>,
    /// Only cases whose "packets: program" has one of these in it
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
}

/// A case that is ready to be measured.
struct Ready {
    case: Case,
    prepared: Prepared,
}

/// Measures and prints.
///
/// # Errors
/// When something could not be measured, or when interrupted.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let facts = Facts::of_machine()?;
    let progress = Progress::new();
    let katran = options.katran.clone().or_else(|| std::env::var_os("XVIP_KATRAN").map(PathBuf::from));
    let cpu = options.cpu.map_or_else(last_cpu, Ok)?;
    let scale = Scale { table: options.table, cpu, katran };
    let mut report = Report::new(
        "packet",
        "Time per packet in the XDP program, by BPF_PROG_TEST_RUN; each packet is written anew before the program runs.",
        facts,
    );
    report.parameter("packets", options.packets);
    report.parameter("packets_new", options.packets.min(NEW_AT_ONCE));
    report.parameter("table_entries", options.table);
    report.parameter("cpu", cpu);
    report.parameter("katran", scale.katran.is_some());

    let named = |case: &Case| options.only.is_empty() || options.only.iter().any(|part| case.is_called(part));
    let mut cases = cases::all(options.flows, scale.katran.is_some());
    cases.retain(named);
    ensure!(!cases.is_empty(), "no case is called {}", options.only.join(" or "));
    let mut planes = load(&cases, &scale, &progress, &mut report, &interrupt)?;
    // Threads that open flows would be tied, too.
    let rig = Rig::pinned(cpu as usize).with_context(|| format!("CPU {cpu}"))?;
    let mut bench = Bench { report, hardware: Hardware::find(), packets: options.packets };
    bench.report.parameter("hardware_counters", bench.hardware.is_some());
    let mut ready = vec![];
    for case in cases {
        let Some(loaded) = planes.get(&case.plane) else { continue };
        match loaded.prepare(&rig, &case) {
            Ok(prepared) => ready.push(Ready { case, prepared }),
            Err(error) => bench.report.fail(&format!("{}: {}: {error:#}", case.group, case.subject)),
        }
    }
    for round in 0..options.wanted.rounds() {
        for Ready { case, prepared } in &ready {
            ensure!(!interrupt.asked(), "interrupted");
            let Some(loaded) = planes.get_mut(&case.plane) else { continue };
            if let Err(error) = bench.measure(round, case, prepared, loaded) {
                bench.report.fail(&format!("{}: {}: {error:#}", case.group, case.subject));
            }
        }
        progress.say(&format!("round {} of {} is over", round + 1, options.wanted.repeats));
    }
    let mut report = bench.report;
    let cases: Vec<_> = ready.iter().map(|ready| &ready.case).collect();
    compare(&mut report, &cases);
    let table = table(&report, &cases);
    report.finish_with(&table, &options.wanted, &progress)
}

/// The last CPU that this thread may use: the first one is where interrupts are likely to come in.
fn last_cpu() -> anyhow::Result<u32> {
    let cpus = sched_getaffinity(Pid::from_raw(0)).context("which CPUs there are")?;
    let last = (0..CpuSet::count()).rev().find(|cpu| cpus.is_set(*cpu).unwrap_or(false));
    Ok(last.context("no CPU")? as u32)
}

/// Loads what the cases need.
fn load(
    cases: &[Case],
    scale: &Scale,
    progress: &Progress,
    report: &mut Report,
    interrupt: &Interrupt,
) -> anyhow::Result<BTreeMap<Plane, Loaded>> {
    let mut of: BTreeMap<Plane, Vec<&Case>> = BTreeMap::new();
    for case in cases {
        of.entry(case.plane).or_default().push(case);
    }
    let mut planes = BTreeMap::new();
    for (plane, cases) in of {
        ensure!(!interrupt.asked(), "interrupted");
        progress.say(&format!("{plane:?}: loading, and opening flows"));
        let loaded = Loaded::load(plane, &cases, scale).with_context(|| format!("{plane:?}"));
        match loaded.and_then(|loaded| Ok((loaded.sizes()?, loaded))) {
            Ok((sizes, loaded)) => {
                if let Some([entry, all]) = sizes.filter(|_| [Plane::Nat, Plane::Katran].contains(&plane)) {
                    let name = if plane == Plane::Katran { KATRAN } else { "xvip" };
                    report.parameter(
                        &format!("size_{}", name.to_ascii_lowercase()),
                        serde_json::json!({
                            "entry_instructions": entry.instructions,
                            "entry_machine_code_bytes": entry.machine_code,
                            "all_instructions": all.instructions,
                            "all_machine_code_bytes": all.machine_code,
                        }),
                    );
                    report.note(&format!(
                        "{name}: {} instructions, {} of machine code in the program that packets enter by; with all that \
                         it goes on to {} and {}.",
                        Unit::Count.text(entry.instructions.into()),
                        Unit::Bytes.text(entry.machine_code.into()),
                        Unit::Count.text(all.instructions.into()),
                        Unit::Bytes.text(all.machine_code.into()),
                    ));
                }
                planes.insert(plane, loaded);
            }
            Err(error) => report.fail(&format!("{error:#}")),
        }
    }
    Ok(planes)
}

struct Bench {
    report: Report,
    hardware: Option<Hardware>,
    packets: u32,
}

impl Bench {
    /// One measurement: the floor, and the program.
    fn measure(
        &mut self,
        round: usize,
        case: &Case,
        prepared: &Prepared,
        loaded: &mut Loaded,
    ) -> anyhow::Result<()> {
        let is_new = case.packets == Packets::New;
        let packets = if is_new { self.packets.min(NEW_AT_ONCE) } else { self.packets };
        if case.plane == Plane::KatranNew {
            thread::sleep(KATRAN_FORGETS);
        }
        let first = (round as u64 * u64::from(packets)) % u64::from(NEW_FLOWS);
        let before = loaded.count(case.packets)?;
        let (floor_ns, floor_counts) = self.counted(|| prepared.run_floor(first, packets))?;
        let ((action, ns), counts) = self.counted(|| prepared.run_program(first, packets))?;
        let after = loaded.count(case.packets)?;
        became(before, after, packets).with_context(|| format!("action {action}"))?;
        let Names { time, floor, net } = Names::of(case);
        let report = &mut self.report;
        report.record(round, &time, &case.subject, Unit::Nanoseconds, ns);
        report.record(round, &time, &floor, Unit::Nanoseconds, floor_ns);
        report.record(round, &net, &case.subject, Unit::Nanoseconds, ns - floor_ns);
        for ((name, program), (_, floor)) in counts.into_iter().zip(floor_counts) {
            let unit = if name == INSTRUCTIONS { Unit::Instructions } else { Unit::Count };
            let each = (program as f64 - floor as f64) / f64::from(packets);
            report.record(round, &Names::counted(case, name), &case.subject, unit, each);
        }
        Ok(())
    }

    /// Runs something with the CPU's counters around it, where there are any.
    fn counted<T>(
        &mut self,
        work: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<(T, Vec<(&'static str, u64)>)> {
        match &mut self.hardware {
            Some(hardware) => hardware.around(work),
            None => Ok((work()?, vec![])),
        }
    }
}

/// Whether as many packets became what they should as there were, by the program's counters before and after; a program
/// without counters is believed.
fn became(before: Option<u64>, after: Option<u64>, packets: u32) -> anyhow::Result<()> {
    let (Some(before), Some(after)) = (before, after) else { return Ok(()) };
    let had = after.saturating_sub(before);
    ensure!(had == u64::from(packets), "{had} of {packets} packets became what they should");
    Ok(())
}

/// How a case's series are called.
struct Names {
    time: String,
    floor: String,
    net: String,
}

impl Names {
    fn of(case: &Case) -> Self {
        Self {
            time: format!("{}, time", case.group),
            floor: format!("floor of {}", case.subject),
            net: format!("{}, net time", case.group),
        }
    }

    /// What the CPU counted for it, without the floor.
    fn counted(case: &Case, name: &str) -> String {
        format!("{}, net {name}", case.group)
    }
}

/// What [`Hardware`] calls them.
const INSTRUCTIONS: &str = "instructions";
const CYCLES: &str = "cycles";

/// How the net time grows with something: the figure, and what the ratio ought to be.
const BY_FLOWS: (&str, Goal) = ("net time with 1 M flows by that with 1 k", Goal::AtMost(2.0));
/// Likewise; two measurements of the same differ by as much.
const BY_BACKENDS: (&str, Goal) = ("net time with 1,000 backends by that with 3", Goal::AtMost(1.1));

/// Compares everything with its floor, with Katran for the same packets, and with itself for fewer flows.
fn compare(report: &mut Report, cases: &[&Case]) {
    for case in cases {
        let Names { time, floor, net } = Names::of(case);
        report.compare(&time, &case.subject, &floor, Role::Floor, case.of_floor);
        if case.subject != KATRAN && case.plane != Plane::Pass {
            report.compare(&net, &case.subject, KATRAN, Role::Peer, case.of_katran);
        }
        report.draw(&net);
    }
    let net = |case: &Case| report.series(&Names::of(case).net, &case.subject).cloned();
    let four = || {
        let is_meant = |case: &&&Case| {
            case.form == Form::Repeated && !case.is_v6() && case.group.starts_with("established, IPv4, ")
        };
        cases.iter().filter(is_meant)
    };
    let mut lines: BTreeMap<&str, Vec<(f64, Spread)>> = BTreeMap::new();
    let mut grown = vec![];
    for case in four() {
        let Some(series) = net(case) else { continue };
        if let Some(spread) = series.spread() {
            lines.entry(&case.subject).or_default().push((case.flows().into(), spread));
        }
        let fewer = |subject: &str| four().find(|few| few.subject == subject && few.flows() == FEW);
        if Some(&case.flows()) == FLOWS.last() {
            grown.extend(fewer(&case.subject).and_then(|few| Some((BY_FLOWS, series.clone(), net(few)?))));
        }
        if case.plane == Plane::ManyBackends {
            let few = four().find(|few| few.plane == Plane::FewBackends);
            grown.extend(few.and_then(|few| Some((BY_BACKENDS, series.clone(), net(few)?))));
        }
    }
    let lines = lines.into_iter().filter(|(_, line)| line.len() > 1);
    let lines = lines.map(|(name, line)| (name.to_owned(), line)).collect();
    report.plot(Curves {
        title: "Net time by flows".to_owned(),
        x: "flows".to_owned(),
        unit: Unit::Nanoseconds,
        lines,
    });
    for ((figure, goal), more, fewer) in grown {
        let Series { subject, samples, .. } = &more;
        for (round, pair) in samples.iter().zip(&fewer.samples).enumerate() {
            if let (Some(more), Some(fewer)) = pair {
                report.record(round, figure, subject, Unit::Ratio, more / fewer);
            }
        }
        if subject != KATRAN {
            report.expect(figure, subject, goal);
        }
    }
}

/// The table: one line for each case, by packets.
fn table(report: &Report, cases: &[&Case]) -> String {
    let header = [
        "packets",
        "program",
        "n",
        "time",
        "floor",
        "net",
        "middle half",
        "x floor",
        "x Katran's net",
        "goal",
        "net instructions",
        "net cycles",
    ];
    // The last two only where the CPU counts.
    let counts = report.of_unit(Unit::Instructions).next().is_some();
    let columns = if counts { header.len() } else { header.len() - 2 };
    let mut table = table::with_header(&header[..columns], 2..9);
    let mut last = "";
    let middle = |series: Option<&Series>| series.and_then(Series::spread);
    for case in cases {
        let Names { time, floor, net } = Names::of(case);
        let Some(spread) = middle(report.series(&net, &case.subject)) else { continue };
        let text = |figure: &str, subject: &str| {
            let spread = middle(report.series(figure, subject));
            spread.map_or_else(String::new, |spread| Unit::Nanoseconds.text(spread.median))
        };
        let of = [(&time, Role::Floor), (&net, Role::Peer)];
        let compared = of.map(|(figure, role)| report.comparison(figure, &case.subject, role));
        let ratio = |at: usize| compared[at].map_or_else(String::new, |c| Unit::Ratio.text(c.ratio.median));
        let goals = compared.iter().flatten().filter_map(|c| Some(c.goal?.text(c.ratio.median)));
        let counted = |name| {
            let spread = middle(report.series(&Names::counted(case, name), &case.subject));
            spread.map_or_else(String::new, |spread| Unit::Count.text(spread.median))
        };
        let cells = [
            if case.group == last { String::new() } else { case.group.clone() },
            case.subject.clone(),
            spread.count.to_string(),
            text(&time, &case.subject),
            text(&time, &floor),
            Unit::Nanoseconds.text(spread.median),
            spread.middle(Unit::Nanoseconds),
            ratio(0),
            ratio(1),
            goals.collect::<Vec<_>>().join(", "),
            counted(INSTRUCTIONS),
            counted(CYCLES),
        ];
        table.add_row(&cells[..columns]);
        last = &case.group;
    }
    let growth = [BY_FLOWS, BY_BACKENDS].into_iter().flat_map(|(figure, _)| report.of_figure(figure));
    let growth: String = growth
        .filter_map(|series| {
            let median = series.spread()?.median;
            let goal = report.goal(&series.figure, &series.subject);
            let goal = goal.map_or_else(String::new, |goal| format!(", {}", goal.text(median)));
            Some(format!("{}: {} {median:.2}{goal}\n", series.figure, series.subject))
        })
        .collect();
    format!(
        "{table}\nnet: the time without that of a program that only returns XDP_TX, measured right before. Katran does as \
         dsr-ipip does; it has no nat and no dsr-l2.\nnew flows: each packet is the SYN of another one, and the table of \
         half-open flows is full soon.\nlive frames: taken from the kernel's page pool and given back, which is in the floor, too.\n{growth}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{facts, row};
    use super::*;

    #[test]
    fn packets_that_became_something_else_spoil_a_measurement() {
        assert!(became(Some(5), Some(105), 100).is_ok() && became(None, None, 100).is_ok());
        for after in [Some(5), Some(104), Some(106), Some(0)] {
            let error = became(Some(5), after, 100).unwrap_err().to_string();
            assert!(error.contains("of 100 packets"), "{error}");
        }
    }

    /// Two rounds of everything: the floor takes 40 ns, Katran 100 more (with one flow 50), others 10 more for each that
    /// is before them in the list; Katran with a million flows 300.
    fn measured(cases: &[Case]) -> Report {
        let mut report = Report::new("packet", "What it costs.", facts("cargo xtask bench packet"));
        for (nth, case) in cases.iter().enumerate() {
            let Names { time, floor, net } = Names::of(case);
            let more = match (case.subject.as_str(), case.flows()) {
                (KATRAN, 1) => 50.0,
                (KATRAN, 0x10_0000) => 300.0,
                (KATRAN, _) => 100.0,
                _ => 10.0 * (nth % 8 + 1) as f64,
            };
            for round in 0..2 {
                report.record(round, &time, &case.subject, Unit::Nanoseconds, 40.0 + more);
                report.record(round, &time, &floor, Unit::Nanoseconds, 40.0);
                report.record(round, &net, &case.subject, Unit::Nanoseconds, more);
            }
        }
        report
    }

    #[test]
    fn the_table_compares_with_the_floor_and_with_katran_in_the_same_packets() {
        let cases = cases::all(1 << 20, true);
        let cases: Vec<_> = cases.into_iter().filter(|case| case.is_called("IPv4, ")).collect();
        let mut report = measured(&cases);
        let cases: Vec<_> = cases.iter().collect();
        compare(&mut report, &cases);
        let text = table(&report, &cases);
        let nat = row(&text, "IPv4, 1 flow", "nat");
        let met = "met (<= 0.8)";
        assert_eq!(nat[1..7], ["nat", "2", "50.0 ns", "40.0 ns", "10.0 ns", "10.0 - 10.0 ns"], "{text}");
        assert_eq!(nat[7..], ["1.25", "0.20", met], "{text}");
        // The only other that has Katran's time, and no goal.
        assert_eq!(row(&text, "Katran", "140 ns").len(), 7, "{text}");
        let nth = cases.iter().position(|case| case.flows() == 1 << 16).unwrap();
        let ratio = |at: usize| ((at % 8 + 1) as f64) / 10.0;
        let some = row(&text, "IPv4, 64 k flows", "nat");
        let goal = Goal::AtMost(0.6).text(ratio(nth));
        assert_eq!(some[8..], [Unit::Ratio.text(ratio(nth)), goal], "{text}");
        assert!(
            text.contains(&format!("{}: ", BY_FLOWS.0))
                && text.contains(&format!("{}: nat, 1,000", BY_BACKENDS.0))
        );
        let katran = format!("{}: Katran 3.00\n", BY_FLOWS.0);
        assert!(text.contains(&katran), "{text}");
    }
}
