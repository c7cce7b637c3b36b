//! `node.observe`: what this node would do if it did more than look.
//!
//! Then no virtual router runs, no address is touched, and no hook for clients on the node is attached; the data plane
//! leaves every packet of a flow that is not its own to the host. Backends are checked, and packets and advertisements
//! looked at, as ever.

use std::time::{Duration, Instant};

use super::{Controller, rivals::moment};
use crate::{
    config::model::{LocalClients, VrrpInstance},
    desired::vips_of,
    status::{ActiveRouterStatus, ObservedVipStatus, ObservingStatus},
};

/// A router that has not been heard for so many of its intervals, and not for as many seconds, is gone.
const SILENT: u32 = 4;

impl Controller {
    /// Whose connects are redirected.
    pub(super) fn local_clients(&self) -> LocalClients {
        if self.config.node.observe { LocalClients::Off } else { self.config.node.local_clients }
    }

    /// What would be done; `None` where it is done.
    pub(super) fn observing(&self) -> Option<ObservingStatus> {
        let config = &self.config;
        let vips = config.vrrp.iter().flat_map(|instance| {
            let owner = self.heard(instance);
            vips_of(config, &instance.name).into_iter().map(move |(vip, prefix_len)| ObservedVipStatus {
                vip: format!("{vip}/{prefix_len}"),
                vrrp: instance.name.clone(),
                virtual_router_id: instance.virtual_router_id.get(),
                priority: instance.priority.get(),
                heard: owner.clone(),
            })
        });
        config
            .node
            .observe
            .then(|| ObservingStatus { interface: config.node.interface().to_owned(), vips: vips.collect() })
    }

    /// The strongest router that advertises an instance's VRID on the interface, this host's own software not included.
    fn heard(&self, instance: &VrrpInstance) -> Option<ActiveRouterStatus> {
        let patience = SILENT * instance.advert_interval.max(Duration::from_secs(1));
        let adverts = self.sightings.as_ref()?.adverts().into_iter();
        let lately = adverts.filter(|(_, vrid, advert)| {
            let age = Instant::now().saturating_duration_since(moment(advert.at_ns));
            *vrid == instance.virtual_router_id.get() && age < patience
        });
        lately.max_by_key(|(source, _, advert)| (advert.priority, *source)).map(|(source, _, advert)| {
            ActiveRouterStatus { address: source.to_string(), priority: advert.priority }
        })
    }
}
