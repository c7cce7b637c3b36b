//! A case while it is played, and a connection as its two ends see it.

use std::net::{IpAddr, SocketAddr};

use lb_common::{
    layout::{
        BackendCounters, BackendId, HOP_KEEPS_TAGS, Hop, Load, MODE_DSR_IPIP, MODE_LOCAL, MODE_NAT, TagWord,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use super::{
    Setting, check_bystander, check_ended_and_rebuilt, check_events, check_flows, check_outcome,
    check_sightings, describe,
};
use crate::{
    frames::{ACK, FIN, Link, Mac, Packet, Rewrite, SYN, Segment, Tag, passed_on, rewritten, vlan_ids},
    plane::{
        BACKENDS, Entry, FlowState, Key, LINK, NODE_MAC, Notes, Outcome, Plane, ROUTER_MAC, World,
        backend_mac, flow_key, node_of,
    },
};

/// A frame and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The frame that came in.
    pub input: Vec<u8>,
    /// The verdict, and the frame afterwards.
    pub outcome: Outcome,
    /// The flow tables afterwards.
    pub flows: FlowState,
    /// What else was written.
    pub notes: Notes,
}

/// A case while it is played.
pub struct Script<'a> {
    plane: &'a mut dyn Plane,
    /// What the maps say.
    pub world: World,
    /// What it is played in.
    pub setting: Setting,
    /// The flow tables after the last frame.
    pub flows: FlowState,
    /// What else was written.
    pub notes: Notes,
    transcript: Vec<Step>,
}

impl<'a> Script<'a> {
    /// Begins with the maps as they are.
    pub fn new(plane: &'a mut dyn Plane, world: World, setting: Setting) -> Self {
        let (flows, notes) = (plane.flows(), plane.notes());
        Self { plane, world, setting, flows, notes, transcript: vec![] }
    }

    pub(super) fn into_transcript(self) -> Vec<Step> {
        self.transcript
    }

    /// Gives the data plane a frame. Checks only what always holds.
    ///
    /// # Panics
    ///
    /// Where it does not hold.
    pub fn frame(&mut self, frame: &[u8]) -> Outcome {
        let outcome = self.plane.run(frame);
        let flows = self.plane.flows();
        check_outcome(&self.world, frame, &outcome);
        check_bystander(&self.world, frame, &outcome);
        check_flows(&self.world, &self.flows, &flows);
        check_ended_and_rebuilt(&self.flows, &flows);
        let before = std::mem::replace(&mut self.flows, flows);
        let notes = self.plane.notes();
        check_sightings(&self.notes, &notes, outcome.verdict);
        check_events(&self.world, &before, &self.flows, &notes);
        self.notes = notes;
        self.transcript.push(Step {
            input: frame.to_vec(),
            outcome: outcome.clone(),
            flows: self.flows.clone(),
            notes: self.notes.clone(),
        });
        outcome
    }

    /// A frame that the host gets, untouched; no flow changes.
    pub(super) fn passes(&mut self, frame: &[u8], reason: PassReason) {
        self.leaves_flows_alone(frame, Verdict::Pass(reason));
    }

    /// A frame that the host gets as if it had been for the interface's own address; no flow changes.
    pub(super) fn readdresses(&mut self, frame: &[u8], reason: PassReason, seen: &[u8]) {
        let outcome = self.leaves_flows_alone(frame, Verdict::Pass(reason));
        assert_eq!(outcome.frame, seen, "{}", describe(frame));
    }

    /// A frame that nobody gets; no flow changes.
    pub(super) fn drops(&mut self, frame: &[u8], reason: DropReason) {
        self.leaves_flows_alone(frame, Verdict::Drop(reason));
    }

    /// A frame that is answered with a RST; no flow changes.
    pub(super) fn resets(&mut self, frame: &[u8], reason: TransmitReason) {
        let outcome = self.leaves_flows_alone(frame, Verdict::Transmit(reason));
        assert_eq!(outcome.frame, Packet::reset_for(frame), "the RST");
        self.left_by(&outcome, LINK);
    }

    /// A frame that is answered, by the interface that it came in by; no flow changes.
    pub(super) fn answers(&mut self, frame: &[u8], reason: TransmitReason, expected: &[u8]) {
        let outcome = self.leaves_flows_alone(frame, Verdict::Transmit(reason));
        assert_eq!(outcome.frame, expected, "the answer to {}", describe(frame));
        self.left_by(&outcome, LINK);
    }

    pub(super) fn leaves_flows_alone(&mut self, frame: &[u8], verdict: Verdict) -> Outcome {
        let before = self.flows.clone();
        let outcome = self.frame(frame);
        assert_eq!(outcome.verdict, verdict, "{}", describe(frame));
        assert_eq!(self.flows, before, "no flow changes");
        outcome
    }

