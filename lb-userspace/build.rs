//! Builds the XDP program from source and leaves it in `OUT_DIR`.
//!
//! `cargo xtask setup` links a compiler that can do that into rustup, under the name below: Debian's `rustc-web` or
//! a nightly with `rust-src`. aya-build tells them apart and lets a nightly build its own `core`.

use std::process::Command;

use anyhow::{Context as _, ensure};
use aya_build::{Package, Toolchain};

/// The name of the link; `xtask/src/setup/compiler.rs` has it too.
const LINKED_TOOLCHAIN: &str = "xvip-bpf";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=../lb-common");
    println!("cargo:rerun-if-changed=../lb-ebpf");
    let listed = Command::new("rustup").args(["toolchain", "list"]).output().context("running rustup")?;
    let listed = String::from_utf8_lossy(&listed.stdout);
    ensure!(
        listed.lines().any(|line| line.split_whitespace().next() == Some(LINKED_TOOLCHAIN)),
        "rustup has no tool chain {LINKED_TOOLCHAIN}, which the XDP program is built with: run `cargo xtask setup`"
    );
    aya_build::build_ebpf(
        [Package { name: "lb-ebpf", root_dir: "../lb-ebpf", no_default_features: false, features: &[] }],
        Toolchain::Custom(LINKED_TOOLCHAIN),
    )
    .context("the XDP program did not build; `cargo xtask setup` checks the tool chain")
}
