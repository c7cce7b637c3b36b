//! `[[vrrp]]`, `[vrrp.auth_hmac]` and `[[vrrp.track]]`.

use std::{net::IpAddr, num::NonZeroU8, path::Path, time::Duration};

use toml::Spanned;

use super::{HOUR, contents, private};
use crate::config::{
    hmac_secret::hmac_secret,
    kinds::{ANY, Flag, INTERFACE, List, NAME, NODE_ADDRESS, OneOf, PATH, Time, WORD, Whole},
    model::{
        AntiReplay, AuthHmac, AuthMode, DEFAULT_ADVERT_INTERVAL_V2, DEFAULT_ADVERT_INTERVAL_V3,
        DEFAULT_PREEMPT, DEFAULT_PREEMPT_DELAY, DEFAULT_PRIORITY, DEFAULT_TRACK_COUNT,
        DEFAULT_TRACK_INTERVAL, DEFAULT_TRACK_USER, DEFAULT_TRACK_WEIGHT, DEFAULT_VIRTUAL_MAC,
        DEFAULT_VRRP_VERSION, HmacKey, HmacSecret, MAX_TIME_WINDOW, MAX_TRACK_WEIGHT, MIN_TIME_WINDOW, Track,
        Tracked, VrrpChecksum, VrrpInstance, VrrpVersion, default_time_window, duration_text,
    },
    parse::Facts,
    reader::{At, Place, Table},
};

/// As keepalived's `preempt_delay`.
const PREEMPT_DELAY: Time = Time::between(Duration::ZERO, Duration::from_secs(1000));
/// RFC 3768 §5.3.7: one byte of seconds.
const ADVERT_INTERVAL_V2: Time =
    Time { range: Duration::from_secs(1)..=Duration::from_secs(255), step: Duration::from_secs(1) };
/// RFC 9568 §5.2.7: twelve bits of centiseconds.
const ADVERT_INTERVAL_V3: Time = Time {
    range: Duration::from_millis(10)..=Duration::from_millis(40_950),
    step: Duration::from_millis(10),
};
/// With shorter ones, a pause that a busy machine takes now and then is a take-over.
const STEADY_INTERVAL: Duration = Duration::from_millis(50);
const TIME_WINDOW: Time = Time { range: MIN_TIME_WINDOW..=MAX_TIME_WINDOW, step: Duration::from_secs(1) };
/// A pause between two runs of a program, and how long one may take: shorter ones would be a busy loop.
const SCRIPT_TIME: Time = Time::between(Duration::from_millis(100), HOUR);
/// As the wire has it: one byte, and 0 is nobody's.
const ID: Whole<u8> = Whole(1..=255);

const CHECKSUM: OneOf<VrrpChecksum> =
    OneOf(&[("keepalived", VrrpChecksum::Keepalived), ("rfc9568", VrrpChecksum::Rfc9568)]);
const AUTH_MODE: OneOf<AuthMode> = OneOf(&[
    ("receive-only", AuthMode::ReceiveOnly),
    ("permissive", AuthMode::Permissive),
    ("enforce", AuthMode::Enforce),
]);
const ANTI_REPLAY: OneOf<AntiReplay> =
    OneOf(&[("time", AntiReplay::Time), ("monotonic", AntiReplay::Monotonic)]);

/// The value of `vrrp.track.kind`, and the keys that only this kind has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TrackKind {
    Interface,
    Script,
}
const TRACK_KIND: OneOf<TrackKind> =
    OneOf(&[("interface", TrackKind::Interface), ("script", TrackKind::Script)]);
const INTERFACE_KEYS: &[&str] = &["interface"];
const SCRIPT_KEYS: &[&str] = &["command", "user", "interval", "timeout", "rise", "fall"];

const MULTICAST: &str =
    "without `unicast_peers` the advertisements are multicast, only their source is this one";

/// How a secret is written, and where it comes from.
const SECRET: &str = "\"hex:...\" with the output of `openssl rand -hex 32`, the same on all nodes";

