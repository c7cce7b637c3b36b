//! `[[vrrp]]`, `[vrrp.auth_hmac]` and `[[vrrp.track]]`: what is accepted and what is refused.

use std::time::Duration;

use super::{
    BASE, edited, parse,
    refused::{Mistake, each_is_refused, ipv6, m, said},
};
use crate::config::{
    effective::effective,
    model::{AntiReplay, AuthMode, Family, Tracked, VrrpInstance, default_time_window, family_of},
};

/// `[vrrp.auth_hmac]` with a good key and these keys of its own.
macro_rules! hmac {
    ($keys:literal) => {
        concat!(
            "[vrrp.auth_hmac]\n",
            $keys,
            "\n[[vrrp.auth_hmac.key]]\nid = 1\nfile = \"/etc/xvip/vrrp.key\"\n[flows]"
        )
    };
}

/// The same with a key of its own.
macro_rules! hmac_key {
    ($key:literal) => {
        concat!("[vrrp.auth_hmac]\nactive_key = 1\n[[vrrp.auth_hmac.key]]\n", $key, "\n[flows]")
    };
}

macro_rules! track {
    ($keys:literal) => {
        concat!("[[vrrp.track]]\n", $keys, "\n[flows]")
    };
}

macro_rules! script {
    ($keys:literal) => {
        concat!("[[vrrp.track]]\nkind = \"script\"\n", $keys, "\n[flows]")
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    // The instance itself.
    m("virtual_router_id = 60", "virtual_router_id = 0", "virtual_router_id", "vrrp[0].virtual_router_id", "must be 1 to 255, not 0", "write: virtual_router_id = 60"),
    m("virtual_router_id = 60", "virtual_router_id = 256", "virtual_router_id", "vrrp[0].virtual_router_id", "must be 1 to 255, not 256", "write: virtual_router_id = 60"),
    m("priority = 101", "priority = 0", "priority", "vrrp[0].priority", "must be 1 to 255, not 0", "write: priority = 100"),
    m("priority = 101", "priority = 256", "priority", "vrrp[0].priority", "must be 1 to 255, not 256", "write: priority = 100"),
    m("priority = 101", "version = 4", "version", "vrrp[0].version", "must be 2 to 3, not 4", "write: version = 3"),
    m("priority = 101", "version = 2\nadvert_interval = \"200ms\"", "advert_interval", "vrrp[0].advert_interval", "must be 1s to 255s in steps of 1s", "write: advert_interval = \"1s\""),
    m("priority = 101", "version = 2\nadvert_interval = \"2500ms\"", "advert_interval", "vrrp[0].advert_interval", "in steps of 1s", "write: advert_interval = \"3s\""),
    m("priority = 101", "version = 2\nadvert_interval = \"256s\"", "advert_interval", "vrrp[0].advert_interval", "must be 1s to 255s", "write: advert_interval = \"255s\""),
    m("priority = 101", "advert_interval = \"205ms\"", "advert_interval", "vrrp[0].advert_interval", "must be 10ms to 40950ms in steps of 10ms", "write: advert_interval = \"210ms\""),
    m("priority = 101", "advert_interval = \"5ms\"", "advert_interval", "vrrp[0].advert_interval", "must be 10ms to 40950ms", "write: advert_interval = \"10ms\""),
    m("priority = 101", "advert_interval = \"41s\"", "advert_interval", "vrrp[0].advert_interval", "must be 10ms to 40950ms", "write: advert_interval = \"40950ms\""),
    m("priority = 101", "preempt_delay = \"1001s\"", "preempt_delay", "vrrp[0].preempt_delay", "must be 0s to 1000s", "write: preempt_delay = \"1000s\""),
    m("priority = 101", "auth_pass = \"1111\"", "auth_pass", "vrrp[0].auth_pass", "for version 2 only", "remove it, or write: version = 2"),
    m("priority = 101", "version = 2\nauth_pass = \"123456789\"", "auth_pass", "vrrp[0].auth_pass", "longer than 8 bytes", "write: auth_pass = its first 8 bytes"),
    m("priority = 101", "version = 2\nauth_pass = \"\"", "auth_pass", "vrrp[0].auth_pass", "must not be empty", "write: auth_pass = \"1111\", or remove it"),
    m("priority = 101", "version = 2\nchecksum = \"rfc9568\"", "checksum", "vrrp[0].checksum", "for version 3 only", "remove it, or write: version = 3"),
    m("[\"172.16.0.3\"]", "[\"172.16.0.2\"]", "unicast_peers", "vrrp[0].unicast_peers", "this node's own `unicast_source`", "write: unicast_peers = the addresses of the other nodes"),
    m("[\"172.16.0.3\"]", "[\"172.16.0.3\", \"172.16.0.3\"]", "unicast_peers", "vrrp[0].unicast_peers", "has 172.16.0.3 twice", "remove one of the two"),
    m("[\"172.16.0.3\"]", "[\"lb2\"]", "unicast_peers", "vrrp[0].unicast_peers", "must be an address, not \"lb2\"", "write: unicast_peers = [\"172.16.0.3\"]"),
    m("\"172.16.0.2\"", "\"224.0.0.18\"", "unicast_source", "vrrp[0].unicast_source", "is a multicast address", "write: unicast_source = \"172.16.0.2\""),
    m("[flows]", "[[vrrp]]\nname = \"main\" # second\nvirtual_router_id = 61\n[flows]", "# second", "vrrp[1].name", "already the name of the VRRP instance on line 28", "write: name = a name of its own"),
    m("[flows]", "[[vrrp]]\nname = \"other\"\nvirtual_router_id = 60 # second\n[flows]", "# second", "vrrp[1].virtual_router_id", "already used on line 29", "write: virtual_router_id = a number of its own"),
    // Addresses of the instance's family.
    m("\"172.16.0.2\"", "\"2001:db8::2\"", "unicast_source", "vrrp[0].unicast_source", "`unicast_source` has 2001:db8::2, but this instance speaks IPv4: so is the VIP on line 8", "write: unicast_source = this node's IPv4 address"),
    m("[\"172.16.0.3\"]", "[\"172.16.0.3\", \"fe80::3\"]", "unicast_peers", "vrrp[0].unicast_peers", "`unicast_peers` has fe80::3, but this instance speaks IPv4", "write: unicast_peers = the other nodes' IPv4 addresses"),
    m("\"172.16.0.2\"", "\"fe80::2%eth0\"", "unicast_source", "vrrp[0].unicast_source", "must be an address, not \"fe80::2%eth0\"", "write: unicast_source = \"fe80::2\""),
    m("\"172.16.0.2\"", "\"172.16.0.2/24\"", "unicast_source", "vrrp[0].unicast_source", "must be an address", "write: unicast_source = \"172.16.0.2\""),
    m("\"172.16.0.2\"", "\"::ffff:172.16.0.2\"", "unicast_source", "vrrp[0].unicast_source", "an IPv4 address in IPv6 form", "write: unicast_source = \"172.16.0.2\""),
    // Sync groups.
    m("[flows]", "sync_group = \"all\"\n[[vrrp]]\nname = \"second\"\nvirtual_router_id = 61\nsync_group = \"all\"\npriority = 100 # second\n[[service]]\nname = \"b\"\nvip = \"172.16.0.11\"\nport = 1\nvrrp = \"second\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[flows]", "# second", "vrrp[1].priority", "`priority` is 100, and 101 in the instance of the same sync group on line 30: a group elects as one", "write: priority = 101"),
    m("[flows]", "sync_group = \"all\"\n[[vrrp]]\nname = \"second\"\nvirtual_router_id = 61\nsync_group = \"all\"\npriority = 101\npreempt = false # second\n[[service]]\nname = \"b\"\nvip = \"172.16.0.11\"\nport = 1\nvrrp = \"second\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[flows]", "# second", "vrrp[1].preempt", "`preempt` is false, and true in the instance of the same sync group", "write: preempt = true"),
    m("[flows]", "sync_group = \"all\"\n[[vrrp]]\nname = \"second\"\nvirtual_router_id = 61\nsync_group = \"all\"\npriority = 101\npreempt_delay = \"1s\" # second\n[[service]]\nname = \"b\"\nvip = \"172.16.0.11\"\nport = 1\nvrrp = \"second\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[flows]", "# second", "vrrp[1].preempt_delay", "`preempt_delay` is \"1s\", and \"0s\" in the instance", "write: preempt_delay = \"0s\""),
    m("[flows]", "sync_group = \"all\"\n[[vrrp]]\nname = \"second\"\nvirtual_router_id = 61\nsync_group = \"all\"\npriority = 101\nadvert_interval = \"1s\" # second\n[[service]]\nname = \"b\"\nvip = \"172.16.0.11\"\nport = 1\nvrrp = \"second\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[flows]", "# second", "vrrp[1].advert_interval", "`advert_interval` is \"1s\", and", "write: advert_interval ="),
    m("priority = 101", "sync_group = \"a b\"", "sync_group", "vrrp[0].sync_group", "must not contain blanks", "write: sync_group = \"a-b\""),
    m("priority = 101", "virtual_mac = 1", "virtual_mac", "vrrp[0].virtual_mac", "must be true or false", "write: virtual_mac = false"),
    m("priority = 101", "use_vmac = true", "use_vmac", "vrrp[0].use_vmac", "unknown key `use_vmac`", "remove it; the keys of [[vrrp]] are version"),
    // Witnesses.
    m("priority = 101", "witness = [\"gateway\"]", "witness", "vrrp[0].witness", "must be an address, not \"gateway\"", "write: witness = [\"172.16.0.1\"]"),
    m("priority = 101", "witness = \"172.16.0.1\"", "witness", "vrrp[0].witness", "must be a list in brackets", "write: witness = [\"172.16.0.1\"]"),
    m("priority = 101", "witness = [\"224.0.0.1\"]", "witness", "vrrp[0].witness", "224.0.0.1 is a multicast address", "write: witness = [\"172.16.0.1\"]"),
    m("priority = 101", "witness = [\"172.16.0.1\", \"172.16.0.1\"]", "witness", "vrrp[0].witness", "`witness` has 172.16.0.1 twice", "remove one of the two"),
    m("priority = 101", "witness = [\"172.16.0.10\"]", "witness", "vrrp[0].witness", "`witness` has the VIP on line 8", "write: witness = the gateway's address"),
    m("priority = 101", "witness = [\"172.16.0.2\"]", "witness", "vrrp[0].witness", "`witness` has 172.16.0.2, this node's own `unicast_source`", "write: witness = the gateway's address"),
    m("priority = 101", "witness = [\"172.16.0.1\", \"172.16.0.3\"]", "witness", "vrrp[0].witness", "`witness` has 172.16.0.3, one of `unicast_peers`", "write: witness = the gateway's address"),
    // Authentication by HMAC.
    m("[flows]", hmac!("mode = \"enforce\""), "[vrrp.auth_hmac]", "vrrp[0].auth_hmac.active_key", "`active_key` is missing", "write: active_key = 1   (in [vrrp.auth_hmac])"),
    m("[flows]", hmac!("active_key = 0"), "active_key", "vrrp[0].auth_hmac.active_key", "must be 1 to 255, not 0", "write: active_key = 1"),
    m("[flows]", hmac!("active_key = 2"), "active_key", "vrrp[0].auth_hmac.active_key", "`active_key` is 2, and there is no [[vrrp.auth_hmac.key]] of that id", "write: active_key = 1"),
    m("[flows]", hmac!("active_key = 1\nmode = \"enforced\""), "mode = \"enforced\"", "vrrp[0].auth_hmac.mode", "must be \"receive-only\" or \"permissive\" or \"enforce\", not \"enforced\"", "write: mode = \"enforce\""),
    m("[flows]", hmac!("active_key = 1\nanti_replay = \"none\""), "anti_replay", "vrrp[0].auth_hmac.anti_replay", "must be \"time\" or \"monotonic\", not \"none\"", "write: anti_replay = \"time\""),
    m("[flows]", hmac!("active_key = 1\ntime_window = \"301s\""), "time_window", "vrrp[0].auth_hmac.time_window", "must be 1s to 5m in steps of 1s", "write: time_window = \"5m\""),
    m("[flows]", hmac!("active_key = 1\ntime_window = \"2500ms\""), "time_window", "vrrp[0].auth_hmac.time_window", "must be 1s to 5m in steps of 1s", "write: time_window = \"3s\""),
    m("[flows]", hmac!("active_key = 1\nanti_replay = \"monotonic\"\ntime_window = \"5s\""), "time_window", "vrrp[0].auth_hmac.time_window", "for anti_replay \"time\" only", "remove it, or write: anti_replay = \"time\""),
    m("[flows]", hmac_key!("id = 1\nfile = \"/etc/xvip/vrrp.key\"\n[[vrrp.auth_hmac.key]]\nid = 1 # again\nfile = \"/etc/xvip/vrrp.key\""), "# again", "vrrp[0].auth_hmac.key[1].id", "`id` is already that of the key on line 37", "write: id = another number"),
    m("[flows]", "[vrrp.auth_hmac]\nactive_key = 1\n[flows]", "[vrrp.auth_hmac]", "vrrp[0].auth_hmac", "there is no key to sign with", "write: [[vrrp.auth_hmac.key]] with id = 1 and value = \"hex:...\" with the output of `openssl rand -hex 32`"),
    m("[flows]", "[vrrp.auth_hmac]\nactive_key = 1\nkey = \"hex:5a5a\"\n[flows]", "key = \"hex", "vrrp[0].auth_hmac.key", "must be a list of tables", "write: [[vrrp.auth_hmac.key]]"),
    m("[flows]", hmac_key!("file = \"/etc/xvip/vrrp.key\""), "[[vrrp.auth_hmac.key]]", "vrrp[0].auth_hmac.key[0].id", "`id` is missing", "write: id = 1   (in [[vrrp.auth_hmac.key]])"),
    m("[flows]", hmac_key!("id = 1"), "[[vrrp.auth_hmac.key]]", "vrrp[0].auth_hmac.key[0]", "the key has neither `value` nor `file`", "write: value = \"hex:...\" with the output of `openssl rand -hex 32`"),
    m("[flows]", hmac_key!("id = 256\nfile = \"/etc/xvip/vrrp.key\""), "id = 256", "vrrp[0].auth_hmac.key[0].id", "must be 1 to 255, not 256", "write: id = 1"),
    m("[flows]", hmac_key!("id = 1\nvalue = \"too short\""), "value", "vrrp[0].auth_hmac.key[0].value", "`value` must be 32 to 64 bytes long, and this is 9", "write: value = \"hex:...\" with the output of `openssl rand -hex 32`"),
    m("[flows]", hmac_key!("id = 1\nvalue = \"hex:0g\""), "value", "vrrp[0].auth_hmac.key[0].value", "`value` has something behind \"hex:\"", "write: value = \"hex:...\" with the output of `openssl rand -hex 32`"),
    m("[flows]", hmac_key!("id = 1\nvalue = \"hex:00\"\nfile = \"/etc/xvip/vrrp.key\""), "file = \"/etc/xvip", "vrrp[0].auth_hmac.key[0].file", "`file` and `value` exclude each other", "remove one of the two"),
    m("[flows]", hmac_key!("id = 1\nfile = \"vrrp.key\""), "file = \"vrrp", "vrrp[0].auth_hmac.key[0].file", "must be an absolute path", "write: file = \"/etc/xvip/vrrp.key\""),
    m("[flows]", hmac_key!("id = 1\nfile = \"/nowhere\""), "file = \"/nowhere", "vrrp[0].auth_hmac.key[0].file", "/nowhere cannot be read: No such file", "write: file = the path of a file with \"hex:\" and the output of `openssl rand -hex 32`"),
    m("[flows]", hmac_key!("id = 1\nfile = \"/pki/empty\""), "file = \"/pki/empty", "vrrp[0].auth_hmac.key[0].file", "/pki/empty must be 32 to 64 bytes long, and this is 0", "write: file = the path of a file with \"hex:\""),
    m("priority = 101\nunicast_source = \"172.16.0.2\"\nunicast_peers = [\"172.16.0.3\"]\n\n[flows]", concat!("version = 2\nauth_pass = \"1111\"\n", hmac!("active_key = 1")), "[vrrp.auth_hmac]", "vrrp[0].auth_hmac", "`[vrrp.auth_hmac]` and `auth_pass` exclude each other", "remove `auth_pass`, on all nodes"),
    // Tracking.
    m("[flows]", track!("weight = 1"), "[[vrrp.track]]", "vrrp[0].track[0].kind", "`kind` is missing", "write: kind = \"script\"   (in [[vrrp.track]])"),
    m("[flows]", track!("kind = \"file\"\ncommand = 1"), "kind", "vrrp[0].track[0].kind", "must be \"interface\" or \"script\", not \"file\"", "write: kind = \"script\""),
    m("[flows]", track!("kind = \"interface\""), "[[vrrp.track]]", "vrrp[0].track[0].interface", "`interface` is missing", "write: interface = \"eth1\"   (in [[vrrp.track]])"),
    m("[flows]", track!("kind = \"interface\"\ninterface = \"eth 1\""), "eth 1", "vrrp[0].track[0].interface", "must be the name of a network interface", "write: interface = \"eth1\""),
    m("[flows]", track!("kind = \"interface\"\ninterface = \"eth1\"\nrise = 2"), "rise", "vrrp[0].track[0].rise", "`rise` is for kind \"script\" only", "remove it, or write: kind = \"script\""),
    m("[flows]", track!("kind = \"interface\"\ninterface = \"eth1\"\nwait = 2"), "wait", "vrrp[0].track[0].wait", "unknown key `wait`", "remove it; the keys of [[vrrp.track]] are kind, interface, command, user, interval, timeout, rise, fall, weight"),
    m("[flows]", track!("kind = \"interface\"\ninterface = \"eth1\"\n[[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\" # again"), "# again", "vrrp[0].track[1].interface", "\"eth1\" is tracked already on line 36", "remove one of the two"),
    m("[flows]", script!("weight = 2"), "[[vrrp.track]]", "vrrp[0].track[0].command", "`command` is missing", "write: command = [\"/usr/local/bin/check\"]"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\ninterface = \"eth1\""), "interface = \"eth1\"", "vrrp[0].track[0].interface", "`interface` is for kind \"interface\" only", "remove it, or write: kind = \"interface\""),
    m("[flows]", script!("command = \"/usr/local/bin/check\""), "command", "vrrp[0].track[0].command", "must be a list in brackets", "write: command = [\"/usr/local/bin/check\"]"),
    m("[flows]", script!("command = []"), "command", "vrrp[0].track[0].command", "`command` must have a program", "write: command = [\"/usr/local/bin/check\"]"),
    m("[flows]", script!("command = [\"check\", \"/x\"]"), "command", "vrrp[0].track[0].command", "must begin with the absolute path of a program, not \"check\"", "write: command = [\"/usr/local/bin/check\"]"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\", \"a\\u0000b\"]"), "command", "vrrp[0].track[0].command", "must not contain a NUL character", "write: command = [\"/usr/local/bin/check\"]"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\nuser = \"\""), "user", "vrrp[0].track[0].user", "`user` must not be empty", "write: user = \"nobody\""),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\ninterval = \"99ms\""), "interval = \"99ms\"", "vrrp[0].track[0].interval", "must be 100ms to 1h", "write: interval = \"100ms\""),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\ntimeout = \"0s\""), "timeout", "vrrp[0].track[0].timeout", "must be 100ms to 1h", "write: timeout = \"100ms\""),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\ntimeout = \"3s\""), "timeout", "vrrp[0].track[0].timeout", "`timeout` is longer than `interval`, 2s", "write: timeout = \"2s\", or a longer interval"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\nrise = 0"), "rise", "vrrp[0].track[0].rise", "must be 1 to 255, not 0", "write: rise = 1"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\nfall = 256"), "fall", "vrrp[0].track[0].fall", "must be 1 to 255, not 256", "write: fall = 1"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\nweight = 254"), "weight = 254", "vrrp[0].track[0].weight", "must be -253 to 253, not 254", "write: weight = 0"),
    m("[flows]", script!("command = [\"/usr/local/bin/check\"]\nweight = -254"), "weight = -254", "vrrp[0].track[0].weight", "must be -253 to 253, not -254", "write: weight = 0"),
    m("[flows]", "[vrrp.track]\nkind = \"interface\"\ninterface = \"eth1\"\n[flows]", "[vrrp.track]", "vrrp[0].track", "has double brackets", "write: [[vrrp.track]]"),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

