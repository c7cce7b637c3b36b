use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::unistd::{Uid, User};

use super::*;
use crate::{
    config::model::Topic,
    history::{Kind, Severity},
};

const SOON: Duration = Duration::from_secs(30);

fn down(name: &str) -> Event {
    Event::new(Kind::Backend, name, SystemTime::UNIX_EPOCH)
        .of_service("api")
        .at_address("172.16.0.4:6443")
        .changed("up", "down (dead)")
        .because("connection refused")
        .grave(Severity::Warn)
}

fn hook(action: HookAction) -> Hook {
    let on = vec![Topic::Vrrp, Topic::Backend, Topic::Problem];
    Hook { action, timeout: SOON, on, names: Vec::new() }
}

fn shell(text: &str) -> Hook {
    let user = User::from_uid(Uid::effective()).expect("asked").expect("we are somebody").name;
    let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
    hook(HookAction::Command { command, user })
}

fn url(url: String, ca_file: Option<PathBuf>) -> Hook {
    hook(HookAction::Url { url, ca_file })
}

fn running(settings: &[Hook]) -> Hooks {
    let mut hooks = Hooks::default();
    hooks.configure("lb1", settings);
    hooks
}

async fn done(hooks: &Hooks) -> Vec<HookStatus> {
    settle(|| hooks.are_done(), SOON).await;
    assert!(hooks.are_done(), "{:?}", hooks.status());
    hooks.status()
}

#[test]
fn a_hook_gets_what_it_asks_for() {
    let vrrp = Event::new(Kind::Vrrp, "main", SystemTime::UNIX_EPOCH)
        .of_instance("main")
        .with_vips(&[[172, 16, 0, 10].into()]);
    let check = Event::new(Kind::Check, "m1", SystemTime::UNIX_EPOCH).of_service("api");
    let mut all = shell("true");
    assert!(wants(&all, &down("m1")) && wants(&all, &vrrp) && !wants(&all, &check));
    all.on = vec![Topic::Vrrp];
    assert!(!wants(&all, &down("m1")) && wants(&all, &vrrp));
    let mut some = shell("true");
    for (names, backend, router) in [
        (&["m1"][..], true, false),
        (&["api"], true, false),
        (&["172.16.0.10", "m1"], true, true),
        (&["m2"], false, false),
    ] {
        some.names = names.iter().copied().map(str::to_owned).collect();
        assert_eq!((wants(&some, &down("m1")), wants(&some, &vrrp)), (backend, router), "{names:?}");
    }
}

#[tokio::test]
async fn a_program_gets_the_events_in_order_one_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("told");
    let text = format!(
        "read -r line; test -e {0}.lock && echo twice >> {0}; touch {0}.lock; \
         echo \"$XVIP_NODE $XVIP_EVENT $XVIP_NAME $XVIP_SERVICE $XVIP_ADDRESS $XVIP_FROM>$XVIP_TO $XVIP_REASON $XVIP_VIPS|$line\" >> {0}; \
         sleep 0.05; rm {0}.lock",
        file.display()
    );
    let hooks = running(&[shell(&text)]);
    for n in 0..5 {
        hooks.offer(&down(&format!("m{n}")));
    }
    let status = done(&hooks).await;
    assert_eq!((status[0].told, status[0].failed, status[0].dropped, status[0].waiting), (5, 0, 0, 0));
    let told = std::fs::read_to_string(&file).expect("told");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(lines.len(), 5, "{told}");
    for (n, line) in lines.iter().enumerate() {
        let (words, json) = line.split_once('|').expect("both");
        assert_eq!(words, format!("lb1 backend m{n} api 172.16.0.4:6443 up>down (dead) connection refused "));
        let notice: Notice = serde_json::from_str(json).expect("JSON");
        assert_eq!(notice, Notice { node: "lb1".to_owned(), event: down(&format!("m{n}")) });
    }
}

