//! Looks at everything, changes nothing.

mod host;
mod links;
mod listen;
mod processes;
mod rules;
mod system_calls;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};

use super::facts::{Backend, Facts, Interface, Looked, Warning, Way, Wire};
use crate::{
    config::{
        Checked,
        diagnostic::Diagnostic,
        model::{Config, Health, XdpMode},
    },
    control::client::{self, ClientError},
    desired::NextHop,
    health::probe::{Connection, Probe, Recipe},
    netlink::{self, Netlink},
    status::Status,
};

/// The kernel gives up on a neighbour after three questions, one each second (`retrans_time_ms`, `mcast_solicit`).
const NEIGHBOURS_ANSWER_WITHIN: Duration = Duration::from_millis(3200);
/// From one look at the neighbours to the next.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// So many backends are checked at once.
const CHECKS_AT_ONCE: usize = 16;

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration file.
    pub file: PathBuf,
    /// Where a running daemon listens.
    pub socket: PathBuf,
    /// How long to listen to the network.
    pub listen: Duration,
    /// Whether attaching is tried on real network cards, too.
    pub try_attach: bool,
}

/// Gathers everything, within a little more than [`Options::listen`] or three seconds.
pub async fn gather(checked: Checked, options: &Options) -> Facts {
    let begun = Instant::now();
    let Checked { config, warnings } = checked;
    let daemon = daemon(&options.socket).await;
    let mut interfaces = Vec::new();
    let mut usable = Vec::new();
    let mut first = None;
    for name in &config.node.interfaces {
        let found = links::look(name).await;
        let link = match found {
            Ok(link) => {
                usable.push(name.clone());
                if name == config.node.interface() {
                    first = Some(link.clone());
                }
                Ok(links::details(&link, may_try(&daemon, &config, options)))
            }
            Err(error) => Err(error),
        };
        interfaces.push(Interface { name: name.clone(), link });
    }
    let netlink = Netlink::open(&usable).await.map(|(netlink, _)| netlink);
    let listening = {
        let (config, limit) = (config.clone(), options.listen);
        tokio::task::spawn_blocking(move || match first {
            Some(link) => listen::listen(&config, &link, limit),
            None => Wire::default(),
        })
    };
    let backends = backends(&config, netlink.as_ref().map_err(ToString::to_string), begun).await;
    let wire = listening.await.unwrap_or_default();
    let peers = peers(&config, &wire, netlink.as_ref().ok()).await;
    let vips: Vec<IpAddr> = config.services.iter().map(|service| service.vip.address).collect();
    Facts {
        file: options.file.clone(),
        warnings: warnings
            .into_iter()
            .map(|Diagnostic { key, message, remedy, .. }| Warning { key, message, remedy })
            .collect(),
        daemon,
        host: host::look(&config),
        interfaces,
        addresses: host::addresses(),
        macs: host::macs(),
        wire,
        backends,
        peers,
        firewall: rules::read(&vips),
        listeners: processes::listeners(&config),
        keepalived: processes::keepalived(),
        config,
    }
}

