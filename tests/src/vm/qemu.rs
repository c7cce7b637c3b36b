//! One boot of a kernel in QEMU: all in software (`tcg`), because KVM is rarely to be had where tests run.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::debian::Kernel;

/// The kernel speaks to the serial port from its first moment; a guest that panics ends at once, and QEMU with it.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 panic=-1 rdinit=";

/// Why a guest could not be run.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// QEMU could not be started or waited for.
    #[error("qemu: {0}")]
    Start(#[source] io::Error),
    /// QEMU ended with a failure.
    #[error("qemu ended with {status}: {stderr}")]
    Failed {
        /// How.
        status: String,
        /// What it printed.
        stderr: String,
    },
    /// The guest was not done in time, and was killed.
    #[error("the guest was not done after {0:?}, and was killed")]
    TimedOut(Duration),
    /// The log could not be written.
    #[error("{path}: {source}")]
    Log {
        /// The log.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What to boot.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// The root, as [`super::root::Root::finish`] makes it.
    pub root: &'a [u8],
    /// The first program, and its arguments.
    pub init: &'a [&'a str],
    /// Processors.
    pub processors: u32,
    /// Whether a nanosecond of the guest is one executed instruction, on its only processor, and no time passes without
    /// instructions.
    pub counting: bool,
    /// Mebibytes of memory.
    pub memory: u32,
    /// Everything that the guest writes to its serial port, each line with the seconds since the start.
    pub log: &'a Path,
    /// When the guest counts as hung.
    pub limit: Duration,
}

/// A process that does not outlive us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Boot<'_> {
    /// Boots, gives `line` each line of the serial port, and returns when the guest has powered off.
    ///
    /// # Errors
    /// When QEMU does not start, or the guest does not power off in time. It is gone then.
    pub fn run(&self, mut line: impl FnMut(&str)) -> Result<(), QemuError> {
        let begin = Instant::now();
        let log_error = |source| QemuError::Log { path: self.log.to_owned(), source };
        let directory = self.log.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(directory).map_err(log_error)?;
        let mut log = File::create(self.log).map_err(log_error)?;
        // QEMU reads it once, at its start. Not below `/tmp`, which is memory on many machines.
        let root = tempfile::NamedTempFile::new_in(directory).map_err(log_error)?;
        root.as_file().write_all(self.root).map_err(log_error)?;

        let mut qemu = Running(self.spawn(root.path()).map_err(QemuError::Start)?);
        let lines = lines_of(qemu.0.stdout.take());
        let errors = text_of(qemu.0.stderr.take());
        loop {
            match lines.recv_timeout(self.limit.saturating_sub(begin.elapsed())) {
                Ok(text) => {
                    writeln!(log, "[{:7.3}] {text}", begin.elapsed().as_secs_f32()).map_err(log_error)?;
                    line(&text);
                }
                Err(RecvTimeoutError::Timeout) => return Err(QemuError::TimedOut(self.limit)),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = qemu.0.wait().map_err(QemuError::Start)?;
        if status.success() {
            return Ok(());
        }
        let stderr = errors.recv().unwrap_or_default().trim().to_owned();
        Err(QemuError::Failed { status: status.to_string(), stderr })
    }

    fn spawn(&self, root: &Path) -> io::Result<Child> {
        let tools = self.kernel.tools();
        let [init, arguments @ ..] = self.init else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut command = tools.command("usr/bin/qemu-system-x86_64");
        if self.counting {
            // One `rep movsb` counts as many as it moves bytes: without these the kernel uses loops of its own.
            command.args(["-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm"]);
            command.args(["-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        }
        command
            .args(["-machine", "q35"])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-smp", &self.processors.to_string(), "-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.vmlinux)
            .arg("-initrd")
            .arg(root)
            .arg("-append")
            .arg(format!("{KERNEL_ARGUMENTS}{init} -- {}", arguments.join(" ")));
        for directory in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(tools.path(directory));
        }
        command.env("QEMU_MODULE_DIR", tools.path("usr/lib/x86_64-linux-gnu/qemu"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }
}

/// Its lines, as they come; the channel is closed when it ends.
fn lines_of(stdout: Option<ChildStdout>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout?);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).ok()? > 0 {
            let text = String::from_utf8_lossy(&line);
            sender.send(text.trim_end_matches(['\r', '\n']).to_owned()).ok()?;
            line.clear();
        }
        Some(())
    });
    receiver
}

fn text_of(stderr: Option<ChildStderr>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr?.read_to_end(&mut bytes).ok()?;
        sender.send(String::from_utf8_lossy(&bytes).into_owned()).ok()
    });
    receiver
}
