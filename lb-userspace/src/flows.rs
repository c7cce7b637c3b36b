//! The life of a flow: in which state it is, when its entries are removed, and what is counted then.
//!
//! Pure: the data plane notes what each direction has seen, and this says what follows from it. Times are in seconds
//! of the flow clock, which stands still while no controller runs.
//!
//! With direct server return, and where the backend is this very node, only the client's packets come through: such a
//! flow has one direction, and a FIN of the client is all that is ever seen of its end.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    family::Address,
    layout::{
        BackendId, FlowEntry, FlowKey, MODE_NAT, Removed, SEEN_FIN, SEEN_RST, SEEN_SEVERED, TO_BACKEND,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

pub mod pairs;

/// After how much silence a flow is forgotten, in seconds of the flow clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Open: `flows.idle_timeout`.
    pub idle: u32,
    /// One side has sent a FIN and the other still may send: an answer can take its time.
    pub half_closed: u32,
    /// Both have sent a FIN. The backend may hold the NAT port in TIME_WAIT for 60 s (`TCP_TIMEWAIT_LEN`), and a new
    /// client's SYN on it would be stalled by older time stamps (PAWS, RFC 7323 §5).
    pub closed: u32,
    /// A RST was seen, or the flow was severed: nothing is left on either side, but late packets may still come.
    pub reset: u32,
    /// Half-open: longer than any stack goes on retransmitting a SYN quickly.
    pub half_open: u32,
}

impl Timeouts {
    /// The defaults, with the configured idle time-out.
    pub const fn new(idle: u32) -> Self {
        Self { idle, half_closed: 600, closed: 60, reset: 10, half_open: 60 }
    }

    /// No flow is over sooner after its last packet.
    pub fn shortest(&self) -> u32 {
        self.idle.min(self.half_closed).min(self.closed).min(self.reset)
    }
}

/// Where a flow is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Neither side has closed.
    Open,
    /// One side has.
    HalfClosed,
    /// Both have.
    Closed,
    /// A RST ended it, or we have.
    Reset,
}

/// What either direction must have seen for a flow to be over without a FIN.
const ENDED_AT_ONCE: u32 = SEEN_RST | SEEN_SEVERED;

/// Whether the backend's packets come through here, too.
pub const fn has_reply<A>(forward: &FlowEntry<A>) -> bool {
    forward.mode == MODE_NAT
}

/// The phase that both directions together show. A direction that should be there and is gone counts as reset.
pub fn phase<A>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Phase {
    let (either, both) = match reply {
        Some(reply) => (forward.seen.flags | reply.seen.flags, forward.seen.flags & reply.seen.flags),
        None if has_reply(forward) => return Phase::Reset,
        // A backend that has closed first is not seen; the client's FIN is then the end, else nearly.
        None => (forward.seen.flags, 0),
    };
    if either & ENDED_AT_ONCE != 0 {
        Phase::Reset
    } else if both & SEEN_FIN != 0 {
        Phase::Closed
    } else if either & SEEN_FIN != 0 {
        Phase::HalfClosed
    } else {
        Phase::Open
    }
}

/// Whether a flow is to be forgotten at `now`.
pub fn is_over<A>(
    forward: &FlowEntry<A>,
    reply: Option<&FlowEntry<A>>,
    now: u32,
    timeouts: &Timeouts,
) -> bool {
    silence(forward, reply, now)
        > match phase(forward, reply) {
            Phase::Open => timeouts.idle,
            Phase::HalfClosed => timeouts.half_closed,
            Phase::Closed => timeouts.closed,
            Phase::Reset => timeouts.reset,
        }
}

/// Seconds without a packet of either direction.
pub fn silence<A>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>, now: u32) -> u32 {
    let silence = forward.seen.silence(now);
    reply.map_or(silence, |reply| silence.min(reply.seen.silence(now)))
}

/// How the two directions' packets count: which are from the client is said by the entry, not by the order.
pub fn carried<A>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Removed {
    let mut carried = Removed::default();
    for entry in std::iter::once(forward).chain(reply) {
        let (packets, bytes) = if entry.direction == TO_BACKEND {
            (&mut carried.packets_in, &mut carried.bytes_in)
        } else {
            (&mut carried.packets_out, &mut carried.bytes_out)
        };
        *packets = packets.wrapping_add(entry.seen.packets);
        *bytes = bytes.wrapping_add(entry.seen.bytes);
    }
    carried
}

