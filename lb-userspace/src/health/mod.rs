//! Health of the backends: what one check does, and what a row of results means.
//!
//! ```text
//! Monitor (one task per backend) -- check --> Probe --> result --> RiseFall --> Condition --> watch channel
//! ```
//!
//! [`rise_fall`] and [`tally`] are pure. [`probe`] and [`tls`] do one check; [`monitor`] repeats it and publishes the outcome.

pub mod failure;
pub mod monitor;
pub mod probe;
pub mod rise_fall;
pub mod tally;
pub mod tls;

#[cfg(test)]
mod fake_backend;
