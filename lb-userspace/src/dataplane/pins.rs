//! Pins on the BPF file system: what survives the controller.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::{
    links::{FdLink, PinnedLink},
    loaded_programs,
};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{FsType, statfs},
};

use super::{AttachedMode, DataplaneError, local_clients};

/// Where the BPF file system is mounted by convention.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// Removes link, maps and directory of an instance. Returns what was removed.
///
/// # Errors
///
/// Where something of it cannot be removed.
pub fn cleanup(pin_path: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let attached = attached_programs(pin_path)?;
    let mut removed = remove_links(pin_path, &BTreeSet::new())?;
    removed.extend(local_clients::remove_hooks(pin_path)?);
    for directory in pins_named(pin_path, "maps-v")? {
        removed.extend(remove_pin_directory(&directory)?);
    }
    if pin_path.exists() {
        fs::remove_dir(pin_path).map_err(at(pin_path))?;
        removed.push(pin_path.to_owned());
    }
    wait_until_gone(&attached);
    Ok(removed)
}

/// The programs that the pinned links attach, by their ids in the kernel.
fn attached_programs(pin_path: &Path) -> Result<Vec<u32>, DataplaneError> {
    let mut links = pins_named(pin_path, "link-")?;
    links.extend(pins_named(pin_path, local_clients::PIN_PREFIX)?);
    links
        .iter()
        .map(|pin| {
            let link = PinnedLink::from_pin(pin).map_err(DataplaneError::Link)?;
            Ok(FdLink::from(link).info().map_err(DataplaneError::Link)?.program_id())
        })
        .collect()
}

/// The kernel takes a program off its interface a moment after the last pin of the link is gone. Whoever asked for a
/// clean-up expects it to be done.
fn wait_until_gone(programs: &[u32]) {
    const LONG_ENOUGH: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let is_loaded = || loaded_programs().flatten().any(|program| programs.contains(&program.id()));
    while !programs.is_empty() && is_loaded() && begun.elapsed() < LONG_ENOUGH {
        sleep(Duration::from_millis(1));
    }
}

/// Sees to it that pins can be made at `pin_path`: mounts the BPF file system at its usual place if it is not there,
/// as libbpf does.
pub fn mount_bpffs(pin_path: &Path) -> Result<(), DataplaneError> {
    let Some(existing) = pin_path.ancestors().find(|path| path.exists()) else {
        return Err(DataplaneError::NotBpffs(pin_path.to_owned()));
    };
    let kind = statfs(existing).map_err(|errno| at(existing)(errno.into()))?.filesystem_type();
    if kind == BPF_FS_MAGIC {
        return Ok(());
    }
    if !pin_path.starts_with(BPFFS) {
        return Err(DataplaneError::NotBpffs(pin_path.to_owned()));
    }
    mount(
        Some("bpf"),
        BPFFS,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        None::<&str>,
    )
    .map_err(|errno| at(Path::new(BPFFS))(errno.into()))
}

/// Where the link to an interface is pinned.
pub fn link_pin(pins: &Path, if_index: u32, mode: AttachedMode) -> PathBuf {
    pins.join(format!("link-{if_index}-{}", mode.name()))
}

/// Pins directly below `pins` whose name begins with `prefix`.
pub(super) fn pins_named(pins: &Path, prefix: &str) -> Result<Vec<PathBuf>, DataplaneError> {
    let entries = match fs::read_dir(pins) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(at(pins)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(at(pins))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Removes the pinned links, but for some. A link without a pin and without a holder detaches its program.
pub fn remove_links(pins: &Path, keep: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, DataplaneError> {
    let links: Vec<PathBuf> =
        pins_named(pins, "link-")?.into_iter().filter(|link| !keep.contains(link)).collect();
    for link in &links {
        fs::remove_file(link).map_err(at(link))?;
    }
    Ok(links)
}

/// Removes maps of other layouts than ours, which nothing uses any more.
pub fn remove_other_layouts(pins: &Path, keep: &Path) -> Result<(), DataplaneError> {
    for directory in pins_named(pins, "maps-v")?.iter().filter(|directory| *directory != keep) {
        remove_pin_directory(directory)?;
    }
    Ok(())
}

fn remove_pin_directory(directory: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let mut removed = pins_named(directory, "")?;
    for pin in &removed {
        fs::remove_file(pin).map_err(at(pin))?;
    }
    fs::remove_dir(directory).map_err(at(directory))?;
    removed.push(directory.to_owned());
    Ok(removed)
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> DataplaneError + '_ {
    move |source| DataplaneError::PinPath { path: path.to_owned(), source }
}
