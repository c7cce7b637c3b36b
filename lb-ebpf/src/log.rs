//! The program that logs drops which should not happen: at most one a second for each reason and CPU.

use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_ns, macros::xdp, programs::XdpContext};
use aya_log_ebpf::warn;
use lb_common::{
    frame::Frame as _,
    link,
    reason::FIRST_DROP_COUNTER,
    trace::Watcher,
    wire::{Be16, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_MIN_LEN, IPV6_LEN, Ipv4, Ipv6},
};

use crate::{maps, xdp_frame::XdpFrame};

/// The least time between two lines about the same reason.
const INTERVAL_NS: u64 = 1_000_000_000;

/// Logs the drop that is in the note. User space puts the reason's name in place of its number.
#[xdp]
pub fn xvip_log(context: XdpContext) -> u32 {
    log(&context);
    if maps::is_traced() {
        maps::watch(&context, Watcher::Decided);
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn log(context: &XdpContext) {
    let Some(note) = maps::note() else { return };
    let reason = note.with(|note| note.event.counter).wrapping_sub(FIRST_DROP_COUNTER);
    let Some(last) = maps::last_logged(reason) else { return };
    // SAFETY: the helper takes no argument and is allowed in XDP.
    let now = unsafe { bpf_ktime_get_ns() };
    if now.wrapping_sub(last.read()) < INTERVAL_NS {
        return;
    }
    last.update(|last| *last = now);
    let frame = XdpFrame::new(context);
    let Some((l3, ethertype)) = link::network(&frame) else { return };
    match ethertype {
        ETHERTYPE_IPV4 => {
            let Some(ip) = frame.header::<Ipv4>(l3) else { return };
            let (source, destination) = (ip.src.get(), ip.dst.get());
            let (from, to) = ports(&frame, l3 + IPV4_MIN_LEN);
            warn!(context, "{} {:i} {} {:i} {}", reason, source, from, destination, to);
        }
        ETHERTYPE_IPV6 => {
            let Some(ip) = frame.header::<Ipv6>(l3) else { return };
            let (source, destination) = (ip.src.octets(), ip.dst.octets());
            let (from, to) = ports(&frame, l3 + IPV6_LEN);
            warn!(context, "{} {:i} {} {:i} {}", reason, source, from, destination, to);
        }
        _ => {}
    }
}

/// What stands where the ports are, unless there are options.
#[inline(always)]
fn ports(frame: &XdpFrame<'_>, l4: usize) -> (u16, u16) {
    frame.header::<[Be16; 2]>(l4).map_or((0, 0), |[from, to]| (from.get(), to.get()))
}
