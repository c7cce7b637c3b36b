//! The connection log: a line of JSON for the beginning and the end of each connection of the services that want it, and
//! [`who`] had a NAT port then.
//!
//! ```text
//! FLOW_EVENTS (sync's reader, or our own), sweep, resets --Tap--> Work (thread) --looks up--> flow tables
//!                                                                  Book (pure) --Record--> Writer --> files, journal
//! ```
//!
//! Nobody ever waits for it: what does not fit the queue is dropped and counted, and a walk through the flow tables finds
//! what began meanwhile. So does the first walk of a daemon, which reads its predecessor's files first: what has ended since
//! gets its end then, and what has begun its start.

pub mod book;
pub mod files;
pub mod moment;
pub mod past;
pub mod record;
pub mod snapshot;
pub mod status;
pub mod tap;
pub mod who;
mod work;

pub use self::{
    tap::Tap,
    work::{LogThread, Settings},
};
