//! The benchmarks measure, and clean up: one short run of each. Their figures are for `cargo xtask bench`. Needs root.

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_tests::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

type TestResult = Result<(), Box<dyn Error>>;

fn bench(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xvip-lab"));
    command.args(["bench", name]).args(arguments).stdin(Stdio::null());
    command
}

fn failover(arguments: &[&str]) -> Command {
    bench("failover", arguments)
}

#[test]
fn a_graceful_stop_of_both_stacks_is_measured() -> TestResult {
    let dir = TempDir::new()?;
    let json = dir.path().join("samples.json");
    let arguments = ["--repeats", "1", "--incident", "stop", "--stack", "incumbent,xvip", "--json"];
    let output = failover(&arguments).arg(&json).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    assert!(table.contains("HAProxy + keepalived") && table.contains("xvip, defaults"), "{table}");

    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let samples = report["samples"].as_array().ok_or("no samples")?;
    let stacks: Vec<_> = samples.iter().map(|sample| sample["stack"].as_str().unwrap_or_default()).collect();
    assert_eq!(stacks, ["incumbent", "xvip"]);
    // keepalived takes the address away at once, and its peer has a skew time of 0.6 s to wait.
    let theirs = samples[0]["outage_us"].as_u64().ok_or("no outage")?;
    assert!((300_000..4_000_000).contains(&theirs), "{report:#}");
    for sample in samples {
        let count = |key: &str| sample[key].as_u64().unwrap_or(0);
        assert!(count("requests") > count("failed") + 90, "{report:#}");
        assert_eq!(count("failed") == 0, count("outage_us") == 0, "{report:#}");
    }
    Ok(())
}

#[test]
fn what_becomes_of_streams_is_measured_with_both_stacks() -> TestResult {
    let dir = TempDir::new()?;
    let json = dir.path().join("samples.json");
    let arguments = ["--repeats", "1", "--streams", "20", "--incident", "restart,backend-weighted", "--json"];
    let output = bench("survive", &arguments).arg(&json).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let samples = report["samples"].as_array().ok_or("no samples")?;
    let broken = |stack: &str, incident: &str| -> Option<u64> {
        let of = |sample: &&Value| sample["stack"] == stack && sample["incident"] == incident;
        let sample = samples.iter().find(of)?;
        assert_eq!(sample["streams"], 20, "{sample:#}");
        sample["broken"].as_u64()
    };
    // A restarted HAProxy has forgotten all; one that is reloaded leaves its connections to the old process.
    assert_eq!(broken("incumbent", "restart"), Some(20), "{report:#}");
    assert_eq!(broken("incumbent", "backend-weighted"), Some(0), "{report:#}");
    assert_eq!(broken("xvip", "backend-weighted"), Some(0), "{report:#}");
    Ok(())
}

