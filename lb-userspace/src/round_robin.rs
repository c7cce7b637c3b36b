//! Weighted round-robin as a table: slot `n` names the backend that the `n`th new flow goes to.
//!
//! The order is that of *smooth weighted round-robin* (nginx, `ngx_http_upstream_round_robin.c`): at each turn every
//! backend's credit grows by its weight, the one with the most credit has the turn and pays the sum of the weights for
//! it. Turns repeat after a period of that sum, divided by what the weights have in common; so weights 5, 1, 1 make
//! `a a b a c a a`, not `a a a a a b c`.
//!
//! The table has the form of a Maglev table, so that the data plane has one kind. It walks through it with a counter
//! instead of a hash.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use lb_common::{
    hash::MAGLEV_SLOTS,
    layout::{BackendId, MaglevSlots},
};

use crate::{
    apportion::apportion,
    maglev::{Member, in_order},
};

/// Whose turn it is, flow by flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turns {
    /// All slots name a backend, those from `length` on, too.
    pub slots: Arc<MaglevSlots>,
    /// How many slots to walk through before beginning again: as many whole periods as fit. At least 1, at most
    /// `MAGLEV_SLOTS`.
    pub length: u32,
}

/// Backends of equal weight. Among them the turn always passes to the next one, so their credits need no list.
struct Peers {
    weight: i64,
    /// Position among all backends, and id.
    members: Vec<(usize, BackendId)>,
    /// Turns that they have had together.
    had: usize,
}

impl Peers {
    fn next(&self) -> (usize, BackendId) {
        self.members[self.had % self.members.len()]
    }

    /// The credit of the next one at turn `turn`, counted from 1.
    fn credit(&self, turn: i64, total: i64) -> i64 {
        turn * self.weight - (self.had / self.members.len()) as i64 * total
    }
}

/// The turns for a set of backends; `None` where no backend has any weight.
///
/// Depends on addresses and weights alone, not on the order of `members`; where credits are equal, the lower address
/// comes first. In every period each backend has as many turns as its weight says, exactly. Where a period would
/// exceed the table, the table is the period, and each share of it within one slot of its proportion (see
/// [`apportion`]).
pub fn turns(members: &[Member]) -> Option<Turns> {
    let members = in_order(members);
    let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
    let common = weights.iter().copied().reduce(common_divisor)?;
    let mut parts: Vec<u32> = weights.iter().map(|&weight| u32::from(weight / common)).collect();
    if parts.iter().map(|&part| part as usize).sum::<usize>() > MAGLEV_SLOTS {
        parts = apportion(&weights, MAGLEV_SLOTS as u32);
    }
    let period: usize = parts.iter().map(|&part| part as usize).sum();

    let mut order = Vec::with_capacity(period);
    let mut peers = peers(&members, &parts);
    for turn in 1..=period as i64 {
        let chosen = peers.iter_mut().max_by_key(|peers| {
            let (position, _) = peers.next();
            (peers.credit(turn, period as i64), Reverse(position))
        })?;
        order.push(chosen.next().1);
        chosen.had += 1;
    }
    let slots: Arc<[BackendId]> = order.iter().copied().cycle().take(MAGLEV_SLOTS).collect();
    let length = MAGLEV_SLOTS - MAGLEV_SLOTS % period;
    Some(Turns { slots: slots.try_into().ok()?, length: length as u32 })
}

/// The backends by weight; those without a turn are left out.
fn peers(members: &[Member], parts: &[u32]) -> Vec<Peers> {
    let mut by_weight = BTreeMap::<u32, Vec<(usize, BackendId)>>::new();
    for (position, (member, &part)) in members.iter().zip(parts).enumerate() {
        if part > 0 {
            by_weight.entry(part).or_default().push((position, member.id));
        }
    }
    by_weight.into_iter().map(|(part, members)| Peers { weight: part.into(), members, had: 0 }).collect()
}

/// Euclid's; neither is 0.
fn common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests;
