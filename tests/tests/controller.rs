//! The controller against a real kernel: what it puts there, what it leaves alone, what it removes, and what it
//! refuses. Needs root, for the network namespaces.
//!
//! Runner: threads 2

use std::{
    error::Error,
    fs,
    process::{Command, Output},
    time::Duration,
};

use lb_tests::{
    node::LbNode,
    topology::Lab,
    wait,
    xdp_stub::{Action, XdpStub},
};
use nix::sys::signal::Signal;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
const VIP: &str = "172.16.0.10/24";

/// One LB node, not started, and some API servers.
fn lab(masters: u8) -> Lab {
    Lab::builder().lbs(1).masters(masters).multicast().build().expect("the lab comes up (it needs root)")
}

/// Starts the node and waits until it owns its VIP and knows all its backends.
fn start(lab: &Lab) -> TestResult {
    lab.start_lbs()?;
    Ok(())
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The IPv4 addresses of `eth0` with their prefix lengths, as `ip` shows them.
fn addresses(lb: &LbNode) -> Vec<String> {
    let shown = lb.machine().output(Command::new("ip").args(["-4", "-o", "address", "show", "dev", "eth0"]));
    let shown = out(&shown.expect("ip runs"));
    let mut found: Vec<String> =
        shown.lines().filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned)).collect();
    found.sort();
    found
}

fn wait_addresses(lb: &LbNode, wanted: &[&str]) -> TestResult {
    wait::until(&format!("the addresses {wanted:?}"), SOON, || addresses(lb) == wanted)
        .map_err(|timed_out| format!("{timed_out}; they are {:?}", addresses(lb)).into())
}

/// Whether an XDP program is attached to `eth0`, and which.
fn program(lb: &LbNode) -> Option<String> {
    let shown = lb.machine().output(Command::new("ip").args(["-d", "link", "show", "dev", "eth0"]));
    let shown = out(&shown.expect("ip runs"));
    shown.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned))
}

/// Waits until the node's only instance is in a state.
fn wait_state(lb: &LbNode, state: &str) -> TestResult {
    Ok(wait::until(state, SOON, || lb.status().is_ok_and(|status| status.vrrp_state() == state))?)
}

#[test]
fn the_vip_comes_once_without_a_route_and_goes_with_a_stop_while_xdp_stays() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    lb.machine().ip("address add 172.16.0.77/24 dev eth0")?;
    start(&lab)?;
    wait_addresses(lb, &[VIP, "172.16.0.2/24", "172.16.0.77/24"])?;
    let routes = lb.machine().output(Command::new("ip").args(["route", "show", "172.16.0.0/24"]))?;
    assert_eq!(out(&routes).lines().count(), 1, "the node's own route only: {}", out(&routes));

    let attached = program(lb).expect("XDP is attached");
    let (status, took) = lb.stop()?;
    assert!(status.success() && took < Duration::from_secs(2), "{status}, {took:?}");
    assert_eq!(addresses(lb), ["172.16.0.2/24", "172.16.0.77/24"]);
    assert_eq!(program(lb), Some(attached), "what still arrives is forwarded");
    assert!(!lb.socket_path().exists());
    Ok(())
}

#[test]
fn a_killed_predecessor_s_vip_is_removed_when_it_is_configured_no_more() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    lb.machine().ip("address add 172.16.0.77/24 dev eth0")?;
    start(&lab)?;
    lb.kill();
    assert_eq!(addresses(lb), [VIP, "172.16.0.2/24", "172.16.0.77/24"], "nobody takes it off");

    lb.configure(|config| config.services[0].vip = "172.16.0.11/32".to_owned())?;
    lb.start()?;
    wait_state(lb, "active")?;
    wait_addresses(lb, &["172.16.0.11/32", "172.16.0.2/24", "172.16.0.77/24"])?;
    let log = fs::read_to_string(lb.log())?;
    assert!(log.contains("adopted=true"), "no packet missed a program:\n{log}");
    Ok(())
}

#[test]
fn an_address_that_somebody_takes_away_comes_back() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    start(&lab)?;
    lb.machine().ip(&format!("address del {VIP} dev eth0"))?;
    wait_addresses(lb, &[VIP, "172.16.0.2/24"])
}

