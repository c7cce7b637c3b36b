//! What runs on other kernels: process 1 of a virtual machine that [`crate::vm`] boots.
//!
//! Adding a case is a function and one line in [`CASES`]. It runs as root on a machine of its own, one after the other,
//! with the whole lab at hand: [`crate::topology::Lab`] with real `xvip` daemons, `ip`, `tc`, `ss`, `ethtool`,
//! `curl`. Modules and programs that it needs beyond that are lists in `vm.rs`. Time passes ten to thirty times slower
//! than outside: wait for conditions with generous limits, and measure nothing.

mod forwarding;
mod instructions;
mod interfaces;
mod load;
mod local_clients;
mod machine;
pub mod report;
mod tunnels;

use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use report::Report;

/// How a case ends.
pub type CaseResult = Result<(), Box<dyn Error + Send + Sync>>;

/// One thing that must be true on each kernel.
pub struct Case {
    /// In one word.
    pub name: &'static str,
    /// When it counts as hung; nothing runs after that.
    pub limit: Duration,
    /// Finds out. A panic is a failure, too.
    pub run: fn() -> CaseResult,
}

/// A lab takes some 15 seconds before it forwards, and several times that on a busy machine.
const LAB_LIMIT: Duration = Duration::from_secs(240);

/// Of the guest's own time, which is instructions here: more than any machine executes before it is killed from outside.
const COUNT_LIMIT: Duration = Duration::from_secs(3600);

/// All of them, in the order in which they run.
pub const CASES: &[Case] = &[
    Case { name: "programs-load", limit: LAB_LIMIT, run: load::programs_load },
    Case { name: "native", limit: LAB_LIMIT, run: forwarding::native },
    Case { name: "one-vlan", limit: LAB_LIMIT, run: interfaces::one_vlan },
    Case { name: "two-vlans-on-a-bond", limit: LAB_LIMIT, run: interfaces::two_vlans_on_a_bond },
    Case { name: "tunnels", limit: LAB_LIMIT, run: tunnels::each_family_in_each },
];

/// What is counted where the machine counts instructions ([`crate::vm::count`]), each in a boot of its own.
pub const COUNTS: &[Case] = &[
    Case { name: "xvip", limit: COUNT_LIMIT, run: instructions::of_xvip },
    Case { name: "peers", limit: COUNT_LIMIT, run: instructions::of_peers },
];

/// The cases whose names contain `only`; with `counting` that of [`COUNTS`] which is called so.
pub fn cases(only: &str, counting: bool) -> impl Iterator<Item = &'static Case> + use<'_> {
    let all = if counting { COUNTS } else { CASES };
    all.iter().filter(move |case| if counting { case.name == only } else { case.name.contains(only) })
}

/// Says something that the test's log should have, for instance a figure.
pub fn note(text: impl Into<String>) {
    say(&Report::Note(text.into()));
}

fn say(report: &Report) {
    println!("{}", report.to_line());
}

/// Makes a system of the bare kernel, runs the cases, and powers off.
///
/// # Errors
/// When this is not process 1. What goes wrong later is said on the console.
pub fn run(only: &str, counting: bool) -> anyhow::Result<()> {
    anyhow::ensure!(std::process::id() == 1, "this is for process 1 of a virtual machine");
    match machine::set_up() {
        Ok(()) => run_cases(only, counting),
        Err(error) => println!("the guest cannot be set up: {error:#}"),
    }
    machine::power_off()
}

fn run_cases(only: &str, counting: bool) {
    for case in cases(only, counting) {
        let begin = Instant::now();
        let name = case.name.to_owned();
        let milliseconds = || begin.elapsed().as_millis();
        let Some(result) = within(case.limit, case.run) else {
            say(&Report::Fail { name, reason: format!("no end after {:?}", case.limit) });
            machine::print_kernel_log();
            return;
        };
        match result {
            Ok(()) => say(&Report::Ok { name, milliseconds: milliseconds() }),
            Err(reason) => {
                say(&Report::Fail { name, reason });
                machine::print_kernel_log();
            }
        }
    }
    say(&Report::Done);
}

/// Runs a case on a thread of its own, so that one that hangs can be left behind.
fn within(limit: Duration, case: fn() -> CaseResult) -> Option<Result<(), String>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let result = match catch_unwind(AssertUnwindSafe(case)) {
            Ok(result) => result.map_err(|error| chain(error.as_ref())),
            Err(panic) => Err(format!("panicked: {}", panic_text(panic.as_ref()))),
        };
        // Nobody listens any more if it took too long.
        let _ = sender.send(result);
    });
    receiver.recv_timeout(limit).ok()
}

/// An error with its causes: the verifier's log is one of those.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("with something that is no text")
        .to_owned()
}
