//! The virtual router: who is Active, decided from advertisements and time.
//!
//! A sans-I/O machine. It owns no clock, no socket and no thread, and it adds or removes no address: its state is a
//! value, and addresses and announcements follow from it elsewhere.

use std::{
    collections::VecDeque,
    fmt,
    net::IpAddr,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::advert::{Interval, Priority};

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// `Skew_Time`: a Backup with a lower priority waits longer (RFC 9568 §6.1; RFC 3768 §6.1).
///
/// Version 3 takes a share of the interval, version 2 of a second. Computed in microseconds, as keepalived does: cut to
/// the RFC's centiseconds it would be the same for up to 13 neighbouring priorities at an interval of 200 ms, and
/// their Backups would all wake together.
pub fn skew_time(interval: Interval, priority: Priority) -> Duration {
    let unit = match interval {
        Interval::V2(_) => Duration::from_secs(1),
        Interval::V3(_) => interval.duration(),
    };
    // At most 40.95 s in microseconds: far from overflow.
    let micros = unit.as_micros() as u64;
    Duration::from_micros((256 - u64::from(priority.0)) * micros / 256)
}

/// `Active_Down_Interval`: so long a Backup hears nothing before it takes over, three intervals and the skew time.
pub fn active_down_interval(interval: Interval, priority: Priority) -> Duration {
    3 * interval.duration() + skew_time(interval, priority)
}

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
    /// Something tracked has failed, in words.
    TrackingFailed(String),
    /// Everything tracked is well.
    TrackingRecovered,
    /// Hand over, and do not take back before [`Acquire`](Self::Acquire) while anybody else is Active.
    Release,
    /// End a release; take over from a router that we outrank, preemption or not.
    Acquire,
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
        }
    }
}

/// Somebody else's last advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    source: IpAddr,
    priority: Priority,
    at: Instant,
}

/// A state with the timers that run only in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Initialize,
    Backup {
        /// When we take over.
        active_down_timer: Instant,
        /// Since when we listen.
        listening_since: Instant,
    },
    Active {
        /// When we advertise next.
        adver_timer: Instant,
        /// When we last did.
        advertised: Instant,
    },
    Fault,
}

/// One virtual router (RFC 9568 §6.3):
///
/// ```text
///                     +---------------+
///          +--------->|               |<-------------+
///          |          |  Initialize   |              |
///          |   +------|               |----------+   |
///          |   |      +---------------+          |   |
///          |   |                                 |   |
///          |   V                                 V   |
///  +---------------+                       +---------------+
///  |               |---------------------->|               |
///  |    Active     |                       |    Backup     |
///  |               |<----------------------|               |
///  +---------------+                       +---------------+
/// ```
///
/// and `Fault`, ours: entered from `Backup` and `Active` (which sends priority 0) when something tracked fails; left as
/// if started anew. Beyond the RFC, too: an Active router that notices that it has not run for its own
/// `Active_Down_Interval` goes to Backup without a word, since by then another has taken over; and a Backup whose timer
/// comes as late as that listens once more. An Active router that yields to a better one advertises a last time.
///
/// # Contract
/// Feed it with [`handle`](Self::handle), at the latest at [`deadline`](Self::deadline) with [`Event::Timer`]; then send
/// everything that [`poll_advert`](Self::poll_advert) gives. Hand over received advertisements before an expired timer.
/// `now` must not run backwards.
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    settings: Settings,
    phase: Phase,
    since: Instant,
    reason: Reason,
    /// `Active_Adver_Interval`: the Active router's interval, ours until one is heard.
    active_adver_interval: Interval,
    /// The last advertisement that was not of priority 0.
    heard: Option<Heard>,
    /// Who left last, until somebody is heard.
    left: Option<IpAddr>,
    /// A router with a lower priority is left alone until then. `None`: not seen one yet since the last that outranked us.
    preempt_after: Option<Instant>,
    released: bool,
    tracking: Result<(), String>,
    transitions: u64,
    announce_generation: u64,
    outbox: VecDeque<Priority>,
}

