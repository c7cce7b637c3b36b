//! The XDP programs: [`lb_common::forward`] between the kernel's frame and the kernel's maps, one program for each stage;
//! and the hooks for clients on the node itself, in [`local`].
#![no_std]
#![no_main]
#![allow(missing_docs, reason = "`#[xdp]` adds wrappers that have none")]

mod local;
mod log;
mod maps;
mod trace;
mod xdp_frame;

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    helpers::bpf_redirect,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use lb_common::{
    family::Address,
    forward::{self, Stage, Step, cache},
    reason::{DropReason, Verdict},
    tables::{FlowTables, Tables},
    trace::Watcher,
    wire::{Be32, Be128},
};
use maps::Maps;
use xdp_frame::XdpFrame;

/// Entry point. Every packet that the interface receives comes through here.
#[xdp]
pub fn xvip(context: XdpContext) -> u32 {
    if maps::is_traced() {
        maps::watch(&context, Watcher::Received);
    }
    enter(&context)
}

/// The same once more, for frames that a copy is kept of already.
#[xdp]
pub fn xvip_traced(context: XdpContext) -> u32 {
    enter(&context)
}

#[inline(always)]
fn enter(context: &XdpContext) -> u32 {
    let mut frame = XdpFrame::new(context);
    let step = forward::entry(&mut frame, &Maps);
    finish(&frame, step)
}

macro_rules! stages {
    ($($program:ident = $stage:expr;)+) => {$(
        #[xdp]
        pub fn $program(context: XdpContext) -> u32 {
            let mut frame = XdpFrame::new(&context);
            let step = forward::run($stage, &mut frame, &Maps);
            finish(&frame, step)
        }
    )+};
}

stages! {
    xvip_parse = Stage::Parse;
    xvip_slow4 = Stage::Slow4;
    xvip_slow6 = Stage::Slow6;
    xvip_open4 = Stage::Open4;
    xvip_open6 = Stage::Open6;
    xvip_choose = Stage::Choose;
    xvip_lookup4 = Stage::Lookup4;
    xvip_lookup6 = Stage::Lookup6;
    xvip_begin4 = Stage::Begin4;
    xvip_begin6 = Stage::Begin6;
    xvip_rebuild4 = Stage::Rebuild4;
    xvip_rebuild6 = Stage::Rebuild6;
    xvip_send4 = Stage::Send4;
    xvip_send6 = Stage::Send6;
    xvip_icmp4 = Stage::Icmp4;
    xvip_icmp6 = Stage::Icmp6;
    xvip_tunnel4 = Stage::Tunnel4;
    xvip_tunnel6 = Stage::Tunnel6;
    xvip_answer4 = Stage::Answer4;
    xvip_answer6 = Stage::Answer6;
    xvip_arp = Stage::Arp;
    xvip_neighbour = Stage::Neighbour;
    xvip_vrrp4 = Stage::Vrrp4;
    xvip_vrrp6 = Stage::Vrrp6;
    xvip_observe4 = Stage::Observe4;
    xvip_observe6 = Stage::Observe6;
}

macro_rules! settling {
    ($($program:ident = $address:ty;)+) => {$(
        /// Settles some sets of this CPU's cache. Never attached: the controller runs it, until it has gone through all. No
        /// XDP program, since the kernel waits for a grace period before and after it runs one of those many times.
        #[classifier]
        pub fn $program(_context: TcContext) -> i32 {
            settle::<$address>();
            TC_ACT_OK
        }
    )+};
}

settling! {
    xvip_settle4 = Be32;
    xvip_settle6 = Be128;
}

#[inline(always)]
fn settle<A: Address>()
where
    Maps: FlowTables<A>,
{
    let (Some(node), Some(pulse)) = (Tables::node(&Maps), Tables::pulse(&Maps)) else { return };
    for _ in 0..cache::SETTLED_AT_ONCE {
        let Some(set) = maps::next_to_settle(node.cache_sets) else { return };
        cache::settle::<A, Maps>(&Maps, node.cache_sets, set, pulse.flow_clock);
    }
}

#[inline(always)]
fn finish(frame: &XdpFrame<'_>, step: Step) -> u32 {
    let verdict = match step {
        Step::Done(verdict) => verdict,
        Step::Sent(reason) => return leave(frame, Verdict::Transmit(reason)),
        Step::Next(stage) => {
            maps::go_on(frame.context(), stage);
            Verdict::Drop(DropReason::Internal)
        }
    };
    maps::count(verdict.counter());
    leave(frame, verdict)
}

/// What the kernel is told.
#[inline(always)]
fn leave(frame: &XdpFrame<'_>, verdict: Verdict) -> u32 {
    let egress = frame.other_interface();
    let action = match verdict {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Drop(_) => xdp_action::XDP_DROP,
        Verdict::Transmit(_) => match egress {
            None => xdp_action::XDP_TX,
            // SAFETY: the helper takes any number, and is allowed in XDP.
            Some(if_index) => unsafe { bpf_redirect(if_index, 0) as u32 },
        },
    };
    if let Verdict::Drop(reason) = verdict
        && reason.is_alarming()
    {
        trace::leave(verdict, action, egress);
        maps::watch(frame.context(), Watcher::Log);
    }
    if maps::is_traced() {
        trace::leave(verdict, action, egress);
        maps::watch(frame.context(), Watcher::Decided);
    }
    action
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
