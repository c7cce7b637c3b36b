//! The daemon's end of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, RawQuery, State, connect_info::Connected},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::{Uid, User},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    net::UnixListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::protocol::{
    BACKEND, BackendOrder, HISTORY, LEAVE, REBALANCE, RELOAD, RebalanceOrder, Request, STATUS, VIP_ACQUIRE,
    VIP_RELEASE, VRRP, VipAction, queried_history, queried_name,
};

/// Root and its group; the group may be changed on the directory to let others look.
const MODE: u32 = 0o660;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Another daemon answers there.
    #[error("xvip is already running (pid {pid}) with the control socket {}", socket.display())]
    AlreadyRunning {
        /// Its process.
        pid: i32,
        /// The socket.
        socket: PathBuf,
    },
    /// Something else is in the way.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("control socket {}: {error}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// The process that answers on a socket, if one does.
pub fn running(socket: &Path) -> Result<Option<i32>, ControlError> {
    match UnixStream::connect(socket) {
        Ok(stream) => {
            let credentials = getsockopt(&stream, PeerCredentials).map_err(io::Error::from);
            credentials.map(|credentials| Some(credentials.pid())).map_err(|error| failed(socket, error))
        }
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
            _ => Err(failed(socket, error)),
        },
    }
}

fn failed(socket: &Path, error: io::Error) -> ControlError {
    ControlError::Io { socket: socket.to_owned(), error }
}

/// The open socket; removed when dropped.
#[derive(Debug)]
pub struct Server {
    socket: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
        // Whoever comes next replaces it anyway.
        let _ = fs::remove_file(&self.socket);
    }
}

impl Server {
    /// Listens, and hands each request on. The socket of a daemon that is gone is replaced; that of one that answers is
    /// an error.
    pub fn bind(socket: &Path, requests: mpsc::Sender<Request>) -> Result<Self, ControlError> {
        if let Some(pid) = running(socket)? {
            return Err(ControlError::AlreadyRunning { pid, socket: socket.to_owned() });
        }
        let io = |error| failed(socket, error);
        match fs::symlink_metadata(socket) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(socket).map_err(io)?,
            Ok(_) => return Err(ControlError::NotASocket(socket.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(directory) = socket.parent() {
            fs::create_dir_all(directory).map_err(io)?;
        }
        let listener = UnixListener::bind(socket).map_err(io)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(MODE)).map_err(io)?;

        let router = Router::new()
            .route(STATUS, get(status))
            .route(RELOAD, post(reload))
            .route(LEAVE, post(leave))
            .route(VRRP, get(vrrp))
            .route(HISTORY, get(history))
            .route(VIP_RELEASE, post(async |state, query| vip(VipAction::Release, state, query).await))
            .route(VIP_ACQUIRE, post(async |state, query| vip(VipAction::Acquire, state, query).await))
            .route(BACKEND, post(backend))
            .route(REBALANCE, post(rebalance))
            .fallback(async || refuse(StatusCode::NOT_FOUND, "no such path"))
            .method_not_allowed_fallback(async || {
                refuse(StatusCode::METHOD_NOT_ALLOWED, "no such method here")
            })
            .with_state(requests);
        let router = router.into_make_service_with_connect_info::<Asker>();
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the control socket is gone");
            }
        });
        Ok(Self { socket: socket.to_owned(), task })
    }
}

async fn status(State(requests): State<mpsc::Sender<Request>>) -> Response {
    match ask(&requests, Request::Status).await {
        Some(status) => Json(*status).into_response(),
        None => stopping(),
    }
}

