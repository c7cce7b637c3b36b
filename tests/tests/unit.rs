//! The unit: systemd itself, in a Debian 12 made by debootstrap on a node of the lab, runs the daemon with exactly the user, the
//! capabilities, the system calls and the file system that `xvip.service` gives it. Needs root, and Debian's mirror the first time.
//!
//! Runner: threads 1, minutes 15

use std::{
    error::Error,
    io::{Read as _, Write as _},
    os::unix::{fs::MetadataExt as _, net::UnixStream},
};

use lb_tests::{
    node::VrrpConfig,
    system::{
        System,
        service::{SOON, UNIT, status, system_with_package, wait_active, wait_logged},
    },
    topology::Lab,
    wait,
    xdp_stub::{Action, XdpStub},
};
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

const CONFIG: &str = "/etc/xvip/xvip.toml";
/// What `systemd-analyze security` may say at most (Debian 12's says 2.6). What is left is what the work is: the network, BPF, other users for
/// scripts.
const EXPOSURE: f32 = 3.0;

/// A node of the lab that has the package, and no configuration yet.
fn installed(lab: &Lab) -> Result<System, Box<dyn Error>> {
    let system = system_with_package(lab)?;
    let said = system.run(&["dpkg", "--install", "/tmp/xvip.deb"])?;
    assert!(said.contains("xvip is installed and not started: there is no /etc/xvip/xvip.toml"), "{said}");
    Ok(system)
}

/// A drop-in for the unit.
fn amend(system: &System, lines: &str) -> TestResult {
    system.write("/etc/systemd/system/xvip.service.d/test.conf", format!("[Service]\n{lines}\n"))?;
    system.run(&["systemctl", "daemon-reload"])?;
    Ok(())
}

/// What the problems in the status are, in one text.
fn problems(system: &System) -> String {
    status(system).map(|status| status["problems"].to_string()).unwrap_or_default()
}

