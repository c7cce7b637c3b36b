//! What an admin is about to do, in words, and the form that does it.

use maud::{Markup, html};

use super::{View, percent};
use crate::{
    control::protocol::{RebalanceAnswer, RebalancePlan},
    status::BackendStatus,
    web::{
        order::{Subject, What},
        seen::Seen,
    },
};

/// In a few words.
pub fn title(subject: &Subject) -> String {
    let Subject { what, service, name } = subject;
    match what {
        What::Drain => format!("Drain {name}"),
        What::Disable => format!("Disable {name}"),
        What::Enable => format!("Enable {name}"),
        What::Weight => format!("Weight of {name}"),
        What::Release => format!("Release the VIPs of {name}"),
        What::Acquire => format!("Acquire the VIPs of {name}"),
        What::Rebalance => format!("Rebalance {service}"),
    }
}

/// The form, with what it means.
pub fn form(view: &View<'_>, subject: &Subject, seen: &Seen, plan: &RebalanceAnswer) -> Markup {
    let Subject { what, service, name } = subject;
    let button = match what {
        What::Weight => "Set the weight".to_owned(),
        What::Release | What::Acquire => {
            format!("{} now", if *what == What::Release { "Release" } else { "Acquire" })
        }
        _ => title(subject),
    };
    let is_harsh = matches!(what, What::Disable | What::Release | What::Rebalance);
    let may_begin = *what != What::Rebalance
        || (plan.error.is_none() && plan.plans.iter().any(|plan| plan.resets > 0 && plan.note.is_none()));
    html! {
        h1 { (title(subject)) }
        (meaning(subject, seen))
        @if *what == What::Rebalance { (planned(plan)) }
        form method="post" action=(format!("{}/order", view.base)) {
            input type="hidden" name="token" value=(view.token.unwrap_or_default());
            input type="hidden" name="what" value=(what.word());
            @if !service.is_empty() { input type="hidden" name="service" value=(service); }
            @if !name.is_empty() { input type="hidden" name="name" value=(name); }
            @match what {
                What::Drain => {
                    label for="deadline" { "Reset what is left after" }
                    input #deadline name="deadline" type="text" placeholder="never" autocomplete="off" aria-describedby="deadline-hint";
                    p #deadline-hint .quiet { "Like 10m or 90s; empty: the connections stay until they end." }
                }
                What::Weight => {
                    @let backend = find(subject, seen);
                    label for="weight" { "Weight, 0 to 256" }
                    input #weight name="weight" type="number" min="0" max="256" value=[backend.map(told_weight)] aria-describedby="weight-hint";
                    p #weight-hint .quiet {
                        "Empty: that of the configuration" @if let Some(backend) = backend { ", " (backend.weight) } ". With 0 it gets no new connections."
                    }
                }
                _ => {}
            }
            p.actions {
                @if may_begin { button.harsh[is_harsh] type="submit" { (button) } " " }
                a.button href=(view.page()) { @if may_begin { "Cancel" } @else { "Back" } }
            }
        }
    }
}

fn find<'s>(subject: &Subject, seen: &'s Seen) -> Option<&'s BackendStatus> {
    let service = seen.status.services.iter().find(|service| service.name == subject.service)?;
    service.backends.iter().find(|backend| backend.name == subject.name)
}

fn told_weight(backend: &BackendStatus) -> u16 {
    backend.weight_override.as_ref().map_or(backend.weight, |other| other.weight)
}

/// What will become of it.
fn meaning(subject: &Subject, seen: &Seen) -> Markup {
    let Subject { what, service, name } = subject;
    let active = find(subject, seen).map_or(0, |backend| backend.flows.active);
    let others = seen.status.services.iter().find(|known| known.name == *service).map_or(0, |known| {
        known.backends.iter().filter(|other| other.name != *name && other.share > 0.0).count()
    });
    html! {
        @match what {
            What::Drain => p { (name) " of " (service) " gets no new connections. The " (active) " that it has stay." },
            What::Disable => p { (name) " of " (service) " gets no new connections, and the " (active) " that it has are reset at once." },
            What::Enable => p { (name) " of " (service) " gets new connections again while it is up." },
            What::Weight => p { "Of new connections, " (name) " of " (service) " gets its share by weight. Now it gets " (find(subject, seen).map_or_else(String::new, |backend| percent(backend.share))) "." },
            What::Release => p { "This node hands the VIPs of " (name) " to another one, and takes them back only when it is told to. Connections go on." },
            What::Acquire => p { "This node takes the VIPs of " (name) " from any node that it outranks. Connections go on." },
            What::Rebalance => p { "Connections above a backend's fair share of " (service) " are reset, so that their clients connect again elsewhere." },
        }
        @if matches!(what, What::Drain | What::Disable) && others == 0 {
            p.message.bad { "No other backend of " (service) " gets new connections: clients will be refused." }
        }
    }
}

fn planned(plan: &RebalanceAnswer) -> Markup {
    html! {
        @if let Some(error) = &plan.error { p.message.bad { (error) } }
        @for RebalancePlan { service, margin, rate, resets, note, backends, .. } in &plan.plans {
            table.plain {
                caption { (service) ": " (resets) " connections to reset, " (rate) " each second at most, tolerance " (margin) " %" }
                thead { tr { @for title in ["Backend", "Has", "Fair", "Resets", "After"] { th scope="col" { (title) } } } }
                tbody {
                    @for backend in backends {
                        tr {
                            th scope="row" { (backend.name) @if let Some(why) = &backend.left_out { span.quiet { " (" (why) ")" } } }
                            td.number { (backend.active) } td.number { (backend.fair) }
                            td.number { (backend.resets) } td.number { (backend.after) }
                        }
                    }
                }
            }
            @if let Some(note) = note { p.note { (note) } }
        }
    }
}
