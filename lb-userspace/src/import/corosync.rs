//! corosync.conf: the nodes of a Pacemaker cluster, and how long their silence is borne.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use super::{
    incumbent::{ClusterNode, Incumbent},
    ledger::{Fate, Ledger},
    source::{At, FileId, Place, Source},
};

#[cfg(test)]
mod tests;

/// Sections in sections; corosync has two.
const MAX_DEPTH: usize = 8;

/// Reads a file: its nodes and its token time. What became of each line goes to `ledger`.
pub fn read(source: &Source, file: FileId, into: &mut Incumbent, ledger: &mut Ledger) {
    let mut reading = Reading {
        ledger,
        path: Vec::new(),
        node: BTreeMap::new(),
        nodes: Vec::new(),
        token: None,
        too_deep: 0,
    };
    for (index, line) in source.lines().enumerate() {
        let text = line.trim();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let column = 1 + line.chars().take_while(|ch| ch.is_whitespace()).count();
        reading.line(text, Place { file, line: index + 1, column });
    }
    reading.finish(into);
}

/// Whether a line says nothing: empty, a comment, or a mere bracket.
pub fn is_blank(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#') || line == "}"
}

struct Reading<'l> {
    ledger: &'l mut Ledger,
    path: Vec<(String, Place)>,
    /// The `node` that is open: values by key.
    node: BTreeMap<String, (String, Place)>,
    nodes: Vec<At<ClusterNode>>,
    token: Option<At<Duration>>,
    /// Sections that are left out, being too deep.
    too_deep: usize,
}

