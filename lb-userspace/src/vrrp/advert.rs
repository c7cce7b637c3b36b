//! VRRP advertisements: bytes to meaning and back, for version 3 (RFC 9568) and version 2 (RFC 3768, with the simple
//! password of RFC 2338 as keepalived still speaks it), over IPv4, and version 3 over IPv6.
//!
//! Parsing checks everything that the bytes alone can be wrong about; [`Advertisement::check`] then compares the result
//! with the virtual router it is meant for. Both say why they refuse, and the driver counts the reasons.
//!
//! Over IPv6 the addresses are wider, the checksum always covers a pseudo-header, and the socket says what the IP header
//! held. A message may be followed by a [`Trailer`], which `auth.rs` writes and verifies.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::{NonZeroU8, NonZeroU16},
    time::Duration,
};

use crate::config::model::{Family, VrrpChecksum};

#[cfg(test)]
mod tests;

/// IP protocol number of VRRP (RFC 9568 §5.1.1.4).
pub const PROTOCOL: u8 = 112;
/// The TTL or hop limit that advertisements are sent with and must arrive with: it proves that no router forwarded them
/// (RFC 9568 §5.1.1.3, §5.1.2.3).
pub const HOP_LIMIT: u8 = 255;
/// What keepalived sends unicast over IPv6 with, where it is not told `unicast_ttl 255`: the kernel's own hop limit. It is
/// accepted for those only. An honest router would have made it less; against a forger only `auth_hmac` helps.
const UNICAST_V6_HOP_LIMIT: u8 = 64;
/// Where advertisements over IPv4 go without unicast peers (RFC 9568 §5.1.1.2).
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
/// Where advertisements over IPv6 go without unicast peers (RFC 9568 §5.1.2.2).
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
/// Bytes of the longest message: 255 IPv6 addresses, or fewer bytes in version 2, and a trailer.
pub const LONGEST_MESSAGE: usize = HEADER_LEN + 255 * 16 + Trailer::LEN;

/// `Type` of an advertisement, the only one there is (RFC 9568 §5.2.2).
const ADVERTISEMENT: u8 = 1;
/// Bytes before the addresses, in both versions.
const HEADER_LEN: usize = 8;
/// Bytes of authentication data that close every version 2 message (RFC 3768 §5.3.10).
const AUTH_LEN: usize = 8;
/// `Auth Type` 0 and 1 (RFC 2338 §5.3.6).
const AUTH_NONE: u8 = 0;
const AUTH_SIMPLE: u8 = 1;

/// Offsets in the message.
pub(super) mod field {
    use std::ops::Range;

    pub const VERSION_TYPE: usize = 0;
    pub const VRID: usize = 1;
    pub const PRIORITY: usize = 2;
    pub const COUNT: usize = 3;
    /// Version 3: four reserved bits, then the interval in centiseconds.
    pub const MAX_ADVERTISE_INTERVAL: Range<usize> = 4..6;
    /// Version 2.
    pub const AUTH_TYPE: usize = 4;
    /// Version 2: seconds.
    pub const ADVERTISEMENT_INTERVAL: usize = 5;
    pub const CHECKSUM: Range<usize> = 6..8;
}

/// Where advertisements of a family go without unicast peers.
pub const fn group(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(GROUP_V4),
        Family::Ipv6 => IpAddr::V6(GROUP_V6),
    }
}

/// Bytes of one address.
const fn address_len(family: Family) -> usize {
    match family {
        Family::Ipv4 => 4,
        Family::Ipv6 => 16,
    }
}

/// Virtual router identifier, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vrid(pub NonZeroU8);

