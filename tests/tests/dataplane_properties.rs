//! What holds whatever comes: random sequences of frames, legal ones and damaged ones, of both families, in every mode, on
//! random worlds. On the host alone without root; with root on host and kernel in step, which must agree on every byte and
//! every map.
//!
//! The properties themselves are [`Script::frame`]'s, checked after every frame: what the host gets is untouched; a
//! bystander's frame is passed; what is sent parses and has right checksums where it came with right ones; only what a
//! rewrite may touch is touched; what is in a tunnel is what came, with one hop less; a RST is the one that RFC 9293 says;
//! an ICMP error quotes what it is about; both directions of a flow agree; no two flows share backend and NAT port; no
//! reserved port is a NAT port. And NAT followed by its reverse restores a frame. A failure prints the shortest sequence
//! found; it belongs into the table of cases then. `XVIP_STORIES=200000 cargo test --release -p lb-tests --test
//! dataplane_properties` is the long form.
//!
//! Runner: once

use std::{
    cell::RefCell,
    collections::BTreeMap,
    iter,
    net::{IpAddr, SocketAddr},
};

use lb_common::{
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_MAGLEV, BALANCE_ROUND_ROBIN, BackendId, HOP_KEEPS_TAGS, Hop,
        MODE_NAT, MacWord, NODE_TELLS_FLOWS, RESERVED_PORT_WORDS, SEEN_REBUILT, SERVICE_HAS_LIMITS,
        SERVICE_HAS_SHARES, SERVICE_REBUILDS,
    },
    reason::{DropReason, TransmitReason, Verdict},
    tables::Level,
};
use lb_tests::{
    cases::{Script, Setting, describe},
    frames::{
        ACK, Datagram, Extension, FIN, IcmpMessage, Ip, Link, Mac, PSH, Packet, RST, SYN, Segment, Tag,
        fix_ip_checksum, fragments, quote, service_vlan, vlan,
    },
    host_tables::HostPlane,
    kernel_tables::{KernelPlane, can_load},
    plane::{
        Entry, FlowState, HALF_OPEN_TIMEOUT, IDLE_TIMEOUT, Key, MAX_FLOWS, NODE_MAC, Notes, OTHER_ROUTER_MAC,
        OTHER_VIP, OTHER_VIP6, Outcome, Plane, ROUTER_MAC, World, backend_entry, backend_mac, flow_key,
    },
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{TestCaseError, TestError, TestRunner},
};

/// Few enough that flows meet.
const CLIENTS: usize = 4;
const PORTS: [u16; 4] = [40_000, 40_001, 800, 6443];
const TARGETS: usize = 5;
/// `flows.max` of the small table.
const FEW_FLOWS: u32 = 3;

/// A client; the last one is a backend.
fn client(setting: Setting, n: usize, port: u16) -> SocketAddr {
    let backend = setting.backend(0).ip();
    let address =
        if n == 3 && backend.is_ipv6() == setting.v6 { backend } else { setting.client(n as u16 + 1) };
    SocketAddr::new(address, port)
}

/// What a client connects to: a service, mostly.
fn target(setting: Setting, n: usize) -> SocketAddr {
    let service = setting.service();
    let other: IpAddr = if setting.v6 { OTHER_VIP6.into() } else { OTHER_VIP.into() };
    match n {
        0 => service,
        1 => setting.translated(),
        2 => SocketAddr::new(other, 6443),
        3 => SocketAddr::new(service.ip(), 40_000),
        _ => SocketAddr::new(setting.client(0x0c00), 6443),
    }
}

/// The tags of a frame; of the last ones it is not for us.
fn tags(n: usize) -> Vec<Tag> {
    match n {
        0 => vec![],
        1 => vec![vlan(7)],
        2 => vec![[0x81, 0x00, 0xa0, 7]],
        3 => vec![service_vlan(100), vlan(7)],
        4 => vec![vlan(8)],
        _ => vec![service_vlan(100), vlan(7), vlan(7)],
    }
}

