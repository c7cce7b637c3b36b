//! Which backend a new flow goes to.

use super::flow::{no_longer_pending, tick};
use crate::{
    hash,
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BackendId, Load, SERVICE_HAS_LIMITS, ServiceEntry,
    },
    tables::{BackendCounter, Tables},
};

/// How many backends in the flow's own order of preference are asked, before whichever has room is taken.
const PREFERENCES: u32 = 8;
/// How many members are compared for the fewest connections. Of more than that, so many in a row from a place that the
/// flow's hash names: the verifier's patience with loops is limited, and the least of 64 is as good as any.
const COMPARED: u32 = 64;
/// Handshakes that are not completed count against a backend's limit only while fewer new flows than this ask for it
/// within two seconds: a SYN flood must not fill a backend that has no connections.
const FLOOD: u32 = 1024;

/// The backend for a new flow, which has a place there from now on; `None` where each has all the connections that it may
/// have.
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
            if take_place(tables, service, id, preference == 0, clock) {
                return Some(id);
            }
            if preference == 0 {
                tables.count(id, BackendCounter::Full);
            }
        }
    }
    least_loaded(tables, service, hash, clock).filter(|&id| take_place(tables, service, id, false, clock))
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
        let connections = count_of(load.active) + count_of(pending(&load, clock));
        // connections / weight < best_load / best_weight, without the division.
        let is_better = weight != 0 && (best.is_none() || connections * best_weight < best_load * weight);
        if is_better && fits(&load, backend.max_connections, clock) {
            (best, best_load, best_weight) = (Some(id), connections, weight);
        }
    }
    best
}

/// Takes a place at a backend, if there is one. It is taken before it is looked whether there was: of two CPUs that take
/// the last one at the same time both rather give it back than have it.
#[inline(always)]
fn take_place<T: Tables>(
    tables: &T,
    service: &ServiceEntry,
    id: BackendId,
    is_its_own: bool,
    clock: u32,
) -> bool {
    let Some(load) = tables.load(id) else { return false };
    tick(load, clock);
    load.update(|load| load.pending += 1);
    if service.flags & SERVICE_HAS_LIMITS == 0 {
        return true;
    }
    let Some(backend) = tables.backend(id) else { return false };
    // Once for each flow, though it asks several, or the only one over and over.
    load.update(|load| load.asked = load.asked.wrapping_add(u32::from(is_its_own)));
    let fits =
        backend.max_connections == 0 || taken(&load.read(), clock) <= u64::from(backend.max_connections);
    if !fits {
        load.update(|load| load.pending -= 1);
    }
    fits
}

/// The flow does not come about after all.
#[inline(always)]
pub fn give_back<T: Tables>(tables: &T, id: BackendId, clock: u32) {
    if let Some(load) = tables.load(id) {
        no_longer_pending(load, clock, clock);
    }
}

#[inline(always)]
fn fits(load: &Load, max_connections: u32, clock: u32) -> bool {
    max_connections == 0 || taken(load, clock) < u64::from(max_connections)
}

/// The places that are taken.
#[inline(always)]
fn taken(load: &Load, clock: u32) -> u64 {
    let flooded = load.asked.wrapping_add(load.asked_before) > FLOOD;
    let pending = if flooded { 1 } else { pending(load, clock) };
    count_of(load.active) + count_of(pending)
}

/// Handshakes of this second and the one before that are not completed.
#[inline(always)]
fn pending(load: &Load, clock: u32) -> i64 {
    match clock.wrapping_sub(load.tick) {
        0 => load.pending + load.pending_before,
        1 => load.pending,
        _ => 0,
    }
}

#[inline(always)]
const fn count_of(number: i64) -> u64 {
    if number < 0 { 0 } else { number as u64 }
}
