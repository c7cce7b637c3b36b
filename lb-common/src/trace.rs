//! What `xvip trace` and `xvip capture` see: the ABI between the XDP programs and the tracer, and whose packets are
//! looked for.
//!
//! While a tracer runs, one program keeps a copy of each received frame before anything else looks at it, and another
//! one, after the verdict, a copy of what is sent. Where either is the client's, both go to user space as one record:
//! an [`Event`], the received frame and, where one was sent, the sent frame, each in [`TraceEntry::depth`] bytes.

use crate::{
    link::{TAG_LEN, is_tag},
    wire::{
        Be16, Be32, Be128, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP_LEN,
        ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE, ICMPV6_PARAMETER_PROBLEM,
        ICMPV6_UNREACHABLE, IPV4_MIN_LEN, IPV4_OFFSET_MASK, IPV6_LEN, PROTOCOL_DESTINATION,
        PROTOCOL_FRAGMENT, PROTOCOL_HOP_BY_HOP, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_IPV4,
        PROTOCOL_IPV6, PROTOCOL_ROUTING, PROTOCOL_TCP,
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

/// How many packets deep is looked: the outer one, what a tunnel carries, what an ICMP error is about.
const PACKETS_DEEP: usize = 3;
/// How many IPv6 extension headers are looked through.
const EXTENSIONS_DEEP: usize = 4;

/// What a packet carries, where it is looked into.
#[derive(Clone, Copy, Debug)]
struct Inner {
    at: usize,
    is_v6: bool,
}

impl Wanted {
    /// Everything.
    pub const EVERYTHING: Self = Self {
        client: Be128::from_octets([0; 16]),
        mask: Be128::from_octets([0; 16]),
        port: 0,
        _pad: 0,
    };

    /// Whether the frame is from or to the client, or is about such a packet. A fragment without ports is taken for one
    /// with the right ones.
    #[inline(always)]
    pub fn is_in(&self, frame: &Kept<'_>) -> bool {
        let [high, low] = self.mask.halves();
        (high | low == 0 && self.port == 0) || self.is_in_some(frame).unwrap_or(false)
    }

    #[inline(always)]
    fn is_in_some(&self, frame: &Kept<'_>) -> Option<bool> {
        let (l3, ethertype) = network(frame)?;
        let mut inner = match ethertype {
            ETHERTYPE_IPV4 => Inner { at: l3, is_v6: false },
            ETHERTYPE_IPV6 => Inner { at: l3, is_v6: true },
            ETHERTYPE_ARP => {
                let (sender, target) = (frame.be32(l3 + 14)?, frame.be32(l3 + 24)?);
                let is_client = self.has(Be128::mapped(sender)) || self.has(Be128::mapped(target));
                return Some(self.port == 0 && is_client);
            }
            _ => return None,
        };
        for _ in 0..PACKETS_DEEP {
            let (found, next) =
                if inner.is_v6 { self.is_in_v6(frame, inner.at) } else { self.is_in_v4(frame, inner.at) }?;
            if found {
                return Some(true);
            }
            inner = next?;
        }
        None
    }

    #[inline(always)]
    fn is_in_v4(&self, frame: &Kept<'_>, at: usize) -> Option<(bool, Option<Inner>)> {
        let source = Be128::mapped(frame.be32(at + 12)?);
        let destination = Be128::mapped(frame.be32(at + 16)?);
        let l4 = at + usize::from(frame.octet(at)? & 0x0f) * 4;
        let is_later = frame.be16(at + 6)?.get() & IPV4_OFFSET_MASK != 0;
        let protocol = frame.octet(at + 9)?;
        let found = self.is_of(source, destination, frame, l4, protocol, is_later);
        Some((found, if is_later { None } else { inside(frame, l4, protocol) }))
    }

    #[inline(always)]
    fn is_in_v6(&self, frame: &Kept<'_>, at: usize) -> Option<(bool, Option<Inner>)> {
        let source = Be128::from_octets(frame.octets(at + 8)?);
        let destination = Be128::from_octets(frame.octets(at + 24)?);
        let mut protocol = frame.octet(at + 6)?;
        let mut l4 = at + IPV6_LEN;
        let mut is_later = false;
        for _ in 0..EXTENSIONS_DEEP {
            let length = match protocol {
                PROTOCOL_HOP_BY_HOP | PROTOCOL_ROUTING | PROTOCOL_DESTINATION => {
                    usize::from(frame.octet(l4 + 1)?) * 8 + 8
                }
                PROTOCOL_FRAGMENT => {
                    is_later |= frame.be16(l4 + 2)?.get() & 0xfff8 != 0;
                    8
                }
                _ => break,
            };
            protocol = frame.octet(l4)?;
            l4 += length;
        }
        let found = self.is_of(source, destination, frame, l4, protocol, is_later);
        Some((found, if is_later { None } else { inside(frame, l4, protocol) }))
    }

    #[inline(always)]
    fn is_of(
        &self,
        source: Be128,
        destination: Be128,
        frame: &Kept<'_>,
        l4: usize,
        protocol: u8,
        is_later: bool,
    ) -> bool {
        let (from, to) = (self.has(source), self.has(destination));
        if !from && !to {
            return false;
        }
        if self.port == 0 {
            return true;
        }
        if protocol != PROTOCOL_TCP && protocol != PROTOCOL_UDP {
            return false;
        }
        if is_later {
            return true;
        }
        let is_port = |at: usize| frame.be16(at).is_some_and(|port| u32::from(port.get()) == self.port);
        (from && is_port(l4)) || (to && is_port(l4 + 2))
    }

    /// Whether an address is the client's.
    #[inline(always)]
    fn has(&self, address: Be128) -> bool {
        let ([a, b], [c, d], [m, n]) = (address.halves(), self.client.halves(), self.mask.halves());
        ((a ^ c) & m) | ((b ^ d) & n) == 0
    }
}

/// UDP (RFC 768).
const PROTOCOL_UDP: u8 = 17;

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

/// The packet in a tunnel, or the one that an ICMP error is about.
#[inline(always)]
fn inside(frame: &Kept<'_>, l4: usize, protocol: u8) -> Option<Inner> {
    let (at, is_v6) = match protocol {
        PROTOCOL_IPV4 => (l4, false),
        PROTOCOL_IPV6 => (l4, true),
        PROTOCOL_ICMP => match frame.octet(l4)? {
            ICMP_UNREACHABLE | ICMP_TIME_EXCEEDED | ICMP_PARAMETER_PROBLEM => (l4 + ICMP_LEN, false),
            _ => return None,
        },
        PROTOCOL_ICMPV6 => match frame.octet(l4)? {
            ICMPV6_UNREACHABLE..=ICMPV6_PARAMETER_PROBLEM => (l4 + ICMP_LEN, true),
            _ => return None,
        },
        _ => return None,
    };
    Some(Inner { at, is_v6 })
}

const _: () = {
    assert!(size_of::<Wanted>() == 40);
    assert!(size_of::<TraceEntry>() == 64);
    assert!(EVENT_LEN == 48);
    assert!(size_of::<Note>() == EVENT_LEN + FRAME_ROOM + 8);
    assert!(HEADERS.is_multiple_of(8) && WHOLE.is_power_of_two() && IPV4_MIN_LEN <= 64);
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
