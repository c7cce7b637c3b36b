//! A program in the kernel, with all flows of its cases in its tables.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use aya::programs::ProgramInfo;
use lb_common::layout::{BackendId, MODE_NAT};
use lb_common::reason::{PassReason, TransmitReason, Verdict};
use lb_userspace::config::model::{Flows, default_half_open_max};

use super::cases::{Case, Packets, Plane, Spec};
use super::katran::Katran;
use crate::bpf::only_returning;
use crate::mass::{
    self, ACK, BACKEND_PORT, Mass, Packet, SYN, Service, VIP, VIP6, XDP_PASS, XDP_TX, backend,
};
use crate::rig::{self, Flow, Places, Prepared, Rig, client, scattered};

/// Another host's addresses.
const FOREIGN: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 8, 7)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd10, 0, 0, 9, 0, 0, 0, 7)),
];
/// The network of the clients in IPv6; their last four bytes are those of the IPv4 clients.
const CLIENTS6: [u8; 12] = [0xfd, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Of so many half-open flows a backend's NAT ports are a quarter full: the search for one that is free always ends well.
const HALF_OPEN_AT_BACKEND: u32 = 16_384;
/// From the ids of one service's backends to those of the next.
const NEXT_BACKENDS: BackendId = 100;
/// Flows that SYNs begin, before they begin again with the first.
pub const NEW_FLOWS: u32 = 1 << 20;

/// What the measurement is made with.
#[derive(Debug, Clone)]
pub struct Scale {
    /// Entries of the table of established flows, as the kernel counts.
    pub table: u32,
    /// The CPU on which packets are run.
    pub cpu: u32,
    /// The peer's object file.
    pub katran: Option<PathBuf>,
}

/// How large a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Instructions after the verifier.
    pub instructions: u32,
    /// Bytes of machine code.
    pub machine_code: u32,
}

impl Size {
    /// What the kernel says; zero where it does not.
    #[must_use]
    pub fn of(info: &ProgramInfo) -> Self {
        Self { instructions: info.size_translated().unwrap_or(0) / 8, machine_code: info.size_jitted() }
    }
}

/// A program in the kernel.
pub struct Loaded {
    program: Program,
    /// For each service the NAT addresses of its flows with their backends, by the client's number.
    replies: BTreeMap<usize, Vec<(SocketAddr, SocketAddr)>>,
}

enum Program {
    Xvip(Box<Mass>),
    Katran(Box<Katran>),
    Pass(OwnedFd),
}

impl Loaded {
    /// Loads the program of a plane, and opens the flows that its cases need.
    ///
    /// # Errors
    /// Where the kernel refuses, or a flow does not come about.
    pub fn load(plane: Plane, cases: &[&Case], scale: &Scale) -> anyhow::Result<Self> {
        let mut flows = BTreeMap::<usize, u32>::new();
        for case in cases {
            let most = flows.entry(case.service).or_default();
            *most = case.flows().max(*most);
        }
        let specs = plane.services();
        let mut replies = BTreeMap::new();
        let program = match plane {
            Plane::Pass => Program::Pass(only_returning(XDP_PASS)?),
            Plane::Katran | Plane::KatranNew => {
                let object = scale.katran.as_ref().context("no object of Katran's was given")?;
                let mut katran = Katran::load(object, scale.cpu, scale.table)?;
                let services = specs.iter().enumerate();
                let services = services.map(|(index, spec)| (at(index, *spec), backends(index, *spec)));
                katran.serve(
                    &services.map(|(at, ids)| (at, ids.map(|one| one.1.ip()).collect())).collect::<Vec<_>>(),
                )?;
                for (&service, &count) in &flows {
                    let spec = specs[service];
                    let before: u32 = specs[..service].iter().map(|spec| u32::from(spec.backends)).sum();
                    for n in 0..count {
                        let real = 1 + before + n % u32::from(spec.backends);
                        katran.open(source(n, spec.v6), at(service, spec), real)?;
                    }
                }
                Program::Katran(Box::new(katran))
            }
            _ => {
                let services: Vec<_> = specs
                    .iter()
                    .enumerate()
                    .map(|(index, spec)| {
                        let ids = first_backend(index, *spec)..first_backend(index, *spec) + spec.backends;
                        let crosses = spec.crosses;
                        Service { mode: spec.mode, crosses, ..Service::nat(at(index, *spec), ids) }
                    })
                    .collect();
                let mass = Mass::load(&tables(scale.table, &specs), &services)?;
                for (&service, &count) in &flows {
                    let spec = specs[service];
                    let opened = open(&mass, spec, at(service, spec), count)
                        .with_context(|| format!("{plane:?}, service {service}"))?;
                    replies.insert(service, opened);
                }
                Program::Xvip(Box::new(mass))
            }
        };
        Ok(Self { program, replies })
    }

