//! What is measured: programs with tables ([`Plane`]), and packets for them ([`Case`]). Pure.

use lb_common::layout::{MODE_DSR_IPIP, MODE_DSR_L2, MODE_NAT};

use super::super::report::Goal;
use crate::rig::Form;

/// How many flows a case walks through, as far as the machine is asked for.
pub const FLOWS: [u32; 4] = [1, 1 << 10, 1 << 16, 1 << 20];
/// Between them, for the two that do what Katran does and Katran: where memory begins to count.
const BETWEEN: [u32; 5] = [1 << 4, 1 << 8, 1 << 12, 1 << 14, 1 << 18];
/// The number of flows that goals are set for besides 1, and that IPv6 is measured with.
const SOME: u32 = FLOWS[2];
/// Growth is counted from here.
pub const FEW: u32 = FLOWS[1];
/// Backends of a service where nothing else is said.
const BACKENDS: u16 = 100;

/// A program with tables of its own. What is for one of them is measured with all the flows of its cases in its tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plane {
    /// xvip in nat.
    Nat,
    /// xvip in dsr-l2.
    DsrL2,
    /// xvip in dsr-ipip.
    DsrIpip,
    /// xvip with a service of each mode over IPv6, and tunnels of the other family.
    Six,
    /// xvip in nat with three backends.
    FewBackends,
    /// xvip in nat with a thousand.
    ManyBackends,
    /// xvip with a hundred services in nat, three backends each; the packets are for the last one.
    ManyServices,
    /// The peer, for both families.
    Katran,
    /// Another one of it, whose table fills up with new flows.
    KatranNew,
    /// Only returns `XDP_PASS`.
    Pass,
}

/// One service of a plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// One of the `MODE_` constants of the layout.
    pub mode: u8,
    /// Whether the VIP is of IPv6.
    pub v6: bool,
    /// Whether its backends' addresses are of the other family.
    pub crosses: bool,
    /// How many they are.
    pub backends: u16,
}

impl Spec {
    const fn of(mode: u8, v6: bool, crosses: bool) -> Self {
        Self { mode, v6, crosses, backends: BACKENDS }
    }
}

impl Plane {
    /// Its services, in the order of their ports. Katran's are written down as what xvip calls dsr-ipip.
    #[must_use]
    pub fn services(self) -> Vec<Spec> {
        let nat = |backends| Spec { backends, ..Spec::of(MODE_NAT, false, false) };
        match self {
            Self::Nat => vec![nat(BACKENDS)],
            Self::DsrL2 => vec![Spec::of(MODE_DSR_L2, false, false)],
            Self::DsrIpip => vec![Spec::of(MODE_DSR_IPIP, false, false)],
            Self::Six => vec![
                Spec::of(MODE_NAT, true, false),
                Spec::of(MODE_DSR_L2, true, false),
                Spec::of(MODE_DSR_IPIP, true, false),
                Spec::of(MODE_DSR_IPIP, false, true),
                Spec::of(MODE_DSR_IPIP, true, true),
            ],
            Self::FewBackends => vec![nat(3)],
            Self::ManyBackends => vec![nat(1000)],
            Self::ManyServices => vec![nat(3); 100],
            Self::Katran | Self::KatranNew => vec![
                Spec::of(MODE_DSR_IPIP, false, false),
                Spec::of(MODE_DSR_IPIP, true, false),
                Spec::of(MODE_DSR_IPIP, false, true),
            ],
            Self::Pass => vec![],
        }
    }
}

/// The packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packets {
    /// Of established flows, from the client: so many in turn.
    Established(u32),
    /// Of established flows, from the backend.
    Replies(u32),
    /// Each a SYN of a flow that the tables do not have.
    New,
    /// For another host.
    Foreign,
}

/// Packets for a program.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The program.
    pub plane: Plane,
    /// Which of its services, from 0.
    pub service: usize,
    /// Packets to it.
    pub packets: Packets,
    /// How they are run.
    pub form: Form,
    /// What it is beside others of the same packets, in the table.
    pub subject: String,
    /// Whose packets are the same, in the table.
    pub group: String,
    /// What its net time ought to be as a multiple of Katran's for the same packets.
    pub of_katran: Option<Goal>,
    /// What its time ought to be as a multiple of the floor.
    pub of_floor: Option<Goal>,
}

