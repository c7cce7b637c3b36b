//! Elections between the real xvip and the real keepalived, each on a machine of its own: who has the address after
//! every turn, and whether both or nobody had it meanwhile. Needs root, for the network namespaces.
//!
//! {version 2, version 3} x {unicast, multicast} x {we are higher, lower, equal} x {we die, it dies, we release, it
//! releases, nopreempt}; version 3 over IPv4 and IPv6. The last election to end prints the table of all.
//!
//! Runner: threads 6

#[path = "keepalived/pair.rs"]
mod pair;
#[path = "keepalived/table.rs"]
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lb_tests::addresses::Family;

use pair::{Failure, Pair, Side, Speech};

/// keepalived's machine, above and below ours.
const ABOVE: u8 = 3;
const BELOW: u8 = 1;

/// One outranks the other, and takes the address whenever it can.
fn unequal(pair: &mut Pair, better: Side) -> Result<(), Failure> {
    let worse = better.other();
    pair.starts(worse, worse)?;
    pair.starts(better, better)?;
    pair.releases(better)?;
    pair.starts(better, better)?;
    pair.dies(better)?;
    pair.recovers(better, better)?;
    if better == Side::Us {
        pair.releases_on_command()?;
        pair.acquires()?;
    }
    pair.releases(worse)?;
    pair.starts(worse, better)?;
    pair.dies(worse)?;
    pair.recovers(worse, better)?;
    // The better one leaves the other alone, and takes over when that is gone, and it does not come back for it.
    pair.releases(better)?;
    pair.set_nopreempt(better)?;
    pair.starts(better, worse)?;
    pair.dies(worse)?;
    pair.recovers(worse, better)?;
    pair.dies(better)?;
    pair.recovers(better, worse)?;
    if worse == Side::Us {
        pair.releases_on_command()?;
    }
    pair.releases(worse)?;
    Ok(())
}

/// Neither outranks the other: whoever has the address keeps it, and only of two active ones the higher address wins.
fn equal(pair: &mut Pair, higher_address: Side) -> Result<(), Failure> {
    use Side::{Them, Us};
    pair.starts(Them, Them)?;
    pair.starts(Us, Them)?;
    pair.releases(Them)?;
    pair.starts(Them, Us)?;
    pair.dies(Us)?;
    pair.recovers(Us, Them)?;
    pair.dies(Them)?;
    pair.recovers(Them, Us)?;
    pair.split_heals(higher_address)?;
    if higher_address == Them {
        pair.releases(Them)?;
        pair.starts(Them, Us)?;
    }
    pair.releases(Us)?;
    pair.set_nopreempt(Us)?;
    pair.starts(Us, Them)?;
    pair.set_nopreempt(Them)?;
    pair.releases(Them)?;
    pair.starts(Them, Us)?;
    pair.dies(Us)?;
    pair.recovers(Us, Them)?;
    Ok(())
}

fn election(speech: Speech) {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    let mut pair = Pair::build(speech).expect("the lab comes up (it needs root, and keepalived installed)");
    let [ours, theirs] = speech.priorities;
    let ended =
        if ours == theirs { equal(&mut pair, speech.better()) } else { unequal(&mut pair, speech.better()) };
    let done = DONE.fetch_add(1, Ordering::Relaxed) + 1;
    if done == ELECTIONS {
        table::print(done, ELECTIONS);
    }
    // Its lines are to be read as lines.
    if let Err(failure) = ended.and_then(|()| pair.finish()) {
        panic!("{failure}\n{}", pair.logs());
    }
}

macro_rules! elections {
    ($($name:ident: $version:literal $family:ident $cast:ident $password:expr, $ours:literal $theirs:literal $peer:ident;)*) => {
        const ELECTIONS: usize = [$(stringify!($name)),*].len();
        $(
            #[test]
            fn $name() {
                election(Speech {
                    version: $version,
                    family: Family::$family,
                    multicast: stringify!($cast) == "multicast",
                    password: $password,
                    priorities: [$ours, $theirs],
                    peer: $peer,
                    their_interval: None,
                });
            }
        )*
    };
}

elections! {
    v2_unicast_we_are_higher: 2 V4 unicast Some("1111"), 150 100 ABOVE;
    v2_unicast_we_are_lower: 2 V4 unicast None, 100 150 BELOW;
    v2_unicast_we_are_equal: 2 V4 unicast Some("geheim42"), 100 100 ABOVE;
    v2_multicast_we_are_higher: 2 V4 multicast None, 150 100 BELOW;
    v2_multicast_we_are_lower: 2 V4 multicast Some("1111"), 100 150 ABOVE;
    v2_multicast_we_are_equal: 2 V4 multicast Some("geheim42"), 100 100 BELOW;
    v3_unicast_we_are_higher: 3 V4 unicast None, 150 100 ABOVE;
    v3_unicast_we_are_lower: 3 V4 unicast None, 100 150 BELOW;
    v3_unicast_we_are_equal: 3 V4 unicast None, 100 100 BELOW;
    v3_multicast_we_are_higher: 3 V4 multicast None, 150 100 BELOW;
    v3_multicast_we_are_lower: 3 V4 multicast None, 100 150 ABOVE;
    v3_multicast_we_are_equal: 3 V4 multicast None, 100 100 ABOVE;
    v3_ipv6_unicast_we_are_higher: 3 V6 unicast None, 150 100 ABOVE;
    v3_ipv6_unicast_we_are_lower: 3 V6 unicast None, 100 150 BELOW;
    v3_ipv6_multicast_we_are_higher: 3 V6 multicast None, 150 100 BELOW;
    v3_ipv6_multicast_we_are_lower: 3 V6 multicast None, 100 150 ABOVE;
}

/// A sub-second interval reaches keepalived as it was meant: a Backup adopts it (RFC 9568 §6.4.2).
#[test]
fn a_short_interval_is_adopted() -> Result<(), Failure> {
    let mut pair = Pair::build(Speech {
        version: 3,
        family: Family::V4,
        multicast: false,
        password: None,
        priorities: [150, 100],
        peer: ABOVE,
        their_interval: Some(Duration::from_secs(1)),
    })?;
    pair.starts(Side::Us, Side::Us)?;
    pair.starts(Side::Them, Side::Us)?;
    // At its own interval of one second it would wait 0.61 s after our farewell; at ours it is 0.12 s.
    let took = pair.releases(Side::Us)?;
    println!("keepalived took over {took:?} after our priority 0 at 200 ms");
    assert!(
        took < Duration::from_millis(550),
        "{took:?} is the skew time of its own interval\n{}",
        pair.logs()
    );
    Ok(())
}