impl fmt::Display for Vrid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Priority: the higher one is Active. 0 releases, 255 owns the addresses (RFC 9568 §5.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(pub u8);

impl Priority {
    /// The Active router stops: a Backup takes over without waiting for its down timer.
    pub const RELEASE: Self = Self(0);
    /// The least that still takes part.
    pub const LOWEST: Self = Self(1);
    /// The router whose own addresses the virtual ones are.
    pub const OWNER: Self = Self(255);
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A version 3 interval: 1 to 4095 hundredths of a second, the 12 bits on the wire (RFC 9568 §5.2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Centiseconds(NonZeroU16);

impl Centiseconds {
    /// The longest interval that fits: 40.95 s.
    pub const MAX: u16 = 0x0fff;

    /// `None` for 0 and for more than 12 bits.
    pub const fn new(centiseconds: u16) -> Option<Self> {
        match NonZeroU16::new(centiseconds) {
            Some(value) if centiseconds <= Self::MAX => Some(Self(value)),
            Some(_) | None => None,
        }
    }

    /// `None` unless the duration is 10 ms to 40.95 s in whole steps of 10 ms.
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let micros = duration.as_micros();
        let exact = duration.subsec_nanos().is_multiple_of(10_000_000);
        exact.then(|| u16::try_from(micros / 10_000).ok().and_then(Self::new)).flatten()
    }

    /// Hundredths of a second.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// A version 2 interval: 1 to 255 whole seconds (RFC 3768 §5.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(NonZeroU8);

impl Seconds {
    /// `None` for 0.
    pub fn new(seconds: u8) -> Option<Self> {
        NonZeroU8::new(seconds).map(Self)
    }

    /// `None` unless the duration is 1 to 255 whole seconds.
    pub fn from_duration(duration: Duration) -> Option<Self> {
        let whole = duration.subsec_nanos() == 0;
        whole.then(|| u8::try_from(duration.as_secs()).ok().and_then(Self::new)).flatten()
    }

    /// Seconds.
    pub const fn get(self) -> u8 {
        self.0.get()
    }
}

/// An advertisement interval in the unit of its version. The unit decides the skew formula, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interval {
    /// Version 2.
    V2(Seconds),
    /// Version 3.
    V3(Centiseconds),
}

impl Interval {
    /// The interval as a time span.
    pub fn duration(self) -> Duration {
        match self {
            Self::V2(seconds) => Duration::from_secs(seconds.get().into()),
            Self::V3(centiseconds) => Duration::from_millis(u64::from(centiseconds.get()) * 10),
        }
    }
}

/// The simple password of version 2: 1 to 8 bytes, padded with zeros. Not a secret on the wire; still not for logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Password([u8; AUTH_LEN]);

impl Password {
    /// `None` if the text is empty or longer than 8 bytes.
    pub fn new(text: &str) -> Option<Self> {
        let mut padded = [0; AUTH_LEN];
        padded.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        (!text.is_empty()).then_some(Self(padded))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Version 2 authentication. Every later RFC removed it; keepalived did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// Type 0.
    None,
    /// Type 1: a password in clear text.
    Simple(Password),
}

/// A protocol version with what only that version says. Of a configured router: what it speaks. Of a received
/// advertisement: what it was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// RFC 3768 and RFC 2338.
    V2 {
        /// `Adver Int`; every router of a VRID must have the same.
        interval: Seconds,
        /// `Auth Type` and `Authentication Data`.
        auth: Auth,
    },
    /// RFC 9568.
    V3 {
        /// `Max Advertise Interval` of the sender; Backups adopt it.
        interval: Centiseconds,
        /// What the checksum covers over IPv4. Over IPv6 it always covers the pseudo-header, whatever this says.
        checksum: VrrpChecksum,
    },
}

impl Dialect {
    /// The version number on the wire.
    pub const fn version(&self) -> u8 {
        match self {
            Self::V2 { .. } => 2,
            Self::V3 { .. } => 3,
        }
    }

    /// The advertisement interval.
    pub const fn interval(&self) -> Interval {
        match self {
            Self::V2 { interval, .. } => Interval::V2(*interval),
            Self::V3 { interval, .. } => Interval::V3(*interval),
        }
    }
}

/// What the IP header says about an advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Primary address of the sender.
    pub source: IpAddr,
    /// The group or, with unicast peers, the receiver. Of the same family as the source.
    pub destination: IpAddr,
    /// TTL or hop limit as it arrived.
    pub hop_limit: u8,
}

impl Envelope {
    /// Splits an IPv4 packet, as a raw socket delivers it, into header fields and message. Options are skipped; bytes
    /// after the total length (padding of short Ethernet frames) are cut off.
    ///
    /// A raw IPv6 socket delivers the message alone, and the rest beside it.
    pub fn open(packet: &[u8]) -> Result<(Self, &[u8]), Discard> {
        let header: &[u8; 20] = packet.first_chunk().ok_or(Discard::IpHeader)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[0] >> 4 != 4 || header_len < header.len() || header[9] != PROTOCOL {
            return Err(Discard::IpHeader);
        }
        let message = packet.get(header_len..total_len).ok_or(Discard::IpHeader)?;
        let envelope = Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            hop_limit: header[8],
        };
        Ok((envelope, message))
    }

    /// What the hop limit says about that.
    fn is_from_this_link(&self) -> bool {
        let unicast_v6 = self.destination.is_ipv6() && !self.destination.is_multicast();
        self.hop_limit == HOP_LIMIT || (unicast_v6 && self.hop_limit == UNICAST_V6_HOP_LIMIT)
    }
}

