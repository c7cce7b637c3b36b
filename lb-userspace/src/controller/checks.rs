//! The health checks that run: one monitor for each pool entry.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};

use super::{
    doubt::Testimony,
    history::{self, Subject},
};
use crate::{
    config::model::{Check, Config, Health},
    desired::{PoolEntry, pool},
    health::{
        monitor::{BackendHealth, Monitor, Recipe},
        rise_fall::HealthState,
    },
    history::Teller,
};

/// The running monitors. Wakes the controller when a backend's state, or kind of being down, changes, and when one falls
/// silent.
#[derive(Debug)]
pub struct Checks {
    running: BTreeMap<PoolEntry, Running>,
    changed: Arc<Notify>,
    results: Arc<Results>,
    teller: Teller,
}

/// Who waits for any result, if somebody does.
#[derive(Debug)]
struct Results {
    are_awaited: AtomicBool,
    arrived: Arc<Notify>,
}

#[derive(Debug)]
struct Running {
    settings: Health,
    /// See [`files`].
    files: u64,
    /// Whom its events are about.
    subject: Subject,
    monitor: Monitor,
    health: watch::Receiver<BackendHealth>,
}

/// What is in the files that a monitor reads only when it begins, as a number that is another one where that has changed: a renewed
/// certificate has the name of the former one.
fn files(health: &Health) -> u64 {
    let tls = match &health.check {
        Check::Tls { tls } | Check::Https { tls, .. } => Some(tls),
        Check::Tcp | Check::Http { .. } => None,
    };
    let named = tls.into_iter().flat_map(|tls| [&tls.ca_file, &tls.client_cert, &tls.client_key]);
    let mut hasher = DefaultHasher::new();
    named.flatten().for_each(|file| fs::read(file).ok().hash(&mut hasher));
    hasher.finish()
}

/// Monitors that a configuration needs and that do not run yet, started; and which entries it has.
#[derive(Debug)]
pub struct Plan {
    /// And the service and the name of each.
    wanted: BTreeMap<PoolEntry, (String, String)>,
    new: BTreeMap<PoolEntry, Running>,
}

impl Checks {
    /// None yet. `arrived` is notified of every result while [`Self::await_results`] says so.
    pub fn new(changed: Arc<Notify>, arrived: Arc<Notify>, teller: Teller) -> Self {
        let results = Arc::new(Results { are_awaited: AtomicBool::new(false), arrived });
        Self { running: BTreeMap::new(), changed, results, teller }
    }

    /// Starts what a configuration needs beyond what runs. Nothing of what runs is touched.
    ///
    /// # Errors
    /// A file that a check needs cannot be used.
    pub fn plan(&self, config: &Config) -> anyhow::Result<Plan> {
        let mut plan = Plan { wanted: BTreeMap::new(), new: BTreeMap::new() };
        for service in &config.services {
            // The same for all of its backends.
            let files = files(&service.health);
            let mut recipe = None;
            for (entry, backend) in pool(service).zip(&service.backends) {
                let subject = history::subject_of(service, &backend.name);
                plan.wanted.insert(entry, subject.clone());
                let is_same =
                    |running: &Running| running.settings == service.health && running.files == files;
                if self.running.get(&entry).is_some_and(is_same) {
                    continue;
                }
                let subject = Arc::new(Mutex::new(subject));
                let observer =
                    history::check_observer(self.teller.clone(), Arc::clone(&subject), entry.address);
                let about = || format!("service {:?}: checks of {}", service.name, entry.address);
                let recipe = match &recipe {
                    Some(recipe) => recipe,
                    None => {
                        let health = &service.health;
                        recipe.insert(Recipe::read(&health.check, health.timeout).with_context(about)?)
                    }
                };
                let monitor = Monitor::spawn_by(recipe, &service.health, entry.address, observer)
                    .with_context(about)?;
                let health = monitor.health();
                let (changed, results) = (Arc::clone(&self.changed), Arc::clone(&self.results));
                tokio::spawn(follow(health.clone(), changed, results));
                let settings = service.health.clone();
                plan.new.insert(entry, Running { settings, files, subject, monitor, health });
            }
        }
        Ok(plan)
    }

    /// Puts a plan in force: what is unchanged goes on with all that it knows.
    pub fn commit(&mut self, plan: Plan) {
        let Plan { wanted, new } = plan;
        let replaced: Vec<PoolEntry> = (self.running.keys().copied())
            .filter(|entry| !wanted.contains_key(entry) || new.contains_key(entry))
            .collect();
        for entry in replaced {
            // Dropping ends it; nobody waits for its connection to close.
            self.running.remove(&entry);
        }
        self.running.extend(new);
        for (entry, name) in wanted {
            if let Some(running) = self.running.get(&entry) {
                *running.subject.lock().unwrap_or_else(PoisonError::into_inner) = name;
            }
        }
    }

    /// The states, for the reconciler.
    pub fn states(&self) -> BTreeMap<PoolEntry, HealthState> {
        self.running.iter().map(|(&entry, running)| (entry, running.health.borrow().state)).collect()
    }

    /// Those that are down by fewer than `fall` checks, which got no answer, and none before: it may have been the check.
    pub fn doubted(&self) -> BTreeSet<PoolEntry> {
        let is_doubted = |health: &BackendHealth| health.state == HealthState::Down && health.down.is_none();
        let all = self.running.iter();
        all.filter(|(_, running)| is_doubted(&running.health.borrow())).map(|(&entry, _)| entry).collect()
    }

