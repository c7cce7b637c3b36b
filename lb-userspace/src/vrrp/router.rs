//! A virtual router at work: one thread that joins the machine, the socket and the clock.
//!
//! ```text
//!            Command, wake-up                 RouterStatus             RouterStatus
//!  Router  ------------------> vrrp-NAME --------------> vrrp-NAME-say ------------> watch
//!                               |  ^                       (also logs)
//!                     socket, deadline of the machine
//! ```
//!
//! The first thread waits for nothing but its socket, its wake-up and its deadline: it takes no lock that others hold,
//! writes no log and calls nobody. A reader that holds on to the watch channel, or a full pipe behind the log, stops
//! the second thread only.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use super::{
    advert::{Advertisement, Auth, Centiseconds, Dialect, Discard, Password, Priority, Seconds, Vrid},
    fsm::{ArrivalCredit, Event, Settings, VirtualRouter, VrrpState},
    socket::{self, SocketError, VrrpSocket},
};
use crate::config::model::{VrrpInstance, VrrpVersion};

/// How often the thread looks whether its interface is still there.
const INTERFACE_CHECK: Duration = Duration::from_millis(500);

/// Packets taken from the socket before timers and commands have their turn.
const PACKETS_AT_ONCE: usize = 64;

/// Why a virtual router could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// An advertisement lists 1 to 255 addresses.
    #[error("{0} virtual addresses; a virtual router has 1 to 255")]
    VipCount(usize),
    /// Not an interval of this version.
    #[error("an advertisement interval of {interval:?} cannot be sent with VRRP version {version}")]
    Interval {
        /// As configured.
        interval: Duration,
        /// As configured.
        version: u8,
    },
    /// Not a password of version 2.
    #[error("auth_pass must have 1 to 8 bytes, and version 3 has none")]
    Password,
    /// The socket could not be opened.
    #[error("no VRRP socket")]
    Socket(#[from] SocketError),
    /// A thread or its wake-up could not be made.
    #[error("no thread for the virtual router")]
    Thread(#[source] io::Error),
}

/// Whose advertisements count at the moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ActiveRouter {
    /// Its primary address.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
}

/// What a virtual router is doing: a level, of which only the newest value matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouterStatus {
    /// Name of the instance.
    pub name: String,
    /// The state.
    pub state: VrrpState,
    /// When it was entered, by the wall clock, for people.
    #[serde(serialize_with = "as_rfc3339")]
    pub since: SystemTime,
    /// Why it was entered, in words.
    pub reason: String,
    /// What we advertise: the configured priority, or 1 while released.
    pub priority: u8,
    /// Whether a release is in force.
    pub released: bool,
    /// Source of our advertisements.
    pub primary_address: Ipv4Addr,
    /// The Active router: us, or the last one heard.
    pub active_router: Option<ActiveRouter>,
    /// Advertisements that left for at least one destination.
    pub adverts_sent: u64,
    /// Advertisements that were for us and well-formed.
    pub adverts_received: u64,
    /// Advertisements that could not be sent to somebody.
    pub send_errors: u64,
    /// The last such error; gone after a success.
    pub send_error: Option<String>,
    /// Errors when receiving; not about packets.
    pub receive_errors: u64,
    /// Packets not used, by reason ([`Discard::name`]).
    pub discards: BTreeMap<&'static str, u64>,
    /// Advertisements used although their list of addresses is not ours: the configurations differ.
    pub address_mismatches: u64,
    /// How often the state changed.
    pub transitions: u64,
    /// Grows whenever the network should be told (again) where the addresses are.
    pub announce_generation: u64,
    /// Whether the thread runs before all ordinary ones.
    pub realtime: bool,
}

/// A running virtual router. Dropping it is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Router {
    commands: mpsc::Sender<Command>,
    wake: UnixStream,
    status: watch::Receiver<RouterStatus>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
enum Command {
    Tracking(Result<(), String>),
    Release,
    Acquire,
    Shutdown,
}

