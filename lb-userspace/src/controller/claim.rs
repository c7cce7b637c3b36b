//! The claim on an interface: two daemons on one would take each other's addresses off for ever.
//!
//! It is a listening socket with an abstract name, since those are per network namespace, as interfaces are, and end
//! with their process. Anybody can bind such a name; only root's, and that of the user `xvip`, counts as another instance.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::Uid,
};
use tracing::warn;

use crate::privileges;

/// Why the claim was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another instance has it.
    #[error("xvip is already running on interface {interface} (pid {pid}); stop it first")]
    InUse {
        /// The interface.
        interface: String,
        /// The other process; 0 if it is in another process namespace.
        pid: i32,
    },
    /// The system refused.
    #[error("claiming interface {interface}: {error}")]
    Io {
        /// The interface.
        interface: String,
        /// Why.
        #[source]
        error: io::Error,
    },
}

/// Held while this process lives.
#[derive(Debug)]
pub struct Claim {
    _listener: Option<UnixListener>,
}

impl Claim {
    /// Claims an interface in the network namespace of the calling thread.
    pub fn take(interface: &str) -> Result<Self, ClaimError> {
        let io = |error| ClaimError::Io { interface: interface.to_owned(), error };
        let name = SocketAddr::from_abstract_name(format!("xvip/{interface}")).map_err(io)?;
        match UnixListener::bind_addr(&name) {
            Ok(listener) => Ok(Self { _listener: Some(listener) }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let other = UnixStream::connect_addr(&name).map_err(io)?;
                let other = getsockopt(&other, PeerCredentials).map_err(io::Error::from).map_err(io)?;
                if privileges::may_be_xvip(Uid::from_raw(other.uid())) {
                    return Err(ClaimError::InUse { interface: interface.to_owned(), pid: other.pid() });
                }
                warn!(
                    pid = other.pid(),
                    uid = other.uid(),
                    "an unprivileged process has the name of our claim"
                );
                Ok(Self { _listener: None })
            }
            Err(error) => Err(io(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        // Names are per namespace, not per test run.
        let interface = format!("test-{}", std::process::id());
        let first = Claim::take(&interface).expect("free");
        let error = Claim::take(&interface).expect_err("taken");
        assert!(
            matches!(error, ClaimError::InUse { pid, .. } if pid == std::process::id() as i32),
            "{error}"
        );
        drop(first);
        Claim::take(&interface).expect("free again");
    }
}
