//! A program that says by its exit code whether all is well.
//!
//! It runs as its own user, in its own process group, in `/`, with nothing of ours but `XVIP_INSTANCE`: no open files,
//! no environment, no groups. It is never started twice at once; what hangs is killed with all that it has started, and
//! so is what runs when the daemon ends. Everything that may block, the look-up of the user included, happens on a thread
//! of its own, so that a dead name service or a dead file server makes a script fail and nothing else.

use std::{
    future::pending,
    io,
    os::fd::OwnedFd,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::{Gid, Pid, Uid, User},
};
use tokio::{
    io::AsyncReadExt as _,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep, sleep_until, timeout_at},
};

use super::{rise_fall::RiseFall, running::Report, weight::TrackCondition};
use crate::config::model::duration_text;

/// The only search path of a script.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So many bytes of a script's output are kept, the last ones.
const OUTPUT_KEPT: usize = 1024;
/// What a script writes beyond that is read slowly: it must not keep the daemon busy.
const OUTPUT_AT_ONCE: usize = 64 * 1024;
/// The longest line that a reason repeats, in characters.
const LINE_AT_MOST: usize = 120;

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

/// Killed as a group when dropped, unless it has ended.
struct Running {
    // Before the child: it is the leader that is killed, and not yet forgotten.
    group: Group,
    child: Child,
    output: Receiver,
}

struct Group(Option<Pid>);

impl Group {
    /// Only while the leader has not been reaped: afterwards the number may be somebody else's.
    fn kill(&self) {
        if let Some(leader) = self.0 {
            // It may have ended just now.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whose rights a script has.
#[derive(Clone, Copy, Debug)]
struct Rights {
    uid: Uid,
    gid: Gid,
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
            if timeout_at(deadline, running.child.wait()).await.is_err() {
                return Err("it hangs, and cannot be killed".to_owned());
            }
            running.group.0 = None;
            *last = Last::Over;
        }
        if let Last::Over = last {
            let script = self.clone();
            *last = Last::Starting(spawn_blocking(move || script.start()));
        }
        let mut running = match last {
            Last::Starting(start) => match timeout_at(deadline, start).await {
                Ok(started) => started.unwrap_or_else(|error| Err(format!("cannot start: {error}"))),
                Err(_) => return Err(format!("not started within {}", duration_text(self.timeout))),
            },
            Last::Over | Last::Dying(_) => Err("cannot start".to_owned()),
        }
        .inspect_err(|_| *last = Last::Over)?;
        let mut tail = Tail::default();
        let ended = tokio::select! {
            biased;
            ended = running.child.wait() => Some(ended),
            () = sleep_until(deadline) => None,
            never = collect(&mut running.output, &mut tail) => match never {},
        };
        // Whether it is the script that is late, or this process: one that was stopped, or busy, has not seen the end.
        let ended = ended.or_else(|| running.child.try_wait().transpose());
        let Some(ended) = ended else {
            running.group.kill();
            *last = Last::Dying(Box::new(running));
            return Err(format!("no end within {}", duration_text(self.timeout)));
        };
        *last = Last::Over;
        running.group.0 = None;
        tail.read_rest(&running.output);
        let line = tail.last_line();
        verdict(ended.map_err(|error| format!("cannot be waited for: {error}"))?, line.as_deref())
    }

    /// Blocks.
    fn start(&self) -> Result<Running, String> {
        let rights = self.rights()?;
        let (program, arguments) = self.command.split_first().ok_or("no command")?;
        let error = |error: io::Error| format!("cannot start: {error}");
        let (reader, writer) = io::pipe().map_err(error)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("XVIP_INSTANCE", &self.instance)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(writer.try_clone().map_err(error)?)
            .stderr(writer);
        if let Some(Rights { uid, gid }) = rights {
            // Of the other groups, `std` leaves none when root becomes somebody else.
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        let child = command.spawn().map_err(error)?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let output = Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(error)?;
        Ok(Running { group, child, output })
    }

    /// `None`: ours are those.
    fn rights(&self) -> Result<Option<Rights>, String> {
        let user = User::from_name(&self.user).map_err(|error| format!("user {}: {error}", self.user))?;
        let user = user.ok_or_else(|| format!("user {} does not exist", self.user))?;
        let own = Uid::effective();
        if own.is_root() {
            Ok(Some(Rights { uid: user.uid, gid: user.gid }))
        } else if own == user.uid {
            Ok(None)
        } else {
            Err(format!("only root can run it as user {}", self.user))
        }
    }
}

/// What an end means: 0 is success, all else is failure.
fn verdict(ended: ExitStatus, line: Option<&str>) -> Result<String, String> {
    use std::os::unix::process::ExitStatusExt as _;
    let text = match (ended.code(), ended.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    };
    let text = line.map_or_else(|| text.clone(), |line| format!("{text}: {line}"));
    if ended.success() { Ok(text) } else { Err(text) }
}

enum Never {}

/// Reads what a script writes, as long as this is polled.
async fn collect(output: &mut Receiver, tail: &mut Tail) -> Never {
    let mut chunk = [0; 4096];
    let mut total = 0;
    loop {
        match output.read(&mut chunk).await {
            // Closed; the script may go on all the same.
            Ok(0) | Err(_) => return pending().await,
            Ok(read) => {
                tail.push(&chunk[..read]);
                total += read;
                if total > OUTPUT_AT_ONCE {
                    sleep(Duration::from_millis(10)).await;
                }
            }
        }
    }
}

/// The end of a script's output.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        self.0.drain(..self.0.len().saturating_sub(OUTPUT_KEPT));
    }

    /// What is in the pipe of one that has ended. What it has left running may go on writing: nobody waits for that.
    fn read_rest(&mut self, output: &Receiver) {
        let mut chunk = [0; 4096];
        for _ in 0..OUTPUT_AT_ONCE / chunk.len() {
            match output.try_read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(read) => self.push(&chunk[..read]),
            }
        }
    }

    /// The last line with anything on it, fit for a terminal.
    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LINE_AT_MOST).collect())
    }
}

#[cfg(test)]
mod tests;
