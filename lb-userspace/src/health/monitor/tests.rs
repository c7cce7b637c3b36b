use tokio::time::timeout;

use super::*;
use crate::{
    config::model::{Check, TlsVerify, Verify},
    health::fake_backend::{Behaviour, End, FakeBackend, HANGS, Pki, nobody},
};

const HOUR: Duration = Duration::from_secs(3600);

fn https() -> Check {
    let tls = TlsVerify { verify: Verify::None, ca_file: None, client_cert: None, client_key: None };
    Check::Https { path: "/readyz".into(), expect_status: vec![200], tls, token_file: None }
}

/// Quick pauses, and a time-out that only a hang reaches.
fn eager(check: Check) -> Health {
    Health {
        check,
        interval: Duration::from_millis(2),
        down_interval: Duration::from_millis(2),
        fast_interval: Duration::from_millis(1),
        timeout: HANGS,
        rise: 2,
        fall: 3,
        slow_start: Duration::ZERO,
        slow_start_rate: 0,
    }
}

fn idle(check: Check) -> Health {
    Health { interval: HOUR, down_interval: HOUR, ..eager(check) }
}

async fn until(monitor: &Monitor, condition: impl FnMut(&BackendHealth) -> bool) -> BackendHealth {
    let mut health = monitor.health();
    let found = timeout(HANGS, health.wait_for(condition)).await;
    found.expect("it happens in time").expect("the monitor runs").clone()
}

async fn backend() -> FakeBackend {
    FakeBackend::start(Some(Pki::new().server(&["127.0.0.1"], false)), Behaviour::Http).await
}

async fn a_life(backend: FakeBackend) {
    let monitor = Monitor::spawn(&eager(https()), backend.address).expect("usable");
    assert_eq!(monitor.health().borrow().state, HealthState::Unknown);

    let up = until(&monitor, |health| health.state == HealthState::Up).await;
    assert_eq!((up.down, up.reason.as_str()), (None, "status 200"));
    assert!(up.last_check.expect("checked").passed);
    assert!(up.certificate.is_some());
    assert_eq!(up.tally.down_ms, 0);

    backend.set_status(503);
    let down = until(&monitor, |health| health.state == HealthState::Down).await;
    assert_eq!(down.down, Some(DownKind::ShuttingDown));
    assert_eq!(down.reason, "status 503, expected 200");
    assert!(down.failures >= 3 && down.checks > down.failures && down.since >= up.since);

    backend.set_status(200);
    // Two checks that passed, with pauses between them.
    let again = until(&monitor, |health| health.state == HealthState::Up).await;
    assert!(again.tally.down_ms > 0);

    backend.set_status(500);
    until(&monitor, |health| health.down == Some(DownKind::ShuttingDown)).await;
    drop(backend);
    let dead = until(&monitor, |health| health.down == Some(DownKind::Dead)).await;
    assert_eq!((dead.state, dead.reason.as_str()), (HealthState::Down, "connection refused"));
    assert_eq!(dead.certificate, up.certificate, "it is not forgotten");
    assert!(dead.tally.down_ms > again.tally.down_ms, "until then it was down in another way");
    monitor.stop().await;
}

