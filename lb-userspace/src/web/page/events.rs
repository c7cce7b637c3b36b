//! What has happened lately, the newest first.

use maud::{Markup, html};

use crate::{history::Severity, web::seen::Seen};

/// The last events.
pub fn section(seen: &Seen) -> Markup {
    html! {
        section aria-labelledby="events" {
            h2 #events { "Events" span.unit { " times in UTC" } }
            @if seen.events.is_empty() { p.quiet { "Nothing has happened yet." } }
            // It scrolls, so a keyboard has to be able to get there.
            div.scroll tabindex="0" role="region" aria-labelledby="events" {
                ol.events reversed {
                    @for event in seen.events.iter().rev() {
                        @let at = humantime::format_rfc3339_millis(event.at).to_string();
                        li.(severity(event.severity)) {
                            time datetime=(at) { (clock(&at)) }
                            @match event.severity {
                                Severity::Info => {}
                                Severity::Warn => { span.badge.warn { "warning" } " " }
                                Severity::Error => { span.badge.bad { "error" } " " }
                            }
                            span { (event.to_string()) }
                        }
                    }
                }
            }
        }
    }
}

const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Info => "info",
        Severity::Warn => "warn",
        Severity::Error => "error",
    }
}

/// `2026-01-02T03:04:05.678Z` -> `01-02 03:04:05`.
pub(super) fn clock(rfc3339: &str) -> String {
    match (rfc3339.get(5..10), rfc3339.get(11..19)) {
        (Some(date), Some(time)) => format!("{date} {time}"),
        _ => rfc3339.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_day_and_a_time_are_enough() {
        assert_eq!(super::clock("2026-01-02T03:04:05.678Z"), "01-02 03:04:05");
        assert_eq!(super::clock("soon"), "soon");
    }
}