/// What an established flow adds to its backend's totals when it is removed: what it carried, and how it ended. A
/// half-closed one has ended by silence, unless only the client is ever seen to close.
pub fn removed<A>(forward: &FlowEntry<A>, reply: Option<&FlowEntry<A>>) -> Removed {
    let mut removed = carried(forward, reply);
    let seen = forward.seen.flags | reply.map_or(0, |reply| reply.seen.flags);
    let ended = match phase(forward, reply) {
        Phase::Closed => &mut removed.closed,
        Phase::HalfClosed if !has_reply(forward) => &mut removed.closed,
        Phase::Reset if seen & ENDED_AT_ONCE != 0 => &mut removed.reset,
        // Half a flow, too: the other half went with the table that it was in.
        Phase::Open | Phase::HalfClosed | Phase::Reset => &mut removed.expired,
    };
    *ended = 1;
    removed
}

/// The sum of two totals.
pub const fn plus(one: &Removed, other: &Removed) -> Removed {
    Removed {
        closed: one.closed.wrapping_add(other.closed),
        reset: one.reset.wrapping_add(other.reset),
        expired: one.expired.wrapping_add(other.expired),
        packets_in: one.packets_in.wrapping_add(other.packets_in),
        bytes_in: one.bytes_in.wrapping_add(other.bytes_in),
        packets_out: one.packets_out.wrapping_add(other.packets_out),
        bytes_out: one.bytes_out.wrapping_add(other.bytes_out),
    }
}

/// The larger of two totals, number by number: they are read while flows go on, and must not seem to go backwards.
pub fn at_least(one: &Removed, other: &Removed) -> Removed {
    Removed {
        closed: one.closed.max(other.closed),
        reset: one.reset.max(other.reset),
        expired: one.expired.max(other.expired),
        packets_in: one.packets_in.max(other.packets_in),
        bytes_in: one.bytes_in.max(other.bytes_in),
        packets_out: one.packets_out.max(other.packets_out),
        bytes_out: one.bytes_out.max(other.bytes_out),
    }
}

/// The state of a flow, in the words of `xvip flows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlowState {
    /// Before its handshake has completed.
    HalfOpen,
    /// After it, and neither side has closed.
    Established,
    /// At least one side has closed.
    Closing,
    /// A RST has ended it, or we have.
    Reset,
}

impl FlowState {
    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half-open",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// A flow of either family, as people think of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Who connected.
    pub client: SocketAddr,
    /// To which VIP and port.
    pub service: SocketAddr,
    /// Whom the packets go to.
    pub backend: BackendId,
    /// Where they go, as far as the flow itself says: with NAT.
    pub translated_to: Option<SocketAddr>,
    /// The port that the backend sees as the client's, with NAT.
    pub nat_port: Option<u16>,
    /// Its state.
    pub state: FlowState,
    /// Seconds of the flow clock since it was opened.
    pub age: u32,
    /// Seconds of the flow clock since the last packet of either direction.
    pub idle: u32,
    /// What it has carried until now; nothing of it has ended.
    pub carried: Carried,
}

/// Packets and bytes (IP headers included) each way: in is from the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Carried {
    /// Packets from the client.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets to the client.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

impl Flow {
    /// From the client's direction, the other one if it is there, and the table that they are in.
    pub fn new<A: Address>(
        key: &FlowKey<A>,
        forward: &FlowEntry<A>,
        reply: Option<&FlowEntry<A>>,
        is_half_open: bool,
        now: u32,
    ) -> Self {
        let at = |address: A, port: lb_common::wire::Be16| {
            SocketAddr::new(IpAddr::from(address.wide()), port.get())
        };
        let state = match phase(forward, reply) {
            _ if is_half_open => FlowState::HalfOpen,
            Phase::Open => FlowState::Established,
            Phase::HalfClosed | Phase::Closed => FlowState::Closing,
            Phase::Reset => FlowState::Reset,
        };
        let Removed { packets_in, bytes_in, packets_out, bytes_out, .. } = carried(forward, reply);
        let rewritten = has_reply(forward).then_some(&forward.rewritten);
        // As for the silence: another CPU may have opened it a moment later than we read the clock.
        let age = now.wrapping_sub(forward.opened);
        Self {
            client: at(key.src, key.src_port),
            service: at(key.dst, key.dst_port),
            backend: forward.backend,
            translated_to: rewritten.map(|rewritten| at(rewritten.dst, rewritten.dst_port)),
            nat_port: rewritten.map(|rewritten| rewritten.src_port.get()),
            state,
            age: if age > i32::MAX as u32 { 0 } else { age },
            idle: silence(forward, reply, now),
            carried: Carried { packets_in, bytes_in, packets_out, bytes_out },
        }
    }
}

#[cfg(test)]
mod tests;
