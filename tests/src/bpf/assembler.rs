//! Puts together the lab's own little programs: instructions one after the other, and jumps to places among them. Pure.
//!
//! Opcodes are those of RFC 9669. A program says what it does by the names of these methods, and nowhere by a number.

use super::Instruction;

/// A register: R0 is what a function or the program returns, R1 to R5 are arguments and do not survive a call, R6 to R9 do.
pub(crate) type Register = u8;

/// What a function or the program returns.
pub(crate) const R0: Register = 0;
/// The first argument; at the beginning of a program its context, `struct xdp_md`.
pub(crate) const R1: Register = 1;
/// The second argument.
pub(crate) const R2: Register = 2;
/// The third.
pub(crate) const R3: Register = 3;
/// The fourth.
pub(crate) const R4: Register = 4;
/// The fifth.
pub(crate) const R5: Register = 5;
/// Survives a call, as the three after it do.
pub(crate) const R6: Register = 6;
/// See [`R6`].
pub(crate) const R7: Register = 7;
/// See [`R6`].
pub(crate) const R8: Register = 8;
/// See [`R6`].
pub(crate) const R9: Register = 9;
/// The end of the stack, which is below it.
pub(crate) const STACK: Register = 10;

/// Where `struct xdp_md` has the begin of a frame and its end (include/uapi/linux/bpf.h); each is a word.
pub(crate) const DATA: i16 = 0;
/// See [`DATA`].
pub(crate) const DATA_END: i16 = 4;
/// As [`DATA`], in a classifier's `struct __sk_buff`.
pub(crate) const SKB_DATA: i16 = 76;
/// See [`SKB_DATA`].
pub(crate) const SKB_DATA_END: i16 = 80;

/// The kernel's functions that such programs call (`enum bpf_func_id`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    /// Finds the value of a map's key.
    MapLookup = 1,
    /// Goes on in another program, if there is one.
    TailCall = 12,
    /// Sends a frame by another interface.
    Redirect = 23,
    /// Moves the begin of a frame.
    AdjustHead = 44,
    /// Moves its end.
    AdjustTail = 65,
}

/// How much is loaded or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    /// 8 bits.
    Byte = 0x10,
    /// 16 bits.
    Half = 0x08,
    /// 32 bits.
    Word = 0x00,
    /// 64 bits.
    Double = 0x18,
}

/// A place that jumps lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// A program in the making.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    instructions: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
    /// Of each label, once it is known: the number of the instruction there.
    places: Vec<Option<usize>>,
}

impl Assembler {
    /// New labels, which are nowhere yet.
    pub(crate) fn labels<const COUNT: usize>(&mut self) -> [Label; COUNT] {
        let first = self.places.len();
        self.places.resize(first + COUNT, None);
        std::array::from_fn(|nth| Label(first + nth))
    }

    /// Jumps to this label lead to the next instruction.
    pub(crate) fn place(&mut self, label: Label) {
        self.places[label.0] = Some(self.instructions.len());
    }

