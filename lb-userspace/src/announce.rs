//! Gratuitous ARP: telling the network where the VIP is now.
//!
//! The frame is keepalived's, byte for byte: a broadcast ARP *request* for the VIP from the VIP (RFC 5227 §3). No reply
//! form is sent beside it. keepalived does without, RFC 5227 §3 explains why requests are what receivers handle best,
//! and whoever has the address in its cache updates it from either; a second form would only double the broadcasts.
//!
//! A thread of its own sends, since the first frames must not wait for a busy runtime.

use std::{
    collections::BTreeMap,
    io,
    net::Ipv4Addr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::ifaddrs::getifaddrs;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

#[cfg(test)]
mod tests;

/// Frames at a take-over, at once; as keepalived (`garp_master_repeat`). A burst, since any one frame may be lost.
const BURST: u32 = 5;
/// The second burst comes so long after the first (`garp_master_delay`): a switch port that was still blocked or a
/// neighbour that was still booting missed the first.
const SECOND_BURST: Duration = Duration::from_secs(5);
/// Then one frame each time so much later, for whoever learned something else since.
const REFRESH: Duration = Duration::from_secs(60);
/// Bursts are at least so far apart, however often the network is to be told again: another router with the same VRID
/// and a lower priority would otherwise have us answer each of its advertisements with five broadcasts.
const BURST_DISTANCE: Duration = Duration::from_secs(1);

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Length of an ARP frame for IPv4 over Ethernet, without padding.
const FRAME_LEN: usize = 42;

/// A gratuitous ARP request from `mac` for `vip`.
///
/// ```text
///  0               6              12      14      16      18  19  20
/// +---------------+---------------+-------+-------+-------+---+---+-------+
/// | ff:ff:ff:ff:ff:ff | our MAC   | 0806  | 1 Eth | 0800  | 6 | 4 | 1 req |
/// +---------------+---------------+-------+-------+-------+---+---+-------+
/// |    our MAC    |      VIP      | ff:ff:ff:ff:ff:ff  |      VIP          |
/// +---------------+---------------+--------------------+------------------+
///  22              28              32                   38               42
/// ```
pub fn gratuitous_arp(mac: [u8; 6], vip: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[0..6].copy_from_slice(&BROADCAST);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_ARP);
    frame[14..22].copy_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&vip.octets());
    // RFC 5227 has zeros here, which receivers ignore; this is what keepalived's neighbours are used to.
    frame[32..38].copy_from_slice(&BROADCAST);
    frame[38..42].copy_from_slice(&vip.octets());
    frame
}

/// When to announce one VIP, and how often each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    next: Instant,
    stage: Stage,
    last_burst: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    First,
    Second,
    Refresh,
}

impl Schedule {
    /// A take-over at `now`: the first burst is due at once.
    pub const fn new(now: Instant) -> Self {
        Self { next: now, stage: Stage::First, last_burst: None }
    }

    /// The network is to be told again: both bursts once more.
    pub fn repeat(&mut self, now: Instant) {
        if self.stage != Stage::First {
            self.next = self.last_burst.map_or(now, |last| now.max(last + BURST_DISTANCE));
            self.stage = Stage::First;
        }
    }

    /// When [`due`](Self::due) has something to say next.
    pub const fn next(&self) -> Instant {
        self.next
    }

    /// How many frames to send at `now`; 0 before [`next`](Self::next).
    pub fn due(&mut self, now: Instant) -> u32 {
        if now < self.next {
            return 0;
        }
        let frames = match self.stage {
            Stage::First | Stage::Second => BURST,
            Stage::Refresh => 1,
        };
        let (stage, pause) = match self.stage {
            Stage::First => (Stage::Second, SECOND_BURST),
            Stage::Second | Stage::Refresh => (Stage::Refresh, REFRESH),
        };
        if self.stage != Stage::Refresh {
            self.last_burst = Some(now);
        }
        (self.stage, self.next) = (stage, now + pause);
        frames
    }
}

