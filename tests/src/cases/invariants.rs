//! What holds of every frame and of the flow tables, whatever comes.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use etherparse::{EtherType, IpNumber};
use lb_common::{
    layout::{
        FLOW_ENDING, FLOW_ESTABLISHED, FLOW_MOVED, FlowKey, MODE_NAT, NODE_TELLS_FLOWS, SEEN_FIN,
        SEEN_REBUILT, SEEN_RST, SEEN_SEVERED, TO_BACKEND, TO_CLIENT,
    },
    reason::{DropReason, PassReason, TransmitReason, Verdict},
    tables::Level,
};

use crate::{
    frames::{
        ACK, Arp, Datagram, FIN, IcmpMessage, Ip, Link, Mac, Packet, RST, SYN, decapsulated, error_about,
        ip_checksum_is_right, neighbour_advertisement,
    },
    plane::{Entry, FlowState, Key, NODE, NODE_MAC, NODE6, Notes, Outcome, SECOND_MAC, World, node_of},
};

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
pub fn check_outcome(world: &World, input: &[u8], outcome: &Outcome) {
    let readdressed = is_for_virtual_router(world, input).then(|| readdressed(input));
    let reason = match outcome.verdict {
        Verdict::Pass(_) => {
            let is_whole = readdressed.is_some_and(|frame| outcome.frame == frame) || outcome.frame == input;
            return assert!(is_whole, "what the host gets is untouched: {}", describe(input));
        }
        Verdict::Drop(reason) => return assert_ne!(reason, DropReason::Internal, "{}", describe(input)),
        Verdict::Transmit(reason) => reason,
    };
    let input = readdressed.as_deref().unwrap_or(input);
    let (link, ..) = Link::read(&outcome.frame).expect("what is sent has a link-layer header");
    assert!([NODE_MAC, SECOND_MAC].contains(&link.source), "what is sent comes from us");
    match reason {
        TransmitReason::ToBackend | TransmitReason::ToClient => check_forwarded(input, &outcome.frame),
        TransmitReason::ToOtherNode => {
            check_forwarded(input, &outcome.frame);
            let (from, ..) = Link::read(input).expect("what came has a link-layer header");
            assert!(![from.source, NODE_MAC, SECOND_MAC].contains(&link.destination), "to somebody else");
            assert_eq!(link.tags, from.tags, "in the same VLAN");
            let ends = |frame| Datagram::read(frame).map(|packet| (packet.ip.src(), packet.ip.dst()));
            assert_eq!(ends(&outcome.frame), ends(input), "the other node gets the packet as it is");
        }
        TransmitReason::IcmpToBackend | TransmitReason::IcmpToClient => {
            check_icmp(input, &outcome.frame);
        }
        TransmitReason::ResetNoBackend
        | TransmitReason::ResetUnknownFlow
        | TransmitReason::ResetAllFull
        | TransmitReason::ResetSevered => {
            // Of a first fragment there is no whole segment to answer.
            if Packet::read(input).is_some() {
                assert_eq!(outcome.frame, Packet::reset_for(input), "the RST");
            }
        }
        TransmitReason::ArpReply => {
            let request = Arp::read(input).expect("only ARP is answered with ARP");
            let mac = virtual_mac_of(world, request.target.into());
            let mut expected = request.answered(link.source, mac).bytes();
            // What follows it stays.
            expected.truncate(14 + 4 * request.link.tags.len() + 28);
            expected.extend(&input[expected.len()..]);
            assert_eq!(outcome.frame, expected, "the reply to {}", describe(input));
        }
        TransmitReason::NeighbourReply => {
            let expected = neighbour_reply_to(world, input, link.source);
            assert_eq!(outcome.frame, expected, "the reply to {}", describe(input));
        }
        TransmitReason::TimeExceeded | TransmitReason::PacketTooBig => {
            check_error(world, input, &outcome.frame, reason);
        }
    }
}

/// Whether a frame is for a virtual router's Ethernet address that is ours.
fn is_for_virtual_router(world: &World, frame: &[u8]) -> bool {
    world.tables.vips.values().any(|vip| frame[..6] != [0; 6] && frame[..6] == vip.virtual_mac.octets())
}

/// The same frame for the interface's own address, which alone the host listens to.
fn readdressed(frame: &[u8]) -> Vec<u8> {
    [&NODE_MAC, &frame[6..]].concat()
}

/// The Ethernet address that a VIP is answered with.
fn virtual_mac_of(world: &World, vip: IpAddr) -> Mac {
    let vip = world.tables.vips.get(&vip).expect("only VIPs are answered for");
    let prefix = [0x00, 0x00, 0x5e, 0x00];
    assert_eq!(vip.virtual_mac.octets()[..4], prefix, "the host answers with the interface's own");
    vip.virtual_mac.octets()
}