/// What authenticates a message and follows it (draft-cassen-vrrp-auth-hmac), as it is on the wire.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   Ext Type    |    Key ID     |           Reserved            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Sequence: seconds since 1970                 |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Sequence: 2^-16 seconds      |  Sequence: counter            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       HMAC (16 bytes) ...                     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer(pub [u8; Trailer::LEN]);

impl Trailer {
    /// Bytes of it.
    pub const LEN: usize = 28;
    /// Bytes of the truncated HMAC at its end.
    pub const HMAC_LEN: usize = 16;
    /// Bytes before the HMAC, which the HMAC covers.
    pub const PREFIX_LEN: usize = Self::LEN - Self::HMAC_LEN;

    /// `Ext Type`: the scheme.
    pub const fn ext_type(&self) -> u8 {
        self.0[0]
    }

    /// Which key it was made with.
    pub const fn key_id(&self) -> u8 {
        self.0[1]
    }

    /// Must be 0.
    pub const fn reserved(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The whole sequence number; its high 32 bits are the sender's seconds since 1970 modulo 2^32.
    pub fn sequence(&self) -> u64 {
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&self.0[4..Self::PREFIX_LEN]);
        u64::from_be_bytes(sequence)
    }

    /// What the HMAC covers of the trailer itself.
    pub fn prefix(&self) -> &[u8] {
        &self.0[..Self::PREFIX_LEN]
    }

    /// The HMAC.
    pub fn hmac(&self) -> &[u8] {
        &self.0[Self::PREFIX_LEN..]
    }
}

/// An advertisement as it arrived. Its authenticity is still to be judged by [`auth::admit`](super::auth::admit).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    /// From whom, to whom.
    pub envelope: Envelope,
    /// What it says.
    pub advertisement: Advertisement,
    /// What follows the message.
    pub trailer: Option<Trailer>,
    /// The message without the trailer.
    pub message: &'a [u8],
}

/// An advertisement.
///
/// Version 3 (RFC 9568 §5.2):
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Version| Type  | Virtual Rtr ID|   Priority    |IPvX Addr Count|
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |Reserve| Max Advertise Interval|          Checksum             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       IPvX Address(es) ...                    |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
///
/// Version 2 (RFC 3768 §5.1) has another second word, and authentication data at the end:
///
/// ```text
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   Auth Type   |   Adver Int   |          Checksum             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                       IP Address(es) ...                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                  Authentication Data (8 bytes)                |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The virtual router it is about.
    pub vrid: Vrid,
    /// The sender's priority, or 0 when it leaves.
    pub priority: Priority,
    /// Version, interval, and how it is protected.
    pub dialect: Dialect,
    /// The virtual addresses, 1 to 255, all of one family, in the sender's order.
    pub addresses: Vec<IpAddr>,
}

