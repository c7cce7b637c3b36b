//! The status as text: who owns the VIPs and why first, then the backends, then what became of the packets.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use super::{
    ActiveRouterStatus, BackendStatus, InterfaceStatus, LocalClientsStatus, ObservedVipStatus,
    ObservingStatus, RebalanceStatus, ServiceStatus, Status, TrackStatus, VipWithoutDaemon, VrrpStatus,
    WithoutDaemon, WitnessStatus,
    table::{Column, Look, Screen, amount, draw, fitting, short},
};
use crate::{
    cli::colour::Tone,
    sync::status::{PeerStatus, SendingState, SyncStatus},
};

/// The text, with a line end after the last line.
pub fn render(status: &Status, screen: &Screen) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, status, screen);
    out
}

fn write(out: &mut String, status: &Status, screen: &Screen) -> std::fmt::Result {
    let mut head = String::new();
    write_head(&mut head, status, screen)?;
    out.push_str(&screen.wrap(&head, 4));
    for service in &status.services {
        writeln!(out)?;
        write_service(out, service, screen)?;
    }

    let mut tail = "\n".to_owned();
    let flows = &status.flows;
    // Without a daemon and a configuration nobody knows the limit.
    let most = if flows.max > 0 { format!(", at most {}", flows.max) } else { String::new() };
    writeln!(
        tail,
        "flows: {} established, {} half-open, {} closing{most}",
        flows.established, flows.half_open, flows.closing
    )?;
    if let Some(log) = &status.connection_log {
        let (open, starts, ends, lost) = (log.open, log.starts, log.ends, log.lost);
        writeln!(
            tail,
            "connection log: {open} open, {starts} starts and {ends} ends written, {lost} lost, in {}",
            log.file.display()
        )?;
    }
    if let Some(sync) = &status.sync {
        write_sync(&mut tail, sync)?;
    }
    out.push_str(&screen.wrap(&tail, 4));
    let mut columns =
        vec![Column::new("packets", 0), Column::new("reason", 0), Column::of_numbers("count", 0)];
    let kinds = [
        ("transmitted", &status.packets.transmitted, None),
        ("dropped", &status.packets.dropped, Some(Tone::Warn)),
        ("passed", &status.packets.passed, Some(Tone::Dim)),
    ];
    let mut any = false;
    for (kind, reasons, tone) in kinds {
        for (reason, count) in reasons.iter().filter(|(_, count)| **count > 0) {
            let cells = [kind.to_owned(), reason.clone(), count.to_string()];
            columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell, tone));
            any = true;
        }
    }
    if any {
        writeln!(out, "{}", draw(&columns, screen))?;
    }
    Ok(())
}

/// Who owns the VIPs, what is wrong, and whose status this is.
fn write_head(out: &mut String, status: &Status, screen: &Screen) -> std::fmt::Result {
    if let Some(observing) = &status.observing {
        write_observing(out, observing, status)?;
    }
    if let Some(without) = &status.without_daemon {
        return write_without_daemon(out, without, status, screen);
    }
    for vrrp in &status.vrrp {
        writeln!(out, "{}", ownership(vrrp, screen))?;
        write_dependencies(out, vrrp, screen)?;
    }
    let problem = screen.paint("problem:", Tone::Bad);
    for what in &status.problems {
        writeln!(out, "{problem} {what}")?;
    }
    if let Some(error) = &status.config.last_reload_error {
        writeln!(out, "{problem} the last reload changed nothing: {error}")?;
    }
    let uptime = Duration::from_secs(status.uptime_seconds);
    let uptime = match screen.look {
        Look::Terminal => short(uptime),
        Look::Plain => humantime::format_duration(uptime).to_string(),
    };
    writeln!(
        out,
        "node {}, xvip {}, up {uptime}, {}, {} loaded {}",
        status.node,
        status.version,
        interfaces(status),
        status.config.path.display(),
        screen.when(&status.config.loaded_at),
    )?;
    for vrrp in &status.vrrp {
        writeln!(out, "adverts of {}: {}", vrrp.name, advertisements(vrrp))?;
    }
    Ok(())
}

