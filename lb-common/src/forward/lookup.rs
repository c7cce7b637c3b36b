//! The stage for plain packets that the cache has no flow for: those of established flows are sent, and the flow gets a line.
//!
//! Every other packet for a VIP goes on to a stage that takes its time. What stands here twice, here and in
//! [`super::send`], is there for what only other packets need: tags, fragments, flags that change a flow.

use super::{
    INTERNAL, PARSE, Step, ask, cache,
    established::{PlainSegment, Sound},
    flow_clock, leave_to_slow, pass, tunnel,
};
use crate::{
    frame::{Frame, Plain},
    layout::{
        ANSWER_TIME_EXCEEDED, ANSWER_TOO_BIG, FlowEntry, FlowKey, MODE_DSR_IPIP, MODE_LOCAL, MODE_NAT,
        MacWord, NodeEntry, SEEN_RST, SEEN_SEVERED, Seen, TO_BACKEND,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment::Segment,
    tables::{BackendCounter, FlowTables, Level, Slot, Tables},
    wire::ETHERNET_LEN,
};

/// Goes on with a frame that the entry has found to be plain.
#[inline(always)]
pub fn lookup<A: Sound, F: Frame, T: Tables + FlowTables<A>>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let Some(plain) = PlainSegment::<A>::of(frame) else { return PARSE };
    let key = plain.key;
    let clock = flow_clock(tables);
    // Whatever this packet is, its flow's entry is looked at, or changed.
    cache::settle_flow(tables, node, &key, clock);
    if plain.goes_on()
        && let Some(stamp) = tables.stamp(cache::stamp_of(&key))
        && let Some(slot) = tables.flow(Level::Established, &key)
    {
        let goes_on = slot.with(|entry| {
            entry.seen.flags & (SEEN_RST | SEEN_SEVERED) == 0
                && entry.seen.is_heard_within(node.idle_timeout, clock)
        });
        if goes_on {
            match go_on(frame, tables, node, plain.packet_len, plain.payload, slot, clock) {
                Next::Sent(reason) => {
                    cache::fill(tables, node, &key, slot, stamp);
                    return Step::Done(Verdict::Transmit(reason));
                }
                Next::Done(step) => return step,
                Next::Ask { answer, mtu } => {
                    return ask(tables, &segment(&key, plain.payload, plain.flags), answer, mtu);
                }
                Next::Other => {}
            }
        }
    }
    leave_to_slow(scratch, &segment(&key, plain.payload, plain.flags))
}

/// As the stages after this one want it.
#[inline(always)]
const fn segment<A: Sound>(key: &FlowKey<A>, payload: usize, flags: u8) -> Segment<A> {
    Segment {
        key: *key,
        l3: ETHERNET_LEN,
        l4: ETHERNET_LEN + A::HEADER_LEN,
        payload: payload as u16,
        flags,
        later_fragment: false,
    }
}

/// What a packet of a flow comes to.
enum Next {
    /// It goes out; it has been written down.
    Sent(TransmitReason),
    /// This; it has been written down.
    Done(Step),
    /// An answer to its sender.
    Ask { answer: u32, mtu: u32 },
    /// That is not for here, and nothing is changed.
    Other,
}

/// Rewrites the packet, writes it down, and says where it goes.
#[inline(always)]
fn go_on<A: Sound, F: Frame, T: Tables + FlowTables<A>>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    packet_len: usize,
    payload: usize,
    slot: Slot<FlowEntry<A>>,
    clock: u32,
) -> Next {
    const LOST: Next = Next::Done(INTERNAL);
    let if_index = frame.if_index();
    let Some(packet) = frame.header_mut::<Plain<A>>(0) else { return LOST };
    // Where it lies: copies of all that a packet may need would not stay in registers.
    let mut hop = slot.field(|entry| &mut entry.client);
    let mut reason = TransmitReason::ToClient;
    let mut tunnel = None;
    if slot.with(|entry| entry.direction) == TO_BACKEND {
        let came_another_way = hop.with(|hop| {
            hop.mac != MacWord::read(&packet.ethernet.src) || hop.if_index != if_index || hop.outer.is_some()
        });
        if came_another_way {
            return Next::Other;
        }
        let (id, mode) = slot.with(|entry| (entry.backend, entry.mode));
        if mode == MODE_LOCAL {
            slot.update(|entry| write_down(&mut entry.seen, packet_len, clock));
            return Next::Done(pass(PassReason::LocalBackend));
        }
        let Some(backend) = tables.backend_slot(id) else { return LOST };
        if !backend.with(|backend| backend.hop.is_resolved()) {
            tables.count(id, BackendCounter::Unresolved);
            return Next::Done(super::drop(DropReason::NextHopUnknown));
        }
        let mut overhead = 0;
        if mode == MODE_DSR_IPIP {
            let address = backend.with(|backend| backend.address);
            overhead = tunnel::overhead(address);
            tunnel = Some(address);
        }
        let mtu = backend.with(|backend| backend.mtu);
        if mtu != 0 && packet_len + overhead > mtu as usize {
            return Next::Ask { answer: ANSWER_TOO_BIG, mtu: mtu.saturating_sub(overhead as u32) };
        }
        hop = backend.field(|backend| &mut backend.hop);
        reason = TransmitReason::ToBackend;
    }
    if hop.with(|hop| hop.outer.is_some()) {
        return Next::Other;
    }
    if A::hops(&packet.ip) <= 1 {
        return Next::Ask { answer: ANSWER_TIME_EXCEEDED, mtu: 0 };
    }
    slot.update(|entry| {
        A::take_hop(&mut packet.ip, entry.ip_delta);
        if entry.mode == MODE_NAT {
            A::set_addresses(&mut packet.ip, entry.rewritten.src, entry.rewritten.dst);
            packet.tcp.src_port = entry.rewritten.src_port;
            packet.tcp.dst_port = entry.rewritten.dst_port;
            packet.tcp.checksum = entry.tcp_delta.apply(packet.tcp.checksum);
        }
        write_down(&mut entry.seen, packet_len, clock);
        entry.seen.next_seq = packet.tcp.seq.get().wrapping_add(payload as u32);
        entry.seen.ack = packet.tcp.ack.get();
    });
    match tunnel {
        None => {
            hop.with(|hop| {
                hop.mac.write(&mut packet.ethernet.dst);
                hop.source.write(&mut packet.ethernet.src);
            });
            frame.leave_by(hop.with(|hop| hop.if_index));
        }
        Some(backend) => {
            if !tunnel::encapsulate::<A, F>(frame, node, ETHERNET_LEN, &hop.read(), backend) {
                return LOST;
            }
        }
    }
    Next::Sent(reason)
}

#[inline(always)]
fn write_down(seen: &mut Seen, packet_len: usize, clock: u32) {
    seen.packets += 1;
    seen.bytes += packet_len as u64;
    seen.at = clock;
}