impl Advertisement {
    /// Length of the message in bytes, without an IP header and without a trailer.
    pub fn message_len(&self) -> usize {
        let family = self.addresses.first().map_or(Family::Ipv4, |address| Family::of(*address));
        message_len(self.dialect.version(), family, self.addresses.len())
    }

    /// Writes the whole message, checksum included, and `trailer` behind it to the start of `buffer`, and says how long
    /// that is. The envelope matters to the checksum of version 3 only.
    ///
    /// Over IPv4 the checksum does not cover the trailer, over IPv6 it does: the kernel computes and verifies it for
    /// keepalived there, over all that follows the IP header.
    ///
    /// # Errors
    /// [`EncodeError`] if there are no addresses or more than 255, if they or the envelope are not of one family, if
    /// version 2 is to go over IPv6, or if the buffer is too short.
    pub fn emit(
        &self,
        source: IpAddr,
        destination: IpAddr,
        trailer: Option<&Trailer>,
        buffer: &mut [u8],
    ) -> Result<usize, EncodeError> {
        let family = Family::of(source);
        let count = u8::try_from(self.addresses.len()).ok().filter(|count| *count > 0);
        let count = count.ok_or(EncodeError::AddressCount(self.addresses.len()))?;
        let alien = (self.addresses.iter()).chain([&destination]).any(|other| Family::of(*other) != family);
        if alien || (family == Family::Ipv6 && self.dialect.version() == 2) {
            return Err(EncodeError::Family(family));
        }
        let message_len = message_len(self.dialect.version(), family, self.addresses.len());
        let needed = message_len + trailer.map_or(0, |_| Trailer::LEN);
        let whole = buffer.get_mut(..needed).ok_or(EncodeError::BufferTooShort { needed })?;
        let (message, behind) = whole.split_at_mut(message_len);
        if let Some(trailer) = trailer {
            behind.copy_from_slice(&trailer.0);
        }
        message[field::VERSION_TYPE] = self.dialect.version() << 4 | ADVERTISEMENT;
        message[field::VRID] = self.vrid.0.get();
        message[field::PRIORITY] = self.priority.0;
        message[field::COUNT] = count;
        message[field::CHECKSUM].fill(0);
        let addresses_end = HEADER_LEN + self.addresses.len() * address_len(family);
        let slots = message[HEADER_LEN..addresses_end].chunks_exact_mut(address_len(family));
        for (slot, address) in slots.zip(&self.addresses) {
            match address {
                IpAddr::V4(address) => slot.copy_from_slice(&address.octets()),
                IpAddr::V6(address) => slot.copy_from_slice(&address.octets()),
            }
        }
        let sum = match self.dialect {
            Dialect::V2 { interval, auth } => {
                let (auth_type, data) = match auth {
                    Auth::None => (AUTH_NONE, [0; AUTH_LEN]),
                    Auth::Simple(Password(data)) => (AUTH_SIMPLE, data),
                };
                message[field::AUTH_TYPE] = auth_type;
                message[field::ADVERTISEMENT_INTERVAL] = interval.get();
                message[addresses_end..].copy_from_slice(&data);
                0
            }
            Dialect::V3 { interval, checksum } => {
                message[field::MAX_ADVERTISE_INTERVAL].copy_from_slice(&interval.get().to_be_bytes());
                match (family, checksum) {
                    (Family::Ipv6, _) => {
                        pseudo_header(source, destination, needed) + ones_complement_sum(behind)
                    }
                    (Family::Ipv4, VrrpChecksum::Keepalived) => {
                        pseudo_header(source, destination, message_len)
                    }
                    (Family::Ipv4, VrrpChecksum::Rfc9568) => 0,
                }
            }
        };
        let checksum = !fold(sum + ones_complement_sum(message));
        message[field::CHECKSUM].copy_from_slice(&checksum.to_be_bytes());
        Ok(needed)
    }

