use std::{collections::BTreeSet, fs};

use proptest::prelude::*;

use super::{
    super::golden::{
        self, ALL_ROUTERS_V6, GROUP, LINK_LOCAL, PEER, PEER_V6, SOURCE, SOURCE_V6, VIP, VIP_V6, VIP2, advert,
        bytes, v2, v3, vrid,
    },
    *,
};

/// Emits into a buffer full of 0xa5, so that a byte that is never written shows.
fn emit_from(
    advertisement: &Advertisement,
    source: IpAddr,
    destination: IpAddr,
    trailer: Option<&Trailer>,
) -> Vec<u8> {
    let mut buffer = [0xa5; 128];
    let len = advertisement.emit(source, destination, trailer, &mut buffer).unwrap();
    assert!(buffer[len..].iter().all(|byte| *byte == 0xa5), "wrote behind the message");
    assert_eq!(len, advertisement.message_len() + trailer.map_or(0, |_| Trailer::LEN));
    buffer[..len].to_vec()
}

fn emit(advertisement: &Advertisement, destination: IpAddr) -> Vec<u8> {
    emit_from(advertisement, SOURCE, destination, None)
}

fn envelope(destination: IpAddr) -> Envelope {
    Envelope { source: SOURCE, destination, hop_limit: 255 }
}

/// What it means, without the rest.
fn parse(envelope: &Envelope, message: &[u8]) -> Result<Advertisement, Discard> {
    Advertisement::parse(envelope, message).map(|received| received.advertisement)
}

#[test]
fn keepalived_bytes_decode_and_encode_to_the_same_bytes() {
    for golden in golden::all() {
        let name = golden.name;
        let (envelope, message) = golden.open().expect(name);
        assert_eq!(envelope, golden.envelope, "{name}");
        let received = Advertisement::parse(&envelope, message).expect(name);
        assert_eq!(received.advertisement, golden.meaning, "{name}");
        assert_eq!(received.trailer.is_some(), golden.signed, "{name}");
        assert_eq!(received.message, &message[..golden.meaning.message_len()], "{name}");
        let Envelope { source, destination, .. } = envelope;
        assert_eq!(
            emit_from(&golden.meaning, source, destination, received.trailer.as_ref()),
            message,
            "{name}"
        );
    }
}

/// A recorded file that no test reads proves nothing.
#[test]
fn every_recorded_advertisement_is_read() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vrrp");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let recorded: BTreeSet<String> =
        files.filter_map(|name| name.strip_suffix(".hex").map(str::to_owned)).collect();
    // Those two are not VRRP: `announce/tests.rs` reads them.
    let others = ["garp", "na"].map(str::to_owned);
    let read = golden::all().iter().map(|golden| golden.name.to_owned()).chain(others).collect();
    assert_eq!(recorded, read);
}

/// keepalived 2.2.7 cannot send RFC 9568's checksum, so the recorded message is summed again by hand:
/// 313c + 9601 + 0014 + ac10 + 000a = 1736b, folded 736c, inverted 8c93.
#[test]
fn the_rfc_checksum_sums_the_message_alone() {
    let meaning = advert(150, v3(20, VrrpChecksum::Rfc9568), &[VIP]);
    let message = bytes("313c960100148c93ac10000a");
    assert_eq!(emit(&meaning, PEER), message);
    assert_eq!(parse(&envelope(PEER), &message), Ok(meaning.clone()));
    // It does not depend on the envelope; the other one does.
    assert_eq!(parse(&envelope(GROUP), &message), Ok(meaning));
    let with_pseudo_header = emit(&advert(150, v3(20, VrrpChecksum::Keepalived), &[VIP]), PEER);
    assert_eq!(parse(&envelope(GROUP), &with_pseudo_header), Err(Discard::Checksum));
}