#[test]
fn a_foreign_address_that_the_kernel_drops_with_ours_comes_back() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    lb.machine().sysctl("net/ipv4/conf/all/promote_secondaries", "0")?;
    lb.machine().sysctl("net/ipv4/conf/eth0/promote_secondaries", "0")?;
    // A subnet that only the VIP is in: it is the primary address there, and the next one a secondary.
    lb.configure(|config| config.services[0].vip = "10.9.0.10/24".to_owned())?;
    lb.start()?;
    wait_state(lb, "active")?;
    wait_addresses(lb, &["10.9.0.10/24", "172.16.0.2/24"])?;
    lb.machine().ip("address add 10.9.0.77/24 dev eth0")?;
    lb.stop()?;
    assert_eq!(addresses(lb), ["10.9.0.77/24", "172.16.0.2/24"]);
    Ok(())
}

#[test]
fn a_bad_file_changes_nothing_and_a_good_one_only_what_differs() -> TestResult {
    let lab = lab(3);
    let lb = lab.lb(0);
    start(&lab)?;
    let before = lb.status()?.raw;

    let good = fs::read_to_string(lb.config_path())?;
    fs::write(lb.config_path(), good.replace("port = 6443", "prt = 6443").replace("priority", "prioritty"))?;
    let refused = lb.xvip(&["reload"])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    for expected in ["unknown key `prt`", "write: port = 6443", "unknown key `prioritty`", "2 errors"] {
        assert!(err(&refused).contains(expected), "{expected} is not in:\n{}", err(&refused));
    }
    let after = lb.status()?.raw;
    assert_eq!(
        (&after["vrrp"][0]["since"], &after["vrrp"][0]["state"]),
        (&before["vrrp"][0]["since"], &"active".into())
    );
    assert_eq!(after["config"]["loaded_at"], before["config"]["loaded_at"]);
    assert!(
        after["config"]["last_reload_error"].as_str().is_some_and(|error| error.contains("2 errors")),
        "{after}"
    );
    assert!(lab.curl(&[&lab.vip_url("/readyz")])?.status.success(), "it still serves");

    // What the program was attached with cannot change; the remedy is said.
    fs::write(lb.config_path(), good.replace("[node]", "[node]\nxdp_mode = \"generic\""))?;
    let refused = lb.xvip(&["reload"])?;
    assert!(
        err(&refused).contains("node.xdp_mode") && err(&refused).contains("restart"),
        "{}",
        err(&refused)
    );
    assert_eq!(refused.status.code(), Some(2));

    // By signal this time.
    lb.configure(|config| drop(config.services[0].backends.pop()))?;
    lb.signal(Signal::SIGHUP)?;
    wait::until("two backends", SOON, || lb.status().is_ok_and(|status| status.backends().len() == 2))?;
    let after = lb.status()?.raw;
    assert_eq!(after["vrrp"][0]["since"], before["vrrp"][0]["since"], "the router was left alone");
    for backend in 0..2 {
        let since = |status: &serde_json::Value| status["services"][0]["backends"][backend]["since"].clone();
        assert_eq!(since(&after), since(&before), "its checks went on");
    }
    assert_eq!(after["services"][0]["usable"], 2);
    assert!(after["config"]["last_reload_error"].is_null());
    assert!(lab.curl(&[&lab.vip_url("/readyz")])?.status.success());
    Ok(())
}

#[test]
fn a_second_instance_is_refused_and_the_first_notices_nothing() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    start(&lab)?;
    let since = lb.status()?.raw["vrrp"][0]["since"].clone();
    let config = lb.config_path();
    let config = config.to_str().ok_or("a path in UTF-8")?;

    let same_socket = lb.xvip(&["run", "--config", config])?;
    assert_eq!(same_socket.status.code(), Some(1));
    assert!(err(&same_socket).contains("already running (pid "), "{}", err(&same_socket));

    let xvip = lb.socket_path();
    let program = fs::read_link(format!("/proc/{}/exe", lb.daemon_id().ok_or("a daemon")?))?;
    let mut other_socket = Command::new(program);
    other_socket.args(["run", "--config", config, "--socket"]).arg(xvip.with_extension("other"));
    let other_socket = lb.machine().output(&mut other_socket)?;
    assert_eq!(other_socket.status.code(), Some(1));
    assert!(err(&other_socket).contains("already running on interface eth0"), "{}", err(&other_socket));

    assert_eq!(lb.status()?.raw["vrrp"][0]["since"], since);
    assert!(lb.holds_vip());
    Ok(())
}

