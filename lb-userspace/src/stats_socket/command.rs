//! What can be said: HAProxy's words that mean something here, what each one needs, and what it asks for. Pure.

use std::time::Duration;

use crate::config::model::StatsLevel;

/// A session may stay silent for no longer than that, whatever it asks for.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);
/// How many words a keyword has at most.
const KEYWORD_WORDS: usize = 4;
const DENIED: &str = "Permission denied\n";

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// `show stat`
    Stat(Query),
    /// `show info`
    Info(Shape),
    /// `show servers state`, of one service or all.
    ServersState(Option<String>),
    /// `show servers conn`, of one service or all.
    ServersConn(Option<String>),
    /// `show backend`
    Backends,
    /// `show errors`
    Errors,
    /// `show version`
    Version,
    /// `show cli level`
    Level,
    /// `get weight`, and of whom.
    Weight(String),
    /// What is to become of a server, and which one is meant.
    Order(String, Order),
    /// `prompt`
    Prompt,
    /// `quit`
    Quit,
    /// `user` and `operator`
    Lower(StatsLevel),
    /// `set timeout cli`
    Timeout(Duration),
    /// An answer that depends on nothing.
    Say(String),
}

/// What is to become of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It gets new connections.
    Ready,
    /// It gets none, and keeps those that it has.
    Drain,
    /// It gets none, and loses those that it has.
    Maint,
    /// Another weight, as it was written.
    Weight(String),
    /// It loses those that it has.
    Shutdown,
    /// Nothing that can be; this is answered once it is known that there is such a server.
    Impossible(String),
}

/// What of `show stat` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Which rows; `None`: all.
    pub(super) only: Option<Only>,
    /// In which form.
    pub(super) shape: Shape,
    /// Not those that an operator has taken out.
    pub(super) no_maint: bool,
    /// Only those that are up.
    pub(super) up: bool,
}

/// Which rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Only {
    /// A proxy by its name or its number; -1: all.
    pub(super) proxy: String,
    /// 1 for frontends, 2 for backends, 4 for servers, or the sum of some; -1: all.
    pub(super) kinds: i32,
    /// The number of a server; -1: all.
    pub(super) server: i32,
}

/// The form of figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    /// A table with commas, or a line each.
    #[default]
    Plain,
    /// A line each, with its type.
    Typed,
    /// An array of objects.
    Json,
}

/// A keyword: its words, what it needs, how it is described, and what the words behind it make of it.
struct Keyword {
    words: &'static str,
    needs: StatsLevel,
    /// Nothing where it is not offered.
    usage: &'static str,
    read: fn(&[&str]) -> Command,
}

const fn keyword(
    words: &'static str,
    needs: StatsLevel,
    usage: &'static str,
    read: fn(&[&str]) -> Command,
) -> Keyword {
    Keyword { words, needs, usage, read }
}

use StatsLevel::{Admin, Operator, User};

