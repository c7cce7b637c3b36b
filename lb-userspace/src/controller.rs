//! The one event loop; it owns all state.
//!
//! ```text
//! config, health, VRRP, netlink, timers, requests -> Controller -> desired -> diff -> maps, addresses, announcements
//!                                                       ^                              | (a failure: look again, retry)
//!                                                       +------------------------------+
//! ```
//!
//! Inputs are levels, not edges: each wakes the loop, which then computes everything anew from what is so now. Nothing
//! that fails ends the process once it is up; it is shown in `status` as a problem and tried again.
//!
//! **Start.** First the maps are put right and addresses that a predecessor left are taken off, then the heartbeat
//! begins: it is the heartbeat that lets the host answer ARP for a VIP again, and by now another node may own it. Then
//! the backends are checked; when each has a result, or the slowest check has had its time, VRRP joins. So a VIP is
//! never claimed by a node that has no backend to forward to.
//!
//! A daemon that left on purpose has a successor that begins otherwise: `succession.rs`.
//!
//! **Stop.** VRRP hands over, addresses are taken off, and the program and its maps stay: what still arrives is
//! forwarded. `xvip cleanup` removes them.

mod alerts;
mod checks;
pub mod claim;
mod connections;
mod doubt;
mod drop_log;
mod evidence;
mod hand_over;
mod history;
mod host_sockets;
mod inheritance;
mod interface;
mod listeners;
mod new_connections;
mod observing;
pub mod pins;
mod problems;
mod rebalance;
mod reconciling;
mod reload;
mod reopening;
mod replication;
mod report;
mod reserved_ports;
mod resets;
mod rivals;
mod routers;
mod steering;
pub mod succession;
mod sweep;
mod tracking;
mod transmit_watch;

use std::{
    collections::BTreeMap,
    future::pending,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use lb_common::{layout::RESERVED_PORT_WORDS, reason::TransmitReason};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, error, info, warn};

use self::{
    alerts::Alerts,
    checks::Checks,
    claim::Claim,
    connections::Connections,
    drop_log::DropLog,
    evidence::Evidence,
    inheritance::Inheritance,
    pins::PinLock,
    problems::{Problems, set_problem},
    rebalance::Rebalances,
    reopening::Reopening,
    replication::Replication,
    reserved_ports::HostPorts,
    resets::Condemned,
    rivals::RivalWatch,
    routers::{Routers, Told},
    steering::Steering,
    succession::Succession,
    sweep::{Sweep, finished},
    tracking::Tracking,
    transmit_watch::TransmitWatch,
};
use crate::{
    announce::Announcer,
    config::model::{Config, XdpMode},
    control::{protocol::Request, server::Server},
    dataplane::{AttachedMode, Census, Dataplane, DataplaneError, FlowTables, Sightings},
    desired::{BackendIds, NextHop, PoolEntry, RingMemo, pool_entries},
    flows::Timeouts,
    health::rise_fall::HealthState,
    heartbeat::{self, Heartbeat},
    history::{Event, Kind, Severity, Teller, file},
    log::LevelSwitch,
    netlink::{Link, Netlink, NetlinkEvent, NextHops},
    peaks::Peaks,
    resets::Resets,
    slow_start::SlowStart,
    state_file,
    stats_socket::StatsSocketService,
    vrrp::advert::Priority,
    web::Web,
};

/// What happened in the kernel within that time is looked at together.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// After a failure, and for what nobody notifies us of.
const RETRY: Duration = Duration::from_secs(1);
/// Everything is looked at that often, notifications or not.
const RESYNC: Duration = Duration::from_secs(5);
/// Flows are counted and ended ones removed that often, if that takes no longer than 2.5 % of the time.
const SWEEP: Duration = Duration::from_secs(2);
/// VRRP waits no longer than that for the first results of the checks.
const FIRST_ROUND_AT_MOST: Duration = Duration::from_secs(10);
/// Bounds of the lease; see [`lease`].
const LEASE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(3));

/// How `xvip run` was called.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that `config` is from; read again on reload.
    pub config_path: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Where what outlives the daemon is kept; see [`crate::state_file`].
    pub state_directory: PathBuf,
    /// Whether a daemon that runs is to leave first.
    pub replace: bool,
    /// Changes the level of the log, on reload.
    pub log: LevelSwitch,
}