/// Something that happens.
#[derive(Clone, Debug)]
enum Event {
    /// A client, or somebody in its place, sends.
    Client { client: usize, port: usize, target: usize, mac: Mac, shape: Shape },
    /// A client opens a connection, and backend and client complete the handshake.
    Connect { client: usize, port: usize, target: usize },
    /// One side of one of the flows sends.
    Known { direction: Index, shape: Shape },
    /// Somebody has an ICMP message about what one of the flows sends, or once sent.
    Icmp { direction: Index, kind: u8, code: u8, length: usize, own: bool, shape: Shape },
    /// Bytes.
    Noise { bytes: Vec<u8>, to_us: bool, v6: bool },
    /// The flow clock moves.
    Seconds(u32),
    /// The controller changes its mind.
    Change(Change),
    /// It ends a flow.
    Sever(Index),
}

/// What a segment looks like, whoever sends it; a plain one by default.
#[derive(Clone, Debug)]
struct Shape {
    flags: u8,
    seq: u32,
    /// Acknowledges exactly what the other side has sent, where there is a flow.
    right_ack: bool,
    payload: usize,
    /// Of IPv4 options; of IPv6 the extension headers.
    ip_option_words: usize,
    tcp_option_words: usize,
    padding: usize,
    ttl: u8,
    tags: usize,
    /// Where it is cut into fragments, in units of eight bytes, and which of them are sent.
    fragments: Option<(usize, Vec<bool>)>,
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
            tags: 0,
            fragments: None,
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
    Mtu(BackendId, u32),
    Backends(BackendId, usize, bool),
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
    let tags = prop_oneof![8 => Just(0usize), 4 => 1..4usize, 1 => 4..6usize];
    let fragments = prop_oneof![
        8 => Just(None),
        1 => (1..6usize, vec(prop::bool::weighted(0.8), 3)).prop_map(Some),
    ];
    (
        (flags(), any::<u32>(), prop::bool::weighted(0.8), 0..70usize, options(), options()),
        (prop_oneof![Just(0), 0..12usize], ttl, any::<bool>(), damage, any::<bool>(), tags, fragments),
    )
        .prop_map(
            |(
                (flags, seq, right_ack, payload, ip_option_words, tcp_option_words),
                (padding, ttl, echo, damage, mended, tags, fragments),
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
                    tags,
                    fragments,
                    echo,
                    damage,
                    mended,
                }
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    let target = prop_oneof![12 => 0..2usize, 1 => 2..TARGETS];
    let mac = prop_oneof![10 => Just(ROUTER_MAC), 1 => Just(OTHER_ROUTER_MAC)];
    let seconds =
        select(vec![0, 1, 1, 31, HALF_OPEN_TIMEOUT, HALF_OPEN_TIMEOUT + 1, IDLE_TIMEOUT + 1, u32::MAX]);
    let change = prop_oneof![
        any::<bool>().prop_map(Change::Usable),
        (0..3u16, any::<bool>()).prop_map(|(id, resolved)| Change::Resolved(id, resolved)),
        any::<bool>().prop_map(Change::Services),
        select(PORTS.to_vec()).prop_map(Change::Reserve),
        (0..3u16, select(vec![0u32, 60, 100, 1400])).prop_map(|(id, mtu)| Change::Mtu(id, mtu)),
        (0..3u16, 0..4usize, any::<bool>()).prop_map(|(id, tags, keeps)| Change::Backends(id, tags, keeps)),
    ];
    let kind = prop_oneof![8 => select(vec![1u8, 2, 3, 4, 11, 12]), 1 => any::<u8>()];
    prop_oneof![
        4 => (0..CLIENTS, 0..PORTS.len(), 0..2usize)
            .prop_map(|(client, port, target)| Event::Connect { client, port, target }),
        8 => (0..CLIENTS, 0..PORTS.len(), target, mac, shape())
            .prop_map(|(client, port, target, mac, shape)| Event::Client { client, port, target, mac, shape }),
        20 => (any::<Index>(), shape()).prop_map(|(direction, shape)| Event::Known { direction, shape }),
        4 => (any::<Index>(), kind, 0..6u8, 0..120usize, any::<bool>(), shape()).prop_map(
            |(direction, kind, code, length, own, shape)| {
                Event::Icmp { direction, kind, code, length, own, shape }
            }
        ),
        1 => (vec(any::<u8>(), 14..100), any::<bool>(), any::<bool>())
            .prop_map(|(bytes, to_us, v6)| Event::Noise { bytes, to_us, v6 }),
        1 => seconds.prop_map(Event::Seconds),
        1 => change.prop_map(Event::Change),
        1 => any::<Index>().prop_map(Event::Sever),
    ]
}

/// A world and what happens in it.
#[derive(Clone, Debug)]
struct Story {
    setting: Setting,
    three_backends: bool,
    few_flows: bool,
    scarce_ports: bool,
    balance: u8,
    limit: u32,
    share: u32,
    rebuilds: bool,
    tells: bool,
    tags: usize,
    events: Vec<Event>,
}

fn story() -> impl Strategy<Value = Story> {
    let balance = prop_oneof![
        4 => Just(BALANCE_MAGLEV),
        1 => Just(BALANCE_ROUND_ROBIN),
        1 => Just(BALANCE_LEAST_CONNECTIONS),
    ];
    let setting = prop_oneof![
        2 => select(vec![Setting::NAT, Setting::NAT6]),
        3 => select(Setting::EVERY.to_vec()),
    ];
    let limit = prop_oneof![4 => Just(0u32), 1 => 1..3u32];
    (
        (setting, any::<bool>(), prop::bool::weighted(0.3), prop::bool::weighted(0.3)),
        (balance, limit, 0..4usize, vec(event(), 1..80)),
        (prop_oneof![2 => Just(0u32), 1 => 1..3u32], any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |(
                (setting, three_backends, few_flows, scarce_ports),
                (balance, limit, tags, events),
                (share, rebuilds, tells),
            )| Story {
                setting,
                three_backends,
                few_flows,
                scarce_ports,
                balance,
                limit,
                share,
                rebuilds,
                tells,
                tags,
                events,
            },
        )
}

impl Story {
    fn world(&self) -> World {
        let mut world = self.setting.world(if self.three_backends { 3 } else { 1 });
        world = world.with_balance(self.balance).on_vlans(&[7, 100], true);
        world.tables.services.values_mut().for_each(|service| service.turns = 5);
        if self.limit != 0 {
            world = world.with_flags(SERVICE_HAS_LIMITS);
        }
        if self.share != 0 {
            world = world.with_flags(SERVICE_HAS_SHARES);
        }
        if self.rebuilds {
            world = world.with_flags(SERVICE_REBUILDS);
            world.tables.vips.values_mut().for_each(|vip| vip.inherited = 1);
            if self.tells {
                let former = MacWord::new([2, 0, 0, 0, 0, 3]);
                world.tables.vips.values_mut().for_each(|vip| vip.former = former);
            }
        }
        world.node.flags = if self.tells { NODE_TELLS_FLOWS } else { 0 };
        let ids: Vec<BackendId> = world.tables.backends.keys().copied().collect();
        for id in ids {
            let backend = world.backend_mut(id);
            backend.max_connections = self.limit;
            (backend.share, backend.new_per_tick) = (self.share, self.share * u32::from(id));
            if world.backend_mut(id).local == 0 {
                world = world.with_backend_tags(id, &tags(self.tags));
            }
        }
        if self.few_flows {
            world.max_flows = FEW_FLOWS;
        }
        if self.scarce_ports {
            world.reserved_ports.fill(u64::MAX);
            for space in [0, RESERVED_PORT_WORDS / 2] {
                for port in [40_000, 40_001u16] {
                    world.reserved_ports[space + usize::from(port / 64)] &= !(1 << (port % 64));
                }
            }
        }
        world
    }

    fn play(&self, plane: &mut dyn Plane, tally: &mut Tally) {
        let world = self.world();
        plane.reset(&world);
        let mut script = Script::new(plane, world, self.setting);
        for event in &self.events {
            event.happen(&mut script, tally);
        }
    }
}

impl Event {
    fn happen(&self, script: &mut Script<'_>, tally: &mut Tally) {
        let setting = script.setting;
        match self {
            Self::Client { client: n, port, target: to, mac, shape } => {
                let (src, dst) = (client(setting, *n, PORTS[*port]), target(setting, *to));
                let segment = shape.segment(&script.flows, src, dst, *mac);
                let outcome = shape.send(script, &segment.bytes(), tally);
                let sent = outcome.as_ref().map(|outcome| outcome.verdict)
                    == Some(Verdict::Transmit(TransmitReason::ToBackend));
                let plain = shape.echo && shape.damage.is_empty() && shape.flags & (SYN | FIN | RST) == 0;
                if let (Some(outcome), true, true, MODE_NAT) = (outcome, plain, sent, setting.mode) {
                    check_echo(script, &segment, &outcome, tally);
                }
            }
            Self::Connect { client: n, port, target: to } => {
                let (src, dst) = (client(setting, *n, PORTS[*port]), target(setting, *to));
                let plain = |flags| Shape { flags, ..Shape::default() };
                let syn = plain(SYN).segment(&script.flows, src, dst, ROUTER_MAC);
                let outcome = script.frame(&syn.bytes());
                tally.note(outcome.verdict);
                if outcome.verdict == Verdict::Transmit(TransmitReason::ToBackend) && setting.mode == MODE_NAT
                {
                    let sent = Packet::read(&outcome.frame).expect("what was sent parses");
                    let answer =
                        plain(SYN | ACK).segment(&script.flows, sent.dst(), sent.src(), backend_mac(0));
                    tally.note(script.frame(&answer.bytes()).verdict);
                }
                let ack = plain(ACK).segment(&script.flows, src, dst, ROUTER_MAC);
                tally.note(script.frame(&ack.bytes()).verdict);
            }
            Self::Known { direction, shape } => {
                let Some((key, entry)) = known(&script.flows, direction) else { return };
                let (src, dst) = ends(&key);
                let segment = shape.segment(&script.flows, src, dst, entry.client.mac.octets());
                shape.send(script, &segment.bytes(), tally);
            }
            Self::Icmp { direction, kind, code, length, own, shape } => {
                let Some((key, entry)) = known(&script.flows, direction) else { return };
                let (src, dst) = ends(&key);
                // What its other end has sent, as it arrives at this end.
                let about = shape.segment(&script.flows, dst, src, NODE_MAC).bytes();
                let told = IcmpMessage {
                    link: Link {
                        destination: NODE_MAC,
                        source: entry.client.mac.octets(),
                        tags: tags(shape.tags),
                    },
                    src: if *own { src.ip() } else { setting.client(0x0909) },
                    dst: dst.ip(),
                    ttl: shape.ttl,
                    ip_options: vec![],
                    dont_fragment: false,
                    kind: *kind,
                    code: *code,
                    rest: 1300u32.to_be_bytes(),
                    body: quote(&about, *length),
                    padding: vec![0xa5; shape.padding],
                };
                shape.send(script, &told.bytes(), tally);
            }
            Self::Noise { bytes, to_us, v6 } => {
                let mut frame = bytes.clone();
                if *to_us {
                    frame[..6].copy_from_slice(&NODE_MAC);
                    frame[12..14].copy_from_slice(if *v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
                    let (at, vip) = match setting.service().ip() {
                        IpAddr::V4(vip) => (30, vip.octets().to_vec()),
                        IpAddr::V6(vip) => (38, vip.octets().to_vec()),
                    };
                    if let Some(place) = frame.get_mut(at..at + vip.len()) {
                        place.copy_from_slice(&vip);
                    }
                }
                tally.note(script.frame(&frame).verdict);
            }
            Self::Seconds(seconds) => {
                script.change(|world| world.clock = world.clock.wrapping_add(*seconds));
            }
            Self::Change(change) => script.change(|world| change.apply(setting, world)),
            Self::Sever(direction) => {
                let established: Vec<Key> = script.flows.established.keys().copied().collect();
                if !established.is_empty() {
                    script.sever_flow(&established[direction.index(established.len())]);
                }
            }
        }
    }
}

/// One of the directions that are known.
fn known(flows: &FlowState, direction: &Index) -> Option<(Key, Entry)> {
    let known: Vec<(Key, Entry)> = [Level::HalfOpen, Level::Established]
        .iter()
        .flat_map(|&level| flows.level(level))
        .map(|(key, entry)| (*key, *entry))
        .collect();
    (!known.is_empty()).then(|| known[direction.index(known.len())])
}

fn ends(key: &Key) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(key.src.into(), key.src_port.get()), SocketAddr::new(key.dst.into(), key.dst_port.get()))
}

impl Change {
    fn apply(&self, setting: Setting, world: &mut World) {
        match *self {
            Self::Usable(usable) => {
                let backends = world.tables.backends.len() as u32;
                world.tables.services.values_mut().for_each(|service| {
                    service.usable = if usable { backends } else { 0 };
                });
            }
            Self::Resolved(id, resolved) => {
                if let Some(backend) = world.tables.backends.get_mut(&id).filter(|backend| backend.local == 0)
                {
                    backend.hop = if resolved { backend_entry(setting.v6, id).hop } else { Hop::NONE };
                }
            }
            Self::Services(there) => {
                world.tables.services =
                    if there { setting.world(1).tables.services } else { BTreeMap::new() };
            }
            Self::Reserve(port) => world.reserve_port(port),
            Self::Mtu(id, mtu) => {
                if let Some(backend) = world.tables.backends.get_mut(&id) {
                    backend.mtu = mtu;
                }
            }
            Self::Backends(id, n, keeps) => {
                if let Some(backend) = world.tables.backends.get_mut(&id) {
                    (backend.hop.outer, backend.hop.inner) = lb_tests::plane::tag_words(&tags(n));
                    backend.hop.flags = if keeps { HOP_KEEPS_TAGS } else { 0 };
                }
            }
        }
    }
}

impl Shape {
    fn segment(&self, flows: &FlowState, src: SocketAddr, dst: SocketAddr, src_mac: Mac) -> Segment {
        let key = flow_key(src, dst);
        let expected = [Level::HalfOpen, Level::Established].iter().find_map(|&level| {
            let own = flows.level(level).get(&key)?;
            Some(flows.level(level).get(&own.rewritten.reversed())?.seen.next_seq)
        });
        let v6 = dst.is_ipv6();
        // Hop-by-hop, destination and routing headers, up to four of them.
        let extensions = (0..self.ip_option_words.min(4))
            .map(|n| Extension::padded([0, 60, 43, 60][n], (n % 2) as u8))
            .collect();
        Segment {
            src_mac,
            dst_mac: NODE_MAC,
            tags: tags(self.tags),
            src,
            dst,
            ttl: self.ttl,
            ip_options: if v6 { vec![] } else { vec![0x01; self.ip_option_words * 4] },
            extensions: if v6 { extensions } else { vec![] },
            flags: self.flags,
            seq: self.seq,
            ack: expected.filter(|_| self.right_ack).unwrap_or(self.seq ^ 0x5555),
            tcp_options: vec![0x01; self.tcp_option_words * 4],
            payload: (0..self.payload).map(|n| n as u8 ^ self.seq as u8).collect(),
            padding: vec![0xa5; self.padding],
        }
    }

