//! What was wrong or weak before anything was imported: the lints that the whole model decides.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::{
    config::model::duration_text,
    import::{
        incumbent::{Incumbent, Pool, Proxy, ServerAddress, ServerCheck, StatsPage},
        ledger::{Finding, Ledger, Severity},
        source::{At, Place},
    },
};

/// A dead server that is noticed later than that is worth a word.
const SLOW: Duration = Duration::from_secs(6);
/// A connection may well be silent for that long: `kubectl exec` while somebody thinks, `kubectl logs -f` of a quiet pod.
const SILENT: Duration = Duration::from_secs(10 * 60);
/// Passwords that guides print.
const WELL_KNOWN: [&str; 14] = [
    "admin",
    "admin123",
    "admin888",
    "password",
    "passw0rd",
    "123456",
    "12345678",
    "haproxy",
    "awesomepassword",
    "awesomePassword",
    "changeme",
    "secret",
    "root",
    "test",
];
/// A password with fewer bytes is short.
const SHORT: usize = 8;

/// Finds E1, W3, W4, W5, W10 and W12; E2 is found while the file is read.
pub fn lint(incumbent: &Incumbent, ledger: &mut Ledger) {
    let mut pools = BTreeSet::new();
    let mut timeouts = BTreeSet::new();
    let own = own_addresses(incumbent);
    for proxy in incumbent.proxies.iter().filter(|proxy| !proxy.http) {
        let pool = &proxy.pool;
        ledger_all(ledger, [http_backend(proxy), taken_port(proxy, &own)]);
        if pools.insert(pool.name.place) {
            ledger_all(ledger, [weak_check(pool), late(pool)]);
        }
        if let Some((finding, key)) = short_timeout(proxy)
            && timeouts.insert(key)
        {
            ledger.find(finding);
        }
    }
    for page in &incumbent.stats {
        open_page(page, ledger);
    }
}

fn ledger_all(ledger: &mut Ledger, findings: [Option<Finding>; 2]) {
    findings.into_iter().flatten().for_each(|finding| ledger.find(finding));
}

/// E1: HAProxy parses what passes as HTTP, and a client that speaks TLS gets an answer that is none.
fn http_backend(proxy: &Proxy) -> Option<Finding> {
    proxy.pool.http.then(|| Finding {
        id: "E1",
        severity: Severity::Error,
        places: vec![proxy.name.place, proxy.pool.name.place],
        message: format!(
            "frontend {} speaks TCP and backend {} HTTP (`mode http` is inherited where a section says nothing): TLS does not \
             get through, while the checks go on saying that the servers are up",
            proxy.name.value, proxy.pool.name.value
        ),
        remedy: "xvip forwards it as TCP; in haproxy.cfg write `mode tcp` into the backend".to_owned(),
    })
}

/// W3: a server that takes connections and answers nothing is up.
fn weak_check(pool: &Pool) -> Option<Finding> {
    let what = match pool.check.value {
        ServerCheck::None => "no server is checked",
        ServerCheck::Tcp => "the check only connects",
        _ => return None,
    };
    Some(Finding {
        id: "W3",
        severity: Severity::Warning,
        places: vec![pool.check.place],
        message: format!(
            "backend {}: {what}; an API server that hangs, or is not ready, goes on getting connections",
            pool.name.value
        ),
        remedy: "check = \"https\" and path = \"/readyz\" in [service.health] ask the API server itself"
            .to_owned(),
    })
}

/// W4: how long a dead server goes on getting connections.
fn late(pool: &Pool) -> Option<Finding> {
    let checked = pool.servers.iter().filter(|server| server.checked);
    let slowest =
        checked.max_by_key(|server| detection(server.interval, server.fast_interval, server.fall))?;
    let takes = detection(slowest.interval, slowest.fast_interval, slowest.fall);
    if takes <= SLOW {
        return None;
    }
    let fast = slowest.fast_interval.map_or_else(
        || ", without fastinter".to_owned(),
        |fast| format!(", fastinter {}", duration_text(fast)),
    );
    let interval = slowest.interval.min(Duration::from_secs(2));
    let faster = slowest.fast_interval.unwrap_or(slowest.interval).min(Duration::from_millis(200));
    let then = detection(interval, Some(faster), slowest.fall);
    Some(Finding {
        id: "W4",
        severity: Severity::Warning,
        places: vec![slowest.name.place],
        message: format!(
            "backend {}: a server that dies gets connections for up to {} (inter {}, fall {}{fast}), and for the time-out of a \
             check",
            pool.name.value,
            seconds(takes),
            duration_text(slowest.interval),
            slowest.fall,
        ),
        remedy: format!(
            "interval = \"{}\" and fast_interval = \"{}\" in [service.health] make that {}",
            duration_text(interval),
            duration_text(faster),
            seconds(then)
        ),
    })
}