/// The only instance of an accepted file, and the keys of what is warned about.
fn instance(text: &str) -> (VrrpInstance, Vec<String>) {
    let checked = parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
    let warned = checked.warnings.into_iter().map(|found| found.key).collect();
    (checked.config.vrrp.into_iter().next().expect("an instance"), warned)
}

fn with_keys(keys: &str) -> (VrrpInstance, Vec<String>) {
    instance(&edited("priority = 101", keys))
}

fn with_tables(tables: &str) -> (VrrpInstance, Vec<String>) {
    instance(&edited("[flows]", &format!("{tables}\n[flows]")))
}

#[test]
fn an_instance_of_ipv6_vips_alone_speaks_ipv6() {
    let (plain, warned) = instance(&ipv6());
    assert_eq!(warned, [""; 0]);
    assert_eq!(plain.unicast_source.map(|source| source.to_string()).as_deref(), Some("2001:db8::2"));
    assert_eq!(plain.unicast_peers.len(), 1);
    // Link-local ones are of the interface.
    let (link_local, _) =
        instance(&ipv6().replace("\"2001:db8::2\"", "\"fe80::2\"").replace("\"2001:db8::3\"", "\"fe80::3\""));
    assert_eq!(link_local.unicast_peers.first().map(ToString::to_string).as_deref(), Some("fe80::3"));
    let (_, warned) = instance(&ipv6().replace("priority = 101", "checksum = \"rfc9568\""));
    assert_eq!(warned, ["vrrp[0].checksum"]);

    // Multicast over IPv6 comes from a link-local address.
    let multicast = |source: &str| {
        let text = ipv6().replace("unicast_peers = [\"2001:db8::3\"]", "").replace("2001:db8::2", source);
        parse(&text).expect("accepted").warnings.into_iter().map(|found| found.message).collect::<String>()
    };
    assert!(multicast("2001:db8::2").contains("should be link-local"));
    assert!(multicast("fe80::2").ends_with("only their source is this one"));

    let refused = |from: &str, to: &str| said(&ipv6().replace(from, to));
    assert_eq!(
        refused("priority = 101", "version = 2"),
        [(
            "vrrp[0].version".to_owned(),
            "`version` 2 is for IPv4 VIPs only, and the VIP on line 8 is IPv6".to_owned(),
            "write: version = 3".to_owned()
        )]
    );
    let [(key, message, remedy)] = &refused("\"2001:db8::2\"", "\"172.16.0.2\"")[..] else {
        panic!("one error")
    };
    assert_eq!(key, "vrrp[0].unicast_source");
    assert!(message.contains("172.16.0.2, but this instance speaks IPv6"), "{message}");
    assert_eq!(remedy, "write: unicast_source = this node's IPv6 address");
}

