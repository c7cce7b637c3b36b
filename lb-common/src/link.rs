//! Everything of a frame that is not IP: Ethernet addresses, VLAN tags, and the interface that it leaves by.

use crate::{
    frame::Frame,
    layout::{HOP_KEEPS_TAGS, Hop, MacWord, NodeEntry, TagWord},
    wire::{Be16, ETHERNET_LEN, ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN, Ethernet},
};

/// Length of a VLAN tag.
pub const TAG_LEN: usize = 4;
/// Where the EtherType, or the first tag, begins.
const TYPE_OFFSET: usize = 12;

/// The tags of a frame, from the outside in.
#[derive(Clone, Copy, Debug)]
pub struct Tags {
    /// The outer one.
    pub outer: TagWord,
    /// The inner one; only where there is an outer one.
    pub inner: TagWord,
}

impl Tags {
    /// None.
    pub const NONE: Self = Self { outer: TagWord::NONE, inner: TagWord::NONE };

    /// The tags of a frame whose network header begins at `l3`.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F, l3: usize) -> Self {
        if l3 == ETHERNET_LEN {
            return Self::NONE;
        }
        let Some(outer) = frame.header::<[u8; TAG_LEN]>(TYPE_OFFSET) else { return Self::NONE };
        let outer = TagWord::from_octets(*outer);
        if l3 == ETHERNET_LEN + TAG_LEN {
            return Self { outer, inner: TagWord::NONE };
        }
        let Some(inner) = frame.header::<[u8; TAG_LEN]>(TYPE_OFFSET + TAG_LEN) else { return Self::NONE };
        Self { outer, inner: TagWord::from_octets(*inner) }
    }
}

/// Whether what follows is a VLAN tag.
#[inline(always)]
pub fn is_tag(ethertype: Be16) -> bool {
    ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SERVICE_VLAN
}

/// Where the network header begins, and what it is, behind at most two tags.
#[inline(always)]
pub fn network<F: Frame>(frame: &F) -> Option<(usize, Be16)> {
    let first = frame.header::<Ethernet>(0)?.ethertype;
    if !is_tag(first) {
        return Some((ETHERNET_LEN, first));
    }
    let second = *frame.header::<Be16>(ETHERNET_LEN + 2)?;
    if !is_tag(second) {
        return Some((ETHERNET_LEN + TAG_LEN, second));
    }
    let third = *frame.header::<Be16>(ETHERNET_LEN + TAG_LEN + 2)?;
    Some((ETHERNET_LEN + 2 * TAG_LEN, third))
}

/// Whether a frame is for a virtual router whose addresses we hold. If so, it is for the interface that it came in by from
/// now on: the host's stack takes nothing else.
#[inline(always)]
pub fn is_for_virtual_router<F: Frame>(frame: &mut F, node: &NodeEntry) -> bool {
    let own = node.mac_of(frame.if_index());
    let (Some(ethernet), Some(own)) = (frame.header_mut::<Ethernet>(0), own) else { return false };
    let is_ours = node.is_virtual_mac(MacWord::read(&ethernet.dst));
    if is_ours {
        own.write(&mut ethernet.dst);
    }
    is_ours
}

/// The way back to whoever sent this frame.
#[inline(always)]
pub fn way_back<F: Frame>(frame: &F, l3: usize) -> Hop {
    let tags = Tags::of(frame, l3);
    let (mac, source) = match frame.header::<Ethernet>(0) {
        Some(ethernet) => (MacWord::read(&ethernet.src), MacWord::read(&ethernet.dst)),
        None => (MacWord::ZERO, MacWord::ZERO),
    };
    Hop { mac, source, if_index: frame.if_index(), outer: tags.outer, inner: tags.inner, flags: 0 }
}

/// Sends a frame along a hop: makes room for `room` bytes in front of the network header, writes Ethernet addresses, tags
/// and EtherType, and says which interface. Returns where the network header, or the room, begins now; `None` where
/// the frame could not be resized.
#[inline(always)]
pub fn leave<F: Frame>(frame: &mut F, l3: usize, hop: &Hop, ethertype: Be16, room: usize) -> Option<usize> {
    let mut tags = Tags { outer: hop.outer, inner: hop.inner };
    if l3 != ETHERNET_LEN && hop.if_index == frame.if_index() {
        let own = Tags::of(frame, l3);
        let same = own.outer.vlan() == hop.outer.vlan()
            && own.inner.vlan() == hop.inner.vlan()
            && hop.outer.is_some();
        // The priority bits stay as they came.
        if same || hop.flags & HOP_KEEPS_TAGS != 0 {
            tags = own;
        }
    }
    write(frame, l3, hop, tags, ethertype, room)
}

/// As [`leave`], with exactly these tags.
#[inline(always)]
pub fn write<F: Frame>(
    frame: &mut F,
    l3: usize,
    hop: &Hop,
    tags: Tags,
    ethertype: Be16,
    room: usize,
) -> Option<usize> {
    let outer_len = if tags.outer.is_some() { TAG_LEN } else { 0 };
    let inner_len = if tags.inner.is_some() { TAG_LEN } else { 0 };
    let begin = ETHERNET_LEN + outer_len + inner_len;
    let growth = (begin + room) as i32 - l3 as i32;
    if growth != 0 && !frame.grow_front(growth) {
        return None;
    }
    let ethernet = frame.header_mut::<Ethernet>(0)?;
    hop.mac.write(&mut ethernet.dst);
    hop.source.write(&mut ethernet.src);
    if !tags.outer.is_some() {
        ethernet.ethertype = ethertype;
    } else {
        *frame.header_mut::<[u8; TAG_LEN]>(TYPE_OFFSET)? = tags.outer.octets();
        if tags.inner.is_some() {
            *frame.header_mut::<[u8; TAG_LEN]>(TYPE_OFFSET + TAG_LEN)? = tags.inner.octets();
            *frame.header_mut::<Be16>(TYPE_OFFSET + 2 * TAG_LEN)? = ethertype;
        } else {
            *frame.header_mut::<Be16>(TYPE_OFFSET + TAG_LEN)? = ethertype;
        }
    }
    frame.leave_by(hop.if_index);
    Some(begin)
}
