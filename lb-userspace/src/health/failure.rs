//! Why a check failed, in words for a log, and what that says about the backend's flows. Pure.

use std::{error::Error, fmt, io, path::PathBuf, time::Duration};

use rustls::{AlertDescription, CertificateError};

use super::rise_fall::DownKind;

/// How far a check had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// SYN sent, no SYN-ACK yet.
    Tcp,
    /// Connected; the TLS handshake is not complete.
    Tls,
    /// Connected (and the TLS handshake complete); no whole response head yet.
    Http,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP handshake",
            Self::Tls => "TLS handshake",
            Self::Http => "HTTP response",
        })
    }
}

/// Why a check failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProbeError {
    /// RST in answer to our SYN: the host lives, nobody listens.
    #[error("connection refused")]
    Refused,
    /// A router, or our own stack after unanswered ARP or without a route, says that it cannot be reached.
    #[error("unreachable: {0}")]
    Unreachable(io::ErrorKind),
    /// The check's time is up.
    #[error("no answer within {} ({phase})", humantime::format_duration(*.after))]
    Timeout {
        /// The configured `timeout`.
        after: Duration,
        /// What it was waiting for.
        phase: Phase,
    },
    /// RST after the TCP handshake.
    #[error("connection reset ({0})")]
    Reset(Phase),
    /// FIN before the answer.
    #[error("connection closed without an answer ({0})")]
    Closed(Phase),
    /// What came is not TLS, or not TLS as agreed.
    #[error("TLS: {0}")]
    Tls(rustls::Error),
    /// The backend ended TLS and said why.
    #[error("TLS alert from the backend: {}", alert_words(*.0))]
    Alert(AlertDescription),
    /// The backend's certificate does not pass `verify = "ca"`.
    #[error("certificate: {}", certificate_words(.0))]
    Certificate(CertificateError),
    /// An HTTP answer with another status.
    #[error("status {got}, expected {}", statuses(.expected))]
    Status {
        /// The status received.
        got: u16,
        /// `expect_status`.
        expected: Vec<u16>,
    },
    /// An answer that is not HTTP/1.
    #[error("not an HTTP/1 answer: {0}")]
    NotHttp(String),
    /// The answer's head is longer than we read.
    #[error("answer's headers are too large")]
    HeadTooLarge,
    /// Our token cannot be sent: a fault of this node.
    #[error("token_file {}: {reason}", path.display())]
    Token {
        /// The configured file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// This node cannot check (no file descriptor, no local port): a fault of this node.
    #[error("this node cannot check: {0}")]
    Local(String),
    /// Anything else that broke the connection.
    #[error("connection broke ({phase}): {reason}")]
    Broken {
        /// When it happened.
        phase: Phase,
        /// The system's or the library's words.
        reason: String,
    },
}

impl ProbeError {
    /// Whether this speaks for resetting the backend's flows.
    ///
    /// Dead is who gives no proof of life: no TCP, or TLS that breaks. Whoever answers over a working connection is not
    /// dead, even if the answer is useless to us. That includes certificates: with a CA that was renewed on one side
    /// only we must not send new clients, but a reset would cut off those it serves well. Faults of this node say
    /// nothing about the backend, and so must not cost anybody a connection either.
    pub fn kind(&self) -> DownKind {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::Timeout { .. }
            | Self::Reset(_)
            | Self::Closed(_)
            | Self::Tls(_)
            | Self::Broken { .. } => DownKind::Dead,
            Self::Alert(alert) if refuses_our_certificate(*alert) => DownKind::ShuttingDown,
            Self::Alert(_) => DownKind::Dead,
            Self::Certificate(_)
            | Self::Status { .. }
            | Self::NotHttp(_)
            | Self::HeadTooLarge
            | Self::Token { .. }
            | Self::Local(_) => DownKind::ShuttingDown,
        }
    }

    /// The kind of failure as one word, for counters.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::Reset(_) => "reset",
            Self::Closed(_) => "closed",
            Self::Tls(_) => "tls",
            Self::Alert(_) => "tls-alert",
            Self::Certificate(_) => "certificate",
            Self::Status { .. } => "status",
            Self::NotHttp(_) => "not-http",
            Self::HeadTooLarge => "head-too-large",
            Self::Token { .. } => "token",
            Self::Local(_) => "local",
            Self::Broken { .. } => "broken",
        }
    }

    /// What it says about the way to the backend: true where something came back from there, false where nothing did, as if
    /// this node had been cut off; `None` where nothing was sent. Over a kept connection no answer at all may come, however far
    /// the check had got before.
    pub(super) const fn was_heard(&self) -> Option<bool> {
        match self {
            Self::Timeout { .. } | Self::Unreachable(_) => Some(false),
            Self::Token { .. } | Self::Local(_) => None,
            Self::Refused
            | Self::Reset(_)
            | Self::Closed(_)
            | Self::Tls(_)
            | Self::Alert(_)
            | Self::Certificate(_)
            | Self::Status { .. }
            | Self::NotHttp(_)
            | Self::HeadTooLarge
            | Self::Broken { .. } => Some(true),
        }
    }

    /// From an error of the socket or of TLS over it.
    pub(super) fn from_io(error: &io::Error, phase: Phase) -> Self {
        if let Some(tls) = cause::<rustls::Error>(error) {
            return Self::from_tls(tls);
        }
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            kind @ (Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown) => {
                Self::Unreachable(kind)
            }
            Kind::ConnectionReset | Kind::ConnectionAborted => Self::Reset(phase),
            Kind::UnexpectedEof | Kind::BrokenPipe => Self::Closed(phase),
            _ => Self::Broken { phase, reason: error.to_string() },
        }
    }

    /// From an error of TLS.
    pub(super) fn from_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(why) => Self::Certificate(why.clone()),
            rustls::Error::AlertReceived(alert) => Self::Alert(*alert),
            other => Self::Tls(other.clone()),
        }
    }

    /// From an error of a request, or of the connection it was sent on.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if let Some(io) = cause::<io::Error>(error) {
            return Self::from_io(io, Phase::Http);
        }
        if error.is_parse_too_large() {
            return Self::HeadTooLarge;
        }
        if error.is_parse() {
            return Self::NotHttp(error.to_string());
        }
        if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            return Self::Closed(Phase::Http);
        }
        // `hyper` says so when bytes come that no request asked for; it has no predicate for that.
        Self::Broken { phase: Phase::Http, reason: error.to_string() }
    }
}

