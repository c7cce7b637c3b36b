//! `server`, `server-template` and `default-server` (HAProxy 2.6's manual, §5.2).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    address::{self, Endpoint, Host, Ports},
    file::Line,
    keywords::{self, lines},
    roles::Scribe,
    units,
    words::{self, Variables},
};
use crate::{
    config::model::duration_text,
    import::{
        incumbent::{PoolServer, ServerAddress},
        ledger::Fate,
        source::{At, Place},
    },
};

/// What `default-server` and the words of a `server` line say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    weight: u16,
    max_connections: u32,
    backup: bool,
    disabled: bool,
    interval: Duration,
    fast_interval: Option<Duration>,
    down_interval: Option<Duration>,
    rise: u32,
    fall: u32,
    slow_start: Duration,
    /// `check`.
    pub checked: Option<Place>,
    /// `check-ssl`.
    pub check_tls: bool,
    /// `ssl`.
    pub tls: bool,
    /// `verify none`.
    pub verify_none: bool,
    /// `ca-file`, as an absolute path where `ca-base` makes it one.
    pub ca_file: Option<String>,
    /// `port` or `addr`: the check goes elsewhere.
    pub check_elsewhere: bool,
    /// `on-marked-down shutdown-sessions`.
    pub resets_when_down: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1,
            max_connections: 0,
            backup: false,
            disabled: false,
            interval: Duration::from_secs(2),
            fast_interval: None,
            down_interval: None,
            rise: 2,
            fall: 3,
            slow_start: Duration::ZERO,
            checked: None,
            check_tls: false,
            tls: false,
            verify_none: false,
            ca_file: None,
            check_elsewhere: false,
            resets_when_down: false,
        }
    }
}

impl Settings {
    /// Whether a check goes through TLS: `check-ssl`, or `ssl` where the check goes to the server's own port.
    pub fn checks_by_tls(&self) -> bool {
        self.check_tls || self.tls && !self.check_elsewhere
    }

    /// The file that a check verifies the certificate by.
    pub fn verifies_by(&self) -> Option<String> {
        self.ca_file.clone().filter(|_| !self.verify_none)
    }

    /// Reads the words of a line from one on. A wrong value is noted and changes nothing.
    pub fn read(&mut self, line: &Line, first: usize, ca_base: Option<&str>, scribe: &mut Scribe<'_>) {
        let mut index = first;
        while index < line.words.len() {
            let place = line.place_of(index);
            let word = line.word(index);
            let wants = Self::wants(word);
            let value = line.words.get(index + 1).map(|value| value.text.as_str());
            index += 1 + wants;
            if word == "source" {
                // `interface NAME` and `usesrc WHAT` belong to it.
                while matches!(line.word(index), "usesrc" | "interface") {
                    index += 2;
                }
            }
            match (wants, value) {
                (1, None) => scribe.wrong(place, format!("`{word}` has no value")),
                (1, Some(value)) => {
                    let unset = line.words.get(index - 1).and_then(|value| value.unset.as_deref());
                    match unset.filter(|_| Self::is_read(word)) {
                        Some(variable) => scribe.note(place, Fate::NotPossible, "", unset_note(variable)),
                        None => self.valued(word, value, place, ca_base, scribe),
                    }
                }
                _ => self.plain(word, place, scribe),
            }
        }
    }

    fn wants(word: &str) -> usize {
        lines::arguments(word, lines::SERVER_WITH_VALUE)
    }

    fn is_read(word: &str) -> bool {
        keywords::find(lines::SERVER, word).is_none()
    }

    fn valued(
        &mut self,
        word: &str,
        value: &str,
        place: Place,
        ca_base: Option<&str>,
        scribe: &mut Scribe<'_>,
    ) {
        let time = || units::duration(value);
        let count = |most: u64| {
            units::count(value).filter(|count| *count <= most).and_then(|count| u32::try_from(count).ok())
        };
        let becomes = match word {
            "inter" => time().filter(|time| !time.is_zero()).map(|time| {
                self.interval = time;
                timed("interval", time)
            }),
            "fastinter" => time().filter(|time| !time.is_zero()).map(|time| {
                self.fast_interval = Some(time);
                timed("fast_interval", time)
            }),
            "downinter" => time().filter(|time| !time.is_zero()).map(|time| {
                self.down_interval = Some(time);
                timed("down_interval", time)
            }),
            "slowstart" => time().map(|time| {
                self.slow_start = time;
                timed("slow_start", time)
            }),
            "rise" => count(u64::from(u32::MAX)).filter(|count| *count > 0).map(|count| {
                self.rise = count;
                format!("service.health.rise = {count}")
            }),
            "fall" => count(u64::from(u32::MAX)).filter(|count| *count > 0).map(|count| {
                self.fall = count;
                format!("service.health.fall = {count}")
            }),
            "weight" => count(256).map(|count| {
                self.weight = u16::try_from(count).unwrap_or(256);
                format!("service.backend.weight = {count}")
            }),
            "maxconn" => {
                let count = u32::try_from(units::leading_count(value)).unwrap_or(u32::MAX);
                self.max_connections = count;
                let note = "a connection beyond it goes to another backend, or gets a RST where all are full; HAProxy lets it wait";
                scribe.note(
                    place,
                    Fate::Approximate,
                    format!("service.backend.max_connections = {count}"),
                    note,
                );
                return;
            }
            "verify" => match value {
                "none" | "required" => {
                    self.verify_none = value == "none";
                    let verify = if self.verify_none { "none" } else { "ca" };
                    Some(format!("service.health.verify = \"{verify}\""))
                }
                _ => None,
            },
            "ca-file" => {
                let file = match ca_base {
                    Some(base) if !value.starts_with(['/', '@']) => {
                        format!("{}/{value}", base.trim_end_matches('/'))
                    }
                    _ => value.to_owned(),
                };
                let becomes = format!("service.health.ca_file = {file:?}");
                self.ca_file = Some(file);
                Some(becomes)
            }
            "on-marked-down" => (value == "shutdown-sessions").then(|| {
                self.resets_when_down = true;
                "service.on_down = \"reset\"".to_owned()
            }),
            _ => {
                if matches!(word, "port" | "addr") {
                    self.check_elsewhere = true;
                }
                known(word, place, scribe);
                return;
            }
        };
        match becomes {
            Some(becomes) => scribe.note(place, Fate::Exact, becomes, ""),
            None => scribe.wrong(place, format!("`{word}` cannot be {value:?}")),
        }
    }

