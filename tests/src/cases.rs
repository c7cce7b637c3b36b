//! The table of cases: what the maps say, which frames come in, and what becomes of each.
//!
//! A case is a script against a [`Plane`], so that a later frame can depend on an earlier answer (a NAT port). What is
//! expected is worked out by `etherparse` from the frame that went in. After every frame [`Script`] checks what must
//! always hold, and writes down verdict, bytes and flow tables: the runners compare these transcripts.

mod closing;
mod fencing;
mod handshake;
mod malformed;
mod nat_ports;
mod pass;
mod resets;
mod time;

use std::net::{Ipv4Addr, SocketAddrV4};

use lb_common::{
    layout::{BackendCounters, BackendId, FlowEntry, TO_BACKEND, TO_CLIENT},
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use crate::{
    frames::{ACK, FIN, Mac, Packet, RST, Rewrite, SYN, Segment, ip_checksum_is_right, reset_for, rewritten},
    plane::{
        BACKENDS, FlowState, NODE_MAC, Outcome, Plane, ROUTER_MAC, SERVICE, VIP, World, backend, backend_mac,
        flow_key,
    },
};

/// A case.
pub struct Case {
    /// A few words that identify it.
    pub name: &'static str,
    /// What it says, in words.
    pub sentence: &'static str,
    world: fn() -> World,
    script: fn(&mut Script<'_>),
}

impl Case {
    const fn new(
        name: &'static str,
        sentence: &'static str,
        world: fn() -> World,
        script: fn(&mut Script<'_>),
    ) -> Self {
        Self { name, sentence, world, script }
    }

    /// What the maps say before the first frame.
    pub fn world(&self) -> World {
        (self.world)()
    }

    /// Plays the case and returns what happened.
    ///
    /// # Panics
    ///
    /// Where something else happens than the case says.
    pub fn play(&self, plane: &mut dyn Plane) -> Vec<Step> {
        let world = self.world();
        plane.reset(&world);
        let mut script = Script::new(plane, world);
        (self.script)(&mut script);
        assert!(!script.transcript.is_empty(), "a case has a frame");
        script.transcript
    }
}

/// Every case.
pub fn all() -> impl Iterator<Item = &'static Case> {
    [
        pass::CASES,
        malformed::CASES,
        handshake::CASES,
        closing::CASES,
        nat_ports::CASES,
        resets::CASES,
        time::CASES,
        fencing::CASES,
    ]
    .into_iter()
    .flatten()
}

/// A frame and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The frame that came in.
    pub input: Vec<u8>,
    /// The verdict, and the frame afterwards.
    pub outcome: Outcome,
    /// The flow tables afterwards.
    pub flows: FlowState,
    /// The backends' counters afterwards.
    pub counters: Vec<BackendCounters>,
}

/// A case while it is played.
pub struct Script<'a> {
    plane: &'a mut dyn Plane,
    world: World,
    flows: FlowState,
    transcript: Vec<Step>,
}

impl<'a> Script<'a> {
    /// Begins with the maps as they are.
    pub fn new(plane: &'a mut dyn Plane, world: World) -> Self {
        let flows = plane.flows();
        Self { plane, world, flows, transcript: vec![] }
    }

