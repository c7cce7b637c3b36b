//! A node whose daemon does not run any more, but whose kernel still has the VIP: who answers for the VIP. Somebody asks
//! every 10 ms by ARP, or by neighbour solicitation. Needs root, for the network namespaces.
//!
//! Both nodes have `preempt = false`, so that a node that comes back has no reason to answer again.
//!
//! Runner: threads 3

use std::error::Error;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use lb_tests::addresses::Family;
use lb_tests::asker::{Answer, Asker, overlap, silence};
use lb_tests::frames::Mac;
use lb_tests::freezer::Freezer;
use lb_tests::node::LbNode;
use lb_tests::topology::Lab;
use lb_tests::wait;
use nix::sys::signal::Signal;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_millis(300);
/// Three intervals of 200 ms: so old the heartbeat may become before XDP keeps the host from answering.
const LEASE: Duration = Duration::from_millis(600);
/// The other node's `Active_Down_Interval` at 200 ms and priority 90.
const DOWN: Duration = Duration::from_millis(730);
const CLIENT: Mac = [2, 0, 0xac, 16, 0, 100];
const LB1: Mac = [2, 0, 0xac, 16, 0, 2];
const LB2: Mac = [2, 0, 0xac, 16, 0, 3];

/// Two nodes, of which `lb1` is active, and somebody who asks.
struct Scene {
    asker: Asker,
    lab: Lab,
    family: Family,
}

impl Scene {
    fn new(family: Family) -> Result<Self, Box<dyn Error>> {
        let lab = Lab::builder().masters(1).families(&[family]).build()?;
        for (n, state) in ["active", "backup"].into_iter().enumerate() {
            let lb = lab.lb(n);
            let [own, peer] = [n, 1 - n].map(|n| lab.lb(n).address_of(family));
            lb.configure(|config| {
                config.small_tables();
                // Of the lab's VIPs the first alone, so that the instance speaks its family.
                config.services.truncate(1);
                for vrrp in &mut config.vrrp {
                    vrrp.preempt = Some(false);
                    vrrp.unicast = Some((own, vec![peer]));
                }
            })?;
            lb.start_within(2 * SOON)?;
            wait_state(lb, state)?;
        }
        let asker = Asker::begin(lab.client(), CLIENT, lab.client_address(family), family.vip())?;
        let scene = Self { asker, lab, family };
        scene.wait_for_answers_of(LB1)?;
        Ok(scene)
    }

    /// Waits until this one alone has answered for a while.
    fn wait_for_answers_of(&self, mac: Mac) -> TestResult {
        const WHILE: Duration = Duration::from_millis(400);
        let steady = || {
            let answers = self.asker.since(Instant::now() - WHILE);
            answers.len() >= 10 && answers.iter().all(|answer| answer.mac == mac)
        };
        wait::until(&format!("answers of {} alone", name(mac)), SOON, steady).map_err(|error| {
            format!("{error}; {}\n{}", self.told(Instant::now() - WHILE), self.lab.last_lines()).into()
        })
    }

    /// How many answers each gave.
    fn told(&self, since: Instant) -> String {
        let answers = self.asker.since(since);
        let of = |mac| answers.iter().filter(|answer| answer.mac == mac).count();
        format!("lb1 answered {} times, lb2 {} times", of(LB1), of(LB2))
    }

    /// lb1 has been dead since `begin`: lb2 takes over, and answers alone from then on.
    fn lb2_takes_over(&self, begin: Instant, how: &str) -> TestResult {
        wait_state(self.lab.lb(1), "active")?;
        self.wait_for_answers_of(LB2)?;
        thread::sleep(2 * LEASE);
        let answers = self.asker.since(begin);
        let last = answers.iter().rfind(|answer| answer.mac == LB1).map(|last| last.at - begin);
        let first = answers.iter().find(|answer| answer.mac == LB2).ok_or("an answer")?.at - begin;
        let both = overlap(&answers, LB1, LB2);
        let nobody = silence(&answers, begin, Instant::now());
        println!(
            "{how}, {:?}: lb1's last answer after {last:?}, lb2's first after {first:?}, both for {both:?}, nobody for {nobody:?}",
            self.family
        );
        assert!(last.is_none_or(|last| last < LEASE + SLACK), "lb1 answers {last:?} after its death");
        assert!(first < LEASE + DOWN + SLACK, "lb2 answers only {first:?} after lb1's death");
        assert!(both <= LEASE, "both have answered for {both:?}");
        assert!(nobody < DOWN + SLACK, "nobody answered for {nobody:?}");
        Ok(())
    }