/// Runs until SIGTERM or SIGINT. Needs a Tokio runtime with timers and I/O.
///
/// # Errors
/// Only while starting: another instance is running, the interface does not exist, or the system refuses sockets.
pub async fn run(config: Config, options: Options) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("signal handler")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("signal handler")?;
    let mut hangup = signal(SignalKind::hangup()).context("signal handler")?;
    let mut leave = signal(SignalKind::user_defined2()).context("signal handler")?;
    let loaded = if options.replace { succession::replace(&config, &options.socket).await? } else { None };
    let (requests_sender, mut requests) = mpsc::channel(16);
    let stats_socket = StatsSocketService::new(requests_sender.clone());
    let web = Web::new(requests_sender.clone());
    let server = Server::bind(&options.socket, requests_sender)?;

    let wake = Wake::default();
    let mut controller = Controller::start(config, options, &wake, loaded, stats_socket, web).await?;
    let mut pulse = controller.pulse_timer();
    let mut resync = interval(RESYNC);
    let mut sweep = interval(SWEEP);
    let mut transmit = interval(transmit_watch::PERIOD);
    transmit.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut evidence = interval(evidence::PERIOD);
    evidence.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rivals = interval(rivals::PERIOD);
    rivals.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alerts = interval(alerts::PERIOD);
    alerts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut balance = interval(rebalance::PERIOD);
    balance.set_missed_tick_behavior(MissedTickBehavior::Delay);
    resync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let leaves = loop {
        let waits = controller.waits_for_flows();
        tokio::select! {
            biased;
            _ = terminate.recv() => break succession::is_restart().await,
            _ = interrupt.recv() => break false,
            _ = leave.recv() => break true,
            _ = pulse.tick() => controller.pulse(),
            () = wake.vrrp.notified() => controller.reconcile().await,
            () = wake.tracking.notified() => {
                controller.follow_tracks();
                controller.tell_routers();
            }
            () = wake.health.notified() => controller.health_changed().await,
            () = wake.results.notified() => controller.follow_dead(),
            () = wake.resets.notified() => controller.resets_progressed(),
            () = at(controller.due) => controller.reconcile().await,
            event = next_event(&mut controller.events) => controller.netlink_event(event),
            _ = hangup.recv() => {
                // Whoever sent the signal looks into the log.
                let _ = controller.reload().await;
                pulse = controller.pulse_timer();
            }
            Some(request) = requests.recv() => match request {
                // The client may have gone away.
                Request::Status(reply) => drop(reply.send(Box::new(controller.status()))),
                Request::Reload(reply) => {
                    drop(reply.send(controller.reload().await));
                    pulse = controller.pulse_timer();
                }
                Request::History { name, limit, reply } => {
                    drop(reply.send(controller.history(name.as_deref(), limit)));
                }
                Request::Vrrp(reply) => drop(reply.send(controller.vrrp_statuses())),
                Request::Backend { order, by, reply } => drop(reply.send(controller.steer(order, by).await)),
                Request::Rebalance(order, reply) => drop(reply.send(controller.rebalance(&order))),
                Request::Leave(reply) => {
                    let _asked = reply.send(controller.leave_answer());
                    break true;
                }
                Request::Vip { action, name, by, reply } => {
                    drop(reply.send(controller.hand_over(action, name.as_deref(), by.as_deref())));
                }
            },
            loaded = controller.reopening.loaded() => controller.loaded(loaded).await,
            swept = finished(&mut controller.sweeping) => controller.swept(swept),
            _ = sweep.tick() => {
                controller.look_at_former();
                controller.sweep();
            }
            _ = transmit.tick() => controller.watch_transmit(),
            _ = evidence.tick() => controller.look_at_evidence(),
            _ = balance.tick() => {
                controller.hear_orders().await;
                controller.follow_orders();
                controller.look_at_balance();
            }
            _ = alerts.tick() => {
                controller.look_at_alerts();
                controller.look_at_listeners();
                controller.look_at_new_connections();
            }
            () = replication::worth_a_look(waits) => controller.look_at_flows(),
            _ = rivals.tick() => {
                controller.look_at_rivals();
                controller.follow_peers();
            }
            _ = resync.tick() => controller.resync().await,
            () = at(controller.join_at) => controller.join_vrrp().await,
            () = at(controller.recheck.map(|recheck| recheck.by)) => controller.rechecked(),
        }
        if controller.recheck.is_some_and(|recheck| controller.checks.all_passed_since(recheck.since))
            && controller.replication.is_synced()
        {
            controller.rechecked();
        }
        if controller.join_at.is_some() && controller.knows_enough() && controller.replication.is_synced() {
            controller.join_vrrp().await;
        }
    };

    notify(&[NotifyState::Stopping]);
    if leaves {
        controller.tell_of_daemon("leaving", "to a successor on this node");
        controller.leave().await;
        // Whoever asked has had the answer by now.
        drop(server);
        return Ok(());
    }
    controller.tell_of_daemon("stopping", "handing over the VIPs, leaving the data plane in place");
    drop(server);
    controller.stop().await;
    Ok(())
}