/// No times: each packet became what it should, or the benchmark says so.
#[test]
fn packets_are_measured_above_a_floor() -> TestResult {
    let dir = TempDir::new()?;
    let (json, plots) = (dir.path().join("packet.json"), dir.path().join("plots"));
    let small = ["--repeats", "2", "--packets", "5000", "--flows", "1024", "--table", "8192"];
    let only =
        ["--only", "IPv4, 1 flow: ", "--only", "k flows: nat, replies", "--only", "new flows, IPv4: dsr"];
    let foreign = ["--only", "1 flow, live frames: dsr-ipip", "--only", "another host", "--json"];
    let mut bench = bench("packet", &small);
    bench.env_remove("XVIP_KATRAN").args(only).args(foreign).arg(&json).arg("--svg").arg(&plots);
    let output = bench.output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    assert_eq!((&report["schema_version"], &report["benchmark"]), (&1.into(), &"packet".into()));
    let size = &report["parameters"]["size_xvip"];
    assert!(size["all_instructions"].as_u64() > size["entry_instructions"].as_u64(), "{size:#}");
    assert!(size["entry_machine_code_bytes"].as_u64() > Some(1000), "{size:#}");

    let series = report["series"].as_array().ok_or("no series")?;
    let of = |figure: &str| -> Vec<&str> {
        let of = series.iter().filter(|series| series["figure"] == figure);
        of.filter_map(|series| series["subject"].as_str()).collect()
    };
    assert_eq!(of("established, IPv4, 1 flow, net time"), ["nat", "nat, replies", "dsr-l2", "dsr-ipip"]);
    assert_eq!(of("established, IPv4, 1 k flows, net time"), ["nat, replies"]);
    assert_eq!(of("established, IPv4, 1 flow, live frames, net time"), ["dsr-ipip"]);
    assert_eq!(of("new flows, IPv4, net time"), ["dsr-l2", "dsr-ipip"]);
    assert_eq!(of("for another host, IPv6, net time"), ["only XDP_PASS", "xvip"]);
    let has_floor =
        |series: &&Value| series["subject"].as_str().is_some_and(|name| name.starts_with("floor of "));
    assert_eq!(series.iter().filter(has_floor).count(), 12, "{report:#}");
    for series in series {
        let samples = series["samples"].as_array().ok_or("no samples")?;
        assert_eq!(samples.iter().filter(|sample| sample.is_number()).count(), 2, "{series:#}");
    }
    // Each with its own floor; no peer was given.
    let roles: Vec<_> = report["comparisons"].as_array().ok_or("none")?.iter().map(|c| &c["role"]).collect();
    assert_eq!(roles, [&Value::from("floor"); 12]);
    let plot = fs::read_to_string(plots.join("packet-established-ipv4-1-flow-net-time.svg"))?;
    assert!(plot.starts_with("<svg") && plot.contains("dsr-ipip"), "{plot}");
    assert!(plots.join("packet-net-time-by-flows.svg").exists());
    Ok(())
}

#[test]
fn a_peer_that_is_not_there_does_not_keep_the_rest_from_being_measured() -> TestResult {
    let small = ["--repeats", "1", "--packets", "1000", "--table", "8192", "--katran", "/nowhere/balancer.o"];
    let output = bench("packet", &small)
        .args(["--only", "1 flow: dsr-l2", "--only", "IPv4, 1 flow: Katran"])
        .output()?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    assert!(out.contains("dsr-l2") && out.contains("not measured: ") && out.contains("/nowhere/"), "{out}");
    Ok(())
}

#[test]
fn what_a_balancer_costs_is_measured_with_all_stacks() -> TestResult {
    let dir = TempDir::new()?;
    let json = dir.path().join("samples.json");
    let arguments = ["--repeats", "1", "--measure-ms", "200", "--warm-up-ms", "50", "--connections", "8"];
    let output = bench("tcp", &arguments)
        .args(["--rate", "200", "--idle", "300", "--idle-repeats", "1", "--json"])
        .arg(&json)
        .output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    println!("{table}");
    // On a machine that is busy enough a connection may fail; that something was measured is the question here.
    let report: Value = serde_json::from_slice(&fs::read(&json)?)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let series = report["series"].as_array().ok_or("no series")?;
    let sample = |figure: &str, subject: &str| {
        let of = |series: &&Value| series["figure"] == figure && series["subject"] == subject;
        series.iter().find(of).and_then(|series| series["samples"][0].as_f64())
    };
    let ways = ["direct", "IP forwarding", "fixed NAT in XDP"];
    for subject in ways.into_iter().chain(["xvip, nat", "xvip, dsr-l2", "HAProxy", "nftables"]) {
        for figure in ["new connections", "requests", "latency p50 at 200/s", "bulk"] {
            let sample = sample(figure, subject).unwrap_or_default();
            assert!(sample > 0.0, "{figure}, {subject}: {report:#}");
        }
    }
    // The customers' limits: three servers with 250 connections each; fewer where the machine is too slow to open them.
    let held = sample("connections held of 1000", "HAProxy, limits as configured").unwrap_or_default();
    assert!((1.0..=750.0).contains(&held), "{report:#}");
    assert!(sample("memory per idle connection, 300", "xvip, nat").is_some(), "{report:#}");
    Ok(())
}

