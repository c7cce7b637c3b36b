//! `vrrp_instance`.

use std::{net::IpAddr, time::Duration};

use super::{keywords::Context, number, reading::Reading, tree::Directive};
use crate::{
    config::model::{VrrpVersion, duration_text},
    import::{
        incumbent::{Authentication, HmacAuthentication, RouterHook, RouterInstance, RouterTrack, RouterVip},
        ledger::Fate,
        source::{At, Place},
    },
};

/// An instance as it stands in the file, before the defaults.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    name: At<String>,
    state: Option<(bool, Place)>,
    interface: Option<At<String>>,
    vrid: Option<At<u8>>,
    priority: Option<At<u8>>,
    version: Option<At<VrrpVersion>>,
    advert_interval: Option<At<Duration>>,
    auth_type: Option<At<String>>,
    auth_pass: Option<At<String>>,
    hmac: Option<HmacAuthentication>,
    source: Option<At<IpAddr>>,
    unicast_words: Option<Place>,
    peers: Vec<At<IpAddr>>,
    pub(super) vips: Vec<At<RouterVip>>,
    no_preempt: Option<Place>,
    preempt_delay: Option<At<Duration>>,
    virtual_mac: Option<Place>,
    checksum_as_v2: Option<bool>,
    strict: Option<bool>,
    pub(super) tracks: Vec<RouterTrack>,
    pub(super) hooks: Vec<RouterHook>,
}

impl Draft {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name.value
    }
}

/// keepalived's `TIMER_MAX_SEC`.
const MAX_PREEMPT_DELAY: Duration = Duration::from_secs(1000);
const DEFAULT_PRIORITY: u8 = 100;
const OVERRIDDEN: &str = "the same directive below takes its place";

impl Reading<'_, '_> {
    /// Reads a `vrrp_instance`.
    pub fn instance(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        if self.instances.iter().any(|draft| draft.name.value == name.value) {
            let note = format!("keepalived ignores it: there is an instance {:?} above", name.value);
            self.notes.not_needed(directive.place, note);
            self.all(directive, Fate::NotNeeded, "in an instance that keepalived ignores");
            return;
        }
        let mut draft = Draft { name, ..Draft::default() };
        for item in directive.items() {
            self.instance_item(item, &mut draft);
        }
        self.instances.push(draft);
    }

