//! What a running process has used: processor time and memory.

use std::fs;
use std::io;
use std::time::Duration;

use anyhow::Context;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// Processor time of all its threads until now, in user space and in the kernel, to the nanosecond.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(process: u32) -> anyhow::Result<Duration> {
    let read = || clock_gettime(clock_getcpuclockid(Pid::from_raw(process.cast_signed()))?);
    let time = read().with_context(|| format!("the processor time of process {process}"))?;
    Ok(time.into())
}

/// Processor time of the calling thread.
///
/// # Errors
/// When the kernel does not say.
pub fn own_cpu_time() -> anyhow::Result<Duration> {
    let time: TimeSpec = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.into())
}

/// Memory that it has in use, in bytes (`VmRSS`, proc(5)).
///
/// # Errors
/// When there is no such process.
pub fn resident(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    resident_in(&status).ok_or_else(|| io::Error::other("no VmRSS"))
}

fn resident_in(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_in_bytes() {
        assert_eq!(resident_in("VmHWM:\t   9 kB\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_in("VmHWM:\t   9 kB\n"), None);
    }

    #[test]
    fn a_process_that_works_uses_processor_time_of_its_own_clock() {
        let before = (cpu_time(std::process::id()).unwrap(), own_cpu_time().unwrap());
        let mut sum = 0u64;
        while own_cpu_time().unwrap() < before.1 + Duration::from_millis(5) {
            sum = std::hint::black_box(sum + 1);
        }
        let used = cpu_time(std::process::id()).unwrap() - before.0;
        assert!(used >= Duration::from_millis(5), "{used:?}");
    }
}
