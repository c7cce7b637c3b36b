//! Weights and new settings in a running machine.

use super::*;

#[test]
fn a_weight_is_advertised_and_bounded() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    for (weighted, advertised) in [(0, 1), (255, 254), (90, 90)] {
        driven.feed(Event::Weighted(Priority(weighted)));
        assert_eq!(driven.sent(), [advertised]);
    }
    driven.feed(Event::Weighted(Priority(90)));
    assert_eq!(driven.sent(), [0; 0], "no news");
    driven.feed(Event::Release);
    driven.feed(Event::Weighted(Priority(70)));
    assert_eq!((driven.router.priority(), driven.sent()), (Priority::LOWEST, vec![0]));
    driven.feed(Event::Acquire);
    assert_eq!(driven.sent(), [70]);
    let mut owner =
        Driven::in_state(Settings { priority: NonZeroU8::MAX, ..settings() }, VrrpState::Initialize);
    owner.feed(Event::Weighted(Priority(90)));
    owner.feed(Event::Start);
    assert_eq!(owner.sent(), [255]);
}

#[test]
fn a_weight_moves_the_timer_by_the_skew_time_only() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(advert(HIGHER, 150));
    driven.feed_after(ms(500), Event::Weighted(Priority(228)));
    // 128 of 256 parts less: we outrank it now, and do not wait for it any longer.
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(500) - ms(500)));
    driven.feed(Event::Weighted(Priority(100)));
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(500)));
    driven.feed(advert(HIGHER, 0));
    driven.feed(Event::Weighted(Priority(228)));
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(3500)));
}

#[test]
fn whoever_outranks_us_after_all_is_not_thrown_out() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    for _ in 0..3 {
        driven.feed_after(ms(1000), advert(LOWER, 50));
    }
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(3000)));
    driven.feed(Event::Weighted(Priority(50)));
    assert_eq!(driven.deadline_in(), Some(active_down_interval(INTERVAL, Priority(50))));
}

#[test]
fn new_settings_keep_the_state() {
    let mut driven = Driven::in_state(settings(), VrrpState::Active);
    driven.feed_after(ms(500), Event::Reconfigure(settings()));
    assert_eq!((driven.sent(), driven.deadline_in()), (vec![], Some(ms(500))), "no news");
    // A shorter interval: the time since the last advertisement is not a pause by its measure.
    let fast = Settings { interval: centiseconds(2), ..settings() };
    driven.feed(Event::Reconfigure(fast.clone()));
    assert_eq!((driven.sent(), driven.deadline_in()), (vec![100], Some(ms(20))));
    driven.feed_after(ms(20), Event::Timer);
    assert_eq!(driven.router.state(), VrrpState::Active);
    let lower = Settings { priority: NonZeroU8::new(50).unwrap(), ..fast };
    driven.sent();
    driven.feed(Event::Reconfigure(lower));
    assert_eq!(driven.sent(), [50]);
}

#[test]
fn the_last_weight_outlives_new_settings_of_the_same_priority() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(Event::Weighted(Priority(70)));
    driven.feed(Event::Reconfigure(Settings { preempt: false, ..settings() }));
    assert_eq!(driven.router.priority(), Priority(70));
    driven.feed(Event::Reconfigure(Settings { priority: NonZeroU8::new(120).unwrap(), ..settings() }));
    assert_eq!(driven.router.priority(), Priority(120));
    driven.feed(Event::Reconfigure(Settings { priority: NonZeroU8::MAX, ..settings() }));
    assert_eq!((driven.router.state(), driven.sent()), (VrrpState::Active, vec![255]));
    assert_eq!(driven.router.reason(), &Reason::AddressOwner);
}

#[test]
fn a_backup_waits_by_its_own_interval_only_while_it_hears_nobody() {
    let slow = || Event::Reconfigure(Settings { interval: centiseconds(200), ..settings() });
    let mut alone = Driven::in_state(settings(), VrrpState::Backup);
    alone.feed(slow());
    assert_eq!(alone.deadline_in(), Some(2 * DOWN));
    let mut watching = Driven::in_state(settings(), VrrpState::Backup);
    watching.feed(advert(HIGHER, 150));
    watching.feed(slow());
    assert_eq!(watching.deadline_in(), Some(DOWN));
}

#[test]
fn a_late_start_of_preemption_is_heard_at_the_next_advertisement() {
    let mut driven = Driven::in_state(Settings { preempt: false, ..settings() }, VrrpState::Backup);
    driven.feed(advert(LOWER, 50));
    driven.feed(Event::Reconfigure(settings()));
    driven.feed_after(ms(1000), advert(LOWER, 50));
    assert_eq!(driven.deadline_in(), Some(DOWN - ms(1000)));
}
