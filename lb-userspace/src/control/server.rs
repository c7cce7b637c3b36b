//! The daemon's end of the control socket.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{RawQuery, Request as HttpRequest, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{self, UnixListener},
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};

use super::{
    asker::Asker,
    limits::{BODY_AT_MOST, BODY_WITHIN, CONNECTION_WITHIN, HEAD_AT_MOST, HEAD_WITHIN, HEAR_WITHIN, Limits},
    protocol::{
        BACKEND, BackendOrder, HISTORY, LEAVE, REBALANCE, RELOAD, RebalanceOrder, Request, STATUS,
        VIP_ACQUIRE, VIP_RELEASE, VRRP, VipAction, queried_history, queried_name,
    },
};

/// Root and its group; a directory that gives its group to what is made in it (the setgid bit) lets others look.
const MODE: u32 = 0o660;
/// After the system has refused a connection (no file descriptor is left), before the next one is accepted.
const RESPITE: Duration = Duration::from_millis(100);
/// What one gets for whom there is no room: too many others of its kind have a connection.
const NO_ROOM: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 45\r\n\
                       connection: close\r\n\r\n{\"error\":\"too many connections at this time\"}";

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

        let limits = Limits::default();
        let router = router(requests, &limits);
        let task = tokio::spawn(accept(listener, router, limits));
        Ok(Self { socket: socket.to_owned(), task })
    }
}

fn router(requests: mpsc::Sender<Request>, limits: &Limits) -> Router {
    Router::new()
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
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, "no such method here"))
        .with_state(requests)
        .layer(from_fn_with_state(limits.clone(), admit))
}

/// Serves whoever connects, as long as it is polled.
async fn accept(listener: UnixListener, router: Router, limits: Limits) {
    // Ends them when this is dropped.
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let asker = Asker::of(&stream);
                match limits.connection(asker) {
                    Some(permit) => {
                        connections.spawn(serve(stream, router.clone().layer(Extension(asker)), permit));
                    }
                    None => {
                        if let Some(permit) = limits.turn_away() {
                            connections.spawn(turn_away(stream, permit));
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the control socket was not accepted");
                sleep(RESPITE).await;
            }
        }
    }
}

async fn serve(stream: net::UnixStream, router: Router, _permit: OwnedSemaphorePermit) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).max_buf_size(HEAD_AT_MOST);
    let connection = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    // Whoever is slow, stuck or talks nonsense has no answer, and nobody else would want to know.
    if let Ok(Err(error)) = timeout(CONNECTION_WITHIN, connection).await {
        tracing::debug!(%error, "a connection to the control socket broke");
    }
}

/// Whoever has not said everything yet must be able to, or the answer is lost with the connection.
async fn turn_away(mut stream: net::UnixStream, _permit: OwnedSemaphorePermit) {
    let told = async {
        stream.write_all(NO_ROOM.as_bytes()).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    // Whether it has heard it or not.
    let _ = timeout(HEAR_WITHIN, told).await;
}

/// Lets through what whoever asks may ask: everybody who can connect may look, and only root and the daemon's own user may
/// change something.
async fn admit(
    State(limits): State<Limits>,
    Extension(asker): Extension<Asker>,
    request: HttpRequest,
    next: Next,
) -> Response {
    // First, so that refusals cannot fill the log either.
    limits.turn(asker).await;
    if !request.method().is_safe() && !asker.is_master() {
        let name = asker.name(None).await;
        tracing::warn!(path = request.uri().path(), by = name, "refused: only root may change something");
        let error = format!("{name} may look, but only root may change something: use sudo, or become root");
        return refuse(StatusCode::FORBIDDEN, &error);
    }
    next.run(request).await
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
    Extension(asker): Extension<Asker>,
    State(requests): State<mpsc::Sender<Request>>,
    body: Body,
) -> Response {
    let order: BackendOrder = match read(body).await {
        Ok(order) => order,
        Err(response) => return *response,
    };
    let by = asker.name(order.by.as_deref()).await;
    match ask(&requests, |reply| Request::Backend { order, by, reply }).await {
        Some(answer) => answered(&answer, answer.error.is_none()),
        None => stopping(),
    }
}

async fn rebalance(State(requests): State<mpsc::Sender<Request>>, body: Body) -> Response {
    let order: RebalanceOrder = match read(body).await {
        Ok(order) => order,
        Err(response) => return *response,
    };
    match ask(&requests, |reply| Request::Rebalance(order, reply)).await {
        Some(answer) => answered(&answer, answer.error.is_none()),
        None => stopping(),
    }
}

async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Box<Response>> {
    match timeout(BODY_WITHIN, to_bytes(body, BODY_AT_MOST)).await {
        Ok(Ok(body)) => parse(&body),
        Ok(Err(error)) => {
            let error = format!("the body is longer than {BODY_AT_MOST} bytes, or broken off: {error}");
            Err(Box::new(refuse(StatusCode::PAYLOAD_TOO_LARGE, &error)))
        }
        Err(_) => Err(Box::new(refuse(StatusCode::REQUEST_TIMEOUT, "the body has not come in time"))),
    }
}

/// Whoever asks need not say of what type a body is that can have only one.
fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, Box<Response>> {
    serde_json::from_slice(body).map_err(|error| {
        Box::new(refuse(StatusCode::BAD_REQUEST, &format!("the body is not understood: {error}")))
    })
}

fn answered(answer: &impl Serialize, is_well: bool) -> Response {
    let code = if is_well { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    (code, Json(answer)).into_response()
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
mod tests;
