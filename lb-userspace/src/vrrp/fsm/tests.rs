use std::{net::Ipv4Addr, num::NonZeroU8};

use super::*;
use crate::vrrp::advert::{Centiseconds, Seconds};

mod doubts;
mod lingering;
mod settings;

const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 2));
const LOWER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1));
const HIGHER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 3));
/// The skew time of priority 100 at this interval is 609,375 µs.
const INTERVAL: Interval = centiseconds(100);
const DOWN: Duration = Duration::from_micros(3_609_375);

const fn centiseconds(value: u16) -> Interval {
    match Centiseconds::new(value) {
        Some(value) => Interval::V3(value),
        None => panic!("not an interval"),
    }
}

fn settings() -> Settings {
    Settings {
        priority: NonZeroU8::new(100).unwrap(),
        interval: INTERVAL,
        preempt: true,
        preempt_delay: Duration::ZERO,
        primary_address: OURS,
        arrival_credit: ArrivalCredit::Unlimited,
    }
}

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn advert(source: IpAddr, priority: u8) -> Event {
    Event::Advert { source, priority: Priority(priority), interval: INTERVAL }
}

fn failed() -> Event {
    Event::TrackingFailed("eth0 is down".to_owned())
}

/// A machine with its clock.
struct Driven {
    router: VirtualRouter,
    now: Instant,
}

impl Driven {
    fn new(settings: Settings) -> Self {
        let now = Instant::now();
        Self { router: VirtualRouter::new(settings, now), now }
    }

    /// A machine in `state`, its outbox empty.
    fn in_state(settings: Settings, state: VrrpState) -> Self {
        let mut driven = Self::new(settings);
        match state {
            VrrpState::Initialize => {}
            VrrpState::Backup => driven.feed(Event::Start),
            VrrpState::Active => {
                driven.feed(Event::Start);
                driven.until_deadline();
            }
            VrrpState::Fault => {
                driven.feed(Event::Start);
                driven.feed(failed());
            }
        }
        driven.sent();
        assert_eq!(driven.router.state(), state);
        driven
    }

    fn feed(&mut self, event: Event) {
        self.router.handle(self.now, event);
    }

    fn feed_after(&mut self, pause: Duration, event: Event) {
        self.now += pause;
        self.feed(event);
    }

    fn until_deadline(&mut self) {
        self.now = self.router.deadline().unwrap();
        self.feed(Event::Timer);
    }

    fn sent(&mut self) -> Vec<u8> {
        std::iter::from_fn(|| self.router.poll_advert()).map(|priority| priority.0).collect()
    }

    fn deadline_in(&self) -> Option<Duration> {
        self.router.deadline().map(|deadline| deadline - self.now)
    }
}