#[tokio::test]
async fn one_that_fails_is_counted_and_the_next_event_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let flag = directory.path().join("flag");
    let hooks = running(&[shell(&format!(
        "test -e {0} || {{ touch {0}; echo no such pager; exit 3; }}",
        flag.display()
    ))]);
    hooks.offer(&down("m1"));
    let status = done(&hooks).await.remove(0);
    assert_eq!((status.told, status.failed), (0, 1));
    assert_eq!(status.last_error.as_deref(), Some("exit 3: no such pager"));
    hooks.offer(&down("m1"));
    let status = done(&hooks).await.remove(0);
    assert_eq!((status.told, status.failed, status.last_error), (1, 1, None));
}

#[tokio::test]
async fn one_that_hangs_delays_nobody_and_its_queue_is_bounded() {
    let mut stuck = shell("sleep 6000");
    stuck.timeout = Duration::from_secs(6000);
    let mut late = shell("sleep 6000");
    late.timeout = Duration::from_millis(300);
    let hooks = running(&[stuck, shell("true"), late]);
    let count = WAITING as u64 + 50;
    for n in 0..count {
        hooks.offer(&down(&format!("m{n}")));
        // Each has its turn.
        tokio::task::yield_now().await;
    }
    // It has one in its hands, at most, and nobody waited for it: what found no room is gone.
    let stuck = hooks.status().remove(0);
    assert!((WAITING as u64..=WAITING as u64 + 1).contains(&stuck.waiting), "{stuck:?}");
    assert_eq!((stuck.dropped + stuck.waiting, stuck.told, stuck.failed), (count, 0, 0), "{stuck:?}");
    let have_turns = || hooks.status()[1].told > 0 && hooks.status()[2].failed > 0;
    settle(have_turns, 10 * SOON).await;
    let late = hooks.status().remove(2);
    assert!(late.failed > 0 && late.last_error.as_deref() == Some("no end within 300ms"), "{late:?}");
    assert!(hooks.status()[1].told > 0, "{:?}", hooks.status());
}

#[tokio::test]
async fn a_queue_that_has_room_again_may_be_full_again() {
    let (queue, mut notices) = mpsc::channel(1);
    let hook =
        RunningHook { settings: shell("true"), queue, counts: Arc::default(), task: tokio::spawn(async {}) };
    let notice = || Notice { node: "lb1".to_owned(), event: down("m1") };
    let is_full = || hook.counts.is_full.load(Ordering::Relaxed);
    for (full, dropped) in [(false, 0), (true, 1), (true, 2)] {
        hook.offer(notice());
        assert_eq!((is_full(), hook.status().dropped, hook.status().waiting), (full, dropped, 1));
    }
    // What waited is taken.
    notices.recv().await.expect("one");
    hook.offer(notice());
    assert!(!is_full(), "the next time is said again");
}

#[test]
fn what_there_are_several_of_is_separated_by_blanks() {
    let event = down("m1").with_vips(&[[172, 16, 0, 10].into(), [172, 16, 0, 11].into()]);
    let environment = environment(&Notice { node: "lb1".to_owned(), event });
    assert!(environment.contains(&("XVIP_VIPS", "172.16.0.10 172.16.0.11".to_owned())), "{environment:?}");
}

/// What is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_failure_is_said_once_and_so_is_its_end() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let directory = tempfile::tempdir().expect("a directory");
    let flag = directory.path().join("flag");
    let hooks = running(&[shell(&format!("test -e {}", flag.display()))]);
    for round in 0..4 {
        if round == 2 {
            std::fs::write(&flag, "").expect("written");
        }
        hooks.offer(&down("m1"));
        done(&hooks).await;
    }
    assert_eq!((hooks.status()[0].failed, hooks.status()[0].told), (2, 2));
    let log = String::from_utf8(log.0.lock().expect("not poisoned").clone()).expect("text");
    for said in ["the hook was not told of an event", "the hook is told again"] {
        assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
    }
}

