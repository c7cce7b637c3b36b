//! `xvip vip`: hands the VIPs over to another node, and takes them back.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::sleep;

use super::{
    command::{EXIT_USAGE, SocketArgs, block_on, failed},
    schema,
};
use crate::{
    control::{
        client,
        protocol::{VipAction, VipAnswer},
    },
    status::VrrpStatus,
};

/// What has become of it is asked that often.
const ASK: Duration = Duration::from_millis(10);

/// The arguments of `xvip vip`.
#[derive(Clone, Debug, clap::Args)]
pub struct VipArgs {
    #[command(subcommand)]
    command: VipCommand,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum VipCommand {
    /// Hand the VIP over to another node, and leave it there as long as there is one
    Release(WhichArgs),
    /// End a release, and take the VIP from nodes of lower priority
    Acquire(WhichArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct WhichArgs {
    /// A VRRP instance, a service or a VIP; not needed where there is only one instance or sync group
    name: Option<String>,
    /// Print one JSON object, whose form is stable
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Answer>)]
    json_schema: bool,
    /// Where the daemon listens
    #[command(flatten)]
    socket: SocketArgs,
}

/// Asks for it and says what became of it. Exits with 1 if the VIP is not where it should be now, with 2 if the name means
/// nothing.
pub fn run(args: &VipArgs) -> ExitCode {
    let (action, which) = match &args.command {
        VipCommand::Release(which) => (VipAction::Release, which),
        VipCommand::Acquire(which) => (VipAction::Acquire, which),
    };
    match block_on(carry_out(action, which.name.as_deref(), &which.socket.socket)) {
        Ok(Ok(outcomes)) => {
            let all_well = outcomes.iter().all(|(_, outcome)| outcome.well);
            if which.json {
                let told = outcomes.into_iter().map(|(instance, Outcome { well, text })| Told {
                    instance,
                    well,
                    text,
                });
                print_json(&Answer { instances: told.collect(), error: None });
                return if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            }
            for (name, outcome) in &outcomes {
                let prefix = if outcomes.len() > 1 { format!("{name}: ") } else { String::new() };
                println!("{prefix}{}", outcome.text);
            }
            if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(Err(wrong_name)) => {
            if which.json {
                print_json(&Answer { instances: Vec::new(), error: Some(wrong_name.clone()) });
            }
            eprintln!("error: {wrong_name}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => failed(&error),
    }
}

fn print_json(answer: &Answer) {
    println!("{}", serde_json::to_string_pretty(answer).unwrap_or_default());
}

/// What became of each instance, or what is wrong with the name.
async fn carry_out(
    action: VipAction,
    name: Option<&str>,
    socket: &Path,
) -> anyhow::Result<Result<Vec<(String, Outcome)>, String>> {
    let before = client::vrrp(socket).await?;
    let begin = Instant::now();
    let VipAnswer { instances, patience_ms, error } = client::vip(socket, action, name).await?;
    if let Some(error) = error {
        return Ok(Err(error));
    }
    loop {
        let now = client::vrrp(socket).await?;
        let took = begin.elapsed();
        let over = took >= Duration::from_millis(patience_ms);
        let outcome = |name: &String| {
            let find = |all: &[VrrpStatus]| all.iter().find(|vrrp| vrrp.name == *name).cloned();
            match (find(&before), find(&now)) {
                (Some(before), Some(now)) => judge(action, &before, &now, took, over),
                _ => Some(Outcome::bad("it was removed from the configuration meanwhile".to_owned())),
            }
        };
        let outcomes: Vec<_> =
            instances.iter().map(|name| outcome(name).map(|o| (name.clone(), o))).collect();
        if let Some(outcomes) = outcomes.into_iter().collect() {
            return Ok(Ok(outcomes));
        }
        sleep(ASK).await;
    }
}

/// What `xvip vip release --json` and `xvip vip acquire --json` print.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Answer {
    /// The VRRP instances that were told: several where they are a sync group.
    instances: Vec<Told>,
    /// What is wrong with the name; absent where nothing is. Nobody was told then.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of a VRRP instance.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Told {
    /// Its name.
    instance: String,
    /// Whether the VIP is where it should be now.
    well: bool,
    /// What became of it, in a sentence.
    text: String,
}

/// What became of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    /// Whether the VIP is where it should be.
    well: bool,
    text: String,
}

impl Outcome {
    fn good(text: String) -> Self {
        Self { well: true, text }
    }

    fn bad(text: String) -> Self {
        Self { well: false, text }
    }
}

/// What to say about an instance that was `before`, and `took` later is like `now`; `None` as long as that may change. Pure.
fn judge(
    action: VipAction,
    before: &VrrpStatus,
    now: &VrrpStatus,
    took: Duration,
    over: bool,
) -> Option<Outcome> {
    let outcome = match action {
        VipAction::Release => after_release(before, now, took),
        VipAction::Acquire => after_acquire(before, now, took),
    };
    outcome.or_else(|| {
        over.then(|| {
            let VrrpStatus { state, reason, .. } = now;
            let wanted = if action == VipAction::Release { "given away" } else { "taken" };
            let took = milliseconds(took);
            Outcome::bad(format!(
                "{} could not be {wanted} within {took}: this node is {state}: {reason}",
                vips(now)
            ))
        })
    })
}

fn after_release(before: &VrrpStatus, now: &VrrpStatus, took: Duration) -> Option<Outcome> {
    if !now.released {
        return None;
    }
    let (vips, end) = (vips(now), format!("`xvip vip acquire {}` ends that", now.name));
    let verb = if now.vips.len() == 1 { "is" } else { "are" };
    let (was_active, took) = (before.state == "active", milliseconds(took));
    match (now.state.as_str(), &now.active_router) {
        ("active", _) if now.since != before.since => Some(Outcome::bad(format!(
            "nobody else took {vips} over: this node owns it again after {took}, until another one wants it; {end}"
        ))),
        ("active", _) => None,
        (_, Some(other)) if was_active => Some(Outcome::good(format!(
            "released: {vips} {verb} now at {} (priority {}), took {took}",
            other.address, other.priority
        ))),
        (_, None) if was_active => None,
        (state, Some(other)) => Some(Outcome::good(format!(
            "released: this node is {state}, and leaves {vips} to {} (priority {}) and any other node; {end}",
            other.address, other.priority
        ))),
        (state, None) => Some(Outcome::good(format!(
            "released: this node is {state}, and leaves {vips} to any other node; {end}"
        ))),
    }
}

fn after_acquire(before: &VrrpStatus, now: &VrrpStatus, took: Duration) -> Option<Outcome> {
    if now.released {
        return None;
    }
    let (vips, priority, took) = (vips(now), now.priority, milliseconds(took));
    match (now.state.as_str(), &now.active_router) {
        ("active", _) if before.state == "active" => {
            Some(Outcome::good(format!("this node owns {vips} (priority {priority})")))
        }
        ("active", _) => {
            Some(Outcome::good(format!("acquired: this node owns {vips} (priority {priority}), took {took}")))
        }
        ("fault", _) => Some(Outcome::bad(format!(
            "the release is over, but this node cannot own {vips}: it is in fault: {}",
            now.reason
        ))),
        (_, Some(other)) if other.priority > priority => Some(Outcome::bad(format!(
            "the release is over, but {} (priority {}) keeps {vips}: it outranks this node (priority {priority})",
            other.address, other.priority
        ))),
        _ => None,
    }
}

/// Without prefix lengths.
fn vips(vrrp: &VrrpStatus) -> String {
    let vips = vrrp.vips.iter().map(|vip| vip.split('/').next().unwrap_or_default());
    vips.collect::<Vec<_>>().join(", ")
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vrrp(state: &str, since: &str, released: bool, other: Option<u8>) -> VrrpStatus {
        let other =
            other.map(|priority| serde_json::json!({ "address": "172.16.0.3", "priority": priority }));
        let vrrp = serde_json::json!({
            "name": "main",
            "state": state,
            "since": since,
            "reason": "because",
            "priority": if released { 1 } else { 100 },
            "virtual_router_id": 60,
            "version": 3,
            "vips": ["172.16.0.10/24"],
            "active_router": other,
            "adverts_sent": 0,
            "adverts_received": 0,
            "discarded": {},
            "released": released,
        });
        serde_json::from_value(vrrp).expect("the rest has defaults")
    }

    fn release(before: &VrrpStatus, now: &VrrpStatus) -> Option<(bool, String)> {
        let outcome = judge(VipAction::Release, before, now, Duration::from_micros(130_400), false);
        outcome.map(|outcome| (outcome.well, outcome.text))
    }

    fn acquire(before: &VrrpStatus, now: &VrrpStatus) -> Option<(bool, String)> {
        let outcome = judge(VipAction::Acquire, before, now, Duration::from_millis(12), false);
        outcome.map(|outcome| (outcome.well, outcome.text))
    }

    #[test]
    fn a_release_is_over_when_somebody_else_is_heard() {
        let before = vrrp("active", "1", false, None);
        assert_eq!(release(&before, &before), None, "not even begun");
        assert_eq!(release(&before, &vrrp("backup", "2", true, None)), None);
        let (well, text) = release(&before, &vrrp("backup", "2", true, Some(90))).expect("over");
        assert!(well);
        assert_eq!(text, "released: 172.16.0.10 is now at 172.16.0.3 (priority 90), took 130 ms");
        let mut two = vrrp("backup", "2", true, Some(90));
        two.vips.push("172.16.0.11/24".into());
        let (_, text) = release(&before, &two).expect("over");
        assert!(text.starts_with("released: 172.16.0.10, 172.16.0.11 are now at 172.16.0.3"), "{text}");
    }

    #[test]
    fn a_release_that_nobody_wants_has_failed() {
        let before = vrrp("active", "1", false, None);
        let (well, text) = release(&before, &vrrp("active", "3", true, None)).expect("over");
        assert!(
            !well && text.starts_with("nobody else took 172.16.0.10 over: this node owns it again"),
            "{text}"
        );
        // Released before, and alone then, too.
        let before = vrrp("active", "3", true, None);
        assert_eq!(release(&before, &before), None);
        assert!(release(&before, &vrrp("active", "5", true, None)).is_some());
    }

    #[test]
    fn a_node_that_is_not_active_is_marked() {
        for (state, other) in [("backup", Some(150)), ("backup", None), ("fault", None), ("initialize", None)]
        {
            let before = vrrp(state, "1", false, other);
            let (well, text) = release(&before, &vrrp(state, "1", true, other)).expect("at once");
            assert!(well && text.contains(&format!("this node is {state}")), "{text}");
            assert!(text.contains("`xvip vip acquire main` ends that"), "{text}");
            assert_eq!(text.contains("172.16.0.3 (priority 150)"), other.is_some(), "{text}");
        }
    }

    #[test]
    fn an_acquisition_is_over_when_the_vip_is_here_or_cannot_be() {
        let before = vrrp("backup", "2", true, Some(90));
        assert_eq!(acquire(&before, &before), None, "not even begun");
        assert_eq!(acquire(&before, &vrrp("backup", "2", false, Some(90))), None);
        let (well, text) = acquire(&before, &vrrp("active", "3", false, None)).expect("over");
        assert!(well);
        assert_eq!(text, "acquired: this node owns 172.16.0.10 (priority 100), took 12 ms");

        let (well, text) = acquire(&before, &vrrp("backup", "2", false, Some(150))).expect("over");
        assert!(!well && text.contains("172.16.0.3 (priority 150) keeps 172.16.0.10"), "{text}");
        let (well, text) = acquire(&before, &vrrp("fault", "2", false, None)).expect("over");
        assert!(!well && text.ends_with("it is in fault: because"), "{text}");

        let active = vrrp("active", "1", false, None);
        assert_eq!(
            acquire(&active, &active),
            Some((true, "this node owns 172.16.0.10 (priority 100)".into()))
        );
    }

    #[test]
    fn nobody_waits_for_ever() {
        let before = vrrp("active", "1", false, None);
        for action in [VipAction::Release, VipAction::Acquire] {
            let now = vrrp("backup", "2", action == VipAction::Release, None);
            assert_eq!(judge(action, &before, &now, Duration::from_secs(1), false), None);
            let outcome = judge(action, &before, &now, Duration::from_secs(5), true).expect("over");
            assert!(!outcome.well && outcome.text.contains("within 5000 ms: this node is backup: because"));
        }
    }
}
