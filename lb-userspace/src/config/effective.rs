//! A configuration as a file, with every default written out.

use std::{fmt::Write as _, path::Path};

use serde::Serialize;
use siphasher::sip::SipHasher13;

use super::{
    model::{
        AntiReplay, AuthHmac, Backend, Check, Config, ConnectionLog, Flows, Health, HmacKey, Hook,
        HookAction, Http, HttpTls, HttpUser, Log, LogTarget, Mode, Node, Rebalance, Service, StatsSocket,
        Sync, TlsVerify, Track, Tracked, VrrpInstance, VrrpVersion, duration_text, mode_text, size_text,
    },
    schema::{HMAC_MASK, PASS_MASK},
};

/// The configuration in the syntax of the file. [`super::parse()`] makes the same configuration of it, except for
/// passwords and secrets, which are masked.
pub fn effective(config: &Config) -> String {
    // Each struct is taken apart completely, so that a new field does not compile until it is written here.
    let Config { node, services, vrrp, flows, connection_log, sync, http, log, hooks, stats_socket } = config;
    let mut out = Writer(String::new());
    out.node(node);
    services.iter().for_each(|service| out.service(service));
    vrrp.iter().for_each(|instance| out.vrrp(instance));
    out.flows(flows);
    out.connection_log(connection_log);
    sync.iter().for_each(|sync| out.sync(sync));
    http.iter().for_each(|http| out.http(http));
    out.log(*log);
    hooks.iter().for_each(|hook| out.hook(hook));
    stats_socket.iter().for_each(|socket| out.stats_socket(socket));
    out.0
}

/// 16 hexadecimal digits that tell one configuration from another: a hash of [`effective`], so that of passwords and secrets
/// it tells only whether they are there. The same in every build that writes the same.
pub fn fingerprint(config: &Config) -> String {
    format!("{:016x}", SipHasher13::new().hash(effective(config).as_bytes()))
}

struct Writer(String);

impl Writer {
    fn header(&mut self, header: &str) {
        let blank = if self.0.is_empty() { "" } else { "\n" };
        self.line(format_args!("{blank}{header}"));
    }

    fn key(&mut self, key: &str, value: impl Serialize) {
        // What the model holds are texts, numbers, flags and lists of them; none of these can fail.
        if let Ok(value) = toml::Value::try_from(value) {
            self.line(format_args!("{key} = {value}"));
        }
    }

    fn path(&mut self, key: &str, path: Option<&Path>) {
        if let Some(path) = path {
            self.key(key, path.to_string_lossy());
        }
    }