/// What that means: packets, VIPs, and what to do.
fn write_without_daemon(
    out: &mut String,
    without: &WithoutDaemon,
    status: &Status,
    screen: &Screen,
) -> std::fmt::Result {
    writeln!(out, "{} {}", screen.paint("the daemon is down:", Tone::Bad), without.why)?;
    match &without.since {
        Some(since) => writeln!(out, "  its last sign of life: {}", screen.when(since))?,
        None => writeln!(out, "  it has given no sign of life since the maps were made")?,
    }
    if without.forwarding {
        writeln!(out, "  XDP goes on forwarding to the backends that were last chosen; nobody checks them")?;
    } else {
        let bad = screen.paint("XDP is not attached: nothing is forwarded", Tone::Bad);
        writeln!(out, "  {bad}")?;
    }
    for VipWithoutDaemon { vip, vrrp, present, silenced } in &without.vips {
        let vrrp = vrrp.as_ref().map_or_else(String::new, |vrrp| format!(" (vrrp {vrrp})"));
        let what = match (present, silenced) {
            (true, true) => "is here, but not answered for: another node may take it",
            (true, false) => "is here, and answered for",
            (false, _) => "is not on this node",
        };
        writeln!(out, "  {vip}{vrrp} {what}")?;
    }
    // The first one is that it is down.
    for what in status.problems.iter().skip(1) {
        writeln!(out, "  {what}")?;
    }
    writeln!(out, "  `systemctl start xvip` goes on from there; no connection is lost by that")?;
    writeln!(out, "node {}, {}, {}", status.node, interfaces(status), status.config.path.display())
}

fn interfaces(status: &Status) -> String {
    if status.interfaces.is_empty() {
        interface(&status.interface)
    } else {
        status.interfaces.iter().map(interface).collect::<Vec<_>>().join(", ")
    }
}

/// What this node would do, and for whom.
fn write_observing(out: &mut String, observing: &ObservingStatus, status: &Status) -> std::fmt::Result {
    writeln!(out, "observing: this node changes nothing; without node.observe it would")?;
    for vip in &observing.vips {
        let ObservedVipStatus { vip, vrrp, virtual_router_id, priority, heard } = vip;
        let heard = match heard {
            Some(ActiveRouterStatus { address, priority }) => {
                format!("{address} (priority {priority}) is heard to")
            }
            None => "no other node is heard to".to_owned(),
        };
        let interface = &observing.interface;
        writeln!(
            out,
            "  have {vip} on {interface} while active in VRRP {vrrp} (VRID {virtual_router_id}, priority {priority}); {heard}"
        )?;
    }
    for service in &status.services {
        let total: u64 = service.backends.iter().map(|backend| backend.flows.opened).sum();
        let share = |backend: &BackendStatus| {
            format!("{} {:.1} %", backend.name, 100.0 * backend.flows.opened as f64 / total.max(1) as f64)
        };
        let shares: Vec<String> = service.backends.iter().map(share).collect();
        let at = at_port(&service.vip, service.port);
        writeln!(
            out,
            "  forward {at}: of {total} new connections seen, {} would have got",
            shares.join(", ")
        )?;
    }
    Ok(())
}

