//! What we ask of the kernel by netlink, asked of a real one: both address families, several interfaces.
//!
//! Needs root and iproute2.

#[path = "vrrp/lan.rs"]
mod lan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use lan::{A, B, INTERFACE, Lan, VIP, run, within};
use lb_common::wire::Mac;
use lb_userspace::{
    announce::Announcer,
    desired::NextHop,
    netlink::{Netlink, NetlinkError, NetlinkEvent},
};
use tokio::{sync::mpsc, time::timeout};

const GENEROUS: Duration = Duration::from_secs(60);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);

/// The usual two namespaces with IPv6 on `eth0`, and a second wire:
///
/// ```text
///  a: eth0 172.16.0.2/24 fd00::2/64 ------ eth0 172.16.0.3/24 fd00::3/64 :b
///     eth1 10.0.1.2/24 fd00:1::2/64 ------ eth1 10.0.1.3/24 fd00:1::3/64
/// ```
fn two_wires() -> Lan {
    let lan = Lan::new();
    let (a, b) = (lan.a.name(), lan.b.name());
    run(&format!("ip link add eth1 netns {a} type veth peer name eth1 netns {b}"));
    for (name, host) in [(a, 2), (b, 3)] {
        run(&format!("ip -n {name} link set eth1 up"));
        run(&format!("ip -n {name} addr add fd00::{host}/64 dev {INTERFACE} nodad"));
        run(&format!("ip -n {name} addr add 10.0.1.{host}/24 dev eth1"));
        run(&format!("ip -n {name} addr add fd00:1::{host}/64 dev eth1 nodad"));
    }
    lan
}

/// Runs `work` in namespace `a`.
fn in_a<T: Send>(lan: &Lan, work: impl AsyncFnOnce() -> T + Send) -> T {
    lan.a.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(work())
    })
}

