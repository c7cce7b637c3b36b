//! A service and its backends.

use maud::{Markup, html};

use super::{Tone, View, ago, at_port, badge, drawing, moment, percent, query, validity};
use crate::{
    status::{BackendStatus, RebalanceStatus, ServiceStatus, table::amount},
    web::{order::What, samples::Samples, seen::Seen},
};

/// The service, its backends, and what was done about them.
pub fn section(
    view: &View<'_>,
    seen: &Seen,
    service: &ServiceStatus,
    number: usize,
    samples: &Samples,
) -> Markup {
    let id = format!("service-{number}");
    let active: u64 = service.backends.iter().map(|backend| backend.flows.active).sum();
    let all = service.backends.len();
    let (tone, usable) = match service.usable as usize {
        0 => (Tone::Bad, "no backend usable: new connections get a RST".to_owned()),
        usable if usable < all => (Tone::Warn, format!("{usable} of {all} backends usable")),
        usable => (Tone::Good, format!("{usable} of {all} backends usable")),
    };
    html! {
        section aria-labelledby=(id) {
            div.heading {
                h2 #(id) { "Service " (service.name) }
                span.vip { (at_port(&service.vip, service.port)) }
                span data-say=(format!("Service {}: {usable}", service.name)) { (badge(tone, &usable)) }
                span.quiet { (service.mode) ", " (service.balance) }
            }
            table.backends role="table" {
                caption.hidden { "Backends of " (service.name) }
                thead role="rowgroup" {
                    tr role="row" {
                        @for title in ["Backend", "State", "Connections", "Share", "Last 5 minutes", "Weight", "Traffic"] {
                            th scope="col" role="columnheader" { (title) }
                        }
                        @if view.may_act { th scope="col" role="columnheader" { "Orders" } }
                    }
                }
                tbody role="rowgroup" {
                    @for backend in &service.backends {
                        (row(view, seen, service, backend, active, samples))
                    }
                }
            }
            @for backend in &service.backends { (orders(seen, backend)) }
            (rebalance(view, seen, service))
            @if service.host_connections > 0 {
                p.note { "A process on this node has " (service.host_connections) " connections with clients; xvip leaves them to it." }
            }
            @let local = service.local_clients;
            @if local.redirected + local.no_backend + local.stale + local.other_namespace > 0 {
                p.note {
                    "Connects on this node: " (local.redirected) " redirected, " (local.no_backend) " without a backend, "
                    (local.stale) " left to the VIP's owner, " (local.other_namespace) " from other network namespaces."
                }
            }
        }
    }
}

fn row(
    view: &View<'_>,
    seen: &Seen,
    service: &ServiceStatus,
    backend: &BackendStatus,
    all_active: u64,
    samples: &Samples,
) -> Markup {
    let flows = &backend.flows;
    let taken = samples.of(&service.name, &backend.name);
    let (tone, state) = state(backend);
    let of_connections = flows.active as f64 / all_active.max(1) as f64;
    html! {
        tr role="row" {
            th.name scope="row" role="rowheader" {
                span.backend { (backend.name) }
                span.address { (backend.address) @if backend.local { " (this node)" } }
            }
            td role="cell" data-title="State" {
                div data-say=(format!("{} of {}: {state}", backend.name, service.name)) { (badge(tone, &state)) }
                div.why { "for " (ago(seen, &backend.since)) ": " (backend.reason) }
                @if backend.checks.count > 0 {
                    div.why { "last check took " (milliseconds(backend.checks.last_us)) }
                }
                @if let Some(end) = &backend.certificate_not_after {
                    div.why { (validity(seen, end)) }
                }
            }
            td.number role="cell" data-title="Connections" {
                span.big { (flows.active) }
                @if backend.max_connections > 0 { span.quiet { " of " (backend.max_connections) } }
                div.quiet { (backend.pace.rate) " new/s" }
                @if flows.half_open > 0 { div.quiet { (flows.half_open) " half-open" } }
            }
            td role="cell" data-title="Share" {
                (drawing::share(of_connections, backend.share))
                div.quiet { (percent(of_connections)) ", fair " (percent(backend.share)) }
            }
            td.drawings role="cell" data-title="Last 5 minutes" {
                (drawing::connections(&taken))
                (drawing::health(&taken))
                @if let Some(most) = taken.iter().map(|sample| sample.active).max() {
                    div.quiet aria-hidden="true" { "at most " (most) }
                }
            }
            td.number role="cell" data-title="Weight" { (weight(backend)) }
            td role="cell" data-title="Traffic" {
                div.traffic.quiet {
                    span { (amount(flows.bytes_in)) " in" } " " span { (amount(flows.bytes_out)) " out" } " "
                    span { (flows.opened) " opened" } " " span { (flows.reset) " reset" }
                }
            }
            @if view.may_act {
                td.actions role="cell" data-title="Orders" { (links(view, service, backend)) }
            }
        }
    }
}

