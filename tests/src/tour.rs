//! The scripted tour: what `cargo xtask run` shows without a terminal. Each step says what it does, does it,
//! measures, and checks the figure; the first that is wrong ends the tour.

use std::io::{Write, stdout};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::interrupt::Interrupt;
use crate::measure::{ClientProcess, StreamState};
use crate::node::LbNode;
use crate::topology::{API_PORT, Lab, Load, VIP};
use crate::wait;

/// A node that died, with the default configuration.
const FAIL_OVER_LIMIT: Duration = Duration::from_secs(2);
/// A node that was stopped properly.
const HAND_OVER_LIMIT: Duration = Duration::from_millis(200);
/// For each thing that should happen soon; nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(15);

/// Watch streams that are open all the time.
const WATCHES: u32 = 3;
/// A stream that hears nothing for so long has broken. The servers send a line each 200 ms; after two seconds without an owner
/// of the VIP TCP waits for up to two more.
const SILENCE: Duration = Duration::from_secs(10);

/// Runs the tour on a lab whose LB daemons do not run yet.
///
/// # Errors
/// What was wrong, or that the user has interrupted it.
pub fn run(lab: &Lab, interrupt: &Interrupt) -> anyhow::Result<()> {
    let tour = Tour { lab, interrupt, begin: Instant::now() };
    tour.say(
        "network",
        &format!(
            "client, {} LB nodes and {} API servers on one switch",
            lab.lbs().len(),
            lab.masters().len()
        ),
    );
    tour.start()?;
    let load = lab.load(&Load::default())?;
    let watch = lab.watch(None, WATCHES, SILENCE)?;
    tour.distribution(&load, &watch)?;
    let moves = watch.mark();
    tour.kill(&load)?;
    tour.fail_back(&load)?;
    tour.hand_over(&load)?;
    tour.readyz(&load)?;
    tour.streams(&watch, moves)?;
    tour.stop()
}

struct Tour<'a> {
    lab: &'a Lab,
    interrupt: &'a Interrupt,
    begin: Instant,
}