    /// Gives the data plane a frame. Checks only what always holds.
    ///
    /// # Panics
    ///
    /// Where it does not hold.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        let outcome = self.plane.run(frame);
        let flows = self.plane.flows();
        check_outcome(frame, &outcome);
        check_bystander(&self.world, frame, &outcome);
        check_flows(&self.world, &self.flows, &flows);
        self.flows = flows.clone();
        let counters = (0..BACKENDS).map(|id| self.plane.backend_counters(id)).collect();
        self.transcript.push(Step { input: frame.to_vec(), outcome: outcome.clone(), flows, counters });
        outcome
    }

    /// A frame that the host gets, untouched; no flow changes.
    fn passes(&mut self, frame: &[u8], reason: PassReason) {
        self.leaves_flows_alone(frame, Verdict::Pass(reason));
    }

    /// A frame that nobody gets; no flow changes.
    fn drops(&mut self, frame: &[u8], reason: DropReason) {
        self.leaves_flows_alone(frame, Verdict::Drop(reason));
    }

    /// A frame that is answered with a RST; no flow changes.
    fn resets(&mut self, frame: &[u8], reason: TransmitReason) {
        let outcome = self.leaves_flows_alone(frame, Verdict::Transmit(reason));
        assert_eq!(outcome.frame, reset_for(frame), "the RST");
    }

    fn leaves_flows_alone(&mut self, frame: &[u8], verdict: Verdict) -> Outcome {
        let before = self.flows.clone();
        let outcome = self.frame(frame);
        assert_eq!(outcome.verdict, verdict, "{}", describe(frame));
        assert_eq!(self.flows, before, "no flow changes");
        outcome
    }

    /// A frame of a client that is forwarded to the connection's backend.
    fn up(&mut self, connection: &Connection, frame: &[u8]) {
        let outcome = self.frame(frame);
        assert_eq!(
            outcome.verdict,
            Verdict::Transmit(TransmitReason::ToBackend),
            "client: {}",
            describe(frame)
        );
        let expected = rewritten(
            frame,
            &Rewrite {
                src_mac: NODE_MAC,
                dst_mac: backend_mac(connection.backend),
                src: connection.nat_address(),
                dst: backend(connection.backend),
            },
        );
        assert_eq!(outcome.frame, expected, "the frame to the backend");
    }

    /// A frame of a backend that is forwarded to the connection's client.
    fn down(&mut self, connection: &Connection, frame: &[u8]) {
        let outcome = self.frame(frame);
        assert_eq!(
            outcome.verdict,
            Verdict::Transmit(TransmitReason::ToClient),
            "backend: {}",
            describe(frame)
        );
        let expected = rewritten(
            frame,
            &Rewrite {
                src_mac: NODE_MAC,
                dst_mac: connection.client_mac,
                src: connection.service,
                dst: connection.client,
            },
        );
        assert_eq!(outcome.frame, expected, "the frame to the client");
    }

    /// The client's SYN. Learns backend and NAT port from the frame that goes out.
    fn syn(&mut self, connection: &mut Connection) {
        let frame = connection.from_client(SYN, b"").bytes();
        self.open(connection, &frame);
        connection.client_seq = connection.client_seq.wrapping_add(1);
    }

    /// Any frame that opens a connection.
    fn open(&mut self, connection: &mut Connection, frame: &[u8]) {
        let outcome = self.frame(frame);
        assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend), "SYN: {}", describe(frame));
        let sent = Packet::read(&outcome.frame).expect("a SYN goes out");
        connection.nat_port = sent.src().port();
        connection.backend =
            (0..BACKENDS).find(|&id| backend(id) == sent.dst()).expect("the SYN goes to a backend");
        let expected = Rewrite {
            src_mac: NODE_MAC,
            dst_mac: backend_mac(connection.backend),
            src: connection.nat_address(),
            dst: backend(connection.backend),
        };
        assert_eq!(outcome.frame, rewritten(frame, &expected), "the SYN to the backend");
        self.expect_level(connection, Level::HalfOpen);
    }

    /// A segment of the client, forwarded.
    fn client(&mut self, connection: &mut Connection, flags: u8, payload: &[u8]) {
        let segment = connection.from_client(flags, payload);
        self.up(connection, &segment.bytes());
        connection.client_seq = after(&segment);
    }

    /// A segment of the backend, forwarded.
    fn server(&mut self, connection: &mut Connection, flags: u8, payload: &[u8]) {
        let segment = connection.from_backend(flags, payload);
        self.down(connection, &segment.bytes());
        connection.backend_seq = after(&segment);
    }

    /// SYN, SYN-ACK, ACK.
    fn handshake(&mut self, connection: &mut Connection) {
        self.syn(connection);
        self.server(connection, SYN | ACK, b"");
        self.client(connection, ACK, b"");
        self.expect_level(connection, Level::Established);
    }

    /// FIN from both sides, each acknowledged.
    fn close(&mut self, connection: &mut Connection) {
        self.client(connection, FIN | ACK, b"");
        self.server(connection, FIN | ACK, b"");
        self.client(connection, ACK, b"");
    }

    /// Changes what the controller has written.
    pub fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.plane.apply(&self.world);
    }

    /// The flow tables after the last frame.
    pub const fn flows(&self) -> &FlowState {
        &self.flows
    }

    /// Sets the flow clock, in seconds.
    fn at(&mut self, clock: u32) {
        self.change(|world| world.clock = clock);
    }

    /// Both directions of the connection are in the table of that level, and in no other.
    fn expect_level(&self, connection: &Connection, level: Level) {
        let other = if level == Level::HalfOpen { Level::Established } else { Level::HalfOpen };
        for key in [connection.client_key(), connection.backend_key()] {
            assert!(self.flows.level(level).contains_key(&key), "{key:?} is {level:?}");
            assert!(!self.flows.level(other).contains_key(&key), "{key:?} is not {other:?}");
        }
    }

    /// Neither direction of the connection is in any table.
    fn expect_gone(&self, connection: &Connection) {
        for key in [connection.client_key(), connection.backend_key()] {
            assert!(!self.flows.half_open.contains_key(&key), "{key:?} is not half-open");
            assert!(!self.flows.established.contains_key(&key), "{key:?} is not established");
        }
    }

    /// That many flows are half-open and established.
    fn expect_flows(&self, half_open: usize, established: usize) {
        let found = (self.flows.half_open.len(), self.flows.established.len());
        assert_eq!(found, (half_open * 2, established * 2), "entries of half-open and established flows");
    }

    /// The client's and the backend's direction of an established connection.
    fn directions(&self, connection: &Connection) -> (FlowEntry, FlowEntry) {
        let established = &self.flows.established;
        (established[&connection.client_key()], established[&connection.backend_key()])
    }

    fn counters(&mut self, id: BackendId) -> BackendCounters {
        self.plane.backend_counters(id)
    }
}

