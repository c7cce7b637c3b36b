//! Runner: threads 1, alone, minutes 1
//!
//! The rig that packets are timed with: each packet is a whole one of the flow that it should be of, with programs that
//! rewrite, encapsulate or shorten. No times: those are for `cargo xtask bench packet`. Needs root.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::layout::{MODE_DSR_IPIP, MODE_DSR_L2, MODE_NAT};
use lb_common::reason::{PassReason, TransmitReason, Verdict};
use lb_tests::mass::{
    self, ACK, BACKEND_PORT, Mass, Packet, SYN, Service, VIP, VIP6, XDP_PASS, XDP_TX, backend,
};
use lb_tests::rig::{Case, Flow, Form, Places, Rig, client, scattered};
use lb_userspace::config::model::Flows;

/// Room for what is opened here.
const FLOW_TABLES: Flows = Flows {
    max: 4096,
    half_open_max: 4096,
    sources_max: 4096,
    idle_timeout: Duration::from_secs(3600),
    rebuild: Duration::ZERO,
};

type TestResult = Result<(), Box<dyn Error>>;

/// Packets in a measurement.
const PACKETS: u32 = 4096;
/// Flows, of which the first is in the middle of its packets when they end.
const FLOWS: u32 = 64;

/// Each form, and what it says that a program returned which sends the packet.
const FORMS: [(Form, u32); 2] = [(Form::Repeated, XDP_TX), (Form::Live, 0)];

/// A frame of 64 or 80 bytes.
fn frame(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    mass::frame(&Packet { src, dst, seq: 1, ack: 1, flags: ACK }, if src.is_ipv4() { 64 } else { 80 })
}

/// How often each of these verdicts was reached while `run` ran.
fn moved<R>(
    mass: &mut Mass,
    verdict: Verdict,
    run: impl FnOnce(&Mass) -> Result<R, Box<dyn Error>>,
) -> Result<(u64, u64, R), Box<dyn Error>> {
    let before = mass.dataplane().counters()?;
    let result = run(mass)?;
    let after = mass.dataplane().counters()?;
    let own = verdict.counter() as usize;
    let total: u64 = after.iter().sum::<u64>() - before.iter().sum::<u64>();
    Ok((after[own] - before[own], total, result))
}

#[test]
fn every_packet_is_a_fresh_one_of_its_flow() -> TestResult {
    let rig = Rig::pinned(0)?;
    for mode in [MODE_NAT, MODE_DSR_L2, MODE_DSR_IPIP] {
        for at in [SocketAddr::from((VIP, BACKEND_PORT)), SocketAddr::from((VIP6, BACKEND_PORT))] {
            let services = [Service { mode, ..Service::nat(at, 0..1) }];
            let mut mass = Mass::load(&FLOW_TABLES, &services)?;
            let v6 = at.is_ipv6();
            let source = |n: u32| {
                let (ip, port) = client(n);
                let wide = [0xfd, 0x10, 0, 0, 0, 0, 0, 0xc1, 0, 0, 0, 0];
                let ip = if v6 {
                    let all: Vec<u8> = wide.into_iter().chain(ip.octets()).collect();
                    IpAddr::from(<[u8; 16]>::try_from(all).unwrap_or_default())
                } else {
                    ip.into()
                };
                SocketAddr::new(ip, port)
            };
            let template = frame(source(0), at);
            let mut replies = Vec::new();
            let mut flows = Vec::new();
            for n in scattered(FLOWS) {
                let mut runner = mass.runner();
                if mode == MODE_NAT {
                    let opened = runner.open(source(n), at)?.map_err(|action| format!("{at}: {action}"))?;
                    replies.push(opened.nat);
                } else {
                    for flags in [SYN, ACK] {
                        let packet = Packet { src: source(n), dst: at, seq: 0, ack: 0, flags };
                        let (action, _) = runner.run(&packet)?;
                        assert_eq!(action, XDP_TX, "{mode} {at}");
                    }
                }
                let place = source(n);
                flows.push(match place.ip() {
                    IpAddr::V4(ip) => Flow::v4(ip, place.port(), &template),
                    IpAddr::V6(ip) => Flow::v6(ip, place.port()),
                });
            }
            let places = if v6 { Places::V6_SOURCE } else { Places::V4_SOURCE };
            let case = Case { frame: &template, places, flows: &flows };
            let verdict = Verdict::Transmit(TransmitReason::ToBackend);
            for (form, action) in FORMS {
                let prepared = rig.prepare(mass.program(), &case, form)?;
                let (own, all, measured) = moved(&mut mass, verdict, |_| Ok(prepared.measure(0, PACKETS)?))?;
                assert_eq!(
                    (own, all, measured.action),
                    (PACKETS.into(), PACKETS.into(), action),
                    "{mode} {at} {form:?}"
                );
            }
            if mode != MODE_NAT {
                continue;
            }
            // Of those that it is of, and in turn.
            let strangers = flows.iter().map(|_| match source(FLOWS).ip() {
                IpAddr::V4(ip) => Flow::v4(ip, 1023, &template),
                IpAddr::V6(ip) => Flow::v6(ip, 1023),
            });
            let both: Vec<_> = flows.iter().copied().zip(strangers).flat_map(|(a, b)| [a, b, b, b]).collect();
            let prepared = rig.prepare(mass.program(), &Case { flows: &both, ..case }, Form::Repeated)?;
            let (own, all, _) = moved(&mut mass, verdict, |_| Ok(prepared.measure(0, PACKETS)?))?;
            assert_eq!((own, all), (u64::from(PACKETS) / 4, PACKETS.into()), "{at}");

            let server = backend(0, v6);
            let template = frame(server, replies[0]);
            let flows: Vec<_> = replies
                .iter()
                .map(|nat| match server.ip() {
                    IpAddr::V4(ip) => Flow::v4(ip, nat.port(), &template),
                    IpAddr::V6(ip) => Flow::v6(ip, nat.port()),
                })
                .collect();
            let places = if v6 { Places::V6_REPLY } else { Places::V4_REPLY };
            let case = Case { frame: &template, places, flows: &flows };
            let prepared = rig.prepare(mass.program(), &case, Form::Repeated)?;
            let verdict = Verdict::Transmit(TransmitReason::ToClient);
            let (own, all, measured) = moved(&mut mass, verdict, |_| Ok(prepared.measure(0, PACKETS)?))?;
            assert_eq!((own, all, measured.action), (PACKETS.into(), PACKETS.into(), XDP_TX), "{at}");
        }
    }
    Ok(())
}

