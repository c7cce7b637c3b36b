//! The file in which overrides outlive the daemon.
//!
//! `STATE.json` in the state directory: `$STATE_DIRECTORY`, as systemd sets it for `StateDirectory=xvip`, else
//! `/var/lib/xvip`. STATE tells instances apart as their pin paths do: `xvip` for `/sys/fs/bpf/xvip`. Its form is in
//! [`crate::steering`].

use std::{
    env,
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use crate::steering::{Overrides, StateError};

/// Where the state is kept without `$STATE_DIRECTORY`.
const DIRECTORY: &str = "/var/lib/xvip";
/// What systemd tells it by.
const VARIABLE: &str = "STATE_DIRECTORY";
const BPFFS: &str = "/sys/fs/bpf";
/// No state file is as large. What is, is none of ours.
const LARGEST: u64 = 16 << 20;

/// The directory that this process keeps its state in.
pub fn directory() -> PathBuf {
    let told = env::var_os(VARIABLE).filter(|told| !told.is_empty());
    // systemd puts colons between several.
    let first = told.as_deref().and_then(|told| told.as_bytes().split(|byte| *byte == b':').next());
    first.map_or_else(|| PathBuf::from(DIRECTORY), |first| PathBuf::from(OsStr::from_bytes(first)))
}

/// The state file of an instance.
pub fn path(directory: &Path, pin_path: &Path) -> PathBuf {
    let below = pin_path.strip_prefix(BPFFS).unwrap_or(pin_path);
    let parts: Vec<_> = below
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(part) => Some(part.to_string_lossy()),
            _ => None,
        })
        .collect();
    let name = if parts.is_empty() { "xvip".to_owned() } else { parts.join("-") };
    directory.join(format!("{name}.json"))
}

/// What a state file had to say.
#[derive(Debug)]
pub struct Found {
    /// What it says; nothing where there is none, or none that can be used.
    pub overrides: Overrides,
    /// What is wrong, and what was done about it.
    pub problem: Option<String>,
}

/// Reads a state file. One that is not ours, or damaged, is put aside, so that nothing that somebody may want is lost.
pub fn read(path: &Path) -> Found {
    let nothing = |problem| Found { overrides: Overrides::default(), problem };
    let text = match text_of(path) {
        Ok(Some(text)) => text,
        Ok(None) => return nothing(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return nothing(Some(set_aside(path, &error.to_string())));
        }
        Err(error) => {
            let problem = format!(
                "what was drained, disabled or weighted with `xvip backend` is not known: {} cannot be read: {error}",
                path.display()
            );
            return nothing(Some(problem));
        }
    };
    match Overrides::from_json(&text) {
        Ok(overrides) => Found { overrides, problem: None },
        Err(error @ (StateError::Form(_) | StateError::Version(_) | StateError::Value { .. })) => {
            nothing(Some(set_aside(path, &error.to_string())))
        }
    }
}

fn text_of(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > LARGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too large to be a state file"));
    }
    io::read_to_string(file).map(Some)
}

/// Renames a file that cannot be used, and says all of it.
fn set_aside(path: &Path, why: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".unusable-{}", now.as_secs()));
    let lost = format!("{}: {why}; every backend is as the configuration says", path.display());
    match fs::rename(path, &aside) {
        Ok(()) => format!("{lost}; the file is now {}", Path::new(&aside).display()),
        Err(error) => format!("{lost}; the file cannot be renamed: {error}"),
    }
}

/// Writes a state file in one step: whoever reads it, also after a crash, finds the old one or the new one.
///
/// # Errors
/// It cannot be written. The old one is still there then.
pub fn write(path: &Path, overrides: &Overrides) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let draft = path.with_extension("json.new");
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&draft)?;
        file.write_all(overrides.to_json().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Removes a state file. False where there was none.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::protocol::{BackendAction, BackendOrder},
        desired::tests::{config, service},
        steering::Said,
    };

    fn disabled() -> Overrides {
        let config = config(vec![service("api", [172, 16, 0, 10].into(), &[4])]);
        let backend = config.services[0].backends[0].name.clone();
        let order = BackendOrder { backend, service: None, action: BackendAction::Disable, by: None };
        let said = Said { by: "root".to_owned(), at: SystemTime::UNIX_EPOCH };
        let mut overrides = Overrides::default();
        overrides.apply(&order, &config, &said).expect("known");
        overrides
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("there").flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_instance_has_its_own() {
        let path = |pins: &str| path(Path::new("/var/lib/xvip"), Path::new(pins));
        assert_eq!(path("/sys/fs/bpf/xvip"), Path::new("/var/lib/xvip/xvip.json"));
        assert_eq!(path("/sys/fs/bpf/a/b"), Path::new("/var/lib/xvip/a-b.json"));
        assert_eq!(path("/mnt/../bpf"), Path::new("/var/lib/xvip/mnt-bpf.json"));
        assert_eq!(path("/sys/fs/bpf"), Path::new("/var/lib/xvip/xvip.json"));
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state/xvip.json");
        let found = read(&path);
        assert!(found.overrides == Overrides::default() && found.problem.is_none(), "none is no problem");
        for overrides in [disabled(), Overrides::default(), disabled()] {
            write(&path, &overrides).expect("written");
            let found = read(&path);
            assert_eq!((found.overrides, found.problem), (overrides, None));
        }
        assert_eq!(names(&directory.path().join("state")), ["xvip.json"]);
        assert!(remove(&path).expect("removed") && !remove(&path).expect("it is gone"));
    }

    #[test]
    fn a_damaged_one_is_put_aside_and_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xvip.json");
        for damaged in [&b"{\"version\": 1, \"overr"[..], b"{\"version\": 7}", b"\xff\xfe", b""] {
            fs::write(&path, damaged).expect("written");
            let found = read(&path);
            assert_eq!(found.overrides, Overrides::default());
            let problem = found.problem.expect("said");
            assert!(problem.contains("as the configuration says; the file is now"), "{problem}");
            let aside = names(directory.path());
            assert!(aside.len() == 1 && aside[0].starts_with("xvip.json.unusable-"), "{aside:?}");
            let aside = directory.path().join(&aside[0]);
            assert_eq!(fs::read(&aside).expect("kept"), damaged);
            fs::remove_file(aside).expect("removed");
        }
    }

    #[test]
    fn one_that_cannot_be_written_leaves_the_old_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("xvip.json");
        write(&path, &disabled()).expect("written");
        // The draft is in the way.
        fs::create_dir(directory.path().join("xvip.json.new")).expect("made");
        write(&path, &Overrides::default()).expect_err("it cannot");
        assert_eq!(read(&path).overrides, disabled());
    }
}
