//! Advertisements between two sockets, over both families, from both kinds of Ethernet address.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    num::NonZeroU8,
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use lb_userspace::{
    config::model::{
        AntiReplay, AuthHmac, AuthMode, Family, HmacKey, HmacSecret, VrrpChecksum, VrrpInstance,
    },
    vrrp::{
        advert::{Advertisement, Centiseconds, Dialect, Discard, Envelope, Priority, Vrid, group},
        fsm::VrrpState,
        socket::{SocketError, VrrpSocket, primary_address},
    },
};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    GENEROUS,
    lan::{A, B, INTERFACE, Netns, VIP, run, within},
    routers::{A6, B6, VIP6, dual_lan, link_local, spawn},
    status, wait_for_state,
};

fn primary(netns: &Netns, vips: &[IpAddr], family: Family, multicast: bool) -> Option<IpAddr> {
    netns.enter(|| primary_address(INTERFACE, vips, family, multicast))
}

fn open(netns: &Netns, source: IpAddr, peers: &[IpAddr], virtual_mac: Option<[u8; 6]>) -> VrrpSocket {
    netns.enter(|| VrrpSocket::open(INTERFACE, source, peers, virtual_mac)).expect("a socket")
}

fn advertisement(address: IpAddr) -> Advertisement {
    Advertisement {
        vrid: Vrid(NonZeroU8::new(60).unwrap()),
        priority: Priority(100),
        dialect: Dialect::V3 { interval: Centiseconds::new(20).unwrap(), checksum: VrrpChecksum::Keepalived },
        addresses: vec![address],
    }
}

/// The next packet, with its envelope.
fn next(socket: &mut VrrpSocket) -> Result<(Envelope, Advertisement), Discard> {
    let mut got = None;
    within(GENEROUS, "a packet", || {
        let received = socket.receive().expect("the socket works");
        got = received.map(|received| received.map(|received| (received.envelope, received.advertisement)));
        got.is_some()
    });
    got.expect("a packet")
}

fn is_quiet(socket: &mut VrrpSocket) -> bool {
    thread::sleep(Duration::from_millis(100));
    socket.receive().expect("the socket works").is_none()
}

/// What the other side hears is what was sent, and the sender does not hear itself.
#[test]
fn advertisements_travel_over_both_families() {
    let lan = dual_lan();
    let local = |netns: &Netns| link_local(netns).expect("a link-local address");
    let (a6, b6) = (local(&lan.a), local(&lan.b));
    let vmac = |last| Some([0, 0, 0x5e, 0, last, 60]);
    for (source, peer, vip, virtual_mac) in [
        (IpAddr::from(A), Some(IpAddr::from(B)), IpAddr::from(VIP), None),
        (A.into(), None, VIP.into(), None),
        (A.into(), None, VIP.into(), vmac(1)),
        // Unicast goes the ordinary way whatever the MAC.
        (A.into(), Some(B.into()), VIP.into(), vmac(1)),
        (A6.into(), Some(B6.into()), VIP6.into(), None),
        (a6, Some(b6), VIP6.into(), None),
        (a6, None, VIP6.into(), None),
        (a6, None, VIP6.into(), vmac(2)),
        // Another source than the link-local one, if that is what somebody wants.
        (A6.into(), None, VIP6.into(), None),
    ] {
        let case = format!("{source} to {peer:?} from {virtual_mac:?}");
        let family = Family::of(source);
        let mut a = open(&lan.a, source, peer.as_slice(), virtual_mac);
        let listener = peer.unwrap_or(if family == Family::Ipv4 { B.into() } else { b6 });
        let their_peers = if peer.is_some() { vec![source] } else { vec![] };
        let mut b = open(&lan.b, listener, &their_peers, None);
        let ear = lan.b.enter(|| {
            let ear = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll);
            let ear = ear.expect("a packet socket");
            setsockopt(&ear, ReceiveTimeout, &TimeVal::new(5, 0)).expect("a time limit");
            ear
        });
        a.send(&advertisement(vip), None).expect("sent");
        let destination = peer.unwrap_or(group(family));
        let expected = (Envelope { source, destination, hop_limit: 255 }, advertisement(vip));
        assert_eq!(next(&mut b), Ok(expected), "{case}");
        assert!(is_quiet(&mut a), "{case}: heard itself");

        let header = if family == Family::Ipv4 { 20 } else { 40 };
        let (tos_at, protocol_at) = if family == Family::Ipv4 { (1, 9) } else { (0, 6) };
        loop {
            let mut frame = [0; 256];
            let len = recv(ear.as_raw_fd(), &mut frame, MsgFlags::empty()).expect("a frame");
            let packet = &frame[14..len];
            if len < 14 + header + 8 || packet[protocol_at] != 112 {
                continue;
            }
            let from: [u8; 6] = frame[6..12].try_into().unwrap();
            let virtual_mac = virtual_mac.filter(|_| peer.is_none());
            assert_eq!(from == virtual_mac.unwrap_or_default(), virtual_mac.is_some(), "{case}: {from:02x?}");
            let tos = if family == Family::Ipv4 { packet[tos_at] } else { packet[0] << 4 | packet[1] >> 4 };
            assert_eq!(tos, 0xc0, "{case}");
            break;
        }
    }
}