    /// Sends a frame, damaged perhaps, or parts of it. The outcome where it was sent whole.
    fn send(&self, script: &mut Script<'_>, frame: &[u8], tally: &mut Tally) -> Option<Outcome> {
        let whole = Datagram::read(frame).expect("a packet, before it is damaged");
        let extensions = if matches!(whole.ip, Ip::V6(_)) { self.ip_option_words.min(4) } else { 0 };
        let fragmentable = whole.payload.len() > 40 * (1 + extensions);
        if let Some((at, sent)) = self.fragments.as_ref().filter(|_| fragmentable) {
            let offsets = [at * 8, at * 8 + 8].map(|at| at.min(40));
            let offsets = if offsets[0] == offsets[1] { &offsets[..1] } else { &offsets[..] };
            for (piece, sent) in fragments(frame, offsets).iter().zip(sent) {
                if *sent {
                    tally.note(script.frame(&self.damaged(piece.clone())).verdict);
                }
            }
            return None;
        }
        let outcome = script.frame(&self.damaged(frame.to_vec()));
        tally.note(outcome.verdict);
        Some(outcome)
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

/// NAT and its reverse: what the backend sends back unchanged reaches the client as if from the service, byte for byte. But
/// of a flow that was rebuilt, and that no answer has proved yet, only what can be an answer to what the client has sent:
/// anything else is of another connection, and reaches nobody.
fn check_echo(script: &mut Script<'_>, segment: &Segment, sent: &Outcome, tally: &mut Tally) {
    let packet = Packet::read(&sent.frame).expect("what was sent parses");
    let echo = Segment {
        src_mac: packet.link.destination,
        dst_mac: NODE_MAC,
        tags: packet.link.tags.clone(),
        src: packet.dst(),
        dst: packet.src(),
        ttl: 64,
        payload: packet.payload,
        ..segment.clone()
    };
    let is_guess = script
        .flows
        .level(Level::HalfOpen)
        .get(&flow_key(echo.src, echo.dst))
        .is_some_and(|reply| reply.seen.flags & SEEN_REBUILT != 0);
    let outcome = script.frame(&echo.bytes());
    tally.note(outcome.verdict);
    if is_guess && !is_answer(&echo, segment) {
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnknownReply), "what answers something else");
        return;
    }
    assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToClient), "the echo");
    let received = Packet::read(&outcome.frame).expect("what was sent parses");
    let ids = lb_tests::frames::vlan_ids;
    assert_eq!(ids(&received.link.tags), ids(&segment.tags), "the echo's VLANs");
    let expected = Segment {
        src_mac: NODE_MAC,
        dst_mac: segment.src_mac,
        tags: received.link.tags,
        src: segment.dst,
        dst: segment.src,
        ttl: 63,
        ..segment.clone()
    };
    assert_eq!(outcome.frame, expected.bytes(), "the echo of {}", describe(&expected.bytes()));
}

