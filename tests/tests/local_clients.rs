//! Clients on the LB nodes themselves: their connects to the VIP go straight to a backend, on whichever node they are,
//! and everybody else's do not. Needs root, for the network namespaces.
//!
//! Runner: threads 2

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb_tests::measure::ClientProcess;
use lb_tests::netns::Netns;
use lb_tests::node::{LbNode, NodeConfig, Status};
use lb_tests::topology::{API_PORT, Family, Lab, Load, VIP, VIP6};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// Hooks of a dead daemon on a node without the VIP do nothing more after that: a lease of 3 s at most, and 10 s.
const STALE: Duration = Duration::from_secs(14);

/// Two nodes; `lb1` has the VIP.
fn running_lab(change: impl Fn(&mut NodeConfig)) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().build()?;
    for lb in lab.lbs() {
        lb.configure(&change)?;
    }
    start(&lab)?;
    Ok(lab)
}

fn start(lab: &Lab) -> TestResult {
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

/// A number of `status` about connects on the node itself, by service.
fn counted(status: &Status, service: usize, what: &str) -> u64 {
    status.raw["services"][service]["local_clients"][what]
        .as_u64()
        .expect("status counts connects on the node")
}

fn redirected(lb: &LbNode) -> Result<u64, Box<dyn Error>> {
    counted_as(lb, "redirected")
}

fn counted_as(lb: &LbNode, outcome: &str) -> Result<u64, Box<dyn Error>> {
    Ok(counted(&lb.status()?, 0, outcome))
}

/// Packets to backends that XDP on this node has sent.
fn forwarded(lb: &LbNode) -> Result<u64, Box<dyn Error>> {
    Ok(lb.status()?.packets.transmitted.get("to-backend").copied().unwrap_or(0))
}

/// So many new connections from a machine to the VIP.
fn ask(lab: &Lab, machine: &Netns, count: u64) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let load = many(lab, machine, Some(count))?;
    load.wait_done(Duration::from_secs(60))?;
    if let Some(why) = load.read(|tally| tally.last_failure().map(|(_, why)| why.to_owned())) {
        return Err(format!("{} of {count} requests failed, the last with: {why}", load.failed(0)).into());
    }
    Ok(load.by_server(0))
}

/// So many, or without an end.
fn many(lab: &Lab, machine: &Netns, count: Option<u64>) -> Result<ClientProcess, Box<dyn Error>> {
    let interval = Duration::from_millis(5);
    Ok(lab.on(machine).load(&Load { interval, count, in_flight: 32, ..Load::default() })?)
}

/// One TCP connection from a machine: both ends, as the client's process sees them.
fn connect(machine: &Netns, to: SocketAddr) -> Result<io::Result<(SocketAddr, SocketAddr)>, Box<dyn Error>> {
    Ok(machine.run(|| {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        Ok((stream.local_addr()?, stream.peer_addr()?))
    })?)
}

fn vip() -> SocketAddr {
    SocketAddr::new(VIP.into(), API_PORT)
}

/// The names of the hooks' pins, as the node's machine has them.
fn hooks(lb: &LbNode) -> Result<Vec<String>, Box<dyn Error>> {
    let listed = lb.machine().output(Command::new("find").args(["/sys/fs/bpf", "-name", "local-*"]))?;
    assert!(listed.status.success(), "{listed:?}");
    let name = |line: &str| Path::new(line).file_name().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = String::from_utf8(listed.stdout)?.lines().filter_map(name).collect();
    names.sort();
    Ok(names)
}

const HOOKS: [&str; 4] = ["local-connect4", "local-connect6", "local-getpeername4", "local-getpeername6"];

fn reload(lb: &LbNode, local_clients: &str) -> TestResult {
    lb.configure(|config| config.local_clients = Some(local_clients.to_owned()))?;
    let output = lb.xvip(&["reload"])?;
    assert!(output.status.success(), "{output:?}");
    Ok(())
}

