//! Instructions per packet, on a machine whose time stamp counter counts them (QEMU's `-icount shift=0`).

use std::arch::x86_64::_rdtsc;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, ensure};

use super::report::Report;
use super::{CaseResult, say};
use crate::bench::wire::course::Course;
use crate::bench::wire::programs::{self, Generator};
use crate::bench::wire::routes::{Balancer, Route};
use crate::bench::wire::strangers;
use crate::bench::wire::walk::Walk;
use crate::bpf::live::OneRun;
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
    let drop = programs::only(XDP_DROP)?;
    let reflect = programs::only(XDP_TX)?;
    {
        let attached = course.attach(&drop)?;
        whole_path(&course, "path veth + XDP_DROP", Route::Nat { v6: false }, false)?;
        std::mem::drop(attached);
        let _attached = course.attach(&reflect)?;
        whole_path(&course, "path bare reflector", Route::Nat { v6: false }, true)?;
    }
    let _attached = course.attach(balancer.mass().program())?;
    for route in Route::ALL {
        course.on_cpu(0, || balancer.open(route, FLOWS))?;
        whole_path(&course, &format!("path {route}"), route, true)?;
    }
    let alone = Alone { course: &course, program: balancer.mass().program(), floor: reflect.as_fd() };
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

/// Generator, veth, what is measured, and where it comes back, veth and sink.
fn whole_path(course: &Course, name: &str, route: Route, comes_back: bool) -> anyhow::Result<()> {
    let generator =
        Generator::load(&route.established(FLOWS), course.near()).context("loading the generator")?;
    let counts = course.on_cpu(0, || {
        let send = || -> anyhow::Result<u64> {
            let (arrived, took) = course.send(&generator, PACKETS).context("live frames")?;
            ensure!(arrived == if comes_back { PACKETS.into() } else { 0 }, "{name}: {arrived} of {PACKETS}");
            // A nanosecond is an instruction. What the kernel prepares is not in it: it would be by the time stamp counter.
            Ok(took.into())
        };
        send()?;
        (0..ROUNDS).map(|_| send()).collect::<anyhow::Result<Vec<_>>>()
    })?;
    tell(name, median(counts) as f64);
    Ok(())
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
