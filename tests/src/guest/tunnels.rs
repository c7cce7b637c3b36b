//! `dsr-ipip` to the kernel's own tunnel devices: IPv4 and IPv6, each in each.

use std::net::SocketAddr;

use super::forwarding::{answers_from_all, lose_packets, lost, transfer, with_running_lab};
use super::{CaseResult, note};
use crate::topology::{API_PORT, Family, Lab, Mode};

const SIZE: usize = 256 << 10;

/// Two VIPs, and two API servers: one is reached by IPv4 and one by IPv6, whatever the VIP's family. Then the same with a
/// lossy link.
pub(super) fn each_family_in_each() -> CaseResult {
    with_running_lab(
        Lab::builder().masters(2).families(&Family::BOTH).mode(Mode::DsrIpip),
        |config| {
            for service in &mut config.services {
                for (backend, family) in service.backends.iter_mut().zip(Family::BOTH) {
                    let number = backend.name.trim_start_matches("master").parse::<u8>().unwrap_or(1) + 3;
                    let ip = match family {
                        Family::V4 => crate::topology::host(number).into(),
                        Family::V6 => crate::topology::host6(number).into(),
                    };
                    backend.address = SocketAddr::new(ip, API_PORT);
                }
            }
        },
        |lab| {
            for master in lab.masters() {
                let outer_and_inner = (Family::V4, Family::V4);
                assert_eq!(
                    master.decapsulated(outer_and_inner.0, outer_and_inner.1),
                    None,
                    "{} has no tunnel devices",
                    master.name()
                );
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
