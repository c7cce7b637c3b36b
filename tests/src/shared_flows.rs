//! `[sync]` in a lab: its nodes keep each other's flows.

use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use crate::node::LbNode;
use crate::topology::Lab;

/// Where each node listens for its peers.
pub const SYNC_PORT: u16 = 7946;

/// Where this node listens for its peers.
#[must_use]
pub fn listens_at(node: &LbNode) -> SocketAddr {
    SocketAddr::new(node.address(), SYNC_PORT)
}

/// Writes a file of the lab with a key, made of 32 times these two digits.
///
/// # Errors
/// When it cannot be written.
pub fn key_file(lab: &Lab, name: &str, digits: &str) -> io::Result<PathBuf> {
    let path = lab.dir().join(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    writeln!(file, "hex:{}", digits.repeat(32))?;
    Ok(path)
}

/// Configures all nodes of a lab to keep each other's flows; to be done before they start.
///
/// # Errors
/// When a file cannot be written.
pub fn share(lab: &Lab) -> io::Result<()> {
    let key = key_file(lab, "sync.key", "5a")?;
    for lb in lab.lbs() {
        let others = lab.lbs().iter().filter(|other| other.name() != lb.name());
        let others: Vec<_> = others.map(listens_at).collect();
        lb.configure(|config| config.exchange_flows(listens_at(lb), &others, &key))?;
    }
    Ok(())
}
