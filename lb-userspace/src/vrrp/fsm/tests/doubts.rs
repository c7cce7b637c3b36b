//! What a Backup asks before it believes in silence: the arrival clock and the witness.

use super::*;

const SIGHT: Duration = Duration::from_millis(3_000);

fn arrived(at: Instant) -> Event {
    Event::Arrived { source: HIGHER, at }
}

/// A Backup that hears `HIGHER` once, and whose timer is due.
fn backup_of_a_silent_router(arrival_credit: ArrivalCredit) -> Driven {
    let mut driven = Driven::in_state(Settings { arrival_credit, ..settings() }, VrrpState::Backup);
    driven.feed(advert(HIGHER, 150));
    driven.now += DOWN;
    driven
}

#[test]
fn an_arrival_restarts_the_timer_from_when_it_was() {
    let mut driven = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    driven.feed(arrived(driven.now - DOWN + SIGHT));
    driven.feed(Event::Timer);
    assert_eq!((driven.router.state(), driven.deadline_in()), (VrrpState::Backup, Some(SIGHT)));
    assert_eq!(driven.router.deaf(), None, "three intervals are not yet deaf");
    driven.until_deadline();
    assert_eq!(driven.router.state(), VrrpState::Active);
    assert_eq!(driven.router.reason(), &Reason::ActiveSilent(DOWN + SIGHT));
}

#[test]
fn an_arrival_in_the_future_counts_as_now() {
    let mut driven = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    driven.feed(arrived(driven.now + ms(60_000)));
    assert_eq!(driven.deadline_in(), Some(DOWN));
}

#[test]
fn arrivals_of_others_and_old_ones_are_no_news() {
    let mut other = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    other.feed(Event::Arrived { source: LOWER, at: other.now });
    assert_eq!(other.deadline_in(), Some(Duration::ZERO));
    let mut old = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    old.feed(arrived(old.now - DOWN));
    assert_eq!(old.deadline_in(), Some(Duration::ZERO));
    // It said good-bye after that.
    let mut left = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    left.feed(advert(HIGHER, 0));
    left.feed(arrived(left.now));
    assert_eq!(left.deadline_in(), Some(DOWN - ms(3000)));
}

#[test]
fn arrivals_do_not_stop_a_preemption() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(advert(LOWER, 50));
    driven.now += DOWN;
    driven.feed(Event::Arrived { source: LOWER, at: driven.now });
    driven.feed(Event::Timer);
    assert_eq!(driven.router.state(), VrrpState::Active);
    let mut patient = Driven::in_state(Settings { preempt: false, ..settings() }, VrrpState::Backup);
    patient.feed(advert(LOWER, 50));
    patient.now += DOWN;
    patient.feed(Event::Arrived { source: LOWER, at: patient.now });
    patient.feed(Event::Timer);
    assert_eq!(patient.router.state(), VrrpState::Backup);
}

#[test]
fn a_deaf_backup_says_since_when() {
    let mut driven = backup_of_a_silent_router(ArrivalCredit::Unlimited);
    for _ in 0..5 {
        driven.feed(arrived(driven.now));
        driven.feed(Event::Timer);
        assert_eq!(driven.router.state(), VrrpState::Backup);
        driven.now += DOWN;
    }
    assert_eq!(driven.router.deaf(), Some(5 * DOWN));
    // Neither a pause of our own nor the arrival after it makes us forget whom we watch.
    driven.feed_after(ms(60_000), Event::Timer);
    driven.now += DOWN;
    driven.feed(arrived(driven.now));
    driven.feed(Event::Timer);
    assert_eq!(driven.router.state(), VrrpState::Backup);
    assert!(driven.router.deaf() > Some(ms(60_000)));
    driven.feed(advert(HIGHER, 150));
    assert_eq!(driven.router.deaf(), None);
}

#[test]
fn unverified_arrivals_are_worth_one_down_interval() {
    let mut driven = backup_of_a_silent_router(ArrivalCredit::OneInterval);
    driven.feed(arrived(driven.now));
    assert_eq!(driven.deadline_in(), Some(DOWN));
    driven.now += DOWN;
    driven.feed(arrived(driven.now));
    driven.feed(Event::Timer);
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn without_a_witness_silence_proves_nothing() {
    let no_gateway = || Event::Witness(Err("10.0.0.1 does not answer".to_owned()));
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(no_gateway());
    assert_eq!(driven.router.blocked(), None, "not yet");
    driven.until_deadline();
    assert_eq!((driven.router.state(), driven.deadline_in()), (VrrpState::Backup, Some(ms(1000))));
    assert_eq!(driven.router.blocked(), Some("10.0.0.1 does not answer"));
    driven.until_deadline();
    assert_eq!((driven.router.state(), driven.deadline_in()), (VrrpState::Backup, Some(ms(1000))));
    // Whoever is alive is heard first when the network is back.
    driven.feed(Event::Witness(Ok(())));
    assert_eq!((driven.router.blocked(), driven.deadline_in()), (None, Some(DOWN - ms(2000))));
    driven.feed(Event::Witness(Ok(())));
    driven.until_deadline();
    assert_eq!(driven.router.state(), VrrpState::Active);
    // It is not asked again: to leave would help nobody.
    driven.feed(no_gateway());
    assert_eq!(driven.router.state(), VrrpState::Active);
}

#[test]
fn a_witness_is_not_asked_when_somebody_was_heard() {
    let blocked = || {
        let mut driven = Driven::in_state(settings(), VrrpState::Backup);
        driven.feed(Event::Witness(Err("no gateway".to_owned())));
        driven.until_deadline();
        assert!(driven.router.blocked().is_some());
        driven
    };
    let mut farewell = blocked();
    farewell.feed(advert(HIGHER, 0));
    farewell.until_deadline();
    assert_eq!(farewell.router.reason(), &Reason::PriorityZero { from: HIGHER });
    let mut preempting = blocked();
    preempting.feed(advert(LOWER, 50));
    preempting.until_deadline();
    assert_eq!(preempting.router.reason(), &Reason::Preempting { priority: Priority(50), from: LOWER });
    let mut better = blocked();
    better.feed(advert(HIGHER, 150));
    assert_eq!((better.router.blocked(), better.deadline_in()), (None, Some(DOWN)));
    // But what was heard long ago is silence, also on command.
    better.until_deadline();
    better.feed(Event::Weighted(Priority(200)));
    better.feed(Event::Acquire);
    assert_eq!((better.router.state(), better.router.blocked()), (VrrpState::Backup, Some("no gateway")));
    // An address owner does not listen at all.
    let mut owner = Driven::new(Settings { priority: NonZeroU8::MAX, ..settings() });
    owner.feed(Event::Witness(Err("no gateway".to_owned())));
    owner.feed(Event::Start);
    assert_eq!(owner.router.state(), VrrpState::Active);
}

#[test]
fn a_farewell_before_a_pause_of_ours_is_old_news() {
    let mut driven = Driven::in_state(settings(), VrrpState::Backup);
    driven.feed(Event::Witness(Err("no gateway".to_owned())));
    driven.feed(advert(HIGHER, 0));
    driven.feed_after(ms(60_000), Event::Timer);
    driven.until_deadline();
    assert_eq!((driven.router.state(), driven.router.blocked()), (VrrpState::Backup, Some("no gateway")));
}
