//! The program that goes before the one that is measured.

use std::mem::offset_of;

use super::{Case, TEMPLATE_AT_MOST};
use crate::bpf::Instruction;

/// What the wrapper remembers from packet to packet.
#[repr(C)]
struct State {
    /// The number of the next packet.
    next: u64,
    /// Where the frame began at first; 0: this is the first.
    home: u64,
    /// Where it begins now.
    now: u64,
    /// Written with a bus lock.
    barrier: u64,
}

/// Its size.
pub const STATE: usize = size_of::<State>();

/// What it begins with.
pub fn state(first: u64) -> [u8; STATE] {
    let mut bytes = [0; STATE];
    bytes[..8].copy_from_slice(&first.to_ne_bytes());
    bytes
}

// Registers. R0 to R5 do not survive a helper's call.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
/// The program's argument, `struct xdp_md`.
const CONTEXT: u8 = 6;
/// [`State`].
const STATE_AT: u8 = 7;

// Offsets in `struct xdp_md` (include/uapi/linux/bpf.h).
const DATA: i16 = 0;
const DATA_END: i16 = 4;

// Helpers (`enum bpf_func_id`).
const TAIL_CALL: i32 = 12;
const ADJUST_HEAD: i32 = 44;
const ADJUST_TAIL: i32 = 65;

// Widths of loads and stores.
const BYTE: u8 = 0x10;
const HALF: u8 = 0x08;
const WORD: u8 = 0x00;
const DOUBLE: u8 = 0x18;

/// Instructions in a row; the opcodes are those of RFC 9669.
struct Code(Vec<Instruction>);

impl Code {
    fn push(&mut self, opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) {
        let ([a, b], [c, d, e, f]) = (offset.to_ne_bytes(), immediate.to_ne_bytes());
        self.0.push([opcode, from << 4 | to, a, b, c, d, e, f]);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.push(0xbf, to, from, 0, 0);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.push(0xb7, to, 0, 0, value);
    }

    fn add(&mut self, to: u8, value: i32) {
        self.push(0x07, to, 0, 0, value);
    }

    fn add_register(&mut self, to: u8, from: u8) {
        self.push(0x0f, to, from, 0, 0);
    }

    fn subtract_register(&mut self, to: u8, from: u8) {
        self.push(0x1f, to, from, 0, 0);
    }

    fn and(&mut self, to: u8, value: i32) {
        self.push(0x57, to, 0, 0, value);
    }

    fn shift_left(&mut self, to: u8, bits: i32) {
        self.push(0x67, to, 0, 0, bits);
    }

    fn load(&mut self, width: u8, to: u8, from: u8, offset: i16) {
        self.push(0x61 | width, to, from, offset, 0);
    }

    fn store(&mut self, width: u8, to: u8, offset: i16, from: u8) {
        self.push(0x63 | width, to, from, offset, 0);
    }

    fn load_64(&mut self, to: u8, value: u64) {
        self.push(0x18, to, 0, 0, value as i32);
        self.push(0, 0, 0, 0, (value >> 32) as i32);
    }

    /// The address of a map (`BPF_PSEUDO_MAP_FD`).
    fn map(&mut self, to: u8, descriptor: i32) {
        self.push(0x18, to, 1, 0, descriptor);
        self.push(0, 0, 0, 0, 0);
    }

