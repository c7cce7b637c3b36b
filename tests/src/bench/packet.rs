//! What a packet costs in the XDP programs, in nanoseconds above a program of two instructions: in each mode, for each kind
//! of packet, by how many flows, backends and services there are; and in Katran for the same packets, where somebody has
//! built it.
//!
//! The method is [`crate::rig`]'s. All programs stay loaded, with all flows in their tables, and each round runs through all
//! cases; before each the floor is measured anew. That each packet became what it should is seen by the programs' own
//! counters.

mod cases;
mod katran;
mod plane;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::facts::Facts;
use super::plot::Curves;
use super::report::{Goal, Report, Role, Wanted};
use super::series::{Series, Spread, Unit};
use super::table::{self, Progress};
use crate::interrupt::Interrupt;
use crate::rig::{Prepared, Rig};
use cases::{Case, FEW, FLOWS, KATRAN, Packets, Plane};
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
    /// For how many flows the tables have room
    #[arg(long, default_value_t = 1 << 22, value_parser = clap::value_parser!(u32).range(1024..))]
    table: u32,
    /// The CPU to measure on; the last one if it is not given
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
    let cpu = options.cpu.unwrap_or_else(|| facts.processors.saturating_sub(1) as u32);
    let scale = Scale { table: options.table, cpu, katran };
    let mut report = Report::new(
        "packet",
        "Time per packet in the XDP program, by BPF_PROG_TEST_RUN; each packet is written anew before the program runs.",
        facts,
    );
    report.parameter("packets", options.packets);
    report.parameter("packets_new", options.packets.min(NEW_AT_ONCE));
    report.parameter("table_flows", options.table);
    report.parameter("cpu", cpu);
    report.parameter("katran", scale.katran.is_some());

    let named = |case: &Case| options.only.is_empty() || options.only.iter().any(|part| case.is_called(part));
    let mut cases = cases::all(options.flows, scale.katran.is_some());
    cases.retain(named);
    ensure!(!cases.is_empty(), "no case is called {}", options.only.join(" or "));
    let mut planes = load(&cases, &scale, &progress, &mut report, &interrupt)?;
    // Threads that open flows would be tied, too.
    let rig = Rig::pinned(cpu as usize).with_context(|| format!("CPU {cpu}"))?;
    let mut ready = vec![];
    for case in cases {
        let Some(loaded) = planes.get(&case.plane) else { continue };
        match loaded.prepare(&rig, &case) {
            Ok(prepared) => ready.push(Ready { case, prepared }),
            Err(error) => report.fail(&format!("{}: {}: {error:#}", case.group, case.subject)),
        }
    }
    for round in 0..options.wanted.rounds() {
        for Ready { case, prepared } in &ready {
            ensure!(!interrupt.asked(), "interrupted");
            let Some(loaded) = planes.get_mut(&case.plane) else { continue };
            if let Err(error) = measure(&mut report, round, case, prepared, loaded, options.packets) {
                report.fail(&format!("{}: {}: {error:#}", case.group, case.subject));
            }
        }
        progress.say(&format!("round {} of {} is over", round + 1, options.wanted.repeats));
    }
    let cases: Vec<_> = ready.iter().map(|ready| &ready.case).collect();
    compare(&mut report, &cases);
    let table = table(&report, &cases);
    report.finish_with(&table, &options.wanted, &progress)
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

/// One measurement: the floor, and the program.
fn measure(
    report: &mut Report,
    round: usize,
    case: &Case,
    prepared: &Prepared,
    loaded: &mut Loaded,
    packets: u32,
) -> anyhow::Result<()> {
    let is_new = case.packets == Packets::New;
    let packets = if is_new { packets.min(NEW_AT_ONCE) } else { packets };
    if case.plane == Plane::KatranNew {
        thread::sleep(KATRAN_FORGETS);
    }
    let first = (round as u64 * u64::from(packets)) % u64::from(NEW_FLOWS);
    let before = loaded.count(case.packets)?;
    let measured = prepared.measure(first, packets)?;
    let after = loaded.count(case.packets)?;
    if let (Some(before), Some(after)) = (before, after) {
        let (wanted, had) = (u64::from(packets), after.saturating_sub(before));
        ensure!(
            had == wanted,
            "{had} of {wanted} packets became what they should (action {})",
            measured.action
        );
    }
    let Names { time, floor, net } = Names::of(case);
    report.record(round, &time, &case.subject, Unit::Nanoseconds, measured.ns);
    report.record(round, &time, &floor, Unit::Nanoseconds, measured.floor_ns);
    report.record(round, &net, &case.subject, Unit::Nanoseconds, measured.net());
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
}

/// The figure of growth with flows, [`FEW`] to the most.
const GROWTH: &str = "growth of the net time with flows";

/// Compares everything with its floor, with Katran for the same packets, and with itself for fewer flows.
fn compare(report: &mut Report, cases: &[&Case]) {
    for case in cases {
        let Names { time, floor, net } = Names::of(case);
        report.compare(&time, &case.subject, &floor, Role::Floor, case.of_floor);
        if case.subject != KATRAN {
            report.compare(&net, &case.subject, KATRAN, Role::Peer, case.of_katran);
        }
        report.draw(&net);
    }
    let mut lines: BTreeMap<&str, Vec<(f64, Spread)>> = BTreeMap::new();
    let mut growth = vec![];
    for case in cases.iter().filter(|case| !case.is_v6()) {
        let (Packets::Established(count) | Packets::Replies(count)) = case.packets else { continue };
        let series = report.series(&Names::of(case).net, &case.subject);
        let Some((series, spread)) = series.and_then(|series| Some((series, series.spread()?))) else {
            continue;
        };
        if case.group.contains("IPv4,") {
            lines.entry(&case.subject).or_default().push((count.into(), spread));
        }
        if Some(&count) == FLOWS.last() {
            let few = cases.iter().find(|other| {
                other.subject == case.subject && other.flows() == FEW && other.is_v6() == case.is_v6()
            });
            if let Some(few) = few.and_then(|few| report.series(&Names::of(few).net, &few.subject)) {
                growth.push((case.subject.clone(), series.samples.clone(), few.samples.clone()));
            }
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
    for (subject, many, few) in growth {
        for (round, pair) in many.iter().zip(&few).enumerate() {
            if let (Some(many), Some(few)) = pair {
                report.record(round, GROWTH, &subject, Unit::Ratio, many / few);
            }
        }
        if subject != KATRAN {
            report.expect(GROWTH, &subject, Goal::AtMost(2.0));
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
    ];
    let mut table = table::with_header(&header, 2..9);
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
        table.add_row([
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
        ]);
        last = &case.group;
    }
    let growth: String = report
        .of_figure(GROWTH)
        .filter_map(|series| {
            let spread = series.spread()?;
            let goal = report.goal(GROWTH, &series.subject);
            let goal = goal.map_or_else(String::new, |goal| format!(", {}", goal.text(spread.median)));
            Some(format!("{GROWTH}, 1 k to 1 M: {} {:.2}{goal}\n", series.subject, spread.median))
        })
        .collect();
    format!(
        "{table}\nnet: the time without that of a program that only returns XDP_TX, measured right before. Katran does as \
         dsr-ipip does; it has no nat and no dsr-l2.\nnew flows: each packet is the SYN of another one; the tables of \
         half-open flows are as large as by default.\n{growth}"
    )
}
