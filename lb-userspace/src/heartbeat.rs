//! The sign of life that lets this node answer for its VIPs, and who must be alive for it.
//!
//! XDP passes ARP requests and neighbour solicitations for a VIP on to the host only while the heartbeat in `PULSE` is
//! younger than the lease: a node that hangs falls silent before another one has taken over from it (RFC 9568 §6.1,
//! `Active_Down_Interval`). A thread of its own writes it, which runs before every ordinary one where that is allowed, so
//! that a busy machine does not fence itself; and it writes only while all of these hold:
//!
//! - every virtual router's thread has run within the lease: one that does not advertise must not answer;
//! - the controller has run within [`PATIENCE`]: what a router decides has to be carried out;
//! - after a start, and after a pause of this process that was longer than the lease, the controller has looked at what
//!   the routers say *since then* and has taken off the addresses that are not ours any more.
//!
//! [`withheld`] decides; it is pure. What this node says of its VIPs unasked, by gratuitous ARP, depends on the same: see
//! [`Sign`].

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    dataplane::{DataplaneError, PulseWriter},
    vrrp::socket::run_before_others,
};

#[cfg(test)]
mod tests;

/// So long the controller may be busy before its VIPs fall silent and its routers give up.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// When something was last done: written by one thread, read by others without a lock.
#[derive(Debug)]
pub struct Beat {
    epoch: Instant,
    /// Nanoseconds since the epoch, plus one; 0 is never.
    at: AtomicU64,
}

impl Beat {
    /// Never yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { epoch: Instant::now(), at: AtomicU64::new(0) })
    }

    /// It was done at `now`.
    pub fn set(&self, now: Instant) {
        // 584 years fit.
        let nanos = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        self.at.store(nanos + 1, Ordering::Release);
    }

    /// When it was last done.
    pub fn get(&self) -> Option<Instant> {
        let nanos = self.at.load(Ordering::Acquire).checked_sub(1)?;
        Some(self.epoch + Duration::from_nanos(nanos))
    }
}

/// What the heartbeat depends on, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals<'a> {
    /// When the controller last ran.
    pub controller: Option<Instant>,
    /// When maps and addresses were last as the routers wanted them.
    pub settled: Option<Instant>,
    /// Since when this process has been running without a pause of a lease.
    pub running_since: Instant,
    /// When each router's thread last ran.
    pub routers: &'a [(String, Option<Instant>)],
}

/// Why there is no heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Nobody has looked yet whether the addresses on the interface are still ours.
    Unsettled,
    /// The controller hangs.
    Controller(Duration),
    /// A virtual router's thread hangs.
    Router(String, Duration),
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsettled => f.write_str("whether the VIPs are still ours is being looked at"),
            Self::Controller(silence) => {
                write!(f, "the controller has not run for {} ms", silence.as_millis())
            }
            Self::Router(name, silence) => {
                write!(f, "the thread of virtual router {name} has not run for {} ms", silence.as_millis())
            }
        }
    }
}

/// Why the heartbeat must not be written at `now`; `None` if it may.
pub fn withheld(now: Instant, lease: Duration, vitals: &Vitals<'_>) -> Option<Withheld> {
    // Whoever has not begun is as silent as this process is old.
    let silence = |at: Option<Instant>| now.saturating_duration_since(at.unwrap_or(vitals.running_since));
    if vitals.settled.is_none_or(|settled| settled < vitals.running_since) {
        return Some(Withheld::Unsettled);
    }
    let controller = silence(vitals.controller);
    if controller > PATIENCE {
        return Some(Withheld::Controller(controller));
    }
    let mut routers = vitals.routers.iter().map(|(name, at)| (name, silence(*at)));
    let (name, silence) = routers.find(|(_, silence)| *silence > lease)?;
    Some(Withheld::Router(name.clone(), silence))
}

/// The running heartbeat. Ends when it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

/// What the thread and its owner tell each other.
#[derive(Debug)]
struct Shared {
    controller: Arc<Beat>,
    settled: Arc<Beat>,
    running_since: Arc<Beat>,
    written: Arc<Beat>,
    /// In nanoseconds.
    lease: AtomicU64,
    /// Why there is none at the moment. The thread never waits for this lock.
    withheld: Mutex<Option<Withheld>>,
}

impl Shared {
    /// Nobody has done anything yet.
    fn new(lease: Duration) -> Arc<Self> {
        Arc::new(Self {
            lease: AtomicU64::new(lease.as_nanos() as u64),
            controller: Beat::new(),
            settled: Beat::new(),
            running_since: Beat::new(),
            written: Beat::new(),
            withheld: Mutex::new(None),
        })
    }
}

/// Tells another thread whether this node still answers for its VIPs.
#[derive(Clone, Debug)]
pub struct Sign(Arc<Shared>);

impl Sign {
    /// Whether the heartbeat is younger than the lease at `now`. Right after a pause of this process it is not, until it is
    /// known whose the VIPs are.
    pub fn is_fresh(&self, now: Instant) -> bool {
        let lease = Duration::from_nanos(self.0.lease.load(Ordering::Acquire));
        self.0.written.get().is_some_and(|written| now.saturating_duration_since(written) <= lease)
    }
}

