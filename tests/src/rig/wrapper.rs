//! The program that goes before the one that is measured.

use std::mem::offset_of;

use super::{Case, Form, TEMPLATE_AT_MOST};
use crate::bpf::Instruction;
use crate::bpf::assembler::Width::{Byte, Double, Half, Word};
use crate::bpf::assembler::{
    Assembler, DATA, DATA_END, Function, Label, R0, R1, R2, R3, R4, R5, R6, R7, Register,
};
use crate::mass::XDP_ABORTED;

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

/// The program's argument, `struct xdp_md`.
const CONTEXT: Register = R6;
/// [`State`].
const STATE_AT: Register = R7;

const fn field(offset: usize) -> i16 {
    offset as i16
}

/// Moves begin and end of the frame to where they were when it was so many bytes long.
fn restore_bounds(code: &mut Assembler, length: usize, give_up: Label) {
    let [not_first, is_long_enough] = code.labels();
    // The beginning to where it was. By way of the map, since a difference of two packet pointers is all that the verifier
    // knows of otherwise.
    code.load(Word, R2, CONTEXT, DATA);
    code.store(Double, STATE_AT, field(offset_of!(State, now)), R2);
    code.load(Double, R3, STATE_AT, field(offset_of!(State, now)));
    code.load(Double, R4, STATE_AT, field(offset_of!(State, home)));
    code.jump_unless_equal(R4, 0, not_first);
    code.store(Double, STATE_AT, field(offset_of!(State, home)), R3);
    code.copy(R4, R3);
    code.place(not_first);
    code.subtract_register(R4, R3);
    // Even where it did not move, so that the floor pays for it, too.
    code.copy(R1, CONTEXT);
    code.copy(R2, R4);
    code.call(Function::AdjustHead);
    code.jump_unless_equal(R0, 0, give_up);

    // The end likewise.
    code.load(Word, R2, CONTEXT, DATA);
    code.load(Word, R3, CONTEXT, DATA_END);
    code.subtract_register(R3, R2);
    code.set(R4, length as i32);
    code.subtract_register(R4, R3);
    code.jump_if_equal(R4, 0, is_long_enough);
    code.copy(R1, CONTEXT);
    code.copy(R2, R4);
    code.call(Function::AdjustTail);
    code.jump_unless_equal(R0, 0, give_up);
    code.place(is_long_enough);
}

/// The wrapper of a case. `state` and `table` are the descriptors of the maps with [`State`] and the flows, `target` that
/// of the program array whose first program it goes on to. Returns `XDP_ABORTED` where the frame cannot be restored.
pub fn assemble(case: &Case<'_>, form: Form, state: i32, table: i32, target: i32) -> Vec<Instruction> {
    let length = case.frame.len();
    let template = &case.frame[..length.min(TEMPLATE_AT_MOST)];
    let mut code = Assembler::default();
    let [give_up] = code.labels();
    code.copy(CONTEXT, R1);
    code.set_map_value(STATE_AT, state);
    if form == Form::Repeated {
        restore_bounds(&mut code, length, give_up);
    }

    // What the packet is.
    code.load(Double, R4, STATE_AT, field(offset_of!(State, next)));
    code.copy(R5, R4);
    code.add(R5, 1);
    code.store(Double, STATE_AT, field(offset_of!(State, next)), R5);
    code.and(R4, case.flows.len() as i32 - 1);
    code.shift_left(R4, 3);
    code.set_map_value(R5, table);
    code.add_register(R5, R4);

    code.need(template.len() as i32, CONTEXT, [R2, R3, R4], give_up);
    let mut at = 0;
    for eight in template.chunks(8) {
        if let Ok(eight) = eight.try_into() {
            code.set_wide(R3, u64::from_ne_bytes(eight));
            code.store(Double, R2, at, R3);
        } else {
            for (at, byte) in (at..).zip(eight) {
                code.set(R3, i32::from(*byte));
                code.store(Byte, R2, at, R3);
            }
        }
        at += 8;
    }
    code.load(Word, R3, R5, 0);
    code.store(Word, R2, field(case.places.address), R3);
    code.load(Half, R3, R5, 4);
    code.store(Half, R2, field(case.places.port), R3);
    if let Some(checksum) = case.places.checksum {
        code.load(Half, R3, R5, 6);
        code.store(Half, R2, field(checksum), R3);
    }
    // All of that has left the store buffer before the program begins: it meets a frame that lies in the cache, as after a
    // network card's work, rather than wait for stores that its loads straddle.
    code.set(R3, 1);
    code.add_to_memory(STATE_AT, field(offset_of!(State, barrier)), R3);

    code.copy(R1, CONTEXT);
    code.set_map(R2, target);
    code.set(R3, 0);
    code.call(Function::TailCall);
    code.place(give_up);
    code.end_with(XDP_ABORTED);
    code.finish()
}
