//! Which backend a new flow goes to.

use super::{
    Family,
    flow::{no_longer_pending, tick},
};
use crate::{
    hash,
    layout::{
        BALANCE_LEAST_CONNECTIONS, BALANCE_ROUND_ROBIN, BackendEntry, BackendId, Load, SERVICE_HAS_LIMITS,
        SERVICE_HAS_SHARES, Scratch, Search, ServiceEntry,
    },
    tables::{BackendCounter, Slot, Tables},
};

/// How many backends in the flow's own order of preference are asked, before whichever has room is taken.
const PREFERENCES: u32 = 8;
/// How many members are compared for the fewest connections. Of more than that, so many in a row from a place that the
/// flow's hash names: the verifier's patience with loops is limited, and the least of 64 is as good as any.
const COMPARED: u32 = 64;
/// Handshakes that are not completed count against a backend's limit only while fewer new flows than this ask for it
/// within two seconds: a SYN flood must not fill a backend that has no connections.
const FLOOD: u32 = 1024;

/// The backend of a new flow's own choice, which has a place there from now on. Nearly all flows go there; `None` says that
/// it has to be searched for, by [`search`], which all that it goes by is left for.
#[inline(always)]
pub fn first<A: Family, T: Tables>(
    tables: &T,
    scratch: Slot<Scratch>,
    service: &ServiceEntry,
    hash: u32,
    attempt: u32,
    clock: u32,
) -> Option<BackendId> {
    let (mut turn, mut beyond) = (0, 0);
    if has_preferences(service, attempt) {
        if service.balance == BALANCE_ROUND_ROBIN {
            turn = tables.next_turn(service.index);
        }
        if let Some(id) = tables.ring(service.index, preferred(service, hash, attempt, turn, 0)) {
            match take_place(tables, scratch, || service.flags, id, true, clock) {
                Place::Taken => return Some(id),
                Place::Beyond => beyond = u32::from(id) + 1,
                Place::Full => tables.count(id, BackendCounter::Full),
            }
        }
    }
    scratch.update(|scratch| {
        scratch.backend = beyond;
        scratch.service = *service;
        scratch.hash = hash;
        scratch.turn = turn;
        scratch.is_v6 = u32::from(A::IS_V6);
    });
    None
}

/// The backend for a new flow that has no place at that of its own choice. It has one there from now on; `None` where each has
/// all the connections that it may have.
///
/// Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, SODA 2018): a flow whose backend is full goes
/// to the next in an order of its own, so that what overflows spreads evenly. So does one whose backend has its share, but
/// where nobody has less than that it goes where it would have gone without any shares.
#[inline(always)]
pub fn search<T: Tables>(tables: &T, scratch: Slot<Scratch>, clock: u32) -> Option<BackendId> {
    let Scratch { service, hash, turn, attempt, .. } = scratch.read();
    // Read again wherever they are asked: the verifier would follow all the rest once for each answer.
    let flags = || scratch.field(|scratch| &mut scratch.service.flags).reread();
    if has_preferences(&service, attempt) {
        for preference in 1..PREFERENCES {
            let id = tables.ring(service.index, preferred(&service, hash, attempt, turn, preference))?;
            match take_place(tables, scratch, flags, id, false, clock) {
                Place::Taken => return Some(id),
                // Kept in a map: the verifier would follow the loop once for each backend that it could be.
                Place::Beyond => scratch.update(|scratch| {
                    if scratch.backend == 0 {
                        scratch.backend = u32::from(id) + 1;
                    }
                }),
                Place::Full => {}
            }
        }
    }
    let least = least_loaded(tables, scratch, service.index, flags, hash, clock);
    if let Some(id) = least
        && take_place(tables, scratch, flags, id, false, clock) == Place::Taken
    {
        return Some(id);
    }
    // Nobody has less than its share: no more of shares.
    let id = match scratch.field(|scratch| &mut scratch.backend).reread() {
        0 => least?,
        beyond => (beyond - 1) as BackendId,
    };
    let unshared = || flags() & !SERVICE_HAS_SHARES;
    (take_place(tables, scratch, unshared, id, false, clock) == Place::Taken).then_some(id)
}

/// Whether a flow asks backends in an order of its own. A retransmitted SYN must not go where it went before; the fewest
/// connections would lead there again.
#[inline(always)]
const fn has_preferences(service: &ServiceEntry, attempt: u32) -> bool {
    service.balance != BALANCE_LEAST_CONNECTIONS || attempt != 0
}

/// The slot of the service's table that names a flow's `preference`th choice.
#[inline(always)]
const fn preferred(service: &ServiceEntry, hash: u32, attempt: u32, turn: u32, preference: u32) -> usize {
    if service.balance == BALANCE_ROUND_ROBIN && service.turns != 0 {
        (turn.wrapping_add(preference) % service.turns) as usize
    } else {
        hash::slot(hash::attempt(hash, attempt.wrapping_add(preference)))
    }
}

