//! What two nodes say to each other, as bytes: postcard, in which a number takes as many bytes as it needs.
//!
//! ```text
//! sender                                   receiver
//! Hello ---------------------------------------->
//! <---------------------------------------- Hello      (or it closes: another version, not a peer)
//! Agreement, Holdings, Orders, SyncBegin, Records... ---->
//! <------------------------------------ Ack, Again
//! SyncEnd, Records, Holdings, Orders, Alive ----->
//! ```

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{agreement::Agreement, record::FlowRecord, status::Refused};
use crate::steering::words::{MAX_WORDS, Word};

/// The version of this protocol.
pub const VERSION: u16 = 1;
/// The longest message, in bytes.
pub const LONGEST: usize = 1 << 20;
/// The most records in a message.
pub const MAX_RECORDS: usize = 400;
/// The longest name of a node, in bytes.
pub const MAX_NAME: usize = 255;
/// The most VIPs, and the most parts of an agreement.
const MAX_LISTED: usize = 4096;

/// The first message of each side. It may grow at its end without a new version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of who says it; the first field for ever.
    pub version: u16,
    /// Drawn by lot at the start of the process, so that a node notices when it talks to itself.
    pub instance: [u8; 16],
    /// Name of the node.
    pub node: String,
    /// Where it listens: by this it is known among the peers.
    pub listen: SocketAddr,
}

/// What a sender says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Telling {
    /// The first of all, and never again.
    Hello(Hello),
    /// What its configuration says now.
    Agreement(Agreement),
    /// The VIPs that it holds, from here on.
    Holdings(BTreeSet<IpAddr>),
    /// All flows follow.
    SyncBegin,
    /// Some flows.
    Records {
        /// One more than that of the last message that had one.
        seq: u64,
        /// Whether they belong to the full sync that has begun; else they are news.
        full: bool,
        /// At most [`MAX_RECORDS`].
        records: Vec<FlowRecord>,
    },
    /// All flows have been told.
    SyncEnd {
        /// As in [`Self::Records`].
        seq: u64,
        /// How many records there were in it.
        records: u64,
        /// The VIPs that the sender has held all the while; empty where it may have left something out.
        held: BTreeSet<IpAddr>,
    },
    /// Nothing new.
    Alive,
    /// What operators have said of backends, all of it; at most [`MAX_WORDS`].
    Orders(Vec<Word>),
}

/// What a receiver says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The first of all, and never again.
    Hello(Hello),
    /// Everything up to this `seq` has been applied.
    Ack(u64),
    /// All flows, once more, please.
    Again,
    /// Nothing new.
    Alive,
}

/// The bytes of a [`Telling`] or an [`Answer`].
pub fn encode<M: Serialize>(message: &M) -> Vec<u8> {
    // Neither has anything that postcard cannot write, and memory does not end in an error. An empty message would be refused.
    postcard::to_allocvec(message).unwrap_or_default()
}

/// Reads what a sender says.
///
/// # Errors
/// It is none of that ([`Refused::Malformed`]), or a Hello of [`Refused::OtherVersion`].
pub fn telling(bytes: &[u8]) -> Result<Telling, Refused> {
    let telling = decode(bytes)?;
    let sound = match &telling {
        Telling::Hello(hello) => sound(hello),
        Telling::Agreement(agreement) => agreement.parts.len() <= MAX_LISTED,
        Telling::Holdings(vips) | Telling::SyncEnd { held: vips, .. } => vips.len() <= MAX_LISTED,
        Telling::Records { records, .. } => records.len() <= MAX_RECORDS,
        Telling::SyncBegin | Telling::Alive => true,
        Telling::Orders(words) => words.len() <= MAX_WORDS,
    };
    if sound { Ok(telling) } else { Err(Refused::Malformed) }
}

/// Reads what a receiver says.
///
/// # Errors
/// As [`telling`].
pub fn answer(bytes: &[u8]) -> Result<Answer, Refused> {
    match decode(bytes)? {
        Answer::Hello(hello) if !sound(&hello) => Err(Refused::Malformed),
        answer => Ok(answer),
    }
}

fn sound(hello: &Hello) -> bool {
    hello.node.len() <= MAX_NAME
}

/// The tag of both Hellos.
const HELLO: u8 = 0;

fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, Refused> {
    // Of another version only the tag and the version are sure to be where they are here.
    if bytes.first() == Some(&HELLO) {
        match postcard::take_from_bytes::<u16>(&bytes[1..]) {
            Ok((VERSION, _)) => {}
            Ok(_) => return Err(Refused::OtherVersion),
            Err(_) => return Err(Refused::Malformed),
        }
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, rest)) if rest.is_empty() || bytes.first() == Some(&HELLO) => Ok(message),
        _ => Err(Refused::Malformed),
    }
}

#[cfg(test)]
mod tests;