/// A connection through the balancer, as its two ends see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub client: SocketAddrV4,
    /// Where the client's packets come from.
    pub client_mac: Mac,
    /// What the client connects to.
    pub service: SocketAddrV4,
    /// The backend, once known.
    pub backend: BackendId,
    /// The VIP's port that the backend sees, once known.
    pub nat_port: u16,
    /// The client's next sequence number.
    pub client_seq: u32,
    /// The backend's next sequence number.
    pub backend_seq: u32,
}

impl Connection {
    /// A client's at that port, to the service on the backends' own port. Sequence numbers are about to wrap.
    pub const fn new(port: u16) -> Self {
        Self::from(SocketAddrV4::new(Ipv4Addr::new(172, 16, 0, 100), port), SERVICE)
    }

    /// Any.
    pub const fn from(client: SocketAddrV4, service: SocketAddrV4) -> Self {
        Self {
            client,
            client_mac: ROUTER_MAC,
            service,
            backend: 0,
            nat_port: 0,
            client_seq: u32::MAX - 1,
            backend_seq: u32::MAX - 2,
        }
    }

    /// The address that the backend sees.
    pub const fn nat_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(VIP, self.nat_port)
    }

    /// The client's next segment.
    pub fn from_client(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            src_mac: self.client_mac,
            dst_mac: NODE_MAC,
            src: self.client,
            dst: self.service,
            ttl: 63,
            ip_options: vec![],
            flags,
            seq: self.client_seq,
            ack: if flags & ACK != 0 { self.backend_seq } else { 0 },
            tcp_options: vec![],
            payload: payload.to_vec(),
            padding: vec![],
        }
    }

    /// The backend's next segment.
    pub fn from_backend(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            src_mac: backend_mac(self.backend),
            src: backend(self.backend),
            dst: self.nat_address(),
            ttl: 64,
            seq: self.backend_seq,
            ack: if flags & ACK != 0 { self.client_seq } else { 0 },
            ..self.from_client(flags, payload)
        }
    }

    fn client_key(&self) -> lb_common::layout::FlowKey {
        flow_key(self.client, self.service)
    }

    fn backend_key(&self) -> lb_common::layout::FlowKey {
        flow_key(backend(self.backend), self.nat_address())
    }
}

/// The sequence number after a segment.
fn after(segment: &Segment) -> u32 {
    let phantom = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    segment.seq.wrapping_add(segment.payload.len() as u32).wrapping_add(phantom)
}

/// Whether a sender can have meant the flags: written down by hand, apart from the code under test.
pub fn flags_are_sane(flags: u8) -> bool {
    match (flags & SYN != 0, flags & FIN != 0, flags & RST != 0, flags & ACK != 0) {
        (true, false, false, _) | (false, false, true, _) => true,
        (false, _, false, true) => true,
        (false, _, false, false) => false,
        _ => false,
    }
}

/// What holds of every frame's outcome.
///
/// # Panics
///
/// Where it does not hold.
pub fn check_outcome(input: &[u8], outcome: &Outcome) {
    assert!(outcome.frame.len() <= input.len(), "a frame never grows");
    match outcome.verdict {
        Verdict::Pass(_) => assert_eq!(outcome.frame, input, "what the host gets is untouched"),
        Verdict::Drop(reason) => assert_ne!(reason, DropReason::Internal, "{}", describe(input)),
        Verdict::Transmit(reason) => {
            let read = |frame: &[u8]| Packet::read(frame).expect("what goes out parses");
            let (came, sent) = (read(input), read(&outcome.frame));
            assert!(ip_checksum_is_right(&outcome.frame), "the IP checksum is right");
            assert_eq!(sent.ethernet.source, NODE_MAC, "we are the sender");
            match reason {
                TransmitReason::ToBackend | TransmitReason::ToClient => {
                    assert_eq!(outcome.frame.len(), input.len(), "the length stays");
                    assert_eq!(sent.ip.time_to_live, came.ip.time_to_live - 1, "one hop");
                    // 0xffff means what 0 means, and becomes it.
                    if came.tcp.checksum != 0xffff {
                        assert_eq!(
                            sent.tcp_checksum_is_right(),
                            came.tcp_checksum_is_right(),
                            "the TCP checksum is as right as it was"
                        );
                    }
                    check_untouched_parts(input, &outcome.frame, came.ip.header_len());
                }
                TransmitReason::ResetNoBackend | TransmitReason::ResetUnknownFlow => {
                    assert_eq!(outcome.frame, reset_for(input), "the RST");
                }
            }
        }
    }
}

