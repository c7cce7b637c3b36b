//! What `xvip status` says about flow replication.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::record::Applied;
use crate::steering::words::Word;

/// Everything about the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncStatus {
    /// Where it listens; none while it cannot.
    pub listening: Option<SocketAddr>,
    /// Why it does not listen.
    pub listen_error: Option<String>,
    /// Why flows cannot be read or told.
    pub store_error: Option<String>,
    /// Whether every reachable peer has given its flows (see `SyncHandle::synced`).
    pub synced: bool,
    /// Events of the data plane that were passed on.
    pub events: u64,
    /// Events that the data plane could not tell; a full sync follows.
    pub lost_events: u64,
    /// Connections and messages from nobody known that were refused, by reason.
    pub refused: BTreeMap<Refused, u64>,
    /// The peers, in the file's order.
    pub peers: Vec<PeerStatus>,
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its name, once it has said so.
    pub node: Option<String>,
    /// The connection on which this node sends.
    pub sending: SendingStatus,
    /// The connection on which this node receives.
    pub receiving: ReceivingStatus,
    /// The VIPs that it says it holds; empty while it does not send.
    pub holds: BTreeSet<IpAddr>,
    /// What operators have told it about backends: for the controller.
    #[serde(skip)]
    pub orders: Vec<Word>,
    /// Parts of its configuration that differ from ours, as `Agreement::drift` names them.
    pub drift: Vec<String>,
    /// Messages and connections of this peer that were refused, or ours by it, by reason.
    pub refused: BTreeMap<Refused, u64>,
}

impl PeerStatus {
    /// One that nothing is known of.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            node: None,
            sending: SendingStatus::default(),
            receiving: ReceivingStatus::default(),
            holds: BTreeSet::new(),
            orders: Vec::new(),
            drift: Vec::new(),
            refused: BTreeMap::new(),
        }
    }
}

/// How far the connection to a peer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SendingState {
    /// Not there: the next attempt comes within a second.
    #[default]
    Down,
    /// TCP or the handshake is under way.
    Connecting,
    /// It gets all flows.
    Joining,
    /// It has all flows and gets what is new.
    Up,
}

/// What goes to a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SendingStatus {
    /// How far it is.
    pub state: SendingState,
    /// Milliseconds since the state changed.
    pub since_ms: u64,
    /// Why the last connection ended or could not be made.
    pub last_error: Option<String>,
    /// Milliseconds since the oldest event that the peer has not acknowledged; 0 if there is none.
    pub lag_ms: u64,
    /// The median, in milliseconds, of what the last acknowledged batches took from their oldest event on.
    pub lag_p50_ms: u64,
    /// The largest since the connection is up.
    pub lag_max_ms: u64,
    /// Flows whose news wait to be sent.
    pub queued: u64,
    /// Records sent, over all connections.
    pub sent: u64,
    /// Bytes on the wire, over all connections.
    pub bytes: u64,
    /// Full syncs completed, over all connections.
    pub full_syncs: u64,
    /// How often the queue overflowed, and a full sync took its place.
    pub overflows: u64,
}

/// What comes from a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReceivingStatus {
    /// Whether it is connected.
    pub connected: bool,
    /// Milliseconds since that changed.
    pub since_ms: u64,
    /// Whether it has given all its flows on this connection.
    pub complete: bool,
    /// Records received, over all connections.
    pub received: u64,
    /// Bytes on the wire, over all connections.
    pub bytes: u64,
    /// Full syncs received, over all connections.
    pub full_syncs: u64,
    /// Flows forgotten because the holder of their VIP does not have them.
    pub retired: u64,
    /// What became of the records.
    pub applied: BTreeMap<Applied, u64>,
}

/// Why something was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Refused {
    /// The first message was made with none of our keys.
    WrongKey,
    /// A later message was forged, changed or replayed.
    NotAuthentic,
    /// Authentic, but not a message that there is, or not now.
    Malformed,
    /// Longer than any message.
    TooLong,
    /// A version of the protocol that this one does not speak.
    OtherVersion,
    /// It is this node itself.
    Ourselves,
    /// It has the key but is not among our peers.
    NotAPeer,
    /// Too many connections wait for their handshake.
    TooMany,
    /// The handshake took too long.
    TooSlow,
    /// The connection ended before the handshake was complete.
    Abandoned,
}

impl Refused {
    /// The reason in words.
    pub const fn text(self) -> &'static str {
        match self {
            Self::WrongKey => "the key is none of ours",
            Self::NotAuthentic => "forged, changed or replayed",
            Self::Malformed => "no message that makes sense here",
            Self::TooLong => "longer than any message",
            Self::OtherVersion => "another version of the protocol",
            Self::Ourselves => "this node itself",
            Self::NotAPeer => "not in sync.peers",
            Self::TooMany => "too many connections wait for their handshake",
            Self::TooSlow => "the handshake took too long",
            Self::Abandoned => "gone before the handshake was complete",
        }
    }
}
