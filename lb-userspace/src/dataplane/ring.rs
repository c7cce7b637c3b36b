//! Waiting for the ring buffers that the programs write.

use std::io;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};

/// A ring buffer that can be waited for. Needs a Tokio runtime with I/O.
///
/// # Errors
///
/// Where the system refuses to watch it.
pub fn watched(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring buffer owns its map, whose descriptor it returns each time and closes when it is dropped.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}

/// The same for the one that the programs log into.
///
/// # Errors
///
/// Where the system refuses to watch it.
pub fn watched_log<T>(log: EbpfLogger<T>) -> io::Result<AsyncFd<EbpfLogger<T>>> {
    // SAFETY: the logger owns a ring buffer; see above.
    unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) }.map_err(Into::into)
}
