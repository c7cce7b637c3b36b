//! The live view on a terminal: a screen that is redrawn four times a second, and keys that break things.
//!
//! Three threads share the lab: this one draws and reads keys, one asks the nodes for their state, and one does what
//! the keys say, because starting and stopping a daemon takes longer than a frame.

use std::collections::BTreeSet;
use std::io::{self, Stdout, Write, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::style::{Print, ResetColor, SetForegroundColor};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen,
};
use crossterm::{cursor, execute, queue, terminal};

use crate::interrupt::Interrupt;
use crate::measure::ClientProcess;
use crate::screen::{self, NodeRow, Requests, ServerRow, Snapshot};
use crate::topology::{API_PORT, Lab, LabError, Load, VIP};

const FRAME: Duration = Duration::from_millis(250);
/// "Of late".
const WINDOW: Duration = Duration::from_secs(10);
/// How long after a key its outage is told; a default fail-over is over by then.
const VERDICT_AFTER: Duration = Duration::from_secs(5);

/// Shows the lab until `q`, Ctrl-C or a signal. The LB daemons must run.
///
/// # Errors
/// When the terminal cannot be used or the clients cannot be started.
pub fn run(lab: &Lab, interrupt: &Interrupt) -> anyhow::Result<()> {
    let load = lab.load(&Load::default())?;
    let watch = lab.watch(None, 6, Duration::from_secs(3))?;
    let live = Live {
        lab,
        load: &load,
        watch: &watch,
        begin: Instant::now(),
        begin_us: load.mark(),
        end: AtomicBool::new(false),
        shared: Mutex::new(Shared::default()),
    };
    let (orders, queue) = mpsc::channel();
    let screen = Screen::open()?;
    let result = thread::scope(|scope| {
        let live = &live;
        scope.spawn(|| live.observe());
        scope.spawn(move || live.obey(queue));
        let result = live.draw_until_quit(screen, &orders, interrupt);
        live.end.store(true, Ordering::Relaxed);
        drop(orders);
        result
    });
    Ok(result?)
}

/// What a key asks for.
#[derive(Debug, Clone, Copy)]
enum Order {
    KillOrRestart(usize),
    CutOrHeal,
    BlackHoleOrHeal,
    FailOrHealReadyz,
    HandOver,
}

/// What the threads tell each other.
#[derive(Debug, Default)]
struct Shared {
    nodes: Vec<NodeRow>,
    owner: Option<String>,
    /// Machines whose cable is unplugged.
    unplugged: BTreeSet<String>,
    events: Vec<(Duration, String)>,
    busy: Option<String>,
    /// Disturbances whose outage is still being measured: since when, and what was done.
    pending: Vec<(Instant, u64, String)>,
    /// How many servers have been black-holed, and failed, so far: the next one is another.
    turns: (usize, usize),
}

struct Live<'a> {
    lab: &'a Lab,
    load: &'a ClientProcess,
    watch: &'a ClientProcess,
    begin: Instant,
    begin_us: u64,
    end: AtomicBool,
    shared: Mutex<Shared>,
}

