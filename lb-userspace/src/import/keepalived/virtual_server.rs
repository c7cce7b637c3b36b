//! `virtual_server`, `virtual_server_group` and `real_server`: keepalived's IPVS. A TCP one becomes a proxy like HAProxy's.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{keywords::Context, number, reading::Reading, tree::Directive};
use crate::{
    config::model::{MAX_WEIGHT, duration_text},
    import::{
        incumbent::{Bind, Choice, Pool, PoolServer, Proxy, ServerAddress, ServerCheck},
        ledger::Fate,
        source::{At, Place},
    },
};

/// `KEEPALIVED_DEFAULT_DELAY`
const DEFAULT_DELAY_LOOP: Duration = Duration::from_secs(60);
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_TIME: Duration = Duration::from_secs(u32::MAX as u64);
const CHECKERS: [&str; 10] = [
    "TCP_CHECK",
    "HTTP_GET",
    "SSL_GET",
    "SMTP_CHECK",
    "DNS_CHECK",
    "MISC_CHECK",
    "BFD_CHECK",
    "UDP_CHECK",
    "PING_CHECK",
    "FILE_CHECK",
];
/// Statuses of one range that are written out.
const MAX_STATUSES: u16 = 16;

/// The times of checks, as far as they are said: of a virtual server, overridden by a real server, overridden by a checker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Times {
    delay_loop: Option<Duration>,
    connect_timeout: Option<At<Duration>>,
    retry: Option<u32>,
    delay_before_retry: Option<Duration>,
}

impl Times {
    fn or(self, outer: Self) -> Self {
        Self {
            delay_loop: self.delay_loop.or(outer.delay_loop),
            connect_timeout: self.connect_timeout.or(outer.connect_timeout),
            retry: self.retry.or(outer.retry),
            delay_before_retry: self.delay_before_retry.or(outer.delay_before_retry),
        }
    }
}

#[derive(Debug)]
struct Server {
    place: Place,
    address: SocketAddr,
    weight: u16,
    max_connections: u32,
    times: Times,
    check: Option<At<ServerCheck>>,
}

