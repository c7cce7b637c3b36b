//! The course: a generator at one end of a veth, what is measured at the other.
//!
//! ```text
//! generator (live frames) ==> near ----- far  XDP: what is measured
//! sink (XDP, counts) <======= near ----- far  XDP_TX
//! ```
//!
//! All of it happens on the CPU that generates: the veth's receiving halves run as soft interrupts there.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::programs::{Generator, Sink};
use super::walk::Walk;
use crate::bpf::{self, XdpMode};
use crate::mass::NODE_MAC;
use crate::netns::Netns;

/// How often a round may be lost.
const TRIES: usize = 3;

/// Of that share of a round's packets nothing is measured, so that all that is made on the way is there.
const WARM_UP: u32 = 8;

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
            let text = machine.run(|| fs::read_to_string(path))??;
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
}

/// Where packets go that were sent through what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nowhere: they are dropped there.
    Nowhere,
    /// Back out of the interface that they came in by.
    Sink,
    /// Out of a device of this name.
    Device(&'static str),
}

/// What is measured, and what it is sent.
pub(crate) struct Subject<'a> {
    name: String,
    course: &'a Course,
    program: BorrowedFd<'a>,
    generator: Generator,
    end: End,
}

impl<'a> Subject<'a> {
    /// The program is attached only while it is measured.
    pub(crate) fn new(
        name: String,
        course: &'a Course,
        program: &'a impl AsFd,
        walk: &Walk,
        end: End,
    ) -> anyhow::Result<Self> {
        let generator = Generator::load(walk, course.near()).context("loading the generator")?;
        Ok(Self { name, course, program: program.as_fd(), generator, end })
    }

    /// In words.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Sends so many packets through it, `rounds` times, after some that are not looked at. Returns the nanoseconds that
    /// each took, generator included, in each round.
    ///
    /// # Errors
    /// They cannot be sent, or again and again some do not get to the end.
    pub(crate) fn measure(&self, cpu: usize, packets: u32, rounds: usize) -> anyhow::Result<Vec<u32>> {
        let _attached = self.course.attach(self.program)?;
        self.course.on_cpu(cpu, || {
            let mut nanoseconds = Vec::new();
            let mut last = (0, 0);
            self.send(packets.div_ceil(WARM_UP))?;
            // A batch may run into a queue that somebody else has kept full.
            for _ in 0..rounds * TRIES {
                last = self.send(packets)?;
                if last.0 == if self.end == End::Nowhere { 0 } else { packets.into() } {
                    nanoseconds.push(last.1);
                }
                if nanoseconds.len() == rounds {
                    return Ok(nanoseconds);
                }
            }
            bail!("{}: only {} of {packets} packets got to the end", self.name, last.0)
        })
    }

    /// Returns how many packets have arrived, and the nanoseconds that each took on average.
    fn send(&self, packets: u32) -> anyhow::Result<(u64, u32)> {
        let before = self.arrived()?;
        let nanoseconds = self.generator.send(packets).context("sending live frames")?;
        Ok((self.arrived()? - before, nanoseconds))
    }

    fn arrived(&self) -> anyhow::Result<u64> {
        let End::Device(name) = self.end else { return Ok(self.course.sink.count()?) };
        let path = format!("/sys/class/net/{name}/statistics/tx_packets");
        let text = fs::read_to_string(&path).context(path)?;
        text.trim().parse().context("a device's count")
    }
}
