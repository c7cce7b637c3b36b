//! Configurations, good and bad, as the real `xvip` takes them: checked, run, and read again by a running daemon. Also
//! what its exit codes say. Needs root, for the network namespaces.

#[path = "configuration/mistakes.rs"]
mod mistakes;
#[path = "forwarding/streams.rs"]
mod streams;

use std::error::Error;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use lb_tests::node::{BackendConfig, LbNode, Status, VrrpConfig};
use lb_tests::topology::{Lab, Load};
use lb_tests::wait;
use nix::sys::signal::Signal;

use mistakes::{MISTAKES, Mistake};
use streams::{SOON, Streams};

type TestResult = Result<(), Box<dyn Error>>;

fn running_lab() -> Result<Lab, Box<dyn Error>> {
    let lab = Lab::builder().lbs(1).build()?;
    lab.start_lbs()?;
    Ok(lab)
}

/// The `xvip` that the lab runs, too.
fn xvip() -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("xvip"));
    std::env::var_os("XVIP_BIN").map(PathBuf::from).or_else(beside).expect("a place to look in")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A mistake is named with file, line, key and remedy.
fn assert_named(mistake: &Mistake, text: &str, file: &str, said: &str) {
    let line = 1 + text
        .lines()
        .position(|line| line.contains(mistake.line))
        .unwrap_or_else(|| panic!("{}: no line has {:?}", mistake.name, mistake.line));
    assert!(
        said.contains(&format!("error: {file}:{line}:")),
        "{}: not line {line} in:\n{said}",
        mistake.name
    );
    for part in [mistake.key, mistake.remedy] {
        assert!(said.contains(part), "{}: no {part:?} in:\n{said}", mistake.name);
    }
}

fn reload_error(status: &Status) -> Option<String> {
    Some(status.raw["config"]["last_reload_error"].as_str()?.to_owned())
}

/// What a reload that is refused must not change.
fn in_force(status: &Status) -> serde_json::Value {
    let raw = &status.raw;
    let backend = |b: &serde_json::Value| {
        serde_json::json!([b["name"], b["address"], b["weight"], b["state"], b["since"], b["share"]])
    };
    let service = |s: &serde_json::Value| {
        let backends: Vec<_> = s["backends"].as_array().into_iter().flatten().map(backend).collect();
        serde_json::json!([s["name"], s["vip"], s["port"], s["usable"], backends])
    };
    let services: Vec<_> = raw["services"].as_array().into_iter().flatten().map(service).collect();
    let vrrp: Vec<_> = (raw["vrrp"].as_array().into_iter().flatten())
        .map(|v| serde_json::json!([v["name"], v["state"], v["since"], v["priority"], v["vips"]]))
        .collect();
    serde_json::json!([raw["pid"], raw["config"]["loaded_at"], raw["interface"], services, vrrp])
}

/// Writes the node's file, mistake and all. Returns the text.
fn write(lb: &LbNode, text: String) -> Result<String, Box<dyn Error>> {
    fs::write(lb.config_path(), &text)?;
    Ok(text)
}

#[test]
fn check_refuses_each_mistake_and_accepts_the_file_without_it() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let file = lab.lb(0).config_path();
    let good = lab.lb(0).config().to_toml();
    let check = || Command::new(xvip()).arg("check").arg("--config").arg(&file).output();

    fs::write(&file, &good)?;
    let accepted = check()?;
    assert_eq!(accepted.status.code(), Some(0), "{}", stderr(&accepted));
    let effective = String::from_utf8_lossy(&accepted.stdout).into_owned();
    assert!(effective.contains("fast_interval = \"200ms\""), "defaults are not shown:\n{effective}");
    // What it prints is a configuration, and the same one.
    fs::write(&file, &effective)?;
    let again = check()?;
    assert_eq!(
        (again.status.code(), String::from_utf8_lossy(&again.stdout).into_owned()),
        (Some(0), effective)
    );

    for mistake in MISTAKES {
        let text = mistake.make(&good);
        fs::write(&file, &text)?;
        let refused = check()?;
        let said = stderr(&refused);
        assert_eq!(refused.status.code(), Some(2), "{}: {said}", mistake.name);
        assert!(refused.stdout.is_empty(), "{}", mistake.name);
        assert_named(mistake, &text, &file.display().to_string(), &said);
        assert!(said.trim_end().ends_with(": 1 error"), "{}: one mistake, but:\n{said}", mistake.name);
    }

    // All at once, where they do not hide each other.
    let some: Vec<&Mistake> =
        MISTAKES.iter().filter(|m| ["unknown key", "VRID 0", "port 0"].contains(&m.name)).collect();
    let text = some.iter().fold(good.clone(), |text, mistake| mistake.make(&text));
    fs::write(&file, &text)?;
    let said = stderr(&check()?);
    assert_eq!(some.len(), 3);
    some.iter().for_each(|mistake| assert_named(mistake, &text, &file.display().to_string(), &said));
    assert!(said.trim_end().ends_with(": 3 errors"), "{said}");
    Ok(())
}

