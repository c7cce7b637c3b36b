use super::*;

fn node(number: u8, priority: u8, balancer: &[i16]) -> Candidate {
    Candidate {
        name: format!("lb{number}"),
        address: Some(IpAddr::from([10, 0, 0, number])),
        priority,
        preempt: true,
        balancer: balancer.to_vec(),
        others: Vec::new(),
    }
}

fn row_of(candidates: &[Candidate], failures: &[Failure]) -> Row {
    let (rows, complete) = table(candidates, true);
    assert!(complete);
    rows.into_iter().find(|row| row.failures == failures).expect("its row")
}

fn only(node: usize) -> BTreeSet<Option<usize>> {
    BTreeSet::from([Some(node)])
}

use Failure::{Balancer, Node, Other};

/// Measured with keepalived 2.2.7: node 2 off, then HAProxy dies on node 1; 22 s later node 1 still had the VIP.
#[test]
fn a_weight_as_large_as_the_gap_leaves_the_vip_on_a_dead_node() {
    let three = |weight| [node(1, 100, &[weight]), node(2, 99, &[weight]), node(3, 98, &[weight])];
    let row = row_of(&three(-2), &[Node(1), Balancer(0)]);
    // In the other order node 2 takes over first, and node 3 wins when that dies: the higher address of two equals.
    assert_eq!((row.owners, row.bad), (BTreeSet::from([Some(0), Some(2)]), true));
    let row = row_of(&three(-3), &[Node(1), Balancer(0)]);
    assert_eq!((row.owners, row.bad), (only(2), false));
    // As keepalived adds it: while all is well.
    assert!(row_of(&three(2), &[Node(1), Balancer(0)]).bad);
    assert!(
        table(&three(3), true).0.iter().all(|row| !row.bad),
        "a weight above the gap serves whatever fails"
    );
}

#[test]
fn without_a_track_nobody_notices() {
    let two = [node(1, 100, &[]), node(2, 90, &[])];
    let row = row_of(&two, &[Balancer(0)]);
    assert_eq!((row.owners, row.bad), (only(0), true));
    assert!(!row_of(&two, &[Balancer(0), Balancer(1)]).bad, "nobody could serve");
    let fault = [node(1, 100, &[0]), node(2, 90, &[0])];
    assert_eq!(row_of(&fault, &[Balancer(0)]).owners, only(1));
    assert_eq!(row_of(&fault, &[Balancer(0), Balancer(1)]).owners, BTreeSet::from([None]));
    assert_eq!(row_of(&fault, &[Node(0), Node(1)]).owners, BTreeSet::from([None]));
}

#[test]
fn of_equals_the_higher_address_wins_and_a_running_one_stays() {
    let equal = [node(1, 100, &[2]), node(2, 100, &[2]), node(3, 100, &[2])];
    assert_eq!(row_of(&equal, &[]).owners, only(2));
    assert_eq!(row_of(&equal, &[Node(2)]).owners, only(1));
    assert_eq!(row_of(&equal, &[Balancer(2)]).owners, only(1));
    // Whoever has it when the last one fails keeps it: all are 100 again.
    let all = row_of(&equal, &[Balancer(0), Balancer(1), Balancer(2)]);
    assert_eq!(all.owners, BTreeSet::from([Some(0), Some(1), Some(2)]));
    let unknown = [node(1, 100, &[]), Candidate { address: None, ..node(2, 100, &[]) }];
    assert_eq!(row_of(&unknown, &[]).owners, only(0));
}

#[test]
fn nopreempt_does_not_take_over_from_whoever_works_less() {
    let lazy = |number, priority| Candidate { preempt: false, ..node(number, priority, &[-50]) };
    let row = row_of(&[lazy(1, 100), lazy(2, 90)], &[Balancer(0)]);
    assert_eq!((row.owners, row.bad), (only(0), true));
    assert_eq!(row_of(&[lazy(1, 100), lazy(2, 90)], &[Node(0)]).owners, only(1));
    assert_eq!(row_of(&[lazy(1, 100), node(2, 90, &[-50])], &[Balancer(0)]).owners, only(1));
}

#[test]
fn weights_add_up_as_keepalived_does_it() {
    let with = |others: &[i16]| Candidate {
        others: others.iter().map(|weight| ("uplink".to_owned(), *weight)).collect(),
        ..node(1, 100, &[5])
    };
    let value = |candidate: Candidate, failures: &[Failure]| priority(&[candidate], failures, 0);
    assert_eq!(value(with(&[10, -20]), &[]), Some(115));
    assert_eq!(value(with(&[10, -20]), &[Other(0, 0)]), Some(105));
    assert_eq!(value(with(&[10, -20]), &[Balancer(0), Other(0, 0), Other(0, 1)]), Some(80));
    assert_eq!(value(with(&[253]), &[]), Some(254));
    assert_eq!(value(with(&[-253]), &[Other(0, 0)]), Some(1));
    assert_eq!(value(with(&[0]), &[Other(0, 0)]), None);
    let owner = Candidate { priority: 255, ..with(&[-253]) };
    assert_eq!(value(owner, &[Other(0, 0), Balancer(0)]), Some(255));
}

#[test]
fn each_subset_is_there_once_and_too_many_are_said_to_be() {
    let (rows, complete) = table(&[node(1, 100, &[0]), node(2, 90, &[0]), node(3, 80, &[0])], true);
    // Each node works, works without its balancer, or is dead.
    assert_eq!((rows.len(), complete), (27, true));
    assert!(rows.is_sorted_by_key(|row| row.failures.len()));
    let distinct: BTreeSet<_> = rows.iter().map(|row| row.failures.clone()).collect();
    assert_eq!(distinct.len(), 27);
    assert_eq!(table(&[node(1, 100, &[0])], false).0.len(), 2);
    let many: Vec<Candidate> = (1..=9).map(|number| node(number, 100 + number, &[0])).collect();
    let (rows, complete) = table(&many, true);
    assert_eq!((rows.len(), complete), (MOST_ROWS, false));
    let (rows, complete) = table(&[], true);
    assert_eq!((rows.len(), rows[0].owners.clone(), complete), (1, BTreeSet::from([None]), true));
}

/// The same by trying every order of the failures.
#[test]
fn the_owners_are_those_of_all_orders() {
    fn orders(failures: &[Failure]) -> Vec<Vec<Failure>> {
        if failures.is_empty() {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for index in 0..failures.len() {
            let mut rest = failures.to_vec();
            let last = rest.remove(index);
            all.extend(orders(&rest).into_iter().map(|mut order| {
                order.push(last.clone());
                order
            }));
        }
        all
    }
    let candidates = [
        Candidate { preempt: false, ..node(1, 100, &[-2]) },
        node(2, 99, &[-2]),
        Candidate { others: vec![("uplink".to_owned(), -1)], ..node(3, 98, &[0]) },
    ];
    let (rows, _) = table(&candidates, true);
    assert!(rows.len() > 40);
    for row in rows {
        let mut expected = BTreeSet::new();
        for order in orders(&row.failures) {
            let mut owner = winner(&candidates, &[]);
            for count in 1..=order.len() {
                owner = next(&candidates, &order[..count], owner);
            }
            expected.insert(owner);
        }
        assert_eq!(row.owners, expected, "{:?}", row.failures);
    }
}
