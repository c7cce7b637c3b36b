use proptest::prelude::*;

use super::*;

const SOURCE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 3);
const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
const VIP2: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);

fn vrid(value: u8) -> Vrid {
    Vrid(NonZeroU8::new(value).unwrap())
}

fn v2(auth: Auth) -> Dialect {
    Dialect::V2 { interval: Seconds::new(1).unwrap(), auth }
}

fn v3(centiseconds: u16, checksum: VrrpChecksum) -> Dialect {
    Dialect::V3 { interval: Centiseconds::new(centiseconds).unwrap(), checksum }
}

fn advert(priority: u8, dialect: Dialect, addresses: &[Ipv4Addr]) -> Advertisement {
    Advertisement { vrid: vrid(60), priority: Priority(priority), dialect, addresses: addresses.to_vec() }
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Emits into a buffer full of 0xa5, so that a byte that is never written shows.
fn emit(advertisement: &Advertisement, destination: Ipv4Addr) -> Vec<u8> {
    let mut buffer = [0xa5; 64];
    let len = advertisement.emit(SOURCE, destination, &mut buffer).unwrap();
    assert!(buffer[len..].iter().all(|byte| *byte == 0xa5), "wrote behind the message");
    buffer[..len].to_vec()
}

fn envelope(destination: Ipv4Addr) -> Envelope {
    Envelope { source: SOURCE, destination, ttl: 255 }
}

/// What keepalived 2.2.7 sent (`tests/golden/vrrp/README.md` says how it was recorded), and what it means.
fn golden() -> Vec<(&'static str, &'static str, Ipv4Addr, Advertisement)> {
    macro_rules! recorded {
        ($name:literal) => {
            include_str!(concat!("../../../../tests/golden/vrrp/", $name, ".hex"))
        };
    }
    let pass = Auth::Simple(Password::new("1111").unwrap());
    let pseudo = VrrpChecksum::Keepalived;
    vec![
        ("v2-unicast", recorded!("v2-unicast"), PEER, advert(102, v2(Auth::None), &[VIP])),
        ("v2-unicast, leaving", recorded!("v2-unicast-priority-0"), PEER, advert(0, v2(Auth::None), &[VIP])),
        ("v2-multicast-pass", recorded!("v2-multicast-pass"), GROUP, advert(101, v2(pass), &[VIP])),
        (
            "v2-multicast-pass, leaving",
            recorded!("v2-multicast-pass-priority-0"),
            GROUP,
            advert(0, v2(pass), &[VIP]),
        ),
        ("v3-unicast", recorded!("v3-unicast"), PEER, advert(150, v3(20, pseudo), &[VIP])),
        ("v3-unicast, leaving", recorded!("v3-unicast-priority-0"), PEER, advert(0, v3(20, pseudo), &[VIP])),
        ("v3-multicast", recorded!("v3-multicast"), GROUP, advert(100, v3(20, pseudo), &[VIP, VIP2])),
        (
            "v3-multicast, leaving",
            recorded!("v3-multicast-priority-0"),
            GROUP,
            advert(0, v3(20, pseudo), &[VIP, VIP2]),
        ),
    ]
}

#[test]
fn keepalived_bytes_decode_and_encode_to_the_same_bytes() {
    for (name, hex, destination, meaning) in golden() {
        let packet = bytes(hex);
        let (envelope, message) = Envelope::open(&packet).expect(name);
        assert_eq!(envelope, Envelope { source: SOURCE, destination, ttl: 255 }, "{name}");
        assert_eq!(Advertisement::parse(&envelope, message), Ok(meaning.clone()), "{name}");
        assert_eq!(emit(&meaning, destination), message, "{name}");
    }
}

/// keepalived 2.2.7 cannot send RFC 9568's checksum, so the recorded message is summed again by hand:
/// 313c + 9601 + 0014 + ac10 + 000a = 1736b, folded 736c, inverted 8c93.
#[test]
fn the_rfc_checksum_sums_the_message_alone() {
    let meaning = advert(150, v3(20, VrrpChecksum::Rfc9568), &[VIP]);
    let message = bytes("313c960100148c93ac10000a");
    assert_eq!(emit(&meaning, PEER), message);
    assert_eq!(Advertisement::parse(&envelope(PEER), &message), Ok(meaning.clone()));
    // It does not depend on the envelope; the other one does.
    assert_eq!(Advertisement::parse(&envelope(GROUP), &message), Ok(meaning));
    let with_pseudo_header = emit(&advert(150, v3(20, VrrpChecksum::Keepalived), &[VIP]), PEER);
    assert_eq!(Advertisement::parse(&envelope(GROUP), &with_pseudo_header), Err(Discard::Checksum));
}

#[test]
fn every_single_bit_error_is_noticed() {
    for (name, hex, destination, meaning) in golden() {
        let packet = bytes(hex);
        let message = &packet[20..];
        for bit in 0..message.len() * 8 {
            let mut damaged = message.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let parsed = Advertisement::parse(&envelope(destination), &damaged);
            assert!(parsed.is_err(), "{name}: bit {bit} of {meaning:?} gave {parsed:?}");
        }
    }
}

#[test]
fn each_check_has_its_reason() {
    let good = emit(&advert(100, v3(20, VrrpChecksum::Rfc9568), &[VIP]), PEER);
    let parse = |message: &[u8]| Advertisement::parse(&envelope(PEER), message).map(|_| ());
    // The checks before the checksum see the changed byte; those behind it need it put right again.
    let changed = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message[field::CHECKSUM].fill(0);
        let checksum = !fold(ones_complement_sum(&message));
        message[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        message
    };
    assert_eq!(parse(&good), Ok(()));
    let routed = Envelope { ttl: 254, ..envelope(PEER) };
    assert_eq!(Advertisement::parse(&routed, &good), Err(Discard::Ttl(254)));
    assert_eq!(parse(&good[..7]), Err(Discard::Length));
    assert_eq!(parse(&[&good[..], &[0]].concat()), Err(Discard::Length));
    assert_eq!(parse(&changed(field::COUNT, 2)), Err(Discard::Length));
    assert_eq!(parse(&changed(field::COUNT, 0)), Err(Discard::NoAddresses));
    assert_eq!(parse(&changed(field::VERSION_TYPE, 0x41)), Err(Discard::Version(4)));
    assert_eq!(parse(&changed(field::VERSION_TYPE, 0x32)), Err(Discard::Type(2)));
    assert_eq!(parse(&changed(field::VRID, 0)), Err(Discard::ZeroVrid));
    assert_eq!(parse(&changed(field::MAX_ADVERTISE_INTERVAL.end - 1, 0)), Err(Discard::ZeroInterval));
    assert_eq!(
        parse(&changed(field::MAX_ADVERTISE_INTERVAL.start, 0xf0)),
        Ok(()),
        "reserved bits are ignored"
    );
    let mut wrong = good.clone();
    wrong[field::CHECKSUM.start] ^= 0xff;
    assert_eq!(parse(&wrong), Err(Discard::Checksum));
    let mut ah = emit(&advert(100, v2(Auth::None), &[VIP]), PEER);
    ah[field::AUTH_TYPE] = 2;
    ah[field::CHECKSUM].fill(0);
    let checksum = !fold(ones_complement_sum(&ah));
    ah[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(parse(&ah), Err(Discard::AuthType(2)));
}

#[test]
fn an_advertisement_is_for_one_router_in_one_dialect() {
    let secret = Auth::Simple(Password::new("1111").unwrap());
    let other = Auth::Simple(Password::new("1112").unwrap());
    let slow = Dialect::V2 { interval: Seconds::new(2).unwrap(), auth: secret };
    let rfc = v3(20, VrrpChecksum::Rfc9568);
    let pseudo = v3(100, VrrpChecksum::Keepalived);
    let cases = [
        (v2(secret), 60, v2(secret), Ok(())),
        (v2(secret), 61, v2(secret), Err(Discard::OtherVrid(vrid(60)))),
        (v2(other), 60, v2(secret), Err(Discard::Auth)),
        (v2(Auth::None), 60, v2(secret), Err(Discard::Auth)),
        (v2(secret), 60, v2(Auth::None), Err(Discard::Auth)),
        (slow, 60, v2(secret), Err(Discard::Interval(Seconds::new(2).unwrap()))),
        (v2(Auth::None), 60, rfc, Err(Discard::Version(2))),
        (rfc, 60, v2(Auth::None), Err(Discard::Version(3))),
        // Version 3 accepts either checksum and any interval.
        (rfc, 60, pseudo, Ok(())),
        (pseudo, 60, rfc, Ok(())),
    ];
    for (theirs, id, ours, expected) in cases {
        assert_eq!(
            advert(100, theirs, &[VIP]).check(vrid(id), &ours),
            expected,
            "{theirs:?} for {id} {ours:?}"
        );
    }
    let two = advert(100, rfc, &[VIP, VIP2]);
    assert!(two.lists_same_addresses(&[VIP2, VIP]));
    assert!(!two.lists_same_addresses(&[VIP]));
    assert!(!two.lists_same_addresses(&[VIP, SOURCE]));
}

#[test]
fn values_cannot_be_wrong() {
    assert_eq!(Centiseconds::new(0), None);
    assert_eq!(Centiseconds::new(4096), None);
    assert_eq!(Centiseconds::new(4095).map(Centiseconds::get), Some(4095));
    assert_eq!(Centiseconds::from_duration(Duration::from_millis(200)).map(Centiseconds::get), Some(20));
    assert_eq!(Centiseconds::from_duration(Duration::from_millis(205)), None);
    assert_eq!(Centiseconds::from_duration(Duration::from_nanos(10_000_001)), None);
    assert_eq!(Centiseconds::from_duration(Duration::from_millis(40_960)), None);
    assert_eq!(Centiseconds::from_duration(Duration::MAX), None);
    assert_eq!(Seconds::from_duration(Duration::from_secs(255)).map(Seconds::get), Some(255));
    assert_eq!(Seconds::from_duration(Duration::from_secs(256)), None);
    assert_eq!(Seconds::from_duration(Duration::from_millis(1500)), None);
    assert_eq!(Seconds::from_duration(Duration::ZERO), None);
    assert_eq!(Password::new("123456789"), None);
    assert_eq!(Password::new(""), None);
    assert!(!format!("{:?}", Password::new("geheim")).contains("geheim"));
}

#[test]
fn what_does_not_fit_is_not_written() {
    let one = advert(1, v2(Auth::None), &[VIP]);
    assert_eq!(one.emit(SOURCE, PEER, &mut [0; 19]), Err(EncodeError::BufferTooShort { needed: 20 }));
    let none = advert(1, v2(Auth::None), &[]);
    assert_eq!(none.emit(SOURCE, PEER, &mut [0; 64]), Err(EncodeError::AddressCount(0)));
    let many = advert(1, v2(Auth::None), &[VIP; 256]);
    assert_eq!(many.emit(SOURCE, PEER, &mut [0; 2048]), Err(EncodeError::AddressCount(256)));
}

#[test]
fn the_envelope_is_checked_before_the_message() {
    let packet = bytes(golden()[0].1);
    for len in 0..packet.len() {
        assert_eq!(Envelope::open(&packet[..len]), Err(Discard::IpHeader), "{len} bytes");
    }
    let padded = [&packet[..], &[0; 6]].concat();
    assert_eq!(Envelope::open(&padded), Envelope::open(&packet));
    for (at, value) in [(0, 0x65), (0, 0x44), (9, 6), (3, 19)] {
        let mut wrong = packet.clone();
        wrong[at] = value;
        assert_eq!(Envelope::open(&wrong), Err(Discard::IpHeader), "byte {at} = {value:#x}");
    }
    // An option (here: four times "no operation") moves the message.
    let mut with_option = [&packet[..20], &[1; 4], &packet[20..]].concat();
    with_option[0] = 0x46;
    with_option[3] += 4;
    assert_eq!(Envelope::open(&with_option).map(|(_, message)| message), Ok(&packet[20..]));
}

fn any_dialect() -> impl Strategy<Value = Dialect> {
    let auth = prop_oneof![
        Just(Auth::None),
        "[ -~]{1,8}".prop_map(|text| Auth::Simple(Password::new(&text).unwrap())),
    ];
    let checksum = prop_oneof![Just(VrrpChecksum::Keepalived), Just(VrrpChecksum::Rfc9568)];
    prop_oneof![
        (1..=255u8, auth).prop_map(|(s, auth)| Dialect::V2 { interval: Seconds::new(s).unwrap(), auth }),
        (1..=4095u16, checksum).prop_map(|(cs, checksum)| v3(cs, checksum)),
    ]
}

proptest! {
    #[test]
    fn what_is_emitted_parses_to_itself(
        id in 1..=255u8, priority: u8, dialect in any_dialect(), addresses in prop::collection::vec(any::<Ipv4Addr>(), 1..256),
        source: Ipv4Addr, destination: Ipv4Addr,
    ) {
        let meaning = Advertisement { vrid: vrid(id), priority: Priority(priority), dialect, addresses };
        // A pseudo-header that sums to zero makes both checksums the same.
        prop_assume!(fold(pseudo_header(source, destination, meaning.message_len())) != 0xffff);
        let mut buffer = vec![0xa5; meaning.message_len()];
        meaning.emit(source, destination, &mut buffer).unwrap();
        prop_assert_eq!(Advertisement::parse(&Envelope { source, destination, ttl: 255 }, &buffer), Ok(meaning));
    }

    #[test]
    fn nothing_from_the_network_panics(packet in prop::collection::vec(any::<u8>(), 0..80), fix: bool) {
        let mut packet = packet;
        if fix && packet.len() >= 28 {
            let len = packet.len() as u8;
            packet[..4].copy_from_slice(&[0x45, 0, 0, len]);
            packet[8..10].copy_from_slice(&[255, PROTOCOL]);
            packet[20] = 0x21 + (packet[20] & 0x10);
        }
        if let Ok((envelope, message)) = Envelope::open(&packet) {
            let _ = Advertisement::parse(&envelope, message);
        }
    }
}