/// Whether what a backend sends can be of the same connection as what the client has sent last: each begins near to what
/// the other has acknowledged, by 16 MB at most.
fn is_answer(reply: &Segment, sent: &Segment) -> bool {
    let is_near = |one: u32, other: u32| one.wrapping_sub(other).cast_signed().unsigned_abs() <= 1 << 24;
    let sent_next = sent.seq.wrapping_add(sent.payload.len() as u32);
    is_near(reply.seq, sent.ack) && is_near(reply.ack, sent_next)
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

    fn of(&self, verdict: Verdict) -> usize {
        self.0.get(&verdict.counter()).map_or(0, |(_, count)| *count)
    }

    /// Prints all, and asserts that what matters was met often enough.
    fn report(&self, frames: usize) {
        for (verdict, count) in self.0.values() {
            println!("{count:>8} {verdict}");
        }
        assert!(self.frames() >= frames, "{} frames", self.frames());
        let full = Verdict::Drop(DropReason::FlowTableFull).counter();
        assert!(self.0.contains_key(&full), "the table was full at times");
        for reason in [
            TransmitReason::ToBackend,
            TransmitReason::ToClient,
            TransmitReason::ResetUnknownFlow,
            TransmitReason::TimeExceeded,
            TransmitReason::IcmpToBackend,
        ] {
            let met = self.of(Verdict::Transmit(reason));
            assert!(met * 400 >= self.frames(), "{reason:?}: {met} of {} frames", self.frames());
        }
        for verdict in
            [Verdict::Transmit(TransmitReason::ResetSevered), Verdict::Drop(DropReason::UnknownReply)]
        {
            assert!(self.0.contains_key(&verdict.counter()), "{verdict:?} was met");
        }
        assert!(self.0.len() >= 30, "{} different verdicts", self.0.len());
    }
}

