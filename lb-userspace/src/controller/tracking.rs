//! What the VRRP instances depend on beside our own data plane: the running tracks and witnesses.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU8,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use crate::{
    config::model::{Config, Track, Tracked, VrrpInstance},
    desired::vips_of,
    status::{TrackStatus, WitnessStatus},
    track::{
        running::RunningTrack,
        weight::{TrackCondition, TrackState, subject, weigh},
        witness::{self, Witnesses},
    },
    vrrp::advert::Priority,
};

/// The running tracks and witnesses. Wakes the controller when a verdict may have changed.
#[derive(Debug)]
pub struct Tracking {
    interface: String,
    changed: Arc<Notify>,
    instances: BTreeMap<String, Instance>,
    running: Vec<Running>,
}

/// What one instance has to do with it.
#[derive(Debug)]
struct Instance {
    priority: NonZeroU8,
    tracks: Vec<(Watched, Track)>,
    asked: Asked,
    witnesses: Witnesses,
}

/// Something tracked: of two instances that track the same, each has its own, unless they are of one sync group.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Watched {
    /// The first instance in the file's order that names it; its scripts get this name.
    instance: String,
    what: Tracked,
}

#[derive(Debug)]
struct Running {
    watched: Watched,
    track: RunningTrack,
}

/// What the pings of an instance depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    addresses: Vec<IpAddr>,
    period: Duration,
}

impl Tracking {
    /// Nothing yet. Witnesses are asked from `interface`.
    pub fn new(interface: &str, changed: Arc<Notify>) -> Self {
        Self { interface: interface.to_owned(), changed, instances: BTreeMap::new(), running: Vec::new() }
    }

    /// Starts and ends tracks and pings until they are as configured. What is unchanged goes on with all that it knows;
    /// one whose settings have changed goes on from what the old one knew. Needs a Tokio runtime.
    pub fn configure(&mut self, config: &Config) {
        let wanted = wanted(config);
        let mut old = std::mem::take(&mut self.running);
        for (_, tracks) in &wanted {
            for (watched, _) in tracks {
                if self.running.iter().any(|running| running.watched == *watched) {
                    continue;
                }
                let running = match old.iter().position(|running| running.watched == *watched) {
                    Some(same) => old.swap_remove(same),
                    None => self.start(watched.clone(), &old),
                };
                self.running.push(running);
            }
        }
        // Ended by dropping: scripts that run are killed.
        drop(old);

        let mut before = std::mem::take(&mut self.instances);
        for (instance, tracks) in wanted {
            let addresses = instance.witnesses.clone();
            let asked = Asked { addresses, period: witness::period(instance.advert_interval) };
            let witnesses = match before.remove(&instance.name) {
                Some(same) if same.asked == asked => same.witnesses,
                _ => {
                    let changed = Arc::clone(&self.changed);
                    Witnesses::spawn(&instance.name, &self.interface, &asked.addresses, asked.period, changed)
                }
            };
            let entry = Instance { priority: instance.priority, tracks, asked, witnesses };
            self.instances.insert(instance.name.clone(), entry);
        }
    }

    fn start(&self, watched: Watched, old: &[Running]) -> Running {
        let alike = old.iter().find(|running| {
            running.watched.instance == watched.instance
                && subject(&running.watched.what) == subject(&watched.what)
        });
        let known = alike.map_or_else(|| TrackState::unknown(SystemTime::now()), |old| old.track.state());
        let track = RunningTrack::spawn(&watched.what, &watched.instance, known, Arc::clone(&self.changed));
        Running { watched, track }
    }

    /// The priority that an instance has with all that it tracks; see [`weigh`]. `None` for one that is not known or
    /// has no VIP.
    ///
    /// # Errors
    /// Why it is in Fault.
    pub fn verdict(&self, instance: &str) -> Option<Result<Priority, String>> {
        let instance = self.instances.get(instance)?;
        let states: Vec<(&Track, TrackState)> =
            instance.tracks.iter().map(|(watched, track)| (track, self.state(watched))).collect();
        Some(weigh(instance.priority, states.iter().map(|(track, state)| (*track, state))))
    }

    /// Whether a witness of the instance has answered lately, as of now; always so where there is none.
    ///
    /// # Errors
    /// Who has not, and for how long.
    pub fn witness(&self, instance: &str) -> Result<(), String> {
        self.instances.get(instance).map_or(Ok(()), |instance| instance.witnesses.verdict())
    }

    /// Whether everything tracked has had its first result.
    pub fn all_known(&self) -> bool {
        self.running.iter().all(|running| running.track.state().condition != TrackCondition::Unknown)
    }