    /// The last frame leaves by that interface.
    pub(super) fn left_by(&self, outcome: &Outcome, if_index: u32) {
        assert_eq!(outcome.redirected, if_index != LINK, "another interface");
        if let Some(left_by) = self.plane.left_by() {
            assert_eq!(left_by, if_index, "the interface");
        }
    }

    /// What a frame to this connection's backend becomes.
    pub(super) fn way_up(&self, connection: &Connection, frame: &[u8]) -> Rewrite {
        let backend = connection.backend;
        let hop = self.world.tables.backends[&backend].hop;
        let nat = self.setting.mode == MODE_NAT;
        let tunnel = self.setting.mode == MODE_DSR_IPIP;
        Rewrite {
            link: along(frame, &hop),
            ends: nat.then(|| (connection.nat_address(), self.setting.backend(backend))),
            tunnel: tunnel.then(|| (node_of(self.setting.backend_v6), self.setting.backend(backend).ip())),
        }
    }

    /// What a frame of this connection's backend becomes.
    pub(super) fn way_down(&self, connection: &Connection, frame: &[u8]) -> Rewrite {
        let link = Link {
            destination: connection.client_mac,
            source: NODE_MAC,
            tags: tags_along(frame, &connection.client_tags, false),
        };
        Rewrite { link, ends: Some((connection.service, connection.client)), tunnel: None }
    }

    /// The frame is forwarded to the connection's backend, and has become exactly that.
    pub(super) fn reaches_backend(&mut self, connection: &Connection, frame: &[u8], expected: &[u8]) {
        let outcome = self.frame(frame);
        if self.setting.mode == MODE_LOCAL {
            assert_eq!(outcome.verdict, Verdict::Pass(PassReason::LocalBackend), "{}", describe(frame));
            return;
        }
        let reason = TransmitReason::ToBackend;
        assert_eq!(outcome.verdict, Verdict::Transmit(reason), "client: {}", describe(frame));
        assert_eq!(outcome.frame, expected, "the frame to the backend");
        let if_index = self.world.tables.backends[&connection.backend].hop.if_index;
        self.left_by(&outcome, if_index);
    }

    /// The frame is forwarded to the connection's client, and has become exactly that.
    pub(super) fn reaches_client(&mut self, frame: &[u8], expected: &[u8]) {
        let outcome = self.frame(frame);
        let reason = TransmitReason::ToClient;
        assert_eq!(outcome.verdict, Verdict::Transmit(reason), "backend: {}", describe(frame));
        assert_eq!(outcome.frame, expected, "the frame to the client");
        self.left_by(&outcome, LINK);
    }

    /// A frame of a client that is forwarded to the connection's backend.
    pub(super) fn up(&mut self, connection: &Connection, frame: &[u8]) {
        let expected = rewritten(frame, &self.way_up(connection, frame));
        self.reaches_backend(connection, frame, &expected);
    }

    /// A frame of a backend that is forwarded to the connection's client.
    pub(super) fn down(&mut self, connection: &Connection, frame: &[u8]) {
        let expected = rewritten(frame, &self.way_down(connection, frame));
        self.reaches_client(frame, &expected);
    }

    /// A packet of a client without a TCP header of its own, forwarded to the connection's backend.
    pub(super) fn part_up(&mut self, connection: &Connection, frame: &[u8]) {
        let expected = passed_on(frame, &self.way_up(connection, frame));
        self.reaches_backend(connection, frame, &expected);
    }

    /// The client's SYN. Learns backend and NAT port from the frame that goes out.
    pub(super) fn syn(&mut self, connection: &mut Connection) {
        let frame = connection.from_client(SYN, b"").bytes();
        self.open(connection, &frame);
        connection.client_seq = connection.client_seq.wrapping_add(1);
    }

    /// Any frame that opens a connection.
    pub(super) fn open(&mut self, connection: &mut Connection, frame: &[u8]) {
        self.open_with(connection, frame);
        self.expect_level(connection, Level::HalfOpen);
    }

    fn open_with(&mut self, connection: &mut Connection, frame: &[u8]) {
        let outcome = self.frame(frame);
        if self.setting.mode == MODE_LOCAL {
            assert_eq!(outcome.verdict, Verdict::Pass(PassReason::LocalBackend), "SYN: {}", describe(frame));
            connection.backend = self.flows.half_open[&connection.client_key()].backend;
            return;
        }
        assert_eq!(outcome.verdict, Verdict::Transmit(TransmitReason::ToBackend), "SYN: {}", describe(frame));
        if self.setting.mode == MODE_NAT {
            let sent = Packet::read(&outcome.frame).expect("a SYN goes out");
            connection.nat_port = sent.src().port();
            connection.backend = (0..BACKENDS)
                .find(|&id| self.setting.backend(id) == sent.dst())
                .expect("the SYN goes to a backend");
        } else {
            connection.backend = (0..BACKENDS)
                .find(|&id| outcome.frame[..6] == backend_mac(id))
                .expect("the SYN goes to a backend");
        }
        let expected = rewritten(frame, &self.way_up(connection, frame));
        assert_eq!(outcome.frame, expected, "the SYN to the backend");
        self.left_by(&outcome, self.world.tables.backends[&connection.backend].hop.if_index);
    }

