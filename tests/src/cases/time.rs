//! The flow clock: what expires, and what does not.

use lb_common::{
    reason::{PassReason, TransmitReason},
    tables::Level,
};

use super::{
    Case,
    settings::{one, three},
};
use crate::{
    frames::{ACK, SYN},
    plane::{HALF_OPEN_TIMEOUT, IDLE_TIMEOUT, START, World},
};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "idle client",
        "A flow that was silent for longer than the idle time-out is unknown: the client gets a RST",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT);
            script.client(&mut connection, ACK, b"just in time");
            script.server(&mut connection, ACK, b"");
            script.at(START + 2 * IDLE_TIMEOUT + 1);
            let frame = connection.from_client(ACK, b"too late").bytes();
            let outcome = script.frame(&frame);
            assert_eq!(
                outcome.verdict,
                lb_common::reason::Verdict::Transmit(TransmitReason::ResetUnknownFlow)
            );
            script.expect_gone(&connection);
        },
    ),
    Case::new(
        "idle backend",
        "The same from the backend's side: the packet is for no service, and the host answers",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT + 1);
            let outcome = script.frame(&connection.from_backend(ACK, b"too late").bytes());
            assert_eq!(outcome.verdict, lb_common::reason::Verdict::Pass(PassReason::NoService));
            script.expect_gone(&connection);
        },
    ),
    Case::new(
        "idle, then a syn",
        "An expired flow is in nobody's way: a SYN on the same ports opens",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT + 1);
            script.handshake(&mut script.connection(40_000));
            script.expect_flows(0, 1);
        },
    ),
    Case::new(
        "one side is silent",
        "A side that only listens does not make the flow idle: the other side's packets keep it",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.handshake(&mut connection);
            script.at(START + IDLE_TIMEOUT);
            script.server(&mut connection, ACK, b"an event");
            script.at(START + IDLE_TIMEOUT + 1);
            script.client(&mut connection, ACK, b"");
            script.expect_level(&connection, Level::Established);
        },
    ),
    Case::new("half-open client", "A handshake that took too long is unknown", one, |script| {
        let mut connection = script.connection(40_000);
        script.syn(&mut connection);
        script.server(&mut connection, SYN | ACK, b"");
        script.at(START + HALF_OPEN_TIMEOUT + 1);
        let outcome = script.frame(&connection.from_client(ACK, b"").bytes());
        assert_eq!(outcome.verdict, lb_common::reason::Verdict::Transmit(TransmitReason::ResetUnknownFlow));
        script.expect_gone(&connection);
    }),
    Case::new("half-open backend", "A SYN-ACK that took too long is for nobody", one, |script| {
        let mut connection = script.connection(40_000);
        script.syn(&mut connection);
        script.at(START + HALF_OPEN_TIMEOUT);
        script.server(&mut connection.clone(), SYN | ACK, b"");
        script.at(START + 2 * HALF_OPEN_TIMEOUT + 1);
        let outcome = script.frame(&connection.from_backend(SYN | ACK, b"").bytes());
        assert_eq!(outcome.verdict, lb_common::reason::Verdict::Pass(PassReason::NoService));
        script.expect_gone(&connection);
    }),
    Case::new(
        "half-open, one side is silent",
        "As long as one side of a handshake is heard, the other one's late answer finds its flow",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.at(START + HALF_OPEN_TIMEOUT);
            script.client(&mut connection.clone(), ACK, b"");
            script.at(START + HALF_OPEN_TIMEOUT + 1);
            script.server(&mut connection, SYN | ACK, b"");
            script.at(START + 2 * HALF_OPEN_TIMEOUT + 1);
            script.client(&mut connection, ACK, b"");
            script.expect_level(&connection, Level::Established);
        },
    ),
    Case::new(
        "half-open, then a syn",
        "A SYN after the time-out is a new flow's first attempt, with the backend of its hash",
        three,
        |script| {
            let mut first = script.connection(40_000);
            script.syn(&mut first);
            let mut second = script.connection(40_000);
            script.syn(&mut second);
            script.at(START + HALF_OPEN_TIMEOUT + 1);
            let mut third = script.connection(40_000);
            script.syn(&mut third);
            assert_eq!(third.backend, first.backend);
            assert_eq!(script.flows.half_open[&third.client_key()].attempt, 0);
        },
    ),
    Case::new(
        "clock wraps",
        "The clock may wrap under a flow",
        |setting| World { clock: u32::MAX - 2, ..one(setting) },
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.at(5);
            script.server(&mut connection, SYN | ACK, b"");
            script.client(&mut connection, ACK, b"");
            script.at(IDLE_TIMEOUT - 100);
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
        },
    ),
    Case::new(
        "clock behind",
        "Another CPU may have noted a later second than this one reads: such a flow is fresh, not expired",
        one,
        |script| {
            let mut connection = script.connection(40_000);
            script.syn(&mut connection);
            script.at(START - 1);
            script.server(&mut connection, SYN | ACK, b"");
            script.at(START - 2);
            script.client(&mut connection, ACK, b"");
            script.at(START - 3);
            script.client(&mut connection, ACK, b"data");
            script.server(&mut connection, ACK, b"data");
            script.expect_level(&connection, Level::Established);
        },
    ),
];