/// How far the nodes know each other's flows.
fn write_sync(out: &mut String, sync: &SyncStatus) -> std::fmt::Result {
    for peer in &sync.peers {
        let name = peer.node.as_ref().map_or(String::new(), |node| format!("{node} at "));
        let PeerStatus { sending, receiving, .. } = peer;
        let to = match sending.state {
            SendingState::Up => format!(
                "has our flows, at most {} ms late (median {} ms)",
                sending.lag_max_ms, sending.lag_p50_ms
            ),
            SendingState::Joining => "is getting our flows".to_owned(),
            SendingState::Connecting => "is being called".to_owned(),
            SendingState::Down => match &sending.last_error {
                Some(error) => format!("does not get our flows: {error}"),
                None => "does not get our flows yet".to_owned(),
            },
        };
        let from = match (receiving.connected, receiving.complete) {
            (true, true) => "we have its flows",
            (true, false) => "we are getting its flows",
            (false, _) => "we do not get its flows",
        };
        writeln!(out, "sync: {name}{} {to}; {from}", peer.address)?;
    }
    let of_peers = sync.peers.iter().flat_map(|peer| &peer.refused);
    let mut refused = BTreeMap::new();
    for (why, count) in sync.refused.iter().chain(of_peers) {
        *refused.entry(*why).or_insert(0) += count;
    }
    if !refused.is_empty() {
        let refused: Vec<String> =
            refused.iter().map(|(why, count)| format!("{} {count}", why.text())).collect();
        writeln!(out, "sync: refused: {}", refused.join(", "))?;
    }
    Ok(())
}

fn interface(interface: &InterfaceStatus) -> String {
    let InterfaceStatus { name, xdp_mode, mac, attached_to, .. } = interface;
    if attached_to.is_empty() || attached_to == name {
        format!("{name} (XDP {xdp_mode}, {mac})")
    } else {
        format!("{name} (XDP {xdp_mode} at {attached_to}, {mac})")
    }
}

fn ownership(vrrp: &VrrpStatus, screen: &Screen) -> String {
    let vips = vrrp.vips.join(", ");
    let owner = match (vrrp.state.as_str(), &vrrp.active_router) {
        ("active", _) => format!("this node owns {vips}"),
        (_, Some(active)) => format!("{} (priority {}) owns {vips}", active.address, active.priority),
        (_, None) => format!("no owner of {vips} is known"),
    };
    let state = match vrrp.state.as_str() {
        "active" => screen.paint("active", Tone::Good),
        "backup" => "backup".to_owned(),
        other => screen.paint(other, Tone::Bad),
    };
    let since = screen.since(&vrrp.since);
    format!(
        "vrrp {}: {state} {since}: {}; {owner} [VRID {}, version {}, priority {}]",
        vrrp.name, vrrp.reason, vrrp.virtual_router_id, vrrp.version, vrrp.priority
    )
}

/// What it has said and heard, and what it did not use.
fn advertisements(vrrp: &VrrpStatus) -> String {
    let mut text = format!("{} sent", vrrp.adverts_sent);
    if vrrp.lateness.count > 0 {
        let late = Duration::from_micros(vrrp.lateness.percentile_us(99));
        text.push_str(&format!(" (99 % at most {} late)", humantime::format_duration(late)));
    }
    text.push_str(&format!(", {} received", vrrp.adverts_received));
    let unused = vrrp.discarded.iter().map(|(reason, count)| format!("{reason} {count}"));
    let mismatches =
        [("other-addresses", vrrp.address_mismatches), ("other-interval", vrrp.interval_mismatches)];
    let mismatches = mismatches.into_iter().filter(|(_, count)| *count > 0);
    let differing: Vec<String> = mismatches.map(|(what, count)| format!("{what} {count}")).collect();
    let unused: Vec<String> = unused.collect();
    if !unused.is_empty() {
        text.push_str(&format!("; not used: {}", unused.join(", ")));
    }
    if !differing.is_empty() {
        text.push_str(&format!("; used although they differ: {}", differing.join(", ")));
    }
    if vrrp.send_errors > 0 {
        let why = vrrp.send_error.as_deref().unwrap_or("works again");
        text.push_str(&format!("; not sent: {} ({why})", vrrp.send_errors));
    }
    if vrrp.authentication != "none" && !vrrp.authentication.is_empty() {
        text.push_str(&format!("; authentication {}", vrrp.authentication));
    }
    text
}

