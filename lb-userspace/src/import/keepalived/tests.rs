//! Whole files: what became of their lines, what they mean, and what is wrong with them.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use super::*;
use crate::{
    config::model::{VrrpVersion, duration_text},
    import::{
        incumbent::{Authentication, Proxy, RouterInstance, RouterTracked, ServerAddress, ServerCheck},
        ledger::{Entry, Fate},
    },
};

/// A file, or the files of several nodes, as text.
struct Read {
    incumbent: Incumbent,
    lines: std::collections::BTreeMap<(FileId, usize), Vec<Entry>>,
    findings: Vec<crate::import::ledger::Finding>,
}

fn read_all(sources: &[Source]) -> Read {
    let (mut incumbent, mut ledger) = (Incumbent::default(), Ledger::default());
    for (index, source) in sources.iter().enumerate() {
        read(source, FileId(index), &mut incumbent, &mut ledger);
    }
    lint(&incumbent, &mut ledger);
    let (lines, findings) = ledger.close(sources, |_, line| is_blank(line));
    Read { incumbent, lines, findings }
}

fn read_text(text: &str) -> Read {
    read_all(&[Source::new("keepalived.conf", text.as_bytes())])
}

/// An instance with these lines, valid apart from them.
fn with_lines(lines: &str) -> Read {
    read_text(&format!(
        "vrrp_instance VI {{\n{lines}\ninterface eth0\nvirtual_router_id 60\nvirtual_ipaddress {{ 10.0.0.10/24 }}\n}}\n"
    ))
}

impl Read {
    fn instance(&self) -> &RouterInstance {
        &self.incumbent.routers[0].instances[0]
    }

    /// Fates of a line, by its number.
    fn fates(&self, line: usize) -> Vec<Fate> {
        self.lines[&(FileId(0), line)].iter().map(|entry| entry.fate).collect()
    }

    fn ids(&self) -> Vec<&str> {
        self.findings.iter().map(|finding| finding.id).collect()
    }
}

/// Files that are read together; what must come out stands in `NAME.expected`, the name being the first file's.
const GOLDEN: [&[&str]; 8] = [
    &["s0-lb1.conf", "s0-lb2.conf"],
    &["s1-master1.conf", "s1-master2.conf", "s1-master3.conf"],
    &["s2-lb1.conf", "s2-lb2.conf"],
    &["s4-lb1.conf", "s4-lb2.conf"],
    &["hosts.conf"],
    &["lvs.conf"],
    &["broken.conf"],
    &["everything-else.conf"],
];

fn golden_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/import/keepalived")
}

pub(super) fn golden_sources(names: &[&str]) -> Vec<Source> {
    let directory = golden_directory();
    names.iter().map(|name| Source::new(*name, &std::fs::read(directory.join(name)).unwrap())).collect()
}

/// `XVIP_BLESS=1` writes what comes out; look at the difference.
#[test]
fn golden_files() {
    for names in GOLDEN {
        let sources = golden_sources(names);
        let shown = show(&read_all(&sources), &sources);
        let path = golden_directory().join(names[0]).with_extension("expected");
        if std::env::var_os("XVIP_BLESS").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(shown == expected, "{}:\n{shown}", path.display());
    }
}

/// What [`Ledger::close`] says of a line that no reader said anything of.
pub(super) const FORGOTTEN: &str = "nothing is known of this line";

#[test]
fn no_line_is_forgotten() {
    for names in GOLDEN {
        let sources = golden_sources(names);
        let read = read_all(&sources);
        let lines: usize = sources.iter().map(|source| source.lines().count()).sum();
        assert_eq!(read.lines.len(), lines, "{names:?}");
        for ((file, line), entries) in &read.lines {
            for entry in entries {
                assert_ne!(entry.note, FORGOTTEN, "{}:{line}", names[file.0]);
                let silent = matches!(entry.fate, Fate::Exact | Fate::Blank);
                assert!(silent || !entry.note.is_empty(), "{}:{line} {entry:?}", names[file.0]);
                let text = sources[file.0].lines().nth(line - 1).unwrap();
                assert!(
                    entry.place.column <= text.chars().count().max(1),
                    "{}:{line} {entry:?}",
                    names[file.0]
                );
            }
        }
    }
}

