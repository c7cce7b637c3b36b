//! The configuration from a disk.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    diagnostic::Problems,
    parse::{Checked, Facts, parse_bytes},
};
use crate::privileges::DAEMON_USER;

/// More than any configuration, certificate bundle or token; a wrong path must not fill the memory.
const LARGEST_FILE: u64 = 4 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}\n    {}", file.display(), remedy(file, error))]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// The file can be read and is refused.
    #[error(transparent)]
    Refused(#[from] Problems),
}

/// What is there and forbidden is made readable for the user of the package's unit; else another file is needed.
fn remedy(file: &Path, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::PermissionDenied {
        format!("run: chgrp {DAEMON_USER} {0} && chmod 640 {0}", file.display())
    } else {
        "write: --config FILE with the path of a file that can be read".to_owned()
    }
}

/// Reads and checks the configuration in `file`, with the files that it names.
///
/// # Errors
/// The file cannot be read, or is refused; see [`LoadError`].
pub fn load(file: &Path) -> Result<Checked, LoadError> {
    // The configuration may come through a pipe; what it names may not, since it is read again and again.
    let bytes = File::open(file)
        .and_then(read_bounded)
        .map_err(|error| LoadError::Unreadable { file: file.to_owned(), error })?;
    let host_name =
        nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let facts = Facts { host_name, read_file: &read_regular, file_mode: &file_mode };
    Ok(parse_bytes(&bytes, file, &facts)?)
}

fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // Asked before opening: opening a FIFO waits for a writer.
    file_mode(path)?;
    read_bounded(File::open(path)?)
}

fn file_mode(path: &Path) -> io::Result<u32> {
    let data = std::fs::metadata(path)?;
    if !data.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(data.permissions().mode() & 0o7777)
}

fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)? as u64 > LARGEST_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[node]\ninterface = \"eth0\"\n[[service]]\nname = \"api\"\nvip = \"172.16.0.10\"\nport = 6443\n\
        [service.health]\ncheck = \"tcp\"\n[[service.backend]]\nname = \"m1\"\naddress = \"172.16.0.4:6443\"\n";

    #[test]
    fn a_file_is_loaded_with_the_host_name_as_the_node_s() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xvip.toml");
        std::fs::write(&file, MINIMAL).expect("written");
        let checked = load(&file).expect("accepted");
        let host_name = nix::unistd::gethostname().expect("a host name");
        assert_eq!(checked.config.node.name, host_name.to_str().expect("UTF-8"));
        assert_eq!(checked.config.services.len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        for path in ["/nowhere/xvip.toml", "/", "/dev/zero"] {
            let error = load(Path::new(path)).expect_err("unreadable");
            assert!(matches!(error, LoadError::Unreadable { .. }), "{error:?}");
            assert!(error.to_string().starts_with(&format!("cannot read {path}: ")), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_forbidden_is_given_to_the_daemon() {
        let file = Path::new("/etc/xvip/xvip.toml").to_owned();
        let error = LoadError::Unreadable { file, error: io::ErrorKind::PermissionDenied.into() };
        let said = error.to_string();
        assert!(
            said.ends_with("run: chgrp xvip /etc/xvip/xvip.toml && chmod 640 /etc/xvip/xvip.toml"),
            "{said}"
        );
    }

    #[test]
    fn what_a_file_names_is_read_from_the_disk() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xvip.toml");
        let named = directory.path().join("ca.crt");
        let tls = format!("check = \"https\"\nverify = \"ca\"\nca_file = {named:?}");
        std::fs::write(&file, MINIMAL.replace("check = \"tcp\"", &tls)).expect("written");
        let LoadError::Refused(problems) = load(&file).expect_err("no CA file") else {
            panic!("not refused")
        };
        assert!(problems.to_string().contains("No such file"), "{problems}");
        nix::unistd::mkfifo(&named, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        let LoadError::Refused(problems) = load(&file).expect_err("a FIFO") else { panic!("not refused") };
        assert!(problems.to_string().contains("not a regular file"), "{problems}");
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_with_their_line() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("xvip.toml");
        std::fs::write(&file, b"[node]\nname = \"\xff\"\n").expect("written");
        let LoadError::Refused(problems) = load(&file).expect_err("not UTF-8") else { panic!("not refused") };
        assert_eq!(problems.0.first().map(|found| found.line), Some(2));
    }
}
