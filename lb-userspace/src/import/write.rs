//! A plan as the text of an `xvip.toml`: each key with the line that it came from.

use std::{fmt::Display, net::IpAddr};

use super::{
    incumbent::HmacAuthentication,
    plan::{
        BackendPlan, CheckPlan, HealthPlan, HookPlan, Idle, InstancePlan, Key, NodePlan, PagePlan,
        ServicePlan, SocketPlan, TrackPlan, TrackedPlan,
    },
    source::{Place, Source},
};
use crate::config::model::{Balance, VrrpVersion, duration_text};

/// No comment is longer.
const WIDTH: usize = 100;
/// Where the comments behind keys begin at most.
const FARTHEST: usize = 44;

/// The text of a node's file. `hash` makes what `[[http.user]]` has of a password; where it cannot, the user is left out,
/// and a comment says so.
pub fn write(plan: &NodePlan, sources: &[Source], hash: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = Writer { sources, ..Writer::default() };
    out.heading(plan);
    out.node(plan);
    plan.services.iter().for_each(|service| out.service(service));
    plan.instances.iter().for_each(|instance| out.instance(instance));
    out.flows(plan);
    if let Some(place) = plan.skip_empty {
        out.table("[connection_log]");
        out.key("skip_empty", "true", &Key::new((), Some(place)));
    }
    plan.hooks.iter().for_each(|hook| out.hook(hook));
    out.sync(plan);
    if let Some(page) = &plan.page {
        out.page(page, hash);
    }
    if let Some(socket) = &plan.stats_socket {
        out.stats_socket(socket);
    }
    out.flush();
    out.text
}

#[derive(Default)]
struct Writer<'s> {
    text: String,
    sources: &'s [Source],
    /// Of the table that is being written: keys with their comments, and whole lines.
    lines: Vec<(String, String)>,
}

