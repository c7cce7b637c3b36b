//! The node: what is wrong with it, its packets, its peers, and its facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use maud::{Markup, html};

use super::{Tone, View, ago, badge, validity};
use crate::{
    status::{
        Status,
        table::{amount, short},
    },
    sync::status::{PeerStatus, SendingState},
    web::seen::Seen,
};

/// What is wrong, before anything else.
pub fn head(seen: &Seen) -> Markup {
    let status = &seen.status;
    let reload = status.config.last_reload_error.as_ref();
    let count = status.problems.len() + usize::from(reload.is_some());
    let losses = losses(status);
    let said = match count {
        0 if losses.is_empty() => "No problems".to_owned(),
        0 => "No problems of this node".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    html! {
        section.problems.(if count > 0 { "bad" } else if losses.is_empty() { "good" } else { "warn" }) aria-labelledby="problems" data-title=(title(status, count)) {
            h1 #problems data-say=(said) { (badge(if count == 0 { Tone::Good } else { Tone::Bad }, &said)) }
            @for (tone, loss) in &losses { " " (badge(*tone, loss)) }
            @if count > 0 {
                ul {
                    @for problem in &status.problems { li { (problem) } }
                    @if let Some(error) = reload { li { "The last reload changed nothing: " (error) } }
                }
            }
            @if status.observing.is_some() {
                p.note { "Observing: this node changes nothing, and only shows what it would do." }
            }
        }
    }
}

/// What is not the node's fault, and still to be seen at once.
fn losses(status: &Status) -> Vec<(Tone, String)> {
    let mut losses = Vec::new();
    for service in
        status.services.iter().filter(|service| service.usable == 0 && !service.backends.is_empty())
    {
        losses.push((Tone::Bad, format!("{}: no backend", service.name)));
    }
    // One that serves several services is one.
    let backends = status.services.iter().flat_map(|service| &service.backends);
    let down =
        backends.filter(|backend| backend.state == "down").map(|backend| address_alone(&backend.address));
    match down.collect::<BTreeSet<_>>().len() {
        0 => {}
        1 => losses.push((Tone::Warn, "1 backend down".to_owned())),
        count => losses.push((Tone::Warn, format!("{count} backends down"))),
    }
    losses
}

/// Without its port.
fn address_alone(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(address, _)| address)
}

/// What a tab of the browser says.
fn title(status: &Status, problems: usize) -> String {
    let states: Vec<&str> = status.vrrp.iter().map(|vrrp| vrrp.state.as_str()).collect();
    let states = if states.is_empty() { String::new() } else { format!(" {}", states.join(", ")) };
    let problems = if problems == 0 { String::new() } else { format!("({problems}!) ") };
    format!("{problems}{}{states} · xvip", status.node)
}

/// What became of the packets, the most frequent first.
pub fn packets(status: &Status) -> Markup {
    let kinds = [
        ("Transmitted", &status.packets.transmitted),
        ("Dropped", &status.packets.dropped),
        ("Passed to the host", &status.packets.passed),
    ];
    html! {
        section aria-labelledby="packets" {
            h2 #packets { "Packets by reason" }
            div.columns {
                @for (kind, reasons) in kinds {
                    @let known = counted(reasons);
                    table.plain {
                        caption { (kind) }
                        thead.hidden { tr { th scope="col" { "Reason" } th scope="col" { "Packets" } } }
                        tbody {
                            @for (reason, count) in &known { tr { th scope="row" { (reason) } td.number { (count) } } }
                            @if known.is_empty() { tr { td.quiet colspan="2" { "none" } } }
                        }
                    }
                }
            }
        }
    }
}

fn counted(reasons: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    let mut counted: Vec<(&str, u64)> = reasons
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    counted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counted
}

/// How far the nodes know each other's flows.
pub fn peers(status: &Status) -> Markup {
    let Some(sync) = &status.sync else { return Markup::default() };
    html! {
        section aria-labelledby="peers" {
            h2 #peers { "Other nodes" }
            div.cards {
                @for peer in &sync.peers { (peer_card(peer)) }
            }
        }
    }
}

