//! Frames as they are on the network: advertisements that others (or this node) send, and who has a VIP. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use lb_common::wire::Mac;

use crate::{
    announce::icmpv6_checksum,
    config::model::{Config, Family, VrrpInstance, family_of},
    desired::vips_of,
    reconcile::MacText,
    vrrp::{
        advert::{Advertisement, Dialect, Discard, Envelope, PROTOCOL, Received, Trailer, Vrid},
        auth::{Authenticator, admit},
        router::dialect,
    },
};

const ETHERNET_LEN: usize = 14;
const ARP_LEN: usize = 28;
const IPV6_LEN: usize = 40;
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ARP_REPLY: [u8; 2] = [0, 2];
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Bytes of a solicitation with its one option.
const SOLICITATION_LEN: usize = 32;

/// Seconds from 1 January 1970 modulo 2^32, as a [`Trailer`] has it.
const fn seconds(sequence: u64) -> u32 {
    (sequence >> 32) as u32
}

/// The advertisements of one sender for one VRID.
#[derive(Clone, Debug)]
pub struct Heard {
    /// From whom, to whom.
    pub envelope: Envelope,
    /// The sender's Ethernet address.
    pub mac: Mac,
    /// Whether this node sent it.
    pub outgoing: bool,
    /// What the last one says.
    pub advertisement: Advertisement,
    /// What authenticates it.
    pub trailer: Option<Trailer>,
    /// The message without that.
    pub message: Vec<u8>,
    /// When it came, by this node's clock.
    pub at: SystemTime,
    /// How many came by the interface.
    pub seen: u32,
    /// How many of these came through the packet filter to a socket like the daemon's.
    pub delivered: u32,
}

impl Heard {
    /// Reads a frame. `None` where it carries no advertisement that makes sense.
    pub fn read(frame: &[u8], outgoing: bool, at: SystemTime) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
        let (envelope, message) = match [ethernet[12], ethernet[13]] {
            ETHERTYPE_IPV4 => Envelope::open(packet).ok()?,
            ETHERTYPE_IPV6 => open_v6(packet, PROTOCOL)?,
            _ => return None,
        };
        let received = Advertisement::parse(&envelope, message).ok()?;
        Some(Self {
            envelope,
            mac: ethernet[6..12].try_into().ok()?,
            outgoing,
            advertisement: received.advertisement,
            trailer: received.trailer,
            message: received.message.to_vec(),
            at,
            seen: 1,
            delivered: 0,
        })
    }

    /// Whether both are of the same sender and virtual router.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |heard: &Self| {
            let Advertisement { vrid, dialect, .. } = &heard.advertisement;
            (heard.envelope.source, heard.mac, *vrid, dialect.version(), heard.outgoing)
        };
        key(self) == key(other)
    }

    /// Whether it is of the virtual router of this instance, by number and family.
    pub fn is_of(&self, instance: &VrrpInstance, config: &Config) -> bool {
        let vips: Vec<IpAddr> = vips_of(config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
        let family = Family::of(self.envelope.source);
        self.advertisement.vrid.0 == instance.virtual_router_id && family == family_of(&vips)
    }

    /// Whether a node with this instance would take it for one of its peers', and why not.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, instance: &VrrpInstance, config: &Config) -> Result<(), Discard> {
        if !instance.unicast_peers.is_empty() && !instance.unicast_peers.contains(&self.envelope.source) {
            return Err(Discard::NotAPeer(self.envelope.source));
        }
        let vips: Vec<IpAddr> = vips_of(config, &instance.name).into_iter().map(|(vip, _)| vip).collect();
        let family = family_of(&vips);
        let advertised: Vec<IpAddr> = vips.iter().copied().filter(|vip| Family::of(*vip) == family).collect();
        let vrid = Vrid(instance.virtual_router_id);
        let Ok(local) = dialect(instance) else { return Ok(()) };
        self.advertisement.check(vrid, &local, &advertised)?;
        let version = local.version();
        let mut authenticator = match &instance.auth_hmac {
            Some(settings) => {
                Authenticator::new(settings, family, version, vrid, &instance.unicast_peers).ok()
            }
            None => None,
        };
        let received = Received {
            envelope: self.envelope,
            advertisement: self.advertisement.clone(),
            trailer: self.trailer,
            message: &self.message,
        };
        admit(authenticator.as_mut(), self.at, &received).map(drop)
    }

    /// How many seconds the sender's clock is ahead of this node's, where a signed advertisement tells.
    pub fn clock_ahead(&self) -> Option<i64> {
        let theirs = seconds(self.trailer?.sequence());
        let ours = self.at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
        Some(i64::from(theirs.wrapping_sub(ours as u32).cast_signed()))
    }

    /// `172.16.0.7 (02:00:ac:10:00:07)`
    pub fn sender(&self) -> String {
        format!("{} ({})", self.envelope.source, MacText(self.mac))
    }

    /// The version and interval in words.
    pub fn interval(&self) -> String {
        let interval = self.advertisement.dialect.interval().duration();
        let version = match self.advertisement.dialect {
            Dialect::V2 { .. } => 2,
            Dialect::V3 { .. } => 3,
        };
        format!("version {version}, every {}", humantime::format_duration(interval))
    }
}