/// A story that was found by chance, and took its property for a mistake of the data plane's: in the middle of a flow that is
/// not known, a client sends twice before it is answered. Its second packet acknowledges nothing that is near to its own
/// numbers, and a backend that sends these back does not answer it. The first packet's can be an answer.
#[test]
fn what_cannot_be_an_answer_to_a_rebuilt_flow_reaches_nobody() {
    let sends = |echo| {
        let shape = Shape { seq: 0x8000_0000, echo, ..Shape::default() };
        Event::Client { client: 0, port: 0, target: 0, mac: ROUTER_MAC, shape }
    };
    let (to_client, dropped) =
        (Verdict::Transmit(TransmitReason::ToClient), Verdict::Drop(DropReason::UnknownReply));
    for setting in [Setting::NAT, Setting::NAT6] {
        for (events, expected) in [
            (vec![sends(false), sends(true)], [2, 0, 1]),
            (vec![sends(true)], [1, 1, 0]),
            (vec![sends(true), sends(true)], [2, 2, 0]),
        ] {
            let story = Story { rebuilds: true, ..plain(setting, events) };
            let mut tally = Tally::default();
            story.play(&mut HostPlane::new(&story.world()), &mut tally);
            let met = [Verdict::Transmit(TransmitReason::ToBackend), to_client, dropped];
            assert_eq!(met.map(|verdict| tally.of(verdict)), expected, "{story:#?}");
        }
    }
}

