//! The status as text: who owns the VIPs and why first, then the backends, then what became of the packets.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use comfy_table::{Table, presets};

use super::{
    ActiveRouterStatus, BackendStatus, InterfaceStatus, LocalClientsStatus, ObservedVipStatus,
    ObservingStatus, RebalanceStatus, ServiceStatus, Status, TrackStatus, VrrpStatus, WitnessStatus,
};
use crate::sync::status::{PeerStatus, SendingState, SyncStatus};

/// How the tables look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Lines around the cells.
    Terminal,
    /// Columns only, for pipes.
    Plain,
}

/// The text, with a line end after the last line.
pub fn render(status: &Status, look: Look) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut out, status, look);
    out
}

fn write(out: &mut String, status: &Status, look: Look) -> std::fmt::Result {
    if let Some(observing) = &status.observing {
        write_observing(out, observing, status)?;
    }
    for vrrp in &status.vrrp {
        writeln!(out, "{}", ownership(vrrp))?;
        write_dependencies(out, vrrp)?;
    }
    for problem in &status.problems {
        writeln!(out, "problem: {problem}")?;
    }
    if let Some(error) = &status.config.last_reload_error {
        writeln!(out, "problem: the last reload changed nothing: {error}")?;
    }
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    let interfaces = if status.interfaces.is_empty() {
        interface(&status.interface)
    } else {
        status.interfaces.iter().map(interface).collect::<Vec<_>>().join(", ")
    };
    writeln!(
        out,
        "node {}, xvip {}, up {uptime}, {interfaces}, {} loaded {}",
        status.node,
        status.version,
        status.config.path.display(),
        status.config.loaded_at,
    )?;
    for vrrp in &status.vrrp {
        writeln!(out, "adverts of {}: {}", vrrp.name, advertisements(vrrp))?;
    }
    for service in &status.services {
        writeln!(out)?;
        write_service(out, service, look)?;
    }

    writeln!(out)?;
    let flows = &status.flows;
    writeln!(
        out,
        "flows: {} established, {} half-open, {} closing, at most {}",
        flows.established, flows.half_open, flows.closing, flows.max
    )?;
    if let Some(log) = &status.connection_log {
        let not_written = log.lost;
        writeln!(
            out,
            "connection log: {} open, {} starts and {} ends written, {not_written} lost, in {}",
            log.open,
            log.starts,
            log.ends,
            log.file.display()
        )?;
    }
    if let Some(sync) = &status.sync {
        write_sync(out, sync)?;
    }
    let mut packets = new_table(look);
    packets.set_header(["packets", "reason", "count"]);
    let kinds = [
        ("transmitted", &status.packets.transmitted),
        ("dropped", &status.packets.dropped),
        ("passed", &status.packets.passed),
    ];
    for (kind, reasons) in kinds {
        for (reason, count) in reasons.iter().filter(|(_, count)| **count > 0) {
            packets.add_row([kind, reason, &count.to_string()]);
        }
    }
    if packets.row_count() > 0 {
        writeln!(out, "{}", trimmed(&packets))?;
    }
    Ok(())
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

fn ownership(vrrp: &VrrpStatus) -> String {
    let vips = vrrp.vips.join(", ");
    let owner = match (vrrp.state.as_str(), &vrrp.active_router) {
        ("active", _) => format!("this node owns {vips}"),
        (_, Some(active)) => format!("{} (priority {}) owns {vips}", active.address, active.priority),
        (_, None) => format!("no owner of {vips} is known"),
    };
    format!(
        "vrrp {}: {} since {}: {}; {owner} [VRID {}, version {}, priority {}]",
        vrrp.name, vrrp.state, vrrp.since, vrrp.reason, vrrp.virtual_router_id, vrrp.version, vrrp.priority
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
fn write_dependencies(out: &mut String, vrrp: &VrrpStatus) -> std::fmt::Result {
    if vrrp.released {
        writeln!(
            out,
            "  released: the VIP is left to any other node, until `xvip vip acquire {}`",
            vrrp.name
        )?;
    }
    for TrackStatus { name, weight, state, since, reason } in &vrrp.tracks {
        let weight = if *weight == 0 { String::new() } else { format!(" (weight {weight:+})") };
        writeln!(out, "  {name}{weight}: {state} since {since}: {reason}")?;
    }
    match &vrrp.witness {
        Some(WitnessStatus { problem: Some(problem), .. }) => {
            writeln!(out, "  {problem}: it does not take over from a silent router")
        }
        Some(WitnessStatus { addresses, .. }) => writeln!(out, "  witness {}: answers", addresses.join(", ")),
        None => Ok(()),
    }
}

fn write_service(out: &mut String, service: &ServiceStatus, look: Look) -> std::fmt::Result {
    writeln!(
        out,
        "service {}: {} ({}, {}), {} of {} backends usable",
        service.name,
        at_port(&service.vip, service.port),
        service.mode,
        service.balance,
        service.usable,
        service.backends.len(),
    )?;
    let mut table = new_table(look);
    table.set_header([
        "backend",
        "address",
        "weight",
        "state",
        "since",
        "reason",
        "share",
        "next hop",
        "opened",
        "active",
        "closed",
        "reset",
        "full",
        "packets in/out",
        "bytes in",
        "bytes out",
    ]);
    for backend in &service.backends {
        table.add_row(row(backend));
    }
    writeln!(out, "{}", trimmed(&table))?;
    for backend in &service.backends {
        write_orders(out, backend)?;
    }
    if let Some(rebalance) = &service.rebalance {
        write_rebalance(out, rebalance)?;
    }
    if service.host_connections > 0 {
        writeln!(
            out,
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
        writeln!(out, "connects on this node: {}", counts.join(", "))?;
    }
    Ok(())
}

/// What an operator has said about a backend.
fn write_orders(out: &mut String, backend: &BackendStatus) -> std::fmt::Result {
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
            "{name}: {what}; by {} at {}; `xvip backend enable {name}` ends it",
            admin.by, admin.at
        )?;
    }
    if let Some(other) = weight_override {
        writeln!(
            out,
            "{name}: weight {} instead of {weight}; by {} at {}; `xvip backend weight {name} default` ends it",
            other.weight, other.by, other.at
        )?;
    }
    Ok(())
}

fn write_rebalance(out: &mut String, rebalance: &RebalanceStatus) -> std::fmt::Result {
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
            last.began, last.resets, last.outcome
        )?;
    }
    writeln!(out)
}

