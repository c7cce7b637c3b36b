//! The Internet checksum: one's complement sums and their incremental update.
//!
//! All sums are over words as the machine loads them ([`Be16::word`]): the one's complement sum commutes with a byte
//! swap (RFC 1071 §2 (B)), so nothing is ever swapped, and the result is right as it is stored.

use crate::{
    family::Address,
    wire::{Be16, Be32, Be128, Icmp, Ipv4, Tcp},
};

/// A one's complement sum in progress, not yet folded. Words of 32 bits are added as they are: folding makes of them what
/// adding their halves would have (RFC 1071 §2 (C)). Holds four billion of them without overflow.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Adds a 16-bit word.
    #[inline(always)]
    pub const fn word(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds a 16-bit field.
    #[inline(always)]
    pub const fn be16(self, field: Be16) -> Self {
        self.word(field.word())
    }

    /// Adds a 32-bit field.
    #[inline(always)]
    pub const fn be32(self, field: Be32) -> Self {
        Self(self.0 + field.word() as u64)
    }

    /// Takes a 16-bit field away: adds its complement (RFC 1624 §3).
    #[inline(always)]
    pub const fn minus_be16(self, field: Be16) -> Self {
        self.word(!field.word())
    }

    /// Takes a 32-bit field away.
    #[inline(always)]
    pub const fn minus_be32(self, field: Be32) -> Self {
        Self(self.0 + !field.word() as u64)
    }

    /// Adds a 128-bit field.
    #[inline(always)]
    pub const fn be128(self, field: Be128) -> Self {
        let [high, low] = field.halves();
        self.half(high).half(low)
    }

    /// Takes a 128-bit field away.
    #[inline(always)]
    pub const fn minus_be128(self, field: Be128) -> Self {
        let [high, low] = field.halves();
        self.half(!high).half(!low)
    }

    #[inline(always)]
    const fn half(self, half: u64) -> Self {
        Self(self.0 + (half & 0xffff_ffff) + (half >> 32))
    }

    /// Adds another sum.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Folded to 16 bits with end-around carry.
    #[inline(always)]
    pub const fn fold(self) -> u16 {
        let words = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let halves = (words & 0xffff) + (words >> 16 & 0xffff) + (words >> 32);
        let once = (halves & 0xffff) + (halves >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    }

    /// Whether what was added, a checksum among it, is as it was sent: whether it folds to 0xffff.
    #[inline(always)]
    pub const fn is_sound(self) -> bool {
        let words = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let halves = (words & 0xffff) + (words >> 16);
        // At most 0x10001 now, and what is above 0xffff folds to 1 or 2.
        (halves & 0xffff) + (halves >> 16) == 0xffff
    }

    /// The checksum of what was added: the complement of the sum.
    #[inline(always)]
    pub const fn checksum(self) -> Be16 {
        Be16::from_word(!self.fold())
    }
}

/// What a rewrite adds to the one's complement sum of a packet. Computed once per flow, applied to each packet.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u16);

impl Delta {
    /// Of no rewrite.
    pub const NONE: Self = Self(0);

    /// From the sum of new fields and complemented old ones.
    #[inline(always)]
    pub const fn new(sum: Sum) -> Self {
        Self(sum.fold())
    }

    /// The checksum after the rewrite: `HC' = ~(~HC + ~m + m')` (RFC 1624 §3, equation 3).
    #[inline(always)]
    pub const fn apply(self, checksum: Be16) -> Be16 {
        Sum::ZERO.word(!checksum.word()).word(self.0).checksum()
    }
}

/// What one hop less adds to the sum of an IPv4 header. The TTL is the first byte of its word, and `~m + m'` is the
/// same for every TTL above 0.
pub const TTL_DECREMENT: Sum = Sum::ZERO.minus_be16(Be16::new(0x0100));

/// The sum over an IPv4 header without its options. A header that arrived intact folds to 0xffff.
#[inline(always)]
pub const fn ipv4_header(ip: &Ipv4) -> Sum {
    // SAFETY: twenty bytes without padding, and any bytes at any address are such words (asserted below). Five loads, where
    // its fields would take eight and the shifts that put them together.
    let [a, b, c, d, e] = unsafe { *core::ptr::from_ref(ip).cast::<[Be32; 5]>() };
    Sum::ZERO.be32(a).be32(b).be32(c).be32(d).be32(e)
}

const _: () = assert!(size_of::<Ipv4>() == size_of::<[Be32; 5]>() && align_of::<[Be32; 5]>() == 1);

/// The sum over the pseudo-header of a segment or message of `length` bytes (RFC 9293 §3.1, RFC 8200 §8.1).
#[inline(always)]
pub fn pseudo_header<A: Address>(source: A, destination: A, protocol: u8, length: u16) -> Sum {
    let addresses = destination.add_to(source.add_to(Sum::ZERO));
    addresses.word(u16::from_ne_bytes([0, protocol])).be16(Be16::new(length))
}

/// The sum over a TCP header without options or payload.
#[inline(always)]
pub const fn tcp_header(tcp: &Tcp) -> Sum {
    Sum::ZERO
        .be16(tcp.src_port)
        .be16(tcp.dst_port)
        .be32(tcp.seq)
        .be32(tcp.ack)
        .word(u16::from_ne_bytes([tcp.data_offset, tcp.flags]))
        .be16(tcp.window)
        .be16(tcp.checksum)
        .be16(tcp.urgent)
}

/// The sum over an ICMP header.
#[inline(always)]
pub const fn icmp_header(icmp: &Icmp) -> Sum {
    Sum::ZERO.word(u16::from_ne_bytes([icmp.kind, icmp.code])).be16(icmp.checksum).be32(icmp.rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_from_rfc_1071_style_examples_sums_to_all_ones() {
        // The header of a well-known worked example: 4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7.
        let ip = Ipv4 {
            version_ihl: 0x45,
            tos: 0,
            total_length: Be16::new(0x73),
            id: Be16::new(0),
            fragment: Be16::new(0x4000),
            ttl: 0x40,
            protocol: 0x11,
            checksum: Be16::new(0xb861),
            src: Be32::new(0xc0a8_0001),
            dst: Be32::new(0xc0a8_00c7),
        };
        assert_eq!(ipv4_header(&ip).fold(), 0xffff);
        assert_eq!(ipv4_header(&Ipv4 { checksum: Be16::new(0), ..ip }).checksum(), ip.checksum);
    }

    #[test]
    fn a_sum_is_sound_where_it_folds_to_all_ones() {
        let folds = |sum: Sum| sum.fold() == 0xffff;
        for sum in
            [0, 1, 0xfffe, 0xffff, 0x1_0000, 0x1_fffe, 0x1_ffff, 0xffff_fffe, 0xffff_ffff, 0x1_0000_0000]
        {
            for high in [0, 1, 2, 0xffff, 0x1_0000, 0xffff_fffe, 0xffff_ffff] {
                let sum = Sum((high << 32) | (sum & 0xffff_ffff));
                assert_eq!(sum.is_sound(), folds(sum), "{sum:?}");
            }
        }
        for n in 0..100_000 {
            let sum = Sum(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n) >> 20);
            assert_eq!(sum.is_sound(), folds(sum), "{sum:?}");
        }
    }

    #[test]
    fn the_update_agrees_with_a_full_sum_for_every_ttl() {
        for ttl in 1..=255u8 {
            let mut ip =
                Ipv4 { version_ihl: 0x45, ttl, protocol: 6, src: Be32::new(0x0102_0304), ..Ipv4::default() };
            ip.checksum = ipv4_header(&ip).checksum();
            let updated = Delta::new(TTL_DECREMENT).apply(ip.checksum);
            let full = ipv4_header(&Ipv4 { ttl: ttl - 1, checksum: Be16::new(0), ..ip }).checksum();
            assert_eq!(updated, full, "ttl {ttl}");
        }
    }

    #[test]
    fn rfc_1624_section_4_the_sum_that_the_older_equation_got_wrong() {
        // Header sum 0xcd7a, m = 0x5555 -> m' = 0x3285: the checksum is 0x0000, never 0xffff.
        let delta = Delta::new(Sum::default().minus_be16(Be16::new(0x5555)).be16(Be16::new(0x3285)));
        assert_eq!(delta.apply(Be16::new(0xdd2f)), Be16::new(0x0000));
    }
}
