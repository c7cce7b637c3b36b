//! `xvip vip release` and `acquire` on two LB nodes: the VIP goes where it is told to, says so, and answers all the
//! while. Needs root, for the network namespaces.

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Output;
use std::time::{Duration, Instant};

use lb_tests::measure::ClientProcess;
use lb_tests::node::{LbNode, ServiceConfig, VrrpConfig};
use lb_tests::topology::{Lab, PREFIX_LENGTH, VIP};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

fn running_lab(lbs: u8, configure: impl Fn(&LbNode) -> TestResult) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(lbs).build()?;
    lab.lbs().iter().try_for_each(configure)?;
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(lab)
}

/// What a command printed, and its exit code.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.trim().to_owned())
}

fn vip(lb: &LbNode, words: &[&str]) -> Result<(Option<i32>, String), Box<dyn Error>> {
    let words: Vec<&str> = ["vip"].iter().chain(words).copied().collect();
    let (code, text) = said(&lb.xvip(&words)?);
    println!("{}: xvip {}: {text}", lb.name(), words.join(" "));
    Ok((code, text))
}

fn released(lb: &LbNode) -> bool {
    lb.status().is_ok_and(|status| status.raw["vrrp"][0]["released"] == true)
}

#[test]
fn a_release_hands_over_and_an_acquisition_takes_back_while_the_service_answers() -> TestResult {
    const REPEATS: usize = 5;
    let lab = running_lab(2, |_| Ok(()))?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    let load = lab.steady_load(SOON)?;
    let mark = load.mark();
    let mut gaps = Vec::new();
    for _ in 0..REPEATS {
        let round = load.mark();
        let (code, text) = vip(lb1, &["release"])?;
        assert_eq!(code, Some(0), "{text}");
        let expected = format!("released: {VIP} is now at {} (priority 90), took ", lb2.address());
        assert!(text.starts_with(&expected) && text.ends_with(" ms"), "{text}");
        lab.wait_owner(Some("lb2"), SOON)?;
        assert!(released(lb1) && !released(lb2));
        let (_, text) = said(&lb1.xvip(&["status"])?);
        assert!(
            text.contains("released: the VIP is left to any other node, until `xvip vip acquire main`"),
            "{text}"
        );
        // Its higher priority does not bring it back, for many times what that would take.
        answers_everything(&load)?;
        assert_eq!(lab.owner().map(LbNode::name), Some("lb2"));

        let (code, text) = vip(lb1, &["acquire"])?;
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with(&format!("acquired: this node owns {VIP} (priority 100), took ")), "{text}");
        lab.wait_owner(Some("lb1"), SOON)?;
        assert!(!released(lb1));
        answers_everything(&load)?;
        gaps.push(load.longest_gap(round));
    }
    // Nobody but the node that they went through knows the connections that are on their way when the VIP moves.
    println!(
        "{} requests failed in {} moves, no answer for at most {gaps:?}",
        load.failed(mark),
        2 * REPEATS
    );
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(2)), "{gaps:?}");
    Ok(())
}

/// A hundred requests, without a failure once what was on its way has ended.
fn answers_everything(load: &ClientProcess) -> TestResult {
    load.wait_steady(load.mark(), 30, SOON)?;
    let mark = load.mark();
    load.wait_answered(mark, 100, SOON)?;
    let failed = |late: u64| {
        load.read(|tally| {
            tally
                .since(late)
                .filter(|outcome| outcome.result.is_err() && outcome.at_us - outcome.took_us > late)
                .count()
        })
    };
    assert_eq!(failed(mark), 0, "{:?}", load.failures(mark));
    Ok(())
}