    fn instance_item(&mut self, item: &Directive, draft: &mut Draft) {
        let place = item.place;
        match item.name() {
            "state" => self.state(item, draft),
            "interface" => {
                if let Some(name) = self.value(item) {
                    // The kernel's limit, which keepalived has from it.
                    if name.len() > 15 {
                        self.notes.syntax(place, format!("`{name}` is too long for an interface's name"));
                    } else {
                        self.exact(place, format!("node.interface = {name:?}"));
                        draft.interface = Some(At::new(name.to_owned(), place));
                    }
                }
            }
            "virtual_router_id" => {
                if let Some(text) = self.value(item) {
                    match number::whole(text, 1..=255).strict().and_then(|id| u8::try_from(id).ok()) {
                        Some(id) => {
                            self.exact(place, format!("vrrp.virtual_router_id = {id}"));
                            draft.vrid = Some(At::new(id, place));
                        }
                        None => self.notes.syntax(place, format!("a VRID is 1 to 255, not `{text}`")),
                    }
                }
            }
            "priority" => {
                if let Some(text) = self.value(item) {
                    let priority = number::whole(text, 1..=255)
                        .strict()
                        .and_then(|priority| u8::try_from(priority).ok());
                    if let Some(priority) = priority {
                        self.exact(place, format!("vrrp.priority = {priority}"));
                    } else {
                        let note = format!(
                            "a priority is 1 to 255, and keepalived makes {DEFAULT_PRIORITY} of `{text}`"
                        );
                        self.notes.say(
                            place,
                            Fate::Approximate,
                            format!("vrrp.priority = {DEFAULT_PRIORITY}"),
                            note,
                        );
                    }
                    draft.priority = Some(At::new(priority.unwrap_or(DEFAULT_PRIORITY), place));
                }
            }
            "version" => {
                if let Some(version) = self.whole(item, 2..=3, "the line is ignored") {
                    let version = if version == 3 { VrrpVersion::V3 } else { VrrpVersion::V2 };
                    self.exact(place, format!("vrrp.version = {}", u8::from(version)));
                    draft.version = Some(At::new(version, place));
                }
            }
            "advert_int" => {
                let range = Duration::from_millis(10)..=Duration::from_secs(255);
                let interval = self.seconds(item, range, "1s it is").map(|time| At::new(time, place));
                self.replace(&mut draft.advert_interval, interval);
            }
            "authentication" => self.authentication(item, draft),
            "auth_hmac" => self.auth_hmac(item, draft),
            "unicast_src_ip" | "mcast_src_ip" => self.source(item, draft),
            "unicast_peer" => self.unicast_peers(item, draft),
            "unicast_ttl" => {
                draft.unicast_words = draft.unicast_words.or(Some(place));
                if let Some(ttl) = self.whole(item, 0..=255, "255 it is") {
                    if ttl == 255 {
                        self.notes.not_needed(place, "xvip sends with 255, too");
                    } else {
                        let note = "xvip sends with 255, and takes nothing else over IPv4: remove this on the nodes that \
                                    keep keepalived for a while";
                        self.notes.not_possible(place, note);
                    }
                }
            }
            "virtual_ipaddress" | "virtual_ipaddress_excluded" => {
                self.needs_block(item);
                let advertised = item.name() == "virtual_ipaddress";
                self.exact(place, "service.vip");
                for vip in item.items() {
                    if let Some(vip) = self.vip(vip, advertised) {
                        draft.vips.push(vip);
                    }
                }
            }
            "virtual_routes" | "virtual_rules" => {
                self.needs_block(item);
                let note =
                    "xvip sets no routes and rules: let a [[notify]] command set them, on becoming Active";
                self.notes.not_possible(place, note);
                self.all(item, Fate::NotPossible, note);
            }
            "nopreempt" => {
                self.takes_no_block(item);
                if let Some(above) = draft.no_preempt.replace(place) {
                    self.notes.not_needed(above, OVERRIDDEN);
                }
            }
            "preempt" => {
                self.takes_no_block(item);
                self.exact(place, "vrrp.preempt = true");
                if let Some(place) = draft.no_preempt.take() {
                    self.notes.not_needed(place, "`preempt` below takes it back");
                }
            }
            "preempt_delay" => {
                let delay = self.seconds(item, Duration::ZERO..=MAX_PREEMPT_DELAY, "0s it is");
                self.replace(&mut draft.preempt_delay, delay.map(|delay| At::new(delay, place)));
            }
            "use_vmac" => self.virtual_mac(item, draft),
            "v3_checksum_as_v2" => {
                if let Some(on) = self.switch(item) {
                    draft.checksum_as_v2 = Some(on);
                    self.exact(place, if on { "vrrp.checksum = \"rfc9568\"" } else { "" });
                }
            }
            "strict_mode" => {
                draft.strict = self.switch(item);
                self.notes.say(place, Fate::Improved, "", "xvip keeps to the protocol without being told");
            }
            "track_interface" | "track_script" | "track_file" | "track_process" | "track_bfd" => {
                let tracks = self.tracks(item);
                draft.tracks.extend(tracks);
            }
            "notify_master"
            | "notify_backup"
            | "notify_fault"
            | "notify_stop"
            | "notify"
            | "notify_deleted"
            | "notify_master_rx_lower_pri" => {
                if let Some(hook) = self.hook(item, &draft.hooks) {
                    draft.hooks.push(hook);
                }
            }
            "down_timer_adverts" => {
                self.down_timer(item);
            }
            name => match name.strip_prefix("garp_") {
                Some(which) if self.announcement(item, which) => {}
                _ => {
                    if matches!(name, "unicast_fault_no_peer" | "check_unicast_src" | "old_unicast_checksum")
                    {
                        draft.unicast_words = draft.unicast_words.or(Some(place));
                    }
                    self.known(item, Context::Instance);
                }
            },
        }
    }

    /// Puts a value in whose line is judged later, when the whole instance is known; the last one counts.
    fn replace<T>(&mut self, slot: &mut Option<At<T>>, new: Option<At<T>>) {
        if let Some(new) = new
            && let Some(above) = slot.replace(new)
        {
            self.notes.not_needed(above.place, OVERRIDDEN);
        }
    }

