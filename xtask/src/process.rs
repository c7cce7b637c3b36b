//! Child processes: found, started as root if need be, followed line by line, ended as a group.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long a child may take to clean up after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait for the last output of a child that has ended; a stray grandchild may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C and SIGTERM end the children that are followed with [`follow`], and then us.
pub fn catch_interrupts() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler = note as extern "C" fn(libc::c_int);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
}

/// Whether Ctrl-C or SIGTERM came since [`catch_interrupts`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The file that `name` means: as the shell would find it, then in the `sbin` directories, which are often not in
/// the path of a user who is not root.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// How to become root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// We are.
    Already,
    /// Through `sudo -n`, which was tried and asks no password.
    Sudo,
    /// Not without a password, or at all.
    No,
}

impl Root {
    /// Finds out; starts `sudo` at most once.
    pub fn probe() -> Self {
        // The owner of /proc/self is our effective user.
        if Path::new("/proc/self").metadata().is_ok_and(|data| data.uid() == 0) {
            return Self::Already;
        }
        let sudo = Command::new("sudo").args(["-n", "true"]).stdin(Stdio::null()).output();
        if sudo.is_ok_and(|output| output.status.success()) { Self::Sudo } else { Self::No }
    }

    /// `program` as root, with `variables` set. sudo clears the environment, so they go through `env`.
    ///
    /// # Errors
    /// We cannot become root.
    pub fn command(
        self,
        program: impl AsRef<OsStr>,
        variables: &[(&str, &OsStr)],
    ) -> anyhow::Result<Command> {
        match self {
            Self::Already => {
                let mut command = Command::new(program);
                command.envs(variables.iter().copied());
                Ok(command)
            }
            Self::Sudo => {
                let mut command = Command::new("sudo");
                command.args(["-n", "env"]);
                command.args(variables.iter().map(|(name, value)| assignment(name, value))).arg(program);
                Ok(command)
            }
            Self::No => bail!("this needs root, and `sudo -n` is not to be had"),
        }
    }
}

/// `NAME=VALUE`, as env(1) takes it.
pub fn assignment(name: &str, value: &OsStr) -> OsString {
    let mut assignment = OsString::from(name);
    assignment.push("=");
    assignment.push(value);
    assignment
}

/// The standard output of a command that is expected to succeed quickly.
///
/// # Errors
/// It could not be started or failed; its error output is in the message.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program}: {} ({})", said.trim(), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// How a followed child came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself.
    Exited(ExitStatus),
    /// We ended it: it took longer than it may.
    TimedOut,
    /// We ended it: Ctrl-C or SIGTERM came.
    Interrupted,
}

impl End {
    /// It ran to its end and reported success.
    pub fn success(self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }
}

/// Runs `command` in a process group of its own and calls `on_line` for each line of its output and error output,
/// until it ends, or is ended after `limit`.
///
/// # Errors
/// It could not be started.
pub fn follow(
    command: &mut Command,
    limit: Option<Duration>,
    mut on_line: impl FnMut(&str),
) -> anyhow::Result<End> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {program}"))?;
    let (sender, lines) = mpsc::channel();
    let output: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
    ];
    for pipe in output.into_iter().flatten() {
        let sender = sender.clone();
        std::thread::spawn(move || forward_lines(pipe, &sender));
    }
    drop(sender);

    let started = Instant::now();
    let mut cause = None;
    let mut killed = false;
    let mut term_sent = started;
    let mut ended: Option<(ExitStatus, Instant)> = None;
    let mut open = true;
    loop {
        if open {
            match lines.recv_timeout(TICK) {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        } else if ended.is_none() {
            std::thread::sleep(TICK / 10);
        }
        let now = Instant::now();
        if ended.is_none() {
            ended = child.try_wait()?.map(|status| (status, now));
        }
        match ended {
            Some((status, at)) if !open || now.duration_since(at) > DRAIN => {
                if open {
                    signal_group(&child, libc::SIGKILL);
                }
                return Ok(cause.unwrap_or(End::Exited(status)));
            }
            Some(_) => {}
            None if cause.is_none() => {
                let late = limit.is_some_and(|limit| now.duration_since(started) > limit);
                if late || interrupted() {
                    cause = Some(if late { End::TimedOut } else { End::Interrupted });
                    term_sent = now;
                    signal_group(&child, libc::SIGTERM);
                }
            }
            None if !killed && now.duration_since(term_sent) > GRACE => {
                killed = true;
                signal_group(&child, libc::SIGKILL);
            }
            None => {}
        }
    }
}

