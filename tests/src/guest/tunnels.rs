//! `dsr-ipip` to the kernel's own tunnel devices: IPv4 and IPv6, each in each.

use std::net::SocketAddr;

use super::forwarding::{answers_from_all, lose_packets, lost, transfer, with_running_lab};
use super::{CaseResult, note};
use crate::topology::{API_PORT, Family, Lab, Mode, host, host6};

const SIZE: usize = 256 << 10;

/// Two VIPs, and two API servers: one is reached by IPv4 and one by IPv6, whatever the VIP's family. Then the same with a
/// lossy link.
pub(super) fn each_family_in_each() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2).families(&Family::BOTH).mode(Mode::DsrIpip),
        |config| {
            for service in &mut config.services {
                for (backend, family) in service.backends.iter_mut().zip(Family::BOTH) {
                    backend.address = address(&backend.name, family);
                }
            }
        },
        |lab| {
            for master in lab.masters() {
                let by_program = master.decapsulated(Family::V4, Family::V4);
                assert_eq!(by_program, None, "{} has no tunnel devices", master.name());
            }
            for family in Family::BOTH {
                answers_from_all(lab, family)?;
                transfer(lab, family, SIZE)?;
            }
            lose_packets(lab)?;
            for family in Family::BOTH {
                transfer(lab, family, SIZE)?;
            }
            note(format!("{} KiB each way over a lossy link, {} packets lost", SIZE >> 10, lost(lab)?));
            Ok(())
        },
    )
}

/// Where the API server of this name is in this family: `master1` is host 4.
fn address(name: &str, family: Family) -> SocketAddr {
    let number = if name == "master1" { 4 } else { 5 };
    let ip = match family {
        Family::V4 => host(number).into(),
        Family::V6 => host6(number).into(),
    };
    SocketAddr::new(ip, API_PORT)
}
