//! Whether an interface is there, up, and has a carrier. It need not be one that the data plane knows.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{running::Report, weight::TrackCondition};
use crate::netlink::{Carrier, NetlinkError};

/// It is looked at that often, notifications or not.
const LOOK: Duration = Duration::from_secs(1);
/// What happens within that time is looked at together: a node with many pods makes many links.
const DEBOUNCE: Duration = Duration::from_millis(10);

/// Until the end of the daemon.
pub(super) async fn follow(name: String, report: Report) {
    let mut timer = interval(LOOK);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut carrier: Option<Carrier> = None;
    loop {
        match &mut carrier {
            None => {
                timer.tick().await;
                carrier = Carrier::watch(&name).inspect_err(|error| unknown(&report, error)).ok();
            }
            Some(open) => {
                let connected = tokio::select! {
                    _ = timer.tick() => true,
                    connected = open.changed() => {
                        sleep(DEBOUNCE).await;
                        connected
                    }
                };
                if !connected {
                    carrier = None;
                }
            }
        }
        let Some(open) = &mut carrier else { continue };
        match open.state().await {
            Ok(Ok(())) => report.say(TrackCondition::Up, "up, with a carrier".to_owned()),
            Ok(Err(problem)) => report.say(TrackCondition::Down, problem),
            Err(error) => {
                unknown(&report, &error);
                carrier = None;
            }
        }
    }
}

/// Not to be able to look is no reason for a fault: what was known goes on to hold.
fn unknown(report: &Report, error: &NetlinkError) {
    tracing::warn!("a tracked interface cannot be looked at: {error}");
    if report.known() == TrackCondition::Unknown {
        report.say(TrackCondition::Unknown, format!("cannot be looked at: {error}"));
    }
}
