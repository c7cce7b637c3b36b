use std::sync::Mutex;

use super::*;

const LEASE: Duration = Duration::from_millis(600);

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn everybody_must_be_alive() {
    let start = Instant::now();
    let now = start + Duration::from_secs(60);
    let routers = [("main".to_owned(), Some(now - ms(100))), ("v6".to_owned(), Some(now - ms(200)))];
    let well = Vitals {
        controller: Some(now - ms(100)),
        settled: Some(now - ms(5000)),
        running_since: start,
        routers: &routers,
    };
    assert_eq!(withheld(now, LEASE, &well), None);

    let hung = Vitals { controller: Some(now - PATIENCE - ms(1)), ..well.clone() };
    assert_eq!(withheld(now, LEASE, &hung), Some(Withheld::Controller(PATIENCE + ms(1))));
    let busy = Vitals { controller: Some(now - PATIENCE), ..well.clone() };
    assert_eq!(withheld(now, LEASE, &busy), None, "a busy controller is not a dead one");

    let routers = [("main".to_owned(), Some(now)), ("v6".to_owned(), Some(now - LEASE - ms(1)))];
    let hung = Vitals { routers: &routers, ..well.clone() };
    assert_eq!(withheld(now, LEASE, &hung), Some(Withheld::Router("v6".to_owned(), LEASE + ms(1))));
    let routers = [("main".to_owned(), None)];
    let never = Vitals { routers: &routers, ..well.clone() };
    assert_eq!(withheld(now, LEASE, &never), Some(Withheld::Router("main".to_owned(), now - start)));
    assert_eq!(
        withheld(now, LEASE, &Vitals { running_since: now - ms(10), settled: Some(now), ..never }),
        None,
        "one that has just been started has its time"
    );
}

#[test]
fn nothing_is_said_before_somebody_looked_whose_the_addresses_are() {
    let start = Instant::now();
    let now = start + Duration::from_secs(60);
    let vitals = Vitals { controller: Some(now), settled: None, running_since: start, routers: &[] };
    assert_eq!(withheld(now, LEASE, &vitals), Some(Withheld::Unsettled));
    let before = Vitals { settled: Some(now - ms(10)), running_since: now - ms(5), ..vitals.clone() };
    assert_eq!(withheld(now, LEASE, &before), Some(Withheld::Unsettled), "settled before the pause");
    let since = Vitals { settled: Some(now - ms(5)), running_since: now - ms(5), ..vitals };
    assert_eq!(withheld(now, LEASE, &since), None);
}

#[derive(Clone, Default)]
struct Written(Arc<Mutex<u32>>);

impl WritePulse for Written {
    fn write(&mut self, alive: bool) -> Result<(), DataplaneError> {
        *self.0.lock().expect("not poisoned") += u32::from(alive);
        Ok(())
    }
}

/// The rules above, with a thread that is told so late that it takes it for a pause.
#[test]
fn a_pause_asks_for_another_look() {
    let shared = Shared::new(LEASE);
    let now = Instant::now();
    shared.running_since.set(now);
    shared.controller.set(now);
    shared.settled.set(now);
    let written = Written::default();
    let mut heart = Heart {
        shared: Arc::clone(&shared),
        lease: LEASE,
        routers: Vec::new(),
        writer: Some(Box::new(written.clone())),
        ran: now,
    };
    let count = || *written.0.lock().expect("not poisoned");
    let sign = Sign(Arc::clone(&shared));
    assert!(!sign.is_fresh(now), "nothing was written yet");
    heart.beat(now + ms(100));
    assert!(sign.is_fresh(now + ms(100) + LEASE) && !sign.is_fresh(now + ms(101) + LEASE));
    assert_eq!((count(), shared.written.get()), (1, Some(now + ms(100))));
    heart.beat(now + ms(100) + LEASE);
    assert_eq!(count(), 2, "late, but not later than the lease");
    let resumed = now + ms(101) + 2 * LEASE;
    heart.beat(resumed);
    assert_eq!((count(), shared.running_since.get()), (2, Some(resumed)));
    heart.beat(resumed + ms(100));
    assert_eq!(count(), 2, "nobody has looked yet");
    assert!(!sign.is_fresh(resumed) && !sign.is_fresh(resumed + ms(100)), "whose are the VIPs?");
    shared.controller.set(resumed + ms(150));
    shared.settled.set(resumed + ms(150));
    heart.beat(resumed + ms(200));
    assert_eq!(count(), 3);
    assert!(sign.is_fresh(resumed + ms(200)));
}

#[test]
fn the_thread_beats_when_all_is_told_and_ends_with_its_owner() {
    let written = Written::default();
    let heartbeat = Heartbeat::spawn(ms(50)).expect("a thread");
    let main = Beat::new();
    heartbeat.depend_on(vec![("main".to_owned(), Arc::clone(&main))]);
    heartbeat.write_to(Some(Box::new(written.clone())));
    assert!(!heartbeat.is_settled());
    let start = Instant::now();
    while heartbeat.written().is_none() {
        assert!(start.elapsed() < Duration::from_secs(20), "it never beat");
        let now = Instant::now();
        heartbeat.alive(now);
        main.set(now);
        heartbeat.settled(now);
        thread::sleep(ms(2));
    }
    assert!(*written.0.lock().expect("not poisoned") > 0);
    drop(heartbeat);
    let start = Instant::now();
    while Arc::strong_count(&written.0) > 1 {
        assert!(start.elapsed() < Duration::from_secs(20), "the thread goes on");
        thread::sleep(ms(2));
    }
}
