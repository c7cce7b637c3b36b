//! keepalived's key words that have no effect on the model, by where they stand, and what becomes of them. The words of 2.2.7 and
//! of all later versions up to 2.4.3 are here or in a reader; `tests.rs` holds the list.

use crate::import::ledger::Fate;

/// Where a key word may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// At the top of the file.
    Root,
    /// `global_defs`
    Global,
    /// `garp_group`
    GarpGroup,
    /// `SSL`
    Ssl,
    /// `vrrp_script`
    Script,
    /// `vrrp_track_process`
    Process,
    /// `track_file`
    TrackFile,
    /// `bfd_instance`
    Bfd,
    /// `vrrp_instance`
    Instance,
    /// `vrrp_sync_group`
    SyncGroup,
    /// `virtual_server`
    VirtualServer,
    /// `real_server`
    RealServer,
    /// A checker of a real server.
    Checker,
    /// `url` of a checker.
    Url,
}

/// What is known of a key word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// What became of it.
    pub fate: Fate,
    /// What it is in `xvip.toml`.
    pub becomes: &'static str,
    /// Why.
    pub note: &'static str,
}

type Row = (&'static [&'static str], Fate, &'static str);

const MAIL: &str = "xvip sends no mail; a [[notify]] command or URL hears of the same";
const SCHEDULING: &str =
    "xvip's VRRP has a thread of its own with real-time priority, and its unit says the rest";
const BUFFERS: &str = "xvip sizes its own buffers";
const SNMP: &str = "xvip has no SNMP; `xvip status --json` tells the same";
const DBUS: &str = "xvip has no D-Bus; its control socket and `xvip status --json` tell the same";
const FIFO: &str = "xvip writes to no FIFO; a [[notify]] command or URL hears of the same";
const FIREWALL: &str = "xvip needs no firewall rules: with vrrp.virtual_mac, XDP answers for the address, and no macvlan is made";
const LVS: &str = "xvip forwards by XDP instead of IPVS";
const FILES: &str =
    "xvip reads its one configuration file when it is told to, and a file with a mistake changes nothing";
const NAMESPACES: &str = "xvip runs in the network namespace that it is started in";
const PROCESSES: &str = "xvip is one process";
const DUMPS: &str = "`xvip status --json` prints the state";
const CHECK_DETAIL: &str = "xvip's checks go from this node to the backend's own address and port";
const LVS_FLAGS: &str = "xvip's hash is always over addresses and ports of both ends";
const STARTUP: &str = "xvip begins to own a VIP only when its own data plane forwards";
const REGEX: &str = "xvip judges an answer by its status, not by its text";

const ROOT: &[Row] = &[
    (
        &["linkbeat_use_polling", "linkbeat_interfaces"],
        Fate::NotNeeded,
        "the kernel tells xvip at once when an interface loses its carrier",
    ),
    (
        &["interface_up_down_delays"],
        Fate::NotPossible,
        "xvip believes an interface at once: use vrrp.preempt_delay against flapping",
    ),
    (
        &["track_group"],
        Fate::NotNeeded,
        "it only concerns static addresses, routes and rules, which xvip leaves to the system",
    ),
    (&["garp_group"], Fate::NotNeeded, "xvip sends the frames of a burst without a pause"),
    (
        &["SSL"],
        Fate::NotPossible,
        "write service.health.client_cert and client_key if the API servers ask checks for a certificate",
    ),
    (&["net_namespace", "net_namespace_ipvs", "namespace_with_ipsets"], Fate::NotNeeded, NAMESPACES),
    (&["use_pid_dir", "child_wait_time"], Fate::NotNeeded, PROCESSES),
    (&["instance"], Fate::NotNeeded, "several instances of xvip have a node.pin_path each"),
];

