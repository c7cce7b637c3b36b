//! What holds whatever comes: random sequences of frames, legal ones and damaged ones, on random worlds. On the host
//! alone without root; with root on host and kernel in step, which must agree on every byte and every flow.
//!
//! The properties themselves are [`Script::frame`]'s, checked after every frame: nothing grows; what the host gets is
//! untouched; a bystander's frame is passed; what is sent parses and has right checksums where it came with right ones;
//! only what a rewrite may touch is touched; a RST is the one that RFC 9293 says; both directions of a flow agree; no
//! two flows share backend and NAT port; no reserved port is a NAT port. A failure prints the shortest sequence found;
//! it belongs into the table of cases then.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use lb_common::{
    layout::{BackendCounters, BackendId, FlowEntry, FlowKey, MacWord},
    reason::{DropReason, TransmitReason, Verdict},
    tables::Level,
};
use lb_tests::{
    cases::{Script, describe},
    frames::{ACK, FIN, Mac, PSH, Packet, RST, SYN, Segment, fix_ip_checksum},
    host_tables::HostPlane,
    kernel_tables::{KernelPlane, can_load},
    plane::{
        FlowState, HALF_OPEN_TIMEOUT, IDLE_TIMEOUT, MAX_FLOWS, NODE_MAC, OTHER_ROUTER_MAC, OTHER_VIP,
        Outcome, Plane, ROUTER_MAC, SERVICE, TRANSLATED, VIP, World, backend, backend_mac,
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{TestCaseError, TestError, TestRunner},
};

/// Few enough that flows meet.
const CLIENTS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(172, 16, 0, 100),
    Ipv4Addr::new(172, 16, 0, 101),
    Ipv4Addr::new(10, 1, 2, 3),
    *backend(0).ip(),
];
const PORTS: [u16; 4] = [40_000, 40_001, 800, 6443];
const TARGETS: [SocketAddrV4; 5] = [
    SERVICE,
    TRANSLATED,
    SocketAddrV4::new(OTHER_VIP, 6443),
    SocketAddrV4::new(VIP, 40_000),
    SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 12), 6443),
];
/// `flows.max` of the small table.
const FEW_FLOWS: u32 = 3;

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A client, or somebody in its place, sends.
    Client { client: usize, port: usize, target: usize, mac: Mac, shape: Shape },
    /// A client opens a connection, and backend and client complete the handshake.
    Connect { client: usize, port: usize, target: usize },
    /// One side of one of the flows sends.
    Known { direction: Index, shape: Shape },
    /// Bytes.
    Noise { bytes: Vec<u8>, to_us: bool },
    /// The flow clock moves.
    Seconds(u32),
    /// The controller changes its mind.
    Change(Change),
}

/// What a segment looks like, whoever sends it; a plain one by default.
#[derive(Clone, Debug)]
struct Shape {
    flags: u8,
    seq: u32,
    /// Acknowledges exactly what the other side has sent, where there is a flow.
    right_ack: bool,
    payload: usize,
    ip_option_words: usize,
    tcp_option_words: usize,
    padding: usize,
    ttl: u8,
    /// The backend echoes what it gets, and the client must get that back.
    echo: bool,
    damage: Vec<Damage>,
    /// The IP checksum is right again after the damage.
    mended: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            flags: ACK,
            seq: 1,
            right_ack: true,
            payload: 0,
            ip_option_words: 0,
            tcp_option_words: 0,
            padding: 0,
            ttl: 64,
            echo: false,
            damage: vec![],
            mended: false,
        }
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Bit(Index, u8),
    Byte(usize, u8),
    TotalLength(u16),
    Truncate(Index),
}

