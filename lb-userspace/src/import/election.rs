//! Who owns a VIP after which failures: before, by keepalived's rules (or Pacemaker's), and with xvip.
//!
//! What a node does depends on what happened before: a running owner of equal priority keeps the VIP, one of lower
//! priority keeps it from a node with `nopreempt`. So each failure is added to what was before, in every order, and a row
//! has everybody who may own the VIP then.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// A node in an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// How people call it.
    pub name: String,
    /// Of two equal priorities the higher address wins.
    pub address: Option<IpAddr>,
    /// In the file, 1 to 255.
    pub priority: u8,
    /// Whether it takes over from a working owner with a lower priority.
    pub preempt: bool,
    /// What its balancer's death does to it, by keepalived's sign rule: one weight for each track that asks for it. Empty:
    /// nothing.
    pub balancer: Vec<i16>,
    /// What else it depends on, with the weight.
    pub others: Vec<(String, i16)>,
}

/// What has failed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// The whole node, by its number.
    Node(usize),
    /// The balancer on it.
    Balancer(usize),
    /// One of its `others`, by their number.
    Other(usize, usize),
}

/// What may come of a set of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// What has failed, in the nodes' order.
    pub failures: Vec<Failure>,
    /// Who may own the VIP then, by the order in which it failed; `None` is nobody.
    pub owners: BTreeSet<Option<usize>>,
    /// Whether the VIP may be where no balancer lives, although one does elsewhere.
    pub bad: bool,
}

/// More rows are not made: all subsets of 12 failures.
pub const MOST_ROWS: usize = 1 << 12;

/// Every subset of failures, the smaller ones first, and whether all are there: where they were too many, those with the
/// most failures are left out.
///
/// Without `has_balancer` there is none that could die: the kernel balances.
pub fn table(candidates: &[Candidate], has_balancer: bool) -> (Vec<Row>, bool) {
    let mut rows: Vec<Row> = vec![row(candidates, Vec::new(), &BTreeSet::from([winner(candidates, &[])]))];
    let mut level = 0..1;
    // Each level adds one failure behind the last one of the level before, so that each subset is made once.
    let all = failures(candidates, has_balancer);
    loop {
        let before = level.clone();
        level = rows.len()..rows.len();
        for index in before {
            let Some(last) = rows.get(index).map(|row| row.failures.last().cloned()) else { break };
            for failure in all.iter().filter(|failure| last.as_ref().is_none_or(|last| *failure > last)) {
                let mut failures = rows[index].failures.clone();
                if implied(&failures, failure) {
                    continue;
                }
                if rows.len() == MOST_ROWS {
                    return (rows, false);
                }
                failures.push(failure.clone());
                let owners = owners(candidates, &failures, &rows);
                rows.push(row(candidates, failures, &owners));
            }
        }
        level.end = rows.len();
        if level.is_empty() {
            return (rows, true);
        }
    }
}

fn failures(candidates: &[Candidate], has_balancer: bool) -> Vec<Failure> {
    let mut all = Vec::new();
    for (node, candidate) in candidates.iter().enumerate() {
        all.push(Failure::Node(node));
        all.extend(has_balancer.then_some(Failure::Balancer(node)));
        all.extend((0..candidate.others.len()).map(|other| Failure::Other(node, other)));
    }
    all.sort();
    all
}

/// On a dead node nothing more can fail.
fn implied(failures: &[Failure], failure: &Failure) -> bool {
    let (Failure::Balancer(node) | Failure::Other(node, _)) = failure else { return false };
    failures.contains(&Failure::Node(*node))
}

/// Who may own the VIP after these failures: from each set with one of them less, whoever may have owned it then.
fn owners(candidates: &[Candidate], failures: &[Failure], rows: &[Row]) -> BTreeSet<Option<usize>> {
    let mut owners = BTreeSet::new();
    for last in failures {
        let earlier: Vec<Failure> = failures.iter().filter(|failure| *failure != last).cloned().collect();
        let Ok(before) =
            rows.binary_search_by(|row| (row.failures.len(), &row.failures).cmp(&(earlier.len(), &earlier)))
        else {
            continue;
        };
        owners.extend(rows[before].owners.iter().map(|owner| next(candidates, failures, *owner)));
    }
    // A node that dies with something failed on it is the same as one that dies.
    if owners.is_empty() {
        owners.insert(winner(candidates, failures));
    }
    owners
}

/// Who owns it after `failures`, if `owner` did before the last of them.
fn next(candidates: &[Candidate], failures: &[Failure], owner: Option<usize>) -> Option<usize> {
    let Some(owner) = owner else { return winner(candidates, failures) };
    let Some(kept) = priority(candidates, failures, owner) else { return winner(candidates, failures) };
    let rank = |node: &usize| (priority(candidates, failures, *node), candidates[*node].address);
    (0..candidates.len())
        .filter(|node| candidates[*node].preempt)
        .filter(|node| priority(candidates, failures, *node).is_some_and(|priority| priority > kept))
        .max_by_key(rank)
        .or(Some(owner))
}

/// Who gets it when nobody has it.
fn winner(candidates: &[Candidate], failures: &[Failure]) -> Option<usize> {
    (0..candidates.len())
        .filter_map(|node| Some((priority(candidates, failures, node)?, candidates[node].address, node)))
        .max_by(|one, other| (one.0, one.1).cmp(&(other.0, other.1)).then(other.2.cmp(&one.2)))
        .map(|(_, _, node)| node)
}

/// What a node advertises while all is well.
pub fn advertised(candidates: &[Candidate], node: usize) -> Option<u8> {
    candidates.get(node)?;
    priority(candidates, &[], node)
}

/// What a node advertises; nothing if it is dead or in a fault.
fn priority(candidates: &[Candidate], failures: &[Failure], node: usize) -> Option<u8> {
    if failures.contains(&Failure::Node(node)) {
        return None;
    }
    let candidate = &candidates[node];
    let balancer = failures.contains(&Failure::Balancer(node));
    let others = candidate
        .others
        .iter()
        .enumerate()
        .map(|(other, (_, weight))| (*weight, failures.contains(&Failure::Other(node, other))));
    let mut sum = i32::from(candidate.priority);
    for (weight, failed) in candidate.balancer.iter().map(|weight| (*weight, balancer)).chain(others) {
        match weight {
            0 if failed => return None,
            // An address owner's priority never changes.
            _ if candidate.priority == 255 => {}
            weight if weight > 0 && !failed => sum += i32::from(weight),
            weight if weight < 0 && failed => sum += i32::from(weight),
            _ => {}
        }
    }
    let most = if candidate.priority == 255 { 255 } else { 254 };
    u8::try_from(sum.clamp(1, most)).ok()
}

fn row(candidates: &[Candidate], failures: Vec<Failure>, owners: &BTreeSet<Option<usize>>) -> Row {
    let works = |node: usize| {
        !failures.contains(&Failure::Node(node)) && !failures.contains(&Failure::Balancer(node))
    };
    let somebody = (0..candidates.len()).any(works);
    let bad = somebody && owners.iter().any(|owner| !owner.is_some_and(works));
    Row { failures, owners: owners.clone(), bad }
}

#[cfg(test)]
mod tests;
