//! Who loses how many connections, and who has room for them. Pure.
//!
//! The fair share of a backend is its part, by weight, of all connections of those that take part; a backend that may not
//! have as many (`max_connections`) has its limit, and the others share what is left. The plan has the fewest resets after
//! which everybody is within the margin: as many as are too many, or as many as are missing, whichever are more. Nobody
//! loses so many that it is below its fair share afterwards or below the floor, and no more are reset than there is room
//! for: a connection that would have to come back stays.

/// A backend that takes part: up, with weight, and neither drained nor disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its weight, configured or given by an operator; not that of a slow start.
    pub weight: u16,
    /// Its connections.
    pub active: u64,
    /// `max_connections`; 0 is no limit.
    pub limit: u32,
}

/// How exact, and for whom not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tolerance {
    /// Tolerated distance from the fair share, in percent of it; at most 100.
    pub margin: u8,
    /// A backend with no more connections than that loses none.
    pub floor: u32,
}

/// What becomes of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its fair share, in whole connections; together these are all connections, unless limits are in the way.
    pub fair: u64,
    /// How many of its connections are reset.
    pub loses: u64,
    /// How many of those that are reset it is to get.
    pub gains: u64,
}

impl Part {
    /// How many it has when all is done.
    pub const fn after(&self, active: u64) -> u64 {
        active.saturating_sub(self.loses).saturating_add(self.gains)
    }
}

/// Who loses how many; in the order of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// One for each member.
    pub parts: Vec<Part>,
}

impl Plan {
    /// How many connections are reset.
    pub fn resets(&self) -> u64 {
        self.parts.iter().map(|part| part.loses).sum()
    }
}

/// The plan with the fewest resets.
pub fn plan(members: &[Member], tolerance: Tolerance) -> Plan {
    let shares = shares(members, total(members));
    let margin = u128::from(tolerance.margin.min(100));
    let spans = members.iter().zip(&shares).map(|(member, share)| {
        let most = (share.exact.times(100 + margin).floor()).max(share.exact.ceil()).max(share.whole);
        let least = (share.exact.times(100 - margin).ceil()).min(share.exact.floor()).min(share.whole);
        let spare = member.active.saturating_sub(share.whole);
        let can_lose = spare.min(member.active.saturating_sub(tolerance.floor.into()));
        Span {
            must_lose: member.active.saturating_sub(most).min(can_lose),
            can_lose,
            must_gain: least.saturating_sub(member.active),
            can_gain: share.whole.saturating_sub(member.active),
        }
    });
    let spans: Vec<Span> = spans.collect();
    let sum = |of: fn(&Span) -> u64| spans.iter().map(of).sum::<u64>();
    let resets = sum(|span| span.must_lose).max(sum(|span| span.must_gain));
    let resets = resets.min(sum(|span| span.can_lose)).min(sum(|span| span.can_gain));

    let column = |of: fn(&Span) -> u64| spans.iter().map(of).collect::<Vec<_>>();
    let loses = divided(resets, &column(|span| span.must_lose), &column(|span| span.can_lose));
    let gains = divided(resets, &column(|span| span.must_gain), &column(|span| span.can_gain));
    let parts = shares.iter().zip(loses.into_iter().zip(gains));
    Plan { parts: parts.map(|(share, (loses, gains))| Part { fair: share.whole, loses, gains }).collect() }
}

/// Whether somebody is farther from its fair share than chance explains. Without that, a service with many short connections
/// would be rebalanced for ever.
///
/// Connections that are thrown on backends by their hash are distributed binomially; three standard deviations are exceeded
/// by chance three times in a thousand.
pub fn is_no_chance(members: &[Member]) -> bool {
    let total = total(members);
    let shares = shares(members, total);
    let total = u128::from(total);
    members.iter().zip(shares).any(|(member, share)| {
        let fair = u128::from(share.whole);
        let off = u128::from(member.active).abs_diff(fair);
        let square = off.saturating_mul(off);
        square.saturating_mul(total) > (9 * fair).saturating_mul(total.saturating_sub(fair))
    })
}

#[derive(Clone, Copy, Debug)]
struct Span {
    must_lose: u64,
    can_lose: u64,
    must_gain: u64,
    can_gain: u64,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    exact: Ratio,
    whole: u64,
}

/// A number that is not negative, exactly.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    over: u128,
    under: u128,
}

impl Ratio {
    /// Of so many percent.
    fn times(self, percent: u128) -> Self {
        Self { over: self.over * percent, under: self.under * 100 }
    }

