//! The commands of `xvip`, and what its exit codes mean.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use super::{
    backend, capture, check, cleanup, doctor, explain, flows, import, password, rebalance, reload, run,
    schema, status, top, trace, vip, who,
};
use crate::config::model::DEFAULT_SOCKET;

/// Exit code for a wrong command line or a wrong configuration. 0 is done, 1 is failed at run time.
pub const EXIT_USAGE: u8 = 2;

/// A virtual IP and a TCP load balancer for Kubernetes API servers, in XDP.
#[derive(Debug, Parser)]
#[command(name = "xvip", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon, in the foreground
    Run(run::RunArgs),
    /// Validate a configuration and print what it means
    Check(check::CheckArgs),
    /// Look for what keeps xvip from working on this node and its network, and say how to mend it
    Doctor(doctor::DoctorArgs),
    /// Write an xvip.toml from HAProxy's, keepalived's and Pacemaker's files, and say what became of each line
    Import(import::ImportArgs),
    /// Show who owns the VIP and why, each backend, and what becomes of the packets
    Status(status::StatusArgs),
    /// The same, live, with keys that drain and enable backends and move the VIP
    Top(top::TopArgs),
    /// List the flows, with their backends and NAT ports; also while the daemon is down
    Flows(flows::FlowsArgs),
    /// Find out whose connection a backend saw from a NAT port, now or earlier
    Who(who::WhoArgs),
    /// Show each decision that the data plane takes for a client's packets; also while the daemon is down
    Trace(trace::TraceArgs),
    /// Write what XDP received and sent into a file for Wireshark, with the verdict of each packet
    Capture(capture::CaptureArgs),
    /// Tell what is so of a backend, VIP, service or VRRP instance, why, and how it came to that; also while the daemon is down
    Explain(explain::ExplainArgs),
    /// Hand the VIP over to another node, or take it back
    Vip(vip::VipArgs),
    /// Take a backend out, or in again, or change its weight, until it is taken back
    Backend(backend::BackendArgs),
    /// Move connections from backends that have too many, a few at a time
    Rebalance(rebalance::RebalanceArgs),
    /// Hash a password for [[http.user]]
    Password(password::PasswordArgs),
    /// Let the daemon read its configuration again
    Reload(reload::ReloadArgs),
    /// Remove the program, pins and addresses that a stopped or killed daemon left
    Cleanup(cleanup::CleanupArgs),
}

/// Where the daemon listens.
#[derive(Clone, Debug, clap::Args)]
pub struct SocketArgs {
    /// The control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// The whole command line, as the manual pages, the completions and the reference are made of it.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Parses the command line and carries it out. A wrong one ends the process with code 2.
pub fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(error) => match schema::Asked::of(&error) {
            Some(schema::Asked(text)) => return print(text),
            None => error.exit(),
        },
    };
    match command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Flows(args) => flows::run(&args),
        Command::Who(args) => who::run(&args),
        Command::Trace(args) => trace::run(&args),
        Command::Capture(args) => capture::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Vip(args) => vip::run(&args),
        Command::Backend(args) => backend::run(&args),
        Command::Rebalance(args) => rebalance::run(&args),
        Command::Password(args) => password::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Cleanup(args) => cleanup::run(&args),
    }
}

fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // `xvip status --json-schema | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error.into()),
    }
}

/// Runs a future to its end on this thread.
pub(super) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// Says what went wrong and gives the code for it.
pub(super) fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_command_takes_what_the_design_says() {
        for line in [
            "xvip run",
            "xvip run --config /tmp/x.toml --socket /tmp/x.sock",
            "xvip check --config /tmp/x.toml --json",
            "xvip doctor",
            "xvip doctor --config /tmp/x.toml --socket /tmp/x.sock --listen 500ms --try-attach --json",
            "xvip import --haproxy /tmp/h.cfg --keepalived /tmp/1.conf --keepalived /tmp/2.conf -o /tmp/out/",
            "xvip import --crm - --corosync /tmp/c.conf --node lb1 --interface eth0 --vip 10.0.0.1/24 --report r.json --json",
            "xvip import --haproxy h --keep-timeouts --resolve",
            "xvip password",
            "xvip status --json --socket /tmp/x.sock",
            "xvip status --config /tmp/x.toml",
            "xvip top",
            "xvip top --interval 500ms --config /tmp/x.toml --socket /tmp/x.sock",
            "xvip flows --sort bytes --limit 20",
            "xvip flows --config /tmp/x.toml --client 10.0.0.0/8 --backend m1 --json",
            "xvip flows --client fd00::7",
            "xvip who --nat-port 50000",
            "xvip who --nat-port 50000 --at 2026-01-02T03:04:05Z --backend m1 --slack 2s --json --config /tmp/x.toml",
            "xvip trace --client 10.0.0.7:4000",
            "xvip trace --client [fd00::7]:4000 --json --count 3 --seconds 9 --config /tmp/x.toml",
            "xvip trace --client 10.0.0.0/8 --verbose",
            "xvip capture -o /tmp/x.pcapng",
            "xvip capture -o - --client fd00::7 --headers --count 3 --seconds 9",
            "xvip explain master1",
            "xvip explain 172.16.0.10 --since 1h --json --config /tmp/x.toml --socket /tmp/x.sock",
            "xvip vip release",
            "xvip vip acquire main --socket /tmp/x.sock",
            "xvip vip release --socket /tmp/x.sock fd10::10",
            "xvip backend drain m1",
            "xvip backend drain m1 --deadline 5m --service api --socket /tmp/x.sock",
            "xvip backend disable m1",
            "xvip backend enable m1 --service api",
            "xvip backend weight m1 50",
            "xvip backend weight m1 default --service api",
            "xvip rebalance",
            "xvip rebalance --dry-run --service api --json --socket /tmp/x.sock",
            "xvip rebalance --no-wait",
            "xvip reload --socket /tmp/x.sock",
            "xvip cleanup --config /tmp/x.toml",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_wrong_command_line_is_code_2() {
        for line in [
            "xvip",
            "xvip walk",
            "xvip run --confg x",
            "xvip flows --client 10.0.0.0/33",
            "xvip who",
            "xvip who --nat-port 0",
            "xvip who --nat-port 5000 --at yesterday",
            "xvip import --vip 10.0.0.0/24",
            "xvip import --vip ten",
            "xvip trace",
            "xvip trace --client m1",
            "xvip capture",
            "xvip top --interval 1ms",
            "xvip flows --sort size",
            "xvip explain",
            "xvip explain m1 --since yesterday",
            "xvip vip",
            "xvip doctor --listen soon",
            "xvip vip move",
            "xvip vip release one two",
            "xvip backend",
            "xvip backend drain",
            "xvip backend drain m1 --deadline soon",
            "xvip backend weight m1",
            "xvip backend weight m1 257",
            "xvip backend fly m1",
            "xvip rebalance now",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
            assert_eq!(error.exit_code(), i32::from(EXIT_USAGE), "{line}");
        }
    }
}
