//! Many services with many backends each, none of which is a machine of its own: one API server of the lab answers at every
//! address of a network.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use super::START_LIMIT;
use crate::addresses::{Family, VIP};
use crate::netns::{Netns, NetnsError};
use crate::node::{BackendConfig, LbNode, ServiceConfig};
use crate::topology::{API_PORT, Lab, PLAIN_PORT};
use crate::wait;

/// Where the backends are.
const NETWORK: &str = "10.77.0.0/16";
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The port of the first service, at the VIP.
const FIRST_PORT: u16 = 20_000;
/// Where HAProxy tells its statistics, on its own machine.
pub const STATISTICS: &str = "/run/haproxy-crowd";

/// How backends are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// By a TCP handshake.
    Tcp,
    /// By `GET /readyz` over TLS.
    Https,
}

impl Checked {
    /// As the tables have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Tcp => PLAIN_PORT,
            Self::Https => API_PORT,
        }
    }
}

/// What there is.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Services.
    pub services: usize,
    /// Backends of each.
    pub each: usize,
    /// How they are checked.
    pub checked: Checked,
    /// How often, in seconds; each has its own default without.
    pub interval: Option<u32>,
    /// Whether no two services have a backend in common. Otherwise all have the same.
    pub apart: bool,
    /// The weight of the first backend of each; the others have 1.
    pub first_weight: u32,
}

impl Crowd {
    /// Lets the API server answer for all of them, and a machine find it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn gather(lab: &Lab, balancers: &[&Netns]) -> Result<(), NetnsError> {
        let server = lab.master(0);
        server.machine().ip(&format!("route add local {NETWORK} dev lo"))?;
        balancers.iter().try_for_each(|machine| {
            machine.ip(&format!("route add {NETWORK} via {}", server.address_of(Family::V4)))
        })
    }

    fn address(&self, service: usize, backend: usize) -> IpAddr {
        let n = if self.apart { service * self.each + backend } else { backend };
        Ipv4Addr::from_bits(FIRST.to_bits() + n as u32).into()
    }

    fn weight(&self, backend: usize) -> u32 {
        if backend == 0 { self.first_weight } else { 1 }
    }

    /// The services, as xvip has them.
    pub fn configured(&self) -> Vec<ServiceConfig> {
        let service = |n: usize| {
            let mut health = vec![format!("check = {:?}", self.checked.name())];
            if self.checked == Checked::Https {
                health.extend(["path = \"/readyz\"", "verify = \"none\""].map(str::to_owned));
            }
            health.extend(self.interval.map(|seconds| format!("interval = \"{seconds}s\"")));
            let backend = |b: usize| BackendConfig {
                weight: Some(self.weight(b)),
                ..BackendConfig::new(
                    &format!("b{b}"),
                    SocketAddr::new(self.address(n, b), self.checked.port()),
                )
            };
            ServiceConfig {
                health,
                backends: (0..self.each).map(backend).collect(),
                ..ServiceConfig::new(&format!("s{n}"), &format!("{VIP}/24"), FIRST_PORT + n as u16)
            }
        };
        (0..self.services).map(service).collect()
    }

    /// Starts a node that has nothing but these, and waits until all of them are up.
    ///
    /// # Errors
    /// When it does not start, or that takes too long.
    pub fn start(&self, node: &LbNode) -> anyhow::Result<()> {
        node.configure(|config| {
            config.small_tables();
            config.vrrp.clear();
            config.services = self.configured();
        })?;
        node.start_within(START_LIMIT)?;
        wait_up(node, self.services * self.each)
    }

    /// The same, as HAProxy has them; it listens at an address of its own machine.
    pub fn for_haproxy(&self, listen: IpAddr) -> String {
        let mut text = format!(
            "global\n  stats socket {STATISTICS} mode 600 level admin\n  maxconn 1000\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n  balance roundrobin\n"
        );
        for n in 0..self.services {
            let _ = write!(text, "listen s{n}\n  bind {listen}:{}\n", FIRST_PORT + n as u16);
            let options = match self.checked {
                Checked::Tcp => "check",
                Checked::Https => {
                    text.push_str("  option httpchk GET /readyz\n");
                    "check check-ssl verify none"
                }
            };
            let interval = self.interval.map(|seconds| format!(" inter {seconds}s")).unwrap_or_default();
            for b in 0..self.each {
                let (address, port) = (self.address(n, b), self.checked.port());
                let weight = self.weight(b);
                let _ = writeln!(text, "  server b{b} {address}:{port} {options}{interval} weight {weight}");
            }
        }
        text
    }

    /// Writes that into a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_for_haproxy(&self, file: &Path, listen: IpAddr) -> std::io::Result<()> {
        std::fs::write(file, self.for_haproxy(listen))
    }
}

/// Waits until so many backends are up, and all services have them.
///
/// # Errors
/// When that takes too long.
pub fn wait_up(node: &LbNode, backends: usize) -> anyhow::Result<()> {
    let is_up = || {
        sleep(Duration::from_millis(200));
        node.status().is_ok_and(|status| {
            let services = status.raw["services"].as_array().into_iter().flatten();
            let usable: u64 = services.filter_map(|service| service["usable"].as_u64()).sum();
            let up = status.services.iter().flat_map(|service| &service.backends).filter(|b| b.state == "up");
            up.count() == backends && usable == backends as u64
        })
    };
    Ok(wait::until("all backends to be up", START_LIMIT, is_up)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CROWD: Crowd = Crowd {
        services: 3,
        each: 2,
        checked: Checked::Tcp,
        interval: Some(7),
        apart: true,
        first_weight: 5,
    };

    #[test]
    fn both_have_the_same_backends() {
        let services = CROWD.configured();
        let addresses: Vec<_> =
            services.iter().flat_map(|s| &s.backends).map(|b| b.address.to_string()).collect();
        let expected = ["10.77.0.1", "10.77.0.2", "10.77.0.3", "10.77.0.4", "10.77.0.5", "10.77.0.6"]
            .map(|a| format!("{a}:7000"));
        assert_eq!(addresses, expected);
        let text = CROWD.for_haproxy([192, 0, 2, 1].into());
        for address in &addresses {
            assert_eq!(text.matches(&format!(" {address} check inter 7s weight ")).count(), 1, "{text}");
        }
        assert_eq!(text.matches("weight 5").count(), 3);
        assert_eq!(services[2].port, 20_002);
        assert!(text.contains("listen s2\n  bind 192.0.2.1:20002\n"), "{text}");
    }

    #[test]
    fn backends_that_services_have_in_common_are_the_same_in_each() {
        let services = Crowd { apart: false, checked: Checked::Https, interval: None, ..CROWD }.configured();
        assert_eq!(services[0].backends, services[2].backends);
        assert_eq!(services[0].health, ["check = \"https\"", "path = \"/readyz\"", "verify = \"none\""]);
    }
}