/// Who says in this frame that an address is its own: an ARP reply, or a neighbour advertisement.
pub fn owner_of(frame: &[u8]) -> Option<(IpAddr, Mac)> {
    let (ethernet, packet) = frame.split_at_checked(ETHERNET_LEN)?;
    match [ethernet[12], ethernet[13]] {
        ETHERTYPE_ARP => {
            let arp: &[u8; ARP_LEN] = packet.first_chunk()?;
            let sender: [u8; 4] = arp[14..18].try_into().ok()?;
            let is_reply = arp[..6] == [0, 1, 0x08, 0, 6, 4] && arp[6..8] == ARP_REPLY;
            is_reply.then_some((IpAddr::from(sender), arp[8..14].try_into().ok()?))
        }
        ETHERTYPE_IPV6 => {
            let (_, message) = open_v6(packet, ICMPV6)?;
            let target: [u8; 16] = message.get(8..24)?.try_into().ok()?;
            // Without its option (RFC 4861 §4.4 allows that in an answer to one node) the frame's source says it.
            let option = message.get(24..32).filter(|option| option[..2] == [2, 1]);
            let mac = option.map_or(&ethernet[6..12], |option| &option[2..8]);
            (message.first() == Some(&NEIGHBOUR_ADVERTISEMENT))
                .then_some((IpAddr::from(target), mac.try_into().ok()?))
        }
        _ => None,
    }
}

fn open_v6(packet: &[u8], protocol: u8) -> Option<(Envelope, &[u8])> {
    let header: &[u8; IPV6_LEN] = packet.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = header.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    let message = packet.get(IPV6_LEN..IPV6_LEN + len)?;
    let envelope = Envelope { source: address(8)?, destination: address(24)?, hop_limit: header[7] };
    (header[0] >> 4 == 6 && header[6] == protocol).then_some((envelope, message))
}

/// An ARP probe (RFC 5227 §1.1): who has this address? It says nothing about the asker's own address, so that nobody
/// learns anything from it.
pub fn arp_probe(mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET_LEN + ARP_LEN);
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_ARP);
    frame.extend_from_slice(&[0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0; 10]);
    frame.extend_from_slice(&target.octets());
    frame
}

/// A neighbour solicitation (RFC 4861 §4.3) from an address of our own, so that the answer comes to us alone. (One from
/// the unspecified address would make a node that is about to use the address give it up.)
pub fn neighbour_solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = target.octets();
    let mut group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0).octets();
    group[13..].copy_from_slice(&[x, y, z]);
    let mut message = [0; SOLICITATION_LEN];
    message[0] = NEIGHBOUR_SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    // Source link-layer address, one unit of eight octets.
    message[24..26].copy_from_slice(&[1, 1]);
    message[26..].copy_from_slice(&mac);
    let addresses = [source.octets(), group].concat();
    let checksum = icmpv6_checksum(&addresses, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());

    let mut frame = Vec::with_capacity(ETHERNET_LEN + IPV6_LEN + SOLICITATION_LEN);
    frame.extend_from_slice(&[0x33, 0x33, 0xff, x, y, z]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&ETHERTYPE_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0, 0, SOLICITATION_LEN as u8, ICMPV6, 255]);
    frame.extend_from_slice(&addresses);
    frame.extend_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests;
