//! `[service.health]`: how HAProxy checks a pool's servers, in xvip's words.

use std::time::Duration;

use super::{CheckPlan, HealthPlan, Key, Notes};
use crate::{
    config::{kinds, model::duration_text},
    import::{
        incumbent::{Pool, PoolServer, ServerCheck},
        ledger::Fate,
        source::Place,
    },
};

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(3600);
/// What HAProxy takes for well where nothing else is said: 200 to 399, of which these occur.
const SUCCESS: [u16; 10] = [200, 201, 202, 204, 206, 301, 302, 303, 307, 308];

/// How a pool is checked. HAProxy can check each server in its own way, xvip all of a service alike: as the first one
/// that is checked.
pub(super) fn health(pool: &Pool, servers: &[&PoolServer], notes: &mut Notes<'_>) -> Option<HealthPlan> {
    let model = servers.iter().find(|server| server.checked).or(servers.first())?;
    let place = model.name.place;
    for other in servers.iter().filter(|other| other.checked && !checked_alike(other, model)) {
        let note = format!("xvip checks all backends of a service alike: as {}", model.name.value);
        notes.say(other.name.place, Fate::Approximate, "", note);
    }
    let interval = model.interval;
    let fast = model.fast_interval.unwrap_or(interval);
    let timeout = pool.check_timeout.as_ref().map_or(interval, |timeout| timeout.value);
    let mut time = |key: &str, value: Duration| {
        let from = notes.origin(&format!("service.health.{key}"), place).or(Some(place));
        Key::new(in_range(value, key, place, notes), from)
    };
    let (interval, down_interval) =
        (time("interval", interval), time("down_interval", model.down_interval.unwrap_or(interval)));
    let mut fast_interval = time("fast_interval", fast);
    let mut timeout = time("timeout", timeout);
    let slow_start = (!model.slow_start.is_zero()).then(|| time("slow_start", model.slow_start.min(LONGEST)));
    if let Some(at) = &pool.check_timeout {
        timeout.from = Some(at.place);
    }
    if model.fast_interval.is_none() && fast_interval.value > Duration::from_secs(1) {
        fast_interval.from = None;
        fast_interval.check = format!(
            "as HAProxy without fastinter: a dead backend is noticed after up to {:.1} s; with \"200ms\" it would be {:.1} s",
            (interval.value * model.fall.clamp(1, 1000)).as_secs_f64(),
            (interval.value + Duration::from_millis(200) * (model.fall.clamp(1, 1000) - 1)).as_secs_f64(),
        );
    }
    let mut count = |key: &str, value: u32| {
        let from = notes.origin(&format!("service.health.{key}"), place);
        Key::new(super::within(value, 1, 1000, &format!("service.health.{key}"), place, notes), from)
    };
    let (rise, fall) = (count("rise", model.rise), count("fall", model.fall));
    Some(HealthPlan {
        check: check(pool, place, notes),
        interval,
        down_interval,
        fast_interval,
        timeout,
        rise,
        fall,
        slow_start,
    })
}

fn checked_alike(one: &PoolServer, other: &PoolServer) -> bool {
    let of = |server: &PoolServer| {
        (
            server.interval,
            server.fast_interval,
            server.down_interval,
            server.rise,
            server.fall,
            server.slow_start,
        )
    };
    of(one) == of(other)
}

fn in_range(value: Duration, key: &str, place: Place, notes: &mut Notes<'_>) -> Duration {
    // Whole milliseconds.
    let wanted = Duration::from_millis(u64::try_from(value.as_millis()).unwrap_or(u64::MAX));
    let allowed = wanted.clamp(SHORTEST, LONGEST);
    if allowed != value {
        let note = format!(
            "xvip's `service.health.{key}` is 10ms to 1h in steps of 1ms: {} instead of {}",
            duration_text(allowed),
            duration_text(value)
        );
        notes.say(place, Fate::Approximate, "", note);
    }
    allowed
}

fn check(pool: &Pool, place: Place, notes: &mut Notes<'_>) -> Key<CheckPlan> {
    let from = Some(pool.check.place);
    match &pool.check.value {
        ServerCheck::None => {
            let note = "nothing was checked here; xvip looks whether a backend takes connections, and gives none to one that does not";
            notes.say(pool.name.place, Fate::Improved, "service.health.check = \"tcp\"", note);
            Key::new(CheckPlan::Tcp, Some(place)).check(ASK_THE_API_SERVER)
        }
        ServerCheck::Tcp => Key::new(CheckPlan::Tcp, from).check(ASK_THE_API_SERVER),
        ServerCheck::SslHello => Key::new(CheckPlan::Tls(None), from).check(
            "HAProxy took any TLS record for well, even an alert; this completes the handshake. It still does not ask the \
             API server itself; this would:",
        ),
        ServerCheck::Tls { ca_file } => {
            with_ca(ca_file.as_deref(), from, CheckPlan::Tls).check_if_empty(ASK_THE_API_SERVER)
        }
        ServerCheck::Http { tls, path, expect, ca_file } => {
            let path = url_path(path);
            let (expect, said) = statuses(expect);
            let key = if *tls {
                with_ca(ca_file.as_deref(), from, |ca| CheckPlan::Https(path, expect, ca))
            } else {
                Key::new(CheckPlan::Http(path, expect), from)
            };
            key.check_if_empty(said)
        }
    }
}

const ASK_THE_API_SERVER: &str =
    "this only connects, so that an API server that hangs stays in. What asks it instead:";

impl Key<CheckPlan> {
    fn check_if_empty(self, text: &str) -> Self {
        if self.check.is_empty() { self.check(text) } else { self }
    }
}

/// A CA's file, as long as the configuration can name it.
fn with_ca(
    ca_file: Option<&str>,
    from: Option<Place>,
    plan: impl FnOnce(Option<String>) -> CheckPlan,
) -> Key<CheckPlan> {
    match ca_file {
        Some(file) if kinds::is_path(file) && !file.contains(|c: char| c.is_control()) => {
            Key::new(plan(Some(file.to_owned())), from)
                .check("xvip also wants the certificate to name the backend's address, which HAProxy does not")
        }
        Some(file) => Key::new(plan(None), from).check(format!(
            "HAProxy verified the certificate by {file:?}, which is no absolute path of a file: put the CA into one and write \
             verify = \"ca\" and ca_file"
        )),
        None => Key::new(plan(None), from),
    }
}

/// The path as it goes into a request line.
fn url_path(path: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"#\"<>".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    if out.starts_with('/') { out } else { format!("/{out}") }
}

fn statuses(expect: &[u16]) -> (Vec<u16>, &'static str) {
    let mut known = Vec::new();
    for status in expect.iter().filter(|status| (200..=599).contains(*status)) {
        if !known.contains(status) {
            known.push(*status);
        }
    }
    if known.is_empty() {
        let said = "HAProxy takes each status of 200 to 399 for well, of which these occur; an API server that is ready says 200";
        return (SUCCESS.to_vec(), said);
    }
    (known, "")
}
