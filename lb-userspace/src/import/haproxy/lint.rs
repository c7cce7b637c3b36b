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
    let interval = duration_text(slowest.interval);
    let faster = Duration::from_millis(200);
    let then = detection(slowest.interval, Some(faster), slowest.fall);
    let advice = if slowest.interval > Duration::from_secs(2) {
        ", and interval = \"2s\" shortens it further"
    } else {
        ""
    };
    Some(Finding {
        id: "W4",
        severity: Severity::Warning,
        places: vec![slowest.name.place],
        message: format!(
            "backend {}: a server that dies gets connections for up to {} (inter {interval}, fall {}{}), besides the time-out of \
             each check",
            pool.name.value,
            duration_text(takes),
            slowest.fall,
            slowest.fast_interval.map_or_else(
                || ", without fastinter".to_owned(),
                |fast| format!(", fastinter {}", duration_text(fast))
            ),
        ),
        remedy: format!(
            "fast_interval = \"200ms\" in [service.health] makes that {}{advice}",
            duration_text(then)
        ),
    })
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