async fn open(interfaces: &[&str]) -> (Netlink, mpsc::Receiver<NetlinkEvent>) {
    let names: Vec<String> = interfaces.iter().map(|&name| name.to_owned()).collect();
    Netlink::open(&names).await.expect("netlink")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn stdout(command: &str) -> String {
    String::from_utf8(run(command).stdout).expect("text")
}

fn mac(text: &str) -> Mac {
    let octets: Vec<u8> = text.split(':').filter_map(|octet| u8::from_str_radix(octet, 16).ok()).collect();
    octets.try_into().expect("six octets")
}

fn mac_of(netns: &str, interface: &str) -> Mac {
    let text = stdout(&format!("ip -n {netns} -o link show {interface}"));
    mac(text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a MAC address"))
}

/// Waits for an event.
async fn expect(events: &mut mpsc::Receiver<NetlinkEvent>, wanted: NetlinkEvent) {
    let found = timeout(GENEROUS, async {
        while let Some(event) = events.recv().await {
            if event == wanted {
                return true;
            }
        }
        false
    });
    assert!(found.await.unwrap_or(false), "no {wanted:?}");
}

#[test]
fn backends_of_both_families_are_reached_on_every_interface() {
    let lan = two_wires();
    let (a, b) = (lan.a.name(), lan.b.name());
    // One more interface, which is none of ours, and routers, one of which is known by its link-local address only.
    run(&format!("ip link add eth2 netns {a} type veth peer name eth2 netns {b}"));
    run(&format!("ip -n {a} addr add 10.0.2.2/24 dev eth2"));
    run(&format!("ip -n {a} link set eth2 up"));
    run(&format!("ip -n {b} addr add fe80::b/64 dev eth1 nodad"));
    run(&format!("ip -n {a} route add fd00:9::/64 via fe80::b dev eth1"));
    run(&format!("ip -n {a} route add 10.0.9.0/24 via inet6 fe80::b dev eth1"));
    run(&format!("ip -n {a} route add 10.0.8.0/24 via {B}"));
    run(&format!("ip -n {a} route add blackhole 10.0.7.0/24"));
    run(&format!("ip -n {a} route add unreachable fd00:7::/64"));
    let eth0 = NextHop::Mac { mac: mac_of(b, INTERFACE), link: 0, routed: false };
    let eth1 = NextHop::Mac { mac: mac_of(b, "eth1"), link: 1, routed: false };
    let behind = |next_hop| match next_hop {
        NextHop::Mac { mac, link, .. } => NextHop::Mac { mac, link, routed: true },
        other => other,
    };
    let expected = BTreeMap::from(
        [
            ("172.16.0.3", eth0),
            ("fd00::3", eth0),
            ("10.0.1.3", eth1),
            ("fd00:1::3", eth1),
            ("fd00:9::1", behind(eth1)),
            ("10.0.9.1", behind(eth1)),
            ("10.0.8.1", behind(eth0)),
            ("172.16.0.2", NextHop::Local),
            ("fd00:1::2", NextHop::Local),
            ("10.0.2.3", NextHop::OtherInterface),
            ("172.16.0.99", NextHop::Unresolved),
            ("fd00::99", NextHop::Unresolved),
            ("203.0.113.1", NextHop::Unresolved),
            ("2001:db8::1", NextHop::Unresolved),
            ("10.0.7.1", NextHop::Unresolved),
            ("fd00:7::1", NextHop::Unresolved),
        ]
        .map(|(backend, next_hop)| (ip(backend), next_hop)),
    );
    in_a(&lan, async || {
        let (netlink, mut events) = open(&[INTERFACE, "eth1"]).await;
        let backends: BTreeSet<IpAddr> = expected.keys().copied().collect();
        let first = netlink.next_hops(&backends).await.expect("next hops");
        // Nobody has spoken with these; to ask was enough, and we are told when there is an answer.
        assert_eq!(first.by_backend[&ip("fd00:1::3")], NextHop::Unresolved);
        assert!(first.neighbours.contains(&ip("fe80::b")) && !first.neighbours.contains(&ip("fd00:9::1")));
        let start = Instant::now();
        loop {
            let found = netlink.next_hops(&backends).await.expect("next hops").by_backend;
            if found == expected {
                break;
            }
            assert!(start.elapsed() < GENEROUS, "{found:#?}");
            let event = timeout(GENEROUS, events.recv()).await.expect("told of a neighbour in time");
            assert!(event.is_some());
        }
    });
    // The other way round, the numbers are too.
    in_a(&lan, async || {
        let (netlink, _events) = open(&["eth1", INTERFACE]).await;
        let found = netlink.next_hops(&[ip("fd00::3")].into()).await.expect("next hops");
        assert_eq!(
            found.by_backend[&ip("fd00::3")],
            NextHop::Mac { mac: mac_of(b, INTERFACE), link: 1, routed: false }
        );
    });
}

#[test]
fn a_thousand_backends_are_looked_up_at_once() {
    let lan = two_wires();
    let mut neighbours = String::new();
    let mut expected = BTreeMap::new();
    for number in 0..500_u16 {
        let [high, low] = number.to_be_bytes();
        let backends = [format!("10.9.{high}.{low}"), format!("fd00::9:{number:x}")];
        for (family, backend) in backends.into_iter().enumerate() {
            writeln!(
                neighbours,
                "neigh add {backend} lladdr 02:00:00:0{family}:{high:02x}:{low:02x} dev {INTERFACE} nud permanent"
            )
            .expect("a string");
            expected.insert(
                ip(&backend),
                NextHop::Mac { mac: [2, 0, 0, family as u8, high, low], link: 0, routed: false },
            );
        }
    }
    run(&format!("ip -n {} route add 10.9.0.0/16 dev {INTERFACE}", lan.a.name()));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), neighbours).expect("written");
    run(&format!("ip -n {} -batch {}", lan.a.name(), file.path().display()));
    in_a(&lan, async || {
        let (netlink, _events) = open(&[INTERFACE]).await;
        let backends: BTreeSet<IpAddr> = expected.keys().copied().collect();
        let start = Instant::now();
        let found = netlink.next_hops(&backends).await.expect("next hops");
        let took = start.elapsed();
        println!("{} next hops in {took:?}", backends.len());
        assert_eq!(found.by_backend, expected);
        assert!(took < Duration::from_secs(2), "{took:?}");
    });
}