/// State, event, next state, priorities sent, time to the next deadline.
type Row = (VrrpState, Event, VrrpState, &'static [u8], Option<Duration>);

/// Every state and every event, 500 ms after the state was entered.
#[test]
fn transition_table() {
    use VrrpState::{Active, Backup, Fault, Initialize};
    let skew = Some(DOWN - ms(3000));
    let down = Some(DOWN);
    let down_rest = Some(DOWN - ms(500));
    let lowest = Some(active_down_interval(INTERVAL, Priority::LOWEST));
    let full = Some(ms(1000));
    let half = Some(ms(500));
    let linger = Some(ms(1100));
    // 56 more of 256 parts of the interval.
    let down_rest_44 = Some(DOWN - ms(500) + Duration::from_micros(218_750));
    let slow = Settings { interval: centiseconds(200), ..settings() };
    let no_gateway = || Event::Witness(Err("no gateway".to_owned()));
    let down_twice_rest = Some(2 * DOWN - ms(500));
    let arrived = || Event::Arrived { source: LOWER, at: Instant::now() };
    #[rustfmt::skip]
    let table: &[Row] = &[
        (Initialize, Event::Start,             Backup,     &[],    down),
        (Initialize, advert(LOWER, 50),        Initialize, &[],    None),
        (Initialize, Event::Timer,             Initialize, &[],    None),
        (Initialize, Event::Shutdown,          Initialize, &[],    None),
        (Initialize, failed(),                 Initialize, &[],    None),
        (Initialize, Event::TrackingRecovered, Initialize, &[],    None),
        (Initialize, Event::Release,           Initialize, &[],    None),
        (Initialize, Event::Acquire,           Initialize, &[],    None),
        (Backup,     Event::Start,             Backup,     &[],    down_rest),
        (Backup,     advert(LOWER, 0),         Backup,     &[],    skew),
        (Backup,     advert(LOWER, 50),        Backup,     &[],    down_rest),
        (Backup,     advert(LOWER, 100),       Backup,     &[],    down),
        (Backup,     advert(HIGHER, 100),      Backup,     &[],    down),
        (Backup,     advert(LOWER, 150),       Backup,     &[],    down),
        (Backup,     Event::Timer,             Backup,     &[],    down_rest),
        (Backup,     Event::Shutdown,          Initialize, &[],    None),
        (Backup,     failed(),                 Fault,      &[],    None),
        (Backup,     Event::TrackingRecovered, Backup,     &[],    down_rest),
        (Backup,     Event::Release,           Backup,     &[],    lowest),
        (Backup,     Event::Acquire,           Backup,     &[],    down_rest),
        (Active,     Event::Start,             Active,     &[],    half),
        (Active,     advert(HIGHER, 0),        Active,     &[100], full),
        (Active,     advert(HIGHER, 50),       Active,     &[100], full),
        (Active,     advert(LOWER, 100),       Active,     &[100], full),
        (Active,     advert(HIGHER, 100),      Backup,     &[100], down),
        (Active,     advert(LOWER, 150),       Backup,     &[100], down),
        (Active,     Event::Timer,             Active,     &[],    half),
        (Active,     Event::Shutdown,          Initialize, &[0],   linger),
        (Active,     failed(),                 Fault,      &[0],   None),
        (Active,     Event::TrackingRecovered, Active,     &[],    half),
        (Active,     Event::Release,           Backup,     &[0],   linger),
        (Active,     Event::Acquire,           Active,     &[],    half),
        (Fault,      Event::Start,             Fault,      &[],    None),
        (Fault,      advert(LOWER, 50),        Fault,      &[],    None),
        (Fault,      Event::Timer,             Fault,      &[],    None),
        (Fault,      Event::Shutdown,          Initialize, &[],    None),
        (Fault,      failed(),                 Fault,      &[],    None),
        (Fault,      Event::TrackingRecovered, Backup,     &[],    down),
        (Fault,      Event::Release,           Fault,      &[],    None),
        (Fault,      Event::Acquire,           Fault,      &[],    None),
        (Initialize, Event::Weighted(Priority(44)),         Initialize, &[],    None),
        (Initialize, no_gateway(),                          Initialize, &[],    None),
        (Initialize, Event::Reconfigure(slow.clone()),      Initialize, &[],    None),
        (Initialize, arrived(),                             Initialize, &[],    None),
        (Backup,     Event::Weighted(Priority(44)),         Backup,     &[],    down_rest_44),
        (Backup,     no_gateway(),                          Backup,     &[],    down_rest),
        (Backup,     Event::Reconfigure(slow.clone()),      Backup,     &[],    down_twice_rest),
        (Backup,     arrived(),                             Backup,     &[],    down_rest),
        (Active,     Event::Weighted(Priority(44)),         Active,     &[44],  full),
        (Active,     Event::Weighted(Priority(100)),        Active,     &[],    half),
        (Active,     no_gateway(),                          Active,     &[],    half),
        (Active,     Event::Reconfigure(slow.clone()),      Active,     &[100], Some(ms(2000))),
        (Active,     Event::Reconfigure(settings()),        Active,     &[],    half),
        (Active,     arrived(),                             Active,     &[],    half),
        (Fault,      Event::Weighted(Priority(44)),         Fault,      &[],    None),
        (Fault,      no_gateway(),                          Fault,      &[],    None),
        (Fault,      Event::Reconfigure(slow.clone()),      Fault,      &[],    None),
        (Fault,      arrived(),                             Fault,      &[],    None),
    ];
    for (from, event, to, sent, deadline) in table {
        let mut driven = Driven::in_state(settings(), *from);
        let transitions = driven.router.transitions();
        driven.feed_after(ms(500), event.clone());
        assert_eq!(driven.router.state(), *to, "{from} and {event:?}");
        assert_eq!(driven.sent(), *sent, "sent by {from} at {event:?}");
        assert_eq!(driven.deadline_in(), *deadline, "deadline of {from} after {event:?}");
        assert_eq!(driven.router.transitions() - transitions, u64::from(from != to), "{from} and {event:?}");
        let since = if from == to { driven.now - ms(500) } else { driven.now };
        assert_eq!(driven.router.since(), since, "{from} and {event:?}");
    }
}

/// By hand: v3 (256 - priority) / 256 of the interval; v2 (256 - priority) / 256 of a second.
#[test]
fn timers_are_those_of_the_rfcs() {
    let v2 = Interval::V2(Seconds::new(2).unwrap());
    let cases = [
        (centiseconds(100), 100, 609_375, 3_609_375),
        (centiseconds(100), 255, 3_906, 3_003_906),
        (centiseconds(20), 100, 121_875, 721_875),
        (centiseconds(20), 101, 121_093, 721_093),
        (centiseconds(1), 1, 9_960, 39_960),
        (centiseconds(4095), 1, 40_790_039, 163_640_039),
        (v2, 100, 609_375, 6_609_375),
        // The take-over seen from keepalived: 3.602 s at advert_int 1 and priority 102.
        (Interval::V2(Seconds::new(1).unwrap()), 102, 601_562, 3_601_562),
    ];
    for (interval, priority, skew, down) in cases {
        assert_eq!(skew_time(interval, Priority(priority)).as_micros(), skew, "{interval:?} {priority}");
        assert_eq!(
            active_down_interval(interval, Priority(priority)).as_micros(),
            down,
            "{interval:?} {priority}"
        );
    }
    // To the centisecond it is the RFC's integer formula.
    for interval in [1u16, 7, 20, 100, 333, 4095] {
        for priority in 1..=255u8 {
            let rfc = (256 - u32::from(priority)) * u32::from(interval) / 256;
            let ours = skew_time(centiseconds(interval), Priority(priority)).as_micros() / 10_000;
            assert_eq!(ours, u128::from(rfc), "{interval} cs, priority {priority}");
        }
    }
}

#[test]
fn listens_before_it_speaks_then_advertises_on_time() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    assert_eq!(driven.router.reason(), &Reason::Started);
    driven.feed_after(DOWN - Duration::from_micros(1), Event::Timer);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Backup, vec![]));
    driven.feed_after(Duration::from_micros(1), Event::Timer);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![100]));
    assert_eq!(driven.router.reason(), &Reason::NobodyHeard(DOWN));
    assert_eq!(driven.router.announce_generation(), 1);
    // A late wake-up does not move the ones after it.
    driven.feed_after(ms(1300), Event::Timer);
    assert_eq!((driven.sent(), driven.deadline_in()), (vec![100], Some(ms(700))));
    driven.feed_after(ms(2100), Event::Timer);
    assert_eq!(
        (driven.sent(), driven.deadline_in()),
        (vec![100], Some(ms(1000))),
        "missed ones are not made up for"
    );
}

