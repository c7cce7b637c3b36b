//! The socket, the connections on it, and what each may take: room, time and bytes.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::{
    admission::Admission,
    passwords::locked,
    site::{Peer, Site},
    source::Source,
};
use crate::config::model::HttpTls;

/// The request line and the headers together, in bytes.
const LARGEST_HEAD: usize = 8192;
/// So many header lines.
const MOST_HEADERS: usize = 64;
/// A handshake, and the head of a request, also that of the next one on the connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A whole request, its body included, until its answer is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// A client that takes nothing of its answer for that long is gone.
const TAKEN_WITHIN: Duration = Duration::from_secs(15);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// Listens. An address that this node does not have (yet), such as a VIP that is elsewhere, will do (`IP_FREEBIND`, ip(7)).
/// One on `[::]` takes IPv4, too.
///
/// # Errors
/// The system's, mostly that somebody else listens there.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // What a predecessor's connections left in TIME_WAIT is not in the way.
    socket.set_reuse_address(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_freebind_v6(true)?;
            socket.set_only_v6(false)?;
        }
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// How TLS is spoken with this certificate.
///
/// # Errors
/// What is wrong with the certificate or its key; the configuration's reader has tried them before.
pub fn acceptor(tls: &HttpTls) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let chain = tls.identity.chain().to_vec();
    let mut config = config.with_no_client_auth().with_single_cert(chain, tls.identity.key())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A place among the connections; given back when dropped.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Mutex<Admission>>,
    source: Source,
}

impl Place {
    /// One for a connection from there, if there is one.
    pub fn take(admission: &Arc<Mutex<Admission>>, source: Source) -> Option<Self> {
        let entered = locked(admission).enter(source);
        entered.then(|| Self { admission: Arc::clone(admission), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.admission).leave(self.source);
    }
}

/// Answers what comes on a connection until it ends.
pub async fn serve(stream: TcpStream, place: Place, site: Arc<Site>, tls: Option<TlsAcceptor>) {
    let source = place.source;
    let peer = Peer { source, tls: tls.is_some() };
    // Answers are small, and written at once.
    let _best_effort = stream.set_nodelay(true);
    match tls {
        None => converse(stream, peer, site).await,
        Some(tls) => match timeout(HEAD_WITHIN, tls.accept(stream)).await {
            Ok(Ok(stream)) => converse(stream, peer, site).await,
            Ok(Err(error)) => debug!(%error, "no TLS handshake"),
            Err(_) => debug!("a TLS handshake took too long"),
        },
    }
    drop(place);
}

async fn converse(stream: impl AsyncRead + AsyncWrite, peer: Peer, site: Arc<Site>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKEN_WITHIN));
    let service = service_fn(move |request| {
        let site = Arc::clone(&site);
        async move {
            let answer = timeout(ANSWER_WITHIN, site.answer(peer, request)).await;
            Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(|_| too_slow()))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "a connection ended early");
    }
}

fn too_slow() -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(b"the request took too long\n")));
    *answer.status_mut() = StatusCode::REQUEST_TIMEOUT;
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}
