//! The package for Debian, built by Debian's own `dpkg-deb`.

use std::{
    fs::{self, File, FileTimes},
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};

use crate::{
    DESCRIPTION, SUMMARY, Source, VERSION,
    contents::{self, CONFIGURATION_DIRECTORY, Kind},
    libraries,
};

/// What runs on the machine while the package comes and goes.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Writes `xvip_VERSION_ARCH.deb` into a directory.
///
/// # Errors
/// Something cannot be read or written, or `dpkg-deb` fails.
pub fn write(source: &Source, directory: &Path) -> anyhow::Result<PathBuf> {
    let files = contents::files(source, Kind::Deb)?;
    let stage = tempfile::tempdir()?;
    let root = stage.path().join("root");
    let mut installed = 0;
    for file in &files {
        let path = root.join(file.path.trim_start_matches('/'));
        put(&path, file.mode, &file.content)?;
        installed += file.content.len().div_ceil(1024);
    }
    fs::create_dir_all(root.join(CONFIGURATION_DIRECTORY.trim_start_matches('/')))?;

    let architecture = architecture()?;
    let binary = files.iter().find(|file| file.path == "/usr/bin/xvip").context("no binary")?;
    let control = control(&architecture, &binary.content, installed)?;
    let debian = root.join("DEBIAN");
    put(&debian.join("control"), 0o644, control.as_bytes())?;
    put(&debian.join("md5sums"), 0o644, sums(&root, &files)?.as_bytes())?;
    for script in SCRIPTS {
        let path = source.root.join("packaging/debian").join(script);
        let text = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        put(&debian.join(script), 0o755, &text)?;
    }
    settle(&root, SystemTime::UNIX_EPOCH + Duration::from_secs(source.epoch))?;

    fs::create_dir_all(directory)?;
    let path = directory.join(format!("xvip_{VERSION}_{architecture}.deb"));
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("--root-owner-group").args(if source.fast { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] });
    dpkg.arg("--build").arg(&root).arg(&path).env("SOURCE_DATE_EPOCH", source.epoch.to_string());
    let output = dpkg.output().context("starting dpkg-deb, of Debian's package dpkg")?;
    if !output.status.success() {
        bail!("dpkg-deb: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(path)
}

/// By which `dpkg --verify` finds out what has been changed (deb-md5sums(5)).
fn sums(root: &Path, files: &[contents::File]) -> anyhow::Result<String> {
    let mut md5sum = Command::new("md5sum");
    md5sum.current_dir(root).arg("--").args(files.iter().map(|file| file.path.trim_start_matches('/')));
    let output = md5sum.output().context("starting md5sum, of Debian's package coreutils")?;
    if !output.status.success() {
        bail!("md5sum: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn put(path: &Path, mode: u32, content: &[u8]) -> anyhow::Result<()> {
    let at = || format!("writing {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(at)?;
    }
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path).with_context(at)?;
    file.write_all(content).with_context(at)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(mode)).with_context(at)
}

/// Gives everything below a directory, and that itself, one time, and directories one mode.
fn settle(path: &Path, time: SystemTime) -> anyhow::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            settle(&entry?.path(), time)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    File::open(path)?.set_times(FileTimes::new().set_modified(time).set_accessed(time))?;
    Ok(())
}

/// Debian's name of the machine's architecture.
fn architecture() -> anyhow::Result<String> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64".to_owned(),
        "aarch64" => "arm64".to_owned(),
        other => bail!("no package for the architecture {other}"),
    })
}

/// deb-control(5). `installed`: KiB.
fn control(architecture: &str, binary: &[u8], installed: usize) -> anyhow::Result<String> {
    let glibc = libraries::newest_glibc(&libraries::needed(binary)?).context("the binary needs no glibc")?;
    let maintainer = crate::maintainer();
    // Debian policy 5.6.13: each line of it begins with a space.
    let description: String = DESCRIPTION.lines().map(|line| format!(" {line}\n")).collect();
    // `systemctl list-jobs`, by which the daemon tells a restart from a stop, asks on the system bus: it is not root.
    Ok(format!(
        "Package: xvip\nVersion: {VERSION}\nArchitecture: {architecture}\nMaintainer: {maintainer}\n\
         Installed-Size: {installed}\n\
         Depends: libc6 (>= {glibc}), libgcc-s1, systemd, default-dbus-system-bus | dbus-system-bus\n\
         Suggests: prometheus, bash-completion\n\
         Section: net\nPriority: optional\nDescription: {SUMMARY}\n{description}"
    ))
}