/// In alphabetical order. Those without a usage are HAProxy's, known, and have nothing here that they could be about.
#[rustfmt::skip]
const KEYWORDS: &[Keyword] = &[
    keyword("clear counters", Operator, "", |_| not_here("clear counters", "counters only grow: what is asked for is in their differences")),
    keyword("clear table", Admin, "", |_| not_here("clear table", "there are no stick tables")),
    keyword("disable agent", Admin, "", |_| not_here("disable agent", "there are no agents")),
    keyword("disable frontend", Admin, "", |_| not_here("disable frontend", "`xvip vip release` moves a VIP to another node")),
    keyword("disable health", Admin, "", |_| not_here("disable health", "checks are part of the configuration")),
    keyword("disable server", Admin, "disable server (DEPRECATED)             : disable a server for maintenance (use 'set server' instead)", |rest| Command::Order(first(rest), Order::Maint)),
    keyword("enable agent", Admin, "", |_| not_here("enable agent", "there are no agents")),
    keyword("enable frontend", Admin, "", |_| not_here("enable frontend", "`xvip vip acquire` takes a VIP back")),
    keyword("enable health", Admin, "", |_| not_here("enable health", "checks are part of the configuration")),
    keyword("enable server", Admin, "enable server  (DEPRECATED)             : enable a disabled server (use 'set server' instead)", |rest| Command::Order(first(rest), Order::Ready)),
    keyword("get weight", User, "get weight <bk>/<srv>                   : report a server's current weight", |rest| Command::Weight(first(rest))),
    keyword("operator", Operator, "operator                                : lower the level of the current CLI session to operator", |_| Command::Lower(Operator)),
    keyword("prompt", User, "", |_| Command::Prompt),
    keyword("quit", User, "", |_| Command::Quit),
    keyword("set maxconn", Admin, "", |_| not_here("set maxconn", "`max_connections` is part of the configuration")),
    keyword("set rate-limit", Admin, "", |_| not_here("set rate-limit", "`new_connections_per_source` is part of the configuration")),
    keyword("set server", Admin, "set server <bk>/<srv> [opts]            : change a server's state or weight", set_server),
    keyword("set table", Admin, "", |_| not_here("set table", "there are no stick tables")),
    keyword("set timeout", User, "set timeout [cli] <delay>               : change a timeout setting", set_timeout),
    keyword("set weight", Admin, "set weight <bk>/<srv>  (DEPRECATED)     : change a server's weight (use 'set server' instead)", |rest| Command::Order(first(rest), Order::Weight(nth(rest, 1)))),
    keyword("show activity", Operator, "", |_| not_here("show activity", "see `xvip status`")),
    keyword("show backend", User, "show backend                            : list backends in the current running config", |_| Command::Backends),
    keyword("show cli level", User, "show cli level                          : display the level of the current CLI session", |_| Command::Level),
    keyword("show env", Operator, "", |_| not_here("show env", "see `xvip check`")),
    keyword("show errors", Operator, "show errors [<px>] [request|response]   : report last request and/or response errors for each proxy", |_| Command::Errors),
    keyword("show fd", Operator, "", |_| not_here("show fd", "a connection has no file descriptor here: see `xvip flows`")),
    keyword("show info", User, "show info [desc|json|typed|float]*      : report information about the running process", |rest| Command::Info(shape(rest))),
    keyword("show pools", Operator, "", |_| not_here("show pools", "see `xvip status`")),
    keyword("show servers conn", User, "show servers conn [<backend>]           : dump server connections status (all or for a single backend)", |rest| Command::ServersConn(rest.first().map(|&name| name.to_owned()))),
    keyword("show servers state", User, "show servers state [<backend>]          : dump volatile server information (all or for a single backend)", |rest| Command::ServersState(rest.first().map(|&name| name.to_owned()))),
    keyword("show sess", Operator, "", |_| not_here("show sess", "xvip forwards packets and has no sessions: see `xvip flows`")),
    keyword("show stat", User, "show stat [desc|json|no-maint|typed|up]*: report counters for each proxy and server", show_stat),
    keyword("show table", Operator, "", |_| not_here("show table", "there are no stick tables: see `xvip flows`")),
    keyword("show version", User, "show version                            : show version of the current process", |_| Command::Version),
    keyword("shutdown frontend", Admin, "", |_| not_here("shutdown frontend", "`xvip vip release` moves a VIP to another node")),
    keyword("shutdown session", Admin, "", |_| not_here("shutdown session", "a single connection cannot be reset")),
    keyword("shutdown sessions server", Admin, "shutdown sessions server <bk>/<srv>     : kill sessions on a server", |rest| Command::Order(first(rest), Order::Shutdown)),
    keyword("user", User, "user                                    : lower the level of the current CLI session to user", |_| Command::Lower(User)),
];

/// What always stands at the end of the list, as in HAProxy.
const ALWAYS: &str = "  help [<command>]                        : list matching or all commands
  prompt                                  : toggle interactive mode with prompt
  quit                                    : disconnect
";

