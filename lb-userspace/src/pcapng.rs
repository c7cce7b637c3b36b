//! The file format of `xvip capture`: pcapng (draft-ietf-opsawg-pcapng), as much of it as is needed. Pure.
//!
//! One section; an interface description before an interface's first packet; enhanced packet blocks. Everything in the
//! machine's own byte order, which the section header tells.

/// Nanoseconds (`if_tsresol`).
const RESOLUTION: u8 = 9;
const LINKTYPE_ETHERNET: u16 = 1;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const ENHANCED_PACKET: u32 = 6;

const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USER_APPLICATION: u16 = 4;
const IF_NAME: u16 = 2;
const IF_TSRESOL: u16 = 9;
const EPB_FLAGS: u16 = 2;
const EPB_PACKET_ID: u16 = 5;
const EPB_VERDICT: u16 = 7;
/// The kind of verdict in [`EPB_VERDICT`]: what an XDP program returned, in eight bytes.
const VERDICT_XDP: u8 = 2;

/// Which way a packet went; the number is that of `epb_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came in.
    Inbound = 1,
    /// It went out.
    Outbound = 2,
}

/// A packet to be written.
#[derive(Clone, Copy, Debug)]
pub struct CapturedPacket<'a> {
    /// Number of the interface: that of its [`interface`] block, from zero.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// What was kept of it.
    pub bytes: &'a [u8],
    /// How long it was.
    pub length: u32,
    /// Which way it went.
    pub direction: Direction,
    /// The same for all that is the same packet.
    pub id: u64,
    /// What the XDP program returned.
    pub action: u32,
    /// What a reader shows beside it.
    pub comment: &'a str,
}

/// What a file begins with. `application` is what wrote it.
pub fn section(application: &str) -> Vec<u8> {
    let mut body = 0x1a2b_3c4d_u32.to_ne_bytes().to_vec();
    body.extend(1_u16.to_ne_bytes());
    body.extend(0_u16.to_ne_bytes());
    // The length of the section is not known.
    body.extend((-1_i64).to_ne_bytes());
    option(&mut body, SHB_USER_APPLICATION, application.as_bytes());
    option(&mut body, OPT_END, &[]);
    block(SECTION_HEADER, &body)
}

/// Describes the next interface. At most `snap_len` bytes are kept of its packets.
pub fn interface(name: &str, snap_len: u32) -> Vec<u8> {
    let mut body = LINKTYPE_ETHERNET.to_ne_bytes().to_vec();
    body.extend(0_u16.to_ne_bytes());
    body.extend(snap_len.to_ne_bytes());
    option(&mut body, IF_NAME, name.as_bytes());
    option(&mut body, IF_TSRESOL, &[RESOLUTION]);
    option(&mut body, OPT_END, &[]);
    block(INTERFACE_DESCRIPTION, &body)
}

/// A packet.
pub fn packet(packet: &CapturedPacket<'_>) -> Vec<u8> {
    let mut body = packet.interface.to_ne_bytes().to_vec();
    body.extend(((packet.at_ns >> 32) as u32).to_ne_bytes());
    body.extend((packet.at_ns as u32).to_ne_bytes());
    body.extend((packet.bytes.len() as u32).to_ne_bytes());
    body.extend(packet.length.to_ne_bytes());
    padded(&mut body, packet.bytes);
    option(&mut body, OPT_COMMENT, packet.comment.as_bytes());
    option(&mut body, EPB_FLAGS, &(packet.direction as u32).to_ne_bytes());
    option(&mut body, EPB_PACKET_ID, &packet.id.to_ne_bytes());
    let mut verdict = vec![VERDICT_XDP];
    verdict.extend(u64::from(packet.action).to_ne_bytes());
    option(&mut body, EPB_VERDICT, &verdict);
    option(&mut body, OPT_END, &[]);
    block(ENHANCED_PACKET, &body)
}

/// A block with its length in front and behind. The body is padded already.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_ne_bytes();
    [&kind.to_ne_bytes()[..], &length, body, &length].concat()
}

/// An option; what is too long for its length field is cut.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.extend(code.to_ne_bytes());
    body.extend((value.len() as u16).to_ne_bytes());
    padded(body, value);
}

fn padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.extend(bytes);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_as_long_as_it_says_at_both_ends() {
        let frame = [7; 61];
        let blocks = [
            section("xvip 0.1.0"),
            interface("eth0", 2048),
            packet(&CapturedPacket {
                interface: 0,
                at_ns: 1 << 33 | 5,
                bytes: &frame,
                length: 1500,
                direction: Direction::Outbound,
                id: 9,
                action: 3,
                comment: "drop: bad-ip-checksum",
            }),
        ];
        for block in &blocks {
            let word = |at: usize| u32::from_ne_bytes(block[at..at + 4].try_into().expect("four bytes"));
            assert!(block.len().is_multiple_of(4));
            assert_eq!(word(4) as usize, block.len());
            assert_eq!(word(block.len() - 4) as usize, block.len());
        }
        // Time in two words, high one first; kept and real length; then the frame, padded to 64 bytes.
        let words: Vec<u32> = blocks[2]
            .chunks(4)
            .take(7)
            .map(|word| u32::from_ne_bytes(word.try_into().expect("four")))
            .collect();
        assert_eq!(&words[2..], [0, 2, 5, 61, 1500]);
        assert_eq!(&blocks[2][28..92], [&frame[..], &[0; 3]].concat());
        assert_eq!(blocks[2][92..96], [&1_u16.to_ne_bytes()[..], &21_u16.to_ne_bytes()].concat());
    }
}