/// The first `T` among an error's causes, those wrapped into an [`io::Error`] included.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        // `io::Error::source` skips the error it wraps and gives that one's source.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Alerts of a backend that works and wants other credentials (RFC 8446 §6.2).
fn refuses_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as Alert;
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
    )
}

/// `CertificateRequired` as "certificate required".
fn alert_words(alert: AlertDescription) -> String {
    let mut words = String::new();
    let mut after_lower = false;
    for c in format!("{alert:?}").chars() {
        if c.is_uppercase() && after_lower {
            words.push(' ');
        }
        after_lower = c.is_lowercase();
        words.push(c);
    }
    let mut words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    for word in &mut words {
        // Abbreviations stay as they are: CA, PSK.
        if word.chars().skip(1).any(char::is_lowercase) {
            *word = word.to_lowercase();
        }
    }
    words.join(" ")
}

/// What is wrong with a certificate, without repeating that it is one.
fn certificate_words(error: &CertificateError) -> String {
    use CertificateError as E;
    match error {
        E::UnknownIssuer => "unknown issuer".into(),
        E::Expired | E::ExpiredContext { .. } => "expired".into(),
        E::NotValidYet | E::NotValidYetContext { .. } => "not valid yet".into(),
        E::Revoked => "revoked".into(),
        E::BadEncoding => "malformed".into(),
        // Kubernetes clusters name their CAs alike: that of another cluster is not "unknown", its signature is wrong.
        E::BadSignature => "bad signature (another CA with the same name?)".into(),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => "not meant for servers".into(),
        E::NotValidForName => "not valid for the backend's address".into(),
        E::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "no names".into() } else { presented.join(", ") };
            format!("not valid for {}; it names {names}", expected.to_str())
        }
        other => other.to_string(),
    }
}

fn statuses(expected: &[u16]) -> String {
    let words: Vec<String> = expected.iter().map(u16::to_string).collect();
    words.join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: rustls::Error) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    #[test]
    fn words_and_kinds() {
        use DownKind::*;
        let after = Duration::from_secs(1);
        let from_io = |kind: io::ErrorKind| ProbeError::from_io(&kind.into(), Phase::Tls);
        let from_tls = |error| ProbeError::from_io(&wrapped(error), Phase::Tls);
        let rows = [
            (from_io(io::ErrorKind::ConnectionRefused), "connection refused", Dead),
            (from_io(io::ErrorKind::HostUnreachable), "unreachable: host unreachable", Dead),
            (from_io(io::ErrorKind::ConnectionReset), "connection reset (TLS handshake)", Dead),
            (
                from_io(io::ErrorKind::UnexpectedEof),
                "connection closed without an answer (TLS handshake)",
                Dead,
            ),
            (ProbeError::Timeout { after, phase: Phase::Http }, "no answer within 1s (HTTP response)", Dead),
            (from_tls(CertificateError::UnknownIssuer.into()), "certificate: unknown issuer", ShuttingDown),
            (
                from_tls(rustls::Error::AlertReceived(AlertDescription::CertificateRequired)),
                "TLS alert from the backend: certificate required",
                ShuttingDown,
            ),
            (
                from_tls(rustls::Error::AlertReceived(AlertDescription::UnknownCA)),
                "TLS alert from the backend: unknown CA",
                ShuttingDown,
            ),
            (
                from_tls(rustls::Error::AlertReceived(AlertDescription::HandshakeFailure)),
                "TLS alert from the backend: handshake failure",
                Dead,
            ),
            (
                ProbeError::Status { got: 500, expected: vec![200, 204] },
                "status 500, expected 200 or 204",
                ShuttingDown,
            ),
            (
                ProbeError::Local("too many open files".into()),
                "this node cannot check: too many open files",
                ShuttingDown,
            ),
        ];
        for (error, words, kind) in rows {
            assert_eq!(error.to_string(), words);
            assert_eq!(error.kind(), kind, "{words}");
        }
    }
}
