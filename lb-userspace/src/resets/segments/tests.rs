use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use lb_common::{
    checksum::Delta,
    layout::{MacWord, TO_BACKEND, TO_CLIENT, TagWord},
};
use proptest::prelude::*;

use super::*;

/// One end of a connection, as `tcp_validate_incoming` and `tcp_rcv_established` of Linux 6.12 judge what comes in.
#[derive(Clone, Copy, Debug)]
struct Receiver {
    /// What it expects next.
    rcv_nxt: u32,
    /// How much of what was received before that it has acknowledged yet: `rcv_nxt - rcv_wup`.
    unacknowledged: u32,
    /// The window that it has offered, from `rcv_wup` on.
    window: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaction {
    /// The connection is gone.
    Closed,
    /// A challenge ACK, or a duplicate one, with this number.
    Acks(u32),
    Nothing,
}

impl Receiver {
    fn receive(&self, segment: &Bare) -> Reaction {
        let rcv_wup = self.rcv_nxt.wrapping_sub(self.unacknowledged);
        let end = rcv_wup.wrapping_add(self.window);
        // tcp_sequence(): no data, so its end is its beginning.
        let in_window = !is_after(rcv_wup, segment.seq) && !is_after(segment.seq, end);
        let is_reset = segment.flags & TCP_RST != 0;
        match (in_window, is_reset) {
            (false, true) => Reaction::Nothing,
            (false, false) => Reaction::Acks(self.rcv_nxt),
            (true, true) if segment.seq == self.rcv_nxt => Reaction::Closed,
            (true, true) => Reaction::Acks(self.rcv_nxt),
            // Nothing in it that is new.
            (true, false) => Reaction::Nothing,
        }
    }

    /// Whether it is told in the end: by these segments, or by XDP, which answers an ACK with the RST that it asks for.
    fn learns(&self, segments: &[Bare]) -> bool {
        segments.iter().map(|segment| self.receive(segment)).any(|reaction| match reaction {
            Reaction::Closed => true,
            Reaction::Acks(ack) => {
                self.receive(&Bare { seq: ack, ack: 0, flags: TCP_RST }) == Reaction::Closed
            }
            Reaction::Nothing => false,
        })
    }

