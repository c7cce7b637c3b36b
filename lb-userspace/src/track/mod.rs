//! What a VRRP instance depends on beside our own data plane: scripts, other interfaces, and witnesses.
//!
//! ```text
//!  script.rs, interface.rs -- result --> rise_fall.rs --> TrackState --> weight.rs --> Ok(priority) or Err(why Fault)
//!       (one task each)                                    (watch)
//!  witness.rs (a task per witness) -- answers --> answers.rs --> Ok, or Err(why not to take over from a silent router)
//! ```
//!
//! Pure: [`weight`], [`rise_fall`], [`echo`], [`answers`].

pub mod answers;
pub mod echo;
pub mod interface;
pub mod rise_fall;
pub mod running;
pub mod script;
pub mod weight;
pub mod witness;
