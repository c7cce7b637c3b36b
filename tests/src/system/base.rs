//! The base of such a system: Debian 12 as debootstrap makes it, kept for the next time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{Flock, FlockArg};

use crate::vm::debian::{self, DebianError};

const RELEASE: &str = "bookworm";
/// Beside what a minimal Debian has: what the package depends on, and what its test looks with.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,iproute2,man-db,rpm";

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// There is no mirror.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// debootstrap failed.
    #[error("debootstrap: {0}")]
    Debootstrap(String),
}

/// Where the tests keep it: below the workspace's `target/`.
#[must_use]
pub fn scratch() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/xtask/system")
}

/// The directory of the base below `scratch`, made there if need be, which takes a minute or two.
///
/// # Errors
/// It could not be made.
pub fn directory(scratch: &Path) -> Result<PathBuf, BaseError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| BaseError::File { path, source }
    };
    fs::create_dir_all(scratch).map_err(at(scratch))?;
    let lock = scratch.join("lock");
    let file = File::create(&lock).map_err(at(&lock))?;
    let _lock = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| at(&lock)(errno.into()))?;
    let root = scratch.join(RELEASE);
    let wanted = scratch.join("wanted");
    if root.is_dir() && fs::read_to_string(&wanted).is_ok_and(|there| there == PACKAGES) {
        return Ok(root);
    }
    println!("debootstrap: Debian {RELEASE} with {PACKAGES}");
    let mirror = debian::mirror()?;
    let new = scratch.join("new");
    for old in [&new, &root] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(at(old))?;
        }
    }
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args(["--variant=minbase", "--include", PACKAGES, RELEASE]).arg(&new).arg(mirror);
    let output = debootstrap.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(at(Path::new("debootstrap")))?;
    if !output.status.success() {
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().collect();
        return Err(BaseError::Debootstrap(lines[lines.len().saturating_sub(20)..].join("\n")));
    }
    // Nothing more is fetched from there.
    let packages = new.join("var/cache/apt/archives");
    for entry in fs::read_dir(&packages).into_iter().flatten().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    fs::rename(&new, &root).map_err(at(&root))?;
    fs::write(&wanted, PACKAGES).map_err(at(&wanted))?;
    Ok(root)
}
