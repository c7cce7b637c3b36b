//! The facts about a node where all is well, for the tests to break.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use crate::{
    config::{
        model::Config,
        sample::{self, SAMPLE},
    },
    doctor::{
        Finding, Severity,
        adverts::Heard,
        facts::{
            Backend, BpfFs, Channels, Clock, Directory, Facts, FileMode, Host, Interface, Link, OwnAddress,
            Program, Way, Wire,
        },
        findings::Judge,
        firewall::Rules,
    },
    status::Status,
    vrrp::{
        advert::{Advertisement, Envelope, Priority},
        router::dialect,
    },
};

/// The peer's Ethernet address.
pub const PEER_MAC: [u8; 6] = [2, 0, 0xac, 16, 0, 3];
/// This node's.
pub const OWN_MAC: [u8; 6] = [2, 0, 0xac, 16, 0, 2];

pub fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The configuration with something replaced.
pub fn config(change: impl FnOnce(&str) -> String) -> Config {
    sample::config(&change(SAMPLE))
}

/// An advertisement of the peer's, heard and delivered ten times.
pub fn heard(facts: &Facts) -> Heard {
    let instance = &facts.config.vrrp[0];
    Heard {
        envelope: Envelope {
            source: address("172.16.0.3"),
            destination: address("172.16.0.2"),
            hop_limit: 255,
        },
        mac: PEER_MAC,
        outgoing: false,
        advertisement: Advertisement {
            vrid: crate::vrrp::advert::Vrid(instance.virtual_router_id),
            priority: Priority(90),
            dialect: dialect(instance).expect("a dialect"),
            addresses: vec![address("172.16.0.10")],
        },
        trailer: None,
        message: Vec::new(),
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        seen: 10,
        delivered: 10,
    }
}

/// A node beside a peer that owns the VIP; no daemon runs.
pub fn facts() -> Facts {
    let mut facts = Facts {
        config: config(str::to_owned),
        file: PathBuf::from("/etc/xvip/xvip.toml"),
        warnings: Vec::new(),
        daemon: Ok(None),
        host: Host {
            kernel: "6.1.0-13-amd64".to_owned(),
            btf: true,
            processors: 4,
            possible_processors: Ok(4),
            capabilities: u64::MAX,
            bpf_fs: BpfFs::Mounted,
            cgroup2: Ok(PathBuf::from("/sys/fs/cgroup")),
            memory_available: Ok(8 << 30),
            memlock: Some(8 << 20),
            clock: Ok(Clock { synchronised: true, error_us: 1000 }),
            state_directory: Directory { path: PathBuf::from("/var/lib/xvip"), exists: true, writable: true },
            sync_key: Some(Ok(FileMode { mode: 0o600, owner: 0 })),
            systemd: true,
            unit: Some(PathBuf::from("/etc/systemd/system/xvip.service")),
        },
        interfaces: vec![Interface {
            name: "eth0".to_owned(),
            link: Ok(Link {
                index: 2,
                up: true,
                carrier: true,
                mac: Some(OWN_MAC),
                mtu: 1500,
                parent: "eth0".to_owned(),
                parent_mtu: 1500,
                driver: Some("ixgbe".to_owned()),
                channels: Some(Channels { receive: 4, receive_max: 63 }),
                sysctls: BTreeMap::from([("rp_filter".to_owned(), 0), ("disable_ipv6".to_owned(), 0)]),
                ..Link::default()
            }),
        }],
        addresses: vec![OwnAddress {
            interface: "eth0".to_owned(),
            address: address("172.16.0.2"),
            prefix_len: 24,
        }],
        macs: BTreeMap::from([("eth0".to_owned(), OWN_MAC)]),
        wire: Wire {
            listened: Some(Ok(Duration::from_secs(3))),
            sockets: BTreeSet::from(["main".to_owned()]),
            ..Wire::default()
        },
        backends: vec![Backend {
            names: vec!["kube-apiserver/master1".to_owned()],
            address: "172.16.0.4:6443".parse().expect("an address"),
            way: Ok(Way::Out { interface: "eth0".to_owned(), neighbour: address("172.16.0.4") }),
            neighbour: Some(true),
            check: Ok("connected after 1 ms".to_owned()),
        }],
        peers: BTreeMap::from([(
            address("172.16.0.3"),
            Way::Out { interface: "eth0".to_owned(), neighbour: address("172.16.0.3") },
        )]),
        firewall: Ok(Rules { sources: vec!["nft"], ..Rules::default() }),
        listeners: Vec::new(),
        keepalived: Vec::new(),
    };
    facts.wire.adverts = vec![heard(&facts)];
    facts
}

/// What a running daemon says; whether the VIP is its node's, and what is wrong.
pub fn running(holds_addresses: bool, problems: &[&str]) -> Status {
    let vrrp = serde_json::json!({
        "name": "main", "state": "active", "since": "", "reason": "", "priority": 100, "virtual_router_id": 60, "version": 3,
        "vips": ["172.16.0.10/24"], "adverts_sent": 0, "adverts_received": 0, "discarded": {},
        "holds_addresses": holds_addresses,
    });
    let status = serde_json::json!({
        "node": "lb1", "version": "0.1.0", "pid": 1, "uptime_seconds": 9, "problems": problems,
        "config": { "path": "/etc/xvip/xvip.toml", "loaded_at": "" },
        "interface": { "name": "eth0", "xdp_mode": "native", "mac": "" },
        "vrrp": [vrrp], "services": [],
        "packets": { "passed": {}, "dropped": {}, "transmitted": {} },
        "flows": { "established": 0, "half_open": 0, "closing": 0, "max": 1024 },
    });
    serde_json::from_value(status).expect("a status")
}

/// The facts of the one interface.
pub fn link(facts: &mut Facts) -> &mut Link {
    facts.interfaces[0].link.as_mut().expect("a link")
}

/// A program that is not ours.
pub fn program() -> Program {
    Program { id: 7, name: "xdp_thing".to_owned(), tag: "00112233".to_owned(), ..Program::default() }
}

/// The one finding after something was broken.
pub fn one(judge: Judge, break_it: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = facts();
    break_it(&mut facts);
    let mut found = judge(&facts);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// That there is nothing wrong after something was changed.
pub fn fine(judge: Judge, change: impl FnOnce(&mut Facts)) {
    let mut facts = facts();
    change(&mut facts);
    let found = judge(&facts);
    assert!(found.iter().all(|finding| finding.severity == Severity::Fine), "{found:#?}");
}