/// What other tasks wake the loop with.
#[derive(Default)]
struct Wake {
    health: Arc<Notify>,
    vrrp: Arc<Notify>,
    tracking: Arc<Notify>,
    resets: Arc<Notify>,
    results: Arc<Notify>,
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// The next notification; `None`, once, when there will be none any more.
async fn next_event(events: &mut Option<mpsc::Receiver<NetlinkEvent>>) -> Option<NetlinkEvent> {
    match events {
        Some(events) => events.recv().await,
        None => pending().await,
    }
}

/// How old the heartbeat may be before XDP silences ARP for our VIPs: other nodes take over after three intervals of
/// advertisements and some (RFC 9568 §6.1, `Active_Down_Interval`), and must not find us answering then.
fn lease(config: &Config) -> Duration {
    let shortest = config.vrrp.iter().map(|instance| instance.advert_interval).min();
    shortest.map_or(LEASE.1, |interval| (interval * 3).clamp(LEASE.0, LEASE.1))
}

struct Controller {
    config: Config,
    options: Options,
    started: Instant,
    began_at: SystemTime,
    loaded_at: SystemTime,
    last_reload_error: Option<String>,
    last_reload_at: Option<SystemTime>,

    netlink: Netlink,
    /// `None` after the connection broke, until it is made anew.
    events: Option<mpsc::Receiver<NetlinkEvent>>,
    /// In the configured order.
    links: Vec<Link>,
    next_hops: NextHops,
    announcer: Announcer,
    announced: BTreeMap<IpAddr, u64>,

    dataplane: Option<Dataplane>,
    reopening: Reopening,
    drop_log: Option<DropLog>,
    transmit_watch: TransmitWatch,
    evidence: Evidence,
    resets: Resets,
    condemned: Condemned,
    steering: Steering,
    rebalances: Rebalances,
    alerts: Alerts,
    pins: Option<PinLock>,
    _claims: Vec<Claim>,
    ids: BackendIds,
    rings: RingMemo,
    /// The flow clock at `started`.
    clock_base: u32,
    heartbeat: Heartbeat,
    /// What the data plane has seen of other nodes; `None` without one.
    sightings: Option<Sightings>,
    rivals: RivalWatch,
    reserved_ports: Box<reserved_ports::PortBits>,

    flow_tables: Option<FlowTables>,
    sweeping: Option<Sweep>,
    sweep_not_before: Instant,
    census: Census,
    peaks: Peaks,

    checks: Checks,
    tracking: Tracking,
    slow_starts: BTreeMap<PoolEntry, SlowStart>,
    inheritance: Inheritance,
    host_connections: BTreeMap<(IpAddr, u16), u64>,
    routers: Routers,
    replication: Replication,
    connections: Connections,
    stats_socket: StatsSocketService,
    web: Web,
    /// When VRRP joins at the latest; `None` once it has.
    join_at: Option<Instant>,
    /// When VRRP goes on at the latest after the link came back.
    recheck: Option<interface::Recheck>,

