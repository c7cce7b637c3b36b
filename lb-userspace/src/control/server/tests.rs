//! The server against its client, and against clients that want more than their share.

use std::time::SystemTime;

use nix::unistd::Uid;

use super::*;
use crate::control::{
    client::{self, ClientError},
    protocol::{BackendAction, BackendAnswer, LeaveAnswer, RebalanceAnswer, ReloadAnswer, VipAnswer},
};
use crate::history::{Event, History, Kind};

/// A daemon whose reloads answer as given.
fn daemon(socket: &Path, answer: ReloadAnswer) -> Server {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(request) = receiver.recv().await {
            match request {
                Request::Reload(reply) => drop(reply.send(answer.clone())),
                Request::Status(reply) => drop(reply),
                Request::Leave(reply) => {
                    let _asked = reply.send(LeaveAnswer { respite_ms: Some(8500) });
                }
                Request::Vrrp(reply) => drop(reply.send(Vec::new())),
                Request::History { name, limit, reply } => {
                    let name = format!("{name:?} {limit:?}");
                    let event = Event::new(Kind::Daemon, name, SystemTime::UNIX_EPOCH);
                    drop(reply.send(History { events: vec![event] }));
                }
                Request::Vip { action, name, reply, .. } => {
                    let error = name.is_none().then(|| "say which".to_owned());
                    let instances = vec![format!("{action} {}", name.unwrap_or_default())];
                    drop(reply.send(VipAnswer { instances, patience_ms: 1, error }));
                }
                Request::Backend { order, by, reply } => {
                    let lines = vec![format!("{by}: {order:?}")];
                    let error = (order.backend == "nobody").then(|| "who is that".to_owned());
                    drop(reply.send(BackendAnswer { lines, warnings: Vec::new(), error }));
                }
                Request::Rebalance(order, reply) => {
                    let error = order.service.map(|service| format!("not {service}"));
                    drop(reply.send(RebalanceAnswer { plans: Vec::new(), error }));
                }
            }
        }
    });
    Server::bind(socket, sender).expect("bound")
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = directory.path().join("run/control.sock");
    (directory, socket)
}

fn accepted() -> ReloadAnswer {
    ReloadAnswer { applied: true, error: None, findings: Vec::new() }
}

#[tokio::test]
async fn a_question_is_answered_and_only_root_and_its_group_may_ask() {
    let (_directory, socket) = socket();
    let refused = ReloadAnswer {
        applied: false,
        error: Some("xvip.toml: 1 error".into()),
        findings: vec!["line 3".into()],
    };
    let _server = daemon(&socket, refused.clone());
    assert_eq!(client::reload(&socket).await.expect("answered"), refused);
    assert_eq!(fs::metadata(&socket).expect("there").permissions().mode() & 0o777, MODE);
    let error = client::status(&socket).await.expect_err("the reply was dropped");
    assert!(matches!(&error, ClientError::Refused(text) if text.contains("stopping")), "{error:?}");
}

#[tokio::test]
async fn a_name_arrives_as_it_was_given() {
    let (_directory, socket) = socket();
    let _server = daemon(&socket, accepted());
    let answer = client::vip(&socket, VipAction::Acquire, Some("fd10::10 & co")).await.expect("answered");
    assert_eq!((answer.instances, answer.error), (vec!["acquire fd10::10 & co".to_owned()], None));
    let answer = client::vip(&socket, VipAction::Release, None).await.expect("answered");
    assert_eq!(answer.error.as_deref(), Some("say which"));
    assert_eq!(client::vrrp(&socket).await.expect("answered"), Vec::new());
    assert_eq!(client::leave(&socket).await.expect("answered").respite_ms, Some(8500));
}

#[tokio::test]
async fn what_is_asked_of_the_history_arrives() {
    let (_directory, socket) = socket();
    let _server = daemon(&socket, accepted());
    for (name, limit) in [(None, None), (Some("fd10::10 & co"), Some(7))] {
        let history = client::history(&socket, name, limit).await.expect("answered");
        assert_eq!(history.events[0].name, format!("{name:?} {limit:?}"));
    }
}

