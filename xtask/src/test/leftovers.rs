//! What tests leave behind: processes (and with them the namespaces they live in), and named namespaces.
//!
//! Every test program gets a variable in its environment that its children inherit, so a process of this run is told
//! from one of another run, which may be going on next to us. Looking into the environment of root's processes needs
//! root; without it only our own are seen.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::libtest::{Failure, Outcome};
use crate::process;

/// The variable that marks the processes of a run.
pub const RUN_MARK: &str = "XVIP_TEST_RUN";
/// Where `ip netns add` keeps its names.
const NAMED: &str = "/run/netns";
/// The names that are ours to look at.
const PREFIX: &str = "xvip";
/// A process that was told to end may take this long to do so.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// This run's value of [`RUN_MARK`].
pub fn mark() -> OsString {
    std::process::id().to_string().into()
}

/// What was there before the tests.
pub struct Before {
    namespaces: BTreeSet<String>,
}

impl Before {
    /// Looks.
    pub fn now() -> Self {
        Self { namespaces: namespaces() }
    }
}

/// Waits a little for what is about to end, then removes what is left, which is a failure.
pub fn clean_up(before: &Before, patience: Duration) -> Option<Outcome> {
    let started = Instant::now();
    while started.elapsed() < patience && !processes().is_empty() {
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut outcome = Outcome::new("leftovers");
    for (id, name) in processes() {
        let why = match process::kill(id) {
            Ok(()) => "was still running; it has been killed".to_owned(),
            Err(error) => format!("is still running: {error:#}"),
        };
        outcome.failed.push(Failure { test: format!("process {id} ({name})"), why });
    }
    for name in namespaces().difference(&before.namespaces) {
        let removed = process::output(Command::new("ip").args(["netns", "delete", name]));
        let why =
            removed.map_or_else(|error| format!("is still there: {error:#}"), |_| "was removed".to_owned());
        outcome.failed.push(Failure { test: format!("network namespace {name}"), why });
    }
    outcome.took = started.elapsed();
    (!outcome.failed.is_empty()).then_some(outcome)
}

fn namespaces() -> BTreeSet<String> {
    let entries = std::fs::read_dir(NAMED).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Processes of this run that have not ended: id and name.
fn processes() -> Vec<(u32, String)> {
    let wanted = process::assignment(RUN_MARK, &mark());
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = ids.filter(|id| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        has_assignment(&environment, wanted.as_encoded_bytes())
    });
    ours.map(|id| {
        let name = std::fs::read_to_string(Path::new("/proc").join(id.to_string()).join("comm"));
        (id, name.unwrap_or_default().trim().to_owned())
    })
    .collect()
}

/// Whether an environment as in `/proc/PID/environ` has exactly this assignment.
fn has_assignment(environment: &[u8], wanted: &[u8]) -> bool {
    environment.split(|byte| *byte == 0).any(|assignment| assignment == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_found_as_a_whole() {
        assert!(has_assignment(b"A=1\0XVIP_TEST_RUN=42\0B=2\0", b"XVIP_TEST_RUN=42"));
        assert!(!has_assignment(b"XVIP_TEST_RUN=421\0", b"XVIP_TEST_RUN=42"));
        assert!(!has_assignment(b"", b"XVIP_TEST_RUN=42"));
    }

    #[test]
    fn a_process_that_outlives_the_tests_is_found_killed_and_reported() {
        let mut child = Command::new("sleep").arg("600").env(RUN_MARK, mark()).spawn().unwrap();
        let outcome = clean_up(&Before::now(), Duration::ZERO).unwrap();
        let named = format!("process {} (sleep)", child.id());
        assert!(outcome.failed.iter().any(|failure| failure.test == named), "{:?}", outcome.failed);
        assert!(!child.wait().unwrap().success());
    }
}