    /// A segment of the client, forwarded.
    pub(super) fn client(&mut self, connection: &mut Connection, flags: u8, payload: &[u8]) {
        let segment = connection.from_client(flags, payload);
        self.up(connection, &segment.bytes());
        connection.client_seq = after(&segment);
    }

    /// A segment of the backend, forwarded; or sent straight to the client, and not seen here.
    pub(super) fn server(&mut self, connection: &mut Connection, flags: u8, payload: &[u8]) {
        let segment = connection.from_backend(flags, payload);
        if self.setting.mode == MODE_NAT {
            self.down(connection, &segment.bytes());
        }
        connection.backend_seq = after(&segment);
    }

    /// SYN, SYN-ACK, ACK.
    pub(super) fn handshake(&mut self, connection: &mut Connection) {
        self.syn(connection);
        self.server(connection, SYN | ACK, b"");
        self.client(connection, ACK, b"");
        self.expect_level(connection, Level::Established);
    }

    /// FIN from both sides, each acknowledged.
    pub(super) fn close(&mut self, connection: &mut Connection) {
        self.client(connection, FIN | ACK, b"");
        self.server(connection, FIN | ACK, b"");
        self.client(connection, ACK, b"");
    }

    /// Ends an established flow as the controller does it, but for its load: marks both directions.
    pub(super) fn sever(&mut self, connection: &Connection) {
        self.sever_flow(&connection.client_key());
    }

    /// The same with the flow of one of its directions.
    ///
    /// # Panics
    ///
    /// Where it is not established.
    pub fn sever_flow(&mut self, key: &Key) {
        let entry = self.flows.established[key];
        self.plane.sever(key);
        if entry.mode == MODE_NAT {
            self.plane.sever(&entry.rewritten.reversed());
        }
        self.flows = self.plane.flows();
    }

    /// Changes what the controller has written.
    pub fn change(&mut self, change: impl FnOnce(&mut World)) {
        change(&mut self.world);
        self.plane.apply(&self.world);
    }

    /// Sets the flow clock, in seconds.
    pub(super) fn at(&mut self, clock: u32) {
        self.change(|world| world.clock = clock);
    }

    /// A connection of the first client, at that port, to the service. Sequence numbers are about to wrap.
    pub fn connection(&self, port: u16) -> Connection {
        self.of_client(100, port)
    }

    /// A connection of that client.
    pub fn of_client(&self, n: u16, port: u16) -> Connection {
        self.between(SocketAddr::new(self.setting.client(n), port), self.setting.service())
    }

    /// A connection to the service with port translation.
    pub(super) fn translated(&self, port: u16) -> Connection {
        self.between(SocketAddr::new(self.setting.client(100), port), self.setting.translated())
    }

    /// Any connection in this setting.
    pub(super) fn between(&self, client: SocketAddr, service: SocketAddr) -> Connection {
        let nat = self.world.service(service).map(|service| IpAddr::from(service.snat));
        let connection = Connection::from(client, service);
        Connection { nat_source: nat.unwrap_or(service.ip()), ..connection }
    }

    /// The keys that a connection has in the flow tables.
    fn keys(&self, connection: &Connection) -> Vec<Key> {
        let mut keys = vec![connection.client_key()];
        if self.setting.mode == MODE_NAT {
            keys.push(self.backend_key(connection));
        }
        keys
    }

    pub(super) fn backend_key(&self, connection: &Connection) -> Key {
        flow_key(self.setting.backend(connection.backend), connection.nat_address())
    }

    /// The connection's directions are in the table of that level, and in no other.
    pub(super) fn expect_level(&self, connection: &Connection, level: Level) {
        let other = if level == Level::HalfOpen { Level::Established } else { Level::HalfOpen };
        for key in self.keys(connection) {
            assert!(self.flows.level(level).contains_key(&key), "{key:?} is {level:?}");
            assert!(!self.flows.level(other).contains_key(&key), "{key:?} is not {other:?}");
        }
    }

    /// Neither direction of the connection is in any table.
    pub(super) fn expect_gone(&self, connection: &Connection) {
        for key in self.keys(connection) {
            assert!(!self.flows.half_open.contains_key(&key), "{key:?} is not half-open");
            assert!(!self.flows.established.contains_key(&key), "{key:?} is not established");
        }
    }

