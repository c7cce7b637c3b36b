//! What goes into a virtual router, and what it says about itself.

use std::{
    fmt,
    net::IpAddr,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::vrrp::advert::{Interval, Priority};

/// What is configured about a virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// 1 to 255; 255 is the address owner, which never waits.
    pub priority: NonZeroU8,
    /// Between our advertisements.
    pub interval: Interval,
    /// Whether we take over from a working router with a lower priority.
    pub preempt: bool,
    /// keepalived's meaning: after a start, or after a router that outranked us has gone, so long a router with a lower
    /// priority is left alone. Silence still makes us take over at once.
    pub preempt_delay: Duration,
    /// Source of our advertisements: of two equal priorities the higher address is Active.
    pub primary_address: IpAddr,
    /// How far [`Event::Arrived`] is trusted.
    pub arrival_credit: ArrivalCredit,
}

/// How long advertisements that the network card saw, but that did not come through our socket, keep a Backup quiet.
///
/// keepalived has no such clock: a Backup of it that was starved takes over from a living router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArrivalCredit {
    /// As long as they go on.
    Unlimited,
    /// One `Active_Down_Interval` more than without them: for authenticated instances, since whoever stamps arrivals
    /// cannot verify a signature, and a forger must not keep us quiet for ever.
    OneInterval,
}

/// Where a virtual router is (RFC 9568 §6.4, and one of ours).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VrrpState {
    /// Not started, or shut down.
    Initialize,
    /// Watches the Active router.
    Backup,
    /// Owns the virtual addresses (RFC 3768: Master).
    Active,
    /// Something that it tracks has failed: takes no part until that is well again.
    Fault,
}

impl fmt::Display for VrrpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Initialize => "initialize",
            Self::Backup => "backup",
            Self::Active => "active",
            Self::Fault => "fault",
        })
    }
}

/// What can happen to a virtual router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Take part from now on.
    Start,
    /// A checked advertisement of somebody else.
    Advert {
        /// Its sender's primary address.
        source: IpAddr,
        /// Its sender's priority; 0 when it leaves.
        priority: Priority,
        /// Its sender's interval.
        interval: Interval,
    },
    /// The deadline has passed. Early or repeated calls do nothing.
    Timer,
    /// Leave for good: hand over if Active.
    Shutdown,
    /// Leave to a successor on this same node: if Active, announce this interval instead of our own, so that the others wait
    /// for it, and keep the addresses. Whoever is not Active shuts down.
    Leave(Interval),
    /// Take part from now on, as the successor of one that left Active: Active at once, but not at `until` or later, when
    /// the others may have taken over; then it is a [`Start`](Self::Start).
    Resume {
        /// When the predecessor's word ends.
        until: Instant,
        /// What its priority was, with all that it tracked.
        priority: Priority,
    },
    /// Something tracked has failed, in words.
    TrackingFailed(String),
    /// Everything tracked is well.
    TrackingRecovered,
    /// Hand over, and do not take back before [`Acquire`](Self::Acquire) while anybody else is Active. The addresses are
    /// kept until the successor speaks.
    Release,
    /// End a release; take over from a router that we outrank, preemption or not. At once if nobody has spoken since we
    /// released.
    Acquire,
    /// An advertisement of `source` with a priority above 0 reached this node at `at`, whether or not it came through the
    /// socket. Only of interest when [`Timer`](Self::Timer) is due, just before it.
    Arrived {
        /// Its sender's primary address.
        source: IpAddr,
        /// When it was seen; later than now counts as now.
        at: Instant,
    },
    /// The priority from configuration and tracking is this one now, 1 to 254. The address owner (255) stays that.
    Weighted(Priority),
    /// Whether somebody outside answers (a gateway, say); `Err` says who does not. It is needed for taking over because
    /// of silence, which a node that is cut off hears as well as one whose peer is dead. `Ok` until told otherwise.
    ///
    /// keepalived has no such thing; its `track_script` can only say Fault, for the Active router, too.
    Witness(Result<(), String>),
    /// The settings are these now; the state stays. The priority of the last [`Weighted`](Self::Weighted) stays, too,
    /// unless the configured one is another.
    Reconfigure(Settings),
}

/// Why a virtual router is in its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// New.
    NotStarted,
    /// Started: listens before it speaks.
    Started,
    /// Priority 255 does not wait.
    AddressOwner,
    /// The Active router's advertisements stopped.
    ActiveSilent(Duration),
    /// Nobody was heard since we began to listen.
    NobodyHeard(Duration),
    /// The Active router left.
    PriorityZero {
        /// Its address.
        from: IpAddr,
    },
    /// We outrank the Active router and took over.
    Preempting {
        /// Its priority.
        priority: Priority,
        /// Its address.
        from: IpAddr,
    },
    /// Another Active router outranks us.
    Preempted {
        /// Its priority.
        priority: Priority,
        /// Its address.
        from: IpAddr,
    },
    /// Another Active router has our priority and a higher address.
    HigherAddress {
        /// Our common priority.
        priority: Priority,
        /// Its address.
        from: IpAddr,
    },
    /// This process did not run for longer than the others wait.
    Paused(Duration),
    /// Something tracked failed.
    TrackingFailed(String),
    /// What had failed is well again.
    TrackingRecovered,
    /// Handed over on command.
    Released,
    /// Took over on command.
    Acquired,
    /// Shut down.
    ShutDown,
    /// Left to a successor on this node.
    Left,
    /// Goes on where a predecessor on this node left.
    Resumed,
    /// Another member of the sync group left, and this one with it.
    Partner {
        /// Name of that instance.
        name: String,
        /// Why it did.
        reason: Box<Reason>,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted => f.write_str("not started"),
            Self::Started => f.write_str("started: listening first"),
            Self::AddressOwner => f.write_str("address owner (priority 255)"),
            Self::ActiveSilent(silence) => write!(f, "active router silent for {} ms", silence.as_millis()),
            Self::NobodyHeard(silence) => write!(f, "no active router heard for {} ms", silence.as_millis()),
            Self::PriorityZero { from } => write!(f, "priority 0 from {from}"),
            Self::Preempting { priority, from } => {
                write!(f, "preempting lower priority {priority} of {from}")
            }
            Self::Preempted { priority, from } => {
                write!(f, "preempted by higher priority {priority} from {from}")
            }
            Self::HigherAddress { priority, from } => {
                write!(f, "preempted by equal priority {priority} with the higher address {from}")
            }
            Self::Paused(pause) => write!(f, "this process did not run for {} ms", pause.as_millis()),
            Self::TrackingFailed(what) => f.write_str(what),
            Self::TrackingRecovered => f.write_str("tracking recovered: listening first"),
            Self::Released => f.write_str("released on command"),
            Self::Acquired => f.write_str("acquired on command"),
            Self::ShutDown => f.write_str("shut down"),
            Self::Left => f.write_str("left to a successor on this node"),
            Self::Resumed => f.write_str("resumed after a planned restart"),
            Self::Partner { name, reason } => write!(f, "sync group: instance {name}: {reason}"),
        }
    }
}