    /// How long the first results take at most.
    pub fn first_results_within(&self) -> Duration {
        let timeout = |running: &Running| match &running.watched.what {
            Tracked::Interface { .. } => Duration::ZERO,
            Tracked::Script { timeout, .. } => *timeout,
        };
        self.running.iter().map(timeout).max().unwrap_or_default()
    }

    /// What an instance tracks, for people.
    pub fn status(&self, instance: &str) -> Vec<TrackStatus> {
        let instance = self.instances.get(instance);
        let tracks = instance.into_iter().flat_map(|instance| &instance.tracks);
        tracks.map(|(watched, track)| track_status(track, &self.state(watched))).collect()
    }

    /// Its witnesses; `None` where there are none.
    pub fn witness_status(&self, instance: &str) -> Option<WitnessStatus> {
        let instance =
            self.instances.get(instance).filter(|instance| !instance.asked.addresses.is_empty())?;
        let verdict = instance.witnesses.verdict();
        Some(WitnessStatus {
            addresses: instance.asked.addresses.iter().map(IpAddr::to_string).collect(),
            answers: verdict.is_ok(),
            problem: verdict.err(),
        })
    }

    /// Ends all; no script runs any more when this returns.
    pub async fn stop(&mut self) {
        self.instances.clear();
        for running in std::mem::take(&mut self.running) {
            running.track.stop().await;
        }
    }

    fn state(&self, watched: &Watched) -> TrackState {
        let running = self.running.iter().find(|running| running.watched == *watched);
        running.map_or_else(|| TrackState::unknown(SystemTime::now()), |running| running.track.state())
    }
}

fn track_status(track: &Track, state: &TrackState) -> TrackStatus {
    TrackStatus {
        name: subject(&track.what),
        weight: track.weight,
        state: match state.condition {
            TrackCondition::Unknown => "unknown",
            TrackCondition::Up => "up",
            TrackCondition::Down => "down",
        }
        .to_owned(),
        since: humantime::format_rfc3339_millis(state.since).to_string(),
        reason: state.reason.clone(),
    }
}

