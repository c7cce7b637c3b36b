//! A machine that forwards packets by the kernel's routes and does nothing else: no filter, no connection tracking, no
//! address translation. What a balancer of the kernel's costs at least.

use std::net::Ipv4Addr;

use crate::netns::{Netns, NetnsError};
use crate::topology::Lab;

/// Third octet of the network that the servers have further addresses in: only the router leads there, and back.
const BEHIND: u8 = 9;
/// The routing table of what they send from there.
const TABLE: u8 = 9;

/// Where the servers are reached by way of the router.
pub(super) fn addresses(lab: &Lab) -> Vec<Ipv4Addr> {
    (1..=lab.masters().len() as u8).map(behind).collect()
}

/// Makes a router of a machine of the main network, between the client and the servers in both directions.
///
/// # Errors
/// When a route cannot be set.
pub(super) fn configure(lab: &Lab, machine: &Netns, address: Ipv4Addr) -> Result<(), NetnsError> {
    forward(machine)?;
    let network = format!("{}/24", behind(0));
    lab.client().ip(&format!("route add {network} via {address}"))?;
    for (master, behind) in lab.masters().iter().zip(addresses(lab)) {
        let server = master.machine();
        server.ip(&format!("address add {behind}/32 dev lo"))?;
        server.ip(&format!("rule add from {network} lookup {TABLE}"))?;
        server.ip(&format!("route add default via {address} table {TABLE}"))?;
        machine.ip(&format!("route add {behind}/32 via {}", master.address()))?;
    }
    Ok(())
}

/// Has a machine's kernel forward. Everybody is on one network: it would tell the clients that they could have gone to the
/// server directly.
pub(super) fn forward(machine: &Netns) -> Result<(), NetnsError> {
    machine.sysctl("net/ipv4/ip_forward", "1")?;
    for scope in ["all", "default", "eth0"] {
        machine.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    Ok(())
}

fn behind(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, BEHIND, number)
}
