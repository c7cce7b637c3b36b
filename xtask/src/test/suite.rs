//! One test program: how it is started, followed and ended.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::kernel::Kernel;
use super::leftovers::RUN_MARK;
use super::libtest::{Outcome, Reader, Verdict};
use super::settings::Settings;
use crate::process::{self, Root};
use crate::workspace::{self, Executable};

/// A test program with its settings.
pub struct Suite {
    /// Unique; also the name of its log file.
    pub name: String,
    /// It makes namespaces or loads programs.
    pub needs_root: bool,
    /// Nothing else may run at the same time.
    pub alone: bool,
    /// A case that failed may be run once more.
    pub may_be_repeated: bool,
    limit: Duration,
    /// A line for each test that ends: for the suites that take long.
    chatty: bool,
    start: Start,
}

enum Start {
    Program {
        file: PathBuf,
        directory: PathBuf,
        arguments: Vec<String>,
        variables: Vec<(&'static str, OsString)>,
        root: Root,
    },
    Documentation,
}

impl Suite {
    /// A test program that cargo built. `variables` tell it where the other programs are. A filter that is the name
    /// of the suite selects all of it; the others are parts of the names of tests.
    pub fn program(
        name: String,
        executable: &Executable,
        settings: &Settings,
        variables: &[(&'static str, OsString)],
        root: Root,
        filters: &[String],
    ) -> Self {
        // Shown even for passed tests: that is where they say what they skipped.
        let mut arguments = vec!["--show-output".to_owned()];
        arguments.extend(settings.threads.map(|count| format!("--test-threads={count}")));
        if !filters.contains(&name) {
            arguments.extend(filters.iter().cloned());
        }
        let mut variables = variables.to_vec();
        variables.push((RUN_MARK, super::leftovers::mark()));
        // As `cargo test` sets it; proptest finds its regression files by it.
        variables.push(("CARGO_MANIFEST_DIR", executable.package.clone().into()));
        Self {
            name,
            needs_root: settings.needs_root,
            alone: settings.alone,
            may_be_repeated: settings.needs_root && !settings.once,
            limit: settings.limit,
            chatty: settings.needs_root,
            start: Start::Program {
                file: executable.path.clone(),
                directory: executable.package.clone(),
                arguments,
                variables,
                root,
            },
        }
    }

    /// The examples in the documentation; only cargo knows how to run those.
    pub fn documentation() -> Self {
        Self {
            name: "documentation".to_owned(),
            needs_root: false,
            alone: false,
            may_be_repeated: false,
            limit: Settings::default().limit,
            chatty: false,
            start: Start::Documentation,
        }
    }

    /// Runs it to its end, prints how it goes, and keeps what it printed in a log file.
    pub fn run(&self) -> Outcome {
        let outcome = self.follow(self.command(None), &self.name);
        announce(&outcome);
        outcome
    }

    /// Runs one of its tests alone; whether that passed. What it printed is kept in a log file of its own.
    pub fn passes_again(&self, test: &str) -> bool {
        println!("again: {} {test}", self.name);
        let outcome = self.follow(self.command(Some(test)), &format!("{}-again-{test}", self.name));
        outcome.passed == 1 && outcome.failed.is_empty()
    }

    fn follow(&self, command: anyhow::Result<Command>, log: &str) -> Outcome {
        let started = Instant::now();
        let mut reader = Reader::default();
        let mut ended_last = started;
        let end = command.and_then(|mut command| {
            process::follow(&mut command, Some(self.limit), |line| {
                if let Some((test, verdict)) = reader.line(line)
                    && (self.chatty || verdict == Verdict::Failed)
                {
                    let word = match verdict {
                        Verdict::Passed => "ok",
                        Verdict::Failed => "FAILED",
                        Verdict::Ignored(_) => "ignored",
                    };
                    println!(
                        "  {:<20} {test} ... {word} ({:.1} s)",
                        self.name,
                        ended_last.elapsed().as_secs_f32()
                    );
                    ended_last = Instant::now();
                }
            })
        });
        let outcome = reader.finish(&self.name, end, started.elapsed(), &Kernel::running());
        self.keep_log(&outcome, log);
        outcome
    }

    /// The whole of it, or one test.
    fn command(&self, test: Option<&str>) -> anyhow::Result<Command> {
        let Start::Program { file, directory, arguments, variables, root } = &self.start else {
            let mut command = workspace::cargo();
            command.args(["test", "--doc", "--workspace", "--exclude=lb-ebpf"]);
            return Ok(command);
        };
        let variables: Vec<(&str, &OsStr)> =
            variables.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
        let mut command = if self.needs_root {
            root.command(file, &variables)?
        } else {
            let mut command = Command::new(file);
            command.envs(variables);
            command
        };
        match test {
            Some(test) => command.args(["--show-output", "--test-threads=1", "--exact", test]),
            None => command.args(arguments),
        };
        command.current_dir(directory);
        Ok(command)
    }

    /// Not worth failing for: the log is for people, and shown as well if the suite failed.
    fn keep_log(&self, outcome: &Outcome, name: &str) {
        let kept = workspace::scratch("test").and_then(|directory| {
            let file = directory.join(format!("{}.log", name.replace(['/', ':'], "-")));
            Ok(std::fs::write(file, outcome.output.join("\n") + "\n")?)
        });
        if let Err(error) = kept {
            println!("  {:<20} the log was not kept: {error:#}", self.name);
        }
    }
}

/// The line that a suite gets when it has ended.
pub fn announce(outcome: &Outcome) {
    let word = if outcome.failed.is_empty() { "ok" } else { "FAILED" };
    let count = outcome.count();
    println!("{:<22} {word}: {count} tests in {:.1} s", outcome.suite, outcome.took.as_secs_f32());
}
