//! `show info`: the process, as HAProxy tells of itself. Pure.

use super::{
    columns::INFO,
    command::Shape,
    row::{Figures, Value, json_lines, lines, typed_lines},
};
use crate::status::Status;

/// The HAProxy whose words these are, and then who says them: scripts compare the beginning with what they need.
pub(super) fn version(status: &Status) -> String {
    format!("2.6.0-xvip-{}", status.version)
}

/// When that HAProxy was released.
const RELEASED: &str = "2022/05/31";

/// What is asked for.
pub(super) fn answer(status: &Status, shape: Shape) -> String {
    let figures = figures(status);
    match shape {
        Shape::Plain => lines(INFO, &figures),
        Shape::Typed => typed_lines(INFO, &figures),
        Shape::Json => json_lines(INFO, &figures),
    }
}

/// There is no TLS, no pipe and no task here: those are 0, as they are in an HAProxy that has none.
const NONE: [&str; 26] = [
    "Memmax_MB",
    "PoolAlloc_MB",
    "PoolUsed_MB",
    "PoolFailed",
    "MaxSslConns",
    "CurrSslConns",
    "CumSslConns",
    "Maxpipes",
    "PipesUsed",
    "PipesFree",
    "SslRate",
    "SslRateLimit",
    "MaxSslRate",
    "SslFrontendKeyRate",
    "SslFrontendMaxKeyRate",
    "SslFrontendSessionReuse_pct",
    "SslBackendKeyRate",
    "SslBackendMaxKeyRate",
    "SslCacheLookups",
    "SslCacheMisses",
    "CompressBpsIn",
    "CompressBpsOut",
    "CompressBpsRateLim",
    "Tasks",
    "Run_queue",
    "Stopping",
];

fn figures(status: &Status) -> Figures {
    let mut figures = Figures::default();
    for name in NONE {
        figures.set(name, 0_u32);
    }
    let backends = || status.services.iter().flat_map(|service| &service.backends);
    let opened = backends().map(|backend| backend.flows.opened).fold(0, u64::saturating_add);
    let active = backends().map(|backend| backend.flows.active).fold(0, u64::saturating_add);
    figures.set("Name", "xvip");
    figures.set("Version", version(status));
    figures.set("Release_date", RELEASED);
    figures.set("Nbthread", 1_u32);
    figures.set("Nbproc", 1_u32);
    figures.set("Process_num", 1_u32);
    figures.set("Pid", status.pid);
    figures.set("Uptime", uptime(status.uptime_seconds));
    figures.set("Uptime_sec", Value::narrow(status.uptime_seconds));
    figures.set("Maxconn", status.flows.max);
    figures.set("Hard_maxconn", status.flows.max);
    for name in ["ConnRate", "SessRate"] {
        figures.set(name, Value::narrow(status.pace.rate));
    }
    for name in ["MaxConnRate", "MaxSessRate"] {
        figures.set(name, Value::narrow(status.pace.rate_max));
    }
    for name in ["ConnRateLimit", "SessRateLimit"] {
        figures.set(name, 0_u32);
    }
    figures.set("CurrConns", Value::narrow(active));
    figures.set("CumConns", Value::narrow(opened));
    figures.set("CumReq", Value::narrow(opened));
    figures.set("Idle_pct", 100_u32);
    figures.set("node", status.node.as_str());
    figures.set("Jobs", Value::narrow(active));
    figures.set("Listeners", Value::narrow(status.services.len() as u64));
    figures
}

fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    format!("{days}d {hours}h{:02}m{:02}s", seconds / 60 % 60, seconds % 60)
}

/// The figures that no line is for.
#[cfg(test)]
pub(super) fn unknown() -> Vec<&'static str> {
    let figures = figures(&super::tests::status());
    figures.names().filter(|name| !INFO.iter().any(|column| column.name == *name)).collect()
}