/// How many stories to tell: so many, unless `XVIP_STORIES` says how many.
fn stories(usual: u32) -> u32 {
    std::env::var("XVIP_STORIES").map_or(usual, |count| count.parse().expect("XVIP_STORIES is a number"))
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
    tell(stories(400), |story| {
        story.play(&mut HostPlane::new(&story.world()), &mut tally.borrow_mut());
    });
    tally.borrow().report(8_000);
}

/// Other stories look at the flows after each frame, which settles them: in this one nobody does.
#[test]
fn the_cache_changes_nothing_but_when_packets_are_written_down() {
    let (tally, sent) = (RefCell::new(Tally::default()), RefCell::new(0));
    tell(stories(400), |story| {
        *sent.borrow_mut() += story.with_data().play_in_pair(&mut tally.borrow_mut());
    });
    tally.borrow().report(8_000);
    let sent = sent.into_inner();
    assert!(sent >= 1_000, "{sent} packets went by the cache");
}

/// A story that was found by chance: a connection ends and another one begins with its ports by frames with a VLAN tag, which
/// never look for a line. What the first one's line had to say was counted for the second.
#[test]
fn the_cache_counts_no_packet_for_the_next_connection_of_the_same_ports() {
    let sends = |flags, tags| {
        let shape = Shape { flags, tags, ..Shape::default() };
        Event::Client { client: 0, port: 0, target: 0, mac: ROUTER_MAC, shape }
    };
    let connect = Event::Connect { client: 0, port: 0, target: 0 };
    for setting in [Setting::NAT, Setting::NAT6, Setting::L2, Setting::L2_6] {
        let data = iter::repeat_n(sends(ACK, 0), 8);
        let next = [sends(RST | ACK, 1), sends(SYN, 1), connect.clone()];
        let events = iter::once(connect.clone()).chain(data).chain(next).collect();
        let sent = plain(setting, events).play_in_pair(&mut Tally::default());
        assert!(sent >= 3, "{sent} packets went by the cache");
    }
}