    /// Whether it is told by these segments alone.
    fn believes(&self, segments: &[Bare]) -> bool {
        segments.iter().any(|segment| self.receive(segment) == Reaction::Closed)
    }
}

fn seen(next_seq: u32, ack: u32) -> Seen {
    Seen { packets: 1, bytes: 40, next_seq, ack, flags: 0, at: 0 }
}

#[test]
fn what_comes_after_wraps() {
    assert!(is_after(1, 0));
    assert!(is_after(5, u32::MAX));
    assert!(!is_after(u32::MAX, 5));
    assert!(!is_after(7, 7));
}

#[test]
fn an_idle_flow_needs_one_reset() {
    let (client, server) = (seen(1000, 9000), seen(9000, 1000));
    let client_told = for_client(&client, Some(&server));
    assert_eq!(
        client_told,
        [
            Bare { seq: 9000, ack: 1000, flags: TCP_RST | TCP_ACK },
            Bare { seq: 8999, ack: 1000, flags: TCP_ACK }
        ]
    );
    let backend_told = for_backend(&client, Some(&server));
    assert_eq!(backend_told[0], Bare { seq: 1000, ack: 9000, flags: TCP_RST | TCP_ACK });
    assert_eq!(for_client(&client, None), client_told, "without replies, too");
    assert_eq!(for_backend(&client, None), backend_told);
}

#[test]
fn what_was_sent_last_comes_first_and_what_was_sent_again_last() {
    let order = |acked, sent| {
        let told = for_client(&seen(1000, acked), Some(&seen(sent, 1000)));
        told.iter().map(|segment| segment.seq).collect::<Vec<_>>()
    };
    assert_eq!(order(9000, 9500), [9500, 9000, 8999]);
    assert_eq!(order(9500, 9000), [9500, 9000, 9499]);
    assert_eq!(order(u32::MAX, 400), [400, u32::MAX, u32::MAX - 1]);
}

#[test]
fn a_direction_that_nothing_was_seen_of_has_no_numbers() {
    let nothing = Seen::default();
    assert_eq!(for_client(&seen(1000, 9000), Some(&nothing)), for_client(&seen(1000, 9000), None));
}

proptest! {
    /// What it has acknowledged, as far as it was seen, is at most what it expects; what was sent to it is at least that
    /// less what it has not been seen to acknowledge.
    #[test]
    fn everybody_learns_of_it_in_the_end(
        rcv_nxt: u32,
        behind in 0u32..1 << 31,
        unacknowledged in 0u32..1 << 16,
        window in 0u32..1 << 30,
        sent: Option<u32>,
    ) {
        let receiver = Receiver { rcv_nxt, unacknowledged, window: window.max(unacknowledged) };
        let acked = rcv_nxt.wrapping_sub(behind);
        let sent = sent.map(|sent| seen(sent, 1));
        let told = for_client(&seen(77, acked), sent.as_ref());
        prop_assert!(receiver.learns(&told), "{told:?}");
    }

    #[test]
    fn whoever_has_all_that_was_sent_or_has_acknowledged_all_that_came_believes_at_once(
        rcv_nxt: u32,
        unacknowledged in 0u32..1 << 16,
        lost in 0u32..1 << 16,
        window in 1u32 << 17..1 << 30,
    ) {
        let has_all = Receiver { rcv_nxt, unacknowledged, window };
        let told = for_client(&seen(77, rcv_nxt.wrapping_sub(unacknowledged)), Some(&seen(rcv_nxt, 1)));
        prop_assert!(has_all.believes(&told));
        let has_lost = Receiver { rcv_nxt, unacknowledged: 0, window };
        let told = for_client(&seen(77, rcv_nxt), Some(&seen(rcv_nxt.wrapping_add(lost), 1)));
        prop_assert!(has_lost.believes(&told));
    }
}

#[test]
fn the_model_of_a_receiver_does_as_rfc_5961_says() {
    let receiver = Receiver { rcv_nxt: 5000, unacknowledged: 100, window: 1000 };
    let reset = |seq| receiver.receive(&Bare { seq, ack: 0, flags: TCP_RST });
    let ack = |seq| receiver.receive(&Bare { seq, ack: 0, flags: TCP_ACK });
    assert_eq!(reset(5000), Reaction::Closed);
    assert_eq!(reset(5001), Reaction::Acks(5000));
    assert_eq!(reset(4900), Reaction::Acks(5000));
    assert_eq!((reset(4899), reset(5901)), (Reaction::Nothing, Reaction::Nothing));
    assert_eq!((ack(4899), ack(5901)), (Reaction::Acks(5000), Reaction::Acks(5000)));
    assert_eq!((ack(4900), ack(5000)), (Reaction::Nothing, Reaction::Nothing));
}

// What the frames look like, judged by etherparse.

const CLIENT_MAC: Mac = [2, 0, 0, 0, 0, 1];
const NODE_MAC: Mac = [2, 0, 0, 0, 0, 2];
const BACKEND_MAC: Mac = [2, 0, 0, 0, 0, 3];

fn hop(mac: Mac, tags: &[u16]) -> Hop {
    let tag =
        |n: usize| tags.get(n).map_or(TagWord::NONE, |&id| TagWord::new(Be16::new(0x8100), Be16::new(id)));
    Hop {
        mac: MacWord::new(mac),
        source: MacWord::new(NODE_MAC),
        if_index: 7,
        outer: tag(0),
        inner: tag(1),
        flags: 0,
    }
}

fn entry<A: Address>(rewritten: FlowKey<A>, direction: u8, mode: u8, seen: Seen) -> FlowEntry<A> {
    FlowEntry {
        rewritten,
        client: hop(CLIENT_MAC, &[]),
        ip_delta: Delta::default(),
        tcp_delta: Delta::default(),
        backend: 3,
        direction,
        mode,
        opened: 0,
        attempt: 0,
        _pad: 0,
        seen,
    }
}

/// 192.0.2.1:40000 at the VIP's 6443, by way of its port 50000 to the backend's 6444; or the same in IPv6.
struct Ends<A> {
    client: A,
    vip: A,
    backend: A,
}

impl<A: Address> Ends<A> {
    fn nat(&self) -> Flow<A> {
        let key = FlowKey::new(self.client, Be16::new(40_000), self.vip, Be16::new(6443));
        let rewritten = FlowKey::new(self.vip, Be16::new(50_000), self.backend, Be16::new(6444));
        let forward = entry(rewritten, TO_BACKEND, MODE_NAT, seen(1000, 9000));
        let reply = entry(key.reversed(), TO_CLIENT, MODE_NAT, seen(9000, 1000));
        Flow { key, forward, reply: Some(reply) }
    }