/// Found by the fuzz: the line with the process was forgotten because of the one without.
#[test]
fn a_process_without_a_name_changes_nothing() {
    let read = read_text("vrrp_track_process etcd {\n process /usr/bin/etcd\n process\n}\n");
    assert_eq!((read.fates(2), read.fates(3)), (vec![Fate::Approximate], vec![Fate::SyntaxError]));
}

#[test]
fn secrets_are_in_no_entry_and_no_finding() {
    for names in GOLDEN {
        let read = read_all(&golden_sources(names));
        let said = format!("{:?} {:?}", read.lines, read.findings);
        for secret in ["1111", "123456", "Admin123", "just0kk", "longer-than", "00010203"] {
            assert!(!said.contains(secret), "{names:?}: {secret}");
        }
    }
}

fn show(read: &Read, sources: &[Source]) -> String {
    let mut out = String::new();
    for ((file, line), entries) in &read.lines {
        if *line == 1 {
            writeln!(out, "== {}", sources[file.0].name).unwrap();
        }
        for Entry { place, fate, becomes, note } in entries.iter().filter(|entry| entry.fate != Fate::Blank) {
            let fate = serde_json::to_string(fate).unwrap();
            let becomes = if becomes.is_empty() { String::new() } else { format!(" {becomes}") };
            let note = if note.is_empty() { String::new() } else { format!(" ({note})") };
            writeln!(out, "{place} {}:{becomes}{note}", fate.trim_matches('"')).unwrap();
        }
    }
    writeln!(out, "== model").unwrap();
    for node in &read.incumbent.routers {
        let name = node.name.as_ref().map_or("-", |name| &name.value);
        writeln!(out, "node {name} of file {}", node.file.0).unwrap();
        for instance in &node.instances {
            show_instance(instance, &mut out);
        }
        for (name, members) in &node.sync_groups {
            writeln!(out, "  sync group {}: {members:?}", name.value).unwrap();
        }
    }
    for proxy in &read.incumbent.proxies {
        show_proxy(proxy, &mut out);
    }
    writeln!(out, "== findings").unwrap();
    for finding in &read.findings {
        let places: Vec<_> = finding.places.iter().map(|place| format!("{}:{place}", place.file.0)).collect();
        writeln!(out, "{} at {}: {}", finding.id, places.join(", "), finding.message).unwrap();
    }
    out
}

fn show_instance(instance: &RouterInstance, out: &mut String) {
    writeln!(
        out,
        "  instance {} on {:?}: VRID {}, priority {}, {:?}, every {}, master {}, preempt {} after {}",
        instance.name.value,
        instance.interface.value,
        instance.virtual_router_id.value,
        instance.priority.value,
        instance.version,
        duration_text(instance.advert_interval),
        instance.begins_as_master,
        instance.no_preempt.is_none(),
        duration_text(instance.preempt_delay),
    )
    .unwrap();
    let authentication = match &instance.authentication {
        Authentication::None => "none".to_owned(),
        Authentication::Password(password) => format!("password {:?}", password.value),
        Authentication::Header(_) => "AH".to_owned(),
        Authentication::Hmac(hmac) => format!(
            "HMAC, {} keys, active {:?}, mode {:?}, replay {:?}, window {:?}",
            hmac.keys.len(),
            hmac.active_key,
            hmac.mode,
            hmac.anti_replay,
            hmac.time_window
        ),
    };
    let (mac, checksum) = (instance.virtual_mac.is_some(), instance.checksum_as_v2);
    writeln!(out, "    authentication: {authentication}; virtual MAC {mac}; checksum as v2 {checksum}")
        .unwrap();
    let peers: Vec<_> = instance.unicast_peers.iter().map(|peer| peer.value).collect();
    let source = instance.unicast_source.as_ref().map(|source| source.value);
    writeln!(out, "    from {source:?} to {peers:?}").unwrap();
    for vip in &instance.vips {
        let vip = &vip.value;
        let kind = if vip.advertised { "advertised" } else { "follows" };
        writeln!(out, "    VIP {}/{} {kind} {:?}", vip.address, vip.prefix_len, vip.interface).unwrap();
    }
    for track in &instance.tracks {
        let what = match &track.what {
            RouterTracked::Script(script) => format!(
                "script {} {:?}, balancer {}, every {} within {:?}, rise {}, fall {}, user {:?}",
                script.name.value,
                script.command,
                script.asks_for_balancer,
                duration_text(script.interval),
                script.timeout,
                script.rise,
                script.fall,
                script.user
            ),
            other => format!("{other:?}"),
        };
        writeln!(out, "    track {what}, weight {}", track.weight).unwrap();
    }
    for hook in &instance.hooks {
        writeln!(out, "    {} {:?}", hook.directive, hook.command).unwrap();
    }
}