#[test]
fn the_address_owner_is_active_at_once() {
    let owner = Settings { priority: NonZeroU8::MAX, ..settings() };
    let mut driven = Driven::new(owner);
    driven.feed(Event::Start);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![255]));
    assert_eq!(driven.router.reason(), &Reason::AddressOwner);
    driven.feed(failed());
    driven.feed(Event::TrackingRecovered);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![0, 255]));
}

#[test]
fn reasons_name_who_and_how_long() {
    let silent = {
        let mut driven = Driven::in_state(settings(), VrrpState::Backup);
        driven.feed_after(ms(100), advert(LOWER, 150));
        assert_eq!(driven.router.active_router(), Some((LOWER, Priority(150))));
        driven.until_deadline();
        driven
    };
    assert_eq!(silent.router.reason().to_string(), "active router silent for 3609 ms");
    assert_eq!(silent.router.active_router(), None);

    let mut left = Driven::in_state(settings(), VrrpState::Backup);
    left.feed(advert(LOWER, 0));
    left.until_deadline();
    assert_eq!(left.router.reason().to_string(), "priority 0 from 172.16.0.1");

    let mut preempting = Driven::in_state(settings(), VrrpState::Backup);
    for _ in 0..3 {
        preempting.feed_after(ms(1000), advert(LOWER, 50));
    }
    preempting.until_deadline();
    assert_eq!(preempting.router.reason().to_string(), "preempting lower priority 50 of 172.16.0.1");

    let mut outranked = Driven::in_state(settings(), VrrpState::Active);
    outranked.feed(advert(LOWER, 150));
    assert_eq!(outranked.router.reason().to_string(), "preempted by higher priority 150 from 172.16.0.1");

    let mut tie = Driven::in_state(settings(), VrrpState::Active);
    tie.feed(advert(HIGHER, 100));
    let text = "preempted by equal priority 100 with the higher address 172.16.0.3";
    assert_eq!(tie.router.reason().to_string(), text);
}

