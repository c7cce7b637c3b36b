//! `xvip trace`: each decision that the data plane takes for a client's packets, as it takes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use lb_common::{
    reason::{TransmitReason, Verdict},
    trace::Wanted,
    wire::Mac,
};
use nix::net::if_::if_nameindex;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    command::{EXIT_USAGE, block_on, failed},
    schema,
};
use crate::{
    config::{
        self, LoadError,
        model::{Config, DEFAULT_CONFIG, DEFAULT_PIN_PATH},
    },
    reasons,
    trace::{
        Depth, Limits, Seen, Tracer,
        client::Client,
        monotonic_to_wall, next_hops,
        packet::Packet,
        record::{Record, words},
    },
};

/// The arguments of `xvip trace`.
#[derive(Clone, Debug, clap::Args)]
pub struct TraceArgs {
    /// Only packets from or to this client, before or after they are rewritten: IP, IP:PORT, [IPv6]:PORT or a network
    #[arg(long, value_name = "IP[:PORT]")]
    pub client: Client,
    /// Print one JSON object a line, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of a line that --json prints
    #[arg(long, value_parser = schema::asked::<Row>)]
    pub json_schema: bool,
    /// Explain each verdict in a second line, and say what to do about it
    #[arg(long, short)]
    pub verbose: bool,
    /// What `capture` has, too
    #[command(flatten)]
    pub until: UntilArgs,
}

/// When to stop, and whose data plane.
#[derive(Clone, Debug, clap::Args)]
pub struct UntilArgs {
    /// Stop after so many decisions
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after so many seconds
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// The configuration file, for the pin path and the backends' names
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
}

impl UntilArgs {
    pub(super) fn limits(&self) -> Limits {
        Limits { count: self.count, time: self.seconds.map(Duration::from_secs) }
    }

    /// The configuration; `None` where there is none at the default place.
    ///
    /// # Errors
    ///
    /// The exit code for one that is refused; why has been said.
    pub(super) fn configuration(&self) -> Result<Option<Config>, ExitCode> {
        match config::load(&self.config) {
            Ok(checked) => Ok(Some(checked.config)),
            Err(LoadError::Unreadable { .. }) if self.config == Path::new(DEFAULT_CONFIG) => Ok(None),
            Err(problems) => {
                eprintln!("{problems}");
                Err(ExitCode::from(EXIT_USAGE))
            }
        }
    }
}

/// A decision of the data plane: a line of `xvip trace --json`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Row {
    /// RFC 3339, UTC, nanoseconds.
    time: String,
    /// The CPU that took it.
    cpu: u32,
    /// The interface that the frame came in by.
    interface: String,
    /// The interface that it leaves by; null where it is not sent.
    leaves_by: Option<String>,
    /// `pass`, `drop` or `transmit`.
    verdict: &'static str,
    /// The reason's name, as in `xvip status`.
    reason: &'static str,
    /// The sentence that explains it.
    description: &'static str,
    /// What to do about it, where it should not be; for people.
    #[serde(skip)]
    remedy: &'static str,
    /// The backend's name, its address where the configuration has no name for it; null where none has to do with it.
    backend: Option<String>,
    /// The packet as it came.
    received: Packet,
    /// The packet as it leaves; null where nothing is sent.
    sent: Option<Packet>,
}

/// Prints decisions until it is stopped. Exits with 1 where nothing can be traced.
pub fn run(args: &TraceArgs) -> ExitCode {
    let config = match args.until.configuration() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut names = BackendNames::of(config.as_ref());
    let mut interfaces = InterfaceNames::default();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let text = std::cell::RefCell::new(Vec::new());
    let show = |record: &Record<'_>, offset: Duration| {
        let row = row(record, offset, &mut names, &mut interfaces);
        let line = if args.json { json(&row)? } else { line(&row, args.verbose) };
        text.borrow_mut().extend_from_slice(line.as_bytes());
        Ok(())
    };
    let flush = || {
        out.write_all(&text.take())?;
        out.flush()
    };
    let what = format!("tracing {}", args.client);
    match watch(
        config.as_ref(),
        args.client.wanted(),
        Depth::Headers,
        args.until.limits(),
        &what,
        show,
        flush,
    ) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Follows the data plane, and says on standard error when it begins and what it missed.
