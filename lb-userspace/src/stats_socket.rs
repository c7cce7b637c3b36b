//! HAProxy's runtime socket (HAProxy 2.6, management.txt 9), for the scripts and monitors that speak its language: what they
//! ask is told from the daemon's status, and what they order is ordered as `xvip backend` would.
//!
//! ```text
//! bytes -> conversation (lines, words, prompt) -> command -> answer: figures of a status, or an order for the controller
//!                                                             |
//!                                    stat, info, servers <----+----> row, columns (the forms they are printed in)
//! ```
//!
//! All but `service`, which has the socket, is pure.

mod answer;
mod check;
mod columns;
mod command;
mod conversation;
mod info;
mod row;
mod servers;
mod service;
mod stat;

#[cfg(test)]
mod tests;

pub use self::{service::StatsSocketService, stat::show_stat};
