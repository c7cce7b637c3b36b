//! The `global` section.

use super::Group;

const TUNING: &str = "tunes HAProxy's process; xvip's data plane runs in the kernel";
const TLS: &str = "xvip does not end TLS: the API servers do";

/// Keywords of `global`, without those that are read (`log`, `maxconn`, `ca-base`, `crt-base`, `setenv` and its like, `stats`).
pub static KEYWORDS: &[Group] = &[
    Group::not_needed(
        &["chroot"],
        "systemd's sandbox does that: xvip.service has ProtectSystem=strict and few capabilities",
    ),
    Group::not_needed(&["pidfile"], "systemd knows the process"),
    Group::not_needed(
        &[
            "user",
            "group",
            "uid",
            "gid",
            "set-dumpable",
            "insecure-fork-wanted",
            "insecure-setuid-wanted",
            "setcap",
        ],
        "xvip.service says who runs it, and with which capabilities",
    ),
    Group::not_needed(
        &["daemon", "quiet", "master-worker", "mworker-max-reloads", "zero-warning", "debug", "verbose"],
        "xvip.service has Type=notify: systemd starts and watches the daemon",
    ),
    Group::not_needed(
        &["ulimit-n", "fd-hard-limit", "strict-limits", "maxpipes", "prealloc-fd"],
        "a forwarded connection has no file descriptor",
    ),
    Group::not_needed(
        &[
            "nbthread",
            "nbproc",
            "nbtgroups",
            "thread-groups",
            "thread-group",
            "cpu-map",
            "cpu-policy",
            "cpu-set",
            "cpu-affinity",
            "numa-cpu-mapping",
            "max-threads-per-group",
        ],
        "each CPU that receives packets forwards them",
    ),
    Group::not_needed(
        &[
            "tune.*",
            "busy-polling",
            "max-spread-checks",
            "spread-checks",
            "maxcompcpuusage",
            "maxcomprate",
            "maxzlibmem",
            "no-memory-trimming",
            "noepoll",
            "noevports",
            "nogetaddrinfo",
            "nokqueue",
            "nopoll",
            "noreuseport",
            "nosplice",
            "noktls",
            "noquic",
            "limited-quic",
            "profiling.*",
            "force-cfg-parser-pause",
            "warn-blocked-traffic-after",
            "shm-stats-file",
            "shm-stats-file-max-objects",
            "debug.counters",
            "dns-accept-family",
        ],
        TUNING,
    ),
    Group::not_needed(
        &[
            "key-base",
            "ssl-*",
            "issuers-chain-path",
            "maxsslconn",
            "maxsslrate",
            "ocsp-update.*",
            "jwt.*",
            "acme.*",
        ],
        TLS,
    ),
    Group::not_needed(
        &[
            "lua-*",
            "h1-*",
            "h2-*",
            "httpclient.*",
            "51degrees-*",
            "deviceatlas-*",
            "wurfl-*",
            "http-err-codes",
            "http-fail-codes",
            "no-quic",
        ],
        "is about HTTP, which xvip does not look into",
    ),
    Group::not_needed(
        &[
            "hard-stop-after",
            "grace",
            "close-spread-time",
            "server-state-base",
            "server-state-file",
            "load-server-state",
            "stats-file",
        ],
        "a reload or restart of xvip keeps connections and the state of backends",
    ),
    Group::not_needed(
        &["log-send-hostname", "log-tag", "log-forward", "anonkey"],
        "the journal knows the host and the program",
    ),
    Group::not_needed(
        &["node", "description", "localpeer", "cluster-secret", "default-path", "unix-bind", "harden.*"],
        "only HAProxy itself uses it; `node.name` is the name of a node in xvip's logs",
    ),
    Group::not_needed(
        &[
            "expose-experimental-directives",
            "expose-deprecated-directives",
            "pp2-never-send-local",
            "external-check",
            "set-var",
            "set-var-fmt",
            "unsetenv",
            "resetenv",
        ],
        "only other lines of this file use it",
    ),
    Group::approximate(
        &["maxconnrate", "maxsessrate"],
        "",
        "a limit of the whole process; xvip has one for each source: `service.new_connections_per_source`",
    ),
];
