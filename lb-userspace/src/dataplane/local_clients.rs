//! The hooks for clients on the node itself: programs on the root of the cgroup hierarchy, by links that are pinned like
//! those of XDP, as `local-<hook>`.
//!
//! Any number of instances can have hooks there: each looks at sockets of its own network namespace, or at those that
//! connect to a VIP of its own.

use std::{
    fs,
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, ProgramError, links::FdLink};
use lb_common::layout::{LOCAL_ALL, LOCAL_HOLDS_VIP, LOCAL_HOST, LocalCounters, LocalEntry};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, socket},
    statfs::{CGROUP2_SUPER_MAGIC, fstatfs},
};

use super::{
    Dataplane, DataplaneError, in_map,
    pins::{at, pins_named},
    refused,
};
use crate::config::model::LocalClients;

/// The programs, and the names of their pins.
const HOOKS: [(&str, &str); 4] = [
    ("xvip_connect4", "local-connect4"),
    ("xvip_connect6", "local-connect6"),
    ("xvip_getpeername4", "local-getpeername4"),
    ("xvip_getpeername6", "local-getpeername6"),
];
/// What the names of the pins begin with.
pub(super) const PIN_PREFIX: &str = "local-";
/// Replaces a pin.
const NEW: &str = "local-new";

/// Why clients on this node are not sent to a backend.
#[derive(Debug, thiserror::Error)]
pub enum LocalClientsError {
    /// There is no hierarchy to attach to.
    #[error(
        "no cgroup2 file system is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup), or write node.local_clients = \"off\""
    )]
    NoCgroup2,
    /// Its root cannot be opened.
    #[error("{path}: {source}")]
    Cgroup {
        /// The mount point.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// `SO_NETNS_COOKIE` is of Linux 5.14.
    #[error(
        "the kernel does not tell the number of a network namespace, as 5.14 and later do: write node.local_clients = \"all\" or \"off\""
    )]
    Namespace(#[source] io::Error),
    /// The kernel refused a program.
    #[error(
        "the kernel refused {program}; a hook that lets no other beside it may be on the root cgroup (`bpftool cgroup tree`)"
    )]
    Refused {
        /// The program.
        program: &'static str,
        /// The kernel's answer.
        #[source]
        source: Box<ProgramError>,
    },
    /// A pin or a map.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

/// What all CPUs have counted together.
pub(super) fn total_of(cpus: &[LocalCounters]) -> LocalCounters {
    cpus.iter().fold(LocalCounters::default(), |sum, cpu| LocalCounters {
        redirected: sum.redirected + cpu.redirected,
        no_backend: sum.no_backend + cpu.no_backend,
        stale: sum.stale + cpu.stale,
        other_namespace: sum.other_namespace + cpu.other_namespace,
    })
}

impl Dataplane {
    /// Attaches the hooks, or takes them away. Where there are a predecessor's, ours are there before those go: every
    /// connect meets one of them, and the second finds no VIP any more.
    ///
    /// # Errors
    ///
    /// Where there is no cgroup2, or the kernel refuses: some hooks may be there then.
    pub fn serve_local_clients(&mut self, wanted: LocalClients) -> Result<(), LocalClientsError> {
        let scope = match wanted {
            LocalClients::Off => {
                remove_hooks(&self.pins)?;
                self.set_local(LocalEntry { scope: 0, ..self.local_entry()? })?;
                return Ok(());
            }
            LocalClients::Host => LOCAL_HOST,
            LocalClients::All => LOCAL_ALL,
        };
        let namespace = match namespace_cookie() {
            Ok(namespace) => namespace,
            Err(_) if scope == LOCAL_ALL => 0,
            Err(error) => return Err(LocalClientsError::Namespace(error)),
        };
        let (_, cgroup) = cgroup2_root()?;
        self.set_local(LocalEntry { namespace, scope, flags: self.local_entry()?.flags })?;
        for (program, pin) in HOOKS {
            self.attach_hook(program, &cgroup, &self.pins.join(pin))?;
        }
        Ok(())
    }

    /// Says whether a VIP of ours is an address of this host: then a connect that is not sent to a backend meets the host.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written.
    pub fn set_holds_vip(&mut self, holds: bool) -> Result<(), DataplaneError> {
        let entry = self.local_entry()?;
        let flags = if holds { entry.flags | LOCAL_HOLDS_VIP } else { entry.flags & !LOCAL_HOLDS_VIP };
        self.set_local(LocalEntry { flags, ..entry })
    }

