//! `defaults`, `frontend`, `backend` and `listen` (HAProxy 2.6's manual, §4).

use std::time::Duration;

use super::{
    access::{Access, Condition},
    address::{self, Endpoint, Host, Ports},
    check::{self, Checks},
    file::{Line, Section, Sides},
    keywords::{self, lines, proxy},
    page::Page,
    roles::{Role, Scribe},
    server::{self, Server},
    units,
    words::{self, Variables},
};
use crate::{
    config::{
        kinds,
        model::{Prefix, duration_text},
    },
    import::{
        incumbent::{Bind, Choice},
        ledger::Fate,
        source::{At, Place},
    },
};

/// The most ports of a range that are imported: each becomes a service.
const MOST_PORTS: u16 = 64;

/// What is known from the `global` section.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// The first `log` line that takes the level of connections.
    pub logs: Option<Place>,
    /// `ca-base`
    pub ca_base: Option<String>,
    /// `crt-base`
    pub crt_base: Option<String>,
    /// The environment.
    pub variables: Variables,
}

/// What a proxy takes from its `defaults`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `mode http`; HAProxy's default is TCP.
    pub http: bool,
    /// Where connections are logged.
    pub logs: Option<Place>,
    /// Which line says how.
    pub log_form: Option<Place>,
    /// `option dontlognull`
    pub skips_empty: Option<Place>,
    /// `maxconn`
    pub max_connections: Option<At<u64>>,
    /// `timeout client`
    pub client_timeout: Option<At<Duration>>,
    /// `timeout server`
    pub server_timeout: Option<At<Duration>>,
    /// `timeout tunnel`
    pub tunnel_timeout: Option<At<Duration>>,
    /// `timeout connect`
    pub connect_timeout: Option<At<Duration>>,
    /// `timeout check`
    pub check_timeout: Option<At<Duration>>,
    /// `balance`
    pub balance: Option<At<Choice>>,
    /// The check.
    pub checks: Checks,
    /// `default-server`
    pub servers: server::Settings,
    /// `default_backend`
    pub default_backend: Option<At<String>>,
    /// `disabled`
    pub disabled: Option<Place>,
    /// `stats`
    pub page: Page,
}

impl Settings {
    /// What a section begins with.
    pub fn inherited(&self) -> Self {
        Self { checks: self.checks.inherited(), page: self.page.inherited(), ..self.clone() }
    }
}

/// A proxy as its section says.
pub struct Proxy {
    /// Its name, and where its section begins.
    pub name: At<String>,
    /// Whether it listens, and whether it has servers.
    pub sides: Sides,
    /// What it is for.
    pub role: Role,
    /// What it says, or its `defaults`.
    pub settings: Settings,
    /// Where it listens.
    pub binds: Vec<At<Bind>>,
    /// What a page's listeners show as their certificates, by the listeners' places.
    pub certificates: Vec<(Place, At<String>)>,
    /// `use_backend`: the name, and the condition.
    pub uses: Vec<(At<String>, Condition)>,
    /// Who may connect.
    pub allow: Vec<At<Prefix>>,
    /// Its servers.
    pub servers: Vec<Server>,
}

/// Reads a section of proxies; of `defaults` only the settings count.
pub struct Reader<'r, 'l> {
    globals: &'r Globals,
    scribe: Scribe<'l>,
    sides: Sides,
    settings: Settings,
    binds: Vec<At<Bind>>,
    certificates: Vec<(Place, At<String>)>,
    uses: Vec<(At<String>, Condition)>,
    access: Access,
    servers: Vec<Server>,
    /// A line that only turns a setting off has `no` in front.
    negated: bool,
    is_defaults: bool,
    /// Whether `default_backend` is the section's own.
    own_default: bool,
}

