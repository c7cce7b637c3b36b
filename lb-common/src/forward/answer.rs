//! The stage for answers of our own, in place of the frame that they answer: a RST (RFC 9293 §3.10.7.1), or an ICMP error
//! (RFC 792, RFC 4443 §3).

use super::{Family, INTERNAL, Step};
use crate::{
    checksum::{self, Sum},
    family::{Address, header_delta},
    frame::{Frame, Header},
    layout::{
        ANSWER_BY_OTHER_NODE, ANSWER_RESET_ALL_FULL, ANSWER_RESET_NO_BACKEND, ANSWER_RESET_SEVERED,
        ANSWER_TIME_EXCEEDED, ANSWER_TOO_BIG, NodeEntry, Scratch,
    },
    link::{self, Tags},
    reason::{DropReason, TransmitReason, Verdict},
    segment::{Segment, next_seq},
    tables::{Slot, Tables},
    wire::{
        Be16, Be32, Be128, Ethernet, ICMP_FRAGMENTATION_NEEDED, ICMP_LEN, ICMP_TIME_EXCEEDED,
        ICMP_UNREACHABLE, ICMPV6_TIME_EXCEEDED, ICMPV6_TOO_BIG, IPV4_MIN_LEN, IPV6_LEN, Icmp, PROTOCOL_TCP,
        TCP_ACK, TCP_MIN_LEN, TCP_RST, Tcp,
    },
};

/// The shortest frame on Ethernet, without its check sequence.
const ETHERNET_MIN: usize = 60;
const ANSWER_HOPS: u8 = 64;
/// ICMP errors that each CPU sends in a second (RFC 1812 §4.3.2.8 and RFC 4443 §2.4 (f) want a limit).
const ERRORS_PER_SECOND: u32 = 1000;
const SECOND_NS: u64 = 1_000_000_000;

/// Answers the segment that an earlier stage left, as it asked.
#[inline(always)]
pub fn answer<A: Quote, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let Some(segment) = Segment::<A>::recall(frame, scratch) else { return INTERNAL };
    let wish = scratch.read();
    let reason = match wish.answer {
        ANSWER_TIME_EXCEEDED | ANSWER_TOO_BIG => {
            let (reason, refusal) = if wish.answer == ANSWER_TOO_BIG {
                (TransmitReason::PacketTooBig, DropReason::TooBig)
            } else {
                (TransmitReason::TimeExceeded, DropReason::TtlExpired)
            };
            // No errors about fragments other than the first (RFC 1812 §4.3.2.7).
            if segment.later_fragment || !may_send_error(tables, scratch) {
                return super::drop(refusal);
            }
            let message =
                if wish.answer == ANSWER_TOO_BIG { A::too_big(wish.mtu) } else { A::time_exceeded() };
            return match error(frame, node, &segment, message, wish.if_index) {
                Some(true) => Step::Done(Verdict::Transmit(reason)),
                Some(false) => super::drop(refusal),
                None => INTERNAL,
            };
        }
        ANSWER_BY_OTHER_NODE => {
            return match send_on::<A, F>(frame, node, scratch, &wish) {
                Some(()) => Step::Done(Verdict::Transmit(TransmitReason::ToOtherNode)),
                None => INTERNAL,
            };
        }
        ANSWER_RESET_NO_BACKEND => TransmitReason::ResetNoBackend,
        ANSWER_RESET_ALL_FULL => TransmitReason::ResetAllFull,
        ANSWER_RESET_SEVERED => TransmitReason::ResetSevered,
        _ => TransmitReason::ResetUnknownFlow,
    };
    if reset(frame, scratch, &segment) { Step::Done(Verdict::Transmit(reason)) } else { INTERNAL }
}

/// Sends a frame on to another node on the same link, by the way that it came in, one hop less left.
#[inline(always)]
fn send_on<A: Quote, F: Frame>(
    frame: &mut F,
    node: &NodeEntry,
    scratch: Slot<Scratch>,
    wish: &Scratch,
) -> Option<()> {
    let own = node.mac_of(frame.if_index())?;
    let ip = frame.header_mut::<A::Header>(Segment::<A>::l3_anew(scratch))?;
    A::rewrite(ip, A::source(ip), A::destination(ip), header_delta::<A>(Sum::ZERO));
    let ethernet = frame.header_mut::<Ethernet>(0)?;
    ethernet.dst = wish.other_node.octets();
    ethernet.src = own.octets();
    Some(())
}

