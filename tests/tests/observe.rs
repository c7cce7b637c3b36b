//! `node.observe` beside a running HAProxy and keepalived: nothing changes, and the status says what xvip would do. Needs
//! root, for the network namespaces, and HAProxy, keepalived, tcpdump and tshark.
//!
//! Runner: threads 2

#[path = "take_over/talks.rs"]
mod talks;

use std::collections::BTreeSet;
use std::error::Error;
use std::net::IpAddr;
use std::process::Output;

use lb_tests::capture::Capture;
use lb_tests::client_host::plain;
use lb_tests::incumbent::IncumbentNode;
use lb_tests::node::{LbNode, Status};
use lb_tests::topology::{Family, Lab, host};
use lb_tests::wait;

use talks::{SOON, Talks};

type TestResult = Result<(), Box<dyn Error>>;

/// New connections while xvip looks.
const NEW: usize = 60;

fn addresses(lb: &LbNode) -> Result<BTreeSet<IpAddr>, Box<dyn Error>> {
    Ok(lb.machine().addresses()?.into_iter().collect())
}

/// How many new connections would have gone to each backend.
fn opened(status: &Status) -> Vec<u64> {
    let all = status.services.iter().flat_map(|service| &service.backends);
    all.map(|backend| backend.flows.opened).collect()
}

/// What a command that succeeds prints, warnings last.
fn printed(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

#[test]
fn an_observer_changes_nothing_and_says_what_it_would_do() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let lb = lab.lb(0);
    let mut node = IncumbentNode::beside(&lab, 0, &[Family::V4])?;
    let mut peer = IncumbentNode::create(&lab, 1)?;
    node.start()?;
    peer.start()?;
    wait::until("the first node to have the VIP alone", SOON, || node.holds_vip() && !peer.holds_vip())?;
    lb.configure(|config| {
        config.small_tables();
        config.services = vec![lab.plain_service(Family::V4)];
        config.node.push("observe = true".to_owned());
    })?;
    let checked = printed(lb.machine().output(&mut lb.tool(&["check"]))?);
    assert!(checked.contains("with `observe` this node changes nothing"), "{checked}");

    let talks = Talks::open(&lab, 20, &[plain(Family::V4)])?;
    talks.go_on()?;
    let before = addresses(lb)?;
    let adverts = Capture::start(&lab, peer.machine(), "eth0", "ip proto 112 or arp")?;

    lb.start()?;
    wait::until("all backends to be up", SOON, || {
        lb.status().is_ok_and(|status| status.backends_up() == lab.masters().len())
    })?;
    talks.go_on()?;
    let of_haproxy = node.sessions("plain")?;
    let new = Talks::open(&lab, NEW, &[plain(Family::V4)])?;
    new.go_on()?;
    talks.go_on()?;

    let status = lb.status()?;
    assert_eq!(node.sessions("plain")?, of_haproxy + NEW as u64, "each new one is HAProxy's");
    let would = opened(&status);
    assert_eq!(would.iter().sum::<u64>(), NEW as u64, "{would:?}");
    assert!(would.iter().all(|opened| *opened > 0), "{would:?}");
    assert_eq!((status.transmitted(), status.packets.dropped.values().sum::<u64>()), (0, 0), "{status:?}");
    assert_eq!((status.flows.established, status.flows.half_open), (0, 0));
    assert!(status.packets.passed["observed"] > 100, "{:?}", status.packets);
    assert_eq!(status.vrrp_state(), "initialize", "it takes no part");
    assert_eq!(addresses(lb)?, before);
    let table = printed(lb.xvip(&["status"])?);
    let said = "  have 172.16.0.10/24 on eth0 while active in VRRP main (VRID ";
    assert!(table.starts_with("observing: ") && table.contains(said), "{table}");
    assert!(table.contains(&format!("of {NEW} new connections seen, master1 ")), "{table}");

    println!("longest round: {:?}, {:?} of the new ones", talks.finish()?, new.finish()?);

    // The peer is heard when it speaks: it takes over, and gives back.
    node.stop_keepalived()?;
    wait::until("the peer to be heard", SOON, || {
        let heard = lb.status().unwrap_or_default().raw["observing"]["vips"][0]["heard"]["address"].clone();
        heard == host(3).to_string() && peer.holds_vip()
    })?;
    assert!(!node.holds_vip(), "xvip has not taken what it could have");
    node.start()?;
    wait::until("the first node to have the VIP again", SOON, || node.holds_vip() && !peer.holds_vip())?;
    let (status, _) = lb.stop()?;
    assert!(status.success(), "{status}");
    assert_eq!(addresses(lb)?, before, "nor does it take anything along");

    let captured = adverts.stop()?;
    let senders = captured.ask("vrrp", &["ip.src", "eth.src"])?;
    let sources: BTreeSet<&String> = senders.iter().collect();
    assert_eq!(sources.len(), 2, "one keepalived each: {sources:?}");
    let versions: BTreeSet<String> = captured.ask("vrrp", &["vrrp.version"])?.into_iter().collect();
    assert_eq!(versions, BTreeSet::from(["2".to_owned()]), "xvip would speak version 3");
    Ok(())
}