/// The backend with room that has the fewest connections for its weight: of those that have less than their share, where
/// there are any. Where several have as few, the flow's hash decides.
#[inline(always)]
fn least_loaded<T: Tables>(
    tables: &T,
    scratch: Slot<Scratch>,
    service: u32,
    flags: impl Fn() -> u16,
    hash: u32,
    clock: u32,
) -> Option<BackendId> {
    let members = tables.members(service)?;
    let count = members.count;
    if count == 0 {
        return None;
    }
    let search = scratch.field(|scratch| &mut scratch.search);
    search.update(|search| *search = Search { count, place: hash % count, ..Search::default() });
    let turn = search.field(|search| &mut search.place);
    for step in 0..COMPARED {
        // Read again in each round: what these two have been compared with would set the rounds apart, since one of them leads
        // into the list.
        let count = search.field(|search| &mut search.count).reread();
        if step >= count {
            break;
        }
        let place = turn.reread();
        turn.update(|next| *next = if place + 1 >= count { 0 } else { place + 1 });
        let Some(&id) = members.ids.get(place as usize) else { break };
        let Some(backend) = tables.backend(id) else { continue };
        let Some(slot) = tables.load(id) else { continue };
        let load = slot.read();
        let connections = count_of(load.active) + count_of(pending(&load, clock));
        let connections = search.field(|search| &mut search.connections).pass(connections);
        let taken = search.field(|search| &mut search.taken).pass(taken(&load, pending(&load, clock)));
        let is_full = backend.max_connections != 0 && taken >= u64::from(backend.max_connections);
        if backend.weight == 0 || is_full {
            continue;
        }
        let asked = if load.tick == clock { load.asked } else { 0 };
        let is_beyond = is_beyond(flags(), &backend, taken + 1, asked.wrapping_add(1));
        let is_beyond = search.field(|search| &mut search.is_beyond).pass(is_beyond.into());
        let best = search.reread();
        let weight = u64::from(backend.weight);
        // connections / weight < best_connections / best_weight, without the division.
        let has_fewer = best.best == 0 || connections * best.best_weight < best.best_connections * weight;
        // Whoever has less than its share comes before those who have theirs.
        if best.best == 0
            || is_beyond < best.best_is_beyond
            || (is_beyond == best.best_is_beyond && has_fewer)
        {
            search.update(|search| {
                search.best_connections = connections;
                search.best_weight = weight;
                search.best = u32::from(id) + 1;
                search.best_is_beyond = is_beyond;
            });
        }
    }
    match search.field(|search| &mut search.best).reread() {
        0 => None,
        best => Some((best - 1) as BackendId),
    }
}

/// What a backend says to a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has taken one.
    Taken,
    /// There is room, but the backend has its share.
    Beyond,
    /// There is none.
    Full,
}

/// Takes a place at a backend, if there is one. It is taken before it is looked whether there was: of two CPUs that take
/// the last one at the same time both rather give it back than have it.
#[inline(always)]
fn take_place<T: Tables>(
    tables: &T,
    scratch: Slot<Scratch>,
    flags: impl Fn() -> u16,
    id: BackendId,
    is_its_own: bool,
    clock: u32,
) -> Place {
    let Some(load) = tables.load(id) else { return Place::Full };
    tick(load, clock);
    load.update(|load| load.pending += 1);
    if flags() & (SERVICE_HAS_LIMITS | SERVICE_HAS_SHARES) == 0 {
        return Place::Taken;
    }
    let Some(backend) = tables.backend(id) else { return Place::Full };
    // Once for each flow, though it asks several, or the only one over and over.
    load.update(|load| load.asked = load.asked.wrapping_add(u32::from(is_its_own)));
    let now = load.read();
    let search = scratch.field(|scratch| &mut scratch.search);
    let taken = search.field(|search| &mut search.taken).pass(taken(&now, now.pending + now.pending_before));
    let mut place = Place::Taken;
    if backend.max_connections != 0 && taken > u64::from(backend.max_connections) {
        place = Place::Full;
    } else if is_beyond(flags(), &backend, taken, now.asked.wrapping_add(u32::from(!is_its_own))) {
        place = Place::Beyond;
    }
    if place != Place::Taken {
        load.update(|load| load.pending -= 1);
    } else if !is_its_own && flags() & SERVICE_HAS_SHARES != 0 {
        load.update(|load| load.asked = load.asked.wrapping_add(1));
    }
    place
}

/// Whether a backend has more than its share, or more new flows than it takes in a tick, with one that makes so many places
/// taken and so many flows that have asked.
#[inline(always)]
const fn is_beyond(flags: u16, backend: &BackendEntry, taken: u64, asked: u32) -> bool {
    flags & SERVICE_HAS_SHARES != 0
        && ((backend.share != 0 && taken > backend.share as u64)
            || (backend.new_per_tick != 0 && asked > backend.new_per_tick))
}

/// The flow does not come about after all.
#[inline(always)]
pub fn give_back<T: Tables>(tables: &T, id: BackendId, clock: u32) {
    if let Some(load) = tables.load(id) {
        no_longer_pending(load, clock, clock);
    }
}

/// The places that are taken, where so many handshakes are pending.
#[inline(always)]
fn taken(load: &Load, pending: i64) -> u64 {
    let flooded = load.asked.wrapping_add(load.asked_before) > FLOOD;
    let pending = if flooded { 1 } else { pending };
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
