//! What the packet filter does with VRRP, read from `nft -j list ruleset` or `iptables-save`. Pure.
//!
//! Sets, maps, marks and jumps are not followed: that a rule *might* drop advertisements is no finding. What counts is a
//! rule that names protocol 112 and drops it, and a chain of the input hook that drops what no rule accepts; whether it
//! really does is shown by listening (`findings/firewall_vrrp.rs`).

use std::net::IpAddr;

use serde_json::Value;

use crate::config::model::Family;

/// IP protocol 112 (RFC 9568 §5.1.1.4), as rules name it.
const NAMES: [&str; 2] = ["vrrp", "112"];

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which programs told: `nft`, `iptables-save`.
    pub sources: Vec<&'static str>,
    /// Chains at the input hook that drop what none of their rules accepts.
    pub closed_chains: Vec<Chain>,
    /// Rules that drop or reject VRRP by name.
    pub drops: Vec<Rule>,
    /// Rules that accept VRRP by name.
    pub accepts: Vec<Rule>,
    /// Rules of kube-proxy that name an address, as text, with that address.
    pub kube_proxy: Vec<(IpAddr, String)>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `ip`, `ip6`, `inet`, `netdev`.
    pub family: String,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Whether `iptables` made it.
    pub is_iptables: bool,
}

impl Chain {
    /// Whether packets of this family go through it.
    pub fn sees(&self, family: Family) -> bool {
        match self.family.as_str() {
            "ip" => family == Family::Ipv4,
            "ip6" => family == Family::Ipv6,
            _ => true,
        }
    }

    /// The command that puts a rule before all others there which accepts VRRP.
    pub fn opening(&self, family: Family) -> String {
        let Self { family: of, table, name, is_iptables } = self;
        if *is_iptables {
            let program = if of == "ip6" { "ip6tables" } else { "iptables" };
            return format!("{program} -t {table} -I {name} -p 112 -j ACCEPT");
        }
        match family {
            Family::Ipv4 => format!("nft insert rule {of} {table} {name} ip protocol 112 accept"),
            Family::Ipv6 => format!("nft insert rule {of} {table} {name} meta l4proto 112 accept"),
        }
    }
}

impl std::fmt::Display for Chain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "chain {} of table {} {}", self.name, self.family, self.table)
    }
}

/// A rule that names VRRP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it is.
    pub chain: Chain,
    /// The command that deletes it.
    pub deletion: String,
}

impl Rules {
    /// Adds what `nft -j list ruleset` says. `addresses`: those that kube-proxy's rules are looked through for.
    ///
    /// # Errors
    /// Where that is no JSON of nft's.
    pub fn add_nft(&mut self, json: &str, addresses: &[IpAddr]) -> Result<(), String> {
        let ruleset: Value =
            serde_json::from_str(json).map_err(|error| format!("nft -j list ruleset: {error}"))?;
        let objects = ruleset["nftables"].as_array().ok_or("nft -j list ruleset: no list of objects")?;
        self.sources.push("nft");
        // Chains of the input hook by family, table and name. Those that they jump to have no hook.
        let field = |object: &Value, key: &str| object[key].as_str().unwrap_or_default().to_owned();
        for object in objects {
            let chain = &object["chain"];
            if matches!(chain["hook"].as_str(), Some("input" | "prerouting" | "ingress"))
                && chain["policy"] == "drop"
            {
                self.closed_chains.push(chain_of(chain, field(chain, "name")));
            }
            let rule = &object["rule"];
            let Some(expressions) = rule["expr"].as_array() else { continue };
            let chain = chain_of(rule, field(rule, "chain"));
            if chain.name.starts_with("KUBE-") || chain.table.starts_with("kube-proxy") {
                self.note_kube_proxy(&chain, &rule["expr"].to_string(), addresses);
            }
            if !expressions.iter().any(|expression| names_vrrp(&expression["match"])) {
                continue;
            }
            let has = |verdict: &str| expressions.iter().any(|expression| expression.get(verdict).is_some());
            let deletion = format!(
                "nft delete rule {} {} {} handle {}",
                chain.family, chain.table, chain.name, rule["handle"]
            );
            let rule = Rule { chain, deletion };
            if has("drop") || has("reject") {
                self.drops.push(rule);
            } else if has("accept") {
                self.accepts.push(rule);
            }
        }
        Ok(())
    }

