//! What a check does: `option ...chk`, `http-check` and `tcp-check` (HAProxy 2.6's manual, §4.2), of which the last option
//! replaces all before it.

use super::{file::Line, roles::Scribe, server, units};
use crate::import::{
    incumbent::ServerCheck,
    ledger::{Fate, Finding, Severity},
    source::{At, Place},
};

/// What an option asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// `option tcp-check`
    Tcp,
    /// `option httpchk`, with what it says of the request.
    Http(Request),
    /// `option ssl-hello-chk`
    SslHello,
    /// A check of another protocol.
    Other(String),
}

impl Asked {
    fn option(&self) -> &str {
        match self {
            Self::Tcp => "tcp-check",
            Self::Http(_) => "httpchk",
            Self::SslHello => "ssl-hello-chk",
            Self::Other(option) => option,
        }
    }
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// HAProxy's default is OPTIONS.
    method: Option<String>,
    /// HAProxy's default is `/`.
    path: Option<String>,
    /// Whether there are headers or a body.
    more: bool,
}

impl Request {
    /// What is sent: `http-check send` counts before the option, part by part.
    fn with(&self, send: Option<&Self>) -> Self {
        let Some(send) = send else { return self.clone() };
        Self {
            method: send.method.clone().or_else(|| self.method.clone()),
            path: send.path.clone().or_else(|| self.path.clone()),
            more: self.more || send.more,
        }
    }

    fn method(&self) -> &str {
        self.method.as_deref().unwrap_or("OPTIONS")
    }

    fn path(&self) -> &str {
        self.path.as_deref().unwrap_or("/")
    }
}

/// What becomes of a rule, as long as the option that it belongs to is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    place: Place,
    fate: Fate,
    becomes: String,
    note: &'static str,
}

