//! What the nodes tell each other about a flow, and what keeps flows.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A flow, by what both nodes call it: the client, and the VIP and port that it connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FlowId {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The VIP and the port of the service.
    pub service: SocketAddr,
}

impl FlowId {
    /// The VIP that it goes through.
    pub const fn vip(&self) -> IpAddr {
        self.service.ip()
    }
}

/// What was seen of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Direction {
    /// Packets so far.
    pub packets: u64,
    /// Bytes so far.
    pub bytes: u64,
    /// The sequence number that comes next, as the sender of this direction counts (host byte order).
    pub next_seq: u32,
    /// The last acknowledgement number in this direction (host byte order).
    pub ack: u32,
    /// The `SEEN_*` bits of `lb_common::layout`.
    pub flags: u32,
    /// Seconds of the flow clock since its last packet.
    pub silence: u32,
}

/// The way back to a client, in words that mean the same on both nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClientHop {
    /// The Ethernet address that frames for the client go to.
    pub mac: [u8; 6],
    /// Which of `node.interfaces`, from 0.
    pub link: u8,
    /// The outer VLAN tag, as on the wire; zeros without one.
    pub outer: [u8; 4],
    /// The inner one.
    pub inner: [u8; 4],
}

/// All that another node has to know to carry on with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Which flow.
    pub id: FlowId,
    /// Its backend's address and port.
    pub backend: SocketAddr,
    /// How packets reach the backend, as `lb_common::layout` numbers the modes.
    pub mode: u8,
    /// The source that the backend sees, where that is not the client.
    pub nat: Option<SocketAddr>,
    /// Where frames for the client go.
    pub hop: ClientHop,
    /// Seconds of the flow clock since it was opened.
    pub age: u32,
    /// Which attempt of the client's it was, as the flow tables count.
    pub attempt: u32,
    /// From the client to the backend.
    pub to_backend: Direction,
    /// From the backend to the client; None where replies are not seen.
    pub to_client: Option<Direction>,
}

impl FlowRecord {
    /// Seconds since the last packet of either direction.
    pub fn silence(&self) -> u32 {
        let back = self.to_client.map_or(u32::MAX, |direction| direction.silence);
        self.to_backend.silence.min(back)
    }
}

/// Who holds the VIP of a record, and so whose word counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Authority {
    /// The node that sent it: insert it, and replace what is there.
    Sender,
    /// This node (whatever the sender says): insert it only where nothing is there.
    Receiver,
    /// Neither, as without VRRP: insert it where nothing is there, and replace what has been silent for longer.
    Nobody,
}

impl Authority {
    /// For a VIP that the sender says it holds or does not, and the receiver knows it holds or does not. Where both do, the
    /// receiver's own packets are the better evidence.
    pub const fn of(sender_holds: bool, receiver_holds: bool) -> Self {
        match (sender_holds, receiver_holds) {
            (_, true) => Self::Receiver,
            (true, false) => Self::Sender,
            (false, false) => Self::Nobody,
        }
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Applied {
    /// The flow is new here.
    Inserted,
    /// It was known, and what was known of it is replaced.
    Updated,
    /// It was known, and stays as it was.
    Kept,
    /// No backend here has that address.
    UnknownBackend,
    /// No service here has that VIP and port, or its mode is another.
    UnknownService,
    /// Another flow has its NAT port.
    PortTaken,
    /// The flow table is full, or the kernel refused.
    Full,
    /// The flow cannot live here: its backend is this very node, or its replies go to another node's own address.
    NotHere,
}

impl Applied {
    /// Every outcome.
    pub const ALL: [Self; 8] = [
        Self::Inserted,
        Self::Updated,
        Self::Kept,
        Self::UnknownBackend,
        Self::UnknownService,
        Self::PortTaken,
        Self::Full,
        Self::NotHere,
    ];
}

/// Why flows cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// How far [`FlowStore::retire`] has come; the default is the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which of the store's tables, from 0.
    pub table: u32,
    /// Where in it, as the store counts; None at its beginning.
    pub position: Option<u32>,
}

/// What keeps flows: the maps of the data plane, or a table of a test.
pub trait FlowStore: Send {
    /// What is known of a flow now; None if there is no such flow (any more).
    fn read(&self, id: &FlowId) -> Option<FlowRecord>;

    /// Gives every flow that a peer should know, in any order. Called on a thread of its own; `each` may block, to pace it.
    ///
    /// # Errors
    /// The walk is not complete: it will be asked for again.
    fn walk(&self, each: &mut dyn FnMut(FlowRecord)) -> Result<(), StoreError>;

    /// Takes what a peer says of a flow.
    fn apply(&mut self, record: &FlowRecord, authority: Authority) -> Applied;

    /// After a full sync of a peer that holds `vips`: forgets the flows of these VIPs that it has not mentioned, among the next
    /// few thousand flows from `at` on, so that it takes milliseconds. Gives how many, and where to go on; None at the end.
    fn retire(
        &mut self,
        vips: &BTreeSet<IpAddr>,
        mentioned: &HashSet<FlowId>,
        at: Place,
    ) -> (usize, Option<Place>);
}