    fn plain(&mut self, word: &str, place: Place, scribe: &mut Scribe<'_>) {
        if let Some(switch) = SWITCHES.iter().find(|switch| switch.on == word || switch.off == word) {
            let turns_on = switch.on == word;
            (switch.set)(self, turns_on.then_some(place));
            let (fate, note) = if turns_on { switch.means } else { switch.off_means };
            scribe.note(place, fate, "", note);
            return;
        }
        match word {
            "no-verifyhost" => {
                scribe.note(place, Fate::NotNeeded, "", "a check verifies the backend's address");
            }
            "send-proxy"
            | "send-proxy-v2"
            | "send-proxy-v2-ssl"
            | "send-proxy-v2-ssl-cn"
            | "check-send-proxy" => {
                let note = "xvip forwards packets and adds nothing to a connection; API servers read no PROXY header";
                scribe.note(place, Fate::NotPossible, "", note);
            }
            _ => known(word, place, scribe),
        }
    }

    fn server(&self, name: At<String>, address: ServerAddress) -> PoolServer {
        PoolServer {
            name,
            address,
            weight: self.weight,
            max_connections: self.max_connections,
            checked: self.checked.is_some(),
            backup: self.backup,
            disabled: self.disabled,
            interval: self.interval,
            fast_interval: self.fast_interval,
            down_interval: self.down_interval,
            rise: self.rise,
            fall: self.fall,
            slow_start: self.slow_start,
        }
    }
}

/// A word without a value, and the one that takes it back.
struct Switch {
    on: &'static str,
    off: &'static str,
    /// Sets it: with the place of the word that turns it on, or `None`.
    set: fn(&mut Settings, Option<Place>),
    /// What becomes of the word.
    means: (Fate, &'static str),
    /// And of the one that takes it back.
    off_means: (Fate, &'static str),
}

const SWITCHES: [Switch; 5] = [
    Switch {
        on: "check",
        off: "no-check",
        set: |settings, at| settings.checked = at,
        means: (Fate::Exact, ""),
        off_means: (Fate::Improved, "xvip checks each backend: one that does not answer gets no connections"),
    },
    Switch {
        on: "check-ssl",
        off: "no-check-ssl",
        set: |settings, at| settings.check_tls = at.is_some(),
        means: (Fate::Exact, ""),
        off_means: (Fate::Exact, ""),
    },
    Switch {
        on: "backup",
        off: "no-backup",
        set: |settings, at| settings.backup = at.is_some(),
        means: (
            Fate::Approximate,
            "xvip has no tier of spare backends: it gets no new connections before somebody gives it a weight",
        ),
        off_means: (Fate::Exact, ""),
    },
    Switch {
        on: "disabled",
        off: "enabled",
        set: |settings, at| settings.disabled = at.is_some(),
        means: (
            Fate::Approximate,
            "xvip.toml has no such state: it gets no new connections before somebody gives it a weight",
        ),
        off_means: (Fate::Exact, ""),
    },
    Switch {
        on: "ssl",
        off: "no-ssl",
        set: |settings, at| settings.tls = at.is_some(),
        means: (Fate::NotPossible, "HAProxy speaks TLS to this server; xvip passes on what the client says"),
        off_means: (Fate::Exact, ""),
    },
];

fn timed(key: &str, time: Duration) -> String {
    format!("service.health.{key} = \"{}\"", duration_text(time))
}

fn known(word: &str, place: Place, scribe: &mut Scribe<'_>) {
    match keywords::find(lines::SERVER, word) {
        Some(group) => scribe.note(place, group.fate, group.becomes, group.note),
        None => {
            scribe.always(place, Fate::Unknown, "", format!("nothing is known of `{word}` on a server line"));
        }
    }
}

/// What is said of a value that depends on a variable of the environment.
pub fn unset_note(variable: &str) -> String {
    format!("depends on the environment variable {variable}, whose value is not in this file")
}

/// A `server` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    name: At<String>,
    host: Result<IpAddr, String>,
    ports: Ports,
    /// What its words say.
    pub settings: Settings,
}

impl Server {
    /// Its address behind a listener's port, which is 0 where it is the one that the client connected to; `None` where there
    /// is no such port.
    pub fn behind(&self, listens: Option<u16>) -> Option<PoolServer> {
        let port = match self.ports {
            Ports::None => 0,
            Ports::Range(port, _) => port,
            Ports::Offset(offset) => {
                u16::try_from(i32::from(listens?) + offset).ok().filter(|port| *port != 0)?
            }
        };
        let address = match &self.host {
            Ok(ip) => ServerAddress::Ip(SocketAddr::new(*ip, port)),
            Err(name) => ServerAddress::Name(name.clone(), port),
        };
        Some(self.settings.server(self.name.clone(), address))
    }

