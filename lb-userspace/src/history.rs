//! What has happened, and why: the events behind the log, `xvip explain` and the hooks.
//!
//! ```text
//! VRRP's threads, checks, controller -> Teller -> log line, at once
//!                                             \-> Chronicle (memory)   -> GET /v1/history -> xvip explain
//!                                             \-> history.jsonl (disk) -> the next daemon; xvip explain without one
//!                                             \-> hooks                -> programs, URLs
//! ```
//!
//! Whoever sees a change tells it, with the time of the change; nobody logs it besides.

pub mod event;
pub mod explain;
pub mod file;
pub mod teller;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::{
    event::{Event, Kind, Severity},
    teller::Teller,
};

/// So many events are kept of all together.
pub const KEPT: usize = 4096;
/// So many of each subject, so that one that changes all the time does not push out what is known of the others.
pub const KEPT_OF_EACH: usize = 256;
/// So many subjects have events of their own; beyond that, those that were silent for longest are forgotten.
const SUBJECTS: usize = 1024;

/// What the daemon answers when it is asked for its history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct History {
    /// In the order in which they happened.
    pub events: Vec<Event>,
}

/// The events of the recent past, bounded. Pure.
#[derive(Debug, Default)]
pub struct Chronicle {
    /// The number of the next event.
    next: u64,
    all: VecDeque<(u64, Arc<Event>)>,
    by_subject: BTreeMap<String, VecDeque<(u64, Arc<Event>)>>,
}

impl Chronicle {
    /// Adds one that has just happened.
    pub fn add(&mut self, event: Event) {
        let subject = event.subject();
        if !self.by_subject.contains_key(&subject) && self.by_subject.len() >= SUBJECTS {
            let newest = |events: &VecDeque<(u64, Arc<Event>)>| events.back().map(|(number, _)| *number);
            let oldest = self.by_subject.iter().min_by_key(|(_, events)| newest(events));
            if let Some(subject) = oldest.map(|(subject, _)| subject.clone()) {
                self.by_subject.remove(&subject);
            }
        }
        let numbered = (self.next, Arc::new(event));
        self.next += 1;
        let own = self.by_subject.entry(subject).or_default();
        for (events, kept) in [(own, KEPT_OF_EACH), (&mut self.all, KEPT)] {
            events.push_back(numbered.clone());
            if events.len() > kept {
                events.pop_front();
            }
        }
    }

    /// The last `limit` events, in order; with a name, of those that [concern](Event::concerns) it.
    pub fn find(&self, name: Option<&str>, limit: usize) -> Vec<Event> {
        let kept = self.by_subject.values().flatten().chain(&self.all);
        let found: BTreeMap<u64, &Arc<Event>> = kept
            .filter(|(_, event)| name.is_none_or(|name| event.concerns(name)))
            .map(|(number, event)| (*number, event))
            .collect();
        let skipped = found.len().saturating_sub(limit);
        found.into_values().skip(skipped).map(|event| Event::clone(event)).collect()
    }
}

#[cfg(test)]
mod tests;
