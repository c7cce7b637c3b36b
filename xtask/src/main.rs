//! The project's own commands. Each subcommand is one module; this file only chooses.

mod bench;
mod package;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the build needs: the eBPF compiler and its linker
    Setup {
        /// Also the programs that the lab and the tests start (ip, curl, keepalived, ...)
        #[arg(long)]
        tests: bool,
    },
    /// Show xvip at work in a lab of network namespaces, or, with --config, run it on this machine
    Run {
        /// Be a load balancer node on this machine, with this configuration
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Passed on to `xvip-lab run`, or to `xvip run`
        #[arg(last = true, value_name = "ARGUMENT")]
        extra: Vec<String>,
    },
    /// Run every test: unit, property, documentation, tidy, and the ones that need root
    Test {
        /// Leave out the tests that need root and network namespaces
        #[arg(long)]
        no_e2e: bool,
        /// Only tests whose name contains one of these, or the suites called exactly so
        #[arg(value_name = "FILTER")]
        filters: Vec<String>,
    },
    /// Measure the release build beside what it replaces; without a name: which measurements there are
    Bench {
        /// Which one
        name: Option<String>,
        /// Passed on to it: `-- --help` says what it takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Write the packages (.deb and .rpm) into target/package
    Package {
        /// Of the development build: for a look at what is in them
        #[arg(long)]
        debug: bool,
    },
    /// Check the house rules over the source tree
    Tidy,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Setup { tests } => {
            let level = if tests { setup::Level::Tests } else { setup::Level::Build };
            setup::run(level, setup::Report::Each).map(|()| ExitCode::SUCCESS)
        }
        Command::Run { config, extra } => run::run(config.as_deref(), &extra),
        Command::Test { no_e2e, filters } => test::run(&test::Selection { no_e2e, filters }),
        Command::Bench { name, arguments } => bench::run(name.as_deref(), &arguments),
        Command::Package { debug } => package::run(debug),
        Command::Tidy => tidy::run(),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