/// What the words of a command ask for, of somebody with that level.
pub(super) fn understood(words: &[String], level: StatsLevel) -> Command {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["help", rest @ ..] = words.as_slice() {
        return Command::Say(format!("The following commands are valid at this level:\n{}", offered(rest)));
    }
    let keyword =
        KEYWORDS.iter().find(|keyword| matching(keyword, &words) == keyword.words.split(' ').count());
    match keyword {
        Some(keyword) if keyword.needs > level => Command::Say(DENIED.to_owned()),
        Some(keyword) => (keyword.read)(&words[keyword.words.split(' ').count()..]),
        None if words.is_empty() => Command::Say(format!(
            "Unknown command. Please enter one of the following commands only:\n{}",
            offered(&[])
        )),
        None => Command::Say(format!(
            "Unknown command, but maybe one of the following ones is a better match:\n{}",
            offered(&words)
        )),
    }
}

/// How many words of a keyword the first of these are.
fn matching(keyword: &Keyword, words: &[&str]) -> usize {
    keyword.words.split(' ').zip(words).take_while(|(one, other)| one == *other).count()
}

/// The keywords that begin as these words do, as far as any does.
fn offered(words: &[&str]) -> String {
    let words = &words[..words.len().min(KEYWORD_WORDS)];
    let offers = || KEYWORDS.iter().filter(|keyword| !keyword.usage.is_empty());
    let best = offers().map(|keyword| matching(keyword, words)).max().unwrap_or_default();
    let lines = offers().filter(|keyword| matching(keyword, words) == best);
    let mut text: String = lines.map(|keyword| format!("  {}\n", keyword.usage)).collect();
    text.push_str(ALWAYS);
    text
}

/// HAProxy's words for something that is not here.
fn not_here(words: &str, why: &str) -> Command {
    Command::Say(format!("'{words}' does nothing in xvip: {why}\n"))
}

fn first(rest: &[&str]) -> String {
    nth(rest, 0)
}

fn nth(rest: &[&str], index: usize) -> String {
    rest.get(index).copied().unwrap_or_default().to_owned()
}

fn shape(rest: &[&str]) -> Shape {
    rest.iter().fold(Shape::Plain, |shape, word| match *word {
        "typed" => Shape::Typed,
        "json" => Shape::Json,
        _ => shape,
    })
}

fn show_stat(mut rest: &[&str]) -> Command {
    if let ["domain", domain, behind @ ..] = rest {
        match *domain {
            "proxy" => rest = behind,
            "resolvers" | "dns" => return Command::Say(String::new()),
            _ => return Command::Say("Invalid statistics domain.\n".to_owned()),
        }
    }
    let mut query = Query::default();
    if let [proxy, kinds, server, behind @ ..] = rest {
        query.only = Some(Only {
            proxy: (*proxy).to_owned(),
            kinds: leading_number(kinds),
            server: leading_number(server),
        });
        rest = behind;
    }
    query.shape = shape(rest);
    query.no_maint = rest.contains(&"no-maint");
    query.up = rest.contains(&"up");
    Command::Stat(query)
}

/// As C's `atoi` does: 0 for what is no number.
pub(super) fn leading_number(text: &str) -> i32 {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    rest[..digits(rest)].parse::<i32>().map_or(0, |number| sign * number)
}

fn set_server(rest: &[&str]) -> Command {
    let value = || nth(rest, 2);
    let impossible = |why: &str| Order::Impossible(format!("'set server' cannot do that in xvip: {why}\n"));
    let order = match (rest.get(1).copied().unwrap_or_default(), value().as_str()) {
        ("weight", weight) => Order::Weight(weight.to_owned()),
        ("state", "ready") => Order::Ready,
        ("state", "drain") => Order::Drain,
        ("state", "maint") => Order::Maint,
        ("state", _) => {
            Order::Impossible("'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n".to_owned())
        }
        ("health", _) => impossible("a backend is as its checks find it"),
        ("addr" | "fqdn" | "check-addr" | "check-port" | "ssl", _) => {
            impossible("addresses and checks are part of the configuration")
        }
        ("agent" | "agent-addr" | "agent-port" | "agent-send", _) => impossible("there are no agents"),
        _ => Order::Impossible("usage: set server <backend>/<server> state | weight\n".to_owned()),
    };
    Command::Order(first(rest), order)
}

