//! The forwarding decision: what becomes of a frame.
//!
//! ```text
//! Ethernet -> IPv4 -> for a VIP? -> TCP -> established flow? --yes--> rewrite, send
//!                                             | no
//!                                          half-open flow? --yes--> handshake step, rewrite, send
//!                                             | no
//!                                          service? -> SYN? -> Maglev slot -> backend -> NAT port -> new flow
//! ```
//!
//! A packet that is not for a VIP leaves untouched after a handful of instructions, and a packet of an established
//! flow needs one hash look-up. Everything here inlines into the XDP program; it neither allocates nor loops without
//! a constant bound.

use crate::{
    checksum::{self, Delta, Sum, TTL_DECREMENT},
    frame::Frame,
    hash,
    layout::{
        BackendEntry, BackendId, FlowEntry, FlowKey, NodeEntry, SEEN_FIN, SEEN_RST, SEEN_SYN, Seen,
        ServiceEntry, ServiceKey, TO_BACKEND, TO_CLIENT,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    reset,
    tables::{BackendCounter, Inserted, Level, Slot, Tables},
    wire::{
        Arp, Be16, Be32, ETHERNET_LEN, ETHERTYPE_ARP, ETHERTYPE_IPV4, Ethernet, IPV4_FRAGMENT_MASK,
        IPV4_MIN_LEN, Ipv4, Mac, PROTOCOL_TCP, TCP_ACK, TCP_FIN, TCP_MIN_LEN, TCP_RST, TCP_SYN, Tcp,
    },
};

/// How many NAT ports a new flow tries before it gives up or takes over a closed flow's.
pub const NAT_PORT_TRIES: u32 = 16;
/// NAT ports are not taken from the well-known ones (RFC 6335 §6).
const FIRST_NAT_PORT: u16 = 1024;

/// Decides about a frame, rewrites it where it is to be sent, and keeps the flow tables.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return Verdict::Pass(PassReason::TooShort) };
    match ethernet.ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, tables),
        ETHERTYPE_ARP => arp(frame, tables),
        _ => Verdict::Pass(PassReason::NotIpv4),
    }
}

/// A TCP segment for a VIP whose headers are sound.
struct Segment {
    ethernet: Ethernet,
    ip: Ipv4,
    tcp: Tcp,
    /// Where the TCP header begins.
    tcp_offset: usize,
    /// Bytes of TCP payload.
    payload: u16,
}

impl Segment {
    #[inline(always)]
    fn key(&self) -> FlowKey {
        FlowKey {
            src: self.ip.src,
            dst: self.ip.dst,
            src_port: self.tcp.src_port,
            dst_port: self.tcp.dst_port,
        }
    }

    #[inline(always)]
    fn has(&self, flag: u8) -> bool {
        self.tcp.flags & flag != 0
    }

    /// Whether it opens a connection, rather than answers.
    #[inline(always)]
    fn opens(&self) -> bool {
        self.tcp.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Whether a sender can have meant these flags: SYN, FIN and RST exclude each other, and what has none of them
    /// has an ACK (RFC 9293 §3.10.7).
    #[inline(always)]
    fn flags_are_sane(&self) -> bool {
        match self.tcp.flags & (TCP_SYN | TCP_FIN | TCP_RST) {
            0 | TCP_FIN => self.has(TCP_ACK),
            TCP_SYN | TCP_RST => true,
            _ => false,
        }
    }
}

#[inline(always)]
fn ipv4<F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Verdict {
    let Some(ip) = frame.header::<Ipv4>(ETHERNET_LEN).copied() else {
        return Verdict::Pass(PassReason::TooShort);
    };
    let Some(node) = tables.node() else { return Verdict::Pass(PassReason::NotConfigured) };
    if !node.may_be_vip(ip.dst) {
        return Verdict::Pass(PassReason::NotVip);
    }
    let Some(ethernet) = frame.header::<Ethernet>(0).copied() else {
        return Verdict::Pass(PassReason::TooShort);
    };
    if ethernet.dst != node.mac {
        return Verdict::Pass(PassReason::OtherHost);
    }

    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_length.get());
    if ip.version_ihl >> 4 != 4
        || header_len < IPV4_MIN_LEN
        || total_len < header_len
        || total_len > frame.len() - ETHERNET_LEN
    {
        return refuse(tables, ip.dst, DropReason::BadIpHeader);
    }
    if ip.protocol != PROTOCOL_TCP {
        return Verdict::Pass(PassReason::NotTcp);
    }
    if ip.fragment.get() & IPV4_FRAGMENT_MASK != 0 {
        return refuse(tables, ip.dst, DropReason::Fragment);
    }
    let Some(sum) = header_sum(frame, &ip, header_len) else {
        return refuse(tables, ip.dst, DropReason::BadIpHeader);
    };
    if sum.fold() != 0xffff {
        return refuse(tables, ip.dst, DropReason::BadIpChecksum);
    }

