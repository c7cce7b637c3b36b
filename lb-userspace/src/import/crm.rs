//! Pacemaker's configuration as `crm configure` takes and shows it: typed into the shell line by line, as commands
//! (`crm configure primitive ...`), or as `crm configure show` prints it.
//!
//! Of the cluster only its floating addresses are imported, and what says how long a take-over takes and whether there is a
//! fail-back. What kept HAProxy and the address together is one process now.

use std::{net::IpAddr, time::Duration};

use super::{
    incumbent::{ClusterNode, ClusterVip, Incumbent},
    ledger::{Fate, Ledger},
    source::{At, FileId, Place, Source},
};

mod primitive;
mod statements;
#[cfg(test)]
mod tests;

use primitive::Primitive;
use statements::{Statement, Word};

/// Reads a text. What became of each line goes to `ledger`.
pub fn read(source: &Source, file: FileId, into: &mut Incumbent, ledger: &mut Ledger) {
    let statements = statements::split(source, file, ledger);
    let mut reading = Reading::new(ledger);
    for statement in statements {
        reading.statement(&statement);
    }
    reading.finish(into);
}

/// Whether a line says nothing: empty, or a comment.
pub fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line == "\\" || line.starts_with('#')
}

struct Reading<'l> {
    ledger: &'l mut Ledger,
    primitives: Vec<Primitive>,
    nodes: Vec<At<ClusterNode>>,
    sticky: Option<Place>,
    migration_threshold: Option<At<u32>>,
    op_timeout: Option<Duration>,
}

/// Pacemaker's own default for an operation.
const DEFAULT_OP_TIMEOUT: Duration = Duration::from_secs(20);

const SHELL: [&str; 30] = [
    "commit",
    "bye",
    "quit",
    "exit",
    "end",
    "up",
    "cd",
    "back",
    "verify",
    "show",
    "edit",
    "refresh",
    "save",
    "help",
    "status",
    "upgrade",
    "graph",
    "ptest",
    "simulate",
    "schema",
    "validate-all",
    "validate_all",
    "get-property",
    "rename",
    "maintenance",
    "configure",
    "ls",
    "wait",
    "cib",
    "set",
];

impl<'l> Reading<'l> {
    fn new(ledger: &'l mut Ledger) -> Self {
        Self {
            ledger,
            primitives: Vec::new(),
            nodes: Vec::new(),
            sticky: None,
            migration_threshold: None,
            op_timeout: None,
        }
    }
}

