//! `[sync]`: what is accepted and what is refused.

use super::{
    edited, parse,
    refused::{Mistake, each_is_refused, m},
};
use crate::config::model::DEFAULT_SYNC_BANDWIDTH;

/// `[sync]` with these keys and a good `key_file`.
macro_rules! sync {
    ($keys:literal) => {
        concat!("[sync]\nkey_file = \"/etc/xvip/sync.key\"\n", $keys, "\n[flows]")
    };
}

/// The same with good addresses and these keys.
macro_rules! addressed {
    ($keys:literal) => {
        concat!("[sync]\nlisten = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\"]\n", $keys, "\n[flows]")
    };
}

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = []"), "peers = []", "sync.peers", "`peers` is empty", "write: peers = [\"172.16.0.3:7946\"], or remove [sync]"),
    m("[flows]", sync!("listen = \"172.16.0.10:7946\"\npeers = [\"172.16.0.3:7946\"]"), "listen", "sync.listen", "`listen` is on the VIP 172.16.0.10", "write: listen = an address of this node alone"),
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = [\"172.16.0.10:7946\"]"), "peers = [\"172.16.0.10", "sync.peers", "`peers` has 172.16.0.10:7946, on the VIP 172.16.0.10", "write: peers = addresses of the nodes themselves"),
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\",\n\"172.16.0.2:7946\" # ours\n]"), "# ours", "sync.peers", "`peers` has 172.16.0.2:7946, which is this node's own `listen`", "write: peers = the other nodes alone"),
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = [\"172.16.0.3:7946\",\n\"172.16.0.3:7946\" # again\n]"), "# again", "sync.peers", "`peers` has 172.16.0.3:7946 twice", "remove one of the two"),
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = [\"0.0.0.0:7946\"]"), "peers = [\"0.0", "sync.peers", "`peers` has 0.0.0.0:7946, which is no node's address", "write: peers = addresses of the nodes themselves"),
    m("[flows]", sync!("listen = \"172.16.0.2:7946\"\npeers = [\"10.0.0.1:1\", \"10.0.0.2:1\", \"10.0.0.3:1\", \"10.0.0.4:1\", \"10.0.0.5:1\", \"10.0.0.6:1\", \"10.0.0.7:1\", \"10.0.0.8:1\"]"), "peers = [\"10.0", "sync.peers", "`peers` has 8 addresses, and 7 are the most", "write: peers = the nodes that share VIPs with this one"),
    m("[flows]", addressed!(""), "[sync]", "sync.key_file", "`key_file` is missing", "write: key_file = \"/etc/xvip/sync.key\""),
    m("[flows]", addressed!("key_file = \"/nowhere\""), "key_file", "sync.key_file", "`key_file` /nowhere cannot be read: No such file", "write: key_file = the path of a file with \"hex:\""),
    m("[flows]", addressed!("key_file = \"/pki/empty\""), "key_file", "sync.key_file", "`key_file` /pki/empty holds no key", "write: key_file = the path of a file with \"hex:\""),
    m("[flows]", addressed!("key_file = \"/pki/token\""), "key_file", "sync.key_file", "`key_file` /pki/token line 1 must be 32 to 256 bytes of secret, and has 13", "write: key_file = the path of a file with \"hex:\""),
    m("[flows]", addressed!("key_file = \"/etc/xvip/sync.key\"\nbandwidth = 0"), "bandwidth", "sync.bandwidth", "`bandwidth` must be 1 to 100000, not 0", "write: bandwidth = 1"),
];

#[test]
fn each_mistake_is_refused() {
    each_is_refused(MISTAKES);
}

#[test]
fn the_keys_are_read_with_the_configuration() {
    let checked =
        parse(&edited("[flows]", addressed!("key_file = \"/etc/xvip/sync.key\""))).expect("accepted");
    assert_eq!(checked.warnings, []);
    let sync = checked.config.sync.expect("it is there");
    let secrets: Vec<&[u8]> = sync.keys.secrets().collect();
    assert_eq!(secrets, [&[0x5a; 32][..], b"another secret of a former year, in words"]);
    assert_eq!(sync.bandwidth, DEFAULT_SYNC_BANDWIDTH);
    assert_eq!(sync.peers, ["172.16.0.3:7946".parse().expect("an address")]);
    let told = format!("{sync:?}") + &serde_json::to_string(&sync).expect("JSON");
    assert!(!told.contains("former") && !told.contains("90"), "{told}");
}

#[test]
fn what_does_less_than_it_seems_is_warned_about() {
    let of = |text: &str| -> Vec<String> {
        let checked = parse(text).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        checked.warnings.into_iter().map(|found| found.key).collect()
    };
    let open = edited("[flows]", addressed!("key_file = \"/etc/xvip/shared.key\""));
    assert_eq!(of(&open), ["sync.key_file"]);
    let of_no_use = edited("[flows]", addressed!("key_file = \"/etc/xvip/sync.key\""))
        .replace("port = 6443\n", "port = 6443\nmode = \"dsr-l2\"\n");
    assert_eq!(of(&of_no_use), ["sync"]);
}