#[tokio::test]
async fn a_reload_keeps_those_that_stay() {
    let (one, other) = (shell("true"), shell("exit 0"));
    let mut hooks = running(&[one.clone(), other.clone()]);
    hooks.offer(&down("m1"));
    done(&hooks).await;
    hooks.configure("lb1", &[other, shell("exit 1"), one]);
    let told: Vec<u64> = hooks.status().iter().map(|status| status.told).collect();
    assert_eq!(told, [1, 0, 1]);
    hooks.configure("lb1", &[]);
    assert!(hooks.status().is_empty() && hooks.are_done());
}

/// Answers each of some requests, and says what it was.
fn web_server(
    answers: &'static [&'static str],
) -> (std::net::SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = std::thread::spawn(move || {
        let serve = |answer: &&str| {
            let (mut stream, _) = listener.accept().expect("a client");
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}\n") {
                let read = stream.read(&mut chunk).expect("a request");
                assert!(read > 0, "{}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&chunk[..read]);
            }
            stream.write_all(answer.as_bytes()).expect("answered");
            String::from_utf8(request).expect("text")
        };
        answers.iter().map(serve).collect()
    });
    (address, serving)
}

#[tokio::test]
async fn an_event_is_posted_as_json() {
    let (address, serving) =
        web_server(&["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n"]);
    let hooks = running(&[url(format!("http://{address}/hook?token=hunter2"), None)]);
    hooks.offer(&down("m1"));
    hooks.offer(&down("m2"));
    let status = done(&hooks).await.remove(0);
    assert_eq!((status.told, status.failed), (1, 1));
    assert_eq!(
        (status.name, status.last_error.as_deref()),
        (format!("http://{address}"), Some("status 500"))
    );
    let requests = serving.join().expect("served");
    let (head, body) = requests[0].split_once("\r\n\r\n").expect("a request");
    assert!(head.starts_with("POST /hook?token=hunter2 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {address}\r\n")) && head.contains("content-type: application/json"),
        "{head}"
    );
    let notice: Notice = serde_json::from_str(body).expect("JSON");
    assert_eq!((notice.node.as_str(), notice.event), ("lb1", down("m1")));
}

#[tokio::test]
async fn what_cannot_be_reached_says_why_and_keeps_the_secret() {
    // Bound, so that it is nobody else's, and not listening.
    let refusing = tokio::net::TcpSocket::new_v4().expect("a socket");
    refusing.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = refusing.local_addr().expect("bound");
    let nowhere = url(format!("http://{address}/hunter2"), None);
    let no_ca = url(format!("https://{address}/hunter2"), Some(Path::new("/nowhere/ca.crt").to_owned()));
    let hooks = running(&[nowhere, no_ca]);
    hooks.offer(&down("m1"));
    for status in done(&hooks).await {
        let error = status.last_error.clone().expect("it failed");
        assert!(error.starts_with("no connection to 127.0.0.1 port "), "{error}");
        assert!(!format!("{status:?}").contains("hunter2"), "{status:?}");
    }
}

#[tokio::test]
async fn an_https_server_must_chain_to_the_ca_file() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).expect("written");
        path
    };
    let (right, wrong) = (write("right.crt", made.cert.pem()), write("wrong.crt", other.cert.pem()));
    let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("usable");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let (mut request, mut chunk) = (Vec::new(), [0; 4096]);
            while !request.ends_with(b"}\n") {
                let read = stream.read(&mut chunk).await.expect("a request");
                request.extend_from_slice(&chunk[..read]);
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("answered");
        }
    });
    let to = |ca: &PathBuf| url(format!("https://localhost:{port}/"), Some(ca.clone()));
    let hooks = running(&[to(&right), to(&wrong)]);
    hooks.offer(&down("m1"));
    let status = done(&hooks).await;
    assert_eq!((status[0].told, &status[0].last_error), (1, &None));
    let error = status[1].last_error.clone().expect("refused");
    assert!(status[1].failed == 1 && error.starts_with("TLS: "), "{error}");
    server.abort();
}
