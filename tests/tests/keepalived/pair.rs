//! One node with the real xvip and one with the real keepalived, in one election: what can be done to them, and who had
//! the address meanwhile.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lb_tests::addresses::{Family, Subnet};
use lb_tests::keepalived::{Keepalived, KeepalivedConfig};
use lb_tests::netns::Netns;
use lb_tests::node::{BackendConfig, LbNode, ServiceConfig, VrrpConfig};
use lb_tests::sampler::{EVERY, Held, Sampler};
use lb_tests::topology::Lab;
use lb_tests::wait;

use crate::table;

pub type Failure = Box<dyn Error>;

const VRID: u8 = 60;
/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(30);
/// What a busy machine may add to a hand-over or to a wait: the two processes need the processor after the packet came.
const SLACK: Duration = Duration::from_millis(250);
/// What the backend of the service listens on.
const BACKEND_PORT: u16 = 7000;

/// A member of the election. The number is its place among the machines of the sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The node with xvip.
    Us = 0,
    /// The node with keepalived.
    Them = 1,
}

impl Side {
    pub fn other(self) -> Self {
        match self {
            Self::Us => Self::Them,
            Self::Them => Self::Us,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Us => "xvip",
            Self::Them => "keepalived",
        })
    }
}

/// How the two speak, and how they compare.
#[derive(Debug, Clone, Copy)]
pub struct Speech {
    pub version: u8,
    pub family: Family,
    pub multicast: bool,
    pub password: Option<&'static str>,
    /// The priorities of us and of them.
    pub priorities: [u8; 2],
    /// The host number of keepalived's machine; ours is 2.
    pub peer: u8,
    /// What keepalived has in its configuration, where that is not what we have.
    pub their_interval: Option<Duration>,
}

impl Speech {
    /// Who outranks the other; of equal priorities it is the higher address.
    pub fn better(&self) -> Side {
        let [ours, theirs] = self.priorities;
        if (ours, 2) > (theirs, self.peer) { Side::Us } else { Side::Them }
    }

    pub fn interval(&self) -> Duration {
        if self.version == 2 { Duration::from_secs(1) } else { Duration::from_millis(200) }
    }

    /// `Skew_Time` (RFC 9568 §6.1; RFC 3768 §6.1).
    fn skew_time(&self, side: Side) -> Duration {
        self.interval() * (256 - u32::from(self.priorities[side as usize])) / 256
    }

    fn active_down_interval(&self, side: Side) -> Duration {
        3 * self.interval() + self.skew_time(side)
    }

    fn vip(&self) -> String {
        format!("{}/{}", self.family.vip(), self.family.prefix_length())
    }
}

impl fmt::Display for Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.family == Family::V6 { " IPv6" } else { "" };
        let cast = if self.multicast { "multicast" } else { "unicast" };
        let password = if self.password.is_some() { " PASS" } else { "" };
        write!(f, "v{}{family} {cast}{password}", self.version)
    }
}

/// What happened to the address in a case, at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub both: Duration,
    pub none: Duration,
}

impl Limits {
    /// The owner stays: nobody else has the address at any sample, and it is never gone.
    pub const UNMOVED: Self = Self { both: Duration::ZERO, none: Duration::ZERO };
    /// From one to the other at one advertisement.
    pub const HAND_OVER: Self = Self { both: SLACK, none: SLACK };

    /// Nobody has it for so long, which is what the protocol says.
    fn gap(of: Duration) -> Self {
        Self { both: SLACK, none: of + SLACK }
    }
}

/// How a machine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    /// Its cable is cut and its router killed at once: no power.
    Power,
    /// Its cable is cut; its router lives on and comes back with the cable.
    Cable,
}

/// The two nodes. Whoever is not in `alive` is dead or off the network: where its address is does not matter then.
pub struct Pair {
    // Processes before the machines that they run on.
    keepalived: Option<Keepalived>,
    _backend: Backend,
    sampler: Sampler,
    peer: Netns,
    lab: Lab,
    speech: Speech,
    nopreempt: [bool; 2],
    alive: Vec<Side>,
    relation: &'static str,
    failures: Vec<String>,
}

