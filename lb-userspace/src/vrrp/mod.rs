//! VRRP: codec, state machine, sockets, and the thread that joins them.
//!
//! ```text
//!             bytes                 Event, now
//!  socket.rs -------> advert.rs, auth.rs ---------> group.rs: fsm.rs, ...
//!      ^                                              |
//!      |                 adverts to send, deadline    |
//!      +---------------------- router.rs <------------+
//!                                  | watch<RouterStatus>: a level, latest value wins
//!                                  v
//!                    controller: addresses and announcements follow from it
//! ```
//!
//! Pure: all but `socket.rs` and `router.rs`.

pub mod advert;
pub mod auth;
pub(crate) mod frame;
pub mod fsm;
pub mod group;
pub mod lateness;
pub mod rivals;
pub mod router;
pub mod socket;
pub mod status;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod simulation;
