//! Somebody on the network who asks every 10 ms where an address is, by ARP or neighbour solicitation, and notes who
//! answers when.
//!
//! A host's own neighbour table keeps what it has learned for a while, and believes the latest: this one shows when two
//! answer at the same time, and when nobody does.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lb_userspace::vrrp::socket::run_before_others;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::frames::{Arp, IcmpMessage, Mac, neighbour_solicitation};
use crate::netns::{Netns, NetnsError};

/// From one question to the next.
pub const EVERY: Duration = Duration::from_millis(10);

// RFC 826; RFC 4861 §4.4.
const ARP_REPLY: u16 = 2;
const ADVERTISEMENT: u8 = 136;
const SOLICITED: u8 = 0x40;

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
                let _ = run_before_others();
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
                let _ = run_before_others();
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

/// Sends a frame out of `eth0` of a machine.
///
/// # Errors
/// When the machine cannot be entered, or the frame not be sent.
pub fn tell(machine: &Netns, frame: &[u8]) -> Result<(), NetnsError> {
    let sent = machine.run(|| Ok(send(open()?.as_raw_fd(), frame, MsgFlags::empty())?))?;
    sent.map(drop).map_err(|error: io::Error| machine.step("sending a frame", error))
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
        (IpAddr::V4(own), IpAddr::V4(address)) => Arp::request(mac, own, address).bytes(),
        (IpAddr::V6(own), IpAddr::V6(address)) => neighbour_solicitation(mac, own, address).bytes(),
        _ => panic!("{own} cannot ask for {address}"),
    }
}

/// Whose MAC address a frame gives for an address, if it answers a question for it. An announcement is no answer.
fn answer(frame: &[u8], address: IpAddr) -> Option<Mac> {
    match address {
        IpAddr::V4(address) => {
            let arp = Arp::read(frame)?;
            (arp.operation == ARP_REPLY && arp.sender == address).then_some(arp.sender_mac)
        }
        IpAddr::V6(address) => {
            let message = IcmpMessage::read(frame)?;
            let answers = message.kind == ADVERTISEMENT
                && message.rest[0] & SOLICITED != 0
                && message.body.get(..16) == Some(&address.octets()[..]);
            // The option may be missing in an answer to a unicast question only; ours are multicast.
            answers.then(|| message.body.get(18..24).and_then(|mac| mac.try_into().ok())).flatten()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::frames::neighbour_advertisement;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn only_answers_for_the_address_count() {
        let address = [172, 16, 0, 10].into();
        let question = Arp::request(OWN, [172, 16, 0, 100].into(), address);
        let reply = question.answered(OTHER, OTHER).bytes();
        assert_eq!(answer(&question.bytes(), address.into()), None, "a question");
        assert_eq!(answer(&reply, address.into()), Some(OTHER));
        assert_eq!(answer(&reply, [172, 16, 0, 11].into()), None);
        assert_eq!(
            answer(&Arp::request(OTHER, address, address).bytes(), address.into()),
            None,
            "an announcement"
        );

        let [own, target]: [Ipv6Addr; 2] = ["fd10::100", "fd10::10"].map(|address| address.parse().unwrap());
        let question = neighbour_solicitation(OWN, own, target).bytes();
        let reply = neighbour_advertisement(OTHER, target, target, Some((OWN, own))).bytes();
        let announcement = neighbour_advertisement(OTHER, target, target, None).bytes();
        assert_eq!(answer(&question, target.into()), None);
        assert_eq!(answer(&reply, target.into()), Some(OTHER));
        assert_eq!(answer(&announcement, target.into()), None);
        for length in 0..reply.len() {
            assert_eq!(answer(&reply[..length], target.into()), None);
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
