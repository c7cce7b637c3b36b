//! Our virtual routers on the LAN of `lan.rs`, and its IPv6 side:
//!
//! ```text
//!  a: eth0 fd00::2/64 ------ eth0 fd00::3/64 :b
//! ```

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use lb_userspace::{
    config::model::{Family, VrrpInstance},
    vrrp::{
        router::{MemberPlan, Router, SpawnError},
        socket::primary_address,
        status::RouterStatus,
    },
};
use tokio::sync::watch;

use super::lan::{INTERFACE, Lan, Netns, run, within};

/// IPv6 address of side `a`.
pub const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// IPv6 address of side `b`.
pub const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
/// The virtual IPv6 address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10);

/// The LAN with IPv6 addresses, too, that may be used at once.
pub fn dual_lan() -> Lan {
    let lan = Lan::new();
    for (netns, address) in [(&lan.a, A6), (&lan.b, B6)] {
        run(&format!("ip -n {} addr add {address}/64 dev {INTERFACE} nodad", netns.name()));
        within(Duration::from_secs(20), "a link-local address", || link_local(netns).is_some());
    }
    lan
}

/// The link-local address in there, once it is known to be unique.
pub fn link_local(netns: &Netns) -> Option<IpAddr> {
    netns.enter(|| primary_address(INTERFACE, &[], Family::Ipv6, true))
}

/// A virtual router of ours in the namespace of the calling thread.
///
/// # Errors
/// See [`SpawnError`].
pub fn spawn(
    instance: &VrrpInstance,
    interface: &str,
    vips: &[impl Into<IpAddr> + Copy],
) -> Result<Router, SpawnError> {
    let vips = vips.iter().map(|vip| (*vip).into()).collect();
    let plan = MemberPlan { instance: instance.clone(), vips };
    Router::spawn(&instance.name, interface, vec![plan], None, Box::new(|_, _| ()))
}

/// Its status, and every later one.
pub fn statuses(router: &Router) -> watch::Receiver<RouterStatus> {
    router.statuses()[0].clone()
}