    /// Adds what `iptables-save` or (`ip6`) `ip6tables-save` says.
    pub fn add_iptables(&mut self, text: &str, ip6: bool, addresses: &[IpAddr]) {
        self.sources.push(if ip6 { "ip6tables-save" } else { "iptables-save" });
        let family = if ip6 { "ip6" } else { "ip" };
        let mut table = String::new();
        for line in text.lines() {
            let chain = |name: &str| Chain {
                family: family.to_owned(),
                table: table.clone(),
                name: name.to_owned(),
                is_iptables: true,
            };
            if let Some(name) = line.strip_prefix('*') {
                table = name.trim().to_owned();
            } else if let Some(declared) = line.strip_prefix(':') {
                let mut words = declared.split_whitespace();
                if let (Some(name @ ("INPUT" | "PREROUTING")), Some("DROP")) = (words.next(), words.next()) {
                    self.closed_chains.push(chain(name));
                }
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let words: Vec<&str> = rule.split_whitespace().collect();
                let Some(name) = words.first() else { continue };
                let chain = chain(name);
                if name.starts_with("KUBE-") {
                    self.note_kube_proxy(&chain, rule, addresses);
                }
                let after = |flag: &str| {
                    words.iter().position(|word| *word == flag).and_then(|at| words.get(at + 1)).copied()
                };
                if !after("-p").is_some_and(|protocol| NAMES.contains(&protocol)) {
                    continue;
                }
                let program = if ip6 { "ip6tables" } else { "iptables" };
                let rule = Rule { deletion: format!("{program} -t {table} -D {rule}"), chain };
                match after("-j") {
                    Some("DROP" | "REJECT") => self.drops.push(rule),
                    Some("ACCEPT") => self.accepts.push(rule),
                    _ => {}
                }
            }
        }
    }

    fn note_kube_proxy(&mut self, chain: &Chain, rule: &str, addresses: &[IpAddr]) {
        for address in addresses {
            let text = address.to_string();
            let known = self.kube_proxy.iter().any(|(known, _)| known == address);
            if !known && names_address(rule, &text) {
                self.kube_proxy.push((*address, chain.to_string()));
            }
        }
    }
}

fn chain_of(object: &Value, name: String) -> Chain {
    let field = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
    Chain { family: field("family"), table: field("table"), name, is_iptables: false }
}

/// `ip protocol 112`, `meta l4proto vrrp`, `ip6 nexthdr 112`, or a set with it.
fn names_vrrp(expression: &Value) -> bool {
    let left = &expression["left"];
    let is_protocol = left["payload"]["field"] == "protocol"
        || left["payload"]["field"] == "nexthdr"
        || left["meta"]["key"] == "l4proto";
    let is_vrrp = |value: &Value| {
        value.as_str().is_some_and(|name| NAMES.contains(&name)) || value.as_u64() == Some(112)
    };
    let right = &expression["right"];
    let in_set = || right["set"].as_array().is_some_and(|set| set.iter().any(is_vrrp));
    is_protocol && expression["op"] == "==" && (is_vrrp(right) || in_set())
}

