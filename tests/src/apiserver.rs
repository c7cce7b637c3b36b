//! A fake API server: the part of `kube-apiserver` that a load balancer can tell apart.
//!
//! | path | answer |
//! |---|---|
//! | `/readyz`, `/livez`, `/healthz` | `ok`; `/readyz` fails with 500 while `NAME.readyz-fail` exists in the control directory |
//! | `/version` | the version document of Kubernetes, with the server's name in `gitVersion` |
//! | `/api/v1/watch` | an endless stream, one [`WatchLine`] each 200 ms |
//! | `/echo` | the body of a POST, byte for byte, while it still arrives |
//! | `/bytes/N` | N bytes of [`pattern`] |
//! | `/lab/stats` | [`Stats`] |
//!
//! Every answer carries `x-served-by` (the server's name) and `x-peer` (the address and port that the server sees).
//! A connection that fails in its TLS handshake is logged in the words of the real server and counted.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::plain;

/// What the server logs once it accepts connections.
pub const READY: &str = "serving securely on";

/// How far apart the lines of a watch stream are.
pub const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// What a server needs to know.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The name that it tells in every answer.
    #[arg(long)]
    pub name: String,
    /// Where to listen.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Where to listen for the plain service (see [`crate::plain`]).
    #[arg(long)]
    pub plain: Option<SocketAddr>,
    /// Its certificate (PEM).
    #[arg(long)]
    pub certificate: PathBuf,
    /// Its private key (PEM).
    #[arg(long)]
    pub key: PathBuf,
    /// The directory in which a file `NAME.readyz-fail` makes `/readyz` fail.
    #[arg(long)]
    pub control: PathBuf,
}

/// One line of a watch stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchLine {
    /// The server that sends it.
    pub server: String,
    /// 0 for the first line of a stream, then one more for each.
    pub seq: u64,
}

/// What a server has counted since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The server.
    pub server: String,
    /// Connections accepted.
    pub connections: u64,
    /// Connections that ended before their TLS handshake did: what a careless health check causes.
    pub tls_handshake_errors: u64,
    /// Requests, those for [`Stats`] not included.
    pub requests: u64,
    /// Watch streams that are open now.
    pub open_watches: u64,
}

