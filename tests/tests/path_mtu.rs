//! What a network engineer tries first: a path that carries less than its ends believe, `ping`, `traceroute`. A node
//! passes on what routers say about its flows, and says itself what only it can know. Needs root, for the network
//! namespaces.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::capture::Capture;
use lb_tests::master::Master;
use lb_tests::netns::Netns;
use lb_tests::network::NARROW_MTU;
use lb_tests::node::{LbNode, NodeConfig};
use lb_tests::ping::{self, Ping, ping};
use lb_tests::plain::Direction;
use lb_tests::syn::{Answer, syn};
use lb_tests::topology::{API_PORT, Family, Lab, LabBuilder, Mode};
use lb_tests::traffic::{drops, one_way, start, transmitted};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

const BYTES: u64 = 10_000_000;
/// What a sender of fragments may have on its way, in bytes with all that the kernel counts: some 40 packets, or 80
/// fragments. A veth's ring has 256 places, and a machine that is busy may leave all of that there for a while. From a ring
/// that overflows frames are lost, and of a packet whose first fragment is lost the node has to drop the others.
const ON_ITS_WAY: &str = "4096 16384 65536";
const SOON: Duration = Duration::from_secs(60);

/// What a machine knows of the way to an address, in bytes; its interface's own where it has learned nothing.
fn learned_mtu(machine: &Netns, to: IpAddr) -> Result<u32, Box<dyn Error>> {
    let route = machine.output(std::process::Command::new("ip").args(["route", "get", &to.to_string()]))?;
    let text = String::from_utf8_lossy(&route.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    Ok(words.next().map_or(Ok(1500), str::parse)?)
}

/// Makes both ends forget what they know of their ways to others.
fn forget(lab: &Lab) -> TestResult {
    for machine in lab.masters().iter().map(Master::machine).chain([lab.client()]) {
        machine.ip("route flush cache")?;
        machine.ip("-6 route flush cache")?;
    }
    Ok(())
}

/// How often lb1 sent on an error to a backend, to a client, and said "too big" itself.
fn errors(lab: &Lab) -> Result<[u64; 3], Box<dyn Error>> {
    let status = lab.lb(0).status()?;
    let count = |reason| transmitted(&status, reason);
    Ok([count("icmp-to-backend")?, count("icmp-to-client")?, count("packet-too-big")?])
}

/// Bulk data both ways; which of the three kinds of errors (see [`errors`]) that took. What the client knows then.
fn passes(builder: LabBuilder, mode: Mode, expected: [bool; 3], mtu: impl Fn(Family) -> u32) -> TestResult {
    passes_with(builder, mode, |_| (), expected, mtu)
}

/// The same with a changed configuration.
fn passes_with(
    builder: LabBuilder,
    mode: Mode,
    change: impl FnMut(&mut NodeConfig),
    expected: [bool; 3],
    mtu: impl Fn(Family) -> u32,
) -> TestResult {
    let lab = start(builder.lbs(1).mode(mode), &Family::BOTH, change)?;
    // It sees what the node receives and what it sends.
    let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
    for family in Family::BOTH {
        let before = errors(&lab)?;
        // Each direction from nothing: who has learned the path's MTU asks for smaller packets from the other end, too.
        forget(&lab)?;
        one_way(&lab, family, Direction::Download, BYTES)?;
        forget(&lab)?;
        one_way(&lab, family, Direction::Upload, BYTES)?;
        let after = errors(&lab)?;
        let counts = [0, 1, 2].map(|index| after[index] - before[index]);
        let known = learned_mtu(lab.client(), family.vip())?;
        println!("{mode:?} {family:?}: to backend, to client, too big: {counts:?}; the client knows {known}");
        assert_eq!(counts.map(|count| count > 0), expected, "{counts:?}");
        assert!(counts.iter().all(|count| *count < 100), "each end should learn it once: {counts:?}");
        assert_eq!(known, mtu(family));
    }
    assert_eq!(capture.check()?, []);
    assert_eq!(drops(&lab.lb(0).status()?), BTreeMap::new());
    Ok(())
}

/// What a tunnel's header takes.
fn header(family: Family) -> u32 {
    if family == Family::V4 { 20 } else { 40 }
}

#[test]
fn nat_to_clients_behind_a_narrow_link() -> TestResult {
    passes(Lab::builder().narrow_clients(), Mode::Nat, [true, false, false], |_| NARROW_MTU.into())
}

#[test]
fn dsr_l2_to_clients_behind_a_narrow_link() -> TestResult {
    passes(Lab::builder().narrow_clients(), Mode::DsrL2, [true, false, false], |_| NARROW_MTU.into())
}

#[test]
fn dsr_ipip_to_clients_behind_a_narrow_link() -> TestResult {
    passes(Lab::builder().narrow_clients(), Mode::DsrIpip, [true, false, false], |_| NARROW_MTU.into())
}

#[test]
fn nat_to_backends_behind_a_narrow_link() -> TestResult {
    passes(Lab::builder().narrow_masters(), Mode::Nat, [false, true, false], |_| NARROW_MTU.into())
}

#[test]
fn dsr_ipip_to_backends_behind_a_narrow_link() -> TestResult {
    let mtu = |family| u32::from(NARROW_MTU) - header(family);
    passes(Lab::builder().narrow_masters(), Mode::DsrIpip, [true, false, true], mtu)
}

#[test]
fn a_tunnel_takes_its_header_from_the_clients_packets() -> TestResult {
    passes(Lab::builder(), Mode::DsrIpip, [false, false, true], |family| 1500 - header(family))
}

#[test]
fn nat_from_the_nodes_own_address_to_backends_behind_a_narrow_link() -> TestResult {
    let change = |config: &mut NodeConfig| {
        config.services.iter_mut().for_each(|service| service.snat = Some("node".to_owned()));
    };
    let expected = [false, true, false];
    passes_with(Lab::builder().narrow_masters(), Mode::Nat, change, expected, |_| NARROW_MTU.into())
}

/// Lets one end send what routers may break into fragments, and the other receive it by way of a narrow link.
fn fragments_arrive(builder: LabBuilder, mode: Mode, direction: Direction) -> TestResult {
    let lab = start(builder.lbs(1).mode(mode), &[Family::V4], |_| ())?;
    let sender = |machine: &Netns| {
        machine.sysctl("net/ipv4/ip_no_pmtu_disc", "1")?;
        machine.sysctl("net/ipv4/tcp_wmem", ON_ITS_WAY)
    };
    match direction {
        Direction::Upload => sender(lab.client())?,
        Direction::Download => {
            // Their listening sockets know from when they were made.
            let up = || lab.lb(0).status().map_or(0, |status| status.service_up("plain"));
            for master in lab.masters() {
                master.kill();
                sender(master.machine())?;
            }
            wait::until("no server to be up", SOON, || up() == 0)?;
            lab.masters().iter().try_for_each(Master::start)?;
            wait::until("all servers to be up", SOON, || up() == 3)?;
        }
    }
    let capture = Capture::start(&lab, lab.switch(), "p-lb1", "")?;
    one_way(&lab, Family::V4, direction, BYTES)?;
    let captured = capture.stop()?;
    assert_eq!(captured.bad_frames()?, []);
    let count = |filter: &str| captured.ask(filter, &["frame.number"]).map(|lines| lines.len());
    let (lb, late) = ("eth.src == 02:00:ac:10:00:02", "ip.frag_offset > 0");
    let (arrived, left) = (count(&format!("{late} && !({lb})"))?, count(&format!("{late} && {lb}"))?);
    println!("{mode:?} {direction:?}: {arrived} fragments without a header arrived at lb1, {left} left");
    assert!(arrived > 1000, "nothing was broken up");
    assert_eq!(drops(&lab.lb(0).status()?), BTreeMap::new(), "{left} of {arrived} left");
    // Some the capture itself may have missed.
    let missed = usize::try_from(captured.lost)?;
    assert!(left <= arrived + missed && arrived <= left + missed, "{left} of {arrived}, {missed} missed");
    Ok(())
}

#[test]
fn fragments_follow_the_first_one_to_the_backend() -> TestResult {
    for mode in Mode::ALL {
        fragments_arrive(Lab::builder().narrow_clients(), mode, Direction::Upload)?;
    }
    Ok(())
}

#[test]
fn fragments_follow_the_first_one_to_the_client() -> TestResult {
    fragments_arrive(Lab::builder().narrow_masters(), Mode::Nat, Direction::Download)
}

/// Who answers a SYN to the API at the VIP for each TTL from 1, until it arrives.
fn trace(lab: &Lab, family: Family) -> Result<Vec<Answer>, Box<dyn Error>> {
    let to = SocketAddr::new(family.vip(), API_PORT);
    let mut answers = Vec::new();
    for ttl in 1..=8 {
        answers.push(syn(lab.client(), to, ttl, SOON)?);
        if answers.last() == Some(&Answer::Connected) {
            break;
        }
    }
    Ok(answers)
}

/// Which machine an answer is from.
fn hop(lab: &Lab, answer: &Answer) -> String {
    let Answer::Expired { from } = answer else { return format!("{answer:?}") };
    let routers = ["c-far", "c-near", "m-near", "m-far"].into_iter().filter_map(|name| lab.router(name).ok());
    routers
        .chain(lab.lbs().iter().map(LbNode::machine))
        .find(|machine| machine.addresses().is_ok_and(|addresses| addresses.contains(from)))
        .map_or_else(|| from.to_string(), |machine| machine.name().to_owned())
}

/// `ping` and `traceroute` from the client, with the names of the machines that the latter should show.
fn is_found(builder: LabBuilder, mode: Mode, hops: &[&str]) -> TestResult {
    let lab = start(builder.lbs(1).mode(mode), &Family::BOTH, |_| ())?;
    let capture = Capture::start(&lab, lab.client(), "eth0", "")?;
    for family in Family::BOTH {
        let vip = family.vip();
        let answers = trace(&lab, family)?;
        println!("{mode:?} {family:?}: {answers:?}");
        assert_eq!(answers.iter().map(|answer| hop(&lab, answer)).collect::<Vec<_>>(), hops);
        // The node's own address, not the VIP: who traces wants to know which node it was.
        let own = lab.lb(0).address_of(family);
        assert!(answers.contains(&Answer::Expired { from: own }), "{answers:?}");
        let headers = if family == Family::V4 { 28 } else { 48 };
        for payload in [56, 1300] {
            let echo = Ping { size: headers + payload, ..Ping::default() };
            assert_eq!(ping(lab.client(), vip, &echo)?, ping::Answer::Reply { from: vip }, "{payload}");
        }
    }
    assert_eq!(capture.check()?, []);
    Ok(())
}

#[test]
fn nat_is_pinged_and_traced() -> TestResult {
    is_found(Lab::builder(), Mode::Nat, &["lb1", "Connected"])
}

#[test]
fn dsr_l2_is_pinged_and_traced() -> TestResult {
    is_found(Lab::builder(), Mode::DsrL2, &["lb1", "Connected"])
}

#[test]
fn dsr_ipip_is_pinged_and_traced() -> TestResult {
    is_found(Lab::builder(), Mode::DsrIpip, &["lb1", "Connected"])
}

#[test]
fn routers_on_both_sides_are_seen_in_nat_mode() -> TestResult {
    let builder = Lab::builder().narrow_clients().narrow_masters();
    is_found(builder, Mode::Nat, &["c-far", "c-near", "lb1", "m-near", "m-far", "Connected"])
}

#[test]
fn a_tunnel_is_one_hop() -> TestResult {
    let builder = Lab::builder().narrow_clients().narrow_masters();
    is_found(builder, Mode::DsrIpip, &["c-far", "c-near", "lb1", "Connected"])
}