#[test]
fn check_shows_what_vrrp_does_but_no_secret() -> TestResult {
    let lab = Lab::builder().lbs(1).build()?;
    let lb = lab.lb(0);
    let file = lb.config_path();
    let key_file = file.with_file_name("vrrp.key");
    fs::write(&key_file, format!("hex:{}\n", "5a".repeat(32)))?;
    let mode = |mode| fs::set_permissions(&key_file, fs::Permissions::from_mode(mode));
    mode(0o600)?;
    lb.configure(|config| {
        let main = &mut config.vrrp[0];
        main.use_virtual_mac();
        main.ask_witnesses(&[
            "172.16.0.1".parse().expect("an address"),
            "2001:db8::1".parse().expect("an address"),
        ]);
        main.track_interface("eth0", -20);
        main.track_script(&["/bin/true", "a b"], &["weight = 20"]);
        main.authenticate(1, "a secret of the lab, of 32 bytes", &["mode = \"permissive\""]);
        main.tables.push(format!("[[vrrp.auth_hmac.key]]\nid = 2\nfile = {key_file:?}"));
    })?;
    let check = || Command::new(xvip()).arg("check").arg("--config").arg(&file).output();
    let accepted = check()?;
    let (shown, said) = (String::from_utf8_lossy(&accepted.stdout).into_owned(), stderr(&accepted));
    assert_eq!(accepted.status.code(), Some(0), "{said}");
    for line in [
        "virtual_mac = true",
        "witness = [\"172.16.0.1\", \"2001:db8::1\"]",
        "mode = \"permissive\"",
        "time_window = \"5s\"",
        "command = [\"/bin/true\", \"a b\"]",
        "timeout = \"2s\"",
        "weight = -20",
        &format!("file = {key_file:?}"),
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line} in:\n{shown}");
    }
    for secret in ["a secret of the lab", "5a5a"] {
        assert!(!format!("{shown}{said}").contains(secret), "{shown}{said}");
    }
    assert!(!said.contains("auth_hmac"), "{said}");
    // Who else can read the key can take the VIP over.
    mode(0o644)?;
    let said = stderr(&check()?);
    assert!(
        said.contains("is not for its owner, and the group of xvip, alone: its mode is 0644")
            && said.contains("run: chmod 640 "),
        "{said}"
    );

    // An instance of IPv6 VIPs alone, and one of IPv4 with the same VRID.
    lb.configure(|config| {
        let mut service = config.services[0].clone();
        service.name = "six".to_owned();
        service.vip = "2001:db8::10/64".to_owned();
        service.vrrp = Some("six".to_owned());
        service.backends = vec![BackendConfig::new("m", "[2001:db8::4]:6443".parse().expect("an address"))];
        config.services.push(service);
        let mut six = VrrpConfig::new("six", 60);
        six.unicast = Some((
            "2001:db8::2".parse().expect("an address"),
            vec!["2001:db8::3".parse().expect("an address")],
        ));
        for instance in [&mut config.vrrp[0], &mut six] {
            instance.join_sync_group("all");
        }
        config.vrrp.push(six);
    })?;
    let accepted = check()?;
    assert_eq!(accepted.status.code(), Some(0), "{}", stderr(&accepted));
    Ok(())
}

