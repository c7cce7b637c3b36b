//! Two network namespaces joined by a veth pair, undone on drop:
//!
//! ```text
//!  a: eth0 172.16.0.2/24 ------ eth0 172.16.0.3/24 :b
//! ```

use std::{
    fs::File,
    net::Ipv4Addr,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// The interface in both namespaces.
pub const INTERFACE: &str = "eth0";
/// Address of side `a`.
pub const A: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
/// Address of side `b`.
pub const B: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 3);
/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);

/// Runs a command that must succeed.
pub fn run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output =
        Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Waits for something to become true, and says how long that took.
pub fn within(limit: Duration, what: &str, mut happened: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(5));
    }
    start.elapsed()
}

/// A network namespace.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    fn new(side: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Unique among processes by the pid, within this one by the number.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = Self { name: format!("xvip-vrrp-{}-{number}-{side}", std::process::id()) };
        run(&format!("ip netns add {}", netns.name));
        netns
    }

    /// Its name, for `ip -n` and `ip netns exec`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside. Sockets and threads that it makes stay inside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace's file");
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering the namespace (needs root)");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Not `run`: a second panic would hide the first.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// The two namespaces.
#[derive(Debug)]
pub struct Lan {
    /// Ours.
    pub a: Netns,
    /// The other one.
    pub b: Netns,
}

impl Lan {
    /// Makes both and their wire.
    pub fn new() -> Self {
        let lan = Self { a: Netns::new("a"), b: Netns::new("b") };
        lan.connect();
        for (netns, address) in [(&lan.a, A), (&lan.b, B)] {
            run(&format!("ip -n {} addr add {address}/24 dev {INTERFACE}", netns.name));
        }
        lan
    }

    /// Makes the wire, without addresses.
    pub fn connect(&self) {
        let (a, b) = (&self.a.name, &self.b.name);
        run(&format!("ip link add {INTERFACE} netns {a} type veth peer name {INTERFACE} netns {b}"));
        for name in [a, b] {
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip -n {name} link set {INTERFACE} up"));
        }
    }
}
