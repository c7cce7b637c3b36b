//! A running lab with the plain service in it, and traffic through the VIP of which nothing may go wrong: what the
//! end-to-end tests of modes, limits and interfaces share.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use crate::client_host::plain;
use crate::measure::Moved;
use crate::node::{NodeConfig, Status};
use crate::plain::Direction;
use crate::topology::{Bulk, Connections, Family, Lab, LabBuilder};

/// How long [`ask`] waits for all connections.
const ALL: Duration = Duration::from_secs(180);

/// Builds a lab whose nodes serve the API and the plain service in each of `families`, changed as `change` says, and
/// starts them.
///
/// # Errors
/// When the lab cannot be built, or its nodes do not come up.
pub fn start(
    builder: LabBuilder,
    families: &[Family],
    mut change: impl FnMut(&mut NodeConfig),
) -> Result<Lab, Box<dyn Error>> {
    start_with(builder, families, |_, config| change(config))
}

/// The same for a change that asks the lab.
///
/// # Errors
/// As [`start`].
pub fn start_with(
    builder: LabBuilder,
    families: &[Family],
    mut change: impl FnMut(&Lab, &mut NodeConfig),
) -> Result<Lab, Box<dyn Error>> {
    let lab = builder.families(families).build()?;
    for lb in lab.lbs() {
        lb.configure(|config| {
            config.services.extend(families.iter().map(|family| lab.plain_service(*family)));
            change(&lab, config);
        })?;
    }
    lab.start_lbs()?;
    Ok(lab)
}

/// Moves so many bytes through the VIP and prints how fast.
///
/// # Errors
/// When the connection fails, or the hashes at both ends differ.
pub fn one_way(lab: &Lab, family: Family, direction: Direction, bytes: u64) -> Result<Moved, Box<dyn Error>> {
    let moved = lab
        .bulk(&Bulk { address: plain(family), direction, bytes, ..Bulk::default() })
        .map_err(|why| format!("{family:?} {direction:?}: {why}"))?;
    if !moved.is_intact() {
        return Err(format!("{family:?} {direction:?}: not what was sent: {moved:?}").into());
    }
    let rate = bytes as f64 / 1e6 / moved.took.as_secs_f64();
    println!("{family:?} {direction:?}: {} MB in {:.2?}: {rate:.0} MB/s", bytes / 1_000_000, moved.took);
    Ok(moved)
}

/// [`one_way`] in each direction.
///
/// # Errors
/// As [`one_way`].
pub fn both_ways(lab: &Lab, family: Family, bytes: u64) -> Result<(), Box<dyn Error>> {
    for direction in [Direction::Upload, Direction::Download] {
        one_way(lab, family, direction, bytes)?;
    }
    Ok(())
}

/// Opens so many short connections; who answered how many.
///
/// # Errors
/// When one of them fails.
pub fn ask(lab: &Lab, connections: &Connections) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let client = lab.short(connections)?;
    client.wait_done(ALL)?;
    let failures = client.failures(0);
    if failures.is_empty() { Ok(client.by_server(0)) } else { Err(format!("failed: {failures:?}").into()) }
}

/// How many packets a node sent on for this reason.
///
/// # Errors
/// When it knows no such reason.
pub fn transmitted(status: &Status, reason: &str) -> Result<u64, String> {
    status.packets.transmitted.get(reason).copied().ok_or_else(|| format!("no reason {reason}"))
}

/// How many packets a node dropped for this reason.
///
/// # Errors
/// When it knows no such reason.
pub fn dropped(status: &Status, reason: &str) -> Result<u64, String> {
    status.packets.dropped.get(reason).copied().ok_or_else(|| format!("no reason {reason}"))
}

/// The packets that a node dropped, without those reasons that have none.
#[must_use]
pub fn drops(status: &Status) -> BTreeMap<String, u64> {
    status.packets.dropped.iter().filter(|(_, n)| **n > 0).map(|(name, n)| (name.clone(), *n)).collect()
}
