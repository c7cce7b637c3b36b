//! `queues`: whether all processors take part.

use crate::doctor::{
    Finding,
    drivers::HARMLESS,
    facts::{Channels, Facts, Link},
};

const ID: &str = "queues";

/// Each interface that XDP is attached to.
pub fn judge(facts: &Facts) -> Vec<Finding> {
    facts.attach_points().map(|link| of(facts, link).about(link.parent.clone())).collect()
}

fn of(facts: &Facts, link: &Link) -> Finding {
    let Some(Channels { receive, receive_max }) = link.channels else {
        return Finding::fine(ID, "the driver does not tell");
    };
    let (name, processors) = (&link.parent, facts.host.processors);
    let driver = link.driver.as_deref().unwrap_or_default();
    let set = |count: u32| format!("ethtool -L {name} combined {}", count.max(1));
    if driver == "ena" && receive > receive_max / 2 && link.programs.is_empty() {
        return Finding::advice(
            ID,
            format!("{receive} of at most {receive_max}"),
            "ena needs as many queues again for what XDP sends, and refuses native mode otherwise",
        )
        .remedy(set(receive_max / 2));
    }
    // A virtual interface has no interrupts to share out: packets come in where they are sent.
    if HARMLESS.contains(&driver) {
        return Finding::fine(ID, format!("driver {driver} needs no more than it has"));
    }
    if receive == 1 && receive_max > 1 && processors > 1 {
        return Finding::advice(
            ID,
            format!("one, and {processors} processors"),
            "one processor handles every packet",
        )
        .remedy(set(receive_max.min(processors)));
    }
    Finding::fine(ID, format!("{receive} of at most {receive_max}, {processors} processors"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{fine, link, one},
    };

    #[test]
    fn one_queue_for_many_processors_and_ena() {
        fine(judge, |_| ());
        let found = one(judge, |facts| link(facts).channels = Some(Channels { receive: 1, receive_max: 8 }));
        assert_eq!(
            (found.severity, found.remedy),
            (Severity::Advice, vec!["ethtool -L eth0 combined 4".to_owned()])
        );
        fine(judge, |facts| link(facts).channels = Some(Channels { receive: 1, receive_max: 1 }));
        fine(judge, |facts| {
            link(facts).driver = Some("veth".to_owned());
            link(facts).channels = Some(Channels { receive: 1, receive_max: 8 });
        });
        fine(judge, |facts| {
            link(facts).driver = Some("ena".to_owned());
            link(facts).channels = Some(Channels { receive: 4, receive_max: 8 });
        });
        let found = one(judge, |facts| {
            link(facts).driver = Some("ena".to_owned());
            link(facts).channels = Some(Channels { receive: 8, receive_max: 8 });
        });
        assert_eq!(found.remedy, ["ethtool -L eth0 combined 4"]);
    }
}
