//! `[[vrrp]]`: keepalived's instances, in xvip's words.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::{
    HookPlan, InstancePlan, Key, Notes, Options, Owned, ServicePlan, TrackPlan, TrackedPlan, names,
    side::Side, stem, within,
};
use crate::{
    config::{
        hmac_secret::hmac_secret,
        kinds,
        model::{Family, HmacSecret, MAX_TRACK_WEIGHT, Vip, VrrpVersion, duration_text, family_of},
    },
    import::{
        incumbent::{
            Authentication, HmacAuthentication, Incumbent, RouterInstance, RouterNode, RouterScript,
            RouterTracked,
        },
        keepalived::names_balancer,
        ledger::Fate,
        source::{At, FileId, Place, Source},
    },
};

/// The most of `vrrp.preempt_delay`.
const LONGEST_DELAY: Duration = Duration::from_secs(1000);
/// What is in every example of a configuration of keepalived.
const EXAMPLE_NAME: &str = "LVS_DEVEL";

/// A node of keepalived.
pub(super) fn side(
    node: &RouterNode,
    from: &Incumbent,
    sources: &[Source],
    options: &Options,
    notes: &mut Notes<'_>,
) -> Side {
    let mut side = Side::nameless();
    side.name = node.name.as_ref().map(|name| host_name(name, from));
    side.interface = options.interface.clone().map(|name| Key::new(name, None)).or_else(|| interface(node));
    let mut taken = BTreeSet::new();
    for instance in &node.instances {
        let on = side.interface.as_ref().map(|interface| interface.value.as_str());
        if options.interface.is_none() && on != Some(instance.interface.value.as_str()) {
            let note = format!(
                "the VIPs of one xvip live on one interface, {}; this instance needs an xvip of its own (another --config, \
                 with another node.pin_path), so it is left out",
                on.unwrap_or_default()
            );
            notes.say(instance.name.place, Fate::NotPossible, "", note);
            continue;
        }
        let name = names::unique(&mut taken, &names::name(&instance.name.value, "main"));
        vips(instance, &name, &mut side.vips, notes);
        for hook in &instance.hooks {
            let Some(command) = program(&hook.command) else { continue };
            side.hooks.push(HookPlan {
                command: Key::new(command, Some(hook.place))
                    .check("it runs as nobody here (`user`); xvip tells it the event, too: docs/events.md"),
                instance: name.clone(),
                directive: hook.directive.clone(),
            });
        }
        side.instances.push(plan(instance, name, node, notes));
    }
    sync_groups(node, &mut side.instances, notes);
    side.names = file_names(node, from, sources);
    side
}

fn host_name(name: &At<String>, from: &Incumbent) -> Key<String> {
    let key = Key::new(names::name(&name.value, "xvip"), Some(name.place));
    let others = from
        .routers
        .iter()
        .filter(|other| other.name.as_ref().is_some_and(|other| other.value == name.value));
    if name.value == EXAMPLE_NAME || others.count() > 1 {
        return key.check(
            "the same name on every node tells none of them apart; without this line it is the host's name",
        );
    }
    key
}

/// The interface of most instances, the first of them if there are several.
fn interface(node: &RouterNode) -> Option<Key<String>> {
    let of = |name: &str| node.instances.iter().filter(|instance| instance.interface.value == name).count();
    let first = node.instances.iter().rev().max_by_key(|instance| of(&instance.interface.value))?;
    Some(Key::of(&first.interface))
}

/// How a user may call the node: its `router_id` if no other has it, the file's name, its own address.
fn file_names(node: &RouterNode, from: &Incumbent, sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(name) = &node.name
        && name.value != EXAMPLE_NAME
        && !name.value.is_empty()
    {
        found.push(name.value.clone());
    }
    let source = |file: FileId| sources.get(file.0);
    if let Some(source) = source(node.file) {
        found.extend(stem(source));
        found.push(source.name.clone());
    }
    found.extend(
        node.instances
            .iter()
            .filter_map(|instance| Some(instance.unicast_source.as_ref()?.value.to_string())),
    );
    if let Some(name) = &node.name
        && from.routers.len() == 1
    {
        found.push(name.value.clone());
    }
    found.dedup();
    found
}