impl Writer<'_> {
    /// Ends the table: the comments of its keys stand below each other.
    fn flush(&mut self) {
        let width = |line: &str| line.chars().count();
        let commented = self.lines.iter().filter(|(_, comment)| !comment.is_empty());
        let column =
            commented.map(|(line, _)| width(line)).filter(|width| *width <= FARTHEST).max().unwrap_or(0);
        for (line, comment) in self.lines.drain(..) {
            self.text.push_str(&line);
            if !comment.is_empty() {
                let blanks = column.saturating_sub(width(&line)) + 2;
                self.text.extend(std::iter::repeat_n(' ', blanks));
                self.text.push_str("# ");
                self.text.push_str(&comment);
            }
            self.text.push('\n');
        }
    }

    fn table(&mut self, header: &str) {
        self.flush();
        self.line("");
        self.line(header);
    }

    fn line(&mut self, line: impl Into<String>) {
        self.lines.push((line.into(), String::new()));
    }

    /// A comment of its own, in as many lines as it needs.
    fn comment(&mut self, text: &str) {
        let mut line = String::from("#");
        for word in plain(text).split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line.len() > 1 {
                let full = std::mem::replace(&mut line, String::from("#"));
                self.line(full);
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(line);
    }

    fn key<T>(&mut self, name: &str, value: impl Display, key: &Key<T>) {
        if !key.check.is_empty() {
            self.comment(&format!("CHECK: {}", key.check));
        }
        self.lines.push((format!("{name} = {value}"), self.origin(key.from)));
    }

    fn origin(&self, from: Option<Place>) -> String {
        from.map_or_else(String::new, |place| {
            let name = self.sources.get(place.file.0).map_or("?", |source| source.name.as_str());
            format!("{}:{}", plain(name), place.line)
        })
    }

    fn heading(&mut self, plan: &NodePlan) {
        let names: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        self.comment(&format!("Written by `xvip import` for {}, from {}.", plan.file_name, names.join(", ")));
        self.line("#");
        self.comment(
            "Behind a key is the line that it came from. CHECK marks what somebody should look at. `xvip check` shows every value \
             in effect, `xvip doctor` whether this machine is ready.",
        );
    }

    fn node(&mut self, plan: &NodePlan) {
        self.table("[node]");
        if let Some(name) = &plan.name {
            self.key("name", quoted(&name.value), name);
        }
        self.key("interface", quoted(&plan.interface.value), &plan.interface);
    }

    fn service(&mut self, service: &ServicePlan) {
        self.table("[[service]]");
        self.key("name", quoted(&service.name.value), &service.name);
        self.key("vip", quoted(&service.vip.value.to_string()), &service.vip);
        self.key("port", service.port.value, &service.port);
        match &service.vrrp {
            Some(vrrp) => self.line(format!("vrrp = {}", quoted(vrrp))),
            None => self.comment(
                "CHECK: no VRRP instance owns this VIP, so that xvip never touches the address: something else must bring \
                 the packets here.",
            ),
        }
        let balance = match service.balance.value {
            Balance::Maglev => "maglev",
            Balance::RoundRobin => "round-robin",
            Balance::LeastConnections => "least-connections",
        };
        self.key("balance", quoted(balance), &service.balance);
        if let Some(first) = service.allow.first() {
            let networks: Vec<String> =
                service.allow.iter().map(|network| quoted(&network.value.to_string())).collect();
            self.key("allow", format!("[{}]", networks.join(", ")), &Key::new((), first.from));
        }
        if let Some(place) = service.connection_log {
            self.key("connection_log", "true", &Key::new((), Some(place)));
        }
        self.health(&service.health);
        service.backends.iter().for_each(|backend| self.backend(backend));
    }

    fn health(&mut self, health: &HealthPlan) {
        self.table("[service.health]");
        let (kind, path, ca_file) = match &health.check.value {
            CheckPlan::Tcp => ("tcp", None, None),
            CheckPlan::Tls(ca_file) => ("tls", None, Some(ca_file)),
            CheckPlan::Http(path, expect) => ("http", Some((path, expect)), None),
            CheckPlan::Https(path, expect, ca_file) => ("https", Some((path, expect)), Some(ca_file)),
        };
        if !health.check.check.is_empty() {
            self.comment(&format!("CHECK: {}", health.check.check));
        }
        if path.is_none() {
            self.line("#check = \"https\"");
            self.line("#path = \"/readyz\"");
        }
        self.key("check", quoted(kind), &Key::new((), health.check.from));
        if let Some((path, expect)) = path {
            self.key("path", quoted(path), &Key::new((), health.check.from));
            let expect: Vec<String> = expect.iter().map(u16::to_string).collect();
            self.line(format!("expect_status = [{}]", expect.join(", ")));
        }
        match ca_file {
            Some(Some(file)) => {
                self.line("verify = \"ca\"");
                self.line(format!("ca_file = {}", quoted(file)));
            }
            Some(None) => self.line("verify = \"none\""),
            None => {}
        }
        for (name, key) in [
            ("interval", &health.interval),
            ("down_interval", &health.down_interval),
            ("fast_interval", &health.fast_interval),
            ("timeout", &health.timeout),
        ] {
            self.key(name, quoted(&duration_text(key.value)), key);
        }
        self.key("rise", health.rise.value, &health.rise);
        self.key("fall", health.fall.value, &health.fall);
        if let Some(slow_start) = &health.slow_start {
            self.key("slow_start", quoted(&duration_text(slow_start.value)), slow_start);
        }
    }

    fn backend(&mut self, backend: &BackendPlan) {
        self.table("[[service.backend]]");
        self.key("name", quoted(&backend.name.value), &backend.name);
        self.line(format!("address = {}", quoted(&backend.address.to_string())));
        if let Some(weight) = &backend.weight {
            self.key("weight", weight.value, weight);
        }
        if let Some(limit) = &backend.max_connections {
            self.key("max_connections", limit.value, limit);
        }
    }

    fn instance(&mut self, instance: &InstancePlan) {
        self.table("[[vrrp]]");
        self.key("name", quoted(&instance.name.value), &instance.name);
        self.key("version", u8::from(instance.version.value), &instance.version);
        self.key("virtual_router_id", instance.virtual_router_id.value, &instance.virtual_router_id);
        self.key("priority", instance.priority.value, &instance.priority);
        if instance.version.value == VrrpVersion::V2 {
            self.comment(
                "When each node runs xvip: version = 3, without auth_pass, and \"200ms\" here replaces a dead node in 0.7 s.",
            );
        }
        let interval = &instance.advert_interval;
        self.key("advert_interval", quoted(&duration_text(interval.value)), interval);
        if !instance.preempt.value {
            self.key("preempt", "false", &instance.preempt);
        }
        if !instance.preempt_delay.is_zero() {
            self.line(format!("preempt_delay = {}", quoted(&duration_text(instance.preempt_delay))));
        }
        if let Some(source) = &instance.unicast_source {
            self.key("unicast_source", quoted(&source.value.to_string()), source);
        }
        if let Some(first) = instance.unicast_peers.first() {
            let peers: Vec<String> =
                instance.unicast_peers.iter().map(|peer| quoted(&peer.value.to_string())).collect();
            self.key("unicast_peers", format!("[{}]", peers.join(", ")), &Key::new((), first.from));
        }
        if let Some(password) = &instance.auth_pass {
            self.key("auth_pass", quoted(&password.value), password);
        }
        if instance.checksum_rfc9568 {
            self.line("checksum = \"rfc9568\"");
        }
        if let Some(group) = &instance.sync_group {
            self.key("sync_group", quoted(&group.value), group);
        }
        if let Some(place) = instance.virtual_mac {
            self.key("virtual_mac", "true", &Key::new((), Some(place)));
        }
        if let Some(hmac) = &instance.auth_hmac {
            self.hmac(hmac);
        }
        instance.tracks.iter().for_each(|track| self.track(track));
    }

    fn hmac(&mut self, hmac: &HmacAuthentication) {
        self.table("[vrrp.auth_hmac]");
        let here = Key::new((), Some(hmac.place));
        if let Some(active) = hmac.active_key {
            self.key("active_key", active, &here);
        }
        if let Some(mode) = &hmac.mode {
            self.key("mode", quoted(mode), &here);
        }
        if let Some(anti_replay) = &hmac.anti_replay {
            self.key("anti_replay", quoted(anti_replay), &here);
        }
        if let Some(window) = hmac.time_window {
            self.key("time_window", quoted(&duration_text(window)), &here);
        }
        for (id, value) in &hmac.keys {
            self.table("[[vrrp.auth_hmac.key]]");
            self.line(format!("id = {id}"));
            match value.strip_prefix("file:") {
                Some(file) => self.line(format!("file = {}", quoted(file.trim()))),
                None => self.line(format!("value = {}", quoted(value))),
            }
        }
    }

    fn track(&mut self, track: &TrackPlan) {
        self.table("[[vrrp.track]]");
        match &track.what.value {
            TrackedPlan::Interface(name) => {
                self.key("kind", "\"interface\"", &track.what);
                self.line(format!("interface = {}", quoted(name)));
            }
            TrackedPlan::Script { command, user, interval, timeout, rise, fall } => {
                self.key("kind", "\"script\"", &track.what);
                let words: Vec<String> = command.iter().map(|word| quoted(word)).collect();
                self.line(format!("command = [{}]", words.join(", ")));
                if let Some(user) = user {
                    self.line(format!("user = {}", quoted(user)));
                }
                self.line(format!("interval = {}", quoted(&duration_text(*interval))));
                if let Some(timeout) = timeout {
                    self.line(format!("timeout = {}", quoted(&duration_text(*timeout))));
                }
                self.line(format!("rise = {rise}"));
                self.line(format!("fall = {fall}"));
            }
        }
        if track.weight != 0 {
            self.line(format!("weight = {}", track.weight));
        }
    }

    fn flows(&mut self, plan: &NodePlan) {
        if plan.flows_max.is_none() && plan.idle == Idle::None {
            return;
        }
        self.table("[flows]");
        if let Some(max) = &plan.flows_max {
            self.key("max", max.value, max);
        }
        match &plan.idle {
            Idle::None => {}
            Idle::Kept(key) => self.key("idle_timeout", quoted(&duration_text(key.value)), key),
            Idle::Dropped(timeout, place) => {
                let origin = self.origin(Some(*place));
                self.comment(&format!(
                    "HAProxy cuts a connection that is idle for {} ({origin}), which breaks `kubectl exec` and `kubectl logs -f`; xvip \
                     leaves it open. To keep the time-outs import with --keep-timeouts.",
                    duration_text(*timeout)
                ));
                self.line("#idle_timeout = \"24h\"");
            }
        }
    }

    /// keepalived runs a program for one state, xvip for each: a shell compares.
    fn hook(&mut self, hook: &HookPlan) {
        self.table("[[notify]]");
        let words = ["/bin/sh", "-c", hook.condition(), "sh"]
            .into_iter()
            .chain(hook.command.value.iter().map(String::as_str));
        let words: Vec<String> = words.map(quoted).collect();
        self.key("command", format!("[{}]", words.join(", ")), &hook.command);
        self.line("on = [\"vrrp\"]");
        self.line(format!("names = [{}]", quoted(&hook.instance)));
    }

    /// The flow synchronization that nobody had before, as a proposal.
    fn sync(&mut self, plan: &NodePlan) {
        let unicast = plan.instances.iter().find_map(|instance| {
            let source = instance.unicast_source.as_ref()?.value;
            (!instance.unicast_peers.is_empty()).then_some((source, &instance.unicast_peers))
        });
        let Some((source, peers)) = unicast else { return };
        let listener = |address: IpAddr| quoted(&std::net::SocketAddr::new(address, 7946).to_string());
        self.flush();
        self.line("");
        self.comment(
            "When each node runs xvip: connections survive the move of a VIP. The key is the same on all nodes: openssl rand -hex \
             32 > /etc/xvip/sync.key",
        );
        self.line("#[sync]");
        self.line(format!("#listen = {}", listener(source)));
        let peers: Vec<String> = peers.iter().map(|peer| listener(peer.value)).collect();
        self.line(format!("#peers = [{}]", peers.join(", ")));
        self.line("#key_file = \"/etc/xvip/sync.key\"");
    }

    fn page(&mut self, page: &PagePlan, hash: &dyn Fn(&str) -> Option<String>) {
        self.flush();
        self.line("");
        self.comment("Where HAProxy's statistics page was, with Prometheus' metrics at /metrics.");
        self.line("[http]");
        self.key("listen", quoted(&page.listen.value.to_string()), &page.listen);
        self.key("path", quoted(&page.path.value), &page.path);
        if let Some(certificate) = &page.certificate {
            self.key("cert_file", quoted(&certificate.value), certificate);
            self.line(format!("key_file = {}", quoted(&certificate.value)));
        }
        if page.is_open {
            self.line("anonymous = \"viewer\"");
        }
        if let Some(place) = page.hides_version {
            self.key("hide_version", "true", &Key::new((), Some(place)));
        }
        for user in &page.users {
            let (name, password) = &user.value;
            let Some(hash) = hash(password) else {
                self.comment(&format!(
                    "CHECK: the password of {name} could not be hashed; `xvip password` does it"
                ));
                continue;
            };
            self.table("[[http.user]]");
            self.key("name", quoted(name), user);
            self.line(format!("password_hash = {}", quoted(&hash)));
            match page.admin {
                Some(place) => self.key("role", "\"admin\"", &Key::new((), Some(place))),
                None => self.line("role = \"viewer\""),
            }
        }
    }

    fn stats_socket(&mut self, socket: &SocketPlan) {
        self.flush();
        self.line("");
        self.comment("HAProxy's runtime socket, for the scripts and monitors that are there.");
        self.line("[stats_socket]");
        self.key("path", quoted(&socket.path.value), &socket.path);
        if let Some(mode) = socket.mode {
            self.key("mode", quoted(&format!("{mode:03o}")), &socket.path);
        }
        if let Some(group) = &socket.group {
            self.key("group", quoted(group), &socket.path);
        }
        if let Some(level) = socket.level {
            self.key("level", quoted(level.as_str()), &socket.path);
        }
        if let Some(timeout) = &socket.timeout {
            self.key("timeout", quoted(&duration_text(timeout.value)), timeout);
        }
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A text that can stand in a comment.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_they_were() {
        for text in
            ["plain", "a \"quoted\" \\ one", "line\nend\ttab\r\u{7f}\u{85}\u{0}", "\u{fffd}\u{1f600}", "'''"]
        {
            let toml: toml::Table = format!("key = {}", quoted(text)).parse().expect("TOML");
            assert_eq!(toml["key"].as_str(), Some(text));
        }
        assert_eq!(plain("a\nb"), "a b");
    }
}