    /// Where its line begins.
    pub const fn place(&self) -> Place {
        self.name.place
    }

    /// Reads a `server` line; `None` if there is nothing that could be a backend.
    pub fn read(
        line: &Line,
        defaults: &Settings,
        variables: &Variables,
        ca_base: Option<&str>,
        scribe: &mut Scribe<'_>,
    ) -> Option<Self> {
        if line.words.len() < 3 {
            scribe.wrong(line.place, "a server has a name and an address");
            return None;
        }
        let name = At::new(line.word(1).to_owned(), line.place);
        Self::common(line, 2, name, defaults, variables, ca_base, scribe)
    }

    /// Reads a `server-template` line: one server for the name, which stands for several.
    pub fn template(
        line: &Line,
        defaults: &Settings,
        variables: &Variables,
        ca_base: Option<&str>,
        scribe: &mut Scribe<'_>,
    ) -> Option<Self> {
        if line.words.len() < 4 {
            scribe.wrong(line.place, "a server template has a prefix, a number and an address");
            return None;
        }
        let first = line.word(2).split_once('-').map_or("1", |(first, _)| first);
        let (from, to) = line.word(2).split_once('-').unwrap_or(("1", line.word(2)));
        let in_order =
            units::count(from).zip(units::count(to)).is_some_and(|(from, to)| from <= to && to > 0);
        if !in_order {
            scribe.wrong(line.place_of(2), "this is a number of servers, or a range of numbers");
            return None;
        }
        let name = At::new(format!("{}{first}", line.word(1)), line.place);
        Self::common(line, 3, name, defaults, variables, ca_base, scribe)
    }

    fn common(
        line: &Line,
        at: usize,
        name: At<String>,
        defaults: &Settings,
        variables: &Variables,
        ca_base: Option<&str>,
        scribe: &mut Scribe<'_>,
    ) -> Option<Self> {
        let mut settings = defaults.clone();
        let place = line.place_of(at);
        let address = words::expand_address(&line.words[at], variables);
        let text = &address.text;
        let server = match (&address.unset, address::endpoint(text)) {
            (Some(variable), _) => {
                scribe.note(line.place, Fate::NotPossible, "", unset_note(variable));
                None
            }
            (None, Err(fault)) => {
                scribe.wrong(place, fault.to_string());
                None
            }
            (None, Ok(Endpoint::Other(what))) => {
                let note = format!("{what}: xvip forwards TCP over IP to other machines");
                scribe.note(line.place, Fate::NotPossible, "", note);
                None
            }
            (None, Ok(Endpoint::Tcp(Host::Any, _))) => {
                let note = "HAProxy connects to the address that the client asked for; xvip forwards to backends that are named";
                scribe.note(line.place, Fate::NotPossible, "", note);
                None
            }
            (None, Ok(Endpoint::Tcp(_, Ports::Range(first, last)))) if first != last => {
                scribe.wrong(place, "a server has one port");
                None
            }
            (None, Ok(Endpoint::Tcp(Host::Name(host), ports))) => {
                let note = format!(
                    "xvip.toml has addresses: look {host:?} up, and write a backend for each of its addresses"
                );
                scribe.note(line.place, Fate::NotPossible, "service.backend", note);
                Some((Err(host), ports))
            }
            (None, Ok(Endpoint::Tcp(Host::Ip(ip), ports))) => {
                let becomes =
                    format!("service.backend.name = {:?}; service.backend.address = {text:?}", name.value);
                let note = match ports {
                    Ports::Range(..) => "",
                    Ports::None | Ports::Offset(_) => "its port follows from the one that clients connect to",
                };
                scribe.note(line.place, Fate::Exact, becomes, note);
                Some((Ok(ip), ports))
            }
        };
        settings.read(line, at + 1, ca_base, scribe);
        let (host, ports) = server?;
        Some(Self { name, host, ports, settings })
    }
}
