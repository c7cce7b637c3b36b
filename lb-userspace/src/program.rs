//! A program of somebody else's that is run: with his rights, in its own process group, with a bounded time.
//!
//! It runs in `/`, with nothing of ours: no open files, no groups, and of the environment what it is told alone. What is late
//! is killed with all that it has started, and so is what runs when the daemon ends. Everything that may block, the look-up of
//! the user included, happens on a thread of its own, so that a dead name service or a dead file server makes a program fail
//! and nothing else.

use std::{
    future::pending,
    io::{self, Write as _},
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
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::privileges;

/// The only search path of a program.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So many bytes of a program's output are kept, the last ones.
const OUTPUT_KEPT: usize = 1024;
/// What a program writes beyond that is read slowly: it must not keep the daemon busy.
const OUTPUT_AT_ONCE: usize = 64 * 1024;
/// What it is given must fit into a pipe that nobody reads (pipe(7): 65,536 bytes).
const INPUT_AT_MOST: usize = 60_000;
/// The longest line that a reason repeats, in characters.
const LINE_AT_MOST: usize = 120;

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// The program, by its absolute path, and its arguments.
    pub command: Vec<String>,
    /// Who runs it.
    pub user: String,
    /// What it finds in its environment beside `PATH`.
    pub environment: Vec<(&'static str, String)>,
    /// What it reads from its standard input.
    pub input: Vec<u8>,
}

/// Killed as a group when dropped, unless it has ended.
#[derive(Debug)]
pub struct Running {
    // Before the child: it is the leader that is killed, and not yet forgotten.
    group: Group,
    child: Child,
    output: Receiver,
    tail: Tail,
}

#[derive(Debug)]
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

/// Whose rights a program has.
#[derive(Clone, Copy, Debug)]
struct Rights {
    uid: Uid,
    gid: Gid,
}

impl Program {
    /// Starts it. Blocks.
    ///
    /// # Errors
    /// Why it does not run, in words.
    pub fn start(&self) -> Result<Running, String> {
        let rights = self.rights()?;
        let (program, arguments) = self.command.split_first().ok_or("no command")?;
        let error = |error: io::Error| format!("cannot start: {error}");
        let (reader, writer) = io::pipe().map_err(error)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .envs(self.environment.iter().map(|(name, value)| (*name, without_nul(value))))
            .current_dir("/")
            .process_group(0)
            .stdin(self.input().map_err(error)?)
            .stdout(writer.try_clone().map_err(error)?)
            .stderr(writer);
        if let Some(Rights { uid, gid }) = rights {
            privileges::run_as(&mut command, uid, gid);
        }
        let child = command.spawn().map_err(error)?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let output = Receiver::from_owned_fd(OwnedFd::from(reader)).map_err(error)?;
        Ok(Running { group, child, output, tail: Tail::default() })
    }

    /// All of the input is in the pipe before anybody could read it, so that nobody has to wait for who does not.
    fn input(&self) -> io::Result<Stdio> {
        if self.input.is_empty() {
            return Ok(Stdio::null());
        }
        if self.input.len() > INPUT_AT_MOST {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "what it is to be given is too long"));
        }
        let (reader, mut writer) = io::pipe()?;
        writer.write_all(&self.input)?;
        Ok(reader.into())
    }

    /// `None`: ours are those.
    fn rights(&self) -> Result<Option<Rights>, String> {
        let user = User::from_name(&self.user).map_err(|error| format!("user {}: {error}", self.user))?;
        let user = user.ok_or_else(|| format!("user {} does not exist", self.user))?;
        let own = Uid::effective();
        if !own.is_root() {
            if own == user.uid {
                return Ok(None);
            }
            privileges::check_others(&self.user)?;
        }
        Ok(Some(Rights { uid: user.uid, gid: user.gid }))
    }
}

/// The system takes no NUL in an environment.
fn without_nul(value: &str) -> String {
    value.replace('\0', " ")
}

impl Running {
    /// Its end, in words: `Ok` where that was 0. `None`, and it is killed, where there is none by the deadline.
    pub async fn ended_by(&mut self, deadline: Instant) -> Option<Result<String, String>> {
        let ended = tokio::select! {
            biased;
            ended = self.child.wait() => Some(ended),
            () = sleep_until(deadline) => None,
            never = collect(&mut self.output, &mut self.tail) => match never {},
        };
        // Whether it is the program that is late, or this process: one that was stopped, or busy, has not seen the end.
        let ended = ended.or_else(|| self.child.try_wait().transpose());
        let Some(ended) = ended else {
            self.group.kill();
            return None;
        };
        self.group.0 = None;
        self.tail.read_rest(&self.output);
        let line = self.tail.last_line();
        Some(
            ended
                .map_err(|error| format!("cannot be waited for: {error}"))
                .and_then(|ended| verdict(ended, line.as_deref())),
        )
    }

    /// Whether one that was killed is gone by then.
    pub async fn gone_by(&mut self, deadline: Instant) -> bool {
        let gone = timeout_at(deadline, self.child.wait()).await.is_ok();
        if gone {
            self.group.0 = None;
        }
        gone
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

/// The end of a program's output.
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
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    fn shell(text: &str) -> Program {
        let me = User::from_uid(Uid::effective()).expect("asked").expect("we are somebody").name;
        let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Program { command, user: me, environment: Vec::new(), input: Vec::new() }
    }

    async fn run(program: &Program) -> Result<String, String> {
        let mut running = program.start()?;
        running.ended_by(Instant::now() + SOON).await.expect("it ends")
    }

    #[tokio::test]
    async fn it_gets_its_input_and_its_environment_and_nothing_else() {
        let mut program = shell("read -r line; echo \"$line $XVIP_NAME $(env | grep -c XVIP_) $HOME\"");
        program.input = b"a line\nanother\n".to_vec();
        program.environment = vec![("XVIP_NAME", "m\x001".to_owned()), ("XVIP_TO", String::new())];
        assert_eq!(run(&program).await, Ok("exit 0: a line m 1 2".to_owned()));
    }

    #[tokio::test]
    async fn who_does_not_read_its_input_is_not_waited_for() {
        let mut program = shell("exit 3");
        program.input = vec![b'x'; INPUT_AT_MOST];
        assert_eq!(run(&program).await, Err("exit 3".to_owned()));
        program.input.push(b'x');
        let error = program.start().expect_err("no room");
        assert!(error.contains("too long"), "{error}");
    }

    #[tokio::test]
    async fn one_that_is_late_is_killed() {
        let mut running = shell("sleep 600").start().expect("started");
        assert!(running.ended_by(Instant::now() + Duration::from_millis(50)).await.is_none());
        assert!(running.gone_by(Instant::now() + SOON).await);
    }

    #[test]
    fn only_the_end_of_the_output_is_kept() {
        let mut tail = Tail::default();
        assert_eq!(tail.last_line(), None);
        for _ in 0..1000 {
            tail.push(&[b'x'; 100]);
        }
        assert_eq!(tail.0.len(), OUTPUT_KEPT);
        assert_eq!(tail.last_line().map(|line| line.len()), Some(LINE_AT_MOST));
        tail.push(b"\nlast\xff\x07one\n \n");
        assert_eq!(tail.last_line().as_deref(), Some("last\u{fffd} one"));
    }
}
