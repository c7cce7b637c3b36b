//! One check of one backend.
//!
//! **TCP** connects and resets. The stack is asked to hold back the last ACK of the handshake, so the RST usually finds
//! the backend's kernel still waiting for it and the program there never hears of the check; HAProxy does the same.
//! A FIN instead would make every TLS server log a broken handshake, and leave a TIME_WAIT behind here for each check.
//!
//! **TLS** completes a handshake, says close_notify and waits a moment for the backend to close: in TLS 1.3 a backend
//! that does not like our certificate says so only after our side of the handshake is done. One that takes longer than
//! [`LINGER`] to say it passes; `https` has no such gap.
//!
//! **HTTP and HTTPS** ask over one kept connection, so that an API server sees one handshake and one orderly end.
//! - A kept connection that turns out to be broken is not a failure: servers may close idle ones at any time, also while
//!   our request is on its way (RFC 9112 §9.3.1; GET may be repeated). The same check goes on over a fresh one, and
//!   counts by what happens there.
//! - A kept connection on which nothing comes back is a failure: that is what a black hole looks like. It is thrown
//!   away, so the next check (at `fast_interval`) begins with a SYN.
//! - A kept connection proves nothing about the listener: a new client's SYN may be dropped while it lives on (a full
//!   accept queue, a packet filter). So every [`CHECKS_PER_CONNECTION`]th check uses a fresh one, and so does a check
//!   that the data plane asked for ([`Connection::Fresh`]). A dead process takes both with it. The old connection is
//!   closed in order once the new one has answered.
//!
//! The whole check, up to the end of the response head, has `timeout`. Afterwards at most [`LINGER`] goes into leaving
//! the connection in order: reading a small body to its end so that it can be kept.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{AUTHORIZATION, HOST, HeaderValue, USER_AGENT},
    http::Uri,
};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tracing::debug;

use super::{
    failure::{Phase, ProbeError},
    tls::{TlsFileError, client_config},
};
use crate::{certificate::not_after, config::model::Check};

/// A kept connection carries that many checks.
pub const CHECKS_PER_CONNECTION: u32 = 10;
/// How long a check, or the end of a connection, may go on after its result is known.
pub const LINGER: Duration = Duration::from_millis(250);
/// A longer body is not read to its end; the connection is closed instead.
pub const BODY_LIMIT: usize = 64 * 1024;
/// A longer response head fails the check.
pub const HEAD_LIMIT: usize = 64 * 1024;

/// Longer times in a configuration mean this one; it keeps sums of times in range.
pub(super) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const AGENT: &str = concat!("xvip/", env!("CARGO_PKG_VERSION"), " health");

/// Why a [`Probe`] cannot be made: always something in the configuration or in a file it names.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A certificate or key file.
    #[error(transparent)]
    Tls(#[from] TlsFileError),
    /// The path cannot stand in a request line.
    #[error("path {path:?}: {reason}")]
    Path {
        /// The configured path.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The token file cannot be read or holds no token.
    #[error("{0}")]
    Token(ProbeError),
    /// Checks run on a Tokio runtime, and there is none here.
    #[error("not inside a Tokio runtime")]
    NoRuntime,
}

/// Whether a check may use the kept connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// If there is one and it is not due for renewal.
    Kept,
    /// Never: the question is whether a new client gets through.
    Fresh,
}

/// What a backend said to a check that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SYN-ACK.
    Connected,
    /// A complete TLS handshake.
    Handshake,
    /// An expected status.
    Status(u16),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Handshake => f.write_str("TLS handshake complete"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

/// One finished check.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What it found.
    pub result: Result<Answer, ProbeError>,
    /// From the start of the check to its result.
    pub latency: Duration,
    /// When the certificate ends that the backend has shown; `None` where it has shown none.
    pub certificate: Option<SystemTime>,
}

/// Checks one backend, again and again. Dropping it closes its connection, in the background.
#[derive(Debug)]
pub struct Probe {
    backend: SocketAddr,
    timeout: Duration,
    method: Method,
    kept: Option<Exchange>,
}

#[derive(Debug)]
enum Method {
    Tcp,
    Tls(Tls),
    Http(Http),
}

/// How the backends of a service are checked: its certificates are read and prepared once, and not a thousand times for a
/// thousand backends.
#[derive(Clone, Debug)]
pub struct Recipe {
    timeout: Duration,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Tcp,
    Tls(Arc<ClientConfig>),
    Http {
        tls: Option<Arc<ClientConfig>>,
        path: String,
        expect_status: Vec<u16>,
        token_file: Option<PathBuf>,
    },
}

