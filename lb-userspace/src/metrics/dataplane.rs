//! What became of the packets, and the flow tables.

use super::family::Family;

pub(super) const FAMILIES: &[Family] = &[
    Family::counter(
        "packets",
        "Packets by verdict (passed to the host, dropped, transmitted) and reason, since the maps were made",
        &["verdict", "reason"],
        |status, out| {
            let packets = &status.packets;
            for (verdict, reasons) in [
                ("passed", &packets.passed),
                ("dropped", &packets.dropped),
                ("transmitted", &packets.transmitted),
            ] {
                for (reason, count) in reasons {
                    out.add(&[verdict, reason], *count);
                }
            }
        },
    ),
    Family::gauge(
        "flows",
        "Flows by state: established, half-open, closing (ended, or nearly, and remembered)",
        &["state"],
        |status, out| {
            let flows = &status.flows;
            out.add(&["established"], flows.established);
            out.add(&["half-open"], flows.half_open);
            out.add(&["closing"], flows.closing);
        },
    ),
    Family::gauge(
        "flow_table_entries",
        "Flows in a table; closing ones are in that of the established",
        &["table"],
        |status, out| {
            let flows = &status.flows;
            out.add(&["established"], flows.established + flows.closing);
            out.add(&["half-open"], flows.half_open);
        },
    ),
    Family::gauge(
        "flow_table_limit",
        "How many flows a table holds: `flows.max`, `flows.half_open_max`",
        &["table"],
        |status, out| {
            out.add(&["established"], status.flows.max);
            out.add(&["half-open"], status.flows.half_open_max);
        },
    ),
];
