//! The planned restart: how a daemon leaves to its successor on this node, and how the successor begins.
//!
//! ```text
//! leave   lease extended -> the others are told to wait -> note beside the control socket -> end; all else stays
//! begin   note -> routers resume, at once -> programs and maps adopted -> addresses kept -> heartbeat -> the usual lease
//! ```
//!
//! The successor resumes before the checks have looked: what the maps have of the backends goes on being so. If none comes,
//! XDP falls silent when the lease ends, which is before the others stop waiting.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    pin::pin,
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use nix::time::{ClockId, clock_gettime};
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};

use super::{Controller, history::HOOKS_LEAVE_WITHIN, lease, reopening::Loading};
use crate::{
    config::model::{Config, Family, VrrpInstance, VrrpVersion, family_of},
    control::{client, protocol::LeaveAnswer, server},
    dataplane::{Dataplane, DataplaneError, PulseWriter, Sightings},
    desired::vips_of,
    history::{Event, Kind, event::milliseconds},
    succession::{Inherited, LeftRouter, Note, Unusable, is_being_restarted},
    vrrp::{
        advert::{Centiseconds, Interval, Priority, Seconds},
        fsm::{parting_interval, parting_respite},
    },
};

/// The environment variable that says which unit of systemd this is.
const UNIT_VARIABLE: &str = "XVIP_UNIT";
/// How long `systemctl` may take to answer.
const SYSTEMD_WITHIN: Duration = Duration::from_secs(1);
/// The pause before it is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a daemon that was asked to leave may take to end.
const REPLACED_WITHIN: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(2);
/// While the programs are loaded, this process says that often that it runs.
const ALIVE: Duration = Duration::from_millis(100);
/// A router that resumes tells that within this time, or is not waited for.
const RESUMED_WITHIN: Duration = Duration::from_secs(1);

/// What the predecessor left.
#[derive(Debug, Default)]
pub(super) struct Succession {
    /// The instances that were resumed, with the priorities that they had; until the tracks are known.
    priorities: BTreeMap<String, Priority>,
    /// The lease that the predecessor gave, until our own heartbeat is there.
    lease: Option<Duration>,
}

impl Succession {
    /// What resumed instances are told of what they track, until that is known.
    pub(super) const fn priorities(&self) -> &BTreeMap<String, Priority> {
        &self.priorities
    }

    /// What is tracked is known now.
    pub(super) fn tracks_are_known(&mut self) {
        self.priorities.clear();
    }
}

/// Where the note of the daemon with this control socket lies.
pub fn note_path(socket: &Path) -> PathBuf {
    socket.with_extension("succession")
}

/// Asks the daemon that runs to leave, and waits until it answers no more. Returns the programs, which take their time and
/// are loaded before; nothing where none runs.
///
/// # Errors
/// It cannot leave, or does not end.
pub(super) async fn replace(config: &Config, socket: &Path) -> anyhow::Result<Option<Dataplane>> {
    let Some(pid) = server::running(socket)? else { return Ok(None) };
    // One that does not load changes nothing: what is there goes on.
    let loaded = load(config).await.context("the running daemon was not asked to leave")?;
    let answer = client::leave(socket)
        .await
        .with_context(|| format!("the daemon that runs (pid {pid}) does not leave; restart it instead"))?;
    info!(pid, respite_ms = answer.respite_ms, "replacing a daemon");
    let begun = Instant::now();
    while server::running(socket)?.is_some() {
        if begun.elapsed() > REPLACED_WITHIN {
            bail!("the daemon (pid {pid}) has been asked to leave, and still runs");
        }
        sleep(LOOK).await;
    }
    Ok(Some(loaded))
}

/// Loads the programs beside what goes on.
async fn load(config: &Config) -> Result<Dataplane, DataplaneError> {
    Loading::begin(config)?.outcome().await
}

/// Tries again until the predecessor's process has ended, which holds on to what `take` takes.
pub(super) async fn once_free<T, E>(patiently: bool, take: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let begun = Instant::now();
    loop {
        match take() {
            Err(_) if patiently && begun.elapsed() < REPLACED_WITHIN => sleep(LOOK).await,
            taken => return taken,
        }
    }
}

/// Whether this daemon was told to stop because systemd restarts it.
pub(super) async fn is_restart() -> bool {
    let Ok(unit) = std::env::var(UNIT_VARIABLE) else { return false };
    let mut why = String::from("no answer");
    let jobs = timeout(SYSTEMD_WITHIN, async {
        // Who is not root asks over the system bus, which may have just been started for this question: it then says for a
        // moment that systemd is not there.
        loop {
            match jobs().await {
                Ok(jobs) => break jobs,
                Err(error) => why = error.to_string(),
            }
            sleep(ASK_AGAIN).await;
        }
    });
    match jobs.await {
        Ok(jobs) => is_being_restarted(&unit, &jobs),
        Err(_) => {
            warn!("whether this is a restart is not known: handing over: systemctl list-jobs: {why}");
            false
        }
    }
}