impl<'r, 'l> Reader<'r, 'l> {
    /// A section with what it inherits; `sides` is none for `defaults`, which speaks for both.
    pub fn new(globals: &'r Globals, scribe: Scribe<'l>, sides: Option<Sides>, inherited: &Settings) -> Self {
        Self {
            globals,
            scribe,
            sides: sides.unwrap_or(Sides { front: true, back: true }),
            settings: inherited.inherited(),
            binds: Vec::new(),
            certificates: Vec::new(),
            uses: Vec::new(),
            access: Access::default(),
            servers: Vec::new(),
            negated: false,
            is_defaults: sides.is_none(),
            own_default: false,
        }
    }

    /// Reads `defaults`.
    pub fn defaults(mut self, section: &Section) -> Settings {
        self.lines(section);
        self.settings.checks.settle(None, &mut self.scribe);
        self.access.unsettled(&mut self.scribe);
        self.settings.inherited()
    }

    /// Reads a proxy.
    pub fn proxy(mut self, section: &Section) -> Proxy {
        // `listen NAME ADDRESS`, as it was written before HAProxy 1.7.
        if section.head.words.len() > 2 && section.head.word(2) != "from" {
            self.bind(&section.head, 2);
        }
        self.lines(section);
        let first = self.servers.iter().find(|server| server.settings.checked.is_some());
        self.settings.checks.settle(first.map(|server| &server.settings), &mut self.scribe);
        let allow = self.access.settle(&mut self.scribe);
        Proxy {
            name: At::new(section.head.word(1).to_owned(), section.head.place),
            sides: self.sides,
            role: self.scribe.role,
            settings: self.settings,
            binds: self.binds,
            certificates: self.certificates,
            uses: self.uses,
            allow,
            servers: self.servers,
        }
    }

    fn lines(&mut self, section: &Section) {
        for line in &section.lines {
            match line.word(0) {
                "no" | "default" if line.words.len() > 1 => {
                    self.negated = true;
                    self.line(line, 1);
                    self.negated = false;
                }
                _ => self.line(line, 0),
            }
        }
    }

    /// A line whose keyword is the word at `at`.
    fn line(&mut self, line: &Line, at: usize) {
        let keyword = line.word(at);
        if at > 0 && !matches!(keyword, "option" | "log") {
            self.scribe.wrong(line.place, format!("HAProxy has no `{} {keyword}`", line.word(0)));
            return;
        }
        match keyword {
            "mode" => self.mode(line),
            "bind" => self.needs(line, Side::Front, |reader| reader.bind(line, 1)),
            "maxconn" => self.needs(line, Side::Front, |reader| reader.max_connections(line)),
            "default_backend" => self.needs(line, Side::Front, |reader| reader.default_backend(line)),
            "use_backend" => self.needs(line, Side::Front, |reader| reader.use_backend(line)),
            "balance" => self.needs(line, Side::Back, |reader| reader.balance(line)),
            "server" | "server-template" => self.needs(line, Side::Back, |reader| reader.server(line)),
            "default-server" => self.needs(line, Side::Back, |reader| {
                let ca_base = reader.globals.ca_base.as_deref();
                reader.scribe.note(line.place, Fate::Exact, "", "");
                reader.settings.servers.read(line, 1, ca_base, &mut reader.scribe);
            }),
            "timeout" => self.timeout(line, line.word(1)),
            // Their names before HAProxy 1.4.
            "clitimeout" => self.timed(line, "client", 1),
            "srvtimeout" => self.timed(line, "server", 1),
            "contimeout" => self.timed(line, "connect", 1),
            "option" => self.option(line, at + 1),
            "log" => self.log(line),
            "stats" => {
                let http = self.settings.http;
                self.settings.page.read(line, http || self.is_defaults, &mut self.scribe);
            }
            "acl" => self.access.acl(line, &mut self.scribe),
            "tcp-request" => self.access.rule(line, &mut self.scribe),
            "http-check" => self.settings.checks.http_rule(line, &mut self.scribe),
            "tcp-check" => self.settings.checks.tcp_rule(line, &mut self.scribe),
            "disabled" => {
                self.settings.disabled = Some(line.place);
                self.scribe.note(
                    line.place,
                    Fate::Exact,
                    "",
                    "this section is switched off, and not imported",
                );
            }
            "enabled" => {
                self.settings.disabled = None;
                self.scribe.note(line.place, Fate::NotNeeded, "", "it is anyway");
            }
            "http-request" if line.from(1).iter().any(|word| word.text == "prometheus-exporter") => {
                let note = "xvip's [http] has metrics of its own, with other names";
                self.scribe.always(line.place, Fate::Approximate, "[http]", note);
            }
            _ => self.known(line, keyword),
        }
    }

