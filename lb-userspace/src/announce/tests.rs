use super::*;

const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);

/// What keepalived 2.2.7 sent; `tests/golden/vrrp/README.md` says how it was recorded.
#[test]
fn the_frame_is_keepalived_s() {
    let recorded = include_str!("../../../tests/golden/vrrp/garp.hex").trim();
    let ours: String =
        gratuitous_arp([2, 0, 0, 0, 0, 2], VIP).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ours, recorded);
}

/// As above; the sender was no IPv6 router.
#[test]
fn the_advertisement_is_keepalived_s() {
    let recorded = include_str!("../../../tests/golden/vrrp/na.hex").trim();
    let vip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);
    let frame = unsolicited_advertisement([2, 0, 0, 0, 0, 2], vip);
    let ours: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ours, recorded);
}

/// Runs the schedule by its own clock for `span`; what was sent, and how many milliseconds after `start`.
fn run(schedule: &mut Schedule, start: Instant, until: Duration) -> Vec<(u128, u32)> {
    let mut sent = Vec::new();
    while schedule.next() <= start + until {
        let now = schedule.next();
        let frames = schedule.due(now);
        assert!(frames > 0 && schedule.next() > now, "it would spin");
        sent.push((now.duration_since(start).as_millis(), frames));
    }
    sent
}

#[test]
fn five_then_five_then_one_a_minute() {
    let start = Instant::now();
    let mut schedule = Schedule::new(start);
    let expected = [(0, 5), (5_000, 5), (65_000, 1), (125_000, 1)];
    assert_eq!(run(&mut schedule, start, Duration::from_secs(180)), expected);
    assert_eq!(schedule.due(start + Duration::from_secs(181)), 0);
}

#[test]
fn what_is_put_off_is_said_whole_once_it_may_be() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut schedule = Schedule::new(start);
    assert_eq!(schedule.due(start), 5);
    schedule.put_off(start + ms(1_000));
    assert_eq!(schedule.next(), start + ms(5_000), "nothing was due");
    // The process was paused, and runs again late.
    for late in [8_000, 8_050, 8_100] {
        schedule.put_off(start + ms(late));
        assert_eq!(schedule.due(start + ms(late)), 0);
    }
    assert_eq!(schedule.next(), start + ms(8_100) + PUT_OFF);
    assert_eq!(run(&mut schedule, start, ms(70_000)), [(8_150, 5), (68_150, 1)]);
}

#[test]
fn told_again_it_begins_again_but_not_more_than_once_a_second() {
    let start = Instant::now();
    let ms = Duration::from_millis;
    let mut schedule = Schedule::new(start);
    schedule.repeat(start);
    assert_eq!(schedule.due(start), 5, "before the first burst there is nothing to repeat");
    schedule.repeat(start + ms(200));
    schedule.repeat(start + ms(400));
    assert_eq!(schedule.due(start + ms(999)), 0);
    assert_eq!(run(&mut schedule, start, ms(70_000)), [(1_000, 5), (6_000, 5), (66_000, 1)]);
    schedule.repeat(start + ms(100_000));
    assert_eq!(run(&mut schedule, start, ms(110_000)), [(100_000, 5), (105_000, 5)]);
}
