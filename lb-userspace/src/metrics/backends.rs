//! Backends: their state, their checks, their connections.

use super::family::{Family, Measure, Samples, Value, seconds_of_ms, seconds_of_us};
use crate::{
    health::tally::BOUNDS_US,
    status::{BackendStatus, Status},
};

/// `dead` and `shutting-down` are kinds of being down, `down` is while the kind is not known.
const STATES: [&str; 5] = ["unknown", "up", "down", "dead", "shutting-down"];
const ADMIN_STATES: [&str; 3] = ["enabled", "drain", "disabled"];

/// What most of them are labelled with.
const OF_BACKEND: &[&str] = &["service", "backend"];

fn each(status: &Status, mut tell: impl FnMut(&[&str; 2], &BackendStatus)) {
    for service in &status.services {
        for backend in &service.backends {
            tell(&[&service.name, &backend.name], backend);
        }
    }
}

/// A sample for each of these last labels.
fn each_of(out: &mut Samples, [service, backend]: &[&str; 2], counts: &[(&str, u64)]) {
    for (label, count) in counts {
        out.add(&[service, backend, label], *count);
    }
}

pub(super) const FAMILIES: &[Family] = &[
    Family::info("backend", "A backend of a service", &["service", "backend", "address"], |status, out| {
        each(status, |[service, name], backend| out.add(&[service, name, &backend.address], true));
    }),
    Family::gauge(
        "backend_up",
        "Whether the backend's checks say that it is up; what an operator says is in `xvip_backend_admin_state`",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, backend.state == "up")),
    ),
    Family::gauge(
        "backend_state",
        "State by the checks, one series for each, 1 for the one that is so: unknown, up, dead, shutting-down, down (which of \
         the two is not known yet)",
        &["service", "backend", "state"],
        |status, out| {
            each(status, |of, backend| out.states(of, &STATES, backend.down.as_ref().unwrap_or(&backend.state)));
        },
    ),
    Family::gauge("backend_state_since_timestamp", "When the state was entered", OF_BACKEND, |status, out| {
        each(status, |of, backend| out.moment(of, &backend.since));
    })
    .of(Measure::Seconds),
    Family::counter(
        "backend_transitions",
        "Changes of state since the daemon began to check the backend; the first result is one",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, backend.checks.transitions)),
    ),
    Family::gauge(
        "backend_admin_state",
        "What an operator has said, one series for each, 1 for the one that is so: enabled, drain (no new connections), disabled",
        &["service", "backend", "state"],
        |status, out| {
            each(status, |of, backend| {
                let said = backend.admin.as_ref().map_or("enabled", |admin| admin.state.as_str());
                out.states(of, &ADMIN_STATES, said);
            });
        },
    ),
    Family::gauge("backend_weight", "The weight of the file", OF_BACKEND, |status, out| {
        each(status, |of, backend| out.add(of, backend.weight));
    }),
    Family::gauge(
        "backend_effective_weight",
        "The weight that counts: 0 while it is out, less than its weight for a while after a recovery (`slow_start`)",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, backend.effective_weight)),
    ),
    Family::gauge("backend_share", "What part of new connections it gets", OF_BACKEND, |status, out| {
        each(status, |of, backend| out.add(of, backend.share));
    })
    .of(Measure::Ratio),
    Family::gauge(
        "backend_next_hop_resolved",
        "Whether the Ethernet address is known that its packets are sent to, and XDP can reach it",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, backend.next_hop.is_some())),
    ),
    Family::counter("backend_checks", "Checks that have come to a result", OF_BACKEND, |status, out| {
        each(status, |of, backend| out.add(of, backend.checks.count));
    }),
    Family::counter(
        "backend_check_failures",
        "Checks that failed, by kind of failure, such as refused, timeout, certificate, status",
        &["service", "backend", "reason"],
        |status, out| {
            each(status, |[service, name], backend| {
                for (reason, count) in &backend.checks.failed {
                    out.add(&[service, name, reason], *count);
                }
            });
        },
    )
    .only("for kinds that there were failures of"),
    Family::histogram(
        "backend_check_duration",
        "What checks took, from their start to their result, failed ones too",
        OF_BACKEND,
        |status, out| {
            each(status, |of, backend| {
                let checks = &backend.checks;
                out.add(of, Value::of_microseconds(checks.count, checks.sum_us, &BOUNDS_US, &checks.buckets));
            });
        },
    )
    .of(Measure::Seconds),
    Family::gauge("backend_last_check_duration", "What the last check took", OF_BACKEND, |status, out| {
        each(status, |of, backend| {
            if backend.checks.count > 0 {
                out.add(of, seconds_of_us(backend.checks.last_us));
            }
        });
    })
    .of(Measure::Seconds)
    .only("once a check has come to a result"),
    Family::counter(
        "backend_down",
        "How long it was down, since the daemon began to check it, but for the time since it went down last",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, seconds_of_ms(backend.checks.down_ms))),
    )
    .of(Measure::Seconds),
    Family::gauge(
        "backend_certificate_not_after_timestamp",
        "Until when the certificate is valid that it showed a check last",
        OF_BACKEND,
        |status, out| {
            each(status, |of, backend| {
                if let Some(end) = &backend.certificate_not_after {
                    out.moment(of, end);
                }
            });
        },
    )
    .of(Measure::Seconds)
    .only("once a check has spoken TLS"),
    Family::gauge(
        "backend_connections",
        "Connections through this node, by state: active (established), half-open, closing (ended, or nearly, and remembered)",
        &["service", "backend", "state"],
        |status, out| {
            each(status, |of, backend| {
                let flows = &backend.flows;
                let counts =
                    [("active", flows.active), ("half-open", flows.half_open), ("closing", flows.closing)];
                each_of(out, of, &counts);
            });
        },
    ),
    Family::gauge(
        "backend_connection_limit",
        "How many connections it may have from this node (`max_connections`)",
        OF_BACKEND,
        |status, out| {
            each(status, |of, backend| {
                if backend.max_connections > 0 {
                    out.add(of, backend.max_connections);
                }
            });
        },
    )
    .only("with `max_connections`"),
    Family::counter("backend_connections_opened", "SYNs that chose the backend", OF_BACKEND, |status, out| {
        each(status, |of, backend| out.add(of, backend.flows.opened));
    }),
    Family::counter(
        "backend_connections_established",
        "Handshakes that were completed",
        OF_BACKEND,
        |status, out| each(status, |of, backend| out.add(of, backend.flows.established)),
    ),
    Family::counter(
        "backend_connections_ended",
        "Connections that ended: closed by both sides, reset by a RST, expired (silent for too long)",
        &["service", "backend", "how"],
        |status, out| {
            each(status, |of, backend| {
                let flows = &backend.flows;
                each_of(out, of, &[("closed", flows.closed), ("reset", flows.reset), ("expired", flows.expired)]);
            });
        },
    ),
    Family::counter(
        "backend_connections_failed",
        "Connections that did not come about: refused (a RST to the SYN), unanswered (the SYN was sent again), full (went to \
         another backend, since this one had all that it may have)",
        &["service", "backend", "how"],
        |status, out| {
            each(status, |of, backend| {
                let flows = &backend.flows;
                let counts =
                    [("refused", flows.refused), ("unanswered", flows.unanswered), ("full", flows.full)];
                each_of(out, of, &counts);
            });
        },
    ),
    Family::counter(
        "backend_resets",
        "Connections that the daemon has reset since its start: backend-dead, disabled, drain-deadline, rebalance",
        &["service", "backend", "reason"],
        |status, out| {
            each(status, |[service, name], backend| {
                for (reason, count) in &backend.resets {
                    out.add(&[service, name, reason], *count);
                }
            });
        },
    )
    .only("for reasons that there were resets for"),
    Family::counter(
        "backend_packets",
        "Packets of established connections: in from clients, out to clients (none with direct server return)",
        &["service", "backend", "direction"],
        |status, out| {
            each(status, |of, backend| {
                each_of(out, of, &[("in", backend.flows.packets_in), ("out", backend.flows.packets_out)]);
            });
        },
    ),
    Family::counter(
        "backend",
        "Bytes of these packets, IP headers included",
        &["service", "backend", "direction"],
        |status, out| {
            each(status, |of, backend| {
                each_of(out, of, &[("in", backend.flows.bytes_in), ("out", backend.flows.bytes_out)]);
            });
        },
    )
    .of(Measure::Bytes),
];
