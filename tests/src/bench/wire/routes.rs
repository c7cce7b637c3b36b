//! What xvip is measured with: a service for each way through it, and flows through each.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use lb_common::layout::{BackendId, MODE_DSR_IPIP, MODE_DSR_L2, MODE_NAT};
use lb_common::wire::{Be32, Be128};
use lb_userspace::config::model::Flows;

use super::course::Course;
use super::walk::{Says, Varies, Walk};
use crate::frames::{ACK, FIN, Packet, SYN, Segment};
use crate::mass::{CLIENT_MAC, Mass, NODE_IP, NODE_IP6, NODE_MAC, Service, XDP_TX, backend, backend_mac};

/// Where clients' packets come from.
pub(super) const CLIENT: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
pub(super) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1);
const SERVICE_PORT: u16 = 6443;
/// Of each service but those whose replies are measured: a backend's reply has to be one of its own flows.
const BACKENDS: BackendId = 3;
/// The first sequence numbers of clients and backends.
const CLIENT_SEQ: u32 = 1000;
const BACKEND_SEQ: u32 = 5000;
const IDLE_TIMEOUT: Duration = Duration::from_secs(86_400);

/// A way through xvip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// NAT, to the backend. `v6`: of an IPv6 service.
    Nat {
        /// IPv6.
        v6: bool,
    },
    /// NAT, back to the client.
    NatReply {
        /// IPv6.
        v6: bool,
    },
    /// Another Ethernet address, nothing else.
    DsrL2 {
        /// IPv6.
        v6: bool,
    },
    /// A tunnel.
    DsrIpip {
        /// The service's family.
        v6: bool,
        /// The tunnel's.
        outer_v6: bool,
    },
}