    fn floor(self) -> u64 {
        u64::try_from(self.over / self.under).unwrap_or(u64::MAX)
    }

    fn ceil(self) -> u64 {
        u64::try_from(self.over.div_ceil(self.under)).unwrap_or(u64::MAX)
    }
}

/// The same members when so many connections that are on their way have arrived where there is room for them.
pub fn with_arrivals(members: &[Member], arriving: u64) -> Vec<Member> {
    let shares = shares(members, total(members).saturating_add(arriving));
    let room: Vec<u64> =
        shares.iter().zip(members).map(|(share, member)| share.whole.saturating_sub(member.active)).collect();
    let arrivals = in_proportion(arriving.min(room.iter().sum()), &room);
    let members = members.iter().zip(arrivals);
    members.map(|(member, more)| Member { active: member.active + more, ..*member }).collect()
}

/// All connections of the members.
pub fn total(members: &[Member]) -> u64 {
    members.iter().map(|member| member.active).sum()
}

/// The fair share of each member in so many connections.
fn shares(members: &[Member], total: u64) -> Vec<Share> {
    let mut limited = vec![false; members.len()];
    loop {
        let free =
            || members.iter().zip(&limited).filter(|(_, limited)| !**limited).map(|(member, _)| member);
        let weights: u128 = free().map(|member| u128::from(member.weight)).sum::<u128>().max(1);
        let taken: u64 = members
            .iter()
            .zip(&limited)
            .filter(|(_, limited)| **limited)
            .map(|(m, _)| u64::from(m.limit))
            .sum();
        let left = total.saturating_sub(taken);
        let exact =
            |member: &Member| Ratio { over: u128::from(left) * u128::from(member.weight), under: weights };
        let mut more = false;
        for (member, limited) in members.iter().zip(&mut limited) {
            let limit = u128::from(member.limit);
            if !*limited && limit > 0 && exact(member).over > limit * exact(member).under {
                (*limited, more) = (true, true);
            }
        }
        if more {
            continue;
        }
        let mut shares: Vec<Share> = (members.iter().zip(&limited))
            .map(|(member, limited)| {
                let exact =
                    if *limited { Ratio { over: member.limit.into(), under: 1 } } else { exact(member) };
                Share { exact, whole: exact.floor() }
            })
            .collect();
        // What cannot be shared goes to the largest remainders; of equal ones to who has most, which saves a reset.
        let mut order: Vec<usize> =
            (0..members.len()).filter(|&n| !limited[n] && members[n].weight > 0).collect();
        order.sort_by_key(|&n| {
            let Ratio { over, under } = shares[n].exact;
            std::cmp::Reverse((over % under, members[n].active))
        });
        let whole: u64 =
            shares.iter().zip(&limited).filter(|(_, limited)| !**limited).map(|(s, _)| s.whole).sum();
        let over = usize::try_from(left.saturating_sub(whole)).unwrap_or(usize::MAX);
        for &n in order.iter().take(over) {
            if members[n].limit == 0 || shares[n].whole < u64::from(members[n].limit) {
                shares[n].whole += 1;
            }
        }
        return shares;
    }
}

/// Divides `total`, at most the sum of `most`: first to whom it is due, then in proportion to what is left of `most`. Where it
/// is not enough for what is due, in proportion to that.
fn divided(total: u64, due: &[u64], most: &[u64]) -> Vec<u64> {
    let all_due: u64 = due.iter().sum();
    if total <= all_due {
        return in_proportion(total, due);
    }
    let left: Vec<u64> = most.iter().zip(due).map(|(most, due)| most.saturating_sub(*due)).collect();
    let more = in_proportion(total - all_due, &left);
    due.iter().zip(more).map(|(due, more)| due + more).collect()
}

/// Divides `total`, at most the sum of `bounds`, so that nobody gets more than its bound.
fn in_proportion(total: u64, bounds: &[u64]) -> Vec<u64> {
    let sum: u128 = bounds.iter().map(|&bound| u128::from(bound)).sum();
    if sum == 0 {
        return vec![0; bounds.len()];
    }
    let exact = |bound: u64| u128::from(total) * u128::from(bound);
    let mut parts: Vec<u64> = bounds.iter().map(|&bound| (exact(bound) / sum) as u64).collect();
    let mut order: Vec<usize> = (0..bounds.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(exact(bounds[n]) % sum));
    let missing = total.saturating_sub(parts.iter().sum());
    for &n in order.iter().take(usize::try_from(missing).unwrap_or(usize::MAX)) {
        parts[n] += u64::from(parts[n] < bounds[n]);
    }
    parts
}

#[cfg(test)]
mod tests;