    succession: Succession,
    problems: Problems,
    teller: Teller,
    known: history::Known,
    due: Option<Instant>,
    look_at_link: bool,
    look_at_neighbours: bool,
    watchdog: Option<Duration>,
    watchdog_fed: Instant,
    status_text: String,
}

impl Controller {
    /// `loaded` are programs that were loaded before a predecessor left.
    async fn start(
        config: Config,
        options: Options,
        wake: &Wake,
        loaded: Option<Dataplane>,
        stats_socket: StatsSocketService,
        web: Web,
    ) -> anyhow::Result<Self> {
        let interface = config.node.interface().to_owned();
        let claims = || config.node.interfaces.iter().map(|interface| Claim::take(interface)).collect();
        let claims: Result<Vec<Claim>, _> = succession::once_free(options.replace, claims).await;
        let claims = claims?;
        let pins = || PinLock::take_if_there(&config.node.pin_path);
        let pins = succession::once_free(options.replace, pins).await?;
        let (netlink, events) = Netlink::open(&config.node.interfaces).await?;
        let links = netlink.links().await?;
        let steering = Steering::read(&options, &config);
        let state = state_file::path(&options.state_directory, &config.node.pin_path);
        let teller = Teller::begin(file::path(&state));
        teller.hooks().configure(&config.node.name, &config.hooks);
        let heartbeat = Heartbeat::spawn(lease(&config)).context("no thread for the heartbeat")?;
        let sign = heartbeat.sign();
        let announcer = Announcer::spawn(&interface, move |now| sign.is_fresh(now))
            .context("no thread for announcements")?;
        let mut checks = Checks::new(Arc::clone(&wake.health), Arc::clone(&wake.results), teller.clone());
        let plan = checks.plan(&config)?;
        checks.commit(plan);
        let mut tracking = Tracking::new(&interface, Arc::clone(&wake.tracking));
        tracking.configure(&config);
        let slowest = config.services.iter().map(|service| service.health.timeout).max().unwrap_or_default();
        let first_results = slowest.max(tracking.first_results_within());
        let now = Instant::now();
        let mut controller = Self {
            routers: Routers::new(&interface, Arc::clone(&wake.vrrp), heartbeat.controller(), teller.clone()),
            problems: Problems::new(&teller, &config.node.name),
            teller,
            known: history::Known::default(),
            config,
            options,
            started: now,
            began_at: SystemTime::now(),
            loaded_at: SystemTime::now(),
            last_reload_error: None,
            last_reload_at: None,
            netlink,
            events: Some(events),
            links,
            next_hops: NextHops::default(),
            announcer,
            announced: BTreeMap::new(),
            dataplane: None,
            reopening: Reopening::default(),
            drop_log: None,
            transmit_watch: TransmitWatch::default(),
            evidence: Evidence::default(),
            resets: Resets::spawn(Arc::clone(&wake.resets)).context("no thread for resets")?,
            condemned: Condemned::default(),
            steering,
            rebalances: Rebalances::default(),
            alerts: Alerts::default(),
            pins,
            _claims: claims,
            ids: BackendIds::default(),
            rings: RingMemo::default(),
            clock_base: 0,
            heartbeat,
            sightings: None,
            rivals: RivalWatch::default(),
            reserved_ports: Box::new([0; RESERVED_PORT_WORDS]),
            flow_tables: None,
            sweeping: None,
            sweep_not_before: now,
            census: Census::default(),
            peaks: Peaks::default(),
            checks,
            slow_starts: BTreeMap::new(),
            inheritance: Inheritance::default(),
            host_connections: BTreeMap::new(),
            join_at: Some(now + (first_results + Duration::from_millis(200)).min(FIRST_ROUND_AT_MOST)),
            tracking,
            replication: Replication::default(),
            connections: Connections::default(),
            stats_socket,
            web,
            recheck: None,
            succession: Succession::default(),
            due: None,
            look_at_link: true,
            look_at_neighbours: true,
            watchdog: sd_notify::watchdog_enabled(),
            watchdog_fed: now,
            status_text: String::new(),
        };
        controller.tell_of_daemon("started", concat!("version ", env!("CARGO_PKG_VERSION")));
        controller.resets.use_tap(controller.connections.tap());
        let succeeds = controller.succeed().await;
        let loaded = match loaded {
            None if succeeds => controller.load_meanwhile().await,
            loaded => loaded.map(Ok),
        };
        controller.open_dataplane(loaded)?;
        controller.reconcile().await;
        controller.configure_followers();
        controller.configure_listeners();
        Ok(controller)
    }

