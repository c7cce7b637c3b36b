//! The virtual router: who is Active, decided from advertisements and time.
//!
//! A sans-I/O machine. It owns no clock, no socket and no thread, and it adds or removes no address: its state is a
//! value, and addresses and announcements follow from it elsewhere.

use std::{
    collections::VecDeque,
    net::IpAddr,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use super::advert::{Centiseconds, Interval, Priority};

mod events;
#[cfg(test)]
mod tests;

pub use events::{ArrivalCredit, Event, Reason, Settings, VrrpState};

/// `Skew_Time`: a Backup with a lower priority waits longer (RFC 9568 §6.1; RFC 3768 §6.1).
///
/// Version 3 takes a share of the interval, version 2 of a second. Computed in microseconds, as keepalived does: cut to
/// the RFC's centiseconds it would be the same for up to 13 neighbouring priorities at an interval of 200 ms, and
/// their Backups would all wake together.
pub fn skew_time(interval: Interval, priority: Priority) -> Duration {
    // At most 40.95 s in microseconds: far from overflow.
    let micros = skew_unit(interval).as_micros() as u64;
    Duration::from_micros((256 - u64::from(priority.0)) * micros / 256)
}

/// What the skew time is a share of.
fn skew_unit(interval: Interval) -> Duration {
    match interval {
        Interval::V2(_) => Duration::from_secs(1),
        Interval::V3(_) => interval.duration(),
    }
}

/// `Active_Down_Interval`: so long a Backup hears nothing before it takes over, three intervals and the skew time.
pub fn active_down_interval(interval: Interval, priority: Priority) -> Duration {
    3 * interval.duration() + skew_time(interval, priority)
}

/// The most that tracking can make of a priority: 255 says that the addresses are the router's own.
const HIGHEST_WEIGHTED: Priority = Priority(254);

/// What an Active router that hands over waits for at most beyond the longest skew time of its successors: the way of two
/// advertisements, and a machine that is busy.
const LINGER_MARGIN: Duration = Duration::from_millis(100);

/// How long a router that handed over keeps the addresses if nobody takes them: the skew time of the lowest priority,
/// rounded up, and a margin.
pub fn longest_lingering(interval: Interval) -> Duration {
    skew_unit(interval) + LINGER_MARGIN
}

/// What an Active router that leaves to a successor announces at least: the others then wait three times that (RFC 9568
/// §6.1), and version 3 has them take it from the advertisement.
pub const PARTING_INTERVAL: Duration = Duration::from_secs(3);

/// So often it says so, since an advertisement can be lost.
const PARTING_ADVERTS: u8 = 4;

/// And that soon again.
const PARTING_PAUSE: Duration = Duration::from_millis(20);
/// How often in an interval an Active router answers those that it outranks.
const INSISTS_IN_AN_INTERVAL: u32 = 10;

/// So much earlier than the others could take over, a node whose router has left falls silent, and is not resumed any more:
/// the way of an advertisement, and a machine that is busy.
const PARTING_MARGIN: Duration = Duration::from_millis(500);

/// The interval that a router of this one announces when it leaves to a successor. Version 2 knows no other than the
/// configured one: whoever hears another discards the advertisement (RFC 3768 §7.1).
pub fn parting_interval(own: Interval) -> Interval {
    match own {
        Interval::V2(_) => own,
        Interval::V3(_) => {
            let long = Centiseconds::from_duration(PARTING_INTERVAL).map_or(own, Interval::V3);
            if long.duration() > own.duration() { long } else { own }
        }
    }
}

/// How long after a parting word nobody takes over for sure: three of its intervals, whatever the others' priorities, and
/// a margin less.
pub fn parting_respite(announced: Interval) -> Duration {
    let patience = 3 * announced.duration();
    patience.saturating_sub(PARTING_MARGIN).max(patience / 2)
}

/// Somebody else's last advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    source: IpAddr,
    priority: Priority,
    at: Instant,
}

/// Why a Backup wants to be Active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    /// Its timer has run out.
    TimerExpired,
    /// It was told to, and outranks whom it hears, or never let go of the addresses.
    Acquired,
    /// Its priority is 255.
    AddressOwner,
}

