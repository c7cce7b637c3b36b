//! `show servers state`, `show servers conn`, `show backend` and `get weight`. Pure.

use std::{fmt::Write as _, net::SocketAddr, time::SystemTime};

use super::{
    check::check_of,
    stat::{full_weight, is_maintenance, lasting, number_of, server_status},
};
use crate::status::{BackendStatus, ServiceStatus, Status};

const STATE: &str = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
                     srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state \
                     srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl \
                     srv_check_port srv_check_addr srv_agent_addr srv_agent_port";
const CONNECTIONS: &str = "# bkname/svname bkid/svid addr port - purge_delay used_cur used_max need_est unsafe_nb safe_nb \
                           idle_lim idle_cur idle_per_thr[1]";

/// Administrative states of a server (HAProxy's `enum srv_admin`).
const FORCED_MAINTENANCE: u8 = 0x01;
const FORCED_DRAIN: u8 = 0x08;

/// The services that are meant, each with its number; nothing where a name is nobody's.
fn meant<'a>(
    status: &'a Status,
    name: Option<&'a str>,
) -> Option<impl Iterator<Item = (u32, &'a ServiceStatus)>> {
    let services = || status.services.iter().enumerate().map(|(index, service)| (number_of(index), service));
    let is_meant = move |service: &ServiceStatus| name.is_none_or(|name| service.name == name);
    let is_known = name.is_none() || services().any(|(_, service)| is_meant(service));
    is_known.then(|| services().filter(move |(_, service)| is_meant(service)))
}

/// `show servers state`, in the form of version 1.
pub(super) fn state(status: &Status, name: Option<&str>, now: SystemTime) -> String {
    let Some(services) = meant(status, name) else { return "Can't find backend.\n".to_owned() };
    let mut text = format!("1\n{STATE}\n");
    for (number, service) in services {
        for (backend, server) in service.backends.iter().zip(1_u32..) {
            let (address, port) = address(backend);
            let admin = match &backend.admin {
                Some(admin) if is_maintenance(admin) => FORCED_MAINTENANCE,
                Some(_) => FORCED_DRAIN,
                None => 0,
            };
            // Stopped or running (`enum srv_state`).
            let running = if matches!(server_status(backend), "UP" | "DRAIN") { 2 } else { 0 };
            let check = check_of(&backend.state, &backend.reason);
            // Unknown, failed or passed (`enum chk_result`).
            let result = match backend.state.as_str() {
                "up" => 3,
                "down" => 2,
                _ => 0,
            };
            let (weight, initial) = (full_weight(backend), backend.weight);
            let since = lasting(&backend.since, now).unwrap_or_default();
            let health = u8::from(backend.state == "up");
            // Writing to a String cannot fail. Checks are configured and enabled: 6.
            let _ = writeln!(
                text,
                "{number} {} {server} {} {address} {running} {admin} {weight} {initial} {since} {} {result} {health} 6 0 0 0 - \
                 {port} - 0 0 - - 0",
                service.name, backend.name, check.number,
            );
        }
    }
    text
}

/// `show servers conn`
pub(super) fn connections(status: &Status, name: Option<&str>) -> String {
    let Some(services) = meant(status, name) else { return "Can't find backend.\n".to_owned() };
    let mut text = format!("{CONNECTIONS}\n");
    for (number, service) in services {
        for (backend, server) in service.backends.iter().zip(1_u32..) {
            let (address, port) = address(backend);
            let (name, of, active) = (&backend.name, &service.name, backend.flows.active);
            // Nothing is kept idle: what is not known of the past, and what there never is, are 0.
            let _ = writeln!(
                text,
                "{of}/{name} {number}/{server} {address} {port} - 0 {active} {active} 0 0 0 0 0 0"
            );
        }
    }
    text
}

/// `show backend`
pub(super) fn names(status: &Status) -> String {
    let names: String = status.services.iter().map(|service| format!("{}\n", service.name)).collect();
    format!("# name\n{names}")
}

/// `get weight`
pub(super) fn weight(backend: &BackendStatus) -> String {
    format!("{} (initial {})\n", full_weight(backend), backend.weight)
}

fn address(backend: &BackendStatus) -> (String, u16) {
    match backend.address.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port()),
        Err(_) => ("-".to_owned(), 0),
    }
}

/// Whom `SERVICE/BACKEND` means, each by its name or by `#` and its number.
///
/// # Errors
/// Nobody, in HAProxy's words.
pub(super) fn find<'a>(
    status: &'a Status,
    target: &str,
) -> Result<(&'a ServiceStatus, &'a BackendStatus), &'static str> {
    let (service, server) = target.split_once('/').unwrap_or((target, ""));
    if service.is_empty() || server.is_empty() {
        return Err("Require 'backend/server'.\n");
    }
    let is_it = |name: &str, wanted: &str, number: u32| match wanted.strip_prefix('#') {
        Some(digits) => digits.parse() == Ok(number),
        None => name == wanted,
    };
    let mut services = status.services.iter().enumerate();
    let found = services.find(|(index, one)| is_it(&one.name, service, number_of(*index)));
    let (_, service) = found.ok_or("No such backend.\n")?;
    let mut backends = service.backends.iter().zip(1..);
    let found = backends.find(|(one, number)| is_it(&one.name, server, *number));
    let (backend, _) = found.ok_or("No such server.\n")?;
    Ok((service, backend))
}
