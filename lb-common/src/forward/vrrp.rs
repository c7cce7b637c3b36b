//! The stage for VRRP: notes when whose advertisement arrived, so that the controller does not take a peer for dead whose
//! advertisements wait in a socket buffer, or never got there.

use super::{Family, INTERNAL, Step, claim, pass};
use crate::{
    checksum::{self, Sum},
    frame::Frame,
    layout::{AdvertEntry, AdvertKey, MacWord, NodeEntry},
    reason::PassReason,
    segment,
    tables::Tables,
    wire::{
        Be32, Be128, Ethernet, IPV4_FRAGMENT_MASK, IPV4_MIN_LEN, IPV6_LEN, Ipv4, Ipv6, PROTOCOL_VRRP,
        VRRP_AUTH_LEN, VRRP_LEN, Vrrp,
    },
};

const BAD: Step = pass(PassReason::BadVrrp);
/// RFC 9568 §5.1.1.3: anything less has passed a router.
const HOPS: u8 = 255;
/// `Vrrp::version_type` of an advertisement.
const VERSION_2: u8 = 0x21;
const VERSION_3: u8 = 0x31;
/// Words of a message that are summed. Of a longer one the checksum is not known here, and taken for right.
const WORDS_AT_MOST: usize = 64;

/// Where an IP packet's payload is.
pub trait Carried: Family {
    /// Length of the whole header and of the packet, where the header is sound and the packet no fragment.
    fn lengths<F: Frame>(frame: &F, header: &Self::Header, l3: usize) -> Option<(usize, usize)>;
}

impl Carried for Be32 {
    #[inline(always)]
    fn lengths<F: Frame>(frame: &F, header: &Ipv4, l3: usize) -> Option<(usize, usize)> {
        let header_len = usize::from(header.version_ihl & 0x0f) * 4;
        let is_sound = header.version_ihl >> 4 == 4
            && header_len >= IPV4_MIN_LEN
            && header.fragment.get() & IPV4_FRAGMENT_MASK == 0
            && super::parse::header_is_intact(frame, header, l3, header_len);
        is_sound.then_some((header_len, usize::from(header.total_length.get())))
    }
}

impl Carried for Be128 {
    #[inline(always)]
    fn lengths<F: Frame>(_frame: &F, header: &Ipv6, _l3: usize) -> Option<(usize, usize)> {
        let is_sound = header.version_class_flow.get() >> 28 == 6;
        is_sound.then(|| (IPV6_LEN, usize::from(header.payload_length.get()) + IPV6_LEN))
    }
}

/// Looks at an advertisement, whoever it is for. The host gets it in any case.
#[inline(always)]
pub fn vrrp<A: Carried, F: Frame, T: Tables>(frame: &mut F, tables: &T) -> Step {
    let (Some(node), Some(scratch)) = (tables.node(), tables.scratch()) else { return INTERNAL };
    let (l3, _) = segment::offsets(&scratch.read());
    let Some(ethernet) = frame.header::<Ethernet>(0) else { return INTERNAL };
    let mac = MacWord::new(ethernet.src);
    if !is_for_us(node, MacWord::new(ethernet.dst)) {
        return pass(PassReason::OtherHost);
    }
    let Some(ip) = frame.header::<A::Header>(l3) else { return BAD };
    let (source, hops) = (A::source(ip), A::hops(ip));
    let Some((header_len, total_len)) = A::lengths(frame, ip, l3) else { return BAD };
    if hops != HOPS || total_len > frame.len() - l3 || total_len < header_len + VRRP_LEN {
        return BAD;
    }
    scratch.update(|scratch| scratch.l4 = (l3 + header_len) as u32);
    let (l3, l4) = segment::offsets(&scratch.reread());
    let Some(&vrrp) = frame.header::<Vrrp>(l4) else { return BAD };
    let Some(message_len) = message_len::<A>(&vrrp) else { return BAD };
    let payload_len = total_len - header_len;
    if message_len > payload_len || !claim::is_somebodys(mac) || source == A::ZERO {
        return BAD;
    }
    if payload_len <= WORDS_AT_MOST * 4
        && !is_intact::<A, F>(frame, (l3, l4), &vrrp, message_len, payload_len)
    {
        return BAD;
    }
    // Our own ones come back where a switch reflects them; a router that gives up is not up.
    if vrrp.priority != 0 && !node.is_own_mac(mac) {
        tables.remember_advert(
            &AdvertKey::new(source.wide(), vrrp.vrid),
            &AdvertEntry {
                at_ns: tables.monotonic_ns(),
                mac,
                priority: u32::from(vrrp.priority),
                version: u32::from(vrrp.version_type >> 4),
            },
        );
    }
    pass(PassReason::Vrrp)
}

/// To a group or to us: what a switch floods is somebody else's.
#[inline(always)]
fn is_for_us(node: &NodeEntry, destination: MacWord) -> bool {
    let [first, ..] = destination.octets();
    first & 1 != 0 || node.is_own_mac(destination)
}

/// How long an advertisement is by what it says, without what may follow for authentication. `None` if it is none.
#[inline(always)]
fn message_len<A: Carried>(vrrp: &Vrrp) -> Option<usize> {
    let auth_len = match vrrp.version_type {
        VERSION_2 if !A::IS_V6 => VRRP_AUTH_LEN,
        VERSION_3 => 0,
        _ => return None,
    };
    let address_len = if A::IS_V6 { 16 } else { 4 };
    let len = VRRP_LEN + usize::from(vrrp.count) * address_len + auth_len;
    (vrrp.vrid != 0 && vrrp.count != 0).then_some(len)
}

/// Whether the checksum is right in one of the ways that are in use: over the message or all of the payload, with version 3
/// with a pseudo-header or, over IPv4, without.
#[inline(always)]
fn is_intact<A: Carried, F: Frame>(
    frame: &F,
    (l3, l4): (usize, usize),
    vrrp: &Vrrp,
    message_len: usize,
    payload_len: usize,
) -> bool {
    let (mut message, mut payload) = (Sum::ZERO, Sum::ZERO);
    for word in 0..WORDS_AT_MOST {
        let offset = word * 4;
        if offset + 4 > payload_len {
            break;
        }
        let Some(&[value]) = frame.header::<[Be32; 1]>(l4 + offset) else { return false };
        payload = payload.be32(value);
        if offset < message_len {
            message = message.be32(value);
        }
    }
    let Some(ip) = frame.header::<A::Header>(l3) else { return false };
    let (source, destination) = (A::source(ip), A::destination(ip));
    let is_right = |sum: Sum| sum.fold() == 0xffff;
    let with_pseudo = |sum: Sum, len: usize| {
        is_right(sum.plus(checksum::pseudo_header(source, destination, PROTOCOL_VRRP, len as u16)))
    };
    if !A::IS_V6 && is_right(message) {
        return true;
    }
    vrrp.version_type == VERSION_3
        && (with_pseudo(message, message_len) || (payload_len & 3 == 0 && with_pseudo(payload, payload_len)))
}
