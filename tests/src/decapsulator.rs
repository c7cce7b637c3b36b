//! A backend's end of the tunnels of `dsr-ipip`, for kernels without tunnel devices: an XDP program that takes the
//! outer IP header off and gives the frame to the network stack.
//!
//! ```text
//!   Ethernet | outer IPv4 (20 bytes) or IPv6 (40 bytes) | inner IPv4 or IPv6 | ...
//!   Ethernet |                                            inner IPv4 or IPv6 | ...
//! ```
//!
//! It is as strict as it can be in few instructions: an outer IPv4 header with options, a fragment, an outer IPv6
//! header with extension headers, and a frame for another machine's MAC address pass unchanged, and the network stack
//! then refuses protocols 4 and 41. Like the tunnel devices it looks at no TTL; unlike them it does not verify the
//! outer header's checksum (a [`Capture`] does).
//!
//! [`Capture`]: crate::capture::Capture

use std::io;
use std::os::fd::OwnedFd;

use crate::addresses::Family;
use crate::bpf::assembler::Width::{Byte, Half, Word};
use crate::bpf::assembler::{Assembler, Function, R0, R1, R2, R3, R6, R7, R8, R9, Register, STACK};
use crate::bpf::{self, Counters, Instruction, XdpMode};
use crate::mass::{XDP_DROP, XDP_PASS};

/// The program on one interface; gone from there when this is dropped, or this process ends.
#[derive(Debug)]
pub struct Decapsulator {
    _link: OwnedFd,
    counters: Counters,
}

impl Decapsulator {
    /// Attaches it, in generic mode, to the interface of this index in the calling thread's network namespace, whose
    /// MAC address is `mac`. Kernel 5.9 or later (XDP links).
    ///
    /// # Errors
    /// When the kernel refuses: no `CAP_BPF`, or another program is there already.
    pub fn attach(interface_index: u32, mac: [u8; 6]) -> io::Result<Self> {
        let counters = Counters::create(4)?;
        let program = bpf::load_xdp(&program(mac, counters.descriptor()))?;
        let link = bpf::attach_xdp(&program, interface_index, XdpMode::Generic)?;
        Ok(Self { _link: link, counters })
    }

    /// How many frames had their `outer` header taken off an `inner` packet.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn taken_off(&self, outer: Family, inner: Family) -> io::Result<u64> {
        self.counters.read(counter(outer, inner))
    }
}

fn counter(outer: Family, inner: Family) -> u32 {
    2 * u32::from(outer == Family::V6) + u32::from(inner == Family::V6)
}

const CONTEXT: Register = R6;
const FRAME: Register = R7;
const ETHERTYPE: Register = R8;
const COUNTER: Register = R9;

// Protocol numbers, and ethertypes as a little- or big-endian machine reads them from a frame.
const IPV4_INSIDE: i32 = 4;
const IPV6_INSIDE: i32 = 41;
const IPV4: i32 = u16::from_be_bytes([0x08, 0x00]).to_be() as i32;
const IPV6: i32 = u16::from_be_bytes([0x86, 0xdd]).to_be() as i32;
/// All of the fragment word but "don't fragment" and the reserved bit.
const FRAGMENT: i32 = 0x3fff_u16.to_be() as i32;

fn program(mac: [u8; 6], counters: i32) -> Vec<Instruction> {
    const ETHERNET: i16 = 14;
    let [m0, m1, m2, m3, m4, m5] = mac;
    let mut code = Assembler::default();
    let [outer_ipv6, ipv6_in_ipv6, strip_20, strip_40, stripped, pass, drop] = code.labels();
    // Leaves the begin of the frame in FRAME.
    let need =
        |code: &mut Assembler, length, otherwise| code.need(length, CONTEXT, [FRAME, R3, R2], otherwise);
    code.copy(CONTEXT, R1);
    // The shortest of all: IPv4 in IPv4.
    need(&mut code, 14 + 20 + 20, pass);
    code.load(Word, R1, FRAME, 0);
    code.jump_unless_equal_32(R1, i32::from_ne_bytes([m0, m1, m2, m3]), pass);
    code.load(Half, R1, FRAME, 4);
    code.jump_unless_equal(R1, i32::from(u16::from_ne_bytes([m4, m5])), pass);
    code.load(Half, R1, FRAME, 12);
    code.jump_if_equal(R1, IPV6, outer_ipv6);
    code.jump_unless_equal(R1, IPV4, pass);

    code.load(Byte, R1, FRAME, ETHERNET);
    code.jump_unless_equal(R1, 0x45, pass);
    code.load(Half, R1, FRAME, ETHERNET + 6);
    code.and(R1, FRAGMENT);
    code.jump_unless_equal(R1, 0, pass);
    code.load(Byte, R1, FRAME, ETHERNET + 9);
    code.set(ETHERTYPE, IPV4);
    code.set(COUNTER, counter(Family::V4, Family::V4).cast_signed());
    code.jump_if_equal(R1, IPV4_INSIDE, strip_20);
    code.set(ETHERTYPE, IPV6);
    code.set(COUNTER, counter(Family::V4, Family::V6).cast_signed());
    code.jump_if_equal(R1, IPV6_INSIDE, strip_20);
    code.jump(pass);

    code.place(outer_ipv6);
    need(&mut code, 14 + 40 + 20, pass);
    code.load(Byte, R1, FRAME, ETHERNET + 6);
    code.jump_unless_equal(R1, IPV4_INSIDE, ipv6_in_ipv6);
    code.set(ETHERTYPE, IPV4);
    code.set(COUNTER, counter(Family::V6, Family::V4).cast_signed());
    code.jump(strip_40);
    code.place(ipv6_in_ipv6);
    code.jump_unless_equal(R1, IPV6_INSIDE, pass);
    code.set(ETHERTYPE, IPV6);
    code.set(COUNTER, counter(Family::V6, Family::V6).cast_signed());
    code.place(strip_40);
    code.set(R2, 40);
    code.jump(stripped);
    code.place(strip_20);
    code.set(R2, 20);

    // The Ethernet header would be lost with the outer IP header: keep its addresses on the stack.
    code.place(stripped);
    for word in [0, 4, 8] {
        code.load(Word, R1, FRAME, word);
        code.store(Word, STACK, -16 + word, R1);
    }
    code.copy(R1, CONTEXT);
    code.call(Function::AdjustHead);
    code.jump_unless_equal(R0, 0, drop);
    need(&mut code, 14, drop);
    for word in [0, 4, 8] {
        code.load(Word, R1, STACK, -16 + word);
        code.store(Word, FRAME, word, R1);
    }
    code.store(Half, FRAME, 12, ETHERTYPE);

    code.store(Word, STACK, -4, COUNTER);
    code.set_map(R1, counters);
    code.copy(R2, STACK);
    code.add(R2, -4);
    code.call(Function::MapLookup);
    code.jump_if_equal(R0, 0, pass);
    code.set(R1, 1);
    code.add_to_memory(R0, 0, R1);
    code.place(pass);
    code.end_with(XDP_PASS);
    code.place(drop);
    code.end_with(XDP_DROP);
    code.finish()
}
