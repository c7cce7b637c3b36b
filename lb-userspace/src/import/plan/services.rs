//! `[[service]]`: each TCP proxy on each VIP; and what else HAProxy's files say.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::layout::{MAX_BACKENDS, MAX_MEMBERS, MAX_SERVICES};

use super::{BackendPlan, Idle, Key, Notes, Owned, ServicePlan, health, names};
use crate::{
    config::{
        kinds,
        model::{Balance, DEFAULT_FLOWS_MAX, MAX_ENTRIES, MAX_WEIGHT, Prefix, duration_text},
    },
    import::{
        incumbent::{Choice, Incumbent, Pool, PoolServer, Proxy, ServerAddress},
        ledger::Fate,
        source::At,
    },
};

const SHORTEST_IDLE: Duration = Duration::from_secs(60);
const LONGEST_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The services of a node, in the order of the proxies.
pub(super) fn services(from: &Incumbent, vips: &[Owned], notes: &mut Notes<'_>) -> Vec<ServicePlan> {
    let mut services: Vec<ServicePlan> = Vec::new();
    let mut taken = BTreeSet::new();
    for proxy in &from.proxies {
        if proxy.http {
            let note = "a proxy of mode http reads requests; xvip forwards connections. If nothing of HTTP is needed here, write \
                        mode tcp and import again";
            notes.say(proxy.name.place, Fate::NotPossible, "", note);
            continue;
        }
        for (owned, port) in listeners(proxy, vips, notes) {
            if let Some(other) = services
                .iter()
                .find(|other| other.vip.value.address == owned.vip.address && other.port.value == port.value)
            {
                let note = format!("{}:{} is already {}'s", owned.vip.address, port.value, other.name.value);
                notes.say(port.from.unwrap_or(proxy.name.place), Fate::NotPossible, "", note);
                continue;
            }
            let Some(service) = service(proxy, owned, port, vips, notes) else { continue };
            let name = names::unique(&mut taken, &service.name.value);
            services.push(ServicePlan { name: Key { value: name, ..service.name }, ..service });
            // More are refused anyway; a file with thousands must not take a quadratic time.
            let backends: usize = services.iter().map(|service| service.backends.len()).sum();
            if services.len() > MAX_SERVICES as usize || backends > MAX_BACKENDS as usize {
                return services;
            }
        }
    }
    services
}

/// Where a proxy listens, of the VIPs.
fn listeners<'v>(proxy: &Proxy, vips: &'v [Owned], notes: &mut Notes<'_>) -> Vec<(&'v Owned, Key<u16>)> {
    let mut found: Vec<(&Owned, Key<u16>)> = Vec::new();
    for At { value: bind, place } in &proxy.binds {
        if found.len() > MAX_SERVICES as usize {
            break;
        }
        if bind.port == 0 {
            notes.say(*place, Fate::NotPossible, "", "port 0 is any port, and a service needs one");
            continue;
        }
        let of_bind: Vec<&Owned> = vips
            .iter()
            .filter(|owned| bind.address.is_none_or(|address| address == owned.vip.address))
            .collect();
        if let (Some(address), []) = (bind.address, of_bind.as_slice()) {
            let note = format!(
                "{address} is no VIP, and xvip serves VIPs only; with --vip {address}/{} it becomes one that stays on this node",
                if address.is_ipv4() { 32 } else { 128 }
            );
            notes.say(*place, Fate::NotPossible, "", note);
        }
        for owned in of_bind {
            if !found.iter().any(|(other, port)| other.vip == owned.vip && port.value == bind.port) {
                found.push((owned, Key::new(bind.port, Some(*place))));
            }
        }
    }
    found
}

