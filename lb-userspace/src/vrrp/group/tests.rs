use std::{
    net::Ipv4Addr,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use super::*;
use crate::vrrp::{
    advert::{Centiseconds, Interval},
    fsm::{ArrivalCredit, Settings},
};

/// The skew time of priority 100 at an interval of 1 s is 609,375 µs.
const DOWN: Duration = Duration::from_micros(3_609_375);
const SKEW: Duration = Duration::from_micros(609_375);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn address(link: usize, host: u8) -> IpAddr {
    Ipv4Addr::new(172, 16, link as u8, host).into()
}

fn settings(link: usize, priority: u8) -> Settings {
    Settings {
        priority: NonZeroU8::new(priority).unwrap(),
        interval: Interval::V3(Centiseconds::new(100).unwrap()),
        preempt: true,
        preempt_delay: Duration::ZERO,
        primary_address: address(link, 10),
        arrival_credit: ArrivalCredit::Unlimited,
    }
}

/// An advertisement on `link` of the node with the address `host` there.
fn advert(link: usize, host: u8, priority: u8) -> Event {
    let interval = Interval::V3(Centiseconds::new(100).unwrap());
    Event::Advert { source: address(link, host), priority: Priority(priority), interval }
}

fn failed() -> Event {
    Event::TrackingFailed("eth1 is down".to_owned())
}

/// A group with its clock.
struct Driven {
    group: SyncGroup,
    now: Instant,
}

impl Driven {
    fn new(priorities: &[u8]) -> Self {
        let now = Instant::now();
        let router = |(link, priority): (usize, &u8)| {
            (format!("link{link}"), VirtualRouter::new(settings(link, *priority), now))
        };
        Self { group: SyncGroup::new(priorities.iter().enumerate().map(router)), now }
    }

    fn backup(priorities: &[u8]) -> Self {
        let mut driven = Self::new(priorities);
        driven.feed(0, Event::Start);
        driven
    }

    fn active(priorities: &[u8]) -> Self {
        let mut driven = Self::backup(priorities);
        driven.until_deadline();
        driven.sent();
        driven.assert_all(VrrpState::Active);
        driven
    }

    fn feed(&mut self, member: usize, event: Event) {
        self.group.handle(self.now, member, event);
    }

    fn feed_after(&mut self, pause: Duration, member: usize, event: Event) {
        self.now += pause;
        self.feed(member, event);
    }

    fn until_deadline(&mut self) {
        self.now = self.group.deadline().unwrap();
        self.feed(0, Event::Timer);
    }

    fn deadline_in(&self) -> Option<Duration> {
        self.group.deadline().map(|deadline| deadline - self.now)
    }

    fn sent(&mut self) -> Vec<(usize, u8)> {
        std::iter::from_fn(|| self.group.poll_advert())
            .map(|(member, priority)| (member, priority.0))
            .collect()
    }

    #[track_caller]
    fn assert_all(&self, state: VrrpState) {
        let states: Vec<_> = self.group.members().iter().map(VirtualRouter::state).collect();
        assert!(states.iter().all(|member| *member == state), "{states:?}");
    }

    fn reason(&self, member: usize) -> String {
        self.group.members()[member].reason().to_string()
    }
}

/// A group of one, and the machine alone, through the same events.
#[test]
fn one_member_is_the_machine_alone() {
    let now = Instant::now();
    let mut alone = VirtualRouter::new(settings(0, 100), now);
    let mut group = SyncGroup::new([("one".to_owned(), VirtualRouter::new(settings(0, 100), now))]);
    let events = [
        (0, Event::Start),
        (100, advert(0, 9, 150)),
        (3700, Event::Timer),
        (10, Event::Weighted(Priority(90))),
        (500, advert(0, 11, 90)),
        (100, Event::Acquire),
        (100, failed()),
        (100, Event::TrackingRecovered),
        (3800, Event::Timer),
        (200, Event::Release),
        (10, Event::Acquire),
        (60_000, Event::Timer),
        (4_000, Event::Timer),
        (10, Event::Shutdown),
    ];
    let mut at = now;
    for (pause, event) in events {
        at += ms(pause);
        alone.handle(at, event.clone());
        group.handle(at, 0, event.clone());
        let member = &group.members()[0];
        assert_eq!((member.state(), member.reason()), (alone.state(), alone.reason()), "{event:?}");
        assert_eq!((group.deadline(), member.transitions()), (alone.deadline(), alone.transitions()));
        loop {
            let advert = alone.poll_advert();
            assert_eq!(group.poll_advert(), advert.map(|priority| (0, priority)), "{event:?}");
            if advert.is_none() {
                break;
            }
        }
    }
    assert!(alone.transitions() > 8);
}

#[test]
fn all_become_active_when_all_would() {
    let mut driven = Driven::backup(&[100, 100]);
    driven.assert_all(VrrpState::Backup);
    // The second hears somebody who says nothing to the first.
    driven.feed_after(ms(1000), 1, advert(1, 9, 150));
    driven.feed_after(DOWN - ms(1000), 0, Event::Timer);
    driven.assert_all(VrrpState::Backup);
    assert_eq!(driven.deadline_in(), Some(ms(1000)), "nothing to do before that");
    driven.until_deadline();
    driven.assert_all(VrrpState::Active);
    assert_eq!(driven.sent(), [(0, 100), (1, 100)]);
    assert_eq!(driven.reason(0), "no active router heard for 4609 ms");
    assert_eq!(driven.reason(1), "active router silent for 3609 ms");
}

#[test]
fn whoever_hears_a_better_one_takes_back_its_consent() {
    let mut driven = Driven::backup(&[100, 100]);
    driven.feed_after(ms(1000), 1, advert(1, 9, 150));
    driven.feed_after(DOWN - ms(1000), 0, Event::Timer);
    driven.feed_after(ms(500), 0, advert(0, 9, 150));
    driven.feed_after(ms(500), 0, Event::Timer);
    driven.assert_all(VrrpState::Backup);
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(500)));
}