    fn direct(&self, mode: u8) -> Flow<A> {
        let key = FlowKey::new(self.client, Be16::new(40_000), self.vip, Be16::new(6443));
        Flow { key, forward: entry(key, TO_BACKEND, mode, seen(1000, 9000)), reply: None }
    }
}

fn ends4() -> Ends<Be32> {
    let address = |d| Be32::from(Ipv4Addr::new(192, 0, 2, d));
    Ends { client: address(1), vip: address(10), backend: address(4) }
}

fn ends6() -> Ends<Be128> {
    let address = |d| Be128::from(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, d)));
    Ends { client: address(1), vip: address(10), backend: address(4) }
}

/// What etherparse reads in a frame: VLAN ids, source, destination, sequence number, whether it is a RST. Lengths and
/// checksums are right.
fn read(frame: &OutFrame) -> (Vec<u16>, String, String, u32, bool) {
    assert_eq!(frame.if_index, 7);
    assert_eq!(frame.bytes[..6], frame.to);
    assert_eq!(frame.bytes[6..12], NODE_MAC);
    assert_eq!(frame.bytes[12..14], frame.ethertype.get().to_be_bytes());
    let packet = SlicedPacket::from_ethernet(&frame.bytes).expect("a frame");
    let vlans = packet.link_exts.iter().filter_map(|extension| match extension {
        LinkExtSlice::Vlan(tag) => Some(tag.vlan_identifier().value()),
        _ => None,
    });
    let vlans = vlans.collect();
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else { panic!("not TCP: {packet:?}") };
    assert!(tcp.payload().is_empty() && tcp.options().is_empty());
    let (source, destination) = match packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
            assert_eq!(
                tcp.checksum(),
                tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap()
            );
            (IpAddr::V4(header.source_addr()), IpAddr::V4(header.destination_addr()))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let sum = tcp.calc_checksum_ipv6(header.source(), header.destination()).unwrap();
            assert_eq!(tcp.checksum(), sum);
            (IpAddr::V6(header.source_addr()), IpAddr::V6(header.destination_addr()))
        }
        other => panic!("not IP: {other:?}"),
    };
    let at = |ip: IpAddr, port: u16| std::net::SocketAddr::new(ip, port).to_string();
    let (source, destination) = (at(source, tcp.source_port()), at(destination, tcp.destination_port()));
    (vlans, source, destination, tcp.sequence_number(), tcp.rst())
}

#[test]
fn the_client_hears_it_from_the_vip_along_its_own_way() {
    let flow = ends4().nat();
    let frames = to_client(&flow);
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].to, CLIENT_MAC);
    let expected = ("192.0.2.10:6443".to_owned(), "192.0.2.1:40000".to_owned());
    assert_eq!(read(&frames[0]), (vec![], expected.0.clone(), expected.1.clone(), 9000, true));
    assert_eq!(read(&frames[1]), (vec![], expected.0, expected.1, 8999, false));

    for tags in [vec![12], vec![12, 3000]] {
        let mut flow = ends6().nat();
        flow.forward.client = hop(CLIENT_MAC, &tags);
        let frames = to_client(&flow);
        let (vlans, source, destination, seq, is_reset) = read(&frames[0]);
        assert_eq!((vlans, seq, is_reset), (tags, 9000, true));
        assert_eq!(source, "[2001:db8::a]:6443");
        assert_eq!(destination, "[2001:db8::1]:40000");
    }
    let mut nowhere = flow;
    nowhere.forward.client = Hop::NONE;
    assert_eq!(to_client(&nowhere), []);
}

fn backend(address: Be128) -> BackendEntry {
    BackendEntry { address, hop: hop(BACKEND_MAC, &[]), ..BackendEntry::default() }
}

