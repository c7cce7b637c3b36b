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
    for figure in ["sweep, nothing is over", "sweep, all are over", "restart until it answers"] {
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
