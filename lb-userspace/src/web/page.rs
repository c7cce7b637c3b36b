//! The page. Pure: what was seen goes in, HTML comes out. maud escapes every text; nothing here goes around that.

mod backends;
mod drawing;
mod events;
mod node;
mod order;
mod routers;
#[cfg(test)]
mod tests;

use std::time::{Duration, SystemTime};

use maud::{DOCTYPE, Markup, html};

use super::{order::Subject, samples::Samples, seen::Seen, sessions::Message};
use crate::{config::model::Role, control::protocol::RebalanceAnswer, status::table::short};

/// For whom a page is.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What stands before the paths of everything that belongs to the page: empty, or like `/stats`.
    pub base: &'a str,
    /// Who looks, if that is known.
    pub user: Option<(&'a str, Role)>,
    /// What each form says, in a session.
    pub token: Option<&'a str>,
    /// Whether they may change something.
    pub may_act: bool,
    /// Whether there is anybody who could log in.
    pub users: bool,
    /// Whether they may know xvip's version.
    pub version: bool,
}

impl<'a> View<'a> {
    /// The path of the page itself.
    pub fn page(&self) -> &'a str {
        if self.base.is_empty() { "/" } else { self.base }
    }
}

/// The page with everything on it.
pub fn overview(view: &View<'_>, seen: &Seen, samples: &Samples, message: Option<&Message>) -> String {
    let node = &seen.status.node;
    let body = html! {
        @if let Some(message) = message {
            div.message.bad[message.is_error] role="status" {
                h2.hidden { @if message.is_error { "That was not done" } @else { "Done" } }
                @for line in &message.lines { p { (line) } }
            }
        }
        // What has changed is said here, for who does not see it.
        p #said .hidden role="status" aria-live="polite" {}
        p #stale .message.bad hidden { "xvip does not answer. What is shown below was so " span #stale-for {} " ago." }
        main #live data-live=(format!("{}/live", view.base)) { (live(view, seen, samples)) }
    };
    document(view, node, true, &body)
}

/// What of it changes: the script asks for it each second.
pub fn live(view: &View<'_>, seen: &Seen, samples: &Samples) -> Markup {
    let status = &seen.status;
    html! {
        (node::head(seen))
        (routers::section(view, seen))
        @for (number, service) in status.services.iter().enumerate() {
            (backends::section(view, seen, service, number, samples))
        }
        (events::section(seen))
        (node::packets(status))
        (node::peers(status))
        (node::facts(view, seen))
    }
}

/// The form to log in with, and what was wrong with the last attempt.
pub fn login(view: &View<'_>, error: Option<&str>) -> String {
    let body = html! {
        main.narrow {
            h1 { "Log in" }
            @if let Some(error) = error { p.message.bad role="alert" { (error) } }
            @if view.users {
                form method="post" action=(format!("{}/login", view.base)) {
                    label for="name" { "Name" }
                    input #name name="name" type="text" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus;
                    label for="password" { "Password" }
                    input #password name="password" type="password" autocomplete="current-password" required;
                    button type="submit" { "Log in" }
                }
            } @else {
                p { "Nobody can log in: the configuration has no " code { "[[http.user]]" } "." }
            }
        }
    };
    // Nobody needs the way to where they are.
    page_for(view, "Log in", false, &body, &Markup::default())
}

/// What an admin is about to do, and the form that does it.
pub fn confirm(view: &View<'_>, subject: &Subject, seen: &Seen, plan: &RebalanceAnswer) -> String {
    let title = order::title(subject);
    let body = html! { main.narrow { (order::form(view, subject, seen, plan)) } };
    document(view, &title, false, &body)
}

/// Why something cannot be had.
pub fn refused(view: &View<'_>, why: &str) -> String {
    let body = html! {
        main.narrow {
            h1 { "That cannot be done" }
            p.message.bad role="alert" { (why) }
            p { a href=(view.page()) { "Back to the page" } }
        }
    };
    document(view, "That cannot be done", false, &body)
}

fn document(view: &View<'_>, title: &str, follows: bool, body: &Markup) -> String {
    page_for(view, title, follows, body, &account(view))
}

fn page_for(view: &View<'_>, title: &str, follows: bool, body: &Markup, account: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) " · xvip" }
                link rel="icon" href=(format!("{}/icon.svg", view.base)) type="image/svg+xml";
                link rel="stylesheet" href=(format!("{}/style.css", view.base));
                @if follows {
                    noscript { meta http-equiv="refresh" content="10"; }
                    script src=(format!("{}/script.js", view.base)) defer {}
                }
            }
            body {
                a.skip href="#live" { "Skip to the state" }
                header.top {
                    a.brand href=(view.page()) { "xvip" }
                    @if follows { span.node { (title) } }
                    span.space {}
                    (account)
                }
                (body)
            }
        }
    };
    page.into_string()
}

fn account(view: &View<'_>) -> Markup {
    html! {
        @match (view.user, view.token) {
            (Some((name, role)), Some(token)) => {
                form.inline method="post" action=(format!("{}/logout", view.base)) {
                    input type="hidden" name="token" value=(token);
                    span.who { (name) span.quiet { " (" (role.as_str()) ")" } }
                    button.plain type="submit" { "Log out" }
                }
            }
            (Some((name, role)), None) => span.who { (name) span.quiet { " (" (role.as_str()) ")" } },
            (None, _) if view.users => a.button href=(format!("{}/login", view.base)) { "Log in" },
            (None, _) => {}
        }
    }
}

/// A time of the status as what lies between it and now, `5m 3s`; as it is, where it is none.
fn ago(seen: &Seen, time: &str) -> Markup {
    let since = humantime::parse_rfc3339(time).ok().and_then(|time| since(seen.at, time));
    html! { time datetime=(time) title=(time) { @if let Some(since) = since { (short(since)) } @else { (time) } } }
}

/// A time of the status as people read it, `01-02 03:04:05 UTC`; as it is, where it is none.
fn moment(time: &str) -> Markup {
    html! { time datetime=(time) title=(time) { (events::clock(time)) @if humantime::parse_rfc3339(time).is_ok() { " UTC" } } }
}

/// A certificate that ends sooner is worth a warning.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// For how long a certificate is valid.
fn validity(seen: &Seen, end: &str) -> Markup {
    let left = humantime::parse_rfc3339(end).ok().map(|end| end.duration_since(seen.at).unwrap_or_default());
    html! {
        @match left {
            None => { "certificate until " (end) }
            Some(Duration::ZERO) => (badge(Tone::Bad, "certificate has ended")),
            Some(left) if left < SOON => (badge(Tone::Warn, &format!("certificate ends in {}", short(left)))),
            Some(_) => { "certificate until " time datetime=(end) title=(end) { (end.get(..10).unwrap_or(end)) } }
        }
    }
}

fn since(now: SystemTime, time: SystemTime) -> Option<Duration> {
    // Clocks may step back.
    Some(now.duration_since(time).unwrap_or_default())
}

/// How something is, in the form that does not need colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Good,
    Warn,
    Bad,
    Quiet,
}

impl Tone {
    const fn class(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warn => "warn",
            Self::Bad => "bad",
            Self::Quiet => "quiet",
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Warn => "◐",
            Self::Bad => "▼",
            Self::Quiet => "○",
        }
    }
}

/// A word on its tone.
fn badge(tone: Tone, word: &str) -> Markup {
    html! { span.badge.(tone.class()) { span.sign aria-hidden="true" { (tone.sign()) } " " (word) } }
}

/// An IPv6 address in brackets.
fn at_port(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// A share in percent.
fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// Encodes a text for the query of a link.
fn query(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
