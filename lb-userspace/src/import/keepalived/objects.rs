//! What instances track: `vrrp_script`, `vrrp_track_process`, `track_file`, `bfd_instance`.

use std::{net::IpAddr, time::Duration};

use super::{balancer, keywords::Context, number, reading::Reading, tree::Directive};
use crate::{
    config::model::duration_text,
    import::{incumbent::RouterScript, ledger::Fate},
};

/// A `vrrp_script`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// What the model has of it.
    pub script: RouterScript,
    /// `weight`, where no instance says another.
    pub weight: i16,
    /// `weight N reverse`
    pub reverse: bool,
    /// Whether an instance tracks it.
    pub used: bool,
}

/// A `vrrp_track_process`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its name or command line.
    pub process: String,
    /// `weight`
    pub weight: i16,
    /// `weight N reverse`
    pub reverse: bool,
}

const MAX_SECONDS: Duration = Duration::from_secs(u32::MAX as u64 / 1_000_000);

/// What is said of each line of a script that only asks for the balancer.
const BUILT_IN: &str = "xvip watches its own data plane, and needs no script for it";

impl Reading<'_, '_> {
    /// Reads a `vrrp_script`.
    pub fn script(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        let (mut weight, mut reverse) = (0, false);
        let mut script = RouterScript {
            name: name.clone(),
            command: Vec::new(),
            asks_for_balancer: false,
            interval: Duration::from_secs(1),
            timeout: None,
            rise: 1,
            fall: 1,
            user: None,
        };
        // The other lines' fates hang on what the script asks.
        for item in directive.items().iter().filter(|item| item.name() == "script") {
            if let Some((command, _)) = self.command(item) {
                script.asks_for_balancer = balancer::script_asks_for_balancer(&command);
                script.command = command;
                if script.asks_for_balancer {
                    let note = "it only asks whether the balancer is there: xvip knows that of its own data plane at once, \
                                and is in Fault without it";
                    self.notes.say(item.place, Fate::Improved, "", note);
                } else {
                    self.exact(item.place, format!("vrrp.track.command = {:?}", script.command));
                }
            }
        }
        let built_in = script.asks_for_balancer;
        for item in directive.items() {
            match item.name() {
                "script" => {}
                "interval" | "timeout" => {
                    let then = if item.name() == "interval" { "1s it is" } else { "it is the interval" };
                    let Some(time) = self.seconds(item, Duration::ZERO..=MAX_SECONDS, then) else { continue };
                    // keepalived makes 1 of 0.
                    let time = if time.is_zero() { Duration::from_secs(1) } else { time };
                    if item.name() == "interval" {
                        script.interval = time;
                    } else {
                        script.timeout = Some(time);
                    }
                    self.script_line(
                        item,
                        built_in,
                        format!("vrrp.track.{} = {:?}", item.name(), duration_text(time)),
                    );
                }
                "rise" | "fall" => {
                    let Some(count) = self.whole(item, 1..=i64::from(i32::MAX), "1 it is") else { continue };
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    if item.name() == "rise" {
                        script.rise = count;
                    } else {
                        script.fall = count;
                    }
                    self.script_line(item, built_in, format!("vrrp.track.{} = {count}", item.name()));
                }
                "weight" if built_in => {
                    (weight, reverse) = self.read_weight(item, 253);
                    let note = match weight {
                        _ if reverse => REVERSE,
                        1.. => {
                            "added to the priority for good: an xvip that cannot forward is in Fault instead"
                        }
                        _ => "an xvip that cannot forward is in Fault, and needs no lower priority",
                    };
                    let becomes = if weight > 0 { "vrrp.priority" } else { "" };
                    self.notes.say(item.place, Fate::Improved, becomes, note);
                }
                "weight" => (weight, reverse) = self.weight(item, 253),
                "user" => {
                    self.takes_no_block(item);
                    if let Some(user) = item.word(1) {
                        script.user = Some(user.to_owned());
                        self.script_line(item, built_in, format!("vrrp.track.user = {user:?}"));
                    } else {
                        self.value(item);
                    }
                }
                "init_fail" => {
                    self.takes_no_block(item);
                    let note = "xvip waits for a script's first result instead of taking it for a failure";
                    self.notes.say(item.place, Fate::Approximate, "", note);
                }
                _ => self.known(item, Context::Script),
            }
        }
        if script.command.is_empty() {
            self.notes.not_needed(directive.place, "keepalived ignores a vrrp_script without a command");
            return;
        }
        if let Some(above) = self.scripts.get(&name.value) {
            let note = format!(
                "keepalived takes the vrrp_script {:?} of line {}",
                name.value, above.script.name.place.line
            );
            self.notes.not_needed(directive.place, note);
            return;
        }
        self.scripts.insert(name.value, Script { script, weight, reverse, used: false });
    }

    fn script_line(&mut self, item: &Directive, built_in: bool, becomes: String) {
        if built_in {
            self.notes.not_needed(item.place, "xvip notices at once when its own data plane fails");
        } else {
            self.exact(item.place, becomes);
        }
    }

