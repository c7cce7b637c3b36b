//! What a case is played in: a mode of forwarding, and families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::layout::{BackendId, MODE_DSR_IPIP, MODE_DSR_L2, MODE_LOCAL, MODE_NAT};

use crate::plane::{BACKENDS, SERVICE, SERVICE6, TRANSLATED, TRANSLATED6, World, backend_of};

/// A mode of forwarding, and the families of VIP and backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// One of the `MODE_` constants. Local: every backend is the node itself.
    pub mode: u8,
    /// Whether VIP and clients have IPv6 addresses.
    pub v6: bool,
    /// Whether backends have; differs only with tunnels.
    pub backend_v6: bool,
    snat_node: bool,
}

impl Setting {
    /// Full NAT over IPv4.
    pub const NAT: Self = Self::same(MODE_NAT, false);
    /// Full NAT over IPv6.
    pub const NAT6: Self = Self::same(MODE_NAT, true);
    /// Full NAT from the node's own address.
    pub const SNAT: Self = Self { snat_node: true, ..Self::NAT };
    /// The same over IPv6.
    pub const SNAT6: Self = Self { snat_node: true, ..Self::NAT6 };
    /// Direct server return by Ethernet address.
    pub const L2: Self = Self::same(MODE_DSR_L2, false);
    /// The same over IPv6.
    pub const L2_6: Self = Self::same(MODE_DSR_L2, true);
    /// IPv4 in IPv4.
    pub const IPIP44: Self = Self::same(MODE_DSR_IPIP, false);
    /// IPv4 in IPv6.
    pub const IPIP46: Self = Self { backend_v6: true, ..Self::IPIP44 };
    /// IPv6 in IPv6.
    pub const IPIP66: Self = Self::same(MODE_DSR_IPIP, true);
    /// IPv6 in IPv4.
    pub const IPIP64: Self = Self { backend_v6: false, ..Self::IPIP66 };
    /// The node is the backend.
    pub const LOCAL: Self = Self::same(MODE_LOCAL, false);
    /// The same over IPv6.
    pub const LOCAL6: Self = Self::same(MODE_LOCAL, true);

    /// Every setting.
    pub const EVERY: &[Self] = ALL;

    const fn same(mode: u8, v6: bool) -> Self {
        Self { mode, v6, backend_v6: v6, snat_node: false }
    }

    /// What a case's name says of it.
    pub const fn name(self) -> &'static str {
        match (self.mode, self.v6, self.backend_v6) {
            (MODE_NAT, false, _) if self.snat_node => "nat from the node, IPv4",
            (MODE_NAT, true, _) if self.snat_node => "nat from the node, IPv6",
            (MODE_NAT, false, _) => "nat, IPv4",
            (MODE_NAT, true, _) => "nat, IPv6",
            (MODE_DSR_L2, false, _) => "dsr-l2, IPv4",
            (MODE_DSR_L2, true, _) => "dsr-l2, IPv6",
            (MODE_DSR_IPIP, false, false) => "IPv4 in IPv4",
            (MODE_DSR_IPIP, false, true) => "IPv4 in IPv6",
            (MODE_DSR_IPIP, true, true) => "IPv6 in IPv6",
            (MODE_DSR_IPIP, true, false) => "IPv6 in IPv4",
            (_, false, _) => "local, IPv4",
            (_, true, _) => "local, IPv6",
        }
    }

    /// The world with so many backends.
    pub fn world(self, backends: BackendId) -> World {
        let mode = if self.mode == MODE_LOCAL { MODE_NAT } else { self.mode };
        let mut world = World::of(self.v6, backends).in_mode(mode);
        if self.snat_node {
            world = world.with_snat_node();
        }
        for id in 0..backends {
            world.backend_mut(id).address = self.backend(id).ip().into();
            if self.mode == MODE_LOCAL {
                world = world.with_local(id);
            }
        }
        world
    }

    /// The service on the backends' own port.
    pub const fn service(self) -> SocketAddr {
        if self.v6 { SocketAddr::V6(SERVICE6) } else { SocketAddr::V4(SERVICE) }
    }

    /// The service with port translation.
    pub const fn translated(self) -> SocketAddr {
        if self.v6 { SocketAddr::V6(TRANSLATED6) } else { SocketAddr::V4(TRANSLATED) }
    }

    /// A backend's address.
    pub const fn backend(self, id: BackendId) -> SocketAddr {
        backend_of(self.backend_v6, id)
    }

    /// A client's address, one of 65,536.
    pub fn client(self, n: u16) -> IpAddr {
        let [high, low] = n.to_be_bytes();
        if self.v6 {
            Ipv6Addr::new(0xfd10, 0, 0, 1, 0, 0, 0, n).into()
        } else {
            Ipv4Addr::new(172, 17, high, low).into()
        }
    }
}

/// The world with one backend.
pub(super) fn one(setting: Setting) -> World {
    setting.world(1)
}

/// The world with three backends.
pub(super) fn three(setting: Setting) -> World {
    setting.world(BACKENDS)
}

/// Full NAT in both families.
pub(super) const NAT: &[Setting] = &[Setting::NAT, Setting::NAT6];
/// Full NAT in both families, from the VIP and from the node.
pub(super) const EVERY_NAT: &[Setting] = &[Setting::NAT, Setting::NAT6, Setting::SNAT, Setting::SNAT6];
/// Every way to forward whose replies go straight to the client.
pub(super) const DIRECT: &[Setting] =
    &[Setting::L2, Setting::L2_6, Setting::IPIP44, Setting::IPIP46, Setting::IPIP66, Setting::IPIP64];
/// Those through a tunnel.
pub(super) const TUNNELS: &[Setting] = &[Setting::IPIP44, Setting::IPIP46, Setting::IPIP66, Setting::IPIP64];
/// One of each kind of forwarding, in both families.
pub(super) const FORWARDING: &[Setting] = &[
    Setting::NAT,
    Setting::NAT6,
    Setting::L2,
    Setting::L2_6,
    Setting::IPIP44,
    Setting::IPIP46,
    Setting::IPIP66,
    Setting::IPIP64,
];
/// The node as backend.
pub(super) const LOCAL: &[Setting] = &[Setting::LOCAL, Setting::LOCAL6];
/// Everything.
pub(super) const ALL: &[Setting] = &[
    Setting::NAT,
    Setting::NAT6,
    Setting::SNAT,
    Setting::SNAT6,
    Setting::L2,
    Setting::L2_6,
    Setting::IPIP44,
    Setting::IPIP46,
    Setting::IPIP66,
    Setting::IPIP64,
    Setting::LOCAL,
    Setting::LOCAL6,
];