/// What `xvip check` prints for `auth_pass`.
pub(in crate::config) const PASS_MASK: &str = "********";
/// What it prints for the secret of an HMAC key: as long as one must be, so that the output is a configuration.
pub(in crate::config) const HMAC_MASK: &str = "********************************";

/// A `[[vrrp]]` as read; None where the file is wrong, which was said.
pub(in crate::config) struct VrrpDraft {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Option<At<String>>,
    pub(in crate::config) version: Option<At<u8>>,
    pub(in crate::config) virtual_router_id: Option<At<u8>>,
    pub(in crate::config) priority: Option<At<u8>>,
    pub(in crate::config) advert_interval: Option<At<Duration>>,
    pub(in crate::config) preempt: Option<At<bool>>,
    pub(in crate::config) preempt_delay: Option<At<Duration>>,
    pub(in crate::config) unicast_source: Option<At<IpAddr>>,
    pub(in crate::config) unicast_peers: At<Vec<Spanned<IpAddr>>>,
    auth_pass: Option<String>,
    auth_hmac: Option<AuthHmac>,
    pub(in crate::config) checksum: At<VrrpChecksum>,
    pub(in crate::config) sync_group: Option<At<String>>,
    virtual_mac: bool,
    pub(in crate::config) witnesses: At<Vec<Spanned<IpAddr>>>,
    pub(in crate::config) tracks: Vec<TrackDraft>,
}

/// A `[[vrrp.track]]` as read.
pub(in crate::config) struct TrackDraft {
    pub(in crate::config) what: Option<At<Tracked>>,
    weight: At<i16>,
}

/// A `[[vrrp.auth_hmac.key]]` as read.
struct HmacKeyDraft {
    id: Option<At<u8>>,
    secret: Option<HmacSecret>,
}

/// One `[[vrrp]]`.
pub(super) fn instance(t: Table<'_>, facts: &Facts<'_>) -> VrrpDraft {
    let version = t.read("version", Whole(2..=3)).or_if_absent(DEFAULT_VRRP_VERSION.into());
    let number = version.as_ref().map(|version| version.value);
    let name = t.read("name", NAME).required("\"main\"");
    let virtual_router_id = t.read("virtual_router_id", ID).required("60");
    let priority = t.read("priority", Whole(1..=255)).or_if_absent(DEFAULT_PRIORITY.get());
    let advert_interval = advert_interval(&t, number);
    let draft = VrrpDraft {
        place: t.place(),
        name,
        version,
        virtual_router_id,
        priority,
        auth_hmac: t.table("auth_hmac").and_then(|table| auth_hmac(table, advert_interval.value, facts)),
        advert_interval: Some(advert_interval),
        preempt: t.read("preempt", Flag).or_if_absent(DEFAULT_PREEMPT),
        preempt_delay: t.read("preempt_delay", PREEMPT_DELAY).or_if_absent(DEFAULT_PREEMPT_DELAY),
        unicast_source: t.read("unicast_source", NODE_ADDRESS).optional("\"172.16.0.2\""),
        unicast_peers: addresses(&t, "unicast_peers", "[\"172.16.0.3\"]"),
        auth_pass: auth_pass(&t, number),
        checksum: checksum(&t, number),
        sync_group: t.read("sync_group", NAME).optional("\"main\""),
        virtual_mac: t.read("virtual_mac", Flag).or(DEFAULT_VIRTUAL_MAC).value,
        witnesses: addresses(&t, "witness", "[\"172.16.0.1\"]"),
        tracks: t.tables("track").into_iter().map(|table| track(table, facts)).collect(),
    };
    if let (Some(_), Some(place)) = (t.place_of("auth_pass"), t.place_of("auth_hmac")) {
        let message = "`[vrrp.auth_hmac]` and `auth_pass` exclude each other";
        t.reader.error(&place, message, "remove `auth_pass`, on all nodes");
    }
    unicast(&t, &draft);
    witnesses(&t, &draft);
    tracks(&t, &draft);
    t.finish();
    draft
}