/// Microseconds as people read them.
fn milliseconds(us: u64) -> String {
    let ms = us as f64 / 1e3;
    if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

fn links(view: &View<'_>, service: &ServiceStatus, backend: &BackendStatus) -> Markup {
    let link = |what: What, text: &str| {
        let query = query(&[("what", what.word()), ("service", &service.name), ("name", &backend.name)]);
        let label = format!("{text} {} of {}", backend.name, service.name);
        html! { a.button href=(format!("{}/order?{query}", view.base)) aria-label=(label) { (text) "…" } }
    };
    let state = backend.admin.as_ref().map(|admin| admin.state.as_str());
    html! {
        @match state {
            None => { (link(What::Drain, "Drain")) " " (link(What::Disable, "Disable")) }
            Some("drain") => { (link(What::Enable, "Enable")) " " (link(What::Disable, "Disable")) }
            Some(_) => (link(What::Enable, "Enable")),
        }
        " " (link(What::Weight, "Weight"))
    }
}

/// What there is to say of a backend at a glance.
fn state(backend: &BackendStatus) -> (Tone, String) {
    let state = match &backend.down {
        Some(kind) => format!("{} ({kind})", backend.state),
        None => backend.state.clone(),
    };
    let tone = match backend.state.as_str() {
        "down" => Tone::Bad,
        "up" if backend.admin.is_none() => Tone::Good,
        "up" => Tone::Warn,
        _ => Tone::Quiet,
    };
    match backend.admin.as_ref().map(|admin| admin.state.as_str()) {
        Some("drain") => (tone, format!("{state}, draining")),
        Some(other) => (tone, format!("{state}, {other}")),
        None => (tone, state),
    }
}

fn weight(backend: &BackendStatus) -> String {
    let told = backend.weight_override.as_ref().map_or(backend.weight, |other| other.weight);
    if backend.effective_weight == told {
        told.to_string()
    } else {
        format!("{} of {told}", backend.effective_weight)
    }
}

/// What operators have said about a backend.
fn orders(seen: &Seen, backend: &BackendStatus) -> Markup {
    html! {
        @if let Some(admin) = &backend.admin {
            p.note {
                strong { (backend.name) }
                @match (admin.state.as_str(), &admin.deadline) {
                    ("drain", None) => " is drained: no new connections; those that it has stay.",
                    ("drain", Some(deadline)) => { " is drained: no new connections; those that it has stay until " (moment(deadline)) "." }
                    _ => " is disabled: it gets no connections.",
                }
                " By " (admin.by) ", " (ago(seen, &admin.at)) " ago."
            }
        }
        @if let Some(other) = &backend.weight_override {
            p.note {
                strong { (backend.name) } " has weight " (other.weight) " instead of " (backend.weight) ". By " (other.by) ", "
                (ago(seen, &other.at)) " ago."
            }
        }
    }
}

fn rebalance(view: &View<'_>, seen: &Seen, service: &ServiceStatus) -> Markup {
    let Some(RebalanceStatus { mode, running, left, done, resets, last }) = &service.rebalance else {
        return Markup::default();
    };
    let query = query(&[("what", What::Rebalance.word()), ("service", &service.name)]);
    html! {
        p.note {
            "Rebalance (" (mode) "): "
            @if *running { "goes on, " (done) " connections reset, " (left) " to go; " }
            (resets) " reset in all."
            @if let Some(last) = last {
                " The last one began " (ago(seen, &last.began)) " ago and reset " (last.resets) ": " (last.outcome) "."
            }
            @if view.may_act {
                " " a.button href=(format!("{}/order?{query}", view.base)) aria-label=(format!("Rebalance {}", service.name)) { "Rebalance…" }
            }
        }
    }
}
