//! Which machines have an address on an interface, sampled every 10 ms.
//!
//! A netlink socket belongs to the network namespace that it was opened in, whichever thread uses it. So one thread asks
//! all machines, one right after the other, without entering any of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lb_userspace::vrrp::socket::run_before_others;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::netns::{Netns, NetnsError};
use crate::wait;

/// From one sample to the next.
pub const EVERY: Duration = Duration::from_millis(10);
/// A busy machine may let the thread wait.
const FRESH: Duration = Duration::from_secs(5);

// rtnetlink(7), netlink(7): constants of `linux/rtnetlink.h`, `linux/netlink.h` and `linux/if_addr.h`.
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x1 | 0x300;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `struct nlmsghdr`, and `struct ifaddrmsg` behind it.
const HEADER: usize = 16;
const IFADDRMSG: usize = 8;
const REQUEST: usize = HEADER + IFADDRMSG;

/// Who had the address at one moment; bit 0 is the first machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Instant,
    holders: u32,
}

/// For how long how many of the machines had the address, in one stretch of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// More than one, in total.
    pub both: Duration,
    /// None, in total.
    pub none: Duration,
    /// From one sample to the next, at worst: what is shorter may have been missed.
    pub resolution: Duration,
}

/// A running watch over some machines. Dropping it ends it.
#[derive(Debug)]
pub struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begins to watch where `address` is.
    ///
    /// # Errors
    /// When a machine cannot be entered or refuses the socket.
    pub fn begin(machines: &[&Netns], address: IpAddr) -> Result<Self, NetnsError> {
        let open = |machine: &&Netns| {
            machine.run(AddressTable::open)?.map_err(|e| machine.step("opening a netlink socket", e))
        };
        let tables = machines.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (samples, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (written, ended) = (Arc::clone(&samples), Arc::clone(&done));
        let thread = thread::spawn(move || {
            // Where that is not allowed, samples are late on a busy machine, which `Held::resolution` tells.
            let _ = run_before_others();
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                if let Some(sample) = sample(&tables, address) {
                    written.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
                // Not more often to make up for what was missed.
                next = (next + EVERY).max(Instant::now());
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Ok(Self { samples, done, thread: Some(thread) })
    }

    /// Whether the machines of these numbers, and no others of `alive`, have the address: the next sample says so.
    #[must_use]
    pub fn is_held_by(&self, holders: &[usize], alive: &[usize]) -> bool {
        let asked = Instant::now();
        let next =
            || self.lock().last().filter(|last| last.at > asked).map(|last| last.holders & bits(alive));
        wait::value("a sample", FRESH, next).is_ok_and(|held| held == bits(holders))
    }

    /// What the machines of `alive` did since `begin`.
    #[must_use]
    pub fn since(&self, begin: Instant, alive: &[usize]) -> Held {
        held(&self.lock(), begin, bits(alive))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bits(machines: &[usize]) -> u32 {
    machines.iter().fold(0, |all, machine| all | 1 << machine)
}

/// Each sample counts until the next one. The first of them is the last before `begin`.
fn held(samples: &[Sample], begin: Instant, alive: u32) -> Held {
    let first = samples.partition_point(|sample| sample.at <= begin).saturating_sub(1);
    let mut held = Held::default();
    for pair in samples[first..].windows(2) {
        let time = pair[1].at.saturating_duration_since(pair[0].at.max(begin));
        match (pair[0].holders & alive).count_ones() {
            0 => held.none += time,
            1 => {}
            _ => held.both += time,
        }
        held.resolution = held.resolution.max(time);
    }
    held
}

/// `None` when one of the machines did not answer, which is a hole between two samples.
fn sample(tables: &[AddressTable], address: IpAddr) -> Option<Sample> {
    let mut holders = 0;
    for (number, table) in tables.iter().enumerate() {
        if table.read().ok()?.contains(&address) {
            holders |= 1 << number;
        }
    }
    Some(Sample { at: Instant::now(), holders })
}

/// The addresses of the network namespace that this was opened in.
#[derive(Debug)]
struct AddressTable {
    socket: OwnedFd,
}

impl AddressTable {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(1))?;
        Ok(Self { socket })
    }

    fn read(&self) -> io::Result<Vec<IpAddr>> {
        // `struct nlmsghdr` with the sequence number 1 and our port left to the kernel; `struct ifaddrmsg` of any family.
        let mut request = [0; REQUEST];
        request[..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
        request[4..6].copy_from_slice(&RTM_GETADDR.to_ne_bytes());
        request[6..8].copy_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
        request[8] = 1;
        send(self.socket.as_raw_fd(), &request, MsgFlags::empty())?;
        let (mut addresses, mut buffer) = (Vec::new(), [0; 32 * 1024]);
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if read_messages(&buffer[..length], &mut addresses)? {
                return Ok(addresses);
            }
        }
    }
}

/// Adds the addresses in a piece of a dump; whether it was the last.
fn read_messages(mut bytes: &[u8], addresses: &mut Vec<IpAddr>) -> io::Result<bool> {
    while let Some((header, _)) = bytes.split_at_checked(HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let message = bytes.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(io::ErrorKind::Other.into()),
            RTM_NEWADDR => addresses.extend(message.get(IFADDRMSG..).and_then(address)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The address among the attributes of an `RTM_NEWADDR`: `IFA_LOCAL` where there is one, which IPv6 does not have.
fn address(mut attributes: &[u8]) -> Option<IpAddr> {
    let (mut local, mut other) = (None, None);
    while let [a, b, c, d, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        match u16::from_ne_bytes([c, d]) {
            IFA_LOCAL => local = ip(value),
            IFA_ADDRESS => other = ip(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    local.or(other)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_counts_until_the_next() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let samples: Vec<Sample> =
            [(0, 0b01), (10, 0b11), (20, 0b11), (30, 0b10), (45, 0b00), (50, 0b10), (60, 0b10)]
                .into_iter()
                .map(|(ms, holders)| Sample { at: at(ms), holders })
                .collect();
        let ms = Duration::from_millis;
        let all = held(&samples, start, 0b11);
        assert_eq!(all, Held { both: ms(20), none: ms(5), resolution: ms(15) });
        assert_eq!(held(&samples, at(15), 0b11).both, ms(15), "from the middle of one");
        // The first machine is dead from the beginning.
        assert_eq!(held(&samples, start, 0b10), Held { both: ms(0), none: ms(15), resolution: ms(15) });
        assert_eq!(held(&samples, at(70), 0b11), Held::default());
        assert_eq!(held(&[], start, 0b11), Held::default());
    }

    #[test]
    fn loopback_is_in_the_table_and_broken_messages_are_errors() {
        let all = AddressTable::open().unwrap().read().unwrap();
        assert!(all.contains(&Ipv4Addr::LOCALHOST.into()), "{all:?}");
        let mut none = vec![];
        assert!(read_messages(&[200; 64], &mut none).is_err());
        assert!(!read_messages(&[], &mut none).unwrap());
        assert_eq!(address(&[1, 0, 2, 0]), None, "shorter than itself");
        assert_eq!(address(&[8, 0, 1, 0, 9, 8, 7, 6, 8, 0, 2, 0, 1, 2, 3, 4]), Some([1, 2, 3, 4].into()));
    }
}
