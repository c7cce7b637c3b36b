//! One thing that is tracked, at work: a task, and the newest state.

use std::{sync::Arc, time::SystemTime};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};
use tracing::debug;

use super::{
    interface,
    script::Script,
    weight::{TrackCondition, TrackState, subject},
};
use crate::config::model::Tracked;

/// A running track; ends when dropped.
#[derive(Debug)]
pub struct RunningTrack {
    state: watch::Receiver<TrackState>,
    task: JoinHandle<()>,
}

impl RunningTrack {
    /// Begins to look; needs a Tokio runtime. `instance` is told to scripts. What is `known` already holds until results
    /// say otherwise. Each change wakes `changed`.
    pub fn spawn(what: &Tracked, instance: &str, known: TrackState, changed: Arc<Notify>) -> Self {
        let (sender, state) = watch::channel(known);
        let report = Report { subject: subject(what), instance: instance.to_owned(), sender, changed };
        let task = match what {
            Tracked::Interface { interface } => tokio::spawn(interface::follow(interface.clone(), report)),
            Tracked::Script { command, user, interval, timeout, rise, fall } => {
                let script = Script {
                    command: command.clone(),
                    user: user.clone(),
                    interval: *interval,
                    timeout: *timeout,
                    rise: *rise,
                    fall: *fall,
                    instance: instance.to_owned(),
                };
                tokio::spawn(script.run(report))
            }
        };
        Self { state, task }
    }

    /// What is known now.
    pub fn state(&self) -> TrackState {
        self.state.borrow().clone()
    }

    /// Ends it; a script that is running is killed when this returns.
    pub async fn stop(mut self) {
        self.task.abort();
        // It was told to.
        let _ended = (&mut self.task).await;
    }
}

impl Drop for RunningTrack {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where a task says what it has found.
#[derive(Debug)]
pub struct Report {
    subject: String,
    instance: String,
    sender: watch::Sender<TrackState>,
    changed: Arc<Notify>,
}

impl Report {
    /// What is known so far.
    pub fn known(&self) -> TrackCondition {
        self.sender.borrow().condition
    }

    /// The newest state; wakes whoever waits where that is another one.
    pub fn say(&self, condition: TrackCondition, reason: String) {
        let before = self.sender.borrow().clone();
        if before.condition == condition && before.reason == reason {
            return;
        }
        let since = if before.condition == condition { before.since } else { SystemTime::now() };
        debug!(vrrp = self.instance, track = self.subject, ?condition, reason, "tracked");
        self.sender.send_replace(TrackState { condition, since, reason });
        self.changed.notify_one();
    }
}
