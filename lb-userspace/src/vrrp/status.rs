//! What a virtual router tells about itself: a level, of which only the newest value matters.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant, SystemTime},
};

use super::{fsm::VrrpState, lateness::Lateness, rivals::Refused};

/// Whose advertisements count at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActiveRouter {
    /// Its primary address.
    pub address: IpAddr,
    /// Its priority.
    pub priority: u8,
}

/// What a virtual router is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterStatus {
    /// Name of the instance.
    pub name: String,
    /// When all this was so.
    pub as_of: Instant,
    /// The state.
    pub state: VrrpState,
    /// When it was entered, by the wall clock, for people.
    pub since: SystemTime,
    /// Why it was entered, in words.
    pub reason: String,
    /// Whether the virtual addresses are ours: while Active, and while a hand-over has not reached anybody yet.
    pub holds_addresses: bool,
    /// Since when that is so.
    pub holds_since: Instant,
    /// What we advertise: the configured priority with what tracking adds to it, or 1 while released.
    pub priority: u8,
    /// Whether a release is in force.
    pub released: bool,
    /// What keeps us from taking over from a router that we do not hear.
    pub blocked: Option<String>,
    /// How long advertisements have been reaching the interface, but not us.
    pub deaf: Option<Duration>,
    /// Source of our advertisements.
    pub primary_address: IpAddr,
    /// The Active router: us, or the last one heard.
    pub active_router: Option<ActiveRouter>,
    /// Advertisements that left for at least one destination.
    pub adverts_sent: u64,
    /// How late they left.
    pub lateness: Lateness,
    /// Advertisements that were for us and well-formed.
    pub adverts_received: u64,
    /// Advertisements that could not be sent to somebody.
    pub send_errors: u64,
    /// The last such error; gone after a success.
    pub send_error: Option<String>,
    /// Errors when receiving; not about packets.
    pub receive_errors: u64,
    /// Packets not used, by reason (`Discard::name`).
    pub discards: BTreeMap<&'static str, u64>,
    /// The last advertisement with our VRID that was not used.
    pub refused: Option<Refused>,
    /// Advertisements used although their list of addresses is not quite ours: the configurations differ.
    pub address_mismatches: u64,
    /// Version 3 advertisements used although their interval is not ours: the configurations differ.
    pub interval_mismatches: u64,
    /// How often the state changed.
    pub transitions: u64,
    /// Grows whenever the network should be told (again) where the addresses are.
    pub announce_generation: u64,
    /// Whether the thread runs before all ordinary ones.
    pub realtime: bool,
}

impl RouterStatus {
    /// Of one that has just been made: it has said and heard nothing, and has no addresses.
    pub fn begin(
        name: String,
        state: VrrpState,
        priority: u8,
        source: IpAddr,
        now: Instant,
        wall: SystemTime,
    ) -> Self {
        Self {
            name,
            as_of: now,
            state,
            since: wall,
            reason: String::new(),
            holds_addresses: false,
            holds_since: now,
            priority,
            released: false,
            blocked: None,
            deaf: None,
            primary_address: source,
            active_router: None,
            adverts_sent: 0,
            lateness: Lateness::default(),
            adverts_received: 0,
            send_errors: 0,
            send_error: None,
            receive_errors: 0,
            discards: BTreeMap::new(),
            refused: None,
            address_mismatches: 0,
            interval_mismatches: 0,
            transitions: 0,
            announce_generation: 0,
            realtime: false,
        }
    }
}
