//! VRRP instances and their VIPs.

use std::collections::BTreeSet;

use super::family::{Family, Measure, Value, address_of, seconds_of_us};
use crate::{status::TrackStatus, vrrp::lateness::BOUNDS_US};

const STATES: [&str; 4] = ["initialize", "backup", "active", "fault"];

pub(super) const FAMILIES: &[Family] = &[
    Family::info(
        "vrrp",
        "A VRRP instance",
        &["vrrp", "virtual_router_id", "version", "authentication", "sync_group"],
        |status, out| {
            for vrrp in &status.vrrp {
                let (vrid, version) = (vrrp.virtual_router_id.to_string(), vrrp.version.to_string());
                let group = vrrp.sync_group.as_deref().unwrap_or_default();
                out.add(&[&vrrp.name, &vrid, &version, &vrrp.authentication, group], true);
            }
        },
    ),
    Family::gauge(
        "vip_held",
        "Whether this node has the VIP; over all nodes that share it, the sum is 1",
        &["vrrp", "vip"],
        |status, out| {
            for vrrp in &status.vrrp {
                for vip in &vrrp.vips {
                    out.add(&[&vrrp.name, address_of(vip)], vrrp.holds_addresses);
                }
            }
        },
    ),
    Family::gauge(
        "vrrp_state",
        "State of the instance, one series for each, 1 for the one that is so: initialize, backup, active, fault",
        &["vrrp", "state"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.states(&[&vrrp.name], &STATES, &vrrp.state);
            }
        },
    ),
    Family::gauge("vrrp_state_since_timestamp", "When the state was entered", &["vrrp"], |status, out| {
        for vrrp in &status.vrrp {
            out.moment(&[&vrrp.name], &vrrp.since);
        }
    })
    .of(Measure::Seconds),
    Family::counter("vrrp_transitions", "Changes of state", &["vrrp"], |status, out| {
        for vrrp in &status.vrrp {
            out.add(&[&vrrp.name], vrrp.transitions);
        }
    }),
    Family::gauge(
        "vrrp_priority",
        "What the instance advertises: its priority with what tracking adds to it",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.priority);
            }
        },
    ),
    Family::gauge(
        "vrrp_active_router_priority",
        "Priority of the router that has the VIPs, as it advertises it; `address` is its own",
        &["vrrp", "address"],
        |status, out| {
            for vrrp in &status.vrrp {
                if let Some(router) = &vrrp.active_router {
                    out.add(&[&vrrp.name, &router.address], router.priority);
                }
            }
        },
    )
    .only("while an active router is known"),
    Family::gauge(
        "vrrp_released",
        "Whether an operator has the node leave its VIPs to others (`xvip vip release`)",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.released);
            }
        },
    ),
    Family::gauge(
        "vrrp_blocked",
        "Whether something keeps the instance from taking over although it hears nobody",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.blocked.is_some());
            }
        },
    ),
    Family::gauge(
        "vrrp_realtime",
        "Whether the instance's thread runs before all ordinary ones (`SCHED_FIFO`)",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.realtime);
            }
        },
    ),
    Family::gauge(
        "vrrp_rivals",
        "How many others claim one of the instance's VIPs, or use its VRID, who should not",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                let vips = vrrp.vips.iter().filter(|vip| status.rivals.contains_key(address_of(vip))).count();
                out.add(&[&vrrp.name], vips + usize::from(status.rivals.contains_key(&vrrp.name)));
            }
        },
    ),
    Family::counter("vrrp_adverts_sent", "Advertisements sent", &["vrrp"], |status, out| {
        for vrrp in &status.vrrp {
            out.add(&[&vrrp.name], vrrp.adverts_sent);
        }
    }),
    Family::counter(
        "vrrp_adverts_received",
        "Advertisements received for this instance, and well-formed",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.adverts_received);
            }
        },
    ),
    Family::counter(
        "vrrp_adverts_discarded",
        "VRRP packets that were not used, by reason",
        &["vrrp", "reason"],
        |status, out| {
            for vrrp in &status.vrrp {
                for (reason, count) in &vrrp.discarded {
                    out.add(&[&vrrp.name, reason], *count);
                }
            }
        },
    )
    .only("for reasons that there were packets of"),
    Family::counter(
        "vrrp_send_errors",
        "Advertisements that could not be sent to somebody",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.send_errors);
            }
        },
    ),
    Family::counter(
        "vrrp_address_mismatches",
        "Advertisements used although their VIPs are not quite this instance's: the configurations differ",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.address_mismatches);
            }
        },
    ),
    Family::counter(
        "vrrp_interval_mismatches",
        "Advertisements used although their interval is not this instance's: the configurations differ",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                out.add(&[&vrrp.name], vrrp.interval_mismatches);
            }
        },
    ),
    Family::histogram(
        "vrrp_advert_lateness",
        "How long after their time advertisements were sent",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                let late = &vrrp.lateness;
                let value = Value::of_microseconds(late.count, late.sum_us, &BOUNDS_US, &late.buckets);
                out.add(&[&vrrp.name], value);
            }
        },
    )
    .of(Measure::Seconds),
    Family::gauge("vrrp_advert_lateness_max", "How late the latest advertisement was", &["vrrp"], |status, out| {
        for vrrp in &status.vrrp {
            out.add(&[&vrrp.name], seconds_of_us(vrrp.lateness.max_us));
        }
    })
    .of(Measure::Seconds),
    Family::gauge(
        "vrrp_track_up",
        "Whether what the instance depends on is up: `interface NAME`, or all of `script PROGRAM`, whose arguments are not shown",
        &["vrrp", "track"],
        |status, out| {
            for vrrp in &status.vrrp {
                let names: BTreeSet<String> = vrrp.tracks.iter().map(track_name).collect();
                for name in names {
                    let mut same = vrrp.tracks.iter().filter(|track| track_name(track) == name);
                    out.add(&[&vrrp.name, &name], same.all(|track| track.state == "up"));
                }
            }
        },
    )
    .only("with `[[vrrp.track]]`"),
    Family::gauge(
        "vrrp_witness_answers",
        "Whether a witness of the instance has answered lately",
        &["vrrp"],
        |status, out| {
            for vrrp in &status.vrrp {
                if let Some(witness) = &vrrp.witness {
                    out.add(&[&vrrp.name], witness.answers);
                }
            }
        },
    )
    .only("with witnesses"),
];

/// Arguments may hold what not everybody is to read who may scrape.
fn track_name(track: &TrackStatus) -> String {
    track.name.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