/// Turns a frame into the RST that answers it. False where the frame could not be resized; it is garbage then. The
/// segment is no RST itself: nobody answers those.
#[inline(always)]
fn reset<A: Quote, F: Frame>(frame: &mut F, scratch: Slot<Scratch>, segment: &Segment<A>) -> bool {
    let way = link::way_back(frame, segment.l3);
    let Some(tcp) = frame.header::<Tcp>(segment.l4).copied() else { return false };
    let header = <A as Address>::header(
        segment.key.dst,
        segment.key.src,
        PROTOCOL_TCP,
        TCP_MIN_LEN as u16,
        ANSWER_HOPS,
        0,
    );
    let (seq, ack, flags) = if tcp.flags & TCP_ACK != 0 {
        (tcp.ack, Be32::new(0), TCP_RST)
    } else {
        (Be32::new(0), Be32::new(next_seq(&tcp, segment.payload)), TCP_RST | TCP_ACK)
    };
    let mut tcp_answer = Tcp {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        seq,
        ack,
        data_offset: ((TCP_MIN_LEN / 4) << 4) as u8,
        flags,
        ..Tcp::default()
    };
    tcp_answer.checksum = checksum::tcp_header(&tcp_answer)
        .plus(checksum::pseudo_header(segment.key.dst, segment.key.src, PROTOCOL_TCP, TCP_MIN_LEN as u16))
        .checksum();

    // An IPv4 frame may have been padded; what is left of the client's bytes must not travel back as padding.
    let end = segment.l3 + A::HEADER_LEN + TCP_MIN_LEN;
    let kept = if frame.len() >= ETHERNET_MIN && end < ETHERNET_MIN { ETHERNET_MIN } else { end };
    if frame.len() > kept && !frame.truncate(kept) {
        return false;
    }
    if kept > end
        && let Some(padding) = frame.header_mut::<[u8; 6]>(ETHERNET_MIN - 6)
    {
        *padding = [0; 6];
    }
    let l3 = Segment::<A>::l3_anew(scratch);
    let Some(place) = frame.header_mut::<A::Header>(l3) else { return false };
    *place = header;
    let Some(place) = frame.header_mut::<Tcp>(l3 + A::HEADER_LEN) else { return false };
    *place = tcp_answer;
    link::leave(frame, l3, &way, A::ETHERTYPE, 0).is_some()
}

/// What an ICMP error quotes of the packet that it is about: the header, and of TCP so much that the sender finds the
/// connection and judges the sequence number.
pub trait Quote: Family {
    /// The quoted bytes.
    type Quoted: Header;
    /// How many.
    const QUOTED_LEN: usize;
    /// Their sum.
    fn sum(quoted: &Self::Quoted) -> Sum;
    /// The node's own address.
    fn own(node: &NodeEntry) -> Self;
    /// "Fragmentation needed" (RFC 1191 §4) or "packet too big".
    fn too_big(mtu: u32) -> Icmp;
    /// "TTL exceeded in transit" or "hop limit exceeded".
    fn time_exceeded() -> Icmp;
    /// What a pseudo-header adds to the sum of the message.
    fn pseudo(source: Self, destination: Self, length: u16) -> Sum;
}

const QUOTED4: usize = IPV4_MIN_LEN + TCP_MIN_LEN;
const QUOTED6: usize = IPV6_LEN + TCP_MIN_LEN;

impl Quote for Be32 {
    type Quoted = [Be32; QUOTED4 / 4];
    const QUOTED_LEN: usize = QUOTED4;

    #[inline(always)]
    fn sum(quoted: &Self::Quoted) -> Sum {
        quoted.iter().fold(Sum::ZERO, |sum, &word| sum.be32(word))
    }

