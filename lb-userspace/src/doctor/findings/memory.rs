//! `memory`: room for the flow tables and the cache in front of them.

use lb_common::{
    layout::{FlowEntry, FlowKey, SourceEntry, SourceKey},
    wire::{Be32, Be128},
};

use crate::{
    dataplane::cache_bytes,
    doctor::{Finding, facts::Facts},
};

const ID: &str = "memory";
/// `struct htab_elem` (kernel/bpf/hashtab.c), before key and value.
const ELEMENT: u64 = 48;
/// `struct bucket`.
const BUCKET: u64 = 16;
const MEGABYTE: u64 = 1 << 20;

const fn entry(key: usize, value: usize) -> u64 {
    ELEMENT + key as u64 + value as u64
}

const FLOW4: u64 = entry(size_of::<FlowKey<Be32>>(), size_of::<FlowEntry<Be32>>());
const FLOW6: u64 = entry(size_of::<FlowKey<Be128>>(), size_of::<FlowEntry<Be128>>());
const SOURCE: u64 = entry(size_of::<SourceKey>(), size_of::<SourceEntry>());

/// Half-open flows, sources and the cache are allocated at the start, established flows as they come (each has two entries).
pub fn judge(facts: &Facts) -> Vec<Finding> {
    let flows = &facts.config.flows;
    let (half_open, max) = (u64::from(flows.half_open_max), u64::from(flows.max) * 2);
    let processors = match &facts.host.possible_processors {
        Ok(processors) => *processors,
        Err(why) => return vec![Finding::unseen(ID, "processors", why)],
    };
    let at_once = cache_bytes(processors, flows.max)
        + half_open * (FLOW4 + FLOW6)
        + u64::from(flows.sources_max) * SOURCE
        + max.next_power_of_two() * BUCKET * 2;
    let has_v4 = facts.config.services.iter().any(|service| service.vip.address.is_ipv4());
    let full = max * if has_v4 { FLOW4 } else { FLOW6 };
    let available = match &facts.host.memory_available {
        Ok(available) => *available,
        Err(why) => return vec![Finding::unseen(ID, "free memory", why)],
    };
    // A running daemon has its tables already.
    let needed_now = if facts.running().is_some() { 0 } else { at_once };
    let words = format!(
        "the tables take {} MB at once, {} MB more when full; {} MB are available",
        at_once.div_ceil(MEGABYTE),
        full.div_ceil(MEGABYTE),
        available / MEGABYTE,
    );
    let remedy = "write a smaller flows.max (default 1048576), or give the machine more memory";
    vec![if needed_now > available {
        Finding::problem(ID, words, "the maps cannot be made: xvip does not start").remedy(remedy)
    } else if needed_now + full > available {
        Finding::advice(ID, words, "with flows.max connections memory would run out").remedy(remedy)
    } else {
        Finding::fine(ID, words)
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::{
        Severity,
        findings::healthy::{address, fine, one, running},
    };

    #[test]
    fn memory_is_needed_at_once_and_when_the_tables_are_full() {
        for (available, severity) in
            [(64 << 20, Severity::Problem), (300 << 20, Severity::Advice), (1 << 30, Severity::Fine)]
        {
            let found = one(judge, |facts| facts.host.memory_available = Ok(available));
            assert_eq!(found.severity, severity, "{found:?}");
        }
        fine(judge, |_| ());
        let found = one(judge, |facts| {
            facts.host.memory_available = Ok(64 << 20);
            facts.daemon = Ok(Some(running(true, &[])));
        });
        assert_eq!(found.severity, Severity::Advice, "a running daemon has its tables already: {found:?}");
    }

    #[test]
    fn flows_of_ipv6_take_more() {
        let when_full = |vip: &str| {
            let found = one(judge, |facts| facts.config.services[0].vip.address = address(vip));
            let megabytes = found.seen.split("at once, ").nth(1).and_then(|text| text.split(' ').next());
            megabytes.and_then(|text| text.parse::<u64>().ok()).expect("a number")
        };
        assert!(when_full("fd10::10") > when_full("172.16.0.10"));
    }
}