/// What answers a solicitation.
fn neighbour_reply_to(world: &World, input: &[u8], source: Mac) -> Vec<u8> {
    let asks = IcmpMessage::read(input).expect("only right solicitations are answered");
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(&asks.body[..16]).expect("a target"));
    let IpAddr::V6(asker) = asks.src else { panic!("a solicitation over IPv4") };
    let address = asks.body[16..].chunks(8).find(|option| option[..2] == [1, 1]).map(|option| &option[2..]);
    let mac = address.map_or(asks.link.source, |address| address.try_into().expect("six bytes"));
    let to = (!asker.is_unspecified()).then_some((mac, asker));
    let mut reply = neighbour_advertisement(virtual_mac_of(world, target.into()), target, target, to);
    (reply.link.source, reply.link.tags) = (source, asks.link.tags);
    reply.bytes()
}

/// The packet that was sent on, out of its tunnel if it is in one.
fn sent(output: &[u8]) -> (Datagram, Vec<u8>) {
    let packet = Datagram::read(output).expect("what is sent is an IP packet");
    let header_is_right = matches!(packet.ip, Ip::V6(_)) || ip_checksum_is_right(&raw(output));
    assert!(header_is_right, "the IP checksum of what is sent");
    let in_tunnel = matches!(packet.ip.protocol(), IpNumber::IPV4 | IpNumber::IPV6);
    if !in_tunnel {
        return (packet, raw(output));
    }
    assert_eq!(packet.ip.src(), node_of(packet.ip.src().is_ipv6()), "tunnels begin at the node");
    let inner = decapsulated(output);
    (Datagram::read(&inner).expect("what is in a tunnel is an IP packet"), raw(&inner))
}

/// The bytes of a frame's IP packet; `etherparse` has no place for some reserved bits.
fn raw(frame: &[u8]) -> Vec<u8> {
    let (.., rest) = Link::read(frame).expect("a frame");
    let padding = Datagram::read(frame).expect("an IP packet").padding.len();
    rest[..rest.len() - padding].to_vec()
}

fn check_forwarded(input: &[u8], output: &[u8]) {
    let before = Datagram::read(input).expect("only whole packets are forwarded");
    let (after, to) = sent(output);
    assert_eq!(after.padding, before.padding, "what follows the packet stays");
    let from = raw(input);
    let header_is_right = matches!(before.ip, Ip::V6(_)) || ip_checksum_is_right(&from);
    assert!(header_is_right, "only right headers are forwarded");
    check_untouched_parts(&before, &from, &to);
    if let Some(packet) = Packet::read(input)
        && packet.bytes() == input
        && packet.tcp_checksum_is_right()
    {
        let sent = Packet::read(&after.bytes()).expect("a segment stays one");
        assert!(sent.tcp_checksum_is_right(), "the TCP checksum of what is sent");
    }
}

/// Apart from hops, checksums, addresses and ports, every bit is as it came; where addresses stay, ports stay.
fn check_untouched_parts(before: &Datagram, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len(), "a packet keeps its length");
    let v4 = matches!(before.ip, Ip::V4(_));
    let (hops, addresses) = if v4 { (8, 12..20) } else { (7, 8..40) };
    let translated = from[addresses.clone()] != to[addresses.clone()];
    let tcp = transport(before).filter(|_| translated);
    assert_eq!(to[hops], from[hops] - 1, "one hop less");
    for (offset, (before, after)) in from.iter().zip(to).enumerate() {
        let rewritten = offset == hops
            || (v4 && (10..12).contains(&offset))
            || addresses.contains(&offset)
            || tcp.is_some_and(|tcp| {
                (tcp..tcp + 4).contains(&offset) || (tcp + 16..tcp + 18).contains(&offset)
            });
        assert!(rewritten || before == after, "byte {offset} of the packet was changed");
    }
}

/// Where the TCP header begins in a packet; `None` for a fragment that has none.
fn transport(packet: &Datagram) -> Option<usize> {
    match &packet.ip {
        Ip::V4(ip) => (ip.fragment_offset.value() == 0).then(|| ip.header_len()),
        Ip::V6(ip) => {
            let (mut next, mut at) = (ip.next_header.0, 0);
            while matches!(next, 0 | 43 | 44 | 60) {
                let header = packet.payload.get(at..at + 8)?;
                if next == 44 && u16::from_be_bytes([header[2], header[3]]) >> 3 != 0 {
                    return None;
                }
                at += if next == 44 { 8 } else { 8 + usize::from(header[1]) * 8 };
                next = header[0];
            }
            Some(40 + at)
        }
    }
}