#[derive(Clone, Debug)]
enum Change {
    Usable(bool),
    Resolved(BackendId, bool),
    Services(bool),
    Reserve(u16),
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![
        6 => Just(SYN),
        9 => Just(ACK),
        5 => Just(ACK | PSH),
        5 => Just(SYN | ACK),
        3 => Just(FIN | ACK),
        1 => Just(RST),
        1 => Just(RST | ACK),
        2 => any::<u8>(),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        3 => (any::<Index>(), 0..8u8).prop_map(|(at, bit)| Damage::Bit(at, bit)),
        // Where lengths, flags, fragments, protocol and TTL are.
        3 => (select(vec![12, 13, 14, 16, 17, 20, 21, 22, 23, 24, 25, 30, 33, 46, 47]), any::<u8>())
            .prop_map(|(at, value)| Damage::Byte(at, value)),
        1 => any::<u16>().prop_map(Damage::TotalLength),
        1 => (0..120u16).prop_map(Damage::TotalLength),
        1 => any::<Index>().prop_map(Damage::Truncate),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let options = || prop_oneof![6 => Just(0usize), 1 => 1..=10usize];
    let damage = prop_oneof![4 => Just(vec![]), 1 => vec(damage(), 1..3)];
    let ttl = prop_oneof![12 => 2..=255u8, 1 => 0..2u8];
    (
        (flags(), any::<u32>(), prop::bool::weighted(0.8), 0..70usize, options(), options()),
        (prop_oneof![Just(0), 0..12usize], ttl, any::<bool>(), damage, any::<bool>()),
    )
        .prop_map(
            |(
                (flags, seq, right_ack, payload, ip_option_words, tcp_option_words),
                (padding, ttl, echo, damage, mended),
            )| {
                Shape {
                    flags,
                    seq,
                    right_ack,
                    payload,
                    ip_option_words,
                    tcp_option_words,
                    padding,
                    ttl,
                    echo,
                    damage,
                    mended,
                }
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    let target = prop_oneof![12 => 0..2usize, 1 => 2..TARGETS.len()];
    let mac = prop_oneof![10 => Just(ROUTER_MAC), 1 => Just(OTHER_ROUTER_MAC)];
    let seconds = select(vec![0, 1, 1, HALF_OPEN_TIMEOUT, HALF_OPEN_TIMEOUT + 1, IDLE_TIMEOUT + 1, u32::MAX]);
    let change = prop_oneof![
        any::<bool>().prop_map(Change::Usable),
        (0..3u16, any::<bool>()).prop_map(|(id, resolved)| Change::Resolved(id, resolved)),
        any::<bool>().prop_map(Change::Services),
        select(PORTS.to_vec()).prop_map(Change::Reserve),
    ];
    prop_oneof![
        4 => (0..CLIENTS.len(), 0..PORTS.len(), 0..2usize)
            .prop_map(|(client, port, target)| Event::Connect { client, port, target }),
        8 => (0..CLIENTS.len(), 0..PORTS.len(), target, mac, shape())
            .prop_map(|(client, port, target, mac, shape)| Event::Client { client, port, target, mac, shape }),
        20 => (any::<Index>(), shape()).prop_map(|(direction, shape)| Event::Known { direction, shape }),
        1 => (vec(any::<u8>(), 14..100), any::<bool>()).prop_map(|(bytes, to_us)| Event::Noise { bytes, to_us }),
        1 => seconds.prop_map(Event::Seconds),
        1 => change.prop_map(Event::Change),
    ]
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
struct Story {
    three_backends: bool,
    few_flows: bool,
    scarce_ports: bool,
    events: Vec<Event>,
}

fn story() -> impl Strategy<Value = Story> {
    (any::<bool>(), prop::bool::weighted(0.3), prop::bool::weighted(0.3), vec(event(), 1..80)).prop_map(
        |(three_backends, few_flows, scarce_ports, events)| Story {
            three_backends,
            few_flows,
            scarce_ports,
            events,
        },
    )
}

impl Story {
    fn world(&self) -> World {
        let mut world = if self.three_backends { World::three_backends() } else { World::one_backend() };
        if self.few_flows {
            world.max_flows = FEW_FLOWS;
        }
        if self.scarce_ports {
            world.reserved_ports.fill(u64::MAX);
            for port in [40_000, 40_001u16] {
                world.reserved_ports[usize::from(port / 64)] &= !(1 << (port % 64));
            }
        }
        world
    }

    fn play(&self, plane: &mut dyn Plane, tally: &mut Tally) {
        let world = self.world();
        plane.reset(&world);
        let mut script = Script::new(plane, world);
        for event in &self.events {
            event.happen(&mut script, tally);
        }
    }
}

impl Event {
    fn happen(&self, script: &mut Script<'_>, tally: &mut Tally) {
        match self {
            Self::Client { client, port, target, mac, shape } => {
                let src = SocketAddrV4::new(CLIENTS[*client], PORTS[*port]);
                let dst = TARGETS[*target];
                let segment = shape.segment(script.flows(), src, dst, *mac);
                let frame = shape.damaged(segment.bytes());
                let outcome = script.frame(&frame);
                tally.note(outcome.verdict);
                let sent = outcome.verdict == Verdict::Transmit(TransmitReason::ToBackend);
                if shape.echo && shape.damage.is_empty() && sent && shape.flags & (SYN | FIN | RST) == 0 {
                    check_echo(script, &segment, &outcome);
                }
            }
            Self::Connect { client, port, target } => {
                let src = SocketAddrV4::new(CLIENTS[*client], PORTS[*port]);
                let plain = |flags| Shape { flags, ..Shape::default() };
                let dst = TARGETS[*target];
                let syn = plain(SYN).segment(script.flows(), src, dst, ROUTER_MAC);
                let outcome = script.frame(&syn.bytes());
                tally.note(outcome.verdict);
                if outcome.verdict != Verdict::Transmit(TransmitReason::ToBackend) {
                    return;
                }
                let sent = Packet::read(&outcome.frame).expect("what was sent parses");
                let answer = plain(SYN | ACK).segment(script.flows(), sent.dst(), sent.src(), backend_mac(0));
                tally.note(script.frame(&answer.bytes()).verdict);
                let ack = plain(ACK).segment(script.flows(), src, dst, ROUTER_MAC);
                tally.note(script.frame(&ack.bytes()).verdict);
            }
            Self::Known { direction, shape } => {
                let known: Vec<(FlowKey, FlowEntry)> = [Level::HalfOpen, Level::Established]
                    .iter()
                    .flat_map(|&level| script.flows().level(level))
                    .map(|(key, entry)| (*key, *entry))
                    .collect();
                if known.is_empty() {
                    return;
                }
                let (key, entry) = known[direction.index(known.len())];
                let src = SocketAddrV4::new(key.src.into(), key.src_port.get());
                let dst = SocketAddrV4::new(key.dst.into(), key.dst_port.get());
                let segment = shape.segment(script.flows(), src, dst, entry.client_mac.octets());
                tally.note(script.frame(&shape.damaged(segment.bytes())).verdict);
            }
            Self::Noise { bytes, to_us } => {
                let mut frame = bytes.clone();
                if *to_us {
                    frame[..6].copy_from_slice(&NODE_MAC);
                    frame[12..14].copy_from_slice(&[0x08, 0x00]);
                    if frame.len() >= 34 {
                        frame[30..34].copy_from_slice(&VIP.octets());
                    }
                }
                tally.note(script.frame(&frame).verdict);
            }
            Self::Seconds(seconds) => {
                script.change(|world| world.clock = world.clock.wrapping_add(*seconds));
            }
            Self::Change(change) => script.change(|world| change.apply(world)),
        }
    }
}

impl Change {
    fn apply(&self, world: &mut World) {
        match *self {
            Self::Usable(usable) => {
                let backends = world.tables.backends.len() as u32;
                world.tables.services.values_mut().for_each(|service| {
                    service.usable = if usable { backends } else { 0 };
                });
            }
            Self::Resolved(id, resolved) => {
                let mac = if resolved { MacWord::new(backend_mac(id)) } else { MacWord::ZERO };
                if let Some(backend) = world.tables.backends.get_mut(&id) {
                    backend.mac = mac;
                }
            }
            Self::Services(there) => {
                world.tables.services =
                    if there { World::one_backend().tables.services } else { BTreeMap::new() };
            }
            Self::Reserve(port) => world.reserve_port(port),
        }
    }
}

impl Shape {
    fn segment(&self, flows: &FlowState, src: SocketAddrV4, dst: SocketAddrV4, src_mac: Mac) -> Segment {
        let key = lb_tests::plane::flow_key(src, dst);
        let expected = [Level::HalfOpen, Level::Established].iter().find_map(|&level| {
            let own = flows.level(level).get(&key)?;
            Some(flows.level(level).get(&own.rewritten.reversed())?.seen.next_seq)
        });
        Segment {
            src_mac,
            dst_mac: NODE_MAC,
            src,
            dst,
            ttl: self.ttl,
            ip_options: vec![0x01; self.ip_option_words * 4],
            flags: self.flags,
            seq: self.seq,
            ack: expected.filter(|_| self.right_ack).unwrap_or(self.seq ^ 0x5555),
            tcp_options: vec![0x01; self.tcp_option_words * 4],
            payload: (0..self.payload).map(|n| n as u8 ^ self.seq as u8).collect(),
            padding: vec![0xa5; self.padding],
        }
    }

    fn damaged(&self, mut frame: Vec<u8>) -> Vec<u8> {
        for damage in &self.damage {
            match *damage {
                Damage::Bit(at, bit) => {
                    let at = at.index(frame.len());
                    frame[at] ^= 1 << bit;
                }
                Damage::Byte(at, value) => {
                    if let Some(byte) = frame.get_mut(at) {
                        *byte = value;
                    }
                }
                Damage::TotalLength(length) => {
                    if let Some(field) = frame.get_mut(16..18) {
                        field.copy_from_slice(&length.to_be_bytes());
                    }
                }
                // A test run takes no frame without an Ethernet header.
                Damage::Truncate(at) => frame.truncate(14 + at.index(frame.len() - 13)),
            }
        }
        if self.mended && !self.damage.is_empty() && frame.len() >= 34 {
            fix_ip_checksum(&mut frame);
        }
        frame
    }
}

/// NAT and its reverse: what the backend sends back unchanged reaches the client as if from the service, byte for byte.
fn check_echo(script: &mut Script<'_>, segment: &Segment, sent: &Outcome) {
    let packet = Packet::read(&sent.frame).expect("what was sent parses");
    let echo = Segment {
        src_mac: packet.ethernet.destination,
        dst_mac: NODE_MAC,
        src: packet.dst(),
        dst: packet.src(),
        ttl: 64,
        payload: packet.payload,
        ..segment.clone()
    };
    let outcome = script.frame(&echo.bytes());
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToClient), "the echo");
    let expected = Segment {
        src_mac: NODE_MAC,
        dst_mac: segment.src_mac,
        src: segment.dst,
        dst: segment.src,
        ttl: 63,
        ..segment.clone()
    };
    assert_eq!(outcome.frame, expected.bytes(), "the echo of {}", describe(&expected.bytes()));
}

/// How often each verdict came: a property that is never put to the test holds trivially.
#[derive(Default)]
struct Tally(BTreeMap<u32, (String, usize)>);

impl Tally {
    fn note(&mut self, verdict: Verdict) {
        self.0.entry(verdict.counter()).or_insert_with(|| (format!("{verdict:?}"), 0)).1 += 1;
    }

    fn frames(&self) -> usize {
        self.0.values().map(|(_, count)| count).sum()
    }

    /// Prints all, and asserts that what matters was met often enough.
    fn report(&self, frames: usize) {
        for (verdict, count) in self.0.values() {
            println!("{count:>8} {verdict}");
        }
        assert!(self.frames() >= frames, "{} frames", self.frames());
        let full = Verdict::Drop(DropReason::FlowTableFull).counter();
        assert!(self.0.contains_key(&full), "the table was full at times");
        for reason in [TransmitReason::ToBackend, TransmitReason::ToClient, TransmitReason::ResetUnknownFlow]
        {
            let met = self.0.get(&Verdict::Transmit(reason).counter()).map_or(0, |(_, count)| *count);
            assert!(met * 20 >= self.frames(), "{reason:?}: {met} of {} frames", self.frames());
        }
        assert!(self.0.len() >= 18, "{} different verdicts", self.0.len());
    }
}

/// Tells stories until one breaks a property, then tells the shortest like it.
fn tell(stories: u32, play: impl Fn(&Story)) {
    let config = ProptestConfig { cases: stories, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&story(), |story| {
        play(&story);
        Ok::<(), TestCaseError>(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, story)) => panic!("{reason}\n{story:#?}"),
        Err(TestError::Abort(reason)) => panic!("{reason}"),
    }
}

#[test]
fn whatever_comes_on_the_host() {
    let tally = RefCell::new(Tally::default());
    tell(400, |story| {
        story.play(&mut HostPlane::new(&story.world()), &mut tally.borrow_mut());
    });
    tally.borrow().report(8_000);
}

#[test]
fn whatever_comes_in_the_kernel_as_on_the_host() {
    if !can_load("whatever_comes_in_the_kernel_as_on_the_host") {
        return;
    }
    let load = |max_flows| KernelPlane::load(max_flows).unwrap_or_else(|error| panic!("{error:?}"));
    let planes = [MAX_FLOWS, FEW_FLOWS].map(|max_flows| {
        let host = HostPlane::new(&World::one_backend());
        RefCell::new(Lockstep { kernel: load(max_flows), host })
    });
    let tally = RefCell::new(Tally::default());
    tell(300, |story| {
        let plane = &planes[usize::from(story.few_flows)];
        story.play(&mut *plane.borrow_mut(), &mut tally.borrow_mut());
    });
    tally.borrow().report(6_000);
}

/// Kernel and host as one: a frame goes to both, and they agree.
struct Lockstep {
    kernel: KernelPlane,
    host: HostPlane,
}

impl Plane for Lockstep {
    fn reset(&mut self, world: &World) {
        self.kernel.reset(world);
        self.host.reset(world);
    }

    fn apply(&mut self, world: &World) {
        self.kernel.apply(world);
        self.host.apply(world);
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let (kernel, host) = (self.kernel.run(frame), self.host.run(frame));
        assert_eq!(kernel, host, "kernel left, host right: {}", describe(frame));
        kernel
    }

    fn flows(&mut self) -> FlowState {
        let (kernel, host) = (self.kernel.flows(), self.host.flows());
        assert_eq!(kernel, host, "kernel left, host right");
        kernel
    }

    fn backend_counters(&mut self, id: BackendId) -> BackendCounters {
        let (kernel, host) = (self.kernel.backend_counters(id), self.host.backend_counters(id));
        assert_eq!(kernel, host, "kernel left, host right: backend {id}");
        kernel
    }
}