    fn known(&mut self, line: &Line, keyword: &str) {
        match keywords::find(proxy::KEYWORDS, keyword) {
            Some(group) => self.scribe.note(line.place, group.fate, group.becomes, group.note),
            None => {
                let words = proxy::KEYWORDS.iter().flat_map(|group| group.words).copied().chain(READ);
                let note = unknown(keyword, keywords::nearest(words, keyword));
                self.scribe.always(line.place, Fate::Unknown, "", note);
            }
        }
    }

    /// HAProxy passes over what a section has no use for.
    fn needs(&mut self, line: &Line, side: Side, read: impl FnOnce(&mut Self)) {
        let (has, note) = match side {
            Side::Front => (self.sides.front, "without effect: a backend does not listen"),
            Side::Back => (self.sides.back, "without effect: a frontend has no servers"),
        };
        if self.is_defaults && matches!(line.word(0), "bind" | "server" | "server-template" | "use_backend") {
            self.scribe.wrong(line.place, "this cannot stand in `defaults`");
        } else if has {
            read(self);
        } else {
            self.scribe.note(line.place, Fate::NotNeeded, "", note);
        }
    }

    fn mode(&mut self, line: &Line) {
        let place = line.place;
        match line.word(1) {
            "tcp" => {
                self.settings.http = false;
                self.scribe.note(place, Fate::Exact, "", "");
            }
            "http" => {
                self.settings.http = true;
                let (fate, note) = match self.scribe.role {
                    _ if self.is_defaults => (Fate::NotNeeded, "xvip forwards TCP and does not look into it"),
                    Role::Page => (Fate::Exact, ""),
                    Role::Http => (Fate::NotPossible, "xvip forwards TCP and does not look into it"),
                    Role::Unused => (Fate::NotNeeded, "part of a backend that no frontend uses"),
                    // A backend behind a frontend of TCP: lint E1.
                    Role::Forwards => (
                        Fate::Improved,
                        "HAProxy takes what passes here for HTTP and breaks TLS; xvip does not",
                    ),
                };
                self.scribe.always(place, fate, "", note);
            }
            "health" | "log" | "spop" | "peers" | "haterm" => {
                self.settings.http = true;
                self.scribe.always(place, Fate::NotPossible, "", "xvip forwards TCP alone");
            }
            other => self.scribe.wrong(place, format!("HAProxy has no mode {other:?}")),
        }
    }

    fn bind(&mut self, line: &Line, at: usize) {
        let Some(word) = line.words.get(at) else {
            self.scribe.wrong(line.place, "`bind` has no address");
            return;
        };
        let place = if at == 1 { line.place } else { line.place_of(at) };
        let certificate = self.page_certificate(line, at + 1);
        let mut refused = None;
        for (offset, option) in line.from(at + 1).iter().enumerate() {
            match option.text.as_str() {
                "ssl" if certificate.is_some() => {}
                "ssl" => {
                    let note = match self.scribe.role {
                        Role::Page => {
                            "the page's certificate is one file: write its cert_file and key_file in [http]"
                        }
                        _ => "xvip does not end TLS: give the VIP to the API servers' own port",
                    };
                    refused = Some((at + 1 + offset, note));
                }
                "accept-proxy" | "accept-netscaler-cip" => {
                    refused = Some((
                        at + 1 + offset,
                        "xvip reads no PROXY header: clients have to reach it by themselves",
                    ));
                }
                _ => {}
            }
        }
        let expanded = words::expand_address(word, &self.globals.variables);
        let refused_note = refused.map(|(_, note)| note);
        if let Some(variable) = &expanded.unset {
            self.scribe.note(place, Fate::NotPossible, "", server::unset_note(variable));
        } else {
            // HAProxy lets a comma end the list.
            for part in expanded.text.strip_suffix(',').unwrap_or(&expanded.text).split(',') {
                self.listener(part, place, refused_note);
            }
        }
        if let Some(certificate) = &certificate {
            self.certificates.push((place, certificate.clone()));
        }
        self.bind_options(line, at + 1, refused.map(|(at, _)| at), certificate.as_ref());
    }

