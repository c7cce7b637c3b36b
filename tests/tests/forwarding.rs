//! Does the real `xvip` forward, in XDP alone, to the right API servers? Needs root, for the network namespaces.
//!
//! One LB node is enough for all of this; two are in `failover.rs`.

#[path = "forwarding/kernel.rs"]
mod kernel;
#[path = "forwarding/streams.rs"]
mod streams;

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use lb_tests::apiserver::pattern;
use lb_tests::node::{NodeConfig, Status};
use lb_tests::topology::{API_PORT, Lab, Load, VIP};
use lb_tests::wait;

use kernel::KernelStack;
use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;

/// A lab with one LB node that owns the VIP and has all its backends up.
fn running_lab(masters: u8, change: impl FnOnce(&mut NodeConfig)) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(1).masters(masters).build()?;
    lab.lb(0).configure(change)?;
    lab.start_lbs()?;
    Ok(lab)
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn transmitted(status: &Status, reason: &str) -> u64 {
    status.packets.transmitted.get(reason).copied().unwrap_or(0)
}

fn wait_state(lab: &Lab, backend: &str, state: &str) -> Result<Duration, Box<dyn Error>> {
    let begin = Instant::now();
    wait::until(&format!("{backend} to be {state}"), SOON, || {
        lab.lb(0).status().is_ok_and(|status| status.backend(backend).is_some_and(|b| b.state == state))
    })?;
    Ok(begin.elapsed())
}

/// So many new connections; who answered how many. One that fails is an error.
fn ask(lab: &Lab, count: u64, url: Option<&str>) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
    let load = lab.load(&Load {
        url: url.map(str::to_owned),
        interval: Duration::from_millis(2),
        timeout: Duration::from_secs(10),
        in_flight: 32,
        count: Some(count),
        ..Load::default()
    })?;
    load.wait_done(Duration::from_secs(120))?;
    if let Some(why) = load.read(|tally| tally.last_failure().map(|(_, why)| why.to_owned())) {
        return Err(format!("{} of {count} requests failed, the last with: {why}", load.failed(0)).into());
    }
    Ok(load.by_server(0))
}

fn opened_at(streams: &Streams, server: &str) -> usize {
    streams.servers.values().filter(|name| *name == server).count()
}

fn curl_and_kubectl_work(test: &str, configured: Option<&str>, attached: &str) -> TestResult {
    const REQUESTS: u64 = 300;
    // Health checks are traffic of the node's own; few of them, to see that the clients' is not.
    let lab = running_lab(3, |config| {
        config.xdp_mode = configured.map(str::to_owned);
        config.services[0].health.push("interval = \"10s\"".to_owned());
    })?;
    let lb = lab.lb(0);
    let tracked = kernel::track_connections(lb.machine());
    let status = lb.status()?;
    assert_eq!(status.interface.xdp_mode, attached);
    let stack = KernelStack::of(lb.machine())?;
    assert!(stack.tcp_segments_in > 0, "the health checks are not counted: is this the right machine?");

    let version = text(&lab.curl(&[&lab.vip_url("/version")])?);
    assert!(version.contains("\"gitVersion\":\"v1.31.0+master"), "{version}");
    assert_eq!(text(&lab.curl(&["--http2", &lab.vip_url("/readyz")])?), "ok");
    let home = tempfile::tempdir()?;
    let mut kubectl = Command::new("kubectl");
    kubectl
        .env("HOME", home.path())
        .arg(format!("--server=https://{VIP}:{API_PORT}"))
        .arg(format!("--certificate-authority={}", lab.ca().display()))
        // Without credentials it would ask for a user's name; the fake API servers take anyone.
        .args(["--token=none", "--request-timeout=10s", "get", "--raw", "/readyz"]);
    match lab.client().output(&mut kubectl) {
        Ok(output) => assert_eq!(text(&output), "ok"),
        Err(why) => println!("SKIP {test}: kubectl (kubernetes-client) is missing: {why}"),
    }
    // While they are open, a proxy would have a socket for each.
    let streams = Streams::open(&lab, 6)?;
    let servers = ask(&lab, REQUESTS, None)?;
    let sockets = kernel::tcp_sockets(lb.machine(), VIP)?;
    assert!(sockets.is_empty(), "the LB's own stack has sockets at the VIP: {sockets:?}");
    streams.go_on()?;

    let after = lb.status()?;
    for reason in ["to-backend", "to-client"] {
        let moved = transmitted(&after, reason) - transmitted(&status, reason);
        println!(
            "{attached}: {moved} packets {reason} for {REQUESTS} requests and 6 streams, by {servers:?}"
        );
        // A TLS request takes a SYN, a ClientHello, a request and a FIN, and as many the other way.
        assert!(moved >= 4 * REQUESTS, "only {moved} packets {reason} in XDP");
    }
    let grown = KernelStack::of(lb.machine())?.since(&stack);
    println!("{attached}: the LB's own stack saw {grown:?}");
    assert!(grown.tcp_segments_in < REQUESTS, "requests went through the LB's own stack: {grown:?}");
    assert_eq!((grown.forwarded, grown.tcp_accepted), (0, 0));
    let connections = kernel::tracked_connections(lb.machine(), VIP)?;
    assert!(connections.is_empty(), "conntrack knows {} connections of the VIP", connections.len());
    println!("{attached}: connection tracking was {}", if tracked { "on" } else { "not available" });
    Ok(())
}