#[test]
fn cleanup_removes_everything_but_not_under_a_running_daemon() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    start(&lab)?;
    let config = lb.config_path();
    let cleanup = ["cleanup", "--config", config.to_str().ok_or("a path in UTF-8")?];

    let refused = lb.xvip(&cleanup)?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("stop it first"), "{}", err(&refused));
    assert!(lb.holds_vip());

    lb.kill();
    let silent = lb.xvip(&["status"])?;
    assert_eq!(silent.status.code(), Some(0), "its maps tell something: {}", err(&silent));
    assert!(out(&silent).starts_with("the daemon is down: xvip is not running"), "{}", out(&silent));

    let removed = lb.xvip(&cleanup)?;
    assert!(removed.status.success(), "{}", err(&removed));
    for expected in ["removed address 172.16.0.10/24 from eth0", "removed /sys/fs/bpf/xvip/"] {
        assert!(out(&removed).contains(expected), "{expected} is not in:\n{}", out(&removed));
    }
    assert_eq!(addresses(lb), ["172.16.0.2/24"]);
    wait::until("the program to go", SOON, || program(lb).is_none())?;
    assert_eq!(out(&lb.xvip(&cleanup)?).trim(), "nothing to remove");
    Ok(())
}

#[test]
fn without_a_data_plane_the_node_does_not_take_part_until_it_has_one() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    // Somebody else's program is in the way.
    let index = lb.machine().run(|| nix::net::if_::if_nametoindex("eth0"))??;
    let stub = lb.machine().run(|| XdpStub::attach(index, Action::Pass))??;
    lb.start()?;
    wait_state(lb, "fault")?;
    let status = lb.status()?.raw;
    assert_eq!(status["interface"]["xdp_mode"], "none");
    let reason = status["vrrp"][0]["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("XDP could not be attached to eth0"), "{reason}");
    assert!(!lb.holds_vip());

    drop(stub);
    wait_state(lb, "active")?;
    wait_addresses(lb, &[VIP, "172.16.0.2/24"])?;
    assert!(lb.status()?.raw["problems"].as_array().is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn an_interface_that_goes_and_comes_back_is_taken_up_again() -> TestResult {
    let lab = lab(1);
    let lb = lab.lb(0);
    start(&lab)?;
    lb.machine().ip("link set eth0 down")?;
    lb.machine().ip("link set eth0 name gone0")?;
    wait_state(lb, "fault")?;
    lb.machine().ip("link set gone0 name eth0")?;
    lb.machine().ip("link set eth0 up")?;
    wait_state(lb, "active")?;
    wait_addresses(lb, &[VIP, "172.16.0.2/24"])?;
    wait::until("the VIP to answer", SOON, || {
        lab.curl(&["--max-time", "1", &lab.vip_url("/version")]).is_ok_and(|output| output.status.success())
    })?;

    // Another interface of the same name: nothing of the old one is left, the program and the addresses included.
    let peer = "p-lb1";
    lb.machine().ip("link del eth0")?;
    wait_state(lb, "fault")?;
    lab.switch().ip(&format!("link add {peer} type veth peer name eth0 netns {}", lb.machine().init_id()))?;
    lab.switch().ip(&format!("link set {peer} master br0 up"))?;
    lb.machine().ip("address add 172.16.0.2/24 dev eth0")?;
    lb.machine().ip("link set eth0 up")?;
    wait_state(lb, "active")?;
    wait_addresses(lb, &[VIP, "172.16.0.2/24"])?;
    wait::until("XDP to be attached again", SOON, || program(lb).is_some())?;
    Ok(())
}