pub(super) fn watch(
    config: Option<&Config>,
    wanted: Wanted,
    depth: Depth,
    limits: Limits,
    what: &str,
    mut show: impl FnMut(&Record<'_>, Duration) -> io::Result<()>,
    flush: impl FnMut() -> io::Result<()>,
) -> anyhow::Result<Seen> {
    let pin_path = pin_path(config);
    let offset = monotonic_to_wall()?;
    block_on(async {
        let mut tracer = Tracer::start(pin_path, wanted, depth)?;
        eprintln!("{what}; Ctrl-C ends it");
        let seen = tracer.follow(limits, |record| show(record, offset), flush).await?;
        if seen.lost > 0 {
            eprintln!("{} decisions were lost, since they came faster than they could be read", seen.lost);
        }
        Ok(seen)
    })
}

fn row(
    record: &Record<'_>,
    offset: Duration,
    names: &mut BackendNames,
    interfaces: &mut InterfaceNames,
) -> Row {
    let event = record.event;
    let (verdict, reason, description) = words(record.verdict());
    let received = Packet::read(record.received, event.received_len);
    let sent = record.sent.map(|sent| Packet::read(sent, event.sent_len));
    let backend = match record.verdict() {
        Some(Verdict::Transmit(TransmitReason::ToBackend | TransmitReason::IcmpToBackend)) => {
            let destination = |packet: Option<&Packet>| packet.and_then(|packet| packet.destination.clone());
            let address = destination(sent.as_ref());
            if address == destination(Some(&received)) {
                // Direct server return on the same segment: only the Ethernet address is another one.
                let mac = record.sent.and_then(|sent| sent.first_chunk().copied());
                mac.and_then(|mac| names.of_next_hop(mac, event.at_ns))
            } else {
                address.map(|address| names.of_address(&address))
            }
        }
        Some(Verdict::Transmit(TransmitReason::ToClient)) => {
            received.source.as_ref().map(|address| names.of_address(address))
        }
        _ => None,
    };
    Row {
        time: humantime::format_rfc3339_nanos(UNIX_EPOCH + offset + Duration::from_nanos(event.at_ns))
            .to_string(),
        cpu: event.cpu,
        interface: interfaces.name(event.ingress),
        leaves_by: sent.is_some().then(|| interfaces.name(event.egress)),
        verdict,
        reason,
        description,
        remedy: record.verdict().map_or("", |verdict| reasons::explain(verdict).remedy),
        backend,
        received,
        sent,
    }
}

fn json(row: &Row) -> io::Result<String> {
    Ok(serde_json::to_string(row)? + "\n")
}

/// `TIME IN received -> VERDICT REASON (backend)`, and what is sent.
fn line(row: &Row, verbose: bool) -> String {
    let mut line =
        format!("{} {} {} => {} {}", row.time, row.interface, row.received.summary, row.verdict, row.reason);
    if let Some(backend) = &row.backend {
        line += &format!(" ({backend})");
    }
    if let (Some(sent), Some(leaves_by)) = (&row.sent, &row.leaves_by) {
        line += &format!(" => {leaves_by} {}", sent.summary);
    }
    line.push('\n');
    if verbose {
        line += &format!("    {} {}", row.description, row.remedy);
        line.truncate(line.trim_end().len());
        line.push('\n');
    }
    line
}

/// Names of the backends by their addresses, and by the Ethernet addresses that their frames go to.
struct BackendNames {
    by_address: BTreeMap<String, BTreeSet<String>>,
    pin_path: PathBuf,
    hops: BTreeMap<Mac, Vec<IpAddr>>,
    /// Not before that record time, in nanoseconds, are the next hops read again.
    hops_again_ns: u64,
}

/// Reading the next hops takes thousands of system calls.
const HOPS_EVERY_NS: u64 = 1_000_000_000;

impl BackendNames {
    fn of(config: Option<&Config>) -> Self {
        let mut by_address: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let services = config.map_or(&[][..], |config| &config.services);
        for backend in services.iter().flat_map(|service| &service.backends) {
            // A tunnelled packet shows the address alone.
            for address in [backend.address.to_string(), backend.address.ip().to_string()] {
                by_address.entry(address).or_default().insert(backend.name.clone());
            }
        }
        Self { by_address, pin_path: pin_path(config).to_owned(), hops: BTreeMap::new(), hops_again_ns: 0 }
    }

    /// The name of the one backend with this address; the address where there is none or more than one.
    fn of_address(&self, address: &str) -> String {
        let names = self.by_address.get(address).filter(|names| names.len() == 1);
        names.and_then(|names| names.first().cloned()).unwrap_or_else(|| address.to_owned())
    }

    /// The name of the one backend that frames for this Ethernet address go to, `now_ns` being a record's time.
    fn of_next_hop(&mut self, mac: Mac, now_ns: u64) -> Option<String> {
        if !self.hops.contains_key(&mac) && now_ns >= self.hops_again_ns {
            self.hops_again_ns = now_ns + HOPS_EVERY_NS;
            self.hops = next_hops(&self.pin_path).unwrap_or_default();
        }
        let addresses = self.hops.get(&mac)?.iter();
        let names: BTreeSet<String> =
            addresses.map(|address| self.of_address(&address.to_string())).collect();
        if names.len() == 1 { names.into_iter().next() } else { None }
    }
}

fn pin_path(config: Option<&Config>) -> &Path {
    config.map_or(Path::new(DEFAULT_PIN_PATH), |config| &config.node.pin_path)
}

/// Names of interfaces by index, in the network namespace of this process.
#[derive(Debug, Default)]
pub(super) struct InterfaceNames(BTreeMap<u32, String>);

impl InterfaceNames {
    /// The name; `#INDEX` where there is none any more.
    pub(super) fn name(&mut self, index: u32) -> String {
        if !self.0.contains_key(&index)
            && let Ok(all) = if_nameindex()
        {
            self.0.extend(
                all.iter()
                    .map(|interface| (interface.index(), interface.name().to_string_lossy().into_owned())),
            );
        }
        self.0.entry(index).or_insert_with(|| format!("#{index}")).clone()
    }
}
