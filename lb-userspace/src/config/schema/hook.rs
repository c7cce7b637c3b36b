//! `[[notify]]`.

use std::{path::PathBuf, time::Duration};

use toml::Spanned;

use super::{HOUR, ServiceDraft, VrrpDraft, contents, vrrp::program};
use crate::config::{
    kinds::{List, NAME, OneOf, PATH, Text, Time, WORD},
    model::{DEFAULT_HOOK_TIMEOUT, DEFAULT_HOOK_TOPICS, DEFAULT_HOOK_USER, Hook, HookAction, Topic},
    parse::Facts,
    pem,
    reader::{At, Table, Wrong, quoted},
};

const TIMEOUT: Time = Time::between(Duration::from_millis(100), HOUR);
const TOPIC: OneOf<Topic> =
    OneOf(&[("vrrp", Topic::Vrrp), ("backend", Topic::Backend), ("problem", Topic::Problem)]);

/// Where events are posted. What is wrong with it is said without repeating it: often it holds a secret.
const URL: Text<String> = Text {
    what: "a URL",
    parse: |text| {
        let wrong = || Wrong::new("must be a URL like \"https://example.com/hook\"");
        let uri: axum::http::Uri = text.parse().map_err(|_| wrong())?;
        let authority = uri.authority().ok_or_else(wrong)?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(other) => {
                return Err(Wrong::new(format!(
                    "must begin with http:// or https://, not {}",
                    quoted(other)
                )));
            }
            None => return Err(wrong()),
        }
        if authority.as_str().contains('@') {
            return Err(Wrong::new("must not have a user and a password before the host"));
        }
        let port_is_0 = authority.port().is_some_and(|port| port.as_str() == "0");
        if authority.host().is_empty() || port_is_0 || text.contains('#') {
            return Err(wrong());
        }
        Ok(text.to_owned())
    },
    show: String::clone,
};

/// A `[[notify]]` as read.
pub(super) struct HookDraft {
    action: Option<HookAction>,
    timeout: Duration,
    on: Vec<Topic>,
    names: Option<At<Vec<Spanned<String>>>>,
}

impl HookDraft {
    /// None where something of it is wrong, which was said.
    pub(super) fn finished(self) -> Option<Hook> {
        let names = self.names.map(|names| names.value).unwrap_or_default();
        Some(Hook {
            action: self.action?,
            timeout: self.timeout,
            on: self.on,
            names: names.into_iter().map(Spanned::into_inner).collect(),
        })
    }
}

/// One `[[notify]]`.
pub(super) fn hook(t: Table<'_>, facts: &Facts<'_>) -> HookDraft {
    let draft = HookDraft {
        action: action(&t, facts),
        timeout: t.read("timeout", TIMEOUT).or(DEFAULT_HOOK_TIMEOUT).value,
        on: topics(&t),
        names: t.read("names", List(NAME)).optional("[\"kube-apiserver\"]"),
    };
    t.finish();
    draft
}

fn action(t: &Table<'_>, facts: &Facts<'_>) -> Option<HookAction> {
    let command = t.place_of("command");
    let command_example = "[\"/usr/local/bin/notify\"]";
    let is_command = command.is_some() || t.place_of("url").is_none();
    if let Some((_, url)) = command.zip(t.place_of("url")) {
        let remedy = "remove one of the two, or write: [[notify]] once for each";
        t.reader.error(&url, "`url` and `command` exclude each other", remedy);
    }
    let (others, reason): (&[&'static str], _) = match is_command {
        true => (&["ca_file"], "is for `url` only"),
        false => (&["user"], "is for `command` only"),
    };
    for key in others {
        if let Some(place) = t.place_of(key) {
            t.reader.error(&place, format!("`{key}` {reason}"), "remove it");
        }
    }
    if is_command {
        let user = t.read("user", NAME).or(DEFAULT_HOOK_USER.to_owned()).value;
        let command = t.read("command", List(WORD)).required_unless(Some("url"), command_example)?;
        // Read, so that it is known.
        let _url = t.read("url", URL).optional("\"https://example.com/hook\"");
        program(t, &command, facts)?;
        let command = command.value.into_iter().map(Spanned::into_inner).collect();
        return Some(HookAction::Command { command, user });
    }
    let url = t.read("url", URL).optional("\"https://example.com/hook\"");
    let ca_file: Option<At<PathBuf>> = t.read("ca_file", PATH).optional("\"/etc/xvip/hook-ca.crt\"");
    let url = url?;
    if let Some(file) = &ca_file {
        if url.value.starts_with("http:") {
            let message = "`ca_file` needs an https URL: over http nobody shows a certificate";
            t.reader.error(&file.place, message, "remove it, or write: url = \"https://...\"");
        }
        contents(t, "ca_file", file, facts, pem::ca_bundle)?;
    }
    Some(HookAction::Url { url: url.value, ca_file: ca_file.map(|file| file.value) })
}

fn topics(t: &Table<'_>) -> Vec<Topic> {
    let Some(on) = t.read("on", List(TOPIC)).optional("[\"vrrp\", \"backend\", \"problem\"]") else {
        return DEFAULT_HOOK_TOPICS.to_vec();
    };
    if on.value.is_empty() {
        let message = "`on` must have at least one word, or nothing is ever told";
        t.reader.error(&on.place, message, "write: on = [\"vrrp\", \"backend\", \"problem\"], or remove it");
    }
    let mut topics: Vec<Topic> = Vec::new();
    for topic in &on.value {
        if topics.contains(topic.get_ref()) {
            let place = on.place.part(topic.span());
            t.reader.error(&place, "`on` has a word twice", "remove one of the two");
        }
        topics.push(*topic.get_ref());
    }
    topics
}

/// Whether somebody in the file has each name that hooks ask for.
pub(super) fn check_names(
    root: &Table<'_>,
    hooks: &[HookDraft],
    services: &[ServiceDraft],
    instances: &[VrrpDraft],
) {
    let mut known: Vec<String> = Vec::new();
    for service in services {
        known.extend(service.name.iter().map(|name| name.value.clone()));
        known.extend(service.vip.iter().map(|vip| vip.value.address.to_string()));
        known.extend(service.backends.iter().filter_map(|one| Some(one.name.as_ref()?.value.clone())));
    }
    known.extend(instances.iter().filter_map(|one| Some(one.name.as_ref()?.value.clone())));
    for names in hooks.iter().filter_map(|hook| hook.names.as_ref()) {
        for name in names.value.iter().filter(|name| !known.contains(name.get_ref())) {
            let message = format!(
                "`names` has {}, but no service, backend, VRRP instance or VIP of this file is called so",
                quoted(name.get_ref())
            );
            let remedy = format!("write: names = [{}]", quoted(known.first().map_or("", String::as_str)));
            root.reader.warning(&names.place.part(name.span()), message, remedy);
        }
    }
}
