//! The forwarding decision: what becomes of a frame.
//!
//! ```text
//! entry   Ethernet -> IP -> for a VIP? -> plain TCP of a flow that the cache has? --yes--> sent
//!            | a tag, options, fragment, ICMP, ARP         | no, or a SYN
//! lookup     |                                    established flow? --yes--> sent, and into the cache
//! parse   finds the TCP or ICMP header ------------------->|
//! slow                                    half-open flow? -> handshake step
//!                                         service? -> unknown flow -> answer
//! open                                        | SYN -> backend, if it has room
//! choose                                      |    -> another one
//! begin                                       |    -> NAT port -> new flow
//! rebuild                                     | in the middle of a flow that another node may have had -> half-open flow
//! send                     a packet of a known flow that the entry does not send
//! icmp    an error about a flow -> to the flow's backend or client
//! tunnel  an error about a tunnel of ours -> answer for what was in it
//! answer  RST, time exceeded, too big
//! arp, neighbour   silence, answer or note what is said about a VIP
//! vrrp    notes the arrival of an advertisement
//! observe counts which backend a SYN would go to, while the node only observes
//! former  during an upgrade: the former release's entry, for the flows that only its maps know
//! ```
//!
//! A packet that is not for a VIP leaves untouched after a handful of instructions, and a packet of a busy flow needs no
//! hash look-up ([`cache`]). In the kernel each [`Stage`] is a program, reached by a tail call: each has its own
//! stack and is verified on its own. Everything here inlines; it neither allocates nor loops without a bound.

mod answer;
mod arp;
mod balance;
mod begin;
pub mod cache;
mod choose;
mod claim;
mod entry;
mod established;
mod flow;
mod fragment;
mod icmp;
mod limit;
mod lookup;
mod nat;
mod neighbour;
mod observe;
mod open;
mod parse;
mod rebuild;
mod send;
mod slow;
mod tunnel;
mod vrrp;

use crate::{
    frame::Frame,
    layout::Scratch,
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    segment::Segment,
    tables::{Slot, Tables},
    wire::{Be32, Be128},
};

pub use self::{entry::entry, flow::entry as flow_entry, nat::NAT_PORT_TRIES};

/// What comes after the entry; the number is the index in the `PROGRAMS` map.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Everything that is not plain TCP: tags, options, extensions, fragments, ICMP, ARP.
    Parse = 0,
    /// TCP over IPv4 of no established flow, or of one that the entry does not do.
    Slow4 = 1,
    /// The same over IPv6.
    Slow6 = 2,
    /// A new flow over IPv4.
    Open4 = 3,
    /// A new flow over IPv6.
    Open6 = 4,
    /// An ICMP error, or what passes for one.
    Icmp4 = 5,
    /// An ICMPv6 error.
    Icmp6 = 6,
    /// A packet of a known flow over IPv4 that the entry does not send.
    Send4 = 11,
    /// The same over IPv6.
    Send6 = 12,
    /// An ICMP error about a tunnel.
    Tunnel4 = 9,
    /// An ICMPv6 error about a tunnel.
    Tunnel6 = 10,
    /// An answer of our own over IPv4.
    Answer4 = 7,
    /// An answer of our own over IPv6.
    Answer6 = 8,
    /// ARP about a VIP.
    Arp = 13,
    /// A neighbour solicitation or advertisement.
    Neighbour = 14,
    /// VRRP over IPv4.
    Vrrp4 = 15,
    /// VRRP over IPv6.
    Vrrp6 = 16,
    /// Another release's entry, with its own maps: while flows are being copied from those, it does what only they know.
    /// Not one of [`Stage::ALL`].
    Former = 17,
    /// TCP over IPv4 of no known flow, while the node only observes.
    Observe4 = 18,
    /// The same over IPv6.
    Observe6 = 19,
    /// A packet in the middle of an unknown flow over IPv4.
    Rebuild4 = 20,
    /// The same over IPv6.
    Rebuild6 = 21,
    /// A new flow over IPv4 whose backend has been chosen.
    Begin4 = 22,
    /// The same over IPv6.
    Begin6 = 23,
    /// A new flow whose first choice of a backend has no room.
    Choose = 24,
    /// Plain TCP over IPv4 that the cache has no flow for.
    Lookup4 = 25,
    /// The same over IPv6.
    Lookup6 = 26,
}

