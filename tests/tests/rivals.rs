//! Others who claim a VIP of ours, or who use our VRID for something else: each is named in `status`, what can be healed
//! is, and nobody's VIP moves. Needs root, for the network namespaces.
//!
//! Runner: threads 3

use std::error::Error;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::addresses::{Family, VIP, VIP6, host, host6};
use lb_tests::asker::tell;
use lb_tests::frames::{Arp, Mac, neighbour_advertisement};
use lb_tests::keepalived::{Keepalived, KeepalivedConfig};
use lb_tests::netns::NetnsError;
use lb_tests::node::LbNode;
use lb_tests::sampler::Sampler;
use lb_tests::topology::Lab;
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// The other one's host number.
const RIVAL: u8 = 7;
const RIVAL_MAC: Mac = [2, 0, 0xac, 16, 0, RIVAL];
const RIVAL_MAC_TEXT: &str = "02:00:ac:10:00:07";
const LB1_MAC_TEXT: &str = "02:00:ac:10:00:02";

/// Two nodes that speak multicast, of which `lb1` owns the VIPs.
fn lab(families: &[Family], version: u8, password: Option<&str>) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().masters(1).families(families).multicast().build()?;
    for lb in lab.lbs() {
        lb.configure(|config| {
            config.small_tables();
            // Of the lab's VIPs those that were asked for, so that the instance speaks their family.
            config.services.truncate(families.len());
            for vrrp in &mut config.vrrp {
                vrrp.version = version;
                vrrp.extra.extend(password.map(|password| format!("auth_pass = {password:?}")));
            }
        })?;
    }
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(lab)
}

/// Waits until the node tells of a problem with all of these words; `again` does what it should notice once more.
fn wait_problem(
    lb: &LbNode,
    words: &[&str],
    again: impl Fn() -> Result<(), NetnsError>,
) -> Result<String, Box<dyn Error>> {
    let problems = || -> Vec<String> {
        let raw = lb.status().map(|status| status.raw).unwrap_or_default();
        let all = raw["problems"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|problem| problem.as_str().map(str::to_owned)).collect()
    };
    let what = format!("a problem of {} with {words:?}", lb.name());
    let found = || {
        let found = problems().into_iter().find(|problem| words.iter().all(|word| problem.contains(word)));
        found.map(Ok).or_else(|| again().err().map(Err))
    };
    let found = wait::value(&what, SOON, found)
        .map_err(|error| format!("{error}; it has {:?}\n{}", problems(), lb.last_lines()))?;
    Ok(found?)
}