    fn masked(&mut self, key: &str, mask: &str) {
        self.line(format_args!("{key} = \"{mask}\" # not shown"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{line}");
    }

    fn node(&mut self, node: &Node) {
        let Node { name, interfaces, xdp_mode, local_clients, pin_path, observe } = node;
        self.header("[node]");
        self.key("name", name);
        match interfaces.as_slice() {
            [interface] => self.key("interface", interface),
            several => self.key("interfaces", several),
        }
        self.key("xdp_mode", xdp_mode);
        self.key("local_clients", local_clients);
        self.path("pin_path", Some(pin_path));
        self.key("observe", observe);
    }

    fn service(&mut self, service: &Service) {
        let Service {
            name,
            vip,
            port,
            mode,
            snat,
            balance,
            vrrp,
            on_all_down,
            on_all_full,
            allow,
            new_connections_per_source,
            new_connections_burst,
            on_down,
            reset_rate,
            connection_log,
            rebalance,
            health,
            backends,
        } = service;
        self.header("[[service]]");
        self.key("name", name);
        self.key("vip", vip);
        self.key("port", port);
        self.key("mode", mode);
        if *mode == Mode::Nat {
            self.key("snat", snat);
        }
        self.key("balance", balance);
        if let Some(vrrp) = vrrp {
            self.key("vrrp", vrrp);
        }
        self.key("on_all_down", on_all_down);
        self.key("on_all_full", on_all_full);
        if !allow.is_empty() {
            self.key("allow", allow);
        }
        self.key("new_connections_per_source", new_connections_per_source);
        if *new_connections_per_source != 0 {
            self.key("new_connections_burst", new_connections_burst);
        }
        self.key("on_down", on_down);
        self.key("reset_rate", reset_rate);
        self.key("connection_log", connection_log);
        self.health(health);
        self.rebalance(*rebalance);
        for Backend { name, address, weight, max_connections } in backends {
            self.header("[[service.backend]]");
            self.key("name", name);
            self.key("address", address);
            self.key("weight", weight);
            self.key("max_connections", max_connections);
        }
    }

    fn health(&mut self, health: &Health) {
        let Health {
            check,
            interval,
            down_interval,
            fast_interval,
            timeout,
            rise,
            fall,
            slow_start,
            slow_start_rate,
        } = health;
        self.header("[service.health]");
        match check {
            Check::Tcp => self.key("check", "tcp"),
            Check::Tls { tls } => {
                self.key("check", "tls");
                self.tls(tls);
            }
            Check::Http { path, expect_status } => {
                self.key("check", "http");
                self.key("path", path);
                self.key("expect_status", expect_status);
            }
            Check::Https { path, expect_status, tls, token_file } => {
                self.key("check", "https");
                self.key("path", path);
                self.key("expect_status", expect_status);
                self.tls(tls);
                self.path("token_file", token_file.as_deref());
            }
        }
        self.key("interval", duration_text(*interval));
        self.key("down_interval", duration_text(*down_interval));
        self.key("fast_interval", duration_text(*fast_interval));
        self.key("timeout", duration_text(*timeout));
        self.key("rise", rise);
        self.key("fall", fall);
        self.key("slow_start", duration_text(*slow_start));
        self.key("slow_start_rate", slow_start_rate);
    }

    fn rebalance(&mut self, Rebalance { mode, rate, margin, floor }: Rebalance) {
        self.header("[service.rebalance]");
        self.key("mode", mode);
        self.key("rate", rate);
        self.key("margin", format_args!("{margin}%"));
        self.key("floor", floor);
    }

    fn tls(&mut self, tls: &TlsVerify) {
        let TlsVerify { verify, ca_file, client_cert, client_key } = tls;
        self.key("verify", verify);
        self.path("ca_file", ca_file.as_deref());
        self.path("client_cert", client_cert.as_deref());
        self.path("client_key", client_key.as_deref());
    }

    fn vrrp(&mut self, instance: &VrrpInstance) {
        let VrrpInstance {
            name,
            version,
            virtual_router_id,
            priority,
            advert_interval,
            preempt,
            preempt_delay,
            unicast_source,
            unicast_peers,
            auth_pass,
            checksum,
            auth_hmac,
            sync_group,
            virtual_mac,
            witnesses,
            tracks,
        } = instance;
        self.header("[[vrrp]]");
        self.key("name", name);
        self.key("version", version);
        self.key("virtual_router_id", virtual_router_id);
        self.key("priority", priority);
        self.key("advert_interval", duration_text(*advert_interval));
        self.key("preempt", preempt);
        self.key("preempt_delay", duration_text(*preempt_delay));
        if let Some(source) = unicast_source {
            self.key("unicast_source", source);
        }
        self.key("unicast_peers", unicast_peers);
        if auth_pass.is_some() {
            self.masked("auth_pass", PASS_MASK);
        }
        if *version == VrrpVersion::V3 {
            self.key("checksum", checksum);
        }
        if let Some(group) = sync_group {
            self.key("sync_group", group);
        }
        self.key("virtual_mac", virtual_mac);
        self.key("witness", witnesses);
        if let Some(hmac) = auth_hmac {
            self.auth_hmac(hmac);
        }
        tracks.iter().for_each(|track| self.track(track));
    }

    fn auth_hmac(&mut self, hmac: &AuthHmac) {
        let AuthHmac { keys, active_key, mode, anti_replay, time_window } = hmac;
        self.header("[vrrp.auth_hmac]");
        self.key("active_key", active_key);
        self.key("mode", mode);
        self.key("anti_replay", anti_replay);
        if *anti_replay == AntiReplay::Time {
            self.key("time_window", duration_text(*time_window));
        }
        for HmacKey { id, secret } in keys {
            self.header("[[vrrp.auth_hmac.key]]");
            self.key("id", id);
            match secret.file() {
                Some(file) => self.path("file", Some(file)),
                None => self.masked("value", HMAC_MASK),
            }
        }
    }

    fn track(&mut self, Track { what, weight }: &Track) {
        self.header("[[vrrp.track]]");
        match what {
            Tracked::Interface { interface } => {
                self.key("kind", "interface");
                self.key("interface", interface);
            }
            Tracked::Script { command, user, interval, timeout, rise, fall } => {
                self.key("kind", "script");
                self.key("command", command);
                self.key("user", user);
                self.key("interval", duration_text(*interval));
                self.key("timeout", duration_text(*timeout));
                self.key("rise", rise);
                self.key("fall", fall);
            }
        }
        self.key("weight", weight);
    }

    fn flows(&mut self, flows: &Flows) {
        let Flows { max, half_open_max, sources_max, idle_timeout, rebuild } = flows;
        self.header("[flows]");
        self.key("max", max);
        self.key("half_open_max", half_open_max);
        self.key("sources_max", sources_max);
        self.key("idle_timeout", duration_text(*idle_timeout));
        self.key("rebuild", duration_text(*rebuild));
    }

    fn connection_log(&mut self, log: &ConnectionLog) {
        let ConnectionLog { directory, skip_empty, max_size, files, journal } = log;
        self.header("[connection_log]");
        self.path("directory", Some(directory));
        self.key("skip_empty", skip_empty);
        self.key("max_size", size_text(*max_size));
        self.key("files", files);
        self.key("journal", journal);
    }

    fn sync(&mut self, Sync { listen, peers, key_file, keys: _, bandwidth }: &Sync) {
        self.header("[sync]");
        self.key("listen", listen);
        self.key("peers", peers);
        self.path("key_file", Some(key_file));
        self.key("bandwidth", bandwidth);
    }

    fn http(&mut self, http: &Http) {
        let Http { listen, path, anonymous, tls, session_lifetime, hide_version, users } = http;
        self.header("[http]");
        self.key("listen", listen);
        self.key("path", path);
        self.key("anonymous", anonymous);
        if let Some(HttpTls { cert_file, key_file, identity: _ }) = tls {
            self.path("cert_file", Some(cert_file));
            self.path("key_file", Some(key_file));
        }
        self.key("session_lifetime", duration_text(*session_lifetime));
        self.key("hide_version", hide_version);
        for HttpUser { name, password_hash: _, role } in users {
            self.header("[[http.user]]");
            self.key("name", name);
            self.masked("password_hash", PASS_MASK);
            self.key("role", role);
        }
    }

    fn log(&mut self, Log { target, format, level }: Log) {
        self.header("[log]");
        self.key("target", target);
        if target != LogTarget::Journal {
            self.key("format", format);
        }
        self.key("level", level);
    }

    fn hook(&mut self, Hook { action, timeout, on, names }: &Hook) {
        self.header("[[notify]]");
        match action {
            HookAction::Command { command, user } => {
                self.key("command", command);
                self.key("user", user);
            }
            HookAction::Url { url, ca_file } => {
                self.key("url", url);
                self.path("ca_file", ca_file.as_deref());
            }
        }
        self.key("timeout", duration_text(*timeout));
        self.key("on", on);
        self.key("names", names);
    }

    fn stats_socket(&mut self, StatsSocket { path, mode, group, level, timeout }: &StatsSocket) {
        self.header("[stats_socket]");
        self.path("path", Some(path));
        self.key("mode", mode_text(*mode));
        if let Some(group) = group {
            self.key("group", group);
        }
        self.key("level", level);
        self.key("timeout", duration_text(*timeout));
    }
}