impl Router {
    /// Starts the virtual router `instance` for `vips` on `interface`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// See [`SpawnError`]. Nothing has been started then.
    pub fn spawn(instance: &VrrpInstance, interface: &str, vips: &[Ipv4Addr]) -> Result<Self, SpawnError> {
        if vips.is_empty() || vips.len() > usize::from(u8::MAX) {
            return Err(SpawnError::VipCount(vips.len()));
        }
        let dialect = dialect(instance)?;
        let (wake, woken) = UnixStream::pair().map_err(SpawnError::Thread)?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true).map_err(SpawnError::Thread)?;
        }
        let plan = SocketPlan {
            interface: interface.to_owned(),
            source: instance.unicast_source.and_then(ipv4),
            peers: instance.unicast_peers.iter().copied().filter_map(ipv4).collect(),
            vips: vips.to_vec(),
        };
        let socket = plan.open()?;
        let settings = Settings {
            priority: instance.priority,
            interval: dialect.interval(),
            preempt: instance.preempt,
            preempt_delay: instance.preempt_delay,
            primary_address: socket.source().into(),
            arrival_credit: ArrivalCredit::Unlimited,
        };
        let now = Instant::now();
        let machine = VirtualRouter::new(settings, now);
        let status = RouterStatus {
            name: instance.name.clone(),
            state: machine.state(),
            since: SystemTime::now(),
            reason: machine.reason().to_string(),
            priority: machine.priority().0,
            released: false,
            primary_address: socket.source(),
            active_router: None,
            adverts_sent: 0,
            adverts_received: 0,
            send_errors: 0,
            send_error: None,
            receive_errors: 0,
            discards: BTreeMap::new(),
            address_mismatches: 0,
            transitions: 0,
            announce_generation: 0,
            realtime: false,
        };
        let (sender, receiver) = watch::channel(status.clone());
        let (commands, commands_received) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let driver = Driver {
            machine,
            vrid: Vrid(instance.virtual_router_id),
            dialect,
            plan,
            socket: Some(socket),
            interface_fault: None,
            tracking: Ok(()),
            next_interface_check: now + INTERFACE_CHECK,
            commands: commands_received,
            woken,
            status,
            say,
        };
        let name = format!("vrrp-{}", instance.name);
        let mut router = Self { commands, wake, status: receiver, threads: Vec::new() };
        let saying =
            thread::Builder::new().name(format!("{name}-say")).spawn(move || publish(&said, &sender));
        router.threads.push(saying.map_err(SpawnError::Thread)?);
        let driving = thread::Builder::new().name(name).spawn(move || driver.run());
        router.threads.push(driving.map_err(SpawnError::Thread)?);
        Ok(router)
    }

    /// The status; the newest value, and a notification of each newer one. It outlives the router and then says
    /// `initialize`.
    pub fn status(&self) -> watch::Receiver<RouterStatus> {
        self.status.clone()
    }

    /// Says whether everything that the router depends on is well; `Err` says what is not, and puts it in `fault`.
    pub fn set_tracking(&self, tracking: Result<(), String>) {
        self.tell(Command::Tracking(tracking));
    }

    /// Hands the addresses over and does not take them back while anybody else has them.
    pub fn release(&self) {
        self.tell(Command::Release);
    }

    /// Ends a release, and takes the addresses from a router that we outrank.
    pub fn acquire(&self) {
        self.tell(Command::Acquire);
    }

    /// Leaves: sends priority 0 if Active, and waits until the threads have ended (some milliseconds; from asynchronous
    /// code, on a thread that may block). The caller must not hold a borrow of the status meanwhile.
    pub fn shutdown(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.tell(Command::Shutdown);
        for thread in self.threads.drain(..).rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of a virtual router panicked");
            }
        }
    }

    fn tell(&self, command: Command) {
        // The thread has ended: then there is nobody to tell. The buffer is full: then it is awake.
        let _ = self.commands.send(command);
        let _ = (&self.wake).write(&[0]);
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.end();
    }
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn dialect(instance: &VrrpInstance) -> Result<Dialect, SpawnError> {
    let version = instance.version.into();
    let wrong_interval = || SpawnError::Interval { interval: instance.advert_interval, version };
    match (instance.version, instance.auth_pass.as_deref()) {
        (VrrpVersion::V2, password) => Ok(Dialect::V2 {
            interval: Seconds::from_duration(instance.advert_interval).ok_or_else(wrong_interval)?,
            auth: match password {
                None => Auth::None,
                Some(text) => Auth::Simple(Password::new(text).ok_or(SpawnError::Password)?),
            },
        }),
        (VrrpVersion::V3, None) => Ok(Dialect::V3 {
            interval: Centiseconds::from_duration(instance.advert_interval).ok_or_else(wrong_interval)?,
            checksum: instance.checksum,
        }),
        (VrrpVersion::V3, Some(_)) => Err(SpawnError::Password),
    }
}

