//! What is measured beside what xvip replaces. Each benchmark is one file and one entry in [`Bench`]; it prints a table
//! with everything that is needed to judge it, and fails only when something could not be measured, never because a
//! figure is bad.

pub mod control;
pub mod facts;
pub mod failover;
pub mod icount;
pub mod packet;
pub mod plot;
pub mod report;
mod samples;
pub mod series;
pub mod stack;
pub mod survive;
pub mod table;
pub mod tcp;
pub mod wire;

use clap::Subcommand;

/// The benchmarks.
#[derive(Debug, Clone, Subcommand)]
pub enum Bench {
    /// Reloads, tables, health checks, sweeps, restarts and joining nodes; HAProxy where it does the same
    Control(control::Options),
    /// Time without service when a node dies, hands over or loses its balancer: HAProxy with keepalived, and xvip
    Failover(failover::Options),
    /// Executed instructions per packet, on Debian's kernels in QEMU
    Icount(icount::Options),
    /// Time per packet in the XDP programs, above an empty one; and in Katran's, where it was built
    Packet(packet::Options),
    /// What becomes of long-lived streams and of requests in all that can happen: HAProxy with keepalived, and xvip
    Survive(survive::Options),
    /// What a balancer costs its clients and its machine: HAProxy, nftables, xvip, and none at all
    Tcp(tcp::Options),
    /// Packets per second of one core over a veth: xvip in each mode, and what else the kernel can balance with
    Wire(wire::Options),
}

/// Runs one.
///
/// # Errors
/// What could not be measured.
pub fn run(bench: Bench) -> anyhow::Result<()> {
    match bench {
        Bench::Control(options) => control::run(&options),
        Bench::Failover(options) => failover::run(&options),
        Bench::Icount(options) => icount::run(&options),
        Bench::Packet(options) => packet::run(&options),
        Bench::Survive(options) => survive::run(&options),
        Bench::Tcp(options) => tcp::run(&options),
        Bench::Wire(options) => wire::run(&options),
    }
}