async fn daemon(socket: &Path) -> Looked<Option<Status>> {
    match client::status(socket).await {
        Ok(status) => Ok(Some(status)),
        Err(ClientError::NotRunning(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Where a daemon runs, or may run, its program is not to be disturbed.
fn may_try(daemon: &Looked<Option<Status>>, config: &Config, options: &Options) -> links::Trying {
    let nobody_runs = matches!(daemon, Ok(None));
    match (nobody_runs, config.node.xdp_mode, options.try_attach) {
        (false, ..) | (_, XdpMode::Generic, _) => links::Trying::Nowhere,
        (true, _, true) => links::Trying::Everywhere,
        (true, _, false) => links::Trying::WhereHarmless,
    }
}

async fn peers(config: &Config, wire: &Wire, netlink: Option<&Netlink>) -> BTreeMap<IpAddr, Way> {
    let heard = wire.adverts.iter().filter(|heard| !heard.outgoing).map(|heard| heard.envelope.source);
    let configured = config.vrrp.iter().flat_map(|vrrp| vrrp.unicast_peers.iter().copied());
    let peers: BTreeSet<IpAddr> = heard.chain(configured).collect();
    let mut ways = BTreeMap::new();
    let Some(netlink) = netlink else { return ways };
    for peer in peers {
        if let Ok(way) = netlink.way(peer).await {
            ways.insert(peer, named(way));
        }
    }
    ways
}

fn named(way: netlink::Way) -> Way {
    match way {
        netlink::Way::None => Way::None,
        netlink::Way::Local => Way::Local,
        netlink::Way::Out { interface, neighbour } => {
            Way::Out { interface: links::name(interface), neighbour }
        }
    }
}

async fn backends(config: &Config, netlink: Result<&Netlink, String>, begun: Instant) -> Vec<Backend> {
    let mut names: BTreeMap<SocketAddr, Vec<String>> = BTreeMap::new();
    let mut probes = BTreeMap::new();
    for service in &config.services {
        for backend in &service.backends {
            let name = format!("{}/{}", service.name, backend.name);
            names.entry(backend.address).or_default().push(name);
            probes.entry(backend.address).or_insert(&service.health);
        }
    }
    let addresses: BTreeSet<IpAddr> = names.keys().map(SocketAddr::ip).collect();
    let mut ways: BTreeMap<IpAddr, Looked<Way>> = BTreeMap::new();
    for address in &addresses {
        let way = match &netlink {
            Ok(netlink) => netlink.way(*address).await.map(named).map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        ways.insert(*address, way);
    }
    // The first look makes the kernel ask; the checks give it the time.
    let mut hops = next_hops(&netlink, &addresses).await;
    let checks: BTreeMap<SocketAddr, Looked<String>> = stream::iter(probes)
        .map(|(address, health)| async move { (address, check(health, address).await) })
        .buffer_unordered(CHECKS_AT_ONCE)
        .collect()
        .await;
    while begun.elapsed() < NEIGHBOURS_ANSWER_WITHIN && hops.values().any(|hop| *hop == NextHop::Unresolved) {
        tokio::time::sleep(LOOK_EVERY).await;
        hops = next_hops(&netlink, &addresses).await;
    }
    let backend = |(address, names): (SocketAddr, Vec<String>)| {
        let way = ways.get(&address.ip()).cloned().unwrap_or(Ok(Way::None));
        let neighbour = match (hops.get(&address.ip()), &way) {
            (Some(NextHop::Mac { .. }), _) => Some(true),
            (Some(NextHop::Unresolved), Ok(Way::Out { .. })) => Some(false),
            _ => None,
        };
        let check = checks.get(&address).cloned().unwrap_or_else(|| Err("not checked".to_owned()));
        Backend { names, address, way, neighbour, check }
    };
    names.into_iter().map(backend).collect()
}

async fn next_hops(
    netlink: &Result<&Netlink, String>,
    addresses: &BTreeSet<IpAddr>,
) -> BTreeMap<IpAddr, NextHop> {
    match netlink {
        Ok(netlink) => netlink.next_hops(addresses).await.map(|hops| hops.by_backend).unwrap_or_default(),
        Err(_) => BTreeMap::new(),
    }
}

async fn check(health: &Health, address: SocketAddr) -> Looked<String> {
    let recipe = Recipe::read(&health.check, health.timeout).map_err(|error| error.to_string())?;
    let mut probe = Probe::new(&recipe, address).map_err(|error| error.to_string())?;
    let outcome = probe.check(Connection::Fresh).await;
    probe.close().await;
    match outcome.result {
        Ok(answer) => Ok(format!("{answer} after {} ms", outcome.latency.as_millis())),
        Err(error) => Err(error.to_string()),
    }
}