/// Byte number `index` of `/bytes/N`. Its period (65,521) is prime, so a segment that is lost or repeated shows.
#[must_use]
pub fn pattern(index: u64) -> u8 {
    let n = index % 65_521;
    (n ^ (n >> 8)) as u8
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

#[derive(Debug)]
struct Server {
    name: String,
    readyz_fail: PathBuf,
    connections: AtomicU64,
    tls_handshake_errors: AtomicU64,
    requests: AtomicU64,
    open_watches: AtomicU64,
}

/// Serves until the process ends.
///
/// # Errors
/// When the certificate is unusable or the address cannot be listened on.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let certificates = CertificateDer::pem_file_iter(&options.certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&options.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));

    let server = Arc::new(Server {
        readyz_fail: options.control.join(format!("{}.readyz-fail", options.name)),
        name: options.name,
        connections: AtomicU64::new(0),
        tls_handshake_errors: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        open_watches: AtomicU64::new(0),
    });
    if let Some(address) = options.plain {
        plain::raise_descriptor_limit();
        tokio::spawn(plain::serve(TcpListener::bind(address).await?, server.name.clone()));
    }
    let listener = TcpListener::bind(options.listen).await?;
    eprintln!("{}: {READY} {}", server.name, options.listen);
    loop {
        match listener.accept().await {
            Ok((socket, peer)) => {
                // A socket for both families shows an IPv4 client's address as one of IPv6.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                server.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve_connection(server.clone(), acceptor.clone(), socket, peer));
            }
            Err(error) => {
                // Out of descriptors, or a client that has gone already.
                eprintln!("{}: accept: {error}", server.name);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_connection(server: Arc<Server>, acceptor: TlsAcceptor, socket: TcpStream, peer: SocketAddr) {
    let _ = socket.set_nodelay(true);
    let stream = match acceptor.accept(socket).await {
        Ok(stream) => stream,
        Err(error) => {
            server.tls_handshake_errors.fetch_add(1, Ordering::Relaxed);
            let error = if error.kind() == io::ErrorKind::UnexpectedEof {
                "EOF".to_owned()
            } else {
                error.to_string()
            };
            eprintln!("{}: http: TLS handshake error from {peer}: {error}", server.name);
            return;
        }
    };
    let service = service_fn(|request| {
        let server = server.clone();
        async move { Ok::<_, Infallible>(server.answer(request, peer)) }
    });
    // An error is a client that went away in the middle, which is no news in this lab.
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Server {
    fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let (status, kind, body) = self.clone().route(&path, request);
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static(kind));
        for (name, value) in [("x-served-by", self.name.clone()), ("x-peer", peer.to_string())] {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
        response
    }

    fn route(self: Arc<Self>, path: &str, request: Request<Incoming>) -> (StatusCode, &'static str, Body) {
        const TEXT: &str = "text/plain; charset=utf-8";
        const JSON: &str = "application/json";
        const BINARY: &str = "application/octet-stream";
        if path == "/lab/stats" {
            return (StatusCode::OK, JSON, json(&self.stats()));
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        match path {
            "/readyz" if self.readyz_fail.exists() => {
                let text = "[+]ping ok\n[-]shutdown failed: reason withheld\nreadyz check failed\n";
                (StatusCode::INTERNAL_SERVER_ERROR, TEXT, full(text))
            }
            "/readyz" | "/livez" | "/healthz" => (StatusCode::OK, TEXT, full("ok")),
            "/version" => (StatusCode::OK, JSON, json(&self.version())),
            "/api/v1/watch" => (StatusCode::OK, JSON, self.watch()),
            "/echo" if request.method() == Method::POST => {
                (StatusCode::OK, BINARY, request.into_body().boxed_unsync())
            }
            _ => match path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
                Some(count) => (StatusCode::OK, BINARY, pattern_body(count)),
                None => (StatusCode::NOT_FOUND, TEXT, full("404 page not found\n")),
            },
        }
    }

    fn version(&self) -> serde_json::Value {
        serde_json::json!({
            "major": "1",
            "minor": "31",
            "gitVersion": format!("v1.31.0+{}", self.name),
            "gitCommit": "0000000000000000000000000000000000000000",
            "gitTreeState": "clean",
            "buildDate": "2024-08-13T07:37:34Z",
            "goVersion": "go1.22.5",
            "compiler": "gc",
            "platform": "linux/amd64",
        })
    }

    fn stats(&self) -> Stats {
        Stats {
            server: self.name.clone(),
            connections: self.connections.load(Ordering::Relaxed),
            tls_handshake_errors: self.tls_handshake_errors.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            open_watches: self.open_watches.load(Ordering::Relaxed),
        }
    }

    fn watch(self: Arc<Self>) -> Body {
        let open = OpenWatch::new(self);
        let mut interval = tokio::time::interval(WATCH_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let lines = stream::unfold((open, interval, 0), |(open, mut interval, seq)| async move {
            interval.tick().await;
            let mut line =
                serde_json::to_vec(&WatchLine { server: open.server.name.clone(), seq }).unwrap_or_default();
            line.push(b'\n');
            Some((Ok(Frame::data(Bytes::from(line))), (open, interval, seq + 1)))
        });
        StreamBody::new(lines).boxed_unsync()
    }
}

/// Counts an open watch for as long as its stream lives.
struct OpenWatch {
    server: Arc<Server>,
}

impl OpenWatch {
    fn new(server: Arc<Server>) -> Self {
        server.open_watches.fetch_add(1, Ordering::Relaxed);
        Self { server }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.server.open_watches.fetch_sub(1, Ordering::Relaxed);
    }
}

fn full(text: &'static str) -> Body {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn json(value: &impl Serialize) -> Body {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync()
}

fn pattern_body(count: u64) -> Body {
    const CHUNK: u64 = 16 * 1024;
    let chunks = stream::unfold(0, move |begin| async move {
        if begin >= count {
            return None;
        }
        let end = count.min(begin + CHUNK);
        let bytes: Vec<u8> = (begin..end).map(pattern).collect();
        Some((Ok(Frame::data(Bytes::from(bytes))), end))
    });
    StreamBody::new(chunks).boxed_unsync()
}
