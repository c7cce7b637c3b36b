//! What two whole nodes make of the less usual settings of a virtual router: signed advertisements, the virtual router's own
//! Ethernet address, and a firewall that keeps advertisements from one of them. Needs root, for the network namespaces.
//!
//! Runner: threads 2

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use lb_tests::node::LbNode;
use lb_tests::ping::{Answer, Ping, ping};
use lb_tests::topology::{Lab, VIP};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// RFC 9568 §7.3, with the lab's VRID.
const VIRTUAL_MAC: &str = "00:00:5e:00:01:3c";

/// Two nodes, configured alike, before they start.
fn lab(configure: impl Fn(&LbNode) -> TestResult) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(2).build()?;
    lab.lbs().iter().try_for_each(configure)?;
    Ok(lab)
}

/// A field of the first virtual router in `xvip status --json`.
fn vrrp(lb: &LbNode, field: &str) -> serde_json::Value {
    lb.status().map_or(serde_json::Value::Null, |status| status.raw["vrrp"][0][field].clone())
}

fn neighbour(lab: &Lab) -> Result<String, Box<dyn Error>> {
    let mut ip = Command::new("ip");
    ip.args(["neighbour", "show", &VIP.to_string(), "dev", "eth0"]);
    Ok(String::from_utf8_lossy(&lab.client().output(&mut ip)?.stdout).into_owned())
}

#[test]
fn signed_advertisements_elect_as_unsigned_ones_do() -> TestResult {
    let lab = lab(|lb| {
        lb.configure(|config| {
            config.vrrp[0].authenticate(7, "a-secret-that-the-two-nodes-of-the-lab-share", &[]);
        })?;
        Ok(())
    })?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let load = lab.steady_load(SOON)?;
    wait::until("lb2 to hear lb1", SOON, || vrrp(lab.lb(1), "adverts_received").as_u64() > Some(5))?;
    for lb in lab.lbs() {
        assert_eq!(vrrp(lb, "authentication"), "hmac-sha256");
        assert_eq!(vrrp(lb, "discarded"), serde_json::json!({}), "{}", lb.last_lines());
    }
    lab.cut("lb1")?;
    lab.wait_owner(Some("lb2"), SOON)?;
    lab.heal("lb1")?;
    lab.wait_owner(Some("lb1"), SOON)?;
    load.wait_steady(load.mark(), 30, SOON)?;
    for lb in lab.lbs() {
        assert_eq!(vrrp(lb, "discarded"), serde_json::json!({}), "{}", lb.last_lines());
    }
    Ok(())
}

#[test]
fn the_virtual_mac_stays_when_the_vip_moves_natively() -> TestResult {
    the_virtual_mac_stays_when_the_vip_moves("native")
}

#[test]
fn the_virtual_mac_stays_when_the_vip_moves_in_generic_mode() -> TestResult {
    the_virtual_mac_stays_when_the_vip_moves("generic")
}