#[test]
fn the_family_is_ipv4_where_one_vip_is() {
    let of = |vips: &[&str]| {
        family_of(&vips.iter().map(|vip| vip.parse().expect("an address")).collect::<Vec<_>>())
    };
    assert_eq!(of(&["2001:db8::10", "172.16.0.10"]), Family::Ipv4);
    assert_eq!(of(&["2001:db8::10", "2001:db8::11"]), Family::Ipv6);
    assert_eq!(of(&[]), Family::Ipv4);
}

/// The base with an IPv6 service of an instance of its own.
fn two_families(keys: &str) -> String {
    let second = format!(
        "[[service]]\nname = \"six\"\nvip = \"2001:db8::10/64\"\nport = 6443\nvrrp = \"six\"\nhealth.check = \"tcp\"\n\
         [[service.backend]]\nname = \"m\"\naddress = \"[2001:db8::4]:6443\"\n[[vrrp]]\nname = \"six\"\n{keys}\n[[vrrp]]\nname = \"main\""
    );
    edited("[[vrrp]]\nname = \"main\"", &second)
}

#[test]
fn a_virtual_router_id_is_of_one_family() {
    let checked =
        parse(&two_families("virtual_router_id = 60")).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        checked.config.vrrp.iter().map(|instance| instance.virtual_router_id.get()).collect::<Vec<_>>(),
        [60, 60]
    );
    // With an IPv4 VIP, too, it speaks IPv4 as the other does.
    let text = two_families("virtual_router_id = 60")
        + "[[service]]\nname = \"four\"\nvip = \"172.16.0.11\"\nport = 6443\nvrrp = \"six\"\nhealth.check = \"tcp\"\n\
           [[service.backend]]\nname = \"m\"\naddress = \"172.16.0.4:6443\"\n";
    let keys: Vec<String> = said(&text).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["vrrp[1].virtual_router_id"]);
    // A VIP that cannot be read may be of either.
    let text = two_families("virtual_router_id = 60").replace("2001:db8::10/64", "2001:db8:10/64");
    let keys: Vec<String> = said(&text).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["service[1].vip"]);
}