    /// The address of the one value of an array map (`BPF_PSEUDO_MAP_VALUE`).
    fn map_value(&mut self, to: u8, descriptor: i32) {
        self.push(0x18, to, 2, 0, descriptor);
        self.push(0, 0, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.push(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.push(0x95, 0, 0, 0, 0);
    }

    /// Does what `inside` writes unless the register is zero.
    fn unless_zero(&mut self, register: u8, inside: impl FnOnce(&mut Self)) {
        self.skip(0x15, register, 0, inside);
    }

    /// Does what `inside` writes if the register is zero.
    fn if_zero(&mut self, register: u8, inside: impl FnOnce(&mut Self)) {
        self.skip(0x55, register, 0, inside);
    }

    /// Does what `inside` writes unless the jump is taken.
    fn skip(&mut self, jump: u8, register: u8, with: u8, inside: impl FnOnce(&mut Self)) {
        let at = self.0.len();
        self.push(jump, register, with, 0, 0);
        inside(self);
        let [a, b] = ((self.0.len() - at - 1) as i16).to_ne_bytes();
        self.0[at][2..4].copy_from_slice(&[a, b]);
    }

    fn give_up(&mut self) {
        self.set(R0, 0);
        self.exit();
    }
}

const fn field(offset: usize) -> i16 {
    offset as i16
}

/// The wrapper of a case. `state` and `table` are the descriptors of the maps with [`State`] and the flows, `target` that
/// of the program array whose first program it goes on to. Returns `XDP_ABORTED` where the frame cannot be restored.
pub fn assemble(case: &Case<'_>, state: i32, table: i32, target: i32) -> Vec<Instruction> {
    let length = case.frame.len();
    let template = &case.frame[..length.min(TEMPLATE_AT_MOST)];
    let mut code = Code(Vec::new());
    code.copy(CONTEXT, R1);
    code.map_value(STATE_AT, state);

    // The beginning to where it was. By way of the map, since a difference of two packet pointers is all that the verifier
    // knows of otherwise.
    code.load(WORD, R2, CONTEXT, DATA);
    code.store(DOUBLE, STATE_AT, field(offset_of!(State, now)), R2);
    code.load(DOUBLE, R3, STATE_AT, field(offset_of!(State, now)));
    code.load(DOUBLE, R4, STATE_AT, field(offset_of!(State, home)));
    code.if_zero(R4, |code| {
        code.store(DOUBLE, STATE_AT, field(offset_of!(State, home)), R3);
        code.copy(R4, R3);
    });
    code.subtract_register(R4, R3);
    // Even where it did not move, so that the floor pays for it, too.
    code.copy(R1, CONTEXT);
    code.copy(R2, R4);
    code.call(ADJUST_HEAD);
    code.unless_zero(R0, Code::give_up);

    // The end likewise.
    code.load(WORD, R2, CONTEXT, DATA);
    code.load(WORD, R3, CONTEXT, DATA_END);
    code.subtract_register(R3, R2);
    code.set(R4, length as i32);
    code.subtract_register(R4, R3);
    code.unless_zero(R4, |code| {
        code.copy(R1, CONTEXT);
        code.copy(R2, R4);
        code.call(ADJUST_TAIL);
        code.unless_zero(R0, Code::give_up);
    });

    // What the packet is.
    code.load(DOUBLE, R4, STATE_AT, field(offset_of!(State, next)));
    code.copy(R5, R4);
    code.add(R5, 1);
    code.store(DOUBLE, STATE_AT, field(offset_of!(State, next)), R5);
    code.and(R4, case.flows.len() as i32 - 1);
    code.shift_left(R4, 3);
    code.map_value(R5, table);
    code.add_register(R5, R4);

    code.load(WORD, R2, CONTEXT, DATA);
    code.load(WORD, R3, CONTEXT, DATA_END);
    code.copy(R4, R2);
    code.add(R4, template.len() as i32);
    // Not greater than the end.
    code.skip(0xbd, R4, R3, Code::give_up);
    let mut at = 0;
    for eight in template.chunks(8) {
        if let Ok(eight) = eight.try_into() {
            code.load_64(R3, u64::from_ne_bytes(eight));
            code.store(DOUBLE, R2, at, R3);
        } else {
            for (at, byte) in (at..).zip(eight) {
                code.set(R3, i32::from(*byte));
                code.store(BYTE, R2, at, R3);
            }
        }
        at += 8;
    }
    code.load(WORD, R3, R5, 0);
    code.store(WORD, R2, field(case.places.address), R3);
    code.load(HALF, R3, R5, 4);
    code.store(HALF, R2, field(case.places.port), R3);
    if let Some(checksum) = case.places.checksum {
        code.load(HALF, R3, R5, 6);
        code.store(HALF, R2, field(checksum), R3);
    }
    // All of that has left the store buffer before the program begins: it meets a frame that lies in the cache, as after a
    // network card's work, rather than wait for stores that its loads straddle.
    code.set(R3, 1);
    code.push(0xdb, STATE_AT, R3, field(offset_of!(State, barrier)), 0);

    code.copy(R1, CONTEXT);
    code.map(R2, target);
    code.set(R3, 0);
    code.call(TAIL_CALL);
    code.give_up();
    code.0
}