/// What else decides whether it owns its VIPs.
fn write_dependencies(out: &mut String, vrrp: &VrrpStatus, screen: &Screen) -> std::fmt::Result {
    if vrrp.released {
        writeln!(
            out,
            "  released: the VIP is left to any other node, until `xvip vip acquire {}`",
            vrrp.name
        )?;
    }
    for TrackStatus { name, weight, state, since, reason } in &vrrp.tracks {
        let weight = if *weight == 0 { String::new() } else { format!(" (weight {weight:+})") };
        let since = screen.since(since);
        let state = if state == "down" { screen.paint(state, Tone::Bad) } else { state.clone() };
        writeln!(out, "  {name}{weight}: {state} {since}: {reason}")?;
    }
    match &vrrp.witness {
        Some(WitnessStatus { problem: Some(problem), .. }) => {
            writeln!(out, "  {problem}: it does not take over from a silent router")
        }
        Some(WitnessStatus { addresses, .. }) => writeln!(out, "  witness {}: answers", addresses.join(", ")),
        None => Ok(()),
    }
}

fn write_service(out: &mut String, service: &ServiceStatus, screen: &Screen) -> std::fmt::Result {
    let usable = format!("{} of {} backends usable", service.usable, service.backends.len());
    let tone = match service.usable as usize {
        0 => Some(Tone::Bad),
        usable if usable < service.backends.len() => Some(Tone::Warn),
        _ => None,
    };
    let head = format!(
        "service {}: {} ({}, {}), {}",
        service.name,
        at_port(&service.vip, service.port),
        service.mode,
        service.balance,
        tone.map_or(usable.clone(), |tone| screen.paint(&usable, tone)),
    );
    out.push_str(&screen.wrap(&format!("{head}\n"), 4));
    let all = backend_columns(&service.backends, screen);
    let columns = fitting(all, screen);
    writeln!(out, "{}", draw(&columns, screen))?;
    let mut notes = String::new();
    if !columns.iter().any(|column| column.title() == REASON) {
        for backend in service.backends.iter().filter(|backend| backend.state == "down") {
            let BackendStatus { name, since, reason, .. } = backend;
            writeln!(notes, "{name}: {} {}: {reason}", state(backend), screen.since(since))?;
        }
    }
    for backend in &service.backends {
        write_orders(&mut notes, backend, screen)?;
    }
    if let Some(rebalance) = &service.rebalance {
        write_rebalance(&mut notes, rebalance, screen)?;
    }
    if service.host_connections > 0 {
        writeln!(
            notes,
            "connections that a process on this node has with clients: {} (xvip leaves them to it)",
            service.host_connections
        )?;
    }
    let LocalClientsStatus { redirected, no_backend, stale, other_namespace } = service.local_clients;
    let counts = [
        (redirected, "redirected"),
        (no_backend, "without a backend"),
        (stale, "left to the VIP's owner"),
        (other_namespace, "from other network namespaces"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, what)| format!("{count} {what}")).collect();
    if !counts.is_empty() {
        writeln!(notes, "connects on this node: {}", counts.join(", "))?;
    }
    out.push_str(&screen.wrap(&notes, 4));
    Ok(())
}

/// The column that says why a backend is in its state; without it, that is said below the table.
const REASON: &str = "reason";

/// What is known of each backend. The ranks say what goes first on a narrow screen.
fn backend_columns(backends: &[BackendStatus], screen: &Screen) -> Vec<Column> {
    let since = if screen.now.is_some() { "for" } else { "since" };
    let mut columns = vec![
        Column::new("backend", 0),
        Column::new("address", 3),
        Column::of_numbers("weight", 5),
        Column::new("state", 0),
        Column::new(since, 4),
        Column::new(REASON, 7),
        Column::of_numbers("share", 1),
        Column::new("next hop", 12),
        Column::of_numbers("opened", 6),
        Column::of_numbers("active", 1),
        Column::of_numbers("closed", 9),
        Column::of_numbers("reset", 9),
        Column::of_numbers("full", 10),
        Column::of_numbers("packets in/out", 11),
        Column::of_numbers("bytes in", 8),
        Column::of_numbers("bytes out", 8),
    ];
    for backend in backends {
        let tone = tone(backend);
        for (column, cell) in columns.iter_mut().zip(row(backend, screen)) {
            column.push(cell, tone.filter(|_| column.title() == "state"));
        }
    }
    // On a screen, what never happened need not be said.
    columns.retain(|column| {
        screen.width.is_none() || column.says_something() || !matches!(column.title(), "reset" | "full")
    });
    columns
}

