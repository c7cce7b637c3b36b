//! A node with many flows that is restarted, and a node without any that joins it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use lb_userspace::sync::record::Applied;
use lb_userspace::sync::status::{PeerStatus, SendingState, SyncStatus};

use super::crowd::{Checked, Crowd, wait_up};
use super::process::{cpu_time, resident};
use super::reload::id;
use super::{Bench, START_LIMIT};
use crate::addresses::VIP;
use crate::bench::series::Unit;
use crate::mass::{Runner, client, programs_of};
use crate::node::LbNode;
use crate::shared_flows::{key_file, listens_at};
use crate::topology::Lab;
use crate::wait;

const CLIENTS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 0));
/// Each NAT port leads to one flow at each of them.
const BACKENDS: usize = 50;
/// Mbit/s: the default of `sync.bandwidth`, and the most that it may be.
const BANDWIDTHS: [(u32, &str); 2] = [(200, "200 Mbit/s (default)"), (100_000, "no limit")];
/// One after the other is enough: each takes seconds.
const JOINS: usize = 3;
/// How many flows begin at once on top, for the events.
const BURST: u32 = 20_000;

/// Restarts the node that has the flows, and lets the other join it.
///
/// # Errors
/// When something could not be measured.
pub fn measure(bench: &mut Bench<'_>) -> anyhow::Result<()> {
    let count = bench.options.flows;
    bench.progress.say("joining: building the lab");
    let lab = Lab::builder().lbs(2).masters(1).patience(10).build()?;
    let (holder, joins) = (lab.lb(0), lab.lb(1));
    Crowd::gather(&lab, &[holder.machine(), joins.machine()])?;
    set_up(&lab, BANDWIDTHS[0].0, count)?;
    holder.start_within(START_LIMIT)?;
    wait_up(holder, BACKENDS)?;
    lab.wait_owner(Some("lb1"), START_LIMIT)?;
    let empty = resident(id(holder)?)?;
    bench.progress.say(&format!("joining: opening {count} flows"));
    open(holder, 0..count)?;
    let subject = format!("{count} flows");

    bench.rounds("restart", |report, round| {
        let begin = Instant::now();
        holder.replace()?;
        let took = begin.elapsed();
        report.record(round, "restart until it answers", &subject, Unit::Seconds, took.as_secs_f64());
        let cpu = cpu_time(id(holder)?)?;
        report.record(round, "restart, CPU", &subject, Unit::Seconds, cpu.as_secs_f64());
        wait_up(holder, BACKENDS)?;
        wait::until("the first count of its flows", START_LIMIT, || {
            sleep(Duration::from_millis(200));
            holder.status().is_ok_and(|status| status.flows.established >= u64::from(count))
        })?;
        report.record(round, "memory of the daemon", &subject, Unit::Bytes, resident(id(holder)?)? as f64);
        report.record(round, "memory of the daemon", "no flow", Unit::Bytes, empty as f64);
        Ok(())
    })?;

    for (bandwidth, name) in BANDWIDTHS {
        set_up(&lab, bandwidth, count)?;
        ensure!(holder.xvip(&["reload"])?.status.success(), "xvip reload failed");
        for round in 0..JOINS.min(bench.options.wanted.rounds()) {
            ensure!(!bench.interrupt.asked(), "interrupted");
            bench.progress.say(&format!("joining, {name}: round {}", round + 1));
            let joined = join(holder, joins, count)?;
            let mut record =
                |figure: &str, unit, value| bench.report.record(round, figure, name, unit, value);
            record(&format!("full sync of {subject}"), Unit::Seconds, joined.took.as_secs_f64());
            let rate = f64::from(count) / joined.took.as_secs_f64();
            record("full sync", Unit::PerSecond, rate);
            record("full sync, CPU of the sender", Unit::Seconds, joined.sender.as_secs_f64());
            record("full sync, CPU of the receiver", Unit::Seconds, joined.receiver.as_secs_f64());
        }
    }
    // The last one is still there.
    let begin = Instant::now();
    let known = inserted(joins);
    open(holder, count..count + BURST)?;
    let opened = begin.elapsed();
    wait::until("the other node to have the new flows", START_LIMIT, || {
        sleep(Duration::from_millis(20));
        inserted(joins) >= known + u64::from(BURST)
    })?;
    let told = f64::from(BURST) / begin.elapsed().as_secs_f64();
    bench.report.record(0, "new flows told", &format!("{BURST} at once"), Unit::PerSecond, told);
    let rate = f64::from(BURST) / opened.as_secs_f64();
    bench.report.note(&format!(
        "restart: `xvip run --replace`, as a package's upgrade does it. Full sync: from the first flow that the joining node \
         gets to its last. The {BURST} new flows were opened at {rate:.0}/s."
    ));
    Ok(())
}

