//! The packet filter's rules, from the programs that know them.

use std::{
    net::IpAddr,
    process::{Command, Stdio},
};

use crate::doctor::{facts::Looked, firewall::Rules};

/// Asks `nft`, or `iptables-save` where there is no `nft`; an error where neither tells.
pub fn read(vips: &[IpAddr]) -> Looked<Rules> {
    let mut rules = Rules::default();
    let mut whys = Vec::new();
    match output("nft", &["-j", "list", "ruleset"]) {
        Ok(json) => {
            if let Err(why) = rules.add_nft(&json, vips) {
                whys.push(why);
            }
        }
        Err(why) => whys.push(why),
    }
    // What the old kernel interface has, nft does not show; the new ones show the same twice, which costs nothing.
    let names = [
        (["iptables-legacy-save", "iptables-save"], false),
        (["ip6tables-legacy-save", "ip6tables-save"], true),
    ];
    for (programs, ip6) in names {
        match programs.iter().find_map(|program| output(program, &[]).ok()) {
            Some(text) => rules.add_iptables(&text, ip6, vips),
            None => whys.push(format!("{}: not there, or it failed", programs[1])),
        }
    }
    if rules.sources.is_empty() { Err(whys.join("; ")) } else { Ok(rules) }
}

fn output(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}
