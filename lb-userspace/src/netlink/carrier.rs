//! Whether an interface outside of the data plane can carry anything.

use futures_util::{StreamExt as _, stream::BoxStream};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkFlags, LinkMessage},
};
use rtnetlink::{
    Handle, MulticastGroup, new_connection, new_multicast_connection,
    packet_core::{NetlinkMessage, NetlinkPayload},
};
use tokio::task::JoinHandle;

use super::{NetlinkError, link::name_of};

/// The watch over one interface of any kind, which need not exist.
pub struct Carrier {
    name: String,
    index: Option<u32>,
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Carrier {
    /// Opens the sockets; needs a Tokio runtime. Notifications come from then on.
    ///
    /// # Errors
    /// Where there is no socket.
    pub fn watch(name: &str) -> Result<Self, NetlinkError> {
        let (monitor, _, messages) =
            new_multicast_connection(&[MulticastGroup::Link]).map_err(NetlinkError::Socket)?;
        let (connection, handle, _) = new_connection().map_err(NetlinkError::Socket)?;
        let tasks = [tokio::spawn(monitor), tokio::spawn(connection)];
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(Self { name: name.to_owned(), index: None, handle, messages, tasks })
    }

    /// Waits until something may have happened to the interface; false if nothing will be heard any more.
    pub async fn changed(&mut self) -> bool {
        while let Some(message) = self.messages.next().await {
            match &message.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
                ) if Some(link.header.index) == self.index || name_of(link) == self.name => return true,
                NetlinkPayload::Overrun(_) => return true,
                _ => {}
            }
        }
        false
    }

    /// Looks at the interface: `Err` inside says what is wrong with it.
    ///
    /// # Errors
    /// The kernel does not tell.
    pub async fn state(&mut self) -> Result<Result<(), String>, NetlinkError> {
        let found = super::link(self.handle.link().get().match_name(self.name.clone()), &self.name).await?;
        self.index = found.as_ref().map(|link| link.header.index);
        Ok(found.as_ref().map_or_else(|| Err("does not exist".to_owned()), usable))
    }
}

/// As keepalived: `IFF_UP` and `IFF_RUNNING`.
fn usable(link: &LinkMessage) -> Result<(), String> {
    let flags = link.header.flags;
    if !flags.contains(LinkFlags::Up) {
        Err("is down".to_owned())
    } else if !flags.contains(LinkFlags::Running) {
        Err("has no carrier".to_owned())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_usable_only_if_it_is_up_and_has_a_carrier() {
        for (flags, expected) in [
            (LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp, Ok(())),
            (LinkFlags::Up | LinkFlags::Running, Ok(())),
            (LinkFlags::Up, Err("has no carrier".to_owned())),
            (LinkFlags::Broadcast, Err("is down".to_owned())),
        ] {
            let mut link = LinkMessage::default();
            link.header.flags = flags;
            assert_eq!(usable(&link), expected, "{flags:?}");
        }
    }
}
