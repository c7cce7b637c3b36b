//! Who may talk, and that nobody else can read, change or repeat it: Noise `NNpsk0` (Noise Protocol Framework, revision 34, §7.5, §9).
//!
//! The first message is made with the shared key, so that a stranger gets nowhere; and both sides add a key of the moment, so
//! that a recorded connection can neither be repeated nor, with a key that is found out later, be read.
//!
//! ```text
//! frame     length (2 bytes, big-endian) | what Noise made of at most 65,519 bytes
//! message   one frame or several; each begins with a byte that is 1 while more follow and 0 in the last
//! ```

use ring::hkdf::{HKDF_SHA256, Salt};
use snow::{Builder, HandshakeState, TransportState, params::NoiseParams};

use super::{codec::LONGEST, status::Refused};
use crate::config::model::SyncKeys;

const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_SHA256";
const PROLOGUE: &[u8] = b"xvip sync";
/// What Noise adds to the bytes of a frame.
const TAG: usize = 16;
/// The longest Noise message (§3).
const LONGEST_FRAME: usize = 65_535;
/// Bytes of a message in one frame.
const PIECE: usize = LONGEST_FRAME - TAG - 1;
/// Both handshake messages: a Curve25519 key and the tag of nothing.
pub const HANDSHAKE_LEN: usize = 32 + TAG;
const LAST: u8 = 0;
const MORE: u8 = 1;

/// The key of a secret, fit for Noise (HKDF, RFC 5869). Not for logs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Psk([u8; 32]);

impl Psk {
    /// One for each secret, in their order.
    pub fn of(keys: &SyncKeys) -> Vec<Self> {
        keys.secrets().map(Self::derived).collect()
    }

    fn derived(secret: &[u8]) -> Self {
        let mut bytes = [0; 32];
        let derived = Salt::new(HKDF_SHA256, b"xvip sync").extract(secret);
        // An output as long as the hash is never too long, which is the only error that there is.
        let filled = derived.expand(&[b"psk"], HKDF_SHA256).and_then(|key| key.fill(&mut bytes));
        debug_assert!(filled.is_ok(), "HKDF gives as many bytes as its hash has");
        Self(bytes)
    }
}

impl std::fmt::Debug for Psk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Psk(..)")
    }
}

/// The side that dials, until it is answered.
pub struct Call(HandshakeState);

impl Call {
    /// Begins a handshake; also gives its first message.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new(psk: &Psk) -> Result<(Self, Vec<u8>), snow::Error> {
        let mut state = builder(psk)?.build_initiator()?;
        let mut first = vec![0; HANDSHAKE_LEN];
        let length = state.write_message(&[], &mut first)?;
        first.truncate(length);
        Ok((Self(state), first))
    }

    /// Takes the second message.
    ///
    /// # Errors
    /// [`Refused::NotAuthentic`]
    pub fn answered(mut self, second: &[u8]) -> Result<Secure, Refused> {
        let mut nothing = [0; HANDSHAKE_LEN];
        self.0.read_message(second, &mut nothing).map_err(|_| Refused::NotAuthentic)?;
        Secure::new(self.0)
    }
}

/// Takes the first message, made with whichever of our keys; gives the second one, and the index of the key.
///
/// # Errors
/// [`Refused::WrongKey`]: it was made with none of them, or is no first message at all.
pub fn answer(keys: &[Psk], first: &[u8]) -> Result<(Secure, Vec<u8>, usize), Refused> {
    for (index, psk) in keys.iter().enumerate() {
        let Ok(mut state) = builder(psk).and_then(Builder::build_responder) else { continue };
        let mut nothing = [0; HANDSHAKE_LEN];
        if state.read_message(first, &mut nothing).is_err() {
            continue;
        }
        let mut second = vec![0; HANDSHAKE_LEN];
        let Ok(length) = state.write_message(&[], &mut second) else { continue };
        second.truncate(length);
        return Ok((Secure::new(state)?, second, index));
    }
    Err(Refused::WrongKey)
}

fn builder(psk: &Psk) -> Result<Builder<'_>, snow::Error> {
    let parameters: NoiseParams = PATTERN.parse()?;
    Builder::new(parameters).prologue(PROLOGUE)?.psk(0, &psk.0)
}

/// A connection after the handshake.
pub struct Secure {
    transport: TransportState,
    /// What has come of a message whose last frame is still to come.
    partial: Vec<u8>,
    scratch: Vec<u8>,
}

impl Secure {
    fn new(state: HandshakeState) -> Result<Self, Refused> {
        let transport = state.into_transport_mode().map_err(|_| Refused::NotAuthentic)?;
        Ok(Self { transport, partial: Vec::new(), scratch: vec![0; LONGEST_FRAME] })
    }

    /// Appends a message's frames to `wire`.
    ///
    /// # Errors
    /// It is longer than any message may be, or 2^64 frames have been sent.
    pub fn seal(&mut self, message: &[u8], wire: &mut Vec<u8>) -> Result<(), Refused> {
        if message.len() > LONGEST {
            return Err(Refused::TooLong);
        }
        let mut rest = message;
        loop {
            let (piece, later) = rest.split_at(rest.len().min(PIECE));
            rest = later;
            let mut plain = Vec::with_capacity(piece.len() + 1);
            plain.push(if rest.is_empty() { LAST } else { MORE });
            plain.extend_from_slice(piece);
            let length =
                self.transport.write_message(&plain, &mut self.scratch).map_err(|_| Refused::NotAuthentic)?;
            frame(self.scratch.get(..length).unwrap_or_default(), wire);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes the next frame, without its length; gives the message that it completes.
    ///
    /// # Errors
    /// It is not what the other side sent next, or the message is too long or its frames make no sense. The connection is
    /// of no use any more then.
    pub fn open(&mut self, frame: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        let read = self.transport.read_message(frame, &mut self.scratch);
        let length = read.map_err(|_| Refused::NotAuthentic)?;
        let (kind, piece) =
            self.scratch.get(..length).and_then(<[u8]>::split_first).ok_or(Refused::Malformed)?;
        if self.partial.len() + piece.len() > LONGEST {
            return Err(Refused::TooLong);
        }
        self.partial.extend_from_slice(piece);
        match *kind {
            LAST => Ok(Some(std::mem::take(&mut self.partial))),
            // An empty piece with more to come would let a peer keep us busy with nothing.
            MORE if !piece.is_empty() => Ok(None),
            _ => Err(Refused::Malformed),
        }
    }
}

/// Appends one frame to `wire`; of more than 65,535 bytes, nothing.
pub fn frame(bytes: &[u8], wire: &mut Vec<u8>) {
    if let Ok(length) = u16::try_from(bytes.len()) {
        wire.extend_from_slice(&length.to_be_bytes());
        wire.extend_from_slice(bytes);
    }
}

/// Cuts what arrives into frames.
#[derive(Default)]
pub struct Framer {
    bytes: Vec<u8>,
    /// Where the first frame begins that was not given yet.
    start: usize,
}

impl Framer {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length.
    pub fn next_frame(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.start..)?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let frame = rest.get(..length)?;
        self.start += 2 + length;
        Some(frame)
    }
}

#[cfg(test)]
mod tests;