    /// The file behind `crt` of a statistics page that is reached by TLS; HAProxy's has the key, too.
    fn page_certificate(&self, line: &Line, first: usize) -> Option<At<String>> {
        let words = line.from(first);
        let is_tls = self.scribe.role == Role::Page && words.iter().any(|word| word.text == "ssl");
        let crt = words.iter().position(|word| word.text == "crt").filter(|_| is_tls)?;
        let file = &words.get(crt + 1)?.text;
        let path = match &self.globals.crt_base {
            Some(base) if !file.starts_with(['/', '@']) => format!("{}/{file}", base.trim_end_matches('/')),
            _ => file.clone(),
        };
        // Of a directory HAProxy takes every file.
        let is_file = path.starts_with('/') && !path.ends_with('/') && kinds::is_path(&path);
        (is_file && !path.chars().any(char::is_control)).then(|| At::new(path, line.place_of(first + crt)))
    }

    fn listener(&mut self, text: &str, place: Place, refused: Option<&str>) {
        let (host, first, last) = match address::endpoint(text) {
            Err(fault) => return self.scribe.wrong(place, fault.to_string()),
            Ok(Endpoint::Other(what)) => {
                let note = format!("{what}: xvip forwards TCP over IP");
                return self.scribe.note(place, Fate::NotPossible, "", note);
            }
            Ok(Endpoint::Tcp(_, Ports::None | Ports::Offset(_))) => {
                return self.scribe.wrong(place, "the port is missing");
            }
            Ok(Endpoint::Tcp(host, Ports::Range(first, last))) => (host, first, last),
        };
        if let Some(note) = refused {
            return self.scribe.note(place, Fate::NotPossible, "", note);
        }
        if last - first >= MOST_PORTS {
            let note = format!(
                "each port becomes a service: write those of these {} that are needed",
                u32::from(last - first) + 1
            );
            return self.scribe.note(place, Fate::NotPossible, "", note);
        }
        let address = match host {
            Host::Any => None,
            Host::Ip(ip) if ip.is_loopback() => {
                let note = "connections of this node to the VIP are sent straight to a backend: clients here use the VIP";
                return self.scribe.note(place, Fate::NotNeeded, "node.local_clients = \"host\"", note);
            }
            Host::Ip(ip) => Some(ip),
            Host::Name(name) => {
                let note = format!("xvip.toml has addresses: look {name:?} up");
                return self.scribe.note(place, Fate::NotPossible, "", note);
            }
        };
        match self.scribe.role {
            Role::Page => self.scribe.always(place, Fate::Exact, "http.listen", ""),
            _ => {
                let (fate, note) = match address {
                    None => (
                        Fate::Approximate,
                        "each VIP becomes a service; the node's own addresses are not forwarded",
                    ),
                    Some(_) => (Fate::Exact, ""),
                };
                let ports = if first == last { first.to_string() } else { format!("{first} to {last}") };
                self.scribe.note(place, fate, format!("service.port = {ports}"), note);
            }
        }
        self.binds.extend((first..=last).map(|port| At::new(Bind { address, port }, place)));
    }

