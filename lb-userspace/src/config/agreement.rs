//! What the tables of a file say about each other; what `[[vrrp]]` and `[sync]` have to do with it is in
//! `agreement/vrrp.rs` and `agreement/sync.rs`; `[http]` has one, too.

mod http;
mod sync;
mod vrrp;

use std::{collections::HashMap, hash::Hash, net::SocketAddr};

use lb_common::layout::{MAX_ALLOWED, MAX_BACKENDS, MAX_MEMBERS, MAX_SERVICES};

use super::{
    model::{DEFAULT_WEIGHT, Family, Mode},
    reader::{At, Place, Reader},
    schema::{HttpDraft, ServiceDraft, SyncDraft, VrrpDraft},
};

/// Reports every disagreement.
pub(super) fn check(
    reader: &Reader<'_>,
    services: &[ServiceDraft],
    instances: &[VrrpDraft],
    sync: Option<&SyncDraft>,
    http: Option<&HttpDraft>,
) {
    not_too_many(reader, services);
    service_names_and_ports(reader, services);
    one_owner_per_vip(reader, services);
    for service in services {
        backends(reader, service, services);
        reachable(reader, service);
    }
    vrrp::check(reader, services, instances);
    if let Some(sync) = sync {
        sync::check(reader, services, sync);
    }
    if let Some(listen) = http.and_then(|http| http.listen.as_ref()) {
        http::check(reader, services, sync, listen);
    }
}

/// The places of a key's second and later uses, each with the first.
fn repeated<'p, K: Eq + Hash>(
    uses: impl Iterator<Item = (K, &'p Place)>,
) -> impl Iterator<Item = (&'p Place, &'p Place)> {
    let mut first = HashMap::new();
    uses.filter_map(move |(key, place)| {
        let earlier = *first.entry(key).or_insert(place);
        (!std::ptr::eq(earlier, place)).then_some((earlier, place))
    })
}

fn used<T: Clone>(value: Option<&At<T>>) -> Option<(T, &Place)> {
    value.map(|at| (at.value.clone(), &at.place))
}

/// What the maps of the data plane have room for.
fn not_too_many(reader: &Reader<'_>, services: &[ServiceDraft]) {
    let place = |service: &ServiceDraft| service.name.as_ref().map(|name| name.place.clone());
    if let Some(place) = services.get(MAX_SERVICES as usize).and_then(place) {
        let message = format!("this is service {}: a node has at most {MAX_SERVICES}", MAX_SERVICES + 1);
        reader.error(&place, message, "remove it, or serve it from other nodes");
    }
    for service in services {
        if service.backends.len() > MAX_MEMBERS
            && let Some(place) = place(service)
        {
            let message =
                format!("the service has {} backends, and at most {MAX_MEMBERS} fit", service.backends.len());
            reader.error(&place, message, "remove some, or make two services of them");
        }
    }
    let backends: usize = services.iter().map(|service| service.backends.len()).sum();
    if backends > MAX_BACKENDS as usize
        && let Some(place) = services.last().and_then(place)
    {
        let message =
            format!("all services together have {backends} backends, and at most {MAX_BACKENDS} fit");
        reader.error(&place, message, "remove some, or serve some from other nodes");
    }
    let allowed: usize = services.iter().map(|service| service.allow.len()).sum();
    if allowed > MAX_ALLOWED as usize
        && let Some(place) = services.iter().rfind(|service| !service.allow.is_empty()).and_then(place)
    {
        let message =
            format!("all `allow` lists together have {allowed} networks, and at most {MAX_ALLOWED} fit");
        reader.error(&place, message, "write: allow = fewer and larger networks");
    }
}

fn service_names_and_ports(reader: &Reader<'_>, services: &[ServiceDraft]) {
    for (first, place) in repeated(services.iter().filter_map(|service| used(service.name.as_ref()))) {
        let message = format!("`name` is already the name of the service on line {}", reader.line(first));
        reader.error(place, message, "write: name = a name of its own");
    }
    let listeners = services.iter().filter_map(|service| {
        let (vip, port) = (service.vip.as_ref()?, service.port.as_ref()?);
        Some(((vip.value.address, port.value), &port.place))
    });
    for (first, place) in repeated(listeners) {
        let message = format!(
            "`port` of this VIP is already the service's with the port on line {}",
            reader.line(first)
        );
        reader.error(place, message, "write: port = another port, or vip = another address");
    }
}