    fn state(&mut self, item: &Directive, draft: &mut Draft) {
        let Some(state) = self.value(item) else { return };
        let note = match state {
            "MASTER" | "BACKUP" => "only how keepalived begins: the priority decides who owns the VIP",
            _ => "keepalived knows MASTER and BACKUP, and begins as BACKUP",
        };
        self.notes.not_needed(item.place, note);
        // keepalived never goes back from MASTER.
        let master = state == "MASTER" || draft.state.is_some_and(|(master, _)| master);
        draft.state = Some((master, item.place));
    }

    fn source(&mut self, item: &Directive, draft: &mut Draft) {
        let Some(text) = self.value(item) else { return };
        if item.name() == "unicast_src_ip" {
            draft.unicast_words = draft.unicast_words.or(Some(item.place));
        }
        match text.parse::<IpAddr>() {
            Ok(address) => {
                self.exact(item.place, format!("vrrp.unicast_source = \"{address}\""));
                draft.source = Some(At::new(address, item.place));
            }
            Err(_) => self.notes.syntax(item.place, format!("`{text}` is no address")),
        }
    }

    fn unicast_peers(&mut self, item: &Directive, draft: &mut Draft) {
        self.needs_block(item);
        draft.unicast_words = draft.unicast_words.or(Some(item.place));
        self.exact(item.place, "vrrp.unicast_peers");
        for peer in item.items() {
            self.takes_no_block(peer);
            let mut words = peer.words.iter();
            while let Some(word) = words.next() {
                match word.text.as_str() {
                    "min_ttl" | "max_ttl" => {
                        words.next();
                        let note = "over IPv4 xvip takes only a TTL of 255, which no router lets through";
                        self.notes.say(word.place, Fate::Improved, "", note);
                    }
                    text => match text.parse::<IpAddr>() {
                        // keepalived looks at the first word of a line only.
                        Ok(address) if word.place == peer.place => {
                            let before = if draft.peers.is_empty() { "" } else { "..., " };
                            self.exact(word.place, format!("vrrp.unicast_peers = [{before}\"{address}\"]"));
                            draft.peers.push(At::new(address, word.place));
                        }
                        Ok(address) => {
                            let note =
                                format!("keepalived takes one address from a line, and ignores {address}");
                            self.notes.say(word.place, Fate::Improved, "vrrp.unicast_peers", note);
                            draft.peers.push(At::new(address, word.place));
                        }
                        Err(_) => self.notes.syntax(word.place, format!("`{text}` is no address")),
                    },
                }
            }
        }
    }

    fn virtual_mac(&mut self, item: &Directive, draft: &mut Draft) {
        self.takes_no_block(item);
        draft.virtual_mac = Some(item.place);
        self.exact(item.place, "vrrp.virtual_mac = true");
        let mut words = item.words.iter().skip(1);
        while let Some(word) = words.next() {
            let note = match word.text.as_str() {
                "netlink_notify_msg" => "xvip makes no macvlan",
                "group" | "name" => {
                    words.next();
                    "xvip makes no macvlan"
                }
                address if address.contains(':') => {
                    let note = "the VIPs' Ethernet address is always that of RFC 9568 section 7.3";
                    self.notes.not_possible(word.place, note);
                    continue;
                }
                _ => "xvip makes no macvlan, and needs no name for it",
            };
            self.notes.not_needed(word.place, note);
        }
    }

    fn authentication(&mut self, item: &Directive, draft: &mut Draft) {
        self.needs_block(item);
        self.notes.say(item.place, Fate::Exact, "", "see its lines");
        for line in item.items() {
            match line.name() {
                "auth_type" => {
                    let kind = self.value(line).map(|kind| At::new(kind.to_owned(), line.place));
                    self.replace(&mut draft.auth_type, kind);
                }
                "auth_pass" => {
                    let pass = self.value(line).map(|pass| At::new(pass.to_owned(), line.place));
                    self.replace(&mut draft.auth_pass, pass);
                }
                _ => self.known(line, Context::Instance),
            }
        }
    }