    /// Puts the program behind the wrapper with the packets of a case.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn prepare(&self, rig: &Rig, case: &Case) -> anyhow::Result<Prepared> {
        let v6 = case.is_v6();
        let to = match (case.packets, case.plane.services().get(case.service)) {
            (Packets::Foreign, _) | (_, None) => SocketAddr::new(FOREIGN[usize::from(v6)], BACKEND_PORT),
            (_, Some(spec)) => at(case.service, *spec),
        };
        let frame = |src, dst, flags| {
            mass::frame(
                &Packet { src, dst, seq: 1, ack: u32::from(flags == ACK), flags },
                if v6 { 80 } else { 64 },
            )
        };
        let clients = |count: u32, template: &[u8]| -> Vec<Flow> {
            scattered(count).map(|n| flow(source(n, v6), source(n, v6).port(), template)).collect()
        };
        let from_clients = if v6 { Places::V6_SOURCE } else { Places::V4_SOURCE };
        let (template, places, flows) = match case.packets {
            Packets::Established(count) => {
                let template = frame(source(0, v6), to, ACK);
                let flows = clients(count, &template);
                (template, from_clients, flows)
            }
            Packets::New => {
                let template = frame(source(0, v6), to, SYN);
                let flows = clients(NEW_FLOWS, &template);
                (template, from_clients, flows)
            }
            Packets::Foreign => {
                let template = frame(source(0, v6), to, ACK);
                let flows = clients(1, &template);
                (template, from_clients, flows)
            }
            Packets::Replies(count) => {
                let opened = self.replies.get(&case.service).context("the flows have no NAT ports")?;
                let (nat, server) = *opened.first().context("no flow was opened")?;
                let template = frame(server, nat, ACK);
                let each = scattered(count).filter_map(|n| opened.get(n as usize));
                let flows = each.map(|(nat, server)| flow(*server, nat.port(), &template)).collect();
                (template, if v6 { Places::V6_REPLY } else { Places::V4_REPLY }, flows)
            }
        };
        let packets = rig::Case { frame: &template, places, flows: &flows };
        Ok(rig.prepare(self.program()?, &packets, case.form)?)
    }

    fn program(&self) -> anyhow::Result<BorrowedFd<'_>> {
        match &self.program {
            Program::Xvip(mass) => Ok(mass.program()),
            Program::Katran(katran) => katran.program(),
            Program::Pass(program) => Ok(program.as_fd()),
        }
    }

    /// How often the program did what it ought to do with such packets, since it was loaded; none where it does not count.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn count(&mut self, packets: Packets) -> anyhow::Result<Option<u64>> {
        match &mut self.program {
            Program::Xvip(mass) => {
                let verdict = match packets {
                    Packets::Established(_) | Packets::New => Verdict::Transmit(TransmitReason::ToBackend),
                    Packets::Replies(_) => Verdict::Transmit(TransmitReason::ToClient),
                    Packets::Foreign => Verdict::Pass(PassReason::NotVip),
                };
                Ok(mass.dataplane().counters()?.get(verdict.counter() as usize).copied())
            }
            Program::Katran(katran) => {
                let counts = katran.counts()?;
                Ok(Some(match packets {
                    // One that is not in its table goes to a backend, too, and is another path.
                    Packets::Established(_) | Packets::Replies(_) => counts.sent - counts.missed,
                    Packets::New => counts.sent,
                    Packets::Foreign => counts.passed,
                }))
            }
            Program::Pass(_) => Ok(None),
        }
    }

    /// How large the program is, and all programs that belong to it.
    ///
    /// # Errors
    /// Where the kernel does not say.
    pub fn sizes(&self) -> anyhow::Result<Option<[Size; 2]>> {
        match &self.program {
            Program::Xvip(mass) => {
                let programs = mass.programs()?;
                let entry = programs.iter().find(|info| info.name_as_str() == Some(mass::ENTRY));
                let entry = Size::of(entry.context("the entry program is not loaded")?);
                let all = programs.iter().map(Size::of).fold(
                    Size { instructions: 0, machine_code: 0 },
                    |sum, one| Size {
                        instructions: sum.instructions + one.instructions,
                        machine_code: sum.machine_code + one.machine_code,
                    },
                );
                Ok(Some([entry, all]))
            }
            Program::Katran(katran) => Ok(Some([katran.size()?; 2])),
            Program::Pass(_) => Ok(None),
        }
    }
}