/// RFC 9568 §5.2.8: over IPv6 there is no choice. By hand, for fd00::2 to fd00::3 and one address fd00::10: pseudo-header
/// fd00 + 2 + fd00 + 3 + 0018 + 0070 = 1fa8d, message 313c + 9601 + 0014 + fd00 + 0010 = 1c461, together 3beee, folded
/// bef1, inverted 410e: as keepalived recorded it.
#[test]
fn over_ipv6_the_pseudo_header_is_always_summed() {
    for checksum in [VrrpChecksum::Keepalived, VrrpChecksum::Rfc9568] {
        let message = emit_from(&advert(150, v3(20, checksum), &[VIP_V6]), SOURCE_V6, PEER_V6, None);
        assert_eq!(message[field::CHECKSUM], [0x41, 0x0e]);
    }
    // The sum of the message alone, which would do over IPv4.
    let mut message =
        emit_from(&advert(150, v3(20, VrrpChecksum::Rfc9568), &[VIP_V6]), SOURCE_V6, PEER_V6, None);
    message[field::CHECKSUM].fill(0);
    let checksum = !fold(ones_complement_sum(&message));
    message[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
    let envelope = Envelope { source: SOURCE_V6, destination: PEER_V6, hop_limit: 255 };
    assert_eq!(parse(&envelope, &message), Err(Discard::Checksum));
}

/// In the message, and over IPv6 in the trailer; over IPv4 the checksum leaves the trailer to its HMAC.
#[test]
fn every_single_bit_error_is_noticed() {
    for golden in golden::all() {
        let (name, message) = (golden.name, golden.message());
        let covered = match Family::of(golden.envelope.source) {
            Family::Ipv4 => golden.meaning.message_len(),
            Family::Ipv6 => message.len(),
        };
        for bit in 0..covered * 8 {
            let mut damaged = message.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let parsed = parse(&golden.envelope, &damaged);
            assert!(parsed.is_err(), "{name}: bit {bit} gave {parsed:?}");
        }
    }
}

#[test]
fn a_trailer_is_known_by_the_length_alone() {
    let trailer = Trailer([0x5a; Trailer::LEN]);
    assert_eq!((trailer.ext_type(), trailer.key_id(), trailer.reserved()), (0x5a, 0x5a, 0x5a5a));
    assert_eq!(
        (trailer.sequence(), trailer.prefix().len(), trailer.hmac().len()),
        (0x5a5a_5a5a_5a5a_5a5a, 12, 16)
    );
    for (source, destination, meaning) in [
        (SOURCE, PEER, advert(100, v2(Auth::None), &[VIP])),
        (SOURCE, GROUP, advert(100, v3(20, VrrpChecksum::Keepalived), &[VIP, VIP2])),
        (SOURCE, GROUP, advert(100, v3(20, VrrpChecksum::Rfc9568), &[VIP])),
        (LINK_LOCAL, ALL_ROUTERS_V6, advert(100, v3(20, VrrpChecksum::Keepalived), &[VIP_V6])),
    ] {
        let envelope = Envelope { source, destination, hop_limit: 255 };
        let whole = emit_from(&meaning, source, destination, Some(&trailer));
        let received = Advertisement::parse(&envelope, &whole).unwrap();
        assert_eq!((received.trailer, &received.advertisement), (Some(trailer), &meaning));
        for len in 0..whole.len() {
            let parsed = Advertisement::parse(&envelope, &whole[..len]);
            // Over IPv4 the message is whole without its trailer; that is `auth-missing`, if anybody asks.
            if len == meaning.message_len() && source.is_ipv4() {
                assert_eq!(parsed.map(|received| received.trailer), Ok(None));
            } else if len == meaning.message_len() {
                assert_eq!(parsed, Err(Discard::Checksum));
            } else {
                assert_eq!(parsed, Err(Discard::Length), "{len} bytes");
            }
        }
        assert_eq!(parse(&envelope, &[&whole[..], &[0]].concat()), Err(Discard::Length));
    }
}

#[test]
fn the_hop_limit_says_whether_a_router_was_between() {
    let ipv4 = emit(&advert(100, v3(20, VrrpChecksum::Rfc9568), &[VIP]), PEER);
    let ipv6 = advert(100, v3(20, VrrpChecksum::Keepalived), &[VIP_V6]);
    let unicast = emit_from(&ipv6, SOURCE_V6, PEER_V6, None);
    let multicast = emit_from(&ipv6, SOURCE_V6, ALL_ROUTERS_V6, None);
    for hop_limit in 0..=255 {
        let with = |source, destination| Envelope { source, destination, hop_limit };
        let refused = |good: bool| if good { Ok(()) } else { Err(Discard::Ttl(hop_limit)) };
        let parse = |envelope, message| parse(&envelope, message).map(drop);
        assert_eq!(parse(with(SOURCE, PEER), &ipv4), refused(hop_limit == 255));
        assert_eq!(parse(with(SOURCE, GROUP), &ipv4), refused(hop_limit == 255));
        assert_eq!(parse(with(SOURCE_V6, ALL_ROUTERS_V6), &multicast), refused(hop_limit == 255));
        // keepalived's default there is the kernel's.
        assert_eq!(parse(with(SOURCE_V6, PEER_V6), &unicast), refused(matches!(hop_limit, 64 | 255)));
    }
}

#[test]
fn each_check_has_its_reason() {
    let good = emit(&advert(100, v3(20, VrrpChecksum::Rfc9568), &[VIP]), PEER);
    let parse = |message: &[u8]| Advertisement::parse(&envelope(PEER), message).map(drop);
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
    // Version 2 does not exist over IPv6.
    let mut old =
        emit_from(&advert(100, v3(20, VrrpChecksum::Keepalived), &[VIP_V6]), SOURCE_V6, PEER_V6, None);
    old[field::VERSION_TYPE] = 0x21;
    let envelope = Envelope { source: SOURCE_V6, destination: PEER_V6, hop_limit: 255 };
    assert_eq!(Advertisement::parse(&envelope, &old).map(drop), Err(Discard::Version(2)));
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
            advert(100, theirs, &[VIP]).check(vrid(id), &ours, &[VIP2, VIP]),
            expected,
            "{theirs:?} for {id} {ours:?}"
        );
    }
    // One address in common is enough, and none is another cluster.
    for dialect in [rfc, v2(secret)] {
        let strange = advert(100, dialect, &[VIP2]);
        assert_eq!(strange.check(vrid(60), &dialect, &[VIP]), Err(Discard::ForeignVips));
        assert_eq!(strange.check(vrid(60), &dialect, &[VIP, VIP2]), Ok(()));
        assert_eq!(strange.check(vrid(61), &dialect, &[VIP]), Err(Discard::OtherVrid(vrid(60))));
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
    let trailer = Trailer([0; Trailer::LEN]);
    assert_eq!(one.emit(SOURCE, PEER, None, &mut [0; 19]), Err(EncodeError::BufferTooShort { needed: 20 }));
    assert_eq!(
        one.emit(SOURCE, PEER, Some(&trailer), &mut [0; 47]),
        Err(EncodeError::BufferTooShort { needed: 48 })
    );
    let none = advert(1, v2(Auth::None), &[]);
    assert_eq!(none.emit(SOURCE, PEER, None, &mut [0; 64]), Err(EncodeError::AddressCount(0)));
    let many = advert(1, v2(Auth::None), &[VIP; 256]);
    assert_eq!(many.emit(SOURCE, PEER, None, &mut [0; 2048]), Err(EncodeError::AddressCount(256)));
    // The longest there is.
    let most = advert(1, v3(20, VrrpChecksum::Keepalived), &[VIP_V6; 255]);
    let mut buffer = [0; LONGEST_MESSAGE];
    assert_eq!(most.emit(SOURCE_V6, PEER_V6, Some(&trailer), &mut buffer), Ok(LONGEST_MESSAGE));
    // One family: of the addresses, the source and the destination. And none of version 2 over IPv6.
    let mixed = advert(1, v3(20, VrrpChecksum::Keepalived), &[VIP, VIP_V6]);
    assert_eq!(mixed.emit(SOURCE, PEER, None, &mut buffer), Err(EncodeError::Family(Family::Ipv4)));
    assert_eq!(most.emit(SOURCE, PEER, None, &mut buffer), Err(EncodeError::Family(Family::Ipv4)));
    assert_eq!(most.emit(SOURCE_V6, PEER, None, &mut buffer), Err(EncodeError::Family(Family::Ipv6)));
    let old = advert(1, v2(Auth::None), &[VIP_V6]);
    assert_eq!(old.emit(SOURCE_V6, PEER_V6, None, &mut buffer), Err(EncodeError::Family(Family::Ipv6)));
}