    fn bind_options(
        &mut self,
        line: &Line,
        first: usize,
        refused: Option<usize>,
        certificate: Option<&At<String>>,
    ) {
        let mut at = first;
        while at < line.words.len() {
            let (place, word) = (line.place_of(at), line.word(at));
            match (keywords::find(lines::BIND, word), word) {
                (_, "ssl") if certificate.is_some() => {
                    self.scribe.always(place, Fate::Exact, "http.cert_file", "");
                }
                (_, "crt") if certificate.is_some_and(|certificate| certificate.place == place) => {
                    let file = certificate.map(|certificate| certificate.value.as_str()).unwrap_or_default();
                    let becomes = format!("http.cert_file = {file:?}; http.key_file = {file:?}");
                    let note =
                        "HAProxy's file has the key, too, and root alone may read it: let the daemon's group";
                    self.scribe.always(place, Fate::Approximate, becomes, note);
                }
                (_, "ssl" | "accept-proxy" | "accept-netscaler-cip") => {
                    let note = if refused == Some(at) {
                        "for this the address is not imported"
                    } else {
                        "not possible, either"
                    };
                    self.scribe.note(place, Fate::NotPossible, "", note);
                }
                (Some(group), _) => self.scribe.note(place, group.fate, group.becomes, group.note),
                (None, _) => {
                    self.scribe.always(
                        place,
                        Fate::Unknown,
                        "",
                        format!("nothing is known of `{word}` on a bind line"),
                    );
                }
            }
            at += 1 + lines::arguments(word, lines::BIND_WITH_VALUE);
        }
    }

    fn max_connections(&mut self, line: &Line) {
        if line.words.len() < 2 {
            self.scribe.wrong(line.place, "`maxconn` takes a number");
            return;
        }
        self.settings.max_connections = Some(At::new(units::leading_count(line.word(1)), line.place));
        let note =
            "xvip limits the connections of each backend (max_connections) and of the node (flows.max)";
        self.scribe.note(line.place, Fate::Approximate, "", note);
    }

    fn default_backend(&mut self, line: &Line) {
        if line.words.len() < 2 {
            self.scribe.wrong(line.place, "`default_backend` takes a name");
            return;
        }
        let earlier = self.settings.default_backend.replace(At::new(line.word(1).to_owned(), line.place));
        if let Some(earlier) = earlier.filter(|_| self.own_default && !self.is_defaults) {
            let note = format!("without effect: line {} replaces it", line.place.line);
            self.scribe.note(earlier.place, Fate::NotNeeded, "", note);
        }
        self.own_default = true;
        // Else it is said when the frontend is known as a whole.
        if self.is_defaults {
            self.scribe.note(line.place, Fate::Exact, "service.backend", "");
        }
    }

    /// What becomes of it is said when the frontend is known as a whole.
    fn use_backend(&mut self, line: &Line) {
        if line.words.len() < 2 {
            self.scribe.wrong(line.place, "`use_backend` takes a name");
            return;
        }
        let condition = self.access.condition(line.from(2));
        self.uses.push((At::new(line.word(1).to_owned(), line.place), condition));
    }

    fn balance(&mut self, line: &Line) {
        let algorithm = line.word(1);
        let (choice, fate, becomes, note) = match algorithm {
            // Nothing stands for round robin, too.
            "roundrobin" | "" => (
                Choice::RoundRobin,
                Fate::Exact,
                "round-robin",
                "\"maglev\" would choose the same backend on every node",
            ),
            "static-rr" => (Choice::RoundRobin, Fate::Exact, "round-robin", ""),
            "leastconn" => (
                Choice::LeastConnections,
                Fate::Exact,
                "least-connections",
                "of the connections of this node",
            ),
            "source" => (
                Choice::Hash("source".to_owned()),
                Fate::Approximate,
                "maglev",
                "maglev also takes the client's port into account: connections of one client go to several backends",
            ),
            "first" | "random" | "sticky" => {
                let note = "xvip has maglev, round-robin and least-connections";
                (Choice::Other(algorithm.to_owned()), Fate::Approximate, "maglev", note)
            }
            _ if algorithm.starts_with("random(") => {
                let note = "xvip has maglev, round-robin and least-connections";
                (Choice::Other("random".to_owned()), Fate::Approximate, "maglev", note)
            }
            "uri" | "url_param" | "hash" | "rdp-cookie" | "hdr" | "log-hash" => {
                let note = "xvip does not look into what is sent; it hashes addresses and ports";
                (Choice::Hash(algorithm.to_owned()), Fate::Approximate, "maglev", note)
            }
            _ if ["hdr(", "rdp-cookie("].iter().any(|start| algorithm.starts_with(start)) => {
                let note = "xvip does not look into what is sent; it hashes addresses and ports";
                (Choice::Hash(algorithm.to_owned()), Fate::Approximate, "maglev", note)
            }
            other => {
                self.scribe.wrong(line.place, format!("HAProxy has no way to balance called {other:?}"));
                return;
            }
        };
        self.settings.balance = Some(At::new(choice, line.place));
        self.scribe.note(line.place, fate, format!("service.balance = {becomes:?}"), note);
    }

