use proptest::{collection::vec, prelude::*};

use super::*;

fn psks(secrets: &[u8]) -> Vec<Psk> {
    let secrets = secrets.iter().map(|byte| vec![*byte; 32]).collect();
    Psk::of(&SyncKeys::new(secrets).expect("keys"))
}

/// Both ends of a connection: of who called, of who was called.
fn pair() -> (Secure, Secure) {
    let keys = psks(&[1]);
    let (call, first) = Call::new(&keys[0]).expect("randomness");
    let (called, second, _) = answer(&keys, &first).expect("the key");
    (call.answered(&second).expect("authentic"), called)
}

fn frames(wire: &[u8]) -> Vec<Vec<u8>> {
    let mut framer = Framer::default();
    framer.push(wire);
    std::iter::from_fn(|| framer.next_frame().map(<[u8]>::to_vec)).collect()
}

#[test]
fn messages_of_any_length_arrive() {
    let (mut from, mut to) = pair();
    let mut wire = Vec::new();
    let lengths = [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, LONGEST];
    for length in lengths {
        from.seal(&vec![length as u8; length], &mut wire).expect("short enough");
    }
    let mut messages = frames(&wire).into_iter().filter_map(|frame| to.open(&frame).expect("authentic"));
    for length in lengths {
        assert_eq!(messages.next(), Some(vec![length as u8; length]), "{length}");
    }
    assert_eq!(messages.next(), None);
    drop(messages);
    assert_eq!(from.seal(&vec![0; LONGEST + 1], &mut wire), Err(Refused::TooLong));
    // The other way, too.
    let mut wire = Vec::new();
    to.seal(b"back", &mut wire).expect("short enough");
    assert_eq!(from.open(&frames(&wire)[0]), Ok(Some(b"back".to_vec())));
}

#[test]
fn each_of_our_keys_will_do_and_no_other() {
    let ours = psks(&[1, 2]);
    for (index, key) in ours.iter().enumerate() {
        let (call, first) = Call::new(key).expect("randomness");
        let (_, second, used) = answer(&ours, &first).expect("one of ours");
        assert_eq!(used, index);
        assert!(call.answered(&second).is_ok());
    }
    let (_, first) = Call::new(&psks(&[3])[0]).expect("randomness");
    assert_eq!(answer(&ours, &first).err(), Some(Refused::WrongKey));
}

/// The same derivation on every node and in every version: a change would separate nodes during an upgrade.
#[test]
fn the_derivation_stays() {
    // Python: prk = hmac.digest(b"xvip sync", b"\1" * 32, "sha256"); hmac.digest(prk, b"psk\1", "sha256").hex()
    let expected = "c72baad440b9a64d3efe97823885a4c46a773b83753ee7c1ebc38d3bd42972f7";
    let hex: String = psks(&[1])[0].0.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, expected);
}

#[test]
fn what_was_changed_repeated_left_out_or_cut_is_refused() {
    let sealed = |from: &mut Secure| {
        let mut wire = Vec::new();
        for message in [b"one", b"two"] {
            from.seal(message, &mut wire).expect("short enough");
        }
        frames(&wire)
    };
    let refused = Err(Refused::NotAuthentic);
    let (mut from, mut to) = pair();
    let frames = sealed(&mut from);
    assert_eq!(to.open(&frames[1]), refused, "left out");
    let (mut from, mut to) = pair();
    let frames = sealed(&mut from);
    assert!(to.open(&frames[0]).is_ok());
    assert_eq!(to.open(&frames[0]), refused, "repeated");
    for at in 0..frames[1].len() {
        let (mut from, mut to) = pair();
        let mut frame = sealed(&mut from).swap_remove(0);
        frame[at] ^= 0x80;
        assert_eq!(to.open(&frame), refused, "changed at {at}");
        frame[at] ^= 0x80;
        assert_eq!(to.open(&frame[..at]), refused, "cut at {at}");
    }
    // From another connection with the same key.
    let (_, mut other) = pair();
    assert_eq!(other.open(&frames[0]), refused);
}

#[test]
fn every_bit_of_the_handshake_counts() {
    let keys = psks(&[1]);
    for at in 0..HANDSHAKE_LEN {
        let (call, mut first) = Call::new(&keys[0]).expect("randomness");
        first[at] ^= 1;
        assert_eq!(answer(&keys, &first).err(), Some(Refused::WrongKey), "first {at}");
        first[at] ^= 1;
        let (_, mut second, _) = answer(&keys, &first).expect("the key");
        second[at] ^= 1;
        assert_eq!(call.answered(&second).err(), Some(Refused::NotAuthentic), "second {at}");
    }
}

#[test]
fn pieces_without_end_are_refused() {
    let (mut from, mut to) = pair();
    let raw = |from: &mut Secure, plain: &[u8]| {
        let mut frame = vec![0; plain.len() + TAG];
        let length = from.transport.write_message(plain, &mut frame).expect("short enough");
        frame.truncate(length);
        frame
    };
    let piece = [&[MORE][..], &vec![0; PIECE]].concat();
    for _ in 0..LONGEST / PIECE {
        let frame = raw(&mut from, &piece);
        assert_eq!(to.open(&frame), Ok(None));
    }
    let frame = raw(&mut from, &piece);
    assert_eq!(to.open(&frame), Err(Refused::TooLong));
    for plain in [&[][..], &[MORE], &[2, 0]] {
        let (mut from, mut to) = pair();
        let frame = raw(&mut from, plain);
        assert_eq!(to.open(&frame), Err(Refused::Malformed), "{plain:?}");
    }
}

proptest! {
    /// However the bytes are cut on their way, the same frames come out.
    #[test]
    fn frames_are_found_in_any_pieces(
        sent in vec(vec(any::<u8>(), 0..50), 0..20),
        cuts in vec(1..30_usize, 1..50),
    ) {
        let mut wire = Vec::new();
        sent.iter().for_each(|bytes| frame(bytes, &mut wire));
        let (mut framer, mut found, mut rest) = (Framer::default(), Vec::new(), &wire[..]);
        for cut in cuts.iter().cycle().take(1000) {
            let (piece, later) = rest.split_at(rest.len().min(*cut));
            framer.push(piece);
            while let Some(frame) = framer.next_frame() {
                found.push(frame.to_vec());
            }
            rest = later;
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(found, sent);
    }

    /// Nothing that a stranger says is answered.
    #[test]
    fn strangers(bytes in vec(any::<u8>(), 0..100)) {
        prop_assert_eq!(answer(&psks(&[1]), &bytes).err(), Some(Refused::WrongKey));
    }
}
