//! The directives at the top of a file, and what all readers of directives share.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use super::{
    global::Global,
    instance::Draft,
    keywords::{self, Context},
    notes::Notes,
    number::{self, Number},
    objects::{Process, Script},
    sync_group::SyncGroup,
    tree::Directive,
    words,
};
use crate::{
    config::model::duration_text,
    import::{
        incumbent::{Proxy, RouterInstance},
        ledger::Fate,
        source::{At, Place},
    },
};

/// A file being read.
pub struct Reading<'n, 'l> {
    /// What became of its lines.
    pub notes: &'n mut Notes<'l>,
    /// `global_defs`
    pub global: Global,
    /// `vrrp_script`, by name.
    pub scripts: BTreeMap<String, Script>,
    /// `vrrp_track_process`, by name.
    pub processes: BTreeMap<String, Process>,
    /// `track_file`, `vrrp_track_file`, `bfd_instance`: weights by directive and name.
    pub others: BTreeMap<(&'static str, String), i16>,
    /// `virtual_server_group`: addresses and ports, by name.
    pub server_groups: BTreeMap<String, Vec<(std::net::IpAddr, u16)>>,
    /// `vrrp_instance`, in order.
    pub instances: Vec<Draft>,
    /// `vrrp_sync_group`, in order.
    pub sync_groups: Vec<SyncGroup>,
    /// `virtual_server`, in order.
    pub proxies: Vec<Proxy>,
    /// Numbers with something behind them, and what there is to say of them.
    trailing: BTreeMap<Place, String>,
}

impl<'n, 'l> Reading<'n, 'l> {
    /// Nothing read yet.
    pub fn new(notes: &'n mut Notes<'l>) -> Self {
        Self {
            notes,
            global: Global::default(),
            scripts: BTreeMap::new(),
            processes: BTreeMap::new(),
            others: BTreeMap::new(),
            server_groups: BTreeMap::new(),
            instances: Vec::new(),
            sync_groups: Vec::new(),
            proxies: Vec::new(),
            trailing: BTreeMap::new(),
        }
    }

    /// Reads a whole file.
    pub fn file(&mut self, directives: &[Directive]) {
        // What instances and groups refer to may stand behind them.
        for directive in directives {
            match directive.name() {
                "global_defs" => self.global_defs(directive),
                "vrrp_script" => self.script(directive),
                "vrrp_track_process" => self.track_process_object(directive),
                "track_file" | "vrrp_track_file" => self.track_file_object(directive),
                "bfd_instance" => self.bfd_instance(directive),
                "virtual_server_group" => self.virtual_server_group(directive),
                _ => {}
            }
        }
        for directive in directives {
            match directive.name() {
                "global_defs"
                | "vrrp_script"
                | "vrrp_track_process"
                | "track_file"
                | "vrrp_track_file"
                | "bfd_instance"
                | "virtual_server_group" => {}
                "vrrp_instance" => self.instance(directive),
                "vrrp_sync_group" => self.sync_group(directive),
                "virtual_server" => self.virtual_server(directive),
                "static_ipaddress" | "static_routes" | "static_rules" => self.kept_by_the_system(directive),
                "garp_group" => self.known_block(directive, Context::GarpGroup),
                "SSL" => self.known_block(directive, Context::Ssl),
                "track_group" | "linkbeat_interfaces" | "interface_up_down_delays" => {
                    self.value_block(directive)
                }
                _ => self.known(directive, Context::Root),
            }
        }
    }

    /// What was read, with everything that only the whole file tells.
    pub fn finish(mut self) -> (Vec<RouterInstance>, Vec<(At<String>, Vec<String>)>, Vec<Proxy>) {
        let groups = std::mem::take(&mut self.sync_groups);
        let sync_groups = self.join_groups(groups);
        let drafts = std::mem::take(&mut self.instances);
        let instances = drafts.into_iter().filter_map(|draft| self.finish_instance(draft)).collect();
        self.finish_scripts();
        for (place, note) in std::mem::take(&mut self.trailing) {
            self.notes.say(place, Fate::Approximate, "", note);
        }
        (instances, sync_groups, self.proxies)
    }

