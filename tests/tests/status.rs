//! `xvip status` and `xvip flows` as people see them, with the daemon up and down, and what programs are told: every `--json`
//! against the schema that the binary prints. Needs root.
//!
//! Runner: threads 2

use std::error::Error;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::json_schema::validate;
use lb_tests::measure::ClientProcess;
use lb_tests::node::LbNode;
use lb_tests::pty::Pty;
use lb_tests::topology::{Connections, Family, Lab};
use lb_tests::traffic::start;
use lb_tests::wait;
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(60);

/// Six connections that stay.
fn hold(lab: &Lab) -> Result<ClientProcess, Box<dyn Error>> {
    let held = lab.hold(&Connections { count: 6, parallel: 1, ..Connections::default() })?;
    held.wait_done(SOON)?;
    Ok(held)
}

fn json(output: &Output) -> Result<Value, Box<dyn Error>> {
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{error}: {output:?}").into())
}

/// What a command prints, held against the schema that it prints. Its exit code is one of these.
fn held_against(lb: &LbNode, command: &mut Command, codes: &[i32]) -> Result<Value, Box<dyn Error>> {
    // The words before the options and names: `vip release`, `status`.
    let words: Vec<_> = command.get_args().map(OsStr::to_owned).collect();
    let count = if words[0] == "vip" { 2 } else { 1 };
    let mut asked = Command::new(lb.program());
    let schema = lb.machine().output(asked.args(&words[..count]).arg("--json-schema"))?;
    assert!(schema.status.success(), "{words:?}: {schema:?}");
    let output = lb.machine().output(command)?;
    assert!(output.status.code().is_some_and(|code| codes.contains(&code)), "{words:?}: {output:?}");
    let value = json(&output)?;
    let schema = String::from_utf8(schema.stdout)?;
    validate(&schema, &value).map_err(|why| format!("{words:?}: {why}\n{value:#}"))?;
    Ok(value)
}

/// Of a command that asks the daemon.
fn checked(lb: &LbNode, words: &[&str], code: i32) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new(lb.program());
    command.args(words).arg("--socket").arg(lb.socket_path()).env("STATE_DIRECTORY", lb.state_dir());
    held_against(lb, &mut command, &[code])
}

/// What a terminal of that width shows.
fn screen(
    lb: &LbNode,
    words: &[&str],
    columns: u16,
    no_color: bool,
) -> Result<(String, String), Box<dyn Error>> {
    let mut command = lb.tool(words);
    if words[0] == "status" {
        command.arg("--socket").arg(lb.socket_path());
    }
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let mut pty = Pty::start(lb.machine(), &command, columns, 100)?;
    let status = pty.wait_end(SOON)?;
    let screen = pty.screen();
    assert!(status.success(), "{status}: {screen}");
    println!("{words:?} on {columns} columns{}:\n{screen}\n", if no_color { ", no colour" } else { "" });
    Ok((screen, pty.written()))
}

