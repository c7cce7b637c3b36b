//! `global_defs`.

use super::{keywords::Context, reading::Reading, tree::Directive};
use crate::{
    config::model::VrrpVersion,
    import::{
        ledger::Fate,
        source::{At, Place},
    },
};

/// What holds for all of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Global {
    /// `router_id`
    pub router_id: Option<At<String>>,
    /// `vrrp_version`
    pub version: Option<VrrpVersion>,
    /// `vrrp_strict`
    pub strict: Option<Place>,
    /// `v3_checksum_as_v2`
    pub checksum_as_v2: bool,
    /// `script_user`
    pub script_user: Option<String>,
    /// `vrrp_down_timer_adverts`, where it is not 3.
    pub down_timer: Option<Place>,
}

/// keepalived's own numbers of gratuitous ARP are ours, too.
const ANNOUNCEMENTS: [(&str, &str, &str); 6] = [
    ("master_repeat", "5", "xvip sends 5 gratuitous ARPs at once, and cannot be told another number"),
    ("master_delay", "5", "xvip sends gratuitous ARPs again after 5s, and cannot be told another time"),
    ("master_refresh", "60", "xvip sends a gratuitous ARP every 60s, and cannot be told another time"),
    ("master_refresh_repeat", "1", "xvip refreshes with 1 gratuitous ARP, and cannot be told another number"),
    ("lower_prio_repeat", "5", "xvip answers a rival with 5 gratuitous ARPs, at most once a second"),
    ("lower_prio_delay", "5", "xvip sends gratuitous ARPs again after 5s, and cannot be told another time"),
];

impl Reading<'_, '_> {
    /// Reads a `global_defs`.
    pub fn global_defs(&mut self, directive: &Directive) {
        self.notes.not_needed(directive.place, "xvip.toml says it in the sections that it concerns");
        self.needs_block(directive);
        for item in directive.items() {
            self.global_item(item);
        }
    }

    fn global_item(&mut self, item: &Directive) {
        match item.name() {
            "router_id" => {
                if let Some(name) = self.value(item) {
                    self.exact(item.place, format!("node.name = {name:?}"));
                    self.global.router_id = Some(At::new(name.to_owned(), item.place));
                }
            }
            "vrrp_version" => {
                if let Some(version) = self.whole(item, 2..=3, "version 2 it is") {
                    self.global.version = Some(if version == 3 { VrrpVersion::V3 } else { VrrpVersion::V2 });
                    self.exact(item.place, format!("vrrp.version = {version}"));
                }
            }
            "vrrp_strict" => {
                self.takes_no_block(item);
                self.global.strict = Some(item.place);
                let note = "keepalived then refuses unicast peers and passwords, and drops packets to the VIP; xvip keeps \
                            to the protocol without that";
                self.notes.say(item.place, Fate::Improved, "", note);
            }
            "v3_checksum_as_v2" => {
                if let Some(on) = self.switch(item) {
                    self.global.checksum_as_v2 = on;
                    self.exact(item.place, if on { "vrrp.checksum = \"rfc9568\"" } else { "" });
                }
            }
            "script_user" => {
                if let Some(user) = item.word(1) {
                    self.takes_no_block(item);
                    self.global.script_user = Some(user.to_owned());
                    self.exact(item.place, format!("vrrp.track.user = {user:?}"));
                } else {
                    self.value(item);
                }
            }
            "notification_email" => self.notification_email(item),
            "vrrp_garp_interval" | "vrrp_gna_interval" => self.announcement_pause(item),
            "vrrp_down_timer_adverts" => {
                self.global.down_timer = self.down_timer(item).or(self.global.down_timer);
            }
            name => match name.strip_prefix("vrrp_garp_") {
                Some(which) if self.announcement(item, which) => {}
                _ => self.known(item, Context::Global),
            },
        }
    }

    /// `garp_master_repeat` and the like, by the name without `garp_`; false if it is none of them.
    pub fn announcement(&mut self, item: &Directive, which: &str) -> bool {
        let Some((_, ours, note)) = ANNOUNCEMENTS.iter().find(|(name, ..)| *name == which) else {
            return false;
        };
        if let Some(value) = self.value(item) {
            if value == *ours {
                self.notes.not_needed(item.place, "xvip does the same without being told");
            } else {
                self.notes.say(item.place, Fate::Approximate, "", *note);
            }
        }
        true
    }

    /// `vrrp_garp_interval` and the like: the pause between the frames of a burst.
    pub fn announcement_pause(&mut self, item: &Directive) {
        let Some(value) = self.value(item) else { return };
        if value.trim_start_matches(['0', '.']).is_empty() {
            let note =
                "xvip sends without a pause, too (keepalived 2.2.7 calls 0 out of range, and ignores it)";
            self.notes.not_needed(item.place, note);
        } else {
            let note = "xvip sends the frames of a burst without a pause";
            self.notes.say(item.place, Fate::Approximate, "", note);
        }
    }

    /// `down_timer_adverts`: gives its place where it is not 3.
    pub fn down_timer(&mut self, item: &Directive) -> Option<Place> {
        let count = self.whole(item, 1..=100, "3 it is")?;
        if count == 3 {
            self.notes.not_needed(item.place, "xvip waits for 3 advertisements, too (RFC 9568 section 6.1)");
            return None;
        }
        let note = format!(
            "xvip waits for 3 advertisements, as RFC 9568 section 6.1 has it, not for {count}: change vrrp.advert_interval instead"
        );
        self.notes.say(item.place, Fate::Approximate, "", note);
        Some(item.place)
    }

    fn notification_email(&mut self, item: &Directive) {
        self.needs_block(item);
        if item.items().is_empty() {
            self.notes.not_needed(item.place, "there is no address in it");
            return;
        }
        let note = "xvip sends no mail; a [[notify]] command or URL hears of the same";
        self.notes.not_possible(item.place, note);
        self.all(item, Fate::NotPossible, note);
    }
}
