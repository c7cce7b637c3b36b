//! What is accepted: its meaning, its warnings, and that the effective configuration means the same.

use std::{num::NonZeroU16, time::Duration};

use super::{BASE, edited, parse};
use crate::config::{
    effective::effective,
    model::{Check, DEFAULT_RISE, Mode, OnAllDown, Verify, VrrpVersion},
};

/// The example of design section 2.3 without its `[[vrrp.track]]`.
const DESIGN: &str = r#"
[node]
name = "lb1"
interface = "eth0"
xdp_mode = "auto"

[[service]]
name = "kube-apiserver"
vip = "172.16.0.10/24"
port = 6443
mode = "nat"
balance = "maglev"
vrrp = "main"
on_all_down = "reset"

[service.health]
check = "https"
path = "/readyz"
expect_status = [200]
verify = "none"
interval = "2s"
down_interval = "1s"
fast_interval = "200ms"
timeout = "1s"
rise = 2
fall = 2
slow_start = "60s"

[[service.backend]]
name = "master1"
address = "172.16.0.4:6443"
weight = 100
max_connections = 0

[service.rebalance]
mode = "off"
rate = 10
margin = "10%"

[[vrrp]]
name = "main"
version = 3
virtual_router_id = 60
priority = 100
advert_interval = "200ms"
preempt = true
preempt_delay = "0s"
unicast_source = "172.16.0.2"
unicast_peers = ["172.16.0.3"]

[flows]
max = 1048576
idle_timeout = "24h"

[sync]
listen = "172.16.0.2:7946"
peers = ["172.16.0.3:7946"]
key_file = "/etc/xvip/sync.key"

[http]
listen = "172.16.0.2:9188"
[[http.user]]
name = "admin"
password_hash = "$argon2id$..."
role = "admin"
"#;

fn warnings(text: &str) -> Vec<(usize, String)> {
    let checked = parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    checked.warnings.into_iter().map(|found| (found.line, found.key)).collect()
}

#[test]
fn the_base_has_no_warning() {
    assert_eq!(warnings(BASE), []);
}

