//! What `xvip trace` and `xvip capture` see: the ABI between the XDP programs and the tracer, and whose packets are
//! looked for.
//!
//! While a tracer runs, one program keeps a copy of each received frame before anything else looks at it, and another
//! one, after the verdict, a copy of what is sent. Where either is the client's, both go to user space as one record:
//! an [`Event`], the received frame and, where one was sent, the sent frame, each in [`TraceEntry::depth`] bytes.

use core::hint::black_box;

use crate::{
    link::{TAG_LEN, is_tag},
    wire::{
        Be16, Be32, Be128, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP_LEN,
        ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, ICMPV6_PARAMETER_PROBLEM,
        ICMPV6_UNREACHABLE, IPV4_OFFSET_MASK, IPV6_FRAGMENT_LEN, IPV6_LEN, PROTOCOL_DESTINATION,
        PROTOCOL_FRAGMENT, PROTOCOL_HOP_BY_HOP, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_IPV4, PROTOCOL_IPV6,
        PROTOCOL_ROUTING, PROTOCOL_TCP,
    },
};

/// [`TraceEntry::depth`]: enough for all headers.
pub const HEADERS: usize = 192;
/// [`TraceEntry::depth`]: whole frames, unless they are jumbo frames.
pub const WHOLE: usize = 2048;
/// Bytes of [`Note::frames`]: two frames, and the furthest that a read at a masked offset reaches beyond them.
pub const FRAME_ROOM: usize = 2 * WHOLE + 64;

/// Value of `TRACE`, one entry: what the tracer wants to see.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceEntry {
    /// `CLOCK_MONOTONIC` in nanoseconds, after which the programs switch tracing off: a tracer that was killed does not
    /// write a later time.
    pub until_ns: u64,
    /// 0: nobody traces. Otherwise a number that no tracer before this one has had.
    pub session: u32,
    /// The tracer's process id.
    pub owner: u32,
    /// [`HEADERS`] or [`WHOLE`].
    pub depth: u32,
    /// Zero.
    pub _pad: u32,
    /// Whose packets.
    pub wanted: Wanted,
}

/// Whose packets are wanted.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Client or network in the wide form; what `mask` leaves out is zero.
    pub client: Be128,
    /// Which bits of it count. None: every frame is wanted, those that are not IP included.
    pub mask: Be128,
    /// The client's port in host byte order; 0: any.
    pub port: u32,
    /// Zero.
    pub _pad: u32,
}

/// The programs that only watch; the number is the index in the `WATCHERS` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watcher {
    /// Keeps a copy of what came in.
    Received = 0,
    /// Another instance of the entry, which is not watched.
    Entry = 1,
    /// Keeps a copy of what goes out, and tells the tracer.
    Decided = 2,
    /// Logs a drop that should not happen.
    Log = 3,
}

impl Watcher {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Received, Self::Entry, Self::Decided, Self::Log];

    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Received => "xvip_received",
            Self::Entry => "xvip_traced",
            Self::Decided => "xvip_decided",
            Self::Log => "xvip_log",
        }
    }
}

/// What became of a frame: the beginning of a record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `CLOCK_MONOTONIC` in nanoseconds when it came in.
    pub at_ns: u64,
    /// [`TraceEntry::session`] at that time; 0 while there is no frame.
    pub session: u32,
    /// The CPU.
    pub cpu: u32,
    /// Index of the interface that it came in by.
    pub ingress: u32,
    /// Index of the interface that it leaves by; meaningful where it is sent.
    pub egress: u32,
    /// `Verdict::counter`.
    pub counter: u32,
    /// What the program returns to the kernel (`XDP_TX` and so on).
    pub action: u32,
    /// Length of the received frame in bytes.
    pub received_len: u32,
    /// How many of them are kept.
    pub received_kept: u32,
    /// Length of the sent frame; 0: none was sent.
    pub sent_len: u32,
    /// How many of its bytes are kept.
    pub sent_kept: u32,
}

/// Bytes of an [`Event`].
pub const EVENT_LEN: usize = size_of::<Event>();

/// Value of `NOTES`, per CPU: what the programs leave for each other about the frame at hand.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// What becomes of it.
    pub event: Event,
    /// The received frame, and the sent one [`TraceEntry::depth`] bytes later.
    pub frames: [u8; FRAME_ROOM],
    /// For the search in them.
    pub cursor: Cursor,
    /// Records that found no room, since the map exists.
    pub lost: u64,
}

