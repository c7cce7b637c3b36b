//! `defaults`, `frontend`, `backend` and `listen`.

use super::Group;

const HTTP: &str = "is about HTTP: it has no effect on TLS that passes through";
const COOKIE: &str = "is about HTTP; a connection keeps its backend all its life without it";
const LOG_FORM: &str =
    "xvip's connection log has one form: JSON lines with all that is known of a connection";
const SPLICE: &str = "nothing is copied: packets are forwarded in the kernel";

/// Keywords without those that are read.
pub static KEYWORDS: &[Group] = &[
    Group::not_needed(
        &[
            "capture",
            "compression",
            "declare",
            "errorfile",
            "errorfiles",
            "errorloc",
            "errorloc302",
            "errorloc303",
            "http-after-response",
            "http-error",
            "http-response",
            "http-reuse",
            "http-send-name-header",
            "max-keep-alive-queue",
            "max-session-srv-conns",
            "monitor",
            "monitor-uri",
            "monitor-net",
            "redirect",
            "reqadd",
            "reqallow",
            "reqdel",
            "reqdeny",
            "reqiallow",
            "reqidel",
            "reqideny",
            "reqipass",
            "reqirep",
            "reqisetbe",
            "reqitarpit",
            "reqpass",
            "reqrep",
            "reqsetbe",
            "reqtarpit",
            "rspadd",
            "rspdel",
            "rspdeny",
            "rspidel",
            "rspideny",
            "rspirep",
            "rsprep",
            "retry-on",
            "unique-id-format",
            "unique-id-header",
            "use-fcgi-app",
            "filter",
            "filter-sequence",
            "block",
            "appsession",
        ],
        HTTP,
    ),
    Group::not_needed(
        &["cookie", "persist", "force-persist", "ignore-persist", "dynamic-cookie-key"],
        COOKIE,
    ),
    Group::not_possible(
        &["http-request"],
        "xvip does not look into HTTP; in a TCP proxy HAProxy does not, either",
    ),
    Group::not_needed(&["log-format", "log-format-sd", "error-log-format", "log-tag", "log-steps"], LOG_FORM),
    Group::not_needed(&["backlog", "bind-process", "grace"], "there is no socket that listens, and no queue"),
    Group::not_needed(&["id", "guid", "description", "enabled"], "only HAProxy itself uses it"),
    Group::not_needed(
        &["load-server-state-from-file", "server-state-file-name"],
        "a reload or restart of xvip keeps the state of backends",
    ),
    Group::not_needed(
        &[
            "clitcpka-cnt",
            "clitcpka-idle",
            "clitcpka-intvl",
            "srvtcpka-cnt",
            "srvtcpka-idle",
            "srvtcpka-intvl",
        ],
        "keep-alives pass through between client and server",
    ),
    Group::not_needed(
        &["hash-type", "hash-balance-factor", "hash-preserve-affinity", "hash-key"],
        "xvip's hash is Maglev's: consistent, and the same on every node",
    ),
    Group::not_possible(&["fullconn"], "`max_connections` of a backend does not change with the load"),
    Group::not_possible(
        &["source", "usesrc"],
        "the servers see the VIP; with service.snat = \"node\" they see this node's own address",
    ),
    Group::not_possible(
        &["stick-table", "stick"],
        "xvip remembers no clients: balance = \"maglev\" always takes a connection's addresses and ports to the same backend",
    ),
    Group::not_possible(
        &["use-server"],
        "xvip does not look at what a connection asks for: `balance` chooses",
    ),
    Group::not_possible(&["tcp-response"], "xvip does not look into what servers send"),
    Group::approximate(
        &["rate-limit"],
        "",
        "a limit of the whole frontend; xvip has one for each source: `service.new_connections_per_source`",
    ),
    Group::not_possible(&["email-alert"], "write a [[notify]] with a command that sends the mail"),
    Group::not_needed(&["external-check"], "belongs to option external-check"),
    Group::not_possible(&["dispatch", "transparent"], "name the backends by `server` lines"),
    Group::not_needed(
        &["force-be-switch", "quic-initial", "be-unpublished"],
        "is for what xvip has nothing of",
    ),
    Group::approximate(
        &["retries"],
        "",
        "a client's kernel repeats its SYN; a backend that does not answer is found by its check and gets no more",
    ),
    Group::not_possible(
        &["healthcheck"],
        "a section of checks of HAProxy 3.4; write them as `service.health`",
    ),
];

/// `option` without those that are read.
pub static OPTIONS: &[Group] = &[
    Group::not_needed(
        &[
            "abortonclose",
            "accept-invalid-http-request",
            "accept-invalid-http-response",
            "accept-unsafe-violations-in-http-request",
            "accept-unsafe-violations-in-http-response",
            "checkcache",
            "disable-h2-upgrade",
            "forwardfor",
            "forwarded",
            "forceclose",
            "h1-case-adjust-bogus-client",
            "h1-case-adjust-bogus-server",
            "http-buffer-request",
            "http-drop-request-trailers",
            "http-drop-response-trailers",
            "http-ignore-probes",
            "http-keep-alive",
            "http-no-delay",
            "http-pretend-keepalive",
            "http-restrict-req-hdr-names",
            "http-server-close",
            "http-tunnel",
            "http-use-proxy-header",
            "http-use-htx",
            "http_proxy",
            "httpclose",
            "idle-close-on-response",
            "originalto",
            "prefer-last-server",
            "use-small-buffers",
        ],
        HTTP,
    ),
    Group::approximate(
        &["redispatch"],
        "",
        "a backend that does not answer is found by its check; then the client's next SYN goes to another one",
    ),
    Group::approximate(&["allbackups"], "", "xvip has no tier of spare backends"),
    Group::not_needed(&["persist"], COOKIE),
    Group::not_needed(
        &["tcpka", "clitcpka", "srvtcpka"],
        "keep-alives pass through between client and server",
    ),
    Group::not_needed(
        &[
            "splice-auto",
            "splice-request",
            "splice-response",
            "tcp-smart-accept",
            "tcp-smart-connect",
            "nolinger",
            "independent-streams",
            "independant-streams",
        ],
        SPLICE,
    ),
    Group::improved(
        &["log-health-checks"],
        "",
        "each change of a backend's state is logged, with its reason",
    ),
    Group::not_needed(&["log-separate-errors", "logasap"], LOG_FORM),
    Group::not_possible(
        &["dontlog-normal"],
        "the connection log has no filter but `connection_log.skip_empty`",
    ),
    Group::not_needed(&["contstats", "socket-stats"], "counters are always current"),
    Group::not_possible(&["transparent"], "name the backends by `server` lines"),
    Group::not_needed(&["start-on-reload"], "programs are systemd's business"),
];

/// `timeout` without those that are read.
pub static TIMEOUTS: &[Group] = &[
    Group::not_needed(&["http-keep-alive", "http-request", "tarpit"], HTTP),
    Group::not_needed(
        &["client-fin", "server-fin", "client-hs"],
        "xvip forgets a connection whose ends are closed by itself, and one that is not established soon",
    ),
    Group::approximate(
        &["queue"],
        "service.on_all_full = \"reset\"",
        "there is no queue: while each backend has its max_connections, a new client gets a RST",
    ),
    Group::not_needed(
        &["connect"],
        "xvip opens no connection for a client: the client's own SYN goes to the backend, and its kernel repeats it",
    ),
    Group::not_needed(&["clitimeout", "mail", "appsession"], "HAProxy does not know it any more"),
];