/// A million with its commas, and one without an s.
fn flows(count: u32) -> String {
    match count {
        1 => "1 flow".to_owned(),
        count if count >= 1 << 20 => format!("{} M flows", count >> 20),
        count if count >= 1 << 10 => format!("{} k flows", count >> 10),
        count => format!("{count} flows"),
    }
}

const fn family(v6: bool) -> &'static str {
    if v6 { "IPv6" } else { "IPv4" }
}

/// Katran's name in the tables.
pub const KATRAN: &str = "Katran";

/// All cases, with no more than `most` flows, in the order of the table; those of the peer only where there is one.
#[must_use]
pub fn all(most: u32, katran: bool) -> Vec<Case> {
    let mut cases = vec![];
    let mut steps: Vec<u32> =
        FLOWS.into_iter().chain(BETWEEN).filter(|count| *count <= most.max(1)).collect();
    steps.sort_unstable();
    for &count in &steps {
        if FLOWS.contains(&count) {
            established(&mut cases, count, katran);
        } else {
            between(&mut cases, count, katran);
        }
    }
    for &count in steps.iter().filter(|count| [1, SOME].contains(count)) {
        live(&mut cases, count, katran);
    }
    for &count in steps.iter().filter(|count| [1, SOME].contains(count)) {
        six(&mut cases, count, katran);
    }
    let group = "new flows, IPv4";
    for (plane, subject) in [
        (Plane::Nat, "nat"),
        (Plane::FewBackends, "nat, 3 backends"),
        (Plane::ManyBackends, "nat, 1,000 backends"),
        (Plane::ManyServices, "nat, 100 services"),
        (Plane::DsrL2, "dsr-l2"),
        (Plane::DsrIpip, "dsr-ipip"),
    ] {
        cases.push(case(plane, Packets::New, subject, group));
    }
    peer(&mut cases, katran, 0, Packets::New, group);
    let group = "new flows, IPv6";
    for (service, subject) in ["nat", "dsr-l2", "dsr-ipip"].into_iter().enumerate() {
        cases.push(Case { service, ..case(Plane::Six, Packets::New, subject, group) });
    }
    peer(&mut cases, katran, 1, Packets::New, group);
    for (service, plane) in [Plane::Nat, Plane::Six].into_iter().enumerate() {
        let group = format!("for another host, {}", family(service == 1));
        cases.push(case(Plane::Pass, Packets::Foreign, "only XDP_PASS", &group));
        let ours = case(plane, Packets::Foreign, "xvip", &group);
        cases.push(Case { of_floor: Some(Goal::AtMost(1.3)), ..ours });
        peer(&mut cases, katran, service, Packets::Foreign, &group);
        if service == 1 {
            // An empty program has no service that says which family.
            let at = cases.len() - if katran { 3 } else { 2 };
            cases[at].service = 1;
        }
    }
    cases
}

fn established(cases: &mut Vec<Case>, count: u32, katran: bool) {
    let group = format!("established, IPv4, {}", flows(count));
    let there = Packets::Established(count);
    let goal = |one: f64| match count {
        1 => Some(Goal::AtMost(one)),
        SOME => Some(Goal::AtMost(0.6)),
        _ => None,
    };
    for (plane, packets, subject, one) in [
        (Plane::Nat, there, "nat", 0.8),
        (Plane::Nat, Packets::Replies(count), "nat, replies", 0.8),
        (Plane::DsrL2, there, "dsr-l2", 0.6),
        (Plane::DsrIpip, there, "dsr-ipip", 0.8),
    ] {
        cases.push(Case { of_katran: goal(one), ..case(plane, packets, subject, &group) });
    }
    if count == FEW {
        for (plane, subject) in [
            (Plane::FewBackends, "nat, 3 backends"),
            (Plane::ManyBackends, "nat, 1,000 backends"),
            (Plane::ManyServices, "nat, 100 services"),
        ] {
            cases.push(case(plane, there, subject, &group));
        }
    }
    peer(cases, katran, 0, there, &group);
}

fn between(cases: &mut Vec<Case>, count: u32, katran: bool) {
    let group = format!("established, IPv4, {}", flows(count));
    for (plane, subject) in [(Plane::Nat, "nat"), (Plane::DsrIpip, "dsr-ipip")] {
        cases.push(case(plane, Packets::Established(count), subject, &group));
    }
    peer(cases, katran, 0, Packets::Established(count), &group);
}