    /// The instructions.
    ///
    /// # Panics
    /// Where a jump leads nowhere, or further than a jump can.
    pub(crate) fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            let place = self.places[label.0].expect("a jump to a label that was placed");
            // Counted from the next instruction.
            let distance = i16::try_from(place as i64 - at as i64 - 1).expect("a jump that is not too far");
            self.instructions[at][2..4].copy_from_slice(&distance.to_ne_bytes());
        }
        self.instructions
    }

    fn put(&mut self, opcode: u8, to: Register, from: Register, offset: i16, value: i32) {
        let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
        let ([o, p], [a, b, c, d]) = (offset.to_ne_bytes(), value.to_ne_bytes());
        self.instructions.push([opcode, registers, o, p, a, b, c, d]);
    }

    /// An instruction of two words: the second has the upper half of the value.
    fn put_wide(&mut self, to: Register, kind: u8, value: u64) {
        self.put(0x18, to, kind, 0, value as u32 as i32);
        self.put(0, 0, 0, 0, (value >> 32) as i32);
    }

    /// `to = value`
    pub(crate) fn set(&mut self, to: Register, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    /// `to = value`, all 64 bits of it.
    pub(crate) fn set_wide(&mut self, to: Register, value: u64) {
        self.put_wide(to, 0, value);
    }

    /// `to =` a map, as functions take it (`BPF_PSEUDO_MAP_FD`).
    pub(crate) fn set_map(&mut self, to: Register, descriptor: i32) {
        self.put_wide(to, 1, u64::from(descriptor.cast_unsigned()));
    }

    /// `to =` the address of the only value of an array (`BPF_PSEUDO_MAP_VALUE`).
    pub(crate) fn set_map_value(&mut self, to: Register, descriptor: i32) {
        self.put_wide(to, 2, u64::from(descriptor.cast_unsigned()));
    }

    /// `to = from`
    pub(crate) fn copy(&mut self, to: Register, from: Register) {
        self.put(0xbf, to, from, 0, 0);
    }

    /// `to += value`
    pub(crate) fn add(&mut self, to: Register, value: i32) {
        self.put(0x07, to, 0, 0, value);
    }

    /// `to += from`
    pub(crate) fn add_register(&mut self, to: Register, from: Register) {
        self.put(0x0f, to, from, 0, 0);
    }

    /// `to -= from`
    pub(crate) fn subtract_register(&mut self, to: Register, from: Register) {
        self.put(0x1f, to, from, 0, 0);
    }

    /// `to = -to`
    pub(crate) fn negate(&mut self, to: Register) {
        self.put(0x87, to, 0, 0, 0);
    }

    /// `to *= value` in 32 bits; the upper half is zero then.
    pub(crate) fn multiply_32(&mut self, to: Register, value: i32) {
        self.put(0x24, to, 0, 0, value);
    }

    /// `to %= value`, without a sign.
    pub(crate) fn remainder(&mut self, to: Register, value: i32) {
        self.put(0x97, to, 0, 0, value);
    }

    /// `to &= value`, the value's sign extended.
    pub(crate) fn and(&mut self, to: Register, value: i32) {
        self.put(0x57, to, 0, 0, value);
    }

    /// `to &= value` in 32 bits; the upper half is zero then.
    pub(crate) fn and_32(&mut self, to: Register, value: i32) {
        self.put(0x54, to, 0, 0, value);
    }

    /// `to <<= bits`
    pub(crate) fn shift_left(&mut self, to: Register, bits: i32) {
        self.put(0x67, to, 0, 0, bits);
    }

    /// The lower 16 bits in network order; the rest is zero then.
    pub(crate) fn network_order_16(&mut self, to: Register) {
        self.put(0xdc, to, 0, 0, 16);
    }

    /// `to = *(from + offset)`
    pub(crate) fn load(&mut self, width: Width, to: Register, from: Register, offset: i16) {
        self.put(0x61 | width as u8, to, from, offset, 0);
    }

    /// `*(to + offset) = from`
    pub(crate) fn store(&mut self, width: Width, to: Register, offset: i16, from: Register) {
        self.put(0x63 | width as u8, to, from, offset, 0);
    }

    /// `*(to + offset) = value`
    pub(crate) fn store_value(&mut self, width: Width, to: Register, offset: i16, value: i32) {
        self.put(0x62 | width as u8, to, 0, offset, value);
    }

    /// `*(to + offset) += from`, of 64 bits, at once for all processors (on x86 with the bus locked).
    pub(crate) fn add_to_memory(&mut self, to: Register, offset: i16, from: Register) {
        self.put(0xdb, to, from, offset, 0);
    }

    /// Goes on there.
    pub(crate) fn jump(&mut self, to: Label) {
        self.jump_if(0x05, 0, 0, 0, to);
    }

    /// Goes on there if the register has this value, its sign extended.
    pub(crate) fn jump_if_equal(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x15, register, 0, value, to);
    }

    /// Goes on there unless it has.
    pub(crate) fn jump_unless_equal(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x55, register, 0, value, to);
    }

    /// Goes on there unless the lower 32 bits are these.
    pub(crate) fn jump_unless_equal_32(&mut self, register: Register, value: i32, to: Label) {
        self.jump_if(0x56, register, 0, value, to);
    }

    /// Goes on there if the one is greater than the other, both without a sign.
    pub(crate) fn jump_if_greater(&mut self, one: Register, other: Register, to: Label) {
        self.jump_if(0x2d, one, other, 0, to);
    }

    fn jump_if(&mut self, opcode: u8, one: Register, other: Register, value: i32, to: Label) {
        self.jumps.push((self.instructions.len(), to));
        self.put(opcode, one, other, 0, value);
    }

    /// Calls a function of the kernel's.
    pub(crate) fn call(&mut self, function: Function) {
        self.put(0x85, 0, 0, 0, function as i32);
    }

    /// Ends the program; it returns what is in R0.
    pub(crate) fn exit(&mut self) {
        self.put(0x95, 0, 0, 0, 0);
    }

    /// Ends the program; it returns this (`enum xdp_action`).
    pub(crate) fn end_with(&mut self, action: u32) {
        self.set(R0, action.cast_signed());
        self.exit();
    }

    /// Loads the begin of the frame into `begin` and the end into `end`, and goes on there unless it has `length` bytes.
    /// `end` and `other` are lost afterwards.
    pub(crate) fn need(
        &mut self,
        length: i32,
        context: Register,
        [begin, end, other]: [Register; 3],
        otherwise: Label,
    ) {
        self.load(Width::Word, begin, context, DATA);
        self.load(Width::Word, end, context, DATA_END);
        self.copy(other, begin);
        self.add(other, length);
        self.jump_if_greater(other, end, otherwise);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoding of RFC 9669, sections 3 and 4, on a little-endian machine.
    #[test]
    #[cfg(target_endian = "little")]
    fn instructions_are_encoded_as_the_standard_says() {
        let mut code = Assembler::default();
        let [end, middle] = code.labels();
        code.jump_if_greater(R2, R3, end);
        code.store(Width::Half, R1, -2, R6);
        code.set_wide(R4, 0x1122_3344_5566_7788);
        code.place(middle);
        code.set_map_value(R7, 5);
        code.jump(middle);
        code.place(end);
        code.end_with(3);
        let expected: [Instruction; 9] = [
            [0x2d, 0x32, 6, 0, 0, 0, 0, 0],
            [0x6b, 0x61, 0xfe, 0xff, 0, 0, 0, 0],
            [0x18, 0x04, 0, 0, 0x88, 0x77, 0x66, 0x55],
            [0, 0, 0, 0, 0x44, 0x33, 0x22, 0x11],
            [0x18, 0x27, 0, 0, 5, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0x05, 0, 0xfd, 0xff, 0, 0, 0, 0],
            [0xb7, 0, 0, 0, 3, 0, 0, 0],
            [0x95, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(code.finish(), expected);
    }

    #[test]
    #[should_panic(expected = "was placed")]
    fn a_jump_to_nowhere_is_a_mistake() {
        let mut code = Assembler::default();
        let [nowhere] = code.labels();
        code.jump(nowhere);
        code.finish();
    }
}
