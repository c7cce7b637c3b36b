//! `cargo xtask package`: the packages, of a release build.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::{process, setup, workspace};

/// Sets up, builds, and writes the packages into `target/package`.
///
/// # Errors
/// The set-up, the build or the packing failed.
pub fn run(debug: bool) -> anyhow::Result<ExitCode> {
    setup::run(setup::Level::Build, setup::Report::Brief)?;
    let mut arguments = vec!["build", "--package=lb-userspace", "--package=lb-packaging", "--bins"];
    arguments.extend((!debug).then_some("--release"));
    let built = workspace::build(&arguments)?;
    let stripped = without_symbols(workspace::binary(&built, "xvip")?)?;
    let root = workspace::root();
    let mut packaging = Command::new(workspace::binary(&built, "xvip-packaging")?);
    packaging.arg("--root").arg(&root).arg("--binary").arg(stripped);
    packaging.arg("--out").arg(root.join("target/package")).arg("--epoch").arg(epoch(&root)?);
    packaging.args(debug.then_some("--fast"));
    let done = packaging.status().context("starting xvip-packaging")?;
    Ok(if done.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn without_symbols(binary: &Path) -> anyhow::Result<PathBuf> {
    let stripped = workspace::scratch("package")?.join("xvip");
    process::output(
        Command::new("strip")
            .args(["--strip-all", "--remove-section=.comment", "-o"])
            .arg(&stripped)
            .arg(binary),
    )
    .context("`strip` is in Debian's package binutils")?;
    Ok(stripped)
}

/// `SOURCE_DATE_EPOCH`, or when the last commit was made.
fn epoch(root: &Path) -> anyhow::Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        return Ok(epoch);
    }
    let mut git = Command::new("git");
    let time = process::output(git.args(["log", "-1", "--format=%ct"]).current_dir(root));
    Ok(time.context("the time of the last commit; set SOURCE_DATE_EPOCH instead")?.trim().to_owned())
}