const GLOBAL: &[Row] = &[
    (
        &[
            "notification_email_from",
            "smtp_server",
            "smtp_helo_name",
            "smtp_connect_timeout",
            "smtp_alert",
            "smtp_alert_vrrp",
            "smtp_alert_checker",
            "no_email_faults",
            "no_checker_emails",
        ],
        Fate::NotNeeded,
        MAIL,
    ),
    (
        &[
            "process_names",
            "process_name",
            "vrrp_process_name",
            "checker_process_name",
            "lvs_process_name",
            "bfd_process_name",
            "instance",
            "use_pid_dir",
            "child_wait_time",
        ],
        Fate::NotNeeded,
        PROCESSES,
    ),
    (
        &["enable_script_security", "use_symlink_paths", "set_supplementary_groups"],
        Fate::NotNeeded,
        "xvip runs what it tracks as vrrp.track.user, `nobody` unless said otherwise, and never needs root for it",
    ),
    (
        &["startup_script", "startup_script_timeout", "shutdown_script", "shutdown_script_timeout"],
        Fate::NotPossible,
        "write it to ExecStartPre= or ExecStopPost= of xvip's unit",
    ),
    (
        &[
            "max_auto_priority",
            "min_auto_priority_delay",
            "vrrp_priority",
            "vrrp_no_swap",
            "vrrp_rt_priority",
            "vrrp_cpu_affinity",
            "vrrp_rlimit_rttime",
            "vrrp_rlimit_rtime",
            "checker_priority",
            "checker_no_swap",
            "checker_rt_priority",
            "checker_cpu_affinity",
            "checker_rlimit_rttime",
            "checker_rlimit_rtime",
            "bfd_priority",
            "bfd_no_swap",
            "bfd_rt_priority",
            "bfd_cpu_affinity",
            "bfd_rlimit_rttime",
            "bfd_rlimit_rtime",
        ],
        Fate::NotNeeded,
        SCHEDULING,
    ),
    (
        &["checker_log_all_failures", "log_unknown_vrids"],
        Fate::NotNeeded,
        "xvip's log and `xvip explain` say it",
    ),
    (
        &["dynamic_interfaces", "default_interface", "disable_local_igmp"],
        Fate::NotNeeded,
        "xvip follows the interface that [node] names",
    ),
    (
        &["lvs_timeouts"],
        Fate::Approximate,
        "flows.idle_timeout is for established TCP connections, 24h unless said otherwise",
    ),
    (
        &["lvs_sync_daemon"],
        Fate::Improved,
        "xvip's [sync] tells the other nodes each connection, and encrypts it",
    ),
    (
        &[
            "lvs_flush",
            "lvs_flush_on_stop",
            "lvs_flush_onstop",
            "nftables_ipvs",
            "nftables_ipvs_priority",
            "nftables_ipvs_start_fwmark",
        ],
        Fate::NotNeeded,
        LVS,
    ),
    (
        &["vrrp_mcast_group4", "vrrp_mcast_group6"],
        Fate::NotPossible,
        "xvip's multicast goes to 224.0.0.18 and ff02::12 (RFC 9568 section 5.1): where another group is set, use unicast_peers",
    ),
    (&["vrrp_min_garp"], Fate::Approximate, "xvip sends 5 gratuitous ARPs, and 5 more after 5s"),
    (
        &["vrrp_garp_extra_if", "vrrp_vmac_garp_intvl"],
        Fate::NotNeeded,
        "xvip refreshes each VIP every 60s on its interface",
    ),
    (
        &["vrrp_lower_prio_no_advert", "vrrp_higher_prio_send_advert"],
        Fate::NotNeeded,
        "xvip answers a lower priority at once, as RFC 9568 section 6.4.3 has it",
    ),
    (
        &[
            "vrrp_iptables",
            "vrrp_ipsets",
            "nftables",
            "nftables_priority",
            "nftables_ifindex",
            "nftables_counters",
        ],
        Fate::NotNeeded,
        FIREWALL,
    ),
    (&["vrrp_check_unicast_src"], Fate::NotNeeded, "with unicast_peers xvip hears nobody else anyway"),
    (
        &["vrrp_skip_check_adv_addr"],
        Fate::NotNeeded,
        "xvip refuses an advertisement only where none of its own VIPs is in it",
    ),
    (
        &[
            "notify_fifo",
            "notify_fifo_script",
            "vrrp_notify_fifo",
            "vrrp_notify_fifo_script",
            "lvs_notify_fifo",
            "lvs_notify_fifo_script",
            "vrrp_notify_priority_changes",
            "fifo_write_vrrp_states_on_reload",
        ],
        Fate::NotPossible,
        FIFO,
    ),
    (
        &[
            "snmp_socket",
            "enable_traps",
            "enable_snmp_vrrp",
            "enable_snmp_keepalived",
            "enable_snmp_rfc",
            "enable_snmp_rfcv2",
            "enable_snmp_rfcv3",
            "enable_snmp_checker",
            "snmp_vs_stats_update_interval",
            "snmp_rs_stats_update_interval",
        ],
        Fate::NotPossible,
        SNMP,
    ),
    (&["enable_dbus", "dbus_service_name", "dbus_no_interface_name"], Fate::NotPossible, DBUS),
    (
        &[
            "vrrp_netlink_cmd_rcv_bufs",
            "vrrp_netlink_cmd_rcv_bufs_force",
            "vrrp_netlink_monitor_rcv_bufs",
            "vrrp_netlink_monitor_rcv_bufs_force",
            "process_monitor_rcv_bufs",
            "process_monitor_rcv_bufs_force",
            "lvs_netlink_cmd_rcv_bufs",
            "lvs_netlink_cmd_rcv_bufs_force",
            "lvs_netlink_monitor_rcv_bufs",
            "lvs_netlink_monitor_rcv_bufs_force",
            "vrrp_rx_bufs_policy",
            "vrrp_rx_bufs_multiplier",
        ],
        Fate::NotNeeded,
        BUFFERS,
    ),
    (&["rs_init_notifies"], Fate::NotNeeded, "xvip's events tell of each backend's first state"),
    (&["vrrp_startup_delay", "vrrp_delay_after_boot"], Fate::Improved, STARTUP),
    (
        &["vrrp_owner_ignore_adverts"],
        Fate::NotNeeded,
        "xvip's address owner (priority 255) obeys RFC 9568 section 6.4.3",
    ),
    (&["vmac_prefix", "vmac_addr_prefix"], Fate::NotNeeded, "xvip makes no macvlan"),
    (&["umask", "random_seed"], Fate::NotNeeded, PROCESSES),
    (
        &[
            "reload_check_config",
            "reload_time_file",
            "reload_repeat",
            "reload_file",
            "include_check",
            "config_save_dir",
            "tmp_config_directory",
        ],
        Fate::NotNeeded,
        FILES,
    ),
    (
        &["data_use_instance", "json_version", "state_dump_file", "stats_dump_file", "json_dump_file"],
        Fate::NotNeeded,
        DUMPS,
    ),
    (&["iproute_usr_dir", "iproute_etc_dir"], Fate::NotNeeded, "xvip sets no routes"),
    (&["net_namespace", "net_namespace_ipvs", "namespace_with_ipsets"], Fate::NotNeeded, NAMESPACES),
    (
        &["linkbeat_use_polling"],
        Fate::NotNeeded,
        "the kernel tells xvip at once when an interface loses its carrier",
    ),
    // Before 2.0.
    (&["lvs_id"], Fate::NotNeeded, "an old word for router_id"),
];

