//! The lines of `virtual_ipaddress`.

use std::net::IpAddr;

use super::{reading::Reading, tree::Directive};
use crate::import::{incumbent::RouterVip, ledger::Fate, source::At};

impl Reading<'_, '_> {
    /// An address with what `ip addr add` takes. What becomes of one that is not advertised, the whole instance tells.
    pub fn vip(&mut self, line: &Directive, advertised: bool) -> Option<At<RouterVip>> {
        self.takes_no_block(line);
        let text = line.name();
        let Some((address, prefix_len)) = address(text) else {
            self.notes.syntax(line.place, format!("`{text}` is no address"));
            return None;
        };
        let mut interface = None;
        let mut words = line.words.iter().skip(1);
        while let Some(word) = words.next() {
            let place = word.place;
            match word.text.as_str() {
                "dev" => {
                    if let Some(name) = words.next() {
                        interface = Some(name.text.clone());
                        let note = "a VIP lives on the instance's interface; where it must be another one, xvip needs an \
                                    instance with that interface";
                        self.notes.say(
                            place,
                            Fate::Approximate,
                            format!("node.interface = {:?}", name.text),
                            note,
                        );
                    } else {
                        self.notes.syntax(place, "`dev` needs an interface; keepalived ignores the address");
                        return None;
                    }
                }
                "brd" | "broadcast" => {
                    words.next();
                    self.notes.not_needed(place, "nobody broadcasts from a VIP");
                }
                "label" => {
                    words.next();
                    self.notes.not_possible(place, "xvip gives a VIP no label");
                }
                "scope" => {
                    words.next();
                    self.notes.not_possible(place, "a VIP of xvip has global scope");
                }
                "peer" => {
                    words.next();
                    self.notes.not_possible(place, "a VIP of xvip has no peer address");
                }
                "preferred_lft" => {
                    words.next();
                    self.notes.not_needed(
                        place,
                        "a VIP of xvip is deprecated for new connections of this node's own",
                    );
                }
                "noprefixroute" | "home" | "-nodad" | "mngtmpaddr" | "autojoin" | "no_track" | "use_vmac" => {
                    self.notes.not_needed(place, "xvip knows itself how a VIP is to be added");
                }
                other if self::address(other).is_some() => {
                    let note = "keepalived takes one address from a line, and ignores the rest";
                    self.notes.say(place, Fate::NotPossible, "", note);
                }
                other => {
                    let note =
                        format!("keepalived does not know `{other}` behind an address, and ignores it");
                    self.notes.say(place, Fate::Unknown, "", note);
                }
            }
        }
        if advertised {
            self.exact(line.place, format!("service.vip = \"{address}/{prefix_len}\""));
        }
        Some(At::new(RouterVip { address, prefix_len, interface, advertised }, line.place))
    }
}

/// `172.16.0.10/24`; without prefix length a host's.
fn address(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) =
        text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = match length {
        Some(length) => length.parse::<u8>().ok().filter(|length| *length <= most)?,
        None => most,
    };
    Some((address, length))
}