#[test]
fn requests_pass_in_native_xdp_and_the_kernel_sees_none() -> TestResult {
    curl_and_kubectl_work("requests_pass_in_native_xdp_and_the_kernel_sees_none", None, "native")
}

#[test]
fn requests_pass_in_generic_xdp_and_the_kernel_sees_none() -> TestResult {
    curl_and_kubectl_work("requests_pass_in_generic_xdp_and_the_kernel_sees_none", Some("generic"), "generic")
}

#[test]
fn where_native_xdp_loses_packets_auto_goes_on_in_generic_mode() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).without_stubs().build()?;
    lab.start_lbs()?;
    wait::until("an answer", SOON, || {
        lab.curl(&["--max-time", "2", &lab.vip_url("/version")]).is_ok_and(|output| output.status.success())
    })?;
    assert_eq!(lab.lb(0).status()?.interface.xdp_mode, "generic");
    let log = fs::read_to_string(lab.lb(0).log())?;
    assert!(log.contains("mode=\"native\""), "the driver takes the program: {log}");
    assert!(log.contains("going on in generic mode"), "{log}");
    Ok(())
}

#[test]
fn backends_may_listen_on_another_port() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(2).api_port(9443).build()?;
    lab.start_lbs()?;
    let servers = ask(&lab, 40, None)?;
    assert_eq!(servers.len(), 2, "{API_PORT} at the VIP is 9443 at the backends: {servers:?}");
    Ok(())
}

#[test]
fn connections_spread_evenly_and_by_weight() -> TestResult {
    let lab = running_lab(3, |_| ())?;
    let opened = |status: &Status| -> BTreeMap<String, u64> {
        status.backends().iter().map(|b| (b.name.clone(), b.flows.opened)).collect()
    };
    let before = opened(&lab.lb(0).status()?);
    let begin = Instant::now();
    let servers = ask(&lab, 3000, None)?;
    println!("equal weights: 3000 connections in {:?}: {servers:?}", begin.elapsed());
    for (server, count) in &servers {
        assert!((900..=1100).contains(count), "{server} is not within 10 % of a third: {servers:?}");
    }
    assert_eq!(servers.len(), 3);
    let after = opened(&lab.lb(0).status()?);
    for (server, count) in &servers {
        assert_eq!(after[server] - before[server], *count as u64, "`status` counts {server} differently");
    }

    lab.lb(0).configure(|config| config.services[0].backends[2].weight = Some(50))?;
    text(&lab.lb(0).xvip(&["reload"])?);
    let shares: Vec<f64> = lab.lb(0).status()?.backends().iter().map(|b| b.share).collect();
    for (share, expected) in shares.iter().zip([0.4, 0.4, 0.2]) {
        assert!((share - expected).abs() < 0.01, "{shares:?}");
    }
    let servers = ask(&lab, 1500, None)?;
    println!("weights 100, 100, 50: {servers:?}");
    for (server, expected) in [("master1", 600), ("master2", 600), ("master3", 300)] {
        let count = servers.get(server).copied().unwrap_or(0);
        // Five standard deviations; a third each would be 500.
        assert!(count.abs_diff(expected) <= expected / 4, "{server} has {count}, not about {expected}");
    }
    Ok(())
}

