//! Builds the XDP program from source and leaves it in `OUT_DIR`.
//!
//! Two tool chains can do that (`cargo xtask setup` installs one of them): Debian's `rustc-web`, linked into rustup
//! under the name below, or a nightly with `rust-src`.

use std::process::Command;

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain};

/// The name under which `cargo xtask setup` links Debian's compiler into rustup.
const LINKED_TOOLCHAIN: &str = "xvip-bpf";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../lb-common");
    println!("cargo:rerun-if-changed=../lb-ebpf");
    let toolchain = ebpf_toolchain()?;
    aya_build::build_ebpf(
        [Package { name: "lb-ebpf", root_dir: "../lb-ebpf", no_default_features: false, features: &[] }],
        Toolchain::Custom(&toolchain),
    )
    .context("the XDP program did not build; `cargo xtask setup` checks the tool chain")
}

/// The rustup tool chain that can build for `bpfel-unknown-none`.
fn ebpf_toolchain() -> anyhow::Result<String> {
    let listed = Command::new("rustup").args(["toolchain", "list"]).output().context("running rustup")?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    if names.contains(&LINKED_TOOLCHAIN) {
        return Ok(LINKED_TOOLCHAIN.to_owned());
    }
    for nightly in names.iter().filter(|name| name.starts_with("nightly")) {
        let components = Command::new("rustup")
            .args(["component", "list", "--installed", "--toolchain", nightly])
            .output()?;
        if String::from_utf8_lossy(&components.stdout).lines().any(|line| line == "rust-src") {
            return Ok((*nightly).to_owned());
        }
    }
    bail!("no tool chain for the eBPF part: run `cargo xtask setup`")
}
