//! The certificate authority of one run, and the API servers' certificates that it signs.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Making or signing it failed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Writing it failed.
    #[error("cannot write a certificate: {0}")]
    Write(#[from] io::Error),
}

/// A certificate authority that exists for one run.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    path: PathBuf,
}

/// Where a server's certificate and key are, both PEM.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes one and writes its certificate to `ca.pem` in `dir`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(dir: &Path) -> Result<Self, CertificateError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "xvip lab CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let path = dir.join("ca.pem");
        fs::write(&path, issuer.pem())?;
        Ok(Self { issuer, path })
    }

    /// Its certificate (PEM), for `curl --cacert`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Signs a certificate for a server of that name, valid for these addresses and for the names that
    /// Kubernetes gives its API servers; writes `NAME.pem` and `NAME.key` beside the authority's.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn sign_server(
        &self,
        name: &str,
        addresses: &[IpAddr],
    ) -> Result<ServerCertificate, CertificateError> {
        let names = [name, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut params = CertificateParams::new(names.map(str::to_owned).to_vec())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.extend(addresses.iter().map(|address| SanType::IpAddress(*address)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let signed = params.signed_by(&key, &self.issuer)?;
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let files = ServerCertificate {
            certificate: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, signed.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }
}
