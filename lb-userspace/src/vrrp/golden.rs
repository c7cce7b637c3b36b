//! What keepalived sent (`tests/golden/vrrp/README.md` says how it was recorded), and what it means.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU8,
    time::Duration,
};

use super::advert::{
    Advertisement, Auth, Centiseconds, Dialect, Discard, Envelope, GROUP_V4, GROUP_V6, PROTOCOL, Password,
    Priority, Seconds, Vrid,
};
use crate::config::model::{AntiReplay, AuthHmac, AuthMode, HmacKey, HmacSecret, VrrpChecksum};

pub const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 2));
pub const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 3));
pub const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 10));
pub const VIP2: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 11));
pub const SOURCE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2));
pub const LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 2));
pub const PEER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3));
pub const VIP_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x10));
pub const VIP_LINK_LOCAL: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x10));
pub const GROUP: IpAddr = IpAddr::V4(GROUP_V4);
pub const ALL_ROUTERS_V6: IpAddr = IpAddr::V6(GROUP_V6);

/// One recorded packet.
pub struct Golden {
    pub name: &'static str,
    /// IP header and message.
    pub packet: Vec<u8>,
    pub envelope: Envelope,
    pub meaning: Advertisement,
    pub signed: bool,
}

impl Golden {
    /// What the IP header says, and the message.
    pub fn open(&self) -> Result<(Envelope, &[u8]), Discard> {
        if self.packet[0] >> 4 == 4 { Envelope::open(&self.packet) } else { open_v6(&self.packet) }
    }

    /// The message, with its trailer if there is one.
    pub fn message(&self) -> &[u8] {
        self.open().expect(self.name).1
    }
}

/// What the kernel does for us.
fn open_v6(packet: &[u8]) -> Result<(Envelope, &[u8]), Discard> {
    let (header, message) = packet.split_at(40);
    assert_eq!((header[0] >> 4, header[6]), (6, PROTOCOL));
    assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), message.len());
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).unwrap()).into();
    Ok((Envelope { source: address(8), destination: address(24), hop_limit: header[7] }, message))
}

pub fn vrid(value: u8) -> Vrid {
    Vrid(NonZeroU8::new(value).unwrap())
}

pub fn v2(auth: Auth) -> Dialect {
    Dialect::V2 { interval: Seconds::new(1).unwrap(), auth }
}

pub fn v3(centiseconds: u16, checksum: VrrpChecksum) -> Dialect {
    Dialect::V3 { interval: Centiseconds::new(centiseconds).unwrap(), checksum }
}

pub fn advert(priority: u8, dialect: Dialect, addresses: &[IpAddr]) -> Advertisement {
    Advertisement { vrid: vrid(60), priority: Priority(priority), dialect, addresses: addresses.to_vec() }
}

pub fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// The key that the signed ones were recorded with.
pub fn auth_hmac() -> AuthHmac {
    let id = NonZeroU8::new(7).unwrap();
    AuthHmac {
        keys: vec![HmacKey { id, secret: HmacSecret::new((0..32).collect()).unwrap() }],
        active_key: id,
        mode: AuthMode::Enforce,
        anti_replay: AntiReplay::Time,
        time_window: Duration::from_secs(5),
    }
}

/// All of them.
pub fn all() -> Vec<Golden> {
    macro_rules! recorded {
        ($name:literal) => {
            (
                ($name, include_str!(concat!("../../../tests/golden/vrrp/", $name, ".hex"))),
                (
                    concat!($name, "-priority-0"),
                    include_str!(concat!("../../../tests/golden/vrrp/", $name, "-priority-0.hex")),
                ),
            )
        };
    }
    let pass = Auth::Simple(Password::new("1111").unwrap());
    let fast = v3(20, VrrpChecksum::Keepalived);
    let slow = v3(100, VrrpChecksum::Keepalived);
    let (unicast, multicast) = ((SOURCE, PEER, 255), (SOURCE, GROUP, 255));
    // keepalived leaves the hop limit of its IPv6 unicast to the kernel.
    let (unicast_v6, multicast_v6) = ((SOURCE_V6, PEER_V6, 64), (LINK_LOCAL, ALL_ROUTERS_V6, 255));
    let kinds = [
        (recorded!("v2-unicast"), unicast, advert(102, v2(Auth::None), &[VIP])),
        (recorded!("v2-multicast-pass"), multicast, advert(101, v2(pass), &[VIP])),
        (recorded!("v3-unicast"), unicast, advert(150, fast, &[VIP])),
        (recorded!("v3-multicast"), multicast, advert(100, fast, &[VIP, VIP2])),
        (recorded!("v3-ipv6-unicast"), unicast_v6, advert(150, fast, &[VIP_V6])),
        (recorded!("v3-ipv6-multicast"), multicast_v6, advert(100, fast, &[VIP_LINK_LOCAL, VIP_V6])),
        (recorded!("hmac-v2-unicast"), unicast, advert(150, v2(Auth::None), &[VIP])),
        (recorded!("hmac-v2-multicast"), multicast, advert(100, v2(Auth::None), &[VIP])),
        (recorded!("hmac-v3-unicast"), unicast, advert(150, slow, &[VIP])),
        (recorded!("hmac-v3-multicast"), multicast, advert(100, slow, &[VIP])),
        (recorded!("hmac-v3-ipv6-unicast"), unicast_v6, advert(150, slow, &[VIP_V6])),
        (recorded!("hmac-v3-ipv6-multicast"), multicast_v6, advert(100, slow, &[VIP_V6])),
    ];
    let mut all = Vec::new();
    for ((first, farewell), (source, destination, hop_limit), meaning) in kinds {
        let leaving = Advertisement { priority: Priority::RELEASE, ..meaning.clone() };
        for ((name, hex), meaning) in [(first, meaning), (farewell, leaving)] {
            let envelope = Envelope { source, destination, hop_limit };
            let signed = name.starts_with("hmac-");
            all.push(Golden { name, packet: bytes(hex), envelope, meaning, signed });
        }
    }
    all
}