fn show_proxy(proxy: &Proxy, out: &mut String) {
    let binds: Vec<_> = proxy.binds.iter().map(|bind| bind.value).collect();
    let pool = &proxy.pool;
    let timeout = pool.check_timeout.as_ref().map(|timeout| duration_text(timeout.value));
    writeln!(out, "proxy {}: {binds:?}", proxy.name.value).unwrap();
    writeln!(out, "  {:?}, {:?}, check within {timeout:?}", pool.balance.value, pool.check.value).unwrap();
    for server in &pool.servers {
        writeln!(
            out,
            "  server {} {:?}, weight {}, at most {}, checked {}, backup {}, every {}, then {:?}, rise {}, fall {}",
            server.name.value,
            server.address,
            server.weight,
            server.max_connections,
            server.checked,
            server.backup,
            duration_text(server.interval),
            server.fast_interval.map(duration_text),
            server.rise,
            server.fall
        )
        .unwrap();
    }
}

#[test]
fn defaults_are_keepaliveds() {
    let read = with_lines("");
    let instance = read.instance();
    assert_eq!(instance.priority.value, 100);
    assert_eq!(instance.version, VrrpVersion::V2);
    assert_eq!(instance.advert_interval, Duration::from_secs(1));
    assert!(!instance.begins_as_master && instance.no_preempt.is_none());
    assert_eq!(instance.authentication, Authentication::None);
    // `state MASTER` alone makes an address owner.
    assert_eq!(with_lines("state MASTER").instance().priority.value, 255);
    assert!(with_lines("priority 255").instance().begins_as_master);
}

#[test]
fn what_keepalived_ignores_is_ignored() {
    for (lines, line, fate) in [
        ("state MASTER\npriority 100\nnopreempt", 4, Fate::NotNeeded),
        ("priority 255\nnopreempt", 3, Fate::NotNeeded),
        ("nopreempt\npreempt", 2, Fate::NotNeeded),
        ("nopreempt\npreempt_delay 5", 3, Fate::NotNeeded),
        ("state MASTER\npriority 9\npreempt_delay 5", 4, Fate::NotNeeded),
        ("version 3\nauthentication {\nauth_type PASS\nauth_pass abc\n}", 5, Fate::NotNeeded),
        ("authentication {\nauth_pass abc\n}", 3, Fate::NotNeeded),
        ("authentication {\nauth_type PASS\n}", 3, Fate::NotNeeded),
        ("advert_int 1\nadvert_int 2", 2, Fate::NotNeeded),
        ("authentication {\nauth_type PASS\nauth_pass one\nauth_pass two\n}", 4, Fate::NotNeeded),
    ] {
        let read = with_lines(lines);
        assert_eq!(read.fates(line), [fate], "{lines}");
    }
    assert!(with_lines("nopreempt").instance().no_preempt.is_some());
    assert!(with_lines("state MASTER\nnopreempt").instance().no_preempt.is_none());
    let twice = with_lines("authentication {\nauth_type PASS\nauth_pass one\nauth_pass two\n}");
    assert!(
        matches!(&twice.instance().authentication, Authentication::Password(pass) if pass.value == "two")
    );
    assert_eq!(
        with_lines("version 3\nauthentication { auth_pass x }").instance().authentication,
        Authentication::None
    );
}

#[test]
fn values_out_of_range_become_what_keepalived_makes_of_them() {
    for (line, priority) in
        [("priority 300", 100), ("priority 0", 100), ("priority x", 100), ("priority 1x", 100)]
    {
        let read = with_lines(line);
        assert_eq!(
            (read.instance().priority.value, read.fates(2)),
            (priority, vec![Fate::Approximate]),
            "{line}"
        );
    }
    for (line, interval, fate) in [
        ("advert_int 1", 1000, Fate::Exact),
        ("advert_int 1.5", 2000, Fate::Approximate),
        ("advert_int 0.2", 1000, Fate::Approximate),
        ("advert_int 3s", 3000, Fate::Approximate),
        ("advert_int 256", 1000, Fate::Approximate),
        ("version 3\nadvert_int 0.25", 250, Fate::Exact),
        ("version 3\nadvert_int 100", 40_950, Fate::Approximate),
        ("version 3\nadvert_int 0.014", 10, Fate::Approximate),
    ] {
        let read = with_lines(line);
        let number = 1 + line.lines().count();
        let got = (read.instance().advert_interval, read.fates(number));
        assert_eq!(got, (Duration::from_millis(interval), vec![fate]), "{line}");
    }
}