    /// What became of the connects of this node's clients to a service, by `ServiceEntry::index`.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub fn local_counters(&self, service: u32) -> Result<LocalCounters, DataplaneError> {
        let cpus = self.local_counters.get(&service, 0).map_err(in_map("LOCAL_COUNTERS"))?;
        Ok(total_of(&cpus))
    }

    fn local_entry(&self) -> Result<LocalEntry, DataplaneError> {
        self.local.get(&0, 0).map_err(in_map("LOCAL"))
    }

    fn set_local(&mut self, entry: LocalEntry) -> Result<(), DataplaneError> {
        if self.local_entry()? == entry {
            return Ok(());
        }
        self.local.set(0, entry, 0).map_err(in_map("LOCAL"))
    }

    /// Attaches and pins, in place of what the pin held.
    fn attach_hook(
        &mut self,
        name: &'static str,
        cgroup: &File,
        pin: &Path,
    ) -> Result<(), LocalClientsError> {
        let refused_hook =
            |error: ProgramError| LocalClientsError::Refused { program: name, source: Box::new(error) };
        let program = self.ebpf.program_mut(name).ok_or(DataplaneError::NotInObject(name))?;
        let program: &mut CgroupSockAddr = program.try_into().map_err(refused)?;
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => return Err(refused_hook(error)),
        }
        // The kernel takes no flags with a link, which lets others beside it anyway (5.7).
        let link = program.attach(cgroup, CgroupAttachMode::Single).map_err(refused_hook)?;
        let link = program.take_link(link).map_err(refused)?;
        let link = FdLink::try_from(link).map_err(DataplaneError::Link)?;
        let new = self.pins.join(NEW);
        if new.exists() {
            fs::remove_file(&new).map_err(at(&new))?;
        }
        link.pin(&new).map_err(DataplaneError::Pin)?;
        fs::rename(&new, pin).map_err(at(pin))?;
        Ok(())
    }
}

/// Takes the hooks away. Returns the pins that are gone.
pub(super) fn remove_hooks(pins: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let hooks = pins_named(pins, PIN_PREFIX)?;
    for hook in &hooks {
        fs::remove_file(hook).map_err(at(hook))?;
    }
    Ok(hooks)
}

/// Where the cgroup2 hierarchy is, as this process sees it.
///
/// # Errors
///
/// Where there is none, or it cannot be opened.
pub fn cgroup2_mount() -> Result<PathBuf, LocalClientsError> {
    Ok(cgroup2_root()?.0)
}

/// The same, with its root.
fn cgroup2_root() -> Result<(PathBuf, File), LocalClientsError> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut problem = LocalClientsError::NoCgroup2;
    for path in cgroup2_mounts(&mountinfo) {
        // Another mount may hide it.
        match File::open(&path).and_then(|root| Ok((fstatfs(&root)?.filesystem_type(), root))) {
            Ok((CGROUP2_SUPER_MAGIC, root)) => return Ok((path, root)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => problem = LocalClientsError::Cgroup { path, source },
        }
    }
    Err(problem)
}

/// Where cgroup2 is mounted: the whole hierarchy first, then parts of it; proc_pid_mountinfo(5).
fn cgroup2_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        (kind.split(' ').next() == Some("cgroup2")).then_some((root == "/", mount_point))
    });
    let (whole, parts): (Vec<_>, Vec<_>) = mounts.partition(|(is_whole, _)| *is_whole);
    whole.into_iter().chain(parts).map(|(_, mount_point)| PathBuf::from(unescaped(mount_point))).collect()
}

/// Blanks, tabs, line feeds and backslashes are octal there.
fn unescaped(path: &str) -> String {
    [(r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", r"\")]
        .iter()
        .fold(path.to_owned(), |path, (code, plain)| path.replace(code, plain))
}

/// The kernel's number of the calling thread's network namespace (`SO_NETNS_COOKIE`, Linux 5.14): that of a new socket.
fn namespace_cookie() -> io::Result<u64> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut cookie = 0u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: `cookie` is as long as `len` says, and both live through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_version_1_and_alone() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mounts(hybrid), [Path::new("/sys/fs/cgroup/unified")]);
        let alone =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mounts(alone), [Path::new("/sys/fs/cgroup")]);
        for none in
            ["32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "not mountinfo\n - \n", ""]
        {
            assert!(cgroup2_mounts(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn the_whole_hierarchy_comes_before_its_parts() {
        let mounts = "40 23 0:26 /user.slice /mnt/part rw - cgroup2 cgroup2 rw\n\
                      41 23 0:26 / /mnt/the\\040whole rw - cgroup2 cgroup2 rw\n\
                      42 23 0:26 / /mnt/again rw - cgroup2 cgroup2 rw\n";
        let expected = ["/mnt/the whole", "/mnt/again", "/mnt/part"].map(PathBuf::from);
        assert_eq!(cgroup2_mounts(mounts), expected);
    }

    #[test]
    fn the_namespace_has_a_number_that_stays() {
        let cookie = namespace_cookie().expect("Linux 5.14 or later");
        assert_ne!(cookie, 0);
        assert_eq!(namespace_cookie().ok(), Some(cookie));
    }
}
