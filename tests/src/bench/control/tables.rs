//! Making a Maglev table, in this process.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

use anyhow::Context;
use lb_userspace::maglev::{self, Member};

use super::Bench;
use crate::bench::series::Unit;

/// How many backends are in it.
const SIZES: [u16; 3] = [3, 100, 1000];

/// Makes tables of several sizes.
///
/// # Errors
/// When something could not be measured.
pub fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        bench.report.note("Tables and sweep were measured in a build without optimization: `cargo xtask bench control` makes another one.");
    }
    let crowds = SIZES.map(|count| (0..count).map(member).collect::<Vec<_>>());
    bench.rounds("tables", |report, round| {
        for members in &crowds {
            let begin = Instant::now();
            let table = maglev::table(black_box(members)).context("a table without backends")?;
            let took = begin.elapsed();
            drop(black_box(table));
            report.record(
                round,
                "Maglev table of 65,537",
                &format!("{} backends", members.len()),
                Unit::Seconds,
                took.as_secs_f64(),
            );
        }
        Ok(())
    })
}

fn member(n: u16) -> Member {
    let [high, low] = n.to_be_bytes();
    Member { id: n, address: (Ipv4Addr::new(10, 77, high, low), 6443).into(), weight: 1 }
}
