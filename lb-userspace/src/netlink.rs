//! Addresses, links, routes and neighbours: observe and apply, by rtnetlink.
//!
//! Two sockets: one for requests and one for notifications, since the kernel stamps a notification with the sequence
//! number of the request that caused it, which must not be taken for its answer. Notifications are hints only; whoever
//! gets one looks again, and looks now and then without one.

mod address;
mod carrier;
pub mod ethtool;
mod link;
mod next_hop;
pub mod question;
mod watch;
pub mod xdp;

pub use self::{
    carrier::Carrier,
    link::{Link, VlanTag},
    next_hop::{NextHops, Way},
};

use std::{collections::BTreeMap, io, net::IpAddr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkGetRequest, MulticastGroup, new_connection, new_multicast_connection};
use tokio::{sync::mpsc, task::JoinHandle};

use self::watch::Watch;

/// What went wrong between us and the kernel.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The interface does not exist.
    #[error("interface {0} does not exist")]
    NoInterface(String),
    /// Frames cannot be taken from below this kind of interface.
    #[error("interface {interface}: {reason}")]
    Unsupported {
        /// The configured interface.
        interface: String,
        /// What it is, or is on.
        reason: String,
    },
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
    /// One of our interfaces, or what it is on: its address, or whether it is up.
    Link,
    /// An address of one of our interfaces.
    Address,
    /// How the neighbour with this address is reached.
    Neighbour(IpAddr),
    /// A route.
    Route,
    /// Notifications were lost: anything.
    Lost,
}

/// The kernel's network configuration, as far as the configured interfaces go. The first of these is where addresses
/// are put.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    /// In the configured order.
    interfaces: Vec<Interface>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone, Debug)]
struct Interface {
    name: String,
    index: u32,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Netlink {
    /// Opens the sockets; needs a Tokio runtime. Notifications come from then on, so what is observed after this call
    /// misses nothing. When the channel is full, notifications are dropped, and [`NetlinkEvent::Lost`] says so later.
    ///
    /// # Errors
    /// Where there is no socket, or an interface does not exist or is of a kind that we do not support.
    pub async fn open(interfaces: &[String]) -> Result<(Self, mpsc::Receiver<NetlinkEvent>), NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
            MulticastGroup::Neigh,
        ];
        let (monitor, _, mut messages) = new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let tasks = vec![tokio::spawn(monitor), tokio::spawn(connection)];
        let mut netlink = Self { handle, interfaces: Vec::new(), tasks };
        let mut watch = Watch::default();
        for name in interfaces {
            let stack = netlink.stack(name).await?;
            let link = link::link_of(&stack).map_err(|reason| unsupported(name, reason))?;
            netlink.interfaces.push(Interface { name: name.clone(), index: link.index });
            watch.add(name, link.index, stack.iter().map(|message| message.header.index));
        }
        let (sender, receiver) = mpsc::channel(256);
        netlink.tasks.push(tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let Some(event) = watch.event(&message.payload) else { continue };
                match sender.try_send(event) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => watch.lost(),
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
        }));
        Ok((netlink, receiver))
    }

    /// The interfaces' indices when this was opened, in the configured order. One that was made anew since has another.
    pub fn indices(&self) -> impl Iterator<Item = u32> {
        self.interfaces.iter().map(|interface| interface.index)
    }

    /// The interfaces as they are now, in the configured order.
    ///
    /// # Errors
    /// Where one does not exist (any more), or is on something else now that we do not support.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut links = Vec::new();
        for Interface { name, .. } in &self.interfaces {
            let stack = self.stack(name).await?;
            links.push(link::link_of(&stack).map_err(|reason| unsupported(name, reason))?);
        }
        let mut addresses = self.all_addresses().await?;
        for link in &mut links {
            link.addresses = addresses.remove(&link.index).unwrap_or_default();
        }
        Ok(links)
    }

    /// The interface and, for a VLAN, what it is on, from the top to the bottom.
    async fn stack(&self, name: &str) -> Result<Vec<LinkMessage>, NetlinkError> {
        let mut stack = match link(self.handle.link().get().match_name(name), name).await? {
            Some(message) => vec![message],
            None => return Err(NetlinkError::NoInterface(name.to_owned())),
        };
        while let Some(last) = stack.last()
            && let Some((below, _)) = link::below(last).map_err(|reason| unsupported(name, reason))?
        {
            if stack.len() > link::TAGS_AT_MOST {
                return Err(unsupported(name, link::too_many_tags()));
            }
            match link(self.handle.link().get().match_index(below), name).await? {
                Some(message) => stack.push(message),
                // It went away just now, and takes ours with it.
                None => return Err(NetlinkError::NoInterface(name.to_owned())),
            }
        }
        Ok(stack)
    }

    /// Which of the configured interfaces have which index.
    fn by_index(&self) -> BTreeMap<u32, u8> {
        self.interfaces.iter().map(|interface| interface.index).zip(0..).collect()
    }
}

fn unsupported(interface: &str, reason: String) -> NetlinkError {
    NetlinkError::Unsupported { interface: interface.to_owned(), reason }
}

async fn link(request: LinkGetRequest, name: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    match request.execute().try_next().await {
        Ok(message) => Ok(message),
        Err(error) => {
            let error = NetlinkError::new(format!("look up interface {name}"), error);
            if error.is(libc::ENODEV) { Ok(None) } else { Err(error) }
        }
    }
}
