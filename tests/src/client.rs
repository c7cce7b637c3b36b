//! The client of the lab: a program that asks, checks the answers, and prints one [`Event`] per line.
//!
//! `load` opens a new connection each interval, whether or not the earlier ones have been answered, so that an
//! outage is seen from its first to its last millisecond and not rounded up to a client's own time-out. `watch`
//! keeps streams open and checks every line of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::apiserver::WatchLine;
use crate::plain::Direction;

/// What the client saw. Times are microseconds of the machine's monotonic clock, as [`monotonic_us`] reads it in
/// any process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A request was answered with 200 by a server that told its name.
    Answered {
        /// When the last byte of the answer was there.
        at_us: u64,
        /// Since the first SYN.
        took_us: u64,
        /// Who answered.
        server: String,
    },
    /// A request was not answered so.
    Failed {
        /// When that was certain.
        at_us: u64,
        /// Since the first SYN.
        took_us: u64,
        /// Why.
        error: String,
    },
    /// A watch stream has delivered its next line, and it was the expected one. Line 0 opens the stream.
    Line {
        /// When it was there.
        at_us: u64,
        /// Which of this client's streams.
        stream: u32,
        /// Who serves it.
        server: String,
        /// The number of the line.
        seq: u64,
    },
    /// A watch stream has ended, or delivered something else than the next line. It will be opened again.
    Broken {
        /// When.
        at_us: u64,
        /// Which of this client's streams.
        stream: u32,
        /// Why.
        error: String,
    },
    /// A bulk transfer has ended.
    Moved {
        /// When its last byte was there.
        at_us: u64,
        /// Since the first SYN.
        took_us: u64,
        /// Who served it.
        server: String,
        /// Which way the bytes went.
        direction: Direction,
        /// How many.
        bytes: u64,
        /// The hash of what was sent.
        sent: String,
        /// The hash of what was received.
        received: String,
    },
    /// All that was asked for has been done.
    Done {
        /// When.
        at_us: u64,
    },
}

/// How to ask.
#[derive(Debug, Clone, clap::Args)]
pub struct Target {
    /// What to ask for, `https://ADDRESS:PORT/PATH`.
    #[arg(long)]
    pub url: Uri,
    /// The certificate authority to trust (PEM).
    #[arg(long)]
    pub ca: PathBuf,
    /// Speak HTTP/2.
    #[arg(long)]
    pub http2: bool,
}

/// The request loop.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadOptions {
    /// How to ask.
    #[command(flatten)]
    pub target: Target,
    /// Milliseconds from one request to the next.
    #[arg(long, default_value_t = 20)]
    pub interval_ms: u64,
    /// Milliseconds after which a request has failed.
    #[arg(long, default_value_t = 1000)]
    pub timeout_ms: u64,
    /// Requests that may be open at once; at this limit the loop waits.
    #[arg(long, default_value_t = 100)]
    pub in_flight: usize,
    /// Stop after this many requests; 0: never.
    #[arg(long, default_value_t = 0)]
    pub count: u64,
}

/// Watch streams.
#[derive(Debug, Clone, clap::Args)]
pub struct WatchOptions {
    /// How to ask.
    #[command(flatten)]
    pub target: Target,
    /// How many streams.
    #[arg(long, default_value_t = 1)]
    pub streams: u32,
    /// Milliseconds without a line after which a stream counts as broken.
    #[arg(long, default_value_t = 10_000)]
    pub silence_ms: u64,
}

/// The machine's monotonic clock in microseconds.
#[must_use]
pub fn monotonic_us() -> u64 {
    // It cannot fail: the clock exists on every Linux.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    now.as_micros() as u64
}

