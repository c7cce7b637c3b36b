//! Somebody on the network who asks every 10 ms where an address is, by ARP or neighbour solicitation, and notes who
//! answers when.
//!
//! A host's own neighbour table keeps what it has learned for a while, and believes the latest: this one shows when two
//! answer at the same time, and when nobody does.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::frames::{Mac, arp_request, checksum};
use crate::netns::{Netns, NetnsError};

/// From one question to the next.
pub const EVERY: Duration = Duration::from_millis(10);

// Offsets behind the Ethernet header (RFC 826; RFC 8200, RFC 4861).
const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_REPLY: [u8; 2] = [0, 2];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;
const OWN_LINK_LAYER_ADDRESS: u8 = 1;

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// When it came.
    pub at: Instant,
    /// The MAC address that it names.
    pub mac: Mac,
}

/// Asks until it is dropped.
#[derive(Debug)]
pub struct Asker {
    answers: Arc<Mutex<Vec<Answer>>>,
    done: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Asker {
    /// Begins to ask for `address` on `eth0` of a machine that has the addresses `mac` and `own` there.
    ///
    /// # Errors
    /// When the machine cannot be entered or refuses the socket.
    pub fn begin(machine: &Netns, mac: Mac, own: IpAddr, address: IpAddr) -> Result<Self, NetnsError> {
        let socket =
            Arc::new(machine.run(open)?.map_err(|error| machine.step("opening a packet socket", error))?);
        let question = question(mac, own, address);
        let (answers, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let asks = {
            let (socket, done) = (Arc::clone(&socket), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    // A cable that is cut is somebody's experiment.
                    let _ = send(socket.as_raw_fd(), &question, MsgFlags::empty());
                    thread::sleep(EVERY);
                }
            })
        };
        let listens = {
            let (answers, done) = (Arc::clone(&answers), Arc::clone(&done));
            thread::spawn(move || {
                let mut frame = [0; 2048];
                while !done.load(Ordering::Relaxed) {
                    let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                        continue;
                    };
                    if let Some(mac) = answer(&frame[..length], address) {
                        let answer = Answer { at: Instant::now(), mac };
                        answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                    }
                }
            })
        };
        Ok(Self { answers, done, threads: vec![asks, listens] })
    }

    /// The answers since `begin`, oldest first.
    #[must_use]
    pub fn since(&self, begin: Instant) -> Vec<Answer> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers[answers.partition_point(|answer| answer.at < begin)..].to_vec()
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// For how long both of these have answered: from the first answer of the one that came later to the last one of the
/// other. Zero where one of them never did.
#[must_use]
pub fn overlap(answers: &[Answer], before: Mac, after: Mac) -> Duration {
    let first = answers.iter().find(|answer| answer.mac == after);
    let last = answers.iter().rfind(|answer| answer.mac == before);
    match (first, last) {
        (Some(first), Some(last)) => last.at.saturating_duration_since(first.at),
        _ => Duration::ZERO,
    }
}

/// The longest time without an answer between `begin` and `end`.
#[must_use]
pub fn silence(answers: &[Answer], begin: Instant, end: Instant) -> Duration {
    let moments = [begin].into_iter().chain(answers.iter().map(|answer| answer.at)).chain([end]);
    let moments: Vec<Instant> = moments.collect();
    moments.windows(2).map(|pair| pair[1].saturating_duration_since(pair[0])).max().unwrap_or_default()
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(100))?;
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex("eth0")?.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: it is a whole `sockaddr_ll`, of the family that says so, and lives until after the call, which copies it.
    let link = unsafe { LinkAddr::from_raw((&raw const link).cast(), Some(length)) };
    bind(socket.as_raw_fd(), &link.ok_or(io::ErrorKind::InvalidInput)?)?;
    Ok(socket)
}

fn question(mac: Mac, own: IpAddr, address: IpAddr) -> Vec<u8> {
    match (own, address) {
        (IpAddr::V4(own), IpAddr::V4(address)) => arp_request(mac, own, address),
        (IpAddr::V6(own), IpAddr::V6(address)) => neighbour_solicitation(mac, own, address),
        _ => panic!("{own} cannot ask for {address}"),
    }
}

