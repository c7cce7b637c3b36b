//! Whose packets are traced, as the command line has it. Pure.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use lb_common::{trace::Wanted, wire::Be128};

/// A client: an address or a network, and perhaps a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    address: IpAddr,
    len: u32,
    port: Option<u16>,
}

impl Client {
    /// As the programs want it.
    pub fn wanted(&self) -> Wanted {
        let bits = if self.address.is_ipv4() { self.len + 96 } else { self.len };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let client = u128::from_be_bytes(Be128::from(self.address).octets()) & mask;
        Wanted {
            client: Be128::from_octets(client.to_be_bytes()),
            mask: Be128::from_octets(mask.to_be_bytes()),
            port: self.port.unwrap_or(0).into(),
            _pad: 0,
        }
    }
}

impl FromStr for Client {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return match socket.port() {
                0 => Err("the port must be 1 to 65535".to_owned()),
                port => Ok(Self { address: socket.ip(), len: longest(socket.ip()), port: Some(port) }),
            };
        }
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| {
            format!("{text:?} is no client: write IP, IP:PORT, [IPv6]:PORT or a network such as 10.0.0.0/8")
        })?;
        match len.map_or(Ok(longest(address)), str::parse) {
            Ok(len) if len <= longest(address) => Ok(Self { address, len, port: None }),
            _ => Err(format!("the prefix length must be 0 to {}", longest(address))),
        }
    }
}

const fn longest(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None if self.len == longest(self.address) => self.address.fmt(f),
            None => write!(f, "{}/{}", self.address, self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_read_and_shown_as_they_are_written() {
        for text in
            ["10.0.0.7", "10.0.0.7:4000", "10.0.0.0/8", "fd00::7", "[fd00::7]:4000", "fd00::/8", "0.0.0.0/0"]
        {
            assert_eq!(text.parse::<Client>().map(|client| client.to_string()).as_deref(), Ok(text));
        }
        for text in
            ["", "10.0.0", "10.0.0.7:0", "10.0.0.7:65536", "10.0.0.0/33", "fd00::/129", "m1", "fd00::/x"]
        {
            assert!(text.parse::<Client>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_mask_is_as_long_as_the_prefix_in_the_wide_form() {
        let wanted = |text: &str| text.parse::<Client>().expect("a client").wanted();
        let network = wanted("10.1.2.3/8");
        assert_eq!(IpAddr::from(network.client), IpAddr::from([10, 0, 0, 0]));
        let ones = |wanted: Wanted| u128::from_be_bytes(wanted.mask.octets()).leading_ones();
        assert_eq!([ones(network), ones(wanted("10.1.2.3")), ones(wanted("0.0.0.0/0"))], [104, 128, 96]);
        assert_eq!([ones(wanted("::/0")), ones(wanted("fd00::/8"))], [0, 8]);
        assert_eq!(wanted("[fd00::7]:4000").port, 4000);
    }
}
