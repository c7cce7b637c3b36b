//! Instructions per packet, on a machine whose time stamp counter counts them (QEMU's `-icount shift=0`).

use std::arch::x86_64::_rdtsc;
use std::os::fd::{AsFd as _, BorrowedFd};

use anyhow::{Context as _, ensure};

use super::report::Report;
use super::{CaseResult, say};
use crate::bench::wire::course::Course;
use crate::bench::wire::programs::{self, Generator};
use crate::bench::wire::routes::{Balancer, Route};
use crate::bpf::live::OneRun;
use crate::mass::{XDP_DROP, XDP_TX};

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
    for route in Route::ALL {
        let walk = route.established(FLOWS);
        let frames: Vec<_> = (0..FLOWS).map(|flow| walk.frame(flow)).collect();
        alone(
            &course,
            balancer.mass().program(),
            reflect.as_fd(),
            &format!("alone {route}"),
            &frames,
            XDP_TX,
        )?;
    }
    Ok(())
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
    super::note(format!("{name}: {counts:?}"));
    tell(name, median(counts) as f64);
    Ok(())
}

/// The program without anything around it: what a system call that runs it takes, less one that runs `XDP_TX` alone.
fn alone(
    course: &Course,
    program: BorrowedFd<'_>,
    floor: BorrowedFd<'_>,
    name: &str,
    frames: &[Vec<u8>],
    expected: u32,
) -> anyhow::Result<()> {
    let counts = course.on_cpu(0, || {
        let one = |program: BorrowedFd<'_>, frame: &[u8], expected: u32| -> anyhow::Result<u64> {
            let mut run = OneRun::new(program, frame, course.far());
            let before = executed();
            let action = run.run()?;
            let took = executed() - before;
            ensure!(action == expected, "{name}: action {action}");
            Ok(took)
        };
        let with = |program: BorrowedFd<'_>, expected: u32| {
            frames
                .iter()
                .cycle()
                .take(RUNS)
                .map(|frame| one(program, frame, expected))
                .collect::<anyhow::Result<Vec<_>>>()
        };
        let bare = with(floor, XDP_TX)?;
        Ok((with(program, expected)?, bare))
    })?;
    super::note(format!("{name}: {:?} {:?}", counts.0, counts.1));
    tell(name, median(counts.0) as f64 - median(counts.1) as f64);
    Ok(())
}
