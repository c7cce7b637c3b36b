//! VRRP: codec, state machine, sockets, and the thread that joins them.
//!
//! ```text
//!             bytes                 Event, now
//!  socket.rs -------> advert.rs ------------------> group.rs: fsm.rs, ...  (pure: advert.rs, group.rs, fsm.rs)
//!      ^                                              |
//!      |                 adverts to send, deadline    |
//!      +---------------------- router.rs <------------+
//!                                  | watch<RouterStatus>: a level, latest value wins
//!                                  v
//!                    controller: addresses and announcements follow from it
//! ```
pub mod advert;
pub mod fsm;
pub mod group;
pub mod router;
pub mod socket;

#[cfg(test)]
mod simulation;
