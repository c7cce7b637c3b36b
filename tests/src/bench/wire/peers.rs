//! What else a kernel can balance with, on the same course. What it sends on goes into a device that throws it away, the
//! cheapest end that there is, in its favour; where the kernel has no such device over a veth to where nobody wants it.
//!
//! ```text
//! generator ==> near ----- far  XDP_PASS, then the network stack: forwarding, DNAT, IPVS ==> out (dummy, counts)
//! ```

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::Command;

use anyhow::{Context as _, ensure};

use super::course::{Course, End, Subject};
use super::routes::{CLIENT, Route};
use super::walk::{Says, Varies, Walk};
use crate::bpf::only_returning;
use crate::frames::ACK;
use crate::mass::{CLIENT_MAC, NODE_IP, NODE_MAC, XDP_PASS, backend};

/// The backend of all of them.
const BACKEND: u16 = 1;
/// The device behind it.
const OUT: &str = "out";

/// A way through the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A router that looks at nothing but addresses: no balancer at all.
    Forwarding,
    /// nftables: destination NAT and masquerading.
    Nftables,
    /// IPVS, masquerading (`ipvsadm -m`).
    IpvsNat,
    /// IPVS, direct routing (`-g`).
    IpvsDr,
    /// IPVS, tunnelling (`-i`).
    IpvsTun,
}

impl Peer {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Forwarding, Self::Nftables, Self::IpvsNat, Self::IpvsDr, Self::IpvsTun];

    /// The program that sets it up; Debian's package has the same name, but for nft's.
    fn program(self) -> Option<&'static str> {
        match self {
            Self::Forwarding => None,
            Self::Nftables => Some("nft"),
            Self::IpvsNat | Self::IpvsDr | Self::IpvsTun => Some("ipvsadm"),
        }
    }

    fn walk(self, flows: u32) -> Walk {
        let to = match self {
            Self::Forwarding => backend(BACKEND, false),
            _ => Route::Nat { v6: false }.service(),
        };
        let client = SocketAddr::new(CLIENT.into(), 0);
        let says = Says { flags: ACK, seq: 1001, ack: 5001 };
        Walk::new((CLIENT_MAC, NODE_MAC), (client, to), Varies::Source, says, flows)
    }

    /// Command lines that set it up.
    fn rules(self) -> Vec<Vec<String>> {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        let (vip, backend) = (Route::Nat { v6: false }.service(), backend(BACKEND, false));
        let ipvs = |how: &str| {
            vec![
                words(&format!("ipvsadm --add-service --tcp-service {vip} --scheduler rr")),
                words(&format!("ipvsadm --add-server --tcp-service {vip} --real-server {backend} {how}")),
            ]
        };
        match self {
            Self::Forwarding => vec![],
            Self::Nftables => vec![vec![
                "nft".to_owned(),
                format!(
                    "add table ip lb; \
                     add chain ip lb in {{ type nat hook prerouting priority dstnat; }}; \
                     add chain ip lb out {{ type nat hook postrouting priority srcnat; }}; \
                     add rule ip lb in ip daddr {} tcp dport {} dnat to {backend}; \
                     add rule ip lb out oifname {OUT} masquerade",
                    vip.ip(),
                    vip.port()
                ),
            ]],
            Self::IpvsNat => ipvs("--masquerading"),
            Self::IpvsDr => ipvs("--gatewaying"),
            Self::IpvsTun => ipvs("--ipip"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forwarding => "IP forwarding",
            Self::Nftables => "nftables DNAT",
            Self::IpvsNat => "IPVS NAT",
            Self::IpvsDr => "IPVS DR",
            Self::IpvsTun => "IPVS TUN",
        })
    }
}

/// A network where it is set up.
pub(crate) struct PeerCourse {
    course: Course,
    pass: OwnedFd,
    peer: Peer,
}

impl PeerCourse {
    /// # Errors
    /// The program is missing, or this kernel cannot do that.
    pub(crate) fn build(peer: Peer) -> anyhow::Result<Self> {
        let course = Course::build()?;
        let machine = course.machine();
        let backend = backend(BACKEND, false).ip();
        let IpAddr::V4(v4) = backend else { anyhow::bail!("{backend} is not of IPv4") };
        let [a, b, c, _] = v4.octets();
        if machine.ip(&format!("link add {OUT} type dummy")).is_err() {
            machine.ip(&format!("link add {OUT} type veth peer name end"))?;
            machine.ip("link set end up")?;
        }
        machine.ip(&format!("link set {OUT} up"))?;
        machine.ip(&format!("address add {NODE_IP}/24 dev far"))?;
        machine.ip(&format!("address add {a}.{b}.{c}.250/24 dev {OUT}"))?;
        machine.ip(&format!("neighbour add {backend} lladdr 02:be:00:00:00:01 dev {OUT} nud permanent"))?;
        machine.ip(&format!("route add {CLIENT}/32 dev far"))?;
        machine.sysctl("net/ipv4/ip_forward", "1")?;
        if matches!(peer, Peer::IpvsNat | Peer::IpvsDr | Peer::IpvsTun) {
            // IPVS takes what is for the host itself.
            machine.ip(&format!("address add {}/32 dev far", Route::Nat { v6: false }.service().ip()))?;
        }
        for rule in peer.rules() {
            let output = machine.output(Command::new(&rule[0]).args(&rule[1..]));
            let output = output.with_context(|| format!("{peer}: {}", peer.program().unwrap_or_default()))?;
            let stderr = String::from_utf8_lossy(&output.stderr);
            let why = stderr.lines().next().unwrap_or_default();
            ensure!(output.status.success(), "{peer}: {why}");
        }
        if peer.program() == Some("ipvsadm") {
            // So that a flow may begin with an ACK, as with the others: none of them sees a backend's answer.
            machine.sysctl("net/ipv4/vs/sloppy_tcp", "1")?;
        }
        let pass = only_returning(XDP_PASS)?;
        Ok(Self { course, pass, peer })
    }

    /// Packets of so many flows through it.
    pub(crate) fn subject(&self, flows: u32) -> anyhow::Result<Subject<'_>> {
        let walk = self.peer.walk(flows);
        Subject::new(self.peer.to_string(), &self.course, &self.pass, &walk, End::Device(OUT))
    }
}