impl Recipe {
    /// Reads the certificates and keys that the check needs. `timeout` bounds each check.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn read(check: &Check, timeout: Duration) -> Result<Self, SetupError> {
        let kind = match check {
            Check::Tcp => Kind::Tcp,
            Check::Tls { tls } => Kind::Tls(Arc::new(client_config(tls, &[])?)),
            Check::Http { path, expect_status } => Kind::Http {
                tls: None,
                path: path.clone(),
                expect_status: expect_status.clone(),
                token_file: None,
            },
            Check::Https { path, expect_status, tls, token_file } => Kind::Http {
                tls: Some(Arc::new(client_config(tls, &[b"http/1.1"])?)),
                path: path.clone(),
                expect_status: expect_status.clone(),
                token_file: token_file.clone(),
            },
        };
        Ok(Self { timeout: timeout.min(LONGEST), kind })
    }
}

impl Probe {
    /// Of one backend; reads the token file, if there is one, to see that it can be used.
    pub fn new(recipe: &Recipe, backend: SocketAddr) -> Result<Self, SetupError> {
        let method = match &recipe.kind {
            Kind::Tcp => Method::Tcp,
            Kind::Tls(config) => Method::Tls(Tls::new(Arc::clone(config), backend)),
            Kind::Http { tls, path, expect_status, token_file } => {
                let tls = tls.as_ref().map(|config| Tls::new(Arc::clone(config), backend));
                Method::Http(Http::new(path, expect_status, tls, token_file.as_deref(), backend)?)
            }
        };
        Ok(Self { backend, timeout: recipe.timeout, method, kept: None })
    }

    /// Checks once. Takes at most `timeout` and [`LINGER`]; may be dropped half-way.
    pub async fn check(&mut self, connection: Connection) -> Outcome {
        let started = Instant::now();
        let limit = Limit { at: started + self.timeout, timeout: self.timeout };
        match &self.method {
            Method::Tcp => {
                let result = check_tcp(self.backend, limit).await.map(|()| Answer::Connected);
                Outcome { result, latency: started.elapsed(), certificate: None }
            }
            Method::Tls(tls) => {
                // Handshakes have large states, which each of a thousand checks would keep room for while it waits for its turn.
                let handshake = Box::pin(tls.connect(self.backend, limit)).await;
                let latency = started.elapsed();
                let certificate = handshake.as_ref().ok().and_then(certificate_of);
                let result = match handshake {
                    Ok(stream) => Box::pin(say_goodbye(stream)).await.map(|()| Answer::Handshake),
                    Err(error) => Err(error),
                };
                Outcome { result, latency, certificate }
            }
            Method::Http(http) => {
                let old = self.kept.take();
                let (reusable, old) = match connection {
                    Connection::Kept if old.as_ref().is_some_and(|old| old.used < CHECKS_PER_CONNECTION) => {
                        (old, None)
                    }
                    Connection::Kept | Connection::Fresh => (None, old),
                };
                let asked = Box::pin(http.ask(self.backend, reusable, limit)).await;
                let latency = started.elapsed();
                drop(old);
                let certificate = asked.as_ref().ok().and_then(|(exchange, _)| exchange.certificate);
                let result = match asked {
                    Ok((exchange, response)) => {
                        let status = response.status();
                        // A token may have expired: the next connection reads the file again.
                        if Box::pin(read_to_end(response.into_body())).await
                            && status != StatusCode::UNAUTHORIZED
                        {
                            self.kept = Some(exchange);
                        }
                        http.judge(status)
                    }
                    Err(error) => Err(error),
                };
                Outcome { result, latency, certificate }
            }
        }
    }

    /// Closes the kept connection, if any, and waits until the backend has been told; at most [`LINGER`].
    pub async fn close(mut self) {
        if let Some(exchange) = self.kept.take() {
            exchange.close().await;
        }
    }
}

/// When a check must have its answer.
#[derive(Clone, Copy)]
struct Limit {
    at: Instant,
    timeout: Duration,
}

impl Limit {
    async fn within<T>(self, phase: Phase, future: impl Future<Output = T>) -> Result<T, ProbeError> {
        timeout_at(self.at, future).await.map_err(|_| ProbeError::Timeout { after: self.timeout, phase })
    }
}

/// The one place where a socket for checks is made.
fn open_socket(backend: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match backend {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

async fn connect(socket: TcpSocket, backend: SocketAddr, limit: Limit) -> Result<TcpStream, ProbeError> {
    let connected = limit.within(Phase::Tcp, socket.connect(backend)).await?;
    let stream = connected.map_err(|error| connect_error(&error, backend, limit.timeout))?;
    // A backend on this host without a listener on an ephemeral port: TCP's simultaneous open may connect us to
    // ourselves (RFC 9293 §3.5).
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) if local == peer => Err(ProbeError::Refused),
        _ => Ok(stream),
    }
}