#[test]
fn a_bad_reload_keeps_the_old_configuration_running() -> TestResult {
    let lab = running_lab()?;
    let lb = lab.lb(0);
    let streams = Streams::open(&lab, 6)?;
    let load = lab.load(&Load::default())?;
    let mark = load.mark();
    let good = lb.config().to_toml();
    let file = lb.config_path().display().to_string();
    let before = in_force(&lb.status()?);
    assert_eq!(reload_error(&lb.status()?), None);

    for mistake in MISTAKES {
        let text = write(lb, mistake.make(&good))?;
        let refused = lb.xvip(&["reload"])?;
        assert_eq!(refused.status.code(), Some(2), "{}: {refused:?}", mistake.name);
        assert!(refused.stdout.is_empty(), "{}: {refused:?}", mistake.name);
        assert_named(mistake, &text, &file, &stderr(&refused));
        let status = lb.status()?;
        assert_eq!(in_force(&status), before, "{}: something has changed", mistake.name);
        assert!(reload_error(&status).is_some(), "{}: the status does not tell", mistake.name);
    }
    // A good one takes the error back.
    write(lb, good.clone())?;
    assert!(lb.xvip(&["reload"])?.status.success());
    assert_eq!(reload_error(&lb.status()?), None);

    // The signal is the same without an answer: it is in the status, and in the log.
    let mistake = &MISTAKES[0];
    let before = in_force(&lb.status()?);
    let text = write(lb, mistake.make(&good))?;
    let logged = fs::read_to_string(lb.log())?.len();
    lb.signal(Signal::SIGHUP)?;
    wait::until("the status to tell that the reload has failed", SOON, || {
        lb.status().is_ok_and(|status| reload_error(&status).is_some())
    })?;
    assert_eq!(in_force(&lb.status()?), before, "something has changed");
    assert_named(mistake, &text, &file, &fs::read_to_string(lb.log())?[logged..]);
    write(lb, good.clone())?;
    lb.signal(Signal::SIGHUP)?;
    wait::until("the error to be taken back", SOON, || {
        lb.status().is_ok_and(|status| reload_error(&status).is_none())
    })?;

    // What is in force from start to end is not changed by a reload, either.
    let before = in_force(&lb.status()?);
    write(lb, good.replace("interface = \"eth0\"", "interface = \"lo\""))?;
    let refused = lb.xvip(&["reload"])?;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(stderr(&refused).contains("node.interface cannot change while xvip runs"), "{refused:?}");
    assert_eq!(in_force(&lb.status()?), before);

    assert_eq!(streams.go_on()?, 6);
    load.wait_answered(load.mark(), 20, SOON)?;
    assert_eq!(load.failed(mark), 0);
    Ok(())
}

#[test]
fn a_good_reload_is_applied_without_breaking_a_stream() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(4).build()?;
    let lb = lab.lb(0);
    let fourth = lb.config().services[0].backends[3].clone();
    lb.configure(|config| drop(config.services[0].backends.pop()))?;
    lb.start()?;
    let up = |count| {
        wait::until(&format!("{count} backends up"), SOON, || {
            lb.status().is_ok_and(|s| s.backends_up() == count && s.backends().len() == count)
        })
    };
    up(3)?;
    lab.wait_owner(None, SOON)?;
    let streams = Streams::open(&lab, 12)?;
    let load = lab.load(&Load::default())?;
    load.wait_answered(load.mark(), 10, SOON)?;
    let begin = load.mark();
    let reload = || -> TestResult {
        let output = lb.xvip(&["reload"])?;
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "reloaded\n");
        Ok(())
    };
    let shares = || -> Result<Vec<f64>, Box<dyn Error>> {
        Ok(lb.status()?.backends().iter().map(|b| b.share).collect())
    };

    lb.configure(|config| config.services[0].backends.push(fourth))?;
    reload()?;
    up(4)?;
    wait::until("master4 to answer, too", SOON, || load.by_server(begin).contains_key("master4"))?;
    assert_eq!(streams.go_on()?, 12);
    assert_eq!(load.failed(begin), 0, "adding a backend");

    lb.configure(|config| config.services[0].backends[0].weight = Some(50))?;
    reload()?;
    for (share, expected) in shares()?.iter().zip([1.0 / 7.0, 2.0 / 7.0, 2.0 / 7.0, 2.0 / 7.0]) {
        assert!((share - expected).abs() < 0.01, "{:?}", shares()?);
    }
    assert_eq!(streams.go_on()?, 12);

    // Weight 0 drains.
    lb.configure(|config| config.services[0].backends[0].weight = Some(0))?;
    reload()?;
    assert_eq!(shares()?[0], 0.0);
    assert_eq!(streams.go_on()?, 12);
    lb.configure(|config| config.services[0].backends[0].weight = None)?;
    reload()?;
    assert_eq!(load.failed(begin), 0, "changing weights");

    lb.configure(|config| drop(config.services[0].backends.remove(1)))?;
    reload()?;
    up(3)?;
    let removed = load.mark();
    load.wait_answered(removed, 100, SOON)?;
    let late = load.by_server(removed).get("master2").copied().unwrap_or(0);
    // Connections that had been opened before.
    assert!(late <= 5, "master2 has answered {late} requests after its removal");
    let others = streams.go_on_at(|server| server != "master2")?;
    println!("master2 removed: the {others} streams of the others went on");
    assert_eq!(load.failed(begin), 0, "removing a backend");
    Ok(())
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() -> TestResult {
    let lab = running_lab()?;
    let lb = lab.lb(0);
    let streams = Streams::open(&lab, 3)?;
    let before = in_force(&lb.status()?);
    let config = lb.config_path().display().to_string();
    let second = lb.xvip(&["run", "--config", &config])?;
    assert_eq!(second.status.code(), Some(1), "{second:?}");
    assert!(stderr(&second).contains("xvip is already running (pid "), "{second:?}");

    // Another socket does not help: the interface is the first one's.
    let mut third = Command::new(xvip());
    third.args(["run", "--config", &config, "--socket", "/run/other.sock"]);
    let third = lb.machine().output(&mut third)?;
    assert_eq!(third.status.code(), Some(1), "{third:?}");
    assert!(stderr(&third).contains("xvip is already running on interface eth0 (pid "), "{third:?}");

    assert_eq!(in_force(&lb.status()?), before);
    assert!(lb.holds_vip());
    assert_eq!(streams.go_on()?, 3);
    Ok(())
}

