//! A client that asks at a steady rate and never waits: what a time without service is measured with.
//!
//! Each request is a TCP connection of its own to the plain service ([`crate::plain`]), a question, and an answer of the
//! API server behind: a balancer that accepts a connection and reaches nobody has not served it. There is no TLS, whose
//! cost would be the larger part of the load on a small machine, and the same for everybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::{Event, monotonic_us, print};
use crate::plain;

/// How to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct ProbeOptions {
    /// Where the plain service is.
    #[arg(long)]
    pub address: SocketAddr,
    /// Microseconds from one request to the next.
    #[arg(long, default_value_t = 5_000)]
    pub interval_us: u64,
    /// Milliseconds after which a request has failed. Less than a second, after which the kernel repeats a SYN: a
    /// request that began while nobody was there must not be answered later.
    #[arg(long, default_value_t = 300)]
    pub timeout_ms: u64,
}

/// Asks until the process ends and prints an [`Event::Answered`] or an [`Event::Failed`] for each request.
pub async fn run(options: ProbeOptions) {
    plain::raise_descriptor_limit();
    let limit = Duration::from_millis(options.timeout_ms);
    let mut ticks = interval(Duration::from_micros(options.interval_us.max(100)));
    // No burst after a pause: it would be one moment, looked at often.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let address = Arc::new(options.address);
    loop {
        ticks.tick().await;
        let address = address.clone();
        // Those in flight are bounded by the time-out.
        tokio::spawn(async move {
            let begin = monotonic_us();
            let asked = timeout(limit, plain::ask_once(*address)).await;
            let at_us = monotonic_us();
            let took_us = at_us - begin;
            // An answer that lay there while this process was not scheduled came in time to no client.
            let in_time = took_us <= limit.as_micros() as u64;
            let asked = asked.ok().filter(|asked| asked.is_err() || in_time);
            print(&match asked.unwrap_or_else(|| Err(plain::late("answer", limit))) {
                Ok(server) => Event::Answered { at_us, took_us, server },
                Err(error) => Event::Failed { at_us, took_us, error },
            });
        });
    }
}