#[test]
fn status_and_flows_fit_the_screen_with_the_daemon_up_and_down() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let held = hold(&lab)?;
    let socket = lb.socket_path().display().to_string();
    for is_up in [true, false] {
        if !is_up {
            lb.kill();
        }
        for columns in [80, 200] {
            for (words, parts) in [
                (&["status"][..], &["master1", "master2", "master3", "backend", "share", "172.16.0.10"][..]),
                (&["flows"][..], &["client", "master", "established", " flows ("][..]),
            ] {
                let (shown, written) = screen(lb, words, columns, false)?;
                for part in parts {
                    assert!(shown.contains(part), "{part} in\n{shown}");
                }
                // What is wider than the screen would go on in the next row; so a row ends where a line does.
                let plain: Vec<&str> = shown.lines().collect();
                let lines = written.matches('\n').count();
                assert!(plain.len() <= lines, "{} rows of {lines} lines:\n{shown}", plain.len());
                assert!(written.contains("\x1b["), "{written:?}");
                let (same, written) = screen(lb, words, columns, true)?;
                assert!(!written.contains("\x1b[3") && !written.contains("\x1b[1;3"), "{written:?}");
                assert!(parts.iter().all(|part| same.contains(part)), "{same}");
            }
        }
        let (shown, _) = screen(lb, &["status"], 80, false)?;
        assert_eq!(shown.starts_with("vrrp main: active for "), is_up, "{shown}");
        assert_eq!(shown.starts_with("the daemon is down: xvip is not running"), !is_up, "{shown}");
        let piped = lb.xvip_with_config(&["status"])?;
        assert!(piped.status.success() && !piped.stdout.contains(&0x1b), "{piped:?}");
        assert!(String::from_utf8(piped.stdout)?.contains("next hop"), "a pipe has every column; {socket}");
    }
    drop(held);
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_its_maps_to_tell() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let held = hold(&lab)?;
    let before = lb.status()?;
    let active = |value: &Value| -> u64 {
        let services = value["services"].as_array().into_iter().flatten();
        let backends = services.flat_map(|service| service["backends"].as_array().into_iter().flatten());
        backends.filter_map(|backend| backend["flows"]["active"].as_u64()).sum()
    };
    wait::until("the flows to be counted", SOON, || {
        lb.status().is_ok_and(|status| active(&status.raw) == 6)
    })?;
    assert_eq!(before.raw["daemon"], "up");
    lb.kill();
    let config = lb.config_path().display().to_string();
    let words = ["status", "--json", "--config", &config];
    let down = checked(lb, &words, 0)?;
    assert_eq!(down["daemon"], "down");
    assert_eq!(active(&down), 6);
    let without = &down["without_daemon"];
    assert_eq!(
        (&without["forwarding"], &without["vips"][0]["present"]),
        (&true.into(), &true.into()),
        "{without}"
    );
    assert_eq!(without["vips"][0]["vrrp"], "main");
    let since = without["since"].as_str().ok_or("a time")?;
    assert!(humantime::parse_rfc3339(since)?.elapsed()? < SOON, "{since}");
    assert_eq!(down["interface"]["xdp_mode"], before.raw["interface"]["xdp_mode"]);
    for (service, was) in down["services"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(before.raw["services"].as_array().into_iter().flatten())
    {
        assert_eq!(service["name"], was["name"]);
        assert_eq!(service["usable"], was["usable"]);
        for (backend, was) in service["backends"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(was["backends"].as_array().into_iter().flatten())
        {
            assert_eq!(backend["state"], "unknown");
            for same in ["name", "address", "weight", "share", "next_hop"] {
                assert_eq!(backend[same], was[same], "{same}");
            }
        }
    }
    // The lease is over soon: who may have taken the VIP over must not be answered against.
    wait::until("ARP for the VIP to be silenced", SOON, || {
        checked(lb, &words, 0).is_ok_and(|down| down["without_daemon"]["vips"][0]["silenced"] == true)
    })?;
    // Without a configuration the addresses are names.
    let bare = checked(lb, &["status", "--json", "--config", "/nowhere.toml"], 0)?;
    let first = &bare["services"][0]["backends"][0];
    assert_eq!((&first["name"], active(&bare)), (&first["address"], 6), "{bare:#}");
    // Where there are no maps, there is nothing to show.
    let elsewhere = lb.config_path().with_file_name("elsewhere.toml");
    let text = std::fs::read_to_string(lb.config_path())?;
    let text = text.replacen("[node]\n", "[node]\npin_path = \"/sys/fs/bpf/elsewhere\"\n", 1);
    std::fs::write(&elsewhere, text)?;
    let nothing = lb.xvip(&["status", "--config", &elsewhere.display().to_string()])?;
    assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
    let said = String::from_utf8(nothing.stderr)?;
    assert!(said.contains("xvip is not running") && said.contains("no data plane at"), "{said}");

    lb.start()?;
    let up = checked(lb, &words, 0)?;
    assert_eq!((&up["daemon"], up.get("without_daemon")), (&"up".into(), None));
    drop(held);
    Ok(())
}

/// Who is not root is told what to do, with the daemon up and down; nothing of what is there is shown.
#[test]
fn who_has_no_rights_is_told_what_to_do() -> TestResult {
    let lab = start(Lab::builder().lbs(1).masters(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    // The way to the files is everybody's; what is in them is not.
    std::fs::set_permissions(lab.dir(), std::fs::Permissions::from_mode(0o755))?;
    let (socket, config) = (lb.socket_path(), lb.config_path());
    // A user and a group that nobody is in.
    let as_nobody = |words: &[&str]| -> Result<(Option<i32>, String, String), Box<dyn Error>> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65533", "--regid=65533", "--clear-groups", "--inh-caps=-all"]);
        command.arg(lb.program()).args(words).arg("--config").arg(&config);
        if words[0] != "flows" {
            command.arg("--socket").arg(&socket);
        }
        let output = lb.machine().output(&mut command)?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code(), text(output.stdout), text(output.stderr)))
    };
    let forbidden =
        format!("error: {}: permission denied; run it as root, or as a member of", socket.display());
    for words in [&["status"][..], &["status", "--json"]] {
        let (code, out, err) = as_nobody(words)?;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}: {err}");
        assert!(err.starts_with(&forbidden), "{words:?}: {err}");
    }
    let (code, out, err) = as_nobody(&["explain", "main"])?;
    assert!(code != Some(0) && out.is_empty() && err.contains("ermission denied"), "{code:?} {out} {err}");

    // The flows are in maps alone.
    let maps = "the maps at /sys/fs/bpf";
    let (code, out, err) = as_nobody(&["flows"])?;
    assert!(code != Some(0) && out.is_empty() && !err.is_empty(), "{code:?} {out} {err}");
    lb.kill();
    std::fs::remove_file(&socket)?;
    for words in [&["status"][..], &["status", "--json"]] {
        let (code, out, err) = as_nobody(words)?;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}: {err}");
        assert!(err.starts_with("error: xvip is not running"), "{words:?}: {err}");
        assert!(err.contains(maps) && err.contains("are only for root: run it as root"), "{words:?}: {err}");
    }
    Ok(())
}

