//! `[[notify]]`: programs that are run, and URLs that are posted to, when something happens.
//!
//! Each hook has a queue and a task: one event at a time, in order. Whoever tells never waits: what does not fit into the
//! queue is dropped and counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use crate::{
    config::model::{Hook, HookAction, duration_text},
    history::Event,
    program::Program,
};

mod web;

/// So many events wait for a hook.
const WAITING: usize = 256;
/// How often it is looked whether everything has been told.
const LOOK: Duration = Duration::from_millis(20);

/// What a hook gets: an event, and where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// `node.name`
    pub node: String,
    /// What has happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a hook has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookStatus {
    /// Its program, or the server of its URL.
    pub name: String,
    /// Events that it was told.
    pub told: u64,
    /// Events that it was to be told, and was not: it failed, or took too long.
    pub failed: u64,
    /// Events that found its queue full.
    pub dropped: u64,
    /// Events that wait.
    pub waiting: u64,
    /// Why the last one failed; absent after a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// The hooks that are told.
#[derive(Debug, Default)]
pub struct Hooks {
    node: String,
    running: Vec<RunningHook>,
}

/// One of them; ends when dropped.
#[derive(Debug)]
struct RunningHook {
    settings: Hook,
    queue: mpsc::Sender<Notice>,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    told: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    /// Offered, and neither told nor failed.
    waiting: AtomicU64,
    /// Whether it was said that the queue is full.
    is_full: AtomicBool,
    last_error: Mutex<Option<String>>,
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Hooks {
    /// Puts these in force; one that is there already goes on. Needs a Tokio runtime if there are any.
    pub fn configure(&mut self, node: &str, hooks: &[Hook]) {
        node.clone_into(&mut self.node);
        let mut known = std::mem::take(&mut self.running);
        for hook in hooks {
            let same = known.iter().position(|running| running.settings == *hook);
            self.running.push(match same {
                Some(index) => known.swap_remove(index),
                None => RunningHook::spawn(hook.clone()),
            });
        }
    }

    /// Tells those that want to know.
    pub fn offer(&self, event: &Event) {
        for hook in self.running.iter().filter(|hook| wants(&hook.settings, event)) {
            hook.offer(Notice { node: self.node.clone(), event: event.clone() });
        }
    }

    /// What each has done, in the file's order.
    pub fn status(&self) -> Vec<HookStatus> {
        self.running.iter().map(RunningHook::status).collect()
    }

    /// Whether every one of them has been told everything.
    pub fn are_done(&self) -> bool {
        self.running.iter().all(|hook| hook.counts.waiting.load(Ordering::Relaxed) == 0)
    }
}

/// Waits until every hook has been told everything, no longer than `within`.
pub async fn settle(are_done: impl Fn() -> bool, within: Duration) {
    let until = Instant::now() + within;
    while !are_done() && Instant::now() < until {
        sleep(LOOK).await;
    }
}

/// Whether a hook is to be told of an event.
fn wants(hook: &Hook, event: &Event) -> bool {
    event.topic().is_some_and(|topic| hook.on.contains(&topic))
        && (hook.names.is_empty() || hook.names.iter().any(|name| event.concerns(name)))
}

/// How a hook is called where a secret must not be shown: often that is in the path of a URL.
fn name(hook: &Hook) -> String {
    match &hook.action {
        HookAction::Command { command, .. } => command.first().cloned().unwrap_or_default(),
        HookAction::Url { url, .. } => web::server_of(url),
    }
}

impl RunningHook {
    fn spawn(settings: Hook) -> Self {
        let (queue, notices) = mpsc::channel(WAITING);
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(serve(settings.clone(), notices, Arc::clone(&counts)));
        Self { settings, queue, counts, task }
    }

    fn offer(&self, notice: Notice) {
        let counts = &self.counts;
        counts.waiting.fetch_add(1, Ordering::Relaxed);
        let is_full = self.queue.try_send(notice).is_err();
        if is_full {
            counts.waiting.fetch_sub(1, Ordering::Relaxed);
            counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if is_full && !counts.is_full.swap(true, Ordering::Relaxed) {
            warn!(
                hook = name(&self.settings),
                "the hook is too slow: {WAITING} events wait, and others are dropped"
            );
        } else if !is_full {
            counts.is_full.store(false, Ordering::Relaxed);
        }
    }

    fn status(&self) -> HookStatus {
        let counts = &self.counts;
        HookStatus {
            name: name(&self.settings),
            told: counts.told.load(Ordering::Relaxed),
            failed: counts.failed.load(Ordering::Relaxed),
            dropped: counts.dropped.load(Ordering::Relaxed),
            waiting: counts.waiting.load(Ordering::Relaxed),
            last_error: counts.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// One event after the other, until the hook is no longer wanted.
async fn serve(hook: Hook, mut notices: mpsc::Receiver<Notice>, counts: Arc<Counts>) {
    let name = name(&hook);
    let mut fails = false;
    while let Some(notice) = notices.recv().await {
        let told = tell(&hook, &notice).await;
        let failed = told.is_err();
        let (count, error) = match told {
            Ok(()) => (&counts.told, None),
            Err(error) => (&counts.failed, Some(error)),
        };
        count.fetch_add(1, Ordering::Relaxed);
        match &error {
            Some(error) if !fails => warn!(hook = name, "the hook was not told of an event: {error}"),
            None if fails => info!(hook = name, "the hook is told again"),
            _ => {}
        }
        *counts.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
        counts.waiting.fetch_sub(1, Ordering::Relaxed);
        fails = failed;
    }
}

async fn tell(hook: &Hook, notice: &Notice) -> Result<(), String> {
    let mut body = serde_json::to_vec(notice).map_err(|error| error.to_string())?;
    body.push(b'\n');
    let deadline = Instant::now() + hook.timeout;
    let late = || format!("no end within {}", duration_text(hook.timeout));
    match &hook.action {
        HookAction::Url { url, ca_file } => {
            let posted = timeout_at(deadline, web::post(url, ca_file.as_deref(), body)).await;
            posted.map_err(|_| late())?
        }
        HookAction::Command { command, user } => {
            let program = Program {
                command: command.clone(),
                user: user.clone(),
                environment: environment(notice),
                input: body,
            };
            let started = timeout_at(deadline, spawn_blocking(move || program.start())).await;
            let started =
                started.map_err(|_| format!("not started within {}", duration_text(hook.timeout)))?;
            let mut running = started.map_err(|error| format!("cannot start: {error}"))??;
            match running.ended_by(deadline).await {
                Some(ended) => ended.map(drop),
                None => {
                    // Never two at once, and its successor gets its whole time.
                    let _gone = running.gone_by(Instant::now() + hook.timeout).await;
                    Err(late())
                }
            }
        }
    }
}

/// What a program finds in its environment: an empty text where there is nothing to say.
fn environment(notice: &Notice) -> Vec<(&'static str, String)> {
    let Notice { node, event } = notice;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    vec![
        ("XVIP_NODE", node.clone()),
        ("XVIP_EVENT", event.kind.name().to_owned()),
        ("XVIP_NAME", event.name.clone()),
        ("XVIP_SERVICE", text(&event.service)),
        ("XVIP_ADDRESS", text(&event.address)),
        ("XVIP_VIPS", event.vips.join(" ")),
        ("XVIP_FROM", text(&event.from)),
        ("XVIP_TO", text(&event.to)),
        ("XVIP_REASON", text(&event.reason)),
    ]
}

#[cfg(test)]
mod tests;
