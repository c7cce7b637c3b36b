//! The cables, switches and routers of the lab: who is plugged in where, with which addresses and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::addresses::{Family, Subnet};
use crate::netns::{Netns, NetnsError};
use crate::topology::LabError;
use crate::xdp_stub::{Action, XdpStub};

/// What the narrow links of the lab carry, in bytes of an IP packet.
pub const NARROW_MTU: u16 = 1400;

/// The bond of an LB node.
const BOND: &str = "bond0";

/// The gateway between the main network and the clients' has this host number in both.
const CLIENT_GATEWAY: u8 = 1;
/// The gateway between the main network and the API servers' has this host number in both.
const MASTER_GATEWAY: u8 = 254;

/// What stands between the main network and others.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layout {
    /// IPv6 addresses beside the IPv4 ones.
    pub ipv6: bool,
    /// The client is behind two routers with a narrow link.
    pub clients_routed: bool,
    /// The API servers (all, or the last one alone) are behind two routers with a narrow link.
    pub masters_routed: bool,
    /// The API servers are in a network of their own, where the LB nodes have their second interface.
    pub two_networks: bool,
    /// The VLANs of the main network and of the API servers', whose frames then have tags on the cables.
    pub vlans: Option<(u16, u16)>,
    /// The LB nodes have two cables for one, bonded.
    pub bonds: bool,
}

impl Layout {
    /// The families that machines have addresses of.
    pub fn families(self) -> &'static [Family] {
        if self.ipv6 { &Family::BOTH } else { &[Family::V4] }
    }

    /// The networks behind a gateway in the main network, and the host number of that gateway.
    fn remote(self) -> Vec<(Subnet, u8)> {
        let clients = self.clients_routed.then_some((Subnet::Clients, CLIENT_GATEWAY));
        let masters = (self.masters_routed || self.two_networks).then_some((Subnet::Masters, MASTER_GATEWAY));
        clients.into_iter().chain(masters).collect()
    }

    /// The interface of a machine in a network that it is in by the cable of `device`.
    pub fn interface(self, device: &str, subnet: Subnet) -> String {
        self.vlan(subnet).map_or_else(|| device.to_owned(), |vlan| format!("{device}.{vlan}"))
    }

    /// The interface of an LB node in a network.
    pub fn lb_interface(self, subnet: Subnet) -> String {
        let is_second = subnet == Subnet::Masters && self.vlans.is_none();
        let device = match (is_second, self.bonds) {
            (true, _) => "eth1",
            (false, true) => BOND,
            (false, false) => "eth0",
        };
        self.interface(device, subnet)
    }

    fn vlan(self, subnet: Subnet) -> Option<u16> {
        self.vlans.map(|(main, masters)| if subnet == Subnet::Masters { masters } else { main })
    }

    /// With VLANs one switch has them all.
    fn bridge(self, subnet: Subnet) -> &'static str {
        match subnet {
            _ if self.vlans.is_some() => "br0",
            Subnet::Clients => "br1",
            Subnet::Masters => "br2",
            Subnet::Main | Subnet::ClientLink | Subnet::MasterLink => "br0",
        }
    }
}

/// The switches, and what is plugged into them.
pub(crate) struct Network {
    pub switch: Netns,
    layout: Layout,
    ports: Mutex<BTreeMap<String, Port>>,
    routers: Vec<Netns>,
}

/// The switch's end of a cable.
struct Port {
    bridge: &'static str,
    _stub: Option<XdpStub>,
}