#[test]
fn a_released_node_is_there_when_nobody_else_is() -> TestResult {
    let lab = running_lab(2, |_| Ok(()))?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    assert_eq!(vip(lb1, &["release"])?.0, Some(0));
    lab.wait_owner(Some("lb2"), SOON)?;
    assert!(lb2.stop()?.0.success());
    lab.wait_owner(Some("lb1"), SOON)?;
    assert!(released(lb1), "it only stands in");
    let begin = Instant::now();
    let (code, text) = vip(lb1, &["release"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with(&format!("nobody else took {VIP} over: this node owns it again after ")),
        "{text}"
    );
    println!("alone: known after {:?}", begin.elapsed());

    // Whoever comes may have it, whatever its priority.
    lb2.start_within(SOON)?;
    lab.wait_owner(Some("lb2"), SOON)?;
    assert_eq!(vip(lb1, &["acquire"])?.0, Some(0));
    lab.wait_owner(Some("lb1"), SOON)?;

    // One that is not Active is marked, and does not take over from a farewell as long as it is not alone.
    let (code, text) = vip(lb2, &["release"])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("released: this node is backup, and leaves "), "{text}");
    assert!(released(lb2));
    let (code, text) = vip(lb2, &["acquire"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(&format!("{} (priority 100) keeps {VIP}", lb1.address())), "{text}");
    assert!(!released(lb2));
    Ok(())
}

#[test]
fn a_name_is_that_of_an_instance_a_service_or_a_vip() -> TestResult {
    let lab = running_lab(1, |_| Ok(()))?;
    let lb = lab.lb(0);
    let address = VIP.to_string();
    for name in ["main", "kube-apiserver", &address] {
        let (code, text) = vip(lb, &["acquire", name])?;
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(text, format!("this node owns {VIP} (priority 100)"));
    }
    let (code, text) = vip(lb, &["release", "nobody"])?;
    assert_eq!(code, Some(2), "{text}");
    let expected = format!("error: no instance, service or VIP is called \"nobody\"; there are main ({VIP})");
    assert_eq!(text, expected);
    lb.kill();
    let (code, text) = vip(lb, &["release"])?;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("xvip is not running"), "{text}");
    Ok(())
}

#[test]
fn a_sync_group_moves_as_one() -> TestResult {
    const OTHER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 11);
    let lab = running_lab(2, |lb| {
        lb.configure(|config| {
            let mut other =
                VrrpConfig { name: "other".to_owned(), virtual_router_id: 61, ..config.vrrp[0].clone() };
            let backends = config.services[0].backends.clone();
            let service = ServiceConfig::new("other", &format!("{OTHER}/{PREFIX_LENGTH}"), 6443);
            config.services.push(ServiceConfig { vrrp: Some("other".to_owned()), backends, ..service });
            for vrrp in config.vrrp.iter_mut().chain([&mut other]) {
                vrrp.extra.push("sync_group = \"both\"".to_owned());
            }
            config.vrrp.push(other);
        })?;
        Ok(())
    })?;
    let (lb1, lb2) = (lab.lb(0), lab.lb(1));
    let both = |lb: &LbNode| lb.holds(VIP.into()) && lb.holds(IpAddr::V4(OTHER));
    let neither = |lb: &LbNode| !lb.holds(VIP.into()) && !lb.holds(IpAddr::V4(OTHER));
    wait::until("lb1 to own both", SOON, || both(lb1) && neither(lb2))?;
    // The group is the only one; and each name in it means all of it.
    for name in [&["release"][..], &["release", "other"]] {
        let (code, text) = vip(lb1, name)?;
        assert_eq!(code, Some(0), "{text}");
        for line in [
            format!("main: released: {VIP} is now at {} (priority 90), took ", lb2.address()),
            format!("other: released: {OTHER} is now at {} (priority 90), took ", lb2.address()),
        ] {
            assert!(text.lines().any(|found| found.starts_with(&line)), "{line} in {text}");
        }
        wait::until("lb2 to own both", SOON, || both(lb2) && neither(lb1))?;
        let (code, text) = vip(lb1, &["acquire"])?;
        assert_eq!(code, Some(0), "{text}");
        wait::until("lb1 to own both again", SOON, || both(lb1) && neither(lb2))?;
    }
    Ok(())
}
