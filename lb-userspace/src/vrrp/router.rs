//! Virtual routers at work: one thread that joins machines, sockets and the clock.
//!
//! ```text
//!            Command, wake-up                 RouterStatus             RouterStatus
//!  Router  ------------------> vrrp-NAME --------------> vrrp-NAME-say ------------> watch
//!                               |  ^    \                  (also logs)
//!              sockets, deadline of     the arrival clock of XDP
//!              the machines
//! ```
//!
//! A router is one virtual router, or a sync group of several. The first thread waits for nothing but its sockets, its
//! wake-up and its deadline: it takes no lock that others hold, writes no log and calls nobody. A reader that holds on to
//! the watch channel, or a full pipe behind the log, stops the second thread only.
//!
//! Three signs of life cross here. The thread leaves one each time it runs: without it the heartbeat stops, and XDP
//! silences the VIPs. It looks at the controller's: without that nobody carries out what it decides, and it gives up. And
//! before it takes over from a router that it does not hear, it asks XDP when that one's last advertisement arrived.

use std::{
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use lb_common::{layout::virtual_mac, wire::Mac};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};
use tokio::sync::watch;

use super::{
    advert::{
        Advertisement, Auth, Centiseconds, Dialect, Discard, Interval, Password, Priority, Seconds, Vrid,
    },
    auth::{self, AuthError, Authenticator},
    fsm::{ArrivalCredit, Event, Settings, VirtualRouter, VrrpState, parting_interval},
    group::SyncGroup,
    rivals::Refused,
    socket::{self, SocketError, VrrpSocket},
    status::{ActiveRouter, RouterStatus},
};
use crate::{
    config::model::{Family, VrrpInstance, VrrpVersion},
    heartbeat::{Beat, PATIENCE},
};

/// How often the thread looks whether its interface is still there.
const INTERFACE_CHECK: Duration = Duration::from_millis(500);

/// The thread runs at least that often, and says so: well inside the shortest lease.
const ALIVE: Duration = Duration::from_millis(100);

/// Packets taken from a socket before timers and commands have their turn.
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
    /// The keys make no sense.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The socket could not be opened.
    #[error("no VRRP socket")]
    Socket(#[from] SocketError),
    /// A thread or its wake-up could not be made.
    #[error("no thread for the virtual router")]
    Thread(#[source] io::Error),
}

/// What a virtual router is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPlan {
    /// Its configuration.
    pub instance: VrrpInstance,
    /// Its advertised addresses, all of one family.
    pub vips: Vec<IpAddr>,
}

impl MemberPlan {
    /// Whether a running router can become this one without starting anew.
    fn is_same_router(&self, other: &Self) -> bool {
        let identity = |plan: &Self| {
            (
                plan.instance.name.clone(),
                plan.instance.virtual_router_id,
                plan.instance.version,
                plan.vips.first().map(|vip| Family::of(*vip)),
            )
        };
        identity(self) == identity(other)
    }
}

/// When XDP last saw an advertisement.
pub trait ArrivalClock: Send {
    /// Of virtual router `vrid` from `source`.
    fn last_arrival(&self, vrid: u8, source: IpAddr) -> Option<Instant>;
}

/// Is told each status of a member with the one before it, by a thread of the router: it must not wait for long.
pub type Observer = Box<dyn FnMut(&RouterStatus, &RouterStatus) + Send>;

/// A running virtual router or sync group. Dropping it is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct Router {
    plans: Vec<MemberPlan>,
    commands: mpsc::Sender<Command>,
    wake: UnixStream,
    statuses: Vec<watch::Receiver<RouterStatus>>,
    alive: Arc<Beat>,
    threads: Vec<JoinHandle<()>>,
}

/// What a predecessor on this node left to a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    /// When its word ends: from then on others may have taken over.
    pub until: Instant,
    /// The priority of each member, with all that it tracked.
    pub priorities: Vec<Priority>,
}

enum Command {
    Leave,
    Tracking(usize, Result<Priority, String>),
    Witness(usize, Result<(), String>),
    Clock(Option<Box<dyn ArrivalClock>>),
    Reconfigure(Vec<MemberPlan>),
    Release,
    Acquire,
    Shutdown,
}

