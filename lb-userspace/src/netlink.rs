//! Addresses, links, routes and neighbours: observe and apply, by rtnetlink.
//!
//! Two sockets: one for requests and one for notifications, since the kernel stamps a notification with the sequence
//! number of the request that caused it, which must not be taken for its answer. Notifications are hints only; whoever
//! gets one looks again, and looks now and then without one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use lb_common::wire::Mac;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use rtnetlink::{
    AddressMessageBuilder, Handle, MulticastGroup, RouteMessageBuilder, new_connection,
    new_multicast_connection, packet_core::NetlinkPayload,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::desired::{InterfaceAddress, NextHop};

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The interface does not exist.
    #[error("interface {0} does not exist")]
    NoInterface(String),
    /// The kernel refused a request.
    #[error("cannot {action}: {error}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        #[source]
        error: io::Error,
    },
    /// The answer was none.
    #[error("cannot {action}: {reason}")]
    Protocol {
        /// What was asked for.
        action: String,
        /// What came instead.
        reason: String,
    },
}

impl NetlinkError {
    fn new(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        let action = action.into();
        match error {
            rtnetlink::Error::NetlinkError(message) => Self::Refused { action, error: message.to_io() },
            other => Self::Protocol { action, reason: other.to_string() },
        }
    }

    fn is(&self, code: i32) -> bool {
        matches!(self, Self::Refused { error, .. } if error.raw_os_error() == Some(code))
    }
}

/// What may have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetlinkEvent {
    /// Our interface: its address, or whether it is up.
    Link,
    /// An address of our interface.
    Address,
    /// The neighbour with this address.
    Neighbour(Ipv4Addr),
    /// A route.
    Route,
    /// Notifications were lost: anything.
    Lost,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it has a carrier.
    pub running: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
}

/// How a backend is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// By backend address.
    pub by_backend: BTreeMap<Ipv4Addr, NextHop>,
    /// The neighbours that these depend on: backends' own addresses and routers'.
    pub neighbours: BTreeSet<Ipv4Addr>,
}

