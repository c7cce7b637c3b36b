//! How a check speaks TLS: whom it trusts, and who it says it is.
//!
//! One provider (`ring`), TLS 1.2 and 1.3. Sessions are never resumed: a resumed handshake skips the certificate, which is
//! half of what a check is for.

use std::{fs, io, path::Path, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, UnixTime,
    pem::{self, PemObject},
};

use crate::config::model::{TlsVerify, Verify};

/// Why the files of a [`TlsVerify`] cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{}: not PEM: {source}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Where it stops being PEM.
        source: pem::Error,
    },
    /// PEM, but without what is needed.
    #[error("{}: holds no {what}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// "certificate" or "private key".
        what: &'static str,
    },
    /// A CA certificate that cannot be parsed, or a key that does not belong to its certificate.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// `verify = "ca"` without `ca_file`.
    #[error("verify = \"ca\" needs a ca_file")]
    NoCaFile,
    /// One of `client_cert` and `client_key` without the other.
    #[error("client_cert and client_key go together")]
    HalfClientCertificate,
    /// The provider refuses TLS 1.2 and 1.3: cannot happen with the one built in.
    #[error("TLS: {0}")]
    Provider(rustls::Error),
}

/// A client configuration for these checks; reads the files, once. `alpn` in order of preference, empty for none.
pub fn client_config(tls: &TlsVerify, alpn: &[&[u8]]) -> Result<ClientConfig, TlsFileError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls.verify {
        Verify::None => Arc::new(AnyCertificate(provider.signature_verification_algorithms)),
        Verify::Ca => verify_by_ca(tls.ca_file.as_deref().ok_or(TlsFileError::NoCaFile)?, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsFileError::Provider)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match (&tls.client_cert, &tls.client_key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates(cert)?;
            let key_der = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|source| match source {
                pem::Error::NoItemsFound => TlsFileError::Missing { path: key.clone(), what: "private key" },
                source => TlsFileError::Pem { path: key.clone(), source },
            })?;
            builder
                .with_client_auth_cert(chain, key_der)
                .map_err(|source| TlsFileError::Unusable { path: key.clone(), source })?
        }
        _ => return Err(TlsFileError::HalfClientCertificate),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn verify_by_ca(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, TlsFileError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsFileError::Unusable { path: path.to_owned(), source })?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    // Without revocation lists the only error left is an empty store, and `certificates` excludes that.
    match verifier {
        Ok(verifier) => Ok(verifier),
        Err(_) => Err(TlsFileError::Missing { path: path.to_owned(), what: "certificate" }),
    }
}

/// At least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFileError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|source| TlsFileError::Pem { path: path.to_owned(), source })?;
    if found.is_empty() {
        return Err(TlsFileError::Missing { path: path.to_owned(), what: "certificate" });
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    fs::read(path).map_err(|source| TlsFileError::Read { path: path.to_owned(), source })
}

/// `verify = "none"`: whose certificate it is does not matter, but the backend must hold its key. Without the signature
/// check a broken TLS stack would pass for a working one.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
