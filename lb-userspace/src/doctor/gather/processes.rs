//! Who else is on this node: sockets that listen at a service's port, keepalived, and whoever holds an XDP program.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use super::system_calls::pinned;
use crate::{
    config::model::Config,
    doctor::facts::{Keepalived, Listener, Process, Program},
};

/// A configuration of keepalived is read up to that size.
const LARGEST: u64 = 1 << 20;
/// Pins are looked for so deep, and so many: a BPF file system can be large.
const PINS_DEPTH: usize = 6;
const PINS_AT_MOST: usize = 4096;

/// Every process that we may see.
fn processes() -> Vec<Process> {
    let ids = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut all: Vec<Process> = ids
        .filter_map(|id| {
            let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
            Some(Process { id, name: name.trim_end().to_owned() })
        })
        .collect();
    all.sort();
    all
}

/// Sockets that listen at a service's port, on its VIP or on every address.
pub fn listeners(config: &Config) -> Vec<Listener> {
    let services: BTreeSet<(IpAddr, u16)> =
        config.services.iter().map(|service| (service.vip.address, service.port.get())).collect();
    let is_ours = |address: &SocketAddr| {
        services.iter().any(|(vip, port)| {
            *port == address.port() && (address.ip() == *vip || address.ip().is_unspecified())
        })
    };
    let mut found: BTreeMap<u64, SocketAddr> = BTreeMap::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let table = fs::read_to_string(table).unwrap_or_default();
        found.extend(
            table
                .lines()
                .filter_map(listener)
                .filter(|(address, _)| is_ours(address))
                .map(|(address, inode)| (inode, address)),
        );
    }
    let owners = if found.is_empty() { BTreeMap::new() } else { owners(&found.keys().copied().collect()) };
    let listeners = found
        .iter()
        .map(|(inode, address)| Listener { address: *address, process: owners.get(inode).cloned() });
    listeners.collect()
}

/// A line of `/proc/net/tcp` or `tcp6` about a socket that listens: its address, and its inode.
fn listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace();
    let local = words.nth(1)?;
    // `TCP_LISTEN`
    if words.nth(1)? != "0A" {
        return None;
    }
    let inode = words.nth(5)?.parse().ok()?;
    let (address, port) = local.split_once(':')?;
    // Words of 32 bits, each in host order.
    let mut octets = Vec::new();
    for at in (0..address.len()).step_by(8) {
        octets.extend_from_slice(&u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    let address = match octets.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?).to_canonical(),
        _ => return None,
    };
    Some((SocketAddr::new(address, u16::from_str_radix(port, 16).ok()?), inode))
}

/// The processes that have these sockets open.
fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, Process> {
    let mut owners = BTreeMap::new();
    for process in processes() {
        let fds = fs::read_dir(format!("/proc/{}/fd", process.id)).into_iter().flatten().flatten();
        for target in fds.filter_map(|fd| fs::read_link(fd.path()).ok()) {
            let inode = target.to_str().and_then(|target| target.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) =
                inode.and_then(|inode| inode.parse().ok()).filter(|inode| inodes.contains(inode))
            {
                owners.entry(inode).or_insert_with(|| process.clone());
            }
        }
    }
    owners
}

/// Running keepalived daemons in this network namespace: the first of each one's processes.
pub fn keepalived() -> Vec<Keepalived> {
    let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/net")).ok();
    let ours = namespace("self");
    let all: Vec<Process> = processes().into_iter().filter(|process| process.name == "keepalived").collect();
    let is_child =
        |process: &Process| parent(process.id).is_some_and(|parent| all.iter().any(|one| one.id == parent));
    let daemons =
        all.iter().filter(|process| !is_child(process) && namespace(&process.id.to_string()) == ours);
    let daemons = daemons.map(|process| {
        let file = configuration_of(process.id);
        // In its own root: it may be in a container.
        let below_root = file.strip_prefix("/").unwrap_or(&file);
        let text = read(&Path::new("/proc").join(process.id.to_string()).join("root").join(below_root));
        let virtual_router_ids =
            text.map(|text| virtual_router_ids(&text)).map_err(|error| error.to_string());
        Keepalived { process: process.clone(), file, virtual_router_ids }
    });
    daemons.collect()
}

fn parent(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // After the name, which may hold anything: state, parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn configuration_of(id: u32) -> PathBuf {
    let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    let words: Vec<&str> =
        line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    configuration_named(&words).unwrap_or_else(|| PathBuf::from("/etc/keepalived/keepalived.conf"))
}

