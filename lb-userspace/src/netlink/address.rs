//! The addresses of the interfaces: what is there, what we put there and take away.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo,
};
use rtnetlink::AddressMessageBuilder;

use super::{Interface, Netlink, NetlinkError};
use crate::desired::InterfaceAddress;

/// A lifetime without end (`INFINITY_LIFE_TIME` in the kernel's `include/net/addrconf.h`).
const FOR_EVER: u32 = u32::MAX;

impl Netlink {
    /// Every address of the first interface, but for link-local IPv6 ones.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn addresses(&self) -> Result<BTreeSet<InterfaceAddress>, NetlinkError> {
        let Some(interface) = self.interfaces.first() else { return Ok(BTreeSet::new()) };
        Ok(self.address_messages(interface).await?.iter().filter_map(interface_address).collect())
    }

    /// Puts an address on the first interface. One that is there already is fine.
    ///
    /// Without a route for its prefix: the node's own address has that one, and a second one with the VIP as source
    /// would make the node's own connections break when the VIP moves. An IPv6 address without a test for duplicates,
    /// for a second or more in which it could not be used (RFC 4862 §5.4): who has it is VRRP's affair, and keepalived
    /// does the same. And deprecated from the beginning: the kernel would rather take the latest address for a source
    /// than the node's own (RFC 6724 §5, rule 3, prevents that; keepalived does so for /128 only).
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn add_address(&self, address: InterfaceAddress) -> Result<(), NetlinkError> {
        let Some(interface) = self.interfaces.first() else { return Ok(()) };
        match self.add(interface, address_message(interface.index, address)).await {
            Err(error) if error.is(libc::EEXIST) => Ok(()),
            other => other,
        }
    }

    /// Takes an address off the first interface. One that is not there is fine.
    ///
    /// With `promote_secondaries` off, the kernel drops with the first IPv4 address of a subnet all its others. Those of
    /// somebody else come back at once.
    ///
    /// # Errors
    /// What the kernel answers.
    pub async fn remove_address(&self, address: InterfaceAddress) -> Result<(), NetlinkError> {
        let Some(interface) = self.interfaces.first() else { return Ok(()) };
        let before = self.address_messages(interface).await?;
        let Some(message) = before.iter().find(|message| interface_address(message) == Some(address)) else {
            return Ok(());
        };
        match self.handle.address().del(message.clone()).execute().await {
            Ok(()) => {}
            Err(error) => {
                let (ip, prefix) = address;
                let action = format!("remove address {ip}/{prefix} from {}", interface.name);
                let error = NetlinkError::new(action, error);
                return if error.is(libc::EADDRNOTAVAIL) { Ok(()) } else { Err(error) };
            }
        }
        if address.0.is_ipv6() {
            return Ok(());
        }
        let after = self.addresses().await?;
        for message in before {
            let Some(other) = interface_address(&message) else { continue };
            if other.0.is_ipv4() && other != address && !after.contains(&other) {
                tracing::warn!(
                    address = %other.0, removed = %address.0,
                    "the kernel dropped another address of the subnet with ours; putting it back \
                     (net.ipv4.conf.{}.promote_secondaries=1 avoids this)", interface.name
                );
                match self.add(interface, restorable(message)).await {
                    Err(error) if !error.is(libc::EEXIST) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// What each interface of this network namespace is known by, by its index.
    pub(super) async fn all_addresses(&self) -> Result<BTreeMap<u32, Vec<IpAddr>>, NetlinkError> {
        let messages: Vec<AddressMessage> = (self.handle.address().get().execute().try_collect().await)
            .map_err(|error| NetlinkError::new("list the addresses", error))?;
        Ok(known_by(&messages))
    }

    async fn address_messages(&self, interface: &Interface) -> Result<Vec<AddressMessage>, NetlinkError> {
        let request = self.handle.address().get().set_link_index_filter(interface.index);
        (request.execute().try_collect().await)
            .map_err(|error| NetlinkError::new(format!("list the addresses of {}", interface.name), error))
    }

    async fn add(&self, interface: &Interface, message: AddressMessage) -> Result<(), NetlinkError> {
        let text =
            interface_address(&message).map_or_else(String::new, |(ip, prefix)| format!("{ip}/{prefix}"));
        let ipv6 = text.contains(':');
        let mut request = self.handle.address().add(interface.index, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        *request.message_mut() = message;
        request.execute().await.map_err(|error| {
            let error = NetlinkError::new(format!("add address {text} to {}", interface.name), error);
            match error {
                // The kernel's way to say that there is no IPv6 here (inet6_addr_add in net/ipv6/addrconf.c).
                NetlinkError::Refused { action, error }
                    if ipv6 && error.raw_os_error() == Some(libc::EACCES) =>
                {
                    let action = format!("{action} (net.ipv6.conf.{}.disable_ipv6 is on)", interface.name);
                    NetlinkError::Refused { action, error }
                }
                other => other,
            }
        })
    }
}

fn address_message(index: u32, (address, prefix): InterfaceAddress) -> AddressMessage {
    let flags = AddressFlags::Noprefixroute;
    match address {
        IpAddr::V4(address) => {
            let mut message =
                AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build();
            message.attributes.retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
            message.attributes.push(AddressAttribute::Flags(flags));
            message
        }
        IpAddr::V6(address) => {
            let mut message =
                AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(address, prefix).build();
            message.attributes.push(AddressAttribute::Flags(flags | AddressFlags::Nodad));
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_valid = FOR_EVER;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
            message
        }
    }
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
        IpAddr::V6(address) if address.is_unicast_link_local() => None,
        address => Some((address, message.header.prefix_len)),
    }
}

/// What a node may call its own, by interface. The kernel's order is kept for IPv4: primary addresses come first there.
/// IPv6 ones come in any order; those that were meant to stay (no privacy extension, not deprecated) go first, then
/// those that have been there longest, so that another address changes nothing.
fn known_by(messages: &[AddressMessage]) -> BTreeMap<u32, Vec<IpAddr>> {
    let mut ranked: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (position, message) in messages.iter().enumerate() {
        let Some((address, _)) = interface_address(message) else { continue };
        let flags = flags_of(message);
        if address.is_ipv6()
            && flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed)
            && !flags.contains(AddressFlags::Optimistic)
        {
            continue;
        }
        let rank = match address {
            IpAddr::V4(_) => (false, false, position as u32, None),
            IpAddr::V6(address) => {
                let lasting = flags.contains(AddressFlags::Permanent);
                let passing = flags.intersects(AddressFlags::Secondary | AddressFlags::Deprecated);
                (passing, !lasting, created(message), Some(address))
            }
        };
        ranked.entry(message.header.index).or_default().push((rank, address));
    }
    let sorted = |mut addresses: Vec<(_, IpAddr)>| {
        addresses.sort_by_key(|(rank, address)| (Reverse(address.is_ipv4()), *rank));
        addresses.into_iter().map(|(_, address)| address).collect()
    };
    ranked.into_iter().map(|(index, addresses)| (index, sorted(addresses))).collect()
}

/// All flags: the header has room for the first eight only.
fn flags_of(message: &AddressMessage) -> AddressFlags {
    let from_header = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    message.attributes.iter().fold(from_header, |flags, attribute| match attribute {
        AddressAttribute::Flags(more) => flags | *more,
        _ => flags,
    })
}

/// When the address was made, in hundredths of a second since the system started.
fn created(message: &AddressMessage) -> u32 {
    let found = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::CacheInfo(info) => Some(info.cstamp),
        _ => None,
    });
    found.unwrap_or_default()
}

/// An address as the kernel described it, in a form that it takes back.
fn restorable(mut message: AddressMessage) -> AddressMessage {
    for attribute in &mut message.attributes {
        if let AddressAttribute::Flags(flags) = attribute {
            flags.remove(AddressFlags::Secondary);
        }
    }
    message.header.flags = AddressHeaderFlags::empty();
    message
}

#[cfg(test)]
mod tests;
