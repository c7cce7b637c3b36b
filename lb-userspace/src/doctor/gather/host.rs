//! The machine and its kernel.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::util::nr_cpus;
use lb_common::wire::Mac;
use nix::{
    ifaddrs::getifaddrs,
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{AccessFlags, SysconfVar, access, sysconf},
};

use super::system_calls;
use crate::{
    config::model::Config,
    dataplane::cgroup2_mount,
    doctor::facts::{BpfFs, Directory, FileMode, Host, Looked, OwnAddress},
    state_file,
};

const UNITS: [&str; 4] = [
    "/etc/systemd/system/xvip.service",
    "/run/systemd/system/xvip.service",
    "/usr/lib/systemd/system/xvip.service",
    "/lib/systemd/system/xvip.service",
];

/// Looks at them.
pub fn look(config: &Config) -> Host {
    Host {
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        processors: processors(),
        possible_processors: nr_cpus().map(|count| count as u32).map_err(|(_, error)| error.to_string()),
        capabilities: capabilities(&read("/proc/self/status")).unwrap_or(0),
        bpf_fs: bpf_fs(&config.node.pin_path),
        cgroup2: cgroup2_mount().map_err(|error| error.to_string()),
        memory_available: memory_available(&read("/proc/meminfo"))
            .ok_or_else(|| "/proc/meminfo has no MemAvailable".to_owned()),
        memlock: memlock(&read("/proc/self/limits")),
        clock: system_calls::clock().map_err(|error| error.to_string()),
        state_directory: directory(&state_file::directory()),
        sync_key: config.sync.as_ref().map(|sync| file_mode(&sync.key_file)),
        systemd: Path::new("/run/systemd/system").is_dir(),
        unit: UNITS.iter().map(PathBuf::from).find(|unit| unit.exists()),
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn processors() -> u32 {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    online.and_then(|count| u32::try_from(count).ok()).unwrap_or(1)
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn memory_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// The soft limit; none where it is unlimited or not told.
fn memlock(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn bpf_fs(pin_path: &Path) -> BpfFs {
    let nearest = pin_path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_there = statfs(nearest).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC);
    let known = read("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some("bpf"));
    match (is_there, pin_path.starts_with("/sys/fs/bpf"), known) {
        (true, ..) => BpfFs::Mounted,
        (false, false, _) => BpfFs::Elsewhere(nearest.to_owned()),
        (false, true, true) => BpfFs::Mountable,
        (false, true, false) => BpfFs::Unknown,
    }
}

fn directory(path: &Path) -> Directory {
    // The daemon makes it.
    let nearest = path.ancestors().find(|path| path.exists()).unwrap_or(path);
    Directory {
        path: path.to_owned(),
        exists: path.is_dir(),
        writable: access(nearest, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
    }
}

fn file_mode(path: &Path) -> Looked<FileMode> {
    let data = fs::metadata(path).map_err(|error| error.to_string())?;
    Ok(FileMode { mode: data.mode() & 0o7777, owner: data.uid() })
}

/// Every address of this network namespace.
pub fn addresses() -> Vec<OwnAddress> {
    let entries = getifaddrs().into_iter().flatten();
    let own = entries.filter_map(|entry| {
        let ip = |storage: &nix::sys::socket::SockaddrStorage| {
            let v4 = storage.as_sockaddr_in().map(|address| std::net::IpAddr::V4(address.ip()));
            v4.or_else(|| storage.as_sockaddr_in6().map(|address| std::net::IpAddr::V6(address.ip())))
        };
        let address = ip(entry.address.as_ref()?)?;
        let mask = entry.netmask.as_ref().and_then(ip);
        let prefix_len = match mask {
            Some(std::net::IpAddr::V4(mask)) => mask.to_bits().count_ones() as u8,
            Some(std::net::IpAddr::V6(mask)) => mask.to_bits().count_ones() as u8,
            None => 0,
        };
        Some(OwnAddress { interface: entry.interface_name, address, prefix_len })
    });
    own.collect()
}

/// The Ethernet addresses of this network namespace's interfaces.
pub fn macs() -> BTreeMap<String, Mac> {
    let entries = getifaddrs().into_iter().flatten();
    let macs = entries.filter_map(|entry| {
        let mac = entry.address.as_ref()?.as_link_addr()?.addr()?;
        // The loopback has none.
        (mac != [0; 6]).then_some((entry.interface_name, mac))
    });
    macs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says() {
        assert_eq!(capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(memory_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        let limits =
            "Limit   Soft Limit  Hard Limit Units\nMax locked memory         8388608     8388608   bytes\n";
        assert_eq!(memlock(limits), Some(8 << 20));
        assert_eq!(memlock(&limits.replace("8388608", "unlimited")), None);
    }

    #[test]
    fn this_node_has_the_loopback_s_address() {
        let loopback = addresses().into_iter().find(|own| own.interface == "lo" && own.address.is_ipv4());
        assert_eq!(loopback.map(|own| own.prefix_len), Some(8));
    }
}