const GARP_GROUP: &[Row] = &[(
    &["garp_interval", "gna_interval", "interface", "interfaces"],
    Fate::NotNeeded,
    "part of the pause between gratuitous ARPs",
)];

const SSL: &[Row] =
    &[(&["password", "ca", "certificate", "key"], Fate::NotPossible, "part of the checks' own certificate")];

const SCRIPT: &[Row] = &[];

const PROCESS: &[Row] = &[(
    &["param_match", "quorum", "quorum_max", "delay", "terminate_delay", "fork_delay", "full_command"],
    Fate::NotPossible,
    "part of following processes",
)];

const TRACK_FILE: &[Row] = &[(&["file", "init_file"], Fate::NotPossible, "part of following files")];

const BFD: &[Row] = &[(
    &[
        "min_rx",
        "min_tx",
        "idle_tx",
        "multiplier",
        "passive",
        "ttl",
        "hoplimit",
        "max_hops",
        "multihop",
        "vrrp",
        "checker",
    ],
    Fate::NotPossible,
    "part of BFD",
)];

const INSTANCE: &[Row] = &[
    (
        &["use_vmac_addr", "vmac_xmit_base"],
        Fate::NotNeeded,
        "xvip makes no macvlan: XDP answers for the virtual router's Ethernet address",
    ),
    (&["use_ipvlan"], Fate::NotPossible, "xvip makes no ipvlan; the VIP goes to the interface itself"),
    (
        &["unicast_fault_no_peer"],
        Fate::NotNeeded,
        "write unicast_peers: with none, advertisements are multicast",
    ),
    (&["check_unicast_src"], Fate::NotNeeded, "with unicast_peers xvip hears nobody else anyway"),
    (
        &["old_unicast_checksum"],
        Fate::NotPossible,
        "keepalived before 1.3.6 had this checksum: update the others first",
    ),
    (&["native_ipv6"], Fate::NotNeeded, "the VIPs tell the family"),
    (
        &["vrf"],
        Fate::NotPossible,
        "xvip knows no VRFs: start it in the VRF's network namespace or by `ip vrf exec`",
    ),
    (
        &["dont_track_primary"],
        Fate::NotPossible,
        "without its own interface xvip cannot forward, and is in Fault",
    ),
    (
        &["mcast_dst_ip"],
        Fate::NotPossible,
        "xvip's multicast goes to 224.0.0.18 and ff02::12 (RFC 9568 section 5.1): where another group is set, use unicast_peers",
    ),
    (&["track_src_ip"], Fate::NotNeeded, "xvip cannot send without its source address, and says so"),
    (&["no_virtual_ipaddress"], Fate::NotNeeded, "xvip has no instance without VIPs"),
    (&["promote_secondaries"], Fate::NotNeeded, "a VIP that xvip removes takes no other address with it"),
    (
        &["linkbeat_use_polling"],
        Fate::NotNeeded,
        "the kernel tells xvip at once when an interface loses its carrier",
    ),
    (&["accept"], Fate::NotNeeded, "this node always answers on its VIPs"),
    (
        &["no_accept"],
        Fate::NotPossible,
        "xvip does not drop packets to the VIP: let the node's firewall do it",
    ),
    (
        &["skip_check_adv_addr"],
        Fate::NotNeeded,
        "xvip refuses an advertisement only where none of its own VIPs is in it",
    ),
    (&["debug"], Fate::NotNeeded, "XVIP_LOG=debug says more"),
    (&["smtp_alert"], Fate::NotNeeded, MAIL),
    (&["notify_priority_changes"], Fate::NotNeeded, "xvip's events tell of priority changes, too"),
    (
        &["lvs_sync_daemon_interface"],
        Fate::Improved,
        "xvip's [sync] tells the other nodes each connection, and encrypts it",
    ),
    (
        &["garp_extra_if", "vmac_garp_intvl"],
        Fate::NotNeeded,
        "xvip refreshes each VIP every 60s on its interface",
    ),
    (
        &["lower_prio_no_advert", "higher_prio_send_advert"],
        Fate::NotNeeded,
        "xvip answers a lower priority at once, as RFC 9568 section 6.4.3 has it",
    ),
    (
        &["owner_ignore_adverts"],
        Fate::NotNeeded,
        "xvip's address owner (priority 255) obeys RFC 9568 section 6.4.3",
    ),
    (
        &["timer_expired_backup", "thread_timer_expired"],
        Fate::NotNeeded,
        "xvip's XDP stamps each advertisement as it arrives, so that a node without CPU time does not take over",
    ),
    (&["kernel_rx_buf_size"], Fate::NotNeeded, BUFFERS),
];

