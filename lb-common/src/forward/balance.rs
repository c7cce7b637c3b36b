//! Which backend a new flow goes to.

use super::flow::tick;
use crate::{
    hash,
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BackendId, Load, SERVICE_HAS_LIMITS, ServiceEntry,
    },
    tables::{BackendCounter, Tables},
};

/// How many backends in the flow's own order of preference are asked, before whichever has room is taken.
const PREFERENCES: u32 = 16;
/// How many members are compared for the fewest connections. Of more than that, so many in a row from a place that the
/// flow's hash names: the verifier's patience with loops is limited, and the least of 64 is as good as any.
const COMPARED: u32 = 64;
/// Handshakes that are not completed count against a backend's limit only while fewer new flows than this ask for it
/// within two seconds: a SYN flood must not fill a backend that has no connections.
const FLOOD: u32 = 1024;

/// The backend for a new flow; `None` where each has all the connections that it may have.
///
/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018): a flow whose backend is full goes
/// to the next in an order of its own, so that what overflows spreads evenly.
#[inline(always)]
pub fn choose<T: Tables>(
    tables: &T,
    service: &ServiceEntry,
    hash: u32,
    attempt: u32,
    clock: u32,
) -> Option<BackendId> {
    let is_limited = service.flags & SERVICE_HAS_LIMITS != 0;
    // A retransmitted SYN must not go where it went before; the fewest connections would lead there again.
    if service.balance != BALANCE_LEAST_CONNECTIONS || attempt != 0 {
        let turn = if service.balance == BALANCE_ROUND_ROBIN { tables.next_turn(service.index) } else { 0 };
        for preference in 0..PREFERENCES {
            let slot = if service.balance == BALANCE_ROUND_ROBIN && service.turns != 0 {
                (turn.wrapping_add(preference) % service.turns) as usize
            } else {
                hash::slot(hash::attempt(hash, attempt.wrapping_add(preference)))
            };
            let id = tables.ring(service.index, slot)?;
            if !is_limited || has_room(tables, id, preference == 0, clock) {
                return Some(id);
            }
            if preference == 0 {
                tables.count(id, BackendCounter::Full);
            }
        }
    }
    least_loaded(tables, service, hash, clock)
}

/// The backend with room that has the fewest connections for its weight. Where several have as few, the flow's hash
/// decides.
#[inline(always)]
fn least_loaded<T: Tables>(tables: &T, service: &ServiceEntry, hash: u32, clock: u32) -> Option<BackendId> {
    let members = tables.members(service.index)?;
    let count = members.count;
    if count == 0 {
        return None;
    }
    let first = hash % count;
    let mut best = None;
    let (mut best_load, mut best_weight) = (u64::MAX, 1);
    for step in 0..COMPARED {
        if step >= count {
            break;
        }
        let mut place = first + step;
        if place >= count {
            place -= count;
        }
        let Some(&id) = members.ids.get(place as usize) else { break };
        let Some(backend) = tables.backend(id) else { continue };
        let Some(slot) = tables.load(id) else { continue };
        let (load, weight) = (slot.read(), u64::from(backend.weight));
        let connections = u64::from(load.active) + u64::from(pending(&load, clock));
        // connections / weight < best_load / best_weight, without the division.
        let is_better = weight != 0 && (best.is_none() || connections * best_weight < best_load * weight);
        if is_better && fits(&load, backend.max_connections, clock) {
            (best, best_load, best_weight) = (Some(id), connections, weight);
        }
    }
    best
}

#[inline(always)]
fn has_room<T: Tables>(tables: &T, id: BackendId, is_its_own: bool, clock: u32) -> bool {
    let Some(backend) = tables.backend(id) else { return false };
    let Some(slot) = tables.load(id) else { return false };
    slot.update(|load| {
        tick(load, clock);
        // Once for each flow, though it asks several, or the only one over and over.
        load.asked = load.asked.wrapping_add(u32::from(is_its_own));
    });
    fits(&slot.read(), backend.max_connections, clock)
}

#[inline(always)]
fn fits(load: &Load, max_connections: u32, clock: u32) -> bool {
    if max_connections == 0 {
        return true;
    }
    let flooded = load.asked.wrapping_add(load.asked_before) > FLOOD;
    let pending = if flooded { 0 } else { pending(load, clock) };
    load.active.saturating_add(pending) < max_connections
}

/// Handshakes of this second and the one before that are not completed.
#[inline(always)]
fn pending(load: &Load, clock: u32) -> u32 {
    match clock.wrapping_sub(load.tick) {
        0 => load.pending.wrapping_add(load.pending_before),
        1 => load.pending,
        _ => 0,
    }
}

/// A handshake with this backend has begun.
#[inline(always)]
pub fn begun<T: Tables>(tables: &T, id: BackendId, clock: u32) {
    if let Some(slot) = tables.load(id) {
        slot.update(|load| {
            tick(load, clock);
            load.pending = load.pending.wrapping_add(1);
        });
    }
}
