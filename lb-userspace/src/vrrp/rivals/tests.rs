use lb_common::layout::virtual_mac;

use super::*;

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 10));
const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 3));
const PEER_MAC: Mac = [2, 0, 0, 0, 0, 3];
const STRANGER: Mac = [2, 0, 0, 0, 0, 9];

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ownership(since: Instant, ours: bool) -> Ownership {
    let active = (!ours).then_some((PEER, Some(PEER_MAC)));
    Ownership { since, ours, active, virtual_mac: virtual_mac(false, 60) }
}

#[test]
fn while_we_hold_the_vip_any_claim_is_a_second_owner() {
    let start = Instant::now();
    let ours = ownership(start, true);
    let judged = |mac, at, now| judge(Claim { mac, at }, &ours, now);
    assert_eq!(judged(PEER_MAC, start + s(2), start + s(3)), Rivalry::SecondOwner);
    assert_eq!(judged(STRANGER, start + s(2), start + s(3)), Rivalry::SecondOwner);
    // The last words of the one before us.
    assert_eq!(judged(PEER_MAC, start + Duration::from_millis(999), start + s(3)), Rivalry::None);
    assert_eq!(judged(STRANGER, start + s(2), start + s(63)), Rivalry::None, "long ago");
}

#[test]
fn while_another_holds_it_only_a_third_party_is_a_rival() {
    let start = Instant::now();
    let theirs = ownership(start, false);
    let judged = |mac, ownership: &Ownership| judge(Claim { mac, at: start + s(2) }, ownership, start + s(3));
    assert_eq!(judged(PEER_MAC, &theirs), Rivalry::None);
    assert_eq!(judged(virtual_mac(false, 60), &theirs), Rivalry::None);
    assert_eq!(judged(virtual_mac(false, 61), &theirs), Rivalry::NotTheActiveRouter);
    assert_eq!(judged(STRANGER, &theirs), Rivalry::NotTheActiveRouter);
    // Not known who is Active, or where: then nobody can be accused.
    for active in [None, Some((PEER, None))] {
        assert_eq!(judged(STRANGER, &Ownership { active, ..theirs.clone() }), Rivalry::None);
    }
}

#[test]
fn a_vip_is_defended_at_once_and_then_seldom() {
    let start = Instant::now();
    let mut rivals = Rivals::default();
    let at = |seconds| Claim { mac: STRANGER, at: start + s(seconds) };
    assert!(rivals.defend(VIP, at(0), start));
    assert!(!rivals.defend(VIP, at(0), start + s(30)), "answered already");
    assert!(!rivals.defend(VIP, at(5), start + s(5)));
    assert!(rivals.defend(VIP, at(10), start + s(10)));
    assert!(rivals.defend(VIP, Claim { mac: PEER_MAC, at: start + s(11) }, start + s(11)), "another rival");
    let other = "fd00::10".parse().unwrap();
    assert!(rivals.defend(other, at(11), start + s(11)), "another VIP");
}

#[test]
fn the_sentence_names_the_other_and_its_router() {
    let start = Instant::now();
    let claim = Claim { mac: PEER_MAC, at: start + s(2) };
    let told = |ownership: &Ownership, senders: &[(IpAddr, Mac)]| {
        told(VIP, claim, ownership, senders, start + s(5)).unwrap_or_default()
    };
    let ours = ownership(start, true);
    assert_eq!(
        told(&ours, &[(PEER, PEER_MAC)]),
        "172.16.0.10 is ours, but 02:00:00:00:00:03, the router 172.16.0.3 claims it, too (3 s ago): another machine has \
         the address; take it off there, or let its advertisements reach us"
    );
    let theirs = Ownership { active: Some((PEER, Some(STRANGER))), ..ownership(start, false) };
    assert!(
        told(&theirs, &[])
            .starts_with("172.16.0.10 is the active router's, 172.16.0.3, but 02:00:00:00:00:03")
    );
}

#[test]
fn a_collision_names_the_other_and_a_free_vrid() {
    let now = Instant::now();
    let refused = Refused { source: PEER, why: "version 2".to_owned(), at: now };
    let seen: BTreeSet<u8> = [60, 61, 63].into();
    let sentence = collision(60, &refused, Some(PEER_MAC), &seen, now).expect("a sentence");
    assert_eq!(
        sentence,
        "VRID 60 is also used by 172.16.0.3 (02:00:00:00:00:03): version 2; agree with it, or write virtual_router_id = \
         62, which nobody uses here, on every node"
    );
    assert!(collision(255, &refused, None, &[255].into(), now).is_some_and(|text| text.contains("= 1,")));
    assert!(
        collision(60, &refused, None, &(1..=255).collect(), now)
            .is_some_and(|text| text.contains("every VRID"))
    );
    assert_eq!(collision(60, &refused, None, &seen, now + TOLD_FOR + s(1)), None);
}