    /// A directive that has no effect on the model: says what the table of key words knows of it.
    pub fn known(&mut self, directive: &Directive, context: Context) {
        let name = directive.name();
        if let Some(known) = keywords::find(context, name) {
            self.notes.say(directive.place, known.fate, known.becomes, known.note);
            self.all(directive, known.fate, "part of the block");
            return;
        }
        if keywords::is_include(name) {
            let file = directive.word(1).unwrap_or("");
            let note = format!("{file} is not read: put its text in this line's place, and import again");
            self.notes.not_possible(directive.place, note);
            self.all(directive, Fate::Unknown, "in a block that is not known");
            return;
        }
        if name.starts_with('$') {
            let note =
                format!("{name} is not defined in this file: put in what it stands for, and import again");
            self.notes.not_possible(directive.place, note);
            self.all(directive, Fate::Unknown, "in a block that is not known");
            return;
        }
        let note = match keywords::elsewhere(name) {
            Some(place) => format!("keepalived knows `{name}` only {place}, and ignores it here"),
            None if directive.block.is_some() => {
                format!("`{name}` is not a block of keepalived 2.2.7 to 2.4")
            }
            None => {
                format!("`{name}` is not a key word of keepalived 2.2.7 to 2.4 here; keepalived ignores it")
            }
        };
        self.notes.say(directive.place, Fate::Unknown, "", note);
        self.all(directive, Fate::Unknown, "in a block that is not known");
    }

    /// A block whose directives have no effect on the model.
    pub fn known_block(&mut self, directive: &Directive, context: Context) {
        let known = keywords::find(Context::Root, directive.name());
        self.notes.say(
            directive.place,
            known.map_or(Fate::NotNeeded, |known| known.fate),
            "",
            known.map_or("", |known| known.note),
        );
        self.needs_block(directive);
        for item in directive.items() {
            if item.block.is_some() {
                self.value_block_in(item, context);
            } else {
                self.known(item, context);
            }
        }
    }

    /// A block of mere values that has no effect on the model.
    pub fn value_block(&mut self, directive: &Directive) {
        self.value_block_in(directive, Context::Root);
    }

    fn value_block_in(&mut self, directive: &Directive, context: Context) {
        self.needs_block(directive);
        let Some(known) = keywords::find(context, directive.name()) else {
            self.known(directive, context);
            return;
        };
        self.notes.say(directive.place, known.fate, known.becomes, known.note);
        self.all(directive, known.fate, "part of the block");
    }

    /// Says the same of everything in a block.
    pub fn all(&mut self, directive: &Directive, fate: Fate, note: &str) {
        for item in directive.items() {
            self.notes.say(item.place, fate, "", note);
            self.all(item, fate, note);
        }
    }

    /// A directive that takes no block.
    pub fn takes_no_block(&mut self, directive: &Directive) {
        if let Some(block) = &directive.block {
            self.notes.syntax(block.open, format!("`{}` takes no block", directive.name()));
            self.all(directive, Fate::SyntaxError, "in a block that must not be there");
        }
    }

    /// A directive that is nothing without a block.
    pub fn needs_block(&mut self, directive: &Directive) {
        if directive.block.is_none() {
            self.notes.syntax(directive.place, format!("`{}` needs a block: {{ ... }}", directive.name()));
        }
    }

    /// The name behind a directive that begins a block, and the block.
    pub fn named_block(&mut self, directive: &Directive) -> Option<At<String>> {
        self.needs_block(directive);
        let Some(name) = directive.words.get(1) else {
            self.notes.syntax(directive.place, format!("`{}` needs a name", directive.name()));
            self.all(directive, Fate::SyntaxError, "in a block without a name");
            return None;
        };
        Some(At::new(name.text.clone(), directive.place))
    }

