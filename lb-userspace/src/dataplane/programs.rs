//! The XDP programs: loaded, put where their tail calls look for them, and what they cost.

use std::{
    panic::resume_unwind,
    sync::{Mutex, PoisonError},
    thread::{self, available_parallelism},
};

use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{Program, Xdp},
};
use lb_common::{forward::Stage, trace::Watcher};

use super::{Dataplane, DataplaneError, PROGRAM, in_map, program, refused, take};

/// More would gain little: one program alone takes a sixth of the time of all.
const THREADS_AT_MOST: usize = 4;

/// What a program costs; each number only where the kernel tells.
#[derive(Clone, Copy, Debug)]
pub struct ProgramCost {
    /// The program.
    pub name: &'static str,
    /// Its instructions after the verifier.
    pub instructions: Option<u32>,
    /// How many instructions the verifier has looked at, each as often as there are ways to it that differ (told since Linux
    /// 5.16). Loading takes about a microsecond for each; with more than a million the kernel refuses the program.
    pub steps: Option<u32>,
}

impl Dataplane {
    /// What each XDP program costs.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses to tell anything.
    pub fn program_costs(&mut self) -> Result<Vec<ProgramCost>, DataplaneError> {
        names()
            .map(|name| {
                let info = program(&mut self.ebpf, name)?.info().map_err(refused)?;
                Ok(ProgramCost {
                    name,
                    instructions: info.size_translated().map(|bytes| bytes / 8),
                    steps: info.verified_instruction_count(),
                })
            })
            .collect()
    }
}

/// Loads every XDP program, and puts the stages and those that watch into their places.
///
/// A predecessor's programs stand there while it runs, and packets come: so all are loaded before the first one is replaced.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    verify(ebpf)?;
    let mut stages: ProgramArray<MapData> = take(ebpf, "PROGRAMS")?;
    for stage in Stage::ALL {
        let program = program(ebpf, stage.program())?.fd().map_err(refused)?;
        stages.set(stage as u32, program, 0).map_err(in_map("PROGRAMS"))?;
    }
    let mut watchers: ProgramArray<MapData> = take(ebpf, "WATCHERS")?;
    for watcher in Watcher::ALL {
        let program = program(ebpf, watcher.program())?.fd().map_err(refused)?;
        watchers.set(watcher as u32, program, 0).map_err(in_map("WATCHERS"))?;
    }
    Ok(())
}

/// The entry, the stages, and those that watch.
fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(PROGRAM).chain(Stage::ALL.map(Stage::program)).chain(Watcher::ALL.map(Watcher::program))
}

/// Has the kernel verify every program, several at a time: that is what loading takes its time for.
fn verify(ebpf: &mut Ebpf) -> Result<(), DataplaneError> {
    for name in names() {
        // Whether it is there, and of this kind.
        program(ebpf, name)?;
    }
    let waiting: Vec<&mut Program> = ebpf
        .programs_mut()
        .filter(|(name, _)| names().any(|wanted| wanted == *name))
        .map(|(_, program)| program)
        .collect();
    let threads = available_parallelism().map_or(1, usize::from).min(THREADS_AT_MOST);
    let waiting = Mutex::new(waiting);
    let work = || loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(program) = next else { return Ok(()) };
        let program: &mut Xdp = program.try_into().map_err(refused)?;
        program.load().map_err(refused)?;
    };
    thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads).map_while(|_| thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let own = work();
        others
            .into_iter()
            .map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .fold(own, Result::and)
    })
}
