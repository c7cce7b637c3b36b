//! More than ten million inputs that a network may hold for us, in bounded time and the same ones each time: noise, and
//! what keepalived sent, damaged, cut, lengthened, put together anew, with the checksum put right again, and repeated.
//!
//! The judge of what is accepted shares no code with what accepts it.

use std::{
    net::IpAddr,
    num::NonZeroU8,
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    advert::{Advertisement, Centiseconds, Envelope, Interval, Received, Trailer, group},
    auth::{Authenticator, Verified},
    fsm::{ArrivalCredit, Event, Settings, VirtualRouter, VrrpState},
    golden::{self, Golden, auth_hmac, vrid},
};
use crate::config::model::Family;

const THREADS: u64 = 2;
const INPUTS: u64 = 10_500_000;
/// Longer than any recorded message, and than what is added to them.
const ROOM: usize = 192;
/// Inputs until the receivers forget whom they heard.
const LIFE: u64 = 5_000;

#[test]
fn ten_million_inputs_neither_panic_nor_pass_unverified() {
    let started = Instant::now();
    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..THREADS).map(|seed| scope.spawn(move || hammer(seed, INPUTS / THREADS))).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    println!("{outcomes:?} in {:?}", started.elapsed());
    // What is never accepted would prove nothing.
    for outcome in outcomes {
        assert!(outcome.parsed > INPUTS / THREADS / 100, "{outcome:?}");
        assert!(outcome.signed > 1_000 && outcome.replayed > 1_000 && outcome.forged > 1_000, "{outcome:?}");
    }
}

#[derive(Debug, Default)]
struct Outcome {
    /// Well-formed, with a right checksum.
    parsed: u64,
    /// Verified: what keepalived said, and nothing else.
    signed: u64,
    /// Refused as a repetition.
    replayed: u64,
    /// Refused for its HMAC.
    forged: u64,
}

/// SplitMix64: reproducible, and good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `limit`, which is small.
    fn below(&mut self, limit: usize) -> usize {
        (((self.next() >> 32) * limit as u64) >> 32) as usize
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// What a receiver of one kind of recorded packets looks like.
fn receivers(packets: &[Golden]) -> Vec<Authenticator> {
    let new = |golden: &Golden| {
        let Envelope { source, destination, .. } = golden.envelope;
        let family = Family::of(source);
        let peers = [source];
        let peers = if destination == group(family) { &[] } else { &peers[..] };
        Authenticator::new(&auth_hmac(), family, golden.meaning.dialect.version(), vrid(60), peers).unwrap()
    };
    packets.iter().map(new).collect()
}

/// A router that owns the VIP, above all that was recorded and below what a forger would write.
fn active_router(now: Instant) -> VirtualRouter {
    let settings = Settings {
        priority: NonZeroU8::new(200).unwrap(),
        interval: Interval::V3(Centiseconds::new(100).unwrap()),
        preempt: true,
        preempt_delay: Duration::ZERO,
        primary_address: IpAddr::from([172, 16, 0, 9]),
        arrival_credit: ArrivalCredit::OneInterval,
    };
    let mut router = VirtualRouter::new(settings, now - Duration::from_secs(60));
    router.handle(now - Duration::from_secs(60), Event::Start);
    let due = router.deadline().unwrap();
    router.handle(due, Event::Timer);
    // It has run ever since.
    while let Some(next) = router.deadline().filter(|next| *next <= now) {
        router.handle(next, Event::Timer);
    }
    router
}

fn hammer(seed: u64, inputs: u64) -> Outcome {
    let mut random = Random(seed);
    let packets = golden::all();
    let signed: Vec<&Golden> = packets.iter().filter(|golden| golden.signed).collect();
    // All were recorded within seconds of each other.
    let recorded =
        |golden: &Golden| u64::from(u32::from_be_bytes(tail(golden.message())[4..8].try_into().unwrap()));
    let now = signed.iter().map(|golden| recorded(golden)).max().unwrap() - 2;
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now);
    let mut fresh = receivers(&packets);
    let begun = Instant::now();
    let mut active = active_router(begun);
    let mut outcome = Outcome::default();
    let mut buffer = [0; ROOM];
    for number in 0..inputs {
        if number % LIFE == 0 {
            fresh = receivers(&packets);
        }
        let chosen = random.below(packets.len());
        let golden = &packets[chosen];
        let mut envelope = golden.envelope;
        let recorded = golden.message();
        buffer[..recorded.len()].copy_from_slice(recorded);
        let mut len = recorded.len();
        let mut mend = false;
        match random.below(8) {
            0 => {
                len = random.below(ROOM);
                random.fill(&mut buffer[..len]);
                // Half of it gets past the first look.
                if len > 0 && random.below(2) == 0 {
                    buffer[0] = if envelope.source.is_ipv4() { 0x21 } else { 0x31 };
                }
            }
            1 => len = random.below(len + 1),
            2 => {
                let longer = len + random.below(ROOM - len);
                random.fill(&mut buffer[len..longer]);
                len = longer;
            }
            3 => flip(&mut random, &mut buffer[..len]),
            4 => {
                flip(&mut random, &mut buffer[..len]);
                mend = true;
            }
            5 => {
                // A trailer, or the end of a message, of somebody else, to what may be another message.
                let donor = signed[random.below(signed.len())].message();
                let at = if random.below(2) == 0 { len.saturating_sub(Trailer::LEN) } else { len };
                buffer[at..at + Trailer::LEN].copy_from_slice(tail(donor));
                len = at + Trailer::LEN;
                mend = true;
            }
            6 => {
                let other = packets[random.below(packets.len())].envelope;
                match random.below(3) {
                    0 => envelope.source = other.source,
                    1 => envelope.destination = other.destination,
                    _ => envelope.hop_limit = random.next() as u8,
                }
                // The kernel does not mix families in one header.
                if envelope.source.is_ipv4() != envelope.destination.is_ipv4() {
                    envelope = other;
                }
                mend = random.below(2) == 0;
            }
            // As it was, sooner or later for the second time.
            _ => {}
        }
        if mend {
            put_right(&envelope, &mut buffer[..len]);
        }
        if envelope.source.is_ipv4() {
            open(&mut random, &golden.packet);
        }
        let message = &buffer[..len];
        let Ok(received) = Advertisement::parse(&envelope, message) else { continue };
        outcome.parsed += 1;
        assert!(is_sound(&envelope, message), "accepted {message:02x?} in {envelope:?}");
        match fresh[chosen].verify(now, &received) {
            Ok(Verified::Signed { .. }) => {
                outcome.signed += 1;
                let advert = &received.advertisement;
                active.handle(
                    begun,
                    Event::Advert {
                        source: envelope.source,
                        priority: advert.priority,
                        interval: advert.dialect.interval(),
                    },
                );
                assert_eq!(active.state(), VrrpState::Active, "the VIP was moved by {message:02x?}");
                assert!(
                    signed.iter().any(|golden| is_what_was_signed(golden, &received)),
                    "believed {message:02x?} in {envelope:?}"
                );
            }
            Ok(Verified::Unsigned) => panic!("nobody signed {message:02x?}"),
            Err(discard) => match discard.name() {
                "auth-replay" => outcome.replayed += 1,
                "auth-hmac" => outcome.forged += 1,
                _ => {}
            },
        }
    }
    outcome
}

