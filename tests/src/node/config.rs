//! The configuration file of a node.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// What the configuration of a node says. Keys that are `None` or empty are not written: xvip's own defaults apply.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// `[node] name`.
    pub name: String,
    /// `[node] interface`; empty: not written.
    pub interface: String,
    /// `[node] interfaces`.
    pub interfaces: Vec<String>,
    /// `[node] xdp_mode`.
    pub xdp_mode: Option<String>,
    /// `[node] local_clients`.
    pub local_clients: Option<String>,
    /// More keys of `[node]`: lines of TOML.
    pub node: Vec<String>,
    /// Each `[[service]]`.
    pub services: Vec<ServiceConfig>,
    /// Each `[[vrrp]]`.
    pub vrrp: Vec<VrrpConfig>,
    /// `[flows]`: lines of TOML.
    pub flows: Vec<String>,
    /// More lines of TOML at the end, whole tables (`[sync]`).
    pub extra: String,
}

/// A `[[service]]` of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// `name`.
    pub name: String,
    /// `vip`, with its prefix length.
    pub vip: String,
    /// `port`.
    pub port: u16,
    /// `mode`: `nat`, `dsr-l2` or `dsr-ipip`.
    pub mode: String,
    /// `snat`.
    pub snat: Option<String>,
    /// `balance`.
    pub balance: Option<String>,
    /// `on_all_down`.
    pub on_all_down: Option<String>,
    /// `on_all_full`.
    pub on_all_full: Option<String>,
    /// `vrrp`: the name of the instance that owns the VIP; without one it is always on the node. Not written where
    /// the node has no instance of that name.
    pub vrrp: Option<String>,
    /// More keys of the service: lines of TOML.
    pub extra: Vec<String>,
    /// `[service.health]`: lines of TOML.
    pub health: Vec<String>,
    /// Each `[[service.backend]]`.
    pub backends: Vec<BackendConfig>,
}

/// A `[[service.backend]]` of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendConfig {
    /// `name`.
    pub name: String,
    /// `address`, with its port.
    pub address: SocketAddr,
    /// `weight`.
    pub weight: Option<u32>,
    /// `max_connections`.
    pub max_connections: Option<u32>,
}

/// A `[[vrrp]]` of a node.
#[derive(Debug, Clone)]
pub struct VrrpConfig {
    /// `name`.
    pub name: String,
    /// `version`.
    pub version: u8,
    /// `virtual_router_id`.
    pub virtual_router_id: u8,
    /// `priority`.
    pub priority: u8,
    /// `advert_interval`, for instance `200ms`.
    pub advert_interval: Option<String>,
    /// `preempt`.
    pub preempt: Option<bool>,
    /// `unicast_source` and `unicast_peers`, of the family of the instance; without them multicast is used.
    pub unicast: Option<(IpAddr, Vec<IpAddr>)>,
    /// More keys of the table: lines of TOML.
    pub extra: Vec<String>,
    /// The tables below it, `[vrrp.auth_hmac]` and each `[[vrrp.track]]`: lines of TOML.
    pub tables: Vec<String>,
}

impl BackendConfig {
    /// A backend of which only the name and the address are written.
    #[must_use]
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self { name: name.to_owned(), address, weight: None, max_connections: None }
    }
}

impl ServiceConfig {
    /// A service in `nat` mode without backends, checked as API servers are: HTTPS, `/readyz`, any certificate.
    #[must_use]
    pub fn new(name: &str, vip: &str, port: u16) -> Self {
        Self {
            name: name.to_owned(),
            vip: vip.to_owned(),
            port,
            mode: "nat".to_owned(),
            snat: None,
            balance: None,
            on_all_down: None,
            on_all_full: None,
            vrrp: None,
            extra: vec![],
            health: ["check = \"https\"", "path = \"/readyz\"", "verify = \"none\""]
                .map(str::to_owned)
                .to_vec(),
            backends: vec![],
        }
    }

    fn write(&self, has_vrrp: bool, line: &mut impl FnMut(String)) {
        line(format!("\n[[service]]\nname = {:?}", self.name));
        line(format!("vip = {:?}\nport = {}\nmode = {:?}", self.vip, self.port, self.mode));
        let keys = [
            ("snat", &self.snat),
            ("balance", &self.balance),
            ("on_all_down", &self.on_all_down),
            ("on_all_full", &self.on_all_full),
        ];
        for (key, value) in keys {
            if let Some(value) = value {
                line(format!("{key} = {value:?}"));
            }
        }
        if let Some(name) = self.vrrp.as_ref().filter(|_| has_vrrp) {
            line(format!("vrrp = {name:?}"));
        }
        self.extra.iter().cloned().for_each(&mut *line);
        if !self.health.is_empty() {
            line("\n[service.health]".to_owned());
        }
        self.health.iter().cloned().for_each(&mut *line);
        for backend in &self.backends {
            line(format!(
                "\n[[service.backend]]\nname = {:?}\naddress = \"{}\"",
                backend.name, backend.address
            ));
            if let Some(weight) = backend.weight {
                line(format!("weight = {weight}"));
            }
            if let Some(max) = backend.max_connections {
                line(format!("max_connections = {max}"));
            }
        }
    }
}

