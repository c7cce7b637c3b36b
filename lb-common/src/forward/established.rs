//! Plain packets of busy flows: nearly all that there is to do, in as few steps as it takes.
//!
//! Every other packet for a VIP goes on to a stage that takes its time ([`super::lookup`]). What stands here twice is there for
//! what only other packets need.

use super::{Family, INTERNAL, PARSE, Step, cache, tunnel};
use crate::{
    checksum,
    frame::{Frame, Plain},
    layout::{CACHE_TO_CLIENT, CacheLine, FlowKey, MODE_DSR_IPIP, MODE_NAT, MacWord, NodeEntry},
    reason::TransmitReason,
    tables::{FlowTables, Slot, Tables},
    wire::{
        Be32, Be128, ETHERNET_LEN, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, PROTOCOL_TCP, TCP_ACK, TCP_FIN,
        TCP_MIN_LEN, TCP_RST, TCP_SYN,
    },
};

/// What tells whether an IP header is as nearly all are.
pub trait Sound: Family {
    /// Sound, without options or extensions, of a whole TCP segment.
    fn is_plain(header: &Self::Header) -> bool;
}

impl Sound for Be32 {
    #[inline(always)]
    fn is_plain(header: &Ipv4) -> bool {
        header.version_ihl == 0x45
            && header.protocol == PROTOCOL_TCP
            && header.fragment.get() & IPV4_FRAGMENT_MASK == 0
            && checksum::ipv4_header(header).is_sound()
    }
}

impl Sound for Be128 {
    #[inline(always)]
    fn is_plain(header: &Ipv6) -> bool {
        header.version_class_flow.get() >> 28 == 6 && header.next_header == PROTOCOL_TCP
    }
}

/// A TCP segment without tags, options of IP, or extensions.
pub struct PlainSegment<A> {
    /// Its addresses and ports. By itself where it is handed to the kernel: what the kernel gets the address of stays in memory,
    /// and all that is beside it.
    pub key: FlowKey<A>,
    /// Bytes, IP header included.
    pub packet_len: usize,
    /// Bytes of TCP payload.
    pub payload: usize,
    /// The TCP flags.
    pub flags: u8,
}

impl<A: Sound> PlainSegment<A> {
    /// The one in a frame, if it is sound.
    #[inline(always)]
    pub fn of<F: Frame>(frame: &F) -> Option<Self> {
        let packet = frame.header::<Plain<A>>(0)?;
        let packet_len = A::packet_len(&packet.ip);
        if !A::is_plain(&packet.ip) || packet_len > frame.len() - ETHERNET_LEN {
            return None;
        }
        let tcp_len = usize::from(packet.tcp.data_offset >> 4) * 4;
        if tcp_len < TCP_MIN_LEN || A::HEADER_LEN + tcp_len > packet_len {
            return None;
        }
        let key = FlowKey::new(
            A::source(&packet.ip),
            packet.tcp.src_port,
            A::destination(&packet.ip),
            packet.tcp.dst_port,
        );
        let payload = packet_len - A::HEADER_LEN - tcp_len;
        Some(Self { key, packet_len, payload, flags: packet.tcp.flags })
    }

    /// Whether it neither begins nor ends anything: what does changes more than its flow's counters.
    #[inline(always)]
    pub const fn goes_on(&self) -> bool {
        self.flags & (TCP_SYN | TCP_FIN | TCP_RST | TCP_ACK) == TCP_ACK
    }
}

/// Goes on with a frame for us, and a VIP.
#[inline(always)]
pub fn established<A: Sound, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
) -> Step {
    // What is not as it should be is judged where there is room for it.
    let Some(segment) = PlainSegment::<A>::of(frame) else { return PARSE };
    if segment.goes_on()
        && let Some(line) = cache::find(tables, node, &segment.key)
        && let Some(step) = go_on(frame, tables, node, segment.packet_len, segment.payload, line)
    {
        return step;
    }
    Step::Next(A::LOOKUP)
}

/// Rewrites the packet and writes it down. `None` where it is not as easy as that; nothing is changed then.
#[inline(always)]
fn go_on<A: Sound, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    packet_len: usize,
    payload: usize,
    line: Slot<CacheLine<A>>,
) -> Option<Step> {
    let if_index = frame.if_index();
    let packet = frame.header_mut::<Plain<A>>(0)?;
    if A::hops(&packet.ip) <= 1 {
        return None;
    }
    let (how, link) = line.with(|line| (line.how, usize::from(line.link) % node.if_indices.len()));
    let mut egress = node.if_indices[link];
    let mut reason = TransmitReason::ToClient;
    let mut tunnel = None;
    if how & CACHE_TO_CLIENT == 0 {
        // Its client's packets come another way now.
        if egress != if_index || line.with(|line| line.client) != MacWord::read(&packet.ethernet.src) {
            return None;
        }
        let backend = tables.backend_slot(line.with(|line| line.backend))?;
        let hop = backend.field(|backend| &mut backend.hop);
        let mut overhead = 0;
        if how == MODE_DSR_IPIP {
            let address = backend.with(|backend| backend.address);
            overhead = tunnel::overhead(address);
            tunnel = Some((address, hop));
        }
        let mtu = backend.with(|backend| backend.mtu);
        let is_in_the_way = hop.with(|hop| !hop.is_resolved() || hop.outer.is_some());
        if is_in_the_way || (mtu != 0 && packet_len + overhead > mtu as usize) {
            return None;
        }
        hop.with(|hop| {
            hop.mac.write(&mut packet.ethernet.dst);
            hop.source.write(&mut packet.ethernet.src);
        });
        egress = hop.with(|hop| hop.if_index);
        reason = TransmitReason::ToBackend;
    } else {
        line.with(|line| line.client).write(&mut packet.ethernet.dst);
        node.macs[link].write(&mut packet.ethernet.src);
    }
    line.update(|line| {
        A::take_hop(&mut packet.ip, line.ip_delta);
        if how & !CACHE_TO_CLIENT == MODE_NAT {
            A::set_addresses(&mut packet.ip, line.rewritten.src, line.rewritten.dst);
            packet.tcp.src_port = line.rewritten.src_port;
            packet.tcp.dst_port = line.rewritten.dst_port;
            packet.tcp.checksum = line.tcp_delta.apply(packet.tcp.checksum);
        }
        line.bytes += packet_len as u64;
        line.packets = line.packets.wrapping_add(1);
        line.next_seq = packet.tcp.seq.get().wrapping_add(payload as u32);
        line.ack = packet.tcp.ack.get();
    });
    frame.leave_by(egress);
    if let Some((backend, hop)) = tunnel
        && !tunnel::encapsulate::<A, F>(frame, node, ETHERNET_LEN, &hop.read(), backend)
    {
        // Counted as what it is, not as sent.
        line.update(|line| line.packets = line.packets.wrapping_sub(1));
        return Some(INTERNAL);
    }
    Some(Step::Sent(reason))
}