/// To a tenth of a second.
fn seconds(time: Duration) -> String {
    let tenths = time.as_millis() / 100;
    if tenths.is_multiple_of(10) {
        format!("{} s", tenths / 10)
    } else {
        format!("{}.{} s", tenths / 10, tenths % 10)
    }
}

/// From the last check that was well to the one that brings the server down.
fn detection(interval: Duration, fast: Option<Duration>, fall: u32) -> Duration {
    let further = fall.saturating_sub(1);
    interval.saturating_add(fast.unwrap_or(interval).saturating_mul(further))
}

/// W5: passwords that everybody tries first.
fn open_page(page: &StatsPage, ledger: &mut Ledger) {
    for At { value: (user, password), place } in &page.users {
        let what = if WELL_KNOWN.contains(&password.as_str()) || password == user {
            "is one that everybody tries first"
        } else if password.len() < SHORT {
            "is short"
        } else {
            continue;
        };
        ledger.find(Finding {
            id: "W5",
            severity: Severity::Warning,
            places: vec![*place],
            message: format!(
                "the password of {user} on the statistics page {} {what}, and it travels in clear text{}",
                page.name.value,
                if page.admin.is_some() { "; whoever has it can switch servers off" } else { "" }
            ),
            remedy: "choose another one: `xvip password` prints its hash for [[http.user]]".to_owned(),
        });
    }
    if let (Some(place), true) = (page.admin, page.users.is_empty()) {
        ledger.find(Finding {
            id: "W5",
            severity: Severity::Warning,
            places: vec![place],
            message: format!(
                "the statistics page {} asks for no password, and whoever opens it can switch servers off",
                page.name.value
            ),
            remedy: "xvip's page changes nothing without a user of role \"admin\": see [[http.user]]"
                .to_owned(),
        });
    }
}

/// W10: the time-outs of idle connections; once for each set of lines.
fn short_timeout(proxy: &Proxy) -> Option<(Finding, Vec<Place>)> {
    // With a `timeout tunnel` the other two count only until the first answer.
    let counted: Vec<&At<Duration>> = match &proxy.pool.tunnel_timeout {
        Some(tunnel) => vec![tunnel],
        None => [&proxy.client_timeout, &proxy.pool.server_timeout].into_iter().flatten().collect(),
    };
    let short: Vec<_> = counted.into_iter().filter(|timeout| timeout.value < SILENT).collect();
    let least = short.iter().map(|timeout| timeout.value).min()?;
    let places: Vec<Place> = short.iter().map(|timeout| timeout.place).collect();
    let finding = Finding {
        id: "W10",
        severity: Severity::Warning,
        places: places.clone(),
        message: format!(
            "connections that are silent for {} are cut: kubectl exec, logs -f and port-forward break in the middle",
            duration_text(least)
        ),
        remedy:
            "not imported: xvip keeps them for flows.idle_timeout = \"24h\" (--keep-timeouts imports them)"
                .to_owned(),
    };
    Some((finding, places))
}

fn own_addresses(incumbent: &Incumbent) -> BTreeSet<IpAddr> {
    let instances = incumbent.routers.iter().flat_map(|node| &node.instances);
    instances
        .flat_map(|instance| instance.unicast_source.iter().chain(&instance.unicast_peers))
        .map(|address| address.value)
        .collect()
}

