//! What an LB node depends on beside its own data plane: scripts, other interfaces, and witnesses. Needs root, for the
//! network namespaces.

use std::error::Error;
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::node::{LbNode, VrrpStatus};
use lb_tests::topology::Lab;
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// Two nodes, of which the first has more keys in its `[[vrrp]]`.
fn running_lab(first: &str) -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(2).build()?;
    lab.lb(0).configure(|config| config.vrrp[0].extra.extend(first.lines().map(str::to_owned)))?;
    lab.start_lbs()?;
    Ok(lab)
}

/// A `[[vrrp.track]]` with a shell script that is started once a second, and has as long.
fn script(text: &str, more: &str) -> String {
    format!(
        "[[vrrp.track]]\nkind = \"script\"\ncommand = [\"/bin/sh\", \"-c\", {text:?}]\ninterval = \"1s\"\n{more}"
    )
}

/// Runs a shell script on the node.
fn shell(lb: &LbNode, text: &str) -> Result<Output, Box<dyn Error>> {
    Ok(lb.machine().output(Command::new("sh").args(["-c", text]))?)
}

fn succeed(lb: &LbNode, text: &str) -> Result<String, Box<dyn Error>> {
    let output = shell(lb, text)?;
    assert!(output.status.success(), "{text}: {output:?}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The first instance of a node, as soon as it is as wanted.
fn vrrp(lb: &LbNode, what: &str, wanted: impl Fn(&VrrpStatus) -> bool) -> Result<VrrpStatus, Box<dyn Error>> {
    let newest = || lb.status().ok()?.vrrp.into_iter().next();
    wait::value(what, SOON, || newest().filter(&wanted))
        .map_err(|error| format!("{error}; {:?}", newest()).into())
}

/// The first track of a node.
fn track(lb: &LbNode) -> Result<serde_json::Value, Box<dyn Error>> {
    Ok(lb.status()?.raw["vrrp"][0]["tracks"][0].clone())
}

#[test]
fn a_script_without_weight_is_a_fault_when_it_fails() -> TestResult {
    let text = "echo \"$XVIP_INSTANCE is broken\" >&2; test ! -e /run/broken || exit 3";
    let lab = running_lab(&script(text, "fall = 2"))?;
    let lb1 = lab.lb(0);
    for _ in 0..3 {
        lab.wait_owner(Some("lb1"), SOON)?;
        assert_eq!(track(lb1)?["state"], "up", "{}", track(lb1)?);
        succeed(lb1, "touch /run/broken")?;
        lab.wait_owner(Some("lb2"), SOON)?;
        let fault = vrrp(lb1, "lb1 to be in fault", |vrrp| vrrp.state == "fault")?;
        assert!(fault.reason.contains("exit 3: main is broken"), "{fault:?}");
        assert_eq!(track(lb1)?["state"], "down", "{}", track(lb1)?);
        let status = String::from_utf8(lb1.xvip(&["status"])?.stdout)?;
        assert!(
            status.lines().any(|line| line.contains("script /bin/sh -c") && line.contains(": down since")),
            "{status}"
        );
        succeed(lb1, "rm /run/broken")?;
    }
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

#[test]
fn a_script_that_fails_at_the_start_keeps_its_node_from_claiming_anything() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let lb = lab.lb(0);
    let keys = script("sleep 0.7; test -e /run/ready", "").replace("\"1s\"", "\"5s\"");
    lb.configure(|config| config.vrrp[0].extra.extend(keys.lines().map(str::to_owned)))?;
    lb.start_within(SOON)?;
    let fault = vrrp(lb, "the first result", |vrrp| {
        assert_ne!(vrrp.state, "active", "it claims the VIP without knowing");
        vrrp.state == "fault"
    })?;
    assert!(fault.reason.contains("exit 1"), "{fault:?}");
    assert!(!lb.holds_vip());
    succeed(lb, "touch /run/ready")?;
    lab.wait_owner(Some("lb1"), SOON)?;
    Ok(())
}

#[test]
fn a_negative_weight_counts_while_a_script_fails() -> TestResult {
    let lab = running_lab(&script("test ! -e /run/broken", "weight = -50"))?;
    let lb1 = lab.lb(0);
    lab.wait_owner(Some("lb1"), SOON)?;
    assert_eq!(vrrp(lb1, "any status", |_| true)?.priority, 100);
    succeed(lb1, "touch /run/broken")?;
    lab.wait_owner(Some("lb2"), SOON)?;
    let backup = vrrp(lb1, "lb1 to be a backup", |vrrp| vrrp.state == "backup")?;
    assert_eq!(backup.priority, 50, "{backup:?}");
    // It is there when nobody else is.
    assert!(lab.lb(1).stop()?.0.success());
    lab.wait_owner(Some("lb1"), SOON)?;
    lab.lb(1).start_within(SOON)?;
    lab.wait_owner(Some("lb2"), SOON)?;
    succeed(lb1, "rm /run/broken")?;
    lab.wait_owner(Some("lb1"), SOON)?;
    assert_eq!(vrrp(lb1, "any status", |_| true)?.priority, 100);
    Ok(())
}

#[test]
fn a_script_that_hangs_is_killed_with_all_its_children_and_is_never_root() -> TestResult {
    // The child has the shell's output, and would keep it open.
    let text = "test -e /run/hang || { id -u; exit 0; }; id -u >> /run/hang; id -G >> /run/hang; \
                sleep 6000 & echo $$ $! >> /run/hang; sleep 6000";
    let lab = running_lab(&script(text, "user = \"daemon\""))?;
    let lb1 = lab.lb(0);
    lab.wait_owner(Some("lb1"), SOON)?;
    assert_eq!(track(lb1)?["reason"], "exit 0: 1", "{}", track(lb1)?);
    succeed(lb1, "touch /run/hang && chmod 666 /run/hang")?;
    lab.wait_owner(Some("lb2"), SOON)?;
    let fault = vrrp(lb1, "lb1 to be in fault", |vrrp| vrrp.state == "fault")?;
    assert!(fault.reason.contains("no end within 1s"), "{fault:?}");
    succeed(lb1, "mv /run/hang /run/hung")?;
    lab.wait_owner(Some("lb1"), SOON)?;

    let hung = succeed(lb1, "cat /run/hung")?;
    let ids: Vec<&str> = hung.lines().take(2).collect();
    assert_eq!(ids, ["1", "1"], "daemon and its only group: {hung}");
    gone(lb1, &hung)?;

    // What runs at the end of the daemon ends with it.
    succeed(lb1, "touch /run/hang && chmod 666 /run/hang")?;
    wait::until("another one to hang", SOON, || {
        succeed(lb1, "cat /run/hang").is_ok_and(|hang| hang.lines().count() >= 3)
    })?;
    let (status, _) = lb1.stop()?;
    assert!(status.success(), "{status}");
    gone(lb1, &succeed(lb1, "cat /run/hang")?)
}

/// Waits until the two processes are gone that a script that hangs has named in its third line.
fn gone(lb: &LbNode, said: &str) -> TestResult {
    let pids: Vec<&str> = said.lines().nth(2).unwrap_or_default().split(' ').collect();
    assert_eq!(pids.len(), 2, "{said}");
    // Nobody reaps orphans on this machine.
    let alive = |pid: &&str| {
        shell(lb, &format!("grep -v ') Z ' /proc/{pid}/stat")).is_ok_and(|output| output.status.success())
    };
    wait::until("both to be gone", SOON, || !pids.iter().any(alive))?;
    Ok(())
}

#[test]
fn a_user_that_does_not_exist_is_a_reason() -> TestResult {
    let lab = running_lab(&script("true", "user = \"nobody-at-all\""))?;
    lab.wait_owner(Some("lb2"), SOON)?;
    let fault = vrrp(lab.lb(0), "lb1 to be in fault", |vrrp| vrrp.state == "fault")?;
    assert!(fault.reason.contains("user nobody-at-all does not exist"), "{fault:?}");
    Ok(())
}

#[test]
fn an_interface_must_be_there_and_up_and_have_a_carrier() -> TestResult {
    let lab = running_lab("[[vrrp.track]]\nkind = \"interface\"\ninterface = \"uplink\"")?;
    let lb1 = lab.lb(0);
    lab.wait_owner(Some("lb2"), SOON)?;
    let add = "ip link add uplink type veth peer name far && ip link set uplink up && ip link set far up";
    for (breaking, reason, mending) in [
        ("true", "interface uplink: does not exist", add),
        ("ip link set far down", "interface uplink: has no carrier", "ip link set far up"),
        ("ip link set uplink down", "interface uplink: is down", "ip link set uplink up"),
        ("ip link delete uplink", "interface uplink: does not exist", add),
    ] {
        succeed(lb1, breaking)?;
        vrrp(lb1, reason, |vrrp| vrrp.state == "fault" && vrrp.reason.contains(reason))?;
        lab.wait_owner(Some("lb2"), SOON)?;
        succeed(lb1, mending)?;
        lab.wait_owner(Some("lb1"), SOON)?;
    }
    Ok(())
}

#[test]
fn a_reload_starts_and_ends_what_it_changes() -> TestResult {
    let lab = running_lab(&script("test ! -e /run/broken", ""))?;
    let lb1 = lab.lb(0);
    lab.wait_owner(Some("lb1"), SOON)?;
    succeed(lb1, "touch /run/broken")?;
    lab.wait_owner(Some("lb2"), SOON)?;
    // The same failure costs only priority now.
    lb1.configure(|config| config.vrrp[0].extra.push("weight = -5".to_owned()))?;
    assert!(lb1.xvip(&["reload"])?.status.success());
    lab.wait_owner(Some("lb1"), SOON)?;
    assert_eq!(vrrp(lb1, "any status", |_| true)?.priority, 95);
    lb1.configure(|config| config.vrrp[0].extra.clear())?;
    assert!(lb1.xvip(&["reload"])?.status.success());
    vrrp(lb1, "the configured priority", |vrrp| vrrp.state == "active" && vrrp.priority == 100)?;
    assert!(track(lb1)?.is_null());
    Ok(())
}

#[test]
fn a_node_that_is_cut_off_does_not_claim_the_vip_and_one_that_is_not_does() -> TestResult {
    let lab = Lab::builder().lbs(2).build()?;
    let witness = format!("witness = [\"172.16.0.250\", \"{}\"]", lab.master(0).address());
    for lb in lab.lbs() {
        lb.configure(|config| config.vrrp[0].extra.push(witness.clone()))?;
    }
    lab.start_lbs()?;
    lab.wait_owner(Some("lb1"), SOON)?;
    let lb2 = lab.lb(1);
    let answers =
        |lb: &LbNode| lb.status().is_ok_and(|status| status.raw["vrrp"][0]["witness"]["answers"] == true);
    wait::until("the witness to answer both", SOON, || answers(lab.lb(0)) && answers(lb2))?;

    lab.isolate("lb2")?;
    wait::until("lb2 to see that nobody answers", SOON, || !answers(lb2))?;
    let status = lb2.status()?;
    let problem = status.raw["vrrp"][0]["witness"]["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.starts_with("none of the witnesses 172.16.0.250, "), "{problem}");
    // It hears nobody for many times the interval, and stays where it is.
    let mut looks = 0;
    wait::until("a hundred looks", SOON, || {
        assert!(!lb2.holds_vip(), "cut off, it claims the VIP");
        looks += 1;
        looks == 100
    })?;
    assert_eq!(vrrp(lb2, "any status", |_| true)?.state, "backup");
    lab.heal("lb2")?;
    wait::until("the witness to answer again", SOON, || answers(lb2))?;
    lab.wait_owner(Some("lb1"), SOON)?;

    // A dead node is another matter.
    lab.lb(0).kill();
    lab.wait_owner(Some("lb2"), SOON)?;
    Ok(())
}
