//! HMAC-SHA256 over advertisements, as keepalived 2.4.2 and later speak it (draft-cassen-vrrp-auth-hmac).
//!
//! Every message is followed by a [`Trailer`] that only a holder of the shared key can write, with a sequence number made
//! of the sender's wall clock. The receiver accepts a sequence only while it is near its own clock ([`AntiReplay::Time`])
//! and only if it is newer than the last one of that sender. Nothing is kept on disk: a restarted sender goes on with its
//! clock.
//!
//! The HMAC is over a pseudo-header, the message with its checksum read as zero, the trailer up to the HMAC, and zeros in
//! place of the HMAC:
//!
//! ```text
//! | 4 or 6 | version | VRID | 0 | source address, 16 bytes, an IPv4 one first and then zeros |
//! ```
//!
//! So a trailer fits one virtual router and one sender, but every destination: all unicast peers get the same.

use std::{
    hint::black_box,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ring::hmac;

use super::advert::{
    Advertisement, Discard, EncodeError, LONGEST_MESSAGE, Received, Trailer, Vrid, field, group,
};
use crate::config::model::{AntiReplay, AuthHmac, AuthMode, Family};

#[cfg(test)]
mod tests;

/// `Ext Type` of the only scheme: HMAC-SHA256, truncated to 128 bits.
pub const HMAC_SHA256: u8 = 1;

/// How many senders of a multicast group are remembered. There are more than one only while they contend.
const MULTICAST_SENDERS: usize = 4;

/// The settings make no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// `active_key` is none of the keys.
    #[error("there is no key {0} to sign with")]
    NoActiveKey(u8),
}

/// How an advertisement was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// Nobody asks for a signature, or the mode lets unsigned ones in.
    Unsigned,
    /// By a holder of the key.
    Signed {
        /// Our wall clock minus the sender's, in seconds; the time on the way included.
        skew: i32,
        /// With [`AntiReplay::Time`]: the clocks are more than half the window apart, somebody should look at them.
        drifting: bool,
    },
}

/// Signs the advertisements of one virtual router, and verifies those of the others.
#[derive(Debug)]
pub struct Authenticator {
    pseudo_header: [u8; 4],
    rules: Rules,
    /// The last one that we used.
    sequence: Option<Sequence>,
    senders: Senders,
}

/// The settings, ready for use.
#[derive(Debug)]
struct Rules {
    keys: Vec<(u8, hmac::Key)>,
    active: (u8, hmac::Key),
    mode: AuthMode,
    anti_replay: AntiReplay,
    /// Seconds.
    window: i32,
}

impl Rules {
    fn new(settings: &AuthHmac) -> Result<Self, AuthError> {
        let keys: Vec<(u8, hmac::Key)> = (settings.keys.iter())
            .map(|key| (key.id.get(), hmac::Key::new(hmac::HMAC_SHA256, key.secret.bytes())))
            .collect();
        let active = keys.iter().find(|(id, _)| *id == settings.active_key.get()).cloned();
        Ok(Self {
            active: active.ok_or(AuthError::NoActiveKey(settings.active_key.get()))?,
            keys,
            mode: settings.mode,
            anti_replay: settings.anti_replay,
            window: i32::try_from(settings.time_window.as_secs()).unwrap_or(i32::MAX),
        })
    }

    /// Whether `seconds` between two clocks do not matter.
    fn is_fresh(&self, seconds: i32) -> bool {
        self.anti_replay == AntiReplay::Monotonic || within(seconds, self.window)
    }
}

/// 64 bits that grow with time: seconds since 1970 modulo 2^32, 16 bits of 2^-16 seconds, 16 bits of a counter. Compared
/// by serial number arithmetic (RFC 1982), so that the wrap of the seconds does not matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sequence(u64);

impl Sequence {
    /// The one that a clock gives by itself. A clock before 1970 is one that was never set.
    fn at(wall: SystemTime) -> Self {
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let fraction = (u64::from(since.subsec_nanos()) << 16) / 1_000_000_000;
        Self(since.as_secs() << 32 | fraction << 16)
    }

    fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    fn is_after(self, other: Self) -> bool {
        self.0.wrapping_sub(other.0).cast_signed() > 0
    }

    /// By how many seconds this one is later.
    fn seconds_after(self, other: Self) -> i32 {
        let seconds = |sequence: Self| (sequence.0 >> 32) as u32;
        seconds(self).wrapping_sub(seconds(other)).cast_signed()
    }
}

