//! A real former release, built from the repository's own history, for tests of the upgrade from it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

/// The last commit with layout 4 of the maps.
pub const LAYOUT_4: &str = "b809f3a";

/// Names the program, instead of building it.
const VARIABLE: &str = "XVIP_FORMER_BIN";

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum FormerError {
    /// The history is not there (a shallow clone, or no repository): a reason to skip.
    #[error("the history of this repository does not have {0}: git fetch --unshallow")]
    NoHistory(&'static str),
    /// It did not build.
    #[error("building {commit}: {what}")]
    Build {
        /// Which.
        commit: &'static str,
        /// What went wrong.
        what: String,
    },
    /// The files.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The `xvip` of a former commit, from `target/xtask/former/COMMIT`; built there if it is not, which takes minutes. It has a
/// target directory of its own: two versions of one package in the same one take each other's place.
///
/// # Errors
/// See [`FormerError`].
pub fn xvip(commit: &'static str) -> Result<PathBuf, FormerError> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Ok(named.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let directory = root.join("target/xtask/former").join(commit);
    let program = directory.join("xvip");
    if program.exists() {
        return Ok(program);
    }
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| FormerError::Io { path, source }
    };
    let source = directory.join("src");
    fs::create_dir_all(&source).map_err(io(&source))?;
    let archive = directory.join("src.tar");
    let mut git = Command::new("git");
    // Whoever runs the tests as root need not own the checkout.
    git.args(["-c", "safe.directory=*", "-C"])
        .arg(&root)
        .args(["archive", "--output"])
        .arg(&archive)
        .arg(commit);
    if !git.output().map_err(io(Path::new("git")))?.status.success() {
        return Err(FormerError::NoHistory(commit));
    }
    let failed = |what: String| FormerError::Build { commit, what };
    let mut tar = Command::new("tar");
    let unpacked =
        tar.arg("-xf").arg(&archive).arg("-C").arg(&source).output().map_err(io(Path::new("tar")))?;
    if !unpacked.status.success() {
        return Err(failed(String::from_utf8_lossy(&unpacked.stderr).into_owned()));
    }
    let target = directory.join("target");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", "lb-userspace", "--bin", "xvip", "--target-dir"]);
    cargo.arg(&target).current_dir(&source).env_remove("CARGO_TARGET_DIR");
    // Nobody reads its backtraces, or builds it again.
    cargo.envs([("CARGO_PROFILE_DEV_DEBUG", "false"), ("CARGO_INCREMENTAL", "0")]);
    let built = cargo.output().map_err(io(Path::new("cargo")))?;
    if !built.status.success() {
        return Err(failed(String::from_utf8_lossy(&built.stderr).into_owned()));
    }
    fs::copy(target.join("debug/xvip"), &program).map_err(io(&program))?;
    // A gigabyte of which nothing is needed any more.
    let _ = fs::remove_dir_all(&target);
    Ok(program)
}