#[test]
fn a_dead_backend_moves_only_its_own_share_and_gets_it_back() -> TestResult {
    let lab = running_lab(3, |_| ())?;
    let streams = Streams::open(&lab, 15)?;
    let theirs = opened_at(&streams, "master2");
    assert!(theirs > 0, "15 streams, and none at master2");
    let load = lab.load(&Load::default())?;
    load.wait_answered(load.mark(), 20, SOON)?;

    let mark = load.mark();
    lab.master(1).kill();
    let took = wait_state(&lab, "master2", "down")?;
    let detected = load.mark();
    println!("master2 killed: down after {took:?}; {} requests failed until then", load.failed(mark));
    wait::until("the streams of master2 to break", SOON, || {
        let now = streams.client.streams();
        streams.servers.iter().all(|(number, name)| name != "master2" || !now[number].broken.is_empty())
    })?;
    let others = streams.go_on_at(|server| server != "master2")?;
    println!("its {theirs} streams broke, the {others} others did not");
    load.wait_answered(detected, 100, SOON)?;
    // One that began before may have ended after the detection.
    let late = load.read(|tally| {
        tally.since(detected).filter(|o| o.result.is_err() && o.at_us - o.took_us > detected).count()
    });
    assert_eq!(late, 0, "requests failed after the detection");
    assert!(!load.by_server(detected).contains_key("master2"));

    lab.master(1).start()?;
    let took = wait_state(&lab, "master2", "up")?;
    println!("master2 started: up after {took:?}");
    let back = load.mark();
    load.wait_answered(back, 300, SOON)?;
    let servers = load.by_server(back);
    println!("new connections after that: {servers:?}");
    let share = servers.get("master2").copied().unwrap_or(0) as f64 / load.answered(back) as f64;
    // Five standard deviations of 300.
    assert!((0.2..0.47).contains(&share), "master2 has not got its share back: {servers:?}");
    streams.go_on_at(|server| server != "master2")?;
    Ok(())
}

#[test]
fn a_failing_readyz_drains_and_keeps_the_streams() -> TestResult {
    let lab = running_lab(3, |_| ())?;
    let streams = Streams::open(&lab, 12)?;
    assert!(opened_at(&streams, "master1") > 0, "12 streams, and none at master1");
    lab.master(0).set_ready(false)?;
    let took = wait_state(&lab, "master1", "down")?;
    println!("/readyz of master1 fails: drained after {took:?}");
    let reason = lab.lb(0).status()?.backend("master1").map(|b| b.reason.clone()).unwrap_or_default();
    assert!(reason.contains("500"), "the status does not say why: {reason:?}");
    let servers = ask(&lab, 150, None)?;
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["master2", "master3"]);
    assert_eq!(streams.go_on()?, 12);
    lab.master(0).set_ready(true)?;
    wait_state(&lab, "master1", "up")?;
    assert_eq!(ask(&lab, 150, None)?.len(), 3);
    assert_eq!(streams.go_on()?, 12);
    Ok(())
}

#[test]
fn a_black_hole_is_detected_in_time() -> TestResult {
    let lab = running_lab(3, |_| ())?;
    let streams = Streams::open(&lab, 12)?;
    // The defaults: fall = 2, fast_interval = 200 ms, timeout = 1 s; and the first check begins up to 2 s later.
    let limit = 2 * Duration::from_millis(1200) + Duration::from_secs(2);
    let margin = Duration::from_secs(1);
    lab.isolate("master3")?;
    let took = wait_state(&lab, "master3", "down")?;
    println!("master3 black-holed: down after {took:?}");
    assert!(took < limit + margin, "detected after {took:?} only");
    // Not `ask`: a SYN that is sent again, a second later, goes to another backend. Nobody should need that.
    let load =
        lab.load(&Load { count: Some(100), timeout: Duration::from_millis(900), ..Load::default() })?;
    load.wait_done(SOON)?;
    let (servers, failed) = (load.by_server(0), load.failed(0));
    assert_eq!(failed, 0, "{servers:?}");
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["master1", "master2"]);
    streams.go_on_at(|server| server != "master3")?;
    lab.heal("master3")?;
    wait_state(&lab, "master3", "up")?;
    assert_eq!(ask(&lab, 150, None)?.len(), 3);
    Ok(())
}

#[test]
fn without_any_backend_clients_are_refused_at_once() -> TestResult {
    let lab = running_lab(2, |_| ())?;
    let lb = lab.lb(0);
    lab.masters().iter().for_each(lb_tests::master::Master::kill);
    for master in lab.masters() {
        wait_state(&lab, master.name(), "down")?;
    }
    let before = transmitted(&lb.status()?, "reset-no-backend");
    for _ in 0..5 {
        let output = lab.curl(&["--max-time", "5", "-w", "%{time_total}", &lab.vip_url("/version")])?;
        assert_eq!(output.status.code(), Some(7), "connection refused, not {output:?}");
        let seconds: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
        assert!(seconds < 0.5, "refused after {seconds} s");
    }
    let status = lb.status()?;
    assert!(transmitted(&status, "reset-no-backend") >= before + 5);
    // It goes on owning the VIP: another node would have no backend, either.
    assert!(lb.holds_vip());
    assert_eq!(status.vrrp_state(), "active");
    for master in lab.masters() {
        master.start()?;
    }
    for master in lab.masters() {
        wait_state(&lab, master.name(), "up")?;
    }
    assert_eq!(ask(&lab, 60, None)?.len(), 2);
    Ok(())
}