impl Reading<'_> {
    fn note(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        self.ledger.note(place, fate, becomes, note);
    }

    /// Says the same of a statement and of each line that it goes on in.
    fn whole(&mut self, statement: &Statement, fate: Fate, note: &str) {
        let mut line = 0;
        for word in &statement.words {
            if word.place.line != line {
                line = word.place.line;
                self.note(word.place, fate, "", note);
            }
        }
    }

    /// Lines that begin within the words up to `until`, but the first, whose words say nothing by themselves.
    fn goes_on(&mut self, statement: &Statement, until: usize, fate: Fate) {
        let mut line = statement.place().line;
        for word in statement.words.iter().take(until) {
            if word.place.line != line {
                line = word.place.line;
                self.note(word.place, fate, "", "it goes on here");
            }
        }
    }

    fn statement(&mut self, statement: &Statement) {
        if statement.pcs {
            self.pcs(statement);
            return;
        }
        match statement.name() {
            "primitive" | "rsc_template" => self.primitive(statement, 1),
            "property" | "rsc_defaults" | "op_defaults" => self.options(statement, 1),
            "node" => self.node(statement),
            "group" => {
                let note = "one process has the address and forwards: nothing has to be kept together";
                self.whole(statement, Fate::NotNeeded, note);
                for word in &statement.words {
                    match word.assignment() {
                        Some((key, value)) if key == "migration-threshold" => {
                            self.threshold(word.place, value)
                        }
                        Some((key, value)) if key == "resource-stickiness" => {
                            self.stickiness(word.place, value)
                        }
                        _ => {}
                    }
                }
            }
            "colocation" | "collocation" => {
                self.whole(
                    statement,
                    Fate::NotNeeded,
                    "the VIP is only where xvip forwards: one process has both",
                );
            }
            "order" => {
                let note = "the other way round, on purpose: xvip forwards before it claims the VIP, so that nobody is refused meanwhile";
                self.whole(statement, Fate::Improved, note);
            }
            "location" => {
                let note = "who owns the VIP is said by each node's vrrp.priority; give the preferred node the highest";
                self.whole(statement, Fate::NotPossible, note);
            }
            "clone" | "ms" | "master" | "promotable" | "bundle" => {
                self.whole(statement, Fate::NotNeeded, "xvip runs on each node all the time");
            }
            "fencing_topology" | "stonith" => self.whole(statement, Fate::NotNeeded, FENCING),
            "monitor" | "monop" => {
                self.whole(statement, Fate::Improved, "xvip watches its own data plane, and notices at once");
            }
            "rsc_ticket" | "tag" | "role" | "user" | "acl_target" | "acl_group" | "acl_permission"
            | "alert" | "xml" => {
                self.whole(
                    statement,
                    Fate::NotPossible,
                    "xvip has nothing like it; for alerts there is [[notify]]",
                );
            }
            "delete" | "remove" | "rm" | "erase" | "load" | "modgroup" | "default-timeouts"
            | "default_timeouts" | "resource" | "cluster" | "corosync" | "ra" | "history" | "site"
            | "report" => {
                let note = "a command, not a configuration: import what `crm configure show` prints";
                self.whole(statement, Fate::NotNeeded, note);
            }
            name if SHELL.contains(&name) => {
                self.whole(
                    statement,
                    Fate::NotNeeded,
                    "a command of the shell; `xvip reload` applies a change",
                );
            }
            name => {
                let note = format!("`{name}` is no word of `crm configure`");
                self.whole(statement, Fate::Unknown, &note);
            }
        }
    }

    /// `pcs` says the same in other words.
    fn pcs(&mut self, statement: &Statement) {
        let words: Vec<&str> = statement.words.iter().take(3).map(|word| word.text.as_str()).collect();
        match *words.as_slice() {
            ["resource" | "stonith", "create", _] => self.primitive(statement, 2),
            ["property", "set", ..] | ["resource", "defaults" | "op", ..] => self.options(statement, 2),
            ["property", _, ..] => self.options(statement, 1),
            ["constraint", "colocation", ..] => {
                self.whole(
                    statement,
                    Fate::NotNeeded,
                    "the VIP is only where xvip forwards: one process has both",
                );
            }
            ["constraint", "order", ..] => {
                let note = "the other way round, on purpose: xvip forwards before it claims the VIP, so that nobody is refused meanwhile";
                self.whole(statement, Fate::Improved, note);
            }
            ["constraint", "location", ..] => {
                let note = "who owns the VIP is said by each node's vrrp.priority; give the preferred node the highest";
                self.whole(statement, Fate::NotPossible, note);
            }
            _ => self.whole(statement, Fate::NotNeeded, "a command, not a configuration"),
        }
    }

    fn primitive(&mut self, statement: &Statement, at: usize) {
        let (Some(name), Some(agent)) = (statement.word(at), statement.word(at + 1)) else {
            self.whole(statement, Fate::SyntaxError, "a primitive has a name and an agent");
            return;
        };
        let kind = primitive::Kind::of(agent);
        let mut resource = Primitive {
            name: name.to_owned(),
            place: statement.place(),
            kind,
            address: None,
            prefix_len: None,
            interface: None,
            monitor: None,
        };
        if statement.name() == "rsc_template" {
            self.whole(
                statement,
                Fate::NotPossible,
                "write what it stands for into each primitive, and import again",
            );
            return;
        }
        let (fate, becomes, note) = match kind {
            primitive::Kind::Address => (Fate::Exact, "[[vrrp]], service.vip", ""),
            primitive::Kind::Balancer => {
                (Fate::Improved, "", "xvip itself forwards, and systemd starts it again when it dies")
            }
            primitive::Kind::Fencing => (Fate::NotNeeded, "", FENCING),
            primitive::Kind::Ping => (
                Fate::Approximate,
                "vrrp.witness",
                "xvip asks a witness before it takes over from a node that it does not hear any more",
            ),
            primitive::Kind::Other => {
                (Fate::NotPossible, "", "xvip runs no other services: let systemd do it on each node")
            }
        };
        self.note(statement.place(), fate, becomes, note);
        self.goes_on(statement, at + 2, fate);
        self.sections(statement, at + 2, &mut resource, fate);
        self.primitives.push(resource);
    }

    fn sections(&mut self, statement: &Statement, from: usize, resource: &mut Primitive, fate: Fate) {
        use primitive::Section;
        let mut section = Section::Parameters;
        let mut monitor = (None, None);
        let mut words = statement.words.iter().skip(from).peekable();
        while let Some(word) = words.next() {
            if let Some(begun) = Section::begun_by(word, words.peek().copied()) {
                section = begun;
                let operation = if word.text == "op" { words.next() } else { None };
                let (fate, note) = match begun {
                    Section::Monitor => {
                        (Fate::Improved, "xvip watches its own data plane, and notices at once")
                    }
                    Section::Operation | Section::Rest => {
                        (Fate::NotNeeded, "xvip starts and stops nothing else")
                    }
                    Section::Parameters | Section::Meta => (Fate::Exact, "see the words behind it"),
                };
                self.note(word.place, fate, "", note);
                if let Some(operation) = operation.filter(|operation| operation.place.line != word.place.line)
                {
                    self.note(operation.place, fate, "", note);
                }
                continue;
            }
            match (section, word.assignment()) {
                (Section::Parameters, Some((key, value))) => {
                    self.parameter(word, &key, value, resource, fate)
                }
                (Section::Meta, Some((key, value))) => self.meta(word, &key, value, resource.kind),
                (Section::Monitor, Some((key, value))) => self.monitor_word(word, &key, value, &mut monitor),
                (Section::Operation | Section::Rest, _) => {
                    self.note(word.place, Fate::NotNeeded, "", "part of what xvip needs not do");
                }
                (_, None) => {
                    let note = format!("`{}` is no NAME=VALUE", word.text);
                    self.note(word.place, Fate::Unknown, "", note);
                }
            }
            if let (Some((interval, place)), timeout) = &monitor {
                resource.monitor = Some((*interval, *timeout, *place));
            }
        }
    }

    fn parameter(&mut self, word: &Word, key: &str, value: &str, resource: &mut Primitive, fate: Fate) {
        let place = word.place;
        if resource.kind == primitive::Kind::Ping && key == "host-list" {
            let hosts: Vec<&str> = value.split_whitespace().collect();
            let note = "one of them that answers is enough";
            self.note(place, Fate::Approximate, format!("vrrp.witness = {hosts:?}"), note);
            return;
        }
        if resource.kind != primitive::Kind::Address {
            self.note(place, fate, "", "part of this resource");
            return;
        }
        match key {
            "ip" | "ipv6addr" => {
                let (address, length) =
                    value.split_once('/').map_or((value, None), |(address, length)| (address, Some(length)));
                match address.parse::<IpAddr>() {
                    Ok(address) => {
                        self.note(place, Fate::Exact, format!("service.vip = \"{address}\""), "");
                        resource.address = Some((address, place));
                        resource.prefix_len = length.and_then(primitive::prefix_len).or(resource.prefix_len);
                    }
                    Err(_) => self.note(place, Fate::SyntaxError, "", format!("`{value}` is no address")),
                }
            }
            "cidr-netmask" | "netmask" => match primitive::prefix_len(value) {
                Some(length) => {
                    self.note(place, Fate::Exact, format!("service.vip = \".../{length}\""), "");
                    resource.prefix_len = Some(length);
                }
                None => self.note(place, Fate::SyntaxError, "", format!("`{value}` is no prefix length")),
            },
            "nic" => {
                // IPaddr2 takes eth0:1 for eth0 with a label.
                let (interface, label) =
                    value.split_once(':').map_or((value, false), |(name, _)| (name, true));
                self.note(place, Fate::Exact, format!("node.interface = {interface:?}"), "");
                if label {
                    self.note(place, Fate::NotPossible, "", "xvip gives a VIP no label");
                }
                resource.interface = Some(interface.to_owned());
            }
            "broadcast" => self.note(place, Fate::NotNeeded, "", "nobody broadcasts from a VIP"),
            "iflabel" => self.note(place, Fate::NotPossible, "", "xvip gives a VIP no label"),
            "clusterip-hash" | "unique-clone-address" | "mac" => {
                let note = "one node owns a VIP at a time; for a load on all of them give each node a VIP of its own";
                self.note(place, Fate::NotPossible, "", note);
            }
            key if key.starts_with("arp-")
                || matches!(key, "send-arp-opts" | "monitor-retries" | "check-link-status") =>
            {
                let note = "xvip sends 5 gratuitous ARPs, 5 more after 5s, and then one every 60s";
                self.note(place, Fate::NotNeeded, "", note);
            }
            "lvs-support"
            | "lvs-ipv6-addrlabel"
            | "lvs-ipv6-addrlabel-value"
            | "flush-routes"
            | "noprefixroute"
            | "nodad"
            | "preferred-lft"
            | "run-arping"
            | "network-namespace"
            | "proto"
            | "metric"
            | "local-stop-script"
            | "local-start-script" => {
                self.note(place, Fate::NotNeeded, "", "xvip knows itself how a VIP is to be added");
            }
            _ => self.note(place, Fate::Unknown, "", format!("IPaddr2 has no parameter `{key}`")),
        }
    }

    fn meta(&mut self, word: &Word, key: &str, value: &str, kind: primitive::Kind) {
        let place = word.place;
        match key {
            "migration-threshold" => self.threshold(place, value),
            "resource-stickiness" if kind == primitive::Kind::Address => self.stickiness(place, value),
            "failure-timeout" => {
                self.note(
                    place,
                    Fate::NotNeeded,
                    "",
                    "an xvip that is well again may have the VIP again at once",
                );
            }
            "target-role" if value.eq_ignore_ascii_case("stopped") => {
                let note = "Pacemaker keeps it stopped: the import takes it for running";
                self.note(place, Fate::Approximate, "", note);
            }
            _ => self.note(place, Fate::NotNeeded, "", "it only concerns Pacemaker"),
        }
    }

    fn monitor_word(
        &mut self,
        word: &Word,
        key: &str,
        value: &str,
        monitor: &mut (Option<(Duration, Place)>, Option<Duration>),
    ) {
        let place = word.place;
        match key {
            "interval" | "timeout" => match primitive::time(value) {
                Some(time) => {
                    let note = "xvip watches its own data plane, and notices at once";
                    self.note(place, Fate::Improved, "", note);
                    if key == "interval" {
                        monitor.0 = Some((time, place));
                    } else {
                        monitor.1 = Some(time);
                    }
                }
                None => self.note(place, Fate::SyntaxError, "", format!("`{value}` is no time")),
            },
            "on-fail" => {
                self.note(
                    place,
                    Fate::Improved,
                    "",
                    "an xvip that cannot forward gives the VIP away, and systemd starts it again",
                );
            }
            _ => self.note(place, Fate::NotNeeded, "", "part of Pacemaker's monitoring"),
        }
    }

    fn threshold(&mut self, place: Place, value: &str) {
        match value.parse::<u32>() {
            Ok(threshold) => {
                let note = "xvip gives the VIP away at the first failure of its data plane, and takes it back when it is well \
                            (with preempt)";
                self.note(place, Fate::Approximate, "", note);
                self.migration_threshold.get_or_insert(At::new(threshold, place));
            }
            Err(_) if value.to_ascii_lowercase().starts_with("inf") => {
                self.note(place, Fate::NotNeeded, "", "no threshold at all");
            }
            Err(_) => self.note(place, Fate::SyntaxError, "", format!("`{value}` is no number")),
        }
    }

    fn stickiness(&mut self, place: Place, value: &str) {
        let text = value.trim_start_matches('+').to_ascii_lowercase();
        let sticky = match text.parse::<i64>() {
            Ok(score) => score > 0,
            Err(_) if text.starts_with("inf") => true,
            Err(_) if text.starts_with("-inf") => false,
            Err(_) => {
                self.note(place, Fate::SyntaxError, "", format!("`{value}` is no score"));
                return;
            }
        };
        if sticky {
            self.note(place, Fate::Exact, "vrrp.preempt = false", "");
            self.sticky.get_or_insert(place);
        } else {
            self.note(place, Fate::Exact, "vrrp.preempt = true", "");
        }
    }

    /// `property`, `rsc_defaults`, `op_defaults`: options, and in front of them perhaps the name of their set.
    fn options(&mut self, statement: &Statement, from: usize) {
        let kind = match (statement.pcs, statement.name(), statement.word(1)) {
            (true, "resource", Some("op")) => "op_defaults",
            (true, "resource", _) => "rsc_defaults",
            (_, name, _) => name,
        };
        self.note(statement.place(), Fate::Exact, "", "see the words behind it");
        self.goes_on(statement, from, Fate::Exact);
        let mut seen = statement.place().line;
        for (index, word) in statement.words.iter().enumerate().skip(from) {
            let place = word.place;
            let Some((key, value)) = word.assignment() else {
                // `cib-bootstrap-options:`, `$id=...`, `rule ...`, pcs's `update`.
                if index == from || seen != place.line {
                    self.note(place, Fate::NotNeeded, "", "the name of these options");
                }
                seen = place.line;
                continue;
            };
            seen = place.line;
            match (kind, key.as_str()) {
                (_, "$id" | "id" | "score") => {
                    self.note(place, Fate::NotNeeded, "", "the name of these options")
                }
                ("op_defaults", "timeout") => match primitive::time(value) {
                    Some(time) => {
                        self.op_timeout = Some(time);
                        self.note(
                            place,
                            Fate::Improved,
                            "",
                            "xvip watches its own data plane, and notices at once",
                        );
                    }
                    None => self.note(place, Fate::SyntaxError, "", format!("`{value}` is no time")),
                },
                ("op_defaults", _) => self.note(place, Fate::NotNeeded, "", "part of Pacemaker's monitoring"),
                (_, "default-resource-stickiness" | "resource-stickiness") => self.stickiness(place, value),
                (_, "migration-threshold" | "default-migration-threshold") => self.threshold(place, value),
                (_, "stonith-enabled") => self.note(place, Fate::NotNeeded, "", FENCING),
                (_, "no-quorum-policy") => {
                    let note = match value {
                        "ignore" => {
                            "VRRP needs no quorum, either: nodes that do not hear each other both own the VIP; vrrp.witness (the \
                             gateway) keeps a node without network from it"
                        }
                        _ => {
                            "VRRP knows no quorum: vrrp.witness (the gateway) keeps a node without network from the VIP"
                        }
                    };
                    let fate = if value == "ignore" { Fate::NotNeeded } else { Fate::Approximate };
                    self.note(place, fate, "vrrp.witness", note);
                }
                (_, "maintenance-mode") if matches!(value, "true" | "yes" | "on" | "1") => {
                    self.note(
                        place,
                        Fate::Approximate,
                        "",
                        "the cluster is in maintenance: the import takes it for running",
                    );
                }
                ("rsc_defaults", _) => {
                    self.note(place, Fate::NotNeeded, "", "it only concerns Pacemaker's resources")
                }
                _ => self.note(place, Fate::NotNeeded, "", "it only concerns Pacemaker itself"),
            }
        }
    }

    /// `node lb1`, `node 1084811078: lb1 attributes standby=off`, `node $id="1" lb1`.
    fn node(&mut self, statement: &Statement) {
        let name =
            statement.words.iter().skip(1).find(|word| {
                !word.text.ends_with(':') && !word.text.contains('=') && word.text != "attributes"
            });
        let Some(name) = name else {
            self.whole(statement, Fate::SyntaxError, "a node has a name");
            return;
        };
        // `lb1:normal` is a name with a type.
        let text = name.text.split(':').next().unwrap_or("").to_owned();
        self.whole(statement, Fate::NotNeeded, "each node has its own xvip.toml");
        self.note(name.place, Fate::Exact, format!("node.name = {text:?}"), "");
        for word in &statement.words {
            if let Some((key, value)) = word.assignment()
                && matches!(key.as_str(), "standby" | "maintenance")
                && matches!(value, "on" | "true" | "yes")
            {
                self.note(
                    word.place,
                    Fate::Approximate,
                    "",
                    "the node is on standby: the import takes it for running",
                );
            }
        }
        let node = ClusterNode { name: Some(text), address: None };
        self.nodes.push(At::new(node, name.place));
    }

    fn finish(self, into: &mut Incumbent) {
        let cluster = into.cluster.get_or_insert_default();
        for resource in &self.primitives {
            match (resource.kind, resource.address) {
                (primitive::Kind::Address, Some((address, place))) => {
                    let most = if address.is_ipv4() { 32 } else { 128 };
                    let vip = ClusterVip {
                        name: resource.name.clone(),
                        address,
                        prefix_len: resource.prefix_len.filter(|length| *length <= most),
                        interface: resource.interface.clone(),
                    };
                    cluster.vips.push(At::new(vip, place));
                }
                (primitive::Kind::Address, None) => {
                    self.ledger.note(
                        resource.place,
                        Fate::SyntaxError,
                        "",
                        "an address without the parameter `ip`",
                    );
                }
                _ => {}
            }
        }
        let op_timeout = self.op_timeout.unwrap_or(DEFAULT_OP_TIMEOUT);
        let watched = |kind| matches!(kind, primitive::Kind::Address | primitive::Kind::Balancer);
        let longest = self
            .primitives
            .iter()
            .filter(|resource| watched(resource.kind))
            .filter_map(|resource| resource.monitor)
            .max_by_key(|(interval, timeout, _)| (*interval, timeout.unwrap_or(op_timeout)));
        if let Some((interval, timeout, place)) = longest {
            cluster.monitor = Some(At::new((interval, timeout.unwrap_or(op_timeout)), place));
        }
        cluster.sticky = cluster.sticky.or(self.sticky);
        if cluster.migration_threshold.is_none() {
            cluster.migration_threshold = self.migration_threshold;
        }
        for node in self.nodes {
            let known = cluster.nodes.iter().any(|known| known.value.name == node.value.name);
            if !known {
                cluster.nodes.push(node);
            }
        }
    }
}

const FENCING: &str = "no fencing is needed: the nodes share no data, and the data plane of an xvip that hangs stops answering ARP";
