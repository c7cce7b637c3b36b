//! What the daemon must be allowed to do, and that nothing it starts is allowed the same.
//!
//! systemd gives the capabilities to the daemon's own user as *ambient* ones (capabilities(7)): what the daemon starts would
//! inherit them, whoever it runs as. So they are no longer ambient when the first thread begins.

use std::io;

use caps::{CapSet, Capability};
use nix::unistd::{Gid, Uid, User, setgroups};
use tokio::process::Command;

/// The user that the package's unit runs the daemon as.
pub const DAEMON_USER: &str = "xvip";

/// A capability, and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    capability: Capability,
    /// What does not work without it.
    pub purpose: &'static str,
}

/// Without one of these no packet is forwarded and no VIP is held. `CAP_BPF` and `CAP_PERFMON`: Linux 5.8.
pub const NEEDED: [Need; 4] = [
    Need {
        capability: Capability::CAP_NET_ADMIN,
        purpose: "to attach XDP and to put the VIP on the interface",
    },
    Need { capability: Capability::CAP_NET_RAW, purpose: "to speak VRRP and to announce the VIP" },
    Need { capability: Capability::CAP_BPF, purpose: "to load programs and to make their maps" },
    Need { capability: Capability::CAP_PERFMON, purpose: "to load programs that compare packet pointers" },
];

/// What it takes to run a program as another user, and to end it.
const TO_RUN_AS_OTHERS: [Need; 3] = [
    Need { capability: Capability::CAP_SETUID, purpose: "to become another user" },
    Need { capability: Capability::CAP_SETGID, purpose: "to have that user's group and none of ours" },
    Need { capability: Capability::CAP_KILL, purpose: "to end another user's program that hangs" },
];

impl Need {
    /// Its name, as systemd and Kubernetes write it (there without `CAP_`).
    pub fn name(&self) -> String {
        self.capability.to_string()
    }

    /// `CAP_SYS_ADMIN` stands for the two that were cut out of it.
    fn is_met(self, effective: u64) -> bool {
        let has = |capability: Capability| effective & capability.bitmask() != 0;
        let carved_out = matches!(self.capability, Capability::CAP_BPF | Capability::CAP_PERFMON);
        has(self.capability) || carved_out && has(Capability::CAP_SYS_ADMIN)
    }
}

/// What is missing of [`NEEDED`] in a set of effective capabilities, as `CapEff` in proc_pid_status(5) has it.
pub fn missing(effective: u64) -> Vec<Need> {
    NEEDED.into_iter().filter(|need| !need.is_met(effective)).collect()
}

/// This process must have all of [`NEEDED`].
///
/// # Errors
/// What is missing, what for, and the remedy.
pub fn check() -> Result<(), String> {
    let missing = missing(effective());
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> =
        missing.iter().map(|need| format!("{} ({})", need.name(), need.purpose)).collect();
    Err(format!(
        "xvip lacks {}; run it as root, by the unit of its package, or with these among the capabilities of its container",
        list.join(", ")
    ))
}

/// This process must be able to run programs as other users.
///
/// # Errors
/// What is missing, by name.
pub fn check_others(user: &str) -> Result<(), String> {
    let effective = effective();
    let missing: Vec<String> = TO_RUN_AS_OTHERS
        .iter()
        .filter(|need| !need.is_met(effective))
        .map(|need| format!("{} ({})", need.name(), need.purpose))
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(format!("to run it as user {user}, xvip lacks {}", missing.join(", ")))
    }
}

fn effective() -> u64 {
    // Where it cannot be read, whatever needs one says so itself.
    let set = caps::read(None, CapSet::Effective);
    set.map_or(u64::MAX, |set| set.into_iter().fold(0, |mask, capability| mask | capability.bitmask()))
}

/// From now on what this thread, and those that it starts, execute has none of our capabilities, unless it is root's. To be
/// called before there is another thread.
///
/// # Errors
/// The system's.
pub fn keep_from_children() -> io::Result<()> {
    caps::clear(None, CapSet::Ambient).map_err(|error| io::Error::other(error.to_string()))
}

/// The command is to run as that user, with no group but this one. Needs `CAP_SETUID` and `CAP_SETGID`.
pub fn run_as(command: &mut Command, uid: Uid, gid: Gid) {
    command.uid(uid.as_raw()).gid(gid.as_raw());
    if Uid::effective().is_root() {
        // `std` leaves none of the other groups when root becomes somebody else.
        return;
    }
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        command.pre_exec(|| setgroups(&[]).map_err(io::Error::from));
    }
}

/// Whether a process of this user may be an xvip of this machine: root's, that of the package's unit, or ours.
pub fn may_be_xvip(uid: Uid) -> bool {
    let by_name = || User::from_name(DAEMON_USER).ok().flatten().is_some_and(|user| user.uid == uid);
    uid.is_root() || uid == Uid::effective() || by_name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_what_it_is_for() {
        let all = NEEDED.iter().fold(0, |mask, need| mask | need.capability.bitmask());
        assert!(missing(all).is_empty());
        for need in NEEDED {
            assert_eq!(missing(all & !need.capability.bitmask()), [need]);
        }
        let names: Vec<String> = missing(0).iter().map(Need::name).collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"]);
    }

    #[test]
    fn sys_admin_stands_for_what_was_cut_out_of_it() {
        let names: Vec<String> =
            missing(Capability::CAP_SYS_ADMIN.bitmask()).iter().map(Need::name).collect();
        assert_eq!(names, ["CAP_NET_ADMIN", "CAP_NET_RAW"]);
    }

    #[test]
    fn root_s_process_may_be_another_instance_and_nobody_s_may_not() {
        assert!(may_be_xvip(Uid::from_raw(0)));
        assert!(may_be_xvip(Uid::effective()));
        assert!(!may_be_xvip(Uid::from_raw(65534)));
    }
}