    #[inline(always)]
    fn own(node: &NodeEntry) -> Self {
        node.v4
    }

    #[inline(always)]
    fn too_big(mtu: u32) -> Icmp {
        Icmp {
            kind: ICMP_UNREACHABLE,
            code: ICMP_FRAGMENTATION_NEEDED,
            checksum: Be16::new(0),
            rest: Be32::new(mtu & 0xffff),
        }
    }

    #[inline(always)]
    fn time_exceeded() -> Icmp {
        Icmp { kind: ICMP_TIME_EXCEEDED, ..Icmp::default() }
    }

    #[inline(always)]
    fn pseudo(_source: Self, _destination: Self, _length: u16) -> Sum {
        Sum::ZERO
    }
}

impl Quote for Be128 {
    type Quoted = [Be32; QUOTED6 / 4];
    const QUOTED_LEN: usize = QUOTED6;

    #[inline(always)]
    fn sum(quoted: &Self::Quoted) -> Sum {
        quoted.iter().fold(Sum::ZERO, |sum, &word| sum.be32(word))
    }

    #[inline(always)]
    fn own(node: &NodeEntry) -> Self {
        node.v6
    }

    #[inline(always)]
    fn too_big(mtu: u32) -> Icmp {
        Icmp { kind: ICMPV6_TOO_BIG, code: 0, checksum: Be16::new(0), rest: Be32::new(mtu) }
    }

    #[inline(always)]
    fn time_exceeded() -> Icmp {
        Icmp { kind: ICMPV6_TIME_EXCEEDED, ..Icmp::default() }
    }

    #[inline(always)]
    fn pseudo(source: Self, destination: Self, length: u16) -> Sum {
        checksum::pseudo_header(source, destination, <Self as Address>::ICMP, length)
    }
}

/// Turns a frame into an ICMP error about it, from the node's own address, or from the VIP where it has none. `None` where
/// the frame could not be resized; false where none can be made: with IPv4 options, or a header too short to quote.
#[inline(always)]
fn error<A: Quote, F: Frame>(
    frame: &mut F,
    node: &NodeEntry,
    segment: &Segment<A>,
    message: Icmp,
    if_index: u32,
) -> Option<bool> {
    if segment.l4 - segment.l3 > A::HEADER_LEN && !A::IS_V6 {
        return Some(false);
    }
    let Some(quoted) = frame.header::<A::Quoted>(segment.l3) else { return Some(false) };
    let length = (ICMP_LEN + A::QUOTED_LEN) as u16;
    let own = A::own(node);
    let source = if own == A::ZERO { segment.key.dst } else { own };
    let header =
        <A as Address>::header(source, segment.key.src, <A as Address>::ICMP, length, ANSWER_HOPS, 0);
    let mut icmp = message;
    icmp.checksum = checksum::icmp_header(&icmp)
        .plus(A::sum(quoted))
        .plus(A::pseudo(source, segment.key.src, length))
        .checksum();

    let mut way = link::way_back(frame, segment.l3);
    let tags = Tags { outer: way.outer, inner: way.inner };
    if if_index != 0 {
        way.if_index = if_index;
    }
    if !frame.truncate(segment.l3 + A::QUOTED_LEN) {
        return None;
    }
    let begin = link::write(frame, segment.l3, &way, tags, A::ETHERTYPE, A::HEADER_LEN + ICMP_LEN)?;
    *frame.header_mut::<A::Header>(begin)? = header;
    *frame.header_mut::<Icmp>(begin + A::HEADER_LEN)? = icmp;
    Some(true)
}

/// Takes one from this second's errors.
#[inline(always)]
fn may_send_error<T: Tables>(tables: &T, scratch: Slot<Scratch>) -> bool {
    let now = tables.monotonic_ns();
    let mut may = true;
    scratch.update(|scratch| {
        if now.wrapping_sub(scratch.errors_since_ns) >= SECOND_NS {
            scratch.errors_since_ns = now;
            scratch.errors = 0;
        }
        may = scratch.errors < ERRORS_PER_SECOND;
        if may {
            scratch.errors += 1;
        }
    });
    may
}
