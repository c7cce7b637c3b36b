//! Hooks and the connection log.

use super::family::Family;
use crate::{
    connections::status::ConnectionLogStatus, hooks::HookStatus, metrics::family::Samples, status::Status,
};

const WITH_HOOKS: &str = "with `[[notify]]`";
const WITH_LOG: &str = "where a service has `connection_log`";
/// The place in the file, from 1, since two may have the same name.
const OF_HOOK: &[&str] = &["number", "hook"];

fn each(status: &Status, out: &mut Samples, number: fn(&HookStatus) -> u64) {
    for (place, hook) in status.hooks.iter().enumerate() {
        out.add(&[&(place + 1).to_string(), &hook.name], number(hook));
    }
}

fn log(status: &Status, out: &mut Samples, number: fn(&ConnectionLogStatus) -> u64) {
    if let Some(log) = &status.connection_log {
        out.add(&[], number(log));
    }
}

pub(super) const FAMILIES: &[Family] = &[
    Family::counter("notify_told_events", "Events that a hook was told", OF_HOOK, |status, out| {
        each(status, out, |hook| hook.told);
    })
    .only(WITH_HOOKS),
    Family::counter(
        "notify_failed_events",
        "Events that a hook was not told, since it failed or took too long",
        OF_HOOK,
        |status, out| each(status, out, |hook| hook.failed),
    )
    .only(WITH_HOOKS),
    Family::counter(
        "notify_dropped_events",
        "Events that a hook was not told, since too many were waiting",
        OF_HOOK,
        |status, out| each(status, out, |hook| hook.dropped),
    )
    .only(WITH_HOOKS),
    Family::gauge("notify_waiting_events", "Events that wait for a hook", OF_HOOK, |status, out| {
        each(status, out, |hook| hook.waiting);
    })
    .only(WITH_HOOKS),
    Family::gauge(
        "connection_log_open_connections",
        "Connections of logged services that have not ended",
        &[],
        |status, out| log(status, out, |log| log.open),
    )
    .only(WITH_LOG),
    Family::counter(
        "connection_log_records",
        "Records written since the daemon was started, of the start or the end of a connection",
        &["kind"],
        |status, out| {
            if let Some(log) = &status.connection_log {
                out.add(&["start"], log.starts);
                out.add(&["end"], log.ends);
            }
        },
    )
    .only(WITH_LOG),
    Family::counter(
        "connection_log_skipped_connections",
        "Connections left out since they carried nothing (`skip_empty`)",
        &[],
        |status, out| log(status, out, |log| log.skipped),
    )
    .only(WITH_LOG),
    Family::counter(
        "connection_log_unknown_ends",
        "Ends of connections of which it could not be told how",
        &[],
        |status, out| log(status, out, |log| log.unknown),
    )
    .only(WITH_LOG),
    Family::counter(
        "connection_log_dropped_changes",
        "Changes of flows that found no room in the queue; the flow tables were gone through instead",
        &[],
        |status, out| log(status, out, |log| log.dropped),
    )
    .only(WITH_LOG),
    Family::counter(
        "connection_log_lost_records",
        "Records that could not be written",
        &[],
        |status, out| log(status, out, |log| log.lost),
    )
    .only(WITH_LOG),
];
