//! Whole Ethernet frames around an advertisement, for the source address that no interface has: the virtual MAC.

use std::net::IpAddr;

use super::advert::{HOP_LIMIT, LONGEST_MESSAGE, PROTOCOL, fold, ones_complement_sum};

#[cfg(test)]
mod tests;

/// Internetwork control (RFC 791), as keepalived marks its advertisements: TOS, or traffic class.
pub const TOS: u8 = 0xc0;

/// Bytes of the longest frame.
pub const LONGEST: usize = ETHERNET_LEN + IPV6_LEN + LONGEST_MESSAGE;

const ETHERNET_LEN: usize = 14;
/// Without options.
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;

/// Writes the frame that carries `message` from `mac` and `source` to `group` to the start of `buffer`, and says how long
/// it is. `None` if it does not fit or the addresses are not of one family.
pub fn multicast(
    mac: [u8; 6],
    source: IpAddr,
    group: IpAddr,
    message: &[u8],
    buffer: &mut [u8; LONGEST],
) -> Option<usize> {
    let header_len = match source {
        IpAddr::V4(_) => IPV4_LEN,
        IpAddr::V6(_) => IPV6_LEN,
    };
    let len = ETHERNET_LEN + header_len + message.len();
    let (ethernet, packet) = buffer.get_mut(..len)?.split_at_mut(ETHERNET_LEN);
    let (header, body) = packet.split_at_mut(header_len);
    body.copy_from_slice(message);
    ethernet[6..12].copy_from_slice(&mac);
    match (source, group) {
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            let [_, b, c, d] = group.octets();
            // 23 bits of the group (RFC 1112 §6.4).
            ethernet[..6].copy_from_slice(&[0x01, 0x00, 0x5e, b & 0x7f, c, d]);
            ethernet[12..].copy_from_slice(&[0x08, 0x00]);
            let total_len = u16::try_from(header_len + message.len()).ok()?;
            header.fill(0);
            header[0] = 0x45;
            header[1] = TOS;
            header[2..4].copy_from_slice(&total_len.to_be_bytes());
            // "Do not fragment": then the identification may be anything (RFC 6864 §4.1).
            header[6] = 0x40;
            header[8] = HOP_LIMIT;
            header[9] = PROTOCOL;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&group.octets());
            let checksum = !fold(ones_complement_sum(header));
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            // The last 32 bits of the group (RFC 2464 §7).
            ethernet[..2].copy_from_slice(&[0x33, 0x33]);
            ethernet[2..6].copy_from_slice(&group.octets()[12..]);
            ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
            let payload_len = u16::try_from(message.len()).ok()?;
            header[..4].copy_from_slice(&(6 << 28 | u32::from(TOS) << 20).to_be_bytes());
            header[4..6].copy_from_slice(&payload_len.to_be_bytes());
            header[6] = PROTOCOL;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&group.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    Some(len)
}