    /// That many flows are half-open and established.
    pub(super) fn expect_flows(&self, half_open: usize, established: usize) {
        let found = (self.flows.half_open.len(), self.flows.established.len());
        let each = if self.setting.mode == MODE_NAT { 2 } else { 1 };
        assert_eq!(
            found,
            (half_open * each, established * each),
            "entries of half-open and established flows"
        );
    }

    /// The client's and the backend's direction of an established connection.
    pub(super) fn directions(&self, connection: &Connection) -> (Entry, Entry) {
        let established = &self.flows.established;
        (established[&connection.client_key()], established[&self.backend_key(connection)])
    }

    pub(super) fn counters(&self, id: BackendId) -> BackendCounters {
        self.notes.counters[usize::from(id)]
    }

    pub(super) fn load(&self, id: BackendId) -> Load {
        self.notes.loads[usize::from(id)]
    }
}

/// What a frame that goes along a hop has in front of its network header.
fn along(frame: &[u8], hop: &Hop) -> Link {
    let tags: Vec<Tag> =
        [hop.outer, hop.inner].into_iter().filter(|tag| tag.is_some()).map(TagWord::octets).collect();
    let tags =
        if hop.if_index == LINK { tags_along(frame, &tags, hop.flags & HOP_KEEPS_TAGS != 0) } else { tags };
    Link { destination: hop.mac.octets(), source: hop.source.octets(), tags }
}

/// The tags of a frame that goes on to where these ones lead, by the same interface: within a VLAN it keeps its own, and
/// with them its priority.
fn tags_along(frame: &[u8], tags: &[Tag], keeps: bool) -> Vec<Tag> {
    let (link, ..) = Link::read(frame).expect("a frame");
    if keeps || vlan_ids(&link.tags) == vlan_ids(tags) { link.tags } else { tags.to_vec() }
}

/// A connection through the balancer, as its two ends see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The client.
    pub client: SocketAddr,
    /// Where the client's packets come from.
    pub client_mac: Mac,
    /// The tags of its frames.
    pub client_tags: Vec<Tag>,
    /// What the client connects to.
    pub service: SocketAddr,
    /// The backend, once known.
    pub backend: BackendId,
    /// The tags of the backend's frames.
    pub backend_tags: Vec<Tag>,
    /// The address that the backend sees with full NAT.
    pub nat_source: IpAddr,
    /// Its port, once known.
    pub nat_port: u16,
    /// The client's next sequence number.
    pub client_seq: u32,
    /// The backend's next sequence number.
    pub backend_seq: u32,
}

impl Connection {
    /// Any, with full NAT from the VIP.
    pub fn from(client: impl Into<SocketAddr>, service: impl Into<SocketAddr>) -> Self {
        let service = service.into();
        Self {
            client: client.into(),
            client_mac: ROUTER_MAC,
            client_tags: vec![],
            service,
            backend: 0,
            backend_tags: vec![],
            nat_source: service.ip(),
            nat_port: 0,
            client_seq: u32::MAX - 1,
            backend_seq: u32::MAX - 2,
        }
    }

    /// What the backend sees.
    pub const fn nat_address(&self) -> SocketAddr {
        SocketAddr::new(self.nat_source, self.nat_port)
    }

    /// The client's next segment.
    pub fn from_client(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            src_mac: self.client_mac,
            dst_mac: NODE_MAC,
            tags: self.client_tags.clone(),
            src: self.client,
            dst: self.service,
            ttl: 63,
            ip_options: vec![],
            extensions: vec![],
            flags,
            seq: self.client_seq,
            ack: if flags & ACK != 0 { self.backend_seq } else { 0 },
            tcp_options: vec![],
            payload: payload.to_vec(),
            padding: vec![],
        }
    }

    /// The backend's next segment, with full NAT.
    pub fn from_backend(&self, flags: u8, payload: &[u8]) -> Segment {
        Segment {
            src_mac: backend_mac(self.backend),
            tags: self.backend_tags.clone(),
            src: crate::plane::backend_of(self.service.is_ipv6(), self.backend),
            dst: self.nat_address(),
            ttl: 64,
            seq: self.backend_seq,
            ack: if flags & ACK != 0 { self.client_seq } else { 0 },
            ..self.from_client(flags, payload)
        }
    }

    /// The client's key in the flow tables.
    pub fn client_key(&self) -> Key {
        flow_key(self.client, self.service)
    }
}

/// The sequence number after a segment.
pub(super) fn after(segment: &Segment) -> u32 {
    let phantom = u32::from(segment.flags & SYN != 0) + u32::from(segment.flags & FIN != 0);
    segment.seq.wrapping_add(segment.payload.len() as u32).wrapping_add(phantom)
}