    /// lb1 has run again since `begin`: it gives the VIP up, and says why; lb2 notices nothing.
    fn lb1_steps_down(&self, begin: Instant, transitions: u64) -> TestResult {
        let lb1 = self.lab.lb(0);
        wait::until("lb1 to give up the VIP", SOON, || !lb1.holds(self.family.vip()))?;
        println!("lb1 gave up the VIP {:?} after it ran again", begin.elapsed());
        assert!(begin.elapsed() < LEASE + SLACK, "lb1 had the VIP for {:?}", begin.elapsed());
        wait_state(lb1, "backup")?;
        thread::sleep(2 * DOWN);
        assert!(
            of(&self.asker.since(begin), LB1).is_empty(),
            "lb1 answers although lb2 is active: {}",
            self.told(begin)
        );
        assert_eq!(lb1.status()?.vrrp_state(), "backup");
        let log = fs::read_to_string(lb1.log())?;
        assert!(log.contains("this process did not run for "), "lb1 does not say why:\n{log}");
        assert_eq!(took_over(self.lab.lb(1))?, transitions, "lb2 has not stayed active");
        assert!(self.lab.lb(1).holds(self.family.vip()));
        let nobody = silence(&self.asker.since(begin), begin, Instant::now());
        assert!(nobody < SLACK, "nobody answered for {nobody:?}");
        Ok(())
    }
}

fn of(answers: &[Answer], mac: Mac) -> Vec<Answer> {
    answers.iter().filter(|answer| answer.mac == mac).copied().collect()
}

fn name(mac: Mac) -> &'static str {
    if mac == LB1 { "lb1" } else { "lb2" }
}

fn wait_state(lb: &LbNode, state: &str) -> TestResult {
    let what = format!("{} to be {state}", lb.name());
    wait::until(&what, SOON, || lb.status().is_ok_and(|status| status.vrrp_state() == state))
        .map_err(|error| format!("{error}; its log:\n{}", lb.last_lines()).into())
}

/// How often a node has become or ceased to be active.
fn took_over(lb: &LbNode) -> Result<u64, Box<dyn Error>> {
    let log = fs::read_to_string(lb.log())?;
    Ok(log.lines().filter(|line| line.contains(" -> active: ") || line.contains(": active -> ")).count()
        as u64)
}

fn stopped(family: Family) -> TestResult {
    let scene = Scene::new(family)?;
    let begin = Instant::now();
    scene.lab.lb(0).signal(Signal::SIGSTOP)?;
    scene.lb2_takes_over(begin, "SIGSTOP")?;
    assert!(scene.lab.lb(0).holds(family.vip()), "its kernel still has the VIP: that is what this is about");
    let (begin, transitions) = (Instant::now(), took_over(scene.lab.lb(1))?);
    scene.lab.lb(0).signal(Signal::SIGCONT)?;
    scene.lb1_steps_down(begin, transitions)
}

#[test]
fn a_stopped_daemon_falls_silent_and_steps_down() -> TestResult {
    stopped(Family::V4)
}

#[test]
fn a_stopped_daemon_falls_silent_and_steps_down_in_ipv6() -> TestResult {
    stopped(Family::V6)
}

#[test]
fn a_frozen_daemon_falls_silent_and_steps_down() -> TestResult {
    let scene = Scene::new(Family::V4)?;
    let freezer = Freezer::of(scene.lab.lb(0).daemon_id().ok_or("a daemon")?)?;
    let begin = Instant::now();
    freezer.freeze()?;
    scene.lb2_takes_over(begin, "frozen")?;
    let (begin, transitions) = (Instant::now(), took_over(scene.lab.lb(1))?);
    freezer.thaw()?;
    scene.lb1_steps_down(begin, transitions)
}