/// Tables with that many entries for established flows, of which one may have two. The table of half-open flows is as large
/// as by default, but for a service with few backends: it is full of new flows soon, and they must not run out of NAT ports.
fn tables(entries: u32, specs: &[Spec]) -> Flows {
    let max = entries / 2;
    let backends = specs.iter().map(|spec| u32::from(spec.backends)).min().unwrap_or(1);
    Flows {
        max,
        half_open_max: default_half_open_max(max).min(backends * HALF_OPEN_AT_BACKEND),
        sources_max: 65_536,
        idle_timeout: Duration::from_secs(24 * 3600),
        rebuild: Duration::ZERO,
    }
}

/// Where a service is: each has a port of its own.
fn at(index: usize, spec: Spec) -> SocketAddr {
    let port = BACKEND_PORT + index as u16;
    if spec.v6 { SocketAddr::from((VIP6, port)) } else { SocketAddr::from((VIP, port)) }
}

/// The id of a service's first backend.
fn first_backend(index: usize, spec: Spec) -> BackendId {
    index as BackendId * spec.backends.min(NEXT_BACKENDS)
}

/// The ids of a service's backends, with their addresses.
fn backends(index: usize, spec: Spec) -> impl Iterator<Item = (BackendId, SocketAddr)> {
    let first = first_backend(index, spec);
    (first..first + spec.backends).map(move |id| (id, backend(id, spec.v6 != spec.crosses)))
}

/// Client number `n`.
fn source(n: u32, v6: bool) -> SocketAddr {
    let (ip, port) = client(n);
    if !v6 {
        return SocketAddr::from((ip, port));
    }
    let mut wide = [0; 16];
    wide[..12].copy_from_slice(&CLIENTS6);
    wide[12..].copy_from_slice(&ip.octets());
    SocketAddr::new(IpAddr::from(wide), port)
}

fn flow(from: SocketAddr, port: u16, template: &[u8]) -> Flow {
    match from.ip() {
        IpAddr::V4(ip) => Flow::v4(ip, port, template),
        IpAddr::V6(ip) => Flow::v6(ip, port),
    }
}

/// Opens the flows of clients 0 to `count - 1`. Returns, for nat, their NAT addresses and backends.
fn open(
    mass: &Mass,
    spec: Spec,
    at: SocketAddr,
    count: u32,
) -> anyhow::Result<Vec<(SocketAddr, SocketAddr)>> {
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u32);
    let share = count.div_ceil(threads).max(1);
    let mut opened = vec![];
    let shares = thread::scope(|scope| {
        let one = |first: u32| {
            move || (first..count.min(first + share)).map(|n| open_one(mass, spec, at, n)).collect()
        };
        let threads: Vec<_> =
            (0..threads).map(|thread| scope.spawn(one((thread * share).min(count)))).collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    for share in shares {
        let Ok(share): thread::Result<anyhow::Result<Vec<_>>> = share else { bail!("a thread died") };
        opened.append(&mut share?);
    }
    ensure!(opened.len() == count as usize, "{} of {count} flows", opened.len());
    Ok(opened)
}

fn open_one(mass: &Mass, spec: Spec, at: SocketAddr, n: u32) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    let mut runner = mass.runner();
    let client = source(n, spec.v6);
    let refused = |action| anyhow::anyhow!("flow {n} of {client}: XDP action {action}");
    if spec.mode == MODE_NAT {
        let opened = runner.open(client, at)?.map_err(refused)?;
        return Ok((opened.nat, opened.backend));
    }
    for flags in [SYN, ACK] {
        let (action, _) = runner.run(&Packet { src: client, dst: at, seq: 0, ack: 0, flags })?;
        if action != XDP_TX {
            return Err(refused(action));
        }
    }
    Ok((at, at))
}