/// What is no IPv4 for a VIP, sent to our own Ethernet address, is the host's; ARP apart.
///
/// # Panics
///
/// Where it does not get it.
pub fn check_bystander(world: &World, frame: &[u8], outcome: &Outcome) {
    let is = |range: std::ops::Range<usize>, bytes: &[u8]| frame.get(range).is_some_and(|part| part == bytes);
    let for_a_vip = world.tables.vips.keys().any(|vip| is(30..34, &vip.octets()));
    let ours = is(0..6, &NODE_MAC) && is(12..14, &[0x08, 0x00]) && for_a_vip;
    let arp = is(12..14, &[0x08, 0x06]);
    if !ours && !arp {
        assert!(matches!(outcome.verdict, Verdict::Pass(_)), "{:?} of a bystander", outcome.verdict);
    }
}

/// Apart from both Ethernet addresses, TTL, checksums, addresses and ports, every bit is as it came.
fn check_untouched_parts(input: &[u8], output: &[u8], ip_header: usize) {
    let tcp = 14 + ip_header;
    for (offset, (before, after)) in input.iter().zip(output).enumerate() {
        let rewritten = offset < 12
            || offset == 22
            || (24..34).contains(&offset)
            || (tcp..tcp + 4).contains(&offset)
            || (tcp + 16..tcp + 18).contains(&offset);
        assert!(rewritten || before == after, "byte {offset} was changed");
    }
}

/// What holds of the flow tables after every frame.
///
/// # Panics
///
/// Where it does not hold.
pub fn check_flows(world: &World, before: &FlowState, after: &FlowState) {
    assert!(after.established.len() <= world.max_flows as usize * 2, "the table has its limit");
    for level in [Level::HalfOpen, Level::Established] {
        for (key, entry) in after.level(level) {
            let other = after.level(level).get(&entry.rewritten.reversed());
            let Some(other) = other else { panic!("{level:?} {key:?} has no other direction") };
            assert_eq!(other.rewritten, key.reversed(), "the directions agree");
            assert_eq!(other.backend, entry.backend, "the directions have one backend");
            assert_eq!(other.client_mac, entry.client_mac, "the directions have one client");
            assert_eq!(u32::from(other.direction) + u32::from(entry.direction), 1, "one direction each");
            let (nat_address, nat_port) = match entry.direction {
                TO_BACKEND => (entry.rewritten.src, entry.rewritten.src_port.get()),
                TO_CLIENT => (key.dst, key.dst_port.get()),
                direction => panic!("direction {direction}"),
            };
            assert!(world.tables.vips.contains_key(&nat_address.into()), "the backend sees a VIP");
            let is_new = !before.half_open.contains_key(key) && !before.established.contains_key(key);
            assert!(nat_port >= 1024, "NAT port {nat_port}");
            assert!(!is_new || !world.port_is_reserved(nat_port), "NAT port {nat_port} is reserved");
            let elsewhere = if level == Level::HalfOpen { Level::Established } else { Level::HalfOpen };
            assert!(!after.level(elsewhere).contains_key(key), "{key:?} is in one table only");
        }
    }
}

/// A frame in words, for failures.
pub fn describe(frame: &[u8]) -> String {
    match Packet::read(frame) {
        None => format!("{} bytes: {frame:02x?}", frame.len()),
        Some(packet) => format!(
            "{} > {} seq {} ack {}{}{}{}{}, {} bytes",
            packet.src(),
            packet.dst(),
            packet.tcp.sequence_number,
            packet.tcp.acknowledgment_number,
            if packet.tcp.syn { " SYN" } else { "" },
            if packet.tcp.ack { " ACK" } else { "" },
            if packet.tcp.fin { " FIN" } else { "" },
            if packet.tcp.rst { " RST" } else { "" },
            packet.payload.len()
        ),
    }
}
