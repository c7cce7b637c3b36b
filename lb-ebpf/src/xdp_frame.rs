//! [`Frame`] over the XDP context: the one bounds check.

use aya_ebpf::{
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::frame::{Frame, Header};

/// The frame that the program was called for.
pub struct XdpFrame<'a> {
    context: &'a XdpContext,
    leaves_by: u32,
}

impl<'a> XdpFrame<'a> {
    #[inline(always)]
    pub const fn new(context: &'a XdpContext) -> Self {
        Self { context, leaves_by: 0 }
    }

    /// What the program was called with.
    #[inline(always)]
    pub const fn context(&self) -> &XdpContext {
        self.context
    }

    /// The interface that it leaves by, if that is another one than it came in by.
    #[inline(always)]
    pub fn other_interface(&self) -> Option<u32> {
        (self.leaves_by != 0 && self.leaves_by != self.if_index()).then_some(self.leaves_by)
    }

    /// A pointer to `size` readable and writable bytes at `offset`. The pointers are read again from the context at
    /// each call, since resizing moves them; the comparison with `data_end` is what the verifier goes by.
    #[inline(always)]
    fn bytes_at(&self, offset: usize, size: usize) -> Option<usize> {
        let start = self.context.data() + offset;
        (start + size <= self.data_end()).then_some(start)
    }

    /// Where the frame ends. Volatile: LLVM must not conclude from one comparison that another one holds, since the
    /// verifier does not follow it where the offsets of the two are not constants.
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: the context is the one that the kernel called us with.
        unsafe { (&raw const (*self.context.ctx).data_end).read_volatile() as usize }
    }
}

impl Frame for XdpFrame<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.data_end() - self.context.data()
    }

    #[inline(always)]
    fn if_index(&self) -> u32 {
        self.context.ingress_ifindex() as u32
    }

    #[inline(always)]
    fn leave_by(&mut self, if_index: u32) {
        self.leaves_by = if_index;
    }

    #[inline(always)]
    fn header<H: Header>(&self, offset: usize) -> Option<&H> {
        let start = self.bytes_at(offset, size_of::<H>())?;
        // SAFETY: `size_of::<H>()` bytes of the frame are there (just checked), they stay there until the frame is
        // resized, which borrows it mutably, and any bytes at any address are an `H` (its contract).
        Some(unsafe { &*(start as *const H) })
    }

    #[inline(always)]
    fn header_mut<H: Header>(&mut self, offset: usize) -> Option<&mut H> {
        let start = self.bytes_at(offset, size_of::<H>())?;
        // SAFETY: as in `header`; the frame is borrowed mutably, and no other program sees it at the same time.
        Some(unsafe { &mut *(start as *mut H) })
    }

    #[inline(always)]
    fn truncate(&mut self, len: usize) -> bool {
        let delta = len as i32 - self.len() as i32;
        // SAFETY: the context is the one that the kernel called us with.
        delta <= 0 && unsafe { bpf_xdp_adjust_tail(self.context.ctx, delta) } == 0
    }

    #[inline(always)]
    fn grow_front(&mut self, bytes: i32) -> bool {
        // SAFETY: the context is the one that the kernel called us with.
        unsafe { bpf_xdp_adjust_head(self.context.ctx, -bytes) == 0 }
    }
}