impl Stage {
    /// Every stage that this release has a program for. One that no release before had stands before those that lead to it:
    /// packets come while the programs are replaced one after the other.
    pub const ALL: [Self; 26] = [
        Self::Choose,
        Self::Lookup4,
        Self::Lookup6,
        Self::Parse,
        Self::Slow4,
        Self::Slow6,
        Self::Open4,
        Self::Open6,
        Self::Begin4,
        Self::Begin6,
        Self::Rebuild4,
        Self::Rebuild6,
        Self::Send4,
        Self::Send6,
        Self::Icmp4,
        Self::Icmp6,
        Self::Tunnel4,
        Self::Tunnel6,
        Self::Answer4,
        Self::Answer6,
        Self::Arp,
        Self::Neighbour,
        Self::Vrrp4,
        Self::Vrrp6,
        Self::Observe4,
        Self::Observe6,
    ];

    /// The name of its program.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Parse => "xvip_parse",
            Self::Slow4 => "xvip_slow4",
            Self::Slow6 => "xvip_slow6",
            Self::Open4 => "xvip_open4",
            Self::Open6 => "xvip_open6",
            Self::Choose => "xvip_choose",
            Self::Lookup4 => "xvip_lookup4",
            Self::Lookup6 => "xvip_lookup6",
            Self::Begin4 => "xvip_begin4",
            Self::Begin6 => "xvip_begin6",
            Self::Rebuild4 => "xvip_rebuild4",
            Self::Rebuild6 => "xvip_rebuild6",
            Self::Send4 => "xvip_send4",
            Self::Send6 => "xvip_send6",
            Self::Icmp4 => "xvip_icmp4",
            Self::Icmp6 => "xvip_icmp6",
            Self::Tunnel4 => "xvip_tunnel4",
            Self::Tunnel6 => "xvip_tunnel6",
            Self::Answer4 => "xvip_answer4",
            Self::Answer6 => "xvip_answer6",
            Self::Arp => "xvip_arp",
            Self::Neighbour => "xvip_neighbour",
            Self::Vrrp4 => "xvip_vrrp4",
            Self::Vrrp6 => "xvip_vrrp6",
            Self::Observe4 => "xvip_observe4",
            Self::Observe6 => "xvip_observe6",
            // As every release has called its entry.
            Self::Former => "xvip",
        }
    }
}

/// What a stage comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// This becomes of the frame.
    Done(Verdict),
    /// It goes out, and that has been counted with its flow ([`cache`]).
    Sent(TransmitReason),
    /// Another stage goes on with it.
    Next(Stage),
}

/// Decides about a frame, rewrites it where it is to be sent, and keeps the flow tables: all stages that it needs in a
/// row, as the kernel runs them.
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let mut step = entry(frame, tables);
    loop {
        step = match step {
            Step::Done(verdict) => return verdict,
            Step::Sent(reason) => return Verdict::Transmit(reason),
            Step::Next(stage) => run(stage, frame, tables),
        };
    }
}

/// Runs one stage.
#[inline(always)]
pub fn run<F: Frame, T: Tables>(stage: Stage, frame: &mut F, tables: &T) -> Step {
    match stage {
        Stage::Parse => parse::parse(frame, tables),
        Stage::Slow4 => slow::slow::<Be32, F, T>(frame, tables),
        Stage::Slow6 => slow::slow::<Be128, F, T>(frame, tables),
        Stage::Open4 => open::open::<Be32, F, T>(frame, tables),
        Stage::Open6 => open::open::<Be128, F, T>(frame, tables),
        Stage::Choose => choose::choose(tables),
        Stage::Lookup4 => lookup::lookup::<Be32, F, T>(frame, tables),
        Stage::Lookup6 => lookup::lookup::<Be128, F, T>(frame, tables),
        Stage::Begin4 => begin::begin::<Be32, F, T>(frame, tables),
        Stage::Begin6 => begin::begin::<Be128, F, T>(frame, tables),
        Stage::Rebuild4 => rebuild::rebuild::<Be32, F, T>(frame, tables),
        Stage::Rebuild6 => rebuild::rebuild::<Be128, F, T>(frame, tables),
        Stage::Send4 => slow::send_known::<Be32, F, T>(frame, tables),
        Stage::Send6 => slow::send_known::<Be128, F, T>(frame, tables),
        Stage::Icmp4 => icmp::icmp::<Be32, F, T>(frame, tables),
        Stage::Icmp6 => icmp::icmp::<Be128, F, T>(frame, tables),
        Stage::Tunnel4 => icmp::about_tunnel::<Be32, F, T>(frame, tables),
        Stage::Tunnel6 => icmp::about_tunnel::<Be128, F, T>(frame, tables),
        Stage::Answer4 => answer::answer::<Be32, F, T>(frame, tables),
        Stage::Answer6 => answer::answer::<Be128, F, T>(frame, tables),
        Stage::Arp => arp::arp(frame, tables),
        Stage::Neighbour => neighbour::neighbour(frame, tables),
        Stage::Vrrp4 => vrrp::vrrp::<Be32, F, T>(frame, tables),
        Stage::Vrrp6 => vrrp::vrrp::<Be128, F, T>(frame, tables),
        Stage::Observe4 => observe::observe::<Be32, F, T>(frame, tables),
        Stage::Observe6 => observe::observe::<Be128, F, T>(frame, tables),
        // The kernel has it, if anybody.
        Stage::Former => INTERNAL,
    }
}

