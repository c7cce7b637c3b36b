//! A node while its plan is made: what its VRRP says, before the services are known.

use super::{HookPlan, InstancePlan, Key, Owned};

/// A node.
pub(super) struct Side {
    pub(super) names: Vec<String>,
    pub(super) name: Option<Key<String>>,
    pub(super) interface: Option<Key<String>>,
    pub(super) vips: Vec<Owned>,
    pub(super) instances: Vec<InstancePlan>,
    pub(super) hooks: Vec<HookPlan>,
}

impl Side {
    /// One of which nothing is known.
    pub(super) const fn nameless() -> Self {
        Self {
            names: Vec::new(),
            name: None,
            interface: None,
            vips: Vec::new(),
            instances: Vec::new(),
            hooks: Vec::new(),
        }
    }
}
