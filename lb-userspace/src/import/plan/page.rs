//! `[http]` and `[stats_socket]`: HAProxy's statistics page and its runtime socket.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{Key, Notes, PagePlan, ServicePlan, SocketPlan, names, within};
use crate::import::{
    haproxy::DEFAULT_PAGE_PATH,
    incumbent::{Incumbent, StatsPage},
    ledger::Fate,
    source::Place,
};

/// Where the page goes whose port is a service's.
const FIRST_OTHER_PORT: u16 = 9188;
/// `stats_socket.timeout`: the shortest and the longest, in seconds.
const TIMEOUT: (u64, u64) = (1, 3600);

/// `[http]`: the first statistics page.
pub(super) fn page(from: &Incumbent, services: &[ServicePlan], notes: &mut Notes<'_>) -> Option<PagePlan> {
    let mut pages = from.stats.iter().filter_map(|stats| {
        let bind = stats
            .binds
            .iter()
            .find(|bind| bind.value.port != 0 && bind.value.address.is_none_or(is_a_host))?;
        Some((stats, bind))
    });
    let (stats, bind) = pages.next()?;
    for (other, _) in pages {
        notes.say(
            other.name.place,
            Fate::NotPossible,
            "",
            "xvip has one page: that of the first statistics section",
        );
    }
    let address = bind.value.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let is_taken = |port: u16| services.iter().any(|service| service.port.value == port);
    let port = bind.value.port;
    let free = if is_taken(port) { (FIRST_OTHER_PORT..).find(|port| !is_taken(*port))? } else { port };
    let mut listen = Key::new(SocketAddr::new(address, free), Some(bind.place));
    if free != port {
        listen.check = format!("a service has the port {port}, where HAProxy's page was");
    }
    let mut taken = BTreeSet::new();
    let users = stats.users.iter().filter_map(|user| {
        let (name, password) = &user.value;
        // A colon ends a name in HTTP.
        let name = names::name(name, "admin").replace(':', "-");
        taken.insert(name.clone()).then(|| Key::new((name, password.clone()), Some(user.place)))
    });
    let users: Vec<_> = users.collect();
    let is_open = users.is_empty();
    if let (true, Some(admin)) = (is_open, stats.admin) {
        let note = "whoever is not logged in changes nothing: write a [[http.user]] with the role \"admin\"";
        notes.say(admin, Fate::NotPossible, "", note);
    }
    Some(PagePlan {
        listen,
        path: path(stats),
        is_open,
        certificate: certificate(stats, bind.place),
        hides_version: stats.hides_version,
        users,
        admin: stats.admin,
    })
}

/// What the listener at a place shows.
fn certificate(stats: &StatsPage, listener: Place) -> Option<Key<String>> {
    let (_, certificate) = stats.certificates.iter().find(|(place, _)| *place == listener)?;
    let file = &certificate.value;
    Some(Key::of(certificate).check(format!(
        "the daemon reads this file, which has the key, as the user xvip: chgrp xvip {file} && chmod 640 {file}, and the same in a \
         renewal's hook"
    )))
}

/// Whether a host can have the address: HAProxy would not find out before it binds.
fn is_a_host(address: IpAddr) -> bool {
    !address.is_multicast() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn path(stats: &StatsPage) -> Key<String> {
    match &stats.path {
        Some(path) => Key::of(path),
        None => Key::new(DEFAULT_PAGE_PATH.to_owned(), None),
    }
}

/// `[stats_socket]`
pub(super) fn stats_socket(from: &Incumbent, notes: &mut Notes<'_>) -> Option<SocketPlan> {
    let socket = from.stats_socket.as_ref()?;
    let timeout = from.stats_timeout.as_ref().map(|timeout| {
        let seconds = timeout.value.as_millis().div_ceil(1000);
        let seconds = u64::try_from(seconds).unwrap_or(u64::MAX);
        let (least, most) = TIMEOUT;
        let seconds = within(seconds, least, most, "stats_socket.timeout", timeout.place, notes);
        Key::new(Duration::from_secs(seconds), Some(timeout.place))
    });
    Some(SocketPlan {
        path: Key::of(&socket.path),
        mode: socket.mode,
        group: socket.group.clone(),
        level: socket.level,
        timeout,
    })
}