/// The kernel's network configuration, as far as one interface goes.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    name: String,
    index: u32,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Netlink {
    /// Opens the sockets; needs a Tokio runtime. Notifications come from then on, so what is observed after this call
    /// misses nothing. When the channel is full, notifications are dropped: many are waiting anyway.
    pub async fn open(interface: &str) -> Result<(Self, mpsc::Receiver<NetlinkEvent>), NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Neigh,
        ];
        let (monitor, _, mut messages) = new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let mut tasks = vec![tokio::spawn(monitor), tokio::spawn(connection)];
        let link = link_by_name(&handle, interface).await?;
        let (sender, receiver) = mpsc::channel(256);
        let index = link.index;
        tasks.push(tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if let Some(event) = event_of(&message.payload, index)
                    && let Err(mpsc::error::TrySendError::Closed(_)) = sender.try_send(event)
                {
                    break;
                }
            }
        }));
        Ok((Self { handle, name: interface.to_owned(), index, tasks }, receiver))
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The interface as it is now.
    pub async fn link(&self) -> Result<Link, NetlinkError> {
        link_by_name(&self.handle, &self.name).await
    }

    /// Every IPv4 address of the interface.
    pub async fn addresses(&self) -> Result<BTreeSet<InterfaceAddress>, NetlinkError> {
        Ok(self.address_messages().await?.iter().filter_map(interface_address).collect())
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        let mut request = self.handle.address().get().set_link_index_filter(self.index);
        request.message_mut().header.family = AddressFamily::Inet;
        (request.execute().try_collect().await)
            .map_err(|error| NetlinkError::new(format!("list the addresses of {}", self.name), error))
    }

    /// Puts an address on the interface. One that is there already is fine.
    ///
    /// Without a route for its prefix: the node's own address has that one, and a second one with the VIP as source
    /// would make the node's own connections break when the VIP moves.
    pub async fn add_address(&self, (address, prefix): InterfaceAddress) -> Result<(), NetlinkError> {
        let mut message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(self.index).address(address, prefix).build();
        message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        match self.add(message).await {
            Err(error) if error.is(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    async fn add(&self, message: AddressMessage) -> Result<(), NetlinkError> {
        let text =
            interface_address(&message).map_or_else(String::new, |(ip, prefix)| format!("{ip}/{prefix}"));
        let mut request = self.handle.address().add(self.index, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        *request.message_mut() = message;
        (request.execute().await)
            .map_err(|error| NetlinkError::new(format!("add address {text} to {}", self.name), error))
    }

    /// Takes an address off the interface. One that is not there is fine.
    ///
    /// With `promote_secondaries` off, the kernel drops with the first address of a subnet all its others. Those of
    /// somebody else come back at once.
    pub async fn remove_address(&self, address: InterfaceAddress) -> Result<(), NetlinkError> {
        let before = self.address_messages().await?;
        let Some(message) = before.iter().find(|message| interface_address(message) == Some(address)) else {
            return Ok(());
        };
        match self.handle.address().del(message.clone()).execute().await {
            Ok(()) => {}
            Err(error) => {
                let (ip, prefix) = address;
                let action = format!("remove address {ip}/{prefix} from {}", self.name);
                let error = NetlinkError::new(action, error);
                return if error.is(libc::EADDRNOTAVAIL) { Ok(()) } else { Err(error) };
            }
        }
        let after = self.addresses().await?;
        for message in before {
            let Some(other) = interface_address(&message) else { continue };
            if other != address && !after.contains(&other) {
                tracing::warn!(
                    address = %other.0, removed = %address.0,
                    "the kernel dropped another address of the subnet with ours; putting it back \
                     (net.ipv4.conf.{}.promote_secondaries=1 avoids this)", self.name
                );
                match self.add(restorable(message)).await {
                    Err(error) if !error.is(libc::EEXIST) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// How each of these backends is reached. Starts the resolution of neighbours that are not known.
    pub async fn next_hops(&self, backends: &BTreeSet<Ipv4Addr>) -> Result<NextHops, NetlinkError> {
        let neighbours = self.neighbours().await?;
        let mut found = NextHops::default();
        let mut wanted = BTreeSet::new();
        for &backend in backends {
            let next_hop = match self.route(backend).await? {
                Route::None => NextHop::Unresolved,
                Route::Local => NextHop::Local,
                Route::OtherInterface => NextHop::OtherInterface,
                Route::Neighbour(neighbour) => {
                    found.neighbours.insert(neighbour);
                    match neighbours.get(&neighbour) {
                        Some(Neighbour::Known(mac)) => NextHop::Mac(*mac),
                        Some(Neighbour::Resolving) => NextHop::Unresolved,
                        None => {
                            wanted.insert(neighbour);
                            NextHop::Unresolved
                        }
                    }
                }
            };
            found.by_backend.insert(backend, next_hop);
        }
        for neighbour in wanted {
            self.resolve(neighbour).await?;
        }
        Ok(found)
    }

    async fn neighbours(&self) -> Result<BTreeMap<Ipv4Addr, Neighbour>, NetlinkError> {
        let mut stream = self.handle.neighbours().get().set_address_family(AddressFamily::Inet).execute();
        let mut neighbours = BTreeMap::new();
        loop {
            match stream.try_next().await {
                Ok(Some(message)) if message.header.ifindex == self.index => {
                    if let (Some(address), Some(state)) = (neighbour_address(&message), neighbour(&message)) {
                        neighbours.insert(address, state);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(neighbours),
                Err(error) => return Err(NetlinkError::new("list neighbours", error)),
            }
        }
    }

    async fn route(&self, destination: Ipv4Addr) -> Result<Route, NetlinkError> {
        let request = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(destination, 32).build();
        match self.handle.route().get(request).execute().try_next().await {
            Ok(Some(route)) => Ok(route_of(&route, destination, self.index)),
            Ok(None) => Ok(Route::None),
            Err(error) => {
                let error = NetlinkError::new(format!("look up the route to {destination}"), error);
                // The ways in which the kernel says that there is none (fib_props in net/ipv4/fib_semantics.c).
                let none = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL, libc::EAGAIN];
                if none.iter().any(|&code| error.is(code)) { Ok(Route::None) } else { Err(error) }
            }
        }
    }

    /// Asks the kernel to resolve a neighbour as if a packet were waiting for it (NTF_USE).
    async fn resolve(&self, neighbour: Ipv4Addr) -> Result<(), NetlinkError> {
        let request = (self.handle.neighbours().add(self.index, neighbour.into()))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        match request.execute().await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = NetlinkError::new(format!("resolve {neighbour}"), error);
                // The interface is down: the event when it comes up brings us back here.
                if error.is(libc::ENETDOWN) { Ok(()) } else { Err(error) }
            }
        }
    }
}

async fn link_by_name(handle: &Handle, name: &str) -> Result<Link, NetlinkError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(Some(message)) => Ok(link_of(&message)),
        Ok(None) => Err(NetlinkError::NoInterface(name.to_owned())),
        Err(error) => {
            let error = NetlinkError::new(format!("look up interface {name}"), error);
            Err(if error.is(libc::ENODEV) { NetlinkError::NoInterface(name.to_owned()) } else { error })
        }
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        mac: None,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::LowerUp),
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    link
}

/// The address that is the interface's own; with a peer address, that is the local one.
fn interface_address(message: &AddressMessage) -> Option<InterfaceAddress> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    match address {
        IpAddr::V4(address) => Some((address, message.header.prefix_len)),
        IpAddr::V6(_) => None,
    }
}

/// An address as the kernel described it, in a form that it takes back.
fn restorable(mut message: AddressMessage) -> AddressMessage {
    for attribute in &mut message.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            flags.remove(AddressFlags::Secondary);
        }
    }
    message.header.flags = Default::default();
    message
}

/// What the kernel knows of a neighbour. One that failed is as good as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Neighbour {
    Known(Mac),
    Resolving,
}