#[test]
fn exit_codes_tell_what_is_wrong() -> TestResult {
    let lab = Lab::builder().lbs(1).masters(1).build()?;
    let lb = lab.lb(0);
    // Nobody runs: 1, and it says where it has looked.
    for words in [&["status"][..], &["status", "--json"], &["reload"]] {
        let output = lb.xvip(words)?;
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        assert!(output.stdout.is_empty(), "{words:?}: {output:?}");
        assert!(stderr(&output).contains(&lb.socket_path().display().to_string()), "{words:?}: {output:?}");
    }
    // Bad usage: 2.
    for words in [&["walk"][..], &["run", "--confg", "x"], &["status", "--jsn"], &["status", "extra"]] {
        let output = lb.xvip(words)?;
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(stderr(&output).contains("Usage: xvip"), "{words:?}: {output:?}");
    }
    // A bad configuration: 2, and nothing is touched.
    let good = lb.config().to_toml();
    let file = lb.config_path().display().to_string();
    let text = write(lb, MISTAKES[0].make(&good))?;
    for command in ["run", "cleanup"] {
        let output = lb.xvip(&[command, "--config", &file])?;
        assert_eq!(output.status.code(), Some(2), "{command}: {output:?}");
        assert_named(&MISTAKES[0], &text, &file, &stderr(&output));
    }
    assert!(!lb.socket_path().exists());
    let output = lb.xvip(&["run", "--config", "/nowhere.toml"])?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("/nowhere.toml"), "{output:?}");
    // Something that is only known at run time: 1.
    write(lb, good.replace("interface = \"eth0\"", "interface = \"eth7\""))?;
    let output = lb.xvip(&["run", "--config", &file])?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("eth7"), "{output:?}");

    // And a daemon that was stopped properly: 0, as `start` and `stop` of a service manager want it.
    lb.start()?;
    assert_eq!(lb.xvip(&["status"])?.status.code(), Some(0));
    let (status, took) = lb.stop()?;
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(5), "{took:?}");
    // What it has left still tells something, until it is cleaned up.
    let down = lb.xvip(&["status"])?;
    assert_eq!(down.status.code(), Some(0), "{down:?}");
    assert!(String::from_utf8_lossy(&down.stdout).starts_with("the daemon is down"), "{down:?}");
    assert!(lb.xvip(&["cleanup", "--config", &file])?.status.success());
    assert_eq!(lb.xvip(&["status"])?.status.code(), Some(1));
    Ok(())
}
