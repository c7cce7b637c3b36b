//! What the two ends of a flow are told when it is ended: which segments, with which numbers, in which frames. Pure.
//!
//! **What a receiver believes** (RFC 5961 §3.2, and Linux's `tcp_validate_incoming`): a RST whose sequence number is exactly
//! the next one that it expects (RCV.NXT). One elsewhere in its window gets a *challenge ACK*, one outside is ignored
//! without a word. An acknowledgement outside the window is answered by another one (RFC 9293 §3.10.7.4). So:
//!
//! - A RST with each number that may be RCV.NXT. What a receiver has acknowledged last is right unless something is on its
//!   way or an acknowledgement was held back; what the other side sent last is right unless it was lost.
//! - If the receiver is elsewhere in its window, its challenge ACK comes to XDP, which knows that the flow is severed and
//!   answers with the number that it acknowledges: exact.
//! - An acknowledgement of one byte before that (a keep-alive of RFC 9293 §3.8.4, which every firewall knows). A receiver
//!   whose window is far from what the flow's entry says (the entry is another node's, and old) ignores the RST, but
//!   answers this. Never with a byte of data in it: if we are wrong the receiver would take it for its own.
//!
//! None has TCP options: a RST is believed whatever its time stamp (RFC 7323 §5.2), and an acknowledgement without one is
//! not held against it.
//!
//! With direct server return only the client's numbers are known. The backend is told with the number that follows what the
//! client sent last.

use lb_common::{
    checksum,
    family::Address,
    layout::{
        BackendEntry, FlowEntry, FlowKey, Hop, MODE_DSR_IPIP, MODE_DSR_L2, MODE_LOCAL, MODE_NAT, NodeEntry,
        SEEN_FIN, SEEN_RST, SEEN_SEVERED, SEEN_SYN, Seen,
    },
    wire::{
        Be16, Be32, Be128, Ipv4, Ipv6, Mac, PROTOCOL_IPV4, PROTOCOL_IPV6, PROTOCOL_TCP, TCP_ACK, TCP_MIN_LEN,
        TCP_RST, Tcp,
    },
};

/// Hops of what we send.
const HOPS: u8 = 64;
/// The window that an acknowledgement of ours offers: any but 0, which would have the receiver wait.
const WINDOW: u16 = 8192;

/// An established flow with all that is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// The client's addresses and ports, then the VIP's.
    pub key: FlowKey<A>,
    /// The client's direction.
    pub forward: FlowEntry<A>,
    /// The backend's, where it is seen and still there.
    pub reply: Option<FlowEntry<A>>,
}

impl<A> Flow<A> {
    /// Whether somebody may still believe in the flow: it has neither ended nor been severed.
    pub fn is_open(&self) -> bool {
        let own = self.forward.seen.flags;
        let (either, both) = match &self.reply {
            Some(reply) => (own | reply.seen.flags, own & reply.seen.flags),
            None => (own, own & SEEN_SEVERED),
        };
        either & SEEN_RST == 0 && both & (SEEN_FIN | SEEN_SEVERED) == 0
    }

    /// Whether it is one of those that its backend's load counts: where replies are not seen, the client's FIN ends it.
    pub fn counts(&self) -> bool {
        let is_complete = (self.forward.mode == MODE_NAT) == self.reply.is_some();
        let is_closed = self.forward.mode != MODE_NAT && self.forward.seen.flags & SEEN_FIN != 0;
        self.is_open() && is_complete && !is_closed
    }

    /// Whether it is marked as severed in every direction that it has.
    pub fn is_severed(&self) -> bool {
        let reply = self.reply.as_ref().is_none_or(|reply| reply.seen.flags & SEEN_SEVERED != 0);
        self.forward.seen.flags & SEEN_SEVERED != 0 && reply
    }
}

/// A frame, and the interface that it leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFrame {
    /// Index of the interface.
    pub if_index: u32,
    /// The Ethernet address that it is for.
    pub to: Mac,
    /// What follows the Ethernet addresses: a tag's type, or the packet's.
    pub ethertype: Be16,
    /// All of it, without the check sequence.
    pub bytes: Vec<u8>,
}