#[test]
fn a_backup_adopts_the_interval_of_the_active_router() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    let interval = centiseconds(20);
    driven.feed(Event::Advert { source: HIGHER, priority: Priority(150), interval });
    assert_eq!(driven.deadline_in(), Some(Duration::from_micros(721_875)));
    // The farewell, too, is waited for in its units.
    driven.feed(Event::Advert { source: HIGHER, priority: Priority(0), interval });
    assert_eq!(driven.deadline_in(), Some(Duration::from_micros(121_875)));
    driven.until_deadline();
    assert_eq!(driven.deadline_in(), Some(ms(1000)), "as Active it has its own");
}

#[test]
fn a_farewell_of_somebody_else_is_no_news_about_the_active_router() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(advert(HIGHER, 150));
    driven.feed(advert(LOWER, 0));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    assert_eq!(driven.router.active_router(), Some((HIGHER, Priority(150))));
}

#[test]
fn without_preemption_a_lower_priority_is_left_alone() {
    let mut driven = Driven::in_state(Settings { preempt: false, ..settings() }, VrrpState::Backup);
    driven.feed_after(ms(500), advert(LOWER, 1));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    driven.until_deadline();
    assert_eq!(driven.router.state(), VrrpState::Active, "silence is another matter");
    // Once Active it keeps the order of priorities.
    driven.feed(advert(LOWER, 99));
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn preempt_delay_counts_from_the_start() {
    let delayed = Settings { preempt_delay: ms(10_000), ..settings() };
    let mut driven = Driven::in_state(delayed, VrrpState::Backup);
    let start = driven.now;
    while driven.now < start + ms(10_000) {
        assert_eq!(driven.router.state(), VrrpState::Backup);
        driven.feed_after(ms(900), advert(LOWER, 50));
    }
    // The first advertisement after the delay is the first that does not restart the timer.
    let last_restart = DOWN - ms(900);
    assert_eq!(driven.deadline_in(), Some(last_restart));
    driven.until_deadline();
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn preempt_delay_counts_again_after_a_router_that_outranked_us() {
    let delayed = Settings { preempt_delay: ms(10_000), ..settings() };
    let mut driven = Driven::in_state(delayed, VrrpState::Backup);
    for _ in 0..30 {
        driven.feed_after(ms(1000), advert(HIGHER, 150));
    }
    driven.feed_after(ms(500), advert(LOWER, 50));
    assert_eq!(driven.deadline_in(), Some(DOWN), "left alone, although we started long ago");
    driven.feed_after(ms(1000), advert(LOWER, 50));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    driven.feed_after(ms(3000), advert(LOWER, 50));
    driven.feed_after(ms(3000), advert(LOWER, 50));
    driven.feed_after(ms(2999), advert(LOWER, 50));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    driven.feed_after(ms(1), advert(LOWER, 50));
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(1)), "the delay is over");
    // Silence does not wait for the delay.
    let mut silent =
        Driven::in_state(Settings { preempt_delay: ms(60_000), ..settings() }, VrrpState::Backup);
    silent.feed(advert(LOWER, 50));
    silent.until_deadline();
    assert_eq!(silent.router.state(), VrrpState::Active);
}

#[test]
fn another_active_router_is_answered_and_the_network_told_again() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    let generation = driven.router.announce_generation();
    driven.feed_after(ms(300), advert(LOWER, 99));
    assert_eq!(driven.sent(), [100]);
    assert_eq!(driven.router.announce_generation(), generation + 1);
    assert_eq!(driven.deadline_in(), Some(ms(1000)));
}