impl Tour<'_> {
    fn start(&self) -> anyhow::Result<()> {
        self.lab.start_lbs()?;
        let owner = self.owner()?;
        let status = owner.status()?;
        self.say(
            "start",
            &format!(
                "{} owns {VIP} ({}); XDP is {} on {}; {} backends are up",
                owner.name(),
                status.vrrp_state(),
                status.interface.xdp_mode,
                status.interface.name,
                status.backends_up()
            ),
        );
        let version = self.lab.curl(&[&self.lab.vip_url("/version")])?;
        ensure!(version.status.success(), "curl: {}", String::from_utf8_lossy(&version.stderr).trim());
        let version: serde_json::Value = serde_json::from_slice(&version.stdout).context("/version")?;
        self.say("request", &format!("curl https://{VIP}:{API_PORT}/version says {}", version["gitVersion"]));
        Ok(())
    }

    fn distribution(&self, load: &ClientProcess, watch: &ClientProcess) -> anyhow::Result<()> {
        let mark = load.mark();
        self.until("150 answers", || load.answered(mark) >= 150)?;
        let servers = load.by_server(mark);
        self.say("requests", &format!("new connections at the VIP: {}", shares(load, mark)));
        ensure!(servers.len() == self.lab.masters().len(), "only {servers:?} answered");
        let failed = load.failed(mark);
        ensure!(
            failed == 0,
            "{failed} requests failed: {:?}",
            load.read(|t| t.last_failure().map(|(_, why)| why.to_owned()))
        );
        self.until("lines on every watch stream", || {
            let streams = watch.streams();
            streams.len() == WATCHES as usize && streams.values().all(|stream| stream.lines > 0)
        })?;
        let sent = self.owner()?.status()?.transmitted();
        ensure!(sent > 0, "the status tells of no packet that XDP has forwarded");
        self.say("forwarded", &format!("{sent} packets in XDP so far; {WATCHES} watch streams are open"));
        Ok(())
    }

    fn kill(&self, load: &ClientProcess) -> anyhow::Result<()> {
        let owner = self.owner()?.name();
        let mark = load.mark();
        self.lb(owner)?.kill();
        let outage = self.moved_from(owner, load, mark)?;
        let heir = self.owner()?.name();
        self.say(
            "kill -9",
            &format!("{owner} killed, {heir} took over; no answer to new requests for {}", ms(outage)),
        );
        ensure!(outage < FAIL_OVER_LIMIT, "that is more than {FAIL_OVER_LIMIT:?}");
        Ok(())
    }

    fn fail_back(&self, load: &ClientProcess) -> anyhow::Result<()> {
        let mark = load.mark();
        for lb in self.lab.lbs() {
            lb.start()?;
        }
        let first = self.lab.lb(0).name();
        self.until(&format!("{first} to take the VIP back"), || {
            self.lab.owner().is_some_and(|lb| lb.name() == first)
        })?;
        let outage = self.steady(load, mark)?;
        self.say(
            "restart",
            &format!("{first} has the higher priority and took it back; no answer for {}", ms(outage)),
        );
        ensure!(outage < FAIL_OVER_LIMIT, "that is more than {FAIL_OVER_LIMIT:?}");
        Ok(())
    }

    fn hand_over(&self, load: &ClientProcess) -> anyhow::Result<()> {
        // What this machine's own jitter looks like to the same measurement, with nothing going on.
        let quiet = load.mark();
        self.until("50 answers", || load.answered(quiet) >= 50)?;
        let noise = load.longest_gap(quiet);

        let owner = self.owner()?.name();
        let mark = load.mark();
        let (status, took) = self.lb(owner)?.stop()?;
        ensure!(status.success(), "{owner} ended with {status} after SIGTERM");
        let outage = self.moved_from(owner, load, mark)?;
        self.say(
            "SIGTERM",
            &format!(
                "{owner} handed over and ended in {}; no answer for {} (with nothing going on: {})",
                ms(took),
                ms(outage),
                ms(noise)
            ),
        );
        ensure!(outage < HAND_OVER_LIMIT + noise, "that is more than {HAND_OVER_LIMIT:?}");
        self.lb(owner)?.start()?;
        self.until("one owner", || self.lab.owner().is_some())?;
        self.steady(load, load.mark())?;
        Ok(())
    }

    fn readyz(&self, load: &ClientProcess) -> anyhow::Result<()> {
        let master = self.lab.masters().last().context("a lab without API servers")?;
        let begin = Instant::now();
        master.set_ready(false)?;
        let is = |state: &str| {
            self.lab.lbs().iter().all(|lb| {
                lb.status()
                    .is_ok_and(|status| status.backend(master.name()).is_some_and(|b| b.state == state))
            })
        };
        self.until(&format!("{} to be down on both LBs", master.name()), || is("down"))?;
        let took = begin.elapsed();
        let mark = load.mark();
        self.until("100 answers", || load.answered(mark) >= 100)?;
        self.say(
            "/readyz",
            &format!("{} fails it and is out after {}: {}", master.name(), ms(took), shares(load, mark)),
        );
        // Requests that were on their way when the mark was set may still have been answered by it.
        let late = load.by_server(mark).get(master.name()).copied().unwrap_or(0);
        ensure!(late <= 2, "{} still answered {late} new connections", master.name());
        master.set_ready(true)?;
        self.until(&format!("{} to be up again", master.name()), || is("up"))?;
        self.say("/readyz", &format!("{} passes it and is up again", master.name()));
        Ok(())
    }

    /// What the moves of the VIP did to connections that were open: nothing, since each node keeps the other's flows. A
    /// stream that hears nothing counts as broken after some seconds only, so this is asked late, and each has to go on.
    fn streams(&self, watch: &ClientProcess, moves: u64) -> anyhow::Result<()> {
        let before = watch.streams();
        self.until("lines on every watch stream", || {
            let now = watch.streams();
            let goes_on = |(number, stream): (&u32, &StreamState)| {
                before.get(number).is_some_and(|before| stream.lines > before.lines)
            };
            now.len() == before.len() && now.iter().all(goes_on)
        })?;
        let breaks = watch.breaks(moves);
        self.say(
            "streams",
            &format!(
                "{WATCHES} watch streams have been open all the time: the VIP moved four times, {breaks} broke"
            ),
        );
        ensure!(breaks == 0, "a watch stream broke");
        Ok(())
    }

    fn stop(&self) -> anyhow::Result<()> {
        for lb in self.lab.lbs() {
            let (status, _) = lb.stop()?;
            ensure!(status.success(), "{} ended with {status} after SIGTERM", lb.name());
            ensure!(!lb.holds_vip(), "{} has left the VIP on its interface", lb.name());
        }
        self.say(
            "stop",
            &format!("all down after {:.0} s; taking the lab away", self.begin.elapsed().as_secs_f64()),
        );
        Ok(())
    }

    /// Waits until another node than `old` owns the VIP and requests are answered; for how long none were.
    fn moved_from(&self, old: &str, load: &ClientProcess, mark: u64) -> anyhow::Result<Duration> {
        self.until("another node to own the VIP", || self.lab.owner().is_some_and(|lb| lb.name() != old))?;
        self.steady(load, mark)
    }

    /// Waits until 25 requests in a row have been answered since now; the longest time without one since `mark`.
    fn steady(&self, load: &ClientProcess, mark: u64) -> anyhow::Result<Duration> {
        let now = load.mark();
        self.until("25 answers in a row", || load.read(|t| t.steady(now)) >= 25)?;
        Ok(load.longest_gap(mark))
    }

    fn owner(&self) -> anyhow::Result<&LbNode> {
        self.lab.owner().context("no LB node owns the VIP")
    }

    fn lb(&self, name: &str) -> anyhow::Result<&LbNode> {
        self.lab.lbs().iter().find(|lb| lb.name() == name).context("no such LB node")
    }

    fn until(&self, what: &str, mut condition: impl FnMut() -> bool) -> anyhow::Result<()> {
        wait::until(what, SOON, || self.interrupt.asked() || condition())?;
        if self.interrupt.asked() {
            bail!("interrupted");
        }
        Ok(())
    }

    fn say(&self, step: &str, what: &str) {
        // A reader that has gone away must not keep the tour from tidying up.
        let _ = writeln!(stdout(), "{:6.1} s  {step:<12} {what}", self.begin.elapsed().as_secs_f64());
    }
}

fn shares(load: &ClientProcess, mark: u64) -> String {
    let servers = load.by_server(mark);
    let all: usize = servers.values().sum();
    let each = |(name, count): (&String, &usize)| format!("{name} {} %", count * 100 / all.max(1));
    servers.iter().map(each).collect::<Vec<_>>().join(", ")
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
