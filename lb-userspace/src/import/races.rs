//! The elections that the files describe: who competes for which VIPs, before and with xvip; the findings that follow (E3,
//! W8), and how long take-overs take.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    election::{self, Candidate, Failure, Row},
    incumbent::{Cluster, Incumbent, RouterInstance, RouterTracked},
    ledger::{Finding, Ledger, Severity},
    plan::{InstancePlan, NodePlan, TrackedPlan, asks_for_balancer},
    source::Place,
    timing::{self, Event, Speech, Takes, TimingRow},
};
use crate::config::model::duration_text;

/// Of the fastest proposal.
const FAST: Duration = Duration::from_millis(200);
/// As long as Corosync waits for a lost node before it decides: token, and consensus of 1.2 tokens (corosync.conf(5)).
const DEFAULT_TOKEN: Duration = Duration::from_secs(3);

/// An election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Race {
    /// The VRRP instance's or the resource's name.
    pub name: String,
    /// What is at stake.
    pub vips: Vec<IpAddr>,
    /// What had to be assumed of nodes whose files are not there; empty: nothing.
    pub assumed: String,
    /// The nodes.
    pub old: Vec<Candidate>,
    /// With xvip on each of them.
    pub new: Vec<Candidate>,
    /// Every subset of failures, before; the same in `new_rows`.
    pub old_rows: Vec<Row>,
    /// With xvip.
    pub new_rows: Vec<Row>,
    /// Whether no subset is left out.
    pub complete: bool,
    /// How long a take-over takes.
    pub timing: Vec<TimingRow>,
    /// Where findings about it point.
    places: Vec<Place>,
    /// Whether Pacemaker decides, and not keepalived.
    by_cluster: bool,
}

/// All elections of these files; without a plan there are none.
pub fn races(from: &Incumbent, plans: &[NodePlan]) -> Vec<Race> {
    let mut races: Vec<Race> = Vec::new();
    let mut seen = BTreeSet::new();
    for node in &from.routers {
        for instance in &node.instances {
            let Some(key) = key(instance) else { continue };
            if seen.insert(key) {
                races.extend(by_keepalived(from, plans, instance));
            }
        }
    }
    if let Some(cluster) = &from.cluster {
        races.extend(by_cluster(cluster, plans));
    }
    races
}

/// Instances of several nodes are one virtual router if they have a VIP in common.
fn key(instance: &RouterInstance) -> Option<IpAddr> {
    instance.vips.iter().map(|vip| vip.value.address).min()
}

/// Whether there is a process that balances: IPVS has none, and is what keepalived's own file sets up.
fn has_balancer(from: &Incumbent) -> bool {
    from.proxies.is_empty()
        || from.proxies.iter().any(|proxy| from.routers.iter().all(|node| node.file != proxy.name.place.file))
}

fn by_keepalived(from: &Incumbent, plans: &[NodePlan], first: &RouterInstance) -> Option<Race> {
    let wanted = key(first)?;
    let mut old = Vec::new();
    let mut instances = Vec::new();
    let mut new = Vec::new();
    for (index, node) in from.routers.iter().enumerate() {
        let Some(instance) = node.instances.iter().find(|instance| key(instance) == Some(wanted)) else {
            continue;
        };
        let plan = plans.get(index)?;
        let imported = plan.instances.iter().find(|plan| plan.name.from == Some(instance.name.place))?;
        let name = plan.file_name.clone();
        old.push(candidate(name.clone(), instance));
        new.push(imported_candidate(name, imported));
        instances.push(instance);
    }
    let mut assumed = String::new();
    if old.len() == 1 {
        (assumed, old, new) = with_peers(first, old, new);
    }
    let known_balancer = has_balancer(from);
    let rows = |candidates: &[Candidate]| election::table(candidates, known_balancer);
    let ((old_rows, complete), (new_rows, _)) = (rows(&old), rows(&new));
    let mut places = vec![first.name.place];
    for instance in &instances {
        places.push(instance.priority.place);
        places.extend(
            instance.tracks.iter().filter(|track| asks_for_balancer(&track.what)).map(|track| track.place),
        );
    }
    places.dedup();
    let timing = keepalived_timing((&old, &old_rows), &new, &instances, plans, known_balancer);
    Some(Race {
        name: first.name.value.clone(),
        vips: first.vips.iter().map(|vip| vip.value.address).collect(),
        assumed,
        old,
        new,
        old_rows,
        new_rows,
        complete,
        timing,
        places,
        by_cluster: false,
    })
}

