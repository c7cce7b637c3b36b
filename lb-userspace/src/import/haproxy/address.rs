//! Addresses of `bind` and `server` lines (HAProxy 2.6's manual, §11), and networks of `src` rules.

use std::net::IpAddr;

use thiserror::Error;

use crate::config::model::Prefix;

/// What an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP.
    Tcp(Host, Ports),
    /// Something else; its name.
    Other(&'static str),
}

/// The part before the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// `*`, nothing, `0.0.0.0`, `::`.
    Any,
    /// An address.
    Ip(IpAddr),
    /// A name.
    Name(String),
}

/// The part behind the colon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nothing.
    None,
    /// `first-last`, often the same.
    Range(u16, u16),
    /// `+100`, `-100`: the port that the client connected to, and that.
    Offset(i32),
}

/// Why it is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Not a number from 1 to 65535, or a range of them.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Neither an address nor a name.
    #[error("this is neither an address nor a name")]
    Host,
}

/// Prefixes of address families; whether what follows is TCP over IP.
const FAMILIES: [(&str, Result<(), &str>); 24] = [
    ("ipv4@", Ok(())),
    ("ipv6@", Ok(())),
    ("tcp@", Ok(())),
    ("tcp4@", Ok(())),
    ("tcp6@", Ok(())),
    ("stream+ipv4@", Ok(())),
    ("stream+ipv6@", Ok(())),
    ("mptcp@", Ok(())),
    ("mptcp4@", Ok(())),
    ("mptcp6@", Ok(())),
    ("unix@", Err("a Unix socket")),
    ("uxst@", Err("a Unix socket")),
    ("uxdg@", Err("a Unix socket")),
    ("abns@", Err("a Unix socket")),
    ("abnsz@", Err("a Unix socket")),
    ("stream+unix@", Err("a Unix socket")),
    ("fd@", Err("an inherited socket")),
    ("sockpair@", Err("an inherited socket")),
    ("udp@", Err("UDP")),
    ("udp4@", Err("UDP")),
    ("udp6@", Err("UDP")),
    ("quic4@", Err("QUIC")),
    ("quic6@", Err("QUIC")),
    ("rhttp@", Err("reverse HTTP")),
];

/// An address as HAProxy reads it: the last colon, unless a bracket follows it, is in front of the port.
///
/// # Errors
/// It is none.
pub fn endpoint(text: &str) -> Result<Endpoint, Fault> {
    let mut text = text;
    for (prefix, tcp) in FAMILIES {
        if let Some(rest) = text.strip_prefix(prefix) {
            match tcp {
                Ok(()) => text = rest,
                Err(what) => return Ok(Endpoint::Other(what)),
            }
            break;
        }
    }
    if text.starts_with('/') {
        return Ok(Endpoint::Other("a Unix socket"));
    }
    let (host, port) = match text.rfind([':', ']']) {
        Some(at) if text[at..].starts_with(':') => (&text[..at], &text[at + 1..]),
        _ => (text, ""),
    };
    Ok(Endpoint::Tcp(self::host(host)?, ports(port)?))
}

fn host(text: &str) -> Result<Host, Fault> {
    if text.is_empty() || text == "*" {
        return Ok(Host::Any);
    }
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(if address.is_unspecified() { Host::Any } else { Host::Ip(address) });
    }
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%' | '$' | '{' | '}');
    if text.chars().all(named) { Ok(Host::Name(text.to_owned())) } else { Err(Fault::Host) }
}

fn ports(text: &str) -> Result<Ports, Fault> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten().ok_or(Fault::Port)
    };
    if text.is_empty() || text == "0" {
        return Ok(Ports::None);
    }
    if let Some(offset) = text.strip_prefix('+') {
        return Ok(Ports::Offset(i32::from(port(offset)?)));
    }
    if let Some(offset) = text.strip_prefix('-') {
        return Ok(Ports::Offset(-i32::from(port(offset)?)));
    }
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first == 0 || first > last { Err(Fault::Port) } else { Ok(Ports::Range(first, last)) }
}