#[test]
fn the_backend_hears_it_from_whom_it_takes_for_the_client() {
    let ends = ends4();
    let entry = backend(ends.backend.wide());
    let first = |flow: &Flow<Be32>| to_backend(flow, &entry, &NodeEntry::EMPTY);
    let nat = first(&ends.nat());
    assert_eq!(nat[0].to, BACKEND_MAC);
    assert_eq!(
        read(&nat[0]),
        (vec![], "192.0.2.10:50000".to_owned(), "192.0.2.4:6444".to_owned(), 1000, true)
    );
    let direct = first(&ends.direct(MODE_DSR_L2));
    assert_eq!(
        read(&direct[0]),
        (vec![], "192.0.2.1:40000".to_owned(), "192.0.2.10:6443".to_owned(), 1000, true)
    );
    assert_eq!(first(&ends.direct(MODE_LOCAL)), []);
    let unknown = BackendEntry { hop: Hop::NONE, ..entry };
    assert_eq!(to_backend(&ends.nat(), &unknown, &NodeEntry::EMPTY), []);
}

#[test]
fn through_a_tunnel_it_is_packed_as_the_flow_was() {
    let (ends, ends_outer) = (ends6(), ends4());
    let node = NodeEntry { v4: Be32::from(Ipv4Addr::new(192, 0, 2, 2)), ..NodeEntry::EMPTY };
    let entry = backend(ends_outer.backend.wide());
    let frames = to_backend(&ends.direct(MODE_DSR_IPIP), &entry, &node);
    assert_eq!(frames.len(), 2);
    let outer = SlicedPacket::from_ethernet(&frames[0].bytes).expect("a frame");
    let Some(NetSlice::Ipv4(outer)) = outer.net else { panic!("not IPv4") };
    assert_eq!(outer.header().source_addr(), Ipv4Addr::new(192, 0, 2, 2));
    assert_eq!(outer.header().destination_addr(), Ipv4Addr::new(192, 0, 2, 4));
    assert_eq!(outer.header().protocol(), etherparse::IpNumber::IPV6);
    assert_eq!(outer.header().header_checksum(), outer.header().to_header().calc_header_checksum());
    let inner = OutFrame {
        bytes: [&frames[0].bytes[..12], &[0x86, 0xdd], &frames[0].bytes[34..]].concat(),
        ethertype: Be16::new(0x86dd),
        ..frames[0].clone()
    };
    let (_, source, destination, seq, is_reset) = read(&inner);
    assert_eq!((source.as_str(), destination.as_str()), ("[2001:db8::1]:40000", "[2001:db8::a]:6443"));
    assert_eq!((seq, is_reset), (1000, true));
    assert_eq!(to_backend(&ends.direct(MODE_DSR_IPIP), &entry, &NodeEntry::EMPTY), [], "no own address");
}

#[test]
fn only_what_is_open_is_severed_and_only_what_counts_is_uncounted() {
    let with = |mut flow: Flow<Be32>, forward, reply| {
        flow.forward.seen.flags = forward;
        if let Some(entry) = &mut flow.reply {
            entry.seen.flags = reply;
        }
        (flow.is_open(), flow.counts())
    };
    let nat = ends4().nat();
    assert_eq!(with(nat, SEEN_SYN, SEEN_SYN), (true, true));
    assert_eq!(with(nat, SEEN_FIN, 0), (true, true), "half-closed");
    assert_eq!(with(nat, SEEN_FIN, SEEN_FIN), (false, false));
    assert_eq!(with(nat, 0, SEEN_RST), (false, false));
    assert_eq!(with(nat, SEEN_SEVERED, SEEN_SEVERED), (false, false));
    assert!(with(nat, SEEN_SEVERED, 0).0, "half a mark is none");
    assert_eq!(with(Flow { reply: None, ..nat }, 0, 0), (true, false), "half a flow is not counted");
    let direct = ends4().direct(MODE_DSR_L2);
    assert_eq!(with(direct, 0, 0), (true, true));
    assert_eq!(with(direct, SEEN_FIN, 0), (true, false), "the backend may not have had the FIN");
    assert_eq!(with(direct, SEEN_SEVERED, 0), (false, false));
}
