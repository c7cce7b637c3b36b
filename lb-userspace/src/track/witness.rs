//! Pings the witnesses of an instance from the interface that VRRP is on.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::UdpSocket,
    sync::Notify,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tracing::debug;

use super::{answers::Answers, echo::Echo};
use crate::config::model::Family;

/// The shortest and the longest time between two requests.
const PERIOD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// A request that has not left by then will not.
const SEND_LIMIT: Duration = Duration::from_millis(100);
/// Packets taken from a socket before anything else has its turn.
const PACKETS_AT_ONCE: usize = 64;

/// How often a witness is asked: as often as an advertisement is sent, within reason.
pub fn period(advert_interval: Duration) -> Duration {
    advert_interval.clamp(PERIOD.0, PERIOD.1)
}

/// The pings of one instance; end when dropped.
#[derive(Debug)]
pub struct Witnesses {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug)]
struct Shared {
    instance: String,
    answers: Mutex<Known>,
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Known {
    answers: Answers,
    /// The verdict that was told last.
    good: bool,
}

impl Witnesses {
    /// Begins to ask; needs a Tokio runtime, and `CAP_NET_RAW`: without it the verdict says so. Wakes `changed` when the
    /// verdict changes.
    pub fn spawn(
        instance: &str,
        interface: &str,
        addresses: &[IpAddr],
        period: Duration,
        changed: Arc<Notify>,
    ) -> Self {
        let answers = Answers::new(addresses, period, Instant::now());
        let good = addresses.is_empty();
        let answers = Mutex::new(Known { answers, good });
        let shared = Arc::new(Shared { instance: instance.to_owned(), answers, changed });
        let ping = |(index, &address)| {
            let asked =
                Asked { index, address, interface: interface.to_owned(), echo: echo(address), socket: None };
            tokio::spawn(asked.run(period, Arc::clone(&shared)))
        };
        let tasks = addresses.iter().enumerate().map(ping).collect();
        Self { shared, tasks }
    }

    /// Whether one of them has answered lately, as of now.
    ///
    /// # Errors
    /// Who has not, and for how long.
    pub fn verdict(&self) -> Result<(), String> {
        self.shared.with(|known| known.answers.verdict(Instant::now()))
    }
}

impl Shared {
    fn with<T>(&self, what: impl FnOnce(&mut Known) -> T) -> T {
        what(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wakes whoever waits if the verdict is another one; when to look again.
    fn look(&self) -> Option<Instant> {
        self.with(|known| {
            let now = Instant::now();
            let verdict = known.answers.verdict(now);
            if verdict.is_ok() != known.good {
                known.good = verdict.is_ok();
                debug!(vrrp = self.instance, ?verdict, "witnesses");
                self.changed.notify_one();
            }
            known.answers.expires().filter(|expires| *expires > now)
        })
    }
}

/// One witness.
struct Asked {
    index: usize,
    address: IpAddr,
    interface: String,
    echo: Echo,
    socket: Option<UdpSocket>,
}

impl Asked {
    async fn run(mut self, period: Duration, shared: Arc<Shared>) {
        let mut timer = interval(period);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sequence = 0_u16;
        let mut expires = None;
        loop {
            tokio::select! {
                () = readable(self.socket.as_ref()) => self.receive(&shared),
                _ = timer.tick() => {
                    sequence = sequence.wrapping_add(1);
                    // Before it leaves: the answer is a proof for this moment at the latest.
                    let now = Instant::now();
                    match self.send(sequence).await {
                        Ok(()) => shared.with(|known| known.answers.sent(self.index, sequence, now)),
                        Err(error) => {
                            // The interface may be another one now.
                            self.socket = None;
                            shared.with(|known| known.answers.not_sent(self.index, error.to_string()));
                        }
                    }
                }
                () = expired(expires) => {}
            }
            expires = shared.look();
        }
    }

    async fn send(&mut self, sequence: u16) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => self.socket.insert(socket),
            None => self.socket.insert(open(&self.interface, self.address)?),
        };
        let message = self.echo.request(sequence);
        let sent =
            timeout(SEND_LIMIT, socket.send(&message)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn receive(&self, shared: &Shared) {
        let Some(socket) = &self.socket else { return };
        let mut datagram = [0; 512];
        for _ in 0..PACKETS_AT_ONCE {
            // Errors are about what we have sent (nobody there, no way): the missing answer says as much.
            match socket.try_recv(&mut datagram) {
                Ok(length) => {
                    if let Some(sequence) = self.echo.answered(&datagram[..length]) {
                        shared.with(|known| known.answers.answered(self.index, sequence));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {}
            }
        }
    }
}

/// Bound to the interface and connected: the kernel drops what is from anybody else.
fn open(interface: &str, witness: IpAddr) -> io::Result<UdpSocket> {
    let (domain, protocol) = match witness {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // A link-local address says nothing without its interface.
    let scope = if_nametoindex(interface).map_err(io::Error::from)?;
    let address = match witness {
        IpAddr::V6(witness) => SocketAddr::V6(SocketAddrV6::new(witness, 0, 0, scope)),
        witness @ IpAddr::V4(_) => SocketAddr::new(witness, 0),
    };
    socket.connect(&address.into())?;
    // To the runtime a connected datagram socket is like any other.
    UdpSocket::from_std(socket.into())
}

/// What nobody else can know.
fn echo(witness: IpAddr) -> Echo {
    // The standard library has no other source of randomness, and this one is from the kernel.
    let random = || RandomState::new().build_hasher().finish();
    let family = Family::of(witness);
    Echo { family, identifier: random() as u16, token: random().to_be_bytes() }
}

async fn readable(socket: Option<&UdpSocket>) {
    match socket {
        // What is wrong with a socket is told when it is read.
        Some(socket) => drop(socket.readable().await),
        None => std::future::pending().await,
    }
}

async fn expired(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_asked_as_often_as_an_advertisement_is_sent_within_reason() {
        for (advert_interval, expected) in [(50, 200), (200, 200), (500, 500), (4000, 1000)] {
            assert_eq!(period(Duration::from_millis(advert_interval)), Duration::from_millis(expected));
        }
    }

    #[test]
    fn no_two_witnesses_have_the_same_secret() {
        let one = echo([172, 16, 0, 1].into());
        assert_eq!(one.family, Family::Ipv4);
        assert_ne!(one.token, echo([172, 16, 0, 1].into()).token);
    }
}
