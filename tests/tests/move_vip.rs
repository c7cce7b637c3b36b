//! What survives when the VIPs move to the other LB node: with direct return every stream, since both nodes have the same
//! Maglev table. And that all VIPs of an instance move together. Needs root, for the network namespaces.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_tests::client_host::plain;
use lb_tests::master::Master;
use lb_tests::measure::ClientProcess;
use lb_tests::netns::Netns;
use lb_tests::node::{LbNode, ServiceConfig};
use lb_tests::plain::Direction;
use lb_tests::topology::{API_PORT, Bulk, Connections, Family, Lab, Mode, PLAIN_PORT};
use lb_tests::traffic::{ask, start, transmitted};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);
/// Some seconds' worth, so that the move happens in the middle of it.
const BYTES: u64 = 400_000_000;

/// How many packets the plain service's backends got by way of a node.
fn forwarded(lab: &Lab, lb: usize) -> Result<u64, Box<dyn Error>> {
    Ok(transmitted(&lab.lb(lb).status()?, "to-backend")?)
}

/// Lets data flow up and down in both families while `event` happens, after which lb2 owns the VIPs. All must arrive, and
/// some of it by way of lb2; and connections that are open and silent meanwhile must not end.
fn streams_survive(lab: &Lab, what: &str, event: impl FnOnce() -> TestResult) -> TestResult {
    let held = Connections { count: 50, ..Connections::default() };
    let idle: Vec<ClientProcess> = Family::BOTH
        .into_iter()
        .map(|family| lab.hold(&Connections { address: plain(family), ..held.clone() }))
        .collect::<Result<_, _>>()?;
    for client in &idle {
        client.wait_done(SOON)?;
        assert_eq!(client.held_by_server().values().sum::<usize>(), 50);
    }
    let begin = Instant::now();
    let mut streams = Vec::new();
    for family in Family::BOTH {
        for direction in [Direction::Upload, Direction::Download] {
            let bulk = Bulk { address: plain(family), direction, bytes: BYTES / 4, ..Bulk::default() };
            streams.push((family, direction, lab.on(lab.client()).start_bulk(&bulk)?));
        }
    }
    let before = forwarded(lab, 0)?;
    wait::until("data to flow", SOON, || forwarded(lab, 0).is_ok_and(|now| now > before + 5000))?;
    assert!(streams.iter().all(|(_, _, stream)| stream.read(|tally| tally.moved().is_empty())));
    let (moved_at, by_lb2) = (begin.elapsed(), forwarded(lab, 1)?);
    event()?;
    lab.wait_owner(Some("lb2"), SOON)?;
    for (family, direction, stream) in &streams {
        stream.wait_done(Duration::from_secs(90))?;
        let moved = stream.read(|tally| {
            let failure = tally.last_failure().map(|(_, why)| why.to_owned());
            tally.moved().first().cloned().ok_or_else(|| failure.unwrap_or_default())
        })?;
        assert!(moved.is_intact(), "{moved:?}");
        println!(
            "{what}, {family:?} {direction:?}: moved after {moved_at:.1?}, done after {:.1?}",
            moved.took
        );
    }
    let by_lb2 = forwarded(lab, 1)? - by_lb2;
    println!("{what}: {by_lb2} packets went by way of lb2");
    assert!(by_lb2 > 10_000, "what did lb2 do? only {by_lb2} packets went by way of it");
    for client in &idle {
        assert_eq!((client.breaks(0), client.held_by_server().values().sum::<usize>()), (0, 50));
    }
    Ok(())
}

fn survives(mode: Mode) -> TestResult {
    let lab = start(Lab::builder().mode(mode), &Family::BOTH, |_| ())?;
    lab.wait_owner(Some("lb1"), SOON)?;
    streams_survive(&lab, &format!("{mode:?}, stopped"), || {
        lab.lb(0).stop()?;
        Ok(())
    })?;
    lab.lb(0).start()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    streams_survive(&lab, &format!("{mode:?}, unplugged"), || Ok(lab.cut("lb1")?))?;
    lab.heal("lb1")?;
    lab.wait_owner(Some("lb1"), SOON)?;
    streams_survive(&lab, &format!("{mode:?}, killed"), || {
        // The kernel still has the addresses and the program: what reaches it goes on, until lb2 says that it has them.
        lab.lb(0).kill();
        Ok(())
    })
}

#[test]
fn streams_of_dsr_l2_survive() -> TestResult {
    survives(Mode::DsrL2)
}

#[test]
fn streams_of_dsr_ipip_survive() -> TestResult {
    survives(Mode::DsrIpip)
}

/// Makes machines send what is for the VIPs to that node, whatever it or another one says from now on.
fn send_to(machines: &[&Netns], lb: &LbNode) -> TestResult {
    let IpAddr::V4(address) = lb.address() else { return Err("an IPv4 address".into()) };
    let [a, b, c, d] = address.octets();
    let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
    for machine in machines {
        for family in Family::BOTH {
            machine.ip(&format!("neighbour replace {} lladdr {mac} nud permanent dev eth0", family.vip()))?;
        }
    }
    Ok(())
}

/// Connections to both VIPs, from beginning to end.
fn connect(lab: &Lab, what: &str) -> TestResult {
    for family in Family::BOTH {
        let address = plain(family);
        let asked = ask(lab, &Connections { address, count: 30, parallel: 30, ..Connections::default() });
        asked.map_err(|why| format!("{what}, {family:?}: {why}\n{}", lab.last_lines()))?;
    }
    Ok(())
}

