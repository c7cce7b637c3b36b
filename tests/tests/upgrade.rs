//! An upgrade from a real former release, whose maps have another layout, with 200 streams, each byte checked, and a request
//! every 10 ms: no stream breaks, no request fails, and nothing of the former release is left in the end. Each upgrade
//! happens `XVIP_SURVIVE_REPEATS` times (once without that variable); the former release is built once. Needs root, and
//! the repository's history.
//!
//! Runner: threads 1, alone, minutes 25

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use lb_tests::{
    bench::survive::{
        repeats,
        trial::{INTERVAL, TIMEOUT},
    },
    client_host::plain,
    former::{self, FormerError},
    master::Master,
    measure::ClientProcess,
    node::LbNode,
    streams::{Plan, Streams},
    topology::{Family, Lab},
    traffic::{both_ways, start},
    wait,
};
use serde_json::Value;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous, because the machine may be busy; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(30);
/// Of each family: streams with bytes both ways, silent ones, and watches; 200 in all.
const STREAMS: (u32, u32, u32) = (40, 20, 40);
/// Within which a request is answered. The long form, which has the machine for itself, wants it as soon as the other incidents
/// do: there a lost SYN, which comes again after a second, is a failure.
const PATIENCE: Duration = Duration::from_secs(15);
/// Loading the programs takes a busy machine long.
const START_LIMIT: Duration = Duration::from_secs(200);