#[test]
fn vips_come_and_go_and_are_never_a_source() {
    let lan = two_wires();
    let name = lan.a.name();
    let (v4, v6) = ((VIP.into(), 24), (VIP6.into(), 64));
    let routes = || stdout(&format!("ip -n {name} route")) + &stdout(&format!("ip -n {name} -6 route"));
    let before = routes();
    in_a(&lan, async || {
        let (netlink, mut events) = open(&[INTERFACE, "eth1"]).await;
        let own = BTreeSet::from([(A.into(), 24), (A6.into(), 64)]);
        assert_eq!(netlink.addresses().await.expect("addresses"), own, "no link-local ones");
        for address in [v4, v6] {
            netlink.add_address(address).await.expect("added");
            expect(&mut events, NetlinkEvent::Address).await;
            netlink.add_address(address).await.expect("there already");
        }
        let mut with_vips = own.clone();
        with_vips.extend([v4, v6]);
        assert_eq!(netlink.addresses().await.expect("addresses"), with_vips);
        // Usable at once.
        let shown = stdout(&format!("ip -n {name} -6 addr show dev {INTERFACE} to {VIP6}"));
        assert!(shown.contains("nodad") && shown.contains("noprefixroute"), "{shown}");
        assert!(!shown.contains("tentative"), "{shown}");
        let socket = std::net::TcpListener::bind((VIP6, 0));
        socket.expect("an address that can be used");
        assert_eq!(routes(), before, "no routes of their own");
        // Of two equals the kernel takes the later one; the VIP is not its equal.
        let source = stdout(&format!("ip -n {name} route get fd00::11"));
        assert!(source.contains(&format!("src {A6} ")), "{source}");

        let links = netlink.links().await.expect("links");
        let vips = BTreeSet::from([VIP.into(), VIP6.into()]);
        assert_eq!((links[0].v4(&vips), links[0].v6(&vips)), (Some(A), Some(A6)));
        assert_eq!(links[1].v6(&vips).map(IpAddr::V6), Some(ip("fd00:1::2")));

        for address in [v6, v4] {
            netlink.remove_address(address).await.expect("removed");
            netlink.remove_address(address).await.expect("gone already");
        }
        assert_eq!(netlink.addresses().await.expect("addresses"), own);

        let disable = format!("/proc/sys/net/ipv6/conf/{INTERFACE}/disable_ipv6");
        std::fs::write(&disable, "1").expect("a parameter");
        let error = netlink.add_address(v6).await.expect_err("no IPv6");
        assert!(error.to_string().contains("disable_ipv6"), "{error}");
    });
}

#[test]
fn links_are_listed_in_order_and_watched() {
    let lan = two_wires();
    let name = lan.a.name();
    in_a(&lan, async || {
        let (netlink, mut events) = open(&["eth1", INTERFACE]).await;
        let links = netlink.links().await.expect("links");
        assert!(links.iter().map(|link| link.index).eq(netlink.indices()));
        let names: Vec<_> =
            links.iter().map(|link| (link.name.as_str(), link.parent_name.as_str())).collect();
        assert_eq!(names, [("eth1", "eth1"), (INTERFACE, INTERFACE)]);
        for link in &links {
            assert!(link.up && link.running && link.tags.is_empty() && link.mtu == 1500, "{link:?}");
            assert_eq!((link.parent, link.mac), (link.index, Some(mac_of(name, &link.name))));
        }

        run(&format!("ip -n {name} route add fd00:5::/64 via fd00::3"));
        expect(&mut events, NetlinkEvent::Route).await;
        run(&format!("ip -n {name} -6 rule add to fd00:5::/64 table 5"));
        expect(&mut events, NetlinkEvent::Route).await;
        run(&format!("ip -n {name} addr add fd00::22/64 dev {INTERFACE}"));
        expect(&mut events, NetlinkEvent::Address).await;
        run(&format!("ip -n {name} neigh replace fd00::33 lladdr 02:00:00:00:00:33 dev {INTERFACE}"));
        expect(&mut events, NetlinkEvent::Neighbour(ip("fd00::33"))).await;
        run(&format!("ip -n {} link set eth1 down", lan.b.name()));
        expect(&mut events, NetlinkEvent::Link).await;
        let start = Instant::now();
        while netlink.links().await.expect("links")[0].running {
            assert!(start.elapsed() < GENEROUS, "no carrier is not seen");
        }

        run(&format!("ip -n {name} link del {INTERFACE}"));
        let gone = netlink.links().await.expect_err("an interface is gone");
        assert!(matches!(&gone, NetlinkError::NoInterface(name) if name == INTERFACE), "{gone}");
        while events.try_recv().is_ok() {}
        lan.connect();
        expect(&mut events, NetlinkEvent::Link).await;
        let links = netlink.links().await.expect("links");
        assert!(!links.iter().map(|link| link.index).eq(netlink.indices()), "made anew: {links:?}");
    });
}