#[test]
fn passwords_are_cut_to_eight_bytes_at_a_character() {
    for (given, kept, fate) in [
        ("12345678", "12345678", Fate::Exact),
        ("123456789", "12345678", Fate::Approximate),
        ("1234567\u{e9}x", "1234567", Fate::Approximate),
        // A comment begins in the middle of a word.
        ("abc#def", "abc", Fate::Exact),
        ("abc!def", "abc", Fate::Exact),
        ("\"a#b c\"", "a#b c", Fate::Exact),
        ("a\\#b", "a#b", Fate::Exact),
    ] {
        let read = with_lines(&format!("authentication {{\nauth_type PASS\nauth_pass {given}\n}}"));
        let Authentication::Password(password) = &read.instance().authentication else { panic!("{given}") };
        assert_eq!((password.value.as_str(), read.fates(4)), (kept, vec![fate]), "{given}");
    }
}

#[test]
fn a_vrid_that_cannot_be_is_no_instance_but_each_line_is_judged() {
    let read = read_text(
        "vrrp_instance VI {\nvirtual_router_id 0\nadvert_int 2\nnopreempt\nauthentication {\nauth_type PASS\nauth_pass x\n}\n\
         virtual_ipaddress_excluded {\n10.0.0.1\n}\npreempt_delay 3\n}\n",
    );
    assert_eq!(read.incumbent.routers[0].instances, []);
    assert_eq!(read.fates(2), [Fate::SyntaxError]);
    for entry in read.lines.values().flatten() {
        assert_ne!(entry.note, FORGOTTEN, "{entry:?}");
    }
}

