//! The stage for VRRP: notes when whose advertisement arrived, so that the controller does not take a peer for dead whose
//! advertisements wait in a socket buffer, or never got there.

use super::{Family, INTERNAL, Step, claim, pass};
use crate::{
    checksum::{self, Sum},
    frame::Frame,
    layout::{AdvertEntry, AdvertKey, MacWord, NodeEntry, Scratch},
    reason::PassReason,
    segment,
    tables::{Slot, Tables},
    wire::{
        Be32, Be128, Ethernet, IPV4_FRAGMENT_MASK, Ipv4, Ipv6, PROTOCOL_VRRP, VRRP_AUTH_LEN, VRRP_LEN, Vrrp,
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

/// What has to be known of a packet that carries an advertisement.
pub trait Carried: Family {
    /// Whether it is a sound header, without options, of a whole packet.
    fn is_whole(header: &Self::Header) -> bool;
}

impl Carried for Be32 {
    #[inline(always)]
    fn is_whole(header: &Ipv4) -> bool {
        header.version_ihl == 0x45
            && header.fragment.get() & IPV4_FRAGMENT_MASK == 0
            && checksum::ipv4_header(header).fold() == 0xffff
    }
}

impl Carried for Be128 {
    #[inline(always)]
    fn is_whole(header: &Ipv6) -> bool {
        header.version_class_flow.get() >> 28 == 6
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
    let (source, total_len) = (A::source(ip), A::packet_len(ip));
    if !A::is_whole(ip) || A::hops(ip) != HOPS || total_len > frame.len() - l3 || source == A::ZERO {
        return BAD;
    }
    let Some(&vrrp) = frame.header::<Vrrp>(l3 + A::HEADER_LEN) else { return BAD };
    let Some(message_len) = message_len::<A>(&vrrp) else { return BAD };
    let payload_len = total_len.wrapping_sub(A::HEADER_LEN);
    if total_len < A::HEADER_LEN || message_len > payload_len || !claim::is_somebodys(mac) {
        return BAD;
    }
    // Over IPv4 the checksum does not cover what follows for authentication; over IPv6 the kernel's is over everything.
    let covered = if A::IS_V6 { payload_len } else { message_len };
    if covered <= WORDS_AT_MOST * 4 && !is_intact::<A, F>(frame, scratch, &vrrp, covered) {
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

/// Whether the checksum is right in one of the ways that are in use: with version 3 with a pseudo-header or, over IPv4,
/// without (RFC 9568 §5.2.8).
#[inline(always)]
fn is_intact<A: Carried, F: Frame>(frame: &F, scratch: Slot<Scratch>, vrrp: &Vrrp, covered: usize) -> bool {
    let (l3, _) = segment::offsets(&scratch.reread());
    let mut message = Sum::ZERO;
    for word in 0..WORDS_AT_MOST {
        let offset = word * 4;
        if offset + 4 > covered {
            break;
        }
        let Some(&[value]) = frame.header::<[Be32; 1]>(l3 + A::HEADER_LEN + offset) else { return false };
        message = message.be32(value);
    }
    // What is in no word is in no advertisement of today.
    if covered & 3 != 0 {
        return false;
    }
    if !A::IS_V6 && message.fold() == 0xffff {
        return true;
    }
    let (l3, _) = segment::offsets(&scratch.reread());
    let Some(ip) = frame.header::<A::Header>(l3) else { return false };
    let pseudo = checksum::pseudo_header(A::source(ip), A::destination(ip), PROTOCOL_VRRP, covered as u16);
    vrrp.version_type == VERSION_3 && message.plus(pseudo).fold() == 0xffff
}
