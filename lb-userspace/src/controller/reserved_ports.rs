//! Which ports may not be NAT ports: a backend's reply to such a port of the VIP would look like a client's packet, or
//! be one that the host waits for. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{config::model::Config, dataplane::RESERVED_PORT_WORDS};

/// One bit per port, as the `RESERVED_PORTS` map has it.
pub type PortBits = [u64; RESERVED_PORT_WORDS];

/// The ports of all services, and those that the host listens on at a VIP or at every address. `tcp` and `tcp6` are the
/// texts of `/proc/net/tcp` and `/proc/net/tcp6`; lines that are not understood are skipped.
pub fn reserved_ports(config: &Config, vips: &[Ipv4Addr], tcp: &str, tcp6: &str) -> Box<PortBits> {
    let mut bits = Box::new([0; RESERVED_PORT_WORDS]);
    let services = config.services.iter().map(|service| service.port.get());
    let listening = tcp.lines().chain(tcp6.lines()).filter_map(listener);
    let listening = listening.filter(|(address, _)| address.is_unspecified() || vips.contains(address));
    for port in services.chain(listening.map(|(_, port)| port)) {
        bits[usize::from(port >> 6)] |= 1 << (port & 63);
    }
    bits
}

/// Address and port of a line that is a listening socket; `::` counts as every address, IPv4 included.
///
/// Addresses are words of four bytes printed as the machine's own numbers (Documentation/networking/proc_net_tcp.rst).
fn listener(line: &str) -> Option<(Ipv4Addr, u16)> {
    const TCP_LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (local, state) = (fields.nth(1)?, fields.nth(1)?);
    if state != TCP_LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => Ipv4Addr::from(word(address)?),
        32 => {
            let mut octets = [0; 16];
            for (index, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(address.get(index * 8..index * 8 + 8)?)?);
            }
            let address = Ipv6Addr::from(octets);
            if address.is_unspecified() { Ipv4Addr::UNSPECIFIED } else { address.to_ipv4_mapped()? }
        }
        _ => return None,
    };
    Some((address, port))
}

#[cfg(test)]
mod tests {
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

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_at_the_vip_or_everywhere_are_found() {
        let find = |text: &str| text.lines().filter_map(listener).collect::<Vec<_>>();
        let vip = Ipv4Addr::new(172, 16, 0, 10);
        assert_eq!(
            find(TCP),
            [(Ipv4Addr::UNSPECIFIED, 22), (vip, 8080), (Ipv4Addr::new(127, 0, 0, 1), 9081)],
            "an established connection is none"
        );
        assert_eq!(find(TCP6), [(Ipv4Addr::UNSPECIFIED, 6444), (vip, 6445)], "an IPv6 address is no VIP");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_bit_is_set_for_each_of_them_and_each_service() {
        let config = config(vec![service("api", Ipv4Addr::new(172, 16, 0, 10), &[4])]);
        let bits = reserved_ports(&config, &[Ipv4Addr::new(172, 16, 0, 10)], TCP, TCP6);
        let ports: Vec<usize> =
            (0..65_536).filter(|port| bits[port >> 6] & (1 << (port & 63)) != 0).collect();
        assert_eq!(ports, [22, 6443, 6444, 6445, 8080]);
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
