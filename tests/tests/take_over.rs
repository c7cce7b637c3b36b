//! xvip takes the place of a running HAProxy on the same node: what HAProxy has goes on to its end, what is new is xvip's.
//! Needs root, for the network namespaces, and HAProxy and keepalived.
//!
//! Runner: threads 2

#[path = "take_over/talks.rs"]
mod talks;

use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use lb_tests::client_host::plain;
use lb_tests::incumbent::IncumbentNode;
use lb_tests::node::LbNode;
use lb_tests::topology::{Family, Lab};
use lb_tests::wait;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use talks::{SOON, Talk, Talks};

type TestResult = Result<(), Box<dyn Error>>;

/// A second address of the client's machine, which the node cannot answer for a while.
const UNREACHED: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 201);
/// Nobody's Ethernet address.
const NOBODY: &str = "02:00:00:00:99:99";
/// From keepalived to xvip: `Active_Down_Interval`, and what TCP waits for until it sends again.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(10);
/// Connections that are in their handshake when xvip comes.
const OPENING: usize = 10;

/// A node whose HAProxy serves in both families, and whose keepalived has the VIP; xvip's daemon does not run. The VIP of
/// IPv6 has been put there by hand.
fn incumbent() -> Result<(Lab, IncumbentNode), Box<dyn Error>> {
    let lab = Lab::builder().lbs(1).families(&Family::BOTH).build()?;
    let mut node = IncumbentNode::beside(&lab, 0, &Family::BOTH)?;
    node.start()?;
    wait::until("keepalived to have the VIP", SOON, || node.holds_vip())?;
    let vip6 = plain(Family::V6).ip();
    node.machine().ip(&format!("address add {vip6}/64 dev eth0 nodad"))?;
    lab.lb(0).configure(|config| {
        config.small_tables();
        config.services = Family::BOTH.map(|family| lab.plain_service(family)).to_vec();
    })?;
    Ok((lab, node))
}

/// Starts xvip and waits until it forwards.
fn start(lab: &Lab) -> TestResult {
    let lb = lab.lb(0);
    lb.start()?;
    let backends = lab.masters().len();
    wait::until("all backends to be up", SOON, || {
        let status = lb.status().unwrap_or_default();
        status.services.len() == 2
            && status
                .services
                .iter()
                .all(|s| s.backends.iter().filter(|b| b.state == "up").count() == backends)
    })?;
    Ok(())
}

/// The sum over both services of a field of their status.
fn sum(lb: &LbNode, pointer: &str) -> Result<u64, Box<dyn Error>> {
    let status = lb.status()?.raw;
    let services = status["services"].as_array().ok_or("no services")?;
    Ok(services.iter().filter_map(|service| service.pointer(pointer)?.as_u64()).sum())
}

/// The clients of the established flows that `xvip flows` shows.
fn clients(lb: &LbNode) -> Result<Vec<SocketAddr>, Box<dyn Error>> {
    let output = lb.machine().output(&mut lb.tool(&["flows", "--json"]))?;
    let flows: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let established = flows.iter().filter(|flow| flow["state"] == "established");
    Ok(established.filter_map(|flow| flow["client"].as_str()?.parse().ok()).collect())
}

/// Sends SYNs to a HAProxy that cannot be heard: its SYN-ACKs go to an Ethernet address that nobody has.
fn begin_handshakes(lab: &Lab, node: &IncumbentNode) -> Result<Vec<Socket>, Box<dyn Error>> {
    lab.client().ip(&format!("address add {UNREACHED}/32 dev eth0"))?;
    node.machine().ip(&format!("neighbour replace {UNREACHED} lladdr {NOBODY} dev eth0 nud permanent"))?;
    let connect = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((UNREACHED, 0)).into())?;
        socket.set_nonblocking(true)?;
        match socket.connect(&plain(Family::V4).into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            Ok(()) => Err(io::Error::other("connected at once")),
            Err(error) => Err(error),
        }
    };
    let sockets = lab.client().run(|| (0..OPENING).map(|_| connect()).collect::<io::Result<Vec<_>>>())??;
    wait::until("HAProxy's node to have answered each SYN", SOON, || {
        half_open(node).is_ok_and(|count| count == OPENING)
    })?;
    Ok(sockets)
}

/// How many connections the node is in the middle of the handshake of.
fn half_open(node: &IncumbentNode) -> Result<usize, Box<dyn Error>> {
    let mut ss = std::process::Command::new("ss");
    ss.args(["-Htn", "state", "syn-recv"]);
    let output = node.machine().output(&mut ss)?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().count())
}

