//! The course: a generator at one end of a veth, what is measured at the other.
//!
//! ```text
//! generator (live frames) ==> near ----- far  XDP: what is measured
//! sink (XDP, counts) <======= near ----- far  XDP_TX
//! ```
//!
//! All of it happens on the CPU that generates: the veth's receiving halves run as soft interrupts there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::programs::{Generator, Sink};
use crate::bpf::{self, XdpMode};
use crate::mass::NODE_MAC;
use crate::netns::Netns;

/// Two ends of a veth in a network of their own.
pub(crate) struct Course {
    machine: Netns,
    near: u32,
    far: u32,
    sink: Sink,
    _at_near: OwnedFd,
}

impl Course {
    /// With the sink in its place.
    pub(crate) fn build() -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let machine = Netns::create(&format!("wire-{}-{n}", std::process::id()), false)?;
        machine.ip("link add near type veth peer name far")?;
        let [a, b, c, d, e, f] = NODE_MAC;
        machine.ip(&format!("link set far address {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"))?;
        machine.ip("link set near up")?;
        machine.ip("link set far up")?;
        let index = |name: &str| -> anyhow::Result<u32> {
            let path = format!("/sys/class/net/{name}/ifindex");
            let text = machine.run(|| std::fs::read_to_string(path))??;
            text.trim().parse().context("an interface's index")
        };
        let (near, far) = (index("near")?, index("far")?);
        let sink = Sink::load().context("loading the sink")?;
        let at_near = machine.run(|| bpf::attach_xdp(sink.program(), near, XdpMode::Native))??;
        Ok(Self { machine, near, far, sink, _at_near: at_near })
    }

    /// The interface whose packets are measured.
    pub(crate) fn far(&self) -> u32 {
        self.far
    }

    /// The interface that generators send by.
    pub(crate) fn near(&self) -> u32 {
        self.near
    }

    /// The network.
    pub(crate) fn machine(&self) -> &Netns {
        &self.machine
    }

    /// How many packets have arrived at the sink so far.
    pub(crate) fn arrived(&self) -> io::Result<u64> {
        self.sink.count()
    }

    /// Puts a program in the place of what is measured, until the descriptor is closed.
    pub(crate) fn attach(&self, program: impl AsFd + Send) -> anyhow::Result<OwnedFd> {
        self.machine
            .run(|| bpf::attach_xdp(program, self.far, XdpMode::Native))?
            .context("attaching XDP to a veth")
    }

    /// Does something in this network, on this CPU.
    pub(crate) fn on_cpu<T: Send>(
        &self,
        cpu: usize,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        self.machine.run(|| {
            let mut only = CpuSet::new();
            only.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &only).context("staying on one CPU")?;
            work()
        })?
    }

    /// Sends frames; returns how many have arrived at the sink, and the nanoseconds that each took on average.
    pub(crate) fn send(&self, generator: &Generator, frames: u32) -> io::Result<(u64, u32)> {
        let before = self.arrived()?;
        let nanoseconds = generator.send(frames)?;
        Ok((self.arrived()? - before, nanoseconds))
    }
}