/// 40 ms in each second: it wakes up often enough to do something, and never in time.
#[test]
fn a_starved_daemon_does_not_fight() -> TestResult {
    let scene = Scene::new(Family::V4)?;
    let freezer = Freezer::of(scene.lab.lb(0).daemon_id().ok_or("a daemon")?)?;
    let begin = Instant::now();
    for second in 0..8 {
        freezer.freeze()?;
        thread::sleep(Duration::from_millis(960));
        freezer.thaw()?;
        thread::sleep(Duration::from_millis(40));
        if second < 2 {
            continue;
        }
        let last = scene.asker.since(Instant::now() - Duration::from_secs(1));
        assert!(
            of(&last, LB1).is_empty(),
            "second {second}: {}",
            scene.told(Instant::now() - Duration::from_secs(1))
        );
    }
    let both = overlap(&scene.asker.since(begin), LB1, LB2);
    println!("starved: both answered for {both:?}");
    assert!(both <= LEASE, "both have answered for {both:?}");
    wait_state(scene.lab.lb(1), "active")?;
    assert_eq!(took_over(scene.lab.lb(1))?, 1, "{}", scene.lab.last_lines());
    let begin = Instant::now();
    drop(freezer);
    scene.lb1_steps_down(begin, 1)
}

/// Shorter than the other's patience: advertisements are late, and nothing moves.
#[test]
fn short_pauses_move_nothing() -> TestResult {
    const PAUSE: Duration = Duration::from_millis(300);
    let scene = Scene::new(Family::V4)?;
    let freezer = Freezer::of(scene.lab.lb(0).daemon_id().ok_or("a daemon")?)?;
    let (begin, mut worst) = (Instant::now(), Duration::ZERO);
    for _ in 0..10 {
        let frozen = Instant::now();
        freezer.freeze()?;
        thread::sleep(PAUSE);
        freezer.thaw()?;
        worst = worst.max(frozen.elapsed());
        thread::sleep(PAUSE);
    }
    println!("pauses of up to {worst:?}");
    let moved = (took_over(scene.lab.lb(0))?, took_over(scene.lab.lb(1))?) != (1, 0);
    if worst > DOWN - Duration::from_millis(200) {
        // It was this test that paused, and whoever took over was right.
        println!(
            "SKIP short_pauses_move_nothing: the machine is too busy for a pause of {PAUSE:?}, it took {worst:?}"
        );
        let both = overlap(&scene.asker.since(begin), LB1, LB2);
        assert!(both <= LEASE, "both have answered for {both:?}");
        return Ok(());
    }
    let answers = scene.asker.since(begin);
    assert!(!moved && of(&answers, LB2).is_empty(), "{}\n{}", scene.told(begin), scene.lab.last_lines());
    let nobody = silence(&answers, begin, Instant::now());
    assert!(nobody < SLACK, "nobody answered for {nobody:?}");
    Ok(())
}

#[test]
fn a_backup_that_did_not_run_does_not_take_over_from_a_living_node() -> TestResult {
    let scene = Scene::new(Family::V4)?;
    let freezer = Freezer::of(scene.lab.lb(1).daemon_id().ok_or("a daemon")?)?;
    let begin = Instant::now();
    for pause in [DOWN + Duration::from_millis(50), 2 * DOWN, 4 * DOWN] {
        freezer.freeze()?;
        thread::sleep(pause);
        freezer.thaw()?;
        thread::sleep(2 * DOWN);
    }
    assert!(
        of(&scene.asker.since(begin), LB2).is_empty(),
        "{}\n{}",
        scene.told(begin),
        scene.lab.last_lines()
    );
    assert_eq!(
        (took_over(scene.lab.lb(0))?, took_over(scene.lab.lb(1))?),
        (1, 0),
        "{}",
        scene.lab.last_lines()
    );
    Ok(())
}

fn killed(family: Family) -> TestResult {
    let scene = Scene::new(family)?;
    let lb1 = scene.lab.lb(0);
    let begin = Instant::now();
    lb1.kill();
    scene.lb2_takes_over(begin, "kill -9")?;
    assert!(lb1.holds(family.vip()), "its kernel still has the VIP: that is what this is about");
    // Until somebody starts it again, and then neither.
    let begin = Instant::now();
    thread::sleep(4 * LEASE);
    lb1.start_within(2 * SOON)?;
    wait_state(lb1, "backup")?;
    assert!(!lb1.holds(family.vip()), "what the killed one left is taken away before anything else");
    thread::sleep(2 * DOWN);
    assert!(of(&scene.asker.since(begin), LB1).is_empty(), "{}", scene.told(begin));
    assert_eq!(took_over(scene.lab.lb(1))?, 1, "{}", scene.lab.last_lines());
    Ok(())
}

#[test]
fn a_killed_daemon_s_node_is_silent_and_stays_so() -> TestResult {
    killed(Family::V4)
}

#[test]
fn a_killed_daemon_s_node_is_silent_and_stays_so_in_ipv6() -> TestResult {
    killed(Family::V6)
}
