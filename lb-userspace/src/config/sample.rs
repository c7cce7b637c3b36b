//! A node's configuration, for the tests of whoever reads one.

use std::{io, path::Path};

use super::{Facts, model::Config, parse};

/// One service with a backend, in one virtual router with a peer.
pub const SAMPLE: &str = r#"
[node]
name = "lb1"
interface = "eth0"
[[service]]
name = "api"
vip = "172.16.0.10/24"
port = 6443
vrrp = "main"
[service.health]
check = "tcp"
[[service.backend]]
name = "m1"
address = "172.16.0.4:6443"
[[vrrp]]
name = "main"
virtual_router_id = 60
priority = 100
unicast_source = "172.16.0.2"
unicast_peers = ["172.16.0.3"]
"#;

/// What a text says, on a node without any other file. Panics where it is refused.
pub fn config(text: &str) -> Config {
    let read_file = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let file_mode = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    let facts = Facts { host_name: "lb1".to_owned(), read_file: &read_file, file_mode: &file_mode };
    match parse(text, Path::new("xvip.toml"), &facts) {
        Ok(checked) => checked.config,
        Err(problems) => panic!("{problems}"),
    }
}