/// An ICMP error that was passed on is as right as it was.
fn check_icmp(input: &[u8], output: &[u8]) {
    let (after, _) = sent(output);
    let Some(before) = IcmpMessage::read(input) else { return };
    let after = IcmpMessage::read(&after.bytes()).expect("a right ICMP message stays right");
    assert_eq!((before.kind, before.code, before.rest), (after.kind, after.code, after.rest));
    assert_eq!(before.body.len(), after.body.len(), "the quote keeps its length");
    assert_eq!(before.ttl - 1, after.ttl, "one hop less");
    if before.src.is_ipv4() && ip_checksum_is_right(&before.body) {
        assert!(ip_checksum_is_right(&after.body), "the checksum of the quoted header");
    }
}

/// An ICMP error of our own is from our own address, to whoever sent the packet, and right.
fn check_error(world: &World, input: &[u8], output: &[u8], reason: TransmitReason) {
    let error = IcmpMessage::read(output).expect("an ICMP error with right checksums");
    let own: IpAddr =
        if error.src.is_ipv4() { world.node.v4.octets().into() } else { world.node.v6.octets().into() };
    assert!(error.src == own || own.is_unspecified(), "the source of an error");
    let (kind, code) = match (reason, error.src.is_ipv4()) {
        (TransmitReason::TimeExceeded, true) => (11, 0),
        (TransmitReason::TimeExceeded, false) => (3, 0),
        (_, true) => (3, 4),
        (_, false) => (2, 0),
    };
    let datagram = Datagram::read(input).expect("only IP packets are answered");
    if matches!(datagram.ip.protocol(), IpNumber::ICMP | IpNumber::IPV6_ICMP) {
        assert_eq!((error.kind, error.code), (kind, code), "about a tunnel");
        return;
    }
    let expected = error_about(input, error.src, kind, code, u32::from_be_bytes(error.rest));
    assert_eq!(output, expected.bytes(), "the error about {}", describe(input));
}

/// What is neither for a VIP nor for an address of the node's own, sent to our own Ethernet address, is the host's; ARP and
/// neighbour solicitations apart.
///
/// # Panics
///
/// Where it does not get it.
pub fn check_bystander(world: &World, frame: &[u8], outcome: &Outcome) {
    let Some((link, ether_type, rest)) = Link::read(frame) else { return };
    let (destination, group) = match ether_type {
        EtherType::IPV4 => (rest.get(16..20), false),
        EtherType::IPV6 => (rest.get(24..40), rest.get(24) == Some(&0xff)),
        _ => (None, false),
    };
    let is = |address: IpAddr| match address {
        IpAddr::V4(address) => destination == Some(&address.octets()),
        IpAddr::V6(address) => destination == Some(&address.octets()),
    };
    let own: [IpAddr; 2] = [NODE.into(), NODE6.into()];
    let for_us = world.tables.vips.keys().copied().chain(own).any(is);
    let ours = [NODE_MAC, SECOND_MAC].contains(&link.destination) || is_for_virtual_router(world, frame);
    let ours = (ours && for_us) || is_solicitation(ether_type, rest);
    if !ours && !group && ether_type != EtherType::ARP {
        assert!(matches!(outcome.verdict, Verdict::Pass(_)), "{:?} of a bystander", outcome.verdict);
    }
}

/// Whether it is what asks for an IPv6 address, to whomever.
fn is_solicitation(ether_type: EtherType, packet: &[u8]) -> bool {
    ether_type == EtherType::IPV6 && packet.get(6) == Some(&58) && packet.get(40) == Some(&135)
}

/// What is noted of other nodes changes only by what is said so, a frame at a time; and nothing that is noted goes away.
///
/// # Panics
///
/// Where that does not hold.
pub fn check_sightings(before: &Notes, after: &Notes, verdict: Verdict) {
    let may_claim =
        matches!(verdict, Verdict::Pass(PassReason::ForeignClaim) | Verdict::Drop(DropReason::Fenced));
    let claims = |notes: &Notes| notes.claims.values().map(|claim| claim.count).sum::<u64>();
    let new_claims = claims(after) - claims(before);
    assert!(new_claims <= u64::from(may_claim), "{verdict:?} is no claim");
    assert!(new_claims == 1 || verdict != Verdict::Pass(PassReason::ForeignClaim), "a claim is noted");
    assert!(new_claims == 1 || before.claims == after.claims, "no claim changes by itself");
    assert!(
        before.adverts == after.adverts || verdict == Verdict::Pass(PassReason::Vrrp),
        "{verdict:?} is no advertisement"
    );
    assert!(
        before.adverts.keys().all(|key| after.adverts.contains_key(key)),
        "no advertisement is forgotten"
    );
}