/// The key words of keepalived 2.2.7 and of all versions up to 2.4.3, as its parsers install them (`install_keyword` in
/// `global_parser.c`, `vrrp_parser.c`, `check_*.c`, `track_file.c`, `bfd_parser.c`), by the block that they stand in.
const KEY_WORDS: [(&str, &str); 16] = [
    (
        "",
        "linkbeat_use_polling net_namespace net_namespace_ipvs namespace_with_ipsets use_pid_dir instance child_wait_time",
    ),
    (
        "global_defs",
        "process_names process_name vrrp_process_name checker_process_name lvs_process_name bfd_process_name use_symlink_paths \
         set_supplementary_groups router_id notification_email_from smtp_server smtp_helo_name smtp_connect_timeout smtp_alert \
         startup_script startup_script_timeout shutdown_script shutdown_script_timeout max_auto_priority min_auto_priority_delay \
         smtp_alert_vrrp smtp_alert_checker checker_log_all_failures dynamic_interfaces no_email_faults default_interface \
         disable_local_igmp v3_checksum_as_v2 lvs_timeouts lvs_flush lvs_flush_on_stop lvs_flush_onstop lvs_sync_daemon \
         vrrp_mcast_group4 vrrp_mcast_group6 vrrp_garp_master_delay vrrp_garp_master_repeat vrrp_garp_master_refresh \
         vrrp_garp_master_refresh_repeat vrrp_garp_lower_prio_delay vrrp_garp_lower_prio_repeat vrrp_down_timer_adverts \
         vrrp_garp_interval vrrp_gna_interval vrrp_min_garp vrrp_garp_extra_if vrrp_vmac_garp_intvl vrrp_lower_prio_no_advert \
         vrrp_higher_prio_send_advert vrrp_version vrrp_iptables vrrp_ipsets nftables nftables_priority nftables_ifindex \
         vrrp_check_unicast_src vrrp_skip_check_adv_addr vrrp_strict vrrp_priority vrrp_no_swap vrrp_rt_priority \
         vrrp_cpu_affinity vrrp_rlimit_rttime vrrp_rlimit_rtime nftables_ipvs nftables_ipvs_priority nftables_ipvs_start_fwmark \
         nftables_counters notify_fifo notify_fifo_script vrrp_notify_fifo vrrp_notify_fifo_script vrrp_notify_priority_changes \
         fifo_write_vrrp_states_on_reload lvs_notify_fifo lvs_notify_fifo_script checker_priority checker_no_swap \
         checker_rt_priority checker_cpu_affinity checker_rlimit_rttime checker_rlimit_rtime bfd_priority bfd_no_swap \
         bfd_rt_priority bfd_cpu_affinity bfd_rlimit_rttime bfd_rlimit_rtime snmp_socket enable_traps enable_snmp_vrrp \
         enable_snmp_keepalived enable_snmp_rfc enable_snmp_rfcv2 enable_snmp_rfcv3 enable_snmp_checker \
         snmp_vs_stats_update_interval snmp_rs_stats_update_interval enable_dbus dbus_service_name dbus_no_interface_name \
         script_user enable_script_security vrrp_netlink_cmd_rcv_bufs vrrp_netlink_cmd_rcv_bufs_force \
         vrrp_netlink_monitor_rcv_bufs vrrp_netlink_monitor_rcv_bufs_force process_monitor_rcv_bufs \
         process_monitor_rcv_bufs_force lvs_netlink_cmd_rcv_bufs lvs_netlink_cmd_rcv_bufs_force lvs_netlink_monitor_rcv_bufs \
         lvs_netlink_monitor_rcv_bufs_force rs_init_notifies no_checker_emails vrrp_rx_bufs_policy vrrp_rx_bufs_multiplier \
         vrrp_startup_delay vrrp_delay_after_boot log_unknown_vrids vrrp_owner_ignore_adverts vmac_prefix vmac_addr_prefix umask \
         random_seed reload_check_config reload_time_file reload_repeat reload_file include_check config_save_dir \
         tmp_config_directory data_use_instance json_version iproute_usr_dir iproute_etc_dir state_dump_file stats_dump_file \
         json_dump_file",
    ),
    ("garp_group", "garp_interval gna_interval interface"),
    ("SSL", "password ca certificate key"),
    ("vrrp_script n", "script interval timeout weight rise fall user init_fail"),
    (
        "vrrp_track_process n",
        "process param_match weight quorum quorum_max delay terminate_delay fork_delay full_command",
    ),
    ("track_file n", "file weight init_file"),
    ("vrrp_track_file n", "file weight init_file"),
    (
        "bfd_instance n",
        "source_ip neighbor_ip neighbour_ip min_rx min_tx idle_tx multiplier passive ttl hoplimit max_hops multihop vrrp checker \
         weight",
    ),
    (
        "vrrp_sync_group n",
        "notify_backup notify_master notify_fault notify_stop notify smtp_alert global_tracking sync_group_tracking_weight \
         notify_priority_changes",
    ),
    (
        "vrrp_instance n",
        "use_vmac use_vmac_addr vmac_xmit_base use_ipvlan unicast_fault_no_peer check_unicast_src old_unicast_checksum \
         native_ipv6 state interface vrf dont_track_primary mcast_src_ip unicast_src_ip mcast_dst_ip track_src_ip \
         virtual_router_id unicast_ttl version priority advert_int no_virtual_ipaddress promote_secondaries \
         linkbeat_use_polling v3_checksum_as_v2 accept no_accept skip_check_adv_addr strict_mode preempt nopreempt \
         preempt_delay debug notify_backup notify_master notify_fault notify_stop notify_deleted notify \
         notify_master_rx_lower_pri smtp_alert notify_priority_changes lvs_sync_daemon_interface garp_master_delay \
         garp_master_refresh garp_master_repeat garp_master_refresh_repeat garp_lower_prio_delay garp_lower_prio_repeat \
         down_timer_adverts timer_expired_backup thread_timer_expired garp_extra_if vmac_garp_intvl lower_prio_no_advert \
         higher_prio_send_advert owner_ignore_adverts kernel_rx_buf_size",
    ),
    ("vrrp_instance n {\nauth_hmac", "key active_key time_window anti_replay mode"),
    (
        "virtual_server 10.0.0.1 80",
        "ip_family retry delay_before_retry warmup connect_timeout delay_loop inhibit_on_failure lb_algo lvs_sched hashed ops \
         flag-1 flag-2 flag-3 sh-port sh-fallback mh-port mh-fallback lb_kind lvs_method persistence_engine \
         persistence_timeout persistence_granularity ha_suspend smtp_alert virtualhost snmp_name alpha omega quorum_up \
         quorum_down quorum hysteresis weight sorry_server sorry_server_inhibit sorry_server_lvs_method",
    ),
    (
        "virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80",
        "weight lvs_method uthreshold lthreshold inhibit_on_failure notify_up notify_down alpha retry delay_before_retry warmup \
         connect_timeout delay_loop smtp_alert virtualhost snmp_name",
    ),
    (
        "virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80 {\nHTTP_GET",
        "connect_ip connect_port bindto bind_port bind_if connect_timeout fwmark retry delay_before_retry warmup delay_loop alpha \
         log_all_failures nb_get_retry virtualhost http_protocol enable_sni sni_name fast_recovery tls_compliant helo_name type \
         name misc_path misc_timeout misc_dynamic user payload require_reply min_reply_length max_reply_length track_file weight",
    ),
    (
        "virtual_server 10.0.0.1 80 {\nreal_server 10.0.0.2 80 {\nHTTP_GET {\nurl",
        "path digest status_code virtualhost regex regex_no_match regex_options regex_min_offset regex_max_offset regex_stack \
         tls_compliant",
    ),
];

