//! LB nodes that are control-plane nodes: an API server runs on each, on the port that the VIP has, and is a backend like
//! any other. Needs root, for the network namespaces.
//!
//! Runner: threads 2

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_tests::master::Master;
use lb_tests::measure::ClientProcess;
use lb_tests::netns::Netns;
use lb_tests::node::{BackendConfig, LbNode};
use lb_tests::topology::{Family, Lab, Load, VIP, VIP6};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// Two nodes with an API server each, and one API server on a machine of its own. `lb1` has the VIP.
struct ControlPlane {
    // Before the lab: their machines are its nodes'.
    servers: [Master; 2],
    lab: Lab,
}

impl ControlPlane {
    fn start(families: &[Family]) -> Result<Self, Box<dyn Error>> {
        let lab = Lab::builder().masters(1).families(families).build()?;
        let servers = [lab.apiserver_on(0)?, lab.apiserver_on(1)?];
        for lb in lab.lbs() {
            lb.configure(|config| {
                for (service, &family) in config.services.iter_mut().zip(families) {
                    service.backends.extend(
                        servers.iter().map(|server| {
                            BackendConfig::new(server.name(), server.socket_address_of(family))
                        }),
                    );
                }
            })?;
        }
        let plane = Self { servers, lab };
        plane.lab.lb(0).start()?;
        plane.lab.lb(1).start()?;
        for lb in plane.lab.lbs() {
            for backend in ["master1", "lb1", "lb2"] {
                plane.wait_state(lb, backend, "up")?;
            }
        }
        plane.lab.wait_owner(Some("lb1"), SOON)?;
        Ok(plane)
    }

    /// Waits until a node knows that a backend of its first service is up, or down.
    fn wait_state(&self, lb: &LbNode, backend: &str, state: &str) -> TestResult {
        wait::until(&format!("{backend} to be {state} on {}", lb.name()), SOON, || {
            lb.status().is_ok_and(|status| status.backend(backend).is_some_and(|b| b.state == state))
        })?;
        Ok(())
    }

    /// Asks without an end.
    fn load(&self) -> Result<ClientProcess, Box<dyn Error>> {
        let load = Load { interval: Duration::from_millis(10), in_flight: 100, ..Load::default() };
        let load = self.lab.load(&load)?;
        load.wait_steady(0, 100, SOON)?;
        Ok(load)
    }

    /// So many new connections; none may fail.
    fn ask(&self, from: &Netns, count: u64, url: &str) -> Result<BTreeMap<String, usize>, Box<dyn Error>> {
        let load = self.lab.on(from).load(&Load {
            url: Some(url.to_owned()),
            interval: Duration::from_millis(5),
            in_flight: 32,
            count: Some(count),
            ..Load::default()
        })?;
        load.wait_done(Duration::from_secs(60))?;
        if let Some(why) = load.read(|tally| tally.last_failure().map(|(_, why)| why.to_owned())) {
            return Err(format!("{} of {count} failed, the last with: {why}", load.failed(0)).into());
        }
        Ok(load.by_server(0))
    }

    /// Who serves a client, and as whom it sees that client, for so many connections from it.
    fn seen_as(&self, family: Family, count: usize) -> Result<BTreeMap<String, Vec<IpAddr>>, Box<dyn Error>> {
        let mut seen: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let url = self.lab.vip_url_of(family, "/version");
        for _ in 0..count {
            let output = self.lab.curl(&["--include", "--max-time", "5", &url])?;
            let text = String::from_utf8(output.stdout)?;
            let header = |name: &str| {
                let lines = text.lines().filter_map(|line| line.split_once(": "));
                lines.filter(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).next()
            };
            let (Some(server), Some(peer)) = (header("x-served-by"), header("x-peer")) else {
                return Err(format!("no answer: {text}, {}", String::from_utf8_lossy(&output.stderr)).into());
            };
            let clients = seen.entry(server).or_default();
            let client = peer.parse::<SocketAddr>()?.ip();
            if !clients.contains(&client) {
                clients.push(client);
            }
        }
        Ok(seen)
    }
}

fn passed(lb: &LbNode, reason: &str) -> Result<u64, Box<dyn Error>> {
    Ok(lb.status()?.packets.passed.get(reason).copied().unwrap_or(0))
}

fn sent(lb: &LbNode, reason: &str) -> Result<u64, Box<dyn Error>> {
    Ok(lb.status()?.packets.transmitted.get(reason).copied().unwrap_or(0))
}

/// That each of the three has a third of so many, give or take five standard deviations.
fn assert_shared(servers: &BTreeMap<String, usize>, count: usize) {
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["lb1", "lb2", "master1"]);
    let (third, deviation) = (count as f64 / 3.0, (count as f64 * 2.0 / 9.0).sqrt());
    assert!(servers.values().all(|n| (*n as f64 - third).abs() < 5.0 * deviation), "{servers:?}");
}