impl VrrpDraft {
    pub(super) fn finished(self) -> Option<VrrpInstance> {
        Some(VrrpInstance {
            name: self.name?.value,
            version: if self.version?.value == 2 { VrrpVersion::V2 } else { VrrpVersion::V3 },
            virtual_router_id: NonZeroU8::new(self.virtual_router_id?.value)?,
            priority: NonZeroU8::new(self.priority?.value)?,
            advert_interval: self.advert_interval?.value,
            preempt: self.preempt?.value,
            preempt_delay: self.preempt_delay?.value,
            unicast_source: self.unicast_source.map(|source| source.value),
            unicast_peers: self.unicast_peers.value.into_iter().map(Spanned::into_inner).collect(),
            auth_pass: self.auth_pass,
            auth_hmac: self.auth_hmac,
            checksum: self.checksum.value,
            sync_group: self.sync_group.map(|name| name.value),
            virtual_mac: self.virtual_mac,
            witnesses: self.witnesses.value.into_iter().map(Spanned::into_inner).collect(),
            tracks: self.tracks.into_iter().map(TrackDraft::finished).collect::<Option<_>>()?,
        })
    }
}

impl TrackDraft {
    fn finished(self) -> Option<Track> {
        Some(Track { what: self.what?.value, weight: self.weight.value })
    }
}

impl HmacKeyDraft {
    fn finished(self) -> Option<HmacKey> {
        Some(HmacKey { id: NonZeroU8::new(self.id?.value)?, secret: self.secret? })
    }
}

/// A list of addresses, each once; empty without the key.
fn addresses(t: &Table<'_>, key: &'static str, example: &str) -> At<Vec<Spanned<IpAddr>>> {
    let list = t.read(key, List(NODE_ADDRESS)).optional(example);
    let list = list.unwrap_or_else(|| At { value: Vec::new(), place: t.place(), given: false });
    for (index, item) in list.value.iter().enumerate() {
        let address = item.get_ref();
        if list.value.iter().take(index).any(|earlier| earlier.get_ref() == address) {
            let place = list.place.part(item.span());
            t.reader.error(&place, format!("`{key}` has {address} twice"), "remove one of the two");
        }
    }
    list
}

fn advert_interval(t: &Table<'_>, version: Option<u8>) -> At<Duration> {
    let (kind, default) = match version {
        Some(2) => (ADVERT_INTERVAL_V2, DEFAULT_ADVERT_INTERVAL_V2),
        _ => (ADVERT_INTERVAL_V3, DEFAULT_ADVERT_INTERVAL_V3),
    };
    let interval = t.read("advert_interval", kind).or(default);
    if interval.value < STEADY_INTERVAL {
        let message = format!(
            "with this `advert_interval` a pause of {} ms, which a busy machine may take, is a take-over",
            3 * interval.value.as_millis()
        );
        t.reader.warning(&interval.place, message, "write: advert_interval = \"50ms\"");
    }
    interval
}

fn auth_pass(t: &Table<'_>, version: Option<u8>) -> Option<String> {
    let auth_pass = t.read("auth_pass", ANY).optional("\"1111\"")?;
    let place = &auth_pass.place;
    if version == Some(3) {
        let message = "`auth_pass` is for version 2 only: version 3 has no password (RFC 9568 §9)";
        t.reader.error(place, message, "remove it, or write: version = 2, or [vrrp.auth_hmac] instead");
    }
    match auth_pass.value.len() {
        0 => t.reader.error(
            place,
            "`auth_pass` must not be empty",
            "write: auth_pass = \"1111\", or remove it",
        ),
        1..=8 => {}
        length => t.reader.error(
            place,
            format!("`auth_pass` must not be longer than 8 bytes (RFC 2338 §5.3.10); this has {length}"),
            "write: auth_pass = its first 8 bytes, which is what keepalived sends",
        ),
    }
    if auth_pass.value == PASS_MASK {
        let message = "`auth_pass` is what `xvip check` prints in place of a password";
        t.reader.warning(place, message, "write: auth_pass = the password itself");
    }
    Some(auth_pass.value)
}