/// A segment without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bare {
    /// Sequence number (host byte order).
    pub seq: u32,
    /// Acknowledgement number (host byte order).
    pub ack: u32,
    /// `TCP_` bits.
    pub flags: u8,
}

/// What the client of a flow is told. `forward` and `reply` are what the two directions have seen.
pub fn for_client(forward: &Seen, reply: Option<&Seen>) -> Vec<Bare> {
    let sent = reply.filter(|reply| has_numbers(reply)).map(|reply| reply.next_seq);
    farewell(forward.ack, sent, forward.next_seq)
}

/// What the backend of a flow is told.
pub fn for_backend(forward: &Seen, reply: Option<&Seen>) -> Vec<Bare> {
    match reply.filter(|reply| has_numbers(reply)) {
        Some(reply) => farewell(reply.ack, Some(forward.next_seq), reply.next_seq),
        // What it has acknowledged is not seen: what it was sent must do.
        None => farewell(forward.next_seq, None, forward.ack),
    }
}

fn has_numbers(seen: &Seen) -> bool {
    seen.packets > 0 || seen.flags & SEEN_SYN != 0 || seen.next_seq != 0
}

/// `acked`: what the receiver has acknowledged last. `sent`: what follows the last segment that was sent to it, if that is
/// seen. `next`: what it will send next.
fn farewell(acked: u32, sent: Option<u32>, next: u32) -> Vec<Bare> {
    let reset = |seq| Bare { seq, ack: next, flags: TCP_RST | TCP_ACK };
    let mut segments = Vec::with_capacity(3);
    // What was sent last is what it expects, unless that was sent again, or got lost.
    match sent {
        Some(sent) if is_after(sent, acked) => segments.extend([reset(sent), reset(acked)]),
        Some(sent) if sent != acked => segments.extend([reset(acked), reset(sent)]),
        _ => segments.push(reset(acked)),
    }
    segments.push(Bare { seq: acked.wrapping_sub(1), ack: next, flags: TCP_ACK });
    segments
}

/// Whether a sequence number comes after another one (RFC 9293 §3.4).
const fn is_after(one: u32, other: u32) -> bool {
    one.wrapping_sub(other).cast_signed() > 0
}

/// The frames that tell the client.
pub fn to_client<A: Telling>(flow: &Flow<A>) -> Vec<OutFrame> {
    let Flow { key, forward, reply } = flow;
    if !forward.client.is_resolved() {
        return Vec::new();
    }
    let segments = for_client(&forward.seen, reply.as_ref().map(|reply| &reply.seen));
    let way = key.reversed();
    segments.into_iter().map(|bare| frame(&forward.client, &packet(&way, bare), A::ETHERTYPE)).collect()
}

/// The frames that tell the backend; none where its Ethernet address is not known, or it is this very node.
pub fn to_backend<A: Telling>(flow: &Flow<A>, backend: &BackendEntry, node: &NodeEntry) -> Vec<OutFrame> {
    let Flow { forward, reply, .. } = flow;
    if forward.mode == MODE_LOCAL || backend.local != 0 || !backend.hop.is_resolved() {
        return Vec::new();
    }
    let segments = for_backend(&forward.seen, reply.as_ref().map(|reply| &reply.seen));
    let packets = segments.into_iter().map(|bare| packet(&forward.rewritten, bare));
    let frames = packets.map(|packet| match forward.mode {
        MODE_NAT | MODE_DSR_L2 => Some(frame(&backend.hop, &packet, A::ETHERTYPE)),
        MODE_DSR_IPIP if backend.address.is_mapped() => {
            tunnelled::<A, Be32>(&backend.hop, &packet, node.v4, backend.address.low())
        }
        MODE_DSR_IPIP => tunnelled::<A, Be128>(&backend.hop, &packet, node.v6, backend.address),
        _ => None,
    });
    frames.flatten().collect()
}