#[test]
fn the_owners_own_api_server_gets_its_share_untouched_and_the_others_theirs_by_nat() -> TestResult {
    let plane = ControlPlane::start(&[Family::V4])?;
    let (lab, owner) = (&plane.lab, plane.lab.lb(0));
    let status = owner.status()?;
    let local = status.raw["services"][0]["backends"].as_array().expect("backends");
    let local: Vec<_> = local.iter().filter(|b| b["local"] == true).map(|b| b["name"].clone()).collect();
    assert_eq!(local, ["lb1"], "and no other is this node");

    let before = (passed(owner, "local-backend")?, sent(owner, "to-backend")?, sent(owner, "to-client")?);
    let servers = plane.ask(lab.client(), 300, &lab.vip_url("/version"))?;
    println!("{servers:?}");
    assert_shared(&servers, 300);
    let after = (passed(owner, "local-backend")?, sent(owner, "to-backend")?, sent(owner, "to-client")?);
    // A request takes four packets at least: SYN, ClientHello, request, FIN.
    assert!(after.0 - before.0 >= servers["lb1"] as u64 * 4, "{before:?} {after:?}");
    let elsewhere = (300 - servers["lb1"]) as u64;
    assert!(
        after.1 - before.1 >= elsewhere * 4 && after.2 - before.2 >= elsewhere * 3,
        "{before:?} {after:?}"
    );

    let seen = plane.seen_as(Family::V4, 40)?;
    let client = lab.client_address(Family::V4);
    let vip = IpAddr::from(VIP);
    let expected = [("lb1", vec![client]), ("lb2", vec![vip]), ("master1", vec![vip])];
    assert_eq!(seen, expected.map(|(name, clients)| (name.to_owned(), clients)).into());
    Ok(())
}

#[test]
fn a_dead_api_server_on_the_owner_is_out_and_comes_back() -> TestResult {
    let plane = ControlPlane::start(&[Family::V4])?;
    let (lab, owner) = (&plane.lab, plane.lab.lb(0));
    let load = plane.load()?;
    plane.servers[0].kill();
    for lb in lab.lbs() {
        plane.wait_state(lb, "lb1", "down")?;
    }
    assert_eq!(lab.owner().map(LbNode::name), Some("lb1"), "VRRP does not follow the API servers");
    let mark = load.mark();
    load.wait_answered(mark, 100, SOON)?;
    // What was under way when it died may fail until a second later.
    let servers = plane.ask(lab.client(), 100, &lab.vip_url("/version"))?;
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["lb2", "master1"]);
    // The node's own clients, too: nobody listens on this node.
    let servers = plane.ask(owner.machine(), 60, &lab.vip_url("/version"))?;
    assert_eq!(servers.keys().collect::<Vec<_>>(), ["lb2", "master1"]);

    plane.servers[0].start()?;
    for lb in lab.lbs() {
        plane.wait_state(lb, "lb1", "up")?;
    }
    assert_shared(&plane.ask(lab.client(), 300, &lab.vip_url("/version"))?, 300);
    Ok(())
}

#[test]
fn after_a_hand_over_the_new_owner_serves_by_its_own_api_server() -> TestResult {
    let plane = ControlPlane::start(&[Family::V4])?;
    let lab = &plane.lab;
    lab.lb(0).stop()?;
    lab.wait_owner(Some("lb2"), SOON)?;
    // A neighbour that has learned of lb1 within the last second ignores the first announcements.
    drop(plane.load()?);
    let before = passed(lab.lb(1), "local-backend")?;
    let servers = plane.ask(lab.client(), 300, &lab.vip_url("/version"))?;
    assert_shared(&servers, 300);
    assert!(passed(lab.lb(1), "local-backend")? - before >= servers["lb2"] as u64 * 4);
    let seen = plane.seen_as(Family::V4, 40)?;
    assert_eq!(seen["lb2"], [lab.client_address(Family::V4)]);
    assert_eq!(seen["lb1"], [IpAddr::from(VIP)]);
    Ok(())
}

#[test]
fn ipv6_works_alike() -> TestResult {
    let plane = ControlPlane::start(&[Family::V4, Family::V6])?;
    let (lab, owner) = (&plane.lab, plane.lab.lb(0));
    wait::until("the IPv6 VIP to answer", SOON, || plane.seen_as(Family::V6, 1).is_ok())?;
    let before = passed(owner, "local-backend")?;
    let servers = plane.ask(lab.client(), 300, &lab.vip_url_of(Family::V6, "/version"))?;
    assert_shared(&servers, 300);
    assert!(passed(owner, "local-backend")? - before >= servers["lb1"] as u64 * 4);
    let seen = plane.seen_as(Family::V6, 40)?;
    assert_eq!(seen["lb1"], [lab.client_address(Family::V6)]);
    assert_eq!(seen["lb2"], [IpAddr::from(VIP6)]);
    for lb in lab.lbs() {
        assert_shared(&plane.ask(lb.machine(), 300, &lab.vip_url_of(Family::V6, "/version"))?, 300);
    }
    Ok(())
}

#[test]
fn the_nodes_own_clients_use_all_api_servers_their_own_included() -> TestResult {
    let plane = ControlPlane::start(&[Family::V4])?;
    for lb in plane.lab.lbs() {
        assert_shared(&plane.ask(lb.machine(), 300, &plane.lab.vip_url("/version"))?, 300);
    }
    Ok(())
}