fn tail(message: &[u8]) -> &[u8] {
    &message[message.len() - Trailer::LEN..]
}

fn flip(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        bytes[at] = if random.below(2) == 0 { bytes[at] ^ 1 << random.below(8) } else { random.next() as u8 };
    }
}

/// A whole IPv4 packet, damaged before its header is read.
fn open(random: &mut Random, packet: &[u8]) {
    let mut buffer = [0; ROOM];
    buffer[..packet.len()].copy_from_slice(packet);
    let at = random.below(24);
    buffer[at] = random.next() as u8;
    let len = random.below(ROOM);
    if let Ok((envelope, message)) = Envelope::open(&buffer[..len]) {
        assert!(message.len() + 20 <= len);
        let _ = Advertisement::parse(&envelope, message);
    }
}

/// Bytes that the checksum covers, as the message's own version and count say.
fn covered(envelope: &Envelope, message: &[u8]) -> usize {
    let [version_type, _, _, count, ..] = message else { return 0 };
    let len = match envelope.source {
        IpAddr::V4(_) if version_type >> 4 == 2 => 16 + usize::from(*count) * 4,
        IpAddr::V4(_) => 8 + usize::from(*count) * 4,
        IpAddr::V6(_) => message.len(),
    };
    len.min(message.len())
}

/// The sum of RFC 1071 by another way: a number modulo 65535.
fn remainder(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) * 256 + pair.get(1).map_or(0, |low| u64::from(*low));
    }
    sum % 65_535
}

fn pseudo_header_remainder(envelope: &Envelope, len: usize) -> u64 {
    let of = |address| match address {
        IpAddr::V4(address) => remainder(&std::net::Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => remainder(&std::net::Ipv6Addr::octets(&address)),
    };
    of(envelope.source) + of(envelope.destination) + 112 + len as u64
}

/// Makes the checksum right, as a forger would.
fn put_right(envelope: &Envelope, message: &mut [u8]) {
    let len = covered(envelope, message);
    if len < 8 {
        return;
    }
    message[6..8].fill(0);
    let mut sum = remainder(&message[..len]);
    if message[0] >> 4 == 3 {
        sum += pseudo_header_remainder(envelope, len);
    }
    let checksum = (65_535 - sum % 65_535) as u16;
    message[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether RFC 9568 §7.1 lets it pass.
fn is_sound(envelope: &Envelope, message: &[u8]) -> bool {
    let (version, count) = (message[0] >> 4, usize::from(message[3]));
    let ipv4 = envelope.source.is_ipv4();
    let width = if ipv4 { 4 } else { 16 };
    let plain_len = 8 + width * count + if version == 2 { 8 } else { 0 };
    let len = covered(envelope, message);
    let plain = remainder(&message[..len]);
    let with_pseudo_header = (plain + pseudo_header_remainder(envelope, len)) % 65_535;
    let checksum = match (version, ipv4) {
        (2, true) => plain == 0,
        (3, true) => plain == 0 || with_pseudo_header == 0,
        (3, false) => with_pseudo_header == 0,
        _ => false,
    };
    let hop_limit = match (envelope.hop_limit, envelope.destination) {
        (64, IpAddr::V6(destination)) => !destination.is_multicast(),
        (hop_limit, _) => hop_limit == 255,
    };
    let lengths = message.len() == plain_len || message.len() == plain_len + 28;
    checksum && hop_limit && lengths && message[0] & 15 == 1 && message[1] != 0 && count != 0
}

/// Apart from the checksum, and from whom it is for.
fn is_what_was_signed(golden: &Golden, received: &Received<'_>) -> bool {
    let Some((message, trailer)) = golden.message().split_at_checked(received.message.len()) else {
        return false;
    };
    golden.envelope.source == received.envelope.source
        && received.trailer.is_some_and(|theirs| theirs.0 == trailer)
        && message[..6] == received.message[..6]
        && message[8..] == received.message[8..]
}