    /// `weight N [reverse]`, and what it becomes.
    pub fn weight(&mut self, item: &Directive, most: i64) -> (i16, bool) {
        let (weight, reverse) = self.read_weight(item, most);
        if reverse {
            self.notes.not_possible(item.place, REVERSE);
        } else if item.word(1).is_some() {
            self.exact(item.place, format!("vrrp.track.weight = {weight}"));
        }
        (weight, reverse)
    }

    /// `weight N [reverse]`; -254 and 254 become 253 as keepalived has it.
    fn read_weight(&mut self, item: &Directive, most: i64) -> (i16, bool) {
        self.takes_no_block(item);
        let Some(text) = item.word(1) else {
            self.value(item);
            return (0, false);
        };
        let reverse = item.word(2) == Some("reverse");
        let weight = number::whole(text, -most..=most).value().and_then(|weight| i16::try_from(weight).ok());
        if weight.is_none() {
            let note = format!("`weight` is -{most} to {most}, and keepalived refuses `{text}`: 0 it is");
            self.notes.say(item.place, Fate::Approximate, "vrrp.track.weight = 0", note);
        }
        (weight.unwrap_or_default().clamp(-253, 253), reverse)
    }

    /// Reads a `vrrp_track_process`.
    pub fn track_process_object(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        let mut process = Process { process: String::new(), weight: 0, reverse: false };
        // One without a name changes nothing.
        let named = |item: &&Directive| item.name() == "process" && item.word(1).is_some();
        for item in directive.items().iter().filter(named) {
            process.process =
                item.words.iter().skip(1).map(|word| word.text.as_str()).collect::<Vec<_>>().join(" ");
        }
        let balancer = balancer::names_balancer(&process.process);
        let (fate, becomes, note) = if balancer {
            let note = "xvip knows at once whether its own data plane is there, and needs no process for it";
            (Fate::Improved, "", note)
        } else {
            (Fate::Approximate, "[[vrrp.track]]", PROCESS)
        };
        self.notes.say(directive.place, fate, becomes, note);
        for item in directive.items() {
            match item.name() {
                "process" => {
                    self.takes_no_block(item);
                    if item.word(1).is_none() {
                        self.value(item);
                    } else {
                        self.notes.say(item.place, fate, becomes, note);
                    }
                }
                "weight" if !balancer => (process.weight, process.reverse) = self.weight(item, 254),
                "weight" => {
                    (process.weight, process.reverse) = self.read_weight(item, 254);
                    let becomes = if process.weight > 0 { "vrrp.priority" } else { "" };
                    self.notes.say(item.place, fate, becomes, note);
                }
                _ if balancer => {
                    self.notes.not_needed(item.place, "part of following the balancer's process");
                    self.takes_no_block(item);
                }
                _ => self.known(item, Context::Process),
            }
        }
        self.processes.insert(name.value, process);
    }

    /// Reads a `track_file` or `vrrp_track_file` at the top of the file.
    pub fn track_file_object(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        let note = "xvip follows no files: track a script that reads it";
        self.notes.not_possible(directive.place, note);
        let mut weight = 0;
        for item in directive.items() {
            if item.name() == "weight" {
                (weight, _) = self.read_weight(item, 254);
                self.notes.not_possible(item.place, "part of following files");
            } else {
                self.known(item, Context::TrackFile);
            }
        }
        self.others.insert(("track_file", name.value), weight);
    }

    /// Reads a `bfd_instance`.
    pub fn bfd_instance(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        let note = "xvip does not speak BFD; with version 3 and vrrp.advert_interval = \"50ms\", a dead node is noticed in 200ms";
        self.notes.not_possible(directive.place, note);
        let mut weight = 0;
        for item in directive.items() {
            match item.name() {
                "weight" => {
                    (weight, _) = self.read_weight(item, 253);
                    self.notes.not_possible(item.place, "part of BFD");
                }
                "neighbor_ip" | "neighbour_ip" | "source_ip" => {
                    if let Some(address) = self.value(item)
                        && address.parse::<IpAddr>().is_err()
                    {
                        self.notes.syntax(item.place, format!("`{address}` is no address"));
                        continue;
                    }
                    self.notes.not_possible(item.place, "part of BFD");
                }
                _ => self.known(item, Context::Bfd),
            }
        }
        self.others.insert(("track_bfd", name.value), weight);
    }

    /// Says what became of the scripts: keepalived does not run those that nothing tracks.
    pub fn finish_scripts(&mut self) {
        for Script { script, used, .. } in std::mem::take(&mut self.scripts).into_values() {
            let (fate, becomes, note) = match (used, script.asks_for_balancer) {
                (false, _) => {
                    (Fate::NotNeeded, "", "no instance tracks this script, so keepalived never runs it")
                }
                (true, true) => (Fate::Improved, "", BUILT_IN),
                (true, false) => (Fate::Exact, "[[vrrp.track]]", ""),
            };
            self.notes.say(script.name.place, fate, becomes, note);
        }
    }
}

/// What is said of a process that is no balancer.
pub const PROCESS: &str = "`pgrep -x` asks for it once a second; keepalived hears of its end from the kernel";

/// What is said of a weight that counts the other way round.
pub const REVERSE: &str = "xvip has no reverse weights: turn what the script says round, and import again";
