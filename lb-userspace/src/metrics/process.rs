//! What every process tells, under the names that Prometheus' own client libraries give it.

use super::family::{Family, Measure, Samples, Value};
use crate::status::{ProcessStatus, Status};

fn of<T: Into<Value>>(status: &Status, out: &mut Samples, figure: fn(&ProcessStatus) -> T) {
    if let Some(process) = &status.process {
        out.add(&[], figure(process));
    }
}

pub(super) const FAMILIES: &[Family] = &[
    Family::counter("cpu", "Time on processors, its own and the kernel's for it", &[], |status, out| {
        of(status, out, |process| process.cpu_seconds);
    })
    .of(Measure::Seconds)
    .of_process(),
    Family::gauge(
        "resident_memory",
        "Memory in RAM; the maps of the data plane are the kernel's and not in it",
        &[],
        |status, out| of(status, out, |process| process.resident_bytes),
    )
    .of(Measure::Bytes)
    .of_process(),
    Family::gauge("virtual_memory", "Memory that it has addresses for", &[], |status, out| {
        of(status, out, |process| process.virtual_bytes);
    })
    .of(Measure::Bytes)
    .of_process(),
    Family::gauge("open_fds", "Open file descriptors", &[], |status, out| {
        of(status, out, |process| process.open_files);
    })
    .of_process(),
    Family::gauge("max_fds", "How many file descriptors it may have open", &[], |status, out| {
        of(status, out, |process| process.max_files);
    })
    .of_process(),
    Family::gauge("start_time", "When the daemon was started, since 1970 in UTC", &[], |status, out| {
        if let Some(process) = &status.process {
            out.moment(&[], &process.began_at);
        }
    })
    .of(Measure::Seconds)
    .of_process(),
];