/// What is not for us does not come, or says why it is refused.
#[test]
fn strangers_and_routed_packets_are_refused_over_ipv6() {
    let lan = dual_lan();
    let mut unicast = open(&lan.b, B6.into(), &[A6.into()], None);
    let local = link_local(&lan.b).expect("a link-local address");
    let mut multicast = open(&lan.b, local, &[], None);
    run(&format!("ip -n {} addr add fd00::66/64 dev {INTERFACE} nodad", lan.a.name()));
    let stranger = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x66);
    // From `source` with any hop limit, which our own socket would never send.
    let send = |source: Ipv6Addr, destination: IpAddr, hop_limit: u32| {
        lan.a.enter(|| {
            let raw = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(112))).expect("a raw socket");
            raw.bind_device(Some(INTERFACE.as_bytes())).expect("bound to the interface");
            raw.bind(&SocketAddrV6::new(source, 0, 0, 0).into()).expect("bound");
            raw.set_unicast_hops_v6(hop_limit).expect("a hop limit");
            raw.set_multicast_hops_v6(hop_limit).expect("a hop limit");
            let mut buffer = [0; 64];
            let advertisement = advertisement(VIP6.into());
            let len = advertisement.emit(source.into(), destination, None, &mut buffer).expect("it fits");
            raw.send_to(&buffer[..len], &SocketAddr::new(destination, 0).into()).expect("sent");
        });
    };
    let group = group(Family::Ipv6);
    send(A6, B6.into(), 254);
    assert_eq!(next(&mut unicast), Err(Discard::Ttl(254)));
    send(A6, B6.into(), 64);
    assert!(next(&mut unicast).is_ok(), "as keepalived sends it");
    send(stranger, B6.into(), 255);
    assert_eq!(next(&mut unicast), Err(Discard::NotAPeer(stranger.into())));
    assert!(is_quiet(&mut multicast), "unicast is nothing for the group");
    send(A6, group, 64);
    assert_eq!(next(&mut multicast), Err(Discard::Ttl(64)));
    send(A6, group, 255);
    assert!(next(&mut multicast).is_ok());
    assert!(is_quiet(&mut unicast), "the group is nothing for unicast");
}

#[test]
fn the_source_is_one_that_can_be_used() {
    let lan = dual_lan();
    let global = |vips: &[IpAddr]| primary(&lan.a, vips, Family::Ipv6, false);
    assert_eq!(global(&[]), Some(A6.into()));
    let link_local = link_local(&lan.a).expect("a link-local address");
    assert!(matches!(link_local, IpAddr::V6(address) if address.is_unicast_link_local()), "{link_local}");
    assert_eq!(primary(&lan.a, &[link_local], Family::Ipv6, true), None);
    // A virtual address that a predecessor left, one that is on its way out, and one that might not be unique.
    let name = lan.a.name();
    run(&format!("ip -n {name} addr flush dev {INTERFACE} scope global"));
    assert_eq!(global(&[]), None);
    run(&format!("ip -n {name} addr add {VIP6}/64 dev {INTERFACE} nodad"));
    assert_eq!((global(&[]), global(&[VIP6.into()])), (Some(VIP6.into()), None));
    run(&format!("ip -n {name} addr add fd00::9/64 dev {INTERFACE} nodad preferred_lft 0"));
    assert_eq!(global(&[VIP6.into()]), Some(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9])));
    run(&format!("ip netns exec {name} sysctl -qw net.ipv6.conf.{INTERFACE}.dad_transmits=100"));
    run(&format!("ip -n {name} addr add fd00::4/64 dev {INTERFACE}"));
    assert_eq!(global(&[VIP6.into()]), Some(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9])), "it is tentative");
    run(&format!("ip -n {name} addr add {A6}/64 dev {INTERFACE} nodad"));
    assert_eq!(global(&[VIP6.into()]), Some(A6.into()), "better than a deprecated one");

    let refused = |source: IpAddr, peers: &[IpAddr]| {
        lan.a.enter(|| VrrpSocket::open(INTERFACE, source, peers, None)).expect_err("no such socket")
    };
    for peers in [&[][..], &[B6.into()]] {
        let error = refused(B6.into(), peers);
        assert!(matches!(error, SocketError::NotOurs { .. }), "{error:?}");
    }
    let error = refused(A6.into(), &[B.into()]);
    assert!(matches!(error, SocketError::OtherFamily { .. }), "{error:?}");
}

/// Two that sign, one that has another secret.
#[test]
fn signed_routers_elect_over_ipv6_and_ignore_forgers() {
    let lan = dual_lan();
    let id = NonZeroU8::new(7).unwrap();
    let signing = |fill| AuthHmac {
        keys: vec![HmacKey { id, secret: HmacSecret::new(vec![fill; 32]).unwrap() }],
        active_key: id,
        mode: AuthMode::Enforce,
        anti_replay: AntiReplay::Time,
        time_window: Duration::from_secs(5),
    };
    let instance = |priority, fill| VrrpInstance {
        priority: NonZeroU8::new(priority).unwrap(),
        auth_hmac: Some(signing(fill)),
        ..VrrpInstance::new("main", NonZeroU8::new(60).unwrap())
    };
    let start = |netns: &Netns, instance: &VrrpInstance| {
        netns.enter(|| spawn(instance, INTERFACE, &[VIP6])).expect("a router")
    };
    let a = start(&lan.a, &instance(150, 1));
    let b = start(&lan.b, &instance(100, 1));
    wait_for_state(&a, VrrpState::Active);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(status(&b).state, VrrpState::Backup);
    assert_eq!(Some(status(&a).primary_address), link_local(&lan.a));
    assert_eq!(status(&b).active_router.map(|active| active.address), Some(status(&a).primary_address));
    assert_eq!(status(&b).discards.len(), 0, "{:?}", status(&b).discards);
    // Active from the first moment, with the highest priority there is, and nobody believes it.
    drop(b);
    let forger = start(&lan.b, &instance(255, 2));
    wait_for_state(&forger, VrrpState::Active);
    within(GENEROUS, "the forger is noticed", || status(&a).discards.contains_key("auth-hmac"));
    assert_eq!(status(&a).state, VrrpState::Active);
}
