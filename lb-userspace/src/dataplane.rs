//! The kernel side: load, adopt, attach, pin; maps: observe and apply.
//!
//! Everything lives in pins below `node.pin_path`: the maps under `maps-v<layout version>/`, the link as `link`. So
//! the program goes on forwarding while no controller runs, and the next controller adopts what it finds: it puts its
//! own program into the link in one step and keeps the maps, flows included.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use lb_common::layout::{BackendEntry, BackendId, MaglevSlots, ServiceEntry, ServiceKey, VipEntry};

/// What the maps say, or should say. Both sides of the reconciler have this form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// The VIPs.
    pub vips: BTreeMap<Ipv4Addr, VipEntry>,
    /// VIP and port -> service.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Backends by id; unused ids are absent.
    pub backends: BTreeMap<BackendId, BackendEntry>,
    /// Maglev tables by `ServiceEntry::ring`.
    pub rings: BTreeMap<u32, Arc<MaglevSlots>>,
}
