//! The file system that a guest starts from: programs with their libraries, modules, and nothing else.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::cpio::Archive;
use super::debian::{DebianError, Kernel};

/// Where the programs are in the guest; its `PATH`.
pub const PROGRAMS: &str = "/usr/bin";
/// Where the modules are in the guest, with [`MODULE_ORDER`] beside them.
pub const MODULES: &str = "/lib/modules";
/// The file that names the modules' files, one a line, in the order to load them.
pub const MODULE_ORDER: &str = "/lib/modules/order";

/// Why a root could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A program that the guest needs is not on this machine.
    #[error("{0} not found, which the guest needs; `cargo xtask setup` installs it")]
    NoProgram(String),
    /// A program's library is not on this machine.
    #[error("{program} does not find its library {library}")]
    NoLibrary {
        /// The program.
        program: PathBuf,
        /// The library.
        library: String,
    },
    /// A program could not be run.
    #[error("{program}: {why}")]
    Command {
        /// The program.
        program: &'static str,
        /// What it said.
        why: String,
    },
    /// A file could not be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel has not what the guest needs.
    #[error(transparent)]
    Kernel(#[from] DebianError),
}

/// A root that grows.
#[derive(Debug, Default)]
pub struct Root {
    archive: Archive,
}

impl Root {
    /// With the directories that file systems are mounted on, and a console.
    #[must_use]
    pub fn new() -> Self {
        let mut archive = Archive::default();
        for directory in ["dev", "proc", "sys", "run", "tmp", "etc", "root"] {
            archive.directory(directory);
        }
        archive.character_device("dev/console", 5, 1);
        Self { archive }
    }

    /// Adds a program of ours, without its debugging information, which is most of it.
    ///
    /// # Errors
    /// When it cannot be stripped, or a library is missing.
    pub fn own_program(&mut self, name: &str, file: &Path) -> Result<(), RootError> {
        let stripped = tempfile::NamedTempFile::new()
            .map_err(|source| RootError::File { path: std::env::temp_dir(), source })?;
        run("strip", [OsStr::new("-o"), stripped.path().as_os_str(), file.as_os_str()])?;
        self.archive.file(&format!("{PROGRAMS}/{name}"), &read(stripped.path())?);
        self.libraries(file)
    }

    /// Adds a program of this machine, found as a shell finds it.
    ///
    /// # Errors
    /// When it or a library of it is missing.
    pub fn program(&mut self, name: &str) -> Result<(), RootError> {
        let file = find(name).ok_or_else(|| RootError::NoProgram(name.to_owned()))?;
        self.archive.file(&format!("{PROGRAMS}/{name}"), &read(&file)?);
        self.libraries(&file)
    }

    /// Adds the modules, and those that they need.
    ///
    /// # Errors
    /// When this kernel does not have one.
    pub fn modules(&mut self, kernel: &Kernel, names: &[&str]) -> Result<(), RootError> {
        let mut order = String::new();
        for (name, module) in kernel.modules(names)? {
            let path = format!("{MODULES}/{name}.ko");
            self.archive.file(&path, &module);
            order += &format!("{path}\n");
        }
        self.archive.file(MODULE_ORDER, order.as_bytes());
        Ok(())
    }

    /// The archive that the kernel unpacks.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.archive.finish()
    }

    fn libraries(&mut self, program: &Path) -> Result<(), RootError> {
        let listed = run("ldd", [program])?;
        let libraries = libraries(&listed)
            .map_err(|library| RootError::NoLibrary { program: program.to_owned(), library })?;
        for library in libraries {
            if !self.archive.contains(&library) {
                self.archive.file(&library, &read(Path::new(&library))?);
            }
        }
        Ok(())
    }
}

/// Reads what `ldd` prints: the files, or the name of a library that was not found.
fn libraries(listed: &str) -> Result<Vec<String>, String> {
    let mut files = Vec::new();
    for line in listed.lines().map(str::trim) {
        // `NAME => FILE (ADDRESS)`, `NAME => not found`, `FILE (ADDRESS)`, or `linux-vdso.so.1 (ADDRESS)`: no file.
        let (name, file) = line.split_once(" => ").unwrap_or((line, line));
        if file == "not found" {
            return Err(name.to_owned());
        }
        files.extend(file.split(" (").next().filter(|file| file.starts_with('/')).map(str::to_owned));
    }
    Ok(files)
}

/// As a shell finds it, and where programs for root are, which are not in everybody's `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories.map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn read(path: &Path) -> Result<Vec<u8>, RootError> {
    fs::read(path).map_err(|source| RootError::File { path: path.to_owned(), source })
}

fn run<A: AsRef<OsStr>>(
    program: &'static str,
    arguments: impl IntoIterator<Item = A>,
) -> Result<String, RootError> {
    let failed = |why: String| RootError::Command { program, why };
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let listed = "\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            libraries(listed).unwrap(),
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]
        );
        assert_eq!(libraries("\tlibnope.so.1 => not found\n"), Err("libnope.so.1".to_owned()));
        assert!(libraries("\tstatically linked\n").unwrap().is_empty());
    }
}