impl Reading<'_> {
    fn note(&mut self, place: Place, fate: Fate, becomes: impl Into<String>, note: impl Into<String>) {
        self.ledger.note(place, fate, becomes, note);
    }

    fn line(&mut self, text: &str, place: Place) {
        if text == "}" {
            if self.too_deep > 0 {
                self.too_deep -= 1;
            } else if self.path.pop().is_none() {
                self.note(place, Fate::SyntaxError, "", "no section is open that this bracket could close");
            } else {
                self.end_of_node();
            }
            return;
        }
        if let Some(name) = text.strip_suffix('{') {
            self.open(name.trim(), place);
            return;
        }
        let Some((key, value)) = text.split_once(':') else {
            self.note(
                place,
                Fate::SyntaxError,
                "",
                "a line is `NAME: VALUE`, or begins a section with `NAME {`",
            );
            return;
        };
        self.value(key.trim(), value.trim(), place);
    }

    fn open(&mut self, name: &str, place: Place) {
        if self.path.len() >= MAX_DEPTH {
            self.note(place, Fate::SyntaxError, "", "sections are nested too deep");
            self.too_deep += 1;
            return;
        }
        self.path.push((name.to_owned(), place));
        let path = self.path();
        let (fate, becomes, note) = match path.as_str() {
            "nodelist" => (Fate::Exact, "vrrp.unicast_peers", ""),
            "nodelist.node" => (Fate::Exact, "", "a node; each has its own xvip.toml"),
            "totem" | "totem.interface" => {
                (Fate::Approximate, "[[vrrp]]", "VRRP takes the place of the membership protocol")
            }
            "quorum" | "quorum.device" | "quorum.device.net" | "quorum.device.heuristics" => {
                (Fate::NotNeeded, "", QUORUM)
            }
            "logging" | "logging.logger_subsys" => (Fate::NotNeeded, "", "xvip logs to the journal"),
            "qb" | "aisexec" | "amf" | "uidgid" | "system" | "resources" | "service" | "nozzle" | "event" => {
                (Fate::NotNeeded, "", "it only concerns corosync itself")
            }
            _ if path.starts_with("resources.") => (Fate::NotNeeded, "", "it only concerns corosync itself"),
            _ => {
                let note = format!("corosync has no section `{path}`");
                self.note(place, Fate::Unknown, "", note);
                return;
            }
        };
        self.note(place, fate, becomes, note);
    }

    fn path(&self) -> String {
        self.path.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(".")
    }

    fn value(&mut self, key: &str, value: &str, place: Place) {
        let path = self.path();
        let key_lower = key.to_ascii_lowercase();
        match (path.as_str(), key_lower.as_str()) {
            ("nodelist.node", "ring0_addr") => {
                match value.parse::<IpAddr>() {
                    Ok(address) => self.note(
                        place,
                        Fate::Exact,
                        format!("vrrp.unicast_source, unicast_peers: {address}"),
                        "",
                    ),
                    Err(_) => {
                        let note = format!(
                            "{value} is a name: write this node's address to vrrp.unicast_source, and the others' to unicast_peers"
                        );
                        self.note(place, Fate::Approximate, "vrrp.unicast_peers", note);
                    }
                }
                self.node.insert(key_lower, (value.to_owned(), place));
            }
            ("nodelist.node", "name") => {
                self.note(place, Fate::Exact, format!("node.name = {value:?}"), "");
                self.node.insert(key_lower, (value.to_owned(), place));
            }
            ("nodelist.node", key) if key.starts_with("ring") && key.ends_with("_addr") => {
                let note = "VRRP goes by one network: that of ring0_addr";
                self.note(place, Fate::NotPossible, "", note);
            }
            ("nodelist.node", "nodeid" | "quorum_votes") => {
                self.node.entry(key_lower).or_insert((value.to_owned(), place));
                self.note(place, Fate::NotNeeded, "", "VRRP tells nodes by their addresses");
            }
            ("totem", "token") => match value.parse::<u64>() {
                Ok(milliseconds) if milliseconds <= 86_400_000 => {
                    let note = "a node that is silent for this long is dead to corosync; to VRRP one that is silent for 3 advertisements";
                    self.note(place, Fate::Approximate, "vrrp.advert_interval", note);
                    self.token = Some(At::new(Duration::from_millis(milliseconds), place));
                }
                _ => {
                    self.note(
                        place,
                        Fate::SyntaxError,
                        "",
                        format!("`{value}` is no number of milliseconds"),
                    );
                }
            },
            ("totem", "crypto_cipher" | "crypto_hash" | "secauth" | "keyfile" | "key" | "crypto_model") => {
                let note = "write [vrrp.auth_hmac]: it signs each advertisement; [sync] encrypts";
                self.note(place, Fate::Approximate, "[vrrp.auth_hmac]", note);
            }
            ("totem.interface", "mcastaddr" | "mcastport" | "broadcast" | "ttl" | "bindnetaddr") => {
                let note = "VRRP speaks from the VIP's interface, by multicast to 224.0.0.18 or to unicast_peers, with TTL 255";
                self.note(place, Fate::Approximate, "vrrp.unicast_peers", note);
            }
            ("totem", "cluster_name") => {
                self.note(place, Fate::NotNeeded, "", "a cluster is told by its VRID");
            }
            ("totem" | "totem.interface", _) => {
                self.note(place, Fate::NotNeeded, "", "VRRP has none of the membership protocol's settings");
            }
            ("quorum" | "quorum.device" | "quorum.device.net" | "quorum.device.heuristics", _) => {
                self.note(place, Fate::NotNeeded, "", QUORUM);
            }
            ("logging" | "logging.logger_subsys", _) => {
                self.note(place, Fate::NotNeeded, "", "xvip logs to the journal");
            }
            ("", _) => {
                let note = format!("`{key}` stands in no section");
                self.note(place, Fate::SyntaxError, "", note);
            }
            (
                "qb" | "aisexec" | "amf" | "uidgid" | "system" | "resources" | "service" | "nozzle" | "event",
                _,
            ) => {
                self.note(place, Fate::NotNeeded, "", "it only concerns corosync itself");
            }
            (path, _) if path.starts_with("resources.") => {
                self.note(place, Fate::NotNeeded, "", "it only concerns corosync itself");
            }
            _ => {
                let note = format!("corosync has no `{key}` in `{path}`");
                self.note(place, Fate::Unknown, "", note);
            }
        }
    }

    fn end_of_node(&mut self) {
        if self.path() != "nodelist" || self.node.is_empty() {
            return;
        }
        let node = std::mem::take(&mut self.node);
        let ring = node.get("ring0_addr");
        let address = ring.and_then(|(text, _)| text.parse::<IpAddr>().ok());
        // What is no address is the host's name.
        let name = node.get("name").or(ring.filter(|_| address.is_none()));
        let place = ring.or(node.values().next()).map(|(_, place)| *place).unwrap_or_default();
        self.nodes.push(At::new(ClusterNode { name: name.map(|(name, _)| name.clone()), address }, place));
    }

    fn finish(mut self, into: &mut Incumbent) {
        for (name, place) in std::mem::take(&mut self.path) {
            self.note(place, Fate::SyntaxError, "", format!("the section `{name}` has no end"));
        }
        let cluster = into.cluster.get_or_insert_default();
        for node in self.nodes {
            // crm's text has the names, too.
            let known = cluster
                .nodes
                .iter_mut()
                .find(|known| known.value.name.is_some() && known.value.name == node.value.name);
            match known {
                Some(known) => known.value.address = known.value.address.or(node.value.address),
                None => cluster.nodes.push(node),
            }
        }
        cluster.token = cluster.token.take().or(self.token);
    }
}

const QUORUM: &str =
    "VRRP needs no quorum; vrrp.witness (the gateway) keeps a node without network from the VIP";
