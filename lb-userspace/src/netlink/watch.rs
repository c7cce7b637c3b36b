//! Which of the kernel's notifications concern us. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use netlink_packet_route::{RouteNetlinkMessage, neighbour::NeighbourMessage};
use rtnetlink::packet_core::NetlinkPayload;

use super::{
    NetlinkEvent,
    link::name_of,
    next_hop::{Neighbour, neighbour, neighbour_address},
};

/// What is watched, and what was said of it last.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// The configured interfaces: one of such a name may be made anew.
    names: BTreeSet<String>,
    /// The same by their index.
    interfaces: BTreeSet<u32>,
    /// These, and what they are on.
    stacks: BTreeSet<u32>,
    /// The kernel tells of each step of its watch over a neighbour (reachable, stale, probed and so on), some every few
    /// seconds; what counts is where frames go.
    neighbours: BTreeMap<(u32, IpAddr), Option<Neighbour>>,
    lost: bool,
}

impl Watch {
    /// An interface, with what it is on.
    pub(super) fn add(&mut self, name: &str, index: u32, stack: impl IntoIterator<Item = u32>) {
        self.names.insert(name.to_owned());
        self.interfaces.insert(index);
        self.stacks.insert(index);
        self.stacks.extend(stack);
    }

    /// An event was not passed on: the next one is that.
    pub(super) fn lost(&mut self) {
        self.lost = true;
    }

    /// What to make of a notification; `None` where it says nothing new about anything that is watched.
    pub(super) fn event(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) -> Option<NetlinkEvent> {
        let event = match payload {
            NetlinkPayload::InnerMessage(message) => self.event_of(message),
            NetlinkPayload::Overrun(_) => Some(NetlinkEvent::Lost),
            _ => None,
        };
        if event == Some(NetlinkEvent::Lost) {
            self.neighbours.clear();
        }
        if std::mem::take(&mut self.lost) { Some(NetlinkEvent::Lost) } else { event }
    }

    fn event_of(&mut self, message: &RouteNetlinkMessage) -> Option<NetlinkEvent> {
        use RouteNetlinkMessage as Message;
        match message {
            Message::NewLink(link) | Message::DelLink(link) => {
                let ours = self.stacks.contains(&link.header.index) || self.names.contains(&name_of(link));
                ours.then_some(NetlinkEvent::Link)
            }
            Message::NewAddress(address) | Message::DelAddress(address) => {
                self.interfaces.contains(&address.header.index).then_some(NetlinkEvent::Address)
            }
            Message::NewNeighbour(message) => self.neighbour(message, false),
            Message::DelNeighbour(message) => self.neighbour(message, true),
            Message::NewRoute(_) | Message::DelRoute(_) | Message::NewRule(_) | Message::DelRule(_) => {
                Some(NetlinkEvent::Route)
            }
            _ => None,
        }
    }

    fn neighbour(&mut self, message: &NeighbourMessage, gone: bool) -> Option<NetlinkEvent> {
        let index = message.header.ifindex;
        if !self.interfaces.contains(&index) {
            return None;
        }
        let address = neighbour_address(message)?;
        let (key, now) = ((index, address), if gone { None } else { neighbour(message) });
        let before = if gone { self.neighbours.remove(&key) } else { self.neighbours.insert(key, now) };
        (before != Some(now)).then_some(NetlinkEvent::Neighbour(address))
    }
}

#[cfg(test)]
mod tests;