#[test]
fn bulk_data_passes_intact_both_ways() -> TestResult {
    const SIZE: usize = 64 << 20;
    const PERIOD: usize = 65_521;
    let lab = running_lab(3, |_| ())?;
    let block: Vec<u8> = (0..PERIOD as u64).map(pattern).collect();
    let intact =
        |got: &[u8]| got.len() == SIZE && got.chunks(PERIOD).all(|chunk| *chunk == block[..chunk.len()]);
    let file = lab.dir().join("upload");
    fs::write(&file, block.iter().copied().cycle().take(SIZE).collect::<Vec<u8>>())?;
    let data = format!("@{}", file.display());
    for flag in ["--http1.1", "--http2"] {
        let begin = Instant::now();
        let got = lab.curl(&[flag, "--max-time", "60", &lab.vip_url(&format!("/bytes/{SIZE}"))])?;
        assert!(got.status.success() && intact(&got.stdout), "{flag}: {} bytes down", got.stdout.len());
        let down = begin.elapsed();
        let got = lab.curl(&[flag, "--max-time", "60", "--data-binary", &data, &lab.vip_url("/echo")])?;
        let why = String::from_utf8_lossy(&got.stderr);
        assert!(
            got.status.success() && intact(&got.stdout),
            "{flag}: {} bytes back; {why}",
            got.stdout.len()
        );
        println!("{flag}: 64 MiB down in {down:?}, up and down in {:?}", begin.elapsed() - down);
    }
    Ok(())
}

#[test]
fn the_host_is_reached_at_the_vip_for_all_that_is_no_service() -> TestResult {
    let lab = running_lab(1, |_| ())?;
    let lb = lab.lb(0);
    kernel::ping(lab.client(), VIP)?;

    // A port of the host's own.
    let listener = lb.machine().run(|| TcpListener::bind((VIP, 8080)))??;
    let mut client = lab.client().run(|| TcpStream::connect((VIP, 8080)))??;
    let (mut server, peer) = listener.accept()?;
    assert_eq!(peer.ip().to_string(), "172.16.0.100", "a connection of the host's own is not rewritten");
    for end in [&client, &server] {
        end.set_read_timeout(Some(SOON))?;
    }
    client.write_all(b"hello")?;
    let mut got = [0; 5];
    server.read_exact(&mut got)?;
    assert_eq!(&got, b"hello");
    server.write_all(b"world")?;
    client.read_exact(&mut got)?;
    assert_eq!(&got, b"world");
    // What the tests of forwarding look for in vain is found where there is something.
    assert!(!kernel::tcp_sockets(lb.machine(), VIP)?.is_empty());

    // One that nobody listens on: the host's own RST.
    let begin = Instant::now();
    let refused = lab.client().run(|| TcpStream::connect((VIP, 8081)))?;
    assert_eq!(refused.map_err(|e| e.kind()).err(), Some(std::io::ErrorKind::ConnectionRefused));
    assert!(begin.elapsed() < Duration::from_secs(1));

    let passed = lb.status()?.packets.passed;
    assert!(passed["not-tcp"] > 0 && passed["no-service"] > 0, "{passed:?}");
    // The service on the same address is not disturbed.
    ask(&lab, 20, None)?;
    Ok(())
}

#[test]
fn two_services_on_one_vip_and_a_translated_port() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let lb = lab.lb(0);
    lb.configure(|config| {
        config.services[0].backends.truncate(2);
        config.extra = format!(
            "[[service]]\nname = \"second\"\nvip = \"{VIP}/24\"\nport = 9443\nvrrp = \"main\"\n\
             [service.health]\ncheck = \"https\"\nverify = \"none\"\n\
             [[service.backend]]\nname = \"only\"\naddress = \"{}\"",
            lab.master(2).socket_address()
        );
    })?;
    lb.start()?;
    lab.wait_owner(None, SOON)?;
    let up = |status: &Status| status.services.iter().flat_map(|s| &s.backends).all(|b| b.state == "up");
    wait::until("all backends of both services up", SOON, || lb.status().is_ok_and(|status| up(&status)))?;

    assert_eq!(ask(&lab, 60, None)?.keys().collect::<Vec<_>>(), ["master1", "master2"]);
    // 9443 at the VIP is 6443 at the backend.
    let second = ask(&lab, 60, Some(&format!("https://{VIP}:9443/version")))?;
    assert_eq!(second, BTreeMap::from([("master3".to_owned(), 60)]));

    // What happens to one does not concern the other.
    lab.master(2).kill();
    wait::until("the second service's backend down", SOON, || {
        lb.status()
            .is_ok_and(|status| status.services.len() == 2 && status.services[1].backends[0].state == "down")
    })?;
    let output = lab.curl(&["--max-time", "5", &format!("https://{VIP}:9443/version")])?;
    assert_eq!(output.status.code(), Some(7), "connection refused, not {output:?}");
    ask(&lab, 60, None)?;
    Ok(())
}