async fn reload(State(requests): State<mpsc::Sender<Request>>) -> Response {
    match ask(&requests, Request::Reload).await {
        Some(answer) if answer.applied => Json(answer).into_response(),
        Some(answer) => (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response(),
        None => stopping(),
    }
}

async fn leave(State(requests): State<mpsc::Sender<Request>>) -> Response {
    match ask(&requests, Request::Leave).await {
        Some(answer) => Json(answer).into_response(),
        None => stopping(),
    }
}

async fn vrrp(State(requests): State<mpsc::Sender<Request>>) -> Response {
    match ask(&requests, Request::Vrrp).await {
        Some(status) => Json(status).into_response(),
        None => stopping(),
    }
}

async fn history(State(requests): State<mpsc::Sender<Request>>, RawQuery(query): RawQuery) -> Response {
    let (name, limit) = match queried_history(query.as_deref()) {
        Ok(asked) => asked,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    match ask(&requests, |reply| Request::History { name, limit, reply }).await {
        Some(history) => Json(history).into_response(),
        None => stopping(),
    }
}

async fn vip(
    action: VipAction,
    State(requests): State<mpsc::Sender<Request>>,
    RawQuery(query): RawQuery,
) -> Response {
    let name = match queried_name(query.as_deref()) {
        Ok(name) => name,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, &error),
    };
    match ask(&requests, |reply| Request::Vip { action, name, by: None, reply }).await {
        Some(answer) if answer.error.is_none() => Json(answer).into_response(),
        Some(answer) => (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response(),
        None => stopping(),
    }
}

async fn backend(
    ConnectInfo(asker): ConnectInfo<Asker>,
    State(requests): State<mpsc::Sender<Request>>,
    body: Bytes,
) -> Response {
    let order: BackendOrder = match read(&body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    let by = asker.name(order.by.as_deref()).await;
    match ask(&requests, |reply| Request::Backend { order, by, reply }).await {
        Some(answer) => answered(&answer, answer.error.is_none()),
        None => stopping(),
    }
}

async fn rebalance(State(requests): State<mpsc::Sender<Request>>, body: Bytes) -> Response {
    let order: RebalanceOrder = match read(&body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    match ask(&requests, |reply| Request::Rebalance(order, reply)).await {
        Some(answer) => answered(&answer, answer.error.is_none()),
        None => stopping(),
    }
}

/// Whoever asks need not say of what type a body is that can have only one.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|error| {
        Box::new(refuse(StatusCode::BAD_REQUEST, &format!("the body is not understood: {error}")))
    })
}

fn answered(answer: &impl Serialize, is_well: bool) -> Response {
    let code = if is_well { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    (code, Json(answer)).into_response()
}

/// Who is at the other end of the socket, as the kernel tells.
#[derive(Clone, Copy, Debug)]
struct Asker {
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Asker {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self { uid: stream.io().peer_cred().ok().map(|credentials| credentials.uid()) }
    }
}

impl Asker {
    /// The user's name; `on_behalf` is what the client says for whom that is.
    async fn name(self, on_behalf: Option<&str>) -> String {
        let name = match self.uid {
            Some(0) => "root".to_owned(),
            Some(uid) => {
                // A directory service may take its time to answer.
                let found = tokio::task::spawn_blocking(move || User::from_uid(Uid::from_raw(uid))).await;
                let user = found.ok().and_then(Result::ok).flatten();
                user.map_or_else(|| format!("uid {uid}"), |user| user.name)
            }
            None => "somebody".to_owned(),
        };
        match on_behalf.map(printable).filter(|other| !other.is_empty() && *other != name) {
            Some(other) => format!("{name} ({other})"),
            None => name,
        }
    }
}

/// What can be shown of a name that somebody says.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

async fn ask<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    requests.send(request(answer)).await.ok()?;
    answered.await.ok()
}

fn stopping() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping")
}

fn refuse(code: StatusCode, error: &str) -> Response {
    (code, Json(json!({ "error": error }))).into_response()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

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
            (
                r#"{"backend":"m1","action":"drain","deadline_s":5}"#,
                BackendAction::Drain { deadline_s: Some(5) },
            ),
            (r#"{"backend":"m1","action":"enable"}"#, BackendAction::Enable),
            (r#"{"backend":"m1","action":"weight","weight":7}"#, BackendAction::Weight { weight: Some(7) }),
            (r#"{"backend":"m1","action":"weight"}"#, BackendAction::Weight { weight: None }),
        ] {
            let order: BackendOrder = serde_json::from_str(text).expect(text);
            assert_eq!((order.backend.as_str(), order.action), ("m1", action));
        }
        for text in ["", "{}", r#"{"backend":"m1"}"#, r#"{"backend":"m1","action":"fly"}"#] {
            assert!(read::<BackendOrder>(&Bytes::from_static(text.as_bytes())).is_err(), "{text}");
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
}
