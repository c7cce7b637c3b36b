//! `track_script`, `track_interface`, `track_process`, `track_file` and `track_bfd` in an instance or a group.

use super::{balancer, number, objects::REVERSE, reading::Reading, tree::Directive};
use crate::import::{
    incumbent::{RouterTrack, RouterTracked},
    ledger::Fate,
};

impl Reading<'_, '_> {
    /// What a block tracks.
    pub fn tracks(&mut self, block: &Directive) -> Vec<RouterTrack> {
        self.needs_block(block);
        if let Some(word) = block.words.get(1) {
            self.notes.not_needed(word.place, "keepalived ignores the rest of the line");
        }
        self.notes.say(block.place, Fate::Exact, "[[vrrp.track]]", "see its lines");
        block.items().iter().filter_map(|item| self.track(block.name(), item)).collect()
    }

    fn track(&mut self, kind: &str, item: &Directive) -> Option<RouterTrack> {
        self.takes_no_block(item);
        let name = item.name();
        let (what, default, default_reverse) = match kind {
            "track_interface" => (RouterTracked::Interface(name.to_owned()), 0, false),
            "track_script" => {
                let Some(script) = self.scripts.get_mut(name) else {
                    self.notes.say(
                        item.place,
                        Fate::NotNeeded,
                        "",
                        format!("there is no vrrp_script {name:?}: keepalived ignores it"),
                    );
                    return None;
                };
                script.used = true;
                if script.script.name.place > item.place {
                    let note = "keepalived 2.2.7 ignores it, since the vrrp_script stands below; xvip does what is meant";
                    self.notes.say(item.place, Fate::Improved, "", note);
                }
                (RouterTracked::Script(script.script.clone()), script.weight, script.reverse)
            }
            "track_process" => {
                let Some(process) = self.processes.get(name) else {
                    self.notes.say(
                        item.place,
                        Fate::NotNeeded,
                        "",
                        format!("there is no vrrp_track_process {name:?}: keepalived ignores it"),
                    );
                    return None;
                };
                (RouterTracked::Process(process.process.clone()), process.weight, process.reverse)
            }
            other => {
                let kind = if other == "track_file" { "track_file" } else { "track_bfd" };
                let weight = self.others.get(&(kind, name.to_owned())).copied();
                (RouterTracked::Other(kind.to_owned()), weight.unwrap_or_default(), false)
            }
        };
        let (weight, reverse) = self.track_weight(item, default, default_reverse)?;
        let track = RouterTrack { place: item.place, what, weight };
        let shown = if weight == 0 { String::new() } else { format!(", weight = {weight}") };
        match &track.what {
            _ if reverse => {
                self.notes.not_possible(item.place, REVERSE);
                return None;
            }
            RouterTracked::Interface(name) => {
                self.exact(item.place, format!("[[vrrp.track]] interface = {name:?}{shown}"));
            }
            RouterTracked::Script(script) if script.asks_for_balancer => {
                let note = match weight {
                    0 => "built in: an xvip whose data plane fails is in Fault".to_owned(),
                    1.. => format!(
                        "built in: keepalived advertises {weight} more while the balancer is there, and xvip always; an xvip \
                         whose data plane fails is in Fault, whatever the others' priorities"
                    ),
                    _ => "built in: an xvip whose data plane fails is in Fault, whatever the others' priorities".to_owned(),
                };
                self.notes.say(
                    item.place,
                    Fate::Improved,
                    if weight > 0 { "vrrp.priority" } else { "" },
                    note,
                );
            }
            RouterTracked::Script(script) => {
                self.exact(item.place, format!("[[vrrp.track]] command = {:?}{shown}", script.command));
            }
            RouterTracked::Process(process) if balancer::names_balancer(process) => {
                let note = "built in: an xvip whose data plane fails is in Fault";
                self.notes.say(
                    item.place,
                    Fate::Improved,
                    if weight > 0 { "vrrp.priority" } else { "" },
                    note,
                );
            }
            RouterTracked::Process(_) => self.notes.not_possible(
                item.place,
                "xvip follows no processes: track a script instead, [\"/usr/bin/pgrep\", \"-x\", NAME]",
            ),
            RouterTracked::Other(kind) if kind == "track_file" => {
                self.notes.not_possible(item.place, "xvip follows no files: track a script that reads it");
            }
            RouterTracked::Other(_) => self.notes.not_possible(item.place, "xvip does not speak BFD"),
        }
        Some(track)
    }

    /// `NAME weight N [reverse|noreverse]`; keepalived ignores a whole line that it cannot read.
    fn track_weight(&mut self, item: &Directive, default: i16, default_reverse: bool) -> Option<(i16, bool)> {
        let Some(word) = item.words.get(1) else { return Some((default, default_reverse)) };
        if word.text != "weight" {
            let note =
                format!("keepalived knows `weight` here, not `{}`, and ignores the whole line", word.text);
            self.notes.say(word.place, Fate::Unknown, "", note);
            return None;
        }
        let Some(text) = item.word(2) else {
            self.notes.syntax(word.place, "`weight` needs a number; keepalived ignores the whole line");
            return None;
        };
        let weight =
            match number::whole(text, -254..=254).value().and_then(|weight| i16::try_from(weight).ok()) {
                Some(weight) => weight.clamp(-253, 253),
                None => {
                    let note =
                        format!("a weight is -253 to 253: keepalived takes {default} instead of `{text}`");
                    self.notes.say(word.place, Fate::Approximate, "", note);
                    default
                }
            };
        let reverse = match item.word(3) {
            Some("reverse") => true,
            Some("noreverse") => false,
            _ => default_reverse,
        };
        Some((weight, reverse))
    }
}
