//! Instructions per packet, on a machine whose time stamp counter counts them (QEMU's `-icount shift=0`).

use std::arch::x86_64::_rdtsc;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, ensure};

use super::report::Report;
use super::{CaseResult, say};
use crate::bench::wire::course::{Course, End, Subject};
use crate::bench::wire::peers::{Peer, PeerCourse};
use crate::bench::wire::routes::{Balancer, Route};
use crate::bench::wire::strangers;
use crate::bench::wire::walk::Walk;
use crate::bpf::only_returning;
use crate::bpf::test_run::OneRun;
use crate::mass::{XDP_DROP, XDP_PASS, XDP_TX};

/// Flows that packets are spread over: so many as to have chains in the hash table, few enough to be opened in no time.
const FLOWS: u32 = 64;
/// Packets of a run: several batches.
const PACKETS: u32 = 4096;
/// Of these the middle one counts: a clock tick falls into some.
const ROUNDS: usize = 5;
/// Runs of a program on a frame of its own.
const RUNS: usize = 31;
const TABLE: u32 = 4096;

/// What has been executed so far, whoever did.
fn executed() -> u64 {
    // SAFETY: every x86-64 has the instruction, and the guest's kernel leaves it to all.
    unsafe { _rdtsc() }
}

fn median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    counts[counts.len() / 2]
}

fn tell(name: impl Into<String>, instructions: f64) {
    say(&Report::Count { name: name.into(), instructions });
}

/// xvip on its own and over the whole path.
pub(super) fn of_xvip() -> CaseResult {
    count_xvip().map_err(|error| format!("{error:#}").into())
}

fn count_xvip() -> anyhow::Result<()> {
    let course = Course::build()?;
    let mut balancer = Balancer::load(TABLE, course.far())?;
    let drop = only_returning(XDP_DROP)?;
    let reflect = only_returning(XDP_TX)?;
    let walk = Route::Nat { v6: false }.established(FLOWS);
    whole_path(&Subject::new("veth + XDP_DROP".to_owned(), &course, &drop, &walk, End::Nowhere)?)?;
    whole_path(&Subject::new("bare reflector".to_owned(), &course, &reflect, &walk, End::Sink)?)?;
    balancer.open_all(&course, FLOWS)?;
    let program = balancer.mass().program();
    for route in Route::ALL {
        let walk = route.established(FLOWS);
        whole_path(&Subject::new(route.to_string(), &course, &program, &walk, End::Sink)?)?;
    }
    // For a frame to come in by an interface, that has to have a program.
    let _attached = course.attach(program)?;
    let alone = Alone { course: &course, program, floor: reflect.as_fd() };
    for route in Route::ALL {
        alone.count(&format!("alone {route}"), &frames(&route.established(FLOWS), 0), XDP_TX)?;
    }
    // Flows that are not there yet, each run another one.
    for route in Route::ALL {
        let is_reply = matches!(route, Route::NatReply { .. });
        if !is_reply {
            alone.count(&format!("alone {route}, SYN"), &frames(&route.begin(FLOWS), FLOWS), XDP_TX)?;
            continue;
        }
        course.on_cpu(0, || alone.run_all(&frames(&route.begin(FLOWS), FLOWS)))?;
        alone.count(&format!("alone {route}, SYN-ACK"), &frames(&route.answers(FLOWS), FLOWS), XDP_TX)?;
        let nat = Route::Nat { v6: route.is_v6() };
        alone.count(&format!("alone {nat}, first ACK"), &frames(&route.go_on(FLOWS), FLOWS), XDP_TX)?;
        alone.count(&format!("alone {nat}, FIN"), &frames(&route.end(FLOWS), FLOWS), XDP_TX)?;
    }
    for (name, frame) in strangers::frames() {
        alone.count(&format!("alone {name}"), &[frame], XDP_PASS)?;
    }
    Ok(())
}

/// Frames of as many flows as there are runs, from this one on.
fn frames(walk: &Walk, first: u32) -> Vec<Vec<u8>> {
    (first..).take(RUNS).map(|flow| walk.frame(flow)).collect()
}

/// Generator, veth, what is measured, and where it goes, a device or back over the veth.
fn whole_path(subject: &Subject<'_>) -> anyhow::Result<()> {
    // A nanosecond is an instruction.
    let counts = subject.measure(0, PACKETS, ROUNDS)?;
    tell(format!("path {}", subject.name()), median(counts.into_iter().map(u64::from).collect()) as f64);
    Ok(())
}

/// What xvip's users have instead, where the kernel has it.
pub(super) fn of_peers() -> CaseResult {
    let count = || {
        for peer in Peer::ALL {
            whole_path(&PeerCourse::build(peer)?.subject(FLOWS)?)?;
        }
        Ok(())
    };
    count().map_err(|error: anyhow::Error| format!("{error:#}").into())
}

/// The program without anything around it: what a system call that runs it takes, less one that runs `XDP_TX` alone.
struct Alone<'a> {
    course: &'a Course,
    program: BorrowedFd<'a>,
    floor: BorrowedFd<'a>,
}

impl Alone<'_> {
    /// Counts runs on these frames, over and over where there are fewer.
    fn count(&self, name: &str, frames: &[Vec<u8>], expected: u32) -> anyhow::Result<()> {
        let with = |program: BorrowedFd<'_>, expected: u32| -> anyhow::Result<Vec<u64>> {
            let runs = frames.iter().cycle().take(RUNS).map(|frame| self.once(program, frame, expected));
            runs.collect::<anyhow::Result<_>>().with_context(|| name.to_owned())
        };
        let (floor, counts) =
            self.course.on_cpu(0, || Ok((with(self.floor, XDP_TX)?, with(self.program, expected)?)))?;
        tell(name, median(counts) as f64 - median(floor) as f64);
        Ok(())
    }

    fn run_all(&self, frames: &[Vec<u8>]) -> anyhow::Result<()> {
        frames.iter().try_for_each(|frame| self.once(self.program, frame, XDP_TX).map(drop))
    }

    fn once(&self, program: BorrowedFd<'_>, frame: &[u8], expected: u32) -> anyhow::Result<u64> {
        let mut run = OneRun::new(program, frame, self.course.far());
        let before = executed();
        let action = run.run()?;
        let took = executed() - before;
        ensure!(action == expected, "XDP action {action}, not {expected}");
        Ok(took)
    }
}
