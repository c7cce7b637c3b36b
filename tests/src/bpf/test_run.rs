//! `BPF_PROG_TEST_RUN` in its forms: a frame once, a frame many times in a row, one that came in by a given interface, and live
//! frames, which the kernel sends on as the program says.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{BPF_PROG_TEST_RUN, bpf_mut};

/// `BPF_F_TEST_XDP_LIVE_FRAMES` (include/uapi/linux/bpf.h; Linux 5.18 or later).
const LIVE_FRAMES: u32 = 1 << 1;
/// How many frames are on their way before the kernel lets them arrive. A veth's queue holds 256.
const BATCH: u32 = 128;

/// The head of `union bpf_attr` for `BPF_PROG_TEST_RUN`, up to the last field that we use.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    /// The kernel wants zeros here, which padding need not be.
    _zero: u32,
}

impl TestRun {
    /// One run of a program on a frame, of which nothing is to be known but the action.
    fn on(program: BorrowedFd<'_>, frame: &[u8]) -> Self {
        Self {
            prog_fd: program.as_raw_fd().cast_unsigned(),
            data_size_in: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            ..Self::default()
        }
    }
}

/// Runs an XDP program once on a frame, with the maps as they are. What the frame is afterwards is written to `out`, which
/// has room for it. Returns the XDP action and the length of the frame.
///
/// Aya can do this, too; but this allocates nothing and looks nothing up, for millions of runs.
pub(crate) fn run_once(program: BorrowedFd<'_>, frame: &[u8], out: &mut [u8]) -> io::Result<(u32, usize)> {
    let mut attr = TestRun {
        data_size_out: out.len() as u32,
        data_out: out.as_mut_ptr() as u64,
        ..TestRun::on(program, frame)
    };
    // SAFETY: TestRun is the head of the bpf_attr that BPF_PROG_TEST_RUN reads and writes its results to; `data_in`
    // points to data_size_in bytes and `data_out` to data_size_out that nobody else uses, alive until the call returns.
    unsafe { bpf_mut(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.retval, attr.data_size_out as usize))
}

/// Runs an XDP program `repeat` times in a row; the frame of each run is what the one before has left. Returns the XDP
/// action of the last run, and the nanoseconds that one took on average, by the kernel's own clock (whole ones).
pub(crate) fn run_repeated(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
    let mut attr = TestRun { repeat, ..TestRun::on(program, frame) };
    // SAFETY: as above; nothing is written to a null `data_out`.
    unsafe { bpf_mut(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok((attr.retval, attr.duration))
}

/// Runs an XDP program on so many live frames, which begin as `frame`; what it redirects is really sent. Returns the nanoseconds that each
/// took on average, all that happened on its way included, by the kernel's own clock (whole ones). Whoever changes
/// frames writes all of each: the kernel uses them again as they come back.
pub(crate) fn run_live(program: BorrowedFd<'_>, frame: &[u8], count: u32) -> io::Result<u32> {
    let mut attr =
        TestRun { repeat: count, flags: LIVE_FRAMES, batch_size: BATCH, ..TestRun::on(program, frame) };
    // SAFETY: as above.
    unsafe { bpf_mut(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(attr.duration)
}

/// One run of an XDP program on a frame that came in by an interface of the calling thread's network namespace. All that it
/// takes is prepared, so that [`OneRun::run`] is nothing but the system call.
pub(crate) struct OneRun<'a> {
    attr: TestRun,
    /// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex. The attribute points
    /// here.
    _context: Box<[u32; 6]>,
    _program: BorrowedFd<'a>,
    _frame: &'a [u8],
}

impl<'a> OneRun<'a> {
    /// The interface has an XDP program.
    pub(crate) fn new(program: BorrowedFd<'a>, frame: &'a [u8], if_index: u32) -> Self {
        // The kernel wants data_end to be the length of the frame.
        let context = Box::new([0, frame.len() as u32, 0, if_index, 0, 0]);
        let attr = TestRun {
            repeat: 1,
            ctx_size_in: size_of_val(&*context) as u32,
            ctx_in: context.as_ptr() as u64,
            ..TestRun::on(program, frame)
        };
        Self { attr, _context: context, _program: program, _frame: frame }
    }

    /// Returns the XDP action.
    pub(crate) fn run(&mut self) -> io::Result<u32> {
        // SAFETY: as above; `ctx_in` points to ctx_size_in bytes. Program, frame and context live as long as `self`.
        unsafe { bpf_mut(BPF_PROG_TEST_RUN, &mut self.attr) }?;
        Ok(self.attr.retval)
    }
}
