//! The lock on the directory of pinned objects: one instance for each.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Why the lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum PinLockError {
    /// Another instance has it.
    #[error("another instance uses {}; write another node.pin_path, or stop it", .0.display())]
    InUse(PathBuf),
    /// The directory cannot be opened or locked.
    #[error("{}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Held while this process lives; gone with it, however it ends.
#[derive(Debug)]
pub struct PinLock {
    _lock: Flock<File>,
}

impl PinLock {
    /// Takes the lock; `None` where there is no such directory.
    pub fn take_if_there(path: &Path) -> Result<Option<Self>, PinLockError> {
        let io = |error| PinLockError::Io { path: path.to_owned(), error };
        let directory = match File::open(path) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(Self { _lock: lock })),
            Err((_, Errno::EWOULDBLOCK)) => Err(PinLockError::InUse(path.to_owned())),
            Err((_, error)) => Err(io(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_none_where_nothing_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = PinLock::take_if_there(directory.path()).expect("free");
        assert!(first.is_some());
        assert!(matches!(PinLock::take_if_there(directory.path()), Err(PinLockError::InUse(_))));
        drop(first);
        assert!(PinLock::take_if_there(directory.path()).expect("free again").is_some());
        assert!(PinLock::take_if_there(&directory.path().join("none")).expect("not there").is_none());
    }
}