#[test]
fn the_timer_is_for_all_whichever_member_it_is_handed_to() {
    let mut driven = Driven::backup(&[100, 100]);
    driven.feed_after(DOWN, 1, Event::Timer);
    driven.assert_all(VrrpState::Active);
    driven.feed(7, Event::Shutdown);
    driven.assert_all(VrrpState::Active);
}

#[test]
fn the_lowest_priority_is_that_of_all() {
    let mut driven = Driven::active(&[200, 50]);
    driven.feed_after(ms(1000), 0, Event::Timer);
    assert_eq!(driven.sent(), [(0, 50), (1, 50)]);
    driven.feed(1, Event::Weighted(Priority(220)));
    assert_eq!(driven.sent(), [(0, 200), (1, 200)]);
    driven.feed(0, Event::Weighted(Priority(90)));
    assert_eq!(driven.sent(), [(0, 90), (1, 90)]);
    let higher = Settings { priority: NonZeroU8::new(150).unwrap(), ..settings(0, 100) };
    driven.feed(0, Event::Reconfigure(higher));
    assert_eq!(driven.sent(), [(0, 150), (1, 150)]);
}

#[test]
fn a_member_that_loses_takes_all_with_it() {
    let mut driven = Driven::active(&[100, 100, 100]);
    driven.feed(1, advert(1, 9, 150));
    driven.assert_all(VrrpState::Backup);
    assert_eq!(driven.sent(), [(0, 100), (1, 100), (2, 100)], "last words, no farewells");
    assert_eq!(driven.reason(1), "preempted by higher priority 150 from 172.16.1.9");
    let text = "sync group: instance link1: preempted by higher priority 150 from 172.16.1.9";
    assert_eq!((driven.reason(0), driven.reason(2)), (text.to_owned(), text.to_owned()));
    assert!(driven.group.members().iter().all(|router| !router.holds_addresses()));
}

#[test]
fn whoever_slept_steps_down_as_a_whole_without_a_word() {
    for event in [Event::Timer, Event::Release, Event::Acquire, advert(1, 11, 50)] {
        let mut driven = Driven::active(&[100, 100]);
        // The second has advertised since.
        driven.feed_after(ms(900), 1, advert(1, 9, 50));
        driven.sent();
        driven.feed_after(DOWN - ms(900), 1, event.clone());
        driven.assert_all(VrrpState::Backup);
        assert_eq!(driven.sent(), [], "{event:?}");
        assert_eq!(driven.reason(1), "sync group: instance link0: this process did not run for 3609 ms");
    }
}

#[test]
fn a_fault_of_one_is_a_fault_of_all_until_all_are_well() {
    let mut driven = Driven::active(&[100, 100]);
    driven.feed(1, failed());
    driven.assert_all(VrrpState::Fault);
    assert_eq!(driven.sent(), [(0, 0), (1, 0)]);
    assert_eq!(driven.reason(0), "sync group: instance link1: eth1 is down");
    assert_eq!(driven.reason(1), "eth1 is down");
    driven.feed(0, Event::TrackingFailed("eth0 is down".to_owned()));
    driven.feed(1, Event::TrackingRecovered);
    driven.assert_all(VrrpState::Fault);
    assert_eq!(
        (driven.reason(0), driven.reason(1)),
        ("eth0 is down".to_owned(), "sync group: instance link0: eth0 is down".to_owned(),)
    );
    driven.feed(0, Event::TrackingRecovered);
    driven.assert_all(VrrpState::Backup);
    // Before the start, too.
    let mut early = Driven::new(&[100, 100]);
    early.feed(0, failed());
    early.feed(1, Event::Start);
    early.assert_all(VrrpState::Fault);
}