/// The check of a section, while its lines are read. Rules of its own replace those of `defaults`, as does an option.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    asked: Option<At<Asked>>,
    /// The section's own options, in order.
    own: Vec<At<Asked>>,
    http: HttpRules,
    tcp: TcpRules,
    /// The section's own rules: of `http-check` or not.
    rules: Vec<(bool, Rule)>,
    own_http: bool,
    own_tcp: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct HttpRules {
    send: Option<Request>,
    /// Whether a `connect` without `default` goes through TLS.
    tls: Option<bool>,
    expect: Vec<u16>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct TcpRules {
    tls: bool,
}

/// The options that choose a check.
const OPTIONS: [&str; 11] = [
    "tcp-check",
    "httpchk",
    "ssl-hello-chk",
    "mysql-check",
    "pgsql-check",
    "smtpchk",
    "redis-check",
    "ldap-check",
    "spop-check",
    "external-check",
    "lb-agent-chk",
];

/// Whether an option chooses a check.
pub fn is_option(option: &str) -> bool {
    OPTIONS.contains(&option)
}

impl Checks {
    /// What a section takes from its `defaults`.
    pub fn inherited(&self) -> Self {
        Self { asked: self.asked.clone(), http: self.http.clone(), tcp: self.tcp.clone(), ..Self::default() }
    }

    /// Reads an `option` that chooses a check.
    pub fn option(&mut self, line: &Line, at: usize) {
        let asked = match line.word(at) {
            "tcp-check" => Asked::Tcp,
            "ssl-hello-chk" => Asked::SslHello,
            "httpchk" => Asked::Http(match (line.word(at + 1), line.word(at + 2)) {
                ("", _) => Request::default(),
                (uri, "") => Request { path: Some(path_of(uri)), ..Request::default() },
                (method, uri) => Request {
                    method: Some(method.to_owned()),
                    path: Some(path_of(uri)),
                    // Behind the version, as it was written before HAProxy 2.2.
                    more: line
                        .from(at + 3)
                        .iter()
                        .any(|word| word.text.contains('\r') || !word.text.starts_with("HTTP/")),
                },
            }),
            other => Asked::Other(other.to_owned()),
        };
        if !self.own_http && matches!(asked, Asked::Http(_)) {
            self.http = HttpRules::default();
            self.own_http = true;
        }
        if !self.own_tcp && matches!(asked, Asked::Tcp) {
            self.tcp = TcpRules::default();
            self.own_tcp = true;
        }
        let asked = At::new(asked, line.place);
        self.own.push(asked.clone());
        self.asked = Some(asked);
    }

    /// Reads an `http-check` line.
    pub fn http_rule(&mut self, line: &Line, scribe: &mut Scribe<'_>) {
        if !self.own_http {
            self.http = HttpRules::default();
            self.own_http = true;
        }
        let (fate, becomes, note) = match line.word(1) {
            "send" => match self.http.send(line) {
                Ok(found) => found,
                Err(why) => return scribe.wrong(line.place, why),
            },
            "connect" => self.http.connect(line),
            "expect" => self.http.expect(line),
            "disable-on-404" => {
                (Fate::NotPossible, String::new(), "a backend that fails its check gets no new connections")
            }
            "send-state" | "comment" => {
                (Fate::NotNeeded, String::new(), "an API server does nothing with it")
            }
            "set-var" | "unset-var" | "set-var-fmt" => {
                (Fate::NotPossible, String::new(), "a check of xvip's has no variables")
            }
            word if word.starts_with("set-var(")
                || word.starts_with("unset-var(")
                || word.starts_with("set-var-fmt(") =>
            {
                (Fate::NotPossible, String::new(), "a check of xvip's has no variables")
            }
            _ => {
                let note = format!("nothing is known of `http-check {}`", line.word(1));
                return scribe.always(line.place, Fate::Unknown, "", note);
            }
        };
        self.rules.push((true, Rule { place: line.place, fate, becomes, note }));
    }

    /// Reads a `tcp-check` line.
    pub fn tcp_rule(&mut self, line: &Line, scribe: &mut Scribe<'_>) {
        if !self.own_tcp {
            self.tcp = TcpRules::default();
            self.own_tcp = true;
        }
        let has = |word: &str| line.from(2).iter().any(|other| other.text == word);
        let (fate, becomes, note) = match line.word(1) {
            "connect" => {
                self.tcp.tls |= has("ssl");
                if has("port") || has("addr") {
                    (Fate::NotPossible, "", "xvip checks the address and port that it forwards to")
                } else if has("send-proxy") {
                    (Fate::NotPossible, "", "a check of xvip's sends no PROXY header")
                } else {
                    (Fate::Exact, if has("ssl") { "service.health.check = \"tls\"" } else { "" }, "")
                }
            }
            "send" | "send-lf" | "send-binary" | "send-binary-lf" | "expect" => (
                Fate::NotPossible,
                "",
                "a check of xvip's connects, completes a TLS handshake, or sends a GET; it speaks nothing else",
            ),
            "comment" => (Fate::NotNeeded, "", "only for HAProxy's log"),
            word if ["set-var", "unset-var"].iter().any(|start| word.starts_with(start)) => {
                (Fate::NotPossible, "", "a check of xvip's has no variables")
            }
            _ => {
                let note = format!("nothing is known of `tcp-check {}`", line.word(1));
                return scribe.always(line.place, Fate::Unknown, "", note);
            }
        };
        self.rules.push((false, Rule { place: line.place, fate, becomes: becomes.to_owned(), note }));
    }

    /// Notes what becomes of the section's own options and rules, now that it is known which are in effect; `server` is what
    /// its first checked server says, if it has one.
    pub fn settle(&mut self, server: Option<&server::Settings>, scribe: &mut Scribe<'_>) {
        let tls = server.is_some_and(server::Settings::checks_by_tls);
        let last = self.own.len().saturating_sub(1);
        for (index, option) in self.own.iter().enumerate() {
            if index < last {
                let by = &self.own[last];
                let note = format!(
                    "without effect: `option {}` in line {} replaces it",
                    by.value.option(),
                    by.place.line
                );
                scribe.note(option.place, Fate::NotNeeded, "", note);
            } else {
                self.settle_option(option, tls, scribe);
            }
        }
        let in_effect = self.asked.as_ref();
        for (of_http, rule) in std::mem::take(&mut self.rules) {
            let (option, holds) = if of_http {
                ("httpchk", in_effect.is_some_and(|asked| matches!(asked.value, Asked::Http(_))))
            } else {
                ("tcp-check", in_effect.is_some_and(|asked| matches!(asked.value, Asked::Tcp)))
            };
            match in_effect {
                _ if holds => scribe.note(rule.place, rule.fate, rule.becomes, rule.note),
                Some(other) => {
                    let (other, line) = (other.value.option(), other.place.line);
                    let note = format!(
                        "without effect: belongs to `option {option}`, and `option {other}` in line {line} is in effect"
                    );
                    scribe.note(rule.place, Fate::NotNeeded, "", note);
                }
                None => {
                    let note =
                        format!("without effect: belongs to `option {option}`, which is not given here");
                    scribe.note(rule.place, Fate::NotNeeded, "", note);
                }
            }
        }
        self.find(scribe);
    }

    fn settle_option(&self, option: &At<Asked>, tls: bool, scribe: &mut Scribe<'_>) {
        let (fate, becomes, note) = match &option.value {
            Asked::Tcp if self.tcp.tls || tls => (Fate::Exact, "service.health.check = \"tls\"".to_owned(), String::new()),
            Asked::Tcp => (Fate::Exact, "service.health.check = \"tcp\"".to_owned(), String::new()),
            Asked::Http(own) => {
                let request = own.with(self.http.send.as_ref());
                let kind = if self.http.tls.unwrap_or(tls) { "https" } else { "http" };
                let becomes = format!("service.health.check = \"{kind}\"; service.health.path = {:?}", request.path());
                if request.method() != "GET" {
                    (Fate::Approximate, becomes, format!("xvip sends GET, HAProxy {}", request.method()))
                } else if own.more {
                    (Fate::Approximate, becomes, "xvip sends no other headers".to_owned())
                } else {
                    (Fate::Exact, becomes, String::new())
                }
            }
            Asked::SslHello => (
                Fate::Improved,
                "service.health.check = \"tls\"".to_owned(),
                "HAProxy sends an SSLv3 hello and takes any answer for well, even an alert; xvip completes the handshake".to_owned(),
            ),
            Asked::Other(name) => (
                Fate::NotPossible,
                "service.health.check = \"tcp\"".to_owned(),
                format!("xvip has no {name}; it looks whether the backend takes connections"),
            ),
        };
        scribe.note(option.place, fate, becomes, note);
    }

    /// Lint E2.
    fn find(&self, scribe: &mut Scribe<'_>) {
        let Some((last, before)) = self.own.split_last() else { return };
        let overridden: Vec<_> =
            before.iter().filter(|option| option.value.option() != last.value.option()).collect();
        let Some(first) = overridden.first() else { return };
        if scribe.role == super::roles::Role::Unused {
            return;
        }
        let really = match &last.value {
            Asked::SslHello => "a server is up as long as it answers a TLS hello, even with an alert",
            Asked::Tcp => "a server is up as long as it takes connections",
            Asked::Http(_) => "a server is up as long as it answers the request",
            Asked::Other(_) => "a server is up as long as it answers in that protocol",
        };
        let message = format!(
            "`option {}` in line {} has no effect: of several checks HAProxy keeps the last, `option {}` in line {}; {really}",
            first.value.option(),
            first.place.line,
            last.value.option(),
            last.place.line,
        );
        let remedy = match overridden.iter().find_map(|option| match &option.value {
            Asked::Http(request) => Some(request.with(self.http.send.as_ref())),
            _ => None,
        }) {
            Some(request) => {
                let expect = if self.http.expect.is_empty() {
                    String::new()
                } else {
                    let text: Vec<_> = self.http.expect.iter().take(8).map(u16::to_string).collect();
                    format!(", expect_status = [{}]", text.join(", "))
                };
                format!(
                    "the check in effect is imported; what was meant is check = \"https\", path = {:?}{expect} in [service.health]",
                    request.path()
                )
            }
            None => "the check in effect is imported; see `service.health.check` for others".to_owned(),
        };
        let places = overridden.iter().map(|option| option.place).chain([last.place]).collect();
        scribe.ledger.find(Finding { id: "E2", severity: Severity::Error, places, message, remedy });
    }

    /// What the check of a backend does; `server` is what its first checked server says.
    pub fn outcome(&self, server: Option<&server::Settings>, otherwise: Place) -> At<ServerCheck> {
        let Some(server) = server else { return At::new(ServerCheck::None, otherwise) };
        let ca_file = server.verifies_by();
        let tls = server.checks_by_tls();
        let connected =
            |tls: bool| if tls { ServerCheck::Tls { ca_file: ca_file.clone() } } else { ServerCheck::Tcp };
        let place = self.asked.as_ref().map(|asked| asked.place).or(server.checked).unwrap_or(otherwise);
        let check = match self.asked.as_ref().map(|asked| &asked.value) {
            Some(Asked::Http(own)) => {
                let tls = self.http.tls.unwrap_or(tls);
                ServerCheck::Http {
                    tls,
                    path: own.with(self.http.send.as_ref()).path().to_owned(),
                    expect: self.http.expect.clone(),
                    ca_file: ca_file.filter(|_| tls),
                }
            }
            Some(Asked::SslHello) => ServerCheck::SslHello,
            Some(Asked::Tcp) => connected(tls || self.tcp.tls),
            Some(Asked::Other(_)) => ServerCheck::Tcp,
            None => connected(tls),
        };
        At::new(check, place)
    }
}

type Said = (Fate, String, &'static str);

impl HttpRules {
    fn send(&mut self, line: &Line) -> Result<Said, String> {
        let mut request = Request::default();
        let mut words = line.from(2).iter();
        while let Some(word) = words.next() {
            let mut value =
                || words.next().map(|word| word.text.clone()).ok_or(format!("`{}` has no value", word.text));
            match word.text.as_str() {
                "meth" => request.method = Some(value()?),
                "uri" => request.path = Some(path_of(&value()?)),
                "uri-lf" => {
                    value()?;
                    request.more = true;
                }
                "ver" => {
                    value()?;
                }
                "hdr" => {
                    value()?;
                    value()?;
                    request.more = true;
                }
                "body" | "body-lf" => {
                    value()?;
                    request.more = true;
                }
                "comment" => {
                    value()?;
                }
                other => return Err(format!("`http-check send` has no {other:?}")),
            }
        }
        let becomes =
            request.path.as_ref().map_or_else(String::new, |path| format!("service.health.path = {path:?}"));
        let said = if request.more {
            (Fate::Approximate, becomes, "xvip sends no other headers and no body")
        } else if request.method.as_ref().is_none_or(|method| method == "GET") {
            (Fate::Exact, becomes, "")
        } else {
            (Fate::Approximate, becomes, "xvip sends GET")
        };
        self.send = Some(request);
        Ok(said)
    }

    fn connect(&mut self, line: &Line) -> Said {
        let has = |word: &str| line.from(2).iter().any(|other| other.text == word);
        if !has("default") {
            self.tls = Some(has("ssl"));
        }
        if has("port") || has("addr") {
            (Fate::NotPossible, String::new(), "xvip checks the address and port that it forwards to")
        } else if has("send-proxy") || has("via-socks4") {
            (
                Fate::NotPossible,
                String::new(),
                "a check of xvip's connects to the backend itself, without a PROXY header",
            )
        } else {
            let becomes = if has("ssl") { "service.health.check = \"https\"" } else { "" };
            (Fate::Exact, becomes.to_owned(), "")
        }
    }

    fn expect(&mut self, line: &Line) -> Said {
        let mut index = 2;
        // What stands before the match: timeouts are HAProxy's own words for its log.
        while matches!(
            line.word(index),
            "min-recv"
                | "comment"
                | "ok-status"
                | "error-status"
                | "tout-status"
                | "on-success"
                | "on-error"
                | "status-code"
        ) {
            index += 2;
        }
        let negated = line.word(index) == "!";
        let index = index + usize::from(negated);
        let pattern = line.word(index + 1);
        let found = match line.word(index) {
            "status" => statuses(pattern),
            "rstatus" => by_expression(pattern),
            _ => {
                let note = "xvip looks at the status alone, not at headers or at what the body says";
                return (Fate::Approximate, String::new(), note);
            }
        };
        let Some(found) = found else {
            return (Fate::NotPossible, String::new(), "name the statuses in service.health.expect_status");
        };
        let expect: Vec<u16> =
            if negated { (200..600).filter(|status| !found.contains(status)).collect() } else { found };
        let success = expect.first() == Some(&200) && expect.last() == Some(&399) && expect.len() == 200;
        if success || expect.is_empty() {
            self.expect.clear();
            return (Fate::Exact, "service.health.expect_status".to_owned(), "HAProxy's default: 200 to 399");
        }
        let said = if expect.len() <= 8 {
            let text: Vec<_> = expect.iter().map(u16::to_string).collect();
            (Fate::Exact, format!("service.health.expect_status = [{}]", text.join(", ")), "")
        } else {
            (Fate::Exact, "service.health.expect_status".to_owned(), "")
        };
        self.expect = expect;
        said
    }
}

/// `200`, `200,204`, `200-399`.
fn statuses(pattern: &str) -> Option<Vec<u16>> {
    let mut found = [false; 1000];
    for part in pattern.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (units::count(first)?, units::count(last)?);
        if !(100..1000).contains(&first) || !(100..1000).contains(&last) {
            return None;
        }
        (first..=last).for_each(|status| found[usize::try_from(status).unwrap_or(0)] = true);
    }
    Some((100..1000_u16).filter(|status| found[usize::from(*status)]).collect())
}

/// The statuses that a regular expression finds, of the kinds that occur: `^2`, `2..`, `2[0-9][0-9]`, `(2|3)[0-9][0-9]`,
/// `[23][0-9]{2}`, `(200|401)`, `20[01]`.
fn by_expression(pattern: &str) -> Option<Vec<u16>> {
    let body = pattern.strip_prefix('^').unwrap_or(pattern);
    let anchored = body.len() < pattern.len();
    let body = body.strip_suffix('$').unwrap_or(body);
    let mut rest = body;
    // For each of the three digits, which it may be.
    let mut sets: Vec<[bool; 10]> = Vec::new();
    if let Some(list) = body.strip_prefix('(').and_then(|list| list.strip_suffix(')'))
        && list.split('|').all(|status| status.len() == 3)
    {
        return statuses(&list.replace('|', ","));
    }
    while !rest.is_empty() && sets.len() < 4 {
        let (set, after) = digit_set(rest)?;
        rest = after;
        let times = match rest.strip_prefix("{2}") {
            Some(after) => {
                rest = after;
                2
            }
            None => 1,
        };
        (0..times).for_each(|_| sets.push(set));
    }
    let whole = sets.len() == 3;
    if !rest.is_empty() || !(whole || anchored && (1..3).contains(&sets.len())) {
        return None;
    }
    let fits = |status: &u16| {
        let digits = [status / 100, status / 10 % 10, status % 10];
        sets.iter().zip(digits).all(|(set, digit)| set[usize::from(digit)])
    };
    Some((100..1000).filter(fits).collect())
}

fn digit_set(text: &str) -> Option<([bool; 10], &str)> {
    let mut set = [false; 10];
    let mut add = |first: char, last: char| {
        let (first, last) = (first.to_digit(10)?, last.to_digit(10)?);
        (first..=last).for_each(|digit| set[usize::try_from(digit).unwrap_or(0)] = true);
        Some(())
    };
    let mut chars = text.chars();
    let rest = match chars.next()? {
        '.' => {
            add('0', '9')?;
            chars.as_str()
        }
        '\\' => {
            let rest = chars.as_str().strip_prefix('d')?;
            add('0', '9')?;
            rest
        }
        '[' => {
            let (inside, rest) = chars.as_str().split_once(']')?;
            let inside: Vec<char> = inside.chars().collect();
            match inside[..] {
                [first, '-', last] => add(first, last)?,
                _ => inside.iter().try_for_each(|digit| add(*digit, *digit))?,
            }
            rest
        }
        '(' => {
            let (inside, rest) = chars.as_str().split_once(')')?;
            for digit in inside.split('|') {
                let mut digits = digit.chars();
                match (digits.next(), digits.next()) {
                    (Some(digit), None) => add(digit, digit)?,
                    _ => return None,
                }
            }
            rest
        }
        digit => {
            add(digit, digit)?;
            chars.as_str()
        }
    };
    Some((set, rest))
}

/// The path of a request's target: HAProxy takes anything, also a whole URL.
fn path_of(uri: &str) -> String {
    let after_scheme =
        uri.split_once("://").map_or(uri, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    if after_scheme.starts_with('/') { after_scheme.to_owned() } else { "/".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_lists_and_ranges() {
        assert_eq!(statuses("200"), Some(vec![200]));
        assert_eq!(statuses("200,204,300-302"), Some(vec![200, 204, 300, 301, 302]));
        for pattern in ["", "20", "2000", "200-", "a", "200,,201"] {
            assert_eq!(statuses(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn expressions_that_occur_are_understood() {
        let range = |first: u16, last: u16| Some((first..=last).collect::<Vec<_>>());
        for pattern in ["^2", "2..", "^2[0-9][0-9]", "2[0-9]{2}", r"^2\d\d$", "[2]..", "(2).."] {
            assert_eq!(by_expression(pattern), range(200, 299), "{pattern}");
        }
        for pattern in ["(2|3)[0-9][0-9]", "[23]..", "^[2-3]"] {
            assert_eq!(by_expression(pattern), range(200, 399), "{pattern}");
        }
        assert_eq!(by_expression("(200|401)"), Some(vec![200, 401]));
        assert_eq!(by_expression("20[01]"), Some(vec![200, 201]));
        for pattern in ["", "2", ".*", "ok", "(2", "[2", "2...."] {
            assert_eq!(by_expression(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_target_becomes_a_path() {
        for (uri, path) in [
            ("/readyz", "/readyz"),
            ("*", "/"),
            ("https://x:6443/a?b", "/a?b"),
            ("http://x", "/"),
            ("readyz", "/"),
        ] {
            assert_eq!(path_of(uri), path);
        }
    }
}