    /// Reads a message, with or without a [`Trailer`], that arrived in `envelope`. A trailer is known by the length.
    ///
    /// Version 3 over IPv4 is accepted with either checksum: RFC 9568 §5.2.8 sums the message alone, RFC 5798 was read
    /// by keepalived and others as including a pseudo-header. Which one it was is in the result's
    /// [`dialect`](Self::dialect). Over IPv6 there is only the one with a pseudo-header.
    ///
    /// # Errors
    /// The first of the checks of RFC 9568 §7.1 that fails.
    pub fn parse<'a>(envelope: &Envelope, message: &'a [u8]) -> Result<Received<'a>, Discard> {
        if !envelope.is_from_this_link() {
            return Err(Discard::Ttl(envelope.hop_limit));
        }
        let family = Family::of(envelope.source);
        let whole = message;
        let header: &[u8; HEADER_LEN] = whole.first_chunk().ok_or(Discard::Length)?;
        let version = header[field::VERSION_TYPE] >> 4;
        if !matches!((version, family), (2, Family::Ipv4) | (3, _)) {
            return Err(Discard::Version(version));
        }
        let kind = header[field::VERSION_TYPE] & 0x0f;
        if kind != ADVERTISEMENT {
            return Err(Discard::Type(kind));
        }
        let count = usize::from(header[field::COUNT]);
        if count == 0 {
            return Err(Discard::NoAddresses);
        }
        let (message, behind) =
            whole.split_at_checked(message_len(version, family, count)).ok_or(Discard::Length)?;
        let trailer = match behind {
            [] => None,
            _ => Some(Trailer(behind.try_into().map_err(|_| Discard::Length)?)),
        };
        let plain = ones_complement_sum(message);
        let (addresses, data) = message[HEADER_LEN..].split_at(count * address_len(family));
        let dialect = if version == 2 {
            if fold(plain) != 0xffff {
                return Err(Discard::Checksum);
            }
            let auth = match header[field::AUTH_TYPE] {
                AUTH_NONE => Auth::None,
                AUTH_SIMPLE => {
                    let mut password = [0; AUTH_LEN];
                    password.copy_from_slice(data);
                    Auth::Simple(Password(password))
                }
                other => return Err(Discard::AuthType(other)),
            };
            let interval =
                Seconds::new(header[field::ADVERTISEMENT_INTERVAL]).ok_or(Discard::ZeroInterval)?;
            Dialect::V2 { interval, auth }
        } else {
            let (covered, sum) = match family {
                Family::Ipv4 => (message.len(), plain),
                Family::Ipv6 => (whole.len(), plain + ones_complement_sum(behind)),
            };
            let with_pseudo_header = sum + pseudo_header(envelope.source, envelope.destination, covered);
            let checksum = if fold(with_pseudo_header) == 0xffff {
                VrrpChecksum::Keepalived
            } else if family == Family::Ipv4 && fold(plain) == 0xffff {
                VrrpChecksum::Rfc9568
            } else {
                return Err(Discard::Checksum);
            };
            // The four reserved bits are ignored (RFC 9568 §5.2.6).
            let interval = u16::from_be_bytes([header[4], header[5]]) & Centiseconds::MAX;
            Dialect::V3 { interval: Centiseconds::new(interval).ok_or(Discard::ZeroInterval)?, checksum }
        };
        let addresses = match family {
            Family::Ipv4 => addresses.as_chunks().0.iter().map(|octets: &[u8; 4]| (*octets).into()).collect(),
            Family::Ipv6 => {
                addresses.as_chunks().0.iter().map(|octets: &[u8; 16]| (*octets).into()).collect()
            }
        };
        let advertisement = Self {
            vrid: Vrid(NonZeroU8::new(header[field::VRID]).ok_or(Discard::ZeroVrid)?),
            priority: Priority(header[field::PRIORITY]),
            dialect,
            addresses,
        };
        Ok(Received { envelope: *envelope, advertisement, trailer, message })
    }

    /// Whether the advertisement is for the virtual router `vrid` that speaks `local` and has `addresses`.
    ///
    /// The addresses are compared by [`lists_same_addresses`](Self::lists_same_addresses), too, and a mere difference is
    /// not a reason to discard: while a list is being changed on one node after the other, two nodes that ignore each
    /// other would both become Active. Without one in common it is a router of another cluster.
    ///
    /// # Errors
    /// Another VRID, another version, another password, (version 2 only, RFC 3768 §7.1) another interval, or none of
    /// our addresses.
    pub fn check(&self, vrid: Vrid, local: &Dialect, addresses: &[IpAddr]) -> Result<(), Discard> {
        if self.vrid != vrid {
            return Err(Discard::OtherVrid(self.vrid));
        }
        match (&self.dialect, local) {
            (Dialect::V3 { .. }, Dialect::V3 { .. }) => self.check_addresses(addresses),
            (Dialect::V2 { interval, auth }, Dialect::V2 { interval: local_interval, auth: local_auth }) => {
                if auth != local_auth {
                    Err(Discard::Auth)
                } else if interval != local_interval {
                    Err(Discard::Interval(*interval))
                } else {
                    self.check_addresses(addresses)
                }
            }
            (Dialect::V2 { .. }, Dialect::V3 { .. }) | (Dialect::V3 { .. }, Dialect::V2 { .. }) => {
                Err(Discard::Version(self.dialect.version()))
            }
        }
    }

    /// Whether the advertisement lists exactly `addresses`, in any order.
    pub fn lists_same_addresses(&self, addresses: &[IpAddr]) -> bool {
        self.addresses.len() == addresses.len()
            && addresses.iter().all(|address| self.addresses.contains(address))
    }

    fn check_addresses(&self, addresses: &[IpAddr]) -> Result<(), Discard> {
        let shared = self.addresses.iter().any(|address| addresses.contains(address));
        if shared { Ok(()) } else { Err(Discard::ForeignVips) }
    }
}