#[test]
fn all_key_words_of_keepalived_are_known() {
    for (block, words) in KEY_WORDS {
        for word in words.split_whitespace() {
            let opened = block.matches('{').count() + usize::from(!block.is_empty());
            let begin = if block.is_empty() { String::new() } else { format!("{block} {{\n") };
            let read = read_text(&format!("{begin}{word} 1 1\n{}", "}\n".repeat(opened)));
            let entries = &read.lines[&(FileId(0), 1 + opened)];
            assert!(entries.iter().all(|entry| entry.fate != Fate::Unknown), "{block} {word}: {entries:?}");
        }
    }
    // Blocks within blocks, which are no lines of words.
    for text in [
        "track_group g {\ngroup {\nVI\n}\n}",
        "static_ipaddress {\n10.0.0.1 dev eth0\n}",
        "static_routes {\n10.0.0.0/8 via 10.0.0.1\n}",
        "static_rules {\nfrom 10.0.0.1\n}",
        "linkbeat_interfaces {\neth0 MII\n}",
        "interface_up_down_delays {\neth0 1 2\n}",
        "garp_group {\ninterfaces {\neth0\n}\n}",
        "vrrp_instance n {\nvirtual_routes {\ndefault via 10.0.0.1\n}\nvirtual_rules {\nfrom 10.0.0.1\n}\n}",
        "vrrp_instance n {\ntrack_file {\nf\n}\ntrack_bfd {\nb\n}\ntrack_interface {\neth1\n}\n}",
    ] {
        let read = read_text(text);
        for entry in read.lines.values().flatten() {
            assert!(entry.fate != Fate::Unknown, "{text}: {entry:?}");
        }
    }
}

#[test]
fn words_in_the_wrong_place_are_unknown_and_said_where_they_belong() {
    let read = read_text("global_defs {\ngarp_master_delay 3\npriority 100\n}\nrouter_id x\n");
    for (line, place) in [(2, "vrrp_instance"), (3, "vrrp_instance"), (5, "global_defs")] {
        let entry = &read.lines[&(FileId(0), line)][0];
        assert_eq!(entry.fate, Fate::Unknown);
        assert!(entry.note.contains(place), "{entry:?}");
    }
}

#[test]
fn syntax_errors_name_line_and_column() {
    for (text, line, column) in [
        ("}\n", 1, 1),
        ("global_defs {\n", 1, 13),
        ("global_defs\n", 1, 1),
        ("{ }\n", 1, 1),
        ("vrrp_instance VI {\n  virtual_router_id 256\n}\n", 2, 3),
        ("vrrp_instance VI {\n  interface \"eth0\n}\n", 2, 13),
        ("vrrp_instance VI {\n  unicast_peer { 10.0.0.1\n    x }\n}\n", 3, 5),
        ("vrrp_instance VI {\n  priority 100 { }\n}\n", 2, 16),
    ] {
        let read = read_text(text);
        let errors: Vec<_> = read
            .lines
            .values()
            .flatten()
            .filter(|entry| entry.fate == Fate::SyntaxError)
            .map(|entry| (entry.place.line, entry.place.column))
            .collect();
        assert!(errors.contains(&(line, column)), "{text}: {errors:?}");
    }
}

