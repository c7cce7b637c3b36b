//! An interface, and what it is on. Pure.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use lb_common::wire::Mac;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, VlanProtocol,
};

/// More tags than that are not looked behind in XDP.
pub(super) const TAGS_AT_MOST: usize = 2;

/// One of the node's interfaces, as the data plane has to see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// Its Ethernet address, if it has one. A VLAN sub-interface may have another one than its parent.
    pub mac: Option<Mac>,
    /// Whether it, and what it is on, is switched on.
    pub up: bool,
    /// Whether it, and what it is on, has a carrier.
    pub running: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Index of the interface that XDP attaches to: this one or, for a VLAN sub-interface, the one at the bottom.
    pub parent: u32,
    /// That one's name.
    pub parent_name: String,
    /// The XDP programs that are attached to that one, by their kernel-wide ids.
    pub xdp_programs: Vec<u32>,
    /// The tags of its frames on that one, from the outside in; none for an ordinary interface, at most two.
    pub tags: Vec<VlanTag>,
    /// Its addresses, those first that the node is rather known by; without link-local IPv6 ones, and without those
    /// that cannot be used (yet).
    pub addresses: Vec<IpAddr>,
}

/// A VLAN tag (IEEE 802.1Q §9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VlanTag {
    /// The tag's EtherType: 0x8100 or 0x88a8, in host byte order.
    pub protocol: u16,
    /// VLAN identifier, 0 to 4094.
    pub id: u16,
}

impl Link {
    /// The node's own IPv4 address here: the first one that is no VIP.
    pub fn v4(&self, vips: &BTreeSet<IpAddr>) -> Option<Ipv4Addr> {
        self.own(vips).find_map(|address| match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// The node's own IPv6 address here: the first one that is no VIP; never a link-local one.
    pub fn v6(&self, vips: &BTreeSet<IpAddr>) -> Option<Ipv6Addr> {
        self.own(vips).find_map(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }

    fn own<'a>(&'a self, vips: &'a BTreeSet<IpAddr>) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(|address| !vips.contains(address))
    }
}

/// The interface at the top of a stack that is complete; without its addresses. Says what is wrong with it otherwise.
pub(super) fn link_of(stack: &[LinkMessage]) -> Result<Link, String> {
    let (Some(top), Some(bottom)) = (stack.first(), stack.last()) else {
        return Err("is not there".to_owned());
    };
    let mut tags = Vec::new();
    for message in stack {
        tags.extend(below(message)?.map(|(_, tag)| tag));
    }
    if tags.len() > TAGS_AT_MOST {
        return Err(too_many_tags());
    }
    // The outermost one is the lowest one's.
    tags.reverse();
    let all = |flag| stack.iter().all(|message| message.header.flags.contains(flag));
    let mut link = Link {
        name: name_of(top),
        index: top.header.index,
        mac: None,
        up: all(LinkFlags::Up),
        running: all(LinkFlags::LowerUp),
        mtu: 0,
        parent: bottom.header.index,
        parent_name: name_of(bottom),
        xdp_programs: xdp_programs(bottom),
        tags,
        addresses: Vec::new(),
    };
    for attribute in &top.attributes {
        match attribute {
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            _ => {}
        }
    }
    Ok(link)
}

fn xdp_programs(message: &LinkMessage) -> Vec<u32> {
    let xdp = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(xdp) => Some(xdp),
        _ => None,
    });
    let ids = xdp.flatten().filter_map(|xdp| match xdp {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => {
            Some(*id)
        }
        _ => None,
    });
    ids.collect()
}

pub(super) fn too_many_tags() -> String {
    format!("has more than {TAGS_AT_MOST} VLAN tags")
}

/// What a VLAN sub-interface is on, and the tag that it puts on there; `None` for an interface that is on nothing.
/// Says why where what is below cannot be told, or frames there are not simply tagged ones of the interface.
pub(super) fn below(message: &LinkMessage) -> Result<Option<(u32, VlanTag)>, String> {
    let (mut kind, mut data, mut lower, mut elsewhere) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(found) => kind = Some(found),
                        LinkInfo::Data(found) => data = Some(found),
                        _ => {}
                    }
                }
            }
            LinkAttribute::Link(index) => lower = Some(*index).filter(|index| *index != message.header.index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            _ => {}
        }
    }
    match (kind, lower) {
        (Some(InfoKind::Vlan), Some(_)) if elsewhere => {
            Err(format!("the parent of VLAN {} is in another network namespace", name_of(message)))
        }
        (Some(InfoKind::Vlan), Some(lower)) => match data.and_then(tag_of) {
            Some(tag) => Ok(Some((lower, tag))),
            None => Err(format!("the kernel does not tell the tag of VLAN {}", name_of(message))),
        },
        // The other end of a pair is no parent.
        (Some(InfoKind::Veth | InfoKind::Netkit), _) => Ok(None),
        // A bond and a bridge take a program like any other interface.
        (
            Some(InfoKind::Bond | InfoKind::Team | InfoKind::Bridge | InfoKind::Dummy | InfoKind::Tun) | None,
            None,
        ) => Ok(None),
        (Some(kind), _) => Err(format!(
            "{} is of kind {kind}; supported are physical interfaces, bonds, bridges, and VLANs on these",
            name_of(message)
        )),
        (None, Some(_)) => {
            Err(format!("{} is on another interface, in a way that is not known", name_of(message)))
        }
    }
}

fn tag_of(data: &InfoData) -> Option<VlanTag> {
    let InfoData::Vlan(attributes) = data else { return None };
    let (mut id, mut protocol) = (None, VlanProtocol::Ieee8021Q);
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(found) => id = Some(*found),
            InfoVlan::Protocol(found) => protocol = *found,
            _ => {}
        }
    }
    Some(VlanTag { protocol: protocol.into(), id: id? })
}

pub(super) fn name_of(message: &LinkMessage) -> String {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| format!("#{}", message.header.index))
}

#[cfg(test)]
mod tests;
