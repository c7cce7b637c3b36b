//! Gratuitous ARP and unsolicited neighbour advertisements: telling the network where the VIP is now.
//!
//! The frames are keepalived's, byte for byte.
//!
//! **IPv4**: a broadcast ARP *request* for the VIP from the VIP (RFC 5227 §3). No reply form is sent beside it.
//! keepalived does without, RFC 5227 §3 explains why requests are what receivers handle best, and whoever has the
//! address in its cache updates it from either; a second form would only double the broadcasts.
//!
//! **IPv6**: a neighbour advertisement to all nodes, with the override flag (RFC 4861 §7.2.6). Whoever has the address in
//! its cache updates it and asks again when it next uses it; who does not have it ignores it. The router flag is clear:
//! a VIP routes nothing.
//!
//! Frames leave by the interface that has the VIP: on a VLAN sub-interface the kernel adds the tag.
//!
//! A VIP with a virtual router's Ethernet address is announced with that one, in the frames and as their source: so switches
//! learn where it is. For as long as it is announced, the interface is told to take frames for it.
//!
//! A thread of its own sends, since the first frames must not wait for a busy runtime. What it sends later, by its own clock,
//! it sends only while this node answers for its VIPs: after a pause of this process the VIP may be another node's, and the
//! frames that are overdue would turn its traffic to a node that does not know its connections.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lb_common::wire::Mac;
use nix::ifaddrs::getifaddrs;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

mod membership;
#[cfg(test)]
mod tests;

use membership::Membership;

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
/// What this node may not say yet is looked at again so much later.
const PUT_OFF: Duration = Duration::from_millis(50);

const BROADCAST: [u8; 6] = [0xff; 6];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Length of an ARP frame for IPv4 over Ethernet, without padding.
const ARP_FRAME_LEN: usize = 42;