    let tcp_offset = ETHERNET_LEN + header_len;
    let Some(tcp) = frame.header::<Tcp>(tcp_offset).copied() else {
        return refuse(tables, ip.dst, DropReason::BadTcpHeader);
    };
    let tcp_len = usize::from(tcp.data_offset >> 4) * 4;
    if tcp_len < TCP_MIN_LEN || header_len + tcp_len > total_len {
        return refuse(tables, ip.dst, DropReason::BadTcpHeader);
    }
    let payload = (total_len - header_len - tcp_len) as u16;
    segment(frame, tables, node, &Segment { ethernet, ip, tcp, tcp_offset, payload })
}

/// The one's complement sum over the header with its options, or `None` where the frame ends before they do.
#[inline(always)]
fn header_sum<F: Frame>(frame: &F, ip: &Ipv4, header_len: usize) -> Option<Sum> {
    let mut sum = checksum::ipv4_header(ip);
    if header_len > IPV4_MIN_LEN {
        for word in 0..10 {
            let offset = IPV4_MIN_LEN + word * 4;
            if offset < header_len {
                sum = sum.be32(Be32::from_octets(*frame.header::<[u8; 4]>(ETHERNET_LEN + offset)?));
            }
        }
    }
    Some(sum)
}

/// Drops a packet that is for a VIP; passes one that only hashes like one.
#[inline(always)]
fn refuse<T: Tables>(tables: &T, address: Be32, reason: DropReason) -> Verdict {
    match tables.vip(address) {
        Some(_) => Verdict::Drop(reason),
        None => Verdict::Pass(PassReason::NotVip),
    }
}

#[inline(always)]
fn segment<F: Frame, T: Tables>(frame: &mut F, tables: &T, node: &NodeEntry, segment: &Segment) -> Verdict {
    let clock = tables.pulse().map_or(0, |pulse| pulse.flow_clock);
    let key = segment.key();
    let mut attempt = 0;

    if let Some(slot) = tables.flow(Level::Established, &key) {
        let entry = slot.read();
        if clock.wrapping_sub(entry.seen.at) > node.idle_timeout
            || (segment.opens() && is_closed(tables, Level::Established, &entry))
        {
            forget(tables, Level::Established, &key, &entry);
        } else {
            if entry.direction == TO_BACKEND && entry.client_mac != segment.ethernet.src {
                client_moved(tables, slot, &entry, segment.ethernet.src);
            }
            return send(frame, tables, node, segment, slot, &entry, clock);
        }
    } else if let Some(slot) = tables.flow(Level::HalfOpen, &key) {
        let entry = slot.read();
        if clock.wrapping_sub(entry.seen.at) <= node.half_open_timeout {
            match handshake(frame, tables, node, segment, slot, &entry, clock) {
                Handshake::Decided(verdict) => return verdict,
                Handshake::Restart { attempt: next } => attempt = next,
            }
        } else {
            forget(tables, Level::HalfOpen, &key, &entry);
        }
    }

    let Some(service) = tables.service(&ServiceKey::new(key.dst, key.dst_port)) else {
        return Verdict::Pass(PassReason::NoService);
    };
    if !segment.flags_are_sane() {
        return Verdict::Drop(DropReason::BadTcpFlags);
    }
    if !source_can_be_answered(tables, &key) {
        return Verdict::Drop(DropReason::BadSource);
    }
    if segment.opens() {
        open(frame, tables, node, segment, &service, attempt, clock)
    } else if segment.has(TCP_RST) {
        Verdict::Drop(DropReason::UnknownFlow)
    } else {
        answer_with_reset(frame, segment, TransmitReason::ResetUnknownFlow)
    }
}

