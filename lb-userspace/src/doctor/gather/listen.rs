//! Listening to the network, and asking it for the VIPs' owners: a packet socket sees what comes by the interface, and
//! sockets like the daemon's what of it comes through the packet filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    os::fd::{AsFd as _, AsRawFd as _},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, SockFilter, Socket, Type};

use crate::{
    announce::link_address,
    config::model::{Config, Family, family_of},
    desired::vips_of,
    doctor::{
        adverts::{Heard, arp_probe, neighbour_solicitation, owner_of},
        facts::{VipAnswer, Wire},
    },
    netlink::Link,
    vrrp::socket::{VrrpSocket, primary_address},
};

/// From one question to the next: a neighbour's answer may be lost, or late.
const ASK_EVERY: Duration = Duration::from_millis(700);
/// So often is asked.
const ASK_TIMES: u32 = 3;
const LONGEST_FRAME: usize = 2048;
/// `ETH_P_ALL`, as it goes into a socket's address: only such a socket sees what this node sends, too.
const ALL_KINDS: [u8; 2] = [0, 3];
/// `PACKET_OUTGOING` (linux/if_packet.h)
const OUTGOING: u8 = 4;

/// Frames that matter: ARP, protocol 112 over IPv4 and IPv6, ICMPv6. Classic BPF (linux/filter.h).
fn filter() -> [SockFilter; 11] {
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF, 0, 0, 12),
        SockFilter::new(JUMP_IF_EQUAL, 7, 0, 0x0806),
        SockFilter::new(JUMP_IF_EQUAL, 0, 2, 0x0800),
        SockFilter::new(LOAD_BYTE, 0, 0, 23),
        SockFilter::new(JUMP_IF_EQUAL, 4, 5, 112),
        SockFilter::new(JUMP_IF_EQUAL, 0, 4, 0x86dd),
        SockFilter::new(LOAD_BYTE, 0, 0, 20),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 58),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 112),
        SockFilter::new(RETURN, 0, 0, LONGEST_FRAME as u32),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Listens on the first interface for that long.
pub fn listen(config: &Config, link: &Link, limit: Duration) -> Wire {
    match hear(config, link, limit) {
        Ok(wire) => wire,
        Err(error) => Wire { listened: Some(Err(error.to_string())), ..Wire::default() },
    }
}

fn hear(config: &Config, link: &Link, limit: Duration) -> io::Result<Wire> {
    // Of no protocol at first: nothing is queued before the filter is there.
    let tap = Socket::new(Domain::PACKET, Type::RAW, None)?;
    tap.set_nonblocking(true)?;
    tap.attach_filter(&filter())?;
    tap.bind(&link_address(link.index as usize, ALL_KINDS, [0; 6]))?;
    let (names, mut sockets): (BTreeSet<String>, Vec<VrrpSocket>) =
        sockets_like_the_daemon_s(config).into_iter().unzip();
    let questions = questions(config, link);
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|service| service.vip.address).collect();

    let begun = Instant::now();
    let mut asked = 0;
    let mut adverts: Vec<Heard> = Vec::new();
    let mut delivered: BTreeMap<(IpAddr, u8), u32> = BTreeMap::new();
    let mut answers = BTreeSet::new();
    loop {
        let elapsed = begun.elapsed();
        if elapsed >= limit {
            break;
        }
        if asked < ASK_TIMES && elapsed >= ASK_EVERY * asked {
            asked += 1;
            for (ethertype, question) in &questions {
                // What cannot be sent has no answer, and the interface's own finding says why.
                let _ = tap.send_to(question, &link_address(link.index as usize, *ethertype, [0xff; 6]));
            }
        }
        let next = if asked < ASK_TIMES { (ASK_EVERY * asked).min(limit) } else { limit };
        wait(&tap, &sockets, next.saturating_sub(elapsed))?;

        let mut frame = [0; LONGEST_FRAME];
        while let Some((len, outgoing)) = receive(&tap, &mut frame)? {
            let frame = &frame[..len];
            if let Some(heard) = Heard::read(frame, outgoing, SystemTime::now()) {
                match adverts.iter_mut().find(|known| known.is_same(&heard)) {
                    Some(known) => *known = Heard { seen: known.seen.saturating_add(1), ..heard },
                    None => adverts.push(heard),
                }
            } else if !outgoing
                && let Some((vip, mac)) = owner_of(frame)
                && vips.contains(&vip)
            {
                answers.insert(VipAnswer { vip, mac });
            }
        }
        for socket in &mut sockets {
            while let Ok(Some(received)) = socket.receive() {
                // What the daemon would not take, the tap has seen, too.
                if let Ok(received) = received {
                    let key = (received.envelope.source, received.advertisement.vrid.0.get());
                    *delivered.entry(key).or_default() += 1;
                }
            }
        }
    }
    for heard in &mut adverts {
        let key = (heard.envelope.source, heard.advertisement.vrid.0.get());
        heard.delivered = delivered.get(&key).copied().unwrap_or(0);
    }
    Ok(Wire {
        listened: Some(Ok(begun.elapsed())),
        adverts,
        answers: answers.into_iter().collect(),
        sockets: names,
    })
}