fn tone(backend: &BackendStatus) -> Option<Tone> {
    match backend.state.as_str() {
        "down" => Some(Tone::Bad),
        "up" if backend.admin.is_none() => Some(Tone::Good),
        _ => Some(Tone::Warn),
    }
}

fn state(backend: &BackendStatus) -> String {
    let state = match &backend.down {
        Some(kind) => format!("{} ({kind})", backend.state),
        None => backend.state.clone(),
    };
    match &backend.admin {
        Some(admin) => format!("{state}, {}", admin.state),
        None => state,
    }
}

/// What an operator has said about a backend.
fn write_orders(out: &mut String, backend: &BackendStatus, screen: &Screen) -> std::fmt::Result {
    let BackendStatus { name, weight, admin, weight_override, .. } = backend;
    if let Some(admin) = admin {
        let what = match (admin.state.as_str(), &admin.deadline) {
            ("drain", None) => "drained: no new connections; those that it has stay".to_owned(),
            ("drain", Some(deadline)) => {
                format!("drained: no new connections; those that it has stay until {deadline}")
            }
            _ => "disabled: no connections".to_owned(),
        };
        writeln!(
            out,
            "{name}: {what}; by {} {}; `xvip backend enable {name}` ends it",
            admin.by,
            at(&admin.at, screen),
        )?;
    }
    if let Some(other) = weight_override {
        writeln!(
            out,
            "{name}: weight {} instead of {weight}; by {} {}; `xvip backend weight {name} default` ends it",
            other.weight,
            other.by,
            at(&other.at, screen),
        )?;
    }
    Ok(())
}

fn write_rebalance(out: &mut String, rebalance: &RebalanceStatus, screen: &Screen) -> std::fmt::Result {
    let RebalanceStatus { mode, running, left, done, resets, last } = rebalance;
    write!(out, "rebalance ({mode}): ")?;
    if *running {
        write!(out, "goes on, {done} connections reset, {left} to go; ")?;
    }
    write!(out, "{resets} reset in all")?;
    if let Some(last) = last {
        let took = humantime::format_duration(Duration::from_millis(last.took_ms));
        let why = if last.asked_for { "asked for" } else { "by itself" };
        write!(
            out,
            "; the last one, {} ({why}), took {took} and reset {}: {}",
            screen.when(&last.began),
            last.resets,
            last.outcome
        )?;
    }
    writeln!(out)
}

/// When somebody said something.
fn at(time: &str, screen: &Screen) -> String {
    if screen.now.is_some() { screen.when(time) } else { format!("at {time}") }
}

/// An IPv6 address in brackets.
fn at_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn row(backend: &BackendStatus, screen: &Screen) -> [String; 16] {
    let told = backend.weight_override.as_ref().map_or(backend.weight, |other| other.weight);
    let weight = if backend.effective_weight == told {
        told.to_string()
    } else {
        format!("{} of {told}", backend.effective_weight)
    };
    let next_hop = if backend.local { Some("this node".to_owned()) } else { backend.next_hop.clone() };
    let flows = &backend.flows;
    [
        backend.name.clone(),
        backend.address.clone(),
        weight,
        state(backend),
        if screen.now.is_some() {
            screen.when(&backend.since).replace(" ago", "")
        } else {
            backend.since.clone()
        },
        backend.reason.clone(),
        format!("{:.1} %", backend.share * 100.0),
        next_hop.unwrap_or_else(|| "-".to_owned()),
        flows.opened.to_string(),
        match backend.max_connections {
            0 => flows.active.to_string(),
            limit => format!("{} of {limit}", flows.active),
        },
        flows.closed.to_string(),
        flows.reset.to_string(),
        flows.full.to_string(),
        format!("{}/{}", flows.packets_in, flows.packets_out),
        amount(flows.bytes_in),
        amount(flows.bytes_out),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