/// A network: an address, with `/LENGTH` or `/MASK`. Bits behind the length are cut off, as HAProxy's comparison does.
pub fn prefix(text: &str) -> Option<Prefix> {
    let (address, mask) = text.split_once('/').map_or((text, None), |(address, mask)| (address, Some(mask)));
    // HAProxy takes `10` for 10.0.0.0 and `10.1` for 10.1.0.0 here.
    let address = match address.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => shortened(address)?,
    };
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    let len = match mask {
        None => bits,
        Some(mask) => match (mask.parse::<u8>(), mask.parse::<IpAddr>()) {
            (Ok(len), _) if len <= bits => len,
            (_, Ok(IpAddr::V4(mask))) if address.is_ipv4() => {
                let mask = u32::from(mask);
                let len = mask.leading_ones();
                (mask.count_ones() == len).then_some(u8::try_from(len).ok()?)?
            }
            _ => return None,
        },
    };
    let address = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
            IpAddr::V6((u128::from(address) & mask).into())
        }
    };
    Some(Prefix { address, len })
}

fn shortened(text: &str) -> Option<IpAddr> {
    let mut octets = [0; 4];
    let parts: Vec<&str> = text.split('.').take(5).collect();
    if parts.len() > 3 {
        return None;
    }
    for (octet, part) in octets.iter_mut().zip(parts) {
        *octet = part.parse().ok()?;
    }
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        let any = |first, last| Ok(Endpoint::Tcp(Host::Any, Ports::Range(first, last)));
        let ip = |ip: &str, port| Ok(Endpoint::Tcp(Host::Ip(ip.parse().unwrap()), port));
        for text in ["*:6443", ":6443", "0.0.0.0:6443", "[::]:6443", ":::6443", "ipv4@:6443", "ipv6@:::6443"]
        {
            assert_eq!(endpoint(text), any(6443, 6443), "{text}");
        }
        assert_eq!(endpoint("*:8007-8009"), any(8007, 8009));
        assert_eq!(endpoint("10.0.0.1:443"), ip("10.0.0.1", Ports::Range(443, 443)));
        assert_eq!(endpoint("10.0.0.1"), ip("10.0.0.1", Ports::None));
        assert_eq!(endpoint("10.0.0.1:+1000"), ip("10.0.0.1", Ports::Offset(1000)));
        assert_eq!(endpoint("10.0.0.1:-1000"), ip("10.0.0.1", Ports::Offset(-1000)));
        assert_eq!(endpoint("2001:db8::4:6443"), ip("2001:db8::4", Ports::Range(6443, 6443)));
        assert_eq!(endpoint("[2001:db8::4]:6443"), ip("2001:db8::4", Ports::Range(6443, 6443)));
        assert_eq!(
            endpoint("master-1.example:6443"),
            Ok(Endpoint::Tcp(Host::Name("master-1.example".to_owned()), Ports::Range(6443, 6443)))
        );
        for text in ["unix@/run/x", "/run/x", "abns@x"] {
            assert_eq!(endpoint(text), Ok(Endpoint::Other("a Unix socket")), "{text}");
        }
        for text in ["10.0.0.1:65536", "*:0-11", "*:a", "*:1-", "*:2-1", "a:b", "*:99999999999"] {
            assert_eq!(endpoint(text), Err(Fault::Port), "{text}");
        }
        assert_eq!(endpoint("a b:1"), Err(Fault::Host));
        assert_eq!(endpoint("[x]:1"), Err(Fault::Host));
    }

    #[test]
    fn networks_lose_the_bits_behind_their_length() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("192.168.0.0/255.255.0.0", "192.168.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10/8", "10.0.0.0/8"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(prefix(text).unwrap().to_string(), expected);
        }
        for text in ["10.0.0.0/33", "10.0.0.0/255.0.255.0", "x", "", "10.0.0.0/", "1.2.3.4.5/8", "::/129"] {
            assert_eq!(prefix(text), None, "{text}");
        }
    }
}