fn as_rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*time))
}

/// The second thread: the newest status into the channel, changes of state into the log.
fn publish(said: &mpsc::Receiver<RouterStatus>, sender: &watch::Sender<RouterStatus>) {
    while let Ok(mut status) = said.recv() {
        loop {
            let before = sender.borrow().clone();
            if (before.state, before.transitions) != (status.state, status.transitions) {
                tracing::info!(vrrp = status.name, from = %before.state, to = %status.state, "{}", status.reason);
            }
            if let (None, Some(error)) = (&before.send_error, &status.send_error) {
                tracing::warn!(vrrp = status.name, "advertisements cannot be sent: {error}");
            }
            if before.address_mismatches == 0 && status.address_mismatches > 0 {
                tracing::warn!(
                    vrrp = status.name,
                    "another router has other virtual addresses in its configuration"
                );
            }
            for (reason, count) in &status.discards {
                if !before.discards.contains_key(reason) && *reason != Discard::Own.name() {
                    tracing::warn!(vrrp = status.name, reason, count, "discarding advertisements");
                }
            }
            sender.send_replace(status);
            match said.try_recv() {
                Ok(newer) => status = newer,
                Err(_) => break,
            }
        }
    }
}

/// How to open the socket, now and after the interface was made anew.
#[derive(Debug)]
struct SocketPlan {
    interface: String,
    source: Option<Ipv4Addr>,
    peers: Vec<Ipv4Addr>,
    vips: Vec<Ipv4Addr>,
}

impl SocketPlan {
    fn open(&self) -> Result<VrrpSocket, SocketError> {
        if socket::interface_index(&self.interface).is_none() {
            return Err(SocketError::NoInterface(self.interface.clone()));
        }
        let source = self.source.or_else(|| socket::primary_address(&self.interface, &self.vips));
        let source = source.ok_or_else(|| SocketError::NoAddress(self.interface.clone()))?;
        VrrpSocket::open(&self.interface, source, &self.peers)
    }
}

/// What the first thread owns.
struct Driver {
    machine: VirtualRouter,
    vrid: Vrid,
    dialect: Dialect,
    plan: SocketPlan,
    /// `None` while the interface is missing.
    socket: Option<VrrpSocket>,
    interface_fault: Option<String>,
    tracking: Result<(), String>,
    next_interface_check: Instant,
    commands: mpsc::Receiver<Command>,
    woken: UnixStream,
    status: RouterStatus,
    say: mpsc::Sender<RouterStatus>,
}

impl Driver {
    fn run(mut self) {
        self.status.realtime = socket::run_before_others().is_ok();
        self.feed(Event::Start);
        self.say();
        let mut running = true;
        while running {
            self.wait();
            // What was received comes before an expired timer: a late thread must not take over from a living router.
            self.receive();
            running = self.obey();
            self.feed_timer();
            self.check_interface();
            self.say();
        }
    }