enum Order {
    Routers(Vec<(String, Arc<Beat>)>),
    Lease(Duration),
    Writer(Option<Box<dyn WritePulse>>),
    Beat,
}

/// Where the heartbeat goes.
pub trait WritePulse: Send {
    /// Lets the clock of the flows go on, and with `alive` writes a heartbeat of now.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&mut self, alive: bool) -> Result<(), DataplaneError>;
}

impl WritePulse for PulseWriter {
    fn write(&mut self, alive: bool) -> Result<(), DataplaneError> {
        Self::write(self, alive)
    }
}

impl Heartbeat {
    /// Starts the thread. It writes nothing until it has a [`writer`](Self::write_to) and the controller has
    /// [settled](Self::settled).
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn spawn(lease: Duration) -> std::io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let shared = Shared::new(lease);
        let now = Instant::now();
        shared.running_since.set(now);
        let heart = Heart { shared: Arc::clone(&shared), lease, routers: Vec::new(), writer: None, ran: now };
        thread::Builder::new().name("heartbeat".to_owned()).spawn(move || heart.run(&received))?;
        Ok(Self { orders, shared })
    }

    /// Where to write from now on; `None` while there is no data plane.
    pub fn write_to(&self, writer: Option<Box<dyn WritePulse>>) {
        self.order(Order::Writer(writer));
    }

    /// The threads that must run, each with its sign of life.
    pub fn depend_on(&self, routers: Vec<(String, Arc<Beat>)>) {
        self.order(Order::Routers(routers));
    }

    /// How old the heartbeat may be.
    pub fn set_lease(&self, lease: Duration) {
        self.shared.lease.store(lease.as_nanos() as u64, Ordering::Release);
        self.order(Order::Lease(lease));
    }

    /// The controller's own sign of life, for the routers.
    pub fn controller(&self) -> Arc<Beat> {
        Arc::clone(&self.shared.controller)
    }

    /// The controller runs.
    pub fn alive(&self, now: Instant) {
        self.shared.controller.set(now);
    }

    /// Maps and addresses are as the routers wanted them at `as_of`.
    pub fn settled(&self, as_of: Instant) {
        let before = self.is_settled();
        self.shared.settled.set(as_of);
        if !before {
            // Who has just been started or resumed is waited for.
            self.order(Order::Beat);
        }
    }

    /// Since when this process has run without a pause of a lease: what is older than that has to be looked at again.
    pub fn running_since(&self) -> Option<Instant> {
        self.shared.running_since.get()
    }

    /// Whether the controller has settled since then.
    pub fn is_settled(&self) -> bool {
        self.shared.settled.get() >= self.running_since()
    }

    /// For whoever speaks for the VIPs by itself.
    pub fn sign(&self) -> Sign {
        Sign(Arc::clone(&self.shared))
    }

    /// When it was last written.
    pub fn written(&self) -> Option<Instant> {
        self.shared.written.get()
    }

    /// Why there is none at the moment.
    pub fn withheld(&self) -> Option<Withheld> {
        self.shared.withheld.lock().map_or(None, |withheld| withheld.clone())
    }

    fn order(&self, order: Order) {
        // The thread lives as long as the channel does.
        let _ = self.orders.send(order);
    }
}

/// What the thread owns.
struct Heart {
    shared: Arc<Shared>,
    lease: Duration,
    routers: Vec<(String, Arc<Beat>)>,
    writer: Option<Box<dyn WritePulse>>,
    /// When it last ran.
    ran: Instant,
}

impl Heart {
    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        // Without the right to it, as an ordinary thread.
        let _ = run_before_others();
        let mut due = Instant::now();
        loop {
            match orders.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(order) => self.obey(order),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    due = Instant::now() + period(self.lease);
                    self.beat(Instant::now());
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Routers(routers) => self.routers = routers,
            Order::Lease(lease) => self.lease = lease,
            Order::Writer(writer) => self.writer = writer,
            Order::Beat => self.beat(Instant::now()),
        }
    }

    fn beat(&mut self, now: Instant) {
        if now.saturating_duration_since(self.ran) > self.lease {
            self.shared.running_since.set(now);
        }
        self.ran = now;
        let routers: Vec<(String, Option<Instant>)> =
            self.routers.iter().map(|(name, beat)| (name.clone(), beat.get())).collect();
        let vitals = Vitals {
            controller: self.shared.controller.get(),
            settled: self.shared.settled.get(),
            running_since: self.shared.running_since.get().unwrap_or(now),
            routers: &routers,
        };
        let withheld = withheld(now, self.lease, &vitals);
        let alive = withheld.is_none();
        if let Ok(mut told) = self.shared.withheld.try_lock() {
            *told = withheld;
        }
        let written = self.writer.as_mut().is_some_and(|writer| writer.write(alive).is_ok());
        if alive && written {
            self.shared.written.set(now);
        }
    }
}

/// Well inside the lease: a late wake-up or two must not silence us.
pub fn period(lease: Duration) -> Duration {
    (lease / 5).min(Duration::from_millis(250))
}