const SYNC_GROUP: &[Row] = &[
    (&["smtp_alert"], Fate::NotNeeded, MAIL),
    (
        &["global_tracking", "sync_group_tracking_weight"],
        Fate::NotNeeded,
        "what one instance of a sync_group tracks counts for all of them",
    ),
    (&["notify_priority_changes"], Fate::NotNeeded, "xvip's events tell of priority changes, too"),
];

const VIRTUAL_SERVER: &[Row] = &[
    (
        &["hashed", "flag-1", "flag-2", "flag-3", "sh-port", "sh-fallback", "mh-port", "mh-fallback"],
        Fate::NotNeeded,
        LVS_FLAGS,
    ),
    (&["ops"], Fate::NotNeeded, "it only concerns UDP"),
    (&["persistence_engine", "persistence_granularity"], Fate::NotPossible, "part of persistence by source"),
    (
        &["persistence_timeout"],
        Fate::NotPossible,
        "xvip does not keep a source with its backend from one connection to the next; API clients do not need it",
    ),
    (
        &["ha_suspend", "alpha", "warmup"],
        Fate::NotNeeded,
        "xvip checks on each node all the time, and a backend is down until a check says otherwise",
    ),
    (
        &["omega", "quorum_up", "quorum_down"],
        Fate::NotPossible,
        "a [[notify]] command or URL hears of each backend and problem",
    ),
    (&["quorum", "hysteresis"], Fate::NotPossible, "xvip forwards as long as one backend is up"),
    (&["smtp_alert"], Fate::NotNeeded, MAIL),
    (&["snmp_name"], Fate::NotNeeded, SNMP),
    (&["ip_family"], Fate::NotNeeded, "the VIP tells the family"),
    (
        &["inhibit_on_failure"],
        Fate::NotNeeded,
        "a backend that is down gets no new connections; service.on_down says what becomes of the old ones",
    ),
    (&["sorry_server_inhibit", "sorry_server_lvs_method"], Fate::NotNeeded, "part of the sorry_server"),
    (&["virtualhost"], Fate::NotPossible, "xvip's checks send the backend's address as Host"),
];