/// W12: HAProxy and the API server of one machine want the same port.
fn taken_port(proxy: &Proxy, own: &BTreeSet<IpAddr>) -> Option<Finding> {
    let server = proxy.pool.servers.iter().find(|server| match &server.address {
        ServerAddress::Ip(address) => {
            let taken = |bind: &At<crate::import::incumbent::Bind>| {
                bind.value.port == address.port()
                    && bind.value.address.is_none_or(|bound| bound == address.ip())
            };
            own.contains(&address.ip()) && proxy.binds.iter().any(taken)
        }
        ServerAddress::Name(..) => false,
    })?;
    let ServerAddress::Ip(address) = server.address else { return None };
    let bind = proxy.binds.iter().find(|bind| bind.value.port == address.port())?;
    Some(Finding {
        id: "W12",
        severity: Severity::Warning,
        places: vec![bind.place, server.name.place],
        message: format!(
            "{} listens on port {} of every address, and so does the API server of the same machine ({}): whichever starts second fails",
            proxy.name.value,
            address.port(),
            address.ip()
        ),
        remedy: "xvip needs no port of its own: packets to the VIP are taken before any socket".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::{
        haproxy,
        incumbent::{Authentication, RouterInstance, RouterNode},
        source::{FileId, Source},
    };

    const FILE: &str = "defaults\n timeout client 50s\n timeout server 50s\n\
        listen api\n bind *:6443\n server m1 10.0.0.11:6443 check inter 10s\n server m2 10.0.0.12:6443 check\n";

    fn model(text: &str) -> Incumbent {
        let mut incumbent = Incumbent::default();
        haproxy::read(&Source::new("f", text.as_bytes()), FileId(0), &mut incumbent, &mut Ledger::default());
        incumbent
    }

    fn found(incumbent: &Incumbent) -> Vec<(&'static str, usize)> {
        let mut ledger = Ledger::default();
        lint(incumbent, &mut ledger);
        ledger.findings().iter().map(|finding| (finding.id, finding.places[0].line)).collect()
    }

    fn with_router(mut incumbent: Incumbent, source: &str) -> Incumbent {
        let at = |text: &str| At::new(text.to_owned(), Place::default());
        incumbent.routers.push(RouterNode {
            file: FileId(1),
            name: None,
            instances: vec![RouterInstance {
                name: at("main"),
                begins_as_master: false,
                interface: at("eth0"),
                virtual_router_id: At::new(60, Place::default()),
                priority: At::new(100, Place::default()),
                version: crate::config::model::VrrpVersion::V2,
                advert_interval: Duration::from_secs(1),
                authentication: Authentication::None,
                unicast_source: Some(At::new(source.parse().unwrap(), Place::default())),
                unicast_peers: Vec::new(),
                vips: Vec::new(),
                no_preempt: None,
                preempt_delay: Duration::ZERO,
                virtual_mac: None,
                checksum_as_v2: false,
                tracks: Vec::new(),
                hooks: Vec::new(),
            }],
            sync_groups: Vec::new(),
        });
        incumbent
    }

    #[test]
    fn a_port_that_the_api_server_has_is_found_on_its_own_machine_alone() {
        let (w3, w4, w10) = (("W3", 6), ("W4", 6), ("W10", 2));
        assert_eq!(found(&model(FILE)), [w3, w4, w10]);
        assert_eq!(found(&with_router(model(FILE), "10.0.0.2")), [w3, w4, w10]);
        assert_eq!(found(&with_router(model(FILE), "10.0.0.12")), [("W12", 5), w3, w4, w10]);
        let other_port = FILE.replace("*:6443", "*:9443");
        assert_eq!(found(&with_router(model(&other_port), "10.0.0.12")), [w3, w4, w10]);
        let other_address = FILE.replace("*:6443", "10.0.0.100:6443");
        assert_eq!(found(&with_router(model(&other_address), "10.0.0.12")), [w3, w4, w10]);
    }

    #[test]
    fn what_is_well_is_not_found() {
        let well = FILE
            .replace("inter 10s", "")
            .replace("50s", "4h")
            .replace("bind", "option httpchk GET /readyz\n bind");
        assert_eq!(found(&model(&well)), []);
        // A tunnel's time-out takes the place of the others, once a server has answered.
        let tunnel = FILE.replace("timeout client 50s", "timeout tunnel 24h");
        assert_eq!(found(&model(&tunnel)), [("W3", 6), ("W4", 6)]);
    }

    #[test]
    fn detection_is_counted_as_haproxy_does() {
        let s = Duration::from_secs;
        // features of S0: inter 10s, fall 2.
        assert_eq!(detection(s(10), None, 2), s(20));
        assert_eq!(detection(s(10), Some(s(1)), 3), s(12));
        assert_eq!(detection(s(2), None, 0), s(2));
        assert_eq!(seconds(Duration::from_millis(20_200)), "20.2 s");
        assert_eq!(seconds(s(20)), "20 s");
    }

    #[test]
    fn passwords_that_everybody_tries_are_found() {
        for (auth, expected) in [
            ("admin:admin123", true),
            ("admin:short", true),
            ("haproxy4711:haproxy4711", true),
            ("admin:kAh7-quoo-Pheen", false),
        ] {
            let text = format!("listen s\n mode http\n bind :1\n stats auth {auth}\n");
            assert_eq!(found(&model(&text)), if expected { vec![("W5", 4)] } else { vec![] }, "{auth}");
        }
        let open = "listen s\n mode http\n bind :1\n stats admin if TRUE\n";
        assert_eq!(found(&model(open)), [("W5", 4)]);
    }
}
