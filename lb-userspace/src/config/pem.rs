//! Whether the bytes of a certificate, key or token file are what they should be.

use rustls::{RootCertStore, crypto::ring, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A bundle of at least one CA certificate.
pub(super) fn ca_bundle(bytes: &[u8]) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(bytes)? {
        roots
            .add(certificate)
            .map_err(|error| format!("holds a certificate that cannot be used: {error}"))?;
    }
    Ok(())
}

/// A certificate chain.
pub(super) fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(certificates) if certificates.is_empty() => Err("holds no certificate in PEM form".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(format!("is not PEM: {error}")),
    }
}

/// A private key.
pub(super) fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    // The library's error could quote what it did not understand, and this is a key.
    PrivateKeyDer::from_pem_slice(bytes).map_err(|_| "holds no private key in PEM form".to_owned())
}

/// That the key can sign and belongs to the chain's first certificate, which the key `certificate` of the file names.
pub(super) fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    certificate: &str,
) -> Result<(), String> {
    match CertifiedKey::from_der(chain, key, &ring::default_provider()) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => Err(format!("is not the key of `{certificate}`")),
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}

/// A bearer token (RFC 6750 §2.1), which has to fit on one header line.
pub(super) fn token(bytes: &[u8]) -> Result<(), String> {
    match bytes.trim_ascii() {
        [] => Err("is empty".to_owned()),
        token if token.iter().all(u8::is_ascii_graphic) => Ok(()),
        _ => Err("is not a single token".to_owned()),
    }
}