    fn auth_hmac(&mut self, item: &Directive, draft: &mut Draft) {
        self.needs_block(item);
        self.exact(item.place, "[vrrp.auth_hmac]");
        let mut hmac = HmacAuthentication {
            place: item.place,
            keys: Vec::new(),
            active_key: None,
            mode: None,
            anti_replay: None,
            time_window: None,
        };
        for line in item.items() {
            self.takes_no_block(line);
            let id = |text: &str| number::whole(text, 1..=255).strict().and_then(|id| u8::try_from(id).ok());
            match (line.name(), line.word(1), line.word(2)) {
                ("key", Some(text), Some(value)) => match id(text) {
                    // The secret itself is not for reports.
                    Some(id) => {
                        self.exact(line.place, format!("[[vrrp.auth_hmac.key]] id = {id}"));
                        hmac.keys.push((id, value.to_owned()));
                    }
                    None => self.notes.syntax(line.place, format!("a key's id is 1 to 255, not `{text}`")),
                },
                ("key", ..) => self.notes.syntax(line.place, "a key has an id and a value"),
                ("active_key", Some(text), _) => match id(text) {
                    Some(id) => {
                        self.exact(line.place, format!("vrrp.auth_hmac.active_key = {id}"));
                        hmac.active_key = Some(id);
                    }
                    None => self.notes.syntax(line.place, format!("a key's id is 1 to 255, not `{text}`")),
                },
                ("mode", Some(mode @ ("enforce" | "permissive" | "receive-only")), _) => {
                    self.exact(line.place, format!("vrrp.auth_hmac.mode = {mode:?}"));
                    hmac.mode = Some(mode.to_owned());
                }
                ("anti_replay", Some(how @ ("time" | "monotonic")), _) => {
                    self.exact(line.place, format!("vrrp.auth_hmac.anti_replay = {how:?}"));
                    hmac.anti_replay = Some(how.to_owned());
                }
                ("time_window", Some(_), _) => {
                    if let Some(seconds) = self.whole(line, 1..=300, "the line is ignored") {
                        self.exact(line.place, format!("vrrp.auth_hmac.time_window = \"{seconds}s\""));
                        hmac.time_window = u64::try_from(seconds).ok().map(Duration::from_secs);
                    }
                }
                (name @ ("active_key" | "mode" | "anti_replay" | "time_window"), value, _) => {
                    let note = match value {
                        Some(value) => format!("keepalived ignores `{name} {value}`"),
                        None => format!("`{name}` needs a value"),
                    };
                    self.notes.syntax(line.place, note);
                }
                _ => self.known(line, Context::Instance),
            }
        }
        draft.hmac = Some(hmac);
    }

    /// Reads `notify_master` and the like; keepalived takes the first of each.
    pub fn hook(&mut self, item: &Directive, hooks: &[RouterHook]) -> Option<RouterHook> {
        let directive = item.name();
        if directive == "notify_deleted" && item.words.len() == 1 {
            self.takes_no_block(item);
            self.notes
                .not_needed(item.place, "xvip has no instance that is deleted: a reload says what changed");
            return None;
        }
        let (command, user) = self.command(item)?;
        if hooks.iter().any(|hook| hook.directive == directive) {
            self.notes.not_needed(item.place, format!("keepalived ignores it: there is a {directive} above"));
            return None;
        }
        match directive {
            "notify_deleted" | "notify_master_rx_lower_pri" => {
                let note = "xvip has no such event; a [[notify]] command hears of a rival as a problem";
                self.notes.not_possible(item.place, note);
                return None;
            }
            "notify" => {
                let note = "[[notify]] gives what keepalived appends (type, name, state, priority) as XVIP_* in the \
                            environment and as JSON on standard input";
                self.notes.say(item.place, Fate::Approximate, format!("notify.command = {command:?}"), note);
            }
            _ => {
                let note = "a [[notify]] command hears of each change, and XVIP_TO says of which";
                self.notes.say(item.place, Fate::Approximate, format!("notify.command = {command:?}"), note);
            }
        }
        if let Some(user) = user {
            self.exact(item.place, format!("notify.user = {user:?}"));
        }
        Some(RouterHook { place: item.place, directive: directive.to_owned(), command })
    }

