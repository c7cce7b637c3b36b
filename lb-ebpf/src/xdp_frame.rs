//! [`Frame`] over the XDP context: the one bounds check.

use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, bpf_sock_tuple},
    helpers::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use lb_common::{
    family::Address,
    frame::{Frame, Header, HostSocket},
    layout::FlowKey,
    wire::{Be32, Be128},
};

/// A flow's key begins as the kernel's `struct bpf_sock_tuple` does: both addresses, both ports, as on the wire.
const TUPLE_LEN: [u32; 2] = [12, 36];
const _: () = {
    assert!(core::mem::offset_of!(FlowKey<Be32>, dst_port) + 2 == TUPLE_LEN[0] as usize);
    assert!(core::mem::offset_of!(FlowKey<Be128>, dst_port) + 2 == TUPLE_LEN[1] as usize);
};

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
        // SAFETY: a packet is never at address zero; without this every header would be compared with that.
        unsafe { core::hint::assert_unchecked(start != 0) };
        (start + size <= self.data_end()).then_some(start)
    }

    /// The state (`BPF_TCP_`) of the host's socket for a segment with this key.
    #[inline(always)]
    fn socket_state<A: Address>(&self, key: &FlowKey<A>) -> Option<u32> {
        let tuple = (&raw const *key).cast_mut().cast::<bpf_sock_tuple>();
        let len = TUPLE_LEN[usize::from(A::IS_V6)];
        // SAFETY: the context is the one that the kernel called us with, and a key begins with as many bytes as its
        // family's tuple has (asserted above), which the helper only reads.
        let socket = unsafe {
            bpf_skc_lookup_tcp(self.context.ctx.cast(), tuple, len, i64::from(BPF_F_CURRENT_NETNS) as u64, 0)
        };
        if socket.is_null() {
            return None;
        }
        // SAFETY: the look-up returned a socket that we hold until the release below. Volatile, so that it is read before.
        let state = unsafe { (&raw const (*socket).state).read_volatile() };
        // SAFETY: released once, and not used afterwards.
        unsafe { bpf_sk_release(socket.cast()) };
        Some(state)
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

    #[inline(always)]
    fn host_socket<A: Address>(&self, key: &FlowKey<A>) -> HostSocket {
        match self.socket_state(key) {
            None => HostSocket::None,
            Some(BPF_TCP_LISTEN) => HostSocket::Listening,
            Some(_) => HostSocket::Connected,
        }
    }

    #[inline(always)]
    fn host_is_opening<A: Address>(&self, key: &FlowKey<A>) -> bool {
        self.socket_state(key) == Some(BPF_TCP_NEW_SYN_RECV)
    }
}