#[tokio::test]
async fn a_backend_comes_fails_returns_and_dies() {
    a_life(backend().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_on_many_threads() {
    a_life(backend().await).await;
}

#[tokio::test]
async fn cut_connections_of_a_healthy_backend_are_not_failures() {
    let backend = backend().await;
    let monitor = Monitor::spawn(&eager(https()), backend.address).expect("usable");
    until(&monitor, |health| health.state == HealthState::Up).await;
    for _ in 0..10 {
        let seen = monitor.health().borrow().checks;
        until(&monitor, |health| health.checks >= seen + 3).await;
        // Between two checks or in the middle of one; only a cut of a fresh connection may fail one, and not `fall`.
        backend.cut();
    }
    let seen = monitor.health().borrow().checks;
    let after = until(&monitor, |health| health.checks >= seen + 3).await;
    assert_eq!(after.state, HealthState::Up);
    assert!(backend.log().accepted >= 10);
}

#[tokio::test]
async fn dropped_monitors_say_close_notify() {
    let backend = backend().await;
    let dropped = Monitor::spawn(&idle(https()), backend.address).expect("usable");
    let stopped = Monitor::spawn(&idle(https()), backend.address).expect("usable");
    until(&dropped, |health| health.checks == 1).await;
    until(&stopped, |health| health.checks == 1).await;
    let mut health = dropped.health();
    drop(dropped);
    stopped.stop().await;
    let log = backend.until(|log| log.ended.len() == 2).await;
    assert_eq!(log.ended, [End::CloseNotify; 2]);
    assert_eq!(log.handshake_errors, [""; 0]);
    // The task has ended: nobody publishes any more.
    let gone = timeout(HANGS, health.wait_for(|health| health.checks > 1)).await.expect("ends in time");
    assert!(gone.is_err());
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_black_hole() {
    let backend = FakeBackend::start(None, Behaviour::Silent).await;
    let mut health = idle(https());
    health.timeout = HOUR;
    let monitor = Monitor::spawn(&health, backend.address).expect("usable");
    backend.until(|log| log.accepted == 1).await;
    timeout(HANGS, monitor.stop()).await.expect("long before the check's time is up");
}

#[tokio::test]
async fn evidence_starts_a_check_over_a_fresh_connection() {
    let backend = backend().await;
    let monitor = Monitor::spawn(&idle(https()), backend.address).expect("usable");
    until(&monitor, |health| health.checks == 1).await;
    monitor.probe_now();
    until(&monitor, |health| health.checks == 2).await;
    assert_eq!(backend.log().accepted, 2);
    backend.set_status(500);
    monitor.probe_now();
    // The rest follows by itself, at the fast interval.
    until(&monitor, |health| health.down == Some(DownKind::ShuttingDown)).await;
}

/// On the paused clock. Nobody listens, so each check ends at once and nothing depends on real time.
#[tokio::test(start_paused = true)]
async fn pauses() {
    let address = nobody();
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let health = Health {
        check: Check::Tcp,
        interval: minutes(60),
        down_interval: minutes(50),
        fast_interval: minutes(10),
        timeout: minutes(1),
        rise: 2,
        fall: 2,
        slow_start: Duration::ZERO,
        slow_start_rate: 0,
    };
    // A check may take its whole time-out in the paused clock if the kernel answers late: hence the slack of a minute each.
    let slack = minutes(2);
    let started = Instant::now();
    let monitor = Monitor::spawn(&health, address).expect("usable");

    let mut seen = monitor.health();
    let mut checks_reach = async |n| {
        seen.wait_for(|health| health.checks == n).await.expect("the monitor runs");
        Instant::now()
    };
    let first = checks_reach(1).await;
    assert!(first - started <= slack, "the first check is at once");
    // Dead is not settled: fast, and the first pause shortened by at most half.
    let second = checks_reach(2).await;
    assert!(second - first >= minutes(5) && second - first <= minutes(10) + slack, "{:?}", second - first);
    let third = checks_reach(3).await;
    assert!(third - second >= minutes(50) && third - second <= minutes(50) + slack, "{:?}", third - second);
    // A storm of evidence right after a check: one more check, after the fast interval.
    for _ in 0..1000 {
        monitor.probe_now();
    }
    let fourth = checks_reach(4).await;
    assert!(fourth - third >= minutes(10) && fourth - third <= minutes(10) + slack, "{:?}", fourth - third);
    let fifth = checks_reach(5).await;
    assert!(fifth - fourth >= minutes(50), "{:?}", fifth - fourth);
    // Evidence long after a check: at once.
    sleep(minutes(20)).await;
    let asked = Instant::now();
    monitor.probe_now();
    assert!(checks_reach(6).await - asked <= slack);
}

/// Times without end are no reason to panic.
#[tokio::test]
async fn endless_times() {
    let backend = backend().await;
    let health = Health {
        interval: Duration::MAX,
        down_interval: Duration::MAX,
        fast_interval: Duration::MAX,
        timeout: Duration::MAX,
        ..eager(https())
    };
    let monitor = Monitor::spawn(&health, backend.address).expect("usable");
    until(&monitor, |health| health.state == HealthState::Up).await;
    monitor.probe_now();
    timeout(HANGS, monitor.stop()).await.expect("stops");
}

#[test]
fn first_pauses_differ_and_are_never_longer() {
    let pause = Duration::from_secs(2);
    let addresses: Vec<SocketAddr> = (1..=50)
        .map(|n| SocketAddr::from(([172, 16, 0, n], 6443)))
        .chain(["[fd00::1]:6443".parse().expect("an address")])
        .collect();
    let mut pauses: Vec<_> = addresses.iter().map(|&address| shortened(pause, address)).collect();
    assert!(pauses.iter().all(|&p| p >= pause / 2 && p <= pause));
    let again: Vec<_> = addresses.iter().map(|&address| shortened(pause, address)).collect();
    assert_eq!(pauses, again);
    pauses.sort();
    pauses.dedup();
    assert!(pauses.len() > 45, "{} of 51 differ", pauses.len());
    assert_eq!(shortened(Duration::ZERO, addresses[0]), Duration::ZERO);
    assert!(shortened(Duration::MAX, addresses[0]) >= Duration::MAX / 2);
}

#[test]
fn as_json() {
    let health = BackendHealth {
        state: HealthState::Down,
        down: Some(DownKind::ShuttingDown),
        since: SystemTime::UNIX_EPOCH,
        last_check: Some(LastCheck {
            passed: false,
            result: "status 500, expected 200".into(),
            latency: Duration::from_micros(1500),
            at: SystemTime::UNIX_EPOCH + HOUR,
        }),
        checks: 7,
        failures: 2,
        reason: "status 500, expected 200".into(),
        tally: CheckTally::default(),
        certificate: None,
        heard: None,
        silent: None,
    };
    let expected = serde_json::json!({
        "state": "down", "down": "shutting-down", "since": "1970-01-01T00:00:00.000Z",
        "last_check": {
            "passed": false, "result": "status 500, expected 200", "latency_ms": 1.5, "at": "1970-01-01T01:00:00.000Z",
        },
        "checks": 7, "failures": 2, "reason": "status 500, expected 200",
    });
    assert_eq!(serde_json::to_value(health).expect("serializable"), expected);
}

#[test]
fn without_a_runtime_or_files_there_is_no_monitor() {
    let address = ([127, 0, 0, 1], 6443).into();
    let error = Monitor::spawn(&idle(Check::Tcp), address).expect_err("no runtime");
    assert!(matches!(error, SetupError::NoRuntime));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let tls = TlsVerify {
        verify: Verify::Ca,
        ca_file: Some("/nonexistent/ca.pem".into()),
        client_cert: None,
        client_key: None,
    };
    let error = Monitor::spawn(&idle(Check::Tls { tls }), address).expect_err("no such file");
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