/// The instances that have a VIP, each with what it tracks: its own, and that of the other members of its sync group.
fn wanted(config: &Config) -> Vec<(&VrrpInstance, Vec<(Watched, Track)>)> {
    let used: Vec<&VrrpInstance> =
        config.vrrp.iter().filter(|instance| !vips_of(config, &instance.name).is_empty()).collect();
    let together = |one: &VrrpInstance, other: &VrrpInstance| {
        one.name == other.name || (one.sync_group.is_some() && one.sync_group == other.sync_group)
    };
    let tracks_of = |instance: &VrrpInstance| {
        let mut tracks: Vec<(Watched, Track)> = Vec::new();
        for member in used.iter().filter(|member| together(instance, member)) {
            for track in &member.tracks {
                if tracks.iter().any(|(_, known)| known == track) {
                    continue;
                }
                // Who tracks the same with another weight looks at the same.
                let first = tracks.iter().find(|(watched, _)| watched.what == track.what);
                let owner = first.map_or(&member.name, |(watched, _)| &watched.instance).clone();
                tracks.push((Watched { instance: owner, what: track.what.clone() }, track.clone()));
            }
        }
        tracks
    };
    used.iter().map(|instance| (*instance, tracks_of(instance))).collect()
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Uid, User};
    use tokio::time::timeout;

    use super::*;
    use crate::desired::tests::{config, service};

    const SOON: Duration = Duration::from_secs(20);

    fn shell(text: &str, weight: i16) -> Track {
        let user = User::from_uid(Uid::effective()).expect("asked").expect("we are somebody").name;
        let what = Tracked::Script {
            command: ["/bin/sh", "-c", text].map(str::to_owned).to_vec(),
            user,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(10),
            rise: 1,
            fall: 1,
        };
        Track { what, weight }
    }

    fn lo(weight: i16) -> Track {
        Track { what: Tracked::Interface { interface: "lo".into() }, weight }
    }

    /// Instances `a` and `b`, each with a VIP, and `unused`.
    fn two(a: Vec<Track>, b: Vec<Track>, group: Option<&str>) -> Config {
        let mut config = config(vec![
            service("one", [172, 16, 0, 10].into(), &[4]),
            service("two", [172, 16, 0, 11].into(), &[4]),
        ]);
        let instance = |name: &str, vrid, tracks: Vec<Track>| VrrpInstance {
            sync_group: group.map(str::to_owned),
            tracks,
            ..VrrpInstance::new(name, NonZeroU8::new(vrid).expect("not 0"))
        };
        config.services[0].vrrp = Some("a".into());
        config.services[1].vrrp = Some("b".into());
        config.vrrp =
            vec![instance("a", 1, a), instance("b", 2, b), instance("unused", 3, vec![shell("exit 9", 0)])];
        config
    }

    fn names(config: &Config, instance: &str) -> Vec<(String, i16)> {
        let wanted = wanted(config);
        let (_, tracks) = wanted.iter().find(|(known, _)| known.name == instance).expect("it is used");
        tracks.iter().map(|(watched, track)| (watched.instance.clone(), track.weight)).collect()
    }

    async fn until(tracking: &Tracking, changed: &Notify, what: impl Fn(&Tracking) -> bool) {
        let reached = async {
            while !what(tracking) {
                changed.notified().await;
            }
        };
        timeout(SOON, reached).await.expect("in time");
    }

    #[test]
    fn members_of_a_sync_group_track_what_any_of_them_tracks() {
        let alone = two(vec![lo(0), shell("x", 5)], vec![lo(0)], None);
        assert_eq!(names(&alone, "a"), [("a".to_owned(), 0), ("a".to_owned(), 5)]);
        assert_eq!(names(&alone, "b"), [("b".to_owned(), 0)]);
        assert!(wanted(&alone).iter().all(|(instance, _)| instance.name != "unused"));

        let group = two(vec![lo(0), shell("x", 5)], vec![lo(0), lo(-7), shell("y", 1)], Some("both"));
        let union = [("a", 0), ("a", 5), ("a", -7), ("b", 1)].map(|(name, weight)| (name.to_owned(), weight));
        assert_eq!(names(&group, "a"), union);
        assert_eq!(names(&group, "b"), union);
    }

    #[tokio::test]
    async fn verdicts_follow_the_results() {
        let changed = Arc::new(Notify::new());
        let mut tracking = Tracking::new("lo", Arc::clone(&changed));
        assert_eq!(tracking.verdict("a"), None);
        assert_eq!(tracking.witness("a"), Ok(()));
        let directory = tempfile::tempdir().expect("a directory");
        let flag = directory.path().join("flag");
        let text = format!("test -e {}", flag.display());
        tracking.configure(&two(vec![shell(&text, 0)], vec![shell(&text, -50)], None));
        assert!(!tracking.all_known());
        assert_eq!(
            tracking.verdict("a"),
            Some(Ok(Priority(100))),
            "nothing is held against what is not known"
        );
        assert_eq!(tracking.first_results_within(), Duration::from_secs(10));
        until(&tracking, &changed, Tracking::all_known).await;
        let fault = Some(Err(format!("script /bin/sh -c {text}: exit 1")));
        assert_eq!(tracking.verdict("a"), fault);
        assert_eq!(tracking.verdict("b"), Some(Ok(Priority(50))));
        let status = tracking.status("b");
        assert_eq!((status[0].state.as_str(), status[0].weight), ("down", -50));

        std::fs::write(&flag, "").expect("written");
        let well = Some(Ok(Priority(100)));
        until(&tracking, &changed, |now| now.verdict("a") == well && now.verdict("b") == well).await;
        tracking.stop().await;
        assert_eq!(tracking.verdict("a"), None);
    }

    #[tokio::test]
    async fn a_new_configuration_touches_only_what_it_changes() {
        let changed = Arc::new(Notify::new());
        let mut tracking = Tracking::new("lo", Arc::clone(&changed));
        let directory = tempfile::tempdir().expect("a directory");
        let runs = directory.path().join("runs");
        // Would be seen again if it were started anew: it never ends.
        let hung = shell(&format!("echo run >> {}; sleep 600", runs.display()), 0);
        tracking.configure(&two(vec![hung.clone()], vec![shell("exit 1", 0)], None));
        until(&tracking, &changed, |now| now.verdict("b").is_some_and(|verdict| verdict.is_err())).await;

        let mut slower = shell("exit 1", 0);
        if let Tracked::Script { interval, .. } = &mut slower.what {
            *interval = Duration::from_secs(60);
        }
        tracking.configure(&two(vec![hung.clone()], vec![slower], None));
        assert!(tracking.verdict("b").is_some_and(|verdict| verdict.is_err()), "a reload is no recovery");
        let begin = std::time::Instant::now();
        while !runs.exists() && begin.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tracking.configure(&two(vec![hung.clone()], Vec::new(), None));
        assert_eq!(tracking.verdict("b"), Some(Ok(Priority(100))));
        tracking.configure(&two(vec![hung], Vec::new(), None));
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(std::fs::read_to_string(&runs).expect("it ran"), "run\n");
        tracking.stop().await;
    }
}
