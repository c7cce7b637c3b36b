//! What an ordinary system does before anything else runs, and after: mounts, modules, power.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::Context as _;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};

use crate::vm::root::{MODULE_ORDER, PROGRAMS};

const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];

/// Mounts, loads the modules and makes programs findable.
pub(super) fn set_up() -> anyhow::Result<()> {
    for (kind, directory) in MOUNTS {
        mount(Some(kind), directory, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} on {directory}"))?;
    }
    // From here on only emergencies, so that the console is ours: console, default, minimum, boot default.
    fs::write("/proc/sys/kernel/printk", "1 4 1 7").context("quieting the kernel")?;
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("PATH", PROGRAMS) };
    for file in fs::read_to_string(MODULE_ORDER).context(MODULE_ORDER)?.lines() {
        let module = File::open(file).with_context(|| file.to_owned())?;
        finit_module(&module, &CString::default(), ModuleInitFlags::empty())
            .with_context(|| format!("loading {file}"))?;
    }
    let up = fs::read_to_string("/proc/uptime").context("/proc/uptime")?;
    super::note(format!("up for {} s", up.split(' ').next().unwrap_or_default()));
    Ok(())
}

/// Prints the end of the kernel's own log, which the console has not shown.
pub(super) fn print_kernel_log() {
    let log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg");
    let Ok(mut log) = log else { return };
    let mut records = Vec::new();
    let mut record = [0; 8192];
    // One record a read, until there is none: that is EAGAIN.
    while let Ok(length) = log.read(&mut record) {
        // `priority,number,microseconds,flags;text`, then lines that are for machines.
        let text = String::from_utf8_lossy(&record[..length]).into_owned();
        records.extend(
            text.lines().next().and_then(|line| line.split_once(';')).map(|(_, text)| text.to_owned()),
        );
    }
    for text in &records[records.len().saturating_sub(25)..] {
        println!("kernel: {text}");
    }
}

/// Ends the machine.
///
/// # Errors
/// When the kernel refuses. Where it obeys, this does not return.
pub(super) fn power_off() -> anyhow::Result<()> {
    let mut console = OpenOptions::new().write(true).open("/dev/console")?;
    std::io::Write::flush(&mut console)?;
    // What is written last must have left the serial port.
    // SAFETY: the descriptor is open.
    unsafe { libc::tcdrain(console.as_raw_fd()) };
    reboot(RebootMode::RB_POWER_OFF).map(|never| match never {}).context("powering off")
}