fn service(
    proxy: &Proxy,
    owned: &Owned,
    port: Key<u16>,
    vips: &[Owned],
    notes: &mut Notes<'_>,
) -> Option<ServicePlan> {
    let servers = reachable(&proxy.pool, owned.vip.address, port.value, vips, notes);
    if servers.is_empty() {
        let note =
            format!("no server of {} can be reached from {}", proxy.pool.name.value, owned.vip.address);
        notes.say(proxy.name.place, Fate::NotPossible, "", note);
        return None;
    }
    let allow = allow(proxy, owned.vip.address);
    if allow.is_empty() && !proxy.allow.is_empty() {
        let note =
            format!("nobody of those who may connect can reach {}, so it is no service", owned.vip.address);
        notes.say(proxy.name.place, Fate::NotPossible, "", note);
        return None;
    }
    let checked: Vec<&PoolServer> = servers.iter().map(|(server, _)| *server).collect();
    let health = health::health(&proxy.pool, &checked, notes)?;
    Some(ServicePlan {
        name: Key::new(names::name(&proxy.name.value, "service"), Some(proxy.name.place)),
        vip: Key::new(owned.vip, owned.from),
        port,
        vrrp: owned.instance.clone(),
        balance: balance(&proxy.pool.balance),
        allow,
        connection_log: proxy.logs_connections,
        health,
        backends: backends(&servers, notes),
    })
}

/// The servers that packets for this address can be sent on to, and where they are.
fn reachable<'p>(
    pool: &'p Pool,
    vip: IpAddr,
    port: u16,
    vips: &[Owned],
    notes: &mut Notes<'_>,
) -> Vec<(&'p PoolServer, SocketAddr)> {
    let mut found: Vec<(&PoolServer, SocketAddr)> = Vec::new();
    for server in &pool.servers {
        let mut no = |note: String| notes.say(server.name.place, Fate::NotPossible, "", note);
        let mut address = match &server.address {
            ServerAddress::Ip(address) => *address,
            ServerAddress::Name(name, _) => {
                no(format!(
                    "{name} is a name, and backends have addresses; --resolve looks it up now, or write the address"
                ));
                continue;
            }
        };
        if address.port() == 0 {
            address.set_port(port);
        }
        if address.is_ipv4() != vip.is_ipv4() {
            no(format!(
                "{address} cannot be a backend of {vip}: mode \"nat\" does not translate between IPv4 and IPv6"
            ));
        } else if vips.iter().any(|owned| owned.vip.address == address.ip()) {
            no(format!("{} is a VIP itself: packets would go round in circles", address.ip()));
        } else if !kinds::is_backend_address(address) {
            let remedy = if address.ip().is_loopback() {
                "; write the node's own address, on which this process must listen, too"
            } else {
                ""
            };
            no(format!("{} is no address of a backend on the network{remedy}", address.ip()));
        } else if let Some((other, _)) = found.iter().find(|(_, known)| *known == address) {
            no(format!("{address} is already {}'s: give that one a higher weight instead", other.name.value));
        } else {
            found.push((server, address));
            if found.len() > MAX_MEMBERS {
                break;
            }
        }
    }
    found
}

fn backends(servers: &[(&PoolServer, SocketAddr)], notes: &mut Notes<'_>) -> Vec<BackendPlan> {
    let mut taken = BTreeSet::new();
    let reserve = |server: &PoolServer| server.backup || server.disabled;
    // Without anybody in the first line, the second is it.
    let serving = |server: &PoolServer| !reserve(server) && server.weight > 0;
    let has_serving = servers.iter().any(|(server, _)| serving(server));
    let weights: BTreeSet<u16> =
        servers.iter().filter(|(server, _)| !reserve(server)).map(|(server, _)| server.weight).collect();
    let alike = weights.len() <= 1;
    let mut backends = Vec::new();
    for (server, address) in servers {
        let place = server.name.place;
        let name = names::name(&server.name.value, "backend");
        let from = notes.origin("service.backend.weight", place).or(Some(place));
        let weight = if !has_serving {
            (server.backup || server.disabled).then(|| {
                Key::new(100, Some(place))
                    .check("a backup or disabled server, but there is no other one here")
            })
        } else if reserve(server) {
            let word = if server.backup { "backup" } else { "disabled" };
            let note = format!(
                "{word} in HAProxy: no new connections, until `xvip backend weight` or this line says so"
            );
            notes.say(place, Fate::Approximate, "service.backend.weight = 0", note.clone());
            Some(Key::new(0, Some(place)).check(note))
        } else if alike {
            None
        } else {
            Some(Key::new(server.weight.min(MAX_WEIGHT), from))
        };
        let limit = server.max_connections;
        let from = notes.origin("service.backend.max_connections", place).or(Some(place));
        backends.push(BackendPlan {
            name: Key::new(names::unique(&mut taken, &name), Some(place)),
            address: *address,
            weight,
            max_connections: (limit > 0).then_some(Key::new(limit, from)),
        });
    }
    backends
}

