//! Each mistake with the line, the key and the remedy that are reported for it.

use super::{BASE, edited, parse};
use crate::config::{Diagnostic, Severity};

/// A mistake: what it replaces in the base, and what is said about it.
pub(super) struct Mistake {
    from: &'static str,
    to: &'static str,
    /// A text that the reported line is the first to contain.
    line: &'static str,
    key: &'static str,
    message: &'static str,
    remedy: &'static str,
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    // Unknown keys, anywhere.
    m("port = 6443\n", "prot = 6443\n", "prot", "service[0].prot", "unknown key `prot`", "write: port = 6443   (did you mean `port`?)"),
    m("interval = \"2s\"", "intervall = \"2s\"", "intervall", "service[0].health.intervall", "unknown key `intervall`", "write: interval = \"2s\"   (did you mean `interval`?)"),
    m("weight = 100", "wieght = 100", "wieght", "service[0].backend[0].wieght", "unknown key", "write: weight = 100   (did you mean `weight`?)"),
    m("priority = 101", "nopreempt = true", "nopreempt", "vrrp[0].nopreempt", "unknown key `nopreempt`", "write: preempt = true   (did you mean `preempt`?)"),
    m("priority = 101", "state = \"MASTER\"", "MASTER", "vrrp[0].state", "unknown key `state`", "remove it; the keys of [[vrrp]] are version, name, virtual_router_id"),
    m("interface =", "iface = \"x\"\ninterface =", "iface = ", "node.iface", "unknown key", "remove it; the keys of [node] are name, interface, interfaces, xdp_mode, local_clients, pin_path"),
    m("idle_timeout", "idle-timeout", "idle-timeout", "flows.idle-timeout", "unknown key", "write: idle_timeout = \"24h\""),
    m("[flows]", "[flow]", "[flow]", "flow", "unknown key `flow`", "write: [flows]   (did you mean `flows`?)"),
    m("[[service.backend]]\nname = \"master2\"", "[[service.bakend]]\nname = \"master2\"", "bakend", "service[0].bakend", "unknown key", "write: [[service.backend]]   (did you mean `backend`?)"),
    m("[flows]", "[haproxy]\n[flows]", "[haproxy]", "haproxy", "unknown key", "remove it; the tables of the file are node, service, vrrp, flows, connection_log, sync, http, log, notify, stats_socket"),
    m("[[vrrp]]", "[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/etc/xvip/sync.key\"\nkey = 1\n[[vrrp]]", "key = 1", "sync.key", "unknown key", "remove it; the keys of [sync] are listen, peers, key_file"),
    m("[[vrrp]]", "[http]\nlisten = \"172.16.0.2:1\"\n[[http.user]]\nname = \"a\"\npassword_hash = \"********\"\nrole = \"admin\"\nrights = 1\n[[vrrp]]", "rights = 1", "http.user[0].rights", "unknown key", "remove it; the keys of [[http.user]] are name, password_hash, role"),
    m("[[vrrp]]", "[service.rebalance]\nmod = \"off\"\n[[vrrp]]", "mod = ", "service[0].rebalance.mod", "unknown key", "write: mode = \"off\""),
    m("interval = \"2s\"", "inter = \"2s\"", "inter =", "service[0].health.inter", "unknown key", "remove it; the keys of [service.health] are check, path, expect_status, verify, ca_file, client_cert, client_key, token_file, interval, down_interval, fast_interval, timeout, rise, fall, slow_start"),
    // Types.
    m("interval = \"2s\"", "interval = \"2\"", "interval", "service[0].health.interval", "`interval` must be a number with a unit (ms, s, m, h), not \"2\"", "write: interval = \"2s\""),
    m("interval = \"2s\"", "interval = 2", "interval", "service[0].health.interval", "not a bare number", "write: interval = \"2s\""),
    m("interval = \"2s\"", "interval = true", "interval", "service[0].health.interval", "not true or false", "write: interval = \"2s\""),
    m("interval = \"2s\"", "interval = \"18446744073709551615s 1000000000ns\"", "interval", "service[0].health.interval", "must be a number with a unit", "write: interval = \"2s\""),
    m("port = 6443\n", "port = \"6443\"\n", "port", "service[0].port", "`port` must be a whole number without quotes", "write: port = 6443"),
    m("port = 6443\n", "port = 64.43\n", "port", "service[0].port", "not a number with a point", "write: port = 6443"),
    m("port = 6443\n", "port = [6443]\n", "port", "service[0].port", "not a list", "write: port = 6443"),
    m("name = \"kube-apiserver\"", "name = 7", "name = 7", "service[0].name", "must be a name in quotes, not a whole number", "write: name = \"kube-apiserver\""),
    m("priority = 101", "preempt = \"true\"", "preempt", "vrrp[0].preempt", "must be true or false without quotes", "write: preempt = true"),
    m("unicast_peers = [\"172.16.0.3\"]", "unicast_peers = \"172.16.0.3\"", "unicast_peers", "vrrp[0].unicast_peers", "must be a list in brackets", "write: unicast_peers = [\"172.16.0.3\"]"),
    m("interval = \"2s\"", "expect_status = 200", "expect_status", "service[0].health.expect_status", "must be a list in brackets", "write: expect_status = [200]"),
    m("[flows]\nidle_timeout = \"24h\"", "flows = 1", "flows", "vrrp[0].flows", "unknown key", "remove it"),
    m("[flows]", "[[flows]]", "[[flows]]", "flows", "has single brackets", "write: [flows]"),
    m("[[vrrp]]", "[vrrp]", "[vrrp]", "vrrp", "has double brackets", "write: [[vrrp]]"),
    m("[flows]", "[connection_log]\nmax_size = 100\n[flows]", "max_size", "connection_log.max_size", "`max_size` must be a size in quotes, with its unit, not a whole number", "write: max_size = \"100MB\""),
    m("[flows]", "[connection_log]\nmax_size = \"100\"\n[flows]", "max_size", "connection_log.max_size", "must be a number with a unit (KB, MB, GB), not \"100\"", "write: max_size = \"100MB\""),
    m("[flows]", "[connection_log]\nmax_size = \"1KB\"\n[flows]", "max_size", "connection_log.max_size", "must be 100KB to 10GB, not \"1KB\"", "write: max_size = \"100KB\""),
    m("[flows]", "[connection_log]\nmax_size = \"99999999999999999999GB\"\n[flows]", "max_size", "connection_log.max_size", "must be a number with a unit", "write: max_size = \"100MB\""),
    m("[flows]", "[connection_log]\ndirectory = \"log\"\n[flows]", "directory", "connection_log.directory", "must be an absolute path", "write: directory = \"/var/log/xvip\""),
    m("[flows]", "[connection_log]\nfiles = 0\n[flows]", "files", "connection_log.files", "must be 1 to 1000, not 0", "write: files = 10"),
    m("port = 6443\n", "port = 6443\nconnection_log = \"true\"\n", "connection_log", "service[0].connection_log", "must be true or false without quotes", "write: connection_log = true"),
    // Missing keys.
    m("interface = \"eth0\"", "", "[node]", "node.interface", "`interface` is missing", "write: interface = \"eth0\"   (in [node])"),
    m("[node]\nname = \"lb1\"\ninterface = \"eth0\"", "[sync]\nlisten = \"1.1.1.1:1\"\npeers = [\"172.16.0.3:7946\"]\nkey_file = \"/etc/xvip/sync.key\"", "", "node.interface", "`interface` is missing", "write: interface = \"eth0\"   (in [node])"),
    m("vip = \"172.16.0.10/24\"", "", "[[service]]", "service[0].vip", "`vip` is missing", "write: vip = \"172.16.0.10/24\"   (in [[service]])"),
    m("name = \"master1\"", "", "# first", "service[0].backend[0].name", "`name` is missing", "write: name = \"master1\"   (in [[service.backend]])"),
    m("virtual_router_id = 60", "", "[[vrrp]]", "vrrp[0].virtual_router_id", "is missing", "write: virtual_router_id = 60   (in [[vrrp]])"),
    // Node.
    m("\"eth0\"", "\"\"", "interface", "node.interface", "must not be empty", "write: interface = \"eth0\""),
    m("\"eth0\"", "\"a-very-long-name\"", "interface", "node.interface", "longer than 15 bytes", "write: interface = \"eth0\""),
    m("\"eth0\"", "\"eth/0\"", "interface", "node.interface", "without '/'", "write: interface = \"eth0\""),
    m("interface =", "interfaces = [\"eth0\"]\ninterface =", "interfaces", "node.interfaces", "`interfaces` and `interface` exclude each other", "remove `interface`"),
    m("interface = \"eth0\"", "interfaces = []", "interfaces", "node.interfaces", "must have 1 to 4 names, not 0", "write: interfaces = [\"eth0\", \"eth1\"]"),
    m("interface = \"eth0\"", "interfaces = [\"a\", \"b\", \"c\", \"d\", \"e\"]", "interfaces", "node.interfaces", "must have 1 to 4 names, not 5", "write: interfaces = "),
    m("interface = \"eth0\"", "interfaces = [\"eth0\", \"eth1\", \"eth0\"]", "interfaces", "node.interfaces", "`interfaces` has \"eth0\" twice", "remove one of the two"),
    m("interface = \"eth0\"", "interfaces = [\"eth0\", \"\"]", "interfaces", "node.interfaces", "has an item that must not be empty", "write: interfaces = [\"eth0\", \"eth1\"]"),
    m("interface = \"eth0\"", "interfaces = \"eth0\"", "interfaces", "node.interfaces", "must be a list in brackets", "write: interfaces = [\"eth0\"]"),
    m("interface = \"eth0\"", "interfcaes = [\"eth0\", \"eth1\"]", "interfcaes", "node.interfcaes", "unknown key", "write: interfaces = [\"eth0\", \"eth1\"]"),
    m("interface = \"eth0\"", "intrface = \"eth0\"", "intrface", "node.intrface", "unknown key", "write: interface = \"eth0\""),
    m("interface =", "local_clients = \"pods\"\ninterface =", "local_clients", "node.local_clients", "must be \"host\" or \"all\" or \"off\", not \"pods\"", "write: local_clients = \"host\""),
    m("interface =", "local_clients = false\ninterface =", "local_clients", "node.local_clients", "not true or false", "write: local_clients = \"host\""),
    m("interface =", "xdp_mode = \"natve\"\ninterface =", "xdp_mode", "node.xdp_mode", "must be \"auto\" or \"native\" or \"generic\", not \"natve\"", "write: xdp_mode = \"native\""),
    m("interface =", "pin_path = \"sys/fs/bpf/xvip\"\ninterface =", "pin_path", "node.pin_path", "must be an absolute path", "write: pin_path = \"/sys/fs/bpf/xvip\""),
    m("interface =", "pin_path = \"/sys/fs/bpf/xvip.1\"\ninterface =", "pin_path", "node.pin_path", "must not contain '.'", "write: pin_path = \"/sys/fs/bpf/xvip-1\""),
    // VIPs.
    m("172.16.0.10/24", "172.16.0.300/24", "vip", "service[0].vip", "must be an address and a prefix length", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "172.16.0.10/33", "vip", "service[0].vip", "prefix length from 1 to 32, not \"33\"", "write: vip = \"172.16.0.10/32\""),
    m("172.16.0.10/24", "172.16.0.10/0", "vip", "service[0].vip", "prefix length from 1 to 32", "write: vip = \"172.16.0.10/32\""),
    m("172.16.0.10/24", "172.16.0.10/", "vip", "service[0].vip", "prefix length from 1 to 32", "write: vip = \"172.16.0.10/32\""),
    m("172.16.0.10/24", "172.16.0.0/24", "vip", "service[0].vip", "the network's own address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "172.16.0.255/24", "vip", "service[0].vip", "the network's broadcast address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "255.255.255.255", "vip", "service[0].vip", "the broadcast address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "224.0.0.18/24", "vip", "service[0].vip", "a multicast address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "127.0.0.1/8", "vip", "service[0].vip", "a loopback address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "0.0.0.0", "vip", "service[0].vip", "the unspecified address", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "2001:db8::10/0", "vip", "service[0].vip", "prefix length from 1 to 128, not \"0\"", "write: vip = \"2001:db8::10/128\""),
    m("172.16.0.10/24", "2001:db8::10/129", "vip", "service[0].vip", "prefix length from 1 to 128, not \"129\"", "write: vip = \"2001:db8::10/128\""),
    m("172.16.0.10/24", "2001:db8::/64", "vip", "service[0].vip", "the anycast address of the subnet's routers", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "::", "vip", "service[0].vip", "the unspecified address", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "::1/128", "vip", "service[0].vip", "a loopback address", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "ff02::12/64", "vip", "service[0].vip", "a multicast address", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "fe80::10/64", "vip", "service[0].vip", "a link-local address", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "febf:ffff::10", "vip", "service[0].vip", "a link-local address", "write: vip = \"2001:db8::10/64\""),
    m("172.16.0.10/24", "::ffff:172.16.0.10/120", "vip", "service[0].vip", "an IPv4 address in IPv6 form", "write: vip = \"172.16.0.10/32\""),
    m("172.16.0.10/24", "fe80::10%eth0/64", "vip", "service[0].vip", "must be an address and a prefix length", "write: vip = \"172.16.0.10/24\""),
    m("172.16.0.10/24", "172.16.0.4/24", "address = \"172.16.0.4:6443\"", "service[0].backend[0].address", "is the VIP on line 8", "write: address = the backend's own address"),
    m("172.16.0.10/24", "172.16.0.2/24", "unicast_source", "vrrp[0].unicast_source", "has the VIP on line 8", "write: unicast_source = this node's own address"),
    m("172.16.0.10/24", "172.16.0.3/24", "unicast_peers", "vrrp[0].unicast_peers", "has the VIP on line 8", "write: unicast_peers = the other nodes' own addresses"),
    m("port = 6443\n", "port = 0\n", "port = 0", "service[0].port", "must be 1 to 65535, not 0", "write: port = 6443"),
    m("port = 6443\n", "port = 65536\n", "port = 65536", "service[0].port", "must be 1 to 65535", "write: port = 6443"),
    m("port = 6443\n", "port = -1\n", "port = -1", "service[0].port", "not -1", "write: port = 6443"),
    // Services against each other.
    m("[[vrrp]]", "[[service]]\nname = \"kube-apiserver\" # second\nvip = \"172.16.0.11\"\nport = 1\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[[vrrp]]", "# second", "service[1].name", "already the name of the service on line 7", "write: name = a name of its own"),
    m("[[vrrp]]", "[[service]]\nname = \"b\"\nvip = \"172.16.0.10/24\"\nport = 6443 # second\nvrrp = \"main\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[[vrrp]]", "# second", "service[1].port", "on line 9", "write: port = another port"),
    m("[[vrrp]]", "[[service]]\nname = \"b\"\nvip = \"172.16.0.10/25\"\nport = 1\nvrrp = \"main\"\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[[vrrp]]", "/25", "service[1].vip", "another prefix length on line 8", "write: vip = \"172.16.0.10/24\""),
    m("[[vrrp]]", "[[service]]\nname = \"b\"\nvip = \"172.16.0.10/24\" # second\nport = 1\nhealth.check = \"tcp\"\n[[service.backend]]\nname = \"m\"\naddress = \"10.0.0.1:1\"\n[[vrrp]]", "# second", "service[1].vip", "`vrrp` differs", "write: vrrp = \"main\""),
    m("vrrp = \"main\"", "vrrp = \"mian\"", "mian", "service[0].vrrp", "no [[vrrp]] of this file", "write: vrrp = \"main\""),
    // Backends.
    m("\"master2\"", "\"master1\" # again", "# again", "service[0].backend[1].name", "already the name of the backend on line 19", "write: name = a name of its own"),
    m("172.16.0.5:6443", "172.16.0.4:06443", "06443", "service[0].backend[1].address", "already the address of the backend on line 20", "write: address = another backend's"),
    m("172.16.0.4:6443", "172.16.0.4:0", "172.16.0.4:0", "service[0].backend[0].address", "has port 0", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "172.16.0.4", "172.16.0.4", "service[0].backend[0].address", "has no port", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "172.16.0.4:66443", "66443", "service[0].backend[0].address", "has port 66443; ports are 1 to 65535", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "master1.example:6443", "master1.example", "service[0].backend[0].address", "names are not resolved", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "2001:db8::4", "2001:db8", "service[0].backend[0].address", "has no port, and an IPv6 address with one is in brackets", "write: address = \"[2001:db8::4]:6443\""),
    m("172.16.0.4:6443", "[2001:db8::4]", "2001:db8", "service[0].backend[0].address", "has no port, and an IPv6 address with one is in brackets", "write: address = \"[2001:db8::4]:6443\""),
    m("172.16.0.4:6443", "[2001:db8::4]:0", "2001:db8", "service[0].backend[0].address", "has port 0", "write: address = \"[2001:db8::4]:6443\""),
    m("172.16.0.4:6443", "[2001:db8::4%2]:6443", "2001:db8", "service[0].backend[0].address", "has a zone", "write: address = \"[2001:db8::4]:6443\""),
    m("172.16.0.4:6443", "[fe80::4]:6443", "fe80", "service[0].backend[0].address", "a link-local address", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "[::1]:6443", "::1", "service[0].backend[0].address", "a loopback address", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "[ff02::1]:6443", "ff02", "service[0].backend[0].address", "a multicast address", "write: address = \"172.16.0.4:6443\""),
    m("172.16.0.4:6443", "[::ffff:172.16.0.4]:6443", "ffff", "service[0].backend[0].address", "an IPv4 address in IPv6 form", "write: address = \"172.16.0.4:6443\""),
    // What a mode can reach.
    m("172.16.0.4:6443", "[2001:db8::4]:6443", "2001:db8", "service[0].backend[0].address", "is IPv6 and the VIP on line 8 is IPv4: mode \"nat\" does not translate", "write: address = the backend's IPv4 address, or mode = \"dsr-ipip\""),
    m("port = 6443\n", "port = 6443\nmode = \"dsr-l3\"\n", "mode", "service[0].mode", "must be \"nat\" or \"dsr-l2\" or \"dsr-ipip\", not \"dsr-l3\"", "write: mode = \"dsr-l2\""),
    m("port = 6443\n", "port = 6443\nbalance = \"leastconn\"\n", "balance", "service[0].balance", "must be \"maglev\" or \"round-robin\" or \"least-connections\"", "write: balance = \"maglev\""),
    m("port = 6443\n", "port = 6443\nsnat = \"nodes\"\n", "snat", "service[0].snat", "must be \"vip\" or \"node\", not \"nodes\"", "write: snat = \"node\""),
    m("port = 6443\n", "port = 6443\nmode = \"dsr-l2\"\nsnat = \"node\"\n", "snat", "service[0].snat", "for mode \"nat\" only: with \"dsr-l2\" the backends see the client's own address", "remove it, or write: mode = \"nat\""),
    m("port = 6443\n", "port = 6443\nmode = \"dsr-ipip\"\nsnat = \"vip\"\n", "snat", "service[0].snat", "for mode \"nat\" only", "remove it, or write: mode = \"nat\""),
    m("port = 6443\n", "port = 6443\non_all_full = \"rst\"\n", "on_all_full", "service[0].on_all_full", "must be \"reset\" or \"drop\", not \"rst\"", "write: on_all_full = \"reset\""),
    // Who may connect, and how often.
    m("port = 6443\n", "port = 6443\nallow = []\n", "allow", "service[0].allow", "must have at least one network, or nobody can connect", "remove it: without `allow` everybody may connect"),
    m("port = 6443\n", "port = 6443\nallow = \"10.0.0.0/8\"\n", "allow", "service[0].allow", "must be a list in brackets", "write: allow = [\"10.0.0.0/8\"]"),
    m("port = 6443\n", "port = 6443\nallow = [8]\n", "allow", "service[0].allow", "must be a network like \"10.0.0.0/8\" in quotes, not a whole number", "write: allow = [\"10.0.0.0/8\"]"),
    m("port = 6443\n", "port = 6443\nallow = [\"office\"]\n", "allow", "service[0].allow", "must be an address and a prefix length, not \"office\"", "write: allow = [\"10.0.0.0/8\"]"),
    m("port = 6443\n", "port = 6443\nallow = [\"10.0.0.0/33\"]\n", "allow", "service[0].allow", "must have a prefix length from 0 to 32, not \"33\"", "write: allow = [..., \"10.0.0.0/32\", ...]"),
    m("port = 6443\n", "port = 6443\nallow = [\"10.1.2.3/8\"]\n", "allow", "service[0].allow", "10.1.2.3/8 has bits set behind its first 8", "write: allow = [..., \"10.0.0.0/8\", ...]"),
    m("port = 6443\n", "port = 6443\nallow = [\"1.2.3.4/0\"]\n", "allow", "service[0].allow", "has bits set behind its first 0", "write: allow = [..., \"0.0.0.0/0\", ...]"),
    m("port = 6443\n", "port = 6443\nallow = [\"2001:db8::1/32\"]\n", "allow", "service[0].allow", "has bits set behind its first 32", "write: allow = [..., \"2001:db8::/32\", ...]"),
    m("port = 6443\n", "port = 6443\nallow = [\"::ffff:10.1.2.3/104\"]\n", "allow", "service[0].allow", "is IPv4 in IPv6 form", "write: allow = [..., \"10.0.0.0/8\", ...]"),
    m("port = 6443\n", "port = 6443\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]\n", "allow", "service[0].allow", "`allow` has fd00::/8, from which nobody can reach an IPv4 VIP", "write: allow = [\"10.0.0.0/8\"]"),
    m("port = 6443\n", "port = 6443\nallow = [\"10.0.0.1\", \"10.0.0.1/32\"]\n", "allow", "service[0].allow", "`allow` has 10.0.0.1/32 twice", "remove one of the two"),
    m("port = 6443\n", "port = 6443\nnew_connections_per_source = 1000001\n", "new_connections", "service[0].new_connections_per_source", "must be 0 to 1000000, not 1000001", "write: new_connections_per_source = 0"),
    m("port = 6443\n", "port = 6443\nnew_connections_per_source = -1\nnew_connections_burst = 5\n", "per_source", "service[0].new_connections_per_source", "must be 0 to 1000000, not -1", "write: new_connections_per_source = 0"),
    m("port = 6443\n", "port = 6443\nnew_connections_per_source = 50\nnew_connections_burst = 0\n", "burst", "service[0].new_connections_burst", "must be 1 to 1000000, not 0", "write: new_connections_burst = 50"),
    m("port = 6443\n", "port = 6443\nnew_connections_burst = 20\n", "burst", "service[0].new_connections_burst", "needs `new_connections_per_source`", "write: new_connections_per_source = 20, or remove it"),
    m("port = 6443\n", "port = 6443\nnew_connections_per_source = 0\nnew_connections_burst = 20\n", "burst", "service[0].new_connections_burst", "needs `new_connections_per_source`", "write: new_connections_per_source = 20, or remove it"),
    m("172.16.0.4:6443", "127.0.0.1:6443", "127.0.0.1", "service[0].backend[0].address", "a loopback address", "write: address = \"172.16.0.4:6443\""),
    m("weight = 100", "max_connections = -1", "max_connections", "service[0].backend[0].max_connections", "must be 0 to 4294967295, not -1", "write: max_connections = 0"),
    m("weight = 100", "max_connections = 4294967296", "max_connections", "service[0].backend[0].max_connections", "must be 0 to 4294967295", "write: max_connections = 0"),
    m("weight = 100", "weight = 257", "weight", "service[0].backend[0].weight", "must be 0 to 256, not 257", "write: weight = 100"),
    m("weight = 100\n\n[[service.backend]]\nname = \"master2\"\naddress = \"172.16.0.5:6443\"", "weight = 0", "weight = 0", "service[0].backend[0].weight", "is 0 for every backend", "write: weight = 100 for at least one"),
    m("[[service.backend]]\nname = \"master1\"\naddress = \"172.16.0.4:6443\"\nweight = 100\n\n[[service.backend]]\nname = \"master2\"\naddress = \"172.16.0.5:6443\"\n", "", "[[service]]", "service[0]", "no backend", "write: [[service.backend]] with name = \"master1\" and address"),
    // Health.
    m("check = \"https\"", "check = \"htps\"", "htps", "service[0].health.check", "must be \"tcp\" or \"tls\"", "write: check = \"https\""),
    m("interval = \"2s\"", "path = \"readyz\"", "path", "service[0].health.path", "must begin with '/'", "write: path = \"/readyz\""),
    m("interval = \"2s\"", "path = \"/readyz HTTP/1.1\\r\\nX: y\"", "path", "service[0].health.path", "must be a URL's path", "write: path = \"/readyz\""),
    m("check = \"https\"\nverify = \"ca\"\nca_file = \"/pki/ca.crt\"", "check = \"tcp\"\npath = \"/readyz\"", "path", "service[0].health.path", "for http and https checks only", "remove it, or write: check = \"https\""),
    m("check = \"https\"", "check = \"tls\"\nexpect_status = [200]", "expect_status", "service[0].health.expect_status", "for http and https checks only", "remove it, or write: check = \"https\""),
    m("check = \"https\"\nverify = \"ca\"\nca_file = \"/pki/ca.crt\"", "check = \"http\"\nverify = \"none\"", "verify", "service[0].health.verify", "for tls and https checks only", "remove it, or write: check = \"https\""),
    m("check = \"https\"", "check = \"tls\"\ntoken_file = \"/pki/token\"", "token_file", "service[0].health.token_file", "for https checks only", "remove it, or write: check = \"https\""),
    m("interval = \"2s\"", "expect_status = []", "expect_status", "service[0].health.expect_status", "at least one status", "write: expect_status = [200]"),
    m("interval = \"2s\"", "expect_status = [200, 600]", "expect_status", "service[0].health.expect_status", "has an item that must be 200 to 599, not 600", "write: expect_status = [200]"),
    m("interval = \"2s\"", "expect_status = [99]", "expect_status", "service[0].health.expect_status", "must be 200 to 599, not 99", "write: expect_status = [200]"),
    m("interval = \"2s\"", "interval = \"0s\"", "interval", "service[0].health.interval", "must be 10ms to 1h", "write: interval = \"10ms\""),
    m("interval = \"2s\"", "down_interval = \"0ms\"", "interval", "service[0].health.down_interval", "must be 10ms to 1h", "write: down_interval = \"10ms\""),
    m("interval = \"2s\"", "fast_interval = \"0s\"", "interval", "service[0].health.fast_interval", "must be 10ms to 1h", "write: fast_interval = \"10ms\""),
    m("interval = \"2s\"", "timeout = \"0s\"", "timeout = \"0s\"", "service[0].health.timeout", "must be 10ms to 1h", "write: timeout = \"10ms\""),
    m("interval = \"2s\"", "rise = 0", "rise", "service[0].health.rise", "must be 1 to 1000, not 0", "write: rise = 2"),
    m("interval = \"2s\"", "fall = 0", "fall", "service[0].health.fall", "must be 1 to 1000, not 0", "write: fall = 2"),
    m("interval = \"2s\"", "slow_start = \"61m\"", "slow_start", "service[0].health.slow_start", "must be 0s to 1h", "write: slow_start = \"1h\""),
    m("interval = \"2s\"", "slow_start = 60", "slow_start", "service[0].health.slow_start", "not a bare number", "write: slow_start = \"1m\""),
    // Files.
    m("ca_file = \"/pki/ca.crt\"", "", "verify", "service[0].health.verify", "needs `ca_file`", "write: ca_file = \"/etc/kubernetes/pki/ca.crt\""),
    m("verify = \"ca\"", "", "ca_file", "service[0].health.ca_file", "`ca_file` needs verify = \"ca\"", "write: verify = \"ca\""),
    m("/pki/ca.crt", "/nowhere/ca.crt", "ca_file", "service[0].health.ca_file", "/nowhere/ca.crt cannot be read: No such file", "write: ca_file = the path of a PEM file"),
    m("/pki/ca.crt", "pki/ca.crt", "ca_file", "service[0].health.ca_file", "must be an absolute path", "write: ca_file = \"/etc/kubernetes/pki/ca.crt\""),
    m("/pki/ca.crt", "/pki/not.pem", "ca_file", "service[0].health.ca_file", "holds no certificate in PEM form", "write: ca_file = the path of a PEM file"),
    m("/pki/ca.crt", "/pki/broken.pem", "ca_file", "service[0].health.ca_file", "cannot be used", "write: ca_file = the path of a PEM file"),
    m("interval = \"2s\"", "client_cert = \"/pki/client.crt\"", "client_cert", "service[0].health.client_cert", "needs `client_key`", "write: client_key = "),
    m("interval = \"2s\"", "client_key = \"/pki/client.key\"", "client_key", "service[0].health.client_key", "needs `client_cert`", "write: client_cert = "),
    m("interval = \"2s\"", "client_cert = \"/pki/client.crt\"\nclient_key = \"/pki/other.key\"", "client_key", "service[0].health.client_key", "is not the key of `client_cert`", "write: client_key = the path of the certificate's own key"),
    m("interval = \"2s\"", "client_cert = \"/pki/not.pem\"\nclient_key = \"/pki/client.key\"", "client_cert", "service[0].health.client_cert", "no certificate in PEM form", "write: client_cert = the path of a PEM file"),
    m("interval = \"2s\"", "client_cert = \"/pki/client.crt\"\nclient_key = \"/pki/client.crt\"", "client_key", "service[0].health.client_key", "holds no private key", "write: client_key = the path of a PEM file"),
    m("interval = \"2s\"", "token_file = \"/nowhere\"", "token_file", "service[0].health.token_file", "cannot be read", "write: token_file = the path of a file with one bearer token"),
    m("interval = \"2s\"", "token_file = \"/pki/empty\"", "token_file", "service[0].health.token_file", "is empty", "write: token_file ="),
    m("interval = \"2s\"", "token_file = \"/pki/two-tokens\"", "token_file", "service[0].health.token_file", "not a single token", "write: token_file ="),
    // Flows.
    m("idle_timeout = \"24h\"", "max = 1023", "max", "flows.max", "must be 1024 to 16777216, not 1023", "write: max = 1048576"),
    m("idle_timeout = \"24h\"", "max = 16777217", "max", "flows.max", "must be 1024 to 16777216", "write: max = 1048576"),
    m("\"24h\"", "\"59s\"", "idle_timeout", "flows.idle_timeout", "must be 1m to 8760h", "write: idle_timeout = \"1m\""),
    // Sizes of tables.
    m("idle_timeout = \"24h\"", "half_open_max = 1023", "half_open_max", "flows.half_open_max", "must be 1024 to 16777216, not 1023", "write: half_open_max = 262144"),
    m("idle_timeout = \"24h\"", "half_open_max = 16777217", "half_open_max", "flows.half_open_max", "must be 1024 to 16777216", "write: half_open_max = 262144"),
    m("idle_timeout = \"24h\"", "sources_max = 0", "sources_max", "flows.sources_max", "must be 1024 to 16777216, not 0", "write: sources_max = 65536"),
];

pub(super) const fn m(
    from: &'static str,
    to: &'static str,
    line: &'static str,
    key: &'static str,
    message: &'static str,
    remedy: &'static str,
) -> Mistake {
    Mistake { from, to, line, key, message, remedy }
}

fn errors(text: &str) -> Vec<Diagnostic> {
    let problems = parse(text).expect_err("refused");
    problems.errors().cloned().collect()
}

/// The number of the first line that contains a text; the first of the file for none.
fn line_of(text: &str, part: &str) -> usize {
    if part.is_empty() {
        return 1;
    }
    1 + text.lines().position(|line| line.contains(part)).expect("the line is there")
}

/// Each mistake is one error with its line, key and remedy.
pub(super) fn each_is_refused(mistakes: &[Mistake]) {
    let different: Vec<String> = mistakes.iter().filter_map(difference).collect();
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

/// What is said about a mistake, where that is not what it should be.
fn difference(mistake: &Mistake) -> Option<String> {
    let first = "[[service.backend]]\n";
    let text = edited(mistake.from, mistake.to).replacen(first, "[[service.backend]] # first\n", 1);
    let found = errors(&text);
    let right = match found.as_slice() {
        [found] => {
            found.severity == Severity::Error
                && found.line == line_of(&text, mistake.line)
                && found.key == mistake.key
                && found.message.contains(mistake.message)
                && found.remedy.starts_with(mistake.remedy)
        }
        _ => false,
    };
    (!right).then(|| format!("{:?}: {found:#?}", mistake.to))
}

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

/// The base with an IPv6 VIP and backends.
pub(super) fn ipv6() -> String {
    BASE.replace("172.16.0.10/24", "2001:db8::10/64")
        .replace("172.16.0.4:6443", "[2001:db8::4]:6443")
        .replace("172.16.0.5:6443", "[2001:db8::5]:6443")
        .replace("\"172.16.0.2\"", "\"2001:db8::2\"")
        .replace("\"172.16.0.3\"", "\"2001:db8::3\"")
}

pub(super) fn said(text: &str) -> Vec<(String, String, String)> {
    errors(text).into_iter().map(|found| (found.key, found.message, found.remedy)).collect()
}

#[test]
fn the_other_family_is_refused_for_an_ipv6_vip_too() {
    let text = ipv6()
        .replace("vrrp = \"main\"\n", "allow = [\"2001:db8::/32\", \"10.0.0.0/8\"]\n")
        .replace("[2001:db8::5]", "172.16.0.5");
    let messages: Vec<String> = said(&text).into_iter().map(|(_, message, _)| message).collect();
    assert_eq!(
        messages,
        [
            "`allow` has 10.0.0.0/8, from which nobody can reach an IPv6 VIP",
            "`address` is IPv4 and the VIP on line 8 is IPv6: mode \"nat\" does not translate between the two",
        ]
    );
}

#[test]
fn without_nat_a_backend_has_the_service_s_port() {
    for (mode, address, suggested) in [
        ("dsr-l2", "172.16.0.4:6444", "172.16.0.4:6443"),
        ("dsr-ipip", "172.16.0.4:6444", "172.16.0.4:6443"),
        ("dsr-ipip", "[2001:db8::4]:6444", "[2001:db8::4]:6443"),
    ] {
        let text = edited("port = 6443\n", &format!("port = 6443\nmode = \"{mode}\"\n"))
            .replace("172.16.0.4:6443", address);
        let expected = (
            "service[0].backend[0].address".to_owned(),
            format!(
                "`address` has port 6444, but with mode \"{mode}\" packets reach the backend as the client sent them, \
                 for port 6443"
            ),
            format!("write: address = \"{suggested}\", or mode = \"nat\""),
        );
        assert_eq!(said(&text), [expected]);
    }
}

#[test]
fn two_ipv6_services_on_one_port_and_a_vip_that_is_a_backend_are_refused() {
    let second = "[[service]]\nname = \"b\"\nvip = \"2001:DB8:0::10/64\"\nport = 6443\nhealth.check = \"tcp\"\n\
        [[service.backend]]\nname = \"m\"\naddress = \"[2001:db8::10]:1\"\n[[vrrp]]\nname = \"main\"";
    let text = ipv6().replace("vrrp = \"main\"\n", "").replace("[[vrrp]]\nname = \"main\"", second);
    let keys: Vec<String> = said(&text).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["service[1].port", "service[1].backend[0].address"]);
}

#[test]
fn a_wrong_mode_is_not_a_wrong_port_too() {
    let text = edited("port = 6443\n", "port = 6443\nmode = \"dsr\"\nsnat = \"node\"\n")
        .replace("172.16.0.4:6443", "[2001:db8::4]:6444");
    let keys: Vec<String> = said(&text).into_iter().map(|(key, ..)| key).collect();
    assert_eq!(keys, ["service[0].mode"]);
}

#[test]
fn all_mistakes_are_reported_at_once_and_in_order() {
    let text = BASE
        .replace("\"eth0\"", "\"\"")
        .replace("172.16.0.10/24", "172.16.0.10/40")
        .replace("port = 6443\n", "prot = 6443\n")
        .replace("interval = \"2s\"", "interval = 2\nrise = 0\npath = 1")
        .replace("\"master2\"", "\"master1\"")
        .replace("virtual_router_id = 60", "virtual_router_id = 0")
        .replace("\"24h\"", "\"20s\"");
    let keys: Vec<String> = errors(&text).into_iter().map(|found| found.key).collect();
    let expected = [
        "node.interface",
        "service[0].vip",
        "service[0].prot",
        "service[0].health.interval",
        "service[0].health.rise",
        "service[0].health.path",
        "service[0].backend[1].name",
        "vrrp[0].virtual_router_id",
        "flows.idle_timeout",
    ];
    assert_eq!(keys, expected);
}

#[test]
fn an_empty_file_says_what_a_file_needs() {
    let found = errors("");
    let said: Vec<(usize, &str, &str)> =
        found.iter().map(|found| (found.line, found.key.as_str(), found.remedy.as_str())).collect();
    assert_eq!(
        said,
        [
            (1, "node.interface", "write: interface = \"eth0\"   (in [node])"),
            (1, "", "write: [[service]] with name, vip, port and [[service.backend]]"),
        ]
    );
}

#[test]
fn what_is_not_toml_has_its_line_column_and_remedy() {
    for (from, to, line, column, remedy) in [
        ("vip = \"172.16.0.10/24\"", "vip = 172.16.0.10/24", 8, 13, "write: vip = \"172.16.0.10/24\""),
        ("interval = \"2s\"", "interval = 2s", 16, 12, "write: interval = \"2s\""),
        ("name = \"kube-apiserver\"", "name = \"kube-apiserver", 7, 23, "write: name = \"kube-apiserver\""),
        ("priority = 101", "preempt = yes", 30, 11, "write: preempt = true"),
        ("priority = 101", "priority =", 30, 11, "write: a value after priority ="),
        ("priority = 101", "priority 101", 30, 10, "write: key = value on a line of its own"),
        ("priority = 101", "name = \"twice\"", 30, 1, "remove one of the two"),
        ("[flows]", "[flows", 34, 7, "write: [node], [[service]]"),
        ("[flows]", "[node]", 34, 2, "remove one of the two"),
    ] {
        let found = errors(&edited(from, to));
        let [found] = found.as_slice() else { panic!("{to:?}: {found:#?}") };
        assert_eq!((found.line, found.column), (line, column), "{found}");
        assert!(found.remedy.starts_with(remedy), "{found}");
        assert!(found.message.starts_with("not TOML: ") && !found.message.contains("nothing"), "{found}");
    }
}

#[test]
fn two_syntax_errors_are_both_reported() {
    let text =
        BASE.replace("\"172.16.0.10/24\"", "172.16.0.10/24").replace("interval = \"2s\"", "interval = 2s");
    let lines: Vec<usize> = errors(&text).iter().map(|found| found.line).collect();
    assert_eq!(lines, [8, 16]);
}

#[test]
fn what_the_maps_have_no_room_for_is_refused() {
    use std::fmt::Write as _;
    let mut text = BASE.to_owned();
    for n in 0..255 {
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"more{n}\"\naddress = \"172.16.1.{}:{}\"\n",
            n % 250 + 1,
            6443 + n / 250
        );
    }
    // Those tables are the last service's, wherever they stand; there is one service.
    let found = errors(&text);
    let [found] = found.as_slice() else { panic!("{found:#?}") };
    assert!(found.message.contains("the service has 257 backends"), "{found}");

    let mut text = BASE.to_owned();
    for n in 0..256 {
        let _ = write!(
            text,
            "[[service]]\nname = \"s{n}\"\nvip = \"172.16.0.10/24\"\nvrrp = \"main\"\nport = {}\n\
             health = {{ check = \"tcp\" }}\n[[service.backend]]\nname = \"a\"\naddress = \"172.16.0.4:6443\"\n",
            7000 + n
        );
    }
    let found = errors(&text);
    let [found] = found.as_slice() else { panic!("{found:#?}") };
    assert!(found.message.contains("a node has at most 256"), "{found}");
}

#[test]
fn a_password_is_in_no_complaint() {
    for line in
        ["auth_pass = \"hunter2hunter2\"", "auth_pass = hunter2hunter2", "auth_pass = [\"hunter2hunter2\"]"]
    {
        let problems = parse(&edited("priority = 101", line)).expect_err("refused");
        assert!(!format!("{problems} {problems:?}").contains("hunter2"), "{problems}");
        assert!(!serde_json::to_string(&problems.0).expect("JSON").contains("hunter2"), "{problems}");
    }
}
