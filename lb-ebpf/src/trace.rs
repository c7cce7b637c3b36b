//! The programs that show the tracer what comes in and what goes out. They run only while somebody traces.

use core::hint::black_box;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, bpf_xdp_load_bytes},
    macros::xdp,
    programs::XdpContext,
};
use lb_common::{
    frame::Frame as _,
    reason::Verdict,
    tables::Slot,
    trace::{EVENT_LEN, Event, HEADERS, Kept, Note, TraceEntry, WHOLE, Watcher},
    wire::ETHERNET_LEN,
};

use crate::{maps, xdp_frame::XdpFrame};

/// Says for the next program what has been decided.
#[inline(always)]
pub fn leave(verdict: Verdict, action: u32, egress: Option<u32>) {
    let Some(note) = maps::note() else { return };
    note.update(|note| {
        note.event.counter = verdict.counter();
        note.event.action = action;
        note.event.egress = egress.unwrap_or(0);
    });
}

/// Keeps a copy of a received frame and has the entry look at it.
#[xdp]
pub fn xvip_received(context: XdpContext) -> u32 {
    receive(&context);
    maps::watch(&context, Watcher::Entry);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn receive(context: &XdpContext) {
    let (trace, Some(note)) = (maps::trace(), maps::note()) else { return };
    let wanted = trace.read();
    // SAFETY: the helper takes no argument and is allowed in XDP.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > wanted.until_ns {
        // The tracer is gone, or will write this again.
        trace.update(|trace| trace.session = 0);
        note.update(|note| note.event.session = 0);
        return;
    }
    let frame = XdpFrame::new(context);
    let len = frame.len();
    let kept = keep(context, note, 0, len, wanted.depth);
    note.update(|note| {
        note.event.at_ns = now;
        note.event.session = wanted.session;
        // SAFETY: the helper takes no argument and is allowed in XDP.
        note.event.cpu = unsafe { bpf_get_smp_processor_id() };
        note.event.ingress = frame.if_index();
        note.event.received_len = len as u32;
        note.event.received_kept = kept;
    });
}

/// Tells the tracer what became of a frame, if it is the client's.
#[xdp]
pub fn xvip_decided(context: XdpContext) -> u32 {
    let Some(note) = maps::note() else { return xdp_action::XDP_DROP };
    let wanted = maps::trace().read();
    let event: Event = note.with(|note| note.event);
    // Where tracing began after this frame came in, there is no copy of it, but perhaps one of a frame of long ago.
    if event.session == wanted.session {
        decided(&context, note, event.action, wanted.depth);
    }
    note.update(|note| note.event.session = 0);
    event.action
}

#[inline(always)]
fn decided(context: &XdpContext, note: Slot<Note>, action: u32, depth: u32) {
    let is_sent = action == xdp_action::XDP_TX || action == xdp_action::XDP_REDIRECT;
    let begin = if depth == WHOLE as u32 { WHOLE } else { HEADERS };
    let (mut len, mut kept) = (0, 0);
    if is_sent {
        let frame = XdpFrame::new(context);
        len = frame.len() as u32;
        kept = keep(context, note, begin, frame.len(), depth);
    }
    note.update(|note| {
        note.event.sent_len = len;
        note.event.sent_kept = kept;
        if note.event.egress == 0 {
            note.event.egress = note.event.ingress;
        }
    });
    // Read again, so that the verifier follows what comes now once rather than once for each depth.
    let TraceEntry { wanted, depth, .. } = maps::trace().reread();
    let mut is_wanted = false;
    note.update(|note| {
        let Note { event, frames, cursor, .. } = note;
        let received = Kept::new(frames, 0, event.received_kept as usize);
        let sent = Kept::new(frames, depth as usize, event.sent_kept as usize);
        is_wanted = wanted.is_in(&received, cursor) || wanted.is_in(&sent, cursor);
    });
    if !is_wanted {
        return;
    }
    // The length must be a constant to the verifier.
    let has_room = match (depth == WHOLE as u32, is_sent) {
        (false, false) => maps::send_words::<{ (EVENT_LEN + HEADERS) / 8 }>(note),
        (false, true) => maps::send_words::<{ (EVENT_LEN + 2 * HEADERS) / 8 }>(note),
        (true, false) => maps::send_words::<{ (EVENT_LEN + WHOLE) / 8 }>(note),
        (true, true) => maps::send_words::<{ (EVENT_LEN + 2 * WHOLE) / 8 }>(note),
    };
    if !has_room {
        note.update(|note| note.lost += 1);
    }
}

/// Copies a frame's beginning to `begin` in the note; returns how many bytes that were.
#[inline(always)]
fn keep(context: &XdpContext, note: Slot<Note>, begin: usize, len: usize, depth: u32) -> u32 {
    let most = if depth == WHOLE as u32 { WHOLE } else { HEADERS };
    // Two comparisons, which LLVM must not make one of: the verifier has one bound from each. Nothing is shorter than an
    // Ethernet header here, and up to Linux 6.1 a comparison with zero tells the verifier nothing.
    let kept = black_box(if len < most { len } else { most });
    if kept > WHOLE {
        return 0;
    }
    let kept = black_box(kept);
    if kept < ETHERNET_LEN {
        return 0;
    }
    let mut failed = true;
    note.update(|note| {
        let place = note.frames.as_mut_ptr().wrapping_add(begin);
        // SAFETY: `begin` is 0 or the larger of two depths, and after two of those there is room for the frame; the
        // context is the one that the kernel called us with.
        failed = unsafe { bpf_xdp_load_bytes(context.ctx, 0, place.cast(), kept as u32) } != 0;
    });
    if failed { 0 } else { kept as u32 }
}