#[test]
fn a_sync_group_has_members() {
    let (alone, warned) = with_keys("sync_group = \"all\"");
    assert_eq!(alone.sync_group.as_deref(), Some("all"));
    assert_eq!(warned, ["vrrp[0].sync_group"]);
    let text = two_families("virtual_router_id = 60\npriority = 101\nsync_group = \"all\"").replace(
        "virtual_router_id = 60\npriority = 101\nunicast_source",
        "virtual_router_id = 60\nsync_group = \"all\"\npriority = 101\nunicast_source",
    );
    let checked = parse(&text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(checked.warnings, []);
    assert!(checked.config.vrrp.iter().all(|instance| instance.sync_group.as_deref() == Some("all")));
}

#[test]
fn short_intervals() {
    assert_eq!(with_keys("advert_interval = \"50ms\"").0.advert_interval, Duration::from_millis(50));
    for (text, warned) in
        [("50ms", &[][..]), ("40ms", &["vrrp[0].advert_interval"]), ("10ms", &["vrrp[0].advert_interval"])]
    {
        assert_eq!(with_keys(&format!("advert_interval = {text:?}")).1, warned, "{text}");
    }
}

#[test]
fn witnesses_of_either_family() {
    assert!(with_keys("priority = 1").0.witnesses.is_empty());
    let (instance, warned) =
        with_keys("witness = [\"172.16.0.1\", \"2001:db8::1\", \"fe80::1\"]\nvirtual_mac = true");
    assert_eq!(
        instance.witnesses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["172.16.0.1", "2001:db8::1", "fe80::1"]
    );
    assert!(instance.virtual_mac);
    assert_eq!(warned, [""; 0]);
}

const TWO_KEYS: &str = "[vrrp.auth_hmac]\nactive_key = 2\n\
    [[vrrp.auth_hmac.key]]\nid = 1\nvalue = \"a shared secret of 33 characters.\"\n\
    [[vrrp.auth_hmac.key]]\nid = 2\nfile = \"/etc/xvip/vrrp.key\"";

#[test]
fn hmac_keys_from_here_and_from_a_file() {
    let (instance, warned) = with_tables(TWO_KEYS);
    let hmac = instance.auth_hmac.expect("authenticated");
    assert_eq!(
        (hmac.active_key.get(), hmac.mode, hmac.anti_replay),
        (2, AuthMode::Enforce, AntiReplay::Time)
    );
    assert_eq!(hmac.time_window, Duration::from_secs(5));
    let keys: Vec<_> = hmac.keys.iter().map(|key| (key.id.get(), key.secret.bytes())).collect();
    assert_eq!(keys, [(1, &b"a shared secret of 33 characters."[..]), (2, &[0x5a; 32])]);
    assert_eq!(warned, [""; 0]);

    for (word, mode) in [
        ("receive-only", AuthMode::ReceiveOnly),
        ("permissive", AuthMode::Permissive),
        ("enforce", AuthMode::Enforce),
    ] {
        let text = TWO_KEYS.replace(
            "active_key = 2",
            &format!("active_key = 1\nmode = {word:?}\nanti_replay = \"monotonic\""),
        );
        let hmac = with_tables(&text).0.auth_hmac.expect("authenticated");
        assert_eq!((hmac.active_key.get(), hmac.mode, hmac.anti_replay), (1, mode, AntiReplay::Monotonic));
    }
    let window = TWO_KEYS.replace("active_key = 2", "active_key = 2\ntime_window = \"5m\"");
    assert_eq!(
        with_tables(&window).0.auth_hmac.expect("authenticated").time_window,
        Duration::from_secs(300)
    );
    // Version 2 can be authenticated so, too.
    assert!(instance_v2().auth_hmac.is_some());
}

fn instance_v2() -> VrrpInstance {
    let text = edited("[flows]", &format!("{TWO_KEYS}\n[flows]")).replace("priority = 101", "version = 2");
    instance(&text).0
}

#[test]
fn a_key_file_that_others_can_read_is_warned_about() {
    let (instance, warned) = with_tables(&TWO_KEYS.replace("vrrp.key\"", "shared.key\""));
    assert_eq!(warned, ["vrrp[0].auth_hmac.key[1].file"]);
    let hmac = instance.auth_hmac.expect("authenticated");
    assert_eq!(hmac.keys[1].secret.bytes(), b"a secret of 32 bytes, for a test");
}

#[test]
fn the_time_window_is_keepalived_s() {
    for (interval, window) in [(200, 5), (1000, 5), (2000, 6), (2990, 6), (40_950, 120), (255_000, 300)] {
        assert_eq!(
            default_time_window(Duration::from_millis(interval)),
            Duration::from_secs(window),
            "{interval}"
        );
    }
}

#[test]
fn a_secret_is_masked_and_in_no_complaint() {
    let text = edited("[flows]", &format!("{TWO_KEYS}\n[flows]"));
    let config = parse(&text).expect("accepted").config;
    let written = effective(&config);
    assert!(!written.contains("shared secret") && !written.contains("5a5a"), "{written}");
    assert!(
        written.contains("id = 1\nvalue = \"********************************\" # not shown\n"),
        "{written}"
    );
    assert!(written.contains("id = 2\nfile = \"/etc/xvip/vrrp.key\"\n"), "{written}");
    let everything = format!("{config:?} {}", serde_json::to_string(&config).expect("JSON"));
    assert!(!everything.contains("shared secret") && !everything.contains("90, 90"), "{everything}");
    // Who saves the output as a file is told.
    assert_eq!(instance(&written).1, ["vrrp[0].auth_hmac.key[0].value"]);

    for line in [
        "value = \"hunter2\"",
        "value = hunter2",
        "value=hunter2",
        "value = [\"hunter2\"]",
        "file = 3\nvalue = \"hunter2\"",
        "key = \"hunter2\"",
        "secret = \"hunter2\"",
    ] {
        for tables in [hmac_key!("id = 1\n#"), hmac!("active_key = 1\n#"), "#\n[flows]"] {
            let problems = parse(&edited("[flows]", &tables.replace('#', line))).expect_err("refused");
            assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
        }
    }
    let misspelt = hmac_key!("id = 1\nvlaue = \"hunter2\"");
    let problems = parse(&edited("[flows]", misspelt)).expect_err("refused");
    assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    for line in [
        "auth_pas = \"hunter2\"",
        "authpass = \"hunter2\"",
        "password = \"hunter2\"",
        "auth_hmac = \"hunter2\"",
    ] {
        let problems = parse(&edited("priority = 101", line)).expect_err("refused");
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
    }
}

#[test]
fn an_interface_and_a_program_are_tracked() {
    let (instance, warned) = with_tables(
        "[[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\"\nweight = -20\n\
         [[vrrp.track]]\nkind = \"script\"\ncommand = [\"/usr/local/bin/check\", \"--fast\", \"\"]\n\
         [[vrrp.track]]\nkind = \"script\"\ncommand = [\"/usr/local/bin/check\"]\nuser = \"xvip\"\ninterval = \"100ms\"\n\
         timeout = \"100ms\"\nrise = 255\nfall = 3\nweight = 253",
    );
    assert_eq!(warned, [""; 0]);
    let [link, check, all] = instance.tracks.as_slice() else { panic!("{:?}", instance.tracks) };
    assert_eq!((&link.what, link.weight), (&Tracked::Interface { interface: "eth1".to_owned() }, -20));
    let second = Duration::from_secs(1);
    let defaults = Tracked::Script {
        command: ["/usr/local/bin/check", "--fast", ""].map(str::to_owned).to_vec(),
        user: "nobody".to_owned(),
        interval: 2 * second,
        timeout: 2 * second,
        rise: 1,
        fall: 1,
    };
    assert_eq!((&check.what, check.weight), (&defaults, 0));
    let given = Tracked::Script {
        command: vec!["/usr/local/bin/check".to_owned()],
        user: "xvip".to_owned(),
        interval: second / 10,
        timeout: second / 10,
        rise: 255,
        fall: 3,
    };
    assert_eq!((&all.what, all.weight), (&given, 253));
}

#[test]
fn tracks_that_make_no_sense_are_warned_about() {
    let script = |command: &str| format!("[[vrrp.track]]\nkind = \"script\"\ncommand = {command}");
    for command in [
        "[\"/usr/local/bin/check\", \"https://172.16.0.5:6443/readyz\"]",
        "[\"/usr/local/bin/check\", \"172.16.0.4\", \"80\"]",
        "[\"/usr/local/bin/check\", \"localhost\", \"6443\"]",
        "[\"/usr/local/bin/check\", \"https://localhost:6443\"]",
        "[\"/nowhere/check\"]",
        "[\"/pki/token\"]",
    ] {
        assert_eq!(with_tables(&script(command)).1, ["vrrp[0].track[0].command"], "{command}");
    }
    for command in [
        "[\"/usr/local/bin/check\", \"172.16.0.44\", \"16443\"]",
        "[\"/usr/local/bin/check\", \"172.16.0.1\"]",
    ] {
        assert_eq!(with_tables(&script(command)).1, [""; 0], "{command}");
    }
    let owner = edited("priority = 101", "priority = 255").replace(
        "[flows]",
        "[[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\"\nweight = 7\n[flows]",
    );
    assert_eq!(instance(&owner).1, ["vrrp[0].track[0].weight"]);
}

#[test]
fn the_effective_configuration_means_the_same() {
    let texts = [
        ipv6(),
        two_families(
            "virtual_router_id = 60\nsync_group = \"all\"\nvirtual_mac = true\nwitness = [\"2001:db8::1\"]\n\
            [[vrrp.track]]\nkind = \"interface\"\ninterface = \"eth1\"\nweight = -20\n\
            [[vrrp.track]]\nkind = \"script\"\ncommand = [\"/usr/local/bin/check\", \"a b\\\"c\"]\nuser = \"xvip\"\ninterval = \"90s\"\ntimeout = \"1500ms\"\nrise = 3\nfall = 4",
        ),
        edited("[flows]", hmac!("active_key = 1\nmode = \"permissive\"\nanti_replay = \"monotonic\"")),
        edited("[flows]", hmac!("active_key = 1\ntime_window = \"90s\"")),
    ];
    for text in texts {
        let config = parse(&text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).config;
        let written = effective(&config);
        let again = parse(&written).unwrap_or_else(|problems| panic!("{problems}\n{written}")).config;
        assert_eq!(again, config, "{written}");
    }
    let written = effective(&parse(BASE).expect("accepted").config);
    for line in ["virtual_mac = false", "witness = []"] {
        assert!(written.lines().any(|shown| shown == line), "{line} in\n{written}");
    }
}
