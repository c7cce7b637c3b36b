//! `[http]`: where the web page and the metrics are served, and to whom.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use schemars::JsonSchema;
use serde::Serialize;

use super::as_text;

/// Default of `http.path`.
pub const DEFAULT_HTTP_PATH: &str = "/";
/// Default of `http.session_lifetime`: a day's work.
pub const DEFAULT_SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Default of `http.hide_version`.
pub const DEFAULT_HIDE_VERSION: bool = false;
/// The most `[[http.user]]`.
pub const MAX_HTTP_USERS: usize = 64;

/// `[http]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Http {
    /// Where it listens; a VIP that this node does not have at the moment will do.
    pub listen: SocketAddr,
    /// The page's path, `/` or without a slash at its end; what belongs to the page is below it. `/metrics` and `/healthz` have
    /// no other place.
    pub path: String,
    /// What somebody sees who has not logged in.
    pub anonymous: Anonymous,
    /// TLS, with a certificate and its key; without it plain HTTP.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub tls: Option<HttpTls>,
    /// How long somebody stays logged in.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub session_lifetime: Duration,
    /// Whether the page says nothing of xvip's version to who has not logged in.
    pub hide_version: bool,
    /// `[[http.user]]`, in the file's order, with unique names; at most [`MAX_HTTP_USERS`].
    #[serde(rename = "user")]
    pub users: Vec<HttpUser>,
}

/// What somebody sees who has not logged in; each sees what the one before does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Anonymous {
    /// Only that the daemon lives.
    Nothing,
    /// The metrics: a Prometheus server mostly has no user.
    #[default]
    Metrics,
    /// The page, without what changes something.
    Viewer,
}

/// `http.cert_file` and `http.key_file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HttpTls {
    /// The certificate and those between it and its CA.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// What they hold.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub identity: TlsIdentity,
}

/// A certificate chain and the key of its first certificate. Not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

impl TlsIdentity {
    /// Of a chain and a key that belong together.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key: Arc::new(key) }
    }

    /// The certificates, the server's own first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity(..)")
    }
}

/// `[[http.user]]`: who may log in.
#[derive(Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HttpUser {
    /// Unique name, without a colon (RFC 7617 §2).
    pub name: String,
    /// The hash of the password, a PHC string that [`crate::password::check`] accepts.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub password_hash: String,
    /// What this user may do.
    pub role: Role,
}

impl std::fmt::Debug for HttpUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpUser").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// What a user may do; each may do what the one before may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Change what can be changed at run time.
    Admin,
}

impl Role {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Admin => "admin",
        }
    }
}