/// What each figure is of; the figures themselves are for others.
#[test]
fn the_control_plane_is_measured_and_haproxy_does_the_same_work() -> TestResult {
    let dir = TempDir::new()?;
    let json = dir.path().join("samples.json");
    let arguments = [
        "--repeats",
        "1",
        "--services",
        "3",
        "--backends",
        "4",
        "--checked",
        "20",
        "--flows",
        "300",
        "--window",
        "2",
        "--json",
    ];
    let output = bench("control", &arguments).arg(&json).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let sample = |figure: &str, subject: &str| {
        let series = report["series"].as_array().into_iter().flatten();
        let mut of = series.filter(|series| series["figure"] == figure && series["subject"] == subject);
        of.next().and_then(|series| series["samples"][0].as_f64()).unwrap_or_else(|| {
            panic!("no {figure} of {subject}: {report:#}");
        })
    };
    let both = [
        "reload, 3 x 4",
        "reload, CPU, 3 x 4",
        "status, 3 x 4",
        "status, CPU, 3 x 4",
        "memory, 3 x 4",
        "CPU for 20 tcp checks",
        "CPU for 20 https checks",
    ];
    for (figure, subject) in both.into_iter().flat_map(|figure| [(figure, "xvip"), (figure, "HAProxy")]) {
        assert!(sample(figure, subject) > 0.0, "{figure} of {subject}");
    }
    for figure in
        ["sweep, nothing is over", "sweep, all are silent", "sweep, all are over", "restart until it answers"]
    {
        assert!(sample(figure, "300 flows") > 0.0, "{figure}");
    }
    assert!(sample("full sync", "no limit") > 0.0);
    // Never sooner than the interval: a busy machine only makes it later.
    for check in ["tcp", "https"] {
        assert!(sample(&format!("time between {check} checks"), "xvip") > 0.5, "{report:#}");
    }
    Ok(())
}

#[test]
fn an_interrupted_one_takes_everything_away() -> TestResult {
    let mut bench =
        failover(&["--stack", "incumbent"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let id = bench.id();
    // Kept to the end: it has more to say.
    let mut lines = BufReader::new(bench.stderr.take().ok_or("no stderr")?).lines();
    // The first sample: everything runs by then.
    let measured = lines.by_ref().map_while(Result::ok).any(|line| line.contains("without service"));
    assert!(measured, "it ended: {:?}", bench.wait());
    kill(Pid::from_raw(id.cast_signed()), Signal::SIGINT)?;
    let ended = wait::value("its end", Duration::from_secs(20), || bench.try_wait().transpose())??;
    assert_eq!(ended.code(), Some(1), "{ended}");
    let prefix = format!("xvip-lab-{id}-");
    let left = fs::read_dir(std::env::temp_dir())?
        .flatten()
        .find(|e| e.file_name().to_string_lossy().starts_with(&prefix));
    assert!(left.is_none(), "{left:?}");
    Ok(())
}

#[test]
fn packets_of_every_mode_come_through_a_veth() -> TestResult {
    let dir = TempDir::new()?;
    let json = dir.path().join("report.json");
    let arguments = ["--repeats", "1", "--packets", "3000", "--flows", "1,4", "--json"];
    let output = bench("wire", &arguments).arg(&json).output()?;
    let table = String::from_utf8_lossy(&output.stdout);
    // Packets that do not get through are a failure.
    assert!(output.status.success(), "{table}{}", String::from_utf8_lossy(&output.stderr));
    println!("{table}");
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let series = report["series"].as_array().ok_or("no series")?;
    for figure in ["1 flow", "4 flows"] {
        let of =
            |one: &&Value| one["figure"] == figure && one["samples"][0].as_f64().is_some_and(|n| n > 0.0);
        let names: Vec<_> =
            series.iter().filter(of).map(|one| one["subject"].as_str().unwrap_or_default()).collect();
        for name in [
            "veth + XDP_DROP",
            "bare reflector",
            "nat IPv4",
            "nat reply IPv6",
            "dsr-l2 IPv4",
            "IP forwarding",
        ] {
            assert!(names.contains(&name), "{figure}: {name} is not in {names:?}");
        }
        assert_eq!(names.iter().filter(|name| name.starts_with("dsr-ipip")).count(), 4, "{names:?}");
    }
    Ok(())
}