    /// Opens the data plane. Failing is a problem, which VRRP tracks, unless another instance has the pins.
    /// `loaded` is what of it is there already.
    fn open_dataplane(&mut self, loaded: Option<Result<Dataplane, DataplaneError>>) -> anyhow::Result<()> {
        match self.try_open_dataplane(loaded) {
            Ok(()) => {
                set_problem(&mut self.problems.dataplane, None);
                // Two daemons on one pin path would undo each other's work.
                if self.pins.is_none() {
                    self.pins = PinLock::take_if_there(&self.config.node.pin_path)?;
                }
            }
            Err(error) => {
                let problem = format!("{:#}", anyhow::Error::from(error));
                set_problem(&mut self.problems.dataplane, Some(problem));
            }
        }
        self.tell_routers();
        Ok(())
    }

    fn try_open_dataplane(
        &mut self,
        loaded: Option<Result<Dataplane, DataplaneError>>,
    ) -> Result<(), DataplaneError> {
        let points = interface::attach_points(&self.links);
        interface::keep_vlan_tags(&self.links);
        let mut dataplane = match loaded {
            Some(loaded) => loaded?.begin(&self.config.node, &points)?,
            None => Dataplane::open(&self.config.node, &self.config.flows, &points)?,
        };
        for attachment in dataplane.attachments() {
            info!(
                interface = attachment.interface,
                mode = attachment.mode.name(),
                adopted = attachment.adopted,
                "XDP is attached"
            );
        }
        self.drop_log = DropLog::begin(&mut dataplane)
            .inspect_err(|error| warn!("what the data plane logs is not shown: {error:#}"))
            .ok();
        let elapsed = self.ticks_since_start();
        self.clock_base = dataplane.pulse()?.flow_clock.wrapping_sub(elapsed);
        self.ids = BackendIds::adopt(&dataplane.observe()?, self.flow_clock());
        self.flow_tables = Some(dataplane.flow_tables()?.told_to(self.connections.tap()));
        self.resets.use_tables(Some(dataplane.sever_tables()?));
        self.assign_ids();
        let writer = dataplane.pulse_writer(self.clock_base, self.started.into_std())?;
        self.heartbeat.write_to(Some(Box::new(writer)));
        self.sightings = Some(dataplane.sightings()?);
        self.dataplane = Some(dataplane);
        self.meet_routers();
        self.serve_local_clients();
        self.refresh_reserved_ports();
        Ok(())
    }

    /// Without its hooks a node still forwards: never fatal, and tried again.
    fn serve_local_clients(&mut self) {
        let scope = self.local_clients();
        let Some(dataplane) = &mut self.dataplane else { return };
        let served = dataplane.serve_local_clients(scope);
        let problem = served.err().map(|error| {
            let error = anyhow::Error::from(error);
            format!("clients on this node go to the VIP instead of a backend: {error:#}")
        });
        set_problem(&mut self.problems.local_clients, problem);
    }

    fn assign_ids(&mut self) {
        let now = self.flow_clock();
        for entry in self.ids.assign(&pool_entries(&self.config), now) {
            error!(backend = %entry.address, "no backend id is left: this backend is not used");
        }
    }

    fn ticks_since_start(&self) -> u32 {
        // Wraps after a century and more.
        self.started.elapsed().as_secs() as u32
    }

    fn flow_clock(&self) -> u32 {
        self.clock_base.wrapping_add(self.ticks_since_start())
    }