#[test]
fn on_either_node_connects_are_shared_by_the_backends_that_live() -> TestResult {
    let lab = running_lab(|_| ())?;
    let before = forwarded(lab.lb(0))?;
    for lb in lab.lbs() {
        assert_eq!(hooks(lb)?, HOOKS);
        let begin = redirected(lb)?;
        let servers = ask(&lab, lb.machine(), 300)?;
        println!("{}: {servers:?}", lb.name());
        assert_eq!(servers.len(), 3, "{servers:?}");
        // A third, give or take five standard deviations.
        assert!(servers.values().all(|count| (60..=141).contains(count)), "{servers:?}");
        assert_eq!(redirected(lb)? - begin, 300);
    }
    assert_eq!(forwarded(lab.lb(0))?, before, "a connect went over the wire to the owner of the VIP");

    lab.master(0).kill();
    for lb in lab.lbs() {
        wait::until("master1 to be down", SOON, || {
            lb.status().is_ok_and(|status| status.backend("master1").is_some_and(|b| b.state == "down"))
        })?;
        let servers = ask(&lab, lb.machine(), 100)?;
        assert_eq!(servers.keys().collect::<Vec<_>>(), ["master2", "master3"]);
    }

    lab.master(1).kill();
    lab.master(2).kill();
    for lb in lab.lbs() {
        wait::until("all backends to be down", SOON, || {
            lb.status().is_ok_and(|status| status.service_up("kube-apiserver") == 0)
        })?;
        let refused = connect(lb.machine(), vip())?.expect_err("no backend lives");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused, "{}: {refused}", lb.name());
        assert!(counted(&lb.status()?, 0, "no_backend") >= 1);
    }
    Ok(())
}

#[test]
fn a_client_sees_the_vip_as_its_peer_whatever_kind_of_socket_it_has() -> TestResult {
    let lab = Lab::builder().families(&[Family::V4, Family::V6]).api_port(7443).build()?;
    start(&lab)?;
    let mapped = SocketAddr::new(VIP.to_ipv6_mapped().into(), API_PORT);
    let vip6 = SocketAddr::new(VIP6.into(), API_PORT);
    for lb in lab.lbs() {
        for (to, service, family) in [(vip(), 0, Family::V4), (mapped, 0, Family::V4), (vip6, 1, Family::V6)]
        {
            let before = counted(&lb.status()?, service, "redirected");
            let (own, peer) =
                connect(lb.machine(), to)?.map_err(|why| format!("{}: {to}: {why}", lb.name()))?;
            assert_eq!(peer, to);
            assert_eq!(own.ip().to_canonical(), lb.address_of(family), "never from the VIP");
            assert_eq!(counted(&lb.status()?, service, "redirected"), before + 1, "{}: {to}", lb.name());
        }
    }

    // The owner has the VIP itself: what is not redirected meets the host, where nobody listens.
    let lb = lab.lb(0);
    let before = redirected(lb)?;
    let other_port = SocketAddr::new(VIP.into(), API_PORT + 1);
    let refused = connect(lb.machine(), other_port)?.expect_err("another port is none of ours");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let udp = lb.machine().run(|| -> io::Result<SocketAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(vip())?;
        socket.peer_addr()
    })??;
    assert_eq!(udp, vip(), "UDP is left alone");
    // A direct connection to a backend is what it says.
    let direct = lab.master(0).socket_address();
    assert_eq!(connect(lb.machine(), direct)??.1, direct);
    assert_eq!(redirected(lb)?, before);
    Ok(())
}

#[test]
fn pods_and_other_machines_are_served_when_all_are_and_nobody_when_off() -> TestResult {
    // The client's machine shares the cgroups with the nodes', as a pod does, but not the network namespace.
    let lab = running_lab(|_| ())?;
    let (owner, standby) = (lab.lb(0), lab.lb(1));
    let ours = |lb: &LbNode| redirected(lb);
    let (before, sent) = (ours(owner)?, forwarded(owner)?);
    ask(&lab, lab.client(), 20)?;
    assert_eq!(ours(owner)?, before, "the client is in another network namespace");
    assert!(forwarded(owner)? >= sent + 20 * 4, "its packets go through XDP");
    assert!(counted(&owner.status()?, 0, "other_namespace") >= 20);

    reload(owner, "all")?;
    let sent = forwarded(owner)?;
    ask(&lab, lab.client(), 20)?;
    assert_eq!(ours(owner)? - before, 20);
    assert_eq!(forwarded(owner)?, sent, "nothing of it came over the wire");

    for lb in lab.lbs() {
        reload(lb, "off")?;
        assert!(hooks(lb)?.is_empty(), "{:?}", hooks(lb)?);
    }
    let (before, sent) = (ours(owner)?, forwarded(owner)?);
    let refused = connect(owner.machine(), vip())?.expect_err("the VIP is the owner's own address");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let servers = ask(&lab, standby.machine(), 60)?;
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert!(forwarded(owner)? >= sent + 60 * 4, "the standby's clients reach the VIP over the wire");
    assert_eq!(ours(owner)?, before);

    reload(standby, "host")?;
    assert_eq!(hooks(standby)?, HOOKS);
    let before = redirected(standby)?;
    ask(&lab, standby.machine(), 20)?;
    assert_eq!(redirected(standby)? - before, 20);
    Ok(())
}

