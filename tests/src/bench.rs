//! What is measured beside what xvip replaces. Each benchmark is one file and one entry in [`Bench`]; it prints a table
//! with everything that is needed to judge it, and fails only when something could not be measured, never because a
//! figure is bad.

pub mod failover;
mod origin;
mod samples;
mod stack;

use clap::Subcommand;

/// The benchmarks.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// Time without service when a node dies, hands over or loses its balancer: HAProxy with keepalived, and xvip
    Failover(failover::Options),
}

/// Runs one.
///
/// # Errors
/// What could not be measured.
pub fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Failover(options) => failover::run(&options),
    }
}