#[test]
fn brackets_may_stand_anywhere() {
    let one_line = "vrrp_instance VI{ interface eth0\nvirtual_router_id 7 }";
    let many = "vrrp_instance VI\n{\ninterface eth0\nvirtual_router_id 7\n}\n";
    let read = |text| {
        let read = read_text(text);
        let instance = read.instance();
        (instance.name.value.clone(), instance.interface.value.clone(), instance.virtual_router_id.value)
    };
    assert_eq!(read(one_line), read(many));
    assert_eq!(read(many), ("VI".to_owned(), "eth0".to_owned(), 7));
    // Not in quotation marks.
    let script = read_text(
        "vrrp_script s {\nscript \"/bin/sh -c 'a { b }'\"\n}\nvrrp_instance VI {\nvirtual_router_id 1\ntrack_script { s }\n}\n",
    );
    let RouterTracked::Script(script) = &script.instance().tracks[0].what else { panic!() };
    assert_eq!(script.command, ["/bin/sh", "-c", "a { b }"]);
}

#[test]
fn scripts_that_ask_for_the_balancer_are_told_from_others() {
    let read = |script: &str| {
        let read = read_text(&format!(
            "vrrp_script s {{\nscript \"{script}\"\nweight -5\n}}\nvrrp_instance VI {{\nvirtual_router_id 1\ntrack_script {{\ns weight 20\n}}\n}}\n"
        ));
        let track = &read.instance().tracks[0];
        let RouterTracked::Script(script) = &track.what else { panic!() };
        (script.asks_for_balancer, track.weight, read.fates(2))
    };
    assert_eq!(read("killall -0 haproxy"), (true, 20, vec![Fate::Improved]));
    assert_eq!(read("/usr/bin/ping -c 1 10.0.0.1"), (false, 20, vec![Fate::Exact]));
}

#[test]
fn scripts_are_run_by_their_own_user_or_the_files() {
    let user = |own: &str| {
        let read = read_text(&format!(
            "vrrp_script s {{\nscript /bin/check\n{own}\n}}\nvrrp_instance VI {{\nvirtual_router_id 1\ntrack_script {{ s }}\n}}\n\
             global_defs {{\nscript_user checker\n}}\n"
        ));
        let RouterTracked::Script(script) = &read.instance().tracks[0].what else { panic!() };
        script.user.clone()
    };
    assert_eq!(user(""), Some("checker".to_owned()));
    assert_eq!(user("user nobody"), Some("nobody".to_owned()));
}

#[test]
fn groups_give_their_first_instance_what_they_track_and_run() {
    let read = read_all(&golden_sources(&["everything-else.conf"]));
    let node = &read.incumbent.routers[0];
    assert_eq!(node.sync_groups.len(), 1);
    assert_eq!(node.sync_groups[0].1, ["V4", "V6"]);
    let tracks = |name: &str| {
        let instance = node.instances.iter().find(|instance| instance.name.value == name).unwrap();
        instance.tracks.iter().filter(|track| track.what == RouterTracked::Interface("eth1".into())).count()
    };
    assert_eq!((tracks("V4"), tracks("V6")), (1, 0));
}

#[test]
fn a_virtual_server_is_a_proxy() {
    let read = read_all(&golden_sources(&["lvs.conf"]));
    let pool = &read.incumbent.proxies[0].pool;
    assert_eq!(
        pool.check.value,
        ServerCheck::Http { tls: true, path: "/healthz".into(), expect: vec![200], ca_file: None }
    );
    assert_eq!(pool.servers[0].address, ServerAddress::Ip("10.4.7.11:6443".parse().unwrap()));
    assert_eq!((pool.servers[0].fall, pool.servers[0].fast_interval), (4, Some(Duration::from_secs(2))));
    assert_eq!(pool.servers[0].interval, Duration::from_secs(6));
    // UDP, firewall marks: not ours.
    assert_eq!(read.incumbent.proxies.len(), 2);
}

#[test]
fn the_seeds_have_the_findings_that_were_foreseen() {
    let ids = |names: &[&str]| {
        let read = read_all(&golden_sources(names));
        let mut ids: Vec<String> = read.ids().into_iter().map(str::to_owned).collect();
        ids.dedup();
        ids
    };
    assert_eq!(ids(GOLDEN[0]), ["W5", "W6", "W9"]);
    assert_eq!(ids(GOLDEN[1]), ["W5", "W7", "W9"]);
    assert_eq!(ids(GOLDEN[2]), ["W5", "W7", "W9"]);
    assert_eq!(ids(GOLDEN[3]), ["W6"]);
}
