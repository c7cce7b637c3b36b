use std::sync::LazyLock;

use super::*;
use crate::config::sample::{SAMPLE, config};

static FILE: LazyLock<String> = LazyLock::new(|| {
    SAMPLE.to_owned()
        + r#"
[[service]]
name = "other"
vip = "2001:db8::10"
port = 443
health.check = "tcp"
[[service.backend]]
name = "m1"
address = "[2001:db8::4]:6443"
"#
});

fn of(text: &str) -> Agreement {
    Agreement::of(&config(text))
}

#[test]
fn the_parts_are_named_after_what_packets_see() {
    let names: Vec<String> = of(&FILE).parts.into_keys().collect();
    assert_eq!(names, ["flows", "service 172.16.0.10:6443", "service [2001:db8::10]:443", "vrrp 60 IPv4"]);
}

#[test]
fn what_may_differ_is_no_drift() {
    for (from, to) in [
        ("name = \"lb1\"", "name = \"lb2\""),
        ("interface = \"eth0\"", "interface = \"ens3\""),
        ("priority = 101", "priority = 102\npreempt = false"),
        ("unicast_source = \"172.16.0.2\"", "unicast_source = \"172.16.0.7\""),
        ("unicast_peers = [\"172.16.0.3\"]", "unicast_peers = [\"172.16.0.8\"]"),
        ("name = \"other\"", "name = \"another\""),
        ("10/24", "10/32"),
        // The order of backends.
        (
            "name = \"master1\"\naddress = \"172.16.0.4:6443\"",
            "name = \"master1\"\naddress = \"172.16.0.5:6443\"",
        ),
    ] {
        assert_eq!(FILE.matches(from).count(), 1, "{from}");
        let mut other = FILE.replace(from, to);
        if to.contains("master1") {
            other = other.replace(
                "\"master2\"\naddress = \"172.16.0.5:6443\"",
                "\"master2\"\naddress = \"172.16.0.4:6443\"",
            );
        }
        assert_eq!(of(&FILE), of(&other), "{to}");
    }
}

#[test]
fn what_must_be_the_same_is_named() {
    const SERVICE: &str = "service 172.16.0.10:6443";
    for (from, to, drift) in [
        ("address = \"172.16.0.5:6443\"", "address = \"172.16.0.6:6443\"", vec![SERVICE]),
        ("address = \"172.16.0.5:6443\"", "address = \"172.16.0.5:6443\"\nweight = 99", vec![SERVICE]),
        (
            "address = \"172.16.0.5:6443\"",
            "address = \"172.16.0.5:6443\"\nmax_connections = 9",
            vec![SERVICE],
        ),
        ("port = 6443", "port = 6443\nmode = \"dsr-l2\"", vec![SERVICE]),
        ("port = 6443", "port = 6443\nallow = [\"10.0.0.0/8\"]", vec![SERVICE]),
        ("port = 6443", "port = 6443\nbalance = \"round-robin\"", vec![SERVICE]),
        ("port = 443", "port = 444", vec!["service [2001:db8::10]:443", "service [2001:db8::10]:444"]),
        ("virtual_router_id = 60", "virtual_router_id = 61", vec!["vrrp 60 IPv4", "vrrp 61 IPv4"]),
        ("virtual_router_id = 60", "virtual_router_id = 60\nversion = 2", vec!["vrrp 60 IPv4"]),
        ("idle_timeout = \"24h\"", "idle_timeout = \"24h\"\nmax = 4096", vec!["flows"]),
        ("idle_timeout = \"24h\"", "idle_timeout = \"2h\"", vec!["flows"]),
    ] {
        assert_eq!(FILE.matches(from).count(), 1, "{from}");
        let (ours, theirs) = (of(&FILE), of(&FILE.replace(from, to)));
        assert_eq!(ours.drift(&theirs), drift, "{to}");
        assert_eq!(theirs.drift(&ours), drift, "{to}");
        assert_ne!(ours.total, theirs.total);
    }
}
