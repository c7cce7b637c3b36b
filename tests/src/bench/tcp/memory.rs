//! What idle connections cost in memory: of the kernel, and of the balancer's process.
//!
//! Kernel memory is counted for the whole machine (there is no other count that has sockets, connection tracking and maps
//! of BPF alike), so both ends of each connection are in it: the same with and without a balancer, whose own is what
//! remains when that is taken off.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use lb_load::client::Outcome;

use super::stacks::{Crowd, Stack, Stacks, driver};

/// For the kernel to free what was closed, which it does some time after.
const SETTLING: Duration = Duration::from_millis(1500);
/// Milliseconds within which connections have to be open, and those more for each.
const OPENING: (usize, f64) = (5000, 1.0);

/// Bytes that the lines of `/proc/meminfo` come to which grow with connections: slabs (sockets, tracked connections, and
/// what maps of BPF allocate), tables of pages, stacks, per-processor memory and large allocations.
const KERNEL: [&str; 5] = ["Slab", "PageTables", "KernelStack", "Percpu", "VmallocUsed"];

/// What came of holding so many connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// How many could be opened.
    pub connections: u64,
    /// Bytes of memory that the machine's kernel and the stack's processes have more than before.
    pub bytes: f64,
    /// Why not all, by the first that could not.
    pub failure: Option<String>,
}

/// Opens so many connections by way of a stack, and keeps them while it looks.
///
/// # Errors
/// When the clients do not run, or the kernel does not tell.
pub fn hold(stacks: &Stacks, stack: Stack, crowd: Crowd) -> anyhow::Result<Held> {
    let processes = stacks.processes(stack)?;
    let used = || -> anyhow::Result<u64> { Ok(kernel()? + own(&processes)?) };
    thread::sleep(SETTLING);
    let before = used()?;
    let limit = OPENING.0 + (crowd.connections as f64 * OPENING.1) as usize;
    let count = crowd.clients();
    let shares =
        (0..count).map(|number| crowd.connections / count + usize::from(number < crowd.connections % count));
    let mut clients: Vec<Clients> = vec![];
    let mut first = 0;
    for share in shares {
        let mut words = vec!["--work=hold".to_owned(), format!("--connections={share}")];
        words.extend([format!("--measure-ms={limit}"), format!("--first={first}")]);
        first += share;
        words.extend(stacks.addresses(stack).iter().map(|address| format!("--to={address}")));
        words.extend(stacks.client_addresses().iter().map(|address| format!("--from={address}")));
        let mut command = driver(stacks, &words);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        clients.push(Clients(stacks.lab().client().spawn(&mut command)?));
    }
    let (mut connections, mut failure) = (0, None);
    for one in &mut clients {
        let outcome = one.outcome()?;
        connections += outcome.done;
        failure = failure.or(outcome.first_failure);
    }
    thread::sleep(SETTLING);
    let after = used()?;
    Ok(Held { connections, bytes: after as f64 - before as f64, failure })
}

/// The clients' process: it resets its connections when its input ends.
struct Clients(Child);

impl Clients {
    /// What became of its connections: once, when all have been tried.
    fn outcome(&mut self) -> anyhow::Result<Outcome> {
        let mut line = String::new();
        if let Some(stdout) = self.0.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        serde_json::from_str(&line).with_context(|| format!("the clients said {line:?}"))
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Bytes of the kernel's.
fn kernel() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    Ok(KERNEL.iter().filter_map(|key| kibibytes(&text, key)).sum())
}

/// Bytes of memory that these processes have for themselves.
fn own(processes: &[u32]) -> anyhow::Result<u64> {
    let mut sum = 0;
    for id in processes {
        let file = Path::new("/proc").join(id.to_string()).join("status");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        sum += kibibytes(&text, "RssAnon").context("no RssAnon")?;
    }
    Ok(sum)
}

/// The value of a line like `Slab:   1234 kB`, in bytes.
fn kibibytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_by_their_whole_name() {
        let text = "SlabInfo:  7 kB\nSlab:   1234 kB\nHugePages_Total:       0\n";
        assert_eq!(kibibytes(text, "Slab"), Some(1234 * 1024));
        assert_eq!(kibibytes(text, "HugePages_Total"), None);
        assert_eq!(kibibytes(text, "Sla"), None);
    }

    #[test]
    fn the_kernel_and_this_process_have_some() {
        assert!(kernel().unwrap() > 1 << 20);
        assert!(own(&[std::process::id()]).unwrap() > 1 << 12);
    }
}
