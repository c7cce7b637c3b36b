//! A backend's last decisive check in HAProxy's words (management.txt 9.1, `check_status`). Pure.
//!
//! `status` tells it in words of our own, which are looked for here; the tests hold them against those who write them.

/// A result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check {
    /// `check_status`
    pub(super) word: &'static str,
    /// `srv_check_status`, the number of the word (`enum healthcheck_status`).
    pub(super) number: u8,
    /// `check_desc`
    pub(super) description: &'static str,
    /// `check_code`: the HTTP status, where there was one.
    pub(super) code: Option<u16>,
}

const fn check(word: &'static str, number: u8, description: &'static str) -> Check {
    Check { word, number, description, code: None }
}

const INI: Check = check("INI", 1, "Initializing");
const SOCKET_ERROR: Check = check("SOCKERR", 5, "Socket error");
const L4_OK: Check = check("L4OK", 6, "Layer4 check passed");
const L4_TIMEOUT: Check = check("L4TOUT", 7, "Layer4 timeout");
const L4_CONNECTION: Check = check("L4CON", 8, "Layer4 connection problem");
const L6_OK: Check = check("L6OK", 9, "Layer6 check passed");
const L6_TIMEOUT: Check = check("L6TOUT", 10, "Layer6 timeout");
const L6_RESPONSE: Check = check("L6RSP", 11, "Layer6 invalid response");
const L7_TIMEOUT: Check = check("L7TOUT", 12, "Layer7 timeout");
const L7_RESPONSE: Check = check("L7RSP", 13, "Layer7 invalid response");
const L7_OK: Check = check("L7OK", 15, "Layer7 check passed");
const L7_STATUS: Check = check("L7STS", 17, "Layer7 wrong status");

/// What `reason` says, the words for the check that made a backend `up`, `down` or `unknown`.
pub(super) fn check_of(state: &str, reason: &str) -> Check {
    let has = |part: &str| reason.contains(part);
    if let Some(rest) = reason.strip_prefix("status ") {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let result = if state == "up" { L7_OK } else { L7_STATUS };
        return Check { code: rest[..digits].parse().ok(), ..result };
    }
    match state {
        "unknown" => INI,
        "up" if has("TLS handshake") => L6_OK,
        "up" => L4_OK,
        _ if reason.starts_with("no answer within") => match () {
            () if has("(TLS handshake)") => L6_TIMEOUT,
            () if has("(HTTP response)") => L7_TIMEOUT,
            () => L4_TIMEOUT,
        },
        _ if reason.starts_with("this node cannot check") || reason.starts_with("token_file") => SOCKET_ERROR,
        _ if ["TLS: ", "TLS alert", "certificate: "].iter().any(|begin| reason.starts_with(begin)) => {
            L6_RESPONSE
        }
        _ if has("(TLS handshake)") => L6_RESPONSE,
        _ if has("(HTTP response)") || has("HTTP/1") || has("headers are too large") => L7_RESPONSE,
        _ => L4_CONNECTION,
    }
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use rustls::{AlertDescription, CertificateError};

    use super::*;
    use crate::health::{
        failure::{Phase, ProbeError},
        probe::Answer,
    };

    #[test]
    fn each_result_has_haproxy_s_word() {
        let after = Duration::from_secs(1);
        let timeout = |phase| ProbeError::Timeout { after, phase };
        for (error, word) in [
            (ProbeError::Refused, "L4CON"),
            (ProbeError::Unreachable(io::ErrorKind::HostUnreachable), "L4CON"),
            (timeout(Phase::Tcp), "L4TOUT"),
            (timeout(Phase::Tls), "L6TOUT"),
            (timeout(Phase::Http), "L7TOUT"),
            (ProbeError::Reset(Phase::Tcp), "L4CON"),
            (ProbeError::Reset(Phase::Tls), "L6RSP"),
            (ProbeError::Reset(Phase::Http), "L7RSP"),
            (ProbeError::Closed(Phase::Tls), "L6RSP"),
            (ProbeError::Closed(Phase::Http), "L7RSP"),
            (ProbeError::Tls(rustls::Error::HandshakeNotComplete), "L6RSP"),
            (ProbeError::Alert(AlertDescription::HandshakeFailure), "L6RSP"),
            (ProbeError::Certificate(CertificateError::Expired), "L6RSP"),
            (ProbeError::Status { got: 500, expected: vec![200] }, "L7STS"),
            (ProbeError::NotHttp("SSH-2.0".to_owned()), "L7RSP"),
            (ProbeError::HeadTooLarge, "L7RSP"),
            (ProbeError::Token { path: "/t".into(), reason: "gone".to_owned() }, "SOCKERR"),
            (ProbeError::Local("no descriptor".to_owned()), "SOCKERR"),
            (ProbeError::Broken { phase: Phase::Http, reason: "odd".to_owned() }, "L7RSP"),
        ] {
            assert_eq!(check_of("down", &error.to_string()).word, word, "{error}");
        }
        for (answer, word, code) in [
            (Answer::Connected, "L4OK", None),
            (Answer::Handshake, "L6OK", None),
            (Answer::Status(200), "L7OK", Some(200)),
        ] {
            let found = check_of("up", &answer.to_string());
            assert_eq!((found.word, found.code), (word, code), "{answer}");
        }
        assert_eq!(check_of("down", "status 503, expected 200").code, Some(503));
        assert_eq!(check_of("unknown", "not checked yet").word, "INI");
        assert_eq!(check_of("down", "status ").code, None);
    }
}