    /// The instance with keepalived's defaults, and what they do to its lines. None if keepalived would not run it.
    pub fn finish_instance(&mut self, draft: Draft) -> Option<RouterInstance> {
        let name = draft.name.clone();
        if draft.vrid.is_some() {
            self.exact(name.place, format!("[[vrrp]] name = {:?}", name.value));
        } else {
            let note = "keepalived does not run an instance without virtual_router_id, nor does xvip";
            self.notes.not_possible(name.place, note);
        }
        if draft.interface.is_none() {
            let note = if draft.source.is_some() && !draft.peers.is_empty() {
                "it has no interface: name it with --interface"
            } else {
                "keepalived does not run an instance without interface: name it with --interface"
            };
            self.notes.say(name.place, Fate::Approximate, "node.interface", note);
        }
        self.excluded_vips(&draft.vips);
        let version = self.version(&draft);
        let authentication = self.finish_authentication(&draft, version);
        let (begins_as_master, priority) = self.finish_priority(&draft);
        let (no_preempt, preempt_delay) = self.preemption(&draft, begins_as_master, priority.value);
        let advert_interval = self.advert_interval(&draft, version);
        if draft.peers.is_empty()
            && let Some(place) = draft.unicast_words
        {
            let note = "no unicast_peer: keepalived's advertisements are multicast, and so are xvip's";
            self.notes.say(place, Fate::Approximate, "", note);
        }
        if draft.strict.unwrap_or(self.global.strict.is_some()) && !draft.peers.is_empty() {
            let note = "with vrrp_strict keepalived does not run an instance with unicast peers; xvip does";
            self.notes.say(name.place, Fate::Improved, "", note);
        }
        // Only now, when each of its lines has been judged.
        let virtual_router_id = draft.vrid?;
        Some(RouterInstance {
            begins_as_master,
            interface: draft.interface.unwrap_or_else(|| At::new(String::new(), name.place)),
            name,
            virtual_router_id,
            priority,
            version,
            advert_interval,
            authentication,
            unicast_source: draft.source,
            unicast_peers: draft.peers,
            vips: draft.vips,
            no_preempt,
            preempt_delay,
            virtual_mac: draft.virtual_mac,
            checksum_as_v2: version == VrrpVersion::V3
                && draft.checksum_as_v2.unwrap_or(self.global.checksum_as_v2),
            tracks: draft.tracks,
            hooks: draft.hooks,
        })
    }

    /// keepalived: the instance's, else 3 for IPv6, else the file's, else 2.
    fn version(&mut self, draft: &Draft) -> VrrpVersion {
        let ipv6 =
            draft.vips.iter().find(|vip| vip.value.advertised).is_some_and(|vip| vip.value.address.is_ipv6());
        match &draft.version {
            Some(At { value: VrrpVersion::V2, place }) if ipv6 => {
                let note =
                    "version 2 is for IPv4 alone (RFC 3768); keepalived sends it over IPv6 all the same";
                self.notes.say(*place, Fate::Approximate, "vrrp.version = 3", note);
                VrrpVersion::V3
            }
            Some(version) => version.value,
            None if ipv6 => VrrpVersion::V3,
            None => self.global.version.unwrap_or(VrrpVersion::V2),
        }
    }

    fn finish_priority(&mut self, draft: &Draft) -> (bool, At<u8>) {
        let master = draft.state.map(|(master, _)| master);
        let priority = draft.priority.clone().unwrap_or_else(|| match draft.state {
            Some((true, place)) => {
                let note = "without `priority`, keepalived takes 255 for `state MASTER`: the address owner's";
                self.notes.say(place, Fate::Approximate, "vrrp.priority = 255", note);
                At::new(255, place)
            }
            _ => At::new(DEFAULT_PRIORITY, draft.name.place),
        });
        (master.unwrap_or(priority.value == 255), priority)
    }

    /// xvip advertises the VIPs of the instance's family; those of the other one follow.
    fn excluded_vips(&mut self, vips: &[At<RouterVip>]) {
        let ipv6 = vips.iter().find(|vip| vip.value.advertised).map(|vip| vip.value.address.is_ipv6());
        for At { value: vip, place } in vips.iter().filter(|vip| !vip.value.advertised) {
            let becomes = format!("service.vip = \"{}/{}\"", vip.address, vip.prefix_len);
            if ipv6.is_some_and(|ipv6| ipv6 != vip.address.is_ipv6()) {
                self.exact(*place, becomes);
            } else {
                let note = "xvip advertises all VIPs of the instance's family: move it to virtual_ipaddress on the nodes that \
                            keep keepalived for a while, which ignore advertisements with other addresses than theirs";
                self.notes.say(*place, Fate::Approximate, becomes, note);
            }
        }
    }

