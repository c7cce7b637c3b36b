//! Who may do what on the control socket, and that nobody can keep others from it: another user, idle, slow and greedy clients
//! of a real daemon, while VRRP and the data plane go on. Needs root.
//!
//! Runner: threads 1, minutes 4

use std::error::Error;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use lb_tests::node::{LbNode, Status};
use lb_tests::other_user::{NOBODY, as_nobody};
use lb_tests::topology::{Connections, Family, Lab};
use lb_tests::traffic::{ask, start};
use lb_tests::wait;

type TestResult = Result<(), Box<dyn Error>>;

/// Generous: nothing waits for it unless something is wrong.
const SOON: Duration = Duration::from_secs(60);

/// What is answered to `METHOD PATH` with a body.
fn http(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: xvip\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    // It may be refused before all of it is sent.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(String::from_utf8_lossy(&answer).into_owned()),
    }
}

/// Lets `nobody` look, as an administrator would: by the socket's group.
fn open_to_the_group(lab: &Lab, lb: &LbNode) -> io::Result<()> {
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o711))?;
    chown(lb.socket_path(), None, Some(NOBODY))
}

/// What must not change while somebody tries to disturb: how often VRRP changed its state, and whose the VIP is.
fn owner(status: &Status) -> (u64, bool) {
    let transitions = status.raw["vrrp"][0]["transitions"].as_u64().unwrap_or_default();
    (transitions, status.raw["vrrp"][0]["state"] == "active")
}

#[test]
fn others_may_look_if_their_group_may_and_change_nothing() -> TestResult {
    let lab = start(Lab::builder().lbs(1).patience(5), &[Family::V4], |_| {})?;
    let lb = lab.lb(0);
    let socket = lb.socket_path();
    fs::set_permissions(lab.dir(), fs::Permissions::from_mode(0o711))?;
    let refused = as_nobody(|| http(&socket, "GET", "/v1/status", ""))?.expect_err("not in the group");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);

    open_to_the_group(&lab, lb)?;
    let before = lb.status()?;
    for path in ["/v1/status", "/v1/vrrp", "/v1/history"] {
        let answer = as_nobody(|| http(&socket, "GET", path, ""))??;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    let order = r#"{"backend":"master1","action":"disable","by":"root"}"#;
    for (path, body) in [
        ("/v1/reload", ""),
        ("/v1/leave", ""),
        ("/v1/vip/release", ""),
        ("/v1/vip/acquire", ""),
        ("/v1/backend", order),
        ("/v1/rebalance", "{}"),
    ] {
        let answer = as_nobody(|| http(&socket, "POST", path, body))??;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        let remedy = "nobody may look, but only root may change something: use sudo, or become root";
        assert!(answer.contains(remedy), "{path}: {answer}");
    }
    let after = lb.status()?;
    assert_eq!(owner(&after), owner(&before));
    let all_in = after.services.iter().all(|service| service.backends.iter().all(|one| one.admin.is_none()));
    assert!(all_in && lb.is_running(), "{:#}", after.raw);
    let log = fs::read_to_string(lb.log())?;
    assert!(log.contains("refused: only root may change something"), "{log}");
    assert_eq!(ask(&lab, &Connections { count: 30, ..Connections::default() })?.len(), 3);

    // Root gives the same orders.
    let answer = http(&socket, "POST", "/v1/backend", order)?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    wait::until("master1 to be out", SOON, || {
        lb.status().is_ok_and(|status| status.services.iter().all(|s| s.backends[0].admin.is_some()))
    })?;

    clients_that_want_too_much(&lab, lb)
}

/// Idle, slow and greedy clients, of root and of others: everybody else is served, VRRP and the data plane go on, and they are
/// given up in the end.
fn clients_that_want_too_much(lab: &Lab, lb: &LbNode) -> TestResult {
    let socket = lb.socket_path();
    let before = owner(&lb.status()?);
    let connect = || -> io::Result<UnixStream> {
        let stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(SOON))?;
        Ok(stream)
    };
    // More than there is room for others, and many of root's.
    let begin = Instant::now();
    let mut others = as_nobody(|| (0..40).map(|_| connect()).collect::<io::Result<Vec<_>>>())??;
    let mut own = (0..40).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
    for stream in own.iter_mut().take(20) {
        stream.write_all(b"POST /v1/backend HTTP/1.1\r\nhost: xvip\r\ncontent-length: 99\r\n\r\n{")?;
    }
    for stream in own.iter_mut().skip(20).take(10) {
        stream.write_all(b"GET /v1/status HT")?;
    }
    // Those that nobody has room for are told so; root is still served.
    let mut told = 0;
    for _ in 0..10 {
        assert_eq!(owner(&lb.status()?), before);
        let answer = as_nobody(|| http(&socket, "GET", "/v1/vrrp", ""))?;
        told += usize::from(answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 503 ")));
    }
    println!("{told} of 10 others had no room, after {:.1?}", begin.elapsed());
    assert_eq!(ask(lab, &Connections { count: 30, ..Connections::default() })?.len(), 2, "master1 is out");

    // Long heads and bodies, and questions as fast as they are answered.
    for (method, path, body) in
        [("POST", "/v1/backend", "x".repeat(100_000)), ("GET", "/v1/status", String::new())]
    {
        let long = format!("{path}?{}", "y".repeat(if body.is_empty() { 100_000 } else { 0 }));
        if let Ok(answer) = http(&socket, method, &long, &body) {
            let code = if body.is_empty() { "HTTP/1.1 4" } else { "HTTP/1.1 413 " };
            assert!(answer.is_empty() || answer.starts_with(code), "{answer:.200}");
        }
    }
    let ends = |streams: &mut Vec<UnixStream>| -> io::Result<()> {
        for stream in streams {
            // What is said to them before does not matter; that there is an end does.
            match stream.read_to_end(&mut Vec::new()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    };
    ends(&mut own)?;
    ends(&mut others)?;
    println!("all were given up after {:.1?}", begin.elapsed());
    let many = Instant::now();
    let answers = as_nobody(|| (0..20).filter(|_| http(&socket, "GET", "/v1/vrrp", "").is_ok()).count())?;
    assert_eq!(answers, 20);
    assert!(
        many.elapsed() >= Duration::from_millis(19 * 50),
        "others are asked to wait: {:?}",
        many.elapsed()
    );
    assert_eq!(owner(&lb.status()?), before);
    Ok(())
}