#[test]
fn the_envelope_is_checked_before_the_message() {
    let packet = golden::all().swap_remove(0).packet;
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

fn any_trailer() -> impl Strategy<Value = Option<Trailer>> {
    prop::option::of(any::<[u8; Trailer::LEN]>().prop_map(Trailer))
}

fn there_and_back(
    meaning: &Advertisement,
    source: IpAddr,
    destination: IpAddr,
    trailer: Option<Trailer>,
) -> Result<(), TestCaseError> {
    let mut buffer = vec![0xa5; meaning.message_len() + trailer.map_or(0, |_| Trailer::LEN)];
    prop_assert_eq!(meaning.emit(source, destination, trailer.as_ref(), &mut buffer), Ok(buffer.len()));
    let envelope = Envelope { source, destination, hop_limit: 255 };
    let received = Advertisement::parse(&envelope, &buffer);
    let message = &buffer[..meaning.message_len()];
    prop_assert_eq!(received, Ok(Received { envelope, advertisement: meaning.clone(), trailer, message }));
    Ok(())
}

proptest! {
    #[test]
    fn what_is_emitted_parses_to_itself(
        id in 1..=255u8, priority: u8, dialect in any_dialect(), addresses in prop::collection::vec(any::<Ipv4Addr>(), 1..256),
        source: Ipv4Addr, destination: Ipv4Addr, trailer in any_trailer(),
    ) {
        let (source, destination) = (source.into(), destination.into());
        let addresses = addresses.into_iter().map(IpAddr::from).collect();
        let meaning = Advertisement { vrid: vrid(id), priority: Priority(priority), dialect, addresses };
        // A pseudo-header that sums to zero makes both checksums the same.
        prop_assume!(fold(pseudo_header(source, destination, meaning.message_len())) != 0xffff);
        there_and_back(&meaning, source, destination, trailer)?;
    }

    #[test]
    fn what_is_emitted_over_ipv6_parses_to_itself(
        id in 1..=255u8, priority: u8, centiseconds in 1..=4095u16, addresses in prop::collection::vec(any::<Ipv6Addr>(), 1..256),
        source: Ipv6Addr, destination: Ipv6Addr, trailer in any_trailer(),
    ) {
        let addresses = addresses.into_iter().map(IpAddr::from).collect();
        let dialect = v3(centiseconds, VrrpChecksum::Keepalived);
        let meaning = Advertisement { vrid: vrid(id), priority: Priority(priority), dialect, addresses };
        there_and_back(&meaning, source.into(), destination.into(), trailer)?;
    }
}
