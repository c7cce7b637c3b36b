//! `show stat`: each service as HAProxy would show a `listen` with its servers. Pure.
//!
//! What xvip does not know has no figure: a reader must be able to tell "none" from "not counted".

use std::time::SystemTime;

use super::{
    check::check_of,
    columns::{HEADER, STAT},
    command::{Only, Query, Shape, leading_number},
    row::{Figures, Kind, Row, Value, csv, json, typed},
};
use crate::{
    config::model::StatsLevel,
    status::{AdminStatus, BackendStatus, PaceStatus, ServiceStatus, Status},
};

/// The number of the first proxy: 1 is HAProxy's own.
pub(super) const FIRST_PROXY: u32 = 2;

/// The table that `show stat` prints, and that HAProxy's page has behind `;csv`.
pub fn show_stat(status: &Status) -> String {
    csv(HEADER, STAT, &rows(status, SystemTime::now(), StatsLevel::Operator))
}

/// What is asked for, or HAProxy's words for that there is no such thing.
pub(super) fn answer(query: &Query, status: &Status, now: SystemTime, level: StatsLevel) -> String {
    let Some(chosen) = chosen(query.only.as_ref(), status) else { return "No such proxy.\n".to_owned() };
    let mut rows = rows(status, now, level);
    rows.retain(|row| chosen(row) && !is_hidden(row, query));
    match query.shape {
        Shape::Plain => csv(HEADER, STAT, &rows),
        Shape::Typed => typed(STAT, &rows),
        Shape::Json => json(STAT, &rows),
    }
}

fn chosen(only: Option<&Only>, status: &Status) -> Option<impl Fn(&Row) -> bool> {
    let all = Only { proxy: String::new(), kinds: -1, server: -1 };
    let Only { proxy, kinds, server } = only.cloned().unwrap_or(all);
    let number = match status.services.iter().position(|service| service.name == proxy) {
        Some(index) => i64::from(number_of(index)),
        None if only.is_none() => -1,
        None => match leading_number(&proxy) {
            0 => return None,
            number => number.into(),
        },
    };
    Some(move |row: &Row| {
        let bit = match row.kind {
            Kind::Frontend => 1,
            Kind::Backend => 2,
            Kind::Server => 4,
        };
        (number < 0 || number == i64::from(row.proxy))
            && kinds & bit != 0
            && (server < 0 || row.kind != Kind::Server || i64::from(server) == i64::from(row.server))
    })
}

fn is_hidden(row: &Row, query: &Query) -> bool {
    let status = match row.figures.get("status") {
        Some(Value::Text(status)) => status.as_str(),
        _ => "",
    };
    let is_server = row.kind == Kind::Server;
    is_server && (query.no_maint && status == "MAINT" || query.up && !matches!(status, "UP" | "DRAIN"))
}

/// The number of a service, from where it stands in the file.
pub(super) fn number_of(index: usize) -> u32 {
    FIRST_PROXY.saturating_add(u32::try_from(index).unwrap_or(u32::MAX))
}

/// Every row: of each service where clients connect, its backends, and all of them.
pub(super) fn rows(status: &Status, now: SystemTime, level: StatsLevel) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, service) in status.services.iter().enumerate() {
        let proxy = number_of(index);
        let row = |kind, server, figures| Row { kind, proxy, server, figures };
        rows.push(row(Kind::Frontend, 0, frontend(status, service)));
        for (backend, number) in service.backends.iter().zip(1..) {
            rows.push(row(Kind::Server, number, server(backend, now)));
        }
        rows.push(row(Kind::Backend, 0, backend(status, service, now)));
        for row in rows.iter_mut().filter(|row| row.proxy == proxy) {
            let figures = &mut row.figures;
            figures.set("pxname", service.name.as_str());
            figures.set("mode", "tcp");
            figures.set("pid", 1_u32);
            figures.set("iid", proxy);
            figures.set("sid", row.server);
            figures.set("type", row.kind.number());
            match row.kind {
                _ if level < StatsLevel::Operator => {}
                Kind::Frontend => {}
                Kind::Server => {
                    let backend = service.backends.get(row.server as usize - 1);
                    figures.set("addr", backend.map_or("", |backend| backend.address.as_str()));
                }
                Kind::Backend => figures.set("algo", algorithm(&service.balance)),
            }
        }
    }
    rows
}