impl Pair {
    /// Two machines on a switch, nothing started.
    pub fn build(speech: Speech) -> Result<Self, Failure> {
        let mut builder = Lab::builder().lbs(1).masters(0);
        if speech.family == Family::V6 {
            builder = builder.ipv6();
        }
        let lab = builder.build()?;
        let peer = lab.add_machine("peer", speech.peer, false)?;
        let backend = SocketAddr::new(lab.client_address(speech.family), BACKEND_PORT);
        let listening = Backend::start(lab.client(), backend)?;
        let sampler = Sampler::begin(&[lab.lb(0).machine(), &peer], speech.family.vip())?;
        let [ours, theirs] = speech.priorities;
        let relation = match ours.cmp(&theirs) {
            std::cmp::Ordering::Less => "lower",
            std::cmp::Ordering::Equal => "equal",
            std::cmp::Ordering::Greater => "higher",
        };
        let mut pair = Self {
            keepalived: None,
            _backend: listening,
            sampler,
            peer,
            lab,
            speech,
            nopreempt: [false; 2],
            alive: vec![],
            relation,
            failures: vec![],
        };
        pair.configure(backend)?;
        Ok(pair)
    }

    fn configure(&mut self, backend: SocketAddr) -> Result<(), Failure> {
        let speech = self.speech;
        self.xvip().configure(|config| {
            config.small_tables();
            config.services = vec![ServiceConfig {
                vrrp: Some("main".to_owned()),
                health: vec!["check = \"tcp\"".to_owned()],
                backends: vec![BackendConfig::new("backend", backend)],
                ..ServiceConfig::new("plain", &speech.vip(), BACKEND_PORT)
            }];
            config.vrrp = vec![VrrpConfig {
                version: speech.version,
                priority: speech.priorities[0],
                advert_interval: Some(format!("{}ms", speech.interval().as_millis())),
                unicast: (!speech.multicast)
                    .then(|| (self.address(Side::Us), vec![self.address(Side::Them)])),
                extra: speech.password.iter().map(|password| format!("auth_pass = {password:?}")).collect(),
                ..VrrpConfig::new("main", VRID)
            }];
        })?;
        Ok(())
    }

    fn xvip(&self) -> &LbNode {
        self.lab.lb(0)
    }

    fn address(&self, side: Side) -> IpAddr {
        let number = match side {
            Side::Us => 2,
            Side::Them => self.speech.peer,
        };
        Subnet::Main.host(self.speech.family, number)
    }

    /// From the next start on it does not take over from a working router that it outranks.
    pub fn set_nopreempt(&mut self, side: Side) -> Result<(), Failure> {
        self.nopreempt[side as usize] = true;
        if side == Side::Us {
            self.xvip().configure(|config| config.vrrp[0].preempt = Some(false))?;
        }
        Ok(())
    }

    fn start(&mut self, side: Side) -> Result<(), Failure> {
        match side {
            Side::Us => self.xvip().start_within(2 * SOON)?,
            Side::Them => {
                let config = KeepalivedConfig {
                    version: self.speech.version,
                    virtual_router_id: VRID,
                    priority: self.speech.priorities[1],
                    interval: self.speech.their_interval.unwrap_or(self.speech.interval()),
                    nopreempt: self.nopreempt[1],
                    password: self.speech.password.map(str::to_owned),
                    unicast: (!self.speech.multicast)
                        .then(|| (self.address(Side::Them), self.address(Side::Us))),
                    vips: vec![self.speech.vip()],
                };
                self.keepalived = Some(Keepalived::start(&self.peer, self.lab.dir(), &config)?);
            }
        }
        self.alive.push(side);
        Ok(())
    }

    fn stop(&mut self, side: Side) -> Result<(), Failure> {
        match side {
            Side::Us => {
                let (status, _) = self.xvip().stop()?;
                if !status.success() {
                    return Err(format!("xvip ended with {status}").into());
                }
            }
            Side::Them => {
                if let Some(keepalived) = self.keepalived.take() {
                    keepalived.stop()?;
                }
            }
        }
        Ok(())
    }

