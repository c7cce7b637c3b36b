//! What somebody orders on a screen, on the web page or in `xvip top`.

use super::protocol::{BackendAction, RebalancePlan, VipAction};

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// About a backend of a service.
    Backend {
        /// The service.
        service: String,
        /// The backend.
        backend: String,
        /// What to do.
        action: BackendAction,
    },
    /// About the VIPs of a VRRP instance.
    Vip {
        /// The instance.
        instance: String,
        /// What to do.
        action: VipAction,
    },
    /// A rebalance of a service.
    Rebalance {
        /// The service.
        service: String,
    },
}

/// What became of the plan of a rebalance, in a line.
pub fn begun(plan: &RebalancePlan) -> String {
    let RebalancePlan { service, resets, rate, begun, note, .. } = plan;
    match (begun, note) {
        (true, _) => format!("service {service}: {resets} connections are reset, {rate} each second at most"),
        (false, Some(note)) => format!("service {service}: nothing is reset: {note}"),
        (false, None) => format!("service {service}: nothing is reset"),
    }
}