fn checksum(t: &Table<'_>, version: Option<u8>) -> At<VrrpChecksum> {
    let checksum = t.read("checksum", CHECKSUM).or(VrrpChecksum::default());
    if version == Some(2) && checksum.given {
        let message = "`checksum` is for version 3 only: version 2 has one way";
        t.reader.error(&checksum.place, message, "remove it, or write: version = 3");
    }
    checksum
}

/// `unicast_source` and `unicast_peers`. Without a source, the interface's first address is the one that the peers list.
fn unicast(t: &Table<'_>, draft: &VrrpDraft) {
    let peers = &draft.unicast_peers;
    // An empty list is a clear word.
    if let Some(source) = &draft.unicast_source
        && t.place_of("unicast_peers").is_none()
    {
        let (message, example) = match source.value {
            IpAddr::V6(address) if !address.is_unicast_link_local() => (
                "without `unicast_peers` the advertisements are multicast, and over IPv6 their source should be link-local \
                 (RFC 9568 §5.1.2.1)",
                "2001:db8::3",
            ),
            IpAddr::V6(_) => (MULTICAST, "fe80::3"),
            IpAddr::V4(_) => (MULTICAST, "172.16.0.3"),
        };
        let remedy = format!("write: unicast_peers = [{example:?}], or remove it");
        t.reader.warning(&source.place, message, remedy);
    }
    for peer in &peers.value {
        let address = peer.get_ref();
        if draft.unicast_source.as_ref().is_some_and(|source| source.value == *address) {
            let message = format!("`unicast_peers` has {address}, which is this node's own `unicast_source`");
            let remedy = "write: unicast_peers = the addresses of the other nodes";
            t.reader.error(&peers.place.part(peer.span()), message, remedy);
        }
    }
}

/// A witness tells a dead peer from a dead network, which neither this node nor the peer can.
fn witnesses(t: &Table<'_>, draft: &VrrpDraft) {
    let witnesses = &draft.witnesses;
    for witness in &witnesses.value {
        let address = witness.get_ref();
        let what = if draft.unicast_source.as_ref().is_some_and(|source| source.value == *address) {
            "this node's own `unicast_source`: it answers whatever the network does"
        } else if draft.unicast_peers.value.iter().any(|peer| peer.get_ref() == address) {
            "one of `unicast_peers`: it does not answer when it is dead, which is when this node is to take over"
        } else {
            continue;
        };
        let place = witnesses.place.part(witness.span());
        let remedy = "write: witness = the gateway's address, or another that always answers";
        t.reader.error(&place, format!("`witness` has {address}, {what}"), remedy);
    }
}

fn auth_hmac(t: Table<'_>, advert_interval: Duration, facts: &Facts<'_>) -> Option<AuthHmac> {
    let keys: Vec<HmacKeyDraft> = t.tables("key").into_iter().map(|table| hmac_key(table, facts)).collect();
    let active_key = t.read("active_key", ID).required("1");
    let mode = t.read("mode", AUTH_MODE).or(AuthMode::default()).value;
    let anti_replay = t.read("anti_replay", ANTI_REPLAY).or(AntiReplay::default()).value;
    let default = default_time_window(advert_interval);
    let time_window = t.read("time_window", TIME_WINDOW).or(default);
    if time_window.given && anti_replay == AntiReplay::Monotonic {
        let message = "`time_window` is for anti_replay \"time\" only: \"monotonic\" looks at no clock";
        t.reader.error(&time_window.place, message, "remove it, or write: anti_replay = \"time\"");
    }
    let time_window = if anti_replay == AntiReplay::Time { time_window.value } else { default };
    if t.place_of("key").is_none() {
        let remedy = format!("write: [[vrrp.auth_hmac.key]] with id = 1 and value = {SECRET}");
        t.reader.error(&t.place(), "there is no key to sign with", remedy);
    }
    ids(&t, &keys, active_key.as_ref());
    t.finish();
    Some(AuthHmac {
        keys: keys.into_iter().map(HmacKeyDraft::finished).collect::<Option<_>>()?,
        active_key: NonZeroU8::new(active_key?.value)?,
        mode,
        anti_replay,
        time_window,
    })
}

