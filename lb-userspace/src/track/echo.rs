//! Echo requests and their answers (RFC 792 page 14, RFC 4443 §4.1 and §4.2). Pure.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     Type      |     Code 0    |           Checksum            |
//! +---------------+---------------+-------------------------------+
//! |          Identifier           |        Sequence Number        |
//! +---------------+---------------+-------------------------------+
//! |                        Token (8 bytes)                        |
//! +---------------------------------------------------------------+
//! ```

use crate::config::model::Family;

/// Length of a request, in bytes.
pub const LENGTH: usize = 16;

const fn request(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 8,
        Family::Ipv6 => 128,
    }
}

const fn reply(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 129,
    }
}

/// What our requests have in common, so that nobody's answer to something else counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// A raw socket for ICMP hands over the IP header, too; one for ICMPv6 the message alone, and it takes care of the
    /// checksum.
    pub family: Family,
    /// Identifier, random for each witness.
    pub identifier: u16,
    /// Random, and sent back as it is.
    pub token: [u8; 8],
}

impl Echo {
    /// The message to send. With ICMPv6 the kernel fills the checksum in.
    pub fn request(&self, sequence: u16) -> [u8; LENGTH] {
        let mut message = [0; LENGTH];
        message[0] = request(self.family);
        message[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        message[6..8].copy_from_slice(&sequence.to_be_bytes());
        message[8..].copy_from_slice(&self.token);
        if self.family == Family::Ipv4 {
            let sum = !sum(&message);
            message[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        message
    }

    /// The sequence number of the request that a received datagram answers; `None` if it answers none of these.
    pub fn answered(&self, datagram: &[u8]) -> Option<u16> {
        let message = match self.family {
            Family::Ipv4 => {
                let length = usize::from(datagram.first()? & 0x0f) * 4;
                datagram.get(length.max(20)..)?
            }
            Family::Ipv6 => datagram,
        };
        let [kind, code, _, _, id_high, id_low, high, low, token @ ..] = message else { return None };
        let ours = *kind == reply(self.family)
            && *code == 0
            && u16::from_be_bytes([*id_high, *id_low]) == self.identifier
            && *token == self.token;
        // The kernel has checked it for ICMPv6; of ICMP a raw socket gets to see what is broken, too.
        let intact = self.family == Family::Ipv6 || sum(message) == u16::MAX;
        (ours && intact).then_some(u16::from_be_bytes([*high, *low]))
    }
}

/// The ones' complement sum (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use etherparse::{IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, PacketBuilder};
    use proptest::prelude::*;

    use super::*;

    const TOKEN: [u8; 8] = *b"xvip\x01\x02\x03\x04";

    fn echo(family: Family) -> Echo {
        Echo { family, identifier: 0xbeef, token: TOKEN }
    }

    /// What a raw socket gets when somebody answers, made by another implementation.
    fn reply4(id: u16, seq: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64)
            .icmpv4_echo_reply(id, seq)
            .write(&mut packet, payload)
            .expect("written");
        packet
    }

    #[test]
    fn a_request_is_what_another_implementation_understands() {
        let message = echo(Family::Ipv4).request(7);
        let slice = Icmpv4Slice::from_slice(&message).expect("ICMP");
        assert_eq!(slice.icmp_type(), Icmpv4Type::EchoRequest(IcmpEchoHeader { id: 0xbeef, seq: 7 }));
        assert_eq!(slice.payload(), TOKEN);
        assert!(slice.header().checksum == slice.icmp_type().calc_checksum(slice.payload()));
    }

    #[test]
    fn only_the_answer_to_our_own_request_counts() {
        let four = echo(Family::Ipv4);
        assert_eq!(four.answered(&reply4(0xbeef, 7, &TOKEN)), Some(7));
        assert_eq!(four.answered(&reply4(0xbeee, 7, &TOKEN)), None, "somebody else's ping");
        assert_eq!(four.answered(&reply4(0xbeef, 7, b"xvip\0\0\0\0")), None, "another token");
        assert_eq!(four.answered(&reply4(0xbeef, 7, &TOKEN[..7])), None, "too short");
        let mut broken = reply4(0xbeef, 7, &TOKEN);
        broken[27] ^= 1;
        assert_eq!(four.answered(&broken), None, "the checksum does not cover another sequence number");
        let mut request = reply4(0xbeef, 7, &TOKEN)[..20].to_vec();
        request.extend(four.request(7));
        assert_eq!(four.answered(&request), None, "a request is no answer");

        let six = echo(Family::Ipv6);
        let mut message = six.request(9);
        assert_eq!(six.answered(&message), None, "a request is no answer");
        message[0] = 129;
        assert_eq!(six.answered(&message), Some(9));
        message[1] = 1;
        assert_eq!(six.answered(&message), None, "another code");
    }

    proptest! {
        #[test]
        fn no_datagram_is_too_strange(datagram in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = echo(Family::Ipv4).answered(&datagram);
            let _ = echo(Family::Ipv6).answered(&datagram);
        }
    }
}
