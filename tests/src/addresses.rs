//! The addresses of the lab. A machine has the same host number in both families: 172.16.0.4 is also `fd10::4`, and
//! 172.16.0.100 is `fd10::100` (the decimal digits, so that nobody has to convert when reading a capture).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 10);
/// The virtual address in IPv6.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, 0x10);
/// The prefix length of each network.
pub const PREFIX_LENGTH: u8 = 24;
/// The prefix length of each network in IPv6.
pub const PREFIX_LENGTH6: u8 = 64;

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The virtual address in this family.
    #[must_use]
    pub fn vip(self) -> IpAddr {
        match self {
            Self::V4 => VIP.into(),
            Self::V6 => VIP6.into(),
        }
    }

    /// The prefix length of the lab's networks in this family.
    #[must_use]
    pub fn prefix_length(self) -> u8 {
        match self {
            Self::V4 => PREFIX_LENGTH,
            Self::V6 => PREFIX_LENGTH6,
        }
    }

    /// The prefix length of a single address.
    #[must_use]
    pub fn host_length(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The flag that makes `ip` mean this family.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// A network of the lab: 172.16.N.0/24 and `fd10:0:0:N::/64`, where N is the discriminant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subnet {
    /// Where the LB nodes and the VIP are, and everybody else unless the builder was told otherwise.
    Main = 0,
    /// Clients behind routers.
    Clients = 1,
    /// API servers behind routers, or on the LB nodes' second interface.
    Masters = 2,
    /// Between the two routers on the clients' side.
    ClientLink = 3,
    /// Between the two routers on the API servers' side.
    MasterLink = 4,
}

impl Subnet {
    /// The address of a host, `number` being at most 254.
    #[must_use]
    pub fn host(self, family: Family, number: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(172, 16, self as u8, number).into(),
            Family::V6 => Ipv6Addr::new(0xfd10, 0, 0, self as u16, 0, 0, 0, as_read(number)).into(),
        }
    }

    /// The network as a prefix, for routes.
    #[must_use]
    pub fn prefix(self, family: Family) -> String {
        match family {
            Family::V4 => format!("172.16.{}.0/{PREFIX_LENGTH}", self as u8),
            Family::V6 => format!("fd10:0:0:{}::/{PREFIX_LENGTH6}", self as u8),
        }
    }
}

/// The host of this number in the lab's main network.
#[must_use]
pub fn host(number: u8) -> Ipv4Addr {
    let [a, b, c, _] = VIP.octets();
    Ipv4Addr::new(a, b, c, number)
}

/// The host of this number in the lab's main network, in IPv6.
#[must_use]
pub fn host6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd10, 0, 0, 0, 0, 0, 0, as_read(number))
}

/// The number whose hexadecimal digits are the decimal digits of this one.
fn as_read(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_the_same_digits_in_both_families() {
        assert_eq!(host6(100).to_string(), "fd10::100");
        assert_eq!(host6(254).to_string(), "fd10::254");
        assert_eq!((host(10), host6(10)), (VIP, VIP6));
        assert_eq!(Subnet::Main.host(Family::V4, 4), host(4));
        assert_eq!(Subnet::Main.host(Family::V6, 4), host6(4));
        assert_eq!(Subnet::Masters.host(Family::V6, 4).to_string(), "fd10:0:0:2::4");
        assert_eq!(Subnet::Masters.prefix(Family::V4), "172.16.2.0/24");
    }
}