#[test]
fn no_connect_fails_while_the_daemon_is_killed_and_started_again_and_cleanup_takes_the_hooks_away()
-> TestResult {
    let lab = running_lab(|_| ())?;
    let lb = lab.lb(1);
    let load = many(&lab, lb.machine(), None)?;
    load.wait_answered(0, 100, SOON)?;
    for _ in 0..2 {
        lb.kill();
        assert_eq!(hooks(lb)?, HOOKS);
        load.wait_answered(load.mark(), 50, SOON)?;
        lb.start()?;
        load.wait_answered(load.mark(), 50, SOON)?;
    }
    let (answered, counted) = (load.answered(0), redirected(lb)?);
    assert_eq!(load.failures(0), BTreeMap::new());
    drop(load);
    println!("{answered} answers");
    assert_eq!(hooks(lb)?, HOOKS);
    // On a busy machine a start can take longer than the hooks trust a dead daemon's tables; then they say so.
    let late = counted_as(lb, "stale")?;
    assert!(
        counted + late >= answered as u64,
        "some went over the wire: {counted} of {answered} were redirected, and {late} too late for that"
    );

    lb.stop()?;
    let sent = forwarded(lab.lb(0))?;
    let output = lb.xvip(&["cleanup", "--config", &lb.config_path().to_string_lossy()])?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("local-connect4"), "{output:?}");
    assert!(hooks(lb)?.is_empty());
    ask(&lab, lb.machine(), 20)?;
    assert!(forwarded(lab.lb(0))? >= sent + 20 * 4, "they go to the VIP now, over the wire");
    Ok(())
}

#[test]
fn long_after_its_daemon_died_a_standby_asks_the_vip_s_owner() -> TestResult {
    let lab = running_lab(|_| ())?;
    let (owner, standby) = (lab.lb(0), lab.lb(1));
    standby.kill();
    let died = Instant::now();
    let sent = forwarded(owner)?;
    ask(&lab, standby.machine(), 20)?;
    assert!(died.elapsed() < Duration::from_secs(9), "the machine is too busy for this test");
    assert_eq!(forwarded(owner)?, sent, "the hooks outlive the daemon for a while");
    // The backends change without its knowing.
    lab.master(0).kill();
    sleep(STALE.saturating_sub(died.elapsed()));
    let servers = ask(&lab, standby.machine(), 60)?;
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["master2", "master3"]);
    assert!(forwarded(owner)? >= sent + 60 * 4, "over the wire");
    Ok(())
}

#[test]
fn long_after_its_daemon_died_a_node_that_still_has_the_vip_goes_on_by_itself() -> TestResult {
    let lab = running_lab(|_| ())?;
    let (dead, heir) = (lab.lb(0), lab.lb(1));
    dead.kill();
    sleep(STALE);
    assert!(dead.holds_vip(), "nobody took it off");
    lab.wait_owner(Some("lb2"), SOON)?;
    let sent = forwarded(heir)?;
    let servers = ask(&lab, dead.machine(), 60)?;
    assert_eq!(servers.len(), 3, "{servers:?}");
    assert_eq!(forwarded(heir)?, sent);
    Ok(())
}

#[test]
fn without_cgroup2_a_node_says_so_and_serves_everybody_else() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let lb = lab.lb(0);
    let cgroups = |program: &str, words: &[&str]| -> TestResult {
        let output = lb.machine().output(Command::new(program).args(words))?;
        assert!(output.status.success(), "{output:?}");
        Ok(())
    };
    cgroups("umount", &["/sys/fs/cgroup"])?;
    start(&lab)?;
    let problems = lb.status()?.raw["problems"].to_string();
    assert!(problems.contains("mount -t cgroup2 none /sys/fs/cgroup"), "{problems}");
    assert_eq!(lab.owner().map(LbNode::name), Some("lb1"));
    ask(&lab, lab.client(), 20)?;
    assert!(hooks(lb)?.is_empty());

    // As the service manager mounts it for a service that may not change it (`ProtectControlGroups`).
    cgroups(
        "sh",
        &["-c", "mount -t cgroup2 none /sys/fs/cgroup && mount -o remount,bind,ro /sys/fs/cgroup"],
    )?;
    wait::until("the hooks", SOON, || hooks(lb).is_ok_and(|names| names == HOOKS))?;
    wait::until("no problem", SOON, || {
        lb.status().is_ok_and(|status| status.raw["problems"] == serde_json::json!([]))
    })?;
    let own: IpAddr = connect(lb.machine(), vip())??.0.ip();
    assert_eq!(own, lb.address());
    Ok(())
}