fn configuration_named(words: &[&str]) -> Option<PathBuf> {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.split_once('=') {
            Some(("--use-file", file)) => return Some(PathBuf::from(file)),
            _ if ["-f", "--use-file"].contains(word) => return words.next().map(PathBuf::from),
            _ => {}
        }
    }
    None
}

fn read(path: &Path) -> io::Result<String> {
    use std::io::Read as _;
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn virtual_router_ids(text: &str) -> BTreeSet<u8> {
    let lines = text.lines().map(|line| line.split(['!', '#']).next().unwrap_or_default());
    let ids = lines.filter_map(|line| line.trim().strip_prefix("virtual_router_id")?.trim().parse().ok());
    ids.collect()
}

/// Adds to each program where it is pinned and, where one is not, who holds it: that means to look at everything that every
/// process has open.
pub fn find_holders(programs: &mut [Program]) {
    if programs.is_empty() {
        return;
    }
    for path in pins() {
        let Some(id) = pinned(&path).ok().and_then(|fd| {
            program_of(&fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", fd.as_raw_fd())).ok()?)
        }) else {
            continue;
        };
        for program in programs.iter_mut().filter(|program| program.id == id) {
            program.pins.push(path.clone());
        }
    }
    if programs.iter().all(|program| !program.pins.is_empty()) {
        return;
    }
    for process in processes() {
        let infos = fs::read_dir(format!("/proc/{}/fdinfo", process.id)).into_iter().flatten().flatten();
        for info in infos {
            let text = fs::read(info.path()).unwrap_or_default();
            let Some(id) = std::str::from_utf8(&text).ok().and_then(program_of) else { continue };
            for program in programs.iter_mut().filter(|program| program.id == id) {
                if process.id != std::process::id() && !program.holders.contains(&process) {
                    program.holders.push(process.clone());
                }
            }
        }
    }
}

/// The program that a descriptor is of, or whose link it is of (`fdinfo`, kernel/bpf/syscall.c).
fn program_of(fdinfo: &str) -> Option<u32> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    // A map of programs has an owner, too, under another name.
    field("prog_id:")
}

/// What is on the BPF file system, maps and all.
fn pins() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![(PathBuf::from("/sys/fs/bpf"), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            // The kernel's own iterators are files with a dot; opening them by bpf(2) fails, and that is all.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < PINS_DEPTH => {
                    directories.push((entry.path(), depth + 1));
                }
                Ok(kind) if kind.is_file() && !entry.file_name().as_bytes().contains(&b'.') => {
                    found.push(entry.path());
                }
                _ => {}
            }
        }
        if found.len() >= PINS_AT_MOST {
            break;
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_either_family() {
        let line = "   0: 0A0010AC:192B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        assert_eq!(listener(line), Some(("172.16.0.10:6443".parse().expect("an address"), 4711)));
        let six = "   0: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4712 1";
        assert_eq!(listener(six), Some(("[::]:6443".parse().expect("an address"), 4712)));
        for other in ["", "  sl  local_address rem_address   st", &line.replace(" 0A ", " 01 ")] {
            assert_eq!(listener(other), None, "{other}");
        }
    }

    #[test]
    fn the_ids_of_a_keepalived_file() {
        let text = "vrrp_instance a {\n  virtual_router_id 51 # ours\n}\nvrrp_instance b {\n virtual_router_id\t60\n}\n\
            ! virtual_router_id 7\n# virtual_router_id 8\n virtual_router_id many\n";
        assert_eq!(virtual_router_ids(text), BTreeSet::from([51, 60]));
    }

    #[test]
    fn the_file_that_keepalived_was_given() {
        for words in
            [&["keepalived", "-f", "/x"][..], &["k", "--use-file", "/x"], &["k", "-n", "--use-file=/x"]]
        {
            assert_eq!(configuration_named(words), Some(PathBuf::from("/x")), "{words:?}");
        }
        assert_eq!(configuration_named(&["keepalived", "-n", "-f"]), None);
    }

    #[test]
    fn the_program_of_a_descriptor() {
        assert_eq!(
            program_of("pos:\t0\nlink_type:\txdp\nlink_id:\t3\nprog_tag:\tab\nprog_id:\t41\nifindex:\t2\n"),
            Some(41)
        );
        assert_eq!(program_of("pos:\t0\nflags:\t02\nmap_id:\t5\n"), None);
    }
}
