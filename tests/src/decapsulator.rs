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
use crate::bpf::{self, Counters, Instruction, XdpMode};

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

// Registers. R0 is what a function or the program returns, R1 to R5 are arguments, R6 to R9 survive a call.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const CONTEXT: u8 = 6;
const DATA: u8 = 7;
const ETHERTYPE: u8 = 8;
const COUNTER: u8 = 9;
const STACK: u8 = 10;

// Opcodes (include/uapi/linux/bpf.h, bpf_common.h).
const LOAD_BYTE: u8 = 0x71;
const LOAD_HALF: u8 = 0x69;
const LOAD_WORD: u8 = 0x61;
const STORE_HALF: u8 = 0x6b;
const STORE_WORD: u8 = 0x63;
const MOVE: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const MOVE_VALUE32: u8 = 0xb4;
const ADD_VALUE: u8 = 0x07;
const AND_VALUE: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const JUMP_NOT_EQUAL32: u8 = 0x56;
const JUMP_GREATER: u8 = 0x2d;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_MAP: u8 = 0x18;
const ATOMIC: u8 = 0xdb;

// Functions of the kernel.
const MAP_LOOKUP: i32 = 1;
const XDP_ADJUST_HEAD: i32 = 44;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

// Protocol numbers, and ethertypes as a little- or big-endian machine reads them from a frame.
const IPV4_INSIDE: i32 = 4;
const IPV6_INSIDE: i32 = 41;
const IPV4: i32 = u16::from_be_bytes([0x08, 0x00]).to_be() as i32;
const IPV6: i32 = u16::from_be_bytes([0x86, 0xdd]).to_be() as i32;
/// All of the fragment word but "don't fragment" and the reserved bit.
const FRAGMENT: i32 = 0x3fff_u16.to_be() as i32;

/// Where a jump goes. Resolved when the program is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    OuterIpv6,
    OuterIpv6Inner,
    Strip20,
    Strip40,
    Stripped,
    Pass,
    Drop,
}

/// A program in the making: instructions, the jumps among them, and the places of labels.
#[derive(Default)]
struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    places: Vec<(Label, usize)>,
}

impl Assembler {
    fn put(&mut self, opcode: u8, destination: u8, source: u8, offset: i16, value: i32) {
        let registers = if cfg!(target_endian = "little") {
            source << 4 | destination
        } else {
            destination << 4 | source
        };
        let [o, p] = offset.to_ne_bytes();
        let [a, b, c, d] = value.to_ne_bytes();
        self.instructions.push([opcode, registers, o, p, a, b, c, d]);
    }

    fn jump(&mut self, opcode: u8, destination: u8, source: u8, value: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.put(opcode, destination, source, 0, value);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.instructions.len()));
    }

    fn load(&mut self, opcode: u8, destination: u8, base: u8, offset: i16) {
        self.put(opcode, destination, base, offset, 0);
    }

    /// Passes the frame on unless it has `length` bytes. Leaves its begin in [`DATA`].
    fn need(&mut self, length: i32, otherwise: Label) {
        self.load(LOAD_WORD, DATA, CONTEXT, 0); // xdp_md.data
        self.load(LOAD_WORD, R3, CONTEXT, 4); // xdp_md.data_end
        self.put(MOVE, R2, DATA, 0, 0);
        self.put(ADD_VALUE, R2, 0, 0, length);
        self.jump(JUMP_GREATER, R2, R3, 0, otherwise);
    }

    fn exit(&mut self, action: i32) {
        self.put(MOVE_VALUE, R0, 0, 0, action);
        self.put(EXIT, 0, 0, 0, 0);
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in &self.jumps {
            let place =
                self.places.iter().find(|(placed, _)| placed == label).map_or(*at, |(_, place)| *place);
            // Counted from the next instruction.
            let offset = (place as i64 - *at as i64 - 1) as i16;
            self.instructions[*at][2..4].copy_from_slice(&offset.to_ne_bytes());
        }
        self.instructions
    }
}