/// The Ethernet address that the client has for an address.
fn known_at(lab: &Lab, address: &str) -> Result<String, Box<dyn Error>> {
    let mut ip = Command::new("ip");
    ip.args(["neighbour", "show", address, "dev", "eth0"]);
    let shown = lab.client().output(&mut ip)?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    Ok(shown.split("lladdr ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned())
}

/// lb1 has been active all the time, and lb2 never.
fn nobody_moved(lab: &Lab) -> TestResult {
    for (lb, state) in lab.lbs().iter().zip(["active", "backup"]) {
        assert_eq!(lb.status()?.vrrp_state(), state, "{}:\n{}", lb.name(), lb.last_lines());
    }
    Ok(())
}

/// Another machine has the address, and tells everybody: the network hears from us at once that it is here.
fn a_second_owner(family: Family) -> TestResult {
    let lab = lab(&[family], 3, None)?;
    let rival = lab.add_machine("rival", RIVAL, false)?;
    let (vip, length) = (family.vip(), family.host_length());
    assert!(lab.curl(&["--max-time", "5", &lab.vip_url("/version")])?.status.success());
    let address = vip.to_string();
    assert_eq!(known_at(&lab, &address)?, LB1_MAC_TEXT);
    // The old owner's last words are no claim within a second of a hand-over.
    thread::sleep(Duration::from_millis(1500));

    let nodad = if family == Family::V6 { "nodad" } else { "" };
    rival.ip(&format!("address add {vip}/{length} dev eth0 {nodad} noprefixroute"))?;
    let announcement = match family {
        Family::V4 => Arp::request(RIVAL_MAC, VIP, VIP).bytes(),
        Family::V6 => neighbour_advertisement(RIVAL_MAC, host6(RIVAL), VIP6, None).bytes(),
    };
    let begin = Instant::now();
    tell(&rival, &announcement)?;
    wait::until("the client to believe it", Duration::from_secs(2), || {
        known_at(&lab, &address).is_ok_and(|mac| mac == RIVAL_MAC_TEXT)
            || begin.elapsed() > Duration::from_secs(1)
    })?;
    wait::until("the client to know better", SOON, || {
        known_at(&lab, &address).is_ok_and(|mac| mac == LB1_MAC_TEXT)
    })?;
    println!("{family:?}: the client knew better after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(3), "it took {:?}", begin.elapsed());
    for lb in lab.lbs() {
        // A node that does not own the VIP remembers the latest claim only, and the owner has contradicted by now.
        let problem = wait_problem(lb, &[RIVAL_MAC_TEXT, &address], || tell(&rival, &announcement))?;
        println!("{}: {problem}", lb.name());
        let shown = lb.xvip(&["status"])?;
        assert!(String::from_utf8_lossy(&shown.stdout).contains(RIVAL_MAC_TEXT), "{shown:?}");
    }
    nobody_moved(&lab)
}

#[test]
fn a_second_owner_is_named_and_contradicted() -> TestResult {
    a_second_owner(Family::V4)
}

#[test]
fn a_second_owner_is_named_and_contradicted_in_ipv6() -> TestResult {
    a_second_owner(Family::V6)
}

/// A keepalived with our VRID, a higher priority, and something that makes it none of ours.
struct Foreigner {
    version: u8,
    password: Option<&'static str>,
    vip: &'static str,
}

/// It is named, with its address; and neither our VIP nor its own moves.
fn collision(version: u8, password: Option<&str>, foreigner: &Foreigner) -> TestResult {
    let lab = lab(&[Family::V4], version, password)?;
    let rival = lab.add_machine("rival", RIVAL, false)?;
    let [lb1, lb2] = [lab.lb(0), lab.lb(1)];
    let sampler = Sampler::begin(&[lb1.machine(), lb2.machine()], VIP.into())?;
    assert!(sampler.is_held_by(&[0], &[0, 1]));
    let begin = Instant::now();
    let config = KeepalivedConfig {
        version: foreigner.version,
        virtual_router_id: 60,
        priority: 200,
        interval: Duration::from_secs(1),
        nopreempt: false,
        password: foreigner.password.map(str::to_owned),
        unicast: None,
        vips: vec![format!("{}/24", foreigner.vip)],
    };
    let keepalived = Keepalived::start(&rival, lab.dir(), &config)?;
    let holds = || rival.addresses().is_ok_and(|all| all.iter().any(|one| one.to_string() == foreigner.vip));
    wait::until("keepalived to become MASTER", SOON, holds)?;
    for lb in lab.lbs() {
        let problem = wait_problem(lb, &["60", &host(RIVAL).to_string()], || Ok(()))?;
        println!("{}: {problem}", lb.name());
    }
    // Two more of its down intervals.
    thread::sleep(Duration::from_secs(7));
    let held = sampler.since(begin, &[0, 1]);
    assert_eq!((held.both, held.none), (Duration::ZERO, Duration::ZERO), "{held:?}\n{}", lab.last_lines());
    assert!(holds(), "keepalived has lost its own address:\n{}", keepalived.said());
    nobody_moved(&lab)
}

#[test]
fn other_addresses_with_our_vrid_are_named() -> TestResult {
    collision(3, None, &Foreigner { version: 3, password: None, vip: "172.16.0.77" })
}

#[test]
fn another_password_with_our_vrid_is_named() -> TestResult {
    collision(2, Some("1111"), &Foreigner { version: 2, password: Some("2222"), vip: "172.16.0.77" })
}

#[test]
fn another_version_with_our_vrid_is_named() -> TestResult {
    collision(3, None, &Foreigner { version: 2, password: None, vip: "172.16.0.77" })
}

/// The worst one: it means to be ours and has another password, so that it takes the VIP, too.
#[test]
fn a_member_with_another_password_is_named() -> TestResult {
    collision(2, Some("1111"), &Foreigner { version: 2, password: Some("2222"), vip: "172.16.0.10" })
}
