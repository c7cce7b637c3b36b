//! The mistakes that the issue names, made in the lab's own configuration.

/// One mistake.
#[derive(Debug)]
pub struct Mistake {
    /// Its name in the issue.
    pub name: &'static str,
    /// What it replaces, once.
    from: &'static str,
    to: &'static str,
    /// A text that the reported line is the first to contain.
    pub line: &'static str,
    /// What is said about it.
    pub key: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

impl Mistake {
    /// The file with the mistake in it.
    pub fn make(&self, good: &str) -> String {
        assert!(good.contains(self.from), "{}: no {:?} in:\n{good}", self.name, self.from);
        good.replacen(self.from, self.to, 1)
    }
}

/// A second service on the first one's VIP and port; its line is the one with the comment.
const SAME_PORT: &str = "[[service]]
name = \"second\"
vip = \"172.16.0.10/24\"
port = 6443 # again
vrrp = \"main\"
[service.health]
check = \"tcp\"
[[service.backend]]
name = \"other\"
address = \"172.16.0.50:6443\"

[[vrrp]]
";

/// `[vrrp.auth_hmac]` whose only key is far too short.
const SHORT_KEY: &str = "unicast_peers = []
[vrrp.auth_hmac]
active_key = 1
[[vrrp.auth_hmac.key]]
id = 1
value = \"hex:c0ffee\"
";

/// The same with a key that is not there.
const NO_ACTIVE_KEY: &str = "unicast_peers = []
[vrrp.auth_hmac]
active_key = 2
[[vrrp.auth_hmac.key]]
id = 1
value = \"a secret of the lab, of 32 bytes\"
";

const SLOW_SCRIPT: &str = "unicast_peers = []
[[vrrp.track]]
kind = \"script\"
command = [\"/bin/true\"]
interval = \"1s\"
timeout = \"2s\"
";

/// One for each.
pub const MISTAKES: &[Mistake] = &[
    Mistake {
        name: "unknown key",
        from: "mode = \"nat\"\n",
        to: "mod = \"nat\"\n",
        line: "mod = ",
        key: "unknown key `mod`",
        remedy: "write: mode = \"nat\"   (did you mean `mode`?)",
    },
    Mistake {
        name: "bad CIDR",
        from: "172.16.0.10/24",
        to: "172.16.0.10/42",
        line: "vip = ",
        key: "prefix length from 1 to 32, not \"42\"",
        remedy: "write: vip = \"172.16.0.10/32\"",
    },
    Mistake {
        name: "VIP equal to a backend",
        from: "172.16.0.10/24",
        to: "172.16.0.5/24",
        line: "address = \"172.16.0.5:6443\"",
        key: "is the VIP on line ",
        remedy: "write: address = the backend's own address",
    },
    Mistake {
        name: "duplicate names",
        from: "name = \"master3\"",
        to: "name = \"master1\" # again",
        line: "# again",
        key: "already the name of the backend on line ",
        remedy: "write: name = a name of its own",
    },
    Mistake {
        name: "VRID 0",
        from: "virtual_router_id = 60",
        to: "virtual_router_id = 0",
        line: "virtual_router_id",
        key: "must be 1 to 255, not 0",
        remedy: "write: virtual_router_id = ",
    },
    Mistake {
        name: "port 0",
        from: "port = 6443\n",
        to: "port = 0\n",
        line: "port = 0",
        key: "must be 1 to 65535, not 0",
        remedy: "write: port = 6443",
    },
    Mistake {
        name: "unreadable CA",
        from: "verify = \"none\"\n",
        to: "verify = \"ca\"\nca_file = \"/nowhere/ca.crt\"\n",
        line: "ca_file",
        key: "/nowhere/ca.crt",
        remedy: "write: ca_file = ",
    },
    Mistake {
        name: "two services on one VIP:port",
        from: "[[vrrp]]\n",
        to: SAME_PORT,
        line: "# again",
        key: "service[1]",
        remedy: "write: port = another port",
    },
    Mistake {
        name: "a peer of the other family",
        from: "unicast_peers = []\n",
        to: "unicast_peers = [\"2001:db8::3\"]\n",
        line: "unicast_peers",
        key: "`unicast_peers` has 2001:db8::3, but this instance speaks IPv4",
        remedy: "write: unicast_peers = the other nodes' IPv4 addresses",
    },
    Mistake {
        name: "a witness that moves",
        from: "virtual_router_id = 60\n",
        to: "virtual_router_id = 60\nwitness = [\"172.16.0.10\"]\n",
        line: "witness",
        key: "`witness` has the VIP on line ",
        remedy: "write: witness = the gateway's address",
    },
    Mistake {
        name: "short HMAC key",
        from: "unicast_peers = []\n",
        to: SHORT_KEY,
        line: "hex:c0ffee",
        key: "`value` must be 32 to 64 bytes long, and this is 3",
        remedy: "write: value = \"hex:...\" with the output of `openssl rand -hex 32`",
    },
    Mistake {
        name: "HMAC key that is not there",
        from: "unicast_peers = []\n",
        to: NO_ACTIVE_KEY,
        line: "active_key = 2",
        key: "`active_key` is 2, and there is no [[vrrp.auth_hmac.key]] of that id",
        remedy: "write: active_key = 1",
    },
    Mistake {
        name: "script that takes longer than its interval",
        from: "unicast_peers = []\n",
        to: SLOW_SCRIPT,
        line: "timeout = \"2s\"",
        key: "`timeout` is longer than `interval`, 1s",
        remedy: "write: timeout = \"1s\", or a longer interval",
    },
];
