//! The command line: one file per subcommand.
pub mod backend;
pub mod capture;
pub mod check;
pub mod cleanup;
pub mod colour;
pub mod command;
pub mod doctor;
pub mod explain;
pub mod flows;
pub mod import;
pub mod password;
pub mod rebalance;
pub mod reload;
pub mod run;
pub mod schema;
pub mod status;
pub mod top;
pub mod trace;
pub mod vip;
pub mod who;

pub use command::command;
