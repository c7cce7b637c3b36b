use std::net::{Ipv4Addr, Ipv6Addr};

use tokio::net::TcpListener;

use super::*;
use crate::{
    config::model::{TlsVerify, Verify},
    health::{
        fake_backend::{Behaviour, End, FakeBackend, HANGS, Pki, nobody},
        rise_fall::DownKind,
    },
};

/// For checks that must get an answer: never the reason why one ends.
const PATIENT: Duration = HANGS;
/// For checks that never get one.
const BRIEF: Duration = Duration::from_millis(300);

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn no_verify() -> TlsVerify {
    TlsVerify { verify: Verify::None, ca_file: None, client_cert: None, client_key: None }
}

fn by_ca(pki: &Pki) -> TlsVerify {
    TlsVerify { verify: Verify::Ca, ca_file: Some(pki.path("ca.pem")), ..no_verify() }
}

fn with_client_certificate(pki: &Pki, tls: TlsVerify) -> TlsVerify {
    TlsVerify { client_cert: Some(pki.path("client.pem")), client_key: Some(pki.path("client.key")), ..tls }
}

fn https(tls: TlsVerify) -> Check {
    Check::Https { path: "/readyz?verbose".into(), expect_status: vec![200], tls, token_file: None }
}

fn http() -> Check {
    Check::Http { path: "/readyz".into(), expect_status: vec![200, 204] }
}

fn probe(check: &Check, timeout: Duration, backend: SocketAddr) -> Probe {
    Probe::new(&Recipe::read(check, timeout).expect("a usable check"), backend).expect("a usable check")
}

async fn once(check: &Check, backend: &FakeBackend) -> Result<Answer, ProbeError> {
    probe(check, PATIENT, backend.address).check(Connection::Kept).await.result
}

#[tokio::test]
async fn every_method_passes_on_a_healthy_backend() {
    let pki = Pki::new();
    let clear = FakeBackend::start(None, Behaviour::Http).await;
    let tls = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    assert_eq!(once(&Check::Tcp, &clear).await, Ok(Answer::Connected));
    assert_eq!(once(&http(), &clear).await, Ok(Answer::Status(200)));
    assert_eq!(once(&Check::Tls { tls: no_verify() }, &tls).await, Ok(Answer::Handshake));
    assert_eq!(once(&Check::Tls { tls: by_ca(&pki) }, &tls).await, Ok(Answer::Handshake));
    assert_eq!(once(&https(no_verify()), &tls).await, Ok(Answer::Status(200)));
    assert_eq!(once(&https(by_ca(&pki)), &tls).await, Ok(Answer::Status(200)));
    // Four orderly ends, and nothing for the backend's log.
    let log = tls.until(|log| log.ended.len() == 4).await;
    assert_eq!(log.ended, [End::CloseNotify; 4]);
    assert_eq!(log.handshake_errors, [""; 0]);
}

#[tokio::test]
async fn a_check_that_speaks_tls_knows_when_the_certificate_ends() {
    let pki = Pki::new();
    let clear = FakeBackend::start(None, Behaviour::Http).await;
    let tls = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    // As long as they last that the tests make.
    let end = humantime::parse_rfc3339("4096-01-01T00:00:00Z").ok();
    for (check, backend, expected) in [
        (Check::Tcp, &clear, None),
        (http(), &clear, None),
        (Check::Tls { tls: no_verify() }, &tls, end),
        (https(by_ca(&pki)), &tls, end),
    ] {
        let mut probe = probe(&check, PATIENT, backend.address);
        // The second one over the kept connection.
        for _ in 0..2 {
            let outcome = probe.check(Connection::Kept).await;
            assert!(outcome.result.is_ok(), "{check:?}: {outcome:?}");
            assert_eq!(outcome.certificate, expected, "{check:?}");
        }
    }
}

