//! What this process takes of the system: time, memory, files. From the kernel's own figures (proc(5), getrusage(2)).

use std::{fs, time::SystemTime};

use nix::sys::{
    resource::{Resource, UsageWho, getrlimit, getrusage},
    time::TimeValLike,
};

use crate::{status::ProcessStatus, steering::rfc3339};

/// As of now, of a process that began then.
pub fn look(began: SystemTime) -> ProcessStatus {
    let cpu_us = getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| {
            usage.user_time().num_microseconds().saturating_add(usage.system_time().num_microseconds())
        })
        .unwrap_or_default();
    let memory = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Reading a directory takes a file itself.
    let open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count().saturating_sub(1));
    ProcessStatus {
        began_at: rfc3339(began),
        cpu_seconds: cpu_us as f64 / 1e6,
        resident_bytes: kilobytes(&memory, "VmRSS").saturating_mul(1024),
        virtual_bytes: kilobytes(&memory, "VmSize").saturating_mul(1024),
        open_files: open_files as u64,
        max_files: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft),
    }
}

/// A line of `/proc/PID/status`, like `VmRSS:     1234 kB`; 0 where there is none.
fn kilobytes(status: &str, name: &str) -> u64 {
    let lines = || status.lines().filter_map(|line| line.split_once(':'));
    let value = lines().find(|(found, _)| *found == name).map(|(_, value)| value);
    value.and_then(|value| value.trim().strip_suffix("kB")?.trim_end().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_the_kernel_are_read() {
        let status = "Name:\txvip\nVmPeak:\t  99 kB\nVmSize:\t   88 kB\nVmRSS:\t 7 kB\nThreads:\t5\n";
        assert_eq!((kilobytes(status, "VmRSS"), kilobytes(status, "VmSize")), (7, 88));
        assert_eq!(
            (kilobytes(status, "Vm"), kilobytes(status, "Threads"), kilobytes("VmRSS: x kB", "VmRSS")),
            (0, 0, 0)
        );
    }

    #[test]
    fn a_process_sees_what_it_takes() {
        let began = SystemTime::UNIX_EPOCH;
        let before = look(began);
        assert_eq!(before.began_at, "1970-01-01T00:00:00.000Z");
        assert!(
            before.virtual_bytes >= before.resident_bytes && before.resident_bytes > 1 << 20,
            "{before:?}"
        );
        let files: Vec<_> = (0..20).filter_map(|_| fs::File::open("/proc/self/stat").ok()).collect();
        let busy = std::time::Instant::now();
        let mut memory = vec![1_u8; 32 << 20];
        while look(began).cpu_seconds < before.cpu_seconds + 0.02 && busy.elapsed().as_secs() < 60 {
            memory.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        let after = look(began);
        assert!(after.cpu_seconds >= before.cpu_seconds + 0.02, "{before:?} {after:?}");
        assert!(after.cpu_seconds < 1e6, "seconds: {after:?}");
        // Other tests of this process open and close files, too.
        assert!(after.open_files >= files.len() as u64 && after.open_files < after.max_files, "{after:?}");
        assert!(after.virtual_bytes >= memory.len() as u64, "{after:?}");
    }
}