/// HAProxy's word for a balance, where it has one.
fn algorithm(balance: &str) -> &str {
    match balance {
        "round-robin" => "roundrobin",
        "least-connections" => "leastconn",
        other => other,
    }
}

fn sum(service: &ServiceStatus, of: impl Fn(&BackendStatus) -> u64) -> u64 {
    service.backends.iter().map(of).fold(0, u64::saturating_add)
}

/// How many connections come, and the most that there were since the daemon was started.
fn set_pace(figures: &mut Figures, pace: &PaceStatus) {
    figures.set("smax", Value::narrow(pace.active_max));
    figures.set("rate", Value::narrow(pace.rate));
    figures.set("rate_max", Value::narrow(pace.rate_max));
}

/// How many seconds ago a connection came last; -1 where none has come, as in HAProxy.
fn last_session(pace: &PaceStatus, now: SystemTime) -> Value {
    let ago = pace.last_opened.as_ref().and_then(|last| lasting(last, now));
    Value::Signed(ago.map_or(-1, |seconds| i32::try_from(seconds).unwrap_or(i32::MAX)))
}

/// Nothing waits for a server here.
fn set_no_queue(figures: &mut Figures) {
    for column in ["qcur", "qmax", "qtime", "qtime_max"] {
        figures.set(column, 0_u32);
    }
}

/// What is the same for where clients connect and for all backends.
fn totals(status: &Status, service: &ServiceStatus, name: &'static str) -> Figures {
    let mut figures = Figures::default();
    figures.set("svname", name);
    figures.set("scur", Value::narrow(sum(service, |backend| backend.flows.active)));
    set_pace(&mut figures, &service.pace);
    figures.set("slim", status.flows.max);
    figures.set("stot", sum(service, |backend| backend.flows.opened));
    figures.set("bin", sum(service, |backend| backend.flows.bytes_in));
    figures.set("bout", sum(service, |backend| backend.flows.bytes_out));
    figures.set("dreq", 0_u64);
    figures.set("dresp", 0_u64);
    figures
}

fn frontend(status: &Status, service: &ServiceStatus) -> Figures {
    let mut figures = totals(status, service, "FRONTEND");
    figures.set("ereq", 0_u64);
    figures.set("status", "OPEN");
    figures.set("conn_tot", sum(service, |backend| backend.flows.opened));
    figures.set("conn_rate", Value::narrow(service.pace.rate));
    figures.set("conn_rate_max", Value::narrow(service.pace.rate_max));
    figures.set("rate_lim", 0_u32);
    figures.set("dcon", 0_u64);
    figures.set("dses", 0_u64);
    figures
}

fn server(backend: &BackendStatus, now: SystemTime) -> Figures {
    let flows = &backend.flows;
    let mut figures = Figures::default();
    figures.set("svname", backend.name.as_str());
    set_no_queue(&mut figures);
    figures.set("scur", Value::narrow(flows.active));
    set_pace(&mut figures, &backend.pace);
    figures.set("lastsess", last_session(&backend.pace, now));
    if backend.max_connections > 0 {
        figures.set("slim", backend.max_connections);
    }
    figures.set("stot", flows.opened);
    figures.set("bin", flows.bytes_in);
    figures.set("bout", flows.bytes_out);
    figures.set("dresp", 0_u64);
    figures.set("econ", flows.refused);
    figures.set("eresp", 0_u64);
    figures.set("wretr", flows.unanswered);
    figures.set("wredis", 0_u64);
    figures.set("status", server_status(backend));
    figures.set("weight", u32::from(weight_in_use(backend)));
    figures.set("act", 1_u32);
    figures.set("bck", 0_u32);
    if let Some(seconds) = lasting(&backend.since, now) {
        figures.set("lastchg", Value::narrow(seconds));
    }
    let (effective, weight) = (backend.effective_weight, weight_in_use(backend));
    if backend.state == "up" && backend.admin.is_none() && 0 < effective && effective < full_weight(backend) {
        figures.set("throttle", u32::from(weight) * 100 / u32::from(full_weight(backend)));
    }
    figures.set("lbtot", flows.opened);
    let checks = &backend.checks;
    if checks.count > 0 {
        figures.set("chkfail", checks.failed.values().fold(0_u64, |sum, count| sum.saturating_add(*count)));
        figures.set("chkdown", downs(backend));
        figures.set("downtime", Value::narrow(downtime(backend, now)));
        figures.set("check_duration", checks.last_us / 1000);
    }
    let check = check_of(&backend.state, &backend.reason);
    figures.set("check_status", check.word);
    if let Some(code) = check.code {
        figures.set("check_code", u32::from(code));
    }
    figures.set("last_chk", backend.reason.as_str());
    figures.set("check_desc", check.description);
    figures.set("uweight", u32::from(full_weight(backend)));
    figures
}