fn vips(instance: &RouterInstance, name: &str, known: &mut Vec<Owned>, notes: &mut Notes<'_>) {
    let speaks =
        instance.vips.iter().find(|vip| vip.value.advertised).map(|vip| Family::of(vip.value.address));
    for At { value, place } in &instance.vips {
        let vip = Vip { address: value.address, prefix_len: value.prefix_len };
        let mut no = |note: String| notes.say(*place, Fate::NotPossible, "", note);
        if !kinds::is_vip(vip) {
            no(format!("{vip} is no address that a host can have, so it is left out"));
        } else if known.iter().any(|owned| owned.vip.address == vip.address) {
            no(format!("{} is there already", vip.address));
        } else if let Some(interface) =
            value.interface.as_ref().filter(|interface| **interface != instance.interface.value)
        {
            no(format!("xvip's VIPs live on node.interface, and this one is on {interface}: it is left out"));
        } else {
            if !value.advertised && Some(Family::of(vip.address)) == speaks {
                let note = "xvip advertises every VIP of the family that it speaks, keepalived not this one: a keepalived beside it must \
                            have it in virtual_ipaddress";
                notes.say(*place, Fate::Approximate, "service.vip", note);
            }
            known.push(Owned { vip, from: Some(*place), instance: Some(name.to_owned()) });
        }
    }
}

fn plan(instance: &RouterInstance, name: String, node: &RouterNode, notes: &mut Notes<'_>) -> InstancePlan {
    let place = instance.name.place;
    let mut version = Key::new(instance.version, notes.origin("vrrp.version", place));
    let speaks: Vec<IpAddr> =
        instance.vips.iter().filter(|vip| vip.value.advertised).map(|vip| vip.value.address).collect();
    if family_of(&speaks) == Family::Ipv6 && version.value == VrrpVersion::V2 {
        version = Key::new(VrrpVersion::V3, None);
    }
    let advert_interval = Key::new(
        interval(instance.advert_interval, version.value, place, notes),
        notes.origin("vrrp.advert_interval", place),
    );
    let auth_pass = match &instance.authentication {
        Authentication::Password(password) if version.value == VrrpVersion::V2 => auth_pass(password, notes),
        Authentication::Password(password) => {
            let note = "version 3 has no password (RFC 9568 §9): keepalived does not send it either";
            notes.say(password.place, Fate::NotNeeded, "", note);
            None
        }
        Authentication::Header(place) => {
            let note = "xvip does not speak AH (nor do others: RFC 3768 took it out); write auth_type PASS, or auth_hmac, on all nodes";
            notes.say(*place, Fate::NotPossible, "", note);
            None
        }
        Authentication::Hmac(_) | Authentication::None => None,
    };
    let auth_hmac = match &instance.authentication {
        Authentication::Hmac(hmac) => auth_hmac(hmac, notes),
        _ => None,
    };
    // keepalived takes `nopreempt` back where `state` is MASTER (vrrp.c, vrrp_complete_instance).
    let mut preempt = Key::new(instance.no_preempt.is_none(), instance.no_preempt);
    if let Some(place) =
        instance.no_preempt.filter(|_| instance.begins_as_master || instance.priority.value == 255)
    {
        preempt = Key::new(true, Some(place));
        let note =
            "keepalived does not do it either: nopreempt has no effect with state MASTER or priority 255";
        notes.say(place, Fate::NotNeeded, "", note);
    }
    let delay = Duration::from_millis(u64::try_from(instance.preempt_delay.as_millis()).unwrap_or(u64::MAX));
    InstancePlan {
        name: Key::new(name, Some(place)),
        version,
        virtual_router_id: Key::new(
            instance.virtual_router_id.value.max(1),
            Some(instance.virtual_router_id.place),
        ),
        priority: priority(instance),
        advert_interval,
        preempt,
        // Nor does `preempt_delay` work there.
        preempt_delay: if instance.begins_as_master { Duration::ZERO } else { delay.min(LONGEST_DELAY) },
        unicast_source: instance.unicast_source.as_ref().map(Key::of),
        unicast_peers: instance.unicast_peers.iter().map(Key::of).collect(),
        auth_pass,
        auth_hmac,
        checksum_rfc9568: instance.checksum_as_v2,
        sync_group: None,
        virtual_mac: instance.virtual_mac,
        tracks: tracks(instance, node, notes),
    }
}