fn set_up(lab: &Lab, bandwidth: u32, count: u32) -> anyhow::Result<()> {
    let key = key_file(lab, "sync.key", "5a")?;
    let crowd = Crowd {
        services: 1,
        each: BACKENDS,
        checked: Checked::Tcp,
        interval: None,
        apart: false,
        first_weight: 1,
    };
    for (own, node) in lab.lbs().iter().enumerate() {
        node.configure(|config| {
            config.services = crowd.configured();
            for service in &mut config.services {
                service.vrrp = config.vrrp.first().map(|instance| instance.name.clone());
            }
            config.exchange_flows(listens_at(node), &[listens_at(lab.lb(1 - own))], &key);
            config.extra.push_str(&format!("\nbandwidth = {bandwidth}"));
            config.flows = vec![format!("max = {}", count.saturating_add(count / 4).max(100_000))];
        })?;
    }
    Ok(())
}

/// What a full sync took.
struct Joined {
    took: Duration,
    sender: Duration,
    receiver: Duration,
}

/// A node without any flows joins.
fn join(holder: &LbNode, joins: &LbNode, count: u32) -> anyhow::Result<Joined> {
    if joins.is_running() {
        joins.stop()?;
        let output = joins.machine().output(&mut joins.tool(&["cleanup"]))?;
        ensure!(output.status.success(), "xvip cleanup: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    joins.start_within(START_LIMIT)?;
    let sender = cpu_time(id(holder)?)?;
    let receiver = cpu_time(id(joins)?)?;
    wait::until("the first flow", START_LIMIT, || inserted(joins) > 0)?;
    let begin = Instant::now();
    wait::until("all flows", START_LIMIT, || {
        sleep(Duration::from_millis(30));
        peer(joins).is_some_and(|peer| peer.receiving.complete)
    })?;
    let took = begin.elapsed();
    let joined =
        Joined { took, sender: cpu_time(id(holder)?)? - sender, receiver: cpu_time(id(joins)?)? - receiver };
    ensure!(inserted(joins) >= u64::from(count), "{} flows of {count} have come", inserted(joins));
    wait::until("the exchange to be up", START_LIMIT, || {
        sleep(Duration::from_millis(30));
        peer(holder).is_some_and(|peer| peer.sending.state == SendingState::Up)
    })?;
    Ok(joined)
}

fn peer(node: &LbNode) -> Option<PeerStatus> {
    let status: SyncStatus = serde_json::from_value(node.status().ok()?.raw.get("sync")?.clone()).ok()?;
    status.peers.into_iter().next()
}

/// How many flows of its peer's a node has taken.
fn inserted(node: &LbNode) -> u64 {
    let applied: BTreeMap<Applied, u64> = peer(node).map(|peer| peer.receiving.applied).unwrap_or_default();
    applied.get(&Applied::Inserted).copied().unwrap_or(0)
}

/// Opens flows of clients that there are not by frames, through the node's own program.
fn open(node: &LbNode, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
    let mut ip = Command::new("ip");
    ip.args(["-json", "-details", "link", "show", "eth0"]);
    let output = node.machine().output(&mut ip)?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let program =
        links.pointer("/0/xdp/prog/id").and_then(serde_json::Value::as_u64).context("no program")?;
    let mac = links.pointer("/0/address").and_then(serde_json::Value::as_str).context("no address")?;
    let octets = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect::<Result<Vec<_>, _>>()?;
    let program = programs_of(u32::try_from(program)?)?;
    let octets: [u8; 6] = octets.try_into().map_err(|_| anyhow!("{mac} is no Ethernet address"))?;
    let mut runner = Runner::on(&program, octets);
    let services = node.config().services;
    let port = services.first().context("no service")?.port;
    for n in numbers {
        let opened = runner.open(client(CLIENTS, n), SocketAddr::new(VIP.into(), port))?;
        opened.map_err(|action| anyhow!("flow {n}: action {action}"))?;
    }
    Ok(())
}