/// What a Backup keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    /// When we take over.
    active_down_timer: Instant,
    /// Since when we listen.
    listening_since: Instant,
    /// We handed over, and keep the addresses until then.
    lingering: Option<Instant>,
    /// We would take over now, and wait for the other members of the sync group.
    claim: Option<Claim>,
    /// Our timer has run out, and no witness answers.
    blocked: bool,
    /// The last arrival that did more for the timer than what came through the socket.
    credited: Option<Instant>,
}

impl Watch {
    /// Watches for `wait` from `now` on.
    fn begin(now: Instant, wait: Duration, lingering: Option<Instant>) -> Self {
        Self {
            active_down_timer: now + wait,
            listening_since: now,
            lingering,
            claim: None,
            blocked: false,
            credited: None,
        }
    }

    /// Takes over at `when`, whatever was meant to happen before.
    const fn rearm(&mut self, when: Instant) {
        self.active_down_timer = when;
        self.claim = None;
        self.blocked = false;
    }

    fn deadline(&self) -> Option<Instant> {
        let timer = self.claim.is_none().then_some(self.active_down_timer);
        [timer, self.lingering].into_iter().flatten().min()
    }
}

/// A state with the timers that run only in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Initialize {
        /// We handed over, and keep the addresses until then.
        lingering: Option<Instant>,
    },
    /// We left to a successor on this node, and keep the addresses for it.
    Left,
    Backup(Watch),
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
/// if started anew. Beyond the RFC, too:
///
/// - An Active router that notices that it has not run for its own `Active_Down_Interval` goes to Backup without a word,
///   since by then another has taken over; and a Backup whose timer comes as late as that listens once more. (keepalived
///   notices neither, and advertises on until it hears a better one.)
/// - An Active router that yields to a better one advertises a last time.
/// - One that is Active beside a worse one answers it at once, but at most ten times in an interval: where both believe
///   themselves the better one (a member of a sync group that defers, two with one address), each would answer the other as
///   fast as the network carries it.
/// - One that hands over ([`Event::Release`], [`Event::Shutdown`]) *lingers*: it sends priority 0 and is not Active any
///   more, but [`holds_addresses`](Self::holds_addresses) until another router speaks, or until nobody will
///   ([`longest_lingering`]). (keepalived removes its addresses at once: nobody has them for the successor's skew time.)
///   Who yields, has failed or was paused does not linger: another one has the addresses, or we cannot serve them.
/// - One that *leaves* to a successor on the same node ([`Event::Leave`]) sends no priority 0: it announces a longer interval,
///   four times, and is then done with the addresses still its own. The successor goes on as Active
///   ([`Event::Resume`]), and with its first advertisement the interval is the usual one again.
/// - A Backup believes arrivals that did not come through its socket ([`Event::Arrived`]), and takes over because of
///   silence only with a witness ([`Event::Witness`]).
///
/// # Contract
/// Feed it with [`handle`](Self::handle), at the latest at [`deadline`](Self::deadline) with [`Event::Timer`]; then send
/// everything that [`poll_advert`](Self::poll_advert) gives. Hand over received advertisements before an expired timer.
/// After `Shutdown` go on until there is no deadline any more. `now` must not run backwards.
#[derive(Clone, Debug)]
pub struct VirtualRouter {
    settings: Settings,
    phase: Phase,
    since: Instant,
    reason: Reason,
    /// Ours, from configuration and tracking.
    weighted: Priority,
    /// No more than that, whatever ours is: the sync group's. 255 without one.
    limit: Priority,
    /// Of a sync group: does not become Active by itself, see [`claims`](Self::claims).
    grouped: bool,
    /// `Active_Adver_Interval`: the Active router's interval, ours until one is heard.
    active_adver_interval: Interval,
    /// The last advertisement that was not of priority 0.
    heard: Option<Heard>,
    /// Who left last, until somebody is heard.
    left: Option<(IpAddr, Instant)>,
    /// A router with a lower priority is left alone until then. `None`: not seen one yet since the last that outranked us.
    preempt_after: Option<Instant>,
    released: bool,
    /// What it announces instead of its own interval, while Active and about to leave.
    parting: Option<Interval>,
    /// How often what it says now is still repeated at once, since its neighbours depend on it.
    repeats: u8,
    tracking: Result<(), String>,
    witness: Result<(), String>,
    transitions: u64,
    announce_generation: u64,
    outbox: VecDeque<Priority>,
}

