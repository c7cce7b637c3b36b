//! Which drivers run XDP natively, and since when: for kernels before 6.3, which do not tell. Pure.

/// Driver and the first kernel whose driver can. From the kernel's history of `ndo_bpf` (first implemented as `ndo_xdp`
/// in 4.8); the list of <https://github.com/iovisor/bcc/blob/master/docs/kernel-versions.md> agrees where it has one.
const NATIVE: &[(&str, (u32, u32))] = &[
    ("atlantic", (5, 19)),
    ("bnxt_en", (4, 11)),
    ("bonding", (5, 15)),
    ("ena", (5, 6)),
    ("fec", (6, 2)),
    ("fsl_dpa", (5, 11)),
    ("fsl_dpaa2_eth", (5, 0)),
    ("fsl_enetc", (5, 13)),
    ("gve", (6, 4)),
    ("hv_netvsc", (5, 6)),
    ("i40e", (4, 13)),
    ("ice", (5, 5)),
    ("igb", (5, 10)),
    ("igc", (5, 13)),
    ("ixgbe", (4, 12)),
    ("ixgbevf", (4, 17)),
    ("mana", (5, 17)),
    ("mlx4_en", (4, 8)),
    ("mlx5_core", (4, 9)),
    ("mvneta", (5, 5)),
    ("mvpp2", (5, 9)),
    ("nfp", (4, 10)),
    ("nicvf", (4, 12)),
    ("qede", (4, 10)),
    ("sfc", (5, 5)),
    ("stmmac", (5, 13)),
    ("thunder-nicvf", (4, 12)),
    ("tun", (4, 14)),
    ("veth", (4, 19)),
    ("vif", (5, 9)),
    ("virtio_net", (4, 10)),
    ("vmxnet3", (6, 6)),
];

/// Drivers of virtual interfaces, to which attaching does nothing that anybody would notice.
pub const HARMLESS: [&str; 2] = ["veth", "tun"];

/// Whether the driver can run XDP natively with this kernel; `None` where that is not known.
pub fn runs_natively(driver: &str, kernel: (u32, u32)) -> Option<bool> {
    let (_, since) = NATIVE.iter().find(|(name, _)| *name == driver)?;
    Some(kernel >= *since)
}

/// The first two numbers of a kernel's release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The largest MTU at which any driver takes a program that does not know of fragments: a page without the headroom and
/// the tail that XDP wants, on machines with pages of 4 KiB. Some stop well below (Intel's at about 3,000).
pub const LARGEST_MTU: u32 = 3520;
/// What a network has where nobody changed it.
pub const ETHERNET_MTU: u32 = 1500;
/// One that all of them take.
pub const SAFE_MTU: u32 = 3000;

/// The command that makes packets small enough, given what the kernel said.
pub fn smaller_mtu(interface: &str, message: &str) -> String {
    if message.to_ascii_lowercase().contains("peer") {
        format!(
            "ip link set dev PEER mtu {ETHERNET_MTU}   # the other end of {interface} (ip -d link show {interface})"
        )
    } else {
        format!("ip link set dev {interface} mtu {SAFE_MTU}   # and on the other machines of the network")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_the_first_two_numbers() {
        for (release, expected) in [
            ("6.1.0-13-amd64", Some((6, 1))),
            ("5.14.0-362.el9.x86_64", Some((5, 14))),
            ("6.18.44-fc-v657", Some((6, 18))),
            ("6.12-rc1", Some((6, 12))),
            ("six", None),
            ("", None),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn a_driver_needs_its_kernel() {
        assert_eq!(runs_natively("igb", (5, 9)), Some(false));
        assert_eq!(runs_natively("igb", (5, 10)), Some(true));
        assert_eq!(runs_natively("e1000", (6, 12)), None);
        assert!(NATIVE.is_sorted());
    }
}
