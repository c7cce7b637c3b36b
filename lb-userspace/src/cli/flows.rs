//! `xvip flows`: the flow tables as they are in the kernel, whether the daemon runs or not.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, bail};
use lb_common::layout::{BackendEntry, BackendId};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    colour::Tone,
    command::{EXIT_USAGE, failed},
    schema,
};
use crate::{
    config::{
        self, LoadError,
        model::{Config, DEFAULT_CONFIG, DEFAULT_PIN_PATH},
    },
    dataplane::PinnedFlows,
    flows::{Flow, FlowState},
    status::table::{Column, Screen, amount, draw, fitting, short},
};

/// The arguments of `xvip flows`.
#[derive(Clone, Debug, clap::Args)]
pub struct FlowsArgs {
    /// The configuration file, for the pin path and the backends' names
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,
    /// Only flows of clients in this network; an address alone is that client
    #[arg(long, value_name = "CIDR")]
    pub client: Option<Network>,
    /// Only flows of this backend: its name, or its address, with or without port
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// The order: by client, or the largest first
    #[arg(long, value_enum, default_value_t = Sort::Client)]
    pub sort: Sort,
    /// Show only so many
    #[arg(long, value_name = "N")]
    pub limit: Option<usize>,
    /// Print one JSON array with an object for each flow, whose form is stable
    #[arg(long)]
    pub json: bool,
    /// Print the JSON Schema of what --json prints
    #[arg(long, value_parser = schema::asked::<Vec<Row>>)]
    pub json_schema: bool,
}

/// The order of the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// By the client's address and port
    Client,
    /// The oldest first
    Age,
    /// The longest silent first
    Idle,
    /// The most bytes, both ways together, first
    Bytes,
}

impl Sort {
    /// Puts flows that are in the order of their clients in this one.
    fn apply(self, rows: &mut [Row]) {
        match self {
            Self::Client => {}
            Self::Age => rows.sort_by_key(|row| Reverse(row.age_seconds)),
            Self::Idle => rows.sort_by_key(|row| Reverse(row.idle_seconds)),
            Self::Bytes => rows.sort_by_key(|row| Reverse(row.bytes_in.saturating_add(row.bytes_out))),
        }
    }
}

/// A network that clients are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    len: u32,
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let differing = bits(self.address) ^ bits(address);
        self.address.is_ipv4() == address.is_ipv4() && differing.leading_zeros() >= self.len
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is no address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        match len.map_or(Ok(longest), str::parse) {
            Ok(len) if len <= longest => Ok(Self { address, len }),
            _ => Err(format!("the prefix length must be 0 to {longest}")),
        }
    }
}

/// A flow as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Flow")]
struct Row {
    /// Address and port of the client.
    client: String,
    /// VIP and service port.
    service: String,
    /// The backend's name; its address where the configuration has it no more.
    backend: String,
    /// Its address and port.
    backend_address: String,
    /// The port that the backend sees; null with direct server return.
    nat_port: Option<u16>,
    /// `half-open`, `established`, `closing` or `reset`.
    state: FlowState,
    /// Seconds since it was opened. The clock of flows stands still while no daemon runs.
    age_seconds: u32,
    /// Seconds since the last packet of either direction, by the same clock.
    idle_seconds: u32,
    /// Packets from the client.
    packets_in: u64,
    /// Their bytes, IP headers included.
    bytes_in: u64,
    /// Packets to the client; with direct server return they do not come through.
    packets_out: u64,
    /// Their bytes.
    bytes_out: u64,
}

