//! What is accepted: its meaning, its warnings, and that the effective configuration means the same.

use std::{num::NonZeroU16, time::Duration};

use super::{BASE, edited, parse};
use crate::config::{
    effective::{effective, fingerprint},
    model::{
        Balance, Check, ConnectionLog, DEFAULT_RISE, LocalClients, Mode, OnAllDown, OnAllFull, Service, Snat,
        Verify, VrrpVersion,
    },
};

/// The example of design section 2.3.
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

[[vrrp.track]]
kind = "script"
command = ["/usr/local/bin/check"]
interval = "2s"
rise = 2
fall = 2
weight = -50

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
password_hash = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
role = "admin"
"#;

fn warnings(text: &str) -> Vec<(usize, String)> {
    let checked = parse(text).unwrap_or_else(|problems| panic!("{problems}"));
    checked.warnings.into_iter().map(|found| (found.line, found.key)).collect()
}

#[test]
fn the_base_has_no_warning() {
    assert_eq!(warnings(BASE), []);
    let rebalanced = edited("[[vrrp]]", "[service.rebalance]\nmode = \"auto\"\n[[vrrp]]");
    assert_eq!(warnings(&rebalanced), []);
}

#[test]
fn the_design_s_example_passes_and_says_what_is_not_protected() {
    let expected = [(20, "service[0].health.verify"), (69, "http.listen")];
    assert_eq!(warnings(DESIGN), expected.map(|(line, key)| (line, key.to_owned())));
}