fn peer_card(peer: &PeerStatus) -> Markup {
    let PeerStatus { sending, receiving, .. } = peer;
    let (tone, to) = match sending.state {
        SendingState::Up => (Tone::Good, "has our flows".to_owned()),
        SendingState::Joining => (Tone::Warn, "is getting our flows".to_owned()),
        SendingState::Connecting => (Tone::Warn, "is being called".to_owned()),
        SendingState::Down => (Tone::Bad, "does not get our flows".to_owned()),
    };
    let (from_tone, from) = match (receiving.connected, receiving.complete) {
        (true, true) => (Tone::Good, "we have its flows"),
        (true, false) => (Tone::Warn, "we are getting its flows"),
        (false, _) => (Tone::Bad, "we do not get its flows"),
    };
    let address = peer.address.to_string();
    let name = peer.node.as_deref().unwrap_or(&address);
    html! {
        article.card {
            h3 { (name) span.quiet { " " (peer.address) } }
            p data-say=(format!("{name} {to}")) { (badge(tone, &to)) " " (badge(from_tone, from)) }
            @if let Some(error) = sending.last_error.as_ref().filter(|_| sending.state == SendingState::Down) {
                p.note { (error) }
            }
            dl.facts {
                div { dt { "Lag" } dd { (sending.lag_p50_ms) " ms median, " (sending.lag_max_ms) " ms at most" } }
                div { dt { "Records" } dd { (sending.sent) " sent, " (receiving.received) " received" } }
                @if !peer.holds.is_empty() {
                    @let holds: Vec<String> = peer.holds.iter().map(ToString::to_string).collect();
                    div { dt { "Holds" } dd { (holds.join(", ")) } }
                }
            }
            @if !peer.drift.is_empty() {
                p.note { (badge(Tone::Warn, "differs")) " Its configuration is another: " (peer.drift.join(", ")) }
            }
        }
    }
}

/// What else is known.
pub fn facts(view: &View<'_>, seen: &Seen) -> Markup {
    let status = &seen.status;
    let flows = &status.flows;
    html! {
        section aria-labelledby="node" {
            h2 #node { "Node " (status.node) }
            dl.facts {
                @if view.version { div { dt { "Version" } dd { "xvip " (status.version) } } }
                div { dt { "Up for" } dd { (short(Duration::from_secs(status.uptime_seconds))) } }
                div { dt { "Configuration" } dd { (status.config.path.display()) ", read " (ago(seen, &status.config.loaded_at)) " ago" } }
                @for interface in &status.interfaces {
                    div { dt { "Interface" } dd { (interface.name) ", XDP " (interface.xdp_mode) @if interface.attached_to != interface.name && !interface.attached_to.is_empty() { " at " (interface.attached_to) } } }
                }
                div { dt { "Flows" } dd { (flows.established) " established, " (flows.half_open) " half-open, " (flows.closing) " closing, " (flows.max) " at most" } }
                @if let Some(process) = &status.process {
                    div { dt { "Process" } dd { (short(Duration::from_secs_f64(process.cpu_seconds.clamp(0.0, 1e12)))) " of CPU, " (amount(process.resident_bytes)) " in RAM, " (process.open_files) " open files" } }
                }
                @if let Some(end) = status.http.as_ref().and_then(|http| http.certificate_not_after.as_ref()) {
                    div { dt { "This page" } dd { (validity(seen, end)) } }
                }
                @if let Some(log) = &status.connection_log {
                    div { dt { "Connection log" } dd { (log.starts) " starts and " (log.ends) " ends written, " (log.lost) " lost" } }
                }
                @for hook in &status.hooks {
                    div { dt { "Hook " (hook.name) } dd { (hook.told) " told, " (hook.failed) " failed, " (hook.dropped) " dropped" } }
                }
            }
            p.quiet.small {
                "For programs: " a href=(format!("{};csv", view.page())) { "HAProxy's CSV" } ", " a href="/metrics" { "metrics" } "."
            }
        }
    }
}