#[test]
fn two_that_both_outrank_the_other_do_not_answer_each_other_without_end() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    let generation = driven.router.announce_generation();
    driven.feed_after(ms(500), advert(LOWER, 99));
    assert_eq!(driven.sent(), [100]);
    for _ in 0..99 {
        driven.feed_after(ms(1), advert(LOWER, 99));
        assert!(driven.sent().is_empty());
    }
    assert_eq!(driven.deadline_in(), Some(ms(901)), "the timer goes on");
    driven.feed_after(ms(1), advert(LOWER, 99));
    assert_eq!(driven.sent(), [100]);
    assert_eq!(driven.router.announce_generation(), generation + 101, "the network is told each time");
    // Whoever outranks it is not overheard meanwhile.
    driven.feed(advert(LOWER, 101));
    assert_eq!(driven.router.state(), VrrpState::Backup);
}

#[test]
fn an_active_router_that_slept_too_long_steps_down_without_a_word() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    driven.feed_after(DOWN, Event::Timer);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Backup, vec![]));
    assert_eq!(driven.router.reason(), &Reason::Paused(DOWN));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    // A little less is only late.
    let mut late = Driven::in_state(settings(), VrrpState::Active);
    late.feed_after(DOWN - Duration::from_micros(1), Event::Timer);
    assert_eq!((late.router.state(), late.sent()), (VrrpState::Active, vec![100]));
    // Whatever comes first notices it: the farewell would make the Backups leave the one that took over.
    let mut leaving = Driven::in_state(settings(), VrrpState::Active);
    leaving.feed_after(ms(60_000), Event::Shutdown);
    assert_eq!((leaving.router.state(), leaving.sent()), (VrrpState::Initialize, vec![]));
    let mut answering = Driven::in_state(settings(), VrrpState::Active);
    answering.feed_after(ms(60_000), advert(LOWER, 50));
    assert_eq!((answering.router.state(), answering.sent()), (VrrpState::Backup, vec![]));
}

#[test]
fn a_backup_that_slept_listens_once_more() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(advert(HIGHER, 150));
    driven.feed_after(ms(60_000), Event::Timer);
    assert_eq!((driven.router.state(), driven.deadline_in()), (VrrpState::Backup, Some(DOWN)));
    driven.until_deadline();
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn a_released_router_yields_to_anybody_but_not_to_nobody() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    driven.feed(Event::Release);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Backup, vec![0]));
    assert!(driven.router.released());
    for _ in 0..100 {
        driven.feed_after(ms(1000), advert(LOWER, 2));
        driven.feed(Event::Timer);
        assert_eq!(driven.router.state(), VrrpState::Backup);
    }
    driven.until_deadline();
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![1]), "better than nobody");
    driven.feed(advert(LOWER, 2));
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Backup, vec![1]));
    driven.feed(Event::Acquire);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![100]));
    assert_eq!(driven.router.reason(), &Reason::Acquired);
}

#[test]
fn acquire_respects_rank_but_not_nopreempt() {
    let mut driven = Driven::in_state(Settings { preempt: false, ..settings() }, VrrpState::Backup);
    driven.feed(advert(HIGHER, 150));
    driven.feed(Event::Acquire);
    assert_eq!(driven.router.state(), VrrpState::Backup, "it would only be thrown out again");
    driven.feed(advert(HIGHER, 100));
    driven.feed(Event::Acquire);
    assert_eq!(driven.router.state(), VrrpState::Backup);
    driven.feed(advert(LOWER, 100));
    driven.feed(Event::Acquire);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![100]));
}

#[test]
fn acquire_ends_the_long_wait_of_a_released_backup() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(Event::Release);
    driven.feed(Event::Acquire);
    assert_eq!((driven.router.state(), driven.deadline_in()), (VrrpState::Backup, Some(DOWN)));
}

#[test]
fn a_fault_before_the_start_is_not_forgotten() {
    let mut driven = Driven::new(settings());
    driven.feed(failed());
    driven.feed(Event::Start);
    assert_eq!(driven.router.state(), VrrpState::Fault);
    assert_eq!(driven.router.reason().to_string(), "eth0 is down");
    driven.feed(Event::TrackingFailed("eth0 vanished".to_owned()));
    assert_eq!(driven.router.reason().to_string(), "eth0 vanished");
    driven.feed(Event::TrackingRecovered);
    assert_eq!(driven.router.reason(), &Reason::TrackingRecovered);
}