#[test]
fn what_programs_are_told_is_as_the_schemas_say() -> TestResult {
    let lab = start(Lab::builder().lbs(2).patience(5), &Family::BOTH, |_| {})?;
    let lb = lab.lb(0);
    let held = hold(&lab)?;
    let status = checked(lb, &["status", "--json"], 0)?;
    assert!(status["services"].as_array().is_some_and(|services| !services.is_empty()), "{status}");
    assert!(lb.xvip(&["backend", "drain", "master1", "--deadline", "1h"])?.status.success());
    assert!(lb.xvip(&["backend", "weight", "master2", "50"])?.status.success());
    checked(lb, &["status", "--json"], 0)?;
    checked(lb, &["rebalance", "--dry-run", "--json"], 0)?;
    assert!(lb.xvip(&["backend", "enable", "master1"])?.status.success());

    let asked_of = |words: &[&str], codes: &[i32]| held_against(lb, &mut lb.tool(words), codes);
    let flows = asked_of(&["flows", "--json"], &[0])?;
    assert!(flows.as_array().is_some_and(|flows| flows.len() >= 6), "{flows}");
    asked_of(&["check", "--json"], &[0])?;
    let port = flows[0]["nat_port"].as_u64().ok_or("a NAT port")?.to_string();
    let who = asked_of(&["who", "--json", "--nat-port", &port, "--at", "now"], &[0, 1])?;
    assert!(who.is_object(), "{who}");
    let socket = lb.socket_path().display().to_string();
    let explained = asked_of(&["explain", "master1", "--json", "--socket", &socket], &[0])?;
    assert!(explained.is_object(), "{explained}");
    asked_of(&["doctor", "--json", "--listen", "1s", "--socket", &socket], &[0, 1])?;
    // One decision is enough; the health checks' neighbours and adverts make some.
    let client = lab.client_address(Family::V4).to_string();
    let trace = std::thread::scope(|scope| {
        let traced = scope.spawn(|| {
            asked_of(&["trace", "--json", "--client", &client, "--count", "1", "--seconds", "20"], &[0])
                .map_err(|error| error.to_string())
        });
        while !traced.is_finished() {
            let _ = lab.curl(&["--max-time", "1", &lab.vip_url("/version")]);
        }
        traced.join().unwrap_or_else(|_| Err("the tracer panicked".to_owned()))
    })?;
    assert!(trace["verdict"].is_string(), "{trace}");

    let good = std::fs::read_to_string(lb.config_path())?;
    std::fs::write(lb.config_path(), good.replacen("port =", "prot =", 1))?;
    let refused = asked_of(&["check", "--json"], &[2])?;
    assert!(refused["errors"][0]["line"].is_u64(), "{refused}");
    std::fs::remove_file(lb.config_path())?;
    asked_of(&["check", "--json"], &[2])?;
    std::fs::write(lb.config_path(), good)?;

    let released = checked(lb, &["vip", "release", "main", "--json"], 0)?;
    assert_eq!(released["instances"][0]["well"], true, "{released}");
    let unknown = checked(lb, &["vip", "release", "nobody", "--json"], 2)?;
    assert!(unknown["error"].is_string(), "{unknown}");
    drop(held);
    Ok(())
}
