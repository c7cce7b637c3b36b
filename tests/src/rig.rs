//! What a packet costs in an XDP program, ours or anybody's, by `BPF_PROG_TEST_RUN` and without its trap: with `repeat` above
//! one the kernel restores neither the frame's bytes nor its bounds, and a program that rewrites packets sees its own output
//! from the second run on.
//!
//! So a small program goes first ([`wrapper`]): it moves the frame back to where it began, writes it anew, puts in what tells
//! this flow from the next, and goes on by a tail call to the program that is measured. What that one costs is the
//! difference to a program of two instructions behind the same wrapper (the floor), which runs immediately before.
//!
//! The same with live frames ([`Form::Live`]): each is a frame that the kernel has taken from its page pool and gives back
//! afterwards. There it restores the bounds itself, and the wrapper has less to do.
//!
//! ```no_run
//! # fn main() -> std::io::Result<()> {
//! # let program: std::os::fd::BorrowedFd<'_> = unimplemented!();
//! use lb_tests::rig::{Case, Flow, Form, Places, Rig};
//! let rig = Rig::pinned(1)?;
//! let frame = [0; 64];
//! let flows = [Flow::v4([100, 64, 0, 1].into(), 1024, &frame)];
//! let case = Case { frame: &frame, places: Places::V4_SOURCE, flows: &flows };
//! let bench = rig.prepare(program, &case, Form::Repeated)?;
//! let measured = bench.measure(0, 1_000_000)?;
//! println!("{} ns more than XDP_TX", measured.ns - measured.floor_ns);
//! # Ok(()) }
//! ```

mod wrapper;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::bpf::{self, Bytes, ExpectedAttach, Target, only_returning, test_run};
use crate::mass::XDP_TX;

/// Bytes at the beginning of a frame that may be written anew each time.
pub const TEMPLATE_AT_MOST: usize = 128;
/// The headers of an IPv4 packet and an IPv6 one begin behind Ethernet.
const ETHERNET: usize = 14;

/// Measures on one CPU.
#[derive(Debug)]
pub struct Rig {
    _private: (),
}

/// In which form the kernel runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Form {
    /// Again and again on one buffer, and nothing else.
    Repeated,
    /// On live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18): with each comes what the kernel does to allocate it, and to
    /// follow the program's action. The frames are loopback's, which takes none that XDP sends: whatever the program sends is
    /// given back at once, and the next packet has the same page. What a program passes goes to the network stack.
    Live,
}

/// The packets of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The frame before the flow is written into it: 64 bytes for IPv4, 80 for IPv6, as others have measured. All of it is
    /// written anew each time, up to [`TEMPLATE_AT_MOST`] bytes.
    pub frame: &'a [u8],
    /// Where in the frame a flow is written.
    pub places: Places,
    /// The flows, one after the other and then from the first again: a power of two of them. Packet number `n` is of
    /// `flows[n % flows.len()]`; for an order without neighbours see [`scattered`].
    pub flows: &'a [Flow],
}

/// Offsets in the frame of what tells one flow from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Four bytes of an address; of an IPv6 address the last.
    pub address: usize,
    /// A TCP port.
    pub port: usize,
    /// The checksum of the IPv4 header.
    pub checksum: Option<usize>,
}

impl Places {
    /// A client's packets over IPv4: source address and source port.
    pub const V4_SOURCE: Self =
        Self { address: ETHERNET + 12, port: ETHERNET + 20, checksum: Some(ETHERNET + 10) };
    /// Likewise over IPv6.
    pub const V6_SOURCE: Self = Self { address: ETHERNET + 8 + 12, port: ETHERNET + 40, checksum: None };
    /// A backend's packets over IPv4: source address and destination port, which is the NAT port.
    pub const V4_REPLY: Self = Self { port: ETHERNET + 22, ..Self::V4_SOURCE };
    /// Likewise over IPv6.
    pub const V6_REPLY: Self = Self { port: ETHERNET + 42, ..Self::V6_SOURCE };
}

/// What one flow's packets have at those places, as on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    address: [u8; 4],
    port: [u8; 2],
    checksum: [u8; 2],
}

impl Flow {
    /// With this source address and port (the source port, or with [`Places::V4_REPLY`] the destination's). `frame` is the
    /// case's, an Ethernet header and an IPv4 header without options; of the checksum everything else is taken from there.
    ///
    /// # Panics
    /// Where the frame ends before the header does.
    #[must_use]
    pub fn v4(source: Ipv4Addr, port: u16, frame: &[u8]) -> Self {
        let header = &frame[ETHERNET..ETHERNET + 20];
        let word = |at: usize| u32::from(u16::from_be_bytes([header[at], header[at + 1]]));
        let [high, low] = [source.to_bits() >> 16, source.to_bits() & 0xffff];
        let others: u32 = [0, 2, 4, 6, 8, 16, 18].into_iter().map(word).sum();
        let mut sum = others + high + low;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let checksum = (!(sum as u16)).to_be_bytes();
        Self { address: source.octets(), port: port.to_be_bytes(), checksum }
    }

    /// With this source address, of which all but the last four bytes stand in the case's frame, and this port.
    #[must_use]
    pub fn v6(source: Ipv6Addr, port: u16) -> Self {
        let [.., a, b, c, d] = source.octets();
        Self { address: [a, b, c, d], port: port.to_be_bytes(), checksum: [0; 2] }
    }

