//! A program that says by its exit code whether all is well.
//!
//! It runs as [`crate::program`] says, with `XVIP_INSTANCE` in its environment. It is never started twice at once; what hangs
//! is killed with all that it has started, and so is what runs when the daemon ends.

use std::time::Duration;

use tokio::{
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};

use super::{rise_fall::RiseFall, running::Report, weight::TrackCondition};
use crate::{
    config::model::duration_text,
    program::{Program, Running},
};

/// A script as configured.
#[derive(Clone, Debug)]
pub(super) struct Script {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Who runs it.
    pub user: String,
    /// From start to start.
    pub interval: Duration,
    /// It is killed then.
    pub timeout: Duration,
    /// Successes in a row after which all is well.
    pub rise: u32,
    /// Failures in a row after which it is not.
    pub fall: u32,
    /// The value of `XVIP_INSTANCE`.
    pub instance: String,
}

/// What is left of the last run.
#[derive(Default)]
enum Last {
    /// Nothing.
    #[default]
    Over,
    /// It could not be started in time.
    Starting(JoinHandle<Result<Running, String>>),
    /// It was killed.
    Dying(Box<Running>),
}

impl Script {
    /// Until the end of the daemon.
    pub(super) async fn run(self, report: Report) {
        let mut counted = RiseFall::new(self.rise, self.fall, report.known());
        let mut last = Last::Over;
        loop {
            let begin = Instant::now();
            let result = self.once(begin + self.timeout, &mut last).await;
            let condition = counted.observe(result.is_ok());
            // A reason says why it is as it is; a result that does not count yet is none.
            match (condition, result) {
                (TrackCondition::Up, Ok(reason)) | (TrackCondition::Down, Err(reason)) => {
                    report.say(condition, reason);
                }
                (TrackCondition::Unknown | TrackCondition::Up | TrackCondition::Down, _) => {}
            }
            sleep_until(begin + self.interval).await;
        }
    }

    /// One run; `Ok` has what a success looked like. What was left of the last one is waited for first: never two at
    /// once.
    async fn once(&self, deadline: Instant, last: &mut Last) -> Result<String, String> {
        if let Last::Dying(running) = last {
            if !running.gone_by(deadline).await {
                return Err("it hangs, and cannot be killed".to_owned());
            }
            *last = Last::Over;
        }
        if let Last::Over = last {
            let program = self.program();
            *last = Last::Starting(spawn_blocking(move || program.start()));
        }
        let mut running = match last {
            Last::Starting(start) => match timeout_at(deadline, start).await {
                Ok(started) => started.unwrap_or_else(|error| Err(format!("cannot start: {error}"))),
                Err(_) => return Err(format!("not started within {}", duration_text(self.timeout))),
            },
            Last::Over | Last::Dying(_) => Err("cannot start".to_owned()),
        }
        .inspect_err(|_| *last = Last::Over)?;
        match running.ended_by(deadline).await {
            Some(ended) => {
                *last = Last::Over;
                ended
            }
            None => {
                *last = Last::Dying(Box::new(running));
                Err(format!("no end within {}", duration_text(self.timeout)))
            }
        }
    }

    fn program(&self) -> Program {
        Program {
            command: self.command.clone(),
            user: self.user.clone(),
            environment: vec![("XVIP_INSTANCE", self.instance.clone())],
            input: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests;
