//! Debian's stock kernels, and the programs that boot them, each unpacked into a directory of ours.
//!
//! Nothing is installed: apt gets a configuration of its own, with its own lists and an empty idea of what the
//! machine has, so it names *all* packages that QEMU needs; they are unpacked side by side and started by their own
//! dynamic loader. So nothing depends on what else is installed (another QEMU in part, for instance, with which the
//! package would be in conflict), and nothing has to be root.
//!
//! ```text
//! DIR/apt/           sources, lists, downloads
//! DIR/tools/         QEMU, lz4, zstd, xz and their libraries
//! DIR/6.1/           release (the kernel's full name), vmlinux, lib/modules/...
//! ```
//!
//! What is there is used as it is; whoever wants today's version removes it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::fcntl::{Flock, FlockArg};

use super::image::{ImageError, Packing, packed_kernel};
use super::modules;

/// The release that has the kernels, and QEMU.
const RELEASE: &str = "bookworm";
/// The package whose newest version of a series depends on that series' newest kernel. The one for cloud machines: it
/// is small, and has all that we test with.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Each of the programs' packages.
const TOOLS: [&str; 4] = ["qemu-system-x86", "lz4", "zstd", "xz-utils"];
/// Of the libraries, below the root of a file system.
const LIBRARY_DIRECTORIES: [&str; 3] =
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/pulseaudio"];
/// The dynamic loader itself; what has its name in `/lib64` is an absolute link.
const LOADER: &str = "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// Why there is no kernel, or nothing to boot it with.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// apt's sources do not name a mirror of Debian.
    #[error(
        "apt's sources name no mirror of Debian (a URI that ends in /debian), so there is no kernel to be had"
    )]
    NoMirror,
    /// A program failed.
    #[error("`{command}` failed: {stderr}")]
    Command {
        /// Its command line.
        command: String,
        /// What it printed on its standard error.
        stderr: String,
    },
    /// The suites have no kernel of this series.
    #[error("Debian has no {META_PACKAGE} of version {0}.* any more")]
    NoKernel(String),
    /// A kernel's image could not be read.
    #[error("{path}: {source}")]
    Image {
        /// The file.
        path: PathBuf,
        /// Why.
        source: ImageError,
    },
    /// A kernel has no module of that name, neither as a file nor built in.
    #[error("Linux {release} has no module {module}")]
    NoModule {
        /// The kernel.
        release: String,
        /// The module.
        module: String,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DebianError + '_ {
    |source| DebianError::File { path: path.to_owned(), source }
}

/// A directory with kernels and tools, which may still be empty.
#[derive(Debug)]
pub struct Debian {
    directory: PathBuf,
    /// Others may want to fill the same directory, from this process or another.
    _lock: Flock<File>,
}

/// The unpacked programs.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What `uname -r` says on it.
    pub release: String,
    /// The kernel, as an ELF file with a PVH entry.
    pub vmlinux: PathBuf,
    modules: PathBuf,
    tools: Tools,
}

impl Debian {
    /// Opens the directory, and waits until nobody else has it open.
    ///
    /// # Errors
    /// When it cannot be made or locked.
    pub fn open(directory: &Path) -> Result<Self, DebianError> {
        fs::create_dir_all(directory).map_err(at(directory))?;
        let path = directory.join("lock");
        let file = File::create(&path).map_err(at(&path))?;
        let lock =
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| at(&path)(errno.into()))?;
        Ok(Self { directory: directory.to_owned(), _lock: lock })
    }

    /// The programs; fetches them where they are not there.
    ///
    /// # Errors
    /// When they cannot be fetched.
    pub fn tools(&self) -> Result<Tools, DebianError> {
        let root = self.directory.join("tools");
        // So that a list that has changed since is noticed.
        let wanted = format!("{} of {RELEASE}-backports", TOOLS.join(", "));
        if !fs::read_to_string(root.join("wanted")).is_ok_and(|there| there == wanted) {
            println!("fetching {wanted}");
            let apt = Apt::refreshed(&self.directory.join("apt"))?;
            let names = apt.with_dependencies(&TOOLS)?;
            self.unpack(&apt.download(&names)?, &root, |root| {
                let path = root.join("wanted");
                fs::write(&path, &wanted).map_err(at(&path))
            })?;
        }
        Ok(Tools { root })
    }

    /// The newest kernel of a series (`6.1`) at the time that it was fetched; fetches it where it is not there.
    ///
    /// # Errors
    /// When it cannot be fetched or unpacked.
    pub fn kernel(&self, series: &str) -> Result<Kernel, DebianError> {
        let tools = self.tools()?;
        let root = self.directory.join(series);
        if !root.is_dir() {
            let apt = Apt::refreshed(&self.directory.join("apt"))?;
            let package = kernel_package(&apt.show(META_PACKAGE)?, series)
                .ok_or_else(|| DebianError::NoKernel(series.to_owned()))?;
            println!("fetching {package} from Debian {RELEASE}");
            self.unpack(&apt.download(&[package])?, &root, |root| make_bootable(root, &tools))?;
        }
        let path = root.join("release");
        let release = fs::read_to_string(&path).map_err(at(&path))?;
        let modules = root.join("lib/modules").join(&release);
        Ok(Kernel { vmlinux: root.join("vmlinux"), modules, tools, release })
    }

    /// Unpacks packages into one directory, which exists afterwards as a whole or not at all.
    fn unpack(
        &self,
        packages: &[PathBuf],
        root: &Path,
        finish: impl FnOnce(&Path) -> Result<(), DebianError>,
    ) -> Result<(), DebianError> {
        let new = self.directory.join("new");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(at(&new))?;
        }
        fs::create_dir_all(&new).map_err(at(&new))?;
        for package in packages {
            run(Command::new("dpkg").arg("-x").arg(package).arg(&new))?;
            fs::remove_file(package).map_err(at(package))?;
        }
        finish(&new)?;
        if root.exists() {
            fs::remove_dir_all(root).map_err(at(root))?;
        }
        fs::rename(&new, root).map_err(at(root))
    }
}