    fn cable(side: Side) -> &'static str {
        match side {
            Side::Us => "lb1",
            Side::Them => "peer",
        }
    }

    /// One way to die by unicast, the other by multicast.
    fn death(&self) -> Death {
        if self.speech.multicast { Death::Cable } else { Death::Power }
    }

    fn die(&mut self, side: Side) -> Result<(), Failure> {
        self.alive.retain(|alive| *alive != side);
        self.lab.cut(Self::cable(side))?;
        if self.death() == Death::Power {
            match side {
                Side::Us => self.xvip().kill(),
                Side::Them => {
                    if let Some(keepalived) = self.keepalived.take() {
                        keepalived.kill();
                    }
                }
            }
        }
        Ok(())
    }

    /// A machine that was without power has nothing of what it had.
    fn clean(&self, side: Side) -> Result<(), Failure> {
        match side {
            Side::Us => {
                let config = self.xvip().config_path().display().to_string();
                let cleaned = self.xvip().xvip(&["cleanup", "--config", &config])?;
                if !cleaned.status.success() {
                    return Err(format!("xvip cleanup: {}", String::from_utf8_lossy(&cleaned.stderr)).into());
                }
            }
            Side::Them => {
                // It may not have had it.
                let _ = self.peer.ip(&format!("address delete {} dev eth0", self.speech.vip()));
            }
        }
        let gone = || !self.sampler.is_held_by(&[side as usize], &[side as usize]);
        Ok(wait::until("its address to be gone", SOON, gone)?)
    }

    fn come_back(&mut self, side: Side) -> Result<(), Failure> {
        if self.death() == Death::Cable {
            self.lab.heal(Self::cable(side))?;
            self.alive.push(side);
            return Ok(());
        }
        self.lab.heal(Self::cable(side))?;
        self.start(side)
    }

    /// Does something, waits until `owner` alone has the address, watches some more, and notes what became of it. How long
    /// it took until then.
    fn case(
        &mut self,
        name: String,
        owner: Side,
        limits: Limits,
        action: impl FnOnce(&mut Self) -> Result<(), Failure>,
    ) -> Result<Duration, Failure> {
        let begin = Instant::now();
        action(self).map_err(|error| self.told(&name, &error.to_string()))?;
        // One that was told to leave is still asked: it has left when it has not the address.
        let settled = wait::until(&format!("{owner} alone to have the address"), SOON, || self.owns(owner));
        settled.map_err(|error| self.told(&name, &error.to_string()))?;
        let took = begin.elapsed();
        // Long enough for whoever believes that nobody is there.
        let down = [Side::Us, Side::Them].map(|side| self.speech.active_down_interval(side));
        let moved = limits.none > 2 * EVERY;
        let until =
            Instant::now() + if moved { 2 * self.speech.interval() } else { down[0].max(down[1]) + SLACK };
        while Instant::now() < until {
            thread::sleep(Duration::from_millis(20));
        }
        let held = self.sampler.since(begin, &self.numbers());
        let mut wrong = vec![];
        if !self.owns(owner) {
            wrong.push(format!("{owner} has lost the address again"));
        }
        // A sample counts until the next one.
        let blur = |limit: Duration| if limit.is_zero() { limit } else { limit + held.resolution };
        if held.both > blur(limits.both) {
            wrong.push(format!("both had the address for {:?}", held.both));
        }
        if held.none > blur(limits.none) {
            wrong.push(format!("nobody had the address for {:?}", held.none));
        }
        self.note(&name, owner, held, took, limits);
        for wrong in wrong {
            let failure = format!("{wrong} (at most {limits:?})");
            self.failures.push(self.told(&name, &failure));
        }
        Ok(took)
    }

    fn note(&self, name: &str, owner: Side, held: Held, took: Duration, limits: Limits) {
        table::add(table::Row {
            speech: self.speech.to_string(),
            relation: self.relation,
            case: name.to_owned(),
            owner,
            held,
            took,
            limits,
        });
    }

    fn numbers(&self) -> Vec<usize> {
        self.alive.iter().map(|side| *side as usize).collect()
    }

    /// The addresses, and what our daemon says.
    fn owns(&self, owner: Side) -> bool {
        // In Fault, as after a cable was out, it hears nobody's farewell.
        let expected = if owner == Side::Us { "active" } else { "backup" };
        let says = || self.xvip().status().is_ok_and(|status| status.vrrp_state() == expected);
        let asked = self.alive.contains(&Side::Us) && self.xvip().is_running();
        self.sampler.is_held_by(&[owner as usize], &self.numbers()) && (!asked || says())
    }

    fn told(&self, case: &str, failure: &str) -> String {
        format!("{}, we are {}, {case}: {failure}", self.speech, self.relation)
    }

    /// It is started; then `owner` has the address.
    pub fn starts(&mut self, side: Side, owner: Side) -> Result<Duration, Failure> {
        let first = self.alive.is_empty();
        let limits = match () {
            () if first => Limits { both: Duration::ZERO, none: 4 * SOON },
            () if owner == side => Limits::HAND_OVER,
            () => Limits::UNMOVED,
        };
        let how = if first { "starts alone" } else { "returns" };
        let how = if self.nopreempt[side as usize] { format!("{how}, nopreempt") } else { how.to_owned() };
        self.case(format!("{side} {how}"), owner, limits, |pair| pair.start(side))
    }

    /// It leaves in order; then the other one has the address.
    pub fn releases(&mut self, side: Side) -> Result<Duration, Failure> {
        let owner = side.other();
        let limits = self.limits_of_release(side);
        let took = self.case(format!("{side} releases"), owner, limits, |pair| pair.stop(side))?;
        self.alive.retain(|alive| *alive != side);
        Ok(took)
    }

    /// `xvip vip release`: it goes on, and leaves the address to the other one.
    pub fn releases_on_command(&mut self) -> Result<Duration, Failure> {
        let limits = self.limits_of_release(Side::Us);
        self.case("xvip vip release".to_owned(), Side::Them, limits, |pair| pair.command("release"))
    }

    /// `xvip vip acquire`: it outranks the other one and takes the address back.
    pub fn acquires(&mut self) -> Result<Duration, Failure> {
        self.case("xvip vip acquire".to_owned(), Side::Us, Limits::HAND_OVER, |pair| pair.command("acquire"))
    }

    fn command(&self, word: &str) -> Result<(), Failure> {
        let done = self.xvip().xvip(&["vip", word])?;
        if done.status.success() { Ok(()) } else { Err(format!("xvip vip {word}: {done:?}").into()) }
    }

    fn limits_of_release(&self, side: Side) -> Limits {
        match (self.owns(side), side) {
            (false, _) => Limits::UNMOVED,
            // We keep the address until we hear them. They advertise before they put it on their interface, so that the
            // old owner takes it off before they announce it (keepalived: `vrrp_state_master_tx`).
            (true, Side::Us) => Limits::HAND_OVER,
            // They give it up at once.
            (true, Side::Them) => Limits::gap(self.speech.skew_time(Side::Us)),
        }
    }

    /// It dies; then the other one has the address.
    pub fn dies(&mut self, side: Side) -> Result<Duration, Failure> {
        let owner = side.other();
        let limits = if self.owns(side) {
            Limits::gap(self.speech.active_down_interval(owner))
        } else {
            Limits::UNMOVED
        };
        self.case(format!("{side} dies"), owner, limits, |pair| pair.die(side))
    }

    /// After it died it comes back; then `owner` has the address.
    pub fn recovers(&mut self, side: Side, owner: Side) -> Result<Duration, Failure> {
        let limits = if owner == side { Limits::HAND_OVER } else { Limits::UNMOVED };
        if self.death() == Death::Power {
            self.clean(side)?;
        }
        let how = if self.nopreempt[side as usize] { "recovers, nopreempt" } else { "recovers" };
        self.case(format!("{side} {how}"), owner, limits, |pair| pair.come_back(side))
    }

    /// A switch between them loses its mind until both are active; then it heals, and `owner` has the address.
    pub fn split_heals(&mut self, owner: Side) -> Result<Duration, Failure> {
        self.lab.isolate(Self::cable(Side::Them))?;
        wait::until("both to have the address", SOON, || self.sampler.is_held_by(&[0, 1], &[0, 1]))
            .map_err(|error| self.told("split", &error.to_string()))?;
        // The one that is wrong hears of the other within an interval.
        let limits = Limits { both: self.speech.interval() + SLACK, none: Duration::ZERO };
        self.case("split heals".to_owned(), owner, limits, |pair| {
            Ok(pair.lab.heal(Self::cable(Side::Them))?)
        })
    }

    /// Everything was understood on both sides, and every case went as it should.
    pub fn finish(&mut self) -> Result<(), Failure> {
        if let Ok(status) = self.xvip().status() {
            let vrrp = &status.raw["vrrp"][0];
            for (what, nothing) in [
                ("discarded", serde_json::json!({})),
                ("address_mismatches", 0.into()),
                ("interval_mismatches", 0.into()),
            ] {
                if vrrp[what] != nothing {
                    self.failures.push(self.told("in the end", &format!("xvip's {what}: {}", vrrp[what])));
                }
            }
        }
        let said = self.keepalived_said();
        let complaints =
            ["invalid", "bogus", "mismatch", "incorrect", "ignor", "unsupported", "not match", "expect"];
        for line in said.lines().filter(|line| complaints.iter().any(|word| line.contains(word))) {
            self.failures.push(self.told("in the end", &format!("keepalived said: {line}")));
        }
        if self.failures.is_empty() { Ok(()) } else { Err(self.failures.join("\n").into()) }
    }

    /// What both have said.
    pub fn logs(&self) -> String {
        format!("{}\nkeepalived said:\n{}", self.lab.last_lines(), self.keepalived_said())
    }

    fn keepalived_said(&self) -> String {
        fs::read_to_string(self.lab.dir().join("peer-keepalived.log")).unwrap_or_default()
    }
}

/// Accepts connections until it is dropped.
struct Backend {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    fn start(machine: &Netns, at: SocketAddr) -> Result<Self, Failure> {
        let listener = machine.run(|| -> io::Result<TcpListener> {
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })??;
        let done = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&done);
        let thread = thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                if listener.accept().is_err() {
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Ok(Self { done, thread: Some(thread) })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