#[tokio::test]
async fn an_order_arrives_with_who_gave_it() {
    let (_directory, socket) = socket();
    let _server = daemon(&socket, accepted());
    let order = BackendOrder {
        backend: "m1".to_owned(),
        service: Some("api".to_owned()),
        action: BackendAction::Drain { deadline_s: Some(300) },
        by: Some("ali\nce".to_owned()),
    };
    let answer = client::backend(&socket, &order).await.expect("answered");
    let own = if Uid::effective().is_root() { "root".to_owned() } else { String::new() };
    let expected = format!(" (alice): {order:?}");
    assert!(answer.lines[0].starts_with(&own) && answer.lines[0].ends_with(&expected), "{answer:?}");
    let unknown = BackendOrder { backend: "nobody".to_owned(), by: None, ..order };
    let answer = client::backend(&socket, &unknown).await.expect("answered");
    assert_eq!(answer.error.as_deref(), Some("who is that"));
    let order = RebalanceOrder { service: Some("web".to_owned()), dry_run: true, by: None };
    let answer = client::rebalance(&socket, &order).await.expect("answered");
    assert_eq!(answer.error.as_deref(), Some("not web"));
}

#[test]
fn an_order_has_the_form_that_a_person_writes() {
    for (text, action) in [
        (r#"{"backend":"m1","action":"drain"}"#, BackendAction::Drain { deadline_s: None }),
        (r#"{"backend":"m1","action":"drain","deadline_s":5}"#, BackendAction::Drain { deadline_s: Some(5) }),
        (r#"{"backend":"m1","action":"enable"}"#, BackendAction::Enable),
        (r#"{"backend":"m1","action":"weight","weight":7}"#, BackendAction::Weight { weight: Some(7) }),
        (r#"{"backend":"m1","action":"weight"}"#, BackendAction::Weight { weight: None }),
    ] {
        let order: BackendOrder = serde_json::from_str(text).expect(text);
        assert_eq!((order.backend.as_str(), order.action), ("m1", action));
    }
    for text in ["", "{}", r#"{"backend":"m1"}"#, r#"{"backend":"m1","action":"fly"}"#] {
        assert!(parse::<BackendOrder>(&Bytes::from_static(text.as_bytes())).is_err(), "{text}");
    }
}

#[tokio::test]
async fn a_live_socket_is_not_taken_and_a_dead_one_is() {
    let (_directory, socket) = socket();
    let server = daemon(&socket, accepted());
    let (sender, _receiver) = mpsc::channel(1);
    let error = Server::bind(&socket, sender).expect_err("taken");
    let pid = std::process::id() as i32;
    assert!(matches!(error, ControlError::AlreadyRunning { pid: found, .. } if found == pid), "{error}");
    assert_eq!(running(&socket).expect("asked"), Some(pid));
    drop(server);
    assert!(!socket.exists());

    // What a killed daemon leaves: a file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("bound"));
    assert_eq!(running(&socket).expect("asked"), None);
    let _server = daemon(&socket, accepted());
    assert!(client::reload(&socket).await.expect("answered").applied);
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let (_directory, socket) = socket();
    fs::create_dir_all(socket.parent().expect("a parent")).expect("created");
    fs::write(&socket, "precious").expect("written");
    let (sender, _receiver) = mpsc::channel(1);
    assert!(matches!(
        Server::bind(&socket, sender),
        Err(ControlError::NotASocket(_) | ControlError::Io { .. })
    ));
    assert_eq!(fs::read_to_string(&socket).expect("still there"), "precious");
}

#[tokio::test]
async fn a_daemon_that_is_not_there_is_named_so() {
    let (_directory, socket) = socket();
    assert!(matches!(client::status(&socket).await, Err(ClientError::NotRunning(_))));
}

/// What somebody gets who says this, byte for byte.
async fn says(asker: Asker, text: &[u8]) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (sender, mut receiver) = mpsc::channel::<Request>(1);
    tokio::spawn(async move { while receiver.recv().await.is_some() {} });
    let limits = Limits::default();
    let (mut client, server) = net::UnixStream::pair().expect("a pair");
    let permit = limits.connection(asker).expect("room");
    let serving = tokio::spawn(serve(server, router(sender, &limits).layer(Extension(asker)), permit));
    // It may answer, and be gone, before everything is said.
    let _ = client.write_all(text).await;
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer).await;
    serving.await.expect("no panic");
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(method: &str, path: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nhost: xvip\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

#[tokio::test]
async fn a_stranger_may_look_and_change_nothing() {
    let (own, _other) = net::UnixStream::pair().expect("a pair");
    let own = Asker::of(&own);
    for path in [STATUS, VRRP, HISTORY] {
        let answer = says(Asker::STRANGER, &request("GET", path, "")).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("stopping"), "{path}: {answer}");
    }
    let order = r#"{"backend":"m1","action":"disable"}"#;
    for path in [RELOAD, LEAVE, VIP_RELEASE, VIP_ACQUIRE, BACKEND, REBALANCE] {
        let answer = says(Asker::STRANGER, &request("POST", path, order)).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{path}: {answer}");
        let expected = format!(
            "{{\"error\":\"uid {} may look, but only root may change something: use sudo, or become root\"}}",
            u32::MAX - 7
        );
        assert!(answer.ends_with(&expected), "{path}: {answer}");
        let answer = says(own, &request("POST", path, order)).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
    }
    assert!(says(Asker::STRANGER, &request("DELETE", STATUS, "")).await.starts_with("HTTP/1.1 403 "));
    assert!(says(own, &request("DELETE", STATUS, "")).await.starts_with("HTTP/1.1 405 "));
    assert!(says(own, &request("GET", "/v2", "")).await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn what_is_too_long_or_no_request_is_refused() {
    let (own, _other) = net::UnixStream::pair().expect("a pair");
    let own = Asker::of(&own);
    let body = format!(r#"{{"backend":"{}","action":"enable"}}"#, "m".repeat(BODY_AT_MOST));
    let answer = says(own, &request("POST", BACKEND, &body)).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("is longer than 16384 bytes"), "{answer}");
    let head = format!("GET {STATUS} HTTP/1.1\r\nhost: xvip\r\nx: {}\r\n\r\n", "x".repeat(2 * HEAD_AT_MOST));
    let answer = says(own, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..200).map(|number| format!("x-{number}: y\r\n")).collect();
    let answer = says(own, format!("GET {STATUS} HTTP/1.1\r\nhost: xvip\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = says(own, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let answer = says(own, &request("POST", BACKEND, "{")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("the body is not understood"), "{answer}");
}

/// Takes as long as the limits say.
#[tokio::test]
async fn who_is_slow_is_given_up() {
    let (own, _other) = net::UnixStream::pair().expect("a pair");
    let own = Asker::of(&own);
    let half =
        format!("POST {BACKEND} HTTP/1.1\r\nhost: xvip\r\nconnection: close\r\ncontent-length: 9\r\n\r\n{{");
    let begin = std::time::Instant::now();
    let (silent, slow_head, slow_body) =
        tokio::join!(says(own, b""), says(own, b"GET /v1/st"), says(own, half.as_bytes()));
    assert_eq!(silent, "");
    assert!(slow_head.is_empty() || slow_head.starts_with("HTTP/1.1 408 "), "{slow_head}");
    assert!(
        slow_body.starts_with("HTTP/1.1 408 ") && slow_body.contains("has not come in time"),
        "{slow_body}"
    );
    assert!(begin.elapsed() >= HEAD_WITHIN && begin.elapsed() < CONNECTION_WITHIN, "{:?}", begin.elapsed());
}

#[tokio::test]
async fn idle_connections_do_not_keep_others_out() {
    let (_directory, socket) = socket();
    let _server = daemon(&socket, accepted());
    let mut idle = Vec::new();
    for _ in 0..super::super::limits::MASTERS - 1 {
        idle.push(net::UnixStream::connect(&socket).await.expect("somebody listens"));
    }
    assert!(client::reload(&socket).await.expect("answered").applied);
    // One more than there is room for is told so at once. Those that were given up meanwhile are replaced.
    let begin = std::time::Instant::now();
    let refused = loop {
        idle.push(net::UnixStream::connect(&socket).await.expect("somebody listens"));
        if let Err(ClientError::Refused(error)) = client::reload(&socket).await {
            break error;
        }
        assert!(begin.elapsed() < CONNECTION_WITHIN);
    };
    assert_eq!(refused, "too many connections at this time");
    drop(idle);
    let begin = std::time::Instant::now();
    while !client::reload(&socket).await.is_ok_and(|answer| answer.applied) {
        assert!(begin.elapsed() < CONNECTION_WITHIN);
    }
}