    fn finish_authentication(&mut self, draft: &Draft, version: VrrpVersion) -> Authentication {
        let lines = [draft.auth_type.as_ref(), draft.auth_pass.as_ref()];
        let strict = draft.strict.unwrap_or(self.global.strict.is_some());
        let why_not = match (&draft.auth_type, &draft.auth_pass) {
            _ if draft.hmac.is_some() => Some("auth_hmac takes its place"),
            _ if version == VrrpVersion::V3 => {
                Some("keepalived has no passwords with version 3, and ignores it")
            }
            _ if strict => Some("keepalived ignores it with vrrp_strict"),
            (None, _) => Some("keepalived sends no password without an auth_type"),
            (Some(kind), _) if !matches!(kind.value.as_str(), "PASS" | "AH") => {
                Some("keepalived knows PASS and AH, and sends no password")
            }
            (Some(_), None) => Some("keepalived sends no password without an auth_pass"),
            (Some(_), Some(pass)) if pass.value.is_empty() => Some("keepalived sends no empty password"),
            _ => None,
        };
        if let Some(why_not) = why_not {
            for line in lines.into_iter().flatten() {
                self.notes.not_needed(line.place, why_not);
            }
            return draft.hmac.clone().map_or(Authentication::None, Authentication::Hmac);
        }
        let (Some(kind), Some(pass)) = (&draft.auth_type, &draft.auth_pass) else {
            return Authentication::None;
        };
        if kind.value == "AH" {
            let note = "xvip does not speak AH: write [vrrp.auth_hmac] once all nodes run xvip or keepalived 2.4.2 or later";
            self.notes.not_possible(kind.place, note);
            self.notes.not_possible(pass.place, "part of AH");
            return Authentication::Header(kind.place);
        }
        self.notes.exact(kind.place, "vrrp.auth_pass");
        let bytes = pass.value.len();
        let mut end = bytes.min(8);
        while !pass.value.is_char_boundary(end) {
            end -= 1;
        }
        if bytes > 8 {
            let note = format!("keepalived sends the first 8 of its {bytes} bytes, and so does xvip");
            self.notes.say(pass.place, Fate::Approximate, "vrrp.auth_pass", note);
        } else {
            self.notes.exact(pass.place, "vrrp.auth_pass");
        }
        Authentication::Password(At::new(pass.value[..end].to_owned(), pass.place))
    }

    fn preemption(&mut self, draft: &Draft, master: bool, priority: u8) -> (Option<Place>, Duration) {
        let mut no_preempt = draft.no_preempt;
        if let Some(place) = no_preempt {
            let why_not = match (master, priority) {
                (_, 255) => Some("keepalived ignores it with priority 255"),
                (true, _) => {
                    Some("keepalived ignores it with `state MASTER`: this node does take the VIP back")
                }
                (false, _) => None,
            };
            match why_not {
                Some(why_not) => {
                    self.notes.not_needed(place, why_not);
                    no_preempt = None;
                }
                None => self.exact(place, "vrrp.preempt = false"),
            }
        }
        let Some(delay) = &draft.preempt_delay else { return (no_preempt, Duration::ZERO) };
        let why_not = if master {
            Some("keepalived ignores it with `state MASTER`")
        } else if no_preempt.is_some() {
            Some("keepalived ignores it with nopreempt")
        } else if draft.strict.unwrap_or(self.global.strict.is_some()) {
            Some("keepalived ignores it with vrrp_strict")
        } else {
            None
        };
        if let Some(why_not) = why_not {
            self.notes.not_needed(delay.place, why_not);
            return (no_preempt, Duration::ZERO);
        }
        self.exact(delay.place, format!("vrrp.preempt_delay = {:?}", duration_text(delay.value)));
        (no_preempt, delay.value)
    }

    /// Whole seconds with version 2, hundredths up to 40.95s with version 3, rounded as keepalived does.
    fn advert_interval(&mut self, draft: &Draft, version: VrrpVersion) -> Duration {
        let Some(given) = &draft.advert_interval else { return Duration::from_secs(1) };
        let (step, most) = match version {
            VrrpVersion::V2 => (Duration::from_secs(1), Duration::from_secs(255)),
            VrrpVersion::V3 => (Duration::from_millis(10), Duration::from_millis(40_950)),
        };
        let steps = (given.value + step / 2).as_nanos() / step.as_nanos();
        let interval = step.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX)).clamp(step, most);
        let becomes = format!("vrrp.advert_interval = {:?}", duration_text(interval));
        if interval == given.value {
            self.exact(given.place, becomes);
        } else {
            let given_text = duration_text(given.value);
            let range = format!("{} to {} in steps of {0}", duration_text(step), duration_text(most));
            let note =
                format!("with version {} it is {range}: keepalived rounds {given_text}", u8::from(version));
            self.notes.say(given.place, Fate::Approximate, becomes, note);
        }
        interval
    }
}