/// Every key has an id of its own, and the active one is one of them.
fn ids(t: &Table<'_>, keys: &[HmacKeyDraft], active: Option<&At<u8>>) {
    let ids: Vec<&At<u8>> = keys.iter().filter_map(|key| key.id.as_ref()).collect();
    for (index, id) in ids.iter().enumerate() {
        if let Some(first) = ids.iter().take(index).find(|first| first.value == id.value) {
            let message = format!("`id` is already that of the key on line {}", t.reader.line(&first.place));
            t.reader.error(&id.place, message, "write: id = another number, the same on all nodes");
        }
    }
    // An id that could not be read may be the one.
    if let Some(active) = active
        && let Some(first) = ids.first()
        && ids.len() == keys.len()
        && ids.iter().all(|id| id.value != active.value)
    {
        let message =
            format!("`active_key` is {}, and there is no [[vrrp.auth_hmac.key]] of that id", active.value);
        t.reader.error(&active.place, message, format!("write: active_key = {}", first.value));
    }
}

/// `[[vrrp.auth_hmac.key]]`
fn hmac_key(t: Table<'_>, facts: &Facts<'_>) -> HmacKeyDraft {
    let id = t.read("id", ID).required("1");
    let value = t.read("value", ANY).optional("\"hex:...\"");
    let file = t.read("file", PATH).optional("\"/etc/xvip/vrrp.key\"");
    let given = (t.place_of("value"), t.place_of("file"));
    let secret = match given {
        (Some(_), Some(place)) => {
            let message = "`file` and `value` exclude each other";
            t.reader.error(&place, message, "remove one of the two");
            None
        }
        (None, None) => {
            let remedy = format!("write: value = {SECRET}, or file = the path of a file that holds it");
            t.reader.error(&t.place(), "the key has neither `value` nor `file`", remedy);
            None
        }
        _ => value.and_then(|value| secret_here(&t, &value)).or(file.and_then(|file| {
            let secret = contents(&t, "file", &file, facts, hmac_secret)?;
            private(&t, "file", &file, facts);
            Some(secret.from_file(file.value))
        })),
    };
    t.finish();
    HmacKeyDraft { id, secret }
}

/// A secret that stands in the configuration.
fn secret_here(t: &Table<'_>, value: &At<String>) -> Option<HmacSecret> {
    if value.value == HMAC_MASK {
        let message = "`value` is what `xvip check` prints in place of a secret";
        t.reader.warning(&value.place, message, "write: value = the secret itself");
    }
    match hmac_secret(value.value.as_bytes()) {
        Ok(secret) => Some(secret),
        Err(wrong) => {
            t.reader.error(&value.place, format!("`value` {wrong}"), format!("write: value = {SECRET}"));
            None
        }
    }
}

fn track(t: Table<'_>, facts: &Facts<'_>) -> TrackDraft {
    let kind = t.read("kind", TRACK_KIND).required("\"script\"").map(|kind| kind.value);
    let what = match kind {
        Some(TrackKind::Interface) => {
            let interface = t.read("interface", INTERFACE).required("\"eth1\"");
            of_another_kind(&t, SCRIPT_KEYS, "script");
            interface.map(|At { value, place, given }| At {
                value: Tracked::Interface { interface: value },
                place,
                given,
            })
        }
        Some(TrackKind::Script) => {
            of_another_kind(&t, INTERFACE_KEYS, "interface");
            script(&t, facts)
        }
        // Which keys belong here is not known.
        None => {
            INTERFACE_KEYS.iter().chain(SCRIPT_KEYS).for_each(|key| drop(t.place_of(key)));
            None
        }
    };
    let weight = t.read("weight", Whole(-MAX_TRACK_WEIGHT..=MAX_TRACK_WEIGHT)).or(DEFAULT_TRACK_WEIGHT);
    t.finish();
    TrackDraft { what, weight }
}