    /// All that is known about one.
    pub fn health(&self, entry: &PoolEntry) -> Option<BackendHealth> {
        self.running.get(entry).map(|running| running.health.borrow().clone())
    }

    /// Whether every backend is up, and its newest check has passed since then.
    pub fn all_passed_since(&self, since: SystemTime) -> bool {
        self.running.values().all(|running| {
            let health = running.health.borrow();
            let passed = health.last_check.as_ref().is_some_and(|check| check.passed && check.at >= since);
            health.state == HealthState::Up && passed
        })
    }

    /// Checks every backend at once.
    pub fn probe_now(&self) {
        self.running.values().for_each(|running| running.monitor.probe_now());
    }

    /// Checks one backend at once; what is no entry is not checked.
    pub fn probe_one_now(&self, entry: &PoolEntry) {
        if let Some(running) = self.running.get(entry) {
            running.monitor.probe_now();
        }
    }

    /// Whether the controller is to be woken by every result.
    pub fn await_results(&self, awaited: bool) {
        self.results.are_awaited.store(awaited, Ordering::Relaxed);
    }

    /// Who is alive, as far as the checks tell.
    pub fn testimonies(&self) -> Vec<(PoolEntry, Testimony)> {
        let testimony = |entry: &PoolEntry, health: &BackendHealth| Testimony {
            host: entry.address.ip(),
            // One that is just coming back is not dead, though it is not up, either.
            down: health.down.filter(|_| health.last_check.as_ref().is_some_and(|check| !check.passed)),
            heard: health.heard,
            silent: health.silent,
        };
        let all = self.running.iter();
        all.map(|(&entry, running)| (entry, testimony(&entry, &running.health.borrow()))).collect()
    }

    /// Those that are up.
    pub fn up(&self) -> Vec<PoolEntry> {
        let is_up = |running: &Running| running.health.borrow().state == HealthState::Up;
        self.running.iter().filter(|(_, running)| is_up(running)).map(|(&entry, _)| entry).collect()
    }

    /// Whether every backend has been checked.
    pub fn all_known(&self) -> bool {
        self.running.values().all(|running| running.health.borrow().state != HealthState::Unknown)
    }

    /// Ends all of them, and waits until their connections are closed properly.
    pub async fn stop(&mut self) {
        let running = std::mem::take(&mut self.running);
        let stopping: Vec<_> =
            running.into_values().map(|running| tokio::spawn(running.monitor.stop())).collect();
        for task in stopping {
            let _ended = task.await;
        }
    }
}

/// Ends with the monitor.
async fn follow(mut health: watch::Receiver<BackendHealth>, changed: Arc<Notify>, results: Arc<Results>) {
    let condition = |health: &BackendHealth| (health.state, health.down, health.silent.is_some());
    let mut known = condition(&health.borrow_and_update());
    while health.changed().await.is_ok() {
        let now = condition(&health.borrow_and_update());
        if now != known {
            known = now;
            changed.notify_one();
        } else if results.are_awaited.load(Ordering::Relaxed) {
            results.arrived.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[tokio::test]
    async fn a_renewed_certificate_is_used_after_a_reload_and_nothing_else_is_disturbed() {
        let directory = tempfile::tempdir().expect("a directory");
        let ca_file = directory.path().join("ca.crt");
        let renew = || {
            let identity = rcgen::generate_simple_self_signed(["ca".to_owned()]).expect("a certificate");
            fs::write(&ca_file, identity.cert.pem()).expect("written");
        };
        renew();
        let file = directory.path().join("xvip.toml");
        let text = format!(
            "[node]\nname = \"lb1\"\ninterface = \"eth0\"\n\
             [[service]]\nname = \"one\"\nvip = \"172.16.0.10\"\nport = 6443\n\
             [service.health]\nverify = \"ca\"\nca_file = {ca_file:?}\n\
             [[service.backend]]\nname = \"m1\"\naddress = \"172.16.0.4:6443\"\n\
             [[service]]\nname = \"two\"\nvip = \"172.16.0.11\"\nport = 6443\n\
             [service.health]\ncheck = \"tcp\"\n\
             [[service.backend]]\nname = \"m2\"\naddress = \"172.16.0.5:6443\"\n"
        );
        fs::write(&file, text).expect("written");
        let mut config = config::load(&file).unwrap_or_else(|error| panic!("{error}")).config;
        // Nothing of a test leaves the machine.
        for (service, port) in config.services.iter_mut().zip([1, 2]) {
            service.backends[0].address = (std::net::Ipv4Addr::LOCALHOST, port).into();
        }

        let mut checks = Checks::new(Arc::default(), Arc::default(), Teller::default());
        let begun = |checks: &mut Checks| {
            let plan = checks.plan(&config).expect("the files are there");
            let begun: Vec<u16> = plan.new.keys().map(|entry| entry.address.port()).collect();
            checks.commit(plan);
            begun
        };
        assert_eq!(begun(&mut checks), [1, 2]);
        assert_eq!(begun(&mut checks), [0_u16; 0], "nothing has changed");
        renew();
        assert_eq!(begun(&mut checks), [1], "the other has no certificate");
    }
}