/// Why a received packet was not used. The driver counts them by [`name`](Self::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Discard {
    /// The packet is not a whole IPv4 packet of protocol 112.
    #[error("malformed IPv4 header")]
    IpHeader,
    /// Not from this link.
    #[error("TTL or hop limit {0} instead of 255")]
    Ttl(u8),
    /// Neither as long as its own address count says nor longer by just a trailer.
    #[error("the length does not fit the address count")]
    Length,
    /// A version that nobody speaks (2 over IPv6 is one), or one that this router does not.
    #[error("version {0}")]
    Version(u8),
    /// Not an advertisement.
    #[error("type {0} instead of 1")]
    Type(u8),
    /// `IPvX Addr Count` is 0.
    #[error("no addresses")]
    NoAddresses,
    /// Neither checksum is right.
    #[error("wrong checksum")]
    Checksum,
    /// Neither no authentication nor a simple password.
    #[error("authentication type {0}")]
    AuthType(u8),
    /// No password, an unexpected one, or a wrong one.
    #[error("wrong authentication")]
    Auth,
    /// An interval of 0.
    #[error("advertisement interval 0")]
    ZeroInterval,
    /// Version 2 with another interval than ours.
    #[error("advertisement interval {} s differs from ours", .0.get())]
    Interval(Seconds),
    /// VRID 0.
    #[error("VRID 0")]
    ZeroVrid,
    /// Somebody else's virtual router; normal with multicast.
    #[error("VRID {0} is not ours")]
    OtherVrid(Vrid),
    /// The source is not one of the unicast peers.
    #[error("{0} is not a unicast peer")]
    NotAPeer(IpAddr),
    /// Unicast where we expect multicast, or the other way round.
    #[error("sent to {0}")]
    Destination(IpAddr),
    /// We hear ourselves.
    #[error("our own advertisement")]
    Own,
    /// None of our virtual addresses: another cluster has our VRID.
    #[error("none of our virtual addresses; another cluster has our VRID")]
    ForeignVips,
    /// Signed, and we have no `auth_hmac`.
    #[error("signed, but this instance has no auth_hmac")]
    AuthUnexpected,
    /// Unsigned, and the mode is `enforce`.
    #[error("not signed")]
    AuthMissing,
    /// A trailer of another scheme.
    #[error("authentication of an unknown type")]
    AuthMalformed,
    /// A key that we do not have.
    #[error("signed with key {0}, which we do not have")]
    AuthUnknownKey(u8),
    /// Another secret, or somebody changed the message or its source.
    #[error("wrong HMAC")]
    AuthHmac,
    /// Outside the freshness window. A clock is wrong, or somebody repeats what he recorded.
    #[error("the sender's clock is {0} s behind ours")]
    AuthStale(i32),
    /// Not newer than the last one of this sender.
    #[error("a repetition")]
    AuthReplay,
}