fn sockets_like_the_daemon_s(config: &Config) -> Vec<(String, VrrpSocket)> {
    let sockets = config.vrrp.iter().filter_map(|instance| {
        let vips: Vec<IpAddr> = vips_of(config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
        let (interface, family) = (config.node.interface(), family_of(&vips));
        let source = instance
            .unicast_source
            .or_else(|| primary_address(interface, &vips, family, instance.unicast_peers.is_empty()))?;
        // Where it cannot be opened, nothing can be said about the packet filter.
        let socket = VrrpSocket::open(interface, source, &instance.unicast_peers, None).ok()?;
        Some((instance.name.clone(), socket))
    });
    sockets.collect()
}

/// One for each VIP that can be asked for, with the kind of its frame.
fn questions(config: &Config, link: &Link) -> Vec<([u8; 2], Vec<u8>)> {
    let Some(mac) = link.mac else { return Vec::new() };
    let vips: BTreeSet<IpAddr> = config
        .services
        .iter()
        .filter(|service| service.vrrp.is_some())
        .map(|service| service.vip.address)
        .collect();
    let all: Vec<IpAddr> = vips.iter().copied().collect();
    let own = primary_address(config.node.interface(), &all, Family::Ipv6, true)
        .or_else(|| link.v6(&vips).map(IpAddr::V6));
    let questions = vips.iter().filter_map(|vip| match (vip, own) {
        (IpAddr::V4(vip), _) => Some(([0x08, 0x06], arp_probe(mac, *vip))),
        (IpAddr::V6(vip), Some(IpAddr::V6(own))) => {
            Some(([0x86, 0xdd], neighbour_solicitation(mac, own, *vip)))
        }
        (IpAddr::V6(_), _) => None,
    });
    questions.collect()
}

fn wait(tap: &Socket, sockets: &[VrrpSocket], limit: Duration) -> io::Result<()> {
    let mut fds = vec![PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
    fds.extend(sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
    // Rounded up, so that nobody spins in the last millisecond.
    let limit = u16::try_from(limit.as_millis() + 1).unwrap_or(u16::MAX);
    match poll(&mut fds, PollTimeout::from(limit)) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The next frame's length, and whether this node sent it.
fn receive(tap: &Socket, frame: &mut [u8]) -> io::Result<Option<(usize, bool)>> {
    match recvfrom::<LinkAddr>(tap.as_raw_fd(), frame) {
        Ok((len, from)) => Ok(Some((len, from.is_some_and(|from| from.pkttype() == OUTGOING)))),
        Err(nix::errno::Errno::EWOULDBLOCK | nix::errno::Errno::EINTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
