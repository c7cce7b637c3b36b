//! Are clients on the node itself sent to a backend on this kernel, and do they see the VIP?

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{CaseResult, note};
use crate::topology::{API_PORT, Lab, VIP};

/// Under emulation a handshake takes its time.
const LIMIT: Duration = Duration::from_secs(20);

/// Both kinds of socket connect from the node that owns the VIP, where nobody listens.
pub(super) fn connect(lab: &Lab) -> CaseResult {
    let lb = lab.lb(0);
    let problems = lb.status()?.raw["problems"].to_string();
    assert_eq!(problems, "[]");
    for vip in [IpAddr::from(VIP), VIP.to_ipv6_mapped().into()] {
        let to = SocketAddr::new(vip, API_PORT);
        let peer = lb.machine().run(|| TcpStream::connect_timeout(&to, LIMIT)?.peer_addr())??;
        assert_eq!(peer, to);
    }
    let counted = lb.status()?.raw["services"][0]["local_clients"].clone();
    assert_eq!(counted["redirected"], 2, "{counted}");
    note(format!("connects on the node itself: {counted}"));
    Ok(())
}