#[test]
fn what_only_adds_something_is_accepted_with_a_warning() {
    for (from, to, key) in [
        (
            "port = 6443\n",
            "port = 6443\nmode = \"dsr-l2\"\nbalance = \"round-robin\"\n",
            "service[0].balance",
        ),
        (
            "port = 6443\n",
            "port = 6443\nmode = \"dsr-ipip\"\nbalance = \"least-connections\"\n",
            "service[0].balance",
        ),
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

fn service(text: &str) -> Service {
    let checked = parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    assert_eq!(checked.warnings, []);
    checked.config.services.into_iter().next().expect("a service")
}

/// The base's service with these keys.
fn with_keys(keys: &str) -> Service {
    service(&edited("port = 6443\n", &format!("port = 6443\n{keys}\n")))
}

#[test]
fn interfaces_and_who_goes_around_them() {
    let node = |from: &str, to: &str| parse(&edited(from, to)).expect("accepted").config.node;
    let several = node("interface = \"eth0\"", "interfaces = [\"bond0.12\", \"eth1\", \"eth2\", \"eth3\"]");
    assert_eq!((several.interface(), several.interfaces.len()), ("bond0.12", 4));
    assert_eq!(several.local_clients, LocalClients::Host);
    assert_eq!(node("interface = \"eth0\"", "interfaces = [\"eth1\"]").interfaces, ["eth1"]);
    for (word, local_clients) in
        [("host", LocalClients::Host), ("all", LocalClients::All), ("off", LocalClients::Off)]
    {
        let text = format!("local_clients = {word:?}\ninterface =");
        assert_eq!(node("interface =", &text).local_clients, local_clients);
    }
}

#[test]
fn each_mode_balance_and_snat() {
    let plain = service(BASE);
    assert_eq!((plain.mode, plain.snat, plain.balance), (Mode::Nat, Snat::Vip, Balance::Maglev));
    assert_eq!(with_keys("mode = \"nat\"\nsnat = \"vip\"").snat, Snat::Vip);
    assert_eq!(with_keys("snat = \"node\"").snat, Snat::Node);
    for (word, mode) in [("nat", Mode::Nat), ("dsr-l2", Mode::DsrL2), ("dsr-ipip", Mode::DsrIpip)] {
        assert_eq!(with_keys(&format!("mode = {word:?}")).mode, mode);
        assert_eq!(mode.as_str(), word);
    }
    for (word, balance) in [
        ("maglev", Balance::Maglev),
        ("round-robin", Balance::RoundRobin),
        ("least-connections", Balance::LeastConnections),
    ] {
        // With NAT a flow is on one node anyway, so none of them is warned about.
        assert_eq!(with_keys(&format!("balance = {word:?}")).balance, balance);
    }
    for (word, on_all_full) in [("reset", OnAllFull::Reset), ("drop", OnAllFull::Drop)] {
        assert_eq!(with_keys(&format!("on_all_full = {word:?}")).on_all_full, on_all_full);
    }
    assert_eq!(plain.on_all_full, OnAllFull::Reset);
}

#[test]
fn ports_and_families_that_each_mode_can_reach() {
    let with = |mode: &str, first: &str, second: &str| {
        let text = edited("port = 6443\n", &format!("port = 6443\nmode = {mode:?}\n"))
            .replace("172.16.0.4:6443", first)
            .replace("172.16.0.5:6443", second);
        service(&text).backends.iter().map(|backend| backend.address.to_string()).collect::<Vec<_>>()
    };
    for (mode, first, second) in [
        ("nat", "172.16.0.4:1", "172.16.0.5:65535"),
        ("dsr-l2", "172.16.0.4:6443", "[2001:db8::5]:6443"),
        ("dsr-ipip", "172.16.0.4:6443", "[2001:db8::5]:6443"),
    ] {
        assert_eq!(with(mode, first, second), [first, second], "{mode}");
    }
}

#[test]
fn limits() {
    let plain = service(BASE);
    assert_eq!((plain.new_connections_per_source, plain.new_connections_burst), (0, 1));
    for (keys, expected) in [
        ("new_connections_per_source = 0", (0, 1)),
        ("new_connections_per_source = 1", (1, 1)),
        ("new_connections_per_source = 50", (50, 50)),
        ("new_connections_per_source = 50\nnew_connections_burst = 1", (50, 1)),
        ("new_connections_per_source = 1000000\nnew_connections_burst = 1000000", (1_000_000, 1_000_000)),
    ] {
        let service = with_keys(keys);
        assert_eq!((service.new_connections_per_source, service.new_connections_burst), expected, "{keys}");
    }
    let backends = service(&edited("weight = 100", "max_connections = 4294967295")).backends;
    assert_eq!([backends[0].max_connections, backends[1].max_connections], [u32::MAX, 0]);
    for (text, expected) in
        [("0s", Duration::ZERO), ("60s", Duration::from_secs(60)), ("1h", Duration::from_secs(3600))]
    {
        let health = service(&edited("interval = \"2s\"", &format!("slow_start = {text:?}"))).health;
        assert_eq!(health.slow_start, expected);
    }
    assert_eq!(plain.health.slow_start, Duration::ZERO);
}

#[test]
fn the_connection_log() {
    let plain = parse(BASE).expect("accepted").config;
    assert_eq!((plain.connection_log, plain.services[0].connection_log), (ConnectionLog::default(), false));
    assert!(with_keys("connection_log = true").connection_log);
    let log = "[connection_log]\ndirectory = \"/srv/log\"\nskip_empty = true\nmax_size = \"64 MiB\"\nfiles = 1\njournal = true\n[flows]";
    let config = parse(&edited("[flows]", log)).expect("accepted").config;
    let expected = ConnectionLog {
        directory: "/srv/log".into(),
        skip_empty: true,
        max_size: 64 << 20,
        files: 1,
        journal: true,
    };
    assert_eq!(config.connection_log, expected);
    assert!(effective(&config).contains("max_size = \"64MiB\"\n"));
    for (text, bytes) in
        [("100KB", 100_000), ("100000B", 100_000), ("1kib", 1024), ("10GB", 10_000_000_000_u64)]
    {
        let log = format!("[connection_log]\nmax_size = {text:?}\n[flows]");
        let read = parse(&edited("[flows]", &log)).map(|checked| checked.config.connection_log.max_size).ok();
        // The one that is too small is a size all the same.
        assert_eq!(read, Some(bytes).filter(|bytes| *bytes > 1024), "{text}");
    }
}

#[test]
fn sources_that_may_connect() {
    assert_eq!(service(BASE).allow, []);
    let allowed = |list: &str| {
        with_keys(&format!("allow = {list}")).allow.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(allowed("[\"10.0.0.0/8\", \"192.168.1.0/31\"]"), ["10.0.0.0/8", "192.168.1.0/31"]);
    assert_eq!(allowed("[\"192.0.2.7\", \"0.0.0.0/0\"]"), ["192.0.2.7/32", "0.0.0.0/0"]);
    let text =
        IPV6.replace("port = 6443\n", "port = 6443\nallow = [\"fd00::/8\", \"2001:DB8::1\", \"::/0\"]\n");
    let ipv6: Vec<String> = service(&text).allow.iter().map(ToString::to_string).collect();
    assert_eq!(ipv6, ["fd00::/8", "2001:db8::1/128", "::/0"]);
}

#[test]
fn an_ipv6_vip_and_its_prefix_lengths() {
    for (text, expected) in [
        ("2001:db8::10", "2001:db8::10/128"),
        ("2001:DB8:0:0::10/64", "2001:db8::10/64"),
        ("2001:db8::10/1", "2001:db8::10/1"),
        ("2001:db8::10/127", "2001:db8::10/127"),
        ("fd00::a/48", "fd00::a/48"),
        // The last address of a network is no broadcast address here.
        ("2001:db8::ffff:ffff:ffff:ffff/64", "2001:db8::ffff:ffff:ffff:ffff/64"),
    ] {
        let vip = service(&IPV6.replace("2001:db8::10/64", text)).vip;
        assert_eq!(vip.to_string(), expected);
    }
}

#[test]
fn an_instance_takes_ipv6_vips_along() {
    let config = parse(&dual_stack()).unwrap_or_else(|problems| panic!("{problems}")).config;
    let vips: Vec<String> = config.services.iter().map(|service| service.vip.to_string()).collect();
    assert_eq!(vips, ["172.16.0.10/24", "172.16.0.10/24", "2001:db8::10/64"]);
    assert!(config.services.iter().all(|service| service.vrrp.as_deref() == Some("main")));
}

#[test]
fn table_sizes() {
    for (keys, expected) in [
        ("", (1_048_576, 262_144, 65_536)),
        ("max = 1024", (1024, 8192, 65_536)),
        ("max = 100000", (100_000, 25_000, 65_536)),
        ("max = 16777216\nsources_max = 1024", (16_777_216, 262_144, 1024)),
        ("half_open_max = 1024\nsources_max = 16777216", (1_048_576, 1024, 16_777_216)),
    ] {
        let flows = parse(&edited("idle_timeout = \"24h\"", keys)).expect("accepted").config.flows;
        assert_eq!((flows.max, flows.half_open_max, flows.sources_max), expected, "{keys}");
    }
}

/// An IPv6 service without VRRP.
const IPV6: &str = r#"
[node]
interface = "eth0"

[[service]]
name = "kube-apiserver"
vip = "2001:db8::10/64"
port = 6443

[service.health]
check = "tcp"

[[service.backend]]
name = "master1"
address = "[2001:db8::4]:6443"
"#;

/// The base with a second service on the same VIP and one on an IPv6 VIP of the same instance.
fn dual_stack() -> String {
    let more = r#"[[service]]
name = "konnectivity"
vip = "172.16.0.10/24"
port = 8132
vrrp = "main"
health.check = "tcp"
[[service.backend]]
name = "master1"
address = "172.16.0.4:8132"

[[service]]
name = "kube-apiserver-6"
vip = "2001:db8::10/64"
port = 6443
vrrp = "main"
health.check = "tcp"
[[service.backend]]
name = "master1"
address = "[2001:db8::4]:6443"

[[vrrp]]
"#;
    edited("[[vrrp]]\n", more)
}

/// Files that between them give every key a value that is not its default.
fn varied() -> Vec<String> {
    vec![
        BASE.to_owned(),
        // The hash of a password is not written out.
        DESIGN.replace("$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY", "********"),
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
        dual_stack(),
        BASE.replace("interface = \"eth0\"", "interfaces = [\"eth0\", \"eth1\"]\nlocal_clients = \"all\"")
            .replace("port = 6443\n", "port = 6443\nmode = \"nat\"\nsnat = \"node\"\nbalance = \"least-connections\"\non_all_full = \"drop\"\nallow = [\"10.0.0.0/8\", \"192.0.2.1\"]\nnew_connections_per_source = 50\nnew_connections_burst = 200\n")
            .replace("interval = \"2s\"", "slow_start = \"90s\"")
            .replace("weight = 100", "max_connections = 1000")
            .replace("idle_timeout = \"24h\"", "half_open_max = 4096\nsources_max = 2048"),
        IPV6.replace("port = 6443\n", "port = 6443\nmode = \"dsr-ipip\"\nbalance = \"round-robin\"\nallow = [\"fd00::/8\"]\nnew_connections_per_source = 7\n")
            .replace("interface = \"eth0\"", "interface = \"eth0\"\nlocal_clients = \"off\""),
        BASE.replace("port = 6443\n", "port = 6443\nmode = \"dsr-l2\"\n"),
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
fn a_fingerprint_tells_configurations_apart_and_secrets_stay_out_of_it() {
    let of = |text: &str| fingerprint(&parse(text).expect("accepted").config);
    let with_password =
        |password| edited("priority = 101", &format!("version = 2\nauth_pass = \"{password}\""));
    assert_eq!(of(BASE), of(&format!("# another comment\n{BASE}")));
    assert_ne!(of(BASE), of(&edited("priority = 101", "priority = 102")));
    assert_eq!(of(&with_password("one")), of(&with_password("two")));
    assert_ne!(of(&with_password("one")), of(BASE));
    assert!(of(BASE).len() == 16 && of(BASE).chars().all(|c| c.is_ascii_hexdigit()));
}

#[test]
fn the_effective_configuration_shows_every_default() {
    let text = effective(&parse(BASE).expect("accepted").config);
    for line in [
        "xdp_mode = \"auto\"",
        "pin_path = \"/sys/fs/bpf/xvip\"",
        "local_clients = \"host\"",
        "mode = \"nat\"",
        "snat = \"vip\"",
        "balance = \"maglev\"",
        "on_all_down = \"reset\"",
        "on_all_full = \"reset\"",
        "new_connections_per_source = 0",
        "path = \"/readyz\"",
        "expect_status = [200]",
        "down_interval = \"1s\"",
        "fast_interval = \"200ms\"",
        "timeout = \"1s\"",
        "rise = 2",
        "fall = 2",
        "slow_start = \"0s\"",
        "weight = 100",
        "max_connections = 0",
        "version = 3",
        "advert_interval = \"200ms\"",
        "preempt = true",
        "preempt_delay = \"0s\"",
        "checksum = \"keepalived\"",
        "max = 1048576",
        "half_open_max = 262144",
        "sources_max = 65536",
        "idle_timeout = \"24h\"",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
}