#[tokio::test]
async fn every_method_passes_on_a_healthy_ipv6_backend() {
    let pki = Pki::new();
    let at = Ipv6Addr::LOCALHOST.into();
    let clear = FakeBackend::start_at(at, None, Behaviour::Http).await;
    let tls = FakeBackend::start_at(at, Some(pki.server(&["::1"], false)), Behaviour::Http).await;
    assert_eq!(once(&Check::Tcp, &clear).await, Ok(Answer::Connected));
    assert_eq!(once(&http(), &clear).await, Ok(Answer::Status(200)));
    assert_eq!(once(&Check::Tls { tls: by_ca(&pki) }, &tls).await, Ok(Answer::Handshake));
    assert_eq!(once(&https(by_ca(&pki)), &tls).await, Ok(Answer::Status(200)));
    let host = clear.log().requests.remove(0).1["host"].clone();
    assert_eq!(host, format!("[::1]:{}", clear.address.port()));
    // A certificate for another address, and nobody there.
    let other = FakeBackend::start_at(at, Some(pki.server(&["127.0.0.1", "::2"], false)), Behaviour::Http);
    let error = once(&https(by_ca(&pki)), &other.await).await.expect_err("a failure");
    assert!(matches!(error, ProbeError::Certificate(_)), "{error}");
    // Bound, so that nobody else gets the port, and not listening.
    let unused = TcpSocket::new_v6().expect("a socket");
    unused.bind(SocketAddr::new(at, 0)).expect("a port");
    let address = unused.local_addr().expect("bound");
    let outcome = probe(&Check::Tcp, PATIENT, address).check(Connection::Kept).await;
    assert_eq!(outcome.result, Err(ProbeError::Refused));
}

#[test]
fn a_packet_filter_on_the_way_is_no_fault_of_this_node() {
    let of = |code, backend: &str| {
        let backend = backend.parse().expect("an address");
        connect_error(&io::Error::from_raw_os_error(code), backend, BRIEF)
    };
    let (v4, v6) = ("192.0.2.1:6443", "[2001:db8::1]:6443");
    assert_eq!(of(libc::EACCES, v6), ProbeError::Unreachable(io::ErrorKind::PermissionDenied));
    assert_eq!(of(libc::EHOSTUNREACH, v6), ProbeError::Unreachable(io::ErrorKind::HostUnreachable));
    assert_eq!(of(libc::ENETUNREACH, v6), ProbeError::Unreachable(io::ErrorKind::NetworkUnreachable));
    assert_eq!(of(libc::ECONNREFUSED, v6), ProbeError::Refused);
    // Our own packet filter; and a prohibiting route of our own.
    for (code, backend) in
        [(libc::EPERM, v6), (libc::EPERM, v4), (libc::EACCES, v4), (libc::EADDRNOTAVAIL, v6)]
    {
        assert!(matches!(of(code, backend), ProbeError::Local(_)), "{code} {backend}");
    }
}

#[tokio::test]
async fn the_request_says_who_asks() {
    let backend = FakeBackend::start(None, Behaviour::Http).await;
    once(&http(), &backend).await.expect("a pass");
    let (path, headers) = backend.log().requests.remove(0);
    assert_eq!(path, "/readyz");
    assert_eq!(headers["host"], backend.address.to_string());
    assert_eq!(headers["user-agent"], format!("xvip/{} health", env!("CARGO_PKG_VERSION")));
    assert!(!headers.contains_key("authorization"));
}

#[tokio::test]
async fn the_status_decides_and_the_connection_stays() {
    let pki = Pki::new();
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    let mut probe = probe(&https(no_verify()), PATIENT, backend.address);
    assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    backend.set_status(500);
    let error = probe.check(Connection::Kept).await.result.expect_err("a failure");
    assert_eq!(error, ProbeError::Status { got: 500, expected: vec![200] });
    assert_eq!(error.kind(), DownKind::ShuttingDown);
    backend.set_status(200);
    assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    assert_eq!(backend.log().accepted, 1);
}

#[tokio::test]
async fn nobody_listens() {
    let pki = Pki::new();
    for check in [Check::Tcp, Check::Tls { tls: by_ca(&pki) }, http(), https(no_verify())] {
        let outcome = probe(&check, PATIENT, nobody()).check(Connection::Kept).await;
        assert_eq!(outcome.result, Err(ProbeError::Refused), "{check:?}");
    }
}

#[tokio::test]
async fn a_full_accept_queue_is_a_black_hole() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
    // Room for one, and the kernel drops the SYN of a second one.
    let listener = socket.listen(0).expect("a listener");
    let address = listener.local_addr().expect("bound");
    let _first = TcpStream::connect(address).await.expect("room for one");
    for check in [Check::Tcp, http(), https(no_verify())] {
        let outcome = probe(&check, BRIEF, address).check(Connection::Kept).await;
        let expected = ProbeError::Timeout { after: BRIEF, phase: Phase::Tcp };
        assert_eq!(outcome.result, Err(expected), "{check:?}");
        assert!(outcome.latency >= BRIEF);
    }
}

