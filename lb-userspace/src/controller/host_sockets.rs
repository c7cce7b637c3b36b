//! The host's TCP sockets, as `/proc/net/tcp` tells of them. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::reserved_ports::HostPorts;

/// `TCP_LISTEN` of the kernel's include/net/tcp_states.h.
pub const LISTEN: u8 = 10;
/// Nobody holds these any more: `TCP_TIME_WAIT`, `TCP_CLOSE`.
const OVER: [u8; 2] = [6, 7];

/// A line of `/proc/net/tcp` or `tcp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The host's own end.
    pub local: (IpAddr, u16),
    /// One of the kernel's `TCP_` states.
    pub state: u8,
}

/// The socket that a line is about; an IPv4 address of a socket of IPv6 is one of IPv4.
///
/// Addresses are words of four bytes printed as the machine's own numbers (Documentation/networking/proc_net_tcp.rst).
pub fn socket(line: &str) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    let state = u8::from_str_radix(state, 16).ok()?;
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => Ipv4Addr::from(word(address)?).into(),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(address.get(index * 8..index * 8 + 8)?)?);
            }
            let address = Ipv6Addr::from(octets);
            address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
        }
        _ => return None,
    };
    Some(Socket { local: (address, port), state })
}

/// How many connections the host has at each of its addresses and ports.
pub fn connections(host: &HostPorts) -> BTreeMap<(IpAddr, u16), u64> {
    let mut counts = BTreeMap::new();
    for Socket { local, state } in host.tcp.lines().chain(host.tcp6.lines()).filter_map(socket) {
        if state != LISTEN && !OVER.contains(&state) {
            *counts.entry(local).or_default() += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn what_still_has_an_end_here_is_counted_by_address_and_port() {
        let line =
            |local: &str, state: &str| format!("   0: {local} 640010AC:A001 {state} 00000000:00000000 0\n");
        let (vip, mapped) = ("0A0010AC:192B", "0000000000000000FFFF00000A0010AC:192B");
        let v6 = "000010FD000000000000000010000000:192B";
        let tcp: String = [
            line(vip, "01"),
            line(vip, "08"),
            line(vip, "03"),
            line(vip, "0A"),
            line(vip, "06"),
            line(vip, "07"),
            line("0A0010AC:0016", "01"),
        ]
        .concat();
        let tcp6: String = [line(mapped, "01"), line(v6, "01"), line(v6, "0A")].concat();
        let counts = connections(&HostPorts { tcp: &tcp, tcp6: &tcp6, local_range: "" });
        let vip = IpAddr::from([172, 16, 0, 10]);
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x10));
        assert_eq!(counts, BTreeMap::from([((vip, 22), 1), ((vip, 6443), 4), ((v6, 6443), 1)]));
    }
}
