//! What is wrong at the moment, each from one source that also takes it back; each change of it is an event.

use std::{
    ops::Deref,
    time::{Duration, Instant, SystemTime},
};

use crate::history::{Event, Kind, Severity, Teller};

/// A problem that there may be.
#[derive(Debug)]
pub(super) struct Slot {
    text: Option<String>,
    /// When it began.
    since: Instant,
    node: String,
    teller: Teller,
}

impl Deref for Slot {
    type Target = Option<String>;

    fn deref(&self) -> &Option<String> {
        &self.text
    }
}

impl Slot {
    fn new(teller: &Teller, node: &str) -> Self {
        Self { text: None, since: Instant::now(), node: node.to_owned(), teller: teller.clone() }
    }
}

/// What is wrong.
#[derive(Debug)]
pub(super) struct Problems {
    pub(super) interface: Slot,
    pub(super) link: Slot,
    pub(super) dataplane: Slot,
    pub(super) maps: Slot,
    pub(super) reconcile: Slot,
    pub(super) heartbeat: Slot,
    /// What of the configuration cannot be had here.
    pub(super) services: Slot,
    /// Why clients on this node are not sent to a backend.
    pub(super) local_clients: Slot,
    /// Why this node does not have the flows of the others yet.
    pub(super) flows: Slot,
    /// Why flows are not reset, or their clients not told.
    pub(super) resets: Slot,
    /// Why the flows of backends that seem to be dead are not.
    pub(super) doubt: Slot,
    /// Why nobody can see the web page.
    pub(super) web: Slot,
    /// Why nobody listens where HAProxy did.
    pub(super) stats_socket: Slot,
}

impl Problems {
    /// None, and whom to tell of any.
    pub(super) fn new(teller: &Teller, node: &str) -> Self {
        let slot = || Slot::new(teller, node);
        Self {
            interface: slot(),
            link: slot(),
            dataplane: slot(),
            maps: slot(),
            reconcile: slot(),
            heartbeat: slot(),
            services: slot(),
            local_clients: slot(),
            flows: slot(),
            resets: slot(),
            doubt: slot(),
            web: slot(),
            stats_socket: slot(),
        }
    }

    /// What VRRP tracks: whether this node could forward anything if it had the VIP.
    pub(super) fn tracked(&self) -> Result<(), String> {
        let tracked = [&self.interface, &self.link, &self.dataplane, &self.maps, &self.flows];
        match tracked.into_iter().find_map(|slot| slot.text.as_ref()) {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }
}

/// Notes or takes back a problem, and tells it where that changes something.
pub(super) fn set_problem(slot: &mut Slot, now: Option<String>) {
    if slot.text == now {
        return;
    }
    let (at, lasted) = (SystemTime::now(), slot.since.elapsed());
    if slot.text.is_none() {
        slot.since = Instant::now();
    }
    let before = std::mem::replace(&mut slot.text, now);
    if let Some(event) = change(&slot.node, before.as_deref(), slot.text.as_deref(), lasted, at) {
        slot.teller.tell(event);
    }
}

/// What there is to tell where a problem of `name` was one thing, for so long, and is another now. `None` where there neither
/// was nor is any.
pub(super) fn change(
    name: &str,
    before: Option<&str>,
    now: Option<&str>,
    lasted: Duration,
    at: SystemTime,
) -> Option<Event> {
    let event = Event::new(Kind::Problem, name, at);
    Some(match (before, now) {
        (None, Some(problem)) => event.became("begins").because(problem).grave(Severity::Error),
        (Some(_), Some(problem)) => event.became("changes").because(problem).grave(Severity::Error),
        (Some(problem), None) => event.became("ends").because(problem).after(lasted),
        (None, None) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_begins_changes_and_ends() {
        let teller = Teller::default();
        let mut problems = Problems::new(&teller, "lb1");
        assert_eq!(problems.tracked(), Ok(()));
        set_problem(&mut problems.link, None);
        for text in ["no carrier", "no carrier", "down"] {
            set_problem(&mut problems.link, Some(text.into()));
            assert_eq!(problems.tracked(), Err(text.to_owned()));
        }
        set_problem(&mut problems.doubt, Some("cut off".into()));
        set_problem(&mut problems.link, None);
        assert_eq!((problems.link.as_deref(), problems.tracked()), (None, Ok(())), "doubt is not tracked");
        let told: Vec<String> = teller
            .find(Some("lb1"), 99)
            .iter()
            .map(|event| {
                format!(
                    "{} {}",
                    event.to.clone().unwrap_or_default(),
                    event.reason.clone().unwrap_or_default()
                )
            })
            .collect();
        assert_eq!(told, ["begins no carrier", "changes down", "begins cut off", "ends down"]);
        assert!(teller.find(None, 1)[0].lasted_ms.is_some());
    }
}