/// What systemd is about to do.
async fn jobs() -> io::Result<String> {
    let mut systemctl = tokio::process::Command::new("systemctl");
    systemctl.args(["list-jobs", "--no-legend", "--plain"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = systemctl.output().await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{}: {}", output.status, said.trim())))
}

/// How long nobody else takes over from an instance that leaves.
fn respite(instance: &VrrpInstance) -> Duration {
    let own = match instance.version {
        VrrpVersion::V2 => Seconds::from_duration(instance.advert_interval).map(Interval::V2),
        VrrpVersion::V3 => Centiseconds::from_duration(instance.advert_interval).map(Interval::V3),
    };
    own.map_or(Duration::ZERO, |own| parting_respite(parting_interval(own)))
}

fn clock_ns(clock: ClockId) -> io::Result<u64> {
    let now = clock_gettime(clock)?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

impl Controller {
    /// What whoever asks us to leave is told.
    pub(super) fn leave_answer(&self) -> LeaveAnswer {
        let respite = self.active_instances().map(respite).min();
        LeaveAnswer { respite_ms: respite.map(|respite| respite.as_millis() as u64) }
    }

    fn active_instances(&self) -> impl Iterator<Item = &VrrpInstance> {
        let active = self.routers.active();
        self.config.vrrp.iter().filter(move |instance| active.contains_key(&instance.name))
    }

    /// Leaves to a successor: the other nodes are told to wait, and everything stays as it is.
    pub(super) async fn leave(mut self) {
        let respite = self.active_instances().map(respite).min();
        // Before anybody could believe that we are dead. The threads of the routers end now, and it goes on for a moment.
        if let Some(respite) = respite {
            self.set_lease(respite);
        }
        self.heartbeat.depend_on(Vec::new());
        let begun = (Instant::now(), clock_ns(ClockId::CLOCK_BOOTTIME));
        let statuses = self.routers.leave().await;
        self.heartbeat.write_to(None);
        // Counted from the last heartbeat, no later than from the first word.
        if let Some(respite) = respite {
            self.set_lease(respite.saturating_sub(begun.0.elapsed()));
        }
        let mut routers = Vec::new();
        for status in statuses.into_iter().filter(|status| status.holds_addresses) {
            let instance = self.config.vrrp.iter().find(|instance| instance.name == status.name);
            let (Some(instance), Ok(begun_ns)) = (instance, &begun.1) else { continue };
            let until = Duration::from_nanos(*begun_ns) + self::respite(instance);
            let vips: Vec<_> =
                vips_of(&self.config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
            routers.push(LeftRouter {
                instance: status.name,
                virtual_router_id: instance.virtual_router_id.get(),
                version: instance.version.into(),
                ipv4: family_of(&vips) == Family::Ipv4,
                priority: status.priority,
                until_ns: u64::try_from(until.as_nanos()).unwrap_or(u64::MAX),
            });
        }
        let left = routers.len();
        match self.write_note(routers) {
            Ok(()) => {
                let reason = "to a successor on this node: programs, maps and addresses stay";
                let event = Event::new(Kind::Daemon, &self.config.node.name, SystemTime::now());
                let event = event.became("left").because(reason).with("virtual_routers", left as u64);
                self.tell(event.with("respite_ms", milliseconds(respite.unwrap_or_default())));
            }
            Err(error) => warn!("the successor will not know what it succeeds to: {error:#}"),
        }
        self.tracking.stop().await;
        self.finish_telling(HOOKS_LEAVE_WITHIN).await;
        self.connections.stop().await;
    }

    fn set_lease(&mut self, lease: Duration) {
        let Some(dataplane) = &mut self.dataplane else { return };
        let lease_ns = u64::try_from(lease.as_nanos()).unwrap_or(u64::MAX);
        let written = dataplane
            .node()
            .and_then(|node| dataplane.set_node(&lb_common::layout::NodeEntry { lease_ns, ..node }));
        if let Err(error) = written {
            warn!("the lease could not be extended: {:#}", anyhow::Error::from(error));
        }
    }

    fn write_note(&self, routers: Vec<LeftRouter>) -> anyhow::Result<()> {
        let path = note_path(&self.options.socket);
        let note = Note::new(&boot_id()?, clock_ns(ClockId::CLOCK_MONOTONIC)?, routers);
        let new = path.with_extension("succession-new");
        let mut open = fs::OpenOptions::new();
        let mut file = open.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        io::Write::write_all(&mut file, note.to_text().as_bytes())?;
        fs::rename(&new, &path).with_context(|| path.display().to_string())
    }

    /// Goes on where a predecessor has left, if one has: its routers are Active again when this returns.
    pub(super) async fn succeed(&mut self) -> bool {
        let inherited = match inherit(&note_path(&self.options.socket), &self.config) {
            Ok(Some(inherited)) => inherited,
            Ok(None) => return false,
            Err(unusable) => {
                warn!("a predecessor on this node has left a note, but {unusable}");
                return false;
            }
        };
        let begun = Instant::now();
        self.heartbeat.alive(begun);
        self.routers.resume(&self.config, &inherited, begun);
        let resumed = self.routers.all_begun(RESUMED_WITHIN).await;
        self.succession.priorities =
            inherited.iter().map(|(name, inherited)| (name.clone(), inherited.priority)).collect();
        // Ours is the usual one as soon as our own heartbeat is there.
        self.succession.lease = inherited.values().map(|inherited| inherited.respite).min();
        info!(
            instances = ?inherited.keys().collect::<Vec<_>>(),
            resumed,
            took_ms = begun.elapsed().as_millis(),
            "succeeding a daemon that left"
        );
        self.write_heartbeat_already(begun);
        true
    }

    /// The programs of the predecessor look at the heartbeat until ours are there.
    fn write_heartbeat_already(&mut self, now: Instant) {
        let writer = PulseWriter::go_on(&self.config.node.pin_path, self.started.into_std());
        // Of another layout, or none: the lease has to do.
        let Ok(writer) = writer else { return };
        self.heartbeat.depend_on(self.routers.beats());
        self.heartbeat.write_to(Some(Box::new(writer)));
        // The addresses are as the routers, which have just resumed, want them.
        self.heartbeat.settled(now.max(self.heartbeat.running_since().unwrap_or(now)));
    }

    /// Loads the programs while the routers that were resumed go on. Who loses its addresses meanwhile gives them up.
    pub(super) async fn load_meanwhile(&mut self) -> Option<Result<Dataplane, DataplaneError>> {
        let config = self.config.clone();
        let mut loading = pin!(load(&config));
        let mut tick = interval(ALIVE);
        let resumed: Vec<String> = self.routers.active().into_keys().collect();
        loop {
            tokio::select! {
                loaded = &mut loading => return Some(loaded),
                _ = tick.tick() => self.heartbeat.alive(Instant::now()),
            }
            let active = self.routers.active();
            let lost = resumed.iter().filter(|name| !active.contains_key(*name));
            for address in lost.flat_map(|name| vips_of(&self.config, name)) {
                self.heartbeat.write_to(None);
                // It may be gone already.
                let _gone = self.netlink.remove_address(address).await;
            }
        }
    }

    /// Goes on with an upgrade from a former layout, if there is one.
    pub(super) fn look_at_former(&mut self) {
        if let Some(dataplane) = &mut self.dataplane
            && let Err(error) = dataplane.go_on_migrating()
        {
            warn!("what a former release left is not gone yet: {:#}", anyhow::Error::from(error));
        }
    }

    /// The lease that `NODE` is to have.
    pub(super) fn node_lease(&self) -> Duration {
        let usual = lease(&self.config);
        self.succession.lease.map_or(usual, |inherited| inherited.max(usual))
    }

    /// Once our own heartbeat is written, the usual lease is enough.
    pub(super) fn look_at_lease(&mut self) {
        if self.succession.lease.is_some() && self.heartbeat.written().is_some() {
            self.succession.lease = None;
            self.schedule(Duration::ZERO);
        }
    }
}

/// What a note says may be resumed, less those that others have taken over since. The note is gone afterwards.
fn inherit(path: &Path, config: &Config) -> Result<Option<BTreeMap<String, Inherited>>, Unusable> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(Unusable::Form),
    };
    // It must never be used twice.
    if fs::remove_file(path).is_err() {
        return Err(Unusable::Form);
    }
    let note = Note::parse(&text)?;
    let (Ok(boot), Ok(now_ns)) = (boot_id(), clock_ns(ClockId::CLOCK_BOOTTIME)) else {
        return Err(Unusable::Boot);
    };
    let mut inherited = note.inherited(&boot, now_ns, config)?;
    let seen = Sightings::pinned(&config.node.pin_path).map(|seen| seen.adverts()).unwrap_or_default();
    inherited.retain(|name, _| {
        let Some(instance) = config.vrrp.iter().find(|instance| instance.name == *name) else { return false };
        // What is signed cannot be verified there, and a forger must not move the VIP.
        let successor = seen.iter().find(|(_, vrid, seen)| {
            *vrid == instance.virtual_router_id.get()
                && seen.at_ns > note.left_ns
                && instance.auth_hmac.is_none()
        });
        if let Some((source, _, _)) = successor {
            warn!(vrrp = name, %source, "another node has become active meanwhile");
        }
        successor.is_none()
    });
    Ok(Some(inherited))
}
