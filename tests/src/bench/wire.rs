//! Packets per second of one core: live frames over a veth through what is measured, and back into a sink.
//!
//! One core does all of it, generator and sink included; what the balancer alone takes is the difference to the bare
//! reflector.

pub(crate) mod course;
pub(crate) mod peers;
mod programs;
pub(crate) mod routes;
pub(crate) mod strangers;
pub(crate) mod walk;

use anyhow::{Context as _, ensure};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use self::course::{Course, End, Subject};
use self::peers::{Peer, PeerCourse};
use self::routes::{Balancer, Route};
use self::walk::MOST;
use super::facts::Facts;
use super::report::{Goal, Report, Role, Wanted};
use super::series::Unit;
use super::table::Progress;
use crate::bpf::only_returning;
use crate::interrupt::Interrupt;
use crate::mass::{XDP_DROP, XDP_TX};

/// What the veth and the generator can do.
const FLOOR: &str = "veth + XDP_DROP";
const REFLECTOR: &str = "bare reflector";
/// 2.2 million packets a second where the floor has 4.6.
const GOAL: Goal = Goal::AtLeast(0.48);

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    wanted: Wanted,
    /// Packets in each round, of each subject
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    packets: u32,
    /// Flows that they belong to, a power of two each
    #[arg(long, value_delimiter = ',', value_name = "FLOWS,...", default_value = "1,4096",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST)))]
    flows: Vec<u32>,
    /// The processor that does all of it [default: the last one]
    #[arg(long)]
    cpu: Option<usize>,
    /// Leave out what else the kernel can balance with
    #[arg(long)]
    no_peers: bool,
}

/// Measures.
///
/// # Errors
/// What could not be measured.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let progress = Progress::new();
    let facts = Facts::of_machine()?;
    let cpu = options.cpu.map_or_else(last_cpu, Ok)?;
    let about = "Packets per second of one core that does everything: a generator of live frames, a veth, what is \
                 measured, the veth back, a sink.\nThe kernel's own balancers \
                 send into a device that throws away, or where there is none over another veth.";
    let mut report = Report::new("wire", about, facts);
    report.parameter("packets", options.packets);
    report.parameter("cpu", cpu);

    progress.say("loading xvip");
    let course = Course::build()?;
    let most = options.flows.iter().copied().max().unwrap_or(1).next_power_of_two();
    let mut balancer = Balancer::load(most * Route::ALL.len() as u32 * 2, course.far())?;
    balancer.open_all(&course, most)?;
    let program = balancer.mass().program();
    let (drop, reflect) = (only_returning(XDP_DROP)?, only_returning(XDP_TX)?);
    let mut peers = Vec::new();
    for peer in Peer::ALL.into_iter().filter(|_| !options.no_peers) {
        match PeerCourse::build(peer) {
            Ok(built) => peers.push(built),
            // IPVS is in few kernels.
            Err(error) => report.note(&format!("left out: {error:#}")),
        }
    }

    for &flows in &options.flows {
        let flows = flows.next_power_of_two();
        let figure = if flows == 1 { "1 flow".to_owned() } else { format!("{flows} flows") };
        let walk = Route::Nat { v6: false }.established(flows);
        let mut subjects = vec![
            Subject::new(FLOOR.to_owned(), &course, &drop, &walk, End::Nowhere)?,
            Subject::new(REFLECTOR.to_owned(), &course, &reflect, &walk, End::Sink)?,
        ];
        for route in Route::ALL {
            let walk = route.established(flows);
            subjects.push(Subject::new(route.to_string(), &course, &program, &walk, End::Sink)?);
        }
        for peer in &peers {
            subjects.push(peer.subject(flows)?);
        }
        for round in 0..options.wanted.rounds() {
            progress.say(&format!("{figure}: round {} of {}", round + 1, options.wanted.rounds()));
            for subject in &subjects {
                ensure!(!interrupt.asked(), "interrupted");
                match subject.measure(cpu, options.packets, 1) {
                    Ok(nanoseconds) => {
                        let nanoseconds = nanoseconds.iter().copied().map(f64::from).sum::<f64>();
                        report.record(round, &figure, subject.name(), Unit::PerSecond, 1e9 / nanoseconds);
                    }
                    Err(error) => report.fail(&format!("{figure}: {error:#}")),
                }
            }
        }
        for route in [Route::Nat { v6: false }, Route::NatReply { v6: false }] {
            report.compare(&figure, &route.to_string(), FLOOR, Role::Floor, Some(GOAL));
        }
        report.compare_all(&figure, FLOOR, Role::Floor);
        let nftables = Peer::Nftables.to_string();
        for route in [Route::Nat { v6: false }, Route::NatReply { v6: false }] {
            report.compare(&figure, &route.to_string(), &nftables, Role::Peer, None);
        }
    }
    report.finish(&options.wanted, &progress)
}

/// The last processor that we may run on.
fn last_cpu() -> anyhow::Result<usize> {
    let ours = sched_getaffinity(Pid::from_raw(0)).context("asking for our processors")?;
    let is_ours = |cpu: &usize| ours.is_set(*cpu).unwrap_or(false);
    (0..CpuSet::count()).rev().find(is_ours).context("we may run on no processor")
}