    fn server(&mut self, line: &Line) {
        let read = if line.word(0) == "server" { Server::read } else { Server::template };
        let ca_base = self.globals.ca_base.as_deref();
        let server = read(line, &self.settings.servers, &self.globals.variables, ca_base, &mut self.scribe);
        self.servers.extend(server);
    }

    fn timeout(&mut self, line: &Line, which: &str) {
        match which {
            "client" | "server" | "tunnel" | "connect" | "check" => self.timed(line, which, 2),
            "clitimeout" | "srvtimeout" | "contimeout" | "" => {
                self.scribe.wrong(line.place, format!("HAProxy has no `timeout {which}`"));
            }
            _ => match keywords::find(proxy::TIMEOUTS, which) {
                Some(group) if units::duration(line.word(2)).is_some() => {
                    self.scribe.note(line.place, group.fate, group.becomes, group.note);
                }
                Some(_) => self.scribe.wrong(line.place, format!("{:?} is not a time", line.word(2))),
                None => {
                    let known = ["client", "server", "tunnel", "connect", "check"];
                    let note =
                        unknown(&format!("timeout {which}"), keywords::nearest(known.into_iter(), which));
                    self.scribe.always(line.place, Fate::Unknown, "", note);
                }
            },
        }
    }

    fn timed(&mut self, line: &Line, which: &str, at: usize) {
        let place = line.place;
        let Some(time) = units::duration(line.word(at)) else {
            match line.words.get(at).and_then(|word| word.unset.as_deref()) {
                Some(variable) => {
                    self.scribe.note(place, Fate::NotPossible, "", server::unset_note(variable));
                }
                None => self.scribe.wrong(place, format!("{:?} is not a time", line.word(at))),
            }
            return;
        };
        // 0 is no limit.
        let read = (!time.is_zero()).then(|| At::new(time, place));
        let settings = &mut self.settings;
        match which {
            "check" => {
                settings.check_timeout = read;
                let becomes = format!("service.health.timeout = \"{}\"", duration_text(time));
                self.scribe.note(place, Fate::Exact, becomes, "");
                return;
            }
            "connect" => {
                settings.connect_timeout = read;
                if let Some(group) = keywords::find(proxy::TIMEOUTS, which) {
                    self.scribe.note(place, group.fate, group.becomes, group.note);
                }
                return;
            }
            "client" => settings.client_timeout = read,
            "server" => settings.server_timeout = read,
            _ => settings.tunnel_timeout = read,
        }
        let note = if time.is_zero() {
            "there was no limit".to_owned()
        } else {
            format!(
                "changed on purpose: HAProxy cuts a connection that is silent for {0}, and so kubectl exec, logs -f and watches; \
                 --keep-timeouts keeps {0}",
                duration_text(time)
            )
        };
        self.scribe.note(place, Fate::Improved, "flows.idle_timeout = \"24h\"", note);
    }

