//! `primitive`: a resource with its agent, parameters, meta attributes and operations.

use std::{net::IpAddr, time::Duration};

use super::statements::Word;
use crate::import::source::Place;

/// What a resource is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A floating address.
    Address,
    /// The balancer.
    Balancer,
    /// A device that switches nodes off.
    Fencing,
    /// `ocf:pacemaker:ping`: whether others can be reached.
    Ping,
    /// Anything else.
    Other,
}

impl Kind {
    /// By the agent: `ocf:heartbeat:IPaddr2`, `systemd:haproxy`, `IPaddr2`.
    pub fn of(agent: &str) -> Self {
        let name = agent.rsplit(':').next().unwrap_or("");
        let plain = name.trim_end_matches(".service").to_ascii_lowercase();
        match plain.as_str() {
            _ if agent.starts_with("stonith:") || plain.starts_with("fence_") || agent == "stonith" => {
                Self::Fencing
            }
            "ipaddr" | "ipaddr2" | "ipv6addr" => Self::Address,
            "haproxy" | "nginx" | "keepalived" | "envoy" => Self::Balancer,
            "ping" | "pingd" => Self::Ping,
            _ => Self::Other,
        }
    }
}

/// A resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Primitive {
    /// Its name.
    pub name: String,
    /// Where it begins.
    pub place: Place,
    /// What it is.
    pub kind: Kind,
    /// `ip`
    pub address: Option<(IpAddr, Place)>,
    /// `cidr_netmask`
    pub prefix_len: Option<u8>,
    /// `nic`
    pub interface: Option<String>,
    /// `op monitor`: interval and time-out.
    pub monitor: Option<(Duration, Option<Duration>, Place)>,
}

/// The part of a statement that a word is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `params`, and what stands before any other.
    Parameters,
    /// `meta`
    Meta,
    /// `op monitor`
    Monitor,
    /// Another operation.
    Operation,
    /// `utilization`, `operations` and others.
    Rest,
}

impl Section {
    /// The section that a word begins, by it and the next one.
    pub fn begun_by(word: &Word, next: Option<&Word>) -> Option<Self> {
        match word.text.as_str() {
            "params" => Some(Self::Parameters),
            "meta" => Some(Self::Meta),
            "op" => Some(match next.map(|word| word.text.as_str()) {
                Some("monitor") => Self::Monitor,
                _ => Self::Operation,
            }),
            "utilization" | "operations" | "clone" | "bundle" | "--group" | "--wait" | "--disabled" => {
                Some(Self::Rest)
            }
            _ => None,
        }
    }
}

/// Pacemaker's times: seconds without unit, `20s`, `500ms`, `1min`, `2m`, `1h`, `PT20S` not.
pub fn time(text: &str) -> Option<Duration> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let time = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "s" | "sec" => Duration::from_secs(number),
        "ms" | "msec" => Duration::from_millis(number),
        "us" | "usec" => Duration::from_micros(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" | "hr" => Duration::from_secs(number.checked_mul(3600)?),
        _ => return None,
    };
    // A year is longer than anything that is meant.
    (time <= Duration::from_secs(366 * 24 * 3600)).then_some(time)
}

/// `24`, or `255.255.255.0`.
pub fn prefix_len(text: &str) -> Option<u8> {
    if let Ok(mask) = text.parse::<std::net::Ipv4Addr>() {
        let bits = mask.to_bits();
        return (bits.leading_ones() + bits.trailing_zeros() >= 32)
            .then(|| u8::try_from(bits.leading_ones()).unwrap_or(32));
    }
    text.parse::<u8>().ok().filter(|length| *length <= 128)
}