impl VrrpConfig {
    /// An instance of version 3 and priority 100 that speaks multicast.
    #[must_use]
    pub fn new(name: &str, virtual_router_id: u8) -> Self {
        Self {
            name: name.to_owned(),
            version: 3,
            virtual_router_id,
            priority: 100,
            advert_interval: None,
            preempt: None,
            unicast: None,
            extra: vec![],
            tables: vec![],
        }
    }

    /// Signs with the key `id`: `secret` is `hex:` and digits, or a text, of 32 to 64 bytes. `keys` are more keys of
    /// `[vrrp.auth_hmac]`, lines of TOML.
    pub fn authenticate(&mut self, id: u8, secret: &str, keys: &[&str]) {
        self.tables.push(format!("[vrrp.auth_hmac]\nactive_key = {id}"));
        self.tables.extend(keys.iter().map(|&line| line.to_owned()));
        self.tables.push(format!("[[vrrp.auth_hmac.key]]\nid = {id}\nvalue = {secret:?}"));
    }

    /// `sync_group`.
    pub fn join_sync_group(&mut self, name: &str) {
        self.extra.push(format!("sync_group = {name:?}"));
    }

    /// `virtual_mac = true`.
    pub fn use_virtual_mac(&mut self) {
        self.extra.push("virtual_mac = true".to_owned());
    }

    /// `witness`.
    pub fn ask_witnesses(&mut self, witnesses: &[IpAddr]) {
        self.extra.push(format!("witness = {}", list(witnesses)));
    }

    /// `[[vrrp.track]]` of an interface; with weight 0 its loss is a fault.
    pub fn track_interface(&mut self, interface: &str, weight: i16) {
        self.tables.push(format!(
            "[[vrrp.track]]\nkind = \"interface\"\ninterface = {interface:?}\nweight = {weight}"
        ));
    }

    /// `[[vrrp.track]]` of a program and its arguments; `keys` are more keys of it, lines of TOML.
    pub fn track_script(&mut self, command: &[&str], keys: &[&str]) {
        self.tables.push(format!("[[vrrp.track]]\nkind = \"script\"\ncommand = {command:?}"));
        self.tables.extend(keys.iter().map(|&line| line.to_owned()));
    }

    fn write(&self, line: &mut impl FnMut(String)) {
        line(format!("\n[[vrrp]]\nname = {:?}", self.name));
        line(format!("version = {}\nvirtual_router_id = {}", self.version, self.virtual_router_id));
        line(format!("priority = {}", self.priority));
        if let Some(interval) = &self.advert_interval {
            line(format!("advert_interval = {interval:?}"));
        }
        if let Some(preempt) = self.preempt {
            line(format!("preempt = {preempt}"));
        }
        if let Some((source, peers)) = &self.unicast {
            line(format!("unicast_source = \"{source}\"\nunicast_peers = {}", list(peers)));
        }
        self.extra.iter().chain(&self.tables).cloned().for_each(line);
    }
}