/// How many packets a node has sent on to the other one.
fn sent_on(lab: &Lab, lb: usize) -> Result<u64, Box<dyn Error>> {
    Ok(transmitted(&lab.lb(lb).status()?, "to-other-node")?)
}

/// When the VIP moves, those on the link learn of it one after the other, and a handshake may be under way. Here they stay
/// where they are in between: the clients send to one node, the API servers to the other.
fn half_moved(virtual_mac: bool) -> TestResult {
    let lab = start(Lab::builder(), &Family::BOTH, |config| {
        if virtual_mac {
            config.vrrp[0].extra.push("virtual_mac = true".to_owned());
        }
    })?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let clients = [lab.client()];
    let servers: Vec<&Netns> = lab.masters().iter().map(Master::machine).collect();

    lab.lb(0).xvip(&["vip", "release"])?;
    lab.wait_owner(Some("lb2"), SOON)?;
    send_to(&clients, lab.lb(0))?;
    send_to(&servers, lab.lb(1))?;
    connect(&lab, "the API servers know of lb2")?;
    let by_lb2 = sent_on(&lab, 1)?;
    println!("lb2 has sent {by_lb2} packets on to lb1, which had the VIPs");
    assert!(by_lb2 >= 60, "{by_lb2}");

    send_to(&servers, lab.lb(0))?;
    send_to(&clients, lab.lb(1))?;
    lab.lb(0).xvip(&["vip", "acquire"])?;
    lab.wait_owner(Some("lb1"), SOON)?;
    connect(&lab, "the API servers know of lb1")?;
    let by_lb1 = sent_on(&lab, 0)?;
    println!("lb1 has sent {by_lb1} packets on to lb2, which had the VIPs");
    assert!(by_lb1 >= 60, "{by_lb1}");

    // The new owner has begun, and its backends do not know of it.
    let before = sent_on(&lab, 1)?;
    send_to(&clients, lab.lb(0))?;
    send_to(&servers, lab.lb(1))?;
    connect(&lab, "the clients know of lb1")?;
    let by_lb2 = sent_on(&lab, 1)? - before;
    println!("lb2 has sent {by_lb2} packets on to lb1, which has them now");
    assert!(by_lb2 >= 60, "{by_lb2}");

    // Nobody is there any more who could write the maps.
    send_to(&servers, lab.lb(0))?;
    lab.lb(0).kill();
    lab.wait_owner(Some("lb2"), SOON)?;
    send_to(&servers, lab.lb(1))?;
    connect(&lab, "lb1 is dead, the API servers know of lb2")?;
    send_to(&clients, lab.lb(1))?;
    connect(&lab, "everybody knows of lb2")
}

#[test]
fn handshakes_survive() -> TestResult {
    half_moved(false)
}

#[test]
fn handshakes_survive_with_a_virtual_mac() -> TestResult {
    half_moved(true)
}

#[test]
fn all_vips_of_an_instance_move_together() -> TestResult {
    let second = "172.16.0.11";
    let lab = start(Lab::builder(), &Family::BOTH, |config| {
        let first = config.services.iter().find(|service| service.name == "plain").cloned();
        config.services.extend(first.map(|first| ServiceConfig {
            name: "plain-too".to_owned(),
            vip: format!("{second}/24"),
            ..first
        }));
    })?;
    let vips: [IpAddr; 3] = [Family::V4.vip(), second.parse()?, Family::V6.vip()];
    let answers = |limit: Duration| -> TestResult {
        let end = Instant::now() + limit;
        for vip in vips {
            let address = (vip, PLAIN_PORT).into();
            while let Err(why) = ask(&lab, &Connections { address, count: 30, ..Connections::default() }) {
                assert!(Instant::now() < end, "{vip}: {why}");
            }
        }
        Ok(())
    };
    let owned = |node: usize| vips.map(|vip| lab.lb(node).holds(vip));
    let together = |heir: usize| -> TestResult {
        let begin = Instant::now();
        let (name, other) = (lab.lb(heir).name(), 1 - heir);
        wait::until(&format!("{name} to own all VIPs"), SOON, || owned(heir) == [true; 3])?;
        wait::until("the other one to own none", SOON, || owned(other) == [false; 3])?;
        println!("{name} has all three after {:.1?}", begin.elapsed());
        answers(SOON)
    };
    lab.wait_owner(Some("lb1"), SOON)?;
    together(0)?;
    let vrrp = lab.lb(0).status()?.raw["vrrp"].as_array().cloned().unwrap_or_default();
    assert_eq!(vrrp.len(), 1);
    println!("{}", vrrp[0]["vips"]);
    lab.lb(0).stop()?;
    together(1)?;
    lab.lb(0).start()?;
    together(0)?;
    // Each of four services has its own flows and backends.
    let services = lab.lb(0).status()?.services;
    let names: BTreeMap<&str, usize> = services.iter().map(|s| (s.name.as_str(), s.backends.len())).collect();
    let expected = ["kube-apiserver", "kube-apiserver6", "plain", "plain-too", "plain6"];
    assert_eq!(names, expected.into_iter().map(|name| (name, 3)).collect());
    for family in Family::BOTH {
        let readyz = lab.curl(&["--max-time", "10", &lab.vip_url_of(family, "/readyz")])?;
        assert_eq!(String::from_utf8_lossy(&readyz.stdout), "ok", "port {API_PORT}: {readyz:?}");
    }
    Ok(())
}
