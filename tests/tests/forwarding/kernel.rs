//! What the kernel's own network stack of a machine has seen.

use std::error::Error;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::netns::Netns;
use lb_tests::wait;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Counters of `/proc/net/snmp`.
#[derive(Debug, Clone, Copy)]
pub struct KernelStack {
    /// `Tcp: InSegs`: what its TCP received.
    pub tcp_segments_in: u64,
    /// `Tcp: PassiveOpens`: connections that its sockets accepted.
    pub tcp_accepted: u64,
    /// `Ip: ForwDatagrams`: what it routed.
    pub forwarded: u64,
}

impl KernelStack {
    /// As they are now.
    pub fn of(machine: &Netns) -> Result<Self, Box<dyn Error>> {
        let snmp = read(machine, "/proc/net/snmp")?;
        let counter = |protocol: &str, name: &str| -> Result<u64, Box<dyn Error>> {
            // A line of names, then a line of values.
            let mut lines = snmp.lines().filter(|line| line.split(':').next() == Some(protocol));
            let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            let place = names.split_whitespace().position(|word| word == name);
            let value = place.and_then(|place| values.split_whitespace().nth(place));
            Ok(value.ok_or_else(|| format!("no {protocol}: {name} in {snmp}"))?.parse()?)
        };
        Ok(Self {
            tcp_segments_in: counter("Tcp", "InSegs")?,
            tcp_accepted: counter("Tcp", "PassiveOpens")?,
            forwarded: counter("Ip", "ForwDatagrams")?,
        })
    }

    /// By how much they have grown.
    pub fn since(self, before: &Self) -> Self {
        Self {
            tcp_segments_in: self.tcp_segments_in - before.tcp_segments_in,
            tcp_accepted: self.tcp_accepted - before.tcp_accepted,
            forwarded: self.forwarded - before.forwarded,
        }
    }
}

/// The TCP sockets of a machine that have this address at either end, in whatever state.
pub fn tcp_sockets(machine: &Netns, address: Ipv4Addr) -> Result<Vec<String>, Box<dyn Error>> {
    let sockets = output(machine, Command::new("ss").args(["--tcp", "--all", "--numeric", "--no-header"]))?;
    Ok(sockets.lines().filter(|line| line.contains(&format!("{address}:"))).map(str::to_owned).collect())
}

/// Makes the machine track connections, as a host with a stateful packet filter does. False where the tools or the
/// kernel cannot.
pub fn track_connections(machine: &Netns) -> bool {
    let rules = "add table ip t; add chain ip t c { type filter hook prerouting priority 0; }; \
                 add rule ip t c ct state established accept";
    let nft = machine.output(Command::new("nft").arg(rules));
    let succeeded = |result: Result<Output, _>| result.is_ok_and(|output: Output| output.status.success());
    succeeded(nft)
        || succeeded(
            machine.output(
                Command::new("iptables")
                    .args("-t raw -A PREROUTING -m conntrack --ctstate ESTABLISHED -j ACCEPT".split(' ')),
            ),
        )
}

/// The connections of this address that the machine tracks; none where it does not.
pub fn tracked_connections(machine: &Netns, address: Ipv4Addr) -> Result<Vec<String>, Box<dyn Error>> {
    let table = machine.output(Command::new("cat").arg("/proc/net/nf_conntrack"))?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    Ok(table.lines().filter(|line| line.contains(&format!("={address} "))).map(str::to_owned).collect())
}

/// Waits until an address answers an ICMP echo request of this machine.
pub fn ping(machine: &Netns, address: Ipv4Addr) -> Result<(), Box<dyn Error>> {
    let icmp = machine.run(|| {
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, Some(SockProtocol::Icmp))
    })??;
    // A raw socket takes the same calls as a datagram socket.
    let icmp = UdpSocket::from(icmp);
    icmp.set_read_timeout(Some(Duration::from_millis(100)))?;
    // Type 8, code 0, checksum, identifier 0x7876, sequence number 1.
    let mut request = [8, 0, 0, 0, 0x78, 0x76, 0, 1];
    let checksum = !(0x0800_u16 + 0x7876 + 1);
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    Ok(wait::until(&format!("{address} to answer a ping"), Duration::from_secs(5), || {
        let mut buffer = [0; 128];
        icmp.send_to(&request, (address, 0)).is_ok()
            // Behind the IP header: type 0, our identifier.
            && icmp.recv(&mut buffer).is_ok_and(|n| n >= 28 && buffer[20] == 0 && buffer[24..26] == [0x78, 0x76])
    })?)
}

fn read(machine: &Netns, path: &str) -> Result<String, Box<dyn Error>> {
    output(machine, Command::new("cat").arg(path))
}

fn output(machine: &Netns, command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = machine.output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}