/// Leaves of the unpacked package what is booted: `release`, `vmlinux` and the modules.
fn make_bootable(root: &Path, tools: &Tools) -> Result<(), DebianError> {
    let modules = root.join("lib/modules");
    let release = fs::read_dir(&modules).map_err(at(&modules))?.flatten().next();
    let release = release.map(|entry| entry.file_name().to_string_lossy().into_owned()).unwrap_or_default();
    let path = root.join("boot").join(format!("vmlinuz-{release}"));
    let image = fs::read(&path).map_err(at(&path))?;
    let (packing, payload) =
        packed_kernel(&image).map_err(|source| DebianError::Image { path: path.clone(), source })?;
    let packed = root.join("packed");
    fs::write(&packed, payload).map_err(at(&packed))?;
    let vmlinux = root.join("vmlinux");
    fs::write(&vmlinux, tools.unpacked(packing, &packed)?).map_err(at(&vmlinux))?;
    fs::remove_file(&packed).map_err(at(&packed))?;
    for other in ["boot", "usr"] {
        let path = root.join(other);
        fs::remove_dir_all(&path).map_err(at(&path))?;
    }
    let path = root.join("release");
    fs::write(&path, release).map_err(at(&path))
}

impl Tools {
    /// A command that starts one of the programs, by its path below the root.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let libraries: Vec<_> = LIBRARY_DIRECTORIES.iter().map(|path| self.root.join(path)).collect();
        let libraries: Vec<_> = libraries.iter().map(|path| path.as_os_str()).collect();
        let mut command = Command::new(self.root.join(LOADER));
        command.arg("--library-path").arg(libraries.join(OsStr::new(":"))).arg(self.root.join(program));
        command
    }

    /// A path below the root.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// What QEMU calls its version.
    ///
    /// # Errors
    /// When it does not start.
    pub fn qemu_version(&self) -> Result<String, DebianError> {
        let output = run(self.command("usr/bin/qemu-system-x86_64").arg("--version"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().next().unwrap_or_default();
        Ok(line.split_once("version ").map_or(line, |(_, version)| version).to_owned())
    }

    /// What is packed in a file.
    fn unpacked(&self, packing: Packing, file: &Path) -> Result<Vec<u8>, DebianError> {
        let program = format!("usr/bin/{}", packing.program());
        run(self.command(&program).arg("-dc").arg(file)).map(|output| output.stdout)
    }
}

impl Kernel {
    /// What boots it.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The modules that have to be loaded to have these, unpacked, in the order in which to load them. What is built in
    /// is left out.
    ///
    /// # Errors
    /// When a module is not there, or cannot be unpacked.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, DebianError> {
        let path = self.modules.join("modules.builtin");
        let list = fs::read_to_string(&path).map_err(at(&path))?;
        let built_in: Vec<String> = modules::built_in(&list).collect();
        // Every module of the package, in no order that matters: `FILE:` for each.
        let path = self.modules.join("modules.order");
        let files = fs::read_to_string(&path).map_err(at(&path))?;
        let file_of =
            |name: &str| files.lines().find(|file| modules::file_name(file).as_deref() == Some(name));

        let mut contents = Vec::new();
        let mut failed = None;
        let order = modules::order(wanted, &mut |name| {
            if built_in.iter().any(|there| there == name) {
                return Some(vec![]);
            }
            match self.module(file_of(name)?) {
                Ok(module) => {
                    let needs = modules::needs(&module);
                    contents.push((name.to_owned(), module));
                    Some(needs)
                }
                Err(error) => {
                    failed = Some(error);
                    None
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let order =
            order.map_err(|module| DebianError::NoModule { release: self.release.clone(), module })?;
        contents.sort_by_key(|(name, _)| order.iter().position(|other| other == name));
        Ok(contents)
    }

    /// The module in this file; `modules.order` has the name of the file before it was packed.
    fn module(&self, file: &str) -> Result<Vec<u8>, DebianError> {
        let plain = self.modules.join(file);
        if plain.is_file() {
            return fs::read(&plain).map_err(at(&plain));
        }
        self.tools.unpacked(Packing::Xz, &self.modules.join(format!("{file}.xz")))
    }
}

/// apt with a configuration of its own.
struct Apt {
    directory: PathBuf,
}

impl Apt {
    /// With the lists of today.
    fn refreshed(directory: &Path) -> Result<Self, DebianError> {
        for path in ["lists/partial", "cache/archives/partial", "parts"] {
            let path = directory.join(path);
            fs::create_dir_all(&path).map_err(at(&path))?;
        }
        let sources = sources(&targets()?).ok_or(DebianError::NoMirror)?;
        for (name, text) in [("sources.list", sources.as_str()), ("status", "")] {
            let path = directory.join(name);
            fs::write(&path, text).map_err(at(&path))?;
        }
        let apt = Self { directory: directory.to_owned() };
        // A repository that could not be reached is an error, not a warning.
        run(apt.command("apt-get").args(["update", "--error-on=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let own = [
            ("Dir::Etc::sourcelist", "sources.list"),
            ("Dir::Etc::sourceparts", "parts"),
            ("Dir::Etc::preferences", "preferences"),
            ("Dir::Etc::preferencesparts", "parts"),
            ("Dir::State", ""),
            ("Dir::State::lists", "lists"),
            ("Dir::State::status", "status"),
            ("Dir::Cache", "cache"),
        ];
        for (option, path) in own {
            command.arg("-o").arg(format!("{option}={}", self.directory.join(path).display()));
        }
        // `_apt` may not be able to get here.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64"]);
        command.args(["-o", "APT::Architectures=amd64", "-o", "Acquire::Languages=none", "-q"]);
        command.args(["-o", "Acquire::Retries=3"]).env("LC_ALL", "C");
        command
    }

    /// The paragraphs of all versions of a package, the newest first.
    fn show(&self, package: &str) -> Result<String, DebianError> {
        let output = run(self.command("apt-cache").args(["show", package]))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// These packages and all that they depend on, each as `NAME=VERSION`.
    fn with_dependencies(&self, packages: &[&str]) -> Result<Vec<String>, DebianError> {
        let mut command = self.command("apt-get");
        command.args(["install", "--simulate", "--no-install-recommends"]);
        // Not RELEASE's own QEMU, 7.2: on it Linux 6.12 died of a double fault, with a pointer in the flags register right
        // after a `cmpxchg16b`.
        command.arg("--target-release").arg(format!("{RELEASE}-backports")).args(packages);
        Ok(simulated(&String::from_utf8_lossy(&run(&mut command)?.stdout)))
    }

    /// Downloads packages, each as `NAME=VERSION`; the files.
    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>, DebianError> {
        let directory = self.directory.join("download");
        if directory.exists() {
            fs::remove_dir_all(&directory).map_err(at(&directory))?;
        }
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        run(self.command("apt-get").arg("download").args(packages).current_dir(&directory))?;
        let files = fs::read_dir(&directory).map_err(at(&directory))?.flatten();
        Ok(files.map(|file| file.path()).filter(|path| path.extension() == Some(OsStr::new("deb"))).collect())
    }
}

/// The mirror of Debian that the machine's apt uses.
///
/// # Errors
/// It knows none.
pub fn mirror() -> Result<String, DebianError> {
    mirror_of(&targets()?, "/debian").ok_or(DebianError::NoMirror)
}

/// A line `COMPONENT URI` for each list that the machine's apt knows.
fn targets() -> Result<String, DebianError> {
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        // Else it tells nothing where the machine's lists were never fetched.
        "--no-release-info",
        "--format=$(COMPONENT) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    Ok(String::from_utf8_lossy(&targets.stdout).into_owned())
}

fn mirror_of(targets: &str, archive: &str) -> Option<String> {
    let mut uris = targets.lines().filter_map(|line| line.strip_prefix("main "));
    uris.find(|uri| uri.trim_end_matches('/').ends_with(archive)).map(str::to_owned)
}

/// The sources of our own, on the mirrors that the machine uses. `targets` has a line `COMPONENT URI` for each list that
/// the machine's apt knows.
fn sources(targets: &str) -> Option<String> {
    let line = |uri: &str, suite: &str| {
        format!("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {uri} {suite} main\n")
    };
    let debian = mirror_of(targets, "/debian")?;
    let mut sources = line(&debian, RELEASE) + &line(&debian, &format!("{RELEASE}-backports"));
    if let Some(security) = mirror_of(targets, "/debian-security") {
        sources += &line(&security, &format!("{RELEASE}-security"));
    }
    Some(sources)
}

/// Reads `apt-cache show META_PACKAGE`: the newest kernel of this series, as `NAME=VERSION`.
fn kernel_package(paragraphs: &str, series: &str) -> Option<String> {
    paragraphs.split("\n\n").find_map(|paragraph| {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
        field("Version: ")?.strip_prefix(series)?.strip_prefix('.')?;
        // `linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)`
        let (name, rest) = field("Depends: ")?.split_once(" (= ")?;
        let version = rest.split(')').next()?;
        Some(format!("{name}={version}"))
    })
}

/// Reads `apt-get install --simulate`: `Inst NAME (VERSION SUITE [ARCHITECTURE])` for each package.
fn simulated(simulation: &str) -> Vec<String> {
    let installed = simulation.lines().filter_map(|line| line.strip_prefix("Inst "));
    let package = |line: &str| {
        let (name, rest) = line.split_once(" (")?;
        Some(format!("{name}={}", rest.split(' ').next()?))
    };
    installed.filter_map(package).collect()
}

fn run(command: &mut Command) -> Result<Output, DebianError> {
    let failed = |command: &Command, stderr: String| {
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        // Without apt's options: there are many, and always the same.
        let option = |n: usize| words[n] == "-o" || n > 0 && words[n - 1] == "-o";
        let words: Vec<_> = (0..words.len()).filter(|n| !option(*n)).map(|n| words[n].as_ref()).collect();
        let words = words.join(" ");
        DebianError::Command { command: format!("{} {words}", command.get_program().display()), stderr }
    };
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(command, error.to_string()))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(failed(command, String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_a_series_is_found_through_the_meta_package() {
        let shown = "Package: linux-image-cloud-amd64\nVersion: 6.12.95-1~bpo12+1\n\
            Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)\n\n\
            Package: linux-image-cloud-amd64\nVersion: 6.1.192-2\nSize: 1\n\
            Depends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n\n\
            Package: linux-image-cloud-amd64\nVersion: 6.1.176-1\n\
            Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n";
        let found = |series| kernel_package(shown, series);
        assert_eq!(found("6.1").as_deref(), Some("linux-image-6.1.0-56-cloud-amd64=6.1.192-2"));
        assert_eq!(found("6.12").as_deref(), Some("linux-image-6.12.95+deb12-cloud-amd64=6.12.95-1~bpo12+1"));
        assert_eq!(found("5.10"), None);
    }

    #[test]
    fn the_machines_mirrors_are_used_for_our_suites() {
        let targets = "main http://else.example/apt/\nmain http://mirror.example/debian/\n\
            contrib http://other.example/debian/\nmain http://mirror.example/debian-security/\n";
        let key = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg";
        assert_eq!(
            sources(targets).unwrap(),
            format!(
                "deb [{key}] http://mirror.example/debian/ bookworm main\n\
                 deb [{key}] http://mirror.example/debian/ bookworm-backports main\n\
                 deb [{key}] http://mirror.example/debian-security/ bookworm-security main\n"
            )
        );
        assert_eq!(sources("main http://mirror.example/ubuntu/\n"), None);
    }

    #[test]
    fn a_simulation_names_every_package_with_its_version() {
        let text = "Inst gcc-12-base (12.2.0-14 Debian:12.15/oldstable [amd64])\n\
            Inst libc6 (2.36-9 Debian:12.15/oldstable [amd64]) []\nConf libc6 (2.36-9 Debian [amd64])\n";
        assert_eq!(simulated(text), ["gcc-12-base=12.2.0-14", "libc6=2.36-9"]);
    }
}
