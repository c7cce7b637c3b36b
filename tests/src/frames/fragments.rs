//! A packet in fragments (RFC 791 §3.2, RFC 8200 §4.5).

use etherparse::{IpFragOffset, IpNumber};

use super::{Datagram, Ip};

/// The identification of the fragments below.
pub const FRAGMENT_ID: u16 = 0x4711;

/// The frame's packet in fragments that begin at 0 and at these offsets, in bytes. All IPv6 extension headers that it has
/// are in each fragment.
///
/// # Panics
///
/// Where the frame holds no IP packet, or an offset is no multiple of eight.
pub fn fragments(frame: &[u8], offsets: &[usize]) -> Vec<Vec<u8>> {
    fragments_behind(frame, offsets, usize::MAX)
}

/// The same, with only so many IPv6 extension headers in each fragment; the others are fragmented.
///
/// # Panics
///
/// See [`fragments`].
pub fn fragments_behind(frame: &[u8], offsets: &[usize], extensions: usize) -> Vec<Vec<u8>> {
    let whole = Datagram::read(frame).expect("an IP packet");
    let (each, next) = unfragmentable(&whole, extensions);
    let parts = &whole.payload[each.len()..];
    let begins = [0].into_iter().chain(offsets.iter().copied());
    let ends = offsets.iter().copied().chain([parts.len()]);
    begins
        .zip(ends)
        .map(|(begin, end)| {
            assert!(begin % 8 == 0 && (end % 8 == 0 || end == parts.len()), "{begin}..{end}");
            let more = end < parts.len();
            let mut fragment = Datagram { padding: vec![], ..whole.clone() };
            match &mut fragment.ip {
                Ip::V4(ip) => {
                    ip.identification = FRAGMENT_ID;
                    ip.dont_fragment = false;
                    ip.more_fragments = more;
                    ip.fragment_offset = IpFragOffset::try_new((begin / 8) as u16).expect("thirteen bits");
                    fragment.payload = parts[begin..end].to_vec();
                }
                Ip::V6(ip) => {
                    let bits = begin as u16 | u16::from(more);
                    let mut header = vec![next, 0];
                    header.extend(bits.to_be_bytes());
                    header.extend(u32::from(FRAGMENT_ID).to_be_bytes());
                    let mut each = each.clone();
                    match last_next_header(&each) {
                        Some(at) => each[at] = 44,
                        None => ip.next_header = IpNumber(44),
                    }
                    fragment.payload = [each, header, parts[begin..end].to_vec()].concat();
                }
            }
            fragment.ip.set_payload_len(fragment.payload.len());
            fragment.bytes()
        })
        .collect()
}

/// The first few extension headers, and what follows them.
fn unfragmentable(whole: &Datagram, extensions: usize) -> (Vec<u8>, u8) {
    let mut next = whole.ip.protocol().0;
    let mut end = 0;
    if matches!(whole.ip, Ip::V6(_)) {
        for _ in 0..extensions {
            if !matches!(next, 0 | 43 | 60) {
                break;
            }
            next = whole.payload[end];
            end += 8 + usize::from(whole.payload[end + 1]) * 8;
        }
    }
    (whole.payload[..end].to_vec(), next)
}

/// Where the last of these extension headers says what follows it.
fn last_next_header(extensions: &[u8]) -> Option<usize> {
    let mut at = None;
    let mut offset = 0;
    while offset < extensions.len() {
        at = Some(offset);
        offset += 8 + usize::from(extensions[offset + 1]) * 8;
    }
    at
}