    /// The one value of a directive; what follows it is ignored, as keepalived does.
    pub fn value<'d>(&mut self, directive: &'d Directive) -> Option<&'d str> {
        self.takes_no_block(directive);
        if let Some(word) = directive.words.get(2) {
            self.notes.not_needed(word.place, "keepalived ignores the rest of the line");
        }
        let Some(word) = directive.words.get(1) else {
            self.notes.syntax(directive.place, format!("`{}` needs a value", directive.name()));
            return None;
        };
        Some(&word.text)
    }

    /// A directive without value, or with `on` or `off`.
    pub fn switch(&mut self, directive: &Directive) -> Option<bool> {
        self.takes_no_block(directive);
        let on = number::switch(directive.word(1));
        if on.is_none() {
            let note = format!("`{}` is `on` or `off`; keepalived ignores the line", directive.name());
            self.notes.say(directive.place, Fate::Approximate, "", note);
        }
        on
    }

    /// The whole number that is a directive's value. `then` is what keepalived does with one that it refuses.
    pub fn whole(&mut self, directive: &Directive, range: RangeInclusive<i64>, then: &str) -> Option<i64> {
        let text = self.value(directive)?;
        let number = number::whole(text, range.clone());
        let range = format!("{} to {}", range.start(), range.end());
        self.complain(directive, text, &number, &range, then);
        number.value()
    }

    /// The seconds that are a directive's value.
    pub fn seconds(
        &mut self,
        directive: &Directive,
        range: RangeInclusive<Duration>,
        then: &str,
    ) -> Option<Duration> {
        let text = self.value(directive)?;
        let number = number::seconds(text, range.clone());
        let range = format!("{} to {}", duration_text(*range.start()), duration_text(*range.end()));
        self.complain(directive, text, &number, &range, then);
        number.value()
    }

    fn complain<T>(
        &mut self,
        directive: &Directive,
        text: &str,
        number: &Number<T>,
        range: &str,
        then: &str,
    ) {
        let name = directive.name();
        match number {
            Number::Good(_) => {}
            Number::Trailing(_) => {
                let note =
                    format!("`{name}` is a mere number, and keepalived ignores what follows it in `{text}`");
                self.trailing.insert(directive.place, note);
            }
            Number::Bad => {
                let note = format!("`{name}` is {range}, and keepalived refuses `{text}`: {then}");
                self.notes.say(directive.place, Fate::Approximate, "", note);
            }
        }
    }

    /// The command of a directive, split as keepalived does, and the user that stands behind it.
    pub fn command(&mut self, directive: &Directive) -> Option<(Vec<String>, Option<String>)> {
        self.takes_no_block(directive);
        let line = words::escaped(&directive.text);
        let command = line.as_ref().ok().and_then(|line| line.get(1)).map(|command| words::escaped(command));
        let command = match command {
            Some(Ok(command)) if !command.is_empty() => command,
            Some(Ok(_)) | None if line.is_ok() => {
                self.notes.syntax(directive.place, format!("`{}` needs a command", directive.name()));
                return None;
            }
            _ => {
                self.notes.syntax(directive.place, "a quotation mark in the command has no second one");
                return None;
            }
        };
        let user = line.ok().and_then(|line| line.get(2).cloned());
        Some((command, user))
    }

    fn kept_by_the_system(&mut self, directive: &Directive) {
        self.needs_block(directive);
        let note = "xvip sets no addresses, routes or rules but its VIPs: let the system's network configuration do it";
        self.notes.not_possible(directive.place, note);
        self.all(directive, Fate::NotPossible, note);
    }

    /// A directive does the same in xvip; or nearly so, where there is something to say of its number.
    pub fn exact(&mut self, place: Place, becomes: impl Into<String>) {
        match self.trailing.remove(&place) {
            Some(note) => self.notes.say(place, Fate::Approximate, becomes, note),
            None => self.notes.exact(place, becomes),
        }
    }
}
