//! The table of cases on the host: the shared code over plain collections. No root, milliseconds.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
};

use lb_common::reason::{PassReason, Verdict};
use lb_tests::{
    cases,
    frames::SYN,
    host_tables::HostPlane,
    plane::{Plane as _, SERVICE, World},
};

#[test]
fn every_case_on_the_host() {
    let mut failed = vec![];
    for case in cases::all() {
        let played = catch_unwind(AssertUnwindSafe(|| case.play(&mut HostPlane::new(&World::one_backend()))));
        if played.is_err() {
            failed.push(format!("{}: {}", case.name(), case.sentence));
        }
    }
    assert!(failed.is_empty(), "{} of {} cases:\n{}", failed.len(), cases::all().count(), failed.join("\n"));
}

#[test]
fn cases_have_names_of_their_own_and_a_sentence() {
    let names: BTreeSet<String> = cases::all().map(|case| case.name()).collect();
    assert_eq!(names.len(), cases::all().count());
    assert!(cases::all().all(|case| case.sentence.len() > 10), "each case says what it is about");
}

#[test]
fn a_frame_shorter_than_an_ethernet_header_is_passed() {
    // `BPF_PROG_TEST_RUN` takes no such frame.
    let client = SocketAddr::from(([172, 17, 0, 100], 40_000));
    let frame = cases::Connection::from(client, SERVICE).from_client(SYN, b"").bytes();
    let mut plane = HostPlane::new(&World::one_backend());
    for length in 0..14 {
        let outcome = plane.run(&frame[..length]);
        assert_eq!(outcome.verdict, Verdict::Pass(PassReason::TooShort));
        assert_eq!(outcome.frame, &frame[..length]);
    }
}