fn neighbour_address(message: &NeighbourMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
        _ => None,
    })
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => Mac::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    match message.header.state {
        NeighbourState::Reachable
        | NeighbourState::Stale
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Noarp
        | NeighbourState::Permanent => mac.filter(|mac| *mac != [0; 6]).map(Neighbour::Known),
        NeighbourState::Incomplete => Some(Neighbour::Resolving),
        _ => None,
    }
}

/// The answer to "how is this reached?".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Neighbour(Ipv4Addr),
    Local,
    OtherInterface,
    None,
}

fn route_of(message: &RouteMessage, destination: Ipv4Addr, index: u32) -> Route {
    match message.header.kind {
        RouteType::Local => return Route::Local,
        RouteType::Unicast => {}
        _ => return Route::None,
    }
    let mut out = None;
    let mut neighbour = Some(destination);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => out = Some(*oif),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = Some(*gateway),
            RouteAttribute::Via(RouteVia::Inet(gateway)) => neighbour = Some(*gateway),
            // An IPv6 router for IPv4 (RFC 5549): its neighbour entry is not among those that we read.
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => neighbour = None,
            _ => {}
        }
    }
    match (out, neighbour) {
        (Some(out), _) if out != index => Route::OtherInterface,
        (Some(_), Some(neighbour)) => Route::Neighbour(neighbour),
        _ => Route::None,
    }
}