/// An address family whose packets are written here.
pub trait Telling: Address {
    /// Its number as the payload of another IP packet.
    const IN_IP: u8;
    /// The bytes of a header.
    fn write(header: &Self::Header, to: &mut Vec<u8>);
}

impl Telling for Be32 {
    const IN_IP: u8 = PROTOCOL_IPV4;

    fn write(header: &Ipv4, to: &mut Vec<u8>) {
        to.extend([header.version_ihl, header.tos]);
        to.extend(header.total_length.get().to_be_bytes());
        to.extend(header.id.get().to_be_bytes());
        to.extend(header.fragment.get().to_be_bytes());
        to.extend([header.ttl, header.protocol]);
        to.extend(header.checksum.get().to_be_bytes());
        to.extend(header.src.octets());
        to.extend(header.dst.octets());
    }
}

impl Telling for Be128 {
    const IN_IP: u8 = PROTOCOL_IPV6;

    fn write(header: &Ipv6, to: &mut Vec<u8>) {
        to.extend(header.version_class_flow.octets());
        to.extend(header.payload_length.get().to_be_bytes());
        to.extend([header.next_header, header.hop_limit]);
        to.extend(header.src.octets());
        to.extend(header.dst.octets());
    }
}

fn packet<A: Telling>(way: &FlowKey<A>, bare: Bare) -> Vec<u8> {
    let header = A::header(way.src, way.dst, PROTOCOL_TCP, TCP_MIN_LEN as u16, HOPS, 0);
    let mut tcp = Tcp {
        src_port: way.src_port,
        dst_port: way.dst_port,
        seq: Be32::new(bare.seq),
        ack: Be32::new(bare.ack),
        data_offset: ((TCP_MIN_LEN / 4) << 4) as u8,
        flags: bare.flags,
        window: Be16::new(if bare.flags & TCP_RST == 0 { WINDOW } else { 0 }),
        ..Tcp::default()
    };
    tcp.checksum = checksum::tcp_header(&tcp)
        .plus(checksum::pseudo_header(way.src, way.dst, PROTOCOL_TCP, TCP_MIN_LEN as u16))
        .checksum();
    let mut bytes = Vec::with_capacity(A::HEADER_LEN + TCP_MIN_LEN);
    A::write(&header, &mut bytes);
    bytes.extend(tcp.src_port.get().to_be_bytes());
    bytes.extend(tcp.dst_port.get().to_be_bytes());
    bytes.extend(tcp.seq.octets());
    bytes.extend(tcp.ack.octets());
    bytes.extend([tcp.data_offset, tcp.flags]);
    bytes.extend(tcp.window.get().to_be_bytes());
    bytes.extend(tcp.checksum.get().to_be_bytes());
    bytes.extend(tcp.urgent.get().to_be_bytes());
    bytes
}

fn tunnelled<A: Telling, O: Telling>(
    hop: &Hop,
    packet: &[u8],
    source: O,
    destination: O,
) -> Option<OutFrame> {
    if source == O::ZERO {
        return None;
    }
    let header = O::header(source, destination, A::IN_IP, u16::try_from(packet.len()).ok()?, HOPS, 0);
    let mut outer = Vec::with_capacity(O::HEADER_LEN + packet.len());
    O::write(&header, &mut outer);
    outer.extend(packet);
    Some(frame(hop, &outer, O::ETHERTYPE))
}

fn frame(hop: &Hop, packet: &[u8], ethertype: Be16) -> OutFrame {
    let mut bytes = Vec::with_capacity(22 + packet.len());
    bytes.extend(hop.mac.octets());
    bytes.extend(hop.source.octets());
    for tag in [hop.outer, hop.inner].into_iter().filter(|tag| tag.is_some()) {
        bytes.extend(tag.octets());
    }
    bytes.extend(ethertype.get().to_be_bytes());
    bytes.extend(packet);
    let first = Be16::new(u16::from_be_bytes([bytes[12], bytes[13]]));
    OutFrame { if_index: hop.if_index, to: hop.mac.octets(), ethertype: first, bytes }
}

#[cfg(test)]
mod tests;
