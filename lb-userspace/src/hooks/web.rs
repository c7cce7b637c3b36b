//! Posting an event to a URL: one connection for each, since they are rare.

use std::{path::Path, sync::Arc};

use http_body_util::Full;
use hyper::{Request, Uri, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::spawn_blocking,
};
use tokio_rustls::TlsConnector;

/// Where distributions keep the certificates that everybody trusts: Debian, Red Hat, SUSE, Alpine.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Scheme, host and port of a URL, without what may be a secret.
pub(super) fn server_of(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let server = uri.and_then(|uri| Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?)));
    server.unwrap_or_default()
}

/// The host, the port, and whether TLS is spoken there.
fn endpoint(uri: &Uri) -> Option<(String, u16, bool)> {
    let host = uri.host()?.trim_matches(['[', ']']).to_owned();
    let is_https = uri.scheme_str() == Some("https");
    Some((host, uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }), is_https))
}

/// Posts JSON. An answer of 200 to 299 is a success, and its body is nobody's concern.
///
/// # Errors
/// Why it was not taken, in words.
pub(super) async fn post(url: &str, ca_file: Option<&Path>, body: Vec<u8>) -> Result<(), String> {
    let uri: Uri = url.parse().map_err(|_| "the URL cannot be read")?;
    let (host, port, is_https) = endpoint(&uri).ok_or("the URL has no host")?;
    let stream = TcpStream::connect((host.as_str(), port)).await;
    let stream = stream.map_err(|error| format!("no connection to {host} port {port}: {error}"))?;
    if !is_https {
        return send(stream, &uri, body).await;
    }
    let ca_file = ca_file.map(Path::to_owned);
    // Read each time: certificates are renewed.
    let config = spawn_blocking(move || trusting(ca_file.as_deref())).await;
    let config = config.map_err(|error| error.to_string())??;
    let name = ServerName::try_from(host).map_err(|_| "the host's name cannot be one of a certificate")?;
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    send(connected.map_err(|error| format!("TLS: {error}"))?, &uri, body).await
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    uri: &Uri,
    body: Vec<u8>,
) -> Result<(), String> {
    let error = |error: hyper::Error| format!("no answer: {error}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(error)?;
    let connection = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("xvip/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await;
    connection.abort();
    let status = answer.map_err(error)?.status();
    if status.is_success() { Ok(()) } else { Err(format!("status {}", status.as_u16())) }
}

/// Trusts what chains to a certificate in this file, or in the system's.
fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, String> {
    let system = || SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.exists());
    let file = ca_file.or_else(system).ok_or("this system has no certificates to trust: set ca_file")?;
    let unusable = |what: &dyn std::fmt::Display| format!("{}: {what}", file.display());
    let text = std::fs::read(file).map_err(|error| unusable(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
    if roots.is_empty() {
        return Err(unusable(&"holds no certificate"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_to_connect() {
        for (url, host, port, is_https) in [
            ("http://pager/x?token=1", "pager", 80, false),
            ("https://pager/", "pager", 443, true),
            ("https://pager:8443/", "pager", 8443, true),
            ("http://[fd10::1]/", "fd10::1", 80, false),
            ("http://[fd10::1]:81/", "fd10::1", 81, false),
        ] {
            let uri: Uri = url.parse().expect("a URL");
            assert_eq!(endpoint(&uri), Some((host.to_owned(), port, is_https)), "{url}");
        }
    }
}