fn the_virtual_mac_stays_when_the_vip_moves(xdp_mode: &str) -> TestResult {
    let lab = lab(|lb| {
        lb.configure(|config| {
            config.xdp_mode = Some(xdp_mode.to_owned());
            config.vrrp[0].use_virtual_mac();
        })?;
        Ok(())
    })?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let load = lab.steady_load(SOON)?;
    assert!(neighbour(&lab)?.contains(VIRTUAL_MAC), "{}", neighbour(&lab)?);
    assert_eq!(vrrp(lab.lb(0), "virtual_mac"), VIRTUAL_MAC);

    for (gone, heir) in [("lb1", "lb2"), ("lb2", "lb1")] {
        let mark = load.mark();
        lab.cut(gone)?;
        lab.wait_owner(Some(heir), SOON)?;
        load.wait_steady(load.mark(), 30, SOON)?;
        println!("{gone} cut off: no answer for {:?}", load.longest_gap(mark));
        assert!(neighbour(&lab)?.contains(VIRTUAL_MAC), "{}", neighbour(&lab)?);
        // The host's own answers, too: what is for the virtual address reaches its stack. Not on a native veth, which has
        // judged by the Ethernet address whose a packet is before XDP changes that; other drivers judge afterwards.
        if xdp_mode == "generic" {
            let answer = ping(lab.client(), VIP.into(), &Ping::default())?;
            assert_eq!(answer, Answer::Reply { from: VIP.into() }, "{heir}");
        }
        // Nobody asks the kernel, which would tell the interface's own address.
        lab.client().ip(&format!("neighbour delete {VIP} dev eth0"))?;
        load.wait_steady(load.mark(), 30, SOON)?;
        assert!(neighbour(&lab)?.contains(VIRTUAL_MAC), "{}", neighbour(&lab)?);
        lab.heal(gone)?;
    }
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

#[test]
fn a_node_that_a_firewall_makes_deaf_does_not_take_over_and_says_why() -> TestResult {
    let lab = lab(|_| Ok(()))?;
    let deaf = lab.lb(1);
    let nft = |words: &str| -> TestResult {
        let mut command = Command::new("nft");
        command.arg(words);
        let output = deaf.machine().output(&mut command)?;
        assert!(output.status.success(), "{words}: {output:?}");
        Ok(())
    };
    nft("table inet t { chain input { type filter hook input priority 0; ip protocol 112 drop; }; }")?;
    lab.lb(0).start()?;
    wait::until("lb1 to own the VIP", SOON, || lab.lb(0).holds_vip())?;
    deaf.start()?;
    wait::until("lb2 to say that it is deaf", SOON, || {
        vrrp(deaf, "blocked").as_str().is_some_and(|why| why.contains("a firewall drops IP protocol 112"))
    })?;
    let owners = |lab: &Lab| lab.lbs().iter().filter(|lb| lb.holds_vip()).count();
    for _ in 0..200 {
        assert_eq!(owners(&lab), 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(vrrp(deaf, "adverts_received"), 0);

    nft("delete table inet t")?;
    wait::until("lb2 to hear lb1", SOON, || {
        vrrp(deaf, "blocked").is_null() && vrrp(deaf, "adverts_received").as_u64() > Some(0)
    })?;
    assert_eq!(vrrp(deaf, "state"), "backup");
    // Deaf again: what it has heard once, XDP goes on seeing.
    nft("table inet t { chain input { type filter hook input priority 0; ip protocol 112 drop; }; }")?;
    wait::until("lb2 to name the firewall", SOON, || {
        deaf.status().is_ok_and(|status| {
            status.raw["problems"].to_string().contains("a firewall drops IP protocol 112")
        })
    })?;
    assert_eq!((vrrp(deaf, "state"), owners(&lab)), ("backup".into(), 1));
    // A dead peer is not protected by that.
    lab.cut("lb1")?;
    lab.wait_owner(Some("lb2"), SOON)?;
    Ok(())
}

/// `rm` of a link's pin takes the program off the interface; the node notices, and puts it back.
#[test]
fn a_program_that_somebody_takes_off_is_put_back() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    lab.start_lbs()?;
    let lb = lab.lb(0);
    lab.wait_owner(Some("lb1"), SOON)?;
    let load = lab.steady_load(SOON)?;
    let attached = || -> Result<bool, Box<dyn Error>> {
        let mut ip = Command::new("ip");
        ip.args(["-details", "link", "show", "dev", "eth0"]);
        Ok(String::from_utf8_lossy(&lb.machine().output(&mut ip)?.stdout).contains("prog/xdp"))
    };
    assert!(attached()?);
    let mut remove = Command::new("sh");
    remove.args(["-c", "find /sys/fs/bpf/ -name 'link*' -delete"]);
    assert!(lb.machine().output(&mut remove)?.status.success());
    // The kernel takes a moment.
    wait::until("the program to be gone", SOON, || attached().is_ok_and(|attached| !attached))?;
    wait::until("the program to be back", SOON, || attached().is_ok_and(|attached| attached))?;
    load.wait_steady(load.mark(), 30, SOON)?;
    let log = std::fs::read_to_string(lb.log())?;
    assert!(log.contains("somebody has taken the XDP program off"), "{log}");
    Ok(())
}