const REAL_SERVER: &[Row] = &[
    (
        &["lthreshold"],
        Fate::NotPossible,
        "a backend that was full gets connections again as soon as one of its own has ended",
    ),
    (
        &["inhibit_on_failure"],
        Fate::NotNeeded,
        "a backend that is down gets no new connections; service.on_down says what becomes of the old ones",
    ),
    (
        &["notify_up", "notify_down"],
        Fate::NotPossible,
        "a [[notify]] command or URL hears of each backend, with `on = [\"backend\"]`",
    ),
    (
        &["alpha", "warmup"],
        Fate::NotNeeded,
        "xvip checks all the time, and a backend is down until a check says otherwise",
    ),
    (&["smtp_alert"], Fate::NotNeeded, MAIL),
    (&["virtualhost"], Fate::NotPossible, "xvip's checks send the backend's address as Host"),
    (&["snmp_name"], Fate::NotNeeded, SNMP),
];

const CHECKER: &[Row] = &[
    (
        &["connect_ip", "connect_port", "bindto", "bind_port", "bind_if", "fwmark", "bind_to"],
        Fate::NotPossible,
        CHECK_DETAIL,
    ),
    (
        &["warmup", "alpha"],
        Fate::NotNeeded,
        "xvip checks all the time, and a backend is down until a check says otherwise",
    ),
    (&["log_all_failures"], Fate::NotNeeded, "xvip's log and `xvip explain` say it"),
    (
        &["http_protocol", "fast_recovery", "tls_compliant"],
        Fate::NotNeeded,
        "xvip's checks speak HTTP/1.1 and end their TLS connections properly",
    ),
    (
        &["enable_sni", "sni_name", "virtualhost"],
        Fate::NotPossible,
        "xvip's checks send the backend's address as Host",
    ),
    (
        &[
            "helo_name",
            "host",
            "type",
            "name",
            "misc_path",
            "misc_timeout",
            "misc_dynamic",
            "dynamic",
            "user",
            "payload",
            "require_reply",
            "min_reply_length",
            "max_reply_length",
            "track_file",
            "weight",
        ],
        Fate::NotPossible,
        "part of a check that xvip does not have",
    ),
];

const URL: &[Row] = &[
    (
        &[
            "digest",
            "regex",
            "regex_no_match",
            "regex_options",
            "regex_min_offset",
            "regex_max_offset",
            "regex_stack",
        ],
        Fate::NotPossible,
        REGEX,
    ),
    (&["virtualhost"], Fate::NotPossible, "xvip's checks send the backend's address as Host"),
    (&["tls_compliant"], Fate::NotNeeded, "xvip's checks end their TLS connections properly"),
];