impl VirtualRouter {
    /// A router in `Initialize`.
    pub fn new(settings: Settings, now: Instant) -> Self {
        Self {
            active_adver_interval: settings.interval,
            weighted: Priority(settings.priority.get()),
            limit: Priority::OWNER,
            grouped: false,
            settings,
            phase: Phase::Initialize { lingering: None },
            since: now,
            reason: Reason::NotStarted,
            heard: None,
            left: None,
            preempt_after: None,
            released: false,
            parting: None,
            repeats: 0,
            tracking: Ok(()),
            witness: Ok(()),
            transitions: 0,
            announce_generation: 0,
            outbox: VecDeque::new(),
        }
    }

    /// The state.
    pub const fn state(&self) -> VrrpState {
        match self.phase {
            Phase::Initialize { .. } | Phase::Left => VrrpState::Initialize,
            Phase::Backup(_) => VrrpState::Backup,
            Phase::Active { .. } => VrrpState::Active,
            Phase::Fault => VrrpState::Fault,
        }
    }

    /// Whether the virtual addresses are ours to answer for: Active, or handing over and nobody has taken them yet, or left
    /// to a successor.
    pub const fn holds_addresses(&self) -> bool {
        match self.phase {
            Phase::Active { .. } | Phase::Left => true,
            Phase::Initialize { lingering } | Phase::Backup(Watch { lingering, .. }) => lingering.is_some(),
            Phase::Fault => false,
        }
    }

    /// Whether it is Active and about to leave to a successor on this node.
    pub const fn is_parting(&self) -> bool {
        self.parting.is_some()
    }

    /// Whether it has left, and the addresses wait for its successor.
    pub const fn has_left(&self) -> bool {
        matches!(self.phase, Phase::Left)
    }