/// What holds of the flow tables after every frame.
///
/// # Panics
///
/// Where it does not hold.
pub fn check_flows(world: &World, before: &FlowState, after: &FlowState) {
    for v6 in [false, true] {
        let entries = after.established.keys().filter(|key| key.src.is_mapped() != v6).count();
        assert!(entries <= world.max_flows as usize * 2, "the table has its limit");
    }
    for level in [Level::HalfOpen, Level::Established] {
        let elsewhere = if level == Level::HalfOpen { Level::Established } else { Level::HalfOpen };
        for (key, entry) in after.level(level) {
            assert!(!after.level(elsewhere).contains_key(key), "{key:?} is in one table only");
            if entry.mode != MODE_NAT {
                assert_eq!(entry.rewritten, *key, "nothing is translated");
                assert_eq!(entry.direction, TO_BACKEND, "replies are not seen");
                continue;
            }
            let other = after.level(level).get(&entry.rewritten.reversed());
            let Some(other) = other else { panic!("{level:?} {key:?} has no other direction") };
            assert_eq!(other.rewritten, key.reversed(), "the directions agree");
            assert_eq!(other.backend, entry.backend, "the directions have one backend");
            assert_eq!(other.client, entry.client, "the directions have one client");
            assert_eq!(u32::from(other.direction) + u32::from(entry.direction), 1, "one direction each");
            let (nat_address, nat_port) = match entry.direction {
                TO_BACKEND => (IpAddr::from(entry.rewritten.src), entry.rewritten.src_port.get()),
                TO_CLIENT => (IpAddr::from(key.dst), key.dst_port.get()),
                direction => panic!("direction {direction}"),
            };
            let by_node = nat_address == node_of(nat_address.is_ipv6());
            assert!(by_node || world.tables.vips.contains_key(&nat_address), "the backend sees a VIP");
            let is_new = !before.half_open.contains_key(key) && !before.established.contains_key(key);
            assert!(nat_port >= 1024, "NAT port {nat_port}");
            let reserved = world.port_is_reserved(by_node, nat_port);
            assert!(!is_new || !reserved, "NAT port {nat_port} is reserved");
        }
    }
}

/// What is told of flows is what has become of the established ones by this frame, no more and no less; nothing where nobody
/// listens.
///
/// # Panics
///
/// Where that does not hold.
pub fn check_events(world: &World, before: &FlowState, after: &FlowState, notes: &Notes) {
    if world.node.flags & NODE_TELLS_FLOWS == 0 {
        return assert_eq!(notes.events, [], "nobody listens");
    }
    let client_key = |key: &Key, entry: &Entry| {
        if entry.direction == TO_BACKEND { *key } else { entry.rewritten.reversed() }
    };
    let of = |is_so: &dyn Fn(&Key, &Entry) -> bool| -> BTreeSet<Key> {
        let established = after.established.iter().filter(|(key, entry)| is_so(key, entry));
        established.map(|(key, entry)| client_key(key, entry)).collect()
    };
    let told = |kind: u32| -> BTreeSet<Key> {
        let events = notes.events.iter().filter(|event| event.kind == kind);
        events.map(|event| FlowKey::new(event.client, event.client_port, event.vip, event.port)).collect()
    };
    let begun = of(&|key, _| !before.established.contains_key(key));
    let has_changed =
        |key: &Key, is_so: &dyn Fn(&Entry) -> bool| before.established.get(key).is_some_and(is_so);
    let ending = of(&|key, entry| {
        has_changed(key, &|old| (old.seen.flags ^ entry.seen.flags) & (SEEN_FIN | SEEN_RST) != 0)
    });
    let moved = of(&|key, entry| has_changed(key, &|old| old.client != entry.client));
    assert_eq!(told(FLOW_ESTABLISHED), begun, "what is told of new flows");
    assert_eq!(told(FLOW_MOVED), moved, "what is told of flows that come another way");
    let told_ending = told(FLOW_ENDING);
    assert!(told_ending.is_superset(&ending), "{ending:?} is told, not {told_ending:?}");
    // The packet that completes a handshake may be a FIN.
    assert!(told_ending.iter().all(|key| ending.contains(key) || begun.contains(key)), "{told_ending:?}");
}

/// What the controller has ended stays as it is until it is forgotten, and what was rebuilt has its client's own port.
///
/// # Panics
///
/// Where that does not hold.
pub fn check_ended_and_rebuilt(before: &FlowState, after: &FlowState) {
    for (key, entry) in before.established.iter().filter(|(_, entry)| entry.seen.flags & SEEN_SEVERED != 0) {
        assert!(after.established.get(key).is_none_or(|now| now == entry), "{key:?} was severed");
    }
    for (key, entry) in after.half_open.iter().filter(|(_, entry)| entry.seen.flags & SEEN_REBUILT != 0) {
        let client = if entry.direction == TO_BACKEND { key.src_port } else { entry.rewritten.dst_port };
        let nat = if entry.direction == TO_BACKEND { entry.rewritten.src_port } else { key.dst_port };
        assert!(entry.mode != MODE_NAT || client == nat, "{key:?} has another port than its client");
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