const fn table(context: Context) -> &'static [Row] {
    match context {
        Context::Root => ROOT,
        Context::Global => GLOBAL,
        Context::GarpGroup => GARP_GROUP,
        Context::Ssl => SSL,
        Context::Script => SCRIPT,
        Context::Process => PROCESS,
        Context::TrackFile => TRACK_FILE,
        Context::Bfd => BFD,
        Context::Instance => INSTANCE,
        Context::SyncGroup => SYNC_GROUP,
        Context::VirtualServer => VIRTUAL_SERVER,
        Context::RealServer => REAL_SERVER,
        Context::Checker => CHECKER,
        Context::Url => URL,
    }
}

/// What is known of a key word at its place.
pub fn find(context: Context, word: &str) -> Option<Known> {
    let row = table(context).iter().find(|(words, ..)| words.contains(&word));
    row.map(|(_, fate, note)| Known { fate: *fate, becomes: "", note })
}

/// The words that begin a block or stand at the top of a file, wherever they are found.
pub const ROOTS: [&str; 22] = [
    "global_defs",
    "vrrp_instance",
    "vrrp_script",
    "vrrp_sync_group",
    "vrrp_track_process",
    "vrrp_track_file",
    "track_file",
    "bfd_instance",
    "virtual_server",
    "virtual_server_group",
    "static_ipaddress",
    "static_routes",
    "static_rules",
    "track_group",
    "garp_group",
    "SSL",
    "linkbeat_interfaces",
    "interface_up_down_delays",
    "net_namespace",
    "net_namespace_ipvs",
    "linkbeat_use_polling",
    "instance",
];

/// Where else a word would be known.
pub fn elsewhere(word: &str) -> Option<&'static str> {
    const MODELLED: [(&str, &str); 24] = [
        ("state", "in a vrrp_instance"),
        ("priority", "in a vrrp_instance"),
        ("interface", "in a vrrp_instance"),
        ("virtual_router_id", "in a vrrp_instance"),
        ("advert_int", "in a vrrp_instance"),
        ("authentication", "in a vrrp_instance"),
        ("auth_type", "in the authentication of a vrrp_instance"),
        ("auth_pass", "in the authentication of a vrrp_instance"),
        ("virtual_ipaddress", "in a vrrp_instance"),
        ("unicast_peer", "in a vrrp_instance"),
        ("unicast_src_ip", "in a vrrp_instance"),
        ("track_script", "in a vrrp_instance or vrrp_sync_group"),
        ("track_interface", "in a vrrp_instance or vrrp_sync_group"),
        ("nopreempt", "in a vrrp_instance"),
        ("preempt_delay", "in a vrrp_instance"),
        ("router_id", "in global_defs"),
        ("vrrp_version", "in global_defs"),
        ("vrrp_strict", "in global_defs"),
        ("script_user", "in global_defs"),
        ("real_server", "in a virtual_server"),
        ("delay_loop", "in a virtual_server"),
        ("script", "in a vrrp_script"),
        ("rise", "in a vrrp_script"),
        ("fall", "in a vrrp_script"),
    ];
    let contexts = [
        (Context::Global, "in global_defs"),
        (Context::Instance, "in a vrrp_instance"),
        (Context::SyncGroup, "in a vrrp_sync_group"),
        (Context::VirtualServer, "in a virtual_server"),
        (Context::RealServer, "in a real_server"),
        (Context::Checker, "in a checker of a real_server"),
        (Context::Process, "in a vrrp_track_process"),
        (Context::Bfd, "in a bfd_instance"),
    ];
    let modelled = MODELLED.iter().find(|(known, _)| *known == word).map(|(_, place)| *place);
    let listed =
        || contexts.into_iter().find(|(context, _)| find(*context, word).is_some()).map(|(_, place)| place);
    let announcement = || word.starts_with("garp_").then_some("in a vrrp_instance");
    let root = || ROOTS.contains(&word).then_some("at the top of the file");
    modelled.or_else(listed).or_else(announcement).or_else(root)
}

/// `include` and its variants.
pub fn is_include(word: &str) -> bool {
    matches!(word, "include" | "includer" | "includem" | "includew" | "includeb" | "includea")
}