/// Prints the flows. Exits with 1 where the tables cannot be read, with 2 for a configuration that is refused.
pub fn run(args: &FlowsArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(checked) => Some(checked.config),
        Err(LoadError::Unreadable { .. }) if args.config == Path::new(DEFAULT_CONFIG) => None,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match print(args, config.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn print(args: &FlowsArgs, config: Option<&Config>) -> anyhow::Result<()> {
    let pin_path = config.map_or(Path::new(DEFAULT_PIN_PATH), |config| &config.node.pin_path);
    let client = args.client;
    let keep = |flow: &Flow| client.is_none_or(|client| client.contains(flow.client.ip()));
    let read = PinnedFlows::read(pin_path, &keep).with_context(|| {
        format!(
            "the flow tables below {} cannot be read (root only; is node.pin_path right?)",
            pin_path.display()
        )
    })?;
    let known =
        |name: &str| rows(&read, config).iter().any(|row| is_of(row, name)) || is_configured(config, name);
    if let Some(name) = &args.backend
        && !known(name)
    {
        bail!("no backend is called {name:?}, and no flow is on one with this address");
    }
    let mut rows = rows(&read, config);
    rows.retain(|row| args.backend.as_ref().is_none_or(|name| is_of(row, name)));
    let all = rows.len();
    args.sort.apply(&mut rows);
    rows.truncate(args.limit.unwrap_or(usize::MAX));
    let mut out = io::stdout();
    let text = if args.json {
        format!("{}\n", serde_json::to_string_pretty(&rows)?)
    } else {
        render(&rows, all, &Screen::of_stdout())
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `xvip flows | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn is_configured(config: Option<&Config>, name: &str) -> bool {
    let services = config.map_or(&[][..], |config| &config.services);
    services
        .iter()
        .flat_map(|service| &service.backends)
        .any(|backend| backend.name == name || is_address(&backend.address.to_string(), name))
}

fn is_of(row: &Row, name: &str) -> bool {
    row.backend == name || is_address(&row.backend_address, name)
}

/// Whether a text is this address, with or without the port.
fn is_address(address: &str, text: &str) -> bool {
    let of = |text: &str| text.parse::<SocketAddr>().ok();
    address == text
        || of(address).is_some_and(|address| of(text) == Some(address) || text.parse() == Ok(address.ip()))
}

/// The flows with the names that the configuration has for them, by client.
fn rows(read: &PinnedFlows, config: Option<&Config>) -> Vec<Row> {
    let names = names(config);
    let mut flows: Vec<&Flow> = read.flows.iter().collect();
    flows.sort();
    flows.into_iter().map(|flow| row(flow, &read.backends, &names)).collect()
}

/// VIP with port, and address -> name.
type Names = BTreeMap<(SocketAddr, SocketAddr), String>;

fn names(config: Option<&Config>) -> Names {
    let services = config.map_or(&[][..], |config| &config.services);
    let backends = services.iter().flat_map(|service| {
        let vip = SocketAddr::new(service.vip.address, service.port.get());
        service.backends.iter().map(move |backend| ((vip, backend.address), backend.name.clone()))
    });
    backends.collect()
}

fn row(flow: &Flow, backends: &BTreeMap<BackendId, BackendEntry>, names: &Names) -> Row {
    let entry = backends.get(&flow.backend).filter(|entry| **entry != BackendEntry::default());
    let address = (flow.translated_to)
        .or_else(|| entry.map(|entry| SocketAddr::new(entry.address.into(), entry.port.get())));
    let backend_address = address.map_or_else(|| format!("#{}", flow.backend), |address| address.to_string());
    let name = address.and_then(|address| names.get(&(flow.service, address)).cloned());
    Row {
        client: flow.client.to_string(),
        service: flow.service.to_string(),
        backend: name.unwrap_or_else(|| backend_address.clone()),
        backend_address,
        nat_port: flow.nat_port,
        state: flow.state,
        age_seconds: flow.age,
        idle_seconds: flow.idle,
        packets_in: flow.carried.packets_in,
        bytes_in: flow.carried.bytes_in,
        packets_out: flow.carried.packets_out,
        bytes_out: flow.carried.bytes_out,
    }
}

fn render(rows: &[Row], all: usize, screen: &Screen) -> String {
    if rows.is_empty() {
        return "no flows\n".to_owned();
    }
    let mut columns = vec![
        Column::new("client", 0),
        Column::new("service", 4),
        Column::new("backend", 0),
        Column::of_numbers("NAT port", 2),
        Column::new("state", 0),
        Column::of_numbers("age", 3),
        Column::of_numbers("idle", 1),
        Column::of_numbers("packets in/out", 7),
        Column::of_numbers("bytes in", 5),
        Column::of_numbers("bytes out", 5),
    ];
    let time = |seconds: u32| {
        let time = Duration::from_secs(seconds.into());
        if screen.now.is_some() { short(time) } else { humantime::format_duration(time).to_string() }
    };
    for row in rows {
        let cells = [
            row.client.clone(),
            row.service.clone(),
            row.backend.clone(),
            row.nat_port.map_or_else(|| "-".to_owned(), |port| port.to_string()),
            row.state.name().to_owned(),
            time(row.age_seconds),
            time(row.idle_seconds),
            format!("{}/{}", row.packets_in, row.packets_out),
            amount(row.bytes_in),
            amount(row.bytes_out),
        ];
        let tone = match row.state {
            FlowState::Established => None,
            FlowState::HalfOpen => Some(Tone::Warn),
            FlowState::Closing => Some(Tone::Dim),
            FlowState::Reset => Some(Tone::Bad),
        };
        for (column, cell) in columns.iter_mut().zip(cells) {
            column.push(cell, tone.filter(|_| column.title() == "state"));
        }
    }
    format!("{}\n{}", draw(&fitting(columns, screen), screen), screen.wrap(&summary(rows, all), 4))
}

/// `3 flows (2 established, 1 closing): m1 2, m2 1`
fn summary(rows: &[Row], all: usize) -> String {
    let mut states: BTreeMap<FlowState, usize> = BTreeMap::new();
    let mut backends: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        *states.entry(row.state).or_default() += 1;
        *backends.entry(&row.backend).or_default() += 1;
    }
    let states: Vec<String> =
        states.iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
    let backends: Vec<String> = backends.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let shown = rows.len();
    let count = if shown == all {
        format!("{shown} {}", if shown == 1 { "flow" } else { "flows" })
    } else {
        format!("{shown} of {all} flows")
    };
    format!("{count} ({}): {}\n", states.join(", "), backends.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        desired::tests::{config, service},
        flows::Carried,
        status::table::Look,
    };

    fn at(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn flow(client: &str, backend: BackendId, translated_to: Option<&str>) -> Flow {
        Flow {
            client: at(client),
            service: at("172.16.0.10:6443"),
            backend,
            translated_to: translated_to.map(at),
            nat_port: translated_to.map(|_| 40_000),
            state: FlowState::Established,
            age: 61,
            idle: 1,
            carried: Carried { packets_in: 3, bytes_in: 2048, packets_out: 4, bytes_out: 10 },
        }
    }

    fn read() -> PinnedFlows {
        let entry = BackendEntry {
            address: IpAddr::from([172, 16, 0, 5]).into(),
            port: lb_common::wire::Be16::new(6443),
            ..BackendEntry::default()
        };
        PinnedFlows {
            flows: vec![
                flow("10.0.0.9:1000", 0, Some("172.16.0.4:6443")),
                flow("10.0.0.2:2000", 1, None),
                flow("10.0.0.2:1000", 2, Some("172.16.0.77:6443")),
                flow("10.0.0.2:3000", 9, None),
            ],
            backends: BTreeMap::from([(1, entry), (9, BackendEntry::default())]),
        }
    }

    #[test]
    fn networks() {
        let network = |text: &str| text.parse::<Network>();
        let contains = |text: &str, address: &str| {
            network(text).expect("a network").contains(address.parse().expect("an address"))
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
        assert!(contains("10.1.2.3/8", "10.255.0.1"), "bits behind the prefix do not count");
        assert!(contains("10.0.0.1", "10.0.0.1") && !contains("10.0.0.1", "10.0.0.0"));
        assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("fd00::/64", "fd00::7") && !contains("fd00::/64", "fd00:0:0:1::7"));
        assert!(contains("::/0", "fd00::7") && contains("fd00::7", "fd00::7"));
        for text in ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "fd00::/129", "10.0.0/8"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flows_are_sorted_and_their_backends_named() {
        let config = config(vec![service("api", [172, 16, 0, 10].into(), &[4, 5])]);
        let rows = rows(&read(), Some(&config));
        let shown: Vec<_> = rows.iter().map(|row| (row.client.as_str(), row.backend.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("10.0.0.2:1000", "172.16.0.77:6443"),
                ("10.0.0.2:2000", "m5"),
                ("10.0.0.2:3000", "#9"),
                ("10.0.0.9:1000", "m4"),
            ]
        );
        assert_eq!(
            rows.iter().map(|row| row.nat_port).collect::<Vec<_>>(),
            [Some(40_000), None, None, Some(40_000)]
        );
        assert_eq!(rows.iter().filter(|row| is_of(row, "m4")).count(), 1);
        assert_eq!(rows.iter().filter(|row| is_of(row, "172.16.0.4")).count(), 1);
        assert_eq!(rows.iter().filter(|row| is_of(row, "172.16.0.77:6443")).count(), 1);
        assert_eq!(rows.iter().filter(|row| is_of(row, "m6")).count(), 0);
        assert!(is_configured(Some(&config), "m5") && is_configured(Some(&config), "172.16.0.5"));
        assert!(!is_configured(Some(&config), "m6") && !is_configured(None, "m5"));
    }

    #[test]
    fn the_text_is_one_line_for_each_flow() {
        let rows = rows(&read(), None);
        let text = render(&rows, 4, &Screen::PIPE);
        assert_eq!(text.lines().count(), 1 + 4 + 1, "{text}");
        let line = text.lines().find(|line| line.contains("10.0.0.9:1000")).expect("its line");
        for part in
            ["172.16.0.10:6443", "172.16.0.4:6443", "40000", "established", "1m 1s", "3/4", "2.0 KiB", "10 B"]
        {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(
            text.ends_with(
                "\n4 flows (4 established): #9 1, 172.16.0.4:6443 1, 172.16.0.5:6443 1, 172.16.0.77:6443 1\n"
            ),
            "{text}"
        );
        assert_eq!(render(&[], 0, &Screen::PIPE), "no flows\n");
        assert!(render(&rows[..1], 4, &Screen::PIPE).contains("\n1 of 4 flows ("));
    }

    #[test]
    fn the_largest_come_first_where_that_is_asked_for() {
        let mut rows = rows(&read(), None);
        rows[2].bytes_out = 1 << 40;
        rows[3].idle_seconds = 9;
        rows[1].age_seconds = 99;
        let first = |sort: Sort| {
            let mut rows = rows.clone();
            sort.apply(&mut rows);
            rows[0].client.clone()
        };
        assert_eq!(first(Sort::Client), rows[0].client);
        assert_eq!(first(Sort::Age), rows[1].client);
        assert_eq!(first(Sort::Bytes), rows[2].client);
        assert_eq!(first(Sort::Idle), rows[3].client);
    }

    #[test]
    fn a_narrow_screen_has_what_matters_most() {
        let screen = Screen { width: Some(80), look: Look::Terminal, ..Screen::PIPE };
        let text = render(&rows(&read(), None), 4, &screen);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let header = text.lines().next().expect("a header");
        assert!(
            header.contains("client") && header.contains("idle") && !header.contains("packets"),
            "{header}"
        );
    }

    #[test]
    fn the_json_form() {
        let value = serde_json::to_value(rows(&read(), None)).expect("serializable");
        assert_eq!(
            value[3],
            serde_json::json!({
                "client": "10.0.0.9:1000", "service": "172.16.0.10:6443", "backend": "172.16.0.4:6443",
                "backend_address": "172.16.0.4:6443", "nat_port": 40_000, "state": "established",
                "age_seconds": 61, "idle_seconds": 1, "packets_in": 3, "bytes_in": 2048, "packets_out": 4,
                "bytes_out": 10,
            })
        );
        assert_eq!(value[1]["nat_port"], serde_json::Value::Null);
    }
}