#[tokio::test]
async fn an_accepted_connection_without_a_word_is_a_black_hole() {
    let backend = FakeBackend::start(None, Behaviour::Silent).await;
    for check in [Check::Tls { tls: no_verify() }, http(), https(no_verify())] {
        let error = probe(&check, BRIEF, backend.address).check(Connection::Kept).await.result;
        let error = error.expect_err("a failure");
        assert!(matches!(error, ProbeError::Timeout { after: BRIEF, .. }), "{check:?}: {error}");
        assert_eq!(error.kind(), DownKind::Dead);
    }
}

#[tokio::test]
async fn a_kept_connection_without_an_answer_is_a_failure_and_not_used_again() {
    let backend = FakeBackend::start(None, Behaviour::HangOnSecond(OK.into())).await;
    let mut patient = probe(&http(), PATIENT, backend.address);
    assert_eq!(patient.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    patient.timeout = BRIEF;
    let result = patient.check(Connection::Kept).await.result;
    assert_eq!(result, Err(ProbeError::Timeout { after: BRIEF, phase: Phase::Http }));
    patient.timeout = PATIENT;
    assert_eq!(patient.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    assert_eq!(backend.log().accepted, 2);
}

#[tokio::test]
async fn the_tcp_check_usually_ends_before_the_program_there_hears_of_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut probe = probe(&Check::Tcp, PATIENT, address);
    // "Usually": a starved machine may be slower than the delayed ACK. Connections are accepted in order, so the marker
    // coming first means that the check was not seen.
    let mut unseen = false;
    for _ in 0..50 {
        assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Connected));
        let marker = TcpStream::connect(address).await.expect("a listener");
        let (mut accepted, peer) = listener.accept().await.expect("a connection");
        if peer == marker.local_addr().expect("connected") {
            unseen = true;
            break;
        }
        let end = accepted.read(&mut [0; 1]).await.expect_err("the RST");
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
        listener.accept().await.expect("the marker");
    }
    assert!(unseen);
}

#[tokio::test]
async fn the_certificate_must_be_of_the_ca_and_name_the_address() {
    let pki = Pki::new();
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    let others = [
        (Pki::named("etcd"), "certificate: unknown issuer"),
        (Pki::new(), "certificate: bad signature (another CA with the same name?)"),
    ];
    for (other, words) in others {
        for check in [https(by_ca(&other)), Check::Tls { tls: by_ca(&other) }] {
            let error = once(&check, &backend).await.expect_err("a failure");
            assert_eq!(error.to_string(), words);
            assert_eq!(error.kind(), DownKind::ShuttingDown);
        }
    }
    let names = &["127.0.0.2", "kubernetes.default.svc"];
    let backend = FakeBackend::start(Some(pki.server(names, false)), Behaviour::Http).await;
    let error = once(&https(by_ca(&pki)), &backend).await.expect_err("a failure").to_string();
    assert!(error.starts_with("certificate: not valid for 127.0.0.1; it names "), "{error}");
    assert!(error.contains("kubernetes.default.svc"), "{error}");
}

#[tokio::test]
async fn a_client_certificate_that_is_asked_for() {
    let (pki, other) = (Pki::new(), Pki::new());
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], true)), Behaviour::Http).await;

    let ours = with_client_certificate(&pki, by_ca(&pki));
    assert_eq!(once(&https(ours.clone()), &backend).await, Ok(Answer::Status(200)));
    assert_eq!(once(&Check::Tls { tls: ours }, &backend).await, Ok(Answer::Handshake));

    let error = once(&https(by_ca(&pki)), &backend).await.expect_err("a failure");
    assert_eq!(error.to_string(), "TLS alert from the backend: certificate required");
    assert_eq!(error.kind(), DownKind::ShuttingDown);
    let strange = with_client_certificate(&other, by_ca(&pki));
    let error = once(&https(strange), &backend).await.expect_err("a failure");
    assert!(matches!(error, ProbeError::Alert(_)), "{error}");
}

