//! The packages as the tests install them: of the development build, packed quickly.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_packaging::Source;

use crate::topology::find_program;

/// Any moment will do, as long as it is always the same.
const EPOCH: u64 = 1_700_000_000;

/// What the packages are made of; the binary without its symbols is written into `directory`.
///
/// # Errors
/// `xvip` was not built, or `strip` (Debian's binutils) fails.
pub fn source(directory: &Path) -> anyhow::Result<Source> {
    let xvip = find_program("xvip", "XVIP_BIN")?;
    let binary = directory.join("xvip-stripped");
    let strip = Command::new("strip")
        .args(["--strip-all", "--remove-section=.comment", "-o"])
        .arg(&binary)
        .arg(xvip)
        .status();
    if !strip?.success() {
        return Err(io::Error::other("strip failed").into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Ok(Source { root, binary, epoch: EPOCH, fast: true })
}

/// The package for Debian.
///
/// # Errors
/// It cannot be written.
pub fn deb(directory: &Path) -> anyhow::Result<PathBuf> {
    lb_packaging::deb::write(&source(directory)?, directory)
}