fn candidate(name: String, instance: &RouterInstance) -> Candidate {
    let tracks = || instance.tracks.iter();
    let others = tracks().filter(|track| !asks_for_balancer(&track.what));
    Candidate {
        name,
        address: instance.unicast_source.as_ref().map(|source| source.value),
        priority: instance.priority.value.max(1),
        preempt: instance.no_preempt.is_none() || instance.begins_as_master || instance.priority.value == 255,
        balancer: tracks().filter(|track| asks_for_balancer(&track.what)).map(|track| track.weight).collect(),
        others: others
            .map(|track| {
                let what = match &track.what {
                    RouterTracked::Interface(interface) => interface.clone(),
                    RouterTracked::Script(script) => script.name.value.clone(),
                    RouterTracked::Process(process) => process.clone(),
                    RouterTracked::Other(directive) => directive.clone(),
                };
                (what, track.weight)
            })
            .collect(),
    }
}

/// xvip's own data plane counts as a balancer does with weight 0: without it the node is in Fault.
fn imported_candidate(name: String, plan: &InstancePlan) -> Candidate {
    Candidate {
        name,
        address: plan.unicast_source.as_ref().map(|source| source.value),
        priority: plan.priority.value,
        preempt: plan.preempt.value,
        balancer: vec![0],
        others: plan
            .tracks
            .iter()
            .map(|track| {
                let what = match &track.what.value {
                    TrackedPlan::Interface(interface) => interface.clone(),
                    TrackedPlan::Script { command, .. } => command.join(" "),
                };
                (what, track.weight)
            })
            .collect(),
    }
}

/// The nodes whose files were not given.
fn with_peers(
    first: &RouterInstance,
    mut old: Vec<Candidate>,
    mut new: Vec<Candidate>,
) -> (String, Vec<Candidate>, Vec<Candidate>) {
    let peers: Vec<Option<IpAddr>> = match first.unicast_peers.as_slice() {
        [] => vec![None],
        peers => peers.iter().take(3).map(|peer| Some(peer.value)).collect(),
    };
    for (number, address) in peers.iter().enumerate() {
        let name = address.map_or_else(|| format!("node {}", number + 2), |address| address.to_string());
        for side in [&mut old, &mut new] {
            if let Some(like) = side.first().cloned() {
                side.push(Candidate { name: name.clone(), address: *address, ..like });
            }
        }
    }
    let assumed = "only one node's keepalived.conf was given: the others are assumed to have the same priority and the same \
                   scripts. Give all of them (--keepalived for each) for the real table"
        .to_owned();
    (assumed, old, new)
}

fn owner_of(rows: &[Row], failures: &[Failure]) -> Option<usize> {
    let row = rows.iter().find(|row| row.failures == failures)?;
    row.owners.first().copied().flatten()
}

fn keepalived_timing(
    (old, old_rows): (&[Candidate], &[Row]),
    new: &[Candidate],
    instances: &[&RouterInstance],
    plans: &[NodePlan],
    has_balancer: bool,
) -> Vec<TimingRow> {
    let Some(owner) = owner_of(old_rows, &[]) else { return Vec::new() };
    // A node that was assumed is as the only one that is known.
    let (Some(owner_instance), Some(first)) = (instances.get(owner).or(instances.first()), instances.first())
    else {
        return Vec::new();
    };
    let heir = owner_of(old_rows, &[Failure::Node(owner)]);
    let nobody = || Takes::never("there is no other node");
    let speech = |priority: u8, interval: Duration| Speech { interval, priority };
    let advertised =
        |candidates: &[Candidate], node: usize| election::advertised(candidates, node).unwrap_or(1);
    let old_speech = heir.map(|heir| speech(advertised(old, heir), first.advert_interval));
    let imported =
        plans.iter().flat_map(|plan| &plan.instances).find(|plan| plan.name.from == Some(first.name.place));
    let new_interval = imported.map_or(first.advert_interval, |plan| plan.advert_interval.value);
    let new_speech = heir.map(|heir| speech(advertised(new, heir), new_interval));
    let fast = heir.map(|heir| speech(advertised(new, heir), FAST));
    let takes = |speech: Option<Speech>, how: fn(Speech) -> Takes| speech.map_or_else(nobody, how);
    let row = |event, how: fn(Speech) -> Takes| TimingRow {
        event,
        old: takes(old_speech, how),
        new: takes(new_speech, how),
        fast: takes(fast, how),
    };
    let mut rows = Vec::new();
    if has_balancer {
        rows.push(TimingRow {
            event: Event::ProcessDies,
            old: balancer_death(
                owner_instance,
                owner_of(old_rows, &[Failure::Balancer(owner)]) != Some(owner),
                old_speech,
            ),
            new: forwarding_goes_on(),
            fast: forwarding_goes_on(),
        });
    }
    rows.push(row(Event::NodeDies, Speech::silence));
    rows.push(row(Event::LinkCut, Speech::silence));
    rows.push(row(Event::Stopped, Speech::farewell));
    rows
}

