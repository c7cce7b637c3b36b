//! How backends are reached: the kernel's routes and neighbours, for XDP to use without asking.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use lb_common::wire::Mac;
use netlink_packet_route::{
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
};
use rtnetlink::RouteMessageBuilder;

use super::{Netlink, NetlinkError};
use crate::desired::NextHop;

/// So many questions are on their way to the kernel at once. Their answers, of at most 4 KiB each with what the kernel
/// adds, must fit into the socket's receive buffer (`net.core.rmem_default`, 208 KiB): one that does not is lost.
const IN_FLIGHT: usize = 16;

/// How backends are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// By backend address.
    pub by_backend: BTreeMap<IpAddr, NextHop>,
    /// The neighbours that these depend on: backends' own addresses and routers'.
    pub neighbours: BTreeSet<IpAddr>,
}

/// How the kernel's routes lead to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They do not.
    None,
    /// It is this node's own.
    Local,
    /// Out of the interface with this index, any interface of the node.
    Out {
        /// Its index.
        interface: u32,
        /// Whom frames go to there: the address itself, or a router.
        neighbour: IpAddr,
    },
}

/// An address on the link with this index: a link-local one may be there on several.
type NeighbourKey = (u32, IpAddr);

impl Netlink {
    /// How each of these backends is reached, on any of the interfaces. Starts the resolution of neighbours that are
    /// not known.
    ///
    /// One list of the neighbours, and one short question for each backend; for 1,000 of them some tens of
    /// milliseconds.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn next_hops(&self, backends: &BTreeSet<IpAddr>) -> Result<NextHops, NetlinkError> {
        let links = self.by_index();
        let neighbours = self.neighbours(&links).await?;
        let mut routes = stream::iter(backends)
            .map(|&backend| async move { Ok::<_, NetlinkError>((backend, self.route(backend).await?)) })
            .buffer_unordered(IN_FLIGHT);
        let mut found = NextHops::default();
        let mut wanted = BTreeSet::new();
        while let Some((backend, route)) = routes.try_next().await? {
            let next_hop = match route {
                Route::None => NextHop::Unresolved,
                Route::Local => NextHop::Local,
                Route::Neighbour(key @ (index, address)) => match links.get(&index) {
                    None => NextHop::OtherInterface,
                    Some(&link) => {
                        found.neighbours.insert(address);
                        match neighbours.get(&key) {
                            Some(&Neighbour::Known(mac)) => {
                                NextHop::Mac { mac, link, routed: address != backend }
                            }
                            Some(Neighbour::Resolving) => NextHop::Unresolved,
                            None => {
                                wanted.insert(key);
                                NextHop::Unresolved
                            }
                        }
                    }
                },
            };
            found.by_backend.insert(backend, next_hop);
        }
        drop(routes);
        stream::iter(wanted).for_each_concurrent(IN_FLIGHT, |key| self.resolve(key)).await;
        Ok(found)
    }

    /// The way to an address: by which interface, and to which neighbour there.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn way(&self, destination: IpAddr) -> Result<Way, NetlinkError> {
        Ok(match self.route(destination).await? {
            Route::None => Way::None,
            Route::Local => Way::Local,
            Route::Neighbour((interface, neighbour)) => Way::Out { interface, neighbour },
        })
    }

    /// The neighbours on these links that are known or being resolved.
    async fn neighbours(
        &self,
        links: &BTreeMap<u32, u8>,
    ) -> Result<BTreeMap<NeighbourKey, Neighbour>, NetlinkError> {
        // Of both families.
        let mut stream = self.handle.neighbours().get().execute();
        let mut neighbours = BTreeMap::new();
        while let Some(message) =
            stream.try_next().await.map_err(|error| NetlinkError::new("list neighbours", error))?
        {
            if links.contains_key(&message.header.ifindex)
                && let (Some(address), Some(state)) = (neighbour_address(&message), neighbour(&message))
            {
                neighbours.insert((message.header.ifindex, address), state);
            }
        }
        Ok(neighbours)
    }

    async fn route(&self, destination: IpAddr) -> Result<Route, NetlinkError> {
        let request = match destination {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        match self.handle.route().get(request).execute().try_next().await {
            Ok(Some(route)) => Ok(route_of(&route, destination)),
            Ok(None) => Ok(Route::None),
            Err(error) => {
                let error = NetlinkError::new(format!("look up the route to {destination}"), error);
                // The ways in which the kernel says that there is none (fib_props in net/ipv4/fib_semantics.c,
                // ip6_rt_type_to_error in net/ipv6/route.c), and that it has no IPv6 at all.
                let none = [
                    libc::ENETUNREACH,
                    libc::EHOSTUNREACH,
                    libc::EACCES,
                    libc::EINVAL,
                    libc::EAGAIN,
                    libc::EOPNOTSUPP,
                ];
                if none.iter().any(|&code| error.is(code)) { Ok(Route::None) } else { Err(error) }
            }
        }
    }

    /// Asks the kernel to resolve a neighbour as if a packet were waiting for it (NTF_USE). Where it does not want to,
    /// the others are reached all the same.
    async fn resolve(&self, (index, address): NeighbourKey) {
        let request = (self.handle.neighbours().add(index, address))
            .state(NeighbourState::None)
            .flags(NeighbourFlags::Use)
            .replace();
        if let Err(error) = request.execute().await {
            let error = NetlinkError::new(format!("resolve {address}"), error);
            // The interface is down: the event when it comes up brings us back here.
            if !error.is(libc::ENETDOWN) {
                tracing::warn!(%address, "{error}");
            }
        }
    }
}

/// What the kernel knows of a neighbour. One that failed is as good as unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Neighbour {
    Known(Mac),
    Resolving,
}

pub(super) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
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
    Neighbour(NeighbourKey),
    Local,
    None,
}

fn route_of(message: &RouteMessage, destination: IpAddr) -> Route {
    match message.header.kind {
        RouteType::Local => return Route::Local,
        RouteType::Unicast => {}
        _ => return Route::None,
    }
    let mut out = None;
    let mut neighbour = destination;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => out = Some(*oif),
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => neighbour = IpAddr::V4(*gateway),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
            // Of the other family (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(gateway)) => neighbour = IpAddr::V4(*gateway),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => neighbour = IpAddr::V6(*gateway),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return Route::None,
            _ => {}
        }
    }
    out.map_or(Route::None, |out| Route::Neighbour((out, neighbour)))
}

#[cfg(test)]
mod tests;