    fn option(&mut self, line: &Line, at: usize) {
        let (place, option) = (line.place, line.word(at));
        if check::is_option(option) {
            if self.negated {
                self.scribe.wrong(place, format!("HAProxy has no `no option {option}`"));
            } else {
                self.needs_back(line, |reader| reader.settings.checks.option(line, at));
            }
            return;
        }
        match option {
            "tcplog" | "httplog" | "httpslog" | "clflog" => {
                if !self.sides.front {
                    let note = "without effect: it is the frontend that logs connections";
                    self.scribe.note(place, Fate::NotNeeded, "", note);
                    return;
                }
                if !self.negated {
                    self.settings.log_form = Some(place);
                }
                let note = match option {
                    "tcplog" => "as JSON lines; written where the frontend has a log that takes them",
                    _ => "as JSON lines, without what is HTTP",
                };
                self.scribe.note(place, Fate::Approximate, "service.connection_log", note);
            }
            "dontlognull" => {
                self.settings.skips_empty = (!self.negated).then_some(place);
                let becomes = format!("connection_log.skip_empty = {}", !self.negated);
                self.scribe.note(place, Fate::Exact, becomes, "");
            }
            _ => match keywords::find(proxy::OPTIONS, option) {
                Some(_) if self.negated => {
                    self.scribe.note(place, Fate::NotNeeded, "", "xvip does not do that in the first place");
                }
                Some(group) => self.scribe.note(place, group.fate, group.becomes, group.note),
                None => {
                    let words = proxy::OPTIONS.iter().flat_map(|group| group.words).copied();
                    let words = words.chain([
                        "tcplog",
                        "httplog",
                        "dontlognull",
                        "tcp-check",
                        "httpchk",
                        "ssl-hello-chk",
                    ]);
                    let note = unknown(&format!("option {option}"), keywords::nearest(words, option));
                    self.scribe.always(place, Fate::Unknown, "", note);
                }
            },
        }
    }

    fn needs_back(&mut self, line: &Line, read: impl FnOnce(&mut Self)) {
        if self.sides.back {
            read(self);
        } else {
            self.scribe.note(line.place, Fate::NotNeeded, "", "without effect: a frontend has no servers");
        }
    }

    fn log(&mut self, line: &Line) {
        let place = line.place;
        if self.negated {
            self.settings.logs = None;
            self.scribe.note(place, Fate::Exact, "service.connection_log = false", "");
            return;
        }
        let takes = match line.word(1) {
            "global" => self.globals.logs.map(|_| place),
            _ if line.words.len() < 3 => {
                self.scribe.wrong(place, "`log` takes a target and a facility, or `global`");
                return;
            }
            _ => takes_connections(line).then_some(place),
        };
        self.settings.logs = self.settings.logs.or(takes);
        let note = if takes.is_some() {
            "connections go to xvip's connection log, everything else to the journal"
        } else {
            "everything goes to the journal; this log takes no connections, for its level is above theirs"
        };
        self.scribe.note(place, Fate::Approximate, "log.target", note);
    }
}

/// Keywords that are read here.
const READ: [&str; 20] = [
    "mode",
    "bind",
    "maxconn",
    "default_backend",
    "use_backend",
    "balance",
    "server",
    "server-template",
    "default-server",
    "timeout",
    "option",
    "log",
    "stats",
    "acl",
    "tcp-request",
    "http-check",
    "tcp-check",
    "disabled",
    "enabled",
    "no",
];

#[derive(Clone, Copy)]
enum Side {
    Front,
    Back,
}

/// What is said of a keyword that nobody knows.
pub fn unknown(keyword: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("nothing is known of `{keyword}`; is `{nearest}` meant?"),
        None => format!("nothing is known of `{keyword}`"),
    }
}

/// Whether a `log` line takes messages of the level `info`, which those of connections have: `log TARGET [len N] [format F]
/// [sample S] [profile P] FACILITY [MAXLEVEL [MINLEVEL]]`.
pub fn takes_connections(line: &Line) -> bool {
    let mut at = 2;
    while matches!(line.word(at), "len" | "format" | "sample" | "profile") {
        at += 2;
    }
    matches!(line.word(at + 1), "" | "info" | "debug")
}