fn event_of(payload: &NetlinkPayload<RouteNetlinkMessage>, index: u32) -> Option<NetlinkEvent> {
    match payload {
        NetlinkPayload::InnerMessage(message) => match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                (link.header.index == index).then_some(NetlinkEvent::Link)
            }
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                (address.header.index == index).then_some(NetlinkEvent::Address)
            }
            RouteNetlinkMessage::NewNeighbour(neighbour) | RouteNetlinkMessage::DelNeighbour(neighbour) => {
                if neighbour.header.ifindex != index {
                    return None;
                }
                neighbour_address(neighbour).map(NetlinkEvent::Neighbour)
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => Some(NetlinkEvent::Route),
            _ => None,
        },
        NetlinkPayload::Overrun(_) => Some(NetlinkEvent::Lost),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::{address::AddressHeader, neighbour::NeighbourHeader, route::RouteHeader};

    use super::*;

    const BACKEND: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 4);
    const ROUTER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> Route {
        let mut message = RouteMessage::default();
        message.header = RouteHeader { kind, ..RouteHeader::default() };
        message.attributes = attributes;
        route_of(&message, BACKEND, 7)
    }

    #[test]
    fn a_route_names_the_neighbour_to_send_to() {
        use RouteAttribute::{Gateway, Oif};
        let via = |router| Gateway(RouteAddress::Inet(router));
        let rows = [
            (RouteType::Unicast, vec![Oif(7)], Route::Neighbour(BACKEND)),
            (RouteType::Unicast, vec![Oif(7), via(ROUTER)], Route::Neighbour(ROUTER)),
            (RouteType::Unicast, vec![Oif(8), via(ROUTER)], Route::OtherInterface),
            (
                RouteType::Unicast,
                vec![Oif(7), RouteAttribute::Via(RouteVia::Inet6(std::net::Ipv6Addr::LOCALHOST))],
                Route::None,
            ),
            (RouteType::Local, vec![Oif(1)], Route::Local),
            (RouteType::BlackHole, vec![Oif(7)], Route::None),
            (RouteType::Unicast, vec![], Route::None),
        ];
        for (kind, attributes, expected) in rows {
            assert_eq!(route(kind, attributes.clone()), expected, "{kind:?} {attributes:?}");
        }
    }

    #[test]
    fn only_states_with_an_address_count_as_known() {
        let mac = [2, 0, 0, 0, 0, 4];
        let of = |state, mac: Option<&[u8]>| {
            let mut message = NeighbourMessage::default();
            message.header = NeighbourHeader { state, ..NeighbourHeader::default() };
            message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
            neighbour(&message)
        };
        use NeighbourState::{Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
        for state in [Reachable, Stale, Probe, Permanent] {
            assert_eq!(of(state, Some(&mac)), Some(Neighbour::Known(mac)), "{state}");
        }
        assert_eq!(of(Failed, Some(&mac)), None, "an old address of a neighbour that does not answer");
        assert_eq!(of(Incomplete, None), Some(Neighbour::Resolving));
        assert_eq!(of(Noarp, Some(&[0; 6])), None, "loopback-like");
        assert_eq!(of(Reachable, Some(&[1, 2, 3, 4])), None, "not Ethernet");
    }

    #[test]
    fn the_local_end_of_a_point_to_point_address_is_ours() {
        let mut message = AddressMessage::default();
        message.header = AddressHeader { prefix_len: 30, ..AddressHeader::default() };
        message.attributes =
            vec![AddressAttribute::Address(ROUTER.into()), AddressAttribute::Local(BACKEND.into())];
        assert_eq!(interface_address(&message), Some((BACKEND, 30)));
    }

    #[test]
    fn notifications_of_other_interfaces_are_none_of_ours() {
        let mut link = LinkMessage::default();
        link.header.index = 8;
        let of = |message| event_of(&NetlinkPayload::InnerMessage(message), 7);
        assert_eq!(of(RouteNetlinkMessage::NewLink(link.clone())), None);
        link.header.index = 7;
        assert_eq!(of(RouteNetlinkMessage::DelLink(link)), Some(NetlinkEvent::Link));
        assert_eq!(of(RouteNetlinkMessage::NewRoute(RouteMessage::default())), Some(NetlinkEvent::Route));
        assert_eq!(event_of(&NetlinkPayload::Overrun(Vec::new()), 7), Some(NetlinkEvent::Lost));
    }
}