fn program(mac: [u8; 6], counters: i32) -> Vec<Instruction> {
    const ETHERNET: i16 = 14;
    let [m0, m1, m2, m3, m4, m5] = mac;
    let mut a = Assembler::default();
    a.put(MOVE, CONTEXT, R1, 0, 0);
    // The shortest of all: IPv4 in IPv4.
    a.need(14 + 20 + 20, Label::Pass);
    a.load(LOAD_WORD, R1, DATA, 0);
    a.jump(JUMP_NOT_EQUAL32, R1, 0, i32::from_ne_bytes([m0, m1, m2, m3]), Label::Pass);
    a.load(LOAD_HALF, R1, DATA, 4);
    a.jump(JUMP_NOT_EQUAL, R1, 0, i32::from(u16::from_ne_bytes([m4, m5])), Label::Pass);
    a.load(LOAD_HALF, R1, DATA, 12);
    a.jump(JUMP_EQUAL, R1, 0, IPV6, Label::OuterIpv6);
    a.jump(JUMP_NOT_EQUAL, R1, 0, IPV4, Label::Pass);

    a.load(LOAD_BYTE, R1, DATA, ETHERNET);
    a.jump(JUMP_NOT_EQUAL, R1, 0, 0x45, Label::Pass);
    a.load(LOAD_HALF, R1, DATA, ETHERNET + 6);
    a.put(AND_VALUE, R1, 0, 0, FRAGMENT);
    a.jump(JUMP_NOT_EQUAL, R1, 0, 0, Label::Pass);
    a.load(LOAD_BYTE, R1, DATA, ETHERNET + 9);
    a.put(MOVE_VALUE, ETHERTYPE, 0, 0, IPV4);
    a.put(MOVE_VALUE, COUNTER, 0, 0, counter(Family::V4, Family::V4).cast_signed());
    a.jump(JUMP_EQUAL, R1, 0, IPV4_INSIDE, Label::Strip20);
    a.put(MOVE_VALUE, ETHERTYPE, 0, 0, IPV6);
    a.put(MOVE_VALUE, COUNTER, 0, 0, counter(Family::V4, Family::V6).cast_signed());
    a.jump(JUMP_EQUAL, R1, 0, IPV6_INSIDE, Label::Strip20);
    a.jump(JUMP, 0, 0, 0, Label::Pass);

    a.place(Label::OuterIpv6);
    a.need(14 + 40 + 20, Label::Pass);
    a.load(LOAD_BYTE, R1, DATA, ETHERNET + 6);
    a.jump(JUMP_NOT_EQUAL, R1, 0, IPV4_INSIDE, Label::OuterIpv6Inner);
    a.put(MOVE_VALUE, ETHERTYPE, 0, 0, IPV4);
    a.put(MOVE_VALUE, COUNTER, 0, 0, counter(Family::V6, Family::V4).cast_signed());
    a.jump(JUMP, 0, 0, 0, Label::Strip40);
    a.place(Label::OuterIpv6Inner);
    a.jump(JUMP_NOT_EQUAL, R1, 0, IPV6_INSIDE, Label::Pass);
    a.put(MOVE_VALUE, ETHERTYPE, 0, 0, IPV6);
    a.put(MOVE_VALUE, COUNTER, 0, 0, counter(Family::V6, Family::V6).cast_signed());
    a.place(Label::Strip40);
    a.put(MOVE_VALUE, R2, 0, 0, 40);
    a.jump(JUMP, 0, 0, 0, Label::Stripped);
    a.place(Label::Strip20);
    a.put(MOVE_VALUE, R2, 0, 0, 20);

    // The Ethernet header would be lost with the outer IP header: keep its addresses on the stack.
    a.place(Label::Stripped);
    for word in [0, 4, 8] {
        a.load(LOAD_WORD, R1, DATA, word);
        a.put(STORE_WORD, STACK, R1, -16 + word, 0);
    }
    a.put(MOVE, R1, CONTEXT, 0, 0);
    a.put(CALL, 0, 0, 0, XDP_ADJUST_HEAD);
    a.jump(JUMP_NOT_EQUAL, R0, 0, 0, Label::Drop);
    a.need(14, Label::Drop);
    for word in [0, 4, 8] {
        a.load(LOAD_WORD, R1, STACK, -16 + word);
        a.put(STORE_WORD, DATA, R1, word, 0);
    }
    a.put(STORE_HALF, DATA, ETHERTYPE, 12, 0);

    a.put(STORE_WORD, STACK, COUNTER, -4, 0);
    // BPF_PSEUDO_MAP_FD; the second half of this instruction is all zero.
    a.put(LOAD_MAP, R1, 1, 0, counters);
    a.put(0, 0, 0, 0, 0);
    a.put(MOVE, R2, STACK, 0, 0);
    a.put(ADD_VALUE, R2, 0, 0, -4);
    a.put(CALL, 0, 0, 0, MAP_LOOKUP);
    a.jump(JUMP_EQUAL, R0, 0, 0, Label::Pass);
    a.put(MOVE_VALUE32, R1, 0, 0, 1);
    a.put(ATOMIC, R0, R1, 0, 0); // lock *(u64 *)r0 += r1
    a.place(Label::Pass);
    a.exit(XDP_PASS);
    a.place(Label::Drop);
    a.exit(XDP_DROP);
    a.finish()
}
