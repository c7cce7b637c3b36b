//! A sync group: virtual routers of one node that are Active together or not at all.
//!
//! Pure, like the machine in it. A router without a group is a group of one, which behaves exactly as the machine alone.

use std::{net::IpAddr, time::Instant};

use super::{
    advert::Priority,
    fsm::{Event, Reason, VirtualRouter, VrrpState},
};

#[cfg(test)]
mod tests;

/// Virtual routers that share one fate.
///
/// keepalived's sync groups are the model, with its rule that a group becomes Active only if every member wants to. What
/// it leaves open is settled here, so that two nodes never throw each other out by turns and never both give way:
///
/// - **The group has one priority**, the lowest of its members', and each member advertises that. (In keepalived each has
///   its own: with opposite orders on two nodes each wins one election and loses the other, for ever.) So a node outranks
///   another one on all links or on none, and whatever tracking takes from one member it takes from all.
/// - **To Active** when each member, alone, would be: its timer has run out and its witness answers, or it may preempt, or
///   was told to and may. One that hears a router which it must leave alone holds back all. So a link that loses packets
///   moves nothing while another one still hears the Active node.
/// - **From Active** together: a member that loses an election takes all with it, in peace, each with a last word; so
///   does one that has slept, without a word. [`Event::Release`], [`Event::Acquire`], [`Event::Shutdown`],
///   [`Event::Leave`], [`Event::Start`] and [`Event::Resume`] to one are to all.
/// - **A fault of one is a fault of all**, until all are well.
/// - **Of equal priorities the address decides**, on the first member's link. Those of the others may be in another order
///   (IPv6 addresses beside IPv4 ones), and two nodes that both gave way would meet again forever: a lost tie on the
///   link of member n counts only after n down intervals of it, when no member before it has settled the matter because
///   its link is cut.
///
/// # Contract
/// That of [`VirtualRouter`]. The members are in the same order on every node; those of one group should have the same
/// interval and the same preemption. Ask the arrival clock for every Backup member ([`Event::Arrived`]) before
/// [`Event::Timer`], which is for all members, whichever it is handed to.
#[derive(Clone, Debug)]
pub struct SyncGroup {
    names: Vec<String>,
    members: Vec<VirtualRouter>,
    /// What each member itself depends on.
    tracking: Vec<Result<(), String>>,
    /// For each member: the tie that it is losing.
    ties: Vec<Option<Tie>>,
}

/// An election between equal priorities that goes on.
#[derive(Clone, Copy, Debug)]
struct Tie {
    since: Instant,
    heard: Instant,
}

impl SyncGroup {
    /// A group of routers in `Initialize`, with the names of their instances.
    pub fn new(members: impl IntoIterator<Item = (String, VirtualRouter)>) -> Self {
        let (names, mut members): (Vec<_>, Vec<_>) = members.into_iter().unzip();
        if members.len() > 1 {
            members.iter_mut().for_each(VirtualRouter::join_group);
        }
        Self { tracking: vec![Ok(()); members.len()], ties: vec![None; members.len()], names, members }
    }

    /// The members, in order.
    pub fn members(&self) -> &[VirtualRouter] {
        &self.members
    }

    /// When [`Event::Timer`] is due; `None` while there is nothing to wait for.
    pub fn deadline(&self) -> Option<Instant> {
        self.members.iter().filter_map(VirtualRouter::deadline).min()
    }

    /// The next advertisement to send: which member's, and with what priority.
    pub fn poll_advert(&mut self) -> Option<(usize, Priority)> {
        let adverts = self.members.iter_mut().enumerate();
        adverts.filter_map(|(member, router)| Some((member, router.poll_advert()?))).next()
    }

    /// Takes one event of one member at the time `now`. An index that no member has is ignored.
    pub fn handle(&mut self, now: Instant, member: usize, event: Event) {
        if member >= self.members.len() {
            return;
        }
        if let [only] = self.members.as_mut_slice() {
            return only.handle(now, event);
        }
        self.members.iter_mut().for_each(|router| router.notice_time(now));
        self.leave_together(now);
        match event {
            Event::Start
            | Event::Resume { .. }
            | Event::Timer
            | Event::Shutdown
            | Event::Leave(_)
            | Event::Release
            | Event::Acquire => {
                self.members.iter_mut().for_each(|router| router.handle(now, event.clone()));
            }
            Event::TrackingFailed(what) => self.track(now, member, Err(what)),
            Event::TrackingRecovered => self.track(now, member, Ok(())),
            Event::Advert { source, priority, .. } if self.defers(now, member, source, priority) => {
                self.members[member].insist(now);
            }
            Event::Advert { .. }
            | Event::Arrived { .. }
            | Event::Weighted(_)
            | Event::Witness(_)
            | Event::Reconfigure(_) => self.members[member].handle(now, event),
        }
        self.leave_together(now);
        self.share_priority(now);
        self.become_active_together(now);
    }

    /// Whoever is still Active when another member has lost an election or has slept goes with it.
    fn leave_together(&mut self, now: Instant) {
        // Who has left to a successor is no loser: the others are about to.
        let active = |router: &VirtualRouter| router.state() == VrrpState::Active || router.has_left();
        if !self.members.iter().any(active) {
            return;
        }
        let Some(gone) = self.members.iter().position(|router| !active(router)) else { return };
        let reason = self.members[gone].reason().clone();
        let name = &self.names[gone];
        self.members.iter_mut().for_each(|router| router.follow(now, name, &reason));
    }

    fn share_priority(&mut self, now: Instant) {
        let lowest = self.members.iter().map(VirtualRouter::own_priority).min();
        let lowest = lowest.unwrap_or(Priority::OWNER);
        self.members.iter_mut().for_each(|router| router.set_limit(now, lowest));
    }

    fn become_active_together(&mut self, now: Instant) {
        let claims: Vec<Option<Reason>> = self.members.iter_mut().map(|router| router.claims(now)).collect();
        match claims.into_iter().collect::<Option<Vec<Reason>>>() {
            Some(reasons) => {
                for (router, reason) in self.members.iter_mut().zip(reasons) {
                    router.take_over(now, reason);
                }
                self.ties.fill(None);
            }
            None => self.members.iter_mut().for_each(VirtualRouter::forget_command),
        }
    }

    fn track(&mut self, now: Instant, member: usize, verdict: Result<(), String>) {
        self.tracking[member] = verdict;
        let failed = (self.names.iter().zip(&self.tracking))
            .find_map(|(name, verdict)| Some((name, verdict.as_ref().err()?)))
            .map(|(name, what)| format!("sync group: instance {name}: {what}"));
        for (router, own) in self.members.iter_mut().zip(&self.tracking) {
            let verdict = own.as_ref().err().or(failed.as_ref()).cloned();
            router.handle(now, verdict.map_or(Event::TrackingRecovered, Event::TrackingFailed));
        }
    }

    /// Whether a tie that `member` loses does not count yet.
    fn defers(&mut self, now: Instant, member: usize, source: IpAddr, priority: Priority) -> bool {
        let router = &self.members[member];
        if !router.loses_tie(source, priority) {
            return false;
        }
        let patience = router.patience();
        let tie = &mut self.ties[member];
        let since = tie.filter(|tie| now.saturating_duration_since(tie.heard) < patience);
        let since = since.map_or(now, |tie| tie.since);
        *tie = Some(Tie { since, heard: now });
        // At most 255 virtual routers on a link.
        let turns = u32::try_from(member).unwrap_or(u32::MAX);
        now.saturating_duration_since(since) < patience.saturating_mul(turns)
    }
}