/// A neighbour solicitation of `sender` for `target`, to the solicited-node multicast address (RFC 4861 §4.3).
fn neighbour_solicitation(mac: Mac, sender: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., d, e, f] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(d), u16::from_be_bytes([e, f]));
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([OWN_LINK_LAYER_ADDRESS, 1]);
    message.extend(mac);
    icmpv6(mac, [0x33, 0x33, 0xff, d, e, f], sender, group, message)
}

/// An ICMPv6 message, whose checksum is written here, in its frame; hop limit 255.
fn icmpv6(mac: Mac, to: Mac, source: Ipv6Addr, destination: Ipv6Addr, mut message: Vec<u8>) -> Vec<u8> {
    let length = message.len() as u16;
    let addresses = [source.octets(), destination.octets()].concat();
    // RFC 8200 §8.1.
    let pseudo = [&addresses[..], &u32::from(length).to_be_bytes(), &[0, 0, 0, ICMPV6], &message].concat();
    message[2..4].copy_from_slice(&checksum(&pseudo));
    let header = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[ICMPV6, 255], &addresses].concat();
    [&to[..], &mac, &IPV6, &header, &message].concat()
}

/// Whose MAC address a frame gives for an address, if it answers a question for it. An announcement is no answer.
fn answer(frame: &[u8], address: IpAddr) -> Option<Mac> {
    let packet = frame.get(ETHERNET..)?;
    match (&frame[12..ETHERNET], address) {
        (ethertype, IpAddr::V4(address)) if *ethertype == ARP => {
            let (operation, mac, sender) = (packet.get(6..8)?, packet.get(8..14)?, packet.get(14..18)?);
            (operation == ARP_REPLY && sender == address.octets()).then(|| mac.try_into().ok()).flatten()
        }
        (ethertype, IpAddr::V6(address)) if *ethertype == IPV6 => {
            let message = packet.get(40..)?;
            let (flags, target) = (message.get(4)?, message.get(8..24)?);
            let answers = packet[6] == ICMPV6
                && message[0] == ADVERTISEMENT
                && flags & SOLICITED != 0
                && target == address.octets();
            // The option may be missing in an answer to a unicast question only; ours are multicast.
            answers.then(|| message.get(26..32).and_then(|mac| mac.try_into().ok())).flatten()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];

    #[test]
    fn only_answers_for_the_address_count() {
        let address = IpAddr::from([172, 16, 0, 10]);
        let mut reply = arp_request(OWN, [172, 16, 0, 10].into(), [172, 16, 0, 100].into());
        assert_eq!(answer(&reply, address), None, "a question");
        reply[ETHERNET + 7] = 2;
        assert_eq!(answer(&reply, address), Some(OWN));
        assert_eq!(answer(&reply, [172, 16, 0, 11].into()), None);
        for length in 0..reply.len() {
            let _ = answer(&reply[..length], address);
        }

        let target: Ipv6Addr = "fd10::10".parse().unwrap();
        let mut frame = neighbour_solicitation(OWN, "fd10::100".parse().unwrap(), target);
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 0, 0x10]);
        assert_eq!(answer(&frame, target.into()), None, "a question");
        frame[ETHERNET + 40] = ADVERTISEMENT;
        assert_eq!(answer(&frame, target.into()), None, "an announcement");
        frame[ETHERNET + 44] = SOLICITED;
        assert_eq!(answer(&frame, target.into()), Some(OWN));
        for length in 0..frame.len() {
            let _ = answer(&frame[..length], target.into());
        }
    }

    #[test]
    fn times_are_between_answers() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let [old, new] = [[1; 6], [2; 6]];
        let answers: Vec<Answer> = [(10, old), (20, old), (80, new), (90, old), (100, new), (120, new)]
            .into_iter()
            .map(|(ms, mac)| Answer { at: at(ms), mac })
            .collect();
        assert_eq!(overlap(&answers, old, new), Duration::from_millis(10));
        assert_eq!(overlap(&answers, new, old), Duration::from_millis(110));
        assert_eq!(overlap(&answers[..2], old, new), Duration::ZERO);
        assert_eq!(silence(&answers, at(0), at(125)), Duration::from_millis(60));
        assert_eq!(silence(&[], at(0), at(125)), Duration::from_millis(125));
        assert_eq!(silence(&answers, at(0), at(200)), Duration::from_millis(80));
    }
}