/// What keepalived says while all is well: a script that asks for the balancer adds its positive weight then. xvip does
/// not need it: where its own data plane is not well it does not take part.
fn priority(instance: &RouterInstance) -> Key<u8> {
    let base = instance.priority.value.max(1);
    let key = Key::new(base, Some(instance.priority.place));
    let bonus: i32 = instance
        .tracks
        .iter()
        .filter(|track| asks_for_balancer(&track.what))
        .map(|track| i32::from(track.weight.max(0)))
        .sum();
    if base == 255 || bonus == 0 {
        return key;
    }
    let priority = u8::try_from((i32::from(base) + bonus).clamp(1, 254)).unwrap_or(254);
    Key::new(priority, key.from).check(format!(
        "what keepalived advertises while HAProxy runs: priority {base}, and {bonus} by the script that asks for HAProxy"
    ))
}

/// Whether what is tracked is only whether the balancer is there.
pub fn asks_for_balancer(what: &RouterTracked) -> bool {
    match what {
        RouterTracked::Script(script) => script.asks_for_balancer,
        RouterTracked::Process(process) => names_balancer(process),
        RouterTracked::Interface(_) | RouterTracked::Other(_) => false,
    }
}

/// As the version can say it.
fn interval(wanted: Duration, version: VrrpVersion, place: Place, notes: &mut Notes<'_>) -> Duration {
    let (least, most, step) = match version {
        VrrpVersion::V2 => (1000, 255_000, 1000),
        VrrpVersion::V3 => (10, 40_950, 10),
    };
    let millis = u64::try_from(wanted.as_millis()).unwrap_or(u64::MAX).clamp(least, most);
    let allowed = Duration::from_millis((millis / step).max(1) * step);
    if allowed != wanted {
        let number = u8::from(version);
        let note = format!(
            "version {number} cannot say {}: {} instead",
            duration_text(wanted),
            duration_text(allowed)
        );
        notes.say(place, Fate::Approximate, "vrrp.advert_interval", note);
    }
    allowed
}

