//! Who else claims what is ours: another owner of a VIP, or another group of routers with our VRID.
//!
//! The data plane notes who says in ARP or neighbour discovery that a VIP is its own, and from which Ethernet address
//! each router's advertisements come; the virtual router notes whose advertisements it refused. What follows from that
//! is decided here, from values alone:
//!
//! - while we hold a VIP, anybody else's claim to it is a second owner. The network is told again where the VIP is, at
//!   once and then at most once in [`DEFEND_INTERVAL`] (RFC 5227 §2.4: two that defend without end only flood the link);
//! - while another router holds it, a claim from an Ethernet address that is neither that router's nor the virtual
//!   router's is a third party's: nothing that we send would heal it, so it is only told;
//! - advertisements with our VRID that cannot be meant for us are a collision of VRIDs, and a free one is suggested.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::wire::Mac;

use crate::reconcile::MacText;

#[cfg(test)]
mod tests;

/// So long after a change of owner the old owner's last words are no claim.
pub const HAND_OVER: Duration = Duration::from_secs(1);
/// RFC 5227 §1.1, `DEFEND_INTERVAL`.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);
/// So long a claim or a collision is told after it was last seen.
pub const TOLD_FOR: Duration = Duration::from_secs(60);

/// Somebody else's claim to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub mac: Mac,
    /// When it was last made.
    pub at: Instant,
}

/// A virtual router, as far as its VIPs are concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Since when we hold the VIPs, or do not.
    pub since: Instant,
    /// Whether we do.
    pub ours: bool,
    /// The Active router that we hear, and its Ethernet address where the data plane has seen it.
    pub active: Option<(IpAddr, Option<Mac>)>,
    /// The virtual router's own address.
    pub virtual_mac: Mac,
}

/// What a claim to a VIP means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rivalry {
    /// Nothing: it is the owner's, or too old.
    None,
    /// Another machine has our VIP on its interface, too.
    SecondOwner,
    /// Another machine than the Active router has the VIP on its interface.
    NotTheActiveRouter,
}

/// Judges a claim.
pub fn judge(claim: Claim, ownership: &Ownership, now: Instant) -> Rivalry {
    let recent = now.saturating_duration_since(claim.at) <= TOLD_FOR;
    if !recent || claim.at < ownership.since + HAND_OVER {
        return Rivalry::None;
    }
    if ownership.ours {
        return Rivalry::SecondOwner;
    }
    match ownership.active {
        Some((_, Some(mac))) if claim.mac != mac && claim.mac != ownership.virtual_mac => {
            Rivalry::NotTheActiveRouter
        }
        _ => Rivalry::None,
    }
}

/// An advertisement that was not for us although it has our VRID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its sender.
    pub source: IpAddr,
    /// Why, as `Discard` says it.
    pub why: String,
    /// When it came.
    pub at: Instant,
}

/// Defends VIPs, and remembers when it last did.
#[derive(Debug, Default)]
pub struct Rivals {
    defended: BTreeMap<IpAddr, (Instant, Mac)>,
}

impl Rivals {
    /// Whether to tell the network again where a VIP of ours is, now that somebody else has claimed it.
    pub fn defend(&mut self, vip: IpAddr, claim: Claim, now: Instant) -> bool {
        let due = match self.defended.get(&vip) {
            // What it said before we last spoke has been answered.
            Some((at, _)) if claim.at <= *at => false,
            Some((at, mac)) => *mac != claim.mac || now.saturating_duration_since(*at) >= DEFEND_INTERVAL,
            None => true,
        };
        if due {
            self.defended.insert(vip, (now, claim.mac));
        }
        due
    }
}

/// The sentence about a claim; `None` where it means nothing. `senders`: whose advertisements come from which Ethernet
/// address.
pub fn told(
    vip: IpAddr,
    claim: Claim,
    ownership: &Ownership,
    senders: &[(IpAddr, Mac)],
    now: Instant,
) -> Option<String> {
    let mac = MacText(claim.mac);
    let ago = now.saturating_duration_since(claim.at).as_secs();
    let who = match senders.iter().find(|(_, sender)| *sender == claim.mac) {
        Some((address, _)) => format!("{mac}, the router {address}"),
        None => mac.to_string(),
    };
    match judge(claim, ownership, now) {
        Rivalry::None => None,
        Rivalry::SecondOwner => Some(format!(
            "{vip} is ours, but {who} claims it, too ({ago} s ago): another machine has the address; take it off there, or \
             let its advertisements reach us"
        )),
        Rivalry::NotTheActiveRouter => {
            let active = ownership.active.map(|(address, _)| address.to_string()).unwrap_or_default();
            Some(format!(
                "{vip} is the active router's, {active}, but {who} claims it, too ({ago} s ago): another machine has the \
                 address; take it off there"
            ))
        }
    }
}

/// The sentence about advertisements that have our VRID and are not for us. `seen`: every VRID on the link.
pub fn collision(
    vrid: u8,
    refused: &Refused,
    mac: Option<Mac>,
    seen: &BTreeSet<u8>,
    now: Instant,
) -> Option<String> {
    if now.saturating_duration_since(refused.at) > TOLD_FOR {
        return None;
    }
    let source = match mac {
        Some(mac) => format!("{} ({})", refused.source, MacText(mac)),
        None => refused.source.to_string(),
    };
    let free = (1..=u8::MAX).map(|step| vrid.wrapping_add(step));
    let free = free.into_iter().find(|vrid| *vrid != 0 && !seen.contains(vrid));
    let remedy = match free {
        Some(free) => format!(
            "agree with it, or write virtual_router_id = {free}, which nobody uses here, on every node"
        ),
        None => "agree with it: every VRID is in use here".to_owned(),
    };
    Some(format!("VRID {vrid} is also used by {source}: {}; {remedy}", refused.why))
}