#[test]
fn commands_are_for_all() {
    let mut driven = Driven::active(&[100, 100]);
    driven.feed(1, Event::Release);
    driven.assert_all(VrrpState::Backup);
    assert_eq!(driven.sent(), [(0, 0), (1, 0)]);
    assert!(driven.group.members().iter().all(|router| router.released() && router.holds_addresses()));
    // The successor speaks on one link, and may be thrown out; on the other nobody has spoken yet.
    driven.feed(0, advert(0, 9, 50));
    assert!(!driven.group.members()[0].holds_addresses());
    assert!(driven.group.members()[1].holds_addresses());
    driven.feed(0, Event::Acquire);
    driven.assert_all(VrrpState::Active);
    assert_eq!(driven.sent(), [(0, 100), (1, 100)]);
    driven.feed(0, Event::Shutdown);
    driven.assert_all(VrrpState::Initialize);
    assert_eq!(driven.sent(), [(0, 0), (1, 0)]);
    driven.until_deadline();
    assert_eq!(driven.deadline_in(), None);
}

#[test]
fn acquire_needs_every_link() {
    let mut driven = Driven::backup(&[100, 100]);
    driven.feed(0, advert(0, 9, 50));
    driven.feed(1, advert(1, 9, 150));
    driven.feed(0, Event::Acquire);
    driven.assert_all(VrrpState::Backup);
    // And is not remembered: the first has to wait for its own timer again.
    driven.feed(1, advert(1, 9, 0));
    driven.feed_after(SKEW, 0, Event::Timer);
    driven.assert_all(VrrpState::Backup);
    driven.until_deadline();
    driven.assert_all(VrrpState::Active);
}

#[test]
fn one_closed_gate_holds_back_all() {
    let mut driven = Driven::backup(&[100, 100]);
    driven.feed(1, Event::Witness(Err("no gateway".to_owned())));
    driven.until_deadline();
    driven.assert_all(VrrpState::Backup);
    assert_eq!(driven.group.members()[0].blocked(), None);
    assert_eq!(driven.group.members()[1].blocked(), Some("no gateway"));
    driven.feed(1, Event::Witness(Ok(())));
    driven.until_deadline();
    driven.assert_all(VrrpState::Active);
}

#[test]
fn a_lost_tie_counts_at_once_on_the_first_link_only() {
    let mut first = Driven::active(&[100, 100]);
    first.feed(0, advert(0, 11, 100));
    first.assert_all(VrrpState::Backup);

    let mut second = Driven::active(&[100, 100, 100]);
    // Not just when it has advertised anyway.
    second.now += ms(100);
    let tie = second.now;
    while second.now - tie < DOWN {
        second.feed(1, advert(1, 11, 100));
        second.assert_all(VrrpState::Active);
        assert_eq!(second.sent(), [(1, 100)], "it is answered");
        second.feed_after(ms(900), 0, Event::Timer);
        second.sent();
        second.now += ms(100);
    }
    // The link of the first is cut, it seems.
    second.feed(1, advert(1, 11, 100));
    second.assert_all(VrrpState::Backup);
    assert_eq!(second.reason(1), "preempted by equal priority 100 with the higher address 172.16.1.11");

    // One that ended does not count towards the next.
    let mut again = Driven::active(&[100, 100]);
    for pause in [ms(0), ms(3000), DOWN, ms(3000)] {
        let end = again.now + pause;
        while again.now + ms(1000) <= end {
            again.feed_after(ms(1000), 0, Event::Timer);
        }
        again.now = end;
        again.feed(1, advert(1, 11, 100));
        again.assert_all(VrrpState::Active);
    }
    // A higher priority is no tie.
    again.feed(1, advert(1, 11, 101));
    again.assert_all(VrrpState::Backup);
}

#[test]
fn address_owners_are_active_at_once_if_all_are() {
    let mut owners = Driven::new(&[255, 255]);
    owners.feed(0, Event::Start);
    owners.assert_all(VrrpState::Active);
    assert_eq!(owners.reason(1), "address owner (priority 255)");
    let mut mixed = Driven::new(&[255, 100]);
    mixed.feed(0, Event::Start);
    mixed.assert_all(VrrpState::Backup);
    assert_eq!(mixed.deadline_in(), Some(DOWN));
}