impl Route {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Nat { v6: false },
        Self::NatReply { v6: false },
        Self::DsrL2 { v6: false },
        Self::DsrIpip { v6: false, outer_v6: false },
        Self::DsrIpip { v6: false, outer_v6: true },
        Self::Nat { v6: true },
        Self::NatReply { v6: true },
        Self::DsrL2 { v6: true },
        Self::DsrIpip { v6: true, outer_v6: true },
        Self::DsrIpip { v6: true, outer_v6: false },
    ];

    /// Whether the service is one of IPv6.
    #[must_use]
    pub fn is_v6(self) -> bool {
        match self {
            Self::Nat { v6 } | Self::NatReply { v6 } | Self::DsrL2 { v6 } | Self::DsrIpip { v6, .. } => v6,
        }
    }

    fn backends_are_v6(self) -> bool {
        if let Self::DsrIpip { outer_v6, .. } = self { outer_v6 } else { self.is_v6() }
    }

    fn mode(self) -> u8 {
        match self {
            Self::Nat { .. } | Self::NatReply { .. } => MODE_NAT,
            Self::DsrL2 { .. } => MODE_DSR_L2,
            Self::DsrIpip { .. } => MODE_DSR_IPIP,
        }
    }

    /// Its place in [`Route::ALL`], which addresses and ids are made of.
    fn place(self) -> u16 {
        Self::ALL.iter().position(|route| *route == self).unwrap_or_default() as u16
    }

    /// Its service's VIP and port.
    #[must_use]
    pub fn service(self) -> SocketAddr {
        let ip: IpAddr = if self.is_v6() {
            Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 1, self.place()).into()
        } else {
            Ipv4Addr::new(10, 200, 1, self.place() as u8).into()
        };
        SocketAddr::new(ip, SERVICE_PORT)
    }

    /// The ids of its backends.
    fn backends(self) -> Range<BackendId> {
        let first = self.place() * 16;
        first..first + if matches!(self, Self::NatReply { .. }) { 1 } else { BACKENDS }
    }

    fn client(self) -> SocketAddr {
        let ip = if self.is_v6() { CLIENT6.into() } else { IpAddr::from(CLIENT) };
        SocketAddr::new(ip, 0)
    }

    /// Packets of clients with these flags, of so many flows.
    fn of_clients(self, says: Says, flows: u32) -> Walk {
        Walk::new((CLIENT_MAC, NODE_MAC), (self.client(), self.service()), Varies::Source, says, flows)
    }

    /// SYNs of so many flows.
    #[must_use]
    pub fn begin(self, flows: u32) -> Walk {
        self.of_clients(Says { flags: SYN, seq: CLIENT_SEQ, ack: 0 }, flows)
    }

    /// Packets of the only backend to its clients, at the NAT ports that they get: their own.
    ///
    /// # Panics
    /// Where there are more backends, and other ports.
    fn of_backend(self, says: Says, flows: u32) -> Walk {
        assert!(matches!(self, Self::NatReply { .. }), "{self} has more than one backend");
        let id = self.backends().start;
        let ends = (backend(id, self.is_v6()), SocketAddr::new(self.service().ip(), 0));
        Walk::new((backend_mac(id), NODE_MAC), ends, Varies::Destination, says, flows)
    }

    /// SYN-ACKs of the only backend.
    #[must_use]
    pub fn answers(self, flows: u32) -> Walk {
        self.of_backend(Says { flags: SYN | ACK, seq: BACKEND_SEQ, ack: CLIENT_SEQ + 1 }, flows)
    }

    /// Packets of clients that complete handshakes, and of established flows.
    #[must_use]
    pub fn go_on(self, flows: u32) -> Walk {
        self.of_clients(Says { flags: ACK, seq: CLIENT_SEQ + 1, ack: BACKEND_SEQ + 1 }, flows)
    }

    /// FINs of clients.
    #[must_use]
    pub fn end(self, flows: u32) -> Walk {
        self.of_clients(Says { flags: FIN | ACK, seq: CLIENT_SEQ + 1, ack: BACKEND_SEQ + 1 }, flows)
    }

    /// Packets of so many established flows in the direction of the route.
    #[must_use]
    pub fn established(self, flows: u32) -> Walk {
        if matches!(self, Self::NatReply { .. }) {
            return self.of_backend(Says { flags: ACK, seq: BACKEND_SEQ + 1, ack: CLIENT_SEQ + 1 }, flows);
        }
        self.go_on(flows)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = |v6: bool| if v6 { "IPv6" } else { "IPv4" };
        match self {
            Self::Nat { v6 } => write!(f, "nat {}", family(*v6)),
            Self::NatReply { v6 } => write!(f, "nat reply {}", family(*v6)),
            Self::DsrL2 { v6 } => write!(f, "dsr-l2 {}", family(*v6)),
            Self::DsrIpip { v6, outer_v6 } if v6 == outer_v6 => write!(f, "dsr-ipip {}", family(*v6)),
            Self::DsrIpip { v6, outer_v6 } => {
                write!(f, "dsr-ipip {} in {}", family(*v6), family(*outer_v6))
            }
        }
    }
}

/// The programs, with a service for each route.
pub struct Balancer {
    mass: Mass,
    if_index: u32,
}