impl Discard {
    /// The reason as one word, for counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::IpHeader => "ip-header",
            Self::Ttl(_) => "ttl",
            Self::Length => "length",
            Self::Version(_) => "version",
            Self::Type(_) => "type",
            Self::NoAddresses => "no-addresses",
            Self::Checksum => "checksum",
            Self::AuthType(_) => "auth-type",
            Self::Auth => "auth",
            Self::ZeroInterval => "zero-interval",
            Self::Interval(_) => "interval",
            Self::ZeroVrid => "zero-vrid",
            Self::OtherVrid(_) => "other-vrid",
            Self::NotAPeer(_) => "not-a-peer",
            Self::Destination(_) => "destination",
            Self::Own => "own",
            Self::ForeignVips => "foreign-vips",
            Self::AuthUnexpected => "auth-unexpected",
            Self::AuthMissing => "auth-missing",
            Self::AuthMalformed => "auth-malformed",
            Self::AuthUnknownKey(_) => "auth-unknown-key",
            Self::AuthHmac => "auth-hmac",
            Self::AuthStale(_) => "auth-stale",
            Self::AuthReplay => "auth-replay",
        }
    }
}

/// Why an advertisement could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The count is one byte, and an advertisement about nothing is not legal.
    #[error("{0} virtual addresses; an advertisement lists 1 to 255")]
    AddressCount(usize),
    /// Addresses or an envelope of two families, or version 2 over IPv6.
    #[error("not an advertisement of one family, here {0}, or a version that does not exist over it")]
    Family(Family),
    /// The message does not fit.
    #[error("the message needs {needed} bytes")]
    BufferTooShort {
        /// Length of the message in bytes.
        needed: usize,
    },
}

const fn message_len(version: u8, family: Family, addresses: usize) -> usize {
    HEADER_LEN + addresses * address_len(family) + if version == 2 { AUTH_LEN } else { 0 }
}

/// Sum of the 16-bit big-endian words, not yet folded (RFC 1071). A message is at most 4,116 bytes: no overflow.
pub(super) fn ones_complement_sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u32 = words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    sum + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

/// Sum of the pseudo-header: source, destination, protocol, length of what is covered (RFC 5798 §5.2.8, RFC 8200 §8.1).
fn pseudo_header(source: IpAddr, destination: IpAddr, covered: usize) -> u32 {
    let of = |address| match address {
        IpAddr::V4(address) => ones_complement_sum(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => ones_complement_sum(&Ipv6Addr::octets(&address)),
    };
    // At most 4,116 bytes are covered, so that nothing is cut off.
    of(source) + of(destination) + u32::from(PROTOCOL) + covered as u32
}

/// Folds the carries back in (RFC 1071). A right message, its checksum included, gives 0xffff.
pub(super) fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // Two folds leave no more than 16 bits.
    sum as u16
}
