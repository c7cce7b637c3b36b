//! A backend dies, or seems to: who is told, how soon, and who is left alone. Real TCP streams through a real `xvip`. Needs
//! root, for the network namespaces.
//!
//! Runner: threads 1, minutes 15

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::time::{Duration, SystemTime};

use lb_tests::client::monotonic_us;
use lb_tests::measure::ClientProcess;
use lb_tests::node::NodeConfig;
use lb_tests::streams::{Break, Plan, Streams};
use lb_tests::topology::{Family, Lab, Load, Mode};
use lb_tests::traffic::start;
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

const SOON: Duration = Duration::from_secs(30);
/// `fall` times (`fast_interval` and `timeout`), at the defaults: what a decision may take where there is traffic.
const DECISION: Duration = Duration::from_millis(2 * (200 + 1000));
/// And where there is none: until the next check.
const INTERVAL: Duration = Duration::from_secs(2);
/// What this machine may be late by, with all that runs on it beside the test.
const SLACK: Duration = Duration::from_millis(1500);
/// From a decision until the last client knows; 50 ms on a machine that has nothing else to do.
const TOLD: Duration = Duration::from_millis(1000);

/// A lab with one node, both services and streams through it.
struct Scene {
    lab: Lab,
    family: Family,
}

impl Scene {
    fn new(mode: Mode, family: Family, change: impl FnMut(&mut NodeConfig)) -> Result<Self, Box<dyn Error>> {
        let lab = start(Lab::builder().lbs(1).masters(3).mode(mode), &[family], change)?;
        Ok(Self { lab, family })
    }

    /// Busy ones and idle ones at the plain service, watch streams at the API's.
    fn streams(&self, plain: u32, idle: u32, watch: u32) -> Result<Streams, Box<dyn Error>> {
        let plan = Plan {
            plain,
            idle,
            watch,
            address: lb_tests::client_host::plain(self.family),
            watch_url: Some(self.lab.vip_url_of(self.family, "/watch")),
            ..Plan::default()
        };
        Ok(self.lab.streams(&plan, SOON)?)
    }

    /// New connections to the API all the time, each given ten seconds.
    fn requests(&self) -> Result<ClientProcess, Box<dyn Error>> {
        let load = Load {
            url: Some(self.lab.vip_url_of(self.family, "/version")),
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(10),
            in_flight: 500,
            ..Load::default()
        };
        let load = self.lab.load(&load)?;
        load.wait_steady(load.mark(), 30, SOON)?;
        Ok(load)
    }

    /// When the daemon decided that each address of this API server is dead: monotonic microseconds, by port. As its log has it.
    fn decided(&self, server: usize, mark: u64) -> Result<BTreeMap<u16, u64>, Box<dyn Error>> {
        let host = self.lab.master(server).address_of(self.family);
        let log = fs::read_to_string(self.lab.lb(0).log())?;
        let mut decided = BTreeMap::new();
        for line in log.lines().filter(|line| line.contains("new=down (dead)")) {
            let address = line.split("backend=").nth(1).and_then(|rest| rest.split(' ').next());
            let Some(address) = address.and_then(|text| text.parse::<std::net::SocketAddr>().ok()) else {
                continue;
            };
            let at = line.split_whitespace().next().map(humantime_like).transpose()?.unwrap_or(0);
            if address.ip() == host && at >= mark {
                decided.entry(address.port()).or_insert(at);
            }
        }
        Ok(decided)
    }

    fn state(&self, server: &str) -> Option<(String, String)> {
        let status = self.lab.lb(0).status().ok()?;
        let backend = status.backend(server)?;
        Some((backend.state.clone(), backend.reason.clone()))
    }
}

/// `2026-01-02T03:04:05.678901Z` on this machine's monotonic clock, in microseconds.
fn humantime_like(text: &str) -> Result<u64, Box<dyn Error>> {
    let time = lb_tests::wait::rfc3339(text).ok_or_else(|| format!("not a time: {text}"))?;
    let ago = SystemTime::now().duration_since(time).unwrap_or_default();
    Ok(monotonic_us().saturating_sub(ago.as_micros() as u64))
}