fn backend(status: &Status, service: &ServiceStatus, now: SystemTime) -> Figures {
    let usable = || service.backends.iter().filter(|backend| is_usable(backend));
    let mut figures = totals(status, service, "BACKEND");
    set_no_queue(&mut figures);
    figures.set("lastsess", last_session(&service.pace, now));
    figures.set("econ", sum(service, |backend| backend.flows.refused));
    figures.set("eresp", 0_u64);
    figures.set("wretr", sum(service, |backend| backend.flows.unanswered));
    figures.set("wredis", 0_u64);
    figures.set("status", if usable().next().is_some() { "UP" } else { "DOWN" });
    let weights = usable().map(|backend| u32::from(backend.effective_weight)).sum::<u32>();
    figures.set("weight", weights);
    figures.set("act", usable().zip(0_u32..).count() as u32);
    figures.set("bck", 0_u32);
    // As long as one of them has been as all are: when it was otherwise before that is not known.
    let since = |backend: &BackendStatus| lasting(&backend.since, now);
    let lasts = match usable().next() {
        Some(_) => usable().filter_map(since).max(),
        None => service.backends.iter().filter_map(since).min(),
    };
    if let Some(seconds) = lasts {
        figures.set("lastchg", Value::narrow(seconds));
    }
    figures.set("lbtot", sum(service, |backend| backend.flows.opened));
    figures
        .set("uweight", service.backends.iter().map(|backend| u32::from(full_weight(backend))).sum::<u32>());
    figures
}

/// How often it went down. HAProxy takes a server for up until its first check.
fn downs(backend: &BackendStatus) -> u64 {
    let changes = backend.checks.transitions;
    if backend.state == "down" { changes.div_ceil(2) } else { changes / 2 }
}

/// For how many seconds it was down altogether.
fn downtime(backend: &BackendStatus, now: SystemTime) -> u64 {
    let is_down = backend.state == "down";
    let now_down = lasting(&backend.since, now).filter(|_| is_down).unwrap_or(0);
    (backend.checks.down_ms / 1000).saturating_add(now_down)
}

fn is_usable(backend: &BackendStatus) -> bool {
    backend.state == "up" && backend.admin.is_none() && backend.effective_weight > 0
}

/// Whether HAProxy would call that maintenance.
pub(super) fn is_maintenance(admin: &AdminStatus) -> bool {
    admin.maintenance || admin.state == "disabled"
}

/// What HAProxy calls it.
pub(super) fn server_status(backend: &BackendStatus) -> &'static str {
    match (&backend.admin, backend.state.as_str()) {
        (Some(admin), _) if is_maintenance(admin) => "MAINT",
        (Some(_), "up") => "DRAIN",
        (None, "up") => "UP",
        _ => "DOWN",
    }
}

/// The weight by the file or by an operator's word.
pub(super) fn full_weight(backend: &BackendStatus) -> u16 {
    backend.weight_override.as_ref().map_or(backend.weight, |said| said.weight)
}

/// The weight that counts, or would if the backend were not out.
fn weight_in_use(backend: &BackendStatus) -> u16 {
    match backend.effective_weight {
        0 => full_weight(backend),
        effective => effective,
    }
}

/// How many seconds ago a time of `status` was.
pub(super) fn lasting(since: &str, now: SystemTime) -> Option<u64> {
    let since = humantime::parse_rfc3339(since).ok()?;
    // A clock that was set back makes it begin just now.
    Some(now.duration_since(since).unwrap_or_default().as_secs())
}