fn of_another_kind(t: &Table<'_>, keys: &'static [&'static str], kind: &str) {
    for key in keys {
        if let Some(place) = t.place_of(key) {
            let message = format!("`{key}` is for kind \"{kind}\" only");
            t.reader.error(&place, message, format!("remove it, or write: kind = \"{kind}\""));
        }
    }
}

fn script(t: &Table<'_>, facts: &Facts<'_>) -> Option<At<Tracked>> {
    let command = t.read("command", List(WORD)).required("[\"/usr/local/bin/check\"]");
    let user = t.read("user", NAME).or(DEFAULT_TRACK_USER.to_owned()).value;
    let interval = t.read("interval", SCRIPT_TIME).or_if_absent(DEFAULT_TRACK_INTERVAL);
    let timeout =
        t.read("timeout", SCRIPT_TIME).or(interval.as_ref().map_or(HOUR, |interval| interval.value));
    let rise = t.read("rise", Whole(1..=255)).or(DEFAULT_TRACK_COUNT).value;
    let fall = t.read("fall", Whole(1..=255)).or(DEFAULT_TRACK_COUNT).value;
    let interval = interval?;
    if timeout.value > interval.value {
        let text = duration_text(interval.value);
        let message =
            format!("`timeout` is longer than `interval`, {text}: a run must be over when the next begins");
        t.reader.error(&timeout.place, message, format!("write: timeout = \"{text}\", or a longer interval"));
    }
    let command = command?;
    program(t, &command, facts)?;
    Some(At {
        value: Tracked::Script {
            command: command.value.into_iter().map(Spanned::into_inner).collect(),
            user,
            interval: interval.value,
            timeout: timeout.value,
            rise,
            fall,
        },
        place: command.place,
        given: true,
    })
}

/// Whether a command names a program that can be run.
pub(super) fn program(t: &Table<'_>, command: &At<Vec<Spanned<String>>>, facts: &Facts<'_>) -> Option<()> {
    let Some(first) = command.value.first() else {
        let message = "`command` must have a program, or there is nothing to run";
        t.reader.error(&command.place, message, "write: command = [\"/usr/local/bin/check\"]");
        return None;
    };
    let (program, place) = (first.get_ref(), command.place.part(first.span()));
    if !program.starts_with('/') {
        let message = format!("`command` must begin with the absolute path of a program, not {program:?}");
        t.reader.error(
            &place,
            message,
            "write: command = [\"/usr/local/bin/check\"], arguments as items of their own",
        );
        return None;
    }
    match (facts.file_mode)(Path::new(program)) {
        Ok(mode) if mode & 0o111 != 0 => {}
        Ok(_) => {
            let message = format!("`command`: {program:?} is not executable, so this fails always");
            t.reader.warning(&place, message, format!("run: chmod +x {program}"));
        }
        Err(error) => {
            let message = format!("`command`: {program:?} cannot be run, so this fails always: {error}");
            let remedy = "write: command = [the path of a program, its arguments as items of their own]";
            t.reader.warning(&place, message, remedy);
        }
    }
    Some(())
}

/// What the tracks of one instance say about each other and about it.
fn tracks(t: &Table<'_>, draft: &VrrpDraft) {
    let mut interfaces: Vec<(&str, &Place)> = Vec::new();
    for track in &draft.tracks {
        if let Some(At { value: Tracked::Interface { interface }, place, .. }) = &track.what {
            if let Some((_, first)) = interfaces.iter().find(|(known, _)| known == interface) {
                let message = format!("{interface:?} is tracked already on line {}", t.reader.line(first));
                t.reader.error(place, message, "remove one of the two");
            }
            interfaces.push((interface, place));
        }
        if track.weight.value != 0 && draft.priority.as_ref().is_some_and(|priority| priority.value == 255) {
            let message = "`weight` has no effect on priority 255, the address owner's (RFC 9568 §5.2.4)";
            t.reader.warning(&track.weight.place, message, "write: priority = 254 or less");
        }
    }
}
