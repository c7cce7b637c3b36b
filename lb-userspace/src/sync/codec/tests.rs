use proptest::{collection::vec, prelude::*};

use super::*;
use crate::sync::memory::flow;

fn hello() -> Hello {
    Hello {
        version: VERSION,
        instance: [7; 16],
        node: "lb1".to_owned(),
        listen: "172.16.0.2:7946".parse().expect("an address"),
    }
}

fn tellings() -> Vec<Telling> {
    let vip: IpAddr = "2001:db8::10".parse().expect("an address");
    let mut of_ipv6 = flow(3);
    of_ipv6.id.client = "[2001:db8::1]:40000".parse().expect("an address");
    of_ipv6.to_client = None;
    of_ipv6.nat = None;
    let agreement = Agreement { total: [9; 32], parts: [("flows".to_owned(), u64::MAX)].into() };
    vec![
        Telling::Hello(hello()),
        Telling::Agreement(agreement),
        Telling::Holdings(BTreeSet::from([vip])),
        Telling::SyncBegin,
        Telling::Records { seq: u64::MAX, full: true, records: vec![flow(1), flow(u32::MAX), of_ipv6] },
        Telling::SyncEnd { seq: 1, records: 2, held: BTreeSet::from([vip]) },
        Telling::Alive,
    ]
}

#[test]
fn what_is_said_is_understood() {
    for said in tellings() {
        assert_eq!(telling(&encode(&said)), Ok(said));
    }
    for said in [Answer::Hello(hello()), Answer::Ack(u64::MAX), Answer::Again, Answer::Alive] {
        assert_eq!(answer(&encode(&said)), Ok(said));
    }
}

/// A record of IPv4 is what the bandwidth is reckoned with.
#[test]
fn a_record_is_small() {
    let records: Vec<FlowRecord> = (0..400).map(flow).collect();
    let length = encode(&Telling::Records { seq: 1, full: true, records }).len();
    assert!(length < 400 * 96, "{length}");
}

#[test]
fn whatever_is_cut_off_or_appended_is_refused() {
    for said in tellings() {
        let bytes = encode(&said);
        for length in 0..bytes.len() {
            assert_eq!(telling(&bytes[..length]), Err(Refused::Malformed), "{said:?} {length}");
        }
        let longer = [&bytes[..], &[0]].concat();
        let grown = matches!(said, Telling::Hello(_));
        assert_eq!(telling(&longer).is_ok(), grown, "only a Hello may have more at its end: {said:?}");
    }
}

#[test]
fn too_much_is_refused() {
    let records = (0..401).map(flow).collect();
    assert_eq!(telling(&encode(&Telling::Records { seq: 1, full: false, records })), Err(Refused::Malformed));
    let long = Hello { node: "x".repeat(256), ..hello() };
    assert_eq!(telling(&encode(&Telling::Hello(long.clone()))), Err(Refused::Malformed));
    assert_eq!(answer(&encode(&Answer::Hello(long))), Err(Refused::Malformed));
    let holdings = (0..5000_u32).map(|number| IpAddr::from(number.to_be_bytes())).collect();
    assert_eq!(telling(&encode(&Telling::Holdings(holdings))), Err(Refused::Malformed));
}

#[test]
fn another_version_is_told_from_nonsense() {
    let newer = Hello { version: 300, ..hello() };
    let mut bytes = encode(&Telling::Hello(newer.clone()));
    assert_eq!(telling(&bytes), Err(Refused::OtherVersion));
    assert_eq!(answer(&encode(&Answer::Hello(newer))), Err(Refused::OtherVersion));
    // Whatever else it has in it.
    bytes.truncate(3);
    assert_eq!(telling(&bytes), Err(Refused::OtherVersion));
    assert_eq!(telling(&[0]), Err(Refused::Malformed));
    assert_eq!(telling(&[]), Err(Refused::Malformed));
}

proptest! {
    /// Nothing panics, and what is accepted means one thing: written again it is no longer than it was.
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(said) = telling(&bytes) {
            prop_assert_eq!(telling(&encode(&said)), Ok(said));
        }
        if let Ok(said) = answer(&bytes) {
            prop_assert_eq!(answer(&encode(&said)), Ok(said));
        }
    }

    /// The same for messages that are nearly right.
    #[test]
    fn changed_bytes(which in 0..7_usize, at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = encode(&tellings()[which]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(said) = telling(&bytes) {
            prop_assert_eq!(telling(&encode(&said)), Ok(said));
        }
    }
}