fn connect_error(error: &io::Error, backend: SocketAddr, timeout: Duration) -> ProbeError {
    // What ICMPv6 says of a packet filter on the way (`tab_unreach` in the kernel's net/ipv6/icmp.c). For IPv4, that is
    // "host unreachable", and this error is only from our own stack.
    if backend.is_ipv6() && error.raw_os_error() == Some(libc::EACCES) {
        return ProbeError::Unreachable(error.kind());
    }
    match error.kind() {
        // Our own stack's words for a problem on this side.
        io::ErrorKind::AddrNotAvailable
        | io::ErrorKind::AddrInUse
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::OutOfMemory => ProbeError::Local(error.to_string()),
        // A TCP handshake that is given up by the stack before our limit.
        io::ErrorKind::TimedOut => ProbeError::Timeout { after: timeout, phase: Phase::Tcp },
        _ => ProbeError::from_io(error, Phase::Tcp),
    }
}

async fn check_tcp(backend: SocketAddr, limit: Limit) -> Result<(), ProbeError> {
    let local = |error: io::Error| ProbeError::Local(error.to_string());
    let socket = open_socket(backend).map_err(local)?;
    let options = SockRef::from(&socket);
    options.set_linger(Some(Duration::ZERO)).map_err(local)?;
    options.set_tcp_quickack(false).map_err(local)?;
    connect(socket, backend, limit).await.map(drop)
}

async fn open_stream(backend: SocketAddr, limit: Limit) -> Result<TcpStream, ProbeError> {
    let socket = open_socket(backend).map_err(|error| ProbeError::Local(error.to_string()))?;
    connect(socket, backend, limit).await
}

struct Tls {
    connector: TlsConnector,
    /// The backend's address: what its certificate must name.
    name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tls {
    fn new(config: Arc<ClientConfig>, backend: SocketAddr) -> Self {
        Self { connector: TlsConnector::from(config), name: ServerName::IpAddress(backend.ip().into()) }
    }

    async fn connect(&self, backend: SocketAddr, limit: Limit) -> Result<TlsStream<TcpStream>, ProbeError> {
        let stream = open_stream(backend, limit).await?;
        limit
            .within(Phase::Tls, self.connector.connect(self.name.clone(), stream))
            .await?
            .map_err(|error| ProbeError::from_io(&error, Phase::Tls))
    }
}

/// When the certificate ends that the backend has shown.
fn certificate_of(stream: &TlsStream<TcpStream>) -> Option<SystemTime> {
    not_after(stream.get_ref().1.peer_certificates()?.first()?)
}

/// Says close_notify and waits for the other side's, or for an alert. Only an alert makes it an error: how a backend ends
/// a connection that carried nothing is its own affair.
async fn say_goodbye(mut stream: TlsStream<TcpStream>) -> Result<(), ProbeError> {
    let goodbye = async {
        stream.shutdown().await?;
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await? > 0 {}
        Ok::<_, io::Error>(())
    };
    match timeout(LINGER, goodbye).await {
        Ok(Err(error)) => match ProbeError::from_io(&error, Phase::Tls) {
            refused @ ProbeError::Alert(_) => Err(refused),
            _ => Ok(()),
        },
        Ok(Ok(())) | Err(_) => Ok(()),
    }
}

#[derive(Debug)]
struct Http {
    tls: Option<Tls>,
    path: Uri,
    host: HeaderValue,
    expect_status: Vec<u16>,
    token_file: Option<PathBuf>,
}

impl Http {
    fn new(
        path: &str,
        expect_status: &[u16],
        tls: Option<Tls>,
        token_file: Option<&Path>,
        backend: SocketAddr,
    ) -> Result<Self, SetupError> {
        let bad_path = |reason: String| SetupError::Path { path: path.to_owned(), reason };
        if !path.starts_with('/') {
            return Err(bad_path("must begin with /".into()));
        }
        // Without a scope id, which means nothing to the backend.
        let host = SocketAddr::new(backend.ip(), backend.port()).to_string();
        if let Some(file) = token_file {
            bearer(file, fs::read_to_string(file)).map_err(SetupError::Token)?;
        }
        Ok(Self {
            tls,
            path: path.parse().map_err(|error: hyper::http::uri::InvalidUri| bad_path(error.to_string()))?,
            host: HeaderValue::try_from(host).map_err(|error| bad_path(error.to_string()))?,
            expect_status: expect_status.to_vec(),
            token_file: token_file.map(Path::to_owned),
        })
    }

    fn judge(&self, status: StatusCode) -> Result<Answer, ProbeError> {
        let got = status.as_u16();
        if self.expect_status.contains(&got) {
            Ok(Answer::Status(got))
        } else {
            Err(ProbeError::Status { got, expected: self.expect_status.clone() })
        }
    }