#[test]
fn the_design_s_example_passes_and_says_what_has_no_effect() {
    let expected =
        [(20, "service[0].health.verify"), (27, "service[0].health.slow_start"), (55, "sync"), (60, "http")];
    assert_eq!(warnings(DESIGN), expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn what_only_adds_something_is_accepted_with_a_warning() {
    for (from, to, key) in [
        ("weight = 100", "max_connections = 100", "service[0].backend[0].max_connections"),
        ("interval = \"2s\"", "slow_start = \"1m\"", "service[0].health.slow_start"),
        ("[[vrrp]]", "[service.rebalance]\nmode = \"auto\"\n[[vrrp]]", "service[0].rebalance.mode"),
        ("[flows]", "[[vrrp]]\nname = \"idle\"\nvirtual_router_id = 61\n[flows]", "vrrp[1]"),
        ("unicast_peers = [\"172.16.0.3\"]", "", "vrrp[0].unicast_source"),
        ("verify = \"ca\"\nca_file = \"/pki/ca.crt\"", "", "service[0].health.check"),
        ("priority = 101", "version = 2\nauth_pass = \"********\"", "vrrp[0].auth_pass"),
    ] {
        let keys: Vec<String> = warnings(&edited(from, to)).into_iter().map(|(_, key)| key).collect();
        assert_eq!(keys, [key], "{to}");
    }
}

#[test]
fn peers_need_no_source_where_the_interface_has_an_address() {
    let without = edited("unicast_source = \"172.16.0.2\"", "");
    let instance = &parse(&without).expect("accepted").config.vrrp[0];
    assert_eq!((instance.unicast_source, instance.unicast_peers.len()), (None, 1));
}

#[test]
fn a_token_to_an_unverified_server_is_warned_about() {
    let text = edited("verify = \"ca\"\nca_file = \"/pki/ca.crt\"", "token_file = \"/pki/token\"");
    let keys: Vec<String> = warnings(&text).into_iter().map(|(_, key)| key).collect();
    assert_eq!(keys, ["service[0].health.check", "service[0].health.token_file"]);
}

#[test]
fn a_file_means_what_it_says() {
    let config = parse(BASE).expect("accepted").config;
    assert_eq!((config.node.interface(), config.node.interfaces.len()), ("eth0", 1));
    let service = &config.services[0];
    assert_eq!(service.vip.to_string(), "172.16.0.10/24");
    assert_eq!(service.port, NonZeroU16::new(6443).expect("not 0"));
    assert_eq!((service.mode, service.on_all_down), (Mode::Nat, OnAllDown::Reset));
    assert_eq!(service.vrrp.as_deref(), Some("main"));
    let Check::Https { path, expect_status, tls, token_file } = &service.health.check else {
        panic!("https")
    };
    assert_eq!((path.as_str(), expect_status.as_slice(), token_file), ("/readyz", [200].as_slice(), &None));
    assert_eq!(tls.verify, Verify::Ca);
    assert_eq!((service.health.interval, service.health.rise), (Duration::from_secs(2), DEFAULT_RISE));
    assert_eq!(service.backends[1].address, "172.16.0.5:6443".parse().expect("an address"));
    let vrrp = &config.vrrp[0];
    assert_eq!((vrrp.version, vrrp.virtual_router_id.get(), vrrp.priority.get()), (VrrpVersion::V3, 60, 101));
    assert_eq!(vrrp.advert_interval, Duration::from_millis(200));
}

/// Files that between them give every key a value that is not its default.
fn varied() -> Vec<String> {
    vec![
        BASE.to_owned(),
        DESIGN.to_owned(),
        // Everything by default, without VRRP.
        "[node]\ninterface = \"bond0.12\"\n[[service]]\nname = \"a\\\"b\"\nvip = \"10.0.0.9\"\nport = 1\n\
         [[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n"
            .to_owned(),
        BASE.replace("name = \"lb1\"", "name = \"x\"\nxdp_mode = \"generic\"\npin_path = \"/sys/fs/bpf/a b\"")
            .replace("port = 6443\n", "port = 9443\non_all_down = \"last-known\"\n")
            .replace("interval = \"2s\"", "interval = \"1h\"\ndown_interval = \"1500ms\"\nfast_interval = \"10ms\"\ntimeout = \"90s\"\nrise = 3\nfall = 4\npath = \"/livez?verbose\"\nexpect_status = [200, 401]\nclient_cert = \"/pki/client.crt\"\nclient_key = \"/pki/client.key\"\ntoken_file = \"/pki/token\"")
            .replace("weight = 100", "weight = 0")
            .replace("priority = 101", "priority = 255\npreempt = false\npreempt_delay = \"30s\"\nadvert_interval = \"40.95s\"\nchecksum = \"rfc9568\"")
            .replace("idle_timeout = \"24h\"", "idle_timeout = \"1d\"\nmax = 1024"),
        BASE.replace("check = \"https\"", "check = \"tls\"").replace("priority = 101", "version = 2"),
        BASE.replace("check = \"https\"\nverify = \"ca\"\nca_file = \"/pki/ca.crt\"", "check = \"http\""),
        BASE.replace("check = \"https\"\nverify = \"ca\"\nca_file = \"/pki/ca.crt\"", "check = \"tcp\""),
    ]
}

#[test]
fn the_effective_configuration_means_the_same() {
    for text in varied() {
        let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).config;
        let written = effective(&config);
        let again = parse(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}")).config;
        assert_eq!(again, config, "{written}");
        assert_eq!(effective(&again), written);
    }
}

#[test]
fn a_password_is_masked_and_nothing_else_is_lost() {
    let text = edited("priority = 101", "version = 2\nauth_pass = \"hunter2\"");
    let mut config = parse(&text).expect("accepted").config;
    assert_eq!(config.vrrp[0].auth_pass.as_deref(), Some("hunter2"));
    let written = effective(&config);
    assert!(!written.contains("hunter2") && written.contains("auth_pass = \"********\""), "{written}");
    assert!(!serde_json::to_string(&config).expect("JSON").contains("hunter2"));
    let again = parse(&written).expect("accepted");
    // Who saves the output as a file is told.
    assert_eq!(
        again.warnings.iter().map(|found| found.key.as_str()).collect::<Vec<_>>(),
        ["vrrp[0].auth_pass"]
    );
    config.vrrp[0].auth_pass = Some("********".to_owned());
    assert_eq!(again.config, config);
}

#[test]
fn the_effective_configuration_shows_every_default() {
    let text = effective(&parse(BASE).expect("accepted").config);
    for line in [
        "xdp_mode = \"auto\"",
        "pin_path = \"/sys/fs/bpf/xvip\"",
        "mode = \"nat\"",
        "balance = \"maglev\"",
        "on_all_down = \"reset\"",
        "path = \"/readyz\"",
        "expect_status = [200]",
        "down_interval = \"1s\"",
        "fast_interval = \"200ms\"",
        "timeout = \"1s\"",
        "rise = 2",
        "fall = 2",
        "weight = 100",
        "version = 3",
        "advert_interval = \"200ms\"",
        "preempt = true",
        "preempt_delay = \"0s\"",
        "checksum = \"keepalived\"",
        "max = 1048576",
        "idle_timeout = \"24h\"",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
}