/// What was measured already, on live frames.
fn live(cases: &mut Vec<Case>, count: u32, katran: bool) {
    let group = format!("established, IPv4, {}, live frames", flows(count));
    let there = Packets::Established(count);
    let first = cases.len();
    for (plane, packets, subject) in [
        (Plane::Nat, there, "nat"),
        (Plane::Nat, Packets::Replies(count), "nat, replies"),
        (Plane::DsrL2, there, "dsr-l2"),
        (Plane::DsrIpip, there, "dsr-ipip"),
    ] {
        cases.push(case(plane, packets, subject, &group));
    }
    peer(cases, katran, 0, there, &group);
    for case in &mut cases[first..] {
        case.form = Form::Live;
    }
}

fn six(cases: &mut Vec<Case>, count: u32, katran: bool) {
    let group = format!("established, IPv6, {}", flows(count));
    let there = Packets::Established(count);
    for (service, packets, subject) in [
        (0, there, "nat"),
        (0, Packets::Replies(count), "nat, replies"),
        (1, there, "dsr-l2"),
        (2, there, "dsr-ipip"),
        (4, there, "dsr-ipip in IPv4"),
    ] {
        cases.push(Case { service, ..case(Plane::Six, packets, subject, &group) });
    }
    peer(cases, katran, 1, there, &group);
    if count == 1 {
        let group = "established, IPv4 in IPv6, 1 flow";
        cases.push(Case { service: 3, ..case(Plane::Six, there, "dsr-ipip", group) });
        peer(cases, katran, 2, there, group);
    }
}

fn peer(cases: &mut Vec<Case>, katran: bool, service: usize, packets: Packets, group: &str) {
    if katran {
        let plane = if packets == Packets::New { Plane::KatranNew } else { Plane::Katran };
        cases.push(Case { service, ..case(plane, packets, KATRAN, group) });
    }
}

fn case(plane: Plane, packets: Packets, subject: &str, group: &str) -> Case {
    Case {
        plane,
        service: 0,
        packets,
        form: Form::Repeated,
        subject: subject.to_owned(),
        group: group.to_owned(),
        of_katran: None,
        of_floor: None,
    }
}

impl Case {
    /// Whether the packets are of IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        match self.plane {
            Plane::Pass => self.service == 1,
            plane => plane.services().get(self.service).is_some_and(|spec| spec.v6),
        }
    }

    /// How many flows its service needs in the tables.
    #[must_use]
    pub fn flows(&self) -> u32 {
        match self.packets {
            Packets::Established(count) | Packets::Replies(count) => count,
            Packets::New | Packets::Foreign => 0,
        }
    }

    /// Whether somebody who asks for this means it.
    #[must_use]
    pub fn is_called(&self, part: &str) -> bool {
        format!("{}: {}", self.group, self.subject).contains(part)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_case_has_a_name_of_its_own_and_a_service() {
        let cases = all(u32::MAX, true);
        let names: BTreeSet<_> = cases.iter().map(|case| (&case.group, &case.subject)).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            let known = case.plane == Plane::Pass || case.service < case.plane.services().len();
            assert!(known, "{case:?}");
            let both = case.group.contains("IPv4 in IPv6");
            assert!(both || case.group.contains(family(case.is_v6())), "{case:?}");
        }
    }

    #[test]
    fn goals_are_those_of_the_peer_in_the_same_packets() {
        let with: Vec<_> = all(u32::MAX, true).into_iter().filter(|case| case.of_katran.is_some()).collect();
        let goals: Vec<_> = with.iter().map(|case| case.of_katran).collect();
        let most = |values: [f64; 4]| values.map(|value| Some(Goal::AtMost(value)));
        assert_eq!(goals, [most([0.8, 0.8, 0.6, 0.8]), most([0.6; 4])].concat());
        let peers = all(u32::MAX, true).into_iter().filter(|case| case.subject == KATRAN);
        let peers: BTreeSet<_> = peers.map(|case| case.group).collect();
        assert!(with.iter().all(|case| peers.contains(&case.group)));
        assert!(all(u32::MAX, false).iter().all(|case| case.subject != KATRAN));
    }

    #[test]
    fn there_are_no_more_flows_than_asked_for() {
        assert!(all(FEW, true).iter().all(|case| case.flows() <= FEW));
        assert!(all(0, true).iter().any(|case| case.flows() == 1));
        assert_eq!(all(u32::MAX, true).iter().map(Case::flows).max(), Some(1 << 20));
    }
}
