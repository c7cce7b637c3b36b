//! What is answered: figures from a status, and what is ordered of the daemon. Pure.

use std::time::SystemTime;

use super::{
    command::{Command, Order},
    info, servers, stat,
};
use crate::{
    config::model::{MAX_WEIGHT, StatsLevel},
    control::protocol::{BackendAction, BackendOrder},
    status::{BackendStatus, Status},
};

/// The answer to what only needs a status; nothing for everything else.
pub(super) fn figures(
    command: &Command,
    status: &Status,
    now: SystemTime,
    level: StatsLevel,
) -> Option<String> {
    Some(match command {
        Command::Stat(query) => stat::answer(query, status, now, level),
        Command::Info(shape) => info::answer(status, *shape),
        Command::ServersState(name) => servers::state(status, name.as_deref(), now),
        Command::ServersConn(name) => servers::connections(status, name.as_deref()),
        Command::Backends => servers::names(status),
        Command::Errors => errors(now),
        Command::Version => info::version(status) + "\n",
        Command::Weight(target) => match servers::find(status, target) {
            Ok((_, backend)) => servers::weight(backend),
            // In this command alone HAProxy looks for a proxy without a name.
            Err(_) if target.starts_with('/') && target.len() > 1 => "No such backend.\n".to_owned(),
            Err(error) => error.to_owned(),
        },
        Command::Level
        | Command::Order(..)
        | Command::Prompt
        | Command::Quit
        | Command::Lower(_)
        | Command::Timeout(_)
        | Command::Say(_) => return None,
    })
}

/// There are none: xvip does not look into what it forwards.
fn errors(now: SystemTime) -> String {
    let now = jiff::Timestamp::try_from(now).unwrap_or_default().to_zoned(jiff::tz::TimeZone::system());
    format!("Total events captured on [{}] : 0\n", now.strftime("%d/%b/%Y:%H:%M:%S%.3f"))
}

/// What is to be ordered of the daemon; `None` where it is so already.
///
/// # Errors
/// What is wrong with it, as it is answered.
pub(super) fn order(status: &Status, target: &str, order: &Order) -> Result<Option<BackendOrder>, String> {
    let (service, backend) = servers::find(status, target)?;
    let action = match order {
        Order::Ready => BackendAction::Enable,
        Order::Drain => BackendAction::Drain { deadline_s: None },
        Order::Maint => BackendAction::Maintain,
        Order::Weight(text) => {
            let weight = weight(text, backend.weight)?;
            BackendAction::Weight { weight: (weight != u32::from(backend.weight)).then_some(weight) }
        }
        Order::Impossible(why) => return Err(why.clone()),
        Order::Shutdown => match shutdown(backend, target)? {
            Some(action) => action,
            None => return Ok(None),
        },
    };
    Ok(Some(BackendOrder {
        backend: backend.name.clone(),
        service: Some(service.name.clone()),
        action,
        by: None,
    }))
}

/// A backend that gets new connections would have some again before the last one is reset.
fn shutdown(backend: &BackendStatus, target: &str) -> Result<Option<BackendAction>, String> {
    match &backend.admin {
        Some(admin) if admin.state == "disabled" => Ok(None),
        // In maintenance it stays, also without connections.
        Some(admin) if admin.maintenance => Ok(Some(BackendAction::Disable)),
        Some(_) => Ok(Some(BackendAction::Drain { deadline_s: Some(0) })),
        None => Err(format!("{target} gets new connections: 'set server {target} state maint' ends that\n")),
    }
}

/// A weight, or a percentage of the one in the file.
fn weight(text: &str, initial: u16) -> Result<u32, &'static str> {
    if text.is_empty() {
        return Err("Require <weight> or <weight%>.\n");
    }
    let (sign, rest) = match text.strip_prefix(['-', '+']) {
        Some(rest) => (if text.starts_with('-') { -1 } else { 1 }, rest),
        None => (1, text),
    };
    let (digits, unit) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    if digits.is_empty() {
        return Err("Empty weight string empty or preceded by garbage");
    }
    // What does not fit is as wrong as it was before.
    let number = sign * digits.parse::<i64>().unwrap_or(i64::MAX);
    let most = i64::from(MAX_WEIGHT);
    let weight = match unit {
        "%" if number < 0 => return Err("Relative weight must be positive.\n"),
        "%" => (i64::from(initial) * number.min(100 * most) / 100).min(most),
        _ if !(0..=most).contains(&number) => {
            return Err("Absolute weight can only be between 0 and 256 inclusive.\n");
        }
        "" => number,
        _ => return Err("Trailing garbage in weight string"),
    };
    u32::try_from(weight).map_err(|_| "Relative weight must be positive.\n")
}