/// Addresses as a list of TOML.
fn list(addresses: &[IpAddr]) -> String {
    let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

impl NodeConfig {
    /// The smallest flow tables. The kernel allocates and clears them as a whole, which is most of the time that a daemon
    /// needs to start.
    pub fn small_tables(&mut self) {
        self.flows = ["max", "half_open_max", "sources_max"].map(|key| format!("{key} = 1024")).to_vec();
    }

    /// `[sync]`: the node listens there for these peers, and all have the key in this file.
    pub fn exchange_flows(&mut self, listen: SocketAddr, peers: &[SocketAddr], key_file: &Path) {
        let peers: Vec<String> = peers.iter().map(|peer| format!("\"{peer}\"")).collect();
        let peers = peers.join(", ");
        self.extra = format!("[sync]\nlisten = \"{listen}\"\npeers = [{peers}]\nkey_file = {key_file:?}");
    }

    /// The configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| {
            text.push_str(&line);
            text.push('\n');
        };
        line("[node]".to_owned());
        line(format!("name = {:?}", self.name));
        if !self.interface.is_empty() {
            line(format!("interface = {:?}", self.interface));
        }
        if !self.interfaces.is_empty() {
            line(format!("interfaces = {:?}", self.interfaces));
        }
        // `pin_path` keeps its default, `/sys/fs/bpf/xvip`: the machine has a BPF file system of its own.
        for (key, value) in [("xdp_mode", &self.xdp_mode), ("local_clients", &self.local_clients)] {
            if let Some(value) = value {
                line(format!("{key} = {value:?}"));
            }
        }
        self.node.iter().cloned().for_each(&mut line);
        for service in &self.services {
            let has_vrrp = self.vrrp.iter().any(|vrrp| Some(&vrrp.name) == service.vrrp.as_ref());
            service.write(has_vrrp, &mut line);
        }
        for vrrp in &self.vrrp {
            vrrp.write(&mut line);
        }
        if !self.flows.is_empty() {
            line(format!("\n[flows]\n{}", self.flows.join("\n")));
        }
        if !self.extra.is_empty() {
            let _ = write!(text, "\n{}\n", self.extra.trim_end());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> NodeConfig {
        NodeConfig {
            name: "lb1".to_owned(),
            interface: "eth0".to_owned(),
            interfaces: vec![],
            xdp_mode: None,
            local_clients: None,
            node: vec![],
            services: vec![ServiceConfig {
                vrrp: Some("main".to_owned()),
                backends: vec![BackendConfig::new("master1", ([172, 16, 0, 4], 6443).into())],
                ..ServiceConfig::new("kube-apiserver", "172.16.0.10/24", 6443)
            }],
            vrrp: vec![VrrpConfig {
                unicast: Some(([172, 16, 0, 2].into(), vec![[172, 16, 0, 3].into()])),
                ..VrrpConfig::new("main", 60)
            }],
            flows: vec![],
            extra: String::new(),
        }
    }

    #[test]
    fn the_file_has_the_keys_of_the_design_and_nothing_that_was_not_asked_for() {
        let mut config = config();
        let expected = r#"[node]
name = "lb1"
interface = "eth0"

[[service]]
name = "kube-apiserver"
vip = "172.16.0.10/24"
port = 6443
mode = "nat"
vrrp = "main"

[service.health]
check = "https"
path = "/readyz"
verify = "none"

[[service.backend]]
name = "master1"
address = "172.16.0.4:6443"

[[vrrp]]
name = "main"
version = 3
virtual_router_id = 60
priority = 100
unicast_source = "172.16.0.2"
unicast_peers = ["172.16.0.3"]
"#;
        assert_eq!(config.to_toml(), expected);
        config.services[0].health.push("fall = 3".to_owned());
        config.flows = vec!["max = 64".to_owned()];
        config.exchange_flows(
            ([172, 16, 0, 2], 7946).into(),
            &[([172, 16, 0, 3], 7946).into()],
            Path::new("/k"),
        );
        let text = config.to_toml();
        assert!(text.contains("verify = \"none\"\nfall = 3\n\n[[service.backend]]"), "{text}");
        let end = "\n\n[flows]\nmax = 64\n\n[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/k\"\n";
        assert!(text.ends_with(end), "{text}");
        config.vrrp.clear();
        assert!(!config.to_toml().contains("vrrp"), "a service cannot name an instance that is not there");
    }

    #[test]
    fn each_service_has_its_own_mode_health_and_backends() {
        let mut config = config();
        config.interface.clear();
        config.interfaces = vec!["eth0".to_owned(), "eth1".to_owned()];
        config.local_clients = Some("off".to_owned());
        config.services.push(ServiceConfig {
            mode: "dsr-ipip".to_owned(),
            on_all_full: Some("drop".to_owned()),
            health: vec!["check = \"tcp\"".to_owned()],
            backends: vec![BackendConfig {
                weight: Some(0),
                max_connections: Some(7),
                ..BackendConfig::new("six", "[fd10::4]:6443".parse().unwrap())
            }],
            ..ServiceConfig::new("plain6", "fd10::10/64", 7000)
        });
        let text = config.to_toml();
        let node =
            "name = \"lb1\"\ninterfaces = [\"eth0\", \"eth1\"]\nlocal_clients = \"off\"\n\n[[service]]";
        assert!(text.contains(node), "{text}");
        let second = r#"[[service]]
name = "plain6"
vip = "fd10::10/64"
port = 7000
mode = "dsr-ipip"
on_all_full = "drop"

[service.health]
check = "tcp"

[[service.backend]]
name = "six"
address = "[fd10::4]:6443"
weight = 0
max_connections = 7

[[vrrp]]"#;
        assert!(text.contains(second), "{text}");
    }

    #[test]
    fn an_instance_of_ipv6_with_everything() {
        let mut config = config();
        let mut six = VrrpConfig::new("six", 60);
        six.unicast = Some(("fd10::2".parse().unwrap(), vec!["fd10::3".parse().unwrap()]));
        six.track_interface("eth1", -20);
        six.join_sync_group("all");
        six.use_virtual_mac();
        six.ask_witnesses(&["fd10::1".parse().unwrap()]);
        six.authenticate(7, "a secret of the lab, of 32 bytes", &["mode = \"permissive\""]);
        six.track_script(&["/bin/test", "-e", "/run/ready"], &["interval = \"100ms\"", "fall = 2"]);
        config.vrrp = vec![six];
        let expected = r#"[[vrrp]]
name = "six"
version = 3
virtual_router_id = 60
priority = 100
unicast_source = "fd10::2"
unicast_peers = ["fd10::3"]
sync_group = "all"
virtual_mac = true
witness = ["fd10::1"]
[[vrrp.track]]
kind = "interface"
interface = "eth1"
weight = -20
[vrrp.auth_hmac]
active_key = 7
mode = "permissive"
[[vrrp.auth_hmac.key]]
id = 7
value = "a secret of the lab, of 32 bytes"
[[vrrp.track]]
kind = "script"
command = ["/bin/test", "-e", "/run/ready"]
interval = "100ms"
fall = 2
"#;
        let text = config.to_toml();
        assert!(text.ends_with(expected), "{text}");
    }
}