#[test]
fn what_is_not_ours_passes_each_time() -> TestResult {
    let rig = Rig::pinned(0)?;
    let at = SocketAddr::from((VIP, BACKEND_PORT));
    let mut mass = Mass::load(&FLOW_TABLES, &[Service::nat(at, 0..1)])?;
    let (ip, port) = client(0);
    let template = frame(SocketAddr::from((ip, port)), SocketAddr::from(([10, 9, 8, 7], BACKEND_PORT)));
    let flows = [Flow::v4(ip, port, &template)];
    let case = Case { frame: &template, places: Places::V4_SOURCE, flows: &flows };
    let prepared = rig.prepare(mass.program(), &case, Form::Repeated)?;
    let verdict = Verdict::Pass(PassReason::NotVip);
    let (own, all, measured) = moved(&mut mass, verdict, |_| Ok(prepared.measure(0, PACKETS)?))?;
    assert_eq!((own, all, measured.action), (PACKETS.into(), PACKETS.into(), XDP_PASS));
    Ok(())
}

#[test]
fn a_program_that_cuts_the_frame_meets_a_whole_one_each_time() -> TestResult {
    let rig = Rig::pinned(0)?;
    let at = SocketAddr::from((VIP, BACKEND_PORT));
    let mut mass = Mass::load(&FLOW_TABLES, &[Service::nat(at, 0..1)])?;
    let (ip, port) = client(0);
    // With payload and of no flow: a RST answers it, which is shorter.
    let mut template = frame(SocketAddr::from((ip, port)), at);
    template.resize(150, 0);
    template[16..18].copy_from_slice(&136_u16.to_be_bytes());
    let flows = [Flow::v4(ip, port, &template)];
    let case = Case { frame: &template, places: Places::V4_SOURCE, flows: &flows };
    let verdict = Verdict::Transmit(TransmitReason::ResetUnknownFlow);
    for (form, action) in FORMS {
        let prepared = rig.prepare(mass.program(), &case, form)?;
        let (own, all, measured) = moved(&mut mass, verdict, |_| Ok(prepared.measure(0, PACKETS)?))?;
        assert_eq!((own, all, measured.action), (PACKETS.into(), PACKETS.into(), action), "{form:?}");
    }
    Ok(())
}