impl Live<'_> {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, what: String) {
        self.shared().events.push((self.begin.elapsed(), what));
    }

    /// Asks the nodes, again and again.
    fn observe(&self) {
        while !self.end.load(Ordering::Relaxed) {
            let nodes: Vec<NodeRow> = self.lab.lbs().iter().map(|lb| self.node_row(lb)).collect();
            let owners: Vec<&str> = nodes
                .iter()
                .filter(|n| n.running && n.vrrp == "active" && n.holds_vip)
                .map(|n| n.name.as_str())
                .collect();
            let owner = (!owners.is_empty()).then(|| owners.join(" and "));
            let changed = self.shared().owner != owner;
            if changed {
                self.log(match &owner {
                    Some(name) => format!("the VIP is with {name}"),
                    None => "nobody owns the VIP".to_owned(),
                });
            }
            let mut shared = self.shared();
            shared.nodes = nodes;
            shared.owner = owner;
            drop(shared);
            thread::sleep(FRAME);
        }
    }

    fn node_row(&self, lb: &crate::node::LbNode) -> NodeRow {
        let running = lb.is_running();
        let status = if running { lb.status().unwrap_or_default() } else { crate::node::Status::default() };
        NodeRow {
            name: lb.name().to_owned(),
            running,
            vrrp: status.vrrp_state().to_owned(),
            priority: status.vrrp.first().map_or(0, |vrrp| vrrp.priority),
            holds_vip: lb.holds_vip(),
            plugged: !self.shared().unplugged.contains(lb.name()),
            xdp_mode: status.interface.xdp_mode.clone(),
            backends: status.backends().iter().map(|b| (b.name.clone(), b.state.clone(), b.share)).collect(),
        }
    }

    /// Does what the keys say, one after the other.
    fn obey(&self, orders: mpsc::Receiver<Order>) {
        for order in orders {
            if self.end.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.execute(order) {
                self.log(error.to_string());
            }
            self.shared().busy = None;
        }
    }

    fn execute(&self, order: Order) -> Result<(), LabError> {
        match order {
            Order::KillOrRestart(index) => {
                let lb = self.lab.lb(index);
                if lb.is_running() {
                    self.disturb(&format!("kill -9 {}", lb.name()));
                    lb.kill();
                } else {
                    self.disturb(&format!("start {}", lb.name()));
                    lb.start()?;
                }
            }
            Order::HandOver => match self.lab.owner() {
                Some(lb) => {
                    self.disturb(&format!("hand over: SIGTERM to {}", lb.name()));
                    let (status, took) = lb.stop()?;
                    self.log(format!("{} ended after {} ms ({status})", lb.name(), took.as_millis()));
                }
                None => self.log("hand over: nobody owns the VIP alone".to_owned()),
            },
            Order::CutOrHeal => self.cable(self.lab.lb(0).name())?,
            Order::BlackHoleOrHeal => {
                let masters = self.lab.masters();
                let broken = masters.iter().find(|m| self.shared().unplugged.contains(m.name()));
                let master = broken.unwrap_or_else(|| {
                    let turns = &mut self.shared().turns.0;
                    *turns += 1;
                    &masters[(*turns - 1) % masters.len()]
                });
                self.cable(master.name())?;
            }
            Order::FailOrHealReadyz => {
                let masters = self.lab.masters();
                if let Some(master) = masters.iter().find(|master| !master.is_ready()) {
                    self.disturb(&format!("/readyz of {} works again", master.name()));
                    master.set_ready(true)?;
                } else {
                    let turn = {
                        let turns = &mut self.shared().turns.1;
                        *turns += 1;
                        *turns - 1
                    };
                    let master = &masters[turn % masters.len()];
                    self.disturb(&format!("/readyz of {} fails", master.name()));
                    master.set_ready(false)?;
                }
            }
        }
        Ok(())
    }

    fn cable(&self, machine: &str) -> Result<(), LabError> {
        let unplugged = self.shared().unplugged.contains(machine);
        if unplugged {
            self.disturb(&format!("cable of {machine} plugged in"));
            self.lab.heal(machine)?;
            self.shared().unplugged.remove(machine);
        } else {
            self.disturb(&format!("cable of {machine} cut"));
            self.lab.cut(machine)?;
            self.shared().unplugged.insert(machine.to_owned());
        }
        Ok(())
    }

    /// Notes that something is being broken (or mended) now, and measures from here.
    fn disturb(&self, what: &str) {
        self.log(what.to_owned());
        let mut shared = self.shared();
        shared.busy = Some(what.to_owned());
        shared.pending.push((Instant::now(), self.load.mark(), what.to_owned()));
    }

    fn draw_until_quit(
        &self,
        mut screen: Screen,
        orders: &mpsc::Sender<Order>,
        interrupt: &Interrupt,
    ) -> io::Result<()> {
        let mut next_frame = Instant::now();
        while !interrupt.asked() {
            if Instant::now() >= next_frame {
                self.settle_pending();
                screen.draw(&self.snapshot())?;
                next_frame = Instant::now() + FRAME;
            }
            if !event::poll(next_frame.saturating_duration_since(Instant::now()))? {
                continue;
            }
            let key = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => key,
                Event::Resize(..) => {
                    screen.clear()?;
                    next_frame = Instant::now();
                    continue;
                }
                _ => continue,
            };
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            let order = match key.code {
                KeyCode::Char('q') => return Ok(()),
                KeyCode::Char('c') if control => return Ok(()),
                KeyCode::Char('1') => Order::KillOrRestart(0),
                KeyCode::Char('2') => Order::KillOrRestart(1),
                KeyCode::Char('c') => Order::CutOrHeal,
                KeyCode::Char('b') => Order::BlackHoleOrHeal,
                KeyCode::Char('r') => Order::FailOrHealReadyz,
                KeyCode::Char('h') => Order::HandOver,
                _ => continue,
            };
            // The other end only goes when we do.
            let _ = orders.send(order);
        }
        Ok(())
    }

    /// Tells what became of the disturbances that are old enough.
    fn settle_pending(&self) {
        let mut due = Vec::new();
        self.shared().pending.retain(|(at, mark, what)| {
            let old = at.elapsed() >= VERDICT_AFTER;
            if old {
                due.push((*mark, what.clone()));
            }
            !old
        });
        for (mark, what) in due {
            let gap = self.load.longest_gap(mark).as_millis();
            let failed = self.load.failed(mark);
            self.log(format!("  after \"{what}\": no answer for {gap} ms at most, {failed} requests failed"));
        }
    }

    fn snapshot(&self) -> Snapshot {
        let now = self.load.mark();
        let window = WINDOW.min(self.begin.elapsed()).max(Duration::from_millis(1));
        let since = now.saturating_sub(window.as_micros() as u64);
        let servers = self.load.by_server(since);
        let all: usize = servers.values().sum();
        let requests = self.load.read(|tally| Requests {
            rate: all as f64 / window.as_secs_f64(),
            failed: tally.failed(since),
            median: tally.median_latency(since),
            silent_for: tally.longest_gap(now, now),
            longest_gap: tally.longest_gap(since, now),
            longest_ever: tally.longest_gap(self.begin_us, now),
            last_failure: tally
                .last_failure()
                .map(|(at, why)| (Duration::from_micros(now.saturating_sub(at)), why.to_owned())),
        });
        let shared = self.shared();
        let server_row = |master: &crate::master::Master| {
            let answered = servers.get(master.name()).copied().unwrap_or(0) as f64;
            ServerRow {
                name: master.name().to_owned(),
                running: master.is_running(),
                ready: master.is_ready(),
                plugged: !shared.unplugged.contains(master.name()),
                rate: answered / window.as_secs_f64(),
                share: answered / (all.max(1) as f64),
            }
        };
        let streams = self.watch.streams();
        let fresh = now.saturating_sub(1_000_000);
        let delivering = streams.values().filter(|s| s.last_line_us.is_some_and(|at| at > fresh)).count();
        Snapshot {
            vip: format!("{VIP}:{API_PORT}"),
            uptime: self.begin.elapsed(),
            nodes: shared.nodes.clone(),
            servers: self.lab.masters().iter().map(server_row).collect(),
            requests,
            watches: (delivering, self.watch.breaks(0)),
            events: shared.events.clone(),
            busy: shared.busy.clone(),
        }
    }
}

/// The terminal in raw mode on its alternate screen, put back on drop and before a panic's message.
struct Screen {
    out: Stdout,
}

impl Screen {
    fn open() -> io::Result<Self> {
        terminal::enable_raw_mode()?;
        let mut screen = Self { out: stdout() };
        let print_panic = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            print_panic(info);
        }));
        execute!(screen.out, EnterAlternateScreen, cursor::Hide)?;
        Ok(screen)
    }

    fn clear(&mut self) -> io::Result<()> {
        queue!(self.out, Clear(ClearType::All))
    }

    /// Overwrites what is there instead of clearing it first, so nothing flickers.
    fn draw(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, line) in (0..height).zip(screen::lines(snapshot, width.into(), height.into())) {
            queue!(self.out, cursor::MoveTo(0, row))?;
            for span in line {
                if let Some(color) = span.color {
                    queue!(self.out, SetForegroundColor(color), Print(span.text), ResetColor)?;
                } else {
                    queue!(self.out, Print(span.text))?;
                }
            }
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, EndSynchronizedUpdate)?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let _ = execute!(stdout(), cursor::Show, LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}