    /// Until a packet, a command or a deadline.
    fn wait(&self) {
        let deadline =
            self.machine.deadline().unwrap_or(self.next_interface_check).min(self.next_interface_check);
        let timeout = TimeSpec::from_duration(deadline.saturating_duration_since(Instant::now()));
        let woken = PollFd::new(self.woken.as_fd(), PollFlags::POLLIN);
        // An interrupted or failed wait is a short one; the loop looks at everything in any case.
        let result = match &self.socket {
            Some(socket) => {
                ppoll(&mut [woken, PollFd::new(socket.as_fd(), PollFlags::POLLIN)], Some(timeout), None)
            }
            None => ppoll(&mut [woken], Some(timeout), None),
        };
        if result.is_err_and(|errno| errno != nix::errno::Errno::EINTR) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn receive(&mut self) {
        for _ in 0..PACKETS_AT_ONCE {
            let Some(socket) = &self.socket else { return };
            let accepted = match socket.receive() {
                Ok(None) => return,
                Err(_) => {
                    self.status.receive_errors += 1;
                    // An error that stays must not make a thread spin that runs before all others.
                    thread::sleep(Duration::from_millis(1));
                    return;
                }
                Ok(Some(Err(discard))) => Err(discard),
                Ok(Some(Ok((source, advert)))) => {
                    advert.check(self.vrid, &self.dialect).map(|()| (source, advert))
                }
            };
            match accepted {
                Err(discard) => *self.status.discards.entry(discard.name()).or_default() += 1,
                Ok((source, advert)) => {
                    self.status.adverts_received += 1;
                    if !advert.lists_same_addresses(&self.plan.vips) {
                        self.status.address_mismatches += 1;
                    }
                    self.feed(Event::Advert {
                        source: source.into(),
                        priority: advert.priority,
                        interval: advert.dialect.interval(),
                    });
                }
            }
        }
    }

    /// Whether to go on.
    fn obey(&mut self) -> bool {
        let mut wakes = [0; 64];
        while matches!(self.woken.read(&mut wakes), Ok(len) if len > 0) {}
        loop {
            match self.commands.try_recv() {
                Ok(Command::Tracking(tracking)) => {
                    self.tracking = tracking;
                    self.track();
                }
                Ok(Command::Release) => self.feed(Event::Release),
                Ok(Command::Acquire) => self.feed(Event::Acquire),
                Ok(Command::Shutdown) | Err(mpsc::TryRecvError::Disconnected) => {
                    self.feed(Event::Shutdown);
                    return false;
                }
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn feed_timer(&mut self) {
        if self.machine.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            self.feed(Event::Timer);
        }
    }

    /// A socket stays with the interface that it was opened on, even if another one gets that name.
    fn check_interface(&mut self) {
        let now = Instant::now();
        if now < self.next_interface_check {
            return;
        }
        self.next_interface_check = now + INTERFACE_CHECK;
        let index = socket::interface_index(&self.plan.interface);
        if self.socket.as_ref().is_some_and(|socket| Some(socket.interface_index()) == index) {
            return;
        }
        self.socket = None;
        self.interface_fault = match self.plan.open() {
            Ok(socket) => {
                self.machine.set_primary_address(socket.source().into());
                self.status.primary_address = socket.source();
                self.socket = Some(socket);
                // Whatever went through the old one, this router was cut off: it has to listen first.
                self.feed(Event::TrackingFailed(format!("interface {} was replaced", self.plan.interface)));
                None
            }
            Err(SocketError::NoInterface(name)) => Some(format!("interface {name} vanished")),
            Err(error) => Some(error.to_string()),
        };
        self.track();
    }

    /// Our own interface is tracked as well as whatever the controller tracks.
    fn track(&mut self) {
        let failed = self.interface_fault.clone().or_else(|| self.tracking.clone().err());
        self.feed(failed.map_or(Event::TrackingRecovered, Event::TrackingFailed));
    }

    /// One event into the machine, and out whatever it wants to send.
    fn feed(&mut self, event: Event) {
        let before = self.machine.transitions();
        self.machine.handle(Instant::now(), event);
        if self.machine.transitions() != before {
            self.status.since = SystemTime::now();
        }
        while let Some(priority) = self.machine.poll_advert() {
            self.send(priority);
        }
    }

    fn send(&mut self, priority: Priority) {
        let advertisement = Advertisement {
            vrid: self.vrid,
            priority,
            dialect: self.dialect,
            addresses: self.plan.vips.clone(),
        };
        let sent = match &self.socket {
            Some(socket) => socket.send(&advertisement),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        match sent {
            Ok(()) => {
                self.status.adverts_sent += 1;
                self.status.send_error = None;
            }
            Err(error) => {
                self.status.send_errors += 1;
                self.status.send_error = Some(error.to_string());
                // Perhaps because there is no interface any more.
                self.next_interface_check = Instant::now();
            }
        }
    }

    /// The status to the second thread, which never makes this one wait.
    fn say(&mut self) {
        let machine = &self.machine;
        self.status.state = machine.state();
        self.status.reason = machine.reason().to_string();
        self.status.priority = machine.priority().0;
        self.status.released = machine.released();
        self.status.transitions = machine.transitions();
        self.status.announce_generation = machine.announce_generation();
        self.status.active_router = if machine.state() == VrrpState::Active {
            Some(ActiveRouter { address: self.status.primary_address.into(), priority: machine.priority().0 })
        } else {
            machine.active_router().map(|(address, priority)| ActiveRouter { address, priority: priority.0 })
        };
        // The second thread ends after this one.
        let _ = self.say.send(self.status.clone());
    }
}