/// The bytes that are kept of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    frames: &'a [u8; FRAME_ROOM],
    begin: usize,
    len: usize,
}

impl<'a> Kept<'a> {
    /// Those `len` bytes of `frames` that begin at `begin`.
    #[inline(always)]
    pub const fn new(frames: &'a [u8; FRAME_ROOM], begin: usize, len: usize) -> Self {
        Self { frames, begin, len }
    }

    /// `N` of its bytes, at most 64, or `None` where it ends before.
    #[inline(always)]
    fn octets<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset + N > self.len {
            return None;
        }
        // The mask changes nothing; it is what the verifier knows the bound from.
        let begin = (self.begin + offset) & (2 * WHOLE - 1);
        self.frames.get(begin..begin + N)?.try_into().ok()
    }

    #[inline(always)]
    fn octet(&self, offset: usize) -> Option<u8> {
        self.octets::<1>(offset).map(|[octet]| octet)
    }

    #[inline(always)]
    fn be16(&self, offset: usize) -> Option<Be16> {
        self.octets(offset).map(|octets| Be16::new(u16::from_be_bytes(octets)))
    }

    #[inline(always)]
    fn be32(&self, offset: usize) -> Option<Be32> {
        self.octets(offset).map(Be32::from_octets)
    }
}

/// How many headers are looked at: three packets deep (a tunnel, what it carries, what an error is about), extensions
/// included.
const HEADERS_DEEP: usize = 10;

/// Where the search for a client's packet stands.
///
/// It lives in map memory, and each step reads it again: what the verifier knew about it before is forgotten, so it
/// follows each step once rather than once for each way there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Where the next header begins.
    at: u32,
    /// What it is, by its protocol number.
    protocol: u32,
    /// `FROM` and `TO`: whether the packet is from or to the client's address.
    sides: u32,
    /// 1: a fragment without ports.
    is_later: u32,
}

/// [`Cursor::sides`]: from the client.
const FROM: u32 = 1;
/// [`Cursor::sides`]: to the client.
const TO: u32 = 2;
/// UDP (RFC 768).
const PROTOCOL_UDP: u8 = 17;

impl Wanted {
    /// Everything.
    pub const EVERYTHING: Self =
        Self { client: Be128::from_octets([0; 16]), mask: Be128::from_octets([0; 16]), port: 0, _pad: 0 };

    /// Whether the frame is from or to the client, or is about such a packet. A fragment without ports is taken for one
    /// with the right ones.
    #[inline(always)]
    pub fn is_in(&self, frame: &Kept<'_>, cursor: &mut Cursor) -> bool {
        let [high, low] = self.mask.halves();
        (high | low == 0 && self.port == 0) || self.search(frame, cursor).unwrap_or(false)
    }

    #[inline(always)]
    fn search(&self, frame: &Kept<'_>, mut cursor: &mut Cursor) -> Option<bool> {
        let (l3, ethertype) = network(frame)?;
        let protocol = match ethertype {
            ETHERTYPE_IPV4 => PROTOCOL_IPV4,
            ETHERTYPE_IPV6 => PROTOCOL_IPV6,
            ETHERTYPE_ARP => {
                let (sender, target) = (frame.be32(l3 + 14)?, frame.be32(l3 + 24)?);
                let is_client = self.has(Be128::mapped(sender)) || self.has(Be128::mapped(target));
                return Some(self.port == 0 && is_client);
            }
            _ => return None,
        };
        *cursor = Cursor { at: l3 as u32, protocol: u32::from(protocol), sides: 0, is_later: 0 };
        for _ in 0..HEADERS_DEEP {
            cursor = black_box(cursor);
            let (next, found) = self.look(frame, *cursor)?;
            if found {
                return Some(true);
            }
            *cursor = next;
        }
        None
    }