/// The former release, or the reason why there is none.
fn former_xvip(test: &str) -> Result<Option<PathBuf>, Box<dyn Error>> {
    match former::xvip(former::LAYOUT_4) {
        Ok(program) => Ok(Some(program)),
        Err(error @ FormerError::NoHistory(_)) => {
            println!("SKIP {test}: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Flows by client and service, each with its backend and NAT port.
type Flows = BTreeMap<String, (String, Value)>;

/// The established flows, as the node's `xvip flows` shows them.
fn flows(lb: &LbNode) -> Result<Flows, Box<dyn Error>> {
    let output = lb.machine().output(&mut lb.tool(&["flows", "--json"]))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let shown: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let established = shown.iter().filter(|flow| flow["state"] == "established");
    let flows = established.map(|flow| {
        let key = format!("{} {}", text(&flow["client"]), text(&flow["service"]));
        (key, (text(&flow["backend"]), flow["nat_port"].clone()))
    });
    Ok(flows.collect())
}

/// The names below the node's pin path.
fn pins(lb: &LbNode) -> Vec<String> {
    let shown = lb.machine().output(Command::new("sh").args(["-c", "ls -1 /sys/fs/bpf/xvip*"]));
    let shown = shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    shown.lines().map(str::to_owned).collect()
}

fn log_of(lb: &LbNode) -> String {
    fs::read_to_string(lb.log()).unwrap_or_default()
}

/// Whoever talks to the VIP knows where it is, whether anybody answers for it or not: what is tested here are connections. (A
/// killed node that is alone is silent about its VIP until it is back, which takes seconds on a busy machine.)
fn know_the_vip(lab: &Lab) -> TestResult {
    let machines = lab.masters().iter().map(Master::machine).chain([lab.client()]);
    for machine in machines {
        for family in Family::BOTH {
            machine.ip(&format!(
                "neighbour replace {} lladdr 02:00:ac:10:00:02 nud permanent dev eth0",
                family.vip()
            ))?;
        }
    }
    Ok(())
}

/// What clients have while the node is upgraded.
struct Clients<'a> {
    lab: &'a Lab,
    streams: Vec<Streams>,
    mark: u64,
    /// The streams' flows.
    flows: Flows,
    requests: ClientProcess,
}

impl<'a> Clients<'a> {
    fn begin(lab: &'a Lab) -> Result<Self, Box<dyn Error>> {
        let (busy, idle, watch) = STREAMS;
        let of = |family| Plan {
            plain: busy,
            idle,
            watch,
            address: plain(family),
            watch_url: Some(lab.vip_url_of(family, "/api/v1/watch")),
            ..Plan::default()
        };
        let streams: Result<Vec<Streams>, _> =
            Family::BOTH.iter().map(|&family| lab.streams(&of(family), SOON)).collect();
        let streams = streams?;
        let count = Family::BOTH.len() * of(Family::V4).count() as usize;
        // Others may have been open until a moment ago.
        wait::until("the streams' flows and no others", SOON, || {
            flows(lab.lb(0)).is_ok_and(|flows| flows.len() == count)
        })?;
        let flows = flows(lab.lb(0))?;
        let patience = if repeats()? > 1 { TIMEOUT } else { PATIENCE };
        let requests = lab.on(lab.client()).probe(INTERVAL, patience)?;
        requests.wait_steady(requests.mark(), 100, SOON)?;
        let mark = requests.mark();
        Ok(Self { lab, streams, mark, flows, requests })
    }

    /// Whether every flow is where it was, also of those that are silent.
    fn check_flows(&self) -> TestResult {
        let now = flows(self.lab.lb(0))?;
        for (client, flow) in &self.flows {
            assert_eq!(now.get(client), Some(flow), "{client}");
        }
        Ok(())
    }

    /// Whether every stream goes on, none has broken, and no request has failed so far.
    fn check(&self, when: &str) -> TestResult {
        for streams in &self.streams {
            streams.wait_flowing(SOON)?;
            let account = streams.since(self.mark);
            assert_eq!(account.broken, [], "{when}: {account}");
        }
        self.requests.wait_steady(self.requests.mark(), 100, SOON)?;
        let failed = self.requests.failures(self.mark);
        let answered = self.requests.answered(self.mark);
        let late = self.requests.read(|tally| {
            let answered = tally.since(self.mark).filter(|outcome| outcome.result.is_ok());
            answered.filter(|outcome| Duration::from_micros(outcome.took_us) > TIMEOUT).count()
        });
        let longest = self.streams.iter().map(|streams| streams.since(self.mark).longest).max();
        println!(
            "{when}: {} streams go on, silent for {:.1?} at most; {answered} requests answered, {late} of them \
             after {TIMEOUT:?}; failed: {failed:?}",
            self.flows.len(),
            longest.unwrap_or_default(),
        );
        assert_eq!(self.requests.failed(self.mark), 0, "{when}: {failed:?}");
        Ok(())
    }
}

/// Upgrades under load, again and again; `end` ends the former daemon.
fn upgrade(test: &str, end: impl Fn(&LbNode) -> TestResult) -> TestResult {
    let Some(old) = former_xvip(test)? else { return Ok(()) };
    let lab = Lab::builder().lbs(1).families(&Family::BOTH).patience(10).build()?;
    let lb = lab.lb(0);
    let new = lb.program();
    lb.configure(|config| {
        config.services.push(lab.plain_service(Family::V4));
        config.services.push(lab.plain_service(Family::V6));
    })?;
    know_the_vip(&lab)?;
    for repeat in 0..repeats()? {
        lb.use_program(&old);
        lab.start_lbs()?;
        assert!(pins(lb).iter().any(|pin| pin == "maps-v4"), "{:?}", pins(lb));
        upgrade_once(&lab, &new, &end)
            .map_err(|why| format!("repeat {repeat}: {why}\n{}", lb.last_lines()))?;
        lb.stop()?;
        let cleaned = lb.xvip_with_config(&["cleanup"])?;
        assert!(cleaned.status.success(), "{cleaned:?}");
        assert!(pins(lb).is_empty(), "{:?}", pins(lb));
        assert!(!lb.holds_vip());
    }
    Ok(())
}

fn upgrade_once(lab: &Lab, new: &Path, end: impl Fn(&LbNode) -> TestResult) -> TestResult {
    let lb = lab.lb(0);
    let clients = Clients::begin(lab)?;
    let begun = Instant::now();
    thread::scope(|scope| -> TestResult {
        // As fast as it can.
        let moved = scope.spawn(|| both_ways(lab, Family::V4, 20_000_000).map_err(|error| error.to_string()));
        thread::sleep(Duration::from_millis(200));
        end(lb)?;
        lb.use_program(new);
        lb.start_within(START_LIMIT)?;
        println!("the new daemon answers {:.1?} after the end of the former one began", begun.elapsed());
        clients.check_flows()?;
        moved.join().map_err(|_| "the transfer panicked")??;
        Ok(())
    })?;
    lab.wait_owner(Some("lb1"), SOON)?;
    clients.check("after the upgrade")?;
    wait::until("the former maps to go", 2 * SOON, || {
        let pins = pins(lb);
        !pins.iter().any(|pin| pin == "maps-v4") && pins.iter().any(|pin| pin.starts_with("maps-v"))
    })
    .map_err(|why| format!("{why}: {:?}", pins(lb)))?;
    println!("nothing of the former release is left after {:.1?}", begun.elapsed());
    clients.check_flows()?;
    clients.check("without the former maps")?;
    assert!(log_of(lb).contains("the upgrade is complete"));
    Ok(())
}

#[test]
fn a_killed_former_release_is_succeeded_without_a_loss() -> TestResult {
    upgrade("a_killed_former_release_is_succeeded_without_a_loss", |lb| {
        lb.kill();
        Ok(())
    })
}

#[test]
fn a_stopped_former_release_is_succeeded_without_a_loss() -> TestResult {
    upgrade("a_stopped_former_release_is_succeeded_without_a_loss", |lb| {
        lb.stop()?;
        Ok(())
    })
}

#[test]
fn an_upgrade_that_is_killed_half_way_is_finished_by_the_next() -> TestResult {
    let test = "an_upgrade_that_is_killed_half_way_is_finished_by_the_next";
    let Some(old) = former_xvip(test)? else { return Ok(()) };
    let lab = start(Lab::builder().lbs(1).ipv6().patience(10), &Family::BOTH, |_| {})?;
    let lb = lab.lb(0);
    lb.stop()?;
    let cleaned = lb.xvip_with_config(&["cleanup"])?;
    assert!(cleaned.status.success(), "{cleaned:?}");
    let new = lb.program();
    lb.use_program(&old);
    lb.start_within(START_LIMIT)?;
    lab.wait_owner(Some("lb1"), SOON)?;
    know_the_vip(&lab)?;
    let clients = Clients::begin(&lab)?;
    lb.kill();
    lb.use_program(&new);
    for _ in 0..3 {
        lb.start_within(START_LIMIT)?;
        lb.kill();
        assert!(pins(lb).iter().any(|pin| pin == "maps-v4"), "it was faster than that: {:?}", pins(lb));
        clients.check("half-way")?;
    }
    lb.start_within(START_LIMIT)?;
    clients.check("in the end")?;
    wait::until("the former maps to go", 2 * SOON, || !pins(lb).iter().any(|pin| pin == "maps-v4"))
        .map_err(|why| format!("{why}: {:?}\n{}", pins(lb), lb.last_lines()))?;
    clients.check_flows()?;
    clients.check("without the former maps")
}
