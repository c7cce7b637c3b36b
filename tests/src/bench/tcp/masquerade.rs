//! A balancer of nftables' alone: each new connection goes to the next server, from the balancer's own address.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::router;
use crate::netns::Netns;

/// Makes such a balancer of a machine, for what comes to this address and port.
///
/// # Errors
/// When the kernel has no nftables, or refuses.
pub fn configure(
    machine: &Netns,
    dir: &Path,
    address: Ipv4Addr,
    port: u16,
    servers: &[Ipv4Addr],
) -> anyhow::Result<()> {
    router::forward(machine)?;
    let file = dir.join("balancer.nft");
    fs::write(&file, rules(address, port, servers))?;
    let output = machine.output(Command::new("nft").arg("-f").arg(&file))?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn rules(address: Ipv4Addr, port: u16, servers: &[Ipv4Addr]) -> String {
    let map: Vec<String> = servers.iter().enumerate().map(|(n, server)| format!("{n} : {server}")).collect();
    let (count, map) = (servers.len(), map.join(", "));
    format!(
        "table ip balancer {{
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {address} tcp dport {port} dnat to numgen inc mod {count} map {{ {map} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat masquerade
  }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_go_to_one_server_after_the_other() {
        let rules = rules([172, 16, 0, 20].into(), 7000, &[[172, 16, 0, 4].into(), [172, 16, 0, 5].into()]);
        let rule = "ip daddr 172.16.0.20 tcp dport 7000 dnat to numgen inc mod 2 map { 0 : 172.16.0.4, 1 : 172.16.0.5 }";
        assert!(rules.contains(rule), "{rules}");
    }
}
