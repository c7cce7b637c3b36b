//! The daemon, its configuration and its interfaces.

use super::family::{Family, Measure};
use crate::status::DaemonState;

/// As `xdp_mode` names them.
const XDP_MODES: [&str; 3] = ["native", "generic", "none"];

pub(super) const FAMILIES: &[Family] = &[
    Family::info("build", "Version of the daemon", &["version"], |status, out| {
        out.add(&[&status.version], true);
    }),
    Family::info("node", "Name of this node, as `node.name` has it", &["node"], |status, out| {
        out.add(&[&status.node], true);
    }),
    Family::gauge(
        "up",
        "Whether the daemon tells this: 1, or 0 where it was made of the maps alone",
        &[],
        |status, out| {
            out.add(&[], status.daemon == DaemonState::Up);
        },
    ),
    Family::gauge("uptime", "How long the daemon has been running", &[], |status, out| {
        out.add(&[], status.uptime_seconds as f64);
    })
    .of(Measure::Seconds),
    Family::gauge("problems", "How many problems `xvip status` lists", &[], |status, out| {
        out.add(&[], status.problems.len());
    }),
    Family::gauge("observing", "Whether the node only observes (`node.observe`)", &[], |status, out| {
        out.add(&[], status.observing.is_some());
    }),
    Family::info(
        "config",
        "The configuration in force; the fingerprint changes with what the file says, and each node has its own",
        &["fingerprint"],
        |status, out| out.add(&[&status.config.fingerprint], true),
    ),
    Family::gauge(
        "config_loaded_timestamp",
        "When the configuration in force was read",
        &[],
        |status, out| {
            out.moment(&[], &status.config.loaded_at);
        },
    )
    .of(Measure::Seconds),
    Family::gauge(
        "config_last_reload_successful",
        "Whether the last attempt to read the configuration again put it in force; 1 where there was none",
        &[],
        |status, out| out.add(&[], status.config.last_reload_error.is_none()),
    ),
    Family::gauge(
        "config_last_reload_timestamp",
        "When the last attempt to read the configuration again was",
        &[],
        |status, out| {
            if let Some(at) = &status.config.last_reload_at {
                out.moment(&[], at);
            }
        },
    )
    .of(Measure::Seconds)
    .only("after a reload"),
    Family::gauge(
        "http_certificate_not_after_timestamp",
        "Until when the certificate of the web page and of these metrics is valid",
        &[],
        |status, out| {
            if let Some(end) = status.http.as_ref().and_then(|http| http.certificate_not_after.as_ref()) {
                out.moment(&[], end);
            }
        },
    )
    .of(Measure::Seconds)
    .only("with `http.cert_file`"),
    Family::info(
        "interface",
        "An interface of `node.interface` or `node.interfaces`; XDP is at `attached_to`",
        &["interface", "attached_to", "mac"],
        |status, out| {
            for interface in &status.interfaces {
                out.add(&[&interface.name, &interface.attached_to, &interface.mac], true);
            }
        },
    ),
    Family::gauge(
        "interface_xdp_mode",
        "How XDP is attached to the interface, one series for each mode, 1 for the one that is so: native, generic (slow), none",
        &["interface", "mode"],
        |status, out| {
            for interface in &status.interfaces {
                out.states(&[&interface.name], &XDP_MODES, &interface.xdp_mode);
            }
        },
    ),
    Family::gauge("interface_mtu", "Largest IP packet of the interface", &["interface"], |status, out| {
        for interface in &status.interfaces {
            out.add(&[&interface.name], interface.mtu);
        }
    })
    .of(Measure::Bytes),
];
