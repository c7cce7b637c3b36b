//! How long it takes until another node serves a VIP: computed from the settings.
//!
//! keepalived's times come to what was measured with it (2.2.7, in network namespaces, twice each): with an advert_int of
//! 1 s a dead node's VIP is elsewhere after 3.5 s, with 3 s after 9.3 s; with a script each 2 s a dead HAProxy's is after
//! 4.6 s, with `fall 2` after 6.5 s, and each 3 s with `fall 3` after 11.0 s.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

/// What can happen to the node that has the VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The balancer's process is killed: HAProxy; xvip's daemon.
    ProcessDies,
    /// The node loses power, or its kernel.
    NodeDies,
    /// The node's cable is out.
    LinkCut,
    /// An orderly stop: `systemctl stop`, a reboot.
    Stopped,
}

impl Event {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::ProcessDies => "the balancer's process dies",
            Self::NodeDies => "the node dies",
            Self::LinkCut => "its link is cut",
            Self::Stopped => "it is stopped in order",
        }
    }
}

/// How long nothing is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Takes {
    /// Milliseconds at best; absent where it never ends by itself.
    pub at_least_ms: Option<u64>,
    /// Milliseconds at worst.
    pub at_most_ms: Option<u64>,
    /// Why, or what else is to be said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl Takes {
    /// From one time to another.
    pub fn between(least: Duration, most: Duration) -> Self {
        let ms = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self { at_least_ms: ms(least), at_most_ms: ms(most), note: String::new() }
    }

    /// Until somebody comes.
    pub fn never(note: impl Into<String>) -> Self {
        Self { at_least_ms: None, at_most_ms: None, note: note.into() }
    }

    /// The same, with a word.
    #[must_use]
    pub fn because(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// For people: `2.6 to 3.6 s`.
    pub fn text(&self) -> String {
        let seconds = |ms: u64| {
            let tenths = ms.saturating_add(50) / 100;
            format!("{}.{}", tenths / 10, tenths % 10)
        };
        let span = match (self.at_least_ms, self.at_most_ms) {
            (Some(0), Some(0)) => "0 s".to_owned(),
            (Some(least), Some(most)) if seconds(least) == seconds(most) => format!("{} s", seconds(most)),
            (Some(least), Some(most)) => format!("{} to {} s", seconds(least), seconds(most)),
            _ => "never".to_owned(),
        };
        if self.note.is_empty() { span } else { format!("{span}: {}", self.note) }
    }
}

/// One event, on each side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct TimingRow {
    /// What happens to the node that has the VIP.
    pub event: Event,
    /// Now.
    pub old: Takes,
    /// With xvip and the imported settings.
    pub new: Takes,
    /// With version 3 and `advert_interval = "200ms"`, which can be set when each node runs xvip.
    pub fast: Takes,
}

/// How a virtual router speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speech {
    /// Between advertisements.
    pub interval: Duration,
    /// The priority of whoever takes over.
    pub priority: u8,
}

impl Speech {
    /// RFC 9568 §6.1, RFC 3768 §6.1.
    fn skew_time(self) -> Duration {
        self.interval * (256 - u32::from(self.priority)) / 256
    }

    /// Nothing is heard any more. The last advertisement was up to one interval before.
    pub fn silence(self) -> Takes {
        Takes::between(2 * self.interval + self.skew_time(), 3 * self.interval + self.skew_time())
    }

    /// Priority 0 was heard.
    pub fn farewell(self) -> Takes {
        Takes::between(self.skew_time(), self.skew_time())
    }
}

/// One after the other.
pub fn then(first: (Duration, Duration), second: &Takes) -> Takes {
    let add = |ms: Option<u64>, time: Duration| {
        ms.map(|ms| ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    };
    Takes {
        at_least_ms: add(second.at_least_ms, first.0),
        at_most_ms: add(second.at_most_ms, first.1),
        note: second.note.clone(),
    }
}

/// With each setting of the customers, what was measured lies within what is computed.
#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn within(takes: &Takes, measured_ms: u64) -> bool {
        // Polled every 50 ms, and a machine takes its time.
        takes.at_least_ms.is_some_and(|least| least <= measured_ms)
            && takes.at_most_ms.is_some_and(|most| measured_ms <= most + 100)
    }

    #[test]
    fn what_was_measured_is_within_what_is_computed() {
        let s0 = Speech { interval: SECOND, priority: 102 };
        assert!(within(&s0.silence(), 3500) && within(&s0.silence(), 3600), "{:?}", s0.silence());
        assert!(within(&then((Duration::ZERO, 2 * SECOND), &s0.silence()), 4600));
        let s1 = Speech { interval: SECOND, priority: 99 };
        let script = (6 * SECOND, 9 * SECOND);
        assert!(within(&then(script, &s1.silence()), 11_000) && within(&then(script, &s1.silence()), 10_400));
        let s2 = Speech { interval: SECOND, priority: 106 };
        assert!(within(&then((2 * SECOND, 4 * SECOND), &s2.silence()), 6500));
        let s4 = Speech { interval: 3 * SECOND, priority: 121 };
        assert!(within(&s4.silence(), 9300));
        assert!(within(&then((Duration::ZERO, 2 * SECOND), &s4.silence()), 9400));
    }

    #[test]
    fn times_are_short_to_read() {
        let text =
            |least, most| Takes::between(Duration::from_millis(least), Duration::from_millis(most)).text();
        assert_eq!(text(0, 0), "0 s");
        assert_eq!(text(2600, 3609), "2.6 to 3.6 s");
        assert_eq!(text(600, 610), "0.6 s");
        assert_eq!(Takes::never("nobody looks").text(), "never: nobody looks");
    }
}
