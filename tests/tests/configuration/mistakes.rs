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
];
