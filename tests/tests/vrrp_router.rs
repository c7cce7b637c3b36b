//! Our own virtual routers against each other and against a hostile environment, on real sockets.
//!
//! Needs root and iproute2.

#[path = "vrrp/lan.rs"]
mod lan;
#[path = "vrrp/routers.rs"]
mod routers;
#[path = "vrrp/wire.rs"]
mod wire;

use std::{
    net::Ipv4Addr,
    num::NonZeroU8,
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use lan::{A, B, INTERFACE, Lan, Netns, VIP, run, within};
use lb_userspace::{
    announce::Announcer,
    config::model::{VrrpChecksum, VrrpInstance},
    vrrp::{
        advert::Priority,
        fsm::VrrpState,
        router::{Router, SpawnError},
        socket::SocketError,
        status::{ActiveRouter, RouterStatus},
    },
};
use nix::sys::{
    socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};
use routers::{spawn, statuses};

const GENEROUS: Duration = Duration::from_secs(60);

fn instance(priority: u8, peer: Ipv4Addr) -> VrrpInstance {
    VrrpInstance {
        priority: NonZeroU8::new(priority).unwrap(),
        unicast_peers: vec![peer.into()],
        ..VrrpInstance::new("main", NonZeroU8::new(60).unwrap())
    }
}

fn start(netns: &Netns, instance: &VrrpInstance) -> Router {
    netns.enter(|| spawn(instance, INTERFACE, &[VIP])).expect("a router")
}

fn status(router: &Router) -> RouterStatus {
    statuses(router).borrow().clone()
}

fn wait_for_state(router: &Router, state: VrrpState) -> Duration {
    within(GENEROUS, &format!("{state}"), || status(router).state == state)
}

#[test]
fn one_is_active_and_hands_over_on_every_kind_of_leaving() {
    let lan = Lan::new();
    // One says the checksum this way, the other that way: both are understood.
    let a = start(&lan.a, &instance(150, B));
    let b = start(&lan.b, &VrrpInstance { checksum: VrrpChecksum::Rfc9568, ..instance(100, A) });
    wait_for_state(&a, VrrpState::Active);
    thread::sleep(Duration::from_secs(1));
    assert_eq!((status(&a).state, status(&b).state), (VrrpState::Active, VrrpState::Backup));
    assert_eq!(status(&b).active_router.map(|active| active.address), Some(A.into()));

    assert_eq!(status(&a).active_router, Some(ActiveRouter { address: A.into(), priority: 150 }));
    let lateness = status(&a).lateness;
    assert!(lateness.count >= 3 && lateness.buckets.iter().sum::<u64>() == lateness.count, "{lateness:?}");

    a.release();
    wait_for_state(&b, VrrpState::Active);
    assert_eq!(status(&b).reason, format!("priority 0 from {A}"));
    let held_until = status(&a).holds_since;
    assert!(
        !status(&a).holds_addresses && held_until >= status(&b).holds_since,
        "nobody had them for a while"
    );
    thread::sleep(Duration::from_secs(1));
    assert_eq!((status(&a).state, status(&a).released), (VrrpState::Backup, true));
    assert_eq!(status(&a).reason, "released on command");

    a.acquire();
    wait_for_state(&a, VrrpState::Active);
    assert_eq!(status(&a).reason, "acquired on command");
    wait_for_state(&b, VrrpState::Backup);

    a.set_tracking(0, Err("the data plane is detached".to_owned()));
    wait_for_state(&a, VrrpState::Fault);
    assert_eq!(status(&a).reason, "the data plane is detached");
    wait_for_state(&b, VrrpState::Active);

    a.set_tracking(0, Ok(Priority(150)));
    wait_for_state(&a, VrrpState::Active);
    assert_eq!(status(&a).reason, format!("preempting lower priority 100 of {B}"));
    wait_for_state(&b, VrrpState::Backup);
    // The last word of the one that yields makes the other announce again.
    within(GENEROUS, "announced again", || status(&a).announce_generation >= 4);

    let last = statuses(&a);
    a.shutdown();
    assert_eq!(last.borrow().state, VrrpState::Initialize);
    wait_for_state(&b, VrrpState::Active);
    drop(b);
}

#[test]
fn a_dead_link_is_counted_and_a_vanished_interface_is_a_fault() {
    let lan = Lan::new();
    let a = start(&lan.a, &instance(150, B));
    wait_for_state(&a, VrrpState::Active);

    run(&format!("ip -n {} link set {INTERFACE} down", lan.a.name()));
    within(GENEROUS, "failed sends are shown", || {
        status(&a).send_errors > 2 && status(&a).send_error.is_some()
    });
    assert_eq!(status(&a).state, VrrpState::Active, "whether that matters is for the tracking to say");
    run(&format!("ip -n {} link set {INTERFACE} up", lan.a.name()));
    within(GENEROUS, "sends again", || status(&a).send_error.is_none());

    run(&format!("ip -n {} link del {INTERFACE}", lan.a.name()));
    wait_for_state(&a, VrrpState::Fault);
    assert_eq!(status(&a).reason, "interface eth0 vanished");

    // Another interface of that name: a new socket, and the router takes part again.
    lan.connect();
    within(GENEROUS, "the missing address is told", || status(&a).reason.contains("no IPv4 address"));
    for (netns, address) in [(&lan.a, A), (&lan.b, B)] {
        run(&format!("ip -n {} addr add {address}/24 dev {INTERFACE}", netns.name()));
    }
    wait_for_state(&a, VrrpState::Active);
    let b = start(&lan.b, &instance(200, A));
    wait_for_state(&b, VrrpState::Active);
    wait_for_state(&a, VrrpState::Backup);
}

#[test]
fn what_cannot_work_is_refused_at_the_start() {
    let lan = Lan::new();
    let spawn = |instance: &VrrpInstance, interface: &str, vips: &[Ipv4Addr]| {
        lan.a.enter(|| spawn(instance, interface, vips)).map(drop)
    };
    let good = instance(100, B);
    assert!(
        matches!(spawn(&good, "eth9", &[VIP]), Err(SpawnError::Socket(SocketError::NoInterface(name))) if name == "eth9")
    );
    assert!(matches!(
        spawn(&good, "lo", &[Ipv4Addr::LOCALHOST]),
        Err(SpawnError::Socket(SocketError::NoAddress { .. }))
    ));
    assert!(matches!(spawn(&good, INTERFACE, &[]), Err(SpawnError::VipCount(0))));
    for unicast_peers in [vec![B.into()], vec![]] {
        let elsewhere = VrrpInstance {
            unicast_source: Some(Ipv4Addr::new(172, 16, 0, 99).into()),
            unicast_peers,
            ..good.clone()
        };
        let refused = spawn(&elsewhere, INTERFACE, &[VIP]);
        assert!(matches!(refused, Err(SpawnError::Socket(SocketError::NotOurs { .. }))), "{refused:?}");
    }
    let interval = VrrpInstance { advert_interval: Duration::from_millis(1), ..good.clone() };
    assert!(matches!(spawn(&interval, INTERFACE, &[VIP]), Err(SpawnError::Interval { .. })));
    let password = VrrpInstance { auth_pass: Some("1111".to_owned()), ..good };
    assert!(matches!(spawn(&password, INTERFACE, &[VIP]), Err(SpawnError::Password)));
}

/// A VIP that a killed predecessor left on the interface is not mistaken for our own address.
#[test]
fn a_leftover_vip_is_not_our_source() {
    let lan = Lan::new();
    run(&format!("ip -n {} addr flush dev {INTERFACE}", lan.a.name()));
    for address in [VIP, A] {
        run(&format!("ip -n {} addr add {address}/24 dev {INTERFACE}", lan.a.name()));
    }
    let a = start(&lan.a, &instance(100, B));
    assert_eq!(status(&a).primary_address, A);
}

/// A consumer that holds on to the status does not make advertisements late.
#[test]
fn a_stuck_reader_does_not_stop_the_advertisements() {
    let lan = Lan::new();
    let a = start(&lan.a, &instance(150, B));
    let b = start(&lan.b, &instance(100, A));
    wait_for_state(&a, VrrpState::Active);
    let mut reader = statuses(&a);
    let stuck = reader.borrow_and_update();
    let transitions = status(&b).transitions;
    thread::sleep(Duration::from_secs(3));
    assert_eq!((status(&b).state, status(&b).transitions), (VrrpState::Backup, transitions));
    drop(stuck);
}

#[test]
fn announcements_leave_at_once_and_stop_when_told() {
    let lan = Lan::new();
    let ear = lan.b.enter(|| {
        let ear = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), SockProtocol::EthAll);
        let ear = ear.expect("a packet socket");
        setsockopt(&ear, ReceiveTimeout, &TimeVal::new(0, 500_000)).expect("a time limit");
        ear
    });
    let mac =
        String::from_utf8(run(&format!("ip -n {} -o link show {INTERFACE}", lan.a.name())).stdout).unwrap();
    let mac = mac.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address");
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let mut expected = vec![0xff; 6];
    expected.extend(&mac);
    expected.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    expected.extend(&mac);
    expected.extend(VIP.octets());
    expected.extend([0xff; 6]);
    expected.extend(VIP.octets());
    // Collects for `span` whatever is ARP and ours.
    let listen = |span: Duration| {
        let (start, mut heard) = (Instant::now(), Vec::new());
        while start.elapsed() < span {
            let mut frame = [0; 128];
            if let Ok(len) = recv(ear.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty())
                && frame[12..14] == [8, 6]
                && frame[28..32] == VIP.octets()
            {
                assert_eq!(frame[..len], expected, "{:02x?}", &frame[..len]);
                heard.push(start.elapsed());
            }
        }
        heard
    };
    let announcer = lan.a.enter(|| Announcer::spawn(INTERFACE)).expect("a thread");
    announcer.announce(VIP.into(), None);
    let first = listen(Duration::from_millis(5600));
    println!("gratuitous ARP after {first:?}");
    assert_eq!(first.len(), 10, "two bursts: {first:?}");
    assert!(first[4] < Duration::from_millis(100), "{first:?}");
    announcer.announce(VIP.into(), None);
    let again = listen(Duration::from_secs(1));
    assert_eq!(again.len(), 5, "told again: {again:?}");
    announcer.stop(VIP.into());
    let stopped = listen(Duration::from_millis(5500));
    assert!(stopped.is_empty(), "after a stop: {stopped:?}");
    announcer.announce(VIP.into(), None);
    let returned = listen(Duration::from_secs(1));
    assert_eq!(returned.len(), 5, "here again: {returned:?}");
}
