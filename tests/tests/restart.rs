//! Planned restarts: the daemon leaves, its successor goes on, and nobody notices: neither clients, nor the other node,
//! whether that is xvip or keepalived, nor whoever asks for the VIP's Ethernet address. Needs root.
//!
//! Runner: threads 1, minutes 12

#[path = "failover/keepalived.rs"]
mod keepalived;
#[path = "forwarding/streams.rs"]
mod streams;

use std::{
    error::Error,
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use lb_tests::{
    asker::{Asker, silence},
    measure::ClientProcess,
    node::LbNode,
    sampler::Sampler,
    topology::{Family, Lab, host},
    wait,
};
use serde_json::Value;

use keepalived::Keepalived;
use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;
type Mac = [u8; 6];

const CLIENT: Mac = [2, 0, 0xac, 16, 0, 100];
const LB1: Mac = [2, 0, 0xac, 16, 0, 2];
/// The other node would take over after that long without the parting word: three intervals of 200 ms and the skew time.
const DOWN: Duration = Duration::from_millis(750);
/// What a busy machine may add to the 10 ms between two questions.
const SLACK: Duration = Duration::from_millis(400);

/// Two nodes, `lb1` active; streams, requests, and somebody who asks for the VIP.
struct Scene {
    streams: Streams,
    load: ClientProcess,
    asker: Asker,
    sampler: Sampler,
    lab: Lab,
}

impl Scene {
    fn new(version: u8) -> Result<Self, Box<dyn Error>> {
        let lab = Lab::builder().lbs(2).build()?;
        for lb in lab.lbs() {
            lb.configure(|config| {
                for vrrp in &mut config.vrrp {
                    vrrp.version = version;
                    if version == 2 {
                        vrrp.advert_interval = Some("1s".to_owned());
                    }
                }
            })?;
        }
        lab.start_lbs()?;
        lab.wait_owner(Some("lb1"), SOON)?;
        let family = Family::V4;
        let asker = Asker::begin(lab.client(), CLIENT, lab.client_address(family), family.vip())?;
        let machines: Vec<_> = lab.lbs().iter().map(LbNode::machine).collect();
        let sampler = Sampler::begin(&machines, family.vip())?;
        let streams = Streams::open(&lab, 9)?;
        let load = lab.steady_load(SOON)?;
        Ok(Self { streams, load, asker, sampler, lab })
    }

    /// What the other node's router has been through: its state, since when, and how often it changed.
    fn witnessed(&self) -> Result<(Value, Value), Box<dyn Error>> {
        let status = self.lab.lb(1).status()?.raw;
        let vrrp = &status["vrrp"][0];
        Ok((vrrp["state"].clone(), vrrp["since"].clone()))
    }

    /// Nothing that anybody could notice happens while `restart` does.
    fn nobody_notices(&self, what: &str, restart: impl FnOnce(&LbNode) -> TestResult) -> TestResult {
        let lb = self.lab.lb(0);
        let before = self.witnessed()?;
        assert_eq!(before.0, "backup", "{what}");
        let (begin, mark) = (Instant::now(), self.load.mark());
        restart(lb)?;
        let took = begin.elapsed();
        wait::until("lb1 to be active", SOON, || {
            lb.status().is_ok_and(|status| status.vrrp_state() == "active")
        })?;
        // Long enough for the other node to take over, had the successor not said that it is there.
        sleep(2 * DOWN);
        self.load.wait_answered(mark, 50, SOON)?;
        let (held, answers) = (self.sampler.since(begin, &[0, 1]), self.asker.since(begin));
        let silent = silence(&answers, begin, Instant::now());
        println!(
            "{what}: {took:.0?}; two owners for {:?}, none for {:?}; ARP unanswered for {silent:.0?} at most; \
             no answer for {:.0?}; {} of {} requests failed",
            held.both,
            held.none,
            self.load.longest_gap(mark),
            self.load.failed(mark),
            self.load.answered(mark),
        );
        assert_eq!(self.witnessed()?, before, "{what}: the other node has noticed");
        assert_eq!((held.both, held.none), (Duration::ZERO, Duration::ZERO), "{what}");
        assert!(answers.iter().all(|answer| answer.mac == LB1), "{what}: somebody else answers");
        assert!(silent < SLACK, "{what}: ARP was not answered for {silent:?}");
        assert_eq!(self.load.failed(mark), 0, "{what}: {:?}", self.load.failures(mark));
        self.streams.go_on()?;
        Ok(())
    }
}

/// How long the VIP's router was not there: from the old daemon's last line to the successor's resuming.
fn log_of(lb: &LbNode) -> String {
    fs::read_to_string(lb.log()).unwrap_or_default()
}

#[test]
fn leaving_and_starting_moves_nothing() -> TestResult {
    let scene = Scene::new(3)?;
    for round in 0..3 {
        scene.nobody_notices("SIGUSR2 and start", |lb| {
            let (status, took) = lb.leave()?;
            assert!(status.success(), "{status}");
            println!("left after {took:.0?}");
            assert!(lb.holds_vip(), "the address is the successor's");
            // Longer than the other node would wait without a word; twice nearly as long as it does with one.
            sleep([DOWN, Duration::from_secs(3), Duration::from_secs(5)][round]);
            Ok(lb.start()?)
        })?;
    }
    assert!(log_of(scene.lab.lb(0)).contains("succeeding a daemon that left"));
    Ok(())
}

#[test]
fn a_daemon_that_is_replaced_moves_nothing() -> TestResult {
    let scene = Scene::new(3)?;
    for _ in 0..3 {
        scene.nobody_notices("xvip run --replace", |lb| {
            let former = lb.daemon_id();
            lb.replace()?;
            assert_ne!(lb.daemon_id(), former);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn version_2_waits_for_its_own_down_interval_only() -> TestResult {
    // Nothing longer can be said there: three seconds and some, of which starting takes a part.
    let scene = Scene::new(2)?;
    scene.nobody_notices("xvip run --replace, version 2", |lb| Ok(lb.replace()?))
}

#[test]
fn without_a_successor_the_node_falls_silent_and_the_other_takes_over() -> TestResult {
    let scene = Scene::new(3)?;
    let begin = Instant::now();
    scene.lab.lb(0).leave()?;
    let heir = wait::value("lb2 to be active", 2 * SOON, || {
        let is_active = scene.lab.lb(1).status().is_ok_and(|status| status.vrrp_state() == "active");
        is_active.then(|| begin.elapsed())
    })?;
    println!("lb2 is active after {heir:.1?}");
    assert!(heir > Duration::from_secs(8), "it was told to wait longer: {heir:?}");
    scene.load.wait_steady(scene.load.mark(), 30, SOON)?;
    let answers = scene.asker.since(begin);
    let last = answers.iter().rfind(|answer| answer.mac == LB1).map(|answer| answer.at);
    let first = answers.iter().find(|answer| answer.mac != LB1).map(|answer| answer.at);
    let (last, first) = last.zip(first).ok_or("nobody answered")?;
    println!("lb1 answered until {:.2?}, lb2 from {:.2?} on", last - begin, first - begin);
    assert!(last < first, "two answered");
    assert!(last - begin > Duration::from_secs(7), "it fell silent too early");

    // Much too late.
    scene.lab.lb(0).start()?;
    assert!(!log_of(scene.lab.lb(0)).contains("succeeding a daemon that left"));
    scene.lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

#[test]
fn a_node_that_comes_meanwhile_becomes_the_only_owner() -> TestResult {
    let scene = Scene::new(3)?;
    let begin = Instant::now();
    scene.lab.lb(0).leave()?;
    // It has forgotten the word that it was given.
    scene.lab.lb(1).kill();
    scene.lab.lb(1).start()?;
    wait::until("lb2 to be active", SOON, || {
        scene.lab.lb(1).status().is_ok_and(|status| status.vrrp_state() == "active")
    })?;
    let active = Instant::now();
    sleep(Duration::from_millis(1500));
    let late = scene.asker.since(active + Duration::from_millis(700));
    assert!(!late.is_empty() && late.iter().all(|answer| answer.mac != LB1), "both answer");
    println!("lb2 alone answers {:.1?} after lb1 has left", begin.elapsed());
    // The successor outranks it, and takes the VIP back as a node that starts does.
    scene.lab.lb(0).start()?;
    assert!(log_of(scene.lab.lb(0)).contains("another node has become active meanwhile"));
    scene.lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

#[test]
fn keepalived_waits_for_the_successor_too() -> TestResult {
    const LONGER: Duration = Duration::from_secs(6);
    let lab = Lab::builder().lbs(1).build()?;
    let peer = lab.add_machine("old", 3, false)?;
    let lb = lab.lb(0);
    lb.configure(|config| {
        for vrrp in &mut config.vrrp {
            vrrp.priority = 200;
            vrrp.advert_interval = Some("1s".to_owned());
            vrrp.unicast = Some((host(2).into(), vec![host(3).into()]));
        }
    })?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let other = Keepalived::start(&peer, lab.dir(), 3, None, [host(3), host(2)])?;
    sleep(Duration::from_secs(5));
    other.wait_vip(false)?;
    let load = lab.steady_load(SOON)?;
    let sampler = Sampler::begin(&[lb.machine(), &peer], Family::V4.vip())?;
    let (begin, mark) = (Instant::now(), load.mark());
    lb.leave()?;
    // Without the word it would have taken over after 3.6 s.
    sleep(LONGER);
    lb.start()?;
    sleep(Duration::from_secs(5));
    assert!(sampler.is_held_by(&[0], &[0, 1]), "keepalived has taken over");
    let held = sampler.since(begin, &[0, 1]);
    assert_eq!((held.both, held.none), (Duration::ZERO, Duration::ZERO));
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    // And it still takes over from one that dies.
    lb.kill();
    other.wait_vip(true)?;
    Ok(())
}

#[test]
fn killed_and_started_again_flows_go_on() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    lab.start_lbs()?;
    let streams = Streams::open(&lab, 9)?;
    let load = lab.steady_load(SOON)?;
    let mark = load.mark();
    for _ in 0..3 {
        lab.lb(0).kill();
        lab.lb(0).start()?;
        lab.wait_owner(Some("lb1"), SOON)?;
        streams.go_on()?;
    }
    load.wait_answered(mark, 50, SOON)?;
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    Ok(())
}
