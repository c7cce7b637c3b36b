//! The interfaces: driver, offloads, queues, programs, and whether a program can be attached.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd as _,
    thread::sleep,
    time::{Duration, Instant},
};

use aya::programs::loaded_programs;

use super::{processes, system_calls};
use crate::{
    dataplane::driver,
    doctor::{
        drivers::HARMLESS,
        facts::{Attached, Channels, Link, Looked, Offload, Program, Trial},
    },
    netlink::{
        self, Netlink, ethtool,
        question::QuestionError,
        xdp::{self, Place},
    },
};

/// Where attaching is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trying {
    /// Nowhere.
    Nowhere,
    /// On virtual interfaces: a real card's driver may restart its queues.
    WhereHarmless,
    /// Everywhere.
    Everywhere,
}

/// A link that was closed is gone a moment later.
const LINK_GOES_WITHIN: Duration = Duration::from_secs(1);

const SYSCTLS: [(&str, &str, How); 6] = [
    ("ipv4", "rp_filter", How::Largest),
    ("ipv4", "arp_ignore", How::Largest),
    ("ipv4", "arp_announce", How::Largest),
    ("ipv4", "arp_filter", How::Largest),
    ("ipv6", "disable_ipv6", How::Own),
    ("ipv6", "accept_dad", How::Own),
];

/// What counts beside an interface's own value (Documentation/networking/ip-sysctl.rst).
#[derive(Clone, Copy)]
enum How {
    /// The larger one of it and that of `all`.
    Largest,
    /// Nothing.
    Own,
}

/// The interface of this name.
pub async fn look(name: &str) -> Looked<netlink::Link> {
    let (netlink, _) = Netlink::open(&[name.to_owned()]).await.map_err(|error| error.to_string())?;
    let links = netlink.links().await.map_err(|error| error.to_string())?;
    links.into_iter().next().ok_or_else(|| format!("interface {name} does not exist"))
}

/// The name of the interface with this index.
pub fn name(index: u32) -> String {
    nix::net::if_::if_indextoname(index)
        .map_or_else(|_| format!("#{index}"), |name| name.to_string_lossy().into_owned())
}

/// What else there is to know.
pub fn details(link: &netlink::Link, trying: Trying) -> Link {
    let parent = &link.parent_name;
    let below = xdp::link(link.parent).unwrap_or_default();
    let driver = driver(parent).ok().filter(|driver| !driver.is_empty()).or(below.kind);
    let offloads: BTreeMap<String, Offload> = ethtool::features(parent)
        .unwrap_or_default()
        .into_iter()
        .map(|(name, feature)| (name, Offload { on: feature.on, fixed: !feature.changeable }))
        .collect();
    let channels = ethtool::queues(parent)
        .ok()
        .map(|queues| Channels { receive: queues.receive, receive_max: queues.receive_max });
    let is_harmless = driver.as_deref().is_some_and(|driver| HARMLESS.contains(&driver));
    let may_try = match trying {
        Trying::Nowhere => false,
        Trying::WhereHarmless => is_harmless,
        Trying::Everywhere => true,
    };
    let trial = (may_try && below.programs.is_empty()).then(|| try_attach(link.parent)).flatten();
    Link {
        index: link.index,
        up: link.up,
        carrier: link.running,
        mac: link.mac,
        mtu: link.mtu,
        vlans: link.tags.iter().map(|tag| tag.id).collect(),
        parent: parent.clone(),
        parent_mtu: below.mtu,
        driver,
        xdp_features: ethtool::xdp_features(link.parent).ok(),
        offloads,
        channels,
        programs: programs(&below.programs),
        trial,
        sysctls: sysctls(&link.name),
    }
}

fn programs(attached: &[(Place, u32)]) -> Vec<Program> {
    if attached.is_empty() {
        return Vec::new();
    }
    let known: BTreeMap<u32, (String, u64)> = loaded_programs()
        .flatten()
        .map(|program| (program.id(), (program.name_as_str().unwrap_or_default().to_owned(), program.tag())))
        .collect();
    let mut programs: Vec<Program> = attached
        .iter()
        .map(|(place, id)| {
            let (name, tag) = known.get(id).cloned().unwrap_or_default();
            let mode = match place {
                Place::Driver => Attached::Native,
                Place::Stack => Attached::Generic,
                Place::Card => Attached::Offloaded,
            };
            Program {
                id: *id,
                mode,
                name,
                tag: if tag == 0 { String::new() } else { format!("{tag:016x}") },
                ..Program::default()
            }
        })
        .collect();
    processes::find_holders(&mut programs);
    programs
}

/// First by a link, which goes with this process, however that ends; where that is refused, by netlink, which says why.
/// `None` where not even a program can be loaded.
fn try_attach(index: u32) -> Option<Trial> {
    let program = system_calls::pass_program().ok()?;
    let refusal = match system_calls::attach_native(program.as_fd(), index) {
        Ok(link) => {
            drop(link);
            let begun = Instant::now();
            while begun.elapsed() < LINK_GOES_WITHIN
                && xdp::link(index).is_ok_and(|link| !link.programs.is_empty())
            {
                sleep(Duration::from_millis(1));
            }
            return Some(Trial::Accepted);
        }
        Err(error) => error,
    };
    match xdp::try_native(index, program.as_fd()) {
        Ok(()) => Some(Trial::Accepted),
        Err(QuestionError::Refused { error, message }) => {
            Some(Trial::Refused { error: error.to_string(), message })
        }
        Err(_) => Some(Trial::Refused { error: refusal.to_string(), message: None }),
    }
}

fn sysctls(interface: &str) -> BTreeMap<String, i64> {
    let read = |family: &str, scope: &str, key: &str| -> Option<i64> {
        let text = fs::read_to_string(format!("/proc/sys/net/{family}/conf/{scope}/{key}")).ok()?;
        text.trim().parse().ok()
    };
    let values = SYSCTLS.iter().filter_map(|(family, key, how)| {
        let own = read(family, interface, key)?;
        let value = match how {
            How::Largest => own.max(read(family, "all", key).unwrap_or(own)),
            How::Own => own,
        };
        Some(((*key).to_owned(), value))
    });
    values.collect()
}