/// What a packet of a half-open flow leads to.
enum Handshake {
    /// It is dealt with.
    Decided(Verdict),
    /// The flow is gone; the packet may open a new one, with that choice of a backend.
    Restart { attempt: u32 },
}

/// A packet of a half-open flow.
#[inline(always)]
fn handshake<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    slot: Slot<FlowEntry>,
    entry: &FlowEntry,
    clock: u32,
) -> Handshake {
    let key = segment.key();
    let reply_key = entry.rewritten.reversed();
    if entry.direction == TO_BACKEND {
        let reply = tables.flow(Level::HalfOpen, &reply_key).map(Slot::read);
        let Some(reply) = reply.filter(|reply| reply.rewritten == key.reversed()) else {
            // Its other direction was evicted, and perhaps its NAT port taken by another flow.
            tables.remove_flow(Level::HalfOpen, &key);
            return Handshake::Restart { attempt: 0 };
        };
        if segment.opens() && reply.seen.flags & SEEN_SYN == 0 {
            // The backend has not answered: a retransmitted SYN tries another one.
            forget(tables, Level::HalfOpen, &key, entry);
            return Handshake::Restart { attempt: u32::from(entry.attempt) + 1 };
        }
        let completes = segment.tcp.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_ACK
            && reply.seen.flags & SEEN_SYN != 0
            && segment.tcp.ack.get() == reply.seen.next_seq;
        if completes {
            if promote(tables, &key, entry, &reply_key, &reply) != Inserted::Yes {
                return Handshake::Decided(Verdict::Drop(DropReason::FlowTableFull));
            }
            tables.count(entry.backend, BackendCounter::Established);
            let Some(slot) = tables.flow(Level::Established, &key) else {
                return Handshake::Decided(Verdict::Drop(DropReason::Internal));
            };
            return Handshake::Decided(send(frame, tables, node, segment, slot, entry, clock));
        }
    }
    let verdict = send(frame, tables, node, segment, slot, entry, clock);
    if segment.has(TCP_RST) {
        forget(tables, Level::HalfOpen, &key, entry);
    }
    Handshake::Decided(verdict)
}

/// Moves both directions of a flow to the table of established ones. The order matters: a NAT port is in one of the
/// two tables at every moment, and [`claim_nat_port`] looks in the same order.
#[inline(always)]
fn promote<T: Tables>(
    tables: &T,
    key: &FlowKey,
    entry: &FlowEntry,
    reply_key: &FlowKey,
    reply: &FlowEntry,
) -> Inserted {
    match tables.insert_flow(Level::Established, reply_key, reply) {
        Inserted::Yes => {}
        other => return other,
    }
    match tables.insert_flow(Level::Established, key, entry) {
        Inserted::Yes => {}
        other => {
            tables.remove_flow(Level::Established, reply_key);
            return other;
        }
    }
    tables.remove_flow(Level::HalfOpen, reply_key);
    tables.remove_flow(Level::HalfOpen, key);
    Inserted::Yes
}

