//! The XDP programs: [`lb_common::forward`] between the kernel's frame and the kernel's maps.
#![no_std]
#![no_main]

mod maps;
mod xdp_frame;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use lb_common::{
    forward,
    reason::{DropReason, Verdict},
};
use maps::Maps;
use xdp_frame::XdpFrame;

/// Entry point. Every packet that the interface receives comes through here.
#[allow(missing_docs, reason = "the macro adds an undocumented wrapper")]
#[xdp]
pub fn xvip(context: XdpContext) -> u32 {
    let verdict = match forward::fast(&mut XdpFrame::new(&context), &Maps) {
        Some(verdict) => verdict,
        None => {
            maps::tail_call_slow(&context);
            Verdict::Drop(DropReason::Internal)
        }
    };
    finish(verdict)
}

/// The second half, for packets of no established flow.
#[allow(missing_docs, reason = "the macro adds an undocumented wrapper")]
#[xdp]
pub fn xvip_slow(context: XdpContext) -> u32 {
    finish(forward::slow(&mut XdpFrame::new(&context), &Maps))
}

#[inline(always)]
fn finish(verdict: Verdict) -> u32 {
    maps::count(verdict.counter());
    match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit(_) => xdp_action::XDP_TX,
    }
}

/// Never called: nothing in the program panics, and the verifier would refuse the loop.
#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only. The kernel looks for exactly these words.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