    /// Asks over `kept`, or over a fresh connection if there is none or it is broken.
    async fn ask(
        &self,
        backend: SocketAddr,
        kept: Option<Exchange>,
        limit: Limit,
    ) -> Result<(Exchange, Response<Incoming>), ProbeError> {
        if let Some(kept) = kept {
            match kept.ask(self, limit).await {
                Err(error) if !matches!(error, ProbeError::Timeout { .. }) => {
                    debug!(%backend, %error, "kept connection is gone, trying a fresh one");
                }
                answer => return answer,
            }
        }
        let fresh = self.open(backend, limit).await?;
        fresh.ask(self, limit).await
    }

    async fn open(&self, backend: SocketAddr, limit: Limit) -> Result<Exchange, ProbeError> {
        let authorization = match &self.token_file {
            Some(file) => {
                Some(bearer(file, limit.within(Phase::Http, tokio::fs::read_to_string(file)).await?)?)
            }
            None => None,
        };
        match &self.tls {
            Some(tls) => {
                let stream = tls.connect(backend, limit).await?;
                let certificate = certificate_of(&stream);
                let exchange = Exchange::open(stream, authorization, limit).await?;
                Ok(Exchange { certificate, ..exchange })
            }
            None => Exchange::open(open_stream(backend, limit).await?, authorization, limit).await,
        }
    }
}

/// The `Authorization` header for the token that was read from `file` (RFC 6750 §2.1).
fn bearer(file: &Path, text: io::Result<String>) -> Result<HeaderValue, ProbeError> {
    let fault = |reason: String| ProbeError::Token { path: file.to_owned(), reason };
    let text = text.map_err(|error| fault(error.to_string()))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(fault("holds no token".into()));
    }
    // Not the token itself in the words: they go to the log.
    let mut value = HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| fault("holds something else than one token".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// One connection for requests, one after the other.
///
/// `driver` is a task of its own, so that a close by the backend is noticed, and answered, between checks. When this is
/// dropped, the driver sees `sender` and `hangup` go, and has [`LINGER`] to say close_notify.
#[derive(Debug)]
struct Exchange {
    sender: SendRequest<Empty<Bytes>>,
    hangup: oneshot::Sender<()>,
    driver: JoinHandle<Result<(), hyper::Error>>,
    authorization: Option<HeaderValue>,
    certificate: Option<SystemTime>,
    used: u32,
}

impl Exchange {
    async fn open<S>(stream: S, authorization: Option<HeaderValue>, limit: Limit) -> Result<Self, ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let handshake = http1::Builder::new().max_buf_size(HEAD_LIMIT).handshake(TokioIo::new(stream));
        let (sender, connection) = limit
            .within(Phase::Http, handshake)
            .await?
            .map_err(|error: hyper::Error| ProbeError::from_hyper(&error))?;
        let (hangup, mut hung_up) = oneshot::channel();
        let driver = tokio::spawn(async move {
            let mut connection = std::pin::pin!(connection);
            tokio::select! {
                end = &mut connection => return end,
                _ = &mut hung_up => {}
            }
            timeout(LINGER, connection).await.unwrap_or(Ok(()))
        });
        Ok(Self { sender, hangup, driver, authorization, certificate: None, used: 0 })
    }

    async fn ask(mut self, http: &Http, limit: Limit) -> Result<(Self, Response<Incoming>), ProbeError> {
        self.used += 1;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = http.path.clone();
        let headers = request.headers_mut();
        headers.insert(HOST, http.host.clone());
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(value) = &self.authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let answer = limit
            .within(Phase::Http, async {
                self.sender.ready().await?;
                self.sender.send_request(request).await
            })
            .await?;
        match answer {
            Ok(response) => Ok((self, response)),
            Err(error) => match ProbeError::from_hyper(&error) {
                // The connection ended before it took the request, and knows more (an alert, a reset).
                ProbeError::Closed(_) => {
                    drop(self.sender);
                    drop(self.hangup);
                    match self.driver.await {
                        Ok(Err(cause)) => Err(ProbeError::from_hyper(&cause)),
                        Ok(Ok(())) | Err(_) => Err(ProbeError::Closed(Phase::Http)),
                    }
                }
                known => Err(known),
            },
        }
    }

    async fn close(self) {
        drop(self.sender);
        drop(self.hangup);
        // The driver ends by itself in that time; an error at the end of a connection concerns nobody.
        let _ended = self.driver.await;
    }
}

/// Whether the body's end was reached, within [`BODY_LIMIT`] and [`LINGER`].
async fn read_to_end(mut body: Incoming) -> bool {
    let read = async {
        let mut seen = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > BODY_LIMIT {
                return false;
            }
        }
        true
    };
    timeout(LINGER, read).await.unwrap_or(false)
}

#[cfg(test)]
mod tests;
