//! Sections that no proxy is made of.

use crate::import::ledger::Fate;

/// A kind of section, and what becomes of it as a whole.
pub struct Kind {
    /// Its keyword.
    pub keyword: &'static str,
    /// What becomes of its first line, and of each other.
    pub fate: Fate,
    /// Why.
    pub note: &'static str,
    /// What it may hold; empty: anything.
    pub keywords: &'static [&'static str],
}

/// All of them.
pub static KINDS: &[Kind] = &[
    Kind {
        keyword: "resolvers",
        fate: Fate::NotNeeded,
        note: "xvip.toml has addresses, not names",
        keywords: &[
            "nameserver",
            "parse-resolv-conf",
            "hold",
            "resolve_retries",
            "timeout",
            "accepted_payload_size",
            "resolution_pool_size",
        ],
    },
    Kind {
        keyword: "peers",
        fate: Fate::Approximate,
        note: "HAProxy's peers share stick tables; xvip's `[sync]` shares the connections themselves, but has to be written",
        keywords: &[
            "bind",
            "default-bind",
            "default-server",
            "disabled",
            "enabled",
            "log",
            "peer",
            "server",
            "shards",
            "table",
        ],
    },
    Kind {
        keyword: "userlist",
        fate: Fate::NotPossible,
        note: "users of the web page are [[http.user]]; `xvip password` prints the hash",
        keywords: &["group", "user"],
    },
    Kind {
        keyword: "mailers",
        fate: Fate::NotPossible,
        note: "write a [[notify]] with a command that sends the mail",
        keywords: &["mailer", "timeout"],
    },
    Kind {
        keyword: "program",
        fate: Fate::NotPossible,
        note: "xvip starts no other programs: make it a unit of systemd",
        keywords: &["command", "user", "group", "option", "no"],
    },
    Kind {
        keyword: "cache",
        fate: Fate::NotNeeded,
        note: "is about HTTP, which xvip does not look into",
        keywords: &[
            "total-max-size",
            "max-object-size",
            "max-age",
            "max-secondary-entries",
            "process-vary",
            "early-hints",
        ],
    },
    Kind {
        keyword: "http-errors",
        fate: Fate::NotNeeded,
        note: "is about HTTP, which xvip does not look into",
        keywords: &["errorfile"],
    },
    Kind {
        keyword: "fcgi-app",
        fate: Fate::NotNeeded,
        note: "is about HTTP, which xvip does not look into",
        keywords: &[
            "acl",
            "docroot",
            "index",
            "log-stderr",
            "no",
            "option",
            "pass-header",
            "path-info",
            "set-param",
        ],
    },
    Kind {
        keyword: "ring",
        fate: Fate::NotNeeded,
        note: "xvip logs to the journal or to standard error",
        keywords: &["backing-file", "description", "format", "maxlen", "server", "size", "timeout"],
    },
    Kind { keyword: "log-forward", fate: Fate::NotPossible, note: "xvip is no syslog server", keywords: &[] },
    Kind {
        keyword: "log-profile",
        fate: Fate::NotNeeded,
        note: "xvip's connection log has one form: JSON lines with all that is known of a connection",
        keywords: &["log-tag", "on"],
    },
    Kind {
        keyword: "crt-store",
        fate: Fate::NotNeeded,
        note: "xvip does not end TLS: the API servers do",
        keywords: &[],
    },
    Kind {
        keyword: "acme",
        fate: Fate::NotNeeded,
        note: "xvip does not end TLS: the API servers do",
        keywords: &[],
    },
    Kind {
        keyword: "traces",
        fate: Fate::NotNeeded,
        note: "`xvip trace` shows what is decided for each packet",
        keywords: &[],
    },
    Kind {
        keyword: "healthcheck",
        fate: Fate::NotPossible,
        note: "a section of checks of HAProxy 3.4; write them as `service.health`",
        keywords: &[],
    },
    Kind {
        keyword: "namespace_list",
        fate: Fate::NotPossible,
        note: "xvip lives in one network namespace",
        keywords: &["namespace"],
    },
    Kind {
        keyword: "ruleset",
        fate: Fate::NotNeeded,
        note: "is about HTTP, which xvip does not look into",
        keywords: &[],
    },
    Kind {
        keyword: "dynamic-update",
        fate: Fate::NotPossible,
        note: "a section of HAProxy Enterprise",
        keywords: &[],
    },
];