const PARSE: Step = Step::Next(Stage::Parse);
const INTERNAL: Step = Step::Done(Verdict::Drop(DropReason::Internal));

const fn pass(reason: PassReason) -> Step {
    Step::Done(Verdict::Pass(reason))
}

const fn drop(reason: DropReason) -> Step {
    Step::Done(Verdict::Drop(reason))
}

/// A family, as the stages need it: its address, the maps of its flows, and its stages.
trait Family: crate::family::Address {
    const LOOKUP: Stage;
    const SLOW: Stage;
    const OPEN: Stage;
    const BEGIN: Stage;
    const REBUILD: Stage;
    const SEND: Stage;
    const ICMP_STAGE: Stage;
    const TUNNEL: Stage;
    const ANSWER: Stage;
    const OBSERVE: Stage;
}

impl Family for Be32 {
    const LOOKUP: Stage = Stage::Lookup4;
    const SLOW: Stage = Stage::Slow4;
    const OPEN: Stage = Stage::Open4;
    const BEGIN: Stage = Stage::Begin4;
    const REBUILD: Stage = Stage::Rebuild4;
    const SEND: Stage = Stage::Send4;
    const ICMP_STAGE: Stage = Stage::Icmp4;
    const TUNNEL: Stage = Stage::Tunnel4;
    const ANSWER: Stage = Stage::Answer4;
    const OBSERVE: Stage = Stage::Observe4;
}

impl Family for Be128 {
    const LOOKUP: Stage = Stage::Lookup6;
    const SLOW: Stage = Stage::Slow6;
    const OPEN: Stage = Stage::Open6;
    const BEGIN: Stage = Stage::Begin6;
    const REBUILD: Stage = Stage::Rebuild6;
    const SEND: Stage = Stage::Send6;
    const ICMP_STAGE: Stage = Stage::Icmp6;
    const TUNNEL: Stage = Stage::Tunnel6;
    const ANSWER: Stage = Stage::Answer6;
    const OBSERVE: Stage = Stage::Observe6;
}

/// Has the segment answered. `mtu` is for those answers that tell one.
#[inline(always)]
fn ask<A: Family, T: Tables>(tables: &T, segment: &Segment<A>, answer: u32, mtu: u32) -> Step {
    let Some(scratch) = tables.scratch() else { return INTERNAL };
    segment.leave(scratch);
    wish(scratch, answer, mtu);
    Step::Next(A::ANSWER)
}

/// Says what the segment that is left there is answered with.
#[inline(always)]
fn wish(scratch: Slot<Scratch>, answer: u32, mtu: u32) {
    scratch.update(|scratch| {
        scratch.answer = answer;
        scratch.mtu = mtu;
        scratch.if_index = 0;
    });
}

/// Leaves the segment to the stage for flows that the entry does not do.
#[inline(always)]
fn leave_to_slow<A: Family>(scratch: Slot<Scratch>, segment: &Segment<A>) -> Step {
    segment.leave(scratch);
    Step::Next(A::SLOW)
}

#[inline(always)]
fn flow_clock<T: Tables>(tables: &T) -> u32 {
    tables.pulse().map_or(0, |pulse| pulse.flow_clock)
}

#[cfg(test)]
mod tests {
    use super::Stage;

    #[test]
    fn each_stage_is_listed_once_and_what_is_new_before_what_leads_to_it() {
        let place = |wanted: Stage| Stage::ALL.iter().position(|&stage| stage == wanted);
        for stage in Stage::ALL {
            assert_eq!(
                Stage::ALL.iter().filter(|&&other| other as u32 == stage as u32).count(),
                1,
                "{stage:?}"
            );
        }
        let new = place(Stage::Choose);
        for earlier in [Stage::Open4, Stage::Open6, Stage::Observe4, Stage::Observe6] {
            assert!(new < place(earlier), "{earlier:?}");
        }
    }
}