/// A SYN of no flow: chooses a backend, claims a NAT port, and remembers the flow in both directions.
#[inline(always)]
fn open<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    service: &ServiceEntry,
    attempt: u32,
    clock: u32,
) -> Verdict {
    if service.usable == 0 {
        return answer_with_reset(frame, segment, TransmitReason::ResetNoBackend);
    }
    let key = segment.key();
    let hash = hash::flow(&key);
    let slot = hash::slot(hash::attempt(hash, attempt));
    let Some(id) = tables.ring(service.ring, slot) else { return Verdict::Drop(DropReason::Internal) };
    let Some(backend) = tables.backend(id) else { return Verdict::Drop(DropReason::Internal) };
    if !backend.is_resolved() {
        tables.count(id, BackendCounter::Unresolved);
        return Verdict::Drop(DropReason::NextHopUnknown);
    }
    if segment.ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }

    let Some(nat_port) = claim_nat_port(tables, segment, &key, id, &backend, hash::again(hash), clock) else {
        tables.count(id, BackendCounter::PortsExhausted);
        return Verdict::Drop(DropReason::NatPortsExhausted);
    };
    let entry = flow_entry(
        &key,
        FlowKey { src: key.dst, dst: backend.address, src_port: nat_port, dst_port: backend.port },
        id,
        TO_BACKEND,
        segment.ethernet.src,
        clock,
    );
    let entry = FlowEntry { attempt: attempt as u8, ..entry };
    // A flow that another CPU has just opened for the same SYN is as good as this one.
    let _ = tables.insert_flow(Level::HalfOpen, &key, &entry);
    let Some(slot) = tables.flow(Level::HalfOpen, &key) else {
        return Verdict::Drop(DropReason::FlowTableFull);
    };
    tables.count(id, BackendCounter::Opened);
    send(frame, tables, node, segment, slot, &slot.read(), clock)
}

/// Finds a free NAT port towards a backend and takes it by inserting the reply direction: the client's own port if it
/// is free, else one of a few that the hash of the flow names. Where none is free, the port of a closed flow goes,
/// the one that has been closed for longest.
#[inline(always)]
fn claim_nat_port<T: Tables>(
    tables: &T,
    segment: &Segment,
    key: &FlowKey,
    id: BackendId,
    backend: &BackendEntry,
    hash: u32,
    clock: u32,
) -> Option<Be16> {
    let mut closed: Option<(Be16, u32)> = None;
    for attempt in 0..NAT_PORT_TRIES {
        let port = nat_port_candidate(key, hash, attempt);
        if tables.port_reserved(port) {
            continue;
        }
        let (reply_key, reply) = reply_direction(segment, key, id, backend, port, clock);
        if tables.insert_flow(Level::HalfOpen, &reply_key, &reply) != Inserted::Yes {
            continue;
        }
        let Some(taken) = tables.flow(Level::Established, &reply_key) else { return Some(port) };
        tables.remove_flow(Level::HalfOpen, &reply_key);
        let taken = taken.read();
        if taken.seen.flags & (SEEN_FIN | SEEN_RST) != 0 {
            let age = clock.wrapping_sub(taken.seen.at);
            if closed.is_none_or(|(_, oldest)| age > oldest) {
                closed = Some((port, age));
            }
        }
    }
    let (port, _) = closed?;
    let (reply_key, reply) = reply_direction(segment, key, id, backend, port, clock);
    let taken = tables.flow(Level::Established, &reply_key)?.read();
    if !is_closed(tables, Level::Established, &taken) {
        return None;
    }
    forget(tables, Level::Established, &reply_key, &taken);
    (tables.insert_flow(Level::HalfOpen, &reply_key, &reply) == Inserted::Yes).then_some(port)
}