/// Whether a text names this very address, not one that only begins or ends alike.
fn names_address(text: &str, address: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == ':';
    text.match_indices(address).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + address.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `nft -j list ruleset` of nftables 1.0.6 prints it.
    const NFT: &str = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "t", "handle": 1}},
        {"chain": {"family": "inet", "table": "t", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "t", "name": "out", "handle": 2, "type": "filter", "hook": "output", "prio": 0, "policy": "drop"}},
        {"rule": {"family": "inet", "table": "t", "chain": "in", "handle": 2, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "protocol"}}, "right": "vrrp"}}, {"drop": null}]}},
        {"rule": {"family": "inet", "table": "t", "chain": "in", "handle": 3, "expr": [{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", 112]}}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "t", "chain": "in", "handle": 4, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 112}}, {"drop": null}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "KUBE-SERVICES", "handle": 9, "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "172.16.0.10"}}, {"jump": {"target": "KUBE-EXT-X"}}]}}
        ]}"#;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn nft_rules_that_name_vrrp() {
        let mut rules = Rules::default();
        rules.add_nft(NFT, &[address("172.16.0.1"), address("172.16.0.10")]).expect("JSON");
        let chain = Chain {
            family: "inet".to_owned(),
            table: "t".to_owned(),
            name: "in".to_owned(),
            is_iptables: false,
        };
        assert_eq!(rules.closed_chains, std::slice::from_ref(&chain));
        let rule = |handle| Rule {
            chain: chain.clone(),
            deletion: format!("nft delete rule inet t in handle {handle}"),
        };
        assert_eq!((rules.drops, rules.accepts), (vec![rule(2)], vec![rule(3)]));
        assert_eq!(
            rules.kube_proxy,
            [(address("172.16.0.10"), "chain KUBE-SERVICES of table ip nat".to_owned())]
        );
        assert_eq!(chain.opening(Family::Ipv4), "nft insert rule inet t in ip protocol 112 accept");
    }

    #[test]
    fn iptables_rules_that_name_vrrp() {
        let text = "# Generated\n*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n-A INPUT -p vrrp -j DROP\n\
            -A INPUT -i eth0 -p 112 -m comment --comment x -j ACCEPT\n-A INPUT -p tcp -j DROP\nCOMMIT\n*nat\n\
            -A KUBE-SERVICES -d 172.16.0.10/32 -p tcp -j KUBE-EXT-X\n";
        let mut rules = Rules::default();
        rules.add_iptables(text, false, &[address("172.16.0.10"), address("172.16.0.1")]);
        assert_eq!(
            rules.closed_chains.iter().map(|chain| chain.name.as_str()).collect::<Vec<_>>(),
            ["INPUT"]
        );
        assert_eq!(rules.drops.len(), 1);
        assert_eq!(rules.drops[0].deletion, "iptables -t filter -D INPUT -p vrrp -j DROP");
        assert_eq!(rules.accepts.len(), 1);
        assert_eq!(rules.kube_proxy.len(), 1);
        assert_eq!(
            rules.closed_chains[0].opening(Family::Ipv4),
            "iptables -t filter -I INPUT -p 112 -j ACCEPT"
        );
    }

    #[test]
    fn what_is_no_ruleset_is_said() {
        let mut rules = Rules::default();
        assert!(rules.add_nft("", &[]).is_err());
        assert!(rules.add_nft("{}", &[]).is_err());
        rules.add_iptables("-A\n-A \n:\n*\n-A X -p\n", false, &[]);
        assert_eq!((rules.drops, rules.accepts), (vec![], vec![]));
    }

    /// What other programs print is not ours to trust.
    #[test]
    fn no_ruleset_makes_it_panic() {
        use proptest::prelude::*;

        let words =
            ["*", ":", "-A", "-p", "vrrp", "-j", "DROP", "KUBE-X", "172.16.0.10", "\"", "{", "\n", " ", "é"];
        let texts = prop::collection::vec(prop::sample::select(words.to_vec()), 0..30);
        proptest!(ProptestConfig::with_cases(2000), |(text in texts)| {
            let (text, mut rules) = (text.concat(), Rules::default());
            rules.add_iptables(&text, true, &[address("172.16.0.10")]);
            let _ = rules.add_nft(&text, &[]);
            let _ = rules.add_nft(&NFT.replace("drop", &text.replace(['"', '\n', '{'], "")), &[address("172.16.0.10")]);
        });
    }
}