impl Network {
    /// The switches and the routers.
    pub fn build(layout: Layout) -> Result<Self, LabError> {
        let switch = Netns::create("switch", false)?;
        let mut bridges = BTreeSet::from([layout.bridge(Subnet::Main)]);
        bridges.extend(layout.remote().iter().map(|(subnet, _)| layout.bridge(*subnet)));
        for bridge in bridges {
            switch
                .ip(&format!("link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        let mut network = Self { switch, layout, ports: Mutex::new(BTreeMap::new()), routers: vec![] };
        if layout.clients_routed {
            network.narrow_way(["c-near", "c-far"], Subnet::ClientLink, Subnet::Clients, CLIENT_GATEWAY)?;
        }
        if layout.masters_routed {
            network.narrow_way(["m-near", "m-far"], Subnet::MasterLink, Subnet::Masters, MASTER_GATEWAY)?;
        }
        if layout.two_networks {
            let router = network.machine("router", Subnet::Main, MASTER_GATEWAY, false)?;
            network.second_leg(&router, MASTER_GATEWAY, false)?;
            forward(&router, layout)?;
            network.routers.push(router);
        }
        Ok(network)
    }

    /// The routers by name.
    pub fn router(&self, name: &str) -> Option<&Netns> {
        self.routers.iter().find(|router| router.name() == name)
    }

    /// Makes a machine and plugs its `eth0` in.
    pub fn machine(&self, name: &str, subnet: Subnet, number: u8, xdp: bool) -> Result<Netns, LabError> {
        let machine = self.unplugged(name)?;
        self.plug(&machine, "eth0", subnet, number, xdp)?;
        for family in self.layout.families() {
            self.routes(&machine, subnet, number, *family)?;
        }
        Ok(machine)
    }

    /// Makes an LB node's machine and plugs it into its networks.
    pub fn lb(&self, name: &str, number: u8, xdp: bool) -> Result<Netns, LabError> {
        let machine = if self.layout.bonds {
            self.bonded(name, number, xdp)?
        } else {
            self.machine(name, Subnet::Main, number, xdp)?
        };
        if self.layout.two_networks {
            self.second_leg(&machine, number, xdp)?;
        }
        Ok(machine)
    }

    /// Makes a machine in the main network that has two cables for one.
    fn bonded(&self, name: &str, number: u8, xdp: bool) -> Result<Netns, LabError> {
        let machine = self.unplugged(name)?;
        machine.ip(&format!("link add {BOND} type bond mode active-backup miimon 100"))?;
        for (interface, offset) in [("eth0", 0), ("eth1", 128)] {
            self.cable(&machine, interface, Subnet::Main, number + offset, xdp)?;
            machine.ethtool(&format!("-K {interface} tx off tso off gso off gro off"))?;
            machine.ip(&format!("link set {interface} down"))?;
            machine.ip(&format!("link set {interface} master {BOND}"))?;
        }
        machine.ip(&format!("link set {BOND} up"))?;
        self.address(&machine, BOND, Subnet::Main, number)?;
        for family in self.layout.families() {
            self.routes(&machine, Subnet::Main, number, *family)?;
        }
        Ok(machine)
    }

    fn unplugged(&self, name: &str) -> Result<Netns, LabError> {
        let machine = Netns::create(name, self.layout.ipv6)?;
        if self.layout.ipv6 {
            // Addresses are there at once, without asking whether somebody has them; and nobody asks for routers.
            for (name, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
                machine.sysctl(&format!("net/ipv6/conf/default/{name}"), value)?;
            }
        }
        Ok(machine)
    }

    /// Brings a machine of the main network into the API servers', too: by another cable, or by another VLAN of the
    /// same one.
    fn second_leg(&self, machine: &Netns, number: u8, xdp: bool) -> Result<(), LabError> {
        if self.layout.vlans.is_some() {
            let device = if machine.name().starts_with("lb") && self.layout.bonds { BOND } else { "eth0" };
            return Ok(self.address(machine, device, Subnet::Masters, number)?);
        }
        self.plug(machine, "eth1", Subnet::Masters, number, xdp)
    }

    /// The ways to the other networks. A gateway itself gets them with its other interface, and an LB node with an
    /// interface there will have a better one.
    fn routes(&self, machine: &Netns, subnet: Subnet, number: u8, family: Family) -> Result<(), NetnsError> {
        let gateway_number = match subnet {
            Subnet::Main => {
                let remote = self.layout.remote();
                for (remote, gateway) in remote.into_iter().filter(|(_, gateway)| *gateway != number) {
                    let (flag, remote) = (family.flag(), remote.prefix(family));
                    let via = subnet.host(family, gateway);
                    machine.ip(&format!("{flag} route add {remote} via {via} metric 9000"))?;
                }
                return Ok(());
            }
            Subnet::Clients => CLIENT_GATEWAY,
            Subnet::Masters => MASTER_GATEWAY,
            Subnet::ClientLink | Subnet::MasterLink => return Ok(()),
        };
        if number == gateway_number { Ok(()) } else { gateway(machine, subnet.host(family, gateway_number)) }
    }

    /// Plugs one more interface of a machine into the switch of a network. With `xdp` its programs may transmit
    /// in native mode.
    pub fn plug(
        &self,
        machine: &Netns,
        interface: &str,
        subnet: Subnet,
        number: u8,
        xdp: bool,
    ) -> Result<(), LabError> {
        self.cable(machine, interface, subnet, number, xdp)?;
        Ok(self.bring_up(machine, interface, subnet, number)?)
    }

    /// The cable alone.
    fn cable(
        &self,
        machine: &Netns,
        interface: &str,
        subnet: Subnet,
        number: u8,
        xdp: bool,
    ) -> Result<(), LabError> {
        let cable = cable(machine.name(), interface);
        let (port, bridge) = (port(&cable), self.layout.bridge(subnet));
        let [_, b, c, d] = match subnet.host(Family::V4, number) {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        self.switch.ip(&format!(
            "link add {port} type veth peer name {interface} address 02:00:ac:{b:02x}:{c:02x}:{d:02x} netns {}",
            machine.init_id()
        ))?;
        self.switch.ip(&format!("link set {port} master {bridge} up"))?;
        if self.layout.vlans.is_some() {
            // A veth passes a tag on beside the frame, where XDP does not see it, unless it is told that it cannot.
            self.switch.ethtool(&format!("-K {port} txvlan off"))?;
            machine.ethtool(&format!("-K {interface} txvlan off"))?;
        }
        let stub = if xdp { Some(self.stub(machine.name(), &port)?) } else { None };
        let port = Port { bridge, _stub: stub };
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(cable, port);
        Ok(())
    }

    fn bring_up(
        &self,
        machine: &Netns,
        interface: &str,
        subnet: Subnet,
        number: u8,
    ) -> Result<(), NetnsError> {
        machine.ethtool(&format!("-K {interface} tx off tso off gso off gro off"))?;
        if self.layout.vlan(subnet).is_some() {
            // The VLAN's interface below is as it is; this one carries no addresses.
            machine.ip(&format!("link set {interface} up"))?;
        }
        self.address(machine, interface, subnet, number)
    }

    /// Gives a machine its addresses in a network, on the VLAN's interface where there are VLANs, and brings that up.
    fn address(&self, machine: &Netns, device: &str, subnet: Subnet, number: u8) -> Result<(), NetnsError> {
        let interface = self.layout.interface(device, subnet);
        if let Some(vlan) = self.layout.vlan(subnet) {
            machine.ip(&format!("link add link {device} name {interface} type vlan id {vlan}"))?;
        }
        for family in self.layout.families() {
            let (address, length) = (subnet.host(*family, number), family.prefix_length());
            let words = match family {
                Family::V4 => "broadcast +",
                Family::V6 => "nodad",
            };
            machine.ip(&format!("address add {address}/{length} {words} dev {interface}"))?;
        }
        machine.ip(&format!("link set {interface} up"))
    }

    /// Two routers with a narrow link between them. The machines at either end do not see its MTU on an interface of
    /// their own: they have to learn it.
    fn narrow_way(
        &mut self,
        names: [&str; 2],
        link: Subnet,
        remote: Subnet,
        gateway_number: u8,
    ) -> Result<(), LabError> {
        let near = self.machine(names[0], Subnet::Main, gateway_number, false)?;
        let far = self.machine(names[1], remote, gateway_number, false)?;
        near.ip(&format!(
            "link add eth1 mtu {NARROW_MTU} type veth peer name eth1 mtu {NARROW_MTU} netns {}",
            far.init_id()
        ))?;
        self.bring_up(&near, "eth1", link, 1)?;
        self.bring_up(&far, "eth1", link, 2)?;
        for family in self.layout.families() {
            let flag = family.flag();
            let (remote, via) = (remote.prefix(*family), link.host(*family, 2));
            near.ip(&format!("{flag} route add {remote} via {via}"))?;
            gateway(&far, link.host(*family, 1))?;
        }
        for router in [near, far] {
            forward(&router, self.layout)?;
            self.routers.push(router);
        }
        Ok(())
    }

    fn stub(&self, name: &str, port: &str) -> Result<XdpStub, LabError> {
        self.switch
            .run(|| XdpStub::attach(nix::net::if_::if_nametoindex(port)?, Action::Pass))?
            .map_err(|source| LabError::Stub { machine: name.to_owned(), source })
    }

    /// Unplugs a cable.
    pub fn cut(&self, cable: &str) -> Result<(), LabError> {
        self.port_do(cable, |_| "down".to_owned())
    }

    /// Takes a cable's port out of its bridge.
    pub fn isolate(&self, cable: &str) -> Result<(), LabError> {
        self.port_do(cable, |_| "nomaster".to_owned())
    }

    /// Undoes both.
    pub fn heal(&self, cable: &str) -> Result<(), LabError> {
        self.port_do(cable, |port| format!("master {} up", port.bridge))
    }

    fn port_do(&self, cable: &str, words: impl FnOnce(&Port) -> String) -> Result<(), LabError> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let known = ports.get(cable).ok_or_else(|| LabError::NoMachine(cable.to_owned()))?;
        Ok(self.switch.ip(&format!("link set {} {}", port(cable), words(known)))?)
    }
}

/// Makes a machine's default route lead to `via`; one that it has is replaced.
fn gateway(machine: &Netns, via: IpAddr) -> Result<(), NetnsError> {
    machine.ip(&format!("{} route replace default via {via}", Family::of(via).flag()))
}

/// Makes a router of a machine. It tells senders of packets that are too big or too old, each time.
fn forward(machine: &Netns, layout: Layout) -> Result<(), NetnsError> {
    machine.sysctl("net/ipv4/ip_forward", "1")?;
    machine.sysctl("net/ipv4/icmp_ratelimit", "0")?;
    // A router has the interfaces of an LB node, but no bond.
    let layout_of_router = Layout { bonds: false, ..layout };
    let interfaces = [Subnet::Main, Subnet::Masters].map(|subnet| layout_of_router.lb_interface(subnet));
    for scope in ["all", "default"].into_iter().chain(interfaces.iter().map(String::as_str)) {
        machine.sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
    }
    if layout.ipv6 {
        machine.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        machine.sysctl("net/ipv6/icmp/ratelimit", "0")?;
    }
    Ok(())
}

/// What a cable is called: its machine's name, except for further interfaces.
fn cable(machine: &str, interface: &str) -> String {
    if interface == "eth0" { machine.to_owned() } else { format!("{machine}-{interface}") }
}

/// The switch's end of a cable.
fn port(cable: &str) -> String {
    format!("p-{cable}")
}
