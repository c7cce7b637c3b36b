//! xvip as a service of such a system.

use std::{fs, time::Duration};

use serde_json::Value;

use super::{System, base};
use crate::{packages, topology::Lab, wait};

/// Its unit.
pub const UNIT: &str = "xvip.service";
/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
pub const SOON: Duration = Duration::from_secs(90);

/// The first node of a lab with a system that has our package for Debian at `/tmp/xvip.deb`, not installed.
///
/// # Errors
/// The system does not boot, or the package cannot be made.
pub fn system_with_package(lab: &Lab) -> anyhow::Result<System> {
    let machine = lab.lb(0).machine();
    let system = System::boot(machine, &base::directory(&base::scratch())?, &lab.dir().join("system"))?;
    system.write("/tmp/xvip.deb", fs::read(packages::deb(lab.dir())?)?)?;
    Ok(system)
}

/// What `xvip status --json` says.
///
/// # Errors
/// It says nothing that can be read.
pub fn status(system: &System) -> anyhow::Result<Value> {
    let output = system.output(&["xvip", "status", "--json"])?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Waits until its only virtual router is Active.
///
/// # Errors
/// It is not, with the end of the unit's log.
pub fn wait_active(system: &System) -> anyhow::Result<()> {
    let active = wait::until("it to be active", 2 * SOON, || {
        status(system).is_ok_and(|status| status["vrrp"][0]["state"] == "active")
    });
    active.map_err(|error| anyhow::anyhow!("{error}\n{}", system.journal(UNIT)))
}

/// Waits until its log has a text: what a process has said last is written a moment after its end.
///
/// # Errors
/// It has not, with the end of the log.
pub fn wait_logged(system: &System, text: &str) -> anyhow::Result<()> {
    let logged = wait::until(text, SOON, || system.journal(UNIT).contains(text));
    logged.map_err(|error| anyhow::anyhow!("{error}\n{}", system.journal(UNIT)))
}