    /// The interval that our advertisements announce.
    pub fn announced_interval(&self) -> Interval {
        self.parting.unwrap_or(self.settings.interval)
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

    /// Why a Backup whose timer has run out does not take over: the witness's words.
    pub fn blocked(&self) -> Option<&str> {
        match self.phase {
            Phase::Backup(watch) if watch.blocked => self.witness.as_ref().err().map(String::as_str),
            Phase::Initialize { .. }
            | Phase::Left
            | Phase::Backup(_)
            | Phase::Active { .. }
            | Phase::Fault => None,
        }
    }

    /// For how long the Active router's advertisements have reached this node, but not our socket: a Backup that only
    /// [`Event::Arrived`] keeps quiet, for a down interval or longer. Something (a firewall) drops them on their way.
    pub fn deaf(&self) -> Option<Duration> {
        match (self.phase, self.heard) {
            (Phase::Backup(Watch { credited: Some(at), .. }), Some(heard)) => {
                let deaf = at.saturating_duration_since(heard.at);
                (deaf >= self.active_down_interval()).then_some(deaf)
            }
            _ => None,
        }
    }

    /// What we advertise: the configured priority as tracking changed it, or the lowest while released, so that anybody
    /// may take over.
    pub fn priority(&self) -> Priority {
        if self.released { Priority::LOWEST } else { self.weighted.min(self.limit) }
    }

    /// When [`Event::Timer`] is due; `None` while there is nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Initialize { lingering } => lingering,
            Phase::Left | Phase::Fault => None,
            Phase::Backup(watch) => watch.deadline(),
            Phase::Active { adver_timer, .. } => Some(adver_timer),
        }
    }

    /// The priority of the next advertisement to send, oldest first.
    pub fn poll_advert(&mut self) -> Option<Priority> {
        self.outbox.pop_front()
    }

    /// Takes one event at the time `now`.
    pub fn handle(&mut self, now: Instant, event: Event) {
        self.notice_time(now);
        match (self.phase, event) {
            // Its process is about to end.
            (Phase::Left, _) => {}

            (Phase::Initialize { lingering: None }, Event::Resume { until, priority })
                if self.tracking.is_ok() && now < until =>
            {
                if self.settings.priority != NonZeroU8::MAX {
                    self.weighted = priority.clamp(Priority::LOWEST, HIGHEST_WEIGHTED);
                }
                self.become_active(now, Reason::Resumed);
                self.insistently(now);
            }
            (Phase::Initialize { .. }, Event::Resume { .. }) => self.handle(now, Event::Start),
            (Phase::Backup(_) | Phase::Active { .. } | Phase::Fault, Event::Resume { .. }) => {}

            (Phase::Active { .. }, Event::Leave(interval)) => {
                if self.parting.is_none() {
                    self.parting = Some(interval);
                    self.insistently(now);
                }
            }
            (Phase::Initialize { .. } | Phase::Backup(_) | Phase::Fault, Event::Leave(_)) => {
                self.handle(now, Event::Shutdown);
            }

            (Phase::Initialize { lingering }, Event::Start) => match self.tracking.clone() {
                Ok(()) => self.join(now, lingering, Reason::Started),
                Err(what) => self.enter(now, Phase::Fault, Reason::TrackingFailed(what)),
            },
            (Phase::Backup(_) | Phase::Active { .. } | Phase::Fault, Event::Start) => {}

            (Phase::Initialize { .. }, Event::Advert { priority, .. }) => {
                if priority != Priority::RELEASE {
                    self.phase = Phase::Initialize { lingering: None };
                }
            }
            (Phase::Fault, Event::Advert { source, priority, .. }) => self.note(now, source, priority),
            (Phase::Backup(watch), Event::Advert { source, priority, interval }) => {
                self.watch(now, watch, source, priority, interval);
            }
            (Phase::Active { .. }, Event::Advert { source, priority, interval }) => {
                if priority > self.priority() {
                    let reason = Reason::Preempted { priority, from: source };
                    self.yield_to(now, source, priority, interval, reason);
                } else if priority == self.priority() && source > self.settings.primary_address {
                    let reason = Reason::HigherAddress { priority, from: source };
                    self.yield_to(now, source, priority, interval, reason);
                } else {
                    self.insist(now);
                }
            }

            (Phase::Initialize { .. } | Phase::Fault, Event::Timer) => {}
            (Phase::Backup(watch), Event::Timer) => {
                if watch.claim.is_none() && now >= watch.active_down_timer {
                    self.claim(now, Claim::TimerExpired);
                }
            }
            (Phase::Active { adver_timer, .. }, Event::Timer) => {
                if now < adver_timer {
                } else if let Some(repeats) = self.repeats.checked_sub(1) {
                    self.repeats = repeats;
                    self.advertise(now, now + self.settings.interval.duration());
                } else if self.is_parting() {
                    self.enter(now, Phase::Left, Reason::Left);
                } else {
                    // From the deadline, not from now: lateness does not add up.
                    let interval = self.settings.interval.duration();
                    let next = adver_timer + interval;
                    self.advertise(now, if next > now { next } else { now + interval });
                }
            }

            (Phase::Initialize { .. }, Event::Shutdown) => {}
            (Phase::Backup(Watch { lingering, .. }), Event::Shutdown) => {
                self.enter(now, Phase::Initialize { lingering }, Reason::ShutDown);
            }
            (Phase::Fault, Event::Shutdown) => {
                self.enter(now, Phase::Initialize { lingering: None }, Reason::ShutDown);
            }
            (Phase::Active { .. }, Event::Shutdown) => {
                self.outbox.push_back(Priority::RELEASE);
                let lingering = Some(now + longest_lingering(self.settings.interval));
                self.enter(now, Phase::Initialize { lingering }, Reason::ShutDown);
            }

            (Phase::Initialize { .. }, Event::TrackingFailed(what)) => {
                self.tracking = Err(what);
                self.phase = Phase::Initialize { lingering: None };
            }
            (Phase::Fault, Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.reason = Reason::TrackingFailed(what);
            }
            (Phase::Backup(_), Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.enter(now, Phase::Fault, Reason::TrackingFailed(what));
            }
            (Phase::Active { .. }, Event::TrackingFailed(what)) => {
                self.tracking = Err(what.clone());
                self.outbox.push_back(Priority::RELEASE);
                self.enter(now, Phase::Fault, Reason::TrackingFailed(what));
            }
            (
                Phase::Initialize { .. } | Phase::Backup(_) | Phase::Active { .. },
                Event::TrackingRecovered,
            ) => {
                self.tracking = Ok(());
            }
            (Phase::Fault, Event::TrackingRecovered) => {
                self.tracking = Ok(());
                self.join(now, None, Reason::TrackingRecovered);
            }

            (Phase::Initialize { .. } | Phase::Fault, Event::Release) => self.released = true,
            (Phase::Backup(mut watch), Event::Release) => {
                // Those that we outranked go first now; but only the first time puts us off.
                if !std::mem::replace(&mut self.released, true) {
                    watch.rearm(now + self.active_down_interval());
                    self.phase = Phase::Backup(watch);
                }
            }
            (Phase::Active { .. }, Event::Release) => {
                self.released = true;
                self.outbox.push_back(Priority::RELEASE);
                let lingering = Some(now + longest_lingering(self.settings.interval));
                self.listen(now, lingering, Reason::Released);
            }

            (Phase::Initialize { .. } | Phase::Fault, Event::Acquire) => self.released = false,
            (Phase::Backup(mut watch), Event::Acquire) => {
                self.released = false;
                if watch.lingering.is_some() || self.hears(now).is_some_and(|heard| self.outranks(&heard)) {
                    self.claim(now, Claim::Acquired);
                } else if watch.claim.is_none() {
                    // Nobody, or somebody better: listen on, but no longer than our own rank asks for.
                    let own = now + self.active_down_interval();
                    watch.active_down_timer = watch.active_down_timer.min(own);
                    self.phase = Phase::Backup(watch);
                }
            }
            (Phase::Active { .. }, Event::Acquire) => {
                let was_released = std::mem::replace(&mut self.released, false);
                if was_released {
                    self.advertise(now, now + self.settings.interval.duration());
                }
            }

            (Phase::Initialize { .. } | Phase::Active { .. } | Phase::Fault, Event::Arrived { .. }) => {}
            (Phase::Backup(watch), Event::Arrived { source, at }) => {
                self.credit(now, watch, source, at.min(now));
            }

            (
                Phase::Initialize { .. } | Phase::Backup(_) | Phase::Active { .. } | Phase::Fault,
                Event::Weighted(priority),
            ) => {
                let (standing, before) = (self.standing(), self.priority());
                if self.settings.priority != NonZeroU8::MAX {
                    self.weighted = priority.clamp(Priority::LOWEST, HIGHEST_WEIGHTED);
                }
                self.adjust(now, standing, self.priority() != before);
            }
            (
                Phase::Initialize { .. } | Phase::Backup(_) | Phase::Active { .. } | Phase::Fault,
                Event::Reconfigure(settings),
            ) => {
                let (standing, before) = (self.standing(), self.settings.clone());
                if settings.priority != before.priority {
                    self.weighted = Priority(settings.priority.get());
                }
                self.settings = settings;
                if self.heard.is_none() {
                    self.active_adver_interval = self.settings.interval;
                }
                self.adjust(now, standing, self.settings != before);
            }
            (Phase::Backup(mut watch), Event::Witness(witness)) => {
                self.witness = witness;
                if watch.blocked && self.witness.is_ok() {
                    // Until now we were cut off perhaps: whoever is alive is heard within an interval.
                    let interval = self.active_adver_interval;
                    watch.rearm(now + interval.duration() + skew_time(interval, self.priority()));
                    self.phase = Phase::Backup(watch);
                }
            }
            (Phase::Initialize { .. } | Phase::Active { .. } | Phase::Fault, Event::Witness(witness)) => {
                self.witness = witness;
            }
        }
    }

    /// Makes it a member of a sync group: it becomes Active only by [`take_over`](Self::take_over).
    pub(super) const fn join_group(&mut self) {
        self.grouped = true;
    }

    /// Our own priority, whatever the sync group's is, and whether released or not: a release is for all members.
    pub(super) const fn own_priority(&self) -> Priority {
        self.weighted
    }

    /// Whether we are Active and an advertisement with our priority would win by its sender's address.
    pub(super) fn loses_tie(&self, source: IpAddr, priority: Priority) -> bool {
        matches!(self.phase, Phase::Active { .. })
            && priority == self.priority()
            && source > self.settings.primary_address
    }

    /// Our `Active_Down_Interval` while we are Active: so long we are not given up, and give up nobody.
    pub(super) fn patience(&self) -> Duration {
        active_down_interval(self.settings.interval, self.priority())
    }

    /// The sync group's priority: ours counts for no more than that.
    pub(super) fn set_limit(&mut self, now: Instant, limit: Priority) {
        if limit == self.limit {
            return;
        }
        let (standing, before) = (self.standing(), self.priority());
        self.limit = limit;
        self.adjust(now, standing, self.priority() != before);
    }

    /// Whether a Backup would be Active if it were alone, and why. One that only silence moves asks its witness now, and
    /// if none answers it gives up for an interval.
    pub(super) fn claims(&mut self, now: Instant) -> Option<Reason> {
        let Phase::Backup(mut watch) = self.phase else { return None };
        let reason = match watch.claim? {
            Claim::TimerExpired => self.takeover_reason(now, watch.listening_since),
            Claim::Acquired => Reason::Acquired,
            Claim::AddressOwner => Reason::AddressOwner,
        };
        if matches!(reason, Reason::ActiveSilent(_) | Reason::NobodyHeard(_)) && self.witness.is_err() {
            watch.rearm(now + self.active_adver_interval.duration());
            watch.blocked = true;
            self.phase = Phase::Backup(watch);
            return None;
        }
        Some(reason)
    }

    /// A claim by command is good for the moment only: by the next one somebody may have spoken.
    pub(super) fn forget_command(&mut self) {
        if let Phase::Backup(watch) = &mut self.phase
            && watch.claim == Some(Claim::Acquired)
        {
            watch.claim = None;
        }
    }

    /// From Backup to Active, with the rest of the sync group.
    pub(super) fn take_over(&mut self, now: Instant, reason: Reason) {
        if matches!(self.phase, Phase::Backup(_)) {
            self.become_active(now, reason);
        }
    }

    /// From Active to Backup because another member of the sync group has lost an election or has slept. After an
    /// election there is a better router, which is told like in [`yield_to`](Self::yield_to).
    pub(super) fn follow(&mut self, now: Instant, partner: &str, reason: &Reason) {
        if matches!(self.phase, Phase::Active { .. }) {
            if !matches!(reason, Reason::Paused(_)) {
                self.outbox.push_back(self.priority());
            }
            self.preempt_after = Some(now + self.settings.preempt_delay);
            let reason = Box::new(reason.clone());
            self.listen(now, None, Reason::Partner { name: partner.to_owned(), reason });
        }
    }

    /// Notices what time alone has changed, first of all. A sync group does that for all members before any of them
    /// takes an event.
    pub(super) fn notice_time(&mut self, now: Instant) {
        match self.phase {
            Phase::Left | Phase::Fault => {}
            Phase::Initialize { lingering } => {
                let lingering = lingering.filter(|until| *until > now);
                self.phase = Phase::Initialize { lingering };
            }
            // After a pause that made everybody else believe that we are dead, we are.
            Phase::Active { advertised, .. } => {
                let pause = now.saturating_duration_since(advertised);
                if pause >= self.patience() {
                    self.preempt_after = Some(now + self.settings.preempt_delay);
                    self.listen(now, None, Reason::Paused(pause));
                }
            }
            Phase::Backup(mut watch) => {
                watch.lingering = watch.lingering.filter(|until| *until > now);
                let lateness = now.saturating_duration_since(watch.active_down_timer);
                if watch.claim.is_none() && lateness >= self.active_down_interval() {
                    // The silence was ours as much as the Active router's: it proves nothing.
                    self.left = None;
                    watch = Watch::begin(now, self.active_down_interval(), watch.lingering);
                }
                self.phase = Phase::Backup(watch);
            }
        }
    }

    /// An Active router that hears another one, which does not outrank it: corrects it, and whatever learned addresses
    /// from it (RFC 9568 §6.4.3).
    pub(super) fn insist(&mut self, now: Instant) {
        let Phase::Active { advertised, .. } = self.phase else { return };
        self.announce_generation += 1;
        let interval = self.settings.interval.duration();
        // Otherwise what it has just been told is on its way.
        if now.saturating_duration_since(advertised) >= interval / INSISTS_IN_AN_INTERVAL {
            self.advertise(now, now + interval);
        }
    }

    /// A Backup hears an advertisement.
    fn watch(
        &mut self,
        now: Instant,
        mut watch: Watch,
        source: IpAddr,
        priority: Priority,
        interval: Interval,
    ) {
        let of_active = self.hears(now).is_none_or(|heard| heard.source == source);
        if priority == Priority::RELEASE && !of_active {
            // The RFC does not ask whose farewell it is. One that was Active beside the Active router we hear says
            // nothing about that one, whose next advertisement may come after our skew time.
            return;
        }
        self.note(now, source, priority);
        if priority == Priority::RELEASE {
            watch.rearm(now + skew_time(self.active_adver_interval, self.priority()));
        } else {
            // Somebody is Active: whoever handed over is relieved.
            watch.lingering = None;
            watch.credited = None;
            if priority >= self.priority() || self.must_not_preempt(now) {
                self.active_adver_interval = interval;
                watch.rearm(now + self.active_down_interval());
            }
            if priority >= self.priority() {
                self.preempt_after = None;
            }
        }
        self.phase = Phase::Backup(watch);
    }

    /// A Backup learns of an arrival, not in the future, that it did not hear perhaps.
    fn credit(&mut self, now: Instant, mut watch: Watch, source: IpAddr, at: Instant) {
        let Some(heard) = self.heard.filter(|heard| heard.source == source && heard.at < at) else { return };
        if heard.priority < self.priority() && !self.must_not_preempt(now) {
            return;
        }
        let wait = self.active_down_interval();
        let until = match self.settings.arrival_credit {
            ArrivalCredit::Unlimited => at + wait,
            ArrivalCredit::OneInterval => (at + wait).min(heard.at + 2 * wait),
        };
        if until > watch.active_down_timer {
            watch.rearm(until);
            watch.credited = Some(at);
            self.phase = Phase::Backup(watch);
        }
    }

    /// A Backup would be Active now; alone, it is.
    fn claim(&mut self, now: Instant, claim: Claim) {
        if let Phase::Backup(watch) = &mut self.phase {
            watch.claim = Some(claim);
        }
        if !self.grouped
            && let Some(reason) = self.claims(now)
        {
            self.become_active(now, reason);
        }
    }

    /// How long a Backup waits that has just heard what it heard last.
    fn standing(&self) -> Duration {
        match self.left {
            Some(_) => skew_time(self.active_adver_interval, self.priority()),
            None => self.active_down_interval(),
        }
    }

    /// After the settings or the priority have changed: `before` is what [`standing`](Self::standing) was.
    fn adjust(&mut self, now: Instant, before: Duration, changed: bool) {
        match self.phase {
            Phase::Initialize { .. } | Phase::Left | Phase::Fault => {}
            Phase::Active { .. } if changed => {
                // The others should know at once, and wait as long as it takes from now on.
                self.active_adver_interval = self.settings.interval;
                self.advertise(now, now + self.settings.interval.duration());
            }
            Phase::Active { .. } => {}
            Phase::Backup(_) if self.priority() == Priority::OWNER => self.claim(now, Claim::AddressOwner),
            Phase::Backup(mut watch) => {
                let shifted = (watch.active_down_timer + self.standing()).checked_sub(before);
                watch.active_down_timer = shifted.unwrap_or(now);
                // Whom we were about to throw out may outrank us now.
                if let Some(heard) = self.hears(now)
                    && (heard.priority >= self.priority() || self.must_not_preempt(now))
                {
                    let again = heard.at + self.active_down_interval();
                    watch.active_down_timer = watch.active_down_timer.max(again);
                }
                if watch.active_down_timer > now || watch.claim == Some(Claim::AddressOwner) {
                    watch.claim = None;
                }
                self.phase = Phase::Backup(watch);
            }
        }
    }

    /// `Active_Down_Interval` with the Active router's interval and our priority.
    fn active_down_interval(&self) -> Duration {
        active_down_interval(self.active_adver_interval, self.priority())
    }

    /// Start, or start again after a fault.
    fn join(&mut self, now: Instant, lingering: Option<Instant>, reason: Reason) {
        if self.priority() == Priority::OWNER && !self.grouped {
            return self.become_active(now, Reason::AddressOwner);
        }
        self.active_adver_interval = self.settings.interval;
        self.preempt_after = Some(now + self.settings.preempt_delay);
        self.heard = None;
        self.left = None;
        self.listen(now, lingering, reason);
        if self.priority() == Priority::OWNER {
            self.claim(now, Claim::AddressOwner);
        }
    }

    /// To Backup, with a fresh `Active_Down_Timer`.
    fn listen(&mut self, now: Instant, lingering: Option<Instant>, reason: Reason) {
        let watch = Watch::begin(now, self.active_down_interval(), lingering);
        self.enter(now, Phase::Backup(watch), reason);
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
        self.listen(now, None, reason);
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
        let soon = self.is_parting() || self.repeats > 0;
        let next = if soon { next.min(now + PARTING_PAUSE) } else { next };
        self.phase = Phase::Active { adver_timer: next, advertised: now };
        // One that has not been sent yet would say what is not true any more.
        if self.outbox.back().is_some_and(|priority| *priority != Priority::RELEASE) {
            self.outbox.pop_back();
        }
        self.outbox.push_back(self.priority());
    }

    /// Advertises several times in a row: one could be lost, and the others would wait for too short or in vain.
    fn insistently(&mut self, now: Instant) {
        self.repeats = PARTING_ADVERTS - 1;
        self.advertise(now, now + PARTING_PAUSE);
    }

    fn enter(&mut self, now: Instant, phase: Phase, reason: Reason) {
        (self.parting, self.repeats) = (None, 0);
        self.phase = phase;
        self.since = now;
        self.reason = reason;
        self.transitions += 1;
    }

    /// Remembers who is Active.
    fn note(&mut self, now: Instant, source: IpAddr, priority: Priority) {
        if priority == Priority::RELEASE {
            self.left = Some((source, now));
            self.heard = None;
        } else {
            self.left = None;
            self.heard = Some(Heard { source, priority, at: now });
        }
    }

    /// Whom we heard so lately that it counts as alive.
    fn hears(&self, now: Instant) -> Option<Heard> {
        let credited = match self.phase {
            Phase::Backup(watch) => watch.credited,
            Phase::Initialize { .. } | Phase::Left | Phase::Active { .. } | Phase::Fault => None,
        };
        self.heard.filter(|heard| {
            let last = credited.map_or(heard.at, |at| at.max(heard.at));
            now.saturating_duration_since(last) < self.active_down_interval()
        })
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
        if let Some((from, at)) = self.left
            && now.saturating_duration_since(at) < self.active_down_interval()
        {
            return Reason::PriorityZero { from };
        }
        match self.heard {
            Some(heard) => {
                // The timer of a Backup that discards a lower priority runs out while that one is still heard.
                if heard.priority < self.priority() && self.hears(now).is_some() {
                    return Reason::Preempting { priority: heard.priority, from: heard.source };
                }
                Reason::ActiveSilent(now.saturating_duration_since(heard.at.max(listening_since)))
            }
            None => Reason::NobodyHeard(now.saturating_duration_since(listening_since)),
        }
    }
}