    /// Looks at one header: where the next one is, and whether the packet is the client's.
    #[inline(always)]
    fn look(&self, frame: &Kept<'_>, cursor: Cursor) -> Option<(Cursor, bool)> {
        let at = cursor.at as usize;
        let next =
            |protocol: u8, at: usize| Cursor { protocol: u32::from(protocol), at: at as u32, ..cursor };
        match cursor.protocol as u8 {
            PROTOCOL_IPV4 => {
                let source = Be128::mapped(frame.be32(at + 12)?);
                let destination = Be128::mapped(frame.be32(at + 16)?);
                let l4 = at + usize::from(frame.octet(at)? & 0x0f) * 4;
                let is_later = frame.be16(at + 6)?.get() & IPV4_OFFSET_MASK != 0;
                let next = Cursor {
                    sides: self.sides(source, destination),
                    is_later: is_later.into(),
                    ..next(frame.octet(at + 9)?, l4)
                };
                Some((next, self.port == 0 && next.sides != 0))
            }
            PROTOCOL_IPV6 => {
                let source = Be128::from_octets(frame.octets(at + 8)?);
                let destination = Be128::from_octets(frame.octets(at + 24)?);
                let sides = self.sides(source, destination);
                let next = Cursor { sides, is_later: 0, ..next(frame.octet(at + 6)?, at + IPV6_LEN) };
                Some((next, self.port == 0 && sides != 0))
            }
            PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION if cursor.is_later == 0 => {
                let length = usize::from(frame.octet(at + 1)?) * 8 + 8;
                Some((next(frame.octet(at)?, at + length), false))
            }
            PROTOCOL_FRAGMENT if cursor.is_later == 0 => {
                let is_later = frame.be16(at + 2)?.get() & 0xfff8 != 0;
                let next = next(frame.octet(at)?, at + IPV6_FRAGMENT_LEN);
                Some((Cursor { is_later: is_later.into(), ..next }, false))
            }
            PROTOCOL_TCP | PROTOCOL_UDP => {
                let is_port = |side: u32, at: usize| {
                    cursor.sides & side != 0
                        && (cursor.is_later != 0
                            || frame.be16(at).is_some_and(|port| u32::from(port.get()) == self.port))
                };
                Some((cursor, is_port(FROM, at) || is_port(TO, at + 2))).filter(|(_, found)| *found)
            }
            PROTOCOL_ICMP if cursor.is_later == 0 => match frame.octet(at)? {
                ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER_PROBLEM => {
                    Some((next(PROTOCOL_IPV4, at + ICMP_LEN), false))
                }
                _ => None,
            },
            PROTOCOL_ICMPV6 if cursor.is_later == 0 => match frame.octet(at)? {
                ICMPV6_UNREACHABLE..=ICMPV6_PARAMETER_PROBLEM => {
                    Some((next(PROTOCOL_IPV6, at + ICMP_LEN), false))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// In arithmetic: the verifier would follow each combination.
    #[inline(always)]
    fn sides(&self, source: Be128, destination: Be128) -> u32 {
        (FROM * is_zero(self.difference(source))) | (TO * is_zero(self.difference(destination)))
    }

    /// Whether an address is the client's.
    #[inline(always)]
    fn has(&self, address: Be128) -> bool {
        self.difference(address) == 0
    }

    /// Bits in which an address differs from the client's; none: it is the client's.
    #[inline(always)]
    fn difference(&self, address: Be128) -> u64 {
        let ([a, b], [c, d], [m, n]) = (address.halves(), self.client.halves(), self.mask.halves());
        ((a ^ c) & m) | ((b ^ d) & n)
    }
}

/// 1 or 0, without a branch that LLVM would make of a comparison.
#[inline(always)]
fn is_zero(bits: u64) -> u32 {
    (black_box(bits | bits.wrapping_neg()) >> 63) as u32 ^ 1
}

/// Where the network header begins, and what it is, behind at most two tags.
#[inline(always)]
fn network(frame: &Kept<'_>) -> Option<(usize, Be16)> {
    let mut l3 = ETHERNET_LEN;
    let mut ethertype = frame.be16(l3 - 2)?;
    for _ in 0..2 {
        if is_tag(ethertype) {
            l3 += TAG_LEN;
            ethertype = frame.be16(l3 - 2)?;
        }
    }
    Some((l3, ethertype))
}

const _: () = {
    assert!(size_of::<Wanted>() == 40);
    assert!(size_of::<TraceEntry>() == 64);
    assert!(EVENT_LEN == 48);
    assert!(size_of::<Note>() == EVENT_LEN + FRAME_ROOM + 16 + 8);
    assert!(HEADERS.is_multiple_of(8) && WHOLE.is_power_of_two());
};

#[cfg(feature = "user")]
mod pod {
    use super::{Event, Note, TraceEntry};

    // SAFETY: `repr(C)`, integers and byte arrays only, every padding byte is a named field (asserted by the sizes).
    unsafe impl aya::Pod for TraceEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Event {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Note {}
}

#[cfg(test)]
mod tests;