/// A story without anything particular: one backend, room enough, no limits.
fn plain(setting: Setting, events: Vec<Event>) -> Story {
    Story {
        setting,
        three_backends: false,
        few_flows: false,
        scarce_ports: false,
        balance: BALANCE_MAGLEV,
        limit: 0,
        share: 0,
        rebuilds: false,
        tells: false,
        tags: 0,
        events,
    }
}

impl Story {
    /// The same with two connections from the beginning, and three plain segments in a row wherever a flow has one of any kind.
    fn with_data(&self) -> Self {
        let connect = |client| Event::Connect { client, port: 0, target: 0 };
        let events = self.events.iter().flat_map(|event| match event {
            Event::Known { direction, shape } => {
                let plain = |seq| Shape { seq, payload: shape.payload, ..Shape::default() };
                let data = [shape.seq, shape.seq.wrapping_add(9), shape.seq].map(plain);
                data.map(|shape| Event::Known { direction: *direction, shape })
                    .into_iter()
                    .chain([event.clone()])
                    .collect()
            }
            other => vec![other.clone()],
        });
        Self { tags: 0, events: [connect(0), connect(1)].into_iter().chain(events).collect(), ..self.clone() }
    }

    /// Tells it with and without a cache: it is the same. Returns how many packets went by the cache.
    fn play_in_pair(&self, tally: &mut Tally) -> u64 {
        let mut world = self.world();
        let with_cache = HostPlane::new(&world);
        world.node.cache_sets = 0;
        let mut pair = Pair { without: HostPlane::new(&world), with: with_cache };
        self.play(&mut pair, tally);
        let written = |plane: &mut HostPlane| {
            let mut flows = plane.flows();
            for entry in flows.established.values_mut() {
                // Of segments that came in disorder the cache has the highest numbers, the entry the last ones.
                (entry.seen.next_seq, entry.seen.ack) = (0, 0);
            }
            flows
        };
        assert_eq!(written(&mut pair.with), written(&mut pair.without), "with a cache left, without right");
        pair.with.tables.sent_by_cache()
    }
}

