//! `foreign-xdp`: another XDP program on the interface, and whose.

use crate::doctor::{
    Finding,
    facts::{Attached, Facts, Program},
};

const ID: &str = "foreign-xdp";

/// How names of programs begin, whose they are, and what makes room.
const KNOWN: [(&str, &str, &str); 7] = [
    (
        "cil_xdp",
        "Cilium's",
        "helm upgrade cilium cilium/cilium --reuse-values --set loadBalancer.acceleration=disabled",
    ),
    (
        "bpf_xdp",
        "Cilium's",
        "helm upgrade cilium cilium/cilium --reuse-values --set loadBalancer.acceleration=disabled",
    ),
    (
        "cali",
        "Calico's",
        "calicoctl patch felixconfiguration default --patch '{\"spec\":{\"xdpEnabled\":false}}'",
    ),
    ("balancer_ingres", "Katran's", "stop Katran on this interface"),
    ("xdp_root", "Katran's root program", "stop Katran on this interface"),
    (
        "xdp_dispatcher",
        "libxdp's dispatcher, with programs of others in it",
        "xdp-loader status && xdp-loader unload INTERFACE --all",
    ),
    (
        "xvip",
        "another xvip's, with another pin path",
        "stop that one, or run `xvip cleanup` with its configuration",
    ),
];

/// One program fits on an interface.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for link in facts.attach_points() {
        let foreign: Vec<&Program> = link.foreign(&facts.config.node.pin_path).collect();
        for program in &foreign {
            found.push(of(&link.parent, program).about(link.parent.clone()));
        }
        if foreign.is_empty() {
            let seen =
                if link.programs.is_empty() { "no program is attached" } else { "no program but xvip's" };
            found.push(Finding::fine(ID, seen).about(link.parent.clone()));
        }
    }
    found
}

fn of(interface: &str, program: &Program) -> Finding {
    let known = KNOWN.iter().find(|(name, ..)| program.name.starts_with(name));
    let mut seen = format!("program {} ", program.id);
    if !program.name.is_empty() {
        seen += &format!("\"{}\" ", program.name);
    }
    if !program.tag.is_empty() {
        seen += &format!("(tag {}) ", program.tag);
    }
    seen += "is attached";
    if let Some((_, whose, _)) = known {
        seen += &format!("; by its name it is {whose}");
    }
    if let [first, ..] = &program.holders[..] {
        seen += &format!("; held by {first}");
    }
    if let [first, ..] = &program.pins[..] {
        seen += &format!("; pinned at {}", first.display());
    }
    let cause = "an interface has room for one XDP program: xvip cannot be attached";
    let mut found = Finding::problem(ID, seen, cause);
    if let Some((_, _, remedy)) = known {
        found = found.remedy(remedy.replace("INTERFACE", interface));
    }
    for pin in program.pins.iter().filter(|_| known.is_none()) {
        found = found.remedy(format!("rm {}", pin.display()));
    }
    if let [first, ..] = &program.holders[..]
        && known.is_none()
    {
        found = found.remedy(format!("kill {}   # after a look at what it is for", first.id));
    }
    if found.remedy.is_empty() {
        let mode = match program.mode {
            Attached::Native => "xdpdrv",
            Attached::Generic => "xdpgeneric",
            Attached::Offloaded => "xdpoffload",
        };
        found = found.remedy(format!("ip link set dev {interface} {mode} off")).remedy(format!(
            "bpftool link show   # where that is refused: a link of prog {} holds it",
            program.id
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        facts::Process,
        findings::healthy::{fine, link, one, program},
    };

    #[test]
    fn a_program_of_somebody_else_is_named() {
        let found = one(judge, |facts| {
            let holders = vec![Process { id: 77, name: "thing".to_owned() }];
            link(facts).programs = vec![Program { holders, ..program() }];
        });
        assert_eq!(found.severity, Severity::Problem);
        assert!(
            found.seen.contains("\"xdp_thing\" (tag 00112233)") && found.seen.contains("thing (pid 77)"),
            "{found:?}"
        );
        assert_eq!(found.remedy, ["kill 77   # after a look at what it is for"]);
        let found = one(judge, |facts| {
            link(facts).programs = vec![Program { name: "cil_xdp_entry".to_owned(), ..program() }];
        });
        assert!(found.seen.contains("Cilium's"), "{found:?}");
        let found = one(judge, |facts| {
            link(facts).programs = vec![Program { mode: Attached::Generic, ..program() }];
        });
        assert_eq!(found.remedy[0], "ip link set dev eth0 xdpgeneric off");
    }

    #[test]
    fn our_own_is_known_by_its_pin() {
        fine(judge, |_| ());
        fine(judge, |facts| {
            let pins = vec![facts.config.node.pin_path.join("link-2-native")];
            link(facts).programs = vec![Program { pins, ..program() }];
        });
        let elsewhere = one(judge, |facts| {
            let (name, pins) = ("xvip".to_owned(), vec!["/sys/fs/bpf/other/link-2-native".into()]);
            link(facts).programs = vec![Program { name, pins, ..program() }];
        });
        assert!(elsewhere.seen.contains("another xvip's"), "{elsewhere:?}");
    }
}
