//! `cargo xtask test`: everything there is to test, with one summary.
//!
//! Order: set-up, the house rules, then one build, then the tests that need nothing, all at once, then the ones that
//! make network namespaces, a few at a time and as root, then a second try for those of them that failed, and last a look
//! at what they left behind.
//!
//! We start the test programs ourselves instead of leaving that to `cargo test`: it runs them one after the other,
//! without a time limit, and has no word for a test that could not do its work on this kernel.

mod again;
mod essence;
mod kernel;
mod leftovers;
mod libtest;
mod settings;
mod suite;
mod summary;

use std::ffi::OsString;
use std::num::NonZero;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::bail;

use crate::process::{self, Root};
use crate::workspace::{self, Executable};
use crate::{setup, tidy};
use libtest::{Failure, Outcome};
use suite::Suite;

/// How many suites with namespaces run at the same time. They measure times, so this is not the number of cores.
const NAMESPACE_SUITES: usize = 2;

/// What to run.
pub struct Selection {
    /// Leave out what needs root.
    pub no_e2e: bool,
    /// Names, or parts of names, of tests; or names of suites. None: everything.
    pub filters: Vec<String>,
}

/// Runs it all. The last line printed is `N passed, N failed`, with `, N skipped` if there are any. What passed at its second
/// try counts as passed; the table and the list before that line call it unsteady.
///
/// # Errors
/// None: what goes wrong is a failure in the summary.
pub fn run(selection: &Selection) -> anyhow::Result<ExitCode> {
    process::catch_interrupts();
    let mut outcomes = Vec::new();
    if let Err(error) = all(selection, &mut outcomes) {
        outcomes.push(Outcome::broken("preparation", format!("{error:#}")));
    }
    print!("{}", summary::failures(&outcomes));
    print!("{}", summary::table(&outcomes));
    print!("{}", summary::reasons(&outcomes));
    let totals = summary::totals(&outcomes);
    println!("{totals}");
    Ok(if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn all(selection: &Selection, outcomes: &mut Vec<Outcome>) -> anyhow::Result<()> {
    setup::run(setup::Level::Tests, setup::Report::Brief)?;
    if selection.filters.is_empty() || selection.filters.iter().any(|filter| filter == "tidy") {
        outcomes.push(house_rules()?);
    }
    let (pure, namespaces) = built_suites(selection)?;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    outcomes.extend(run_side_by_side(&pure, cores));
    if selection.filters.is_empty() {
        outcomes.extend(run_side_by_side(&[Suite::documentation()], 1));
    }
    if selection.no_e2e {
        println!("left out by --no-e2e: {} suites that need root", namespaces.len());
    } else {
        let before = leftovers::Before::now();
        let (alone, shared): (Vec<_>, Vec<_>) = namespaces.into_iter().partition(|suite| suite.alone);
        outcomes.extend(run_side_by_side(&shared, NAMESPACE_SUITES));
        outcomes.extend(run_side_by_side(&alone, 1));
        let suite = |name: &str| shared.iter().chain(&alone).find(|suite| suite.name == name);
        again::settle(
            outcomes,
            |name| suite(name).is_some_and(|suite| suite.may_be_repeated && !process::interrupted()),
            |name, test| suite(name).is_some_and(|suite| suite.passes_again(test)),
        );
        outcomes.extend(leftovers::clean_up(&before, leftovers::PATIENCE));
    }
    // A suite in which the filter met nothing is not worth a line.
    if !selection.filters.is_empty() {
        outcomes.retain(|outcome| outcome.count() > 0);
        if outcomes.is_empty() {
            bail!("no test is called {}", selection.filters.join(" or "));
        }
    }
    if process::interrupted() {
        bail!("interrupted: the remaining tests did not run");
    }
    Ok(())
}

fn house_rules() -> anyhow::Result<Outcome> {
    let started = Instant::now();
    let mut outcome = Outcome::new("tidy");
    for tidy::Checked { rule, breaches } in tidy::check()? {
        if breaches.is_empty() {
            outcome.passed += 1;
            continue;
        }
        outcome.failed.push(Failure { test: rule.to_owned(), why: String::new() });
        outcome.output.extend(breaches.iter().map(|breach| format!("{}: {}", breach.place, breach.what)));
    }
    outcome.took = started.elapsed();
    suite::announce(&outcome);
    Ok(outcome)
}

/// Builds every test program, and the two programs that tests start. First those that need nothing, then the others.
///
/// One command for both: tests want features of some libraries that programs do not, and whatever depends on those would be
/// built twice otherwise, the XDP program, too.
fn built_suites(selection: &Selection) -> anyhow::Result<(Vec<Suite>, Vec<Suite>)> {
    let all = ["build", "--workspace", "--exclude=lb-ebpf", "--bin=xvip", "--bin=xvip-lab", "--tests"];
    let built = workspace::build(&all)?;
    let variables = [
        ("XVIP_BIN", OsString::from(workspace::binary(&built, "xvip")?)),
        ("XVIP_LAB_BIN", OsString::from(workspace::binary(&built, "xvip-lab")?)),
    ];
    let root = Root::probe();
    let mut suites = Vec::new();
    for executable in built.iter().filter(|executable| executable.harness) {
        suites.push(suite_of(executable, &variables, root, &selection.filters)?);
    }
    suites.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(suites.into_iter().partition(|suite| !suite.needs_root))
}

fn suite_of(
    executable: &Executable,
    variables: &[(&'static str, OsString)],
    root: Root,
    filters: &[String],
) -> anyhow::Result<Suite> {
    let settings = if executable.kind == "test" {
        settings::of_file(&executable.source)?
    } else {
        settings::Settings::default()
    };
    let package = executable.package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = match executable.kind.as_str() {
        "test" => executable.name.clone(),
        "bin" if executable.name != package => format!("{package}/{}", executable.name),
        _ => package,
    };
    Ok(Suite::program(name, executable, &settings, variables, root, filters))
}

/// Runs suites on `width` threads; the outcomes are in the order of `suites`.
fn run_side_by_side(suites: &[Suite], width: usize) -> Vec<Outcome> {
    let queue = Mutex::new(suites.iter().enumerate());
    let done = Mutex::new(Vec::new());
    let next = || queue.lock().ok().and_then(|mut queue| queue.next());
    std::thread::scope(|scope| {
        for _ in 0..width.min(suites.len()) {
            scope.spawn(|| {
                while let Some((number, suite)) = next().filter(|_| !process::interrupted()) {
                    let outcome = suite.run();
                    if let Ok(mut done) = done.lock() {
                        done.push((number, outcome));
                    }
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_default();
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}
