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
    for subject in ["direct", "xvip, nat", "xvip, dsr-l2", "HAProxy", "nftables"] {
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