/// Why frames could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum AnnounceError {
    /// No such interface, or one without Ethernet addresses.
    #[error("interface {0} does not exist or has no MAC address")]
    NoMac(String),
    /// A system call failed.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
}

/// Announces VIPs on one interface for as long as they are here.
#[derive(Debug)]
pub struct Announcer {
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Announce(Ipv4Addr),
    Stop(Ipv4Addr),
}

impl Announcer {
    /// Starts the thread, in the network namespace of the calling one. It ends when the announcer is dropped.
    ///
    /// Nothing is opened yet: an interface that is missing now may be there when it counts, and failures are logged
    /// then, once until the next success.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn spawn(interface: &str) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let interface = interface.to_owned();
        thread::Builder::new().name("announce".to_owned()).spawn(move || serve(&interface, &received))?;
        Ok(Self { orders })
    }

    /// The VIP is here: a burst now, another one later, then a refresh from time to time, until [`stop`](Self::stop).
    /// Called again, the bursts are repeated. Never blocks.
    pub fn announce(&self, vip: Ipv4Addr) {
        // The thread lives as long as the channel does.
        let _ = self.orders.send(Order::Announce(vip));
    }

    /// The VIP is not here any more.
    pub fn stop(&self, vip: Ipv4Addr) {
        let _ = self.orders.send(Order::Stop(vip));
    }
}

fn serve(interface: &str, orders: &mpsc::Receiver<Order>) {
    let mut schedules: BTreeMap<Ipv4Addr, Schedule> = BTreeMap::new();
    let mut complained = false;
    loop {
        let order = match schedules.values().map(Schedule::next).min() {
            None => orders.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(next) => orders.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        let now = Instant::now();
        match order {
            Ok(Order::Announce(vip)) => {
                schedules
                    .entry(vip)
                    .and_modify(|schedule| schedule.repeat(now))
                    .or_insert_with(|| Schedule::new(now));
            }
            Ok(Order::Stop(vip)) => {
                schedules.remove(&vip);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        for (vip, schedule) in &mut schedules {
            let frames = schedule.due(now);
            if frames == 0 {
                continue;
            }
            match send(interface, *vip, frames) {
                Ok(()) => complained = false,
                Err(error) if !complained => {
                    complained = true;
                    tracing::warn!(interface, %vip, error = &error as &dyn std::error::Error, "not announced");
                }
                Err(_) => {}
            }
        }
    }
}

/// Sends a burst. Socket, index and MAC address are found anew each time: it is rare, and any of them may have changed
/// (a bond that failed over, an interface made anew).
fn send(interface: &str, vip: Ipv4Addr, frames: u32) -> Result<(), AnnounceError> {
    let no_mac = || AnnounceError::NoMac(interface.to_owned());
    let entries =
        getifaddrs().map_err(|errno| AnnounceError::System("listing the interfaces", errno.into()))?;
    let mut links = entries.filter(|entry| entry.interface_name == interface);
    let link = links.find_map(|entry| entry.address?.as_link_addr().copied()).ok_or_else(no_mac)?;
    let frame = gratuitous_arp(link.addr().ok_or_else(no_mac)?, vip);
    // Protocol 0: it receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)
        .map_err(|error| AnnounceError::System("opening a packet socket", error))?;
    let address = link_address(link.ifindex());
    for _ in 0..frames {
        socket.send_to(&frame, &address).map_err(|error| AnnounceError::System("sending", error))?;
    }
    Ok(())
}

/// The address that makes a raw packet socket send whole frames out of the interface with this index.
fn link_address(index: usize) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain integers, valid from any bytes, and the storage is larger and aligned for every
    // kind of socket address.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = u16::from_ne_bytes(ETHERTYPE_ARP);
    // The kernel's interface index is an int.
    link.sll_ifindex = index as libc::c_int;
    link.sll_halen = BROADCAST.len() as u8;
    link.sll_addr[..BROADCAST.len()].copy_from_slice(&BROADCAST);
    // SAFETY: the storage holds an initialised sockaddr_ll, and that is its length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