    /// As often as the heartbeat.
    fn pulse_timer(&self) -> tokio::time::Interval {
        let mut timer = interval(heartbeat::period(lease(&self.config)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        timer
    }

    /// We run; and once the routers have spoken after a pause of this process, what they say is looked at.
    fn pulse(&mut self) {
        let now = Instant::now();
        self.heartbeat.alive(now.into_std());
        if let Some(period) = self.watchdog
            && self.watchdog_fed.elapsed() >= period / 4
        {
            notify(&[NotifyState::Watchdog]);
            self.watchdog_fed = now;
        }
        if self.due.is_none()
            && !self.heartbeat.is_settled()
            && self.routers.as_of() >= self.heartbeat.running_since()
        {
            self.schedule(Duration::ZERO);
        }
        self.look_at_pause();
        self.look_at_lease();
        let silence =
            self.heartbeat.written().map(|written| now.into_std().saturating_duration_since(written));
        let silent = silence.is_some_and(|silence| silence > lease(&self.config));
        let problem = silent.then(|| match self.heartbeat.withheld() {
            Some(withheld) => format!("this node does not answer for its VIPs: {withheld}"),
            None => "this node does not answer for its VIPs: the heartbeat cannot be written".to_owned(),
        });
        set_problem(&mut self.problems.heartbeat, problem);
    }

    /// Without a data plane there is nothing to be alive for.
    fn close_dataplane(&mut self) {
        self.heartbeat.write_to(None);
        (self.dataplane, self.sightings) = (None, None);
        self.resets.use_tables(None);
        self.meet_routers();
    }

    /// Starts, changes and stops routers until they are as configured.
    async fn configure_routers(&mut self) {
        if !self.config.node.observe {
            self.routers.configure(&self.config).await;
        }
        self.meet_routers();
    }

    /// Those that are new depend on the heartbeat's word and on the data plane's clock, and it on theirs.
    fn meet_routers(&mut self) {
        self.heartbeat.depend_on(self.routers.beats());
        let dataplane = self.dataplane.as_ref();
        self.routers.set_clocks(|| dataplane.and_then(|dataplane| dataplane.sightings().ok()));
        self.tell_routers();
    }

    /// Tells every router what it depends on.
    fn tell_routers(&mut self) {
        let own = self.problems.tracked();
        let (tracking, rivals) = (&self.tracking, &self.rivals);
        let inherited = self.succession.priorities();
        self.routers.tell(|instance| {
            // A router that tracking does not know has just lost its last VIP.
            let tracked = match inherited.get(instance) {
                Some(priority) => Ok(*priority),
                None => tracking.verdict(instance).unwrap_or(Ok(Priority::LOWEST)),
            };
            Told {
                tracking: own.clone().and(tracked),
                witness: tracking.witness(instance).and(rivals.heard(instance)),
            }
        });
    }

    /// The bursts of announcements once more.
    fn announce_again(&mut self, vip: IpAddr) {
        self.announced.remove(&vip);
        self.schedule(Duration::ZERO);
    }

    /// Where native XDP was our own choice and the driver does not send, chooses generic.
    fn watch_transmit(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let native = dataplane.attachments().iter().any(|attachment| attachment.mode == AttachedMode::Native);
        if !native || self.config.node.xdp_mode != XdpMode::Auto {
            return;
        }
        let Some(failures) = dataplane.transmit_failures() else { return };
        let Ok(counters) = dataplane.counters() else { return };
        let transmitted = TransmitReason::ALL.iter().map(|reason| counters[reason.counter() as usize]).sum();
        if self.transmit_watch.is_losing(transmitted, failures) {
            error!("the driver does not send what XDP transmits in native mode: going on in generic mode");
            if let Err(error) = dataplane.fall_back_to_generic() {
                let problem = format!("{:#}", anyhow::Error::from(error));
                set_problem(&mut self.problems.dataplane, Some(problem));
                self.tell_routers();
                // Opened anew at the next look at everything.
                self.close_dataplane();
            }
        }
    }

    async fn health_changed(&mut self) {
        // Whoever has just answered a check has a neighbour entry by now.
        let up = self.checks.states().into_iter().filter(|(_, state)| *state == HealthState::Up);
        self.look_at_neighbours |= up.map(|(entry, _)| entry.address.ip()).any(|backend| {
            matches!(self.next_hops.by_backend.get(&backend), None | Some(NextHop::Unresolved))
        });
        self.reconcile().await;
    }

    fn schedule(&mut self, after: Duration) {
        let time = Instant::now() + after;
        self.due = Some(self.due.map_or(time, |due| due.min(time)));
    }

    async fn resync(&mut self) {
        (self.look_at_link, self.look_at_neighbours) = (true, true);
        self.reopen_dataplane();
        if self.problems.local_clients.is_some() {
            self.serve_local_clients();
        }
        self.refresh_reserved_ports();
        if self.join_at.is_none() {
            self.routers.retry();
            self.meet_routers();
        }
        self.reconcile().await;
    }

    fn refresh_reserved_ports(&mut self) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let vips = self.config.services.iter().map(|service| service.vip.address).collect();
        // Without IPv6 there is no tcp6.
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let host = HostPorts {
            tcp: &read("/proc/self/net/tcp"),
            tcp6: &read("/proc/self/net/tcp6"),
            local_range: &read("/proc/sys/net/ipv4/ip_local_port_range"),
        };
        self.host_connections = host_sockets::connections(&host);
        let ports = reserved_ports::reserved_ports(&self.config, &vips, &host);
        if ports == self.reserved_ports {
            return;
        }
        match dataplane.set_reserved_ports(&ports) {
            Ok(()) => self.reserved_ports = ports,
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }

    /// Warns of counters that should stand still.
    fn look_at_alerts(&mut self) {
        let Some(counters) = self.dataplane.as_ref().and_then(|dataplane| dataplane.counters().ok()) else {
            return;
        };
        for alert in self.alerts.look(&counters, Instant::now().into_std()) {
            let event = Event::new(Kind::Problem, &self.config.node.name, SystemTime::now()).became("begins");
            let event = event.because(format!("{}: {}", alert.name, alert.remedy)).grave(Severity::Warn);
            self.teller.tell(event.with("packets", alert.packets));
        }
    }

    /// Whether every check and everything tracked has had its first result.
    fn knows_enough(&self) -> bool {
        self.checks.all_known() && self.tracking.all_known()
    }

    async fn join_vrrp(&mut self) {
        if self.join_at.take().is_none() {
            return;
        }
        if !self.replication.is_synced() {
            // That has a bound of its own.
            self.join_at = Some(Instant::now() + DEBOUNCE);
            return;
        }
        if !self.checks.all_known() {
            warn!("joining VRRP although some backends have not answered their first check");
        }
        if !self.tracking.all_known() {
            warn!("joining VRRP although something that it tracks has had no result yet");
        }
        self.succession.tracks_are_known();
        // What the checks found goes into the maps before anything is claimed.
        self.reconcile().await;
        self.configure_routers().await;
        notify(&[NotifyState::Ready]);
        self.tell_of_daemon("up", "taking part in VRRP");
        self.tell_service_manager();
    }

    fn timeouts(&self) -> Timeouts {
        let idle = self.config.flows.idle_timeout.as_secs();
        Timeouts::new(u32::try_from(idle).unwrap_or(u32::MAX))
    }

    fn tell_service_manager(&mut self) {
        let text = self.summary();
        if text != self.status_text {
            notify(&[NotifyState::Status(&text)]);
            self.status_text = text;
        }
    }

    async fn stop(mut self) {
        self.routers.shutdown().await;
        // Without a router, nothing is ours: this takes the addresses off.
        if let Err(error) = self.try_reconcile().await {
            error!("an address may still be here: {error:#}");
        }
        self.replication.stop().await;
        self.connections.stop().await;
        self.checks.stop().await;
        self.tracking.stop().await;
        if let Some(sweeping) = self.sweeping.take() {
            let _ended = sweeping.await;
        }
        self.tell_of_daemon("stopped", "");
        self.finish_telling(history::HOOKS_END_WITHIN).await;
    }
}

/// Tells the service manager, if there is one.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "the service manager was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::tests::{config, service};

    #[test]
    fn the_lease_ends_before_another_node_can_have_taken_over() {
        let mut config = config(vec![service("api", [172, 16, 0, 10].into(), &[4])]);
        for (interval, expected) in [(50, 300), (200, 600), (500, 1500), (1000, 3000), (40_000, 3000)] {
            config.vrrp[0].advert_interval = Duration::from_millis(interval);
            assert_eq!(lease(&config), Duration::from_millis(expected), "at {interval} ms");
        }
        config.vrrp.clear();
        assert_eq!(lease(&config), LEASE.1);
    }
}
