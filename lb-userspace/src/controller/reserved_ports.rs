//! Which ports may not be NAT ports: a backend's reply to such a port would look like a client's packet, or be one that
//! the host waits for. Pure.
//!
//! There are two spaces of ports: the VIPs', and the node's own addresses' (`snat = "node"`), from which the host opens
//! connections of its own.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use lb_common::layout::RESERVED_PORT_WORDS;

use super::host_sockets;
use crate::config::model::Config;

/// One bit per port and space, as the `RESERVED_PORTS` map has it.
pub type PortBits = [u64; RESERVED_PORT_WORDS];

/// The kernel's default of `net.ipv4.ip_local_port_range`.
const LOCAL_PORTS: RangeInclusive<u16> = 32_768..=60_999;

/// What the kernel tells of this network namespace, as text. Lines that are not understood are skipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostPorts<'a> {
    /// `/proc/net/tcp`
    pub tcp: &'a str,
    /// `/proc/net/tcp6`
    pub tcp6: &'a str,
    /// `/proc/sys/net/ipv4/ip_local_port_range`, which is that of IPv6, too.
    pub local_range: &'a str,
}

/// Of the VIPs: the ports of all services, and those that the host listens on at a VIP or at every address. Of the node:
/// these, whatever else the host listens on, and those that its own connections come from.
pub fn reserved_ports(config: &Config, vips: &BTreeSet<IpAddr>, host: &HostPorts) -> Box<PortBits> {
    let mut bits = Box::new([0; RESERVED_PORT_WORDS]);
    let (of_vips, of_node) = bits.split_at_mut(RESERVED_PORT_WORDS / 2);
    let services = config.services.iter().map(|service| service.port.get());
    let listeners = || host.tcp.lines().chain(host.tcp6.lines()).filter_map(listener);
    let at_vips = listeners().filter(|(address, _)| address.is_unspecified() || vips.contains(address));
    set(of_vips, services.chain(at_vips.map(|(_, port)| port)));
    of_node.copy_from_slice(of_vips);
    set(of_node, listeners().map(|(_, port)| port).chain(local_range(host.local_range)));
    bits
}

fn set(bits: &mut [u64], ports: impl Iterator<Item = u16>) {
    for port in ports {
        bits[usize::from(port >> 6)] |= 1 << (port & 63);
    }
}

fn local_range(text: &str) -> RangeInclusive<u16> {
    let mut ends = text.split_ascii_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) if first <= last => first..=last,
        _ => LOCAL_PORTS,
    }
}

/// Address and port of a line that is a listening socket; `::` counts as every address, IPv4 included.
fn listener(line: &str) -> Option<(IpAddr, u16)> {
    let socket = host_sockets::socket(line)?;
    (socket.state == host_sockets::LISTEN).then_some(socket.local)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::desired::tests::{config, service};

    // As the kernel prints it on a little-endian machine.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n   \
        1: 0A0010AC:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 2 1 0 100 0 0 10 0\n   \
        2: 0100007F:2379 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3 1 0 100 0 0 10 0\n   \
        3: 0A0010AC:A001 040010AC:192B 01 00000000:00000000 00:00000000 00000000     0        0 4 1 0 20 4 30 10 -1\n";
    const TCP6: &str = "  sl  local_address                         remote_address                        st\n   \
        0: 00000000000000000000000000000000:192C 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5\n   \
        1: 0000000000000000FFFF00000A0010AC:192D 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 6\n   \
        2: 000080FE00000000000000000100007F:192E 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7\n";

    fn ports(bits: &[u64]) -> Vec<usize> {
        (0..65_536).filter(|port| bits[port >> 6] & (1 << (port & 63)) != 0).collect()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_found_with_their_addresses() {
        let find = |text: &str| text.lines().filter_map(listener).collect::<Vec<_>>();
        let vip = IpAddr::from([172, 16, 0, 10]);
        assert_eq!(
            find(TCP),
            [(Ipv4Addr::UNSPECIFIED.into(), 22), (vip, 8080), (Ipv4Addr::LOCALHOST.into(), 9081)],
            "an established connection is none"
        );
        let v6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x7f00, 1);
        assert_eq!(find(TCP6), [(Ipv6Addr::UNSPECIFIED.into(), 6444), (vip, 6445), (v6.into(), 6446)]);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_bit_is_set_for_each_of_them_and_each_service() {
        let vip = Ipv4Addr::new(172, 16, 0, 10);
        let config = config(vec![service("api", vip, &[4])]);
        let host = HostPorts { tcp: TCP, tcp6: TCP6, local_range: "40000\t40002\n" };
        let bits = reserved_ports(&config, &BTreeSet::from([vip.into()]), &host);
        let (of_vips, of_node) = bits.split_at(RESERVED_PORT_WORDS / 2);
        assert_eq!(ports(of_vips), [22, 6443, 6444, 6445, 8080]);
        assert_eq!(ports(of_node), [22, 6443, 6444, 6445, 6446, 8080, 9081, 40_000, 40_001, 40_002]);

        let v6 = IpAddr::from(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x7f00, 1));
        let bits = reserved_ports(&config, &BTreeSet::from([v6]), &host);
        assert!(ports(&bits[..RESERVED_PORT_WORDS / 2]).contains(&6446), "a VIP of IPv6");
    }

    #[test]
    fn a_range_that_is_not_understood_is_the_kernel_s_default() {
        for text in ["", "1", "x y", "40000 39999", "70000 80000"] {
            assert_eq!(local_range(text), LOCAL_PORTS, "{text:?}");
        }
    }

    #[test]
    fn garbage_is_skipped() {
        for line in
            ["", "x", "0: 0:0 0:0 0A", "0: zz000000:0016 0:0 0A", "0: 00000000:FFFFF 0:0 0A", "0: é:1 x 0A"]
        {
            assert_eq!(listener(line), None, "{line:?}");
        }
    }
}