#[tokio::test]
async fn the_token_is_read_for_each_connection_and_again_after_401() {
    let pki = Pki::new();
    let token_file = pki.file("token", "first\n");
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    let check = Check::Https {
        path: "/readyz".into(),
        expect_status: vec![200],
        tls: by_ca(&pki),
        token_file: Some(token_file.clone()),
    };
    let mut probe = probe(&check, PATIENT, backend.address);
    probe.check(Connection::Kept).await.result.expect("a pass");
    pki.file("token", "second\n");
    probe.check(Connection::Kept).await.result.expect("a pass");
    backend.set_status(401);
    probe.check(Connection::Kept).await.result.expect_err("401 is not 200");
    backend.set_status(200);
    probe.check(Connection::Kept).await.result.expect("a pass");
    let sent: Vec<_> =
        backend.log().requests.iter().map(|(_, headers)| headers["authorization"].clone()).collect();
    assert_eq!(sent, ["Bearer first", "Bearer first", "Bearer first", "Bearer second"]);
    assert_eq!(backend.log().accepted, 2);

    // A fault of this node: out, but not dead, and the words do not hold the token.
    pki.file("token", "two\nwords");
    let error = probe.check(Connection::Fresh).await.result.expect_err("no usable token");
    assert_eq!(error.kind(), DownKind::ShuttingDown);
    let expected = format!("token_file {}: holds something else than one token", token_file.display());
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn one_connection_for_many_checks_then_a_new_one() {
    let pki = Pki::new();
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    let mut probe = probe(&https(by_ca(&pki)), PATIENT, backend.address);
    for n in 1..=2 * CHECKS_PER_CONNECTION {
        assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
        assert_eq!(backend.log().accepted as u32, n.div_ceil(CHECKS_PER_CONNECTION), "check {n}");
    }
    assert_eq!(probe.check(Connection::Fresh).await.result, Ok(Answer::Status(200)));
    probe.close().await;
    let log = backend.until(|log| log.ended.len() == 3).await;
    assert_eq!((log.accepted, log.requests.len()), (3, 2 * CHECKS_PER_CONNECTION as usize + 1));
    assert_eq!(log.ended, [End::CloseNotify; 3]);
    assert_eq!(log.handshake_errors, [""; 0]);
}

#[tokio::test]
async fn a_server_may_close_a_kept_connection() {
    let pki = Pki::new();
    for behaviour in [Behaviour::CloseIdle(OK.into()), Behaviour::CloseOnSecond(OK.into())] {
        for tls in [None, Some(pki.server(&["127.0.0.1"], false))] {
            let check = if tls.is_some() { https(by_ca(&pki)) } else { http() };
            let backend = FakeBackend::start(tls, behaviour.clone()).await;
            let mut probe = probe(&check, PATIENT, backend.address);
            for _ in 0..5 {
                assert_eq!(
                    probe.check(Connection::Kept).await.result,
                    Ok(Answer::Status(200)),
                    "{behaviour:?}"
                );
            }
            assert_eq!(backend.log().accepted, 5);
        }
    }
}

#[tokio::test]
async fn a_dead_process_is_seen_in_spite_of_the_kept_connection() {
    let pki = Pki::new();
    let backend = FakeBackend::start(Some(pki.server(&["127.0.0.1"], false)), Behaviour::Http).await;
    let mut probe = probe(&https(by_ca(&pki)), PATIENT, backend.address);
    probe.check(Connection::Kept).await.result.expect("a pass");
    drop(backend);
    assert_eq!(probe.check(Connection::Kept).await.result, Err(ProbeError::Refused));
}

#[tokio::test]
async fn a_fresh_check_sees_a_listener_that_a_kept_connection_hides() {
    let backend = FakeBackend::start(None, Behaviour::Http).await;
    let mut probe = probe(&http(), PATIENT, backend.address);
    probe.check(Connection::Kept).await.result.expect("a pass");
    backend.set_behaviour(Behaviour::Slam);
    assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    let error = probe.check(Connection::Fresh).await.result.expect_err("a failure");
    assert_eq!(error.kind(), DownKind::Dead);
    probe.check(Connection::Kept).await.result.expect_err("the old connection is gone");
}

#[tokio::test]
async fn what_is_not_tls() {
    let pki = Pki::new();
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"HTTP/1.0 400 Bad Request\r\n\r\n",
        &[0; 64],
        b"\x16\x03\x03\xff\xff",
    ] {
        let backend = FakeBackend::start(None, Behaviour::Babble(bytes)).await;
        for check in [Check::Tls { tls: by_ca(&pki) }, https(no_verify())] {
            let error = once(&check, &backend).await.expect_err("a failure");
            assert!(matches!(error, ProbeError::Tls(_)), "{bytes:?}: {error}");
            assert_eq!(error.kind(), DownKind::Dead);
        }
    }
    let backend = FakeBackend::start(None, Behaviour::Slam).await;
    for check in [Check::Tls { tls: by_ca(&pki) }, https(no_verify()), http()] {
        let error = once(&check, &backend).await.expect_err("a failure");
        assert!(matches!(error, ProbeError::Closed(_) | ProbeError::Reset(_)), "{check:?}: {error}");
        assert_eq!(error.kind(), DownKind::Dead);
    }
}