/// The newest sequence of each sender.
#[derive(Debug)]
enum Senders {
    /// Unicast: one place for each peer.
    Peers(Vec<(IpAddr, Option<Sequence>)>),
    /// Multicast: the least recently heard first.
    Group(Vec<(IpAddr, Option<Sequence>)>),
}

impl Senders {
    fn new(peers: &[IpAddr]) -> Self {
        match peers {
            [] => Self::Group(Vec::with_capacity(MULTICAST_SENDERS)),
            peers => Self::Peers(peers.iter().map(|peer| (*peer, None)).collect()),
        }
    }

    /// The place of `source`. Only for a source whose HMAC was right: nobody else may push others out.
    fn place(&mut self, source: IpAddr) -> Option<&mut Option<Sequence>> {
        match self {
            Self::Peers(places) => places.iter_mut().find(|(peer, _)| *peer == source).map(|(_, mark)| mark),
            Self::Group(places) => {
                let place = match places.iter().position(|(sender, _)| *sender == source) {
                    Some(known) => places.remove(known),
                    None => {
                        if places.len() >= MULTICAST_SENDERS {
                            places.remove(0);
                        }
                        (source, None)
                    }
                };
                places.push(place);
                places.last_mut().map(|(_, mark)| mark)
            }
        }
    }
}