/// What is answered to a line on a socket of HAProxy's kind.
fn ask(system: &System, socket: &str, line: &str) -> Result<String, Box<dyn Error>> {
    let mut stream = UnixStream::connect(system.path(socket))?;
    stream.set_read_timeout(Some(SOON))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A line of `/proc/PID/status` of the unit's main process.
fn process(system: &System, field: &str) -> Result<String, Box<dyn Error>> {
    let pid = system.property(UNIT, "MainPID")?;
    let text = system.read(&format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)).ok_or(field)?;
    Ok(line.trim_start_matches(':').split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The mask of the capabilities that the unit lists.
fn listed(system: &System) -> Result<u64, Box<dyn Error>> {
    let number = |name: &str| {
        const NUMBERS: [(&str, u32); 9] = [
            ("cap_kill", 5),
            ("cap_setgid", 6),
            ("cap_setuid", 7),
            ("cap_net_admin", 12),
            ("cap_net_raw", 13),
            ("cap_ipc_lock", 14),
            ("cap_sys_nice", 23),
            ("cap_perfmon", 38),
            ("cap_bpf", 39),
        ];
        NUMBERS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    };
    let names = system.property(UNIT, "CapabilityBoundingSet")?;
    let mask = names.split_whitespace().map(|name| Some(1 << number(name)?)).sum::<Option<u64>>();
    mask.ok_or_else(|| format!("a capability more than were thought about: {names}").into())
}

#[test]
fn the_daemon_works_with_exactly_what_its_unit_gives_it() -> TestResult {
    let lab = Lab::builder().lbs(2).patience(4).build()?;
    let script =
        "[[vrrp.track]]\nkind = \"script\"\ncommand = [\"/usr/local/bin/look\"]\ninterval = \"500ms\"";
    let add_script = |vrrp: &mut VrrpConfig| vrrp.tables.push(script.to_owned());
    lab.lb(0).configure(|config| config.vrrp.iter_mut().for_each(add_script))?;
    let config = lab.lb(0).config().to_toml();
    let system = installed(&lab)?;

    // Without a configuration it is skipped, which is no failure; it starts with the machine once it has one.
    assert_eq!(system.run(&["systemctl", "is-enabled", "xvip"])?.trim(), "enabled");
    system.run(&["systemctl", "start", "xvip"])?;
    assert_eq!(system.property(UNIT, "ActiveState")?, "inactive");
    assert_eq!(system.property(UNIT, "ConditionResult")?, "no");

    let verified = system.run(&["systemd-analyze", "verify", UNIT])?;
    assert!(!verified.contains("xvip"), "{verified}");
    let said = system.run(&["systemd-analyze", "security", "--no-pager", UNIT])?;
    let level = said.lines().find_map(|line| line.split("exposure level for xvip.service: ").nth(1));
    let level = level.and_then(|level| level.split(' ').next()).ok_or("no exposure level")?;
    println!("systemd-analyze security: {level}");
    assert!(level.parse::<f32>()? <= EXPOSURE, "{said}");

    // What is missing is named, at once.
    system.write(CONFIG, &config)?;
    for missing in ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"] {
        amend(
            &system,
            &format!("Restart=no\nCapabilityBoundingSet=~{missing}\nAmbientCapabilities=~{missing}"),
        )?;
        assert!(
            !system.output(&["systemctl", "start", "xvip"])?.status.success(),
            "starts without {missing}"
        );
        wait_logged(&system, &format!("xvip lacks {missing} (to "))?;
    }

    // Whoever may not read a key says how it could: nothing overrides the modes of files.
    amend(&system, "Restart=no")?;
    system.write("/etc/xvip/sync.key", "5a".repeat(32))?;
    system.run(&["chown", "root:root", "/etc/xvip/sync.key"])?;
    system.run(&["chmod", "600", "/etc/xvip/sync.key"])?;
    let sync = "[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/etc/xvip/sync.key\"\n";
    system.write(CONFIG, format!("{config}\n{sync}"))?;
    assert!(!system.output(&["systemctl", "start", "xvip"])?.status.success(), "reads what is root's");
    let remedy = "run: chgrp xvip /etc/xvip/sync.key && chmod 640 /etc/xvip/sync.key";
    wait_logged(&system, remedy)?;
    system.write(CONFIG, &config)?;

    // Without the capabilities for it, no script of another user's runs, and the three are named; the rest works. Beside these two:
    // memory that is not locked, and threads that have to wait for others.
    system.write("/usr/local/bin/look", "#!/bin/sh\necho \"$(id -u) $(grep CapEff /proc/self/status)\"\n")?;
    system.run(&["chmod", "755", "/usr/local/bin/look"])?;
    let optional = "CAP_SETUID CAP_SETGID CAP_KILL CAP_SYS_NICE CAP_IPC_LOCK";
    amend(
        &system,
        &format!("Restart=no\nCapabilityBoundingSet=~{optional}\nAmbientCapabilities=~{optional}"),
    )?;
    system.run(&["systemctl", "start", "xvip"])?;
    let track = || -> Result<String, Box<dyn Error>> {
        Ok(status(&system)?["vrrp"][0]["tracks"][0]["reason"].as_str().unwrap_or_default().to_owned())
    };
    wait::until("the script to be refused", SOON, || track().is_ok_and(|reason| !reason.is_empty()))?;
    let reason = track()?;
    for name in ["as user nobody", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"] {
        assert!(reason.contains(name), "{reason}");
    }
    assert_eq!(status(&system)?["vrrp"][0]["realtime"], false, "without CAP_SYS_NICE");
    wait_logged(&system, "memory is not locked")?;
    system.run(&["systemctl", "stop", "xvip"])?;

    // An earlier release, which ran as root, has pinned all this.
    system.run(&["chown", "--recursive", "root:root", "/sys/fs/bpf/xvip"])?;

    // With exactly the unit, beside a node that has the VIP meanwhile.
    system.run(&["rm", "-r", "/etc/systemd/system/xvip.service.d"])?;
    system.run(&["systemctl", "daemon-reload"])?;
    lab.lb(1).start()?;
    system.run(&["systemctl", "start", "xvip"])?;
    wait_active(&system)?;
    let user = system.run(&["id", "--user", "xvip"])?;
    let user = user.trim();
    assert_eq!(process(&system, "Uid")?, [user; 4].join(" "));
    let mask = listed(&system)?;
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&process(&system, set)?, 16)?, mask, "{set}");
    }
    assert_eq!(u64::from_str_radix(&process(&system, "CapAmb")?, 16)?, 0, "what it starts inherits nothing");
    assert_eq!(
        (process(&system, "NoNewPrivs")?, process(&system, "Seccomp")?),
        ("1".to_owned(), "2".to_owned())
    );
    let all = status(&system)?;
    assert_eq!(all["problems"], Value::Array(vec![]), "{all}");
    assert_eq!(all["vrrp"][0]["realtime"], true);
    assert!(!system.journal(UNIT).lines().rev().take(20).any(|line| line.contains("memory is not locked")));
    // As nobody, with nothing of ours.
    let reason = track()?;
    assert!(reason.contains("65534 CapEff: 0000000000000000"), "{reason}");

    let load = lab.steady_load(SOON)?;

    // A reload that takes, and one that does not, which fails and says why.
    let mark = load.mark();
    system.run(&["systemctl", "reload", "xvip"])?;
    system.write(CONFIG, config.replace("port = 6443", "port = 0"))?;
    let refused = system.output(&["systemctl", "reload", "xvip"])?;
    assert!(!refused.status.success(), "a bad file was accepted");
    wait_logged(&system, "port")?;
    system.write(CONFIG, &config)?;

    // A restart is a planned one: the daemon, which is not root, learns of it from systemd.
    system.run(&["systemctl", "restart", "xvip"])?;
    wait_active(&system)?;
    load.wait_answered(mark, 50, SOON)?;
    assert_eq!(load.failed(mark), 0, "{:?}", load.failures(mark));
    wait_logged(&system, "succeeding a daemon that left")?;
    assert_eq!(lab.lb(1).status()?.vrrp_state(), "backup");

    // HAProxy's socket where it was: without the drop-in of the manual that is refused, and said; with it, it is there.
    const SOCKET: &str = "/run/haproxy/admin.sock";
    let stats_socket =
        format!("[stats_socket]\npath = \"{SOCKET}\"\ngroup = \"haproxy\"\nlevel = \"admin\"\n");
    system.write(CONFIG, format!("{config}\n{stats_socket}"))?;
    system.run(&["groupadd", "--system", "haproxy"])?;
    system.run(&["systemctl", "reload", "xvip"])?;
    wait::until("the socket to be refused", SOON, || problems(&system).contains("stats_socket"))
        .map_err(|error| format!("{error}\n{}\n{}", problems(&system), system.journal(UNIT)))?;
    amend(&system, "RuntimeDirectory=haproxy")?;
    system.run(&["usermod", "--append", "--groups", "haproxy", "xvip"])?;
    system.run(&["systemctl", "restart", "xvip"])?;
    wait::until("the socket to be there", SOON, || system.path(SOCKET).exists())
        .map_err(|error| format!("{error}\n{}", problems(&system)))?;
    let found = system.path(SOCKET).metadata()?;
    let group = system.run(&["getent", "group", "haproxy"])?;
    assert_eq!(Some(found.gid().to_string().as_str()), group.split(':').nth(2), "{group}");
    assert_eq!(found.mode() & 0o777, 0o660);
    let answer = ask(&system, SOCKET, "show info")?;
    assert!(answer.starts_with("Name: xvip\n"), "{answer}");
    wait_active(&system)?;

    // A stop hands over, and a clean-up leaves nothing.
    system.run(&["systemctl", "stop", "xvip"])?;
    assert!(!system.path("/run/haproxy").exists(), "systemd takes its directory away");
    wait::until("the other node to be active", SOON, || {
        lab.lb(1).status().is_ok_and(|status| status.vrrp_state() == "active")
    })?;
    let said = system.run(&["xvip", "cleanup"])?;
    assert!(said.contains("removed /sys/fs/bpf/xvip"), "{said}");

    // A data plane that cannot be had, because somebody else's program is in the way, is an error that is shown and tried again: not a
    // restart every few seconds.
    let machine = lab.lb(0).machine();
    let index = machine.run(|| nix::net::if_::if_nametoindex("eth0"))??;
    let stub = machine.run(|| XdpStub::attach(index, Action::Pass))??;
    system.run(&["systemctl", "start", "xvip"])?;
    let pid = system.property(UNIT, "MainPID")?;
    for _ in 0..3 {
        // Whoever reloads does not want to wait for the next attempt.
        system.run(&["systemctl", "reload", "xvip"])?;
        let problems = problems(&system);
        assert!(problems.contains("XDP could not be attached to eth0"), "{problems}");
    }
    assert_eq!(status(&system)?["vrrp"][0]["state"], "fault");
    assert_eq!(system.property(UNIT, "ActiveState")?, "active");
    drop(stub);
    system.run(&["systemctl", "reload", "xvip"])?;
    wait_active(&system)?;
    assert_eq!((system.property(UNIT, "MainPID")?, system.property(UNIT, "NRestarts")?), (pid, "0".into()));
    Ok(())
}
