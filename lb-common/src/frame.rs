//! A frame, seen one header at a time.
//!
//! In XDP a frame must never become a slice: the verifier learns bounds from comparing a packet pointer with
//! `data_end`, and a plain length loses that. So the shared code asks for a header of fixed size at an offset, and
//! each side does its own bounds check.

use crate::{
    family::Address,
    layout::FlowKey,
    wire::{Arp, Be16, Be32, Be128, Ethernet, Icmp, Ipv4, Ipv6, Ipv6Extension, Ipv6Fragment, Tcp, Vrrp},
};

/// A type that may be laid over any bytes at any address.
///
/// # Safety
///
/// Alignment 1, no padding, and every bit pattern is a value.
pub unsafe trait Header: Copy {}

// SAFETY: integers and byte arrays only; alignment and size are asserted in `wire`.
unsafe impl Header for Ethernet {}
// SAFETY: as above.
unsafe impl Header for Ipv4 {}
// SAFETY: as above.
unsafe impl Header for Tcp {}
// SAFETY: as above.
unsafe impl Header for Arp {}
// SAFETY: as above.
unsafe impl Header for Ipv6 {}
// SAFETY: as above.
unsafe impl Header for Ipv6Extension {}
// SAFETY: as above.
unsafe impl Header for Ipv6Fragment {}
// SAFETY: as above.
unsafe impl Header for Icmp {}
// SAFETY: as above.
unsafe impl Header for Vrrp {}
// SAFETY: three such in a row.
unsafe impl<A: Address> Header for Plain<A> {}
// SAFETY: as above.
unsafe impl Header for Be16 {}
// SAFETY: words of bytes.
unsafe impl Header for Be128 {}
// SAFETY: as above.
unsafe impl<const N: usize> Header for [Be16; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Header for [Be32; N] {}
// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

/// The headers that nearly every frame begins with: Ethernet without tags, IP without options or extensions, TCP. One
/// comparison with the frame's end for all three.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Plain<A: Address> {
    /// Ethernet.
    pub ethernet: Ethernet,
    /// IP.
    pub ip: A::Header,
    /// TCP, the options left out.
    pub tcp: Tcp,
}

const _: () = {
    assert!(size_of::<Plain<Be32>>() == 14 + 20 + 20 && align_of::<Plain<Be32>>() == 1);
    assert!(size_of::<Plain<Be128>>() == 14 + 40 + 20 && align_of::<Plain<Be128>>() == 1);
};

/// What the host's own TCP has for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostSocket {
    /// Nothing: it would answer with a RST.
    None,
    /// A socket that listens on its destination; of the connection itself it has nothing.
    Listening,
    /// The connection: in its handshake, open, or over and in TIME-WAIT.
    Connected,
}

/// A received frame that may be rewritten in place, shortened, and grown or cut at its front.
pub trait Frame {
    /// Length in bytes, link-layer header included.
    fn len(&self) -> usize;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the interface that it came in by.
    fn if_index(&self) -> u32;

    /// Says by which interface it leaves, should it be sent; without that, by the one that it came in by.
    fn leave_by(&mut self, if_index: u32);

    /// The header at `offset` bytes, or `None` where the frame ends before it does.
    fn header<H: Header>(&self, offset: usize) -> Option<&H>;

    /// As [`Frame::header`], to be written.
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H>;

    /// Cuts the frame to `len` bytes. False, and nothing changed, where it is shorter or the driver cannot.
    fn truncate(&mut self, len: usize) -> bool;

    /// Moves the beginning of the frame: towards the front by so many bytes, whose content is then undefined, or away
    /// from it where negative. False, and nothing changed, where there is no room.
    fn grow_front(&mut self, bytes: i32) -> bool;

    /// What the host has for a segment with this key that came in by this interface. Costs a look-up in the host's table
    /// of sockets: for packets of no flow of ours only. A socket that is bound to a VLAN sub-interface is not found, since
    /// the frame is still the parent's.
    fn host_socket<A: Address>(&self, key: &FlowKey<A>) -> HostSocket;

    /// Whether the host is in the middle of the handshake of the connection that the key is of: it has answered a SYN, and
    /// waits for the ACK. Costs as much.
    fn host_is_opening<A: Address>(&self, key: &FlowKey<A>) -> bool;
}