impl Balancer {
    /// Everything comes in and goes out by one interface. `flows`: how many its tables have room for.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn load(flows: u32, if_index: u32) -> anyhow::Result<Self> {
        let flows = Flows {
            max: flows,
            half_open_max: flows,
            sources_max: 1024,
            idle_timeout: IDLE_TIMEOUT,
            rebuild: Duration::ZERO,
        };
        let service =
            |route: Route| Service { mode: route.mode(), ..Service::nat(route.service(), route.backends()) };
        let mut mass = Mass::load(&flows, &Route::ALL.map(service))?;
        let dataplane = mass.dataplane();
        for route in Route::ALL {
            for id in route.backends() {
                let mut entry = *dataplane.backend(id).context("a backend is missing")?;
                entry.hop.if_index = if_index;
                entry.address = backend(id, route.backends_are_v6()).ip().into();
                dataplane.set_backend(id, entry)?;
            }
        }
        let mut node = dataplane.node()?;
        node.if_indices[0] = if_index;
        // As the controller does for the errors that tunnels send back.
        node.add_vip(Be32::from(NODE_IP));
        node.add_vip(Be128::from(NODE_IP6));
        dataplane.set_node(&node)?;
        Ok(Self { mass, if_index })
    }

    /// What it is made of.
    pub fn mass(&mut self) -> &mut Mass {
        &mut self.mass
    }

    /// Opens so many flows of each route, in the network of the interface.
    ///
    /// # Errors
    /// As [`Balancer::open`].
    pub(crate) fn open_all(&mut self, course: &Course, flows: u32) -> anyhow::Result<()> {
        // For a frame to come in by an interface, that has to have a program.
        let _attached = course.attach(self.mass.program())?;
        let open = || Route::ALL.into_iter().try_for_each(|route| self.open(route, flows));
        course.machine().run(open)?
    }

    /// Completes the handshakes of a route's flows. In the network of the interface, which has an XDP program.
    ///
    /// # Errors
    /// A flow does not come about, or not with the port of its client.
    fn open(&mut self, route: Route, flows: u32) -> anyhow::Result<()> {
        let (begin, go_on) = (route.begin(flows), route.go_on(flows));
        for flow in 0..begin.flows() {
            let sent = self.through(&begin.frame(flow)).with_context(|| format!("{route}: SYN {flow}"))?;
            if route.mode() == MODE_NAT {
                let syn = Packet::read(&sent).context("a SYN became something else")?;
                ensure!(syn.src().port() == Walk::port(flow), "{route}: flow {flow} has another NAT port");
                let answer = Segment {
                    src_mac: syn.link.destination,
                    dst_mac: NODE_MAC,
                    tags: vec![],
                    src: syn.dst(),
                    dst: syn.src(),
                    ttl: 64,
                    ip_options: vec![],
                    extensions: vec![],
                    flags: SYN | ACK,
                    seq: BACKEND_SEQ,
                    ack: CLIENT_SEQ + 1,
                    tcp_options: vec![],
                    payload: vec![],
                    padding: vec![],
                };
                self.through(&answer.bytes()).with_context(|| format!("{route}: SYN-ACK {flow}"))?;
            }
            self.through(&go_on.frame(flow)).with_context(|| format!("{route}: ACK {flow}"))?;
        }
        let active: i64 = route
            .backends()
            .map(|id| Ok(self.mass.dataplane().load_of(id)?.active))
            .sum::<anyhow::Result<i64>>()?;
        ensure!(active == i64::from(begin.flows()), "{route}: {active} of {} flows", begin.flows());
        Ok(())
    }

    fn through(&mut self, frame: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (action, sent) = self.mass.dataplane().test_run_at(frame, self.if_index)?;
        ensure!(action == XDP_TX, "it was not sent back out, but {action}");
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::mass::BACKEND_PORT;

    #[test]
    fn routes_share_neither_names_nor_addresses_nor_backends() {
        let names: BTreeSet<_> = Route::ALL.map(|route| route.to_string()).into();
        let services: BTreeSet<_> = Route::ALL.map(Route::service).into();
        let backends: BTreeSet<_> = Route::ALL.into_iter().flat_map(Route::backends).collect();
        let count: usize = Route::ALL.into_iter().map(|route| route.backends().len()).sum();
        assert_eq!((names.len(), services.len(), backends.len()), (10, 10, count));
        assert!(!names.contains(""));
    }

    #[test]
    fn packets_of_a_flow_are_for_its_service_or_come_back_from_its_backend() {
        for route in Route::ALL {
            let packet = Packet::read(&route.established(4).frame(3)).unwrap();
            let begin = Packet::read(&route.begin(4).frame(3)).unwrap();
            assert_eq!(begin.dst(), route.service());
            let is_reply = matches!(route, Route::NatReply { .. });
            assert_eq!(packet.src().port() == BACKEND_PORT, is_reply, "{route}");
            let (own, other) =
                if is_reply { (packet.dst(), packet.src()) } else { (packet.src(), packet.dst()) };
            assert_eq!(own.port(), Walk::port(3));
            assert_eq!(other.port(), SERVICE_PORT);
        }
    }
}