/// Runs the request loop and prints an event for each request.
///
/// # Errors
/// When the authority's certificate cannot be used. A request that fails is an event.
pub async fn load(options: LoadOptions) -> anyhow::Result<()> {
    let client = Arc::new(Client::new(options.target)?);
    let places = Arc::new(Semaphore::new(options.in_flight));
    let limit = Duration::from_millis(options.timeout_ms);
    let mut ticks = interval(Duration::from_millis(options.interval_ms.max(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = 0;
    while options.count == 0 || asked < options.count {
        asked += 1;
        ticks.tick().await;
        let place = places.clone().acquire_owned().await?;
        let client = client.clone();
        tokio::spawn(async move {
            let begin = monotonic_us();
            let result = match timeout(limit, client.ask()).await {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("no answer within {limit:?}")),
            };
            let at_us = monotonic_us();
            let took_us = at_us - begin;
            print(&match result {
                Ok(server) => Event::Answered { at_us, took_us, server },
                Err(error) => Event::Failed { at_us, took_us, error: format!("{error:#}") },
            });
            drop(place);
        });
    }
    // All places are free again once all have been answered.
    let _all = places.acquire_many(options.in_flight.try_into()?).await?;
    print(&Event::Done { at_us: monotonic_us() });
    Ok(())
}

/// Keeps watch streams open for ever and prints an event for each line.
///
/// # Errors
/// When the authority's certificate cannot be used. A stream that breaks is an event.
pub async fn watch(options: WatchOptions) -> anyhow::Result<()> {
    let client = Arc::new(Client::new(options.target)?);
    let silence = Duration::from_millis(options.silence_ms);
    let mut tasks = tokio::task::JoinSet::new();
    for stream in 0..options.streams {
        let client = client.clone();
        tasks.spawn(async move {
            loop {
                let line = |server: &str, seq| {
                    let server = server.to_owned();
                    print(&Event::Line { at_us: monotonic_us(), stream, server, seq });
                };
                if let Err(error) = client.follow(silence, line).await {
                    print(&Event::Broken { at_us: monotonic_us(), stream, error: format!("{error:#}") });
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Prints what happened, on a line of its own.
pub(crate) fn print(event: &impl Serialize) {
    use std::io::Write;
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    // Whoever reads this has gone: so does the client.
    if std::io::stdout().lock().write_all(&line).is_err() {
        std::process::exit(0);
    }
}

pub(crate) struct Client {
    url: Uri,
    address: String,
    server_name: ServerName<'static>,
    tls: TlsConnector,
    http2: bool,
}

/// An answer, and the task that drives its connection.
struct Answer {
    response: Response<Incoming>,
    connection: JoinHandle<()>,
}

impl Client {
    pub(crate) fn new(target: Target) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&target.ca).context("--ca")? {
            roots.add(certificate.context("--ca")?)?;
        }
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        tls.alpn_protocols = vec![if target.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        // A resumed session would make later requests cheaper than a new client's.
        tls.resumption = rustls::client::Resumption::disabled();
        let host = target.url.host().context("--url has no host")?;
        let name = host.trim_matches(['[', ']']).to_owned();
        Ok(Self {
            address: format!("{host}:{}", target.url.port_u16().unwrap_or(443)),
            server_name: ServerName::try_from(name)?,
            url: target.url,
            tls: TlsConnector::from(Arc::new(tls)),
            http2: target.http2,
        })
    }

    /// One request on a connection of its own; the name of the server that answered.
    async fn ask(&self) -> anyhow::Result<String> {
        let Answer { response, connection } = self.request().await?;
        let status = response.status();
        let server = served_by(&response)?;
        response.into_body().collect().await.context("reading the answer")?;
        ensure!(status == 200, "{server} answered {status}");
        // Ends once the connection is closed properly, close_notify included.
        let _ = timeout(Duration::from_millis(200), connection).await;
        Ok(server)
    }

    /// Reads a watch stream until it breaks, or until nothing has come for `silence`; `each` is told the server and the
    /// number of each line.
    pub(crate) async fn follow(
        &self,
        silence: Duration,
        mut each: impl FnMut(&str, u64),
    ) -> anyhow::Result<()> {
        let Answer { response, connection } = timeout(silence, self.request()).await.context("opening")??;
        let _ends_with_us = AbortOnDrop(connection);
        ensure!(response.status() == 200, "answered {}", response.status());
        let server = served_by(&response)?;
        let mut body = response.into_body();
        let mut buffer = BytesMut::new();
        let mut expected = WatchLine { server: server.clone(), seq: 0 };
        loop {
            let Some(frame) = timeout(silence, body.frame()).await.context("silent")? else {
                bail!("ended after {} lines", expected.seq);
            };
            if let Ok(data) = frame.context("reading")?.into_data() {
                buffer.extend_from_slice(&data);
            }
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = buffer.split_to(end + 1);
                let got: WatchLine = serde_json::from_slice(&line).context("not a line of this stream")?;
                ensure!(got == expected, "expected {expected:?}, got {got:?}");
                each(&server, got.seq);
                expected.seq += 1;
            }
        }
    }

    async fn request(&self) -> anyhow::Result<Answer> {
        let socket = TcpStream::connect(&self.address).await.context("connecting")?;
        socket.set_nodelay(true)?;
        keep_alive(&socket)?;
        let stream = self.tls.connect(self.server_name.clone(), socket).await.context("TLS handshake")?;
        let request = Request::get(self.url.clone()).body(Empty::<Bytes>::new())?;
        if self.http2 {
            Self::request_http2(stream, request).await
        } else {
            Self::request_http1(stream, request).await
        }
    }

    async fn request_http1(
        stream: TlsStream<TcpStream>,
        mut request: Request<Empty<Bytes>>,
    ) -> anyhow::Result<Answer> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        // HTTP/1.1 has the host in a header and only the path in the request line.
        if let Some(host) = request.uri().authority() {
            let host = http::HeaderValue::from_str(host.as_str())?;
            request.headers_mut().insert("host", host);
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse()?;
        *request.uri_mut() = path;
        let response = sender.send_request(request).await.context("asking")?;
        Ok(Answer { response, connection })
    }

    async fn request_http2(
        stream: TlsStream<TcpStream>,
        request: Request<Empty<Bytes>>,
    ) -> anyhow::Result<Answer> {
        ensure!(stream.get_ref().1.alpn_protocol() == Some(b"h2"), "the server does not speak HTTP/2");
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.context("asking")?;
        Ok(Answer { response, connection })
    }
}

/// As `client-go` has it: a connection without a byte for 30 seconds is asked whether it lives. That is how a client
/// that only listens learns that nobody is there any more.
pub(crate) fn keep_alive(socket: &TcpStream) -> std::io::Result<()> {
    const TIME: Duration = Duration::from_secs(30);
    let every = TcpKeepalive::new().with_time(TIME).with_interval(TIME);
    SockRef::from(socket).set_tcp_keepalive(&every)
}

fn served_by(response: &Response<Incoming>) -> anyhow::Result<String> {
    let name = response.headers().get("x-served-by").context("the answer does not tell its server")?;
    Ok(name.to_str()?.to_owned())
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
