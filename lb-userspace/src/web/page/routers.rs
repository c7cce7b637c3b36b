//! Who owns the VIPs, and why.

use maud::{Markup, html};

use super::{Tone, View, ago, badge, query};
use crate::{
    status::{ActiveRouterStatus, TrackStatus, VrrpStatus, WitnessStatus},
    web::{order::What, seen::Seen},
};

/// A card for each VRRP instance.
pub fn section(view: &View<'_>, seen: &Seen) -> Markup {
    let status = &seen.status;
    html! {
        section aria-labelledby="vips" {
            h2 #vips { "Virtual IPs" }
            @if status.vrrp.is_empty() {
                p.quiet { "No VRRP instance is configured: something else brings the packets here." }
            }
            div.cards {
                @for vrrp in &status.vrrp { (card(view, seen, vrrp)) }
            }
        }
    }
}

fn card(view: &View<'_>, seen: &Seen, vrrp: &VrrpStatus) -> Markup {
    let id = format!("vrrp-{}", vrrp.name);
    html! {
        article.card aria-labelledby=(id) {
            h3 #(id) {
                span.vip { (vrrp.vips.join(", ")) }
                span.quiet { " vrrp " (vrrp.name) }
            }
            p.owner data-say=(format!("VRRP {}: {}", vrrp.name, vrrp.state)) {
                (badge(tone(&vrrp.state), &vrrp.state)) " " strong { (owner(vrrp)) }
            }
            p.why { "for " (ago(seen, &vrrp.since)) ": " (vrrp.reason) }
            @if vrrp.released {
                p.note { "Released: it leaves its VIPs to any other node, until somebody takes them back." }
            }
            @if let Some(blocked) = &vrrp.blocked { p.note { "It does not take over: " (blocked) } }
            @for track in &vrrp.tracks { (track_line(seen, track)) }
            @if let Some(witness) = &vrrp.witness { (witness_line(witness)) }
            dl.facts {
                div { dt { "Priority" } dd { (vrrp.priority) } }
                div { dt { "Virtual router" } dd { (vrrp.virtual_router_id) ", version " (vrrp.version) } }
                @if let Some(group) = &vrrp.sync_group { div { dt { "Sync group" } dd { (group) } } }
                @if let Some(mac) = &vrrp.virtual_mac { div { dt { "Virtual MAC" } dd { (mac) } } }
                div { dt { "Adverts" } dd { (vrrp.adverts_sent) " sent, " (vrrp.adverts_received) " received" } }
                @let discarded: u64 = vrrp.discarded.values().sum();
                @if discarded > 0 { div { dt { "Not used" } dd { (reasons(vrrp)) } } }
                @if vrrp.lateness.count > 0 {
                    @let late = std::time::Duration::from_micros(vrrp.lateness.percentile_us(99));
                    div { dt { "Late, 99 %" } dd { (format!("{:.1} ms", late.as_secs_f64() * 1e3)) } }
                }
                @if vrrp.send_errors > 0 {
                    div { dt { "Not sent" } dd { (vrrp.send_errors) " (" (vrrp.send_error.as_deref().unwrap_or("works again")) ")" } }
                }
                div { dt { "Changes of state" } dd { (vrrp.transitions) } }
            }
            @if view.may_act { (buttons(view, vrrp)) }
        }
    }
}

fn buttons(view: &View<'_>, vrrp: &VrrpStatus) -> Markup {
    let link = |what: What, text: &str| {
        let query = query(&[("what", what.word()), ("name", &vrrp.name)]);
        html! {
            a.button href=(format!("{}/order?{query}", view.base)) aria-label=(format!("{text} the VIPs of {}", vrrp.name)) { (text) "…" }
        }
    };
    html! {
        p.actions {
            @if !vrrp.released { (link(What::Release, "Release")) }
            @if vrrp.released || vrrp.state != "active" { (link(What::Acquire, "Acquire")) }
        }
    }
}

fn reasons(vrrp: &VrrpStatus) -> String {
    let reasons = vrrp.discarded.iter().filter(|(_, count)| **count > 0);
    reasons.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
}

fn track_line(seen: &Seen, track: &TrackStatus) -> Markup {
    let tone = match track.state.as_str() {
        "up" => Tone::Good,
        "down" => Tone::Bad,
        _ => Tone::Quiet,
    };
    html! {
        p.note {
            (badge(tone, &track.state)) " " (track.name)
            @if track.weight != 0 { " (weight " (format!("{:+}", track.weight)) ")" }
            " for " (ago(seen, &track.since)) ": " (track.reason)
        }
    }
}

fn witness_line(witness: &WitnessStatus) -> Markup {
    html! {
        p.note {
            @match &witness.problem {
                Some(problem) => { (badge(Tone::Bad, "witness")) " " (problem) ": it does not take over from a silent router" }
                None => { (badge(Tone::Good, "witness")) " " (witness.addresses.join(", ")) " answers" }
            }
        }
    }
}

pub fn tone(state: &str) -> Tone {
    match state {
        "active" => Tone::Good,
        "backup" => Tone::Quiet,
        "fault" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn owner(vrrp: &VrrpStatus) -> String {
    let it = if vrrp.vips.len() == 1 { "it" } else { "them" };
    match (vrrp.state.as_str(), &vrrp.active_router) {
        ("active", _) => format!("this node owns {it}"),
        (_, Some(ActiveRouterStatus { address, priority })) => {
            format!("{address} (priority {priority}) owns {it}")
        }
        (_, None) => "no owner is known".to_owned(),
    }
}
