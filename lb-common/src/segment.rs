//! A TCP segment for a VIP: where its headers are, and what its flags say.

use crate::{
    family::Address,
    frame::Frame,
    layout::{FlowKey, SCRATCH_LATER_FRAGMENT, Scratch},
    tables::Slot,
    wire::{TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, Tcp},
};

/// A TCP segment with sound headers, or what follows one in a fragmented packet. Where the headers are, rather than what
/// they hold: reading a field again costs less than keeping it across a look-up.
#[derive(Clone, Copy, Debug)]
pub struct Segment<A> {
    /// Its addresses and ports.
    pub key: FlowKey<A>,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the TCP header begins.
    pub l4: usize,
    /// Bytes of TCP payload.
    pub payload: u16,
    /// The TCP flags.
    pub flags: u8,
    /// A fragment other than the first: there is no TCP header, and the flags are those of plain data.
    pub later_fragment: bool,
}

/// `Scratch::l3` is below that: Ethernet and two tags.
const L3_MASK: u32 = 0x1f;
/// `Scratch::l4` is below that: more than all extension headers that are looked at can take.
const L4_MASK: u32 = 0x3fff;

/// Where the IP header and what follows it begin, as an earlier program has found; bounded, as the verifier wants it.
#[inline(always)]
pub const fn offsets(scratch: &Scratch) -> (usize, usize) {
    ((scratch.l3 & L3_MASK) as usize, (scratch.l4 & L4_MASK) as usize)
}

impl<A: Address> Segment<A> {
    /// The segment that an earlier program has found.
    #[inline(always)]
    pub fn recall<F: Frame>(frame: &F, scratch: Slot<Scratch>) -> Option<Self> {
        let scratch = scratch.read();
        let (l3, l4) = offsets(&scratch);
        let later_fragment = scratch.flags & SCRATCH_LATER_FRAGMENT != 0;
        let ip = frame.header::<A::Header>(l3)?;
        let mut key =
            FlowKey::new(A::source(ip), scratch.ports.src_port, A::destination(ip), scratch.ports.dst_port);
        if !later_fragment {
            let tcp = frame.header::<Tcp>(l4)?;
            (key.src_port, key.dst_port) = (tcp.src_port, tcp.dst_port);
        }
        Some(Self {
            key,
            l3,
            l4,
            payload: scratch.payload as u16,
            flags: scratch.flags as u8,
            later_fragment,
        })
    }

    /// Where the IP header begins, read anew from what [`Segment::leave`] wrote.
    ///
    /// Linux 6.12's verifier: where a number that it knows exactly has been compared after something was added to it, its
    /// bounds and its bits contradict each other, and a packet pointer that it is added to is no longer one
    /// (`sync_linked_regs`, kernel/bpf/verifier.c).
    #[inline(always)]
    pub fn l3_anew(scratch: Slot<Scratch>) -> usize {
        (scratch.reread().l3 & L3_MASK) as usize
    }

    /// Leaves it for the next program.
    #[inline(always)]
    pub fn leave(&self, scratch: Slot<Scratch>) {
        scratch.update(|scratch| {
            scratch.l3 = self.l3 as u32;
            scratch.l4 = self.l4 as u32;
            scratch.payload = u32::from(self.payload);
            scratch.flags =
                u32::from(self.flags) | if self.later_fragment { SCRATCH_LATER_FRAGMENT } else { 0 };
        });
    }

    /// Whether any of the flags is set.
    #[inline(always)]
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// Whether it opens a connection, rather than answers. A SYN with a FIN or a RST does neither.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN
    }

    /// Whether a sender can have meant these flags: SYN, FIN and RST exclude each other, and what has none of them, or
    /// a FIN, has an ACK (RFC 9293 §3.10.7).
    #[inline(always)]
    pub const fn flags_are_sane(&self) -> bool {
        match self.flags & (TCP_SYN | TCP_FIN | TCP_RST) {
            0 | TCP_FIN => self.has(TCP_ACK),
            TCP_SYN | TCP_RST => true,
            _ => false,
        }
    }
}

/// The sequence number after a segment: SYN and FIN take one each (host byte order).
#[inline(always)]
pub const fn next_seq(tcp: &Tcp, payload: u16) -> u32 {
    let syn = (tcp.flags & TCP_SYN != 0) as u32;
    let fin = (tcp.flags & TCP_FIN != 0) as u32;
    tcp.seq.get().wrapping_add(payload as u32).wrapping_add(syn).wrapping_add(fin)
}