/// An address is on the interface once, with one prefix length, and one VRRP instance says whether.
fn one_owner_per_vip(reader: &Reader<'_>, services: &[ServiceDraft]) {
    let mut first = HashMap::new();
    for service in services {
        let Some(vip) = &service.vip else { continue };
        let owner = service.vrrp.as_ref();
        let (first_vip, first_owner): &mut (&At<_>, Option<&At<String>>) =
            first.entry(vip.value.address).or_insert((vip, owner));
        let line = reader.line(&first_vip.place);
        if first_vip.value.prefix_len != vip.value.prefix_len {
            let message =
                format!("`vip` has another prefix length on line {line}, where it is {}", first_vip.value);
            reader.error(&vip.place, message, format!("write: vip = \"{}\"", first_vip.value));
        }
        let names = (first_owner.map(|name| &name.value), owner.map(|name| &name.value));
        if names.0 != names.1 {
            let message = format!("`vrrp` differs from that of the service with the same VIP on line {line}");
            let remedy = match names.0 {
                Some(name) => format!("write: vrrp = {name:?}"),
                None => "remove it, or write the same in both".to_owned(),
            };
            reader.error(owner.map_or(&vip.place, |name| &name.place), message, remedy);
        }
    }
}

fn backends(reader: &Reader<'_>, service: &ServiceDraft, services: &[ServiceDraft]) {
    let all = &service.backends;
    for (first, place) in repeated(all.iter().filter_map(|backend| used(backend.name.as_ref()))) {
        let message = format!("`name` is already the name of the backend on line {}", reader.line(first));
        reader.error(place, message, "write: name = a name of its own");
    }
    for (first, place) in repeated(all.iter().filter_map(|backend| used(backend.address.as_ref()))) {
        let message =
            format!("`address` is already the address of the backend on line {}", reader.line(first));
        reader.error(place, message, "write: address = another backend's, or remove this backend");
    }
    for address in all.iter().filter_map(|backend| backend.address.as_ref()) {
        let vips = services.iter().filter_map(|service| service.vip.as_ref());
        if let Some(vip) = vips.into_iter().find(|vip| vip.value.address == address.value.ip()) {
            let line = reader.line(&vip.place);
            let message = format!("`address` is the VIP on line {line}: packets would go round in circles");
            reader.error(&address.place, message, "write: address = the backend's own address");
        }
    }
    if let Some(first) = all.first()
        && all.iter().all(|backend| backend.weight.value == 0)
    {
        let message = "`weight` is 0 for every backend of the service, so none gets a connection";
        reader.error(
            &first.weight.place,
            message,
            format!("write: weight = {DEFAULT_WEIGHT} for at least one of them"),
        );
    }
}

/// Whether the service's mode can bring a packet for its VIP and port to the backends.
fn reachable(reader: &Reader<'_>, service: &ServiceDraft) {
    let (Some(mode), Some(vip)) = (&service.mode, &service.vip) else { return };
    for address in service.backends.iter().filter_map(|backend| backend.address.as_ref()) {
        let host = address.value.ip();
        let families = (Family::of(vip.value.address), Family::of(host));
        match mode.value {
            Mode::Nat if families.0 != families.1 => {
                let message = format!(
                    "`address` is {} and the VIP on line {} is {}: mode \"nat\" does not translate between the two",
                    families.1,
                    reader.line(&vip.place),
                    families.0
                );
                let remedy =
                    format!("write: address = the backend's {} address, or mode = \"dsr-ipip\"", families.0);
                reader.error(&address.place, message, remedy);
            }
            Mode::Nat => {}
            Mode::DsrL2 | Mode::DsrIpip => {
                let Some(port) = service.port.as_ref().filter(|port| port.value != address.value.port())
                else {
                    continue;
                };
                let message = format!(
                    "`address` has port {}, but with mode \"{}\" packets reach the backend as the client sent them, for \
                     port {}",
                    address.value.port(),
                    mode.value.as_str(),
                    port.value
                );
                let remedy =
                    format!("write: address = \"{}\", or mode = \"nat\"", SocketAddr::new(host, port.value));
                reader.error(&address.place, message, remedy);
            }
        }
    }
}
