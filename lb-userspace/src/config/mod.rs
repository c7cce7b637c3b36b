//! The configuration: what a file says, and what it means.
//!
//! `schema` reads a file's tables with `reader`, `agreement` compares them with each other, and what comes out is a
//! [`model::Config`] or a list of [`diagnostic::Diagnostic`]s: all of them, not the first.
mod agreement;
pub mod diagnostic;
pub mod effective;
pub(crate) mod hmac_secret;
pub(crate) mod kinds;
pub mod load;
pub mod model;
mod nearest;
pub mod parse;
mod pem;
mod reader;
mod schema;
mod sync_key;

pub use diagnostic::{Diagnostic, Problems, Severity};
pub use load::{LoadError, load};
pub use parse::{Checked, Facts, parse, parse_bytes};

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