impl Reading<'_, '_> {
    /// Reads a `virtual_server_group`: addresses and ports.
    pub fn virtual_server_group(&mut self, directive: &Directive) {
        let Some(name) = self.named_block(directive) else { return };
        self.notes.exact(directive.place, "service.vip, service.port");
        let mut members = Vec::new();
        for line in directive.items() {
            self.takes_no_block(line);
            let address = line.name().parse::<IpAddr>().ok();
            let port = line.word(1).and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0);
            match (address, port) {
                (Some(address), Some(port)) => {
                    self.exact(line.place, format!("service.vip = \"{address}\", service.port = {port}"));
                    members.push((address, port));
                }
                _ if line.name() == "fwmark" => self.notes.not_possible(line.place, FWMARK),
                (Some(_), None) => self.notes.not_possible(line.place, ALL_PORTS),
                (None, _) if line.name().contains('-') => {
                    self.notes.not_possible(
                        line.place,
                        "a range of addresses: write a line for each of them, and import again",
                    );
                }
                (None, _) => self.notes.syntax(line.place, format!("`{}` is no address", line.name())),
            }
        }
        self.server_groups.insert(name.value, members);
    }

    /// Reads a `virtual_server`.
    pub fn virtual_server(&mut self, directive: &Directive) {
        self.needs_block(directive);
        let Some(binds) = self.binds(directive) else {
            self.all(directive, Fate::NotPossible, "part of a virtual_server that is not imported");
            return;
        };
        let items = directive.items();
        if let Some(protocol) = items.iter().find(|item| item.name() == "protocol")
            && !protocol.word(1).is_some_and(|name| name.eq_ignore_ascii_case("tcp"))
        {
            let name = protocol.word(1).unwrap_or("nothing");
            self.notes.not_possible(directive.place, format!("xvip forwards TCP, not {name}"));
            self.all(directive, Fate::NotPossible, "part of a virtual_server that is not imported");
            return;
        }
        let port = binds.first().map_or(0, |bind| bind.value.port);
        let name = self.proxy_name(port);
        self.exact(directive.place, format!("[[service]] name = {name:?}"));
        let (mut balance, mut times) = (At::new(Choice::LeastConnections, directive.place), Times::default());
        let mut weight = 1;
        let (mut servers, mut sorry) = (Vec::new(), None);
        for item in items {
            match item.name() {
                "protocol" => {
                    self.takes_no_block(item);
                    self.exact(item.place, "");
                }
                "lb_algo" | "lvs_sched" => {
                    if let Some(choice) = self.scheduler(item) {
                        balance = At::new(choice, item.place);
                    }
                }
                "lb_kind" | "lvs_method" => self.method(item),
                "weight" => weight = self.server_weight(item).unwrap_or(weight),
                "sorry_server" => sorry = self.real_address(item).map(|address| (address, item.place)),
                "real_server" => {}
                _ if self.time(item, &mut times) => {}
                _ => self.known(item, Context::VirtualServer),
            }
        }
        for item in items.iter().filter(|item| item.name() == "real_server") {
            servers.extend(self.real_server(item, weight));
        }
        let place = directive.place;
        let pool = self.pool(At::new(name.clone(), place), balance, times, servers, sorry);
        self.proxies.push(Proxy {
            name: At::new(name, place),
            binds,
            http: false,
            allow: Vec::new(),
            max_connections: None,
            client_timeout: None,
            logs_connections: None,
            skips_empty: None,
            pool,
        });
    }

    fn proxy_name(&self, port: u16) -> String {
        let taken = |name: &str| self.proxies.iter().any(|proxy| proxy.name.value == name);
        let name = format!("lvs-{port}");
        if !taken(&name) {
            return name;
        }
        let mut number = 2;
        while taken(&format!("{name}-{number}")) {
            number += 1;
        }
        format!("{name}-{number}")
    }

    fn binds(&mut self, directive: &Directive) -> Option<Vec<At<Bind>>> {
        let place = directive.place;
        match (directive.word(1), directive.word(2)) {
            (Some("fwmark"), _) => {
                self.notes.not_possible(place, FWMARK);
                None
            }
            (Some("group"), Some(name)) => {
                let members = self.server_groups.get(name).cloned().unwrap_or_default();
                if members.is_empty() {
                    let note = format!("there is no virtual_server_group {name:?} with addresses and ports");
                    self.notes.not_possible(place, note);
                    return None;
                }
                let bind =
                    |(address, port): (IpAddr, u16)| At::new(Bind { address: Some(address), port }, place);
                Some(members.into_iter().map(bind).collect())
            }
            (Some(address), port) => {
                let Ok(address) = address.parse::<IpAddr>() else {
                    self.notes.syntax(place, format!("`{address}` is no address"));
                    return None;
                };
                let Some(port) = port.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0)
                else {
                    self.notes.not_possible(place, ALL_PORTS);
                    return None;
                };
                Some(vec![At::new(Bind { address: Some(address), port }, place)])
            }
            (None, _) => {
                self.notes.syntax(place, "`virtual_server` needs an address and a port");
                None
            }
        }
    }

    fn scheduler(&mut self, item: &Directive) -> Option<Choice> {
        let name = self.value(item)?;
        let (choice, fate, becomes, note) = match name {
            "rr" | "wrr" => (Choice::RoundRobin, Fate::Exact, "service.balance = \"round-robin\"", ""),
            "lc" | "wlc" => {
                (Choice::LeastConnections, Fate::Exact, "service.balance = \"least-connections\"", "")
            }
            "sed" | "nq" => (
                Choice::LeastConnections,
                Fate::Approximate,
                "service.balance = \"least-connections\"",
                "nearly the same: it also reckons with the connection that is about to come",
            ),
            "sh" | "mh" | "dh" => (
                Choice::Hash(name.to_owned()),
                Fate::Approximate,
                "service.balance = \"maglev\"",
                "xvip hashes addresses and ports of both ends, and consistently",
            ),
            _ => (
                Choice::Other(name.to_owned()),
                Fate::Approximate,
                "service.balance = \"maglev\"",
                "xvip has maglev, round-robin and least-connections",
            ),
        };
        self.notes.say(item.place, fate, becomes, note);
        Some(choice)
    }

    fn method(&mut self, item: &Directive) {
        self.takes_no_block(item);
        let (fate, note) = match item.word(1) {
            Some("NAT") => (
                Fate::Approximate,
                "xvip rewrites both ends, so that the backends need no route back through this node; they see the VIP as client",
            ),
            Some("DR") => (
                Fate::Approximate,
                "mode = \"nat\" needs nothing of the backends; mode = \"dsr-l2\" is what DR does, if they keep the VIP",
            ),
            Some("TUN") => (
                Fate::Approximate,
                "mode = \"nat\" needs nothing of the backends; mode = \"dsr-ipip\" is what TUN does, if they keep the tunnel",
            ),
            Some(_) => (Fate::Approximate, "keepalived knows NAT, DR and TUN, and ignores the line"),
            None => {
                self.value(item);
                return;
            }
        };
        self.notes.say(item.place, fate, "service.mode = \"nat\"", note);
    }

    fn server_weight(&mut self, item: &Directive) -> Option<u16> {
        let weight = self.whole(item, 0..=65_535, "1 it is")?;
        let ours = u16::try_from(weight).unwrap_or(MAX_WEIGHT).min(MAX_WEIGHT);
        let becomes = format!("service.backend.weight = {ours}");
        if i64::from(ours) == weight {
            self.exact(item.place, becomes);
        } else {
            let note = format!("a weight is at most {MAX_WEIGHT}: divide all of them");
            self.notes.say(item.place, Fate::Approximate, becomes, note);
        }
        Some(ours)
    }

    /// A time of checks; false if it is none.
    fn time(&mut self, item: &Directive, times: &mut Times) -> bool {
        let place = item.place;
        match item.name() {
            "delay_loop" => {
                times.delay_loop = self.seconds(item, Duration::from_micros(1)..=MAX_TIME, "60s it is");
                if let Some(time) = times.delay_loop {
                    self.exact(place, format!("service.health.interval = {:?}", duration_text(time)));
                }
            }
            "connect_timeout" => {
                let time = self.seconds(item, Duration::from_micros(1)..=MAX_TIME, "5s it is");
                if let Some(time) = time {
                    self.exact(place, format!("service.health.timeout = {:?}", duration_text(time)));
                    times.connect_timeout = Some(At::new(time, place));
                }
            }
            "retry" | "nb_get_retry" => {
                let count = self
                    .whole(item, 0..=i64::from(u32::MAX), "1 it is")
                    .and_then(|count| u32::try_from(count).ok());
                if let Some(count) = count {
                    let fall = u64::from(count) + 1;
                    self.notes.say(
                        place,
                        Fate::Exact,
                        format!("service.health.fall = {fall}"),
                        "keepalived counts what follows the first failure, xvip all",
                    );
                    times.retry = Some(count);
                }
            }
            "delay_before_retry" => {
                times.delay_before_retry = self.seconds(item, Duration::ZERO..=MAX_TIME, "the default it is");
                if let Some(time) = times.delay_before_retry {
                    self.exact(place, format!("service.health.fast_interval = {:?}", duration_text(time)));
                }
            }
            _ => return false,
        }
        true
    }

    fn real_address(&mut self, item: &Directive) -> Option<SocketAddr> {
        let sorry = item.name() == "sorry_server";
        if sorry {
            self.takes_no_block(item);
        }
        let (Some(address), port) = (item.word(1), item.word(2)) else {
            self.notes.syntax(item.place, format!("`{}` needs an address and a port", item.name()));
            return None;
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            self.notes.syntax(item.place, format!("`{address}` is no address"));
            return None;
        };
        let Some(port) = port.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port != 0) else {
            self.notes.not_possible(item.place, ALL_PORTS);
            return None;
        };
        let address = SocketAddr::new(address, port);
        if sorry {
            let note = "xvip has no server for when all others are down; new connections are reset at once then (service.on_all_down)";
            self.notes.not_possible(item.place, note);
        } else {
            self.exact(item.place, format!("[[service.backend]] address = \"{address}\""));
        }
        Some(address)
    }

    fn real_server(&mut self, directive: &Directive, weight: u16) -> Option<Server> {
        let Some(address) = self.real_address(directive) else {
            self.all(directive, Fate::NotPossible, "part of a real_server that is not imported");
            return None;
        };
        let mut server = Server {
            place: directive.place,
            address,
            weight,
            max_connections: 0,
            times: Times::default(),
            check: None,
        };
        for item in directive.items() {
            match item.name() {
                "weight" => server.weight = self.server_weight(item).unwrap_or(server.weight),
                "uthreshold" => {
                    if let Some(most) = self.whole(item, 0..=i64::from(u32::MAX), "no limit it is") {
                        server.max_connections = u32::try_from(most).unwrap_or(u32::MAX);
                        self.exact(item.place, format!("service.backend.max_connections = {most}"));
                    }
                }
                "lvs_method" => self.method(item),
                name if CHECKERS.contains(&name) => {
                    if server.check.is_some() {
                        let note = "xvip has one check for a service: the one above";
                        self.notes.not_possible(item.place, note);
                        self.all(item, Fate::NotPossible, "part of a check that is not imported");
                    } else {
                        server.check = Some(self.checker(item, &mut server.times));
                    }
                }
                _ if self.time(item, &mut server.times) => {}
                _ => self.known(item, Context::RealServer),
            }
        }
        Some(server)
    }

    fn checker(&mut self, item: &Directive, times: &mut Times) -> At<ServerCheck> {
        self.needs_block(item);
        let kind = item.name();
        let mut own = Times::default();
        let mut request = None;
        for line in item.items() {
            match line.name() {
                "url" if matches!(kind, "HTTP_GET" | "SSL_GET") => {
                    if request.is_some() {
                        self.notes.not_possible(line.place, "xvip asks for one path: the one above");
                        self.all(line, Fate::NotPossible, "part of a path that is not asked for");
                    } else {
                        request = Some(self.url(line));
                    }
                }
                _ if self.time(line, &mut own) => {}
                _ => {
                    self.known(line, Context::Checker);
                }
            }
        }
        *times = own.or(std::mem::take(times));
        let (check, fate, becomes, note) = match kind {
            "TCP_CHECK" => (ServerCheck::Tcp, Fate::Exact, "service.health.check = \"tcp\"", ""),
            "HTTP_GET" | "SSL_GET" => {
                if times.delay_before_retry.is_none() {
                    times.delay_before_retry = Some(Duration::from_secs(3));
                }
                let (path, expect) = request.unwrap_or_else(|| ("/".to_owned(), vec![200]));
                let tls = kind == "SSL_GET";
                let becomes =
                    if tls { "service.health.check = \"https\"" } else { "service.health.check = \"http\"" };
                (ServerCheck::Http { tls, path, expect, ca_file: None }, Fate::Exact, becomes, "")
            }
            _ => (
                ServerCheck::Tcp,
                Fate::NotPossible,
                "service.health.check = \"tcp\"",
                "xvip checks by tcp, tls, http and https: a connection it is",
            ),
        };
        self.notes.say(item.place, fate, becomes, note);
        At::new(check, item.place)
    }

    fn url(&mut self, item: &Directive) -> (String, Vec<u16>) {
        self.needs_block(item);
        self.notes.say(item.place, Fate::Exact, "", "see its lines");
        let (mut path, mut expect) = ("/".to_owned(), Vec::new());
        for line in item.items() {
            match line.name() {
                "path" => {
                    if let Some(given) = self.value(line) {
                        path = given.to_owned();
                        self.exact(line.place, format!("service.health.path = {given:?}"));
                    }
                }
                "status_code" => {
                    self.takes_no_block(line);
                    if line.words.len() < 2 {
                        self.value(line);
                    }
                    for word in line.words.iter().skip(1) {
                        self.statuses(word.place, &word.text, &mut expect);
                    }
                }
                _ => self.known(line, Context::Url),
            }
        }
        if expect.is_empty() {
            let note = "keepalived takes 200 to 299, xvip 200: add others to service.health.expect_status if there are some";
            self.notes.say(item.place, Fate::Approximate, "service.health.expect_status = [200]", note);
            expect.push(200);
        }
        (path, expect)
    }

    fn statuses(&mut self, place: Place, text: &str, expect: &mut Vec<u16>) {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status =
            |text| number::whole(text, 100..=599).strict().and_then(|status| u16::try_from(status).ok());
        let (Some(first), Some(last)) = (status(first), status(last)) else {
            self.notes.say(
                place,
                Fate::Approximate,
                "",
                format!("keepalived ignores `{text}`, which is no status"),
            );
            return;
        };
        if first > last {
            self.notes.say(
                place,
                Fate::Approximate,
                "",
                format!("keepalived ignores `{text}`, which is no range"),
            );
        } else if last - first >= MAX_STATUSES {
            let note = format!("xvip lists statuses one by one: {first} it is for {text}");
            self.notes.say(
                place,
                Fate::Approximate,
                format!("service.health.expect_status = [{first}]"),
                note,
            );
            expect.push(first);
        } else {
            self.exact(place, format!("service.health.expect_status = [{text}]"));
            expect.extend(first..=last);
        }
        expect.sort_unstable();
        expect.dedup();
    }

    fn pool(
        &mut self,
        name: At<String>,
        balance: At<Choice>,
        outer: Times,
        servers: Vec<Server>,
        sorry: Option<(SocketAddr, Place)>,
    ) -> Pool {
        let check = servers
            .iter()
            .find_map(|server| server.check.clone())
            .unwrap_or_else(|| At::new(ServerCheck::None, name.place));
        let mut check_timeout = None;
        let mut members = Vec::new();
        for server in servers {
            let times = server.times.or(outer.clone());
            if let Some(own) = &server.check
                && own.value != check.value
            {
                let note = "xvip has one check for a service: that of the first real_server";
                self.notes.say(own.place, Fate::Approximate, "", note);
            }
            check_timeout = check_timeout.or(times.connect_timeout);
            let retry = times.retry.unwrap_or(1);
            members.push(PoolServer {
                name: At::new(server_name(server.address), server.place),
                address: ServerAddress::Ip(server.address),
                weight: server.weight,
                max_connections: server.max_connections,
                checked: server.check.is_some(),
                backup: false,
                disabled: false,
                interval: times.delay_loop.unwrap_or(DEFAULT_DELAY_LOOP),
                fast_interval: Some(times.delay_before_retry.unwrap_or(Duration::from_secs(1))),
                down_interval: None,
                rise: 1,
                fall: retry.saturating_add(1),
                slow_start: Duration::ZERO,
            });
        }
        if let Some((address, place)) = sorry {
            members.push(PoolServer {
                name: At::new(server_name(address), place),
                address: ServerAddress::Ip(address),
                weight: 1,
                max_connections: 0,
                checked: false,
                backup: true,
                disabled: false,
                interval: DEFAULT_DELAY_LOOP,
                fast_interval: None,
                down_interval: None,
                rise: 1,
                fall: 2,
                slow_start: Duration::ZERO,
            });
        }
        let check_timeout = Some(check_timeout.unwrap_or(At::new(DEFAULT_CONNECT_TIMEOUT, check.place)));
        Pool {
            name,
            http: false,
            balance,
            check,
            connect_timeout: None,
            server_timeout: None,
            tunnel_timeout: None,
            check_timeout,
            resets_when_down: false,
            servers: members,
        }
    }
}

fn server_name(address: SocketAddr) -> String {
    address.ip().to_string()
}

const FWMARK: &str = "xvip knows services by address and port, not by firewall marks";
const ALL_PORTS: &str = "xvip needs a port: it does not forward all ports of an address";
