//! Does a packet take more instructions than it did? The executed ones, of the program alone and of the whole path, counted
//! by QEMU on Debian's Linux 6.1: they are the same on every machine, however busy. The record is
//! `golden/icount.toml`; `XVIP_BLESS=1` writes it anew. And what else a kernel can balance with is counted, too.
//!
//! Runner: threads 1, minutes 20

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;

use lb_tests::bench::icount::record::{Made, Record};
use lb_tests::vm;
use serde_json::Value;
use tempfile::TempDir;

/// The kernel that is looked at; the figures in the README are of it, too.
const SERIES: &str = "6.1";
const HEAD: &str = "# Executed instructions per packet, whatever the machine; see ../tests/icount.rs. Written by\n\
    # XVIP_BLESS=1 cargo test -p lb-tests --test icount\n\n";

/// What builds the XDP programs: `lb-userspace/build.rs` has the name of the tool chain, too.
fn compiler() -> String {
    let output = Command::new("rustup").args(["run", "xvip-bpf", "rustc", "--version"]).output();
    let version = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    version.map_or_else(|| "unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

#[test]
fn packets_take_no_more_instructions_than_recorded() -> Result<(), Box<dyn Error>> {
    // Cargo's directory for a package's tests is `tmp` in its target directory.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().ok_or("it is below target")?;
    let counted = vm::count(&target.join("xtask"), SERIES, "xvip", &mut |line| println!("{line}"))
        .map_err(|error| error.to_string())?;
    let now = Record {
        made: Made { kernel: counted.kernel, qemu: counted.qemu, compiler: compiler() },
        instructions: counted.counts.into_iter().collect(),
    };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/icount.toml");
    if std::env::var_os("XVIP_BLESS").is_some() {
        fs::write(&file, HEAD.to_owned() + &toml::to_string(&now)?)?;
        return Ok(());
    }
    let recorded: Record = toml::from_str(&fs::read_to_string(&file)?)?;
    match recorded.compare(&now) {
        Ok(text) => println!("{text}"),
        Err(text) => panic!(
            "{text}\nIf that is the price of something that is worth it, write it down: \
             XVIP_BLESS=1 cargo test -p lb-tests --test icount"
        ),
    }
    Ok(())
}

#[test]
fn the_kernels_own_balancers_are_counted_on_the_same_course() -> Result<(), Box<dyn Error>> {
    let dir = TempDir::new()?;
    let json = dir.path().join("report.json");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_xvip-lab"));
    bench.args(["bench", "icount", "--kernel", SERIES, "--what", "peers", "--json"]).arg(&json);
    let output = bench.output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&fs::read(&json)?)?;
    let count = |name: &str| {
        let of = |one: &&Value| one["subject"] == name && one["unit"] == "instructions";
        let series = report["series"].as_array()?.iter().find(of)?;
        series["samples"][0].as_f64()
    };
    let forwarding = count("IP forwarding").ok_or("no count of IP forwarding")?;
    for name in ["nftables DNAT", "IPVS NAT", "IPVS DR", "IPVS TUN"] {
        let instructions = count(name).ok_or_else(|| format!("no count of {name}"))?;
        // They do what a router does, and more: whoever counts less has not seen its packets balanced.
        assert!(instructions > forwarding * 1.2, "{name}: {instructions}, forwarding alone: {forwarding}");
    }
    Ok(())
}
