//! The lab as a program: what `cargo xtask run` starts.

use std::io::{IsTerminal, stdin, stdout};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use lb_tests::interrupt::Interrupt;
use lb_tests::topology::{Family, Lab};
use lb_tests::{apiserver, bench, client, guest, live, plain, probe, shared_flows, streams, tour};

#[derive(Parser)]
#[command(
    name = "xvip-lab",
    about = "xvip in a network of its own: two LB nodes, three API servers, a client",
    version
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Program>,
}

#[derive(Subcommand)]
enum Program {
    /// The live view; without a terminal the scripted tour (this is the default)
    Run {
        /// The scripted tour even on a terminal
        #[arg(long)]
        tour: bool,
    },
    /// Build the lab without starting the LB daemons, print how to enter its machines, and wait for Ctrl-C
    Idle {
        /// How many LB nodes
        #[arg(long, default_value_t = 2)]
        lbs: u8,
        /// How many API servers
        #[arg(long, default_value_t = 3)]
        masters: u8,
    },
    /// Measure xvip beside what it replaces (`cargo xtask bench` builds its release for this)
    #[command(subcommand)]
    Bench(bench::Bench),
    /// A fake API server (the lab starts these itself)
    #[command(hide = true)]
    Apiserver(apiserver::Options),
    /// A client (the lab starts these itself)
    #[command(hide = true, subcommand)]
    Client(ClientProgram),
    /// A server for `client drive`
    #[command(hide = true)]
    Loadserver(lb_load::server::Options),
    /// Process 1 of a virtual machine (the tests boot it)
    #[command(hide = true)]
    Guest {
        /// Only the cases whose names contain this
        #[arg(default_value = "")]
        only: String,
    },
}

#[derive(Subcommand)]
enum ClientProgram {
    /// New connections, one after the other
    Load(client::LoadOptions),
    /// Streams that stay open
    Watch(client::WatchOptions),
    /// Bytes of the plain service one way, hashed at both ends
    Bulk(plain::BulkOptions),
    /// Short connections to the plain service
    Short(plain::ConnectionOptions),
    /// Connections to the plain service that stay open
    Hold(plain::ConnectionOptions),
    /// Streams that stay open, each byte of them checked
    Streams(streams::Options),
    /// Requests to the plain service at a steady rate, whatever becomes of them
    Probe(probe::ProbeOptions),
    /// As much as can be, of the plainest (`bench tcp`)
    Drive(lb_load::client::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command.unwrap_or(Program::Run { tour: false }) {
        Program::Run { tour } => run(tour),
        Program::Idle { lbs, masters } => idle(lbs, masters),
        Program::Bench(bench) => bench::run(bench),
        Program::Apiserver(options) => {
            runtime().and_then(|runtime| runtime.block_on(apiserver::serve(options)))
        }
        Program::Client(ClientProgram::Load(options)) => {
            runtime().and_then(|runtime| runtime.block_on(client::load(options)))
        }
        Program::Client(ClientProgram::Watch(options)) => {
            runtime().and_then(|runtime| runtime.block_on(client::watch(options)))
        }
        Program::Client(ClientProgram::Bulk(options)) => {
            runtime().map(|runtime| runtime.block_on(plain::bulk(options)))
        }
        Program::Client(ClientProgram::Short(options)) => {
            runtime().and_then(|runtime| runtime.block_on(plain::short(options)))
        }
        Program::Client(ClientProgram::Hold(options)) => {
            runtime().and_then(|runtime| runtime.block_on(plain::hold(options)))
        }
        Program::Client(ClientProgram::Probe(options)) => {
            runtime().map(|runtime| runtime.block_on(probe::run(options)))
        }
        Program::Client(ClientProgram::Streams(options)) => {
            runtime().and_then(|runtime| runtime.block_on(streams::run(options)))
        }
        Program::Client(ClientProgram::Drive(options)) => lb_load::client::run(&options),
        Program::Loadserver(options) => {
            lb_load::server::serve(&options).map(|never| match never {}).context("serving")
        }
        Program::Guest { only } => guest::run(&only),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xvip-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(force_tour: bool) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let terminal = stdin().is_terminal() && stdout().is_terminal() && !force_tour;
    let lab = Lab::builder().patience(3).build()?;
    shared_flows::share(&lab).context("configuring [sync]")?;
    let result = if terminal {
        eprintln!("starting two LB nodes ...");
        lab.start_lbs().map_err(Into::into).and_then(|()| live::run(&lab, &interrupt))
    } else {
        tour::run(&lab, &interrupt)
    };
    if result.is_err() && !interrupt.asked() {
        eprintln!("the ends of the logs:\n{}", lab.last_lines());
    }
    result
}

fn idle(lbs: u8, masters: u8) -> anyhow::Result<()> {
    let interrupt = Interrupt::install().context("installing signal handlers")?;
    let lab = Lab::builder().lbs(lbs).masters(masters).build()?;
    let machines = [
        ("switch", "-".to_owned(), lab.switch()),
        ("client", lab.client_address(Family::V4).to_string(), lab.client()),
    ];
    let lbs = lab.lbs().iter().map(|lb| (lb.name(), lb.address().to_string(), lb.machine()));
    let masters = lab.masters().iter().map(|m| (m.name(), m.socket_address().to_string(), m.machine()));
    for (name, address, machine) in machines.into_iter().chain(lbs).chain(masters) {
        println!("{name:<8} {address:<17} nsenter --all --target {}", machine.init_id());
    }
    println!("files    {}", lab.dir().display());
    println!("ready");
    while !interrupt.asked() {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// One thread is enough for each of these processes, and leaves the other processors to the rest of the lab.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}
