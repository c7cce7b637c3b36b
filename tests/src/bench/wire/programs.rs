//! The programs at the ends of the veth: the generator, which writes each frame anew and redirects it, and the sink, which
//! counts. A handful of instructions each, put together here.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::walk::{STEP, Walk};
use crate::bpf::assembler::{Assembler, Function, R1, R2, R3, R6, R7, Width};
use crate::bpf::{self, Counters};
use crate::mass::{XDP_ABORTED, XDP_DROP};

/// Reads a counter into R2 and adds one to it; R1 and R3 are lost.
fn count(code: &mut Assembler, counter: &Counters) {
    code.set_map_value(R1, counter.descriptor());
    code.load(Width::Double, R2, R1, 0);
    code.copy(R3, R2);
    code.add(R3, 1);
    code.store(Width::Double, R1, 0, R3);
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
        let mut code = Assembler::default();
        let [too_short] = code.labels();
        code.need(frame.len() as i32, R1, [R6, R7, R2], too_short);
        for (at, word) in frame.chunks_exact(4).enumerate() {
            let word = i32::from_ne_bytes([word[0], word[1], word[2], word[3]]);
            code.store_value(Width::Word, R6, at as i16 * 4, word);
        }
        if walk.flows() > 1 {
            let ((port_at, first), (urgent_at, urgent)) = (walk.port_word(), walk.urgent_word());
            count(&mut code, &sequence);
            code.multiply_32(R2, STEP.cast_signed());
            code.and_32(R2, (walk.flows() - 1).cast_signed());
            code.copy(R3, R2);
            code.add(R3, first.into());
            code.network_order_16(R3);
            code.store(Width::Half, R6, port_at as i16, R3);
            code.negate(R2);
            code.add(R2, urgent.into());
            code.network_order_16(R2);
            code.store(Width::Half, R6, urgent_at as i16, R2);
        }
        code.set(R1, out.cast_signed());
        code.set(R2, 0);
        code.call(Function::Redirect);
        code.exit();
        code.place(too_short);
        code.end_with(XDP_ABORTED);
        Ok(Self { program: bpf::load_xdp(&code.finish())?, frame, _sequence: sequence })
    }

    /// Sends so many; see [`bpf::test_run::run_live`].
    pub(crate) fn send(&self, frames: u32) -> io::Result<u32> {
        bpf::test_run::run_live(self.program.as_fd(), &self.frame, frames)
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
        let mut code = Assembler::default();
        count(&mut code, &counter);
        code.end_with(XDP_DROP);
        Ok(Self { program: bpf::load_xdp(&code.finish())?, counter })
    }

    pub(crate) fn program(&self) -> &OwnedFd {
        &self.program
    }

    /// How many have come so far.
    pub(crate) fn count(&self) -> io::Result<u64> {
        self.counter.read(0)
    }
}