impl VirtualRouter {
    /// A router in `Initialize`.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            active_adver_interval: settings.interval,
            settings,
            phase: Phase::Initialize,
            since: now,
            reason: Reason::NotStarted,
            heard: None,
            left: None,
            preempt_after: None,
            released: false,
            tracking: Ok(()),
            transitions: 0,
            announce_generation: 0,
            outbox: VecDeque::new(),
        }
    }

    /// The state.
    pub const fn state(&self) -> VrrpState {
        match self.phase {
            Phase::Initialize => VrrpState::Initialize,
            Phase::Backup { .. } => VrrpState::Backup,
            Phase::Active { .. } => VrrpState::Active,
            Phase::Fault => VrrpState::Fault,
        }
    }

    /// When the state was entered.
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// Why it was entered.
    pub const fn reason(&self) -> &Reason {
        &self.reason
    }

    /// How often the state changed.
    pub const fn transitions(&self) -> u64 {
        self.transitions
    }

    /// Grows whenever the network should be told again where the addresses are: on becoming Active, and when another
    /// router turned out to believe it was.
    pub const fn announce_generation(&self) -> u64 {
        self.announce_generation
    }

    /// Whether a release is in force.
    pub const fn released(&self) -> bool {
        self.released
    }

    /// The Active router other than us, as last heard: its address and priority.
    pub fn active_router(&self) -> Option<(IpAddr, Priority)> {
        self.heard.map(|heard| (heard.source, heard.priority))
    }

    /// The address that we advertise from is another one now.
    pub const fn set_primary_address(&mut self, address: IpAddr) {
        self.settings.primary_address = address;
    }

    /// What we advertise: the configured priority, or the lowest while released, so that anybody may take over.
    pub fn priority(&self) -> Priority {
        if self.released { Priority::LOWEST } else { Priority(self.settings.priority.get()) }
    }

    /// When [`Event::Timer`] is due; `None` while there is nothing to wait for.
    pub const fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Initialize | Phase::Fault => None,
            Phase::Backup { active_down_timer, .. } => Some(active_down_timer),
            Phase::Active { adver_timer, .. } => Some(adver_timer),
        }
    }

    /// The priority of the next advertisement to send, oldest first.
    pub fn poll_advert(&mut self) -> Option<Priority> {
        self.outbox.pop_front()
    }

    /// Takes one event at the time `now`.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.step_down_after_a_pause(now);
        match (self.phase, event) {
            (Phase::Initialize, Event::Start) => match self.tracking.clone() {
                Ok(()) => self.join(now, Reason::Started),
                Err(what) => self.enter(now, Phase::Fault, Reason::TrackingFailed(what)),
            },
            (Phase::Backup { .. } | Phase::Active { .. } | Phase::Fault, Event::Start) => {}

            (Phase::Initialize, Event::Advert { .. }) => {}
            (Phase::Fault, Event::Advert { source, priority, .. }) => self.note(now, source, priority),
            (Phase::Backup { listening_since, .. }, Event::Advert { source, priority, interval }) => {
                let of_active = self.heard.is_none_or(|heard| heard.source == source);
                if priority == Priority::RELEASE && !of_active {
                    // The RFC does not ask whose farewell it is. One that was Active beside the Active router we
                    // hear says nothing about that one, whose next advertisement may come after our skew time.
                    return;
                }
                self.note(now, source, priority);
                let wait = if priority == Priority::RELEASE {
                    Some(skew_time(self.active_adver_interval, self.priority()))
                } else if priority >= self.priority() || self.must_not_preempt(now) {
                    self.active_adver_interval = interval;
                    Some(self.active_down_interval())
                } else {
                    // Not good enough to stop our timer.
                    None
                };
                if let Some(wait) = wait {
                    self.phase = Phase::Backup { active_down_timer: now + wait, listening_since };
                }
                if priority != Priority::RELEASE && priority >= self.priority() {
                    self.preempt_after = None;
                }
            }
            (Phase::Active { .. }, Event::Advert { source, priority, interval }) => {
                if priority > self.priority() {
                    self.yield_to(
                        now,
                        source,
                        priority,
                        interval,
                        Reason::Preempted { priority, from: source },
                    );
                } else if priority == self.priority() && source > self.settings.primary_address {
                    self.yield_to(
                        now,
                        source,
                        priority,
                        interval,
                        Reason::HigherAddress { priority, from: source },
                    );
                } else {
                    // It was Active, too: correct it, and whatever learned addresses from it (RFC 9568 §6.4.3).
                    self.advertise(now, now + self.settings.interval.duration());
                    self.announce_generation += 1;
                }
            }

            (Phase::Initialize | Phase::Fault, Event::Timer) => {}
            (Phase::Backup { active_down_timer, listening_since }, Event::Timer) => {
                if now >= active_down_timer {
                    let reason = self.takeover_reason(now, listening_since);
                    self.become_active(now, reason);
                }
            }
            (Phase::Active { adver_timer, .. }, Event::Timer) => {
                if now >= adver_timer {
                    // From the deadline, not from now: lateness does not add up.
                    let interval = self.settings.interval.duration();
                    let next = adver_timer + interval;
                    self.advertise(now, if next > now { next } else { now + interval });
                }
            }

            (Phase::Initialize, Event::Shutdown) => {}
            (Phase::Backup { .. } | Phase::Fault, Event::Shutdown) => {
                self.enter(now, Phase::Initialize, Reason::ShutDown);
            }
            (Phase::Active { .. }, Event::Shutdown) => {
                self.outbox.push_back(Priority::RELEASE);
                self.enter(now, Phase::Initialize, Reason::ShutDown);
            }

            (Phase::Initialize, Event::TrackingFailed(what)) => self.tracking = Err(what),
            (Phase::Fault, Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.reason = Reason::TrackingFailed(what);
            }
            (Phase::Backup { .. }, Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.enter(now, Phase::Fault, Reason::TrackingFailed(what));
            }
            (Phase::Active { .. }, Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.outbox.push_back(Priority::RELEASE);
                self.enter(now, Phase::Fault, Reason::TrackingFailed(what));
            }
            (Phase::Initialize | Phase::Backup { .. } | Phase::Active { .. }, Event::TrackingRecovered) => {
                self.tracking = Ok(());
            }
            (Phase::Fault, Event::TrackingRecovered) => {
                self.tracking = Ok(());
                self.join(now, Reason::TrackingRecovered);
            }

            (Phase::Initialize | Phase::Fault, Event::Release) => self.released = true,
            (Phase::Backup { listening_since, .. }, Event::Release) => {
                // Those that we outranked go first now.
                self.released = true;
                let active_down_timer = now + self.active_down_interval();
                self.phase = Phase::Backup { active_down_timer, listening_since };
            }
            (Phase::Active { .. }, Event::Release) => {
                self.released = true;
                self.outbox.push_back(Priority::RELEASE);
                self.listen(now, Reason::Released);
            }

            (Phase::Initialize | Phase::Fault, Event::Acquire) => self.released = false,
            (Phase::Backup { active_down_timer, listening_since }, Event::Acquire) => {
                self.released = false;
                if self.heard.is_some_and(|heard| self.outranks(&heard)) {
                    self.become_active(now, Reason::Acquired);
                } else {
                    // Nobody, or somebody better: listen on, but no longer than our own rank asks for.
                    let active_down_timer = active_down_timer.min(now + self.active_down_interval());
                    self.phase = Phase::Backup { active_down_timer, listening_since };
                }
            }
            (Phase::Active { .. }, Event::Acquire) => {
                let was_released = std::mem::replace(&mut self.released, false);
                if was_released {
                    self.advertise(now, now + self.settings.interval.duration());
                }
            }
        }
    }

    /// `Active_Down_Interval` with the Active router's interval and our priority.
    fn active_down_interval(&self) -> Duration {
        active_down_interval(self.active_adver_interval, self.priority())
    }

    /// After a pause that made everybody else believe that we are dead, we are.
    fn step_down_after_a_pause(&mut self, now: Instant) {
        match self.phase {
            Phase::Initialize | Phase::Fault => {}
            Phase::Active { advertised, .. } => {
                let pause = now.saturating_duration_since(advertised);
                if pause >= active_down_interval(self.settings.interval, self.priority()) {
                    self.preempt_after = Some(now + self.settings.preempt_delay);
                    self.listen(now, Reason::Paused(pause));
                }
            }
            Phase::Backup { active_down_timer, .. } => {
                // The silence was ours as much as the Active router's: it proves nothing.
                if now.saturating_duration_since(active_down_timer) >= self.active_down_interval() {
                    self.heard = None;
                    self.phase = Phase::Backup {
                        active_down_timer: now + self.active_down_interval(),
                        listening_since: now,
                    };
                }
            }
        }
    }

    /// Start, or start again after a fault.
    fn join(&mut self, now: Instant, reason: Reason) {
        if self.priority() == Priority::OWNER {
            return self.become_active(now, Reason::AddressOwner);
        }
        self.active_adver_interval = self.settings.interval;
        self.preempt_after = Some(now + self.settings.preempt_delay);
        self.heard = None;
        self.left = None;
        self.listen(now, reason);
    }

    /// To Backup, with a fresh `Active_Down_Timer`.
    fn listen(&mut self, now: Instant, reason: Reason) {
        let active_down_timer = now + self.active_down_interval();
        self.enter(now, Phase::Backup { active_down_timer, listening_since: now }, reason);
    }

    /// From Active to Backup of a better router, with a last word: it makes the better one announce again, which has
    /// not heard of us if it spoke first after a partition healed. (keepalived: `vrrp_higher_prio_send_advert`.)
    fn yield_to(
        &mut self,
        now: Instant,
        source: IpAddr,
        priority: Priority,
        interval: Interval,
        reason: Reason,
    ) {
        self.outbox.push_back(self.priority());
        self.note(now, source, priority);
        self.active_adver_interval = interval;
        self.preempt_after = None;
        self.listen(now, reason);
    }

    fn become_active(&mut self, now: Instant, reason: Reason) {
        self.active_adver_interval = self.settings.interval;
        self.heard = None;
        self.left = None;
        self.announce_generation += 1;
        let adver_timer = now + self.settings.interval.duration();
        self.enter(now, Phase::Active { adver_timer, advertised: now }, reason);
        self.outbox.push_back(self.priority());
    }

    fn advertise(&mut self, now: Instant, next: Instant) {
        self.phase = Phase::Active { adver_timer: next, advertised: now };
        self.outbox.push_back(self.priority());
    }

    fn enter(&mut self, now: Instant, phase: Phase, reason: Reason) {
        self.phase = phase;
        self.since = now;
        self.reason = reason;
        self.transitions += 1;
    }

    /// Remembers who is Active.
    fn note(&mut self, now: Instant, source: IpAddr, priority: Priority) {
        if priority == Priority::RELEASE {
            self.left = Some(source);
            self.heard = None;
        } else {
            self.left = None;
            self.heard = Some(Heard { source, priority, at: now });
        }
    }

    /// Whether a Backup lets a router of lower priority be Active.
    fn must_not_preempt(&mut self, now: Instant) -> bool {
        if !self.settings.preempt {
            return true;
        }
        let after = *self.preempt_after.get_or_insert(now + self.settings.preempt_delay);
        now < after
    }

    fn outranks(&self, other: &Heard) -> bool {
        (self.priority(), self.settings.primary_address) > (other.priority, other.source)
    }

    fn takeover_reason(&self, now: Instant, listening_since: Instant) -> Reason {
        match (self.left, self.heard) {
            (Some(from), _) => Reason::PriorityZero { from },
            (None, Some(heard)) => {
                let silence = now.saturating_duration_since(heard.at);
                // The timer of a Backup that discards a lower priority runs out while that one is still heard.
                if heard.priority < self.priority() && silence < self.active_down_interval() {
                    Reason::Preempting { priority: heard.priority, from: heard.source }
                } else {
                    Reason::ActiveSilent(silence)
                }
            }
            (None, None) => Reason::NobodyHeard(now.saturating_duration_since(listening_since)),
        }
    }
}
