//! The cache of flows in the kernel: what a packet leaves there is written down when it is settled, and whoever changes a flow from
//! user space is heeded at once. What the programs themselves change is `dataplane_properties`' business. Needs root.
//!
//! Runner: once

use std::{net::SocketAddr, time::Duration};

use lb_common::reason::{TransmitReason, Verdict};
use lb_tests::{
    kernel_tables::can_load,
    mass::{ACK, BACKEND_PORT, Mass, Packet, Service, VIP, VIP6, XDP_TX, client},
};
use lb_userspace::{
    config::model::Flows,
    dataplane::{AnyFlow, AnyKey},
    resets::FlowId,
};

const RST: u8 = 0x04;
/// Enough for each CPU to have a line, wherever the test runs meanwhile.
const PACKETS: u32 = 1000;

#[test]
fn packets_are_written_down_when_settled_and_a_severed_flow_is_reset_at_once() {
    if !can_load("packets_are_written_down_when_settled_and_a_severed_flow_is_reset_at_once") {
        return;
    }
    let flows = Flows {
        max: 1024,
        half_open_max: 1024,
        sources_max: 1024,
        idle_timeout: Duration::from_secs(3600),
        rebuild: Duration::ZERO,
    };
    for (vip, first) in [
        (SocketAddr::from((VIP, BACKEND_PORT)), "100.64.0.1"),
        (SocketAddr::from((VIP6, BACKEND_PORT)), "fd20::1"),
    ] {
        let mut mass = Mass::load(&flows, &[Service::nat(vip, 0..1)]).expect("the programs load");
        let from = client(first.parse().expect("an address"), 0);
        let opened = mass.runner().open(from, vip).expect("the kernel runs it").expect("a handshake");
        let sent = |mass: &mut Mass, reason| -> u64 {
            mass.dataplane().counters().expect("the counters")[Verdict::Transmit(reason).counter() as usize]
        };
        let before = sent(&mut mass, TransmitReason::ToBackend);
        let run = |mass: &Mass, number: u32| {
            let packet = Packet { src: from, dst: vip, seq: number, ack: 7 * number, flags: ACK };
            mass.runner().run(&packet).expect("the kernel runs it")
        };
        for number in 1..=PACKETS {
            let (action, packet) = run(&mass, number);
            assert_eq!(
                (action, packet.dst, packet.src),
                (XDP_TX, opened.backend, opened.nat),
                "packet {number}"
            );
            assert_eq!((packet.seq, packet.ack, packet.flags), (number, 7 * number, ACK));
        }
        assert_eq!(sent(&mut mass, TransmitReason::ToBackend) - before, u64::from(PACKETS));

        // Into the cache again.
        (1..=PACKETS).for_each(|number| _ = run(&mass, PACKETS + number));
        let key = AnyKey::of(&FlowId { client: from, service: vip }).expect("of one family");
        let mut tables = mass.dataplane().sever_tables().expect("the pins are there");
        let flow = tables.flows.sever(&key, 0).expect("the tables can be read").expect("it is there");
        let (severed, packet) = run(&mass, 1);
        assert_eq!((severed, packet.flags & RST), (XDP_TX, RST), "at once, wherever the flow has a line");
        assert_eq!((packet.dst, packet.src), (from, vip));
        assert_eq!(sent(&mut mass, TransmitReason::ResetSevered), 1);
        let seen = |flow: &AnyFlow| match flow {
            AnyFlow::V4(flow) => flow.forward.seen,
            AnyFlow::V6(flow) => flow.forward.seen,
        };
        assert!(seen(&flow).packets >= u64::from(PACKETS), "what had been settled: {flow:?}");
        // The SYN, the handshake's ACK, and all the others.
        let now = tables.flows.flow(&key).expect("it is remembered");
        assert_eq!(seen(&now).packets, 2 + 2 * u64::from(PACKETS), "{now:?}");
        assert_eq!((seen(&now).next_seq, seen(&now).ack), (2 * PACKETS, 14 * PACKETS));
    }
}