fn set_timeout(rest: &[&str]) -> Command {
    let error = match rest {
        ["cli", delay, ..] => match delay_of(delay) {
            Some(delay) if !delay.is_zero() => return Command::Timeout(delay.min(LONGEST_SILENCE)),
            _ => "Invalid timeout value.\n",
        },
        ["cli"] => "Expects an integer value.\n",
        _ => "'set timeout' only supports 'cli'.\n",
    };
    Command::Say(error.to_owned())
}

/// A time as HAProxy writes it (configuration.txt 2.5), in seconds where it has no unit.
fn delay_of(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().ok().filter(|number| *number < 1 << 32)?;
    Some(match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(60 * number),
        "h" => Duration::from_secs(3600 * number),
        "d" => Duration::from_secs(86_400 * number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str, level: StatsLevel) -> Command {
        understood(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), level)
    }

    fn text(command: Command) -> String {
        match command {
            Command::Say(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_word_asks_for_something() {
        let to = |server: &str, order| Command::Order(server.to_owned(), order);
        for (line, expected) in [
            ("show stat", Command::Stat(Query::default())),
            ("show info json", Command::Info(Shape::Json)),
            ("show info typed desc", Command::Info(Shape::Typed)),
            ("show servers state", Command::ServersState(None)),
            ("show servers state api", Command::ServersState(Some("api".to_owned()))),
            ("show servers conn", Command::ServersConn(None)),
            ("show backend", Command::Backends),
            ("show errors api request", Command::Errors),
            ("show version", Command::Version),
            ("show cli level", Command::Level),
            ("get weight api/m1", Command::Weight("api/m1".to_owned())),
            ("set weight api/m1 50%", to("api/m1", Order::Weight("50%".to_owned()))),
            ("set weight api/m1", to("api/m1", Order::Weight(String::new()))),
            ("set server api/m1 weight 7", to("api/m1", Order::Weight("7".to_owned()))),
            ("set server api/m1 state ready", to("api/m1", Order::Ready)),
            ("set server api/m1 state drain", to("api/m1", Order::Drain)),
            ("set server api/m1 state maint", to("api/m1", Order::Maint)),
            ("enable server api/m1", to("api/m1", Order::Ready)),
            ("disable server api/m1", to("api/m1", Order::Maint)),
            ("shutdown sessions server api/m1", to("api/m1", Order::Shutdown)),
            ("disable server", to("", Order::Maint)),
            ("prompt", Command::Prompt),
            ("quit", Command::Quit),
            ("user", Command::Lower(User)),
            ("operator", Command::Lower(Operator)),
            ("set timeout cli 30", Command::Timeout(Duration::from_secs(30))),
            ("set timeout cli 1500ms", Command::Timeout(Duration::from_millis(1500))),
            ("set timeout cli 99d", Command::Timeout(LONGEST_SILENCE)),
        ] {
            assert_eq!(said(line, Admin), expected, "{line}");
        }
    }

    #[test]
    fn rows_can_be_chosen() {
        let Command::Stat(query) = said("show stat api 4 -1 typed no-maint up", User) else { panic!() };
        let only = Only { proxy: "api".to_owned(), kinds: 4, server: -1 };
        assert_eq!(query, Query { only: Some(only), shape: Shape::Typed, no_maint: true, up: true });
        let Command::Stat(query) = said("show stat domain proxy -1 7x frog", User) else { panic!() };
        assert_eq!(query.only, Some(Only { proxy: "-1".to_owned(), kinds: 7, server: 0 }));
        assert_eq!(text(said("show stat domain moon", User)), "Invalid statistics domain.\n");
        assert_eq!(text(said("show stat domain resolvers", User)), "");
    }

    #[test]
    fn a_level_is_needed() {
        for (line, needs) in [
            ("set weight a/b 1", Admin),
            ("set server a/b state ready", Admin),
            ("enable server a/b", Admin),
            ("disable server a/b", Admin),
            ("shutdown sessions server a/b", Admin),
            ("show errors", Operator),
            ("show sess", Operator),
            ("operator", Operator),
            ("show stat", User),
            ("show info", User),
            ("show servers state", User),
            ("get weight a/b", User),
        ] {
            for level in [User, Operator, Admin] {
                let denied = said(line, level) == Command::Say(DENIED.to_owned());
                assert_eq!(denied, level < needs, "{line} as {level:?}");
            }
        }
    }

    #[test]
    fn the_unknown_is_answered_with_what_there_is() {
        let all = text(said("", User));
        assert!(
            all.starts_with("Unknown command. Please enter one of the following commands only:\n"),
            "{all}"
        );
        assert!(all.contains("\n  show stat [desc|") && all.ends_with(ALWAYS), "{all}");
        assert!(!all.contains("sess "), "{all}");
        let some = text(said("show me", User));
        assert!(
            some.starts_with("Unknown command, but maybe one of the following ones is a better match:\n")
        );
        assert!(some.contains("  show info") && !some.contains("  set "), "{some}");
        let fly = text(said("fly", User));
        assert!(fly.starts_with("Unknown command, but maybe") && fly.contains("  set server"), "{fly}");
        let help = text(said("help set", User));
        assert!(help.starts_with("The following commands are valid at this level:\n  set server"), "{help}");
        // HAProxy has it, and xvip has nothing that it could be about.
        let sessions = text(said("show sess", Operator));
        assert_eq!(
            sessions,
            "'show sess' does nothing in xvip: xvip forwards packets and has no sessions: see `xvip flows`\n"
        );
    }

    #[test]
    fn mistakes_are_named_in_haproxy_s_words() {
        for (line, expected) in [
            ("set timeout client 3", "'set timeout' only supports 'cli'.\n"),
            ("set timeout cli", "Expects an integer value.\n"),
            ("set timeout cli soon", "Invalid timeout value.\n"),
            ("set timeout cli 0", "Invalid timeout value.\n"),
            ("set timeout cli 4294967296", "Invalid timeout value.\n"),
            ("set timeout cli 18446744073709551615d", "Invalid timeout value.\n"),
        ] {
            assert_eq!(text(said(line, Admin)), expected, "{line}");
        }
        for (line, expected) in [
            ("set server a/b state off", "'set server <srv> state' expects 'ready', 'drain' and 'maint'.\n"),
            ("set server a/b", "usage: set server <backend>/<server> state | weight\n"),
            (
                "set server a/b addr 10.0.0.1",
                "'set server' cannot do that in xvip: addresses and checks are part of the configuration\n",
            ),
        ] {
            let impossible = Order::Impossible(expected.to_owned());
            assert_eq!(said(line, Admin), Command::Order("a/b".to_owned(), impossible), "{line}");
        }
    }

    #[test]
    fn the_table_is_in_order_and_a_longer_keyword_is_not_hidden() {
        assert!(KEYWORDS.is_sorted_by_key(|keyword| keyword.words));
        for keyword in KEYWORDS {
            assert!(keyword.words.split(' ').count() <= KEYWORD_WORDS);
            let usage = keyword.usage;
            assert!(usage.is_empty() || usage.starts_with(keyword.words) && usage.contains(": "), "{usage}");
        }
        assert!(matches!(said("shutdown sessions server a/b", Admin), Command::Order(..)));
    }

    #[test]
    fn numbers_are_read_as_c_does() {
        for (text, number) in
            [("-1", -1), ("4", 4), ("7x", 7), ("", 0), ("x", 0), ("+2", 2), ("99999999999", 0)]
        {
            assert_eq!(leading_number(text), number, "{text}");
        }
    }
}