/// keepalived sends the first eight bytes.
fn auth_pass(password: &At<String>, notes: &mut Notes<'_>) -> Option<Key<String>> {
    let text = &password.value;
    let mut end = text.len().min(8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if end == 0 {
        notes.say(password.place, Fate::NotPossible, "", "there is no password that could be sent");
        return None;
    }
    let key = Key::new(text[..end].to_owned(), Some(password.place));
    if end < text.len().min(8) {
        return Some(
            key.check("keepalived cuts this password inside of a character: change it on all nodes"),
        );
    }
    Some(key)
}

fn auth_hmac(hmac: &HmacAuthentication, notes: &mut Notes<'_>) -> Option<HmacAuthentication> {
    let mut keys: Vec<(u8, String)> = Vec::new();
    for (id, value) in &hmac.keys {
        let sound = match value.strip_prefix("file:") {
            Some(file) => kinds::is_path(file.trim()),
            None => hmac_secret(value.as_bytes()).is_ok(),
        };
        if sound && *id != 0 && keys.iter().all(|(other, _)| other != id) {
            keys.push((*id, value.clone()));
        } else {
            let (least, most) = (HmacSecret::MIN, HmacSecret::MAX);
            let note = format!(
                "key {id} cannot be used: ids are 1 to 255, each once, and secrets {least} to {most} bytes"
            );
            notes.say(hmac.place, Fate::NotPossible, "", note);
        }
    }
    let Some((first, _)) = keys.first() else {
        notes.say(hmac.place, Fate::NotPossible, "", "without a key that can be used, nothing is signed");
        return None;
    };
    let active = hmac.active_key.filter(|active| keys.iter().any(|(id, _)| id == active)).unwrap_or(*first);
    let known =
        |word: &Option<String>, words: &[&str]| word.clone().filter(|word| words.contains(&word.as_str()));
    let anti_replay = known(&hmac.anti_replay, &["time", "monotonic"]);
    let seconds = hmac.time_window.map(|window| Duration::from_secs(window.as_secs().clamp(1, 300)));
    Some(HmacAuthentication {
        place: hmac.place,
        keys,
        active_key: Some(active),
        mode: known(&hmac.mode, &["receive-only", "permissive", "enforce"]),
        time_window: seconds.filter(|_| anti_replay.as_deref() != Some("monotonic")),
        anti_replay,
    })
}

fn tracks(instance: &RouterInstance, node: &RouterNode, notes: &mut Notes<'_>) -> Vec<TrackPlan> {
    let mut tracks = Vec::new();
    let mut interfaces = BTreeSet::new();
    for track in &instance.tracks {
        let place = track.place;
        if asks_for_balancer(&track.what) {
            continue;
        }
        let what = match &track.what {
            RouterTracked::Interface(name) if !kinds::is_interface(name) => {
                notes.say(place, Fate::NotPossible, "", "this cannot be the name of an interface");
                continue;
            }
            RouterTracked::Interface(name) if *name == instance.interface.value && track.weight == 0 => {
                notes.say(place, Fate::NotNeeded, "", "the interface of the VIPs is always watched");
                continue;
            }
            RouterTracked::Interface(name) if !interfaces.insert(name.clone()) => {
                notes.say(place, Fate::NotPossible, "", "this interface is tracked already");
                continue;
            }
            RouterTracked::Interface(name) => Key::new(TrackedPlan::Interface(name.clone()), Some(place)),
            RouterTracked::Script(script) => match self::script(script, notes) {
                Some(key) => key,
                None => continue,
            },
            RouterTracked::Process(process) => process_script(process, place),
            RouterTracked::Other(directive) => {
                let note = format!(
                    "xvip has no {directive}; write a program that asks for it, as a [[vrrp.track]] of kind \"script\""
                );
                notes.say(place, Fate::NotPossible, "", note);
                continue;
            }
        };
        let weight =
            within(track.weight, -MAX_TRACK_WEIGHT, MAX_TRACK_WEIGHT, "vrrp.track.weight", place, notes);
        tracks.push(TrackPlan { what, weight });
    }
    let _ = node;
    tracks
}

/// A command as xvip runs it: a program by its path, no shell.
fn program(command: &[String]) -> Option<Vec<String>> {
    let clean: Vec<String> = command.iter().map(|word| word.replace('\0', "")).collect();
    let first = clean.first().filter(|first| !first.is_empty())?;
    if first.starts_with('/') {
        return Some(clean);
    }
    Some(std::iter::once("/usr/bin/env".to_owned()).chain(clean).collect())
}

fn script(script: &RouterScript, notes: &mut Notes<'_>) -> Option<Key<TrackedPlan>> {
    let place = script.name.place;
    let Some(command) = program(&script.command) else {
        notes.say(place, Fate::NotPossible, "", "there is no program to run");
        return None;
    };
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(100, 3_600_000);
    let interval = millis(script.interval);
    let timeout =
        script.timeout.map(|timeout| millis(timeout).min(interval)).filter(|timeout| *timeout != interval);
    let mut count =
        |value: u32, key: &str| u8::try_from(within(value, 1, 255, key, place, notes)).unwrap_or(255);
    let (rise, fall) = (count(script.rise, "vrrp.track.rise"), count(script.fall, "vrrp.track.fall"));
    let user = script.user.as_ref().map(|user| names::name(user, "nobody"));
    let looked_up = command.first().is_some_and(|first| first == "/usr/bin/env");
    let root = user.as_deref() == Some("root") || user.is_none();
    let plan = TrackedPlan::Script {
        command,
        user: user.clone(),
        interval: Duration::from_millis(interval),
        timeout: timeout.map(Duration::from_millis),
        rise,
        fall,
    };
    let mut check = Vec::new();
    if looked_up {
        check.push("write the program's path instead of /usr/bin/env");
    }
    if root && user.is_none() {
        check.push("it runs as nobody here, as root or keepalived_script before");
    }
    Some(Key::new(plan, Some(place)).check(check.join("; ")))
}

fn process_script(process: &str, place: Place) -> Key<TrackedPlan> {
    let name = process.split_whitespace().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let command = ["/usr/bin/pgrep", "-x", name].map(|word| word.replace('\0', "")).to_vec();
    let plan = TrackedPlan::Script {
        command,
        user: None,
        interval: Duration::from_secs(1),
        timeout: None,
        rise: 1,
        fall: 1,
    };
    Key::new(plan, Some(place))
        .check("keepalived is told by the kernel when the process ends, this asks once a second")
}

/// A group elects as one here: its members must agree about what decides.
fn sync_groups(node: &RouterNode, instances: &mut [InstancePlan], notes: &mut Notes<'_>) {
    for (name, members) in &node.sync_groups {
        // Names of instances may have been changed to what the configuration takes.
        let is_member = |instance: &InstancePlan| {
            instance.sync_group.is_none()
                && members.iter().any(|member| names::name(member, "main") == instance.name.value)
        };
        let of_group = || instances.iter().filter(|instance| is_member(instance));
        let Some(first) = of_group().next() else { continue };
        let decides = |instance: &InstancePlan| {
            (
                instance.priority.value,
                instance.advert_interval.value,
                instance.preempt.value,
                instance.preempt_delay,
            )
        };
        let agreed = decides(first);
        if of_group().any(|instance| decides(instance) != agreed) {
            let note = "in xvip a group elects as one, and these instances differ in priority, advert_int, nopreempt or preempt_delay: make \
                        them the same on each node and import again";
            notes.say(name.place, Fate::NotPossible, "", note);
            continue;
        }
        if of_group().count() < 2 {
            notes.say(name.place, Fate::NotNeeded, "", "a group of one instance does nothing");
            continue;
        }
        let group = names::name(&name.value, "group");
        let members: Vec<bool> = instances.iter().map(is_member).collect();
        for (instance, _) in instances.iter_mut().zip(members).filter(|(_, member)| *member) {
            instance.sync_group = Some(Key::new(group.clone(), Some(name.place)));
        }
    }
}

/// What the services say about the instances: an instance speaks the family of its VIPs and has those that a service
/// uses.
pub(super) fn settle(
    instances: &mut Vec<InstancePlan>,
    owned: &[Owned],
    services: &[ServicePlan],
    notes: &mut Notes<'_>,
) {
    let is_served = |vip: &Vip| services.iter().any(|service| service.vip.value.address == vip.address);
    for vip in owned.iter().filter(|owned| !is_served(&owned.vip)) {
        let note = format!(
            "no service uses {}, and xvip has the VIPs of services only: add a [[service]] for it, or the nodes that still run \
             keepalived hear of fewer addresses than they have",
            vip.vip.address
        );
        if let Some(place) = vip.from {
            notes.say(place, Fate::NotPossible, "", note);
        }
    }
    let mut ids = BTreeSet::new();
    instances.retain_mut(|instance| {
        let vips: Vec<IpAddr> = services
            .iter()
            .filter(|service| service.vrrp.as_ref() == Some(&instance.name.value))
            .map(|service| service.vip.value.address)
            .collect();
        if vips.is_empty() {
            if let Some(place) = instance.name.from {
                notes.say(
                    place,
                    Fate::NotPossible,
                    "",
                    "no service uses a VIP of this instance, so it is left out",
                );
            }
            return false;
        }
        let family = family_of(&vips);
        family_and_addresses(instance, family, owned, notes);
        ids.insert((family == Family::Ipv4, instance.virtual_router_id.value)) || {
            renumber(instance, family, &mut ids, notes);
            true
        }
    });
}

/// Two virtual routers of one family and one interface cannot have one VRID (RFC 9568 §5.2.3).
fn renumber(
    instance: &mut InstancePlan,
    family: Family,
    ids: &mut BTreeSet<(bool, u8)>,
    notes: &mut Notes<'_>,
) {
    let Some(free) = (1..=255).find(|id| ids.insert((family == Family::Ipv4, *id))) else { return };
    let former = instance.virtual_router_id.value;
    let said = format!("virtual_router_id {former} is another instance's of this family: {free} instead");
    if let Some(place) = instance.virtual_router_id.from {
        notes.say(place, Fate::Approximate, "vrrp.virtual_router_id", said.clone());
    }
    instance.virtual_router_id = Key::new(free, instance.virtual_router_id.from).check(said);
}

fn family_and_addresses(instance: &mut InstancePlan, family: Family, owned: &[Owned], notes: &mut Notes<'_>) {
    if family == Family::Ipv6 && instance.version.value == VrrpVersion::V2 {
        instance.version = Key::new(VrrpVersion::V3, None);
        instance.auth_pass = None;
    }
    if family == Family::Ipv6 || instance.version.value == VrrpVersion::V2 {
        instance.checksum_rfc9568 = false;
    }
    if instance.version.value == VrrpVersion::V3 {
        let most = Duration::from_millis(40_950);
        instance.advert_interval.value = instance.advert_interval.value.min(most);
    }
    let mut usable = |key: &Key<IpAddr>, what: &str| {
        let is = Family::of(key.value) == family
            && kinds::is_node_address(key.value)
            && owned.iter().all(|owned| owned.vip.address != key.value);
        if let (false, Some(place)) = (is, key.from) {
            let note = format!(
                "{} cannot be {what} of an instance that speaks {family}, so it is left out",
                key.value
            );
            notes.say(place, Fate::NotPossible, "", note);
        }
        is
    };
    instance.unicast_source = instance.unicast_source.take().filter(|source| usable(source, "the address"));
    let source = instance.unicast_source.as_ref().map(|source| source.value);
    let mut known = BTreeSet::new();
    instance
        .unicast_peers
        .retain(|peer| usable(peer, "a peer") && Some(peer.value) != source && known.insert(peer.value));
}