#[tokio::test]
async fn what_is_not_http() {
    let garbage: &[&[u8]] = &[
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/3 200 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: one\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
    ];
    for bytes in garbage {
        let backend = FakeBackend::start(None, Behaviour::Bytes(bytes.to_vec())).await;
        let error = once(&http(), &backend).await.expect_err("a failure");
        assert!(matches!(error, ProbeError::NotHttp(_)), "{}: {error:?}", String::from_utf8_lossy(bytes));
        assert_eq!(error.kind(), DownKind::ShuttingDown);
    }
}

#[tokio::test]
async fn a_head_without_end() {
    let mut head = b"HTTP/1.1 200 OK\r\nx-long: ".to_vec();
    head.resize(4 * HEAD_LIMIT, b'x');
    let backend = FakeBackend::start(None, Behaviour::Bytes(head)).await;
    assert_eq!(once(&http(), &backend).await, Err(ProbeError::HeadTooLarge));

    let mut many = b"HTTP/1.1 200 OK\r\n".to_vec();
    for n in 0..2000 {
        many.extend(format!("x-{n}: y\r\n").bytes());
    }
    many.extend(b"\r\n");
    let backend = FakeBackend::start(None, Behaviour::Bytes(many)).await;
    assert_eq!(once(&http(), &backend).await, Err(ProbeError::HeadTooLarge));
}

#[tokio::test]
async fn a_body_without_end_costs_the_connection_but_not_the_check() {
    let pki = Pki::new();
    let heads: &[&[u8]] =
        &[b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n"];
    for head in heads {
        let tls = Some(pki.server(&["127.0.0.1"], false));
        let backend = FakeBackend::start(tls, Behaviour::Endless(head.to_vec())).await;
        let mut probe = probe(&https(by_ca(&pki)), PATIENT, backend.address);
        for n in 1..=2 {
            assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
            assert!(probe.kept.is_none());
            backend.until(|log| log.accepted == n && log.ended.len() == n).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_hold_up_the_check() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n";
    let backend = FakeBackend::start(None, Behaviour::Bytes(head.to_vec())).await;
    let mut probe = probe(&http(), PATIENT, backend.address);
    assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
    assert!(probe.kept.is_none());
}

#[tokio::test]
async fn a_check_dropped_half_way_leaves_nothing_behind() {
    let backend = FakeBackend::start(None, Behaviour::HangOnSecond(OK.into())).await;
    let mut probe = probe(&http(), PATIENT, backend.address);
    probe.check(Connection::Kept).await.result.expect("a pass");
    timeout(BRIEF, probe.check(Connection::Kept)).await.expect_err("no answer comes");
    backend.until(|log| log.ended.len() == 1).await;
    assert_eq!(probe.check(Connection::Kept).await.result, Ok(Answer::Status(200)));
}

#[tokio::test]
async fn ipv6_and_the_host_header() {
    let Ok(listener) = TcpListener::bind("[::1]:0").await else {
        // Without IPv6 on this machine the header is still made from the address.
        let http = Http::new("/", &[200], None, None, "[fe80::1%3]:6443".parse().expect("an address"));
        assert_eq!(http.expect("usable").host, "[fe80::1]:6443");
        return;
    };
    let address = listener.local_addr().expect("bound");
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = vec![0; 1024];
        let length = stream.read(&mut head).await.expect("a request");
        stream.write_all(OK).await.expect("an answer");
        String::from_utf8_lossy(&head[..length]).into_owned()
    });
    assert_eq!(
        probe(&http(), PATIENT, address).check(Connection::Kept).await.result,
        Ok(Answer::Status(200))
    );
    let request = server.await.expect("a request");
    assert!(request.contains(&format!("host: [::1]:{}\r\n", address.port())), "{request}");
}

#[test]
fn a_path_that_cannot_be_asked_for() {
    for path in ["", "readyz", "/a b", "/a\r\nb", "http://elsewhere/"] {
        let check = Check::Http { path: path.into(), expect_status: vec![200] };
        let made = Recipe::read(&check, PATIENT)
            .and_then(|recipe| Probe::new(&recipe, (Ipv4Addr::LOCALHOST, 1).into()));
        let error = made.expect_err("refused");
        assert!(matches!(error, SetupError::Path { .. }), "{path:?}: {error}");
    }
}