/// Lines end at a newline or, as progress bars do, at a carriage return. Bytes that are not UTF-8 are replaced.
fn forward_lines(pipe: impl Read, sender: &Sender<String>) {
    let mut pipe = BufReader::new(pipe);
    let mut bytes = Vec::new();
    while pipe.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let text = String::from_utf8_lossy(&bytes);
        for line in text.trim_end_matches(['\n', '\r']).split('\r') {
            if sender.send(line.to_owned()).is_err() {
                return;
            }
        }
        bytes.clear();
    }
}

fn signal_group(child: &Child, signal: libc::c_int) {
    let Ok(group) = libc::pid_t::try_from(child.id()) else { return };
    // SAFETY: no memory is involved; the group is the child's own, made by `process_group(0)`.
    unsafe { libc::kill(-group, signal) };
}

/// Ends one process at once.
///
/// # Errors
/// It is not there any more, or not ours to end.
pub fn kill(process: u32) -> anyhow::Result<()> {
    let process = libc::pid_t::try_from(process).context("not a process id")?;
    // SAFETY: no memory is involved.
    match unsafe { libc::kill(process, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("killing it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn both_outputs_are_followed_and_the_status_is_kept() {
        let mut lines = Vec::new();
        let end =
            follow(&mut shell("echo out; echo err >&2; exit 3"), None, |line| lines.push(line.to_owned()))
                .unwrap();
        lines.sort();
        assert_eq!(lines, ["err", "out"]);
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_hung_child_is_ended_with_its_children() {
        let started = Instant::now();
        let mut child = None;
        let end = follow(&mut shell("sleep 600 & echo $!; wait"), Some(Duration::from_millis(300)), |line| {
            child = line.parse::<u32>().ok();
        })
        .unwrap();
        assert_eq!(end, End::TimedOut);
        assert!(started.elapsed() < GRACE);
        // It has its signal; being gone takes the kernel a moment more.
        let process = format!("/proc/{}/stat", child.unwrap());
        let gone = || std::fs::read_to_string(&process).map_or(true, |status| status.contains(") Z "));
        while !gone() {
            assert!(started.elapsed() < GRACE, "still running: {process}");
            std::thread::sleep(TICK / 10);
        }
    }

    #[test]
    fn a_grandchild_that_keeps_the_pipe_open_does_not_hold_us() {
        let started = Instant::now();
        let end = follow(&mut shell("sleep 600 & exit 0"), None, |_| {}).unwrap();
        assert!(end.success());
        assert!(started.elapsed() < DRAIN + Duration::from_secs(5));
    }

    #[test]
    fn progress_bars_become_lines() {
        let mut lines = Vec::new();
        follow(&mut shell("printf '10%%\\r20%%\\r\\nend'"), None, |line| lines.push(line.to_owned()))
            .unwrap();
        assert_eq!(lines, ["10%", "20%", "end"]);
    }

    #[test]
    fn sudo_gets_the_environment_as_arguments() {
        let command = Root::Sudo.command("apt-get", &[("A", OsStr::new("b c"))]).unwrap();
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(arguments, ["-n", "env", "A=b c", "apt-get"]);
        assert!(Root::No.command("apt-get", &[]).is_err());
    }

    #[test]
    fn commands_are_found_and_directories_are_not() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-command-here"), None);
        assert!(!is_executable(Path::new("/usr/bin")));
    }
}
