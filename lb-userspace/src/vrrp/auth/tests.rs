use std::num::NonZeroU8;

use super::{
    super::{
        advert::{Auth, Envelope},
        golden::{
            self, ALL_ROUTERS_V6, GROUP, LINK_LOCAL, PEER, PEER_V6, SOURCE, SOURCE_V6, VIP, VIP_V6, advert,
            auth_hmac, v2, v3, vrid,
        },
    },
    *,
};
use crate::config::model::{HmacKey, HmacSecret, VrrpChecksum};

/// Some moment; no test depends on which.
const NOW: u64 = 1_795_332_584;

fn wall(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// When a sequence without a counter was made, to the nanosecond that gives it again.
fn made_at(sequence: u64) -> SystemTime {
    let fraction = (sequence >> 16) & 0xffff;
    wall(sequence >> 32) + Duration::from_nanos((fraction * 1_000_000_000).div_ceil(1 << 16))
}

fn router(settings: &AuthHmac, peers: &[IpAddr]) -> Authenticator {
    Authenticator::new(settings, Family::Ipv4, 3, vrid(60), peers).unwrap()
}

fn settings(change: impl FnOnce(&mut AuthHmac)) -> AuthHmac {
    let mut settings = auth_hmac();
    change(&mut settings);
    settings
}

fn key(id: u8, fill: u8) -> HmacKey {
    HmacKey { id: NonZeroU8::new(id).unwrap(), secret: HmacSecret::new(vec![fill; 32]).unwrap() }
}

fn ours() -> Advertisement {
    advert(100, v3(100, VrrpChecksum::Keepalived), &[VIP])
}

/// What `sender` says from `source` to the group at `seconds`.
fn packet(sender: &mut Authenticator, source: IpAddr, at: SystemTime) -> Vec<u8> {
    let trailer = sender.sign(at, source, &ours()).unwrap();
    let mut buffer = [0; LONGEST_MESSAGE];
    let len = ours().emit(source, GROUP, trailer.as_ref(), &mut buffer).unwrap();
    buffer[..len].to_vec()
}

fn hear(
    receiver: &mut Authenticator,
    source: IpAddr,
    at: SystemTime,
    packet: &[u8],
) -> Result<Verified, Discard> {
    let envelope = Envelope { source, destination: GROUP, hop_limit: 255 };
    receiver.verify(at, &Advertisement::parse(&envelope, packet).unwrap())
}

fn other(number: u8) -> IpAddr {
    IpAddr::from([172, 16, 0, 100 + number])
}

#[test]
fn what_keepalived_signed_is_verified_and_signed_alike() {
    let mut signed = 0;
    for golden in golden::all().into_iter().filter(|golden| golden.signed) {
        let (envelope, message) = golden.open().unwrap();
        let received = Advertisement::parse(&envelope, message).unwrap();
        let trailer = received.trailer.expect(golden.name);
        let family = Family::of(envelope.source);
        let version = golden.meaning.dialect.version();
        let peers = if envelope.destination == group(family) { vec![] } else { vec![envelope.source] };
        let new = || Authenticator::new(&auth_hmac(), family, version, vrid(60), &peers).unwrap();
        let at = made_at(trailer.sequence());

        let mut receiver = new();
        let verified = Ok(Verified::Signed { skew: 0, drifting: false });
        assert_eq!(receiver.verify(at, &received), verified, "{}", golden.name);
        assert_eq!(receiver.verify(at, &received), Err(Discard::AuthReplay), "{}", golden.name);

        let again = new().sign(at, envelope.source, &golden.meaning).unwrap();
        assert_eq!(again, Some(trailer), "{}", golden.name);

        // Nothing of what binds it may differ.
        for (family, version, id) in [
            (if family == Family::Ipv4 { Family::Ipv6 } else { Family::Ipv4 }, version, 60),
            (family, 5 - version, 60),
            (family, version, 61),
        ] {
            let mut elsewhere = Authenticator::new(&auth_hmac(), family, version, vrid(id), &peers).unwrap();
            assert_eq!(elsewhere.verify(at, &received), Err(Discard::AuthHmac), "{}", golden.name);
        }
        signed += 1;
    }
    assert_eq!(signed, 12);
}

#[test]
fn every_bit_but_those_of_the_checksum_is_authenticated() {
    for golden in golden::all().into_iter().filter(|golden| golden.signed) {
        let (envelope, message) = golden.open().unwrap();
        let received = Advertisement::parse(&envelope, message).unwrap();
        let trailer = received.trailer.unwrap();
        let version = golden.meaning.dialect.version();
        let mut receiver =
            Authenticator::new(&auth_hmac(), Family::of(envelope.source), version, vrid(60), &[]).unwrap();
        let at = made_at(trailer.sequence());
        for bit in 0..received.message.len() * 8 {
            let mut damaged = received.message.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let forged = Received { message: &damaged, ..received.clone() };
            let expected = if field::CHECKSUM.contains(&(bit / 8)) { None } else { Some(Discard::AuthHmac) };
            if expected.is_some() {
                assert_eq!(receiver.verify(at, &forged).err(), expected, "{} bit {bit}", golden.name);
            }
        }
        for bit in 0..Trailer::LEN * 8 {
            let mut damaged = trailer;
            damaged.0[bit / 8] ^= 1 << (bit % 8);
            let forged = Received { trailer: Some(damaged), ..received.clone() };
            let refused = receiver.verify(at, &forged).expect_err("a forgery");
            let expected = match bit / 8 {
                0 | 2 | 3 => "auth-malformed",
                1 => "auth-unknown-key",
                // The window of five seconds leaves its low bits to the HMAC.
                4..8 if refused.name() == "auth-stale" => "auth-stale",
                _ => "auth-hmac",
            };
            assert_eq!(refused.name(), expected, "{} bit {bit} of the trailer", golden.name);
        }
        let elsewhere = match envelope.source {
            IpAddr::V4(_) => other(0),
            IpAddr::V6(_) => PEER_V6,
        };
        let from_another =
            Received { envelope: Envelope { source: elsewhere, ..envelope }, ..received.clone() };
        assert_eq!(receiver.verify(at, &from_another), Err(Discard::AuthHmac));
        // The checksum is not; and after all those forgeries, the true one is still no replay.
        let mut message = received.message.to_vec();
        message[field::CHECKSUM].fill(0xff);
        assert!(receiver.verify(at, &Received { message: &message, ..received }).is_ok());
    }
}

#[test]
fn each_mode_asks_for_what_its_name_says() {
    let at = wall(NOW);
    let mut signer = router(&auth_hmac(), &[]);
    let unsigned = |receiver: &mut Authenticator| {
        let mut quiet = router(&settings(|s| s.mode = AuthMode::ReceiveOnly), &[]);
        let packet = packet(&mut quiet, PEER, at);
        assert_eq!(packet.len(), ours().message_len(), "receive-only does not sign");
        hear(receiver, PEER, at, &packet)
    };
    for mode in [AuthMode::ReceiveOnly, AuthMode::Permissive, AuthMode::Enforce] {
        let mut receiver = router(&settings(|s| s.mode = mode), &[]);
        let expected =
            if mode == AuthMode::Enforce { Err(Discard::AuthMissing) } else { Ok(Verified::Unsigned) };
        assert_eq!(unsigned(&mut receiver), expected, "{mode:?}");
        // A signature that is there must be right in every mode.
        let mut packet = packet(&mut signer, PEER, at);
        assert!(matches!(hear(&mut receiver, PEER, at, &packet), Ok(Verified::Signed { .. })), "{mode:?}");
        *packet.last_mut().unwrap() ^= 1;
        assert_eq!(hear(&mut receiver, PEER, at, &packet), Err(Discard::AuthHmac), "{mode:?}");
        let signs = receiver.sign(at, SOURCE, &ours()).unwrap().is_some();
        assert_eq!(signs, mode != AuthMode::ReceiveOnly, "{mode:?}");
    }
    // Without `auth_hmac` it is the other way round.
    let signed = packet(&mut signer, PEER, at);
    let envelope = Envelope { source: PEER, destination: GROUP, hop_limit: 255 };
    let received = Advertisement::parse(&envelope, &signed).unwrap();
    assert_eq!(admit(None, at, &received), Err(Discard::AuthUnexpected));
    assert_eq!(admit(None, at, &Received { trailer: None, ..received.clone() }), Ok(Verified::Unsigned));
    assert!(admit(Some(&mut router(&auth_hmac(), &[])), at, &received).is_ok());
}

#[test]
fn the_window_is_as_wide_as_it_says_in_both_directions() {
    for behind in -10..=10_i32 {
        let mut sender = router(&auth_hmac(), &[]);
        let sent = packet(&mut sender, PEER, wall(NOW - 10));
        let at = wall((NOW - 10).saturating_add_signed(behind.into()));
        let expected = match behind.abs() {
            0..=2 => Ok(Verified::Signed { skew: behind, drifting: false }),
            3..=5 => Ok(Verified::Signed { skew: behind, drifting: true }),
            _ => Err(Discard::AuthStale(behind)),
        };
        assert_eq!(hear(&mut router(&auth_hmac(), &[]), PEER, at, &sent), expected);
        let monotonic = settings(|s| s.anti_replay = AntiReplay::Monotonic);
        let heard = hear(&mut router(&monotonic, &[]), PEER, at, &sent);
        assert_eq!(
            heard,
            Ok(Verified::Signed { skew: behind, drifting: false }),
            "the clock does not matter"
        );
    }
}

#[test]
fn every_sequence_is_accepted_once_and_only_growing() {
    for anti_replay in [AntiReplay::Time, AntiReplay::Monotonic] {
        let settings = settings(|s| s.anti_replay = anti_replay);
        let (mut sender, mut receiver) = (router(&settings, &[]), router(&settings, &[]));
        let at = wall(NOW);
        let sent: Vec<_> = (0..5).map(|_| packet(&mut sender, PEER, at)).collect();
        for number in [0, 2, 4] {
            assert!(hear(&mut receiver, PEER, at, &sent[number]).is_ok());
        }
        for replayed in &sent {
            assert_eq!(hear(&mut receiver, PEER, at, replayed), Err(Discard::AuthReplay));
        }
        // A later one has a later time, not a higher counter.
        let later = packet(&mut sender, PEER, at + Duration::from_millis(10));
        assert!(hear(&mut receiver, PEER, at + Duration::from_millis(10), &later).is_ok());
    }
}

/// No state on disk: the clock went on meanwhile, and that is enough.
#[test]
fn a_restart_is_no_replay() {
    let mut receiver = router(&auth_hmac(), &[]);
    let mut at = wall(NOW);
    for _life in 0..10 {
        let mut sender = router(&auth_hmac(), &[]);
        // Faster than the clock's resolution: the counter runs ahead of it, but not by as much as a restart takes.
        for _ in 0..100 {
            let sent = packet(&mut sender, PEER, at);
            assert!(hear(&mut receiver, PEER, at, &sent).is_ok());
        }
        at += Duration::from_millis(1);
    }
}

#[test]
fn a_clock_that_is_put_right_does_not_silence_anybody() {
    // The sender's clock was an hour ahead: its packets were stale. Then it is put back, and they are good at once.
    let (mut sender, mut receiver) = (router(&auth_hmac(), &[]), router(&auth_hmac(), &[]));
    let wrong = packet(&mut sender, PEER, wall(NOW + 3600));
    assert_eq!(hear(&mut receiver, PEER, wall(NOW), &wrong), Err(Discard::AuthStale(-3600)));
    let right = packet(&mut sender, PEER, wall(NOW + 1));
    assert!(hear(&mut receiver, PEER, wall(NOW + 1), &right).is_ok());

    // A step back inside the window: the sequence goes on growing, so nothing is lost.
    let step = packet(&mut sender, PEER, wall(NOW - 3));
    assert!(hear(&mut receiver, PEER, wall(NOW + 1), &step).is_ok());

    // Both were wrong together, and are put right together: the mark of the future does not stay.
    let (mut sender, mut receiver) = (router(&auth_hmac(), &[]), router(&auth_hmac(), &[]));
    let future = packet(&mut sender, PEER, wall(NOW + 3600));
    assert!(hear(&mut receiver, PEER, wall(NOW + 3600), &future).is_ok());
    let now = packet(&mut sender, PEER, wall(NOW));
    assert!(hear(&mut receiver, PEER, wall(NOW), &now).is_ok());

    // Monotonic keeps growing whatever the clock does: that is all it promises.
    let monotonic = settings(|s| s.anti_replay = AntiReplay::Monotonic);
    let (mut sender, mut receiver) = (router(&monotonic, &[]), router(&monotonic, &[]));
    let future = packet(&mut sender, PEER, wall(NOW + 3600));
    assert!(hear(&mut receiver, PEER, wall(NOW), &future).is_ok());
    let now = packet(&mut sender, PEER, wall(NOW));
    assert!(hear(&mut receiver, PEER, wall(NOW), &now).is_ok());
    let restarted = packet(&mut router(&monotonic, &[]), PEER, wall(NOW));
    assert_eq!(hear(&mut receiver, PEER, wall(NOW), &restarted), Err(Discard::AuthReplay));
}

/// 2038 ends the signed half of 32 bits, 2106 the whole of it.
#[test]
fn the_seconds_may_wrap() {
    for wrap in [1 << 31, 1_u64 << 32] {
        for anti_replay in [AntiReplay::Time, AntiReplay::Monotonic] {
            let settings = settings(|s| s.anti_replay = anti_replay);
            let (mut sender, mut receiver) = (router(&settings, &[]), router(&settings, &[]));
            for seconds in wrap - 3..wrap + 3 {
                let sent = packet(&mut sender, PEER, wall(seconds));
                assert!(hear(&mut receiver, PEER, wall(seconds), &sent).is_ok(), "{seconds:#x}");
                assert_eq!(hear(&mut receiver, PEER, wall(seconds), &sent), Err(Discard::AuthReplay));
                let restarted =
                    packet(&mut router(&settings, &[]), PEER, wall(seconds) + Duration::from_millis(500));
                assert!(hear(&mut receiver, PEER, wall(seconds), &restarted).is_ok(), "{seconds:#x}");
            }
        }
    }
    // A clock that was never set, or is before 1970.
    let sent = packet(&mut router(&auth_hmac(), &[]), PEER, SystemTime::UNIX_EPOCH - Duration::from_secs(9));
    assert_eq!(
        hear(&mut router(&auth_hmac(), &[]), PEER, wall(NOW), &sent),
        Err(Discard::AuthStale(i32::try_from(NOW).unwrap()))
    );
}

#[test]
fn unicast_remembers_each_peer_and_nobody_else() {
    let peers: Vec<IpAddr> = (0..10).map(other).collect();
    let mut receiver = router(&auth_hmac(), &peers);
    let at = wall(NOW);
    let sent: Vec<_> = peers.iter().map(|peer| packet(&mut router(&auth_hmac(), &[]), *peer, at)).collect();
    for (peer, sent) in peers.iter().zip(&sent) {
        assert!(hear(&mut receiver, *peer, at, sent).is_ok());
    }
    for (peer, sent) in peers.iter().zip(&sent) {
        assert_eq!(hear(&mut receiver, *peer, at, sent), Err(Discard::AuthReplay));
    }
    let stranger = packet(&mut router(&auth_hmac(), &[]), PEER, at);
    assert_eq!(hear(&mut receiver, PEER, at, &stranger), Err(Discard::NotAPeer(PEER)));
}

#[test]
fn multicast_remembers_the_last_four_who_could_sign() {
    let mut receiver = router(&auth_hmac(), &[]);
    let at = wall(NOW);
    let sent: Vec<_> = (0..5).map(|n| packet(&mut router(&auth_hmac(), &[]), other(n), at)).collect();
    for n in 0..4_u8 {
        assert!(hear(&mut receiver, other(n), at, &sent[usize::from(n)]).is_ok());
    }
    // Forged senders push nobody out.
    let mut forger = router(&settings(|s| s.keys = vec![key(7, 0)]), &[]);
    for n in 10..60 {
        let forged = packet(&mut forger, other(n), at);
        assert_eq!(hear(&mut receiver, other(n), at, &forged), Err(Discard::AuthHmac));
    }
    // All four are remembered; the look at the first makes the second the least recent.
    for n in [1, 2, 3, 0_u8] {
        assert_eq!(hear(&mut receiver, other(n), at, &sent[usize::from(n)]), Err(Discard::AuthReplay));
    }
    assert!(hear(&mut receiver, other(4), at, &sent[4]).is_ok());
    for n in [0, 2, 3, 4_u8] {
        assert_eq!(hear(&mut receiver, other(n), at, &sent[usize::from(n)]), Err(Discard::AuthReplay), "{n}");
    }
    assert!(hear(&mut receiver, other(1), at, &sent[1]).is_ok(), "the fifth took its place");
}

#[test]
fn keys_rotate_without_a_gap() {
    let at = wall(NOW);
    let old = settings(|s| s.keys = vec![key(7, 1)]);
    let both = |active| {
        settings(|s| {
            s.keys = vec![key(7, 1), key(8, 2)];
            s.active_key = NonZeroU8::new(active).unwrap();
        })
    };
    let new = settings(|s| {
        s.keys = vec![key(8, 2)];
        s.active_key = NonZeroU8::new(8).unwrap();
    });
    let mut a = router(&old, &[]);
    let mut b = router(&old, &[]);
    let meet = |a: &mut Authenticator, b: &mut Authenticator| {
        let (from_a, from_b) = (packet(a, SOURCE, at), packet(b, PEER, at));
        assert!(hear(b, SOURCE, at, &from_a).is_ok() && hear(a, PEER, at, &from_b).is_ok());
        from_a
    };
    let first = meet(&mut a, &mut b);
    for step in [both(7), both(8), new.clone()] {
        a.reconfigure(&step, &[]).unwrap();
        meet(&mut a, &mut b);
        b.reconfigure(&step, &[]).unwrap();
        meet(&mut a, &mut b);
    }
    assert_eq!(hear(&mut b, SOURCE, at, &first), Err(Discard::AuthUnknownKey(7)));
    // The same id with another secret.
    let mut other_secret = router(&settings(|s| s.keys = vec![key(7, 3)]), &[]);
    assert_eq!(hear(&mut other_secret, SOURCE, at, &first), Err(Discard::AuthHmac));

    let wrong = settings(|s| s.active_key = NonZeroU8::new(9).unwrap());
    assert_eq!(a.reconfigure(&wrong, &[]), Err(AuthError::NoActiveKey(9)));
    meet(&mut a, &mut b);
    let refused = Authenticator::new(&wrong, Family::Ipv4, 3, vrid(60), &[]);
    assert_eq!(refused.err(), Some(AuthError::NoActiveKey(9)));
}

#[test]
fn what_was_heard_survives_a_reload() {
    let at = wall(NOW);
    for (before, after) in [(vec![], vec![]), (vec![PEER, other(1)], vec![other(2), PEER])] {
        let (mut sender, mut receiver) = (router(&auth_hmac(), &[]), router(&auth_hmac(), &before));
        let sent = packet(&mut sender, PEER, at);
        assert!(hear(&mut receiver, PEER, at, &sent).is_ok());
        receiver.reconfigure(&auth_hmac(), &after).unwrap();
        assert_eq!(hear(&mut receiver, PEER, at, &sent), Err(Discard::AuthReplay));
        // Ours goes on growing, too, in the same instant.
        let first = packet(&mut sender, SOURCE, at);
        sender.reconfigure(&auth_hmac(), &[]).unwrap();
        let second = packet(&mut sender, SOURCE, at);
        let mut listener = router(&auth_hmac(), &[]);
        assert!(
            hear(&mut listener, SOURCE, at, &first).is_ok()
                && hear(&mut listener, SOURCE, at, &second).is_ok()
        );
    }
}

#[test]
fn one_trailer_fits_every_peer() {
    let at = wall(NOW);
    for (source, destinations, meaning) in [
        (SOURCE, [PEER, other(1), GROUP], advert(100, v2(Auth::None), &[VIP])),
        (SOURCE, [PEER, other(1), GROUP], ours()),
        (
            LINK_LOCAL,
            [PEER_V6, SOURCE_V6, ALL_ROUTERS_V6],
            advert(100, v3(1, VrrpChecksum::Keepalived), &[VIP_V6]),
        ),
    ] {
        let new = || {
            let version = meaning.dialect.version();
            Authenticator::new(&auth_hmac(), Family::of(source), version, vrid(60), &[]).unwrap()
        };
        let trailer = new().sign(at, source, &meaning).unwrap();
        for destination in destinations {
            let mut buffer = [0; LONGEST_MESSAGE];
            let len = meaning.emit(source, destination, trailer.as_ref(), &mut buffer).unwrap();
            let envelope = Envelope { source, destination, hop_limit: 255 };
            let received = Advertisement::parse(&envelope, &buffer[..len]).unwrap();
            assert!(new().verify(at, &received).is_ok(), "{destination}");
        }
    }
    // An advertisement that cannot be written cannot be signed.
    let nothing = advert(100, v2(Auth::None), &[]);
    assert_eq!(router(&auth_hmac(), &[]).sign(at, SOURCE, &nothing), Err(EncodeError::AddressCount(0)));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?}", router(&settings(|s| s.keys = vec![key(7, 0xab)]), &[]));
    assert!(!shown.contains("ab, ab") && !shown.contains("171") && !shown.contains("abab"), "{shown}");
}