impl Authenticator {
    /// For the virtual router `vrid` that speaks `version` over `family`, to `peers` or, if there are none, to the group.
    ///
    /// # Errors
    /// [`AuthError`]; the configuration's checks do not let that pass.
    pub fn new(
        settings: &AuthHmac,
        family: Family,
        version: u8,
        vrid: Vrid,
        peers: &[IpAddr],
    ) -> Result<Self, AuthError> {
        let number = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 6,
        };
        Ok(Self {
            pseudo_header: [number, version, vrid.0.get(), 0],
            rules: Rules::new(settings)?,
            sequence: None,
            senders: Senders::new(peers),
        })
    }

    /// Other keys, mode, window, peers, without forgetting what was sent and received: no packet from before becomes
    /// acceptable again.
    ///
    /// # Errors
    /// As [`new`](Self::new). Everything is as it was then.
    pub fn reconfigure(&mut self, settings: &AuthHmac, peers: &[IpAddr]) -> Result<(), AuthError> {
        self.rules = Rules::new(settings)?;
        match (&mut self.senders, peers) {
            (Senders::Group(_), []) => {}
            (Senders::Peers(before), [_, ..]) => {
                let mark =
                    |peer| before.iter().find(|(before, _)| before == peer).and_then(|(_, mark)| *mark);
                let places = peers.iter().map(|peer| (*peer, mark(peer))).collect();
                self.senders = Senders::Peers(places);
            }
            (Senders::Group(_), [_, ..]) | (Senders::Peers(_), []) => self.senders = Senders::new(peers),
        }
        Ok(())
    }

    /// The trailer of the next advertisement, `None` if the mode is `receive-only`. Every call is another sequence; the
    /// copies of one advertisement, to several peers, get one trailer.
    ///
    /// # Errors
    /// As [`Advertisement::emit`].
    pub fn sign(
        &mut self,
        wall: SystemTime,
        source: IpAddr,
        advertisement: &Advertisement,
    ) -> Result<Option<Trailer>, EncodeError> {
        if self.rules.mode == AuthMode::ReceiveOnly {
            return Ok(None);
        }
        let mut buffer = [0; LONGEST_MESSAGE];
        // The HMAC reads the checksum, all that depends on the destination, as zero.
        let len = advertisement.emit(source, group(Family::of(source)), None, &mut buffer)?;
        let sequence = self.next_sequence(wall);
        let (id, key) = &self.rules.active;
        let mut trailer = Trailer([0; Trailer::LEN]);
        trailer.0[0] = HMAC_SHA256;
        trailer.0[1] = *id;
        trailer.0[4..Trailer::PREFIX_LEN].copy_from_slice(&sequence.0.to_be_bytes());
        let tag = self.tag(key, source, &buffer[..len], trailer.prefix());
        trailer.0[Trailer::PREFIX_LEN..].copy_from_slice(&tag);
        Ok(Some(trailer))
    }

    /// Whether a holder of a key sent that just now, and only once.
    ///
    /// # Errors
    /// [`Discard::AuthMissing`], [`Discard::AuthMalformed`], [`Discard::AuthStale`], [`Discard::AuthUnknownKey`],
    /// [`Discard::AuthHmac`], [`Discard::NotAPeer`] and [`Discard::AuthReplay`], tried in this order.
    pub fn verify(&mut self, wall: SystemTime, received: &Received<'_>) -> Result<Verified, Discard> {
        let source = received.envelope.source;
        let Some(trailer) = &received.trailer else {
            return match self.rules.mode {
                AuthMode::Enforce => Err(Discard::AuthMissing),
                AuthMode::ReceiveOnly | AuthMode::Permissive => Ok(Verified::Unsigned),
            };
        };
        if trailer.ext_type() != HMAC_SHA256 || trailer.reserved() != 0 {
            return Err(Discard::AuthMalformed);
        }
        let clock = Sequence::at(wall);
        let sequence = Sequence(trailer.sequence());
        let skew = clock.seconds_after(sequence);
        // Cheap, so before the HMAC: it trusts nothing, it only refuses.
        if !self.rules.is_fresh(skew) {
            return Err(Discard::AuthStale(skew));
        }
        let key = self.rules.keys.iter().find(|(id, _)| *id == trailer.key_id());
        let (_, key) = key.ok_or(Discard::AuthUnknownKey(trailer.key_id()))?;
        let tag = self.tag(key, source, received.message, trailer.prefix());
        if !equal_in_constant_time(&tag, trailer.hmac()) {
            return Err(Discard::AuthHmac);
        }
        let mark = self.senders.place(source).ok_or(Discard::NotAPeer(source))?;
        // A mark outside the window orders only what the window refuses anyway. Without it, a sender whose clock was put
        // back is heard again.
        let in_force = mark.filter(|mark| self.rules.is_fresh(clock.seconds_after(*mark)));
        if in_force.is_some_and(|mark| !sequence.is_after(mark)) {
            return Err(Discard::AuthReplay);
        }
        *mark = Some(sequence);
        let drifting = self.rules.anti_replay == AntiReplay::Time && !within(skew, self.rules.window / 2);
        Ok(Verified::Signed { skew, drifting })
    }

    /// The clock, or one more than last time where the clock has not moved on.
    fn next_sequence(&mut self, wall: SystemTime) -> Sequence {
        let clock = Sequence::at(wall);
        let next = match self.sequence {
            Some(last) if !clock.is_after(last) => {
                // The clock was put back so far that the others would refuse the old time: begin again with the new one.
                if self.rules.is_fresh(last.seconds_after(clock)) { last.next() } else { clock }
            }
            _ => clock,
        };
        self.sequence = Some(next);
        next
    }

    fn tag(&self, key: &hmac::Key, source: IpAddr, message: &[u8], prefix: &[u8]) -> [u8; Trailer::HMAC_LEN] {
        let mut address = [0; 16];
        match source {
            IpAddr::V4(source) => address[..4].copy_from_slice(&source.octets()),
            IpAddr::V6(source) => address = source.octets(),
        }
        let mut context = hmac::Context::with_key(key);
        context.update(&self.pseudo_header);
        context.update(&address);
        context.update(&message[..field::CHECKSUM.start]);
        context.update(&[0; 2]);
        context.update(&message[field::CHECKSUM.end..]);
        context.update(prefix);
        context.update(&[0; Trailer::HMAC_LEN]);
        let mut tag = [0; Trailer::HMAC_LEN];
        tag.copy_from_slice(&context.sign().as_ref()[..Trailer::HMAC_LEN]);
        tag
    }
}

/// [`Authenticator::verify`], where there is one. Without one, a signed advertisement is refused: its sender will refuse
/// ours, too, or will begin to soon, so somebody should hear of it; keepalived refuses it by its length.
///
/// # Errors
/// As [`Authenticator::verify`], or [`Discard::AuthUnexpected`].
pub fn admit(
    authenticator: Option<&mut Authenticator>,
    wall: SystemTime,
    received: &Received<'_>,
) -> Result<Verified, Discard> {
    match authenticator {
        Some(authenticator) => authenticator.verify(wall, received),
        None if received.trailer.is_some() => Err(Discard::AuthUnexpected),
        None => Ok(Verified::Unsigned),
    }
}

fn within(seconds: i32, window: i32) -> bool {
    (-window..=window).contains(&seconds)
}

/// How long it takes does not say where the first difference is.
fn equal_in_constant_time(ours: &[u8; Trailer::HMAC_LEN], theirs: &[u8]) -> bool {
    let differences = ours.iter().zip(theirs).fold(0, |all, (ours, theirs)| black_box(all | (ours ^ theirs)));
    theirs.len() == ours.len() && differences == 0
}