fn forwarding_goes_on() -> Takes {
    Takes::between(Duration::ZERO, Duration::ZERO).because("XDP goes on forwarding without the daemon")
}

/// HAProxy dies, keepalived lives: when does the VIP move?
fn balancer_death(instance: &RouterInstance, moves: bool, heir: Option<Speech>) -> Takes {
    let Some(heir) = heir else { return Takes::never("there is no other node") };
    let asking: Vec<_> = instance.tracks.iter().filter(|track| asks_for_balancer(&track.what)).collect();
    if asking.is_empty() {
        return Takes::never("nothing asks for the balancer");
    }
    if !moves {
        return Takes::never("the weight changes too little");
    }
    let noticed = asking.iter().map(|track| {
        let (noticed, fault) = match &track.what {
            RouterTracked::Script(script) => {
                let fall = script.fall.clamp(1, 1000);
                ((script.interval * (fall - 1), script.interval * fall), track.weight == 0)
            }
            _ => ((Duration::ZERO, Duration::ZERO), track.weight == 0),
        };
        timing::then(noticed, &if fault { heir.farewell() } else { heir.silence() })
    });
    noticed.min_by_key(|takes| takes.at_most_ms).unwrap_or_else(|| Takes::never(""))
}

/// Pacemaker: any healthy node, and no fail-back where resources stick.
fn by_cluster(cluster: &Cluster, plans: &[NodePlan]) -> Option<Race> {
    let first = cluster.vips.first()?;
    let imported: Vec<(&NodePlan, &InstancePlan)> = plans
        .iter()
        .filter_map(|plan| {
            Some((plan, plan.instances.iter().find(|one| one.name.from == Some(first.place))?))
        })
        .collect();
    let mut new: Vec<Candidate> =
        imported.iter().map(|(plan, one)| imported_candidate(plan.file_name.clone(), one)).collect();
    let mut assumed = String::new();
    if let [only] = new.as_slice() {
        let second = Candidate {
            name: "node 2".to_owned(),
            priority: only.priority.saturating_sub(1).max(1),
            ..only.clone()
        };
        new.push(second);
        assumed =
            "no file names the nodes: two are assumed. Give corosync.conf (--corosync) for the real ones"
                .to_owned();
    }
    let old: Vec<Candidate> = new
        .iter()
        .map(|one| Candidate { preempt: cluster.sticky.is_none(), balancer: vec![0], ..one.clone() })
        .collect();
    let ((old_rows, complete), (new_rows, _)) = (election::table(&old, true), election::table(&new, true));
    let owner = owner_of(&new_rows, &[])?;
    let heir = owner_of(&new_rows, &[Failure::Node(owner)])?;
    let priority = new.get(heir)?.priority;
    let interval = imported.first().map_or(Duration::from_secs(1), |(_, one)| one.advert_interval.value);
    let speech = |interval| Speech { interval, priority };
    let token = cluster.token.as_ref().map_or(DEFAULT_TOKEN, |token| token.value);
    let silence = Takes::between(token, token * 11 / 5)
        .because("token and consensus, then Pacemaker starts the resources");
    let process = match &cluster.monitor {
        Some(monitor) => {
            let (interval, timeout) = monitor.value;
            Takes::between(Duration::ZERO, interval.saturating_add(timeout)).because(format!(
                "the next monitor run, each {}, and a restart on the same node; a run that hangs has {}",
                duration_text(interval),
                duration_text(timeout)
            ))
        }
        None => Takes::never("no monitor operation looks"),
    };
    let row = |event, old: Takes, how: fn(Speech) -> Takes| TimingRow {
        event,
        old,
        new: how(speech(interval)),
        fast: how(speech(FAST)),
    };
    let timing = vec![
        TimingRow {
            event: Event::ProcessDies,
            old: process,
            new: forwarding_goes_on(),
            fast: forwarding_goes_on(),
        },
        row(Event::NodeDies, silence.clone(), Speech::silence),
        row(Event::LinkCut, silence, Speech::silence),
        row(
            Event::Stopped,
            Takes::between(Duration::ZERO, Duration::from_secs(2)).because("stops here, then starts there"),
            Speech::farewell,
        ),
    ];
    Some(Race {
        name: first.value.name.clone(),
        vips: cluster.vips.iter().map(|vip| vip.value.address).collect(),
        assumed,
        old,
        new,
        old_rows,
        new_rows,
        complete,
        timing,
        places: vec![first.place],
        by_cluster: true,
    })
}