#[inline(always)]
fn nat_port_candidate(key: &FlowKey, hash: u32, attempt: u32) -> Be16 {
    let own = key.src_port.get();
    if attempt == 0 && own >= FIRST_NAT_PORT {
        return key.src_port;
    }
    // An odd stride visits different ports; the top bits of the product choose within the range.
    let mixed = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b1));
    let span = u32::from(u16::MAX - FIRST_NAT_PORT) + 1;
    Be16::new(FIRST_NAT_PORT + (((mixed >> 16) * span) >> 16) as u16)
}

#[inline(always)]
fn reply_direction(
    segment: &Segment,
    key: &FlowKey,
    id: BackendId,
    backend: &BackendEntry,
    port: Be16,
    clock: u32,
) -> (FlowKey, FlowEntry) {
    let reply_key = FlowKey { src: backend.address, dst: key.dst, src_port: backend.port, dst_port: port };
    let entry = flow_entry(&reply_key, key.reversed(), id, TO_CLIENT, segment.ethernet.src, clock);
    (reply_key, entry)
}

/// A fresh entry for packets with `key` that leave with `rewritten`.
#[inline(always)]
fn flow_entry(
    key: &FlowKey,
    rewritten: FlowKey,
    backend: BackendId,
    direction: u8,
    client_mac: Mac,
    clock: u32,
) -> FlowEntry {
    let addresses =
        Sum::default().minus_be32(key.src).minus_be32(key.dst).be32(rewritten.src).be32(rewritten.dst);
    let ports = addresses
        .minus_be16(key.src_port)
        .minus_be16(key.dst_port)
        .be16(rewritten.src_port)
        .be16(rewritten.dst_port);
    FlowEntry {
        rewritten,
        ip_delta: Delta::new(addresses.plus(TTL_DECREMENT)),
        tcp_delta: Delta::new(ports),
        backend,
        client_mac,
        direction,
        attempt: 0,
        _pad: [0; 2],
        opened: clock,
        seen: Seen { at: clock, ..Seen::default() },
    }
}

/// Rewrites a packet of a flow and sends it on.
#[inline(always)]
fn send<F: Frame, T: Tables>(
    frame: &mut F,
    tables: &T,
    node: &NodeEntry,
    segment: &Segment,
    slot: Slot<FlowEntry>,
    entry: &FlowEntry,
    clock: u32,
) -> Verdict {
    if !segment.flags_are_sane() {
        return Verdict::Drop(DropReason::BadTcpFlags);
    }
    if segment.ip.ttl <= 1 {
        return Verdict::Drop(DropReason::TtlExpired);
    }
    let (next_hop, reason) = if entry.direction == TO_BACKEND {
        match tables.backend(entry.backend) {
            Some(backend) if backend.is_resolved() => (backend.mac, TransmitReason::ToBackend),
            _ => {
                tables.count(entry.backend, BackendCounter::Unresolved);
                return Verdict::Drop(DropReason::NextHopUnknown);
            }
        }
    } else {
        (entry.client_mac, TransmitReason::ToClient)
    };

    let Some(ethernet) = frame.header_mut::<Ethernet>(0) else { return Verdict::Drop(DropReason::Internal) };
    ethernet.dst = next_hop;
    ethernet.src = node.mac;
    let Some(ip) = frame.header_mut::<Ipv4>(ETHERNET_LEN) else { return Verdict::Drop(DropReason::Internal) };
    ip.src = entry.rewritten.src;
    ip.dst = entry.rewritten.dst;
    ip.ttl = segment.ip.ttl - 1;
    ip.checksum = entry.ip_delta.apply(segment.ip.checksum);
    let Some(tcp) = frame.header_mut::<Tcp>(segment.tcp_offset) else {
        return Verdict::Drop(DropReason::Internal);
    };
    tcp.src_port = entry.rewritten.src_port;
    tcp.dst_port = entry.rewritten.dst_port;
    tcp.checksum = entry.tcp_delta.apply(segment.tcp.checksum);

    slot.update(|entry| note(&mut entry.seen, segment, clock));
    Verdict::Transmit(reason)
}

