//! Hand-overs: every event that can come while the addresses are kept for a successor.

use super::*;

/// One that was Active and was told to hand over, 300 ms ago.
fn lingering(event: Event) -> Driven {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    driven.feed(event);
    assert_eq!(driven.sent(), [0]);
    assert!(driven.router.holds_addresses());
    driven.now += ms(300);
    driven
}

fn released() -> Driven {
    lingering(Event::Release)
}

fn shut_down() -> Driven {
    lingering(Event::Shutdown)
}

#[test]
fn it_ends_when_somebody_else_speaks() {
    for mut driven in [released(), shut_down()] {
        // Not by a farewell: nobody took over.
        driven.feed(advert(LOWER, 0));
        assert!(driven.router.holds_addresses());
        driven.feed(advert(LOWER, 1));
        assert!(!driven.router.holds_addresses());
        assert_eq!(driven.sent(), [0; 0]);
    }
}

#[test]
fn it_ends_when_nobody_will_come() {
    let v2 = Settings { interval: Interval::V2(Seconds::new(3).unwrap()), ..settings() };
    let v3 = Settings { interval: centiseconds(20), ..settings() };
    for (settings, longest) in [(v2, ms(1100)), (v3, ms(300))] {
        for event in [Event::Release, Event::Shutdown] {
            let mut driven = Driven::in_state(settings.clone(), VrrpState::Active);
            driven.feed(event.clone());
            assert_eq!(driven.deadline_in(), Some(longest));
            driven.feed_after(longest - Duration::from_micros(1), Event::Timer);
            assert!(driven.router.holds_addresses(), "{event:?}");
            driven.feed_after(Duration::from_micros(1), Event::Timer);
            assert!(!driven.router.holds_addresses(), "{event:?}");
            assert_eq!(driven.sent(), [0]);
        }
    }
}

#[test]
fn a_second_release_or_shutdown_neither_repeats_nor_prolongs_it() {
    let mut driven = released();
    let deadline = driven.router.deadline();
    driven.feed(Event::Release);
    assert_eq!((driven.router.deadline(), driven.sent()), (deadline, vec![]));
    driven.feed(Event::Shutdown);
    assert_eq!((driven.router.state(), driven.router.holds_addresses()), (VrrpState::Initialize, true));
    driven.feed(Event::Shutdown);
    assert_eq!((driven.router.deadline(), driven.sent()), (deadline, vec![]));
}

#[test]
fn acquire_takes_back_at_once_what_was_never_let_go() {
    let mut driven = released();
    driven.feed(Event::Acquire);
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![100]));
    assert_eq!(driven.router.reason(), &Reason::Acquired);
    // Not once somebody else has spoken, who is better.
    let mut late = released();
    late.feed(advert(HIGHER, 100));
    late.feed(Event::Acquire);
    assert_eq!((late.router.state(), late.router.holds_addresses()), (VrrpState::Backup, false));
    // Nor when it is over.
    let mut over = released();
    over.feed_after(ms(800), Event::Acquire);
    assert_eq!((over.router.state(), over.router.holds_addresses()), (VrrpState::Backup, false));
}

#[test]
fn a_start_after_the_shutdown_goes_on_holding() {
    let mut driven = shut_down();
    driven.feed(Event::Start);
    assert_eq!((driven.router.state(), driven.router.holds_addresses()), (VrrpState::Backup, true));
    assert_eq!(driven.deadline_in(), Some(ms(800)), "no longer than before");
    driven.feed(Event::Acquire);
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn a_fault_ends_it() {
    for mut driven in [released(), shut_down()] {
        driven.feed(failed());
        assert!(!driven.router.holds_addresses());
        driven.feed(Event::TrackingRecovered);
        assert!(!driven.router.holds_addresses(), "what was let go is gone");
        assert_eq!(driven.sent(), [0; 0]);
    }
    let mut restarted = shut_down();
    restarted.feed(failed());
    restarted.feed(Event::Start);
    assert_eq!((restarted.router.state(), restarted.router.holds_addresses()), (VrrpState::Fault, false));
}

#[test]
fn a_pause_ends_it_whatever_comes_first() {
    for event in [Event::Timer, Event::Acquire, Event::Release, Event::Shutdown, Event::Start] {
        for mut driven in [released(), shut_down()] {
            driven.feed_after(DOWN, event.clone());
            assert!(!driven.router.holds_addresses(), "{event:?}");
            assert_ne!(driven.router.state(), VrrpState::Active, "{event:?}");
        }
    }
}

#[test]
fn news_about_weights_witnesses_and_settings_leave_it_alone() {
    let witness = Event::Witness(Err("no gateway".to_owned()));
    let at = released().router.since();
    let arrived = Event::Arrived { source: LOWER, at };
    let preempt = Event::Reconfigure(Settings { preempt: false, ..settings() });
    for event in [Event::Weighted(Priority(44)), witness, arrived, preempt, Event::TrackingRecovered] {
        for mut driven in [released(), shut_down()] {
            let deadline = driven.router.deadline();
            driven.feed(event.clone());
            assert!(driven.router.holds_addresses(), "{event:?}");
            assert_eq!((driven.router.deadline(), driven.sent()), (deadline, vec![]), "{event:?}");
        }
    }
}

#[test]
fn only_a_hand_over_lingers() {
    for event in [advert(HIGHER, 150), advert(HIGHER, 100), failed()] {
        let mut driven = Driven::in_state(settings(), VrrpState::Active);
        driven.feed(event.clone());
        assert!(!driven.router.holds_addresses(), "{event:?}");
    }
    let mut slept = Driven::in_state(settings(), VrrpState::Active);
    slept.feed_after(DOWN, Event::Release);
    assert!(!slept.router.holds_addresses(), "whoever slept has nothing to hand over");
}