/// The same frames with and without a cache; what is remembered is told by the one without.
struct Pair {
    with: HostPlane,
    without: HostPlane,
}

impl Plane for Pair {
    fn reset(&mut self, world: &World) {
        let mut plain = world.clone();
        plain.node.cache_sets = 0;
        self.with.reset(world);
        self.without.reset(&plain);
    }

    fn apply(&mut self, world: &World) {
        let mut plain = world.clone();
        plain.node.cache_sets = 0;
        self.with.apply(world);
        self.without.apply(&plain);
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let (with, without) = (self.with.run(frame), self.without.run(frame));
        assert_eq!(with, without, "with a cache left, without right: {}", describe(frame));
        without
    }

    fn flows(&mut self) -> FlowState {
        self.without.flows()
    }

    fn notes(&mut self) -> Notes {
        let (with, without) = (self.with.notes(), self.without.notes());
        assert_eq!(with, without, "with a cache left, without right");
        without
    }

    fn sever(&mut self, key: &Key) {
        self.with.sever(key);
        self.without.sever(key);
    }

    fn left_by(&self) -> Option<u32> {
        self.without.left_by()
    }
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
    tell(stories(300), |story| {
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

    fn notes(&mut self) -> Notes {
        let (kernel, host) = (self.kernel.notes(), self.host.notes());
        assert_eq!(kernel, host, "kernel left, host right");
        kernel
    }

    fn sever(&mut self, key: &Key) {
        self.kernel.sever(key);
        self.host.sever(key);
    }

    fn left_by(&self) -> Option<u32> {
        self.host.left_by()
    }
}