/// The node can answer again; and each of these is open in the end.
fn complete(lab: &Lab, node: &IncumbentNode, sockets: Vec<Socket>) -> Result<Vec<Talk>, Box<dyn Error>> {
    let mac = lab.client().run(|| std::fs::read_to_string("/sys/class/net/eth0/address"))??;
    let mac = mac.trim();
    node.machine().ip(&format!("neighbour replace {UNREACHED} lladdr {mac} dev eth0 nud permanent"))?;
    wait::until("the handshakes to be over", SOON, || sockets.iter().all(|s| s.peer_addr().is_ok()))?;
    let talk = |socket: Socket| -> io::Result<Talk> {
        socket.set_nonblocking(false)?;
        Talk::over(TcpStream::from(socket))
    };
    Ok(sockets.into_iter().map(talk).collect::<io::Result<Vec<_>>>()?)
}

#[test]
fn what_haproxy_has_goes_on_and_what_is_new_is_xvips() -> TestResult {
    let (lab, mut node) = incumbent()?;
    let lb = lab.lb(0);
    // The packets come here whoever has the address: keepalived keeps it.
    lb.configure(|config| config.vrrp.clear())?;
    let both = Family::BOTH.map(plain);
    let old = Talks::open(&lab, 100, &both)?;
    old.go_on()?;
    let opening = begin_handshakes(&lab, &node)?;

    start(&lab)?;
    old.go_on()?;
    let completed = Talks::among(complete(&lab, &node, opening)?);
    completed.go_on()?;
    let of_haproxy = node.sessions("plain")?;
    assert!(of_haproxy >= 100 + OPENING as u64, "HAProxy has had {of_haproxy} connections");
    assert_eq!(clients(lb)?, [], "none of them is xvip's");

    let new = Talks::open(&lab, 100, &both)?;
    new.go_on()?;
    let flows = clients(lb)?;
    assert_eq!(flows.len(), 100, "{flows:?}");
    assert_eq!(flows.iter().filter(|client| client.is_ipv6()).count(), 50, "{flows:?}");
    assert_eq!(node.sessions("plain")?, of_haproxy, "no new one was HAProxy's");
    let status = lb.status()?;
    println!("packets left to the host's sockets: {}", status.packets.passed["host-socket"]);
    assert!(status.packets.passed["host-socket"] > 1000, "{:?}", status.packets);
    assert_eq!(status.packets.transmitted["reset-unknown-flow"], 0, "{:?}", status.packets);
    wait::until("the status to tell of HAProxy's connections", SOON, || {
        sum(lb, "/host_connections").is_ok_and(|count| count == 100 + OPENING as u64)
    })?;

    // The old ones end by and by.
    println!(
        "longest round beside the new ones: {:?} of those open before, {:?} of those in the handshake",
        old.finish()?,
        completed.finish()?
    );
    wait::until("the status to tell that none is left", SOON, || {
        sum(lb, "/host_connections").is_ok_and(|count| count == 0)
    })?;
    let passed = lb.status()?.packets.passed["host-socket"];
    new.go_on()?;
    assert_eq!(lb.status()?.packets.passed["host-socket"], passed, "what is xvip's never meets the host");
    node.stop_haproxy()?;
    new.go_on()?;
    let newer = Talks::open(&lab, 20, &both)?;
    newer.go_on()?;
    println!("longest round without HAProxy: {:?}, {:?}", new.finish()?, newer.finish()?);
    assert!(node.holds_vip(), "keepalived's address");
    Ok(())
}

#[test]
fn with_the_vip_taken_over_too_every_connection_survives() -> TestResult {
    let (lab, mut node) = incumbent()?;
    let lb = lab.lb(0);
    let both = Family::BOTH.map(plain);
    let old = Talks::open(&lab, 20, &both)?;
    old.go_on()?;
    let instances = lb.config().vrrp;
    lb.configure(|config| config.vrrp.clear())?;
    start(&lab)?;
    let of_haproxy = node.sessions("plain")?;
    let new = Talks::open(&lab, 20, &both)?;
    new.go_on()?;

    // keepalived takes the address off; until xvip has it, packets find nobody, and come again.
    node.stop_keepalived()?;
    node.machine().ip(&format!("address delete {}/64 dev eth0", both[1].ip()))?;
    lb.configure(|config| config.vrrp = instances)?;
    let reloaded = lb.xvip(&["reload"])?;
    assert!(reloaded.status.success(), "{reloaded:?}");
    lab.wait_owner(Some("lb1"), SOON)?;
    assert!(both.iter().all(|vip| lb.holds(vip.ip())));
    old.go_on()?;
    new.go_on()?;
    let newer = Talks::open(&lab, 20, &both)?;
    newer.go_on()?;
    assert_eq!((clients(lb)?.len(), node.sessions("plain")?), (40, of_haproxy));
    let longest = [old.finish()?, new.finish()?];
    println!("longest round while the VIP changed hands: {longest:?} (HAProxy's, xvip's)");
    assert!(longest.iter().all(|longest| *longest < HAND_OVER_LIMIT), "{longest:?}");
    node.stop_haproxy()?;
    newer.finish()?;
    Ok(())
}
