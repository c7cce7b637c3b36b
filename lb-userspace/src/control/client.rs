//! The command line's end of the control socket.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::protocol::{
    BACKEND, BackendAnswer, BackendOrder, LEAVE, LeaveAnswer, REBALANCE, RELOAD, RebalanceAnswer,
    RebalanceOrder, ReloadAnswer, STATUS, VIP_ACQUIRE, VIP_RELEASE, VRRP, VipAction, VipAnswer, history_path,
    name_query,
};
use crate::{
    history::History,
    status::{Status, VrrpStatus},
};

/// A daemon that takes longer than that is stuck; a reload waits for VRRP to hand over and for files to be read.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("xvip is not running (nobody answers on {})", .0.display())]
    NotRunning(PathBuf),
    /// The socket cannot be used.
    #[error("control socket {}: {error}", socket.display())]
    Io {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The daemon did not answer in time.
    #[error("the daemon did not answer within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The daemon said no.
    #[error("{0}")]
    Refused(String),
    /// The answer makes no sense.
    #[error("the daemon's answer was not understood: {0}")]
    Protocol(String),
}

/// What the daemon tells about itself.
pub async fn status(socket: &Path) -> Result<Status, ClientError> {
    let (code, body) = exchange(socket, Method::GET, STATUS, Bytes::new()).await?;
    if code != StatusCode::OK {
        return Err(refusal(code, &body));
    }
    parse(&body)
}

/// Lets the daemon read its configuration again.
pub async fn reload(socket: &Path) -> Result<ReloadAnswer, ClientError> {
    let (code, body) = exchange(socket, Method::POST, RELOAD, Bytes::new()).await?;
    match code {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => parse(&body),
        code => Err(refusal(code, &body)),
    }
}

/// Lets the daemon leave to a successor on this node. It may still be there for a moment.
pub async fn leave(socket: &Path) -> Result<LeaveAnswer, ClientError> {
    let (code, body) = exchange(socket, Method::POST, LEAVE, Bytes::new()).await?;
    if code != StatusCode::OK {
        return Err(refusal(code, &body));
    }
    parse(&body)
}

/// What the VRRP instances do.
pub async fn vrrp(socket: &Path) -> Result<Vec<VrrpStatus>, ClientError> {
    let (code, body) = exchange(socket, Method::GET, VRRP, Bytes::new()).await?;
    if code != StatusCode::OK {
        return Err(refusal(code, &body));
    }
    parse(&body)
}

/// What has happened lately: to whatever `name` means, or at all; the last `limit` events.
pub async fn history(socket: &Path, name: Option<&str>, limit: Option<u32>) -> Result<History, ClientError> {
    let (code, body) = exchange(socket, Method::GET, &history_path(name, limit), Bytes::new()).await?;
    if code != StatusCode::OK {
        return Err(refusal(code, &body));
    }
    parse(&body)
}

/// Lets the daemon hand VIPs over, or take them back: those that `name` means, or the only ones.
pub async fn vip(socket: &Path, action: VipAction, name: Option<&str>) -> Result<VipAnswer, ClientError> {
    let path = match action {
        VipAction::Release => VIP_RELEASE,
        VipAction::Acquire => VIP_ACQUIRE,
    };
    let path = name.map_or_else(|| path.to_owned(), |name| format!("{path}?{}", name_query(name)));
    let (code, body) = exchange(socket, Method::POST, &path, Bytes::new()).await?;
    match code {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => parse(&body),
        code => Err(refusal(code, &body)),
    }
}

/// Takes a backend out, or in again, or changes its weight.
pub async fn backend(socket: &Path, order: &BackendOrder) -> Result<BackendAnswer, ClientError> {
    post(socket, BACKEND, order).await
}

/// Plans a rebalance, and begins it.
pub async fn rebalance(socket: &Path, order: &RebalanceOrder) -> Result<RebalanceAnswer, ClientError> {
    post(socket, REBALANCE, order).await
}

async fn post<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    order: &impl Serialize,
) -> Result<T, ClientError> {
    let body = serde_json::to_vec(order).map_err(|error| ClientError::Protocol(error.to_string()))?;
    let (code, body) = exchange(socket, Method::POST, path, body.into()).await?;
    match code {
        StatusCode::OK | StatusCode::UNPROCESSABLE_ENTITY => parse(&body),
        code => Err(refusal(code, &body)),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|error| ClientError::Protocol(error.to_string()))
}

fn refusal(code: StatusCode, body: &[u8]) -> ClientError {
    let body: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let error = body.as_ref().and_then(|body| body.get("error")?.as_str());
    ClientError::Refused(error.map_or_else(|| code.to_string(), str::to_owned))
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), ClientError> {
    timeout(PATIENCE, talk(socket, method, path, body)).await.map_err(|_| ClientError::Timeout)?
}

async fn talk(
    socket: &Path,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning(socket.to_owned())
        }
        _ => ClientError::Io { socket: socket.to_owned(), error },
    })?;
    let protocol = |error: hyper::Error| ClientError::Protocol(error.to_string());
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path).header("host", "xvip").body(Full::new(body));
    let request = request.map_err(|error| ClientError::Protocol(error.to_string()))?;
    let answer = sender.send_request(request).await.map_err(protocol)?;
    let code = answer.status();
    let body = answer.into_body().collect().await.map_err(protocol)?.to_bytes();
    connection.abort();
    Ok((code, body))
}