impl Router {
    /// Starts the virtual routers `plans` on `interface`, in the network namespace of the calling thread. `name` is for
    /// threads; `controller` is the sign of life of whoever carries out what they decide, if somebody does; `observer` is told what happens.
    ///
    /// # Errors
    /// See [`SpawnError`]. Nothing has been started then.
    pub fn spawn(
        name: &str,
        interface: &str,
        plans: Vec<MemberPlan>,
        controller: Option<Arc<Beat>>,
        observer: Observer,
    ) -> Result<Self, SpawnError> {
        Self::begin(name, interface, plans, controller, None, observer)
    }

    /// The same, as the successor of one that [left](Self::leave) Active: it goes on as that one, at once.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn resume(
        name: &str,
        interface: &str,
        plans: Vec<MemberPlan>,
        controller: Option<Arc<Beat>>,
        legacy: Legacy,
        observer: Observer,
    ) -> Result<Self, SpawnError> {
        Self::begin(name, interface, plans, controller, Some(legacy), observer)
    }

    fn begin(
        name: &str,
        interface: &str,
        plans: Vec<MemberPlan>,
        controller: Option<Arc<Beat>>,
        legacy: Option<Legacy>,
        observer: Observer,
    ) -> Result<Self, SpawnError> {
        let (wake, woken) = UnixStream::pair().map_err(SpawnError::Thread)?;
        for end in [&wake, &woken] {
            end.set_nonblocking(true).map_err(SpawnError::Thread)?;
        }
        let now = Instant::now();
        let mut members = Vec::new();
        let mut machines = Vec::new();
        for plan in &plans {
            let (member, machine) = Member::new(plan.clone(), interface, now)?;
            members.push(member);
            machines.push((plan.instance.name.clone(), machine));
        }
        let (senders, statuses): (Vec<_>, Vec<_>) =
            members.iter().map(|member| watch::channel(member.status.clone())).unzip();
        let (commands, commands_received) = mpsc::channel();
        let (say, said) = mpsc::channel();
        let alive = Beat::new();
        alive.set(now);
        let driver = Driver {
            group: SyncGroup::new(machines),
            legacy,
            members,
            interface: interface.to_owned(),
            controller,
            controller_fault: None,
            alive: Arc::clone(&alive),
            ran: now,
            resumed: now,
            clock: None,
            next_check: now + INTERFACE_CHECK,
            commands: commands_received,
            woken,
            say,
        };
        let name = format!("vrrp-{name}");
        let mut router = Self { plans, commands, wake, statuses, alive, threads: Vec::new() };
        let saying = thread::Builder::new()
            .name(format!("{name}-say"))
            .spawn(move || publish(&said, &senders, observer));
        router.threads.push(saying.map_err(SpawnError::Thread)?);
        let driving = thread::Builder::new().name(name).spawn(move || driver.run());
        router.threads.push(driving.map_err(SpawnError::Thread)?);
        Ok(router)
    }

    /// What its members are.
    pub fn plans(&self) -> &[MemberPlan] {
        &self.plans
    }

    /// The status of each member; the newest value, and a notification of each newer one. It outlives the router and
    /// then says `initialize`.
    pub fn statuses(&self) -> &[watch::Receiver<RouterStatus>] {
        &self.statuses
    }

    /// The sign of life of the thread.
    pub fn alive(&self) -> Arc<Beat> {
        Arc::clone(&self.alive)
    }

    /// Says with which priority a member takes part, or what that it depends on is not well, which puts it in `fault`.
    pub fn set_tracking(&self, member: usize, tracking: Result<Priority, String>) {
        self.tell(Command::Tracking(member, tracking));
    }

    /// Says whether a member may take over from a router that it does not hear.
    pub fn set_witness(&self, member: usize, witness: Result<(), String>) {
        self.tell(Command::Witness(member, witness));
    }

    /// Where to ask when advertisements arrived; `None` while nobody knows.
    pub fn set_clock(&self, clock: Option<Box<dyn ArrivalClock>>) {
        self.tell(Command::Clock(clock));
    }

    /// Puts another configuration in force while everybody stays what he is. False, and nothing changed, where that needs
    /// other routers.
    pub fn reconfigure(&mut self, plans: Vec<MemberPlan>) -> bool {
        let same = self.plans.len() == plans.len()
            && self.plans.iter().zip(&plans).all(|(old, new)| old.is_same_router(new));
        if same {
            self.plans.clone_from(&plans);
            self.tell(Command::Reconfigure(plans));
        }
        same
    }

    /// Hands the addresses over and does not take them back while anybody else has them.
    pub fn release(&self) {
        self.tell(Command::Release);
    }

    /// Ends a release, and takes the addresses from a router that we outrank.
    pub fn acquire(&self) {
        self.tell(Command::Acquire);
    }

    /// Leaves: sends priority 0 if Active, keeps the addresses until a successor speaks or is overdue, and waits until
    /// the threads have ended (from asynchronous code, on a thread that may block). The caller must not hold a borrow of
    /// a status meanwhile.
    pub fn shutdown(mut self) {
        self.end();
    }

    /// Leaves to a successor on this node, see [`Event::Leave`], and waits until the threads have ended (from asynchronous
    /// code, on a thread that may block). Returns how it left each member: whose addresses are still held is the
    /// successor's.
    pub fn leave(mut self) -> Vec<RouterStatus> {
        self.tell(Command::Leave);
        self.join();
        self.statuses.iter().map(|status| status.borrow().clone()).collect()
    }

    fn end(&mut self) {
        self.tell(Command::Shutdown);
        self.join();
    }

    fn join(&mut self) {
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

/// What an instance speaks.
pub(crate) fn dialect(instance: &VrrpInstance) -> Result<Dialect, SpawnError> {
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

/// The second thread: the newest statuses into the channels, and each to the observer.
fn publish(
    said: &mpsc::Receiver<Vec<RouterStatus>>,
    senders: &[watch::Sender<RouterStatus>],
    mut observer: Observer,
) {
    while let Ok(mut statuses) = said.recv() {
        loop {
            for (status, sender) in statuses.into_iter().zip(senders) {
                observer(&sender.borrow(), &status);
                sender.send_replace(status);
            }
            match said.try_recv() {
                Ok(newer) => statuses = newer,
                Err(_) => break,
            }
        }
    }
}

/// How to open a socket, now and after the interface was made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SocketPlan {
    source: Option<IpAddr>,
    peers: Vec<IpAddr>,
    vips: Vec<IpAddr>,
    virtual_mac: Option<Mac>,
}

impl SocketPlan {
    fn of(plan: &MemberPlan) -> Self {
        let instance = &plan.instance;
        let ipv4 = plan.vips.iter().any(IpAddr::is_ipv4);
        Self {
            source: instance.unicast_source,
            peers: instance.unicast_peers.clone(),
            vips: plan.vips.clone(),
            virtual_mac: instance.virtual_mac.then(|| virtual_mac(!ipv4, instance.virtual_router_id.get())),
        }
    }

    fn open(&self, interface: &str) -> Result<VrrpSocket, SocketError> {
        if socket::interface_index(interface).is_none() {
            return Err(SocketError::NoInterface(interface.to_owned()));
        }
        let family = self.vips.first().map_or(Family::Ipv4, |vip| Family::of(*vip));
        let source = self
            .source
            .or_else(|| socket::primary_address(interface, &self.vips, family, self.peers.is_empty()));
        let source =
            source.ok_or_else(|| SocketError::NoAddress { interface: interface.to_owned(), family })?;
        VrrpSocket::open(interface, source, &self.peers, self.virtual_mac)
    }
}

/// One virtual router, without its machine.
struct Member {
    plan: MemberPlan,
    vrid: Vrid,
    dialect: Dialect,
    authenticator: Option<Authenticator>,
    socket_plan: SocketPlan,
    /// `None` while the interface is missing.
    socket: Option<VrrpSocket>,
    interface_fault: Option<String>,
    tracking: Result<Priority, String>,
    status: RouterStatus,
}

fn authenticator(plan: &MemberPlan) -> Result<Option<Authenticator>, AuthError> {
    let instance = &plan.instance;
    let family = plan.vips.first().map_or(Family::Ipv4, |vip| Family::of(*vip));
    let vrid = Vrid(instance.virtual_router_id);
    let new = |settings| {
        Authenticator::new(settings, family, instance.version.into(), vrid, &instance.unicast_peers)
    };
    instance.auth_hmac.as_ref().map(new).transpose()
}

fn settings(plan: &MemberPlan, dialect: &Dialect, primary_address: IpAddr) -> Settings {
    let instance = &plan.instance;
    let authenticated = instance.auth_hmac.is_some() || instance.auth_pass.is_some();
    Settings {
        priority: instance.priority,
        interval: dialect.interval(),
        preempt: instance.preempt,
        preempt_delay: instance.preempt_delay,
        primary_address,
        arrival_credit: if authenticated { ArrivalCredit::OneInterval } else { ArrivalCredit::Unlimited },
    }
}

impl Member {
    fn new(plan: MemberPlan, interface: &str, now: Instant) -> Result<(Self, VirtualRouter), SpawnError> {
        if plan.vips.is_empty() || plan.vips.len() > usize::from(u8::MAX) {
            return Err(SpawnError::VipCount(plan.vips.len()));
        }
        let dialect = dialect(&plan.instance)?;
        let authenticator = authenticator(&plan)?;
        let socket_plan = SocketPlan::of(&plan);
        let socket = socket_plan.open(interface)?;
        let machine = VirtualRouter::new(settings(&plan, &dialect, socket.source()), now);
        let (name, source) = (plan.instance.name.clone(), socket.source());
        let status = RouterStatus {
            reason: machine.reason().to_string(),
            ..RouterStatus::begin(name, machine.state(), machine.priority().0, source, now, SystemTime::now())
        };
        let member = Self {
            vrid: Vrid(plan.instance.virtual_router_id),
            tracking: Ok(Priority(plan.instance.priority.get())),
            dialect,
            authenticator,
            socket_plan,
            socket: Some(socket),
            interface_fault: None,
            status,
            plan,
        };
        Ok((member, machine))
    }

    /// Another configuration of the same router. The socket stays unless it has to be another one.
    fn reconfigure(&mut self, plan: MemberPlan) {
        // What cannot be carried out was refused where the configuration was read.
        if let Ok(dialect) = dialect(&plan.instance) {
            self.dialect = dialect;
        }
        match (&mut self.authenticator, &plan.instance.auth_hmac) {
            (Some(known), Some(wanted)) => drop(known.reconfigure(wanted, &plan.instance.unicast_peers)),
            (known, _) => *known = authenticator(&plan).unwrap_or_default(),
        }
        let socket_plan = SocketPlan::of(&plan);
        let same_socket = SocketPlan { vips: Vec::new(), ..self.socket_plan.clone() }
            == SocketPlan { vips: Vec::new(), ..socket_plan.clone() };
        if !same_socket {
            self.socket = None;
        }
        self.socket_plan = socket_plan;
        self.plan = plan;
    }

    /// Counts a packet that was not used, and remembers whose it was where it says something about our VRID.
    fn discard(&mut self, discard: Discard, source: Option<IpAddr>, now: Instant) {
        *self.status.discards.entry(discard.name()).or_default() += 1;
        let about_us = !matches!(discard, Discard::Own | Discard::OtherVrid(_));
        if let Some(source) = source.filter(|_| about_us) {
            self.status.refused = Some(Refused { source, why: discard.to_string(), at: now });
        }
    }

    /// Whether the last that was heard of `source` was refused, `within` so long.
    fn refused_lately(&self, source: IpAddr, within: Duration, now: Instant) -> bool {
        let refused = self.status.refused.as_ref().filter(|refused| refused.source == source);
        refused.is_some_and(|refused| now.saturating_duration_since(refused.at) <= within)
    }

    /// One packet from the socket, judged: what the machine has to know about it. `None`: the queue is empty.
    fn receive(&mut self, now: Instant) -> Option<Option<Event>> {
        let socket = self.socket.as_mut()?;
        let received = match socket.receive() {
            Ok(None) => return None,
            Ok(Some(received)) => received,
            Err(_) => {
                self.status.receive_errors += 1;
                // An error that stays must not make a thread spin that runs before all others.
                thread::sleep(Duration::from_millis(1));
                return None;
            }
        };
        let judged = match received {
            Err(discard) => Err((discard, None)),
            Ok(received) => {
                let advert = &received.advertisement;
                let source = received.envelope.source;
                advert
                    .check(self.vrid, &self.dialect, &self.plan.vips)
                    .and_then(|()| auth::admit(self.authenticator.as_mut(), SystemTime::now(), &received))
                    .map(|_| (source, received.advertisement.clone()))
                    .map_err(|discard| (discard, Some(source)))
            }
        };
        match judged {
            Err((discard, source)) => {
                self.discard(discard, source, now);
                Some(None)
            }
            Ok((source, advert)) => {
                let interval = advert.dialect.interval();
                let status = &mut self.status;
                status.adverts_received += 1;
                status.address_mismatches += u64::from(!advert.lists_same_addresses(&self.plan.vips));
                let own = self.dialect.interval();
                // A router that leaves to a successor announces more, whatever its configuration says.
                let usual = interval == own || interval == parting_interval(own);
                status.interval_mismatches += u64::from(!usual);
                Some(Some(Event::Advert { source, priority: advert.priority, interval }))
            }
        }
    }

    fn send(&mut self, priority: Priority, interval: Interval) {
        let dialect = match (self.dialect, interval) {
            (Dialect::V3 { checksum, .. }, Interval::V3(interval)) => Dialect::V3 { interval, checksum },
            (own, _) => own,
        };
        let advertisement =
            Advertisement { vrid: self.vrid, priority, dialect, addresses: self.plan.vips.clone() };
        let sent = match &self.socket {
            None => Err(io::ErrorKind::NotConnected.into()),
            Some(socket) => {
                let sign = |authenticator: &mut Authenticator| {
                    authenticator.sign(SystemTime::now(), socket.source(), &advertisement)
                };
                match self.authenticator.as_mut().map(sign).transpose() {
                    Ok(trailer) => socket.send(&advertisement, trailer.flatten().as_ref()),
                    Err(error) => Err(io::Error::other(error)),
                }
            }
        };
        match sent {
            Ok(()) => {
                self.status.adverts_sent += 1;
                self.status.send_error = None;
            }
            Err(error) => {
                self.status.send_errors += 1;
                self.status.send_error = Some(error.to_string());
            }
        }
    }
}

/// What the first thread owns.
struct Driver {
    group: SyncGroup,
    /// To begin with.
    legacy: Option<Legacy>,
    members: Vec<Member>,
    interface: String,
    controller: Option<Arc<Beat>>,
    controller_fault: Option<String>,
    alive: Arc<Beat>,
    /// When the thread last ran.
    ran: Instant,
    /// When it last ran again after a pause; until then nobody else ran, either.
    resumed: Instant,
    clock: Option<Box<dyn ArrivalClock>>,
    next_check: Instant,
    commands: mpsc::Receiver<Command>,
    woken: UnixStream,
    say: mpsc::Sender<Vec<RouterStatus>>,
}

impl Driver {
    fn run(mut self) {
        let realtime = socket::run_before_others().is_ok();
        for member in 0..self.members.len() {
            self.members[member].status.realtime = realtime;
        }
        let legacy = self.legacy.take();
        for member in 0..self.members.len() {
            let inherited = legacy.as_ref().and_then(|legacy| {
                let priority = *legacy.priorities.get(member)?;
                self.members[member].tracking = Ok(priority);
                Some(Event::Resume { until: legacy.until, priority })
            });
            self.feed(member, inherited.unwrap_or(Event::Start));
        }
        self.say();
        let mut leaving = false;
        let is_done = |machine: &VirtualRouter| machine.has_left() || !machine.holds_addresses();
        while !(leaving && self.group.members().iter().all(is_done)) {
            self.wait();
            self.notice_pause();
            // What was received comes before an expired timer: a late thread must not take over from a living router.
            self.receive();
            leaving |= !self.obey();
            self.watch_controller();
            self.feed_timers();
            self.check_interface();
            self.alive.set(Instant::now());
            self.say();
        }
    }

    /// Until a packet, a command or a deadline.
    fn wait(&self) {
        let now = Instant::now();
        let deadline = [Some(self.next_check), self.group.deadline()].into_iter().flatten().min();
        let pause = deadline.map_or(ALIVE, |deadline| deadline.saturating_duration_since(now).min(ALIVE));
        let timeout = TimeSpec::from_duration(pause);
        let sockets = self.members.iter().filter_map(|member| member.socket.as_ref());
        let mut polled: Vec<PollFd<'_>> =
            sockets.map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        polled.push(PollFd::new(self.woken.as_fd(), PollFlags::POLLIN));
        // An interrupted or failed wait is a short one; the loop looks at everything in any case.
        if ppoll(&mut polled, Some(timeout), None).is_err_and(|errno| errno != nix::errno::Errno::EINTR) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn notice_pause(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.ran) > 2 * INTERFACE_CHECK {
            self.resumed = now;
        }
        self.ran = now;
    }

    fn receive(&mut self) {
        for index in 0..self.members.len() {
            for _ in 0..PACKETS_AT_ONCE {
                let Some(event) = self.members[index].receive(Instant::now()) else { break };
                if let Some(event) = event {
                    self.feed(index, event);
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
                Ok(Command::Tracking(member, tracking)) => {
                    self.members[member].tracking = tracking;
                    self.track(member);
                }
                Ok(Command::Witness(member, witness)) => self.feed(member, Event::Witness(witness)),
                Ok(Command::Clock(clock)) => self.clock = clock,
                Ok(Command::Reconfigure(plans)) => self.reconfigure(plans),
                Ok(Command::Leave) => {
                    for member in 0..self.members.len() {
                        let interval = parting_interval(self.members[member].dialect.interval());
                        self.feed(member, Event::Leave(interval));
                    }
                    return false;
                }
                Ok(Command::Release) => self.feed_all(&Event::Release),
                Ok(Command::Acquire) => self.feed_all(&Event::Acquire),
                Ok(Command::Shutdown) | Err(mpsc::TryRecvError::Disconnected) => {
                    self.feed_all(&Event::Shutdown);
                    return false;
                }
                Err(mpsc::TryRecvError::Empty) => return true,
            }
        }
    }

    fn reconfigure(&mut self, plans: Vec<MemberPlan>) {
        for (index, plan) in plans.into_iter().enumerate() {
            self.members[index].reconfigure(plan);
            if self.members[index].socket.is_none() {
                self.open_socket(index);
            }
            let member = &self.members[index];
            let settings = settings(&member.plan, &member.dialect, member.status.primary_address);
            self.feed(index, Event::Reconfigure(settings));
            if self.members[index].interface_fault.is_some() {
                self.track(index);
            }
        }
    }

    /// Nobody carries out what we decide while the controller hangs. A pause was ours as much as its own.
    fn watch_controller(&mut self) {
        let Some(controller) = &self.controller else { return };
        let now = Instant::now();
        let since = controller.get().map_or(self.resumed, |beat| beat.max(self.resumed));
        let silence = now.saturating_duration_since(since);
        let hangs = silence > PATIENCE;
        if hangs != self.controller_fault.is_some() {
            self.controller_fault =
                hangs.then(|| format!("the controller has not run for {} ms", silence.as_millis()));
            (0..self.members.len()).for_each(|member| self.track(member));
        }
    }

    /// One expired timer is for all members; before that, each that listens asks when it could have heard somebody last.
    fn feed_timers(&mut self) {
        let now = Instant::now();
        let is_due = |machine: &VirtualRouter| machine.deadline().is_some_and(|deadline| deadline <= now);
        if !self.group.members().iter().any(is_due) {
            return;
        }
        for index in 0..self.members.len() {
            let machine = &self.group.members()[index];
            match machine.state() {
                VrrpState::Active => {
                    if let Some(deadline) = machine.deadline().filter(|deadline| *deadline <= now) {
                        self.members[index].status.lateness.add(now.saturating_duration_since(deadline));
                    }
                }
                VrrpState::Backup => self.ask_arrival_clock(index),
                VrrpState::Initialize | VrrpState::Fault => {}
            }
        }
        self.feed(0, Event::Timer);
    }

    /// Our ears may have been slower than the network card.
    fn ask_arrival_clock(&mut self, index: usize) {
        let Some((source, _)) = self.group.members()[index].active_router() else { return };
        let member = &self.members[index];
        // XDP sees less than we do: what we refused proves nothing.
        if member.refused_lately(source, 4 * member.dialect.interval().duration(), Instant::now()) {
            return;
        }
        let arrival = self.clock.as_ref().and_then(|clock| clock.last_arrival(member.vrid.0.get(), source));
        if let Some(at) = arrival {
            self.feed(index, Event::Arrived { source, at });
        }
    }

    /// A socket stays with the interface that it was opened on, even if another one gets that name.
    fn check_interface(&mut self) {
        let now = Instant::now();
        if now < self.next_check {
            return;
        }
        self.next_check = now + INTERFACE_CHECK;
        let index = socket::interface_index(&self.interface);
        for member in 0..self.members.len() {
            let socket = self.members[member].socket.as_ref();
            if socket.is_some_and(|socket| Some(socket.interface_index()) == index) {
                continue;
            }
            self.members[member].socket = None;
            if self.open_socket(member) {
                // Whatever went through the old one, this router was cut off: it has to listen first.
                let replaced = format!("interface {} was replaced", self.interface);
                self.feed(member, Event::TrackingFailed(replaced));
            }
            self.track(member);
        }
    }

    /// Opens the socket anew; whether that worked.
    fn open_socket(&mut self, index: usize) -> bool {
        let member = &mut self.members[index];
        match member.socket_plan.open(&self.interface) {
            Ok(socket) => {
                member.status.primary_address = socket.source();
                member.socket = Some(socket);
                member.interface_fault = None;
                let settings = settings(&member.plan, &member.dialect, member.status.primary_address);
                self.feed(index, Event::Reconfigure(settings));
                true
            }
            Err(SocketError::NoInterface(name)) => {
                member.interface_fault = Some(format!("interface {name} vanished"));
                false
            }
            Err(error) => {
                member.interface_fault = Some(error.to_string());
                false
            }
        }
    }

    /// Our own interface and the controller are tracked as well as whatever the controller tracks.
    fn track(&mut self, index: usize) {
        let member = &self.members[index];
        let own = member.interface_fault.clone().or_else(|| self.controller_fault.clone());
        match own.map_or_else(|| member.tracking.clone(), Err) {
            Err(fault) => self.feed(index, Event::TrackingFailed(fault)),
            Ok(priority) => {
                self.feed(index, Event::Weighted(priority));
                self.feed(index, Event::TrackingRecovered);
            }
        }
    }

    fn feed_all(&mut self, event: &Event) {
        (0..self.members.len()).for_each(|member| self.feed(member, event.clone()));
    }

    /// One event into a machine, and out whatever the group wants to send.
    fn feed(&mut self, index: usize, event: Event) {
        let known = |machine: &VirtualRouter| (machine.transitions(), machine.holds_addresses());
        let before: Vec<_> = self.group.members().iter().map(known).collect();
        let now = Instant::now();
        self.group.handle(now, index, event);
        for (member, ((transitions, held), machine)) in
            self.members.iter_mut().zip(before.into_iter().zip(self.group.members()))
        {
            if machine.transitions() != transitions {
                member.status.since = SystemTime::now();
            }
            if machine.holds_addresses() != held {
                member.status.holds_since = now;
            }
        }
        while let Some((member, priority)) = self.group.poll_advert() {
            let interval = self.group.members()[member].announced_interval();
            self.members[member].send(priority, interval);
            if self.members[member].status.send_error.is_some() {
                // Perhaps because there is no interface any more.
                self.next_check = now;
            }
        }
    }

    /// The statuses to the second thread, which never makes this one wait.
    fn say(&mut self) {
        let now = Instant::now();
        for (member, machine) in self.members.iter_mut().zip(self.group.members()) {
            let status = &mut member.status;
            status.as_of = now;
            status.state = machine.state();
            status.reason = machine.reason().to_string();
            status.holds_addresses = machine.holds_addresses();
            status.priority = machine.priority().0;
            status.released = machine.released();
            status.blocked = machine.blocked().map(str::to_owned);
            status.deaf = machine.deaf();
            status.transitions = machine.transitions();
            status.announce_generation = machine.announce_generation();
            status.active_router = if machine.state() == VrrpState::Active {
                Some(ActiveRouter { address: status.primary_address, priority: machine.priority().0 })
            } else {
                machine
                    .active_router()
                    .map(|(address, priority)| ActiveRouter { address, priority: priority.0 })
            };
        }
        let statuses = self.members.iter().map(|member| member.status.clone()).collect();
        // The second thread ends after this one.
        let _ = self.say.send(statuses);
    }
}
