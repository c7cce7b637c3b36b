//! A backend for the tests: a real server on the loopback that behaves as it is told and writes down what it sees.
//!
//! HTTP is served by hyper's server and TLS by rustls' server side, so it is not our own code that judges our requests.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header::HeaderMap, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::{
    io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// Nothing in these tests takes that long unless it hangs.
pub const HANGS: Duration = Duration::from_secs(120);

/// Where nobody listens: a loopback address of its own, so that no other test is given the same port meanwhile.
pub fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.77.0.1", 0)).expect("a loopback port");
    listener.local_addr().expect("bound")
}

/// What the backend does with each connection.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// HTTP/1.1 with the current status.
    Http,
    /// Accepts, and never says a word.
    Silent,
    /// Closes at once.
    Slam,
    /// Sends these bytes at once, before TLS, and keeps the connection.
    Babble(&'static [u8]),
    /// Answers each request with these bytes.
    Bytes(Vec<u8>),
    /// Answers one request, then closes the connection while it is idle.
    CloseIdle(Vec<u8>),
    /// Answers one request, and closes when the second one comes.
    CloseOnSecond(Vec<u8>),
    /// Answers one request, and swallows all others.
    HangOnSecond(Vec<u8>),
    /// Answers with this head and a body without end.
    Endless(Vec<u8>),
}

/// How a TLS connection ended, seen from the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// close_notify, as it should be.
    CloseNotify,
    /// Anything else.
    Torn,
}

/// What the backend has seen.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// TCP connections.
    pub accepted: usize,
    /// TLS handshakes that failed: what an API server writes "TLS handshake error" about.
    pub handshake_errors: Vec<String>,
    /// Requests, with path and headers (`Behaviour::Http` only).
    pub requests: Vec<(String, HeaderMap)>,
    /// Connections over which a request or a handshake went, and how they ended.
    pub ended: Vec<End>,
}

/// A running server; stops when dropped.
pub struct FakeBackend {
    pub address: SocketAddr,
    log: watch::Receiver<Log>,
    status: watch::Sender<u16>,
    behaviour: watch::Sender<Behaviour>,
    /// Says to close all connections.
    kill: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for FakeBackend {
    fn drop(&mut self) {
        self.task.abort();
        self.kill.send_replace(());
    }
}

impl FakeBackend {
    pub async fn start(tls: Option<Arc<ServerConfig>>, behaviour: Behaviour) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST.into(), tls, behaviour).await
    }

    /// At another loopback address.
    pub async fn start_at(at: IpAddr, tls: Option<Arc<ServerConfig>>, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((at, 0)).await.expect("a loopback port");
        let address = listener.local_addr().expect("bound");
        let (log, log_rx) = watch::channel(Log::default());
        let (status, status_rx) = watch::channel(200);
        let (behaviour, behaviour_rx) = watch::channel(behaviour);
        let (kill, kill_rx) = watch::channel(());
        let log = Arc::new(log);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                log.send_modify(|log| log.accepted += 1);
                let (log, tls, status) = (Arc::clone(&log), tls.clone(), status_rx.clone());
                let behaviour = behaviour_rx.borrow().clone();
                let mut kill = kill_rx.clone();
                kill.borrow_and_update();
                tokio::spawn(async move {
                    tokio::select! {
                        () = accept(stream, tls, behaviour, status, &log) => {}
                        _ = kill.changed() => {}
                    }
                });
            }
        });
        Self { address, log: log_rx, status, behaviour, kill, task }
    }

    /// The status of further answers.
    pub fn set_status(&self, status: u16) {
        self.status.send_replace(status);
    }

    /// What happens on further connections.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// Cuts all connections (the listener goes on).
    pub fn cut(&self) {
        self.kill.send_replace(());
    }

    pub fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    /// Waits until the log says so.
    pub async fn until(&self, condition: impl FnMut(&Log) -> bool) -> Log {
        let mut log = self.log.clone();
        let found = timeout(HANGS, log.wait_for(condition)).await;
        found.expect("the backend sees it in time").expect("the backend runs").clone()
    }
}

