//! The directory that one run of the lab keeps its files in: certificates, configurations, sockets, logs.
//!
//! It is `xvip-lab-PID-RANDOM` below the system's temporary directory and holds a locked file. The lock goes away
//! with the process that took it, so what a killed run left is told apart from what is in use without guessing
//! from process ids.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};
use tempfile::TempDir;

const PREFIX: &str = "xvip-lab-";
const LOCK: &str = "in-use";
/// A directory younger than this may belong to a run that has not locked it yet.
const GRACE: Duration = Duration::from_secs(60);

/// A directory for the files of one run, removed on drop.
#[derive(Debug)]
pub struct RunDir {
    dir: TempDir,
    _lock: Flock<File>,
}

impl RunDir {
    /// Removes what killed runs left behind, then makes a directory for this one. With `XVIP_LAB_KEEP` in the
    /// environment it is not removed at the end.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn create() -> io::Result<Self> {
        remove_stale(&std::env::temp_dir(), GRACE)?;
        let mut dir =
            tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir()?;
        dir.disable_cleanup(std::env::var_os("XVIP_LAB_KEEP").is_some());
        let file = File::create(dir.path().join(LOCK))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| io::Error::from(e))?;
        Ok(Self { dir, _lock: lock })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// Removes the directories below `parent` that runs which are no more left there; returns how many.
fn remove_stale(parent: &Path, grace: Duration) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(parent)?.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if !metadata.is_dir() || age.is_none_or(|age| age < grace) {
            continue;
        }
        // Not to be opened: another user's, or never locked. Only the latter is ours to remove.
        let free = match File::open(entry.path().join(LOCK)) {
            Ok(file) => Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if free && fs::remove_dir_all(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_dead_runs_are_removed() {
        let parent = TempDir::new().unwrap();
        let at = |name: &str| parent.path().join(name);
        for name in ["xvip-lab-1-dead", "xvip-lab-2-alive", "something-else"] {
            fs::create_dir(at(name)).unwrap();
            File::create(at(name).join(LOCK)).unwrap();
        }
        let alive = File::open(at("xvip-lab-2-alive").join(LOCK)).unwrap();
        let _lock = Flock::lock(alive, FlockArg::LockExclusiveNonblock).unwrap();

        assert_eq!(remove_stale(parent.path(), GRACE).unwrap(), 0, "all of them are young");
        assert_eq!(remove_stale(parent.path(), Duration::ZERO).unwrap(), 1);
        assert!(!at("xvip-lab-1-dead").exists());
        assert!(at("xvip-lab-2-alive").exists());
        assert!(at("something-else").exists());
    }
}