fn allow(proxy: &Proxy, vip: IpAddr) -> Vec<Key<Prefix>> {
    let mut known = BTreeSet::new();
    let usable = proxy.allow.iter().filter(|at| {
        let Prefix { address, len } = at.value;
        address.is_ipv4() == vip.is_ipv4()
            && len <= if address.is_ipv4() { 32 } else { 128 }
            && known.insert(network(at.value))
    });
    usable.map(|at| Key::new(network(at.value), Some(at.place))).collect()
}

/// The network, with nothing set behind its prefix.
fn network(prefix: Prefix) -> Prefix {
    let Prefix { address, len } = prefix;
    let address = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::from((address.to_bits() & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::from((address.to_bits() & mask).to_be_bytes())
        }
    };
    Prefix { address, len }
}

fn balance(choice: &At<Choice>) -> Key<Balance> {
    match &choice.value {
        Choice::RoundRobin => Key::new(Balance::RoundRobin, Some(choice.place)).check(
            "as it was. \"maglev\" gives a connection the same backend on every node, so that it survives a move of the VIP \
             even where [sync] could not tell",
        ),
        Choice::LeastConnections => Key::new(Balance::LeastConnections, Some(choice.place)),
        Choice::Hash(what) => Key::new(Balance::Maglev, Some(choice.place))
            .check(format!("HAProxy hashes by {what}; Maglev hashes client address and port, and the VIP's")),
        Choice::Other(what) => Key::new(Balance::Maglev, Some(choice.place))
            .check(format!("xvip has no {what}; it has maglev, round-robin and least-connections")),
    }
}

/// `flows.max`, where HAProxy's process may have more than xvip's default.
pub(super) fn flows_max(from: &Incumbent) -> Option<Key<u32>> {
    let limit = from.max_connections.as_ref()?;
    (limit.value > u64::from(DEFAULT_FLOWS_MAX)).then(|| {
        let max = u32::try_from(limit.value).unwrap_or(MAX_ENTRIES).min(MAX_ENTRIES);
        Key::new(max, Some(limit.place))
    })
}

/// What becomes of the time-outs of idle connections.
pub(super) fn idle(from: &Incumbent, keep: bool, notes: &mut Notes<'_>) -> Idle {
    let longest =
        from.proxies.iter().filter(|proxy| !proxy.http).filter_map(idle_of).max_by_key(|at| at.value);
    let Some(At { value, place }) = longest else { return Idle::None };
    if !keep {
        return Idle::Dropped(value, place);
    }
    let whole = Duration::from_millis(u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    let allowed = whole.clamp(SHORTEST_IDLE, LONGEST_IDLE);
    let mut key = Key::new(allowed, Some(place));
    if allowed != value {
        let note = format!(
            "xvip's `flows.idle_timeout` is 1m to 365 days: {} instead of {}",
            duration_text(allowed),
            duration_text(value)
        );
        notes.say(place, Fate::Approximate, "flows.idle_timeout", note.clone());
        key.check = note;
    }
    Idle::Kept(key)
}

/// When HAProxy cuts an idle connection of a proxy: `timeout tunnel` if there is one, else the shorter of the two sides'.
fn idle_of(proxy: &Proxy) -> Option<At<Duration>> {
    let pool = &proxy.pool;
    if let Some(tunnel) = &pool.tunnel_timeout {
        return Some(tunnel.clone());
    }
    [&proxy.client_timeout, &pool.server_timeout].into_iter().flatten().min_by_key(|at| at.value).cloned()
}