/// An IPv6 address in brackets.
fn at_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

fn row(backend: &BackendStatus) -> [String; 16] {
    let state = match &backend.down {
        Some(kind) => format!("{} ({kind})", backend.state),
        None => backend.state.clone(),
    };
    let state = match &backend.admin {
        Some(admin) => format!("{state}, {}", admin.state),
        None => state,
    };
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
        state,
        backend.since.clone(),
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

/// A number of bytes as people read it; `--json` has it exactly.
pub(crate) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut left = bytes as f64 / 1024.0;
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    while left >= 1023.95 && unit + 1 < UNITS.len() {
        left /= 1024.0;
        unit += 1;
    }
    format!("{left:.1} {}", UNITS[unit])
}

pub(crate) fn new_table(look: Look) -> Table {
    let mut table = Table::new();
    table.load_style(match look {
        Look::Terminal => presets::UTF8_FULL_CONDENSED,
        Look::Plain => presets::NOTHING,
    });
    table
}

/// The table without blanks at the ends of its lines.
pub(crate) fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use crate::status::{
        AdminStatus, BackendFlowsStatus, ConfigStatus, FlowsStatus, InterfaceStatus, LastRebalanceStatus,
        Packets, WeightOverrideStatus,
    };
    use crate::sync::status::Refused;

    fn status() -> Status {
        let since = "2026-01-02T03:04:05.678Z".to_owned();
        let backend = |name: &str, down: Option<&str>| BackendStatus {
            name: name.into(),
            address: "172.16.0.4:6443".into(),
            weight: 100,
            state: if down.is_some() { "down" } else { "up" }.into(),
            down: down.map(str::to_owned),
            since: since.clone(),
            reason: "status 200".into(),
            share: if down.is_some() { 0.0 } else { 1.0 },
            next_hop: down.is_none().then(|| "02:00:00:00:00:04".into()),
            effective_weight: 100,
            admin: None,
            weight_override: None,
            share_limit: None,
            max_connections: 0,
            local: false,
            flows: BackendFlowsStatus { opened: 12, active: 3, bytes_out: 5 << 20, ..Default::default() },
            resets: Default::default(),
        };
        let interface = InterfaceStatus {
            name: "eth0".into(),
            xdp_mode: "native".into(),
            mac: "02:00:00:00:00:02".into(),
            attached_to: "eth0".into(),
            vlans: Vec::new(),
            mtu: 1500,
        };
        let vrrp = serde_json::json!({
            "name": "main",
            "state": "active",
            "since": since,
            "reason": "active router silent for 700 ms",
            "priority": 100,
            "virtual_router_id": 60,
            "version": 3,
            "vips": ["172.16.0.10/24"],
            "active_router": { "address": "172.16.0.2", "priority": 100 },
            "adverts_sent": 1,
            "adverts_received": 0,
            "discarded": {},
        });
        let vrrp: VrrpStatus = serde_json::from_value(vrrp).expect("the rest has defaults");
        Status {
            node: "lb1".into(),
            version: "0.1.0".into(),
            pid: 1,
            uptime_seconds: 61,
            problems: Vec::new(),
            config: ConfigStatus {
                path: "/etc/xvip/xvip.toml".into(),
                loaded_at: since.clone(),
                last_reload_error: None,
            },
            interface: interface.clone(),
            interfaces: vec![interface],
            vrrp: vec![vrrp],
            services: vec![ServiceStatus {
                rebalance: None,
                name: "api".into(),
                vip: "172.16.0.10".into(),
                port: 6443,
                mode: "nat".into(),
                balance: "maglev".into(),
                usable: 1,
                local_clients: LocalClientsStatus::default(),
                host_connections: 0,
                backends: vec![backend("m1", None), backend("m2", Some("dead"))],
            }],
            packets: Packets {
                passed: [("arp".to_owned(), 0)].into(),
                dropped: [("fragment".to_owned(), 7)].into(),
                transmitted: [("to-backend".to_owned(), 42)].into(),
            },
            flows: FlowsStatus { max: 1024, established: 3, half_open: 0, closing: 2 },
            sync: None,
            connection_log: None,
            observing: None,
        }
    }

    #[test]
    fn the_owner_and_the_reason_come_first() {
        let text = render(&status(), Look::Plain);
        let first = text.lines().next().expect("a line");
        assert!(first.contains("active since") && first.contains("this node owns 172.16.0.10/24"), "{first}");
        assert!(first.contains("active router silent for 700 ms"), "{first}");
    }

    #[test]
    fn the_exchange_of_flows_is_told_by_peer() {
        let mut status = status();
        assert!(!render(&status, Look::Plain).contains("sync:"));
        let mut peer = PeerStatus::new("172.16.0.3:7946".parse().expect("an address"));
        let mut line = |peer: &PeerStatus| {
            status.sync = Some(SyncStatus { peers: vec![peer.clone()], ..SyncStatus::default() });
            let text = render(&status, Look::Plain);
            text.lines().filter(|line| line.starts_with("sync:")).collect::<Vec<_>>().join("|")
        };
        assert_eq!(line(&peer), "sync: 172.16.0.3:7946 does not get our flows yet; we do not get its flows");
        peer.node = Some("lb2".into());
        peer.sending.state = SendingState::Up;
        (peer.sending.lag_max_ms, peer.sending.lag_p50_ms) = (40, 3);
        (peer.receiving.connected, peer.receiving.complete) = (true, true);
        peer.refused.insert(Refused::WrongKey, 7);
        assert_eq!(
            line(&peer),
            "sync: lb2 at 172.16.0.3:7946 has our flows, at most 40 ms late (median 3 ms); we have its flows|\
             sync: refused: the key is none of ours 7"
        );
    }

    #[test]
    fn a_backup_names_the_owner() {
        let mut status = status();
        status.vrrp[0].state = "backup".into();
        assert!(render(&status, Look::Plain).starts_with("vrrp main: backup"));
        assert!(render(&status, Look::Plain).contains("172.16.0.2 (priority 100) owns 172.16.0.10/24"));
        status.vrrp[0].active_router = None;
        assert!(render(&status, Look::Plain).contains("no owner of 172.16.0.10/24 is known"));
    }

    #[test]
    fn what_an_instance_depends_on_is_told() {
        let mut status = status();
        assert_eq!(render(&status, Look::Plain).lines().filter(|line| line.starts_with("  ")).count(), 0);
        let track = |name: &str, weight, state: &str, reason: &str| TrackStatus {
            name: name.into(),
            weight,
            state: state.into(),
            since: "2026-01-02T03:04:05.678Z".into(),
            reason: reason.into(),
        };
        let vrrp = &mut status.vrrp[0];
        vrrp.released = true;
        vrrp.tracks = vec![
            track("script /bin/x -q", -50, "down", "exit 1: no"),
            track("interface eth1", 0, "up", "up"),
        ];
        vrrp.witness =
            Some(WitnessStatus { addresses: vec!["172.16.0.1".into()], answers: true, problem: None });
        let text = render(&status, Look::Plain);
        for line in [
            "  released: the VIP is left to any other node, until `xvip vip acquire main`",
            "  script /bin/x -q (weight -50): down since 2026-01-02T03:04:05.678Z: exit 1: no",
            "  interface eth1: up since 2026-01-02T03:04:05.678Z: up",
            "  witness 172.16.0.1: answers",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let silent = "witness 172.16.0.1 has not answered for 812 ms";
        status.vrrp[0].witness = Some(WitnessStatus {
            addresses: vec!["172.16.0.1".into()],
            answers: false,
            problem: Some(silent.into()),
        });
        assert!(render(&status, Look::Plain).contains(&format!("  {silent}: it does not take over")));
    }

    #[test]
    fn counters_that_are_zero_are_not_shown() {
        let text = render(&status(), Look::Plain);
        assert!(text.contains("fragment") && text.contains("to-backend") && !text.contains("arp"), "{text}");
    }

    #[test]
    fn plain_text_has_no_lines_around_cells() {
        let text = render(&status(), Look::Plain);
        assert!(text.is_ascii(), "{text}");
        assert!(text.lines().any(|line| line.contains("m2") && line.contains("down (dead)")), "{text}");
        assert!(!render(&status(), Look::Terminal).is_ascii());
    }

    #[test]
    fn problems_are_said_before_anything_else_but_ownership() {
        let mut status = status();
        status.problems.push("XDP is not attached".into());
        status.config.last_reload_error = Some("xvip.toml: 2 errors".into());
        let text = render(&status, Look::Plain);
        assert!(text.lines().nth(1).is_some_and(|line| line == "problem: XDP is not attached"), "{text}");
        assert!(text.contains("the last reload changed nothing: xvip.toml: 2 errors"), "{text}");
    }

    #[test]
    fn every_interface_says_where_xdp_is() {
        let mut status = status();
        let vlan = InterfaceStatus {
            name: "bond0.100".into(),
            attached_to: "bond0".into(),
            vlans: vec![100],
            xdp_mode: "generic".into(),
            ..status.interface.clone()
        };
        status.interfaces.push(vlan);
        let text = render(&status, Look::Plain);
        assert!(
            text.contains("eth0 (XDP native, 02:00:00:00:00:02), bond0.100 (XDP generic at bond0, "),
            "{text}"
        );
    }

    #[test]
    fn a_backend_shows_what_is_special_about_it() {
        let mut status = status();
        let service = &mut status.services[0];
        service.vip = "fd00::10".into();
        let backend = &mut service.backends[0];
        (backend.effective_weight, backend.max_connections, backend.local) = (10, 500, true);
        let text = render(&status, Look::Plain);
        assert!(text.contains("service api: [fd00::10]:6443 ("), "{text}");
        let line = text.lines().find(|line| line.contains("m1")).expect("its line");
        assert!(
            line.contains("10 of 100") && line.contains("3 of 500") && line.contains("this node"),
            "{line}"
        );
        assert!(line.ends_with("5.0 MiB"), "{line}");
    }

    #[test]
    fn what_operators_have_said_and_what_rebalances_did_is_told() {
        let mut status = status();
        let service = &mut status.services[0];
        let (by, at) = ("root (alice)".to_owned(), "2026-01-02T03:04:05.678Z".to_owned());
        let admin = AdminStatus { state: "drain".into(), deadline: None, by: by.clone(), at: at.clone() };
        let backend = &mut service.backends[0];
        (backend.effective_weight, backend.admin) = (0, Some(admin));
        backend.weight_override = Some(WeightOverrideStatus { weight: 50, by, at });
        service.rebalance = Some(RebalanceStatus {
            mode: "auto".into(),
            running: true,
            left: 20,
            done: 70,
            resets: 160,
            last: Some(LastRebalanceStatus {
                began: "2026-01-01T00:00:00.000Z".into(),
                took_ms: 9100,
                asked_for: false,
                outcome: "balanced".into(),
                resets: 90,
                resets_by_backend: BTreeMap::new(),
            }),
        });
        let text = render(&status, Look::Plain);
        let row = text.lines().find(|line| line.contains("172.16.0.4")).expect("its row");
        assert!(row.contains("0 of 50") && row.contains("up, drain"), "{row}");
        for line in [
            "m1: drained: no new connections; those that it has stay; by root (alice) at 2026-01-02T03:04:05.678Z; \
             `xvip backend enable m1` ends it",
            "m1: weight 50 instead of 100; by root (alice) at 2026-01-02T03:04:05.678Z; `xvip backend weight m1 \
             default` ends it",
            "rebalance (auto): goes on, 70 connections reset, 20 to go; 160 reset in all; the last one, \
             2026-01-01T00:00:00.000Z (by itself), took 9s 100ms and reset 90: balanced",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let admin = status.services[0].backends[0].admin.as_mut().expect("set");
        admin.deadline = Some("2026-01-02T03:09:05.678Z".into());
        assert!(
            render(&status, Look::Plain).contains("those that it has stay until 2026-01-02T03:09:05.678Z;")
        );
    }

    #[test]
    fn connects_on_this_node_are_told_where_there_were_any() {
        let mut status = status();
        assert!(!render(&status, Look::Plain).contains("connects on this node"));
        status.services[0].local_clients =
            LocalClientsStatus { redirected: 7, stale: 2, ..Default::default() };
        let text = render(&status, Look::Plain);
        let line = "connects on this node: 7 redirected, 2 left to the VIP's owner\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn what_a_proxy_still_has_is_told() {
        let mut status = status();
        assert!(!render(&status, Look::Plain).contains("a process on this node"));
        status.services[0].host_connections = 57;
        let text = render(&status, Look::Plain);
        let line = "connections that a process on this node has with clients: 57 (xvip leaves them to it)\n";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn who_only_observes_says_what_it_would_do_before_anything_else() {
        let mut status = status();
        let vip = ObservedVipStatus {
            vip: "172.16.0.10/24".into(),
            vrrp: "main".into(),
            virtual_router_id: 60,
            priority: 100,
            heard: None,
        };
        let heard = ObservedVipStatus {
            heard: status.vrrp[0].active_router.clone(),
            vrrp: "b".into(),
            ..vip.clone()
        };
        status.observing = Some(ObservingStatus { interface: "eth0".into(), vips: vec![vip, heard] });
        status.services[0].backends[1].flows.opened = 36;
        let text = render(&status, Look::Plain);
        let expected = "observing: this node changes nothing; without node.observe it would\n  \
            have 172.16.0.10/24 on eth0 while active in VRRP main (VRID 60, priority 100); no other node is heard to\n  \
            have 172.16.0.10/24 on eth0 while active in VRRP b (VRID 60, priority 100); 172.16.0.2 (priority 100) is heard to\n  \
            forward 172.16.0.10:6443: of 48 new connections seen, m1 25.0 %, m2 75.0 % would have got\n";
        assert!(text.starts_with(expected), "{text}");
    }

    #[test]
    fn amounts_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }

    #[test]
    fn the_answer_of_an_older_daemon_is_understood() {
        let mut value = serde_json::to_value(status()).expect("serializable");
        value.as_object_mut().expect("an object").remove("interfaces");
        let backend = value["services"][0]["backends"][0].as_object_mut().expect("an object");
        for key in ["local", "effective_weight", "max_connections"] {
            backend.remove(key);
        }
        backend["flows"] = serde_json::json!({ "opened": 1, "active": 1 });
        let status: Status = serde_json::from_value(value).expect("all that is new has a default");
        assert!(render(&status, Look::Plain).contains("eth0 (XDP native"));
    }

    #[test]
    fn json_reads_back_as_it_was_written() {
        let status = status();
        let text = serde_json::to_string(&status).expect("serializable");
        assert_eq!(serde_json::from_str::<Status>(&text).expect("its own form"), status);
        assert!(!text.contains("last_reload_error") && text.contains(r#""next_hop":null"#), "{text}");
        assert!(status.owns([172, 16, 0, 10]) && !status.owns([172, 16, 0, 1]));
    }

    #[test]
    fn what_was_said_heard_and_not_used_is_told() {
        let mut vrrp = status().vrrp.remove(0);
        assert_eq!(advertisements(&vrrp), "1 sent, 0 received");
        vrrp.lateness.add(Duration::from_micros(250));
        vrrp.discarded = [("auth".to_owned(), 3), ("ttl".to_owned(), 1)].into();
        (vrrp.address_mismatches, vrrp.send_errors) = (2, 1);
        vrrp.send_error = Some("Network is down".to_owned());
        vrrp.authentication = "password".to_owned();
        assert_eq!(
            advertisements(&vrrp),
            "1 sent (99 % at most 250us late), 0 received; not used: auth 3, ttl 1; used although they differ: \
             other-addresses 2; not sent: 1 (Network is down); authentication password"
        );
    }
}
