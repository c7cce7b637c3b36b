//! `xvip cleanup`: removes what a stopped or killed daemon left, since nothing of it ends by itself.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use lb_common::{layout::VipEntry, wire::Be128};

use super::command::{EXIT_USAGE, SocketArgs, block_on, failed};
use crate::{
    config::{
        self, LoadError,
        model::{Config, DEFAULT_CONFIG, DEFAULT_PIN_PATH},
    },
    control::server,
    controller::{claim::Claim, pins::PinLock, succession},
    dataplane::{self, VipEntryV4},
    history,
    netlink::{Netlink, NetlinkError},
    state_file,
};

/// The arguments of `xvip cleanup`.
#[derive(Clone, Debug, clap::Args)]
pub struct CleanupArgs {
    /// The configuration file, for the interface, the VIPs and the pin path; without it the pins at the default path go
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Where the daemon would listen
    #[command(flatten)]
    pub socket: SocketArgs,
}

/// Removes and prints each thing that it removed. Refuses while a daemon is running.
pub fn run(args: &CleanupArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(checked) => Some(checked.config),
        Err(LoadError::Unreadable { .. }) if args.config == Path::new(DEFAULT_CONFIG) => None,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match block_on(clean(config.as_ref(), &args.socket.socket)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

async fn clean(config: Option<&Config>, socket: &Path) -> anyhow::Result<()> {
    if let Some(pid) = server::running(socket)? {
        bail!("xvip is running (pid {pid}); stop it first");
    }
    let pin_path = config.map_or(Path::new(DEFAULT_PIN_PATH), |config| &config.node.pin_path);
    let interfaces = config.map_or(&[][..], |config| &config.node.interfaces);
    let claims = interfaces.iter().map(|interface| Claim::take(interface)).collect::<Result<Vec<_>, _>>()?;
    let lock = PinLock::take_if_there(pin_path)?;

    let mut vips = pinned_vips(pin_path)?;
    let mut removed = 0;
    match config {
        Some(config) => {
            let owned = config.services.iter().filter(|service| service.vrrp.is_some());
            vips.extend(owned.map(|service| service.vip.address));
            removed += remove_addresses(config.node.interface(), &vips).await?;
        }
        None => {
            for vip in vips {
                eprintln!(
                    "without a configuration the interface is not known: if {vip} is there, `ip addr del` it"
                );
            }
        }
    }

    let pins = dataplane::cleanup(pin_path).context("removing the program and its maps")?;
    for pin in &pins {
        say(&format!("removed {}", pin.display()));
    }
    removed += pins.len();
    let state = state_file::path(&state_file::directory(), pin_path);
    for file in [succession::note_path(socket), state] {
        if state_file::remove(&file).with_context(|| format!("removing {}", file.display()))? {
            say(&format!("removed {}", file.display()));
            removed += 1;
        }
    }
    let history = history::file::path(&state_file::path(&state_file::directory(), pin_path));
    for file in history::file::remove(&history).with_context(|| format!("removing {}", history.display()))? {
        say(&format!("removed {}", file.display()));
        removed += 1;
    }
    drop((claims, lock));
    if removed == 0 {
        say("nothing to remove");
    }
    Ok(())
}

/// Prints a line. Whoever has closed the other end (`| head`) wants the clean-up to go on all the same.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

async fn remove_addresses(interface: &str, vips: &BTreeSet<IpAddr>) -> anyhow::Result<usize> {
    let netlink = match Netlink::open(&[interface.to_owned()]).await {
        Ok((netlink, _)) => netlink,
        Err(NetlinkError::NoInterface(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut removed = 0;
    for address in netlink.addresses().await? {
        if vips.contains(&address.0) {
            netlink.remove_address(address).await?;
            say(&format!("removed address {}/{} from {interface}", address.0, address.1));
            removed += 1;
        }
    }
    Ok(removed)
}

/// The VIPs that a VRRP instance owned, as the pinned maps of whatever layout have them.
fn pinned_vips(pin_path: &Path) -> anyhow::Result<BTreeSet<IpAddr>> {
    let mut vips = BTreeSet::new();
    let directories = match std::fs::read_dir(pin_path) {
        Ok(directories) => directories,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vips),
        Err(error) => return Err(error).context(pin_path.display().to_string()),
    };
    for directory in directories {
        let pin = directory?.path().join("VIPS");
        if !pin.exists() {
            continue;
        }
        let wide = fenced::<[u8; 16], _>(&pin, |entry: &VipEntry| entry.fenced);
        let wide = wide.or_else(|| fenced::<[u8; 16], _>(&pin, |entry: &VipEntryV4| entry.fenced));
        // Up to layout 3 a VIP was nothing but that.
        if let Some(found) = wide.or_else(|| fenced::<[u8; 16], _>(&pin, |&fenced: &u32| fenced)) {
            vips.extend(found.into_iter().map(|vip| IpAddr::from(Be128::from_octets(vip))));
        } else if let Some(found) = fenced::<[u8; 4], _>(&pin, |&fenced: &u32| fenced) {
            // Layouts up to 2 were of IPv4 alone.
            vips.extend(found.into_iter().map(|vip| IpAddr::V4(Ipv4Addr::from(vip))));
        } else {
            eprintln!("{} is of another layout and was not read", pin.display());
        }
    }
    Ok(vips)
}

/// The keys of the fenced entries; `None` where keys or values are of another kind.
fn fenced<K: Pod, V: Pod>(pin: &Path, is_fenced: impl Fn(&V) -> u32) -> Option<Vec<K>> {
    let map: Result<HashMap<MapData, K, V>, _> =
        MapData::from_pin(pin).and_then(|data| HashMap::try_from(Map::HashMap(data)));
    Some(map.ok()?.iter().flatten().filter(|(_, entry)| is_fenced(entry) == 1).map(|(vip, _)| vip).collect())
}