/// E3 and W8.
pub fn lint(races: &[Race], ledger: &mut Ledger) {
    for race in races {
        if let Some(finding) = stranded(race) {
            ledger.find(finding);
        }
        if let Some(finding) = slow(race) {
            ledger.find(finding);
        }
    }
}

/// E3: some failures leave the VIP on a node without a balancer.
fn stranded(race: &Race) -> Option<Finding> {
    let row = race.old_rows.iter().find(|row| row.bad)?;
    let bad = race.old_rows.iter().filter(|row| row.bad).count();
    let names = |candidates: &[Candidate]| {
        candidates.iter().map(|one| format!("{} ({})", one.priority, one.name)).collect::<Vec<_>>().join(", ")
    };
    let weights: Vec<i16> = race.old.iter().flat_map(|one| one.balancer.iter().copied()).collect();
    let why = if race.old.iter().any(|one| one.balancer.is_empty()) {
        "keepalived does not ask whether the balancer lives".to_owned()
    } else {
        let least = weights.iter().map(|weight| weight.unsigned_abs()).min().unwrap_or_default();
        format!(
            "the script's weight of {least} must be larger than the largest gap between the priorities, {}, which is {}",
            names(&race.old),
            gap(&race.old)
        )
    };
    Some(Finding {
        id: "E3",
        severity: Severity::Error,
        places: race.places.clone(),
        message: format!(
            "{bad} of {} combinations of failures leave the VIP where no balancer is, although one lives elsewhere. With \
             {}, it is at {}. The reason: {why}",
            race.old_rows.len(),
            describe(&race.old, &row.failures),
            owners(&race.old, row),
        ),
        remedy: "with xvip a node whose data plane does not work is in Fault and gives the VIP up, whatever the priorities are; nodes \
                 that still run keepalived need a weight larger than the gap"
            .to_owned(),
    })
}

/// The largest difference between two priorities.
fn gap(candidates: &[Candidate]) -> u8 {
    let priorities = || candidates.iter().map(|one| one.priority);
    priorities().max().unwrap_or_default() - priorities().min().unwrap_or_default()
}

/// W8: how long it takes.
fn slow(race: &Race) -> Option<Finding> {
    let of = |event: Event| race.timing.iter().find(|row| row.event == event);
    let (node, process) = (of(Event::NodeDies)?, of(Event::ProcessDies));
    let process = process.map(|row| format!(", and a dead balancer: {}", row.old.text())).unwrap_or_default();
    Some(Finding {
        id: "W8",
        severity: Severity::Warning,
        places: race.places.iter().take(1).copied().collect(),
        message: format!(
            "a dead node is replaced after {}{process}; each established connection is lost then",
            node.old.text()
        ),
        remedy: format!(
            "xvip with the same interval: {}; when each node runs it, version = 3 and advert_interval = \"200ms\": {}. Without its \
             daemon a node goes on forwarding, and with [sync] connections survive",
            node.new.text(),
            node.fast.text()
        ),
    })
}

/// Failures in words: `lb2 dead; no balancer on lb1`.
pub fn describe(candidates: &[Candidate], failures: &[Failure]) -> String {
    let name = |node: usize| candidates.get(node).map_or("?", |one| one.name.as_str());
    let (mut dead, mut without, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for failure in failures {
        match failure {
            Failure::Node(node) => dead.push(name(*node)),
            Failure::Balancer(node) => without.push(name(*node)),
            Failure::Other(node, other) => {
                let what = candidates
                    .get(*node)
                    .and_then(|one| one.others.get(*other))
                    .map_or("?", |(what, _)| what);
                others.push(format!("{what} failing on {}", name(*node)));
            }
        }
    }
    let mut words = Vec::new();
    if !dead.is_empty() {
        words.push(format!("{} dead", dead.join(", ")));
    }
    if !without.is_empty() {
        words.push(format!("no balancer on {}", without.join(", ")));
    }
    words.extend(others);
    if words.is_empty() { "nothing".to_owned() } else { words.join("; ") }
}

/// Who may own it: `lb1`, or `lb1 or lb2`.
pub fn owners(candidates: &[Candidate], row: &Row) -> String {
    let names: Vec<&str> = row
        .owners
        .iter()
        .map(|owner| owner.and_then(|node| candidates.get(node)).map_or("nobody", |one| one.name.as_str()))
        .collect();
    names.join(" or ")
}

impl Race {
    /// Who decides now.
    pub const fn decider(&self) -> &'static str {
        if self.by_cluster { "Pacemaker" } else { "keepalived" }
    }
}