    /// As the wrapper reads it.
    const fn bytes(self) -> [u8; 8] {
        let ([a, b, c, d], [e, f], [g, h]) = (self.address, self.port, self.checksum);
        [a, b, c, d, e, f, g, h]
    }
}

/// The source of client number `n` of many, as Katran was measured with: `100.64.0.0 + n` and a port.
#[must_use]
pub const fn client(n: u32) -> (Ipv4Addr, u16) {
    let port = 1024 + (((n >> 16) * 4099 + (n & 0xffff)) & 0x7fff);
    (Ipv4Addr::from_bits(0x6440_0000 + (n & 0xffff)), port as u16)
}

/// The numbers below `count`, a power of two, each once, no two neighbours in a row: `n * 0x9E3779B1 mod count`.
pub fn scattered(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |n| n.wrapping_mul(0x9e37_79b1) & (count - 1))
}

/// What a measurement came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Nanoseconds per packet with a program that only returns `XDP_TX`, the wrapper included; the kernel's whole number.
    pub floor_ns: f64,
    /// Nanoseconds per packet with the program, likewise.
    pub ns: f64,
    /// What the program returned for the last packet (`enum xdp_action`); of live frames the kernel does not tell: 0.
    pub action: u32,
}

impl Measured {
    /// Nanoseconds per packet of the program alone.
    #[must_use]
    pub fn net(&self) -> f64 {
        self.ns - self.floor_ns
    }
}

impl Rig {
    /// Ties the calling thread to a CPU, for ever.
    ///
    /// # Errors
    /// Where there is no such CPU.
    pub fn pinned(cpu: usize) -> io::Result<Self> {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &only)?;
        Ok(Self { _private: () })
    }

    /// Puts a program behind the wrapper. It may be of any origin, so long as it takes frames in one piece (is not loaded
    /// with `BPF_F_XDP_HAS_FRAGS`).
    ///
    /// # Errors
    /// Where the kernel refuses.
    ///
    /// # Panics
    /// Where a case makes no sense.
    pub fn prepare(&self, program: BorrowedFd<'_>, case: &Case<'_>, form: Form) -> io::Result<Prepared> {
        let Case { frame, places, flows } = *case;
        let last = places.address.max(places.port).max(places.checksum.unwrap_or(0)) + 4;
        assert!(frame.len() >= last && flows.len().is_power_of_two(), "no case: {places:?}");
        let state = Bytes::create(wrapper::STATE)?;
        let table = Bytes::create(flows.len() * 8)?;
        table.write(&flows.iter().flat_map(|flow| flow.bytes()).collect::<Vec<u8>>())?;
        let wrap = |expected| {
            let target = Target::create()?;
            let code =
                wrapper::assemble(case, form, state.descriptor(), table.descriptor(), target.descriptor());
            let code = bpf::load_xdp_as(&code, expected)?;
            Ok::<_, io::Error>(Wrapped { code, target })
        };
        let floor = wrap(ExpectedAttach::Nothing)?;
        floor.target.set(only_returning(XDP_TX)?.as_fd())?;
        // Loaders differ in what they say of an XDP program, and a tail call leads only to one that is like its caller.
        let mut subject = wrap(ExpectedAttach::Interface)?;
        if subject.target.set(program).is_err() {
            subject = wrap(ExpectedAttach::Nothing)?;
            subject.target.set(program)?;
        }
        Ok(Prepared { form, frame: frame.to_vec(), state, _table: table, floor, subject })
    }
}

/// A wrapper, and where it leads.
#[derive(Debug)]
struct Wrapped {
    code: OwnedFd,
    target: Target,
}

/// A program behind the wrapper, beside its floor.
#[derive(Debug)]
pub struct Prepared {
    form: Form,
    frame: Vec<u8>,
    state: Bytes,
    _table: Bytes,
    floor: Wrapped,
    subject: Wrapped,
}

impl Prepared {
    /// Runs the floor and then the program with packets number `first` to `first + packets - 1`. Whether all of them became
    /// what they should is for the caller to see: by the program's own counters.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn measure(&self, first: u64, packets: u32) -> io::Result<Measured> {
        let floor_ns = self.run_floor(first, packets)?;
        let (action, ns) = self.run_program(first, packets)?;
        Ok(Measured { floor_ns, ns, action })
    }

    /// Only the floor: nanoseconds per packet.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run_floor(&self, first: u64, packets: u32) -> io::Result<f64> {
        Ok(self.run(&self.floor, first, packets)?.1.into())
    }

    /// Only the program: what it returned for the last packet, and nanoseconds per packet.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn run_program(&self, first: u64, packets: u32) -> io::Result<(u32, f64)> {
        let (action, ns) = self.run(&self.subject, first, packets)?;
        Ok((action, ns.into()))
    }

    fn run(&self, wrapped: &Wrapped, first: u64, packets: u32) -> io::Result<(u32, u32)> {
        self.state.write(&wrapper::state(first))?;
        match self.form {
            Form::Repeated => test_run::run_repeated(wrapped.code.as_fd(), &self.frame, packets),
            Form::Live => Ok((0, test_run::run_live(wrapped.code.as_fd(), &self.frame, packets)?)),
        }
    }
}

#[cfg(test)]
mod tests;
