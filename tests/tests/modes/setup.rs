//! What the end-to-end tests of the modes share: a lab with the plain service in each family, and questions to it.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use lb_tests::client_host::plain;
use lb_tests::measure::Moved;
use lb_tests::node::{NodeConfig, Status};
use lb_tests::plain::Direction;
use lb_tests::topology::{Bulk, Connections, Family, Lab, LabBuilder};

pub type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
pub const SOON: Duration = Duration::from_secs(30);

/// A lab whose nodes serve the API and the plain service in each family of `families`, as `change` says, and run.
pub fn start(
    builder: LabBuilder,
    families: &[Family],
    mut change: impl FnMut(&mut NodeConfig),
) -> Result<Lab, Box<dyn Error>> {
    let lab = builder.families(families).build()?;
    for lb in lab.lbs() {
        lb.configure(|config| {
            config.services.extend(families.iter().map(|family| lab.plain_service(*family)));
            change(config);
        })?;
    }
    lab.start_lbs()?;
    Ok(lab)
}

/// Moves so many bytes each way through the VIP; both ends must have the same hash.
pub fn both_ways(lab: &Lab, family: Family, bytes: u64) -> Result<[Moved; 2], Box<dyn Error>> {
    let one = |direction| -> Result<Moved, Box<dyn Error>> {
        let moved = lab
            .bulk(&Bulk { address: plain(family), direction, bytes, ..Bulk::default() })
            .map_err(|why| format!("{family:?} {direction:?}: {why}"))?;
        assert!(moved.is_intact(), "{moved:?}");
        let rate = bytes as f64 / 1e6 / moved.took.as_secs_f64();
        println!("{family:?} {direction:?}: {} MB in {:.2?}: {rate:.0} MB/s", bytes / 1_000_000, moved.took);
        Ok(moved)
    };
    Ok([one(Direction::Upload)?, one(Direction::Download)?])
}

/// Opens so many short connections; who answered how many. One that fails is an error.
pub fn ask(lab: &Lab, connections: &Connections) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let client = lab.short(connections)?;
    client.wait_done(Duration::from_secs(180))?;
    let failures = client.failures(0);
    if failures.is_empty() { Ok(client.by_server(0)) } else { Err(format!("failed: {failures:?}").into()) }
}

/// How many packets were sent on for this reason.
pub fn transmitted(status: &Status, reason: &str) -> u64 {
    status.packets.transmitted.get(reason).copied().unwrap_or_else(|| panic!("no reason {reason}"))
}

/// How many packets were dropped for this reason.
pub fn dropped(status: &Status, reason: &str) -> u64 {
    status.packets.dropped.get(reason).copied().unwrap_or_else(|| panic!("no reason {reason}"))
}

/// The drops, without those reasons that have none.
pub fn drops(status: &Status) -> BTreeMap<String, u64> {
    status.packets.dropped.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (name.clone(), *n)).collect()
}