/// Where frames for ff02::1, all nodes on the link, go (RFC 2464 §7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
/// Length of an advertisement with its one option, from the ICMPv6 type on.
const ADVERTISEMENT_LEN: usize = 32;
/// The same with IPv6 and Ethernet headers.
const ADVERTISEMENT_FRAME_LEN: usize = 86;

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
pub fn gratuitous_arp(mac: [u8; 6], vip: Ipv4Addr) -> [u8; ARP_FRAME_LEN] {
    let mut frame = [0; ARP_FRAME_LEN];
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

/// An unsolicited neighbour advertisement from `mac` for `vip` (RFC 4861 §4.4), from the VIP itself: it is the address
/// that counts, and a receiver that checks its source finds it plausible.
///
/// ```text
///  0               6              12      14                      54
/// +---------------+---------------+-------+-----------------------+
/// | 33:33:0:0:0:1 |    our MAC    | 86dd  | IPv6: VIP -> ff02::1, |
/// |               |               |       | ICMPv6, hop limit 255 |
/// +-------+-------+-------+-------+-------+---+-------+---+---+---+-----+
/// |  136  |   0   | checksum      | 2000 0000 |  VIP  | 2 | 1 | our MAC |
/// +-------+-------+---------------+-----------+-------+---+---+---------+
///  54      55      56              58          62      78  79  80      86
/// ```
pub fn unsolicited_advertisement(mac: [u8; 6], vip: Ipv6Addr) -> [u8; ADVERTISEMENT_FRAME_LEN] {
    let mut frame = [0; ADVERTISEMENT_FRAME_LEN];
    frame[0..6].copy_from_slice(&ALL_NODES_MAC);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&ETHERTYPE_IPV6);
    frame[14] = 0x60;
    frame[18..20].copy_from_slice(&(ADVERTISEMENT_LEN as u16).to_be_bytes());
    frame[20] = ICMPV6;
    // Anything less has passed a router and is ignored (RFC 4861 §7.1.2).
    frame[21] = 255;
    frame[22..38].copy_from_slice(&vip.octets());
    frame[38..54].copy_from_slice(&ALL_NODES.octets());
    frame[54] = 136;
    // Override, not solicited, no router.
    frame[58] = 0x20;
    frame[62..78].copy_from_slice(&vip.octets());
    // Target link-layer address, one unit of eight octets.
    frame[78..80].copy_from_slice(&[2, 1]);
    frame[80..86].copy_from_slice(&mac);
    let sum = icmpv6_checksum(&frame[22..54], &frame[54..]);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// The checksum of an ICMPv6 message whose own checksum field is zero, with the pseudo-header (RFC 4443 §2.3, RFC 8200
/// §8.1). `addresses`: source and destination.
pub(crate) fn icmpv6_checksum(addresses: &[u8], message: &[u8]) -> u16 {
    let words = addresses.chunks(2).chain(message.chunks(2));
    let words = words.map(|word| u32::from(word[0]) << 8 | word.get(1).copied().map_or(0, u32::from));
    let mut sum = words.sum::<u32>() + message.len() as u32 + u32::from(ICMPV6);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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

    /// Frames that are due at `now` are to wait.
    pub fn put_off(&mut self, now: Instant) {
        if now >= self.next {
            self.next = now + PUT_OFF;
        }
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
    Announce(IpAddr, Option<Mac>),
    Stop(IpAddr),
}

impl Announcer {
    /// Starts the thread, in the network namespace of the calling one. It ends when the announcer is dropped.
    ///
    /// Nothing is opened yet: an interface that is missing now may be there when it counts, and failures are logged
    /// then, once until the next success. `may_speak` is asked whether this node answers for its VIPs.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub fn spawn(interface: &str, may_speak: impl Fn(Instant) -> bool + Send + 'static) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let interface = interface.to_owned();
        thread::Builder::new()
            .name("announce".to_owned())
            .spawn(move || serve(&interface, &received, may_speak))?;
        Ok(Self { orders })
    }

    /// The VIP is here: a burst now, another one later, then a refresh from time to time, until [`stop`](Self::stop).
    /// Called again, the bursts are repeated. Never blocks. `virtual_mac`: the Ethernet address that it has; by default the
    /// interface's own.
    pub fn announce(&self, vip: IpAddr, virtual_mac: Option<Mac>) {
        // The thread lives as long as the channel does.
        let _ = self.orders.send(Order::Announce(vip, virtual_mac));
    }

    /// The VIP is not here any more.
    pub fn stop(&self, vip: IpAddr) {
        let _ = self.orders.send(Order::Stop(vip));
    }
}

fn serve(interface: &str, orders: &mpsc::Receiver<Order>, may_speak: impl Fn(Instant) -> bool) {
    let mut announced: BTreeMap<IpAddr, Announced> = BTreeMap::new();
    let mut complained = false;
    loop {
        let order = match announced.values().map(|vip| vip.schedule.next()).min() {
            None => orders.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(next) => orders.recv_timeout(next.saturating_duration_since(Instant::now())),
        };
        let now = Instant::now();
        // Whoever orders it has just looked whose the VIP is.
        let mut ordered = None;
        match order {
            Ok(Order::Announce(vip, virtual_mac)) => {
                ordered = Some(vip);
                let known = announced.entry(vip).or_insert_with(|| Announced {
                    schedule: Schedule::new(now),
                    virtual_mac,
                    membership: None,
                });
                known.schedule.repeat(now);
                if known.virtual_mac != virtual_mac {
                    (known.virtual_mac, known.membership) = (virtual_mac, None);
                }
            }
            Ok(Order::Stop(vip)) => {
                announced.remove(&vip);
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
        for (vip, announced) in &mut announced {
            if ordered != Some(*vip) && !may_speak(now) {
                announced.schedule.put_off(now);
            }
            let frames = announced.schedule.due(now);
            if frames == 0 {
                continue;
            }
            match send(interface, *vip, announced, frames) {
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

/// A VIP that is here.
struct Announced {
    schedule: Schedule,
    virtual_mac: Option<Mac>,
    /// By which the interface takes frames for `virtual_mac`.
    membership: Option<Membership>,
}

/// Sends a burst. Socket, index and MAC address are found anew each time: it is rare, and any of them may have changed
/// (a bond that failed over, an interface made anew).
fn send(interface: &str, vip: IpAddr, announced: &mut Announced, frames: u32) -> Result<(), AnnounceError> {
    let no_mac = || AnnounceError::NoMac(interface.to_owned());
    let entries =
        getifaddrs().map_err(|errno| AnnounceError::System("listing the interfaces", errno.into()))?;
    let mut links = entries.filter(|entry| entry.interface_name == interface);
    let link = links.find_map(|entry| entry.address?.as_link_addr().copied()).ok_or_else(no_mac)?;
    let own = link.addr().ok_or_else(no_mac)?;
    let mac = announced.virtual_mac.unwrap_or(own);
    if let Some(virtual_mac) = announced.virtual_mac
        && announced.membership.as_ref().is_none_or(|taken| taken.index() != link.ifindex())
    {
        let taken = Membership::join(link.ifindex(), virtual_mac);
        announced.membership =
            Some(taken.map_err(|error| AnnounceError::System("taking the virtual Ethernet address", error))?);
    }
    // Protocol 0: it receives nothing.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)
        .map_err(|error| AnnounceError::System("opening a packet socket", error))?;
    let send = |frame: &[u8], address: SockAddr| {
        (0..frames).try_for_each(|_| socket.send_to(frame, &address).map(drop))
    };
    match vip {
        IpAddr::V4(vip) => {
            send(&gratuitous_arp(mac, vip), link_address(link.ifindex(), ETHERTYPE_ARP, BROADCAST))
        }
        IpAddr::V6(vip) => send(
            &unsolicited_advertisement(mac, vip),
            link_address(link.ifindex(), ETHERTYPE_IPV6, ALL_NODES_MAC),
        ),
    }
    .map_err(|error| AnnounceError::System("sending", error))
}

/// The address that makes a raw packet socket send whole frames out of the interface with this index. What they are and
/// whom they are for stands in the frames, too; the kernel's packet filters ask here.
pub(crate) fn link_address(index: usize, ethertype: [u8; 2], to: Mac) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is plain integers, valid from any bytes, and the storage is larger and aligned for every
    // kind of socket address.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as libc::sa_family_t;
    link.sll_protocol = u16::from_ne_bytes(ethertype);
    // The kernel's interface index is an int.
    link.sll_ifindex = index as libc::c_int;
    link.sll_halen = to.len() as u8;
    link.sll_addr[..to.len()].copy_from_slice(&to);
    // SAFETY: the storage holds an initialised sockaddr_ll, and that is its length.
    unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) }
}