/// Writes down what a packet shows about its direction of the flow.
#[inline(always)]
fn note(seen: &mut Seen, segment: &Segment, clock: u32) {
    seen.packets += 1;
    seen.bytes += u64::from(segment.ip.total_length.get());
    seen.at = clock;
    seen.next_seq = reset::next_seq(&segment.tcp, segment.payload);
    if segment.has(TCP_ACK) {
        seen.ack = segment.tcp.ack.get();
    }
    // Whoever sends on after a RST did not send that RST: it was forged, or out of window and ignored.
    let mut flags = seen.flags & !SEEN_RST;
    if segment.has(TCP_SYN) {
        flags |= SEEN_SYN;
    }
    if segment.has(TCP_FIN) {
        flags |= SEEN_FIN;
    }
    if segment.has(TCP_RST) {
        flags |= SEEN_RST;
    }
    seen.flags = flags;
}

/// Whether the flow that `entry` is one direction of has ended: a RST from either side, or a FIN from both.
#[inline(always)]
fn is_closed<T: Tables>(tables: &T, level: Level, entry: &FlowEntry) -> bool {
    let own = entry.seen.flags;
    let other =
        tables.flow(level, &entry.rewritten.reversed()).map_or(SEEN_RST, |slot| slot.read().seen.flags);
    (own | other) & SEEN_RST != 0 || own & other & SEEN_FIN != 0
}

/// Removes both directions of a flow.
#[inline(always)]
fn forget<T: Tables>(tables: &T, level: Level, key: &FlowKey, entry: &FlowEntry) {
    tables.remove_flow(level, &entry.rewritten.reversed());
    tables.remove_flow(level, key);
}

/// The client's packets come from another Ethernet address now (its router failed over): replies follow.
#[inline(always)]
fn client_moved<T: Tables>(tables: &T, slot: Slot<FlowEntry>, entry: &FlowEntry, mac: Mac) {
    slot.update(|entry| entry.client_mac = mac);
    if let Some(reply) = tables.flow(Level::Established, &entry.rewritten.reversed()) {
        reply.update(|reply| reply.client_mac = mac);
    }
}

/// Whether an answer to the packet's source can reach somebody else than ourselves.
#[inline(always)]
fn source_can_be_answered<T: Tables>(tables: &T, key: &FlowKey) -> bool {
    let first = key.src.octets()[0];
    // 0/8 "this network", 127/8 loopback, 224/3 multicast, reserved and broadcast (RFC 1122 §3.2.1.3).
    first != 0 && first != 127 && first < 224 && key.src_port.get() != 0 && tables.vip(key.src).is_none()
}

#[inline(always)]
fn answer_with_reset<F: Frame>(frame: &mut F, segment: &Segment, reason: TransmitReason) -> Verdict {
    if reset::answer(frame, &segment.ip, &segment.tcp, segment.payload) {
        Verdict::Transmit(reason)
    } else {
        Verdict::Drop(DropReason::Internal)
    }
}

/// ARP is the host's, but for one case: while the controller is not running, another node may have taken the VIP, and
/// this host's kernel, which still has the address, must not answer for it.
#[inline(always)]
fn arp<F: Frame, T: Tables>(frame: &F, tables: &T) -> Verdict {
    let pass = Verdict::Pass(PassReason::Arp);
    let Some(arp) = frame.header::<Arp>(ETHERNET_LEN) else { return pass };
    let Some(node) = tables.node() else { return pass };
    if !node.may_be_vip(arp.target) || tables.vip(arp.target).is_none_or(|vip| vip.fenced == 0) {
        return pass;
    }
    let Some(pulse) = tables.pulse() else { return pass };
    if tables.monotonic_ns().saturating_sub(pulse.heartbeat_ns) > node.lease_ns {
        Verdict::Drop(DropReason::Fenced)
    } else {
        pass
    }
}
