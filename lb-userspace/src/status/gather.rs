//! Asks the daemon for the status and, where none answers, looks for what there is without it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::if_nameindex,
    sys::socket::LinkAddr,
    time::{ClockId, clock_gettime},
    unistd::gethostname,
};

use super::{
    Status,
    without_daemon::{self, CountedFlows, Facts, InterfaceFacts},
};
use crate::{
    config::{
        self, LoadError,
        model::{Config, DEFAULT_PIN_PATH},
    },
    control::client::{self, ClientError},
    dataplane::{DataplaneError, PinnedFlows, PinnedTables, maps_path},
    state_file,
    steering::Overrides,
};

/// A daemon that takes longer to tell its status is stuck.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Clone, Debug)]
pub struct Places {
    /// The control socket.
    pub socket: PathBuf,
    /// The configuration. It is read only where no daemon answers; there need not be one.
    pub config: PathBuf,
}

/// Why nothing can be shown.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// The socket is there, and not for us.
    #[error("{}: permission denied; run it as root, or as a member of the group that the socket belongs to", .0.display())]
    Forbidden(PathBuf),
    /// Whoever is there is no daemon of ours, or not of our version.
    #[error(transparent)]
    Client(ClientError),
    /// No daemon, and no maps either.
    #[error("{why}, and there is no data plane at {}: {hint}", pin_path.display())]
    Nothing {
        /// Why there is no daemon.
        why: String,
        /// Where maps were looked for.
        pin_path: PathBuf,
        /// What to do.
        hint: &'static str,
    },
    /// No daemon, and the maps are not for us.
    #[error("{why}, and the maps at {} are only for root: run it as root", pin_path.display())]
    MapsForbidden {
        /// Why there is no daemon.
        why: String,
        /// Where the maps are.
        pin_path: PathBuf,
    },
    /// No daemon, and the maps cannot be read for another reason.
    #[error("{why}, and the maps at {} cannot be read", pin_path.display())]
    Maps {
        /// Why there is no daemon.
        why: String,
        /// Where the maps are.
        pin_path: PathBuf,
        /// What the kernel said.
        #[source]
        source: Box<DataplaneError>,
    },
}

/// The status, from the daemon or without it.
///
/// # Errors
/// Where there is nothing to show.
pub async fn status(places: &Places) -> Result<Status, GatherError> {
    let error = match tokio::time::timeout(PATIENCE, client::status(&places.socket)).await {
        Ok(Ok(status)) => return Ok(status),
        Ok(Err(error)) => Some(error),
        Err(_) => None,
    };
    let why = match error {
        None => {
            format!("xvip does not answer on {} within {} s", places.socket.display(), PATIENCE.as_secs())
        }
        Some(error @ ClientError::NotRunning(_)) => error.to_string(),
        Some(ClientError::Io { socket, error }) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(GatherError::Forbidden(socket));
        }
        Some(error) => return Err(GatherError::Client(error)),
    };
    without_daemon(places, why)
}

/// What the maps and the interfaces tell.
///
/// # Errors
/// Where there are no maps, or they cannot be read.
fn without_daemon(places: &Places, why: String) -> Result<Status, GatherError> {
    let (config, config_problem) = configuration(&places.config);
    let pin_path =
        config.as_ref().map_or(Path::new(DEFAULT_PIN_PATH), |config| &config.node.pin_path).to_owned();
    // The directory on the BPF file system says whether there is nothing, or nothing for us.
    match fs::read_dir(maps_path(&pin_path)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Err(GatherError::MapsForbidden { why, pin_path });
        }
        Err(_) => {
            let hint = "start it with `systemctl start xvip` or `xvip run`, or say --config or --socket";
            return Err(GatherError::Nothing { why, pin_path, hint });
        }
        Ok(_) => {}
    }
    let read = || -> Result<_, DataplaneError> {
        let pinned = PinnedTables::read(&pin_path)?;
        let flows: RefCell<BTreeMap<_, CountedFlows>> = RefCell::default();
        // Counted as they are read: a million of them are not kept.
        PinnedFlows::read(&pin_path, &|flow| {
            flows.borrow_mut().entry(flow.backend).or_default().add(flow.state, &flow.carried);
            false
        })?;
        Ok((pinned, flows.into_inner()))
    };
    let (pinned, flows) = read().map_err(|source| {
        let (why, pin_path) = (why.clone(), pin_path.clone());
        if is_forbidden(&source) {
            GatherError::MapsForbidden { why, pin_path }
        } else {
            GatherError::Maps { why, pin_path, source: Box::new(source) }
        }
    })?;
    let now_ns =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64);
    Ok(without_daemon::status(&Facts {
        why,
        config,
        config_problem,
        config_path: places.config.clone(),
        host_name: gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        now: SystemTime::now(),
        now_ns,
        pinned,
        flows,
        interfaces: interfaces(),
        overrides: overrides(&pin_path),
    }))
}

/// Whether the kernel refused because of who asks.
fn is_forbidden(error: &DataplaneError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The configuration, or why it is not known.
fn configuration(path: &Path) -> (Option<Config>, Option<String>) {
    match config::load(path) {
        Ok(checked) => (Some(checked.config), None),
        Err(LoadError::Unreadable { file, error }) => {
            (None, Some(format!("no backend has a name here: {} cannot be read: {error}", file.display())))
        }
        Err(LoadError::Refused(_)) => {
            let path = path.display();
            (
                None,
                Some(format!("no backend has a name here: `xvip check --config {path}` says what is wrong")),
            )
        }
    }
}

/// What cannot be listed is not known.
fn interfaces() -> BTreeMap<u32, InterfaceFacts> {
    let mut interfaces = BTreeMap::new();
    if let Ok(all) = if_nameindex() {
        for interface in &all {
            let name = interface.name().to_string_lossy().into_owned();
            interfaces.insert(interface.index(), InterfaceFacts { name, ..InterfaceFacts::default() });
        }
    }
    for entry in getifaddrs().into_iter().flatten() {
        let Some(known) = interfaces.values_mut().find(|known| known.name == entry.interface_name) else {
            continue;
        };
        let Some(address) = entry.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            known.addresses.insert(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            known.addresses.insert(v6.ip().into());
        } else if let Some(mac) = address.as_link_addr().and_then(LinkAddr::addr) {
            known.mac = mac;
        }
    }
    interfaces
}

/// What operators have said. A file that cannot be used is the daemon's business.
fn overrides(pin_path: &Path) -> Overrides {
    let file = state_file::path(&state_file::directory(), pin_path);
    let text = fs::read_to_string(file).unwrap_or_default();
    Overrides::from_json(&text).unwrap_or_default()
}
