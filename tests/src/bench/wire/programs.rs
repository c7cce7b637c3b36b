//! The programs at the ends of the veth: the generator, which writes each frame anew and redirects it, and the sink, which
//! counts. A handful of instructions each, put together here.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::walk::{STEP, Walk};
use crate::bpf::{self, Counters, Instruction};
use crate::mass::XDP_DROP;

// Registers, and opcodes of the instruction set (Documentation/bpf/instruction-set.rst).
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R6: u8 = 6;
const R7: u8 = 7;
const LOAD_32: u8 = 0x61;
const LOAD_64: u8 = 0x79;
const STORE_16: u8 = 0x6b;
const STORE_64: u8 = 0x7b;
const STORE_IMMEDIATE_32: u8 = 0x62;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const ADD_IMMEDIATE: u8 = 0x07;
const NEGATE: u8 = 0x87;
const MULTIPLY_IMMEDIATE_32: u8 = 0x24;
const AND_IMMEDIATE_32: u8 = 0x54;
const TO_BIG_ENDIAN: u8 = 0xdc;
const JUMP_IF_ABOVE: u8 = 0x2d;
const LOAD_IMMEDIATE_64: u8 = 0x18;
/// `BPF_PSEUDO_MAP_VALUE`, in the place of a register.
const MAP_VALUE: u8 = 2;
const CALL: u8 = 0x85;
const REDIRECT: i32 = 23;
const EXIT: Instruction = [0x95, 0, 0, 0, 0, 0, 0, 0];

/// One instruction.
fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    let [o0, o1] = offset.to_ne_bytes();
    let [i0, i1, i2, i3] = immediate.to_ne_bytes();
    [code, source << 4 | destination, o0, o1, i0, i1, i2, i3]
}

/// The address of a map's only value.
fn value_of(counter: &Counters, register: u8) -> [Instruction; 2] {
    [op(LOAD_IMMEDIATE_64, register, MAP_VALUE, 0, counter.descriptor()), op(0, 0, 0, 0, 0)]
}

/// Reads a counter into R2 and adds one to it; R1 and R3 are lost.
fn next(counter: &Counters) -> Vec<Instruction> {
    let mut program = value_of(counter, R1).to_vec();
    program.extend([
        op(LOAD_64, R2, R1, 0, 0),
        op(MOVE, R3, R2, 0, 0),
        op(ADD_IMMEDIATE, R3, 0, 0, 1),
        op(STORE_64, R1, R3, 0, 0),
    ]);
    program
}

/// Sends frames of a walk out of an interface.
#[derive(Debug)]
pub(crate) struct Generator {
    program: OwnedFd,
    frame: Vec<u8>,
    _sequence: Counters,
}

impl Generator {
    /// Each frame is one of another flow than that before it, where there are several.
    pub(crate) fn load(walk: &Walk, out: u32) -> io::Result<Self> {
        let sequence = Counters::create(1)?;
        let frame = walk.frame(0);
        let mut program = vec![
            op(LOAD_32, R6, R1, 0, 0),
            op(LOAD_32, R7, R1, 4, 0),
            op(MOVE, R2, R6, 0, 0),
            op(ADD_IMMEDIATE, R2, 0, 0, frame.len() as i32),
            // To the last two instructions.
            op(JUMP_IF_ABOVE, R2, R7, 0, 0),
        ];
        let jump = program.len() - 1;
        for (at, word) in frame.chunks_exact(4).enumerate() {
            let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            program.push(op(STORE_IMMEDIATE_32, R6, 0, at as i16 * 4, word));
        }
        if walk.flows() > 1 {
            let ((port_at, first), (urgent_at, urgent)) = (walk.port_word(), walk.urgent_word());
            program.extend(next(&sequence));
            program.extend([
                op(MULTIPLY_IMMEDIATE_32, R2, 0, 0, STEP.cast_signed()),
                op(AND_IMMEDIATE_32, R2, 0, 0, (walk.flows() - 1).cast_signed()),
                op(MOVE, R3, R2, 0, 0),
                op(ADD_IMMEDIATE, R3, 0, 0, first.into()),
                op(TO_BIG_ENDIAN, R3, 0, 0, 16),
                op(STORE_16, R6, R3, port_at as i16, 0),
                op(NEGATE, R2, 0, 0, 0),
                op(ADD_IMMEDIATE, R2, 0, 0, urgent.into()),
                op(TO_BIG_ENDIAN, R2, 0, 0, 16),
                op(STORE_16, R6, R2, urgent_at as i16, 0),
            ]);
        }
        program.extend([
            op(MOVE_IMMEDIATE, R1, 0, 0, out.cast_signed()),
            op(MOVE_IMMEDIATE, R2, 0, 0, 0),
            op(CALL, 0, 0, 0, REDIRECT),
            EXIT,
            // XDP_ABORTED.
            op(MOVE_IMMEDIATE, R0, 0, 0, 0),
            EXIT,
        ]);
        let distance = (program.len() - 2 - (jump + 1)) as i16;
        program[jump] = op(JUMP_IF_ABOVE, R2, R7, distance, 0);
        Ok(Self { program: bpf::load_xdp(&program)?, frame, _sequence: sequence })
    }

    /// Sends so many; see [`bpf::live::run_live`].
    pub(crate) fn send(&self, frames: u32) -> io::Result<u32> {
        bpf::live::run_live(self.program.as_fd(), &self.frame, frames)
    }
}

/// Drops frames, and counts them. One CPU at a time: the counter is not atomic.
#[derive(Debug)]
pub(crate) struct Sink {
    program: OwnedFd,
    counter: Counters,
}

impl Sink {
    pub(crate) fn load() -> io::Result<Self> {
        let counter = Counters::create(1)?;
        let mut program = next(&counter);
        program.extend([op(MOVE_IMMEDIATE, R0, 0, 0, XDP_DROP.cast_signed()), EXIT]);
        Ok(Self { program: bpf::load_xdp(&program)?, counter })
    }

    pub(crate) fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// How many have come so far.
    pub(crate) fn count(&self) -> io::Result<u64> {
        self.counter.read(0)
    }
}