async fn accept(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    behaviour: Behaviour,
    status: watch::Receiver<u16>,
    log: &watch::Sender<Log>,
) {
    match behaviour {
        Behaviour::Silent => {
            let _held = stream;
            std::future::pending::<()>().await;
        }
        Behaviour::Slam => {}
        Behaviour::Babble(bytes) => {
            let mut stream = stream;
            let _sent = stream.write_all(bytes).await;
            std::future::pending::<()>().await;
        }
        behaviour => match tls {
            None => serve(stream, behaviour, status, log).await,
            Some(config) => match TlsAcceptor::from(config).accept(stream).await {
                Ok(stream) => serve(stream, behaviour, status, log).await,
                Err(error) => log.send_modify(|log| log.handshake_errors.push(error.to_string())),
            },
        },
    }
}

async fn serve<S>(stream: S, behaviour: Behaviour, status: watch::Receiver<u16>, log: &watch::Sender<Log>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut end = None;
    let mut stream = Watched { stream, end: &mut end };
    match behaviour {
        Behaviour::Http => {
            let service = service_fn(|request: Request<Incoming>| {
                let path = request.uri().to_string();
                log.send_modify(|log| log.requests.push((path, request.headers().clone())));
                let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
                *response.status_mut() = (*status.borrow()).try_into().expect("a status");
                async { Ok::<_, std::convert::Infallible>(response) }
            });
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            let _end = connection.await;
        }
        Behaviour::Bytes(bytes) => {
            while read_head(&mut stream).await {
                let _sent = stream.write_all(&bytes).await;
            }
        }
        Behaviour::CloseIdle(bytes) => {
            if read_head(&mut stream).await {
                let _sent = stream.write_all(&bytes).await;
                let _closed = stream.shutdown().await;
            }
        }
        Behaviour::CloseOnSecond(bytes) => {
            if read_head(&mut stream).await {
                let _sent = stream.write_all(&bytes).await;
                if read_head(&mut stream).await {
                    let _closed = stream.shutdown().await;
                }
            }
        }
        Behaviour::HangOnSecond(bytes) => {
            if read_head(&mut stream).await {
                let _sent = stream.write_all(&bytes).await;
                while read_head(&mut stream).await {}
            }
        }
        Behaviour::Endless(head) => {
            if read_head(&mut stream).await && stream.write_all(&head).await.is_ok() {
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            }
        }
        Behaviour::Silent | Behaviour::Slam | Behaviour::Babble(_) => {}
    }
    log.send_modify(|log| log.ended.push(end.unwrap_or(End::Torn)));
}

/// Reads up to the empty line; false at the end of the connection.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return false,
        }
    }
    true
}

/// Notes how reading ended. rustls tells an end with close_notify (`Ok`, no bytes) from one without (`UnexpectedEof`).
struct Watched<'a, S> {
    stream: S,
    end: &'a mut Option<End>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if buf.filled().len() == before => *self.end = Some(End::CloseNotify),
            Poll::Ready(Err(_)) => *self.end = Some(End::Torn),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A CA with its files: `ca.pem`, and `client.pem` with `client.key`.
pub struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Pki {
    pub fn new() -> Self {
        Self::named("kubernetes")
    }

    pub fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let pki = Self { ca, dir: TempDir::new().expect("a directory") };
        pki.file("ca.pem", &pki.ca.pem());
        let (certificate, key) = pki.issue(&["checker"], ExtendedKeyUsagePurpose::ClientAuth);
        pki.file("client.pem", &certificate.pem());
        pki.file("client.key", &key.serialize_pem());
        pki
    }

    /// Where a file of the directory is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the directory.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a writable directory");
        path
    }

    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.ca).expect("a certificate"), key)
    }

    /// A server whose certificate carries `names`; `ask` demands a client certificate of this CA.
    pub fn server(&self, names: &[&str], ask: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions");
        let builder = if ask {
            let mut roots = RootCertStore::empty();
            roots.add(self.ca.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
        } else {
            builder.with_no_client_auth()
        };
        let (certificate, key) = self.issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Arc::new(builder.with_single_cert(vec![certificate.der().clone()], key).expect("a server"))
    }
}