#[test]
fn what_is_no_place_for_xdp_is_refused_with_a_reason() {
    let lan = two_wires();
    let name = lan.a.name();
    run(&format!("ip -n {name} link add mv0 link {INTERFACE} type macvlan mode bridge"));
    run(&format!("ip -n {name} link add vx0 type vxlan id 5 dev {INTERFACE} dstport 4789"));
    in_a(&lan, async || {
        for (interface, expected) in [
            ("mv0", "interface mv0: mv0 is of kind macvlan; supported are"),
            ("vx0", "interface vx0: vx0 is of kind vxlan; supported are"),
            ("eth9", "interface eth9 does not exist"),
        ] {
            let error = Netlink::open(&[INTERFACE.to_owned(), interface.to_owned()]).await;
            let error = error.expect_err("refused").to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    });
}

#[test]
fn a_virtual_mac_is_announced_and_taken_until_the_vip_goes() {
    let lan = two_wires();
    let (a, b) = (lan.a.name(), lan.b.name());
    let virtual_mac = [0x00, 0x00, 0x5e, 0x00, 0x02, 51];
    let text = "00:00:5e:00:02:33";
    // The addresses that the interface takes frames for.
    let taken = || stdout(&format!("bridge -n {a} fdb show dev {INTERFACE}")).contains(text);
    run(&format!("ip -n {b} neigh replace {VIP6} lladdr 02:00:00:00:00:99 nud reachable dev {INTERFACE}"));
    assert!(!taken());
    let announcer = lan.a.enter(|| Announcer::spawn(INTERFACE)).expect("a thread");
    announcer.announce(VIP6.into(), Some(virtual_mac));
    within(GENEROUS, "the neighbour knows", || {
        stdout(&format!("ip -n {b} -6 neigh show {VIP6} dev {INTERFACE}")).contains(text)
    });
    assert!(taken());
    announcer.stop(VIP6.into());
    within(GENEROUS, "the interface forgets", || !taken());
}

#[test]
fn an_ipv6_neighbour_follows_the_vip() {
    let lan = two_wires();
    let (a, b) = (lan.a.name(), lan.b.name());
    let entry = || stdout(&format!("ip -n {b} -6 neigh show {VIP6} dev {INTERFACE}"));
    run(&format!("ip -n {b} neigh replace {VIP6} lladdr 02:00:00:00:00:99 nud reachable dev {INTERFACE}"));
    let announcer = lan.a.enter(|| Announcer::spawn(INTERFACE)).expect("a thread");
    let ours = mac_of(a, INTERFACE);
    announcer.announce(VIP6.into(), None);
    let took = within(GENEROUS, "the neighbour knows", || {
        let text = entry();
        let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
        words.nth(1).is_some_and(|word| mac(word) == ours)
    });
    println!("after {took:?}: {}", entry());
    assert!(!entry().contains("router"), "a VIP is no router: {}", entry());
}
